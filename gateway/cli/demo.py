"""`gateway demo`: the whole gateway at work on one machine, with nothing to set up."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.bootstrap import event_loop as loop
from gateway.bootstrap import terminal
from gateway.bootstrap.broker import open_broker, prepare_broker
from gateway.bootstrap.broker_parts import Broker
from gateway.bootstrap.listeners import Listeners, listening
from gateway.bootstrap.log_reader import read_log
from gateway.broker.jetstream.embedded import EmbeddedServer
from gateway.cli.options import command_app
from gateway.hub.client import hub_http
from gateway.replica.replica import Replica
from gateway.replica.status import AccountStatus
from gateway.settings.model import Settings
from gateway.settings.sections import AccountsSettings, BrokerSettings, ControlSettings, HubSettings, MonitoringSettings
from gateway.simulator import Emission, Simulator, SimulatorConfig, simulator
from gateway.telemetry.logs import configure_logs
from gateway.verify.compare import Emitted, Verdict, compare

if TYPE_CHECKING:
    from rich.table import Table

ACCOUNTS: Final = ("alpha", "beta", "gamma")
_STUCK: Final = 30.0
"""Seconds without a further event after which a demo with an end gives up waiting."""


@dataclass(frozen=True, slots=True)
class _Demo:
    """Everything that the demo started."""

    hub: Simulator
    broker: Broker
    servers: str
    replica: Replica
    listeners: Listeners


app = command_app()


@app.command()
def demo(
    events: Annotated[
        int | None, typer.Option(min=1, help="End after so many events and compare the log with the hub.")
    ] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Events a second, over all three accounts.")] = 300.0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the gateway's log lines too.")] = False,
) -> None:
    """Run a demo: a simulated hub, a real nats-server and the gateway, on free ports of this machine.

    With --events it ends by itself, reads the log, compares it with what the hub emitted and prints the verdict:
    exit code 0 when every event is there once, in order and unchanged, else 1.
    """
    configure_logs("console", "info" if verbose else "error")
    if events is not None:
        rate = max(rate, events / 20)  # about 20 seconds, whatever the number
    verdicts = loop.run(_demo(events, rate))
    if not all(verdict.exact for verdict in verdicts):
        raise typer.Exit(1)


async def _demo(events: int | None, rate: float) -> list[Verdict]:
    stop = asyncio.Event()
    loop.on_signal(stop.set)
    shares = None if events is None else [events // 3 + (index < events % 3) for index in range(len(ACCOUNTS))]
    async with _start(shares, rate) as house:
        _print_addresses(house)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(house.replica.run())
            showing = tasks.create_task(_show(house))
            stopping = tasks.create_task(stop.wait())
            waiting = tasks.create_task(_until_published(house, events))
            await asyncio.wait({running, stopping, waiting}, return_when=asyncio.FIRST_COMPLETED)
            house.replica.stop()
            await asyncio.wait({running})
            for task in (showing, stopping, waiting):
                task.cancel()
        if events is None:
            return []
        verdicts = [await _judge(house, account) for account in ACCOUNTS]
        for verdict in verdicts:
            terminal.print_line(str(verdict))
        exact = all(verdict.exact for verdict in verdicts)
        logged = sum(verdict.logged for verdict in verdicts)
        terminal.print_line(
            f"verdict: {'exact' if exact else 'NOT exact'}: {logged} events in the log, {events} asked for"
        )
        return verdicts


@asynccontextmanager
async def _start(shares: list[int] | None, rate: float) -> AsyncIterator[_Demo]:
    with tempfile.TemporaryDirectory(prefix="gateway-demo-") as folder:
        keys = Path(folder) / "accounts"
        keys.mkdir()
        for account in ACCOUNTS:
            (keys / account).touch(0o600)
            (keys / account).write_text(f"demo-key-of-{account}\n", "utf-8")
        config = SimulatorConfig(users={account: f"demo-key-of-{account}" for account in ACCOUNTS})
        async with EmbeddedServer(Path(folder) / "nats") as server, simulator(config) as hub:
            settings = Settings(
                hub=HubSettings(url=hub.url),
                accounts=AccountsSettings(directory=keys),
                broker=BrokerSettings(servers=[server.url]),
                control=ControlSettings(port=0),
                monitoring=MonitoringSettings(host="127.0.0.1", port=0),
            )
            async with (
                hub_http(settings.hub) as http,
                open_broker(settings.broker, settings.topics) as broker,
                listening(settings, lambda: False) as listeners,
            ):
                await prepare_broker(broker, settings)
                for index, account in enumerate(ACCOUNTS):
                    hub.user(account).begin(Emission(rate / len(ACCOUNTS), None if shares is None else shares[index]))
                replica = Replica(
                    settings, broker.log, broker.registry, http, control=broker.control, member=broker.member
                )
                listeners.attach_replica(replica)
                yield _Demo(hub, broker, server.url, replica, listeners)


def _print_addresses(house: _Demo) -> None:
    tail, at = f".venv/bin/gateway tail --servers {house.servers}", house.listeners
    for line in (
        f"hub:     {house.hub.url}/hubs/event/v1 (simulated; accounts {', '.join(ACCOUNTS)})",
        f"broker:  {house.servers} (a real nats-server; its data is gone when the demo ends)",
        "events:  in another terminal, while this runs:",
        f"           {tail} --kind order-update",
        f"           {tail} --from first --account alpha --output json",
        f"control: {at.control_url} (the HTTP API; metrics on {at.monitoring_url}/metrics)",
        f"           .venv/bin/gateway accounts --url {at.control_url}",
        "         Ctrl-C ends it.",
    ):
        terminal.print_line(line, flush=True)


async def _until_published(house: _Demo, events: int | None) -> None:
    """Return when the log must be complete, or when nothing has moved for long."""
    if events is None:
        await asyncio.Event().wait()
    clock = asyncio.get_running_loop()
    before, moved = -1, clock.time()
    while clock.time() < moved + _STUCK:
        published = sum(status.published for status in house.replica.statuses())
        if published >= (events or 0):
            return
        if published != before:
            before, moved = published, clock.time()
        await asyncio.sleep(0.05)
    terminal.print_error(f"nothing was published for {_STUCK:g} s")


async def _show(house: _Demo) -> None:
    """Show progress: a live table on a terminal, plain lines elsewhere."""
    place = terminal.live()
    if place is not None:
        with place:
            await _each(0.25, house, lambda statuses, rate: place.update(_table(statuses, rate)))
    else:
        await _each(2.0, house, lambda statuses, rate: terminal.print_line(_line(statuses, rate), flush=True))


async def _each(seconds: float, house: _Demo, show: Callable[[list[AccountStatus], float], None]) -> None:
    before = 0
    try:
        while True:
            await asyncio.sleep(seconds)
            statuses = house.replica.statuses()
            published = sum(status.published for status in statuses)
            show(statuses, (published - before) / seconds)
            before = published
    finally:
        show(house.replica.statuses(), 0.0)


def _table(statuses: list[AccountStatus], rate: float) -> Table:
    title = f"{sum(status.published for status in statuses)} events published, {rate:.0f}/s"
    rows = [
        (status.account, status.state.value, str(status.published), str(status.lag), status.last_error or "")
        for status in statuses
    ]
    return terminal.table(title, ("account", "state", "events", "lag", "last error"), rows, right=("events", "lag"))


def _line(statuses: list[AccountStatus], rate: float) -> str:
    accounts = ", ".join(
        f"{status.account} {status.state.value} {status.published} lag {status.lag}" for status in statuses
    )
    return f"{sum(status.published for status in statuses)} events, {rate:.0f}/s: {accounts}"


async def _judge(house: _Demo, account: str) -> Verdict:
    emitted = []
    for line in house.hub.user(account).emitted():
        head, _, payload = line.decode().rstrip("\n").removesuffix("}").partition(',"payload":')
        truth = json.loads(head + "}")
        emitted.append(Emitted(truth["sequence"], truth["callback"], payload))
    logged = [message async for message in read_log(house.broker.reader, account)]
    return compare(account, emitted, logged, by_kind=not house.broker.one_order)
