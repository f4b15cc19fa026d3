"""One request: which candidate next, or wait, or give up.

Theory of operation. `start` freezes the order of providers and an absolute deadline. The driver then asks
`next_step(now)` and does what it says:

    Try(permit, timeouts, ...)   ask this candidate, then call `record` exactly once
    Wait(seconds)                let so much time pass, then ask again
    GiveUp(reason, ...)          there is nothing left to try; the reason decides which error the caller gets

and tells the result with `record(step, outcome, now)`. The permit was reserved with the roster in the very call that
returned the step; `record` settles it, with `CANCELLED` where the caller went away.

An ended attempt leaves one of four traces here: the same candidate again (a retry), the next provider (a failover),
the next model of the same provider (it said that the model is gone: the roster's succession then offers the next
model by itself), or an end (the fault is the request's own). Where text had been delivered the next candidate is to go on
with it; what it is to say is the loop's matter, and where nobody is left the end is BROKEN whatever else happened.

A provider whose cooldown is over without anybody having announced its end is not asked by the request that finds it so:
a Try names it in `probes`, for a small call beside the request, and goes to the next candidate; a moment before that end
the call is booked for it. Only where there is no
next one but the embedded model does the request look for itself.

What may not live here: anything that outlives the request (`roster`), bytes, clocks, text for people beyond a line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fallback.core.errors import FailureKind, UnknownModelError
from fallback.core.models import Candidate, ChatRequest, Failure, Role, Timeouts
from fallback.core.policy import Next, Verdict, judge
from fallback.core.reach import beyond_embedded
from fallback.core.roster import Permit, Refusal, Roster, Settlement, Why
from fallback.core.steps import CANCELLED, GiveUp, GiveUpReason, Step, Try, Wait

__all__ = ["CANCELLED", "GiveUp", "GiveUpReason", "Plan", "Step", "Try", "Wait", "known_models", "start"]

MIN_ATTEMPT_S = 0.05
"""An attempt that has less time than this left is not started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failed:
    candidate: Candidate
    failure: Failure


