"""The promises of the log on Kafka where aiokafka, the broker or the network between them fails."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiokafka.producer.sender
import pytest
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.errors import UnknownTopicOrPartitionError
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from gateway.broker.kafka import client_internals, cluster, topic_rules
from gateway.broker.kafka.log import EventLogSettings, KafkaLog
from gateway.broker.kafka.shard import KafkaShard
from gateway.broker.ports import Commit, EventLog, ShardLog
from gateway.errors import ActionRequired, BrokerError, CommitRejected, Fenced, OutcomeUnknown, TooLarge, Unavailable
from tests.support import kafka_server
from tests.support.event_log_suite import message, messages, numbers
from tests.support.kafka_proxy import Api, Wire
from tests.support.kafka_server import KafkaServer
from tests.support.leaks import leaving_nothing
from tests.support.rigs import PARTITIONS, SHARDS, KafkaRig, kafka_rig
from tests.support.sockets import free_port

BOTH = (Unavailable, OutcomeUnknown)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Yield a broker that faults can be done to; it says that it is where the wire is."""
    kafka_server.require_java()
    wire = free_port()
    config = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{wire}"}
    with KafkaServer(tmp_path_factory.mktemp("kafka-faults"), config=config) as made:
        made.wire_port = wire
        yield made


@pytest.fixture
async def wire(server: KafkaServer) -> AsyncIterator[Wire]:
    async with Wire(server.wire_port, server.port) as made:
        yield made


@pytest.fixture
async def rig(wire: Wire) -> AsyncIterator[KafkaRig]:
    async with kafka_rig(f"127.0.0.1:{wire.port}", timeout=2.0, transaction_timeout=30.0) as made:
        yield made


async def reopened(log: EventLog, rig: KafkaRig, shard: int = 1) -> int:
    """Open the shard as soon as the broker lets us; the log must be what the checkpoint tells, which is given."""
    async with asyncio.timeout(30):
        while True:
            try:
                async with log.open(shard) as opened:
                    stored = int((await opened.checkpoints()).get("demo", b"0"))
                    assert await numbers(rig.reader) == list(range(1, stored + 1))
                    return stored
            except BOTH:
                continue


def commit(first: int, last: int) -> Commit:
    return Commit(messages(first, last), {"demo": b"%d" % last})


# What aiokafka does not say ------------------------------------------------------------------------------


def configure(address: str, topic: str, config: dict[str, str]) -> None:
    """Change a topic."""
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in config.items()]
    change = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    admin = AdminClient({"bootstrap.servers": address})
    for done in admin.incremental_alter_configs([change]).values():
        done.result()


def set_largest(address: str, topic: str, size: int) -> None:
    """Change a limit behind the gateway's back."""
    configure(address, topic, {"max.message.bytes": str(size)})
    refused: list[bool] = []
    producer = Producer({"bootstrap.servers": address})
    while not any(refused):  # until the broker goes by it; what it takes before is none of the gateway's
        producer.produce(topic, b"x" * (size + 1), on_delivery=lambda error, _: refused.append(error is not None))
        producer.flush()


async def test_a_topic_that_takes_small_messages_alone_is_waited_for(kafka: KafkaRig, kafka_address: str) -> None:
    log, topic = kafka.log("a"), kafka.topics.message("order-update")
    async with log.open(1) as shard:
        await shard.commit(commit(1, 1))
        await asyncio.to_thread(set_largest, kafka_address, topic, 3000)
        with pytest.raises(CommitRejected, match="MessageSizeTooLarge"):
            await shard.commit(Commit([message(2, value=b"x" * 5000)], {"demo": b"2"}))
    with pytest.raises(ActionRequired, match=f"{topic} takes messages of up to 3000 bytes.* set max.message.bytes to"):
        async with log.open(1):
            pass
    configure(kafka_address, topic, {"max.message.bytes": "1048588"})
    async with log.open(1) as shard:
        await shard.commit(Commit([message(2, value=b"x" * 5000)], {"demo": b"2"}))
    assert await numbers(kafka.reader) == [1, 2]


