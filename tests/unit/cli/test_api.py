"""What a command does with answers of something that is no gateway, or means harm: one line of words, and an end."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import aiohttp
import aiohttp.web
import pytest

from gateway.cli import api_client as api
from gateway.cli.api_client import Api, api_at
from gateway.cli.target import Target
from gateway.errors import GatewayError

TIMEOUT_S = 20.0
"""Seconds that only a hang exceeds."""
PLAIN = {"Content-Type": "application/json"}


class Stranger:
    """Answers each request with the next of `answers`, for ever; where it has none, with a body without an end."""

    def __init__(self, *answers: bytes, status: int = 200, encoding: str = "") -> None:
        self.asked: list[str] = []
        self.sent = 0
        self.accepts: set[str | None] = set()
        self._answers = answers
        self._status = status
        self._encoding = encoding

    async def answer(self, request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        self.accepts.add(request.headers.get("Accept-Encoding"))
        self.asked.append(request.path_qs)
        headers = PLAIN | ({"Content-Encoding": self._encoding} if self._encoding else {})
        response = aiohttp.web.StreamResponse(status=self._status, headers=headers)
        await response.prepare(request)
        if self._answers:
            await response.write(self._answers[(len(self.asked) - 1) % len(self._answers)])
            return response
        for _ in count():
            await response.write(b" " * 65536)
            self.sent += 65536
        return response


@asynccontextmanager
async def asking(stranger: Stranger) -> AsyncIterator[Api]:
    runner = aiohttp.web.ServerRunner(aiohttp.web.Server(stranger.answer), shutdown_timeout=0)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        host, port = runner.addresses[0]
        async with asyncio.timeout(TIMEOUT_S), api_at(Target(f"http://{host}:{port}")) as asked:
            yield asked
    finally:
        await runner.cleanup()


def part(next_: object, *items: object) -> bytes:
    return json.dumps({"items": items, "next": next_}).encode()


async def test_a_list_is_read_to_its_end() -> None:
    stranger = Stranger(part("second", {"account": "a"}), part(None, {"account": "b"}))
    async with asking(stranger) as asked:
        assert await asked.items("/v1/accounts", [("prefix", "")]) == [{"account": "a"}, {"account": "b"}]
    assert [one.rpartition("&cursor=")[2] for one in stranger.asked[1:]] == ["second"]
    assert stranger.accepts == {"identity"}


NO_LISTS = {
    "an empty part with a next one": part("again"),
    "a next one that is an object": part({"a": 1}, {}),
    "a next one that is a number": part(5, {}),
    "a next one that is no number": b'{"items":[{}],"next":NaN}',
    "a next one that is empty": part("", {}),
    "no next one": b'{"items":[]}',
    "items of other types": part(None, 1, None, []),
    "items that are none": b'{"items":{},"next":null}',
    "no object": b"[]",
    "no UTF-8": b'{"items":[],"next":"\xff"}',
    "a pit": b"[" * 200_000,
    "a number that is too long": b'{"items":[],"next":' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("name", NO_LISTS)
async def test_what_is_no_list_ends_in_one_line(name: str) -> None:
    stranger = Stranger(NO_LISTS[name])
    async with asking(stranger) as asked:
        with pytest.raises(GatewayError) as error:
            await asked.items("/v1/accounts", ())
    assert len(stranger.asked) == 1
    assert len(str(error.value)) < 1000


async def test_an_answer_without_an_end_is_not_read_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_LARGEST", 1_000_000)
    stranger = Stranger()
    async with asking(stranger) as asked:
        with pytest.raises(GatewayError, match="more than 1000000 bytes"):
            await asked.ask("GET", "/v1/accounts/main")
    assert stranger.sent < 20_000_000


async def test_a_list_without_an_end_is_not_read_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_MOST", 100_000)
    stranger = Stranger(part("more", *[{"account": "a" * 1000}] * 10))
    async with asking(stranger) as asked:
        with pytest.raises(GatewayError, match="more than 100000 bytes"):
            await asked.items("/v1/accounts", ())
    assert len(stranger.asked) == 10


async def test_nothing_that_is_compressed_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_LARGEST", 1_000_000)
    stranger = Stranger(gzip.compress(b" " * 100_000_000 + b"{}"), encoding="gzip")
    async with asking(stranger) as asked:
        with pytest.raises(GatewayError, match="does not answer as a gateway's control plane"):
            await asked.ask("GET", "/v1/accounts/main")


async def test_few_words_of_a_long_refusal_are_shown() -> None:
    stranger = Stranger(json.dumps({"detail": "x" * 500_000}).encode(), status=500)
    async with asking(stranger) as asked:
        with pytest.raises(GatewayError) as error:
            await asked.ask("GET", "/v1/accounts/main")
    assert len(str(error.value)) < 1000


async def test_what_is_not_there_is_said_without_the_library_s_words() -> None:
    async with asking(Stranger(b"{}")) as asked:
        pass
    async with api_at(Target(asked.url)) as gone:
        with pytest.raises(GatewayError) as error:
            await gone.ask("GET", "/v1/accounts")
    port = asked.url.rsplit(":", 1)[1]
    assert str(error.value).endswith(f"control plane: cannot connect to 127.0.0.1:{port}: Connection refused")


@pytest.mark.parametrize(
    ("body", "status"), [(b"404: Not Found", 404), (b"", 200), (b"<html>", 200), (b"[" * 10**6, 200)]
)
async def test_an_answer_that_is_no_json_says_where_the_control_plane_is(body: bytes, status: int) -> None:
    async with asking(Stranger(body, status=status)) as asked:
        with pytest.raises(
            GatewayError, match=f"it answers {status}, and no JSON. The control plane is where control.port"
        ):
            await asked.ask("GET", "/v1/accounts")


async def test_an_answer_that_is_no_http_is_not_quoted() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"N"}\r\n')
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server, api_at(Target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")) as asked:
        with pytest.raises(GatewayError, match=r"what listens there does not speak HTTP$"):
            await asked.ask("GET", "/v1/accounts")


async def test_a_refusal_that_asks_ends_with_one_sign() -> None:
    refusal = {"type": "urn:x", "detail": "There is no account 'mian'. Did you mean main?"}
    async with asking(Stranger(json.dumps(refusal).encode(), status=404)) as asked:
        with pytest.raises(GatewayError, match=r"Did you mean main\? Ask for something that there is\."):
            await asked.ask("GET", "/v1/accounts/mian")