class Plan:
    """The course of one request. Used by one driver; the roster behind it is shared and locks by itself."""

    def __init__(
        self,
        request: ChatRequest,
        roster: Roster,
        order: tuple[tuple[str, str | None], ...],
        now: float,
        *,
        force: bool = False,
    ) -> None:
        """Freeze `order`, pairs of (provider, the one model wanted of it or None), and the deadline."""
        self._force = force
        self.request = request
        self.started = now
        self.deadline = now + min(request.deadline_s, roster.policy.deadline_s)
        self._roster = roster
        self._order = order
        self._attempts = 0
        self._tries: dict[tuple[str, str], int] = {}
        self._spent: set[tuple[str, str]] = set()
        self._failed: list[_Failed] = []
        self._retry: tuple[Candidate, float] | None = None
        self._window_above = 0
        self._adapted: set[tuple[str, str]] = set()
        self._broke: _Failed | None = None
        self._refused_by: set[str] = set()
        self._panicked = False
        self._named: set[str] = set()
        self._end: GiveUp | None = None

    @property
    def attempts(self) -> int:
        """How many attempts have been started."""
        return self._attempts

    def next_step(self, now: float) -> Step:
        """Return what to do at the instant `now`. A permit inside a Try is reserved already."""
        step = self._end or self._step(now)
        if isinstance(step, GiveUp) and self._broke is not None:
            return replace(
                step,
                reason=GiveUpReason.BROKEN,
                failure=self._broke.failure,
                provider=self._broke.candidate.provider,
            )
        return step

    def _step(self, now: float) -> Step:
        left_s = self.deadline - now
        if self._retry is not None:
            candidate, not_before = self._retry
            if now < not_before < self.deadline - MIN_ATTEMPT_S:
                return Wait(seconds=not_before - now, provider=candidate.provider)
            self._retry = None
            if now >= not_before and left_s >= MIN_ATTEMPT_S:
                permit = self._roster.admit(
                    candidate.provider, now, usable=lambda _: True, model=candidate.model, force=self._force
                )
                if isinstance(permit, Permit):
                    return self._try(permit, Role.RETRY, now, [])
            self._spent.add(candidate.key)
        if left_s < MIN_ATTEMPT_S:
            return self._give_up(GiveUpReason.DEADLINE)
        return self._next_candidate(now)

    def record(self, step: Try, failure: Failure | None, now: float) -> Settlement:
        """Tell how `step` ended: None for an answer, CANCELLED where the caller went away. Returns what changed."""
        candidate = step.candidate
        if failure is None:
            return self._roster.settle(step.permit, None, None, now)
        failed = _Failed(candidate=candidate, failure=failure)
        self._failed.append(failed)
        if failure.delivered:
            self._broke = self._broke or failed
        if failure.overdue:
            self._spent.add(candidate.key)
            self._stop_if_broken(failed)
            return self._roster.settle(step.permit, None, failure, now)
        if failure.adapted and candidate.key not in self._adapted:
            self._adapted.add(candidate.key)
            self._retry = (candidate, now)
            return self._roster.settle(step.permit, None, failure, now)
        wait_s = self._roster.retry_delay_s(failure.retry_after_s)
        room = self.deadline - now - wait_s > MIN_ATTEMPT_S
        tries = self._tries.get(candidate.key, 0)
        retries_left = max(0, self._roster.policy.retries + 1 - tries) if room else 0
        verdict = judge(failure, retries_left=retries_left, policy=self._roster.policy)
        if verdict.next is Next.STOP:
            self._end = GiveUp(reason=GiveUpReason.BROKEN, failure=failure, provider=candidate.provider)
            return self._roster.settle(step.permit, None, failure, now)
        if verdict.next is Next.RETRY:
            self._retry = (candidate, now + wait_s)
            return self._roster.settle(step.permit, None, failure, now)
        self._spent.add(candidate.key)
        self._advance(failed, verdict)
        return self._roster.settle(step.permit, verdict, failure, now)

    def _stop_if_broken(self, failed: _Failed) -> bool:
        """End where what was delivered cannot be gone on with, or is not to be. Returns whether it did."""
        failure = failed.failure
        stops = failure.delivered and (failure.final or self._roster.policy.on_stream_break == "error")
        if stops:
            self._end = GiveUp(
                reason=GiveUpReason.BROKEN, failure=failure, provider=failed.candidate.provider
            )
        return stops

    def _advance(self, failed: _Failed, verdict: Verdict) -> None:
        candidate, failure = failed.candidate, failed.failure
        if self._stop_if_broken(failed):
            return
        if verdict.next is Next.CALLER_ERROR:
            self._end = GiveUp(reason=GiveUpReason.REJECTED, failure=failure, provider=candidate.provider)
        elif verdict.next is Next.LARGER_WINDOW:
            self._window_above = max(self._window_above, candidate.context_window or 0)
        elif verdict.next is Next.SECOND_OPINION and not failure.delivered:
            # Once text was delivered, what is refused is the way it is to be gone on with, and not the caller's request.
            self._refused_by.add(candidate.provider)
            if len(self._refused_by) > 1:
                self._end = self._rejection()

    def _usable(self, candidate: Candidate) -> bool:
        if candidate.key in self._spent:
            return False
        if candidate.degraded and beyond_embedded(self.request):
            return False
        window = candidate.context_window
        return window is None or window > self._window_above

    def _next_candidate(self, now: float) -> Step:
        refusals: list[Refusal] = []
        for provider, wanted in self._order:
            if provider in self._refused_by:
                continue
            if self._last_resort(provider) and (looking := self._look(refusals, now)):
                return looking
            admitted = self._admit(provider, wanted, now, refusals)
            if isinstance(admitted, Permit):
                return self._try(admitted, self._role(), now, refusals)
            if admitted.why is Why.UNSUITED and self._last_resort(provider):
                admitted = self._explained(admitted)
            refusals.append(admitted)
        return self._panic(refusals, now) or self._conclude(refusals, now)

    def _explained(self, refusal: Refusal) -> Refusal:
        """Return `refusal` with the reason why what is asked for is beyond the embedded model, where it is."""
        reason = beyond_embedded(self.request)
        return replace(refusal, model=None, why=Why.BEYOND, text=reason) if reason else refusal

    def _last_resort(self, provider: str) -> bool:
        return self._roster.candidates(provider)[0].degraded

    def _look(self, refusals: list[Refusal], now: float) -> Try | None:
        """Let the request itself be the probe of the first provider that is due: a small model is all that follows."""
        for refusal in refusals:
            if refusal.due:
                admitted = self._probe(refusal, now)
                if admitted is not None:
                    return self._try(
                        admitted, self._role(), now, [other for other in refusals if other is not refusal]
                    )
        return None

    def _probe(self, refusal: Refusal, now: float) -> Permit | None:
        admitted = self._roster.admit(
            refusal.provider, now, usable=self._usable, model=refusal.model, probe=True
        )
        return admitted if isinstance(admitted, Permit) else None

    def _admit(
        self, provider: str, wanted: str | None, now: float, refusals: list[Refusal]
    ) -> Permit | Refusal:
        if wanted is not None:
            admitted = self._roster.admit(provider, now, usable=self._usable, model=wanted)
            if isinstance(admitted, Permit) or admitted.why in {Why.OFF, Why.NOT_CONFIGURED}:
                return admitted
            if admitted.due:
                # A model that does not serve by itself is asked by name alone: nobody else would look after it.
                refusals.append(admitted)
        return self._roster.admit(provider, now, usable=self._usable, force=self._force)

    def _panic(self, refusals: list[Refusal], now: float) -> Try | None:
        """Every candidate is cooling down: the one that recovers soonest is tried anyway.

        Where that fails, the others are, each once: but those whose end was announced, which would refuse for sure. The
        embedded model always is: it costs nobody anything, and there is nobody behind it.
        """
        resting = [r for r in refusals if r.why in {Why.COOLING_DOWN, Why.PROBING}]
        if self._panicked:
            resting = [r for r in resting if not r.announced or self._last_resort(r.provider)]
        self._panicked = True
        for soonest in sorted(resting, key=lambda refusal: refusal.until or 0.0):
            admitted = self._roster.admit(soonest.provider, now, usable=self._usable, panic=True)
            if isinstance(admitted, Permit):
                return self._try(admitted, self._role(), now, [r for r in refusals if r is not soonest])
        return None

    def _role(self) -> Role:
        return Role.FAILOVER if self._attempts else Role.FIRST

    def _try(self, permit: Permit, role: Role, now: float, refusals: list[Refusal]) -> Try:
        self._attempts += 1
        candidate = permit.candidate
        probes: tuple[Permit, ...] = ()
        skipped: tuple[Refusal, ...] = ()
        if refusals:
            probes = self._probes(refusals, now)
            skipped = self._unnamed([each for each in refusals if each.provider != candidate.provider])
        self._tries[candidate.key] = self._tries.get(candidate.key, 0) + 1
        self._named.add(candidate.provider)  # whoever was asked is not among those who were not
        return Try(
            permit=permit,
            number=self._attempts,
            role=role,
            timeouts=self._timeouts(candidate, now),
            skipped=skipped,
            probes=probes,
        )

    def _probes(self, refusals: list[Refusal], now: float) -> tuple[Permit, ...]:
        """Return leave to look at those who are due, and at those who will be in a moment."""
        probes = [self._probe(refusal, now) for refusal in refusals if refusal.due]
        probes += [
            self._roster.book(refusal.provider, now, usable=self._usable, model=refusal.model)
            for refusal in refusals
            if refusal.nearly
        ]
        return tuple(probe for probe in probes if probe is not None)

    def _timeouts(self, candidate: Candidate, now: float) -> Timeouts:
        policy = self._roster.policy
        left_s = self.deadline - now
        others = self._others(candidate)
        patience_s = candidate.response_timeout_s
        if candidate.streams(self.request):
            # To give up early is of use only where somebody else is there to be asked.
            patience_s = self._roster.first_token_limit_s(candidate, learned=others)
        # A silent candidate may cost half of what is left and no more while somebody else could still answer.
        half_s = left_s / 2 if others else left_s
        share_s = half_s if half_s < patience_s else left_s
        return Timeouts(
            connect_s=min(policy.connect_timeout_s, share_s),
            first_token_s=min(patience_s, share_s),
            idle_s=min(policy.idle_timeout_s, half_s),
            behind_s=min(policy.behind_limit_s, half_s) if others else left_s,
            total_s=left_s,
            patience_s=patience_s,
        )

    def _others(self, candidate: Candidate) -> bool:
        """Return whether another provider is there to be asked after `candidate`."""
        return not self._force and any(
            provider != candidate.provider
            and provider not in self._refused_by
            and self._roster.open_to(provider, usable=self._usable)
            for provider, _ in self._order
        )

    def _unnamed(self, refusals: list[Refusal]) -> tuple[Refusal, ...]:
        fresh = tuple(r for r in refusals if r.why is not Why.UNSUITED and r.provider not in self._named)
        self._named.update(r.provider for r in fresh)
        return fresh

    def _rejection(self) -> GiveUp:
        first = next(f for f in self._failed if f.failure.kind is FailureKind.INVALID_REQUEST)
        return GiveUp(reason=GiveUpReason.REJECTED, failure=first.failure, provider=first.candidate.provider)

    def _give_up(self, reason: GiveUpReason) -> GiveUp:
        last = self._failed[-1] if self._failed else None
        return GiveUp(
            reason=reason,
            failure=last.failure if last else None,
            provider=last.candidate.provider if last else None,
        )

    def _conclude(self, refusals: list[Refusal], now: float) -> GiveUp:
        """Say why no candidate is left."""
        if self._refused_by:
            return self._rejection()
        for kind in (FailureKind.CONTEXT_WINDOW_EXCEEDED, FailureKind.CONTENT_POLICY):
            for failed in self._failed:
                if failed.failure.kind is kind:
                    return GiveUp(
                        reason=GiveUpReason.REJECTED,
                        failure=failed.failure,
                        provider=failed.candidate.provider,
                    )
        skipped = self._unnamed(refusals)
        standing = [r for r in refusals if r.why not in {Why.OFF, Why.NOT_CONFIGURED, Why.BEYOND}]
        if not standing and not self._failed:
            return GiveUp(reason=GiveUpReason.NONE_AVAILABLE, skipped=skipped)
        limited = self._all_rate_limited(standing)
        if limited:
            ends = [end - now for end in self._recoveries() if end > now]
            retry_after_s = max(1.0, min(ends, default=1.0))
            last = self._give_up(GiveUpReason.RATE_LIMITED)
            return GiveUp(
                reason=last.reason,
                failure=last.failure,
                provider=last.provider,
                retry_after_s=retry_after_s,
                skipped=skipped,
            )
        last = self._give_up(GiveUpReason.FAILED)
        return GiveUp(reason=last.reason, failure=last.failure, provider=last.provider, skipped=skipped)

    def _all_rate_limited(self, standing: list[Refusal]) -> bool:
        # Of several attempts at one candidate the last one tells its state.
        latest = {f.candidate.key: f.failure.kind for f in self._failed}
        kinds: set[str] = set(latest.values())
        kinds |= {r.reason for r in standing if r.why is not Why.UNSUITED and r.reason}
        return kinds == {FailureKind.RATE_LIMITED}

    def _recoveries(self) -> list[float]:
        ends = [self._roster.recovery(provider, usable=lambda _: True) for provider, _ in self._order]
        return [end for end in ends if end is not None]


