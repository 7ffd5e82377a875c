"""Every form that a history page's entry may take; the vendor publishes none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.events.catalogue import CATALOGUE
from gateway.events.decode import Decoder
from gateway.events.event import DeadLetter, Event

DECODER = Decoder()
decode_envelope = DECODER.envelope

Decode = Callable[[bytes], Event]
DISCRIMINATORS = ["EventType", "Type", "EventName", "Callback", "CallbackName", "Method", "Name"]
PAYLOADS = ["Payload", "Event", "Data", "Args", "Body"]
OTHER_ID = "7ba6cb85-f8cb-10d6-1fc5-579a2d5e3c3e"
HEADER = ("EventId", "EventSeqId", "EventTime")


def enveloped(**members: object) -> Event | DeadLetter:
    return decode_envelope("acme", json.dumps(members).encode())


def refused(**members: object) -> tuple[str, str]:
    letter = enveloped(**members)
    assert isinstance(letter, DeadLetter), letter
    return letter.reason, letter.detail


@pytest.fixture
def live(order: dict[str, Any], decoded: Decode) -> Event:
    return decoded(json.dumps(order).encode())


@pytest.mark.parametrize("discriminator", DISCRIMINATORS)
@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("spell", [str, str.lower, str.upper])
def test_any_discriminator_beside_any_payload(
    order: dict[str, Any], live: Event, discriminator: str, payload: str, spell: Callable[[str], str]
) -> None:
    for form in (order, [order], json.dumps(order), json.dumps([order])):
        assert enveloped(**{spell(discriminator): "OrderUpdate", spell(payload): form, "Other": 1}) == live


@pytest.mark.parametrize("discriminator", DISCRIMINATORS)
def test_the_payload_flat_beside_the_discriminator(order: dict[str, Any], live: Event, discriminator: str) -> None:
    assert enveloped(**{discriminator: "OnOrderUpdate"}, **order) == live
    assert (
        enveloped(**{name.lower(): value for name, value in order.items()}, EventType="x", Type="OrderUpdate") != live
    )


def test_a_flat_payload_keeps_members_that_only_look_like_discriminators(order: dict[str, Any]) -> None:
    event = enveloped(EventType="OrderUpdate", CallbackName="OnOrderUpdate", Name="mine", **order)
    assert isinstance(event, Event)
    body = json.loads(event.body)
    assert body["Name"] == "mine"
    assert not {"EventType", "CallbackName"} & body.keys()


@pytest.mark.parametrize("kind", list(CATALOGUE))
def test_a_kind_is_known_by_callback_and_model_with_or_without_affixes(kind: str) -> None:
    entry = CATALOGUE[kind]
    stems = {entry.callback.removeprefix("On"), entry.model.__name__.removesuffix("Event")}
    for stem in stems:
        for name in (stem, f"On{stem}", f"{stem}Event", f"On{stem}Event"):
            for spelled in (name, name.lower(), name.upper()):
                reason, detail = refused(EventType=spelled, Payload={"EventTime": "2026-11-22T13:32:25Z"})
                assert (reason, "EventTime" in detail) == ("invalid-payload", False)


@pytest.mark.parametrize("absent", [None, "missing", "unset"])
def test_what_the_payload_lacks_is_filled_from_the_envelope(
    order: dict[str, Any], live: Event, absent: str | None
) -> None:
    header = {name.lower(): order[name] for name in HEADER}
    unset = {"EventId": "00000000-0000-0000-0000-000000000000", "EventSeqId": 0, "EventTime": None}
    bare = {name: value for name, value in order.items() if name not in HEADER}
    payload = bare if absent == "missing" else {**bare, **(unset if absent == "unset" else dict.fromkeys(HEADER))}
    for form in (payload, [payload], json.dumps(payload)):
        assert enveloped(EventType="OrderUpdate", **header, Payload=form) == live


@pytest.mark.parametrize("none", ["0", "0.0", "0.00", "-0", "-0.0"])
def test_a_sequence_of_0_is_none_as_a_text_too(order: dict[str, Any], live: Event, none: str) -> None:
    """`JsonNumberHandling.WriteAsString` writes a decimal with its scale: the event would have no number."""
    header = {name: order[name] for name in HEADER}
    for unset in (none, float(none)):
        assert enveloped(EventType="OrderUpdate", **header, Payload={**order, "EventSeqId": unset}) == live
    assert enveloped(EventType="OrderUpdate", EventSeqId=none, Payload=order) == live


def test_where_envelope_and_payload_differ_the_payload_holds(order: dict[str, Any], live: Event) -> None:
    other = {"EventId": OTHER_ID, "EventSeqId": 99, "EventTime": "2027-01-01T00:00:00Z"}
    assert enveloped(EventType="OrderUpdate", **other, Payload=order) == live
    camel = {name[0].lower() + name[1:]: value for name, value in order.items()}
    assert enveloped(EventType="OrderUpdate", **other, Payload=camel) == live


def test_a_wrong_header_in_the_envelope_does_not_matter_beside_a_right_one(order: dict[str, Any], live: Event) -> None:
    assert enveloped(EventType="OrderUpdate", EventSeqId="x", EventId=5, EventTime=None, Payload=order) == live


def test_an_object_is_taken_before_a_text(order: dict[str, Any], live: Event) -> None:
    assert enveloped(Type="OrderUpdate", Event="OnOrderUpdate", Data=order) == live


def test_an_event_is_as_deep_from_history_as_it_may_be_live(order: dict[str, Any], decoded: Decode) -> None:
    deep: list[Any] = []
    for _ in range(62):
        deep = [deep]
    order["Rejection"] = deep
    live = decoded(json.dumps(order).encode())
    for form in (order, [order], json.dumps(order), json.dumps([order])):
        assert enveloped(EventType="OrderUpdate", Payload=form) == live
    order["Rejection"] = [deep]
    for form in (order, [order], json.dumps(order)):
        assert refused(EventType="OrderUpdate", Payload=form)[0] == "beyond-limits"
    assert refused(EventType="OrderUpdate", **order)[0] == "beyond-limits"


@pytest.mark.parametrize(
    ("members", "reason", "message"),
    [
        ({}, "malformed-envelope", "no member says which event it is"),
        ({"Payload": {}}, "malformed-envelope", "no member says which event it is"),
        ({"EventType": "BrandNew", "Payload": {}}, "unknown-kind", 'the text "BrandNew" is no event'),
        ({"EventType": 3, "Payload": {}}, "unknown-kind", "the number 3 is no event"),
        ({"EventType": None, "Payload": {}}, "unknown-kind", "null is no event"),
        ({"EventType": "Error", "Payload": None}, "malformed-envelope", "Payload is null"),
        ({"EventType": "Error", "Payload": 5}, "malformed-envelope", "Payload is the number 5"),
        ({"EventType": "Error", "Payload": []}, "malformed-envelope", "Payload is a list of 0"),
        ({"EventType": "Error", "Payload": [{}, {}]}, "malformed-envelope", "Payload is a list of 2"),
        ({"EventType": "Error", "Payload": "[5]"}, "malformed-envelope", "the text of Payload holds no object"),
        ({"EventType": "Error", "Payload": "{"}, "malformed-json", "in the text of Payload: "),
        ({"EventType": "Error", "Payload": '{"a":1,"a":1}'}, "duplicate-member", "in the text of Payload: "),
        ({"EventType": "Error", "Payload": '{"a":NaN}'}, "malformed-json", "in the text of Payload: a: NaN"),
        ({"EventType": "Error", "Payload": "[" * 10_000}, "beyond-limits", "in the text of Payload: nested"),
        ({"EventType": "Error", "eventType": "Error"}, "duplicate-member", "are one; each name once"),
        ({"EventType": "Error", "Payload": {}, "payload": {}}, "duplicate-member", "are one; each name once"),
        ({"EventType": "Error"}, "invalid-payload", "is missing"),
    ],
)
def test_a_wrong_envelope_is_refused_in_words(members: dict[str, Any], reason: str, message: str) -> None:
    found, detail = refused(**members)
    assert found == reason
    assert message in detail


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b'"x"', b"\xff", b"[" * 10_000, b'{"EventType":' * 500])
def test_what_is_no_envelope_is_a_dead_letter(raw: bytes) -> None:
    letter = decode_envelope("acme", raw)
    assert isinstance(letter, DeadLetter)
    assert letter.raw == raw
