"""What the gateway asks of a broker: one small contract, kept by each adapter and proven by one test suite.

Of a shard's log the order of calls is always: `open` (claims the shard, which fences every older writer),
`checkpoints`, then `commit` again and again, one at a time. After any error but TooLarge the ShardLog is spent:
leave it and open again.

Where several replicas share the shards the order around that is: `join`, `assignments` for as long as the membership
lasts, and for each shard that they give: `is_owner` before each `open`, `release` once nothing of it is served any
more. Ownership spares replicas a fight and accounts a silence; what makes a second writer harmless is the claim.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from gateway.errors import ConfigurationError
from gateway.publication import Message


@dataclass(frozen=True, slots=True)
class Commit:
    """Messages and the checkpoints that cover them: stored together or not at all."""

    messages: Sequence[Message]
    """In the order in which readers must see them."""
    checkpoints: Mapping[str, bytes | None] = field(default_factory=dict)
    """By account, or by replay (`~` and 32 hexadecimal digits): what is settled once the messages are stored.

    None forgets what was settled, if anything was; it may be settled again later.
    """


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one commit.

    A commit is never split: a part of it without its checkpoint would be published again after a crash.
    """

    messages: int
    """Messages and checkpoints together."""
    bytes: int
    """Of all messages and checkpoints together, headers included."""


def check_limits(commit: Commit, limits: Limits) -> None:
    """Refuse a commit that holds more than `limits`; each adapter does so before anything is sent.

    Raises ValueError: it is a fault of the caller, and no retry can fix it.
    """
    messages = len(commit.messages) + len(commit.checkpoints)
    if messages > limits.messages:
        raise ValueError(f"a commit of {messages} messages and checkpoints, the log takes at most {limits.messages}")
    size = sum(message.size for message in commit.messages)
    size += sum(len(name) + len(checkpoint or b"") for name, checkpoint in commit.checkpoints.items())
    if size > limits.bytes:
        raise ValueError(f"a commit of {size} bytes, the log takes at most {limits.bytes}")


class Lost(NamedTuple):
    """An event that was stored, and is not there any more."""

    incarnation: int
    sequence: int


class ShardLog(Protocol):
    """The one writer of a shard; it was the newest claim when it was opened."""

    @property
    def epoch(self) -> int:
        """The place of its claim among all claims of the shard: at least 1, and above that of every earlier claim.

        It is exact once `checkpoints` has returned. Where the log was re-created, it may restart, too.
        """
        ...

    @property
    def limits(self) -> Limits:
        """What one commit may hold."""
        ...

    @property
    def lost(self) -> Mapping[str, Collection[Lost]]:
        """Events by account that are known to be lost, though the checkpoints that cover them stand; mostly none.

        It is known once the log is open, and until a checkpoint of the account is committed that accounts for them.
        """
        ...

    async def checkpoints(self) -> dict[str, bytes]:
        """Return every checkpoint of the shard as the broker has it now, without those that were forgotten.

        It may be asked again between commits, for accounts that come later. Raises Fenced; Unavailable; OutcomeUnknown
        where one is not there any more that was read or committed before.
        """
        ...

    async def commit(self, commit: Commit) -> None:
        """Store all of `commit` or nothing of it, and return only when it is stored.

        Never called again before it returned, and never with more than `limits` allow. Cancelling it is safe and makes
        the outcome unknown. Where it raises anything but OutcomeUnknown, nothing was stored.

        Raises:
            Fenced: a newer claim owns the shard.
            OutcomeUnknown: anything but a clean answer; open again and read the checkpoints.
            TooLarge: message `index` is above the broker's limit; the log can go on without it.
            CommitRejected: something in it is refused, and not said what; open again, try less until it stands alone.
            Unavailable: the broker said that it has no room, or was not reached.

        """
        ...

    async def check(self) -> None:
        """Check that the broker still has what this writer stored last; called where nothing is to be stored.

        A store that lost its end, as in a power cut, else goes unnoticed until the next commit. Raises OutcomeUnknown
        where it went back, and then the log is spent; Unavailable where the broker does not answer.
        """
        ...


class EventLog(Protocol):
    """The broker's topics, written in atomic commits by shard."""

    def open(self, shard: int) -> AbstractAsyncContextManager[ShardLog]:
        """Claim `shard` and give its writer: when it yields, every older writer is fenced.

        Entering raises Unavailable or OutcomeUnknown, or Fenced where a rival is known to have claimed it since
        a writer of ours failed; leaving never raises and never waits for long.
        """
        ...


class Registry(Protocol):
    """What a deployment must never forget, kept apart from the log. Every call raises Unavailable."""

    async def ensure_layout(self, shards: int) -> None:
        """Fix the number of shards at the first start; raises ConfigurationError where it is another."""
        ...

    async def accounts(self) -> frozenset[str]:
        """Return every account that was ever begun, and not forgotten since."""
        ...

    async def register(self, account: str) -> None:
        """Remember that `account` was begun; called once its first checkpoint is committed."""
        ...

    async def forget(self, accounts: Collection[str]) -> None:
        """Erase that `accounts` were begun: once this returns, `known` returns none of them to any replica any more.

        It may take some seconds, together. An unknown account is no error. Where it raises, each may be erased or not:
        ask again. It does not undo a registration meanwhile or later.
        """
        ...


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as the log gives it back."""

    message: Message
    position: str
    """The broker's own place: a stream sequence, or `partition:offset`."""


