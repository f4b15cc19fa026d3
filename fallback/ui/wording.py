"""Our own words: why something failed, how long, how much. Functions from values to texts; no Streamlit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from fallback.core.errors import (
    DeadlineExceededError,
    FailureKind,
    FallbackError,
    RateLimitedError,
    RequestError,
    RequestRejectedError,
    StreamBrokenError,
)
from fallback.core.models import AttemptFailed

__all__ = ["Account", "account_of", "consequence", "cost", "duration", "no_answer", "reason"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Something that went wrong: what happened, and what a person can do about it."""

    what: str
    advice: str = ""


_REASONS: Final[Mapping[FailureKind, Account]] = MappingProxyType(
    {
        FailureKind.AUTHENTICATION: Account(
            what="did not accept the API key", advice="Check its key in .env, then restart."
        ),
        FailureKind.PERMISSION_DENIED: Account(
            what="does not let this account use the model",
            advice="See in the provider's console which models your account may use.",
        ),
        FailureKind.QUOTA_EXHAUSTED: Account(
            what="says the account is out of credit",
            advice="Top it up at the provider; it is asked again from time to time.",
        ),
        FailureKind.RATE_LIMITED: Account(what="is rate limited"),
        FailureKind.REQUEST_TOO_LARGE: Account(
            what="finds the request too large for its limit", advice="A new chat or a shorter question helps."
        ),
        FailureKind.CONTEXT_WINDOW_EXCEEDED: Account(
            what="cannot read a conversation this long", advice="Start a new chat, or shorten the question."
        ),
        FailureKind.CONTENT_POLICY: Account(
            what="refused the content", advice="Put the question differently, or choose another provider."
        ),
        FailureKind.MODEL_UNAVAILABLE: Account(
            what="no longer serves this model", advice="Name a current one in providers.yaml."
        ),
        FailureKind.OUTPUT_REJECTED: Account(what="threw its own output away as unusable"),
        FailureKind.INVALID_REQUEST: Account(
            what="found the request invalid", advice="Look at temperature and token limit in the options."
        ),
        FailureKind.OVERLOADED: Account(what="is overloaded"),
        FailureKind.SERVER_ERROR: Account(what="had an internal error"),
        FailureKind.TIMEOUT: Account(what="took too long"),
        FailureKind.CONNECTION: Account(
            what="could not be reached", advice="If it is so with all of them, check your network."
        ),
        FailureKind.BLOCKED_BY_EDGE: Account(
            what="was blocked by a gateway in front of it",
            advice="The key is still good; a proxy or the provider's edge refused the call.",
        ),
        FailureKind.MALFORMED_RESPONSE: Account(what="sent something that is no answer"),
        FailureKind.EMPTY_RESPONSE: Account(what="sent an empty answer"),
        FailureKind.STREAM_TRUNCATED: Account(what="broke off in the middle of its answer"),
        FailureKind.STREAM_STALLED: Account(what="fell silent in the middle of its answer"),
        FailureKind.CANCELLED: Account(what="was told to stop"),
    }
)


def reason(kind: FailureKind) -> Account:
    """Return what a failure of `kind` means. `what` goes on after the provider's name; `advice` may be ""."""
    return _REASONS[kind]


def account_of(kind: str) -> Account | None:
    """Return what the failure kind of that name means; None where there is no such kind."""
    try:
        return reason(FailureKind(kind))
    except ValueError:
        return None


def consequence(event: AttemptFailed) -> str:
    """Return what follows for the provider that failed; "" where nothing does."""
    if event.disabled == "provider":
        return "Disabled until its key or configuration changes."
    if event.disabled == "model":
        return "This model is out of rotation."
    if event.cooldown_s is not None:
        return f"Left alone for {duration(event.cooldown_s)}."
    return ""


def no_answer(error: FallbackError) -> Account:
    """Return the account of `error` for the card that stands in place of an answer."""
    match error:
        case RequestError():
            return Account(
                what="The question was not sent.", advice=f"{str(error)[:1].upper()}{str(error)[1:]}."
            )
        case RequestRejectedError(kind=FailureKind() as kind):
            told = reason(kind)
            return Account(
                what=f"The provider {told.what}, and another one would too.",
                advice=told.advice or "Put the question differently.",
            )
        case RateLimitedError():
            return Account(
                what="Every provider is rate limited at the moment.",
                advice=f"The first of them is free again in {duration(error.retry_after_s)}.",
            )
        case DeadlineExceededError():
            return Account(
                what="No provider answered in time.",
                advice="Try again, or raise routing.deadline_s in providers.yaml.",
            )
        case StreamBrokenError():
            return Account(
                what="The answer broke off before its end.",
                advice="What had arrived is kept. Regenerate asks again from the start.",
            )
        case _:
            return Account(
                what="No provider could answer.",
                advice="The steps above say why. Whoever failed is left alone for a while; Regenerate asks again.",
            )


def duration(length_s: float) -> str:
    """Return a length of time as people read it: "0.31 s", "2.4 s", "12 s", "5 min", "2 h"."""
    if length_s < 0.995:
        return f"{max(length_s, 0.0):.2f} s"
    if length_s < 99.5:
        return f"{length_s:.1f} s" if length_s < 9.95 else f"{length_s:.0f} s"
    if length_s < 5400:
        return f"{length_s / 60:.0f} min"
    return f"{length_s / 3600:.0f} h"


def cost(amount_usd: float | None) -> str:
    """Return what an answer cost: "free", "$0.00042", "cost unknown"."""
    if amount_usd is None:
        return "cost unknown"
    if amount_usd == 0:
        return "free"
    if amount_usd < 0.000001:
        return "under $0.000001"
    digits = 2 if amount_usd >= 1 else 4 if amount_usd >= 0.01 else 6
    return f"${amount_usd:.{digits}f}"
