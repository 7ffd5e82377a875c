"""The API's bearer tokens with roles, of which only digests are kept, in a file that is read again.

`gateway.control.auth.token_lines` has the form of its lines. A token is 32 random bytes, so a plain SHA-256 of it can
not be guessed backwards, and a slow hash would only slow the gateway.

A token ends with its line. So the content is read and compared each second: the system's facts about a file (times,
size, inode) can be the same for another content. An unreadable file gives no access once a short grace is over; a
replacement within the grace locks no caller out. A last line without its line feed may still be on its way, and half of
it can mean more than the whole: a new one counts when the next look finds the same, and at the start each is new. Many
programs end no last line, so it may not be refused for good.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gateway.control.auth.principals import Principal
from gateway.control.auth.token_lines import LineError, TokenEntry, read_lines
from gateway.errors import ConfigurationError
from gateway.small_files import UnreadableFile, read_small
from gateway.telemetry.logs import get_logger

PREFIX: Final = "gateway_"
"""What tokens begin with, so that scanners of sources can find one that leaked."""
GRACE: Final = 10.0
"""Seconds for which the tokens of a file that cannot be read any more still hold."""
POLL_INTERVAL_S: Final = 1.0
"""Seconds between two looks at the file."""
_MAX_FILE_BYTES: Final = 1024 * 1024
_MAX_LOGGED_FAULTS: Final = 10
"""Invalid lines that are logged one by one."""
_SETTING: Final = "control.tokens_file"
_REMEDY: Final = "Write lines into it that `gateway token` makes."


def new_token() -> str:
    """Make a token."""
    return PREFIX + secrets.token_urlsafe(32)


def check_tokens_file(path: Path) -> tuple[int, Sequence[LineError]]:
    """Return how many tokens there are, and the lines with something wrong; raises ConfigurationError for no file."""
    entries, faults = read_lines(_read(path))
    return len(entries), faults


class Tokens:
    """The tokens of one file, as it is now."""

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Read the file for the first time; raises ConfigurationError where it cannot be read.

        `clock` gives seconds, and `now` the time by which tokens expire.
        """
        self._path = path
        self._clock = clock
        self._now = now
        self._log = get_logger()
        self._content = _read(path)
        self._entries: Sequence[TokenEntry] = ()
        self._faults = 0
        self._logged = b""
        """The content whose faults were logged last."""
        self._unreadable_since: float | None = None
        self.is_unfinished = False
        """Whether the last line waits for the next look."""
        self._looked = clock()
        self._apply(self._content, is_settled=False)

    @property
    def problems(self) -> int:
        """The number of invalid lines in the file; 1 where the file cannot be read."""
        return self._faults if self._unreadable_since is None else 1

    @property
    def count(self) -> int:
        """How many tokens the file knew when it was read last."""
        return len(self._entries)

    def authenticate(self, token: str) -> Principal | None:
        """Return the owner of `token`; every entry is compared in constant time, whatever the token."""
        self.reload()
        if not token:
            return None
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found: TokenEntry | None = None
        for entry in self._entries:
            if hmac.compare_digest(entry.digest, digest):
                found = entry
        return None if found is None or not found.is_valid(self._now()) else found.principal

    def reload(self) -> None:
        """Compare the file with what was read, unless that was done within the last second."""
        if self._clock() - self._looked >= POLL_INTERVAL_S:
            self.look()

    def look(self) -> None:
        """Compare the file with what was read."""
        self._looked = now = self._clock()
        try:
            content = _read(self._path)
        except ConfigurationError as error:
            self._expire(now, error)
            return
        if self._unreadable_since is not None:
            self._unreadable_since = None
            self._log.info("control.tokens_file is readable again")
            self._apply(content, is_settled=content == self._content)
        elif content != self._content:
            self._log.info("control.tokens_file changed, reloading")
            self._apply(content, is_settled=False)
        elif self.is_unfinished:
            self._apply(content, is_settled=True)

    def _expire(self, now: float, error: ConfigurationError) -> None:
        """End the tokens of a file that has been unreadable for as long as the grace."""
        if self._unreadable_since is None:
            self._unreadable_since = now
            self._log.error(
                "control.tokens_file is unreadable: its tokens expire soon", error=str(error), seconds=GRACE
            )
        elif self._entries and now - self._unreadable_since >= GRACE:
            self._entries = ()
            self._log.error("control.tokens_file is unreadable: its tokens have expired", error=str(error))

    def _apply(self, content: bytes, *, is_settled: bool) -> None:
        """Apply the lines; a last one without its end only as far as it is known, unless it is settled."""
        entries, faults = read_lines(content)
        self.is_unfinished = False
        if not is_settled and not content.endswith(b"\n"):
            complete, complete_faults = read_lines(content[: content.rfind(b"\n") + 1])
            known = {*complete, *self._entries}
            taken = [entry for entry in entries if entry in known]
            self.is_unfinished = (len(taken), len(complete_faults)) != (len(entries), len(faults))
            entries, faults = taken, complete_faults
        self._content = content
        self._entries = entries
        self._faults = len(faults)
        if content != self._logged and not self.is_unfinished:
            self._logged = content
            self._log_faults(faults)
        if not self._entries and not self.is_unfinished:
            self._log.warning(
                "control.tokens_file has no valid token: all API requests are rejected", file=str(self._path)
            )

    def _log_faults(self, faults: Sequence[LineError]) -> None:
        for fault in faults[:_MAX_LOGGED_FAULTS]:
            self._log.error(
                "invalid line in control.tokens_file",
                file=str(self._path),
                line=fault.number,
                error=fault.problem,
                remedy=_REMEDY,
            )
        if len(faults) > _MAX_LOGGED_FAULTS:
            self._log.error("more invalid lines in control.tokens_file", lines=len(faults) - _MAX_LOGGED_FAULTS)


def _read(path: Path) -> bytes:
    """Return what the file holds; raises ConfigurationError."""
    try:
        return read_small(path, _MAX_FILE_BYTES)
    except UnreadableFile as error:
        raise _invalid(f"{path} {error.problem}") from error


def _invalid(problem: str) -> ConfigurationError:
    return ConfigurationError(_SETTING, problem, _REMEDY)
