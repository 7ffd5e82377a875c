"""Real processes: each with its own handle, its words in files, and an end that comes even when the test fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import nats
from nats.js.errors import NotFoundError

from tests.acceptance.checker import Found, Truth, Verdict, judge, read_log, read_truth
from tests.acceptance.wire import Wire
from tests.contract.nats_server import NatsServer

GATEWAY: Final = Path(sys.executable).with_name("gateway")
ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 60.0
"""Seconds until what must happen has not."""
_POLL: Final = 0.02


async def until(condition: Callable[[], Awaitable[bool] | bool], what: str, patience: float = PATIENCE) -> None:
    """Wait until `condition` holds; fail in the words of `what` when it does not in time."""
    deadline = time.monotonic() + patience
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return
        assert time.monotonic() < deadline, f"it did not happen within {patience:g} s: {what}"
        await asyncio.sleep(_POLL)


@dataclass
class Process:
    """One program that runs, or ran."""

    name: str
    popen: subprocess.Popen[bytes]
    out: Path
    err: Path

    @property
    def said(self) -> str:
        """Everything on standard output so far."""
        return self.out.read_text("utf-8")

    @property
    def complained(self) -> str:
        """Everything on standard error so far."""
        return self.err.read_text("utf-8")

    async def hears(self, pattern: str) -> re.Match[str]:
        """Wait until standard output matches, and give the match."""
        return await self._matches(self.out, pattern)

    async def complains(self, pattern: str) -> re.Match[str]:
        """Wait until standard error matches, and give the match."""
        return await self._matches(self.err, pattern)

    async def _matches(self, file: Path, pattern: str) -> re.Match[str]:
        found: list[re.Match[str]] = []

        def matches() -> bool:
            has_ended = self.popen.poll() is not None
            found.extend(re.finditer(pattern, file.read_text("utf-8")))
            assert found or not has_ended, f"{self.name} ended ({self.popen.returncode}): {self.complained}"
            return bool(found)

        await until(matches, f"{self.name} says {pattern!r}; it said {self.complained}")
        return found[0]

    async def ended(self, patience: float = PATIENCE) -> int:
        """Wait until it has ended, and give its exit code."""
        await until(lambda: self.popen.poll() is not None, f"{self.name} ends; it said {self.complained}", patience)
        return int(self.popen.returncode)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.popen.send_signal(number)

    def freeze(self) -> None:
        """SIGSTOP."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and see it gone."""
        self.popen.kill()
        self.popen.wait()


@asynccontextmanager
async def process(
    folder: Path, *command: str | Path, name: str = "gateway", env: Mapping[str, str] | None = None
) -> AsyncIterator[Process]:
    """Run a program; it is killed on leaving if it still runs."""
    out, err = folder / f"{name}.out", folder / f"{name}.err"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GATEWAY_")}
    with out.open("wb") as stdout, err.open("wb") as stderr:
        popen = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**clean, "COLUMNS": "120", "NO_COLOR": "1", **(env or {})},
            cwd=folder,
        )
    running = Process(name, popen, out, err)
    try:
        yield running
    finally:
        running.kill()


def complaints(gateways: Iterable[Process]) -> list[str]:
    """Give what gateways logged as an error, and tracebacks."""
    lines = [line for running in gateways for line in running.complained.splitlines()]
    return [line for line in lines if "Traceback" in line or '"level": "error"' in line]


