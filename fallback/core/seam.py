"""Where one candidate goes on with the text of another: what is said again is dropped, what fits is passed on.

Theory of operation: whoever goes on with an answer may say some of it again, by one of two habits: from its very
beginning, or from a word or a few before the place where it broke off. A seam holds back what comes for as long as it
could still turn out to be such a repetition, mostly a word or two, and passes everything on as soon as that is clear.
Repetitions are compared letter for letter; a paraphrase is not one.

How short a repetition counts depends on how the candidate was asked. A prefill is gone on with inside the same message,
where a doubled "that" is rare but real, so a short overlap counts as text. Asked in words, a candidate begins a message
of its own, mostly with the last word it sees, and without the blank that has to stand between two words.

What may not live here: who goes on, and anything about events and providers. A seam is fed text and returns text.
"""

from __future__ import annotations

__all__ = ["Seam"]

_PREFILL_LETTERS = 6
"""Letters and digits that an overlap needs to count after a prefill; three where it would glue two words together."""
_GLUED_LETTERS = 3
_WIDE = 0x2E80
"""From here on scripts write words without blanks between them."""
_OPENING = "([{\"'“‘«"
_CLOSING = ".,;:!?)]}\"'”’»…%"


class Seam:
    """One place where an answer goes on. Feed it the text as it comes, then `end` it; both return what to pass on."""

    def __init__(self, before: str, *, own_message: bool) -> None:
        """`before` is the text so far. `own_message`: the candidate was asked in words, and begins a new message."""
        self._before = before
        self._core = before.rstrip()
        """What can be said again: a repetition seldom keeps the blanks at its end."""
        self._own_message = own_message
        self._held = ""
        self._places: list[int] | None = None
        """Where in `_core` all that is held stands so far, and its end has not been reached."""
        self._overlap: int | None = None
        """Where in `_core` the longest repetition begins that reaches its end."""
        self._blanks = ""
        """Blanks that are dropped once more text comes: the text before ends with them."""
        self._settled = not self._core

    @property
    def settled(self) -> bool:
        """Whether everything is passed on as it comes."""
        return self._settled

    def feed(self, text: str) -> str:
        """Take the next text and return what is to be passed on now."""
        if self._settled:
            return self._without_blanks(text)
        self._held += text
        # Blanks at either end say nothing: they are told apart by what follows.
        heard = self._held.strip()
        if not heard:
            return ""
        if self._places is None:
            self._places = self._beginnings(heard[0])
        self._compare(heard)
        return "" if self._open(heard) else self._settle()

    def end(self) -> str:
        """Take the end of the text and return what was still held back, unless it was said before."""
        if self._settled:
            return ""
        heard = self._held.strip()
        if self._places and self._places[0] == 0 and self._letters(heard) >= self._least(0):
            self._settled = True
            return ""  # it said a part of the beginning again and stopped
        return self._settle(ended=True)

    def _beginnings(self, letter: str) -> list[int]:
        core = self._core
        return [
            place
            for place, other in enumerate(core)
            if other == letter and (place == 0 or not _one_word(core[place - 1], other))
        ]

    def _compare(self, heard: str) -> None:
        """Keep the places at which `heard` may still be a repetition, and note where one is complete."""
        core, places = self._core, self._places or []
        self._places = []
        for place in places:
            length = len(core) - place
            if length > len(heard):
                if core.startswith(heard, place):
                    self._places.append(place)
            elif heard.startswith(core[place:]) and (self._overlap is None or place < self._overlap):
                self._overlap = place

    def _open(self, heard: str) -> bool:
        """Return whether more text is needed to tell."""
        if self._overlap is None:
            return bool(self._places)
        if self._places and self._places[0] < self._overlap:
            return True
        # Of a short one the next letter tells whether the whole word was repeated.
        length = len(self._core) - self._overlap
        return length == len(heard) and self._letters(heard) < _GLUED_LETTERS

    def _settle(self, *, ended: bool = False) -> str:
        self._settled = True
        heard = self._held.lstrip()
        if self._overlap is not None and self._counts(self._overlap, heard, ended=ended):
            self._blanks = self._before[len(self._core) :]
            return self._without_blanks(heard[len(self._core) - self._overlap :])
        return self._joined(self._held)

    def _without_blanks(self, text: str) -> str:
        """Return `text` without the blanks at its beginning that the text before ends with already."""
        while self._blanks and text:
            if text[0] != self._blanks[0]:
                self._blanks = ""
                break
            self._blanks, text = self._blanks[1:], text[1:]
        return text

    def _counts(self, place: int, heard: str, *, ended: bool) -> bool:
        """Return whether what is said again from `place` on is a repetition, and no coincidence."""
        said_again = self._core[place:]
        letters = self._letters(said_again)
        if letters < self._least(place):
            return False
        if letters >= _GLUED_LETTERS:
            return True
        following = heard[len(said_again) : len(said_again) + 1]
        return not following.isalnum() and (bool(following) or ended)

    def _least(self, place: int) -> int:
        if self._own_message:
            return 1
        glued = self._core == self._before and _one_word(self._before[-1], self._held[:1])
        return _GLUED_LETTERS if glued or place == 0 else _PREFILL_LETTERS

    def _letters(self, text: str) -> int:
        return sum(map(str.isalnum, text))

    def _joined(self, text: str) -> str:
        """Return `text` as it is to follow: with one blank between two words, where the candidate left it out."""
        last, first = self._before[-1], text[:1]
        if last == " " and first == " " and text[1:2].strip():
            return text[1:]
        if self._own_message and _needs_blank(last, first):
            return " " + text
        return text


def _one_word(left: str, right: str) -> bool:
    """Return whether two letters side by side stand in one word."""
    return left.isalnum() and right.isalnum() and ord(left) < _WIDE and ord(right) < _WIDE


def _needs_blank(left: str, right: str) -> bool:
    if not right or left.isspace() or right.isspace() or ord(left) >= _WIDE or ord(right) >= _WIDE:
        return False
    return (left.isalnum() or left in _CLOSING) and (right.isalnum() or right in _OPENING)
