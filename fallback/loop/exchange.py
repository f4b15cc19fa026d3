"""The course of one request. See the package for what it yields."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

from fallback import activity
from fallback.core.errors import FailureKind, NoAnswerError
from fallback.core.models import (
    Answer,
    AnswerPart,
    AttemptFailed,
    AttemptReport,
    AttemptStarted,
    Candidate,
    CandidateSkipped,
    ChatRequest,
    Choice,
    Event,
    Failure,
    Finished,
    Role,
    Usage,
    Waiting,
)
from fallback.core.plan import CANCELLED, GiveUp, GiveUpReason, Plan, Try, Wait, start
from fallback.core.roster import Permit, Settlement
from fallback.loop.call import Call
from fallback.loop.commands import Command, Probe, RoutingContext, Sleep
from fallback.loop.continuation import continued
from fallback.loop.delivery import Delivery
from fallback.loop.ending import ending_of
from fallback.loop.reports import attempt_report, line_of, record_attempt
from fallback.providers.decode import Decoded
from fallback.usage_log import Line, request_line

__all__ = ["Exchange"]


class Exchange:
    """One request on its way. `run()` is called once."""

    def __init__(
        self, request: ChatRequest, context: RoutingContext, *, live: bool, only: str | None = None
    ) -> None:
        """Plan `request`. With `live` pieces of the answer are delivered as they come; without, the whole at its end.

        `only` names the one provider to ask, even where it is resting or disabled. Raises UnknownModelError.
        """
        self.request = request
        self._context = context
        self._live = live
        self._only = only
        self._started = context.clock()
        self._plan: Plan = start(request, context.roster, self._started, only=only)
        self._created = int(context.wall())
        self._delivery = Delivery(request, live=live)
        self._reports: list[AttemptReport] = []
        self._activity: list[str] = []
        self._open: tuple[Try, Call, int | None] | None = None
        """The attempt under way, and how much of the answer the caller had when it began."""
        self._in_words: set[tuple[str, str]] = set()
        """Candidates that are asked in words to go on with the answer, though they take a prefill."""
        self._probes: list[Permit] = []
        self._first_token: float | None = None
        """The instant of the first token of what the caller gets."""
        self._told = False
        self._unwritten: list[Line] = []
        """Lines that go into the log together with the next one: that of an attempt that ends the request."""
        self._any_drilled = False

    def run(self) -> Generator[Command, Any, None]:
        """Yield commands and events until the answer is whole. Raises NoAnswerError."""
        try:
            while True:
                step = self._plan.next_step(self._context.clock())
                match step:
                    case Try():
                        answer = yield from self._try(step)
                        if answer is not None:
                            yield Finished(answer=answer)
                            return
                    case Wait():
                        yield self._tell(Waiting(seconds=step.seconds, provider=step.provider))
                        yield Sleep(step.seconds)
                    case GiveUp():
                        yield from self._skips(step.skipped)
                        raise self._no_answer(step)
        finally:
            self._abandon()

    def _tell(self, event: Event) -> Event:
        self._activity.extend(activity.lines(event))
        return event

    def _skips(self, refusals: Any) -> Generator[Event, None, None]:
        for refusal in refusals:
            yield self._tell(
                CandidateSkipped(provider=refusal.provider, model=refusal.model, reason=refusal.text)
            )

    def _try(self, step: Try) -> Generator[Command, Any, Answer | None]:
        # From here on the permits are ours to give back, whatever the caller does.
        self._probes.extend(step.probes)
        prefill = (
            self._delivery.begun
            and step.candidate.key not in self._in_words
            and self._context.roster.takes_prefill(step.candidate)
        )
        call = self._call(step, prefill=prefill)
        self._open = (step, call, self._delivery.continues)
        while self._probes:
            yield Probe(self._probes.pop())
        if step.skipped:
            yield from self._skips(step.skipped)
        self._delivery.begin(step.candidate, prefill=prefill)
        return (yield from self._attempt(step, call, prefill=prefill))

    def _call(self, step: Try, *, prefill: bool) -> Call:
        request = self.request
        if self._delivery.begun:
            request = continued(request, self._delivery.text, prefill=prefill)
        return Call(
            self._context,
            request,
            step.candidate,
            step.timeouts,
            drilled=step.permit.drilled,
        )

    def _attempt(self, step: Try, call: Call, *, prefill: bool) -> Generator[Command, Any, Answer | None]:
        candidate, delivery, context = step.candidate, self._delivery, self._context
        continues = delivery.continues
        yield self._tell(
            AttemptStarted(
                number=step.number,
                role=step.role,
                provider=candidate.provider,
                model=candidate.model,
                probe=step.permit.probe,
                degraded=candidate.degraded,
                continues=continues,
            )
        )
        outcome = yield from call.run(delivery.take)
        if self._first_token is None and (delivery.begun or isinstance(outcome, Decoded)):
            self._first_token = call.first_piece
        if isinstance(outcome, Decoded):
            yield from delivery.end()
            now = context.clock()
            self._open = None
            self._settle(step, call, outcome, now, continues=continues)
            return self._finish(step, outcome, now)
        now = context.clock()
        self._open = None
        failure = outcome
        if delivery.begun:
            failure = replace(outcome, delivered=True, final=delivery.final)
        if prefill and failure.status == 400 and failure.kind is FailureKind.INVALID_REQUEST:
            context.roster.note_prefill_refused(candidate)
            failure = replace(failure, adapted=True)
        elif prefill and failure.kind is FailureKind.EMPTY_RESPONSE:
            # It may have nothing to add, or have failed: asked in words it has to say the last ones again at least.
            self._in_words.add(candidate.key)
            failure = replace(failure, adapted=True)
        settlement = self._settle(step, call, failure, now, continues=continues)
        yield self._tell(
            AttemptFailed(
                number=step.number,
                provider=candidate.provider,
                model=candidate.model,
                failure=failure,
                duration_s=now - call.began,
                cooldown_s=settlement.cooldown_s,
                disabled=settlement.disabled,
            )
        )
        return None

    def _settle(
        self, step: Try, call: Call, outcome: Decoded | Failure, now: float, *, continues: int | None
    ) -> Settlement:
        """Record how an attempt ended, with the plan and in the log."""
        context = self._context
        failure = outcome if isinstance(outcome, Failure) else None
        settlement = self._plan.record(step, failure, now)
        changes = settlement.changes
        if isinstance(outcome, Decoded):
            # An answer in one piece says nothing about when a stream begins.
            streamed = step.permit.candidate.streams(self.request)
            changes += context.roster.note_answer(
                step.permit,
                first_token_s=call.first_token_s if streamed else None,
                headroom=outcome.headroom,
                now=now,
            )
        self._any_drilled = self._any_drilled or call.drilled
        report = attempt_report(
            context, step, call, outcome, started=self._started, now=now, continues=continues
        )
        previous = self._reports[-1] if self._reports and step.role is Role.FAILOVER else None
        self._reports.append(report)
        line = line_of(
            self.request, report, settlement, stream=self._live, drill=call.drilled, previous=previous
        )
        if failure is None and not changes:
            self._unwritten.append(line)
        else:
            record_attempt(context, line, changes, self.request.request_id)
        return settlement

    def _finish(self, step: Try, decoded: Decoded, now: float) -> Answer:
        candidate, reports = step.candidate, tuple(self._reports)
        choices = self._delivery.choices(decoded.choices)
        usage, cost_usd = _spent(reports)
        first = self._first_token
        self._activity += activity.finished_lines(reports[-1], degraded=candidate.degraded)
        answer = Answer(
            request_id=self.request.request_id,
            choices=choices,
            provider=candidate.provider,
            model=candidate.model,
            usage=usage,
            cost_usd=cost_usd,
            latency_s=now - self._started,
            time_to_first_token_s=None if first is None else first - self._started,
            attempts=reports,
            activity_log=tuple(self._activity),
            degraded=candidate.degraded,
            created=self._created,
            parts=self._delivery.parts or (_whole_part(candidate, choices[0]),),
            usage_estimated=any(report.usage_estimated for report in reports),
        )
        self._log_request("ok", now, answer=answer)
        return answer

    def _no_answer(self, step: GiveUp) -> NoAnswerError:
        now, plan = self._context.clock(), self._plan
        ending = ending_of(
            step,
            self._reports,
            self._context.roster.status(now),
            deadline_s=plan.deadline - plan.started,
            only=self._only,
        )
        if self._only is not None and step.reason is GiveUpReason.NONE_AVAILABLE:
            # A test that asked nobody: no caller went without an answer, and nothing was tried.
            self._told = True
        else:
            self._log_request(
                ending.outcome,
                now,
                error_type=ending.error_type,
                error_message=ending.text,
                http_status=ending.status,
            )
        return ending.exception(
            request_id=self.request.request_id,
            activity_log=self._activity,
            attempts=self._reports,
            partial_text=self._delivery.text,
        )

    def _log_request(self, outcome: Any, now: float, **fields: Any) -> None:
        self._told = True
        unwritten, self._unwritten = self._unwritten, []
        self._context.record(
            *unwritten,
            request_line(
                request_id=self.request.request_id,
                source=self.request.source,
                route=self.request.model,
                stream=self._live,
                outcome=outcome,
                duration_s=now - self._started,
                attempts=self._reports,
                drill=self._any_drilled,
                log_content=self._context.log_content,
                prompt=self.request.messages,
                api_key_name=self.request.api_key_name,
                traceparent=self.request.traceparent,
                **fields,
            ),
        )

    def _abandon(self) -> None:
        """Settle what is open when the course ends before its time: the caller went away."""
        now = self._context.clock()
        for permit in self._probes:
            self._context.roster.settle(permit, None, CANCELLED, now)
        self._probes.clear()
        if self._open is not None:
            step, call, continues = self._open
            self._open = None
            if call.made:
                self._settle(step, call, CANCELLED, now, continues=continues)
            else:  # no provider was asked: that is no attempt
                self._plan.record(step, CANCELLED, now)
        if not self._told:
            self._log_request("cancelled", now, error_type=FailureKind.CANCELLED.value)


def _spent(reports: tuple[AttemptReport, ...]) -> tuple[Usage, float | None]:
    """Return what all attempts together used, and what that costs; None where the price of one is not known."""
    if len(reports) == 1:
        return reports[0].usage or Usage(), reports[0].cost_usd
    used = [report for report in reports if report.usage is not None]
    costs = [report.cost_usd for report in used if report.cost_usd is not None]
    usage = sum((report.usage for report in used if report.usage is not None), start=Usage())
    return usage, sum(costs) if len(costs) == len(used) else None


def _whole_part(candidate: Candidate, choice: Choice) -> AnswerPart:
    """Return the one part of an answer that came in one piece."""
    text = choice.message.get("content") or choice.message.get("refusal")
    characters = len(text) if isinstance(text, str) else 0
    return AnswerPart(provider=candidate.provider, model=candidate.model, characters=characters)
