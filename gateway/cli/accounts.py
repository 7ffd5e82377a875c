"""`gateway accounts`: the states of the accounts, from the HTTP API of any replica."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.bootstrap import event_loop as loop
from gateway.bootstrap import terminal
from gateway.cli.api_client import api_at, as_promised
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

if TYPE_CHECKING:
    from rich.table import Table

app = command_app()


@app.command()
def accounts(
    url: UrlOption = URL,
    token_file: TokenOption = None,
    ca_file: CaFileOption = None,
    cert_file: CertFileOption = None,
    key_file: KeyFileOption = None,
    state: Annotated[list[str] | None, typer.Option(help="Only accounts in this state; may be given again.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only accounts that this replica serves.")] = None,
    prefix: Annotated[str, typer.Option(help="Only accounts whose names begin so.")] = "",
    sort: Annotated[str, typer.Option(help="worst or name.")] = "worst",
    as_json: JsonOption = False,
) -> None:
    """List the accounts of all replicas, the worst first: state, lag and last error of each.

    Exit codes: 0 shown, 1 the API did not answer so, 2 an option is wrong.
    """
    asked = [("state", one) for one in state or ()] + [("prefix", prefix), ("sort", sort)]
    if owner is not None:
        asked.append(("owner", owner))
    found = loop.run(_all(Target(url, token_file, ca_file, cert_file, key_file), asked))
    if as_json:
        for one in found:
            terminal.print_json(one)
    else:
        with as_promised(url):
            shown = _table(found)
        terminal.show(shown)


async def _all(target: Target, asked: list[tuple[str, str]]) -> list[dict[str, Any]]:
    async with api_at(target) as api:
        return await api.items("/v1/accounts", asked)


def _table(found: list[dict[str, Any]]) -> Table:
    title = f"{len(found)} accounts" if len(found) != 1 else "1 account"
    columns = ("account", "state", "since", "owner", "settled", "lag", "subscription", "age", "last error")
    return terminal.table(title, columns, map(_row, found), right=("settled", "lag", "age"))


def _row(one: dict[str, Any]) -> list[str]:
    seen, wanted = one["observed"], one["desired"]
    if seen is None:
        return [one["account"], "unknown", "", "", "", "", _strategies(wanted), "", ""]
    state = seen["state"] if one["is_applied"] or wanted is None else f"{seen['state']} (wanted: {wanted['state']})"
    numbers = ["" if number is None else str(number) for number in (seen["settled"], seen["lag"]["sequences"])]
    age = f"{seen['age_seconds']:.0f} s" + (" (stale)" if seen["is_stale"] else "")
    error = seen["last_error"] or ""
    since = seen["since"] or ""
    return [one["account"], state, since, seen["owner"], *numbers, _strategies(wanted), age, error]


def _strategies(wanted: dict[str, Any] | None) -> str:
    if wanted is None or wanted["strategies"] is None:
        return "all"
    return ", ".join(map(str, wanted["strategies"])) or "none"
