"""The control store on Kafka while answers are lost, brokers freeze and die, and topics are made anew."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import pytest
from aiokafka.structs import TopicPartition
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from gateway.broker.kafka import cluster, topic_rules
from gateway.broker.kafka.control import KafkaControl
from gateway.broker.kafka.fetch import read_all
from gateway.errors import Conflict, OutcomeUnknown, Unavailable
from tests.support import kafka_server
from tests.support.kafka_proxy import Api, Wire
from tests.support.kafka_server import KafkaServer
from tests.support.leaks import leaving_nothing
from tests.support.ownership_suite import until
from tests.support.rigs import PARTITIONS, SHARDS, KafkaRig, kafka_rig
from tests.support.sockets import free_port
from tests.support.watchers import View, watching

LIMIT = 3.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Yield a broker that says that it is where the wire is."""
    kafka_server.require_java()
    wire = free_port()
    config = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{wire}", "log.cleaner.backoff.ms": "100"}
    with KafkaServer(tmp_path_factory.mktemp("kafka-control"), config=config) as made:
        made.wire_port = wire
        yield made


@pytest.fixture
async def wire(server: KafkaServer) -> AsyncIterator[Wire]:
    async with Wire(server.wire_port, server.port) as made:
        yield made


@pytest.fixture
async def rig(wire: Wire) -> AsyncIterator[KafkaRig]:
    async with kafka_rig(f"127.0.0.1:{wire.port}", timeout=LIMIT) as made:
        yield made


@pytest.fixture
async def store(rig: KafkaRig) -> KafkaControl:
    return KafkaControl(rig.connection, rig.topics)


@asynccontextmanager
async def another(rig: KafkaRig) -> AsyncIterator[KafkaControl]:
    """Yield the store as another replica has it."""
    async with kafka_rig(*rig.connection.options.servers, topics=rig.topics, timeout=LIMIT) as other:
        yield KafkaControl(other.connection, other.topics)


async def wanted(store: KafkaControl) -> dict[str, bytes]:
    """Return what is wanted now."""
    async with watching(store) as view:
        await store.publish_observed({"mark": b"%d" % time.time_ns()})
        await until(lambda: "mark" in view.observed, "all is read")
        return view.values()


# Answers that are lost, and rivals ------------------------------------------------------------------------


async def test_a_write_whose_answer_never_comes_is_unknown_and_the_watch_tells(store: KafkaControl, wire: Wire) -> None:
    async with watching(store) as view:
        wire.snag(Api.END_TXN, "answer", times=99)
        began = time.monotonic()
        with pytest.raises(OutcomeUnknown, match="did not answer"):
            await store.write("main", b"1", 0)
        assert time.monotonic() - began < LIMIT + 5
        wire._snags.clear()
        await until(lambda: view.values() == {"main": b"1"}, "it is seen")
        assert await store.write("main", b"2", view.desired["main"].revision)


async def test_a_forgetting_without_an_answer_is_unknown_and_may_be_repeated(store: KafkaControl, wire: Wire) -> None:
    revision = await store.write("main", b"1", 0)
    async with watching(store) as view:
        wire.snag(Api.END_TXN, "answer", times=99)
        with pytest.raises(OutcomeUnknown, match="did not answer"):
            await store.forget(["main"])
        wire._snags.clear()
        await store.forget(["main"])
        await until(lambda: view.values() == {"main": b""}, "it is seen")
    with pytest.raises(Conflict):
        await store.write("main", b"2", revision)
    assert await store.write("main", b"2", 0)


async def test_a_forgetting_that_never_left_is_none(store: KafkaControl, wire: Wire) -> None:
    revision = await store.write("main", b"1", 0)
    await store.publish_observed({"main": b"so"})
    wire.snag(Api.PRODUCE, "request", times=99)
    with pytest.raises(Unavailable, match="nothing was written"):
        await store.forget(["main"])
    wire._snags.clear()
    assert await wanted(store) == {"main": b"1"}
    assert await store.write("main", b"2", revision)


