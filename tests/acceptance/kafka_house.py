"""A hub, Kafka behind wires, and gateways: what the acceptance tests on Kafka have in common.

The topics are read by librdkafka, as any consumer does.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

import aiohttp
from confluent_kafka import Consumer, KafkaError, TopicPartition

from tests.acceptance.checker import Found, Truth, Verdict, judge, read_truth
from tests.acceptance.kafka_flights import Flights
from tests.acceptance.processes import GATEWAY, PATIENCE, Process, complaints, process, until
from tests.contract.kafka_server import KafkaServer
from tests.contract.kafka_wire import Wire

ACCOUNTS: Final = ("alpha", "beta", "gamma")


@dataclass
class Place:
    """Everything that runs, and its settings in `gateway.yaml`."""

    folder: Path
    hub: str
    accounts: Sequence[str]
    wires: list[Wire]
    prefix: str
    http: aiohttp.ClientSession
    flights: Flights
    stack: AsyncExitStack
    inner: str
    """Where others than the gateway find Kafka."""
    runs: int = 0
    gateways: list[Process] = field(default_factory=list)

    @property
    def wire(self) -> Wire:
        """The first wire."""
        return self.wires[0]

    @property
    def address(self) -> str:
        """What clients bootstrap from."""
        return ",".join(f"127.0.0.1:{wire.port}" for wire in self.wires)

    @property
    def config(self) -> Path:
        """The settings."""
        return self.folder / "gateway.yaml"

    def topic(self, kind: str) -> str:
        """Give the topic of a kind."""
        return f"{self.prefix}.{kind}.v1"

    async def start(self, *arguments: str) -> Process:
        """Start a command."""
        self.runs += 1
        command = (GATEWAY, *arguments, "--config", self.config)
        return await self.stack.enter_async_context(process(self.folder, *command, name=f"{arguments[0]}-{self.runs}"))

    async def gateway(self) -> Process:
        """Start a gateway."""
        self.gateways.append(await self.start("run"))
        return self.gateways[-1]

    async def run(self, *arguments: str) -> tuple[int, list[str]]:
        """Run a command to its end; give its exit code and all lines that it wrote."""
        command = await self.start(*arguments)
        code = await command.ended()
        text = command.said + command.complained
        assert "Traceback" not in text
        return code, text.splitlines()

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

    async def truth(self) -> dict[str, list[Truth]]:
        """Give what the hub emitted."""
        return {account: await read_truth(self.hub, account) for account in self.accounts}

    async def log(self, isolation: str = "read_committed") -> list[Found]:
        """Give what a consumer finds, in each topic's order."""
        return await asyncio.to_thread(read_topics, self.inner, self.prefix, isolation)

    async def verdict(self, isolation: str = "read_committed") -> Verdict:
        """Judge the whole log, as such a consumer sees it."""
        return judge(await self.truth(), await self.log(isolation), by_kind=True)

    def complaints(self) -> list[str]:
        """Give what gateways logged as an error, and tracebacks."""
        return complaints(self.gateways)

    async def settled(self, count: int) -> None:
        """Wait until every account's hub has emitted `count` events, and its checkpoint says that they are final."""

        async def have_emitted() -> bool:
            users = (await self.ask("GET /status"))["users"]
            return all(user["counts"].get("emitted", 0) >= count for user in users)

        await until(have_emitted, f"every account's hub emitted {count} events")
        last = {account: events[-1].sequence for account, events in (await self.truth()).items()}
        await asyncio.to_thread(wait_for_checkpoints, self.inner, self.prefix, last)


def read_topics(address: str, prefix: str, isolation: str = "read_committed") -> list[Found]:
    """Read every topic of events to its end, in the words of the checker, which are those of NATS."""
    consumer = _consumer(address, isolation)
    try:
        names = [name for name in _topics(consumer) if name.startswith(f"{prefix}.") and name.endswith(".v1")]
        left = _assign(consumer, names)
        found: list[Found] = []
        while left:
            record = consumer.poll(20)
            assert record is not None, "nothing comes"
            if record.error() is not None:
                if record.error().code() == KafkaError._PARTITION_EOF:
                    left.discard((record.topic(), record.partition()))
                else:
                    assert record.error().retriable(), record.error()
                continue
            headers = {name: value.decode() for name, value in record.headers() or []}
            headers["ce_datacontenttype"] = headers.pop("content-type")
            said = {name.replace("ce_", "ce-"): quote(text) for name, text in headers.items()}
            kind = record.topic().removeprefix(f"{prefix}.").removesuffix(".v1")
            subject = f"mesolive.events.{kind}.v1.{headers['ce_account']}"
            found.append(Found(record.offset(), subject, said | {"Gateway-Key": record.key().decode()}, record.value()))
        return found
    finally:
        consumer.close()


