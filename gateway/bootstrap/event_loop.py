"""Runs a command's coroutine on uvloop, with SIGTERM and SIGINT as a polite request to end."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

from gateway.errors import GatewayError

_Result = TypeVar("_Result")


class _InterruptedError(Exception):
    """A signal asked the command to end, and the command had no way of its own to do so."""


def run(command: Coroutine[Any, Any, _Result]) -> _Result:
    """Run `command` to its end; of a group of errors the first of the gateway's own is raised.

    SIGTERM and SIGINT cancel it, also where a shell started it with SIGINT ignored, as it does with background jobs; a
    command that ends politely announces that with `on_signal`. Raises KeyboardInterrupt when cancelled so.
    """
    try:
        return uvloop.run(_interruptible(command))
    except _InterruptedError:
        raise KeyboardInterrupt from None
    except BaseExceptionGroup as group:
        known, rest = group.split(GatewayError)
        if known is None or rest is not None:
            raise
        error: BaseException = known
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from group


async def _interruptible(command: Coroutine[Any, Any, _Result]) -> _Result:
    task = asyncio.ensure_future(command)
    signals: list[bool] = []

    def interrupt() -> None:
        signals.append(True)
        task.cancel()

    on_signal(interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        if signals:
            raise _InterruptedError from None
        raise


def tune_garbage_collector() -> None:
    """Let the garbage collector pass over what start-up has made, and come less often: events make no cycles.

    By default it comes after 700 new objects, and looks at all of them again and again while a flood waits.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def on_signal(request: Callable[[], None]) -> None:
    """Call `request` at SIGTERM and SIGINT, in the running loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, request)
