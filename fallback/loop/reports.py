"""The account of one attempt after it ended."""

from __future__ import annotations

from collections.abc import Sequence

from fallback.core.models import AttemptReport, ChatRequest, Failure
from fallback.core.plan import Try
from fallback.core.roster import Settlement, StateChange
from fallback.loop.call import Call
from fallback.loop.commands import RoutingContext
from fallback.loop.states import change_lines
from fallback.providers.decode import Decoded
from fallback.usage_log import Line, attempt_line

__all__ = ["attempt_report", "line_of", "record_attempt"]


def attempt_report(
    context: RoutingContext,
    step: Try,
    call: Call,
    outcome: Decoded | Failure,
    *,
    started: float,
    now: float,
    continues: int | None = None,
) -> AttemptReport:
    """Return the report of `call`, which ended with `outcome` at the instant `now`.

    `started` is the instant at which its request began, `continues` how many characters the caller had by then.
    """
    candidate = step.candidate
    decoded = outcome if isinstance(outcome, Decoded) else None
    failure = outcome if isinstance(outcome, Failure) else None
    usage, estimated = (decoded.usage, False) if decoded else call.spent
    provider = context.providers[candidate.provider]
    return AttemptReport(
        number=step.number,
        role=step.role,
        provider=candidate.provider,
        model=candidate.model,
        outcome="ok" if failure is None else failure.kind.value,
        probe=step.permit.probe,
        failure=failure,
        started_s=call.began - started,
        duration_s=now - call.began,
        time_to_first_token_s=call.first_token_s,
        usage=usage,
        usage_estimated=estimated,
        cost_usd=provider.cost_usd(candidate.model, usage) if usage else None,
        response_model=decoded.response_model if decoded else None,
        continues=continues,
        finish_reason=decoded.choices[0].finish_reason if decoded else None,
        skipped_events=decoded.skipped_events if decoded else 0,
        provider_request_id=decoded.provider_request_id if decoded else None,
    )


def line_of(
    request: ChatRequest,
    report: AttemptReport,
    settlement: Settlement,
    *,
    stream: bool,
    drill: bool,
    previous: AttemptReport | None = None,
) -> Line:
    """Return the line of the usage log for an attempt of `request`; see `attempt_line`."""
    return attempt_line(
        request_id=request.request_id,
        source=request.source,
        route=request.model,
        report=report,
        previous=previous,
        stream=stream,
        drill=drill,
        cooldown_s=settlement.cooldown_s,
        disabled=settlement.disabled,
    )


def record_attempt(
    context: RoutingContext, line: Line, changes: Sequence[StateChange], request_id: str
) -> None:
    """Write the line of an attempt to the log, in one piece with those of what it `changes`, and tell the others of it."""
    context.record(line, *change_lines(changes, context.wall(), request_id))
    if changes:
        context.changed(changes)
