"""The least permissions of docs/operate/nats.md: enough as they stand, and not one too many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import nats
import pytest
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

from gateway.broker.credentials import BrokerLogin
from gateway.broker.jetstream.audit import JetStreamAudit
from gateway.broker.jetstream.connection import Connection, ConnectionOptions, connect
from gateway.broker.jetstream.control import JetStreamControl
from gateway.broker.jetstream.link import PermissionDenied
from gateway.broker.jetstream.log import EventLogSettings, JetStreamLog
from gateway.broker.jetstream.ownership import JetStreamOwnership
from gateway.broker.jetstream.reader import JetStreamReader
from gateway.broker.jetstream.registry import JetStreamRegistry
from gateway.broker.jetstream.stream import StreamSettings, prepare
from gateway.broker.jetstream.topics import Topics
from gateway.broker.ports import Commit
from gateway.errors import ConfigurationError, GatewayError, Unavailable
from tests.support.event_log_suite import message, messages, numbers
from tests.support.nats_server import NatsServer
from tests.support.permissions import (
    API,
    KINDS,
    PASSWORDS,
    covers,
    documented,
    lacking,
    make_consumers,
    named,
    nats_consumer,
    not_imported,
    permissions,
    without_create,
)
from tests.support.watchers import steer

TOPICS = Topics("mesolive")
STREAMS = (TOPICS.stream, TOPICS.control, TOPICS.ownership, TOPICS.audit_stream)
TEXT = documented()
_NEEDED_LATER = {
    "$JS.API.STREAM.MSG.GET.mesolive-gateway",
    "mesolive.events.*.v1.*",
    "mesolive.gateway.fence.*",
    "mesolive.gateway.checkpoint.*.*",
    "mesolive.gateway.control.account.*",
    "mesolive.gateway.control.state.>",
}
"""Without one of the others the gateway ends at its start; without one of these it runs, says so and tries again."""
_FOR_WATCHING = {"$JS.API.DIRECT.GET.mesolive-gateway-control", "mesolive.gateway.control.state.*.>"}
"""A watch goes on through every trouble, so only the log tells of these."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("permissions"))
    server.text = TEXT
    with pytest.MonkeyPatch.context() as patch:
        for name, password in PASSWORDS.items():
            patch.setenv(name, password)
        with server:
            yield server


@pytest.fixture
async def admin(server: NatsServer) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(server.url, user="admin", password="admin", allow_reconnect=False)
    yield client.jetstream()
    await client.close()


def going_by(server: NatsServer, text: str) -> None:
    server.text = text
    server.reload()


@asynccontextmanager
async def connected(server: NatsServer, folder: Path, user: str) -> AsyncIterator[Connection]:
    """Connect as the gateway does, with the user's password and inbox."""
    password_file = folder / user
    password_file.write_text(PASSWORDS[f"{user.upper()}_PASSWORD"])
    access = BrokerLogin(user=user, password_file=password_file)
    options = ConnectionOptions(
        servers=[server.url],
        access=access,
        inbox_prefix=f"_INBOX_{user}",
        api_prefix=API if user == "reader" else "$JS.API",
        timeout=3,
        ping_interval=0.5,
    )
    async with connect(options) as connection:
        yield connection


async def live(connection: Connection, *, create: bool) -> None:
    """Do all that a gateway ever does on NATS."""
    await prepare(connection, StreamSettings(TOPICS, create=create))
    registry = JetStreamRegistry(connection, TOPICS)
    await registry.prepare(replicas=1, create=create)
    await registry.ensure_layout(16)
    ownership = JetStreamOwnership(connection, TOPICS)
    await ownership.prepare(replicas=1, create=create)
    await share(ownership)
    audit = JetStreamAudit(connection, TOPICS)
    await audit.prepare(replicas=1, create=create, retention=3600)
    await audit.append("id", "demo", b"{}")
    for _ in range(2):
        async with JetStreamLog(connection, EventLogSettings(TOPICS, "a")).open(1) as shard:
            await shard.checkpoints()
            await registry.accounts()
            letters = [message(4, topic="dead-letter"), message(5, topic="notifications")]
            await shard.commit(Commit([*messages(1, 3), *letters], {"demo": b"5"}))
            await registry.register("demo")
    await steer(JetStreamControl(connection, TOPICS), timeout_s=3)
    await connection.link.refused([])  # what was refused is told now


