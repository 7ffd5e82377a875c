"""The process of the control plane: a socket as its argument, the settings on its standard input.

The gateway starts it (`gateway.bootstrap.child_process`). It answers on the socket that it is given, and ends with its
parent.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

import uvloop

from gateway.backoff import Backoff
from gateway.bootstrap import terminal
from gateway.bootstrap.broker import open_broker, topic_names
from gateway.bootstrap.broker_parts import replica_name
from gateway.bootstrap.child_process import LISTENS, READY, send_to_parent
from gateway.broker.control_view import View
from gateway.control.app import create_app
from gateway.control.auditing import Auditing
from gateway.control.auth.tokens import POLL_INTERVAL_S, Tokens
from gateway.control.deployment_view import DeploymentView
from gateway.control.listener.proxies import TrustedProxies
from gateway.control.listener.server import serving
from gateway.control.listener.tls import listener_tls
from gateway.control.middleware import AdmissionMiddleware
from gateway.control.tracing_middleware import TracingMiddleware
from gateway.errors import ConfigurationError, Unavailable
from gateway.settings.model import Settings
from gateway.tasks import run_apart
from gateway.telemetry.control_counts import ControlCounters
from gateway.telemetry.logs import configure_logs, get_logger
from gateway.telemetry.tracer import Tracer, tracing

_ENDING: Final = 1.0
"""Seconds that changes get to come onto the audit topic when the process ends."""
_LOOK: Final = 1.0
"""Seconds between two looks at what may have changed."""
USAGE_ERROR: Final = 2
_AGAIN: Final = 0.1
"""Seconds before a report to a busy parent is repeated."""


async def _serve(settings: Settings, listener: socket.socket, tracer: Tracer) -> None:
    """Answer until the parent is gone."""
    counts = ControlCounters()
    auditing = Auditing(counts)
    deployment = DeploymentView(settings.shards, topic_names(settings.broker), settings.replays, auditing=auditing)
    tokens = await _read_tokens(settings.control.tokens_file)
    gate = AdmissionMiddleware(create_app(deployment), tokens, counts=counts)
    app = TrustedProxies(
        TracingMiddleware(gate, tracer, gate.is_known) if tracer.is_on else gate, settings.control.trusted_proxies
    )
    async with listener_tls("control", settings.control.tls) as tls, serving(app, listener, tls=tls):
        following = asyncio.create_task(_follow(settings, deployment))
        orphaned = asyncio.create_task(_until_orphaned())
        looking = asyncio.create_task(_keep_looking(tokens, gate, counts))
        send_to_parent(LISTENS)
        await asyncio.wait({following, orphaned}, return_when=asyncio.FIRST_COMPLETED)
        await auditing.end(_ENDING)
        for task in (following, orphaned, looking):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await following  # where it failed, the parent sees this process end, and starts another


async def _read_tokens(path: Path | None) -> Tokens | None:
    """Read the tokens before the first answer: a line without its end, checked twice, refuses no caller meanwhile.

    Raises ConfigurationError where they cannot be read.
    """
    tokens = None if path is None else Tokens(path)
    if tokens is not None and tokens.is_unfinished:
        await asyncio.sleep(POLL_INTERVAL_S)
        tokens.look()
    return tokens


async def _keep_looking(tokens: Tokens | None, gate: AdmissionMiddleware, counts: ControlCounters) -> NoReturn:
    """Each second check the tokens, sum up refused requests, and report the counters to the parent."""
    reported = b""
    while True:
        await asyncio.sleep(_LOOK)
        try:
            if tokens is not None:
                tokens.reload()
                counts.tokens_file_problems = tokens.problems
            gate.refused.tick()
            if (line := counts.encode()) != reported and send_to_parent(line):
                reported = line
        except Exception:  # noqa: BLE001 - the next look is a second away
            get_logger().exception("failed to reload tokens or report counts")


async def _until_orphaned() -> None:
    """Wait until the parent closes its end, or is gone."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


async def _follow(settings: Settings, deployment: DeploymentView) -> NoReturn:
    """Keep a view, however often the broker is unavailable; the parent reports faults of the settings."""
    backoff = Backoff(cap=5.0)
    while True:
        if await run_apart(_follow_once(settings, deployment)):
            backoff = Backoff(cap=5.0)
        await asyncio.sleep(backoff.next_delay())


async def _follow_once(settings: Settings, deployment: DeploymentView) -> bool:
    """Keep a view until the broker goes away; return True where there was one."""
    is_filled = False
    try:
        async with open_broker(settings.broker, settings.topics) as broker, asyncio.TaskGroup() as tasks:
            view = View(lambda _: None)
            tasks.create_task(view.follow(broker.control))
            await view.has_synced.wait()
            while deployment.view is None and not send_to_parent(READY):  # noqa: ASYNC110 - nothing tells when a pipe has room
                await asyncio.sleep(_AGAIN)
            deployment.view, deployment.store, is_filled = view, broker.control, True
            deployment.auditing.trail = broker.audit
    except* (Unavailable, ConfigurationError):
        pass  # the parent reports it
    return is_filled


def main() -> None:
    """Be that process."""
    terminal.guard()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent is asked, and ends this
    os.set_blocking(sys.stdout.fileno(), False)
    settings = Settings.model_validate_json(sys.stdin.buffer.readline())
    configure_logs(settings.log.format, settings.log.level, replica_name(os.getppid()))
    with socket.socket(fileno=int(sys.argv[1])) as listener, tracing(settings.tracing, role="control") as tracer:
        try:
            uvloop.run(_serve(settings, listener, tracer))
        except ConfigurationError as error:  # a file that was right when the parent began
            get_logger().error("control plane failed to start", error=str(error))
            sys.exit(USAGE_ERROR)
