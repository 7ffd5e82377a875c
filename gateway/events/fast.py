"""The fast path of an event: msgspec structs derived from the pydantic models, from the hub's bytes to canonical ones.

Bytes → struct with the hub's names → the same struct with the canonical names → bytes, nearly all of it in C. It takes
only what it can prove to be usual, and returns the models' result; for anything else it raises `FallBack`, and the
models decide.

A payload is usual when it has the members of its model and no others, all the way down, in one letter case. Counting
proves what the structs do not see: the payload must have as many quotes and signs as the same members written again. Of
two members with one name msgspec keeps the last in silence, so the quotes of the other name are missing.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Raw

from gateway.enums import EnumNames
from gateway.events.event import Event
from gateway.events.lossless_json import MAX_DEPTH, MAX_DIGITS, MAX_PARTS, check_plain
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
        """Derive the structs; `names` has what the numbers of enums mean."""
        self._camel, self._pascal, self._is_open = _reads(model)
        self._write_plain = _of_members(model, _plain_amount, "as it is")
        self._finish = _of_members(model, _canonical(names), "canonical", but=_HEADER)
        self._has_strategy = "StrategyId" in model.model_fields

    def event(self, account: str, kind: str, data: bytes) -> Event:
        """Return the event of `data`, if that is one whole JSON object and nothing else; raises FallBack."""
        try:
            kept = self._pascal(data) if data[2:3].isupper() else self._camel(data)
            counted = _write(kept).translate(None, _NEITHER_COUNTED_NOR_E)
            if self._is_open and (counted.find(b"E-") >= 0 or counted.find(b"E+") >= 0):
                self._write_plain(kept)
                counted = _write(kept).translate(None, _NEITHER_COUNTED_NOR_E)
            _check(data, counted, is_open=self._is_open)
            id_, time = kept.EventId, kept.EventTime
            if id_ is not None and _is_canonical_uuid(id_) is None:
                kept.EventId = id_ = canonical_uuid(id_)
            if time[:_SECOND] not in _seconds or _is_rest_of_time(time, _SECOND) is None:
                kept.EventTime = time = _time(time)
            self._finish(kept)
            strategy = kept.StrategyId if self._has_strategy else None
            if strategy is _ABSENT:
                strategy = None
            return Event(
                account,
                kind,
                kept.EventSeqId or None,
                None if id_ == NO_ID else id_,
                time,
                strategy,
                _encode(kept),
            )
        except _UNUSUAL as error:
            raise FallBack from error


# The proof ---------------------------------------------------------------------------------------------------


def _check(data: bytes, counted: bytes, *, is_open: bool) -> None:
    """Refuse what the same members written again show to be unusual; `counted` is what is counted of these."""
    if data.find(b"\\") >= 0 and data.find(b"\\u00") >= 0:
        data = _ESCAPE.sub(_respelled, data)
    if len(counted) - counted.count(b"E") != len(data.translate(None, _UNCOUNTED)):
        raise FallBack
    if len(data) > MAX_PARTS:
        raise FallBack
    if is_open and (
        (len(counted) > MAX_DEPTH and counted.count(b"{") + counted.count(b"[") > MAX_DEPTH and _is_too_deep(data))
        or (len(data) > MAX_DIGITS and _may_hold_long_number(data))
    ):
        raise FallBack


def _respelled(escape: re.Match[bytes]) -> bytes:
    found = escape[0]
    return _COUNTED_ESCAPES.get(found, found)


def _is_too_deep(data: bytes) -> bool:
    """Whether brackets outside of texts may be nested deeper than the models take."""
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(bare.split(b'"')[::2]).translate(None, _NO_BRACKETS)
    for _ in range(MAX_DEPTH // 2):  # each time one level goes, or two
        brackets = brackets.replace(b"{}", b"").replace(b"[]", b"")
        if not brackets:
            return False
    return True


def _may_hold_long_number(data: bytes) -> bool:
    """Whether there may be a number of more digits than the models take.

    One byte in sixteen is looked at first: a tenth of the time, and of a long number all of them are digits.
    """
    if data[::_STRIDE].translate(_DIGITS_AS_ZEROS).find(_LONG_NUMBER[::_STRIDE][1:]) < 0:
        return False
    return data.translate(_DIGITS_AS_ZEROS).find(_LONG_NUMBER) >= 0


def _bare(number: str) -> Raw:
    """Return an open number that is no integer with the spelling that it came with, as the models do."""
    if len(number) > MAX_DIGITS:
        raise ValueError(number[:_SECOND])
    if "e" in number or "E" in number:
        check_plain(Decimal(number))
    return Raw(number)


# From a model's annotations to structs -----------------------------------------------------------------------

_Form: TypeAlias = Literal["camel", "pascal", "canonical"]
_Finish: TypeAlias = Callable[[Any], Any]
"""Returns a value in its canonical spelling; raises FallBack, or what is among `_UNUSUAL`."""
_FinishOf: TypeAlias = Callable[[Any], _Finish | None]
"""Returns for a type the function that completes its values."""


@cache
def _hints(model: type[Part]) -> dict[str, Any]:
    """Return the annotations of a model's members; to read them takes most of the time that a decoder is made in."""
    return get_type_hints(model, include_extras=True)


