"""What keeps a gateway from running on a broker that answers: `check` and `run` say the same of it, and what mends it.

One broker has many listeners and refuses the times that the gateway asks for; another one can have no coordinators.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.protocol.admin import ListGroupsRequest

from gateway.broker.kafka import cluster
from gateway.broker.kafka.connection import Connection, ConnectionOptions
from gateway.broker.kafka.listener import connected
from gateway.broker.kafka.log import EventLogSettings, KafkaLog
from gateway.broker.kafka.ownership import KafkaOwnership
from gateway.broker.kafka.topic_rules import ClusterSettings
from gateway.broker.kafka.topics import Topics
from gateway.broker.kafka.trial import Trial
from gateway.errors import ActionRequired, ConfigurationError, Unavailable
from tests.support import kafka_server
from tests.support.certificates import Authority
from tests.support.kafka_server import KafkaServer
from tests.support.sockets import free_port

HERE = "127.0.0.1"
PASSWORD = "pass-word"
NOWHERE = "kafka.nowhere.invalid:9092"


@dataclass
class Odd:
    """A broker with a listener for each way to be kept out."""

    server: KafkaServer
    authority: Authority
    ports: dict[str, int]

    def at(self, listener: str, **more: Any) -> ConnectionOptions:  # noqa: ANN401 - those of ConnectionOptions
        """Return how to come to a listener; `tls` stands for a context that trusts it."""
        if more.pop("tls", False):
            more["tls"] = ssl.create_default_context(cafile=self.authority.file)
        if "mechanism" in more:
            more = {"user": "gateway", "password": PASSWORD} | more
        return ConnectionOptions([self.address(listener)], timeout=4.0, **more)

    def address(self, listener: str) -> str:
        return f"{HERE}:{self.ports[listener]}" if listener else self.server.address


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Odd]:
    kafka_server.require_java()
    folder = tmp_path_factory.mktemp("kafka-odd")
    authority = Authority(folder / "ca")
    pair = authority.certificate("server")
    (folder / "server.pem").write_bytes(pair.key.read_bytes() + pair.certificate.read_bytes())
    (folder / "trusted.pem").write_bytes(authority.file.read_bytes())
    names = ("REFUSED", "LOST", "TLS", "MUTUAL", "LOGIN", "BOTH")
    ports = {name: free_port() for name in (*names, "GONE")}
    own = ",".join(f"{name}://{HERE}:{ports[name]}" for name in names)
    advertised = own.replace(f"REFUSED://{HERE}:{ports['REFUSED']}", f"REFUSED://{HERE}:{ports['GONE']}")
    advertised = advertised.replace(f"LOST://{HERE}:{ports['LOST']}", f"LOST://{NOWHERE}")
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    config = {
        "listeners": f"PLAINTEXT://{HERE}:{{port}},{own},CONTROLLER://{HERE}:{{controller}}",
        "advertised.listeners": f"PLAINTEXT://{HERE}:{{port}},{advertised}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,REFUSED:PLAINTEXT,LOST:PLAINTEXT,TLS:SSL,MUTUAL:SSL,"
        "LOGIN:SASL_PLAINTEXT,BOTH:SASL_SSL,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "sasl.enabled.mechanisms": "SCRAM-SHA-256",
        "listener.name.login.scram-sha-256.sasl.jaas.config": scram,
        "listener.name.both.scram-sha-256.sasl.jaas.config": scram,
        "listener.name.mutual.ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "server.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "trusted.pem"),
        "group.min.session.timeout.ms": "10000",
        "transaction.max.timeout.ms": "5000",
    }
    with KafkaServer(folder / "kafka", config=config, scram={"gateway": PASSWORD}) as server:
        yield Odd(server, authority, ports)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Yield the one broker of a cluster whose settings are those of three."""
    kafka_server.require_java()
    config = {"offsets.topic.replication.factor": "3", "transaction.state.log.replication.factor": "3"}
    with KafkaServer(tmp_path_factory.mktemp("kafka-alone"), config=config) as server:
        yield server


