"""X-Forwarded-For names the caller only as far as trusted proxies have written it."""

from __future__ import annotations

import pytest
from starlette.types import Message, Receive, Scope, Send

from gateway.control.listener.proxies import TrustedProxies

TRUSTED = ("10.0.0.0/8", "192.0.2.7", "fd00::/8")


async def seen(peer: str, *headers: str, trusted: tuple[str, ...] = TRUSTED) -> str:
    """Return the address that the application sees."""
    found: list[str] = []

    async def app(scope: Scope, _: Receive, __: Send) -> None:
        found.append(scope["client"][0])

    async def receive() -> Message:
        raise AssertionError

    async def send(_: Message) -> None:
        raise AssertionError

    named = [(b"x-forwarded-for", value.encode()) for value in headers]
    scope: Scope = {"type": "http", "client": (peer, 1), "headers": named}
    await TrustedProxies(app, trusted)(scope, receive, send)
    return found[0]


@pytest.mark.parametrize(
    ("peer", "headers", "caller"),
    [
        ("10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
        ("192.0.2.7", ["203.0.113.5"], "203.0.113.5"),
        ("192.0.2.8", ["203.0.113.5"], "192.0.2.8"),  # nobody knows it
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.5"], "203.0.113.5"),  # the first is the caller's own claim
        ("10.0.0.1", ["127.0.0.1,203.0.113.5 , 10.9.9.9"], "203.0.113.5"),  # through two proxies
        ("10.0.0.1", ["198.51.100.1", "203.0.113.5"], "203.0.113.5"),  # two headers are one list
        ("10.0.0.1", ["203.0.113.5", "10.9.9.9"], "203.0.113.5"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),  # all of it is ours
        ("10.0.0.1", ["203.0.113.5, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.5, x\ny, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["203.0.113.5:4711"], "203.0.113.5"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        ("fd00::1", ["203.0.113.5"], "203.0.113.5"),
        ("fe80::1%eth0", ["203.0.113.5"], "fe80::1%eth0"),
        ("10.0.0.1", ["fe80::1%\x1b[2J any words at all"], "fe80::1"),  # a zone is of one machine, and any text
        ("10.0.0.1", ["::ffff:203.0.113.5%x"], "203.0.113.5"),
        ("::ffff:10.0.0.1", ["::ffff:203.0.113.5"], "203.0.113.5"),
        ("::ffff:192.0.2.8", ["203.0.113.5"], "::ffff:192.0.2.8"),
    ],
)
async def test_the_caller_is_the_last_hop_that_is_not_trusted(peer: str, headers: list[str], caller: str) -> None:
    assert await seen(peer, *headers) == caller


async def test_without_trusted_proxies_the_header_says_nothing() -> None:
    assert await seen("127.0.0.1", "203.0.113.5", trusted=()) == "127.0.0.1"
