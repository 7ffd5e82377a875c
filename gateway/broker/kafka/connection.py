"""How the process reaches Kafka: what all its clients have in common, and requests to the cluster.

Each writer and each read has clients of its own, created when they are needed and gone afterwards, so that nothing of a
broken one lives on. The end of a client may take as long as a request to a frozen broker: only the connection's own end
waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.abc import AbstractTokenProvider
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import create_conn
from aiokafka.errors import (
    KafkaError,
    SaslAuthenticationFailed,
)
from aiokafka.structs import TopicPartition

from gateway.broker.kafka import client_internals
from gateway.broker.kafka.connection_limit import CLOSED, ConnectionLimit, time_limit
from gateway.broker.kafka.errors import MECHANISMS, map_aiokafka_errors
from gateway.broker.kafka.send import stored
from gateway.broker.peers import PeerRace
from gateway.errors import ConfigurationError, Unavailable
from gateway.redaction import shown_path
from gateway.small_files import SECRET_BYTES, UnreadableFile, read_small_text

log = logging.getLogger(__name__)
_RETRY_DELAY_S: Final = 50
"""Milliseconds before a request is made again."""
_BATCH: Final = 128 * 1024
"""Bytes of a batch of records without a transaction; a larger record stands alone."""
_SILENT: Final = 1.5
"""Seconds after which another broker is asked the same, beside one that is silent."""
_CLOSE_TIMEOUT_S: Final = 1.0
"""Seconds that a leaving writer waits for the end of its clients."""


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """Where Kafka is and how to be let in."""

    servers: Sequence[str]
    """Bootstrap servers, `host:port`."""
    name: str = "gateway"
    """The client id: shown in the broker's logs and metrics, and in quotas."""
    mechanism: str | None = None
    """One of MECHANISMS; None for no SASL."""
    user: str | None = None
    password: str | Callable[[], str] | None = field(default=None, repr=False)
    """A callable is called for each client, so that a changed secret is used."""
    token_file: Path | None = None
    """The token of OAUTHBEARER, read at each connect."""
    tls: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None
    """A callable is called for each client, so that a changed file is used."""
    timeout: float = 10.0
    """Seconds that any one call may take, connecting included."""

    @property
    def request_timeout(self) -> float:
        """Seconds of silence after which a request is given up: there is time for another one, to another broker."""
        return self.timeout / 2


class _TokenFile(AbstractTokenProvider):  # type: ignore[misc]  # it has no annotations
    def __init__(self, path: Path) -> None:
        self._path = path

    async def token(self) -> str:
        """Read the token afresh: it expires, and something renews the file."""
        try:
            return (await asyncio.to_thread(read_small_text, self._path, SECRET_BYTES)).strip()
        except UnreadableFile as error:
            raise SaslAuthenticationFailed(f"{shown_path(self._path)} {error.problem}") from None


