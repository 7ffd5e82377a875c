"""Thousands of lives of one account, each from its seed, judged by a checker that knows only the hub and the log.

`SIMULATION_RUNS` sets how many (1,500), `SIMULATION_SEED` which is the first: a failure names its own.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace

import msgspec.structs
import pytest

from gateway.events.event import Event, Notification
from gateway.session.checkpoint import decode_checkpoint
from gateway.session.types import OutgoingItem
from tests.simulation.driver import Life
from tests.simulation.verdict import violations

RUNS = int(os.environ.get("SIMULATION_RUNS", "1500"))
FIRST = int(os.environ.get("SIMULATION_SEED", "0"))
PARTS = 10


@pytest.mark.timeout(0)
@pytest.mark.parametrize("part", range(PARTS))
def test_the_published_list_is_exact_or_the_account_says_why_not(part: int) -> None:
    for seed in range(FIRST + part, FIRST + RUNS, PARTS):
        life = Life(seed)

        life.live()

        found = violations(life)
        assert not found, f"repeat with SIMULATION_SEED={seed} SIMULATION_RUNS=1: {found}\n{life.weather}\n{life.fate}"
        assert life.largest_checkpoint < 128 * 1024


def test_the_runs_reach_what_they_are_about() -> None:
    """A simulation in which nothing goes wrong would prove nothing."""
    seen: Counter[str] = Counter()
    for seed in range(300):
        life = Life(seed)

        life.live()

        seen.update(entry.item.content.type for entry in life.published if isinstance(entry.item.content, Notification))
        seen["late"] += sum(entry.item.late for entry in life.published)
        seen["let go"] += life.session.counts.dropped_pushes > 0
        seen["diverged"] += life.diverged is not None
        seen["a stranger's hub"] += bool(life.strangers)
        seen["reset by an operator"] += life.incarnation
        seen["crowded"] += life.fate.interval_bytes < 1000 and life.weather.stride > 3
        seen["without sequence"] += any(h.sequence is None for h in life.hub.happenings)
        seen["pushed by history alone"] += life.weather.unpushed > 0
        seen["live only"] += life.weather.push_only > 0
        reasons = Counter(getattr(entry.item.content, "reason", "") for entry in life.published)
        seen["two events of one number"] += reasons["sequence-reused"]
        seen["a number far too high"] += any(h.is_bogus for h in life.hub.happenings)
        seen["whole in history alone"] += any(h.is_garbled for h in life.hub.happenings)
        seen["stored late"] += any(h.is_tardy for h in life.hub.happenings)
        seen[f"a clock that {life.weather.mood}"] += 1
    assert {name for name, count in seen.items() if count < 3} == set()
    assert len(seen) == 19, seen


def test_a_seed_gives_the_same_run_again() -> None:
    lives = [Life(7), Life(7)]

    for life in lives:
        life.live()

    assert lives[0].published == lives[1].published
    assert lives[0].stored == lives[1].stored


def _exact_life() -> Life:
    """Return a run of many events, all of which are published in order."""
    for seed in range(1000):
        life = Life(seed)
        life.live()
        late = any(entry.item.late for entry in life.published)
        sequenced = sum(getattr(entry.item.content, "sequence", None) is not None for entry in life.published)
        if (
            not late
            and sequenced > 20
            and life.session.counts.dropped_pushes == 0
            and len(life.hubs) == 1
            and not life.hub.cut
        ):
            return life
    raise AssertionError("no seed gives a run without late events")


def test_the_checker_notices_an_event_that_is_skipped() -> None:
    life = _exact_life()

    del life.published[10]

    assert any("lost" in violation for violation in violations(life))


def test_the_checker_notices_an_event_that_is_repeated() -> None:
    life = _exact_life()

    life.published.append(life.published[10])

    assert any("2 times" in violation for violation in violations(life))


def test_the_checker_notices_two_events_that_are_swapped() -> None:
    life = _exact_life()
    places = [
        place for place, entry in enumerate(life.published) if getattr(entry.item.content, "sequence", None) is not None
    ]
    first, second = places[4], places[5]

    life.published[first], life.published[second] = life.published[second], life.published[first]

    assert any("not marked late" in violation for violation in violations(life))


def test_the_checker_notices_a_byte_that_is_changed() -> None:
    life = _exact_life()
    place = next(at for at, entry in enumerate(life.published) if isinstance(entry.item.content, Event))
    content = life.published[place].item.content
    assert isinstance(content, Event)

    changed = msgspec.structs.replace(content, body=b"9" + content.body)
    life.published[place] = replace(life.published[place], item=OutgoingItem(changed))

    assert any("never happened" in violation for violation in violations(life))


def test_the_stored_checkpoint_covers_exactly_what_is_published() -> None:
    life = _exact_life()
    assert life.stored is not None
    checkpoint = decode_checkpoint(life.stored)
    published = {getattr(entry.item.content, "sequence", None) for entry in life.published} - {None}

    beyond = {number for number in published if number is not None and number > checkpoint.verified}

    assert beyond == {number for low, high in checkpoint.settled for number in range(low, high + 1)}
