"""`$type`, by which .NET's serializers say of which type an object is, names the event and is no part of it.

A hub that declares the payloads of its history by their base class writes it there and not in its pushes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.events.decode import Decoder
from gateway.events.event import DeadLetter, Event
from gateway.verify.compare import Logged, compare
from gateway.verify.history import read_envelope

DECODER = Decoder()
NAMES = [
    "OrderUpdate",
    "OrderUpdateEvent",
    "MesoLive.Events.OrderUpdateEvent",
    "MesoLive.Events.OrderUpdateEvent, MesoLive.Contracts",
    "MesoLive.Hub+OrderUpdateEvent, MesoLive, Version=1.0.0.0, Culture=neutral, PublicKeyToken=null",
]
FORMS: dict[str, Callable[[str, dict[str, Any]], dict[str, Any]]] = {
    "flat": lambda name, order: {"$type": name, **order},
    "in the payload, beside a name": lambda name, order: {
        "EventType": "OrderUpdate",
        "Payload": {"$type": name, **order},
    },
    "in the payload alone": lambda name, order: {"Payload": {"$type": name, **order}},
    "in the payload, a list": lambda name, order: {"Data": [{"$type": name, **order}]},
    "in the payload, a text": lambda name, order: {"Data": json.dumps({"$type": name, **order})},
    "of the envelope as well": lambda name, order: {
        "$type": "MesoLive.EventEnvelope",
        "EventType": "OrderUpdate",
        "Payload": {"$type": name, **order},
    },
    "of the envelope alone": lambda name, order: {"$type": name, "Payload": order},
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", FORMS)
def test_it_names_the_event_and_is_no_member_of_it(order: dict[str, Any], name: str, form: str) -> None:
    live = DECODER.push("acme", "OnOrderUpdate", json.dumps(order).encode())
    envelope = json.dumps(FORMS[form](name, order)).encode()
    assert DECODER.envelope("acme", envelope) == live
    assert isinstance(live, Event)
    emitted = read_envelope(envelope)
    assert emitted is not None
    logged = Logged(live.kind, live.sequence, live.body, late=False)
    assert str(compare("acme", [emitted], [logged])).startswith("acme: exact")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_no_member_of_a_push_either(order: dict[str, Any], name: str) -> None:
    live = DECODER.push("acme", "OnOrderUpdate", json.dumps(order).encode())
    assert DECODER.push("acme", "OnOrderUpdate", json.dumps({"$type": name, **order}).encode()) == live


@pytest.mark.parametrize("name", ["PositionUpdateEvent", "", "OrderUpdateEvent[]", 7, None])
def test_what_does_not_name_the_event_is_a_member_as_any_other(order: dict[str, Any], name: object) -> None:
    pushed = DECODER.push("acme", "OnOrderUpdate", json.dumps({"$type": name, **order}).encode())
    assert isinstance(pushed, Event)
    assert json.loads(pushed.body)["$type"] == name
    entry = json.dumps({"EventType": "OrderUpdate", "Payload": {"$type": name, **order}}).encode()
    assert DECODER.envelope("acme", entry) == pushed


def test_an_entry_that_it_does_not_name_is_a_dead_letter(order: dict[str, Any]) -> None:
    letter = DECODER.envelope("acme", json.dumps({"Payload": {"$type": "Something", **order}}).encode())
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.sequence) == ("unknown-kind", order["EventSeqId"])
