"""Pushes and history entries in their usual form, decoded by the compiled models; see `compiled`."""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.events.catalogue import CATALOGUE, Entry, find, names_of
from gateway.events.compiled import CompiledEvent
from gateway.events.envelope import DISCRIMINATORS, HEADER, PAYLOADS
from gateway.events.event import Event
from gateway.events.spelling import Unusual, check_text, members_of


def usual_push(account: str, callback: str, payload: bytes) -> Event:
    """Decode the argument of a callback; raises Unusual."""
    entry = find(callback)
    if entry is None:
        raise Unusual
    return _COMPILED[entry.kind].event(account, entry.kind, payload)


def push_at_sight(account: str, entry: Entry, payload: bytes) -> Event | None:
    """Give the event of what may be a callback's argument and more, where its shape proves that it is just that."""
    try:
        return _COMPILED[entry.kind].at_sight(account, entry.kind, payload)
    except Unusual:
        return None


def usual_envelope(account: str, envelope: bytes) -> Event:
    """Decode an entry that has one discriminator, and beside it one payload with its whole header; raises Unusual."""
    event = _at_sight(account, envelope)
    if event is None:
        entry, payload = _parts(envelope)
        event = _COMPILED[entry.kind].event(account, entry.kind, _object(payload))
        head = envelope[: -len(payload) - 1]
        if len(_heads) < _MOST_HEADS > len(head) and envelope == head + payload + b"}":
            _heads[head] = entry
    if event.id is None or event.sequence is None:
        raise Unusual  # the envelope may know better
    return event


def _at_sight(account: str, envelope: bytes) -> Event | None:
    """Give the event of an entry that begins as another one did, and has nothing but one whole payload behind that."""
    head = envelope[: envelope.find(b"{", 1)]
    entry = _heads.get(head)
    if entry is None or not envelope.endswith(b"}}"):
        return None
    return _COMPILED[entry.kind].at_sight(account, entry.kind, envelope[len(head) : -1])


def _parts(envelope: bytes) -> tuple[Entry, bytes]:
    check_text(envelope)
    entry: Entry | None = None
    payload: bytes | None = None
    seen = set()
    for name, value in members_of(envelope).items():
        role = _ROLES.get(name)
        if role is None:
            if name.isascii() and name.lower() in _ROLES:
                raise Unusual
            continue
        if role in seen:
            raise Unusual
        seen.add(role)
        if role == _DISCRIMINATOR:
            entry = _ENTRIES.get(bytes(value))
        elif role == _PAYLOAD:
            payload = bytes(value)
    if entry is None or payload is None:
        raise Unusual
    return entry, payload


def _object(payload: bytes) -> bytes:
    if not payload.startswith(b'"'):
        return payload
    try:
        text = _string(payload).encode()
    except msgspec.DecodeError as error:
        raise Unusual from error
    return text


def _spellings(name: str) -> set[str]:
    pascal = _PASCAL.get(name) or name.capitalize()
    return {name, pascal, pascal[0].lower() + pascal[1:]}


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
_COMPILED: Final = {kind: CompiledEvent(entry.model) for kind, entry in CATALOGUE.items()}
_ENTRIES: Final = {f'"{name}"'.encode(): entry for entry in CATALOGUE.values() for name in names_of(entry)}
_MOST_HEADS: Final = 256
"""Heads that are remembered, and bytes of one."""
_heads: Final[dict[bytes, Entry]] = {}
"""How entries begin whose payload comes last: a few for each kind, where nothing varies before the payload."""
_string: Final = msgspec.json.Decoder(str).decode
