"""What the writer of a shard makes of the places at which Kafka says that its records are, told by aiokafka."""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, Final

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.structs import RecordMetadata, TopicPartition
from msgspec.structs import replace

from gateway.broker.kafka import losses
from gateway.broker.kafka.cluster import FIRST, ClusterFacts
from gateway.broker.kafka.commit_limits import LARGE, CommitLimits
from gateway.broker.kafka.ends import BatchPart, PartitionEnds, RecordBatch
from gateway.broker.kafka.fence import Claim, ShardRecords
from gateway.broker.kafka.losses import look_back
from gateway.broker.kafka.shard import KafkaShard
from gateway.broker.kafka.topics import Topics
from gateway.broker.ports import Commit, Lost
from gateway.errors import ActionRequired, OutcomeUnknown, Unavailable
from tests.support.event_log_suite import messages

TOPICS: Final = Topics("meso", ("order-update",))
EVENTS, CHECKPOINTS = TOPICS.message("order-update"), TOPICS.checkpoints
LARGEST: Final = 1024 * 1024
ARGUMENTS: Final = ("_connection", "_topics", "own_claim", "_shard", "_facts", "producer", "ends", "_limits")
"""What a writer is made of, for the next one."""
SHARDS, PARTITIONS = 4, 2


class Producer:
    """A transactional producer of aiokafka's, with a broker of which only the ends of its partitions are known."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        """Records of each topic, one partition of each."""
        self.ended = 0
        """Transactions that were committed."""
        self.aborted = 0
        self.reports_offsets = True
        self.is_silent = False
        """Whether it answers nothing any more."""
        self.client = SimpleNamespace()

    async def partitions_for(self, topic: str) -> set[int]:
        return set(range(SHARDS if topic == CHECKPOINTS else PARTITIONS))

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(LARGEST, 0, is_transactional=1)

    async def begin_transaction(self) -> None:
        pass

    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> asyncio.Future[RecordMetadata]:
        offset = self.ends[topic] if self.reports_offsets else -1
        self.ends[topic] += batch.record_count()
        stored: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        if self.is_silent:
            return stored
        stored.set_result(RecordMetadata(topic, partition, TopicPartition(topic, partition), offset, 0, 0, 0))
        return stored

    async def send(self, topic: str, *, key: bytes, partition: int) -> asyncio.Future[RecordMetadata]:
        batch = self.create_batch()
        batch.append(key=key, value=None, timestamp=0)
        return await self.send_batch(batch, topic, partition=partition)

    async def abort_transaction(self) -> None:
        self.aborted += 1

    async def commit_transaction(self) -> None:
        self.ended += 1
        self.ends.update((EVENTS, CHECKPOINTS))  # a marker in each


class Cluster:
    """A connection to a broker that says where partitions end, and which of them have a leader."""

    def __init__(self, producer: Producer) -> None:
        self.options = SimpleNamespace(timeout=0.2)
        self.leaderless: set[str] = set()
        self.firsts: list[int] = []
        """The first places of any partition, as they are told one after another."""
        self.stale: dict[str, int] = {}
        """Where topics end by what a broker tells that leads them no more."""
        self._producer = producer

    async def ask(self, request: Any, **_: Any) -> Any:  # noqa: ANN401 - aiokafka's own
        if isinstance(request, OffsetRequest):
            asked = {topic: [partition for partition, _ in parts] for topic, parts in request._topics}
            ends = self._producer.ends | self.stale
            if any(when == FIRST for _, parts in request._topics for _, when in parts):
                ends = Counter(dict.fromkeys(ends, self.firsts.pop(0)))
            return SimpleNamespace(topics=[(name, [(at, 0, -1, ends[name]) for at in asked[name]]) for name in asked])
        topics = [self._described(name) for name in request._topics]
        return SimpleNamespace(to_object=lambda: {"topics": topics})

    def _described(self, name: str) -> dict[str, Any]:
        leader = -1 if name in self.leaderless else 1
        parts = [{"partition": one, "leader": leader, "replicas": [1], "isr": [1]} for one in range(SHARDS)]
        return {"topic": name, "error_code": 0, "partitions": parts}


async def opened(producer: Producer, cluster: Cluster | None = None, limits: CommitLimits | None = None) -> KafkaShard:
    """Return a writer that has claimed shard 1 and committed two events."""
    limits = limits or CommitLimits(10.0)
    largest = dict.fromkeys((EVENTS, CHECKPOINTS), LARGEST)
    facts = ClusterFacts(partitions=PARTITIONS, shards=SHARDS, largest=largest, in_sync={})
    given: Any = producer
    connection: Any = cluster
    ends = PartitionEnds(1, TopicPartition(CHECKPOINTS, 1))
    shard = KafkaShard(connection, TOPICS, Claim("a", "its token"), 1, facts, given, ends, limits)
    await shard.claim()
    await shard.commit(commit(1, 2))
    return shard


def commit(first: int, last: int) -> Commit:
    return Commit(messages(first, last), {"demo": b"%d" % last})


async def test_a_checkpoint_topic_that_went_back_ends_writer_not_transaction() -> None:
    """Its claim and its checkpoints are gone, and whoever has claimed the new one does not know of this writer."""
    producer = Producer()
    shard = await opened(producer)
    ended = producer.ended
    producer.ends[CHECKPOINTS] = 1

    with pytest.raises(Unavailable, match="checkpoints went back to 1: it lost its end"):
        await shard.commit(commit(3, 4))

    assert producer.ended == ended
    with pytest.raises(Unavailable, match="this log is spent"):
        await shard.commit(commit(3, 4))
    assert shard.failed


async def test_a_topic_of_checkpoints_that_stands_where_it_stood_went_back() -> None:
    producer = Producer()
    shard = await opened(producer)
    producer.ends[CHECKPOINTS] = 2  # where the last checkpoint is

    with pytest.raises(Unavailable, match="went back to 2"):
        await shard.commit(commit(3, 4))


async def test_an_event_topic_that_went_back_ends_the_writer_before_new_events() -> None:
    """What that is, is found where the next one is opened."""
    producer = Producer()
    shard = await opened(producer)
    ended = producer.ended
    producer.ends[EVENTS] = 0

    with pytest.raises(Unavailable, match=r"order-update\.v1 went back to 0: it lost its end"):
        await shard.commit(commit(3, 4))

    assert producer.ended == ended
    assert shard.failed


async def test_a_partition_without_a_leader_ends_no_writer_with_nothing_for_it() -> None:
    """Its end is known over all writers of the process: each idle one would be ended by it, for as long as that is so.

    A partition that has a leader is looked at beside it.
    """
    producer = Producer()
    cluster = Cluster(producer)
    shard = await opened(producer, cluster)
    cluster.leaderless.add(EVENTS)
    await shard.check()

    producer.ends[CHECKPOINTS] = 1
    with pytest.raises(OutcomeUnknown, match="checkpoints went back to 1"):
        await shard.check()


async def test_a_late_marker_is_waited_for_and_a_missing_one_is_a_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    producer = Producer()
    shard = await opened(producer, Cluster(producer))
    producer.ends[EVENTS] -= 1
    asyncio.get_running_loop().call_later(0.05, producer.ends.update, (EVENTS,))
    await shard.check()
    producer.ends[EVENTS] -= 1
    monkeypatch.setattr("gateway.broker.kafka.shard._MARKED_S", 0.05)
    with pytest.raises(OutcomeUnknown, match=r"order-update\.v1 went back to 3"):
        await shard.check()


async def test_what_grows_too_old_while_it_is_looked_for_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be published again to those who have read it already."""
    producer = Producer()
    cluster = Cluster(producer)
    shard = await opened(producer, cluster)
    place = shard.ends.last(shard.ends.of_events()[0]) - 1
    producer.ends[EVENTS] = place
    cluster.firsts = [0, place + 1]
    connection: Any = cluster

    async def events(*_: Any) -> defaultdict[TopicPartition, set[tuple[str, Lost]]]:  # noqa: ANN401
        return defaultdict(set)

    monkeypatch.setattr(losses, "_events", events)

    await look_back(connection, shard.producer, TOPICS, shard.ends, [shard.ends], 1.0)
    assert (shard.lost, cluster.firsts) == ({}, [])


