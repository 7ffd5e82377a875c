"""Keeps one account connected to the hub: connect, serve sessions, back off. The only retry of connections."""

from __future__ import annotations

import asyncio
from random import uniform
from traceback import clear_frames, walk_tb
from typing import Final, NoReturn

from gateway.backoff import Backoff
from gateway.errors import (
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    Diverged,
    HubError,
    TooManyDeadLetters,
    Unauthorized,
    forget_frames,
)
from gateway.hub.methods import Hub
from gateway.replica.source.account import Account
from gateway.replica.source.counts import LOST
from gateway.replica.source.history_client import HistoryClient
from gateway.replica.source.hub_link import Released
from gateway.replica.source.prefetch import PagePrefetcher
from gateway.replica.source.push_receiver import PushReceiver
from gateway.replica.source.retry import Retry, retry_of
from gateway.replica.source.sync import sync
from gateway.session.session import Session
from gateway.signalr.connection import HubConnection
from gateway.signalr.jwt import subject_of
from gateway.tasks import run_apart
from gateway.telemetry.logs import bind, get_logger
from gateway.telemetry.span import NO_SPAN

_KEY_POLL_INTERVAL_S: Final = 2.0
"""Seconds between looks at the key of an account that is unauthorized or halted."""


class Supervisor:
    """Makes the connections of one account, one after the other."""

    __slots__ = ("_account", "_history", "_tried_key")

    def __init__(self, account: Account) -> None:
        source = account.source
        self._account = account
        self._history = HistoryClient(
            account.name, source.page_size, account.on_call_failed, skip_after=source.skip_poison_after
        )
        self._tried_key: str | None = None  # with which the last connection was made, or tried

    async def run(self) -> NoReturn:
        """Keep a connection to the hub whenever the account runs and its shard has a log."""
        account = self._account
        bind(account=account.name)
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        while True:
            await account.until_runnable()
            account.link.hold()
            NO_SPAN.activate()
            began = loop.time()
            try:
                await self._connect_and_follow()
            except Released as released:
                account.counters.on_disconnected("released")
                account.has_work()  # what can only be done at rest
                get_logger(account=account.name).info("hub connection released", why=str(released))
                continue
            except (HubError, Diverged, ConfigurationError) as error:
                retry = retry_of(error)
                delay = _delay(retry, backoff, lasted=loop.time() - began)
                self._log(error, retry, delay)
                account.on_connection_failed(error, retry.reason, retry.state)
            if retry.is_mendable:  # not in the handler, where the error keeps what it met
                await self._wait_until_mended(delay)
            else:
                await account.link.wait_released(delay)

    def _log(self, error: HubError | Diverged | ConfigurationError, retry: Retry, delay: float) -> None:
        log = get_logger(account=self._account.name)
        match error:
            case Unauthorized():
                log.error("hub rejected the account's key", error=str(error), retry_in=round(delay, 1))
            case Diverged():
                if str(error) != self._account.last_error:
                    log.error("account halted: hub history diverges from published events", error=str(error))
            case ConfigurationError():
                log.error("account key file is unreadable", error=str(error), retry_in=round(delay, 2))
            case TooManyDeadLetters():
                log.error("account halted: too many dead letters", error=str(error), unread=error.unread)
            case _:
                log.warning(
                    "hub unavailable, reconnecting", reason=retry.reason, error=str(error), retry_in=round(delay, 2)
                )

    async def _wait_until_mended(self, delay: float) -> None:
        """Wait until another try may end otherwise: with a new session, a new key, when asked, or after a while."""
        account = self._account
        session, key = account.session, self._tried_key  # it may have been fixed since
        again = asyncio.get_running_loop().time() + delay
        while account.session is session and not account.link.is_released and await self._key() == key:
            left = again - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await account.wait_for_change(min(left, _KEY_POLL_INTERVAL_S))

    async def _key(self) -> str | None:
        try:
            return await asyncio.to_thread(self._account.source.keys.key, self._account.name)
        except ConfigurationError:
            return None

    async def _connect(self) -> tuple[HubConnection, str]:
        """Return a connection, and the key that it was made with; its span, if it failed, is that of the log's line."""
        account, source = self._account, self._account.source
        async with source.connecting:
            await source.rate_limiter.acquire()
            key = self._tried_key = await asyncio.to_thread(source.keys.key, account.name)
            span = account.link.connect_span = source.tracer.connect(account.name, source.url)
            span.activate()
            try:
                connection = await source.connect(source.url, key, span.event)
            except BaseException as error:
                span.fail(error)
                if isinstance(error, ConnectFailed) and not isinstance(error, Unauthorized):
                    source.rate_limiter.on_failure()
                raise
            source.rate_limiter.on_success()
        span.end()
        NO_SPAN.activate()
        return connection, key

    async def _connect_and_follow(self) -> None:
        self._account.counters.on_connecting()
        connection, key = await self._connect()
        try:
            await run_apart(self._follow(connection, key))
        except BaseException as error:
            for frame, _ in walk_tb(error.__traceback__):
                if frame.f_code is Supervisor._follow.__code__:
                    frame.clear()  # it is done, and refers to the error and to the connection
            raise
        finally:
            await connection.close()

    async def _follow(self, connection: HubConnection, key: str) -> NoReturn:
        """Serve sessions over a connection until it ends; raises HubError, Diverged."""
        account, link = self._account, self._account.link
        receiver = PushReceiver(account)
        connection.on_large, connection.on_growth = receiver.on_large, receiver.measure
        account.on_connected(connection)
        ended: HubError | Diverged | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(connection.run(receiver.on_push, receiver.pause, receiver.on_record))
                link.hub = hub = Hub(connection)
                pages = PagePrefetcher(self._history, hub, account.memory, tasks)
                tasks.create_task(sync(account, hub, pages, subject_of(key)))
                tasks.create_task(link.until_released())
        except* (HubError, Diverged) as group:
            ended = _root_cause(group)
            clear_frames(group.__traceback__)  # the task group's own, which refers to what it raised
            forget_frames(group)
        finally:
            account.on_disconnected()
            if account.session is not None:
                self._drop(account.session)
        assert ended is not None  # noqa: S101 - neither task returns
        raise ended

    def _drop(self, session: Session) -> None:
        """The connection of `session` is gone: what of it cannot be trusted is discarded, the rest is held."""
        account = self._account
        lost = session.counts.lost_dead_letters
        discarded = session.on_disconnected()
        account.memory.measure(session)
        account.dead_letters.none_waits()
        account.counters.on_unpublished(LOST, session.counts.lost_dead_letters - lost)
        if discarded:
            get_logger(account=account.name).warning(
                "discarded pushes of an unverified connection: history will return them",
                count=discarded,
            )


def _delay(retry: Retry, backoff: Backoff, *, lasted: float) -> float:
    """Return the seconds until the next try, after a connection that `lasted`, or a try that did."""
    if retry.instead is not None:
        return retry.instead * uniform(1, 1.5)  # noqa: S311 - jitter
    return backoff.next_delay(lasted=lasted if retry.is_outage else 0.0, at_least=retry.at_least)


def _root_cause(group: BaseExceptionGroup[HubError | Diverged]) -> HubError | Diverged:
    """Return the error that explains best why a connection ended: a divergence, else the loss that made calls fail."""
    errors: list[HubError | Diverged] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop()
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        elif isinstance(error, HubError | Diverged):
            errors.append(error)
    order = (Diverged, TooManyDeadLetters, Released, ConnectionLost, HubError)
    return min(errors, key=lambda error: next(rank for rank, kind in enumerate(order) if isinstance(error, kind)))
