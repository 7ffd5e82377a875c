"""The decoded records of SignalR's JSON protocol. The contents of a call stay raw JSON."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


class Invocation(msgspec.Struct, frozen=True):
    """Type 1: call `target`; with an `id` the caller waits for a completion."""

    target: str
    arguments: list[bytes]
    """Raw JSON, byte for byte as it came."""
    id: str | None = None


class Completion(msgspec.Struct, frozen=True):
    """Type 3: the answer to the invocation `id`: a raw JSON `result`, or the words of an `error`."""

    id: str
    result: bytes | None = None
    error: str | None = None


class Ping(msgspec.Struct, frozen=True):
    """Type 6: I am here."""


class Close(msgspec.Struct, frozen=True):
    """Type 7: the peer is about to close; `allow_reconnect` is advice for clients that give up."""

    error: str | None = None
    allow_reconnect: bool = False


class UnknownRecord(msgspec.Struct, frozen=True):
    """A record type that the gateway has no use for (2, 4, 5, 8, 9 and what the future brings)."""

    type: int


class Malformed(msgspec.Struct, frozen=True):
    """A record that is no SignalR record, with the bytes as they came."""

    raw: bytes
    problem: str
    id: str | None = None
    """The invocation that it seems to answer, so that its caller need not wait in vain."""


@dataclass(frozen=True, slots=True)
class HandshakeRequest:
    """The client's first record."""

    protocol: str
    version: int


@dataclass(frozen=True, slots=True)
class HandshakeResponse:
    """The server's first record; an `error` has the reason why the connection will close."""

    error: str | None = None


Record = Invocation | Completion | Ping | Close | UnknownRecord | Malformed
