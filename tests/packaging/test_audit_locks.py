"""`make audit`: a vulnerability and a database that nobody could ask are told apart."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.support.charts import ROOT
from tools.audit_locks import main

CLEAN = 'echo "No known vulnerabilities found" >&2'
FOUND = 'echo "Found 1 known vulnerability in 1 package" >&2; echo "one 1.0 CVE-2026-1 1.1"; exit 1'
SILENT = 'echo "ERROR:pip_audit._cli:Could not connect to the vulnerability feed" >&2; exit 1'
WORDLESS = "exit 3"


@pytest.fixture
def answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put another pip-audit beside the interpreter: it does what the file `<lock>` says."""
    program = tmp_path / "pip-audit"
    program.write_text('#!/bin/sh\nfor lock; do :; done\n. "$lock"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    return tmp_path


def audited(folder: Path, *answers: str) -> int:
    for number, answer in enumerate(answers):
        (folder / f"{number}.lock").write_text(answer)
    return main([str(folder / f"{number}.lock") for number in range(len(answers))])


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ([CLEAN, CLEAN], 0),
        ([CLEAN, FOUND], 1),
        ([FOUND, SILENT], 1),
        ([SILENT, FOUND], 1),
        ([SILENT, CLEAN], 2),
        ([CLEAN, WORDLESS], 2),
    ],
)
def test_the_exit_code_says_whether_anything_was_found_or_nothing_asked(
    answered: Path, answers: list[str], code: int
) -> None:
    assert audited(answered, *answers) == code


def test_what_was_found_is_listed(answered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audited(answered, FOUND)
    out, err = capsys.readouterr()
    assert "0.lock: Found 1 known vulnerability in 1 package\none 1.0 CVE-2026-1 1.1\n" in out
    assert err == ""


@pytest.mark.parametrize(
    ("answer", "why"), [(SILENT, "Could not connect to the vulnerability feed"), (WORDLESS, "pip-audit ended with 3")]
)
def test_a_database_that_could_not_be_asked_is_said_in_one_line(
    answered: Path, capsys: pytest.CaptureFixture[str], answer: str, why: str
) -> None:
    audited(answered, answer)
    (line,) = capsys.readouterr().err.splitlines()
    assert "0.lock was not audited, and nothing is known of its packages" in line
    assert f"({why})" in line


def test_every_lock_is_audited_or_part_of_one_that_is() -> None:
    (named,) = re.findall(
        r"^LOCKS := \$\(addsuffix \.lock,(.+)\)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE
    )
    locks = {file.stem: set(file.read_text("utf-8").splitlines()) for file in ROOT.glob("requirements*.lock")}
    for name in locks.keys() - set(named.split()):
        assert any(locks[name] <= locks[other] for other in named.split()), name
