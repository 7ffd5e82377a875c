"""The records that operators see: the desired and the observed state of accounts, shards and replays.

Desired state is written through any replica and kept by the broker; observed state is published by the owner of the
account's shard. Both carry a format version: this release reads and writes version 1, passes over members that it does
not know, and refuses a later version with a clear error, so that it never overwrites one.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeVar

import msgspec

from gateway.errors import GatewayError

VERSION: Final = 1

ACCOUNT: Final = "account."
"""What the keys of records begin with that are about an account; its name follows."""
SHARD: Final = "shard."
"""What the keys of observed records begin with that are about a shard; its number follows."""
REPLAY: Final = "replay."
"""What the keys of records begin with that are about a replay; its id follows."""


class RecordUnreadable(GatewayError):
    """A record was written by a later release, or is none."""


class Written(msgspec.Struct, frozen=True):
    """The author of a record through the API; a record without one was written by another client."""

    by: str
    """The name of the token."""
    at: str
    """RFC 3339, by the clock of the replica that was asked."""
    request_id: str
    """That replica's: its log and the audit topic have it, too."""


class TargetState(Enum):
    """Whether an operator wants an account to run. The owner connects to the hub, or disconnects, to apply it."""

    RUNNING = "running"
    PAUSED = "paused"


class IdempotencyRecord(msgspec.Struct, frozen=True):
    """A request that was carried out, and that must not be again if it is repeated."""

    key: str
    """A digest of the caller and its Idempotency-Key."""
    request: str
    """What was requested."""
    result: int
    """The number in the answer."""


class Reset(msgspec.Struct, frozen=True):
    """The request that an account begins again, in an incarnation of its own."""

    incarnation: int
    """Of the checkpoint that begins it: where that is reached, it is done."""
    verified: int
    """The sequence after which it begins."""


MAX_IDEMPOTENCY_RECORDS: Final = 16
"""Requests that an account's record remembers: the last ones."""


class Desired(msgspec.Struct, frozen=True):
    """Desired state of an account, as operators set it. Fields added after version 1 are omitted while unset."""

    strategies: tuple[int, ...] | None = None
    """The strategies to publish, in rising order; null for all, also those that are made later."""
    state: TargetState = TargetState.RUNNING
    reconnects: int = 0
    """Rises by one with each request to reconnect to the hub."""
    version: int = VERSION
    idempotency: tuple[IdempotencyRecord, ...] | msgspec.UnsetType = msgspec.UNSET
    """The last requests with an Idempotency-Key, oldest first: written together with the change that they made."""
    reset: Reset | msgspec.UnsetType = msgspec.UNSET
    """Carried out while the account is paused."""
    forget: bool | msgspec.UnsetType = msgspec.UNSET
    """Whether to delete the checkpoint, while the account is paused or has no key."""
    written: Written | msgspec.UnsetType = msgspec.UNSET
    """The author of the last change."""


class CheckpointPosition(msgspec.Struct, frozen=True):
    """The position of an account's checkpoint."""

    verified: int
    """Everything up to this sequence is settled and final."""
    incarnation: int
    """How often operators declared the hub's history to be another, and one; 0 where it cannot be read."""


class Observed(msgspec.Struct, frozen=True):
    """Observed state of an account, as reported by its owner."""

    owner: str
    """The replica, for people."""
    state: str
    """What the account is doing: `live`, `catching_up`, `offline`, `paused`, `unauthorized`, `diverged`, `fenced`. Or
    `key_missing`: it has a checkpoint, and the owner of its shard has no key; `orphaned`: a replica that does not own
    its shard has a key, and the owner has none."""
    since: str
    """Since when it is so: RFC 3339, by the owner's clock."""
    settled: int | msgspec.UnsetType = msgspec.UNSET
    """The highest sequence that is published or about to be; left out where that is not known."""
    latest: int | msgspec.UnsetType = msgspec.UNSET
    """The hub's latest sequence as last returned; left out where nobody who has the key serves the account."""
    published: int = 0
    """Messages committed since the owner began."""
    connects: int = 0
    """Connections to the hub since the owner began."""
    last_error: str | None = None
    """The last error, until the account is live again."""
    strategies: tuple[int, ...] | None = None
    """The subscription that holds, or is about to; null for all."""
    failed_strategies: tuple[int, ...] = ()
    """Those that the hub did not give when it was asked last; it is asked again."""
    applied: int = 0
    """The revision of the desired state that is applied; 0 where none was ever set."""
    version: int = VERSION
    lag_seconds: float | msgspec.UnsetType = msgspec.UNSET
    """For how long the log has been behind the hub; left out where it is not."""
    checkpoint: CheckpointPosition | msgspec.UnsetType = msgspec.UNSET
    """Left out where there is none."""
    enum_forms: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    """How the hub was seen to write enums, `names` or `numbers`; left out where none was seen."""
    unnamed_enums: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    """Enums with a number that has no name; left out where there is none."""
    epoch: int | msgspec.UnsetType = msgspec.UNSET
    """Of the reporting owner of the shard; see `epoch_of`."""


