# ruff: noqa: ANN401 - what is passed on is as its receiver has it
"""Short words for what a hub shows and what an account does with it, so that a test reads as its story."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from gateway.events.event import DeadLetter, Event, Notification
from gateway.session.checkpoint import Checkpoint, decode_checkpoint
from gateway.session.session import Session
from gateway.session.types import Batch, Content, Outcome, OutgoingItem, Page, PageRequest, SessionLimits

OLD = -3600.0
"""A time, in seconds by the hub's clock, that is beyond any grace."""
MUCH = 1_000_000_000


def clock(seconds: float) -> str:
    """Return the hub's time of day."""
    moment = datetime(2026, 11, 22, 12) + timedelta(seconds=seconds)  # noqa: DTZ001 - UTC throughout
    return moment.isoformat(timespec="microseconds") + "Z"


def event(
    sequence: int | None,
    *,
    at: float = OLD,
    id: str | None = "",  # noqa: A002 - its name
    strategy: int | None = None,
    body: bytes | None = None,
) -> Event:
    """Return an event; its EventId comes from its sequence unless it is given."""
    named = f"id-{sequence}" if id == "" else id
    return Event("acme", "order-update", sequence, named, clock(at), strategy, body or f"body {named}".encode())


def letter(sequence: int | None, *, id: str | None = None) -> DeadLetter:  # noqa: A002 - its name
    return DeadLetter("acme", "invalid-payload", "", "", f"raw {sequence} {id}".encode(), sequence, id)


class Scene:
    """A session, the hub's clock and the account's; batches are committed as they are taken."""

    def __init__(self, checkpoint: Checkpoint | None = None, *, start: str | int = "earliest", **more: Any) -> None:
        known = more.pop("known", False)
        self.settings = SessionLimits(**more)
        self.session = Session("acme", checkpoint, start=start, settings=self.settings, known=known)
        self.now = 100.0
        self.items: list[OutgoingItem] = []
        self.batches: list[Batch] = []

    def connect(self, *, latest: int = 0, at: float = 0.0, subject: str | None = None) -> None:
        """Connect, subscribe and hear what the latest is."""
        self.session.on_connected(subject)
        self.session.on_subscribed()
        self.session.on_latest(latest, clock(at))

    def answers(self, *contents: Content, token: str | None = None, is_full: bool = False) -> bool:
        """Let the hub answer what the session asks for."""
        request = self.session.history.wants()
        assert request is not None, "nothing is asked for"
        return self.session.history.on_page(Page(request, contents, token, is_full=is_full), self.now)

    def asks(self) -> PageRequest | None:
        return self.session.history.wants()

    def pushes(self, *contents: Content) -> list[Outcome]:
        return [self.session.on_push(content, self.now) for content in contents]

    def waits(self, seconds: float) -> None:
        self.now += seconds
        self.session.expire(self.now)

    def audits(self, *contents: Content, latest: int, at: float = 0.0) -> bool:
        """Audit: the hub shows `contents` after the anchor."""
        self.session.on_latest(latest, clock(at))
        self.session.history.audit()
        return self.answers(*contents)

    def commits(self, messages: int = MUCH, size: int = MUCH) -> list[OutgoingItem]:
        """Take and commit everything that waits; return what was published by that."""
        first = len(self.items)
        while (batch := self.session.take(messages, size)) is not None:
            self.batches.append(batch)
            self.items += batch.items
        return self.items[first:]

    def published(self) -> list[int | None]:
        """Commit everything, and return the sequences of all that is published so far."""
        self.commits()
        return [item.content.sequence for item in self.items if not isinstance(item.content, Notification)]

    def late(self) -> list[int | None]:
        self.commits()
        return [
            item.content.sequence for item in self.items if item.late and not isinstance(item.content, Notification)
        ]

    def notifications(self, kind: str) -> list[dict[str, str | int | None]]:
        self.commits()
        contents = [item.content for item in self.items]
        return [content.detail for content in contents if isinstance(content, Notification) and content.type == kind]

    @property
    def checkpoint(self) -> Checkpoint:
        """What the broker holds."""
        return decode_checkpoint(self.batches[-1].checkpoint)

    def crashes(self, *, checkpoint: Checkpoint | None = None) -> Scene:
        """Begin again from what the broker holds; what was not committed is gone."""
        other = Scene(checkpoint or self.checkpoint)
        other.settings = self.settings
        other.session = Session("acme", checkpoint or self.checkpoint, settings=self.settings)
        return other


def live(*contents: Content, latest: int = 0, checkpoint: Checkpoint | None = None, **more: Any) -> Scene:
    """Return a scene that is live after a history of `contents`, all committed, with a push to overlap with."""
    scene = Scene(checkpoint, **more)
    scene.connect(latest=latest)
    scene.answers(*contents)
    scene.commits()
    return scene


def events(sequences: Sequence[int], **more: Any) -> list[Event]:
    return [event(sequence, **more) for sequence in sequences]
