"""The Analytics page, driven as a browser would drive it: what it shows of a log, and what its controls do."""

from __future__ import annotations

import io
import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from analytics_logs import NOON, append, attempt, change, request, rescue
from streamlit.testing.v1 import AppTest

from fallback.config import load
from fallback.router import ModelRouter, set_router
from fallback.ui.analytics.downloads import as_csv, as_parquet, neutral
from fallback.wiring import assemble

FRAME = str(Path(__file__).resolve().parents[1] / "fallback/ui/frame.py")
PAGE = "../../pages/analytics.py"
BOUND_S = 30.0

CONFIGURATION = """
providers:
  - {name: groq, type: groq, endpoint: 'http://127.0.0.1:9/v1', model: m, allow_http: true}
  - {name: together, type: together, endpoint: 'http://127.0.0.1:9/v1', model: m, allow_http: true}
"""

Start = Callable[..., ModelRouter]
FIGURE = re.compile(
    r"\*\*(?P<value>.+)\*\*  \n:gray-badge\[(?P<note>.+)\]"
    r'(?:\n\n!\[(?P<alt>.+)\]\(data:image/svg\+xml;base64,(?P<address>\S+) "(?P<title>.+)"\))?'
)
"""What stands below the label of a figure: value, note, and where it has a course the drawing of it."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture
def start(tmp_path: Path, folder: Path) -> Iterator[Start]:
    """Give a function that sets the program's router up over these lines of the log; it is noon."""
    routers: list[ModelRouter] = []

    def begin(*lines: dict[str, object]) -> ModelRouter:
        file = tmp_path / "providers.yaml"
        file.write_text(CONFIGURATION)
        if lines:
            append(folder / "usage.log", lines)
        router = ModelRouter(assemble(load(file, environ={}), wall=lambda: NOON))
        routers.append(router)
        set_router(router)
        return router

    yield begin
    set_router(None)
    for router in routers:
        router.close()
        router.wiring.close()


def week() -> list[dict[str, object]]:
    """Answers and failures of some hours before noon, and one of two days before."""
    lines: list[dict[str, object]] = []
    for number in range(6):
        ts = NOON - 3_600 * (number + 1) + 60
        lines += [attempt(ts, f"plain{number}", input_tokens=100, output_tokens=20, cost_usd=0.001),
                  request(ts, f"plain{number}", input_tokens=100, output_tokens=20, cost_usd=0.001)]  # fmt: skip
    lines += rescue(NOON - 5_000, "saved", failed="groq", answered="together")
    lines += rescue(NOON - 600, "saved2", failed="groq", answered="together", kind="timeout")
    lines += [
        attempt(NOON - 400, "lost", outcome="server_error", error_type="server_error", http_status=500,
                error_message="![x](http://evil.invalid/x.png) =1+1"),
        request(NOON - 400, "lost", provider=None, first_provider="groq", error_type="server_error"),
        attempt(NOON - 300, "drilled", outcome="rate_limited", error_type="rate_limited", drill=True),
        request(NOON - 300, "drilled", provider=None, first_provider="groq", error_type="rate_limited", drill=True),
        attempt(NOON - 2 * 86_400, "old"),
        request(NOON - 2 * 86_400, "old", source="chat", route="cheap"),
        change(NOON - 1_000, "groq", "ready", "cooling_down", reason="rate_limited", length_s=300.0),
    ]  # fmt: skip
    return lines


def opened(**address: str) -> AppTest:
    page = AppTest.from_file(FRAME, default_timeout=BOUND_S)
    for name, value in address.items():
        page.query_params[name] = value
    # The figures come first; then the browser asks for the rest.
    return checked(checked(page.switch_page(PAGE).run()).run())


def checked(page: AppTest) -> AppTest:
    assert not page.exception
    return page


def shown(page: AppTest) -> str:
    """Return every text on the page, without the marks that plain() puts before punctuation."""
    elements = (*page.markdown, *page.caption, *page.warning, *page.info, *page.error)
    return "\n".join(str(element.value) for element in elements).replace("\\", "")