async def test_a_batch_that_failed_takes_the_whole_commit_with_it(kafka: KafkaRig, kafka_address: str) -> None:
    """aiokafka commits the rest of the transaction, checkpoint included, and says that all is well."""
    log = kafka.log("a")
    big = message(2, value=b"x" * 15_000)
    async with log.open(1) as shard:
        await shard.commit(commit(1, 1))
        await asyncio.to_thread(set_largest, kafka_address, kafka.topics.message("order-update"), 10_000)
        with pytest.raises(CommitRejected, match="MessageSizeTooLarge"):
            await shard.commit(Commit([big], {"demo": b"2"}))
    async with log.open(1) as shard:
        assert await shard.checkpoints() == {"demo": b"1"}
        with pytest.raises(TooLarge) as named:
            await shard.commit(Commit([message(3), big], {"demo": b"2"}))
        assert (named.value.index, named.value.limit) == (1, 10_000)
        await shard.commit(commit(2, 2))
    assert await numbers(kafka.reader) == [1, 2]


async def test_a_transaction_that_timed_out_is_no_rival(server: KafkaServer, wire: Wire) -> None:
    """The broker then fences its writer with the very words that it has for a newer one."""
    async with kafka_rig(f"127.0.0.1:{wire.port}", transaction_timeout=1.0) as rig:
        log = rig.log("a")
        async with log.open(1) as shard:
            await shard.commit(commit(1, 3))
            snag = wire.snag(Api.PRODUCE, "request")
            writing = asyncio.create_task(shard.commit(commit(4, 6)))
            await snag.caught.wait()
            await wait_for_log(
                server,
                f"Completed rollback of ongoing transaction for transactionalId {rig.topics.transactional_id(1)}",
            )
            snag.let_go()
            with pytest.raises(OutcomeUnknown, match="nobody else has claimed shard 1"):
                await writing
        assert await reopened(log, rig) == 3


async def wait_for_log(server: KafkaServer, text: str) -> None:
    """Wait until the broker says something."""
    async with asyncio.timeout(20):
        while text not in server.output():
            await asyncio.sleep(0.02)


async def test_a_rival_that_has_not_claimed_yet_is_waited_for(rig: KafkaRig, wire: Wire) -> None:
    async with rig.log("old").open(1) as old:
        await old.commit(commit(1, 2))
        snag = wire.snag(Api.ADD_PARTITIONS, "request")
        opening = asyncio.create_task(open_and_read(rig.log("new")))
        await snag.caught.wait()  # the rival has its epoch, and not yet its claim
        late = asyncio.create_task(old.commit(commit(3, 4)))
        asyncio.get_running_loop().call_later(0.3, snag.let_go)
        with pytest.raises(Fenced, match="claimed by new"):
            await late
        assert await opening == {"demo": b"2"}
    assert await numbers(rig.reader) == [1, 2]


async def open_and_read(log: EventLog) -> dict[str, bytes]:
    async with log.open(1) as shard:
        return await shard.checkpoints()


# Lost, delayed and unheard -------------------------------------------------------------------------------


async def test_a_lost_answer_to_the_end_of_a_transaction_is_asked_for_again(rig: KafkaRig, wire: Wire) -> None:
    async with rig.log("a").open(1) as shard:
        snag = wire.snag(Api.END_TXN, "answer")
        writing = asyncio.create_task(shard.commit(commit(1, 3)))
        await snag.caught.wait()
        wire.cut()
        await writing
        await shard.commit(commit(4, 6))
    assert await reopened(rig.log("a"), rig) == 6


async def test_a_missing_answer_makes_the_outcome_unknown_and_a_checkpoint_tells(rig: KafkaRig, wire: Wire) -> None:
    async with rig.log("a").open(1) as shard:
        wire.snag(Api.END_TXN, "answer", times=9)
        with pytest.raises(OutcomeUnknown, match="did not answer"):
            await shard.commit(commit(1, 3))
        wire._snags.clear()
    assert await reopened(rig.log("a"), rig) == 3


async def test_an_end_of_a_transaction_that_comes_late_ends_nothing(rig: KafkaRig, wire: Wire) -> None:
    """It left before its sender gave up, and arrives after the shard was claimed anew."""
    log = rig.log("a")
    async with log.open(1) as shard:
        await shard.commit(commit(1, 2))
        snag = wire.snag(Api.END_TXN, "request")
        writing = asyncio.create_task(shard.commit(commit(3, 4)))
        await snag.caught.wait()
        async with rig.log("b").open(1) as new:
            assert await new.checkpoints() == {"demo": b"2"}
            snag.let_go()
            with pytest.raises((Fenced, OutcomeUnknown)):
                await writing
            assert await new.checkpoints() == {"demo": b"2"}
            await new.commit(commit(3, 3))
    assert await reopened(log, rig) == 3


