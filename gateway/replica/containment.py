"""Containment of unexpected errors: an error ends only the part of the gateway in which it happened.

An account, shard, replay or watch that fails is restarted after a delay, and its neighbours go on. Each failure is
logged at ERROR with its cause, since it is a fault of the gateway that a person must see. Only a wrong configuration
ends the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from gateway.backoff import Backoff
from gateway.errors import ConfigurationError
from gateway.tasks import run_apart
from gateway.telemetry.counters import Counters
from gateway.telemetry.logs import get_logger

MAX_DELAY_S: Final = 60.0
"""Maximum seconds between two tries of what fails each time."""

_Result = TypeVar("_Result")


class RestartDelays:
    """How long each of several parts of the gateway rests after it failed unexpectedly, by its name."""

    def __init__(self) -> None:
        self._backoffs: dict[str, tuple[Backoff, float]] = {}

    def after_failure(self, name: str = "") -> float:
        """Return the seconds until `name` is restarted: longer with each failure soon after the last one.

        Without a name it is the object that keeps these delays.
        """
        now = asyncio.get_running_loop().time()
        backoff, last = self._backoffs.get(
            name, (Backoff(first=1.0, cap=MAX_DELAY_S, stable_after=2 * MAX_DELAY_S), now)
        )
        self._backoffs[name] = backoff, now
        return backoff.next_delay(lasted=now - last)

    def forget(self, name: str) -> None:
        """`name` is gone."""
        self._backoffs.pop(name, None)


class SupervisedTasks:
    """Tasks of one group, by name, each restarted where it is cancelled though the gateway did not ask for that."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        """Must be called by the task whose group it is: once that task is asked to end, nothing is restarted."""
        self.group = tasks
        self._parent = asyncio.current_task()
        self._running: dict[str, asyncio.Task[None]] = {}

    def run(
        self, name: str, work: Callable[[], Coroutine[Any, Any, None]], lost: Callable[[BaseException], object]
    ) -> None:
        """Run `work` as a task; `lost` is called, with the cancellation, before it is restarted."""

        def look(task: asyncio.Task[None]) -> None:
            is_ending = self._parent is not None and self._parent.cancelling()
            if task.cancelled() and self._running.get(name) is task and not is_ending:
                lost(asyncio.CancelledError())
                self.run(name, work, lost)

        self._running[name] = task = self.group.create_task(work(), name=name)
        task.add_done_callback(look)

    def cancel(self, name: str) -> None:
        """Cancel a task, if there is one of that name."""
        task = self._running.pop(name, None)
        if task is not None:
            task.cancel()

    def cancel_all(self) -> None:
        """Cancel all of them."""
        for name in [*self._running]:
            self.cancel(name)


def report_unexpected(
    counters: Counters | None, part: str, error: BaseException, *, retry_in: float | None = None, **where: object
) -> None:
    """Log an unexpected error, with its traceback, and count it for its `part` of the gateway.

    `part` is one of those that the metric `unexpected_errors_total` names. Raises the ConfigurationError that the error
    is, or that a group has: that ends the process.
    """
    wrong = _wrong_configuration(error)
    if wrong is not None:
        raise wrong
    if counters is not None:
        counters.unexpected[part] += 1
    get_logger().error(
        "unexpected error (a bug in the gateway), restarting this part",
        part=part,
        error=repr(error),
        retry_in=None if retry_in is None else round(retry_in, 2),
        exc_info=error,
        **where,
    )


def causes(error: BaseException) -> list[BaseException]:
    """Return the errors of a group, and of groups in it; of anything else, that alone."""
    if isinstance(error, BaseExceptionGroup):
        return [cause for one in error.exceptions for cause in causes(one)]
    return [error]


def _wrong_configuration(error: BaseException) -> ConfigurationError | None:
    return next((cause for cause in causes(error) if isinstance(cause, ConfigurationError)), None)


def raise_if_cancelled() -> None:
    """Raise CancelledError where the task that runs is asked to end: an error in a cleanup may have replaced it."""
    current = asyncio.current_task()
    if current is not None and current.cancelling():
        raise asyncio.CancelledError


async def contained(counters: Counters, part: str, work: Callable[[], Awaitable[_Result]]) -> _Result:
    """Return what `work` returns; where it fails unexpectedly, log the error and repeat it without limit.

    A cancellation that the gateway did not request counts as such a failure. Raises ConfigurationError.
    """
    rests = RestartDelays()
    while True:
        try:
            return await run_apart(_await(work))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - this is the place
            raise_if_cancelled()
            delay = rests.after_failure(part)
            report_unexpected(counters, part, error, retry_in=delay)
        await asyncio.sleep(delay)


async def _await(work: Callable[[], Awaitable[_Result]]) -> _Result:
    return await work()
