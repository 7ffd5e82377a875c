"""The `gateway` command.

A command's module is imported when that command runs: all of them together cost a second of CPU, `gateway health`
alone a tenth of it, and Docker runs that every few seconds.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated, Any, Final

import typer
import typer.main
from typer.core import TyperGroup

from gateway import __version__
from gateway.bootstrap import terminal
from gateway.errors import ConfigurationError, GatewayError

USAGE_ERROR = 2

_COMMANDS: Final = {
    "demo": "Run a demo: a simulated hub, a broker and the gateway.",
    "run": "Run the gateway.",
    "simulate": "Run the simulated hub.",
    "check": "Check settings, accounts, broker and hub.",
    "health": "Report health.",
    "tail": "Show events.",
    "verify": "Verify topics against the hub's history.",
    "accounts": "List accounts.",
    "replay": "Manage replays.",
    "token": "Create an API token.",
    "schemas": "Write the schemas.",
}
"""Each command, which is a module of this package with an `app`, and its line in the help."""


_ClickException: Final[Any] = next(one for one in typer.BadParameter.__mro__ if one.__name__ == "ClickException")
"""Click's, or that of Typer's own copy of it."""


class _LazyCommands(TyperGroup):
    """A group that has the names of its commands, and imports a command on demand.

    Contexts and formatters are Click's, or Typer's own copy of it: that depends on Typer's release.
    """

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - Typer's
        super().__init__(**{**attributes, "commands": dict.fromkeys(_COMMANDS)})  # the names, for "did you mean"

    def main(
        self,
        args: Any = None,  # noqa: ANN401 - likewise
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,  # noqa: ANN401 - likewise
    ) -> Any:  # noqa: ANN401 - likewise
        """Run the command line; an error in it is printed without control characters, whatever was typed."""
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except _ClickException as error:
            if not standalone_mode:
                raise
            terminal.print_usage_error(error)
            sys.exit(error.exit_code)
        if standalone_mode:
            sys.exit(code or 0)
        return code

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401, ARG002 - Click's
        """Return the command, imported now, or None where there is none of this name."""
        if cmd_name not in _COMMANDS:
            return None
        return typer.main.get_command(import_module(f"gateway.cli.{cmd_name}").app)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002 - Click's
        """Write the list of commands into the help, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


app = typer.Typer(
    name="gateway",
    cls=_LazyCommands,
    help="Republishes every MesoLive Event Hub callback onto typed topics: in order, exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(value: bool) -> None:
    if value:
        terminal.print_line(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; the gateway's own errors end as one line, not as a traceback."""
    terminal.open_streams()
    terminal.guard()
    try:
        _run()
    except ConfigurationError as error:
        terminal.print_error(f"gateway: {error}")
        sys.exit(USAGE_ERROR)
    except terminal.OutputClosed:  # nobody reads what would be said, and what was asked for is not complete
        sys.exit(1)
    except GatewayError as error:
        terminal.print_error(f"gateway: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _run() -> None:
    """Run the command, and write what it left to be written, however it ends."""
    try:
        typer.main.get_command(app)(prog_name="gateway")  # as `app()`, which has a hook of its own for tracebacks
    finally:
        terminal.finish()
