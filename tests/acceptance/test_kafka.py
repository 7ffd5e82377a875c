"""The commands and the promise on Kafka, with real processes: kills meet transactions in flight, at the wire.

The topics are read by librdkafka, read_committed, and judged by `checker.py`, which knows nothing of the gateway.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import aiohttp
import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.acceptance.checker import Found, judge, read_truth
from tests.acceptance.processes import GATEWAY, Process, process, until
from tests.contract import kafka_server
from tests.contract.kafka_server import KafkaServer, free_port
from tests.contract.kafka_wire import Api, Wire

ACCOUNTS = ("alpha", "beta", "gamma")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Give a broker that says that it is where the wire is."""
    kafka_server.require_java()
    wire = free_port()
    config = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{wire}"}
    with KafkaServer(tmp_path_factory.mktemp("kafka"), config=config) as made:
        made.wire_port = wire
        yield made


@dataclass
class Place:
    """A hub, a broker behind a wire, and gateways."""

    folder: Path
    hub: str
    wire: Wire
    prefix: str
    http: aiohttp.ClientSession
    stack: AsyncExitStack
    runs: int = 0
    gateways: list[Process] = field(default_factory=list)

    async def start(self, *arguments: str) -> Process:
        """Start a command."""
        self.runs += 1
        command = (str(GATEWAY), *arguments, "--config", str(self.folder / "gateway.yaml"))
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

    async def emit(self, count: int, rate: float) -> None:
        """Let each account's hub emit `count` events at `rate` a second, from now on."""
        for account in ACCOUNTS:
            url = f"{self.hub}/simulator/users/{account}/emit"
            async with self.http.post(url, json={"count": count, "rate": rate}) as answer:
                assert answer.status == 200

    async def log(self) -> list[Found]:
        """Give what a consumer of committed records finds, in each topic's order."""
        return await asyncio.to_thread(read_topics, f"127.0.0.1:{self.wire.port}", self.prefix)


def read_topics(address: str, prefix: str) -> list[Found]:
    """Read every topic of events to its end, in the words of the checker, which are those of NATS."""
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": uuid4().hex,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    try:
        topics = consumer.list_topics(timeout=10).topics
        names = [name for name in topics if name.startswith(f"{prefix}.") and name.endswith(".v1")]
        places = [TopicPartition(name, number, 0) for name in names for number in topics[name].partitions]
        consumer.assign(places)
        found: list[Found] = []
        ended = 0
        while ended < len(places):
            record = consumer.poll(20)
            assert record is not None, "nothing comes"
            if record.error() is not None:
                ended += 1
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


@asynccontextmanager
async def made(folder: Path, server: KafkaServer, *, prefill: int = 0) -> AsyncIterator[Place]:
    """Start everything but the gateway."""
    keys = folder / "accounts"
    keys.mkdir()
    users = []
    for name in ACCOUNTS:
        (keys / name).write_text(f"key-of-{name}\n")
        users += ["--user", f"{name}=key-of-{name}"]
    simulate = (GATEWAY, "simulate", *users, "--rate", "0", "--prefill", str(prefill))
    async with AsyncExitStack() as stack:
        wire = await stack.enter_async_context(Wire(server.wire_port, server.port))
        hub = await stack.enter_async_context(process(folder, *simulate, name="hub"))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        url = (await hub.hears(r"hub: (\S+)\n"))[1]
        place = Place(folder, url, wire, f"t{uuid4().hex[:8]}", http, stack)
        (folder / "gateway.yaml").write_text(
            f"hub: {{url: '{url}'}}\n"
            f"accounts: {{directory: '{keys}'}}\n"
            f"broker: {{kind: kafka, servers: ['127.0.0.1:{wire.port}'], prefix: {place.prefix}}}\n"
            "topics: {partitions: 4}\n"
            "shards: 2\n"
            "session: {history_grace: 1, audit_interval: 0.5}\n"
            "log: {format: json}\n"
        )
        yield place


