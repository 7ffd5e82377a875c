"""A replay up to the newest event ends, also where the hub's history never shows that one."""

from __future__ import annotations

import pytest
import structlog
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from gateway.broker.memory.control import MemoryControl
from gateway.publication import REPLAY as TOPIC
from gateway.simulator import Injection
from gateway.state import (
    REPLAY,
    Desired,
    Destination,
    Phase,
    Replay,
    ReplayState,
    Reset,
    TargetState,
    decode_record,
    encode_record,
)
from tests.support.in_process import Build, World
from tests.unit.replica.desired_state import applied, set_desired

PUSHED = (
    '{"OrderId":7,"StrategyId":1,"StrategyName":"S","State":1,"FilledQty":null,"RemainingQty":null,"FillPrice":null,'
    '"AvgFillPrice":null,"EventId":"$ID","EventSeqId":$SEQ,"EventTime":"2026-01-01T00:00:00Z"}'
)


def replay_until(until: int) -> Replay:
    """Return what is wanted: everything up to a sequence, on the replay's own topic."""
    return Replay(account="alpha", until=until, destination=Destination.REPLAY, requested_at="", requested_by="")


def state(world: World) -> ReplayState | None:
    """Return what the owner reports of the replay."""
    found = world.control.records.get((True, f"{REPLAY}r-1"))
    return None if found is None else decode_record(ReplayState, found[0].value)


async def test_a_replay_ends_though_the_last_event_was_pushed_alone(build: Build) -> None:
    world = await build("alpha", prefill=5)
    world.control = MemoryControl()
    await world.replica()
    await world.published("alpha", range(1, 6))
    user = world.hub.user("alpha")
    user.emit(1)
    await world.published("alpha", range(1, 7))
    user.inject(Injection(PUSHED.replace("$SEQ", "7").encode(), history="no", sequence=7))
    await world.published("alpha", range(1, 8))

    await world.control.write(f"{REPLAY}r-1", encode_record(replay_until(7)), 0)
    await world.until(
        lambda: (current := state(world)) is not None and current.phase is Phase.COMPLETED, "it has ended"
    )
    replayed = [int(message.key) for message in world.messages("alpha") if message.topic == TOPIC]
    assert replayed == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("until", "phase", "detail"),
    [
        (9, Phase.FAILED, "the hub cannot return 5 to 6, not even alone. What is behind is replayed with since 6"),
        (5, Phase.FAILED, "the hub cannot return 5 to 6, not even alone. The rest is replayed"),
        (4, Phase.COMPLETED, None),  # it stands behind the range
    ],
)
async def test_a_replay_that_meets_an_event_not_given_ends_and_says_why(
    build: Build, monkeypatch: pytest.MonkeyPatch, until: int, phase: Phase, detail: str | None
) -> None:
    monkeypatch.setattr("gateway.replica.source.history_client.MAX_CALL_DELAY_S", 0.0)
    monkeypatch.setattr("gateway.replica.replay.job._MAX_RETRY_DELAY_S", 0.01)
    world = await build("alpha", prefill=9)
    world.control = MemoryControl()
    replica = await world.replica()
    await world.until(lambda: replica._shards.accounts["alpha"].lag.verified == 9, "all is final")
    world.hub.patch_faults("alpha", unservable=[5, 6])
    await world.control.write(f"{REPLAY}r-1", encode_record(replay_until(until)), 0)
    with structlog.testing.capture_logs() as logs:
        await world.until(lambda: (current := state(world)) is not None and current.phase.is_final, "it has ended")
    current = state(world)
    assert current is not None
    assert (current.phase, current.detail) == (phase, detail)
    assert [int(message.key) for message in world.messages("alpha") if message.topic == TOPIC] == [1, 2, 3, 4]
    assert not [entry for entry in logs if "account halted" in entry["event"]]


@pytest.mark.parametrize("incarnation", [1, UNSET])
async def test_a_replay_of_a_history_that_was_reset_since_publishes_nothing(
    build: Build, incarnation: int | UnsetType
) -> None:
    world = await build("alpha", prefill=9)
    world.control = MemoryControl()
    await world.replica()
    await world.published("alpha", range(1, 10))
    reset = Reset(incarnation=2, verified=9)
    await applied(world, await set_desired(world, Desired(state=TargetState.PAUSED, reset=reset)))
    wanted = replace(replay_until(9), incarnation=incarnation)  # of another replica, at the same moment
    await world.control.write(f"{REPLAY}r-1", encode_record(wanted), 0)
    await applied(world, await set_desired(world, Desired(reset=reset)))
    await world.until(lambda: (current := state(world)) is not None and current.phase.is_final, "it has ended")
    current = state(world)
    replayed = [int(message.key) for message in world.messages("alpha") if message.topic == TOPIC]
    assert current is not None
    if incarnation is UNSET:  # of a release that did not keep it
        assert (current.phase, replayed) == (Phase.COMPLETED, list(range(1, 10)))
    else:
        assert (current.phase, replayed) == (Phase.FAILED, [])
        assert "was reset since this was requested (incarnation 2, not 1)" in str(current.detail)
