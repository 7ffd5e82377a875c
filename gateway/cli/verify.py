"""`gateway verify`: compares the topics with the hub's history."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Final

import typer

from gateway.accounts import AccountsDirectory, is_account_name
from gateway.bootstrap import event_loop as loop
from gateway.bootstrap import terminal
from gateway.bootstrap.broker import open_broker
from gateway.bootstrap.broker_parts import Broker
from gateway.bootstrap.log_reader import open_hub, read_log
from gateway.broker.ports import LogReader
from gateway.cli.options import AccountsOption, ConfigOption, command_app
from gateway.errors import GatewayError
from gateway.events.catalogue import KINDS
from gateway.publication import DEAD_LETTER, NOTIFICATIONS
from gateway.settings.load import load_settings
from gateway.settings.model import Settings
from gateway.telemetry.logs import configure_logs
from gateway.verify.announced import Strategies, announced, read_strategies
from gateway.verify.compare import Logged, Verdict, compare
from gateway.verify.history import HubHistory, read_history

_POLL: Final = 0.2


app = command_app()


@app.command()
def verify(
    config: ConfigOption = None,
    account: AccountsOption = None,
    since: Annotated[
        int | None, typer.Option(min=0, help="After this sequence; otherwise from the log's first event on.")
    ] = None,
    until: Annotated[int | None, typer.Option(min=1, help="Up to this sequence; otherwise the hub's latest.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for events that the log still lacks.")] = 10.0,
    incarnation: Annotated[
        int | None, typer.Option(min=1, help="Which one of an account that was reset; otherwise the newest.")
    ] = None,
    strategies: Annotated[
        str | None,
        typer.Option(help="Those subscribed before the first change that the log still tells of: 1,2. Otherwise all."),
    ] = None,
) -> None:
    """Verify the topics against the hub's history, by code of its own, and say what differs.

    What was subscribed, and where the newest incarnation of an account begins, it reads from the notifications in
    the log. Events that are older than all that the hub's history still has are counted, not compared. It reads the
    whole range of an account into memory: some 2 KB an event. It connects to the hub with the account's key, as a
    second connection, and subscribes to nothing. Exit codes: 0 exact, 1 not, 2 a setting is wrong.
    """
    asked = _Asked(since, until, wait, incarnation, _strategies(strategies))
    settings = load_settings(config)
    configure_logs("console", "warning")
    if not loop.run(_verify(settings, account, asked)):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Asked:
    since: int | None
    until: int | None
    wait: float
    incarnation: int | None
    strategies: Strategies


def _strategies(text: str | None) -> Strategies:
    try:
        return read_strategies(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no list of numbers; 1,2 would be right", param_hint="--strategies"
        ) from None


async def _verify(settings: Settings, accounts: list[str] | None, asked: _Asked) -> bool:
    assert settings.accounts.directory is not None  # noqa: S101 - the settings see to it
    keys = AccountsDirectory(settings.accounts.directory)
    names, exact = (accounts, True) if accounts else _names_in(keys)
    async with open_broker(settings.broker, settings.topics) as broker:
        for name in sorted(names):
            try:
                verdict = await _judge(settings, keys.key(name), broker, name, asked)
            except GatewayError as error:
                terminal.print_line(f"{name}: cannot be compared: {error}")
                exact = False
            else:
                terminal.print_line(str(verdict))
                exact = exact and verdict.exact
    terminal.print_line("verdict: exact" if exact else "verdict: NOT exact")
    return exact


def _names_in(keys: AccountsDirectory) -> tuple[Collection[str], bool]:
    """Return the accounts of a directory, and whether these are all that it is to hold; say what is none."""
    names, faults = keys.scan()
    for fault in faults:
        terminal.print_line(f"accounts.directory/{fault.entry}: cannot be compared: {fault.problem}. {fault.remedy}")
    if not names and not faults:
        terminal.print_line("accounts.directory holds no account: there is nothing to compare")
    return names, bool(names) and not any(is_account_name(fault.entry) for fault in faults)


async def _judge(settings: Settings, key: str, broker: Broker, account: str, asked: _Asked) -> Verdict:
    reader = broker.reader
    notifications = [message async for message in read_log(reader, account, [NOTIFICATIONS])]
    try:
        announcements = announced([(message.incarnation, message.value) for message in notifications], asked.strategies)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:  # others may write there, too
        raise GatewayError(f"a notification in the log cannot be read: {error!r}") from error
    lowest = await _lowest(reader, account)
    incarnation = asked.incarnation or max([*lowest, *announcements.begins], default=1)
    since = asked.since
    if since is None:
        since = announcements.begins.get(incarnation)
    if since is None:
        since = lowest[incarnation] - 1 if incarnation in lowest else _start(settings.accounts.start)
    history, end = await _read_hub(settings, key, since, asked.until)
    clock = asyncio.get_running_loop()
    deadline = clock.time() + asked.wait
    while True:  # the log is read after the hub: what the hub has by then may be published late
        began = clock.time()
        logged = await _of(reader, account, incarnation)
        letters = await _of(reader, account, incarnation, [DEAD_LETTER])
        compared = _comparable(history, logged, since, end)
        verdict = compare(
            account,
            history.events,
            compared,
            {message.sequence for message in letters if message.sequence is not None},
            by_kind=not broker.one_order,
            enums=settings.hub.enums,
            wants=lambda sequence, strategy: announcements.wants(incarnation, sequence, strategy),
            without_number=[message.value for message in logged if message.sequence is None],
        )
        verdict.older = len(_older(history, logged, since))
        verdict.unshown = (history.through, end) if history.through < end else None
        if not verdict.lost or clock.time() >= deadline:
            return verdict
        await asyncio.sleep(max(_POLL, clock.time() - began))


async def _of(reader: LogReader, account: str, incarnation: int, topics: Sequence[str] = KINDS) -> list[Logged]:
    return [message async for message in read_log(reader, account, topics) if message.incarnation == incarnation]


def _comparable(history: HubHistory, logged: Sequence[Logged], since: int, end: int) -> list[Logged]:
    """Return what the history can be compared with; raises GatewayError where the log has more, and it has nothing.

    What has no sequence is in no history, and what came since is not in what was read of it.
    """
    first = history.events[0].sequence if history.events else since + 1
    numbered = [(message.sequence or 0, message) for message in logged]
    inside = [message for sequence, message in numbered if first <= sequence <= min(history.through, end)]
    if not history.events and any(since < sequence <= end for sequence, _ in numbered):
        raise GatewayError(f"the hub's history shows no event after {since}, though its latest is {end}")
    return inside


def _older(history: HubHistory, logged: Sequence[Logged], since: int) -> list[Logged]:
    """Return what is older than all that the history still has."""
    first = history.events[0].sequence if history.events else 0
    return [message for message in logged if since < (message.sequence or 0) < first]


async def _lowest(reader: LogReader, account: str) -> dict[int, int]:
    """Return the lowest sequence of each incarnation in the log."""
    lowest: dict[int, int] = {}
    async with aclosing(read_log(reader, account)) as messages:
        async for message in messages:
            if message.sequence is not None:
                lowest[message.incarnation] = min(message.sequence, lowest.get(message.incarnation, message.sequence))
    return lowest


def _start(start: str | int) -> int:
    """Return the sequence after which an account begins of which the log has nothing; raises GatewayError."""
    if start == "latest":
        raise GatewayError("the log has nothing of it, and accounts begin at the latest event; say --since which one")
    return 0 if start == "earliest" else int(start)


async def _read_hub(settings: Settings, key: str, since: int, until: int | None) -> tuple[HubHistory, int]:
    """Return what the history has after `since`, and the sequence up to which it was read."""
    async with open_hub(settings, key) as hub:
        latest = (await hub.latest()).sequence
        end = latest if until is None else min(until, latest)
        return await read_history(hub, since=since, until=end, limit=settings.hub.page_limit), end
