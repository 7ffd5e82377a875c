"""Users, passwords, nkeys and JWTs against real servers: who is let in, and what is said to who is not."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nkeys
import pytest
from nats.aio.transport import TcpTransport

from gateway.broker.credentials import BrokerLogin
from gateway.broker.jetstream.connection import ConnectionOptions, connect
from gateway.broker.jetstream.stream import StreamSettings, prepare
from gateway.broker.jetstream.topics import Topics
from gateway.broker.ports import Commit
from gateway.errors import ConfigurationError, Unavailable
from tests.support.control_store_suite import Operator, public_of, seed_of, user_seed
from tests.support.event_log_suite import messages, numbers
from tests.support.nats_server import NatsServer
from tests.support.rigs import nats_rig

PASSWORD = "s3cret of u"


def users(password: str = PASSWORD) -> dict[str, Any]:
    return {"authorization": {"users": [{"user": "u", "password": password}]}}


def written(folder: Path, content: str, name: str = "secret") -> Path:
    file = folder / name
    file.write_text(content)
    return file


async def stores_and_reads(server: NatsServer, access: BrokerLogin) -> None:
    async with nats_rig(server.url, access=access) as rig:
        async with rig.log("a").open(1) as shard:
            await shard.commit(Commit(messages(1, 3), {"demo": b"3"}))
            assert await shard.checkpoints() == {"demo": b"3"}
        assert await numbers(rig.reader) == [1, 2, 3]


async def refused(server: NatsServer, access: BrokerLogin) -> str:
    with pytest.raises(ConfigurationError) as error:
        async with connect(ConnectionOptions(servers=[server.url], access=access)) as connection:
            await prepare(connection, StreamSettings(Topics("meso")))
    return str(error.value)


# User and password -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
async def test_a_user_is_let_in_with_the_password_in_a_file(folder: Path, tmp_path: Path, end: str) -> None:
    async with NatsServer(folder, config=users()) as server:
        await stores_and_reads(server, BrokerLogin(user="u", password_file=written(tmp_path, PASSWORD + end)))


async def test_a_wrong_password_is_refused_by_its_file_and_never_shown(folder: Path, tmp_path: Path) -> None:
    async with NatsServer(folder, config=users()) as server:
        file = written(tmp_path, "wr0ng")
        problem = await refused(server, BrokerLogin(user="u", password_file=file))
    assert problem.startswith("broker.sasl.password_file: NATS refused the login (")
    assert f"of u with the password in {file}. Write the user's present password into the file" in problem
    assert "wr0ng" not in problem


async def test_a_server_that_wants_a_login_says_so_to_who_has_none(folder: Path) -> None:
    async with NatsServer(folder, config=users()) as server:
        problem = await refused(server, BrokerLogin())
    assert problem.startswith("broker: NATS refused the login (")
    assert problem.endswith("Set broker.sasl.username and broker.sasl.password_file, or broker.credentials_file.")


async def test_a_server_that_hangs_up_over_the_first_bytes_of_a_login_is_heard(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Between the two writes of a login nats-py is held up here, as beside busy processes now and then."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.12.0","max_payload":1000,"auth_required":true}\r\n')
        await reader.read(4096)
        writer.write(b"-ERR 'Authorization Violation'\r\n")
        await writer.drain()
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()

    drains = iter([0.2])

    async def drain(_: TcpTransport) -> None:
        await asyncio.sleep(next(drains, 0))

    monkeypatch.setattr(TcpTransport, "drain", drain)
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        file = written(tmp_path, "wr0ng")
        with pytest.raises(ConfigurationError, match=r"NATS refused the login \(Authorization Violation\)"):
            async with connect(
                ConnectionOptions([f"nats://{host}:{port}"], access=BrokerLogin(user="u", password_file=file))
            ):
                pass


def _unreadable(folder: Path) -> Path:
    return folder / "absent"


def _folder(folder: Path) -> Path:
    return folder


def _no_text(folder: Path) -> Path:
    file = folder / "binary"
    file.write_bytes(b"\xff\xfe")
    return file


def _empty(folder: Path) -> Path:
    return written(folder, "\n")


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        (_unreadable, "cannot be read (No such file or directory). Name a file that the gateway may read."),
        (_folder, "cannot be read (Is a directory). Name a file that the gateway may read."),
        (_no_text, "cannot be read (it is not text). Name a file that the gateway may read."),
        (_empty, "is empty. Write the password into it."),
    ],
)
async def test_a_password_file_that_holds_none_is_named(
    nats_server: NatsServer, tmp_path: Path, spoiled: Callable[[Path], Path], message: str
) -> None:
    file = spoiled(tmp_path)
    problem = await refused(nats_server, BrokerLogin(user="u", password_file=file))
    assert problem == f"broker.sasl.password_file: {file} {message}"


@pytest.mark.parametrize(
    ("access", "message"),
    [
        (BrokerLogin(user="u"), "broker.sasl.password_file: is not set, and broker.sasl.username is"),
        (BrokerLogin(password_file=Path("p")), "broker.sasl.username: is not set, and broker.sasl.password_file is"),
        (
            BrokerLogin(user="u", password_file=Path("p"), credentials_file=Path("c")),
            "broker.credentials_file: is set, and so is broker.sasl.username",
        ),
        (BrokerLogin(key_file=Path("k")), "broker.tls.cert_file: is not set, and broker.tls.key_file is"),
    ],
)
async def test_settings_that_do_not_go_together_are_refused(
    nats_server: NatsServer, access: BrokerLogin, message: str
) -> None:
    assert (await refused(nats_server, access)).startswith(message)


@pytest.mark.parametrize(
    "address", ["nats://u:s3cret@127.0.0.1:4222", "http://u:s3cret@h", "nats://t0ken@h", "u:s3cret@["]
)
async def test_a_password_in_an_address_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(ConfigurationError, match=r"broker\.servers: an address must not hold a user") as error:
        async with connect(ConnectionOptions(servers=[address])):
            pass
    assert "s3cret" not in str(error.value)
    assert "t0ken" not in str(error.value)


async def test_a_running_gateway_asks_for_a_new_password_until_its_file_has_it(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = written(tmp_path, PASSWORD)
    async with (
        NatsServer(folder, config=users()) as server,
        nats_rig(server.url, access=BrokerLogin(user="u", password_file=file)) as rig,
    ):
        before = await rig.connection.connected()
        server.config = users("renewed")
        server.reload()  # closes the connections of users that changed
        while "broker.sasl.password_file: NATS refused" not in caplog.text:
            await asyncio.sleep(0.01)
        file.unlink()
        while f"{file} cannot be read (No such file or directory)" not in caplog.text:
            await asyncio.sleep(0.01)
        file.write_text("renewed")
        after = await rig.connection.connected()
        assert after is not before
        async with rig.log("a").open(1) as shard:
            await shard.commit(Commit(messages(1, 1)))
    assert PASSWORD not in caplog.text
    assert "renewed" not in caplog.text


# nkeys and JWTs --------------------------------------------------------------------------------------------


async def test_an_nkey_is_let_in_by_its_seed_in_a_file(folder: Path, tmp_path: Path) -> None:
    seed = user_seed()
    config = {"authorization": {"users": [{"nkey": public_of(seed)}]}}
    async with NatsServer(folder, config=config) as server:
        await stores_and_reads(server, BrokerLogin(credentials_file=written(tmp_path, seed + "\n")))
        file = written(tmp_path, user_seed())
        problem = await refused(server, BrokerLogin(credentials_file=file))
    assert problem.startswith(
        f"broker.credentials_file: NATS refused the login (Authorization Violation) with {file}. "
    )


@pytest.fixture(scope="module")
def operator() -> Operator:
    return Operator()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
async def test_a_jwt_is_let_in_by_its_credentials_file(
    folder: Path, tmp_path: Path, operator: Operator, end: str
) -> None:
    credentials = operator.credentials(user_seed(), expires=int(time.time()) + 3600)
    async with NatsServer(folder, config=operator.config()) as server:
        file = written(tmp_path, "")
        file.write_bytes(credentials.replace("\n", end).encode())
        await stores_and_reads(server, BrokerLogin(credentials_file=file))


async def test_credentials_that_the_server_does_not_take_are_refused_in_words(
    folder: Path, tmp_path: Path, operator: Operator
) -> None:
    gone, present, ago = user_seed(), user_seed(), int(time.time()) - 60
    async with NatsServer(folder, config=operator.config(revoked=gone)) as server:

        async def refusal(credentials: str) -> str:
            return await refused(server, BrokerLogin(credentials_file=written(tmp_path, credentials)))

        expired = await refusal(operator.credentials(present, expires=ago))
        for stranger in (operator.credentials(gone), Operator().credentials(present)):
            assert "NATS refused the login" in await refusal(stranger)
        assert "broker: NATS refused the login" in await refused(server, BrokerLogin())
        await stores_and_reads(server, BrokerLogin(credentials_file=written(tmp_path, operator.credentials(present))))
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ago))
    assert f"{tmp_path / 'secret'}, whose JWT expired at {moment}+00:00. Let nsc write a new one." in expired
    assert present not in expired


def _of_another(operator: Operator) -> str:
    return operator.credentials(user_seed(), named=user_seed())


def _cut(operator: Operator) -> str:
    return operator.credentials(user_seed()).replace(".eyJ", ".", 1)


def _in_milliseconds(operator: Operator) -> str:
    return operator.credentials(user_seed(), expires=int(time.time()) * 1000)


def _without_seed(operator: Operator) -> str:
    return operator.credentials(user_seed()).partition("-----BEGIN USER")[0]


def _misspelt(operator: Operator) -> str:
    seed = user_seed()
    return operator.credentials(seed).replace(seed, seed.lower())


def _of_an_account(operator: Operator) -> str:
    return operator.credentials(seed_of(nkeys.PREFIX_BYTE_ACCOUNT))


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        (lambda _: "", "has no user JWT and nkey seed. Name a .creds file as nsc makes it"),
        (lambda _: "not credentials\n", "has no user JWT and nkey seed"),
        (lambda _: seed_of(nkeys.PREFIX_BYTE_ACCOUNT), "has no user JWT and nkey seed"),
        (_without_seed, "has no user JWT and nkey seed"),
        (_of_another, "is not that of the user in its JWT"),
        (_cut, "cannot be read. Let nsc write the file anew."),
        (_in_milliseconds, "cannot be read. Let nsc write the file anew."),
        (_misspelt, "is not a user's. Let nsc write the file anew."),
        (_of_an_account, "is not a user's. Let nsc write the file anew."),
    ],
)
async def test_an_impossible_credentials_file_is_named_before_it_is_tried(
    nats_server: NatsServer, tmp_path: Path, operator: Operator, spoiled: Callable[[Operator], str], message: str
) -> None:
    content = spoiled(operator)
    file = written(tmp_path, content)
    problem = await refused(nats_server, BrokerLogin(credentials_file=file))
    assert problem.startswith("broker.credentials_file: ")
    assert str(file) in problem
    assert message in problem
    assert not any(line in problem for line in content.splitlines() if len(line) > 20)


async def test_a_jwt_that_expires_while_the_gateway_runs_is_renewed_by_its_file(
    folder: Path, tmp_path: Path, operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    seed = user_seed()
    file = written(tmp_path, operator.credentials(seed, expires=int(time.time()) + 2))
    async with (
        NatsServer(folder, config=operator.config()) as server,
        nats_rig(server.url, access=BrokerLogin(credentials_file=file)) as rig,
    ):
        before = await rig.connection.connected()
        while f"with {file}, whose JWT expired at" not in caplog.text:
            await asyncio.sleep(0.01)
        assert before.is_lost
        file.write_text(operator.credentials(seed))
        await rig.connection.connected()
        async with rig.log("a").open(1) as shard:
            await shard.commit(Commit(messages(1, 1)))
    assert seed not in caplog.text


async def test_nothing_that_is_kept_shows_a_secret(tmp_path: Path, operator: Operator) -> None:
    seed = user_seed()
    access = BrokerLogin(credentials_file=written(tmp_path, operator.credentials(seed)))
    options = ConnectionOptions(servers=["nats://127.0.0.1:4222"], access=access)
    login = access.login(lambda: None)
    assert seed not in repr(options)
    assert seed not in repr(login)
    assert seed not in repr(replace(access, user="u", password_file=access.credentials_file).login(lambda: None))


# An account without JetStream ------------------------------------------------------------------------------


async def test_an_account_without_jetstream_is_told_apart_from_a_server_without(
    folder: Path, tmp_path: Path, operator: Operator
) -> None:
    password_file = written(tmp_path, PASSWORD)
    access = BrokerLogin(user="u", password_file=password_file)
    accounts = {"A": {"users": [{"user": "u", "password": PASSWORD}]}}
    async with NatsServer(folder / "accounts", config={"accounts": accounts}) as server:
        problem = await refused(server, access)
    assert problem == (
        "broker: NATS says: JetStream not enabled for account. "
        "Enable it: `jetstream: enabled` in the account, or limits above 0 in its JWT."
    )
    credentials = written(tmp_path, operator.credentials(user_seed()), "creds")
    async with NatsServer(folder / "jwt", config=operator.config(jetstream=False)) as server:
        assert await refused(server, BrokerLogin(credentials_file=credentials)) == problem
    async with NatsServer(folder / "off", config={**users(), "jetstream": None}) as server:
        assert await refused(server, access) == (
            "broker.servers: JetStream is not enabled on this NATS server. Enable it: `jetstream { store_dir: … }`."
        )


async def test_a_server_that_lets_nobody_in_for_now_may_pass(folder: Path) -> None:
    async with (
        NatsServer(folder, config={"max_connections": 1}) as server,
        connect(ConnectionOptions(servers=[server.url])),
    ):
        with pytest.raises(Unavailable, match="cannot connect to NATS"):  # its words may be lost as it hangs up
            async with connect(ConnectionOptions(servers=[server.url])):
                pass
