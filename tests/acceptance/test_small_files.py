"""What stands where a key, a token or a setting should never blocks a gateway, and `check` says it before `run`."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from gateway.control.auth.principals import Role
from gateway.control.auth.token_lines import line_of
from gateway.control.auth.tokens import new_token
from tests.support.gateway_process import GATEWAY, Process, process, until
from tests.support.nats_server import NatsServer

SECRET = "s3cret-key-of-main"
_SOON = 60.0
"""Seconds: far above what a refusal takes on a busy machine, far below what a FIFO without a writer does."""


@dataclass
class Place:
    """A hub, a broker, and one account."""

    folder: Path
    keys: Path
    env: dict[str, str]
    stack: AsyncExitStack
    runs: int = 0

    async def start(self, *arguments: str, **env: str) -> Process:
        """Start a command."""
        self.runs += 1
        named = {**self.env, **env}
        running = process(self.folder, GATEWAY, *arguments, name=f"{arguments[0]}-{self.runs}", env=named)
        return await self.stack.enter_async_context(running)

    async def run(self, *arguments: str, **env: str) -> tuple[int, str]:
        """Run a command to its end; give its exit code and all that it wrote."""
        command = await self.start(*arguments, **env)
        code = await command.ended(_SOON)
        output = command.stdout + command.stderr
        assert SECRET not in output
        assert "Traceback" not in output
        return code, output


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "main").write_text(SECRET + "\n")
    (keys / "main").chmod(0o600)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(NatsServer(tmp_path / "nats"))
        simulate = (GATEWAY, "simulate", "--user", f"main={SECRET}", "--rate", "0")
        hub = await stack.enter_async_context(process(tmp_path, *simulate, name="hub"))
        env = {
            "GATEWAY_HUB__URL": (await hub.wait_for_output(r"hub: (\S+)\n"))[1],
            "GATEWAY_ACCOUNTS__DIRECTORY": str(keys),
            "GATEWAY_BROKER__SERVERS": server.url,
            "GATEWAY_LOG__FORMAT": "json",
        }
        yield Place(tmp_path, keys, env, stack)


FILES = {
    "GATEWAY_CONTROL__TOKENS_FILE": "control.tokens_file",
    "GATEWAY_HUB__CA_FILE": "hub.ca_file",
    "GATEWAY_BROKER__TLS__CA_FILE": "broker.tls.ca_file",
    "GATEWAY_BROKER__TLS__CERT_FILE": "broker.tls.cert_file",
    "GATEWAY_BROKER__CREDENTIALS_FILE": "broker.credentials_file",
    "GATEWAY_TRACING__HEADERS_FILE": "tracing.headers_file",
    "GATEWAY_TRACING__CA_FILE": "tracing.ca_file",
}


@pytest.mark.parametrize("what", ["fifo", "zero"])
async def test_a_file_that_is_none_is_told_at_once_by_check_and_run(what: str, place: Place) -> None:
    file = place.folder / "odd"
    if what == "fifo":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    message = {"fifo": "cannot be read (it is a FIFO)", "zero": "cannot be read (it is a device)"}[what]
    tracing = {"GATEWAY_TRACING__ENDPOINT": "http://127.0.0.1:9"}
    for variable, setting in list(FILES.items())[what == "zero" :: 2]:
        code, output = await place.run("check", **tracing, **{variable: str(file)})
        assert code in {1, 2}
        assert f"{setting}: {file} {message}" in output, output
    code, output = await place.run("run", **tracing, GATEWAY_CONTROL__TOKENS_FILE=str(file))
    assert (code, f"control.tokens_file: {file} {message}" in output) == (2, True)
    for command in ("run", "tail"):
        code, output = await place.run(command, "--config", str(file))
        assert (code, output) == (2, f"gateway: --config: {file} {message}. Name a readable YAML file.\n")
    code, output = await place.run("accounts", "--token-file", str(file))
    assert (code, f"--token-file: {file} {message}" in output) == (2, True)


async def test_a_gateway_goes_on_while_a_key_and_the_tokens_are_fifos(place: Place) -> None:
    tokens = place.folder / "tokens"
    token = new_token()
    tokens.write_text(line_of("op", Role.OPERATOR, token) + "\n")
    tokens.chmod(0o600)
    gateway = await place.start("run", GATEWAY_CONTROL__TOKENS_FILE=str(tokens))
    await gateway.wait_for_log('"state": "live"')
    await gateway.wait_for_log("control plane is listening")
    at = next(line["url"] for line in gateway.lines() if line["event"] == "control plane is listening")
    headers = {"Authorization": f"Bearer {token}"}

    async def answers() -> bool:
        try:
            async with http.get(f"{at}/v1/accounts", headers=headers) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
        await until(answers, "the control plane has begun")
        for path in (place.keys / "main", tokens):
            os.mkfifo(place.folder / "fifo")
            (place.folder / "fifo").replace(path)
        while "control.tokens_file is unreadable" not in gateway.stderr:
            assert await answers()  # with the tokens that it had: nothing stands still
    (place.keys / "other").write_text(SECRET)  # it looks at the folder, and serves what it finds
    await gateway.wait_for_log('"account": "other"')
    gateway.signal(signal.SIGTERM)
    assert await gateway.ended(_SOON) == 0
    assert '"account": "main"' in gateway.stderr


async def test_check_reads_the_tokens_as_run_does(place: Place) -> None:
    tokens = place.folder / "tokens"
    tokens.write_text(f"op operator sha256:{'0' * 64}\nviewer s3cret-key-of-main\n")
    tokens.chmod(0o600)
    code, output = await place.run("check", GATEWAY_CONTROL__TOKENS_FILE=str(tokens))
    assert code == 1
    assert f"FAIL  control.tokens_file: control.tokens_file: {tokens}, line 2: it has 2 words" in output
    tokens.write_text(f"op operator sha256:{'0' * 64}\n")
    code, output = await place.run("check", GATEWAY_CONTROL__TOKENS_FILE=str(tokens))
    assert (code, "ok    control.tokens_file: 1 token\n" in output) == (0, True)


async def test_files_that_others_may_use_are_a_warning(place: Place) -> None:
    tokens = place.folder / "tokens"
    tokens.write_text(f"op operator sha256:{'0' * 64}\n")
    tokens.chmod(0o664)
    (place.keys / "main").chmod(0o604)
    env = {"GATEWAY_CONTROL__TOKENS_FILE": str(tokens)}
    code, output = await place.run("check", **env)
    assert code == 0
    assert "warn  accounts.directory/main: can be read by others (mode 0604)" in output
    assert f"warn  control.tokens_file: {tokens} can be read and written by others (mode 0664)" in output
    gateway = await place.start("run", **env)
    await gateway.wait_for_log(r'"setting": "control.tokens_file"')
    named = {line["setting"]: line["level"] for line in gateway.lines() if "secret file" in line["event"]}
    assert named == {"accounts.directory/main": "warning", "control.tokens_file": "warning"}

    tokens.chmod(0o440)  # as Kubernetes makes the files of a Secret, with an fsGroup
    (place.keys / "main").chmod(0o440)
    code, output = await place.run("check", **env)
    assert (code, "warn" in output) == (0, False)


async def test_a_bomb_and_a_pit_in_the_settings_are_a_line(place: Place) -> None:
    file = place.folder / "gateway.yaml"
    levels = zip("abcdefgh", "bcdefghi", strict=True)
    bomb = "a: &a [x]\n" + "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in levels)
    for text in (bomb, "hub: " + "[" * 5000, "hub: {url: x}\nhub: {url: y}\n"):
        file.write_text(text)
        for command in ("check", "tail"):
            code, output = await place.run(command, "--config", str(file))
            assert (code, output.count("\n")) == (2, 1)
            assert len(output) < 500


async def test_the_reader_of_a_fifo_never_waits_though_there_is_a_writer(place: Place) -> None:
    file = place.folder / "fifo"
    os.mkfifo(file)
    writer = os.open(file, os.O_RDWR | os.O_NONBLOCK)
    try:
        code, output = await asyncio.wait_for(place.run("check", "--config", str(file)), _SOON)
    finally:
        os.close(writer)
    assert (code, "it is a FIFO" in output) == (2, True)