@cache
def _reads(model: type[Part]) -> tuple[Callable[[bytes], Any], Callable[[bytes], Any], bool]:
    """Return what reads a payload in camelCase and in PascalCase, and whether it may hold any depth or number."""
    camel, pascal = _struct(model, "camel"), _struct(model, "pascal")
    return (
        msgspec.json.Decoder(camel, float_hook=_bare).decode,
        msgspec.json.Decoder(pascal, float_hook=_bare).decode,
        not _leaves(pascal).isdisjoint({Decimal, Any}),
    )


def _leaves(type_: Any) -> set[Any]:  # noqa: ANN401 - a type
    """Return the types of the values in a struct or in any other type."""
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        return set().union(*(_leaves(hint) for hint in type_.__annotations__.values()))
    return {type_}.union(*map(_leaves, get_args(type_)))


@cache
def _struct(model: type[Part], form: _Form) -> type[msgspec.Struct]:
    """Return a model's struct; the three of a model differ in what they write alone.

    A member that is not there is not written again, but the canonical struct writes null for it.
    """
    hints = _hints(model)
    members = [
        (name, _type(hints[name], form))
        if field.is_required() or name in _HEADER
        else (name, _type(hints[name], form) | None, _ABSENT)
        for name, field in model.model_fields.items()
    ]
    return msgspec.defstruct(
        model.__name__,
        members,
        rename=camel_case if form == "camel" else None,
        omit_defaults=form != "canonical",
        forbid_unknown_fields=True,
        kw_only=True,
        gc=False,
    )


def camel_case(name: str) -> str:
    """Return a name as ASP.NET Core writes it by default."""
    return name[0].lower() + name[1:]


def _type(hint: Any, form: _Form) -> Any:  # noqa: ANN401 - annotations
    only = _without_null(hint)
    if only is not hint:
        return _type(only, form) | None
    if _is_enum(hint):
        return _Number | str
    if _is_part(hint):
        return _struct(hint, form)
    known = next((type_ for one, type_ in _TYPES if hint == one), None)
    if known is not None:
        return known
    inner = _type(get_args(hint)[-1], form)
    return dict[str, inner] if get_origin(hint) is dict else list[inner]  # type: ignore[valid-type]


def _is_enum(hint: Any) -> bool:  # noqa: ANN401 - an annotation
    return get_origin(hint) is Annotated and hint.__origin__ == int | str


def _without_null(hint: Any) -> Any:  # noqa: ANN401 - annotations
    if get_origin(hint) is Annotated and hint.__metadata__ == (fields.Guess(),):
        return _without_null(hint.__origin__)  # anything unusual goes through the models
    if get_origin(hint) in {Union, types.UnionType}:
        (only,) = [one for one in get_args(hint) if one is not type(None)]
        return only
    return hint


def _is_part(hint: Any) -> bool:  # noqa: ANN401 - an annotation
    return isinstance(hint, type) and issubclass(hint, Part)


def _of_members(
    model: type[Part], of_value: _FinishOf, form: Literal["canonical", "as it is"], *, but: frozenset[str] = frozenset()
) -> _Finish:
    """Return what finishes the members of a model's struct; in its canonical form it gets the canonical names as well.

    For that its class is replaced: the two differ in what they write alone. To convert it costs a tenth of the whole.
    """
    hints, canonical = _hints(model), _struct(model, "canonical") if form == "canonical" else None
    given = [name for name in model.model_fields if hints[name] == fields.Given]
    work = [
        (name, finish)
        for name in model.model_fields
        if name not in but and (finish := _finish(hints[name], of_value, form)) is not None
    ]

    def members(struct: Any) -> Any:  # noqa: ANN401 - a struct
        if canonical is not None:
            struct.__class__ = canonical
        for name in given:
            if getattr(struct, name) is None:
                raise FallBack
        for name, finish in work:
            value = getattr(struct, name)
            if value is not None and value is not _ABSENT:
                finished = finish(value)
                if finished is not value:
                    setattr(struct, name, finished)
        return struct

    return members


def _finish(hint: Any, of_value: _FinishOf, form: Literal["canonical", "as it is"]) -> _Finish | None:  # noqa: ANN401
    """Return what finishes a value of a type; None where there is nothing to do."""
    only = _without_null(hint)
    if _is_part(only):
        return _of_members(only, of_value, form)
    if get_origin(only) not in {dict, list}:
        return of_value(only)
    inner = _finish(get_args(only)[-1], of_value, form)
    if inner is None:
        return None
    if get_origin(only) is list:
        return lambda values: [None if value is None else inner(value) for value in values]

    def entries(values: dict[str, Any]) -> dict[str, Any]:
        for name, value in values.items():
            if value is not None:
                values[name] = inner(value)
        return values

    return entries


