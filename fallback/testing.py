"""Fakes for tests, of this program and of programs that use it: a clock that is set by hand, and scripted providers.

    clock = FakeClock()
    wiring, lines = scripted_wiring(["groq_llama", "together_llama"], clock=clock)
    script = Script(clock).add("groq_llama", Reply.error(429, {"retry-after": "30"})).add("together_llama", Reply.text("Hi"))
    router = ModelRouter(wiring, transport=ScriptedTransport(script), sleep=clock.advance)

Nothing here sleeps or opens a connection; time passes when the script says so.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from fallback.config import LogSettings, Settings
from fallback.core.errors import FailureKind, Phase, TransportError
from fallback.core.policy import RoutingPolicy
from fallback.providers.base import WireRequest
from fallback.providers.settings import ModelSettings, ProviderSettings
from fallback.state import MemoryStateStore
from fallback.transport import Cancellation, Head
from fallback.wiring import Wiring, assemble

__all__ = ["AsyncScriptedTransport", "FakeClock", "Reply", "Script", "ScriptedTransport", "scripted_wiring"]

EPOCH = 1_790_000_000.0


class FakeClock:
    """A clock that stands still until it is moved. Calling it returns its seconds; `wall` adds them to a fixed day."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the seconds it shows."""
        return self.now

    def wall(self) -> float:
        """Return Unix time."""
        return EPOCH + self.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now += max(0.0, seconds)

    async def advance_async(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.advance(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How a scripted provider answers one call: seconds until the headers, then the body, piece by piece.

    `body` holds bytes, and numbers for seconds that pass before the next piece. `error` ends it: before the headers
    where there is no status, at the end of the body otherwise.
    """

    status: int | None = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Sequence[bytes | float] = ()
    after_s: float = 0.0
    error: TransportError | None = None

    @staticmethod
    def text(*words: str, finish: str | None = "stop", done: bool = True, after_s: float = 0.0) -> Reply:
        """Return a stream of `words`, one event each, as OpenAI sends it."""
        body: list[bytes | float] = [_event({"content": word}, None) for word in words]
        if finish is not None:
            body.append(_event({}, finish))
        if done:
            body.append(b"data: [DONE]\n\n")
        return Reply(headers={"content-type": "text/event-stream"}, body=body, after_s=after_s)

    @staticmethod
    def error_body(
        status: int, headers: Mapping[str, str] | None = None, *, code: str | None = None, message: str = ""
    ) -> Reply:
        """Return an error in OpenAI's shape."""
        body = json.dumps({"error": {"message": message, "code": code}}).encode()
        return Reply(
            status=status, headers={"content-type": "application/json", **(headers or {})}, body=[body]
        )

    @staticmethod
    def broken(kind: FailureKind = FailureKind.CONNECTION, phase: Phase = Phase.CONNECT) -> Reply:
        """Return a call that ends without a response."""
        return Reply(status=None, error=TransportError(kind, phase, "scripted"))

    @staticmethod
    def silent() -> Reply:
        """Return a call that never gets a response."""
        return Reply(after_s=1e9)

    def then(self, *more: bytes | float, error: TransportError | None = None) -> Reply:
        """Return the same with more body, or with an error at its end."""
        return replace(self, body=(*self.body, *more), error=error)


def _event(delta: Mapping[str, Any], finish_reason: str | None) -> bytes:
    chunk = {"model": "scripted", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


class Script:
    """What each provider answers, call after call. The last reply of a provider is repeated for ever."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.calls: list[tuple[str, Mapping[str, Any]]] = []
        """(provider, body) of every call made."""
        self.open = 0
        """Responses that nobody has closed yet."""
        self._replies: defaultdict[str, deque[Reply]] = defaultdict(deque)

    def add(self, provider: str, *replies: Reply) -> Self:
        """Let `provider` answer with `replies`, in order."""
        self._replies[provider].extend(replies)
        return self

    def asked(self) -> list[str]:
        """Return the providers in the order in which they were called."""
        return [provider for provider, _ in self.calls]

    def begin(self, request: WireRequest, limit_s: float) -> _Scripted:
        """Play the next reply of a provider until its headers. Raises TransportError."""
        self.calls.append((request.provider, json.loads(request.body)))
        replies = self._replies[request.provider]
        reply = replies.popleft() if len(replies) > 1 else replies[0]
        if reply.after_s > limit_s:
            self.clock.advance(limit_s)
            raise TransportError(FailureKind.TIMEOUT, Phase.HEADERS, "no answer in time")
        self.clock.advance(reply.after_s)
        if reply.status is None:
            assert reply.error is not None, "a reply without a status needs an error"  # noqa: S101
            raise reply.error
        return _Scripted(reply.status, reply, self)


class _Scripted:
    def __init__(self, status: int, reply: Reply, script: Script) -> None:
        self.head = Head(status=status, headers=reply.headers)
        self._body = deque(reply.body)
        self._error = reply.error
        self._script = script
        self._open = True
        script.open += 1

    def read(self, limit_s: float) -> bytes:
        """Play the body on. Raises TransportError."""
        left_s = limit_s
        while self._body and isinstance(self._body[0], float | int):
            pause_s = float(self._body[0])
            if pause_s > left_s:
                self._body[0] = pause_s - left_s
                self._script.clock.advance(left_s)
                raise TransportError(FailureKind.TIMEOUT, Phase.BODY, "silence in the middle of the answer")
            self._body.popleft()
            self._script.clock.advance(pause_s)
            left_s -= pause_s
        if not self._body:
            if self._error is not None:
                raise self._error
            return b""
        piece = self._body.popleft()
        assert isinstance(piece, bytes)  # noqa: S101 - numbers were played above
        return piece

    def close(self) -> None:
        """Take note that nobody reads on."""
        self._script.open -= self._open
        self._open = False


class _AsyncScripted:
    def __init__(self, inner: _Scripted) -> None:
        self.head = inner.head
        self._inner = inner

    async def read(self, limit_s: float) -> bytes:
        """Play the body on. Raises TransportError."""
        return self._inner.read(limit_s)

    async def close(self) -> None:
        """Take note that nobody reads on."""
        self._inner.close()

    def abort(self) -> None:
        """Take note that nobody reads on."""
        self._inner.close()


class ScriptedTransport:
    """A transport for ModelRouter that plays a script."""

    def __init__(self, script: Script) -> None:
        self._script = script

    def send(
        self,
        request: WireRequest,
        *,
        connect_s: float,  # noqa: ARG002 - part of the protocol
        limit_s: float,
        cancellation: Cancellation | None = None,  # noqa: ARG002 - part of the protocol
    ) -> _Scripted:
        """Play the next reply of the provider."""
        return self._script.begin(request, limit_s)

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


class AsyncScriptedTransport:
    """A transport for AsyncModelRouter that plays a script."""

    def __init__(self, script: Script) -> None:
        self._script = script

    async def send(
        self,
        request: WireRequest,
        *,
        connect_s: float,  # noqa: ARG002 - part of the protocol
        limit_s: float,
    ) -> _AsyncScripted:
        """Play the next reply of the provider."""
        return _AsyncScripted(self._script.begin(request, limit_s))

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""


def scripted_wiring(
    providers: Sequence[str | ProviderSettings],
    *,
    clock: FakeClock,
    policy: RoutingPolicy | None = None,
    jitter: Callable[[], float] = lambda: 0.0,
    record: Callable[[Mapping[str, object]], object] | None = None,
) -> tuple[Wiring, list[Mapping[str, object]]]:
    """Return the wiring of `providers` (a name stands for one OpenAI-compatible model) and the list that it logs to.

    `record` is given every line of the log as it is written, instead of the list.
    """
    settings = Settings(
        providers=tuple(_provider(provider) for provider in providers),
        routing=policy or RoutingPolicy(),
        log=LogSettings(folder=Path("never-written")),
        source=Path("scripted.yaml"),
    )
    lines: list[Mapping[str, object]] = []
    wiring = assemble(
        settings,
        clock=clock,
        wall=clock.wall,
        jitter=jitter,
        record=record or lines.append,
        store=MemoryStateStore(),
    )
    return wiring, lines


def _provider(provider: str | ProviderSettings) -> ProviderSettings:
    if isinstance(provider, ProviderSettings):
        return provider
    return ProviderSettings(
        name=provider,
        type="openai",
        endpoint=f"http://{provider}.invalid/v1/chat/completions",
        models=(ModelSettings(name=f"{provider}-model"),),
        needs_key=False,
    )