def cards(page: AppTest) -> dict[str, dict[str, str]]:
    """Return of each figure, by its label, the groups of `FIGURE`, and as `drawn` the SVG; "" where there is none."""
    texts = [str(element.value).replace("\\", "") for element in page.markdown]
    found: dict[str, dict[str, str]] = {}
    for text, body in pairwise(texts):
        if label := re.fullmatch(r":small\[(.*)\]", text):
            told = FIGURE.fullmatch(body)
            assert told, body
            parts = told.groupdict(default="")
            found[label[1]] = {**parts, "drawn": b64decode(parts["address"], validate=True).decode()}
    return found


def figure(page: AppTest, label: str) -> str:
    return cards(page)[label]["value"]


def table(page: AppTest) -> pd.DataFrame:
    return next(frame.value for frame in page.dataframe if "Answered by" in frame.value.columns)


def ids(page: AppTest) -> list[str]:
    return list(table(page)["Request"])


# What it shows


def test_an_empty_log_says_what_will_be_here_and_offers_the_demo(start: Start) -> None:
    start()
    page = opened()
    assert "Nothing has been asked yet" in shown(page)
    assert "make demo" in shown(page)
    assert not cards(page)


def test_a_log_without_a_request_in_the_time_says_so_in_every_part(start: Start) -> None:
    start(attempt(NOON - 5 * 86_400, "old"), request(NOON - 5 * 86_400, "old"))
    text = shown(opened(range="1 h"))
    for words in ("Nothing was asked in this time.", "No failover in this time", "No answers in this time.",
                  "No attempt failed in this time.", "No requests in this time."):  # fmt: skip
        assert words in text


def test_who_comes_to_the_page_is_sent_the_figures_before_the_rest(start: Start) -> None:
    start(*week())
    page = AppTest.from_file(FRAME, default_timeout=BOUND_S)
    for _ in range(2):
        checked(page.switch_page(PAGE).run())
        assert figure(page, "Requests") == "9"
        assert len(cards(page)) == 10
        # What draws it has to be loaded first, and holds the figures up.
        assert not page.metric
        assert not page.get("vega_lite_chart")
        assert not page.dataframe
        checked(page.run())
        assert figure(page, "Requests") == "9"
        assert len(page.get("vega_lite_chart")) > 5
        assert len(table(page)) == 9
        checked(page.switch_page("../../pages/providers.py").run())


def test_figures_charts_and_requests_are_shown(start: Start) -> None:
    start(*week())
    page = opened()
    assert figure(page, "Requests") == "9"
    assert figure(page, "Success rate") == "88.9 %"
    assert figure(page, "Rescued") == "2"
    assert figure(page, "Cost per 1,000 answers") == "$0.7500"
    assert [card["note"] for card in cards(page).values()][:4] == [
        "8 answered", "1 failed", "66.7 % without it", "2 failovers",
    ]  # fmt: skip
    text = shown(page)
    assert "Failover saved 2 answers: without it 66.7 % of the requests would have been answered" in text
    assert (
        "2 failovers, most often because a provider is rate limited (1, 50.0 %)" in text
        or "took too long" in text
    )
    assert "Most went from groq to together: 2, of which 100 % were answered there." in text
    assert "groq failed 3 times" in text
    assert ids(page) == [
        "lost",
        "saved2",
        "plain0",
        "saved",
        "plain1",
        "plain2",
        "plain3",
        "plain4",
        "plain5",
    ]
    row = table(page).iloc[1]
    assert (row["Outcome"], row["Answered by"], row["Asked first"], row["Failovers"]) == (
        "↪ rescued", "together", "groq", 1,
    )  # fmt: skip


