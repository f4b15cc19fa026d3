"""`python -m fallback.demo history FOLDER`: write a made-up history into FOLDER, as a usage log."""

from __future__ import annotations

import argparse
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from fallback.config import load
from fallback.core.errors import ConfigError
from fallback.demo.history import Span, write_history


def main(argv: list[str] | None = None) -> int:
    """Write it; 2 where the arguments, the configuration or the folder are not usable."""
    options = _parser().parse_args(argv)
    try:
        span = Span(
            end=time.time() if options.end is None else options.end,
            days=options.days,
            requests_per_day=options.requests_per_day,
            seed=options.seed,
        )
        lines = write_history(options.folder, load(_configuration(options.config), environ={}), span)
    except (ConfigError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{lines:,} lines of {span.requests:,} requests in {options.folder}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fallback.demo",
        description="What the demo is made of. python main.py --demo serves the demo itself.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    history = commands.add_parser(
        "history",
        help="write a made-up history of several days as a usage log",
        description="Writes the usage log of days that never were: traffic with its days and nights, rate limits, an outage, "
        "a slow evening, a retired model, drills. With the same seed, end and configuration every byte is the same.",
        allow_abbrev=False,
    )
    history.add_argument(
        "folder", type=Path, metavar="FOLDER", help="where; it must not hold a usage log yet"
    )
    history.add_argument("--days", type=float, default=7.0, metavar="N", help="how many (7)")
    history.add_argument(
        "--requests-per-day", type=float, default=2000.0, metavar="N", help="on average (2000)"
    )
    history.add_argument("--seed", type=int, default=1, metavar="N", help="what everything is drawn from (1)")
    history.add_argument(
        "--end",
        type=_instant,
        metavar="TIME",
        help="when it ends, such as 2026-11-22T12:00; UTC where no offset is given (now)",
    )
    history.add_argument(
        "--config",
        metavar="FILE",
        help="whose providers take part (default: that of FALLBACK_CONFIG, else providers.yaml here, else beside main.py)",
    )
    return parser


def _instant(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a time such as 2026-11-22T12:00, got {text[:40]!r}"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _configuration(given: str | None) -> Path:
    named = given or os.environ.get("FALLBACK_CONFIG")
    here = Path("providers.yaml")
    if named or here.exists():
        return Path(named or here)
    return Path(__file__).resolve().parents[2] / "providers.yaml"


if __name__ == "__main__":
    sys.exit(main())
