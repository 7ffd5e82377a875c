"""The files of the hub's client are read again when they change, and hold for the next connection."""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import ConfigurationError, ConnectFailed
from gateway.hub.client import check_files, hub_http, transport_of
from gateway.hub.methods import PATH
from gateway.settings.sections import HubSettings
from gateway.signalr.connect import connect
from tests.support.certificates import Authority

KEY = "the-key-of-an-account"
Start = Callable[..., Awaitable[Any]]
Connects = Callable[[], Awaitable[None]]


@pytest.fixture(autouse=True)
def _looks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.reloaded._LOOK_INTERVAL_S", 0)


@asynccontextmanager
async def client(hub: Any, **settings: Any) -> AsyncIterator[Connects]:  # noqa: ANN401 - the fixtures'
    """Yield what connects to the hub once, as the accounts of a process do."""
    made = HubSettings(url=hub.url.removesuffix(PATH), **settings)
    async with hub_http(made) as http:
        transport = transport_of(made, http)

        async def connects() -> None:
            await (await connect(transport, hub.url, KEY)).close()

        yield connects


async def test_another_authority_is_believed_from_the_next_connection_on(
    start: Start, server_tls: ssl.SSLContext, authority: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway")
    hub = await start(tls=server_tls)
    other = Authority(tmp_path / "other").file
    ca_file = Path(shutil.copy(other, tmp_path / "ca.pem"))
    async with client(hub, ca_file=ca_file) as connects:
        with pytest.raises(ConnectFailed, match="CERTIFICATE_VERIFY_FAILED"):
            await connects()
        shutil.copy(authority / "ca.pem", ca_file)
        await connects()
        caplog.clear()
        for spoil in (lambda: ca_file.write_text("no certificate"), ca_file.unlink):
            spoil()
            await connects()
            await connects()
        errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert [re.match(r"hub: new files are invalid.*: hub\.ca_file: ", one) is not None for one in errors] == [
            True,
            True,
        ]
    assert hub.requests


async def test_an_authority_that_is_taken_away_is_believed_no_more(
    start: Start, server_tls: ssl.SSLContext, authority: Path, tmp_path: Path
) -> None:
    hub = await start(tls=server_tls)
    ca_file = Path(shutil.copy(authority / "ca.pem", tmp_path / "ca.pem"))
    made = HubSettings(url=hub.url.removesuffix(PATH), ca_file=ca_file, skip_negotiation=True)
    async with hub_http(made) as http:  # without negotiation no connection is kept for the next
        transport = transport_of(made, http)
        await (await connect(transport, hub.url, KEY)).close()
        shutil.copy(Authority(tmp_path / "other").file, ca_file)
        with pytest.raises(ConnectFailed, match="CERTIFICATE_VERIFY_FAILED"):
            await connect(transport, hub.url, KEY)


async def test_headers_of_a_file_are_sent_and_renewed(start: Start, tmp_path: Path) -> None:
    hub = await start()
    file = tmp_path / "headers"
    file.write_text("# for the balancer\n\nX-Key: one\nX-More:  more \n")
    async with client(hub, headers_file=file, headers={"X-Fixed": "fixed"}) as connects:
        await connects()
        file.write_text("X-Key: two\n")
        await connects()
        file.write_text("no header\n")
        await connects()
    found = [[request.headers.get(name) for name in ("X-Fixed", "X-Key", "X-More")] for request in hub.requests]
    assert found == [["fixed", "one", "more"]] * 2 + [["fixed", "two", None]] * 4


async def test_a_proxy_of_a_file_is_used_and_renewed(start: Start, tmp_path: Path) -> None:
    hub = await start()
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        file = tmp_path / "proxy"
        file.write_text(f"http://user:one@127.0.0.1:{port}\n")
        async with client(hub, proxy_file=file) as connects:
            for password in ("one", "two"):
                file.write_text(f"http://user:{password}@127.0.0.1:{port}\n")
                with pytest.raises(ConnectFailed, match=r"hub\.proxy answered 403"):
                    await connects()
    assert [re.search(rb"Basic (\S+)", head)[1] for head in asked] == [b"dXNlcjpvbmU=", b"dXNlcjp0d28="]  # type: ignore[index]


@pytest.mark.parametrize(
    ("setting", "content", "message"),
    [
        ("headers_file", b"X-Key s3cret", "line 1 of {} is no header"),
        ("headers_file", b"X-Key: one\nx-key: s3cret", "line 2 of {} says a header again"),
        ("headers_file", b"X-Fixed: s3cret", "line 1 of {} says a header again"),
        ("headers_file", b"X-Key: s3cret\x01", "line 1 of {} is no header"),
        ("headers_file", b"X-Key: \xff", "{} is not UTF-8"),
        ("headers_file", None, "{} cannot be read (No such file or directory)"),
        ("proxy_file", b"htps://user:s3cret@proxy", "what {} holds is no http or https URL"),
        ("proxy_file", b"http://proxy/s3cret", "what {} holds must not have a path"),
        ("proxy_file", b"", "what {} holds is no http or https URL"),
        ("ca_file", b"s3cret", "{} holds no certificate"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_without_a_word_of_it(
    setting: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    settings = HubSettings.model_validate({"url": "https://hub", "headers": {"X-Fixed": "x"}, setting: file})
    with pytest.raises(ConfigurationError) as refused:
        check_files(settings)
    assert refused.value.setting == f"hub.{setting}"
    assert refused.value.problem.startswith(message.format(file))
    assert "s3cret" not in str(refused.value)


def test_a_proxy_is_named_once(tmp_path: Path) -> None:
    settings = HubSettings.model_validate({"url": "https://hub", "proxy": "http://a", "proxy_file": tmp_path})
    with pytest.raises(ConfigurationError, match=r"hub\.proxy_file: is set, and so is hub\.proxy"):
        check_files(settings)
