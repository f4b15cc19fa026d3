"""The providers, the state of each, and the one lock around it.

Theory of operation: a roster holds one slot a provider: its switch, the reason why it cannot be used at all (no key,
no weights), a breaker for the provider as a whole and one for each of its models. `admit` decides and reserves in the
same locked call; `settle` takes the outcome of what was admitted. Both return what changed, and call nobody.

A provider's models stand in succession: the first that is not disabled serves, the next one only when the provider
says that the one before is gone. What people do to providers, and what other processes found out, is in `controls`.

What may not live here: the order of attempts within one request (`plan`), the clock, the log.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from fallback.core.breaker import Admission, Phase
from fallback.core.controls import Controls, changed
from fallback.core.kinds import FailureKind
from fallback.core.models import Candidate, Failure, Headroom
from fallback.core.policy import (
    Cooldown,
    Disable,
    RoutingPolicy,
    Scope,
    Verdict,
    proves_model_serves,
    proves_provider_serves,
)
from fallback.core.reasons import barred, closed_by, due, nearly_over, no_model_left, status_of
from fallback.core.slot import Breakers, Slot
from fallback.core.standing import (
    Permit,
    ProviderStatus,
    Refusal,
    Settlement,
    Simulation,
    SlotSpec,
    StateChange,
    Why,
)

__all__ = [
    "Permit",
    "ProviderStatus",
    "Refusal",
    "Roster",
    "Settlement",
    "Simulation",
    "SlotSpec",
    "StateChange",
    "Why",
]

ANNOUNCED_JITTER_SHARE = 0.1
"""Up to a tenth is added to a cooldown whose end was announced, so as never to come back early nor all at once."""

JITTER_SHARE = 0.05
"""The same where nobody announced it: one probe looks then, so there is no crowd, and every second of it is a loss."""


_UNCHANGED = Settlement()
# Named once: see breaker.
_READY = Phase.READY
_CLOSED = Admission.CLOSED


class Roster(Controls):
    """All providers in their order. Safe for threads; no method blocks for longer than it takes to decide."""

    def __init__(
        self, slots: Sequence[SlotSpec], policy: RoutingPolicy, *, jitter: Callable[[], float]
    ) -> None:
        """Build it from `slots` in the order asked. `jitter` returns a number from 0 to 1 at every call."""
        super().__init__({spec.name: Slot(spec) for spec in slots}, threading.Lock())
        self.policy = policy
        self._jitter = jitter
        self._permits = 0
        self._open: dict[int, Breakers] = {}

    @property
    def permits_open(self) -> int:
        """How many permits are given and not settled: attempts under way."""
        return len(self._open)

    def candidates(self, provider: str) -> tuple[Candidate, ...]:
        """Return the models of `provider` in succession."""
        return self._slots[provider].candidates

    def retry_delay_s(self, asked_s: float | None = None) -> float:
        """Return how long to wait before a retry: the configured delay and up to half of it more, at random.

        `asked_s` is the wait that the provider asked for: it is never cut, and up to a tenth is added to it.
        """
        own_s = self.policy.retry_delay_s * (1.0 + 0.5 * self._jitter())
        return max(own_s, (asked_s or 0.0) * (1.0 + ANNOUNCED_JITTER_SHARE * self._jitter()))

    def first_token_limit_s(self, candidate: Candidate, *, learned: bool = True) -> float:
        """Return how long the first token of `candidate` is waited for: its configured limit, or the `learned` one."""
        configured_s = candidate.first_token_timeout_s or self.policy.first_token_timeout_s
        # The last resort has nobody behind it, and its time depends on the length of the prompt.
        if candidate.degraded or not learned:
            return configured_s
        learned_s = self._slots[candidate.provider].learned[candidate.model].first_token_limit_s
        return configured_s if learned_s is None else min(configured_s, learned_s)

    def takes_prefill(self, candidate: Candidate) -> bool:
        """Return whether `candidate` goes on with a last message of the assistant: it says so, and has not refused one."""
        learned = self._slots[candidate.provider].learned[candidate.model]
        return candidate.supports_prefill and not learned.prefill_refused

    def note_prefill_refused(self, candidate: Candidate) -> None:
        """Take note that `candidate` refused a last message of the assistant: it gets none any more."""
        with self._lock:
            self._slots[candidate.provider].learned[candidate.model].prefill_refused = True

    def admit(
        self,
        provider: str,
        now: float,
        *,
        usable: Callable[[Candidate], bool],
        model: str | None = None,
        panic: bool = False,
        force: bool = False,
        probe: bool = False,
    ) -> Permit | Refusal:
        """Give leave to ask `model` of `provider`, or the one that serves now, or say why not.

        `usable` says whether this request can use a candidate. With `panic` a cooldown is no obstacle; with `force`
        nothing is but a switch that is off and a missing key: somebody wants to know whether it is back. A cooldown
        that is over and whose end nobody had announced lets a `probe` pass, and refuses everybody else as `due`.
        """
        with self._lock:
            slot = self._slots[provider]
            candidate = slot.serving() if model is None else slot.named(model)
            if force and candidate is None:
                candidate = slot.candidates[0]
            refusal = barred(slot, candidate, force=force)
            if candidate is None or refusal is not None:
                return refusal or no_model_left(slot)
            if not usable(candidate):
                return Refusal(
                    provider=provider, model=candidate.model, why=Why.UNSUITED, text="not for this request"
                )
            pair = (slot.breakers.whole, slot.breakers.models[candidate.model])
            if pair[0].phase is _READY and pair[1].phase is _READY:
                return self._permit(slot, candidate)  # as it nearly always is
            closed = [breaker for breaker in pair if breaker.admission(now) is _CLOSED]
            if closed and not force and not (panic and all(b.phase is Phase.COOLING_DOWN for b in closed)):
                return closed_by(slot, candidate, closed, now)
            ended = [breaker for breaker in pair if breaker.phase is not _READY]
            if ended and not (probe or panic or force) and not all(breaker.announced for breaker in ended):
                return due(slot, candidate, ended)
            return self._reserve(slot, candidate, now)

    def book(
        self, provider: str, now: float, *, usable: Callable[[Candidate], bool], model: str | None = None
    ) -> Permit | None:
        """Give leave to look at `model` of `provider`, or the one that serves now, as soon as its cooldown is over.

        None where that is not a moment away, its end was announced, or somebody else is to look. Before the look
        `stands` says whether it is still wanted.
        """
        with self._lock:
            slot = self._slots[provider]
            candidate = slot.serving() if model is None else slot.named(model)
            if candidate is None or barred(slot, candidate) is not None or not usable(candidate):
                return None
            pair = (slot.breakers.whole, slot.breakers.models[candidate.model])
            closed = [breaker for breaker in pair if breaker.admission(now) is _CLOSED]
            if not closed or not nearly_over(closed, now):
                return None
            permit = self._reserve(slot, candidate, now)
            for breaker in closed:
                breaker.book(permit.id)
            return replace(permit, probe=True, not_before=max(breaker.until or now for breaker in closed))

    def stands(self, permit: Permit) -> bool:
        """Return whether what `permit` was given for is still so: nothing has happened to the provider since."""
        with self._lock:
            slot = self._slots[permit.candidate.provider]
            breakers = self._open.get(permit.id)
            return (
                breakers is slot.breakers
                and barred(slot, permit.candidate) is None
                and breakers.whole.generation == permit.provider_generation
                and breakers.models[permit.candidate.model].generation == permit.model_generation
            )

    def open_to(self, provider: str, *, usable: Callable[[Candidate], bool]) -> bool:
        """Return whether `provider` could be asked now, without a panic and without reserving anything."""
        with self._lock:
            slot = self._slots[provider]
            candidate = slot.serving()
            if candidate is None or barred(slot, candidate) is not None or not usable(candidate):
                return False
            pair = (slot.breakers.whole, slot.breakers.models[candidate.model])
            return all(breaker.phase is _READY for breaker in pair)

    def recovery(self, provider: str, *, usable: Callable[[Candidate], bool]) -> float | None:
        """Return the instant at which `provider` leaves its cooldown; None where it is in none that panic may break."""
        with self._lock:
            slot = self._slots[provider]
            candidate = slot.serving()
            if barred(slot, candidate) is not None or candidate is None or not usable(candidate):
                return None
            whole, models = slot.breakers
            return max(whole.until or 0.0, models[candidate.model].until or 0.0)

    def settle(
        self, permit: Permit, verdict: Verdict | None, failure: Failure | None, now: float
    ) -> Settlement:
        """Take the outcome of what `permit` allowed; each permit once, further calls change nothing.

        Both None: the answer came. `verdict` None with a `failure`: the caller is gone, or a retry follows, and
        nobody is to blame.
        """
        with self._lock:
            breakers = self._open.pop(permit.id, None)
            if breakers is None:
                return _UNCHANGED
            slot = self._slots[permit.candidate.provider]
            model = breakers.models[permit.candidate.model]
            breakers.whole.release(permit.id)
            model.release(permit.id)
            if breakers is not slot.breakers and breakers is not slot.real:
                return _UNCHANGED  # the drill that it belonged to has ended
            if failure is None:
                changes = _succeed(breakers, permit, provider=True, model=True)
                return Settlement(changes=changes) if changes else _UNCHANGED
            if verdict is None:
                return _UNCHANGED
            # What punishes the provider does not show it at work, though a response came.
            spared = verdict.penalty is None or verdict.penalty.scope is Scope.MODEL
            reached = failure.status is not None and breakers.whole.phase is Phase.COOLING_DOWN
            cleared = _succeed(
                breakers,
                permit,
                provider=spared and (reached or proves_provider_serves(failure)),
                model=proves_model_serves(failure) and model.phase is not Phase.READY,
            )
            settlement = self._punish(breakers, permit, verdict, failure, now)
            if not cleared:
                return settlement
            return Settlement(
                changes=cleared + settlement.changes,
                cooldown_s=settlement.cooldown_s,
                disabled=settlement.disabled,
            )

    def note_answer(
        self, permit: Permit, *, first_token_s: float | None, headroom: Headroom | None, now: float
    ) -> tuple[StateChange, ...]:
        """Learn from a good answer: how soon its first token came, and what it said is left of the rate limit.

        A candidate whose limit is used up is left alone until it is full again, instead of being asked and refused.
        """
        candidate = permit.candidate
        with self._lock:
            slot = self._slots[candidate.provider]
            if headroom is not None:
                slot.headroom = (headroom, now)
            if permit.drilled:
                return ()
            if first_token_s is not None:
                slot.learned[candidate.model].note_first_token(first_token_s)
            rest_s = None if headroom is None else headroom.used_up_s
            breaker = slot.breakers.models[candidate.model]
            if rest_s is None or breaker.phase is not _READY:
                return ()
            move = breaker.cool_down(
                breaker.generation,
                length_s=rest_s * (1.0 + ANNOUNCED_JITTER_SHARE * self._jitter()),
                announced=True,
                reason=FailureKind.RATE_LIMITED,
                now=now,
            )
            return () if move is None else (changed(candidate.provider, candidate.model, move),)

    def status(self, now: float) -> tuple[ProviderStatus, ...]:
        """Return every provider as people see it at the instant `now`."""
        with self._lock:
            return tuple(status_of(self._slots[name], now) for name in self._order)

    def ready(self, now: float) -> bool:
        """Return whether some candidate may be asked at the instant `now`, panic included."""
        return any(status.state in {"ready", "cooling_down", "probing"} for status in self.status(now))

    def _reserve(self, slot: Slot, candidate: Candidate, now: float) -> Permit:
        """Give a permit, which takes the probe slots of the breakers that ask for a probe."""
        whole, model = slot.breakers.whole, slot.breakers.models[candidate.model]
        # Whoever passes one that is closed does so in a panic or by hand, and is no probe of the other.
        open_to_probes = _CLOSED not in {whole.admission(now), model.admission(now)}
        permit = self._permit(slot, candidate)
        of_provider = open_to_probes and whole.reserve(permit.id, now)
        of_model = open_to_probes and model.reserve(permit.id, now)
        return replace(permit, probe=True) if of_provider or of_model else permit

    def _permit(self, slot: Slot, candidate: Candidate) -> Permit:
        self._permits += 1
        breakers = self._open[self._permits] = slot.breakers
        return Permit(
            id=self._permits,
            candidate=candidate,
            provider_generation=breakers.whole.generation,
            model_generation=breakers.models[candidate.model].generation,
            probe=False,
            drilled=slot.simulation is not None,
        )

    def _punish(
        self, breakers: Breakers, permit: Permit, verdict: Verdict, failure: Failure, now: float
    ) -> Settlement:
        name = permit.candidate.model
        penalty = verdict.penalty
        if verdict.strike and breakers.models[name].strike(permit.model_generation, self.policy.strikes):
            penalty = Cooldown(scope=Scope.MODEL, length_s=None, announced=False)
        if penalty is None:
            return _UNCHANGED
        whole = penalty.scope is Scope.PROVIDER
        breaker = breakers.whole if whole else breakers.models[name]
        generation = permit.provider_generation if whole else permit.model_generation
        match penalty:
            case Disable():
                move = breaker.disable(generation, reason=failure.kind, now=now, recheck_s=penalty.recheck_s)
            case Cooldown():
                length_s = penalty.length_s
                if length_s is None:
                    length_s = breaker.next_length_s(self.policy.cooldown_s)
                share = ANNOUNCED_JITTER_SHARE if penalty.announced else JITTER_SHARE
                length_s *= 1.0 + share * self._jitter()
                move = breaker.cool_down(
                    generation, length_s=length_s, announced=penalty.announced, reason=failure.kind, now=now
                )
        if move is None:
            return _UNCHANGED
        return Settlement(
            changes=(changed(permit.candidate.provider, None if whole else name, move),),
            cooldown_s=move.length_s if move.after is Phase.COOLING_DOWN else None,
            disabled=penalty.scope if move.after is Phase.DISABLED else None,
        )


def _succeed(breakers: Breakers, permit: Permit, *, provider: bool, model: bool) -> tuple[StateChange, ...]:
    owner, name = permit.candidate.key
    changes: tuple[StateChange, ...] = ()
    move = breakers.whole.succeed(permit.provider_generation) if provider else None
    if move is not None:
        changes = (changed(owner, None, move),)
    move = breakers.models[name].succeed(permit.model_generation) if model else None
    return changes if move is None else (*changes, changed(owner, name, move))
