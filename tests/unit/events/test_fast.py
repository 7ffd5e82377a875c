"""The short way takes what hubs usually write, and gives what the models give."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.enums import EnumNames
from gateway.events.catalogue import CATALOGUE, find
from gateway.events.decode import Decoder
from gateway.events.fast import DecodePlan, FallBack

DECODER = Decoder()
decode_envelope = DECODER.envelope
decode_envelope_at_length = DECODER.envelope_at_length
decode_push = DECODER.push
decode_push_at_length = DECODER.push_at_length

FIELDS = {
    "FillPrice": [
        "1",
        "-0",
        "1e5",
        "0.10",
        '"0.10"',
        '"1e5"',
        '"-0.00"',
        '""',
        '"x"',
        "true",
        "[]",
        '"' + "9" * 400 + '"',
    ],
    "OrderId": ["-5", "-0", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "1.0", '"1"', "null"],
    "EventSeqId": ["0", "7", "-1", "9223372036854775807", "9223372036854775808", "null", '"7"'],
    "EventId": ['"10F687B3-C9A7-6CAA-FD89-7D99FE7AD0B0"', '"00000000-0000-0000-0000-000000000000"', "null", '"x"', "7"],
    "EventTime": [
        '"2026-11-22T13:32:25Z"',
        '"2026-11-22T13:32:25.1234567Z"',
        '"2026-11-22T13:32:25.12345678901Z"',
        '"2026-11-22T13:32:25.5"',
        '"2026-11-22T13:32:25+05:30"',
        '"2026-11-22t13:32:25z"',
        '"2026-02-30T13:32:25Z"',
        '"2026-11-22T13:32:25ZZ"',
        "null",
        "7",
    ],
    "StrategyName": ['"S"', '"\\u0053 \\u003e"', '"\\ud83d\\ude00"', '"\\ud83d"', '"ü"', '"a\\/b"', '""', "null", "7"],
    "State": ["4", "-4", '"filled"', '"\\u0053"', "1.5", "null", "true", "18446744073709551616"],
    "Rejection": [
        '{"a":[1,{"b":-0.0}],"ü":"\\u00fc"}',
        '{"a":1,"a":2}',
        '{"a": 1}',
        '{"\\u0061":1}',
        "[]",
        "{}",
        "[1,2]",
        "[1, 2]",
        "[1e400]",
        "[1e5]",
        "-0",
        "1e999999999",
        "9" * 401,
        "[[]]" * 1,
        "[" * 70 + "]" * 70,
        "true",
    ],
    "New": ["1", '{"x":[0.10,null]}', '"\\u0041"'],
    "strategyname": ['"twice"'],
    "ORDERID": ["7"],
}


def test_every_recorded_event_goes_the_short_way_to_the_same_event(sightings: list[Any]) -> None:
    assert len(sightings) == 34
    for sighting in sightings:
        entry = find(sighting.callback)
        assert entry is not None
        event = DecodePlan(entry.model, EnumNames()).event("acme", entry.kind, sighting.push)
        assert event == decode_push_at_length("acme", sighting.callback, sighting.push)
        assert event == decode_envelope("acme", sighting.envelope)
        assert event == decode_envelope_at_length("acme", sighting.envelope)


@pytest.mark.parametrize(("name", "literal"), [(name, literal) for name in FIELDS for literal in FIELDS[name]])
def test_both_ways_agree_on_each_spelling_of_a_member(
    with_literal: Callable[[str, str], bytes], name: str, literal: str
) -> None:
    for raw in (with_literal(name, literal), with_literal(name, literal).replace(b'": ', b'":').replace(b', "', b',"')):
        assert decode_push("acme", "OnOrderUpdate", raw) == decode_push_at_length("acme", "OnOrderUpdate", raw)


@pytest.mark.parametrize(("name", "literal"), [(name, literal) for name in FIELDS for literal in FIELDS[name]])
def test_both_ways_agree_on_each_value_in_the_order_that_was_seen(
    order: dict[str, Any], name: str, literal: str
) -> None:
    sound = json.dumps(order, separators=(",", ":"))
    decode_push("acme", "OnOrderUpdate", sound.encode())  # from here on its shape is known, if it was not
    raw = sound.replace(f'"{name}":{json.dumps(order.get(name))}', f'"{name}":{literal}').encode()
    assert decode_push("acme", "OnOrderUpdate", raw) == decode_push_at_length("acme", "OnOrderUpdate", raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"EventType":"OrderUpdate","Name":"OrderUpdate","Payload":{}}',
        b'{"EventType":"OrderUpdate","eventType":"OrderUpdate","Payload":{}}',
        b'{"EVENTTYPE":"OrderUpdate","Payload":{}}',
        b'{"EventType":"OrderUpdate","Payload":{},"Data":{}}',
        b'{"EventType":"OrderUpdate"}',
        b'{"EventType":7,"Payload":{}}',
        b'{"EventType":"OrderUpdate","Payload":[{}]}',
        b'{"EventType":"OrderUpdate","Payload":"{"}',
        b"[]",
        b"\xff",
    ],
)
def test_both_ways_agree_on_an_entry_that_is_not_plain(order: dict[str, Any], raw: bytes) -> None:
    payload = json.dumps(order, separators=(",", ":")).encode()
    for entry in (raw, raw.replace(b"{}", payload)):
        assert decode_envelope("acme", entry) == decode_envelope_at_length("acme", entry)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"EventType":"OrderUpdate","Payload":%b}',
        b'{"EventType":"OrderUpdate","Payload":%b }',
        b'{"EventType":"OrderUpdate","Payload":%b,"New":{}}',
        b'{"EventType":"OrderUpdate","Payload":%b,"Payload":{}}',
        b'{"EventType":"OrderUpdate","Payload":%b}}',
        b'{"EventType":"OrderUpdate","Payload":%b',
        b'{"EventType":"OrderUpdate","Payload":%b,"EventSeqId":9}',
        b'{"EventType":"LegUpdate","Payload":%b}',
        b'{"EventType":"OrderUpdate","Payload":%b,"Data":{"a":1}}',
        b'{"EventType":"OrderUpdate","Payload":%b}\xff',
    ],
)
def test_both_ways_agree_on_what_begins_as_another_entry_did(order: dict[str, Any], raw: bytes) -> None:
    for more in ({}, {"StrategyName": "ü"}, {"EventId": None}, {"EventSeqId": 0}, {"OrderId": "x"}):
        payload = json.dumps(order | more, separators=(",", ":"), ensure_ascii=False).encode()
        sound = json.dumps(order, separators=(",", ":")).encode()
        decode_envelope("acme", b'{"EventType":"OrderUpdate","Payload":%b}' % sound)  # both beginnings are known now
        assert decode_envelope("acme", raw % payload) == decode_envelope_at_length("acme", raw % payload)


@pytest.mark.parametrize("more", [b"", b" ", b",{}", b',1],"invocationId":["7"', b"}", b"]"])
def test_what_the_short_way_takes_is_one_whole_payload(order: dict[str, Any], more: bytes) -> None:
    sound = json.dumps(order, separators=(",", ":")).encode()
    plan = DecodePlan(CATALOGUE["order-update"].model, EnumNames())
    assert plan.event("acme", "order-update", sound) == decode_push("acme", "OnOrderUpdate", sound)
    if more.strip():
        with pytest.raises(FallBack):
            plan.event("acme", "order-update", sound + more)
    else:
        assert plan.event("acme", "order-update", sound + more) == decode_push("acme", "OnOrderUpdate", sound)


def test_a_member_that_stands_twice_never_goes_the_short_way(sightings: list[Any]) -> None:
    for sighting in sightings:
        entry = find(sighting.callback)
        assert entry is not None
        plan, members = DecodePlan(entry.model, EnumNames()), json.loads(sighting.push)
        for name, value in members.items():
            for other in (value, None, ":", 'a":'):
                again = json.dumps({name: other}, separators=(",", ":"), ensure_ascii=False).encode()[1:-1]
                with pytest.raises(FallBack):
                    plan.event("acme", entry.kind, sighting.push[:-1] + b"," + again + b"}")
