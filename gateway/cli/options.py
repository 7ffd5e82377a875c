"""The parts that several commands share: how their Typer app is made, and common options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.settings.option_variables import CONFIG_VARIABLE, URL_VARIABLE

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar=CONFIG_VARIABLE,
        help="YAML file with settings; GATEWAY_… in the environment wins over it.",
    ),
]
AccountsOption = Annotated[list[str] | None, typer.Option("--account", help="Only this account; repeatable.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON, one item a line, for scripts.")]
UrlOption = Annotated[str, typer.Option(envvar=URL_VARIABLE, help="Where the control plane of a replica listens.")]
TokenOption = Annotated[
    Path | None,
    typer.Option("--token-file", help="A file that holds the token, if it wants one; else GATEWAY_TOKEN holds it."),
]
CaFileOption = Annotated[
    Path | None, typer.Option("--ca-file", help="PEM file of the CA that signed its certificate; else the system's.")
]
CertFileOption = Annotated[
    Path | None, typer.Option("--cert-file", help="PEM file of a client's certificate, if it wants one.")
]
KeyFileOption = Annotated[
    Path | None, typer.Option("--key-file", help="PEM file of its key; not needed where --cert-file holds it.")
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
