"""How the shards of a replica work."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.broker.ports import Registry
from gateway.replica.provisioning import Provisioning
from gateway.replica.replay.job import ReplaySettings
from gateway.replica.sink.commit_slots import CommitSlots
from gateway.session.types import SessionLimits
from gateway.telemetry.counters import Counters
from gateway.telemetry.tracer import NOOP_TRACER, Tracer


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """What all shards of a process have in common."""

    start: str | int
    session: SessionLimits
    registry: Registry
    provisioning: Provisioning
    """What is wrong with the broker."""
    commits: CommitSlots
    """Bounds the commits in flight in this process."""
    replays: ReplaySettings
    counters: Counters
    """What is counted of all shards of this process together."""
    account_in_key: bool = False
    """Whether the keys of events and dead letters begin with the account."""
    tracer: Tracer = NOOP_TRACER
