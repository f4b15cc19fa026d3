"""What strangers write is shown as they wrote it, and loads nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback.core.errors import (
    DeadlineExceededError,
    FailureKind,
    FallbackError,
    ProvidersFailedError,
    RateLimitedError,
    RequestError,
    RequestRejectedError,
    StreamBrokenError,
)
from fallback.core.models import AttemptFailed, Failure
from fallback.ui.text_safety import JOINER, Block, blocks, clean, plain, safe_markdown
from fallback.ui.wording import consequence, cost, duration, no_answer, reason

IMAGES = (
    "![x](https://example.org/x.png)",
    "![x][ref]\n\n[ref]: https://example.org/x.png",
    "![ref]\n\n[ref]: https://example.org/x.png",
    "[![x](https://example.org/x.png)](https://example.org)",
    "> - ![x](https://example.org/x.png)",
    "| a |\n|---|\n| ![x](https://example.org/x.png) |",
    "# ![x](https://example.org/x.png)",
    "`` ` `` ![x](https://example.org/x.png) `",
    "`unclosed ![x](https://example.org/x.png)",
    "```\n![x](https://example.org/x.png)\n",
    "- ```\n![x](https://example.org/x.png)\n```",
    "    ![x](https://example.org/x.png)",
    "\\\\![x](https://example.org/x.png)",
    "\\![x](https://example.org/x.png)",
    "!![x](https://example.org/x.png)",
    "https://example.org/![x](https://example.org/x.png)",
    "$a$ ![x](https://example.org/x.png) $b$",
    "\\(![x](https://example.org/x.png)\\)",
    "$$\n![x](https://example.org/x.png)\n$$",
    ":red[![x](https://example.org/x.png)]",
    "!\x00[x](https://example.org/x.png)",
    "!\u202e[x](https://example.org/x.png)",
)


@pytest.mark.parametrize("text", IMAGES)
def test_no_image_survives(text: str) -> None:
    assert "![" not in safe_markdown(text)
    assert not any("![" in block.text for block in blocks(text) if not block.code)


@given(st.text(alphabet="![]()`~$\\:\n >-_*{}ab1\x00\u202e", max_size=80))
def test_no_image_survives_in_any_text(text: str) -> None:
    assert "![" not in safe_markdown(text)
    assert not any("![" in block.text for block in blocks(text) if not block.code)


@given(st.text(max_size=200), st.integers(min_value=0, max_value=200))
def test_any_part_of_any_text_can_be_drawn(text: str, end: int) -> None:
    for block in blocks(text[:end]):
        block.text.encode("utf-8")
    plain(text[:end]).encode("utf-8")


@pytest.mark.parametrize(
    "fence",
    [
        "```mermaid",
        "``` Mermaid",
        "~~~mermaid",
        "- ```mermaid",
        "> ```mermaid",
        "  ```mermaid",
        "```&#109;ermaid",
        "~~~m\\ermaid",
        "```-language-mermaid",
    ],
)
def test_no_fence_names_mermaid(fence: str) -> None:
    text = f"{fence}\nflowchart TD\n"
    assert all(block.language != "mermaid" for block in blocks(text))
    first_line = safe_markdown(text).split("\n")[0].lower()
    assert "mermaid" not in first_line
    assert "ermaid" not in first_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("It costs $5 and $10.", r"It costs \$5 and \$10."),
        ("Between $5 and $10/month, or US$ 20$.", r"Between \$5 and \$10/month, or US\$ 20\$."),
        ("pay $5, see **https://x.org/?a=$b**", r"pay \$5, see **https://x.org/?a=\$b**"),
        ("from $5 to $x^2$", r"from \$5 to $x^2$"),
        ("Set $HOME/bin:$PATH first", r"Set \$HOME/bin:\$PATH first"),
        ("std::vector and key:value", r"std\:\:vector and key\:value"),
        ("use :red[it] and array:items[0]", r"use \:red[it] and array\:items[0]"),
        ("at 12:30, 1:2, a: b", "at 12:30, 1:2, a: b"),
        ("see https://example.org/a:b?c=$d now", r"see https://example.org/a:b?c=\$d now"),
        ("the mass $m$, and $x^2$", "the mass $m$, and $x^2$"),
        ("thus $a = b + 1$", "thus $a = b + 1$"),
        (r"so \(a+b\) it is", "so $a+b$ it is"),
        (r"already \$5 and \*this\*", r"already \$5 and \*this\*"),
    ],
)
def test_signs_mean_what_their_writer_meant(text: str, shown: str) -> None:
    assert safe_markdown(text) == shown


def test_a_formula_between_brackets_stands_on_lines_of_its_own() -> None:
    assert safe_markdown("so:\n\\[ x = 1 \\]\nthen") == "so:\n$$\nx = 1\n$$\nthen"
    assert safe_markdown(r"\[a \\[2pt] b\]") == "$$\na \\\\[2pt] b\n$$"
    assert safe_markdown("$$x^2$$") == "$$\nx^2\n$$"


@pytest.mark.parametrize(
    "formula",
    [
        r"$\rule{900em}{900em}$",
        r"$$\includegraphics{https://example.org/x.png}$$",
        r"\(\href{https://example.org}{x}\)",
        r"\[\def\a{\a\a}\a\]",
        r"$\htmlStyle{position:fixed}{x^2}$",
    ],
)
def test_a_formula_that_reaches_out_of_its_place_is_shown_as_text(formula: str) -> None:
    shown = safe_markdown(formula)
    assert "$" not in shown.replace("\\$", "")


def test_icons_are_defused_in_prose_and_in_code() -> None:
    assert ":material/" not in safe_markdown("a :material/home: b `:material/home:`")
    assert ":streamlit:" not in safe_markdown("a :streamlit: b")


def test_a_code_block_is_taken_out_as_it_was_written() -> None:
    code = 'let v = vec![1, 2];\nprintln!("{} $5 :red[x]", v[0]);'
    found = blocks(f"Look:\n\n```rust\n{code}\n```\n\nDone.")
    assert [(block.text, block.code, block.language) for block in found] == [
        ("Look:", False, None),
        (code, True, "rust"),
        ("Done.", False, None),
    ]


def test_a_code_block_without_an_end_runs_to_the_end() -> None:
    found = blocks("Look:\n```py\nx = 1\n``\n~~~")
    assert [(block.text, block.code) for block in found] == [("Look:", False), ("x = 1\n``\n~~~", True)]


def test_a_code_block_ends_only_with_as_many_marks_of_its_kind() -> None:
    found = blocks("````md\n```\ninner\n```\n````\nafter")
    assert [(block.text, block.code) for block in found] == [("```\ninner\n```", True), ("after", False)]


def test_a_cut_stands_between_the_halves_of_what_it_cuts() -> None:
    text = "One two three"
    assert blocks(text, [7]) == (Block(text="One two"), Block(text="", cut=0), Block(text=" three"))
    code = "```python\nx = 1\ny = 2\n```\nDone."
    first, cut, second, last = blocks(code, [code.index("y = 2")])
    assert (first.code, first.text, cut.cut) == (True, "x = 1\n", 0)
    assert (second.code, second.text, second.language) == (True, "y = 2", "python")
    assert last.text == "Done."
    assert [block.code for block in blocks(code, [code.index("```\nDone")])] == [True, False, False]


def test_a_cut_in_the_row_of_a_table_waits_for_the_end_of_the_row() -> None:
    text = "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |"
    assert blocks(text, [text.index("2")])[0].text.endswith("| 1 | 2 |")
    assert blocks(text, [text.index("4")])[0].text == text


@given(text=st.text(alphabet="ab `~\n|!["), cuts=st.lists(st.integers(0, 40), max_size=3))
def test_nothing_is_lost_at_a_cut(text: str, cuts: list[int]) -> None:
    at = sorted(cut for cut in cuts if cut < len(text))
    found = blocks(text, at)
    assert [block.cut for block in found if block.cut is not None] == list(range(len(at)))
    assert all("![" not in block.text for block in found if not block.code)


def test_code_in_a_line_keeps_its_look() -> None:
    shown = safe_markdown("use `vec![1]` and `$x$` and `a::b`")
    assert shown == f"use `vec!{JOINER}[1]` and `$x$` and `a::b`"


def test_lone_surrogates_and_control_characters_are_gone() -> None:
    assert clean("a\x00b\ud83dc\r\nd\te\x1b[0m\u202ef") == "ab?c\nd\te[0mf"


def test_plain_shows_every_sign_and_no_markup() -> None:
    assert plain("**a** [x](y)\nb") == r"\*\*a\*\* \[x\]\(y\) b"
    assert ":tada" not in plain(":tada: :material_home:").replace("\\", "")


@pytest.mark.parametrize("kind", FailureKind)
def test_every_failure_kind_has_its_sentence(kind: FailureKind) -> None:
    assert reason(kind).what


def _failed(**fields: object) -> AttemptFailed:
    values: dict[str, object] = {"number": 1, "provider": "p", "model": "m", "duration_s": 1.0}
    failure = Failure(kind=FailureKind.RATE_LIMITED)
    return AttemptFailed(**(values | {"failure": failure} | fields))  # type: ignore[arg-type]


def test_what_follows_for_the_provider_is_told() -> None:
    assert consequence(_failed(cooldown_s=300.0)) == "Left alone for 5 min."
    assert consequence(_failed(disabled="provider")).startswith("Disabled until its key")
    assert consequence(_failed(disabled="model")) == "This model is out of rotation."
    assert consequence(_failed()) == ""


def test_every_error_has_an_account_that_says_what_to_do() -> None:
    limited = RateLimitedError("x", request_id="r")
    limited.retry_after_s = 24.0
    told = no_answer(limited)
    assert told.what == "Every provider is rate limited at the moment."
    assert "24 s" in told.advice
    errors: list[FallbackError] = [
        RequestError("max_tokens must be a whole number"),
        RequestRejectedError("x", request_id="r", kind=FailureKind.CONTENT_POLICY),
        RequestRejectedError("x", request_id="r"),
        DeadlineExceededError("x", request_id="r"),
        ProvidersFailedError("x", request_id="r"),
        StreamBrokenError("x", request_id="r"),
    ]
    accounts = [no_answer(error) for error in errors]
    assert all(account.what and account.advice for account in accounts)
    assert accounts[0].advice == "Max_tokens must be a whole number."
    assert "refused the content" in accounts[1].what


@pytest.mark.parametrize(
    ("length_s", "text"),
    [(0.0, "0.00 s"), (0.314, "0.31 s"), (2.44, "2.4 s"), (12.4, "12 s"), (300.0, "5 min"), (7200.0, "2 h")],
)
def test_lengths_of_time_are_short(length_s: float, text: str) -> None:
    assert duration(length_s) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (None, "cost unknown"),
        (0.0, "free"),
        (0.0000001, "under $0.000001"),
        (0.00042, "$0.000420"),
        (0.0123, "$0.0123"),
        (2.5, "$2.50"),
    ],
)
def test_an_unknown_cost_is_never_shown_as_nothing(amount: float | None, text: str) -> None:
    assert cost(amount) == text


@pytest.mark.parametrize(
    "piece",
    ["word $5 `a` :x ", "`", "`` a ` b ", "$", "$a ", "\\[ ", "\\( ", "- ```x\n", "![x](y) ", "[", "a:"],
)
@pytest.mark.timeout(5)
def test_no_text_takes_long_to_make_safe(piece: str) -> None:
    """An expression that backtracks takes minutes for one of these."""
    assert blocks(piece * 20_000)
