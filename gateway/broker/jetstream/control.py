"""The control store on JetStream: the last message of each subject, in the stream whose records never expire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from gateway.broker.jetstream import records
from gateway.broker.jetstream.connection import Connection
from gateway.broker.jetstream.direct import DirectReader, StreamMessage
from gateway.broker.jetstream.link import Link, PermissionDenied
from gateway.broker.jetstream.topics import TTL, Topics
from gateway.broker.ports import Record
from gateway.broker.watch import watch
from gateway.errors import ActionRequired, Unavailable

_POLL_INTERVAL_S: Final = 0.5
"""Seconds between two questions to the stream's leader whether there is more, where nothing hints at it."""
_HINTED_INTERVAL_S: Final = 0.02
"""The same after a hint; then twice as long each time."""
_BEHIND_S: Final = 0.02
"""Seconds before a server that was behind the leader is asked again."""
_LISTED_S: Final = 60.0
"""Seconds after which the leader is asked at the latest whether all records that were read are there; with fewer
subjects than before at once. With 10,000 records the list is of some 700 kB."""
_FORGOTTEN_FOR: Final = 24 * 3600
"""Seconds for which watches report erased records."""
_PERMITTED: Final = 5.0
"""Seconds more where a person must first grant a permission: each attempt is logged."""


@dataclass(frozen=True, slots=True)
class _StreamState:
    """The stream's state, as its leader returns it."""

    last: int
    """The sequence of its last message, of whatever subject."""
    identity: tuple[str, str | None]
    """When it was created, and which server leads it."""
    ahead: float
    """Seconds since 1970 by the leader's clock, less those of our monotonic one."""
    subjects: int
    """How many subjects have a message."""


@dataclass(slots=True)
class _ReadPosition:
    """How far one read of the stream has come."""

    place: int = 0
    """The sequence of the last record that was read."""
    read_to: int = -1
    """The stream's last sequence when all records up to it were read; -1 before."""
    identity: tuple[str, str | None] | None = None
    held: set[str] = field(default_factory=set)
    """The subjects of the records that were read and not forgotten since."""
    subjects: int = 0
    """How many subjects had a message at most, since the held ones were last looked for."""
    listed_at: float = field(default_factory=time.monotonic)

    def continues(self, state: _StreamState) -> bool:
        """Return whether it is the stream that was read so far, with the same leader, and did not go back in time."""
        is_same = self.identity in {None, state.identity} and state.last >= self.read_to
        self.identity = state.identity
        return is_same

    def on_record(self, subject: str, *, is_forgotten: bool) -> None:
        """Note whether the record of a subject is to be there from now on."""
        (self.held.discard if is_forgotten else self.held.add)(subject)

    def must_list(self, state: _StreamState) -> bool:
        """Return whether it is time to look for the held records: nothing else would show that some were purged."""
        is_fewer = state.subjects < self.subjects
        self.subjects = max(self.subjects, state.subjects)
        return is_fewer or time.monotonic() - self.listed_at > _LISTED_S

    def on_listed(self, state: _StreamState) -> None:
        """Note that all held records are there."""
        self.subjects, self.listed_at = state.subjects, time.monotonic()


