"""The charts: what they hold, what they say in words, and that Vega draws them."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from typing import Any

import pandas as pd
import pytest

from fallback.analytics import Window
from fallback.core.errors import FailureKind
from fallback.ui.charts import (
    COURSE_COLOR,
    PICK,
    Canvas,
    Drawn,
    attempts_chart,
    availability_chart,
    cost_chart,
    course_svg,
    distribution_chart,
    failovers_chart,
    failures_chart,
    figures,
    latency_charts,
    pairs_chart,
    reading,
    states_chart,
    tokens_chart,
)
from fallback.ui.charts.drawn import color_of, dash_of, shape_of
from fallback.ui.charts.failovers import KIND_COLORS
from fallback.ui.charts.words import amount, counted, kind_label, moment, money, share, why

SINCE = 1_795_478_400.0
"""Tue 24 Nov 2026, 00:00 UTC."""
WINDOW = Window(since=SINCE, until=SINCE + 7_200, bucket_s=3_600)
NAMES = ("groq", "together", "local")
CANVAS = Canvas(window=WINDOW, providers=NAMES)


def at(hour: float) -> pd.Timestamp:
    return pd.Timestamp(SINCE + 3_600 * hour, unit="s", tz="UTC")


def drawn(chart: Drawn | None) -> Drawn:
    assert chart is not None
    return chart


def svg(chart: Drawn) -> str:
    """Let Vega draw it, as the browser does."""
    vl_convert = pytest.importorskip("vl_convert")
    rows = json.loads(chart.frame.to_json(orient="records", date_format="iso", date_unit="ms"))
    text: str = vl_convert.vegalite_to_svg(
        {**chart.spec, "width": 600, "data": {"name": "values", "values": rows}}, vl_version="6.4"
    )
    return text


def colors(spec: Any) -> dict[str, str]:
    """Return which value has which colour, from the first scale of colours in a specification."""
    if isinstance(spec, dict):
        scale = spec.get("color", {}).get("scale", {}) if isinstance(spec.get("color"), dict) else {}
        if "domain" in scale:
            return dict(zip(scale["domain"], scale["range"], strict=True))
        spec = list(spec.values())
    if isinstance(spec, list):
        for part in spec:
            if found := colors(part):
                return found
    return {}


FAILOVERS = pd.DataFrame(
    [(at(0), "rate_limited", 5), (at(0), "timeout", 2), (at(1), "rate_limited", 1)],
    columns=["bucket", "reason", "failovers"],
)
PAIRS = pd.DataFrame(
    [("groq", "together", 7, 6), ("together", "local", 1, 1)],
    columns=["from_provider", "to_provider", "failovers", "answered"],
)
LATENCY = pd.DataFrame(
    [
        (at(0), "groq", "direct", 9, 0.5, 1.2, 2.0),
        (at(1), "groq", "direct", 3, 0.6, 1.3, 2.1),
        (at(1), "groq", "failover", 1, 0.9, 0.9, 0.9),
        (at(0), "together", "failover", 4, 2.0, 4.0, 5.0),
    ],
    columns=["bucket", "provider", "role", "answers", "p50_s", "p95_s", "p99_s"],
)
WHOLE = pd.DataFrame(
    [
        ("groq", "direct", 12, 0.55, 1.3, 2.1),
        ("groq", "failover", 1, 0.9, 0.9, 0.9),
        ("together", "failover", 4, 2.0, 4.0, 5.0),
    ],
    columns=["provider", "role", "answers", "p50_s", "p95_s", "p99_s"],
)
DISTRIBUTION = pd.DataFrame(
    [
        ("groq", "direct", 0.4, 0.5, 2),
        ("groq", "direct", 0.5, 0.63, 8),
        ("together", "failover", 2.0, 2.5, 4),
    ],
    columns=["provider", "role", "low_s", "high_s", "answers"],
)
FAILURES = pd.DataFrame(
    [("groq", "rate_limited", 6), ("groq", "timeout", 2), ("together", "server_error", 2)],
    columns=["provider", "kind", "failures"],
)
AVAILABILITY = pd.DataFrame(
    [
        (at(0), "", 2_000, 1_999, 0.9995, 3.3),
        (at(24), "", 10, 10, 1.0, math.inf),
        (at(0), "groq", 100, 85, 0.85, 0.82),
    ],
    columns=["day", "provider", "calls", "good", "availability", "nines"],
)
STATES = pd.DataFrame(
    [
        ("groq", "ready", at(0), at(1), ""),
        ("groq", "cooling_down", at(1), at(1.5), "rate_limited"),
        ("groq", "ready", at(1.5), at(2), ""),
        ("together", "ready", at(0), at(2), ""),
    ],
    columns=["provider", "state", "begin", "end", "reason"],
)
CONSUMPTION = pd.DataFrame(
    [
        (at(0), "groq", 3, 1_000, 200, 0.01, 0),
        (at(0), "together", 1, 300, 100, 0.03, 0),
        (at(1), "local", 1, 50, 50, 0.0, 1),
    ],
    columns=["bucket", "provider", "answers", "input_tokens", "output_tokens", "cost_usd", "unpriced"],
)
ATTEMPTS = pd.DataFrame(
    [
        {"attempt": 1, "role": "first", "provider": "groq", "outcome": "rate_limited", "http_status": 429,
         "started_s": 0.0, "duration_s": 0.2, "ttft_s": None, "drill": True},
        {"attempt": 2, "role": "failover", "provider": "together", "outcome": "ok", "http_status": None,
         "started_s": 1.2, "duration_s": 2.0, "ttft_s": 0.5, "drill": False},
    ]
).assign(model="m", probe=False, cost_usd=None)  # fmt: skip


def every_chart(canvas: Canvas) -> dict[str, Drawn]:
    panels = dict(latency_charts(canvas, LATENCY, WHOLE))
    return {
        "failovers": drawn(failovers_chart(canvas, FAILOVERS)),
        "pairs": drawn(pairs_chart(canvas, PAIRS)),
        **{f"latency of {name}": panel for name, panel in panels.items()},
        "distribution": drawn(distribution_chart(canvas, DISTRIBUTION)),
        "failures": drawn(failures_chart(canvas, FAILURES)),
        "availability": drawn(availability_chart(canvas, AVAILABILITY)),
        "states": drawn(states_chart(canvas, STATES)),
        "tokens": drawn(tokens_chart(canvas, CONSUMPTION)),
        "cost": drawn(cost_chart(canvas, CONSUMPTION)),
        "attempts": drawn(attempts_chart(canvas, ATTEMPTS)),
    }


# What they say


@pytest.mark.parametrize(
    ("chart", "words"),
    [
        (
            "failovers",
            "8 failovers, most often because a provider is rate limited (6, 75.0 %). The most in one bar: 7, Tue 24 Nov 00:00.",
        ),
        (
            "pairs",
            (
                "Most went from groq to together: 7, of which 85.7 % were answered there. Of all 8, 87.5 % found their answer in "
                "the next provider."
            ),
        ),
        (
            "latency of groq",
            (
                "Asked first: 12 answers, half within 0.55 s, 95 % within 1.3 s, 99 % within 2.1 s. After a failover: 1 answer, "
                "half within 0.90 s, 95 % within 0.90 s, 99 % within 0.90 s."
            ),
        ),
        (
            "distribution",
            "groq is the fastest: half of its answers took less than 0.63 s; together is the slowest: 2.5 s.",
        ),
        (
            "failures",
            "groq failed 8 times, most often because it is rate limited (6). Of all 10 failures that is 80.0 %.",
        ),
        (
            "availability",
            "99.95 % of 2,010 requests were answered; the worst day was Tue 24 Nov with 99.95 %.",
        ),
        (
            "states",
            "groq was away for the longest: 30 min in 1 spell, 25.0 % of the time. together was ready all the time.",
        ),
        ("tokens", "1,700 tokens: 1,350 in questions, 350 in answers. groq took 70.6 % of them."),
        (
            "cost",
            "$0.0400 in all, failed attempts and probes included; together took 75.0 % of it. 1 answer had no price and is not in it.",
        ),
        ("attempts", "2 attempts in 3.2 s: groq failed (rate limited), then together answered."),
    ],
)
def test_each_chart_says_in_words_what_can_be_read_off_it(chart: str, words: str) -> None:
    made = every_chart(CANVAS)[chart]
    assert made.note == words
    assert words in made.alt


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("pick", [False, True])
def test_vega_draws_every_chart(dark: bool, pick: bool) -> None:
    for name, chart in every_chart(Canvas(window=WINDOW, providers=NAMES, dark=dark, pick=pick)).items():
        picture = svg(chart)
        assert 'aria-roledescription="' in picture, name
        assert "NaN" not in picture, name


def test_the_drawn_numbers_are_those_of_the_frames() -> None:
    charts = every_chart(CANVAS)
    assert ">7</text>" in svg(charts["pairs"])
    assert {">99.95</text>", ">100</text>", ">85.0</text>"} <= {
        f">{part.split('<')[0]}</text>" for part in svg(charts["availability"]).split(">")
    }
    assert list(charts["failovers"].frame["high"]) == [5, 7, 1]
    assert list(charts["failovers"].frame["low"]) == [0, 5, 0]


def test_nothing_is_drawn_where_there_is_nothing() -> None:
    assert failovers_chart(CANVAS, FAILOVERS.head(0)) is None
    assert pairs_chart(CANVAS, PAIRS.head(0)) is None
    assert latency_charts(CANVAS, LATENCY.head(0), WHOLE.head(0)) == []
    assert distribution_chart(CANVAS, DISTRIBUTION.head(0)) is None
    assert failures_chart(CANVAS, FAILURES.head(0)) is None
    assert availability_chart(CANVAS, AVAILABILITY.head(0)) is None
    assert states_chart(CANVAS, STATES.head(0)) is None
    assert tokens_chart(CANVAS, CONSUMPTION.head(0)) is None
    assert cost_chart(CANVAS, CONSUMPTION.assign(cost_usd=0.0)) is None
    assert attempts_chart(CANVAS, ATTEMPTS.head(0)) is None


# How they look


def test_rows_of_attempts_keep_their_height_beside_a_legend() -> None:
    with_legend = drawn(attempts_chart(CANVAS, ATTEMPTS)).spec["height"]
    plain = ATTEMPTS.assign(outcome="timeout", started_s=0.0, duration_s=1.0)
    assert with_legend > drawn(attempts_chart(CANVAS, plain)).spec["height"]


def test_a_provider_has_one_colour_on_every_chart_whoever_else_is_there() -> None:
    alone = CONSUMPTION[CONSUMPTION["provider"] == "together"]
    for frame in (CONSUMPTION, alone):
        assert colors(drawn(tokens_chart(CANVAS, frame)).spec)["together"] == color_of(1)
        assert colors(drawn(cost_chart(CANVAS, frame)).spec)["together"] == color_of(1)
    panel = dict(latency_charts(CANVAS, LATENCY, WHOLE))["together"]
    assert colors(panel.spec)["asked first"] == color_of(1)


def test_thirty_six_providers_are_told_apart() -> None:
    assert len({(color_of(place), shape_of(place)) for place in range(36)}) == 36
    assert len({(color_of(place), tuple(dash_of(place))) for place in range(24)}) == 24


def luminance(color: str) -> float:
    parts = (int(color[place : place + 2], 16) / 255 for place in (1, 3, 5))
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_colour_can_be_seen_on_both_backgrounds() -> None:
    for color in {COURSE_COLOR, *KIND_COLORS.values(), *(color_of(place) for place in range(6))}:
        assert contrast(color, "#ffffff") >= 3, color
        assert contrast(color, "#1b2130") >= 3, color


def test_white_numbers_can_be_read_in_every_cell_of_availability() -> None:
    found = colors(drawn(availability_chart(CANVAS, AVAILABILITY)).spec)
    assert len(found) == 5
    for color in found.values():
        assert contrast(color, "#ffffff") >= 4.5, color


def test_the_legend_names_what_is_there_and_nothing_else() -> None:
    def legends(spec: Any) -> list[list[str]]:
        if isinstance(spec, dict):
            own = (
                [spec["legend"]["values"]]
                if isinstance(spec.get("legend"), dict) and "values" in spec["legend"]
                else []
            )
            return own + [found for part in spec.values() for found in legends(part)]
        return [found for part in spec for found in legends(part)] if isinstance(spec, list) else []

    charts = every_chart(CANVAS)
    assert legends(charts["failovers"].spec)[0] == ["rate limited", "too slow"]
    assert legends(charts["tokens"].spec)[0] == ["groq", "together", "local"]
    assert legends(charts["cost"].spec)[0] == ["groq", "together"]
    assert legends(charts["states"].spec)[0] == ["ready", "cooling down"]
    assert legends(charts["availability"].spec)[0] == ["100 %", "three nines: 99.9 %", "less than 90 %"]


def test_a_click_can_pick_where_it_is_asked_for_alone() -> None:
    for pick in (False, True):
        made = every_chart(Canvas(window=WINDOW, providers=NAMES, pick=pick))
        for name in ("failovers", "pairs", "failures"):
            names = [param["name"] for param in made[name].spec.get("params", [])]
            assert (PICK in names) is pick, name


def test_a_second_window_uses_the_same_specification_with_its_own_ends() -> None:
    later = Canvas(window=Window(since=SINCE + 3_600, until=SINCE + 10_800, bucket_s=3_600), providers=NAMES)
    one, two = (drawn(failovers_chart(canvas, FAILOVERS)).spec for canvas in (CANVAS, later))
    ends = [[param["value"] for param in spec["params"] if param["name"] == "moments"] for spec in (one, two)]
    assert ends == [
        [[SINCE * 1000, (SINCE + 7_200) * 1000]],
        [[(SINCE + 3_600) * 1000, (SINCE + 10_800) * 1000]],
    ]
    assert {**one, "params": 0} == {**two, "params": 0}


def test_of_a_thousand_providers_the_busiest_are_drawn_and_the_rest_is_told_of() -> None:
    many = tuple(f"p{number:03}" for number in range(1_000))
    canvas = Canvas(window=WINDOW, providers=many)
    failed = pd.DataFrame({"provider": many, "kind": "timeout", "failures": range(1_000, 0, -1)})
    made = drawn(failures_chart(canvas, failed))
    assert set(made.frame["provider"]) == set(many[:12])
    assert "the filter shows the other 988" in made.note
    used = CONSUMPTION.iloc[[0] * 1_000].assign(provider=many)
    tokens = drawn(tokens_chart(canvas, used))
    assert tokens.frame["value"].sum() == 1_200 * 1_000, "the rest is drawn together"
    assert len(set(tokens.frame["provider"])) == 13
    slow = LATENCY.iloc[[0] * 1_000].assign(provider=many)
    assert len(latency_charts(canvas, slow, WHOLE.iloc[[0] * 1_000].assign(provider=many))) == 8
    assert svg(tokens)


def test_names_that_mean_something_elsewhere_are_shown_as_they_are() -> None:
    name = """a'b"]} + 1 <b>&c\\"""
    made = drawn(
        distribution_chart(Canvas(window=WINDOW, providers=(name,)), DISTRIBUTION.assign(provider=name))
    )
    assert "a'b\"]} + 1 &lt;b&gt;&amp;c" in svg(made).replace("&quot;", '"').replace("&#39;", "'")


