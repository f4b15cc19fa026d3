"""A real browser in front of the real program, with stand-in providers behind it.

Chromium is Debian's (/usr/bin/chromium). Without it, or without Playwright, these tests are skipped with a word; in CI
they fail. Pictures go to .ci/out/screenshots, for people to look at.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fallback.standin import StandInThread

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / ".ci" / "out" / "screenshots"
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BROWSERS_OWN = (
    b"update.googleapis.com",
    b"accounts.google.com",
    b"clients2.google.com",
    b"content-autofill.googleapis.com",
    b"optimizationguide-pa.googleapis.com",
    b"android.clients.google.com",
)
"""What Chromium calls by itself, with an empty page too."""
SIZES = {"desktop": (1400, 900), "phone": (390, 844)}
START_WITHIN_S = 60.0


def _absent(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"the browser tests are required in CI: {reason}")
    pytest.skip(f"browser: {reason}")


@dataclass
class Elsewhere:
    """A listener in place of the rest of the world: a page that calls anything but the program calls it."""

    port: int = 0
    calls: list[bytes] = field(default_factory=list)

    def serve(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(1.0)
                try:
                    said = connection.recv(
                        4096
                    )  # the name stands in the greeting of TLS, or in the Host header
                except OSError:
                    said = b""
                if not any(name in said for name in BROWSERS_OWN):
                    self.calls.append(said)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    seen = Elsewhere()
    with socket.create_server(("127.0.0.1", 0)) as server:
        seen.port = server.getsockname()[1]
        thread = threading.Thread(target=seen.serve, args=(server,), daemon=True)
        thread.start()
        yield seen
        server.shutdown(socket.SHUT_RDWR)
    thread.join(timeout=5.0)


# Not for the whole session: Playwright keeps an event loop running in this thread, and other tests start their own.
@pytest.fixture(scope="module")
def browser(elsewhere: Elsewhere) -> Iterator[Browser]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _absent("Playwright is not installed")
        raise
    if not Path(CHROMIUM).exists():
        _absent("there is no chromium; on Debian: apt-get install chromium")
    # Every name leads to the listener; addresses of this machine stay what they are.
    rules = f"--host-resolver-rules=MAP * 127.0.0.1:{elsewhere.port} , EXCLUDE 127.0.0.1"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, rules])
        yield started
        started.close()


@dataclass
class Running:
    """The program under test, and the stand-ins behind it."""

    url: str
    folder: Path
    standin: StandInThread


CONFIGURATION = """
providers:
  - {{name: groq_llama, type: groq, endpoint: "{groq}", model: llama-3.1-8b-instant,
      input_usd_per_1m: 0.05, output_usd_per_1m: 0.08, priority: 1}}
  - {{name: together_llama, type: together, endpoint: "{together}", model: meta-llama/Llama-3-70b-chat-hf,
      input_usd_per_1m: 0.88, output_usd_per_1m: 0.88, priority: 2}}
"""


def begin(
    folder: Path, standin: StandInThread, *, port: int = 0, **variables: str
) -> tuple[subprocess.Popen[str], Running]:
    """Start `python main.py` with these variables, on a free port unless told, and wait for its first line."""
    for name in ("groq_llama", "together_llama"):
        standin.tenant(name).reset()
    groq = standin.tenant("groq_llama", dialect="groq")
    together = standin.tenant("together_llama", dialect="together")
    path = folder / "providers.yaml"
    path.write_text(CONFIGURATION.format(groq=groq.url, together=together.url), encoding="utf-8")
    environment = {
        key: value for key, value in os.environ.items() if not re.search(r"_API_KEY$|^PORT$|^HOST$", key)
    } | variables
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), "--port", str(port), "--config", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=environment,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    found = re.search(r"http://[\w.]+:(\d+)", first)
    assert found, f"the program did not start: {first!r} {process.stdout.read()!r}"
    url = f"http://127.0.0.1:{found.group(1)}"
    deadline = time.monotonic() + START_WITHIN_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/healthz", timeout=2):  # noqa: S310 - our own program
                return process, Running(url=url, folder=folder, standin=standin)
        except OSError:
            assert time.monotonic() < deadline, "the program does not answer"
            time.sleep(0.1)


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=15)


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        yield server


@pytest.fixture(scope="module")
def start(standin: StandInThread) -> Iterator[Callable[..., Running]]:
    """Give `begin` for a whole module, as it is called there, without the stand-in."""
    processes: list[subprocess.Popen[str]] = []

    def started(folder: Path, *, port: int = 0, **variables: str) -> Running:
        process, found = begin(folder, standin, port=port, **variables)
        processes.append(process)
        return found

    yield started
    for process in processes:
        end(process)


@pytest.fixture
def running(tmp_path: Path, standin: StandInThread) -> Iterator[Running]:
    process, found = begin(tmp_path, standin)
    yield found
    end(process)


@dataclass
class Visitor:
    """One browser window of one person, and everything that went wrong in it."""

    page: Page
    context: BrowserContext
    troubles: list[str] = field(default_factory=list)

    def ask(self, question: str) -> None:
        box = self.page.get_by_test_id("stChatInputTextArea")
        box.fill(question)
        box.press("Enter")

    def answered(self) -> None:
        """Wait until the answer is whole."""
        self.page.locator("[class*=st-key-chat_regenerate] button:not([disabled]):visible").first.wait_for()

    def picture(self, name: str) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(PICTURES / f"{name}.png"))


@pytest.fixture
def visit(browser: Browser, elsewhere: Elsewhere) -> Iterator[type[None]]:
    visitors: list[Visitor] = []
    before = len(elsewhere.calls)

    def arrive(url: str, *, size: str = "desktop", scheme: str = "light") -> Visitor:
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
        context.set_default_timeout(20_000)
        page = context.new_page()
        visitor = Visitor(page=page, context=context)
        page.on(
            "console", lambda message: _note(visitor, message.type, message.text, message.location["url"])
        )
        page.on("pageerror", lambda error: visitor.troubles.append(f"error: {error}"))
        page.goto(url)
        visitors.append(visitor)
        return visitor

    yield arrive  # type: ignore[misc]
    troubles = [trouble for visitor in visitors for trouble in visitor.troubles]
    for visitor in visitors:
        visitor.context.close()
    assert troubles == [], "the browser's console holds errors or warnings"
    assert elsewhere.calls[before:] == [], "a page called another host"


# On a deep link Streamlit's own script looks for its server below the page first, and then at the root.
_LOOKING_FOR_THE_SERVER = re.compile(r"/\w+/_stcore/(health|host-config)$")


def _note(visitor: Visitor, kind: str, text: str, url: str) -> None:
    if kind in {"error", "warning"} and not _LOOKING_FOR_THE_SERVER.search(url):
        visitor.troubles.append(f"{text} {url}")