async def test_a_commit_that_never_left_stored_nothing(rig: KafkaRig, wire: Wire) -> None:
    async with rig.log("a").open(1) as shard:
        wire.snag(Api.PRODUCE, "request", times=9)
        with pytest.raises(Unavailable, match="nothing was stored"):
            await shard.commit(commit(1, 3))
        wire._snags.clear()
    assert await reopened(rig.log("a"), rig) == 0


# Frozen and killed ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Yield a broker without a wire: that of a test would leave tasks and sockets of its own."""
    kafka_server.require_java()
    with KafkaServer(tmp_path_factory.mktemp("kafka-direct")) as made:
        yield made


async def takes_transactions(server: KafkaServer) -> None:
    """Wait until a broker that has just started has made the topic of its transactions: it may take seconds."""
    async with kafka_rig(server.address, timeout=20.0) as rig, rig.log("first").open(1):
        pass


@pytest.mark.parametrize("at", ["commit", "open", "stop"])
async def test_a_frozen_broker_holds_nobody_up_and_leaves_no_task_and_no_socket(direct: KafkaServer, at: str) -> None:
    """aiokafka's own stop would wait for ever for batches that nobody takes."""
    await takes_transactions(direct)
    async with leaving_nothing(), kafka_rig(direct.address, timeout=1.0) as rig:
        async with rig.log("a").open(1) as shard:
            await shard.commit(commit(1, 20))
            if at == "stop":
                direct.freeze()
                left = time.monotonic()
            elif at == "commit":
                with direct.frozen():
                    began = time.monotonic()
                    with pytest.raises(BOTH):
                        await shard.commit(commit(21, 40))
                    assert time.monotonic() - began < 10
                    direct.freeze()
                    left = time.monotonic()
        if at == "open":
            with direct.frozen():
                left = time.monotonic()
                with pytest.raises(BOTH):
                    async with rig.log("a").open(1):
                        pass
                assert time.monotonic() - left < 10
        else:
            assert time.monotonic() - left < 6
            direct.thaw()
        assert await reopened(rig.log("a"), rig) in {20, 40}


async def test_the_end_of_everything_waits_for_no_frozen_broker(direct: KafkaServer) -> None:
    await takes_transactions(direct)
    try:
        async with leaving_nothing():
            async with kafka_rig(direct.address, timeout=1.0) as rig, rig.log("a").open(1) as shard:
                direct.freeze()
                began = time.monotonic()
                with pytest.raises(BOTH):
                    await shard.commit(Commit([message(number, value=b"x" * 500_000) for number in range(1, 30)]))
            assert time.monotonic() - began < 10
    finally:
        direct.thaw()


async def test_the_end_of_everything_waits_for_no_batch_that_nobody_takes(wire: Wire) -> None:
    async with asyncio.timeout(8):
        async with kafka_rig(f"127.0.0.1:{wire.port}", timeout=1.0) as rig, rig.log("a").open(1) as shard:
            wire.snag(Api.PRODUCE, "request", times=99)
            with pytest.raises(Unavailable):
                await shard.commit(commit(1, 3))


async def test_a_killed_broker_has_what_it_acknowledged_and_perhaps_the_last(direct: KafkaServer) -> None:
    async with kafka_rig(direct.address, timeout=2.0) as rig:
        settled = 0
        log = rig.log("a")
        for _ in range(2):
            async with log.open(1) as shard:
                writer = Writer(settled)
                writing = asyncio.create_task(writer.write(shard))
                while writer.settled < settled + 70:
                    assert not writing.done(), writing
                    await asyncio.sleep(0)
                direct.kill()
                with pytest.raises(BOTH):
                    await writing
            await asyncio.to_thread(direct.start)
            settled = await reopened(log, rig)
            assert settled in {writer.settled, writer.settled + 7}
        assert settled >= 140


class Writer:
    """Commits numbers, and knows which were acknowledged."""

    def __init__(self, settled: int) -> None:
        self.settled = settled

    async def write(self, shard: ShardLog) -> None:
        """Commit until the log fails."""
        while True:
            await shard.commit(commit(self.settled + 1, self.settled + 7))
            self.settled += 7


# Zombies -------------------------------------------------------------------------------------------------


