"""JSON read without loss: every number keeps its digits, every object has each member once.

`read` is the fast path; where it fails, `locate` reads the text again, slowly, to find the place.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Self

from gateway.errors import DecodeError
from gateway.events.dead_letter_reasons import DeadLetterReason

MAX_DEPTH: Final = 64
"""Objects and lists inside one another; System.Text.Json, which writes the hub's, stops at 64 as well."""

MAX_DIGITS: Final = 400
"""Characters of a number, as written and in plain notation: a double's extremes need under 350, a decimal 31."""

MAX_PARTS: Final = 200_000
"""Brackets and commas of a text: the largest payloads have a few thousand, and while it is parsed all else waits."""

MAX_SHOWN: Final = 60
"""Characters of a foreign value that a message quotes."""


class Exact(Decimal):
    """A number whose spelling its value does not give back (`1e-7`, `0.00000010`, `-0`), with that spelling."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str | Decimal) -> Self:
        """Take the number as it is spelled; a copy of an `Exact` keeps the spelling."""
        number = super().__new__(cls, text)
        number.text = text.text if isinstance(text, Exact) else str(text)
        return number


def read(data: bytes | str, *, levels: int = MAX_DEPTH) -> Any:  # noqa: ANN401 - any JSON
    """Return the value of a JSON text: dict, list, str, int, Decimal, bool or None; never a float.

    Raises DecodeError: malformed-json, duplicate-member, beyond-limits (above `levels` of nesting).
    """
    text = data if isinstance(data, str) else decode_text(data)
    if _is_crowded(text):
        raise DecodeError(
            DeadLetterReason.BEYOND_LIMITS, f"it has over {MAX_PARTS} brackets and commas; fewer would be right"
        )
    try:
        value = _fast(text)
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise _locate(text, levels) from error
    if "\\ud" in text or "\\uD" in text or text.count("{") + text.count("[") > levels:
        check(value, levels=levels)
    return value


def check(value: object, *, levels: int = MAX_DEPTH) -> None:
    """Refuse a value that is nested too deep or has half of a surrogate pair; raises DecodeError."""
    fault = _first_fault(value, levels)
    if fault is not None:
        raise fault


def read_leniently(text: str) -> Any:  # noqa: ANN401 - any JSON
    """Return what can be read although something is wrong: `Fault` in place of a number, `Repeating` objects.

    Raises ValueError or RecursionError where the text is no JSON at all, or has too many parts.
    """
    if _is_crowded(text):
        raise ValueError(MAX_PARTS)
    return _lenient(text)


def decode_text(data: bytes) -> str:
    """Decode UTF-8; raises DecodeError that names the first wrong byte."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        detail = f"byte {error.start} (0x{data[error.start]:02x}) is not UTF-8: {error.reason}; UTF-8 would be right"
        raise DecodeError(DeadLetterReason.MALFORMED_JSON, detail) from error


def path_text(path: tuple[str | int, ...]) -> str:
    """Spell the place of a value in a payload: `Result.SelectedLegs.short_put.Qty`, `Conditions[2]`."""
    if not path:
        return "at the top"
    if len(path) > _MAX_PATH:
        return f"{path_text(path[:_MAX_PATH])}…"
    return "".join(f"[{part}]" if isinstance(part, int) else f".{_short(part)}" for part in path).removeprefix(".")


