"""TLS, every login and the least permissions of docs/kafka.md, on a broker that insists on them."""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import re
import shlex
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from gateway.broker.kafka import cluster
from gateway.broker.kafka.connect import ConnectionOptions, connect
from gateway.broker.kafka.control import KafkaControl
from gateway.broker.kafka.listener import connected
from gateway.broker.kafka.log import KafkaLog, LogSettings
from gateway.broker.kafka.ownership import KafkaOwnership
from gateway.broker.kafka.read import KafkaReader
from gateway.broker.kafka.registry import KafkaRegistry
from gateway.broker.kafka.topics import Topics
from gateway.broker.kafka.trial import Trial
from gateway.broker.ports import Commit
from gateway.errors import BrokerError, ConfigurationError, GatewayError
from tests.contract import kafka_server
from tests.contract.behaviours import message, numbers
from tests.contract.kafka_server import KafkaServer
from tests.contract.sockets import free_port
from tests.contract.watchers import steer
from tests.support.requirement import OPENSSL

DOCS = Path(__file__).parents[2] / "docs" / "kafka.md"
PASSWORD = "pass-word"
TOPICS = Topics("mesolive", ("order-update",))


def documented() -> list[AclBinding]:
    """Give the ACLs of the docs, as the commands there say them."""
    parser = argparse.ArgumentParser()
    for option in (
        "--allow-principal",
        "--resource-pattern-type",
        "--topic",
        "--transactional-id",
        "--group",
        "--cluster",
        "--operation",
    ):
        parser.add_argument(option)
    parser.add_argument("--add", action="store_true")
    found = []
    for line in re.findall(r"^kafka-acls\.sh (.*)$", DOCS.read_text(), re.MULTILINE):
        said = parser.parse_args(shlex.split(line))
        kind = ResourceType.TOPIC if said.topic else ResourceType.TRANSACTIONAL_ID
        kind = ResourceType.GROUP if said.group else kind
        kind = ResourceType.BROKER if said.cluster else kind  # so librdkafka calls the cluster
        operation = AclOperation[re.sub(r"(?<!^)(?=[A-Z])", "_", said.operation).upper()]
        pattern = ResourcePatternType[said.resource_pattern_type.upper()]
        name = said.topic or said.transactional_id or said.group or said.cluster
        found.append(AclBinding(kind, name, pattern, said.allow_principal, "*", operation, AclPermissionType.ALLOW))
    return found


ACLS = [acl for acl in documented() if acl.principal == "User:gateway"]
READER = [acl for acl in documented() if acl.principal == "User:reader"]
CHECK = [acl for acl in documented() if acl.principal == "User:check"]
"""What it needs besides those of the gateway."""


class Secured:
    """A broker with TLS, logins and an authorizer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._openssl()
        self.internal, self.mutual = free_port(), free_port()
        users = ["gateway", "reader", "check", *(f"without-{number}" for number in range(len(ACLS)))]
        module = "org.apache.kafka.common.security"
        sasl = "listener.name.sasl_ssl"
        config = {
            "listeners": f"SASL_SSL://127.0.0.1:{{port}},MUTUAL://127.0.0.1:{self.mutual},"
            f"INTERNAL://127.0.0.1:{self.internal},CONTROLLER://127.0.0.1:{{controller}}",
            "advertised.listeners": f"SASL_SSL://127.0.0.1:{{port}},MUTUAL://127.0.0.1:{self.mutual},"
            f"INTERNAL://127.0.0.1:{self.internal}",
            "listener.security.protocol.map": "SASL_SSL:SASL_SSL,MUTUAL:SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "INTERNAL",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
            f"{sasl}.scram-sha-256.sasl.jaas.config": f"{module}.scram.ScramLoginModule required;",
            f"{sasl}.scram-sha-512.sasl.jaas.config": f"{module}.scram.ScramLoginModule required;",
            f"{sasl}.plain.sasl.jaas.config": f'{module}.plain.PlainLoginModule required user_gateway="{PASSWORD}";',
            f"{sasl}.oauthbearer.sasl.jaas.config": f"{module}.oauthbearer.OAuthBearerLoginModule required "
            'unsecuredLoginStringClaim_sub="broker";',
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(folder / "server.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(folder / "ca.pem"),
            "listener.name.mutual.ssl.client.auth": "required",
            "ssl.principal.mapping.rules": "RULE:^CN=(.*)$/$1/",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }
        self.server = KafkaServer(folder / "kafka", config=config, scram=dict.fromkeys(users, PASSWORD))

    def allow(self) -> None:
        """Give the documented ACLs to their users, and to each `without-…` all but one."""
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{self.internal}"})
        bindings = [*ACLS, *READER, *CHECK, *(_given_to("User:check", acl) for acl in ACLS)]
        for missing in range(len(ACLS)):
            for number, acl in enumerate(ACLS):
                if number != missing:
                    bindings.append(_given_to(f"User:without-{missing}", acl))
        for done in admin.create_acls(bindings).values():
            done.result()

    def options(self, user: str = "gateway") -> ConnectionOptions:
        """Give how `user` logs in by SCRAM."""
        return ConnectionOptions(
            [self.server.address],
            mechanism="SCRAM-SHA-256",
            user=user,
            password=lambda: PASSWORD,
            tls=ssl.create_default_context(cafile=self.folder / "ca.pem"),
            timeout=4.0,
        )

    def _openssl(self) -> None:
        def openssl(*arguments: str) -> None:
            OPENSSL.require()
            subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

        new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
        openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=private CA")
        for name in ("server", "gateway"):
            names = ("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1")
            signed = ("-addext", "basicConstraints=CA:FALSE", "-CA", "ca.pem", "-CAkey", "ca.key")
            openssl("req", "-x509", *new, "-keyout", f"{name}.key", "-out", f"{name}.crt", *names, *signed)
        key, certificate = ((self.folder / f"server.{kind}").read_bytes() for kind in ("key", "crt"))
        (self.folder / "server.pem").write_bytes(key + certificate)


def _given_to(principal: str, acl: AclBinding) -> AclBinding:
    return AclBinding(
        acl.restype, acl.name, acl.resource_pattern_type, principal, acl.host, acl.operation, acl.permission_type
    )


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    kafka_server.require_java()
    made = Secured(tmp_path_factory.mktemp("kafka-secured"))
    with made.server:
        made.allow()
        asyncio.run(_until_it_works(made))
        yield made


async def _until_it_works(secured: Secured) -> None:
    """The broker hears of its permissions a moment after they are given."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return await a_commit(secured.options())
        except GatewayError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


