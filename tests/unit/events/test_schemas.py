from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from gateway.events.catalogue import CATALOGUE, KINDS
from gateway.events.dead_letter_reasons import DeadLetterReason
from gateway.events.decode import Decoder
from gateway.events.event import DeadLetter, Event, Notification
from gateway.events.schemas import schema_files
from gateway.publication import dead_letter_message, notification_message

DECODER = Decoder()
decode_envelope = DECODER.envelope
decode_push = DECODER.push

ON_DISK = Path(__file__).parents[3] / "schemas"


def validator(path: str) -> Draft202012Validator:
    schema = json.loads(schema_files()[path])
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_the_files_in_the_repository_are_those_of_the_models() -> None:
    found = ON_DISK.rglob("*.schema.json")
    on_disk = {str(path.relative_to(ON_DISK)): path.read_text(encoding="utf-8") for path in found}
    assert on_disk == schema_files()
    assert len(on_disk) == 19


def test_every_recorded_event_is_as_its_schema_says(sightings: list[Any]) -> None:
    for sighting in sightings:
        event = decode_push("acme", sighting.callback, sighting.push)
        assert isinstance(event, Event)
        validator(f"events/{event.kind}.v1.schema.json").validate(json.loads(event.body))


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("FillPrice", 1.5),
        ("FillPrice", "1e5"),
        ("FillPrice", "NaN"),
        ("EventTime", "2026-11-22T13:32:25+01:00"),
        ("EventTime", None),
        ("EventId", "10F687B3-C9A7-6CAA-FD89-7D99FE7AD0B0"),
        ("EventSeqId", "4"),
        ("OrderId", None),
        ("State", None),
    ],
)
def test_a_schema_refuses_what_is_not_canonical(order: dict[str, Any], member: str, value: object) -> None:
    schema = validator("events/order-update.v1.schema.json")
    assert schema.is_valid(order)
    assert not schema.is_valid({**order, member: value})


def test_a_schema_requires_every_modelled_member_and_allows_more(order: dict[str, Any]) -> None:
    schema = validator("events/order-update.v1.schema.json")
    assert schema.is_valid({**order, "Later": {"a": 1}})
    for name in order:
        assert not schema.is_valid({key: value for key, value in order.items() if key != name})


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_says_what_it_is_and_what_each_member_means(kind: str) -> None:
    schema = json.loads(schema_files()[f"events/{kind}.v1.schema.json"])
    assert schema["$id"] == f"urn:mesolive:{kind}:v1"
    assert schema["title"] == CATALOGUE[kind].model.__name__
    assert schema["description"].startswith("Called when")
    assert list(schema["properties"])[:3] == ["EventId", "EventSeqId", "EventTime"]
    for model in (schema, *schema.get("$defs", {}).values()):
        assert model["required"] == list(model["properties"])
        assert model["additionalProperties"] is True
        assert all(member["description"] for member in model["properties"].values())


def test_dead_letters_are_as_their_schema_says(sightings: list[Any]) -> None:
    schema = validator("dead-letter.v1.schema.json")
    for letter in (decode_push("acme", "OnNew", sightings[0].push), decode_envelope("acme", b"\xff")):
        assert isinstance(letter, DeadLetter)
        value = json.loads(dead_letter_message(letter, limit=10).value)
        schema.validate(value)
        assert list(value) == schema.schema["required"]
    assert schema.schema["properties"]["Reason"]["enum"] == [reason.value for reason in DeadLetterReason]


def test_notifications_are_as_their_schema_says() -> None:
    gap = Notification("acme", "gap", {"FirstSeqId": 5, "LastSeqId": 9, "Since": None})
    schema = validator("notifications.v1.schema.json")
    schema.validate(json.loads(notification_message(gap).value))
    assert not schema.is_valid({"Type": "gap"})
    assert not schema.is_valid({"Type": "gap", "Account": "acme", "More": []})


def test_each_open_member_is_in_the_docs() -> None:
    page = (ON_DISK.parent / "docs" / "use" / "values.md").read_text(encoding="utf-8")
    found = set()
    for kind in KINDS:
        schema = json.loads(schema_files()[f"events/{kind}.v1.schema.json"])
        for part in (schema, *schema.get("$defs", {}).values()):
            found |= {
                name for name, member in part["properties"].items() if "As the hub wrote it" in json.dumps(member)
            }
    assert len(found) == 11
    assert all(f"`{name}`" in page for name in found)
