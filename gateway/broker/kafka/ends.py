"""Where a shard's partitions end as this process has them, and what it wrote there last: one may lose its end.

That happens after an unclean election of a leader, after a broker's disk was put back, and where a topic was deleted
and created again. Where the partition of checkpoints goes back, its writer starts again from what is there. Where a
topic of events alone does, its events are stored according to the checkpoints. This process removes from them the
events that it wrote there and that are missing now. A person must handle those that others wrote, or that were written
long ago.
"""

from __future__ import annotations

import sys
from array import array
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from aiokafka.structs import TopicPartition

from gateway.broker.ports import Lost
from gateway.errors import Unavailable
from gateway.publication import DEAD_LETTER, NOTIFICATIONS, REPLAY, Message
from gateway.telemetry.logs import get_logger

_MOST: Final = 5000
"""Of all partitions of a shard together: how many events are known, should they be lost. A checkpoint from which so
many are taken still has its size."""
_BYTES: Final = 256 * 1024
"""What that may take: some 900 events that came one by one."""
_PART: Final = 280
"""Bytes of a part, and of the numbers in it in addition."""
Found: TypeAlias = tuple[str, Lost]
"""An account, and an event of it."""
_BESIDE: Final = 1000
"""Places that others may have written to behind a copy since it was made."""
_UNNUMBERED: Final = frozenset({DEAD_LETTER, NOTIFICATIONS, REPLAY})


class BatchPart(NamedTuple):
    """What a batch holds of one account."""

    account: str
    first: bytes
    """The key of its first message."""
    last: bytes
    incarnation: int
    sequences: array[int]
    """Of its events with a number, except those of replays."""

    @property
    def events(self) -> Iterator[Lost]:
        """Return those events."""
        return (Lost(self.incarnation, sequence) for sequence in self.sequences)

    @property
    def size(self) -> int:
        """Return the bytes that it takes in memory."""
        return _PART + len(self.sequences) * self.sequences.itemsize


class RecordBatch(NamedTuple):
    """A batch of records as Kafka took it."""

    tp: TopicPartition
    place: int
    """Of its first record; -1 where Kafka returns none."""
    records: int
    parts: Collection[BatchPart] = ()

    @property
    def last(self) -> int:
        """Return the place of its last record."""
        return self.place + self.records - 1 if self.place >= 0 else -1


def numbered(message: Message) -> Lost | None:
    """Return which event a message publishes; None where that has no number, or is published again by a replay."""
    shared, number = message.shared.attributes, message.own.get("sequence")
    if number is None or message.topic in _UNNUMBERED or "replayid" in shared or "replayid" in message.own:
        return None
    return Lost(int(shared.get("incarnation") or message.own.get("incarnation", "1")), int(number))


def parts_of(messages: Iterable[Message]) -> list[BatchPart]:
    """Return what a batch with these messages holds of each account."""
    found: dict[tuple[str, int], tuple[list[bytes], array[int]]] = {}
    for message in messages:
        event = numbered(message)
        keys, sequences = found.setdefault((message.account, event.incarnation if event else 0), ([], array("Q")))
        keys[1:] = [message.key]
        if event is not None:
            sequences.append(event.sequence)
    return [
        BatchPart(account, keys[0], keys[-1], which, sequences) for (account, which), (keys, sequences) in found.items()
    ]


def _without(
    recent: deque[tuple[TopicPartition, int, BatchPart]], forgotten: Collection[tuple[TopicPartition, int, BatchPart]]
) -> deque[tuple[TopicPartition, int, BatchPart]]:
    """Return what is remembered without some of it: of a few thousand most may go."""
    dropped = {id(one) for one in forgotten}
    return deque(one for one in recent if id(one) not in dropped)


class _Short(NamedTuple):
    """A partition that lost its end."""

    end: int
    """Where it ended then."""
    found: int | None
    """Where it ended when the shard itself found that; None where only another shard of this process did."""

    def with_own(self, place: int) -> _Short:
        """Return it with what the shard itself has found now: the partition ends at `place`."""
        return _Short(min(self.end, place), place if self.found is None else min(self.found, place))


