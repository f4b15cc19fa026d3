"""What the program is made of: pinned to the last package, under licences that are permitted, and looked through for holes."""

from __future__ import annotations

import importlib.metadata
import json
import re
import tomllib
from collections.abc import Iterable

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from supply.audit import differences, judged
from supply.licences import (
    LISTED,
    ROOT,
    Package,
    is_permitted,
    pinned,
    run_time_packages,
    spdx,
    table,
)

FILES = sorted(ROOT.glob("requirements*.txt"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins(name: str) -> dict[str, Requirement]:
    return {canonicalize_name(each.name): each for each in pinned((ROOT / name).read_text(encoding="utf-8"))}


def holding_here(texts: Iterable[str], extras: Iterable[str] = ()) -> list[Requirement]:
    """Return those of the requirements that hold on this machine, with these extras."""
    return [
        each
        for each in map(Requirement, texts)
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in (*extras, ""))
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_line_pins_one_version(file: pytest.Item) -> None:
    found = pinned((ROOT / file.name).read_text(encoding="utf-8"))
    assert found
    for requirement in found:
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", requirement
        assert "*" not in specifier.version, requirement
        assert requirement.url is None, requirement


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_marker_asks_for_the_release_of_a_kernel(file: pytest.Item) -> None:
    # pip 24.1 to 25, which comes with Python 3.13, ends with InvalidVersion over one such as 6.8.0-45-generic.
    for requirement in pinned((ROOT / file.name).read_text(encoding="utf-8")):
        assert not re.search("platform_(release|version)", str(requirement.marker)), requirement


def test_everything_that_runs_is_pinned() -> None:
    known = pins("requirements.txt")
    looked_at: set[str] = set()
    waiting = holding_here(PYPROJECT["project"]["dependencies"])
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        assert name in known, f"{name} is needed and not pinned: make pins"
        (pin,) = known[name].specifier
        assert requirement.specifier.contains(pin.version, prereleases=True), f"{requirement}: make pins"
        if name not in looked_at:
            looked_at.add(name)
            waiting.extend(holding_here(importlib.metadata.requires(name) or (), requirement.extras))
    here = {name for name, pin in known.items() if pin.marker is None or pin.marker.evaluate()}
    assert here == looked_at, "pinned, and needed by nothing: make pins"


def test_tools_are_pinned_to_what_the_program_runs_with() -> None:
    exporting, developing = pins("requirements-otlp.txt"), pins("requirements-dev.txt")
    for name, pin in {**pins("requirements.txt"), **exporting}.items():
        assert developing[name].specifier == pin.specifier, f"{name}: make pins"
    for text in PYPROJECT["dependency-groups"]["dev"]:
        assert canonicalize_name(Requirement(text).name) in developing, f"{text}: make pins"


def test_what_is_installed_is_what_is_pinned() -> None:
    assert differences(pins("requirements.txt").values()) == []


def test_difference_from_the_pins_is_told() -> None:
    found = differences(
        [
            Requirement("pytest==0.1"),
            Requirement("no-such-package==1"),
            Requirement("x==1 ; sys_platform == 'nowhere'"),
        ]
    )
    installed = importlib.metadata.version("pytest")
    assert found == [
        f"pytest: {installed} is installed, ==0.1 is pinned",
        "no-such-package: pinned, and not installed",
    ]


def test_list_of_licences_is_current_and_every_licence_permitted() -> None:
    packages = run_time_packages()
    rows = set(LISTED.read_text(encoding="utf-8").splitlines())
    for package in packages:
        assert is_permitted(package.licence), package
    missing = set(table(packages).splitlines()) - rows
    assert not missing, "THIRD_PARTY.md is not current: make licences"
    listed = {row.split("|")[1].strip() for row in rows if row.startswith("| ")} - {"Package"}
    assert listed <= set(pins("requirements.txt")), "THIRD_PARTY.md is not current: make licences"


@pytest.mark.parametrize(
    ("told", "expression"),
    [
        ("MIT License", "MIT"),
        ("Apache-2.0 AND MIT", "Apache-2.0 AND MIT"),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", "MPL-2.0 AND (Apache-2.0 OR MIT)"),
        ("Apache Software License; MIT License", "Apache-2.0 OR MIT"),
    ],
)
def test_licence_in_words_becomes_an_expression(told: str, expression: str) -> None:
    assert spdx(told) == expression


@pytest.mark.parametrize("told", ["UNKNOWN", "Our Own Licence", "", "MIT OR"])
def test_licence_that_nobody_knows_is_a_question_for_a_person(told: str) -> None:
    with pytest.raises(ValueError, match="supply/licences"):
        spdx(told)


@pytest.mark.parametrize(
    ("expression", "permitted"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND (AGPL-3.0-only OR LGPL-3.0-only)", False),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
    ],
)
def test_permission_follows_the_expression(expression: str, permitted: bool) -> None:
    assert is_permitted(expression) is permitted


def test_table_has_a_row_for_each_package() -> None:
    text = table(
        [Package(name="a", version="1", licence="MIT"), Package(name="b", version="2", licence="ISC")]
    )
    assert text.endswith("|---|---|---|\n| a | 1 | MIT |\n| b | 2 | ISC |\n")


def report(*entries: dict[str, object]) -> str:
    return json.dumps({"dependencies": list(entries), "fixes": []})


def test_vulnerability_is_told_and_fails() -> None:
    flaw = {"id": "PYSEC-2026-1", "fix_versions": ["2.0"], "aliases": [], "description": "x"}
    verdict = judged(report({"name": "a", "version": "1.0", "vulns": [flaw]}), "")
    assert verdict.vulnerable
    assert verdict.lines == ("a 1.0: PYSEC-2026-1, fixed in 2.0",)


def test_nothing_found_is_no_failure() -> None:
    verdict = judged(report({"name": "a", "version": "1.0", "vulns": []}), "")
    assert (verdict.vulnerable, verdict.answered, verdict.lines) == (False, 1, ())


def test_service_out_of_reach_is_said_and_fails_nothing() -> None:
    verdict = judged("", "Traceback\nConnectionError: no route")
    assert not verdict.vulnerable
    assert verdict.lines == ("not checked: the service cannot be reached (ConnectionError: no route)",)


def test_package_that_a_service_does_not_know_is_said_and_does_not_count_as_checked() -> None:
    verdict = judged(report({"name": "a", "skip_reason": "not found"}), "")
    assert (verdict.vulnerable, verdict.answered) == (False, 0)
    assert verdict.lines == ("not checked: the service knows nothing of 1 of 1 packages",)
