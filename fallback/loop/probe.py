"""The course of a probe: one small call that finds out, beside the requests, whether a provider is back.

It is written to the usage log as an attempt of the source `probe`, and belongs to no request. Nobody hears of it otherwise
but the roster, which takes the provider back or lets it rest on.

Of all processes that share what they know one looks at a time: a probe takes its `Turn` first, and while another process has
it waits to hear what was found there.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from fallback.core.models import ChatRequest, Role, Timeouts
from fallback.core.plan import CANCELLED, Try
from fallback.core.policy import judge
from fallback.core.roster import Permit
from fallback.loop.call import Call
from fallback.loop.commands import Aside, Command, RoutingContext, Sleep
from fallback.loop.reports import attempt_report, line_of, record_attempt
from fallback.providers.decode import Decoded

__all__ = ["ProbeCourse"]

PROMPT = "Reply with the word OK."
MAX_TOKENS = 1
TOTAL_S = 20.0
TURN_S = 1.0
"""How long to wait while another process looks, before asking again or hearing what it found."""
LAST_TURN_S = 60.0
"""How long after its time a probe that never got its turn is given up; the next request begins another one."""


class ProbeCourse:
    """One probe on its way, under a permit that the roster has given. `run()` is called once."""

    def __init__(self, permit: Permit, context: RoutingContext, request_id: str) -> None:
        self._context = context
        self._request = ChatRequest(
            request_id=request_id,
            messages=({"role": "user", "content": PROMPT},),
            model=permit.candidate.provider,
            max_tokens=MAX_TOKENS,
            deadline_s=TOTAL_S,
            source="probe",
        )
        policy, patience_s = context.roster.policy, context.roster.first_token_limit_s(permit.candidate)
        self._step = Try(
            permit=permit,
            number=1,
            role=Role.FIRST,
            timeouts=Timeouts(
                connect_s=policy.connect_timeout_s,
                first_token_s=patience_s,
                idle_s=policy.idle_timeout_s,
                behind_s=policy.behind_limit_s,
                total_s=max(TOTAL_S, patience_s),
                patience_s=patience_s,
            ),
        )
        self._turn = context.turn(permit.candidate.provider)
        self._settled = False

    def run(self) -> Generator[Command, Any, None]:
        """Yield commands until it is known. However it ends, the permit is settled."""
        permit = self._step.permit
        try:
            early_s = 0.0 if permit.not_before is None else permit.not_before - self._context.clock()
            if early_s > 0:
                yield Sleep(early_s)
                if not self._context.roster.stands(permit):
                    return
            if (yield from self._get_turn()):
                yield from self._look()
        finally:
            self.abandon()

    def _get_turn(self) -> Generator[Command, Any, bool]:
        """Wait until no other process looks. Returns whether there is still something to be found out then.

        The permit is kept meanwhile, so that no request begins another probe.
        """
        permit, context = self._step.permit, self._context
        if permit.drilled:
            return True  # what a drill leads to is nobody else's
        until = context.clock() + LAST_TURN_S
        while not (yield Aside(self._take_turn)):
            yield Sleep(TURN_S)
            if not context.roster.stands(permit) or context.clock() >= until:
                return False
        return context.roster.stands(permit)

    def _take_turn(self) -> bool:
        taken = self._turn.take()
        if self._settled:
            # Abandoned on another thread before it was asked for: nobody would give it back, and no process could look.
            self._turn.give_back()
        return taken

    def _look(self) -> Generator[Command, Any, None]:
        permit = self._step.permit
        call = Call(
            self._context,
            self._request,
            permit.candidate,
            self._step.timeouts,
            drilled=permit.drilled,
            may_be_blank=True,
        )
        try:
            outcome = yield from call.run(None)
            self._settle(call, outcome)
        finally:
            if not self._settled:
                self._settle(call, CANCELLED)

    def abandon(self) -> None:
        """Settle the permit of a probe that was never made, without a line in the log, and let others look."""
        if not self._settled:
            self._settled = True
            self._context.roster.settle(self._step.permit, None, CANCELLED, self._context.clock())
        # After what was found out has been put: whoever looks next knows it.
        self._turn.give_back()

    def _settle(self, call: Call, outcome: Any) -> None:
        self._settled = True
        context, permit, now = self._context, self._step.permit, self._context.clock()
        failure = None if isinstance(outcome, Decoded) else outcome
        verdict = None
        if failure is not None and failure is not CANCELLED:
            verdict = judge(failure, retries_left=0, policy=context.roster.policy)
        settlement = context.roster.settle(permit, verdict, failure, now)
        changes = settlement.changes
        if isinstance(outcome, Decoded):
            changes += context.roster.note_answer(
                permit, first_token_s=None, headroom=outcome.headroom, now=now
            )
        report = attempt_report(context, self._step, call, outcome, started=call.began, now=now)
        line = line_of(self._request, report, settlement, stream=False, drill=call.drilled)
        record_attempt(context, line, changes, self._request.request_id)
