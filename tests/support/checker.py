"""An independent reader and judge: whether the log holds what the hub emitted, each event once, in order, unchanged.

It imports nothing from `gateway`. It reads the stream as any consumer does, with plain nats-py, and the truth from
the simulator over HTTP. What an event must look like it knows from the vendor's reference (`event-hub-fields.tsv`)
and from the rules below.
"""

# ruff: noqa: ANN401 - what is judged is JSON

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import aiohttp
import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

REFERENCE: Final = Path(__file__).parents[1] / "fixtures" / "event-hub-fields.tsv"
PREFIX: Final = "mesolive"
_SHOWN: Final = 5


@dataclass(frozen=True)
class Truth:
    """One event as the hub emitted it."""

    sequence: int
    callback: str
    payload: str
    """The exact JSON of the wire."""


@dataclass(frozen=True)
class Found:
    """One message as the stream holds it."""

    position: int
    subject: str
    headers: Mapping[str, str]
    value: bytes
    stored_at: float = 0.0
    """Seconds since 1970, by the server's clock; 0 where it is not told."""


@dataclass
class Verdict:
    """What is wrong with a log, if anything; each finding begins with account and sequence."""

    emitted: int = 0
    found: int = 0
    late: int = 0
    lost: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    wrong_topic: list[str] = field(default_factory=list)
    wrong_key: list[str] = field(default_factory=list)
    wrong_headers: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    """Messages that stand for no event that was emitted."""

    @property
    def faults(self) -> dict[str, list[str]]:
        """Findings by their name; empty when the log is exact."""
        named = ((one.name, getattr(self, one.name)) for one in fields(self))
        return {name: found for name, found in named if isinstance(found, list) and found}

    def __str__(self) -> str:
        """Say it in a line, with the first few of each fault."""
        parts = [f"{len(found)} {name} ({'; '.join(found[:_SHOWN])})" for name, found in self.faults.items()]
        return f"{self.found} messages of {self.emitted} events, {self.late} late: {', '.join(parts) or 'exact'}"


# Reading -------------------------------------------------------------------------------------------------


async def read_log(server: str, prefix: str = PREFIX) -> list[Found]:
    """Read everything under `<prefix>.events` in the stream's order."""
    client = await nats.connect(server, allow_reconnect=False)
    try:
        stream = client.jetstream()
        config = ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL, mem_storage=True)
        consumer = await stream.pull_subscribe(f"{prefix}.events.>", stream=f"{prefix}-gateway", config=config)
        left = (await consumer.consumer_info()).num_pending or 0
        found: list[Found] = []
        while len(found) < left:
            for message in await consumer.fetch(min(500, left - len(found)), timeout=10):
                position = message.metadata.sequence.stream
                stored_at = message.metadata.timestamp.timestamp()
                found.append(Found(position, message.subject, message.headers or {}, message.data, stored_at))
        return found
    finally:
        await client.close()


async def read_truth(hub: str, account: str) -> list[Truth]:
    """Read what the simulator emitted for `account`."""
    async with aiohttp.ClientSession() as http, http.get(f"{hub}/simulator/users/{account}/emitted") as answer:
        answer.raise_for_status()
        return parse_truth(await answer.text())


def parse_truth(lines: str) -> list[Truth]:
    """Read the simulator's NDJSON, each payload as the text that it is."""
    truth = []
    for line in lines.split("\n"):
        if line:
            head, _, payload = line.removesuffix("}").partition(',"payload":')
            event = json.loads(head + "}")
            truth.append(Truth(event["sequence"], event["callback"], payload))
    return truth


# Judging -------------------------------------------------------------------------------------------------


