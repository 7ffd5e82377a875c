"""What a .NET serializer's options do to the wire does not show in what is published.

The table says for each option of `System.Text.Json` what it does; the recorded events of a real ASP.NET Core hub are
written again under it. Whether an integer is one, and which names are keys, is the reference's and stands here again.
"""

# ruff: noqa: ANN401 - what is written is JSON

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from gateway.events.decode import Decoder
from gateway.events.event import DeadLetter, Event
from gateway.verify.compare import Logged, compare
from gateway.verify.history import read_envelope
from tests.unit.events.conftest import Sighting, sightings_in

DECODER = Decoder()
WIRE = Path(__file__).parents[2] / "fixtures" / "wire"
SIGHTINGS = [one for path in sorted(WIRE.glob("*.jsonl")) for one in sightings_in(path)]

DICTIONARIES = {"LegGroups", "Vars", "LegPrices", "LegGroupPrices", "SelectedLegs", "PositionLegs", "OrderLegs"} | {
    "UpdatedVars"
}
OPEN = {"EntrySignalResult", "ExitSignalResult", "Rejection", "LegGroupQtys", "LegGreeks", "LegGroupGreeks"} | {
    *("PositionGreeks", "UnderlyingPrice", "AbortConditions", "EntryConditions")
}
ENUMS = {"State", "Status", "Connector", "ConditionType", "ContractType", "OptionType", "Operation"}
INTEGERS = {"EventSeqId", "StrategyId", "OrderId", "ExecPlanId", "LegGroupId", "PositionId", "LegId", "Id"} | {
    "LivePositionId"
}
UUIDS = {"EventId", "ErrorId"}
NULLABLE = {"ExecPlanId", "LegGroupId", "ConditionType", "Connector"} | {
    *("FilledQty", "RemainingQty", "FillPrice", "AvgFillPrice")
}


class Number(str):
    """A JSON number by its digits."""

    __slots__ = ()


@dataclass(frozen=True)
class Options:
    """How a hub writes; the defaults are those of the recorded one."""

    name: Callable[[str], str] = str
    number: Callable[[str, str], str] = lambda _, digits: digits
    uuid: Callable[[str], str] = str
    text: Callable[[str], str] = lambda text: json.dumps(text, ensure_ascii=False)
    leaves_out: Callable[[str, object], bool] = lambda *_: False
    colon: str = ":"
    comma: str = ","
    indent: str = ""


def name_parts(name: str) -> list[str]:
    """Part a name as JsonNamingPolicy does: `RealizedPnL` is realized, pn, l."""
    return re.findall(r"[A-Z][a-z]*|[a-z]+", name)


def as_text(name: str, digits: str) -> str:
    return digits if name in ENUMS else f'"{digits}"'


def with_point(name: str, digits: str) -> str:
    return f"{digits}.0" if name in INTEGERS or name in ENUMS else digits


def escaped(text: str) -> str:
    """Escape as JavaScriptEncoder.Default does: all but ASCII, and what HTML minds."""
    return re.sub("[<>&'+`]", lambda one: f"\\u{ord(one[0]):04X}", json.dumps(text).replace('\\"', "\\u0022"))


def is_null(_: str, value: object) -> bool:
    return value is None


def is_default(name: str, value: object) -> bool:
    return value is None or (name not in NULLABLE and (value is False or value in (Number("0"), Number("0.0"))))


def plain(uuid: str) -> str:
    return uuid.replace("-", "")


def fields(uuid: str) -> str:
    one, two, three, *_ = uuid.split("-")
    rest = ",".join(f"0x{plain(uuid)[at : at + 2]}" for at in range(16, 32, 2))
    return f"{{0x{one},0x{two},0x{three},{{{rest}}}}}"


