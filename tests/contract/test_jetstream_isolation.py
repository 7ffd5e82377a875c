"""No user of docs/operate/nats.md reaches what is another's: each tries everything that a hostile service could."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import nats
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from gateway.broker.credentials import BrokerLogin
from gateway.broker.jetstream.connection import ConnectionOptions, connect
from gateway.broker.jetstream.log import EventLogSettings, JetStreamLog
from gateway.broker.jetstream.ownership import JetStreamOwnership
from gateway.broker.jetstream.registry import JetStreamRegistry
from gateway.broker.jetstream.stream import StreamSettings, prepare
from gateway.broker.jetstream.topics import Topics
from gateway.broker.ports import Commit
from tests.support.event_log_suite import message, messages
from tests.support.nats_server import NatsServer
from tests.support.permissions import KINDS, PAGE, PASSWORDS, documented, documented_consumers, make_consumers

TOPICS = Topics("mesolive")
STREAMS = (TOPICS.stream, TOPICS.control, TOPICS.ownership)
USERS = ("gateway", "reader", *KINDS)
TEXT = documented()
STOLEN = "mesolive.gateway.control.state.desired.account.main"
"""Where a push consumer is told to deliver: whoever could, would be an operator."""


class Attempt(NamedTuple):
    """What one user tries, and against whom."""

    user: str
    victim: str
    subject: str
    body: bytes = b""

    def __str__(self) -> str:
        return f"{self.user} against {self.victim}: {self.subject}"


def against_a_consumer(user: str, victim: str) -> Iterator[Attempt]:
    """Yield every call about a consumer of `victim` that it would notice."""
    name = f"{TOPICS.stream}.{victim}"
    config = {"name": victim, "durable_name": victim, "filter_subject": KINDS[victim], "ack_policy": "explicit"}
    create = {"stream_name": TOPICS.stream, "config": config | {"max_ack_pending": 1, "inactive_threshold": 10**9}}
    calls: dict[str, Any] = {
        f"CONSUMER.INFO.{name}": {},
        f"CONSUMER.MSG.NEXT.{name}": {"batch": 3, "no_wait": True},
        f"CONSUMER.CREATE.{name}": create,
        f"CONSUMER.CREATE.{name}.{KINDS[victim]}": create,
        f"CONSUMER.DURABLE.CREATE.{name}": create,
        f"CONSUMER.PAUSE.{name}": {"pause_until": "2100-01-01T00:00:00Z"},
        f"CONSUMER.RESET.{name}": {"seq": 1},
        f"CONSUMER.UNPIN.{name}": {"group": "g"},
        f"CONSUMER.LEADER.STEPDOWN.{name}": {},
        f"CONSUMER.DELETE.{name}": {},
    }
    for call, body in calls.items():
        yield Attempt(user, victim, f"$JS.API.{call}", json.dumps(body).encode())
    for word in (b"+ACK", b"-NAK", b"+TERM", b"+WPI"):
        yield Attempt(user, victim, f"$JS.ACK.{name}.1.1.1.1700000000000000000.0", word)


def against_all(user: str) -> Iterator[Attempt]:
    """Yield every call that would show, change or delete what is not a user's own, or let the server publish."""
    for stream in STREAMS:
        push = {"name": "x", "deliver_subject": STOLEN, "ack_policy": "none", "deliver_policy": "all"}
        for own in ("x", user):
            config = push | {"name": own}
            body = json.dumps({"stream_name": stream, "config": config}).encode()
            yield Attempt(user, stream, f"$JS.API.CONSUMER.CREATE.{stream}.{own}", body)
            for subjects in ("mesolive.>", *sorted(set(KINDS.values()))):
                filtered = json.dumps({"stream_name": stream, "config": config | {"filter_subject": subjects}})
                yield Attempt(user, stream, f"$JS.API.CONSUMER.CREATE.{stream}.{own}.{subjects}", filtered.encode())
            durable = json.dumps({"stream_name": stream, "config": config | {"durable_name": own}}).encode()
            yield Attempt(user, stream, f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{own}", durable)
        yield Attempt(user, stream, f"$JS.API.CONSUMER.CREATE.{stream}", body)
        calls: dict[str, dict[str, Any]] = {
            "CONSUMER.NAMES": {},
            "CONSUMER.LIST": {},
            "STREAM.PURGE": {},
            "STREAM.DELETE": {},
            "STREAM.UPDATE": {"name": stream, "subjects": ["mesolive.>"]},
            "STREAM.MSG.DELETE": {"seq": 1},
            "STREAM.SNAPSHOT": {"deliver_subject": f"_INBOX_{user}.copy"},
        }
        for call, body_of in calls.items():
            if user == "gateway" and (call, stream) == ("STREAM.MSG.DELETE", TOPICS.ownership):
                continue  # its own leases
            yield Attempt(user, stream, f"$JS.API.{call}.{stream}", json.dumps(body_of).encode())
    yield Attempt(user, "all", "$JS.API.STREAM.NAMES")
    yield Attempt(user, "all", "$JS.API.STREAM.LIST")
    if user != "gateway":
        for subject in (STOLEN, "mesolive.events.order-update.v1.demo", "mesolive.gateway.fence.1"):
            yield Attempt(user, "gateway", subject, b"{}")


def attempts(user: str) -> list[Attempt]:
    others = [victim for victim in KINDS if victim != user]
    return [*(one for victim in others for one in against_a_consumer(user, victim)), *against_all(user)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("isolation"))
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


async def made_anew(server: NatsServer, admin: JetStreamContext, folder: Path, text: str) -> None:
    """Let there be three orders, three positions and the consumers of the page, untouched, under these permissions."""
    server.text = TEXT
    server.reload()
    for stream in STREAMS:
        try:
            await admin.delete_stream(stream)
        except NotFoundError:
            continue
    password_file = folder / "admin"
    password_file.write_text("admin")
    access = BrokerLogin(user="admin", password_file=password_file)
    async with connect(ConnectionOptions(servers=[server.url], access=access)) as connection:
        await prepare(connection, StreamSettings(TOPICS))
        await JetStreamRegistry(connection, TOPICS).prepare(replicas=1, create=True)
        await JetStreamOwnership(connection, TOPICS).prepare(replicas=1, create=True)
        async with JetStreamLog(connection, EventLogSettings(TOPICS, "a")).open(1) as shard:
            positions = [message(number, topic="position-update") for number in range(4, 7)]
            await shard.commit(Commit([*messages(1, 3), *positions], {"demo": b"6"}))
    await make_consumers(admin)
    server.text = text
    server.reload()


async def standing(admin: JetStreamContext) -> dict[str, Any]:
    """Return all that an attempt could have changed."""
    found: dict[str, Any] = {}
    for stream in STREAMS:
        info = await admin.stream_info(stream)
        found[stream] = (info.config, info.state.messages, info.state.first_seq, info.state.last_seq)
        for one in await admin.consumers_info(stream):
            found[f"{stream}.{one.name}"] = (
                one.config,
                one.delivered,
                one.ack_floor,
                one.num_ack_pending,
                one.num_pending,
            )
    return found


@asynccontextmanager
async def as_user(server: NatsServer, user: str, refused: list[str]) -> AsyncIterator[Client]:
    """Connect as a user, and note each subject that the server refuses."""

    async def hear(error: Exception) -> None:
        found = re.search(r'permissions violation for \w+ to "([^"]*)"', str(error), re.IGNORECASE)
        if found is not None:
            refused.append(found[1].lower())

    client = await nats.connect(
        server.url,
        user=user,
        password=PASSWORDS[f"{user.upper()}_PASSWORD"],
        inbox_prefix=f"_INBOX_{user}",
        allow_reconnect=False,
        error_cb=hear,
    )
    try:
        yield client
    finally:
        await client.close()


async def let_through(server: NatsServer, user: str) -> list[str]:
    """Let a user try everything; return what the server did not refuse."""
    refused: list[str] = []
    tried = attempts(user)
    inboxes = [f"_INBOX_{other}.>" for other in USERS if other != user] + ["_INBOX.>", "$JS.>", "mesolive.>", ">"]
    async with as_user(server, user, refused) as client:
        inbox = client.new_inbox()
        await client.subscribe(inbox)  # a consumer gives nothing to whom nobody listens
        for one in tried:
            await client.publish(one.subject, one.body, reply=inbox)
        for subject in inboxes:
            await client.subscribe(subject)
        for _ in range(2):  # nats-py writes a first ping before what waits to be sent
            await client.flush()
    heard = set(refused)
    return [str(one) for one in tried if one.subject.lower() not in heard] + [
        f"{user} listens to {subject}" for subject in inboxes if subject.lower() not in heard
    ]


async def test_no_user_reaches_what_is_another_s(server: NatsServer, admin: JetStreamContext, tmp_path: Path) -> None:
    await made_anew(server, admin, tmp_path, TEXT)
    before = await standing(admin)
    for user in USERS:
        assert await let_through(server, user) == []
        assert await standing(admin) == before, user


@pytest.mark.parametrize(
    ("user", "right", "wrong", "found"),
    [
        (
            "orders",
            "CONSUMER.MSG.NEXT.mesolive-gateway.orders",
            "CONSUMER.MSG.NEXT.mesolive-gateway.*",
            "orders against positions: $JS.API.CONSUMER.MSG.NEXT.mesolive-gateway.positions",
        ),
        (
            "orders",
            "$JS.ACK.mesolive-gateway.orders.>",
            "$JS.ACK.mesolive-gateway.>",
            "orders against positions: $JS.ACK.mesolive-gateway.positions.1.1.1.1700000000000000000.0",
        ),
        (
            "example",
            "CONSUMER.RESET.mesolive-gateway.example",
            "CONSUMER.RESET.mesolive-gateway.*",
            "example against orders: $JS.API.CONSUMER.RESET.mesolive-gateway.orders",
        ),
        (
            "example",
            "CONSUMER.RESET.mesolive-gateway.example",
            "CONSUMER.CREATE.mesolive-gateway.*.mesolive.events.order-update.v1.*",
            "example against orders: $JS.API.CONSUMER.CREATE.mesolive-gateway.orders.mesolive.events.order-update.v1.*",
        ),
        (
            "reader",
            "$JS.API.DIRECT.GET.mesolive-gateway",
            "$JS.API.CONSUMER.DELETE.mesolive-gateway.*",
            "reader against orders: $JS.API.CONSUMER.DELETE.mesolive-gateway.orders",
        ),
        (
            "gateway",
            "$JS.API.DIRECT.GET.mesolive-gateway-control",
            "$JS.API.CONSUMER.CREATE.mesolive-gateway-control.*",
            "gateway against mesolive-gateway-control: $JS.API.CONSUMER.CREATE.mesolive-gateway-control.x",
        ),
        (
            "positions",
            "CONSUMER.MSG.NEXT.mesolive-gateway.positions",
            "CONSUMER.CREATE.mesolive-gateway.positions",
            "positions against mesolive-gateway: $JS.API.CONSUMER.CREATE.mesolive-gateway.positions",
        ),
        ("positions", "_INBOX_positions.>", ">", "positions listens to _INBOX_gateway.>"),
    ],
)
async def test_a_permission_that_reaches_further_is_found(
    server: NatsServer, admin: JetStreamContext, tmp_path: Path, *, user: str, right: str, wrong: str, found: str
) -> None:
    assert TEXT.count(f'{right}"') == 1
    await made_anew(server, admin, tmp_path, TEXT.replace(f'{right}"', f'{wrong}"'))
    assert found in await let_through(server, user)


async def test_what_reaches_another_s_consumer_is_seen_in_its_state(
    server: NatsServer, admin: JetStreamContext, tmp_path: Path
) -> None:
    text = TEXT.replace('CONSUMER.MSG.NEXT.mesolive-gateway.orders"', 'CONSUMER.MSG.NEXT.mesolive-gateway.*"')
    await made_anew(server, admin, tmp_path, text)
    before = await standing(admin)
    await let_through(server, "orders")
    async with asyncio.timeout(10):
        while await standing(admin) == before:
            await asyncio.sleep(0.01)


def test_the_page_tells_an_administrator_to_make_each_services_consumer() -> None:
    consumers = documented_consumers()
    assert {name: options["filter"] for name, options in consumers.items()} == KINDS
    assert all("pull" in options for options in consumers.values())


async def test_an_account_of_its_own_gives_a_service_its_consumer_and_no_more(tmp_path: Path) -> None:
    (text,) = re.findall(r"```hocon\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    text = text.replace("jetstream: enabled", "jetstream: enabled, users: [{ user: admin, password: admin }]")
    text = text.replace("  ORDERS: {", "  ORDERS: { users: [{ user: orders, password: orders }]\n  ")
    server = NatsServer(tmp_path)
    server.text = text
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(server)

        async def connected(user: str) -> Client:
            client = await nats.connect(server.url, user=user, password=user, allow_reconnect=False)
            stack.push_async_callback(client.close)
            return client

        admin, orders = (await connected("admin")).jetstream(), await connected("orders")
        await admin.add_stream(name=TOPICS.stream, subjects=["mesolive.events.>"])
        await make_consumers(admin)
        for number in range(5):
            await admin.publish(f"mesolive.events.order-update.v1.{number}", b"{}")
        pulls = await orders.jetstream().pull_subscribe_bind(consumer="orders", stream=TOPICS.stream)
        for expected in (3, 2):
            taken = await pulls.fetch(3, timeout=10)
            assert len(taken) == expected
            for one in taken:
                await one.ack_sync(timeout=10)
        for call in ("CONSUMER.INFO.mesolive-gateway.orders", "STREAM.INFO.mesolive-gateway"):
            answer = json.loads((await orders.request(f"$JS.API.{call}", b"", timeout=10)).data)
            assert "JetStream not enabled for account" in answer["error"]["description"]
