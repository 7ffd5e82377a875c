"""Reading the topics back as a consumer does, in the stream's order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from gateway.broker.jetstream.connect import Connection
from gateway.broker.jetstream.link import Link, Refusal
from gateway.broker.jetstream.pull import Pull, sequence_of
from gateway.broker.jetstream.topics import Topics, message_of
from gateway.broker.ports import Stored, time_of
from gateway.errors import Unavailable

_AGAIN: Final = 0.02
"""Seconds before a consumer is made again."""
_NO_MESSAGE: Final = 10037


@dataclass(slots=True)
class _Way:
    """Where a read is."""

    filters: list[str]
    next: int
    """The stream sequence that is read next."""
    end: int | None
    """The last stream sequence to read; None to go on for ever."""
    since: datetime | None
    """A time instead of `next`, until the first message."""

    def is_open(self) -> bool:
        """Tell whether there may be more to read."""
        return self.end is None or self.next <= self.end

    def passed(self, sequence: int) -> None:
        """Go on after `sequence`."""
        self.next = sequence + 1
        self.since = None


class JetStreamReader:
    """Reads the topics of one deployment (`gateway.broker.ports.LogReader`)."""

    def __init__(self, connection: Connection, topics: Topics) -> None:
        self._connection = connection
        self._topics = topics

    async def read(
        self, *, topics: Sequence[str] | None, accounts: Sequence[str] | None, start: str, follow: bool
    ) -> AsyncIterator[Stored]:
        """Give the messages in the stream's order; the read begins when the first one is asked for.

        Raises:
            ConfigurationError: `start` is none.
            Unavailable: the connection was lost, or NATS does not answer. To go on, start one position after
                the last message.

        """
        link = self._connection.link
        way = await self._way(link, topics, accounts, start=start, follow=follow)
        clock = asyncio.get_running_loop().time
        moved = clock()
        while way.filters and way.is_open():
            begin = way.next if way.since is None else way.since
            pull = Pull(link, self._topics.stream, way.filters, follows=way.end is None)
            await pull.begin(begin)
            try:
                async with aclosing(pull.messages()) as messages:
                    async for message in messages:
                        sequence = sequence_of(message)
                        if way.end is not None and sequence > way.end:
                            return
                        way.passed(sequence)
                        moved = clock()
                        found = message_of(message.subject, message.headers or {}, message.data)
                        if found is not None:
                            yield Stored(found, str(sequence))
                        if not way.is_open():
                            return
            finally:
                await pull.end()
            if way.end is not None and not await self._more(link, way, way.end):
                return
            if way.end is not None and clock() - moved > link.timeout:
                raise Unavailable(f"the consumer gives nothing from {way.next} on, although there is more")
            await asyncio.sleep(_AGAIN)

    async def _way(
        self, link: Link, topics: Sequence[str] | None, accounts: Sequence[str] | None, *, start: str, follow: bool
    ) -> _Way:
        filters = list(
            dict.fromkeys(
                self._topics.messages(topic, account)
                for topic in ([None] if topics is None else topics)
                for account in ([None] if accounts is None else accounts)
            )
        )
        last = int((await link.api(f"STREAM.INFO.{self._topics.stream}"))["state"]["last_seq"])
        # What is stored between the two questions is not of this read.
        candidates = await self._ask(link, [{"last_by_subj": one} for one in filters])
        newest = max(candidates, key=lambda message: int(message["seq"]), default=None)
        end = 0 if newest is None else int(newest["seq"])
        first, since = _start(start, newest=end, last=last)
        if newest is not None and since is not None and datetime.fromisoformat(newest["time"]) < since:
            first, since = end + 1, None
        return _Way(filters, first, None if follow else end, since)

    async def _more(self, link: Link, way: _Way, end: int) -> bool:
        """Ask the stream's leader whether anything is left; a consumer on a follower may be behind it."""
        place = end if way.since is not None else way.next
        left = await self._ask(link, [{"seq": place, "next_by_subj": one} for one in way.filters])
        return any(int(message["seq"]) <= end for message in left)

    async def _ask(self, link: Link, wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for answer in await link.api_many(f"STREAM.MSG.GET.{self._topics.stream}", wanted):
            if not isinstance(answer, Refusal):
                found.append(answer["message"])
            elif answer.code != _NO_MESSAGE:
                raise answer
        return found


def _start(start: str, *, newest: int, last: int) -> tuple[int, datetime | None]:
    if start == "first":
        return 1, None
    if start == "last":
        return newest or last + 1, None
    if start == "new":
        return last + 1, None
    if start.isdecimal():
        return int(start), None
    return 1, time_of(start, position="a stream sequence")