OPTIONS = {
    "JsonNamingPolicy.CamelCase": Options(name=lambda name: name[0].lower() + name[1:]),
    "PropertyNamingPolicy null": Options(),
    "JsonNamingPolicy.SnakeCaseLower": Options(name=lambda name: "_".join(name_parts(name)).lower()),
    "JsonNamingPolicy.SnakeCaseUpper": Options(name=lambda name: "_".join(name_parts(name)).upper()),
    "JsonNamingPolicy.KebabCaseLower": Options(name=lambda name: "-".join(name_parts(name)).lower()),
    "JsonNamingPolicy.KebabCaseUpper": Options(name=lambda name: "-".join(name_parts(name)).upper()),
    "JsonNumberHandling.WriteAsString": Options(number=as_text),
    "enums' numbers as text as well": Options(number=lambda _, digits: f'"{digits}"'),
    "integers that are doubles": Options(number=with_point),
    "integers that are doubles, as text": Options(number=lambda name, digits: f'"{with_point(name, digits)}"'),
    "JsonIgnoreCondition.WhenWritingNull": Options(leaves_out=is_null),
    "WriteIndented": Options(indent="  ", colon=": ", comma=","),
    "WriteIndented, tabs and CRLF": Options(indent="\t", comma=",\r\n"),
    "JavaScriptEncoder.Default": Options(text=escaped),
    "JavaScriptEncoder.UnsafeRelaxedJsonEscaping": Options(),
    "Guid N": Options(uuid=plain),
    "Guid B": Options(uuid=lambda uuid: f"{{{uuid}}}"),
    "Guid P": Options(uuid=lambda uuid: f"({uuid})"),
    "Guid X": Options(uuid=fields),
    "Guid in capitals": Options(uuid=str.upper),
}
OPTIONS["many at once"] = replace(
    OPTIONS["JsonNamingPolicy.SnakeCaseLower"],
    number=as_text,
    leaves_out=is_null,
    text=escaped,
    uuid=plain,
    indent=" ",
    colon=" : ",
)


def written(value: Any, options: Options, name: str = "", depth: int = 1) -> str:
    """Write a value, which stands under a name, as the options say."""
    line = f"\n{options.indent * depth}" if options.indent else ""
    match value:
        case Number():
            return options.number(name, value)
        case str():
            return options.text(options.uuid(value) if name in UUIDS else value)
        case dict():
            keys = name in DICTIONARIES
            members = [
                f"{line}{options.text(key if keys else options.name(key))}{options.colon}"
                f"{written(member, options, '' if keys else key, depth + 1)}"
                for key, member in value.items()
                if keys or not options.leaves_out(key, member)
            ]
            return f"{{{options.comma.join(members)}{line}}}"
        case list():
            return f"[{options.comma.join(line + written(one, options, '', depth + 1) for one in value)}{line}]"
        case _:
            return json.dumps(value)


def parsed(payload: bytes) -> Any:
    return json.loads(payload, parse_float=Number, parse_int=Number)


def pascal(value: Any, name: str = "") -> Any:
    """Spell names as the reference does, and leave open members out of it."""
    match value:
        case dict() if name in DICTIONARIES:
            return {key: pascal(member) for key, member in value.items()}
        case dict():
            spelled = {key[0].upper() + key[1:]: member for key, member in value.items()}
            return {key: None if key in OPEN else pascal(member, key) for key, member in spelled.items()}
        case list():
            return [pascal(one) for one in value]
        case _:
            return value


@cache
def sound(sighting: Sighting) -> dict[str, Any]:
    payload: dict[str, Any] = pascal(parsed(sighting.push))
    if sighting.callback == "OnAdjustmentSignal":
        payload["Condition"] = "DIT > 1"
    return payload


def decoded(sighting: Sighting, payload: str) -> Event:
    event = DECODER.push("acme", sighting.callback, payload.encode())
    assert isinstance(event, Event), event
    return event


EACH = [pytest.param(one, id=f"{one.recording}-{one.callback}") for one in SIGHTINGS]


