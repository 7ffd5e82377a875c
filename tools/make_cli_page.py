"""Prints docs/reference/cli.md from the commands themselves: `make schemas` writes it, `make check` compares."""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import cleandoc
from typing import Any, Final

import typer.main

from gateway.cli.main import app

_INTRODUCTION: Final = """# Commands

`gateway --help` lists the commands, and `gateway COMMAND --help` shows one. Exit codes: 0 when all is well, 1 when
something was found or failed, 2 for a wrong setting or a wrong command line, 130 after Ctrl-C.

<!-- Made by tools/make_cli_page.py from gateway/cli: `make schemas`. -->
"""


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;").strip()


def _row(parameter: Any, context: Any) -> str:  # noqa: ANN401 - Click's, or Typer's own copy of it
    names, text = parameter.get_help_record(context)
    return f"| `{names.replace('|', '/')}` | {_cell(text)} |"


def _command(name: str, command: Any, parent: Any) -> Iterator[str]:  # noqa: ANN401 - likewise
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    yield f"\n{'##' if name.count(' ') == 1 else '###'} {name}\n"
    yield cleandoc(command.help or "") + "\n"
    if hasattr(command, "commands"):
        for sub in command.list_commands(context):
            yield from _command(f"{name} {sub}", command.get_command(context, sub), context)
        return
    yield f"    {' '.join([name, *command.collect_usage_pieces(context)])}\n"
    parameters = [one for one in command.params if one.name != "help" and not getattr(one, "hidden", False)]
    arguments = [one for one in parameters if one.param_type_name == "argument"]
    options = [one for one in parameters if one.param_type_name == "option"]
    if arguments:
        yield "| argument | |\n|---|---|"
        for one in arguments:
            yield f"| `{one.name}` | {_cell(getattr(one, 'help', '') or '')} |"
        yield ""
    if options:
        yield "| option | |\n|---|---|"
        for one in options:
            yield _row(one, context)


def main() -> None:
    print(_INTRODUCTION, end="")
    root: Any = typer.main.get_command(app)
    context = root.make_context("gateway", [], resilient_parsing=True)
    for name in root.list_commands(context):
        print("\n".join(_command(f"gateway {name}", root.get_command(context, name), context)).rstrip())


if __name__ == "__main__":
    main()
