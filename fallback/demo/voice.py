"""What the simulated providers say: words of the embedded model where it is there, prepared ones otherwise.

A cloud provider begins to answer within half a second, which the embedded model does not. So it gets a moment to think,
and what it has said by then, up to its last whole sentence, is the answer; the same question gets the same answer again.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from zlib import crc32

from fallback.core.errors import NoAnswerError, StreamBrokenError
from fallback.core.models import Delta
from fallback.drills import announced
from fallback.loop.continuation import begun_in
from fallback.router import TEST_PROMPT, ModelRouter
from fallback.state import MemoryStateStore
from fallback.wiring import Wiring, assemble

__all__ = ["PREPARED", "Voice", "whole_sentences"]

THINKING_S = 1.2
KEPT = 256
LONGEST_PROMPT = 2000

PREPARED: Final[Mapping[str, str]] = {
    "What is the capital of Japan?": "The capital of Japan is Tokyo. It has been since 1868, when the emperor moved there "
    "from Kyoto.",
    "Why is the sky blue?": "Air scatters short waves of sunlight far more than long ones. So blue light reaches our eyes "
    "from every direction, while the rest comes straight from the sun.",
    "Explain in two sentences what an API is.": "An API is an agreement on how one program may ask another for something. "
    "It names the questions that are understood and the shape of the answers.",
    "Give me a name for a small bakery.": "How about The Second Rise? It sounds warm, and bakers will smile at it.",
    "What does HTTP status 429 mean?": "It means Too Many Requests: you have asked more often than the server allows. The "
    "header Retry-After tells how many seconds to wait.",
    "Write a haiku about the sea.": "Grey morning, slow swell.\nA gull writes its single line,\nthe tide rubs it out.",
    "How do I reverse a list in Python?": "Use `items[::-1]` for a new list, or `items.reverse()` to turn the list itself "
    "around. `reversed(items)` gives an iterator and copies nothing.",
    "Translate 'good morning' into Spanish.": "Good morning is 'buenos días' in Spanish.",
    "What is the difference between a retry and a failover?": "A retry asks the same provider again, in case the failure "
    "was a passing one. A failover asks the next provider instead.",
    "Name three planets.": "Mercury, Venus and Mars: three of the four rocky planets, with the Earth as the fourth.",
}
"""Questions with their answers where there is no embedded model."""

_OPENINGS: Final = (
    "That is a good question to try a demo with.",
    "Here a real provider would have its say.",
    "A large model would now write at length about this.",
)
_SENTENCE_END: Final = re.compile(r"[.!?…][\"'”’)*]*(?=\s|$)|\n")


class Voice:
    """Gives answers; the embedded model may take `thinking_s` seconds for one. Safe for threads."""

    def __init__(self, *, thinking_s: float = THINKING_S) -> None:
        self._thinking_s = thinking_s
        self._answers: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()
        self._thinking = threading.Lock()
        self._wiring: Wiring | None = None
        self._model: ModelRouter | None = None

    def borrow_model(self, wiring: Wiring) -> None:
        """Let the embedded model of a program think for the simulated providers, unseen by its log and its switches."""
        embedded = [provider for provider in wiring.settings.providers if provider.type == "local"][:1]
        if embedded:
            alone = replace(wiring.settings, providers=tuple(embedded))
            own = assemble(alone, record=lambda _line: None, store=MemoryStateStore())
            self._wiring = replace(own, models=wiring.models)
            self._model = ModelRouter(self._wiring)

    def close(self) -> None:
        """Give the embedded model back."""
        model, self._model = self._model, None
        if model is not None:
            model.close()
            model.wiring.recent.close()

    async def reply(self, body: Mapping[str, Any]) -> str:
        """Return what to answer to the body of a chat completions call. A `standin.Settings.reply`."""
        return await asyncio.to_thread(self.answer, body.get("messages") or ())

    def answer(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the answer to the last question of a conversation, or the whole of the one that was begun before it."""
        asked = [_text(message) for message in messages if message.get("role") == "user"]
        begun = begun_in(messages)
        if begun is not None:
            if messages[-1].get("role") == "user":
                asked.pop()
            return _whole(begun, self.think(asked[-1] if asked else ""))
        if len(asked) > 1 and len(messages) > 1 and messages[-2].get("role") == "assistant":
            begun, whole = _text(messages[-2]), self._kept(asked[-2])
            if whole is not None and begun and begun != whole and whole.startswith(begun):
                return whole
        return self.think(asked[-1] if asked else "")

    def think(self, prompt: str) -> str:
        """Return the answer to `prompt`; takes `thinking_s` the first time, somewhat more while others think."""
        if prompt == TEST_PROMPT:
            return "OK"
        known = self._kept(prompt)
        if known is not None:
            return known
        thought = self._thought(prompt[:LONGEST_PROMPT])
        if not thought:
            return PREPARED.get(prompt) or _any_answer(prompt)
        with self._lock:
            self._answers[prompt] = thought
            while len(self._answers) > KEPT:
                self._answers.popitem(last=False)
        return thought

    def _kept(self, prompt: str) -> str | None:
        with self._lock:
            return self._answers.get(prompt)

    def _thought(self, prompt: str) -> str:
        """Return what the embedded model says within its moment; "" where it cannot say anything just now."""
        model = self._model
        if model is None or not prompt.strip():
            return ""
        if all(embedded.endpoint() is None for embedded in model.wiring.models.values()):
            return ""
        if not self._thinking.acquire(timeout=self._thinking_s):
            return ""
        said: list[str] = []
        try:
            with model.stream(prompt, deadline_s=self._thinking_s) as events:
                said.extend(event.text for event in events if isinstance(event, Delta))
        except StreamBrokenError:
            return whole_sentences("".join(said))
        except (NoAnswerError, RuntimeError):
            return ""  # it has crashed, or the program ends
        finally:
            self._thinking.release()
        return "".join(said).strip()


def whole_sentences(text: str) -> str:
    """Return `text` up to the end of its last whole sentence; all of it, with an ellipsis, where there is none."""
    ends = [found.end() for found in _SENTENCE_END.finditer(text)]
    whole = text[: ends[-1]].strip() if ends else ""
    return whole or (f"{text.strip()}…" if text.strip() else "")


def _whole(begun: str, answer: str) -> str:
    """Return an answer that begins with `begun`, which mostly are words of `answer`, or of a drill."""
    if answer.startswith(begun):
        return answer
    return f"{announced(begun) or f'{begun}…'} {answer}"


def _any_answer(prompt: str) -> str:
    opening = _OPENINGS[crc32(prompt.encode("utf-8", "replace")) % len(_OPENINGS)]
    question = " ".join(prompt.split())
    shown = question if len(question) <= 80 else f"{question[:80].rstrip()}…"
    return (
        f"{opening} You asked: “{shown}” The answer you are reading comes from the stand-in of the demo, which knows "
        "nothing about it, yet it travelled the whole way: the router chose a provider, called it over HTTP, and read "
        "its stream word by word."
    )


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""
