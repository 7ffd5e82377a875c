"""The usual way of an event: from the hub's bytes straight to canonical bytes, compiled from the pydantic models.

What a member may be and how it is written is looked up in the models once, at import. An event that has anything
unusual (spaces, members that stand twice or in two spellings, anything that a model refuses) is `Unusual` here and
goes the long way, through the models themselves, which either take it or say what is wrong. So this can only ever
give what they would give, in a tenth of the time; the tests hold one against the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeAlias, get_args, get_origin, get_type_hints

import msgspec
from msgspec.structs import astuple

from gateway.events import fields
from gateway.events.envelope import NO_ID
from gateway.events.event import Event
from gateway.events.parts import Part
from gateway.events.payloads import EventPayload
from gateway.events.shapes import Shapes
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
    _check_utf8(data)
    _check_depth(data)


def _check_depth(data: bytes) -> None:
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH:
        raise Unusual


def _check_utf8(data: bytes) -> None:
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            raise Unusual from error


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    convert: Convert
    required: bool
    nullable: bool


class Compiled:
    """A modelled object as a plan of what to do with each member."""

    def __init__(self, model: type[Part]) -> None:
        """Look the model's fields up; raises TypeError for a type of field that has no plan."""
        hints = get_type_hints(model, include_extras=True)
        fields_ = self._fields = [
            _field(name, hints[name], required=field.is_required()) for name, field in model.model_fields.items()
        ]
        names = [field.name for field in fields_]
        self._places = {name: place for place, name in enumerate(names)}
        self._spellings = model.spellings()
        self._work = [(place, field.convert, field.nullable) for place, field in enumerate(fields_)]
        self._template = b",".join(b'"%b":%%b' % name.encode() for name in names)
        self._around = 1 + 4 * len(names) + sum(map(len, names))
        self._absent: list[bytes | None] = [None if field.required else b"null" for field in fields_]
        self._pascal, self._camel = (
            msgspec.json.Decoder(
                msgspec.defstruct(model.__name__, [(name, msgspec.Raw) for name in names], rename=style)
            )
            for style in (None, {name: name[0].lower() + name[1:] for name in names})
        )

    def canonical(self, data: bytes) -> bytes:
        """Give the canonical form of an object."""
        values, further = self._values(data)
        return b"{%b%b}" % (self._template % tuple(values), further)

    def _values(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Give the canonical values in the model's order, and what the model does not know, with its commas."""
        values, further = self._whole(data), b""
        if values is None:
            values, further = self._pieces(data)
        for place, convert, nullable in self._work:
            value = values[place]
            if value == b"null":
                if not nullable:
                    raise Unusual
            else:
                values[place] = convert(value)
        return values, further

    def _whole(self, data: bytes) -> list[bytes] | None:
        """Give the members in the model's order when all of them are there, in one of two spellings, and no others."""
        decoder = self._pascal if data[2:3].isupper() else self._camel
        try:
            values = list(map(bytes, astuple(decoder.decode(data))))
        except msgspec.MsgspecError:
            return None
        return values if sum(map(len, values)) + self._around == len(data) else None

    def _pieces(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Give the members in the model's order, null for those that may be missing, and what there is besides."""
        values = self._absent.copy()
        further = []
        seen = set()
        for name, value in members_of(data).items():
            known = self._spellings.get(name)
            if known is None:
                if (name.lower() if name.isascii() else name) in self._spellings:
                    raise Unusual
                further.append(b',"%b":%b' % (name.encode(), _open(bytes(value))))
            elif known in seen:
                raise Unusual
            else:
                seen.add(known)
                values[self._places[known]] = bytes(value)
        present = [value for value in values if value is not None]
        if len(present) < len(values):
            raise Unusual
        return present, b"".join(further)


class CompiledEvent(Compiled):
    """A payload, with its header."""

    def __init__(self, model: type[EventPayload]) -> None:
        """Note where the header stands."""
        super().__init__(model)
        self._sequence, self._id, self._time = (self._places[name] for name in ("EventSeqId", "EventId", "EventTime"))
        self._strategy = self._places.get("StrategyId")
        hints = get_type_hints(model, include_extras=True)
        known = [(field.name, hints[field.name], field.nullable) for field in self._fields]
        self._shapes = Shapes(known, [field.convert for field in self._fields])

    def event(self, account: str, kind: str, data: bytes) -> Event:
        """Give the event of a payload."""
        _check_utf8(data)
        values, further = self._shapes.values(data), b""
        if values is None:
            _check_depth(data)
            values, further = self._values(data)
            if self._shapes.is_learning and not further:
                self._shapes.learn(list(members_of(data)), self._spellings)
        sequence, id_ = values[self._sequence], values[self._id]
        strategy = b"null" if self._strategy is None else values[self._strategy]
        return Event(
            account,
            kind,
            None if sequence == b"null" else int(sequence) or None,
            None if id_ in _NO_ID else id_[1:-1].decode(),
            values[self._time][1:-1].decode(),
            None if strategy == b"null" else int(strategy),
            b"{%b%b}" % (self._template % tuple(values), further),
        )


# What a value may be --------------------------------------------------------------------------------------


def _text(value: bytes) -> bytes:
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


def _flag(value: bytes) -> bytes:
    if value not in {b"true", b"false"}:
        raise Unusual
    return value


def _integer(least: int) -> Convert:
    def integer(value: bytes) -> bytes:
        if not value.isdigit() and (value[0] != _MINUS or not value[1:].isdigit() or value == b"-0"):
            raise Unusual
        if len(value) >= _LONG and not least <= int(value) <= fields.INT64_MAX:
            raise Unusual
        if value[0] == _MINUS and not least:
            raise Unusual
        return value

    return integer


def _amount(value: bytes) -> bytes:
    if len(value) > MAX_DIGITS:
        raise Unusual
    if value[0] == _QUOTE:
        if fields.QUOTED_NUMBER.fullmatch(value) is None:
            raise Unusual
        return value
    if value[0] not in _NUMERIC or b"e" in value or b"E" in value:
        raise Unusual
    return b'"%b"' % value


def _time(value: bytes) -> bytes:
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


def _validated(validate: Callable[[Any], object]) -> Convert:
    """Convert as a validator of a field does, whose value is a text or a number."""

    def validated(value: bytes) -> bytes:
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
    return validated


def _uuid(value: bytes) -> bytes:
    if fields.QUOTED_UUID.fullmatch(value) is None:
        raise Unusual
    return value.lower()


def _open(value: bytes) -> bytes:
    first = value[0]
    if first == _BRACE:
        inner = (b'"%b":%b' % (name.encode(), _open(bytes(item))) for name, item in members_of(value).items())
        return b"{%b}" % b",".join(inner)
    if first == _BRACKET:
        return b"[%b]" % b",".join([_open(item) for item in _items(value)])
    if first == _QUOTE:
        return _text(value)
    if first in _NUMERIC and (b"e" in value or b"E" in value or len(value) > MAX_DIGITS):
        raise Unusual
    return value


def _items(value: bytes) -> list[bytes]:
    if value[0] != _BRACKET:
        raise Unusual
    items = [bytes(item) for item in _list(value)]
    if sum(map(len, items)) + len(items) + (1 if items else 2) != len(value):
        raise Unusual
    return items


def _dictionary(convert: Convert, *, nullable: bool) -> Convert:
    def dictionary(value: bytes) -> bytes:
        if value[0] != _BRACE:
            raise Unusual
        items = []
        for name, item in members_of(value).items():
            given = bytes(item)
            if given == b"null" and not nullable:
                raise Unusual
            items.append(b'"%b":%b' % (name.encode(), given if given == b"null" else convert(given)))
        return b"{%b}" % b",".join(items)

    return dictionary


def _sequence_of(convert: Convert, *, nullable: bool) -> Convert:
    def sequence(value: bytes) -> bytes:
        items = []
        for item in _items(value):
            if item == b"null" and not nullable:
                raise Unusual
            items.append(item if item == b"null" else convert(item))
        return b"[%b]" % b",".join(items)

    return sequence


def _object(model: type[Part]) -> Convert:
    compiled = Compiled(model)

    def object_(value: bytes) -> bytes:
        if value[0] != _BRACE:
            raise Unusual
        return compiled.canonical(value)

    return object_


# From a model's annotations to a plan ---------------------------------------------------------------------


def _field(name: str, hint: Any, *, required: bool) -> _Field:  # noqa: ANN401 - an annotation
    convert, nullable = _plan(hint)
    return _Field(name, convert, required, nullable)


def _plan(hint: Any) -> tuple[Convert, bool]:  # noqa: ANN401 - likewise
    """Give what to do with a value of this type, and whether it may be null."""
    if hint == fields.Open:
        return _open, True
    if hint == fields.Given:
        return _open, False
    options = [option for option in get_args(hint) if option is not type(None)]
    if get_origin(hint) is not Annotated and type(None) in get_args(hint):
        (only,) = options
        return _plan(only)[0], True
    simple = next((convert for type_, convert in _SIMPLE if hint == type_), None)
    if simple is not None:
        return simple, False
    if get_origin(hint) is dict:
        convert, nullable = _plan(options[1])
        return _dictionary(convert, nullable=nullable), False
    if get_origin(hint) is list:
        convert, nullable = _plan(options[0])
        return _sequence_of(convert, nullable=nullable), False
    if get_origin(hint) is Annotated and hint.__origin__ == int | str:
        return _validated(hint.__metadata__[0].func), False
    if isinstance(hint, type) and issubclass(hint, Part):
        return _object(hint), False
    raise TypeError(f"there is no plan for a field of type {hint}")


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
_NO_ID: Final = frozenset({b"null", f'"{NO_ID}"'.encode()})
_SIMPLE: Final[tuple[tuple[Any, Convert], ...]] = (
    (fields.Text, _text),
    (fields.Flag, _flag),
    (fields.Int, _integer(-fields.INT64_MAX - 1)),
    (fields.Sequence, _integer(0)),
    (fields.Amount, _amount),
    (fields.Time, _time),
    (fields.Uuid, _uuid),
)
