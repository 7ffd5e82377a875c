"""The timer of a session's reorder window: that of a former session neither fires nor keeps a new one away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.session.session import Session


class ReorderTimer:
    """One account's."""

    __slots__ = ("_expire", "handle")

    def __init__(self, expire: Callable[[Session, float], None]) -> None:
        """`expire` is called with the session, and with a time by the loop's clock that is not before its deadline."""
        self._expire = expire
        self.handle: asyncio.TimerHandle | None = None
        """What is to be called, if anything waits."""

    def set(self, session: Session) -> None:
        """Let the timer go off when the session has something to do."""
        if self.handle is None and session.deadline is not None:
            deadline = session.deadline
            self.handle = asyncio.get_running_loop().call_at(deadline, self._fire, session, deadline)

    def _fire(self, session: Session, deadline: float) -> None:
        self.handle = None
        self._expire(session, max(deadline, asyncio.get_running_loop().time()))  # a loop may call a nanosecond early

    def cancel(self) -> None:
        """Let it not go off."""
        if self.handle is not None:
            self.handle.cancel()
            self.handle = None
