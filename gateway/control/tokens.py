"""Who may call the API: bearer tokens with roles, of which only digests are kept, in a file that is read again.

A line is `<name> <role> sha256:<digest>`; lines that are empty or begin with # say nothing. A token is 32 random bytes,
so a plain SHA-256 of it cannot be guessed backwards, and a slow hash would only slow the gateway.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from gateway.accounts import NAME_RULE, is_account_name
from gateway.errors import ConfigurationError
from gateway.small_files import UnreadableFile, read_small
from gateway.telemetry.logs import get_logger

PREFIX: Final = "gateway_"
"""What tokens begin with, so that scanners of sources can find one that leaked."""
_SCHEME: Final = "sha256:"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_LOOK: Final = 1.0
"""Seconds between two looks whether the file changed."""
_LARGEST: Final = 1024 * 1024
_SETTING: Final = "control.tokens_file"


class Role(Enum):
    """What a token allows."""

    VIEWER = "viewer"
    """To look."""
    OPERATOR = "operator"
    """To change what is wanted, too."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks."""

    name: str
    role: Role


LOCAL: Final = Principal("local", Role.OPERATOR)
"""Whoever asks from this machine, where there are no tokens."""


@dataclass(frozen=True, slots=True)
class _Entry:
    principal: Principal
    digest: bytes


def new_token() -> str:
    """Make a token."""
    return PREFIX + secrets.token_urlsafe(32)


def line_of(name: str, role: Role, token: str) -> str:
    """Give the line of the file that knows `token`; raises ValueError for a name that is none."""
    if not is_account_name(name):
        raise ValueError(f"{name!r} is no name: {NAME_RULE}")
    return f"{name} {role.value} {_SCHEME}{hashlib.sha256(token.encode()).hexdigest()}"


class Tokens:
    """The tokens of one file, as it is now."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file for the first time; raises ConfigurationError where it is not as it must be."""
        self._path = path
        self._clock = clock
        self._log = get_logger()
        self._stamp: tuple[int, int, int] | None = None
        self._trouble = ""
        self._entries = self._read()
        self._looked = clock()
        if not self._entries:
            self._log.warning("control.tokens_file names nobody: nobody may call the API", file=str(path))

    @property
    def count(self) -> int:
        """How many tokens the file knew when it was read last."""
        return len(self._entries)

    def who(self, token: str) -> Principal | None:
        """Give whose `token` is; every entry is compared in constant time, whatever the token."""
        self._look()
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = None
        for entry in self._entries:
            if hmac.compare_digest(entry.digest, digest):
                found = entry.principal
        return found

    def _look(self) -> None:
        """Read the file again if it changed; one that cannot be read leaves all as it is, and is told of."""
        now = self._clock()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        try:
            if self._stat() != self._stamp:
                self._entries = self._read()
                self._log.info("control.tokens_file is read again", tokens=len(self._entries))
            self._trouble = ""
        except ConfigurationError as error:
            if str(error) != self._trouble:
                self._log.error("control.tokens_file cannot be read: the tokens before hold", error=str(error))
            self._trouble = str(error)

    def _stat(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise _wrong(f"{self._path} cannot be read ({error.strerror})") from error
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _read(self) -> Sequence[_Entry]:
        stamp = self._stat()
        try:
            content = read_small(self._path, _LARGEST)
        except UnreadableFile as error:
            raise _wrong(f"{self._path} {error.problem}") from error
        lines = content.decode("utf-8", "replace").splitlines()
        entries = [
            self._entry(number, line.split())
            for number, line in enumerate(lines, 1)
            if line.strip() and not line.lstrip().startswith("#")
        ]
        self._stamp = stamp
        return entries

    def _entry(self, number: int, words: list[str]) -> _Entry:
        """Read a line; what is wrong is told without the line: it may hold a token by mistake."""
        if len(words) != 3:  # noqa: PLR2004 - name, role, digest
            raise _wrong(f"{self._path}, line {number}: has {len(words)} words instead of 3")
        name, role, digest = words
        if not is_account_name(name):
            raise _wrong(f"{self._path}, line {number}: its first word is no name ({NAME_RULE})")
        if role not in {known.value for known in Role}:
            raise _wrong(f"{self._path}, line {number}: its second word is no role (viewer or operator)")
        if not digest.startswith(_SCHEME) or not _DIGEST.fullmatch(digest.removeprefix(_SCHEME)):
            raise _wrong(
                f"{self._path}, line {number}: its third word is no digest (sha256: and 64 hexadecimal digits)"
            )
        return _Entry(Principal(name, Role(role)), bytes.fromhex(digest.removeprefix(_SCHEME)))


def _wrong(problem: str) -> ConfigurationError:
    return ConfigurationError(_SETTING, problem, "Write lines into it that `gateway token` makes.")
