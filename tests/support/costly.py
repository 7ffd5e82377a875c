"""Messages of a hub that would cost the others much: each is the largest that a record, or a message, may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.signalr.protocol import MAX_RECORD

ROOM: Final = MAX_RECORD - 1_000
"""Bytes that a record may have besides what is around them."""
HEAD: Final = b'{"type":1,"target":"OnOrderUpdate","arguments":['


def filled(piece: bytes) -> bytes:
    """As many of `piece` as a record may hold."""
    return piece * (ROOM // len(piece))


def members() -> bytes:
    return b"{" + b",".join(b'"%07d":1' % number for number in range(ROOM // 12)) + b"}"


COSTLY: Final[dict[str, Callable[[], bytes]]] = {
    "separators": lambda: filled(b"\x1e"),
    "empty objects": lambda: filled(b"{}\x1e"),
    "commas": lambda: HEAD + filled(b",") + b"]}\x1e",
    "commas in an object": lambda: b"{" + filled(b",") + b"}\x1e",
    "a list with a NaN": lambda: HEAD + b"[NaN," + filled(b"1,") + b"1]]}\x1e",
    "a record of very many members": lambda: b'{"type":1,' + members()[1:] + b"\x1e",
    "an argument of very many members": lambda: HEAD + members() + b"]}\x1e",
    "very many arguments": lambda: HEAD + filled(b"1,") + b"1]}\x1e",
    "pings": lambda: filled(b'{"type":6}\x1e'),
    "pings with spaces": lambda: filled(b'{"type": 6}\x1e'),
    "a huge text": lambda: HEAD + b'"' + filled(b"x") + b'"]}\x1e',
    "escapes": lambda: HEAD + b'{"EventId":"' + filled(b"\\u00e9") + b'"}]}\x1e',
    "deep nesting": lambda: HEAD + b"[" * 1_000_000 + b"]" * 1_000_000 + b"]}\x1e",
    "deep nesting without an end": lambda: b"[" * 1_000_000 + b"\x1e",
    "deep objects": lambda: HEAD + b'{"a":' * 1_000_000 + b"1" + b"}" * 1_000_000 + b"]}\x1e",
    "empty lists": lambda: HEAD + b"[" + filled(b"[],") + b"1]]}\x1e",
    "fractions": lambda: HEAD + b'{"X":[' + filled(b"1.5,") + b"1]}]}\x1e",
    "a ping with a long list": lambda: b'{"type":6,"x":[' + filled(b"[],") + b"1]}\x1e",
    "quotation marks": lambda: b'{"' + filled(b'"') + b"}\x1e",
    "quotation marks in an argument": lambda: HEAD + b'{"' + filled(b'"') + b"}]}\x1e",
    "texts without end in an argument": lambda: HEAD + b'{"X":NaN,"Y":"' + filled(b'\\"Event') + b'"}]}\x1e',
    "empty texts": lambda: HEAD + b"[" + filled(b'"",') + b"1]]}\x1e",
    "numbers too long": lambda: HEAD + b'{"X":' + filled(b"1") + b"}]}\x1e",
    "fewer lists": lambda: HEAD + b"[" + b"[]," * 60_000 + filled(b" ")[200_000:] + b"1]]}\x1e",
    "fewer members": lambda: (
        HEAD + members()[:2_000_000].rpartition(b",")[0] + b",".ljust(5_000_000) + b'"X":NaN}]}\x1e'
    ),
    "made-up targets": lambda: filled(b'{"type":1,"target":"X","arguments":[{}]}\x1e'),
    "an answer to nobody": lambda: b'{"type":3,"invocationId":"99","result":{"Events":[' + filled(b"0,") + b"0]}}\x1e",
}
