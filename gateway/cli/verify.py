"""`gateway verify`: compares the topics with the hub's history."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Annotated, Final

import typer

from gateway.accounts import AccountsDirectory
from gateway.broker.ports import LogReader
from gateway.cli import loop
from gateway.cli.parts import open_broker
from gateway.cli.run import ConfigOption
from gateway.errors import GatewayError
from gateway.events.catalogue import KINDS
from gateway.hub import PATH, Hub
from gateway.publication import DEAD_LETTER
from gateway.replica.replica import hub_http, transport_of
from gateway.settings import Settings, load_settings
from gateway.signalr.connection import connect
from gateway.verify.compare import Emitted, Logged, Verdict, compare
from gateway.verify.history import read_history

_POLL: Final = 0.2


def verify(
    config: ConfigOption = None,
    account: Annotated[list[str] | None, typer.Option(help="Only this account; repeatable.")] = None,
    since: Annotated[
        int | None, typer.Option(min=0, help="After this sequence; otherwise from the log's first event on.")
    ] = None,
    until: Annotated[int | None, typer.Option(min=1, help="Up to this sequence; otherwise the hub's latest.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the log to reach the last sequence.")] = 10.0,
) -> None:
    """Compare the events in the log with the hub's history, by code of its own, and say what differs.

    It reads the whole range of an account into memory: some 2 KB an event. It connects to the hub with the
    account's key, as a second connection, and subscribes to nothing. Exit codes: 0 exact, 1 not, 2 a setting is
    wrong.
    """
    settings = load_settings(config)
    if not loop.run(_verify(settings, account, since=since, until=until, wait=wait)):
        raise typer.Exit(1)


async def _verify(
    settings: Settings, accounts: list[str] | None, *, since: int | None, until: int | None, wait: float
) -> bool:
    assert settings.accounts.directory is not None  # noqa: S101 - the settings see to it
    keys = AccountsDirectory(settings.accounts.directory)
    names = sorted(accounts or keys.scan()[0])
    exact = bool(names)
    async with open_broker(settings.broker) as broker:
        for name in names:
            try:
                verdict = await _judge(settings, keys.key(name), broker.reader, name, since, until, wait)
            except GatewayError as error:
                print(f"{name}: cannot be compared: {error}")
                exact = False
            else:
                print(verdict)
                exact = exact and verdict.exact
    print("verdict: exact" if exact else "verdict: NOT exact")
    return exact


async def _judge(
    settings: Settings, key: str, reader: LogReader, account: str, since: int | None, until: int | None, wait: float
) -> Verdict:
    if since is None:
        first = [message.sequence for message in await _read_log(reader, account, first_only=True)]
        since = (first[0] or 1) - 1 if first else 0
    emitted = await _read_hub(settings, key, since, until)
    last = max((event.sequence for event in emitted), default=0)
    clock = asyncio.get_running_loop()
    deadline = clock.time() + wait
    while True:
        logged = await _read_log(reader, account)
        highest = max((message.sequence or 0 for message in logged), default=0)
        if highest >= last or clock.time() >= deadline:
            break
        await asyncio.sleep(_POLL)
    # What has no sequence is in no history, and what came since is not in what was read of it.
    inside = [message for message in logged if message.sequence is not None and since < message.sequence <= last]
    dead = {message.sequence for message in await _read_log(reader, account, topics=[DEAD_LETTER]) if message.sequence}
    return compare(account, emitted, inside, dead)


async def _read_hub(settings: Settings, key: str, since: int, until: int | None) -> list[Emitted]:
    async with hub_http(settings.hub) as http:
        connection = await connect(transport_of(settings.hub, http), settings.hub.url + PATH, key)
        reading = asyncio.create_task(connection.run(lambda _target, _arguments: None))
        try:
            hub = Hub(connection)
            latest = (await hub.latest()).sequence
            end = latest if until is None else min(until, latest)
            return [event async for event in read_history(hub, since=since, until=end, limit=settings.hub.page_limit)]
        finally:
            reading.cancel()
            await asyncio.wait({reading})
            await connection.close()


async def _read_log(
    reader: LogReader, account: str, *, topics: Sequence[str] = KINDS, first_only: bool = False
) -> list[Logged]:
    found = []
    messages = reader.read(topics=topics, accounts=[account], start="first", follow=False)
    async with aclosing(messages) as stored_messages:  # type: ignore[type-var]
        async for stored in stored_messages:
            sequence = stored.message.attributes.get("sequence")
            found.append(
                Logged(
                    kind=stored.message.topic,
                    sequence=None if sequence is None else int(sequence),
                    value=stored.message.value,
                    late="late" in stored.message.attributes,
                )
            )
            if first_only and sequence is not None:
                break
    return found
