"""`gateway tail`: look at the events in the log."""

from __future__ import annotations

import base64
import difflib
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, NoReturn

import typer
from pydantic import ValidationError

from gateway.accounts import NAME_RULE, is_account_name
from gateway.bootstrap import event_loop as loop
from gateway.bootstrap import terminal
from gateway.bootstrap.broker import open_broker
from gateway.bootstrap.broker_parts import TOPICS
from gateway.broker.ports import Stored
from gateway.cli.options import AccountsOption, ConfigOption, command_app
from gateway.errors import ConfigurationError
from gateway.settings.load import load_broker_settings
from gateway.settings.sections import BrokerSettings
from gateway.telemetry.logs import configure_logs

_AGO: Final = re.compile(r"([0-9]{1,12})([smhd])")
_UNITS: Final = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}

app = command_app()


@app.command()
def tail(
    kind: Annotated[list[str] | None, typer.Option(help="Only this kind, such as order-update; repeatable.")] = None,
    account: AccountsOption = None,
    start: Annotated[
        str,
        typer.Option(
            "--from", help="first, last, new, a position, a time such as 2026-11-22T13:32:25Z, or an age: 5m."
        ),
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
    r"""Show events from the topics, by kind and account, from any position.

    The broker and its credentials come from the section `broker` of the settings. An event is a line: what a
    terminal would obey or not show is written as \xNN or \uNNNN, into a pipe too. In JSON it is \uNNNN, which means
    the same, and a value that is no JSON is there as value_base64.
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
    show = _show_json if output == "json" else _show_line
    configure_logs("console", "warning")
    try:
        loop.run(_tail(settings, kind, account, start=_begin(start), follow=follow, show=show))
    except ConfigurationError as error:
        if error.setting != "start":
            raise
        raise typer.BadParameter(f"{error.problem}. {error.remedy}", param_hint="--from") from error
    except terminal.OutputClosed:  # it has seen enough
        pass


def _begin(text: str) -> str:
    """Return the time that was so long ago, `30s`, `5m`, `2h` or `7d`; what says no such thing as it is."""
    match = _AGO.fullmatch(text)
    if match is None:
        return text
    try:
        return (datetime.now(UTC) - int(match[1]) * _UNITS[match[2]]).isoformat()
    except OverflowError:
        return "first"


async def _tail(
    settings: BrokerSettings,
    kinds: list[str] | None,
    accounts: list[str] | None,
    *,
    start: str,
    follow: bool,
    show: Callable[[Stored], None],
) -> None:
    async with open_broker(settings) as broker:
        is_empty = True
        async for stored in broker.reader.read(topics=kinds, accounts=accounts, start=start, follow=follow):
            show(stored)
            is_empty = False
        if is_empty:
            of = "" if not accounts else f" of {', '.join(accounts)}"
            terminal.print_error(f"no message{of} from {start} on")


_MARKS = {"late": "late", "replayed": "replayid"}
"""By a member of a line: the attribute that a message has then."""


def _show_line(stored: Stored) -> None:
    message = stored.message
    marks = "".join(f" {mark}" for mark, name in _MARKS.items() if name in message.attributes)
    key, value = message.key.decode(errors="backslashreplace"), message.value.decode(errors="backslashreplace")
    terminal.print_line(f"{stored.position} {message.account} {message.topic} {key}{marks} {value}", flush=True)


def _show_json(stored: Stored) -> None:
    message = stored.message
    head = {
        "position": stored.position,
        "topic": message.topic,
        "account": message.account,
        "key": message.key.decode(errors="backslashreplace"),
        "attributes": message.attributes,
    }
    value = _json_of(message.value)
    if value is None:  # not the gateway's: a client with the permission may write anything
        terminal.print_json(head | {"value_base64": base64.b64encode(message.value).decode()}, flush=True)
        return
    start = json.dumps(head, ensure_ascii=False)[:-1]
    terminal.print_json_text(f'{start}, "value": {value}}}', flush=True)  # as it was written: no digit changes


def _json_of(value: bytes) -> str | None:
    """Return a value that is JSON as text; None for one that is not."""
    try:
        text = value.decode()
        json.loads(text, parse_constant=_refuse, parse_int=_pass_over, parse_float=_pass_over)
    except (ValueError, RecursionError):
        return None
    return text


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _pass_over(_digits: str) -> None:
    """Leave a number alone: it may have more digits than Python reads."""
