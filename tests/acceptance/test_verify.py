"""`gateway verify` after what operators do every day: a change of the subscription, and a reset."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.control_client import control_of, put
from tests.support.gateway_process import until
from tests.support.replay_client import Scene, Scenes, at_work


async def verified(scene: Scene, *options: str) -> tuple[int, str]:
    """Run `gateway verify`, and return its exit code and what it said; it waits for nothing but what is lost."""
    running = await scene.start("verify", "--wait", "600", *options)
    return await running.ended(), running.stdout


@pytest.mark.timeout(300)
async def test_what_is_not_subscribed_or_of_an_older_incarnation_is_no_fault(broker: Scenes, tmp_path: Path) -> None:
    async with broker(tmp_path, 1) as scene, at_work(scene, events=100) as control:
        (account,) = scene.accounts
        await scene.ask(f"PATCH /users/{account}/faults", max_events_limit=70)  # fewer than verify asks for at first
        subscription = f"/v1/accounts/{account}/subscription"
        answer = await control.ask(f"PUT {subscription}", json={"strategies": [1, 2]})
        assert (answer.status, answer.body["is_applied"]) == (200, True), answer
        await scene.ask(f"POST /users/{account}/emit", count=100)
        unwanted = [
            event.sequence
            for event in (await scene.truth())[account]
            if event.sequence > 100 and any(f'"strategyId":{other},' in event.payload for other in (3, 4, 5))
        ]
        assert len(unwanted) > 20
        of_all = f"{account}: exact: {200 - len(unwanted)} of 200 events once and in order"
        code, output = await verified(scene)
        assert code == 0, output
        assert f"{of_all}; {len(unwanted)} more are not subscribed" in output

        await put(control, account, "paused")
        answer = await control.ask(f"DELETE {subscription}")  # is not in force while the account is paused
        assert answer.status in {200, 202}, answer
        checkpoint = f"/v1/accounts/{account}/checkpoint"
        seen = (await control.ask(f"GET {checkpoint}")).headers["ETag"]
        answer = await control.ask(f"PUT {checkpoint}", json={"verified": 40}, If_Match=seen)
        assert answer.status in {200, 202}, answer
        await put(control, account, "running")
        code, output = await verified(scene)
        assert code == 0, output
        assert f"{account}: exact: 160 of 160 events once and in order" in output  # what is wanted then holds

        code, output = await verified(scene, "--incarnation", "1")
        assert code == 0, output
        assert of_all in output
        code, output = await verified(scene, "--incarnation", "1", "--strategies", "1")
        assert code == 1, output
        assert "which was not subscribed" in output


async def test_a_subscription_that_was_there_before_the_account_is_known(broker: Scenes, tmp_path: Path) -> None:
    async with broker(tmp_path, 1) as scene:
        (account,) = scene.accounts
        key = scene.folder / "accounts" / account
        kept = key.read_text()
        key.write_text("not-the-key")  # it cannot begin yet
        control = await control_of(await scene.gateway(), scene.http)
        await control.ready()

        async def is_known() -> bool:
            return account in await control.accounts()

        await until(is_known, "the API has heard of the account")
        answer = await control.ask(f"PUT /v1/accounts/{account}/subscription", json={"strategies": [1]})
        key.write_text(kept)
        await scene.ask(f"POST /users/{account}/emit", count=100)
        assert answer.status in {200, 202}, answer
        await control.live(scene.accounts)
        code, output = await verified(scene)
        assert code == 0, output
        assert "more are not subscribed" in output
