"""Ownership on JetStream: members and leases are records in a stream whose messages live 3 s.

The stream is kept on disk although all of it may be lost: one in memory is gone, its configuration too, after a restart
of a single server (measured). After an outage owners recreate their leases before any other member may take them, and
read them first: sequences may have restarted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from gateway.broker import leases
from gateway.broker.foreign_records import parsed_object
from gateway.broker.jetstream import records
from gateway.broker.jetstream.connect_errors import permissions_needed
from gateway.broker.jetstream.connection import Connection
from gateway.broker.jetstream.stream_rules import StreamRules
from gateway.broker.jetstream.topics import Topics
from gateway.broker.ports import Membership
from gateway.errors import ConfigurationError

VERSION: Final = 1
_SECOND: Final = 1_000_000_000
"""In the nanoseconds of JetStream's configuration."""
_LARGEST: Final = 1024
"""Bytes of the largest record: a token, and the name of its member."""
_BARRED: Final = ("deny_delete", "discard_new_per_subject", "subject_delete_marker_ttl")


class JetStreamOwnership:
    """The ownership of one deployment (`gateway.broker.ports.Ownership`)."""

    def __init__(self, connection: Connection, topics: Topics, timing: leases.LeaseTiming | None = None) -> None:
        self._connection = connection
        self._topics = topics
        self._timing = timing or leases.LeaseTiming()

    async def prepare(self, *, replicas: int, create: bool) -> None:
        """Create the stream if there is none, and refuse one that would break a promise.

        Raises ConfigurationError, Unavailable.
        """
        age = round(self._timing.lease * _SECOND)
        wanted: dict[str, Any] = {
            "name": self._topics.ownership,
            "description": "Members of the gateway and their leases of shards; all of it may be lost at any time",
            "subjects": [self._topics.owning("member.*"), self._topics.owning("lease.*")],
            "retention": "limits",
            "storage": "file",
            "num_replicas": replicas,
            "max_age": age,
            "max_msgs_per_subject": 1,
            "discard": "old",
        }
        with permissions_needed():
            config = await records.made(self._connection.link, wanted, create=create)
        rules = StreamRules("leases", wanted["subjects"], replicas, _LARGEST, also_without=_BARRED, may_be_lost=True)
        if wrong := [*self._wrong(config, age), *rules.broken_by(config)]:
            remedy = "Delete it; the gateway makes it."
            raise ConfigurationError(f"stream {self._topics.ownership}", "; ".join(wrong), remedy)
        link = self._connection.link
        calls = [f"{link.api_prefix}.STREAM.MSG.{call}.{self._topics.ownership}" for call in ("GET", "DELETE")]
        refusals = await link.refused([self._topics.owning("member.a"), self._topics.owning("lease.0"), *calls])
        if refusals:  # later the only sign would be that it serves no shard
            remedy = "Give the user the permissions that docs/operate/nats.md lists."
            raise ConfigurationError("broker", "; ".join(refusals), remedy)

    def _wrong(self, config: dict[str, Any], age: int) -> Iterator[str]:
        if config.get("max_age") != age or config.get("max_msgs_per_subject") != 1:
            yield f"max_age is not {self._timing.lease:g} s, or max_msgs_per_subject not 1"
        for limit in ("max_bytes", "max_msgs"):
            if int(config.get(limit, -1)) > 0:
                yield f"{limit} is {config[limit]}: leases would end, or find no room, while their owners live"

    def join(self, member: str, shards: int) -> AbstractAsyncContextManager[Membership]:
        """Take part; see the contract."""
        return leases.join(_Store(self._connection, self._topics, member), shards, self._timing)


class _Store:
    """The records, as `gateway.broker.leases.LeaseStore` has them."""

    def __init__(self, connection: Connection, topics: Topics, member: str) -> None:
        self._connection = connection
        self._topics = topics
        self._member = member

    @property
    def generation(self) -> object:
        return self._connection.link

    async def names(self) -> frozenset[str]:
        pattern = self._topics.owning("*.*")
        subjects = await records.subjects(self._connection.link, self._topics.ownership, pattern)
        return frozenset(".".join(subject.split(".")[-2:]) for subject in subjects)

    async def read(self, name: str) -> leases.Lease | None:
        found = await records.last(self._connection.link, self._topics.ownership, self._topics.owning(name))
        if found is None:
            return None
        # What is no lease of a gateway, but has its name, is some other's until it ends or is erased.
        return leases.Lease(found.sequence, str(parsed_object(found.value).get("token", "")))

    async def write(self, name: str, token: str, expect: int | None) -> int:
        value = json.dumps({"version": VERSION, "member": self._member, "token": token}).encode()
        return await records.write(self._connection.link, self._topics.owning(name), value, expect)

    async def erase(self, name: str, revision: int) -> None:  # noqa: ARG002 - the sequence names it
        await records.erase(self._connection.link, self._topics.ownership, revision)
