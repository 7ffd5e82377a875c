"""Blows on three replicas, on each broker: the short form of `make chaos`.

The short run deals what has no test of its own; takeovers from what is frozen or cut off are in test_cut_off.py,
test_kafka.py and test_replicas.py, and Kafka's own bad days in test_kafka_cluster.py, test_kafka_topics.py and
test_going_back.py. `make test-long` deals a whole round.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

import pytest

from tests.support import kafka_server
from tools import chaos
from tools.chaos import Blow, Kind, Outcome

SLACK: Final = 2.5
"""How many times as long a silence may be beside other loads; the figures are logged."""
ABRUPT: Final[tuple[Kind, ...]] = ("kill", "freeze", "cut")
POLITE: Final[tuple[Kind, ...]] = ("end", "to 1", "to 4", "to 3", "nap")
SOME: Final[tuple[Kind, ...]] = ("kill", "end", "nap", "broker", "hub", "back", "edit")
FEW: Final[tuple[Kind, ...]] = ("kill", "end", "nap")
ROUND: Final = pytest.param(tuple(chaos.SECONDS), id="all", marks=pytest.mark.long)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kinds", [pytest.param(SOME, id="some"), ROUND])
async def test_three_replicas_are_exact_on_jetstream_through_blows(tmp_path: Path, kinds: tuple[Kind, ...]) -> None:
    async with chaos.jetstream(tmp_path, seed=60) as scene:
        outcome = await chaos.storm(scene, one_round(60, kinds))
    all_is_well(outcome, kinds, takeover=5, handover=3)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kinds", [pytest.param(FEW, id="few"), ROUND])
async def test_three_replicas_are_exact_on_kafka_through_blows(tmp_path: Path, kinds: tuple[Kind, ...]) -> None:
    kafka_server.require_java()
    async with chaos.kafka(tmp_path, seed=61) as scene:
        outcome = await chaos.storm(scene, one_round(61, kinds))
    all_is_well(outcome, kinds, takeover=9, handover=4)


def one_round(seed: int, kinds: Iterable[Kind]) -> list[Blow]:
    return [blow for blow in itertools.islice(chaos.schedule(seed), chaos.ROUND) if blow.kind in kinds]


def all_is_well(outcome: Outcome, kinds: Collection[Kind], *, takeover: float, handover: float) -> None:
    assert outcome.is_exact, (outcome.verdict, outcome.errors)
    assert outcome.longest.keys() == set(kinds)
    for kind, silence in outcome.longest.items():
        if kind in ABRUPT:
            assert silence < SLACK * takeover, outcome.longest
        if kind in POLITE:
            assert silence < SLACK * handover, outcome.longest
