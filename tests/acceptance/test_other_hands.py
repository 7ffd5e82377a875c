"""Somebody edits or deletes streams in use: no sound message is dead-lettered, and people hear of it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest

from tests.support.control_client import Control, control_of, put
from tests.support.gateway_process import House, Process, house, until

EVENTS = "mesolive-gateway"


def lines(gateway: Process, text: str) -> list[dict[str, Any]]:
    """Return what the gateway logged that has these words in it."""
    return [line for line in gateway.lines() if text in json.dumps(line)]


async def last_errors(control: Control) -> list[str | None]:
    return [account["observed"]["last_error"] for account in (await control.accounts()).values()]


async def stand_still(control: Control, names: Sequence[str]) -> None:
    """Wait until these accounts stand still, and say why."""

    async def do() -> bool:
        answer = await control.ask("GET /v1/accounts")
        accounts = answer.body["items"] if answer.status == 200 else []
        observed = [one["observed"] for one in accounts if one["observed"]]
        return len(observed) == len(names) and all(one["state"] == "diverged" and one["last_error"] for one in observed)

    await until(do, "the accounts stand still, loudly")


@pytest.mark.parametrize(
    ("setting", "wrong", "right", "remedy"),
    [
        ("allow_atomic", False, True, "set allow_atomic to true"),
        ("max_msg_size", 600, -1, "set max_msg_size to 148480 or more"),
    ],
)
async def test_a_setting_changed_for_a_while_buries_nothing_and_says_what_to_set(
    tmp_path: Path, setting: str, wrong: object, right: object, remedy: str
) -> None:
    async with house(tmp_path, accounts=4) as here:
        gateway = await here.gateway()
        control = await control_of(gateway, here.http)
        await control.ready()
        await here.emit(100, 20)
        await here.acknowledged(50)
        await here.edit_stream(**{setting: wrong})
        await until(lambda: len(lines(gateway, remedy)) > 0, "it is told")

        async def all_report_it() -> bool:
            return all(setting in (error or "") for error in await last_errors(control))

        await until(all_report_it, "the accounts say why they stand still")

        async def is_not_ready() -> bool:
            return await control.probe("/readyz") == 503

        await until(is_not_ready, "the gateway says that it is not ready")
        await asyncio.sleep(12)  # as long as a message that is refused alone waits for its burial
        await here.edit_stream(**{setting: right})
        await here.settled(100)

        async def is_well() -> bool:
            return await control.probe("/readyz") == 200 and await last_errors(control) == [None] * 4

        await until(is_well, "all is well again")
        verdict = await here.verdict()
        logged = [line for line in gateway.lines() if line["level"] in {"error", "warning"}]

    assert verdict.faults == {}
    assert (verdict.emitted, verdict.found) == (400, 400)
    assert len(logged) < 20, "not thousands of lines"


@asynccontextmanager
async def settled_scene(folder: Path) -> AsyncIterator[tuple[House, Process, Control]]:
    """Yield a gateway that has published 20 events of each of two accounts, and its control plane."""
    async with house(folder, accounts=2) as here:
        gateway = await here.gateway()
        control = await control_of(gateway, here.http)
        await control.ready()
        await here.emit(20, 20)
        await here.settled(20)
        yield here, gateway, control


async def test_a_deleted_stream_is_made_again_and_its_accounts_stop_and_say_so(tmp_path: Path) -> None:
    async with settled_scene(tmp_path) as (here, gateway, control):
        client = await nats.connect(here.server.url)
        await client.jetstream().delete_stream(EVENTS)
        await client.close()
        await here.emit(20, 20)

        await stand_still(control, here.accounts)
        assert lines(gateway, "reset it, from the sequence")
        assert await control.probe("/readyz") == 200


async def test_an_empty_server_is_furnished_and_its_accounts_stop_and_say_so(
    tmp_path: Path,
) -> None:
    async with settled_scene(tmp_path) as (here, gateway, control):
        here.server.kill()
        shutil.rmtree(here.server.folder)
        await asyncio.to_thread(here.server.start)
        await here.emit(20, 20)

        await stand_still(control, here.accounts)
        assert await control.probe("/readyz") == 200
        logged = [line for line in gateway.lines() if line["level"] in {"error", "warning"}]
    assert len(logged) < 60


async def test_a_deleted_control_stream_is_made_again_and_names_the_paused(tmp_path: Path) -> None:
    async with settled_scene(tmp_path) as (here, gateway, control):
        await put(control, here.accounts[0], "paused")
        client = await nats.connect(here.server.url)
        await client.jetstream().delete_stream(f"{EVENTS}-control")
        await client.close()
        await here.emit(20, 20)

        async def takes_changes() -> bool:
            answer = await control.ask(f"PUT /v1/accounts/{here.accounts[1]}/target-state", json={"state": "running"})
            return answer.status in {200, 202}

        await until(takes_changes, "the control plane takes changes again")
        text = "the last changes may have to be repeated for"
        await until(lambda: here.accounts[0] in str(lines(gateway, text)), "who was paused is named")
        await here.settled(40)
        verdict = await here.verdict()
    assert verdict.faults == {}
