"""The control store on JetStream: the last message of each subject, in the stream that never forgets."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Final

from nats.aio.msg import Msg

from gateway.broker.heard import Heard
from gateway.broker.jetstream import records
from gateway.broker.jetstream.connect import Connection
from gateway.broker.jetstream.link import Denied
from gateway.broker.jetstream.pull import Pull, sequence_of, stored_at
from gateway.broker.jetstream.topics import TTL, Topics
from gateway.broker.ports import Record
from gateway.errors import NeedsPerson, Unavailable

log = logging.getLogger(__name__)

_AGAIN: Final = 0.25
"""Seconds before a watch that failed goes on."""
_FORGOTTEN_FOR: Final = 24 * 3600
"""Seconds for which watches tell what was forgotten."""
_PERMITTED: Final = 5.0
"""Seconds more where somebody must first give a permission: the log tells of each attempt."""


class JetStreamControl:
    """The control store of one deployment (`gateway.broker.ports.ControlStore`)."""

    def __init__(self, connection: Connection, topics: Topics) -> None:
        self._connection = connection
        self._topics = topics

    async def watch(self) -> AsyncIterator[Record | None]:
        """Return the last values, then each change; see the contract.

        Ages are by the clock of the stream's leader, which says what time it is whenever a pull begins. After every
        trouble all is read again, and nothing is given twice.
        """
        heard: Heard[tuple[int, float]] = Heard()
        is_filled, trouble = False, ""
        while True:
            heard.begin()
            try:
                async with aclosing(self._pulled()) as pulled:
                    async for place, record in pulled:
                        trouble = ""
                        if record is not None and heard.is_new(record, place):
                            yield record
                        if record is not None:
                            continue
                        for gone in heard.gone():
                            yield gone
                        if not is_filled:
                            is_filled = True
                            yield None
            except Unavailable as error:
                if str(error) != trouble:
                    level = logging.ERROR if isinstance(error, NeedsPerson) else logging.WARNING
                    log.log(level, "what operators want cannot be read now: %s", error)
                trouble = str(error)
                if isinstance(error, (Denied, NeedsPerson)):
                    await asyncio.sleep(_PERMITTED)
            await asyncio.sleep(_AGAIN)

    async def _pulled(self) -> AsyncGenerator[tuple[tuple[int, float], Record | None], None]:
        """Yield records with their places and times, and None once all are read that there were; ends some time."""
        link = self._connection.link
        pull = Pull(link, self._topics.control, [self._topics.stated], follows=True)
        await pull.begin(1)
        try:
            # Asked after the consumer was made, which dies with its stream.
            info = await link.api(f"STREAM.INFO.{self._topics.control}")
            ahead = datetime.fromisoformat(str(info["ts"])).timestamp() - time.monotonic()
            newest = await records.last(link, self._topics.control, self._topics.stated)
            end = 0 if newest is None else newest.sequence
            if end == 0:
                yield (0, 0.0), None
            async with aclosing(pull.messages()) as messages:
                async for message in messages:
                    place, is_last = sequence_of(message), False
                    if end and place >= end:
                        end, is_last = 0, True
                    yield (place, stored_at(message)), self._record(message, ahead + time.monotonic())
                    if is_last:
                        yield (place, 0.0), None
        finally:
            await pull.end()

    async def write(self, key: str, value: bytes, expect: int) -> int:
        """Replace what is wanted for `key`; see the contract."""
        link, subject = self._connection.link, self._topics.desired(key)
        if expect == 0:
            return await records.write_first(link, self._topics.control, subject, value)
        return await records.write(link, subject, value, expect)

    async def report(self, observed: Mapping[str, bytes]) -> None:
        """Say what is so; see the contract."""
        subjects = {self._topics.observed(key): value for key, value in observed.items()}
        await records.write_all(self._connection.link, subjects)

    async def forget(self, keys: Collection[str]) -> None:
        """Erase what is wanted and what is observed of `keys`; see the contract."""
        subjects = [subject for key in keys for subject in (self._topics.desired(key), self._topics.observed(key))]
        await records.forget(self._connection.link, subjects, _FORGOTTEN_FOR)

    def _record(self, message: Msg, now: float) -> Record:
        is_observed = message.subject.startswith(self._topics.observed(""))
        prefix = self._topics.observed("") if is_observed else self._topics.desired("")
        age = max(0.0, now - stored_at(message))
        is_forgotten = not message.data and TTL in (message.headers or {})
        revision = 0 if is_forgotten else sequence_of(message)
        return Record(message.subject.removeprefix(prefix), message.data, revision, is_observed, age)
