"""The inputs and outputs of a session: plain frozen records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

import msgspec

from gateway.events.event import DeadLetter, Event, Notification

Content = Event | DeadLetter
"""What the hub showed, decoded or not."""


class State(Enum):
    """The state of a session."""

    OFFLINE = "offline"
    CATCHING_UP = "catching_up"
    LIVE = "live"


class Outcome(StrEnum):
    """What became of something that the hub pushed."""

    QUEUED = "queued"
    LATE = "late"
    """Queued behind later ones, and marked so."""
    HELD = "held"
    """Waits for history, or for what is missing before it."""
    DUPLICATE = "duplicate"
    FILTERED = "filtered"
    """Settled without being published: no subscription held for its strategy at its sequence."""
    BEFORE_START = "before_start"
    """At or below the sequence that the account began after, and not remembered: it is not published."""
    TOO_LATE = "too_late"
    """Queued as a dead letter: `verified` passed its number so long ago that it may have been published."""
    REUSED = "reused"
    """Queued as a dead letter: another event has its number."""
    UNCONFIRMED = "unconfirmed"
    """Queued, marked late: its number is far above all that the hub has, and counts for nothing."""
    OVERFLOW = "overflow"
    """No room: history will give it again."""


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The bounds of a session."""

    grace: float = 30.0
    """Seconds by the hub's clock after which its history is taken to be complete."""
    reorder_window: float = 0.05
    """Seconds that a push which leaves a hole waits for what is missing."""
    buffer_bytes: int = 8 * 1024 * 1024
    """Bytes of pushes and pages that may wait here for the broker."""
    identities: int = 512
    """How many identities of events with a sequence are remembered."""
    unsequenced: int = 4096
    """How many of events without one: all that a history shows between two that have one, it is hoped."""
    interval_bytes: int = 64 * 1024
    """Bytes that the settled sequences above `verified` may take in a checkpoint."""


class ReplayMark(msgspec.Struct, frozen=True, gc=False):
    """What marks a message as one that was published before."""

    replay: str
    """The replay's id."""
    topic: str | None = None
    """Where it goes instead of the topic of its kind."""


class OutgoingItem(msgspec.Struct, frozen=True, gc=False):
    """Something to publish."""

    content: Content | Notification
    late: bool = False
    replay: ReplayMark | None = None
    incarnation: int = 1
    """Of the account: how often it began, each time after a checkpoint that an operator set."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Items in order, and the checkpoint that covers them."""

    items: tuple[OutgoingItem, ...]
    checkpoint: bytes
    filtered: tuple[str, ...] = ()
    """The kinds of the other events that the checkpoint covers, and that no subscription wanted."""


@dataclass(frozen=True, slots=True)
class SessionCounts:
    """What happened in a session since it began."""

    dropped_pushes: int
    """Pushes that found no room, or had to make some: only history can give them again."""
    strays: int
    """Events that pages gave out of place, below what is verified and not remembered: they are not published."""
    unpushed: int
    """Events that audits found and published though they were never pushed."""
    forgotten_identities: int
    """Events without a sequence that are more than can be remembered: shown again, they are published again."""
    dead_letters: int
    """Dead letters that were ever queued, as `dead_letters_of` counts them."""
    lost_dead_letters: int
    """Dead letters without a sequence that were discarded with a connection: history will not have them."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """The arguments of the next GetEventsSince."""

    since: int
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """The answer to a PageRequest."""

    request: PageRequest
    contents: Sequence[Content]
    token: str | None = None
    """None at the end of the history."""
    is_full: bool = False
    """Whether it has as many events as were requested, so that there may be more, whatever the token."""

    def in_order(self) -> list[Content]:
        """Sort by sequence, what has none behind its predecessor; what is not after `since` is left out."""
        ordered, last = [], self.request.since
        for content in self.contents:
            if content.sequence is not None:
                if content.sequence <= self.request.since:
                    continue
                last = content.sequence
            ordered.append((last, content))
        ordered.sort(key=lambda pair: pair[0])
        return [content for _, content in ordered]


def dead_letters_of(content: Content) -> int:
    """How many dead letters `content` counts for: none for an event, and one more for each 16 KiB of a large one."""
    return 1 + len(content.raw) // _LETTER if type(content) is DeadLetter else 0


_LETTER: Final = 16 * 1024
