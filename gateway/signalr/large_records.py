"""Records that are too large to be decoded on the event loop: one at a time, on a thread of their own.

Python code on a thread lets the loop go on every few milliseconds. One call into C does not: the largest value costs
the loop as long as its longest such call. So the thread rests after each piece for as long as it worked, and a hub that
sends nothing but costly records takes half of one processor at most, whatever the number of its connections.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

LARGE: Final = 256 * 1024
"""Bytes above which a record is not even parsed on the loop, except an answer that is written as servers do."""

ODD: Final = 32 * 1024
"""Bytes above which a record that is not as usual is decoded on the thread: the slow ways cost a microsecond a byte."""

TURN: Final = 0.005
"""Seconds of work on one connection after which the loop turns to others."""

_LONGEST_REST: Final = 1.0

_thread: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large-records")

_P = ParamSpec("_P")
_R = TypeVar("_R")


async def decode_aside(work: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Return what `work` returns, or raise what it raises, once the thread has come to it: first come, first served."""

    def paced() -> _R:
        began = time.perf_counter()
        try:
            return work(*args, **kwargs)
        finally:
            time.sleep(min(time.perf_counter() - began, _LONGEST_REST))

    return await asyncio.get_running_loop().run_in_executor(_thread, paced)
