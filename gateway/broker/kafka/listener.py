"""Diagnosis of Kafka's listeners: what keeps clients out, found on the wire, with the setting and the remedy.

A broker that receives TLS where it speaks plain text closes without an answer. So does one that receives plain text
where it speaks TLS, or a request before a login. So a refused gateway asks again, in both ways, for a login by no
mechanism: the answer shows what the listener requires. Nothing secret is sent for that.

After the first answer a client connects to the address that each broker advertises, which may lead nowhere.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from aiokafka.errors import KafkaError

from gateway.broker.kafka.connection import Connection, ConnectionOptions, connect
from gateway.broker.kafka.errors import describe
from gateway.errors import ActionRequired, ConfigurationError, GatewayError, Unavailable

_TIMEOUT_S: Final = 2.0
"""Seconds for an answer to such a question."""
_SETTLES: Final = 3.0
"""Seconds for which all advertised addresses may fail: a broker may have gone since it was asked."""
_AGAIN: Final = 0.5
_HANDSHAKE: Final = 17
_VERSION: Final = 1
_NO_MECHANISM: Final = "NONE"
_OURS: Final = 7
"""Names the question in its answer."""
_TAKES_NO_LOGIN: Final = 34
_LARGEST: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Listener:
    """What a listener answered to a request for a login."""

    tls: bool
    wants_certificate: bool = False
    takes_login: bool = False
    mechanisms: tuple[str, ...] = ()


@asynccontextmanager
async def connected(options: ConnectionOptions) -> AsyncIterator[Connection]:
    """Yield the process's connection to Kafka; where it is not let in, say what the listener wants.

    Raises:
        ConfigurationError: as `connect`; and where TLS or the login is not what the listener wants.
        ActionRequired: no broker can be reached where it says it is.
        Unavailable: no server can be reached now.

    """
    async with AsyncExitStack() as stack:
        try:
            connection = await stack.enter_async_context(connect(options))
        except (Unavailable, ConfigurationError) as error:
            if isinstance(error, ConfigurationError) and error.setting != "broker.sasl.mechanism":
                raise
            explained: ConfigurationError | None = None
            with suppress(TimeoutError):
                async with asyncio.timeout(2 * _TIMEOUT_S):
                    explained = await _explained(options)
            raise explained or error from error.__cause__
        await _check_advertised(connection)
        yield connection


async def unreachable(connection: Connection) -> tuple[list[str], int]:
    """Return, as text, which brokers cannot be reached where they advertise, and how many brokers there are.

    Raises Unavailable.
    """
    brokers = await connection.brokers()
    problems = await asyncio.gather(*(_visited(connection, *broker) for broker in brokers))
    return [one for one in problems if one], len(brokers)


async def _check_advertised(connection: Connection) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _SETTLES
    while True:
        problems, count = await unreachable(connection)
        if len(problems) < count or not problems:
            return
        if loop.time() > deadline:
            raise ActionRequired("; ".join(problems))
        await asyncio.sleep(_AGAIN)


async def _visited(connection: Connection, number: int, host: str, port: int) -> str:
    """Connect to a broker where it advertises; return the problem as text, an empty one where all is well."""
    try:
        await connection.visit(host, port)
    except socket.gaierror:
        problem = "a name that does not resolve here"
    except ConnectionRefusedError:
        problem = "which refuses the connection"
    except TimeoutError:
        problem = "which does not answer"
    except (OSError, EOFError, KafkaError) as error:
        problem = f"where this came of it: {describe(error)}"
    except GatewayError as error:
        problem = f"where this came of it: {error}"
    else:
        return ""
    remedy = "let advertised.listeners of that broker name an address that the gateway reaches"
    return f"broker {number} tells clients to come to {host}:{port}, {problem}. Mend it: {remedy}"


async def _explained(options: ConnectionOptions) -> ConfigurationError | None:
    """Return which setting is not what a listener wants; None where that is not known."""
    for server in options.servers:
        host, _, port = server.rpartition(":")
        found = await _found(host.strip("[]"), int(port), tls_first=options.tls is not None)
        if found is not None and (problem := _mismatch(options, server, found)) is not None:
            return problem
    return None


def _mismatch(options: ConnectionOptions, server: str, listener: _Listener) -> ConfigurationError | None:
    mechanism = options.mechanism
    if listener.tls and options.tls is None:
        remedy = "Set it to true, or broker.tls.ca_file; or name a listener without TLS in broker.servers."
        return ConfigurationError("broker.tls.enabled", f"is not set, and {server} speaks TLS", remedy)
    if options.tls is not None and not listener.tls:
        remedy = "Take broker.tls away, or name a listener with TLS in broker.servers."
        return ConfigurationError("broker.tls", f"is set, and {server} speaks plain text", remedy)
    if listener.wants_certificate:  # asked without one
        remedy = "Set it and broker.tls.key_file to a client's certificate and key that the brokers trust."
        return ConfigurationError("broker.tls.cert_file", f"is no certificate that {server} takes", remedy)
    if mechanism is None and listener.takes_login:
        remedy = "Set it, broker.sasl.username and broker.sasl.password_file."
        problem = f"is not set, and {server} wants a login by {_listed(listener)}"
        return ConfigurationError("broker.sasl.mechanism", problem, remedy)
    if mechanism is not None and not listener.takes_login:
        remedy = "Take broker.sasl away, or name a listener with a login in broker.servers."
        return ConfigurationError("broker.sasl.mechanism", f"is {mechanism}, and {server} takes no login", remedy)
    if mechanism is not None and mechanism not in listener.mechanisms:
        problem = f"is {mechanism}, and {server} takes {_listed(listener)}"
        remedy = "Set it to what the listener takes, or add it to sasl.enabled.mechanisms of the brokers."
        return ConfigurationError("broker.sasl.mechanism", problem, remedy)
    return None


def _listed(listener: _Listener) -> str:
    return " or ".join(listener.mechanisms) or "no mechanism that it names"


async def _found(host: str, port: int, *, tls_first: bool) -> _Listener | None:
    """Ask a listener, with TLS and without; None where it answers neither."""
    for tls in (tls_first, not tls_first):
        with suppress(OSError, EOFError, TimeoutError, ValueError):
            async with asyncio.timeout(_TIMEOUT_S):
                return await _asked(host, port, tls=tls)
    return None


async def _asked(host: str, port: int, *, tls: bool) -> _Listener:
    context: ssl.SSLContext | None = None
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # an unverified peer receives nothing secret
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        writer.write(_question())
        await writer.drain()
        return _read(await _answer(reader), tls=tls)
    except ssl.SSLError as error:
        if "ALERT" in (error.reason or ""):  # only a peer that speaks TLS sends one
            return _Listener(tls=True, wants_certificate=True)
        raise
    finally:
        writer.transport.abort()


def _question() -> bytes:
    name, mechanism = b"gateway", _NO_MECHANISM.encode()
    body = struct.pack(f">hhih{len(name)}s", _HANDSHAKE, _VERSION, _OURS, len(name), name)
    body += struct.pack(f">h{len(mechanism)}s", len(mechanism), mechanism)
    return struct.pack(">i", len(body)) + body


async def _answer(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    if not 0 < size <= _LARGEST:
        raise ValueError("no answer of Kafka")
    return await reader.readexactly(size)


def _read(answer: bytes, *, tls: bool) -> _Listener:
    """Read the listener's answer; raises ValueError where that is not of Kafka."""
    try:
        ours, code, count = struct.unpack_from(">ihi", answer)
        names, place = [], struct.calcsize(">ihi")
        for _ in range(max(0, count)):
            (length,) = struct.unpack_from(">h", answer, place)
            names.append(answer[place + 2 : place + 2 + length].decode())
            place += 2 + length
    except struct.error as error:
        raise ValueError("no answer of Kafka") from error
    if ours != _OURS:
        raise ValueError("no answer of Kafka")
    return _Listener(tls, takes_login=code != _TAKES_NO_LOGIN, mechanisms=tuple(sorted(names)))
