"""One SignalR connection over a WebSocket, used once: negotiate, upgrade, handshake, calls and pushes.

When it ends it stays ended; its owner makes the next. Every wait has a limit: negotiate, upgrade, handshake, each call,
the goodbye; and 30 s without a part of a record is the end, whatever TCP reports.

An open connection is one task, the one in `run`, and one timer: nothing here ever waits for room to write, so a peer
that takes nothing cannot hold up any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Final, NoReturn

import aiohttp

from gateway.errors import CallFailed, CallTimedOut, ConnectionLost, forget_frames
from gateway.signalr import protocol, records
from gateway.signalr.calls import Answer, Call, Calls, Expired
from gateway.signalr.frames import BINARY, CLOSE_TIMEOUT_S, PING, PONG, TEXT, Socket, size_of
from gateway.signalr.intake import Callbacks, Intake, MatchRecord, OnLarge, OnPush, Pause, too_large
from gateway.signalr.large_records import ODD
from gateway.signalr.receipt import Receipt
from gateway.signalr.transport import Transport, abort, shown
from gateway.tasks import retrieve_exception
from gateway.together import same_tick

_MAX_UNSENT_BYTES: Final = 1024 * 1024
"""Bytes that may wait for a hub that asks, by pings or calls, and takes no answers: they are some tens each."""
_NEVER: Final = {"dropped", "silent"}
_MAX_CALL_BYTES: Final = 4
"""How many times the limit of a call its answer may take while parts of it come."""


class HubConnection:
    """An open connection, made by `connect`. `run` must be running for calls to be answered."""

    __slots__ = (
        *("_calls", "_early", "_received_at", "_intake", "_lost", "_ping_due"),
        *("_reader", "_receipt", "_secrets", "_socket", "_tcp", "_timer", "_transport"),
        *("on_growth", "on_large"),
    )

    def __init__(
        self,
        transport: Transport,
        socket: Socket,
        reader: protocol.RecordReader,
        *,
        tcp: asyncio.BaseTransport | None,
        receipt: Receipt,
        early: Iterable[bytes],
        secrets: Iterable[str],
    ) -> None:
        """`tcp` lies under `socket`, whose `receipt` has when parts of messages came.

        `early` came with the handshake's answer; no text shows the `secrets`.
        """
        self._transport = transport
        self._socket = socket
        self._tcp = tcp
        self._receipt = receipt
        self._reader = reader
        self._early = early
        self._secrets = tuple(secrets)
        self._calls = Calls()
        self._lost: ConnectionLost | None = None
        self._received_at = asyncio.get_running_loop().time()  # the handshake was answered just now
        self._intake: Intake | None = None
        self.on_large: OnLarge | None = None
        """To be set before `run`: where records go that may cost much; without it all are decoded on the loop."""
        self.on_growth: Callable[[], None] | None = None
        """To be set before `run`: called when `unfinished` has grown by much; it may raise ConnectionLost."""
        self._ping_due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def last_received_at(self) -> float:
        """When anything came last, a ping included, by the loop's clock."""
        return self._received_at

    @property
    def unfinished(self) -> int:
        """Bytes that came and were not taken: of records and of messages that are not complete, or wait their turn."""
        in_hand = 0 if self._intake is None else self._intake.in_hand
        return self._reader.unfinished + self._receipt.waiting + in_hand

    @property
    def unread(self) -> int:
        """Bytes that came with the record that was read last, behind it."""
        return self._reader.behind

    async def call(self, method: str, argument: dict[str, object]) -> bytes:
        """Call `method` and give its raw JSON result.

        Where the same call timed out and is still under way, its answer is waited for instead.

        Raises CallFailed when the hub answers with an error, CallTimedOut, ConnectionLost.
        """
        limit = self._transport.call_timeout
        began = asyncio.get_running_loop().time()
        question = protocol.encode_invocation(method, argument)
        call = self._calls.resumed(question)
        try:
            if call is None:
                if not self._calls.has_room:  # a timeout costs more than all else here
                    async with asyncio.timeout(limit):
                        await self._calls.until_room()
                self._check_open()
                call = self._calls.begin(question)
                self._send(protocol.with_id(question, call.id))
            completion = await self._answer(call, began, limit)
        except TimeoutError:
            if call is not None:
                self._calls.give_up(call)
            raise CallTimedOut(method, limit) from None
        finally:
            if call is not None and not call.is_overdue:
                self._calls.end(call)
        match completion:
            case records.Completion(error=None | ""):  # an empty text is none, as it is to Microsoft's clients
                return completion.result or b"null"
            case records.Completion(error=str(message)):
                raise CallFailed(method, shown(message, self._secrets))
            case records.Malformed():
                raise CallFailed(method, f"the answer cannot be read: {shown(completion.problem, self._secrets)}")
            case _:
                raise self._end

    async def _answer(self, call: Call, began: float, limit: float) -> Answer:
        """Wait for the answer to a call that began then; raises TimeoutError.

        While a message is coming, which may be the answer, the limit counts from its last part.
        """
        call.timer = asyncio.get_running_loop().call_at(began + limit, self._expire, call, began, limit)
        try:
            answer = await call.waiter
        finally:
            call.timer.cancel()
            call.timer = None
        if isinstance(answer, Expired):
            raise TimeoutError
        return answer

    def _expire(self, call: Call, began: float, limit: float) -> None:
        """End the call's wait for an answer, unless parts of a message came lately.

        No closure that refers to itself: it would keep a page of megabytes until the garbage collector comes.
        """
        loop = asyncio.get_running_loop()
        end = min(self._receipt.partial_at + limit, began + _MAX_CALL_BYTES * limit)
        if loop.time() < end:
            call.timer = loop.call_at(end, self._expire, call, began, limit)
        else:
            call.expire()

    def _check_open(self) -> None:
        if self._lost is not None:
            raise self._end

    def give_up(self, why: str) -> NoReturn:
        """End the connection, since its calls are of no use; raises ConnectionLost."""
        self.abandon(ConnectionLost(f"the connection is of no use: {why}", reason="call"))
        raise self._end

    def abandon(self, lost: ConnectionLost) -> None:
        """End the connection at once; `run` and the calls in flight raise `lost`."""
        self._lose(lost)
        abort(self._socket, self._tcp)

    def shown(self, text: str) -> str:
        """Return foreign words fit for a log: without the key and the tokens, and not too long."""
        return shown(text, self._secrets)

    async def run(
        self,
        on_push: OnPush,
        pause: Pause = lambda: None,
        at_sight: MatchRecord = lambda _: False,
    ) -> NoReturn:
        """Read until the connection ends, pinging; then raise ConnectionLost. Calls in flight fail with it."""
        if self._lost is not None:
            raise self._end
        loop = asyncio.get_running_loop()
        self._received_at = loop.time()
        self._ping_due = self._next_ping(self._received_at)
        callbacks = Callbacks(on_push, pause, at_sight, self.on_large)
        self._intake = intake = Intake(
            callbacks, self._reader, self._calls, send=self._reply, shown=self.shown, note_work=self._note_work
        )
        if self.on_growth is not None:
            self._receipt.on_growth = partial(self._grow, self.on_growth)
        try:
            self._set_timer(loop)
            await self._read(intake, loop)
        except ConnectionLost as lost:
            self._lose(lost)
            raise
        finally:
            self._intake = None  # it refers to the connection
            self._receipt.on_growth = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._lose(ConnectionLost("nobody reads the connection any more", reason="closed"))

    async def close(self) -> None:
        """Send the close record where the peer still reads, and close, within a second."""
        peer_reads = self._lost is None or self._lost.reason not in _NEVER
        self._lose(ConnectionLost("the gateway closed the connection", reason="closed"))
        try:
            if peer_reads and not self._socket.closed:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    self._send(protocol.encode_close())
                    await self._socket.close()
        except (TimeoutError, ConnectionLost):
            pass  # it is to end, and it has
        finally:
            abort(self._socket, self._tcp)
            self._receipt.end()

    async def _read(self, intake: Intake, loop: asyncio.AbstractEventLoop) -> NoReturn:
        early, self._early = self._early, ()
        await intake.take(early, 0, loop.time())
        receive = self._socket.receive
        while True:
            message = await receive()
            now = loop.time()
            if message.type is not TEXT and message.type is not BINARY:
                self._receipt.framed(now, size_of(message))
                if message.type is not PING and message.type is not PONG:
                    raise self._ended(message.type, message.data, message.extra)
                if message.type is PING:
                    self._reply(message.data, PONG)
                await intake.worked_since(now)
                continue
            self._receipt.framed(now, len(message.data))
            self._received_at = now
            records = self._reader.cut(message.data)
            if len(message.data) <= ODD and type(records) is tuple:
                if intake.take_small(records[0], now):
                    await intake.turn()
            else:
                await intake.take(records, len(message.data), now)
                del records
            del message  # a large page would stay here until the hub sends something again
            rest = intake.pause()
            if rest is not None:
                await rest

    def _grow(self, on_growth: Callable[[], None]) -> None:
        try:
            on_growth()
        except ConnectionLost as lost:
            self.abandon(lost)

    def _note_work(self) -> None:
        """Note that the hub's records are being read, so it is not silent; raises ConnectionLost where it ended."""
        self._check_open()
        self._received_at = asyncio.get_running_loop().time()

    def _reply(self, data: bytes, kind: aiohttp.WSMsgType = TEXT) -> None:
        """Send the answers that the hub requires; raises ConnectionLost where it requires more and takes none."""
        self._send(data, kind)
        waiting = self._tcp.get_write_buffer_size() if isinstance(self._tcp, asyncio.WriteTransport) else 0
        if waiting > _MAX_UNSENT_BYTES:
            raise ConnectionLost(f"the hub takes no answers: {waiting} bytes wait for it", reason="dropped")

    def _send(self, data: bytes, kind: aiohttp.WSMsgType = TEXT) -> None:
        """Hand a record, or another frame, to the transport and never wait: the peer's silence judges what it takes.

        `send_frame` writes first and then, when 64 KiB are not yet taken, waits for room; that wait is cut off.
        Its future is shared by all senders: to cancel one of them there would cancel the others.
        """
        sending = self._socket.send_frame(data, kind)
        try:
            room = sending.send(None)
        except StopIteration:
            return
        except (OSError, aiohttp.ClientError) as error:
            reason = shown(str(error), self._secrets)
            raise ConnectionLost(f"the connection broke while sending: {reason}", reason="dropped") from None
        room._asyncio_future_blocking = False  # noqa: SLF001 - as a task does, so that others can wait for it
        room.add_done_callback(retrieve_exception)
        sending.close()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ping when it is time, and end the connection when the hub has been silent for too long."""
        now = loop.time()
        silence = self._transport.silence_timeout
        if now >= self._last_sign + silence:
            self._lose(ConnectionLost(f"nothing was received for {silence:g} s", reason="silent"))
            abort(self._socket, self._tcp)  # `_read` learns it at once
            return
        if now >= self._ping_due:
            self._ping_due = self._next_ping(now)
            with suppress(ConnectionLost):  # `_read` learns it too
                self._send(protocol.encode_ping())
        self._set_timer(loop)

    def _next_ping(self, now: float) -> float:
        interval = self._transport.ping_interval
        return same_tick(now + interval, interval)

    @property
    def _last_sign(self) -> float:
        """When anything of the hub's came last, a part of a message included, or was being read."""
        if self._intake is not None and self._intake.is_busy:
            return asyncio.get_running_loop().time()
        return max(self._received_at, self._receipt.partial_at)

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        due = min(self._ping_due, self._last_sign + self._transport.silence_timeout)
        self._timer = loop.call_at(due, self._tick, loop)

    def _lose(self, lost: ConnectionLost) -> None:
        """Remember why the connection ended, once, and end the calls in flight.

        Not with the traceback of `lost`, whose frames would keep the connection in memory.
        """
        if self._lost is None:
            self._lost = _alike(lost)
            self._calls.end_all()

    @property
    def _end(self) -> ConnectionLost:
        """Why the connection ended, as an error of the caller's own: a traceback belongs to one task."""
        lost = self._lost
        assert lost is not None  # noqa: S101 - asked for only after the end
        return _alike(lost)

    def _ended(self, type_: aiohttp.WSMsgType, data: object, text: str | None) -> ConnectionLost:
        """Return why a message without data is the last."""
        if self._lost is not None:
            return self._end
        if type_ is aiohttp.WSMsgType.CLOSE:
            suffix = f": {shown(text, self._secrets)}" if text else ""
            return ConnectionLost(f"the hub closed the WebSocket with code {data or 'none'}{suffix}", reason="closed")
        if not isinstance(data, aiohttp.WebSocketError):
            return ConnectionLost("the connection was dropped without a close", reason="dropped")
        forget_frames(data)  # aiohttp's parser keeps it
        if data.code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG:
            limit = self._transport.max_record
            return ConnectionLost(too_large(f"a message is above the limit of {limit} bytes"), reason="too-large")
        text = shown(str(data), self._secrets)
        return ConnectionLost(f"the hub broke the WebSocket protocol: {text}", reason="protocol")


def _alike(lost: ConnectionLost) -> ConnectionLost:
    return ConnectionLost(str(lost), reason=lost.reason)
