"""The promises of the log on JetStream while servers die, freeze, restart, fill up or forget."""

from __future__ import annotations

import asyncio
import gc
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.broker.credentials import BrokerLogin
from gateway.broker.jetstream import client_internals
from gateway.broker.jetstream.link import Link
from gateway.broker.jetstream.log import JetStreamShard
from gateway.broker.jetstream.stream import StreamSettings, wanted
from gateway.broker.jetstream.topics import Topics
from gateway.broker.ports import Commit, EventLog, ShardLog
from gateway.errors import ActionRequired, BrokerError, Fenced, OutcomeUnknown, TooManyMessages, Unavailable
from tests.support import event_log_suite
from tests.support.event_log_suite import message, messages, numbers, read
from tests.support.nats_server import NatsServer
from tests.support.rigs import NatsRig, nats_rig


class Writer:
    """Commits numbered messages for as long as it can, and remembers what it was told about them."""

    def __init__(self) -> None:
        self.settled = 0
        """Every number up to here was acknowledged or found in a checkpoint."""
        self.tried = 0
        """The last number that was ever sent."""
        self.in_flight = False

    async def write(self, shard: ShardLog, size: int = 7) -> None:
        """Commit until the log fails."""
        while True:
            self.tried = self.settled + size
            self.in_flight = True
            await shard.commit(Commit(messages(self.settled + 1, self.tried), {"demo": b"%d" % self.tried}))
            self.in_flight = False
            self.settled = self.tried

    async def settle(self, shard: ShardLog) -> int:
        """Learn from the checkpoint what became of the last commit, and return the number that is true."""
        stored = int((await shard.checkpoints()).get("demo", b"0"))
        assert stored in {self.settled, self.tried}
        self.settled = stored
        return stored


async def until(writer: Writer, settled: int, task: asyncio.Task[None]) -> None:
    """Wait until the writer has settled that many, and is in the middle of a commit."""
    while writer.settled < settled or not writer.in_flight:
        assert not task.done(), task.exception()
        await asyncio.sleep(0)


async def reopened(log: EventLog, shard: int, writer: Writer, rig: NatsRig) -> None:
    """Open the shard as soon as the broker lets us, and check the log against the checkpoint."""
    await rig.connection.connected()
    while True:
        try:
            async with log.open(shard) as opened:
                stored = await writer.settle(opened)
                assert await numbers(rig.reader) == list(range(1, stored + 1))
                return
        except (Unavailable, OutcomeUnknown):
            await rig.connection.connected()


async def reconnected(rig: NatsRig, before: Link) -> None:
    """Wait for another link than `before`."""
    while await rig.connection.connected() is before:
        await asyncio.sleep(0)


async def test_a_killed_server_has_what_it_acknowledged_and_perhaps_the_last(folder: Path) -> None:
    writer = Writer()
    async with NatsServer(folder) as server, nats_rig(server.url) as rig:
        log = rig.log("a")
        for kill in range(6):
            async with log.open(1) as shard:
                task = asyncio.create_task(writer.write(shard))
                await until(writer, writer.settled + 70 + kill, task)
                server.kill()
                with pytest.raises(OutcomeUnknown):
                    await task
            server.start()
            await reopened(log, 1, writer, rig)
    assert writer.settled > 400


async def test_a_connections_end_is_told_at_once_though_something_is_unsent(folder: Path) -> None:
    async with NatsServer(folder) as server, nats_rig(server.url) as rig:
        link = rig.connection.link
        with link.open_inbox("nobody") as inbox:
            link.client._pending.append(b"PING\r\n")
            link.client._pending_data_size = 6
            client_internals.abort(link.client)  # a server that dies does the same where its socket is reset
            async with asyncio.timeout(5):
                with pytest.raises(Unavailable, match="ended"):
                    await inbox.next()


