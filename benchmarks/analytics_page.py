"""How long the Analytics page takes to open in a browser, with the real program in front of a given log.

For `analytics.py --page`; it needs Playwright (requirements-dev.txt) and Debian's Chromium.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import BrowserContext, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
LOADS = 7
"""The first of them, with an empty cache of the browser and of the program, does not count."""
WITHIN_MS = 120_000

CONFIGURATION = """
log: {{folder: "{logs}"}}
providers:
  - {{name: groq_llama, type: groq, endpoint: "http://127.0.0.1:9/v1", model: m, allow_http: true}}
"""

STEPS = {
    "figures standing": """() => {
        const values = [...document.querySelectorAll('[class*=st-key-analytics_figure_] strong')];
        const courses = [...document.querySelectorAll('[class*=st-key-analytics_figure_] img')];
        return values.length === 10 && values.every(value => value.innerText.trim())
            && courses.every(course => course.complete && course.naturalWidth) && performance.now();
    }""",
    "all charts drawn": """() => {
        const charts = [...document.querySelectorAll('[class*=st-key-analytics_section_] [data-testid=stVegaLiteChart]')];
        return document.querySelector('.st-key-analytics_section_cost [data-testid=stVegaLiteChart] svg, .st-key-analytics_section_cost canvas')
            && charts.every(chart => chart.querySelector('svg, canvas')) && performance.now();
    }""",
    "requests listed": """() =>
        document.querySelector('[class*=st-key-analytics_table] canvas') && performance.now()""",
}
"""What is waited for, each as an expression that is false until then, and then the milliseconds since the address was entered."""


def measure_browser(folder: Path, since: float, until: float) -> dict[str, list[float]]:
    """Return the seconds of every load but the first, by step; the page shows the log in `folder` from `since` to `until`."""
    ends = (datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%dT%H:%M") for ts in (since, until))
    address = urlencode(dict(zip(("from", "to"), ends, strict=True), range="custom"))
    taken: dict[str, list[float]] = {step: [] for step in STEPS}
    with _program(folder) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        context = browser.new_context(viewport={"width": 1400, "height": 900}, timezone_id="UTC")
        for number in range(LOADS):
            found = _load(context, f"{url}/analytics?{address}")
            if number:
                for step, seconds in found.items():
                    taken[step].append(seconds)
        browser.close()
    return taken


def print_browser(folder: Path, since: float, until: float) -> None:
    """Print the median and the range of each step."""
    for step, seconds in measure_browser(folder, since, until).items():
        median = statistics.median(seconds) * 1000
        print(
            f"  {f'page: {step}':<32}{median:>10,.0f} ms"
            f" ({min(seconds) * 1000:,.0f} to {max(seconds) * 1000:,.0f} ms, {len(seconds)} loads)",
            flush=True,
        )


def _load(context: BrowserContext, url: str) -> dict[str, float]:
    page = context.new_page()
    try:
        page.goto(url, wait_until="commit")
        return {
            step: float(
                page.wait_for_function(script, timeout=WITHIN_MS, polling=20).evaluate("found => found")
                / 1000
            )
            for step, script in STEPS.items()
        }
    finally:
        page.close()


@contextmanager
def _program(logs: Path) -> Iterator[str]:
    """Run the program over `logs`; give its address."""
    with tempfile.TemporaryDirectory() as name:
        configuration = Path(name, "providers.yaml")
        configuration.write_text(CONFIGURATION.format(logs=logs))
        command = [sys.executable, str(ROOT / "main.py"), "--port", "0", "--config", str(configuration)]
        with subprocess.Popen(command, cwd=name, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                found = re.search(r"http://[\w.]+:(\d+)", process.stdout.readline())
                assert found, "the program did not start"
                url = f"http://127.0.0.1:{found.group(1)}"
                _wait_for(f"{url}/healthz")
                yield url
            finally:
                process.terminate()


def _wait_for(url: str) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - our own program
                return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