class PartitionEnds:
    """The ends of the partitions that one process writes to for one shard, over all its writers."""

    def __init__(self, shard: int, own: TopicPartition) -> None:
        """`own` is the shard's partition of checkpoints."""
        self._shard = shard
        self._own = own
        self._last: dict[TopicPartition, int] = {}
        self._recent: deque[tuple[TopicPartition, int, BatchPart]] = deque()
        self._events = self._bytes = 0  # of what is remembered
        self._under_way: list[RecordBatch] = []
        self._short: dict[TopicPartition, _Short] = {}
        """The partitions that lost their ends, as far as that is known; they may have grown since."""
        self.lost: dict[str, set[Lost]] = {}
        """By account: what is missing, until a checkpoint is committed that accounts for it."""
        self._lost_from: dict[TopicPartition, int] = {}
        """Where partitions ended when that was found: what was published again since stands behind."""
        self._own_places: list[range] = []
        """Where the checkpoints of the last commit stand, if it was stored."""
        self._perhaps: dict[str, tuple[set[Lost], list[range]]] = {}
        """What accounts lost, and where their checkpoints stand that account for it, if their commit was stored."""

    def last(self, tp: TopicPartition) -> int:
        """Return the place of the last record in a partition; -1 where Kafka did not return one."""
        return self._last.get(tp, -1)

    def marker(self, tp: TopicPartition) -> int:
        """Return the first place at which the marker behind that record may stand; -1 where nothing is known."""
        last = self.last(tp)
        return last + 1 if last >= 0 else -1

    def partitions(self) -> list[TopicPartition]:
        """Return those of which a place is known."""
        return [tp for tp, last in self._last.items() if last >= 0]

    def of_events(self) -> list[TopicPartition]:
        """Return those of events among them."""
        return [tp for tp in self.partitions() if tp != self._own]

    def doubted(self) -> list[TopicPartition]:
        """Return the partitions of events that are to be looked at, also those of which no place is known any more.

        So it is of one that lost all: what comes to it before a checkpoint knows of the loss is lost no more.
        """
        return [tp for tp in {**self._short, **self._lost_from} if tp != self._own]

    def begin_again(self) -> None:
        """Expect nothing of the checkpoints any more: another writer reads them again."""
        self._last.pop(self._own, None)
        self._short.pop(self._own, None)
        self._under_way, self._own_places = [], []

    def on_placed(self, batches: Iterable[RecordBatch]) -> None:
        """Note the places of batches of a transaction that is about to end.

        A batch that stands where an earlier one stood, or the marker of its transaction, shows that the earlier one is
        lost: raises Unavailable, also for a partition of which that is known already.
        """
        self._under_way = list(batches)
        gone = [(one.tp, one.place) for one in self._under_way if 0 <= one.place <= self.marker(one.tp)]
        known = [(one.tp, one.place) for one in self._under_way if one.tp in self._short]
        if gone or known:
            self._under_way = []
            raise self._went_back(gone, known)

    def doubt(self, tp: TopicPartition) -> None:
        """Look for what was stored in a partition: Kafka does not know the batches before."""
        self._short[tp] = self._short.get(tp, _Short(sys.maxsize, None)).with_own(sys.maxsize)

    def notify(self, tp: TopicPartition, end: int) -> None:
        """Look for what was stored in a partition: another shard of this process found that it ended there."""
        self._short.setdefault(tp, _Short(end, None))

    def on_stored(self) -> None:
        """Remember those batches: they are stored, or may be."""
        own = [one for one in self._under_way if one.tp == self._own and one.place >= 0]
        self._own_places = [range(one.place, one.place + one.records) for one in own]
        for one in self._under_way:
            if one.place >= 0 or one.tp not in self._last:
                self._last[one.tp] = one.last
            if one.place >= 0:
                self._recent.extend((one.tp, one.place, part) for part in one.parts)
                for part in one.parts:
                    self._count(part, 1)
        self._under_way = []
        while self._events > _MOST or self._bytes > _BYTES:
            self._count(self._recent.popleft()[2], -1)

    def _count(self, part: BatchPart, sign: int) -> None:
        self._events += sign * len(part.sequences)
        self._bytes += sign * part.size

    def compare(self, found: Mapping[TopicPartition, int], *, is_marked: bool = True) -> bool:
        """Compare with the ends that the partitions have now; raises Unavailable where one has less than it had.

        Behind the last record stands at least the marker of its transaction. Kafka may write that a little later than
        it says that all is stored: until it `is_marked` for certain, return False where one is not there. One that was
        found to have lost its end by another shard of this process may have grown since.
        """
        least = self.marker if is_marked else self.last
        gone = [(tp, end) for tp, end in found.items() if end <= least(tp)]
        known = [(tp, self._short[tp].end) for tp in found if tp in self._short]
        if gone or known:
            raise self._went_back(gone, known)
        return all(end > self.marker(tp) for tp, end in found.items())

    def _went_back(
        self, gone: Sequence[tuple[TopicPartition, int]], known: Sequence[tuple[TopicPartition, int]]
    ) -> Unavailable:
        """Note where each of these partitions ended: what is written to them from now on would hide it."""
        for tp, place in gone:
            self._short[tp] = self._short.get(tp, _Short(place, place)).with_own(place)
        (tp, place), *_ = *gone, *known
        return Unavailable(f"{tp.topic} went back to {place}: it lost its end, or was made anew")

    def ended(self, tp: TopicPartition, now: int) -> int:
        """Return where a partition ended when its loss was found, or `now`, where none was."""
        return min(now, self._short[tp].end) if tp in self._short else now

    def found_end(self, tp: TopicPartition, now: int) -> int:
        """Return where a partition ended when this shard itself found its loss, or `now`, where it did not.

        It does not pass on what another shard found: two that did would end each other's writers for ever.
        """
        found = self._short[tp].found if tp in self._short else None
        return now if found is None else min(now, found)

    def short(self, found: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Return which of the partitions, by their ends of now, lost their ends, and where they ended then.

        One that ends with our last record lost the marker behind it. Kafka knows of no transaction of that record any
        more: it holds up every reader, and whether the next one is committed decides of it, too.
        """
        return {
            tp: self.ended(tp, end)
            for tp, end in found.items()
            if tp in self._short or tp in self._lost_from or end <= self.marker(tp)
        }

    def first(self, tp: TopicPartition, end: int) -> int:
        """Return the first place of which it matters what is there, in a partition that ends at `end` now.

        A person who re-creates a topic and copies its records back leaves out the markers of transactions and records
        that had grown too old. Then the known records stand lower, but in no more places than before.
        """
        known = next((place for one, place, _ in self._recent if one == tp), end)
        copied = end - (self.last(tp) + 1 - known) - _BESIDE
        return max(0, min(known, copied, self._lost_from.get(tp, known)))

    def sought(self, tp: TopicPartition) -> set[Found]:
        """Return the events that were written to a partition, as far as they are known, and all that are lost."""
        written = {(part.account, event) for one, _, part in self._recent if one == tp for event in part.events}
        return written | {(account, event) for account, events in self.lost.items() for event in events}

    def lose(self, tp: TopicPartition, end: int, oldest: int, left: Collection[Found], *, now: int) -> None:
        """Find what a partition lost that ended at `end` then and ends at `now`, and say it.

        What is before the place `oldest` is not lost but was kept for as long as it is to be; `left` is what is there
        from `first` on. What was found earlier may be there by now: where a commit had no clean answer, or another
        process went on meanwhile, it was published again, and once more would be once too often.
        """
        for account, event in left:
            if account in self.lost:
                self.lost[account].discard(event)
        self._forget_lost([account for account, events in self.lost.items() if not events])
        held = [one for one in self._recent if one[0] == tp and one[1] >= oldest]
        lacking = [{event for event in part.events if (part.account, event) not in left} for _, _, part in held]
        if not any(lacking) and now > self.marker(tp):
            self._short.pop(tp, None)
            return  # it has all that is known, and the earlier end was of another copy
        gone, forgotten = [], []
        for one, missing in zip(held, lacking, strict=True):
            _, place, part = one
            if missing:
                self.lost.setdefault(part.account, set()).update(missing)
                self._lost_from[tp] = min(end, self._lost_from.get(tp, end))
            if missing or (place >= end and not part.sequences):
                gone.append(one)
            if missing or place >= end:
                self._count(part, -1)
                forgotten.append(one)  # what of it is there stands at unknown places
        if gone or end <= self.marker(tp):
            parts = [part for _, _, part in gone]
            self._log_lost(tp, end, parts, maybe_earlier_ones=not held or held[0] in gone)
        self._recent = _without(self._recent, forgotten)
        self._last[tp] = max(-1, end - 2)  # so that what comes next may stand at its end
        self._short.pop(tp, None)

    def knows(self, accounts: Iterable[str]) -> None:
        """Note that checkpoints are committed that account for what those accounts lost."""
        self._own_places = []
        if self.lost:
            self._forget_lost(accounts)

    def may_know(self, accounts: Iterable[str]) -> None:
        """Note that checkpoints of the last commit may be stored that account for it: their places will show."""
        self._perhaps = {name: ({*self.lost[name]}, self._own_places) for name in accounts if name in self.lost}

    def on_checkpoints_read(self, places: Mapping[str, int]) -> None:
        """Note where the newest checkpoint of each account stands.

        Of an account without one nothing is covered that could be lost.
        """
        for name, (known, own) in self._perhaps.items():
            if name in self.lost and any(places.get(name) in one for one in own):
                self.lost[name] -= known
        self._perhaps = {}
        self._forget_lost([name for name, events in self.lost.items() if not events or name not in places])

    def _forget_lost(self, accounts: Iterable[str]) -> None:
        for account in accounts:
            self.lost.pop(account, None)
        if not self.lost:
            self._lost_from.clear()

    def _log_lost(self, tp: TopicPartition, end: int, gone: list[BatchPart], *, maybe_earlier_ones: bool) -> None:
        keys: dict[str, tuple[bytes, bytes]] = {}
        for part in gone:
            keys[part.account] = keys.get(part.account, (part.first, part.last))[0], part.last
        get_logger(shard=self._shard).error(
            "topic lost its end or was re-created: republishing its events with known positions",
            topic=tp.topic,
            partition=tp.partition,
            end=end,
            keys=[
                f"{account}: {first.decode(errors='replace')} to {last.decode(errors='replace')}"
                for account, (first, last) in sorted(keys.items())
            ],
            maybe_earlier_ones=maybe_earlier_ones,
        )
