"""Work for a caller who may leave, in a program that may end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.types import Message, Scope

from fallback.api.attend import LINE_KEY, CallerGoneError, attended
from fallback.api.closing import Closing
from fallback.api.errors import Refusal


class Scene:
    """A caller, a program, and work that waits to be told its result."""

    def __init__(self) -> None:
        self.closing = Closing()
        self.result: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.leaves = asyncio.Event()
        self.cancelled = False
        self.scope: Scope = {"state": {}}

    async def receive(self) -> Message:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def work(self) -> str:
        try:
            return await self.result
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    async def begin(self) -> asyncio.Task[str]:
        task = asyncio.create_task(attended(self.work(), self.scope, self.receive, self.closing))
        await settled()
        return task


async def settled() -> None:
    """Let everything happen that is due."""
    for _ in range(5):
        await asyncio.sleep(0)


def play(course: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(10):
            await course(Scene())
        await settled()
        assert len(asyncio.all_tasks()) == 1  # nothing is left behind

    asyncio.run(run())


def test_work_that_ends_gives_its_result() -> None:
    async def course(scene: Scene) -> None:
        task = await scene.begin()
        scene.result.set_result("done")
        assert await task == "done"
        scene.closing.begin()  # is nobody's concern any more
        await settled()

    play(course)


def test_exception_of_the_work_comes_out_as_it_is() -> None:
    async def course(scene: Scene) -> None:
        task = await scene.begin()
        scene.result.set_exception(LookupError("x"))
        with pytest.raises(LookupError):
            await task

    play(course)


def test_caller_who_leaves_ends_the_work() -> None:
    async def course(scene: Scene) -> None:
        task = await scene.begin()
        scene.leaves.set()
        with pytest.raises(CallerGoneError):
            await task
        assert scene.cancelled
        assert task.cancelling() == 0

    play(course)


@pytest.mark.parametrize("before", [True, False])
def test_end_of_the_program_ends_the_work(before: bool) -> None:
    async def course(scene: Scene) -> None:
        if before:
            scene.closing.begin()
        task = await scene.begin()
        if not before:
            scene.closing.begin()
        with pytest.raises(Refusal) as caught:
            await task
        assert caught.value.error_type == "shutting_down"
        assert scene.cancelled

    play(course)


@pytest.mark.parametrize("ends_too", [False, True])
def test_cancellation_from_outside_stays_one_whatever_else_happens(ends_too: bool) -> None:
    async def course(scene: Scene) -> None:
        task = await scene.begin()
        if ends_too:
            scene.closing.begin()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert scene.cancelled

    play(course)


def test_request_can_be_worked_on_after_an_end() -> None:
    async def course(scene: Scene) -> None:
        async def whole() -> str:
            with pytest.raises(CallerGoneError):
                await attended(scene.work(), scene.scope, scene.receive, scene.closing)
            await asyncio.sleep(0)  # would raise, were the cancellation still pending
            return "said goodbye"

        task = asyncio.create_task(whole())
        await settled()
        scene.leaves.set()
        assert await task == "said goodbye"

    play(course)


def test_connection_that_cannot_be_watched_counts_as_left() -> None:
    async def course(scene: Scene) -> None:
        async def broken() -> Message:
            raise OSError("gone")

        with pytest.raises(CallerGoneError):
            await attended(scene.work(), {"state": {}}, broken, scene.closing)

    play(course)


class Wire:
    """A connection that tells of its own end."""

    is_received = True

    def __init__(self) -> None:
        self.watchers: list[Callable[[], None]] = []

    def watch(self, lost: Callable[[], None]) -> None:
        self.watchers.append(lost)

    def unwatch(self, lost: Callable[[], None]) -> None:
        self.watchers.remove(lost)


def test_connection_that_tells_of_its_end_is_watched_without_a_task_of_its_own() -> None:
    async def course(scene: Scene) -> None:
        wire = Wire()
        scene.scope["state"][LINE_KEY] = wire
        before = len(asyncio.all_tasks())
        task = await scene.begin()
        assert len(asyncio.all_tasks()) == before + 1
        wire.watchers[0]()
        with pytest.raises(CallerGoneError):
            await task
        assert scene.cancelled
        assert wire.watchers == []

    play(course)


def test_line_that_tells_too_late_cancels_nobody() -> None:
    async def course(scene: Scene) -> None:
        class LostBefore(Wire):
            def watch(self, lost: Callable[[], None]) -> None:
                super().watch(lost)
                asyncio.get_running_loop().call_soon(lost)

        scene.scope["state"][LINE_KEY] = LostBefore()

        async def request() -> str:
            scene.result.set_result("done")
            answer = await attended(scene.work(), scene.scope, scene.receive, scene.closing)
            await settled()
            return answer

        assert await asyncio.create_task(request()) == "done"

    play(course)


def test_connection_is_not_watched_after_the_work() -> None:
    async def course(scene: Scene) -> None:
        wire = Wire()
        scene.scope["state"][LINE_KEY] = wire
        task = await scene.begin()
        scene.result.set_result("done")
        assert await task == "done"
        assert wire.watchers == []

    play(course)
