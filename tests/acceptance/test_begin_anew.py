"""Accounts that operators let begin anew or take away for good, on real brokers, as a script would do it."""

from __future__ import annotations

import json
import logging
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.checker import Found
from tests.support.control_client import Control, control_of, put
from tests.support.gateway_process import until
from tests.support.metrics_client import metrics_of
from tests.support.replay_client import Scene, Scenes, at_work, sequences

log = logging.getLogger(__name__)


async def one_of(control: Control, account: str) -> dict[str, Any]:
    found: dict[str, Any] = (await control.ask(f"GET /v1/accounts/{account}")).body
    return found


async def of_account(scene: Scene, account: str) -> list[Found]:
    return [one for one in await scene.log() if one.subject.endswith(f".{account}")]


async def further(scene: Scene, account: str, count: int) -> list[Found]:
    """Wait until the log holds so many events of the account."""
    found: list[Found] = []

    async def is_so() -> bool:
        nonlocal found
        found = [one for one in await of_account(scene, account) if ".notifications." not in one.subject]
        return len(found) >= count

    await until(is_so, f"the log has {count} events of {account}")
    assert len(found) == count
    return found


@pytest.mark.timeout(300)
async def test_a_history_that_began_anew_goes_on_once_an_operator_says_so(broker: Scenes, tmp_path: Path) -> None:
    async with broker(tmp_path, 2) as scene, at_work(scene, events=100) as control:
        one, two = scene.accounts
        checkpoint = f"/v1/accounts/{one}/checkpoint"
        await scene.ask(f"POST /users/{one}/reset", first=1)
        await scene.ask("POST /drop", how="cut")
        await scene.ask(f"POST /users/{one}/emit", count=30)

        async def stands_still() -> bool:
            return bool((await one_of(control, one))["observed"]["state"] == "diverged")

        await until(stands_still, "account halted")
        assert "reset the checkpoint" in (await one_of(control, one))["observed"]["last_error"]
        seen = (await control.ask(f"GET {checkpoint}")).headers["ETag"]
        answer = await control.ask(f"PUT {checkpoint}", json={"verified": 0}, If_Match=seen)
        assert answer.problem == "not-paused"
        await put(control, one, "paused")
        other = await control_of(await scene.gateway(), scene.http)  # which may own it, or not
        await other.ready()
        answer = await other.ask(f"PUT {checkpoint}", json={"verified": 0}, If_Match='"1-99"')
        assert (answer.status, answer.headers["ETag"]) == (412, seen)
        answer = await other.ask(f"PUT {checkpoint}", json={"verified": 0}, If_Match=seen)
        assert answer.status in {200, 202}, answer
        assert answer.headers["ETag"] == '"2-0"'

        async def is_set() -> bool:
            return (await other.ask(f"GET {checkpoint}")).headers["ETag"] == '"2-0"'

        await until(is_set, "the checkpoint is set")
        control.running.kill()
        await put_again(other, one)
        found = await further(scene, one, 130)
        assert sorted(sequences(found)) == sorted([*range(1, 101), *range(1, 31)])
        anew = [one for one in found if one.headers["ce-incarnation"] == "2"]
        assert sorted(sequences(anew)) == list(range(1, 31))
        assert {one.headers["ce-incarnation"] for one in found} == {"1", "2"}
        notifications = [one for one in await of_account(scene, one) if ".notifications." in one.subject]
        bodies = [json.loads(one.value) for one in notifications]
        assert [(one["Incarnation"], one["SinceSeqId"]) for one in bodies if one["Type"] == "checkpoint-reset"] == [
            (2, 0)
        ]
        assert len(await further(scene, two, 100)) == 100


async def put_again(control: Control, account: str) -> None:
    """Let it run, once its heir is there."""

    async def runs() -> bool:
        answer = await control.ask(f"PUT /v1/accounts/{account}/target-state", json={"state": "running"})
        return bool(answer.status == 200 and answer.body["is_applied"])

    await until(runs, f"{account} runs")


@pytest.mark.timeout(300)
async def test_an_account_is_taken_away_for_good_and_comes_again_as_a_new_one(broker: Scenes, tmp_path: Path) -> None:
    async with broker(tmp_path, 3) as scene, at_work(scene, events=100) as control:
        paused, goes, stays = scene.accounts
        await put(control, paused, "paused")
        answer = await control.ask(f"DELETE /v1/accounts/{paused}")
        assert answer.status in {200, 202}, answer

        async def is_forgotten() -> bool:
            body = (await control.ask(f"GET /v1/accounts/{paused}/checkpoint")).body
            return body["verified"] is None

        await until(is_forgotten, "checkpoint deleted")
        await put(control, paused, "running")
        assert sorted(sequences(await further(scene, paused, 200))) == sorted([*range(1, 101)] * 2)

        (tmp_path / "accounts" / goes).unlink()

        async def has_no_key() -> bool:
            return bool((await one_of(control, goes))["observed"]["state"] == "key_missing")

        await until(has_no_key, "its key is missed")
        answer = await control.ask(f"DELETE /v1/accounts/{goes}")
        assert answer.status in {200, 202}, answer

        async def is_gone() -> bool:
            return (await control.ask(f"GET /v1/accounts/{goes}")).problem == "unknown-account"

        await until(is_gone, "nothing is left of it")
        control.running.kill()
        again = await control_of(await scene.gateway(), scene.http)
        await again.ready()
        await again.live([paused, stays])
        assert goes not in await again.accounts()
        (tmp_path / "accounts" / goes).write_text(f"key-of-{goes}\n")
        await again.live([goes])
        await further(scene, goes, 200)
        assert len(await further(scene, stays, 100)) == 100
        assert "account halted" not in again.running.stderr


@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["ends", "dies"])
async def test_an_account_whose_only_key_holder_leaves_is_shown_and_told_of_soon(
    broker: Scenes, tmp_path: Path, number: signal.Signals
) -> None:
    async with broker(tmp_path, 2) as scene, at_work(scene, events=100) as holder:
        (tmp_path / "none").mkdir()
        running = await scene.gateway(env={"GATEWAY_ACCOUNTS__DIRECTORY": str(tmp_path / "none")})
        other, metrics = await control_of(running, scene.http), await metrics_of(running, scene.http)
        await other.ready()
        began = time.monotonic()
        holder.running.signal(number)

        async def are_shown() -> bool:
            found = await other.accounts()
            return [one["observed"]["state"] for one in found.values()] == ["key_missing"] * 2

        await until(are_shown, "both are shown without a key")
        await metrics.until(lambda now: now["accounts", "key_missing"] == 2, "alerts see them")
        log.info("shown after %.1f s", time.monotonic() - began)  # 15 at the most, where nothing else runs