def _canonical(names: EnumNames) -> _FinishOf:
    """Return for a type the function that brings its values into their canonical spelling."""

    def of_value(hint: Any) -> _Finish | None:  # noqa: ANN401 - an annotation
        if _is_enum(hint):
            (enum,) = (one for one in hint.__metadata__ if isinstance(one, fields.EnumOf))
            return _Names(enum.name, names).__getitem__
        return _time if hint == fields.Time else canonical_uuid if hint == fields.Uuid else None

    return of_value


def _plain_amount(hint: Any) -> _Finish | None:  # noqa: ANN401 - an annotation
    return _plain if hint == fields.Amount else None


# Values ------------------------------------------------------------------------------------------------------


def _time(value: str) -> str:
    if value[:_SECOND] in _seconds and _is_rest_of_time(value, _SECOND):
        return value
    canonical = canonical_time(value)
    if len(_seconds) >= _REMEMBERED:
        _seconds.clear()
    _seconds.add(canonical[:_SECOND])
    return canonical


class _Plain:
    """A decimal that Decimal writes with an exponent, in plain notation."""

    def __init__(self, number: Decimal) -> None:
        """Raise ValueError where that would be absurdly long."""
        check_plain(number)
        self.text = format(number, "f")


def _plain(number: Decimal) -> Decimal | _Plain:
    return _Plain(number) if "E" in str(number) else number


class _Names(dict[int | str, int | str]):
    """What the values of an enum are published as, as far as they were seen."""

    def __init__(self, enum: str, names: EnumNames) -> None:
        """Remember none yet."""
        super().__init__()
        self._enum, self._names = enum, names

    def __missing__(self, value: int | str) -> int | str:
        """Ask what a value is published as."""
        name = self._names.read(self._enum, value)
        if len(self) < _REMEMBERED:
            self[value] = name
        return name


_UNUSUAL: Final = (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError)
_write: Final = msgspec.json.Encoder(decimal_format="number", enc_hook=lambda plain: Raw(plain.text.encode())).encode
_encode: Final = msgspec.json.Encoder(decimal_format="string", enc_hook=lambda plain: plain.text).encode

_Int64: TypeAlias = Annotated[int, msgspec.Meta(ge=-fields.INT64_MAX - 1, le=fields.INT64_MAX)]
_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=-fields.INT64_MAX, le=fields.INT64_MAX)]
_Sequence: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=fields.INT64_MAX)]
_TYPES: Final[tuple[tuple[Any, Any], ...]] = (
    (fields.Open, Any),
    (fields.Given, Any),
    (fields.Text, str),
    (fields.Flag, bool),
    (fields.Int, _Int64),
    (fields.Sequence, _Sequence),
    (fields.Amount, Decimal),
    (fields.Time, str),
    (fields.Uuid, str),
)

_HEADER: Final = frozenset({"EventId", "EventSeqId", "EventTime"})
"""What every event has, and what is finished without a call."""
_ABSENT: Final = Raw(b"null")
"""Stands where a member was left out."""
_COUNTED: Final = b'"-+{['
"""What must be as often in a payload as in the same members written again.

What stands twice has two quotes more, a decimal that came as a text too, and a number that came as -0 or 5e-5 a minus.
Nothing is written with more of these than it came with, so that no deviation makes up for another: what Decimal would
write with an exponent is written plain, and an escape that stands for one of these is replaced by it. The brackets are
there to be counted for the depth.
"""
_UNCOUNTED: Final = bytes(set(range(256)) - set(_COUNTED))
_NEITHER_COUNTED_NOR_E: Final = bytes(set(_UNCOUNTED) - set(b"E"))
_ESCAPE: Final = re.compile(rb"\\(?:u00..|.)", re.DOTALL)
_COUNTED_ESCAPES: Final = {
    spelling % ord(char): b'\\"' if char == '"' else char.encode()
    for char in _COUNTED.decode()
    for spelling in (b"\\u00%02x", b"\\u00%02X")
}
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"{}[]"))
_LONG_NUMBER: Final = b"0" * (MAX_DIGITS // 3 - 1)
"""The longest part of a number that has more than `MAX_DIGITS`: before its point, behind it, or its exponent."""
_STRIDE: Final = 16
_DIGITS_AS_ZEROS: Final = bytes.maketrans(b"123456789", b"000000000")
_SECOND: Final = len("2026-11-22T13:32:25")
_is_rest_of_time: Final = re.compile(r"(\.[0-9]{1,9})?Z").fullmatch
_is_canonical_uuid: Final = CANONICAL_UUID.fullmatch
_REMEMBERED: Final = 1024
"""Values of each sort that are remembered."""
_seconds: Final[set[str]] = set()
"""Seconds that were found to exist."""
