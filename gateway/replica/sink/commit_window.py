"""How many bytes of commits may be in flight: no more than the line to the broker carries in good time.

A window bounds the bytes in flight, as in TCP. Without one, a commit of megabytes over 40 kB/s times out, and so does
each after it; pings and leases wait behind it. The window begins small, grows while it is full and commits are quick,
and shrinks as soon as they wait for others. A commit is quick that takes at most a second more than the way, or three
times as long over a long way. Else one shard alone leaves the line idle: over three round trips of 0.4 s, on Kafka, the
second more alone used 40 % of it. Small commits of live shards show how long the way is, and nothing else. They stay
quick beside one of 16 MB, and the window grew by them (1 shard beside 4 live ones over 40 kB/s never caught up).

A busy broker also makes commits slow, and sending less does not help. So where commits seem to wait for others, an
eighth is sent for a few commits. If they take as long, the broker causes the delay, and the window opens again. Without
that a broker whose commits took 0.3 to 3 s, whatever their size, was sent 8 kB/s; with it 14 MB/s or more (measured in
virtual time).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

_QUEUE: Final = 1.0, 2.5
"""Seconds that a commit may take longer than the way, before less is sent at once: minimum and maximum."""
_FILLED: Final = 2
"""How many times as long as the way they are: the line is in use for two thirds of the time by one shard alone."""
_NEARLY: Final = 0.8
"""The part of them below which a little more is tried."""
_TOO_LONG: Final = 1.2
"""The part above which less is sent; between the two a commit took a little longer by chance."""
_OF_LATE: Final = 30.0
"""Seconds for which the shortest time is taken to be that of the way alone."""
_FAR: Final = 2.0
"""Maximum seconds that the way to the broker and back is assumed to take; more is a queue."""
_TRIED: Final = 8
"""The part of the window by which is tried whether commits wait for others: so many times less."""
_TRIES: Final = 4
"""Commits that are measured."""
_HELPED: Final = 0.35
"""The part of the wait that may be left where sending so much less has helped; of a wait in the line an eighth is."""
_SLOW: Final = 1.0
"""Seconds after which a commit that fails has failed for its size, maybe."""
_SMALL: Final = 8
"""So many times less than the window is a small commit: it does not show what more of the window would do."""
FIRST: Final = 32 * 1024
LEAST: Final = 4 * 1024
MOST: Final = 64 * 1024 * 1024
"""Bytes in flight: initial, minimum and maximum."""


@dataclass(slots=True)
class _Trial:
    """Whether commits wait for others in the line is being tried: less is sent meanwhile."""

    window: int
    """Bytes in flight before it."""
    queued: float
    """Seconds that a commit seemed to wait then."""
    since: float | None = None
    """When the first commit that began in the trial had ended: what was sent before it has left the line."""
    seconds: list[float] = field(default_factory=list)
    """What commits took that began after that."""

    def begin_again(self) -> None:
        """Forget what was found: another commit was in the line meanwhile that began before the trial."""
        self.since = None
        self.seconds.clear()


class Window:
    """Bytes that may be in flight at once, of all shards, since they share the line."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives seconds."""
        self.size = FIRST
        self._clock = clock
        self._quickest, self._quickest_at = float("inf"), float("-inf")  # the shortest time of late, and when
        self._is_known = False  # whether that is more than the time of the first bytes
        self._usual = 0.0, float("-inf")  # seconds that a small commit took too, and until when that is taken for so
        self._trial: _Trial | None = None
        self._line_until = float("-inf")  # until when it is taken to be the line that commits wait for
        self._changed_at = float("-inf")  # when the size was
        self._succeeded_at = self._large_at = float("-inf")  # when a commit did last, and one that was not small

    @property
    def way(self) -> float:
        """The seconds that a commit takes that waits for no other, as far as is known; 0 where nothing is."""
        usual, until = self._usual
        known = 0.0 if self._quickest == float("inf") else min(_FAR, self._quickest)
        return usual if usual > known and self._clock() < until else known  # it is read many times a commit

    @property
    def longest(self) -> float:
        """Maximum seconds that a commit takes when all goes well."""
        return self.way + self._queue

    @property
    def _queue(self) -> float:
        least, most = _QUEUE
        return min(max(least, _FILLED * self.way), most)

    def is_small(self, size: int) -> bool:
        """Return whether a commit of `size` bytes takes no notable part of the window."""
        return size <= self.size // _SMALL

    def succeeded(self, size: int, began: float, in_flight: int) -> None:
        """Take a commit of `size` bytes into account, which began then; so many were `in_flight` with it."""
        now = self._succeeded_at = self._clock()
        is_small = self.is_small(size)
        if not is_small:
            self._large_at = now
        if began < self._changed_at:  # it measures another window
            if self._trial is not None and not is_small:  # and was in the way of those that measure this one
                self._trial.begin_again()
            return
        self._note(now, now - began, is_small=is_small)
        queued = now - began - self.way
        if self._trial is not None:
            self._try(self._trial, began, now)
        elif queued > _TOO_LONG * self._queue:
            self._doubt(queued, now)
        elif is_small or in_flight < self.size // 2:
            return  # the window is not what bounds them
        elif self._is_to_be_measured(now):
            self._change(0.25, now)
        elif queued < self._queue / (2 if now >= self._line_until else _TRIED):
            self._change(2, now)
        elif queued < _NEARLY * self._queue:
            self._change(1.25, now)

    def failed(self, size: int, began: float) -> None:
        """Take a commit into account that began then, and is not known to be stored."""
        now = self._clock()
        if began < (self._succeeded_at if self.is_small(size) else self._large_at):
            return  # others as large came through meanwhile: it is not the line
        if now - began > _SLOW and began >= self._changed_at:
            self._trial = None
            self.size = min(self.size, max(size, LEAST))
            self._change(0.5, now)

    def _doubt(self, queued: float, now: float) -> None:
        """Try whether it is for others in the line that a commit seemed to wait so many seconds."""
        if now < self._line_until:
            self._change(max(0.25, self._queue / queued), now)
        else:
            self._trial = _Trial(self.size, queued)
            self._change(1 / _TRIED, now)

    def _try(self, trial: _Trial, began: float, now: float) -> None:
        """Take a commit into account that began in the trial; the last one decides."""
        if trial.since is None:
            trial.since = now
        elif began >= trial.since:
            trial.seconds.append(now - began)
        if len(trial.seconds) < _TRIES:
            return
        self._trial = None
        usual = fmean(trial.seconds)
        queued = max(0.0, usual - self.way)
        spared = trial.window - self.size
        if queued > _HELPED * trial.queued or not spared:  # it is the broker's time
            self._usual = usual, now + 2 * _OF_LATE
            self._change(trial.window / self.size, now)
        else:
            self._line_until = now + _OF_LATE
            seconds_per_byte = (trial.queued - queued) / spared
            self._change(min(trial.window, self._queue / seconds_per_byte) / self.size, now)

    def _change(self, factor: float, now: float) -> None:
        self.size = round(min(MOST, max(LEAST, self.size * factor)))
        self._changed_at = now

    def _note(self, now: float, seconds: float, *, is_small: bool) -> None:
        """Note how long a commit took: the shortest time of late is that in which none waited for others."""
        if seconds <= self._quickest or self._quickest_at < now - 2 * _OF_LATE:
            self._quickest, self._quickest_at = seconds, now
        self._is_known = self._is_known or is_small or seconds < _QUEUE[0] / 2

    def _is_to_be_measured(self, now: float) -> bool:
        """Return whether no commit shows the length of the way now: then little is sent, so that the next one does."""
        if self._is_known and self._quickest_at >= now - _OF_LATE:
            return False
        self._quickest, self._quickest_at, self._is_known = _FAR, now, True
        return True