def judge(
    truth: Mapping[str, Sequence[Truth]], log: Iterable[Found], prefix: str = PREFIX, *, by_kind: bool = False
) -> Verdict:
    """Compare a log, in the stream's order, with everything that the hub emitted, by account.

    `by_kind` is for a log that keeps an order for each kind of an account alone.
    """
    emitted = {account: {event.sequence: event for event in events} for account, events in truth.items()}
    verdict = Verdict(emitted=sum(map(len, emitted.values())))
    seen: dict[str, set[int]] = {account: set() for account in truth}
    highest: dict[str, int] = {}
    for message in log:
        verdict.found += 1
        account = message.subject.rpartition(".")[2]
        value = _parsed(message.value)
        number = value.get("EventSeqId") if isinstance(value, dict) else None
        sequence = int(number) if isinstance(number, _Number) and number.isdigit() else -1
        event = emitted.get(account, {}).get(sequence)
        if event is None:
            verdict.unexpected.append(f"{message.subject} at {message.position}: {message.value[:80]!r}")
            continue
        name = f"{account}/{sequence}"
        if sequence in seen[account]:
            verdict.repeated.append(name)
            continue
        seen[account].add(sequence)
        late = message.headers.get("ce-late") == "true"
        verdict.late += late
        order = message.subject if by_kind else account
        if sequence < highest.get(order, 0) and not late:
            verdict.out_of_order.append(name)
        if not late:  # what is marked moves no watermark
            highest[order] = max(highest.get(order, 0), sequence)
        kind = re.sub("(?<!^)([A-Z])", r"-\1", event.callback.removeprefix("On")).lower()
        subject = f"{prefix}.events.{kind}.v1.{account}"
        if message.subject != subject:
            verdict.wrong_topic.append(f"{name}: {message.subject} instead of {subject}")
        key = message.headers.get("Gateway-Key")
        if key != str(sequence):
            verdict.wrong_key.append(f"{name}: {key!r}")
        raw = _parsed(event.payload)
        verdict.altered += [f"{name}: {text}" for text in _alterations(event.callback, raw, value)]
        wrong = _wrong_headers(account, kind, raw, message.headers)
        verdict.wrong_headers += [f"{name}: {text}" for text in wrong]
    verdict.lost = [
        f"{account}/{one}" for account, all_ in emitted.items() for one in sorted(all_.keys() - seen[account])
    ]
    return verdict


def _alterations(callback: str, raw: Any, value: Any) -> list[str]:
    """Say what of an event is not as the hub meant it, or not in the order of the reference."""
    try:
        _EVENTS[callback](raw, value, callback)
    except _Difference as difference:
        return [str(difference)]
    order = _ORDER[callback]
    wanted = [*order, *(name for name in value if name not in order)]
    return [] if list(value) == wanted else [f"members in the order {list(value)} instead of {wanted}"]


def _wrong_headers(account: str, kind: str, raw: Mapping[str, Any], headers: Mapping[str, str]) -> Iterator[str]:
    """Say which attributes are not what CloudEvents in binary mode asks for."""
    payload = {name.lower(): member for name, member in raw.items()}
    rest = {name: unquote(text) for name, text in headers.items() if name.lower().startswith("ce-")}
    for name, wanted in _headers(account, kind, payload).items():
        text = rest.pop(name, None)
        if text != wanted:
            yield f"{name} is {text!r}, not {wanted!r}"
    try:
        _time(payload["eventtime"], rest.pop("ce-time", None), "ce-time")
    except _Difference as difference:
        yield str(difference)
    if rest.keys() - {"ce-late", "ce-traceparent"} or rest.get("ce-late", "true") != "true":
        yield f"there are also {rest}"


def _headers(account: str, kind: str, payload: Mapping[str, Any]) -> dict[str, str]:
    """Return the attributes but for the time; `payload` by lower-case name."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": payload["eventid"].lower(),
        "ce-source": f"/mesolive/{account}",
        "ce-type": f"mesolive.{kind}.v1",
        "ce-datacontenttype": "application/json",
        "ce-dataschema": f"urn:mesolive:{kind}:v1",
        "ce-account": account,
        "ce-incarnation": "1",  # no account of these tests begins anew
        "ce-sequence": payload["eventseqid"].zfill(20),
    }
    if payload.get("strategyid") is not None:
        headers["ce-subject"] = f"strategy/{payload['strategyid']}"
    return headers


# Comparing by the vendor's reference ---------------------------------------------------------------------


class _Number(str):
    """A JSON number by its digits."""

    __slots__ = ()


class _Difference(Exception):
    """Where a value is not what the hub meant."""


_Rule = Callable[[Any, Any, str], None]
"""Takes what the hub wrote, what the log holds, and where; raises _Difference."""


def _parsed(text: str | bytes) -> Any:
    """Read JSON with every number by its digits; None for what is no JSON, or names a member twice."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("a member stands twice")
        return dict(pairs)

    try:
        return json.loads(text, parse_float=_Number, parse_int=_Number, object_pairs_hook=members)
    except ValueError:
        return None


