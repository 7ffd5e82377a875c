"""The commands on a NATS server that trusts nobody: mutual TLS, a password, and the least permissions of the docs."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import yaml

from tests.acceptance.processes import GATEWAY, Process, process
from tests.contract.certificates import Authority
from tests.contract.nats_server import NatsServer
from tests.contract.permissions import PASSWORDS, documented, lacking

KEY = "s3cret-key-of-alpha"


@dataclass
class Fortress:
    """A hub with the account `alpha`, a server that trusts nobody, and a configuration for each user."""

    folder: Path
    hub: str
    server: NatsServer
    stack: AsyncExitStack
    http: aiohttp.ClientSession
    runs: int = 0

    def config(self, user: str, *, create: bool = True, **broker: object) -> Path:
        """Write the settings of a user of the docs, with other settings of the broker where given."""
        password_file = self.folder / f"password-of-{user}"
        if not password_file.exists():
            password_file.write_text(PASSWORDS[f"{user.upper()}_PASSWORD"])
        secured = {
            "servers": [self.server.url],
            "inbox_prefix": f"_INBOX_{user}",
            "sasl": {"username": user, "password_file": str(password_file)},
            "tls": {name: str(self.folder / "tls" / file) for name, file in TLS_FILES.items()},
        }
        settings = {
            "hub": {"url": self.hub},
            "accounts": {"directory": str(self.folder / "accounts")},
            "session": {"history_grace": 1, "audit_interval": 0.5},
            "broker": secured | broker,
            "topics": {"create": create},
            "log": {"format": "json"},
        }
        file = self.folder / f"{user}.yaml"
        file.write_text(yaml.safe_dump(settings))
        return file

    async def start(self, command: str, config: Path, *arguments: str) -> Process:
        """Start a command; whatever it says is searched for secrets when the test ends."""
        self.runs += 1
        line = (GATEWAY, command, "--config", config, *arguments)
        return await self.stack.enter_async_context(process(self.folder, *line, name=f"{command}-{self.runs}"))

    async def run(self, command: str, config: Path, *arguments: str) -> tuple[int, str]:
        """Run a command to its end; give its exit code and all that it said."""
        running = await self.start(command, config, *arguments)
        code = await running.ended(30)
        return code, running.said + running.complained

    async def emit(self, count: int) -> None:
        """Let the hub emit events for `alpha`."""
        async with self.http.post(f"{self.hub}/simulator/users/alpha/emit", json={"count": count}) as answer:
            assert answer.status == 200

    async def is_exact(self) -> bool:
        """Ask `gateway verify`, as the reader, whether the log is what the hub emitted."""
        code, said = await self.run("verify", self.config("reader"), "--wait", "20")
        assert code == 0, said
        return "verdict: exact" in said

    def said(self) -> str:
        """Give everything that any command said."""
        return "".join(file.read_text() for pattern in ("*.out", "*.err") for file in self.folder.glob(pattern))


TLS_FILES = {"ca_file": "ca.pem", "cert_file": "client.pem", "key_file": "client.key"}


@pytest.fixture
async def fortress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fortress]:
    authority = Authority(tmp_path / "tls")
    pair = authority.certificate("server")
    authority.certificate("client")
    (tmp_path / "accounts").mkdir()
    (tmp_path / "accounts" / "alpha").write_text(KEY + "\n")
    for name, password in PASSWORDS.items():
        monkeypatch.setenv(name, password)
    tls = {"cert_file": str(pair.certificate), "key_file": str(pair.key), "ca_file": str(authority.file)}
    server = NatsServer(tmp_path / "nats", config={"tls": {**tls, "verify": True}})
    server.text = documented()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(server)
        simulate = (GATEWAY, "simulate", "--user", f"alpha={KEY}", "--rate", "0", "--prefill", "40")
        hub = await stack.enter_async_context(process(tmp_path, *simulate, name="hub"))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        made = Fortress(tmp_path, (await hub.hears(r"hub: (\S+)\n"))[1], server, stack, http)
        yield made
        secrets = [*PASSWORDS.values(), KEY, "PRIVATE KEY", "renewed-s3cret"]
        assert [secret for secret in secrets if secret in made.said()] == []
        assert "Traceback" not in made.said()


async def test_check_run_verify_and_tail_work_with_what_the_docs_give_them_and_nothing_more(fortress: Fortress) -> None:
    code, said = await fortress.run("check", fortress.config("gateway"))
    assert (code, said.count("ok    ")) == (0, 3), said
    for create in (True, False):  # the streams are there now
        gateway = await fortress.start("run", fortress.config("gateway", create=create))
        await gateway.complains('"state": "live"')
        await fortress.emit(20)
        assert await fortress.is_exact()
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended(10) == 0
        assert "NATS refuses" not in gateway.complained
    code, said = await fortress.run("tail", fortress.config("reader"), "--no-follow", "--from", "first")
    assert (code, len(said.splitlines())) == (0, 80)


async def test_a_permission_that_is_taken_away_stops_the_account_in_words_until_it_is_back(fortress: Fortress) -> None:
    gateway = await fortress.start("run", fortress.config("gateway"))
    await gateway.complains('"state": "live"')
    assert await fortress.is_exact()

    text = fortress.server.text
    for number, permission in enumerate(("mesolive.events.*.v1.*", "mesolive.gateway.checkpoint.*.*"), start=1):
        fortress.server.text = lacking(text, "gateway", permission)
        fortress.server.reload()
        await fortress.emit(20)
        refused = permission.replace(".*.v1.*", r"\.\S+\.v1\.alpha").replace(".*.*", r"\.\d+\.alpha")
        await gateway.complains(rf'"error": "NATS refuses to let this user publish to \\"{refused}\\"')

        fortress.server.text = text
        fortress.server.reload()
        assert await fortress.is_exact(), number
    gateway.signal(signal.SIGTERM)
    assert await gateway.ended(10) == 0


async def test_a_running_gateway_waits_for_its_files_to_be_mended(fortress: Fortress) -> None:
    gateway = await fortress.start("run", fortress.config("gateway"))
    await gateway.complains('"state": "live"')
    password_file, client_key = fortress.folder / "password-of-gateway", fortress.folder / "tls" / "client.key"
    key = client_key.read_bytes()

    fortress.server.text = fortress.server.text.replace("$GATEWAY_PASSWORD", "renewed-s3cret")
    fortress.server.reload()
    await gateway.complains(
        f"broker.sasl.password_file: NATS refused the login .* with the password in {password_file}"
    )
    client_key.unlink()
    await gateway.complains(f"broker.tls.key_file: {client_key} cannot be read")
    client_key.write_bytes(key)
    password_file.write_text("renewed-s3cret\n")
    await gateway.complains("connected to NATS again")
    await fortress.emit(20)
    assert await fortress.is_exact()


async def test_a_wrong_file_or_login_ends_run_with_exit_code_2_and_check_says_the_same(fortress: Fortress) -> None:
    absent, tls = fortress.folder / "absent", fortress.folder / "tls"
    other = Authority(fortress.folder / "other")
    (fortress.folder / "wrong").write_text("wr0ng")
    ours = {name: str(tls / file) for name, file in TLS_FILES.items()}
    address = fortress.server.url.removeprefix("nats://")
    wrong: list[tuple[dict[str, object], str]] = [
        (
            {"sasl": {"username": "gateway", "password_file": str(absent)}},
            f"broker.sasl.password_file: {absent} cannot",
        ),
        (
            {"sasl": {"username": "gateway", "password_file": str(fortress.folder / "wrong")}},
            "broker.sasl.password_file: NATS refused the login",
        ),
        ({"sasl": {"mechanism": "PLAIN"}}, "broker.sasl.mechanism: is set, and NATS has none"),
        ({"tls": ours | {"ca_file": str(other.file)}}, "broker.tls.ca_file: the server's certificate is refused"),
        ({"tls": {"ca_file": ours["ca_file"]}}, "broker.tls.cert_file: is not set, and the server wants a certificate"),
        ({"inbox_prefix": "_INBOX"}, 'broker.inbox_prefix: NATS refuses to let this user subscribe to "_INBOX.'),
        ({"servers": [f"nats://gateway:s3cret.gateway@{address}"]}, "broker.servers: an address must not hold a user"),
        ({"prefix": "other"}, 'broker: NATS refuses to let this user publish to "$JS.API.STREAM.INFO.other-gateway"'),
    ]
    for broker, words in wrong:
        code, said = await fortress.run("run", fortress.config("gateway", **broker))
        assert (code, said.splitlines()[-1].startswith(f"gateway: {words}")) == (2, True), said
    code, said = await fortress.run("check", fortress.config("gateway", **wrong[1][0]))
    assert (code, f"FAIL  broker: {wrong[1][1]}" in said) == (1, True), said
    for servers in ("nats://u:wr0ng@127.0.0.1", '["nats://u:wr0ng@127.0.0.1'):
        code, said = await fortress.run("tail", fortress.config("reader"), "--servers", servers)
        assert (code, "Traceback" in said) == (2, False), said
    assert "wr0ng" not in fortress.said()


@pytest.mark.parametrize("permission", ["mesolive.events.*.v1.*", "mesolive.gateway.control.account.*"])
async def test_check_finds_a_missing_permission_to_write_and_writes_nothing(
    fortress: Fortress, permission: str
) -> None:
    fortress.server.text = lacking(fortress.server.text, "gateway", permission)
    fortress.server.reload()
    code, said = await fortress.run("check", fortress.config("gateway"))

    assert code == 1
    subject = permission.replace(".*.v1.*", ".entry-signal.v1.alpha").replace("*", "alpha")
    assert f'FAIL  broker: broker: NATS refuses to let this user publish to "{subject}"' in said
    code, said = await fortress.run("tail", fortress.config("reader"), "--no-follow", "--from", "first")
    assert (code, said) == (0, "")