async def test_a_zombie_that_thaws_does_not_disturb_the_new_owner(kafka: KafkaRig, kafka_address: str) -> None:
    """A writer that restarts after being fenced would fence the new owner in turn, and so on without end."""
    command = (sys.executable, "-m", "tests.support.kafka_zombie", kafka_address, kafka.topics.prefix, "3")
    zombie = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    try:
        assert zombie.stdout is not None
        async with asyncio.timeout(60):
            while int(await zombie.stdout.readline()) < 50:
                pass
            zombie.send_signal(signal.SIGSTOP)
            async with kafka.log("heir").open(3) as heir:
                settled = int((await heir.checkpoints())["demo"])
                assert await numbers(kafka.reader) == list(range(1, settled + 1))
                inherited = settled
                ended: asyncio.Task[int] | None = None
                for _ in range(2000):
                    await heir.commit(commit(settled + 1, settled + 5))
                    settled += 5
                    if settled == inherited + 100:
                        zombie.send_signal(signal.SIGCONT)
                        ended = asyncio.create_task(zombie.wait())
                    if ended is not None and ended.done() and settled > inherited + 200:
                        break
                assert ended is not None
                assert await ended == 0
            assert (await zombie.stdout.read()).split()[-1] == b"Fenced"
        assert await numbers(kafka.reader) == list(range(1, settled + 1))
    finally:
        if zombie.returncode is None:
            zombie.kill()
            await zombie.wait()


async def test_a_writer_that_timed_out_does_not_take_its_shard_back_from_an_heir(rig: KafkaRig, wire: Wire) -> None:
    """As one that was frozen for long: it hears of a time limit first, and not that it is fenced."""
    log = KafkaLog(rig.connection, EventLogSettings(rig.topics, "frozen", commit_timeout=0.7))
    async with AsyncExitStack() as stack:
        async with log.open(1) as old:
            await old.commit(commit(1, 2))
            snag = wire.snag(Api.PRODUCE, "request")
            writing = asyncio.create_task(old.commit(commit(3, 4)))
            await snag.caught.wait()
            heir = await stack.enter_async_context(rig.log("heir").open(1))
            with pytest.raises(Unavailable):
                await writing
        with pytest.raises(Fenced, match="claimed by heir"):
            async with log.open(1):
                pass
        await heir.commit(commit(3, 5))
    assert await reopened(log, rig) == 5  # told of the rival, it may claim the shard if that is wanted


# Topics that change under way ----------------------------------------------------------------------------


async def test_a_topic_deleted_under_way_is_missed_and_not_made_by_accident(rig: KafkaRig, server: KafkaServer) -> None:
    topic = rig.topics.message("order-update")
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{server.wire_port}"})
    log = rig.log("a")
    async with log.open(1) as shard:
        await shard.commit(commit(1, 2))
        await asyncio.to_thread(admin.delete_topics([topic])[topic].result)
        while await cluster.partitions(rig.connection, [topic]):  # the broker hears of it a moment later
            await asyncio.sleep(0.01)
        with pytest.raises(BrokerError):
            await shard.commit(commit(3, 4))
    with pytest.raises(Unavailable, match=f"there is no topic {topic}"):
        async with log.open(1):
            pass
    assert topic not in (await asyncio.to_thread(admin.list_topics, timeout=10)).topics
    await cluster.prepare(rig.connection, topic_rules.ClusterSettings(rig.topics, partitions=PARTITIONS, shards=SHARDS))
    async with log.open(1) as shard:
        assert await shard.checkpoints() == {"demo": b"2"}
        await shard.commit(commit(3, 4))
    assert await numbers(rig.reader) == [3, 4]


async def test_a_topic_of_checkpoints_made_anew_under_way_takes_no_commit(rig: KafkaRig, server: KafkaServer) -> None:
    topic = rig.topics.checkpoints
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{server.wire_port}"})
    log = rig.log("a")
    async with log.open(1) as shard:
        for number in range(1, 6):
            await shard.commit(commit(number, number))
        await asyncio.to_thread(admin.delete_topics([topic])[topic].result)
        while await cluster.partitions(rig.connection, [topic]):  # the broker hears of it a moment later
            await asyncio.sleep(0.01)
        await cluster.prepare(
            rig.connection, topic_rules.ClusterSettings(rig.topics, partitions=PARTITIONS, shards=SHARDS)
        )
        with pytest.raises(Unavailable, match=f"{topic} went back to 0: it lost its end"):
            await shard.commit(commit(6, 6))
    assert await numbers(rig.reader) == [1, 2, 3, 4, 5]


# Below aiokafka's surface --------------------------------------------------------------------------------


