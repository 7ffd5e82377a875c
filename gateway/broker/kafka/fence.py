"""The claim of a shard on Kafka, and the other records of its partition of the checkpoint topic."""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from aiokafka.structs import TopicPartition

from gateway.broker.foreign_records import name_of, parsed_object
from gateway.broker.kafka import cluster
from gateway.broker.kafka.connection import Connection
from gateway.broker.kafka.errors import permissions_may_return
from gateway.broker.kafka.fetch import read_all
from gateway.broker.kafka.topics import CLAIM
from gateway.errors import BrokerError, Fenced, OutcomeUnknown

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Claim:
    """What the newest writer of a shard committed before anything else."""

    owner: str
    token: str
    """Distinguishes this claim from every other one."""

    def encode(self) -> bytes:
        """Return the record's value."""
        return json.dumps({"version": VERSION, "owner": self.owner, "token": self.token}).encode()


@dataclass(frozen=True, slots=True)
class ShardRecords:
    """The records of a shard's partition."""

    checkpoints: dict[str, bytes]
    newest: Claim | None
    claimed_at: int
    """The place of the newest claim; 0 where there is none."""
    places: dict[str, int]
    """Of the checkpoints."""


async def read_shard(connection: Connection, own: TopicPartition, start: int) -> ShardRecords:
    """Read a shard's partition to the end that it has now."""
    found: dict[str, bytes] = {}
    at: dict[str, int] = {}
    newest: bytes | None = None
    claimed_at = 0
    with permissions_may_return():
        places = await cluster.places(connection, [own])
        async with aclosing(read_all(connection, {own: start}, {own: places[own] or 0})) as records:  # type: ignore[type-var]
            async for record in records:
                if record.key == CLAIM:
                    newest, claimed_at = record.value, int(record.offset)
                elif (name := name_of(record.key)) is None:
                    continue  # not of a gateway
                elif record.value is None:
                    found.pop(name, None)
                else:
                    found[name], at[name] = record.value, int(record.offset)
    claim = None if newest is None else _claim_of(newest)
    return ShardRecords(found, claim, claimed_at, {name: at[name] for name in found})


def superseded(shard: int, newest: Claim | None) -> BrokerError:
    """Return the error that names the owner of the shard, or that no claim shows it any more."""
    if newest is None:
        return OutcomeUnknown(f"the claim of shard {shard} is gone from the checkpoint topic: it was made anew")
    return Fenced(f"shard {shard} was claimed by {newest.owner}")


def _claim_of(value: bytes) -> Claim:
    claim = parsed_object(value)
    return Claim(str(claim.get("owner", "somebody whose record is no claim of a gateway")), str(claim.get("token", "")))
