"""Virtual time: an event loop whose clock jumps to whatever comes next, and machines in it that freeze and die.

One process, no sockets, no threads: with the same seed everything happens in the same order, to the letter.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import os
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, TypeVar
from unittest import mock

EPOCH: Final = datetime(2026, 11, 29, 12, tzinfo=UTC).timestamp()
"""The wall clock's time when a simulation begins."""
_SPINS: Final = 200_000
"""Steps without a moment passing after which something runs in a circle."""

_Result = TypeVar("_Result")


class Stuck(Exception):
    """Nothing will ever happen again, or the same happens for ever."""


class Machine:
    """What runs a process: all that was started on it stops when it freezes or dies, at whatever await it is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_stopped = False
        self.is_dead = False
        self.clock_offset = 0.0
        """Seconds by which its wall clock is wrong."""
        self._parked: deque[asyncio.Handle] = deque()
        self._corpse: set[asyncio.Task[Any]] = set()

    def start(self, coroutine: Coroutine[Any, Any, _Result]) -> asyncio.Task[_Result]:
        """Run a coroutine, and all that it starts, on this machine."""
        context = copy_context()
        context.run(_MACHINE.set, self)
        return asyncio.get_running_loop().create_task(coroutine, context=context)

    def freeze(self) -> None:
        """Stop as by SIGSTOP: its timers go on, and are noticed when it wakes."""
        self.is_stopped = True

    def wake(self) -> None:
        """Go on."""
        if not self.is_dead:
            self.is_stopped = False
            loop: Any = asyncio.get_running_loop()
            loop._ready.extend(self._parked)
            self._parked.clear()

    def die(self) -> None:
        """End as by SIGKILL: nothing of it runs any more, no cleanup either."""
        self.is_stopped = self.is_dead = True
        self._parked.clear()
        self._corpse = asyncio.all_tasks()  # which would be cleaned up, were nobody to refer to them

    def park(self, handle: asyncio.Handle) -> None:
        """Keep what would have run."""
        if not self.is_dead:
            self._parked.append(handle)


_MACHINE: ContextVar[Machine | None] = ContextVar("machine", default=None)


def machine_of() -> Machine | None:
    """Return the machine that runs what asks."""
    return _MACHINE.get()


class _Step(asyncio.Handle):
    """A step of the loop, made without what only a loop in debug mode asks of it: a world takes some 5,000 of them."""

    def __init__(
        self, callback: Callable[..., object], args: Sequence[Any], loop: VirtualLoop, context: Context
    ) -> None:
        self._callback, self._args, self._loop, self._context = callback, args, loop, context
        self._cancelled, self._repr = False, None

    def cancel(self) -> None:
        """See asyncio."""
        self._cancelled, self._callback, self._args = True, None, None


class _Timer(asyncio.TimerHandle):
    """A step that has its time, made likewise."""

    def __init__(
        self, when: float, callback: Callable[..., object], args: Sequence[Any], loop: VirtualLoop, context: Context
    ) -> None:
        self._callback, self._args, self._loop, self._context = callback, args, loop, context
        self._cancelled, self._repr = False, None
        self._when, self._scheduled = when, False

    def cancel(self) -> None:
        """See asyncio."""
        self._cancelled, self._callback, self._args = True, None, None


class VirtualLoop(asyncio.base_events.BaseEventLoop):
    """An event loop in which time passes only when nothing else is left to do."""

    _ready: deque[asyncio.Handle]
    get_debug: Callable[[], bool] = staticmethod(bool)
    """False, by a call that costs next to nothing: each future, task and handle asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self.steps = 0
        self._spins = 0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._made = 0

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,  # noqa: ANN401
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call `callback` when it is time; of several that are due at once, the one first that was made first."""
        timer = _Timer(when, callback, args, self, copy_context() if context is None else context)
        self._made += 1
        heapq.heappush(self._timers, (when, self._made, timer))
        return timer

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,  # noqa: ANN401
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call `callback` after so many seconds."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,  # noqa: ANN401
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Call `callback` when those have been called that are to be called already."""
        step = _Step(callback, args, self, copy_context() if context is None else context)
        self._ready.append(step)
        return step

    def time(self) -> float:
        """Return the seconds since the simulation began."""
        return self._now

    def run_in_executor(self, executor: object, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override] # noqa: ANN401, ARG002
        """Call `func` at once: there are no threads."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is the caller's
            future.set_exception(error)
        return future

    def _process_events(self, event_list: object) -> None:
        """There are none: nothing here has a socket."""

    def _write_to_self(self) -> None:
        """Nobody sleeps in a selector that would have to be woken."""

    def _pass_time(self) -> None:
        if not self._timers:
            raise Stuck(f"nothing will ever happen after {self._now:g} s")
        self._now, self._spins = max(self._now, self._timers[0][0]), 0

    def _run_once(self) -> None:
        ready, timers = self._ready, self._timers
        while timers and timers[0][2]._cancelled:  # type: ignore[attr-defined]
            heapq.heappop(timers)
        if not ready:
            self._pass_time()
        while timers and timers[0][0] <= self._now:
            ready.append(heapq.heappop(timers)[2])
        steps = len(ready)
        self.steps += steps
        self._spins += steps
        if self._spins > _SPINS:
            raise Stuck(f"something runs in a circle at {self._now:g} s: {ready[0]!r}")
        for _ in range(steps):
            step = ready.popleft()
            if step._cancelled:  # type: ignore[attr-defined]
                continue
            context: Context = step._context  # type: ignore[attr-defined]
            machine = context.get(_MACHINE)
            if machine is not None and machine.is_stopped:
                machine.park(step)
                continue
            try:
                context.run(step._callback, *step._args)  # type: ignore[attr-defined]
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - as asyncio does
                self.call_exception_handler({"message": f"an exception in {step!r}", "exception": error})


def wall_clock() -> float:
    """Return the seconds since 1970 by the clock of the machine that asks."""
    machine = _MACHINE.get()
    return EPOCH + asyncio.get_running_loop().time() + (0.0 if machine is None else machine.clock_offset)


@contextmanager
def _this_world_only(seed: int, loop: VirtualLoop) -> Iterator[None]:
    """Let clocks be the loop's, and all that is random come from `seed`."""
    dice = random.Random(f"{seed}/random")
    state = random.getstate()
    random.seed(seed)
    clocks = {"monotonic": loop.time, "perf_counter": loop.time, "time": wall_clock}
    try:
        with mock.patch.multiple(time, **clocks), mock.patch.object(os, "urandom", dice.randbytes):
            yield
    finally:
        random.setstate(state)


def _abandon(loop: asyncio.AbstractEventLoop) -> None:
    """Throw away what still runs, of dead machines too: its cleanup ends at the first await, and nobody hears of it."""
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        with suppress(BaseException):
            task.get_coro().close()  # type: ignore[union-attr]


@cache
def _keep_what_there_is() -> None:
    """Let the garbage collector pass over all that was imported, once: it is called after each simulation."""
    gc.collect()
    gc.freeze()


def simulate(seed: int, main: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
    """Run `main` to its end in virtual time; what it leaves running is abandoned, as at the end of the world."""
    _keep_what_there_is()
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    loop.set_exception_handler(lambda _loop, _context: None)
    gc.disable()
    try:
        with _this_world_only(seed, loop):
            try:
                return loop.run_until_complete(main())
            finally:
                _abandon(loop)
    finally:
        asyncio.set_event_loop(None)
        loop.close()
        with mock.patch.object(sys, "unraisablehook"):
            gc.collect()
        gc.enable()
