"""Real processes: each with its own handle, its words in files, and an end that comes even when the test fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import nats
from nats.js.errors import NotFoundError

from tests.support import preloaded
from tests.support.checker import Found, Truth, Verdict, judge, read_log, read_truth
from tests.support.freezing import freeze
from tests.support.nats_proxy import Wire
from tests.support.nats_server import NatsServer
from tests.support.putting_back import keep, put_back
from tests.support.slow_line import SlowLine, slow_line

GATEWAY: Final = Path(sys.executable).with_name("gateway")
ROOT: Final = Path(__file__).parents[2]
TIMEOUT_S: Final = 60.0
"""Seconds until what must happen has not."""
_POLL: Final = 0.02
_FREE_PORTS: Final = {"GATEWAY_CONTROL__PORT": "0", "GATEWAY_MONITORING__PORT": "0"}
"""Several gateways run on this machine."""


async def until(
    condition: Callable[[], Awaitable[bool] | bool], what: str | Callable[[], str], timeout_s: float = TIMEOUT_S
) -> None:
    """Wait until `condition` holds; fail in the words of `what`, asked for then, when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return
        if time.monotonic() >= deadline:
            message = what if isinstance(what, str) else what()
            raise AssertionError(f"it did not happen within {timeout_s:g} s: {message}")
        await asyncio.sleep(_POLL)


