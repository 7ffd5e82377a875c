"""`gateway replay`: replays, through the HTTP API of any replica, and watched until they end."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from uuid import uuid4

import typer

from gateway.bootstrap import event_loop as loop
from gateway.bootstrap import terminal
from gateway.cli.api_client import Api, api_at, as_promised, segment
from gateway.cli.options import (
    CaFileOption,
    CertFileOption,
    JsonOption,
    KeyFileOption,
    TokenOption,
    UrlOption,
    command_app,
)
from gateway.cli.target import URL, Target
from gateway.errors import ConfigurationError, GatewayError

if TYPE_CHECKING:
    from rich.table import Table

_LOOK: Final = 0.5
"""Seconds between two looks at a replay."""
_TRIES: Final = 120
"""Looks in a row that may find no answer: replicas are replaced, and the replay goes on meanwhile."""
_FINAL: Final = {"completed", "failed", "cancelled"}

app = command_app("Manage replays: publish a range of an account's history again, each event once.")
IdArgument = Annotated[str, typer.Argument(help="The replay, as `gateway replay list` names it.", metavar="ID")]


@app.command("start", short_help="Start a replay, and watch it.")
def start(
    account: Annotated[str, typer.Argument(help="The account.")],
    since: Annotated[int | None, typer.Option(help="Begin after this EventSeqId; otherwise with the oldest.")] = None,
    until: Annotated[
        int | None, typer.Option(help="The last EventSeqId; otherwise the last that is published.")
    ] = None,
    from_: Annotated[str | None, typer.Option("--from", help="Only events of this time or later, with offset.")] = None,
    to: Annotated[str | None, typer.Option(help="Only events before this time, with offset.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Only this kind; may be given again.")] = None,
    strategy: Annotated[list[int] | None, typer.Option(help="Only this strategy; may be given again.")] = None,
    destination: Annotated[
        Literal["topics", "replay"],
        typer.Option(help="The topic of replays; or topics, where such events always go, among the live ones."),
    ] = "replay",
    key: Annotated[
        str | None, typer.Option(help="An Idempotency-Key: the same command again finds the same replay.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Exit as soon as the replay is accepted.")] = False,
    url: UrlOption = URL,
    token_file: TokenOption = None,
    ca_file: CaFileOption = None,
    cert_file: CertFileOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a replay, and show its progress until it ends. Interrupting this does not cancel it.

    Exit codes: 0 completed (or asked for, with --detach), 1 failed or cancelled, or no answer, 2 an option is wrong.
    """
    wanted = {
        "since": since,
        "until": until,
        "from": from_,
        "to": to,
        "kinds": kind or None,
        "strategies": strategy or None,
        "destination": destination,
    }
    body = {name: value for name, value in wanted.items() if value is not None}

    async def run() -> dict[str, Any]:
        async with api_at(Target(url, token_file, ca_file, cert_file, key_file)) as api:
            headers = {"Idempotency-Key": key or uuid4().hex}
            path = f"/v1/accounts/{segment(account)}/replays"
            asked = await api.ask("POST", path, body=body, headers=headers)
            with as_promised(url):
                id_ = str(asked["id"])
            return asked if detach else await _watch(api, id_, quiet=as_json)

    _end(loop.run(run()), as_json=as_json, detached=detach)


