"""How what goes through the gateway becomes messages: topic, key, value and attributes."""

from __future__ import annotations

import base64
import json

import pytest
from msgspec.structs import replace

from gateway.events.event import DeadLetter, Event, Notification, digest
from gateway.publication import dead_letter_message, event_message, notification_message, with_account_in_key

EVENT = Event(
    account="acme",
    kind="order-update",
    sequence=42,
    id="10f687b3-c9a7-6caa-fd89-7d99fe7ad0b0",
    time="2026-11-22T13:32:25.0923668Z",
    strategy=7,
    body=b'{"EventSeqId":42}',
)
LETTER = DeadLetter(
    account="acme",
    reason="invalid-payload",
    detail="State: a name or an integer would be right",
    place="OnOrderUpdate",
    raw=b'{"State":null}\xff',
    sequence=42,
    id="10f687b3-c9a7-6caa-fd89-7d99fe7ad0b0",
)


def test_an_event_goes_to_its_kinds_topic_keyed_by_sequence_body_untouched() -> None:
    message = event_message(EVENT)

    assert (message.topic, message.account, message.key, message.value) == ("order-update", "acme", b"42", EVENT.body)


def test_an_event_carries_every_attribute_of_cloudevents() -> None:
    assert event_message(EVENT).attributes == {
        "specversion": "1.0",
        "id": "10f687b3-c9a7-6caa-fd89-7d99fe7ad0b0",
        "source": "/mesolive/acme",
        "type": "mesolive.order-update.v1",
        "datacontenttype": "application/json",
        "dataschema": "urn:mesolive:order-update:v1",
        "account": "acme",
        "incarnation": "1",
        "sequence": "00000000000000000042",
        "time": "2026-11-22T13:32:25.0923668Z",
        "subject": "strategy/7",
    }


def test_the_padded_sequence_sorts_as_the_number_does_up_to_the_largest() -> None:
    numbers = [1, 9, 10, 2**31, 2**63 - 1]
    padded = [event_message(replace(EVENT, sequence=number)).attributes["sequence"] for number in numbers]

    assert padded == sorted(padded)
    assert {len(one) for one in padded} == {20}


def test_only_what_came_late_is_marked_so() -> None:
    assert event_message(EVENT, late=True).attributes["late"] == "true"
    assert "late" not in event_message(EVENT, late=False).attributes


def test_every_message_says_which_incarnation_of_its_account_published_it() -> None:
    notification = Notification("acme", "gap", {})
    messages = [
        event_message(EVENT, incarnation=3),
        dead_letter_message(LETTER, incarnation=3),
        notification_message(notification, incarnation=3),
    ]
    assert [message.attributes["incarnation"] for message in messages] == ["3", "3", "3"]
    assert event_message(EVENT, incarnation=3) != event_message(EVENT)


def test_an_event_without_a_strategy_has_no_subject() -> None:
    assert "subject" not in event_message(replace(EVENT, strategy=None)).attributes
    assert event_message(replace(EVENT, strategy=0)).attributes["subject"] == "strategy/0"


def test_an_event_without_an_id_is_named_by_account_and_sequence() -> None:
    message = event_message(replace(EVENT, id=None))

    assert (message.key, message.attributes["id"]) == (b"42", "acme/42")


@pytest.mark.parametrize("id_", [EVENT.id, None])
def test_an_event_without_a_sequence_has_its_identity_as_key(id_: str | None) -> None:
    event = replace(EVENT, sequence=None, id=id_)
    message = event_message(event)

    assert message.key.decode() == event.identity == (id_ or digest(b"order-update\0" + EVENT.body))
    assert message.attributes["id"] == event.identity
    assert "sequence" not in message.attributes


def test_the_same_event_gives_the_same_message() -> None:
    assert event_message(EVENT) == event_message(replace(EVENT))


def test_a_dead_letter_keeps_the_raw_bytes_the_reason_and_the_place() -> None:
    message = dead_letter_message(LETTER)
    body = json.loads(message.value)

    assert (message.topic, message.account, message.key) == ("dead-letter", "acme", b"42")
    assert base64.b64decode(body.pop("Raw")) == LETTER.raw
    assert body == {
        "Reason": "invalid-payload",
        "Detail": LETTER.detail,
        "Place": "OnOrderUpdate",
        "EventId": LETTER.id,
        "EventSeqId": 42,
        "Size": len(LETTER.raw),
        "Digest": digest(LETTER.raw),
        "Truncated": False,
    }
    assert message.attributes["type"] == "mesolive.dead-letter.v1"
    assert message.attributes["reason"] == "invalid-payload"
    assert message.attributes["sequence"] == "00000000000000000042"


def test_a_dead_letter_that_knows_nothing_is_named_by_its_bytes_digest() -> None:
    letter = replace(LETTER, sequence=None, id=None)
    message = dead_letter_message(letter)

    assert message.key.decode() == message.attributes["id"] == digest(LETTER.raw)
    assert "sequence" not in message.attributes


@pytest.mark.parametrize(("limit", "is_cut"), [(None, False), (15, False), (14, True), (0, True)])
def test_a_dead_letter_is_cut_at_its_limit_with_size_and_digest_of_all(limit: int | None, is_cut: bool) -> None:
    body = json.loads(dead_letter_message(LETTER, limit=limit).value)

    assert len(LETTER.raw) == 15
    assert body["Truncated"] is is_cut
    assert base64.b64decode(body["Raw"]) == LETTER.raw[:limit]
    assert (body["Size"], body["Digest"]) == (15, digest(LETTER.raw))


def test_a_notification_has_the_account_as_key_and_its_facts_in_the_value() -> None:
    message = notification_message(Notification("acme", "gap", {"FirstSeqId": 5, "LastSeqId": 9}))

    assert (message.topic, message.account, message.key) == ("notifications", "acme", b"acme")
    assert json.loads(message.value) == {"Type": "gap", "Account": "acme", "FirstSeqId": 5, "LastSeqId": 9}
    assert message.attributes["type"] == "mesolive.notifications.v1"
    assert message.attributes["id"] == digest(message.value)


def test_the_size_of_a_message_is_not_less_than_what_is_stored() -> None:
    message = event_message(EVENT)

    stored = len(message.value) + len(message.key)
    stored += sum(len(f"{name}: {value}\r\n") for name, value in message.attributes.items())
    assert message.size >= stored


def test_the_account_precedes_keys_of_events_and_dead_letters_on_request() -> None:
    assert with_account_in_key(event_message(EVENT)) == replace(event_message(EVENT), key=b"acme:42")
    assert with_account_in_key(dead_letter_message(LETTER)).key == b"acme:42"
    notification = notification_message(Notification("acme", "gap", {}))
    assert with_account_in_key(notification) == notification
