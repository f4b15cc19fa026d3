"""The values that flow through everything.

Frozen dataclasses, keyword only. Durations are float seconds (`_s`), money is US dollars (`_usd`), instants are
seconds of one monotonic clock. What may not live here: behaviour that needs a clock, a connection or the
configuration file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import Any

from fallback.core.kinds import FailureKind
from fallback.core.values import valueclass

__all__ = [
    "Answer",
    "AnswerPart",
    "AttemptFailed",
    "AttemptReport",
    "AttemptStarted",
    "Candidate",
    "CandidateSkipped",
    "ChatRequest",
    "Choice",
    "Delta",
    "Event",
    "Failure",
    "Finished",
    "Headroom",
    "Message",
    "Role",
    "Timeouts",
    "Usage",
    "Waiting",
]

Message = Mapping[str, Any]
"""One chat message in OpenAI's shape: at least `role` and `content`, anything else passed on as it is.
https://platform.openai.com/docs/api-reference/chat/create"""


@valueclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """What the caller asks, and how long there is for it."""

    request_id: str
    messages: tuple[Message, ...]
    model: str = "auto"
    """`auto`, or the name of a route, a provider or a model of one."""
    temperature: float | None = None
    """None: each provider's own setting."""
    max_tokens: int | None = None
    """None: each provider's own setting."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further parameters of the chat completions call (tools, response_format, ...), passed through unread."""
    deadline_s: float = 60.0
    """Seconds from the start of the request in which everything must happen."""
    source: str = "python"
    """Who asks: python, api, chat, cli. For the usage log."""
    api_key_name: str | None = None
    """The name of the key that the caller showed, never the key; None where there was none. For the usage log."""
    traceparent: str | None = None
    """The caller's place in a trace (https://www.w3.org/TR/trace-context/). For the usage log; no provider gets it."""

    @property
    def token_budget(self) -> int | None:
        """The longest answer in tokens, by whichever of its two names the caller set it; None: no limit of the caller's."""
        newer = self.extra.get("max_completion_tokens")
        return newer if isinstance(newer, int) else self.max_tokens

    @property
    def wants_schema(self) -> bool:
        """Whether the answer is to keep to a JSON schema (`response_format`)."""
        form = self.extra.get("response_format")
        return isinstance(form, Mapping) and form.get("type") == "json_schema"


@valueclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A (provider, model) that may be asked."""

    provider: str
    model: str
    context_window: int | None = None
    """Tokens; None where it is not known."""
    degraded: bool = False
    """True for the embedded model: its answers are better than nothing and may be wrong."""
    stream_upstream: bool = True
    """Ask for a stream even where the caller wants the answer in one piece."""
    streams_schema: bool = True
    """Whether it streams an answer that is to keep to a JSON schema, too; False: such a one is asked for in one piece."""
    response_timeout_s: float = 30.0
    """The one limit of an attempt that is not streamed."""
    first_token_timeout_s: float | None = None
    """This candidate's own limit; None: the routing policy's."""
    supports_prefill: bool = False
    """Whether it goes on with a last message of the assistant, as far as the configuration knows."""

    @property
    def key(self) -> tuple[str, str]:
        """(provider, model): what a cooldown of the model scope belongs to."""
        return (self.provider, self.model)

    def streams(self, request: ChatRequest) -> bool:
        """Return whether an answer to `request` is asked for as a stream."""
        return self.stream_upstream and (self.streams_schema or not request.wants_schema)


@valueclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """The limits of one attempt, each already cut to what is left of the deadline. Seconds."""

    connect_s: float
    first_token_s: float
    """From the start of the attempt to the first token (streamed), or to the whole answer (not streamed)."""
    idle_s: float
    """Silence inside a stream."""
    behind_s: float
    """How far a stream may fall behind one token a second: signs of life that bring no answer are no better than silence."""
    total_s: float
    """What is left of the request's deadline."""
    patience_s: float
    """The candidate's own limit for the first token. Where `first_token_s` is shorter the deadline cut it, and a
    candidate that misses it is not to blame."""


@valueclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one attempt, as the provider counted them."""

    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    """Part of output_tokens."""
    cached_tokens: int = 0
    """Part of input_tokens."""

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
        )


@valueclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """What a provider says is left of its rate limit. None: it did not say. Resets in seconds from the answer."""

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_s: float | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_s: float | None = None

    @property
    def used_up_s(self) -> float | None:
        """Seconds until what is used up is there again; None where nothing is, or nobody says when."""
        waits = (
            reset_s
            for left, reset_s in (
                (self.remaining_requests, self.reset_requests_s),
                (self.remaining_tokens, self.reset_tokens_s),
            )
            if left == 0 and reset_s
        )
        return max(waits, default=None)


@valueclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failed attempt, in the terms that the policy decides by."""

    kind: FailureKind
    status: int | None = None
    """The HTTP status, or the numeric code of an error inside a 200."""
    code: str | None = None
    """The provider's own code or type."""
    message: str = ""
    """One line for people, redacted: no key, no account id, at most 300 characters."""
    retry_after_s: float | None = None
    """How long the provider asks us to stay away, 0..86,400. None: it did not say."""
    provider_request_id: str | None = None
    account_wide: bool = True
    """For permission_denied: whether the account is refused (True) or this model alone (False)."""
    retryable: bool = False
    """Whether asking the same candidate once more may help at once."""
    delivered: bool = False
    """Whether part of the answer had been delivered to the caller."""
    final: bool = False
    """Whether what was delivered is of a kind that no other candidate can go on with: a tool call, JSON, one of several."""
    adapted: bool = False
    """Whether the same candidate is to be asked once more at once, in another way, and is not to blame: it refused a
    prefill, or said nothing to one."""
    overdue: bool = False
    """Whether the deadline of the request ended it, and no limit of the provider's: nobody is to blame."""


@valueclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of the answers (`n` of them were asked for; nearly always 1), in OpenAI's shape."""

    index: int
    message: Message
    finish_reason: str
    logprobs: Any = None


class Role(StrEnum):
    """Why an attempt is made."""

    FIRST = "first"
    RETRY = "retry"
    FAILOVER = "failover"


@valueclass(frozen=True, slots=True, kw_only=True)
class AttemptReport:
    """One attempt, after it ended."""

    number: int
    """1 for the first attempt of a request."""
    role: Role
    provider: str
    model: str
    outcome: str
    """`ok`, or the failure kind."""
    probe: bool = False
    failure: Failure | None = None
    started_s: float = 0.0
    """Seconds after the request began."""
    duration_s: float = 0.0
    time_to_first_token_s: float | None = None
    usage: Usage | None = None
    usage_estimated: bool = False
    """Whether the provider told no usage before it broke off, and `usage` is counted from what came."""
    cost_usd: float | None = None
    response_model: str | None = None
    """The model that the provider says answered."""
    continues: int | None = None
    """How many characters of the answer the caller had when this attempt went on with it; None: it began the answer."""
    finish_reason: str | None = None
    skipped_events: int = 0
    """Malformed events that were skipped inside an otherwise good stream."""
    provider_request_id: str | None = None


@valueclass(frozen=True, slots=True, kw_only=True)
class AnswerPart:
    """What one candidate contributed to the text of an answer."""

    provider: str
    model: str
    characters: int


@valueclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer and the account of how it came about."""

    request_id: str
    choices: tuple[Choice, ...]
    provider: str
    model: str
    """The model that was asked; `response_model` of the last attempt is what the provider calls it."""
    usage: Usage
    cost_usd: float | None
    """None where no price is configured for a provider that took part."""
    latency_s: float
    time_to_first_token_s: float | None
    attempts: tuple[AttemptReport, ...]
    activity_log: tuple[str, ...]
    degraded: bool
    created: int = 0
    """Unix time of the request, whole seconds."""
    parts: tuple[AnswerPart, ...] = ()
    """Who said what, in order: more than one where a stream broke and another candidate went on with it."""
    usage_estimated: bool = False
    """Whether `usage` and `cost_usd` hold an estimate, for a part whose provider broke off before it told."""

    @property
    def providers(self) -> tuple[str, ...]:
        """Everybody who contributed to the text, in order, each once; `provider` is the last of them."""
        return tuple(dict.fromkeys(part.provider for part in self.parts)) or (self.provider,)

    @property
    def seams(self) -> tuple[int, ...]:
        """Where in the text another candidate took over: character offsets, none for an answer in one piece."""
        ends: list[int] = []
        for part in self.parts[:-1]:
            ends.append(part.characters + (ends[-1] if ends else 0))
        return tuple(ends)

    @property
    def text(self) -> str:
        """The text of the first choice, its refusal where it refuses; "" where it holds only tool calls."""
        message = self.choices[0].message
        content = message.get("content") or message.get("refusal")
        return content if isinstance(content, str) else ""

    @property
    def finish_reason(self) -> str:
        """`stop`, `length`, `tool_calls`, ..., of the first choice."""
        return self.choices[0].finish_reason

    @property
    def truncated(self) -> bool:
        """True where the token budget ended the answer (`finish_reason` is `length`)."""
        return self.finish_reason == "length"

    @property
    def rescued(self) -> bool:
        """True where a failover saved the answer: the first provider asked is not the one that answered."""
        return self.attempts[0].provider != self.provider


@valueclass(frozen=True, slots=True, kw_only=True)
class CandidateSkipped:
    """A provider that comes first in the order is not asked, and why."""

    provider: str
    model: str | None
    reason: str
    """In plain words: "cooling down for 24 s (rate_limited)"."""


@valueclass(frozen=True, slots=True, kw_only=True)
class AttemptStarted:
    """A provider is being asked."""

    number: int
    role: Role
    provider: str
    model: str
    probe: bool = False
    degraded: bool = False
    continues: int | None = None
    """How many characters of the answer the caller has already; None: this attempt begins the answer."""


@valueclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed:
    """An attempt failed."""

    number: int
    provider: str
    model: str
    failure: Failure
    duration_s: float
    cooldown_s: float | None = None
    """How long the provider or model is left alone now; None: not at all."""
    disabled: str | None = None
    """What is disabled from now on: "provider", "model", or None."""


@valueclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A pause before the same provider is asked again."""

    seconds: float
    provider: str


@valueclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A piece of the answer, as it arrived. `text` is of choice 0; `chunk` holds the provider's `choices` list."""

    text: str
    provider: str
    model: str
    choices: tuple[Mapping[str, Any], ...] = ()


@valueclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The answer is whole."""

    answer: Answer


Event = CandidateSkipped | AttemptStarted | AttemptFailed | Waiting | Delta | Finished
"""What `stream()` yields, in order; the last one is Finished, else an exception is raised."""
