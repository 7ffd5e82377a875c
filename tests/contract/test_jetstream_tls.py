"""TLS and mutual TLS to real servers: whom the gateway trusts, who trusts it, and what it says when not."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.broker.credentials import BrokerLogin
from gateway.broker.jetstream.connection import ConnectionOptions, connect
from gateway.broker.ports import Commit
from gateway.errors import ConfigurationError, Unavailable
from tests.support.certificates import Authority, Pair
from tests.support.event_log_suite import messages, numbers
from tests.support.nats_server import NatsServer
from tests.support.rigs import nats_rig
from tests.support.sockets import free_port


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "theirs")


@pytest.fixture(scope="module")
def server_pair(authority: Authority) -> Pair:
    return authority.certificate("server")


@pytest.fixture(scope="module")
def client_pair(authority: Authority) -> Pair:
    return authority.certificate("client")


def tls(pair: Pair, **more: object) -> dict[str, Any]:
    return {"tls": {"cert_file": str(pair.certificate), "key_file": str(pair.key), **more}}


def mutual(pair: Pair, authority: Authority) -> dict[str, Any]:
    return tls(pair, ca_file=str(authority.file), verify=True)


async def stores_and_reads(url: str, access: BrokerLogin) -> None:
    async with nats_rig(url, access=access) as rig:
        async with rig.log("a").open(1) as shard:
            await shard.commit(Commit(messages(1, 3), {"demo": b"3"}))
        assert await numbers(rig.reader) == [1, 2, 3]


async def refused(url: str, access: BrokerLogin) -> str:
    with pytest.raises(ConfigurationError) as error:
        async with connect(ConnectionOptions(servers=[url], access=access)):
            pass
    return str(error.value)


async def test_a_private_ca_is_trusted_where_it_is_named_and_nobody_else_is(
    folder: Path, authority: Authority, stranger: Authority, server_pair: Pair
) -> None:
    async with NatsServer(folder, config=tls(server_pair)) as server:
        await stores_and_reads(server.url, BrokerLogin(ca_file=authority.file))
        await stores_and_reads(server.url.replace("nats:", "tls:"), BrokerLogin(ca_file=authority.file))

        wrong = await refused(server.url, BrokerLogin(ca_file=stranger.file))
        unset = await refused(server.url, BrokerLogin())
        misnamed = await refused(f"nats://localhost:{server.port}", BrokerLogin(ca_file=authority.file))
    remedy = "Name a PEM file with the certificate of the authority that signed it."
    assert wrong.startswith("broker.tls.ca_file: the server's certificate is refused: unable to get local issuer")
    assert wrong.endswith(f"; {stranger.file} does not vouch for it. {remedy}")
    assert unset.endswith(f"; broker.tls.ca_file is not set. {remedy}")
    assert misnamed.startswith("broker.servers: the server's certificate is refused: Hostname mismatch")
    assert misnamed.endswith("Name the server as its certificate does.")


async def test_a_certificate_that_is_out_of_date_is_refused(folder: Path, authority: Authority) -> None:
    async with NatsServer(folder, config=tls(authority.certificate("old", days=-1))) as server:
        problem = await refused(server.url, BrokerLogin(ca_file=authority.file))
    assert problem == (
        "broker.servers: the server's certificate is refused: certificate has expired. "
        "Renew it, or set this machine's clock."
    )


async def test_a_server_that_wants_a_certificate_is_shown_one(
    folder: Path, authority: Authority, server_pair: Pair, client_pair: Pair
) -> None:
    async with NatsServer(folder, config=mutual(server_pair, authority)) as server:
        shown = BrokerLogin(ca_file=authority.file, cert_file=client_pair.certificate, key_file=client_pair.key)
        await stores_and_reads(server.url, shown)
        both = folder / "both.pem"
        both.write_bytes(client_pair.key.read_bytes() + client_pair.certificate.read_bytes())
        await stores_and_reads(server.url, BrokerLogin(ca_file=authority.file, cert_file=both))


async def test_who_shows_no_certificate_or_a_wrong_one_is_told_so(
    folder: Path, authority: Authority, stranger: Authority, server_pair: Pair
) -> None:
    wrong, old = stranger.certificate("client"), authority.certificate("old client", days=-1)
    async with NatsServer(folder, config=mutual(server_pair, authority)) as server:
        missing = await refused(server.url, BrokerLogin(ca_file=authority.file))
        strange, late = [
            await refused(
                server.url, BrokerLogin(ca_file=authority.file, cert_file=pair.certificate, key_file=pair.key)
            )
            for pair in (wrong, old)
        ]
    assert missing.startswith("broker.tls.cert_file: is not set, and the server wants a certificate (")
    assert missing.endswith("Set it and broker.tls.key_file to a client's certificate and key.")
    assert strange.startswith(f"broker.tls.cert_file: the server refuses {wrong.certificate} (")
    assert late.startswith(f"broker.tls.cert_file: the server refuses {old.certificate} (")
    assert late.endswith("Name a certificate that is in date, of an authority that the server trusts.")


async def test_tls_that_comes_first_is_spoken_where_it_is_set(
    folder: Path, authority: Authority, server_pair: Pair
) -> None:
    first, usual = BrokerLogin(ca_file=authority.file, handshake_first=True), BrokerLogin(ca_file=authority.file)
    async with NatsServer(folder / "first", config=tls(server_pair, handshake_first=True)) as server:
        await stores_and_reads(server.url, first)
        assert "broker.tls.ca_file is not set" in await refused(server.url, BrokerLogin(handshake_first=True))
        with pytest.raises(Unavailable, match=r"if it waits for TLS, set broker\.tls\.handshake_first"):
            async with connect(ConnectionOptions(servers=[server.url], access=usual)):
                pass
    async with NatsServer(folder / "usual", config=tls(server_pair)) as server:
        # What it hears of a server that speaks first depends on which of the two is quicker.
        with pytest.raises((ConfigurationError, Unavailable), match=r"server does not begin with TLS") as error:
            async with connect(ConnectionOptions(servers=[server.url], access=first, timeout=1)):
                pass
    assert "broker.tls.handshake_first" in str(error.value)


@pytest.mark.parametrize("with_password", [False, True])
async def test_a_server_without_tls_is_refused_and_never_sees_the_password(
    tmp_path: Path, authority: Authority, with_password: bool
) -> None:
    """The server is a bare socket here: a man in the middle who says that there is no TLS."""
    received = bytearray()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version":"2.15.0","max_payload":1048576,"headers":true,"auth_required":true}\r\n')
        while line := await reader.readline():
            received.extend(line)
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
        writer.close()

    file = tmp_path / "password"
    file.write_text("s3cret")
    login = {"user": "u", "password_file": file} if with_password else {}
    listening = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        for address, access in (
            (f"nats://127.0.0.1:{port}", BrokerLogin(ca_file=authority.file, **login)),
            (f"tls://127.0.0.1:{port}", BrokerLogin(**login)),
        ):
            problem = await refused(address, access)
            assert problem == "broker.tls: the server offers no TLS. Take broker.tls away, or let the server offer TLS."
    assert b"s3cret" not in received
    assert (b"CONNECT" in received) is not with_password


async def test_a_websocket_without_tls_is_refused_where_tls_is_set(authority: Authority) -> None:
    problem = await refused("ws://127.0.0.1:80", BrokerLogin(ca_file=authority.file))
    assert problem.startswith("broker.servers: 'ws://127.0.0.1:80' is without TLS, and broker.tls is set")


# Files -----------------------------------------------------------------------------------------------------


def _absent(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_text("")


def _locked(path: Path) -> None:
    command = ("openssl", "ec", "-aes256", "-passout", "pass:s3cret", "-in", path, "-out", path.with_suffix(".locked"))
    subprocess.run(command, check=True, capture_output=True)
    path.with_suffix(".locked").rename(path)


def _of_another(path: Path) -> None:
    shutil.copy(Authority(path.parent / "another").certificate("client").key, path)


@pytest.fixture
def own(tmp_path: Path, authority: Authority, client_pair: Pair) -> dict[str, Path]:
    """The test's own files of all three settings."""
    files = {"ca_file": authority.file, "cert_file": client_pair.certificate, "key_file": client_pair.key}
    return {name: Path(shutil.copy(file, tmp_path / name)) for name, file in files.items()}


