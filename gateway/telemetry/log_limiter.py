"""Limits log lines of one cause that come in thousands, such as those of each account about an unavailable hub.

Of each cause the first lines of a while are written as they are, of an error also the first of each account. At the end
of the while one line has how many more there were, and of how many accounts and shards. The audit lines of changes are
never held back. A caller that logs never waits for the limiter and never receives its errors: a line that it cannot
judge is written.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Final

AUDIT: Final = "gateway.audit"
"""The audit logger."""
_FIRST: Final = {logging.INFO: 100}
_FIRST_ELSE: Final = 20
"""Lines of one cause that are written in a while: most at INFO, fewer at WARNING and ERROR."""
_NAMED: Final = 200
"""Accounts of which the first error of one cause is written in a while."""
_WINDOW_S: Final = 10.0
"""Seconds."""
_CAUSES: Final = 1000
"""Causes that are distinguished in a while; lines of further causes are written."""
_NUMBERS: Final = re.compile(r"\d+")


@dataclass(slots=True)
class _Cause:
    until: float
    lines: int = 0
    held: int = 0
    last: logging.LogRecord | None = None
    """Of those that were held back."""
    accounts: set[str] = field(default_factory=set)
    """Of all lines, and below of those that were held back."""
    held_accounts: set[str] = field(default_factory=set)
    held_shards: set[str] = field(default_factory=set)


class LogRateLimiter(logging.Filter):
    """Lets lines through to one handler, the first of each cause."""

    def __init__(
        self,
        write: Callable[[logging.LogRecord], None],
        clock: Callable[[], float] = time.monotonic,
        rest: float = _WINDOW_S,
    ) -> None:
        """`write` writes what sums up; `rest` is how long a while is, in seconds of `clock`."""
        super().__init__()
        self._write = write
        self._clock = clock
        self._rest = rest
        self._causes: dict[tuple[int, str], _Cause] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def start(self) -> None:
        """Sum up at the end of each while from now on, on a thread of its own, until `close`."""
        threading.Thread(target=self._run, name="repeats", daemon=True).start()

    def _run(self) -> None:
        while not self._closed.wait(self._rest):
            self.flush()

    def close(self) -> None:
        """Sum up now, and let everything through from now on."""
        self._closed.set()
        self.flush()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is written."""
        if record.name == AUDIT or record.levelno <= logging.DEBUG or self._closed.is_set():
            return True
        # Another thread judges a line, or this one does and was interrupted by a destructor that logs.
        if not self._lock.acquire(blocking=False):
            return True
        due: _Cause | None = None
        try:
            due, is_written = self._judge(record)
        except Exception:  # noqa: BLE001 - a library's line may hold anything; it is written as it is
            is_written = True
        finally:
            self._lock.release()
        if due is not None:
            self._sum_up(due)
        return is_written

    def flush(self) -> None:
        """Sum up what is held back."""
        if not self._lock.acquire(timeout=self._rest):
            return
        try:
            now = self._clock()
            due = [cause for cause in self._causes.values() if cause.held]
            for key, cause in list(self._causes.items()):
                if now >= cause.until:
                    del self._causes[key]
                elif cause.held:
                    self._causes[key] = _Cause(cause.until, cause.lines, accounts=cause.accounts)
        finally:
            self._lock.release()
        for cause in due:
            self._sum_up(cause)

    def _judge(self, record: logging.LogRecord) -> tuple[_Cause | None, bool]:
        """Return whether the line is written, and what is to be summed up before it."""
        now, fields = self._clock(), _event_of(record)
        key = record.levelno, _cause_of(record, fields)
        cause = self._causes.get(key)
        due = None
        if cause is None or now >= cause.until:
            if cause is None and len(self._causes) >= _CAUSES:
                return None, True
            due = cause if cause is not None and cause.held else None
            cause = self._causes[key] = _Cause(now + self._rest)
        cause.lines += 1
        account, shard = fields.get("account"), fields.get("shard")
        is_new = account is not None and str(account) not in cause.accounts and len(cause.accounts) < _NAMED
        if is_new:
            cause.accounts.add(str(account))
        if cause.lines <= _FIRST.get(record.levelno, _FIRST_ELSE) or (is_new and record.levelno >= logging.ERROR):
            return due, True
        cause.held += 1
        cause.last = record
        if account is not None:
            cause.held_accounts.add(str(account))
        if shard is not None:
            cause.held_shards.add(str(shard))
        return due, False

    def _sum_up(self, cause: _Cause) -> None:
        assert cause.last is not None  # noqa: S101 - some were held back
        with suppress(Exception):  # as the standard library does with a line that cannot be written
            line, fields = copy(cause.last), dict(_event_of(cause.last))
            for name, values in (("account", cause.held_accounts), ("shard", cause.held_shards)):
                if len(values) > 1:
                    fields.pop(name, None)
                    fields[f"{name}s"] = len(values)
            if fields:
                line.msg = fields | {"repeated": cause.held, "in_seconds": self._rest}
            else:
                line.msg, line.args = f"{line.getMessage()} (repeated: {cause.held})", ()
            self._write(line)


def _event_of(record: logging.LogRecord) -> Mapping[str, Any]:
    """Return the event that structlog was given, an empty text where the line is a library's."""
    return record.msg if isinstance(record.msg, dict) else {}


def _cause_of(record: logging.LogRecord, fields: Mapping[str, Any]) -> str:
    if not fields:
        return f"{record.name}: {_NUMBERS.sub('#', str(record.msg))}"
    why = fields.get("reason") or fields.get("error") or fields.get("state") or ""
    return f"{fields.get('event')}: {_NUMBERS.sub('#', str(why))}"