class _SharedStart:
    """Lets one caller make what others wait for; where it fails, they fail with it, not each in its turn."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._failed: tuple[float, Exception] | None = None

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        clock = asyncio.get_running_loop().time
        asked = clock()
        async with self._lock:
            if self._failed is not None and self._failed[0] >= asked:
                raise self._failed[1]
            try:
                yield
            except Exception as error:
                self._failed = clock(), error
                raise
            self._failed = None


class Connection:
    """Makes clients, asks the cluster, and ends what it made."""

    def __init__(self, options: ConnectionOptions) -> None:
        self.options = options
        self.door = ConnectionLimit(options.timeout)
        self._client: AIOKafkaClient | None = None
        self._dialling = _SharedStart()
        self._plain: AIOKafkaProducer | None = None
        self._starting = _SharedStart()
        self._ending: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        """See whether we are let in; raises ConfigurationError, Unavailable."""
        with map_aiokafka_errors(f"cannot connect to {', '.join(self.options.servers)}"):
            await self._dialled()

    async def ask(self, request: Any, *, node: int | None = None) -> Any:  # noqa: ANN401 - aiokafka's own
        """Send a request to a broker, any where none is named, and give its answer.

        Where none is named, the next one is asked beside one that is silent. Raises ConfigurationError where the
        login is refused, Unavailable.
        """
        with map_aiokafka_errors("Kafka"):
            client = await self._dialled()
            nodes = client_internals.nearest(client) if node is None else [node]
            race: PeerRace[Any] = PeerRace(_nothing, CLOSED)
            try:
                for one in nodes:
                    race.begin(str(one), client.send(one, request))
                    if won := await race.won(_SILENT):
                        return won[1]
                while race.is_under_way:
                    if won := await race.won():
                        return won[1]
            finally:
                await race.end()
            self._forget(client)
            raise next(reversed(race.failures.values()), KafkaError("no broker is known"))

    async def brokers(self) -> list[tuple[int, str, int]]:
        """Return the brokers, each with the address that it advertises; raises Unavailable."""
        with map_aiokafka_errors("Kafka"):
            async with asyncio.timeout(self.options.timeout):
                known = (await self._dialled()).cluster.brokers()
        return sorted((int(one.nodeId), str(one.host), int(one.port)) for one in known)

    async def visit(self, host: str, port: int) -> None:
        """Connect to a broker, as a client does, and go; raises OSError, KafkaError, TimeoutError."""
        options = self._common()
        for bootstrapping in ("bootstrap_servers", "retry_backoff_ms"):
            options.pop(bootstrapping)

        async def attempt(seconds: float) -> Any:  # noqa: ANN401 - aiokafka's own
            async with asyncio.timeout(seconds):
                return await create_conn(host, port, **options)

        connection = await self.door.slot(host, port, attempt)
        await asyncio.wait({connection.close()}, timeout=_CLOSE_TIMEOUT_S)

    async def producer(
        self, *, transactional_id: str, topics: Iterable[str], largest: int, transaction_timeout: float
    ) -> AIOKafkaProducer:
        """Start a transactional producer, which fences every older one of its name; `largest` bounds its batches.

        `topics` are what it may write to. Raises Unavailable; end it with `end`.
        """
        producer = AIOKafkaProducer(
            **self._common(),
            transactional_id=transactional_id,
            transaction_timeout_ms=round(transaction_timeout * 1000),
            acks="all",
            max_batch_size=largest,
        )
        with map_aiokafka_errors(f"the producer {transactional_id}"):
            return await self._started(producer, topics)

    async def write(self, tp: TopicPartition, records: Mapping[bytes, bytes | None]) -> int:
        """Write records, by key (None: a tombstone), without a transaction; in no particular order.

        Gives when they were stored, in milliseconds since 1970: by the broker's clock where the topic has its
        times from there. Raises Unavailable, and then some of them may have been written.
        """
        with map_aiokafka_errors(tp.topic):
            async with self._starting.turn():
                if self._plain is None:
                    plain = AIOKafkaProducer(**self._common(), enable_idempotence=True, max_batch_size=_BATCH)
                    self._plain = await self._started(plain, [tp.topic])
                producer = self._plain
            try:
                async with asyncio.timeout(self.options.timeout):
                    return await stored(producer, tp, records)
            except BaseException:
                if self._plain is producer:
                    self._plain = None
                self.end(client_internals.end_producer(producer, abort_timeout=0))
                raise

    @asynccontextmanager
    async def consumer(self, topics: Iterable[str] = (), **options: Any) -> AsyncIterator[AIOKafkaConsumer]:  # noqa: ANN401 - aiokafka's own
        """Yield a consumer that sees committed records only, and without a `group_id` belongs to no group.

        `topics` are those of which partitions will be assigned to it. Raises Unavailable.
        """
        usual: dict[str, Any] = {"group_id": None, "enable_auto_commit": False, "auto_offset_reset": "earliest"}
        consumer = AIOKafkaConsumer(**(self._common() | usual | options), isolation_level="read_committed")
        try:
            with map_aiokafka_errors("a consumer", "Read"):
                client_internals.prepare(consumer._client, self.door, await self._dialled(), topics)  # noqa: SLF001 - as in client_internals
                async with time_limit(consumer._client, self.options.timeout):  # noqa: SLF001
                    await consumer.start()
            yield consumer
        finally:
            self.end(client_internals.end_consumer(consumer))

    def end(self, ending: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Let something end by itself; the connection's own end waits for it."""
        task = asyncio.create_task(ending, name="kafka-ending")
        self._ending.add(task)
        task.add_done_callback(self._ended)
        return task

    async def end_producer(self, producer: AIOKafkaProducer) -> None:
        """End a producer, and wait for it, though not for long."""
        await asyncio.wait(
            {self.end(client_internals.end_producer(producer, abort_timeout=_CLOSE_TIMEOUT_S))},
            timeout=_CLOSE_TIMEOUT_S,
        )

    async def close(self) -> None:
        """End everything; takes as long as requests to frozen brokers do."""
        if self._client is not None:
            self._forget(self._client)
        if self._plain is not None:
            self.end(client_internals.end_producer(self._plain, abort_timeout=0))
        while self._ending:
            await asyncio.wait(self._ending)

    async def _started(self, producer: AIOKafkaProducer, topics: Iterable[str]) -> AIOKafkaProducer:
        try:
            client_internals.prepare(producer.client, self.door, await self._dialled(), topics)
            async with time_limit(producer.client, self.options.timeout):
                await producer.start()
        except BaseException as error:
            self.end(client_internals.end_producer(producer, abort_timeout=0))
            if isinstance(error, AssertionError):  # a broker that has just come back may name none, not even itself
                raise Unavailable("Kafka does not say which brokers there are") from error
            raise
        return producer

    async def explain(self) -> None:
        """Raise what keeps a new client out now, ConfigurationError or Unavailable, if anything does."""
        with map_aiokafka_errors("Kafka"):
            self.end(client_internals.end_client(await self._dial()))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if task.cancelled() or task.exception() is not None:
            log.error("a Kafka client failed to close: %r", None if task.cancelled() else task.exception())

    def _forget(self, client: AIOKafkaClient) -> None:
        if self._client is client:
            self._client = None
            self.end(client_internals.end_client(client))

    async def _dialled(self) -> AIOKafkaClient:
        async with self._dialling.turn():
            if self._client is None:
                self._client = await self._dial()
            return self._client

    async def _dial(self) -> AIOKafkaClient:
        """Find a server that lets us in; raises Unreached."""
        client = AIOKafkaClient(**self._common())
        client_internals.prepare(client, self.door)
        try:
            await client.bootstrap()
        except BaseException:
            self.end(client_internals.end_client(client))
            raise
        return client

    def _common(self) -> dict[str, Any]:
        options = self.options
        common: dict[str, Any] = {
            "bootstrap_servers": list(options.servers),
            "client_id": options.name,
            "request_timeout_ms": max(1, round(options.request_timeout * 1000)),
            "retry_backoff_ms": _RETRY_DELAY_S,
        }
        if options.tls is not None:
            common["ssl_context"] = options.tls() if callable(options.tls) else options.tls
        if options.mechanism is not None:
            common["sasl_mechanism"] = options.mechanism
            if options.mechanism == "OAUTHBEARER":
                assert options.token_file is not None  # noqa: S101 - connect() sees to it
                common["sasl_oauth_token_provider"] = _TokenFile(options.token_file)
            else:
                password = options.password() if callable(options.password) else options.password
                common |= {"sasl_plain_username": options.user, "sasl_plain_password": password}
        secured = ("SASL_" if options.mechanism is not None else "") + ("SSL" if options.tls is not None else "")
        common["security_protocol"] = {"": "PLAINTEXT", "SASL_": "SASL_PLAINTEXT"}.get(secured, secured)
        return common


