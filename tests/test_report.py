"""`python -m fallback report`: the same figures in a terminal, as JSON, and as one HTML file."""

from __future__ import annotations

import io
import json
import os
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from analytics_logs import append, attempt, change, request, rescue

from fallback.cli import main
from fallback.cli.terminal import Screen

CONFIGURATION = """
providers:
  - {name: groq, type: groq, endpoint: 'http://127.0.0.1:9/v1', model: m, allow_http: true}
  - {name: together, type: together, endpoint: 'http://127.0.0.1:9/v1', model: m, allow_http: true}
"""
HOSTILE = "</script><script src=//evil.invalid/x.js></script><img src=x onerror=alert(1)>"


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    file = tmp_path / "providers.yaml"
    file.write_text(CONFIGURATION)
    return file


def fill(configuration: Path, *, hostile: str = "together") -> None:
    now = time.time()
    lines: list[dict[str, object]] = []
    for number in range(9):
        ts = now - 1_000 - 60 * number
        lines += [attempt(ts, f"r{number}", cost_usd=0.002), request(ts, f"r{number}", cost_usd=0.002)]
    lines += rescue(now - 500, "saved", failed="groq", answered=hostile)
    lines += [
        attempt(now - 400, "lost", outcome="timeout", error_type="timeout"),
        request(now - 400, "lost", provider=None, first_provider="groq", error_type="timeout"),
        attempt(now - 300, "drilled", drill=True),
        request(now - 300, "drilled", drill=True),
        attempt(now - 3 * 86_400, "old"),
        request(now - 3 * 86_400, "old", source="chat"),
        change(now - 900, "groq", "ready", "cooling_down", reason="timeout", length_s=60.0),
    ]
    append(configuration.parent / "logs" / "usage.log", lines)


def run(capsys: pytest.CaptureFixture[str], configuration: Path, *arguments: str, status: int = 0) -> str:
    found = main(["report", "--config", str(configuration), *arguments])
    told = capsys.readouterr()
    assert found == status, told.err
    return told.out if status == 0 else told.err


def test_the_terminal_gets_every_figure(capsys: pytest.CaptureFixture[str], configuration: Path) -> None:
    fill(configuration)
    text = run(capsys, configuration)
    assert "11 requests, 10 of 11 answered. Failover saved 1 answer" in text
    for pattern in (
        r"Success rate +90\.9 % +1 failed",
        r"Rescued +1 +81\.8 % without it",
        r"Cost per 1,000 answers +\$1\.80",
        r"rate limited +1 +100 % +█+",
        r"groq +together +1 +100 %",
        r"groq +9 +81\.8 % +1\.0 s",
        r"groq +too slow +1",
    ):
        assert re.search(pattern, text), f"{pattern}\n{text}"
    assert "\x1b" not in text, "no colours in a pipe"


def test_since_until_and_filters_choose_what_is_counted(
    capsys: pytest.CaptureFixture[str], configuration: Path
) -> None:
    fill(configuration)

    def requests(*arguments: str) -> int:
        found: int = json.loads(run(capsys, configuration, "--json", *arguments))["totals"]["requests"]
        return found

    assert requests() == 11
    assert requests("--drills") == 12
    assert requests("--since", "7d") == 12
    assert requests("--since", "all") == 12
    assert requests("--since", "all", "--source", "chat") == 1
    assert requests("--since", "all", "--until", "2d") == 1
    assert requests("--provider", "together") == 1


def test_json_holds_every_figure_with_null_for_what_is_missing(
    capsys: pytest.CaptureFixture[str], configuration: Path
) -> None:
    fill(configuration)
    found = json.loads(run(capsys, configuration, "--json"))
    assert found["totals"]["success_rate"] == pytest.approx(10 / 11, abs=1e-12)
    assert found["totals"]["ttft_p50_s"] is None
    assert found["log"]["lines"] == 28
    assert found["failover_pairs"] == [
        {"from_provider": "groq", "to_provider": "together", "failovers": 1, "answered": 1}
    ]
    assert {row["state"] for row in found["states"]} == {"ready", "cooling_down"}
    assert found["since"].endswith("Z")


