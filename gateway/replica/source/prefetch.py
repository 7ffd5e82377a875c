"""The pages of one connection: the next page is requested while the last is decoded.

Only the page that the session will most likely want is prefetched, and only where there is room for it at once. The
session decides afterwards. An answer to any other request is dropped. So is an answer that the hub may have given
before it returned its latest sequence, since by that the session judges what is final.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from gateway.events.decode import Decoder
from gateway.hub.methods import EventsPage, Hub
from gateway.replica.memory import MemoryShare, Reservation
from gateway.replica.source.history_client import HistoryClient
from gateway.session.types import Content, PageRequest
from gateway.signalr.large_records import LARGE, ODD, TURN, decode_aside

_GIVES_WAY: Final = 0.5
"""Seconds after which a page for which there was no room is requested again, where others go first."""


@dataclass(slots=True)
class PageInFlight:
    """A requested page."""

    request: PageRequest
    reservation: Reservation
    """To be released once the page is taken in."""
    answer: Awaitable[EventsPage | None]
    """As `History.page` gives it."""


class PagePrefetcher:
    """Asks for pages over one connection, one at a time."""

    def __init__(self, history: HistoryClient, hub: Hub, share: MemoryShare, tasks: asyncio.TaskGroup) -> None:
        """`tasks` are those of the connection: a prefetched page ends with it."""
        self._history = history
        self._hub = hub
        self._share = share
        self._tasks = tasks
        self._ahead: tuple[PageInFlight, asyncio.Task[EventsPage | None]] | None = None

    async def get(
        self,
        wants: Callable[[], PageRequest | None],
        may_pass: Callable[[], int | None] = lambda: None,
        *,
        gives_way: bool = False,
    ) -> PageInFlight | None:
        """Return the page that the session wants, once there is room for it; None where it wants none any more.

        A request that `gives_way` does not wait for room: None where there is none just now. Events up to `may_pass`
        that the hub cannot return may be passed: then the answer raises UnservableEvents.
        """
        if self._ahead is not None:
            asked, _ = self._ahead
            if asked.request == wants():
                self._ahead = None
                return asked
            self.discard()
        await self._history.rest()
        size = self._history.expected_bytes
        reservation = self._share.reserve_at_once(size) if gives_way else await self._share.reserve(size)
        if reservation is None:
            await asyncio.sleep(_GIVES_WAY)
            return None
        request = wants()
        if request is None:
            reservation.release()
            return None
        return PageInFlight(request, reservation, self._history.page(self._hub, request, reservation, may_pass()))

    def prefetch(self, request: PageRequest | None) -> None:
        """Ask for `request`, where there is room for one more page at once; `ask` gives it."""
        reservation = None if request is None else self._share.reserve_at_once(self._history.expected_bytes)
        if request is not None and reservation is not None:
            task = self._tasks.create_task(self._history.page(self._hub, request, reservation))
            self._ahead = PageInFlight(request, reservation, task), task

    def discard(self) -> None:
        """Discard the prefetched page."""
        if self._ahead is not None:
            (asked, task), self._ahead = self._ahead, None
            task.cancel()
            asked.reservation.release()


async def decode(decoder: Decoder, account: str, envelopes: list[bytes]) -> list[Content]:
    """Decode the envelopes of a page in their order; others have their turn each few milliseconds."""
    contents: list[Content] = []
    clock = asyncio.get_running_loop().time
    await asyncio.sleep(0)
    began = clock()
    for envelope in envelopes:
        content: Content | None = None
        if len(envelope) <= LARGE:
            content = decoder.usual_envelope(account, envelope)
        if content is None and len(envelope) > ODD:
            content = await decode_aside(decoder.envelope, account, envelope)
        contents.append(content or decoder.envelope_at_length(account, envelope))
        if clock() - began > TURN:
            await asyncio.sleep(0)
            began = clock()
    return contents
