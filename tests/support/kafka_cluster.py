"""A hub, Kafka behind wires, and gateways: what the acceptance tests on Kafka have in common.

The topics are read by librdkafka, as any consumer does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote
from uuid import uuid4

import aiohttp
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from tests.support.checker import Found, Verdict, judge
from tests.support.gateway_process import GATEWAY, TIMEOUT_S, Scene, process, until
from tests.support.kafka_proxy import Wire
from tests.support.kafka_server import KafkaServer
from tests.support.kafka_transactions import Flights
from tests.support.putting_back import keep, put_back
from tests.support.slow_line import slow_line

ACCOUNTS: Final = ("alpha", "beta", "gamma")


@dataclass(kw_only=True)
class Place(Scene):
    """A scene with Kafka behind wires."""

    servers: Sequence[KafkaServer]
    wires: list[Wire]
    prefix: str
    flights: Flights
    inner: str
    """Where others than the gateway find Kafka."""
    checkpoints: Checkpoints

    @property
    def wire(self) -> Wire:
        """The first wire."""
        return self.wires[0]

    @property
    def address(self) -> str:
        """What clients bootstrap from."""
        return ",".join(f"127.0.0.1:{wire.port}" for wire in self.wires)

    def topic(self, kind: str) -> str:
        """Return the topic of a kind."""
        return f"{self.prefix}.{kind}.v1"

    async def run(self, *arguments: str) -> tuple[int, list[str]]:
        """Run a command to its end; give its exit code and all lines that it wrote."""
        command = await self.start(*arguments)
        code = await command.ended()
        text = command.stdout + command.stderr
        assert "Traceback" not in text
        return code, text.splitlines()

    async def log(self, isolation: str = "read_committed") -> list[Found]:
        """Return what a consumer finds, in each topic's order."""
        return await asyncio.to_thread(read_topics, self.inner, self.prefix, isolation)

    async def verdict(self, isolation: str = "read_committed") -> Verdict:
        """Judge the whole log, as such a consumer sees it."""
        return judge(await self.truth(), await self.log(isolation), by_kind=True)

    async def reached(
        self, last: Mapping[str, int], read: Callable[[bytes], int], timeout_s: float = TIMEOUT_S
    ) -> None:
        """Wait for the checkpoints; see `Scene`."""
        await asyncio.to_thread(self.checkpoints.reach, last, read, timeout_s)

    def in_flight(self, process: int) -> int:
        """Count the events of a process in transactions whose outcome it does not know."""
        return self.flights.in_flight(process)

    def sever(self, process: int) -> None:
        """Cut a process off from the brokers."""
        for wire in self.wires:
            wire.gates.sever(process)

    def mend(self) -> None:
        """Let everybody get through to the brokers."""
        for wire in self.wires:
            wire.gates.mend()

    def kill_broker(self) -> None:
        """SIGKILL of the first."""
        self.servers[0].kill()

    def start_broker(self) -> None:
        """Start it again, and block until it serves."""
        self.servers[0].start()

    def keep_store(self) -> None:
        """Copy what the first has stored, while it is down for a moment."""
        keep(self.servers[0])

    def put_store_back(self) -> None:
        """Let it go on from the copy."""
        put_back(self.servers[0])
        self.checkpoints.begin_again()

    async def spoil(self, *, is_spoiled: bool) -> None:
        """Change a setting without which nothing can be stored, or put it back."""
        name = f"{self.prefix}.gateway.checkpoints"
        entry = ConfigEntry(
            "min.insync.replicas", "2" if is_spoiled else "1", incremental_operation=AlterConfigOpType.SET
        )
        change = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
        admin = AdminClient({"bootstrap.servers": self.inner})
        for done in admin.incremental_alter_configs([change]).values():
            await asyncio.to_thread(done.result, 20)


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
            decoded = {name.replace("ce_", "ce-"): quote(text) for name, text in headers.items()}
            kind = record.topic().removeprefix(f"{prefix}.").removesuffix(".v1")
            subject = f"mesolive.events.{kind}.v1.{headers['ce_account']}"
            decoded["Gateway-Key"] = record.key().decode()
            found.append(Found(record.offset(), subject, decoded, record.value(), record.timestamp()[1] / 1000))
        return found
    finally:
        consumer.close()


