"""The command line: `python -m fallback ask`, `providers`, `report` and `password`. docs/cli.md describes it.

Exit status: 0 done, 1 no answer or nothing changed, 2 wrong arguments or configuration, 130 ended by Ctrl-C, 141 nobody reads
the output any more. What was asked for goes to stdout, everything else to stderr.

What may not live here: decisions about requests. Neither Streamlit nor, for `providers`, any model is loaded.
"""

from __future__ import annotations

import os
import sys

from fallback.cli.arguments import parser
from fallback.cli.terminal import Screen, UsageError
from fallback.core.errors import ConfigError, RequestError

__all__ = ["main"]

INTERRUPTED = 130
NOBODY_READS = 141


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status. Raises SystemExit for --help and wrong arguments, as argparse does."""
    screen = Screen()
    try:
        options = parser().parse_args(argv)
        if options.command == "password":
            from fallback.cli.password import password

            return password(screen)
        screen.plain = options.no_color
        # Here, so that --help and a mistyped argument cost nothing.
        if options.command == "ask":
            from fallback.cli.ask import ask

            return ask(options, screen)
        if options.command == "report":
            from fallback.cli.report import report

            return report(options, screen)
        from fallback.cli.switches import providers

        return providers(options, screen)
    except (ConfigError, RequestError, UsageError) as error:
        screen.tell(str(error), "red")
        return 2
    except KeyboardInterrupt:
        screen.tell("Stopped.", "yellow")
        return INTERRUPTED
    except BrokenPipeError:
        # What Python still holds for stdout would fail once more at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS
