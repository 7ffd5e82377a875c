"""The contract of the control store, on every broker that has it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from gateway.broker import control_view as broker_view
from gateway.broker.jetstream.control import JetStreamControl
from gateway.broker.jetstream.registry import JetStreamRegistry
from gateway.broker.kafka.control import KafkaControl
from gateway.broker.memory.control import MemoryControl
from gateway.broker.ports import ControlStore, Record
from gateway.errors import Conflict, OutcomeUnknown, Unavailable
from gateway.state import Desired, Observed, Phase, ReplayState, ShardState, decode_record, encode_record
from tests.support.kafka_server import KafkaServer
from tests.support.nats_server import NatsServer
from tests.support.ownership_suite import until
from tests.support.rigs import NatsRig, kafka_rig, nats_rig, when_whole
from tests.support.watchers import watching

log = logging.getLogger(__name__)


@asynccontextmanager
async def on_nats(*urls: str, replicas: int = 1) -> AsyncIterator[ControlStore]:
    async with nats_rig(*urls, replicas=replicas) as rig:
        registry = JetStreamRegistry(rig.connection, rig.topics)
        await when_whole(rig.connection, lambda: registry.prepare(replicas=replicas, create=True))
        while True:  # until the server that we are connected to knows of the stream
            with suppress(Unavailable):
                await registry.register("rig")
                break
        yield JetStreamControl(rig.connection, rig.topics)


@asynccontextmanager
async def on_kafka(*servers: str, replicas: int = 1) -> AsyncIterator[ControlStore]:
    async with kafka_rig(*servers, replicas=replicas) as rig:
        yield KafkaControl(rig.connection, rig.topics)


@pytest.fixture(params=["memory", "jetstream", "jetstream-3", "kafka", "kafka-3"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[ControlStore]:
    """Yield each broker in turn."""
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            yield MemoryControl()
        elif request.param == "jetstream":
            server: NatsServer = request.getfixturevalue("nats_server")
            yield await stack.enter_async_context(on_nats(server.url))
        elif request.param == "jetstream-3":
            servers: list[NatsServer] = request.getfixturevalue("nats_cluster")
            yield await stack.enter_async_context(on_nats(*(one.url for one in servers), replicas=3))
        elif request.param == "kafka":
            yield await stack.enter_async_context(on_kafka(request.getfixturevalue("kafka_address")))
        else:
            nodes: list[KafkaServer] = request.getfixturevalue("kafka_cluster")
            yield await stack.enter_async_context(on_kafka(*(node.address for node in nodes), replicas=3))


async def of_two_writers_each_change_is_kept(store: ControlStore) -> None:
    """Let two count the same number up, each by what it has read."""

    async def count_up() -> None:
        async with watching(store) as view:
            for _ in range(10):
                while True:
                    known = view.desired.get("n", Record("n", b"0", 0, is_observed=False, age=0))
                    try:
                        written = await store.write("n", b"%d" % (int(known.value) + 1), known.revision)
                    except Conflict:
                        await view.reaches("n", known.revision + 1)
                    else:
                        await view.reaches("n", written)
                        break

    await asyncio.gather(count_up(), count_up())
    async with watching(store) as view:
        await until(lambda: "n" in view.desired, "the number is read")
        assert view.desired["n"].value == b"20"


async def a_write_that_expects_anything_else_is_refused(store: ControlStore) -> None:
    first = await store.write("main.subscription", b"1", 0)
    second = await store.write("main.subscription", b"2", first)
    assert second > first
    for wrong in (0, first, second + 1):
        with pytest.raises(Conflict):
            await store.write("main.subscription", b"3", wrong)
    async with watching(store) as view:
        await until(lambda: view.values() == {"main.subscription": b"2"}, "the last value is read")
        assert view.desired["main.subscription"].revision == second


async def a_watch_sees_every_last_value(store: ControlStore) -> None:
    revisions = {f"a{number}.x": await store.write(f"a{number}.x", b"0", 0) for number in range(20)}
    async with watching(store) as view, watching(store) as other:
        for value in range(1, 4):
            for key, revision in revisions.items():
                revisions[key] = await store.write(key, b"%d" % value, revision)
        await store.publish_observed(dict.fromkeys(revisions, b"so"))
        await until(lambda: set(view.values().values()) == {b"3"} and len(view.observed) == 20, "all is seen")
        await until(lambda: set(other.values().values()) == {b"3"} and len(other.observed) == 20, "all is seen twice")
        for key, revision in revisions.items():
            assert view.desired[key].revision == revision
            mine = [record.revision for record in view.seen if record.key == key and not record.is_observed]
            assert mine == sorted(set(mine))  # in order, and none twice


def is_forgotten(records: Mapping[str, Record], key: str) -> bool:
    """Return whether the last that was heard of a key is that it is no more."""
    return key in records and (records[key].value, records[key].revision) == (b"", 0)


async def a_key_that_is_forgotten_was_never_written(store: ControlStore) -> None:
    first = await store.write("main", b"1", 0)
    other = await store.write("other", b"o", 0)
    await store.publish_observed({"main": b"so", "other": b"so", "alone": b"so"})
    async with watching(store) as view:
        await until(lambda: len(view.desired) == 2 and len(view.observed) == 3, "all is seen")
        await store.forget({"main", "alone", "never"})
        await until(lambda: is_forgotten(view.desired, "main"), "no desired state is seen")
        await until(lambda: all(is_forgotten(view.observed, one) for one in ("main", "alone")), "no report is seen")
        assert (view.desired["other"].revision, view.observed["other"].value) == (other, b"so")
        async with watching(store) as fresh:
            await until(lambda: bool(fresh.fills), "a new watch gives everything")
            assert {record.key for record in fresh.seen if record.value} == {"other"}
            assert all(record.revision == 0 for record in fresh.seen if record.key != "other")
        with pytest.raises(Conflict):
            await store.write("main", b"2", first)
        again = await store.write("main", b"2", 0)
        assert again > first
        await store.publish_observed({"main": b"so again"})
        await view.reaches("main", again)
        await until(lambda: view.observed["main"].value == b"so again", "what is reported is there again")
        assert {key: value for key, value in view.values().items() if value} == {"main": b"2", "other": b"o"}


async def a_store_that_received_nothing_may_write_what_is_forgotten(store: ControlStore) -> None:
    revisions = [await store.write("main", b"0", 0)]
    for number in range(1, 4):
        await store.forget(["main"])
        for former in revisions:
            with pytest.raises(Conflict):
                await store.write("main", b"x", former)
        revisions.append(await store.write("main", b"%d" % number, 0))
        with pytest.raises(Conflict):
            await store.write("main", b"x", 0)
    assert revisions == sorted(set(revisions))
    async with watching(store) as view:
        await until(lambda: bool(view.fills), "all is given")
        assert view.values() == {"main": b"3"}


Behaviour = Callable[[ControlStore], Awaitable[None]]


@pytest.mark.parametrize(
    "behaviour",
    [
        of_two_writers_each_change_is_kept,
        a_write_that_expects_anything_else_is_refused,
        a_watch_sees_every_last_value,
        a_key_that_is_forgotten_was_never_written,
        a_store_that_received_nothing_may_write_what_is_forgotten,
    ],
)
async def test_the_contract(store: ControlStore, behaviour: Behaviour) -> None:
    await behaviour(store)


async def test_a_write_beside_a_forgetting_is_refused_or_forgotten_too(store: ControlStore) -> None:
    revision = await store.write("main", b"0", 0)
    for number in range(10):
        writing = asyncio.create_task(store.write("main", b"%d" % number, revision))
        await asyncio.sleep(0.001 * number)
        await store.forget(["main"])
        await asyncio.wait({writing})
        assert writing.exception() is None or isinstance(writing.exception(), Conflict)
        revision = await store.write("main", b"again", 0)


async def test_any_number_of_keys_is_forgotten_and_none_is_no_trouble(store: ControlStore) -> None:
    await store.forget([])
    keys = [f"a{number}" for number in range(1200)]
    await store.publish_observed(dict.fromkeys(keys, b"so"))
    await store.write("a7", b"1", 0)
    async with watching(store) as view:
        await until(lambda: len(view.observed) == len(keys) and "a7" in view.desired, "all is seen")
        await store.forget(keys)
        await store.forget(keys)
        await until(lambda: all(is_forgotten(view.observed, key) for key in keys), "none is left")
        await until(lambda: is_forgotten(view.desired, "a7"), "no desired state is left")


async def test_a_view_drops_what_is_forgotten_and_says_whose_it_was(store: ControlStore) -> None:
    changed: list[str] = []
    view = broker_view.View(changed.append)
    observed = encode_record(Observed(owner="a", state="live", since="2026-01-01T00:00:00Z"))
    following = asyncio.create_task(view.follow(store))
    try:
        written = await store.write("account.main", encode_record(Desired(reconnects=1)), 0)
        shard = encode_record(ShardState(owner="a", accounts=2))
        await store.publish_observed(
            {"account.main": observed, "account.silent": observed, "shard.3": shard, "shard.4": shard}
        )
        await until(lambda: len(view.observed) == 2 and len(view.shards) == 2 and bool(view.desired), "all is seen")
        assert (view.desired_of("main").revision, changed) == (written, ["main"])
        await store.forget(["account.main", "account.silent", "shard.3"])
        await until(lambda: not view.observed and not view.desired and set(view.shards) == {"4"}, "all is dropped")
        assert (view.desired_of("main"), changed) == (broker_view.VersionedDesired(), ["main", "main"])
        again = await store.write("account.main", encode_record(Desired()), 0)
        await until(lambda: view.desired_of("main").revision == again, "a later one is seen")
    finally:
        following.cancel()
        await asyncio.wait({following})


async def test_a_view_passes_over_what_a_former_owner_says_late(store: ControlStore) -> None:
    def account(owner: str, epoch: int) -> dict[str, bytes]:
        observed = Observed(owner=owner, state="live", since="2026-01-01T00:00:00Z", epoch=epoch)
        return {"account.main": encode_record(observed)}

    def replay(phase: Phase, epoch: int) -> dict[str, bytes]:
        return {"replay.r": encode_record(ReplayState(owner="b", phase=phase, epoch=epoch))}

    view = broker_view.View(lambda _: None)
    following = asyncio.create_task(view.follow(store))
    try:
        await store.publish_observed(account("b", 7) | replay(Phase.COMPLETED, 7))
        await until(lambda: "main" in view.observed and "r" in view.replay_states, "the owner is heard")
        current = view.observed["main"]
        await store.publish_observed(account("a", 3) | replay(Phase.RUNNING, 3))
        late = [("account.main", 3), ("replay.r", 3)]
        await until(lambda: [(key, view.last_writer(key).epoch) for key, _ in late] == late, "both late ones are heard")
        assert (view.observed["main"], view.phase("r")) == (current, Phase.COMPLETED)
        await store.publish_observed(account("b", 7) | replay(Phase.COMPLETED, 7))
        await until(
            lambda: view.last_writer("account.main").epoch == view.last_writer("replay.r").epoch == 7, "and again"
        )
        assert view.observed["main"].revision > current.revision
        await store.publish_observed(account("a", 9))
        await until(
            lambda: view.observed["main"].value == decode_record(Observed, account("a", 9)["account.main"]), "9"
        )
    finally:
        following.cancel()
        await asyncio.wait({following})


async def test_on_jetstream_nothing_is_left_of_the_forgotten_after_its_marker(
    nats: NatsRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.broker.jetstream.control._FORGOTTEN_FOR", 1)
    await JetStreamRegistry(nats.connection, nats.topics).prepare(replicas=1, create=True)
    store = JetStreamControl(nats.connection, nats.topics)
    first = await store.write("main", b"1", 0)
    async with watching(store) as view:
        await store.forget(["main", "back"])
        back = await store.write("back", b"1", 0)
        await asyncio.sleep(2)
        await until(lambda: is_forgotten(view.desired, "main"), "it was said")
    async with watching(store) as fresh:
        await until(lambda: fresh.fills == [1], "the other is there still")
        assert fresh.desired["back"].revision == back
    with pytest.raises(Conflict):
        await store.write("main", b"2", first)
    assert await store.write("main", b"2", 0) > first


async def test_what_is_observed_is_apart_from_what_is_wanted_and_tells_its_age(store: ControlStore) -> None:
    revision = await store.write("main", b"wanted", 0)
    for value in (b"1", b"2"):
        await store.publish_observed({"main": value, "other": value})
    await store.write("main", b"wanted again", revision)  # a report does not change what is desired
    await asyncio.sleep(0.3)
    async with watching(store) as view:
        await until(lambda: len(view.observed) == 2 and len(view.desired) == 1, "both are read")
        assert {key: record.value for key, record in view.observed.items()} == {"main": b"2", "other": b"2"}
        assert view.values() == {"main": b"wanted again"}
        assert all(0.2 < record.age < 5 for record in view.observed.values())


async def test_a_watch_says_once_when_everything_is_given_that_was_there(store: ControlStore) -> None:
    async with watching(store) as view:
        await until(lambda: view.fills == [0], "nothing was there")
        await store.write("main", b"1", 0)
        await store.publish_observed({f"a{number}": b"1" for number in range(600)})
        await until(lambda: len(view.seen) == 601, "all is seen")
    async with watching(store) as later:
        await until(lambda: bool(later.fills), "it says so")
        assert len(later.seen) == 601
        await store.publish_observed({"main": b"2"})
        await until(lambda: len(later.seen) == 602, "the change is seen")
        assert (view.fills, later.fills) == ([0], [601])


async def test_thousands_of_accounts_are_reported_and_seen_in_no_time(store: ControlStore) -> None:
    """A thousand owners may report at the same second, and a replica must not take long to know all of it."""
    observed = {f"account-{number}": b"x" * 300 for number in range(5000)}
    began = time.monotonic()
    await store.publish_observed(observed)
    reported_at = time.monotonic()
    async with watching(store) as view:
        await until(lambda: len(view.observed) == len(observed), "all is seen")
    seen = time.monotonic()
    log.info(
        "%d accounts were reported in %.2f s and seen in %.2f s", len(observed), reported_at - began, seen - reported_at
    )
    assert reported_at - began < 5  # 0.8 s where nothing else runs
    assert seen - reported_at < 5


async def test_a_stream_that_is_made_anew_is_read_from_its_beginning(nats: NatsRig) -> None:
    registry = JetStreamRegistry(nats.connection, nats.topics)
    await registry.prepare(replicas=1, create=True)
    store = JetStreamControl(nats.connection, nats.topics)
    async with watching(store) as view:
        for value in (b"0", b"old"):
            await store.publish_observed({"main": value})
        await until(lambda: "main" in view.observed and view.observed["main"].value == b"old", "it is seen")
        await nats.connection.link.api(f"STREAM.DELETE.{nats.topics.control}")
        with pytest.raises(Unavailable):
            await store.publish_observed({"main": b"nowhere"})
        await registry.prepare(replicas=1, create=True)
        await store.publish_observed({"main": b"new"})
        await until(lambda: view.observed["main"].value == b"new", "it is read anew")


async def test_a_frozen_server_holds_no_write_and_no_report_up(folder: Path) -> None:
    async with NatsServer(folder) as server, nats_rig(server.url, timeout=1.0) as rig:
        await JetStreamRegistry(rig.connection, rig.topics).prepare(replicas=1, create=True)
        store = JetStreamControl(rig.connection, rig.topics)
        async with watching(store) as view:
            revision = await store.write("main", b"1", 0)
            await until(lambda: view.values() == {"main": b"1"}, "it is seen")
            server.freeze()
            with pytest.raises(OutcomeUnknown):
                await store.write("main", b"2", revision)
            with pytest.raises(Unavailable):
                await store.publish_observed({"main": b"2"})
            server.thaw()
            await until(lambda: view.values() == {"main": b"2"}, "the watch tells what became of it")
            server.freeze()
            with pytest.raises(OutcomeUnknown):
                await store.forget(["main"])
            server.thaw()
            await until(lambda: is_forgotten(view.desired, "main"), "the watch tells what became of it")


async def test_desired_state_and_watches_outlive_a_restart_of_the_broker(folder: Path) -> None:
    async with NatsServer(folder) as server, nats_rig(server.url, timeout=2.0) as rig:
        await JetStreamRegistry(rig.connection, rig.topics).prepare(replicas=1, create=True)
        store = JetStreamControl(rig.connection, rig.topics)
        revision = await store.write("main", b"1", 0)
        async with watching(store) as view:
            await until(lambda: view.values() == {"main": b"1"}, "it is read")
            server.kill()
            await asyncio.to_thread(server.start)
            await rig.connection.connected()
            await store.write("main", b"2", revision)
            await until(lambda: view.values() == {"main": b"2"}, "the watch goes on")
            assert [record.value for record in view.seen] == [b"1", b"2"]


# Defects that the suite must find -------------------------------------------------------------------------


class _NeverRefuses(MemoryControl):
    async def write(self, key: str, value: bytes, expect: int) -> int:  # noqa: ARG002
        await asyncio.sleep(0)
        return self._write(key, value, is_observed=False)


class _Forgets(MemoryControl):
    async def watch(self) -> AsyncIterator[Record | None]:
        async for record in MemoryControl.watch(self):
            if record is None or record.revision % 7:
                yield record


class _RemembersRevisions(MemoryControl):
    async def forget(self, keys: Collection[str]) -> None:
        for key in keys:
            if (False, key) in self.records:
                self._write(key, b"", is_observed=False)


class _ForgetsDesiredStateOnly(MemoryControl):
    async def forget(self, keys: Collection[str]) -> None:
        observed = {which: record for which, record in self.records.items() if which[0]}
        await MemoryControl.forget(self, keys)
        self.records.update(observed)


class _BeginsAnew(MemoryControl):
    async def forget(self, keys: Collection[str]) -> None:
        await MemoryControl.forget(self, keys)
        self._revision = 0


@pytest.mark.parametrize(
    ("defect", "behaviour"),
    [
        (_RemembersRevisions, a_key_that_is_forgotten_was_never_written),
        (_RemembersRevisions, a_store_that_received_nothing_may_write_what_is_forgotten),
        (_ForgetsDesiredStateOnly, a_key_that_is_forgotten_was_never_written),
        (_BeginsAnew, a_store_that_received_nothing_may_write_what_is_forgotten),
        (_NeverRefuses, of_two_writers_each_change_is_kept),
        (_NeverRefuses, a_write_that_expects_anything_else_is_refused),
        (_Forgets, a_watch_sees_every_last_value),
    ],
)
async def test_the_suite_notices_a_store_that_breaks_its_word(
    defect: Callable[[], ControlStore], behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.ownership_suite.TIMEOUT_S", 1.0)
    with pytest.raises((AssertionError, Conflict, pytest.fail.Exception)):
        await behaviour(defect())
