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
from gateway.hub import EventsPage, Hub
from gateway.replica.access import HubAccess
from gateway.replica.backoff import Backoff
from gateway.replica.budget import Share
from gateway.session.facts import Outcome, Page, PageRequest, State, size_of
from gateway.session.session import Session
from gateway.signalr.bearer import subject as subject_of
from gateway.signalr.connection import connect
from gateway.telemetry.logs import get_logger

_POLL: Final = 0.25
"""Seconds between pages at the end of a history that does not yet show what was pushed."""
_PAGE_TOO_MUCH: Final = {"too-large", "silent"}
"""Reasons of a lost connection that a smaller page may avoid: above the record limit, or slower than a ping."""
_CALL_CAP: Final = 10.0
"""Seconds that the longest delay between two tries of a call may take."""
_REFUSED_DELAY: Final = 15.0
"""Seconds before a refused key is tried again, at the least: it is read afresh each time."""

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
    _share: Share = field(init=False)

    def __post_init__(self) -> None:
        """Take part in the budget."""
        self._share = self._access.budget.share()

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
        self._poke.set()

    def made_room(self) -> None:
        """The shard took a batch: there may be room for a page."""
        if self.session is not None:
            self._share.hold(self.session.queued_bytes)
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
                self._failed(error, "diverged", Activity.DIVERGED)
                log.error("the account stands still: its history is not the one published so far", error=str(error))
                session = self.session
                while self.session is session:
                    await self._poked()
                continue
            except (HubError, ConfigurationError) as error:
                reason = getattr(error, "reason", "call")
                self._failed(error, reason, None)
                retry_after = getattr(error, "retry_after", None)
                delay = backoff.next_delay(lasted=loop.time() - began, at_least=retry_after)
                log.warning("the hub is away", reason=reason, error=str(error), retry_in=round(delay, 2))
            await asyncio.sleep(delay)

    def _failed(self, error: Exception, reason: str, activity: Activity | None) -> None:
        self.counts[f"disconnect:{reason}"] += 1
        self.trouble = str(error)
        self._activity = activity

    async def _connect_and_follow(self) -> None:
        async with self._access.connecting:
            key = await asyncio.to_thread(self._access.keys.key, self.name)
            connection = await connect(self._access.transport, self._access.url, key)
        self.counts["connects"] += 1
        self._activity = None
        ended: HubError | Diverged | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(connection.run(self._on_push))
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
        self._share.hold(session.queued_bytes)
        self.counts[f"push:{outcome.value}"] += 1
        if outcome in {Outcome.QUEUED, Outcome.LATE}:
            self._has_work(self)
        elif outcome is Outcome.HELD and session.state is State.LIVE:
            self._set_timer(session)
        if was_live and session.state is not State.LIVE:
            self._poke.set()

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
        await self._until_answered(lambda: hub.subscribe(None))
        while True:
            if session is not None and session is self.session:
                session.subscribed()
                await self._serve(hub, session)
            session = await self._next_session()
            session.connected(subject)

    async def _next_session(self) -> Session:
        while self.session is None:
            await self._attached.wait()
        return self.session

    async def _serve(self, hub: Hub, session: Session) -> None:
        """Page and audit for `session` until it is replaced."""
        log = get_logger(account=self.name)
        loop = asyncio.get_running_loop()
        was, next_audit = session.state, self._next_audit(loop)
        while session is self.session:
            if session.wants_latest:
                await self._tell_latest(hub, session)
            if session.wants() is not None:
                ended = await self._page(hub, session)
                if session is not self.session:
                    return
                if session.state is not was:
                    was = session.state
                    log.info("the account changed its state", state=was.value, latest=session.latest)
                    self.trouble = None
                if ended and session.state is State.CATCHING_UP:
                    await asyncio.sleep(uniform(_POLL / 2, _POLL))  # noqa: S311 - jitter
                    await self._tell_latest(hub, session)
            elif session.state is State.LIVE:
                if not await self._poked(next_audit - loop.time()):
                    await self._tell_latest(hub, session)
                    session.audit()
                    next_audit = self._next_audit(loop)
            else:
                await self._poked()
                was = session.state

    async def _page(self, hub: Hub, session: Session) -> bool:
        """Get the page that `session` wants, when there is room for it; give True when the next can wait."""
        reservation = await self._share.reserve(self._access.page_limit.expected_bytes)
        with reservation.until_done():
            request = session.wants()
            if request is None or session is not self.session:
                return False
            answer = await self._ask_page(hub, request)
            if session is not self.session:
                return False
            if answer is None:
                session.token_refused()
                return True  # not at once: it may be refused again
            contents = [decode_envelope(self.name, envelope) for envelope in answer.envelopes]
            ended = session.paged(Page(request, contents, answer.token), asyncio.get_running_loop().time())
            self._share.hold(session.queued_bytes)
        self.counts["pages"] += 1
        self._has_work(self)
        self._set_timer(session)
        return ended

    async def _ask_page(self, hub: Hub, request: PageRequest) -> EventsPage | None:
        """Ask until the hub answers, for fewer events where it wants so; None where it refuses the token."""
        limit = self._access.page_limit
        backoff = Backoff(cap=_CALL_CAP)
        while True:
            asked = limit.asks
            try:
                page = await hub.events_since(request.since, asked, request.token)
            except ConnectionLost as error:
                if error.reason in _PAGE_TOO_MUCH:
                    limit.lower(asked, refused=error.reason == "too-large")
                raise
            except CallRejected as error:
                self._note_call(error)
                if _is_about_limit(error) and limit.lower(asked, refused=True):
                    continue
                if request.token is not None:
                    return None
            except (CallFailed, CallTimedOut) as error:
                self._note_call(error)
                if isinstance(error, CallTimedOut):
                    limit.lower(asked, refused=False)
            else:
                limit.served(page.envelopes)
                return page
            await asyncio.sleep(backoff.next_delay())

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
        backoff = Backoff(cap=_CALL_CAP)
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


def _is_about_limit(error: CallRejected) -> bool:
    return any("limit" in field.lower() for field in error.fields) or "limit" in (error.detail or "").lower()


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
