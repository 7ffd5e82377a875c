"""The calls of one connection: what is under way, what the hub has not answered in time, and when it is too much.

ASP.NET Core runs one method per connection at a time, so a call that hangs holds up all that come after it. A request
that is still under way is not sent again: a caller with the same one waits for the answer that is to come. And behind a
call that hangs at most one other is sent.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import count
from typing import Final

from gateway.signalr import records

Answer = records.Completion | records.Malformed | None
"""None: the connection ended."""

_BEHIND: Final = 1
"""Calls that may be under way behind one that hangs."""
_TIMEOUTS: Final = 3
"""Calls in a row without an answer after which a connection is given up."""
_FAILURES: Final = 3
_FAILING: Final = 60.0
"""Seconds for which every call must have failed, at least three, until a connection is given up."""


class Expired:
    """Instead of an answer: the caller has waited for long enough."""


@dataclass(slots=True, eq=False)
class Call:
    """A question that was sent."""

    id: str
    question: bytes
    waiter: asyncio.Future[Answer | Expired]
    """Of the caller. Once it is cancelled, no caller waits."""
    is_overdue: bool = False
    """Whether its caller gave up."""
    is_answered: bool = False
    answer: Answer = None
    timer: asyncio.TimerHandle | None = None
    """Ends the caller's wait."""

    def expire(self) -> None:
        """Let the caller wait no longer."""
        if not self.waiter.done():
            self.waiter.set_result(Expired())


class Calls:
    """The calls of one connection that are under way."""

    __slots__ = ("_ids", "_open", "_room")

    def __init__(self) -> None:
        self._open: dict[str, Call] = {}
        self._ids = count(1)
        self._room: asyncio.Event | None = None  # made when a caller waits: an unused one takes 760 bytes

    def __len__(self) -> int:
        return len(self._open)

    def resumed(self, question: bytes) -> Call | None:
        """Return the call of the same request whose caller gave up, where there is one: its answer may have come."""
        for call in self._open.values():
            if call.is_overdue and call.question == question:
                call.is_overdue = False
                call.waiter = asyncio.get_running_loop().create_future()
                if call.is_answered:
                    call.waiter.set_result(call.answer)
                return call
        return None

    def begin(self, question: bytes) -> Call:
        """Return a new call; it is to be sent."""
        for late in [call for call in self._open.values() if call.is_overdue and call.is_answered]:
            del self._open[late.id]  # no caller asked again
        call = Call(str(next(self._ids)), question, asyncio.get_running_loop().create_future())
        self._open[call.id] = call
        return call

    @property
    def has_room(self) -> bool:
        """Whether one more may be sent: not where a call hangs and another is under way behind it."""
        if len(self._open) <= _BEHIND:
            return True
        waited = [call for call in self._open.values() if not call.is_answered]
        return len(waited) <= _BEHIND or not any(call.is_overdue for call in waited)

    async def until_room(self) -> None:
        """Wait until there is room: one of the calls is answered."""
        while not self.has_room:
            if self._room is None or self._room.is_set():
                self._room = asyncio.Event()
            await self._room.wait()

    def end(self, call: Call) -> None:
        """The caller has its answer, or wants none."""
        self._open.pop(call.id, None)
        self._look_for_room()

    def give_up(self, call: Call) -> None:
        """Note that the caller gave up; the answer still counts for a caller with the same request."""
        call.is_overdue = True

    def complete(self, id: str, answer: Answer) -> bool:  # noqa: A002 - its name
        """Answer a call; return False where there is none with this id."""
        call = self._open.get(id)
        if call is None:
            return False
        self._answer(call, answer)
        return True

    def end_all(self) -> None:
        """The connection has ended."""
        for call in self._open.values():
            self._answer(call, None)

    def _answer(self, call: Call, answer: Answer) -> None:
        if not call.is_answered:
            call.is_answered, call.answer = True, answer
            if not call.waiter.done():
                call.waiter.set_result(answer)
            self._look_for_room()

    def _look_for_room(self) -> None:
        """Wake the callers that wait for room."""
        if self._room is not None:
            self._room.set()


@dataclass(slots=True)
class CallBudget:
    """The failures of calls that a connection may have in a row."""

    _timeouts: int = 0
    _failures: int = 0
    _since: float = 0.0

    def succeeded(self) -> None:
        """A call had a good answer."""
        self._timeouts = self._failures = 0

    def failed(self, now: float, *, is_timeout: bool) -> str | None:
        """Note that a call failed at a monotonic time; return why the connection is given up, where it is."""
        self._since = self._since if self._failures else now
        self._failures += 1
        self._timeouts = self._timeouts + 1 if is_timeout else 0
        if self._timeouts >= _TIMEOUTS:
            return f"{self._timeouts} calls in a row had no answer"
        if self._failures >= _FAILURES and now - self._since >= _FAILING:
            return f"each of {self._failures} calls failed in {now - self._since:.0f} s"
        return None