def test_the_recordings_have_all_kinds() -> None:
    assert len({sighting.callback for sighting in SIGHTINGS}) == 17


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("sighting", EACH)
def test_what_is_published_is_the_same_under_each_option(sighting: Sighting, option: str) -> None:
    payload = sound(sighting)
    usual = decoded(sighting, written(payload, Options()))
    assert decoded(sighting, written(payload, OPTIONS[option])) == usual
    entry = {"EventType": sighting.callback, "Payload": payload}
    assert DECODER.envelope("acme", written(entry, OPTIONS[option]).encode()) == usual
    flat = {"CallbackName": sighting.callback, **payload}
    assert DECODER.envelope("acme", written(flat, OPTIONS[option]).encode()) == usual
    header = {name: payload[name] for name in ("EventId", "EventSeqId", "EventTime")}
    rest = {name: value for name, value in payload.items() if name not in header}
    apart = {"EventType": sighting.callback, **header, "Data": rest}
    assert DECODER.envelope("acme", written(apart, OPTIONS[option]).encode()) == usual


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("sighting", EACH)
def test_verify_finds_what_is_published_exact_under_each_option(sighting: Sighting, option: str) -> None:
    payload = sound(sighting)
    event = decoded(sighting, written(payload, Options()))
    entry = written({"EventType": sighting.callback, "Payload": payload}, OPTIONS[option])
    emitted = read_envelope(entry.encode())
    assert emitted is not None
    logged = Logged(event.kind, event.sequence, event.body, late=False)
    assert str(compare("acme", [emitted], [logged])) == "acme: exact: 1 of 1 events once and in order"


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("sighting", EACH)
def test_a_dead_letter_under_each_option_keeps_its_place(sighting: Sighting, option: str) -> None:
    payload = sound(sighting)
    broken = written(payload | {"EventTime": "yesterday"}, OPTIONS[option]).encode()
    letter = DECODER.push("acme", sighting.callback, broken)
    assert isinstance(letter, DeadLetter)
    assert (str(letter.sequence), letter.id) == (payload["EventSeqId"], payload["EventId"])


@pytest.mark.parametrize("sighting", EACH)
def test_open_members_are_carried_as_the_hub_wrote_them(sighting: Sighting) -> None:
    payload = parsed(sighting.push)
    usual = decoded(sighting, sighting.push.decode())
    for name, member in payload.items():
        if name[0].upper() + name[1:] in OPEN and member is not None:
            assert f":{written(member, Options())}" in usual.body.decode()


@pytest.mark.parametrize("sighting", EACH)
def test_a_default_left_out_costs_an_event_only_where_the_field_is_needed(sighting: Sighting) -> None:
    payload = sound(sighting)
    missing = {name for name, value in payload.items() if is_default(name, value) and not is_null(name, value)}
    needed = missing - {"RealizedPnL", "Qty"}
    event = DECODER.push("acme", sighting.callback, written(payload, Options(leaves_out=is_default)).encode())
    if needed:
        assert isinstance(event, DeadLetter)
        assert all(f"{name} is missing, and the reference requires it" in event.detail for name in needed)
    else:
        assert isinstance(event, Event), event


@pytest.mark.parametrize(
    "literal", ['"2026-12-18"', '"18.12.2026"', "20261218", "null", "true", "[]", '{"a":[0.10]}', "1e5", '"n/a"']
)
@pytest.mark.parametrize(
    ("callback", "path"),
    [
        ("OnLegUpdate", ("Contract", "Expiration")),
        ("OnLegUpdate", ("Contract", "Strike")),
        ("OnLegUpdate", ("Contract", "ContractType")),
        ("OnLegUpdate", ("Contract", "Root")),
        ("OnPositionEntryPreparationCompleted", ("Result", "PositionPrice")),
        ("OnPositionEntryPreparationCompleted", ("Result", "PositionPrice", "SnapshotTime")),
        ("OnPositionEntryPreparationCompleted", ("Result", "Vars")),
        ("OnPositionEntryPreparationCompleted", ("Result", "Vars", "maxLoss")),
        ("OnPositionEntryPreparationCompleted", ("Result", "LegGroups")),
        ("OnPositionEntryPreparationCompleted", ("Result", "LegGroups", "0")),
        ("OnPositionEntryPreparationCompleted", ("Result", "SelectedLegs")),
        ("OnPositionEntryPreparationCompleted", ("Result", "SelectedLegs", "short_put")),
        ("OnPositionEntryPreparationCompleted", ("Result", "SelectedLegs", "short_put", "Id")),
        ("OnPositionEntryPreparationCompleted", ("Result", "SelectedLegs", "short_put", "LiveContract")),
        ("OnPositionEntryPreparationCompleted", ("Result", "EntryAllowed")),
        ("OnPositionAdjustmentPreparationCompleted", ("Result", "Operation")),
    ],
)
def test_a_type_that_no_page_gives_never_costs_an_event(callback: str, path: tuple[str, ...], literal: str) -> None:
    sighting = next(one for one in SIGHTINGS if one.callback == callback and one.recording == "pascal-string")
    payload = parsed(written(sound(sighting), Options()).encode())
    holder = payload
    for name in path[:-1]:
        holder = holder[name]
    holder[path[-1]] = "the place"
    event = decoded(sighting, written(payload, Options()).replace('"the place"', literal))
    value = json.loads(event.body, parse_float=Number, parse_int=Number)
    for name in path:
        value = value[name]
    if isinstance(value, dict):  # the usual members of an object are there as well, as null
        value = {name: member for name, member in value.items() if member is not None}
    usual = {"20261218": {"20261218"}, "1e5": {"1e5", "100000"}}.get(literal, {json.dumps(json.loads(literal))})
    shown = written(value, Options(colon=": ", comma=", "))
    assert shown.replace("0.10", "0.1") in usual | {f'"{one}"' for one in usual}


