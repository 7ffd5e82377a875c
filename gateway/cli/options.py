"""What several commands share: how their Typer app is made, and the option that names the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML file with settings; GATEWAY_… in the environment wins over it."),
]


def command_app(help_text: str | None = None) -> typer.Typer:
    """Return an app for a command: one function is the command itself, several are a group that needs `help_text`."""
    return typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        no_args_is_help=help_text is not None,
        help=help_text,
    )
