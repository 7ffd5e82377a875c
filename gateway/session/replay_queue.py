"""A range of history that is published again: which events of it, and how far it is, each event once.

The progress is committed together with the messages, under a key of its own. So a replay goes on from exactly there, on
whichever replica. An event without a sequence belongs to the sequence before it; those after the last sequence are
remembered by their digests, since history returns them again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from gateway.events.event import Event
from gateway.events.times import ticks
from gateway.publication import DEAD_LETTER, REPLAY
from gateway.session.dedup_window import DIGEST_BYTES, digest8
from gateway.session.types import Content, OutgoingItem, ReplayMark
from gateway.state import VERSION, Destination, Phase, Replay, encode_record

KEY: Final = "~"
"""What the keys of progress begin with, beside those of accounts, which never do; the replay's id follows."""
_REMEMBERED: Final = 4096
"""Events without a sequence, in a row, that are known again."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a replay is."""

    version: int = VERSION
    phase: Phase = Phase.RUNNING
    origin: int | None = None
    """The sequence after which it began; null before it has."""
    position: int | None = None
    """The last sequence that was looked at."""
    tail: bytes = b""
    """The digests of events without a sequence that were looked at since; base64 in JSON."""
    read: int = 0
    """Events of the range that were looked at."""
    published: int = 0
    detail: str | None = None
    """Why it failed."""
    started: str | None = None
    ended: str | None = None


class _Looked(msgspec.Struct, gc=False):
    """An event that was looked at, or several of which none is wanted."""

    item: OutgoingItem | None
    sequence: int | None
    digest: bytes | None = None
    """Instead of a sequence."""
    count: int = 1


class ReplayQueue:
    """What a replay has found and not committed yet, and its progress."""

    def __init__(self, id_: str, replay: Replay, progress: Progress) -> None:
        """Go on from `progress`."""
        self._replay = replay
        self._mark = ReplayMark(id_, REPLAY if replay.destination is Destination.REPLAY else None)
        self._begin = None if replay.begin is None else ticks(replay.begin)
        self._end = None if replay.end is None else ticks(replay.end)
        self._kinds = None if replay.kinds is None else frozenset(replay.kinds)
        self._strategies = None if replay.strategies is None else frozenset(replay.strategies)
        self.progress = progress
        """As taken: the contents of the next commit."""
        self.incarnation = 1
        """Of the account whose history is read."""
        self._tail = bytearray(progress.tail)
        self._looked: deque[_Looked] = deque()
        self.seen = progress.position
        """The last sequence that was looked at, taken or not."""
        self._seen_tail = {bytes(digest) for digest in _digests(self._tail)}
        self.waiting = 0
        """Messages that wait to be taken."""
        self.waiting_bytes = 0

    def begin(self, origin: int, now: str) -> None:
        """Begin after the sequence `origin`."""
        self.progress = replace(self.progress, phase=Phase.RUNNING, origin=origin, position=origin, started=now)
        self.seen = origin

    def look(self, contents: Sequence[Content], through: int, room: int, space: int) -> tuple[int, bool]:
        """Look at events in order, up to the sequence `through`, until `room` messages or `space` bytes wait.

        Gives how many were looked at, and whether one above `through` was met.
        """
        for number, content in enumerate(contents):
            if self.waiting >= room or self.waiting_bytes >= space:
                return number, False
            sequence = content.sequence
            if sequence is not None:
                if self.seen is not None and sequence <= self.seen:
                    continue
                if sequence > through:
                    return number, True
                self.seen = sequence
                self._seen_tail.clear()
                self._note(content, _Looked(self._item(content), sequence))
            elif (digest := digest8(content.identity)) not in self._seen_tail:
                self._seen_tail.add(digest)
                self._note(content, _Looked(self._item(content), None, digest))
        return len(contents), False

    def pass_to(self, sequence: int) -> None:
        """Note that there is nothing more up to `sequence`."""
        assert self.seen is not None  # noqa: S101 - it has begun
        if sequence > self.seen:
            self.seen = sequence
            self._looked.append(_Looked(None, sequence, count=0))

    def _note(self, content: Content, looked: _Looked) -> None:
        last = self._looked[-1] if self._looked else None
        if looked.item is not None:
            self.waiting += 1
            self.waiting_bytes += content.size
        elif last is not None and last.item is None and looked.sequence is not None:
            last.sequence, last.digest, last.count = looked.sequence, None, last.count + 1
            return
        self._looked.append(looked)

    def _item(self, content: Content) -> OutgoingItem | None:
        if not self._wants(content):
            return None
        return OutgoingItem(content, replay=self._mark, incarnation=self.incarnation)

    def _wants(self, content: Content) -> bool:
        if not isinstance(content, Event):  # it has neither a strategy nor a time
            return (self._kinds is None or DEAD_LETTER in self._kinds) and self._begin is self._end is None
        if self._kinds is not None and content.kind not in self._kinds:
            return False
        if self._strategies is not None and content.strategy is not None and content.strategy not in self._strategies:
            return False
        if self._begin is None and self._end is None:
            return True
        time = ticks(content.time)
        return (self._begin is None or self._begin <= time) and (self._end is None or time < self._end)

    @property
    def place(self) -> tuple[int | None, int]:
        """Something that changes with each event that is looked at for the first time."""
        return self.seen, len(self._seen_tail)

    @property
    def has_progress(self) -> bool:
        """Whether more was looked at than is taken."""
        return bool(self._looked)

    def take(
        self, most: int, space: int, measure: Callable[[OutgoingItem], int] | None = None
    ) -> tuple[list[OutgoingItem], bytes]:
        """Return up to `most` messages, of `space` bytes by `measure`, and the progress that covers them.

        `measure` is that of `Outbox.take`.
        """
        items: list[OutgoingItem] = []
        position, read = self.progress.position, self.progress.read
        while self._looked:
            looked = self._looked[0]
            if looked.item is not None:
                size = looked.item.content.size
                if len(items) >= most:
                    break
                cost = size if measure is None else measure(looked.item)
                if items and cost > space:
                    break
                items.append(looked.item)
                space -= cost
                self.waiting -= 1
                self.waiting_bytes -= size
            self._looked.popleft()
            read += looked.count
            if looked.sequence is not None:
                position = looked.sequence
                self._tail.clear()
            elif looked.digest is not None:
                self._tail += looked.digest
                del self._tail[: -_REMEMBERED * DIGEST_BYTES]
        self.progress = replace(
            self.progress,
            position=position,
            tail=bytes(self._tail),
            read=read,
            published=self.progress.published + len(items),
        )
        return items, encode_record(self.progress)

    def end(self, phase: Phase, detail: str | None, now: str) -> None:
        """End the replay: what waits is dropped, and the progress has how it ended."""
        self._looked.clear()
        self.waiting = self.waiting_bytes = 0
        started = self.progress.started
        self.progress = replace(self.progress, phase=phase, detail=detail, started=started, ended=now)


def _digests(raw: bytes | bytearray) -> list[bytes]:
    return [bytes(raw[at : at + DIGEST_BYTES]) for at in range(0, len(raw), DIGEST_BYTES)]
