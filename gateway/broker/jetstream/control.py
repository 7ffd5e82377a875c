"""The control store on JetStream: the last message of each subject, in the stream that never forgets."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import aclosing, suppress
from datetime import datetime
from typing import Final

from gateway.broker.jetstream import records
from gateway.broker.jetstream.connection import Connection
from gateway.broker.jetstream.direct import DirectReader, StreamMessage
from gateway.broker.jetstream.link import PermissionDenied
from gateway.broker.jetstream.topics import TTL, Topics
from gateway.broker.ports import Record
from gateway.broker.watch_position import WatchPosition
from gateway.errors import ActionRequired, Unavailable

log = logging.getLogger(__name__)

_RETRY_DELAY_S: Final = 0.25
"""Seconds before a watch that failed goes on."""
_POLL_INTERVAL_S: Final = 0.5
"""Seconds between two questions to the stream's leader whether there is more, where nothing hints at it."""
_HINTED_INTERVAL_S: Final = 0.02
"""The same after a hint; then twice as long each time."""
_BEHIND_S: Final = 0.02
"""Seconds before a server that was behind the leader is asked again."""
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

        Ages are by the clock of the stream's leader. After every trouble all is read again, and nothing is given twice.
        """
        heard: WatchPosition[tuple[int, float]] = WatchPosition()
        is_filled, trouble = False, ""
        while True:
            heard.begin()
            try:
                async with aclosing(self._read()) as read:
                    async for place, record in read:
                        trouble = ""
                        if record is not None and heard.is_new(record, place):
                            yield record
                        if record is not None:
                            continue
                        for gone in heard.on_gone():
                            yield gone
                        if not is_filled:
                            is_filled = True
                            yield None
            except Unavailable as error:
                if str(error) != trouble:
                    level = logging.ERROR if isinstance(error, ActionRequired) else logging.WARNING
                    log.log(level, "desired state unavailable: %s", error)
                trouble = str(error)
                if isinstance(error, (PermissionDenied, ActionRequired)):
                    await asyncio.sleep(_PERMITTED)
            await asyncio.sleep(_RETRY_DELAY_S)

    async def _read(self) -> AsyncGenerator[tuple[tuple[int, float], Record | None], None]:
        """Yield records with their places and times, and None once all are read that there were.

        It ends where the stream is another one, has another leader, or went back in time. The leader says how far the
        stream goes, and what time it is; any server with a copy gives what is in it.
        """
        link, stream = self._connection.link, self._topics.control
        reader = DirectReader(link, stream, self._topics.stated)
        place, read_to, known, pause = 0, -1, None, _POLL_INTERVAL_S
        async with link.hints(self._topics.stating) as hint:
            while True:
                hint.clear()
                asked = time.monotonic()
                info = await link.api(f"STREAM.INFO.{stream}")
                ahead = datetime.fromisoformat(str(info["ts"])).timestamp() - time.monotonic()
                last = int(info["state"]["last_seq"])
                now = info["created"], (info.get("cluster") or {}).get("leader")
                if known not in {None, now} or last < read_to:
                    return
                known, is_first = now, read_to < 0
                progress = time.monotonic()
                while last > read_to:
                    entries = await reader.batch(place + 1)
                    for entry in entries:
                        place, progress = entry.sequence, time.monotonic()
                        yield (place, entry.stored_at), self._record(entry, ahead + progress)
                    if await records.following(link, stream, self._topics.stated, place + 1) is None:
                        read_to = max(last, place)
                    elif not entries:  # the server that answered is behind the leader
                        if time.monotonic() - progress > link.timeout:
                            raise Unavailable(f"no server gives what follows {place} in {stream}, although it is there")
                        await asyncio.sleep(_BEHIND_S)
                if is_first:
                    yield (place, 0.0), None
                pause = min(2 * pause, _POLL_INTERVAL_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await hint.wait()
                if hint.is_set():  # what is published is stored in a moment
                    pause = _HINTED_INTERVAL_S / 2
                    await asyncio.sleep(asked + _HINTED_INTERVAL_S - time.monotonic())

    async def write(self, key: str, value: bytes, expect: int) -> int:
        """Replace what is wanted for `key`; see the contract."""
        link, subject = self._connection.link, self._topics.desired(key)
        if expect == 0:
            return await records.write_first(link, self._topics.control, subject, value)
        return await records.write(link, subject, value, expect)

    async def publish_observed(self, observed: Mapping[str, bytes]) -> None:
        """Say what is so; see the contract."""
        subjects = {self._topics.observed(key): value for key, value in observed.items()}
        await records.write_all(self._connection.link, subjects)

    async def forget(self, keys: Collection[str]) -> None:
        """Erase what is wanted and what is observed of `keys`; see the contract."""
        subjects = [subject for key in keys for subject in (self._topics.desired(key), self._topics.observed(key))]
        await records.forget(self._connection.link, subjects, _FORGOTTEN_FOR)

    def _record(self, entry: StreamMessage, now: float) -> Record:
        is_observed = entry.subject.startswith(self._topics.observed(""))
        prefix = self._topics.observed("") if is_observed else self._topics.desired("")
        is_forgotten = not entry.value and TTL in entry.headers
        revision = 0 if is_forgotten else entry.sequence
        age = max(0.0, now - entry.stored_at)
        return Record(entry.subject.removeprefix(prefix), entry.value, revision, is_observed, age)