def test_a_kind_that_nobody_knows_is_drawn_under_its_own_name() -> None:
    made = drawn(failovers_chart(CANVAS, FAILOVERS.assign(reason="cosmic_rays")))
    assert set(made.frame["kind"]) == {"cosmic rays"}
    assert "failed (cosmic rays)" in made.note


def test_a_wait_between_two_attempts_is_a_part_of_its_own_and_a_drill_is_marked() -> None:
    rows = drawn(attempts_chart(CANVAS, ATTEMPTS)).frame
    assert [
        (row["part"], round(row["begin"], 2), round(row["end"], 2)) for row in rows.to_dict("records")
    ] == [
        ("failed", 0.0, 0.2),
        ("waiting", 0.2, 1.2),
        ("until the first words", 1.2, 1.7),
        ("answering", 1.7, 3.2),
    ]
    assert list(rows["told"]) == ["failed (rate limited) (drill)", "answered", "answered", "answered"]


def test_a_day_without_calls_stands_in_the_chart_of_availability() -> None:
    frame = AVAILABILITY.assign(day=[at(0), at(72), at(0)])
    text = json.dumps(drawn(availability_chart(CANVAS, frame)).spec)
    assert '["Tue 24", "Wed 25", "Thu 26", "Fri 27"]' in text


