"""The SignalR JSON hub protocol, both sides, without I/O: bytes in, records out, and the other way.

One `RecordReader` a connection cuts the byte stream at 0x1E and decodes each record by itself, so that
a record which cannot be decoded spoils nothing but itself. Arguments and results stay raw JSON, because
decoding them is the business of whoever knows their types (and money must not pass through a float).

Source: ASP.NET Core's docs/specs/HubProtocol.md, and frames recorded from a Kestrel server, which
the tests replay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.errors import ProtocolError

SEPARATOR: Final = b"\x1e"
"""Ends a record; nothing else does: a WebSocket message may hold several records or a part of one."""

MAX_RECORD: Final = 32 * 1024 * 1024
"""Bytes of one record above which the peer is taken to have lost its senses."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """Type 1: call `target`; with an `id` the caller waits for a completion."""

    target: str
    arguments: list[bytes]
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """Type 3: the answer to the invocation `id`: a raw JSON `result`, or the words of an `error`."""

    id: str
    result: bytes | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Ping:
    """Type 6: I am here."""


@dataclass(frozen=True, slots=True)
class Close:
    """Type 7: the peer is about to close; `allow_reconnect` is advice for clients that give up."""

    error: str | None = None
    allow_reconnect: bool = False


@dataclass(frozen=True, slots=True)
class Unused:
    """A record type that the gateway has no use for (2, 4, 5, 8, 9 and what the future brings)."""

    type: int


@dataclass(frozen=True, slots=True)
class Malformed:
    """A record that is no SignalR record, with the bytes as they came."""

    raw: bytes
    problem: str


@dataclass(frozen=True, slots=True)
class HandshakeRequest:
    """The client's first record."""

    protocol: str
    version: int


@dataclass(frozen=True, slots=True)
class HandshakeResponse:
    """The server's first record; an `error` says why the connection will close."""

    error: str | None = None


Record = Invocation | Completion | Ping | Close | Unused | Malformed


class _Wire(msgspec.Struct):
    """The members of all record types at once: one decode a record, whatever it is."""

    type: int
    target: str | None = None
    arguments: list[msgspec.Raw] = []
    invocationId: str | None = None  # noqa: N815 - the wire's name
    result: msgspec.Raw = msgspec.Raw(b"")
    error: str | None = None
    allowReconnect: bool = False  # noqa: N815 - the wire's name


_decode_wire = msgspec.json.Decoder(_Wire).decode
_decode_any = msgspec.json.decode
_encode = msgspec.json.Encoder(decimal_format="number").encode

_PING: Final = Ping()


class RecordReader:
    """Cuts the bytes of one connection into records, however they were split over messages."""

    def __init__(self, max_record: int = MAX_RECORD) -> None:
        """Refuse records above `max_record` bytes."""
        self._max_record = max_record
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take what arrived and give the records that it completes, without their separator.

        Raises ProtocolError when a record grows above the limit.
        """
        if not self._rest and data.endswith(SEPARATOR) and data.count(SEPARATOR) == 1:
            raw = [data[:-1]]  # the usual case: one message, one record
        else:
            self._rest += data
            *parts, rest = self._rest.split(SEPARATOR)
            self._rest = rest
            raw = [bytes(part) for part in parts]
        largest = max(len(self._rest), max(map(len, raw), default=0))
        if largest > self._max_record:
            message = f"a record of at least {largest} bytes is above the limit of {self._max_record} bytes"
            raise ProtocolError(message)
        return raw


def decode(raw: bytes) -> Record:
    """Decode one record; a record that cannot be decoded is a `Malformed`, never an exception."""
    try:
        wire = _decode_wire(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        return Malformed(raw, str(error))
    match wire.type:
        case 1 if wire.target is not None:
            return Invocation(wire.target, [bytes(argument) for argument in wire.arguments], wire.invocationId)
        case 3 if wire.invocationId is not None:
            return Completion(wire.invocationId, bytes(wire.result) or None, wire.error)
        case 6:
            return _PING
        case 7:
            return Close(wire.error, wire.allowReconnect)
        case 1:
            return Malformed(raw, "an invocation without a target")
        case 3:
            return Malformed(raw, "a completion without an invocationId")
        case other:
            return Unused(other)


def decode_handshake_request(raw: bytes) -> HandshakeRequest:
    """Decode a client's first record; raises ProtocolError."""
    try:
        return msgspec.json.decode(raw, type=HandshakeRequest)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        message = f"not a handshake request: {error}: {raw[:200]!r}"
        raise ProtocolError(message) from error


def decode_handshake_response(raw: bytes) -> HandshakeResponse:
    """Decode a server's first record; raises ProtocolError."""
    try:
        return msgspec.json.decode(raw, type=HandshakeResponse)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        message = f"not a handshake response: {error}: {raw[:200]!r}"
        raise ProtocolError(message) from error


def encode_handshake_request() -> bytes:
    """Ask for the JSON protocol."""
    return b'{"protocol":"json","version":1}\x1e'


def encode_handshake_response(error: str | None = None) -> bytes:
    """Accept the handshake, or say why not."""
    return _encode({"error": error} if error else {}) + SEPARATOR


def encode_invocation(target: str, *arguments: Any, id: str | None = None) -> bytes:  # noqa: A002, ANN401 - any JSON
    """Call `target`; an argument is anything JSON can say, or `msgspec.Raw` for JSON that is ready."""
    record: dict[str, Any] = {"type": 1}
    if id is not None:
        record["invocationId"] = id
    record |= {"target": target, "arguments": arguments}
    return _encode(record) + SEPARATOR


def encode_completion(id: str, result: Any = None, error: str | None = None) -> bytes:  # noqa: A002, ANN401 - any JSON
    """Answer the invocation `id` with a result or with an error's words."""
    outcome = {"error": error} if error is not None else {"result": result}
    return _encode({"type": 3, "invocationId": id, **outcome}) + SEPARATOR


def encode_ping() -> bytes:
    """Say that this side is alive."""
    return b'{"type":6}\x1e'


def encode_close(error: str | None = None, *, allow_reconnect: bool = False) -> bytes:
    """Announce the end of the connection."""
    record: dict[str, Any] = {"type": 7}
    if error is not None:
        record["error"] = error
    if allow_reconnect:
        record["allowReconnect"] = True
    return _encode(record) + SEPARATOR
