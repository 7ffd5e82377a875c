"""Where a writer's partitions end as it knows them, and what it wrote there last: a partition may lose its end.

So it is after an unclean election of a leader, after a broker's disk was put back, and where a topic was deleted and
made again. Where the partition of checkpoints goes back, its writer begins again from what is there. Where a topic of
events alone does, the checkpoints say that its events are stored: then a person must ask for them again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

from aiokafka.structs import TopicPartition

from gateway.errors import Unavailable
from gateway.telemetry.logs import get_logger

Keys = dict[str, tuple[bytes, bytes]]
"""By account: the keys of its first message in a batch and of its last."""

_REMEMBERED: Final = 1000
"""Of all partitions together: how often an account's part of a batch is known, should it be lost."""


class Ends:
    """The ends of the partitions that one writer writes to."""

    def __init__(self, shard: int, own: TopicPartition) -> None:
        """`own` is the shard's partition of checkpoints."""
        self._shard = shard
        self._own = own
        self._last: dict[TopicPartition, int] = {}
        self._recent: deque[tuple[TopicPartition, int, str, bytes, bytes]] = deque(maxlen=_REMEMBERED)

    def last(self, tp: TopicPartition) -> int:
        """Return the place of the last batch in a partition; -1 where Kafka did not tell one."""
        return self._last.get(tp, -1)

    def partitions(self) -> list[TopicPartition]:
        """Return those of which a place is known."""
        return [tp for tp, last in self._last.items() if last >= 0]

    def took(self, batches: Iterable[tuple[TopicPartition, int, Keys]]) -> None:
        """Note the places of batches that are stored, -1 where Kafka does not tell one, and what they hold.

        A batch that stands where an earlier one stood tells that what was behind it is lost. Raises Unavailable where
        those were checkpoints.
        """
        batches = list(batches)
        for tp, place, _ in batches:
            if tp == self._own and 0 <= place <= self.last(tp):
                raise Unavailable(_went_back(tp, place))
        for tp, place, keys in batches:
            if 0 <= place <= self.last(tp):
                self._tell_lost(tp, place)
            if place >= 0 or tp not in self._last:
                self._last[tp] = place
            if place >= 0:
                self._recent.extend((tp, place, account, *ends) for account, ends in keys.items())

    def compare(self, found: Mapping[TopicPartition, int]) -> None:
        """Compare with the ends that the partitions have now; raises Unavailable where checkpoints are lost."""
        for tp, end in found.items():
            if end > self.last(tp):
                continue
            if tp == self._own:
                raise Unavailable(_went_back(tp, end))
            self._tell_lost(tp, end)
            self._last[tp] = end - 1

    def _tell_lost(self, tp: TopicPartition, end: int) -> None:
        held = [one for one in self._recent if one[0] == tp]
        lost: Keys = {}
        for _, place, account, first, last in held:
            if place >= end:
                lost[account] = lost.get(account, (first, last))[0], last
        get_logger(shard=self._shard).error(
            "a topic lost its end, or was made anew: publish again what it held, by a replay to the topics",
            topic=tp.topic,
            partition=tp.partition,
            end=end,
            keys=[
                f"{account}: {first.decode(errors='replace')} to {last.decode(errors='replace')}"
                for account, (first, last) in sorted(lost.items())
            ],
            maybe_earlier_ones=not held or held[0][1] >= end,
        )
        for one in held:
            self._recent.remove(one)


def _went_back(tp: TopicPartition, place: int) -> str:
    return f"{tp.topic} went back to {place}: it lost its end, or was made anew"
