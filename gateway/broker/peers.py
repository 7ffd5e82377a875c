"""Connecting to one of several peers: a silent one does not delay the others, nor does a name that does not resolve.

A time limit belongs to one try at one peer, and the next peer is tried beside one that is silent.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final, Generic, TypeVar

HEAD_START: Final = 0.5
"""Seconds that a peer has until the next one is tried beside it."""
_RESOLVE: Final = 2.0
"""Seconds for the address of a name."""

_Won = TypeVar("_Won")
_lookups: dict[str, Future[None]] = {}


class PeerRace(Generic[_Won]):
    """Tries side by side, by name; the first success wins. The code that creates one must `end` it."""

    def __init__(
        self, discard: Callable[[_Won], Coroutine[Any, Any, None]], expected: tuple[type[Exception], ...]
    ) -> None:
        """`discard` ends what a try won too late; `expected` are the failures of a try."""
        self.failures: dict[str, Exception] = {}
        """Of each name the last failure."""
        self._discard = discard
        self._expected = expected
        self._under_way: dict[asyncio.Task[_Won], str] = {}

    @property
    def is_under_way(self) -> bool:
        """Whether there is a try whose end no call has taken."""
        return bool(self._under_way)

    @property
    def silent(self) -> list[str]:
        """Those whose tries have neither won nor failed."""
        return list(self._under_way.values())

    def begin(self, name: str, attempt: Coroutine[Any, Any, _Won]) -> None:
        """Begin a try."""
        self._under_way[asyncio.create_task(attempt, name=f"try-{name}")] = name

    async def won(self, seconds: float | None = None) -> tuple[str, _Won] | None:
        """Wait for the end of a try, but no longer than so; return what it won, None for a failure and for nothing.

        Raises what is not expected.
        """
        done, _ = await asyncio.wait(self._under_way, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if not task.cancelled() and task.exception() is None:
                return self._under_way.pop(task), task.result()
        for task in done:
            name = self._under_way.pop(task)
            try:
                task.result()
            except self._expected as failure:
                self.failures[name] = failure
        return None

    async def end(self) -> None:
        """End all tries that are under way, and what they won."""
        for task in self._under_way:
            task.cancel()
        if self._under_way:
            await asyncio.wait(self._under_way)
        for task in self._under_way:
            if not task.cancelled() and task.exception() is None:
                await self._discard(task.result())
        self._under_way.clear()


async def resolve(host: str) -> None:
    """See whether a name has an address, before a library asks the same; raises OSError.

    Libraries ask on the loop's own threads, which are few: each question that is never answered would take one of
    them away for good, and the process would wait for it at its end. Here a name has one thread at a time.
    """
    with suppress(ValueError):
        ip_address(host.partition("%")[0])
        return
    lookup = _lookups.get(host)
    if lookup is None:
        lookup = _lookups[host] = Future()
        lookup.set_running_or_notify_cancel()  # so that no waiter's end can cancel it for the others
        threading.Thread(target=_look_up, args=(host, lookup), name=f"resolve-{host}", daemon=True).start()
    try:
        async with asyncio.timeout(_RESOLVE):
            await asyncio.wrap_future(lookup)
    except TimeoutError:
        raise OSError(f"nobody resolved the name {host} within {_RESOLVE:g} s") from None


def _look_up(host: str, lookup: Future[None]) -> None:
    try:
        socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        _lookups.pop(host, None)
        lookup.set_exception(error if isinstance(error, OSError) else OSError(f"{host} is no name: {error}"))
    else:
        _lookups.pop(host, None)
        lookup.set_result(None)
