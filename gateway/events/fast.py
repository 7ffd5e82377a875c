"""The short way of an event: msgspec structs derived from the pydantic models, from the hub's bytes to canonical ones.

Bytes → struct with the hub's names → struct with the canonical names → bytes, each step in C. It takes only what it
can prove to be usual, and gives what the models would give; for anything else it raises `FallBack`, and the long way
through the models decides. What has to be proven is that no member stands twice: msgspec keeps the last in silence.

- of a payload that has all members of its model and no others, by counting: it must have as many colons as the same
  members written again (one in a text counts on both sides, an escaped one is respelled before);
- of what is nested deeper, or open, by writing it again: the same bytes come only of a JSON text that has each member
  once, no spaces, and every text and number in its canonical spelling.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from decimal import Decimal
from functools import cache, partial
from typing import Annotated, Any, Final, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

import msgspec

from gateway.enums import EnumNames
from gateway.events.event import Event
from gateway.events.lossless_json import MAX_DEPTH, MAX_DIGITS
from gateway.events.models import fields
from gateway.events.models.parts import Part
from gateway.events.models.payloads import EventPayload
from gateway.events.times import canonical_time
from gateway.events.uuids import CANONICAL_UUID, NO_ID, canonical_uuid


class FallBack(Exception):
    """This takes the long way."""


class DecodePlan:
    """How the payloads of one kind are read and written."""

    def __init__(self, model: type[EventPayload], names: EnumNames) -> None:
        """Derive the structs; `names` says what the numbers of enums mean."""
        self._camel, self._pascal, self._has_amounts = _read_as(model)
        self._canonical = _struct(model, "pascal", deep=False)
        self._finish = _of_members(model, deep=False, but=_HEADER)(names)
        self._has_strategy = "StrategyId" in model.model_fields

    def event(self, account: str, kind: str, data: bytes) -> Event:
        """Return the event of `data`, if that is one whole JSON object and nothing else; raises FallBack."""
        try:
            is_pascal = data[2:3].isupper()
            read = self._pascal if is_pascal else self._camel
            sent: Any = read(data)
            if data.find(b"\\u") >= 0:  # only now is it known that backslashes are in texts alone
                data = _ESCAPE.sub(_respelled, data)
                sent = read(data)
            again = _write(sent)
            if len(again.translate(None, _UNCOUNTED)) != len(data.translate(None, _UNCOUNTED)):
                raise FallBack
            if self._has_amounts and (_may_hold_exponent(again) or _may_hold_long_number(again)):
                raise FallBack
            kept: Any = sent if is_pascal else msgspec.convert(sent, self._canonical, from_attributes=True)
            id_, time = kept.EventId, kept.EventTime
            if id_ is not None and CANONICAL_UUID.fullmatch(id_) is None:
                kept.EventId = id_ = canonical_uuid(id_)
            if time[:_SECOND] not in _seconds or _REST_OF_TIME.fullmatch(time, _SECOND) is None:
                kept.EventTime = time = _time(time)
            self._finish(kept)
            return Event(
                account,
                kind,
                kept.EventSeqId or None,
                None if id_ == NO_ID else id_,
                time,
                kept.StrategyId if self._has_strategy else None,
                _encode(kept),
            )
        except _UNUSUAL as error:
            raise FallBack from error


def members_of(data: bytes) -> dict[str, msgspec.Raw]:
    """Return the members of an object, each as it came, when it has no spaces and each of them once; else FallBack."""
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH:
        raise FallBack
    try:
        if not data.isascii():
            data.decode()
        members = _members(data)
    except _UNUSUAL as error:
        raise FallBack from error
    # Two braces, and for each member two quotes, a colon and a comma, but for one comma: a sum that is right leaves
    # no room for spaces, escapes in names, and what was overwritten by a second member of the same name.
    size = 1 + 4 * len(members) if members else 2
    for name, value in members.items():
        size += (len(name) if name.isascii() else len(name.encode())) + len(value)
    if size != len(data):
        raise FallBack
    return members


# From a model's annotations to structs -----------------------------------------------------------------------

_Form: TypeAlias = Literal["camel", "pascal"]
_Finish: TypeAlias = Callable[[Any], Any]
"""Returns a value in its canonical spelling; raises FallBack, or what is among `_UNUSUAL`."""
_Finishing: TypeAlias = Callable[[EnumNames], _Finish]
"""Returns what finishes values where enums have these names; what depends on the model alone was found out before."""


@cache
def _hints(model: type[Part]) -> dict[str, Any]:
    """Return the annotations of a model's members; to read them takes most of the time that a decoder is made in."""
    return get_type_hints(model, include_extras=True)


