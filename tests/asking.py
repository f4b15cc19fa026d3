"""Both routers behind one face, so that a test says once what must hold for both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fallback.core.models import Answer, Event
from fallback.providers.settings import ModelSettings, ProviderSettings
from fallback.router import AsyncModelRouter, ModelRouter
from fallback.transport import AsyncTransport, Transport
from fallback.wiring import Wiring

DRIVERS = ("sync", "async")


class Asking:
    """Asks through one of the two drivers, over the real transport or a given one."""

    def __init__(
        self,
        driver: str,
        wiring: Wiring,
        *,
        transport: Transport | None = None,
        async_transport: AsyncTransport | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.driver = driver
        self.wiring = wiring
        self._transport = transport
        self._async_transport = async_transport
        self._sleep = sleep

    def invoke(self, prompt: str = "Say hello.", **options: Any) -> Answer:
        if self.driver == "sync":
            router = ModelRouter(self.wiring, transport=self._transport, sleep=self._sleep)
            try:
                return router.invoke(prompt, **options)
            finally:
                router.wait_for_probes()
                router.close()

        async def ask() -> Answer:
            async with self._async_router() as router:
                try:
                    return await router.invoke(prompt, **options)
                finally:
                    await router.wait_for_probes()

        return asyncio.run(ask())

    def stream(
        self, prompt: str = "Say hello.", *, into: list[Event] | None = None, **options: Any
    ) -> list[Event]:
        """Return all events; those that came before an exception stand in `into`."""
        events: list[Event] = [] if into is None else into
        if self.driver == "sync":
            router = ModelRouter(self.wiring, transport=self._transport, sleep=self._sleep)
            try:
                events.extend(router.stream(prompt, **options))
            finally:
                router.wait_for_probes()
                router.close()
            return events

        async def ask() -> None:
            async with self._async_router() as router, router.stream(prompt, **options) as stream:
                try:
                    async for event in stream:
                        events.append(event)  # noqa: PERF401 - those before an exception must stay
                finally:
                    await router.wait_for_probes()

        asyncio.run(ask())
        return events

    def _async_router(self) -> AsyncModelRouter:
        sleep = self._sleep
        if sleep is None:
            return AsyncModelRouter(self.wiring, transport=self._async_transport)

        async def nap(seconds: float) -> None:
            sleep(seconds)

        return AsyncModelRouter(self.wiring, transport=self._async_transport, sleep=nap)


def provider(name: str, endpoint: str, **settings: Any) -> ProviderSettings:
    """Return settings of a provider with one model, named after it."""
    settings.setdefault("type", "openai")
    settings.setdefault("models", (ModelSettings(name=f"{name}-model"),))
    return ProviderSettings(name=name, endpoint=endpoint, needs_key=False, **settings)
