from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.session.checkpoint import (
    LARGEST,
    Anchor,
    Checkpoint,
    CheckpointUnreadable,
    Passed,
    decode_checkpoint,
    encode_checkpoint,
    reset_checkpoint,
    reset_notification,
)
from gateway.session.checkpoint_draft import HOLE_BYTES
from gateway.session.dedup_window import DIGEST_BYTES
from gateway.session.finality import MOST, Sighting
from gateway.session.hub_clock import Moment
from gateway.session.interval_set import IntervalSet
from gateway.session.subscriptions import MAX_BYTES, MAX_PAST_BYTES, Subscription
from gateway.session.taking_back import LOST_BYTES
from gateway.session.types import SessionLimits

RECORDED = (
    b'{"version":1,"verified":41,"incarnation":2,"anchor":[40,"10f687b3-c9a7-6caa-fd89-7d99fe7ad0b0",'
    b'"2026-11-22T13:32:25.0923668Z"],"settled":[2,3,10,1],"identities":"AQIDBAUGBwj//////////w==",'
    b'"unsequenced":"AAAAAAAAAAA=","subject":"user-7","subscriptions":[[0,null],[45,[1,2]]]}'
)
"""What version 1 looks like. Checkpoints in brokers look like this: a change here is a new version."""

EXPECTED = Checkpoint(
    verified=41,
    anchor=Anchor(40, "10f687b3-c9a7-6caa-fd89-7d99fe7ad0b0", "2026-11-22T13:32:25.0923668Z"),
    settled=((43, 45), (56, 56)),
    identities=bytes(range(1, 9)) + b"\xff" * 8,
    unsequenced=b"\0" * 8,
    incarnation=2,
    subject="user-7",
    subscriptions=(Subscription(0), Subscription(45, frozenset({1, 2}))),
)

SEQUENCES = st.integers(0, 2**63 - 1)


@st.composite
def intervals(draw: st.DrawFn, above: int) -> tuple[tuple[int, int], ...]:
    bounds = sorted(draw(st.sets(st.integers(above + 1, above + 10**12), max_size=20)))
    spaced = [bound for before, bound in pairwise([above, *bounds]) if bound - before > 1]
    return tuple(zip(spaced[::2], spaced[1::2], strict=False))


MOMENTS = st.builds(Moment, st.integers(), st.none() | st.integers(), st.just(0))


@st.composite
def passed(draw: st.DrawFn, verified: int) -> Passed:
    floor = draw(st.integers(0, verified))
    holes = [(low, high) for low, high in draw(intervals(floor)) if high <= verified]
    return Passed(draw(st.integers(0, floor)), floor, tuple(holes))


@st.composite
def checkpoints(draw: st.DrawFn) -> Checkpoint:
    verified = draw(SEQUENCES)
    digests = st.lists(st.binary(min_size=8, max_size=8), max_size=5).map(b"".join)
    since = sorted(draw(st.sets(st.integers(1, 10**9), max_size=4)))
    strategies = st.none() | st.frozensets(st.integers(), max_size=3)
    return Checkpoint(
        verified=verified,
        anchor=draw(st.none() | st.builds(Anchor, SEQUENCES, st.none() | st.text(), st.none() | st.text())),
        settled=draw(intervals(verified)),
        identities=draw(digests),
        unsequenced=draw(digests),
        incarnation=draw(st.integers(1, 9)),
        subject=draw(st.none() | st.text()),
        subscriptions=tuple(Subscription(at, draw(strategies)) for at in [0, *since]),
        passed=draw(st.none() | passed(verified)),
        sightings=tuple(draw(st.lists(st.builds(Sighting, SEQUENCES, MOMENTS), max_size=MOST))),
        again=draw(SEQUENCES),
        lost=draw(intervals(verified)),
    )


@given(checkpoints())
def test_what_is_written_is_read_again(checkpoint: Checkpoint) -> None:
    assert decode_checkpoint(encode_checkpoint(checkpoint)) == checkpoint


def test_a_record_of_version_1_is_read() -> None:
    assert decode_checkpoint(RECORDED) == EXPECTED


def test_what_version_1_learned_later_is_read_and_written_to_the_letter() -> None:
    later = b',"passed":[5,30,2,1],"sightings":[[60,17640000000000000,17640000100000000],[61,17640000200000000,null]]}'
    expected = replace(
        EXPECTED,
        passed=Passed(began=5, floor=30, holes=((32, 32),)),
        sightings=(
            Sighting(60, Moment(17_640_000_000_000_000, 17_640_000_100_000_000)),
            Sighting(61, Moment(17_640_000_200_000_000)),
        ),
    )
    assert encode_checkpoint(expected) == RECORDED[:-1] + later
    assert decode_checkpoint(RECORDED[:-1] + later) == expected


@pytest.mark.parametrize("passed", [[5], [31, 30], [5, 42], [5, 30, 2, 40], [-1, 30], [5, 30, 2]])
def test_holes_that_cannot_be_are_refused(passed: list[int]) -> None:
    with pytest.raises(CheckpointUnreadable):
        decode_checkpoint(RECORDED[:-1] + f',"passed":{json.dumps(passed)}}}'.encode())


def test_version_1_is_written_to_the_letter() -> None:
    assert encode_checkpoint(EXPECTED) == RECORDED


def test_a_new_account_takes_a_few_bytes() -> None:
    assert encode_checkpoint(Checkpoint(verified=0)) == b'{"version":1,"verified":0}'


