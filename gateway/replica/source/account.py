"""One account of a replica: the state that its source, towards the hub, and its shard, towards the broker, share.

The session decides what to do; the supervisor connects, and `sync` pages. The connection outlives a session: when the
shard reopens its log, it attaches a new session, which pages history over the open connection. Desired state is applied
as soon as it can be: a pause or a reconnect at once, a subscription between two calls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Final

from msgspec import UNSET

from gateway.broker.control_view import VersionedDesired
from gateway.compact_event import CompactEvent
from gateway.errors import HubError, TooManyDeadLetters
from gateway.replica.memory import MemoryShare
from gateway.replica.source.context import SourceContext
from gateway.replica.source.counts import FORGOTTEN, STRAY, AccountCounters
from gateway.replica.source.dead_letter_limit import DeadLetterLimit
from gateway.replica.source.hub_calls import until_answered
from gateway.replica.source.hub_link import HubLink
from gateway.replica.source.lag import Lag
from gateway.replica.source.reorder_timer import ReorderTimer
from gateway.replica.source.subscription import HubSubscription, subscription_of
from gateway.session.checkpoint import Checkpoint, reset_checkpoint
from gateway.session.session import Session
from gateway.session.types import Batch, SessionCounts, State
from gateway.signalr.connection import HubConnection
from gateway.state import TargetState
from gateway.telemetry.logs import get_logger

_QUIET_OUTAGE_S: Final = 2.5
"""Audits for which the hub may owe its latest sequence until it is doubted that the log has everything."""


class AccountState(Enum):
    """What an account is doing: the session's states, and those that only the account has."""

    OFFLINE = "offline"
    CATCHING_UP = "catching_up"
    LIVE = "live"
    UNAUTHORIZED = "unauthorized"
    DIVERGED = "diverged"
    FENCED = "fenced"
    PAUSED = "paused"


