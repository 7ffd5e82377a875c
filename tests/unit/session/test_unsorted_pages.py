"""Histories whose pages are not in rising order, one behind the other: nothing is lost, and no gap is announced."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.events.times import ticks
from gateway.session.checkpoint import Anchor, Checkpoint
from gateway.session.finality import Sighting
from gateway.session.hub_clock import Moment
from gateway.session.types import PageRequest, State
from tests.unit.session.scenes import Scene, clock, events

SEEN = tuple(Sighting(latest, Moment(ticks(clock(-3600)))) for latest in (20, 40))
KNOWN = Checkpoint(verified=4, anchor=Anchor(4, "id-4"), sightings=SEEN)
"""All up to 20, or to 40, is final as soon as a page shows it, holes included."""


def reads_newest_first(scene: Scene, first: int, last: int) -> list[PageRequest]:
    """Let a hub that shows its newest events first, two a page, be read until nothing is asked for; return requests."""
    requests = []
    while (request := scene.asks()) is not None:
        requests.append(request)
        top = int(request.token or last)
        shown = [number for number in (top - 1, top) if number >= first and number > request.since]
        below = top - 2
        scene.answers(*events(shown), token=str(below) if below >= first and below > request.since else None)
        assert len(requests) < 100
    return requests


def test_an_event_that_is_shown_too_early_ends_no_hole_before_it() -> None:
    """Each page of this hub shows its newest event as well."""
    scene = Scene(KNOWN)
    scene.connect(latest=40)
    scene.answers(*events([4, 5, 6, 39]), token="a")
    assert scene.published() == [5, 6, 39]
    assert scene.checkpoint.verified == 4

    other = scene.crashes(checkpoint=replace(scene.checkpoint, sightings=SEEN))
    other.connect(latest=40)
    other.answers(*events([4, 5, 6, 39]), token="a")
    other.answers(*events([7, 8, 9, 39]), token="b")
    other.answers(*events([10, 39, 40]))
    assert other.published() == [7, 8, 9, 10, 40]
    assert other.checkpoint.verified == 40
    assert other.notifications("gap") == []


def test_a_hole_ends_with_the_next_page_of_a_sorted_history() -> None:
    scene = Scene(KNOWN)
    scene.connect(latest=40)
    scene.answers(*events([4, 5, 8]), token="a")
    scene.commits()
    assert scene.checkpoint.verified == 4

    scene.answers(*events([9, 12]), token="b")
    scene.commits()
    assert scene.checkpoint.verified == 8


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_history_with_its_newest_events_first_is_published_whole(is_killed: bool) -> None:
    scene = Scene(KNOWN)
    scene.connect(latest=20)
    if is_killed:
        scene.answers(*events([19, 20]), token="18")
        scene.answers(*events([17, 18]), token="16")
        scene.commits()
        scene = scene.crashes() if scene.batches else scene
        scene.connect(latest=20)
    reads_newest_first(scene, 1, 20)
    assert scene.session.state is State.LIVE
    scene.session.on_latest(20, clock(0))
    scene.session.history.audit()
    reads_newest_first(scene, 1, 20)
    assert sorted(number or 0 for number in scene.published()) == list(range(5, 21))
    assert scene.checkpoint.verified == 20
    assert scene.notifications("gap") == []


def test_newest_events_first_without_a_beginning_have_one_gap() -> None:
    scene = Scene(KNOWN)
    scene.connect(latest=20)
    requests = reads_newest_first(scene, 11, 20)
    assert [request.since for request in requests if request.token is None] == [3, 0, 4]
    scene.session.on_latest(20, clock(0))
    scene.session.history.audit()
    reads_newest_first(scene, 11, 20)
    assert sorted(number or 0 for number in scene.published()) == list(range(11, 21))
    assert scene.notifications("gap") == [{"FirstSeqId": 5, "LastSeqId": 10}]


def test_a_sorted_history_shows_by_its_second_page_where_it_begins() -> None:
    scene = Scene(KNOWN)
    scene.connect(latest=40)
    scene.answers(*events([11, 12]), token="a")
    scene.answers(*events([13, 14]), token="b")
    assert scene.asks() == PageRequest(0)
    scene.answers(*events([11, 12]), token="a")
    scene.answers(*events([13, 14]), token="b")
    assert scene.asks() == PageRequest(4)