@pytest.mark.parametrize("literal", ["null", '"SPX"', "7", "[]"])
def test_a_contract_is_needed_and_is_an_object(literal: str) -> None:
    sighting = next(one for one in SIGHTINGS if one.callback == "OnLegUpdate")
    payload = written(sound(sighting) | {"Contract": "the place"}, Options()).replace('"the place"', literal)
    letter = DECODER.push("acme", "OnLegUpdate", payload.encode())
    assert isinstance(letter, DeadLetter)
    assert "Contract is " in letter.detail
    assert "an object would be right" in letter.detail


LITERALS = [
    *("null", "true", "0", "-0", "1.0", "1e5", '"7"', '"7.0"', '"-0"', '"1e5"', '"x"', '""', '"NaN"', '"\\u0041"'),
    *("[]", "{}", '{"a":1,"a":2}', '{"A":0.10}', '[{"b":1e-9}]', "9223372036854775808", '"2026-12-18"'),
    *('"10F687B3C9A76CAAFD897D99FE7AD0B0"', '"00000000000000000000000000000000"'),
]


def damaged(payload: dict[str, Any], dice: Random) -> dict[str, Any]:
    """Take a member of a payload away, write it twice, or put another value in its place."""
    whole = parsed(written(payload, Options()).encode())
    holder: Any = whole
    while True:
        name = dice.choice(list(holder))
        inner = holder[name][0] if isinstance(holder[name], list) and holder[name] else holder[name]
        if not isinstance(inner, dict) or not inner or dice.random() < 0.3:
            break
        holder = inner
    match dice.randrange(4):
        case 0:
            del holder[name]
        case 1:
            holder[name[0].swapcase() + name[1:]] = holder[name]
        case _:
            holder[name] = f"@{dice.randrange(len(LITERALS))}@"
    return cast("dict[str, Any]", whole)


@pytest.mark.parametrize("option", [name for name in OPTIONS if not name.startswith("Guid X")])  # no UUID, no fields
def test_both_ways_and_verify_agree_on_damaged_payloads_under_each_option(option: str) -> None:
    dice, decoder, named = Random(option), Decoder({"SignalState": ["Off", "On"]}), {"SignalState": ["Off", "On"]}
    for sighting in SIGHTINGS * 3:
        text = written(damaged(sound(sighting), dice), OPTIONS[option])
        payload = re.sub('"@([0-9]+)@"', lambda found: LITERALS[int(found[1])], text).encode()
        pushed = decoder.push("acme", sighting.callback, payload)
        assert pushed == decoder.push_at_length("acme", sighting.callback, payload)
        entry = b'{"EventType":"%b","Payload":%b}' % (sighting.callback.encode(), payload)
        event = decoder.envelope("acme", entry)
        assert event == decoder.envelope_at_length("acme", entry)
        if isinstance(event, Event) and event.sequence:
            emitted = read_envelope(entry)
            assert emitted is not None
            logged = Logged(event.kind, event.sequence, event.body, late=False)
            assert compare("acme", [emitted], [logged], enums=named).altered == []
