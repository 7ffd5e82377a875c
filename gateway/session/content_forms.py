"""What an event says, in whatever form it came: two sights of one event may differ in form without a contradiction.

A hub may push an event as it is in memory, and read it for its history from a database. There an amount has the scale
of its column (1.1 is 1.1000), and an object that was stored as JSON another order of members. These two are the same
numbers and the same objects. All else is a difference: a digit of a time, the letter case of a member, a null left out.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final

import msgspec

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
            return frozenset((name, _meaning(member)) for name, member in value.items())
        case list():
            return tuple(map(_meaning, value))
        case str():
            return ("text", Decimal(value) if _is_number(value) else value)  # equal numbers have one hash
        case _:
            return (type(value) is bool, value)  # True is 1 otherwise


_read: Final = msgspec.json.Decoder(float_hook=Decimal).decode
_is_number: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?").fullmatch
"""Amounts are texts in the canonical form."""
