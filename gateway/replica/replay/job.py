"""One running replay: it reads pages of the hub's history over the account's own connection.

Only what is final is replayed: up to what the account's session has verified. The job offers messages to the shard a
few at a time and at a pace, so that live events find room in every commit. When the log is reopened the job is
discarded, and another goes on from the committed progress.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.clock import now_text
from gateway.errors import ConnectionLost
from gateway.hub.methods import EventsPage, Hub
from gateway.replica.memory import MemoryShare
from gateway.replica.replay.reset_since import reset_since
from gateway.replica.source.account import Account, AccountState
from gateway.replica.source.context import RateLimiter
from gateway.replica.source.history_client import HistoryClient
from gateway.replica.source.prefetch import decode
from gateway.replica.source.unservable import UnservableEvents
from gateway.session.history_cursor import HistoryCursor
from gateway.session.hub_clock import HubClock
from gateway.session.replay_queue import Progress, ReplayQueue
from gateway.session.types import Content, OutgoingItem, Page, PageRequest
from gateway.state import Phase, Replay, ReplayState

_MAX_QUEUED_EVENTS: Final = 25
"""Maximum messages of one replay in one commit: live events must not wait behind more."""
_PAGE: Final = 100
"""Events in one page: to take in a thousand would hold up live events for longer than they usually take."""
_MAX_QUEUED_BYTES: Final = 256 * 1024
"""Bytes of them after which no more are added."""
_POLL_INTERVAL_S: Final = 0.5
"""Seconds between two looks whether the account has a connection, or history is final further on."""
_LOOKS: Final = 8
"""How often it must fail in a row at the same place, in addition to for how long: once may be a hiccup."""
_TRIES: Final = 3
"""Failures in a row of one event alone after which it is looked for what the hub can give behind it."""
_RETRY_DELAY_S: Final = 0.5
"""Seconds until it is tried again, longer with each time."""
_MAX_RETRY_DELAY_S: Final = 10.0
_MARK: Final = 5.0
"""Seconds after which progress is committed though nothing of it was wanted."""
_PROBED: Final = 10
"""Events that are requested to find the first with a sequence."""
_PROBES: Final = 64
"""Pages in which that may be looked for."""
_PASSING: Final = 0.25
"""What an event that is not wanted costs of the pace: it is fetched and decoded, and not published."""


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """What all replays of a process share."""

    member: str
    """This replica, for people."""
    slots: asyncio.Semaphore
    """Bounds those that read history at once."""
    pace: RateLimiter
    """Bounds the events of a second that they look at together."""
    grace: float
    """Seconds for which something may be missing from the history that will be there again."""


class _Missing(Exception):
    """The hub no longer has what the range asks for."""


class ReplayJob:
    """A replay that this replica carries out."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        id_: str,
        replay: Replay,
        progress: Progress | None,
        account: Account,
        settings: ReplaySettings,
        has_work: Callable[[], None],
    ) -> None:
        """Go on from `progress`; `has_work` is called when `take` has something to give."""
        self.id = id_
        self.account = account
        self._replay = replay
        self._settings = settings
        self._has_work = has_work
        self._history, self._probing = self._client(_PAGE), self._client(_PROBED)
        self._queue = ReplayQueue(id_, replay, progress or Progress(phase=Phase.PENDING))
        self.waits_for: str | None = None
        self.held_up_by: str | None = None
        """Why its next message did not get through so far."""
        self._offered: asyncio.Event | None = None
        self._taken: Progress | None = None
        self.is_over = False
        """Whether its end is committed."""
        self._started_at: tuple[float, int, int] | None = None  # when, events read and position then
        self._marked_at = 0.0

    def _client(self, most: int) -> HistoryClient:
        name, limit, note = self.account.name, self.account.source.page_size, self.account.on_call_failed
        return HistoryClient(name, limit, note, most=most, skip_after=_TRIES, is_replay=True)

    # What the shard asks ----------------------------------------------------------------------------------

    def take(
        self, most: int, space: int, measure: Callable[[OutgoingItem], int] | None = None
    ) -> tuple[list[OutgoingItem], bytes] | None:
        """Return messages and the progress that covers them, for the commit in the making; None for nothing now."""
        if self._offered is None or self._taken is not None:
            return None
        found = self._queue.take(most, space, measure)
        self._taken = self._queue.progress
        return found

    def on_committed(self) -> None:
        """What was taken is committed."""
        taken, self._taken, self.held_up_by = self._taken, None, None
        self._marked_at = asyncio.get_running_loop().time()
        self.is_over = taken is not None and taken.phase.is_final
        if self._queue.has_progress or self._queue.progress is not taken:
            self._has_work()
        elif self._offered is not None:
            self._offered.set()
            self._offered = None

    def state(self) -> ReplayState:
        """Return the observed state."""
        progress = self._queue.progress
        rate, left = self._speed()
        is_shown = self.is_over or not progress.phase.is_final
        return ReplayState(
            owner=self._settings.member,
            phase=progress.phase if is_shown else Phase.RUNNING,
            origin=progress.origin,
            position=progress.position,
            read=progress.read,
            published=progress.published,
            rate=round(rate, 1),
            seconds_left=None if left is None else round(left, 1),
            detail=progress.detail if is_shown and progress.phase.is_final else self.waits_for or self.held_up_by,
            started=progress.started,
            ended=progress.ended if is_shown else None,
        )

    def _speed(self) -> tuple[float, float | None]:
        """Return events a second, and the seconds that the rest will take, since this process began with it."""
        progress = self._queue.progress
        if self._started_at is None or progress.position is None or progress.phase is not Phase.RUNNING:
            return 0.0, None
        at, read, position = self._started_at
        took = max(asyncio.get_running_loop().time() - at, 1e-3)
        further = progress.position - position
        left = (self._replay.until - progress.position) * took / further if further > 0 else None
        return (progress.read - read) / took, left

    # Work -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Publish what is left of the range; returns when the end is committed."""
        if self._queue.progress.phase.is_final:
            self.is_over = True
            return
        progress = self._queue.progress
        span = self.account.source.tracer.replay(self.account.name, self.id, progress.position)
        span.activate()
        try:
            end = (Phase.CANCELLED, None) if self._replay.cancel_requested else await self._replay_range()
            await self._end(*end)
        finally:  # cancelled, handed over, or the log is opened again: then another span goes on
            now = self._queue.progress
            span.set(
                {
                    "mesolive.outcome": now.phase.value if self.is_over else "stopped",
                    "mesolive.read": now.read - progress.read,
                    "mesolive.published": now.published - progress.published,
                }
            )
            if self.is_over and now.phase is Phase.FAILED:
                span.set_error("failed", now.detail or "")
            span.end()

    async def cancel(self) -> None:
        """End it where it is; `run` must have returned."""
        if self._queue.progress.phase.is_final:
            await self._offer()  # it had ended, and only its commit is missing
        else:
            await self._end(Phase.CANCELLED, None)

    async def _end(self, phase: Phase, detail: str | None) -> None:
        self._queue.end(phase, detail, now_text())
        await self._offer()

    async def _replay_range(self) -> tuple[Phase, str | None]:
        """Walk until the range is through; what fails is tried again for as long as that may help."""
        loop = asyncio.get_running_loop()
        failures, failing_since = 0, 0.0
        while True:
            hub = await self._connection()
            before, problem = self._queue.place, None
            self.waits_for = "other replays go first"
            async with self._settings.slots:
                self.waits_for = None
                try:
                    if (end := await self._try(hub)) is not None:
                        return end
                except _Missing as error:
                    problem = str(error)
                except ConnectionLost as error:  # the account makes another
                    problem = f"the connection was lost on what follows event {self._queue.seen}: {error}"
            if before != self._queue.place:
                failures = 0
            if problem is not None:
                failing_since = loop.time() if failures == 0 else failing_since
                failures += 1
                if failures >= _LOOKS and loop.time() - failing_since > self._settings.grace:
                    return Phase.FAILED, problem
                self.waits_for = f"{problem}; it is tried again"
                await asyncio.sleep(min(_MAX_RETRY_DELAY_S, _RETRY_DELAY_S * failures))
            elif before == self._queue.place:
                await asyncio.sleep(_POLL_INTERVAL_S)

    async def _try(self, hub: Hub) -> tuple[Phase, str | None] | None:
        if (problem := reset_since(self._replay, self.account.session)) is not None:
            return Phase.FAILED, problem
        try:
            return (Phase.COMPLETED, None) if await self._page_through(hub) else None
        except UnservableEvents as error:  # the next try asks the hub for all of it once more
            self._history, self._probing = self._client(_PAGE), self._client(_PROBED)
            first, last = error.since + 1, error.through
            rest = (
                f"What is behind is replayed with since {last}" if last < self._replay.until else "The rest is replayed"
            )
            lost = str(first) if first == last else f"{first} to {last}"
            raise _Missing(f"the hub cannot return {lost}, not even alone. {rest}") from None

    async def _connection(self) -> Hub:
        """Wait until the account is live: then its history is known to be the one that was published."""
        while (hub := self.account.link.hub) is None or self.account.state is not AccountState.LIVE:
            self.waits_for = f"the account is {self.account.state.value}: it goes on when that is live"
            await asyncio.sleep(_POLL_INTERVAL_S)
        self.waits_for = None
        return hub

    async def _page_through(self, hub: Hub) -> bool:
        """Read the history on to the end of what is final; return True where that is all of the range.

        Raises ConnectionLost, UnservableEvents, _Missing.
        """
        queue, until = self._queue, self._replay.until
        if queue.seen is None:
            await self._begin(hub)
        assert queue.seen is not None  # noqa: S101 - it has begun
        self._started_at = self._started_at or (asyncio.get_running_loop().time(), queue.progress.read, queue.seen)
        final = shown = 0
        if (session := self.account.session) is not None:
            shown, queue.incarnation = session.verified, session.incarnation
            final = max(shown, session.accounted_through)  # what the hub counts beyond, it never showed and never will
        through = min(until, final)
        if queue.seen >= through and through < until:
            self.waits_for = f"the history is final up to event {final} only, yet"
            return False
        cursor = HistoryCursor(HubClock(0))
        cursor.begin(queue.seen, None)
        cursor.read_forward()
        share = self.account.memory
        while not await self._page(hub, cursor, share, through, min(through, shown)):
            if not self._is_trusted(hub):
                return False
        return through == until

    def _is_trusted(self, hub: Hub) -> bool:
        """Whether the history over this connection is still known to be the one that was published."""
        return self.account.link.hub is hub and self.account.state is AccountState.LIVE

    async def _page(self, hub: Hub, cursor: HistoryCursor, share: MemoryShare, through: int, shown: int) -> bool:
        """Publish what a page has of the range; return True where nothing is left up to `through`.

        The history has all up to `shown`, and above that perhaps nothing.
        """
        queue, history = self._queue, self._history
        await history.rest()
        reservation = await share.reserve(history.expected_bytes)
        with reservation.until_done():
            request = cursor.request
            try:
                answer = await history.page(hub, request, reservation, self._may_pass)
            except UnservableEvents:
                if (queue.seen or 0) < through:
                    raise
                answer = EventsPage([], None)  # it is beyond the requested range
            if not self._is_trusted(hub):
                return False
            if answer is None:
                cursor.forget_token()
                return False
            contents = await decode(self.account.source.decoder, self.account.name, answer.envelopes)
            page = Page(request, contents, answer.token)
            ordered = page.in_order()
            await self._check_seam(hub, ordered)
            ended = cursor.read(page, ordered)
            before = queue.place
            is_there = await self._publish(ordered, through)
            assert queue.seen is not None  # noqa: S101 - it has begun
            is_old = queue.place == before
            # What has no sequence belongs to the event before it, so the end of the range is where another begins.
            if is_there or (ended and is_old and queue.seen >= shown):
                if through == self._replay.until:
                    queue.pass_to(through)
                await self._place_mark(at_once=True)
                return True
            if ended and is_old:
                raise _Missing(f"the hub's history ends with event {queue.seen}, and the range with {through}")
            cursor.reached = queue.seen
            cursor.turn()
            await self._place_mark(at_once=False)
        return False

    @property
    def _may_pass(self) -> int:
        """The last sequence of the hub's: after it there is nothing that it could not give."""
        session = self.account.session
        return self._replay.until if session is None else max(self._replay.until, session.latest)

    async def _publish(self, contents: list[Content], through: int) -> bool:
        """Offer the events to be published, a few at a time; return True where the first after `through` was met."""
        is_there = False
        while contents and not is_there:
            looked, is_there = self._queue.look(contents, through, _MAX_QUEUED_EVENTS, _MAX_QUEUED_BYTES)
            waiting = self._queue.waiting
            await self._settings.pace.acquire(waiting + _PASSING * (looked - waiting))
            contents = contents[looked:]
            if self._queue.waiting:
                await self._offer()
        return is_there

    async def _place_mark(self, *, at_once: bool) -> None:
        """Commit the progress alone, where that is due."""
        now = asyncio.get_running_loop().time()
        if self._queue.has_progress and (at_once or now - self._marked_at > _MARK):
            await self._offer()

    async def _offer(self) -> None:
        """Let the shard take what waits, and wait until it is committed."""
        self._offered = offered = asyncio.Event()
        self._has_work()
        await offered.wait()

    # What the hub still has -------------------------------------------------------------------------------

    async def _begin(self, hub: Hub) -> None:
        since = self._replay.since
        if since is None:
            first = await self._first(hub, 0)
            if first is None or first > self._replay.until:
                begins = "is empty" if first is None else f"begins with event {first}"
                raise _Missing(f"the hub's history {begins}, and the range ends with {self._replay.until}")
            since = first - 1
        self._queue.begin(since, now_text())

    async def _check_seam(self, hub: Hub, contents: list[Content]) -> None:
        """Raise _Missing where the history may have lost what comes after the last event that was looked at.

        A hole proves nothing, as sequences may be sparse; but a history that begins after that event does.
        """
        progress, seen = self._queue.progress, self._queue.seen
        assert seen is not None  # noqa: S101 - it has begun
        if seen >= self._replay.until:
            return
        first = next((one.sequence for one in contents if one.sequence is not None and one.sequence > seen), seen + 1)
        if first == seen + 1 or (seen == progress.origin and self._replay.since is None):
            return
        oldest = await self._first(hub, max(0, seen - 1) if seen != progress.origin else 0)
        if oldest is None or oldest > seen:
            lost = f"{seen + 1} to {first - 1}" if first - 1 > seen + 1 else str(seen + 1)
            raise _Missing(
                f"the hub's history begins with event {first}: it has no longer {lost}, if it ever had. "
                f"What it still has is replayed with since {first - 1}"
            )

    async def _first(self, hub: Hub, since: int) -> int | None:
        """Return the sequence of the first event after `since`."""
        request = PageRequest(since)
        for _ in range(_PROBES):
            await self._probing.rest()
            page = await self._probing.page(hub, request, may_pass=self._may_pass)
            if page is None:  # the hub no longer takes the token
                request = PageRequest(since)
                continue
            decoder = self.account.source.decoder
            decoded = (decoder.envelope(self.account.name, envelope) for envelope in page.envelopes)
            found = min((one.sequence for one in decoded if one.sequence is not None), default=None)
            if found is not None or page.token is None or page.token == request.token:
                return found
            request = PageRequest(since, page.token)
        return None