async def share(ownership: JetStreamOwnership) -> None:
    """Take a shard and return it back."""
    async with ownership.join("a", 1) as membership:
        async with asyncio.timeout(10), aclosing(membership.assignments()) as changes:  # type: ignore[type-var]
            assert await anext(changes) == {0}
        assert await membership.is_owner(0)
        await membership.release(0)


async def forget(admin: JetStreamContext) -> None:
    for stream in STREAMS:
        try:
            await admin.delete_stream(stream)
        except NotFoundError:
            continue


# The gateway -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("create", [True, False])
async def test_the_gateway_works_with_its_permissions_and_with_not_one_less(
    server: NatsServer, admin: JetStreamContext, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, create: bool
) -> None:
    text = TEXT if create else without_create(TEXT)

    async def prepared() -> None:
        await forget(admin)
        if not create:
            going_by(server, TEXT)
            async with connected(server, tmp_path, "gateway") as connection:
                await live(connection, create=True)

    await prepared()
    going_by(server, text)
    async with connected(server, tmp_path, "gateway") as connection:
        await live(connection, create=create)
    assert "NATS refuses" not in caplog.text

    needed = permissions(text, "gateway")
    assert len(needed) == (23 if create else 19)
    for permission in needed:
        await prepared()
        going_by(server, lacking(text, "gateway", permission))
        caplog.clear()
        refused: Exception | None = None
        try:
            async with connected(server, tmp_path, "gateway") as connection:
                await live(connection, create=create)
        except (GatewayError, TimeoutError) as error:
            refused = error
        problem = caplog.text if permission in _FOR_WATCHING else str(refused)
        assert [subject for subject in named(problem) if covers(permission, subject)], permission
        if permission not in _FOR_WATCHING:
            assert isinstance(refused, Unavailable if permission in _NEEDED_LATER else ConfigurationError), permission


