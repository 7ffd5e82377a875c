"""Connections over real sockets: every way in, every way to end, and what happens between."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from gateway.simulator import PATH, Failure, Faults, Refusal, Simulator, SimulatorConfig, Timing, simulator

KEY = "demo-key"
Run = Callable[..., Awaitable[Simulator]]
Connect = Callable[..., Awaitable[Any]]
QUICK = Timing(ping_interval=0.05, client_timeout=0.2, handshake_timeout=0.2)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_a_wrong_key_is_refused_at_both_doors(run: Run, session: aiohttp.ClientSession) -> None:
    hub = await run()
    async with session.post(f"{hub.url}{PATH}/negotiate?negotiateVersion=1", headers=bearer("wrong")) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
        assert await response.read() == b""
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await session.ws_connect(hub.url + PATH, headers=bearer("wrong"))
    assert refused.value.status == 401


async def test_a_negotiated_token_opens_one_websocket(run: Run, session: aiohttp.ClientSession) -> None:
    hub = await run()
    async with session.post(f"{hub.url}{PATH}/negotiate?negotiateVersion=1", headers=bearer(KEY)) as response:
        token = (await response.json())["connectionToken"]
    async with session.ws_connect(f"{hub.url}{PATH}?id={token}", headers=bearer(KEY)) as socket:
        await socket.send_str('{"protocol":"json","version":1}\x1e')
        assert (await socket.receive()).data == "{}\x1e"
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await session.ws_connect(f"{hub.url}{PATH}?id={token}", headers=bearer(KEY))
    assert refused.value.status == 404


async def test_a_browsers_key_comes_in_the_query(run: Run, session: aiohttp.ClientSession) -> None:
    hub = await run()
    async with session.ws_connect(f"{hub.url}{PATH}?access_token={KEY}") as socket:
        await socket.send_str('{"protocol":"json","version":1}\x1e')
        assert (await socket.receive()).data == "{}\x1e"


async def test_negotiation_may_redirect_several_times(run: Run, session: aiohttp.ClientSession) -> None:
    hub = await run(faults=Faults(redirects=2))
    url, key, hops = hub.url + PATH, KEY, 0
    while True:
        async with session.post(f"{url}/negotiate?negotiateVersion=1", headers=bearer(key)) as response:
            answer = await response.json()
        if "url" not in answer:
            break
        url, key, hops = answer["url"], answer["accessToken"], hops + 1
    assert hops == 2
    assert key != KEY
    async with session.ws_connect(f"{url}?id={answer['connectionToken']}", headers=bearer(key)) as socket:
        await socket.send_str('{"protocol":"json","version":1}\x1e')
        assert (await socket.receive()).data == "{}\x1e"


async def test_a_hub_that_is_unwell_refuses_with_retry_after(run: Run, session: aiohttp.ClientSession) -> None:
    hub = await run()
    hub.hub.refusals.append(Refusal(503, retry_after=7, count=1))
    async with session.post(f"{hub.url}{PATH}/negotiate?negotiateVersion=1", headers=bearer(KEY)) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "7")
    async with session.post(f"{hub.url}{PATH}/negotiate?negotiateVersion=1", headers=bearer(KEY)) as response:
        assert response.status == 200


async def test_an_unknown_protocol_ends_the_connection_as_recorded(run: Run, connect: Connect) -> None:
    client = await connect(await run(), shake=False)
    await client.send('{"protocol":"xml","version":1}')
    assert await client.ending() == (['{"error":"The protocol \'xml\' is not supported."}'], 1000)


async def test_no_handshake_in_time_ends_the_connection(run: Run, connect: Connect) -> None:
    client = await connect(await run(timing=QUICK), shake=False)
    records, code = await client.ending()
    assert (records[-1], code) == ('{"error":"Handshake was canceled."}', 1000)


async def test_a_frame_that_is_not_json_ends_the_connection_as_recorded(run: Run, connect: Connect) -> None:
    client = await connect(await run())
    await client.send("not json")
    assert await client.ending() == (
        ['{"type":7,"error":"Connection closed with an error.","allowReconnect":true}'],
        1000,
    )


async def test_a_clients_close_is_answered_as_recorded(run: Run, connect: Connect) -> None:
    client = await connect(await run())
    await client.send('{"type":7}')
    assert await client.ending() == (['{"type":7}'], 1000)


async def test_an_idle_connection_is_sent_pings(run: Run, connect: Connect) -> None:
    client = await connect(await run(timing=Timing(ping_interval=0.05)))
    assert [await client.record() for _ in range(3)] == ['{"type":6}'] * 3


async def test_a_silent_client_is_dropped_once_it_has_pinged(run: Run, connect: Connect) -> None:
    hub = await run(timing=QUICK)
    never_pinged = await connect(hub)
    client = await connect(hub)
    await client.send('{"type":6}')
    records, code = await client.ending()
    assert records[-1] == '{"type":7,"error":"Connection closed with an error.","allowReconnect":true}'
    assert code == 1000
    assert await never_pinged.call("GetLatestEventSeqId", {})


async def test_an_expired_token_ends_the_connection_as_recorded(run: Run, connect: Connect) -> None:
    client = await connect(await run(timing=QUICK, faults=Faults(token_seconds=0.1)))
    records, code = await client.ending()
    assert (records[-1], code) == ('{"type":7,"allowReconnect":true}', 1000)


async def test_records_are_understood_several_to_a_message_and_in_several(run: Run, connect: Connect) -> None:
    client = await connect(await run(), shake=False)
    call = '{"type":1,"invocationId":"%d","target":"GetLatestEventSeqId","arguments":[{}]}\x1e'
    text = '{"protocol":"json","version":1}\x1e' + call % 1 + call % 2
    await client.socket.send_str(text[:-20])
    await client.socket.send_str(text[-20:])
    assert await client.record() == "{}"
    assert [(await client.next())["invocationId"] for _ in range(2)] == ["1", "2"]


async def test_waiting_pushes_share_a_message(run: Run, connect: Connect) -> None:
    hub = await run()
    client = await connect(hub)
    await client.subscribe()
    hub.user("demo").emit(50)
    message = await client.socket.receive_str()
    assert message.count("\x1e") == 50


async def test_a_record_may_be_split_over_several_messages(run: Run, connect: Connect) -> None:
    hub = await run(faults=Faults(split=100))
    client = await connect(hub)
    await client.subscribe()
    hub.user("demo").emit(50)
    assert [event["eventSeqId"] for event in await client.pushes(50)] == list(range(1, 51))


async def test_unknown_strategies_fail_and_an_empty_list_changes_nothing(run: Run, connect: Connect) -> None:
    hub = await run()
    client = await connect(hub)
    assert (await client.subscribe([1, 99]))["data"] == {"successfulStrategies": [1], "failedStrategies": [99]}
    assert (await client.subscribe([]))["data"] == {"successfulStrategies": [], "failedStrategies": []}
    hub.user("demo").emit(200)
    truth = [json.loads(line)["payload"] for line in hub.user("demo").emitted()]
    wanted = [payload for payload in truth if payload.get("strategyId") in (1, None)]
    assert await client.pushes(len(wanted)) == wanted


async def test_unsubscribing_from_all_stops_every_push(run: Run, connect: Connect) -> None:
    hub = await run()
    client = await connect(hub)
    await client.subscribe()
    await client.call("UnsubscribeFromStrategies", {"strategies": None})
    hub.user("demo").emit(10)
    await client.send('{"type":1,"invocationId":"last","target":"GetLatestEventSeqId","arguments":[{}]}')
    assert (await client.next())["invocationId"] == "last"


async def test_pages_lead_to_the_end_of_the_history(run: Run, connect: Connect) -> None:
    hub = await run(prefill=2_500)
    client = await connect(hub)
    found: list[int] = []
    args: dict[str, Any] = {"SinceEventSeqId": 100, "Limit": 1000, "ContinuationToken": None}
    while True:
        data = (await client.call("GetEventsSince", args))["data"]
        found += [event["eventSeqId"] for event in data["events"]]
        if data["continuationToken"] is None:
            break
        args["ContinuationToken"] = data["continuationToken"]
    assert found == list(range(101, 2_501))


async def test_a_token_that_the_hub_never_gave_is_refused(run: Run, connect: Connect) -> None:
    client = await connect(await run())
    for token in ("x", "djI6OQ==", "djE6eA=="):
        args = {"SinceEventSeqId": 0, "Limit": 1, "ContinuationToken": token}
        assert (await client.call("GetEventsSince", args))["status"] == 3


async def test_a_history_may_seem_to_have_no_end(run: Run, connect: Connect) -> None:
    client = await connect(await run(prefill=3, faults=Faults(page_end="repeat")))
    args = {"SinceEventSeqId": 0, "Limit": 3}
    first = (await client.call("GetEventsSince", args))["data"]
    again = (await client.call("GetEventsSince", {**args, "ContinuationToken": first["continuationToken"]}))["data"]
    assert (again["events"], again["continuationToken"]) == ([], first["continuationToken"])


@pytest.mark.parametrize("argument", ["null", "[]", "7", '{"Limit":1.0}', '{"Limit":99999999999999999999}'])
async def test_arguments_that_do_not_fit_fail_the_call_and_not_the_connection(
    run: Run, connect: Connect, argument: str
) -> None:
    client = await connect(await run())
    await client.send(f'{{"type":1,"invocationId":"1","target":"GetEventsSince","arguments":[{argument}]}}')
    assert "GetEventsSince" in (await client.next())["error"]
    assert await client.call("GetLatestEventSeqId", {})


async def test_a_failure_takes_as_many_calls_as_it_was_given(run: Run, connect: Connect) -> None:
    hub = await run()
    hub.user("demo").failures.append(Failure("GetLatestEventSeqId", count=2, detail="not now"))
    client = await connect(hub)
    assert (await client.subscribe())["status"] == 0
    statuses = [(await client.call("GetLatestEventSeqId", {}))["status"] for _ in range(3)]
    assert statuses == [4, 4, 0]


async def test_a_slow_method_delays_its_answer_and_not_the_pushes(run: Run, connect: Connect) -> None:
    hub = await run(faults=Faults(slow={"GetLatestEventSeqId": 0.2}))
    client = await connect(hub)
    await client.subscribe()
    began = time.monotonic()
    await client.send('{"type":1,"invocationId":"slow","target":"GetLatestEventSeqId","arguments":[{}]}')
    hub.user("demo").emit(1)
    assert (await client.next())["type"] == 1
    assert (await client.next())["invocationId"] == "slow"
    assert time.monotonic() - began >= 0.2


async def test_a_slow_client_is_cut_off_and_holds_up_nobody(run: Run, connect: Connect) -> None:
    hub = await run(queue_bytes=1024 * 1024)
    slow, quick = await connect(hub), await connect(hub)
    await slow.subscribe()
    await quick.subscribe()
    user = hub.user("demo")
    received = 0
    while len(hub.server.of(user)) == 2:
        user.emit(500)
        received += len(await quick.pushes(500))
        assert received < 200_000
    assert [entry.why for entry in hub.server.log if entry.step == "ended"] == ["slow consumer"]
    assert await quick.call("GetLatestEventSeqId", {})


async def test_a_silent_hub_sends_nothing_until_it_speaks_again(run: Run, connect: Connect) -> None:
    hub = await run(timing=Timing(ping_interval=0.02))
    client = await connect(hub)
    await client.subscribe()
    hub.patch_faults(silent=True)
    while client.raw:  # what was sent before
        await client.record()
    hub.user("demo").emit(5)
    await client.send('{"type":1,"invocationId":"1","target":"GetLatestEventSeqId","arguments":[{}]}')
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.next()
    hub.patch_faults(silent=None)
    assert len(await client.pushes(5)) == 5


async def test_an_abort_reaches_a_client_that_is_in_the_middle_of_a_flood(run: Run, connect: Connect) -> None:
    hub = await run(faults=Faults(duplicate=1))
    client = await connect(hub)
    await client.subscribe()
    hub.user("demo").emit(5_000)
    assert hub.drop("demo") == 1
    records, code = await client.ending()
    assert (len(records), records[-1], code) == (10_001, '{"type":7}', 1000)


async def test_the_end_of_the_hub_drops_the_socket_without_a_word(
    session: aiohttp.ClientSession, speak: Callable[..., Any]
) -> None:
    async with simulator(SimulatorConfig()) as hub:
        socket = await session.ws_connect(hub.url + PATH, headers=bearer(KEY))
        client = speak(socket)
        await client.send('{"protocol":"json","version":1}')
        assert await client.record() == "{}"
    assert await client.ending() == ([], 1006)


async def test_what_the_block_raises_leaves_the_simulator_as_it_was() -> None:
    with pytest.raises(LookupError, match="mine"):
        async with simulator(SimulatorConfig()):
            raise LookupError("mine")


async def test_a_rate_of_5_000_events_a_second_arrives_whole(run: Run, connect: Connect) -> None:
    hub = await run(rate=5_000, total=2_500, paused=True)
    client = await connect(hub)
    await client.subscribe()
    hub.user("demo").paused = False
    began = time.monotonic()
    pushes = await client.pushes(2_500)
    assert [event["eventSeqId"] for event in pushes] == list(range(1, 2_501))
    assert time.monotonic() - began > 0.4
