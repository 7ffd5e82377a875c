"""Whether the log holds what the hub emitted: each event once, in order, unchanged.

It reads JSON and compares values by rules of its own, and imports neither the models nor the decoder nor the
session: a fault there must show here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

_SHOWN: Final = 5
_ENUMS: Final = {
    ("OnEntrySignal", "state"): "SignalState",
    ("OnExitSignal", "state"): "SignalState",
    ("OnAdjustmentSignal", "state"): "SignalState",
    ("OnOrderUpdate", "state"): "OrderState",
    ("OnPositionUpdate", "status"): "PositionStatus",
    ("OnLegUpdate", "status"): "LegStatus",
    ("OnAgentStatusChange", "status"): "AgentStatus",
    ("OnAgentStatusChange", "connector"): "AgentConnector",
    ("OnError", "state"): "ErrorState",
    ("OnError", "conditiontype"): "ConditionType",
}
_INNER_ENUMS: Final = {"contracttype": "ContractType", "optiontype": "OptionType", "operation": "Operation"}
"""Which enum of the reference a field is of: at the top of a callback's payload, and inside one."""
_DICTIONARIES: Final = frozenset(
    {
        *("leggroupgreeks", "leggroupprices", "leggroupqtys", "leggroups", "leggreeks", "legprices"),
        *("orderlegs", "positionlegs", "selectedlegs", "updatedvars", "vars"),
    }
)
"""Fields whose members' names are data: there, letter case counts."""
_OPEN: Final = frozenset(
    {
        *("entrysignalresult", "exitsignalresult", "rejection", "abortconditions", "entryconditions"),
        *("leggroupqtys", "leggreeks", "leggroupgreeks", "positiongreeks", "underlyingprice"),
    }
)
"""Fields that the reference leaves open: what is in them is carried letter for letter."""
_INTEGERS: Final = frozenset(
    {
        *("eventseqid", "strategyid", "positionid", "orderid", "execplanid", "legid", "leggroupid"),
        *("id", "livepositionid"),
    }
)
"""Fields that are integers, also where the hub writes them as text or with a point."""
_UUIDS: Final = frozenset({"eventid", "errorid"})


@dataclass(frozen=True, slots=True)
class Emitted:
    """One event as the hub emitted it."""

    sequence: int
    callback: str
    """`OnOrderUpdate`."""
    payload: str
    """The exact JSON of the wire."""


@dataclass(frozen=True, slots=True)
class Logged:
    """One message as a consumer of the log sees it."""

    kind: str
    """`order-update`."""
    sequence: int | None
    value: bytes
    late: bool
    incarnation: int = 1
    """How often the account had begun, each time after a reset of its checkpoint."""


@dataclass(slots=True)
class Verdict:
    """What is wrong with one account's log, if anything."""

    account: str
    emitted: int = 0
    logged: int = 0
    lost: list[int] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    out_of_order: list[int] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    late: int = 0
    dead_letters: int = 0
    not_subscribed: int = 0
    """Events of strategies that were not wanted, and that the log rightly lacks."""
    without_number: int = 0
    """Events that were pushed without EventSeqId, and so published without one; by their EventId they are there."""
    older: int = 0
    """Events of the log that are older than all that the hub's history still has: nothing is there to compare with."""
    unshown: tuple[int, int] | None = None
    """The last sequence that the hub's history shows and the one up to which the hub counts, where it ends before."""

    @property
    def exact(self) -> bool:
        """Whether the log holds each event once, in order (except those marked late), and unchanged."""
        return not (self.lost or self.repeated or self.out_of_order or self.altered or self.unexpected)

    def __str__(self) -> str:
        """Return it as one line, with the first few of each fault."""
        if self.exact:
            late = f", {self.late} of them marked late" if self.late else ""
            dead = f"; {self.dead_letters} more are dead letters" if self.dead_letters else ""
            other = f"; {self.not_subscribed} more are not subscribed" if self.not_subscribed else ""
            exact = f"{self.account}: exact: {self.logged} of {self.emitted} events once and in order"
            unnumbered = f"; {self.without_number} more came without a number" if self.without_number else ""
            return f"{exact}{late}{dead}{other}{unnumbered}{self._uncompared()}"
        faults: dict[str, Sequence[object]] = {
            "lost": self.lost,
            "repeated": self.repeated,
            "out of order": self.out_of_order,
            "altered": self.altered,
            "unexpected": self.unexpected,
        }
        parts = [
            f"{len(found)} {name} ({', '.join(map(str, found[:_SHOWN]))})" for name, found in faults.items() if found
        ]
        return f"{self.account}: NOT exact: {'; '.join(parts)}{self._uncompared()}"

    def _uncompared(self) -> str:
        """Return the part that could not be compared."""
        older = f"; {self.older} more are older than the hub's history" if self.older else ""
        if self.unshown is None:
            return older
        last, latest = self.unshown
        return f"{older}; the hub's history shows nothing after {last}, though its latest event is {latest}"


