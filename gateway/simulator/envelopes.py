"""The envelopes of the simulated hub's history: every shape that a real one might have.

The vendor publishes no fields of the envelope. The usual shape here is a discriminator, a copy of the base class's
members, and the payload; `Faults` has the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Final
from zlib import crc32

from gateway.simulator.faults import Faults
from gateway.simulator.wire import Form, name_in

Members = tuple[tuple[bytes, bytes], ...]
"""Names and values, both as they are written."""

_HEADER: Final = re.compile(rb',"(\w+)":("[^"]*"),"(\w+)":("?-?[0-9]+"?),"(\w+)":("[^"]*")\}\Z')
_HEADER_BYTES: Final = 250
_OTHER_ID: Final = b'"00000000-dead-beef-0000-000000000000"'
_OTHER_SEQUENCE: Final = 1_000_000_000
_OTHER_TIME: Final = b'"2001-01-01T00:00:00Z"'


class Wrapping:
    """How entries are written under the faults and the form that hold now."""

    def __init__(self, faults: Faults, form: Form) -> None:
        self._faults = faults
        self._kind = f'"{name_in(form, faults.discriminator)}"'.encode()
        self._payload = f'"{name_in(form, faults.payload_member)}"'.encode()
        self._values: dict[str, bytes] = {}
        self._thins_out = bool(faults.history_id_missing or faults.history_sequence_missing)

    def entry(self, callback: str, payload: bytes, sequence: int) -> bytes:
        """Wrap a payload that the hub made."""
        faults = self._faults
        body, header = split(payload)
        if self._thins_out:
            header = thinned(
                header,
                without_id=lot(sequence, "id") < faults.history_id_missing,
                without_sequence=lot(sequence, "sequence") < faults.history_sequence_missing,
            )
        if faults.payload_as == "flat":
            return b"{%b,%b" % (self._discriminator(callback), join(body, header)[1:])
        inner = body + b"}" if faults.header_in == "envelope" else join(body, header)
        outer = header
        if faults.header_in == "payload":
            outer = ()
        elif faults.header_in == "differing":
            outer = tuple(map(_other, header))
        return self.around(callback, inner, outer)

    def around(self, callback: str, payload: bytes, header: Members) -> bytes:
        """Wrap any bytes; flat is not possible."""
        match self._faults.payload_as:
            case "list":
                payload = b"[%b]" % payload
            case "text":
                text = payload.decode(errors="surrogateescape")  # bytes that are no text stay as they are
                payload = json.dumps(text, ensure_ascii=False).encode(errors="surrogateescape")
        return b"{%b%b,%b:%b}" % (self._discriminator(callback), _written(header), self._payload, payload)

    def _discriminator(self, callback: str) -> bytes:
        member = self._values.get(callback)
        if member is None:
            member = self._values[callback] = b"%b:%b" % (self._kind, json.dumps(self._value(callback)).encode())
        return member

    def _value(self, callback: str) -> str:
        """Return the history's name of a kind: its model's, which is the callback's without On but for one."""
        faults = self._faults
        value = callback
        if not faults.discriminator_value.startswith("callback"):
            value = "AgentStatus" if callback == "OnAgentStatusChange" else callback.removeprefix("On")
        if faults.discriminator_value.endswith("event"):
            value += "Event"
        match faults.discriminator_case:
            case "camel":
                return value[:1].lower() + value[1:]
            case "lower":
                return value.lower()
            case "upper":
                return value.upper()
        return value


def split(payload: bytes) -> tuple[bytes, Members]:
    """Part a payload that the hub made into what comes first and its last three members, its header."""
    match = _HEADER.search(payload, max(0, len(payload) - _HEADER_BYTES))
    assert match is not None  # noqa: S101 - the hub made it
    id_name, id_, sequence_name, sequence, time_name, time = match.groups()
    return payload[: match.start()], ((id_name, id_), (sequence_name, sequence), (time_name, time))


def join(body: bytes, header: Members) -> bytes:
    """Put together what `split` parted."""
    return b"%b%b}" % (body, _written(header))


def thinned(header: Members, *, without_id: bool = False, without_sequence: bool = False) -> Members:
    """Leave EventId or EventSeqId out of a header."""
    left_out = {b"eventid"} if without_id else set()
    if without_sequence:
        left_out.add(b"eventseqid")
    return tuple(member for member in header if member[0].lower() not in left_out)


def lot(sequence: int, of: str) -> float:
    """Draw an event's lot in [0, 1): the same each time, live and in the history."""
    return crc32(f"{of} {sequence}".encode()) / 2**32


def _written(members: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b',"%b":%b' % member for member in members)


def _other(member: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    name, value = member
    match name.lower():
        case b"eventid":
            return name, _OTHER_ID
        case b"eventseqid":
            return name, value.replace(value.strip(b'"'), b"%d" % (int(value.strip(b'"')) + _OTHER_SEQUENCE))
    return name, _OTHER_TIME
