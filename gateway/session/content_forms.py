"""What an event says, whatever form it came in: two sights of one event may differ in it, and contradict nothing.

A hub may push an event as it stands in memory and read it for its history from a database. There an amount has the
scale of its column (1.1 is 1.1000), a time the column's precision, an object that was stored as JSON another order of
members or another letter case, and what is null may be left out.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final

import msgspec

from gateway.names import folded

MOST: Final = 16 * 1024
"""Bytes of a body that is compared: the largest usual one, a prepared plan, has 3 KB."""


def means_the_same(first: bytes, second: bytes) -> bool:
    """Return whether two canonical bodies say the same in two forms; what has no meaning does not."""
    known = meaning(first)
    return known is not None and known == meaning(second)


def meaning(body: bytes) -> int | None:
    """Return what stands for all that a canonical body says, in this process alone.

    None for one that is too large, or no JSON: a session takes any bytes, and such ones have one form.
    """
    if len(body) > MOST:
        return None
    try:
        return hash(_meaning(_read(body)))
    except msgspec.DecodeError:
        return None


def _meaning(value: Any) -> Any:  # noqa: ANN401 - JSON
    match value:
        case dict():
            members = ((folded(name), member) for name, member in value.items() if member is not None)
            return frozenset((name, _meaning(member)) for name, member in members)
        case list():
            return tuple(map(_meaning, value))
        case str() if _is_number(value):
            return Decimal(value)  # numbers that are equal have one hash, whatever their scale
        case str() if (time := _is_time(value)) is not None:
            return time[1]
        case bool():
            return str(value)  # True is 1 otherwise
        case _:
            return value


_read: Final = msgspec.json.Decoder(float_hook=Decimal).decode
_is_number: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?").fullmatch
_is_time: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,9})?Z?").fullmatch
"""Of a time the whole second counts: a column may cut the fraction off anywhere."""