@dataclass(slots=True)
class Account:
    """One account of this replica."""

    name: str
    source: SourceContext
    _has_work: Callable[[Account], None]
    """Called when the session may have a batch to take."""
    desired: VersionedDesired = field(default_factory=VersionedDesired)
    """What operators want."""
    session: Session | None = None
    lag: Lag = field(default_factory=Lag)
    """How far the log is behind the hub."""
    last_error: str | None = None
    """The last error, for people."""
    _state: AccountState | None = None
    _attached: CompactEvent = field(default_factory=CompactEvent)
    _changed: CompactEvent = field(default_factory=CompactEvent)
    is_unreadable: bool = False
    """Whether there is a checkpoint that this release cannot read."""
    is_touched: bool = True
    """Whether something may have changed since the last look."""
    looked_at: float = float("-inf")
    """When it was looked at last, by the loop's clock."""
    _runs: CompactEvent = field(default_factory=CompactEvent)
    link: HubLink = field(default_factory=HubLink)
    """The connection to the hub."""
    counters: AccountCounters = field(init=False)
    subscription: HubSubscription = field(init=False)
    """At the hub."""
    memory: MemoryShare = field(init=False)
    """What it holds of the memory that all accounts have together."""
    timer: ReorderTimer = field(init=False)
    """Of the session's reorder window."""
    dead_letters: DeadLetterLimit = field(init=False)

    def __post_init__(self) -> None:
        """Take part in the budget."""
        self.counters = AccountCounters(self.name, self.source.counters)
        self.memory = self.source.budget.share()
        self.memory.on_give_way = self.link.give_way
        self.timer = ReorderTimer(self._expire)
        self.dead_letters = DeadLetterLimit(self.source.max_dead_letters)
        call = partial(until_answered, note=self.on_call_failed)
        self.subscription = HubSubscription(self.name, call, self.on_call_failed)
        self._runs.set()
        self.set_desired(self.desired)

    def set_desired(self, desired: VersionedDesired) -> None:
        """Follow what operators want from now on; a record that cannot be read changes nothing."""
        self.touch()
        before, self.desired = self.desired.desired, desired
        if desired.desired is None:
            return
        if desired.desired.state is TargetState.PAUSED:
            self._runs.clear()
            self.release("an operator paused the account")
            self.has_work()
        else:
            self._runs.set()
            if before is not None and desired.desired.reconnects != before.reconnects:
                self.dead_letters.restart()
                self.release("an operator asked for a new connection")
        self._changed.set()

    def on_unexpected_error(self, error: BaseException) -> None:
        """Let the session go after an unexpected error: nothing that it holds can be relied upon."""
        self.touch()
        self.last_error = f"an unexpected error, see the log: {error!r}"
        self.detach()

    def release(self, why: str) -> None:
        """Let the connection to the hub go, and make another once there is a log and the account runs."""
        self.touch()
        self.link.release(why)
        self._changed.set()

    def disconnect(self, why: str) -> None:
        """Let the connection go, if there is one, until there is a log again."""
        if self.link.is_up and not self.link.is_released:
            self.release(why)

    @property
    def is_applied(self) -> bool:
        """Whether the desired state is applied."""
        session, desired = self.session, self.desired.desired
        if not self._runs.is_set():
            return not self.link.is_up
        if desired is None or session is None or self.link.is_released:
            return False
        return session.strategies == subscription_of(desired.strategies) and not session.is_changing

    def pending_reset(self) -> Checkpoint | None:
        """Return the checkpoint that an operator wants instead of the one that is, once the account is at rest."""
        desired = self.desired.desired
        if desired is None or desired.reset is UNSET or not self.is_at_rest:
            return None
        if self.session is None and not self.is_unreadable:
            return None
        now = self.session.checkpoint() if self.session is not None and self.session.is_begun else None
        if now is not None and now.incarnation >= desired.reset.incarnation:
            return None
        return reset_checkpoint(desired.reset.incarnation, desired.reset.verified, subscription_of(desired.strategies))

    @property
    def is_to_be_forgotten(self) -> bool:
        """Whether its checkpoint is to be forgotten, and it is at rest."""
        desired = self.desired.desired
        return desired is not None and desired.forget is True and self.is_at_rest

    @property
    def is_at_rest(self) -> bool:
        """Whether it is paused and has no connection."""
        return not self._runs.is_set() and not self.link.is_up

    def lag_seconds(self) -> float:
        """Return for how long the log has been behind the hub: 0 while it has everything and the account is live.

        A call extends the time for which the log is known to be level; `touch` calls it before anything changes.
        """
        session, lag, now = self.session, self.lag, time.monotonic()
        if session is not None:
            lag.latest = self._latest(session)
            if not session.queued_bytes:
                lag.on_accounted(session.accounted_through)
        is_recent = (
            now - lag.answered_at < _QUIET_OUTAGE_S * self.source.audit_interval + self.source.transport.call_timeout
        )
        if session is None or self.state is not AccountState.LIVE or lag.sequences or not is_recent:
            return now - lag.level_at
        last_received_at = self.link.last_received_at
        silence = 0.0 if last_received_at is None else asyncio.get_running_loop().time() - last_received_at
        lag.level_at = max(lag.level_at, now - silence)
        return 0.0

    def _latest(self, session: Session) -> int:
        """Return the hub's latest sequence, which a new connection has only once the hub returned it."""
        return session.latest if session.has_latest else max(self.lag.latest, session.latest)

    def touch(self) -> None:
        """Something is about to change: note for how long the log was level, and be looked at soon."""
        if not self.is_touched:
            self.is_touched = True
            with suppress(Exception):  # the look meets the same error, and reports it
                self.lag_seconds()

    def refresh_fingerprint(self) -> None:
        """Let the account be looked at soon, though nothing changed: what was seen is still to be reported."""
        self.is_touched = True

    def fingerprint(self) -> Hashable:
        """Return something that changes with whatever is reported of it.

        With thousands of accounts that have nothing to do, looks are what a process does most: one that was not touched
        is looked at more rarely.
        """
        self.is_touched, self.looked_at = False, asyncio.get_running_loop().time()
        session, lag = self.session, self.lag
        behind = self.lag_seconds() > 0, lag.latest, lag.settled, lag.verified
        begun = session is not None and (session.incarnation, session.is_begun)
        desired = self.desired.revision, self.is_applied, self.subscription.failed
        names = self.source.decoder.names
        enums = len(names.as_names), len(names.as_numbers), len(names.without_names)
        error = self.last_error or lag.held_up_by
        return self.state, error, self.counters.connects, desired, behind, begun, enums

    @property
    def state(self) -> AccountState:
        """What the account is doing."""
        if not self._runs.is_set():
            return AccountState.PAUSED
        if self._state is not None:
            return self._state
        return AccountState(self.session.state.value) if self.session is not None else AccountState.OFFLINE

    def attach(self, session: Session) -> None:
        """Go on with `session`: the shard has opened its log, or its checkpoint is another."""
        self.touch()
        self.is_unreadable = False
        self.timer.cancel()  # that of a former session would keep the new one's from being set
        self.session = session
        self.dead_letters.on_attached(session.counts.dead_letters)
        self.lag.on_attached(session.highest, session.verified)
        if self._state in {AccountState.DIVERGED, AccountState.FENCED}:
            self._state = None
        self._attached.set()
        self._changed.set()

    def detach(self, state: AccountState | None = None) -> None:
        """Let the session go: the shard has no log now. Pushes are dropped; history gives them again."""
        self.touch()
        if self.session is not None:
            self.lag.latest = self._latest(self.session)
        self.session = None
        self.timer.cancel()
        self.memory.in_flight = 0
        self.memory.hold(0)
        self.link.backpressure.on_batch_taken()
        self._state = state
        self._attached.clear()
        self._changed.set()

    async def until_runnable(self) -> None:
        """Wait until there is a log, and no operator wants the account to rest."""
        while True:
            await self._runs.wait()
            await self._attached.wait()
            if self._runs.is_set():
                return

    def on_connected(self, connection: HubConnection) -> None:
        """Note a new connection: nothing is subscribed over it."""
        self.touch()
        self.counters.on_connected()
        self.link.on_up(connection)
        self.subscription.on_connected()
        if self._state is not AccountState.DIVERGED:  # that is so until its history was looked at
            self._state = None

    def on_disconnected(self) -> None:
        """Note that the connection is gone; what the session holds of it is another matter."""
        self.touch()
        self.link.on_down()
        self.memory.hold_unfinished(0)
        self.timer.cancel()

    def on_connection_failed(self, error: Exception, reason: str, state: AccountState | None) -> None:
        """Note that the connection is gone because of an error, or could not be made."""
        self.touch()
        self.counters.on_disconnected(reason)
        self.last_error = str(error)
        self._state = state

    def on_batch_taken(self, now: float, batch: Batch | None, size: int) -> None:
        """The shard took what there was at this moment, `size` bytes: more pushes may be read.

        They are held until they are committed, which may be long where the broker hangs.
        """
        self.memory.in_flight += size
        if self.session is not None and batch is not None:
            self.touch()
            self.lag.on_taken(self._latest(self.session), now)
        self.link.backpressure.on_batch_taken()

    def on_committed(self, settled: int, verified: int) -> None:
        """A batch is committed, up to these sequences: there may be room for a page."""
        self.touch()
        self.memory.in_flight = 0
        self.lag.on_committed(settled, verified)
        if self.session is not None:
            self.memory.measure(self.session)
            if self.session.wants_latest or self.session.history.wants() is not None:
                self._changed.set()

    def count_dead_letters(self, session: Session, waiting: int = 0) -> None:
        """Count the dead letters that were queued since, and so many that wait; raises TooManyDeadLetters."""
        try:
            self.dead_letters.note(session.counts.dead_letters, waiting, asyncio.get_running_loop().time())
        except TooManyDeadLetters as error:
            error.unread = self.link.unread
            raise

    def log_contradictions(self, session: Session) -> None:
        """Log what the session found that is not as it should be; it is queued."""
        for outcome, content in session.take_contradictions():
            self.counters.on_contradiction(outcome, content)
            self.has_work()

    def _expire(self, session: Session, now: float) -> None:
        if session is not self.session:
            return
        self.touch()
        try:
            session.expire(now)
            self.log_contradictions(session)
            self.has_work()
            self.timer.set(session)
            self.count_dead_letters(session)
        except Exception as error:  # noqa: BLE001 - it ends the account's task, and not only this callback
            self.link.fail(error)

    # Over a connection ----------------------------------------------------------------------------------

    def on_page(self, session: Session, before: SessionCounts) -> None:
        """A page was taken in; `before` is what the session had counted until then."""
        counts = session.counts
        self.memory.measure(session)
        self.source.counters.unpushed += counts.unpushed - before.unpushed
        self.counters.on_unpublished(STRAY, counts.strays - before.strays)
        self.counters.on_unpublished(FORGOTTEN, counts.forgotten_identities - before.forgotten_identities)
        self.log_contradictions(session)
        if session.has_batch:
            self.has_work()
        self.timer.set(session)
        if session.state is State.LIVE:
            self.dead_letters.none_waits()
        self.count_dead_letters(session)

    def has_work(self) -> None:
        """The session may have a batch to take."""
        self._has_work(self)

    def on_session_state(self, session: Session) -> None:
        """Note the state of the session; whatever went wrong before is over."""
        self.touch()
        self.last_error = self._state = None
        state, latest = session.state.value, session.latest
        get_logger(account=self.name).info("account state changed", state=state, latest=latest)

    def wake(self) -> None:
        """Something may be to do over the connection."""
        self._changed.set()

    async def next_session(self) -> Session:
        """Wait until the shard has a log."""
        while self.session is None:
            await self._attached.wait()
        return self.session

    async def wait_for_change(self, limit: float | None = None) -> bool:
        """Wait until something may be to do; return False after `limit` seconds, when it may be so as well."""
        is_late = False

        def wake() -> None:
            nonlocal is_late
            is_late = True
            self._changed.set()

        # No asyncio.timeout: to be cancelled and to catch that costs as much as half of an audit.
        timer = None if limit is None else asyncio.get_running_loop().call_later(max(0.0, limit), wake)
        try:
            await self._changed.wait()
        finally:
            if timer is not None:
                timer.cancel()
        self._changed.clear()
        return not is_late

    def on_call_failed(self, error: HubError) -> None:
        """A call failed, and is made again."""
        self.touch()
        self.last_error = str(error)
        get_logger(account=self.name).warning("hub call failed", error=str(error))
