"""The licences of everything that runs: `python -m supply.licences` writes THIRD_PARTY.md, `--check` says whether it is current.

Theory of operation: pip-licenses reads what installed packages say about themselves. Some say it as an SPDX expression, some in words;
words become SPDX by the table below, and the parser of SPDX expressions decides whether what comes of it is permitted: all parts
of an AND, one part of an OR. A word that is not in the table is a question for a person, and so an error.

What may not live here: what is pinned (requirements.txt), and what is only used to develop.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from license_expression import ExpressionError, get_spdx_licensing
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = [
    "LISTED",
    "PERMITTED",
    "ROOT",
    "Package",
    "is_permitted",
    "pinned",
    "run_time_packages",
    "spdx",
    "table",
]

ROOT = Path(__file__).resolve().parent.parent
LISTED = ROOT / "THIRD_PARTY.md"

PERMITTED = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MIT-0",
        "MIT-CMU",
        "MPL-2.0",  # asks for the source of its own files alone, which are passed on unchanged
        "PSF-2.0",
        "Zlib",
    }
)
"""What may run beside a program under the MIT licence, and be passed on with it in an image."""

_IN_WORDS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_LICENSING = get_spdx_licensing()
_BEGINNING = """\
# Third-party software

What the program installs to run (requirements.txt, on Linux), and under which licences. `make licences` writes this list from what the packages
say about themselves; a test sees to it that it is current, and that each licence is one that may be passed on with a program under MIT.

Beside these the image holds the weights of SmolLM2-135M-Instruct, under the Apache License 2.0.

| Package | Version | Licence |
|---|---|---|
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """An installed package."""

    name: str
    version: str
    licence: str
    """An SPDX expression."""


def pinned(text: str) -> list[Requirement]:
    """Return the requirements in the text of a requirements file."""
    lines = (line.split(" #")[0].strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def run_time_packages() -> list[Package]:
    """Return what requirements.txt brings onto this machine, from what is installed. Raises ValueError at unknown licences."""
    wanted = pinned((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    here = [each.name for each in wanted if each.marker is None or each.marker.evaluate()]
    told = subprocess.run(
        [
            sys.executable, "-m", "piplicenses", "--python", sys.executable, "--from=mixed", "--format=json",
            "--packages", *here,
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return sorted(_packages(json.loads(told.stdout)), key=lambda package: package.name.lower())


def _packages(entries: Sequence[dict[str, Any]]) -> Iterable[Package]:
    for entry in entries:
        yield Package(
            name=canonicalize_name(entry["Name"]),
            version=str(entry["Version"]),
            licence=spdx(str(entry["License"])),
        )


def spdx(told: str) -> str:
    """Return what a package says about its licence as an SPDX expression. Raises ValueError where it is none."""
    # Classifiers come one beside the other: the licences among which one may choose.
    parts = [_IN_WORDS.get(part.strip(), part.strip()) for part in told.split(";")]
    try:
        expression = _LICENSING.parse(" OR ".join(parts), validate=True)
    except ExpressionError:
        expression = None
    if expression is None:
        raise ValueError(f"not an SPDX expression: {told!r}; add it to the table in supply/licences.py")
    return str(expression)


def is_permitted(expression: str) -> bool:
    """Return whether one may pass on, with this program, what is under the licence `expression`."""
    return _holds(_LICENSING.parse(expression, validate=True))


def _holds(part: Any) -> bool:
    if isinstance(part, _LICENSING.AND):
        return all(_holds(each) for each in part.args)
    if isinstance(part, _LICENSING.OR):
        return any(_holds(each) for each in part.args)
    return part.key in PERMITTED


def table(packages: Iterable[Package]) -> str:
    """Return the text of THIRD_PARTY.md."""
    rows = (f"| {package.name} | {package.version} | {package.licence} |\n" for package in packages)
    return _BEGINNING + "".join(rows)


def main(arguments: Sequence[str]) -> int:
    """Write the list, or compare it. Returns the exit status."""
    try:
        packages = run_time_packages()
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    refused = [f"{each.name}: {each.licence}" for each in packages if not is_permitted(each.licence)]
    if refused:
        sys.stderr.write("licences that are not permitted:\n  " + "\n  ".join(refused) + "\n")
        return 1
    text = table(packages)
    if "--check" not in arguments:
        LISTED.write_text(text, encoding="utf-8")
    elif not LISTED.exists() or LISTED.read_text(encoding="utf-8") != text:
        sys.stderr.write("THIRD_PARTY.md is not current: make licences\n")
        return 1
    sys.stdout.write(f"{len(packages)} packages, every licence permitted\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