def _same(raw: Any, value: Any, path: str) -> None:
    """Texts, integers, flags, and everything whose shape the reference does not give: as it came."""
    same = type(raw) is type(value)
    if same and isinstance(raw, dict):
        if list(raw) != list(value):
            raise _Difference(f"{path}: members {list(raw)} became {list(value)}")
        for name, member in raw.items():
            _same(member, value[name], f"{path}.{name}")
    elif same and isinstance(raw, list):
        _list_of(_same)(raw, value, path)
    elif not same or raw != value:
        raise _Difference(f"{path}: {raw!r} became {value!r}")


def _nullable(rule: _Rule) -> _Rule:
    def nullable(raw: Any, value: Any, path: str) -> None:
        if raw is None or value is None:
            if raw is not value:
                raise _Difference(f"{path}: {raw!r} became {value!r}")
            return
        rule(raw, value, path)

    return nullable


def _amount(raw: Any, value: Any, path: str) -> None:
    """A decimal: a text in plain notation, with the digits and the scale that the hub wrote."""
    plain = not isinstance(value, _Number) and isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value)
    if not plain or not isinstance(raw, str):
        raise _Difference(f"{path}: {raw!r} became {value!r}, which is no plain decimal as a text")
    expected = Decimal(raw)
    scale = expected.as_tuple().exponent
    if isinstance(scale, int) and scale > 0:  # 1E+2 has no plain form but 100
        expected = expected.quantize(Decimal(1))
    if Decimal(value).as_tuple() != expected.as_tuple():
        raise _Difference(f"{path}: {raw} became {value}")


def _time(raw: Any, value: Any, path: str) -> None:
    """An instant: in UTC, marked Z, with the fraction's digits."""
    one, other = _ticks(raw), _ticks(value)
    if one is None or one != other or not str(value).endswith("Z") or _digits(raw) != _digits(value):
        raise _Difference(f"{path}: {raw!r} became {value!r}")


def _ticks(text: Any) -> int | None:
    """Ticks of 100 ns since 1970."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,7}))?(Z|[+-]\d\d:\d\d)?", str(text))
    if match is None:
        return None
    zone = "+00:00" if match[3] in {None, "Z"} else match[3]
    since = datetime.fromisoformat(match[1] + zone) - datetime(1970, 1, 1, tzinfo=UTC)
    return since // timedelta(microseconds=1) * 10 + int((match[2] or "").ljust(7, "0"))


def _digits(text: str) -> int:
    return len(re.split(r"[Z+]", text.partition(".")[2])[0])


def _uuid(raw: Any, value: Any, path: str) -> None:
    if not isinstance(raw, str) or raw.lower() != value:
        raise _Difference(f"{path}: {raw!r} became {value!r}")


def _enum(raw: Any, value: Any, path: str) -> None:
    """Compare a value of an enum: the hub's number stays a number, and its name a name."""
    if raw != value or isinstance(raw, _Number) != isinstance(value, _Number):
        raise _Difference(f"{path}: {raw!r} became {value!r}")


def _list_of(rule: _Rule) -> _Rule:
    def list_of(raw: Any, value: Any, path: str) -> None:
        if not isinstance(raw, list) or not isinstance(value, list) or len(raw) != len(value):
            raise _Difference(f"{path}: {raw!r} became {value!r}")
        for place, (one, other) in enumerate(zip(raw, value, strict=True)):
            rule(one, other, f"{path}[{place}]")

    return list_of


def _map_of(rule: _Rule) -> _Rule:
    """A dictionary: its keys are data, so not a letter of them may change."""

    def map_of(raw: Any, value: Any, path: str) -> None:
        if not isinstance(raw, dict) or not isinstance(value, dict) or raw.keys() != value.keys():
            raise _Difference(f"{path}: {raw!r} became {value!r}")
        for key, one in raw.items():
            rule(one, value[key], f"{path}[{key!r}]")

    return map_of


