"""What Kafka can refuse, one by one, and what its user sees: a sentence, an exit code, a wait; never a lost event.

The broker asks for a login and has an authorizer; its wire can be cut, so that the gateway must be let in again.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.support import kafka_server
from tests.support.checker import judge
from tests.support.gateway_process import meanwhile
from tests.support.kafka_cluster import Place, made
from tests.support.kafka_server import KafkaServer
from tests.support.sockets import free_port

PASSWORD = "s3cret"
RATE = 300.0
SOON = 10.0
"""Seconds within which it is said what is refused: a broker hears of it within one, the gateway asks it within five."""
LARGE = (
    '{"OrderId":7,"StrategyId":1,"StrategyName":"%s","EventId":"$ID","EventSeqId":$SEQUENCE,"EventTime":"$TIME"}'
) % ("x" * 20_000)


class Guarded:
    """A broker with a login for the gateway, and an address where everybody may do everything."""

    def __init__(self, folder: Path) -> None:
        inner, wire = free_port(), free_port()
        self.inner = f"127.0.0.1:{inner}"
        login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        config = {
            "listeners": f"SASL_PLAINTEXT://127.0.0.1:{{port}},INNER://{self.inner},"
            "CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"SASL_PLAINTEXT://127.0.0.1:{wire},INNER://{self.inner}",
            "listener.security.protocol.map": "SASL_PLAINTEXT:SASL_PLAINTEXT,INNER:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "INNER",
            "sasl.enabled.mechanisms": "SCRAM-SHA-256",
            "listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config": login,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }
        self.server = KafkaServer(folder, config=config, scram={"gateway": PASSWORD})
        self.server.wire_port = wire
        self._admins: list[AdminClient] = []

    @property
    def admin(self) -> AdminClient:
        """The one client of the tests; it lives no longer than the broker, of whose absence it would complain."""
        return self._admins[0]

    @contextmanager
    def started(self) -> Iterator[None]:
        """Let it serve for as long as the context lasts."""
        with self.server:
            self._admins.append(AdminClient({"bootstrap.servers": self.inner}))
            try:
                yield
            finally:
                self._admins.clear()

    def allow(self) -> None:
        """Let the gateway do everything with what begins with t, as the names of these tests do."""
        self._acl(ResourceType.TOPIC, "t", ResourcePatternType.PREFIXED, AclPermissionType.ALLOW)
        self._acl(ResourceType.GROUP, "t", ResourcePatternType.PREFIXED, AclPermissionType.ALLOW)
        self._acl(ResourceType.TRANSACTIONAL_ID, "t", ResourcePatternType.PREFIXED, AclPermissionType.ALLOW)

    def deny(self, name: str, operation: AclOperation, kind: ResourceType = ResourceType.TOPIC) -> None:
        """Forbid the gateway to do something with a topic, or with a transactional id."""
        self._acl(kind, name, ResourcePatternType.LITERAL, AclPermissionType.DENY, operation)

    def permit(self, name: str) -> None:
        """Take back what was forbidden."""
        every = AclBindingFilter(
            ResourceType.ANY,
            name,
            ResourcePatternType.LITERAL,
            None,
            None,
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        for done in self.admin.delete_acls([every]).values():
            done.result()
        self._heeded(every, 0)

    async def set_password(self, password: str) -> None:
        """Change the gateway's password in the broker."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
        change = UserScramCredentialUpsertion("gateway", info, password.encode())
        for done in self.admin.alter_user_scram_credentials([change]).values():
            await asyncio.to_thread(done.result)

    def _acl(
        self,
        kind: ResourceType,
        name: str,
        pattern: ResourcePatternType,
        permission: AclPermissionType,
        operation: AclOperation = AclOperation.ALL,
    ) -> None:
        acl = AclBinding(kind, name, pattern, "User:gateway", "*", operation, permission)
        for done in self.admin.create_acls([acl]).values():
            done.result()
        self._heeded(AclBindingFilter(kind, name, pattern, "User:gateway", "*", operation, permission), 1)

    def _heeded(self, rules: AclBindingFilter, count: int) -> None:
        """Wait until the broker itself has so many such rules: the controller's answer comes before that."""
        deadline = time.monotonic() + SOON
        while len(self.admin.describe_acls(rules).result()) != count:
            assert time.monotonic() < deadline, f"the broker heeds not {count} of {rules}"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    kafka_server.require_java()
    made_ = Guarded(tmp_path_factory.mktemp("kafka-guarded"))
    with made_.started():
        made_.allow()
        yield made_


