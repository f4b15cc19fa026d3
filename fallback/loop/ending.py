"""The words and the exception for a request that ends without an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fallback import activity
from fallback.core.errors import (
    DeadlineExceededError,
    FailureKind,
    NoAnswerError,
    ProvidersFailedError,
    RateLimitedError,
    RequestRejectedError,
    StreamBrokenError,
)
from fallback.core.models import AttemptReport
from fallback.core.plan import GiveUp, GiveUpReason
from fallback.core.roster import ProviderStatus, Why

__all__ = ["Ending", "ending_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a request ended that got no answer, or no whole one."""

    step: GiveUp
    text: str
    """One sentence that says why."""
    closing: bool
    """Whether the router is being closed, and nobody failed."""

    @property
    def outcome(self) -> Literal["cancelled", "error"]:
        """The outcome of the request in the usage log."""
        return "cancelled" if self.closing else "error"

    @property
    def error_type(self) -> str:
        """The failure kind that decided, or the reason where there was no failure."""
        if self.step.reason is GiveUpReason.DEADLINE:
            return "deadline_exceeded"
        return self.step.failure.kind if self.step.failure else self.step.reason

    @property
    def status(self) -> int | None:
        """The HTTP status of that failure."""
        return self.step.failure.status if self.step.failure else None

    def exception(
        self,
        *,
        request_id: str,
        activity_log: Sequence[str],
        attempts: Sequence[AttemptReport],
        partial_text: str,
    ) -> NoAnswerError:
        """Return the exception for the caller."""
        failure = self.step.failure
        kind = ProvidersFailedError if self.closing else _ERRORS[self.step.reason]
        error = kind(
            self.text,
            request_id=request_id,
            kind=failure.kind if failure else None,
            status=self.status,
            activity_log=(*activity_log, f"No answer: {self.text}"),
            attempts=attempts,
        )
        if isinstance(error, RateLimitedError):
            error.retry_after_s = self.step.retry_after_s or 1.0
        if isinstance(error, StreamBrokenError):
            error.partial_text = partial_text
        return error


def ending_of(
    step: GiveUp,
    attempts: Sequence[AttemptReport],
    statuses: Sequence[ProviderStatus],
    *,
    deadline_s: float,
    only: str | None = None,
) -> Ending:
    """Return how a request ended with `step`, after `attempts`, the providers standing as `statuses` say.

    `only` names the one provider that could be asked; None: any.
    """
    closing = step.failure is not None and step.failure.kind is FailureKind.CANCELLED
    own = [status.text for status in statuses if status.name == only]
    if closing:
        text = "the router is closing"
    elif own and step.reason is GiveUpReason.NONE_AVAILABLE:
        text = own[0]
    else:
        text = _explained(step, attempts, statuses, deadline_s)
    return Ending(step=step, text=text, closing=closing)


def _explained(
    step: GiveUp, attempts: Sequence[AttemptReport], statuses: Sequence[ProviderStatus], deadline_s: float
) -> str:
    failure = step.failure
    why = activity.failure_text(failure) if failure else ""
    detail = f": {failure.message}" if failure and failure.message else ""
    match step.reason:
        case GiveUpReason.REJECTED:
            return f"{step.provider} refused the request, {why}{detail}"
        case GiveUpReason.RATE_LIMITED:
            return f"every provider is rate limited; try again in {step.retry_after_s or 1.0:.0f} s"
        case GiveUpReason.DEADLINE:
            return f"no answer within {deadline_s:g} s"
        case GiveUpReason.BROKEN:
            later = [
                f"{r.provider}: {activity.failure_text(r.failure)}"
                for r in _after(step, attempts)
                if r.failure
            ]
            others = f"; nobody could go on with it ({'; '.join(later)})" if later else ""
            return f"the answer of {step.provider} broke off, {why}{detail}{others}"
        case GiveUpReason.NONE_AVAILABLE:
            return _nobody(statuses, _unable(step))
        case GiveUpReason.FAILED:
            parts = [f"{r.provider}: {activity.failure_text(r.failure)}" for r in attempts if r.failure]
            if not parts:
                return _nobody(statuses, _unable(step))
            parts += [f"{provider}: {text}" for provider, text in _unable(step).items()]
            return f"all providers failed ({'; '.join(parts)})"


def _after(step: GiveUp, attempts: Sequence[AttemptReport]) -> Sequence[AttemptReport]:
    """Return the attempts that came after the one whose stream broke."""
    for place, report in enumerate(attempts):
        if report.failure is step.failure:
            return attempts[place + 1 :]
    return ()


def _unable(step: GiveUp) -> Mapping[str, str]:
    """Return who stands ready and cannot give what was asked for, and why."""
    return {refusal.provider: refusal.text for refusal in step.skipped if refusal.why is Why.BEYOND}


def _nobody(statuses: Sequence[ProviderStatus], unable: Mapping[str, str]) -> str:
    if all(status.state == "off" for status in statuses):
        return "every provider is switched off; switch one on"
    told = "; ".join(f"{status.name}: {unable.get(status.name, status.text)}" for status in statuses)
    return f"no provider can be asked ({told})"


_ERRORS: Mapping[GiveUpReason, type[NoAnswerError]] = {
    GiveUpReason.REJECTED: RequestRejectedError,
    GiveUpReason.RATE_LIMITED: RateLimitedError,
    GiveUpReason.DEADLINE: DeadlineExceededError,
    GiveUpReason.FAILED: ProvidersFailedError,
    GiveUpReason.NONE_AVAILABLE: ProvidersFailedError,
    GiveUpReason.BROKEN: StreamBrokenError,
}