async def a_commit(options: ConnectionOptions, topics: Topics = TOPICS) -> None:
    """Do everything that a gateway does on Kafka."""
    async with connect(options) as connection:
        await cluster.prepare(connection, cluster.ClusterSettings(topics, partitions=2, shards=2))
        ownership, registry = KafkaOwnership(connection, topics), KafkaRegistry(connection, topics)
        await ownership.check()
        await registry.agree(2)
        async with ownership.join("test", 2) as membership, aclosing(membership.changes()) as changes:  # type: ignore[type-var]
            shards = await anext(changes)
            assert await membership.confirm(min(shards))
        async with KafkaLog(connection, LogSettings(topics, "test", commit_timeout=4.0)).open(1) as shard:
            settled = int((await shard.checkpoints()).get("demo", b"0"))
            await shard.commit(Commit([message(settled + 1)], {"demo": b"%d" % (settled + 1), "gone": None}))
        for account in ("demo", "gone"):
            await registry.register(account)
        await registry.forget(["gone"])
        assert await registry.known() == {"demo"}
        control = KafkaControl(connection, topics)
        await steer(control)
        await control.forget(["demo"])


async def tried(options: ConnectionOptions, topics: Topics = TOPICS) -> list[str]:
    """Do what `gateway check` does once the topics are there; give what it left out."""
    async with connected(options) as connection:
        await cluster.prepare(connection, cluster.ClusterSettings(topics, partitions=2, shards=2))
        return await Trial(connection, topics, session=6.0, transaction=10.0).whole(4.0)


def _plain(secured: Secured, options: ConnectionOptions) -> ConnectionOptions:
    return replace(options, mechanism="PLAIN", servers=[secured.server.address])


def _mutual(secured: Secured, options: ConnectionOptions) -> ConnectionOptions:
    context = ssl.create_default_context(cafile=secured.folder / "ca.pem")
    context.load_cert_chain(secured.folder / "gateway.crt", secured.folder / "gateway.key")
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
            async with KafkaLog(connection, LogSettings(TOPICS, "thief", commit_timeout=4.0)).open(1):
                pass


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
    ("change", "said"),
    [
        ({"mechanism": "GSSAPI"}, "'GSSAPI' is none"),
        ({"mechanism": None}, "is not set, although there is a user"),
        ({"password": None}, "has no user and password"),
        ({"mechanism": "OAUTHBEARER"}, "broker.sasl.token_file: is not set"),
    ],
)
async def test_half_a_login_is_refused(change: dict[str, str | None], said: str) -> None:
    options = ConnectionOptions(["127.0.0.1:1"], mechanism="PLAIN", user="u", password="p")
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        await a_commit(replace(options, **change))  # type: ignore[arg-type]
