"""A caller that goes away: the provider is told at once, nothing leaks, nobody is punished."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator, Mapping

import pytest
from asking import provider

from fallback.core.models import AttemptStarted, Delta
from fallback.router import AsyncAnswerStream, AsyncModelRouter, ModelRouter
from fallback.standin import Fault, StandInThread, Tenant
from fallback.testing import FakeClock, Reply, Script, ScriptedTransport, scripted_wiring
from fallback.wiring import Wiring

HANGS = {
    "before the headers": Fault(kind="hang"),
    "after the headers": Fault(kind="hang_after_headers"),
    "in the middle of the text": Fault(kind="stall", after_words=3),
}


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        yield server


@pytest.fixture
def tenant(standin: StandInThread) -> Iterator[Tenant]:
    tenant = standin.tenant("hanging")
    tenant.reset()
    yield tenant
    # Whose end comes later would be counted in the next test.
    assert tenant.wait_for(lambda counters: counters.in_flight == 0)


def wired(tenant: Tenant) -> tuple[Wiring, list[Mapping[str, object]]]:
    return scripted_wiring([provider("a", tenant.url), provider("b", tenant.url)], clock=FakeClock())


def check_ended(tenant: Tenant, wiring: Wiring, lines: list[Mapping[str, object]]) -> None:
    assert tenant.wait_for(lambda counters: counters.aborted == 1), "the provider was not told"
    assert tenant.wait_for(lambda counters: counters.in_flight == 0)
    roster = wiring.context.roster
    assert roster.permits_open == 0
    assert [status.state for status in roster.status(wiring.context.clock())] == ["ready", "ready"]
    assert [(line["kind"], line["outcome"]) for line in lines] == [
        ("attempt", "cancelled"),
        ("request", "cancelled"),
    ]


@pytest.mark.parametrize("where", HANGS)
def test_closing_a_stream_from_another_thread_ends_the_call_at_once(tenant: Tenant, where: str) -> None:
    tenant.always(HANGS[where])
    wiring, lines = wired(tenant)
    with ModelRouter(wiring) as router:
        stream = router.stream("Hi")
        reader = threading.Thread(target=lambda: list(stream), daemon=True)
        reader.start()
        assert tenant.wait_for(lambda counters: counters.in_flight == 1)
        stream.close()
        reader.join(timeout=5.0)
        assert not reader.is_alive()
        check_ended(tenant, wiring, lines)


def test_leaving_the_loop_over_a_stream_ends_the_call(tenant: Tenant) -> None:
    tenant.always(HANGS["in the middle of the text"])
    wiring, lines = wired(tenant)
    with ModelRouter(wiring) as router:
        with router.stream("Hi") as stream:
            next(event for event in stream if isinstance(event, Delta))
        check_ended(tenant, wiring, lines)
        assert "continues" not in lines[0], "what it said itself is nothing that it went on with"


def test_caller_who_leaves_a_continuation_is_logged_with_where_that_began(standin: StandInThread) -> None:
    first, second = standin.tenant("first of two"), standin.tenant("second of two")
    first.always(Fault(kind="cut", after_words=10))
    second.always(Fault(kind="stall", after_words=20))
    wiring, lines = scripted_wiring(
        [
            provider("a", first.url, supports_prefill=True),
            provider("b", second.url, supports_prefill=True),
        ],
        clock=FakeClock(),
    )
    with ModelRouter(wiring) as router, router.stream("Hi") as stream:
        next(event for event in stream if isinstance(event, Delta) and event.provider == "b")
    begun = len(" ".join(f"w{number}" for number in range(1, 11)))
    attempts = [line for line in lines if line["kind"] == "attempt"]
    assert [(line["outcome"], line.get("continues")) for line in attempts] == [
        ("stream_truncated", None),
        ("cancelled", begun),
    ]


def test_closing_the_router_ends_what_is_under_way(tenant: Tenant) -> None:
    tenant.always(HANGS["before the headers"])
    wiring, lines = wired(tenant)
    router = ModelRouter(wiring)
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            router.invoke("Hi")
        except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
            failures.append(error)

    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    assert tenant.wait_for(lambda counters: counters.in_flight == 1)
    router.close()
    asker.join(timeout=5.0)
    assert not asker.is_alive()
    assert str(failures[0]) == "the router is closing"
    check_ended(tenant, wiring, lines)


@pytest.mark.parametrize("where", HANGS)
@pytest.mark.parametrize("live", [True, False])
def test_cancelling_the_task_ends_the_call_at_once(tenant: Tenant, where: str, live: bool) -> None:
    tenant.always(HANGS[where])
    wiring, lines = wired(tenant)

    async def scenario() -> None:
        async with AsyncModelRouter(wiring) as router:

            async def ask() -> None:
                if not live:
                    await router.invoke("Hi")
                async with router.stream("Hi") as stream:
                    async for _ in stream:
                        pass

            task = asyncio.create_task(ask())
            assert await asyncio.to_thread(tenant.wait_for, lambda counters: counters.in_flight == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(check_ended, tenant, wiring, lines)

    asyncio.run(scenario())


async def begun(router: AsyncModelRouter) -> AsyncAnswerStream:
    """Return a stream whose first words have come."""
    stream = router.stream("Hi")
    async for event in stream:
        if isinstance(event, Delta):
            break
    return stream


def test_stream_that_is_left_lying_in_the_middle_ends_its_call(tenant: Tenant) -> None:
    tenant.always(HANGS["in the middle of the text"])
    wiring, lines = wired(tenant)

    async def scenario() -> None:
        async with AsyncModelRouter(wiring) as router:
            await begun(router)
            gc.collect()
            await asyncio.to_thread(check_ended, tenant, wiring, lines)

    asyncio.run(scenario())


def test_stream_that_is_collected_under_a_lock_waits_for_none(tenant: Tenant) -> None:
    tenant.always(HANGS["in the middle of the text"])
    wiring, lines = wired(tenant)
    with ModelRouter(wiring) as router:

        def leave() -> None:
            stream = router.stream("Hi")
            next(event for event in stream if isinstance(event, Delta))
            ring: list[object] = [stream]
            ring.append(ring)

        def collect() -> None:
            with wiring.context.roster._lock:  # as where an object is made in the middle of a decision
                gc.collect()

        leave()
        collector = threading.Thread(target=collect, daemon=True)
        collector.start()
        collector.join(timeout=10.0)
        assert not collector.is_alive()
    check_ended(tenant, wiring, lines)  # the end of the router waits for it


def test_stream_that_somebody_still_holds_ends_with_its_router(tenant: Tenant) -> None:
    tenant.always(HANGS["in the middle of the text"])
    wiring, lines = wired(tenant)

    async def scenario() -> AsyncAnswerStream:
        async with AsyncModelRouter(wiring) as router:
            stream = await begun(router)
        check_ended(tenant, wiring, lines)
        return stream

    held = asyncio.run(scenario())
    assert held.request_id == lines[0]["request_id"]


def test_one_task_at_a_time_waits_for_the_next_event(tenant: Tenant) -> None:
    tenant.always(HANGS["before the headers"])
    wiring, lines = wired(tenant)

    async def scenario() -> None:
        async with AsyncModelRouter(wiring) as router:
            stream = router.stream("Hi")
            assert isinstance(await anext(stream), AttemptStarted)
            waiting = asyncio.ensure_future(anext(stream))
            assert await asyncio.to_thread(tenant.wait_for, lambda counters: counters.in_flight == 1)
            with pytest.raises(RuntimeError, match="waited for already"):
                await anext(stream)
            with pytest.raises(RuntimeError, match="still waited for"):
                await stream.aclose()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await asyncio.to_thread(check_ended, tenant, wiring, lines)
            assert [event async for event in stream] == []
            await stream.aclose()

    asyncio.run(scenario())


def test_many_callers_that_leave_at_any_moment_leak_no_permit(tenant: Tenant) -> None:
    tenant.configure(first_token_s=0.02, per_token_s=0.001)
    wiring, _ = wired(tenant)

    async def scenario() -> None:
        async with AsyncModelRouter(wiring) as router:

            async def leave_after(delay_s: float) -> None:
                try:
                    async with asyncio.timeout(delay_s):
                        await router.invoke("Hi")
                except TimeoutError:
                    return

            await asyncio.gather(*(leave_after(0.001 * position) for position in range(100)))

    asyncio.run(scenario())
    assert wiring.context.roster.permits_open == 0


def test_many_threads_that_leave_at_any_moment_leak_no_permit(tenant: Tenant) -> None:
    tenant.configure(first_token_s=0.02, per_token_s=0.001)
    wiring, _ = wired(tenant)
    with ModelRouter(wiring) as router:
        streams = [router.stream("Hi") for _ in range(40)]
        readers = [threading.Thread(target=lambda s=stream: list(s), daemon=True) for stream in streams]
        for reader in readers:
            reader.start()
        for stream in streams:
            stream.close()
        for reader in readers:
            reader.join(timeout=10.0)
        assert not any(reader.is_alive() for reader in readers)
    assert wiring.context.roster.permits_open == 0


def test_a_caller_who_leaves_before_the_call_is_made_has_made_no_attempt() -> None:
    clock = FakeClock()
    wiring, lines = scripted_wiring(["a"], clock=clock)
    script = Script(clock).add("a", Reply.text("Hello"))
    with ModelRouter(wiring, transport=ScriptedTransport(script)) as router, router.stream("Hi") as stream:
        assert isinstance(next(stream), AttemptStarted)
    assert script.calls == []
    assert [(line["kind"], line["outcome"], line["attempts"]) for line in lines] == [
        ("request", "cancelled", 0)
    ]
    assert wiring.context.roster.permits_open == 0


def test_a_caller_who_leaves_at_any_event_leaks_no_permit_and_no_probe() -> None:
    for leave_at in range(12):
        clock = FakeClock()
        wiring, lines = scripted_wiring(["off", "a", "b"], clock=clock)
        roster = wiring.context.roster
        roster.set_enabled("off", False, by="test")
        script = (
            Script(clock).add("a", Reply.error_body(503), Reply.text("Hello")).add("b", Reply.text("Hi", "!"))
        )
        router = ModelRouter(wiring, transport=ScriptedTransport(script), sleep=clock.advance)
        router.invoke("Hi")
        clock.advance(11.0)  # now the next request sends a probe to a, and goes to b
        with router.stream("Hi") as stream:
            for _ in zip(range(leave_at), stream, strict=False):
                pass
        router.wait_for_probes()
        assert roster.permits_open == 0, f"left at event {leave_at}"
        if leave_at:
            ended = [line for line in lines if line["kind"] == "request"]
            assert len(ended) == 2
        else:
            router.invoke("Hi")
            router.wait_for_probes()
        assert router.invoke("Hi").provider == "a", "the probe was not given back"
        router.close()
