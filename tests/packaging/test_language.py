"""The check of docstrings, of names and of what tests import finds what it is for, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[2] / "tools" / "check_language.py"


def check(folder: Path, source: str) -> list[str]:
    """Return the violations in a file of this source, one.py, beside one that is as it should be."""
    (folder / "one.py").write_text(source, "utf-8")
    (folder / "two.py").write_text('"""Give a module."""\n', "utf-8")
    run = subprocess.run([sys.executable, CHECK, folder], capture_output=True, text=True, check=False)
    assert run.returncode == (1 if run.stdout else 0), run.stderr
    return run.stdout.replace(f"{folder}/", "").splitlines()


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
    violations = check(tmp_path, f"class One:\n{inner}")
    assert len(violations) == (1 if found else 0)
    assert all(one.startswith("one.py:2: the docstring of number ") and found in one for one in violations)


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize(
    ("length", "found"), [(70, []), (71, ["one.py:3: {} has 71 characters: say it in 70"])], ids=["70", "71"]
)
def test_name_of_a_test_that_is_too_long_is_found(kind: str, length: int, found: list[str], tmp_path: Path) -> None:
    name = "test_".ljust(length, "x")
    source = f"{kind} x{name}(): ...  # no test\n\n{kind} {name}(): ...\n"
    assert check(tmp_path, source) == [one.format(name) for one in found]


@pytest.mark.parametrize(
    ("line", "imported"),
    [
        ("from tests.unit.test_one import two", "tests.unit.test_one.two"),
        ("from tests.unit import test_one", "tests.unit.test_one"),
        ("import tests.unit.test_one", "tests.unit.test_one"),
        ("from tests.support.leftovers import test", ""),
        ("from test_support import two", ""),
        ("from . import two", ""),
    ],
)
def test_import_of_a_test_is_found(line: str, imported: str, tmp_path: Path) -> None:
    message = f"one.py:2: {imported} is a test or a part of one: what tests share stands in a module without tests"
    assert check(tmp_path, f"def two():\n    {line}\n") == ([message] if imported else [])


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("wish = 1", "wish"),
        ("def one(of, new_wish): ...", "new_wish"),
        ("async def wish_of(): ...", "wish_of"),
        ("class WishBook: ...", "WishBook"),
        ("self._wish: int = 1", "_wish"),
        ("for LAST_WISH in (): ...", "LAST_WISH"),
        ("import one as wish", "wish"),
        ("wished_for = wishful = swish = 1", "wished_for"),
        ("print(wish, one.wish, 'wish', wish=1)", ""),
    ],
)
def test_name_with_a_word_that_is_no_term_is_found(line: str, name: str, tmp_path: Path) -> None:
    (violation,) = check(tmp_path, f"if True:\n    {line}\n") or [""]
    assert violation.startswith(f"one.py:2: {name} holds the word wish" if name else "")
    assert bool(violation) is bool(name)


@pytest.mark.parametrize("pattern", ["str(wish)", "[1, *wish]", "{1: 1, **wish}", "int() as wish"])
def test_name_that_a_pattern_binds_is_found(pattern: str, tmp_path: Path) -> None:
    found = "wish holds the word wish: the field says desired"
    assert check(tmp_path, f"match 1:\n    case {pattern}: ...\n") == [f"one.py:2: {found}"]


def test_name_that_a_handler_binds_is_found(tmp_path: Path) -> None:
    found = "wish holds the word wish: the field says desired"
    assert check(tmp_path, "try: ...\nexcept OSError as wish: ...\n") == [f"one.py:2: {found}"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("async def until(patience): ...", "patience holds the word patience: the field says timeout"),
        ("complaints, one = 1, 2", "complaints holds the word complaints: the field says violations, or errors"),
        ("def test_of_patience(): ...", "test_of_patience holds the word patience: the field says timeout"),
        ("TOLD = 1", "TOLD holds the word told: the field says reported, or logged"),
        ("def hears(): ...", "hears holds the word hears: the field says receives, or wait_for_output"),
        ("self._said = 1", "_said holds the word said: the field says stdout, output or message"),
        ("def of(words): ...", "words holds the word words: the field says message, detail, text, fields or arguments"),
    ],
)
@pytest.mark.parametrize("folder", ["gateway", "tests", "tools"])
def test_word_that_has_a_term_is_found_everywhere(line: str, found: str, folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    assert check(tmp_path / folder, line) == [f"one.py:1: {found}"]


@pytest.mark.parametrize("folder", ["gateway", "tests"])
def test_name_of_a_test_is_a_sentence_and_may_hold_words_of_talk(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    line = "def test_what_is_said_is_told_in_words(): ...\ndef test_outstandings(): ...\nstandings = 1\n"
    assert check(tmp_path / folder, line) == []


def test_function_that_no_test_is_may_hold_no_word_of_talk(tmp_path: Path) -> None:
    found = "what_is_told holds the word told: the field says reported, or logged"
    assert check(tmp_path, "def what_is_told(): ...\n") == [f"one.py:1: {found}"]