@cache
def _read_as(model: type[Part]) -> tuple[Callable[[bytes], Any], Callable[[bytes], Any], bool]:
    """Return what reads a payload in camelCase and in PascalCase, and whether there are amounts in it."""
    camel, pascal = _struct(model, "camel", deep=False), _struct(model, "pascal", deep=False)
    return msgspec.json.Decoder(camel).decode, msgspec.json.Decoder(pascal).decode, Decimal in _leaves(pascal)


@cache
def _struct(model: type[Part], form: _Form, *, deep: bool) -> type[msgspec.Struct]:
    """Return a model's struct; in PascalCase it is the canonical one.

    At the top, and in a part there that holds no others, every member must be there: that is what makes the proof by
    counting one. `deep` inside, where the text has been written again, those that are not required may be missing.
    """
    hints = _hints(model)
    members: list[Any] = []
    for name, field in model.model_fields.items():
        type_ = _type(hints[name], form, deep=deep)
        if field.is_required():
            members.append((name, type_))
        else:
            type_ = type_ if type_ is msgspec.Raw else type_ | None
            members.append((name, type_, _NULL if type_ is msgspec.Raw else None) if deep else (name, type_))
    rename = camel_case if form == "camel" else None
    return msgspec.defstruct(model.__name__, members, rename=rename, gc=False, kw_only=True, forbid_unknown_fields=True)


def camel_case(name: str) -> str:
    """Return a name as ASP.NET Core writes it by default."""
    return name[0].lower() + name[1:]


def _type(hint: Any, form: _Form, *, deep: bool) -> Any:  # noqa: ANN401 - annotations
    only = _without_null(hint)
    if only is not hint:
        type_ = _type(only, form, deep=deep)
        return type_ if type_ is msgspec.Raw else type_ | None
    scalar = _scalar(hint)
    if scalar is not None:
        return scalar
    if _is_part(hint) and (deep or _is_flat(hint)):
        return _struct(hint, form, deep=deep)
    if not deep or hint in (fields.Open, fields.Given):
        return msgspec.Raw
    inner = _type(get_args(hint)[-1], form, deep=True)
    return dict[str, inner] if get_origin(hint) is dict else list[inner]  # type: ignore[valid-type]


def _scalar(hint: Any) -> Any:  # noqa: ANN401 - annotations
    if _is_enum(hint):
        return _Number | str
    return next((type_ for known, type_ in _TYPES if hint == known), None)


def _is_enum(hint: Any) -> bool:  # noqa: ANN401 - an annotation
    return get_origin(hint) is Annotated and hint.__origin__ == int | str


def _without_null(hint: Any) -> Any:  # noqa: ANN401 - annotations
    if get_origin(hint) is Annotated and hint.__metadata__ == (fields.Guess(),):
        return _without_null(hint.__origin__)  # what is not as usual takes the long way
    if get_origin(hint) in {Union, types.UnionType}:
        (only,) = [one for one in get_args(hint) if one is not type(None)]
        return only
    return hint


def _is_part(hint: Any) -> bool:  # noqa: ANN401 - an annotation
    return isinstance(hint, type) and issubclass(hint, Part)


def _is_flat(model: type[Part]) -> bool:
    hints = _hints(model)
    return all(_scalar(_without_null(hints[name])) is not None for name in model.model_fields)


def _leaves(type_: Any) -> set[Any]:  # noqa: ANN401 - a type
    """Return the types of the values in a struct or a union of types."""
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        return set().union(*(_leaves(hint) for hint in type_.__annotations__.values()))
    return {type_}.union(*map(_leaves, get_args(type_)))


