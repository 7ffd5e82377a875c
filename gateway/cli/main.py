"""The `gateway` command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gateway import __version__
from gateway.cli import accounts, check, demo, health, replay, run, schemas, simulate, tail, token, verify
from gateway.errors import ConfigurationError, GatewayError

USAGE_ERROR = 2

app = typer.Typer(
    name="gateway",
    help="Republishes every MesoLive Event Hub callback onto typed topics: in order, exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command("demo", short_help="See the gateway at work, with nothing to set up.")(demo.demo)
app.command("run", short_help="Run the gateway until SIGTERM.")(run.run)
app.command("simulate", short_help="Run a MesoLive-shaped hub to try things on.")(simulate.simulate)
app.command("check", short_help="Look at settings, accounts, broker and hub.")(check.check)
app.command("health", short_help="Ask a gateway whether it works.")(health.health)
app.command("tail", short_help="Show events from the log.")(tail.tail)
app.command("verify", short_help="Compare the topics with the hub's history.")(verify.verify)
app.command("accounts", short_help="Show what the accounts do, by the HTTP API.")(accounts.accounts)
app.add_typer(replay.app, name="replay", short_help="Publish a range of the history again, by the HTTP API.")
app.command("token", short_help="Make a token for the HTTP API.")(token.token)
app.command("schemas", short_help="Write the JSON Schemas of all messages.")(schemas.schemas)


def main() -> None:
    """Run the command; what the gateway knows by name ends as one line, not as a traceback."""
    try:
        app()
    except ConfigurationError as error:
        print(f"gateway: {error}", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    except GatewayError as error:
        print(f"gateway: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
