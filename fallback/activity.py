"""The activity log: what happened, in the words of the original program.

Attempting invocation with groq_llama...
Using groq_llama (llama-3.1-8b-instant)
Error with groq_llama: rate_limited (HTTP 429)
groq_llama is disabled for 5.0 minutes
Invoking together_llama as fallback...
Using fallback together_llama (meta-llama/Llama-3-70b-chat-hf)
Successfully generated response using fallback together_llama
"""

from __future__ import annotations

from typing import assert_never

from fallback.core.models import (
    AttemptFailed,
    AttemptReport,
    AttemptStarted,
    CandidateSkipped,
    Delta,
    Event,
    Failure,
    Finished,
    Role,
    Waiting,
)

__all__ = ["DEGRADED_NOTE", "failure_text", "finished_lines", "lines"]

DEGRADED_NOTE = "small offline model, may be wrong"
"""What every place that shows an answer of the embedded model says."""


def lines(event: Event) -> tuple[str, ...]:
    """Return the lines that tell of `event`; none for a piece of text."""
    match event:
        case Delta():
            return ()
        case CandidateSkipped():
            return (f"Skipping {event.provider}: {event.reason}",)
        case AttemptStarted():
            return _started(event)
        case AttemptFailed():
            return _failed(event)
        case Waiting():
            return (f"Waiting {event.seconds:.1f} s before asking {event.provider} again",)
        case Finished():
            return finished_lines(event.answer.attempts[-1], degraded=event.answer.degraded)
        case _:
            assert_never(event)


def failure_text(failure: Failure) -> str:
    """Return "rate_limited (HTTP 429)", or the kind alone where there was no HTTP answer."""
    return failure.kind if failure.status is None else f"{failure.kind} (HTTP {failure.status})"


def _started(event: AttemptStarted) -> tuple[str, ...]:
    match event.role:
        case Role.FIRST:
            first, using = f"Attempting invocation with {event.provider}...", "Using"
        case Role.RETRY:
            first, using = f"Retrying {event.provider}...", "Using"
        case Role.FAILOVER:
            first, using = f"Invoking {event.provider} as fallback...", "Using fallback"
        case _:
            assert_never(event.role)
    told = [first, f"{using} {event.provider} ({event.model})"]
    if event.continues is not None:
        told.append(f"{event.provider} goes on with the answer after {event.continues:,} characters")
    return tuple(told)


def _failed(event: AttemptFailed) -> tuple[str, ...]:
    told = [f"Error with {event.provider}: {failure_text(event.failure)}"]
    if event.disabled == "provider":
        told.append(f"{event.provider} is disabled until its key or configuration changes")
    elif event.disabled == "model":
        told.append(f"{event.model} of {event.provider} is retired")
    elif event.cooldown_s is not None:
        told.append(f"{event.provider} is disabled for {_length(event.cooldown_s)}")
    return tuple(told)


def _length(length_s: float) -> str:
    return f"{length_s / 60:.1f} minutes" if length_s >= 60 else f"{length_s:.0f} seconds"


def finished_lines(last: AttemptReport, *, degraded: bool) -> tuple[str, ...]:
    """Return the lines that tell of an answer whose last attempt was `last`."""
    fallback = "fallback " if last.role is Role.FAILOVER else ""
    told = f"Successfully generated response using {fallback}{last.provider}"
    return (told, f"Note: {DEGRADED_NOTE}") if degraded else (told,)
