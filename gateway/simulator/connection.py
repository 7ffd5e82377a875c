"""One WebSocket of the simulated hub: the handshake, records in, records out, and every way to end.

Outgoing records wait in a bounded queue, so that a slow client holds up no other: a client that lets too much wait is
cut off.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import WSMsgType, web

from gateway.errors import ProtocolError
from gateway.signalr import protocol, records
from gateway.simulator import methods
from gateway.simulator.user import Subscriber, User

_MESSAGE_BYTES: Final = 64 * 1024
"""Waiting records are joined into WebSocket messages of about this size."""


_MAX_RECORD: Final = 32 * 1024
"""ASP.NET Core's default for what a client may send."""
_ERROR: Final = protocol.encode_close("Connection closed with an error.", allow_reconnect=True)


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a connection puts up with."""

    handshake_timeout: float
    """Seconds until the handshake must have come."""
    queue_bytes: int
    """Bytes that may wait for a slow client."""


class ServerConnection:
    """A client's WebSocket, from its upgrade to its end."""

    def __init__(self, id: str, user: User, transport: asyncio.Transport, limits: ServerLimits) -> None:  # noqa: A002
        """`transport` is what lies under the WebSocket, to be cut."""
        self.id = id
        self.user = user
        self.listener = Subscriber(id, self.push)
        self.began = time.monotonic()
        self.sent = self.received_at = self.began
        self.pinged = False
        """Whether the client ever sent a ping: only then its silence counts."""
        self.silent = False
        """Nothing leaves while this holds; records wait."""
        self.half_open = False
        """The hub has no record of it any more, but TCP stands, unread and unanswered, until the client gives up."""
        self.ended: str | None = None
        """Why it ended, once it has."""
        self._transport = transport
        self._limits = limits
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._gone = False

    @property
    def waiting(self) -> int:
        """Bytes not yet sent of unrequested records."""
        return self._bytes

    def push(self, record: bytes) -> None:
        """Queue an unrequested record; above the limit the connection is cut instead."""
        self._queue(record, len(record))
        if self._bytes > self._limits.queue_bytes:
            if self._muted:  # nothing can be sent now, a cut neither: what waits is lost, and the end comes later
                self._waiting.clear()
                self.ended = "slow consumer"
            else:
                self.cut("slow consumer")

    def answer(self, record: bytes) -> None:
        """Queue a requested record: however large, it is no sign of a slow consumer."""
        self._queue(record, 0)

    def _queue(self, record: bytes, counts: int) -> None:
        if self.ended is None and not self.half_open:
            self._waiting.append((record, counts))
            self._bytes += counts
            self._wake.set()

    def wake(self) -> None:
        """Look again whether what waits may be sent: a fault has changed."""
        self._wake.set()

    def forget(self) -> None:
        """Drop the connection without closing it, as a crashed host or a balancer's lost state does."""
        self.half_open = True
        self.user.detach(self.listener)
        self._waiting.clear()
        self._bytes = 0
        self._transport.pause_reading()

    def end(self, why: str, record: bytes | None = None) -> None:
        """Close in good order: what waits, then `record`, then WebSocket close 1000."""
        if self.ended is None and not self.half_open:
            if record is not None:
                self.push(record)
            self.ended = why
            self._wake.set()

    def cut(self, why: str) -> None:
        """Drop the TCP connection without a word; the client sees 1006."""
        self.ended = self.ended or why
        self._waiting.clear()
        self._transport.abort()
        self._wake.set()

    async def serve(self, socket: web.WebSocketResponse[bool], opened: Callable[[], None]) -> None:
        """Speak SignalR until the connection is over; `opened` is called after the handshake."""
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(self._read(socket, opened))
            await self._write(socket)
            reading.cancel()
        await socket.close()

    async def _read(self, socket: web.WebSocketResponse[bool], opened: Callable[[], None]) -> None:
        reader = protocol.RecordReader(_MAX_RECORD)
        shaken = False
        try:
            async with asyncio.timeout(self._limits.handshake_timeout) as limit:
                async for message in socket:
                    if message.type is WSMsgType.ERROR:
                        break
                    for raw in reader.feed(message.data):
                        if self.ended is not None or self.half_open:
                            break
                        if shaken:
                            await self._record(protocol.decode(raw))
                        else:
                            limit.reschedule(None)
                            shaken = await self._shake(raw, opened)
                    self.received_at = time.monotonic()
        except TimeoutError:
            self.end("no handshake", protocol.encode_handshake_response("Handshake was canceled."))
        except ProtocolError:
            self.end("not SignalR", _ERROR)
        else:
            self._gone = True
            self.end("the client left")

    async def _shake(self, raw: bytes, opened: Callable[[], None]) -> bool:
        await asyncio.sleep(methods.delay(self.user, "handshake"))
        try:
            request = protocol.decode_handshake_request(raw)
        except ProtocolError:
            message = "An unexpected error occurred during connection handshake."
            self.end("bad handshake", protocol.encode_handshake_response(message))
            return False
        if request.protocol != "json":
            message = f"The protocol '{request.protocol}' is not supported."
            self.end("unknown protocol", protocol.encode_handshake_response(message))
            return False
        if request.version > 1:
            message = f"The server does not support version {request.version} of the 'json' protocol."
            self.end("unknown protocol", protocol.encode_handshake_response(message))
            return False
        self.push(protocol.encode_handshake_response())
        opened()
        return True

    async def _record(self, record: records.Record) -> None:
        match record:
            case records.Invocation():
                await self._invoke(record)
            case records.Ping():
                self.pinged = True
            case records.Close():
                self.end("the client closed", protocol.encode_close())
            case records.Malformed():
                self.end("bad record", _ERROR)

    async def _invoke(self, call: records.Invocation) -> None:
        """Run one call; like the real hub's, a connection's calls run one after the other."""
        if seconds := methods.delay(self.user, call.target):
            self.received_at = time.monotonic() + seconds  # a client's silence does not count while it waits for us
            await asyncio.sleep(seconds)
        try:
            result = methods.call(self.user, self.listener, call.target, call.arguments)
        except methods.CallError as error:
            answer = protocol.encode_completion(call.id or "", error=str(error))
        else:
            answer = protocol.encode_completion(call.id or "", msgspec.Raw(result))
        if call.id is not None:
            self.answer(answer)

    async def _write(self, socket: web.WebSocketResponse[bool]) -> None:
        """Send what waits until the connection has ended."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting and not self._muted:
                    for message in self._messages(self._take()):
                        await socket.send_frame(message, WSMsgType.TEXT)
                    self.sent = time.monotonic()
                if self.ended is not None and not self._muted:
                    return
        except ConnectionError:
            self.cut("the client left")

    @property
    def _muted(self) -> bool:
        silent = self.silent or self.half_open or self.user.faults.silent
        return silent and not self._gone and not self._transport.is_closing()

    def _take(self) -> bytes:
        taken: list[bytes] = []
        size = 0
        while self._waiting and size < _MESSAGE_BYTES:
            record, counts = self._waiting.popleft()
            taken.append(record)
            size += len(record)
            self._bytes -= counts
        return b"".join(taken)

    def _messages(self, data: bytes) -> list[bytes]:
        """Cut what is to be sent where the fault `split` wants it, but never within a character."""
        split = self.user.faults.split
        if not split:
            return [data]
        text = data.decode()
        return [text[at : at + split].encode() for at in range(0, len(text), split)]
