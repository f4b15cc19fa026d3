"""`python main.py`: the dashboard and the HTTP API on http://localhost:5000.

Everything that can be wrong with address, port and configuration is found before anything is started: one clear line
(for the configuration, every problem) on stderr, and exit status 2. With `--demo` the providers are simulated, with
`--api-only` there is no dashboard, and Streamlit is never imported.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import ipaddress
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from fallback.core.errors import ConfigError, not_installed

try:
    from fallback.config import Settings, load
    from fallback.config.files import read_variables
except ModuleNotFoundError as error:
    sys.exit(not_installed(error))

if TYPE_CHECKING:
    from fallback.demo import Demo
    from fallback.router import ModelRouter

HERE = Path(__file__).resolve().parent
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = "5000"
MAX_WORKERS = 64
BACKLOG = 2048
EVERY_ADDRESS = {"0.0.0.0": "localhost", "::": "localhost"}  # noqa: S104 - compared with, not listened on


class StartError(Exception):
    """The program cannot start; the message says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """What has been found to be in order."""

    settings: Settings
    demo: Demo | None
    config: Path
    address: str
    reached: str
    """The address that says who can reach it: where a container is published, else `address`."""
    port: int
    shown_host: str
    api_only: bool
    workers: int
    metrics_port: int | None
    insecure: bool

    @property
    def url(self) -> str:
        """The address for a browser."""
        shown = f"[{self.shown_host}]" if ":" in self.shown_host else self.shown_host
        return f"http://{shown}:{self.port}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise StartError(f"{message} (see python main.py --help)")


def main(argv: list[str] | None = None) -> int:
    """Serve until a signal comes. Returns the exit status."""
    # The server restores these when it has ended in good order, and then passes the signal on to them.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    with contextlib.ExitStack() as stack:
        try:
            start = _prepared(_parser().parse_args(argv), stack)
        except (ConfigError, StartError) as error:
            sys.stderr.write(f"{error}\n")
            return 2
        if start.api_only:
            return _serve_api(start)
        _serve(start)
    return 0


def _prepared(options: argparse.Namespace, stack: contextlib.ExitStack) -> _Start:
    """Return what to start with. What has to be tidied up at the end goes onto `stack`."""
    config = Path(options.config or os.environ.get("FALLBACK_CONFIG") or HERE / "providers.yaml")
    # What is wrong with .env is told by load().
    variables = read_variables(config.parent / ".env", os.environ, [])
    if "FORWARDED_ALLOW_IPS" in variables:
        # The server takes this one from nowhere else.
        os.environ["FORWARDED_ALLOW_IPS"] = variables["FORWARDED_ALLOW_IPS"]
    host, port = _address(options, variables)
    workers, metrics_port = _workers(options)
    if options.demo:
        address, port = _free(host, port)
        demo = _demo(config, stack)
        settings = demo.settings
    else:
        demo, settings = None, load(config)
        address, port = _free(host, port)
    published = options.published
    reached = published or address
    if not (options.insecure or _is_loopback(reached)):
        _check_guards(settings, published or host, api_only=options.api_only)
    return _Start(
        settings=settings,
        demo=demo,
        config=config,
        address=address,
        reached=reached,
        port=port,
        shown_host=EVERY_ADDRESS.get(host, "localhost" if host == DEFAULT_HOST else host),
        api_only=options.api_only,
        workers=workers,
        metrics_port=metrics_port,
        insecure=options.insecure or (published is not None and _is_loopback(published)),
    )


