"""The stand-in server: connections, routes, and playing the steps of a response.

A request whose answer needs no waiting is answered inside data_received, with one write and no task. Any other one is
played by a task of its connection, while the connection goes on reading, so that a caller who goes away is noticed at
once. A caller who only shuts down its sending side counts as gone.
"""

import asyncio
import contextlib
import re
import socket
import struct
import time
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count
from types import TracebackType
from typing import Any, Self, assert_never
from urllib.parse import unquote

from fallback.standin.answers import Answer, compose, parse_body
from fallback.standin.broken import broken
from fallback.standin.cases import Case
from fallback.standin.control import PREFIX, control, json_response
from fallback.standin.dialects import DIALECTS, fill
from fallback.standin.faults import ANSWERLESS, Fault
from fallback.standin.refusals import RefusedError
from fallback.standin.settings import Settings
from fallback.standin.steps import Close, Exchange, Reset, Send, Step, Wait, good, instant
from fallback.standin.tenants import Tenant, Tenants
from fallback.standin.wire import BadRequestError, Request, RequestParser, head

_MAX_CONNECTIONS = 4096
_IDLE_S = 300.0
_SWEEP_S = 10.0
_LINGER_S = (
    2.0  # how long the rest of a refused request is read and dropped, so that the caller can read the answer
)
_TURNS_TO_ACCEPT = 4
"""Of the event loop, from a connection that is accepted to the protocol that knows of it, and one more."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: closing sends RST
_NO_ANSWER = Answer(model="standin-model", tokens=(), prompt_tokens=1)
_ROUTE = re.compile(r"(?:/(?P<tenant>.+?))??(?:/openai)?(?:/v1)?/(?P<api>chat/completions|inference|models)")


@lru_cache(maxsize=1024)
def route(target: str) -> tuple[str, str] | None:
    """Split a request target into tenant name and API ("chat/completions", "inference", "models"); None: neither."""
    match = _ROUTE.fullmatch(unquote(target.partition("?")[0]))
    return None if match is None else (match["tenant"] or "", match["api"])


class StandIn:
    """A stand-in provider server on the running event loop: `async with StandIn() as standin: ...`.

    `port` 0 takes a free one. `settings` are those of every new tenant; `cases` are the recorded responses that the control
    API may name. `tenant()` may be called from any thread. OSError when the port is taken.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        settings: Settings | None = None,
        cases: Mapping[str, Case] | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.cases = dict(cases or {})
        self.tenants = Tenants(settings or Settings(), lambda: self.base_url)
        self.serials = count(1)
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._all_gone = asyncio.Event()

    @property
    def base_url(self) -> str:
        """Give http://host:port."""
        return f"http://{self.host}:{self.port}"

    def tenant(self, name: str = "", **settings: Any) -> Tenant:
        """Give the tenant of that name; settings (fields of Settings), if given, become its first ones."""
        tenant = self.tenants.get(name)
        if settings:
            tenant.begin_with(**settings)
        return tenant

    async def start(self) -> None:
        """Listen; `port` is the real one afterwards."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), self.host, self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        self._sweep = loop.call_later(_SWEEP_S, self._close_idle)

    async def stop(self) -> None:
        """Stop listening and end every connection at once, hanging ones too."""
        if self._server is None:
            return
        await self._close_door(self._server)
        if self._sweep is not None:
            self._sweep.cancel()
        self._all_gone.clear()
        tasks = [connection.task for connection in self.connections if connection.task is not None]
        for connection in list(self.connections):
            connection.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.connections:
            await self._all_gone.wait()
        await self._server.wait_closed()
        self._server = None

    async def _close_door(self, server: asyncio.Server) -> None:
        """Accept nobody any more. Who was accepted just now is known afterwards.

        A server that is closed between the two leaves a connection behind that nobody ends, and an AssertionError in the log
        (https://github.com/python/cpython/issues/109564).
        """
        loop = asyncio.get_running_loop()
        with contextlib.suppress(NotImplementedError):  # where no sockets are waited for, as on Windows
            for each in server.sockets:
                loop.remove_reader(each.fileno())
        for _ in range(_TURNS_TO_ACCEPT):
            await asyncio.sleep(0)
        server.close()

    def forget(self, connection: "_Connection") -> None:
        """Take a connection that is gone off the list."""
        self.connections.discard(connection)
        if not self.connections:
            self._all_gone.set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _close_idle(self) -> None:
        loop = asyncio.get_running_loop()
        for connection in list(self.connections):
            if connection.task is None and loop.time() - connection.last_heard_s > _IDLE_S:
                connection.abort()
        self._sweep = loop.call_later(_SWEEP_S, self._close_idle)


class _Connection(asyncio.Protocol):
    """One connection: reads requests and answers them one after the other."""

    def __init__(self, standin: StandIn) -> None:
        self._standin = standin
        self._loop = asyncio.get_running_loop()
        self._parser = RequestParser()
        self._tenants_seen: set[str] = set()
        self._writable = asyncio.Event()
        self._writable.set()
        self._refused = False  # what comes in is dropped from then on
        self._stopped = False
        self._transport: asyncio.Transport
        self.task: asyncio.Task[None] | None = None
        self.last_heard_s = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - create_server gives no other kind
        self._transport = transport
        # Writing is paused until everything is with the kernel, so an answer ends when it has really left.
        transport.set_write_buffer_limits(high=0)
        self._standin.connections.add(self)
        if len(self._standin.connections) > _MAX_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason makes no difference
        self._standin.forget(self)
        if self.task is not None:
            self.task.cancel()

    def eof_received(self) -> None:
        if self.task is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self.last_heard_s = self._loop.time()
        if self._refused:
            return
        try:
            self._parser.feed(data)
            self._next()
        except BadRequestError as error:
            self._refuse(error)

    def abort(self) -> None:
        """End the connection at once."""
        self._stopped = True
        self._transport.abort()
        if self.task is not None:
            self.task.cancel()

    def _next(self) -> None:
        while self.task is None and not self._transport.is_closing():
            request = self._parser.next_request()
            if request is None:
                if self._parser.wants_continue:
                    self._parser.wants_continue = False
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return
            self._serve(request)

    def _refuse(self, error: BadRequestError) -> None:
        self._refused = True
        if self.task is not None:
            self._transport.abort()
            return
        self._transport.write(
            json_response(error.status, {"error": {"message": error.message}}, keep_alive=False)
        )
        self._transport.write_eof()
        self._loop.call_later(_LINGER_S, self._transport.abort)

    def _serve(self, request: Request) -> None:
        if request.target.startswith(PREFIX):
            self._answer(control(request, self._standin.tenants, self._standin.cases), request)
            return
        found = route(request.target)
        if found is None:
            self._answer(_refusal(request, 404, f"no such path: {request.method} {request.target}"), request)
            return
        name, api = found
        try:
            tenant = self._standin.tenants.get(name)
        except LookupError as error:
            self._answer(_refusal(request, 404, str(error)), request)
            return
        if request.method != ("GET" if api == "models" else "POST"):
            self._answer(_refusal(request, 405, f"{request.method} is not allowed here"), request)
        elif api == "models":
            self._answer(_models(request, tenant.settings), request)
        else:
            self._complete(request, tenant, legacy=api == "inference")

    def _answer(self, data: bytes, request: Request) -> None:
        self._transport.write(data)
        if not request.keep_alive:
            self._transport.close()
        elif not self._writable.is_set():
            self.task = self._loop.create_task(self._drained())

    async def _drained(self) -> None:
        await self._writable.wait()
        self.task = None
        self._proceed()

    def _proceed(self) -> None:
        try:
            self._next()
        except BadRequestError as error:
            self._refuse(error)

    def _complete(self, request: Request, tenant: Tenant, *, legacy: bool) -> None:
        serial = next(self._standin.serials)
        try:
            body = parse_body(request.body, legacy=legacy)
        except RefusedError as error:
            self._answer(_dialect_error(request, tenant.settings, serial, error), request)
            return
        if body.get("stream") and request.is_http_10:
            self._answer(_refusal(request, 505, "streams need HTTP/1.1"), request)
            return
        new = tenant.name not in self._tenants_seen
        self._tenants_seen.add(tenant.name)
        fault = tenant.begin(request, new_connection=new)
        asked = _Asked(request, tenant, tenant.settings, body, fault, serial)
        if asked.settings.reply is not None:
            self._start(self._reply(asked), asked)
            return
        response = _respond(asked)
        if isinstance(response, bytes):
            tenant.end(aborted=False)
            self._answer(response, request)
        else:
            self._start(self._play(response), asked)

    def _start(self, playing: Coroutine[Any, Any, None], asked: "_Asked") -> None:
        self.task = self._loop.create_task(playing)
        # A callback and not a finally: a task that is cancelled before its first step runs no finally.
        self.task.add_done_callback(partial(self._finished, asked))

    def _finished(self, asked: "_Asked", task: asyncio.Task[None]) -> None:
        self.task = None
        asked.tenant.end(aborted=task.cancelled() and not self._stopped)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._loop.call_exception_handler({"message": "the answer could not be made", "exception": error})
            self._transport.abort()
        elif not asked.request.keep_alive:
            self._transport.close()
        else:
            self._proceed()

    async def _reply(self, asked: "_Asked") -> None:
        assert asked.settings.reply is not None  # noqa: S101 - why this was called
        reply = asked.settings.reply(asked.body)
        text = reply if isinstance(reply, str) else await reply
        response = _respond(asked, text)
        await self._play([Send(response)] if isinstance(response, bytes) else response)

    async def _play(self, steps: Iterable[Step]) -> None:
        # Waits are counted from when the one before was due, so that small delays do not add up to larger ones.
        due_s = self._loop.time()
        rest = iter(steps)
        step = next(rest, None)
        while step is not None:
            following = next(rest, None)
            match step:
                case Send():
                    self._transport.write(step.data)
                    # Not after the last one: a caller who has it all and leaves has not gone away in mid-answer.
                    if following is not None:
                        await asyncio.sleep(0)
                    await self._writable.wait()
                case Wait():
                    due_s += step.seconds
                    await asyncio.sleep(max(0.0, due_s - self._loop.time()))
                case Close():
                    self._transport.close()
                    return
                case Reset():
                    self._transport.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE
                    )
                    self._transport.abort()
                    return
                case _:
                    assert_never(step)
            step = following


@dataclass(frozen=True, slots=True)
class _Asked:
    """A counted request and what was in force when it came."""

    request: Request
    tenant: Tenant
    settings: Settings
    body: Mapping[str, Any]
    fault: Fault | None
    serial: int


def _respond(asked: _Asked, reply: str | None = None) -> bytes | Iterator[Step]:
    """Give the response: bytes where it needs no waiting and breaks nothing, steps otherwise."""
    settings, fault = asked.settings, asked.fault
    try:
        answer = compose(asked.body, settings, reply)
    except RefusedError as error:
        if fault is None or fault.kind not in ANSWERLESS:
            return _dialect_error(asked.request, settings, asked.serial, error)
        answer = _NO_ANSWER
    exchange = Exchange(
        settings=settings,
        answer=answer,
        streaming=bool(asked.body.get("stream")),
        serial=asked.serial,
        now_s=time.time(),
        vary=asked.tenant.vary,
        authorization=asked.request.headers.get("authorization", ""),
        keep_alive=asked.request.keep_alive,
    )
    if fault is not None:
        return broken(fault, exchange)
    return instant(exchange) if settings.is_instant else good(exchange)


def _refusal(request: Request, status: int, message: str) -> bytes:
    return json_response(status, {"error": {"message": message}}, keep_alive=request.keep_alive)


def _dialect_error(request: Request, settings: Settings, serial: int, error: RefusedError) -> bytes:
    template = DIALECTS[settings.dialect].error(error.status, error.message, error.code, error.param)
    return _json_head(request, settings, fill(template, serial, time.time()), error.status)


def _models(request: Request, settings: Settings) -> bytes:
    return _json_head(
        request, settings, fill(DIALECTS[settings.dialect].models(settings.models), 0, time.time()), 200
    )


def _json_head(request: Request, settings: Settings, body: bytes, status: int) -> bytes:
    headers = DIALECTS[settings.dialect].plain_headers
    return head(status, headers, length=len(body), keep_alive=request.keep_alive) + body
