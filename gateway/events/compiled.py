"""The usual way of an event: from the hub's bytes straight to canonical bytes, compiled from the pydantic models.

What a member may be and how it is written is looked up in the models once, at import. An event that has anything
unusual (spaces, members that stand twice or in two spellings, anything that a model refuses) is `Unusual` here and
goes the long way, through the models themselves, which either take it or say what is wrong. So this can only ever
give what they would give, in a tenth of the time; the tests hold one against the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

import msgspec
from msgspec.structs import astuple

from gateway.events import fields, spelling
from gateway.events.envelope import NO_ID
from gateway.events.event import Event
from gateway.events.parts import Part
from gateway.events.payloads import EventPayload
from gateway.events.shapes import Shapes
from gateway.events.spelling import Convert, Unusual


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
        for name, value in spelling.members_of(data).items():
            known = self._spellings.get(name)
            if known is None:
                if (name.lower() if name.isascii() else name) in self._spellings:
                    raise Unusual
                further.append(b',"%b":%b' % (name.encode(), spelling.open_(bytes(value))))
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
        event = self.at_sight(account, kind, data)
        if event is not None:
            return event
        spelling.check_text(data)
        values, further = self._values(data)
        if self._shapes.is_learning and not further:
            self._shapes.learn(list(spelling.members_of(data)), self._spellings)
        return self._event(account, kind, values, further)

    def at_sight(self, account: str, kind: str, data: bytes) -> Event | None:
        """Give the event of a payload in a shape that was seen, which proves that it is one object; else None."""
        if not data.isascii():
            spelling.check_utf8(data)
        values = self._shapes.values(data)
        return None if values is None else self._event(account, kind, values)

    def _event(self, account: str, kind: str, values: list[bytes], further: bytes = b"") -> Event:
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


def _dictionary(convert: Convert, *, nullable: bool) -> Convert:
    def dictionary(value: bytes) -> bytes:
        if value[:1] != b"{":
            raise Unusual
        items = []
        for name, item in spelling.members_of(value).items():
            given = bytes(item)
            if given == b"null" and not nullable:
                raise Unusual
            items.append(b'"%b":%b' % (name.encode(), given if given == b"null" else convert(given)))
        return b"{%b}" % b",".join(items)

    return dictionary


def _sequence_of(convert: Convert, *, nullable: bool) -> Convert:
    def sequence(value: bytes) -> bytes:
        items = []
        for item in spelling.items_of(value):
            if item == b"null" and not nullable:
                raise Unusual
            items.append(item if item == b"null" else convert(item))
        return b"[%b]" % b",".join(items)

    return sequence


def _object(model: type[Part]) -> Convert:
    compiled = Compiled(model)

    def object_(value: bytes) -> bytes:
        if value[:1] != b"{":
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
        return spelling.open_, True
    if hint == fields.Given:
        return spelling.open_, False
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
        return spelling.validated(hint.__metadata__[0].func), False
    if isinstance(hint, type) and issubclass(hint, Part):
        return _object(hint), False
    raise TypeError(f"there is no plan for a field of type {hint}")


_NO_ID: Final = frozenset({b"null", f'"{NO_ID}"'.encode()})
_SIMPLE: Final[tuple[tuple[Any, Convert], ...]] = (
    (fields.Text, spelling.text),
    (fields.Flag, spelling.flag),
    (fields.Int, spelling.integer(-fields.INT64_MAX - 1)),
    (fields.Sequence, spelling.integer(0)),
    (fields.Amount, spelling.amount),
    (fields.Time, spelling.time),
    (fields.Uuid, spelling.uuid),
)
