"""Whatever the bytes, decoding gives an event or a dead letter that can be published; it never raises."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.events.catalogue import CATALOGUE
from gateway.events.decode import Decoder
from gateway.events.encode import encode, read_event
from gateway.events.event import DeadLetter, Event
from gateway.events.validation_errors import MAX_DETAIL
from gateway.publication import dead_letter_message, event_message

DECODER = Decoder()
decode_envelope, decode_envelope_at_length = DECODER.envelope, DECODER.envelope_at_length
decode_push, decode_push_at_length = DECODER.push, DECODER.push_at_length

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.decimals().map(str),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
PATIENT = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CALLBACKS = st.sampled_from([entry.callback for entry in CATALOGUE.values()]) | st.text(
    st.characters(exclude_categories=[])
)
NAMES = st.sampled_from(sorted({name for entry in CATALOGUE.values() for name in entry.model.model_fields}))
ENVELOPES = st.sampled_from(["EventType", "type", "Name", "Payload", "data", "Args", "EventSeqId", "eventId"])


def push(callback: str, raw: bytes) -> Event | DeadLetter:
    """Decode, the usual way where that takes it; the long way must agree to the byte."""
    outcome = decode_push("acme", callback, raw)
    assert outcome == decode_push_at_length("acme", callback, raw)
    return outcome


def entry(raw: bytes) -> Event | DeadLetter:
    """Decode an entry of the history likewise."""
    outcome = decode_envelope("acme", raw)
    assert outcome == decode_envelope_at_length("acme", raw)
    return outcome


def holds(outcome: Event | DeadLetter) -> None:
    if isinstance(outcome, DeadLetter):
        assert 0 < len(outcome.detail) <= MAX_DETAIL
        msgspec.json.decode(dead_letter_message(outcome).value)
    else:
        event_message(outcome)
        assert encode(read_event(outcome.kind, outcome.body)) == outcome.body


@PATIENT
@given(CALLBACKS, st.binary())
def test_random_bytes_never_raise(callback: str, raw: bytes) -> None:
    holds(push(callback, raw))
    holds(entry(raw))


@PATIENT
@given(CALLBACKS, st.dictionaries(NAMES | ENVELOPES | st.text(), JSON), st.booleans())
def test_random_objects_never_raise(callback: str, members: dict[str, Any], ascii_only: bool) -> None:
    raw = json.dumps({**members, "EventType": callback}, ensure_ascii=ascii_only, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )
    holds(push(callback, raw))
    holds(entry(raw))


@PATIENT
@given(st.data())
def test_a_sound_event_with_any_one_member_changed_never_raises(data: st.DataObject) -> None:
    members: dict[str, Any] = {
        "EventId": "10f687b3-c9a7-6caa-fd89-7d99fe7ad0b0",
        "EventSeqId": 4,
        "EventTime": "2026-11-22T13:32:25.0923668Z",
        "OrderId": 1,
        "StrategyId": 2,
        "StrategyName": "S",
        "State": 4,
        "FilledQty": None,
        "RemainingQty": "0.10",
        "FillPrice": 1,
        "AvgFillPrice": None,
    }
    members[data.draw(st.sampled_from([*members, "Rejection", "New"]))] = data.draw(JSON)
    spaces = data.draw(st.sampled_from([None, (",", ":")]))
    raw = json.dumps(members, separators=spaces).encode()
    live = push("OnOrderUpdate", raw)
    holds(live)
    history = entry(b'{"EventType":"OrderUpdate","Payload":%s}' % raw)
    assert type(history) is type(live)
    if isinstance(live, Event):
        assert history == live


def test_recordings_with_bytes_changed_never_raise(sightings: list[Any]) -> None:
    chance = random.Random(20261122)
    alphabet = b'{}[]":,0123456789.eE+-nulltrue\\ud8\x00\xff\xc3 '
    changes: list[Callable[[bytearray, int], None]] = [
        lambda raw, at: raw.__setitem__(at, chance.choice(alphabet)),
        lambda raw, at: raw.__delitem__(at),
        lambda raw, at: raw.insert(at, chance.choice(alphabet)),
        lambda raw, at: raw.__delitem__(slice(at, None)),
        lambda raw, at: raw.__setitem__(slice(at, at), raw[at : at + 40]),
    ]
    outcomes = {Event: 0, DeadLetter: 0}
    for _ in range(60):
        for sighting in sightings:
            for enveloped, sound in ((False, sighting.push), (True, sighting.envelope)):
                raw = bytearray(sound)
                for _ in range(chance.randint(1, 3)):
                    chance.choice(changes)(raw, chance.randrange(len(raw)) if raw else 0)
                    raw = raw or bytearray(b"{")
                changed = bytes(raw)
                outcome = entry(changed) if enveloped else push(sighting.callback, changed)
                holds(outcome)
                outcomes[type(outcome)] += 1
    assert min(outcomes.values()) > 100, outcomes
