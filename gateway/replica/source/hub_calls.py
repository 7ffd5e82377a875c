"""Calls that are repeated until the hub answers, over the present connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from gateway.backoff import Backoff
from gateway.errors import CallFailed, CallRejected, CallTimedOut, HubError

MAX_CALL_DELAY_S: Final = 10.0
"""Seconds that the longest delay between two tries of a call may take."""

Answer = TypeVar("Answer")


async def until_answered(call: Callable[[], Awaitable[Answer]], note: Callable[[HubError], None]) -> Answer:
    """Call until the hub answers, or until too many failures in a row end the connection.

    `note` is called for each failure.
    """
    backoff = Backoff(cap=MAX_CALL_DELAY_S)
    while True:
        try:
            return await call()
        except (CallFailed, CallRejected, CallTimedOut) as error:
            note(error)
        await asyncio.sleep(backoff.next_delay())