async def test_a_writer_that_compared_before_a_forgetting_does_not_write_after(
    store: KafkaControl, rig: KafkaRig, wire: Wire
) -> None:
    revision = await store.write("main", b"1", 0)
    snag = wire.snag(Api.PRODUCE, "request")
    overtaken = asyncio.create_task(store.write("main", b"overtaken", revision))
    await snag.caught.wait()
    async with another(rig) as other:
        await other.forget(["main"])
        snag.let_go()
        with pytest.raises(Conflict, match="main is at revision 0"):
            await overtaken
        assert await wanted(other) == {"main": b""}


async def test_an_answer_that_is_lost_with_its_connection_is_asked_for_again(store: KafkaControl, wire: Wire) -> None:
    snag = wire.snag(Api.END_TXN, "answer")
    writing = asyncio.create_task(store.write("main", b"1", 0))
    await snag.caught.wait()
    wire.cut()
    revision = await writing
    assert await store.write("main", b"2", revision) > revision


async def test_a_write_that_never_left_is_none(store: KafkaControl, wire: Wire) -> None:
    wire.snag(Api.PRODUCE, "request", times=99)
    with pytest.raises(Unavailable, match="nothing was written"):
        await store.write("main", b"1", 0)
    wire._snags.clear()
    assert await wanted(store) == {}
    assert await store.write("main", b"2", 0)


async def test_an_end_that_comes_late_ends_nothing(store: KafkaControl, rig: KafkaRig, wire: Wire) -> None:
    """It left before its sender gave up, and arrives when somebody else has written."""
    snag = wire.snag(Api.END_TXN, "request")
    late = asyncio.create_task(store.write("main", b"late", 0))
    await snag.caught.wait()
    async with another(rig) as other:
        assert await other.write("main", b"other", 0)
        snag.let_go()
        with pytest.raises(OutcomeUnknown):
            await late
        assert await wanted(other) == {"main": b"other"}


async def test_a_writer_that_is_overtaken_before_its_end_finds_the_conflict(
    store: KafkaControl, rig: KafkaRig, wire: Wire
) -> None:
    snag = wire.snag(Api.PRODUCE, "request")
    overtaken = asyncio.create_task(store.write("main", b"overtaken", 0))
    await snag.caught.wait()
    async with another(rig) as other:
        assert await other.write("main", b"other", 0)
        snag.let_go()
        with pytest.raises(Conflict, match="main is at revision"):
            await overtaken
        assert await wanted(other) == {"main": b"other"}


async def test_of_two_replicas_that_write_at_once_one_wins(store: KafkaControl, rig: KafkaRig) -> None:
    async with another(rig) as other, watching(store) as view:
        revision, unknown, refused = 0, 0, 0
        for number in range(10):
            written = [(each, b"%d-%d" % (number, place)) for place, each in enumerate((store, other))]
            ended = await asyncio.gather(
                *(each.write("main", value, revision) for each, value in written), return_exceptions=True
            )
            won = [one for one in ended if isinstance(one, int)]
            unknown += sum(isinstance(one, OutcomeUnknown) for one in ended)
            assert all(isinstance(one, int | Conflict | OutcomeUnknown | Unavailable) for one in ended), ended
            assert len(won) <= 1
            if all(isinstance(one, Unavailable) for one in ended):  # nothing was written, or the next round shows it
                refused += 1
                continue
            before = revision
            await until(lambda before=before: "main" in view.desired and view.desired["main"].revision > before, "one")
            revision = view.desired["main"].revision
            assert view.desired["main"].value in {value for _, value in written}
            assert won in ([], [revision])
        assert unknown + refused < 10


# Brokers that freeze and die ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Yield a broker without a wire: that of a test would leave tasks and sockets of its own."""
    kafka_server.require_java()
    with KafkaServer(tmp_path_factory.mktemp("kafka-direct")) as made:
        yield made


