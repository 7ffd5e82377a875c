"""The work over one connection: subscribe, page, audit, and change the subscription when the desired one changes."""

from __future__ import annotations

import asyncio
import time
from random import uniform
from typing import TYPE_CHECKING, Final, NoReturn

from gateway.broker.control_view import VersionedDesired
from gateway.errors import ConnectionLost
from gateway.events.times import TICKS_PER_SECOND, ticks
from gateway.hub.methods import Hub, Latest
from gateway.replica.source.catch_up_span import CatchUpSpan
from gateway.replica.source.hub_calls import until_answered
from gateway.replica.source.prefetch import PagePrefetcher, decode
from gateway.replica.source.subscription import subscription_of
from gateway.replica.source.unservable import UnservableEvents
from gateway.session.session import Session
from gateway.session.subscriptions import Strategies, check_strategies
from gateway.session.types import Page, State
from gateway.telemetry.logs import get_logger
from gateway.together import same_tick

if TYPE_CHECKING:
    from gateway.replica.source.account import Account

_POLL_INTERVAL_S: Final = 0.25
"""Seconds between pages at the end of a history that does not yet show what was pushed."""
_DEAF: Final = 6
"""After at most two to this power audits, a hub that pushes nothing is connected to again."""
_MISSED: Final = 3
"""Events that it must not have pushed by then: of one or two the pushes may have been lost."""
_SOON: Final = 1.0
"""Seconds to an audit that looks for one push."""
_MAX_POLL_INTERVAL_S: Final = 2.0
"""Seconds to which that grows while nothing new is shown."""


async def sync(account: Account, hub: Hub, pages: PagePrefetcher, subject: str | None) -> NoReturn:
    """Subscribe, then serve one session after the other; `subject` is the key's.

    Raises Diverged, and HubError when the connection ends.
    """
    session = account.session
    if session is not None:
        session.on_connected(subject)
    await account.subscription.widen(hub, _subscriptions_at_hub(account))
    while True:
        if session is not None and session is account.session:
            session.on_subscribed()
            try:
                await SyncLoop(account, hub, pages, session).serve()
            finally:
                pages.discard()
        session = await account.next_session()
        session.on_connected(subject)


def _subscriptions_at_hub(account: Account) -> Strategies:
    """Return all that must be pushed: the effective subscription, and the desired one."""
    held = None if account.session is None else account.session.strategies
    desired = held if account.desired.desired is None else subscription_of(account.desired.desired.strategies)
    return None if held is None or desired is None else held | desired


