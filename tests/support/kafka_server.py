"""Real Kafka for tests: an address that is given, a container, or the broker's own jars under Java 17 or later.

`MESOLIVE_TEST_KAFKA` names a broker of a cluster, without TLS and login, on which tests may make topics: their
prefixes are their own, and the topics stay there. Without it a Docker engine is asked (testcontainers), then Maven
for the jars of tests/pom.xml, once, into the user's cache folder. Only a broker from jars can be killed and frozen, or
given listeners of one's own: what needs that, needs Java. With CI set a missing Kafka fails; else the tests that need
it are skipped, and say so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Self
from uuid import uuid4

from tests.support.freezing import Freezable
from tests.support.requirement import Requirement, cache
from tests.support.sockets import free_port

POM = Path(__file__).parents[1] / "pom.xml"
_CLUSTER_ID = "Z2F0ZXdheS10ZXN0cy0wMQ"
_READY = 60.0
"""Seconds that a broker may take to serve; it takes 4, three at once on two cores 15."""
_STARTED = "Kafka Server started"
_IMAGE = "confluentinc/cp-kafka:8.1.0"

_LOGGING = """
status = error
appender.file.type = Console
appender.file.name = out
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d %p %m (%c)%n
rootLogger.level = info
rootLogger.appenderRef.file.ref = out
"""

_QUICK = {
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
    "log.cleaner.dedupe.buffer.size": "4194304",
    "log.cleaner.threads": "1",
    "num.recovery.threads.per.data.dir": "1",
    "share.coordinator.state.topic.num.partitions": "1",
}
"""Small, and quick to start, also after a kill, whose session must end first. A transaction that timed out is
aborted within half a second, not ten."""


class KafkaServer(Freezable):
    """A Kafka node, broker and controller in one, in a folder; a context, and startable again after a kill."""

    def __init__(
        self,
        folder: Path,
        *,
        config: dict[str, str] | None = None,
        number: int = 1,
        voters: dict[int, int] | None = None,
        nodes: int | None = None,
        scram: dict[str, str] | None = None,
        java: Sequence[str] = (),
        cluster_id: str = _CLUSTER_ID,
    ) -> None:
        """`config` adds to the properties or replaces some; `{port}` and `{controller}` in values are its ports.

        `voters` are the ports of all controllers by node, where there are several or it is none itself; `nodes` is
        how many brokers there are, where not all of them are controllers; `scram` are passwords by user,
        known from the first start on; `java` are more of the options of its Java; `cluster_id` names its cluster.
        """
        self.folder = folder
        self.number = number
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.wire_port = 0
        """Where it says it is, for tests that put something in between."""
        self.inner_port = 0
        """Where others get to it straight then."""
        self._voters = voters or {number: free_port()}
        self._nodes = nodes or len(self._voters)
        self._config = config or {}
        self._scram = scram or {}
        self._options = java
        self._cluster_id = cluster_id

    @property
    def address(self) -> str:
        """What clients bootstrap from."""
        return f"127.0.0.1:{self.port}"

    def put_behind_a_wire(self) -> None:
        """Let clients go through `wire_port`, and other nodes come straight to it; before its first start."""
        self.wire_port, self.inner_port = free_port(), free_port()
        own = f"INNER://127.0.0.1:{self.inner_port}"
        self._config = {
            "listeners": f"PLAINTEXT://127.0.0.1:{{port}},{own},CONTROLLER://127.0.0.1:{{controller}}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.wire_port},{own}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,INNER:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "INNER",
            **self._config,
        }

    def start(self) -> None:
        """Start the broker and block until it serves."""
        self.begin()
        self.wait()

    def begin(self) -> None:
        """Start the broker without waiting for it."""
        assert self.process is None, "it was started already"
        if not (self.folder / "log").exists():
            self._format()
        logging = self.folder / "log4j2.properties"
        with self._log_file.open("ab") as output:
            self._since = output.tell()
            self.process = subprocess.Popen(
                [*_java(), *self._options, f"-Dlog4j2.configurationFile={logging}", "kafka.Kafka", self._file],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Block until the broker serves."""
        deadline = time.monotonic() + _READY
        while _STARTED not in (output := self.output()):
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"Kafka did not start:\n{output[-4000:]}")
            time.sleep(0.05)

    def output(self) -> str:
        """Return what the broker said of itself since its last start."""
        return self._log_file.read_bytes()[self._since :].decode(errors="replace")

    def kill(self) -> None:
        """SIGKILL: no farewell, nothing flushed."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def end(self) -> None:
        """SIGTERM, and wait until it has ended."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(_READY)
            self.process = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def _file(self) -> Path:
        return self.folder / "server.properties"

    @property
    def _log_file(self) -> Path:
        return self.folder / "server.log"

    def _format(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        replicas = min(3, self._nodes)
        properties = {
            "process.roles": "broker,controller",
            "node.id": str(self.number),
            "controller.quorum.voters": ",".join(f"{one}@127.0.0.1:{port}" for one, port in self._voters.items()),
            "listeners": "PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": "PLAINTEXT://127.0.0.1:{port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.folder / "log"),
            "default.replication.factor": str(replicas),
            "min.insync.replicas": str(max(1, replicas - 1)),
            "offsets.topic.replication.factor": str(replicas),
            "transaction.state.log.replication.factor": str(replicas),
            "transaction.state.log.min.isr": str(max(1, replicas - 1)),
            "share.coordinator.state.topic.replication.factor": str(replicas),
            "share.coordinator.state.topic.min.isr": str(max(1, replicas - 1)),
            **_QUICK,
            **self._config,
        }
        if self.number not in self._voters:
            properties["process.roles"] = "broker"
            properties["listeners"] = properties["listeners"].replace(",CONTROLLER://127.0.0.1:{controller}", "")
        text = "".join(f"{name}={value}\n" for name, value in properties.items())
        own = self._voters.get(self.number, 0)
        self._file.write_text(text.replace("{port}", str(self.port)).replace("{controller}", str(own)))
        (self.folder / "log4j2.properties").write_text(_LOGGING)
        known = [
            f"--add-scram={mechanism}=[name={user},password={password}]"
            for user, password in self._scram.items()
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        ]
        tool = ["kafka.tools.StorageTool", "format", "-t", self._cluster_id, "-c", str(self._file), *known]
        done = subprocess.run([*_java(), *tool], capture_output=True, check=False, timeout=_READY)
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()


@contextmanager
def cluster(
    folder: Path, size: int = 3, *, wired: bool = False, controllers: int | None = None
) -> Iterator[list[KafkaServer]]:
    """Yield the nodes of a cluster that serves; topics have as many replicas, and may miss one.

    With fewer `controllers` than nodes, the first ones alone decide what the cluster knows, whoever else is away.

    A `wired` node tells clients that it is at its `wire_port`; the nodes themselves talk past the wires.
    """
    voters = {number: free_port() for number in range(1, (controllers or size) + 1)}
    with ExitStack() as stack:
        servers = [
            KafkaServer(folder / f"k{number}", number=number, voters=voters, nodes=size)
            for number in range(1, size + 1)
        ]
        for server in servers if wired else ():
            server.put_behind_a_wire()
        for server in servers:
            server.begin()
            stack.callback(server.kill)
        for server in servers:
            server.wait()
        yield servers


@contextmanager
def any_kafka(folder: Path) -> Iterator[str]:
    """Yield the address of a broker of some Kafka to make topics on; skips, or fails, where there is none."""
    given = os.environ.get("MESOLIVE_TEST_KAFKA")
    if given:
        yield given.split(",")[0].strip()  # it tells of the others
    elif _has_docker():
        with _container() as address:
            yield address
    else:
        require_java()
        with KafkaServer(folder) as server:
            yield server.address


def require_java() -> None:
    """Skip, or fail in CI, where no broker can be started from its jars."""
    if missing := _missing():
        KAFKA.lacking(f"{' and '.join(missing)} not found")


def _missing() -> list[str]:
    tools = ["java"] if _jars().exists() else ["java", "mvn"]
    return [tool for tool in tools if shutil.which(tool) is None]


def _where() -> str | None:
    if not _missing():
        return "its jars, on Java"
    given = os.environ.get("MESOLIVE_TEST_KAFKA") or ("a container" if _has_docker() else None)
    return None if given is None else f"{given}, without tests that need Java to kill or freeze it"


def _fetch() -> None:
    """Fetch the jars, and let Java keep the classes that a broker loads: a start takes half as much CPU then."""
    archive = _class_archive()
    if _missing() or (_fetched() and archive.exists()):
        return
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        dump = Path(folder, "classes")
        server = KafkaServer(Path(folder, "broker"), java=[f"-XX:ArchiveClassesAtExit={dump}"])
        with server:
            server.end()
        if dump.exists():
            dump.rename(archive)


KAFKA: Final = Requirement("Kafka", "apt-get install openjdk-17-jre-headless maven", _where, _fetch)


def _java() -> Sequence[str]:
    lean = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
    archived = [f"-XX:SharedArchiveFile={_class_archive()}"] if _class_archive().exists() else []
    return ["java", *lean, *archived, "-cp", f"{_fetched()}/*"]


def _jars() -> Path:
    version = ET.parse(POM).getroot().findtext("{http://maven.apache.org/POM/4.0.0}version")  # noqa: S314 - our own
    return cache() / f"kafka-{version}"


def _class_archive() -> Path:
    """Return the file of loaded classes; a Java of another version passes over it."""
    return _jars().with_name(f"{_jars().name}.classes")


def _fetched() -> Path:
    """Return the folder of the jars, after fetching them where they are not there; whole or not at all."""
    jars = _jars()
    if not jars.exists():
        jars.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=jars.parent) as folder:
            command = ["mvn", "-q", "-B", "-f", POM, "dependency:copy-dependencies", f"-DoutputDirectory={folder}/lib"]
            done = subprocess.run(command, capture_output=True, check=False, timeout=600)
            if done.returncode != 0:
                KAFKA.lacking(f"Maven could not fetch the broker: {done.stdout.decode()[-2000:]}")
            try:
                Path(folder, "lib").rename(jars)
            except OSError:  # another run was quicker
                assert jars.exists()
    return jars


def _has_docker() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=60).returncode == 0


@contextmanager
def _container() -> Iterator[str]:
    from testcontainers.community.kafka import KafkaContainer  # noqa: PLC0415 - slow to import, and rarely wanted

    container = KafkaContainer(_IMAGE).with_kraft().with_name(f"gateway-test-{uuid4().hex[:8]}")
    for name, value in _QUICK.items():
        container.with_env("KAFKA_" + name.upper().replace(".", "_"), value)
    container.with_env("KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "1")
    container.with_env("KAFKA_TRANSACTION_STATE_LOG_MIN_ISR", "1")
    try:
        container.start(timeout=round(_READY))
        yield container.get_bootstrap_server()
    finally:
        container.stop()
