"""A Kafka with TLS, logins and an authorizer, with the users and the ACLs of docs/operate/kafka.md."""

from __future__ import annotations

import argparse
import asyncio
import re
import shlex
import ssl
import time
from contextlib import aclosing
from pathlib import Path

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from gateway.broker.kafka import cluster, topic_rules
from gateway.broker.kafka.audit import KafkaAudit
from gateway.broker.kafka.connection import ConnectionOptions, connect
from gateway.broker.kafka.control import KafkaControl
from gateway.broker.kafka.log import EventLogSettings, KafkaLog
from gateway.broker.kafka.ownership import KafkaOwnership
from gateway.broker.kafka.registry import KafkaRegistry
from gateway.broker.kafka.topics import Topics
from gateway.broker.ports import Commit
from gateway.errors import GatewayError
from tests.support.certificates import Authority
from tests.support.event_log_suite import message
from tests.support.kafka_server import KafkaServer
from tests.support.sockets import free_port
from tests.support.watchers import steer

DOCS = Path(__file__).parents[2] / "docs" / "operate" / "kafka.md"
PASSWORD = "pass-word"
TOPICS = Topics("mesolive", ("order-update",))


def documented() -> list[AclBinding]:
    """Return the ACLs of the docs, as the commands there say them."""
    parser = argparse.ArgumentParser()
    for option in (
        "--allow-principal",
        "--resource-pattern-type",
        "--transactional-id",
        "--group",
        "--cluster",
        "--operation",
    ):
        parser.add_argument(option)
    parser.add_argument("--topic", action="append")
    parser.add_argument("--add", action="store_true")
    found = []
    for line in re.findall(r"^kafka-acls\.sh (.*)$", DOCS.read_text().replace("\\\n", " "), re.MULTILINE):
        options = parser.parse_args(shlex.split(line))
        kind = ResourceType.TOPIC if options.topic else ResourceType.TRANSACTIONAL_ID
        kind = ResourceType.GROUP if options.group else kind
        kind = ResourceType.BROKER if options.cluster else kind  # so librdkafka calls the cluster
        operation = AclOperation[re.sub(r"(?<!^)(?=[A-Z])", "_", options.operation).upper()]
        pattern = ResourcePatternType[options.resource_pattern_type.upper()]
        found += [
            AclBinding(kind, name, pattern, options.allow_principal, "*", operation, AclPermissionType.ALLOW)
            for name in options.topic or [options.transactional_id or options.group or options.cluster]
        ]
    return found


ACLS = [acl for acl in documented() if acl.principal == "User:gateway"]
READER = [acl for acl in documented() if acl.principal == "User:reader"]
SERVICES = [acl for acl in documented() if acl.principal in {"User:orders", "User:positions"}]
CHECK = [acl for acl in documented() if acl.principal == "User:check"]
"""What it needs besides those of the gateway."""


class Secured:
    """A broker with TLS, logins and an authorizer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "tls")
        self.pair = self.authority.certificate("gateway")
        """A client's."""
        server = self.authority.certificate("server")
        (folder / "server.pem").write_bytes(server.key.read_bytes() + server.certificate.read_bytes())
        self.internal, self.mutual = free_port(), free_port()
        users = [
            "gateway",
            "reader",
            "check",
            "orders",
            "positions",
            *(f"without-{number}" for number in range(len(ACLS))),
        ]
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
            "ssl.truststore.location": str(self.authority.file),
            "listener.name.mutual.ssl.client.auth": "required",
            "ssl.principal.mapping.rules": "RULE:^CN=(.*)$/$1/",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }
        self.server = KafkaServer(folder / "kafka", config=config, scram=dict.fromkeys(users, PASSWORD))

    def allow(self) -> None:
        """Grant the documented ACLs to their users, and to each `without-…` all but one."""
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{self.internal}"})
        bindings = [*ACLS, *READER, *SERVICES, *CHECK, *(given_to("User:check", acl) for acl in ACLS)]
        for missing in range(len(ACLS)):
            for number, acl in enumerate(ACLS):
                if number != missing:
                    bindings.append(given_to(f"User:without-{missing}", acl))
        for done in admin.create_acls(bindings).values():
            done.result()

    def options(self, user: str = "gateway") -> ConnectionOptions:
        """Return how `user` logs in by SCRAM."""
        return ConnectionOptions(
            [self.server.address],
            mechanism="SCRAM-SHA-256",
            user=user,
            password=lambda: PASSWORD,
            tls=ssl.create_default_context(cafile=self.authority.file),
            timeout=4.0,
        )


def given_to(principal: str, acl: AclBinding) -> AclBinding:
    return AclBinding(
        acl.restype, acl.name, acl.resource_pattern_type, principal, acl.host, acl.operation, acl.permission_type
    )


def replace_name(acl: AclBinding, name: str, pattern: ResourcePatternType) -> AclBinding:
    """Return the ACL for another name."""
    return AclBinding(acl.restype, name, pattern, acl.principal, acl.host, acl.operation, acl.permission_type)


async def until_it_works(secured: Secured) -> None:
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
        await cluster.prepare(connection, topic_rules.ClusterSettings(topics, partitions=2, shards=2))
        ownership, registry = KafkaOwnership(connection, topics), KafkaRegistry(connection, topics)
        await ownership.check()
        await registry.ensure_layout(2)
        async with ownership.join("test", 2) as membership, aclosing(membership.assignments()) as changes:  # type: ignore[type-var]
            shards = await anext(changes)
            assert await membership.is_owner(min(shards))
        async with KafkaLog(connection, EventLogSettings(topics, "test", commit_timeout=4.0)).open(1) as shard:
            settled = int((await shard.checkpoints()).get("demo", b"0"))
            await shard.commit(Commit([message(settled + 1)], {"demo": b"%d" % (settled + 1), "gone": None}))
        for account in ("demo", "gone"):
            await registry.register(account)
        await registry.forget(["gone"])
        assert await registry.accounts() == {"demo"}
        await KafkaAudit(connection, topics).append("id", "demo", b"{}")
        control = KafkaControl(connection, topics)
        await steer(control)
        await control.forget(["demo"])
