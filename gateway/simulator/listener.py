"""The simulated hub's listening socket, which may be shut for a while: then TCP refuses new connections."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import Final

from aiohttp import web

_BACKLOG: Final = 4096


class Listener:
    """Listens, or holds the port without listening; connections that stand are not touched."""

    def __init__(self, runner: web.AppRunner, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        """`port` 0 takes any free one, and keeps it."""
        self._runner = runner
        self._tls = tls
        first = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._family = first[0]
        self._at = str(first[4][0]), int(first[4][1])
        self._socket: socket.socket | None = None
        self._site: web.SockSite | None = None
        self._opens_at: float | None = None
        self._changed = asyncio.Event()
        self._held_before = False

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self._at

    async def open(self) -> None:
        """Listen from now on."""
        self._opens_at = None
        if self._site is None:
            if self._socket is None:
                await self._hold()
            assert self._socket is not None  # noqa: S101 - held
            self._site = web.SockSite(self._runner, self._socket, ssl_context=self._tls, backlog=_BACKLOG)
            self._socket = None  # the site's from now on
            await self._site.start()

    async def shut(self, seconds: float | None = None) -> None:
        """Refuse connections, for `seconds` or until `open`."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
            await self._hold()
        self._opens_at = None if seconds is None else asyncio.get_running_loop().time() + seconds
        self._changed.set()

    async def run(self) -> None:
        """Open again when it is time, without end."""
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            try:
                async with asyncio.timeout_at(self._opens_at):
                    await self._changed.wait()
            except TimeoutError:
                if self._opens_at is not None and self._opens_at <= loop.time():
                    await self.open()

    def end(self) -> None:
        """Release the port."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _hold(self) -> None:
        """Bind the port without listening, so that no other process takes it."""
        self._socket = socket.socket(self._family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.setblocking(False)  # noqa: FBT003 - its name
        while True:
            try:
                self._socket.bind(self._at)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not self._held_before:
                    raise  # another process has it
                await asyncio.sleep(0)
        self._at = self._at[0], self._socket.getsockname()[1]
        self._held_before = True
