"""How the simulated hub writes JSON: the two wire forms of ASP.NET Core, and .NET's times and escapes.

The two forms are those recorded from a real hub: `camel-int` is ASP.NET Core's default, `pascal-string` is
the vendor's reference to the letter.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

TICKS: Final = 10_000_000
"""Ticks of .NET in a second: its times have seven digits."""

_PLACES: Final = {"sequence": "%d", "uuid": '"%b"', "time": '"%b"'}
"""How a template leaves a place open; places not named take bytes of JSON as they are."""
_BEYOND_BMP: Final = re.compile("[\U00010000-\U0010ffff]")


class Form(StrEnum):
    """How names and enums look on the wire."""

    CAMEL_INT = "camel-int"
    """camelCase names, enums as numbers."""
    PASCAL_STRING = "pascal-string"
    """PascalCase names, enums by name."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an enum, by name and number."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class Number:
    """A decimal as text, since its scale is part of it: `0.10`."""

    text: str


@dataclass(frozen=True, slots=True)
class Dictionary:
    """A map whose keys are data: no form changes their case."""

    entries: Mapping[str, Tree]


@dataclass(frozen=True, slots=True)
class Slot:
    """A place that is filled afresh each time: the name of what fills it."""

    name: str


Tree = None | bool | int | str | Member | Number | Dictionary | Slot | Mapping[str, "Tree"] | Sequence["Tree"]
"""A value before it has a form: no floats, since there is money in it; a form re-cases the names of a plain mapping."""


def name_in(form: Form, name: str) -> str:
    """Give a property's name as `form` writes it."""
    return name if form is Form.PASCAL_STRING else name[:1].lower() + name[1:]


def text(value: str) -> str:
    """Write a JSON string as .NET's relaxed encoder does: only characters beyond the basic plane are escaped."""
    return _BEYOND_BMP.sub(_surrogates, json.dumps(value, ensure_ascii=False))


def _surrogates(match: re.Match[str]) -> str:
    high, low = divmod(ord(match.group()) - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04X}\\u{0xDC00 + low:04X}"


def render(tree: Tree, form: Form, slots: list[str]) -> str:
    """Write `tree` in `form` as a %-template; the names of its slots are added to `slots` in order."""
    match tree:
        case None:
            return "null"
        case bool():
            return "true" if tree else "false"
        case int():
            return str(tree)
        case str():
            return text(tree).replace("%", "%%")
        case Number():
            return tree.text
        case Member():
            return f'"{tree.name}"' if form is Form.PASCAL_STRING else str(tree.number)
        case Slot():
            slots.append(tree.name)
            return _PLACES.get(tree.name, "%b")
        case Dictionary():
            pairs = (f"{render(key, form, [])}:{render(value, form, slots)}" for key, value in tree.entries.items())
            return "{" + ",".join(pairs) + "}"
        case Mapping():
            members = (f'"{name_in(form, key)}":{render(value, form, slots)}' for key, value in tree.items())
            return "{" + ",".join(members) + "}"
        case _:
            return "[" + ",".join([render(item, form, slots) for item in tree]) + "]"


def encode(tree: Tree, form: Form) -> bytes:
    """Write `tree`, which has no slots, in `form`."""
    return (render(tree, form, []) % ()).encode()


class Clock:
    """Writes moments as .NET does: UTC, up to seven digits, trailing zeros cut."""

    def __init__(self) -> None:
        self._second = -1
        self._prefix = b""

    def now(self) -> int:
        """Give the present in ticks since 1970."""
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
