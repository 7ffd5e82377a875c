"""An entry of the history is compared as the event that it is.

Without the name of the event where that stands beside the payload, and with the header that the payload lacks.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.events.decode import Decoder
from gateway.events.event import Event
from gateway.verify.compare import Logged, compare
from gateway.verify.history import read_envelope

MEMBERS: dict[str, Any] = {
    "EventId": "10f687b3-c9a7-6caa-fd89-7d99fe7ad0b0",
    "EventSeqId": 7,
    "EventTime": "2026-11-22T13:32:25.0533061Z",
    "OrderId": 1,
    "StrategyId": 3,
    "StrategyName": "S",
    "State": 1,
}


@pytest.mark.parametrize("name", ["EventType", "type", "event_name", "Callback", "CallbackName", "METHOD", "Name"])
@pytest.mark.parametrize("message", ["OrderUpdate", "OnOrderUpdate", "order_update_event"])
@pytest.mark.parametrize("has_other", [False, True])
def test_the_name_of_the_event_is_no_member_of_it(name: str, message: str, has_other: bool) -> None:
    more = {"Method" if name == "type" else "Type": "a member of the payload"} if has_other else {}
    envelope = json.dumps({**MEMBERS, **more, name: message}).encode()
    emitted, event = read_envelope(envelope), Decoder().envelope("main", envelope)
    assert emitted is not None
    assert isinstance(event, Event), event
    assert compare("main", [emitted], [Logged(event.kind, 7, event.body, late=False)]).exact
    other = event.body.replace(b'"State":1', b'"State":2')
    assert not compare("main", [emitted], [Logged(event.kind, 7, other, late=False)]).exact


@pytest.mark.parametrize("number", [None, 0, 0.0, "0", "0.00", "-0"])
@pytest.mark.parametrize(
    "id_", [None, "00000000-0000-0000-0000-000000000000", "0" * 32, "{00000000-0000-0000-0000-000000000000}"]
)
def test_a_header_that_is_unset_in_the_payload_is_that_of_the_entry(number: object, id_: str | None) -> None:
    header = {name: MEMBERS[name] for name in ("EventId", "EventSeqId", "EventTime")}
    payload = {**MEMBERS, "EventSeqId": number, "EventId": id_, "EventTime": None}
    envelope = json.dumps({"EventType": "OrderUpdate", **header, "Payload": payload}).encode()
    emitted, event = read_envelope(envelope), Decoder().envelope("main", envelope)
    assert emitted is not None
    assert isinstance(event, Event), event
    assert (event.sequence, event.id) == (7, MEMBERS["EventId"])
    assert str(compare("main", [emitted], [Logged(event.kind, 7, event.body, late=False)])).startswith("main: exact")
