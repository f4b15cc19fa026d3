"""The API without the dashboard: the same routes as a plain ASGI application, and the server that runs it.

Nothing here imports Streamlit. uvicorn serves with uvloop and httptools where they can be installed, and with asyncio and h11
elsewhere.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from fallback.api.connection import GuardedProtocol
from fallback.api.errors import Refusal
from fallback.api.program import Program
from fallback.api.refusing import refusal_response

__all__ = ["application", "create", "ease_collection", "quiet_server_log", "raise_file_limit", "serve"]

MAX_FILES = 65_536
COLLECT_EVERY = 10_000
"""So many objects more than before, and Python looks for cycles among the young ones: those of some fifty requests."""
_CALLERS_MISTAKES = frozenset({"Invalid HTTP request received.", "Unsupported upgrade request."})


def application(program: Program) -> ASGIApp:
    """Return `program` as an ASGI application, its lifespan included."""
    app: ASGIApp = _Dispatcher(program)
    for middleware in reversed(program.middleware()):
        app = middleware.cls(app, *middleware.args, **middleware.kwargs)
    return app


def create() -> ASGIApp:
    """Return the application for another ASGI server, such as `uvicorn --factory fallback.api.server:create`.

    The configuration is what the variable FALLBACK_CONFIG names, else providers.yaml in the current folder.
    """
    return application(Program(Path("providers.yaml")))


def serve(app: ASGIApp, sockets: Sequence[socket.socket]) -> bool:
    """Serve `app` on `sockets`, which are bound, until a signal comes. Returns whether it ever started."""
    raise_file_limit()
    quiet_server_log()
    config = uvicorn.Config(
        app,
        http=GuardedProtocol,
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
    )
    server = uvicorn.Server(config)
    try:
        server.run(sockets=list(sockets))
    except SystemExit:
        # uvicorn's word for a lifespan that failed; what was wrong has been told by then.
        if server.started:
            raise
    return server.started


def quiet_server_log() -> None:
    """Let uvicorn tell of what is wrong with the program, and not of its steps and of what callers get wrong."""

    def is_worth_telling(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING and record.msg not in _CALLERS_MISTAKES

    logging.getLogger("uvicorn.error").addFilter(is_worth_telling)


def ease_collection() -> None:
    """Spare the garbage collector what stays for as long as the process: modules, settings, routes. Once all is loaded.

    It would look through all of that again and again, which takes up to a tenth of the time of a busy process, and delays
    whoever is served just then. See https://docs.python.org/3/library/gc.html#gc.freeze.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY, *gc.get_threshold()[1:])


def raise_file_limit() -> None:
    """Allow as many open files, and with them connections, as the system lets this process have."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Dispatcher:
    """Finds the route: by its whole path where that has no parameter, else as Starlette does."""

    def __init__(self, program: Program) -> None:
        routes: list[BaseRoute] = [*program.routes(), Route("/{rest:path}", _Nothing())]
        self._router = Router(routes, redirect_slashes=False, lifespan=program.lifespan)
        self._exact = {
            route.path: route.app
            for route in routes
            if isinstance(route, Route) and "{" not in route.path and route.methods is None
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            app = self._exact.get(scope["path"])
            if app is not None:
                await app(scope, receive, send)
                return
        await self._router(scope, receive, send)


_NO_DASHBOARD = (
    "there is no dashboard here: this program serves the API alone, under /v1 and /api "
    "(the base URL of an OpenAI client ends in /v1)"
)


class _Nothing:
    """Whatever would be the dashboard's."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = Refusal(404, "not_found", _NO_DASHBOARD)
        await refusal_response(refusal, scope["path"], scope["state"]["request_id"])(scope, receive, send)
