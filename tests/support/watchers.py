"""Watchers of a control store, as a test sees them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from uuid import uuid4

from gateway.broker.ports import ControlStore, Record
from gateway.errors import Conflict
from tests.support.ownership_suite import until


@dataclass
class View:
    """What one watcher knows."""

    desired: dict[str, Record] = field(default_factory=dict)
    observed: dict[str, Record] = field(default_factory=dict)
    seen: list[Record] = field(default_factory=list)
    fills: list[int] = field(default_factory=list)
    """How many were seen when everything was said to be given."""

    async def follow(self, store: ControlStore) -> None:
        """Take in whatever comes, for ever."""
        async for record in store.watch():
            if record is None:
                self.fills.append(len(self.seen))
                continue
            self.seen.append(record)
            (self.observed if record.is_observed else self.desired)[record.key] = record

    async def reaches(self, key: str, revision: int) -> None:
        """Wait until the key has that revision, or a later one."""
        await until(lambda: key in self.desired and self.desired[key].revision >= revision, f"{key} is seen")

    def values(self) -> dict[str, bytes]:
        return {key: record.value for key, record in self.desired.items()}


@asynccontextmanager
async def watching(store: ControlStore) -> AsyncIterator[View]:
    view = View()
    following = asyncio.create_task(view.follow(store))
    try:
        yield view
    finally:
        following.cancel()
        await asyncio.wait({following})


async def steer(control: ControlStore, *, timeout_s: float = 10.0) -> None:
    """Say what is so, and change what is wanted, whatever it was."""
    token = uuid4().hex.encode()
    await control.publish_observed({"demo": token})
    revision, observed, written = 0, b"", 0
    async with asyncio.timeout(timeout_s), aclosing(control.watch()) as records:  # type: ignore[type-var]
        async for record in records:
            if record is None:
                continue
            if record.is_observed:
                observed = record.value
            else:
                revision = record.revision
            if observed == token and not written:
                with suppress(Conflict):
                    written = await control.write("demo", token, revision)
            if written and revision == written:
                return
