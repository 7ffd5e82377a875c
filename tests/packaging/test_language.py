"""The check of docstrings finds what it is for, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[2] / "tools" / "check_docstrings.py"


@pytest.mark.parametrize(
    ("docstring", "found"),
    [
        ("Give the number.", "begins with Give: write Return, or Yield where it is a generator"),
        ("Tell whether it is odd.", "begins with Tell: write Return whether"),
        ("Returns the number.", "begins with Returns: write Return"),
        ("Return the number; give it up where it is odd.", ""),
        ("Giveaway of numbers.", ""),
    ],
)
def test_docstring_that_begins_with_a_word_of_the_list_is_found(docstring: str, found: str, tmp_path: Path) -> None:
    inner = f'    async def number(self) -> int:\n        """{docstring}"""\n        return 1\n'
    (tmp_path / "one.py").write_text(f"class One:\n{inner}", "utf-8")
    (tmp_path / "two.py").write_text('"""Give a module."""\n', "utf-8")
    run = subprocess.run([sys.executable, CHECK, tmp_path], capture_output=True, text=True, check=False)
    assert run.returncode == (1 if found else 0), run.stderr
    assert found in run.stdout
    assert run.stdout.count("\n") == (1 if found else 0)
    assert not found or run.stdout.startswith(f"{tmp_path / 'one.py'}:2: the docstring of number ")
