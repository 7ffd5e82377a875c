"""One account's requests for the hub's history: how much at once, how often, and what a refusal means."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from gateway.backoff import Backoff
from gateway.errors import CallFailed, CallRejected, CallTimedOut, ConnectionLost, HubError
from gateway.hub.methods import EventsPage, Hub
from gateway.replica.memory import Reservation
from gateway.replica.source.context import AccountPageSize, AdaptivePageSize
from gateway.replica.source.hub_calls import MAX_CALL_DELAY_S
from gateway.replica.source.unservable import UnservableEvents, UnservableSearch
from gateway.session.types import PageRequest
from gateway.telemetry.logs import get_logger

_TOO_MUCH: Final = {"too-large", "silent"}
"""Reasons of a lost connection that a smaller page may avoid: above the record limit, or slower than a ping."""
_AGAIN: Final = 2
"""Failures in a row of one request, whatever their messages, after which less is requested."""
_PAUSE: Final = 0.02
"""Seconds between two tries, at the least: what fails at once is not to be asked in a burst."""
_TRIES: Final = 3
"""How often a page with a continuation token may fail before the token is taken to be the cause."""
_REST: Final = 0.02
"""Seconds to rest after a page without events, for each of them in a row."""
_LONGEST_REST: Final = 0.5
_ABOUT_LIMIT: Final = re.compile(
    r"\blimit\b.*\b(must|between|at most|maximum|greater|less|larger|smaller)\b", re.IGNORECASE
)


_RATE: Final = re.compile(r"\b(rate|requests|calls)\b", re.IGNORECASE)
"""Words of a limit that is for something else than events."""


class HistoryClient:
    """Asks for pages, over one connection after the other."""

    def __init__(
        self,
        account: str,
        limit: AdaptivePageSize,
        note: Callable[[HubError], None],
        *,
        most: int = sys.maxsize,
        skip_after: int | None = None,
        is_replay: bool = False,
    ) -> None:
        """`limit` is that of all accounts; `note` is called for every failed call; `most` events make a page.

        After `skip_after` failures of one event alone it may be passed, where `page` allows it. An event that the hub
        cannot return halts the account, unless this is for a replay.
        """
        self._account = account
        self._limit = AccountPageSize(account, limit, most)
        self._note = note
        self._question: PageRequest | None = None
        self._failures = 0
        self._empty = 0
        self._logged_since: int | None = None
        self._skip_after = skip_after
        self._is_replay = is_replay
        self._alone = 0  # failures of the question for one event
        self._search: UnservableSearch | None = None
        self._passed: tuple[int, int] | None = None  # after which sequence, and up to which, nothing could be given

    @property
    def expected_bytes(self) -> int:
        """What the next page is expected to take."""
        return self._limit.expected_bytes

    async def rest(self) -> None:
        """Wait a moment where page after page brings nothing but a token for the next."""
        if self._empty > 1:
            await asyncio.sleep(min(_LONGEST_REST, _REST * self._empty))

    async def page(
        self, hub: Hub, request: PageRequest, reservation: Reservation | None = None, may_pass: int | None = None
    ) -> EventsPage | None:
        """Ask until the hub answers, for fewer events where it fails; None where it no longer takes the token.

        `reservation` is for the page, and is given back between two tries: others have an answer to come.

        Raises ConnectionLost; and, where events up to `may_pass` may be passed, UnservableEvents.
        """
        backoff = Backoff(cap=MAX_CALL_DELAY_S)
        tries, late = 0, 0
        while True:
            search = self._search_for(request, may_pass)
            since, asked = self._next_call(request, search, late)
            late = 0
            try:
                page = await hub.events_since(since, asked, request.token)
            except ConnectionLost as error:
                self._on_failure(request, asked, error, at_once=error.reason in _TOO_MUCH)
                raise
            except (CallRejected, CallFailed) as error:
                self._note(error)
                tries += 1
                is_limit = _is_about_limit(error)
                is_less = self._on_failure(request, asked, error, at_once=is_limit, is_limit=is_limit)
                if not is_limit and _is_about_token(request, error, tries):
                    return None
            except CallTimedOut as error:
                self._note(error)
                is_less = self._on_failure(request, asked, error)
                late = 0 if is_less else asked  # the answer may be on its way
            else:
                if search is None:
                    return self._on_page(page, asked)
                self._on_page_of_search(search)
                continue
            if is_less:
                backoff = Backoff(cap=MAX_CALL_DELAY_S)  # it is another question now
            await self._pause(backoff.next_delay(at_least=_PAUSE), reservation)

    def _next_call(self, request: PageRequest, search: UnservableSearch | None, late: int) -> tuple[int, int]:
        """Return after which sequence to ask, and for how many events: `late` again where an answer may be coming."""
        return (request.since, late or self._limit.size) if search is None else (search.at, 1)

    def _on_page(self, page: EventsPage, asked: int) -> EventsPage:
        """Note that the hub answered, and return its answer: full where it holds the events that were `asked` for."""
        self._limit.on_page(page.envelopes)
        self._question, self._failures, self._alone = None, 0, 0
        self._empty = 0 if page.envelopes or page.token is None else self._empty + 1
        return replace(page, is_full=True) if len(page.envelopes) >= asked else page

    def _on_page_of_search(self, search: UnservableSearch) -> None:
        """Note that the hub gives an event where the search has looked, and drop a search that has nothing to find."""
        search.on_page()
        self._search = None if search.is_void else search
        self._alone = 0

    async def _pause(self, delay: float, reservation: Reservation | None) -> None:
        if reservation is not None:
            reservation.release()
        await asyncio.sleep(delay)
        if reservation is not None:
            await reservation.renew(self.expected_bytes)

    def _on_failure(
        self, request: PageRequest, asked: int, error: HubError, *, at_once: bool = False, is_limit: bool = False
    ) -> bool:
        """Ask for less after the second failure of a question, and after each one from then on; True where it did."""
        if self._search is not None:
            self._search.on_failure()
            return False
        if request != self._question:
            self._question, self._failures, self._alone = request, 0, 0
        self._failures += 1
        self._alone += asked == 1
        if self._failures < _AGAIN and not at_once:
            return False
        is_less = self._limit.halve(asked, is_limit=is_limit)
        if not is_less and self._failures >= _AGAIN:
            self._log_skipped(request.since, error)
        return is_less

    def _search_for(self, request: PageRequest, may_pass: int | None) -> UnservableSearch | None:
        """Return the search that goes on behind an event which failed too often, where there is one.

        Raises UnservableEvents where it has come to its end, or had once and the question fails again.
        """
        passed = self._passed
        if may_pass is None or may_pass <= request.since or request.token is not None or self._skip_after is None:
            self._search = None
        elif passed is not None and passed[0] == request.since and self._failures and request == self._question:
            raise UnservableEvents(*passed)
        elif self._search is None or self._search.since != request.since:
            is_due = self._alone >= self._skip_after and request == self._question
            self._search = UnservableSearch(request.since, may_pass, self._skip_after) if is_due else None
        elif self._search.through is not None:
            self._passed, self._search = (request.since, self._search.through), None
            raise UnservableEvents(*self._passed)
        return self._search

    def _log_skipped(self, since: int, error: HubError) -> None:
        """Log once which event the hub does not return, although it is requested alone."""
        if self._logged_since == since or self._is_replay:
            return
        self._logged_since = since
        is_large = isinstance(error, ConnectionLost) and error.reason == "too-large"
        get_logger(account=self._account).error(
            "account halted: an event of its history is above hub.max_record_bytes; raise it"
            if is_large
            else "account halted: the hub cannot return the next event, even alone",
            since=since,
            error=str(error),
        )


def _is_about_token(request: PageRequest, error: CallRejected | CallFailed, tries: int) -> bool:
    return request.token is not None and (isinstance(error, CallRejected) or tries >= _TRIES)


def _is_about_limit(error: CallRejected | CallFailed) -> bool:
    if isinstance(error, CallRejected) and any(field.lower() == "limit" for field in error.fields):
        return True
    message = str(error)
    return _ABOUT_LIMIT.search(message) is not None and _RATE.search(message) is None