@pytest.mark.parametrize(
    ("setting", "spoil", "message"),
    [
        ("ca_file", _absent, "cannot be read (No such file or directory). Name a file that the gateway may read."),
        ("ca_file", _empty, "holds no certificate. Name a PEM file with the certificate of the authority"),
        ("cert_file", _absent, "cannot be read (No such file or directory)"),
        ("cert_file", _empty, "holds no certificate. Name a PEM file with the client's certificate."),
        ("key_file", _absent, "cannot be read (No such file or directory)"),
        ("key_file", _empty, "holds no key. Name a PEM file with the key of the certificate in"),
        ("key_file", _locked, "has a passphrase. Write the key without a passphrase"),
        ("key_file", _of_another, "are no pair (key values mismatch). Name the two that were made together."),
    ],
)
async def test_a_file_that_cannot_be_right_is_named(
    own: dict[str, Path], setting: str, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(own[setting])
    problem = await refused(f"nats://127.0.0.1:{free_port()}", BrokerLogin(**own))
    assert problem.startswith(f"broker.tls.{setting}: ")
    assert str(own[setting]) in problem
    assert message in problem


async def test_a_renewed_certificate_and_authority_serve_from_the_next_connect(
    folder: Path, tmp_path: Path, authority: Authority, server_pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    file = Path(shutil.copy(authority.file, tmp_path / "ca.pem"))
    renewed = Authority(tmp_path / "renewed")
    async with (
        NatsServer(folder, config=tls(server_pair)) as server,
        nats_rig(server.url, access=BrokerLogin(ca_file=file)) as rig,
    ):
        server.stop()
        server.config = tls(renewed.certificate("server"))
        server.start()
        while f"{file} does not vouch for it" not in caplog.text:
            await asyncio.sleep(0.01)
        shutil.copy(renewed.file, file)
        await rig.connection.connected()
        async with rig.log("a").open(1) as shard:
            await shard.commit(Commit(messages(1, 1)))


async def test_a_server_told_of_by_ip_address_is_known_by_the_tellers_name(folder: Path, authority: Authority) -> None:
    pair = authority.certificate("cluster", names="DNS:localhost")
    routes = [free_port(), free_port()]
    servers = [
        NatsServer(
            folder / f"n{place}",
            config={
                **tls(pair),
                "server_name": f"n{place}",
                "jetstream": None,
                "cluster": {
                    "name": "test",
                    "listen": f"127.0.0.1:{routes[place]}",
                    "routes": [f"nats://127.0.0.1:{routes[0]}"] if place else [],
                },
            },
        )
        for place in (0, 1)
    ]
    async with servers[0], servers[1]:
        access, first = BrokerLogin(ca_file=authority.file), f"nats://localhost:{servers[0].port}"
        while True:  # until the first knows of the second
            async with connect(ConnectionOptions(servers=[first], access=access, ping_interval=0.5)) as connection:
                link = await connection.connected()
                if not link.client.discovered_servers:
                    continue
                servers[0].kill()
                while await connection.connected() is link:
                    await asyncio.sleep(0.01)
                assert connection.link.client.connected_url.port == servers[1].port
                break


def test_the_rig_s_authority_is_none_that_this_machine_trusts(authority: Authority) -> None:
    """A checker is tested, too: with an authority that is trusted anyway no test above could fail."""
    trusted = ssl.create_default_context().get_ca_certs(binary_form=True)
    assert ssl.PEM_cert_to_DER_cert(authority.file.read_text()) not in trusted
