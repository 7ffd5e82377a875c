"""SignalR clients written by others use the simulator: what they understand, the gateway may rely on."""

# ruff: noqa: ANN401 - what the clients say is JSON

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.simulator import CALLBACKS, PATH, Failure, Form, Simulator, SimulatorConfig, simulator
from tests.support import foreign_clients
from tests.support.foreign_clients import FOREIGN

KEY = "k-foreign"
LIMIT = 60


class Visit:
    """A foreign client's process: what it says, line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def receive(self, name: str) -> Any:
        assert self.process.stdout is not None
        async with asyncio.timeout(LIMIT):
            line = await self.process.stdout.readline()
        if not line:
            assert self.process.stderr is not None
            raise AssertionError(f"it ended before {name!r}: {(await self.process.stderr.read()).decode()}")
        message = parsed(line)
        assert name in message, f"expected {name!r}, received {line.decode()}"
        return message if name == "callback" else message[name]


@asynccontextmanager
async def visit(simulator: Simulator, *command: str) -> AsyncIterator[Visit]:
    process = await asyncio.create_subprocess_exec(
        *command,
        simulator.url + PATH,
        KEY,
        ",".join(CALLBACKS),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=16 * 1024 * 1024,
        cwd=FOREIGN,
    )
    try:
        yield Visit(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture(scope="session")
def node() -> str:
    return foreign_clients.node()


def parsed(line: bytes) -> Any:
    """Read JSON as JavaScript does, every number a float: what is compared here is not digits but arrival."""
    return json.loads(line, parse_int=float)


async def _spends_a_session_at_the_hub(*command: str) -> Any:
    """Let a client subscribe, receive, page, fail and be closed; check each step and give its last words."""
    config = SimulatorConfig(users={"foreign": KEY}, form=Form.CAMEL_INT, seed=7)
    async with simulator(config) as hub, visit(hub, *command) as client:
        user = hub.user("foreign")
        subscribed = await client.receive("subscribed")
        assert subscribed["data"] == {"successfulStrategies": [1, 2, 3, 4, 5], "failedStrategies": []}

        user.failures.append(Failure("GetLatestEventSeqId", hub_exception="the hub is unwell"))
        user.failures.append(Failure("GetLatestEventSeqId", detail="try again"))
        user.emit(len(CALLBACKS))
        truth = [parsed(line) for line in user.emitted()]
        pushed = [await client.receive("callback") for _ in CALLBACKS]
        assert [(event["callback"], event["payload"]) for event in pushed] == [
            (event["callback"], event["payload"]) for event in truth
        ]

        paged: list[Any] = []
        for size in (5, 5, 5, 2):
            page = (await client.receive("page"))["data"]
            assert len(page["events"]) == size
            paged += page["events"]
        assert page["continuationToken"] is None
        assert [event["payload"] for event in paged] == [event["payload"] for event in truth]

        assert "HubException: the hub is unwell" in await client.receive("error")
        refused = await client.receive("refused")
        assert (refused["status"], refused["error"]["detail"], refused["data"]) == (4, "try again", None)
        assert (await client.receive("latest"))["data"]["latestEventSeqId"] == len(CALLBACKS)

        for connection in hub.server.of(user):
            connection.end("the test is over", b'{"type":7,"error":"good night"}\x1e')
        close_error = await client.receive("closed")
        async with asyncio.timeout(LIMIT):
            assert await client.process.wait() == 0
        return close_error


async def test_microsofts_javascript_client_spends_a_session_at_the_simulator(node: str) -> None:
    close_error = await _spends_a_session_at_the_hub(node, "client.mjs")

    assert close_error == "Server returned an error on close: good night"


async def test_signalrcore_spends_a_whole_session_at_the_simulator() -> None:
    await _spends_a_session_at_the_hub(sys.executable, "signalrcore_client.py")