@cache
def _of_members(model: type[Part], *, deep: bool, but: frozenset[str] = frozenset()) -> _Finishing:
    """Return what finishes the members of a model's canonical struct."""
    hints = _hints(model)
    finishing = [
        (name, of)
        for name in model.model_fields
        if name not in but and (of := _finish(hints[name], deep=deep)) is not None
    ]

    def with_names(names: EnumNames) -> _Finish:
        work = [(name, of(names)) for name, of in finishing]

        def members(struct: Any) -> Any:  # noqa: ANN401 - a struct
            for name, finish in work:
                value = getattr(struct, name)
                if value is not None:
                    finished = finish(value)
                    if finished is not value:
                        setattr(struct, name, finished)
            return struct

        return members

    return with_names


def _finish(hint: Any, *, deep: bool) -> _Finishing | None:  # noqa: ANN401 - an annotation
    """Return what finishes a value of a type; None where there is nothing to do."""
    only = _without_null(hint)
    if deep and only == fields.Open:
        return None  # what it is in was checked whole
    simple = next((finish for known, finish in _FINISHED if only == known), None)
    if simple is not None:
        return lambda _: simple
    if _is_enum(only):
        (enum,) = (one for one in only.__metadata__ if isinstance(one, fields.EnumOf))
        return partial(_named, enum.name)
    if _scalar(only) is not None:
        return None
    if _is_part(only) and (deep or _is_flat(only)):
        return _of_members(only, deep=deep)
    if not deep:
        return _nested(only, nullable=only is not hint)
    inner = _finish(get_args(only)[-1], deep=True)
    if inner is None:
        return None
    return lambda names: partial(_each, inner(names))


def _each(finish: _Finish, values: Any) -> Any:  # noqa: ANN401 - a list or a map
    if isinstance(values, dict):
        return {name: None if value is None else finish(value) for name, value in values.items()}
    return [None if value is None else finish(value) for value in values]


def _nested(hint: Any, *, nullable: bool) -> _Finishing:  # noqa: ANN401 - an annotation
    """Return what takes a nested value as it came, and gives its canonical bytes."""
    camel, pascal = (msgspec.json.Decoder(_type(hint, form, deep=True)).decode for form in ("camel", "pascal"))
    canonical, finishing = _type(hint, "pascal", deep=True), _finish(hint, deep=True)

    def nested(finish: _Finish | None, raw: msgspec.Raw) -> msgspec.Raw:
        if raw == _NULL:
            if nullable:
                return raw
            raise FallBack
        data = bytes(raw)
        _check_spelling(data)
        kept = pascal(data) if data[2:3].isupper() else msgspec.convert(camel(data), canonical, from_attributes=True)
        again = _write(kept)
        if again.count(b'"') - data.count(b'"') != 2 * (again.count(b"null") - data.count(b"null")):
            raise FallBack  # a decimal came as a text: each null more is a member that was not there, with its quotes
        return msgspec.Raw(_encode(kept if finish is None else finish(kept)))

    return lambda names: partial(nested, None if finishing is None else finishing(names))


# Values ------------------------------------------------------------------------------------------------------


def _check_spelling(data: bytes) -> None:
    """Refuse a value that is not spelled canonically, or may be nested too deep."""
    if len(data) > _BRACKETS and data.count(b"{") + data.count(b"[") > _BRACKETS:
        raise FallBack
    if _write(_read(data)) != data or _may_hold_exponent(data) or _may_hold_long_number(data):
        raise FallBack


def _may_hold_exponent(data: bytes) -> bool:
    """Whether there may be a number such as 1E-7, which the models write in plain notation."""
    return data.find(b"E") >= 0 and (data.find(b"E-") >= 0 or data.find(b"E+") >= 0)


def _may_hold_long_number(data: bytes) -> bool:
    """Whether there may be a number of more digits than the models take.

    One byte in sixteen is looked at first: a tenth of the time, and of a long number all of them are digits.
    """
    if len(data) <= MAX_DIGITS or data[::_STRIDE].translate(_DIGITS_AS_ZEROS).find(_LONG_NUMBER[::_STRIDE][1:]) < 0:
        return False
    return data.translate(_DIGITS_AS_ZEROS).find(_LONG_NUMBER) >= 0


