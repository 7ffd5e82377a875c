"""Whatever of `broker.tls` is set, no password leaves in clear, on either broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.bootstrap.broker import open_broker
from gateway.errors import ConfigurationError, GatewayError
from gateway.settings.sections import BrokerSettings, TlsSettings
from tests.support.certificates import Authority

PASSWORD = "s3cret-broker-password"
INFO = (
    b'INFO {"server_id":"a","version":"2.14.0","proto":1,"max_payload":1048576,"headers":true,"jetstream":true,'
    b'"auth_required":true}\r\n'
)
BROKERS = {"jetstream": "nats://", "kafka": ""}


@dataclass
class Listener:
    """A server that notes all that it is sent, and answers nothing but a greeting."""

    port: int = 0
    came: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def listening(greeting: bytes) -> AsyncIterator[Listener]:
    there = Listener()

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        idle.clear()
        there.came.append(b"")
        mine = len(there.came) - 1
        try:
            writer.write(greeting)
            while data := await reader.read(4096):
                there.came[mine] += data
                if greeting and data.endswith(b"PING\r\n"):
                    writer.write(b"PONG\r\n")
                elif not greeting and there.came[mine].startswith(b"\0"):
                    writer.write(answered(there.came[mine]))
        except ConnectionError:  # the client has seen enough
            pass
        finally:
            writer.transport.abort()
            writers.remove(writer)
            if not writers:
                idle.set()

    writers: list[asyncio.StreamWriter] = []
    idle = asyncio.Event()
    idle.set()
    server = await asyncio.start_server(note, "127.0.0.1", 0)
    there.port = server.sockets[0].getsockname()[1]
    async with server:
        yield there
        for writer in writers:
            writer.transport.abort()
        await asyncio.wait_for(idle.wait(), 10)


def answered(request: bytes) -> bytes:
    """Agree to SASL PLAIN as a broker of Kafka does, to the last request that came whole."""
    requests, rest = [], request
    while len(rest) >= 4 and len(rest) >= 4 + (length := int.from_bytes(rest[:4])):
        requests.append(rest[4 : 4 + length])
        rest = rest[4 + length :]
    key, version, correlation = requests[-1][:2], requests[-1][2:4], requests[-1][4:8]
    if key == b"\0\x12":  # ApiVersions: SaslHandshake, itself and SaslAuthenticate
        body = bytes(2) + (3).to_bytes(4) + b"\0\x11\0\0\0\x01" + b"\0\x12\0\0\0\0" + b"\0\x24\0\0\0\x01"
        body = body if version == bytes(2) else body + bytes(4)
    else:
        body = bytes(2) + (1).to_bytes(4) + b"\0\x05PLAIN"
    return (len(body) + 4).to_bytes(4) + correlation + body


def settings(kind: str, port: int, folder: Path, tls: dict[str, Any]) -> BrokerSettings:
    (folder / "password").write_text(PASSWORD)
    sasl: dict[str, Any] = {"username": "gateway", "password_file": folder / "password"}
    if kind == "kafka":
        sasl["mechanism"] = "PLAIN"
    server = f"{BROKERS[kind]}127.0.0.1:{port}"
    return BrokerSettings.model_validate(
        {"kind": kind, "servers": [server], "sasl": sasl, "tls": tls, "commit_timeout": 1}
    )


async def tried(kind: str, folder: Path, tls: dict[str, Any]) -> tuple[bytes, GatewayError | None]:
    """Try to connect; return what was sent, and the error, if there was one."""
    refused = None
    async with listening(INFO if kind == "jetstream" else b"") as there:
        try:
            async with open_broker(settings(kind, there.port, folder, tls)):
                pass
        except GatewayError as error:
            refused = error
        return b"".join(there.came), refused


@pytest.mark.parametrize("kind", BROKERS)
@pytest.mark.parametrize("name", TlsSettings.model_fields)
async def test_every_setting_of_tls_keeps_the_password_from_the_wire(name: str, kind: str, tmp_path: Path) -> None:
    pair = Authority(tmp_path / "ca").certificate("client")
    together = pair.certificate.with_name("both.pem")
    together.write_text(pair.certificate.read_text() + pair.key.read_text())
    files = {"ca_file": tmp_path / "ca" / "ca.pem", "cert_file": together, "key_file": pair.key}
    sent, _ = await tried(kind, tmp_path, {name: files.get(name, True)})
    assert PASSWORD.encode() not in sent
    assert sent == b"" or sent.startswith(b"\x16\x03"), sent  # a TLS handshake, or nothing


@pytest.mark.parametrize("kind", BROKERS)
async def test_without_any_the_password_would_be_seen_on_the_wire(kind: str, tmp_path: Path) -> None:
    sent, _ = await tried(kind, tmp_path, {})
    assert PASSWORD.encode() in sent


@pytest.mark.parametrize("kind", BROKERS)
async def test_a_key_without_its_certificate_is_refused(kind: str, tmp_path: Path) -> None:
    _, refused = await tried(kind, tmp_path, {"key_file": tmp_path / "key"})
    assert isinstance(refused, ConfigurationError)
    assert refused.setting == "broker.tls.cert_file"


@pytest.mark.parametrize("kind", BROKERS)
async def test_a_user_in_an_address_is_refused_and_not_shown(kind: str) -> None:
    server = f"{BROKERS[kind]}user:{PASSWORD}@127.0.0.1:9"
    with pytest.raises(ConfigurationError) as refused:
        async with open_broker(BrokerSettings(kind=kind, servers=[server])):  # type: ignore[arg-type]
            pass
    assert refused.value.setting == "broker.servers"
    assert PASSWORD not in str(refused.value)