@asynccontextmanager
async def place_at(folder: Path, guarded: Guarded, *, prefill: int = 0) -> AsyncIterator[Place]:
    """Start everything but the gateway, which has the right password."""
    password_file = folder / "password"
    password_file.write_text(PASSWORD)
    sasl = f", sasl: {{mechanism: SCRAM-SHA-256, username: gateway, password_file: {password_file}}}"
    more = f"{sasl}, commit_timeout: 4"
    async with made(folder, guarded.server, prefill=prefill, broker=more, inner=guarded.inner) as place:
        yield place


async def is_exact(place: Place, count: int) -> bool:
    """Wait until everything is settled, and judge it."""
    await place.settled(count)
    verdict = await place.verdict()
    assert verdict.faults == {}
    return verdict.found == count * len(place.accounts)


async def test_where_nobody_listens_is_said_and_waited_for(tmp_path: Path, guarded: Guarded) -> None:
    async with place_at(tmp_path, guarded, prefill=20) as place:
        nobody = free_port()
        config = place.config.read_text()
        place.config.write_text(config.replace(str(place.wire.port), str(nobody)))
        gateway = await place.gateway()
        await gateway.wait_for_log(f"cannot connect to Kafka: 127.0.0.1:{nobody}: .*broker unavailable, retrying")
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended(10) == 0

        place.config.write_text(config.replace(str(place.wire.port), f"{nobody},127.0.0.1:{place.wire.port}"))
        await place.gateway()
        assert await is_exact(place, 20)


async def test_a_wrong_password_ends_run_and_check_says_the_same(tmp_path: Path, guarded: Guarded) -> None:
    async with place_at(tmp_path, guarded) as place:
        (tmp_path / "password").write_text("wr0ng")
        code, output = await place.run("run")
        failed, checked = await place.run("check")
    assert code == 2
    assert any("broker.sasl: Kafka refused the login" in line for line in output)
    assert failed == 1
    assert any(line.startswith("FAIL  broker: broker.sasl: Kafka refused the login") for line in checked)
    assert not any("wr0ng" in line for line in output + checked)


async def test_a_password_that_becomes_wrong_is_said_and_waited_for(tmp_path: Path, guarded: Guarded) -> None:
    async with place_at(tmp_path, guarded) as place:
        gateway = await place.gateway()
        await gateway.wait_for_log('"state": "live"')
        await place.emit(300, RATE)
        await guarded.set_password("renewed-s3cret")
        place.wire.cut()
        await place.emit(100, RATE)
        await gateway.wait_for_log("broker.sasl: Kafka refused the login")
        (tmp_path / "password").unlink()
        await gateway.wait_for_log("broker.sasl.password_file: .* cannot be read")
        (tmp_path / "password").write_text("renewed-s3cret")
        try:
            assert await is_exact(place, 400)
        finally:
            await guarded.set_password(PASSWORD)
        assert PASSWORD not in gateway.stderr


@pytest.mark.parametrize("operation", [AclOperation.CREATE, AclOperation.DESCRIBE, AclOperation.DESCRIBE_CONFIGS])
async def test_a_topic_without_permission_ends_run_at_its_start(
    tmp_path: Path, guarded: Guarded, operation: AclOperation
) -> None:
    async with place_at(tmp_path, guarded) as place:
        topic = place.topic("leg-update")
        guarded.deny(topic, operation)
        for command, expected in (("run", 2), ("check", 1)):
            code, output = await place.run(command)
            assert code == expected
            wanted = operation.name.title().replace("_C", "C")
            assert any(f"topic {topic}: Kafka does not permit {wanted}" in line for line in output), output


@pytest.mark.parametrize(
    ("what", "operation"),
    [
        ("leg-update.v1", AclOperation.WRITE),
        ("gateway.checkpoints", AclOperation.WRITE),
        ("gateway.checkpoints", AclOperation.READ),
        ("gateway.accounts", AclOperation.WRITE),
        ("gateway-1", AclOperation.WRITE),
    ],
)
async def test_check_names_a_missing_permission_and_writes_nothing_to_find_out(
    tmp_path: Path, guarded: Guarded, what: str, operation: AclOperation
) -> None:
    async with place_at(tmp_path, guarded) as place:
        code, output = await place.run("check")
        assert code == 0
        name = f"{place.prefix}.{what}"
        kind = ResourceType.TOPIC if "." in what else ResourceType.TRANSACTIONAL_ID
        guarded.deny(name, operation, kind)
        code, output = await place.run("check")
        message = f"{kind.name.lower().replace('_', ' ')} {name}: Kafka does not permit {operation.name.title()}"
        (failed,) = [line for line in output if line.startswith("FAIL")]
        guarded.permit(name)
        assert (await place.run("check"))[0] == 0
    assert code == 1
    assert failed.startswith(f"FAIL  broker: broker: {message}. ")
    assert failed.endswith("Give the user the permissions that docs/operate/kafka.md lists.")


