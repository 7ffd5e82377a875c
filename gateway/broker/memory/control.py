"""The control store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field, replace

from gateway.broker.ports import Record
from gateway.errors import Conflict


@dataclass(slots=True)
class MemoryControl:
    """The control store's contract in memory (`gateway.broker.ports.ControlStore`)."""

    records: dict[tuple[bool, str], tuple[Record, float]] = field(default_factory=dict)
    """By space and key: the record, and when it was written."""
    _forgotten: dict[tuple[bool, str], int] = field(default_factory=dict)
    """By space and key, of what is no more: the revision of its end."""
    _revision: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def watch(self) -> AsyncIterator[Record | None]:
        """Yield the last values; see the contract."""
        given, is_filled = 0, False
        while True:
            changed = self._changed
            for revision, record in self._changes(since=given):
                if revision > given:
                    given = revision
                    yield record
            if not is_filled:
                is_filled = True
                yield None
            if changed is self._changed:
                await changed.wait()

    async def write(self, key: str, value: bytes, expect: int) -> int:
        """Replace the desired state of `key`; see the contract."""
        await asyncio.sleep(0)
        current = self.records.get((False, key))
        if expect != (current[0].revision if current else 0):
            raise Conflict(f"{key} is at revision {current[0].revision if current else 0}, not {expect}")
        return self._write(key, value, is_observed=False)

    async def publish_observed(self, observed: Mapping[str, bytes]) -> None:
        """Publish the observed state; see the contract."""
        await asyncio.sleep(0)
        for key, value in observed.items():
            self._write(key, value, is_observed=True)

    async def forget(self, keys: Collection[str]) -> None:
        """Erase the desired and the observed state of `keys`; see the contract."""
        await asyncio.sleep(0)
        for which in [(is_observed, key) for key in keys for is_observed in (False, True)]:
            if self.records.pop(which, None) is not None:
                self._forgotten[which] = self._next()

    def _changes(self, since: int) -> list[tuple[int, Record]]:
        """Return the last record of every key that was written after the revision `since`, in that order."""
        now = asyncio.get_running_loop().time()
        changed = [
            (record.revision, replace(record, age=now - written))
            for record, written in self.records.values()
            if record.revision > since
        ]
        ended = [
            (end, Record(key, b"", 0, space, age=0.0)) for (space, key), end in self._forgotten.items() if end > since
        ]
        return sorted([*changed, *ended], key=lambda one: one[0])

    def _write(self, key: str, value: bytes, *, is_observed: bool) -> int:
        record = Record(key, value, self._next(), is_observed, age=0.0)
        self._forgotten.pop((is_observed, key), None)
        self.records[is_observed, key] = record, asyncio.get_running_loop().time()
        return record.revision

    def _next(self) -> int:
        """Return the next revision, and wake the watches."""
        self._revision += 1
        self._changed.set()
        self._changed = asyncio.Event()
        return self._revision
