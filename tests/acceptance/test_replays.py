"""Replays on real brokers: each event of the range once, whoever dies meanwhile, and nothing else moves."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from tests.support.checker import judge
from tests.support.control_client import Control, control_of
from tests.support.gateway_process import GATEWAY, house, process, until
from tests.support.kafka_cluster import Place
from tests.support.replay_client import (
    EVENTS,
    Scenes,
    apart,
    asked,
    at_work,
    ended,
    is_exact,
    of,
    same_as_live,
    sequences,
    shown,
)

log = logging.getLogger(__name__)


def by_kind(messages: list[Any]) -> list[list[int]]:
    """Return the sequences of each topic in its order: Kafka has no order over topics."""
    found: dict[str, list[int]] = {}
    for message in messages:
        found.setdefault(message.subject, []).append(int(message.headers["ce-sequence"]))
    return list(found.values())


def subjects(messages: list[Any]) -> set[str]:
    """Return where messages are."""
    return {message.subject for message in messages}


@pytest.mark.timeout(300)
async def test_a_range_is_published_again_once_beside_what_is_new(each_broker: Scenes, tmp_path: Path) -> None:
    async with each_broker(tmp_path, 2) as scene, at_work(scene) as control:
        await scene.emit(400, 100)
        one, two = scene.accounts
        whole = await asked(control, one)
        part = await asked(control, two, since=500, until=700)
        kinds = await asked(control, two, since=100, until=1100, kinds=["order-update", "error"], destination="topics")
        for id_ in (whole, part, kinds):
            assert (await ended(control, id_))["progress"]["fraction"] == 1.0
        await scene.settled(EVENTS + 400)
        live, replayed = apart(await scene.log())
        truth = await scene.truth()
        assert judge(truth, live, by_kind=isinstance(scene, Place)).faults == {}
        upto = (await shown(control, whole))["until"]
        assert sorted(sequences(replayed[whole])) == of(truth[one], 0, upto)
        assert sequences(replayed[part]) == of(truth[two], 500, 700)
        wanted = [event.sequence for event in truth[two] if event.callback in {"OnOrderUpdate", "OnError"}]
        assert sorted(sequences(replayed[kinds])) == [one for one in sorted(wanted) if 100 < one <= 1100]
        assert all(topic == sorted(topic) for id_ in (whole, kinds) for topic in by_kind(replayed[id_]))
        assert subjects(replayed[whole]) == {f"mesolive.events.replay.v1.{one}"}
        assert subjects(replayed[part]) == {f"mesolive.events.replay.v1.{two}"}
        assert subjects(replayed[kinds]) == {f"mesolive.events.{kind}.v1.{two}" for kind in ("order-update", "error")}
        same_as_live(replayed[whole], live, one)
        same_as_live([*replayed[part], *replayed[kinds]], live, two)


@pytest.mark.timeout(300)
async def test_each_event_comes_once_however_often_its_owner_is_killed(each_broker: Scenes, tmp_path: Path) -> None:
    async with each_broker(tmp_path, 4) as scene, at_work(scene, rate=300) as first:
        await scene.emit(1_000, 25)
        account = scene.accounts[0]
        alive = {first.running.popen.pid: first}
        for _ in range(2):
            other = await control_of(await scene.gateway(), scene.http)
            await other.ready()
            alive[other.running.popen.pid] = other
        id_ = await asked(first, account, key="once")
        position = 0
        while len(alive) > 1:
            owner = await further(next(iter(alive.values())), id_, position, alive)
            victim = alive.pop(owner)
            await until(lambda owner=owner: scene.in_flight(owner) > 0, "a commit is in flight")  # type: ignore[misc]
            victim.running.kill()
            last = next(iter(alive.values()))
            position = (await shown(last, id_))["progress"]["position"]
        assert await asked(last, account, key="once") == id_
        found = await ended(last, id_)
        await scene.settled(EVENTS + 1_000)
        replayed = await is_exact(scene)
        log.info("%s", found)
        assert sorted(sequences(replayed[id_])) == of((await scene.truth())[account], 0, found["until"])
        assert found["progress"]["published"] == found["progress"]["read"] == len(replayed[id_])


async def further(control: Control, id_: str, position: int, alive: Collection[int] | None = None) -> int:
    """Wait until a replay has gone on from `position`, by one of these; give its owner's process."""

    async def is_so() -> bool:
        found = await shown(control, id_)
        assert found["state"] in {"pending", "running"}, found
        if (found["progress"]["position"] or 0) <= position or (found["age_seconds"] or 9) >= 2:
            return False
        owners.append(int(found["owner"].rpartition("/")[2]))
        return alive is None or owners[-1] in alive

    owners: list[int] = []
    await until(is_so, f"replay {id_} goes on from {position}")
    return owners[-1]


async def test_an_owner_that_froze_in_a_replay_does_not_show_it_running_again(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=1) as here, at_work(here, rate=500) as first:
        id_ = await asked(first, here.accounts[0])
        await further(first, id_, 0)
        first.running.freeze()
        heir = await control_of(await here.gateway(), here.http)
        await heir.ready()
        found = await ended(heir, id_)
        assert found["owner"].endswith(f"/{heir.running.popen.pid}")
        await ended(first, id_)  # its control plane is a process of its own, and hears of it at a time of its own
        first.running.thaw()
        states: set[str] = set()
        for _ in range(50):  # a look each second, until it hears that its shards are another's
            states |= {(await shown(control, id_))["state"] for control in (first, heir)}
            await asyncio.sleep(0.1)
        assert states == {"completed"}
        late = await control_of(await here.gateway(), here.http)
        await late.ready()
        assert (await shown(late, id_))["state"] == "completed"
        assert sequences((await is_exact(here))[id_]) == list(range(1, EVENTS + 1))


