"""Refused requests, in a bounded number of log lines, however many come and from however many addresses.

Of unknown callers, each minute has the first line of each of a few addresses, and one line that sums up. Of known
callers, each minute has a number of lines for each, and one with the number of the others.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from gateway.addresses import neighbourhood
from gateway.telemetry.logs import get_audit_logger, get_logger

_WINDOW_S: Final = 60.0
"""Seconds that are summed up together."""
_FIRST_LINES: Final = 10
"""Addresses of which the first refusal of a minute is a line of its own."""
_ADDRESSES: Final = 1000
"""Addresses that are distinguished in a minute."""
_REFUSED_LINES: Final = 60
_MADE_LINES: Final = 600
"""Lines of a minute of the changes that one caller requested: that were refused, and that were made."""


class RefusedRequests:
    """Counts and logs refused requests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        self._log = get_logger()
        self._audit = get_audit_logger()
        self._ends = 0.0
        self._restart()

    def _restart(self) -> None:
        self._reasons: Counter[str] = Counter()
        self._addresses: Counter[str] = Counter()
        self._elsewhere = 0
        self._logged = 0
        self._lines: Counter[tuple[str, bool]] = Counter()

    def on_anonymous(self, reason: str, address: str | None) -> None:
        """Note that an unknown caller was refused."""
        self._begin_while()
        self._reasons[reason] += 1
        place = neighbourhood(address)
        if place not in self._addresses and len(self._addresses) >= _ADDRESSES:
            self._elsewhere += 1
            return
        self._addresses[place] += 1
        if self._addresses[place] == 1 and self._logged < _FIRST_LINES:
            self._logged += 1
            self._log.warning("API request rejected", reason=reason, address=place)

    def is_line(self, who: str, *, is_made: bool) -> bool:
        """Return whether the change that `who` requested gets a line of its own; it is summed up otherwise."""
        self._begin_while()
        self._lines[who, is_made] += 1
        return self._lines[who, is_made] <= (_MADE_LINES if is_made else _REFUSED_LINES)

    def tick(self) -> None:
        """Sum up where a minute is over; called each second or so."""
        if self._ends and self._clock() >= self._ends:
            self.sum_up()

    def sum_up(self) -> None:
        """Sum up what has no line of its own."""
        count = self._reasons.total()
        if count > self._logged:
            place, most = self._addresses.most_common(1)[0]
            self._log.warning(
                "API requests rejected",
                requests=count,
                **dict(self._reasons),
                addresses=len(self._addresses),
                address_of_most=place,
                requests_of_most=most,
                from_more_addresses=self._elsewhere,
                in_seconds=_WINDOW_S,
            )
        for (who, is_made), lines in self._lines.items():
            more = lines - (_MADE_LINES if is_made else _REFUSED_LINES)
            if more > 0:
                outcome = "made" if is_made else "refused"
                self._audit.warning(
                    "more changes requested", who=who, outcome=outcome, requests=more, in_seconds=_WINDOW_S
                )
        self._ends = 0.0
        self._restart()

    def _begin_while(self) -> None:
        self.tick()
        if not self._ends:
            self._ends = self._clock() + _WINDOW_S
