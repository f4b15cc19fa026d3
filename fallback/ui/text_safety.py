"""What a model or a provider wrote, made fit to be shown.

Theory of operation: Streamlit's Markdown fetches images of other hosts, draws Mermaid diagrams (which may fetch images as
well), and reads `:red[...]`, `:material/...:` and `$...$` as its own language. None of that is for a stranger's text to
use, and most of it garbles honest answers ("costs $5", "std::map"). `blocks` takes the code blocks out, to be shown with
st.code, which reads nothing into them; `safe_markdown` defuses what is left. Where code is only guessed at (inline, inside
a list), both guesses are safe: `![` never survives, whichever is right.

What may not live here: anything of Streamlit's, and what our own texts say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

__all__ = ["Block", "blocks", "clean", "plain", "safe_markdown"]

JOINER: Final = "\N{WORD JOINER}"
"""Takes no room and is no blank: parts two characters that would mean something together."""

_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]")
"""Control characters but tab and line feed, and those that reverse the direction of what follows."""

_FENCE: Final = re.compile(r"(?P<marks>`{3,}(?=[^`]*$)|~{3,})[ \t]*(?P<info>.*)$")
_LANGUAGE: Final = re.compile(r"[a-z0-9][a-z0-9+#._-]{0,29}")

_CODE: Final = re.compile(
    r"""
    ^[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?       # a list or a quotation may be around it
    (?P<fence>`{3,}|~{3,})[^\n]*\n.*?(?:^[ \t>]*(?P=fence)[`~]*[ \t]*$|\Z)
    | (?<!`)(?P<span>`+)(?!`)(?:(?!\n[ \t]*\n).)+?(?<!`)(?P=span)(?!`)
    """,
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
_PROSE: Final = re.compile(
    r"""
    (?P<url>https?://[^\s<>\[\]()`$\\]+)
    | \\\[(?P<brackets>(?:\\[^\[\]]|[^\\\n]|\n(?![ \t]*\n))++)\\\]
    | \\\((?P<parens>(?:\\[^()\n]|[^\\\n])++)\\\)
    | (?P<escape>\\[^\w\s])
    | \$\$(?P<display>(?:(?!\n[ \t]*\n)[^$])+)\$\$
    | \$(?P<inline>[^\s$](?:[^$\n]*[^\s$\\])?)\$(?!\d)
    | (?P<dollar>\$)
    | (?P<colon>:(?=[^\W\d_]|:))
    """,
    re.DOTALL | re.VERBOSE,
)
_FENCE_MARKS: Final = re.compile(r"(`{3,}|~{3,})([^\n]*)")
_ICON: Final = re.compile(r":(?=material[/_]|streamlit:|\d+:)")
_SHORTCODE: Final = re.compile(r":(?=[\w+-]+\\?:|material)")
_PUNCTUATION: Final = re.compile(r"[!-/:-@\[-`{-~]")

_LOOKS_LIKE_MATH: Final = re.compile(
    r"\\[A-Za-z]|\^|(?<![A-Za-z])[A-Za-z]_[\w{]|^[A-Za-z]$|^(?!.*[A-Za-z]{4}).*[=+<>]"
)
_REFUSED_MATH: Final = re.compile(
    r"\\(?:rule|kern|mkern|hskip|mskip|hspace|raisebox|[egx]?def|let|futurelet|global|(?:re)?newcommand|providecommand"
    r"|href|url|includegraphics|html\w*|char|tag)(?![A-Za-z])"
)
"""What draws outside its place, defines macros, or leads elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A piece of an answer: prose for st.markdown (already safe), or code for st.code (as it was written)."""

    text: str
    code: bool = False
    language: str | None = None
    """What the block says it holds; None: nothing, or nothing we would pass on."""
    cut: int | None = None
    """The number of the cut that this block stands for, which holds no text of its own; None: it is text."""


def clean(text: str) -> str:
    """Return `text` without control characters and halves of characters, with line feeds as its line ends."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROLS.sub("", text).encode("utf-8", "replace").decode("utf-8")


