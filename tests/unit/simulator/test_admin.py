"""The admin API: what an operator of the simulator can see and break over HTTP."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from gateway.simulator import PATH, Simulator

KEY = "demo-key"
Run = Callable[..., Awaitable[Simulator]]
Connect = Callable[..., Awaitable[Any]]
Ask = Callable[..., Awaitable[Any]]


async def test_status_shows_users_their_connections_and_what_they_subscribed_to(
    run: Run, connect: Connect, ask: Ask
) -> None:
    hub = await run(prefill=5, seed=7)
    client = await connect(hub)
    await client.subscribe([1, 3])
    status = await ask(hub, "GET /status")
    (user,) = status["users"]
    assert (status["seed"], user["name"], user["emitted"], user["latest"]) == (7, "demo", 5, 5)
    assert [connection["strategies"] for connection in user["connections"]] == [[1, 3]]
    assert "demo-key" not in json.dumps(status)


async def test_the_log_tells_each_step_of_a_client_in_order(
    run: Run, session: aiohttp.ClientSession, connect: Connect, ask: Ask
) -> None:
    hub = await run()
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await session.ws_connect(hub.url + PATH, headers={"Authorization": "Bearer wrong"})
    client = await connect(hub)
    await client.send('{"type":7}')
    await client.ending()
    log = await ask(hub, "GET /log")
    while log[-1]["step"] != "ended":
        log = await ask(hub, "GET /log")
    assert [(entry["step"], entry["status"], entry["why"]) for entry in log] == [
        ("upgrade", 401, "unknown key"),
        ("upgrade", 101, None),
        ("handshake", None, None),
        ("ended", None, "the client closed"),
    ]
    assert await ask(hub, f"GET /log?since={log[2]['time']}") == log[3:]


@pytest.mark.parametrize(
    ("how", "ending"),
    [
        ({"how": "abort"}, (['{"type":7}'], 1000)),
        ({"how": "expire"}, (['{"type":7,"allowReconnect":true}'], 1000)),
        (
            {"how": "close", "error": "bye", "allow_reconnect": True},
            (['{"type":7,"error":"bye","allowReconnect":true}'], 1000),
        ),
        ({"how": "cut"}, ([], 1006)),
    ],
)
async def test_connections_are_dropped_as_asked(
    run: Run, connect: Connect, ask: Ask, how: dict[str, Any], ending: tuple[list[str], int]
) -> None:
    hub = await run()
    client = await connect(hub)
    assert await ask(hub, "POST /drop", user="demo", **how) == {"dropped": 1}
    assert await client.ending() == ending


async def test_one_connection_of_several_is_dropped(run: Run, connect: Connect, ask: Ask) -> None:
    hub = await run()
    first = await connect(hub)
    (chosen,) = hub.server.connections
    other = await connect(hub)
    assert await ask(hub, "POST /drop", connection=chosen, how="cut") == {"dropped": 1}
    assert await first.ending() == ([], 1006)
    assert await other.call("GetLatestEventSeqId", {})


async def test_refusals_last_for_their_count_and_can_be_taken_back(
    run: Run, session: aiohttp.ClientSession, ask: Ask
) -> None:
    hub = await run()

    async def negotiate() -> tuple[int, str | None]:
        url = f"{hub.url}{PATH}/negotiate?negotiateVersion=1"
        async with session.post(url, headers={"Authorization": f"Bearer {KEY}"}) as response:
            return response.status, response.headers.get("Retry-After")

    await ask(hub, "POST /refuse", user="demo", status=429, retry_after=3, count=2)
    assert [await negotiate() for _ in range(3)] == [(429, "3"), (429, "3"), (200, None)]
    await ask(hub, "POST /refuse", status=403)
    assert await negotiate() == (403, None)
    await ask(hub, "DELETE /refuse")
    assert await negotiate() == (200, None)


async def test_events_are_emitted_at_once_by_kind(run: Run, connect: Connect, ask: Ask) -> None:
    hub = await run()
    client = await connect(hub)
    await client.subscribe()
    assert (await ask(hub, "POST /users/demo/emit", count=3, kinds=["OnError"]))["emitted"] == 3
    assert [(await client.next())["target"] for _ in range(3)] == ["OnError"] * 3


async def test_events_are_emitted_at_a_rate_until_paused_and_again_once_resumed(
    run: Run, connect: Connect, ask: Ask
) -> None:
    hub = await run()
    client = await connect(hub)
    await client.subscribe()
    await ask(hub, "POST /users/demo/emit", rate=2_000)
    await client.pushes(100)
    await ask(hub, "POST /pause")
    emitted = (await ask(hub, "GET /users/demo"))["emitted"]
    await client.pushes(emitted - 100)
    assert (await ask(hub, "GET /users/demo"))["emitted"] == emitted
    await ask(hub, "POST /users/demo/resume")
    await client.pushes(100)


async def test_the_truth_is_everything_emitted_whatever_the_faults(
    run: Run, session: aiohttp.ClientSession, ask: Ask
) -> None:
    hub = await run()
    await ask(hub, "PATCH /users/demo/faults", drop=1, history_lag=60, forget_below=100)
    await ask(hub, "POST /users/demo/emit", count=50)
    async with session.get(f"{hub.url}/simulator/users/demo/emitted?since=10&limit=30") as response:
        lines = (await response.text()).splitlines()
    assert [json.loads(line)["sequence"] for line in lines] == list(range(11, 41))
    assert [line.encode() + b"\n" for line in lines] == list(hub.user("demo").emitted(since=10, limit=30))


async def test_faults_are_patched_shown_and_taken_back(run: Run, ask: Ask) -> None:
    hub = await run()
    assert (await ask(hub, "PATCH /faults", drop=0.5, slow={"*": 1}))["drop"] == 0.5
    assert (await ask(hub, "PATCH /users/demo/faults", drop=0.1))["slow"] == {"*": 1}
    assert (await ask(hub, "GET /users/demo/faults"))["drop"] == 0.1
    assert (await ask(hub, "PATCH /users/demo/faults", drop=None))["drop"] == 0.5
    assert (await ask(hub, "DELETE /faults"))["drop"] == 0
    assert (await ask(hub, "GET /users/demo/faults"))["drop"] == 0


async def test_calls_fail_as_asked(run: Run, connect: Connect, ask: Ask) -> None:
    hub = await run()
    client = await connect(hub)
    await ask(hub, "POST /users/demo/fail", method="GetLatestEventSeqId", hub_exception="oops")
    await ask(hub, "POST /users/demo/fail", status="Conflict", status_number=2, detail="busy")
    assert "HubException: oops" in await client.answer("GetLatestEventSeqId", {})
    assert '"status":2,"message":"busy"' in await client.answer("GetLatestEventSeqId", {})
    assert '"status":0' in await client.answer("GetLatestEventSeqId", {})


async def test_a_user_changes_its_key_and_another_is_made(run: Run, connect: Connect, ask: Ask) -> None:
    hub = await run()
    await ask(hub, "PUT /users/demo", key="second-key")
    await ask(hub, "PUT /users/late", key="late-key", strategies=[8])
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await connect(hub)
    await connect(hub, key="second-key")
    late = await connect(hub, key="late-key")
    assert (await late.subscribe())["data"]["successfulStrategies"] == [8]


async def test_a_reset_history_begins_again(run: Run, connect: Connect, ask: Ask) -> None:
    hub = await run(prefill=10)
    client = await connect(hub)
    assert (await ask(hub, "POST /users/demo/reset"))["incarnation"] == 1
    assert (await client.call("GetLatestEventSeqId", {}))["data"]["latestEventSeqId"] == 0


async def test_silenced_connections_say_nothing_until_they_may_again(run: Run, connect: Connect, ask: Ask) -> None:
    hub = await run()
    client = await connect(hub)
    await client.subscribe()
    assert await ask(hub, "POST /silence") == {"connections": 1}
    hub.user("demo").emit(3)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await client.next()
    await ask(hub, "POST /silence", silent=False)
    assert len(await client.pushes(3)) == 3


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        ("GET /users/nobody", 404, {}),
        ("GET /users/demo/emitted?since=x", 400, {}),
        ("GET /users/demo/emitted?incarnation=5", 404, {}),
        ("POST /users/demo/emit", 400, {"kinds": ["OnNothing"]}),
        ("POST /users/demo/emit", 400, {"cuont": 3}),
        ("POST /drop", 400, {"how": "gently"}),
        ("PATCH /faults", 400, {"dorp": 1}),
        ("PATCH /faults", 400, {"drop": 7}),
        ("PUT /users/new", 400, {}),
    ],
)
async def test_a_request_that_makes_no_sense_is_told_why(
    run: Run, ask: Ask, request_line: str, status: int, body: dict[str, Any]
) -> None:
    answer = await ask(await run(), request_line, status, **body)
    assert answer["error"]
