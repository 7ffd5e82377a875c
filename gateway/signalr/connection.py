"""One SignalR connection over a WebSocket, used once: negotiate, upgrade, handshake, calls and pushes.

When it ends it stays ended; whoever owns it makes the next. Every wait has a limit: negotiate, upgrade,
handshake, each call; and 30 s without a record is the end, whatever TCP says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import msgspec

from gateway.errors import CallFailed, CallTimedOut, ConnectFailed, ConnectionLost, ProtocolError, Refused
from gateway.signalr import protocol

_MAX_REDIRECTS: Final = 5
_HTTP_REFUSALS: Final = {401, 403}

OnPush = Callable[[str, list[bytes]], None]
"""Called with the target and the raw JSON arguments of each invocation, in the order of arrival."""


@dataclass(frozen=True, slots=True)
class Transport:
    """How connections are made; one for all of a process."""

    http: aiohttp.ClientSession
    """Holds the TLS context, the connector and the default headers."""
    connect_timeout: float = 15.0
    """Seconds for negotiate, upgrade and handshake each."""
    call_timeout: float = 30.0
    """Seconds for the answer to a call."""
    ping_interval: float = 15.0
    """Seconds between our pings: the hub counts our silence."""
    silence_timeout: float = 30.0
    """Seconds without a record after which the hub is taken to be gone; it pings each 15 s."""
    max_record: int = protocol.MAX_RECORD
    """Bytes of one record."""
    proxy: str | None = None
    skip_negotiation: bool = False


class _Negotiation(msgspec.Struct):
    """The members of a negotiate answer that matter."""

    connectionToken: str | None = None  # noqa: N815 - the wire's name
    connectionId: str | None = None  # noqa: N815 - the wire's name
    url: str | None = None
    accessToken: str | None = None  # noqa: N815 - the wire's name
    error: str | None = None


@dataclass(slots=True)
class Connection:
    """An open connection. `run` must be running for calls to be answered."""

    _transport: Transport
    _socket: aiohttp.ClientWebSocketResponse[Any]
    _reader: protocol.RecordReader
    _early: list[bytes]
    """Records that came with the handshake's answer."""
    _calls: dict[str, asyncio.Future[bytes]] = field(default_factory=dict)
    _ids: count[int] = field(default_factory=lambda: count(1))
    _lost: ConnectionLost | None = None

    async def call(self, method: str, argument: dict[str, object]) -> bytes:
        """Call `method` and give its raw JSON result.

        Raises CallFailed when the hub answers with an error, CallTimedOut, ConnectionLost.
        """
        if self._lost is not None:
            raise self._lost
        id = str(next(self._ids))  # noqa: A001 - its name
        answer = self._calls[id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._transport.call_timeout):
                await self._send(protocol.encode_invocation(method, argument, id=id))
                result: bytes = await answer
                return result
        except TimeoutError as error:
            raise CallTimedOut(method, self._transport.call_timeout) from error
        except CallFailed as failure:
            raise CallFailed(method, str(failure)) from None
        finally:
            del self._calls[id]

    async def run(self, on_push: OnPush) -> NoReturn:
        """Read until the connection ends, pinging; then raise ConnectionLost."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_alive())
                await self._read(on_push)
        except* ConnectionLost as group:
            self._lost = _first(group)
        assert self._lost is not None  # noqa: S101 - nothing else ends the group but cancellation
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(self._lost)
        raise self._lost

    async def close(self) -> None:
        """Say goodbye and close, within a second."""
        try:
            async with asyncio.timeout(1):
                if not self._socket.closed:
                    await self._socket.send_frame(protocol.encode_close(), aiohttp.WSMsgType.TEXT)
                await self._socket.close()
        except (TimeoutError, OSError, aiohttp.ClientError):
            pass  # it is to end, and it has
        finally:
            self._socket._response.close()  # noqa: SLF001 - the socket too, where the goodbye was not answered

    async def _keep_alive(self) -> NoReturn:
        while True:
            await asyncio.sleep(self._transport.ping_interval)
            await self._send(protocol.encode_ping())

    async def _send(self, record: bytes) -> None:
        try:
            await self._socket.send_frame(record, aiohttp.WSMsgType.TEXT)
        except (OSError, aiohttp.ClientError) as error:
            raise ConnectionLost(f"the connection broke while sending: {error}", reason="dropped") from error

    async def _read(self, on_push: OnPush) -> NoReturn:
        loop = asyncio.get_running_loop()
        silence = self._transport.silence_timeout
        try:
            async with asyncio.timeout(silence) as limit:
                self._take(self._early, on_push)
                while True:
                    message = await self._socket.receive()
                    now = loop.time()
                    if (limit.when() or 0) < now + silence - 1:  # a timer a second, not one a message
                        limit.reschedule(now + silence)
                    if message.type in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}:
                        self._take(self._reader.feed(message.data), on_push)
                    else:
                        raise self._ended(message)
        except TimeoutError as error:
            raise ConnectionLost(f"nothing was received for {silence:g} s", reason="silent") from error
        except ProtocolError as error:
            raise ConnectionLost(str(error), reason="too-large") from error

    def _take(self, raw_records: list[bytes], on_push: OnPush) -> None:
        for raw in raw_records:
            record = protocol.decode(raw)
            match record:
                case protocol.Invocation():
                    on_push(record.target, record.arguments)
                case protocol.Completion():
                    self._complete(record)
                case protocol.Close():
                    words = record.error or "no reason given"
                    raise ConnectionLost(f"the hub closed the connection: {words}", reason="closed")
                case protocol.Malformed():
                    on_push("", [record.raw])
                case _:
                    pass  # a ping, or a type that the gateway has no use for

    def _complete(self, completion: protocol.Completion) -> None:
        answer = self._calls.get(completion.id)
        if answer is None or answer.done():
            return  # the caller has given up
        if completion.error is not None:
            answer.set_exception(CallFailed("", completion.error))
        else:
            answer.set_result(completion.result or b"null")

    def _ended(self, message: aiohttp.WSMessage) -> ConnectionLost:
        code = self._socket.close_code
        if isinstance(message.data, aiohttp.WebSocketError):
            if message.data.code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG:
                limit = self._transport.max_record
                return ConnectionLost(f"a message is above the limit of {limit} bytes", reason="too-large")
            return ConnectionLost(f"the hub broke the WebSocket protocol: {message.data}", reason="protocol")
        if message.type is aiohttp.WSMsgType.ERROR or code in {None, aiohttp.WSCloseCode.ABNORMAL_CLOSURE}:
            return ConnectionLost("the connection was dropped without a close", reason="dropped")
        return ConnectionLost(f"the hub closed the WebSocket with code {code}", reason="closed")


async def connect(transport: Transport, url: str, key: str) -> Connection:
    """Connect to the hub at `url` with the bearer `key`.

    Raises Refused on 401 and 403, else ConnectFailed, which names the stage, and the hub's Retry-After.
    """
    token = None
    if not transport.skip_negotiation:
        url, key, token = await _negotiate(transport, url, key)
    socket = await _upgrade(transport, url, key, token)
    try:
        reader, early = await _shake_hands(transport, socket)
    except BaseException:
        socket._response.close()  # noqa: SLF001 - at once; a goodbye could hang
        raise
    return Connection(transport, socket, reader, early)


async def _negotiate(transport: Transport, url: str, key: str) -> tuple[str, str, str | None]:
    for _ in range(_MAX_REDIRECTS):
        parts = urlsplit(url)
        query = f"{parts.query}&negotiateVersion=1" if parts.query else "negotiateVersion=1"
        target = urlunsplit(parts._replace(path=parts.path.rstrip("/") + "/negotiate", query=query))
        try:
            async with (
                asyncio.timeout(transport.connect_timeout),
                transport.http.post(
                    target, headers=_bearer(key), proxy=transport.proxy, allow_redirects=False
                ) as response,
            ):
                _check(response, "negotiate")
                body = await response.content.read(1024 * 1024)
        except TimeoutError as error:
            raise _timed_out("negotiate", transport) from error
        except (OSError, aiohttp.ClientError) as error:
            raise ConnectFailed(f"negotiate: {_words(error)}", reason="unreachable") from error
        answer = _read_negotiation(body)
        if answer.url is None:
            return url, key, answer.connectionToken or answer.connectionId
        url, key = answer.url, answer.accessToken or key
    raise ConnectFailed(f"negotiate: redirected more than {_MAX_REDIRECTS} times", reason="negotiate")


def _read_negotiation(body: bytes) -> _Negotiation:
    try:
        answer = msgspec.json.decode(body, type=_Negotiation)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        message = f"negotiate: the answer is no SignalR negotiation ({error}); it begins {body[:80]!r}"
        raise ConnectFailed(message, reason="negotiate") from error
    if answer.error is not None:
        raise ConnectFailed(f"negotiate: {answer.error}", reason="negotiate")
    return answer


async def _upgrade(transport: Transport, url: str, key: str, token: str | None) -> aiohttp.ClientWebSocketResponse[Any]:
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    query = "&".join(filter(None, [parts.query, f"id={token}" if token else ""]))
    try:
        async with asyncio.timeout(transport.connect_timeout):
            return await transport.http.ws_connect(
                urlunsplit(parts._replace(scheme=scheme, query=query)),
                headers=_bearer(key),
                proxy=transport.proxy,
                compress=0,
                decode_text=False,  # money passes as the bytes that came; a record's bad UTF-8 spoils only itself
                max_msg_size=transport.max_record,
                timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
            )
    except TimeoutError as error:
        raise _timed_out("upgrade", transport) from error
    except aiohttp.WSServerHandshakeError as error:
        raise _refusal("upgrade", error.status, error.headers or {}) from error
    except (OSError, aiohttp.ClientError) as error:
        raise ConnectFailed(f"upgrade: {_words(error)}", reason="unreachable") from error


async def _shake_hands(
    transport: Transport, socket: aiohttp.ClientWebSocketResponse[Any]
) -> tuple[protocol.RecordReader, list[bytes]]:
    reader = protocol.RecordReader(transport.max_record)
    try:
        async with asyncio.timeout(transport.connect_timeout):
            await socket.send_frame(protocol.encode_handshake_request(), aiohttp.WSMsgType.TEXT)
            records: list[bytes] = []
            while not records:
                message = await socket.receive()
                if message.type not in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}:
                    raise ConnectFailed("handshake: the hub closed the connection", reason="handshake")
                records = reader.feed(message.data)
        answer = protocol.decode_handshake_response(records[0])
    except TimeoutError as error:
        raise _timed_out("handshake", transport) from error
    except (OSError, aiohttp.ClientError, ProtocolError) as error:
        raise ConnectFailed(f"handshake: {_words(error)}", reason="handshake") from error
    if answer.error is not None:
        raise ConnectFailed(f"handshake: {answer.error}", reason="handshake")
    return reader, records[1:]


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _check(response: aiohttp.ClientResponse, stage: str) -> None:
    if response.status != 200:  # noqa: PLR2004 - OK
        raise _refusal(stage, response.status, response.headers)


def _refusal(stage: str, status: int, headers: Any) -> ConnectFailed:  # noqa: ANN401 - aiohttp's own mapping
    message = f"{stage}: the hub answered {status}"
    retry_after = _retry_after(headers.get("Retry-After"))
    if status in _HTTP_REFUSALS:
        return Refused(message, reason="refused", retry_after=retry_after)
    return ConnectFailed(message, reason=f"http-{status}", retry_after=retry_after)


def _retry_after(value: str | None) -> float | None:
    """Read seconds or an HTTP date; what is neither is no advice."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when - when.now(when.tzinfo)).total_seconds())


def _timed_out(stage: str, transport: Transport) -> ConnectFailed:
    return ConnectFailed(f"{stage}: no answer within {transport.connect_timeout:g} s", reason="timeout")


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _first(group: BaseExceptionGroup[ConnectionLost]) -> ConnectionLost:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ConnectionLost)  # noqa: S101 - except* chose it
    return error
