"""`gateway run`: the gateway itself."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from functools import partial

from gateway.accounts import AccountsDirectory
from gateway.backoff import Backoff
from gateway.bootstrap import event_loop as loop
from gateway.bootstrap.broker import check_writable, open_broker, prepare_broker, tracing_destinations
from gateway.bootstrap.broker_parts import replica_name
from gateway.bootstrap.event_loop import tune_garbage_collector
from gateway.bootstrap.exposed_files import warn_of_exposed
from gateway.bootstrap.listeners import Listeners, listening
from gateway.bootstrap.plain_text_secrets import plain_text_secrets
from gateway.cli.options import ConfigOption, command_app
from gateway.errors import ActionRequired, Unavailable
from gateway.hub.client import check_files, hub_http
from gateway.replica.containment import RestartDelays, causes, report_unexpected
from gateway.replica.replica import Replica
from gateway.settings.load import load_settings
from gateway.settings.model import Settings
from gateway.telemetry import tracer as traces
from gateway.telemetry.logs import configure_logs, get_logger
from gateway.telemetry.tracer import Tracer

app = command_app()


@app.command()
def run(config: ConfigOption = None) -> None:
    """Run the gateway: connect to the hub for every account and publish what it says, until SIGTERM.

    Settings come from the file and from the environment: GATEWAY_HUB__URL sets hub.url. Needed are hub.url and
    accounts.directory (one file an account, its name the account's, its content the API key). Exit codes: 0
    asked to end, 2 a setting is wrong.
    """
    settings = load_settings(config)
    configure_logs(settings.log.format, settings.log.level, replica_name(os.getpid()))
    check_writable(settings.broker)
    assert settings.accounts.directory is not None  # noqa: S101 - the settings see to it
    keys = AccountsDirectory(settings.accounts.directory)
    keys.scan()  # a wrong directory is reported at once, broker or not
    check_files(settings.hub)
    traces.check(settings.tracing)
    for warning in plain_text_secrets(settings):
        get_logger().warning("secret is sent in plain text", **warning.facts)
    with traces.tracing(settings.tracing, role="replica", broker=tracing_destinations(settings.broker)) as tracer:
        loop.run(_run(settings, keys, tracer))


async def _run(settings: Settings, keys: AccountsDirectory, tracer: Tracer) -> None:
    stop = asyncio.Event()
    loop.on_signal(stop.set)
    async with listening(settings, stop.is_set) as listeners, asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(_serve(settings, stop, listeners, tracer))
        stopping = tasks.create_task(stop.wait())
        warning = tasks.create_task(warn_of_exposed(settings, keys))
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            listeners.heartbeat.beat()  # not ready any more, from now on
            await asyncio.wait({serving}, timeout=7)  # what is not done then is abandoned: exactly-once stands
        for task in (serving, stopping, warning):
            task.cancel()


async def _serve(settings: Settings, stop: asyncio.Event, listeners: Listeners, tracer: Tracer) -> None:
    """Serve until asked to stop, however long the broker takes to be there."""
    log = get_logger()
    backoff, rests = Backoff(cap=5.0), RestartDelays()
    while not stop.is_set():
        try:
            async with hub_http(settings.hub) as http, open_broker(settings.broker, settings.topics) as broker:
                found = await prepare_broker(broker, settings)
                await broker.tried()
                for warning in found.warnings:
                    log.warning("broker differs from the settings", found=warning)
                replica = Replica(
                    settings,
                    broker.log,
                    broker.registry,
                    http,
                    ownership=broker.ownership,
                    control=broker.control,
                    member=broker.member,
                    tracer=tracer,
                    provision=partial(broker.again, settings),
                )
                listeners.attach_replica(replica)
                tune_garbage_collector()
                log.info("gateway started", hub=settings.hub.url, broker=settings.broker.servers)
                await _until_stopped(replica, stop)
                return
        except Exception as error:  # noqa: BLE001 - only a wrong configuration ends the process
            if all(isinstance(cause, Unavailable) for cause in causes(error)):
                delay = backoff.next_delay()
                (cause, *_), retry_in = causes(error), round(delay, 2)
                if isinstance(cause, ActionRequired):
                    log.error("broker unusable: action required", error=str(cause), retry_in=retry_in)
                else:
                    log.warning("broker unavailable, retrying", error=str(cause), retry_in=retry_in)
            else:
                delay = rests.after_failure()
                report_unexpected(None, "gateway", error, retry_in=delay)
            await _rest(delay, stop)


async def _rest(seconds: float, stop: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


async def _until_stopped(replica: Replica, stop: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(replica.run())
        stopping = tasks.create_task(stop.wait())
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            running.result()
            get_logger().error("every shard was fenced by another gateway: idle until restarted")
            await stop.wait()
        replica.stop()
        await asyncio.wait({running})
        stopping.cancel()
    get_logger().info("gateway stopped")