async def test_forgetting_needs_no_permission_more(
    server: NatsServer, admin: JetStreamContext, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await forget(admin)
    going_by(server, TEXT)
    async with connected(server, tmp_path, "gateway") as connection:
        await live(connection, create=True)
        control, registry = JetStreamControl(connection, TOPICS), JetStreamRegistry(connection, TOPICS)
        async with JetStreamLog(connection, EventLogSettings(TOPICS, "a")).open(1) as shard:
            await shard.commit(Commit([], {"demo": None}))
            assert await shard.checkpoints() == {}
        await registry.forget(["demo"])
        assert await registry.accounts() == frozenset()
        await control.forget(["demo"])
        await control.write("demo", b"1", 0)
        await connection.link.refused([])  # what was refused is told now
    assert "NATS refuses" not in caplog.text


async def test_what_may_not_be_forgotten_is_named_and_stays(
    server: NatsServer, admin: JetStreamContext, tmp_path: Path
) -> None:
    await forget(admin)
    going_by(server, TEXT)
    async with connected(server, tmp_path, "gateway") as connection:
        await live(connection, create=True)
    going_by(server, lacking(TEXT, "gateway", "mesolive.gateway.control.state.>"))
    async with connected(server, tmp_path, "gateway") as connection:
        with pytest.raises(PermissionDenied, match=r"mesolive\.gateway\.control\.state\.desired\.demo"):
            await JetStreamControl(connection, TOPICS).forget(["demo"])
    going_by(server, lacking(TEXT, "gateway", "mesolive.gateway.control.account.*"))
    async with connected(server, tmp_path, "gateway") as connection:
        registry = JetStreamRegistry(connection, TOPICS)
        with pytest.raises(PermissionDenied, match=r"mesolive\.gateway\.control\.account\.demo"):
            await registry.forget(["demo"])
        assert await registry.accounts() == {"demo"}


async def test_a_gateway_that_may_not_create_does_not_claim_a_missing_permission(
    server: NatsServer, admin: JetStreamContext, tmp_path: Path
) -> None:
    await forget(admin)
    going_by(server, without_create(TEXT))
    with pytest.raises(ConfigurationError, match="stream mesolive-gateway: there is no such stream"):
        async with connected(server, tmp_path, "gateway") as connection:
            await live(connection, create=False)
    with pytest.raises(ConfigurationError, match=r'publish to "\$JS\.API\.STREAM\.CREATE\.mesolive-gateway"'):
        async with connected(server, tmp_path, "gateway") as connection:
            await live(connection, create=True)


async def test_the_gateway_may_do_nothing_else(server: NatsServer, tmp_path: Path) -> None:
    going_by(server, TEXT)
    others = ["mesolive.other", "mesolive.events.order-update.v2.demo", "$JS.API.STREAM.DELETE.mesolive-gateway"]
    calls = ("DELETE", "PURGE", "UPDATE", "MSG.DELETE", "MSG.GET")
    others += [f"$JS.API.STREAM.{call}.mesolive-gateway-audit" for call in calls]
    async with connected(server, tmp_path, "gateway") as connection:
        refusals = await connection.link.refused(["mesolive.gateway.fence.1", *others])
    assert named(" ".join(refusals)) == others


# Readers ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def stored(server: NatsServer, admin: JetStreamContext, tmp_path: Path) -> None:
    """Let the log hold three orders and three positions."""
    await forget(admin)
    going_by(server, TEXT)
    async with connected(server, tmp_path, "gateway") as connection:
        await prepare(connection, StreamSettings(TOPICS))
        async with JetStreamLog(connection, EventLogSettings(TOPICS, "a")).open(1) as shard:
            positions = [message(number, topic="position-update") for number in range(4, 7)]
            await shard.commit(Commit([*messages(1, 3), *positions], {"demo": b"6"}))
        audit = JetStreamAudit(connection, TOPICS)
        await audit.prepare(replicas=1, create=True, retention=None)
        for number in (b"1", b"2", b"3"):
            await audit.append(f"id-{number.decode()}", "demo", number)


@pytest.mark.usefixtures("stored")
async def test_tail_and_verify_read_with_their_permissions_and_with_not_one_less(
    server: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def read() -> str:
        """Read all, and return what was complained of."""
        caplog.clear()
        try:
            async with connected(server, tmp_path, "reader") as connection:
                assert await numbers(JetStreamReader(connection, TOPICS)) == [1, 2, 3, 4, 5, 6]
                await connection.link.refused([])  # what was refused is told now
        except GatewayError as error:
            return f"{error} {caplog.text}"
        return caplog.text

    assert named(await read()) == []
    needed = permissions(TEXT, "reader")
    assert len(needed) == 4
    for permission in needed:
        going_by(server, lacking(TEXT, "reader", permission))
        assert [subject for subject in named(await read()) if covers(permission, subject)], permission


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("call", ["STREAM.INFO", "STREAM.MSG.GET", "DIRECT.GET"])
async def test_each_call_of_the_reader_needs_its_import_and_its_absence_is_named(
    server: NatsServer, tmp_path: Path, call: str
) -> None:
    going_by(server, not_imported(TEXT, f"{call}.mesolive-gateway"))
    async with connected(server, tmp_path, "reader") as connection:
        with pytest.raises(Unavailable, match=rf"{API}\.[A-Z.]+\.mesolive-gateway( now)?; broker\.api_prefix must be"):
            await numbers(JetStreamReader(connection, TOPICS))
    going_by(server, TEXT)
    async with connected(server, tmp_path, "reader") as connection:
        assert await numbers(JetStreamReader(connection, TOPICS)) == [1, 2, 3, 4, 5, 6]


async def orders(stream: JetStreamContext) -> list[int]:
    """Take what a consumer has to give, as examples/traced_nats_consumer.py does."""
    config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT)
    subscription = await stream.pull_subscribe(KINDS["orders"], durable="orders", stream=TOPICS.stream, config=config)
    return await taken(subscription)


async def positions(stream: JetStreamContext) -> list[int]:
    """Take what a consumer has to give, without a question about it."""
    return await taken(await stream.pull_subscribe_bind(consumer="positions", stream=TOPICS.stream))


async def example(stream: JetStreamContext) -> list[int]:
    """Take what a consumer has to give from a position on, by the code of examples/nats_consumer.py."""
    program = nats_consumer(API)
    await program.make_consumer(stream)
    subscription = await program.begin_after(stream._nc, 1)
    return [int((one.headers or {})["Gateway-Key"]) for one in await subscription.fetch(3, timeout=10)]


async def auditor(stream: JetStreamContext) -> list[int]:
    """Take what the durable consumer of the audit trail has to give."""
    subscription = await stream.pull_subscribe_bind(consumer="auditor", stream=TOPICS.audit_stream)
    messages = await subscription.fetch(3, timeout=10)
    for one in messages:
        await one.ack_sync(timeout=10)
    return [int(one.data) for one in messages]


async def taken(subscription: JetStreamContext.PullSubscription) -> list[int]:
    messages = await subscription.fetch(3, timeout=10)
    for one in messages:
        await one.ack_sync(timeout=10)
    return [int((one.headers or {})["Gateway-Key"]) for one in messages]


async def consume(
    server: NatsServer, user: str, service: Callable[[JetStreamContext], Awaitable[list[int]]]
) -> list[int] | str:
    """Let a service, with plain nats-py, take its events; return them, or the first refusal that it hears."""
    violation: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def on_error(error: Exception) -> None:
        if "permissions violation" in str(error) and not violation.done():
            violation.set_result(str(error))

    client = await nats.connect(
        server.url,
        user=user,
        password=PASSWORDS[f"{user.upper()}_PASSWORD"],
        inbox_prefix=f"_INBOX_{user}",
        allow_reconnect=False,
        error_cb=on_error,
    )
    working = asyncio.ensure_future(service(client.jetstream(prefix=API)))
    try:
        await asyncio.wait({working, violation}, return_when=asyncio.FIRST_COMPLETED)
        return violation.result() if violation.done() else working.result()
    finally:
        working.cancel()
        await asyncio.wait({working})
        await client.close()


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    ("service", "expected", "count"),
    [(orders, [1, 2, 3], 4), (positions, [4, 5, 6], 3), (example, [1, 2, 3], 4), (auditor, [1, 2, 3], 3)],
)
async def test_a_service_consumes_with_its_permissions_and_with_not_one_less(
    server: NatsServer,
    admin: JetStreamContext,
    service: Callable[[JetStreamContext], Awaitable[list[int]]],
    expected: list[int],
    count: int,
) -> None:
    user = service.__name__

    async def anew() -> None:
        await make_consumers(admin)
        for consumer in await admin.consumers_info(TOPICS.audit_stream):
            await admin.delete_consumer(TOPICS.audit_stream, consumer.name)
        await admin.add_consumer(TOPICS.audit_stream, durable_name="auditor", ack_policy="explicit")

    await anew()
    assert await consume(server, user, service) == expected
    needed = permissions(TEXT, user)
    assert len(needed) == count
    for permission in needed:
        going_by(server, lacking(TEXT, user, permission))
        await anew()
        problem = await consume(server, user, service)
        assert isinstance(problem, str), f"{permission} is not needed"
        assert covers(permission, named(problem)[0])


