"""The hub's memory without HTTP: what is shown, what is pushed, and every fault that bends either."""

import asyncio
import json
import time
from collections import Counter
from typing import Any

import pytest

from gateway.simulator.events import CALLBACKS
from gateway.simulator.faults import HEALTHY, Faults, FaultScope, Refusal
from gateway.simulator.hub import SimulatedHub
from gateway.simulator.user import Emission, Subscriber, User, emit_in_steps
from gateway.simulator.wire import Form, name_in


@pytest.fixture
def hub() -> SimulatedHub:
    return SimulatedHub({"demo": "key"}, strategies=(1, 2, 3), form=Form.CAMEL_INT, seed=7)


@pytest.fixture
def user(hub: SimulatedHub) -> User:
    return hub.users["demo"]


@pytest.fixture
def pushed(user: User) -> list[bytes]:
    """Everything that is pushed to a connection that subscribed to all strategies."""
    records: list[bytes] = []
    user.attach(Subscriber("all", records.append, {1, 2, 3}))
    return records


def payloads(records: list[bytes]) -> list[Any]:
    return [json.loads(record[:-1])["arguments"][0] for record in records]


def sequences(records: list[bytes]) -> list[Any]:
    return [payload.get("eventSeqId") for payload in payloads(records)]


def shown(user: User, since: int = 0, limit: int = 1000) -> list[int]:
    indices, _ = user.history.page(since, limit, user.faults, time.monotonic())
    return [user.history.sequences[index] for index in indices]


def test_events_are_numbered_from_one_without_holes(user: User, pushed: list[bytes]) -> None:
    user.emit(100)
    assert sequences(pushed) == shown(user) == list(range(1, 101))


def test_a_page_begins_after_the_given_sequence_and_says_if_there_is_more(user: User) -> None:
    user.emit(10)
    assert user.history.page(3, 4, HEALTHY, time.monotonic()) == ([3, 4, 5, 6], True)
    assert user.history.page(6, 4, HEALTHY, time.monotonic()) == ([6, 7, 8, 9], False)
    assert user.history.page(10, 4, HEALTHY, time.monotonic()) == ([], False)


def test_only_events_of_subscribed_strategies_and_of_none_are_pushed(user: User) -> None:
    records: list[bytes] = []
    user.attach(Subscriber("two", records.append, {2}))
    user.emit(500)

    found = Counter(payload.get("strategyId") for payload in payloads(records))
    assert set(found) == {2, None}
    assert found[None] == sum(b'"strategyId":null' in line or b'"OnAgent' in line for line in user.emitted())


def test_a_connection_without_a_subscription_gets_nothing(user: User) -> None:
    records: list[bytes] = []
    user.attach(Subscriber("none", records.append))
    user.emit(100)
    assert records == []


def test_only_the_wanted_kinds_are_emitted(user: User, pushed: list[bytes]) -> None:
    user.emit(50, [CALLBACKS.index("OnError")])
    assert all(b'"target":"OnError"' in record for record in pushed)


def test_dropped_pushes_are_in_the_history(user: User, pushed: list[bytes]) -> None:
    user.scope.patch({"drop": 0.5})
    user.emit(200)
    assert 50 < len(pushed) < 150
    assert shown(user) == list(range(1, 201))


def test_duplicated_pushes_come_twice(user: User, pushed: list[bytes]) -> None:
    user.scope.patch({"duplicate": 1})
    user.emit(3)
    assert sequences(pushed) == [1, 1, 2, 2, 3, 3]


async def test_reordered_pushes_all_come_out_of_order(user: User, pushed: list[bytes]) -> None:
    user.scope.patch({"reorder": 0.02})
    user.emit(100)
    async with asyncio.timeout(5):
        while len(pushed) < 100:
            user.tick(0.0)
            await asyncio.sleep(0)
    assert sequences(pushed) != list(range(1, 101))
    assert sorted(sequences(pushed)) == list(range(1, 101))


async def test_delayed_pushes_keep_their_order(user: User, pushed: list[bytes]) -> None:
    user.scope.patch({"delay": 0.01})
    user.emit(100)
    assert pushed == []
    async with asyncio.timeout(5):
        while len(pushed) < 100:
            user.tick(0.0)
            await asyncio.sleep(0)
    assert sequences(pushed) == list(range(1, 101))


@pytest.mark.parametrize("form", Form)
def test_a_live_push_may_lack_its_sequence_id_while_the_history_has_it(
    user: User, pushed: list[bytes], form: Form
) -> None:
    user.scope.patch({"sequence_missing": 1, "form": form})
    user.emit(20)
    assert all("eventseqid" not in {name.lower() for name in payload} for payload in payloads(pushed))
    assert [json.loads(line)["sequence"] for line in user.emitted()] == list(range(1, 21))


