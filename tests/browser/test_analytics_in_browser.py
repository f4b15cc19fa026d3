"""The Analytics page and the report in a real browser: links, clicks on charts, every screen, and no call to anybody."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from analytics_logs import append, attempt, change, request, rescue

pytestmark = [pytest.mark.browser, pytest.mark.program]
ROOT = Path(__file__).resolve().parents[2]
HEADINGS = (
    "When and why failover happened",
    "From which provider to which",
    "How long answers take",
    "How the times spread",
    "What went wrong, and where",
    "Availability, in nines per day",
    "Who was ready, and who was not",
    "Tokens",
    "Cost",
    "Requests",
)


def fill(folder: Path) -> None:
    """Write a log of the last two days: an answer every ten minutes, some of them saved."""
    now = time.time()
    lines: list[dict[str, object]] = []
    for number in range(280):
        ts = now - 60 - 600 * number
        used: dict[str, object] = {"input_tokens": 200, "output_tokens": 80, "cost_usd": 0.0001}
        if number % 9 == 4:
            kind = ("rate_limited", "timeout", "server_error")[number % 3]
            lines += rescue(ts, f"saved{number}", failed="groq_llama", answered="together_llama", kind=kind)
            lines.append(change(ts, "groq_llama", "ready", "cooling_down", reason=kind, length_s=300.0))
            continue
        length_s = 0.4 + number % 7 * 0.2
        lines += [
            attempt(ts, f"plain{number}", provider="groq_llama", duration_s=length_s, **used),
            request(ts, f"plain{number}", provider="groq_llama", duration_s=length_s, **used),
        ]
    append(folder / "logs" / "usage.log", lines[::-1])


def marks(visitor: Any, chart: str) -> Any:
    return visitor.page.locator(f".st-key-analytics_section_{chart} path[aria-roledescription]")


def painted(visitor: Any) -> None:
    """Wait until the last chart and the table are there."""
    # The first page of a program checks every chart, which takes a second and on a busy machine several.
    marks(visitor, "cost").first.wait_for(timeout=60_000)
    visitor.page.locator("[class*=st-key-analytics_table] canvas").first.wait_for(timeout=60_000)


@pytest.mark.parametrize("size", ["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_the_first_session_of_a_fresh_program_and_fits_every_screen(
    running: Any, visit: Any, size: str, scheme: str
) -> None:
    fill(running.folder)
    visitor = visit(f"{running.url}/analytics?range=7+d", size=size, scheme=scheme)
    painted(visitor)
    for heading in HEADINGS:
        assert visitor.page.locator("h5", has_text=re.compile(f"^{heading}")).count() == 1, heading
    assert visitor.page.get_by_text("Failover saved 31 answers").is_visible()
    visitor.page.wait_for_timeout(1500)
    wide = visitor.page.evaluate(
        "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    )
    assert not wide, "the page scrolls sideways"
    heights = visitor.page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    visitor.page.set_viewport_size({"width": visitor.page.viewport_size["width"], "height": heights})
    visitor.page.wait_for_timeout(1000)
    visitor.picture(f"analytics-{scheme}-{size}")
    for card in visitor.page.locator("[class*=st-key-analytics_figure_]").all():
        fits(card)
    drawings = visitor.page.locator(".st-key-analytics_figures img")
    assert drawings.count() == 9, "every figure but that of the first words, of which this log knows nothing"
    for drawing in drawings.all():
        assert drawing.evaluate("image => image.complete && image.naturalWidth > 0")
        told = drawing.get_attribute("title")
        assert re.fullmatch(r"[$\d][\w.,$% ]* (at the end|all the time)", told), told
        assert drawing.get_attribute("alt").endswith(f" over time: {told}")


def fits(card: Any) -> None:
    """Check that nothing of a figure's card stands out of it, and that its value is what is seen first."""
    outside = card.evaluate("""card => {
        const box = card.getBoundingClientRect();
        return [...card.querySelectorAll("p, p > *")].filter(part => {
            const found = part.getBoundingClientRect();
            return found.left < box.left || found.right > box.right || found.top < box.top || found.bottom > box.bottom;
        }).map(part => part.outerHTML.slice(0, 80));
    }""")
    assert outside == []
    assert card.locator("strong").evaluate("value => getComputedStyle(value).fontSize") == "36px"


def test_the_figures_stand_once_and_without_vega_from_the_first_moment_on(running: Any, visit: Any) -> None:
    fill(running.folder)
    visitor = visit(f"{running.url}/healthz")
    visitor.page.add_init_script("""
        window.most = 0;
        new MutationObserver(() => {
            const standing = document.querySelectorAll(".st-key-analytics_figures strong").length;
            window.most = Math.max(window.most, standing);
        }).observe(document, {subtree: true, childList: true});
    """)
    visitor.page.goto(f"{running.url}/analytics?range=7+d")
    painted(visitor)
    assert visitor.page.evaluate("window.most") == 10
    assert visitor.page.locator(".st-key-analytics_figures strong").count() == 10
    assert visitor.page.locator(".st-key-analytics_figures :is(.vega-embed, canvas)").count() == 0


