"""One account at work: the connection to the hub, every retry towards the hub, and all of its timers.

The session says what to do; this does it. The connection outlives a session: when the shard opens its log
again, it attaches a new session, which pages history over the connection that stands.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from random import uniform
from typing import Final, NoReturn, TypeVar

from gateway.errors import (
    CallFailed,
    CallRejected,
    CallTimedOut,
    ConfigurationError,
    ConnectionLost,
    Diverged,
    HubError,
    Refused,
)
from gateway.events.decode import decode_envelope, decode_push
from gateway.events.event import DeadLetter
from gateway.hub import Hub
from gateway.replica.access import HubAccess
from gateway.replica.backoff import Backoff
from gateway.replica.budget import Share
from gateway.replica.history import CALL_CAP, History
from gateway.replica.restraint import Restraint
from gateway.session.facts import Outcome, Page, State, size_of
from gateway.session.session import Session
from gateway.signalr.bearer import subject as subject_of
from gateway.signalr.connection import connect
from gateway.telemetry.logs import get_logger

_POLL: Final = 0.25
"""Seconds between pages at the end of a history that does not yet show what was pushed."""
_LONGEST_POLL: Final = 2.0
"""Seconds to which that grows while nothing new is shown."""
_DIVERGED_DELAY: Final = 60.0
"""Seconds before a history that diverged is looked at again; at once when the key was changed."""
_KEY_POLL: Final = 5.0
"""Seconds between looks at the key of an account that stands still."""
_RESUBSCRIBE: Final = 600.0
"""Seconds between two subscriptions over one connection: a strategy that was made since may not be covered."""
_REFUSED_DELAY: Final = 15.0
"""Seconds before a refused key is tried again, at the least: it is read afresh each time."""

_PUSHED: Final = {outcome: f"push:{outcome.value}" for outcome in Outcome}
_UNPLACED: Final = {
    f"push:{Outcome.STALE.value}": "pushed events are too old to place, and are not published",
    "forgotten": "more events have no EventSeqId than can be remembered: they may be published again",
    "strays": "events of the history are out of place, below what was verified, and are not published",
}

_Answer = TypeVar("_Answer")


class Activity(Enum):
    """What an account is doing: the session's states, and what only the account knows."""

    OFFLINE = "offline"
    CATCHING_UP = "catching_up"
    LIVE = "live"
    REFUSED = "refused"
    DIVERGED = "diverged"
    FENCED = "fenced"


