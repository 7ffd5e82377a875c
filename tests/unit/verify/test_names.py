"""Which accounts `gateway verify` compares where none is named: all of the directory, none left out in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.accounts import AccountsDirectory
from gateway.cli.verify import _names_in


@pytest.mark.parametrize(
    ("files", "is_all", "message"),
    [
        ({"main": "key"}, True, ""),
        ({}, False, "accounts.directory holds no account: there is nothing to compare"),
        ({"main": "key", "other": ""}, False, "accounts.directory/other: cannot be compared: is empty."),
        ({"other": ""}, False, "accounts.directory/other: cannot be compared: is empty."),
        ({"main": "key", "read.me": "x"}, True, "accounts.directory/read.me: cannot be compared: is not an account's"),
    ],
)
def test_an_account_that_cannot_be_compared_is_named(
    files: dict[str, str], is_all: bool, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, key in files.items():
        (tmp_path / name).write_text(key)
    assert _names_in(AccountsDirectory(tmp_path)) == ({"main"} & set(files), is_all)
    output = capsys.readouterr().out
    assert message in output
    assert bool(message) == bool(output)
