"""A commit as JetStream takes it: one atomic batch, on condition that all it builds on is there.

The conditions are the shard's fence, by its last sequence, and each checkpoint that the batch replaces, by its own. The
form is that of the NATS design ADR-50. The server checks the conditions when it commits the batch, so a claim in
between refuses all of it. So does a store that went back in time, as after a power cut: its checkpoints are older ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from secrets import token_urlsafe
from typing import Final

from gateway.broker.jetstream.topics import TTL, Topics, headers_of
from gateway.broker.ports import Commit
from gateway.errors import CommitRejected, TooLarge

MOST_MESSAGES: Final = 1000
"""Of one batch, by the server's default; the 1,001st refuses all of it with error 10199."""

FORGOTTEN_FOR: Final = 3600
"""Seconds that the marker of an erased checkpoint stays; no reader needs it."""

_REPLACES: Final = "Nats-Rollup: sub\r\n"
_FORGETS: Final = f"{_REPLACES}{TTL}: {FORGOTTEN_FOR}\r\n"

_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"

_MOST_HEADERS: Final = 65_535
"""Bytes of headers that JetStream stores with one message."""


@dataclass(frozen=True, slots=True)
class BatchFrames:
    """Protocol frames, ready to be written."""

    id: str
    """Never used twice: the server abandons a batch with an id that it has."""
    frames: list[bytes]
    subjects: set[str]
    """Where they go."""
    checkpoints: dict[str, int | None]
    """By name: which frame, counted from 0, holds the one that is the last; None for what is forgotten."""


@dataclass(frozen=True, slots=True)
class BatchLayout:
    """What all batches of one writer have in common."""

    topics: Topics
    shard: int
    fence: int
    """The stream sequence of the claim: what the fence's last one must still be."""
    ttl: int | None
    """Seconds until a message expires; None keeps it for ever. Checkpoints never expire, only the markers that erase
    them."""


def make_batch(
    form: BatchLayout, commit: Commit, *, last_sequences: Mapping[str, int | None] | None, answer_to: str, largest: int
) -> BatchFrames:
    """Return the batch of `commit`, whose answers go to `answer_to`.

    `last_sequences` has the sequence of each existing checkpoint, by name, which must still be the last when the batch
    is stored. A checkpoint that is missing there must still be absent. No condition is set for one that is None, and
    for none where `last_sequences` is None. A message has room for one condition. The fence's is on the first message;
    a batch that has checkpoints alone, each with its own condition, holds the first one twice.
    """
    identity = token_urlsafe(12)
    head = f"NATS/1.0\r\nNats-Batch-Id: {identity}\r\nNats-Batch-Sequence: "
    conditions = {name: _condition(last_sequences, name, value) for name, value in commit.checkpoints.items()}
    twice = next(iter(conditions)) if not commit.messages and all(conditions.values()) else None
    last = len(commit.messages) + len(commit.checkpoints) + (twice is not None)
    place = 0
    fence = _fenced(form)
    checkpoints: dict[str, int | None] = {}
    frames: list[bytes] = []
    subjects: set[str] = set()

    def add(subject: str, own: str, payload: bytes, condition: str = "") -> None:
        nonlocal place, fence
        place += 1
        if not condition:
            condition, fence = fence, ""
        end = "Nats-Batch-Commit: 1\r\n" if place == last else ""
        headers = f"{head}{place}\r\n{condition}{end}{own}\r\n".encode()
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
            add(form.topics.checkpoint(form.shard, name), own, checkpoint or b"", conditions[name])
            checkpoints[name] = None if checkpoint is None else place - 1
        if twice is not None:  # without a rollup, of which the server takes one a subject
            add(form.topics.checkpoint(form.shard, twice), "", commit.checkpoints[twice] or b"")
            checkpoints[twice] = place - 1
    except _Oversize as oversize:
        if oversize.place < len(commit.messages):
            raise TooLarge(oversize.place, oversize.size, oversize.limit) from None
        raise CommitRejected(f"a checkpoint has {oversize.size} bytes, NATS takes at most {oversize.limit}") from None
    return BatchFrames(identity, frames, subjects, checkpoints)


def _fenced(form: BatchLayout) -> str:
    return f"{_EXPECTED}: {form.fence}\r\n{_EXPECTED}-Subject: {form.topics.fence(form.shard)}\r\n"


def _condition(last_sequences: Mapping[str, int | None] | None, name: str, value: bytes | None) -> str:
    """Return the header that expects a checkpoint where it stands; none for what is forgotten: it builds on nothing."""
    expected = None if last_sequences is None or value is None else last_sequences.get(name, 0)
    return "" if expected is None else f"{_EXPECTED}: {expected}\r\n"


class _Oversize(Exception):
    def __init__(self, place: int, size: int, limit: int) -> None:
        super().__init__(place, size, limit)
        self.place = place
        self.size = size
        self.limit = limit
