"""What comes over a connection, into the session: from a record to an event, and what follows from its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from gateway.events.catalogue import find
from gateway.events.event import DeadLetter
from gateway.replica.source import pushes
from gateway.replica.source.account import Account
from gateway.session.types import Content, Outcome, State, dead_letters_of, size_of
from gateway.signalr.large_records import decode_aside


class PushReceiver:
    """Takes what the hub pushes for one account."""

    __slots__ = ("_account", "_decoder", "_link", "_memory", "_name")

    def __init__(self, account: Account) -> None:
        self._account = account
        self._name = account.name
        self._link = account.link
        self._memory = account.memory
        self._decoder = account.source.decoder

    def on_record(self, record: bytes) -> bool:
        """Take a record as hubs usually write a push; return False for anything else."""
        event = pushes.match(self._decoder, self._name, record)
        if event is not None:
            self._on_event(event)
        return event is not None

    def on_push(self, target: str, arguments: list[bytes]) -> bool:
        """Take any push; return whether it is of a known kind."""
        self._on_event(pushes.decoded(self._decoder, self._name, target, arguments))
        return find(target) is not None

    async def on_large(self, target: str, arguments: list[bytes]) -> bool:
        """Take a push that is so large that others must have their turn while it is decoded."""
        self._on_event(await decode_aside(pushes.decoded, self._decoder, self._name, target, arguments))
        return find(target) is not None

    def _on_event(self, content: Content) -> None:
        account = self._account
        session = account.session
        account.touch()
        state = State.OFFLINE if session is None else session.state
        if session is None or state is State.OFFLINE:
            account.counters.on_push(content, Outcome.OVERFLOW)  # history will give it, where it has a sequence
            return
        self._link.pushes += 1
        room = self._memory.share.has_room(size_of(content))
        outcome = session.on_push(content, asyncio.get_running_loop().time(), room=room)
        self._memory.measure(session)
        account.counters.on_push(content, outcome)
        if outcome is Outcome.QUEUED or outcome is Outcome.LATE:
            account.has_work()
        elif outcome is not Outcome.DUPLICATE:
            account.log_contradictions(session)
            if session.state is State.LIVE:
                account.timer.set(session)
                if session.wants_latest or session.history.wants_audit:
                    account.wake()
        if state is State.LIVE and session.state is not State.LIVE:
            account.wake()
        if type(content) is DeadLetter:
            is_kept = outcome is Outcome.HELD and content.sequence is None
            account.count_dead_letters(session, waiting=dead_letters_of(content) if is_kept else 0)

    def pause(self) -> Awaitable[None] | None:
        """Look at what came after each message; raises ConnectionLost where an unfinished record finds no room."""
        self.measure()
        session = self._account.session
        return self._memory.wait(pressed=session is not None and session.is_backpressured)

    def measure(self) -> None:
        """Let the budget know of a record that is not complete; raises ConnectionLost where there is no room for it."""
        self._memory.measure_unfinished(self._link.unfinished)