async def test_an_answer_that_nobody_waits_for_any_more_ends_no_connection(nats_server: NatsServer) -> None:
    errors: list[Exception] = []

    async def note(error: Exception) -> None:
        errors.append(error)

    client = client_internals.PatchedClient()
    await client.connect(nats_server.url, error_cb=note)
    try:
        for _ in range(20):
            flush = asyncio.create_task(client.flush())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            flush.cancel()
            await asyncio.wait({flush})
        await client.flush()
        assert client.stats["reconnects"] == 0
        assert errors == []
    finally:
        await client.close()


async def test_a_wait_that_is_cancelled_leaves_no_failure_that_nobody_asked_for() -> None:
    unasked: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unasked.append(context))

    async def fail_when_cancelled() -> None:  # as nats-py's connect does
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise OSError("no servers") from None

    waiting = asyncio.create_task(client_internals.bounded_call(fail_when_cancelled(), 60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    del waiting
    gc.collect()
    assert unasked == []


async def test_a_killed_leader_of_three_loses_nothing_that_was_acknowledged(nats_cluster: list[NatsServer]) -> None:
    writer = Writer()
    hits = 0
    async with nats_rig(*(server.url for server in nats_cluster), replicas=3) as rig:
        log = rig.log("a")
        while hits < 2:
            async with log.open(1) as shard:
                task = asyncio.create_task(writer.write(shard))
                await until(writer, writer.settled + 70, task)
                leader = await leader_of(rig, nats_cluster)
                leader.kill()
                if await fails_soon(task, writer):  # else another had become the leader meanwhile
                    hits += 1
            await reopened(log, 1, writer, rig)
            leader.start()
            await rig.connection.connected()


async def leader_of(rig: NatsRig, servers: list[NatsServer]) -> NatsServer:
    """Return the server that leads the rig's stream now."""
    info = await rig.connection.link.api(f"STREAM.INFO.{rig.topics.stream}")
    return next(server for server in servers if server.config["server_name"] == info["cluster"]["leader"])


async def fails_soon(task: asyncio.Task[None], writer: Writer) -> bool:
    """Wait until the writer fails (True), or has written much more without a failure (False, and it is ended)."""
    enough = writer.settled + 700
    while not task.done() and writer.settled < enough:
        await asyncio.sleep(0.001)
    unharmed = not task.done()
    task.cancel()
    await asyncio.wait({task})
    assert unharmed or isinstance(task.exception(), BrokerError)
    return not unharmed


async def test_an_old_owner_in_full_swing_cannot_keep_a_new_one_out(nats_cluster: list[NatsServer]) -> None:
    """A compare-and-set on the fence would be refused while batches that expect it are in flight."""
    writer = Writer()
    async with nats_rig(*(server.url for server in nats_cluster), replicas=3) as rig:
        for _ in range(20):
            async with rig.log("old").open(1) as old:
                task = asyncio.create_task(writer.write(old))
                await until(writer, writer.settled + 35, task)
                async with asyncio.timeout(10), rig.log("new").open(1) as new:
                    with pytest.raises((Fenced, OutcomeUnknown)):
                        await task
                    await writer.settle(new)
        assert await numbers(rig.reader) == list(range(1, writer.settled + 1))


async def test_a_frozen_servers_outcome_is_unknown_in_time_and_a_reopen_tells(folder: Path) -> None:
    writer = Writer()
    async with NatsServer(folder) as server, nats_rig(server.url, timeout=1.0) as rig:
        log = rig.log("a")
        async with log.open(1) as shard:
            task = asyncio.create_task(writer.write(shard, 200))
            await until(writer, 400, task)
            server.freeze()
            try:
                async with asyncio.timeout(10):
                    with pytest.raises(OutcomeUnknown):
                        await task
                    with pytest.raises(BrokerError):
                        async with log.open(1):
                            pass
            finally:
                server.thaw()
        await reopened(log, 1, writer, rig)


async def test_a_frozen_server_with_a_full_socket_holds_nobody_up(folder: Path) -> None:
    """`Client.close` of nats-py would wait for the socket to drain."""
    async with NatsServer(folder) as server, nats_rig(server.url, timeout=1.0) as rig:
        async with rig.log("a").open(1) as shard:
            old = rig.connection.link
            server.freeze()
            try:
                big = [message(number, value=b"x" * 500_000) for number in range(1, 30)]
                with pytest.raises(OutcomeUnknown):
                    await shard.commit(Commit(big))
                async with asyncio.timeout(5):
                    while not old.is_lost:
                        await asyncio.sleep(0.01)
            finally:
                server.thaw()
        async with asyncio.timeout(10):
            assert await rig.connection.connected() is not old
            async with rig.log("a").open(1):
                assert len(await numbers(rig.reader)) in {0, 29}


async def test_a_quiet_log_goes_on_after_a_reconnect(folder: Path) -> None:
    async with NatsServer(folder) as server, nats_rig(server.url) as rig, rig.log("a").open(1) as shard:
        await shard.commit(Commit(messages(1, 1), {"demo": b"1"}))
        before = rig.connection.link
        server.kill()
        server.start()
        await reconnected(rig, before)

        await shard.commit(Commit(messages(2, 2), {"demo": b"2"}))

        assert await numbers(rig.reader) == [1, 2]


async def test_a_commit_without_a_connection_is_refused_and_never_sent_later(folder: Path) -> None:
    async with NatsServer(folder) as server, nats_rig(server.url) as rig:
        async with rig.log("a").open(1) as shard:
            before = rig.connection.link
            server.kill()
            while not before.is_lost:
                await asyncio.sleep(0)
            with pytest.raises(Unavailable):
                await shard.commit(Commit(messages(1, 1)))
        server.start()
        await rig.connection.connected()
        async with rig.log("a").open(1) as shard:
            await shard.commit(Commit(messages(2, 2)))
        assert await numbers(rig.reader) == [2]


async def test_a_log_is_spent_when_the_stream_was_made_anew(folder: Path) -> None:
    async with NatsServer(folder) as server, nats_rig(server.url) as rig:
        async with rig.log("a").open(1) as old:
            topics = rig.topics
            await rig.connection.link.api(f"STREAM.DELETE.{topics.stream}")
            await rig.connection.link.api(f"STREAM.CREATE.{topics.stream}", wanted(StreamSettings(topics)))
            async with rig.log("b").open(1) as new:
                assert isinstance(old, JetStreamShard)
                assert isinstance(new, JetStreamShard)
                assert new.claim.sequence == old.claim.sequence  # so the fence alone would not tell
                before = rig.connection.link
                server.kill()
                server.start()
                await reconnected(rig, before)

                with pytest.raises(OutcomeUnknown, match="anew"):
                    await old.commit(Commit(messages(1, 1)))
                await new.commit(Commit(messages(2, 2)))
        assert await numbers(rig.reader) == [2]


async def test_a_log_is_spent_once_its_stream_is_made_anew_under_the_connection(nats: NatsRig) -> None:
    """The fence stands where it stood, so the server takes the batch: only its place tells."""
    async with nats.log("a").open(1) as old:
        await old.commit(Commit(messages(1, 5), {"demo": b"5"}))
        link, topics = nats.connection.link, nats.topics
        await link.api(f"STREAM.DELETE.{topics.stream}")
        await link.api(f"STREAM.CREATE.{topics.stream}", wanted(StreamSettings(topics)))
        async with nats.log("b").open(1):
            assert nats.connection.link is link
            with pytest.raises(OutcomeUnknown, match="went back to 3 from 7: it was made anew"):
                await old.commit(Commit(messages(6, 6), {"demo": b"6"}))
            with pytest.raises(OutcomeUnknown, match="spent"):
                await old.commit(Commit(messages(7, 7), {"demo": b"7"}))


@asynccontextmanager
async def rewritten(server: NatsServer, original: bytes, instead: bytes) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Yield an address of the server, and an event: while it is set, what the server says is rewritten to its size."""
    begins = asyncio.Event()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, rewrites: bool) -> None:
        while line := await reader.readline():
            writer.write(re.sub(original, instead, line) if rewrites and begins.is_set() else line)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, asked = await asyncio.open_connection("127.0.0.1", server.port)
        with suppress(OSError):
            await asyncio.gather(forward(reader, asked, rewrites=False), forward(answers, writer, rewrites=True))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as listening:
        yield f"nats://127.0.0.1:{listening.sockets[0].getsockname()[1]}", begins


@pytest.mark.parametrize(
    ("original", "instead", "expected"),
    [
        (rb'"batch":"[\w-]{16}"', b'"batch":"%b"' % (b"0" * 16), "the acknowledgement is not of this batch"),
        (b'"count":4', b'"count":3', "the acknowledgement is not of this batch"),
        (b'"seq":9', b'"seq":8', "the stream went back to 8 from 5"),
    ],
    ids=["another batch", "another count", "a place that is too low"],
)
async def test_only_the_exact_acknowledgement_is_a_success(
    nats_server: NatsServer, original: bytes, instead: bytes, expected: str
) -> None:
    async with rewritten(nats_server, original, instead) as (url, begins), nats_rig(url) as rig:
        log = rig.log("a")
        async with log.open(1) as shard:
            await shard.commit(Commit(messages(1, 3), {"demo": b"3"}))
            begins.set()
            with pytest.raises(OutcomeUnknown, match=expected):
                await shard.commit(Commit(messages(4, 6), {"demo": b"6"}))
        begins.clear()
        async with log.open(1) as shard:
            assert await shard.checkpoints() == {"demo": b"6"}
        assert await numbers(rig.reader) == [1, 2, 3, 4, 5, 6]


async def test_checkpoints_outlive_the_events_and_a_restart_after_them(folder: Path) -> None:
    async with NatsServer(folder) as server, nats_rig(server.url, ttl=1) as rig:
        async with rig.log("a").open(1) as shard:
            await shard.commit(Commit(messages(1, 20), {"demo": b"20"}))
            assert len(await numbers(rig.reader)) == 20
            while await numbers(rig.reader):
                await asyncio.sleep(0.05)
            before = rig.connection.link
            server.kill()
            server.start()
            await reconnected(rig, before)
            assert await shard.checkpoints() == {"demo": b"20"}
        async with rig.log("b").open(1) as shard:
            assert await shard.checkpoints() == {"demo": b"20"}
        assert await read(rig.reader) == []


@pytest.mark.parametrize("limit", [{"max_bytes": 40_000}, {"max_msgs": 12}])
async def test_a_full_stream_takes_nothing_of_a_commit_and_says_that_it_is_full(
    nats_server: NatsServer, limit: dict[str, int]
) -> None:
    async with nats_rig(nats_server.url) as rig:
        link = rig.connection.link
        await link.api(f"STREAM.UPDATE.{rig.topics.stream}", wanted(StreamSettings(rig.topics)) | limit)
        async with rig.log("a").open(1) as shard:
            await shard.commit(Commit(messages(1, 5), {"demo": b"5"}))
            too_much = [message(number, value=b"x" * 4000) for number in range(6, 20)]
            with pytest.raises(Unavailable, match="maximum"):
                await shard.commit(Commit(too_much, {"demo": b"19"}))
        async with rig.log("a").open(1) as shard:
            assert await shard.checkpoints() == {"demo": b"5"}
            assert await numbers(rig.reader) == [1, 2, 3, 4, 5]
            await link.api(f"STREAM.UPDATE.{rig.topics.stream}", wanted(StreamSettings(rig.topics)))
            await shard.commit(Commit(too_much, {"demo": b"19"}))


async def test_what_the_server_refuses_inside_a_commit_refuses_all_of_it(nats: NatsRig) -> None:
    async with nats.log("a").open(1) as shard:
        assert isinstance(shard, JetStreamShard)
        shard._form = replace(shard._form, ttl=0)
        with pytest.raises(ActionRequired, match="TTL"):
            await shard.commit(Commit(messages(1, 3), {"demo": b"3"}))
    async with nats.log("a").open(1) as shard:
        assert await shard.checkpoints() == {}
    assert await numbers(nats.reader) == []


async def test_more_messages_than_the_server_takes_refuse_all_of_them(nats: NatsRig) -> None:
    async with nats.log("a").open(1) as shard:
        assert isinstance(shard, JetStreamShard)
        shard._limits = replace(shard.limits, messages=2000)
        with pytest.raises(TooManyMessages, match="too large"):
            await shard.commit(Commit(messages(1, 1001)))
    assert await numbers(nats.reader) == []


async def test_fifty_batches_left_open_leave_no_room_until_they_are_abandoned(nats: NatsRig) -> None:
    link = nats.connection.link
    for number in range(50):
        headers = {"Nats-Batch-Id": f"open-{number}", "Nats-Batch-Sequence": "1"}
        answer = await link.ask(nats.topics.message("order-update", "demo"), b"{}", headers)
        assert answer.data == b""
    async with nats.log("a").open(1) as shard:
        with pytest.raises(Unavailable, match="10210"):
            await shard.commit(Commit(messages(1, 3), {"demo": b"3"}))
    assert await numbers(nats.reader) == []


async def test_a_user_who_may_not_publish_is_told_so_and_no_event_is_blamed(
    folder: Path,
) -> None:
    topics = Topics("meso")
    allowed = {"allow": ["$JS.>", "meso.gateway.>"]}
    users = [{"user": "u", "password": "p", "permissions": {"publish": allowed, "subscribe": "_INBOX.>"}}]
    password_file = folder.with_name("password")
    password_file.write_text("p")
    async with (
        NatsServer(folder, config={"authorization": {"users": users}}) as server,
        nats_rig(server.url, topics=topics, access=BrokerLogin(user="u", password_file=password_file)) as rig,
        rig.log("a").open(1) as shard,
    ):
        with pytest.raises(Unavailable, match=r'publish to "meso\.events\.order-update\.v1\.demo"'):
            await shard.commit(Commit(messages(1, 3), {"demo": b"3"}))


async def test_a_stored_message_is_a_cloud_event_of_the_nats_binding(nats: NatsRig) -> None:
    async with nats.log("a").open(1) as shard:
        await shard.commit(Commit([message(7)]))
    stream, subject = nats.topics.stream, f"{nats.topics.prefix}.events.order-update.v1.demo"
    stored = await nats.connection.link.client.jetstream().get_last_msg(stream, subject)
    headers = {name: text for name, text in (stored.headers or {}).items() if not name.startswith("Nats-")}
    assert headers == {
        "Gateway-Key": "7",
        "ce-specversion": "1.0",
        "ce-id": "demo/7",
        "ce-source": "/mesolive/demo",
        "ce-type": "mesolive.order-update.v1",
        "ce-datacontenttype": "application/json",
        "ce-sequence": "00000000000000000007",
        "ce-account": "demo",
    }
    assert json.loads(stored.data or b"") == {"N": 7}


class UnfencedShard(JetStreamShard):
    """Writes under whatever claim stands: what a batch without its fence header would do."""

    async def commit(self, commit: Commit) -> None:
        link = self._connection.link
        stored = await link.api(f"STREAM.MSG.GET.{self._topics.stream}", {"last_by_subj": self._topics.fence(1)})
        self._form = replace(self._form, fence=stored["message"]["seq"])
        await super().commit(commit)


async def test_the_suite_notices_a_batch_that_does_not_expect_its_own_fence(
    nats: NatsRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.broker.jetstream.log.JetStreamShard", UnfencedShard)
    with pytest.raises(AssertionError, match="older writer wrote"):
        await event_log_suite.opening_fences_every_older_writer(nats.log("a"), nats.reader)