async def test_all_partitions_that_lost_their_ends_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer and two questions for each made a replica of 24 partitions a shard wait for a minute."""
    producer = Producer()
    cluster = Cluster(producer)
    shard = await opened(producer, cluster)
    kinds = ("order-update", "error", "leg-update")
    topics = Topics("meso", kinds)
    for kind in kinds:
        tp = TopicPartition(topics.message(kind), 1)
        part = BatchPart("demo", b"8", b"9", 1, array("Q", [8, 9]))
        shard.ends.on_placed([RecordBatch(tp, 10, 2, [part])])
        shard.ends.on_stored()
        producer.ends[tp.topic] = 5
    cluster.firsts = [0, 0]
    reads: list[set[str]] = []

    async def read_all(_: Any, begin: Any, end: Any) -> AsyncIterator[Any]:  # noqa: ANN401
        reads.append({tp.topic for tp in begin})
        assert begin.keys() <= end.keys()
        for record in ():
            yield record

    monkeypatch.setattr(losses, "read_all", read_all)
    connection: Any = cluster
    await look_back(connection, shard.producer, topics, shard.ends, [shard.ends], 1.0)
    assert reads == [{topics.message(kind) for kind in kinds}]
    assert cluster.firsts == []
    assert {Lost(1, 8), Lost(1, 9)} <= shard.lost["demo"]


async def test_each_shard_of_the_process_hears_that_a_shared_partition_went_back() -> None:
    """The first that is opened writes on, soon beyond where the others had written."""
    producer = Producer()
    cluster = Cluster(producer)
    shard = await opened(producer, cluster)
    (partition,) = shard.ends.of_events()
    first = PartitionEnds(2, TopicPartition(CHECKPOINTS, 2))
    producer.ends[EVENTS] = 1
    connection: Any = cluster

    await look_back(connection, shard.producer, TOPICS, first, [shard.ends, first], 1.0)
    assert first.lost == {}
    assert shard.ends.short({partition: 1000}) == {partition: 1}


async def test_the_end_that_a_broker_tells_which_leads_no_more_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its copy ends before what its successor has stored, and it takes no record: a record proves where the end is."""
    producer = Producer()
    cluster = Cluster(producer)
    shard = await opened(producer, cluster)
    connection: Any = cluster
    cluster.stale[EVENTS] = 1
    with pytest.raises(OutcomeUnknown, match="went back to 1"):
        await shard.check()
    asked: list[tuple[int, int]] = []

    async def events(*arguments: Any) -> dict[TopicPartition, set[tuple[str, Lost]]]:  # noqa: ANN401
        begin, end = arguments[2:4]
        asked.extend((place, end[tp]) for tp, place in begin.items())
        return {tp: {("demo", Lost(1, 1)), ("demo", Lost(1, 2))} for tp in begin}

    monkeypatch.setattr(losses, "_events", events)
    end = producer.ends[EVENTS]
    cluster.firsts = [0, 0]
    await look_back(connection, shard.producer, TOPICS, shard.ends, [shard.ends], 1.0)
    assert (shard.lost, producer.aborted, asked) == ({}, 1, [(0, end)])
    assert shard.ends.short(dict.fromkeys(shard.ends.of_events(), end + 2)) == {}


