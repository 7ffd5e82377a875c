"""What arrives over a connection, into the session: from a record to an event, and the consequences of its outcome.

The hub writes nearly all pushed events alike. Neither the record nor its argument of these is parsed twice: the
record's beginning identifies the event, and the rest is one JSON object or none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from gateway.events.catalogue import CATALOGUE, find
from gateway.events.dead_letter_reasons import DeadLetterReason
from gateway.events.decode import Decoder
from gateway.events.event import DeadLetter, Event
from gateway.replica.source.account import Account
from gateway.session.session import Session
from gateway.session.types import Content, Outcome, State, dead_letters_of
from gateway.signalr.large_records import decode_aside
from gateway.signalr.protocol import PUSH_TAIL, push_head

_HEADS: Final = {push_head(entry.callback): entry for entry in CATALOGUE.values()}


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
        event = match(self._decoder, self._name, record)
        if event is not None:
            self._on_event(event)
        return event is not None

    def on_push(self, target: str, arguments: list[bytes]) -> bool:
        """Take any push; return whether it is of a known kind."""
        self._on_event(decoded(self._decoder, self._name, target, arguments))
        return find(target) is not None

    async def on_large(self, target: str, arguments: list[bytes]) -> bool:
        """Take a push that is so large that others must have their turn while it is decoded."""
        self._on_event(await decode_aside(decoded, self._decoder, self._name, target, arguments))
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
        room = self._memory.has_room(content.size)
        outcome = session.on_push(content, asyncio.get_running_loop().time(), room=room)
        self._memory.measure(session)
        if outcome is Outcome.QUEUED or outcome is Outcome.LATE:
            account.has_work()  # it is counted once it is committed
        else:
            self._on_unqueued(session, content, outcome)
        if state is State.LIVE and session.state is not State.LIVE:
            account.wake()
        if type(content) is DeadLetter:
            is_kept = outcome is Outcome.HELD and content.sequence is None
            account.count_dead_letters(session, waiting=dead_letters_of(content) if is_kept else 0)

    def _on_unqueued(self, session: Session, content: Content, outcome: Outcome) -> None:
        """Count a push that is not queued, and see to what that it waits, or found no room, makes necessary."""
        account = self._account
        account.counters.on_push(content, outcome)
        if outcome is Outcome.DUPLICATE:
            return
        account.log_contradictions(session)
        if session.state is State.LIVE:
            account.timer.set(session)
            if session.wants_latest or session.history.wants_audit:
                account.wake()

    def pause(self) -> Awaitable[None] | None:
        """Look at what came after each message; raises ConnectionLost where an unfinished record finds no room."""
        self.measure()
        session = self._account.session
        return self._link.backpressure.wait(pressed=session is not None and session.is_backpressured)

    def measure(self) -> None:
        """Report an incomplete record to the budget; raises ConnectionLost where there is no room for it."""
        self._memory.measure_unfinished(self._link.unfinished)


def match(decoder: Decoder, account: str, record: bytes) -> Event | None:
    """Return the event of a record that is a push as hubs usually write them; None for anything else."""
    head = record[: record.find(b"[") + 1]
    entry = _HEADS.get(head)
    if entry is None or not record.endswith(PUSH_TAIL):
        return None
    return decoder.match(account, entry, record[len(head) : -len(PUSH_TAIL)])


def decoded(decoder: Decoder, account: str, target: str, arguments: list[bytes]) -> Content:
    """Return what was pushed, as `signalr.connection.OnPush` has it."""
    if len(arguments) == 1 and target:
        return decoder.push(account, target, arguments[0])
    if not target:
        return DeadLetter(
            account, DeadLetterReason.MALFORMED_JSON, "not a SignalR record", "record", b"".join(arguments)
        )
    raw = b"[" + b",".join(arguments) + b"]"
    detail = f"{len(arguments)} arguments instead of one"
    first = decoder.push(account, target, arguments[0]) if arguments else None
    sequence, id_ = (None, None) if first is None else (first.sequence, first.id)
    return DeadLetter(account, DeadLetterReason.INVALID_PAYLOAD, detail, target, raw, sequence, id_)
