"""The two listeners of a gateway: the control plane for operators, and probes and metrics beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from gateway.cli.apart import Apart, control_apart
from gateway.control.monitoring import Monitoring
from gateway.control.server import bind, serving, url_of
from gateway.control.tokens import Tokens
from gateway.replica.replica import Replica
from gateway.settings import ControlSettings, Settings
from gateway.telemetry.logs import get_logger
from gateway.telemetry.metrics import Metrics

_LOOPBACK = "127.0.0.1"


@dataclass(slots=True)
class Listeners:
    """What listens, and what it tells of."""

    is_ending: Callable[[], bool]
    apart: Apart
    metrics: Metrics
    control_url: str = ""
    monitoring_url: str = ""
    _replica: Replica | None = None

    def tell_of(self, replica: Replica) -> None:
        """Let what is counted be of this replica from now on."""
        self._replica = replica

    def is_ready(self) -> bool:
        """Tell whether this process may take part in what a rolling update waits for."""
        is_there = self._replica is not None and self._replica.is_ready and self.apart.is_ready
        return is_there and not self.is_ending()

    async def scraped(self, accept: str) -> tuple[str, bytes]:
        """Give the metrics and their media type: gathered between events, and written on another thread."""
        numbers = None if self._replica is None else await self._replica.numbers()
        return await asyncio.to_thread(self.metrics.text, numbers, accept)


@asynccontextmanager
async def listening(settings: Settings, is_ending: Callable[[], bool]) -> AsyncIterator[Listeners]:
    """Listen on both ports for as long as the context lasts; raises ConfigurationError where that cannot be."""
    tokens, host = _open_to(settings.control)
    async with AsyncExitStack() as stack:
        monitoring = bind("monitoring", settings.monitoring.host, settings.monitoring.port)
        stack.callback(monitoring.close)
        control = bind("control", host, settings.control.port)
        stack.callback(control.close)
        apart = await stack.enter_async_context(control_apart(settings, control))
        metrics = Metrics(settings.shards, per_account=settings.metrics.per_account)
        listeners = Listeners(is_ending, apart, metrics, url_of(control), url_of(monitoring))
        probes = Monitoring(listeners.is_ready, listeners.scraped)
        await stack.enter_async_context(serving(probes, monitoring))
        log = get_logger()
        if tokens is None:
            log.warning(
                "the control plane has no tokens: it listens on loopback only",
                remedy="set control.tokens_file to a file with lines that `gateway token` makes",
            )
        log.info("the control plane listens", url=listeners.control_url, address=host)
        log.info("probes and metrics are served", url=listeners.monitoring_url, address=settings.monitoring.host)
        yield listeners


def _open_to(settings: ControlSettings) -> tuple[Tokens | None, str]:
    """Give who may call the API, and the address that this allows to listen on."""
    if settings.tokens_file is None:
        return None, _LOOPBACK
    return Tokens(settings.tokens_file), settings.host
