"""What must hold whatever providers do: a watch over a simulated world that objects as soon as something does not.

Theory of operation: a watch is told of every call that reaches a provider, of every line of the usage log, of every piece
that a caller gets and of every end. From the lines it keeps its own account of who rests until when, and from the replies
its own of what was announced; it asks the router for nothing but the ends of its cooldowns.

What may not live here: time and traffic (simulation).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from weather import WHOLE, SimulatedProvider, begun_answer

from fallback.core.errors import (
    DeadlineExceededError,
    FailureKind,
    NoAnswerError,
    RequestRejectedError,
    StreamBrokenError,
)
from fallback.core.models import Answer, ChatRequest, Delta
from fallback.core.roster import Roster
from fallback.loop import Send
from fallback.testing import FakeClock

__all__ = ["Asked", "Scope", "Visit", "Watch"]

EPSILON_S = 1e-6
SOON_S = 1.0
"""A call in fine weather is over in this time."""
LONGEST_S = 60.0
"""No call lasts longer: what began before cannot count any more."""

Key = tuple[str, str]
Scope = tuple[str, str | None]


@dataclass(slots=True, kw_only=True)
class Visit:
    """One call that reached a provider."""

    provider: str
    model: str
    began: float
    probe: bool
    background: bool


@dataclass(slots=True, kw_only=True)
class Asked:
    """A request under way and what its caller has got."""

    request: ChatRequest
    began: float
    live: bool = True
    only: str | None = None
    ended: float | None = None
    answer: Answer | None = None
    error: NoAnswerError | None = None
    left: bool = False
    """Whether the caller went away, or the router was closed."""
    told: bool = True
    """Whether it has a line of its own: a test of a provider that is switched off asks nobody and has none."""
    texts: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    """The last one that was delivered."""
    visits: list[Visit] = field(default_factory=list)
    ready: frozenset[str] = frozenset()
    """The providers that were ready when it began."""

    @property
    def text(self) -> str:
        """What the caller has got."""
        return "".join(self.texts)

    @property
    def deadline(self) -> float:
        """The instant by which it must be over."""
        return self.began + self.request.deadline_s


class Watch:
    """Sees everything and raises AssertionError."""

    def __init__(self, roster: Roster, providers: Mapping[str, SimulatedProvider], clock: FakeClock) -> None:
        self.visits: list[Visit] = []
        self.lines: list[Mapping[str, Any]] = []
        self.off: set[str] = set()
        """Providers that are switched off."""
        self.announced = 0
        """How often a provider asked to be left alone."""
        self.most_probes = 0
        """How many providers were probed at the same time."""
        self.panics = 0
        """How often somebody who rests was asked because nobody else was there."""
        self._roster = roster
        self._providers = providers
        self._clock = clock
        self._epoch = clock.now
        self._probing: set[Scope] = set()
        """The rests, of a provider or of a model, that somebody is finding out about."""
        self._rests: dict[Scope, float] = {}
        """Until when a provider (None) or a model of it rests, as the log and the router say."""
        self._since: dict[Scope, float] = {}
        self._unannounced: set[Scope] = set()
        """The rests whose end nobody announced."""
        self._gone: set[Key] = set()
        """Models that are out of service for good."""
        self._windows: dict[Key, tuple[float, float]] = {}
        """From when until when a provider asked to be left alone."""
        self._under_way: dict[str, Asked | None] = {}
        self._attempt_lines: Counter[str] = Counter()
        self._request_lines: Counter[str] = Counter()
        self._last: Mapping[str, Any] = {}
        self._last_began: float = -inf

    # What the drive tells.

    def asked(self, asked: Asked) -> None:
        """Take note of a request that begins."""
        statuses = self._roster.status(self._clock.now)
        asked.ready = frozenset(status.name for status in statuses if status.state == "ready")
        self._under_way[asked.request.request_id] = asked

    def probe_begins(self, key: Key, *, background: bool) -> frozenset[Scope]:
        """Take note that the permit of a probe was given out. Returns what it probes, to be told when it ends."""
        if background:
            self._check_rest(key, probe=True, asked=None)
        rests = frozenset(scope for scope in ((key[0], None), key) if scope in self._rests)
        assert rests, f"a probe of {key}, which does not rest"
        for scope in rests:
            assert self._rests[scope] <= self._clock.now + EPSILON_S, f"a probe of {scope}, which still rests"
            assert scope not in self._probing, f"two probes of {scope} at once"
        self._probing |= rests
        self.most_probes = max(self.most_probes, len({provider for provider, _ in self._probing}))
        return rests

    def probe_ends(self, probed: frozenset[Scope]) -> None:
        """Take note that a probe is over."""
        self._probing -= probed

    def sent(self, command: Send, asked: Asked | None, *, probe: bool) -> Visit:
        """Take note of a call, and object where it may not be made."""
        body = json.loads(command.request.body)
        key = command.request.provider, str(body["model"])
        visit = Visit(
            provider=key[0], model=key[1], began=self._clock.now, probe=probe, background=asked is None
        )
        self.visits.append(visit)
        if asked is not None:
            self._check_rest(key, probe=probe, asked=asked)
            asked.visits.append(visit)
            before, _ = begun_answer(body)
            assert (before or "") == asked.text, (
                f"{before!r} is to be gone on with, {asked.text!r} was delivered"
            )
            assert self._clock.now < asked.deadline, "a call was begun after the deadline"
            assert command.limit_s <= asked.deadline - self._clock.now + EPSILON_S, (
                "a limit beyond the deadline"
            )
        return visit

    def delivered(self, delta: Delta, asked: Asked) -> None:
        """Take note of a piece of an answer."""
        assert asked.finish_reason is None or not delta.text, "text after the end of the answer"
        asked.texts.append(delta.text)
        for choice in delta.choices:
            asked.finish_reason = choice.get("finish_reason") or asked.finish_reason
        assert WHOLE.startswith(asked.text), f"not the words in their order: {asked.text[-40:]!r}"

    def request_ends(self, asked: Asked) -> None:
        """Judge how a request ended."""
        name, now = asked.request.request_id, self._clock.now
        del self._under_way[name]
        assert now <= asked.deadline + EPSILON_S, (
            f"{name} ended {now - asked.deadline:.3f} s after its deadline"
        )
        asked.told = not (asked.only in self.off and not asked.visits and not asked.left)
        assert self._request_lines[name] == asked.told, (
            f"{self._request_lines[name]} request lines for {name}"
        )
        assert self._attempt_lines[name] == len(asked.visits), (
            f"{self._attempt_lines[name]} attempt lines for {len(asked.visits)} calls of {name}, which {'was left' if asked.left else 'was not left'}"
        )
        if asked.left:
            return
        if asked.answer is not None:
            self._check_answer(asked, asked.answer)
        else:
            assert asked.error is not None, f"{name} ended with neither an answer nor an error"
            assert asked.finish_reason is None, f"an error after the finish_reason {asked.finish_reason}"
            if isinstance(asked.error, StreamBrokenError):
                assert asked.error.partial_text == asked.text
            self._check_no_rescue_was_missed(asked, asked.error)

    def ended_by_hand(self, provider: str) -> None:
        """Take note that somebody ended the cooldowns of `provider`."""
        self._unannounced = {scope for scope in self._unannounced if scope[0] != provider}
        self._rests = {scope: until for scope, until in self._rests.items() if scope[0] != provider}
        self._windows = {key: window for key, window in self._windows.items() if key[0] != provider}
        self._gone = {key for key in self._gone if key[0] != provider}

    # What the log tells.

    def note_line(self, line: Mapping[str, Any]) -> None:
        """Take one line of the usage log."""
        self.lines.append(line)
        match line["kind"]:
            case "attempt":
                self._note_attempt(line)
            case "request":
                assert line["request_id"] in self._under_way, "a request line of nobody's"
                self._request_lines[line["request_id"]] += 1
                assert line["attempts"] == self._attempt_lines[line["request_id"]]
            case "state" if line["by"] == "router":
                self._note_state(line)

    def _note_attempt(self, line: Mapping[str, Any]) -> None:
        name, now = line["request_id"], self._clock.now
        assert line["source"] == "probe" or name in self._under_way, "an attempt of nobody's"
        self._attempt_lines[name] += 1
        self._last, self._last_began = line, now - line["duration_s"]
        key = line["provider"], line["request_model"]
        wait_s = line.get("retry_after_s")
        if (
            line["outcome"] == FailureKind.RATE_LIMITED
            and wait_s
            and wait_s > self._roster.policy.max_retry_wait_s
        ):
            self.announced += 1
            since, until = self._windows.get(key, (now, 0.0))
            self._windows[key] = since, max(until, now + wait_s)
        elif line["outcome"] == "ok" and key in self._windows and self._last_began > self._windows[key][0]:
            del self._windows[key]

    def _note_state(self, line: Mapping[str, Any]) -> None:
        scope = line["provider"], line.get("model")
        if line["to"] == "ready":
            reached = self._last["outcome"] == "ok" or "http_status" in self._last
            assert self._last["provider"] == scope[0], f"{scope} is ready without having been asked"
            assert reached, f"{scope} is ready after {self._last['outcome']}"
            assert self._last_began >= self._since[scope] - EPSILON_S, (
                f"a call that began before {scope} rested made it ready"
            )
            self._rests.pop(scope, None)
            self._unannounced.discard(scope)
            return
        state = self._roster.export(*scope, self._clock.now)
        until = self._clock.now + (state.left_s if state is not None else line.get("length_s", inf))
        if until == inf and scope[1] is not None:
            self._gone.add((scope[0], scope[1]))
        if scope in self._rests:
            assert until >= self._rests[scope] - EPSILON_S, f"the cooldown of {scope} became shorter"
        self._rests[scope] = until
        (self._unannounced.discard if state is None or state.announced else self._unannounced.add)(scope)
        self._since[scope] = self._clock.now

    def look(self) -> None:
        """Look at every cooldown: none may be shorter than it was, whether or not the log says so."""
        now = self._clock.now
        for scope, until in self._rests.items():
            if until > now + EPSILON_S and until != inf:
                state = self._roster.export(*scope, now)
                assert state is not None, f"the cooldown of {scope} ended early and nothing was said"
                assert now + state.left_s >= until - EPSILON_S, f"the cooldown of {scope} became shorter"

    # What may be asked when.

    def _check_rest(self, key: Key, *, probe: bool, asked: Asked | None) -> None:
        now = self._clock.now
        rests = [until for scope in ((key[0], None), key) if (until := self._rests.get(scope)) is not None]
        asleep = max(rests, default=-inf) > now + EPSILON_S
        window = self._windows.get(key, (0.0, 0.0))[1]
        announced = window > now + EPSILON_S
        if not announced and not rests:
            return
        if not announced and not asleep and probe and (asked is None or self._may_probe(key, asked)):
            return
        if asked is not None and (asked.only is not None or self._nobody_else(key, asked)):
            self.panics += 1
            return
        left_s = max([window, *rests]) - now
        assert not announced, f"{key} was asked {window - now:.3f} s before the end that it had announced"
        raise AssertionError(f"{key} was asked, by nobody's probe, while it rests ({left_s:.3f} s left)")

    def _may_probe(self, key: Key, asked: Asked) -> bool:
        """Return whether a request may look itself: the end was announced, or only a small model would follow."""
        announced = not self._unannounced.intersection({(key[0], None), key})
        return announced or asked.only is not None or self._nobody_else(key, asked, but_embedded=True)

    def _nobody_else(self, key: Key, asked: Asked, *, but_embedded: bool = False) -> bool:
        """Return whether every other provider rests, is off, or was asked by this request already."""
        gone = {key[0], *self.off, *(visit.provider for visit in asked.visits)}
        if but_embedded:
            gone |= {name for name in self._providers if self._roster.candidates(name)[0].degraded}
        return all(name in gone or self._resting(name) for name in self._providers)

    def _resting(self, provider: str) -> bool:
        models = [candidate.model for candidate in self._roster.candidates(provider)]
        serving = next((model for model in models if (provider, model) not in self._gone), None)
        return serving is None or (provider, None) in self._rests or (provider, serving) in self._rests

    # What the caller gets.

    def _check_answer(self, asked: Asked, answer: Answer) -> None:
        assert answer.text == WHOLE, f"an answer that is not whole: {answer.text!r}"
        assert answer.finish_reason == "stop"
        assert sum(part.characters for part in answer.parts) == len(WHOLE)
        if asked.live:
            assert asked.text == answer.text, "the pieces are not the answer"
            assert asked.finish_reason == "stop", "the caller was not told that the answer is whole"

    def _check_no_rescue_was_missed(self, asked: Asked, error: NoAnswerError) -> None:
        """Object where somebody healthy was there for the whole of the request, and there was time enough."""
        if asked.only is not None or self._own_fault(asked, error):
            return
        since, until = asked.began - self._epoch - LONGEST_S, self._clock.now - self._epoch
        tried = {visit.provider for visit in asked.visits}
        for name in asked.ready - self.off:
            if not self._providers[name].fine(since, until):
                continue
            assert name not in tried, f"{error} though {name} answered"
            left_s = asked.deadline - self._clock.now
            assert left_s < SOON_S, f"{error} though {name} was healthy and there were {left_s:.1f} s left"
            assert isinstance(error, DeadlineExceededError | StreamBrokenError)
            if asked.request.deadline_s < SOON_S * 2 ** len(asked.visits):
                continue  # who is silent may cost half of what is left, each time
            assert self._somebody_streamed(asked), f"{error} though {name} was healthy: it was never asked"

    def _somebody_streamed(self, asked: Asked) -> bool:
        return any(
            self._providers[v.provider].weather(v.began - self._epoch)[0].kind == "trickle"
            for v in asked.visits
        )

    def _own_fault(self, asked: Asked, error: NoAnswerError) -> bool:
        """Return whether the request itself was at fault, or its form is one that nobody goes on with."""
        kinds = Counter(report.outcome for report in error.attempts)
        refused = kinds[FailureKind.CONTENT_POLICY] or kinds[FailureKind.CONTEXT_WINDOW_EXCEEDED]
        if isinstance(error, RequestRejectedError):
            invalid = kinds[FailureKind.INVALID_REQUEST]
            assert refused or invalid, f"nobody refused it: {error}"
            return bool(refused) or invalid > 1
        return isinstance(error, StreamBrokenError) and bool(refused or asked.request.extra)