def _is_loopback(address: str) -> bool:
    """Return whether only this machine reaches `address`. Raises StartError where it is none."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        raise StartError(
            f"--published: expected an address such as 127.0.0.1, got {address[:40]!r}"
        ) from None


def _check_guards(settings: Settings, host: str, *, api_only: bool) -> None:
    """Raise StartError where others than this machine could use what asks nobody who they are."""
    has_door = api_only or settings.dashboard.guarded
    if settings.api_keys and has_door:
        return
    if settings.api_keys:
        raise StartError(
            f"on {host} others could use the dashboard: set DASHBOARD_PASSWORD in .env, let an OpenID provider sign people in "
            "(docs/access.md), serve the API alone with --api-only, or say --insecure to let them"
        )
    wanted = "API_KEYS" if has_door else "API_KEYS and DASHBOARD_PASSWORD"
    raise StartError(
        f"on {host} others could use your providers: set {wanted} in .env, or say --insecure to let them"
    )


def _workers(options: argparse.Namespace) -> tuple[int, int | None]:
    """Return the number of workers, and the first of their own ports."""
    count: str | None = options.workers
    if count is None and options.metrics_port is None:
        return 1, None
    if not options.api_only or options.demo:
        raise StartError("--workers and --metrics-port go with --api-only, and not with --demo")
    if count is not None and not (count.isascii() and count.isdigit() and 1 <= int(count[:9]) <= MAX_WORKERS):
        raise StartError(f"--workers: expected a number from 1 to {MAX_WORKERS}, got {count[:40]!r}")
    number = int(count or 1)
    port: str | None = options.metrics_port
    if port is None:
        return number, None
    highest = 65536 - number
    if not (port.isascii() and port.isdigit() and 1 <= int(port[:9]) <= highest):
        raise StartError(f"--metrics-port: expected a number from 1 to {highest}, got {port[:40]!r}")
    return number, int(port)


def _demo(config: Path, stack: contextlib.ExitStack) -> Demo:
    # Here, because nobody else needs it.
    from fallback.demo import Demo

    try:
        return stack.enter_context(Demo(config))
    except OSError as error:
        raise StartError(f"the demo cannot be set up: {error.strerror or error}") from None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python main.py",
        description="Serves the LLM Fallback System: dashboard and HTTP API on one port.",
        epilog="Keys, API_KEYS, ALLOWED_HOSTS, DASHBOARD_PASSWORD and the like, HOST, PORT and SESSION_SECRET are read from the environment and from .env beside the "
        "configuration file; an option wins over both.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--host",
        help=f"the address to listen on (default {DEFAULT_HOST}, this machine only; 0.0.0.0 for every network)",
    )
    parser.add_argument("--port", help=f"the port to listen on (default {DEFAULT_PORT}; 0 for any free one)")
    parser.add_argument(
        "--config", metavar="FILE", help="the configuration (default providers.yaml beside main.py)"
    )
    parser.add_argument(
        "--demo",
        action="store_true",
        help="simulate the cloud providers: needs no key, sends nothing anywhere, keeps its log in a temporary folder",
    )
    parser.add_argument(
        "--api-only", action="store_true", help="serve the HTTP API alone, without the dashboard"
    )
    parser.add_argument(
        "--workers", metavar="N", help="with --api-only: how many processes serve it (default 1)"
    )
    parser.add_argument(
        "--metrics-port",
        metavar="PORT",
        help="with --api-only: let each worker listen on a port of its own as well, from this one on, so that the "
        "metrics of each can be read; on 127.0.0.1 alone",
    )
    parser.add_argument(
        "--published",
        metavar="ADDRESS",
        help="in a container: the address at which its port is published, which says who can reach it, and not what it listens on",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="serve others than this machine although there are no API_KEYS, or no DASHBOARD_PASSWORD for the dashboard",
    )
    return parser


def _address(options: argparse.Namespace, variables: dict[str, str]) -> tuple[str, int]:
    """Return host and port, from the options, else from the variables, else the default ones."""
    host: str = options.host if options.host is not None else variables.get("HOST", DEFAULT_HOST)
    if not host.strip():
        raise StartError("--host is empty: give an address such as 127.0.0.1")
    told = "--port" if options.port is not None else "PORT"
    port: str = options.port if options.port is not None else variables.get("PORT", DEFAULT_PORT)
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise StartError(f"{told}: expected a number from 0 to 65535, got {port[:40]!r}")
    return host.strip().strip("[]"), int(port)


def _free(host: str, port: int) -> tuple[str, int]:
    """Return the numeric address of `host` and a port that is free there, found out by binding it for a moment."""
    with _listener(host, port) as trial:
        address = trial.getsockname()
        return str(address[0]), int(address[1])


def _listener(host: str, port: int) -> socket.socket:
    """Return a socket that listens on `host` and `port`. Raises StartError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise StartError(
            f"unknown host {host[:100]!r}: set --host or HOST to an address of this machine"
        ) from None
    # localhost is both 127.0.0.1 and ::1: the one that every browser tries.
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    made = socket.socket(family)
    try:
        if os.name != "nt":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(address)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise StartError(_binding_failure(host, port, error)) from None
    return made


