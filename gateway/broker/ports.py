"""What the gateway asks of a broker: one small contract, kept by each adapter and proven by one test suite.

The order of calls is always: `open` (claims the shard, which fences every older writer), `checkpoints`,
then `commit` again and again, one at a time. After any error but TooLarge the ShardLog is spent: leave it
and open again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from gateway.publication import Message


@dataclass(frozen=True, slots=True)
class Commit:
    """Messages and the checkpoints that cover them: stored together or not at all."""

    messages: Sequence[Message]
    """In the order in which readers must see them."""
    checkpoints: Mapping[str, bytes] = field(default_factory=dict)
    """By account (or replay): what is settled once the messages are stored."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one commit may hold at the most.

    A commit is never split: a part of it without its checkpoint would be published again after a crash.
    """

    messages: int
    """Messages and checkpoints together."""
    bytes: int
    """Of all messages and checkpoints together, headers included."""


def check_limits(commit: Commit, limits: Limits) -> None:
    """Refuse a commit that holds more than `limits`; each adapter does so before anything is sent.

    Raises ValueError: it is a fault of the caller, and no retry can mend it.
    """
    messages = len(commit.messages) + len(commit.checkpoints)
    if messages > limits.messages:
        raise ValueError(f"a commit of {messages} messages and checkpoints, the log takes at most {limits.messages}")
    size = sum(message.size for message in commit.messages)
    size += sum(len(account) + len(checkpoint) for account, checkpoint in commit.checkpoints.items())
    if size > limits.bytes:
        raise ValueError(f"a commit of {size} bytes, the log takes at most {limits.bytes}")


class ShardLog(Protocol):
    """The one writer of a shard; it was the newest claim when it was opened."""

    @property
    def limits(self) -> Limits:
        """What one commit may hold."""
        ...

    async def checkpoints(self) -> dict[str, bytes]:
        """Give every checkpoint of the shard as the broker has it now.

        Raises Fenced, Unavailable.
        """
        ...

    async def commit(self, commit: Commit) -> None:
        """Store all of `commit` or nothing of it, and return only when it is stored.

        Never called again before it returned, and never with more than `limits` allow. Cancelling it is
        safe and makes the outcome unknown.

        Raises:
            Fenced: a newer claim owns the shard; nothing was stored.
            OutcomeUnknown: anything but a clean answer; open again and read the checkpoints.
            TooLarge: message `index` is above the broker's limit; nothing was stored, the log can go on
                without it.
            Rejected: the broker refused something in the commit without saying what; nothing was stored.
                Open again and try less at once, until the culprit stands alone.
            Unavailable: the broker said that it has no room, or was not reached; nothing was stored.

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

    async def agree(self, shards: int) -> None:
        """Fix the number of shards at the first start; raises ConfigurationError where it is another."""
        ...

    async def known(self) -> frozenset[str]:
        """Give every account that was ever begun."""
        ...

    async def register(self, account: str) -> None:
        """Remember that `account` was begun; called once its first checkpoint is committed."""
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
        """Give the messages of `topics` (all when None) and `accounts` (all when None), in the log's order.

        `start` is `first`, `last`, `new`, a position, or an RFC 3339 time. Without `follow` it ends at the
        end that the log had when the read began. Raises Unavailable.
        """
        ...
