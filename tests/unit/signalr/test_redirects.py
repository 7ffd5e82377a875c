"""Where negotiation may send us and where not; and cookies, which hold for one connect of one account."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from gateway.errors import ConnectFailed
from gateway.signalr.connect import connect
from gateway.simulator import PATH, Faults, SimulatorConfig, simulator
from tests.unit.signalr.answers import answering

KEY = "the-key-of-an-account"
WEBSOCKETS = [{"transport": "WebSockets", "transferFormats": ["Text", "Binary"]}]
Start = Callable[..., Awaitable[Any]]
Transports = Callable[..., Any]
Failing = Callable[..., Awaitable[ConnectFailed]]


# Redirects --------------------------------------------------------------------------------------------------


async def test_redirects_are_followed_with_their_access_token(transports: Transports) -> None:
    async with simulator(SimulatorConfig(users={"demo": KEY}, faults=Faults(redirects=5))) as hub:
        connection = await connect(transports(), hub.url + PATH, KEY)
        await connection.close()


async def test_a_redirect_loop_ends(failure: Failing) -> None:
    async with simulator(SimulatorConfig(users={"demo": KEY}, faults=Faults(redirects=100))) as hub:
        error = await failure(hub.url + PATH)
        assert str(error) == "negotiate: redirected more than 5 times"
        assert len(hub.server.log) == 6


async def test_a_redirect_keeps_its_query_and_may_be_relative(start: Start, open_to: Start) -> None:
    async def negotiate(request: web.Request) -> web.Response:
        if request.path.startswith("/client"):
            return web.json_response({"connectionToken": "t", "availableTransports": WEBSOCKETS})
        return web.json_response({"url": "/client/?hub=event&op=%2Fa%2Bb&negotiateVersion=1#x", "accessToken": "other"})

    hub = await start(negotiate=negotiate)
    await open_to(hub)
    _, negotiated, upgrade = hub.requests
    assert negotiated.path == "/client/negotiate"
    assert negotiated.query.getall("negotiateVersion") == ["1"]
    assert dict(upgrade.query) == {"hub": "event", "op": "/a+b", "negotiateVersion": "1", "id": "t"}
    assert upgrade.path == "/client/"
    assert upgrade.headers["Authorization"] == "Bearer other"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://hub/x?access_token=SECRETSECRETSECRET",
        "javascript:alert(1)",
        "http://",
        "http:///nowhere?t=SECRETSECRETSECRET",
        "http://user:SECRETSECRETSECRET@hub/",
        "http://hub:99999/?t=SECRETSECRETSECRET",
        "http://[::1/?t=SECRETSECRETSECRET",
        "http://hub .example/?t=SECRETSECRETSECRET",
        "ws://hub/",
        "http://127.0.0.1:1/?access_token=SECRETSECRETSECRET",
    ],
)
async def test_an_odd_redirect_is_a_failure_without_its_secrets(url: str, start: Start, failure: Failing) -> None:
    hub = await start(negotiate=answering(json.dumps({"url": url, "accessToken": "SECRET-access-token"})))
    error = await failure(hub.url)
    assert str(error).startswith("negotiate: ")


@pytest.mark.parametrize("token", ["SECRET\r\nX-Injected: 1", "SECRET\x00", "SECRET\ud7ff\U0001f98b\n"])
async def test_an_access_token_that_no_header_can_hold_is_a_failure(token: str, start: Start, failure: Failing) -> None:
    hub = await start(negotiate=answering(json.dumps({"url": "/again", "accessToken": token})))
    await failure(hub.url)
    assert len(hub.requests) == 1


async def test_negotiation_leads_to_named_hosts_alone(start: Start, transports: Transports, failure: Failing) -> None:
    second = await start()
    elsewhere = second.url.replace("127.0.0.1", "LocalHost")
    first = await start(negotiate=answering(json.dumps({"url": elsewhere, "accessToken": "SECRET"})))

    error = await failure(first.url, redirect_hosts=("*.service.signalr.net",))
    message = "redirected to localhost, which is not the hub's host and not in hub.redirect_hosts"
    assert (error.reason, str(error)) == ("negotiate", f"negotiate: {message}")
    assert second.requests == []

    connection = await connect(transports(redirect_hosts=("localhost",)), first.url, KEY)
    await connection.close()
    assert len(second.requests) == 2


@pytest.mark.parametrize(
    ("host", "may"),
    [
        ("mesolive.service.signalr.net", True),
        ("Mesolive.Service.SignalR.net", True),
        ("a.b.service.signalr.net", True),
        ("service.signalr.net", False),
        ("evilservice.signalr.net", False),
        ("mesolive.service.signalr.net.example.com", False),
        ("hub-2.example.com", True),
        ("x.hub-2.example.com", False),
        ("", False),
    ],
)
def test_a_star_is_all_names_below(host: str, may: bool, transports: Transports) -> None:
    hosts = ("*.service.signalr.net", "hub-2.example.com")
    assert transports(redirect_hosts=hosts).may_go_to(host) is may


# Affinity ---------------------------------------------------------------------------------------------------


async def test_affinity_cookies_hold_from_negotiate_to_upgrade_and_no_further(start: Start, open_to: Start) -> None:
    count = 0

    async def negotiate(_: web.Request) -> web.Response:
        nonlocal count
        count += 1
        response = web.json_response({"connectionToken": "t"})
        response.headers.add("Set-Cookie", f"affinity=server-{count}|x==; Path=/; HttpOnly; SameSite=None")
        response.headers.add("Set-Cookie", "other=2; Path=/")
        return response

    hub = await start(negotiate=negotiate)
    await asyncio.gather(open_to(hub), open_to(hub))
    await open_to(hub)
    posts = [request for request in hub.requests if request.method == "POST"]
    gets = [request for request in hub.requests if request.method == "GET"]
    assert all("Cookie" not in request.headers for request in posts)
    assert sorted(request.headers["Cookie"] for request in gets) == [
        f"affinity=server-{number}|x==; other=2" for number in (1, 2, 3)
    ]


async def test_cookies_do_not_follow_a_redirect_to_another_host(start: Start, open_to: Start) -> None:
    second = await start()
    answer = json.dumps({"url": second.url, "accessToken": "other"})
    first = await start(negotiate=answering(answer, Set_Cookie="affinity=first; Path=/"))
    await open_to(first)
    assert [request.headers.get("Cookie") for request in second.requests] == [None, None]


# Whose headers go where -------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "of-the-other-place"])
async def test_the_key_and_further_headers_go_to_the_configured_origin_alone(
    token: str | None, start: Start, transports: Transports
) -> None:
    second = await start()
    first = await start(negotiate=answering(json.dumps({"url": second.url, "accessToken": token})))

    connection = await connect(transports(headers={"X-Api-Secret": "SECRET"}), first.url, KEY)
    await connection.close()

    (asked,) = first.requests
    assert (asked.headers["X-Api-Secret"], asked.headers["Authorization"]) == ("SECRET", f"Bearer {KEY}")
    assert len(second.requests) == 2
    for request in second.requests:
        assert "X-Api-Secret" not in request.headers
        assert request.headers.get("Authorization") == (None if token is None else f"Bearer {token}")
        assert KEY not in str(request.headers)


async def test_another_path_of_the_configured_origin_is_sent_them(start: Start, transports: Transports) -> None:
    async def negotiate(request: web.Request) -> web.Response:
        if request.path.startswith("/other"):
            return web.json_response({"connectionToken": "t", "availableTransports": WEBSOCKETS})
        return web.json_response({"url": "/other"})

    hub = await start(negotiate=negotiate)
    connection = await connect(transports(headers={"X-Api-Secret": "SECRET"}), hub.url, KEY)
    await connection.close()

    assert [request.headers["X-Api-Secret"] for request in hub.requests] == ["SECRET"] * 3
    assert {request.headers["Authorization"] for request in hub.requests} == {f"Bearer {KEY}"}


async def test_empty_members_of_an_answer_are_none_and_so_is_a_byte_order_mark(start: Start, open_to: Start) -> None:
    """Servers written in Go write them, and Microsoft's clients take them so."""
    text = json.dumps({"error": "", "url": "", "connectionToken": "t", "availableTransports": WEBSOCKETS})
    hub = await start(negotiate=answering(b"\xef\xbb\xbf" + text.encode()))

    await open_to(hub)

    assert len(hub.requests) == 2


async def test_a_token_of_the_answer_is_the_upgrades_bearer_without_a_url_too(start: Start, open_to: Start) -> None:
    hub = await start(negotiate=answering(json.dumps({"connectionToken": "t", "accessToken": "a-token-of-its-own"})))
    await open_to(hub)
    assert [request.headers["Authorization"] for request in hub.requests] == [
        f"Bearer {KEY}",
        "Bearer a-token-of-its-own",
    ]