async def test_a_frozen_broker_holds_no_write_or_report_and_leaves_nothing_open(
    direct: KafkaServer,
) -> None:
    async with leaving_nothing(), kafka_rig(direct.address, timeout=1.0) as rig:
        store = KafkaControl(rig.connection, rig.topics)
        async with watching(store) as view:
            revision = await written(store, "main", b"1", view)  # a new broker takes its time for the first one
            await reported(store, {"main": b"1"})
            await until(lambda: view.values() == {"main": b"1"} and "main" in view.observed, "both are seen")
            with direct.frozen():
                for call in (store.write("main", b"2", revision), store.publish_observed({"main": b"2"})):
                    began = time.monotonic()
                    with pytest.raises(Unavailable):
                        await call
                    assert time.monotonic() - began < 6
                with pytest.raises(Unavailable):  # as many as there may be
                    await asyncio.gather(*(store.write("main", b"3", revision) for _ in range(9)))
            assert await written(store, "main", b"4", view) > revision
            await until(lambda: view.values() == {"main": b"4"}, "the watch goes on")


async def written(store: KafkaControl, key: str, value: bytes, view: View) -> int:
    """Write as soon as the broker lets us."""
    async with asyncio.timeout(30):
        while True:
            known = view.desired[key].revision if key in view.desired else 0
            try:
                return await store.write(key, value, known)
            except (Unavailable, OutcomeUnknown):
                await asyncio.sleep(0.1)
            except Conflict:
                await view.reaches(key, known + 1)
                if view.desired[key].value == value:
                    return view.desired[key].revision


async def reported(store: KafkaControl, observed: dict[str, bytes]) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                return await store.publish_observed(observed)
            except Unavailable:
                await asyncio.sleep(0.1)


@dataclass
class Counter:
    """Counts up as an operator, and says how far as an owner, until the broker fails."""

    store: KafkaControl
    acknowledged: int = -1
    revision: int = 0

    async def write_on(self) -> None:
        while True:
            self.revision = await self.store.write("main", b"%d" % (self.acknowledged + 1), self.revision)
            self.acknowledged += 1

    async def report_on(self) -> None:
        while True:
            await self.store.publish_observed({"main": b"%d" % self.acknowledged, "other": b"x"})

    async def until_killed(self, server: KafkaServer) -> None:
        enough = self.acknowledged + 10
        async with asyncio.timeout(30), asyncio.TaskGroup() as both:
            writing, reporting = both.create_task(self._failing()), both.create_task(self._silent())
            while self.acknowledged < enough:
                await asyncio.sleep(0)
            assert not writing.done()
            assert not reporting.done()
            server.kill()

    async def _failing(self) -> None:
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await self.write_on()

    async def _silent(self) -> None:
        with pytest.raises(Unavailable):
            await self.report_on()


async def test_a_killed_broker_has_every_acknowledged_write_and_watches_go_on(direct: KafkaServer) -> None:
    async with kafka_rig(direct.address, timeout=2.0) as rig:
        store = KafkaControl(rig.connection, rig.topics)
        counter = Counter(store)
        async with watching(store) as view:
            for _ in range(2):
                await counter.until_killed(direct)
                await asyncio.to_thread(direct.start)
                await reported(store, {"main": b"back"})
                await until(lambda: view.observed["main"].value == b"back", "reports are seen again")
                async with watching(store) as fresh:
                    await fresh.reaches("main", counter.revision)
                    now = fresh.desired["main"]
                assert int(now.value) - counter.acknowledged in {0, 1}
                counter.acknowledged, counter.revision = int(now.value), now.revision
                await view.reaches("main", now.revision)
                assert view.desired["main"].value == now.value
            revisions = [record.revision for record in view.seen if not record.is_observed]
            assert revisions == sorted(set(revisions))