class LogReader(Protocol):
    """Reads the topics as a consumer does."""

    def read(
        self, *, topics: Sequence[str] | None, accounts: Sequence[str] | None, start: str, follow: bool
    ) -> AsyncIterator[Stored]:
        """Yield the messages of `topics` (all when None) and `accounts` (all when None), in the log's order.

        `start` is `first`, `last`, `new`, a position, or an RFC 3339 time. Without `follow` it ends at the
        end that the log had when the read began. Raises Unavailable.
        """
        ...


def time_of(start: str, *, position: str) -> datetime:
    """Return the time that a read is to start at; `position` says what else of the broker's own could stand there.

    Raises ConfigurationError where `start` is no RFC 3339 time with an offset.
    """
    remedy = f"Give first, last, new, {position} or an RFC 3339 time with an offset."
    try:
        since = datetime.fromisoformat(start)
    except ValueError as error:
        raise ConfigurationError("start", f"{start!r} is no time that exists", remedy) from error
    if since.tzinfo is None:
        raise ConfigurationError("start", f"{start!r} has no offset", remedy)
    return since


class Membership(Protocol):
    """This process among the replicas of its deployment."""

    def assignments(self) -> AsyncIterator[frozenset[int]]:
        """Yield the shards that this member is to serve: as soon as that is known, and at each change.

        Iterating is what keeps the membership alive, so the next set must be asked for within a second. A shard
        that is given may be opened at once. One that is given no longer is to be stopped and then released: its
        next owner waits for that, unless this member has lost it already. It goes on through every outage of the
        broker and ends only when it is closed; to iterate again takes up where that left off.
        """
        ...

    async def is_owner(self, shard: int) -> bool:
        """Ask the broker, with a round trip begun now, whether `shard` still falls to this member.

        Called before each `open`: a process that was frozen or cut off must not fence its heir. False means that
        the shard was lost; `assignments` says so, too. Raises Unavailable where the broker does not tell.
        """
        ...

    async def release(self, shard: int) -> None:
        """Hand over `shard`, of which nothing is served any more: its next owner may begin at once.

        Called for each shard that was given and stopped, lost or not. Never raises and never waits for long; where the
        broker is unavailable the shard is free once its lease ends. One that still falls to this member is given again.
        """
        ...

    async def leave(self) -> None:
        """Take no shard any more: the next set of `assignments` is empty, and other members see this one go.

        Never raises and never waits for long. Shards that are served are handed over as always, by `release`.
        """
        ...


class Ownership(Protocol):
    """Which replica serves which shard: each shard has one owner, and few move when a replica joins or leaves."""

    def join(self, member: str, shards: int) -> AbstractAsyncContextManager[Membership]:
        """Join the assignment of `shards` shards, under a name for people.

        Entering does not block: `assignments` waits for an unavailable broker. Leaving releases what is left, never
        raises and never waits for long.
        """
        ...


@dataclass(frozen=True, slots=True)
class Record:
    """The last value of one key of the control store."""

    key: str
    """Of letters, digits, `_`, `-` and `.`."""
    value: bytes
    revision: int
    """What `write` expects to find; 0 stands for a key that was never written, or is forgotten: it has no value."""
    is_observed: bool
    """Whether an owner reported it, or an operator wants it: two spaces of keys."""
    age: float
    """Seconds since it was written, by the broker's clock."""


class ControlStore(Protocol):
    """What operators want and what owners see, kept by the broker and held as a view by each replica."""

    def watch(self) -> AsyncIterator[Record | None]:
        """Yield the last value of every key, then each change; values that were replaced soon may be left out.

        None comes once, when everything is yielded that was there at the beginning. The order of one key's revisions is
        kept. It goes on through every outage of the broker; a view therefore judges a record by its age.
        """
        ...

    async def write(self, key: str, value: bytes, expect: int) -> int:
        """Replace the desired state of `key` if its revision is still `expect`, and return the new revision.

        Raises:
            Conflict: it has another revision: read on, decide again.
            OutcomeUnknown: it may or may not be written: `watch` shows it.
            Unavailable: nothing was written.

        """
        ...

    async def publish_observed(self, observed: Mapping[str, bytes]) -> None:
        """Store observed state, by key; the last record of a key counts. Raises Unavailable: store it again later."""
        ...

    async def forget(self, keys: Collection[str]) -> None:
        """Erase the desired and the observed state of `keys`, whatever the revisions.

        Then each is a key that was never written: `write` takes it with 0 and with no former revision, from every
        replica, also from one that does not know it yet. Its next revision is above all that it had. A later report is
        there again.

        For a day `watch` returns a record without a value and with revision 0 for each of the two spaces of a key in
        which something was, and maybe for the other. A later watch returns the same or nothing; one that was cut off
        for longer may miss it, so a view may keep what is long forgotten.

        Raises:
            OutcomeUnknown: some or all of it may be erased; to ask again does no harm.
            Unavailable: nothing was erased.

        """
        ...


class AuditTrail(Protocol):
    """The audit trail, kept by the broker in a topic to which records can only be added."""

    async def append(self, id_: str, account: str, record: bytes) -> None:
        """Store `record`, which is about `account`, at the end, and return only when it is stored.

        `id_` is the record's own: where it is asked for again, after an answer that was lost, it may be stored twice.
        Raises OutcomeUnknown, Unavailable.
        """
        ...