# Figures


TOTALS = pd.DataFrame(
    [
        {
            "requests": 1_244, "answered": 1_234, "failed": 6, "cancelled": 4, "degraded": 3, "rescued": 40,
            "success_rate": 1234 / 1240, "success_rate_without_failover": 1194 / 1240, "failovers": 55,
            "failover_rate": 50 / 1244, "latency_p50_s": 2.4, "latency_p95_s": 9.0, "ttft_p50_s": 0.31, "ttft_p95_s": 1.0,
            "input_tokens": 12_000, "output_tokens": 3_400, "cost_usd": 0.0123, "unpriced": 3, "cost_per_1k_answers_usd": 0.00997,
        }
    ]
)  # fmt: skip


def test_figures_are_told_as_people_read_them() -> None:
    over_time = pd.concat([TOTALS.assign(bucket=at(0)), TOTALS.assign(bucket=at(1), latency_p50_s=math.nan)])
    told = {figure.key: figure for figure in figures(TOTALS, over_time)}
    assert {key: (figure.value, figure.note) for key, figure in told.items()} == {
        "requests": ("1,244", "1,234 answered"),
        "success": ("99.51 %", "6 failed"),
        "rescued": ("40", "96.3 % without it"),
        "failover_rate": ("4.0 %", "55 failovers"),
        "latency": ("2.4 s", "95 % within 9.0 s"),
        "ttft": ("0.31 s", "95 % within 1.0 s"),
        "tokens": ("15.4 k", "3,400 in answers"),
        "cost": ("$0.0123", "3 without a price"),
        "cost_per_1k": ("$0.0100", "1,234 answers"),
        "degraded": ("3", "0.24 % of answers"),
    }
    assert list(told["requests"].points) == [1_244, 1_244]
    assert list(told["latency"].points) == [2.4], "a bucket without answers has no median"


