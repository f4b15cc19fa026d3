"""What both routers have in common: the wiring, and the state of the providers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fallback.config import Settings, load
from fallback.core.models import ChatRequest
from fallback.core.plan import known_models
from fallback.core.roster import Permit, ProviderStatus
from fallback.intake import chat_request, new_request_id
from fallback.loop import Exchange, ProbeCourse, RoutingContext
from fallback.switchboard import Switchboard
from fallback.wiring import Wiring, assemble

__all__ = ["TEST_PROMPT", "BaseRouter", "BeginProbe", "Config", "Course"]

Config = str | Path | Settings | Wiring
BeginProbe = Callable[[Permit], None]
Course = Exchange | ProbeCourse

TEST_PROMPT = "Reply with the word OK."
TEST_TOKENS = 16
TEST_DEADLINE_S = 20.0


class BaseRouter:
    """What both routers have in common: the wiring, and the providers' state."""

    def __init__(self, config: Config) -> None:
        self._owns = not isinstance(config, Wiring)
        self._closed = False
        if isinstance(config, Wiring):
            self.wiring = config
        else:
            settings = config if isinstance(config, Settings) else load(config)
            self.wiring = assemble(settings)
            self.wiring.start()

    @property
    def context(self) -> RoutingContext:
        """What every request shares."""
        return self.wiring.context

    def _exchange(self, request: ChatRequest, *, live: bool) -> Exchange:
        if self._closed:
            raise RuntimeError("this router is closed")
        return Exchange(request, self.context, live=live)

    def _probe_course(self, permit: Permit) -> ProbeCourse:
        return ProbeCourse(permit, self.context, new_request_id())

    def status(self) -> tuple[ProviderStatus, ...]:
        """Return the state of every provider, in the order asked."""
        return self.context.roster.status(self.context.clock())

    def ready(self) -> bool:
        """Return whether some provider may be asked now."""
        return self.context.roster.ready(self.context.clock())

    def models(self) -> tuple[str, ...]:
        """Return everything that `model` may name: auto, the routes, the providers, their models."""
        return known_models(self.context.roster)

    @property
    def switchboard(self) -> Switchboard:
        """Switches, drills, order and cooldowns of the providers."""
        return self.wiring.switchboard

    def set_enabled(self, provider: str, enabled: bool, *, by: str = "python") -> None:
        """Switch `provider` on or off; the next request sees it. Raises KeyError for an unknown name."""
        self.switchboard.set_enabled(provider, enabled, by=by)

    def _test_exchange(self, provider: str) -> Exchange:
        if self._closed:
            raise RuntimeError("this router is closed")
        if provider not in self.context.roster.providers:
            raise KeyError(provider)
        request = chat_request(TEST_PROMPT, max_tokens=TEST_TOKENS, deadline_s=TEST_DEADLINE_S, source="test")
        return Exchange(request, self.context, live=False, only=provider)