async def test_check_disturbs_no_gateway_that_works(tmp_path: Path, guarded: Guarded) -> None:
    async with place_at(tmp_path, guarded) as place:
        gateway = await place.gateway()
        await gateway.wait_for_log('"state": "live"')
        await place.emit(600, RATE)
        for _ in range(2):
            assert (await place.run("check"))[0] == 0
        assert await is_exact(place, 600)
    assert "shard log failed, reopening" not in gateway.stderr


async def cuts(place: Place) -> None:
    """Cut all connections to the broker each second: most cuts, not all, make the library look at its topics again."""
    while True:
        place.wire.cut()
        await asyncio.sleep(1)


@pytest.mark.parametrize(
    ("what", "operation"),
    [
        ("leg-update.v1", AclOperation.WRITE),
        ("leg-update.v1", AclOperation.DESCRIBE),
        ("gateway.checkpoints", AclOperation.WRITE),
        ("gateway.checkpoints", AclOperation.READ),
        ("gateway-0", AclOperation.WRITE),
    ],
)
async def test_a_permission_that_is_taken_away_is_said_and_waited_for(
    tmp_path: Path, guarded: Guarded, what: str, operation: AclOperation
) -> None:
    async with place_at(tmp_path, guarded) as place:
        gateway = await place.gateway()
        await gateway.wait_for_log('"state": "live"')
        await place.emit(50, RATE)
        await place.settled(50)
        name = f"{place.prefix}.{what}"
        kind = ResourceType.TOPIC if "." in what else ResourceType.TRANSACTIONAL_ID
        guarded.deny(name, operation, kind)
        denied = asyncio.get_running_loop().time()
        if operation is AclOperation.READ:
            gateway.kill()  # checkpoints are read when a shard is opened, and never after
            gateway = await place.gateway()
        await place.emit(300, RATE)
        thing = kind.name.lower().replace("_", " ")
        async with meanwhile(cuts(place)) if operation is AclOperation.DESCRIBE else nullcontext():
            logged = await gateway.wait_for_log(f".*{thing} {name}: Kafka does not permit {operation.name.title()}.*")
        assert asyncio.get_running_loop().time() - denied < SOON
        assert '"level": "error"' in logged[0]
        tries = gateway.stderr.count(logged[0][:40])
        guarded.permit(name)
        assert await is_exact(place, 350)
        assert tries < 20
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended(10) == 0


async def set_largest(guarded: Guarded, topic: str, size: int) -> None:
    """Change a limit behind the gateway's back."""
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    change = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for done in guarded.admin.incremental_alter_configs([change]).values():
        await asyncio.to_thread(done.result)


async def test_a_message_above_the_topics_limit_is_a_dead_letter_the_rest_exact(
    tmp_path: Path, guarded: Guarded
) -> None:
    async with place_at(tmp_path, guarded) as place:
        gateway = await place.gateway()
        await gateway.wait_for_log('"state": "live"')
        await place.emit(100, RATE)
        await set_largest(guarded, place.topic("order-update"), 16 * 1024)
        await set_largest(guarded, place.topic("dead-letter"), 16 * 1024)
        await place.ask("POST /users/alpha/inject", text=LARGE, history="payload")
        await place.emit(100, RATE)
        await gateway.wait_for_log("message replaced by a dead letter")
        await place.settled(200)
        truth, found = await place.truth(), await place.log()
    letters = [json.loads(one.value) for one in found if ".dead-letter." in one.subject]
    (letter,) = letters
    truth["alpha"] = [event for event in truth["alpha"] if event.sequence != letter["EventSeqId"]]
    verdict = judge(truth, [one for one in found if ".dead-letter." not in one.subject], by_kind=True)
    assert verdict.faults == {}
    assert verdict.found == 600
    assert (letter["Reason"], letter["Truncated"]) == ("too-large", True)
    assert letter["Size"] > 20_000