def test_the_course_of_a_figure_is_told_by_its_lowest_its_highest_and_its_last_point() -> None:
    over_time = pd.concat(
        [
            TOTALS.assign(bucket=at(place), requests=1_000 * place, success_rate=1 - place / 4)
            for place in (2, 0, 1)
        ]
    )
    told = {figure.key: figure.course for figure in figures(TOTALS, over_time)}
    assert told["requests"] == "0 to 2,000, 1,000 at the end"
    assert told["success"] == "50.0 % to 100 %, 75.0 % at the end"
    assert told["latency"] == "2.4 s all the time"
    assert told["tokens"] == "15.4 k all the time"
    assert told["cost"] == "$0.0123 all the time"
    assert {figure.course for figure in figures(TOTALS, over_time.iloc[:1])} == {""}


def path(svg: str) -> str:
    """Return what the one path in a drawing is made of."""
    (drawn,) = re.findall(r'<path d="([^"]*)" ', svg)
    return str(drawn)


def test_bars_begin_at_nothing_and_a_line_fills_the_height() -> None:
    bars = course_svg([10, 0, 5, 20], "bar", "")
    assert path(bars) == "M0 96V50M2 96V73M3 96V4"
    assert 'viewBox="-0.5 0 4 100"' in bars
    line = course_svg([10, 11, 20], "line", "")
    assert path(line) == "M0 96 1 87 2 4"
    assert 'viewBox="0 0 2 100"' in line
    assert path(course_svg([7, 7], "line", "")) == "M0 50 1 50", "nothing changes: in the middle"
    assert path(course_svg([0, 0], "bar", "")) == ""
    assert course_svg([1], "bar", "") == course_svg([], "line", "") == ""


