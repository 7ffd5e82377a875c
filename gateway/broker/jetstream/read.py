"""Reading the topics back as a consumer does: pulls on a consumer of one's own, in the stream's order.

A pull asks for as much as it will take, so a slow reader slows nobody and loses nothing. When the consumer is
gone (its server died), another one goes on after the last message.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

from nats.aio.msg import Msg

from gateway.broker.jetstream.connect import Connection
from gateway.broker.jetstream.link import API, Ear, Link, Refusal
from gateway.broker.jetstream.topics import Topics, message_of
from gateway.broker.ports import Stored
from gateway.errors import ConfigurationError, Unavailable

_PULL: Final = 256
"""Messages of one pull."""
_NANOSECONDS: Final = 1_000_000_000
_EXPIRES: Final = 30
"""Seconds until a pull that waits for new messages is asked again."""
_HEARTBEAT: Final = 2
"""Seconds between signs of life while a pull waits."""
_FORGOTTEN: Final = 60
"""Seconds after which the server forgets a consumer that nobody pulls from."""
_AGAIN: Final = 0.02
"""Seconds before a consumer is made again."""
_NO_MESSAGE: Final = 10037
_ACK_TOKENS: Final = 9
"""Of `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>.<time>.<pending>`."""


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
            pull = _Pull(link, self._topics.stream, way)
            await pull.begin()
            try:
                async with aclosing(pull.messages()) as messages:
                    async for message in messages:
                        sequence = _sequence_of(message)
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


class _Pull:
    """A consumer and the pulls on it, until they have nothing more to give."""

    def __init__(self, link: Link, stream: str, way: _Way) -> None:
        self._link = link
        self._way = way
        self._stream = stream
        self._name = uuid4().hex

    async def begin(self) -> None:
        """Make the consumer; raises Unavailable."""
        way = self._way
        config: dict[str, Any] = {
            "name": self._name,
            "filter_subjects": way.filters,
            "ack_policy": "none",
            "inactive_threshold": _FORGOTTEN * _NANOSECONDS,
            "mem_storage": True,
            "num_replicas": 1,
        }
        if way.since is not None:
            config |= {"deliver_policy": "by_start_time", "opt_start_time": way.since.isoformat()}
        else:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": max(way.next, 1)}
        body = {"stream_name": self._stream, "config": config, "action": "create"}
        await self._link.api(f"CONSUMER.CREATE.{self._stream}.{self._name}", body)

    async def messages(self) -> AsyncGenerator[Msg, None]:
        """Give messages; ends when there are none now, or the consumer is gone; raises Unavailable."""
        subject = f"{API}.CONSUMER.MSG.NEXT.{self._stream}.{self._name}"
        taken = _PULL
        async with self._link.subscribed(subject) as ear:
            while taken or self._follows:
                taken = 0
                await self._link.publish(subject, self._request(), ear.subject)
                while taken < _PULL:
                    message = await self._hear(ear)
                    status = None if message is None else (message.headers or {}).get("Status")
                    if message is None or status in {"409", "503"}:
                        return
                    if status in {"404", "408"}:  # nothing there; no more there, or the pull's time is over
                        break
                    if status != "100":
                        taken += 1
                        yield message

    @property
    def _follows(self) -> bool:
        return self._way.end is None

    async def _hear(self, ear: Ear) -> Msg | None:
        """Give what comes next, None where the consumer gives no sign of life any more."""
        try:
            async with asyncio.timeout(3 * _HEARTBEAT if self._follows else self._link.timeout):
                return await ear.hear()
        except TimeoutError:
            if self._follows:
                return None
            raise Unavailable("NATS did not answer a pull in time") from None

    def _request(self) -> bytes:
        request: dict[str, Any] = {"batch": _PULL}
        if self._follows:
            request |= {"expires": _EXPIRES * _NANOSECONDS, "idle_heartbeat": _HEARTBEAT * _NANOSECONDS}
        else:
            request["no_wait"] = True
        return json.dumps(request).encode()

    async def end(self) -> None:
        """Let the server forget the consumer; it does so by itself, too."""
        with suppress(Unavailable):
            await self._link.publish(f"{API}.CONSUMER.DELETE.{self._stream}.{self._name}")


def _start(start: str, *, newest: int, last: int) -> tuple[int, datetime | None]:
    if start == "first":
        return 1, None
    if start == "last":
        return newest or last + 1, None
    if start == "new":
        return last + 1, None
    if start.isdecimal():
        return int(start), None
    remedy = "Give first, last, new, a stream sequence or an RFC 3339 time with an offset."
    try:
        since = datetime.fromisoformat(start)
    except ValueError as error:
        raise ConfigurationError("start", f"{start!r}: {error}", remedy) from error
    if since.tzinfo is None:
        raise ConfigurationError("start", f"{start!r} has no offset", remedy)
    return 1, since


def _sequence_of(message: Msg) -> int:
    """Read the stream sequence off the reply subject, before whose end a domain and an account may stand."""
    tokens = message.reply.split(".")
    return int(tokens[5] if len(tokens) == _ACK_TOKENS else tokens[7])
