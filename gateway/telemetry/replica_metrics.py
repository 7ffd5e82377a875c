"""The metrics of a replica and of its accounts: plain records, independent of how they are exported."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gateway.telemetry.counters import Counters


@dataclass(frozen=True, slots=True)
class AccountMetrics:
    """What is counted of one account, since the process began."""

    account: str
    state: str
    is_awaited: bool
    """Whether its log is to be level: not so of a paused, unauthorized or diverged account, which its state shows."""
    lag: int
    """Sequences that the hub has and the log has not."""
    lag_seconds: float
    """For how long that has been so."""
    last_received_at: float | None
    """When the hub's last record was received, in Unix time; None for never."""
    is_connected: bool
    verified: int
    disconnects: Mapping[str, int]
    """Connections that ended, by reason."""
    connect_failures: Mapping[str, int]
    """Attempts to connect that failed, by reason."""
    outcomes: Mapping[str, int]
    """Events by what became of them."""


@dataclass(frozen=True, slots=True)
class ReplicaMetrics:
    """What is counted of a replica and of its accounts."""

    counters: Counters
    accounts: Collection[AccountMetrics]
    orphaned: Mapping[str, str]
    """Orphaned accounts, and the state that has the reason."""
    states: Collection[str]
    """That an account may have, those included."""
    disconnect_reasons: Collection[str]
    """For which a connection may end; there may be others."""
    connect_failure_reasons: Collection[str]
    """For which an attempt to connect may fail; there may be others."""
    kinds: Collection[str]
    """Of events."""
    shards: int
    owned: int
    replays: Mapping[str, int] | None
    """Replays by state; None where that is not known yet."""
    endings: Collection[str]
    """States in which a replay ends."""
    buffer: int
    buffer_limit: int
    action_required: bool
    """Whether only a person can fix what is wrong with the broker."""
    window: int
    """Bytes that may be committed at once."""
    in_flight: int
    """Bytes that are."""
    waiters: int
    """Pages of the history that wait for room in the memory."""
    waits: float
    """Seconds for which the first of them does."""
