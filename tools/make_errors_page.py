"""Prints docs/reference/errors.md from the code that raises and logs: `make schemas` writes it, `make check` compares.

Messages are read from the syntax of the code: what is put in when one is raised is shown as `<name>`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from gateway.control.problems import NAMESPACE, ProblemType
from gateway.errors import ActionRequired, ConfigurationError, Diverged
from gateway.errors import __doc__ as tree
from gateway.events.dead_letter_reasons import DeadLetterReason

_ROOT: Final = Path(__file__).parents[1]
_LEVELS: Final = {"warning": "WARNING", "error": "ERROR", "exception": "ERROR"}
_UNKNOWN: Final = "…"
_INTRODUCTION: Final = """# Errors

Search this page for the words that you have. What stands in `<…>` is put in when it happens. What to do when an alert
fires is in the [runbook](../operate/runbook.md).

<!-- Made by tools/make_errors_page.py from gateway: `make schemas`. -->
"""


class _Reader:
    """Reads the messages of one module."""

    def __init__(self, module: ModuleType, tree_: ast.Module) -> None:
        self._module = module
        self._tree = tree_
        self._locals: dict[str, ast.expr] = {}

    def calls(self, name: str) -> Iterator[ast.Call]:
        """Yield each call of `name`, with the texts known that hold a name where it stands."""
        above = {child: node for node in ast.walk(self._tree) for child in ast.iter_child_nodes(node)}
        assigned = [node for node in ast.walk(self._tree) if isinstance(node, ast.Assign)]
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call) and _name(node.func) == name:
                around = set(_chain(node, above))
                before = [one for one in assigned if above[one] in around and one.lineno < node.lineno]
                before.sort(key=lambda one: one.lineno)
                self._locals = {_name(target): one.value for one in before for target in one.targets}
                yield node

    def text(self, node: ast.expr) -> str:
        """Return what an expression says, as far as the code itself tells."""
        match node:
            case ast.Constant():
                return str(node.value)
            case ast.JoinedStr():
                return "".join(self.text(part) for part in node.values)
            case ast.FormattedValue():
                known = self._constant(node.value)
                return f"<{_placeholder(node.value)}>" if known is None else known
            case ast.IfExp():
                return f"{self.text(node.body)} / {self.text(node.orelse)}"
            case ast.BinOp(op=ast.Add()):
                return self.text(node.left) + self.text(node.right)
            case ast.Name() if node.id in self._locals:
                value = self._locals.pop(node.id)
                return self.text(value)
            case _:
                return self._constant(node) or _UNKNOWN

    def _constant(self, node: ast.expr) -> str | None:
        found: Any = self._module
        for part in ast.unparse(node).split("."):
            found = getattr(found, part, None)
        return found if isinstance(found, str) else None


def _chain(node: ast.AST, above: dict[ast.AST, ast.AST]) -> Iterator[ast.AST]:
    """Yield what a node stands in, up to its function."""
    while node in above and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        node = above[node]
        yield node


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _placeholder(node: ast.expr) -> str:
    called = {one.func for one in ast.walk(node) if isinstance(one, ast.Call)}
    names = [_name(one) for one in ast.walk(node) if isinstance(one, ast.Attribute | ast.Name) and one not in called]
    chosen = next((name for name in names if name not in {"", "self"}), _UNKNOWN)
    return chosen.strip("_").replace("_", " ")


def _readers() -> Iterator[tuple[Path, _Reader]]:
    for file in sorted((_ROOT / "gateway").rglob("*.py")):
        name = ".".join(file.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__")
        if not name.startswith(("gateway.simulator", "gateway.errors")):
            yield file, _Reader(import_module(name), ast.parse(file.read_text("utf-8")))


def _cell(text: str) -> str:
    """Return `text` as it must be written in a table; what stands in backticks stays as it is."""
    parts = re.sub(r"\s+", " ", text).replace("|", "\\|").strip().split("`")
    parts[::2] = [re.sub(r"([_*])", r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


def _code(text: str) -> str:
    return f"`{text}`" if text and "`" not in text else _cell(text)


def _table(heads: str, rows: set[tuple[str, ...]]) -> str:
    columns = heads.count("|") + 1
    lines = [
        "| " + " | ".join(row) + " |" for row in sorted(rows, key=lambda row: ([cell.lower() for cell in row], row))
    ]
    return "\n".join([f"| {heads} |", "|" + "---|" * columns, *lines])


def _settings() -> set[tuple[str, ...]]:
    rows = set()
    for _, reader in _readers():
        for call in reader.calls(ConfigurationError.__name__):
            setting, problem, remedy = (reader.text(argument) for argument in call.args)
            if re.sub(r"<[\w ]+>", "", problem).strip(f"{_UNKNOWN};: "):
                place = "any" if _UNKNOWN in setting else _code(setting)
                rows.add((place, _cell(problem), _cell("" if remedy == _UNKNOWN else remedy)))
    return rows


def _messages(name: str) -> set[tuple[str, ...]]:
    texts = (reader.text(call.args[0]) for _, reader in _readers() for call in reader.calls(name) if call.args)
    return {(_cell(text),) for text in texts if text.strip("<>…") and " " in text}


def _log_lines() -> set[tuple[str, ...]]:
    rows = set()
    for _, reader in _readers():
        for method, level in _LEVELS.items():
            for call in reader.calls(method):
                text = reader.text(call.args[0]) if call.args else _UNKNOWN
                if " " in text and not text.startswith((_UNKNOWN, "%s")):
                    rows.add((_cell(text), level))
    return rows


def main() -> None:
    print(_INTRODUCTION)
    print("## Settings\n\n`gateway run` ends with exit code 2 on each; `gateway check` shows them beforehand.\n")
    print(_table("setting or place | problem | remedy", _settings()))
    print("\n## The broker needs a person\n\nThe gateway waits, and goes on by itself once it is mended.\n")
    print(_table("message", _messages(ActionRequired.__name__)))
    print("\n## The account stands still\n\nGoing on could publish the wrong thing, so a person decides.\n")
    print(_table("message", _messages(Diverged.__name__)))
    print("\n## Lines of the log\n\nWARNING: it recovered. ERROR: something was lost, or a person must act.\n")
    print(_table("event | level", _log_lines()))
    print(f"\n## Problems of the HTTP API\n\nRFC 9457. The type is `{NAMESPACE}` and the name; types do not change.\n")
    print(
        _table("name | status | title", {(f"`{one.value[0]}`", str(one.status), one.value[2]) for one in ProblemType})
    )
    print("\n## Reasons of dead letters\n\n`Reason` of a message on the dead-letter topic.\n")
    print(_table("reason | meaning", {(f"`{one}`", _cell(meaning)) for one, meaning in _meanings()}))
    print("\n## Errors in the code\n\nWhat each part of the gateway does about an error, for developers.\n")
    print("```text\n" + (tree or "").split("\n\n", 1)[1].strip() + "\n```")


def _meanings() -> Iterator[tuple[str, str]]:
    """Yield each reason with the docstring that follows it in the code."""
    module = ast.parse(Path(import_module(DeadLetterReason.__module__).__file__ or "").read_text("utf-8"))
    body = next(
        one.body for one in module.body if isinstance(one, ast.ClassDef) and one.name == DeadLetterReason.__name__
    )
    for member, docstring in pairwise(body):
        if (
            isinstance(member, ast.Assign)
            and isinstance(docstring, ast.Expr)
            and isinstance(member.value, ast.Constant)
        ):
            yield str(member.value.value), ast.literal_eval(docstring.value)


if __name__ == "__main__":
    main()