# The topic ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["alike", "longer"])
async def test_a_topic_that_is_made_anew_is_read_from_its_beginning(
    store: KafkaControl, rig: KafkaRig, server: KafkaServer, how: Literal["alike", "longer"]
) -> None:
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{server.wire_port}"})
    topic = rig.topics.control
    async with watching(store) as view:
        revision = await store.write("main", b"old", 0)
        await store.publish_observed({"main": b"old"})
        await until(lambda: view.values() == {"main": b"old"} and "main" in view.observed, "both are seen")
        await asyncio.to_thread(admin.delete_topics([topic])[topic].result)
        while await cluster.partitions(rig.connection, [topic]):  # the broker hears of it a moment later
            await asyncio.sleep(0.01)
        with pytest.raises(Unavailable):
            await store.publish_observed({"main": b"nowhere"})
        with pytest.raises(Unavailable):
            await store.write("main", b"nowhere", revision)
        await cluster.prepare(
            rig.connection, topic_rules.ClusterSettings(rig.topics, partitions=PARTITIONS, shards=SHARDS)
        )
        if how == "longer":
            for number in range(5):
                await reported(store, {"other": b"%d" % number})
        await reported(store, {"main": b"new"})
        assert await store.write("main", b"new", 0) == revision  # the same place in another topic
        await until(lambda: view.values() == {"main": b"new"}, "what is wanted is read anew")
        await until(lambda: view.observed["main"].value == b"new", "what is so is read anew")


async def test_compaction_keeps_last_values_and_their_revisions(
    store: KafkaControl, rig: KafkaRig, server: KafkaServer
) -> None:
    address, topic = f"127.0.0.1:{server.wire_port}", rig.topics.control
    quickly = {"segment.ms": "50", "min.cleanable.dirty.ratio": "0.001"}
    entries = [ConfigEntry(*one, incremental_operation=AlterConfigOpType.SET) for one in quickly.items()]
    change = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    admin = AdminClient({"bootstrap.servers": address})
    for done in admin.incremental_alter_configs([change]).values():
        await asyncio.to_thread(done.result)
    first = last = await store.write("main", b"0", 0)
    other = await store.write("other", b"x", 0)
    for number in range(1, 6):
        last = await store.write("main", b"%d" % number, last)

    async def offsets() -> list[int]:
        tp = TopicPartition(topic, 0)
        end = (await cluster.places(rig.connection, [tp]))[tp] or 0
        return [one.offset async for one in read_all(rig.connection, {tp: 0}, {tp: end}) if one.key == b"main"]

    filler = 0
    async with asyncio.timeout(60):
        while await offsets() != [last - 1]:  # the segment that is written to is never compacted, so a filler ends it
            filler = await store.write("filler", b"", filler)
            await asyncio.sleep(0.1)
    async with watching(store) as view:
        await until(lambda: {"main", "other"} <= view.desired.keys(), "all is read")
        assert (view.desired["main"].value, view.desired["main"].revision) == (b"5", last)
        assert view.desired["other"].revision == other
    with pytest.raises(Conflict):
        await store.write("main", b"6", first)
    assert await store.write("main", b"6", last) > last


async def test_a_key_that_an_administrator_erased_is_one_that_was_never_written(
    store: KafkaControl, rig: KafkaRig, server: KafkaServer
) -> None:
    await store.write("main", b"1", 0)
    async with watching(store) as view:
        await until(lambda: view.values() == {"main": b"1"}, "it is seen")
        producer = Producer({"bootstrap.servers": f"127.0.0.1:{server.wire_port}"})
        producer.produce(rig.topics.control, key=b"main", value=None, partition=0)
        await asyncio.to_thread(producer.flush)
        await until(lambda: view.values() == {"main": b""}, "it is seen to be gone")
        assert view.desired["main"].revision == 0
        assert await store.write("main", b"2", 0)


@pytest.mark.parametrize("wrong", [-3600.0, 3600.0])
async def test_ages_are_by_the_brokers_clock_where_ours_is_wrong(rig: KafkaRig, wrong: float) -> None:
    store = KafkaControl(rig.connection, rig.topics, clock=lambda: time.time() + wrong)
    await store.publish_observed({"main": b"1"})
    await asyncio.sleep(0.3)
    await store.publish_observed({"other": b"1"})
    async with watching(store) as view:
        await until(lambda: len(view.observed) == 2, "both are read")
        assert 0.2 < view.observed["main"].age < 5
        assert view.observed["other"].age < view.observed["main"].age