def _binding_failure(host: str, port: int, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} is in use by another program: choose another one with --port or PORT"
        case errno.EACCES:
            return f"port {port} may not be used without special rights: choose one above 1023 with --port or PORT"
        case errno.EADDRNOTAVAIL:
            return f"{host!r} is not an address of this machine: set --host or HOST to one that is"
        case _:
            return f"cannot listen on {host!r}, port {port}: {error.strerror}"


def _serve(start: _Start) -> None:
    settings, demo = start.settings, start.demo

    def started(router: ModelRouter) -> None:
        lines = [f"LLM Fallback System on {start.url}"]
        if settings.dashboard.guarded and not settings.api_keys:
            lines.append(
                "The dashboard asks who is there, and the HTTP API asks nobody: set API_KEYS as well."
            )
        elif not (settings.dashboard.guarded or _is_loopback(start.reached)):
            lines.append("The dashboard asks nobody who they are; --api-only serves the API alone.")
        if settings.banner is not None:
            lines.append(f"{settings.banner}. No key is used, and nothing leaves this machine.")
        for status in router.status():
            missing = "not configured: " if status.state == "not_configured" else ""
            lines.append(f"  {status.name}: {missing}{status.text}")
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        if demo is not None:
            demo.begin(router)
        ease_collection()

    if settings.session_secret is not None:
        # Streamlit takes this one from nowhere else.
        os.environ["STREAMLIT_SERVER_COOKIE_SECRET"] = settings.session_secret.reveal()
    # Here, because it takes a second that a wrong port number need not cost.
    from fallback.api.server import ease_collection, quiet_server_log, raise_file_limit
    from streamlit_app import app, program

    quiet_server_log()
    raise_file_limit()
    ending = demo.end if demo is not None else lambda: None
    program.configure(settings, started=started, ending=ending, insecure=start.insecure)
    app.run(
        config={
            "server.address": start.address,
            "server.port": start.port,
            "server.headless": True,
            "logger.hideWelcomeMessage": True,
        }
    )


def _serve_api(start: _Start) -> int:
    """Serve the API alone. Returns the exit status."""
    # Here, because a wrong port number need not wait for it.
    from fallback.api.program import Program
    from fallback.api.server import application, ease_collection, serve
    from fallback.api.workers import Supervisor, Task

    demo = start.demo

    def tell() -> None:
        count = f", {start.workers} workers" if start.workers > 1 else ""
        banner = f". {start.settings.banner}" if start.settings.banner is not None else ""
        sys.stdout.write(f"LLM Fallback System on {start.url} (HTTP API alone{count}){banner}\n")
        sys.stdout.flush()

    def started(router: ModelRouter) -> None:
        tell()
        if demo is not None:
            demo.begin(router)
        ease_collection()

    try:
        listener = _listener(start.address, start.port)
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    with listener:
        if start.workers > 1 or start.metrics_port is not None:
            task = Task(
                config=start.config,
                count=start.workers,
                insecure=start.insecure,
                own_ports=start.metrics_port,
            )
            return Supervisor(task, listener, started=tell).run()
        program = Program(start.config)
        ending = demo.end if demo is not None else lambda: None
        program.configure(start.settings, started=started, ending=ending, insecure=start.insecure)
        return 0 if serve(application(program), [listener]) else 1


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
