"""Accounts: their names, their shards, and the directory of their keys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.accounts import AccountsDirectory, is_account_name, shard_of
from gateway.errors import ConfigurationError

KEY = "eyJhbGciOi.s3cret-_~+/="


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


@pytest.mark.parametrize("name", ["a", "0", "alpha", "A-b_c9", "a" * 63, "con", "9-"])
def test_a_name_is_letters_digits_underscores_and_hyphens(name: str) -> None:
    assert is_account_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "*", ">", "a.b", "a b", "a/b", "-a", "_a", ".a", "a" * 64, "ä", "a\n", "a\0", "\u0661", "a*", ".."],
)
def test_what_could_be_a_wildcard_a_path_or_two_tokens_is_no_name(name: str) -> None:
    assert not is_account_name(name)


@pytest.mark.parametrize(
    ("account", "of_16", "of_1024"), [("alpha", 10, 154), ("beta", 14, 686), ("gamma", 5, 245), ("account-1", 4, 564)]
)
def test_an_account_stays_in_its_shard_in_every_release(account: str, of_16: int, of_1024: int) -> None:
    assert (shard_of(account, 16), shard_of(account, 1024)) == (of_16, of_1024)


def test_accounts_spread_evenly_over_shards() -> None:
    counts = [0] * 16
    for number in range(16_000):
        counts[shard_of(f"account-{number}", 16)] += 1

    assert max(counts) < 1150
    assert min(counts) > 850


def test_one_shard_takes_every_account() -> None:
    assert {shard_of(f"account-{number}", 1) for number in range(100)} == {0}


@pytest.mark.parametrize("content", [KEY, KEY + "\n", KEY + "\r\n"])
def test_one_trailing_newline_is_no_part_of_the_key(directory: Path, content: str) -> None:
    (directory / "alpha").write_bytes(content.encode())

    assert AccountsDirectory(directory).key("alpha") == KEY
    assert AccountsDirectory(directory).scan() == (frozenset({"alpha"}), [])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (KEY.encode() + b"\n\n", "holds a space, a line break"),
        (b" " + KEY.encode(), "holds a space, a line break"),
        (KEY.encode() + b"\nsecond", "holds a space, a line break"),
        (b"\xef\xbb\xbf" + KEY.encode(), "holds a space, a line break"),
        (KEY.encode() + b"\x00", "holds a space, a line break"),
        ("schlüssel".encode(), "holds a space, a line break"),
        (b"k" * 70_000, "is larger than 65536 bytes"),
    ],
)
def test_a_file_that_holds_no_key_is_a_fault_and_never_shown(directory: Path, content: bytes, problem: str) -> None:
    (directory / "alpha").write_bytes(content)
    names, (fault,) = AccountsDirectory(directory).scan()

    assert names == frozenset()
    assert fault.entry == "alpha"
    assert fault.problem.startswith(problem)
    assert fault.remedy == "Write the account's API key into the file, as one line of printable ASCII."
    with pytest.raises(ConfigurationError) as refused:
        AccountsDirectory(directory).key("alpha")
    assert str(refused.value).startswith(f"accounts.directory/alpha: {problem}")
    assert "s3cret" not in str(refused.value)


def test_a_key_is_read_afresh_each_time(directory: Path) -> None:
    keys = AccountsDirectory(directory)
    (directory / "alpha").write_text("first\n")
    assert keys.key("alpha") == "first"
    (directory / "alpha").write_text("second\n")
    assert keys.key("alpha") == "second"


def test_a_mounted_secret_is_read_through_links_without_dot_entries(directory: Path) -> None:
    data = directory / "..2026_11_22"
    data.mkdir()
    (data / "alpha").write_text("k1")
    (directory / "..data").symlink_to(data.name)
    (directory / "alpha").symlink_to("..data/alpha")
    (directory / ".hidden").write_text("k2")

    assert AccountsDirectory(directory).scan() == (frozenset({"alpha"}), [])
    assert AccountsDirectory(directory).key("alpha") == "k1"


def test_what_is_no_account_is_told_and_the_others_are_taken(directory: Path) -> None:
    (directory / "alpha").write_text("k")
    (directory / "*").write_text("k")
    (directory / "folder").mkdir()
    (directory / "dangling").symlink_to("nowhere")
    names, faults = AccountsDirectory(directory).scan()

    assert names == {"alpha"}
    assert [(fault.entry, fault.problem.split(":")[0]) for fault in faults] == [
        ("*", "is not an account's name"),
        ("dangling", "is not a file"),
        ("folder", "is not a file"),
    ]
    assert all(fault.remedy for fault in faults)


def test_an_entry_that_cannot_even_be_looked_at_is_told(directory: Path) -> None:
    (directory / "alpha").write_text("k")
    (directory / "loop").symlink_to("loop")
    (directory / os.fsdecode(b"bad\xff")).write_text("k")

    names, faults = AccountsDirectory(directory).scan()

    assert names == {"alpha"}
    assert [(fault.entry, fault.problem.split(":")[0]) for fault in faults] == [
        ("bad\\xff", "is not an account's name"),
        ("loop", "cannot be looked at (Too many levels of symbolic links)"),
    ]


def test_an_account_stays_while_its_file_cannot_be_looked_at(directory: Path) -> None:
    (directory / "alpha").symlink_to("alpha")

    assert AccountsDirectory(directory).scan(frozenset({"alpha"})) == ({"alpha"}, [])


def test_a_file_that_cannot_be_read_is_told(directory: Path) -> None:
    (directory / "alpha").mkdir()

    with pytest.raises(ConfigurationError, match=r"accounts.directory/alpha: cannot be read \(Is a directory\)"):
        AccountsDirectory(directory).key("alpha")


def test_a_key_that_is_gone_is_told(directory: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"accounts.directory/alpha: cannot be read \(No such file"):
        AccountsDirectory(directory).key("alpha")


@pytest.mark.parametrize("missing", ["none", "file"])
def test_a_directory_that_is_none_is_refused(directory: Path, missing: str) -> None:
    (directory / "file").write_text("x")

    with pytest.raises(ConfigurationError, match=r"accounts.directory: .* cannot be read") as refused:
        AccountsDirectory(directory / missing).scan()
    assert "Name a directory that holds one file an account" in refused.value.remedy
