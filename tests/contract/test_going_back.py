"""A store that goes back in time, as after a power cut or when a volume is put back: nothing covers what it lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiokafka.structs import TopicPartition

from gateway.broker.jetstream import batch, records
from gateway.broker.jetstream.control import JetStreamControl
from gateway.broker.jetstream.registry import JetStreamRegistry
from gateway.broker.kafka import cluster as kafka_cluster
from gateway.broker.kafka.control import KafkaControl
from gateway.broker.ports import Commit, ControlStore, Lost, ShardLog
from gateway.errors import OutcomeUnknown, Unavailable
from tests.support import kafka_server
from tests.support.event_log_suite import messages, numbers
from tests.support.kafka_server import KafkaServer
from tests.support.nats_server import NatsServer, cluster
from tests.support.ownership_suite import until
from tests.support.putting_back import keep, put_back, put_back_only
from tests.support.rigs import NatsRig, Rig, kafka_rig, nats_rig
from tests.support.watchers import watching


@dataclass
class PutBack:
    """A server of which the folder can be copied, and put back later."""

    server: NatsServer | KafkaServer
    back: Callable[[], Awaitable[object]]
    """Waits until the gateway's connection is there again."""

    async def keep(self) -> None:
        """Copy the folder, while the server is down."""
        await asyncio.to_thread(keep, self.server)
        await self.until_back()

    async def put_back(self) -> None:
        """Put the copy in the folder's place, while the server is down."""
        await asyncio.to_thread(put_back, self.server)
        await self.until_back()

    async def put_back_only(self, wanted: str) -> None:
        """Put the copy of some folders in their place, while the server is down."""
        await asyncio.to_thread(put_back_only, self.server, wanted)
        await self.until_back()

    async def until_back(self) -> None:
        """Wait until what the gateway asks of it is answered."""
        async with asyncio.timeout(30):
            while True:
                with suppress(Unavailable):
                    await self.back()
                    return
                await asyncio.sleep(0.05)


@asynccontextmanager
async def on_nats(folder: Path) -> AsyncIterator[tuple[Rig, ControlStore, PutBack]]:
    async with NatsServer(folder / "server") as server, nats_rig(server.url) as rig:
        registry = JetStreamRegistry(rig.connection, rig.topics)
        await registry.prepare(replicas=1, create=True)

        yield rig, JetStreamControl(rig.connection, rig.topics), PutBack(server, lambda: takes_claims(rig))


async def takes_claims(rig: NatsRig) -> object:
    """Ask the stream to store a claim, which it refuses; raises Unavailable where no server knows who takes one.

    In a cluster a server hears that a little later than the stream tells of itself.
    """
    return await rig.connection.link.ask(rig.topics.fence(1), headers={"Nats-Expected-Stream": "."})


@asynccontextmanager
async def on_kafka(folder: Path) -> AsyncIterator[tuple[Rig, ControlStore, PutBack]]:
    with KafkaServer(folder / "server") as server:
        async with kafka_rig(server.address) as rig:
            tps = [TopicPartition(rig.topics.checkpoints, 1)]
            yield (
                rig,
                KafkaControl(rig.connection, rig.topics),
                PutBack(server, lambda: kafka_cluster.places(rig.connection, tps)),
            )