class Checkpoints:
    """The newest of each account, as a consumer finds them that goes on where it was."""

    def __init__(self, address: str, prefix: str) -> None:
        self._consumer = _consumer(address, "read_committed")
        self._topic = f"{prefix}.gateway.checkpoints"
        self._newest: dict[str, bytes] = {}
        self._is_assigned = False

    def reach(self, last: Mapping[str, int], read: Callable[[bytes], int], timeout_s: float) -> None:
        """Block until each account's, as `read` has it, has reached this sequence."""
        deadline = time.monotonic() + timeout_s
        while not self._is_assigned:
            assert time.monotonic() < deadline, f"there is no {self._topic}"
            with suppress(KafkaException):
                if self._topic in _topics(self._consumer):
                    _assign(self._consumer, [self._topic])
                    self._is_assigned = True
        behind = set(last)
        while behind := {name for name in behind if read(self._newest.get(name, b'{"verified": -1}')) < last[name]}:
            assert time.monotonic() < deadline, f"{behind} did not reach {last}"
            for record in self._consumer.consume(500, 0.1):
                if record.error() is None:
                    self._newest[record.key().decode()] = record.value() or b'{"verified": -1}'

    def begin_again(self) -> None:
        """Forget all, and read from the beginning: the topic has lost its end."""
        self._newest.clear()
        self._is_assigned = False

    def close(self) -> None:
        """Let the consumer go."""
        self._consumer.close()


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
    audit: float = 0.5,
    shards: int = 2,
    broker: str = "",
    inner: str | None = None,
    has_line: bool = False,
) -> AsyncIterator[Place]:
    """Start everything but the gateway; `broker` adds to the settings of that name.

    `inner` is where others than the gateway find Kafka, where they are not to pass by the wires. `has_line` puts a line
    that can become slow behind the wire of the first server, which others do not go over.
    """
    keys = folder / "accounts"
    keys.mkdir()
    users = []
    for name in accounts:
        (keys / name).write_text(f"key-of-{name}\n")
        (keys / name).chmod(0o600)
        users += ["--user", f"{name}=key-of-{name}"]
    simulate = (GATEWAY, "simulate", *users, "--rate", "0", "--prefill", str(prefill), "--seed", str(seed))
    async with AsyncExitStack() as stack:
        flights = Flights()
        line = await stack.enter_async_context(slow_line(lambda: servers[0].port))
        if has_line:
            inner = f"127.0.0.1:{servers[0].inner_port}"
        wires = [
            await stack.enter_async_context(
                Wire(server.wire_port, line.port if has_line else server.port, watch=flights)
            )
            for server in servers
        ]
        stack.callback(flights.let_go)
        hub = await stack.enter_async_context(process(folder, *simulate, name="hub"))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        url = (await hub.wait_for_output(r"hub: (\S+)\n"))[1]
        inner = inner or ",".join(f"127.0.0.1:{wire.port}" for wire in wires)
        prefix = f"t{uuid4().hex[:8]}"
        checkpoints = Checkpoints(inner, prefix)
        stack.callback(checkpoints.close)
        place = Place(
            folder=folder,
            hub=url,
            accounts=accounts,
            http=http,
            stack=stack,
            line=line,
            servers=servers,
            wires=wires,
            prefix=prefix,
            flights=flights,
            inner=inner,
            checkpoints=checkpoints,
        )
        place.config.write_text(
            f"hub: {{url: '{url}'}}\n"
            f"accounts: {{directory: '{keys}'}}\n"
            f"broker: {{kind: kafka, servers: '{place.address}', prefix: {place.prefix}, "
            f"replicas: {len(servers)}{broker}}}\n"
            "topics: {partitions: 4}\n"
            f"shards: {shards}\n"
            f"session: {{history_grace: {grace}, audit_interval: {audit}}}\n"
            "log: {format: json}\n"
        )
        yield place


async def reached(place: Place, last: int) -> None:
    """Wait until every account's event of that number is in the log."""

    async def have_all() -> bool:
        found = [one for one in await place.log() if one.headers["Gateway-Key"] == str(last)]
        return len(found) >= len(place.accounts)

    await until(have_all, f"all events up to {last} are in the log", 60)
