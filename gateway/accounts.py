"""Accounts: the rule for their names, the shard that each belongs to, and the directory of their keys."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from gateway.errors import ConfigurationError
from gateway.redaction import shown_path
from gateway.small_files import SECRET_BYTES, UnreadableFile, exposure_of, read_small

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
NAME_RULE: Final = "a letter or digit, then at most 62 letters, digits, underscores or hyphens"

_CLOSE: Final = "Let its owner alone read and write a key (`chmod 600`), at most its group read it."
_NAMED: Final = 3
"""Accounts that are named of many."""
_MOVE: Final = "Move it away, or begin its name with a dot."


def is_account_name(name: str) -> bool:
    """Return whether `name` may name an account: it becomes a part of subjects, headers and URLs.

    A name such as `*` would be a wildcard on NATS and erase other accounts' checkpoints.
    """
    return _NAME.fullmatch(name) is not None


@lru_cache(maxsize=16_384)  # every two seconds a check reads all of them
def shard_of(account: str, shards: int) -> int:
    """Return the shard of `account`: the same in every process and release, for one number of shards."""
    return int.from_bytes(hashlib.blake2b(account.encode(), digest_size=8).digest(), "big") % shards


def _first_of(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


@dataclass(frozen=True, slots=True)
class KeyFileError:
    """An invalid entry of the directory, as text."""

    entry: str
    problem: str
    remedy: str


class AccountsDirectory:
    """Keys of accounts: files in one directory, one an account; the file's name is the account's.

    The layout is that of a mounted Kubernetes Secret: entries that begin with a dot are passed over, and
    one trailing newline is no part of the key. A key is read afresh at each use and never kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def scan(self, known: frozenset[str] = frozenset()) -> tuple[frozenset[str], list[KeyFileError]]:
        """Return the names of the accounts, and the invalid entries of the directory.

        The keys of `known` accounts are not read: it is enough that their files are there.

        Raises ConfigurationError when there is no such directory or it cannot be read.
        """
        try:
            with os.scandir(self._path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            shown = self._path if self._path.is_absolute() else shown_path(self._path)
            raise ConfigurationError(
                "accounts.directory",
                f"{shown} cannot be read ({error.strerror})",
                "Name a directory that holds one file an account: its name the account's, its content the API key.",
            ) from error
        names, faults = set(), []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            fault = self._error_of(entry, is_known=entry.name in known)
            if fault is None:
                names.add(entry.name)
            else:
                faults.append(fault)
        return frozenset(names), faults

    def _error_of(self, entry: os.DirEntry[str], *, is_known: bool) -> KeyFileError | None:
        """Return why an entry is no account; None where it is one."""
        if not is_account_name(entry.name):
            shown = os.fsencode(entry.name).decode("utf-8", "backslashreplace")
            return KeyFileError(shown, f"is not an account's name: {NAME_RULE}", "Rename the file.")
        try:
            if not entry.is_file():
                return KeyFileError(entry.name, "is not a file", _MOVE)
        except OSError as error:  # a link that leads in a circle, or through a forbidden directory
            if is_known:
                return None  # it may be so for a moment: the account itself reports that its key cannot be read
            return KeyFileError(entry.name, f"cannot be looked at ({error.strerror})", _MOVE)
        if not is_known:
            try:
                self.key(entry.name)
            except ConfigurationError as error:
                return KeyFileError(entry.name, error.problem, error.remedy)
        return None

    def exposed(self) -> list[KeyFileError]:
        """Return which keys other users of this machine may read or write; alike ones are reported together.

        The entry of each fault names the first few accounts. A directory that cannot be read has none.
        """
        try:
            names = sorted(path.name for path in self._path.iterdir() if is_account_name(path.name))
        except OSError:
            return []
        alike: dict[str, list[str]] = {}
        for account in names:
            problem = exposure_of(self._path / account)
            if problem is not None:
                alike.setdefault(problem, []).append(account)
        return [KeyFileError(_first_of(names), problem, _CLOSE) for problem, names in alike.items()]

    def stamp(self) -> int | None:
        """Return a number that changes as soon as a file was added or removed, or a mounted Secret was replaced.

        None where it is unknown. The clock behind it is coarse: two changes of one moment may share a number.
        """
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return None

    def key(self, account: str) -> str:
        """Read the account's key.

        Raises ConfigurationError, which never holds a part of the key.
        """
        path = self._path / account
        setting = f"accounts.directory/{account}"
        remedy = "Write the account's API key into the file, as one line of printable ASCII."
        try:
            content = read_small(path, SECRET_BYTES)
        except UnreadableFile as error:
            raise ConfigurationError(setting, error.problem, remedy) from error
        key = content.removesuffix(b"\n").removesuffix(b"\r")
        if not key:
            raise ConfigurationError(setting, "is empty", remedy)
        if not all(0x21 <= byte <= 0x7E for byte in key):  # noqa: PLR2004 - printable ASCII without the space
            raise ConfigurationError(setting, "holds a space, a line break or a character that no key has", remedy)
        return key.decode("ascii")
