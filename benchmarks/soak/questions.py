"""Questions to which one answer is right, to the letter, and the provider's side of it.

A question carries a token that no other one has, and the answer is made of the token: numbered words that begin with it. So a word
that is lost, doubled, moved or another caller's shows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from fallback.standin.answers import tokens_of

__all__ = ["Question", "answer_to", "reply"]

_QUESTION = re.compile(r"soak question ([a-z0-9]+):")
# Characters of two, three and four bytes, and one that JSON escapes.
_ENDS = ("", ".", "", "ü", "", "東京", '"', "🙂")


def answer_to(token: str) -> str:
    """Return the one right answer in words: 12 to 75 of them."""
    length = 12 + int(token, 36) % 64
    return " ".join(f"{token}-{number}{_ENDS[number % len(_ENDS)]}" for number in range(1, length + 1))


def _object_for(token: str) -> str:
    """Return the one right answer as JSON."""
    return json.dumps({"token": token, "words": answer_to(token)}, ensure_ascii=False)


def reply(body: Mapping[str, Any]) -> str:
    """Answer as a provider: the last question of the conversation counts."""
    found: list[str] = []
    for message in body.get("messages", ()):
        if message.get("role") == "user" and isinstance(message.get("content"), str):
            found += _QUESTION.findall(message["content"])
    if not found:
        return "pong"  # a probe's question
    return _object_for(found[-1]) if body.get("response_format") else answer_to(found[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question. `form`: words, an earlier conversation before it (talk), json, tool, or short (a limit of `limit` words)."""

    token: str
    form: str = "words"
    limit: int = 0

    @property
    def text(self) -> str:
        """What is asked."""
        return f"This is soak question {self.token}: say what there is to say."

    @property
    def expected(self) -> str:
        """The right text; of a tool call the JSON of its arguments."""
        match self.form:
            case "json":
                return _object_for(self.token)
            case "tool":
                return json.dumps({f"of_{self.token}": "w1"})
            case "short":
                return "".join(tokens_of(answer_to(self.token))[: self.limit])
            case _:
                return answer_to(self.token)

    @property
    def finish_reason(self) -> str:
        """The right end."""
        return {"tool": "tool_calls", "short": "length"}.get(self.form, "stop")

    def messages(self) -> list[dict[str, str]]:
        """Return the conversation."""
        before = []
        if self.form == "talk":
            before = [
                {"role": "system", "content": "Answer as you are asked."},
                {"role": "user", "content": "This is soak question 0zz: and what was it?"},
                {"role": "assistant", "content": answer_to("0zz")},
            ]
        return [*before, {"role": "user", "content": self.text}]

    def extras(self) -> dict[str, Any]:
        """Return what else a body under /v1 holds."""
        match self.form:
            case "json":
                return {"response_format": {"type": "json_object"}}
            case "tool":
                parameters = {"type": "object", "properties": {f"of_{self.token}": {"type": "string"}}}
                function = {"name": f"look_up_{self.token}", "parameters": parameters}
                return {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
            case "short":
                return {"max_tokens": self.limit}
            case _:
                return {}

    @staticmethod
    def drawn(serial: int, random: Random, *, forms: tuple[str, ...]) -> Question:
        """Return the question of the number `serial`, whose token no other number has."""
        digits, number = "", serial * 7919 + random.randrange(7919)
        while number:
            number, digit = divmod(number, 36)
            digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
        return Question(token=f"q{digits}", form=random.choice(forms), limit=random.randint(1, 11))
