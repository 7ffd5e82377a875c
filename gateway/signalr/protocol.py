"""The SignalR JSON hub protocol, both sides, without I/O: bytes in, records out, and the other way.

One `RecordReader` a connection cuts the byte stream at 0x1E and decodes each record by itself, so that a record which
cannot be decoded spoils nothing but itself. Arguments and results stay raw JSON: the caller with their types decodes
them (and money must not pass through a float).

Source: ASP.NET Core's docs/specs/HubProtocol.md, and frames recorded from a Kestrel server, which the tests replay.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeVar

import msgspec

from gateway.errors import ProtocolError
from gateway.signalr import lenient_json as salvage
from gateway.signalr.records import (
    Close,
    Completion,
    HandshakeRequest,
    HandshakeResponse,
    Invocation,
    Malformed,
    Ping,
    Record,
    UnknownRecord,
)

SEPARATOR: Final = b"\x1e"
"""Ends a record; nothing else does: a WebSocket message may hold several records or a part of one."""

PUSH_TAIL: Final = b"]}"
"""Ends a push whose arguments are its last member."""

MAX_RECORD: Final = 8 * 1024 * 1024
"""Bytes of one record above which the peer is taken to have lost its senses: the largest page has 1.6 million."""


MOST_PARTS: Final = 200_000
"""Commas of a record above which only one that is written as servers do is decoded: a page of a thousand events has
half of them, and each may be an object to be made."""


class _Wire(msgspec.Struct):
    """The members of all record types at once: one decode a record, whatever it is."""

    type: int
    target: str | None = None
    arguments: list[msgspec.Raw] = []
    invocationId: str | None = None  # noqa: N815 - the wire's name
    result: msgspec.Raw = msgspec.Raw(b"")
    error: str | None = None
    allowReconnect: bool = False  # noqa: N815 - the wire's name


class _Answer(msgspec.Struct):
    """The members of a completion that is written as servers do."""

    type: int
    invocationId: str  # noqa: N815 - the wire's name
    result: msgspec.Raw


class _Push(msgspec.Struct):
    """The members of a push."""

    type: int
    target: str
    arguments: msgspec.Raw


class _HandshakeAnswer(msgspec.Struct):
    error: str | None = None
    type: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _TypeOnly(msgspec.Struct):
    type: int


_decode_wire = msgspec.json.Decoder(_Wire).decode
_decode_push = msgspec.json.Decoder(_Push).decode
_decode_only = msgspec.json.Decoder(tuple[msgspec.Raw]).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_type = msgspec.json.Decoder(_TypeOnly).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode

_PING: Final = Ping()
_PLAIN_PING: Final = b'{"type":6}'
_INVOCATION: Final = b'{"type":1,'
"""How an encoded invocation begins."""
_R = TypeVar("_R", Invocation, Completion, Ping, UnknownRecord)
_COMPLETION_HEAD: Final = re.compile(rb'\s*\{\s*"type"\s*:\s*3\s*,\s*"invocationId"\s*:\s*"([!#-\[\]-~]{1,64})"')
_PLAIN_INVOCATION: Final = len('{"type":1,"target":"","arguments":[]}')
_NO_ERROR: Final = (b"null", b'""')
"""An `error` that is none: an empty text is, as it is to Microsoft's clients."""
_PLAIN_COMPLETION: Final = len('{"type":3,"invocationId":"","result":}')


class RecordReader:
    """Cuts the bytes of one connection into records, however they were split over messages."""

    __slots__ = ("_max_record", "_rest", "behind")

    def __init__(self, max_record: int = MAX_RECORD) -> None:
        """Refuse records above `max_record` bytes."""
        self._max_record = max_record
        self._rest = bytearray()
        self.behind = 0
        """Bytes that came with the record that was cut off last, behind it."""

    @property
    def unfinished(self) -> int:
        """Bytes of the record that is not complete yet."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Return all records that `data` completes, as `cut` does."""
        return list(self.cut(data))

    def cut(self, data: bytes) -> Iterable[bytes]:
        """Return the records that `data` completes, without their separator, each cut off when it is requested.

        All of them must be taken before the next call. Only new bytes are searched, so a record in n messages costs n
        steps. Raises ProtocolError, here or later, when a record grows above the limit.
        """
        if not self._rest and data.find(SEPARATOR) == len(data) - 1 and 0 < len(data) <= self._max_record:
            self.behind = 0
            return (data[:-1],)  # the usual case: one message, one record
        return self._cut(data)

    def _cut(self, data: bytes) -> Iterator[bytes]:
        start = 0
        while (end := data.find(SEPARATOR, start)) >= 0:
            self._check(len(self._rest) + end - start)
            record = data[start:end]
            if self._rest:
                self._rest += record
                record = bytes(self._rest)
                self._rest = bytearray()
            start = end + 1
            self.behind = len(data) - start
            yield record
        self._check(len(self._rest) + len(data) - start)
        self._rest += memoryview(data)[start:]

    def _check(self, size: int) -> None:
        if size > self._max_record:
            message = f"a record of at least {size} bytes is above the limit of {self._max_record} bytes"
            raise ProtocolError(message)


