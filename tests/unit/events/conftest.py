from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.events.decode import Decoder
from gateway.events.event import Event

DECODER = Decoder()
decode_push = DECODER.push

WIRE = Path(__file__).parents[2] / "fixtures" / "wire"


@dataclass(frozen=True)
class Sighting:
    """One recorded event: as it was pushed, and as its history page holds it."""

    recording: str
    callback: str
    push: bytes
    envelope: bytes


@pytest.fixture(scope="session")
def sightings() -> list[Sighting]:
    return [sighting for path in sorted(WIRE.glob("*.jsonl")) for sighting in sightings_in(path)]


@pytest.fixture
def order() -> dict[str, Any]:
    """A sound order update."""
    return {
        "EventId": "10f687b3-c9a7-6caa-fd89-7d99fe7ad0b0",
        "EventSeqId": 4,
        "EventTime": "2026-11-22T13:32:25.0923668Z",
        "OrderId": 6554440,
        "BrokerAccountId": "U1002",
        "ExecPlanId": 313512,
        "LegGroupId": 0,
        "StrategyId": 2,
        "StrategyName": "S2",
        "State": 4,
        "FilledQty": None,
        "RemainingQty": None,
        "FillPrice": None,
        "AvgFillPrice": None,
        "Rejection": None,
    }


@pytest.fixture
def with_literal(order: dict[str, Any]) -> Callable[[str, str], bytes]:
    """Return an order update whose member has this JSON text, letter for letter."""

    def payload(name: str, literal: str) -> bytes:
        rest = {key: value for key, value in order.items() if key != name}
        return f"{json.dumps(rest)[:-1]},{json.dumps(name)}:{literal}}}".encode()

    return payload


@pytest.fixture
def decoded() -> Callable[[bytes], Event]:
    """Decode an order update that must be sound."""

    def decode(payload: bytes) -> Event:
        event = decode_push("acme", "OnOrderUpdate", payload)
        assert isinstance(event, Event), event
        return event

    return decode


def sightings_in(path: Path) -> list[Sighting]:
    records = [
        msgspec.json.decode(record, type=dict[str, msgspec.Raw])
        for line in path.read_text(encoding="utf-8").splitlines()
        for record in json.loads(line).get("in", "").encode().split(b"\x1e")
        if record
    ]
    pushes = {
        msgspec.json.decode(record["target"]): msgspec.json.decode(record["arguments"], type=list[msgspec.Raw])[0]
        for record in records
        if "target" in record
    }
    envelopes = [envelope for record in records if "result" in record for envelope in _envelopes(record["result"])]
    return [
        Sighting(path.stem, callback, bytes(push), bytes(envelope))
        for (callback, push), envelope in zip(pushes.items(), envelopes, strict=True)
    ]


def _envelopes(result: msgspec.Raw) -> list[msgspec.Raw]:
    answer = {name.lower(): value for name, value in msgspec.json.decode(result, type=dict[str, msgspec.Raw]).items()}
    data = msgspec.json.decode(answer["data"], type=dict[str, msgspec.Raw] | None) or {}
    events = {name.lower(): value for name, value in data.items()}.get("events")
    return msgspec.json.decode(events, type=list[msgspec.Raw]) if events is not None else []
