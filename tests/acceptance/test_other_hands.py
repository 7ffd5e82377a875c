"""Somebody edits or deletes the streams while the gateway works: nothing innocent is buried, and people hear of it."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import nats
from nats.js.api import StreamConfig

from tests.acceptance.control import Control, control_of
from tests.acceptance.processes import House, Process, house, until

EVENTS = "mesolive-gateway"


async def edit(here: House, stream: str, **settings: Any) -> None:  # noqa: ANN401 - the stream's own
    """Change settings of a stream, as `nats stream edit` does."""
    client = await nats.connect(here.server.url)
    try:
        jetstream = client.jetstream()
        config: StreamConfig = (await jetstream.stream_info(stream)).config
        body = json.dumps(config.as_dict() | settings).encode()
        answer = json.loads((await client.request(f"$JS.API.STREAM.UPDATE.{stream}", body)).data)
        assert "error" not in answer, answer
    finally:
        await client.close()


def lines(gateway: Process, words: str) -> list[dict[str, Any]]:
    """Give what the gateway logged that has these words in it."""
    return [line for line in gateway.lines() if words in json.dumps(line)]


async def last_errors(control: Control) -> list[str | None]:
    answer = await control.ask("GET /v1/accounts")
    assert answer.status == 200, answer.body
    return [account["observed"]["last_error"] for account in answer.body["items"]]


async def test_a_setting_that_is_changed_for_a_while_buries_nothing_and_says_what_to_set(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=4) as here:
        gateway = await here.gateway()
        control = await control_of(gateway, here.http)
        await control.ready()
        await here.emit(100, 20)
        await here.acknowledged(50)
        await edit(here, EVENTS, allow_atomic=False)
        await until(lambda: len(lines(gateway, "set allow_atomic to true")) > 0, "it is told")

        async def all_say_so() -> bool:
            return all("allow_atomic" in (error or "") for error in await last_errors(control))

        await until(all_say_so, "the accounts say why they stand still")
        assert await control.probe("/readyz") == 503
        await asyncio.sleep(12)  # as long as a message that is refused alone waits for its burial
        await edit(here, EVENTS, allow_atomic=True)
        await here.settled(100)

        async def is_well() -> bool:
            return await control.probe("/readyz") == 200 and await last_errors(control) == [None] * 4

        await until(is_well, "all is well again")
        verdict = await here.verdict()
        told = [line for line in gateway.lines() if line["level"] in {"error", "warning"}]

    assert verdict.faults == {}
    assert (verdict.emitted, verdict.found) == (400, 400)
    assert len(told) < 20, "not thousands of lines"


async def test_a_stream_that_is_deleted_is_made_again_and_its_accounts_stand_still_and_say_so(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=2) as here:
        gateway = await here.gateway()
        control = await control_of(gateway, here.http)
        await control.ready()
        await here.emit(20, 20)
        await here.settled(20)
        client = await nats.connect(here.server.url)
        await client.jetstream().delete_stream(EVENTS)
        await client.close()
        await here.emit(20, 20)

        async def stand_still() -> bool:
            accounts = (await control.ask("GET /v1/accounts")).body["items"]
            return all(one["observed"]["state"] == "diverged" and one["observed"]["last_error"] for one in accounts)

        await until(stand_still, "the accounts stand still, loudly")
        assert lines(gateway, "reset it, from the sequence")
        assert await control.probe("/readyz") == 200


async def test_a_server_that_comes_back_empty_is_furnished_again_and_its_accounts_stand_still_and_say_so(
    tmp_path: Path,
) -> None:
    async with house(tmp_path, accounts=2) as here:
        gateway = await here.gateway()
        control = await control_of(gateway, here.http)
        await control.ready()
        await here.emit(20, 20)
        await here.settled(20)
        here.server.kill()
        shutil.rmtree(here.server.folder)
        await asyncio.to_thread(here.server.start)
        await here.emit(20, 20)

        async def stand_still() -> bool:
            answer = await control.ask("GET /v1/accounts")
            accounts = answer.body["items"] if answer.status == 200 else []
            observed = [one["observed"] for one in accounts if one["observed"]]
            return len(observed) == 2 and all(one["state"] == "diverged" and one["last_error"] for one in observed)

        await until(stand_still, "the accounts stand still, loudly")
        assert await control.probe("/readyz") == 200
        told = [line for line in gateway.lines() if line["level"] in {"error", "warning"}]
    assert len(told) < 60
