"""One account's questions for the hub's history: how much at once, how often, and what a refusal means."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from typing import Final

from gateway.errors import CallFailed, CallRejected, CallTimedOut, ConnectionLost, HubError
from gateway.hub import EventsPage, Hub
from gateway.replica.access import PageLimit
from gateway.replica.backoff import Backoff
from gateway.session.facts import PageRequest
from gateway.telemetry.logs import get_logger

CALL_CAP: Final = 10.0
"""Seconds that the longest delay between two tries of a call may take."""
_TOO_MUCH: Final = {"too-large", "silent"}
"""Reasons of a lost connection that a smaller page may avoid: above the record limit, or slower than a ping."""
_DROPS: Final = 2
"""Connections that may be lost in a row, each with a page under way, before the page is taken to be the cause."""
_TRIES: Final = 3
"""How often a page with a continuation token may fail before the token is taken to be the cause."""
_REST: Final = 0.02
"""Seconds to rest after a page without events, for each of them in a row."""
_LONGEST_REST: Final = 0.5
_ABOUT_LIMIT: Final = re.compile(
    r"\blimit\b.*\b(must|between|at most|maximum|greater|less|larger|smaller)\b", re.IGNORECASE
)


class History:
    """Asks for pages, over one connection after the other."""

    def __init__(
        self, account: str, limit: PageLimit, note: Callable[[HubError], None], *, most: int = sys.maxsize
    ) -> None:
        """`limit` is shared by all accounts; `note` hears of every call that failed; `most` events make a page."""
        self._account = account
        self._limit = limit
        self._note = note
        self._most = most
        self._drops = 0
        self._empty = 0

    @property
    def expected_bytes(self) -> int:
        """What the next page is expected to take."""
        return self._limit.expected_bytes * min(self._most, self._limit.asks) // self._limit.asks

    async def rest(self) -> None:
        """Wait a moment where page after page brings nothing but a token for the next."""
        if self._empty > 1:
            await asyncio.sleep(min(_LONGEST_REST, _REST * self._empty))

    async def page(self, hub: Hub, request: PageRequest) -> EventsPage | None:
        """Ask until the hub answers, for fewer events where it wants so; None where it no longer takes the token.

        Raises ConnectionLost.
        """
        backoff = Backoff(cap=CALL_CAP)
        tries, asked, late = 0, 0, False
        while True:
            asked = asked if late else min(self._most, self._limit.asks)
            try:
                page = await hub.events_since(request.since, asked, request.token)
            except ConnectionLost as error:
                self._lost(error, request, asked)
                raise
            except (CallRejected, CallFailed) as error:
                self._note(error)
                if _is_about_limit(error) and self._limit.lower(asked, refused=True):
                    continue
                tries += 1
                if request.token is not None and (isinstance(error, CallRejected) or tries >= _TRIES):
                    return None
            except CallTimedOut as error:
                self._note(error)
                if late:  # the answer did not come in twice the time
                    self._limit.lower(asked, refused=False)
                late = not late
            else:
                self._limit.served(page.envelopes)
                self._drops = 0
                self._empty = 0 if page.envelopes or page.token is None else self._empty + 1
                return page
            await asyncio.sleep(backoff.next_delay())

    def _lost(self, error: ConnectionLost, request: PageRequest, asked: int) -> None:
        """A connection ended with a page under way."""
        if error.reason not in _TOO_MUCH:
            self._drops += 1
            if self._drops < _DROPS:
                return
        self._drops = 0
        if not self._limit.lower(asked, refused=error.reason == "too-large") and error.reason == "too-large":
            self._limit.forgive()  # it is this one event: other accounts need not page one by one for it
            get_logger(account=self._account).error(
                "the account stands still: one event of its history is above hub.max_record_bytes; raise it",
                since=request.since,
                error=str(error),
            )


def _is_about_limit(error: CallRejected | CallFailed) -> bool:
    if isinstance(error, CallRejected) and any(field.lower() == "limit" for field in error.fields):
        return True
    return _ABOUT_LIMIT.search(str(error)) is not None
