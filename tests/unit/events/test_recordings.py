"""What a real hub said: 17 kinds, pushed and from history, in both of its spellings."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from gateway.events.catalogue import KINDS
from gateway.events.decode import Decoder
from gateway.events.encode import encode, read_event
from gateway.events.event import Event

DECODER = Decoder()
decode_envelope = DECODER.envelope
decode_push = DECODER.push


def test_both_recordings_have_all_kinds_in_order(sightings: list[Any]) -> None:
    for recording in ("camel-int", "pascal-string"):
        events = [decode_push("acme", s.callback, s.push) for s in sightings if s.recording == recording]
        assert [event.kind for event in events if isinstance(event, Event)] == list(KINDS)
        assert [event.sequence for event in events] == list(range(1, 18))


def test_a_push_and_its_page_envelope_give_the_same_event(sightings: list[Any]) -> None:
    assert len(sightings) == 34
    for sighting in sightings:
        live = decode_push("acme", sighting.callback, sighting.push)
        history = decode_envelope("acme", sighting.envelope)
        assert isinstance(live, Event)
        assert history == live
        assert history.body == live.body


def test_every_recorded_number_and_text_is_in_the_canonical_value(sightings: list[Any]) -> None:
    for sighting in sightings:
        event = decode_push("acme", sighting.callback, sighting.push)
        assert isinstance(event, Event)
        came = _leaves(json.loads(sighting.push, parse_float=str, parse_int=str))
        left = _leaves(json.loads(event.body, parse_float=str, parse_int=str))
        assert {path: leaf for path, leaf in came.items() if left.get(path) != leaf} == {}


def test_every_recorded_event_can_be_read_back_exactly(sightings: list[Any]) -> None:
    for sighting in sightings:
        event = decode_push("acme", sighting.callback, sighting.push)
        assert isinstance(event, Event)
        payload = read_event(event.kind, event.body)
        assert encode(payload) == event.body
        assert payload.EventSeqId == event.sequence


def test_numbers_of_one_recording_stay_and_names_of_the_other_stay_names(sightings: list[Any]) -> None:
    by_kind: dict[tuple[str, str], dict[str, Any]] = {}
    for sighting in sightings:
        event = decode_push("acme", sighting.callback, sighting.push)
        assert isinstance(event, Event)
        by_kind[sighting.recording, event.kind] = json.loads(event.body, parse_float=Decimal)
    assert by_kind["camel-int", "entry-signal"]["State"] == 1
    assert by_kind["pascal-string", "entry-signal"]["State"] == "On"


def test_the_recorded_decimals_keep_their_scale(sightings: list[Any]) -> None:
    for sighting in sightings:
        event = decode_push("acme", sighting.callback, sighting.push)
        if event.kind == "auto-update-vars-adjustment-completed":
            assert (
                b'"UpdatedVars":{"MaxLoss":"-100.10","max_loss":"7","tgt":"79228162514264337593543950335"}'
                in event.body
            )
        if event.kind == "adjustment-signal":
            assert b'"IVRank_pct":0.10}' in event.body


def _leaves(value: object, path: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        return {k: leaf for name, item in value.items() for k, leaf in _leaves(item, f"{path}.{name.lower()}").items()}
    if isinstance(value, list):
        return {k: leaf for i, item in enumerate(value) for k, leaf in _leaves(item, f"{path}[{i}]").items()}
    return {path: str(value)}