def compare(
    account: str,
    emitted: Iterable[Emitted],
    logged: Iterable[Logged],
    dead_letters: Collection[int] = frozenset(),
    *,
    by_kind: bool = False,
    enums: Mapping[str, Sequence[str]] | None = None,
    wants: Callable[[int, int | None], bool] = lambda _sequence, _strategy: True,
    without_number: Iterable[bytes] = (),
) -> Verdict:
    """Compare one account's log, in the log's order, with everything that its hub emitted.

    `by_kind` is for a log that has an order for each kind alone. An event among the `dead_letters`, by its sequence,
    could not be published and is not lost. `enums` are the names that the operator gave to numbers, from 0 on; this
    module has none of its own. `wants` returns by sequence and strategy what was to be published.
    A message in the log `without_number`, by its value, is not lost where its EventId is that of an event.
    """
    verdict = Verdict(account)
    truth = {event.sequence: event for event in emitted}
    verdict.emitted = len(truth)
    seen: set[int] = set()
    highest: dict[str, int] = {}
    for message in logged:
        verdict.logged += 1
        sequence = message.sequence
        event = truth.get(sequence) if sequence is not None else None
        if sequence is None or event is None:
            verdict.unexpected.append(f"{message.kind} {sequence}")
            continue
        if sequence in seen:
            verdict.repeated.append(sequence)
            continue
        seen.add(sequence)
        strategy = _strategy(event)
        if not wants(sequence, strategy):
            verdict.unexpected.append(f"{message.kind} {sequence} of strategy {strategy}, which was not subscribed")
        order = message.kind if by_kind else ""
        if message.late:
            verdict.late += 1
        elif sequence < highest.get(order, 0):
            verdict.out_of_order.append(sequence)
        else:  # one that is late moves no watermark: its number may be far too high
            highest[order] = sequence
        difference = _difference(event, message, enums or {})
        if difference is not None:
            verdict.altered.append(f"{sequence}: {difference}")
    missing = truth.keys() - seen
    verdict.dead_letters = len(missing & set(dead_letters))
    missing -= set(dead_letters)
    ids = {id_ for value in without_number if (id_ := _id(value)) is not None}
    unnumbered = {sequence for sequence in missing if ids and _id(truth[sequence].payload) in ids}
    verdict.without_number = len(unnumbered)
    missing -= unnumbered
    unwanted = {sequence for sequence in missing if not wants(sequence, _strategy(truth[sequence]))}
    verdict.not_subscribed = len(unwanted)
    verdict.lost = sorted(missing - unwanted)
    return verdict


def _strategy(event: Emitted) -> int | None:
    """Return the strategy that a payload names; None where it names none, or an invalid one."""
    return whole(_member(event.payload, "strategyid"))


def _id(payload: str | bytes) -> str | None:
    """Return the digits of the EventId that a payload has; None where it has none, or the all-zero one."""
    found = _member(payload, "eventid")
    digits = _digits_of(found) if isinstance(found, str) else ""
    return digits if digits.strip("0") else None


def _member(payload: str | bytes, folded: str) -> object:
    try:
        members = json.loads(payload, parse_float=_Number, parse_int=_Number)
    except ValueError:
        return None
    if not isinstance(members, dict):
        return None
    return next((value for name, value in members.items() if fold(name) == folded), None)


def _difference(event: Emitted, message: Logged, enums: Mapping[str, Sequence[str]]) -> str | None:
    kind = re.sub(r"(?<!^)(?=[A-Z])", "-", event.callback.removeprefix("On")).lower()
    if kind != message.kind:
        return f"one of {kind} is on the topic {message.kind}"
    try:
        raw = json.loads(event.payload, parse_float=_Number, parse_int=_Number)
        value = json.loads(message.value, parse_float=_Number, parse_int=_Number)
    except ValueError as error:
        return f"not JSON: {error}"
    return _Comparison(event.callback, enums).differ(raw, value, "")


def fold(name: str) -> str:
    """Return what the spellings of a name under all naming policies of .NET have in common."""
    return name.lower().replace("_", "").replace("-", "")


def whole(value: object) -> int | None:
    """Return the integer that a number (`7`, `7.0`, `1e3`) or a plain text (`"7"`, `"7.0"`) stands for; else None."""
    form = _TEXT if type(value) is str else _NUMBER  # numbers are of a class of their own
    if not isinstance(value, str) or len(value) > _LONGEST or form.fullmatch(value) is None:
        return None
    number = Decimal(value)
    return int(number) if number.adjusted() < _LONGEST and number == number.to_integral_value() else None