def start(request: ChatRequest, roster: Roster, now: float, *, only: str | None = None) -> Plan:
    """Begin `request` at the instant `now`.

    `only` names the one provider to ask, even where it is resting or disabled: to see whether it is back.

    `request.model` may be `auto`, a route, a provider or a model of one. A provider or model that is named comes
    first and the others follow: naming one is a wish, not a reason to go without an answer. A route is taken as it is.
    Raises UnknownModelError where nothing has that name.
    """
    if only is not None:
        return Plan(request, roster, ((only, None),), now, force=True)
    return Plan(request, roster, _order(request.model, roster), now)


def known_models(roster: Roster) -> tuple[str, ...]:
    """Return everything that `model` may name: auto, the routes, the providers, their models."""
    models = (candidate.model for provider in roster.providers for candidate in roster.candidates(provider))
    return tuple(dict.fromkeys(("auto", *roster.policy.routes, *roster.providers, *models)))


def _order(model: str, roster: Roster) -> tuple[tuple[str, str | None], ...]:
    if model in roster.policy.routes and model != "auto":
        return tuple((provider, None) for provider in roster.policy.routes[model])
    everyone = tuple((provider, None) for provider in roster.providers)
    if model == "auto":
        return everyone
    if model in roster.providers:
        return ((model, None), *(entry for entry in everyone if entry[0] != model))
    owners = [p for p in roster.providers if any(c.model == model for c in roster.candidates(p))]
    if not owners:
        raise UnknownModelError(model, known_models(roster))
    return (*((p, model) for p in owners), *(entry for entry in everyone if entry[0] not in owners))
