"""Decodes the hub's data to an event in its canonical form, or to a dead letter; it never raises.

A push is a callback's name and its argument; a history page holds envelopes. Both end in the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from pydantic import ValidationError

from gateway.enums import EnumNames
from gateway.errors import DecodeError
from gateway.events.catalogue import CATALOGUE, EventKind, find, names_of
from gateway.events.dead_letter_reasons import DeadLetterReason
from gateway.events.encode import encode
from gateway.events.envelope import (
    DISCRIMINATORS,
    ENVELOPE_LEVELS,
    HEADER,
    PAYLOADS,
    discriminate,
    fold,
    lacks,
    payload_of,
    without_type,
)
from gateway.events.event import DeadLetter, Event
from gateway.events.fast import DecodePlan, FallBack, camel_case
from gateway.events.identify import recover
from gateway.events.lossless_json import MAX_DEPTH, MAX_PARTS, check, read, shown
from gateway.events.validation_errors import bounded, payload_fault
from gateway.names import folded

HISTORY: Final = "GetEventsSince"
"""The place of a dead letter from a history page."""

_MAX_PLACE: Final = 100


class Decoder:
    """Decodes what one hub sends, with the names that the operator gave to the numbers of its enums."""

    def __init__(self, enums: Mapping[str, Sequence[str]] | None = None) -> None:
        """Take the names of each enum's numbers, from 0 on, as the setting `hub.enums` has them."""
        self.names = EnumNames(enums)
        self._plans = {kind: DecodePlan(entry.model, self.names) for kind, entry in CATALOGUE.items()}

    def push(self, account: str, callback: str, payload: bytes) -> Event | DeadLetter:
        """Decode the argument of a callback; `payload` is raw JSON, as `protocol.Invocation` holds it."""
        entry = find(callback)
        event = None if entry is None else self.match(account, entry, payload)
        return event or self.push_at_length(account, callback, payload)

    def match(self, account: str, entry: EventKind, payload: bytes) -> Event | None:
        """Return the event, if `payload` is one whole object as hubs usually write it, and nothing else; else None."""
        try:
            return self._plans[entry.kind].event(account, entry.kind, payload)
        except FallBack:
            return None

    def envelope(self, account: str, envelope: bytes) -> Event | DeadLetter:
        """Decode one entry of a history page's `Events`; `envelope` is raw JSON."""
        return self.usual_envelope(account, envelope) or self.envelope_at_length(account, envelope)

    def usual_envelope(self, account: str, envelope: bytes) -> Event | None:
        """Return the event of an entry as hubs usually write it; None for anything else."""
        try:
            entry, payload = _parts(envelope)
        except FallBack:
            return None
        event = self.match(account, entry, payload)
        if event is None or event.id is None or event.sequence is None:  # the envelope may have it
            return None
        return event

    def push_at_length(self, account: str, callback: str, payload: bytes) -> Event | DeadLetter:
        """Decode as `push` does, through the model: for unusual events, and to find out what is wrong."""
        try:
            return self._event(account, _entry(callback), _object(read(payload), "payload"))
        except DecodeError as error:
            return _dead_letter(account, error, callback, payload, enveloped=False)

    def envelope_at_length(self, account: str, envelope: bytes) -> Event | DeadLetter:
        """Decode as `envelope` does, through the model."""
        try:
            members = _object(read(envelope, levels=ENVELOPE_LEVELS), "envelope")
            names = fold(members)
            entry = discriminate(members, names)
            payload = payload_of(members, names, entry)
            if envelope.count(b"{") + envelope.count(b"[") > MAX_DEPTH:
                check(payload)  # to the same depth as a push's, so that both are taken or neither
            return self._event(account, entry, payload)
        except DecodeError as error:
            return _dead_letter(account, error, HISTORY, envelope, enveloped=True)

    def _event(self, account: str, entry: EventKind, members: dict[str, Any]) -> Event:
        try:
            payload = entry.model.model_validate(without_type(members, entry), context=self.names)
        except ValidationError as error:
            raise payload_fault(error) from error
        return Event(
            account=account,
            kind=entry.kind,
            sequence=payload.EventSeqId or None,
            id=None if lacks(payload.EventId) else payload.EventId,
            time=payload.EventTime,
            strategy=payload.StrategyId if "StrategyId" in entry.model.model_fields else None,  # type: ignore[attr-defined]
            body=encode(payload),
        )


