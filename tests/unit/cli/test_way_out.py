"""Nothing is written to a terminal but by `gateway.bootstrap.terminal` and the log."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

import pytest

ROOM: Final = Path(__file__).parents[3] / "gateway"
_ALLOWED: Final = {
    ("bootstrap/terminal.py", None): "the way out itself",
    ("telemetry/logs.py", "sys.stderr"): "the log's handler, behind make_printable",
    ("bootstrap/child_process.py", "sys.stdout"): "words to the parent process, which is no terminal",
    ("bootstrap/child_process.py", "os.write"): "likewise",
    ("bootstrap/control_main.py", "sys.stdout"): "where they go does not block: nothing is written",
}
_CALLS: Final = {"print", "pprint", "breakpoint", "input"}
_WRITERS: Final = {
    *("sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__"),
    *("typer.echo", "typer.secho", "typer.confirm", "typer.prompt", "click.echo", "click.secho", "rich.print"),
    *("traceback.print_exc", "traceback.print_exception", "traceback.print_stack", "warnings.showwarning", "os.write"),
}
_MODULES: Final = {"rich", "click", "pprint", "curses", "getpass"}
"""Whoever imports from them may write: `rich` alone for its types."""


def ways_out(source: str) -> list[tuple[int, str]]:
    """Return each place of a module that may write to a terminal: its line and what it uses."""
    found = []
    tree = ast.parse(source)
    names: dict[str, str] = {}  # by a local name: where it comes from
    types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {one.asname or one.name.split(".")[0]: one.name for one in node.names}
            found += [(node.lineno, one.name) for one in node.names if one.name.split(".")[0] in _MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
            if node.module.split(".")[0] in _MODULES and id(node) not in types:
                found.append((node.lineno, node.module))
            found += [(node.lineno, name) for one in node.names if (name := f"{node.module}.{one.name}") in _WRITERS]
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in _CALLS:
            found.append((node.lineno, node.id))
        if isinstance(node, ast.Attribute):
            base, _, rest = ast.unparse(node).partition(".")
            name = f"{names.get(base, base)}.{rest}"
            if name in _WRITERS or (node.attr == "print" and isinstance(node.ctx, ast.Load)):
                found.append((node.lineno, name))
    return found


def test_nobody_writes_past_the_one_way_out() -> None:
    past = []
    for path in ROOM.rglob("*.py"):
        name = path.relative_to(ROOM).as_posix()
        for line, what in ways_out(path.read_text("utf-8")):
            if not {(name, None), (name, what)} & set(_ALLOWED):
                past.append(f"gateway/{name}:{line}: {what}")
    assert past == [], "write by gateway.bootstrap.terminal, or the log"


@pytest.mark.parametrize(
    "defect",
    [
        "print('x')",
        "show = print",
        "import typer\ntyper.echo('x')",
        "from typer import echo",
        "import sys\nsys.stdout.write('x')",
        "import sys as system\nsystem.stderr.buffer.write(b'x')",
        "from sys import stdout",
        "from rich.console import Console\nConsole().print('x')",
        "from rich import print as say",
        "console.print('x')",
        "import traceback\ntraceback.print_exc()",
        "import os\nos.write(1, b'x')",
        "def run():\n    import click\n    click.secho('x')",
    ],
)
def test_a_planted_defect_is_found(defect: str) -> None:
    assert ways_out(defect)


@pytest.mark.parametrize("fine", ["fingerprint(x)", "# print(x)", "'print(x)'", "from typer import Option", "x.stdout"])
def test_what_writes_nothing_is_not(fine: str) -> None:
    assert ways_out(fine) == []
