"""One call of one candidate: from the request sent to a whole answer or a failure.

What may not live here: what a failure leads to, the usage log, other attempts.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

from fallback.core.errors import FailureKind, Phase, TransportError
from fallback.core.models import Candidate, ChatRequest, Delta, Failure, Timeouts, Usage
from fallback.drills import drill_of
from fallback.loop.commands import Close, Command, Read, RoutingContext, Send
from fallback.loop.continuation import CHARACTERS_PER_TOKEN
from fallback.providers.assemble import Piece
from fallback.providers.decode import Decoded, Decoder, no_response
from fallback.transport.base import Head, Last

__all__ = ["Call"]

SETTLED_WAIT_S = 1.0
"""How long the end of a stream is waited for once every choice has its finish_reason."""

ERROR_BODY_S = 2.0
"""How long the body of an error is waited for: the status alone says enough."""

Take = Callable[[Iterable[Piece]], Iterable[Delta]]


class Call:
    """One call on its way. `run()` is called once."""

    def __init__(
        self,
        context: RoutingContext,
        request: ChatRequest,
        candidate: Candidate,
        timeouts: Timeouts,
        *,
        drilled: bool = False,
        may_be_blank: bool = False,
    ) -> None:
        """`may_be_blank`: a blank answer is one; a probe asks for a single token."""
        self.drilled = drilled
        """Whether an injected fault struck; until the response has begun: whether one is to be expected."""
        self.began = context.clock()
        self.made = False
        """Whether it has left this program."""
        self.first_piece: float | None = None
        """The instant of the first token."""
        self._context = context
        self._request = request
        self._candidate = candidate
        self._limits = timeouts
        self._may_be_blank = may_be_blank
        self._decoder: Decoder | None = None
        self._refused = False
        """Whether the status says that no answer comes."""
        self._pieces = 0

    @property
    def first_token_s(self) -> float | None:
        """Seconds from the start of the call to the first token."""
        return None if self.first_piece is None else self.first_piece - self.began

    @property
    def spent(self) -> tuple[Usage | None, bool]:
        """What a call that failed used, and whether that is an estimate.

        A provider tells the usage at the end. Where it broke off before, a token a piece is assumed for the output,
        which is how they stream, and four characters a token for the input.
        """
        if self._decoder is not None and self._decoder.usage is not None:
            return self._decoder.usage, False
        if not self._pieces:
            return None, False
        characters = sum(len(str(message.get("content") or "")) for message in self._request.messages)
        return Usage(input_tokens=-(-characters // CHARACTERS_PER_TOKEN), output_tokens=self._pieces), True

    def run(self, take: Take | None) -> Generator[Command, Any, Decoded | Failure]:
        """Make the call and read its answer, handing its pieces to `take` as they come."""
        context, limits = self._context, self._limits
        self.began = context.clock()
        provider = context.providers[self._candidate.provider]
        wire = provider.encode(self._request, self._candidate)
        limit_s = min(limits.first_token_s, limits.total_s)
        self.made = True
        head: Head | TransportError = yield Send(request=wire, connect_s=limits.connect_s, limit_s=limit_s)
        self.drilled = drill_of(head) is not None
        if isinstance(head, TransportError):
            return self._overdue(head) or no_response(head)
        policy = context.roster.policy
        wanted = self._request.extra.get("n", 1)
        decoder = provider.decoder(
            wall=context.wall(),
            max_bytes=policy.max_response_bytes,
            choices=wanted if isinstance(wanted, int) else 1,
        )
        decoder.may_be_blank = self._may_be_blank
        decoder.head(head.status, head.headers)
        self._decoder, self._refused = decoder, head.status >= 300
        broken = yield from self._read(decoder, head.status, take)
        yield Close()
        result = decoder.result(broken)
        if isinstance(result, Decoded):
            return result
        return self._overdue(broken) or result

    def _read(
        self, decoder: Decoder, status: int, take: Take | None
    ) -> Generator[Command, Any, TransportError | None]:
        context = self._context
        limits = _ReadLimits(self._limits, began=self.began, head_at=context.clock(), status=status)
        while not decoder.done and not decoder.failed:
            limit_s = limits.next_s(decoder, context.clock(), alive=self.first_piece is not None)
            if limit_s <= 0:
                return TransportError(FailureKind.TIMEOUT, Phase.BODY, "no answer in time")
            data: bytes | TransportError = yield Read(limit_s)
            if isinstance(data, TransportError):
                return data
            pieces = decoder.feed(data) if data else []
            last = not data or isinstance(data, Last)
            if last:
                pieces += decoder.end()
            if pieces:
                self._note(pieces)
                arrived = context.clock()
                if take is not None:
                    yield from take(pieces)
                limits.note(pieces, arrived, context.clock())
            if last:
                break
        return None

    def _note(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if piece.alive:
                self._pieces += 1
        if self._pieces and self.first_piece is None:
            self.first_piece = self._context.clock()

    def _overdue(self, broken: TransportError | None) -> Failure | None:
        """Tell the deadline of the request from the limits of the provider."""
        if broken is None or broken.kind is not FailureKind.TIMEOUT:
            return None
        limits, waited_s = self._limits, self._context.clock() - self.began
        if waited_s >= limits.total_s - 0.001:
            message = "the deadline of the request came first"
        elif self._cut_short(broken):
            message = "given up early, so that another provider still has time before the deadline"
        else:
            return None
        return Failure(kind=FailureKind.TIMEOUT, message=message, overdue=True)

    def _cut_short(self, broken: TransportError) -> bool:
        """Return whether the limit that ended it was cut to leave time for others."""
        if self._refused:
            return False
        if self.first_piece is not None:
            policy = self._context.roster.policy
            return (
                self._limits.idle_s < policy.idle_timeout_s or self._limits.behind_s < policy.behind_limit_s
            )
        if broken.phase is Phase.CONNECT:
            return self._limits.connect_s < self._context.roster.policy.connect_timeout_s
        return self._limits.first_token_s < self._limits.patience_s


class _ReadLimits:
    """How long each read of one response may take."""

    def __init__(self, limits: Timeouts, *, began: float, head_at: float, status: int) -> None:
        self._idle_s = limits.idle_s
        self._behind_s = limits.behind_s
        self._next_token_by: float | None = None
        self._total_by = began + limits.total_s
        self._first_by = min(began + limits.first_token_s, self._total_by)
        self._error_by = min(head_at + ERROR_BODY_S, self._total_by) if status >= 300 else None
        self._settled_by: float | None = None

    def next_s(self, decoder: Decoder, now: float, *, alive: bool) -> float:
        """Return the limit of the next read in seconds. Negative: the time is up."""
        if self._error_by is not None:
            return self._error_by - now
        if decoder.streaming and decoder.settled:
            if self._settled_by is None:
                self._settled_by = min(now + min(self._idle_s, SETTLED_WAIT_S), self._total_by)
            return self._settled_by - now
        if decoder.streaming and alive:
            token_by = self._total_by if self._next_token_by is None else self._next_token_by
            return min(self._total_by - now, self._idle_s, token_by - now)
        return self._first_by - now

    def note(self, pieces: list[Piece], arrived: float, now: float) -> None:
        """Take note of `pieces`, which the caller has taken by `now`: each token is worth a second of the allowance.

        How long the caller took is nobody's lag.
        """
        tokens = 0
        for piece in pieces:
            if piece.alive:
                tokens += len(piece.text) // CHARACTERS_PER_TOKEN or 1
        whole = now + self._behind_s
        if self._next_token_by is not None:
            self._next_token_by = min(self._next_token_by + now - arrived + tokens, whole)
        elif tokens:
            self._next_token_by = whole
