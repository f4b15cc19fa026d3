"""What a drill is: a fault, how strong, how often, until when, and by whom.

What may not live here: what a drilled call does (`scenes`, `course`), clocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from fallback.config.section import nearest

__all__ = [
    "DEFAULT_LENGTH_S",
    "KINDS",
    "LONGEST_S",
    "Drill",
    "DrillKind",
    "KindSpec",
    "ValueSpec",
    "drill_from_json",
]

DEFAULT_LENGTH_S = 300.0
LONGEST_S = 7 * 86_400.0
SKEW_S = 60.0
"""Clocks of several machines that differ by no more than this may see a drill before it began."""
_LATEST = 1e11
_LARGEST_SEED = 2**53 - 1


class DrillKind(StrEnum):
    """The faults. KINDS says what each one does."""

    OFF = "off"
    UNAUTHORIZED = "unauthorized"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    OVERLOADED = "overloaded"
    REFUSED = "refused"
    RESET = "reset"
    SILENT = "silent"
    SLOW_FIRST_TOKEN = "slow_first_token"  # noqa: S105 - a fault, not a password
    TRICKLE = "trickle"
    STALL = "stall"
    CUT = "cut"
    MALFORMED_EVENT = "malformed_event"
    NO_FINISH = "no_finish"
    HTML = "html"
    EMPTY_ANSWER = "empty_answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueSpec:
    """What the value of a drill means, and which values there are: `low` to `high`, both included."""

    meaning: str
    unit: str
    """s or words"""
    default: float
    low: float
    high: float
    whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KindSpec:
    """One kind of drill, for people: its name, what the provider then does, and what its value means."""

    label: str
    text: str
    value: ValueSpec | None = None
    """None: it takes no value."""


_AFTER_WORDS = ValueSpec(
    meaning="words of an answer before it", unit="words", default=5, low=0, high=1000, whole=True
)

KINDS: Mapping[DrillKind, KindSpec] = {
    DrillKind.OFF: KindSpec(label="Off", text="counts as switched off"),
    DrillKind.UNAUTHORIZED: KindSpec(label="Wrong key (401)", text="refuses the key with 401"),
    DrillKind.RATE_LIMITED: KindSpec(
        label="Rate limited (429)",
        text="refuses with 429 and Retry-After",
        value=ValueSpec(meaning="Retry-After", unit="s", default=30.0, low=0.0, high=86_400.0),
    ),
    DrillKind.SERVER_ERROR: KindSpec(label="Server error (500)", text="fails with 500"),
    DrillKind.OVERLOADED: KindSpec(label="Overloaded (503)", text="refuses with 503"),
    DrillKind.REFUSED: KindSpec(label="Connection refused", text="takes no connection"),
    DrillKind.RESET: KindSpec(
        label="Connection reset", text="takes the connection and closes it without an answer"
    ),
    DrillKind.SILENT: KindSpec(label="Silent", text="takes the request and never says anything"),
    DrillKind.SLOW_FIRST_TOKEN: KindSpec(
        label="Slow first token",
        text="lets the first piece of its answer wait",
        value=ValueSpec(meaning="wait before the first piece", unit="s", default=5.0, low=0.0, high=600.0),
    ),
    DrillKind.TRICKLE: KindSpec(
        label="Trickle",
        text="answers piece by piece, with a wait before each",
        value=ValueSpec(meaning="wait before each piece", unit="s", default=0.5, low=0.01, high=60.0),
    ),
    DrillKind.STALL: KindSpec(
        label="Stall", text="falls silent in the middle of its answer", value=_AFTER_WORDS
    ),
    DrillKind.CUT: KindSpec(
        label="Cut", text="loses the connection in the middle of its answer", value=_AFTER_WORDS
    ),
    DrillKind.MALFORMED_EVENT: KindSpec(
        label="Malformed event", text="sends one event that is not JSON among good ones"
    ),
    DrillKind.NO_FINISH: KindSpec(
        label="No finish", text="ends its stream without saying that it is the end"
    ),
    DrillKind.HTML: KindSpec(label="HTML page", text="sends a web page with 200"),
    DrillKind.EMPTY_ANSWER: KindSpec(label="Empty answer", text="answers without text"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """A fault that one provider has for a time. Raises ValueError, with a sentence, for what makes no sense."""

    kind: DrillKind
    value: float | None = None
    """How strong it is: KINDS says what it means. None becomes the default of its kind."""
    probability: float = 1.0
    """How often it strikes, 0 to 1; the other calls pass."""
    until: float | None = None
    """Unix time of its end in seconds; None: until it is ended by hand."""
    seed: int | None = None
    """With a seed the same calls are struck every time; None: other ones each time."""
    by: str
    """Who set it: a name for the event feed."""
    started: float
    """Unix time of its beginning in seconds."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", _value(self.kind, self.value))
        object.__setattr__(self, "probability", _number("probability", self.probability, 0.0, 1.0))
        if self.kind is DrillKind.OFF and self.probability != 1.0:
            raise ValueError("probability: off strikes every call, so it takes no probability but 1")
        if self.until is not None:
            object.__setattr__(self, "until", _number("until", self.until, 0.0, _LATEST))
        object.__setattr__(self, "started", _number("started", self.started, 0.0, _LATEST))
        if self.seed is not None:
            _number("seed", self.seed, 0, _LARGEST_SEED, whole=True)
            object.__setattr__(self, "seed", int(self.seed))
        _check_name(self.by)

    def ended(self, wall: float) -> bool:
        """Return whether it is over at the Unix time `wall`, or that was set back since it began: nobody knows its end then."""
        return self.until is not None and not self.started - SKEW_S <= wall < self.until

    def left_s(self, wall: float) -> float | None:
        """Return the seconds until its end, at least 0; None: it has no end."""
        return None if self.until is None else max(0.0, self.until - wall)

    @property
    def text(self) -> str:
        """The drill in a few words: "Rate limited (429), Retry-After 30 s, 50 % of the calls"."""
        spec = KINDS[self.kind]
        parts = [spec.label]
        if spec.value is not None and self.value is not None:
            amount = f"{self.value:g} {spec.value.unit}"
            parts.append(
                f"after {amount}" if spec.value.unit == "words" else f"{spec.value.meaning} {amount}"
            )
        if self.probability < 1.0:
            parts.append(f"{self.probability * 100:.3g} % of the calls")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return the object that `from_json` reads."""
        return {**asdict(self), "kind": self.kind.value}

    @classmethod
    def from_json(cls, stored: object) -> Drill:
        """Return the drill that `to_json` gave. Raises ValueError for anything else."""
        given = _object(stored, tuple(field.name for field in fields(cls)))
        for name in ("by", "started"):
            if name not in given:
                raise ValueError(f"{name}: is missing")
        return cls(**{**given, "kind": _kind(given["kind"])})


def drill_from_json(value: object, *, now: float, by: str) -> Drill:
    """Return the drill that a script asks for: {"kind": ..., "value": ..., "probability": ..., "for_s": ..., "seed": ...}.

    Only `kind` is needed. `for_s` is its length in seconds (300; null: until ended by hand), `now` the Unix time.
    Raises ValueError with a sentence that says what to change.
    """
    given = _object(value, ("kind", "value", "probability", "for_s", "seed"))
    length_s = given.pop("for_s", DEFAULT_LENGTH_S)
    if length_s is not None and not _number("for_s", length_s, 0.0, LONGEST_S) > 0:
        raise ValueError("for_s: expected a number above 0, or null for a drill that is ended by hand")
    if given.get("probability", 1.0) is None:
        del given["probability"]
    kind = _kind(given.pop("kind"))
    return Drill(
        kind=kind, until=None if length_s is None else now + float(length_s), by=by, started=now, **given
    )


def _object(value: object, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f'expected an object such as {{"kind": "overloaded"}}, got {_shown(value)}')
    settings = ", ".join(known)
    for name in value:
        if name not in known:
            advice = nearest(name, known) if isinstance(name, str) else ""
            raise ValueError(
                f"{_shown(name)}: no such setting of a drill{advice or f'; there are {settings}'}"
            )
    if "kind" not in value:
        raise ValueError(f"kind: is missing; there are {', '.join(DrillKind)}")
    return dict(value)


def _kind(value: object) -> DrillKind:
    if isinstance(value, str) and value in frozenset(DrillKind):
        return DrillKind(value)
    kinds = ", ".join(DrillKind)
    advice = nearest(value, list(DrillKind)) if isinstance(value, str) else ""
    raise ValueError(f"kind: no drill {_shown(value)}{advice or f'; there are {kinds}'}")


def _value(kind: DrillKind, value: object) -> float | None:
    spec = KINDS[kind].value
    if spec is None:
        if value is not None:
            raise ValueError(f"value: {kind} takes none")
        return None
    if value is None:
        return spec.default
    return _number("value", value, spec.low, spec.high, whole=spec.whole)


def _check_name(by: object) -> None:
    if not isinstance(by, str) or not 0 < len(by) <= 200:
        raise ValueError(f"by: expected a name of 1 to 200 characters, got {_shown(by)}")


def _number(name: str, value: object, low: float, high: float, *, whole: bool = False) -> float:
    right = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    if not right or (whole and value != int(value)):  # type: ignore[call-overload]
        what = "a whole number" if whole else "a number"
        raise ValueError(f"{name}: expected {what} from {low:.15g} to {high:.15g}, got {_shown(value)}")
    return float(value)  # type: ignore[arg-type]


def _shown(value: object) -> str:
    """Return `value` for a sentence, however long or odd it is."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return ascii(value[:60])
        case int() if abs(value) >= 10**15:
            return "a number far larger" if value > 0 else "a number far smaller"
        case int() | float():
            return repr(value)
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
        case _:
            return f"a {type(value).__name__}"