async def reached(place: Place, last: int) -> None:
    """Wait until every account's event of that number is in the log."""

    async def have_all() -> bool:
        found = [one for one in await place.log() if one.headers["Gateway-Key"] == str(last)]
        return len(found) >= len(ACCOUNTS)

    await until(have_all, f"all events up to {last} are in the log", 60)


async def test_events_are_exact_through_kills_that_meet_transactions_in_flight(
    tmp_path: Path, server: KafkaServer
) -> None:
    async with made(tmp_path, server) as place:
        gateway = await place.gateway()
        await place.emit(1, 100)
        await reached(place, 1)
        for what in ("request", "answer", "request", "answer"):
            await place.emit(400, 400)
            snag = place.wire.snag(Api.END_TXN, what)
            await asyncio.wait_for(snag.caught.wait(), 20)
            gateway.kill()
            gateway = await place.gateway()
            await gateway.complains("the shard's log is open")
            snag.let_go()  # what the dead one asked for arrives now, too late to end anything
        await reached(place, 1601)
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended(10) == 0
        truth = {account: await read_truth(place.hub, account) for account in ACCOUNTS}
        verdict = judge(truth, await place.log(), by_kind=True)
        code, said = await place.run("verify", "--wait", "0")
    assert verdict.faults == {}
    assert (verdict.emitted, verdict.found) == (4803, 4803)
    assert (code, said[-1]) == (0, "verdict: exact")


async def test_a_gateway_stopped_while_another_took_over_stays_off(tmp_path: Path, server: KafkaServer) -> None:
    async with made(tmp_path, server) as place:
        zombie = await place.gateway()
        await place.emit(1, 100)
        await reached(place, 1)
        await place.emit(3000, 500)
        await until(lambda: zombie.popen.poll() is None, "it runs")
        zombie.signal(signal.SIGSTOP)
        heir = await place.gateway()
        await heir.complains("the shard's log is open")
        await reached(place, 1000)
        zombie.signal(signal.SIGCONT)
        await zombie.complains("another gateway has taken the shard: this one stays off it")
        await reached(place, 3001)
        truth = {account: await read_truth(place.hub, account) for account in ACCOUNTS}
        verdict = judge(truth, await place.log(), by_kind=True)
    assert verdict.faults == {}
    assert (verdict.emitted, verdict.found) == (9003, 9003)
    assert "opened again" not in heir.complained


async def test_check_and_tail_on_kafka(tmp_path: Path, server: KafkaServer) -> None:
    async with made(tmp_path, server, prefill=20) as place:
        code, lines = await place.run("check")
        assert code == 0
        assert lines[1].startswith(f"ok    broker: Kafka, 22 topics {place.prefix}.… as they must be")
        await place.gateway()
        await reached(place, 20)
        everything, one, last = [
            (await place.run("tail", "--no-follow", *arguments))[1]
            for arguments in (("--from", "first"), ("--from", "first", "--account", "beta"), ("--from", "last"))
        ]
        assert len(everything) == 60
        assert {line.split(" ")[1] for line in one} == {"beta"}
        assert len(one) == 20
        assert len(last) == 1
        (position,) = [line.split(" ")[0] for line in last]
        assert (await place.run("tail", "--no-follow", "--from", position))[1] == last


async def test_check_says_that_nobody_listens_where_kafka_should_be(tmp_path: Path, server: KafkaServer) -> None:
    async with made(tmp_path, server) as place:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            config = place.folder / "gateway.yaml"
            config.write_text(config.read_text().replace(str(place.wire.port), str(nobody.getsockname()[1])))
            code, lines = await place.run("check")
    assert code == 1
    (failed,) = [line for line in lines if line.startswith("FAIL")]
    assert "broker.servers: cannot connect to Kafka: 127.0.0.1:" in failed
    assert failed.endswith("Start Kafka there, or mend the setting.")
