"""One round of every blow, on each broker: the short form of `make chaos`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Final

import pytest

from tests.acceptance import chaos
from tests.acceptance.chaos import Kind, Outcome
from tests.contract import kafka_server

SLACK: Final = 2.5
"""How many times as long a silence may be beside other loads; the figures are logged."""
ABRUPT: Final[tuple[Kind, ...]] = ("kill", "freeze", "cut")
POLITE: Final[tuple[Kind, ...]] = ("end", "to 1", "to 4", "to 3", "nap")


@pytest.mark.timeout(300)
async def test_three_replicas_are_exact_on_jetstream_through_every_kind_of_blow(tmp_path: Path) -> None:
    async with chaos.jetstream(tmp_path, seed=60) as scene:
        outcome = await chaos.storm(scene, itertools.islice(chaos.schedule(60), chaos.ROUND))
    all_is_well(outcome, takeover=5, handover=3)


@pytest.mark.timeout(400)
async def test_three_replicas_are_exact_on_kafka_through_every_kind_of_blow(tmp_path: Path) -> None:
    kafka_server.require_java()
    async with chaos.kafka(tmp_path, seed=61) as scene:
        outcome = await chaos.storm(scene, itertools.islice(chaos.schedule(61), chaos.ROUND))
    all_is_well(outcome, takeover=9, handover=4)


def all_is_well(outcome: Outcome, *, takeover: float, handover: float) -> None:
    assert outcome.is_exact, (outcome.verdict, outcome.complaints)
    assert outcome.longest.keys() == chaos.SECONDS.keys()
    assert all(outcome.longest[kind] < SLACK * takeover for kind in ABRUPT), outcome.longest
    assert all(outcome.longest[kind] < SLACK * handover for kind in POLITE), outcome.longest
