"""A reset of the checkpoint together with a change of the subscription: what is wanted then is published, all of it."""

from __future__ import annotations

import json

import pytest

from gateway.broker.memory.control import MemoryControl
from gateway.publication import NOTIFICATIONS
from gateway.state import Desired, Reset, TargetState
from gateway.verify.announced import announced
from tests.support.in_process import Build, World
from tests.unit.replica.desired_state import applied, set_desired

BEGINS = 20
"""The sequence after which the second incarnation begins."""
ALL = {1, 2, 3, 4, 5}
"""The strategies of the account."""


def published(world: World) -> tuple[dict[int, list[int]], dict[int, int | None]]:
    """Return the numbers published in each incarnation, in their order, and the strategy of each number."""
    numbers: dict[int, list[int]] = {}
    strategies: dict[int, int | None] = {}
    for message in world.messages("alpha"):
        if message.topic != NOTIFICATIONS:
            numbers.setdefault(int(message.attributes["incarnation"]), []).append(int(message.key))
            strategies[int(message.key)] = json.loads(message.value).get("StrategyId")
    return numbers, strategies


def wanted(world: World, incarnation: int, sequence: int) -> bool:
    """Say by what was announced, as a consumer reads it, whether an event was to be published."""
    notifications = [
        (int(message.attributes["incarnation"]), message.value)
        for message in world.messages("alpha")
        if message.topic == NOTIFICATIONS
    ]
    history = world.hub.user("alpha").history
    payload = json.loads(history.payloads[history.sequences.index(sequence)])
    strategy = payload.get("strategyId", payload.get("StrategyId"))
    return announced(notifications).wants(incarnation, sequence, strategy)


@pytest.mark.parametrize(
    ("before", "at_reset", "after"),
    [
        ((1,), None, None),
        ((1,), (2, 3), (2, 3)),
        (None, (4,), (4,)),
        ((1,), (1,), None),
        ((1, 2), (2,), (3,)),
        ((1,), None, (5,)),
    ],
)
async def test_a_reset_and_a_change_in_one_go_publish_all_that_is_wanted_once(
    build: Build, before: tuple[int, ...] | None, at_reset: tuple[int, ...] | None, after: tuple[int, ...] | None
) -> None:
    world = await build("alpha", prefill=10)
    world.control = MemoryControl()
    await world.replica()
    user = world.hub.user("alpha")
    await applied(world, await set_desired(world, Desired(strategies=before)))
    user.emit(50)
    await world.until(lambda: world.status("alpha").settled == 60, "all are settled")

    # In one write: rest, another subscription, and another beginning. The hub goes on meanwhile.
    reset = Reset(incarnation=2, verified=BEGINS)
    await set_desired(world, Desired(strategies=at_reset, state=TargetState.PAUSED, reset=reset))
    user.emit(20)
    await world.until(lambda: stands(world) == (BEGINS, 2), "the checkpoint is reset")
    revision = await set_desired(world, Desired(strategies=after, reset=reset))
    user.emit(20)
    await applied(world, revision)
    user.emit(20)
    await world.until(lambda: world.status("alpha").settled == 120, "all are settled")

    numbers, strategies = published(world)
    for incarnation, first in ((1, 10), (2, BEGINS)):
        found = [number for number in numbers[incarnation] if number > first]
        last = 60 if incarnation == 1 else 120
        expected = [number for number in range(first + 1, last + 1) if wanted(world, incarnation, number)]
        assert found == expected
    for wanted_then, first, last in ((at_reset, BEGINS, 60), (after, 100, 120)):
        found_then = {strategies[number] for number in numbers[2] if first < number <= last} - {None}
        assert found_then == (ALL if wanted_then is None else set(wanted_then))


def stands(world: World) -> tuple[int, int] | None:
    """Return what the owner reports of the checkpoint: where it stands, and which incarnation it is."""
    sighting = world.replicas[-1].view.observed.get("alpha")
    checkpoint = None if sighting is None else sighting.value.checkpoint
    return (checkpoint.verified, checkpoint.incarnation) if checkpoint else None
