"""Records of every format version that a broker may hold, read by this release; and what it writes, by the one before.

What a version looks like is written down in a file that is never changed. This release writes version 1, the first:
what it writes must be readable by a reader of that file's records, member by member.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.errors import GatewayError
from gateway.session.checkpoint import Anchor, Checkpoint, CheckpointUnreadable, decode_checkpoint, encode_checkpoint
from gateway.session.replay_queue import Progress
from gateway.session.subscriptions import Subscription
from gateway.state import (
    CheckpointPosition,
    Desired,
    Destination,
    IdempotencyRecord,
    Observed,
    Phase,
    RecordUnreadable,
    Replay,
    ReplayState,
    Reset,
    ShardState,
    TargetState,
    decode_record,
    encode_record,
    epoch_of,
)

WRITTEN = json.loads((Path(__file__).parents[2] / "fixtures/records/v1.json").read_text())

CHECKPOINT = Checkpoint(
    verified=41,
    anchor=Anchor(40, "10f687b3-c9a7-6caa-fd89-7d99fe7ad0b0", "2026-11-22T13:32:25.0923668Z"),
    settled=((43, 45), (56, 56)),
    identities=bytes(range(1, 9)) + b"\xff" * 8,
    unsequenced=b"\0" * 8,
    incarnation=2,
    subject="user-7",
    subscriptions=(Subscription(0), Subscription(45, frozenset({1, 2}))),
)
DESIRED = Desired(strategies=(1, 2), state=TargetState.PAUSED, reconnects=3)
OBSERVED = Observed(
    owner="host/7",
    state="live",
    since="2026-11-22T13:32:25.092Z",
    settled=41,
    latest=42,
    published=40,
    connects=2,
    strategies=(1, 2),
    failed_strategies=(2,),
    applied=9,
)


def _reads(type_: Any) -> Callable[[bytes], Any]:  # noqa: ANN401 - a type of records
    return lambda value: decode_record(type_, value)


DESIRED_WHOLE = Desired(
    strategies=(1, 2),
    state=TargetState.PAUSED,
    reconnects=3,
    idempotency=(IdempotencyRecord("k", "reconnect of main", 3),),
    reset=Reset(2, 41),
    forget=True,
)
OBSERVED_WHOLE = Observed(
    owner="host/7",
    state="live",
    since="2026-11-22T13:32:25.092Z",
    settled=41,
    latest=42,
    lag_seconds=1.5,
    checkpoint=CheckpointPosition(41, 2),
)
REPLAY = Replay(
    account="main",
    since=40,
    until=42,
    begin="2026-11-22T13:00:00Z",
    end="2026-11-22T14:00:00.1234567Z",
    kinds=("order-update", "error"),
    strategies=(1, 2),
    destination=Destination.REPLAY,
    requested_at="2026-11-22T13:32:25.092Z",
    requested_by="night-desk",
    request="5f0e",
    cancel_requested=True,
)
REPLAY_STATE = ReplayState(
    owner="host/7",
    phase=Phase.RUNNING,
    origin=40,
    position=41,
    read=1,
    published=1,
    rate=2.5,
    seconds_left=0.4,
    detail="?",
    started="2026-11-22T13:32:25.310Z",
    ended="2026-11-22T13:32:26.310Z",
)
PROGRESS = Progress(
    phase=Phase.FAILED,
    origin=40,
    position=41,
    tail=bytes(8),
    read=2,
    published=1,
    detail="?",
    started="2026-11-22T13:32:25.310Z",
    ended="2026-11-22T13:32:26.310Z",
)

RECORDS = [
    pytest.param("progress", PROGRESS, _reads(Progress), encode_record, id="progress"),
    pytest.param("desired-whole", DESIRED_WHOLE, _reads(Desired), encode_record, id="desired-whole"),
    pytest.param("observed-whole", OBSERVED_WHOLE, _reads(Observed), encode_record, id="observed-whole"),
    pytest.param("replay", REPLAY, _reads(Replay), encode_record, id="replay"),
    pytest.param("replay-state", REPLAY_STATE, _reads(ReplayState), encode_record, id="replay-state"),
    pytest.param("checkpoint", CHECKPOINT, decode_checkpoint, encode_checkpoint, id="checkpoint"),
    pytest.param("desired", DESIRED, _reads(Desired), encode_record, id="desired"),
    pytest.param("observed", OBSERVED, _reads(Observed), encode_record, id="observed"),
    pytest.param("shard", ShardState("host/7", 5), _reads(ShardState), encode_record, id="shard"),
]
Read, Write = Callable[[bytes], Any], Callable[[Any], bytes]


@pytest.mark.parametrize(("name", "expected", "read", "write"), RECORDS)
def test_version_1_is_read_and_written(name: str, expected: object, read: Read, write: Write) -> None:
    assert read(WRITTEN[name].encode()) == expected
    assert write(expected).decode() == WRITTEN[name]


@pytest.mark.parametrize(("name", "expected", "read", "write"), RECORDS)
def test_members_that_a_later_release_adds_are_passed_over(
    name: str, expected: object, read: Read, write: Write
) -> None:
    assert write(expected)
    later = json.loads(WRITTEN[name]) | {"moon": {"phase": ["full"]}}
    assert read(json.dumps(later).encode()) == expected


@pytest.mark.parametrize(("name", "expected", "read", "write"), RECORDS)
def test_a_later_version_is_refused_in_words(name: str, expected: object, read: Read, write: Write) -> None:
    assert write(expected)
    later = json.loads(WRITTEN[name]) | {"version": 2, "verified": "somewhere", "state": 7}
    with pytest.raises(GatewayError, match="has version 2, this release reads up to version 1: run the release"):
        read(json.dumps(later).encode())


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"{}", b'{"version":0}', b'{"version":"1"}', b"\xff", b"[" * 5000])
@pytest.mark.parametrize(("name", "expected", "read", "write"), RECORDS)
def test_what_is_no_record_is_refused(name: str, expected: object, read: Read, write: Write, value: bytes) -> None:
    assert name
    assert write(expected)
    with pytest.raises((CheckpointUnreadable, RecordUnreadable)):
        read(value)


def test_a_report_names_an_epoch_and_a_reader_of_version_1_ignores_it() -> None:
    reports = (OBSERVED, REPLAY_STATE, ShardState("host/7", 5))
    for report in reports:
        assert (epoch_of(report), "epoch" in json.loads(encode_record(report))) == (0, False)
        changed = replace(report, epoch=7)
        assert epoch_of(decode_record(type(changed), encode_record(changed))) == 7
        members = json.loads(encode_record(changed))
        assert members.pop("epoch") == 7
        assert members == json.loads(encode_record(report))


def test_desired_state_has_requests_that_a_reader_of_version_1_ignores() -> None:
    desired = Desired(reconnects=4, idempotency=(IdempotencyRecord("5f0e", "reconnect", 4),))
    assert decode_record(Desired, encode_record(desired)) == desired
    members = json.loads(encode_record(desired))
    del members["idempotency"]
    assert decode_record(Desired, json.dumps(members).encode()) == Desired(reconnects=4)
    assert "idempotency" not in json.loads(encode_record(Desired()))
