"""`gateway token`: a new token for the HTTP API, and the line that gives it access."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.bootstrap import terminal
from gateway.cli.options import command_app
from gateway.control.auth.principals import Role
from gateway.control.auth.token_lines import line_of
from gateway.control.auth.tokens import new_token

app = command_app()


@app.command()
def token(
    name: Annotated[str, typer.Option(help="Whose it is: the log names who changed what.")],
    role: Annotated[Role, typer.Option(help="A viewer reads; an operator also changes desired state.")] = Role.VIEWER,
    accounts: Annotated[
        str | None, typer.Option(help="Only these accounts, such as main,eu-*; all where it is left out.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(help="Until the end of a day in UTC, as 2027-01-31, or an RFC 3339 time; else for ever."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON, for scripts.")] = False,
) -> None:
    """Create an API token, and the line for the file that control.tokens_file names.

    The token is shown once and kept nowhere: the line holds only its digest. Whoever has the token sends it as
    `Authorization: Bearer …`; taking the line away ends it within two seconds.
    """
    made = new_token()
    try:
        line = line_of(name, role, made, accounts=accounts, until=until)
    except ValueError as error:
        raise typer.BadParameter(f"the line would let nobody in: {error}") from error
    if as_json:
        terminal.print_json({"token": made, "line": line})
        return
    terminal.print_line(f"token, for {name} alone:          {made}")
    terminal.print_line(f"line, for control.tokens_file:  {line}")
