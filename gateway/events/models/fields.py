"""The types of fields: what is accepted from the hub, and the one form in which it is kept.

Decimals, times and enums arrive in several spellings and leave in one, without losing a digit; any other value is
refused with an error text for a dead letter.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    AfterValidator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    StrictBool,
    StrictStr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_wrap_validator_function, with_info_plain_validator_function

from gateway.enums import PUBLISHED, EnumNames
from gateway.events.lossless_json import MAX_DIGITS, Exact, check_plain
from gateway.events.times import TIME_PATTERN, canonical_time
from gateway.events.uuids import UUID_PATTERN, canonical_uuid

INT64_MAX: Final = 2**63 - 1
"""The largest integer of the hub, a .NET long."""

DUPLICATE: Final = "duplicate_member"
"""The type of the validation error of two members that spell one modelled name."""

WRONG: Final = "wrong_value"
"""The type of the validation errors raised here; their message has the remedy."""


def _wrong(expected: str) -> PydanticCustomError:
    return PydanticCustomError(WRONG, "{expected}", {"expected": expected})


def _number(text: str) -> Decimal:
    if len(text) > MAX_DIGITS or _NUMBER.fullmatch(text) is None:
        raise ValueError(text[:20])
    number = Decimal(text)
    if "e" in text or "E" in text:
        check_plain(number)
    return number if str(number) == text else Exact(text)


def _decimal(value: object) -> Decimal:
    if isinstance(value, Decimal):
        if value.is_finite():
            return value
    elif isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    elif isinstance(value, str):
        try:
            return _number(value)
        except (ValueError, ArithmeticError):
            pass
    raise _wrong("a decimal number, or a text with one, would be right")


def _plain(number: Decimal) -> str:
    return format(number, "f") if isinstance(number, Decimal) else number  # a guess may hold anything


def _time(value: object) -> str:
    if not isinstance(value, str):
        raise _wrong("a time as a text would be right")
    try:
        return canonical_time(value)
    except ValueError as error:
        raise _wrong(str(error)) from None


def _uuid(value: object) -> str:
    try:
        return canonical_uuid(value if isinstance(value, str) else "")
    except ValueError as error:
        raise _wrong(str(error)) from None


def _whole(value: object) -> object:
    """Return an integer for a number such as `1.0`, or what is no whole number as it came."""
    if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
        return int(value) if abs(value) <= 2 * INT64_MAX else 2 * INT64_MAX
    return value


def _integer(least: int) -> Callable[[object], int]:
    def integer(value: object) -> int:
        value = _whole(Decimal(value)) if isinstance(value, str) and _INTEGER.fullmatch(value) else _whole(value)
        if type(value) is not int:
            raise _wrong("an integer, or a text with one, would be right")
        if not least <= value <= INT64_MAX:
            raise _wrong(f"an integer from {least} to {INT64_MAX} would be right")
        return value

    return integer


@dataclass(frozen=True)
class EnumOf:
    """Marks a field as one of an enum of the reference: a number or a name, as the hub or the operator has it."""

    name: str

    def read(self, value: object, info: ValidationInfo) -> int | str:
        """Take a name or a number; the context of the validation says what numbers mean."""
        value = _whole(value)
        if isinstance(value, str) or (type(value) is int and -INT64_MAX <= value <= INT64_MAX):
            return (info.context or _UNNAMED).read(self.name, value)
        raise _wrong("a name or an integer would be right")

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate by `read`."""
        return with_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the names that are published as examples: others may come, and numbers."""
        names = sorted(PUBLISHED[self.name])
        meaning = "A number or a name, as the hub wrote it, or the name that hub.enums gives to the number."
        return {"type": ["string", "integer"], "$comment": meaning} | ({"examples": names} if names else {})


_UNNAMED: Final = EnumNames()


@dataclass(frozen=True)
class Guess:
    """Marks a field whose type no page of the vendor gives: another value than the usual is carried as it came."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate by what is usual, and take the value as it came where that fails."""
        return no_info_wrap_validator_function(_or_as_it_came, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the usual type, and any other behind it."""
        usual = handler(schema)
        return {"anyOf": [*usual.get("anyOf", [usual]), {"$comment": "Another value, as the hub wrote it."}]}


def _or_as_it_came(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    try:
        return handler(value)
    except ValidationError as error:
        if any(fault["type"] == DUPLICATE for fault in error.errors(include_url=False, include_context=False)):
            raise
        return value


def _given(value: object) -> object:
    if value is None:
        raise _wrong("an object would be right")
    return value


_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]{0,18})(\.0{1,30})?")
_PLAIN: Final = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?"
_NUMBER: Final = re.compile(_PLAIN + r"([eE][+-]?[0-9]+)?")

sequence_of: Final = _integer(0)
"""Returns an EventSeqId, or raises PydanticCustomError."""

Text = StrictStr
"""Any text."""

Flag = StrictBool
"""true or false."""

Int = Annotated[
    int,
    PlainValidator(_integer(-INT64_MAX - 1)),
    WithJsonSchema({"type": "integer", "minimum": -INT64_MAX - 1, "maximum": INT64_MAX}),
]
"""A signed integer of 64 bits: as a number, `1.0` too, or as a text, which .NET writes where it is told to."""

Sequence = Annotated[
    int, PlainValidator(sequence_of), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": INT64_MAX})
]
"""EventSeqId: rises within one user of the hub; 0 where the hub gave none."""

Amount = Annotated[
    Decimal,
    PlainValidator(_decimal),
    PlainSerializer(_plain, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?$"}),
]
"""An exact decimal with its scale: from a JSON number or text, written as a text in plain notation."""

Time = Annotated[
    str,
    PlainValidator(_time),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": TIME_PATTERN}),
]
"""An instant: RFC 3339 in UTC with the fraction digits that it came with."""

Uuid = Annotated[
    str,
    PlainValidator(_uuid),
    WithJsonSchema({"type": "string", "format": "uuid", "pattern": UUID_PATTERN}),
]
"""A UUID in lower case, with hyphens."""

_AS_IT_CAME: Final = "As the hub wrote it: names in its letter case, numbers as bare numbers."

Open = Annotated[Any, WithJsonSchema({"$comment": _AS_IT_CAME})]
"""Whatever the hub gave, with its names and digits, null included: the reference does not give its shape."""

Given = Annotated[Any, AfterValidator(_given), WithJsonSchema({"not": {"type": "null"}, "$comment": _AS_IT_CAME})]
"""Like `Open`, but not null."""

_Usual = TypeVar("_Usual")
Guessed = Annotated[_Usual | None, Guess()]
"""What is usually of a type, or null; anything else is carried as it came."""

SignalState = Annotated[int | str, EnumOf("SignalState")]
OrderState = Annotated[int | str, EnumOf("OrderState")]
PositionStatus = Annotated[int | str, EnumOf("PositionStatus")]
LegStatus = Annotated[int | str, EnumOf("LegStatus")]
AgentStatus = Annotated[int | str, EnumOf("AgentStatus")]
AgentConnector = Annotated[int | str, EnumOf("AgentConnector")]
ErrorState = Annotated[int | str, EnumOf("ErrorState")]
ConditionType = Annotated[int | str, EnumOf("ConditionType")]
ContractType = Annotated[int | str, EnumOf("ContractType")]
OptionType = Annotated[int | str, EnumOf("OptionType")]
Operation = Annotated[int | str, EnumOf("Operation")]