@pytest.mark.parametrize("form", Form)
def test_a_live_push_may_have_sequence_id_zero_and_nothing_else_changes(
    user: User, pushed: list[bytes], form: Form
) -> None:
    user.scope.patch({"sequence_zero": 1, "form": form})
    user.emit(20)
    name = name_in(form, "EventSeqId")
    truth = [json.loads(line)["payload"] for line in user.emitted()]
    assert payloads(pushed) == [{**payload, name: 0} for payload in truth]


def test_sequence_ids_may_be_sparse_but_rise(user: User) -> None:
    user.scope.patch({"sequence_step": 10})
    user.emit(100)
    numbers = shown(user)
    assert numbers == sorted(set(numbers))
    assert numbers[-1] > 200


def test_history_and_latest_may_lag_apart(user: User) -> None:
    user.emit(3)
    user.scope.patch({"history_lag": 60})
    assert shown(user) == []
    assert user.history.latest(user.faults, time.monotonic()) == 3
    user.scope.patch({"history_lag": None, "latest_lag": 60})
    assert shown(user) == [1, 2, 3]
    assert user.history.latest(user.faults, time.monotonic()) == 0
    assert user.history.latest(user.faults, time.monotonic() + 61) == 3


def test_stragglers_show_later_than_those_numbered_behind_them(user: User) -> None:
    user.scope.patch({"straggle": 0.3, "straggle_seconds": 60})
    user.emit(100)
    assert 40 < len(shown(user)) < 95
    indices, _ = user.history.page(0, 1000, HEALTHY, time.monotonic() + 61)
    assert len(indices) == 100


def test_what_is_past_its_retention_leaves_the_history_but_not_the_truth(user: User) -> None:
    user.emit(10)
    user.scope.patch({"forget_below": 8})
    assert shown(user) == [8, 9, 10]
    assert len(list(user.emitted())) == 10


def test_a_reset_begins_a_new_history_of_other_events_with_the_old_numbers(user: User) -> None:
    user.emit(5)
    user.reset()
    user.emit(3)
    before = [json.loads(line) for line in user.emitted(0)]
    after = [json.loads(line) for line in user.emitted()]
    assert [event["sequence"] for event in after] == shown(user) == [1, 2, 3]
    assert not {event["payload"]["eventId"] for event in before} & {event["payload"]["eventId"] for event in after}


def test_a_rate_gives_its_number_of_events_and_stops_at_its_total(user: User) -> None:
    user.begin(Emission(rate=1000, remaining=55))
    for _ in range(5):
        user.tick(0.01)
    assert len(user.history) == 50
    user.tick(0.01)
    user.tick(0.01)
    assert len(user.history) == 55


def test_a_paused_user_emits_nothing_at_its_rate(hub: SimulatedHub, user: User) -> None:
    user.begin(Emission(rate=1000, remaining=None))
    user.paused = True
    hub.tick(1.0)
    user.paused = False
    hub.tick(0.01)
    assert len(user.history) == 10


async def test_a_history_of_100_000_events_takes_seconds_and_lies_in_the_past(user: User) -> None:
    began = time.process_time()
    await emit_in_steps(user, 100_000, spread=0.01)
    assert time.process_time() - began < 5
    assert len(user.history) == 100_000
    times = [json.loads(line)["payload"]["eventTime"] for line in user.emitted(since=98_990, limit=20)]
    assert times == sorted(times)


def test_who_connects_may_be_told_which_signals_and_errors_are_on(user: User) -> None:
    user.scope.patch({"active_signals": True})
    user.emit(300)
    records: list[bytes] = []
    user.attach(Subscriber("new", records.append))
    assert records
    assert all(payload["state"] == 1 for payload in payloads(records))


def test_a_user_has_the_hubs_faults_and_its_own_over_them(hub: SimulatedHub, user: User) -> None:
    hub.scope.patch({"drop": 0.1, "delay": 1})
    user.scope.patch({"drop": 0.2})
    assert user.faults == Faults(drop=0.2, delay=1)
    user.scope.clear()
    assert user.faults == Faults(drop=0.1, delay=1)
    hub.scope.patch({"delay": None})
    assert user.faults == Faults(drop=0.1)


@pytest.mark.parametrize("changes", [{"dorp": 1}, {"drop": 2}, {"drop": "often"}, {"form": "xml"}, {"slow": {"x": -1}}])
def test_what_is_no_fault_is_refused_and_changes_nothing(changes: dict[str, object]) -> None:
    scope = FaultScope()
    with pytest.raises(ValueError, match=r"."):
        scope.patch({"delay": 1, **changes})
    assert scope.faults == HEALTHY


def test_a_refusal_ends_after_its_count_and_after_its_time() -> None:
    counted, timed = Refusal(503, count=2), Refusal(503, until=10.0, at="upgrade")
    assert [counted.takes("negotiate", 0.0) for _ in range(3)] == [True, True, False]
    assert not timed.takes("negotiate", 9.0)
    assert timed.takes("upgrade", 9.0)
    assert not timed.takes("upgrade", 10.0)
