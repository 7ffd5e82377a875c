"""The simulated hub's JSON: ASP.NET Core's wire forms, and .NET's times and escapes.

Two forms were recorded from a real hub: `camel-int` is ASP.NET Core's default, `pascal-string` is the vendor's
reference to the letter. The others, and the variations of a `Style`, are what a hub could be set to.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Literal, NamedTuple
from zlib import crc32

TICKS: Final = 10_000_000
"""Ticks of .NET in a second: its times have seven digits."""

_PLACES: Final = {"sequence": "%d", "uuid": '"%b"', "time": '"%b"'}
"""How a template leaves a place open; places not named take bytes of JSON as they are."""
DIGITS: Final = 7
"""Maximum fraction digits of .NET's times."""
_OFFSET: Final = timedelta(hours=5, minutes=30)
_BEYOND_BMP: Final = re.compile("[\U00010000-\U0010ffff]")


class Form(StrEnum):
    """How names and enums look on the wire."""

    CAMEL_INT = "camel-int"
    """camelCase names, enums as numbers."""
    PASCAL_STRING = "pascal-string"
    """PascalCase names, enums by name."""
    CAMEL_STRING = "camel-string"
    """camelCase names, enums by name."""
    PASCAL_INT = "pascal-int"
    """PascalCase names, enums as numbers."""
    MIXED = "mixed"
    """Some names in camelCase and some in PascalCase, some enums as numbers and some by name."""


Zone = Literal["utc", "offset", "unmarked"]
"""How a time says where it is: `Z`; `+05:30`; nothing, which then means UTC."""


class Style(NamedTuple):
    """A form and its variations: everything that decides how an event is written."""

    form: Form
    decimals_as_text: bool = False
    """Decimals as JSON strings, with the same digits."""
    zone: Zone = "utc"
    digits: int = DIGITS
    """Fraction digits of times at the most; the others are cut off."""
    unknown_members: bool = False
    """With members that the reference does not have."""
    integers_as_text: bool = False
    """Integers as JSON strings; enums stay numbers, as with `JsonNumberHandling.WriteAsString`."""
    nulls_left_out: bool = False
    """Members that are null left out, as with `JsonIgnoreCondition.WhenWritingNull`."""
    enums: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Enums whose members are declared in this order instead of their own."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an enum, by name and number."""

    name: str
    number: int
    enum: str = ""
    """`SignalState`."""


@dataclass(frozen=True, slots=True)
class Number:
    """A decimal as text, since its scale is part of it: `0.10`."""

    text: str


@dataclass(frozen=True, slots=True)
class WireTime:
    """A time in UTC as .NET writes it: `2026-11-22T13:32:25.0533061Z`."""

    text: str


@dataclass(frozen=True, slots=True)
class Dictionary:
    """A map whose keys are data: no form changes their case."""

    entries: Mapping[str, Tree]


@dataclass(frozen=True, slots=True)
class Slot:
    """A place that is filled afresh each time: the name of what fills it."""

    name: str


Tree = (
    None | bool | int | str | Member | Number | WireTime | Dictionary | Slot | Mapping[str, "Tree"] | Sequence["Tree"]
)
"""A value before it has a form: no floats, since there is money in it; a form re-cases the names of a plain mapping."""


def name_in(form: Form, name: str) -> str:
    """Return a property's name as `form` writes it."""
    return name if _either(form, name, _PASCAL) else name[:1].lower() + name[1:]


def member_in(form: Form, member: Member, enums: tuple[tuple[str, tuple[str, ...]], ...] = ()) -> str:
    """Return an enum's member as `form` writes it, as JSON; `enums` as a Style has them."""
    if _either(form, member.name, _BY_NAME):
        return f'"{member.name}"'
    return str(next((names.index(member.name) for enum, names in enums if enum == member.enum), member.number))


_PASCAL: Final = frozenset({Form.PASCAL_STRING, Form.PASCAL_INT})
_BY_NAME: Final = frozenset({Form.PASCAL_STRING, Form.CAMEL_STRING})


def _either(form: Form, name: str, forms: frozenset[Form]) -> bool:
    """Whether `form` is one of `forms`; in the mixed form each name has its own mind, always the same."""
    return crc32(name.encode()) % 2 == 0 if form is Form.MIXED else form in forms


def time_in(style: Style, text: str) -> str:
    """Return a time in UTC, as .NET writes it, in the style's way."""
    if style.zone == "utc" and style.digits == DIGITS:
        return text
    whole, fraction = text[:19], text[19:-1][: style.digits + 1]
    if len(fraction) == 1:  # but the point
        fraction = ""
    if style.zone == "offset":
        local = datetime.fromisoformat(whole) + _OFFSET
        return f"{local.isoformat()}{fraction}+05:30"
    return whole + fraction + ("Z" if style.zone == "utc" else "")


def text(value: str) -> str:
    """Write a JSON string as .NET's relaxed encoder does: only characters beyond the basic plane are escaped."""
    return _BEYOND_BMP.sub(_surrogates, json.dumps(value, ensure_ascii=False))


def _surrogates(match: re.Match[str]) -> str:
    high, low = divmod(ord(match.group()) - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04X}\\u{0xDC00 + low:04X}"


def render(tree: Tree, style: Style, slots: list[str]) -> str:
    """Write `tree` in `style` as a %-template; the names of its slots are added to `slots` in order."""
    match tree:
        case int() if style.integers_as_text and not isinstance(tree, bool):
            return f'"{tree}"'
        case None | bool() | int():
            return json.dumps(tree)
        case str():
            return text(tree).replace("%", "%%")
        case Number():
            return f'"{tree.text}"' if style.decimals_as_text else tree.text
        case WireTime():
            return f'"{time_in(style, tree.text)}"'
        case Member():
            return member_in(style.form, tree, style.enums)
        case Slot():
            slots.append(tree.name)
            return _place(style, tree.name)
        case Dictionary():
            pairs = (f"{render(key, style, [])}:{render(value, style, slots)}" for key, value in tree.entries.items())
            return "{" + ",".join(pairs) + "}"
        case Mapping():
            members = (
                f'"{name_in(style.form, key)}":{render(value, style, slots)}'
                for key, value in tree.items()
                if value is not None or not style.nulls_left_out
            )
            return "{" + ",".join(members) + "}"
        case _:
            return "[" + ",".join([render(item, style, slots) for item in tree]) + "]"


def _place(style: Style, name: str) -> str:
    if (name == "money" and style.decimals_as_text) or (name == "id" and style.integers_as_text):
        return '"%b"'
    if name == "sequence" and style.integers_as_text:
        return '"%d"'
    return _PLACES.get(name, "%b")


def encode(tree: Tree, style: Style) -> bytes:
    """Write `tree`, which has no slots, in `style`."""
    return (render(tree, style, []) % ()).encode()


class Clock:
    """Writes moments as .NET does: UTC, up to seven digits, trailing zeros cut."""

    def __init__(self) -> None:
        self._second = -1
        self._prefix = b""

    def now(self) -> int:
        """Return the present in ticks since 1970."""
        return time.time_ns() // 100

    def write(self, ticks: int) -> bytes:
        """Write a moment given in ticks: `2026-11-22T13:32:25.0533061Z`."""
        second, fraction = divmod(ticks, TICKS)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        if not fraction:
            return self._prefix + b"Z"
        return b"%b.%bZ" % (self._prefix, (b"%07d" % fraction).rstrip(b"0"))