async def test_where_no_record_is_taken_nothing_is_held_for_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    producer = Producer()
    cluster = Cluster(producer)
    shard = await opened(producer, cluster)
    connection: Any = cluster
    cluster.stale[EVENTS] = 1

    async def send(*_: Any, **__: Any) -> asyncio.Future[RecordMetadata]:  # noqa: ANN401
        return asyncio.get_running_loop().create_future()

    monkeypatch.setattr(producer, "send", send)
    with pytest.raises(Unavailable, match="the ends of partitions: Kafka did not answer in time"):
        await look_back(connection, shard.producer, TOPICS, shard.ends, [shard.ends], 0.05)
    assert (shard.lost, producer.aborted) == ({}, 0)


async def test_a_place_that_kafka_does_not_tell_is_none_that_went_back() -> None:
    """So it is of a batch that was sent twice and is there once."""
    producer = Producer()
    shard = await opened(producer)

    producer.reports_offsets = False
    await shard.commit(commit(3, 4))

    producer.reports_offsets, producer.ends[CHECKPOINTS] = True, 1
    with pytest.raises(Unavailable, match="went back to 1"):
        await shard.commit(commit(5, 6))


async def test_a_large_commit_that_is_never_in_time_is_named_in_the_end() -> None:
    limits, seconds = CommitLimits(0.02), []
    (large,) = messages(3, 3)
    commit_ = Commit([*messages(1, 2), replace(large, value=bytes(2 * LARGE))], {"demo": b"3"})
    for _ in range(5):
        producer = Producer()
        shard = await opened(producer, Cluster(producer), limits)
        producer.is_silent = True
        with pytest.raises(Unavailable, match="the largest message, 3 of demo for order-update, has 13") as raised:
            await shard.commit(commit_)
        seconds.append(float(str(raised.value).split(" within ")[1].split(" s")[0]))
        assert isinstance(raised.value, ActionRequired) is (len(seconds) > 3)
    assert seconds == [0.02, 0.04, 0.08, 0.16, 0.16]
    assert "raise broker.commit_timeout" in str(raised.value)
    shard = await opened(producer := Producer(), Cluster(producer), limits)
    producer.is_silent = True
    with pytest.raises(Unavailable, match=r"within 0\.02 s; nothing was stored$"):
        await shard.commit(commit(3, 4))