def test_each_figure_has_its_course_as_a_drawing_and_in_words(start: Start) -> None:
    start(*week())
    shown = cards(opened())
    assert {label: card["title"] for label, card in shown.items()} == {
        "Requests": "0 to 2, 2 at the end",
        "Success rate": "50.0 % to 100 %, 50.0 % at the end",
        "Rescued": "0 to 1, 1 at the end",
        "Failover rate": "0 % to 100 %, 50.0 % at the end",
        "Time to answer": "1.0 s all the time",
        "First words": "",
        "Tokens": "0 to 120, 0 at the end",
        "Cost": "$0 to $0.0010, $0 at the end",
        "Cost per 1,000 answers": "$0 to $1.00, $0 at the end",
        "Embedded model": "0 all the time",
    }
    for label, card in shown.items():
        assert card["alt"] == (f"{label} over time: {card['title']}" if card["title"] else "")
        assert bool(card["drawn"]) == bool(card["title"])
    bars, line = (shown[label]["drawn"] for label in ("Requests", "Failover rate"))
    # Seven quarters of an hour with one request, the last one with two.
    assert re.findall(r"V(\d+)", bars) == ["50"] * 7 + ["4"]
    assert 'd="M0 96 1 96 2 96 3 96 4 96 5 4 6 96 7 50"' in line


def test_a_figure_without_a_course_has_no_drawing(start: Start) -> None:
    start(attempt(NOON - 5 * 86_400, "old"), request(NOON - 5 * 86_400, "old"))
    shown = cards(opened(range="1 h"))
    for label in ("Success rate", "Time to answer"):
        assert (shown[label]["value"], shown[label]["drawn"]) == ("—", "")
    assert shown["Requests"]["alt"] == "Requests over time: 0 all the time"


def test_a_drill_is_left_out_unless_asked_for_and_marked_where_shown(start: Start) -> None:
    start(*week())
    page = opened()
    assert "drilled" not in ids(page)
    assert "Drill" not in table(page).columns
    checked(page.toggle(key="drills").set_value(True).run())
    assert figure(page, "Requests") == "10"
    assert list(table(page)["Drill"])[:2] == ["drill", ""]
    assert "With drills" in shown(page)


def test_lines_that_could_not_be_read_are_counted_with_their_place(start: Start, folder: Path) -> None:
    router = start(*week())
    with (folder / "usage.log").open("ab") as log:
        log.write(b"{broken\n")
    page = opened()
    lines = len(week()) + 1
    (frame,) = [found.value for found in page.dataframe if "What is wrong" in found.value.columns]
    assert list(frame[["File", "Line"]].iloc[0]) == ["usage.log", lines]
    assert router.wiring.analytics().coverage.damaged == 1


def test_new_lines_are_shown_and_a_page_that_stands_still_does_not_look(start: Start, folder: Path) -> None:
    start(*week())
    page = opened()
    append(folder / "usage.log", [attempt(NOON - 10, "new"), request(NOON - 10, "new")])
    assert ids(checked(page.run()))[0] == "new"
    checked(page.toggle(key="live").set_value(False).run())
    assert figure(page, "Requests") == "10"


def test_with_several_instances_there_is_a_filter_for_them(start: Start) -> None:
    start(
        attempt(NOON - 30, "one", instance="replica-a"),
        request(NOON - 30, "one", instance="replica-a"),
        attempt(NOON - 20, "two", instance="replica-b"),
        request(NOON - 20, "two", instance="replica-b"),
        request(NOON - 10, "before names"),
    )
    page = opened()
    assert ids(page) == ["before names", "two", "one"]
    assert list(table(page)["Instance"]) == ["—", "replica-b", "replica-a"]
    page = opened(instance="replica-b")
    assert ids(page) == ["two"]
    assert figure(page, "Requests") == "1"
    assert page.multiselect(key="instance").value == ["replica-b"]


def test_a_request_that_two_instances_know_is_shown_of_both_or_of_one(start: Start) -> None:
    lines: list[dict[str, object]] = []
    for name, provider in (("replica-a", "groq"), ("replica-b", "together")):
        lines += [attempt(NOON - 30, "same", provider=provider, instance=name),
                  request(NOON - 30, "same", provider=provider, instance=name)]  # fmt: skip
    start(*lines)
    page = opened(request="same")
    assert "replica-a, replica-b each have a request of this id." in shown(page)
    (both,) = [found.value for found in page.dataframe if "#" in found.value.columns]
    assert list(both["Instance"]) == ["replica-a", "replica-b"]
    page = opened(request="same", instance="replica-b")
    (one,) = [found.value for found in page.dataframe if "#" in found.value.columns]
    assert list(one["Provider"]) == ["together"]
    assert "each have a request" not in shown(page)