def _open(value: msgspec.Raw) -> msgspec.Raw:
    if value != _NULL:
        _check_spelling(bytes(value))
    return value


def _given(value: msgspec.Raw) -> msgspec.Raw:
    if value == _NULL:
        raise FallBack
    return _open(value)


def _time(value: str) -> str:
    if value[:_SECOND] in _seconds and _REST_OF_TIME.fullmatch(value, _SECOND):
        return value
    canonical = canonical_time(value)
    if len(_seconds) >= _REMEMBERED:
        _seconds.clear()
    _seconds.add(canonical[:_SECOND])
    return canonical


def _named(enum: str, names: EnumNames) -> _Finish:
    known: dict[int | str, int | str] = {}

    def named(value: int | str) -> int | str:
        try:
            return known[value]
        except KeyError:
            name = names.read(enum, value)
            if len(known) < _REMEMBERED:
                known[value] = name
            return name

    return named


def _respelled(escape: re.Match[bytes]) -> bytes:
    """Return the canonical spelling of what an escape in a text stands for."""
    found = escape[0]
    known = _escapes.get(found)
    if known is None:
        known = _encode(_text(b'"%b"' % found))[1:-1]
        if len(_escapes) < _REMEMBERED:
            _escapes[found] = known
    return known


_UNUSUAL: Final = (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError)
_read: Final = msgspec.json.Decoder(float_hook=Decimal).decode
_write: Final = msgspec.json.Encoder(decimal_format="number").encode
_encode: Final = msgspec.json.Encoder(decimal_format="string").encode
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text: Final = msgspec.json.Decoder(str).decode

_Int64: TypeAlias = Annotated[int, msgspec.Meta(ge=-fields.INT64_MAX - 1, le=fields.INT64_MAX)]
_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=-fields.INT64_MAX, le=fields.INT64_MAX)]
_Sequence: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=fields.INT64_MAX)]
_TYPES: Final[tuple[tuple[Any, Any], ...]] = (
    (fields.Text, str),
    (fields.Flag, bool),
    (fields.Int, _Int64),
    (fields.Sequence, _Sequence),
    (fields.Amount, Decimal),
    (fields.Time, str),
    (fields.Uuid, str),
)
_FINISHED: Final[tuple[tuple[Any, _Finish], ...]] = (
    (fields.Open, _open),
    (fields.Given, _given),
    (fields.Time, _time),
    (fields.Uuid, canonical_uuid),
)

_HEADER: Final = frozenset({"EventId", "EventTime"})
"""What every event has, and what is finished without a call."""
_UNCOUNTED: Final = bytes(set(range(256)) - set(b':"-'))
"""All but what must be as often in a payload as in the same members written again.

A member that stands twice has a colon more, a decimal that came as a text two quotes, and one that came as -0 or 5e-5 a
minus. None of them has less of anything, so that one sum will do.
"""
_NULL: Final = msgspec.Raw(b"null")
_BRACKETS: Final = MAX_DEPTH // 2
"""Brackets of a value that cannot be nested too deep, wherever it stands."""
_LONG_NUMBER: Final = b"0" * (MAX_DIGITS // 2 - 1)
"""Before or behind the point of a number that has more than `MAX_DIGITS`."""
_STRIDE: Final = 16
_DIGITS_AS_ZEROS: Final = bytes.maketrans(b"123456789", b"000000000")
_ESCAPE: Final = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u....|.)", re.DOTALL)
_SECOND: Final = len("2026-11-22T13:32:25")
_REST_OF_TIME: Final = re.compile(r"(\.[0-9]{1,9})?Z")
_REMEMBERED: Final = 1024
"""Values of each sort that are remembered."""
_seconds: Final[set[str]] = set()
"""Seconds that were found to exist."""
_escapes: Final[dict[bytes, bytes]] = {}
"""Escapes and their canonical spelling: names of strategies have the same ones again and again."""