async def _nothing(_: object) -> None:
    """End nothing: an answer that came too late."""


@asynccontextmanager
async def connect(options: ConnectionOptions) -> AsyncIterator[Connection]:
    """Yield the process's connection to Kafka; a first question shows that it is let in.

    Raises:
        ConfigurationError: a server's address is none, the login is refused or cannot be made.
        Unavailable: no server can be reached now.

    """
    for server in options.servers or [""]:
        _check_address(server)
    _check_login(options)
    client_internals.apply_patches()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it also raises what it logs: the gateway logs it
    connection = Connection(options)
    try:
        await connection.begin()
        yield connection
    finally:
        await connection.close()


def _check_login(options: ConnectionOptions) -> None:
    if options.mechanism is None:
        if options.user is not None:
            remedy = f"Set it to one of {', '.join(MECHANISMS)}."
            raise ConfigurationError("broker.sasl.mechanism", "is not set, although there is a user", remedy)
        return
    if options.mechanism not in MECHANISMS:
        remedy = f"There are: {', '.join(MECHANISMS)}."
        raise ConfigurationError("broker.sasl.mechanism", f"{options.mechanism!r} is none", remedy)
    if options.mechanism == "OAUTHBEARER":
        if options.token_file is None:
            raise ConfigurationError("broker.sasl.token_file", "is not set", "Name the file that holds the token.")
    elif options.user is None or options.password is None:
        raise ConfigurationError("broker.sasl", "has no user and password", "Set username and password_file.")


def _check_address(server: str) -> None:
    if "@" in server:  # not shown: it may hold a password
        remedy = "Set broker.sasl.username and broker.sasl.password_file."
        raise ConfigurationError("broker.servers", "an address must not hold a user or a password", remedy)
    host, _, port = server.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ConfigurationError(
            "broker.servers", f"{server!r} is not the address of a Kafka broker", "Give host:port, without a scheme."
        )
