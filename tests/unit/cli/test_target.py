"""A token goes over TLS, or nowhere but to this machine."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from gateway.cli.main import main
from gateway.cli.target import Target
from gateway.errors import ConfigurationError

TOKEN = "gateway_s3cret-token"
COMMANDS = (
    ("accounts",),
    ("replay", "list"),
    ("replay", "start", "main"),
    ("replay", "watch", "x"),
    ("replay", "cancel", "x"),
)


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    return file


@pytest.mark.parametrize(
    "host",
    [
        "gateway.example.com",
        "10.0.0.1",
        "0.0.0.0",  # noqa: S104 - it is asked, not bound
        "[2001:db8::1]",
        "localhost.example.com",
        "127.0.0.1.example.com",
        "2130706433",
        "128.0.0.1",
        "[::ffff:10.0.0.1]",
    ],
)
def test_a_token_is_never_sent_in_clear_to_another_machine(host: str, token: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Target(f"http://{host}:8080", token).check()
    assert refused.value.setting == "--url"
    assert "https://" in refused.value.remedy
    Target(f"http://{host}:8080").check()
    Target(f"https://{host}:8080", token).check()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "[::1]", "localhost", "LOCALHOST", "[::ffff:127.0.0.1]"])
def test_it_may_go_to_this_machine(host: str, token: Path) -> None:
    Target(f"http://{host}:8080", token).check()


@pytest.mark.parametrize("url", ["http://127.0.0.1@gateway.example.com", "https://user:s3cret@127.0.0.1:8080"])
def test_a_url_with_a_user_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Target(url).check()
    assert "s3cret" not in str(refused.value)
    assert "user or a password" in refused.value.problem


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_refuses_it_before_it_connects(
    command: tuple[str, ...], token: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_names(*_: object, **__: object) -> None:
        raise AssertionError("it asks for an address")

    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    url = "http://gateway.example.com:8080"
    monkeypatch.setattr("sys.argv", ["gateway", *command, "--url", url, "--token-file", str(token)])
    with pytest.raises(SystemExit) as ended:
        main()
    output = capsys.readouterr().err
    assert ended.value.code == 2
    assert output.startswith(f"gateway: --url: {url} is plain http")
    assert TOKEN not in output


def test_a_token_in_the_place_of_its_file_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gateway", "accounts", "--token-file", TOKEN])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert TOKEN not in capsys.readouterr().err


def test_a_token_of_the_environment_is_one_like_that_of_a_file(monkeypatch: pytest.MonkeyPatch, token: Path) -> None:
    monkeypatch.setenv("GATEWAY_TOKEN", "from-the-environment")
    assert Target("http://127.0.0.1:8080").token() == "from-the-environment"
    assert Target("http://127.0.0.1:8080", token).token() == TOKEN
    with pytest.raises(ConfigurationError, match="is plain http"):
        Target("http://gateway.example.com:8080").check()
    monkeypatch.setenv("GATEWAY_TOKEN", "two words")
    with pytest.raises(ConfigurationError, match="GATEWAY_TOKEN"):
        Target("http://127.0.0.1:8080").check()
    monkeypatch.setenv("GATEWAY_TOKEN", "")
    assert Target("http://127.0.0.1:8080").token() is None


def test_the_environment_names_url_and_settings_for_all_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("GATEWAY_URL", "gateway.example.com")
    monkeypatch.setenv("GATEWAY_CONFIG", str(tmp_path / "missing.yaml"))
    for arguments, expected in ((["accounts"], "--url: gateway.example.com is no URL"), (["check"], "missing.yaml")):
        monkeypatch.setattr("sys.argv", ["gateway", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert expected in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--ca-file", "--cert-file", "--key-file"])
def test_files_for_tls_and_plain_http_do_not_go_together(option: str, token: Path) -> None:
    name = option.removeprefix("--").replace("-", "_")
    with pytest.raises(ConfigurationError, match=option):
        Target("http://127.0.0.1:8080", **{name: token}).check()


@asynccontextmanager
async def redirecting(status: int) -> AsyncIterator[tuple[str, list[web.BaseRequest]]]:
    """Answer all with a redirect to a place beside; return the URL, and what that place is asked."""
    asked: list[web.BaseRequest] = []

    async def other(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request)
        return web.json_response({"items": [], "next": None})

    runner = web.ServerRunner(web.Server(other))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    place = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/accounts"

    async def first(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": place})

    front = web.ServerRunner(web.Server(first))
    await front.setup()
    await web.TCPSite(front, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{front.addresses[0][1]}", asked
    finally:
        await front.cleanup()
        await runner.cleanup()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(
    status: int, token: Path, run_gateway: Callable[..., tuple[int, str]]
) -> None:
    async with redirecting(status) as (url, asked):
        code, output = await asyncio.to_thread(run_gateway, "accounts", "--url", url, "--token-file", token)
    assert code == 1
    assert output == f"gateway: {url} answers {status}, a redirect: name in --url where it leads\n"
    assert asked == []


@pytest.fixture
def run_gateway() -> Callable[..., tuple[int, str]]:
    """Run the command as a process; give its exit code, and what it complains of."""
    gateway = Path(sys.executable).with_name("gateway")

    def run(*arguments: str | Path) -> tuple[int, str]:
        done = subprocess.run([gateway, *arguments], capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stderr

    return run