class _Number(str):
    """A JSON number by its digits."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Compares one event's payload with the value of its message."""

    callback: str
    enums: Mapping[str, Sequence[str]]

    def differ(self, raw: Any, value: Any, path: str) -> str | None:  # noqa: ANN401 - any JSON
        """Return where `value` differs from the hub's `raw`; None where it does not."""
        name = fold(path.rsplit(".", 1)[-1])
        if name in _OPEN:
            return None if _is_verbatim(raw, value) else f"{path}: {raw!r} became {value!r}"
        if isinstance(raw, dict) and isinstance(value, dict):
            return self._differ_in_members(raw, value, path)
        if isinstance(raw, list) and isinstance(value, list):
            if len(raw) != len(value):
                return f"{path}: {len(raw)} elements became {len(value)}"
            pairs = enumerate(zip(raw, value, strict=True))
            found = (self.differ(one, other, f"{path}[{index}]") for index, (one, other) in pairs)
            return next((difference for difference in found if difference), None)
        enum = self._enum(path)
        if enum is not None:
            is_same = _is_same_member(raw, value, self.enums.get(enum, ()))
        elif name in _INTEGERS and (number := whole(raw)) is not None:
            is_same = isinstance(value, _Number) and value == str(number)
        elif name in _UUIDS and isinstance(raw, str) and isinstance(value, str):
            is_same = _UUID.fullmatch(value) is not None and _digits_of(raw) == _digits_of(value)
        else:
            is_same = _is_same(raw, value)
        return None if is_same else f"{path}: {raw!r} became {value!r}"

    def _enum(self, path: str) -> str | None:
        """Return the enum that the value at a path is of."""
        *parents, name = map(fold, path.split(".")[1:])
        if not parents:
            return _ENUMS.get((self.callback, name))
        return None if parents[-1] in _DICTIONARIES else _INNER_ENUMS.get(name)

    def _differ_in_members(self, raw: dict[str, Any], value: dict[str, Any], path: str) -> str | None:
        left = dict(value)
        is_dictionary = fold(path.rsplit(".", 1)[-1]) in _DICTIONARIES
        folded = {} if is_dictionary else {fold(name): name for name in value}
        for name, member in raw.items():
            written = name if name in left else folded.get(fold(name))
            if written is None or written not in left:
                return f"{path}.{name} is missing"
            difference = self.differ(member, left.pop(written), f"{path}.{written}")
            if difference is not None:
                return difference
        invented = [name for name, member in left.items() if member is not None]
        return f"{path}.{invented[0]} was never sent" if invented else None


def _is_same_member(raw: Any, value: Any, names: Sequence[str]) -> bool:  # noqa: ANN401 - any JSON
    """Compare a value of an enum: a number that has a name became it, any other value is as it came."""
    number = whole(raw)  # as a number, or as a text of digits
    if number is not None:
        expected = names[number] if 0 <= number < len(names) else _Number(number)
        return bool(expected == value) and isinstance(value, _Number) == isinstance(expected, _Number)
    if isinstance(raw, str) and isinstance(value, str):
        return not isinstance(value, _Number) and fold(raw) == fold(value)
    return type(raw) is type(value) and bool(raw == value)


def _is_same(raw: Any, value: Any) -> bool:  # noqa: ANN401 - any JSON
    if isinstance(raw, _Number) and isinstance(value, str):
        return str(raw) == str(value) or _is_same_number(raw, value)
    if isinstance(raw, str) and isinstance(value, str) and not isinstance(value, _Number):
        return raw == value or _is_same_time(raw, value) or _is_same_number(raw, value)
    return type(raw) is type(value) and bool(raw == value)


def _is_verbatim(raw: Any, value: Any) -> bool:  # noqa: ANN401 - any JSON
    if isinstance(raw, dict) and isinstance(value, dict):
        return list(raw) == list(value) and all(_is_verbatim(raw[name], value[name]) for name in raw)
    if isinstance(raw, list) and isinstance(value, list):
        return len(raw) == len(value) and all(map(_is_verbatim, raw, value))
    return type(raw) is type(value) and bool(raw == value)


def _digits_of(uuid: str) -> str:
    return re.sub("0x|[-{}(),]", "", uuid.lower())


def _is_same_number(raw: str, value: str) -> bool:
    """Compare value and scale: `1E+2` may be written `100`, but `0.10` not `0.1`."""
    try:
        one, other = Decimal(raw), Decimal(value)
    except ArithmeticError:
        return False
    return one == other and (one.as_tuple().exponent == other.as_tuple().exponent or "E" in raw.upper())


_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
_TEXT: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.0+)?")
_LONGEST: Final = 40
"""Digits of any integer that a hub may send."""
_UUID: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _is_same_time(raw: str, value: str) -> bool:
    """Compare the instant and the fraction's digits; a time without a zone is in UTC."""
    if not value.endswith("Z"):
        return False
    pattern = r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(\.\d+)?(.*)"
    one, other = re.fullmatch(pattern, raw), re.fullmatch(pattern, value)
    if one is None or other is None or one[2] != other[2]:
        return False
    try:
        when = datetime.fromisoformat(one[1] + (one[3] or "+00:00").replace("Z", "+00:00").replace("z", "+00:00"))
    except ValueError:
        return False
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S") == other[1]
