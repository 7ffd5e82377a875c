"""Ways in that lead nowhere, and ways out that nobody is told of."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from gateway.simulator import PATH, Faults, Simulator, Timing

KEY = "demo-key"
Run = Callable[..., Awaitable[Simulator]]
Connect = Callable[..., Awaitable[Any]]
Ask = Callable[..., Awaitable[Any]]


async def negotiate(hub: Simulator) -> tuple[int, str, str]:
    """Negotiate over a TCP connection of its own."""
    async with (
        aiohttp.ClientSession() as http,
        http.post(
            f"{hub.url}{PATH}/negotiate?negotiateVersion=1", headers={"Authorization": f"Bearer {KEY}"}
        ) as answer,
    ):
        return answer.status, answer.content_type, await answer.text()


async def test_for_a_while_nobody_listens_and_what_stands_stays(run: Run, connect: Connect, ask: Ask) -> None:
    hub = await run()
    client = await connect(hub)
    assert await ask(hub, "POST /unlisten", seconds=0.3) == {"seconds": 0.3, "dropped": 0}
    began = time.monotonic()
    with pytest.raises(aiohttp.ClientConnectorError) as refused:
        await negotiate(hub)
    assert isinstance(refused.value.os_error, ConnectionRefusedError)
    assert await client.call("GetLatestEventSeqId", {})
    async with asyncio.timeout(10):
        while True:
            try:
                assert (await negotiate(hub))[0] == 200
                break
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.01)
    assert time.monotonic() - began >= 0.25


async def test_who_stops_listening_may_cut_what_stands_too(run: Run, connect: Connect, ask: Ask) -> None:
    hub = await run()
    client = await connect(hub)
    assert (await ask(hub, "POST /unlisten", seconds=60, cut=True))["dropped"] == 1
    assert await client.ending() == ([], 1006)
    await hub.door.open()
    assert (await negotiate(hub))[0] == 200


async def test_negotiation_may_answer_with_a_page_of_html(run: Run) -> None:
    status, content_type, text = await negotiate(await run(faults=Faults(negotiate_html=True)))
    assert (status, content_type) == (200, "text/html")
    assert text.startswith("<!DOCTYPE html>")


async def test_a_half_open_connection_stands_at_the_client_and_nowhere_else(
    run: Run, connect: Connect, ask: Ask
) -> None:
    hub = await run(timing=Timing(ping_interval=0.02, client_timeout=0.1, handshake_timeout=1))
    client = await connect(hub)
    await client.subscribe()
    await client.send('{"type":6}')
    assert await ask(hub, "POST /drop", how="half-open") == {"dropped": 1}
    while client.raw:  # what was sent before
        await client.record()
    hub.user("demo").emit(5)
    await client.send('{"type":1,"invocationId":"1","target":"GetLatestEventSeqId","arguments":[{}]}')
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await client.next()
    assert not client.socket.closed
    assert [item["half_open"] for item in (await ask(hub, "GET /users/demo"))["connections"]] == [True]
    assert hub.user("demo").listeners == {}
    assert hub.drop("demo", "cut") == 1
    assert await client.ending() == ([], 1006)


@pytest.mark.parametrize("step", ["negotiate", "upgrade", "handshake"])
async def test_each_step_of_connecting_may_be_slow_and_a_star_does_not_mean_them(
    run: Run, connect: Connect, step: str
) -> None:
    hub = await run(faults=Faults(slow={step: 0.2, "*": 5.0}))
    began = time.monotonic()
    await negotiate(hub)
    between = time.monotonic()
    await connect(hub)
    took = {"negotiate": between - began}.get(step, time.monotonic() - between)
    assert took >= 0.2
    assert time.monotonic() - began < 4


async def test_a_sequence_reset_and_a_retention_are_reached_over_the_admin_api(
    run: Run, connect: Connect, ask: Ask
) -> None:
    hub = await run(prefill=10)
    client = await connect(hub)
    await ask(hub, "PATCH /users/demo/faults", forget_below=8)
    page = await client.call("GetEventsSince", {"SinceEventSeqId": 0, "Limit": 10})
    assert [event["eventSeqId"] for event in page["data"]["events"]] == [8, 9, 10]
    await ask(hub, "POST /users/demo/reset", first=3)
    await ask(hub, "POST /users/demo/emit", count=6)
    page = await client.call("GetEventsSince", {"SinceEventSeqId": 0, "Limit": 10})
    assert [event["eventSeqId"] for event in page["data"]["events"]] == [8]
