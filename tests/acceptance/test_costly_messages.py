"""A hub that sends one account the costliest messages: the events of the others stay in time and are exact, no shard is
opened again, every probe is answered, and the memory of the process stays within bounds.

Real processes: `gateway run` and a nats-server; the hub is in the test's process and waits for nothing. How late an
event is, its own EventTime and the server's time of storing say, so that nobody's busy loop counts but the gateway's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from signal import SIGTERM
from statistics import quantiles
from typing import Any, Final

import aiohttp
import nats
import pytest
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from gateway.accounts import shard_of
from gateway.broker.jetstream.embedded import EmbeddedServer
from gateway.simulator import CALLBACKS, Emission, Injection, Simulator, SimulatorConfig, simulator
from tests.support.checker import Found, judge, read_log, read_truth
from tests.support.costly import COSTLY
from tests.support.gateway_process import GATEWAY, Process, process, until

pytestmark = pytest.mark.usefixtures("started_afresh")

log = logging.getLogger(__name__)

COSTLY_ONE: Final = "costly"
CALM: Final = ("calm-1", "calm-10")
"""One of another shard, and one of the same."""
RATE: Final = 25
"""Events a second of each calm account."""
QUIET: Final = 3.0
"""Seconds of each quiet phase, beside which the others are judged."""
SHORTEST: Final = 0.8
"""Seconds of a phase at the least, so that it has events."""
FLOOR: Final = 2.0
"""Seconds that an event may come later than in quiet: less than a lease lasts (3 s). On a quiet machine it is 0.3."""
HANGS: Final = 10.0
"""Seconds within which a probe is answered: on a quiet machine it takes some hundredths of one."""
MIB: Final = 2**20
MEMORY: Final = 64 * MIB
"""The gateway's `memory_bytes`."""
BESIDE: Final = 160 * MIB
"""What a process may take on top of the budget and of what it took in quiet: one message of 8 MiB at a time, on its
thread, in some copies, as text of up to 4 bytes a character, and up to 200,000 parts of it as objects."""
_HEAD: Final = b'{"type":1,"target":"OnOrderUpdate","arguments":['

Send = Callable[[Simulator], object]


def message(raw: bytes) -> Send:
    """Return what sends one message."""
    return lambda hub: hub.user(COSTLY_ONE).inject(Injection(raw[:-1], is_record=True, numbered=False))


def bytes_of(*raw: bytes) -> Send:
    """Return what sends WebSocket messages that need not end a record."""

    def send(hub: Simulator) -> None:
        for connection in hub.server.of(hub.user(COSTLY_ONE)):
            for one in raw:
                connection.answer(one)

    return send


def frames(raw: bytes) -> Send:
    """Return what sends bytes below the WebSocket: frames as they are."""

    def send(hub: Simulator) -> None:
        for connection in hub.server.of(hub.user(COSTLY_ONE)):
            connection._transport.write(raw)  # a hub that breaks the rules

    return send


def page(*entries: bytes) -> Send:
    """Return what puts entries into the history, unpushed, so that the next page has them all."""

    def send(hub: Simulator) -> None:
        for raw in entries:
            hub.user(COSTLY_ONE).inject(Injection(raw, push=False, history="payload"))

    return send


