"""Nothing that the hub wrote changes on its way but its one canonical spelling."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.events.decode import Decoder
from gateway.events.encode import encode, read_event
from gateway.events.event import Event
from gateway.events.models.fields import INT64_MAX
from gateway.events.models.payloads import OrderUpdateEvent

DECODER = Decoder()
decode_push = DECODER.push

Literal = Callable[[str, str], bytes]
Decode = Callable[[bytes], Event]


@pytest.mark.parametrize(
    ("came", "kept"),
    [
        ("0.10", "0.10"),
        ("-100.10", "-100.10"),
        ("7", "7"),
        ("0", "0"),
        ("-0", "-0"),
        ("-0.00", "-0.00"),
        ("79228162514264337593543950335", "79228162514264337593543950335"),
        ("0.1234567890123456789012345678", "0.1234567890123456789012345678"),
        ("123456789012345678901234567890.12", "123456789012345678901234567890.12"),
        ("0.00000010", "0.00000010"),
        ("1e5", "100000"),
        ("1.50E-7", "0.000000150"),
        ("1.10e1", "11.0"),
        ("0e3", "0"),
        ("1e399", "1" + "0" * 399),
        ("5e-324", "0." + "0" * 323 + "5"),
    ],
)
def test_a_decimal_is_a_text_in_plain_notation_with_its_scale(
    with_literal: Literal, decoded: Decode, came: str, kept: str
) -> None:
    number, text = decoded(with_literal("FillPrice", came)), decoded(with_literal("FillPrice", f'"{came}"'))
    assert f'"FillPrice":"{kept}"'.encode() in number.body
    assert text.body == number.body
    assert read_event("order-update", number.body) == read_event("order-update", text.body)


@settings(deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**28), max_value=10**28))
def test_any_decimal_is_read_back_with_value_and_scale(number: Decimal) -> None:
    payload = OrderUpdateEvent(
        EventTime="2026-11-22T13:32:25Z",
        OrderId=1,
        StrategyId=1,
        StrategyName="S",
        State=1,
        FilledQty=number,
        RemainingQty=None,
        FillPrice=None,
        AvgFillPrice=None,
    )
    value = encode(payload)
    back = read_event("order-update", value)
    assert isinstance(back, OrderUpdateEvent)
    assert back.FilledQty == number
    assert encode(back) == value


@pytest.mark.parametrize(
    "literal",
    ["0.10", "-0.0", "-0", "0.00000010", "1e5", "1E+5", "1.50E-7", "79228162514264337593543950335.5", "9" * 40, "100"],
)
def test_open_numbers_keep_every_character(with_literal: Literal, decoded: Decode, literal: str) -> None:
    nested = f'{{"a":[{literal},{{"b":{literal}}}]}}'
    for name in ("Rejection", "BrandNew"):
        event = decoded(with_literal(name, nested))
        assert f'"{name}":{nested}'.encode() in event.body
        assert encode(read_event("order-update", event.body)) == event.body


def test_open_numbers_are_decimals_for_consumers(with_literal: Literal, decoded: Decode) -> None:
    body = decoded(with_literal("Rejection", '{"limit":0.10,"tiny":1e-7}')).body
    payload = read_event("order-update", body)
    assert isinstance(payload, OrderUpdateEvent)
    assert payload.Rejection == {"limit": Decimal("0.10"), "tiny": Decimal("0.0000001")}
    assert str(payload.Rejection["limit"]) == "0.10"


def test_keys_of_open_objects_and_dictionaries_never_change_case() -> None:
    members = {
        "eventTime": "2026-11-22T13:32:25Z",
        "jobId": "j",
        "strategyId": 1,
        "strategyName": "S",
        "brokerAccountId": None,
        "result": {
            "vars": {"maxLoss": 1, "MaxLoss": 2, "qty": 3},
            "legGroups": {"0": ["short_put"], "Name": ["x"]},
            "legGreeks": {"short_put": {"delta": 1}},
            "positionGreeks": {"eventId": 1, "EventID": 2},
            "selectedLegs": {"liveContract": _leg()},
        },
    }
    event = decode_push("acme", "OnPositionEntryPreparationCompleted", json.dumps(members).encode())
    assert isinstance(event, Event), event
    result = json.loads(event.body)["Result"]
    assert result["Vars"] == {"maxLoss": "1", "MaxLoss": "2", "qty": "3"}
    assert list(result["LegGroups"]) == ["0", "Name"]
    assert result["LegGreeks"] == {"short_put": {"delta": 1}}
    assert result["PositionGreeks"] == {"eventId": 1, "EventID": 2}
    assert list(result["SelectedLegs"]) == ["liveContract"]
    assert result["SelectedLegs"]["liveContract"]["LiveContract"]["Underlying"] == "SPX"


@pytest.mark.parametrize("spell", [str.lower, str.upper, str.swapcase, lambda name: name[0].lower() + name[1:]])
def test_names_match_in_any_case(order: dict[str, Any], decoded: Decode, spell: Callable[[str], str]) -> None:
    canonical = decoded(json.dumps(order).encode())
    spelled = decoded(json.dumps({spell(name): value for name, value in order.items()}).encode())
    assert spelled == canonical


def test_only_ascii_letters_have_two_cases(order: dict[str, Any], decoded: Decode) -> None:
    body = json.loads(decoded(json.dumps({**order, "Bro\u212aerAccountId": "x"}).encode()).body)
    assert body["BrokerAccountId"] == "U1002"
    assert body["Bro\u212aerAccountId"] == "x"


def test_unknown_members_follow_the_known_ones_as_they_came(order: dict[str, Any], decoded: Decode) -> None:
    strange = {"newField": 1, "$type": "x", "NewField": None, "model_dump": 2, "__class__": 3, "copy": {"b": 1, "a": 2}}
    body = decoded(json.dumps({**strange, **order}).encode()).body
    assert list(json.loads(body)) == [*order, *strange]
    assert body.endswith(b'"newField":1,"$type":"x","NewField":null,"model_dump":2,"__class__":3,"copy":{"b":1,"a":2}}')


def test_missing_and_null_members_are_written_alike(order: dict[str, Any], decoded: Decode) -> None:
    optional = ("EventId", "EventSeqId", "BrokerAccountId", "ExecPlanId", "LegGroupId", "Rejection")
    nulls = decoded(json.dumps({**order, **dict.fromkeys(optional)}).encode())
    missing = decoded(json.dumps({name: value for name, value in order.items() if name not in optional}).encode())
    assert nulls == missing
    assert list(json.loads(missing.body)) == list(order)


def test_text_is_written_unescaped_in_utf_8(order: dict[str, Any], decoded: Decode) -> None:
    body = decoded(json.dumps({**order, "StrategyName": 'Zürich ライブ \U0001f98b "\\</\u0001'}).encode()).body
    assert '"StrategyName":"Zürich ライブ \U0001f98b \\"\\\\</\\u0001"'.encode() in body


def test_the_canonical_value_has_one_known_form(order: dict[str, Any], decoded: Decode) -> None:
    order |= {
        "FilledQty": 1,
        "State": "Filled",
        "EventId": order["EventId"].upper(),
        "EventTime": "2026-11-22T13:32:25",
    }
    assert decoded(json.dumps(order, indent=3).encode()).body == (
        b'{"EventId":"10f687b3-c9a7-6caa-fd89-7d99fe7ad0b0","EventSeqId":4,"EventTime":"2026-11-22T13:32:25Z",'
        b'"OrderId":6554440,"BrokerAccountId":"U1002","ExecPlanId":313512,"LegGroupId":0,"StrategyId":2,'
        b'"StrategyName":"S2","State":"Filled","FilledQty":"1","RemainingQty":null,"FillPrice":null,'
        b'"AvgFillPrice":null,"Rejection":null}'
    )


@pytest.mark.parametrize(
    ("came", "kept"),
    [(0, 0), (3, 3), (4, 4), (-1, -1), ("adjusted", "Adjusted"), ("Created", "Created"), ("Merged", "Merged")],
)
def test_a_number_stays_a_number_and_a_name_a_name(came: int | str, kept: int | str) -> None:
    assert status(DECODER, came) == kept


@pytest.mark.parametrize(
    ("came", "kept"),
    [
        (0, "Closed"),
        (1, "Created"),
        (2, 2),
        (-1, -1),
        ("created", "Created"),
        ("CLOSED", "Closed"),
        ("Merged", "Merged"),
    ],
)
def test_numbers_become_the_operators_names_and_those_beyond_stay(came: int | str, kept: int | str) -> None:
    assert status(Decoder({"PositionStatus": ["Closed", "Created"]}), came) == kept


def test_an_enum_inside_a_contract_is_named_as_well() -> None:
    contract = {"ContractType": 1, "Underlying": "SPX", "OptionType": 0}
    whole = {**contract, "Root": None, "Expiration": None, "Strike": None, "Multiplier": None}
    named = Decoder({"OptionType": ["Put", "Call"], "LegStatus": ["Gone", "There"]})
    for inner in (contract, whole):
        event = named.push(
            "acme", "OnLegUpdate", json.dumps({**LEG, "Contract": inner}, separators=(",", ":")).encode()
        )
        assert isinstance(event, Event)
        body = json.loads(event.body)
        assert (body["Contract"]["OptionType"], body["Contract"]["ContractType"], body["Status"]) == ("Put", 1, "There")
    message = "the hub writes enums as numbers (published as numbers, since hub.enums does not name them: ContractType)"
    assert named.names.described() == message


def test_a_hub_that_writes_numbers_and_names_in_turn_is_told_of() -> None:
    decoder = Decoder()
    assert decoder.names.described() == "no enum was seen in the last events"
    assert [status(decoder, came) for came in (0, "Created", 1)] == [0, "Created", 1]
    assert decoder.names.described().startswith("the hub writes enums as names and numbers (")


LEG: dict[str, Any] = {
    "EventId": "10f687b3-c9a7-6caa-fd89-7d99fe7ad0b0",
    "EventSeqId": 4,
    "EventTime": "2026-11-22T13:32:25Z",
    "BrokerAccountId": "U1",
    "PositionId": 1,
    "PositionName": "P",
    "StrategyId": 1,
    "StrategyName": "S",
    "LegId": 1,
    "LegName": "L",
    "Status": 1,
    "Qty": 1,
    "RealizedPnL": None,
}


def status(decoder: Decoder, came: int | str) -> int | str:
    """Return the status of a position as it is published, when it came so."""
    members = {
        "EventTime": "2026-11-22T13:32:25Z",
        "PositionId": 1,
        "StrategyId": 1,
        "StrategyName": "S",
        "PositionName": "P",
        "BrokerAccountId": "U1",
        "Status": came,
    }
    event = decoder.push("acme", "OnPositionUpdate", json.dumps(members).encode())
    assert isinstance(event, Event)
    found: int | str = json.loads(event.body)["Status"]
    return found


@pytest.mark.parametrize("came", [0, 17, "Filled", "filled", ""])
def test_an_enum_of_unknown_members_is_carried_as_it_came(
    order: dict[str, Any], decoded: Decode, came: int | str
) -> None:
    assert json.loads(decoded(json.dumps({**order, "State": came}).encode()).body)["State"] == came


def test_the_facts_of_an_event_are_those_of_its_payload(order: dict[str, Any], decoded: Decode) -> None:
    event = decoded(json.dumps({**order, "EventSeqId": INT64_MAX}).encode())
    assert (event.account, event.kind, event.sequence) == ("acme", "order-update", INT64_MAX)
    assert (event.id, event.time, event.strategy) == (order["EventId"], order["EventTime"], 2)


def test_a_sequence_of_0_and_the_empty_uuid_are_none_but_written(order: dict[str, Any], decoded: Decode) -> None:
    empty = "00000000-0000-0000-0000-000000000000"
    event = decoded(json.dumps({**order, "EventSeqId": 0, "EventId": empty}).encode())
    assert (event.sequence, event.id) == (None, None)
    assert event.body.startswith(b'{"EventId":"00000000-0000-0000-0000-000000000000","EventSeqId":0,')


def test_a_long_text_is_carried_whole(order: dict[str, Any], decoded: Decode) -> None:
    text = "x" * 5_000_000
    assert json.loads(decoded(json.dumps({**order, "StrategyName": text}).encode()).body)["StrategyName"] == text


def _leg() -> dict[str, Any]:
    return {
        "id": 1,
        "name": "short_put",
        "liveContract": {"contractType": 2, "underlying": "SPX"},
        "legGroupId": 1,
        "createdAt": "2026-11-22T13:32:25Z",
        "livePositionId": 1,
        "underlying": "SPX",
        "qty": -1,
    }


@pytest.mark.parametrize("literal", ["7", '"7"', "7.0", "7.00", "7e0"])
def test_an_integer_is_one_however_dotnet_writes_it(
    with_literal: Callable[[str, str], bytes], decoded: Callable[[bytes], Event], literal: str
) -> None:
    for name in ("OrderId", "EventSeqId", "StrategyId"):
        event = decoded(with_literal(name, literal))
        assert json.loads(event.body)[name] == 7
    assert decoded(with_literal("EventSeqId", literal)).sequence == 7
    assert decoded(with_literal("EventSeqId", literal.replace("7", "0"))).sequence is None
