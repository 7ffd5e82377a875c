"""Calls over an open connection: each gets its answer, its error, its time limit or the connection's end."""

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.errors import CallFailed, CallTimedOut, ConnectionLost
from tests.unit.signalr.listening import following, ignore

KEY = "the-key-of-an-account"
Start = Callable[..., Awaitable[Any]]
Transports = Callable[..., Any]
Until = Callable[[Callable[[], bool]], Awaitable[None]]


# Calls ------------------------------------------------------------------------------------------------------


async def answer_calls(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
    """Answer `Echo` with its argument and `Fail` with an error; nothing else."""
    async for message in peer.socket:
        for text in message.data.split("\x1e")[:-1]:
            call = json.loads(text)
            outcome = {
                "Echo": {"result": call.get("arguments")},
                "Fail": {"error": f"no, {KEY}\nreally " + "x" * 9999},
                "Go": {"result": call.get("arguments"), "error": ""},
                "GoVoid": {"error": ""},
            }
            if call.get("target") in outcome:
                await peer.send(
                    json.dumps({"type": 3, "invocationId": call["invocationId"], **outcome[call["target"]]})
                )
            if call.get("target") == "Garble":
                await peer.send('{"type":3,"invocationId":"' + call["invocationId"] + '","result":[}')


async def test_calls_are_answered_each_with_its_own(start: Start, open_to: Start) -> None:
    connection = await open_to(await start(answer_calls))
    early = [asyncio.create_task(connection.call("Echo", {"n": n})) for n in range(50)]
    await asyncio.sleep(0)
    running = asyncio.create_task(connection.run(ignore))
    assert await asyncio.gather(*early) == [b'[{"n": %d}]' % n for n in range(50)]
    running.cancel()
    await asyncio.wait({running})


async def test_an_error_without_words_is_none_as_it_is_to_microsofts_clients(start: Start, open_to: Start) -> None:
    """Servers that are written in Go write each member of a record, an empty `error` too."""
    connection = await open_to(await start(answer_calls))
    running = asyncio.create_task(connection.run(ignore))
    assert await connection.call("Go", {"n": 1}) == b'[{"n": 1}]'
    assert await connection.call("GoVoid", {}) == b"null"
    running.cancel()
    await asyncio.wait({running})


async def test_a_failed_call_says_why_without_the_key_and_the_connection_stays(start: Start, open_to: Start) -> None:
    connection = await open_to(await start(answer_calls))
    running = asyncio.create_task(connection.run(ignore))
    with pytest.raises(CallFailed) as failed:
        await connection.call("Fail", {})
    assert str(failed.value).startswith("Fail: no, … really xxx")
    assert len(str(failed.value)) < 400
    with pytest.raises(CallFailed, match="Garble: the answer cannot be read"):
        await connection.call("Garble", {})
    assert await connection.call("Echo", {}) == b"[{}]"
    running.cancel()
    await asyncio.wait({running})


async def test_a_call_has_a_limit_and_a_late_answer_for_nobody_is_forgotten(start: Start, open_to: Start) -> None:
    async def late(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        await peer.next()
        await asked.wait()
        await peer.send('{"type":3,"invocationId":"1","result":1}', '{"type":7}')

    asked = asyncio.Event()
    connection = await open_to(await start(late), call_timeout=0.05)
    running = asyncio.create_task(following(connection))
    with pytest.raises(CallTimedOut, match=r"Slow: no answer within 0.05 s"):
        await connection.call("Slow", {})
    asked.set()
    assert (await running)[0] == []
    connection._calls.begin(b"another")
    assert len(connection._calls) == 1


async def test_a_late_answer_counts_for_who_asks_the_same_and_saves_a_call(start: Start, open_to: Start) -> None:
    async def late(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        records.append(await peer.next())
        await asked.wait()
        await peer.send('{"type":3,"invocationId":"1","result":1}')
        records.append(await peer.next())

    asked = asyncio.Event()
    records: list[Any] = []
    connection = await open_to(await start(late), call_timeout=1)
    running = asyncio.create_task(connection.run(ignore))
    with pytest.raises(CallTimedOut):
        await connection.call("Slow", {"Of": 1})
    again = asyncio.create_task(connection.call("Slow", {"Of": 1}))
    await asyncio.sleep(0.05)
    asked.set()

    assert await again == b"1"
    assert len(records) == 1
    assert len(connection._calls) == 0
    running.cancel()
    await asyncio.wait({running})


async def test_behind_a_call_that_hangs_one_other_is_sent(start: Start, open_to: Start) -> None:
    async def hangs(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        while True:
            records.append(json.loads((await peer.next()).rstrip("\x1e")))

    records: list[Any] = []
    connection = await open_to(await start(hangs), call_timeout=0.05)
    running = asyncio.create_task(connection.run(ignore))
    for method in ("First", "Second", "Third", "First", "Second"):
        with pytest.raises(CallTimedOut):
            await connection.call(method, {})

    assert [record["target"] for record in records if record["type"] == 1] == ["First", "Second"]
    running.cancel()
    await asyncio.wait({running})


async def test_a_cancelled_call_leaves_nothing_behind(start: Start, open_to: Start) -> None:
    connection = await open_to(await start())
    running = asyncio.create_task(connection.run(ignore))
    call = asyncio.create_task(connection.call("M", {}))
    await asyncio.sleep(0)
    assert len(connection._calls) == 1
    call.cancel()
    await asyncio.wait({call})
    assert len(connection._calls) == 0
    running.cancel()
    await asyncio.wait({running})


@pytest.mark.parametrize("way", ["drop", "cancel", "close"])
async def test_calls_in_flight_fail_at_the_end_however_it_comes(way: str, start: Start, open_to: Start) -> None:
    connection = await open_to(hub := await start())
    running = asyncio.create_task(connection.run(ignore))
    calls = [asyncio.create_task(connection.call("M", {})) for _ in range(3)]
    await asyncio.sleep(0)
    if way == "drop":
        hub.peers[0].tcp.abort()
    elif way == "cancel":
        running.cancel()
    else:
        await connection.close()
    async with asyncio.timeout(10):
        await asyncio.wait({running, *calls})
    assert running.cancelled() or isinstance(running.exception(), ConnectionLost)
    errors = [call.exception() for call in calls]
    assert [type(error) for error in errors] == [ConnectionLost] * 3
    assert len(set(map(id, errors))) == 3
    with pytest.raises(ConnectionLost):
        await connection.call("M", {})
    with pytest.raises(ConnectionLost):
        await connection.run(ignore)


async def test_no_error_of_a_lost_call_is_left_unretrieved(start: Start, open_to: Start) -> None:
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    connection = await open_to(hub := await start())
    running = asyncio.create_task(following(connection))
    call = asyncio.create_task(connection.call("M", {}))
    await asyncio.sleep(0)
    hub.peers[0].tcp.abort()
    await running
    call.cancel()
    await asyncio.wait({call})
    del call, running
    gc.collect()
    assert errors == []
