"""Takes the records of one connection in their order, and keeps what one message may cost the loop within bounds.

After some milliseconds of work the loop turns to others; a large record is decoded on a thread. A hub that sends data
other than SignalR is disconnected, however much of it there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from gateway.errors import ConnectionLost, ProtocolError
from gateway.signalr import protocol, records
from gateway.signalr.calls import Calls
from gateway.signalr.large_records import LARGE, ODD, TURN, decode_aside

OnPush = Callable[[str, list[bytes]], bool | None]
"""Called with the target and the raw JSON arguments of each invocation, in the order of arrival; with an empty target
and the bytes as they came for an invalid SignalR record. What it raises, `run` raises. False means that there is no
such target: an invocation that waits for an answer gets that error."""

OnLarge = Callable[[str, list[bytes]], Awaitable[bool | None]]
"""Awaited instead of `OnPush` for what may cost much; nothing that came later is taken before that."""

MatchRecord = Callable[[bytes], bool]
"""Called with each record before it is decoded; True where that need not be: it was known, and is dealt with."""

Pause = Callable[[], Awaitable[None] | None]
"""Called after each WebSocket message, and each few milliseconds of work on a large one; what it gives, if anything, is
awaited before more is read."""

_MAX_MALFORMED: Final = 100
"""Malformed records in a row that are dead letters; one more, and the hub has lost its senses."""


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What is called with what the hub sent."""

    on_push: OnPush
    pause: Pause
    match: MatchRecord
    on_large: OnLarge | None
    """Without it everything is decoded on the loop."""


class Intake:
    """Takes the records of one connection."""

    __slots__ = (
        *(
            "_match",
            "_calls",
            "_clock",
            "_malformed",
            "_note_work",
            "_on_large",
            "_on_push",
            "_reader",
            "_send",
            "_shown",
        ),
        *("_worked", "in_hand", "is_busy", "pause"),
    )

    def __init__(
        self,
        callbacks: Callbacks,
        reader: protocol.RecordReader,
        calls: Calls,
        *,
        send: Callable[[bytes], None],
        shown: Callable[[str], str],
        note_work: Callable[[], None],
    ) -> None:
        """`note_work` is called after others had their turn; it raises ConnectionLost where the connection ended then.

        `send` sends a record, and `shown` makes foreign words fit for a log.
        """
        self._on_push, self._on_large = callbacks.on_push, callbacks.on_large
        self._match = callbacks.match
        self.pause = callbacks.pause
        self._reader = reader
        self._calls = calls
        self._send = send
        self._shown = shown
        self._note_work = note_work
        self._clock = asyncio.get_running_loop().time
        self._worked = 0.0  # seconds of the present turn of the loop
        self._malformed = 0  # records in a row
        self.is_busy = False
        """Whether a record is being decoded aside."""
        self.in_hand = 0
        """Bytes of the message that is being taken."""

    def take_small(self, raw: bytes, began: float) -> bool:
        """Take a small record, the only one of its message, which came at `began`; True where `turn` is due."""
        if self._match(raw):
            self._malformed = 0
        else:
            self._take(raw)
        self._worked += self._clock() - began
        return self._worked > TURN

    async def take(self, records: Iterable[bytes], size: int, began: float) -> None:
        """Take all of `records`, a message of `size` bytes which came at `began`.

        Others have their turn also between messages: very many may be there that end no record. Raises ConnectionLost,
        and what callbacks raise.
        """
        self.in_hand = size
        clock, at_sight, on_large = self._clock, self._match, self._on_large
        due = began + TURN - self._worked
        for raw in records if type(records) is tuple else _cut(records):
            length = len(raw)
            if length > LARGE and on_large is not None:
                await self._take_large(raw, on_large)
            elif at_sight(raw):
                self._malformed = 0
            elif length > ODD and on_large is not None:
                await self._take_large(raw, on_large)
            else:
                self._take(raw)
            if clock() > due:
                await self.turn()
                began = clock()
                due = began + TURN
        self.in_hand = 0
        await self.worked_since(began)

    async def worked_since(self, began: float) -> None:
        """Let the loop turn to others, where the work since `began` and before is enough for one turn."""
        self._worked += self._clock() - began
        if self._worked > TURN:
            await self.turn()

    async def turn(self) -> None:
        """Let the loop turn to others."""
        rest = self.pause()
        await (asyncio.sleep(0) if rest is None else rest)
        self._worked = 0.0
        self._note_work()

    def _take(self, raw: bytes) -> None:
        record = protocol.decode(raw)
        match record:
            case records.Invocation():
                self._malformed = 0
                self._acknowledge(record, is_known=self._on_push(record.target, record.arguments))
            case records.Malformed():
                if self._is_for_nobody(record):
                    self._on_push("", [record.raw])
            case _:
                self._take_other(record)

    async def _take_large(self, raw: bytes, on_large: OnLarge) -> None:
        """Take a record that would hold the loop for too long; others have their turns meanwhile."""
        record: records.Record | None = protocol.decode_usual_completion(raw)
        if record is not None:
            self._take_other(record)
            return
        self.is_busy = True
        try:
            record = await decode_aside(protocol.decode, raw)
            match record:
                case records.Invocation():
                    self._malformed = 0
                    self._acknowledge(record, is_known=await on_large(record.target, record.arguments))
                case records.Malformed():
                    if self._is_for_nobody(record):
                        await on_large("", [record.raw])
                case _:
                    self._take_other(record)
        finally:
            self.is_busy = False
        self._note_work()

    def _take_other(self, record: records.Record) -> None:
        self._malformed = 0
        match record:
            case records.Completion():
                self._calls.complete(record.id, record)
            case records.Close():
                reason = self._shown(record.error or "no reason given")
                raise ConnectionLost(f"the hub closed the connection: {reason}", reason="closed")
            case _:
                pass  # a ping, or a type that the gateway has no use for

    def _acknowledge(self, record: records.Invocation, *, is_known: bool | None) -> None:
        """Answer an invocation with an id: the hub's method waits for that, and may hold the only turn."""
        if record.id is not None:
            error = f"there is no {self._shown(record.target)} here" if is_known is False else None
            self._send(protocol.encode_completion(record.id, error=error))

    def _is_for_nobody(self, record: records.Malformed) -> bool:
        """Whether a malformed record is the answer to no call; raises ConnectionLost where it is one too many."""
        self._malformed += 1
        if not record.raw or self._malformed > _MAX_MALFORMED:
            what = f"{self._malformed} records in a row that are none of SignalR's" if record.raw else "an empty record"
            problem = f"the hub sent {what}; {self._reader.behind} bytes that came with it are not read"
            raise ConnectionLost(problem, reason="protocol")
        return record.id is None or not self._calls.complete(record.id, record)


def too_large(problem: str) -> str:
    """Map each setting to the text of what is above it."""
    return f"{problem} (hub.max_record_bytes)"


def _cut(records: Iterable[bytes]) -> Iterator[bytes]:
    try:
        yield from records
    except ProtocolError as error:
        raise ConnectionLost(too_large(str(error)), reason="too-large") from None
