"""Each way in which a payload can be wrong, one by one; never an exception, always a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.errors import DecodeError
from gateway.events.decode import Decoder
from gateway.events.encode import read_event
from gateway.events.event import DeadLetter
from gateway.events.validation_errors import MAX_DETAIL
from gateway.publication import dead_letter_message

DECODER = Decoder()
decode_envelope = DECODER.envelope
decode_push = DECODER.push

Literal = Callable[[str, str], bytes]
ID = "10f687b3-c9a7-6caa-fd89-7d99fe7ad0b0"


def dead(payload: bytes, callback: str = "OnOrderUpdate") -> DeadLetter:
    letter = decode_push("acme", callback, payload)
    assert isinstance(letter, DeadLetter), letter
    assert len(letter.detail) <= MAX_DETAIL
    assert "would be right" in letter.detail or "requires it" in letter.detail
    assert letter.raw == payload
    msgspec.json.decode(dead_letter_message(letter).value)
    return letter


@pytest.mark.parametrize(
    ("member", "literal", "reason", "message"),
    [
        ("FillPrice", "NaN", "malformed-json", "FillPrice: NaN is not JSON"),
        ("FillPrice", "-Infinity", "malformed-json", "FillPrice: -Infinity is not JSON"),
        ("FillPrice", '"NaN"', "invalid-payload", 'FillPrice is the text "NaN"; a decimal number'),
        ("FillPrice", '"1_0"', "invalid-payload", "FillPrice is the text"),
        ("FillPrice", '" 1"', "invalid-payload", "FillPrice is the text"),
        ("FillPrice", '"01"', "invalid-payload", "FillPrice is the text"),
        ("FillPrice", '"1e401"', "invalid-payload", "FillPrice is the text"),
        ("FillPrice", "true", "invalid-payload", "FillPrice is true"),
        ("FillPrice", "[]", "invalid-payload", "FillPrice is a list of 0"),
        ("FillPrice", "1e400", "beyond-limits", "FillPrice: the number 1e400"),  # 401 characters in plain notation
        ("FillPrice", '"1e400"', "invalid-payload", "FillPrice is the text"),
        ("FillPrice", "1e401", "beyond-limits", "FillPrice: the number 1e401"),
        ("FillPrice", "1e-401", "beyond-limits", "FillPrice: the number 1e-401"),
        ("FillPrice", "0e-999999999", "beyond-limits", "FillPrice: the number"),
        ("FillPrice", "1e99999999999999999999999", "beyond-limits", "FillPrice: the number"),
        ("FillPrice", "1" * 401, "beyond-limits", "FillPrice: the number"),
        ("FillPrice", "1." + "1" * 400, "beyond-limits", "FillPrice: the number"),
        ("FillPrice", "1" * 100_000, "beyond-limits", "(100000 characters)"),
        ("FillPrice", '"' + "x" * 5_000_000 + '"', "invalid-payload", "(5000000 characters)"),
        ("Rejection", '{"a":[1e999]}', "beyond-limits", "Rejection.a[0]: the number 1e999"),
        ("Rejection", "[" * 64 + "]" * 64, "beyond-limits", "nested deeper than 64 levels"),
        ("Rejection", "[" * 10_000 + "]" * 10_000, "beyond-limits", "nested deeper than 64 levels"),
        ("Rejection", '{"a":"\\ud83e"}', "malformed-json", "Rejection.a: half of a surrogate pair"),
        ("Rejection", '{"\\uDD8B":1}', "malformed-json", "Rejection: half of a surrogate pair"),
        ("StrategyName", '"\\udd8b\\ud83e"', "malformed-json", "StrategyName: half of a surrogate pair"),
        ("Rejection", '{"a":1,"a":1}', "duplicate-member", 'Rejection: the member "a" stands twice'),
        ("fillprice", "1", "duplicate-member", "FillPrice stands twice, in two spellings"),
        ("OrderId", "null", "invalid-payload", "OrderId is null; an integer"),
        ("OrderId", "1.5", "invalid-payload", "OrderId is the number 1.5; an integer"),
        ("OrderId", "true", "invalid-payload", "OrderId is true; an integer"),
        ("OrderId", '"1.5"', "invalid-payload", 'OrderId is the text "1.5"; an integer'),
        ("OrderId", '"01"', "invalid-payload", 'OrderId is the text "01"; an integer'),
        ("OrderId", "9223372036854775808", "invalid-payload", "OrderId is the number 9223372036854775808"),
        ("EventSeqId", '"four"', "invalid-payload", 'EventSeqId is the text "four"; an integer'),
        ("EventSeqId", "-1", "invalid-payload", "an integer from 0 to 9223372036854775807 would be right"),
        ("EventSeqId", "9223372036854775808", "invalid-payload", "EventSeqId is the number 9223372036854775808"),
        ("EventSeqId", "true", "invalid-payload", "EventSeqId is true"),
        ("EventSeqId", "4.5", "invalid-payload", "EventSeqId is the number 4.5"),
        ("EventId", '"x"', "invalid-payload", 'EventId is the text "x"; a UUID'),
        ("EventId", '"10f687b3c9a76caafd897d99fe7ad0b"', "invalid-payload", "a UUID"),
        ("EventId", '"{10f687b3-c9a7-6caa-fd89-7d99fe7ad0b0)"', "invalid-payload", "a UUID"),
        ("EventId", '"10f687b3-c9a76caa-fd89-7d99fe7ad0b0"', "invalid-payload", "a UUID"),
        ("EventTime", '"2026-13-01T00:00:00Z"', "invalid-payload", "month must be in 1..12"),
        ("EventTime", "1795354345", "invalid-payload", "EventTime is the number 1795354345; a time"),
        ("EventTime", "null", "invalid-payload", "EventTime is null; a time"),
        ("StrategyName", "null", "invalid-payload", "StrategyName is null; a text"),
        ("StrategyName", "5", "invalid-payload", "StrategyName is the number 5; a text"),
        ("State", "true", "invalid-payload", "State is true; a name or an integer"),
        ("State", "1.5", "invalid-payload", "State is the number 1.5; a name or an integer"),
    ],
)
def test_a_wrong_member_is_named_with_what_would_be_right(
    with_literal: Literal, member: str, literal: str, reason: str, message: str
) -> None:
    letter = dead(with_literal(member, literal))
    assert letter.reason == reason
    assert message in letter.detail
    assert letter.place == "OnOrderUpdate"
    if not member.startswith("Event"):
        assert (letter.sequence, letter.id) == (4, ID)


@pytest.mark.parametrize(
    ("payload", "reason", "message"),
    [
        (b"", "malformed-json", "at character 0, the end"),
        (b"{", "malformed-json", "at character 1"),
        (b"{}{}", "malformed-json", "Extra data at character 2"),
        (b"\xef\xbb\xbf{}", "malformed-json", "at character 0"),
        (b"\xff", "malformed-json", "byte 0 (0xff) is not UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "malformed-json", "byte 6 (0xed) is not UTF-8"),
        ('{"a":1}'.encode("utf-16"), "malformed-json", "is not UTF-8"),
        (b'{"a":"\x01"}', "malformed-json", "control character"),
        (b"null", "invalid-payload", "the payload is null; an object"),
        (b"[{}]", "invalid-payload", "the payload is a list of 1"),
        (b"5", "invalid-payload", "the payload is the number 5"),
        (b'"' + b"x" * 5_000_000 + b'"', "invalid-payload", "the payload is the text"),
        (b"[" * 10_000, "beyond-limits", "nested deeper"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "beyond-limits", "nested deeper"),
        (b"{}", "invalid-payload", "EventTime is missing, and the reference requires it"),
    ],
)
def test_what_is_no_object_is_refused(payload: bytes, reason: str, message: str) -> None:
    letter = dead(payload)
    assert letter.reason == reason
    assert message in letter.detail


def test_every_required_member_must_be_there(order: dict[str, Any]) -> None:
    for name in ("EventTime", "OrderId", "StrategyId", "StrategyName", "State"):
        letter = dead(json.dumps({key: value for key, value in order.items() if key != name}).encode())
        assert letter.detail == f"{name} is missing, and the reference requires it"


def test_a_fault_deep_inside_is_named_by_its_path() -> None:
    leg = {"Id": 1, "LiveContract": {"Underlying": "SPX", "underlying": "SPX"}}
    members = {"EventTime": "2026-11-22T13:32:25Z", "JobId": "j", "StrategyId": 1, "StrategyName": "S"}
    members |= {"Result": {"PositionLegs": {"short_put": leg}}}  # type: ignore[dict-item]
    letter = dead(json.dumps(members).encode(), "OnPositionExitPreparationCompleted")
    assert letter.reason == "duplicate-member"
    assert letter.detail.startswith("Result.PositionLegs.short_put.LiveContract: Underlying stands twice")


def test_an_unknown_callback_is_kept_with_its_place_in_the_order(order: dict[str, Any]) -> None:
    letter = dead(json.dumps(order).encode(), "OnBrandNew")
    assert (letter.reason, letter.place) == ("unknown-kind", "OnBrandNew")
    assert (letter.sequence, letter.id) == (4, ID)


@pytest.mark.parametrize("callback", ["", "x" * 5_000_000, "\ud800" * 500, "\0"])
def test_a_strange_callback_is_bounded_and_can_be_published(callback: str) -> None:
    assert len(dead(b"{}", callback).place) <= 100


def test_many_faults_make_a_short_sentence(order: dict[str, Any]) -> None:
    wrong = dict.fromkeys((f"v{number}" for number in range(20_000)), "x")
    members = {"EventTime": "x" * 1000, "Condition": 5, "UpdatedVars": wrong}
    letter = dead(json.dumps({**order, **members}).encode(), "OnAutoUpdateVarsAdjustmentCompleted")
    assert "more" in letter.detail


@pytest.mark.parametrize(
    ("raw", "sequence", "id_"),
    [
        (b'{"EventSeqId":7,"x":NaN}', 7, None),
        (b'{"eventseqid": 7 ,"eventId":"%s","x":' % ID.upper().encode(), 7, ID),
        (b'{"EventSeqId":7', None, None),  # perhaps the beginning of 71
        (b'{"EventSeqId":7,"EventSeqId":7}', None, None),
        (b'{"EventSeqId":7,"eventSeqId":8}', None, None),
        (b'{"EventSeqId":7,"a":{"EventSeqId":8},"x":', None, None),
        (b'{"a":{"EventSeqId":8},"x":NaN}', None, None),
        (b'{"m":"\\"EventSeqId\\":9,","x":', None, None),
        (b'{"EventSeqId":"7"}', 7, None),
        (b'{"EventSeqId":"seven"}', None, None),
        (b'{"EventSeqId":0}', None, None),
        (b'{"EventSeqId":7,"EventId":"00000000-0000-0000-0000-000000000000"}', 7, None),
        (b'\xff{"EventSeqId":7,"EventId":"%s"}' % ID.encode(), 7, ID),
        (b'{"EventSeqId":99999999999999999999}', None, None),
        (b'[{"EventSeqId":7}]', None, None),
    ],
)
def test_sequence_and_id_are_recovered_only_where_they_are_sure(
    raw: bytes, sequence: int | None, id_: str | None
) -> None:
    letter = dead(raw)
    assert (letter.sequence, letter.id) == (sequence, id_)


def test_an_envelope_gives_place_and_sequence_of_what_is_wrong_inside(order: dict[str, Any]) -> None:
    inner = json.dumps({**order, "OrderId": "x", "EventSeqId": None, "EventId": None})
    for payload in (inner, json.dumps(inner), json.dumps(inner[:-1])):
        raw = f'{{"EventType":"OrderUpdate","EventSeqId":12,"EventId":"{ID}","Payload":{payload}}}'.encode()
        letter = decode_envelope("acme", raw)
        assert isinstance(letter, DeadLetter)
        assert (letter.place, letter.sequence, letter.id, letter.raw) == ("GetEventsSince", 12, ID, raw)


def test_reading_back_refuses_what_is_no_event(order: dict[str, Any]) -> None:
    with pytest.raises(DecodeError, match="unknown-kind"):
        read_event("order", json.dumps(order).encode())
    with pytest.raises(DecodeError, match="invalid-payload: OrderId is missing"):
        read_event("order-update", b'{"EventTime":"2026-11-22T13:32:25Z"}')
    with pytest.raises(DecodeError, match="invalid-payload"):
        read_event("order-update", b"[]")
