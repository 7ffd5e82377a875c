"""A NATS that answers and is of less use than it should be: it is said in words, events go on, and it is mended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nats

from tests.support.gateway_process import House, house
from tests.support.nats_server import leaf_and_hub

CONTROL = "mesolive-gateway-control"
NOT_READABLE = f"the stream {CONTROL} cannot be read: allow_direct is off"


async def edit(place: House, **change: Any) -> None:  # noqa: ANN401 - as JetStream has it
    """Do what `nats stream edit` does."""
    client = await nats.connect(place.server.url, allow_reconnect=False)
    try:
        info = json.loads((await client.request(f"$JS.API.STREAM.INFO.{CONTROL}")).data)
        body = json.dumps(info["config"] | change).encode()
        answer = json.loads((await client.request(f"$JS.API.STREAM.UPDATE.{CONTROL}", body)).data)
        assert "error" not in answer
    finally:
        await client.close()


async def test_a_control_stream_that_allows_no_direct_get(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=1) as place:
        gateway = await place.gateway()
        await place.emit(10, 100)
        await place.settled(10)
        await edit(place, allow_direct=False)
        await gateway.wait_for_log(NOT_READABLE)
        lines = [line for line in gateway.lines() if NOT_READABLE in line["event"]]
        assert {line["level"] for line in lines} == {"error"}

        checked = await place.start("check", env={"GATEWAY_TOPICS__CREATE": "false"})
        assert await checked.ended() == 1
        (failed,) = [line for line in checked.stdout.splitlines() if line.startswith("FAIL")]
        assert failed.startswith(f"FAIL  broker: stream {CONTROL}: allow_direct is off: nothing could be read")

        await place.emit(10, 100)
        await place.settled(20)
        checked = await place.start("check")  # what makes the stream may edit it, too
        assert await checked.ended() == 0
        (passed,) = [line for line in checked.stdout.splitlines() if line.startswith("ok    broker")]
        assert passed.endswith("stream mesolive-gateway as it must be; 2.14.0 is the oldest server that is supported")
        assert (await place.verdict()).faults == {}


async def test_a_server_without_jetstream_waits_for_those_that_have_it(tmp_path: Path) -> None:
    """It ended with code 2, and was started again and again, while the servers behind its own were away."""
    message = "has no JetStream, and nobody that it reaches"
    async with house(tmp_path, accounts=1) as place:
        with leaf_and_hub(tmp_path) as (near, _):
            env = {"GATEWAY_BROKER__SERVERS": near.url}
            gateway = await place.gateway(env)
            await gateway.wait_for_log(message)
            checked = await place.start("check", env=env)
            assert await checked.ended() == 1
            assert f"FAIL  broker: the NATS server edge {message}" in checked.stdout
            assert gateway.popen.poll() is None
