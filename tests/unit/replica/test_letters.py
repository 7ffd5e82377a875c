"""A hub that sends garbage does not fill the broker: the account stands still, loudly, and loses nothing."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.broker.control_view import VersionedDesired
from gateway.errors import TooManyDeadLetters
from gateway.publication import DEAD_LETTER
from gateway.replica.source.account import Account, AccountState
from gateway.replica.source.dead_letter_limit import DeadLetterLimit
from gateway.simulator import Injection
from gateway.state import Desired
from tests.support.in_process import Build, World

MOST = 10


def test_more_than_allowed_within_a_minute_is_too_many() -> None:
    limit = DeadLetterLimit(3)
    limit.count(2, 0, 100.0)
    limit.count(1, 0, 159.0)
    limit.count(3, 0, 160.0)
    with pytest.raises(TooManyDeadLetters, match="4 dead letters within a minute") as error:
        limit.count(1, 0, 170.0)
    assert error.value.remaining == 50.0


def test_those_waiting_for_history_count_until_queued_or_discarded() -> None:
    limit = DeadLetterLimit(3)
    limit.count(0, 3, 100.0)
    limit.none_waits()
    limit.count(3, 0, 100.0)
    with pytest.raises(TooManyDeadLetters):
        limit.count(0, 1, 100.0)


def test_an_operator_lets_it_go_on() -> None:
    limit = DeadLetterLimit(3)
    limit.count(3, 0, 100.0)
    limit.restart()
    limit.count(3, 0, 101.0)


def letters(world: World) -> int:
    return sum(message.topic == DEAD_LETTER for message in world.messages("alpha"))


def events(world: World) -> list[int]:
    return [int(message.key) for message in world.messages("alpha") if message.topic != DEAD_LETTER]


@pytest.mark.parametrize("kind", ["records", "targets", "history"])
async def test_an_account_stands_still_and_goes_on_there_when_an_operator_asks(build: Build, kind: str) -> None:
    world = await build("alpha", "beta", prefill=3)
    replica = await world.replica(max_dead_letters_per_minute=MOST, page_limit=5)
    account: Account = replica._shards.accounts["alpha"]
    for name in ("alpha", "beta"):
        await world.becomes(name, AccountState.LIVE)
    user = world.hub.user("alpha")
    bad = {
        "records": Injection(b'{"no":"record"}', is_record=True, numbered=False),
        "targets": Injection(b'{"no":1}', callback="OnNothing", numbered=False),
        "history": Injection(b'{"EventSeqId":$SEQUENCE}', push=False, history="payload"),
    }[kind]

    with capture_logs() as logs:
        for number in range(3 * MOST):
            user.inject(Injection(bad.raw.replace(b"no", b"no%d" % number), *_rest(bad)))
        user.emit(2)
        await world.until(lambda: account.counters.disconnects["dead-letters"] == 1, "account halted")
        world.hub.user("beta").emit(2)
        await world.published("beta", range(1, 6))
    assert MOST < letters(world) <= MOST + 5
    assert "hub.max_dead_letters_per_minute is 10" in (account.last_error or "")
    (line,) = [line for line in logs if line["event"] == "account halted: too many dead letters"]
    assert (line["log_level"], line["unread"] >= 0) == ("error", True)
    assert account.counters.connects == 1

    for asked in range(1, 4):
        account.set_desired(VersionedDesired(Desired(reconnects=asked), asked))
        await world.until(lambda: account.counters.connects > asked, "it connects again")  # noqa: B023 - awaited here
        if kind != "history":
            break
        stops = asked + 1
        done = lambda: letters(world) == 3 * MOST or account.counters.disconnects["dead-letters"] == stops  # noqa: B023, E731
        await world.until(done, "it went on, and stands still again or is through")
    sound = user.history.sequences[-2:]
    await world.until(lambda: set(sound) <= set(events(world)), "what came behind is published")
    assert events(world) == sorted(set(events(world)))
    if kind == "history":
        await world.until(lambda: letters(world) == 3 * MOST, "each is a dead letter")


async def test_garbage_of_a_connection_with_unproven_history_is_told_as_lost(build: Build) -> None:
    world = await build("alpha", prefill=3)
    world.hub.patch_faults("alpha", slow={"GetLatestEventSeqId": 600.0})
    replica = await world.replica()
    account: Account = replica._shards.accounts["alpha"]
    await world.until(lambda: account.session is not None and account.link.is_up, "it is connected")
    await world.until(lambda: world.hub.user("alpha").counts["SubscribeToStrategies"] > 0, "it is subscribed")
    with capture_logs() as logs:
        for number in range(3):
            world.hub.user("alpha").inject(Injection(b'{"no":%d}' % number, is_record=True, numbered=False))
        await world.until(lambda: account.link.pushes == 3, "they came")
        account.release("the test says so")
        await world.until(lambda: account.counters.disconnects["released"] == 1, "the connection ends")
    lost = [line for line in logs if "are lost: no room" in line["event"]]
    assert [(line["log_level"], line["count"]) for line in lost] == [("error", 3)]
    world.hub.patch_faults("alpha", slow={})


def _rest(bad: Injection) -> tuple[Any, ...]:
    return bad.callback, bad.is_record, bad.push, bad.history, bad.sequence, bad.numbered
