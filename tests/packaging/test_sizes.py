"""The check of sizes finds each thing that is too large, and each exception that is not needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest

from tools import check_sizes

CHECK = Path(__file__).parents[2] / "tools" / "check_sizes.py"
BINDS = "class One:\n    def __init__(self):\n" + "".join(f"        self.a{n} = {n}\n" for n in range(21))
FIELDS = "class One:\n" + "".join(f"    a{n}: int\n" for n in range(20))
METHODS = "class One:\n" + "".join(f"    def m{n}(self):\n        pass\n" for n in range(26))
NESTED = "def run(x):\n" + "".join(f"{'    ' * depth}if x:\n" for depth in range(1, 7)) + f"{'    ' * 7}pass\n"
"""Six conditions, each in the one before: 1 + 2 + 3 + 4 + 5 + 6."""


@pytest.mark.parametrize(
    ("source", "violation"),
    [
        ("\n" * 401, "one.py: lines 401, at most 400"),
        ("\n" * 400, ""),
        (BINDS, "one.py: One attributes 21, at most 20"),
        (BINDS.replace("self.a20", "a20"), ""),
        (FIELDS + "    last: int\n", ""),  # a record
        (FIELDS + "    def m(self):\n        self.last = 1\n", "one.py: One attributes 21, at most 20"),
        (METHODS, "one.py: One methods 26, at most 25"),
        (METHODS.replace("    def m25(self):\n        pass\n", ""), ""),
        (NESTED, "one.py: run complexity 21, at most 20"),
        ("class One:\n" + indent(NESTED, "    "), "one.py: One.run complexity 21, at most 20"),
        ("if True:\n" + indent(f"async {NESTED}", "    "), "one.py: run complexity 21, at most 20"),
    ],
)
def test_what_is_too_large_is_found_and_nothing_else(source: str, violation: str) -> None:
    assert list(check_sizes.violations({"one.py": source}, {})) == ([violation] if violation else [])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return 1", 0),
        ("if a:\n    b()\nelif c:\n    d()\nelse:\n    e()", 3),
        ("for a in b:\n    if a:\n        continue", 3),
        ("while a and b and c:\n    pass\nelse:\n    pass", 3),
        ("return a and b or c", 2),
        ("try:\n    a()\nexcept ValueError:\n    if b:\n        raise", 3),
        ("return a if b else c if d else e", 3),
        ("match a:\n    case 1:\n        if b:\n            pass", 3),
        ("def inner():\n    if a:\n        pass", 2),
        ("with a:\n    if b:\n        pass", 1),
    ],
)
def test_cognitive_complexity_is_that_of_its_definition(body: str, expected: int) -> None:
    function = ast.parse(f"def run():\n{indent(body, '    ')}\n").body[0]
    assert isinstance(function, ast.FunctionDef)
    assert check_sizes.complexity(function) == expected


def test_an_exception_hides_one_thing_and_must_be_needed() -> None:
    files = {"one.py": NESTED, "two.py": NESTED}
    exceptions = {"one.py: run complexity": "a test says so", "three.py: lines": "it was long once"}
    assert list(check_sizes.violations(files, exceptions)) == [
        "two.py: run complexity 21, at most 20",
        "three.py: lines: is no exception any more, take it out of the list",
    ]


def test_the_command_prints_what_it_finds_and_fails(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(NESTED, "utf-8")
    run = subprocess.run([sys.executable, CHECK, tmp_path], capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stderr
    assert f"{tmp_path / 'one.py'}: run complexity 21, at most 20\n" in run.stdout