class SyncLoop:
    """One session over one connection."""

    def __init__(self, account: Account, hub: Hub, pages: PagePrefetcher, session: Session) -> None:
        self._account = account
        self._hub = hub
        self._pages = pages
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._audit_at = self._next_audit()
        self._poll = _POLL_INTERVAL_S
        self._unpushed, self._pushes, self._deaf = session.counts.unpushed, account.link.pushes, 0
        self._missed = self._partly_deaf = 0
        self._highest = session.highest
        self._catching_up = CatchUpSpan(account, session)

    async def serve(self) -> None:
        """Page and audit until the session is replaced."""
        with self._catching_up.until_done():
            await self._serve()

    async def _serve(self) -> None:
        account, session = self._account, self._session
        was = session.state
        while session is account.session:
            if session.state is not was:
                was = session.state
                account.on_session_state(session)
                self._catching_up.update()
            if await self._change_subscription():
                continue
            if session.wants_latest or session.history.wants() is None:
                self._pages.discard()
            if session.wants_latest:
                await self._refresh_latest()
                if session.wants_latest:
                    await asyncio.sleep(_POLL_INTERVAL_S)
            elif session.history.wants() is not None:
                await self._fetch_page()
            elif session.state is not State.LIVE:
                await account.wait_for_change()
            elif not await account.wait_for_change(self._until_audit()):
                await self._audit()

    async def _change_subscription(self) -> bool:
        """Do the next step towards the subscription that is wanted; return False where nothing is to be done.

        What comes with it is pushed before it holds, and what goes is pushed until then.
        """
        account, session, desired = self._account, self._session, self._account.desired.desired
        if desired is not None and subscription_of(desired.strategies) != session.strategies:
            wanted, log = subscription_of(desired.strategies), get_logger(account=account.name)
            try:
                check_strategies(wanted)
            except ValueError as error:
                account.desired = VersionedDesired(None, account.desired.revision)
                log.error("desired subscription is invalid", error=str(error))
                return False
            await account.subscription.widen(self._hub, wanted)
            account.touch()
            session.subscribe(wanted)
            log.info("subscription changing", strategies="all" if wanted is None else len(wanted))
        elif not session.is_changing and account.subscription.exceeds(session.strategies):
            await account.subscription.narrow(self._hub, session.strategies)
            account.touch()
        else:
            return False
        return True

    async def _fetch_page(self) -> None:
        session = self._session
        ended = await self._merge_page()
        if ended and session.state is State.CATCHING_UP and session is self._account.session:
            self._poll = (
                _POLL_INTERVAL_S if session.highest > self._highest else min(2 * self._poll, _MAX_POLL_INTERVAL_S)
            )
            self._highest = session.highest
            self._pages.discard()
            await asyncio.sleep(uniform(self._poll / 2, self._poll))  # noqa: S311 - jitter
            await self._refresh_latest()

    async def _merge_page(self) -> bool:
        """Get the page that the session wants, when there is room for it; return True when the next can wait."""
        account, session, pages = self._account, self._session, self._pages
        asked = await pages.get(
            lambda: session.history.wants() if session is account.session else None,
            lambda: session.history.may_pass,
            gives_way=session.state is State.LIVE,  # an audit can wait, and a catch-up cannot
        )
        if asked is None:
            return False
        with asked.reservation.until_done():
            try:
                answer = await asked.answer
            except UnservableEvents as error:
                self._skip_unservable(error)
                return False
            if session is not account.session:
                return False
            if answer is None:
                session.history.on_token_refused()
                return True  # not at once: it may be refused again
            if answer.envelopes:
                pages.prefetch(session.history.wants_next(answer.token))
            contents = await decode(account.source.decoder, account.name, answer.envelopes)
            if session is not account.session:
                return False
            account.touch()
            before = session.counts
            page = Page(asked.request, contents, answer.token, is_full=answer.is_full)
            ended = session.history.on_page(page, self._loop.time())
            self._catching_up.on_page(contents)
            account.on_page(session, before)
        return ended

    def _skip_unservable(self, passed: UnservableEvents) -> None:
        get_logger(account=self._account.name).error(
            "hub cannot return these events: skipping them and announcing a gap",
            since=passed.since,
            through=passed.through,
        )
        if self._session is self._account.session:
            self._account.touch()
            self._session.history.pass_over(passed.since, passed.through)

    async def _audit(self) -> None:
        """Look at the history again from what is verified."""
        await self._wait_live()
        await self._account.subscription.renew(self._hub, self._session.strategies)
        await self._refresh_latest()
        self._session.history.audit()
        self._audit_at = self._next_audit()

    async def _wait_live(self) -> None:
        """Subscribe again where the hub pushes nothing though it has events, and then reconnect.

        A hub that pushes some is subscribed to again as well, ever less often: a strategy may be new there. A hub that
        goes on pushing nothing is connected to ever less often: the audits find everything, only later. Raises
        ConnectionLost.
        """
        account, session = self._account, self._session
        unpushed = session.counts.unpushed
        found, self._unpushed = unpushed - self._unpushed, unpushed
        pushed, self._pushes = account.link.pushes - self._pushes, account.link.pushes
        if pushed:
            self._deaf = self._missed = account.link.deaf_connections = 0
        self._partly_deaf = self._partly_deaf + 1 if pushed and found else 0
        if self._partly_deaf > 1 and self._partly_deaf.bit_count() == 1:
            get_logger(account=account.name).warning(
                "hub does not push all of its events, resubscribing", events=found, audits=self._partly_deaf
            )
            account.subscription.expire()
        if pushed or not found:
            return
        self._deaf += 1
        self._missed += found
        log = get_logger(account=account.name)
        if self._deaf == 1:
            log.warning("hub pushes nothing although it has events, resubscribing", events=found)
            account.subscription.expire()
        elif self._deaf > 2 ** min(account.link.deaf_connections, _DEAF) and self._missed >= _MISSED:
            account.link.deaf_connections += 1
            raise ConnectionLost(f"the hub pushed nothing, though it had events ({self._deaf} audits)", reason="deaf")

    def _until_audit(self) -> float:
        """Return the seconds until the next audit, which comes soon where a push is doubtful."""
        if self._session.history.wants_audit:
            self._audit_at = min(self._audit_at, self._loop.time() + _SOON)
        return self._audit_at - self._loop.time()

    def _next_audit(self) -> float:
        interval = self._account.source.audit_interval
        return same_tick(self._loop.time() + interval * uniform(0.8, 1.2), interval)  # noqa: S311 - jitter

    async def _refresh_latest(self) -> None:
        latest, asked = await until_answered(self._ask_latest, self._account.on_call_failed)
        self._account.touch()
        offset = self._account.source.counters.hub_offset
        offset.on_time(asked, time.time(), ticks(latest.time) / TICKS_PER_SECOND)
        self._session.on_latest(latest.sequence, latest.time, time.time())
        self._account.log_contradictions(self._session)
        self._account.lag.answered_at = time.monotonic()
        if self._session.has_batch:
            self._account.has_work()
        self._account.count_dead_letters(self._session)

    async def _ask_latest(self) -> tuple[Latest, float]:
        """Request the latest sequence; the answer has the time of the request, in Unix time."""
        asked = time.time()
        return await self._hub.latest(), asked
