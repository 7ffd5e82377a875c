"""Every scene recorded from a real ASP.NET Core hub, replayed to the client over real sockets."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.errors import CallFailed, ConnectFailed, ConnectionLost, Unauthorized
from gateway.signalr import protocol, records
from gateway.signalr.connect import connect

KEY = "the-key-of-an-account"
WIRE = Path(__file__).parents[2] / "fixtures" / "wire"
Start = Callable[..., Awaitable[Any]]
Transports = Callable[..., Any]
Scene = list[dict[str, Any]]


def scenes() -> dict[str, Scene]:
    found: dict[str, Scene] = {}
    for file in sorted(WIRE.glob("*.jsonl")):
        for line in map(json.loads, file.read_text().splitlines()):
            if "scene" in line:
                frames = found[f"{file.stem}: {line['scene']}"] = []
            else:
                frames.append(line)
    return found


SCENES = scenes()
ENDED = {
    "a session: subscribe, one event of each kind, history, errors": ("closed", "no reason given"),
    "the client stops answering: the hub's timeout": ("dropped", "without a close"),
    "the token expires": ("closed", "no reason given"),
    "no negotiation": ("closed", "code 1000"),
    "a frame that is not JSON": ("closed", "Connection closed with an error."),
    "the client says close": ("closed", "no reason given"),
    "the hub's process is asked to end": ("dropped", "without a close"),
}
FAILED = {
    "a wrong token": (Unauthorized, "unauthorized", 'negotiate: the hub answered 401 (Bearer error="invalid_token")'),
    "no negotiation, a wrong token": (Unauthorized, "unauthorized", "upgrade: the hub answered 401"),
    "an unknown protocol": (ConnectFailed, "handshake", "handshake: The protocol 'xml' is not supported."),
    "the hub is unavailable": (ConnectFailed, "http-503", "negotiate: the hub answered 503"),
    "too many requests": (ConnectFailed, "http-429", "negotiate: the hub answered 429"),
}


def named(titles: dict[str, Any]) -> list[str]:
    return [name for name in SCENES if name.partition(": ")[2] in titles]


async def replay(start: Start, frames: Scene) -> Any:  # noqa: ANN401, C901 - conftest's Hub; a branch a kind of line
    """Start a hub that says what was recorded and expects to hear what was recorded."""
    first = frames[0]

    async def negotiate(_: web.Request) -> web.Response:
        headers = {"WWW-Authenticate": first["wwwAuthenticate"]} if "wwwAuthenticate" in first else {}
        return web.Response(status=first["status"], text=first["body"], headers=headers)

    async def upgrade(_: web.Request) -> web.Response | None:
        return web.Response(status=first["upgrade"]) if "upgrade" in first else None

    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        for frame in frames:
            if "in" in frame:
                await peer.socket.send_str(frame["in"])
            elif '"arguments":[]' in frame.get("out", ""):
                pass  # a call that the gateway never makes; its answer is one to nobody
            elif '"type":1' in frame.get("out", "") or '"protocol":"json"' in frame.get("out", ""):
                while (received := await peer.next()) == '{"type":6}\x1e':
                    pass
                assert received == frame["out"]
            elif frame.get("closed") == 1006:
                peer.tcp.abort()
            elif "closed" in frame:
                await peer.socket.close(code=frame["closed"])
        if "closed" not in frames[-1]:
            peer.tcp.abort()  # as the recording of a client's timeout ends

    return await start(speak, negotiate, upgrade, shake=False)


def test_every_recorded_scene_has_a_test() -> None:
    assert len(named(ENDED)) + len(named(FAILED)) == len(SCENES) >= 24


@pytest.mark.parametrize("name", named(ENDED))
async def test_a_recorded_session_is_taken_to_its_recorded_end(name: str, start: Start, transports: Transports) -> None:
    frames = SCENES[name]
    hub = await replay(start, frames)
    connection = await connect(transports(skip_negotiation="http" not in frames[0]), hub.url, KEY)
    pushed: list[tuple[str, list[bytes]]] = []

    async def call_all() -> None:
        for frame in frames:
            call = protocol.decode(frame.get("out", "").removesuffix("\x1e").encode())
            if isinstance(call, records.Invocation) and call.arguments:
                answer = answers[call.id]
                if answer.error is None:
                    assert await connection.call(call.target, json.loads(call.arguments[0])) == answer.result
                else:
                    with pytest.raises(CallFailed) as failed:
                        await connection.call(call.target, json.loads(call.arguments[0]))
                    assert str(failed.value) == f"{call.target}: {answer.error}"

    received = [protocol.decode(frame["in"].removesuffix("\x1e").encode()) for frame in frames if "in" in frame]
    answers = {record.id: record for record in received if isinstance(record, records.Completion)}
    calling = asyncio.create_task(call_all())
    with pytest.raises(ConnectionLost) as lost:
        await connection.run(lambda target, arguments: pushed.append((target, arguments)))
    await calling
    await connection.close()

    reason, message = ENDED[name.partition(": ")[2]]
    assert lost.value.reason == reason
    assert message in str(lost.value)
    assert pushed == [(each.target, each.arguments) for each in received if isinstance(each, records.Invocation)]


@pytest.mark.parametrize("name", named(FAILED))
async def test_a_recorded_refusal_is_told_apart(name: str, start: Start, transports: Transports) -> None:
    frames = [frame for frame in SCENES[name] if "out" not in frame]
    hub = await replay(start, frames)
    error, reason, message = FAILED[name.partition(": ")[2]]
    with pytest.raises(ConnectFailed) as failed:
        await connect(transports(skip_negotiation="http" not in frames[0]), hub.url, KEY)
    assert (type(failed.value), failed.value.reason, str(failed.value)) == (error, reason, message)