@app.command("watch", short_help="Watch a replay until it ends.")
def watch(
    id_: IdArgument,
    url: UrlOption = URL,
    token_file: TokenOption = None,
    ca_file: CaFileOption = None,
    cert_file: CertFileOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Watch a replay: show its progress until it ends.

    Exit codes: 0 completed, 1 failed or cancelled, or no answer, 2 there is no such replay.
    """

    async def run() -> dict[str, Any]:
        async with api_at(Target(url, token_file, ca_file, cert_file, key_file)) as api:
            return await _watch(api, id_, quiet=as_json)

    _end(loop.run(run()), as_json=as_json)


@app.command("cancel", short_help="Cancel a replay.")
def cancel(
    id_: IdArgument,
    url: UrlOption = URL,
    token_file: TokenOption = None,
    ca_file: CaFileOption = None,
    cert_file: CertFileOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel a replay; what is published stays published.

    Exit codes: 0 cancelled, 1 it had ended otherwise, or no answer, 2 there is no such replay.
    """

    async def run() -> dict[str, Any]:
        async with api_at(Target(url, token_file, ca_file, cert_file, key_file)) as api:
            await api.ask("POST", f"/v1/replays/{segment(id_)}/cancel")
            return await _watch(api, id_, quiet=True)

    found = loop.run(run())
    _print_replay(found, as_json=as_json)


@app.command("list", short_help="List replays, the newest first.")
def list_(
    account: Annotated[str | None, typer.Option(help="Only those of this account.")] = None,
    state: Annotated[list[str] | None, typer.Option(help="Only those in this state; may be given again.")] = None,
    url: UrlOption = URL,
    token_file: TokenOption = None,
    ca_file: CaFileOption = None,
    cert_file: CertFileOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List replays, the newest first: those that wait or run, and the last ones that have ended.

    Exit codes: 0 shown, 1 no answer, 2 an option is wrong.
    """
    asked = [("state", one) for one in state or ()] + ([("account", account)] if account is not None else [])

    async def run() -> list[dict[str, Any]]:
        async with api_at(Target(url, token_file, ca_file, cert_file, key_file)) as api:
            return await api.items("/v1/replays", asked)

    found = loop.run(run())
    if as_json:
        for one in found:
            terminal.print_json(one)
    else:
        with as_promised(url):
            shown = _table(found)
        terminal.show(shown)


async def _watch(api: Api, id_: str, *, quiet: bool) -> dict[str, Any]:
    """Look at a replay until it has ended, and return it; on a terminal a bar shows how far it is."""
    with terminal.bar(is_quiet=quiet) as bar:
        task = bar.add_task(terminal.printable(id_[:8]), total=1.0, status="")
        unanswered = 0
        while True:
            try:
                found = await api.ask("GET", f"/v1/replays/{segment(id_)}")
                unanswered = 0
            except ConfigurationError:
                raise
            except GatewayError:
                unanswered += 1
                if unanswered >= _TRIES:
                    raise
                await asyncio.sleep(_LOOK)
                continue
            with as_promised(api.url):
                if found["state"] in _FINAL:
                    return found
                bar.update(
                    task, completed=found["progress"]["fraction"], status=terminal.printable(_progress_text(found))
                )
            await asyncio.sleep(_LOOK)


def _progress_text(found: dict[str, Any]) -> str:
    progress = found["progress"]
    if found["state"] == "pending" or found["detail"]:
        return f"{found['state']}: {found['detail'] or 'nobody has begun yet'}"
    left = progress["seconds_left"]
    rest = "" if left is None else f", {_span(left)} left"
    return f"{progress['published']} published, {progress['events_per_second']:.0f} events/s{rest}"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _end(found: dict[str, Any], *, as_json: bool, detached: bool = False) -> None:
    _print_replay(found, as_json=as_json)
    if not detached and found["state"] != "completed":
        sys.exit(1)


def _print_replay(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        terminal.print_json(found)
        return
    with as_promised("the control plane"):
        terminal.print_line(_sentence(found))


def _sentence(found: dict[str, Any]) -> str:
    line = f"replay {found['id']} of {found['account']}: {found['state']}"
    if found["state"] != "pending":
        line += f", {found['progress']['published']} published"
    return f"{line}: {found['detail']}" if found["detail"] else line


def _table(found: list[dict[str, Any]]) -> Table:
    title = f"{len(found)} replays" if len(found) != 1 else "1 replay"
    columns = ("id", "account", "state", "range", "done", "published", "asked by", "asked at", "detail")
    return terminal.table(title, columns, map(_row, found), right=("done", "published"))


def _row(one: dict[str, Any]) -> list[str]:
    progress = one["progress"]
    span = f"{'oldest' if one['since'] is None else one['since']} to {one['until']}"
    done = f"{100 * progress['fraction']:.0f} %"
    asked = (one["requested_by"], one["requested_at"])
    return [
        one["id"],
        one["account"],
        one["state"],
        span,
        done,
        str(progress["published"]),
        *asked,
        one["detail"] or "",
    ]
