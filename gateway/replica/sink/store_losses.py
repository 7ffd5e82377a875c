"""What a shard's writer has committed, by account: a store that has less has lost its end, as in a power cut.

The account goes on from what the store has, so the hub's history returns what is lost. The log informs a person, who
may have consumers that have read those events already, or a broker to repair.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from gateway.broker.ports import Lost
from gateway.events.event import Notification
from gateway.session.checkpoint import CheckpointUnreadable, decode_checkpoint, encode_checkpoint
from gateway.session.interval_set import IntervalSet
from gateway.session.outbox import gaps_of
from gateway.session.session import Session
from gateway.session.taking_back import without
from gateway.session.types import OutgoingItem
from gateway.telemetry.counters import Counters
from gateway.telemetry.logs import get_logger

_WENT_BACK: Final = "broker store went back in time: acknowledged events are lost"
_AGAIN: Final = "republishing what the hub still has of them"
_GAP: Final = "gap announced: the hub no longer has, or cannot return, events that are not published"


class Taken(NamedTuple):
    """What of an account is lost, and its checkpoint by which that is not published."""

    checkpoint: bytes
    sequences: list[int]
    """Of the present incarnation, in rising order: what the hub still has of them is published again."""
    gaps: list[OutgoingItem]
    """Notifications of what is lost of earlier incarnations: no session reads their history any more."""


def taken_back(checkpoints: Mapping[str, bytes], lost: Mapping[str, Collection[Lost]]) -> dict[str, Taken]:
    """Return by account what is lost of it; for one whose checkpoint covers nothing of that, the same checkpoint.

    The same holds where the outcome of a commit was unknown that was not stored. Once the checkpoint is committed
    again, those events are not looked for any more.
    """
    found: dict[str, Taken] = {}
    for account in lost.keys() & checkpoints.keys():
        try:
            checkpoint = decode_checkpoint(checkpoints[account])
        except CheckpointUnreadable:
            continue  # the replica that serves the account logs it
        by_incarnation: defaultdict[int, list[int]] = defaultdict(list)
        for incarnation, sequence in sorted(lost[account]):
            by_incarnation[incarnation].append(sequence)
        changed, known = without(checkpoint, by_incarnation.pop(checkpoint.incarnation, []))
        earlier = [one for one in by_incarnation.items() if one[0] < checkpoint.incarnation]
        gaps = [gap for one in earlier for gap in _gaps(account, *one)]
        found[account] = Taken(encode_checkpoint(changed) if known else checkpoints[account], known, gaps)
    return found


def _gaps(account: str, incarnation: int, sequences: Iterable[int]) -> list[OutgoingItem]:
    """Return the gaps that name what is lost and nothing between: another topic may have that."""
    lost = IntervalSet()
    for sequence in sequences:
        lost.add(sequence)
    return [gap for gap, _ in gaps_of(account, incarnation, list(lost))]


def log_gaps(gaps: Iterable[Notification]) -> None:
    """Log at ERROR which events no replica can publish any more."""
    for gap in gaps:
        first, last = gap.detail["FirstSeqId"], gap.detail["LastSeqId"]
        get_logger().error(_GAP, account=gap.account, first=first, last=last)


class CommittedHighWater:
    """How far each account of a shard is committed, as the broker confirmed to this process."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._highest: dict[str, int] = {}
        self._incarnations: dict[str, int] = {}
        """Of the accounts' checkpoints."""
        self._before: dict[str, tuple[int, int]] = {}
        """Incarnation and highest sequence of what was committed when this replica owned the shard last."""

    def begin(self, account: str, session: Session) -> None:
        """Note what an account begins from."""
        self._incarnations[account] = session.incarnation
        if session.is_begun:
            self._highest[account] = session.highest

    def note(self, account: str, highest: int) -> None:
        """Note that events up to the sequence `highest` are committed."""
        self._highest[account] = highest

    def forget(self, account: str) -> None:
        """Expect nothing of an account: its checkpoint was set, or is forgotten."""
        self._highest.pop(account, None)
        self._before.pop(account, None)

    def on_ownership_lost(self) -> None:
        """Expect no checkpoint any more, since another replica may change them; but none goes back by itself.

        A broker that loses its power loses the ownership records as well.
        """
        for account, highest in self._highest.items():
            if account in self._incarnations:
                self._before[account] = self._incarnations[account], highest
        self._highest.clear()

    def names(self) -> frozenset[str]:
        """Return the accounts that have a checkpoint, or lost it."""
        return frozenset(self._highest)

    def on_taken_back(self, taken: Mapping[str, Taken], gaps: Collection[Notification]) -> None:
        """Log at ERROR, and count, the lost events that checkpoints covered and do not cover any more.

        `gaps` are those of them that can never be published.
        """
        log_gaps(gaps)
        self._counters.gaps += len(gaps)
        for account, one in taken.items():
            if one.sequences:
                self.forget(account)
                self._counters.went_back += 1
                first, last, events = one.sequences[0], one.sequences[-1], len(one.sequences)
                get_logger().error(_WENT_BACK, account=account, first=first, last=last, events=events, then=_AGAIN)

    def compare(self, account: str, session: Session) -> None:
        """Log at ERROR where `session`, which begins from what the store has, begins with less than was committed."""
        incarnation, highest = self._before.pop(account, (0, 0))
        expected = self._highest.pop(account, None)
        if expected is None and session.is_begun and session.incarnation == incarnation:
            expected = highest
        if expected is None or (session.is_begun and session.highest >= expected):
            return
        self._counters.went_back += 1
        log = get_logger()
        if not session.is_begun:
            remedy = "the account's checkpoint is gone, too: reset it, from the sequence that your consumers have"
            log.error(_WENT_BACK, account=account, last=expected, remedy=remedy)
        else:
            log.error(_WENT_BACK, account=account, first=session.highest + 1, last=expected, then=_AGAIN)
