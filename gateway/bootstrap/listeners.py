"""The two listeners of a gateway: the control plane for operators, and probes and metrics beside it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from gateway.bootstrap.broker_parts import replica_name
from gateway.bootstrap.child_process import ChildLog, kept
from gateway.bootstrap.control_process import ControlProcess
from gateway.bootstrap.heartbeat import Heartbeat, ListenerTls, Scraped, Task
from gateway.control.auth.tokens import check_tokens_file
from gateway.control.listener.sockets import bind, url_of
from gateway.control.listener.tls import listener_context, scheme_of
from gateway.replica.replica import Replica
from gateway.settings.model import Settings
from gateway.settings.sections import ControlSettings
from gateway.telemetry.logs import get_logger

_LOOPBACK = "127.0.0.1"
_UNUSED = {"hub": {"proxy", "headers"}}
"""Settings that the control plane does not use, and that hold secrets."""


@dataclass(slots=True)
class Listeners:
    """The listeners, and the state that they show."""

    is_ending: Callable[[], bool]
    control: ControlProcess
    control_url: str
    monitoring_url: str
    heartbeat: Heartbeat = field(init=False)
    _replica: Replica | None = None

    def attach_replica(self, replica: Replica) -> None:
        """Let what is counted be of this replica from now on."""
        self._replica = replica

    def is_ready(self) -> bool:
        """Return whether this process may take part in what a rolling update waits for."""
        is_there = self._replica is not None and self._replica.is_ready and self.control.is_ready
        return is_there and not self.is_ending()

    async def scraped(self) -> Scraped:
        """Return what is counted, gathered between events; of the replica None as long as nothing runs."""
        return None if self._replica is None else await self._replica.metrics(), self.control.counts


@asynccontextmanager
async def listening(settings: Settings, is_ending: Callable[[], bool]) -> AsyncIterator[Listeners]:
    """Listen on both ports for as long as the context lasts; raises ConfigurationError where that cannot be.

    Both are answered by processes of their own: nothing that a stranger sends is parsed on the loop that serves events.
    Each reads its certificate by itself.
    """
    host = _open_to(settings.control)
    schemes = check_listeners(settings)
    async with AsyncExitStack() as stack:
        monitoring = bind("monitoring", settings.monitoring.host, settings.monitoring.port)
        stack.callback(monitoring.close)
        control = bind("control", host, settings.control.port)
        stack.callback(control.close)
        if settings.control.tokens_file is None:
            get_logger().warning(
                "control.tokens_file is not set: the control plane listens on loopback only",
                remedy="set control.tokens_file to a file with lines that `gateway token` makes",
            )
        listeners = _listeners(settings, is_ending, control, monitoring, host, schemes)
        await stack.enter_async_context(kept(listeners.control))
        await stack.enter_async_context(kept(listeners.heartbeat))
        beating = asyncio.create_task(listeners.heartbeat.beat_forever(), name="heartbeat")
        stack.callback(beating.cancel)
        yield listeners


def check_listeners(settings: Settings) -> tuple[str, str]:
    """Return the schemes of the control plane's and the monitoring listener's URLs.

    Raises ConfigurationError for a certificate that cannot be used.
    """
    listeners = (("control", settings.control.tls), ("monitoring", settings.monitoring.tls))
    control, monitoring = (scheme_of(listener_context(section, tls)) for section, tls in listeners)
    return control, monitoring


def _listeners(
    settings: Settings,
    is_ending: Callable[[], bool],
    control: socket.socket,
    monitoring: socket.socket,
    host: str,
    schemes: tuple[str, str],
) -> Listeners:
    urls = url_of(control, schemes[0]), url_of(monitoring, schemes[1])
    about = ChildLog("control plane is listening", "control plane ended, restarting it", urls[0], host)
    process = ControlProcess(about, control, settings.model_dump_json(exclude=_UNUSED).encode())
    listeners = Listeners(is_ending, process, *urls)
    messages = "serving probes and metrics", "monitoring process ended, restarting it"
    per_account, log, tls = settings.metrics.per_account, settings.log, settings.monitoring.tls
    files = ListenerTls(tls.cert_file, tls.key_file, tls.client_ca_file)
    task = Task(settings.shards, per_account, log.format, log.level, replica_name(os.getpid()), files)
    listeners.heartbeat = Heartbeat(
        ChildLog(*messages, urls[1], settings.monitoring.host), monitoring, task, listeners.is_ready, listeners.scraped
    )
    return listeners


def _open_to(settings: ControlSettings) -> str:
    """Return the address to listen on; raises ConfigurationError where the tokens cannot be read."""
    if settings.tokens_file is None:
        return _LOOPBACK
    check_tokens_file(settings.tokens_file)  # the control plane logs what is wrong with single lines
    return settings.host
