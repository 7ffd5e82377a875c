"""Takes apart JSON that is not quite JSON, so that one bad value spoils only itself.

A strict decoder refuses a whole record, or a whole page of history, for one NaN, one lone surrogate or one byte that is
no UTF-8 in one event. This parser reads strings, brackets and commas alone. It hands on what stands between them as it
came, and the caller with the types judges it. It is slow, and only for what was refused.
"""

from __future__ import annotations

import re
from typing import Final

_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)
"""A string ends at the end at the latest: else each escaped quote in it would be tried as a beginning."""
_NAME: Final = re.compile(rb'\s*"([^"\\\x80-\xff]*)"\s*:', re.DOTALL)
_BLANK: Final = b" \t\r\n"


def members(raw: bytes) -> dict[str, bytes] | None:
    """Return an object's members by name, their values as they came; None for what is no object.

    None as well where a name stands twice, or has an escape or a character outside ASCII: no name of the
    protocol does.
    """
    pieces = _pieces(raw, b"{", b"}")
    if pieces is None:
        return None
    found: dict[str, bytes] = {}
    for piece in pieces:
        name = _NAME.match(piece)
        if name is None or name[1].decode() in found:
            return None
        found[name[1].decode()] = piece[name.end() :].strip(_BLANK)
    return found


def elements(raw: bytes) -> list[bytes] | None:
    """Return a list's elements as they came; None for what is no list."""
    pieces = _pieces(raw, b"[", b"]")
    return None if pieces is None else [piece.strip(_BLANK) for piece in pieces]


def text(raw: bytes | None) -> str | None:
    """Return a plain text's characters: one without escapes, in ASCII; None for anything else."""
    if raw is None or len(raw) < 2 or raw[:1] != b'"' or raw[-1:] != b'"':  # noqa: PLR2004 - two quotation marks
        return None
    inner = raw[1:-1]
    return inner.decode() if inner.isascii() and b"\\" not in inner and b'"' not in inner else None


def _pieces(raw: bytes, opening: bytes, closing: bytes) -> list[bytes] | None:
    """Cut what stands between the outermost brackets at the commas of its own level."""
    raw = raw.strip(_BLANK)
    if raw[:1] != opening or raw[-1:] != closing:
        return None
    depth, start = 0, 1
    pieces: list[bytes] = []
    for token in _TOKEN.finditer(raw):
        match token[0]:
            case b"{" | b"[":
                depth += 1
            case b"}" | b"]":
                depth -= 1
                if depth == 0:
                    if token.end() != len(raw):
                        return None
                    if pieces or raw[start : token.start()].strip(_BLANK):
                        pieces.append(raw[start : token.start()])
                    return pieces
            case b"," if depth == 1:
                pieces.append(raw[start : token.start()])
                start = token.end()
    return None