def test_a_click_on_a_chart_narrows_the_requests_and_one_of_them_can_be_opened_and_linked(
    running: Any, visit: Any
) -> None:
    fill(running.folder)
    visitor = visit(f"{running.url}/analytics?range=7+d")
    painted(visitor)
    page = visitor.page
    number = page.locator(".st-key-analytics_section_pairs text").filter(has_text="31").first
    number.scroll_into_view_if_needed()
    box = number.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.get_by_text("Only requests with failovers from groq_llama to together_llama").wait_for()
    page.get_by_text("31 requests.").wait_for()
    bar = marks(visitor, "failures").first
    bar.scroll_into_view_if_needed()
    bar.click()
    page.get_by_text("failures of groq_llama").wait_for()
    page.get_by_role("button", name="Show all").click()
    page.get_by_text("Only requests with").wait_for(state="detached")

    canvas = page.locator("[class*=st-key-analytics_table] canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.click(box["x"] + 20, box["y"] + 36 + 18)
    page.get_by_role("heading", name="Request plain0").wait_for()
    assert re.search(r"[?&]request=plain0", page.url)
    page.wait_for_function(
        "() => {const top = document.querySelector('.st-key-analytics_request')?.getBoundingClientRect().top;"
        " return top > 40 && top < innerHeight * 0.6}"
    )
    visitor.picture("analytics-request")
    other = visit(page.url)
    other.page.get_by_role("heading", name="Request plain0").wait_for()
    page.get_by_role("button", name="Close").click()
    page.get_by_role("heading", name="Request plain0").wait_for(state="detached")
    assert "request=" not in page.url


def test_what_is_chosen_stands_in_the_address(running: Any, visit: Any) -> None:
    fill(running.folder)
    visitor = visit(f"{running.url}/analytics")
    painted(visitor)
    visitor.page.locator(".st-key-range").get_by_text("7 d", exact=True).click()
    stands(visitor, "range", "7 d")
    visitor.page.locator(".st-key-drills label").first.click()
    stands(visitor, "drills", "true")
    visitor.page.locator(".st-key-live label").first.click()
    stands(visitor, "live", "false")
    stands(visitor, "range", "7 d")


def stands(visitor: Any, name: str, value: str) -> None:
    """Wait until the address says so."""
    visitor.page.wait_for_function(
        "([name, value]) => new URLSearchParams(location.search).get(name) === value", arg=[name, value]
    )


def test_a_live_page_takes_up_what_is_written(running: Any, visit: Any) -> None:
    fill(running.folder)
    visitor = visit(f"{running.url}/analytics?range=7+d")
    painted(visitor)
    figure = visitor.page.locator(".st-key-analytics_figure_requests")
    figure.get_by_text("280", exact=True).wait_for()
    now = time.time()
    append(running.folder / "logs" / "usage.log", [attempt(now, "new"), request(now, "new")])
    figure.get_by_text("281", exact=True).wait_for()


def test_an_empty_log_offers_the_demo_and_fills_by_itself(running: Any, visit: Any) -> None:
    visitor = visit(f"{running.url}/analytics")
    visitor.page.get_by_text("Nothing has been asked yet").wait_for()
    visitor.picture("analytics-empty")
    fill(running.folder)
    painted(visitor)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_draws_its_charts_and_asks_nobody_for_anything(
    tmp_path: Path, visit: Any, scheme: str
) -> None:
    (tmp_path / "providers.yaml").write_text(
        "providers:\n  - {name: groq_llama, type: groq, endpoint: 'http://127.0.0.1:9/v1', model: m, allow_http: true}\n"
    )
    fill(tmp_path)
    file = tmp_path / "report.html"
    subprocess.run(
        [sys.executable, "-m", "fallback", "report", "--config", str(tmp_path / "providers.yaml"), "--since", "7d",
         "--html", str(file)],
        check=True,
        cwd=ROOT,
    )  # fmt: skip
    visitor = visit("about:blank", scheme=scheme)
    asked: list[str] = []
    visitor.page.on("request", lambda call: asked.append(call.url))
    visitor.page.goto(file.as_uri())
    visitor.page.wait_for_function("document.body.dataset.drawn")
    drawn = int(visitor.page.evaluate("document.body.dataset.drawn"))
    assert drawn >= 10
    assert visitor.page.locator("figure svg.marks").count() == drawn
    assert visitor.page.locator("figure svg.marks path[aria-roledescription]").count() > 50
    visitor.picture(f"report-{scheme}")
    assert asked == [file.as_uri()]
    blocked = visitor.page.evaluate(
        "fetch('http://evil.invalid/x').then(() => 'sent', error => error.constructor.name)"
    )
    assert blocked == "TypeError"
    visitor.troubles.clear()  # the console tells of the call that was just refused
