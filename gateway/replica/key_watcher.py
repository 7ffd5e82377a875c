"""The accounts that have keys now: a new file adds its account, and a deleted file removes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.accounts import AccountsDirectory, KeyFileError
from gateway.errors import ConfigurationError
from gateway.telemetry.logs import get_logger

SCAN_INTERVAL_S: Final = 2.0
"""Seconds between two looks at the directory."""
_FULL_SCAN_INTERVAL_S: Final = 30.0
"""Seconds between two looks at every file, where the directory shows that no file was added or deleted."""
_GUARD_S: Final = 300.0
"""Seconds for which nothing is taken away when over half of the keys vanish at once: a mount may be gone."""


class KeyWatcher:
    """The accounts that have keys, as they are added and removed.

    An account whose file exists and holds no key, perhaps because the file is being written, stays if it was there. The
    account itself reports that.
    """

    def __init__(self, directory: AccountsDirectory, clock: Callable[[], float], *, guard: float = _GUARD_S) -> None:
        """Look for the first time; raises ConfigurationError when the directory cannot be read."""
        self._directory = directory
        self._clock = clock
        self._guard = guard
        self._log = get_logger()
        self._logged: set[KeyFileError] = set()
        self._vanished_at: float | None = None
        self._stamps: tuple[int | None, ...] = (None, None)  # of the directory, at the last two looks
        self._full_scan_at = clock()
        self._found = directory.scan()
        self.names, faults = self._found
        self._log_faults(faults)

    def scan(self) -> frozenset[str]:
        """Look again, and return the names of the accounts that are to be served."""
        try:
            names, faults = self._read_directory()
        except ConfigurationError as error:
            names, faults = frozenset(), [KeyFileError(error.setting, error.problem, error.remedy)]
        self._log_faults(faults)
        gone = self.names - names
        if 2 * len(gone) <= len(self.names):
            self._vanished_at = None
        elif self._vanished_at is None:
            self._vanished_at = self._clock()
            self._log.error(
                "over half of the key files vanished at once: keeping all accounts for now",
                gone=len(gone),
                of=len(self.names),
                seconds=self._guard,
            )
        if self._vanished_at is not None and self._clock() - self._vanished_at < self._guard:
            names |= gone
        else:
            self._vanished_at = None
        self.names = names
        return names

    def _read_directory(self) -> tuple[frozenset[str], list[KeyFileError]]:
        """Look at every file only where that may show something new: 5,000 take 8 ms.

        After a change it is done twice, since what followed within the same moment left no mark; and for as long as
        a file is at fault, since it may be in the making.
        """
        before, self._stamps = self._stamps, (self._stamps[1], self._directory.stamp())
        now, (_, faults) = self._clock(), self._found
        is_quiet = None not in self._stamps and {*before, *self._stamps} == {self._stamps[1]}
        if not is_quiet or faults or now - self._full_scan_at >= _FULL_SCAN_INTERVAL_S:
            self._found = self._directory.scan(known=self.names)
            self._full_scan_at = now
        return self._found

    def _log_faults(self, faults: list[KeyFileError]) -> None:
        for fault in faults:
            if fault not in self._logged:
                self._log.error("invalid entry in accounts.directory", entry=fault.entry, problem=fault.problem)
        self._logged = set(faults)
