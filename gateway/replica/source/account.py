"""One account at work: the connection to the hub, every retry towards the hub, and all of its timers.

The session says what to do; this does it. The connection outlives a session: when the shard opens its log
again, it attaches a new session, which pages history over the connection that stands. What operators want holds as
soon as it can: a pause or a reconnect at once, a subscription between two calls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from random import uniform
from traceback import clear_frames, walk_tb
from typing import Final, NoReturn, TypeVar

from msgspec import UNSET

from gateway.backoff import Backoff
from gateway.broker.control_view import VersionedDesired
from gateway.errors import (
    CallFailed,
    CallRejected,
    CallTimedOut,
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    Diverged,
    HubError,
    TooManyDeadLetters,
    Unauthorized,
    forget_frames,
)
from gateway.events.catalogue import find
from gateway.events.event import DeadLetter
from gateway.hub.methods import Hub
from gateway.replica.memory import MemoryShare, memory_exhausted
from gateway.replica.source import pushes
from gateway.replica.source.backpressure import Backpressure
from gateway.replica.source.context import SourceContext
from gateway.replica.source.counts import FORGOTTEN, LOST, STRAY, AccountCounters
from gateway.replica.source.dead_letter_limit import DeadLetterLimit
from gateway.replica.source.history_client import MAX_CALL_DELAY_S, HistoryClient
from gateway.replica.source.lag import Lag
from gateway.replica.source.prefetch import PagePrefetcher
from gateway.replica.source.subscription import HubSubscription
from gateway.replica.source.sync import subscription_of, sync
from gateway.session.checkpoint import Checkpoint, reset_checkpoint
from gateway.session.session import Session
from gateway.session.types import Batch, Content, Outcome, SessionCounts, State, dead_letters_of, size_of
from gateway.signalr.connection import Connection
from gateway.signalr.jwt import subject_of
from gateway.signalr.large_records import decode_aside
from gateway.state import TargetState
from gateway.tasks import run_apart
from gateway.telemetry.logs import bind, get_logger
from gateway.telemetry.span import NO_SPAN, Span

_DIVERGED_DELAY_S: Final = 60.0
"""Seconds before a history that diverged is looked at again; at once when the key was changed."""
_KEY_POLL_INTERVAL_S: Final = 2.0
"""Seconds between looks at the key of an account that is refused or stands still."""
_QUIET_OUTAGE_S: Final = 2.5
"""Audits for which the hub may owe its latest sequence until it is doubted that the log has everything."""
_UNAUTHORIZED_DELAY_S: Final = 15.0
"""Seconds before a refused key is tried again, at the least: it is read afresh each time."""

Answer = TypeVar("Answer")


class AccountState(Enum):
    """What an account is doing: the session's states, and what only the account knows."""

    OFFLINE = "offline"
    CATCHING_UP = "catching_up"
    LIVE = "live"
    UNAUTHORIZED = "unauthorized"
    DIVERGED = "diverged"
    FENCED = "fenced"
    PAUSED = "paused"