@dataclass
class Process:
    """One program that runs, or ran."""

    name: str
    popen: subprocess.Popen[bytes]
    out: Path
    err: Path

    @property
    def stdout(self) -> str:
        """Everything on standard output so far."""
        return self.out.read_text("utf-8")

    @property
    def stderr(self) -> str:
        """Everything on standard error so far."""
        return self.err.read_text("utf-8")

    def lines(self) -> list[dict[str, Any]]:
        """Return what it logged so far as JSON."""
        lines = self.err.read_bytes().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"\n")]

    async def wait_for_output(self, pattern: str) -> re.Match[str]:
        """Wait until standard output matches, and return the match."""
        return await self._matches(self.out, pattern)

    async def wait_for_log(self, pattern: str) -> re.Match[str]:
        """Wait until standard error matches, and return the match."""
        return await self._matches(self.err, pattern)

    async def _matches(self, file: Path, pattern: str) -> re.Match[str]:
        found: list[re.Match[str]] = []

        def matches() -> bool:
            has_ended = self.popen.poll() is not None
            found.extend(re.finditer(pattern, file.read_text("utf-8")))
            assert found or not has_ended, f"{self.name} ended ({self.popen.returncode}): {self.stderr}"
            return bool(found)

        await until(matches, lambda: f"{self.name} says {pattern!r}; it said {self.stderr}")
        return found[0]

    async def ended(self, timeout_s: float = TIMEOUT_S) -> int:
        """Wait until it has ended, and give its exit code."""
        message = lambda: f"{self.name} ends; it said {self.stderr}"  # noqa: E731 - what it said until then
        await until(lambda: self.popen.poll() is not None, message, timeout_s)
        return int(self.popen.returncode)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if number == signal.SIGSTOP:
            self.freeze()
        else:
            self.popen.send_signal(number)

    def freeze(self) -> None:
        """SIGSTOP: once this returns it does nothing any more."""
        freeze(self.popen)

    def thaw(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and see it gone."""
        self.popen.kill()
        self.popen.wait()


@asynccontextmanager
async def process(
    folder: Path,
    *command: str | Path,
    name: str = "gateway",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> AsyncIterator[Process]:
    """Run a program, in `folder` unless `cwd` says otherwise; it is killed on leaving if it still runs.

    A gateway's modules are loaded already where the test process has allowed that; see `preloaded`.
    """
    out, err = folder / f"{name}.out", folder / f"{name}.err"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GATEWAY_")}
    whole = {**clean, **_FREE_PORTS, "COLUMNS": "120", "NO_COLOR": "1", **(env or {})}
    arguments = list(map(str, command))
    with out.open("wb") as stdout, err.open("wb") as stderr:
        if command[0] == GATEWAY and preloaded.suits(env or {}):
            popen: subprocess.Popen[bytes] = preloaded.LOADER.fork(arguments, out, err, whole, cwd or folder)
        else:
            popen = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=whole, cwd=cwd or folder
            )
    running = Process(name, popen, out, err)
    try:
        yield running
    finally:
        running.kill()


def errors(gateways: Iterable[Process]) -> list[str]:
    """Return what gateways logged as an error, and tracebacks."""
    lines = [line for running in gateways for line in running.stderr.splitlines()]
    return [line for line in lines if "Traceback" in line or '"level": "error"' in line]


def verified_of(checkpoint: bytes) -> int:
    """Return the sequence up to which everything is in the log for good."""
    return int(json.loads(checkpoint)["verified"])


def settled_of(checkpoint: bytes) -> int:
    """Return the highest sequence that is in the log."""
    stored = json.loads(checkpoint)
    return int(stored["verified"]) + max(0, sum(stored.get("settled", ())) - 1)


@dataclass(kw_only=True)
class Scene(ABC):
    """A simulated hub and gateways between it and some broker."""

    folder: Path
    hub: str
    accounts: Sequence[str]
    http: aiohttp.ClientSession
    stack: AsyncExitStack
    line: SlowLine
    """To the broker, where the scene has one."""
    runs: int = 0
    gateways: list[Process] = field(default_factory=list)

    @property
    def config(self) -> Path:
        """The gateways' settings."""
        return self.folder / "gateway.yaml"

    async def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
        """Start a command."""
        self.runs += 1
        command = (GATEWAY, *arguments, "--config", self.config)
        running = process(self.folder, *command, name=f"{arguments[0]}-{self.runs}", env=env)
        return await self.stack.enter_async_context(running)

    async def gateway(self, env: Mapping[str, str] | None = None) -> Process:
        """Start a gateway."""
        self.gateways.append(await self.start("run", env=env))
        return self.gateways[-1]

    async def ask(self, request: str, **body: Any) -> Any:  # noqa: ANN401 - JSON
        """Ask the hub's admin API, as in `POST /drop`."""
        method, path = request.split()
        async with self.http.request(method, f"{self.hub}/simulator{path}", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def users(self) -> list[dict[str, Any]]:
        """Return the status of every account's user at the hub."""
        return list((await self.ask("GET /status"))["users"])

    async def emit(self, count: int, rate: float) -> None:
        """Let each account's hub emit `count` events at `rate` a second, from now on."""
        for account in self.accounts:
            await self.ask(f"POST /users/{account}/emit", count=count, rate=rate)

    async def settled(self, count: int) -> None:
        """Wait until every account's hub has emitted `count` events, and its checkpoint says that they are final."""

        async def have_emitted() -> bool:
            return all(user["counts"].get("emitted", 0) >= count for user in await self.users())

        await until(have_emitted, f"every account's hub emitted {count} events")
        await self.reached(await self.latest(), verified_of)

    async def latest(self) -> dict[str, int]:
        """Return the sequence of each account's last event at the hub."""
        return {user["name"]: user["latest"] for user in await self.users()}

    @abstractmethod
    async def reached(
        self, last: Mapping[str, int], read: Callable[[bytes], int], timeout_s: float = TIMEOUT_S
    ) -> None:
        """Wait until each account's checkpoint, as `read` has it, has reached this sequence."""

    @abstractmethod
    async def verdict(self) -> Verdict:
        """Judge the whole log."""

    async def truth(self) -> dict[str, list[Truth]]:
        """Return what the hub emitted."""
        return {account: await read_truth(self.hub, account) for account in self.accounts}

    def errors(self) -> list[str]:
        """Return what gateways logged as an error, and tracebacks."""
        return errors(self.gateways)


@dataclass(kw_only=True)
class House(Scene):
    """A scene with a NATS server and a wire to it; the wire is the test's, all else are processes."""

    hub_process: Process
    server: NatsServer
    wire: Wire

    async def reached(
        self, last: Mapping[str, int], read: Callable[[bytes], int], timeout_s: float = TIMEOUT_S
    ) -> None:
        """Wait for the checkpoints; see `Scene`."""
        client = await nats.connect(self.server.url, allow_reconnect=False)
        behind = dict(last)
        try:
            stream = client.jetstream()

            async def have_reached() -> bool:
                for account, sequence in list(behind.items()):
                    subject = f"mesolive.gateway.checkpoint.*.{account}"
                    with suppress(NotFoundError):
                        message = await stream.get_last_msg("mesolive-gateway", subject)
                        if read(message.data or b"") >= sequence:
                            del behind[account]
                return not behind

            await until(have_reached, f"the checkpoints of all accounts reach {last}", timeout_s)
        finally:
            await client.close()

    def in_flight(self, process: int) -> int:
        """Count the events of a process in commits that it has no answer for."""
        return self.wire.in_flight(process)

    def sever(self, process: int) -> None:
        """Cut a process off from the broker."""
        self.wire.gates.sever(process)

    def mend(self) -> None:
        """Let everybody get through to the broker."""
        self.wire.gates.mend()

    def kill_broker(self) -> None:
        """SIGKILL."""
        self.server.kill()

    def start_broker(self) -> None:
        """Start it again, and block until it serves."""
        self.server.start()

    def keep_store(self) -> None:
        """Copy what it has stored, while it is down for a moment."""
        keep(self.server)

    def put_store_back(self) -> None:
        """Let it go on from the copy."""
        put_back(self.server)

    async def spoil(self, *, is_spoiled: bool) -> None:
        """Change a setting without which nothing can be stored, or put it back."""
        await self.edit_stream(allow_atomic=not is_spoiled)

    async def edit_stream(self, **settings: object) -> None:
        """Change settings of the stream of events, as an operator does."""
        client = await nats.connect(self.server.url)
        try:
            stream = (await client.jetstream().stream_info("mesolive-gateway")).config.as_dict()
            body = json.dumps(stream | settings).encode()
            answer = json.loads((await client.request("$JS.API.STREAM.UPDATE.mesolive-gateway", body, timeout=5)).data)
            assert "error" not in answer, answer
        finally:
            await client.close()

    async def acknowledged(self, events: int) -> None:
        """Wait until the gateway was told that so many events are stored."""
        await until(lambda: self.wire.acknowledged >= events, f"{events} events are acknowledged")

    async def log(self) -> list[Found]:
        """Return what the stream holds."""
        return await read_log(self.server.url)

    async def verdict(self) -> Verdict:
        """Judge the whole log."""
        return judge(await self.truth(), await self.log())


@asynccontextmanager
async def house(
    folder: Path,
    *,
    accounts: int | Sequence[str] = 5,
    prefill: int = 0,
    seed: int = 1,
    grace: float = 1.0,
    audit: float = 0.5,
    has_line: bool = False,
) -> AsyncIterator[House]:
    """Start everything but the gateway; the hub writes every other account's events in the other wire form.

    `accounts` are names, or how many there are to be; `has_line` puts a line before the broker that can become slow.
    """
    names = [f"account-{number}" for number in range(1, accounts + 1)] if isinstance(accounts, int) else list(accounts)
    keys = folder / "accounts"
    keys.mkdir()
    for name in names:
        (keys / name).write_text(f"key-of-{name}\n")
        (keys / name).chmod(0o600)
    users = [part for name in names for part in ("--user", f"{name}=key-of-{name}")]
    command = (GATEWAY, "simulate", *users, "--rate", "0", "--seed", str(seed))
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(NatsServer(folder / "nats"))
        hub = await stack.enter_async_context(process(folder, *command, name="hub"))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        line = await stack.enter_async_context(slow_line(lambda: server.port or 0))
        wire = await stack.enter_async_context(Wire(lambda: line.port if has_line else server.port or 0))
        url = (await hub.wait_for_output(r"hub: (\S+)\n"))[1]
        house = House(
            folder=folder,
            hub=url,
            accounts=names,
            http=http,
            stack=stack,
            line=line,
            hub_process=hub,
            server=server,
            wire=wire,
        )
        house.config.write_text(
            f"hub: {{url: '{url}'}}\n"
            f"accounts: {{directory: '{keys}'}}\n"
            f"broker: {{servers: ['{wire.url}']}}\n"
            f"session: {{history_grace: {grace}, audit_interval: {audit}}}\n"
            "log: {format: json}\n"
        )
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
