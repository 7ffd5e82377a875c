"""`gateway tail`: look at the events in the log."""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer
from pydantic import ValidationError

from gateway.accounts import NAME_RULE, is_account_name
from gateway.broker.ports import Stored
from gateway.cli import loop
from gateway.cli.broker_parts import TOPICS
from gateway.cli.brokers import open_broker
from gateway.cli.options import ConfigOption, command_app
from gateway.errors import ConfigurationError
from gateway.settings import BrokerSettings, load_broker_settings

app = command_app()


@app.command()
def tail(
    kind: Annotated[list[str] | None, typer.Option(help="Only this kind, such as order-update; repeatable.")] = None,
    account: Annotated[list[str] | None, typer.Option(help="Only this account; repeatable.")] = None,
    start: Annotated[
        str, typer.Option("--from", help="first, last, new, a position, or a time such as 2026-11-22T13:32:25Z.")
    ] = "new",
    follow: Annotated[bool, typer.Option(help="Go on as events come; otherwise end at the log's end.")] = True,
    output: Annotated[
        str, typer.Option(help="line (for people) or json (one object a line, with its headers).")
    ] = "line",
    config: ConfigOption = None,
    broker: Annotated[str | None, typer.Option(help="jetstream or kafka; otherwise what broker.kind says.")] = None,
    servers: Annotated[
        str | None, typer.Option(help="The broker, commas between servers; otherwise what broker.servers says.")
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="The deployment's prefix; otherwise what broker.prefix says.")
    ] = None,
) -> None:
    """Show events from the log, by kind and account, from any position.

    The broker, and how to be let in, come from the section `broker` of the settings.
    """
    for name in kind or []:
        if name not in TOPICS:
            near = difflib.get_close_matches(name, TOPICS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(TOPICS)}"
            raise typer.BadParameter(f"{name!r} is no kind; {hint}", param_hint="--kind")
    for name in account or []:
        if not is_account_name(name):
            raise typer.BadParameter(f"{name!r} is not an account's name: {NAME_RULE}", param_hint="--account")
    if output not in {"line", "json"}:
        raise typer.BadParameter(f"{output!r} is neither line nor json", param_hint="--output")
    options = {"kind": broker, "servers": servers, "prefix": prefix}
    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = BrokerSettings.model_validate(load_broker_settings(config).model_dump() | given)
    except ValidationError as error:
        problem = error.errors()[0]
        option = str(problem["loc"][0]).replace("kind", "broker")
        shown = "" if "@" in str(problem["input"]) else f"{problem['input']!r}: "  # an address may hold a password
        raise typer.BadParameter(f"{shown}{problem['msg']}", param_hint=f"--{option}") from error
    show = _as_json if output == "json" else _as_line
    try:
        loop.run(_tail(settings, kind, account, start=start, follow=follow, show=show))
    except ConfigurationError as error:
        if error.setting != "start":
            raise
        raise typer.BadParameter(f"{error.problem}. {error.remedy}", param_hint="--from") from error
    except BrokenPipeError:  # whoever read along, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _tail(
    settings: BrokerSettings,
    kinds: list[str] | None,
    accounts: list[str] | None,
    *,
    start: str,
    follow: bool,
    show: Callable[[Stored], str],
) -> None:
    async with open_broker(settings) as broker:
        async for stored in broker.reader.read(topics=kinds, accounts=accounts, start=start, follow=follow):
            print(show(stored), flush=True)


_MARKS = {"late": "late", "replayed": "replayid"}
"""By what a line says: the attribute that a message bears then."""


def _as_line(stored: Stored) -> str:
    message = stored.message
    marks = "".join(f" {mark}" for mark, name in _MARKS.items() if name in message.attributes)
    key, value = message.key.decode(errors="replace"), message.value.decode(errors="replace")
    return f"{stored.position} {message.account} {message.topic} {key}{marks} {value}"


def _as_json(stored: Stored) -> str:
    message = stored.message
    value = message.value.decode(errors="replace")
    head = {
        "position": stored.position,
        "topic": message.topic,
        "account": message.account,
        "key": message.key.decode(errors="replace"),
        "attributes": message.attributes,
    }
    return f'{json.dumps(head, ensure_ascii=False)[:-1]}, "value": {value}}}'  # the value's own bytes: exact