def test_logs_of_several_replicas_are_one_report_or_one_each(
    capsys: pytest.CaptureFixture[str], configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    for name, count in (("a", 2), ("b", 3)):
        requests = [request(now - 100, f"{name}{number}", instance=name) for number in range(count)]
        append(configuration.parent / name / "usage.log", requests)
    monkeypatch.setenv("USAGE_LOGS", f"a{os.pathsep}b")
    assert "5 requests" in run(capsys, configuration)
    text = run(capsys, configuration, "--instance", "b")
    assert "3 requests" in text
    assert "only instance b" in text
    found = json.loads(run(capsys, configuration, "--json", "--instance", "a"))
    assert (found["totals"]["requests"], found["filters"]["instances"]) == (2, ["a"])
    told = run(capsys, configuration, "--instance", "c", status=2)
    assert "--instance: the log knows no 'c'; it knows b, a" in told


def test_an_unknown_name_is_told_every_known_one_once(
    capsys: pytest.CaptureFixture[str], configuration: Path
) -> None:
    fill(configuration)
    told = run(capsys, configuration, "--provider", "nope", status=2)
    assert told == "--provider: the log knows no 'nope'; it knows groq, together\n"


def test_an_empty_log_is_no_error(capsys: pytest.CaptureFixture[str], configuration: Path) -> None:
    assert "Nothing was asked in this time." in run(capsys, configuration)
    assert json.loads(run(capsys, configuration, "--json"))["totals"]["requests"] == 0
    file = configuration.parent / "empty.html"
    run(capsys, configuration, "--html", str(file))
    assert "Nothing was asked in this time." in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--since", "yesterday"), "--since: expected something like 24h"),
        (("--until", "5"), "--until: expected something like 1h"),
        (("--since", "1h", "--until", "2030-01-01T25:00"), "--until"),
        (("--since", "2026-11-22T12:00", "--until", "2026-11-22T11:00"), "--since: it lies behind --until"),
        (("--provider", "nobody"), "--provider: the log knows no 'nobody'"),
        (("--html", "/nowhere/at/all/report.html"), "cannot be written"),
    ],
)
def test_what_makes_no_sense_is_told(
    capsys: pytest.CaptureFixture[str], configuration: Path, arguments: tuple[str, ...], words: str
) -> None:
    fill(configuration)
    assert words in run(capsys, configuration, *arguments, status=2)


def test_damaged_lines_are_told(capsys: pytest.CaptureFixture[str], configuration: Path) -> None:
    fill(configuration)
    with (configuration.parent / "logs" / "usage.log").open("ab") as log:
        log.write(b"{broken\n")
    assert "1 of 29 lines could not be read" in run(capsys, configuration)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colours_and_obeys_nothing_from_the_log(
    capsys: pytest.CaptureFixture[str], configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(configuration, hostile="to\x1b]0;x\x07gether")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    monkeypatch.setattr("fallback.cli.Screen", lambda: Screen(out, io.StringIO()))
    assert main(["report", "--config", str(configuration)]) == 0
    assert "\x1b[2m" in out.getvalue()
    assert "\x1b]" not in out.getvalue()
    assert "\x07" not in out.getvalue()


# The HTML file


class Page(HTMLParser):
    """What a browser would load, run or show of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: list[tuple[str | None, str]] = []
        self._inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.blocks.append((dict(attrs).get("type"), ""))
            self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside:
            kind, text = self.blocks[-1]
            self.blocks[-1] = (kind, text + data)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One report of a log with a hostile provider."""
    folder = tmp_path_factory.mktemp("report")
    file = folder / "providers.yaml"
    file.write_text(CONFIGURATION)
    fill(file, hostile=HOSTILE)
    assert main(["report", "--config", str(file), "--html", str(folder / "report.html")]) == 0
    assert [one.name for one in folder.iterdir() if one.name.startswith(".report")] == []
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_file_needs_nothing_from_anywhere(written: str) -> None:
    page = Page()
    page.feed(written)
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "img", "object", "embed", "base"}, tag
        assert not {"src", "href", "srcset", "data", "action"} & set(attributes), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
    style = written[written.index("<style>") : written.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_its_policy_allows_the_one_script_in_it_and_nothing_else(written: str) -> None:
    import base64
    import hashlib

    page = Page()
    page.feed(written)
    (policy,) = [
        a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    (code,) = [text for kind, text in page.blocks if kind is None]
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy


def test_what_the_log_says_is_text_in_it(written: str) -> None:
    page = Page()
    page.feed(written)
    assert len(page.blocks) == 2, "no script but ours"
    (data,) = [text for kind, text in page.blocks if kind == "application/json"]
    assert "<" not in data
    charts: list[dict[str, Any]] = json.loads(data)
    assert HOSTILE in {row.get("to_provider") for chart in charts for row in chart["rows"]}
    assert len(charts) >= 8
    assert all(chart["light"]["config"] != chart["dark"]["config"] for chart in charts)


def test_every_chart_has_a_name_for_who_cannot_see_it_and_a_sentence(written: str) -> None:
    page = Page()
    page.feed(written)
    charts = [
        attributes for tag, attributes in page.tags if tag == "div" and attributes.get("class") == "chart"
    ]
    assert len(charts) >= 8
    assert all(attributes.get("aria-label") and attributes.get("role") == "img" for attributes in charts)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", written)
    assert len(captions) == len(charts)
    assert all(captions)