class ShardState(msgspec.Struct, frozen=True):
    """The owner of a shard."""

    owner: str
    """The replica, for people."""
    accounts: int
    """Accounts of the shard that the owner has keys of."""
    version: int = VERSION
    epoch: int | msgspec.UnsetType = msgspec.UNSET
    """Of this owner; see `epoch_of`."""


class Destination(Enum):
    """Where a replay publishes."""

    TOPICS = "topics"
    """On the topics of the events themselves."""
    REPLAY = "replay"
    """On a topic of its own, whatever the kind."""


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """A range of an account's history that is to be published again."""

    account: str
    since: int | None = None
    """The sequence after which it begins; null for the oldest that the hub has."""
    until: int
    """The last sequence."""
    begin: str | None = None
    """Only events of this EventTime or later, canonical; null for any."""
    end: str | None = None
    """Only events of an EventTime before this, canonical; null for any."""
    kinds: tuple[str, ...] | None = None
    """Only these; null for all."""
    strategies: tuple[int, ...] | None = None
    """Only events of these, and those that name none; null for all."""
    destination: Destination = Destination.REPLAY
    requested_at: str
    """RFC 3339, by the clock of the replica that took the request."""
    requested_by: str
    """The name of the token."""
    request: str = ""
    """A digest of the request: the same one sent again is recognised by it."""
    cancel_requested: bool = False
    """Whether an operator requested its end."""
    version: int = VERSION
    written: Written | msgspec.UnsetType = msgspec.UNSET
    """The author of the last change: the request, or the cancellation."""
    incarnation: int | msgspec.UnsetType = msgspec.UNSET
    """Of the account's checkpoint when it was requested: `until` is a sequence of its history. Left out where that was
    not known, and by releases that did not keep it."""


class Phase(Enum):
    """How far a replay has come."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen."""
        return self not in {Phase.PENDING, Phase.RUNNING}


class ReplayState(msgspec.Struct, frozen=True, kw_only=True):
    """Observed state of a replay, as reported by the replica that runs it."""

    owner: str
    """The replica, for people."""
    phase: Phase
    origin: int | None = None
    """The sequence after which it began; null before it has."""
    position: int | None = None
    """The last sequence that was looked at."""
    read: int = 0
    """Events of the range that were looked at."""
    published: int = 0
    """Messages committed."""
    rate: float = 0.0
    """Events a second that are looked at."""
    seconds_left: float | None = None
    """Until the end of the range, at this rate."""
    detail: str | None = None
    """What it waits for, or why it failed."""
    started: str | None = None
    """RFC 3339, by the owner's clock."""
    ended: str | None = None
    version: int = VERSION
    epoch: int | msgspec.UnsetType = msgspec.UNSET
    """Of the owner of the account's shard; see `epoch_of`."""


def epoch_of(record: Observed | ShardState | ReplayState | None) -> int:
    """Return the epoch that a report names: with each owner of a shard, and each claim of it, it rises.

    0 where it names none: it is of a release without epochs, or of an owner that has not claimed yet.
    """
    return 0 if record is None or record.epoch is msgspec.UNSET else record.epoch


_Record = TypeVar("_Record", bound=msgspec.Struct)


class _Version(msgspec.Struct):
    version: int


def encode_record(record: msgspec.Struct) -> bytes:
    """Return the bytes to keep: JSON."""
    return msgspec.json.encode(record)


def decode_record(type_: type[_Record], value: bytes) -> _Record:
    """Read what `encode_record` gave; raises RecordUnreadable."""
    try:
        version = msgspec.json.decode(value, type=_Version).version
        if version > VERSION:
            raise RecordUnreadable(
                f"the record has version {version}, this release reads up to version {VERSION}: "
                "run the release that wrote it, or a later one"
            )
        if version != VERSION:
            raise RecordUnreadable(f"there is no version {version}")
        return msgspec.json.decode(value, type=type_)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise RecordUnreadable(f"not a record of version {VERSION}: {error}: {value[:200]!r}") from error