def test_with_one_instance_there_is_no_filter_for_it(start: Start) -> None:
    start(attempt(NOON - 30, "one", instance="replica-a"), request(NOON - 30, "one", instance="replica-a"))
    page = opened()
    assert not [each for each in page.multiselect if each.key == "instance"]
    assert "Instance" not in table(page).columns


def test_the_page_reads_the_places_that_the_environment_names(tmp_path: Path) -> None:
    file = tmp_path / "providers.yaml"
    file.write_text(CONFIGURATION)
    for name in ("a", "b"):
        append(tmp_path / "logs" / name / "usage.log", [request(NOON - 30, name, instance=name)])
    environ = {"USAGE_LOGS": "logs/*, http://127.0.0.1:9/usage.log"}
    router = ModelRouter(assemble(load(file, environ=environ), wall=lambda: NOON))
    set_router(router)
    try:
        page = opened()
        assert sorted(ids(page)) == ["a", "b"]
        assert "http://127.0.0.1:9/usage.log cannot be read" in shown(page)
    finally:
        set_router(None)
        router.close()
        router.wiring.close()


# The address


def test_the_time_range_stands_in_the_address(start: Start) -> None:
    start(*week())
    assert "old" not in ids(opened(range="24 h"))
    assert "old" in ids(opened(range="7 d"))
    assert "old" in ids(opened(range="all"))
    assert ids(opened(range="15 min")) == ["lost", "saved2"]


def test_the_filters_stand_in_the_address(start: Start) -> None:
    start(*week())
    assert ids(opened(range="7 d", source="chat")) == ["old"]
    assert ids(opened(range="7 d", route="cheap")) == ["old"]
    assert ids(opened(provider="together")) == ["saved2", "saved"]
    assert ids(opened(outcome="rescued")) == ["saved2", "saved"]
    assert ids(opened(outcome="failed")) == ["lost"]
    assert "drilled" in ids(opened(drills="true"))
    assert ids(opened(search="PLAIN3")) == ["plain3"]


def test_an_address_that_makes_no_sense_shows_the_usual_page(start: Start) -> None:
    start(*week())
    page = opened(range="yesterday", provider="nobody", outcome="?", drills="maybe")
    assert figure(page, "Requests") == "9"


def test_a_range_of_ones_own_is_by_the_clock_of_the_browser(start: Start) -> None:
    start(*week())
    page = opened(**{"range": "custom", "from": "2026-11-20T11:45", "to": "2026-11-20T12:15"})
    assert ids(page) == ["old"]


def test_a_range_that_ends_before_it_begins_is_told(start: Start) -> None:
    start(*week())
    page = opened(**{"range": "custom", "from": "2026-11-21T12:00", "to": "2026-11-20T12:00"})
    assert "The beginning lies behind the end" in shown(page)


def test_a_change_of_a_control_changes_the_page(start: Start) -> None:
    start(*week())
    page = opened()
    checked(page.multiselect(key="provider").set_value(["together"]).run())
    assert ids(page) == ["saved2", "saved"]
    checked(page.text_input(key="search").set_value("saved2").run())
    assert ids(page) == ["saved2"]


# One request


def test_one_request_opened_shows_its_attempts_and_the_lines_of_the_log(start: Start) -> None:
    start(*week())
    page = opened(request="saved2")
    assert "2 attempts in" in shown(page)
    assert "groq failed (too slow), then together answered." in shown(page)
    (attempts,) = [frame.value for frame in page.dataframe if "Asked to wait" in frame.value.columns]
    assert list(attempts["Role"]) == ["asked first", "failover"]
    lines = [json.loads(code.value) for code in page.code]
    assert [line["kind"] for line in lines] == ["attempt", "attempt", "request"]
    assert {line["request_id"] for line in lines} == {"saved2"}
    checked(page.button(key="analytics_close_request").click().run())
    assert "2 attempts in" not in shown(page)
    assert "request" not in page.query_params


