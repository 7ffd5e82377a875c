"""No test module takes anything from another: what tests share lies in modules that are none."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parents[2]
KNOWN = ["acceptance/test_idle.py imports tests.acceptance.test_memory"]
"""It measures memory as that test does."""


def taken(source: str) -> list[str]:
    """Return the test modules that a module imports from."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            found += [node.module or "", *(f"{node.module}.{one.name}" for one in node.names)]
        elif isinstance(node, ast.Import):
            found += [one.name for one in node.names]
    return sorted({name for name in found if name.rpartition(".")[2].startswith("test_")})


def test_no_test_imports_a_test() -> None:
    wrong = [
        f"{path.relative_to(TESTS).as_posix()} imports {name}"
        for path in sorted(TESTS.rglob("*.py"))
        for name in taken(path.read_text("utf-8"))
    ]
    assert wrong == KNOWN


def test_an_import_of_a_test_is_found_in_each_form() -> None:
    for planted in ("from tests.unit import test_a", "from tests.unit.test_a import b", "import tests.unit.test_a"):
        assert taken(planted) == ["tests.unit.test_a"]
