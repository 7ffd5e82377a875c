"""A commit in the making, and the outcome of each item in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from gateway.events.catalogue import kind_of
from gateway.events.event import GAP, DeadLetter, Event, Notification
from gateway.events.times import seconds
from gateway.publication import (
    DEAD_LETTER,
    NOTIFICATIONS,
    Message,
    with_trace,
)
from gateway.session.checkpoint import Checkpoint
from gateway.session.types import OutgoingItem
from gateway.telemetry.span import Span
from gateway.telemetry.tracer import Tracer


@dataclass(slots=True)
class PendingCommit:
    """A commit in the making."""

    aim: int
    """Bytes of accounts and replays that it is to have at the most."""
    items: list[OutgoingItem] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    checkpoints: dict[str, bytes | None] = field(default_factory=dict)
    resets: dict[str, Checkpoint | None] = field(default_factory=dict)
    """Accounts that are reset once it is committed, with their new checkpoints; None for an empty one."""
    replays: list[str] = field(default_factory=list)
    """Replays of which it has something."""
    progress: dict[str, tuple[int, int]] = field(default_factory=dict)
    """What will be settled and verified of the accounts, once it is committed."""
    filtered: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Events that are settled without being published, by account and kind."""
    cut: list[str] = field(default_factory=list)
    """Accounts that had more than their part of the bytes."""
    size: int = 0
    """Bytes of all of it."""
    created: list[Span] = field(default_factory=list)
    """Of the messages that are sampled."""
    plain: dict[int, Message] = field(default_factory=dict)
    """Those messages by their places, as they would be otherwise."""

    def add_traces(self, place: int, tracer: Tracer) -> None:
        """Let the message at `place` carry a trace of its own."""
        plain = self.messages[place]
        span = tracer.create(plain)
        if span:
            self.created.append(span)
            self.plain[place] = plain
            self.messages[place] = with_trace(plain, span.traceparent)
            self.size += self.messages[place].size - plain.size

    def remove_traces(self, place: int) -> bool:
        """Remove the traces again, and return False where there is none: a trace must not make a message too large."""
        plain = self.plain.pop(place, None)
        if plain is not None:
            self.size += plain.size - self.messages[place].size
            self.messages[place] = plain
        return plain is not None

    def largest(self, above: int = 0) -> dict[str, int]:
        """Return the bytes of the largest message of each account that has one of more than so many bytes."""
        found: dict[str, int] = {}
        for item, message in zip(self.items, self.messages, strict=True):
            if message.size > above and item.replay is None:
                found[message.account] = max(message.size, found.get(message.account, 0))
        return found

    def largest_replayed(self, above: int = 0) -> dict[str, int]:
        """Return the same of each replay, by its id."""
        found: dict[str, int] = {}
        for item, message in zip(self.items, self.messages, strict=True):
            if message.size > above and item.replay is not None:
                found[item.replay.replay] = max(message.size, found.get(item.replay.replay, 0))
        return found

    @property
    def gaps(self) -> list[Notification]:
        """The gaps that it announces."""
        contents = (item.content for item in self.items)
        return [content for content in contents if isinstance(content, Notification) and content.type == GAP]

    def outcomes(self, now: float) -> tuple[Counter[tuple[str, str, str]], list[float]]:
        """Count the events by account, kind and what becomes of them, and notifications by their types.

        With them come the seconds from the EventTime of each event to `now`, Unix time by the hub's clock: from 0, as
        that is known only roughly, to a month, as some times are none. Replays are left out.
        """
        events: list[tuple[Event, bool]] = []
        counts: Counter[tuple[str, str, str]] = Counter()
        for item, message in zip(self.items, self.messages, strict=True):
            content = item.content
            if item.replay is not None:
                continue
            if isinstance(content, Event) and message.topic != DEAD_LETTER:  # else it was too large, or refused
                events.append((content, item.late))
            else:
                counts[_other(content)] += 1
        counts.update([(event.account, event.kind, _LATE[late]) for event, late in events])
        counts.update((account, kind, "filtered") for account, kind in self.filtered.elements())
        latencies = (now - at for at in seconds(event.time for event, _ in events))
        return counts, [min(max(latency, 0), _LONGEST_KEPT) for latency in latencies]


def _other(content: Event | DeadLetter | Notification) -> tuple[str, str, str]:
    if isinstance(content, Notification):
        return content.account, NOTIFICATIONS, content.type
    return content.account, kind_of(content), "dead_letter"


_LONGEST_KEPT: Final = 30 * 86_400.0
"""Seconds: older than any history."""
_LATE: Final = ("published", "late")
