"""TLS, every login and the least permissions of docs/operate/kafka.md, on a broker that insists on them."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import (
    AclOperation,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from gateway.broker.kafka import cluster, topic_rules
from gateway.broker.kafka.connection import ConnectionOptions, connect
from gateway.broker.kafka.listener import connected
from gateway.broker.kafka.log import EventLogSettings, KafkaLog
from gateway.broker.kafka.reader import KafkaReader
from gateway.broker.kafka.topics import Topics
from gateway.broker.kafka.trial import Trial
from gateway.errors import BrokerError, ConfigurationError, GatewayError
from tests.support import kafka_server
from tests.support.event_log_suite import numbers
from tests.support.kafka_secured import ACLS, PASSWORD, TOPICS, Secured, a_commit, until_it_works


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    kafka_server.require_java()
    made = Secured(tmp_path_factory.mktemp("kafka-secured"))
    with made.server:
        made.allow()
        asyncio.run(until_it_works(made))
        yield made


async def tried(options: ConnectionOptions, topics: Topics = TOPICS) -> list[str]:
    """Do what `gateway check` does once the topics are there; return what it left out."""
    async with connected(options) as connection:
        await cluster.prepare(connection, topic_rules.ClusterSettings(topics, partitions=2, shards=2))
        return await Trial(connection, topics, session=6.0, transaction=10.0).whole(4.0)


def _plain(secured: Secured, options: ConnectionOptions) -> ConnectionOptions:
    return replace(options, mechanism="PLAIN", servers=[secured.server.address])


def _mutual(secured: Secured, options: ConnectionOptions) -> ConnectionOptions:
    context = ssl.create_default_context(cafile=secured.authority.file)
    context.load_cert_chain(secured.pair.certificate, secured.pair.key)
    servers = [f"127.0.0.1:{secured.mutual}"]
    return replace(options, servers=servers, mechanism=None, user=None, password=None, tls=context)


def _token(secured: Secured, options: ConnectionOptions) -> ConnectionOptions:
    claims = {"sub": "gateway", "iat": int(time.time()), "exp": int(time.time()) + 600}
    parts = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({"alg": "none"}, claims)
    )
    file = secured.folder / "token"
    file.write_text(".".join(parts) + ".\n")
    return replace(options, mechanism="OAUTHBEARER", user=None, password=None, token_file=file)


@pytest.mark.parametrize(
    "login",
    [
        lambda _, options: options,
        lambda _, options: replace(options, mechanism="SCRAM-SHA-512"),
        _plain,
        _mutual,
        _token,
    ],
    ids=["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN", "mutual-TLS", "OAUTHBEARER"],
)
async def test_a_gateway_works_with_every_login_and_the_documented_permissions(
    secured: Secured, login: Callable[[Secured, ConnectionOptions], ConnectionOptions]
) -> None:
    await a_commit(login(secured, secured.options()))


@pytest.mark.parametrize("missing", range(len(ACLS)), ids=[f"{acl.name}-{acl.operation.name}" for acl in ACLS])
async def test_no_documented_permission_is_too_much(secured: Secured, missing: int) -> None:
    topics = Topics("mesolive", ("order-update", f"new-{missing}"))  # so that there is a topic to be made
    with pytest.raises(GatewayError, match=r"permit|uthoriz"):
        await a_commit(secured.options(f"without-{missing}"), topics)


NO_GROUP = "not tried: a group of its own, for want of Read for groups mesolive.gateway-check…"
NO_TRANSACTION = "not tried: a transaction, for want of Write for the transactional id mesolive.gateway-check"


async def test_a_trial_with_the_gateways_permissions_says_what_it_left_out(secured: Secured) -> None:
    assert await tried(secured.options()) == [NO_GROUP]


async def test_a_trial_with_the_permissions_for_it_leaves_nothing_out(secured: Secured) -> None:
    assert await tried(secured.options("check")) == []


@pytest.mark.parametrize("missing", range(len(ACLS)), ids=[f"{acl.name}-{acl.operation.name}" for acl in ACLS])
async def test_a_trial_fails_only_for_a_permission_that_the_gateway_needs(secured: Secured, missing: int) -> None:
    acl, user = ACLS[missing], f"without-{missing}"
    if acl.restype is ResourceType.TRANSACTIONAL_ID:  # each shard's own id may be permitted
        assert await tried(secured.options(user)) == [NO_GROUP, NO_TRANSACTION]
    elif acl.restype is ResourceType.GROUP:
        with pytest.raises(ConfigurationError, match=r"group mesolive\.gateway: Kafka does not permit Read"):
            await tried(secured.options(user))
    elif acl.operation is AclOperation.WRITE:  # with which comes the permission to see that there are topics
        with pytest.raises(GatewayError, match=r"topic mesolive\.\S+: Kafka does not permit Describe"):
            await tried(secured.options(user))
    elif acl.operation in {AclOperation.CREATE, AclOperation.READ}:  # nothing is made, and nothing read
        assert await tried(secured.options(user)) == [NO_GROUP]


async def test_a_reader_needs_no_more_than_is_documented(secured: Secured) -> None:
    async with connect(secured.options("reader")) as connection:
        assert await numbers(KafkaReader(connection, TOPICS))
        with pytest.raises((BrokerError, ConfigurationError)):
            async with KafkaLog(connection, EventLogSettings(TOPICS, "thief", commit_timeout=4.0)).open(1):
                pass


async def test_nothing_is_taken_from_the_audit_topic_with_our_permissions(secured: Secured) -> None:
    await a_commit(secured.options())
    login = {
        "bootstrap.servers": secured.server.address,
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(secured.authority.file),
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": "gateway",
        "sasl.password": PASSWORD,
    }
    gateway = AdminClient(login)
    short = ConfigResource(ConfigResource.Type.TOPIC, TOPICS.audit)
    short.add_incremental_config(ConfigEntry("retention.ms", "1", incremental_operation=AlterConfigOpType.SET))
    for tried in (
        gateway.delete_topics([TOPICS.audit]),
        gateway.delete_records([TopicPartition(TOPICS.audit, 0, 1)]),
        gateway.incremental_alter_configs([short]),
    ):
        (done,) = tried.values()
        with pytest.raises(KafkaException, match="uthoriz"):
            await asyncio.to_thread(done.result)


async def test_a_wrong_password_is_said_and_never_shown(secured: Secured) -> None:
    with pytest.raises(ConfigurationError, match=r"broker\.sasl: Kafka refused the login") as refused:
        await a_commit(replace(secured.options(), password="wr0ng"))
    assert "wr0ng" not in str(refused.value) + repr(secured.options())


async def test_an_unknown_authority_is_said(secured: Secured) -> None:
    with pytest.raises(ConfigurationError, match=r"broker\.tls\.ca_file"):
        await a_commit(replace(secured.options(), tls=ssl.create_default_context()))


async def test_a_client_without_tls_is_told_soon(secured: Secured) -> None:
    with pytest.raises(GatewayError, match="cannot connect"):
        await a_commit(replace(secured.options(), tls=None))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mechanism": "GSSAPI"}, "'GSSAPI' is none"),
        ({"mechanism": None}, "is not set, although there is a user"),
        ({"password": None}, "has no user and password"),
        ({"mechanism": "OAUTHBEARER"}, "broker.sasl.token_file: is not set"),
    ],
)
async def test_half_a_login_is_refused(change: dict[str, str | None], message: str) -> None:
    options = ConnectionOptions(["127.0.0.1:1"], mechanism="PLAIN", user="u", password="p")
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        await a_commit(replace(options, **change))  # type: ignore[arg-type]