def decode(raw: bytes) -> Record:
    """Decode one record; a record that cannot be decoded is a `Malformed`, never an exception."""
    if raw == _PLAIN_PING:  # half of what an idle connection receives
        return _PING
    if len(raw) > MOST_PARTS and raw.count(b",") > MOST_PARTS:
        return _decode_crowded(raw)
    try:
        wire = _decode_wire(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        return _decode_leniently(raw, str(error))
    match wire.type:
        case 1 if wire.target is not None:
            return _invocation(raw, wire, wire.target)
        case 3 if wire.invocationId is not None:
            return _completion(raw, wire, wire.invocationId)
        case 6:
            return _reject_duplicate_members(raw, _PING)
        case 7:
            return Close(wire.error, wire.allowReconnect)
        case 1:
            return Malformed(raw, "an invocation without a target")
        case 3:
            return Malformed(raw, "a completion without an invocationId")
        case other:
            return _reject_duplicate_members(raw, UnknownRecord(other))


def decode_usual_completion(raw: bytes) -> Completion | None:
    """Decode an answer that is written as servers do, however large it is; None for anything else.

    It costs a millisecond a megabyte, whatever the result holds: nothing of it is looked at.
    """
    if _COMPLETION_HEAD.match(raw) is None:
        return None
    try:
        answer = _decode_answer(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None
    is_all = len(raw) == _PLAIN_COMPLETION + len(answer.invocationId) + len(answer.result)
    return Completion(answer.invocationId, bytes(answer.result)) if is_all and answer.result else None


def _decode_crowded(raw: bytes) -> Record:
    """Decode a record of very many parts in steps that each take milliseconds."""
    answer = decode_usual_completion(raw)
    if answer is not None:
        return answer
    try:
        push = _decode_push(raw)
        (argument,) = _decode_only(push.arguments)  # fails at a second one
        if push.type == 1 and len(raw) == _PLAIN_INVOCATION + len(push.target) + len(argument):
            return Invocation(push.target, [bytes(argument)])
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        pass  # it is judged by what it is not
    head = _COMPLETION_HEAD.match(raw)
    return Malformed(
        raw, f"over {MOST_PARTS} commas, and not one argument or result", head[1].decode() if head else None
    )


def _invocation(raw: bytes, wire: _Wire, target: str) -> Invocation | Malformed:
    arguments = [bytes(argument) for argument in wire.arguments]
    record = Invocation(target, arguments, wire.invocationId)
    if len(arguments) == 1 and len(raw) == _PLAIN_INVOCATION + len(target) + len(arguments[0]):
        return record
    return _reject_duplicate_members(raw, record)


def _completion(raw: bytes, wire: _Wire, id: str) -> Completion | Malformed:  # noqa: A002 - its name
    result = bytes(wire.result)
    record = Completion(id, result or None, wire.error)
    return (
        record if len(raw) == _PLAIN_COMPLETION + len(id) + len(result) else _reject_duplicate_members(raw, record, id)
    )


def _reject_duplicate_members(raw: bytes, record: _R, id: str | None = None) -> _R | Malformed:  # noqa: A002 - its name
    """Return `record` unless a member of `raw` stands twice: then it is unknown which one the sender meant.

    A record of the usual form, without spaces or further members, never comes here: its length proves it.
    """
    try:
        repeats = json.loads(raw, object_pairs_hook=_has_duplicates, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        repeats = salvage.members(raw) is None  # a value of it is no JSON: the reader of that value raises
    return Malformed(raw, "a member stands twice", id) if repeats is True else record


def _has_duplicates(members: list[tuple[str, object]]) -> bool:
    return len({name for name, _ in members}) != len(members)


def _decode_leniently(raw: bytes, problem: str) -> Record:
    """Do justice to a record that does not decode: of some, its type is all that matters, of others the rest."""
    salvaged = _salvage(raw)
    if salvaged is not None:
        return salvaged
    try:
        type_ = _decode_type(raw).type
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        type_ = 3
    match type_:
        case 1:
            return Malformed(raw, problem)
        case 3:
            head = _COMPLETION_HEAD.match(raw)
            return Malformed(raw, problem, head[1].decode() if head else None)
        case 6:
            return _PING
        case 7:
            return Close()
        case other:
            return UnknownRecord(other)


def _salvage(raw: bytes) -> Record | None:
    """Make out an invocation or a completion in which one argument, or something in the result, is no JSON."""
    found = salvage.members(raw)
    if found is None:
        return None
    id_ = salvage.text(found.get("invocationId"))
    has_error = found.get("error", _NO_ERROR[0]) not in _NO_ERROR
    if found.get("type") == b"3" and id_ is not None and "result" in found and not has_error:
        return Completion(id_, found["result"])
    target, arguments = salvage.text(found.get("target")), salvage.elements(found.get("arguments", b""))
    if found.get("type") == b"1" and target is not None and arguments is not None:
        return Invocation(target, arguments, id_)
    return None


def push_head(target: str) -> bytes:
    """Return how a push to `target` begins when it is written as servers do; its argument and PUSH_TAIL follow."""
    return b'{"type":1,"target":"%b","arguments":[' % target.encode()


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
        answer = msgspec.json.decode(raw.removeprefix(BOM_UTF8), type=_HandshakeAnswer)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        # JSON may be an order; anything else helps to see who answered
        quoted = "" if raw.lstrip()[:1] in {b"{", b"["} else f": {raw[:80]!r}"
        message = f"not a handshake response: {error}{quoted}"
        raise ProtocolError(message) from error
    if answer.type is not msgspec.UNSET:
        suffix = f": {answer.error}" if answer.error else ""
        message = f"a record of {len(raw)} bytes came before the handshake was answered{suffix}"
        raise ProtocolError(message)
    return HandshakeResponse(answer.error)


def encode_handshake_request() -> bytes:
    """Ask for the JSON protocol."""
    return b'{"protocol":"json","version":1}\x1e'


def encode_handshake_response(error: str | None = None) -> bytes:
    """Return the answer that accepts the handshake, or the reason why not."""
    return _encode({"error": error} if error else {}) + SEPARATOR


def encode_invocation(target: str, *arguments: Any, id: str | None = None) -> bytes:  # noqa: A002, ANN401 - any JSON
    """Return a call of `target`; an argument is any JSON value, or `msgspec.Raw` for JSON that is ready."""
    record: dict[str, Any] = {"type": 1}
    if id is not None:
        record["invocationId"] = id
    record |= {"target": target, "arguments": arguments}
    return _encode(record) + SEPARATOR


def with_id(invocation: bytes, id: str) -> bytes:  # noqa: A002 - its name
    """Let an encoded invocation without an id ask for an answer; `id` is letters and digits."""
    return b'%b"invocationId":"%b",%b' % (_INVOCATION, id.encode(), invocation.removeprefix(_INVOCATION))


def encode_completion(id: str, result: Any = None, error: str | None = None) -> bytes:  # noqa: A002, ANN401 - any JSON
    """Answer the invocation `id` with a result or with an error's words."""
    outcome = {"error": error} if error is not None else {"result": result}
    return _encode({"type": 3, "invocationId": id, **outcome}) + SEPARATOR


def encode_ping() -> bytes:
    """Return the record which shows that this side is alive."""
    return _PLAIN_PING + SEPARATOR


def encode_close(error: str | None = None, *, allow_reconnect: bool = False) -> bytes:
    """Announce the end of the connection."""
    record: dict[str, Any] = {"type": 7}
    if error is not None:
        record["error"] = error
    if allow_reconnect:
        record["allowReconnect"] = True
    return _encode(record) + SEPARATOR
