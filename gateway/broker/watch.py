"""A watch of the control store that outlives the broker's troubles, alike on each broker.

After each trouble it reads the store from its beginning again, and `WatchPosition` holds back what it has given.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Final, TypeAlias

from gateway.broker.ports import Record
from gateway.broker.watch_position import Place, WatchPosition
from gateway.errors import ActionRequired, Unavailable

log = logging.getLogger(__name__)

_RETRY_DELAY_S: Final = 0.25
"""Seconds before a watch that failed begins again."""

Changes: TypeAlias = AsyncGenerator[tuple[Place, Record | None], None]
"""One read of a control store: each record at its place, and None each time that all is read that there is now."""


async def watch(
    read: Callable[[], Changes[Place]], *, pause_after: Callable[[Unavailable], float] = lambda _: 0.0
) -> AsyncIterator[Record | None]:
    """Yield the last values, None once, then each change; see the contract. Nothing is given twice.

    `read` begins a read of the store; a further one begins where it fails or ends. `pause_after` returns the seconds
    to wait after an error, beyond the usual ones.
    """
    position: WatchPosition[Place] = WatchPosition()
    last_error = ""
    while True:
        position.begin()
        try:
            async with aclosing(read()) as changes:
                async for place, record in changes:
                    last_error = ""
                    for change in position.changes(record, place):
                        yield change
        except Unavailable as error:
            if str(error) != last_error:
                level = logging.ERROR if isinstance(error, ActionRequired) else logging.WARNING
                log.log(level, "desired state unavailable: %s", error)
            last_error = str(error)
            await asyncio.sleep(pause_after(error))
        await asyncio.sleep(_RETRY_DELAY_S)