# While it runs ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    ("permission", "subject"),
    [
        ("mesolive.events.*.v1.*", "mesolive.events.order-update.v1.demo"),
        ("mesolive.gateway.checkpoint.*.*", "mesolive.gateway.checkpoint.1.demo"),
    ],
)
async def test_a_refused_commit_ends_at_once_with_its_subject_and_stores_nothing(
    server: NatsServer, tmp_path: Path, permission: str, subject: str
) -> None:
    async with connected(server, tmp_path, "gateway") as connection:
        log = JetStreamLog(connection, EventLogSettings(TOPICS, "a"))
        async with log.open(1) as shard:
            going_by(server, lacking(TEXT, "gateway", permission))
            async with asyncio.timeout(2):
                with pytest.raises(PermissionDenied, match=f'publish to "{subject}"'):
                    await shard.commit(Commit(messages(7, 9), {"demo": b"9"}))
        going_by(server, TEXT)
        await connection.connected()
        async with log.open(1) as shard:
            assert await shard.checkpoints() == {"demo": b"6"}
            await shard.commit(Commit(messages(7, 9), {"demo": b"9"}))
    async with connected(server, tmp_path, "reader") as connection:
        assert await numbers(JetStreamReader(connection, TOPICS)) == list(range(1, 10))


@pytest.mark.usefixtures("stored")
async def test_an_inbox_that_is_taken_away_is_said_and_waited_for(
    server: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(server, tmp_path, "gateway") as connection:
        log = JetStreamLog(connection, EventLogSettings(TOPICS, "a"))
        before = connection.link
        going_by(server, lacking(TEXT, "gateway", "_INBOX_gateway.>"))
        while "broker.inbox_prefix: NATS refuses to let this user subscribe" not in caplog.text:
            await asyncio.sleep(0.01)
        assert before.is_lost
        going_by(server, TEXT)
        await connection.connected()
        async with log.open(1) as shard:
            assert await shard.checkpoints() == {"demo": b"6"}
