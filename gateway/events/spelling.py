"""What a value may be on the usual way of an event, and its canonical spelling: bytes as they came to canonical ones.

Each of these takes less than the type of the models that it stands for, and what it takes it spells as they do. What
it does not take is no fault: it goes the long way, through the models.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from gateway.events import fields
from gateway.events.strict_json import MAX_DEPTH, MAX_DIGITS
from gateway.events.times import canonical_time

Convert: TypeAlias = Callable[[bytes], bytes]
"""From a JSON value as it came, without spaces around it, to its canonical form; raises Unusual."""


class Unusual(Exception):
    """This takes the long way."""


def members_of(data: bytes) -> dict[str, msgspec.Raw]:
    """Give the members of an object, each as it came, when it has no spaces and each of them once.

    The parser has seen every value by then: that it is JSON need not be checked again, but UTF-8 must be.
    """
    try:
        members = _members(data)
    except msgspec.DecodeError as error:
        raise Unusual from error
    # Two braces, and for each member two quotes, a colon and a comma, but for one comma: a sum that is right leaves
    # no room for spaces, escapes in names, and what was overwritten by a second member of the same name.
    size = 1 + 4 * len(members) if members else 2
    for name, value in members.items():
        size += len(name) + len(value)
    if size != len(data) and (data.isascii() or size + _beyond_ascii(members) != len(data)):
        raise Unusual
    return members


def check_text(data: bytes) -> None:
    """Refuse what is not UTF-8, and what may be nested too deep; before anything else is done with `data`."""
    check_utf8(data)
    check_depth(data)


def check_depth(data: bytes) -> None:
    """Refuse what may be nested too deep."""
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH:
        raise Unusual


def check_utf8(data: bytes) -> None:
    """Refuse what is not UTF-8."""
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            raise Unusual from error


def text(value: bytes) -> bytes:
    """Spell a text, without escapes that need not be."""
    if value[0] != _QUOTE:
        raise Unusual
    if b"\\" not in value:
        return value
    known = _texts.get(value)
    if known is not None:
        return known
    try:
        canonical = _encode(_string(value))
    except msgspec.DecodeError as error:  # half of a surrogate pair
        raise Unusual from error
    if len(_texts) < _USUAL and len(value) < 2 * _SHORT:
        _texts[value] = canonical
    return canonical


def flag(value: bytes) -> bytes:
    """Take true and false."""
    if value not in {b"true", b"false"}:
        raise Unusual
    return value


def integer(least: int) -> Convert:
    """Take integers of 64 bits from `least` on."""

    def checked(value: bytes) -> bytes:
        if not value.isdigit() and (value[0] != _MINUS or not value[1:].isdigit() or value == b"-0"):
            raise Unusual
        if len(value) >= _LONG and not least <= int(value) <= fields.INT64_MAX:
            raise Unusual
        if value[0] == _MINUS and not least:
            raise Unusual
        return value

    return checked


def amount(value: bytes) -> bytes:
    """Spell a decimal number as a text."""
    if len(value) > MAX_DIGITS:
        raise Unusual
    if value[0] == _QUOTE:
        if fields.QUOTED_NUMBER.fullmatch(value) is None:
            raise Unusual
        return value
    if value[0] not in _NUMERIC or b"e" in value or b"E" in value:
        raise Unusual
    return b'"%b"' % value


def time(value: bytes) -> bytes:
    """Spell a time in UTC."""
    if value[0] != _QUOTE:
        raise Unusual
    if len(value) > _SECOND and value[:_SECOND] in _seconds and _REST_OF_TIME.fullmatch(value, _SECOND):
        return value
    canonical = _written(value)
    if len(_seconds) >= _USUAL:
        _seconds.clear()
    _seconds.add(canonical[:_SECOND])
    return canonical


def _written(value: bytes) -> bytes:
    try:
        return f'"{canonical_time(value[1:-1].decode())}"'.encode()
    except ValueError as error:
        raise Unusual from error


def validated(validate: Callable[[Any], object]) -> Convert:
    """Convert as a validator of a field does, whose value is a text or a number."""

    def checked(value: bytes) -> bytes:
        known = usual.get(value)
        if known is not None:
            return known
        if value[0] != _QUOTE and not value.isdigit():
            raise Unusual
        try:
            canonical = _encode(validate(_scalar(value)))
        except (ValueError, msgspec.MsgspecError) as error:
            raise Unusual from error
        if len(usual) < _USUAL and len(value) < _SHORT:
            usual[value] = canonical
        return canonical

    usual: dict[bytes, bytes] = {}
    return checked


def uuid(value: bytes) -> bytes:
    """Spell a UUID in lower case."""
    if fields.QUOTED_UUID.fullmatch(value) is None:
        raise Unusual
    return value.lower()


def open_(value: bytes) -> bytes:
    """Spell whatever it is, with its names and digits."""
    first = value[0]
    if first == _BRACE:
        inner = (b'"%b":%b' % (name.encode(), open_(bytes(item))) for name, item in members_of(value).items())
        return b"{%b}" % b",".join(inner)
    if first == _BRACKET:
        return b"[%b]" % b",".join([open_(item) for item in items_of(value)])
    if first == _QUOTE:
        return text(value)
    if first in _NUMERIC and (b"e" in value or b"E" in value or len(value) > MAX_DIGITS):
        raise Unusual
    return value


def items_of(value: bytes) -> list[bytes]:
    """Give the elements of a list that has no spaces."""
    if value[0] != _BRACKET:
        raise Unusual
    items = [bytes(item) for item in _list(value)]
    if sum(map(len, items)) + len(items) + (1 if items else 2) != len(value):
        raise Unusual
    return items


def _beyond_ascii(members: dict[str, msgspec.Raw]) -> int:
    return sum(len(name.encode()) - len(name) for name in members)


_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_list: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_string: Final = msgspec.json.Decoder(str).decode
_scalar: Final = msgspec.json.Decoder(str | int).decode
_encode: Final = msgspec.json.Encoder().encode
_QUOTE, _BRACE, _BRACKET, _MINUS = b'"{[-'
_NUMERIC: Final = frozenset(b"-0123456789")
_LONG: Final = 19
"""Characters from which on an integer may be beyond 64 bits."""
_USUAL: Final = 256
"""Spellings that are remembered at the most."""
_SECOND: Final = len('"2026-11-22T13:32:25')
_texts: Final[dict[bytes, bytes]] = {}
"""Texts with escapes, such as names of strategies, which come again and again."""
_seconds: Final[set[bytes]] = set()
"""Seconds that were found to exist, with the quote before them."""
_REST_OF_TIME: Final = re.compile(rb'(\.[0-9]{1,9})?Z"')
_SHORT: Final = 32
