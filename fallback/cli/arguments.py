"""The arguments of the command line."""

from __future__ import annotations

import argparse

__all__ = ["parser"]


def parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m fallback`. It ends the program with status 2 where the arguments are wrong."""
    top = argparse.ArgumentParser(
        prog="python -m fallback",
        description="Asks LLM providers in turn until one answers, and switches them on and off.",
        epilog="python main.py serves the dashboard and the HTTP API.",
        allow_abbrev=False,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_ask(commands)
    _add_providers(commands)
    _add_report(commands)
    commands.add_parser(
        "password",
        help="make what DASHBOARD_PASSWORD in .env takes",
        description="Asks twice for a password, which is not shown, and prints its hash for DASHBOARD_PASSWORD or "
        "DASHBOARD_VIEWER_PASSWORD in .env. Where stdin is not a terminal its first line is the password.",
        allow_abbrev=False,
    )
    return top


def _common(*, json: str, defaults: bool = True) -> argparse.ArgumentParser:
    """Return the options that every command has. Without `defaults` they leave alone what was given before."""
    shared = argparse.ArgumentParser(add_help=False, argument_default=None if defaults else argparse.SUPPRESS)
    shared.add_argument(
        "--config",
        metavar="FILE",
        help="the configuration (default: that of FALLBACK_CONFIG, else providers.yaml here, else beside main.py)",
    )
    unset = False if defaults else argparse.SUPPRESS
    shared.add_argument("--json", action="store_true", help=json, default=unset)
    shared.add_argument(
        "--no-color",
        action="store_true",
        help="no colours; NO_COLOR=1 in the environment does the same",
        default=unset,
    )
    return shared


def _add_ask(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    ask = commands.add_parser(
        "ask",
        help="ask a question",
        description="Streams the answer to stdout and tells of every attempt on stderr.",
        parents=[_common(json="print the whole answer as POST /api/generate gives it")],
        allow_abbrev=False,
    )
    ask.add_argument(
        "prompt", nargs="+", help="the question, quoted or as several words; - reads it from stdin"
    )
    ask.add_argument(
        "--model", default="auto", help="a route, a provider or a model to ask first (default auto)"
    )
    ask.add_argument("--system", metavar="TEXT", help="what the model is told before the question")
    ask.add_argument("--temperature", type=float, metavar="T", help="0 to 2")
    ask.add_argument("--max-tokens", type=int, metavar="N", help="the longest answer")
    ask.add_argument("--deadline", type=float, metavar="S", help="seconds for everything together")


def _add_providers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    json = "print what GET /api/providers gives"
    providers = commands.add_parser(
        "providers",
        help="see the providers, switch them, let them fail on purpose",
        description="Sees and changes the providers of every program that runs with this configuration, within a second; "
        "where none runs, of the next one. Without a command: status.",
        parents=[_common(json=json)],
        allow_abbrev=False,
    )
    actions = providers.add_subparsers(dest="action", metavar="COMMAND")
    shared = _common(json=json, defaults=False)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return actions.add_parser(
            name,
            help=text,
            description=f"{text[:1].upper()}{text[1:]}.",
            parents=[shared],
            allow_abbrev=False,
        )

    add("status", "show a table of the providers in the order asked")
    for name, text in (
        ("on", "switch providers on"),
        ("off", "switch providers off: they get no request from the next one on"),
        ("end-cooldown", "make providers ready at once, whatever they rest or are disabled for"),
    ):
        add(name, text).add_argument("names", nargs="+", metavar="NAME")
    _add_drill(add("drill", "let a provider fail on purpose"))
    end = add("end-drill", "end drills")
    end.add_argument("names", nargs="*", metavar="NAME")
    end.add_argument("--all", action="store_true", help="of every provider")
    add("preset", "start the drills of a preset and end all others").add_argument(
        "title", nargs="+", metavar="NAME", help='such as "Groq outage"'
    )
    order = add("order", "change the order in which providers are asked")
    order.add_argument("names", nargs="*", metavar="NAME", help="every provider, the first one first")
    order.add_argument("--reset", action="store_true", help="back to the order of the configuration")


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    report = commands.add_parser(
        "report",
        help="say what failover did: how often, why, what it saved and what it cost",
        description="Reads the usage log and shows the figures of the Analytics page. It needs no running program.",
        parents=[_common(json="print every figure and every chart's rows")],
        allow_abbrev=False,
    )
    report.add_argument(
        "--since",
        default="24h",
        metavar="TIME",
        help="a length such as 15m, 24h (the default), 7d or 4w, all, or a time such as 2026-11-22T12:00",
    )
    report.add_argument("--until", metavar="TIME", help="a time, or how long ago; now without it")
    report.add_argument(
        "--html", metavar="FILE", help="write one HTML file with the charts, which needs nothing else"
    )
    for name, text in (
        ("provider", "only what this provider took part in"),
        ("instance", "only what this process wrote (INSTANCE_NAME)"),
        ("route", "only requests for this route"),
        ("source", "only requests from there, such as chat or api"),
    ):
        report.add_argument(f"--{name}", action="append", metavar="NAME", help=f"{text}; may be given again")
    report.add_argument("--drills", action="store_true", help="count injected faults, too")


def _add_drill(drill: argparse.ArgumentParser) -> None:
    drill.add_argument("name", metavar="NAME")
    drill.add_argument("kind", metavar="KIND", help="what fails; docs/drills.md lists the kinds")
    drill.add_argument("--value", type=float, help="how strong it is; what it means depends on the kind")
    drill.add_argument(
        "--for",
        dest="length",
        default="5m",
        metavar="TIME",
        help="its length: 30s, 5m (the default), 2h, 1d, or forever",
    )
    drill.add_argument("--probability", type=float, metavar="P", help="the share of calls that fail, 0 to 1")
    drill.add_argument("--seed", type=int, help="with the same one the same calls fail")
