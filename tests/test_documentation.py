"""The pages of the documentation: every link leads somewhere, and every page is found from the README."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


@cache
def prose(page: Path) -> str:
    """Return the text of `page` without its blocks of code."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    return [link for link in _LINK.findall(prose(page)) if not re.match(r"[a-z]+:", link)]


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the names under which the headings of `page` can be linked to, as GitHub makes them."""
    found: list[str] = []
    for heading in _HEADING.findall(prose(page)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
    return frozenset(found)


def target_of(page: Path, link: str) -> tuple[Path, str]:
    path, _, anchor = link.partition("#")
    return ((page.parent / path).resolve() if path else page), anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        target, anchor = target_of(page, link)
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_found_from_the_readme() -> None:
    found: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in found:
            continue
        found.add(page)
        ahead += [
            target
            for target, _ in (target_of(page, link) for link in links(page))
            if target.suffix == ".md" and target.exists()
        ]
    assert [str(page.relative_to(ROOT)) for page in PAGES if page not in found] == []


def test_every_picture_of_the_documentation_is_shown_somewhere() -> None:
    shown = {target_of(page, link)[0] for page in PAGES for link in links(page)}
    assert [
        picture.name for picture in sorted((ROOT / "docs/images").iterdir()) if picture not in shown
    ] == []


def test_every_package_of_the_program_is_named_where_its_structure_is_told() -> None:
    told = (ROOT / "docs/architecture.md").read_text(encoding="utf-8") + (ROOT / "README.md").read_text(
        encoding="utf-8"
    )
    packages = [each.parent.name for each in (ROOT / "fallback").glob("*/__init__.py")]
    missing = [name for name in sorted(packages) if not re.search(rf"\b{name}\b", told)]
    assert missing == []
