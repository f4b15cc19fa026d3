"""Known vulnerabilities in what is pinned: `python -m supply.audit`.

Theory of operation: two checks need no network, and fail what is wrong: that what is installed is what is pinned, and that the licences
are listed and permitted. The third asks a vulnerability service, through pip-audit, about requirements.txt. A vulnerability found
fails; a service that cannot be reached, or knows nothing of a package, is said in words and fails nothing: whether
somebody else's server is up says nothing about this program.

What may not live here: judging a vulnerability. Who cannot upgrade at once names it in IGNORED, with the reason.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from packaging.requirements import Requirement

from supply import licences

__all__ = ["IGNORED", "Verdict", "differences", "judged"]

IGNORED: Mapping[str, str] = {}
"""Vulnerabilities that are known here, by their number, and why they do not matter."""
LIMIT_S = 180.0
SERVICES = ("pypi", "osv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of asking one service."""

    lines: tuple[str, ...]
    vulnerable: bool = False
    answered: int = 0
    """Packages that the service knows."""


def differences(pins: Iterable[Requirement]) -> list[str]:
    """Return, in words, where what is installed is not what is pinned for this machine."""
    found = []
    for pin in pins:
        if pin.marker is not None and not pin.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(pin.name)
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{pin.name}: pinned, and not installed")
            continue
        if not pin.specifier.contains(version, prereleases=True):
            found.append(f"{pin.name}: {version} is installed, {pin.specifier} is pinned")
    return found


def judged(stdout: str, stderr: str) -> Verdict:
    """Return what pip-audit found out, `stdout` being its report in JSON where it has one."""
    try:
        entries = json.loads(stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        reason = stderr.strip().rpartition("\n")[2][:200] or "no reason was given"
        return Verdict(lines=(f"not checked: the service cannot be reached ({reason})",))
    known = [entry for entry in entries if "vulns" in entry]
    lines = [
        f"{entry['name']} {entry['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'nothing yet'}"
        for entry in known
        for flaw in entry["vulns"]
    ]
    unknown = len(entries) - len(known)
    if unknown:
        lines.append(f"not checked: the service knows nothing of {unknown} of {len(entries)} packages")
    return Verdict(lines=tuple(lines), vulnerable=any(entry["vulns"] for entry in known), answered=len(known))


def _ask(service: str) -> Verdict:
    ignored = [word for number in IGNORED for word in ("--ignore-vuln", number)]
    command = [
        sys.executable, "-m", "pip_audit", "--requirement", "requirements.txt", "--no-deps", "--disable-pip",
        "--vulnerability-service", service, "--format", "json", "--progress-spinner", "off", "--timeout", "15", *ignored,
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, cwd=licences.ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Verdict(lines=(f"not checked: no answer within {LIMIT_S:.0f} s",))
    return judged(done.stdout, done.stderr)


def main() -> int:
    """Check, and say what was checked. Returns the exit status."""
    pins = licences.pinned((licences.ROOT / "requirements.txt").read_text(encoding="utf-8"))
    wrong = differences(pins)
    for line in wrong:
        sys.stdout.write(f"{line}\n")
    if not wrong:
        sys.stdout.write("what is installed is what is pinned\n")
    status = licences.main(["--check"]) or (1 if wrong else 0)
    for service in SERVICES:
        verdict = _ask(service)
        for line in verdict.lines:
            sys.stdout.write(f"{service}: {line}\n")
        if verdict.vulnerable:
            return 1
        if verdict.answered:
            sys.stdout.write(f"{service}: no known vulnerability in {verdict.answered} packages\n")
            return status
    return status


if __name__ == "__main__":
    raise SystemExit(main())