def _object(**members: _Rule) -> _Rule:
    """An object of the reference: its names in any case on the wire, in the reference's case in the log."""
    rules = {name: _nullable(rule) for name, rule in members.items()}
    by_lower = {name.lower(): name for name in members}

    def object_(raw: Any, value: Any, path: str) -> None:
        if not isinstance(raw, dict) or not isinstance(value, dict):
            raise _Difference(f"{path}: {raw!r} became {value!r}")
        expected: dict[str, Any] = {by_lower.get(str(name).lower(), str(name)): one for name, one in raw.items()}
        names: set[str] = {*expected, *rules}
        held: set[str] = set(value)
        if names != held:
            raise _Difference(f"{path}: lacks {sorted(names - held)}, has {sorted(held - names)}")
        for name, one in value.items():
            rules.get(name, _same)(expected.get(name), one, f"{path}.{name}")

    return object_


_CONTRACT: Final = _object(
    ContractType=_enum,
    Underlying=_same,
    Root=_same,
    OptionType=_enum,
    Expiration=_time,
    Strike=_amount,
    Multiplier=_amount,
)
_LEG: Final = _object(
    Id=_same,
    Name=_same,
    LiveContract=_CONTRACT,
    LegGroupId=_same,
    CreatedAt=_time,
    ClosedAt=_time,
    LivePositionId=_same,
    AccountId=_same,
    Underlying=_same,
    Qty=_amount,
    AvgEntryPrice=_amount,
    UserSetRealizedPnL=_amount,
    TrackedRealizedPnL=_amount,
)
_AGES: Final = dict.fromkeys(("BidAgeMs", "AskAgeMs", "LastAgeMs", "MarkAgeMs"), _amount)
_PRICES: Final = _object(SnapshotTime=_time, **dict.fromkeys(("Bid", "Ask", "Last", "Mark"), _amount), **_AGES)


def _prepared(**members: _Rule) -> _Rule:
    """One of the three results of a preparation: what all have, and `members` of its own."""
    return _object(
        **dict.fromkeys(("ExecPlanId", "PositionName", "StrategyId", "StrategyName", "BrokerAccountId"), _same),
        LegGroups=_map_of(_list_of(_same)),
        LegGroupQtys=_map_of(_same),
        Vars=_map_of(_amount),
        LegGreeks=_map_of(_same),
        LegPrices=_map_of(_nullable(_PRICES)),
        LegGroupGreeks=_map_of(_same),
        LegGroupPrices=_map_of(_nullable(_PRICES)),
        PositionGreeks=_same,
        PositionPrice=_PRICES,
        UnderlyingPrice=_same,
        **members,
    )


_TYPES: Final[dict[str, _Rule]] = {
    **dict.fromkeys(("int", "str", "bool"), _same),
    **dict.fromkeys(("EntrySignalsResult", "ExitSignalsResult", "ConditionEvaluation", "OrderRejectionInfo"), _same),
    **dict.fromkeys(("SignalState", "OrderState", "PositionStatus", "LegStatus"), _enum),
    **dict.fromkeys(("AgentStatus", "AgentConnector", "ErrorState", "ConditionType"), _enum),
    "Decimal": _amount,
    "datetime": _time,
    "UUID": _uuid,
    "dict[str, Decimal]": _map_of(_amount),
    "LiveContract": _CONTRACT,
    "PreparePositionEntryResult": _prepared(
        SelectedLegs=_map_of(_LEG),
        AbortConditions=_same,
        EntryConditions=_same,
        EntryAllowed=_same,
        QtyMultiplier=_amount,
    ),
    "PreparePositionExitResult": _prepared(PositionId=_same, PositionLegs=_map_of(_LEG)),
    "PreparePositionAdjustmentResult": _prepared(
        Operation=_enum,
        Condition=_same,
        PositionId=_same,
        OrderLegs=_map_of(_LEG),
        QtyMultiplier=_amount,
        AbortConditions=_same,
        AdjustmentAllowed=_same,
    ),
}
"""How each type of the reference is to be compared; what the reference gives no shape of stays as it came."""


def _reference() -> dict[str, dict[str, _Rule]]:
    with REFERENCE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    members: dict[str, dict[str, _Rule]] = {}
    for row in rows:
        members.setdefault(row["callback"], {})[row["field"]] = _TYPES[row["type"]]
    return members


_MEMBERS: Final = _reference()
_ORDER: Final = {callback: list(members) for callback, members in _MEMBERS.items()}
_EVENTS: Final = {callback: _object(**members) for callback, members in _MEMBERS.items()}