@pytest.fixture
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing of what is sought be in the topics."""

    async def events(*_: Any) -> defaultdict[TopicPartition, set[tuple[str, Lost]]]:  # noqa: ANN401 - of no use here
        return defaultdict(set)

    monkeypatch.setattr(losses, "_events", events)


@pytest.mark.usefixtures("nothing_left")
async def test_an_open_shard_acts_on_the_loss_that_another_shard_found() -> None:
    """Whoever is idle would else miss nothing, since the others write on behind what is left."""
    producer = Producer()
    idle = await opened(producer, cluster := Cluster(producer))
    (partition,) = idle.ends.of_events()
    finder = PartitionEnds(2, TopicPartition(CHECKPOINTS, 2))
    producer.ends[EVENTS] = 1
    connection: Any = cluster
    await look_back(connection, producer, TOPICS, finder, [idle.ends, finder], 1.0)  # type: ignore[arg-type]
    producer.ends[EVENTS] += 100
    for call in (idle.check, lambda: idle.commit(commit(3, 4))):
        with pytest.raises((OutcomeUnknown, Unavailable), match="went back to 1"):
            await call()
    assert idle.ends.short({partition: 1000}) == {partition: 1}


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("others", [0, 100])
async def test_a_shard_that_was_notified_of_a_loss_does_not_notify_the_finder(others: int) -> None:
    """Two shards told each other again and again of the place at which a partition had once ended, and never served."""
    producer = Producer()
    finder = await opened(producer, cluster := Cluster(producer))
    other = await opened(producer, cluster)
    every = [finder.ends, other.ends]
    (partition,) = finder.ends.of_events()
    connection: Any = cluster
    cluster.firsts = [0] * 8
    producer.ends[EVENTS] = 1
    with pytest.raises(OutcomeUnknown, match="went back to 1"):
        await finder.check()
    await look_back(connection, producer, TOPICS, finder.ends, every, 1.0)  # type: ignore[arg-type]
    assert other.ends.short({partition: 1000}) == {partition: 1}
    finder = KafkaShard(*(getattr(finder, name) for name in ARGUMENTS))
    await finder.commit(commit(3, 4))  # its checkpoint knows of the loss
    producer.ends[EVENTS] += others
    with pytest.raises(OutcomeUnknown, match="went back to"):
        await other.check()
    await look_back(connection, producer, TOPICS, other.ends, every, 1.0)  # type: ignore[arg-type]
    assert finder.ends.short({partition: 1000}) == {}
    await finder.commit(commit(5, 6))


@pytest.mark.usefixtures("nothing_left")
async def test_records_of_the_shard_that_finds_a_loss_hide_no_other_loss() -> None:
    """What its commit that was aborted left there stands where the last records of the other shard stood."""
    producer = Producer()
    idle = await opened(producer, cluster := Cluster(producer))
    (partition,) = idle.ends.of_events()
    busy = await opened(producer, cluster)
    producer.ends[EVENTS] = idle.ends.last(partition)
    with pytest.raises((OutcomeUnknown, Unavailable)):
        await busy.commit(commit(3, 3))
    producer.ends[EVENTS] += 1
    connection: Any = cluster
    cluster.firsts = [0] * 8
    await look_back(connection, producer, TOPICS, busy.ends, [idle.ends, busy.ends], 1.0)  # type: ignore[arg-type]
    assert busy.lost
    assert partition in idle.ends.short({partition: 1000})


@pytest.mark.usefixtures("nothing_left")
async def test_a_doubt_about_a_partition_of_unknown_places_is_settled() -> None:
    """As where it lost all that is known of it, and another shard that looks at the same time comes late."""
    producer = Producer()
    shard = await opened(producer, cluster := Cluster(producer))
    (partition,) = shard.ends.of_events()
    shard.ends.lose(partition, 0, 0, set(), now=0)
    shard.ends.notify(partition, 0)
    assert shard.ends.of_events() == []
    connection: Any = cluster
    cluster.firsts = [0] * 8
    await look_back(connection, producer, TOPICS, shard.ends, [shard.ends], 1.0)  # type: ignore[arg-type]
    await shard.commit(commit(3, 4))


async def test_what_comes_back_to_a_topic_that_lost_all_is_lost_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """No checkpoint knows of the loss yet, as where the commit had no clean answer, and no place there is known."""
    producer = Producer()
    shard = await opened(producer, cluster := Cluster(producer))
    there = set[tuple[str, Lost]]()

    async def events(*_: Any) -> defaultdict[TopicPartition, set[tuple[str, Lost]]]:  # noqa: ANN401
        return defaultdict(lambda: there)

    monkeypatch.setattr(losses, "_events", events)
    connection: Any = cluster
    cluster.firsts = [0] * 8
    producer.ends[EVENTS] = 0
    await look_back(connection, producer, TOPICS, shard.ends, [shard.ends], 1.0)  # type: ignore[arg-type]
    assert shard.lost == {"demo": {Lost(1, 1), Lost(1, 2)}}
    there.add(("demo", Lost(1, 1)))
    producer.ends[EVENTS] = 5
    await look_back(connection, producer, TOPICS, shard.ends, [shard.ends], 1.0)  # type: ignore[arg-type]
    assert shard.lost == {"demo": {Lost(1, 2)}}


def reads(monkeypatch: pytest.MonkeyPatch, shard: KafkaShard, **places: int) -> None:
    """Let the shard's partition hold its claim, and checkpoints of accounts at some places."""

    async def read(*_: Any) -> ShardRecords:  # noqa: ANN401
        return ShardRecords(dict.fromkeys(places, b"2"), shard.own_claim, 0, places)

    monkeypatch.setattr("gateway.broker.kafka.shard.read_shard", read)