def blocks(text: str, cuts: Sequence[int] = ()) -> tuple[Block, ...]:
    """Return `text` as prose and code in turns. A code block that has no end yet is one to the end of the text.

    At each of `cuts`, ascending offsets into the text, a block is cut in two and one with the number of the cut stands
    between them; what was code goes on as code.
    """
    found: list[Block] = []
    lines: list[str] = []
    fence: re.Match[str] | None = None

    def finish() -> None:
        body = "\n".join(lines)
        lines.clear()
        if fence is not None:
            # What was cut at the very end of its code has no second half.
            if body or not (found and found[-1].cut is not None):
                found.append(Block(text=body, code=True, language=_language(fence["info"])))
        elif body.strip():
            found.append(Block(text=safe_markdown(body.strip("\n"))))

    edges = [0, *(_outside_tables(text, cut) for cut in cuts), len(text)]
    for number, (start, end) in enumerate(pairwise(edges)):
        if number:
            finish()
            found.append(Block(text="", cut=number - 1))
        for line in clean(text[start:end]).split("\n"):
            if fence is not None and _closes(line, fence["marks"]):
                finish()
                fence = None
            elif fence is None and (opening := _FENCE.match(line)):
                finish()
                fence = opening
            else:
                lines.append(line)
    finish()
    return tuple(found)


def _outside_tables(text: str, cut: int) -> int:
    """Return `cut`, or where it would cut a row of a table in two, the end of the row."""
    begin = text.rfind("\n", 0, cut) + 1
    if not text[begin:cut].lstrip().startswith("|"):
        return cut
    end = text.find("\n", cut)
    return len(text) if end == -1 else end


def _closes(line: str, marks: str) -> bool:
    run = line.strip(" ")
    return len(line) - len(line.lstrip(" ")) <= 3 and len(run) >= len(marks) and set(run) == {marks[0]}


def _language(info: str) -> str | None:
    word = info.split(maxsplit=1)[0].lower() if info.split() else ""
    return word if _LANGUAGE.fullmatch(word) and word != "mermaid" else None


def safe_markdown(text: str) -> str:
    """Return Markdown that shows `text` and loads nothing: no images, diagrams, icons or colours, and math only if meant."""
    text = _FENCE_MARKS.sub(_defuse_info, clean(text))
    parts: list[str] = []
    end = 0
    for code in _CODE.finditer(text):
        parts.append(_prose(text[end : code.start()]))
        parts.append(code[0].replace("![", f"!{JOINER}["))
        end = code.end()
    parts.append(_prose(text[end:]))
    return _ICON.sub(f":{JOINER}", "".join(parts)).replace("![", "!\\[")


def _defuse_info(fence: re.Match[str]) -> str:
    """Take from a fence what could name Mermaid, by an entity or an escape too."""
    marks, info = fence[1], fence[2]
    if marks[0] == "`" and "`" in info:
        return fence[0]
    suspicious = "mermaid" in info.lower() or "&" in info or "\\" in info
    return marks if suspicious else fence[0]


def _prose(text: str) -> str:
    parts: list[str] = []
    end = 0
    while found := _PROSE.search(text, end):
        shown, length = _defused(found)
        parts += text[end : found.start()], shown
        end = found.start() + length
    parts.append(text[end:])
    return "".join(parts)


def _defused(found: re.Match[str]) -> tuple[str, int]:
    """Return what is to stand in place of `found`, and how much of it that replaces: its mark alone if it is no math."""
    whole = found[0]
    match found.lastgroup:
        case "brackets" | "display" | "parens" | "inline" as form:
            formula = found[form].strip()
            meant = form != "inline" or _LOOKS_LIKE_MATH.search(formula) is not None
            if not meant or _REFUSED_MATH.search(formula):
                mark = whole[: 1 if form == "inline" else 2]
                return _PUNCTUATION.sub(r"\\\g<0>", mark), len(mark)
            if form in {"brackets", "display"}:
                return _display(formula, found), len(whole)
            return f"${formula}$", len(whole)
        case "dollar" | "colon":
            return f"\\{whole}", len(whole)
        case _:
            return whole, len(whole)


def _display(formula: str, found: re.Match[str]) -> str:
    """Return a formula on lines of its own, indented as the line is that it stands in."""
    before = found.string[: found.start()].rpartition("\n")[2]
    if before.strip():
        return f"${formula}$" if "\n" not in formula else f"\n\n$$\n{formula}\n$$\n"
    return f"$$\n{before}{formula}\n{before}$$"


def plain(text: str) -> str:
    """Return one line of Markdown that shows `text` letter for letter: for labels and captions."""
    line = " ".join(clean(text).split())
    return _SHORTCODE.sub(f":{JOINER}", _PUNCTUATION.sub(r"\\\g<0>", line))
