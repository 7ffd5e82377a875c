"""The records of the control store that one process has received: desired states and reports, each with its age.

The store keeps the last report of each key alone, whichever process wrote it. A report of a former owner that arrives
late, as from a process that was frozen, is discarded here, and the owner repeats its own.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NamedTuple, TypeVar

from gateway.broker.ports import ControlStore, Record
from gateway.state import (
    ACCOUNT,
    REPLAY,
    SHARD,
    Desired,
    Observed,
    Phase,
    RecordUnreadable,
    Replay,
    ReplayState,
    ShardState,
    decode_record,
    epoch_of,
)
from gateway.telemetry.logs import get_logger

STALE_AFTER_S: Final = 90.0
"""Seconds after which a report is stale: owners repeat theirs each 60 s at the latest."""

_Value = TypeVar("_Value", Desired, Observed, ShardState, Replay, ReplayState)


@dataclass(frozen=True, slots=True)
class Versioned(Generic[_Value]):
    """A record of the control store."""

    value: _Value | None
    """None where this release cannot read it."""
    revision: int
    written: float
    """When it was written, by this process's monotonic clock."""


class LastWriter(NamedTuple):
    """The writer of the last report."""

    revision: int = 0
    """0 where there is none."""
    epoch: int = 0


_NO_WRITER: Final = LastWriter()


@dataclass(frozen=True, slots=True)
class VersionedDesired:
    """The desired state of an account."""

    desired: Desired | None = field(default_factory=Desired)
    """None where this release cannot read it: then everything stays as it is."""
    revision: int = 0
    """0 where nothing was ever wanted."""


class View:
    """The control store's last word on everything."""

    def __init__(
        self,
        changed: Callable[[str], None],
        replay_changed: Callable[[str], None] | None = None,
        passed_over: Callable[[str], None] | None = None,
    ) -> None:
        """`changed` is called with an account's name whenever its desired state may have changed.

        `replay_changed` likewise with the id of a replay; `passed_over` with the key of a report that does not hold.
        """
        self.desired: dict[str, Versioned[Desired]] = {}
        """By account."""
        self.observed: dict[str, Versioned[Observed]] = {}
        """By account."""
        self.shards: dict[str, Versioned[ShardState]] = {}
        """By the shard's number, in decimal."""
        self.replays: dict[str, Versioned[Replay]] = {}
        """By id: as they were requested."""
        self.replay_states: dict[str, Versioned[ReplayState]] = {}
        """By id: their observed states."""
        self.has_synced = asyncio.Event()
        """Set once everything that was there at the beginning is received."""
        self._spaces: dict[tuple[str, bool], tuple[dict[str, Any], Any, Callable[[str], None]]] = {
            (ACCOUNT, False): (self.desired, Desired, changed),
            (ACCOUNT, True): (self.observed, Observed, _ignore),
            (REPLAY, False): (self.replays, Replay, replay_changed or _ignore),
            (REPLAY, True): (self.replay_states, ReplayState, _ignore),
            (SHARD, True): (self.shards, ShardState, _ignore),
        }
        self._on_report_rejected = passed_over or _ignore
        self._last_received_at = -math.inf
        self._passed_over: dict[str, LastWriter] = {}  # by key: the last report, where it is not the one that holds
        self._log = get_logger()

    def desired_of(self, account: str) -> VersionedDesired:
        """Return the desired state of `account`: without a record, the default."""
        sighting = self.desired.get(account)
        return VersionedDesired() if sighting is None else VersionedDesired(sighting.value, sighting.revision)

    def phase(self, replay: str) -> Phase:
        """Return how far a replay has come, by its id."""
        state = self.replay_states.get(replay)
        return Phase.PENDING if state is None or state.value is None else state.value.phase

    def epoch_of_shard(self, number: int) -> int:
        """Return the epoch that the owner of a shard named last; 0 for none."""
        sighting = self.shards.get(str(number))
        return 0 if sighting is None else epoch_of(sighting.value)

    def last_writer(self, key: str) -> LastWriter:
        """Return who wrote the report of `key` in the store, as far as it is received, also if it does not hold."""
        passed_over = self._passed_over.get(key)
        if passed_over is not None:
            return passed_over
        kind, dot, name = key.partition(".")
        sighting = self._spaces[kind + dot, True][0].get(name)
        return _NO_WRITER if sighting is None else LastWriter(sighting.revision, epoch_of(sighting.value))

    def age(self, sighting: Versioned[_Value]) -> float:
        """Return the seconds since it was written."""
        return asyncio.get_running_loop().time() - sighting.written

    @property
    def silence(self) -> float:
        """The seconds since the store was last received; in a deployment that works, some owner writes each 5 s."""
        return asyncio.get_running_loop().time() - self._last_received_at

    @property
    def is_cut_off(self) -> bool:
        """Whether nothing was received for so long that no record need be true any more."""
        return self.silence > STALE_AFTER_S

    def is_abandoned(self, sighting: Versioned[_Value]) -> bool:
        """Return whether a report had not been repeated for long when the store was last received."""
        return self._last_received_at - sighting.written > STALE_AFTER_S

    async def follow(self, store: ControlStore) -> None:
        """Receive the store's records, without end."""
        async for record in store.watch():
            self._last_received_at = asyncio.get_running_loop().time()
            if record is None:
                self.has_synced.set()
            else:
                try:
                    self._apply(record)
                except Exception:  # noqa: BLE001 - what follows from one record must not keep the others from being heard
                    self._log.exception("failed to apply a record of the control store", key=record.key)

    def _apply(self, record: Record) -> None:
        """Apply a record, or drop an erased one: then the desired state is the default again."""
        kind, dot, name = record.key.partition(".")
        space = self._spaces.get((kind + dot, record.is_observed))
        if space is None:
            return
        sightings, type_, changed = space
        if record.is_observed:
            self._passed_over.pop(record.key, None)
        if record.revision:
            sighting = self._decode(type_, record)
            if record.is_observed and not self._holds(sightings.get(name), sighting):
                self._passed_over[record.key] = LastWriter(sighting.revision, epoch_of(sighting.value))
                self._on_report_rejected(record.key)
                return
            sightings[name] = sighting
        elif sightings.pop(name, None) is None:
            return
        changed(name)

    def _holds(self, before: Versioned[Any] | None, now: Versioned[Any]) -> bool:
        """Return whether a report replaces the one before: not one of a former owner, nor one that resumes what ended.

        A report that was not repeated for long does not prevent another: its writer is gone, maybe for an older
        release.
        """
        if before is None or before.value is None or now.value is None:  # a later release decides that
            return True
        if _is_final(before.value) and not _is_final(now.value):
            return False
        return epoch_of(now.value) >= epoch_of(before.value) or now.written - before.written > STALE_AFTER_S

    def _decode(self, type_: type[_Value], record: Record) -> Versioned[_Value]:
        written = asyncio.get_running_loop().time() - record.age
        try:
            return Versioned(decode_record(type_, record.value), record.revision, written)
        except RecordUnreadable as error:
            self._log.error("unreadable record in the control store", key=record.key, error=str(error))
            return Versioned(None, record.revision, written)


def _is_final(observed: Observed | ShardState | ReplayState) -> bool:
    return isinstance(observed, ReplayState) and observed.phase.is_final


def _ignore(_: str) -> None:
    """Do nothing."""