# Not let in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listener", "how", "expected"),
    [
        pytest.param(
            "TLS",
            {},
            "broker.tls.enabled: is not set, and {at} speaks TLS. Set it to true, or broker.tls.ca_file; or name a "
            "listener without TLS in broker.servers.",
            id="TLS-wanted-and-plain-spoken",
        ),
        pytest.param(
            "",
            {"tls": True},
            "broker.tls: is set, and {at} speaks plain text. Take broker.tls away, or name a listener with TLS in "
            "broker.servers.",
            id="plain-wanted-and-TLS-spoken",
        ),
        pytest.param(
            "BOTH",
            {"mechanism": "SCRAM-SHA-256"},
            "broker.tls.enabled: is not set, and {at} speaks TLS.",
            id="TLS-wanted-and-a-plain-login-spoken",
        ),
        pytest.param(
            "LOGIN",
            {"mechanism": "SCRAM-SHA-256", "tls": True},
            "broker.tls: is set, and {at} speaks plain text.",
            id="a-plain-login-wanted-and-TLS-spoken",
        ),
        pytest.param(
            "MUTUAL",
            {"tls": True},
            "broker.tls.cert_file: is no certificate that {at} takes. Set it and broker.tls.key_file to a client's "
            "certificate and key that the brokers trust.",
            id="a-certificate-wanted-and-none-set",
        ),
        pytest.param(
            "LOGIN",
            {},
            "broker.sasl.mechanism: is not set, and {at} wants a login by SCRAM-SHA-256. Set it, "
            "broker.sasl.username and broker.sasl.password_file.",
            id="SASL-wanted-and-none-set",
        ),
        pytest.param(
            "BOTH",
            {"tls": True},
            "broker.sasl.mechanism: is not set, and {at} wants a login by SCRAM-SHA-256.",
            id="SASL-wanted-behind-TLS-and-none-set",
        ),
        pytest.param(
            "",
            {"mechanism": "SCRAM-SHA-256"},
            "broker.sasl.mechanism: is SCRAM-SHA-256, and {at} takes no login. Take broker.sasl away, or name a "
            "listener with a login in broker.servers.",
            id="SASL-set-and-none-wanted",
        ),
        pytest.param(
            "TLS",
            {"mechanism": "PLAIN", "tls": True},
            "broker.sasl.mechanism: is PLAIN, and {at} takes no login.",
            id="SASL-set-behind-TLS-and-none-wanted",
        ),
        pytest.param(
            "LOGIN",
            {"mechanism": "PLAIN"},
            "broker.sasl.mechanism: is PLAIN, and {at} takes SCRAM-SHA-256. Set it to what the listener takes, or add "
            "it to sasl.enabled.mechanisms of the brokers.",
            id="another-mechanism",
        ),
        pytest.param(
            "LOGIN",
            {"mechanism": "SCRAM-SHA-256", "password": "wr0ng"},
            "broker.sasl: Kafka refused the login: [Error 58] SaslAuthenticationFailed: Authentication failed",
            id="a-wrong-password",
        ),
    ],
)
async def test_who_is_not_let_in_is_told_what_the_listener_wants(
    odd: Odd, listener: str, how: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        async with connected(odd.at(listener, **how)):
            pass
    assert str(refused.value).startswith(expected.format(at=odd.address(listener)))
    assert "wr0ng" not in str(refused.value)


@pytest.mark.parametrize(
    ("listener", "how"),
    [("", {}), ("TLS", {"tls": True}), ("LOGIN", {"mechanism": "SCRAM-SHA-256"})],
)
async def test_who_wants_what_the_listener_wants_is_let_in(odd: Odd, listener: str, how: dict[str, Any]) -> None:
    async with connected(odd.at(listener, **how)) as connection:
        assert len(await connection.brokers()) == 1


async def test_what_is_no_kafka_is_said_as_before() -> None:
    """Whatever answers there: a question that nobody understands must not hide what came first."""

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(struct.pack(">i", -5) + b"HTTP/1.1 400")
        writer.close()

    async with await asyncio.start_server(babble, HERE, 0) as server:
        at = "{}:{}".format(*server.sockets[0].getsockname())
        with pytest.raises(Unavailable, match=f"cannot connect to Kafka: {at}"):
            async with connected(ConnectionOptions([at], timeout=2.0)):
                pass


@pytest.mark.parametrize(
    ("listener", "where"),
    [("REFUSED", "{gone}, which refuses the connection"), ("LOST", f"{NOWHERE}, a name that does not resolve here")],
)
async def test_an_advertised_address_to_nowhere_is_said_with_the_brokers_setting(
    odd: Odd, listener: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ActionRequired) as refused:
        async with connected(odd.at(listener)):
            pass
    assert str(refused.value) == (
        f"broker 1 tells clients to come to {where.format(gone=odd.address('GONE'))}. Mend it: let "
        "advertised.listeners of that broker name an address that the gateway reaches"
    )
    await asyncio.sleep(0.1)
    assert "Future exception was never retrieved" not in caplog.text


# Let in, and of no use -------------------------------------------------------------------------------------

SESSION = (
    "refuses a session of 6 s (InvalidSessionTimeout): group.min.session.timeout.ms is above it, or "
    "group.max.session.timeout.ms below. Mend it: set group.min.session.timeout.ms of the brokers to 6000 or less"
)
TRANSACTION = (
    "refuses a transaction of 10 s (InvalidTransactionTimeout): transaction.max.timeout.ms is below it. Mend it: set "
    "transaction.max.timeout.ms of the brokers to 10000 or more"
)


def trial_of(connection: Connection, topics: Topics | None = None, transaction: float = 10.0) -> Trial:
    return Trial(connection, topics or Topics(f"t{uuid4().hex[:12]}"), session=6.0, transaction=transaction)


async def begun(trial: Trial) -> None:
    await trial.begin(max_wait=2.0)


async def whole(trial: Trial) -> None:
    await trial.whole(max_wait=2.0)


@pytest.mark.parametrize("tried", [begun, whole], ids=["run", "check"])
async def test_times_that_the_brokers_do_not_give_are_said_both(odd: Odd, tried: Callable[[Trial], Any]) -> None:
    async with connected(odd.at("")) as connection:
        with pytest.raises(ActionRequired) as refused:
            await tried(trial_of(connection))
    broker = f"broker 1 ({odd.server.address})"
    assert str(refused.value) == f"{broker} {SESSION}; {broker} {TRANSACTION}"


async def test_a_member_whose_session_is_refused_says_it_as_an_error_and_once(
    odd: Odd, caplog: pytest.LogCaptureFixture
) -> None:
    topics = Topics(f"t{uuid4().hex[:12]}", ("error",))
    async with connected(odd.at("")) as connection:
        await cluster.prepare(connection, ClusterSettings(topics, partitions=1, shards=1))
        ownership = KafkaOwnership(connection, topics)
        async with ownership.join("a", 1) as membership, aclosing(membership.assignments()) as changes:  # type: ignore[type-var]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3.5):
                    await anext(changes)
    (record,) = [one for one in caplog.records if "shard ownership unavailable" in one.getMessage()]
    assert record.levelno == logging.ERROR
    assert record.getMessage() == f"shard ownership unavailable: Kafka {SESSION}"


async def test_a_shard_whose_transactions_are_refused_needs_a_person(odd: Odd) -> None:
    topics = Topics(f"t{uuid4().hex[:12]}", ("error",))
    async with connected(odd.at("")) as connection:
        await cluster.prepare(connection, ClusterSettings(topics, partitions=1, shards=1))
        with pytest.raises(ActionRequired, match=re.escape(f"Kafka {TRANSACTION}")):
            async with KafkaLog(connection, EventLogSettings(topics, "a")).open(0):
                pass


NO_GROUPS = (
    "Kafka has no coordinator of groups now (GroupCoordinatorNotAvailableError): offsets.topic.replication.factor is 3 "
    "on broker 1, and there is 1 broker, so __consumer_offsets cannot be made. Mend it: set "
    "offsets.topic.replication.factor to 1 or less on every broker, or start more of them"
)
NO_TRANSACTIONS = (
    "Kafka has no coordinator of transactions now (GroupCoordinatorNotAvailableError): "
    "transaction.state.log.replication.factor is 3 on broker 1, and there is 1 broker, so __transaction_state cannot "
    "be made. Mend it: set transaction.state.log.replication.factor to 1 or less on every broker, or start more of them"
)


@pytest.mark.parametrize("tried", [begun, whole], ids=["run", "check"])
async def test_impossible_coordinators_are_said_with_the_setting_in_the_way(
    alone: KafkaServer, tried: Callable[[Trial], Any]
) -> None:
    async with connected(ConnectionOptions([alone.address])) as connection:
        with pytest.raises(ActionRequired) as refused:
            await tried(trial_of(connection))
    assert str(refused.value) == f"{NO_GROUPS}; {NO_TRANSACTIONS}"


async def test_where_nobody_may_look_the_likely_setting_is_said(
    alone: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hidden(*_: object) -> None:
        return None

    monkeypatch.setattr(Trial, "_setting", hidden)
    async with connected(ConnectionOptions([alone.address])) as connection:
        with pytest.raises(ActionRequired) as refused:
            await trial_of(connection).group(0)
    assert str(refused.value) == (
        "Kafka has no coordinator of groups now (GroupCoordinatorNotAvailableError): most likely "
        "offsets.topic.replication.factor of the brokers is above their number, and there is 1 broker. Mend it: look "
        "into the brokers' logs for __consumer_offsets, and set offsets.topic.replication.factor to 1 or less, or "
        "start more brokers"
    )


async def test_what_may_pass_is_a_warning_until_it_lasted(
    alone: KafkaServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running gateway's member and its shards wait likewise; the library would wait for ever, and say nothing."""
    for module in ("ownership", "log"):
        monkeypatch.setattr(f"gateway.broker.kafka.{module}.LASTED", 1.0)
    monkeypatch.setattr("gateway.broker.kafka.trial._LOG_AFTER_S", 0.5)
    topics = Topics(f"t{uuid4().hex[:12]}", ("error",))
    async with connected(ConnectionOptions([alone.address], timeout=1.5)) as connection:
        await cluster.prepare(connection, ClusterSettings(topics, partitions=1, shards=1))
        ownership = KafkaOwnership(connection, topics)
        async with ownership.join("a", 1) as membership, aclosing(membership.assignments()) as changes:  # type: ignore[type-var]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(4):
                    await anext(changes)
        log = KafkaLog(connection, EventLogSettings(topics, "a"))
        for expected in (Unavailable, ActionRequired):
            with pytest.raises(Unavailable) as waiting:
                async with log.open(0):
                    pass
            assert type(waiting.value) is expected
        assert str(waiting.value) == NO_TRANSACTIONS
        with pytest.raises(ActionRequired):
            await trial_of(connection).begin(max_wait=1.0)
    logged = [(one.levelno, one.getMessage()) for one in caplog.records if one.name.startswith("gateway")]
    assert (logging.ERROR, f"shard ownership unavailable: {NO_GROUPS}") in logged
    message = "Kafka has no coordinator of groups now (GroupCoordinatorNotAvailableError); retrying"
    assert (logging.WARNING, message) in logged


# All is well -----------------------------------------------------------------------------------------------


async def test_the_whole_trial_leaves_no_group_and_no_record(kafka_address: str) -> None:
    topics = Topics(f"t{uuid4().hex[:12]}", ("error",))
    async with connected(ConnectionOptions([kafka_address])) as connection:
        await cluster.prepare(connection, ClusterSettings(topics, partitions=1, shards=1))
        trial = trial_of(connection, topics)
        await trial.begin()
        outcomes = await asyncio.gather(*(trial_of(connection, topics).whole(10.0) for _ in range(3)))
        assert outcomes == [[], [], []]  # each at the same time as the others
        assert re.fullmatch(r"it is \d\.\d or later", await trial.release())
        groups = [name for name, _ in (await connection.ask(ListGroupsRequest())).groups]
        assert not [name for name in groups if name.startswith(topics.prefix)]
        ownership = KafkaOwnership(connection, topics)
        async with ownership.join("a", 1) as membership, aclosing(membership.assignments()) as changes:  # type: ignore[type-var]
            assert await anext(changes) == {0}
            await trial.whole(10.0)
            assert await membership.is_owner(0)