def _sized(raw: bytes, size: int = MIB) -> bytes:
    return raw * (size // len(raw))


def _costly(name: str) -> Send:
    return message(COSTLY[name]())


MESSAGES: Final = (
    *("separators", "empty objects", "pings with spaces", "commas", "a list with a NaN"),
    *("an argument of very many members", "a huge text", "escapes", "deep nesting", "empty lists"),
    *("fewer lists", "fractions", "numbers too long", "an answer to nobody"),
)
"""One of each kind of `COSTLY`: the rest tells only a loop by itself."""
PAGES: Final[dict[str, Callable[[], Send]]] = {
    "a page of texts with escapes": lambda: page(*[b'{"X":"%b"}' % _sized(b"\\u00e9")] * 3),
    "a page of fractions": lambda: page(*[b'{"X":[%b1]}' % _sized(b"1.5,", MIB // 2)] * 3),
    "a page of deep nesting": lambda: page(*[b"[" * 50_000 + b"]" * 50_000] * 3),
    "a page with NaN": lambda: page(*[b'{"X":[NaN,%b1]}' % _sized(b"1,", MIB // 8)] * 3),
    "a page of small entries that are none": lambda: page(*[b"{}"] * 300),
    "a page of long numbers": lambda: page(*[b'{"X":%b}' % _sized(b"7")] * 3),
}
STREAMS: Final[dict[str, Callable[[], Send]]] = {
    "a record without an end": lambda: bytes_of(_HEAD + b'"', *[b"x" * MIB] * 9),
    "a message in pieces without an end": lambda: frames(b"\x01\x01[" + (b"\x00\x7d" + b"x" * 125) * 80_000),
    "empty pieces of a message": lambda: frames(b"\x01\x01[" + b"\x00\x00" * MIB + b"\x80\x02]\x1e"),
    "pings below SignalR": lambda: frames(b"\x89\x00" * 200_000),
    "empty messages": lambda: frames(b"\x81\x00" * 200_000),
    "messages of one byte": lambda: bytes_of(*[b" "] * 20_000, b"\x1e"),
}
LAST: Final = "made-up targets"
"""They make the account stand still: each is another dead letter."""
ALL: Final[dict[str, Callable[[], Send]]] = {
    **{name: partial(_costly, name) for name in MESSAGES},
    **PAGES,
    **STREAMS,
    LAST: lambda: message(b"".join(b'{"type":1,"target":"X","arguments":[%d]}\x1e' % n for n in range(150_000))),
}


@dataclass
class Phase:
    """The time in which one costly message is dealt with; without a name, one of quiet."""

    name: str
    began: float = field(default_factory=time.time)
    ended: float = 0.0
    peak: int = 0
    """The most bytes that the gateway had in memory so far."""


@dataclass
class Scene:
    """A hub, a gateway and a nats-server."""

    hub: Simulator
    server: EmbeddedServer
    client: Client
    gateway: Process
    phases: list[Phase] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    """Seconds until each probe was answered."""

    async def quiet(self) -> None:
        """Let nothing costly happen."""
        phase = Phase("")
        await asyncio.sleep(QUIET)
        self._ended(phase)

    async def suffer(self, name: str, send: Send) -> None:
        """Send something costly, and wait until the account goes on behind it."""
        hub, user = self.hub, self.hub.user(COSTLY_ONE)
        await until(lambda: any(one.strategies for one in user.listeners.values()), f"connected before {name}")
        phase = Phase(name)
        send(hub)
        user.emit(1, [CALLBACKS.index("OnOrderUpdate")])
        sequence = user.history.sequences[-1]
        if name == LAST:
            await self.gateway.wait_for_log("too many dead letters")
        elif name in PAGES:
            await until(lambda: self._reaches(COSTLY_ONE, sequence, is_final=True), f"{name}: it is final")
        else:
            await until(lambda: self._is_stored(sequence), f"{name}: {COSTLY_ONE} goes on behind it")
        await asyncio.sleep(max(0.1, phase.began + SHORTEST - time.time()))
        self._ended(phase)

    async def _is_stored(self, sequence: int) -> bool:
        subject = f"mesolive.events.order-update.v1.{COSTLY_ONE}"
        try:
            stored = await self.client.jetstream().get_last_msg("mesolive-gateway", subject)
        except NotFoundError:
            return False
        return bool(json.loads(stored.data or b"")["EventSeqId"] == sequence)

    async def level(self) -> None:
        """Wait until the log has everything of the calm accounts."""
        for name in CALM:
            last = self.hub.user(name).history.sequences[-1]
            await until(lambda last=last, name=name: self._reaches(name, last), f"{name} reaches {last}")  # type: ignore[misc]

    async def _reaches(self, name: str, sequence: int, *, is_final: bool = False) -> bool:
        stored = await self.client.jetstream().get_last_msg("mesolive-gateway", f"mesolive.gateway.checkpoint.*.{name}")
        checkpoint = json.loads(stored.data or b"")
        settled = 0 if is_final else max(0, sum(checkpoint.get("settled", ())) - 1)
        return bool(checkpoint["verified"] + settled >= sequence)

    def _ended(self, phase: Phase) -> None:
        phase.ended = time.time()
        status = Path(f"/proc/{self.gateway.popen.pid}/status").read_text()
        phase.peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
        self.phases.append(phase)
        log.info("%-35s %5.1f s", phase.name or "quiet", phase.ended - phase.began)

    async def ask(self, url: str, ready: asyncio.Event) -> None:
        """Ask for the probes, again and again, from when the gateway is ready on."""
        async with aiohttp.ClientSession() as http:

            async def is_ready() -> bool:
                async with http.get(url + "/readyz", headers={"Connection": "close"}) as answer:
                    return answer.status == 200

            await until(is_ready, "the gateway is ready")
            ready.set()
            while True:
                for path in ("/healthz", "/readyz"):
                    began = time.monotonic()
                    async with asyncio.timeout(HANGS), http.get(url + path, headers={"Connection": "close"}) as answer:
                        assert answer.status == 200, (path, answer.status, await answer.text())
                    self.answers.append(time.monotonic() - began)
                await asyncio.sleep(0.2)


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    """Start everything, and let events of the calm accounts flow."""
    assert shard_of(CALM[0], 16) != shard_of(COSTLY_ONE, 16) == shard_of(CALM[1], 16)
    users = {name: f"key-of-{name}" for name in (*CALM, COSTLY_ONE)}
    keys = folder / "keys"
    keys.mkdir()
    for name, key in users.items():
        (keys / name).write_text(key)
        (keys / name).chmod(0o600)
    config = SimulatorConfig(users=users, seed=7, queue_bytes=2**30)
    async with EmbeddedServer(folder / "nats") as server, simulator(config) as hub:
        (folder / "gateway.yaml").write_text(
            f"hub: {{url: '{hub.url}', max_dead_letters_per_minute: 10000}}\n"
            f"accounts: {{directory: '{keys}'}}\n"
            f"broker: {{servers: ['{server.url}']}}\n"
            "session: {history_grace: 0.3, audit_interval: 0.5}\n"
            f"memory_bytes: {MEMORY}\n"
            "log: {format: json}\n"
        )
        client = await nats.connect(server.url)
        try:
            async with process(folder, GATEWAY, "run", "--config", folder / "gateway.yaml") as gateway:
                for name in users:
                    fields = f'"account": "{name}", "state": "live"'
                    await gateway.wait_for_log(fields)
                for name in CALM:
                    hub.user(name).begin(Emission(RATE, None))
                yield Scene(hub, server, client, gateway)
                gateway.popen.send_signal(SIGTERM)
                assert await gateway.ended() == 0, gateway.stderr
        finally:
            await client.close()


def p99(values: list[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98]


def delays(found: list[Found]) -> list[tuple[float, float]]:
    """Return when each event of a calm account was emitted, and for how long it waited."""
    waited = []
    for one in found:
        at = datetime.fromisoformat(json.loads(one.value)["EventTime"]).timestamp()
        waited.append((at, one.stored_at - at))
    return waited


def disturbed(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines that are no account of what the costly account did: losses of shards and leases, above all."""
    return [
        line
        for line in lines
        if (line["level"] in {"warning", "error"} and COSTLY_ONE not in (line.get("account"), line.get("accounts")))
        or "shard log" in line["event"]
    ]


@pytest.mark.alone
@pytest.mark.timeout(400)
async def test_what_a_hub_sends_to_one_account_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        url = (
            await here.gateway.wait_for_log(
                r'"url": "([^"]+)", "address": "[^"]+", "event": "serving probes and metrics'
            )
        )[1]
        ready = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(here.ask(url, ready))
            await ready.wait()
            before = len(here.gateway.lines())
            for place, (name, make) in enumerate(ALL.items()):
                if place % 9 == 0:
                    await here.quiet()
                await here.suffer(name, await asyncio.to_thread(make))
            await here.quiet()
            asking.cancel()
        for name in CALM:
            here.hub.user(name).paused = True
        await here.level()
        found = [one for one in await read_log(here.server.url) if one.subject.rpartition(".")[2] in CALM]
        verdict = judge({name: await read_truth(here.hub.url, name) for name in CALM}, found)
        lines = here.gateway.lines()[before:]
    all_delays = delays(found)
    parts = [[delay for at, delay in all_delays if phase.began < at < phase.ended] for phase in here.phases]
    quiet = [delay for phase, part in zip(here.phases, parts, strict=True) if not phase.name for delay in part]
    bound = p99(quiet) * 2 + FLOOR
    late = {}
    for phase, waited in zip(here.phases, parts, strict=True):
        log.info(
            "%-35s %5.1f s, %3d events, p99 %5.0f ms, worst %5.0f ms, peak %4d MiB",
            *(phase.name or "quiet", phase.ended - phase.began, len(waited)),
            *(1000 * p99(waited), 1000 * max(waited), phase.peak // MIB),
        )
        assert len(waited) > SHORTEST * RATE / 2, phase
        if p99(waited) > bound:
            late[phase.name] = p99(waited)
    log.info("slowest probe %.2f s, bound %.2f s", max(here.answers), bound)
    assert late == {}, f"more than {bound:.2f} s"
    assert verdict.faults == {}, str(verdict)
    assert disturbed(lines) == []
    assert len(here.answers) > len(ALL)
    assert here.phases[-1].peak < here.phases[0].peak + MEMORY + BESIDE