async def test_an_answer_of_the_broker_that_is_lost_repeats_nothing(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=1) as here, at_work(here, rate=500) as control:
        id_ = await asked(control, here.accounts[0])
        await further(control, id_, 0)
        for _ in range(3):
            await here.wire.strike("unanswered", here.wire.cut)
        await ended(control, id_)
        replayed = await is_exact(here)
        assert sequences(replayed[id_]) == list(range(1, EVENTS + 1))


async def test_what_the_hub_no_longer_has_ends_it_in_words(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=2) as here, at_work(here, rate=500) as control:
        one, two = here.accounts
        whole = await asked(control, two)
        await further(control, whole, 0)
        for account in (one, two):
            await here.ask(f"PATCH /users/{account}/faults", forget_below=2_000)
        gone = await asked(control, one, since=100, until=2_500)  # what is gone is looked for again, for a while
        before = await asked(control, one, until=1_500)
        there = await asked(control, one, since=1999, until=2_500)
        rest = await asked(control, one, until=2_500)  # without a beginning it takes what there is
        found = await ended(control, gone, "failed")
        assert "begins with event 2000: it has no longer 101 to 1999" in found["detail"], found
        assert "with since 1999" in found["detail"]
        found = await ended(control, before, "failed")
        assert "begins with event 2000, and the range ends with 1500" in found["detail"]
        await ended(control, there)
        assert (await ended(control, rest))["progress"]["published"] == 501
        found = await ended(control, whole, "failed")  # it was under way
        assert f"it has no longer {found['progress']['position'] + 1} to 1999" in found["detail"]
        replayed = await is_exact(here)
        assert sequences(replayed[whole]) == list(range(1, found["progress"]["position"] + 1))


async def test_one_is_cancelled_where_it_is_and_others_wait_their_turn(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=1) as here:
        text = here.config.read_text() + "replays: {events_per_second: 200, max_running: 1}\n"
        here.config.write_text(text)
        async with at_work(here) as control:
            account = here.accounts[0]
            first, second = await asked(control, account), await asked(control, account, until=50)
            await further(control, first, 0)
            waits = await shown(control, second)
            assert (waits["state"], waits["detail"]) == ("pending", "other replays go first")
            answer = await control.ask(f"POST /v1/replays/{first}/cancel")
            assert (answer.status, answer.body["state"]) == (200, "cancelled")
            await ended(control, second)
            replayed = await is_exact(here)
            assert sequences(replayed[first]) == list(range(1, answer.body["progress"]["published"] + 1))
            assert sequences(replayed[second]) == list(range(1, 51))


async def test_it_waits_for_an_account_that_is_paused_and_for_what_is_final(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=1) as here, at_work(here) as control:
        account = here.accounts[0]
        target = f"PUT /v1/accounts/{account}/target-state"
        await control.ask(target, json={"state": "paused"})
        id_ = await asked(control, account, until=10)

        async def is_reported() -> bool:
            return (await shown(control, id_))["detail"] == "the account is paused: it goes on when that is live"

        await until(is_reported, "it says what it waits for")
        await control.ask(target, json={"state": "running"})
        await ended(control, id_)


async def test_the_command_asks_watches_lists_and_cancels(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=1) as here, at_work(here, rate=50) as control:
        account = here.accounts[0]
        at = ("--url", control.url)

        async def gateway(*arguments: str) -> tuple[int, str, str]:
            command = [str(GATEWAY), "replay", *arguments, *at]
            async with process(tmp_path, *command, name=f"replay-{len(here.gateways)}-{hash(arguments)}") as running:
                code = await asyncio.to_thread(running.popen.wait, 60)
                return code, running.stdout, running.stderr

        code, output, _ = await gateway(
            "start", account, "--until", "60", "--kind", "order-update", "--destination", "topics", "--json"
        )
        found = json.loads(output)
        assert (code, found["state"], found["kinds"]) == (0, "completed", ["order-update"])
        code, output, _ = await gateway("start", account, "--detach", "--key", "k")
        again = await gateway("start", account, "--detach", "--key", "k", "--json")
        id_ = json.loads(again[1])["id"]
        assert id_ in output
        code, output, _ = await gateway("cancel", id_)
        assert (code, "cancelled" in output) == (0, True)
        assert (await gateway("watch", id_))[0] == 1
        code, output, _ = await gateway("list")
        assert (code, output.count("cancelled"), output.count("completed")) == (0, 1, 1)
        verifying = await here.start("verify")  # which leaves out what is published again
        assert await asyncio.to_thread(verifying.popen.wait, 60) == 0, verifying.stdout
        code, _, stderr = await gateway("start", account, "--kind", "order-updates")
        assert (code, stderr.count("\n")) == (2, 1)
        assert "did you mean order-update?" in stderr
        code, _, stderr = await gateway("watch", "0" * 32)
        assert (code, "There is no replay" in stderr) == (2, True)
