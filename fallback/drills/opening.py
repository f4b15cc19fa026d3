"""How a drill begins an answer that it does not finish.

Whoever goes on with an answer keeps to what stands there already, a small model most of all. So what a drill says before
it breaks off says nothing about any question: it is an announcement, after which every answer fits.
"""

from __future__ import annotations

from itertools import cycle, islice

__all__ = ["announced", "opening"]

_SENTENCE = (
    "Here is the answer to your question: first in a few words, and then with some detail for those who "
    "want to know more."
)
_WORDS = tuple(_SENTENCE.split())


def opening(count: int) -> str:
    """Return the first `count` words of an answer that is longer than that."""
    return " ".join(islice(cycle(_WORDS), count))


def announced(begun: str) -> str | None:
    """Return `begun` up to the end of its announcement, where the answer itself is due; None: no drill began it."""
    if not begun:
        return None
    count = max(1, len(begun.split()))
    while not opening(count).endswith((":", ".")):
        count += 1
    whole = opening(count)
    return whole if whole.startswith(begun) else None
