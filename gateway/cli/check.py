"""`gateway check`: whether the settings, the broker, the hub and the keys are as they must be."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from pathlib import Path
from typing import Final

import typer

from gateway.accounts import AccountsDirectory
from gateway.bootstrap import event_loop as loop
from gateway.bootstrap import terminal
from gateway.bootstrap.broker import DOCS, NAMES, check_writable, open_broker, prepare_broker
from gateway.bootstrap.exposed_files import exposed_files
from gateway.bootstrap.listeners import check_listeners
from gateway.bootstrap.log_reader import open_hub
from gateway.bootstrap.plain_text_secrets import plain_text_secrets
from gateway.cli.options import ConfigOption, command_app
from gateway.control.auth.tokens import check_tokens_file
from gateway.errors import (
    ActionRequired,
    CallFailed,
    CallRejected,
    ConfigurationError,
    GatewayError,
    HubError,
    NotReady,
    Unauthorized,
    Unavailable,
)
from gateway.events.decode import Decoder
from gateway.hub.client import check_files
from gateway.hub.methods import EventsPage, Hub
from gateway.settings.load import load_settings
from gateway.settings.model import Settings
from gateway.telemetry import tracer as traces
from gateway.telemetry.logs import configure_logs

_SAMPLE: Final = 200
"""Events that are looked at, of each account, for how the hub writes enums."""
_SHOWN: Final = 3
"""Refused subjects that are named: there may be twenty for each account."""


app = command_app()


@app.command()
def check(config: ConfigOption = None) -> None:
    """Check settings, accounts, broker and hub, and say what is wrong and what would be right.

    It leaves nothing behind but what `gateway run` would create in the broker. Exit codes: 0 all is well, 1
    something is not, 2 a setting is wrong.
    """
    settings = load_settings(config)
    traces.check(settings.tracing)
    check_listeners(settings)
    check_writable(settings.broker)
    check_files(settings.hub)
    terminal.print_line("ok    settings")
    for warning in plain_text_secrets(settings):
        terminal.print_line(f"warn  {warning}")
    configure_logs("console", "warning")
    if not loop.run(_check(settings)):
        raise typer.Exit(1)


async def _check(settings: Settings) -> bool:
    assert settings.accounts.directory is not None  # noqa: S101 - the settings see to it
    keys = AccountsDirectory(settings.accounts.directory)
    names, faults = keys.scan()
    for fault in faults:
        terminal.print_line(f"FAIL  accounts.directory/{fault.entry}: {fault.problem}. {fault.remedy}")
    if not names:
        remedy = "Write an API key into a file there; the file's name becomes the account's."
        terminal.print_line(f"FAIL  accounts.directory: {settings.accounts.directory} holds no account. {remedy}")
    for fault in exposed_files(settings, keys):
        terminal.print_line(f"warn  {fault.entry}: {fault.problem}. {fault.remedy}")
    results = [not faults, bool(names)]
    if settings.control.tokens_file is not None:
        results.append(await _report("control.tokens_file", _check_tokens(settings.control.tokens_file)))
    results.append(await _report("broker", _check_broker(settings, names)))
    decoder = Decoder(settings.hub.enums)
    accounts = [
        await _report(f"account {name}", _check_account(settings, keys, name, decoder)) for name in sorted(names)
    ]
    if any(accounts):
        terminal.print_line(f"ok    hub.enums: {decoder.names.described()}")
    return all(results + accounts)


async def _check_tokens(path: Path) -> str:
    """Return how many tokens there are; raises ConfigurationError that names each bad line and quotes none."""
    count, faults = check_tokens_file(path)
    if faults:
        bad = "; ".join(map(str, faults[:_SHOWN]))
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        remedy = "Write lines into it that `gateway token` makes."
        raise ConfigurationError("control.tokens_file", f"{path}, {bad}{more}", remedy)
    return f"{count} {'token' if count == 1 else 'tokens'}"


async def _report(what: str, look: Awaitable[str]) -> bool:
    try:
        found = await look
    except GatewayError as error:
        terminal.print_line(f"FAIL  {what}: {error}")
    else:
        terminal.print_line(f"ok    {what}: {found}")
        return True
    return False


async def _check_broker(settings: Settings, accounts: Iterable[str]) -> str:
    try:
        return await _look_at_broker(settings, accounts)
    except (ActionRequired, NotReady):
        raise  # its words say what is right
    except Unavailable as error:
        remedy = f"Start {NAMES[settings.broker.kind]} there, or mend the setting."
        raise ConfigurationError("broker.servers", str(error), remedy) from error


async def _look_at_broker(settings: Settings, accounts: Iterable[str]) -> str:
    async with open_broker(settings.broker, settings.topics) as broker:
        found = await prepare_broker(broker, settings)
        refusals = await broker.refused(settings, accounts)
        if refusals:
            remedy = f"Give the user the permissions that docs/{DOCS[settings.broker.kind]} lists."
            more = f"; and {len(refusals) - _SHOWN} more" if len(refusals) > _SHOWN else ""
            raise ConfigurationError("broker", "; ".join(refusals[:_SHOWN]) + more, remedy)
        return "; ".join([found.summary, *await broker.tried_whole()])


async def _check_account(settings: Settings, keys: AccountsDirectory, name: str, decoder: Decoder) -> str:
    try:
        return await _call_hub(settings, keys, name, decoder)
    except Unauthorized as error:
        remedy = "Write the account's present API key into the file."
        raise ConfigurationError(f"accounts.directory/{name}", f"its key is refused ({error})", remedy) from error
    except HubError as error:
        remedy = "Mend the setting, or find out why the hub cannot be reached from here."
        raise ConfigurationError("hub.url", f"{settings.hub.url}: {error}", remedy) from error


async def _call_hub(settings: Settings, keys: AccountsDirectory, name: str, decoder: Decoder) -> str:
    async with open_hub(settings, keys.key(name)) as hub:
        latest = await hub.latest()
        page = await _last_events(hub, latest.sequence, min(_SAMPLE, settings.hub.page_limit))
    for envelope in page.envelopes:
        decoder.envelope(name, envelope)
    return f"the hub takes the key; its latest event is {latest.sequence}, its clock says {latest.time}"


async def _last_events(hub: Hub, latest: int, limit: int) -> EventsPage:
    """Ask for the last events; for fewer where the hub refuses so many, as `gateway run` does."""
    while True:
        try:
            return await hub.events_since(max(0, latest - limit), limit, None)
        except (CallFailed, CallRejected):
            if limit == 1:
                raise
            limit //= 2
