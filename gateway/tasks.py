"""The parts of asyncio that are missing for cancelling tasks, and for abandoning a future."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


async def run_apart(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a coroutine as a task of its own, and return its result; raises what it raises.

    For a coroutine that has a TaskGroup and handles its errors: before Python 3.13 such a group raises them alone where
    it is cancelled in the same moment, and also counts cancellations wrongly
    (https://github.com/python/cpython/issues/116720). The caller's own cancellation is never lost here.
    """
    try:
        return await asyncio.create_task(coroutine)
    except BaseException:
        caller = asyncio.current_task()
        if caller is not None and caller.cancelling():
            raise asyncio.CancelledError from None
        raise


def retrieve_exception(future: asyncio.Future[Any]) -> None:
    """Retrieve the error of an abandoned future, lest asyncio log that no code did."""
    if not future.cancelled():
        future.exception()