def test_what_failover_did_is_one_sentence() -> None:
    assert reading(TOTALS) == (
        "1,244 requests, 1,234 of 1,240 answered. Failover saved 40 answers: without it 96.3 % of the requests would have been "
        "answered instead of 99.51 %."
    )
    assert reading(TOTALS.assign(rescued=0)).endswith("No answer needed a failover to be saved.")
    assert reading(TOTALS.assign(requests=0)) == "Nothing was asked in this time."


@pytest.mark.parametrize(
    ("value", "words"),
    [(1.0, "100 %"), (0.0, "0 %"), (0.99999, "99.99 %"), (0.9995, "99.95 %"), (0.00001, "0.01 %"), (0.083, "8.3 %"),
     (None, "—"), (math.nan, "—")],
)  # fmt: skip
def test_shares(value: float | None, words: str) -> None:
    assert share(value) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "$0"),
        (0.0000154, "$0.000015"),
        (0.0123, "$0.0123"),
        (12.345, "$12.35"),
        (1234.5, "$1,234"),
        (None, "—"),
    ],
)
def test_amounts_of_money(value: float | None, words: str) -> None:
    assert money(value) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (873, "873"),
        (9_999, "9,999"),
        (12_400, "12.4 k"),
        (999_999, "1.00 M"),
        (3_210_000, "3.21 M"),
        (1.05e9, "1.05 G"),
    ],
)
def test_large_numbers(value: float, words: str) -> None:
    assert amount(value) == words


def test_small_words() -> None:
    assert counted(1, "failover") == "1 failover"
    assert counted(1_200, "answer") == "1,200 answers"
    assert moment(SINCE, 3_600) == "Tue 24 Nov 01:00"
    assert moment(SINCE, -3_600, day=False) == "23:00"


def test_every_failure_kind_has_a_name_of_its_own_and_a_reason() -> None:
    names = {kind: kind_label(kind) for kind in FailureKind}
    assert len(set(names.values())) == len(names)
    assert all(why(kind) for kind in FailureKind)
    assert set(KIND_COLORS) == set(FailureKind) - {FailureKind.CANCELLED}


def test_the_charts_need_no_streamlit() -> None:
    check = "import sys, fallback.ui.charts, fallback.report; sys.exit('streamlit' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