@pytest.fixture(params=["nats", "kafka"])
async def house(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[tuple[Rig, ControlStore, PutBack]]:
    """Yield a rig on a server that can be put back."""
    if request.param == "kafka":
        kafka_server.require_java()
    async with on_nats(folder) if request.param == "nats" else on_kafka(folder) as made:
        yield made


@asynccontextmanager
async def stored(rig: Rig, place: PutBack) -> AsyncIterator[ShardLog]:
    """Yield a shard that has stored the events 1 to 5, of which a copy was made, and then 6 to 10."""
    async with rig.log("a").open(1) as shard:
        assert await shard.checkpoints() == {}
        await shard.commit(Commit(messages(1, 5), {"demo": b"5", "other": b"0"}))
        await place.keep()
        await shard.commit(Commit(messages(6, 10), {"demo": b"10"}))
        yield shard


def _next(form: str) -> Commit:
    match form:
        case "events":
            return Commit(messages(11, 12), {"demo": b"12"})
        case "no event":
            return Commit([], {"demo": b"12"})
        case _:
            return Commit([], {"other": b"1", "demo": b"12"})


@pytest.mark.parametrize(
    "form", ["events", "no event", pytest.param("two checkpoints and no event", marks=pytest.mark.long)]
)
async def test_a_commit_that_builds_on_what_is_lost_stores_nothing(
    house: tuple[Rig, ControlStore, PutBack], form: str
) -> None:
    rig, _, place = house
    async with stored(rig, place) as shard:
        await place.put_back()
        with pytest.raises((OutcomeUnknown, Unavailable)):
            await shard.commit(_next(form))
        async with rig.log("a").open(1) as again:
            assert await again.checkpoints() == {"demo": b"5", "other": b"0"}
            await again.commit(Commit(messages(6, 12), {"demo": b"12"}))
        assert await numbers(rig.reader) == list(range(1, 13))


async def test_a_writer_that_has_nothing_to_store_hears_of_it_too(house: tuple[Rig, ControlStore, PutBack]) -> None:
    rig, _, place = house
    async with stored(rig, place) as shard:
        await shard.check()
        await place.put_back()
        with pytest.raises(OutcomeUnknown, match="went back"):
            await shard.check()


async def test_checkpoints_read_again_for_an_account_do_not_hide_what_is_lost(
    house: tuple[Rig, ControlStore, PutBack],
) -> None:
    rig, _, place = house
    async with stored(rig, place) as shard:
        assert await shard.checkpoints() == {"demo": b"10", "other": b"0"}
        await place.put_back()
        with pytest.raises(OutcomeUnknown):
            await shard.checkpoints()


async def test_a_stream_of_one_copy_goes_back_on_a_server_not_connected_to(
    folder: Path,
) -> None:
    """So no connection ends, and nobody looks at the stream anew."""
    with cluster(folder) as servers:
        async with nats_rig(servers[0].url) as rig:
            info = await rig.connection.link.api(f"STREAM.INFO.{rig.topics.stream}")
            home = next(server for server in servers if server.folder.name == info["cluster"]["leader"])
            others = [server.url for server in servers if server is not home]

        async with nats_rig(*others, topics=rig.topics) as rig:
            link = rig.connection.link

            place = PutBack(home, lambda: takes_claims(rig))
            await place.until_back()
            async with stored(rig, place) as shard:
                await place.put_back()
                assert rig.connection.link is link
                with pytest.raises(OutcomeUnknown, match="demo was at 14, and is at 7"):
                    await shard.commit(_next("events"))
            async with rig.log("a").open(1) as again:
                assert await again.checkpoints() == {"demo": b"5", "other": b"0"}


async def test_what_a_kafka_topic_lost_is_known_until_a_checkpoint_knows_of_it(folder: Path) -> None:
    kafka_server.require_java()
    async with on_kafka(folder) as (rig, _, place):
        log = rig.log("a")
        async with log.open(1) as shard:
            assert await shard.checkpoints() == {}
            await shard.commit(Commit(messages(1, 5), {"demo": b"5", "other": b"0"}))
            await shard.check()  # the marker of the transaction may be written a little later than it is told
            await place.keep()
            await shard.commit(Commit(messages(6, 10), {"demo": b"10"}))
            await place.put_back_only("**/*.order-update.v1-*")
            with pytest.raises((OutcomeUnknown, Unavailable)):
                await shard.commit(_next("events"))
        for _ in range(2):
            async with log.open(1) as again:
                assert await again.checkpoints() == {"demo": b"10", "other": b"0"}
                assert again.lost == {"demo": {Lost(1, number) for number in range(6, 11)}}
        async with log.open(1) as again:
            await again.checkpoints()
            await again.commit(Commit(messages(6, 12), {"demo": b"12"}))
            assert again.lost == {}
        async with log.open(1) as again:
            assert again.lost == {}
        assert await numbers(rig.reader) == list(range(1, 13))


async def test_a_control_stores_watch_hears_what_is_older_now_and_what_is_gone(
    house: tuple[Rig, ControlStore, PutBack], caplog: pytest.LogCaptureFixture
) -> None:
    """And what is written at once, so that the store is as long as it was: else changes would be refused for ever."""
    _, control, place = house
    revision = await control.write("account.alpha", b"1", 0)
    await place.keep()
    async with watching(control) as view:
        newer = await control.write("account.alpha", b"2", revision)
        await control.write("account.beta", b"1", 0)
        await view.reaches("account.beta", 1)
        await view.reaches("account.alpha", newer)
        await place.put_back()
        for turn in range(6):
            await control.publish_observed({f"account.{turn}": b"1"})
        await until(lambda: view.desired["account.alpha"].value == b"1", "the older desired state is heard")
        await until(lambda: view.desired["account.beta"].revision == 0, "the lost desired state is gone")
        assert view.desired["account.alpha"].revision == revision
        newest = await control.write("account.alpha", b"3", revision)
        await view.reaches("account.alpha", newest)
        assert len(view.fills) == 1
    assert "the last changes may have to be repeated for: account.alpha, account.beta" in caplog.text


async def test_a_checkpoint_that_somebody_else_wrote_is_not_written_over(nats: NatsRig) -> None:
    async with nats.log("a").open(1) as shard:
        await shard.checkpoints()
        await shard.commit(Commit(messages(1, 5), {"demo": b"5"}))
        await records.write(nats.connection.link, nats.topics.checkpoint(1, "demo"), b"3", None)
        with pytest.raises(OutcomeUnknown, match="demo"):
            await shard.commit(Commit(messages(6, 7), {"demo": b"7"}))
    async with nats.log("a").open(1) as shard:
        assert await shard.checkpoints() == {"demo": b"3"}


async def test_checkpoints_come_go_and_come_again_under_one_writer(nats: NatsRig) -> None:
    """The marker of what was forgotten may end at any time: nothing is expected of it."""
    async with nats.log("a").open(1) as shard:
        await shard.checkpoints()
        for turn in range(3):
            await shard.commit(Commit(messages(2 * turn + 1, 2 * turn + 1), {"demo": b"1", f"new-{turn}": b"1"}))
            await shard.commit(Commit([], {"demo": b"2", f"new-{turn}": b"2"}))
            await shard.commit(Commit(messages(2 * turn + 2, 2 * turn + 2), {"demo": None}))
            assert (await shard.checkpoints()).keys() == {f"new-{number}" for number in range(turn + 1)}
        await shard.check()
    assert await numbers(nats.reader) == [1, 2, 3, 4, 5, 6]


async def test_places_are_the_streams_while_shards_commit_at_the_same_time(nats: NatsRig) -> None:
    async def write(number: int) -> None:
        async with nats.log(f"writer-{number}").open(number) as shard:
            await shard.checkpoints()
            for turn in range(40):
                names = {f"account-{number}-{which}": b"%d" % turn for which in range(turn % 3 + 1)}
                await shard.commit(Commit(messages(1, turn % 4, account=f"account-{number}-0"), names))
                await shard.check()

    async with asyncio.TaskGroup() as tasks:
        for number in range(6):
            tasks.create_task(write(number))


async def test_the_suite_notices_a_batch_that_expects_no_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = batch.make_batch

    def unconditioned(*args: Any, **kwargs: Any) -> batch.BatchFrames:  # noqa: ANN401
        return made(*args, **kwargs | {"last_sequences": None})

    monkeypatch.setattr("gateway.broker.jetstream.batch.make_batch", unconditioned)
    async with on_nats(folder) as (rig, _, place), stored(rig, place) as shard:
        await place.put_back()
        with suppress(OutcomeUnknown):  # it is noticed, too late
            await shard.commit(_next("events"))
        async with rig.log("a").open(1) as again:
            assert await again.checkpoints() == {"demo": b"12", "other": b"0"}