async def test_what_an_account_without_a_checkpoint_lost_is_sought_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was forgotten: each opening would read the topic from the old place to its end, millions of records later."""
    producer = Producer()
    shard = await opened(producer, Cluster(producer))
    await shard.commit(Commit(messages(1, 3, account="gone"), {"gone": b"3"}))
    for partition in shard.ends.of_events():
        shard.ends.lose(partition, 0, 0, set(), now=0)
    assert shard.lost.keys() == {"demo", "gone"}
    reads(monkeypatch, shard, demo=3)
    assert await shard.checkpoints() == {"demo": b"2"}
    assert shard.lost.keys() == {"demo"}
    await shard.commit(commit(1, 2))
    assert (shard.lost, shard.ends.doubted()) == ({}, [])


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_checkpoint_tells_by_its_place_that_it_knows_of_a_loss(
    monkeypatch: pytest.MonkeyPatch, *, is_stored: bool
) -> None:
    """The answer to its commit was lost: a gap of an earlier incarnation, which it does not hold, came twice."""
    producer = Producer()
    shard = await opened(producer, Cluster(producer))
    (partition,) = shard.ends.of_events()
    shard.ends.lose(partition, 0, 0, set(), now=0)
    place = producer.ends[CHECKPOINTS]

    async def fails() -> None:
        raise OutcomeUnknown("the answer is lost")

    monkeypatch.setattr(producer, "commit_transaction", fails)
    with pytest.raises(OutcomeUnknown):
        await shard.commit(Commit(messages(3, 4), {"demo": b"2"}))
    shard.ends.begin_again()
    for partition in shard.ends.of_events():
        shard.ends.lose(partition, 0, 0, set(), now=0)
    again = KafkaShard(*(getattr(shard, name) for name in ARGUMENTS))
    reads(monkeypatch, again, demo=place if is_stored else place - 2)
    await again.checkpoints()
    lost = range(3, 5) if is_stored else range(1, 5)  # what came with it is lost besides, which it does not know
    assert again.lost == {"demo": {Lost(1, number) for number in lost}}