class _Released(HubError):
    """The connection was let go on purpose; the message says why."""


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
    hub: Hub | None = None
    """The hub's methods, while there is a connection."""
    pushes: int = 0
    """That came, over all connections."""
    deaf_connections: int = 0
    """Connections in a row that were given up because the hub pushed nothing over them."""
    connect_span: Span = NO_SPAN
    """Of the last try to connect."""
    _state: AccountState | None = None
    _attached: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _timer: asyncio.TimerHandle | None = None
    _connection: Connection | None = None
    _heard_at: float | None = None
    is_unreadable: bool = False
    """Whether there is a checkpoint that this release cannot read."""
    is_touched: bool = True
    """Whether something may have changed since the last look."""
    looked_at: float = float("-inf")
    """When it was looked at last, by the loop's clock."""
    _runs: asyncio.Event = field(default_factory=asyncio.Event)
    _release: asyncio.Event = field(default_factory=asyncio.Event)
    _released_for: str = ""
    _in_flight: int = 0
    """Bytes of the batch that the shard is about to commit."""
    _unread: int = 0
    """Bytes of the last message of the last connection that were not read."""
    _unfinished: int = 0
    """Bytes of a record that is not complete, as the budget knows them."""
    _failure: Exception | None = None
    """That a timer met: it is raised where the connection is released."""
    _tried_key: str | None = field(default=None, repr=False)
    """With which the last connection was made, or tried."""
    _backpressure: Backpressure = field(default_factory=Backpressure)
    counters: AccountCounters = field(init=False)
    subscription: HubSubscription = field(init=False)
    """At the hub."""
    share: MemoryShare = field(init=False)
    """What it holds of the memory that all accounts have together."""
    _history: HistoryClient = field(init=False)
    _dead_letters: DeadLetterLimit = field(init=False)
    _dead_letters_seen: int = 0
    """Dead letters of the session that count already."""

    def __post_init__(self) -> None:
        """Take part in the budget."""
        self.counters = AccountCounters(self.name, self.source.counters)
        self.share = self.source.budget.share()
        self.share.on_give_way = self._give_way
        self._history = HistoryClient(
            self.name, self.source.page_size, self.on_call_failed, skip_after=self.source.skip_poison_after
        )
        self._dead_letters = DeadLetterLimit(self.source.max_dead_letters)
        self.subscription = HubSubscription(self.name, self.until_answered, self.on_call_failed)
        self._runs.set()
        self.set_desired(self.desired)

    def set_desired(self, wish: VersionedDesired) -> None:
        """Follow what operators want from now on; a wish that cannot be read changes nothing."""
        self.touch()
        before, self.desired = self.desired.desired, wish
        if wish.desired is None:
            return
        if wish.desired.state is TargetState.PAUSED:
            self._runs.clear()
            self.release("an operator paused the account")
            self.has_work()
        else:
            self._runs.set()
            if before is not None and wish.desired.reconnects != before.reconnects:
                self._dead_letters.restart()
                self.release("an operator asked for a new connection")
        self._changed.set()

    def on_unexpected_error(self, error: BaseException) -> None:
        """Let the session go after an error that nobody expected: nothing that it holds can be relied upon."""
        self.touch()
        self.last_error = f"an unexpected error, see the log: {error!r}"
        self.detach()

    def release(self, why: str) -> None:
        """Let the connection to the hub go, and make another once there is a log and the account runs."""
        self.touch()
        self._released_for = why
        self._release.set()
        self._changed.set()

    def disconnect(self, why: str) -> None:
        """Let the connection go, if there is one, until there is a log again."""
        if self.is_connected and not self._release.is_set():
            self.release(why)

    @property
    def is_applied(self) -> bool:
        """Whether everything that operators want is so."""
        session, desired = self.session, self.desired.desired
        if not self._runs.is_set():
            return not self.is_connected
        if desired is None or session is None or self._release.is_set():
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
        return not self._runs.is_set() and not self.is_connected

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to the hub."""
        return self._connection is not None

    @property
    def heard_at(self) -> float | None:
        """When the hub was last heard over the present or the last connection, by the loop's clock."""
        return self._heard_at if self._connection is None else self._connection.last_received_at

    def lag_seconds(self) -> float:
        """Return for how long the log has been behind the hub: 0 while it has everything and the account is live.

        A log that was level is known to have been so until it is asked for; `touch` asks before anything changes.
        """
        session, lag, now = self.session, self.lag, time.monotonic()
        if session is not None:
            lag.latest = self._latest(session)
            if not session.queued_bytes:
                lag.on_accounted(session.accounted_through)
        is_told = now - lag.told_at < _QUIET_OUTAGE_S * self.audit_interval + self.source.transport.call_timeout
        if session is None or self.state is not AccountState.LIVE or lag.sequences or not is_told:
            return now - lag.level_at
        heard_at = self.heard_at
        silence = 0.0 if heard_at is None else asyncio.get_running_loop().time() - heard_at
        lag.level_at = max(lag.level_at, now - silence)
        return 0.0

    def _latest(self, session: Session) -> int:
        """Return the hub's latest sequence, which a new connection knows only once it was told."""
        return session.latest if session.has_latest else max(self.lag.latest, session.latest)

    def touch(self) -> None:
        """Something is about to change: note for how long the log was level, and be looked at soon."""
        if not self.is_touched:
            self.is_touched = True
            with suppress(Exception):  # the look meets the same error, and tells of it
                self.lag_seconds()

    def refresh_fingerprint(self) -> None:
        """Be looked at soon, though nothing changes: what was seen is to be told yet."""
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
        wished = self.desired.revision, self.is_applied, self.subscription.failed
        names = self.source.decoder.names
        enums = len(names.as_names), len(names.as_numbers), len(names.without_names)
        return self.state, self.last_error, self.counters.connects, wished, behind, begun, enums

    @property
    def audit_interval(self) -> float:
        """Seconds between looks at the history for what was never pushed."""
        return self.source.audit_interval

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
        self._cancel_timer()  # that of a former session would keep the new one's from being set
        self.session, self._dead_letters_seen = session, session.counts.dead_letters
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
        self._cancel_timer()
        self._in_flight = 0
        self.share.hold(0)
        self._state = state
        self._attached.clear()
        self._backpressure.on_batch_taken()
        self._changed.set()

    def _measure_memory(self, session: Session) -> None:
        self.share.hold(session.queued_bytes + self._in_flight, session.waiting_bytes)

    def on_batch_taken(self, now: float, batch: Batch | None, size: int) -> None:
        """The shard took what there was at this moment, `size` bytes: more pushes may be read.

        They are held until they are committed, which may be long where the broker hangs.
        """
        self._in_flight += size
        self._backpressure.on_batch_taken()
        if self.session is not None and batch is not None:
            self.touch()
            self.lag.on_taken(self._latest(self.session), now)

    def _pause(self) -> Awaitable[None] | None:
        """Look at what came after each message; raises ConnectionLost where an unfinished record finds no room."""
        self._measure()
        return self._backpressure.wait(pressed=self.session is not None and self.session.is_backpressured)

    def _measure(self) -> None:
        connection = self._connection
        unfinished = 0 if connection is None else connection.unfinished
        if unfinished != self._unfinished:
            self._unfinished = unfinished
            if not self.share.hold_unfinished(unfinished):
                raise memory_exhausted(unfinished)

    def _give_way(self, unfinished: int) -> None:
        """Let the connection go, whose record leaves no room for the others."""
        if self._connection is not None:
            self._connection.abandon(memory_exhausted(unfinished))

    def on_committed(self, settled: int, verified: int) -> None:
        """A batch is committed, up to these sequences: there may be room for a page."""
        self.touch()
        self._in_flight = 0
        self.lag.on_committed(settled, verified)
        if self.session is not None:
            self._measure_memory(self.session)
            if self.session.wants_latest or self.session.history.wants() is not None:
                self._changed.set()

    async def run(self) -> NoReturn:
        """Keep a connection to the hub, for ever."""
        bind(account=self.name)
        log = get_logger(account=self.name)
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        while True:
            await self._runs.wait()
            await self._attached.wait()
            if not self._runs.is_set():
                continue
            self._release.clear()
            NO_SPAN.activate()
            began = loop.time()
            try:
                await self._connect_and_follow()
            except _Released as released:
                self.counters.on_disconnected("released")
                self.has_work()  # what can only be done at rest
                log.info("the connection to the hub was let go", why=str(released))
                continue
            except Unauthorized as error:
                self._failed(error, error.reason, AccountState.UNAUTHORIZED)
                delay = backoff.next_delay(at_least=max(_UNAUTHORIZED_DELAY_S, error.retry_after or 0))
                log.error("the hub refuses the account's key", error=str(error), retry_in=round(delay, 1))
                await self._halt(delay)
                continue
            except Diverged as error:
                if str(error) != self.last_error:
                    log.error("the account stands still: its history is not the one published so far", error=str(error))
                self._failed(error, "diverged", AccountState.DIVERGED)
                await self._halt(_DIVERGED_DELAY_S * uniform(1, 1.5))  # noqa: S311 - jitter
                continue
            except ConfigurationError as error:
                self._failed(error, "key", None)
                delay = backoff.next_delay()
                log.error("the account's key cannot be read", error=str(error), retry_in=round(delay, 2))
            except TooManyDeadLetters as error:
                self._failed(error, "dead-letters", None)
                delay = backoff.next_delay(at_least=error.remaining)
                log.error(
                    "the account stands still: it makes too many dead letters", error=str(error), unread=self._unread
                )
            except HubError as error:
                reason = getattr(error, "reason", "call")
                self._failed(error, reason, None)
                retry_after = getattr(error, "retry_after", None)
                delay = backoff.next_delay(lasted=loop.time() - began, at_least=retry_after)
                log.warning("the hub is away", reason=reason, error=str(error), retry_in=round(delay, 2))
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._release.wait()

    async def _halt(self, delay: float) -> None:
        """Wait until another try may end otherwise: with a new session, a new key, when asked, or after a while."""
        session, key = self.session, self._tried_key  # it may have been mended since
        again = asyncio.get_running_loop().time() + delay
        while self.session is session and not self._release.is_set() and await self._key() == key:
            left = again - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await self.wait_for_change(min(left, _KEY_POLL_INTERVAL_S))

    async def _key(self) -> str | None:
        try:
            return await asyncio.to_thread(self.source.keys.key, self.name)
        except ConfigurationError:
            return None

    def _failed(self, error: Exception, reason: str, state: AccountState | None) -> None:
        self.touch()
        self.counters.on_disconnected(reason)
        self.last_error = str(error)
        self._state = state

    async def _connect(self) -> tuple[Connection, str]:
        """Return a connection, and the key that it was made with; its span, if it failed, is that of the log's line."""
        access = self.source
        async with access.connecting:
            await access.rate_limiter.acquire()
            key = self._tried_key = await asyncio.to_thread(access.keys.key, self.name)
            span = self.connect_span = access.tracer.connect(self.name, access.url)
            span.activate()
            try:
                connection = await access.connect(access.url, key, span.event)
            except BaseException as error:
                span.fail(error)
                if isinstance(error, ConnectFailed) and not isinstance(error, Unauthorized):
                    access.rate_limiter.on_failure()
                raise
            access.rate_limiter.on_success()
        span.end()
        NO_SPAN.activate()
        return connection, key

    async def _connect_and_follow(self) -> None:
        self.counters.on_connecting()
        connection, key = await self._connect()
        try:
            await run_apart(self._follow(connection, key))
        except BaseException as error:
            for frame, _ in walk_tb(error.__traceback__):
                if frame.f_code is Account._follow.__code__:
                    frame.clear()  # it is done, and refers to the error and to the connection
            raise
        finally:
            await connection.close()

    async def _follow(self, connection: Connection, key: str) -> NoReturn:
        """Serve sessions over a connection until it ends; raises HubError, Diverged."""
        self.touch()
        self.counters.on_connected()
        self._connection = connection
        connection.on_large, connection.on_growth = self._on_large, self._measure
        self.subscription.on_connected()
        if self._state is not AccountState.DIVERGED:  # that is so until its history was looked at
            self._state = None
        ended: HubError | Diverged | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(connection.run(self._on_push, self._pause, self._on_record))
                self.hub = hub = Hub(connection)
                pages = PagePrefetcher(self._history, hub, self.share, tasks)
                tasks.create_task(sync(self, hub, pages, subject_of(key)))
                tasks.create_task(self._until_released())
        except* (HubError, Diverged) as group:
            ended = _most_telling(group)
            clear_frames(group.__traceback__)  # the task group's own, which refers to what it raised
            forget_frames(group)
        finally:
            self.touch()
            self._heard_at = connection.last_received_at
            self._connection = self.hub = None
            self._unfinished = 0
            self.share.hold_unfinished(0)
            self._cancel_timer()
            if self.session is not None:
                self._drop(self.session)
        assert ended is not None  # noqa: S101 - neither task returns
        raise ended

    def _drop(self, session: Session) -> None:
        """The connection of `session` is gone: what of it cannot be trusted is discarded, the rest is held."""
        lost = session.counts.lost_dead_letters
        discarded = session.on_disconnected()
        self._measure_memory(session)
        self._dead_letters.none_waits()
        self.counters.on_unpublished(LOST, session.counts.lost_dead_letters - lost)
        if discarded:
            get_logger(account=self.name).warning(
                "pushes of a connection whose history was not proven are discarded: history gives them again",
                count=discarded,
            )

    async def _until_released(self) -> NoReturn:
        await self._release.wait()
        if (failure := self._failure) is not None:
            self._failure = None
            raise failure
        raise _Released(self._released_for)

    # Pushes ---------------------------------------------------------------------------------------------

    def _on_record(self, record: bytes) -> bool:
        event = pushes.match(self.source.decoder, self.name, record)
        if event is not None:
            self._on_event(event)
        return event is not None

    def _on_push(self, target: str, arguments: list[bytes]) -> bool:
        self._on_event(pushes.decoded(self.source.decoder, self.name, target, arguments))
        return find(target) is not None

    async def _on_large(self, target: str, arguments: list[bytes]) -> bool:
        self._on_event(await decode_aside(pushes.decoded, self.source.decoder, self.name, target, arguments))
        return find(target) is not None

    def _on_event(self, content: Content) -> None:
        session = self.session
        self.touch()
        if session is None or session.state is State.OFFLINE:
            self.counters.on_push(content, Outcome.OVERFLOW)  # history will give it, where it has a sequence
            return
        self.pushes += 1
        was_live = session.state is State.LIVE
        room = self.share.has_room(size_of(content))
        outcome = session.on_push(content, asyncio.get_running_loop().time(), room=room)
        self._measure_memory(session)
        self.counters.on_push(content, outcome)
        if outcome is Outcome.QUEUED or outcome is Outcome.LATE:
            self._has_work(self)
        elif outcome is not Outcome.DUPLICATE:
            self.log_contradictions(session)
            if session.state is State.LIVE:
                self._set_timer(session)
                if session.wants_latest or session.history.wants_audit:
                    self._changed.set()
        if was_live and session.state is not State.LIVE:
            self._changed.set()
        if type(content) is DeadLetter:
            is_kept = outcome is Outcome.HELD and content.sequence is None
            self.count_dead_letters(session, waiting=dead_letters_of(content) if is_kept else 0)

    def count_dead_letters(self, session: Session, waiting: int = 0) -> None:
        """Count the dead letters that were queued since, and so many that wait; raises TooManyDeadLetters."""
        known, self._dead_letters_seen = self._dead_letters_seen, session.counts.dead_letters
        more = self._dead_letters_seen - known
        if more or waiting:
            try:
                self._dead_letters.count(more, waiting, asyncio.get_running_loop().time())
            except TooManyDeadLetters:
                self._unread = 0 if self._connection is None else self._connection.unread
                raise

    def log_contradictions(self, session: Session) -> None:
        """Log what the session found that is not as it should be; it is queued."""
        for outcome, content in session.take_contradictions():
            self.counters.on_contradiction(outcome, content)
            self._has_work(self)

    def _set_timer(self, session: Session) -> None:
        if self._timer is None and session.deadline is not None:
            deadline = session.deadline
            self._timer = asyncio.get_running_loop().call_at(deadline, self._expire, session, deadline)

    def _expire(self, session: Session, deadline: float) -> None:
        self._timer = None
        if session is not self.session:
            return
        self.touch()
        try:
            session.expire(max(deadline, asyncio.get_running_loop().time()))  # a loop may call a nanosecond early
            self.log_contradictions(session)
            self._has_work(self)
            self._set_timer(session)
            self.count_dead_letters(session)
        except Exception as error:  # noqa: BLE001 - it ends the account's task, and not only this callback
            self._failure = error
            self._release.set()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # What is done over a connection ---------------------------------------------------------------------

    def on_page(self, session: Session, before: SessionCounts) -> None:
        """A page was taken in; `before` is what the session had counted until then."""
        counts = session.counts
        self._measure_memory(session)
        self.source.counters.unpushed += counts.unpushed - before.unpushed
        self.counters.on_unpublished(STRAY, counts.strays - before.strays)
        self.counters.on_unpublished(FORGOTTEN, counts.forgotten_identities - before.forgotten_identities)
        self.log_contradictions(session)
        if session.has_batch:
            self.has_work()
        self._set_timer(session)
        if session.state is State.LIVE:
            self._dead_letters.none_waits()
        self.count_dead_letters(session)

    def has_work(self) -> None:
        """The session may have a batch to take."""
        self._has_work(self)

    def on_session_state(self, session: Session) -> None:
        """Note where the session stands now; whatever went wrong before is over."""
        self.touch()
        self.last_error = self._state = None
        state, latest = session.state.value, session.latest
        get_logger(account=self.name).info("the account changed its state", state=state, latest=latest)

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

    async def until_answered(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Call until the hub gives an answer, or the connection is given up after too many failures in a row."""
        backoff = Backoff(cap=MAX_CALL_DELAY_S)
        while True:
            try:
                return await call()
            except (CallFailed, CallRejected, CallTimedOut) as error:
                self.on_call_failed(error)
            await asyncio.sleep(backoff.next_delay())

    def on_call_failed(self, error: HubError) -> None:
        """A call failed, and is made again."""
        self.touch()
        self.last_error = str(error)
        get_logger(account=self.name).warning("a call to the hub failed", error=str(error))


def _most_telling(group: BaseExceptionGroup[HubError | Diverged]) -> HubError | Diverged:
    """Of what ended a connection, give what says most: a divergence, else the loss that made calls fail."""
    errors: list[HubError | Diverged] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop()
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        elif isinstance(error, HubError | Diverged):
            errors.append(error)
    order = (Diverged, TooManyDeadLetters, _Released, ConnectionLost, HubError)
    return min(errors, key=lambda error: next(rank for rank, kind in enumerate(order) if isinstance(error, kind)))