def test_members_of_a_later_release_do_not_disturb() -> None:
    value = RECORDED[:-1] + b',"invented":{"later":true}}'

    assert decode_checkpoint(value) == EXPECTED


@pytest.mark.parametrize(
    "value", [b'{"version":2,"verified":"elsewhere"}', b'{"version":2}', b'{"version":17,"x":[1]}']
)
def test_a_later_version_is_refused_in_words_whatever_it_holds(value: bytes) -> None:
    with pytest.raises(CheckpointUnreadable, match="run the release that wrote it"):
        decode_checkpoint(value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"{}",
        b'{"version":0,"verified":1}',
        b'{"version":1}',
        b'{"version":1,"verified":-1}',
        b'{"version":1,"verified":1.5}',
        b'{"version":1,"verified":1,"settled":[1]}',
        b'{"version":1,"verified":1,"settled":[0,1]}',
        b'{"version":1,"verified":1,"settled":[1,0]}',
        b'{"version":1,"verified":1,"settled":[2,2,-3,1]}',
        b'{"version":1,"verified":1,"identities":"AAAA"}',
        b'{"version":1,"verified":1,"identities":"?"}',
        b'{"version":1,"verified":1,"subscriptions":[[5,null],[5,[1]]]}',
        b'{"version":1,"verified":1,"anchor":["x",null,null]}',
    ],
)
def test_what_is_no_checkpoint_is_refused_in_words(value: bytes) -> None:
    with pytest.raises(CheckpointUnreadable, match="not a checkpoint of version 1"):
        decode_checkpoint(value)


def test_a_checkpoint_is_json_that_an_operator_can_read() -> None:
    assert json.loads(encode_checkpoint(EXPECTED))["verified"] == 41


# Another history -------------------------------------------------------------------------------------------


def test_a_reset_begins_a_new_incarnation_and_forgets_the_old_history() -> None:
    new = reset_checkpoint(3, 100, frozenset({1, 2}))

    assert new == Checkpoint(verified=100, incarnation=3, subscriptions=(Subscription(0, frozenset({1, 2})),))


def test_a_reset_to_before_the_beginning_is_refused() -> None:
    with pytest.raises(ValueError, match="no sequence -1"):
        reset_checkpoint(3, -1, None)


def test_a_reset_is_told_to_consumers() -> None:
    notification = reset_notification("acme", reset_checkpoint(3, 100, frozenset({2, 1})))

    assert notification.type == "checkpoint-reset"
    assert notification.detail == {"Incarnation": 3, "SinceSeqId": 100, "Strategies": "1,2"}
    assert reset_notification("acme", reset_checkpoint(3, 100, None)).detail["Strategies"] is None


# Whose event the anchor is -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "shown", "contradicts"),
    [
        (Anchor(5, "a"), Anchor(5, "a"), False),
        (Anchor(5, "a"), Anchor(5, "b"), True),
        (Anchor(5, "a", "2026-11-22T13:32:25Z"), Anchor(5, "a", "2020-01-01T00:00:00Z"), False),
        (Anchor(5, None, "2026-11-22T13:32:25Z"), Anchor(5, None, "2026-11-22T13:32:25.0000000Z"), False),
        (Anchor(5, None, "2026-11-22T13:32:25Z"), Anchor(5, None, "2026-11-23T13:32:25Z"), True),
        (Anchor(5, None, "2026-11-22T13:32:25Z"), Anchor(5, "b", "2026-11-23T13:32:25Z"), True),
        (Anchor(5, "a"), Anchor(5, None), False),
        (Anchor(5), Anchor(5), False),
    ],
)
def test_another_event_is_known_by_its_id_else_by_its_time(known: Anchor, shown: Anchor, *, contradicts: bool) -> None:
    assert known.contradicts(shown) is contradicts


def test_the_fullest_checkpoint_stays_below_what_brokers_are_asked_to_take() -> None:
    bounds = SessionLimits()
    settled = IntervalSet((at, at) for at in range(2**61, 2**61 + bounds.interval_bytes // 4 * 2, 2))
    strategies = frozenset(range(10**9, 10**9 + (MAX_BYTES + MAX_PAST_BYTES) // 11))
    holes = IntervalSet((at, at) for at in range(2**61 - 10**5, 2**61 - 10**5 + HOLE_BYTES // 4 * 2, 2))
    lost = IntervalSet((at, at) for at in range(2**61, 2**61 + LOST_BYTES // 4 * 2, 2))
    fullest = Checkpoint(
        verified=2**61 - 2,
        anchor=Anchor(2**61 - 2, "10f687b3-c9a7-6caa-fd89-7d99fe7ad0b0", "2026-11-22T13:32:25.123456789Z"),
        settled=tuple(settled),
        identities=b"\xff" * DIGEST_BYTES * bounds.identities,
        unsequenced=b"\xff" * DIGEST_BYTES * bounds.unsequenced,
        incarnation=2**31,
        subject="\x01" * 256,
        subscriptions=(Subscription(0, strategies),),
        passed=Passed(2**60, 2**61 - 10**6, tuple(holes)),
        sightings=(Sighting(2**62, Moment(2**60, 2**60)),) * MOST,
        again=2**62,
        lost=tuple(lost),
    )
    assert lost.size >= LOST_BYTES
    assert settled.size >= bounds.interval_bytes
    assert fullest.subscriptions[0].size > MAX_BYTES - 100
    assert LARGEST * 0.95 < len(encode_checkpoint(fullest)) < LARGEST