def _parts(envelope: bytes) -> tuple[EventKind, bytes]:
    """Return what an entry holds that has one discriminator, and beside it one payload; raises FallBack."""
    entry: EventKind | None = None
    payload: bytes | None = None
    roles = set()
    for name, value in _members_of(envelope).items():
        role = _ROLES.get(name)
        if role in roles or (role is None and folded(name) in _ROLES):
            raise FallBack
        if role == _DISCRIMINATOR:
            entry = _ENTRIES.get(bytes(value))
        elif role == _PAYLOAD:
            payload = bytes(value)
        elif _is_plain(value) is None:  # it is not published, but a fault in it is a dead letter
            raise FallBack
        if role is not None:
            roles.add(role)
    if entry is None or payload is None:
        raise FallBack
    return entry, payload


def _members_of(data: bytes) -> dict[str, msgspec.Raw]:
    """Return the members of an object, each as it came, when it has no spaces and each of them once; else FallBack."""
    if len(data) > MAX_PARTS:
        raise FallBack
    try:
        if not data.isascii():
            data.decode()
        members = _members(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FallBack from error
    # Two braces, and for each member two quotes, a colon and a comma, minus one comma. A matching sum leaves no room
    # for spaces, escapes in names, and a first member that a second one of the same name replaced.
    size = 1 + 4 * len(members) if members else 2
    for name, value in members.items():
        size += (len(name) if name.isascii() else len(name.encode())) + len(value)
    if size != len(data):
        raise FallBack
    return members


def _spellings(name: str) -> set[str]:
    pascal = _PASCAL.get(name) or name.capitalize()
    return {name, pascal, camel_case(pascal)}


_DISCRIMINATOR: Final = "discriminator"
_PAYLOAD: Final = "payload"
_PASCAL: Final = {"eventtype": "EventType", "eventname": "EventName", "callbackname": "CallbackName", **HEADER}
_ROLES: Final[dict[str, str]] = {
    spelling: role or name
    for names, role in ((DISCRIMINATORS, _DISCRIMINATOR), (PAYLOADS, _PAYLOAD), (HEADER, None))
    for name in names
    for spelling in _spellings(name)
}
"""What a member of an envelope is for, by its usual spellings; a member of the header is for itself."""
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_is_plain: Final = re.compile(rb'"[^"\\]*"|-?[0-9]{1,19}|true|false|null').fullmatch
_ENTRIES: Final = {f'"{name}"'.encode(): entry for entry in CATALOGUE.values() for name in names_of(entry)}


def _entry(callback: str) -> EventKind:
    entry = find(callback)
    if entry is None:
        detail = f"{shown(callback)} is no callback of the reference; OnOrderUpdate, for one, would be right"
        raise DecodeError(DeadLetterReason.UNKNOWN_KIND, detail)
    return entry


def _object(value: object, what: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    reason = DeadLetterReason.INVALID_PAYLOAD if what == "payload" else DeadLetterReason.MALFORMED_ENVELOPE
    raise DecodeError(reason, f"the {what} is {shown(value)}; an object would be right")


def _dead_letter(account: str, error: DecodeError, place: str, raw: bytes, *, enveloped: bool) -> DeadLetter:
    sequence, id_ = recover(raw, enveloped=enveloped)
    return DeadLetter(
        account=account,
        reason=str(error.reason),
        detail=bounded(error.detail),
        place=bounded(place, _MAX_PLACE),
        raw=raw,
        sequence=sequence,
        id=id_,
    )
