"""Reading the topics back in the stream's order, without a consumer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from gateway.broker.jetstream.connection import Connection
from gateway.broker.jetstream.direct import DirectReader
from gateway.broker.jetstream.error_codes import NO_MESSAGE
from gateway.broker.jetstream.link import JetStreamApiError, Link
from gateway.broker.jetstream.topics import Topics, message_of
from gateway.broker.ports import Stored, time_of
from gateway.errors import Unavailable
from gateway.publication import Message

_POLL_INTERVAL_S: Final = 0.1
"""Seconds between two looks for new messages."""
_COMPARED_S: Final = 1.0
"""Seconds between two looks whether a stream without news is still the one that is followed."""
_BEHIND_S: Final = 0.02
"""Seconds before a server that was behind the leader is asked again."""


@dataclass(slots=True)
class _ReadPosition:
    """Where a read is."""

    filters: list[str]
    next: int
    """The stream sequence that is read next."""
    end: int | None
    """The last stream sequence to read; None to go on for ever."""
    since: datetime | None
    """A time instead of `next`, until the first message."""
    created: str
    """When the stream was created: another time means another stream, in which `next` is no place of this read."""
    last: int
    """The last sequence of the stream, as last heard: it never falls."""
    compared_at: float = field(default_factory=time.monotonic)

    def is_open(self) -> bool:
        """Return whether there may be more to read."""
        return bool(self.filters) and (self.end is None or self.next <= self.end)

    def includes(self, sequence: int) -> bool:
        """Return whether a message is of this read."""
        return self.end is None or sequence <= self.end

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
        """Yield the messages in the stream's order; the read begins when the first one is asked for.

        Raises:
            ConfigurationError: `start` is none.
            Unavailable: the connection was lost, or NATS does not answer. To go on, start one position after
                the last message.

        """
        link = self._connection.link
        position = await self._position(link, topics, accounts, start=start, follow=follow)
        reader = DirectReader(link, self._topics.stream, self._covering(topics, accounts))
        clock = asyncio.get_running_loop().time
        moved = clock()
        while position.is_open():
            entries = await reader.batch(position.next if position.since is None else position.since)
            for entry in entries:
                if not position.includes(entry.sequence):
                    return
                position.passed(entry.sequence)
                found = message_of(entry.subject, entry.headers, entry.value)
                if found is not None and _is_wanted(found, topics, accounts):
                    yield Stored(found, str(entry.sequence))
                moved = clock()
            if not entries and not await self._wait_for_more(link, position, moved):
                return

    def _covering(self, topics: Sequence[str] | None, accounts: Sequence[str] | None) -> str:
        """Return the one filter that a direct get takes: it may cover more than is wanted."""
        one_topic = topics[0] if topics is not None and len(set(topics)) == 1 else None
        one_account = accounts[0] if accounts is not None and len(set(accounts)) == 1 else None
        return self._topics.messages(one_topic, one_account)

    async def _position(
        self, link: Link, topics: Sequence[str] | None, accounts: Sequence[str] | None, *, start: str, follow: bool
    ) -> _ReadPosition:
        filters = list(
            dict.fromkeys(
                self._topics.messages(topic, account)
                for topic in ([None] if topics is None else topics)
                for account in ([None] if accounts is None else accounts)
            )
        )
        info = await link.api(f"STREAM.INFO.{self._topics.stream}")
        last = int(info["state"]["last_seq"])
        # What is stored between the two questions is not of this read.
        candidates = await self._ask(link, [{"last_by_subj": one} for one in filters])
        newest = max(candidates, key=lambda message: int(message["seq"]), default=None)
        end = 0 if newest is None else int(newest["seq"])
        first, since = _start(start, newest=end, last=last)
        if newest is not None and since is not None and datetime.fromisoformat(newest["time"]) < since:
            first, since = end + 1, None
        return _ReadPosition(filters, first, None if follow else end, since, str(info["created"]), last)

    async def _wait_for_more(self, link: Link, position: _ReadPosition, moved: float) -> bool:
        """Wait a moment after an empty batch, and return whether there can be more; `moved` is when the last one came.

        Raises Unavailable where no server gives for so long what there is.
        """
        if position.end is None:
            await self._compare(link, position)
            await asyncio.sleep(_POLL_INTERVAL_S)
            return True
        if not await self._has_more(link, position, position.end):
            return False
        if asyncio.get_running_loop().time() - moved > link.timeout:
            raise Unavailable(f"no server gives what follows {position.next} in the stream, although there is more")
        await asyncio.sleep(_BEHIND_S)
        return True

    async def _compare(self, link: Link, position: _ReadPosition) -> None:
        """Raise Unavailable where the stream is another one, or lost its end: new messages stand before `next`."""
        if time.monotonic() - position.compared_at < _COMPARED_S:
            return
        info = await link.api(f"STREAM.INFO.{self._topics.stream}")
        last = int(info["state"]["last_seq"])
        if info["created"] != position.created or last < position.last:
            raise Unavailable(f"the stream {self._topics.stream} was re-created or went back in time; read it again")
        position.last, position.compared_at = last, time.monotonic()

    async def _has_more(self, link: Link, position: _ReadPosition, end: int) -> bool:
        """Ask the stream's leader whether anything is left; the server that gave the last batch may be behind it."""
        place = end if position.since is not None else position.next
        left = await self._ask(link, [{"seq": place, "next_by_subj": one} for one in position.filters])
        return any(int(message["seq"]) <= end for message in left)

    async def _ask(self, link: Link, wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for answer in await link.api_many(f"STREAM.MSG.GET.{self._topics.stream}", wanted):
            if not isinstance(answer, JetStreamApiError):
                found.append(answer["message"])
            elif answer.code != NO_MESSAGE:
                raise answer
        return found


def _is_wanted(message: Message, topics: Sequence[str] | None, accounts: Sequence[str] | None) -> bool:
    return (topics is None or message.topic in topics) and (accounts is None or message.account in accounts)


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
