"""A NATS that answers and is of no use: `check` fails and `run` says an ERROR, in the same words, and then goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nats

from tests.acceptance.processes import House, house

CONTROL = "mesolive-gateway-control"
NO_MORE = f"NATS makes no more consumers of the stream {CONTROL}: maximum consumers limit reached (error 10026)"


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


async def test_a_stream_that_takes_too_few_consumers(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=1) as place:
        checked = await place.start("check")
        assert await checked.ended() == 0
        (said,) = [line for line in checked.said.splitlines() if line.startswith("ok    broker")]
        assert said.endswith("stream mesolive-gateway as it must be; 2.14.0 is the oldest server that is supported")

        await edit(place, max_consumers=1)
        checked = await place.start("check")
        assert await checked.ended() == 1
        (failed,) = [line for line in checked.said.splitlines() if line.startswith("FAIL")]
        assert failed.startswith(f"FAIL  broker: {NO_MORE}")
        assert f"set it to -1 (`nats stream edit {CONTROL}`)" in failed
        gateway = await place.gateway()
        await gateway.complains(r".*the broker cannot be used until somebody mends it.*")
        (line, *_) = [line for line in gateway.lines() if line["level"] == "error"]
        assert line["error"].startswith(NO_MORE)

        await edit(place, max_consumers=-1)
        await place.emit(20, 100)
        await place.settled(20)
        assert (await place.verdict()).faults == {}