def shown(value: object) -> str:
    """Describe a JSON value for a message, in few characters whatever its size."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return f"the text {json.dumps(_short(value), ensure_ascii=False)}"
        case Exact():
            return f"the number {_short(value.text)}"
        case int() | Decimal():
            return f"the number {_short(str(value))}"
        case dict():
            return "an object"
        case list():
            return f"a list of {len(value)}"
        case _:
            return f"a {type(value).__name__}"


@dataclass(frozen=True, slots=True)
class Unparsable:
    """Stands where a number or a constant could not be taken, with the reason."""

    reason: DeadLetterReason
    detail: str


class Repeating(dict[str, Any]):
    """An object that has members twice; it holds the first of each, and `repeated` their names."""

    repeated: list[str]


_MAX_PATH: Final = 12
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def _is_crowded(text: str) -> bool:
    return len(text) > MAX_PARTS and sum(map(text.count, "[{,")) > MAX_PARTS


def _too_deep(levels: int) -> str:
    return f"nested deeper than {levels} levels; fewer would be right"


def _short(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text)} characters)"


def _integer(text: str) -> int | Decimal:
    if len(text) > MAX_DIGITS:
        raise ValueError(text[:MAX_SHOWN])
    return int(text) if text != "-0" else Exact(text)


def _fraction(text: str) -> Decimal:
    if len(text) > MAX_DIGITS:
        raise ValueError(text[:MAX_SHOWN])
    number = Decimal(text)
    if str(number) == text and "E" not in text:
        return number
    check_plain(number)
    return Exact(text)


def check_plain(number: Decimal) -> None:
    """Refuse a number whose plain notation is absurdly long (1e999999999 has a billion digits): ValueError."""
    exponent = number.as_tuple().exponent
    modest = isinstance(exponent, int) and max(abs(number.adjusted()), abs(exponent)) <= MAX_DIGITS
    if not modest or len(format(number, "f")) > MAX_DIGITS:
        raise ValueError(str(number)[:MAX_SHOWN])


def _constant(text: str) -> None:
    raise ValueError(text)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate")
    return members


def _lenient_number(take: Callable[[str], int | Decimal]) -> Callable[[str], int | Decimal | Unparsable]:
    def number(text: str) -> int | Decimal | Unparsable:
        try:
            return take(text)
        except (ValueError, ArithmeticError):
            detail = f"the number {_short(text)} has over {MAX_DIGITS} digits; a shorter one would be right"
            return Unparsable(DeadLetterReason.BEYOND_LIMITS, detail)

    return number


def _lenient_constant(text: str) -> Unparsable:
    return Unparsable(DeadLetterReason.MALFORMED_JSON, f"{text} is not JSON; a number or null would be right")


def _lenient_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(reversed(pairs))
    if len(members) == len(pairs):
        return dict(pairs)
    repeating = Repeating(members)
    repeating.repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    return repeating


_fast: Final[Callable[[str], Any]] = json.JSONDecoder(
    object_pairs_hook=_members, parse_float=_fraction, parse_int=_integer, parse_constant=_constant
).decode

_lenient: Final[Callable[[str], Any]] = json.JSONDecoder(
    object_pairs_hook=_lenient_members,
    parse_float=_lenient_number(_fraction),
    parse_int=_lenient_number(_integer),
    parse_constant=_lenient_constant,
).decode


def _locate(text: str, levels: int) -> DecodeError:
    try:
        fault = _first_fault(_lenient(text), levels)
    except json.JSONDecodeError as error:
        near = f"near {shown(text[error.pos : error.pos + MAX_SHOWN])}" if error.pos < len(text) else "the end"
        detail = f"{error.msg} at character {error.pos}, {near}; JSON would be right"
        return DecodeError(DeadLetterReason.MALFORMED_JSON, detail)
    except RecursionError:
        return DecodeError(DeadLetterReason.BEYOND_LIMITS, _too_deep(levels))
    return fault or DecodeError(DeadLetterReason.MALFORMED_JSON, "the text cannot be read as JSON")


def _first_fault(value: object, levels: int) -> DecodeError | None:
    waiting: list[tuple[object, tuple[str | int, ...]]] = [(value, ())]
    while waiting:
        node, path = waiting.pop()
        fault = _fault(node, path, levels)
        if fault is not None:
            return fault
        if isinstance(node, dict):
            waiting.extend((item, (*path, name)) for name, item in reversed(node.items()))
        elif isinstance(node, list):
            waiting.extend((node[index], (*path, index)) for index in reversed(range(len(node))))
    return None


def _fault(node: object, path: tuple[str | int, ...], levels: int) -> DecodeError | None:
    if isinstance(node, Unparsable):
        return DecodeError(node.reason, f"{path_text(path)}: {node.detail}")
    if isinstance(node, dict | list):
        if len(path) >= levels:
            return DecodeError(DeadLetterReason.BEYOND_LIMITS, f"{path_text(path)}: {_too_deep(levels)}")
        if isinstance(node, Repeating):
            name = _short(node.repeated[0])
            detail = f"{path_text(path)}: the member {json.dumps(name)} stands twice; each name once would be right"
            return DecodeError(DeadLetterReason.DUPLICATE_MEMBER, detail)
    texts = [node] if isinstance(node, str) else list(node) if isinstance(node, dict) else []
    if any(not text.isascii() and _SURROGATE.search(text) for text in texts):
        detail = f"{path_text(path)}: half of a surrogate pair stands alone; both halves would be right"
        return DecodeError(DeadLetterReason.MALFORMED_JSON, detail)
    return None