def wait_for_checkpoints(address: str, prefix: str, last: dict[str, int]) -> None:
    """Block until each account's checkpoint says that everything up to its last sequence is verified."""
    consumer = _consumer(address, "read_committed")
    verified = dict.fromkeys(last, -1)
    deadline = time.monotonic() + PATIENCE
    try:
        checkpoints = f"{prefix}.gateway.checkpoints"
        while checkpoints not in _topics(consumer):
            assert time.monotonic() < deadline, f"there is no {checkpoints}"
        _assign(consumer, [checkpoints])
        while behind := {name for name, sequence in last.items() if verified[name] < sequence}:
            assert time.monotonic() < deadline, f"{behind} are not settled: {verified} of {last}"
            record = consumer.poll(1)
            if record is not None and record.error() is None and record.key().decode() in last:
                found = re.search(rb'"verified":(\d+)', record.value())
                verified[record.key().decode()] = int(found[1]) if found else -1
    finally:
        consumer.close()


def _consumer(address: str, isolation: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": address,
            "group.id": uuid4().hex,
            "enable.auto.commit": False,
            "isolation.level": isolation,
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )


def _topics(consumer: Consumer) -> list[str]:
    return list(consumer.list_topics(timeout=10).topics)


def _assign(consumer: Consumer, names: Sequence[str]) -> set[tuple[str | None, int | None]]:
    topics = consumer.list_topics(timeout=10).topics
    places = [(name, number) for name in names for number in topics[name].partitions]
    consumer.assign([TopicPartition(name, number, 0) for name, number in places])
    return set(places)


@asynccontextmanager
async def made(
    folder: Path,
    *servers: KafkaServer,
    accounts: Sequence[str] = ACCOUNTS,
    prefill: int = 0,
    seed: int = 1,
    grace: float = 1.0,
    shards: int = 2,
    broker: str = "",
    inner: str | None = None,
) -> AsyncIterator[Place]:
    """Start everything but the gateway; `broker` adds to the settings of that name.

    `inner` is where others than the gateway find Kafka, where they are not to pass by the wires.
    """
    keys = folder / "accounts"
    keys.mkdir()
    users = []
    for name in accounts:
        (keys / name).write_text(f"key-of-{name}\n")
        users += ["--user", f"{name}=key-of-{name}"]
    simulate = (GATEWAY, "simulate", *users, "--rate", "0", "--prefill", str(prefill), "--seed", str(seed))
    async with AsyncExitStack() as stack:
        flights = Flights()
        wires = [
            await stack.enter_async_context(Wire(server.wire_port, server.port, watch=flights)) for server in servers
        ]
        stack.callback(flights.let_go)
        hub = await stack.enter_async_context(process(folder, *simulate, name="hub"))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        url = (await hub.hears(r"hub: (\S+)\n"))[1]
        inner = inner or ",".join(f"127.0.0.1:{wire.port}" for wire in wires)
        place = Place(folder, url, accounts, wires, f"t{uuid4().hex[:8]}", http, flights, stack, inner)
        place.config.write_text(
            f"hub: {{url: '{url}'}}\n"
            f"accounts: {{directory: '{keys}'}}\n"
            f"broker: {{kind: kafka, servers: '{place.address}', prefix: {place.prefix}, "
            f"replicas: {len(servers)}{broker}}}\n"
            "topics: {partitions: 4}\n"
            f"shards: {shards}\n"
            f"session: {{history_grace: {grace}, audit_interval: 0.5}}\n"
            "log: {format: json}\n"
        )
        yield place


async def reached(place: Place, last: int) -> None:
    """Wait until every account's event of that number is in the log."""

    async def have_all() -> bool:
        found = [one for one in await place.log() if one.headers["Gateway-Key"] == str(last)]
        return len(found) >= len(place.accounts)

    await until(have_all, f"all events up to {last} are in the log", 60)
