"""Where one candidate goes on with the text of another: nothing twice, nothing lost, nothing glued together."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fallback.core.seam import Seam


def words(first: int, last: int) -> str:
    return " ".join(f"w{number}" for number in range(first, last + 1))


WHOLE = words(1, 60)
BEFORE = words(1, 40)


def join(before: str, pieces: list[str], *, own_message: bool) -> str:
    seam = Seam(before, own_message=own_message)
    passed = [seam.feed(piece) for piece in pieces]
    return before + "".join(passed) + seam.end()


def tokens(text: str) -> list[str]:
    return [f" {word}" if place else word for place, word in enumerate(text.split(" "))]


@pytest.mark.parametrize("own_message", [False, True])
@pytest.mark.parametrize(
    "said",
    [
        f" {words(41, 60)}",
        WHOLE,
        f"\n{WHOLE}",
        words(38, 60),
        f" {words(39, 60)}",
        f"\n\n{words(37, 60)}",
    ],
)
def test_what_is_said_again_is_dropped_and_the_whole_comes_out(said: str, own_message: bool) -> None:
    for pieces in ([said], list(said), tokens(said)):
        assert join(BEFORE, pieces, own_message=own_message) == WHOLE


@pytest.mark.parametrize("said", [words(41, 60), words(40, 60), f" {words(40, 60)}"])
def test_a_message_of_its_own_gets_its_blank_and_loses_its_repeated_word(said: str) -> None:
    assert join(BEFORE, tokens(said), own_message=True) == WHOLE


@pytest.mark.parametrize(
    ("before", "said", "own_message", "whole"),
    [
        ("one two thr", "three four", True, "one two three four"),
        ("one two thr", "three four", False, "one two three four"),
        ("one two thr", "ee four", False, "one two three four"),
        ("It is a", "and more", True, "It is a and more"),
        ("I know that", " that is so", False, "I know that that is so"),
        ("The", "The capital", True, "The capital"),
        ("10 + 1 is 1", "1.", False, "10 + 1 is 11."),
        ("Hello.", "How are you?", True, "Hello. How are you?"),
        ("Hello", ", world", True, "Hello, world"),
        ("(", "a)", True, "(a)"),
        ("one ", " two", False, "one two"),
        ("def f():\n", "    return 1", False, "def f():\n    return 1"),
        ("日本", "の首都は東京", True, "日本の首都は東京"),
        ("one two three ", "two three four", True, "one two three four"),
        ("", "anything", True, "anything"),
        ("One.", "", True, "One."),
    ],
)
def test_the_two_parts_make_one_text(before: str, said: str, own_message: bool, whole: str) -> None:
    assert join(before, [said], own_message=own_message) == whole
    assert join(before, list(said), own_message=own_message) == whole


@pytest.mark.parametrize("said", [BEFORE, words(1, 10), f"  {words(1, 25)}\n"])
def test_who_repeats_the_beginning_and_stops_has_nothing_to_add(said: str) -> None:
    assert join(BEFORE, tokens(said), own_message=True) == BEFORE


def test_a_text_that_goes_on_is_passed_on_with_its_first_word() -> None:
    seam = Seam(BEFORE, own_message=False)
    assert [seam.feed(token) for token in (" w41", " w42")] == [" w41", " w42"]
    assert seam.settled


def test_a_common_word_is_held_for_one_word_at_most() -> None:
    seam = Seam("the cat and the dog", own_message=False)
    assert [seam.feed(token) for token in (" the", " bird", " sang")] == ["", " the bird", " sang"]


TEXT = st.text(alphabet="ab .", max_size=12)


@given(before=TEXT, said=TEXT, own_message=st.booleans(), cuts=st.lists(st.integers(0, 12), max_size=6))
@example(before="ha ha", said="ha ha!", own_message=True, cuts=[2])
@example(before="aa", said="aaa", own_message=True, cuts=[1])
def test_how_the_text_is_cut_into_pieces_makes_no_difference(
    before: str, said: str, own_message: bool, cuts: list[int]
) -> None:
    edges = sorted({0, len(said), *(cut for cut in cuts if cut < len(said))})
    pieces = [said[start:end] for start, end in pairwise(edges)]
    whole = join(before, [said], own_message=own_message)
    assert join(before, pieces, own_message=own_message) == whole
    assert join(before, list(said), own_message=own_message) == whole


@given(before=TEXT, said=TEXT, own_message=st.booleans())
def test_nothing_is_made_up_and_only_a_repetition_is_dropped(
    before: str, said: str, own_message: bool
) -> None:
    whole = join(before, [said], own_message=own_message)
    assert whole.startswith(before)
    added = whole[len(before) :]
    kept = added.removeprefix(" ") if not said.endswith(added) else added
    assert said.endswith(kept)
    dropped = said[: len(said) - len(kept)].strip()
    assert dropped in before