@dataclass
class House:
    """A hub, a NATS server and a wire to it, each a process of its own (the wire is the test's)."""

    folder: Path
    accounts: list[str]
    hub: str
    server: NatsServer
    wire: Wire
    http: aiohttp.ClientSession
    config: Path
    _stack: AsyncExitStack
    gateways: list[Process] = field(default_factory=list)

    async def gateway(self) -> Process:
        """Start a gateway."""
        name = f"gateway-{len(self.gateways) + 1}"
        command = (GATEWAY, "run", "--config", self.config)
        running = await self._stack.enter_async_context(process(self.folder, *command, name=name))
        self.gateways.append(running)
        return running

    async def ask(self, request: str, **body: Any) -> Any:  # noqa: ANN401 - JSON
        """Ask the hub's admin API, as in `POST /drop`."""
        method, path = request.split()
        async with self.http.request(method, f"{self.hub}/simulator{path}", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def emit(self, count: int, rate: float) -> None:
        """Let each account's hub emit `count` events at `rate` a second, from now on."""
        for account in self.accounts:
            await self.ask(f"POST /users/{account}/emit", count=count, rate=rate)

    async def settled(self, count: int) -> None:
        """Wait until every account's hub has emitted `count` events, and its checkpoint says that they are final."""

        async def have_emitted() -> bool:
            users = (await self.ask("GET /status"))["users"]
            return all(user["counts"].get("emitted", 0) >= count for user in users)

        await until(have_emitted, f"every account's hub emitted {count} events")
        last = {account: events[-1].sequence for account, events in (await self.truth()).items()}
        client = await nats.connect(self.server.url, allow_reconnect=False)
        try:
            stream = client.jetstream()

            async def have_settled() -> bool:
                for account in self.accounts:
                    try:
                        subject = f"mesolive.gateway.checkpoint.*.{account}"
                        message = await stream.get_last_msg("mesolive-gateway", subject)
                    except NotFoundError:
                        return False
                    found = re.search(rb'"verified":(\d+)', message.data or b"")
                    if found is None or int(found[1]) < last[account]:
                        return False
                return True

            await until(have_settled, f"all accounts are settled up to {last}")
        finally:
            await client.close()

    async def acknowledged(self, events: int) -> None:
        """Wait until the gateway was told that so many events are stored."""
        await until(lambda: self.wire.acknowledged >= events, f"{events} events are acknowledged")

    async def truth(self) -> dict[str, list[Truth]]:
        """Give what the hub emitted."""
        return {account: await read_truth(self.hub, account) for account in self.accounts}

    async def log(self) -> list[Found]:
        """Give what the stream holds."""
        return await read_log(self.server.url)

    async def verdict(self) -> Verdict:
        """Judge the whole log."""
        return judge(await self.truth(), await self.log())

    def complaints(self) -> list[str]:
        """Give what gateways logged as an error, and tracebacks."""
        return complaints(self.gateways)


@asynccontextmanager
async def house(
    folder: Path, *, accounts: int = 5, prefill: int = 0, seed: int = 1, grace: float = 1.0
) -> AsyncIterator[House]:
    """Start everything but the gateway; the hub writes every other account's events in the other wire form."""
    names = [f"account-{number}" for number in range(1, accounts + 1)]
    keys = folder / "accounts"
    keys.mkdir()
    for name in names:
        (keys / name).write_text(f"key-of-{name}\n")
    users = [part for name in names for part in ("--user", f"{name}=key-of-{name}")]
    command = (str(GATEWAY), "simulate", *users, "--rate", "0", "--seed", str(seed))
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(NatsServer(folder / "nats"))
        hub = await stack.enter_async_context(process(folder, *command, name="hub"))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        wire = await stack.enter_async_context(Wire(lambda: server.port or 0))
        url = (await hub.hears(r"hub: (\S+)\n"))[1]
        config = folder / "gateway.yaml"
        config.write_text(
            f"hub: {{url: '{url}'}}\n"
            f"accounts: {{directory: '{keys}'}}\n"
            f"broker: {{servers: ['{wire.url}']}}\n"
            f"session: {{history_grace: {grace}, audit_interval: 0.5}}\n"
            "log: {format: json}\n"
        )
        house = House(folder, names, url, server, wire, http, config, stack)
        for name in names[1::2]:
            await house.ask(f"PATCH /users/{name}/faults", form="pascal-string")
        for name in names if prefill else []:
            await house.ask(f"POST /users/{name}/emit", count=prefill)
        yield house


@contextlib.asynccontextmanager
async def meanwhile(doing: Awaitable[None]) -> AsyncIterator[None]:
    """Let something happen for as long as the context lasts; what it raises is raised."""
    task = asyncio.ensure_future(doing)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.result()
