"""Runs a command's coroutine on uvloop, with SIGTERM and SIGINT as a polite request to end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

from gateway.errors import GatewayError

_Result = TypeVar("_Result")


def run(command: Coroutine[Any, Any, _Result]) -> _Result:
    """Run `command` to its end; of a group of errors the first that the gateway knows by name is raised."""
    try:
        return uvloop.run(command)
    except BaseExceptionGroup as group:
        known, rest = group.split(GatewayError)
        if known is None or rest is not None:
            raise
        error: BaseException = known
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from group


def on_signal(request: Callable[[], None]) -> None:
    """Call `request` at SIGTERM and SIGINT, in the running loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, request)
