"""A replay up to the newest event ends, also where the hub's history never shows that one."""

from __future__ import annotations

from gateway.broker.memory.control import MemoryControl
from gateway.publication import REPLAY as TOPIC
from gateway.simulator import Injection
from gateway.state import REPLAY, Destination, Phase, Replay, ReplayState, decode_record, encode_record
from tests.support.in_process import Build

PUSHED = (
    '{"OrderId":7,"StrategyId":1,"StrategyName":"S","State":1,"FilledQty":null,"RemainingQty":null,"FillPrice":null,'
    '"AvgFillPrice":null,"EventId":"$ID","EventSeqId":$SEQ,"EventTime":"2026-01-01T00:00:00Z"}'
)


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

    wanted = Replay(account="alpha", until=7, destination=Destination.REPLAY, requested_at="", requested_by="")
    await world.control.write(f"{REPLAY}r-1", encode_record(wanted), 0)

    def state() -> ReplayState | None:
        found = world.control.records.get((True, f"{REPLAY}r-1"))
        return None if found is None else decode_record(ReplayState, found[0].value)

    await world.until(lambda: (said := state()) is not None and said.phase is Phase.COMPLETED, "it has ended")
    replayed = [int(message.key) for message in world.messages("alpha") if message.topic == TOPIC]
    assert replayed == [1, 2, 3, 4, 5, 6]
