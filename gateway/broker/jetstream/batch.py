"""A commit as JetStream takes it: one atomic batch, fenced by the last sequence of the shard's fence.

The form is that of the NATS design ADR-50; the server checks the fence when it commits the batch, so a claim
that came in between refuses all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from gateway.broker.jetstream.topics import TTL, Topics, headers_of
from gateway.broker.ports import Commit
from gateway.errors import Rejected, TooLarge

MOST_MESSAGES: Final = 1000
"""Of one batch, by the server's default; the 1,001st refuses all of it with error 10199."""

FORGOTTEN_FOR: Final = 3600
"""Seconds that the marker stays which stands for a checkpoint that was forgotten; nobody needs it."""

_REPLACES: Final = "Nats-Rollup: sub\r\n"
_FORGETS: Final = f"{_REPLACES}{TTL}: {FORGOTTEN_FOR}\r\n"

_MOST_HEADERS: Final = 65_535
"""Bytes of headers that JetStream stores with one message."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Protocol frames, ready to be written."""

    id: str
    """Never used twice: the server abandons a batch whose id it knows."""
    frames: list[bytes]
    subjects: set[str]
    """Where they go."""


@dataclass(frozen=True, slots=True)
class Form:
    """What all batches of one writer have in common."""

    topics: Topics
    shard: int
    fence: int
    """The stream sequence of the claim: what the fence's last one must still be."""
    ttl: int | None
    """Seconds until a message expires; None keeps it for ever. Checkpoints never expire, only what forgets them."""


def make(form: Form, commit: Commit, *, answer_to: str, largest: int) -> Batch:
    """Give the batch of `commit`, whose answers go to `answer_to`.

    `largest` is in bytes, headers included. Raises TooLarge for a message, Rejected for a checkpoint above it.
    """
    identity = uuid4().hex
    head = f"NATS/1.0\r\nNats-Batch-Id: {identity}\r\nNats-Batch-Sequence: "
    last = len(commit.messages) + len(commit.checkpoints)
    place = 0
    frames: list[bytes] = []
    subjects: set[str] = set()

    def add(subject: str, own: str, payload: bytes) -> None:
        nonlocal place
        place += 1
        fence = _fenced(form) if place == 1 else ""
        end = "Nats-Batch-Commit: 1\r\n" if place == last else ""
        headers = f"{head}{place}\r\n{fence}{end}{own}\r\n".encode()
        size = len(headers) + len(payload)
        if size > largest or len(headers) > _MOST_HEADERS:
            raise _Oversize(place - 1, size, largest if size > largest else _MOST_HEADERS)
        subjects.add(subject)
        to = f" {answer_to} " if place in {1, last} else " "
        frames.append(
            b"HPUB %b%b%d %d\r\n%b%b\r\n" % (subject.encode(), to.encode(), len(headers), size, headers, payload)
        )

    retention = "" if form.ttl is None else f"{TTL}: {form.ttl}\r\n"
    try:
        for message in commit.messages:
            add(form.topics.message(message.topic, message.account), retention + headers_of(message), message.value)
        for name, checkpoint in commit.checkpoints.items():
            own = _REPLACES if checkpoint is not None else _FORGETS
            add(form.topics.checkpoint(form.shard, name), own, checkpoint or b"")
    except _Oversize as oversize:
        if oversize.place < len(commit.messages):
            raise TooLarge(oversize.place, oversize.size, oversize.limit) from None
        raise Rejected(f"a checkpoint has {oversize.size} bytes, NATS takes at most {oversize.limit}") from None
    return Batch(identity, frames, subjects)


def _fenced(form: Form) -> str:
    return (
        f"Nats-Expected-Last-Subject-Sequence: {form.fence}\r\n"
        f"Nats-Expected-Last-Subject-Sequence-Subject: {form.topics.fence(form.shard)}\r\n"
    )


class _Oversize(Exception):
    def __init__(self, place: int, size: int, limit: int) -> None:
        super().__init__(place, size, limit)
        self.place = place
        self.size = size
        self.limit = limit