class JetStreamControl:
    """The control store of one deployment (`gateway.broker.ports.ControlStore`)."""

    def __init__(self, connection: Connection, topics: Topics) -> None:
        self._connection = connection
        self._topics = topics

    def watch(self) -> AsyncIterator[Record | None]:
        """Yield the last values, then each change; see the contract.

        Ages are by the clock of the stream's leader. After every trouble all is read again, and nothing is given twice.
        """
        return watch(self._read, pause_after=_pause_after)

    async def _read(self) -> AsyncGenerator[tuple[tuple[int, float], Record | None], None]:
        """Yield records with their places and times, and None once all are read that there were.

        It ends where the stream is another one, has another leader, went back in time, or lacks what was read. The
        leader reports how far the stream goes, and what time it is; any server with a copy returns its records.
        """
        link, position, pause = self._connection.link, _ReadPosition(), _POLL_INTERVAL_S
        reader = DirectReader(link, self._topics.control, self._topics.stated)
        async with link.hints(self._topics.stating) as hint:
            while True:
                hint.clear()
                asked = time.monotonic()
                state = await self._stream_state(link)
                if not position.continues(state):
                    return
                is_first = position.read_to < 0
                async with aclosing(self._entries(link, reader, position, state.last)) as entries:
                    async for entry in entries:
                        record = self._record(entry, state.ahead + time.monotonic())
                        position.on_record(entry.subject, is_forgotten=record.revision == 0)
                        yield (entry.sequence, entry.stored_at), record
                if is_first:
                    yield (position.place, 0.0), None
                if position.must_list(state):
                    if position.held - await records.subjects(link, self._topics.control, self._topics.stated):
                        return
                    position.on_listed(state)
                pause = await _wait_for_hint(hint, asked, min(2 * pause, _POLL_INTERVAL_S))

    async def _stream_state(self, link: Link) -> _StreamState:
        info = await link.api(f"STREAM.INFO.{self._topics.control}")
        ahead = datetime.fromisoformat(str(info["ts"])).timestamp() - time.monotonic()
        leader = (info.get("cluster") or {}).get("leader")
        found = info["state"]
        identity = info["created"], leader
        return _StreamState(int(found["last_seq"]), identity, ahead, int(found.get("num_subjects", 0)))

    async def _entries(
        self, link: Link, reader: DirectReader, position: _ReadPosition, last: int
    ) -> AsyncGenerator[StreamMessage, None]:
        """Yield the messages after `position` until all up to `last` are read, and move it on."""
        stream, progress = self._topics.control, time.monotonic()
        while last > position.read_to:
            entries = await reader.batch(position.place + 1)
            for entry in entries:
                position.place, progress = entry.sequence, time.monotonic()
                yield entry
            if await records.following(link, stream, self._topics.stated, position.place + 1) is None:
                position.read_to = max(last, position.place)
            elif not entries:  # the server that answered is behind the leader
                if time.monotonic() - progress > link.timeout:
                    what = f"what follows {position.place} in {stream}"
                    raise Unavailable(f"no server gives {what}, although it is there")
                await asyncio.sleep(_BEHIND_S)

    async def write(self, key: str, value: bytes, expect: int) -> int:
        """Replace the desired state of `key`; see the contract."""
        link, subject = self._connection.link, self._topics.desired(key)
        if expect == 0:
            return await records.write_first(link, self._topics.control, subject, value)
        return await records.write(link, subject, value, expect)

    async def publish_observed(self, observed: Mapping[str, bytes]) -> None:
        """Publish the observed state; see the contract."""
        subjects = {self._topics.observed(key): value for key, value in observed.items()}
        await records.write_all(self._connection.link, subjects)

    async def forget(self, keys: Collection[str]) -> None:
        """Erase the desired and the observed state of `keys`; see the contract."""
        subjects = [subject for key in keys for subject in (self._topics.desired(key), self._topics.observed(key))]
        await records.forget(self._connection.link, subjects, _FORGOTTEN_FOR)

    def _record(self, entry: StreamMessage, now: float) -> Record:
        is_observed = entry.subject.startswith(self._topics.observed(""))
        prefix = self._topics.observed("") if is_observed else self._topics.desired("")
        is_forgotten = not entry.value and TTL in entry.headers
        revision = 0 if is_forgotten else entry.sequence
        age = max(0.0, now - entry.stored_at)
        return Record(entry.subject.removeprefix(prefix), entry.value, revision, is_observed, age)


def _pause_after(error: Unavailable) -> float:
    return _PERMITTED if isinstance(error, (PermissionDenied, ActionRequired)) else 0.0


async def _wait_for_hint(hint: asyncio.Event, asked: float, pause: float) -> float:
    """Wait `pause` seconds, or after a hint until a moment after `asked`; return the last wait."""
    with suppress(TimeoutError):
        async with asyncio.timeout(pause):
            await hint.wait()
    if not hint.is_set():
        return pause
    await asyncio.sleep(asked + _HINTED_INTERVAL_S - time.monotonic())  # what is published is stored in a moment
    return _HINTED_INTERVAL_S / 2
