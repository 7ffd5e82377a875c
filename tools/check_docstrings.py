"""Check how docstrings begin: a function's says what it returns or does, in the words that every reader knows.

    python tools/check_docstrings.py gateway tests

It prints each that does not, and its exit code is then 1. See "How to write" in CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

INSTEAD: Final = {
    "Give": "Return, or Yield where it is a generator",
    "Gives": "Return",
    "Returns": "Return",
    "Tell": "Return whether; Log or Report where somebody is told",
    "Tells": "Return whether",
}
"""Words that no docstring of a function may begin with, and what to write."""


def complaints(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the complaint of each function of a module whose docstring begins with such a word."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first, _, _ = (ast.get_docstring(node) or "").partition(" ")
            if first in INSTEAD:
                yield node.lineno, f"the docstring of {node.name} begins with {first}: write {INSTEAD[first]}"


def main(folders: list[str]) -> int:
    """Print what is wrong in the Python files of `folders`; return the exit code."""
    found = [
        f"{file}:{line}: {complaint}"
        for folder in folders
        for file in sorted(Path(folder).rglob("*.py"))
        for line, complaint in complaints(file.read_text("utf-8"))
    ]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
