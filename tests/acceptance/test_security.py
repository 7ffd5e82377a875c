"""The commands on a NATS server that trusts nobody: mutual TLS, a password, and the least permissions of the docs."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.support.certificates import Authority
from tests.support.control_client import Answer, Control, control_of, new_token
from tests.support.gateway_process import GATEWAY, Process, process
from tests.support.nats_server import NatsServer
from tests.support.otlp_collector import receiver
from tests.support.permissions import API, PASSWORDS, documented, lacking
from tests.support.replay_client import asked, ended

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
            "api_prefix": API if user == "reader" else "$JS.API",
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
        return code, running.stdout + running.stderr

    async def emit(self, count: int) -> None:
        """Let the hub emit events for `alpha`."""
        async with self.http.post(f"{self.hub}/simulator/users/alpha/emit", json={"count": count}) as answer:
            assert answer.status == 200

    async def is_exact(self) -> bool:
        """Ask `gateway verify`, as the reader, whether the log is what the hub emitted."""
        code, output = await self.run("verify", self.config("reader"), "--wait", "20")
        assert code == 0, output
        return "verdict: exact" in output

    def output(self) -> str:
        """Return everything that any command said."""
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
        made = Fortress(tmp_path, (await hub.wait_for_output(r"hub: (\S+)\n"))[1], server, stack, http)
        yield made
        secrets = [*PASSWORDS.values(), KEY, "PRIVATE KEY", "renewed-s3cret"]
        assert [secret for secret in secrets if secret in made.output()] == []
        assert "Traceback" not in made.output()


async def test_check_run_verify_and_tail_need_no_more_than_the_docs_give_them(fortress: Fortress) -> None:
    code, output = await fortress.run("check", fortress.config("gateway"))
    assert (code, output.count("ok    ")) == (0, 4), output
    for create in (True, False):  # the streams are there now
        gateway = await fortress.start("run", fortress.config("gateway", create=create))
        await gateway.wait_for_log('"state": "live"')
        await fortress.emit(20)
        assert await fortress.is_exact()
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended(10) == 0
        assert "NATS refuses" not in gateway.stderr
    code, output = await fortress.run("tail", fortress.config("reader"), "--no-follow", "--from", "first")
    assert (code, len(output.splitlines())) == (0, 80)


async def test_a_revoked_permission_stops_the_account_in_words_until_it_is_back(fortress: Fortress) -> None:
    gateway = await fortress.start("run", fortress.config("gateway"))
    await gateway.wait_for_log('"state": "live"')
    assert await fortress.is_exact()

    text = fortress.server.text
    for number, permission in enumerate(("mesolive.events.*.v1.*", "mesolive.gateway.checkpoint.*.*"), start=1):
        fortress.server.text = lacking(text, "gateway", permission)
        fortress.server.reload()
        await fortress.emit(20)
        refused = permission.replace(".*.v1.*", r"\.\S+\.v1\.alpha").replace(".*.*", r"\.\d+\.alpha")
        await gateway.wait_for_log(rf'"error": "NATS refuses to let this user publish to \\"{refused}\\"')

        fortress.server.text = text
        fortress.server.reload()
        assert await fortress.is_exact(), number
    gateway.signal(signal.SIGTERM)
    assert await gateway.ended(10) == 0


async def test_a_running_gateway_waits_for_its_files_to_be_mended(fortress: Fortress) -> None:
    gateway = await fortress.start("run", fortress.config("gateway"))
    await gateway.wait_for_log('"state": "live"')
    password_file, client_key = fortress.folder / "password-of-gateway", fortress.folder / "tls" / "client.key"
    key = client_key.read_bytes()

    fortress.server.text = fortress.server.text.replace("$GATEWAY_PASSWORD", "renewed-s3cret")
    fortress.server.reload()
    await gateway.wait_for_log(
        f"broker.sasl.password_file: NATS refused the login .* with the password in {password_file}"
    )
    client_key.unlink()
    await gateway.wait_for_log(f"broker.tls.key_file: {client_key} cannot be read")
    client_key.write_bytes(key)
    password_file.write_text("renewed-s3cret\n")
    await gateway.wait_for_log("reconnected to NATS")
    await fortress.emit(20)
    assert await fortress.is_exact()


async def test_a_wrong_file_or_login_ends_run_with_2_and_check_says_the_same(fortress: Fortress) -> None:
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
        ({"api_prefix": API}, f"broker.api_prefix: {API} is the API of another account's streams"),
        ({"prefix": "other"}, 'broker: NATS refuses to let this user publish to "$JS.API.STREAM.INFO.other-gateway"'),
    ]
    for broker, message in wrong:
        code, output = await fortress.run("run", fortress.config("gateway", **broker))
        assert (code, output.splitlines()[-1].startswith(f"gateway: {message}")) == (2, True), output
    code, output = await fortress.run("check", fortress.config("gateway", **wrong[1][0]))
    assert (code, f"FAIL  broker: {wrong[1][1]}" in output) == (1, True), output
    code, output = await fortress.run("check", fortress.config("gateway", api_prefix=API))
    assert (code, output.startswith(f"gateway: broker.api_prefix: {API} is the API of another")) == (2, True), output
    for servers in ("nats://u:wr0ng@127.0.0.1", '["nats://u:wr0ng@127.0.0.1'):
        code, output = await fortress.run("tail", fortress.config("reader"), "--servers", servers)
        assert (code, "Traceback" in output) == (2, False), output
    assert "wr0ng" not in fortress.output()


@pytest.mark.parametrize(
    "permission", ["mesolive.events.*.v1.*", "mesolive.gateway.control.account.*", "mesolive.gateway.control.state.>"]
)
async def test_check_finds_a_missing_permission_to_write_and_writes_nothing(
    fortress: Fortress, permission: str
) -> None:
    fortress.server.text = lacking(fortress.server.text, "gateway", permission)
    fortress.server.reload()
    code, output = await fortress.run("check", fortress.config("gateway"))

    assert code == 1
    subject = (
        permission.replace(".*.v1.*", ".entry-signal.v1.alpha").replace("*", "alpha").replace(">", "desired.alpha")
    )
    assert f'FAIL  broker: broker: NATS refuses to let this user publish to "{subject}"' in output
    code, output = await fortress.run("tail", fortress.config("reader"), "--no-follow", "--from", "first")
    assert (code, output) == (0, "no message from first on\n")


@dataclass
class Written:
    """Everything that a run wrote, by where, and what may stand nowhere of it."""

    secrets: tuple[str, ...]
    places: dict[str, bytes] = field(default_factory=dict)

    def judge(self, sign: bytes) -> list[str]:
        """Return the places that hold a secret; each must hold `sign`, so that it is known to have been read."""
        unread = [place for place, text in self.places.items() if sign not in text]
        assert unread == []
        return [
            f"{secret} in {place}"
            for place, text in self.places.items()
            for secret in self.secrets
            if secret.encode() in text
        ]


def test_the_search_for_secrets_finds_one_and_wants_to_have_read_something() -> None:
    assert Written(("hush",), {"log": b"alpha said hush", "topics": b"alpha"}).judge(b"alpha") == ["hush in log"]
    with pytest.raises(AssertionError):
        Written(("hush",), {"log": b""}).judge(b"alpha")


async def test_nothing_that_a_run_writes_anywhere_holds_a_key_or_a_password(fortress: Fortress) -> None:
    folder, http = fortress.folder, fortress.http
    token, line = await new_token(folder, "alice", "operator")
    (folder / "tokens").write_text(line + "\n")
    (folder / "tracing-headers").write_text("Authorization: Bearer c0llector-s3cret\n")
    config = fortress.config("gateway")
    settings = yaml.safe_load(config.read_text())
    settings["hub"]["headers"] = {"X-Passport": "passp0rt-s3cret"}
    settings["control"] = {"tokens_file": str(folder / "tokens"), "host": "127.0.0.1"}
    with receiver() as collector:
        settings["tracing"] = {
            "endpoint": collector.url,
            "sample_ratio": 1,
            "headers_file": str(folder / "tracing-headers"),
        }
        config.write_text(yaml.safe_dump(settings))
        gateway = await fortress.start("run", config)
        control = await control_of(gateway, http, token)
        await control.ready()
        await control.live(["alpha"])
        answers = await misadventures(fortress, control)
        async with http.get(f"{control.monitoring}/metrics") as answer:
            metrics = await answer.read()
        assert await fortress.is_exact()
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended(10) == 0
        assert collector.headers[0]["Authorization"] == "Bearer c0llector-s3cret"
        traces = repr(collector.spans).encode()
    fortress.server.kill()
    written = Written(
        secrets=(*PASSWORDS.values(), KEY, "an0ther-key", token, "c0llector-s3cret", "passp0rt-s3cret", "PRIVATE KEY"),
        places={
            "logs": gateway.stderr.encode(),
            "topics": b"".join(file.read_bytes() for file in (folder / "nats").rglob("*.blk")),
            "traces": traces,
            "metrics": metrics,
            "answers": json.dumps(answers).encode(),
        },
    )
    assert written.judge(b"alpha") == []


async def misadventures(fortress: Fortress, control: Control) -> list[object]:
    """Let everything happen that may make somebody write a secret down; return what the API answered meanwhile."""
    http, user = fortress.http, f"{fortress.hub}/simulator/users/alpha"
    answers: list[object] = []

    async def ask(request: str, **more: Any) -> Answer:  # noqa: ANN401 - JSON
        answer = await control.ask(request, **more)
        answers.append([dict(answer.headers), answer.body])
        return answer

    await fortress.emit(20)
    async with http.post(f"{user}/inject", json={"text": f'{{"key": "{"x" * 40}", oops'}) as answer:
        assert answer.status == 200  # a dead letter
    async with http.post(f"{fortress.hub}/simulator/drop", json={}) as answer:
        assert answer.status == 200
    replay = await asked(control, "alpha", until=20)
    await ended(control, replay)
    for request in ("GET /v1/accounts", "GET /v1/accounts/alpha", "GET /v1/replays", f"GET /v1/replays/{replay}"):
        assert (await ask(request)).status == 200
    assert (await ask("GET /v1/accounts", token="wr0ng")).status == 401
    assert (await ask(f"GET /v1/accounts?access_token={KEY}")).status == 422
    assert (await ask("PUT /v1/accounts/alpha/subscription", json={"key": KEY})).status in {422, 428}
    async with http.put(user, json={"key": "an0ther-key"}) as answer:
        assert answer.status == 200
    assert (await ask("POST /v1/accounts/alpha/reconnect")).status == 200
    await control.running.wait_for_log("hub rejected the account's key")
    (fortress.folder / "accounts" / "alpha").write_text("an0ther-key\n")
    await control.live(["alpha"])
    return answers