@dataclass(slots=True)
class Account:
    """One account of this replica."""

    name: str
    _access: HubAccess
    _has_work: Callable[[Account], None]
    """Called when the session may have a batch to take."""
    session: Session | None = None
    counts: Counter[str] = field(default_factory=Counter)
    """Pushes and pages by outcome, disconnects by reason."""
    trouble: str | None = None
    """The last error, for people."""
    _activity: Activity | None = None
    _attached: asyncio.Event = field(default_factory=asyncio.Event)
    _poke: asyncio.Event = field(default_factory=asyncio.Event)
    _timer: asyncio.TimerHandle | None = None
    _subscribe_at: float = 0.0
    _failed_strategies: tuple[int, ...] = ()
    _restraint: Restraint = field(default_factory=Restraint)
    _share: Share = field(init=False)
    _history: History = field(init=False)

    def __post_init__(self) -> None:
        """Take part in the budget."""
        self._share = self._access.budget.share()
        self._history = History(self.name, self._access.page_limit, self._note_call)

    @property
    def activity(self) -> Activity:
        """What the account is doing."""
        if self._activity is not None:
            return self._activity
        return Activity(self.session.state.value) if self.session is not None else Activity.OFFLINE

    def attach(self, session: Session) -> None:
        """Go on with `session`: the shard has opened its log."""
        self.session = session
        if self._activity in {Activity.DIVERGED, Activity.FENCED}:
            self._activity = None
        self._attached.set()
        self._poke.set()

    def detach(self, activity: Activity | None = None) -> None:
        """Let the session go: the shard has no log now. Pushes are dropped; history gives them again."""
        self.session = None
        self._share.hold(0)
        self._activity = activity
        self._attached.clear()
        self._restraint.took()
        self._poke.set()

    def _hold(self, session: Session) -> None:
        self._share.hold(session.queued_bytes, session.waiting_bytes)

    def took(self) -> None:
        """The shard took a batch: more pushes may be read."""
        self._restraint.took()

    def _pause(self) -> Awaitable[None] | None:
        return self._restraint.pause(pressed=self.session is not None and self.session.pressed)

    def made_room(self) -> None:
        """A batch is committed: there may be room for a page."""
        if self.session is not None:
            self._hold(self.session)
            if self.session.wants_latest or self.session.wants() is not None:
                self._poke.set()

    async def run(self) -> NoReturn:
        """Keep a connection to the hub, for ever."""
        log = get_logger(account=self.name)
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        while True:
            await self._attached.wait()
            began = loop.time()
            try:
                await self._connect_and_follow()
            except Refused as error:
                self._failed(error, error.reason, Activity.REFUSED)
                delay = backoff.next_delay(at_least=max(_REFUSED_DELAY, error.retry_after or 0))
                log.error("the hub refuses the account's key", error=str(error), retry_in=round(delay, 1))
            except Diverged as error:
                if str(error) != self.trouble:
                    log.error("the account stands still: its history is not the one published so far", error=str(error))
                self._failed(error, "diverged", Activity.DIVERGED)
                await self._stand_still()
                continue
            except ConfigurationError as error:
                self._failed(error, "key", None)
                delay = backoff.next_delay()
                log.error("the account's key cannot be read", error=str(error), retry_in=round(delay, 2))
            except HubError as error:
                reason = getattr(error, "reason", "call")
                self._failed(error, reason, None)
                retry_after = getattr(error, "retry_after", None)
                delay = backoff.next_delay(lasted=loop.time() - began, at_least=retry_after)
                log.warning("the hub is away", reason=reason, error=str(error), retry_in=round(delay, 2))
            await asyncio.sleep(delay)

    async def _stand_still(self) -> None:
        """Wait until another look may show another history: with a new session, a new key, or after a while."""
        session, key = self.session, await self._key()
        again = asyncio.get_running_loop().time() + _DIVERGED_DELAY * uniform(1, 1.5)  # noqa: S311 - jitter
        while self.session is session and asyncio.get_running_loop().time() < again and await self._key() == key:
            await self._poked(_KEY_POLL)

    async def _key(self) -> str | None:
        try:
            return await asyncio.to_thread(self._access.keys.key, self.name)
        except ConfigurationError:
            return None

    def _failed(self, error: Exception, reason: str, activity: Activity | None) -> None:
        self.counts[f"disconnect:{reason}"] += 1
        self.trouble = str(error)
        self._activity = activity

    async def _connect_and_follow(self) -> None:
        async with self._access.connecting:
            key = await asyncio.to_thread(self._access.keys.key, self.name)
            connection = await connect(self._access.transport, self._access.url, key)
        self.counts["connects"] += 1
        if self._activity is not Activity.DIVERGED:  # that is so until its history was looked at
            self._activity = None
        ended: HubError | Diverged | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(connection.run(self._on_push, self._pause))
                tasks.create_task(self._follow(Hub(connection), subject_of(key)))
        except* (HubError, Diverged) as group:
            ended = _most_telling(group)
        finally:
            self._cancel_timer()
            if self.session is not None:
                self.session.dropped()
            await connection.close()
        assert ended is not None  # noqa: S101 - neither task returns
        raise ended

    # Pushes ---------------------------------------------------------------------------------------------

    def _on_push(self, target: str, arguments: list[bytes]) -> None:
        session = self.session
        if session is None or session.state is State.OFFLINE:
            return  # history will give it
        if len(arguments) == 1 and target:
            content = decode_push(self.name, target, arguments[0])
        else:
            raw = arguments[0] if arguments and not target else b"[" + b",".join(arguments) + b"]"
            detail = "not a SignalR record" if not target else f"{len(arguments)} arguments instead of one"
            content = DeadLetter(self.name, "malformed-json", detail, target or "record", raw)
        was_live = session.state is State.LIVE
        room = self._share.has_room(size_of(content))
        outcome = session.pushed(content, asyncio.get_running_loop().time(), room=room)
        self._hold(session)
        self._count(_PUSHED[outcome], 1)
        if outcome is Outcome.QUEUED or outcome is Outcome.LATE:
            self._has_work(self)
        elif outcome is Outcome.HELD and session.state is State.LIVE:
            self._set_timer(session)
        if was_live and session.state is not State.LIVE:
            self._poke.set()

    def _count(self, what: str, more: int) -> None:
        """Count, and tell of what is not published: the first time, the tenth, the hundredth."""
        after = self.counts[what] + more
        self.counts[what] = after
        before = after - more
        if what in _UNPLACED and more and len(str(after)) > (len(str(before)) if before else 0):
            get_logger(account=self.name).warning(_UNPLACED[what], count=after)

    def _set_timer(self, session: Session) -> None:
        if self._timer is None and session.deadline is not None:
            self._timer = asyncio.get_running_loop().call_at(session.deadline, self._expire, session)

    def _expire(self, session: Session) -> None:
        self._timer = None
        if session is self.session:
            session.expire(asyncio.get_running_loop().time())
            self._has_work(self)
            self._set_timer(session)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # History --------------------------------------------------------------------------------------------

    async def _follow(self, hub: Hub, subject: str | None) -> NoReturn:
        """Subscribe, then serve one session after the other over this connection."""
        session = self.session
        if session is not None:
            session.connected(subject)
        await self._subscribe(hub)
        while True:
            if session is not None and session is self.session:
                session.subscribed()
                await self._serve(hub, session)
            session = await self._next_session()
            session.connected(subject)

    async def _subscribe(self, hub: Hub) -> None:
        """Subscribe to all strategies; those that the hub does not give are asked for at the next audit again."""
        answer = await self._until_answered(lambda: hub.subscribe(None))
        again = asyncio.get_running_loop().time() + _RESUBSCRIBE
        self._subscribe_at = 0.0 if answer.failed else again
        if answer.failed != self._failed_strategies:
            self._failed_strategies = answer.failed
            get_logger(account=self.name).warning("the hub's answer to the subscription", failed=list(answer.failed))

    async def _next_session(self) -> Session:
        while self.session is None:
            await self._attached.wait()
        return self.session

    async def _serve(self, hub: Hub, session: Session) -> None:
        """Page and audit for `session` until it is replaced."""
        loop = asyncio.get_running_loop()
        was, next_audit = session.state, self._next_audit(loop)
        poll, highest = _POLL, session.highest
        while session is self.session:
            if session.state is not was:
                was = session.state
                self._changed_state(session)
            if session.wants_latest:
                await self._tell_latest(hub, session)
                if session.wants_latest:
                    await asyncio.sleep(_POLL)
            elif session.wants() is not None:
                ended = await self._page(hub, session)
                if ended and session.state is State.CATCHING_UP and session is self.session:
                    poll = _POLL if session.highest > highest else min(2 * poll, _LONGEST_POLL)
                    highest = session.highest
                    await asyncio.sleep(uniform(poll / 2, poll))  # noqa: S311 - jitter
                    await self._tell_latest(hub, session)
            elif session.state is not State.LIVE:
                await self._poked()
            elif not await self._poked(next_audit - loop.time()):
                await self._audit(hub, session)
                next_audit = self._next_audit(loop)

    def _changed_state(self, session: Session) -> None:
        """Note where the session stands now; whatever went wrong before is over."""
        self.trouble = self._activity = None
        state, latest = session.state.value, session.latest
        get_logger(account=self.name).info("the account changed its state", state=state, latest=latest)

    async def _audit(self, hub: Hub, session: Session) -> None:
        """Look at the history again from what is verified."""
        if asyncio.get_running_loop().time() >= self._subscribe_at:
            await self._subscribe(hub)
        await self._tell_latest(hub, session)
        session.audit()

    async def _page(self, hub: Hub, session: Session) -> bool:
        """Get the page that `session` wants, when there is room for it; give True when the next can wait."""
        await self._history.rest()
        reservation = await self._share.reserve(self._access.page_limit.expected_bytes)
        with reservation.until_done():
            request = session.wants()
            if request is None or session is not self.session:
                return False
            answer = await self._history.page(hub, request)
            if session is not self.session:
                return False
            if answer is None:
                session.token_refused()
                return True  # not at once: it may be refused again
            contents = [decode_envelope(self.name, envelope) for envelope in answer.envelopes]
            strays, forgotten = session.strays, session.forgotten
            ended = session.paged(Page(request, contents, answer.token), asyncio.get_running_loop().time())
            self._hold(session)
        self.counts["pages"] += 1
        self._count("strays", session.strays - strays)
        self._count("forgotten", session.forgotten - forgotten)
        self._has_work(self)
        self._set_timer(session)
        return ended

    def _next_audit(self, loop: asyncio.AbstractEventLoop) -> float:
        return loop.time() + self._access.audit_interval * uniform(0.8, 1.2)  # noqa: S311 - jitter

    async def _tell_latest(self, hub: Hub, session: Session) -> None:
        latest = await self._until_answered(hub.latest)
        session.told_latest(latest.sequence, latest.time)
        self._has_work(self)

    async def _poked(self, limit: float | None = None) -> bool:
        """Wait for `_poke`; give False after `limit` seconds without it."""
        try:
            async with asyncio.timeout(limit):
                await self._poke.wait()
        except TimeoutError:
            return False
        self._poke.clear()
        return True

    async def _until_answered(self, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Call until the hub gives an answer: a failed call is no reason to drop the connection."""
        backoff = Backoff(cap=CALL_CAP)
        while True:
            try:
                return await call()
            except (CallFailed, CallRejected, CallTimedOut) as error:
                self._note_call(error)
            await asyncio.sleep(backoff.next_delay())

    def _note_call(self, error: HubError) -> None:
        self.counts["failed calls"] += 1
        self.trouble = str(error)
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
    return min(errors, key=lambda error: (not isinstance(error, Diverged), not isinstance(error, ConnectionLost)))