def test_a_request_that_is_not_there_is_told(start: Start) -> None:
    start(*week())
    assert "knows no request of this id" in shown(opened(request="`![x](http://evil.invalid/x)`"))


def test_nothing_that_a_provider_said_is_markdown(start: Start) -> None:
    start(*week())
    page = opened(request="lost")
    for element in (*page.markdown, *page.caption, *page.expander):
        assert "![x]" not in str(
            getattr(element, "value", element.label if hasattr(element, "label") else "")
        )
    (attempts,) = [frame.value for frame in page.dataframe if "Asked to wait" in frame.value.columns]
    assert list(attempts["Message"]) == ["![x](http://evil.invalid/x.png) =1+1"]


def test_a_provider_with_a_hostile_name_is_shown_letter_for_letter(start: Start) -> None:
    name = "![x](http://evil.invalid/x.png)"
    start(*rescue(NOON - 60, "r", failed=name, answered="together"))
    page = opened()
    assert f"Most went from {name} to together" in shown(page)
    texts = [str(text.value) for text in (*page.markdown, *page.caption)]
    # The only images are our own drawings, whole in their address.
    images = [found for text in texts for found in re.findall(r"!\[[^\]]*\]\(([^\s)]*)", text)]
    assert "".join(texts).count("![") == len(images)
    assert all(re.fullmatch(r"data:image/svg\+xml;base64,[\w+/]+=*", address) for address in images)
    for card in cards(page).values():
        assert "evil" not in card["alt"] + card["title"] + card["drawn"]


# Downloads


def test_a_text_that_a_spreadsheet_would_calculate_gets_an_apostrophe_and_numbers_stay() -> None:
    frame = pd.DataFrame(
        {
            "=name": ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "plain", "a=b", None],
            "number": [-1, -2, -3, -4, -5, -6, -7, -8, -9],
            "share": [-0.5] * 9,
        }
    )
    read = pd.read_csv(io.BytesIO(as_csv(frame)), encoding="utf-8-sig", keep_default_na=False)
    assert list(read.columns) == ["'=name", "number", "share"]
    assert list(read["'=name"]) == ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\tx", "'\rx", "plain", "a=b", ""]
    assert list(read["number"]) == list(range(-1, -10, -1))
    assert as_csv(frame).startswith(b"\xef\xbb\xbf'=name,number,share\r\n")
    assert frame["=name"].iloc[0] == "=1+1", "the frame itself stays as it is"


def test_instants_in_a_csv_name_their_zone_and_parquet_keeps_every_type() -> None:
    frame = pd.DataFrame({"ts": pd.to_datetime(["2026-11-22T12:00:00.125Z"]), "n": [3], "text": ["=x"]})
    assert as_csv(frame).decode("utf-8-sig") == "ts,n,text\r\n2026-11-22T12:00:00.125Z,3,'=x\r\n"
    back = pd.read_parquet(io.BytesIO(as_parquet(frame)))
    assert back["ts"].iloc[0] == frame["ts"].iloc[0]
    assert list(back["text"]) == ["=x"], "Parquet is no spreadsheet"


def test_an_empty_frame_can_be_downloaded() -> None:
    frame = pd.DataFrame({"ts": pd.to_datetime([], utc=True), "text": pd.Series([], dtype=object)})
    assert as_csv(frame).decode("utf-8-sig") == "ts,text\r\n"
    assert len(neutral(frame)) == 0


def test_the_program_has_one_analytics_and_closes_it(start: Start) -> None:
    router = start(*week())
    first: Any = router.wiring.analytics()
    assert router.wiring.analytics() is first
    router.wiring.close()
    assert router.wiring.analytics() is not first
