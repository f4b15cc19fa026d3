"""`python -m fallback ask`: one question, its answer as it comes, and what happens on the way."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fallback import activity
from fallback.api.encode import answer_object
from fallback.api.errors import error_reply
from fallback.cli.place import opened
from fallback.cli.terminal import Colour, Screen, UsageError
from fallback.core.errors import NoAnswerError
from fallback.core.models import (
    Answer,
    AttemptFailed,
    AttemptStarted,
    CandidateSkipped,
    ChatRequest,
    Delta,
    Event,
    Finished,
    Waiting,
)
from fallback.intake import chat_request
from fallback.router import ModelRouter
from fallback.ui.wording import cost, duration
from fallback.wiring import Wiring

__all__ = ["ask"]

MAX_PROMPT_BYTES = 1024 * 1024


def ask(options: argparse.Namespace, screen: Screen) -> int:
    """Ask and show. Returns the exit status; raises RequestError, UsageError and ConfigError."""
    request = chat_request(
        _prompt(" ".join(options.prompt)),
        system=options.system,
        model=options.model,
        temperature=options.temperature,
        max_tokens=options.max_tokens,
        deadline_s=options.deadline,
        source="cli",
    )
    with opened(options.config) as wiring:
        router = ModelRouter(wiring)
        try:
            answer = _follow(router, request, screen, live=not options.json)
        except NoAnswerError as error:
            screen.end_line()
            if options.json:
                _print_json(error_reply(error, request.request_id).body(), screen)
            screen.tell(f"No answer: {error}", "red")
            return 1
        finally:
            router.close()
        if options.json:
            _print_json(answer_object(answer), screen)
        screen.tell(_summary(answer), "dim")
    return 0


def _prompt(given: str) -> str:
    if given != "-":
        return given
    raw = sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1)
    if len(raw) > MAX_PROMPT_BYTES:
        raise UsageError("stdin holds more than 1 MiB: that is too long for a question")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"stdin is not UTF-8 (byte {error.start})") from None


def _follow(router: ModelRouter, request: ChatRequest, screen: Screen, *, live: bool) -> Answer:
    with router.ask(request) as events:
        for event in events:
            _start_models_for(event, router.wiring)
            match event:
                case Delta():
                    if live:
                        screen.write(event.text)
                case Finished():
                    screen.end_line()
                    _tell(event, screen)
                    return event.answer
                case _:
                    _tell(event, screen)
    raise AssertionError("a course ends with Finished or with an exception")


def _start_models_for(event: Event, wiring: Wiring) -> None:
    """Load the embedded models as soon as it looks as though one will be asked: it costs a second of two processors."""
    needed = isinstance(event, CandidateSkipped | AttemptFailed)
    if needed or (isinstance(event, AttemptStarted) and event.provider in wiring.models):
        for model in wiring.models.values():
            model.start()


def _tell(event: Event, screen: Screen) -> None:
    colour: Colour = "dim"
    match event:
        case AttemptFailed():
            colour = "red"
        case CandidateSkipped() | Waiting():
            colour = "yellow"
        case Finished():
            colour = "green"
    for line in activity.lines(event):
        screen.tell(line, colour)


def _summary(answer: Answer) -> str:
    parts = [
        f"{answer.provider} ({answer.model})",
        duration(answer.latency_s),
        f"{answer.usage.total_tokens} tokens",
        cost(answer.cost_usd),
    ]
    if answer.truncated:
        parts.append("cut short by its limit of tokens")
    return ", ".join(parts)


def _print_json(value: dict[str, Any], screen: Screen) -> None:
    import json

    screen.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
