"""Check that each file, class and function is small enough to be understood at once.

    python tools/check_sizes.py gateway

A file has at most 400 lines, a class 20 attributes and 25 methods, a function a cognitive complexity of 20. It prints
each that is larger and does not stand in `EXCEPTIONS`, and each exception that is no longer needed; its exit code is
then 1.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

LIMITS: Final = {"lines": 400, "attributes": 20, "methods": 25, "complexity": 20}

EXCEPTIONS: Final[Mapping[str, str]] = {
    "gateway/broker/jetstream/batch.py: make_batch complexity": "one pass over messages with each limit where it ends",
    "gateway/broker/jetstream/connect_errors.py: explain complexity": "a chain of cases, each a sentence for people",
    "gateway/replica/source/account.py: Account methods": "all that both sides share; its parts are cut out already",
    "gateway/session/session.py: Session methods": "the state machine; half of them show a part in one line",
}
"""What is larger, and why, named as in the violation: `gateway/one.py: lines`, `gateway/one.py: One.run complexity`."""

_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)
_NESTING: Final = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.Match)


def violations(files: Mapping[str, str], exceptions: Mapping[str, str]) -> Iterator[str]:
    """Yield a violation for all that is too large in files, by name, and for each exception that is not needed."""
    found = {
        f"{file}: {what}": (size, LIMITS[what.rpartition(" ")[2]])
        for file, source in files.items()
        for what, size in sizes(source)
    }
    too_large = {name: (size, limit) for name, (size, limit) in found.items() if size > limit}
    for name, (size, limit) in too_large.items():
        if name not in exceptions:
            yield f"{name} {size}, at most {limit}"
    for name in exceptions:
        if name not in too_large:
            yield f"{name}: is no exception any more, take it out of the list"


def sizes(source: str) -> Iterator[tuple[str, int]]:
    """Yield what can be too large in a module, with its size: `lines`, `One methods`, `One.run complexity`."""
    yield "lines", source.count("\n")
    yield from _sizes_within(ast.parse(source), "")


def _sizes_within(parent: ast.AST, prefix: str) -> Iterator[tuple[str, int]]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.ClassDef):
            yield f"{prefix}{node.name} attributes", len(attributes(node))
            yield f"{prefix}{node.name} methods", sum(isinstance(member, _FUNCTIONS) for member in node.body)
            yield from _sizes_within(node, f"{prefix}{node.name}.")
        elif isinstance(node, _FUNCTIONS):
            yield f"{prefix}{node.name} complexity", complexity(node)
        else:
            yield from _sizes_within(node, prefix)


def attributes(node: ast.ClassDef) -> set[str]:
    """Return the names of the state of a class: what its methods bind on `self`, and, where they do, its fields.

    The fields of a record, whose methods change nothing, are its content.
    """
    bound = {
        target.attr
        for member in node.body
        if isinstance(member, _FUNCTIONS)
        for target in ast.walk(member)
        if isinstance(target, ast.Attribute)
        and isinstance(target.ctx, ast.Store)
        and isinstance(target.value, ast.Name)
        and target.value.id == "self"
    }
    fields = {
        member.target.id
        for member in node.body
        if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name)
    }
    return bound | fields if bound else bound


def complexity(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the cognitive complexity of a function, as SonarSource defines it (G. Ann Campbell, 2018).

    Each branch and loop counts one, and one more for each that it stands in; `else`, `elif` and a row of the same
    boolean operator count one. What stands in a function within it counts as nested.
    """
    return sum(_cost(statement, 0) for statement in function.body)


def _cost(node: ast.AST, depth: int) -> int:
    if isinstance(node, ast.If):
        return 1 + depth + _cost_of_if(node, depth)
    if isinstance(node, ast.For | ast.AsyncFor | ast.While):
        return 1 + depth + bool(node.orelse) + _cost_of_parts(node, depth + 1)
    if isinstance(node, ast.ExceptHandler | ast.IfExp | ast.Match):
        return 1 + depth + _cost_of_parts(node, depth + 1)
    if isinstance(node, ast.BoolOp):
        return 1 + _cost_of_parts(node, depth)
    if isinstance(node, (*_FUNCTIONS, ast.Lambda)):
        return _cost_of_parts(node, depth + 1)
    return _cost_of_parts(node, depth)


def _cost_of_parts(node: ast.AST, depth: int) -> int:
    return sum(_cost(child, depth) for child in ast.iter_child_nodes(node))


def _cost_of_if(node: ast.If, depth: int) -> int:
    """Return the cost of an `if` beside its own: an `elif` is an `if` alone in the `else`, and not nested in it."""
    cost = _cost(node.test, depth) + sum(_cost(child, depth + 1) for child in node.body)
    match node.orelse:
        case []:
            return cost
        case [ast.If() as following]:
            return cost + 1 + _cost_of_if(following, depth)
    return cost + 1 + sum(_cost(child, depth + 1) for child in node.orelse)


def main(folders: list[str]) -> int:
    """Print what is too large in the Python files of `folders`; return the exit code."""
    files = {str(file): file.read_text("utf-8") for folder in folders for file in sorted(Path(folder).rglob("*.py"))}
    found = list(violations(files, EXCEPTIONS))
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