async def test_transactions_follow_each_other_without_the_librarys_pause(
    kafka: KafkaRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit whose predecessor's markers are not written yet pauses for the time that `mend` sets."""

    async def commits(enough: Callable[[list[float]], bool]) -> list[float]:
        times: list[float] = []
        while not enough(times):
            began = time.perf_counter()
            await shard.commit(commit(1, 1))
            times.append(time.perf_counter() - began)
        return times

    async with kafka.log("a").open(1) as shard:
        monkeypatch.setattr(aiokafka.producer.sender, "BACKOFF_OVERRIDE", 0.3)
        await commits(lambda times: bool(times) and times[-1] >= 0.3)
        client_internals.apply_patches()
        times = await commits(lambda times: len(times) == 100)
        assert sorted(times)[90] < 0.2


async def test_no_topic_is_made_by_asking_for_it(rig: KafkaRig) -> None:
    """A broker makes topics that a client asks for, with partitions of its own choice, unless the client says no."""
    async with rig.log("a").open(1) as shard:
        assert isinstance(shard, KafkaShard)
        with pytest.raises(UnknownTopicOrPartitionError):
            await shard.producer.partitions_for("no-such-topic")
    assert await cluster.partitions(rig.connection, ["no-such-topic"]) == []


async def test_the_names_that_we_use_below_the_librarys_surface_are_there(kafka: KafkaRig) -> None:
    client_internals.apply_patches()
    async with kafka.log("a").open(1) as shard:
        assert isinstance(shard, KafkaShard)
        client = shard.producer.client
        assert client._conns
        assert all(hasattr(one, "_writer") and hasattr(one, "_on_close_cb") for one in client._conns.values())
        assert shard.producer._closed is False


@pytest.mark.parametrize("turns", [1, 3, 6])
async def test_a_connection_that_is_made_while_its_client_ends_is_closed(kafka_address: str, turns: int) -> None:
    client = AIOKafkaClient(bootstrap_servers=kafka_address)
    await client.bootstrap()
    (node, *_) = [broker.nodeId for broker in client.cluster.brokers()]
    connecting = asyncio.create_task(client._get_conn(node, group=ConnectionGroup.COORDINATION))
    for _ in range(turns):
        await asyncio.sleep(0)
    await client_internals.end_client(client)
    made = await connecting
    assert made is None or not made.connected()


async def test_a_writer_that_is_fenced_leaves_no_failure_that_nobody_asked_for(kafka: KafkaRig) -> None:
    unasked: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unasked.append(context))

    async def be_fenced() -> None:
        large = [message(number, value=b"x" * 500_000) for number in range(1, 10)]
        async with kafka.log("a").open(1) as old, kafka.log("b").open(1):
            with pytest.raises(Fenced):  # each batch of a partition waits for the one before it
                await old.commit(Commit(large, {"demo": b"9"}))

    await be_fenced()
    gc.collect()
    assert unasked == []


async def test_a_commit_that_gave_up_leaves_no_failure_that_nobody_asked_for(rig: KafkaRig, wire: Wire) -> None:
    unasked: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unasked.append(context))

    async def give_up() -> None:
        async with rig.log("a").open(1) as old:
            snag = wire.snag(Api.ADD_PARTITIONS, "request", times=99)
            with pytest.raises(Unavailable):
                await old.commit(commit(1, 40))
            snag.times = 0
            async with rig.log("b").open(1):
                snag.let_go()
                await until_dead(old)

    await give_up()
    gc.collect()
    assert unasked == []


async def test_a_clock_that_is_hours_ahead_is_waited_for_and_no_event_is_blamed(
    kafka: KafkaRig, kafka_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a topic that goes by the writers' clocks."""
    configure(kafka_address, kafka.topics.message("order-update"), {"message.timestamp.type": "CreateTime"})
    with monkeypatch.context() as clock:
        ahead = time.time() + 2 * 3600
        clock.setattr(time, "time", lambda: ahead)
        first = 1

        async def commit_until_refused() -> None:
            nonlocal first
            async with kafka.log("a").open(1) as shard, asyncio.timeout(30):
                while True:  # the broker heeds the topic's new setting a moment later
                    await shard.commit(commit(first, first))
                    first += 1
                    await asyncio.sleep(0.1)

        with pytest.raises(Unavailable, match="Timestamp"):
            await commit_until_refused()
    async with kafka.log("a").open(1) as shard:
        await shard.commit(commit(first, 3 + first))
    assert await numbers(kafka.reader) == list(range(1, 4 + first))


async def until_dead(shard: ShardLog) -> None:
    """Wait until the producer has learnt that it is fenced."""
    assert isinstance(shard, KafkaShard)
    sender = shard.producer._sender.sender_task
    await asyncio.wait_for(asyncio.wait({sender}), 60)
