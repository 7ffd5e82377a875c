"""No user of docs/operate/nats.md reaches what is another's: each tries everything that a hostile service could."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import nats
import pytest
from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from gateway.broker.credentials import BrokerLogin
from gateway.broker.jetstream.audit import JetStreamAudit
from gateway.broker.jetstream.connection import ConnectionOptions, connect
from gateway.broker.jetstream.log import EventLogSettings, JetStreamLog
from gateway.broker.jetstream.ownership import JetStreamOwnership
from gateway.broker.jetstream.registry import JetStreamRegistry
from gateway.broker.jetstream.stream import StreamSettings, prepare
from gateway.broker.jetstream.topics import Topics
from gateway.broker.ports import Commit
from tests.support.event_log_suite import message, messages
from tests.support.nats_server import NatsServer
from tests.support.permissions import (
    API,
    KINDS,
    PASSWORDS,
    documented,
    documented_consumers,
    in_one_account,
    make_consumers,
    permissions,
    widened,
)

TOPICS = Topics("mesolive")
STREAMS = (TOPICS.stream, TOPICS.control, TOPICS.ownership, TOPICS.audit_stream)
USERS = ("gateway", "reader", "auditor", *KINDS)
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
    for payload in (b"+ACK", b"-NAK", b"+TERM", b"+WPI"):
        yield Attempt(user, victim, f"$JS.ACK.{name}.1.1.1.1700000000000000000.0", payload)


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
    tried = [*(one for victim in others for one in against_a_consumer(user, victim)), *against_all(user)]
    mapped = [one._replace(subject=one.subject.replace("$JS.API", API)) for one in tried if "$JS.API" in one.subject]
    return [*tried, *mapped]


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
    await fill(server, admin, folder)
    server.text = text
    server.reload()


async def fill(server: NatsServer, admin: JetStreamContext, folder: Path) -> None:
    """Make the streams, their messages and the consumers of the page anew."""
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
        await JetStreamAudit(connection, TOPICS).prepare(replicas=1, create=True, retention=None)
        async with JetStreamLog(connection, EventLogSettings(TOPICS, "a")).open(1) as shard:
            positions = [message(number, topic="position-update") for number in range(4, 7)]
            await shard.commit(Commit([*messages(1, 3), *positions], {"demo": b"6"}))
    await make_consumers(admin)
    await admin.add_consumer(TOPICS.audit_stream, durable_name="auditor", ack_policy="explicit")


async def state_of_all(admin: JetStreamContext) -> dict[str, Any]:
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

    async def on_error(error: Exception) -> None:
        found = re.search(r'permissions violation for \w+ to "([^"]*)"', str(error), re.IGNORECASE)
        if found is not None:
            refused.append(found[1].lower())

    client = await nats.connect(
        server.url,
        user=user,
        password=PASSWORDS[f"{user.upper()}_PASSWORD"],
        inbox_prefix=f"_INBOX_{user}",
        allow_reconnect=False,
        error_cb=on_error,
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
    refused_subjects = set(refused)
    return [str(one) for one in tried if one.subject.lower() not in refused_subjects] + [
        f"{user} listens to {subject}" for subject in inboxes if subject.lower() not in refused_subjects
    ]


async def test_no_user_reaches_what_is_another_s(server: NatsServer, admin: JetStreamContext, tmp_path: Path) -> None:
    await made_anew(server, admin, tmp_path, TEXT)
    before = await state_of_all(admin)
    for user in USERS:
        assert await let_through(server, user) == []
        assert await state_of_all(admin) == before, user


@pytest.mark.parametrize(
    ("user", "right", "wrong", "found"),
    [
        (
            "orders",
            "CONSUMER.MSG.NEXT.mesolive-gateway.orders",
            "CONSUMER.MSG.NEXT.mesolive-gateway.*",
            "orders against positions: gateway.API.CONSUMER.MSG.NEXT.mesolive-gateway.positions",
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
            "example against orders: gateway.API.CONSUMER.RESET.mesolive-gateway.orders",
        ),
        (
            "example",
            "CONSUMER.RESET.mesolive-gateway.example",
            "CONSUMER.CREATE.mesolive-gateway.*.mesolive.events.order-update.v1.*",
            f"example against orders: {API}.CONSUMER.CREATE.mesolive-gateway.orders.mesolive.events.order-update.v1.*",
        ),
        (
            "reader",
            "gateway.API.DIRECT.GET.mesolive-gateway",
            "gateway.API.CONSUMER.DELETE.mesolive-gateway.*",
            "reader against orders: gateway.API.CONSUMER.DELETE.mesolive-gateway.orders",
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
            "positions against mesolive-gateway: gateway.API.CONSUMER.CREATE.mesolive-gateway.positions",
        ),
        ("positions", "_INBOX_positions.>", ">", "positions listens to _INBOX_gateway.>"),
    ],
)
async def test_a_permission_that_reaches_further_is_found(
    server: NatsServer, admin: JetStreamContext, tmp_path: Path, *, user: str, right: str, wrong: str, found: str
) -> None:
    await made_anew(server, admin, tmp_path, widened(TEXT, user, right, wrong))
    assert found in await let_through(server, user)


async def test_what_reaches_another_s_consumer_is_seen_in_its_state(
    server: NatsServer, admin: JetStreamContext, tmp_path: Path
) -> None:
    text = TEXT.replace('CONSUMER.MSG.NEXT.mesolive-gateway.orders"', 'CONSUMER.MSG.NEXT.mesolive-gateway.*"')
    await made_anew(server, admin, tmp_path, text)
    before = await state_of_all(admin)
    await let_through(server, "orders")
    async with asyncio.timeout(10):
        while await state_of_all(admin) == before:
            await asyncio.sleep(0.01)


def test_the_page_tells_an_administrator_to_make_each_services_consumer() -> None:
    consumers = documented_consumers()
    assert {name: options["filter"] for name, options in consumers.items()} == KINDS
    assert all("pull" in options for options in consumers.values())


# The server's answers, which go wherever a request says ---------------------------------------------------------------

READERS = USERS[1:]
"""All but the gateway: each has an account of its own."""


def answered(user: str) -> Iterator[tuple[str, bytes]]:
    """Yield what a user may ask for, with a body that the server answers."""
    for permission in permissions(TEXT, user):
        if not permission.startswith("_INBOX"):
            body = b"+ACK" if "ACK" in permission else b'{"seq":1}' if "RESET" in permission else b"{"
            yield permission.replace(">", "1.1.1.1700000000000000000.0"), body


ELSEWHERE = (
    STOLEN,
    "mesolive.events.order-update.v1.demo",
    "mesolive.gateway.fence.1",
    "mesolive.gateway.checkpoint.1.demo",
    "mesolive.gateway.ownership.lease.x",
    "mesolive.gateway.audit",
    *(f"$JS.ACK.mesolive-gateway.{user}.1.1.1.1700000000000000000.0" for user in KINDS),
    *(f"$JS.API.CONSUMER.DELETE.mesolive-gateway.{user}" for user in KINDS),
)
"""Where an answer would be a record, an acknowledgement or a request."""


async def answer_behind_all(client: Client, subject: str) -> None:
    """Fetch a message, so that all requests before are answered; a consumer that is being reset answers nothing."""
    async with asyncio.timeout(30):
        while True:
            with suppress(TimeoutError, nats.errors.TimeoutError):
                with suppress(NoRespondersError):  # an answer was a request to delete the consumer
                    await client.request(subject, b'{"batch":1,"no_wait":true}', timeout=1)
                return


async def redirect_answers(server: NatsServer, user: str, api: str) -> None:
    """Ask for everything that a user may ask for, and have it answered at each of the other subjects."""
    refused: list[str] = []
    async with as_user(server, user, refused) as client:
        for subject, body in answered(user):
            for target in ELSEWHERE:
                await client.publish(subject.replace(API, api), body, reply=target)
        last = next(subject for subject, _ in answered(user) if "MSG.NEXT" in subject or "STREAM.INFO" in subject)
        await answer_behind_all(client, last.replace(API, api))
    assert refused == []


@pytest.mark.parametrize("user", READERS)
async def test_no_answer_of_the_server_is_stored_or_done_elsewhere(
    server: NatsServer, admin: JetStreamContext, tmp_path: Path, user: str
) -> None:
    """A request names the subject of its answer, and NATS asks nobody whether the user may publish there."""
    await made_anew(server, admin, tmp_path, TEXT)
    before = await state_of_all(admin)
    await redirect_answers(server, user, API)
    after = await state_of_all(admin)
    changed = {part for part in before.keys() | after.keys() if before.get(part) != after.get(part)}
    assert changed <= {f"{TOPICS.stream}.{user}"}  # it took a message


@pytest.mark.parametrize("user", ["reader", *KINDS])
async def test_an_answer_that_is_stored_elsewhere_is_found(
    tmp_path: Path, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions alone do not keep answers away from the streams: accounts do."""
    for name, password in PASSWORDS.items():
        monkeypatch.setenv(name, password)
    together = NatsServer(tmp_path / "together")
    together.text = in_one_account(TEXT)
    async with together:
        client = await nats.connect(together.url, user="admin", password="admin", allow_reconnect=False)
        admin = client.jetstream()
        await fill(together, admin, tmp_path)
        before = await state_of_all(admin)
        await redirect_answers(together, user, "$JS.API")
        async with asyncio.timeout(10):
            while (await state_of_all(admin))[TOPICS.stream] == before[TOPICS.stream]:
                await asyncio.sleep(0.01)
        await client.close()
