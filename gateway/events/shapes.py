"""The shapes in which the hub writes a model: one regular expression for all members in the order that was seen.

The hub writes an event's members always in the same order. Where a shape matches, that the whole is JSON without
spaces and what most members are is proven by one match, in a third of the time that looking at each of them takes.
What no shape matches is no fault: it is read member by member.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple, get_args

from gateway.events import fields

_MOST: Final = 4
"""Shapes that are remembered for a model: a hub has one, two where pushes and pages differ."""
_TRIES: Final = 32
"""Payloads from which shapes are learned, at the most."""

_TEXT: Final = rb'"(?:[^"\\\x00-\x1f]++|\\[^\x00-\x1f])*+"'
_NUMBER: Final = rb"-?(?:0|[1-9][0-9]{0,30}+)(?:\.[0-9]{1,30}+)?"
_AMOUNT: Final = _NUMBER + b'|"' + _NUMBER + b'"'
_FLAT: Final = rb'\{(?:[^{}"\[\]\\\x00-\x1f]++|' + _TEXT + rb")*+\}"
_ANY: Final = b"|".join((_TEXT, _NUMBER, b"true", b"false", _FLAT))
"""A value without an exponent and without anything in it that holds more values; its converter says if it is right."""
_EXACT: Final[tuple[tuple[Any, bytes], ...]] = (
    (fields.Text, _TEXT),  # unless there is a backslash
    (fields.Flag, b"true|false"),
    (fields.Int, b"0|-?[1-9][0-9]{0,17}+"),
    (fields.Sequence, b"0|[1-9][0-9]{0,17}+"),
    (fields.Amount, _AMOUNT),  # but for its quotes
    (fields.Uuid, b'"[0-9a-f]{8}+(?:-[0-9a-f]{4}+){3}-[0-9a-f]{12}+"'),
)
"""Types whose canonical form is what matches here, as it came."""


_QUOTE: Final = ord('"')


class _Shape(NamedTuple):
    match: Callable[[bytes], re.Match[bytes] | None]
    in_order: Callable[[Sequence[bytes]], Sequence[bytes]]


class Shapes:
    """The shapes of one model that were seen."""

    def __init__(
        self, model_fields: Sequence[tuple[str, Any, bool]], converts: Sequence[Callable[[bytes], bytes]]
    ) -> None:
        """Take name, type and whether it may be null or absent of each field, and what makes a value canonical."""
        self._patterns: dict[str, bytes] = {}
        self._converts: list[tuple[int, Callable[[bytes], bytes]]] = []
        self._amounts: list[int] = []
        self._texts: list[tuple[int, Callable[[bytes], bytes]]] = []
        for place, (name, hint, nullable) in enumerate(model_fields):
            exact = next((pattern for type_, pattern in _EXACT if type_ in (hint, *get_args(hint))), None)
            self._patterns[name] = (exact or _ANY) + (b"|null" if nullable else b"")
            if exact == _AMOUNT:
                self._amounts.append(place)
            elif exact in {None, _TEXT}:
                (self._texts if exact else self._converts).append((place, converts[place]))
        self._shapes: dict[tuple[str, ...], _Shape] = {}
        self._left = _TRIES

    @property
    def is_learning(self) -> bool:
        """Whether `learn` would look at one more payload."""
        return self._left > 0

    def learn(self, members: Sequence[str], spellings: dict[str, str]) -> None:
        """Note the names, as they are spelt, of a payload that no shape matched and that has known fields only."""
        self._left -= 1
        if tuple(members) in self._shapes or len(self._shapes) >= _MOST:
            return
        names = [spellings[member] for member in members]
        text = b",".join(
            b'"%b":(%b)' % (re.escape(member).encode(), self._patterns[name])
            for member, name in zip(members, names, strict=True)
        )
        # Behind the values of the members there stands one more: null, for what is absent.
        places = [names.index(name) if name in names else len(names) for name in self._patterns]
        self._shapes[tuple(members)] = _Shape(re.compile(rb"\{%b\}" % text).fullmatch, itemgetter(*places))

    def values(self, data: bytes) -> list[bytes] | None:
        """Give the canonical values in the model's order, where a shape matches."""
        for shape in self._shapes.values():
            match = shape.match(data)
            if match is not None:
                values = list(shape.in_order((*match.groups(), b"null")))
                for place in self._amounts:
                    value = values[place]
                    if value != b"null" and value[0] != _QUOTE:
                        values[place] = b'"%b"' % value
                for place, convert in self._converts:
                    if values[place] != b"null":
                        values[place] = convert(values[place])
                if b"\\" in data:
                    for place, convert in self._texts:
                        if b"\\" in values[place]:
                            values[place] = convert(values[place])
                return values
        return None
