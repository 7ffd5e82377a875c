"""The process's connection to NATS: made once, and made again for as long as its context lasts.

nats-py could reconnect by itself. It does not here: its pending list is written to whatever connection comes
next, so a stale half of a commit could be sent late; closing waits for a frozen server's socket to drain; and
after a server error such as an expired login it gives up for good. So each connection is a new client.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client

from gateway.broker.jetstream import innards
from gateway.broker.jetstream.link import Denied, Link
from gateway.errors import ConfigurationError, Unavailable

log = logging.getLogger(__name__)

_SCHEMES: Final = frozenset({"nats", "tls", "ws", "wss"})
_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 2.0
"""Seconds before the connection is tried again: full jitter below a ceiling that doubles between the two."""
_LOGINS: Final = 5


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """Where NATS is and how to be let in."""

    servers: Sequence[str]
    """URLs: `nats://host:4222`, `tls://…`, `ws://…`, `wss://…`."""
    name: str = "gateway"
    """Shown in the server's list of connections."""
    user: str | None = None
    password: str | Callable[[], str] | None = field(default=None, repr=False)
    """A callable is asked at each connect, so that a changed secret is picked up."""
    credentials_file: Path | None = None
    """A `.creds` file with a JWT and an nkey; read at each connect."""
    tls: ssl.SSLContext | None = None
    """With it a server that offers no TLS is refused, before it sees the password."""
    timeout: float = 5.0
    """Seconds that any one call to the broker may take, connecting included."""
    ping_interval: float = 2.0
    """Seconds between two pings, and until a missing answer means that the connection is dead."""


class Connection:
    """The present link, if there is one."""

    def __init__(self, options: ConnectionOptions) -> None:
        self.options = options
        self._link: Link | None = None
        self._discovered: list[str] = []
        self._changed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def link(self) -> Link:
        """The live link; raises Unavailable while there is none."""
        if self._keeper is not None and self._keeper.done():
            self._keeper.result()  # it never ends: what ended it is a fault of ours, and must be seen
        if self._link is None or self._link.is_lost:
            raise Unavailable(f"not connected to NATS at {', '.join(self.options.servers)}")
        return self._link

    async def connected(self) -> Link:
        """Wait for a live link and give it."""
        while self._link is None or self._link.is_lost:
            self._changed.clear()
            await self._changed.wait()
        return self._link

    async def dial(self) -> None:
        """Try each known server once, in random order.

        Raises:
            ConfigurationError: a server refused the login, or the credentials cannot be read.
            Unavailable: no server could be reached.

        """
        servers = list(dict.fromkeys([*self.options.servers, *self._discovered]))
        random.shuffle(servers)
        failures: dict[str, Exception] = {}
        for server in servers:
            try:
                link = await _dial_until_told(self.options, server)
            except (ConfigurationError, Unavailable) as error:
                failures[server] = error
                continue
            self._discovered = [uri.geturl() for uri in link.client.discovered_servers]
            self._link = link
            self._changed.set()
            return
        for failure in failures.values():
            if isinstance(failure, ConfigurationError):
                raise failure
        raise Unavailable("cannot connect to NATS: " + "; ".join(f"{at}: {why}" for at, why in failures.items()))

    async def keep(self) -> None:
        """Connect again whenever the link is lost; never returns."""
        while True:
            if self._link is not None:
                await self._link.watch(self.options.ping_interval)
                await self._link.close()
                self._link = None
            ceiling = _FIRST_DELAY
            while self._link is None:
                await asyncio.sleep(random.uniform(0, ceiling))  # noqa: S311 - jitter
                ceiling = min(2 * ceiling, _LONGEST_DELAY)
                try:
                    await self.dial()
                except (ConfigurationError, Unavailable) as error:
                    log.warning("%s; trying again", error)
                else:
                    log.warning("connected to NATS again")

    def begin(self) -> None:
        """Keep the connection from now on."""
        self._keeper = asyncio.create_task(self.keep(), name="nats-connection")

    async def close(self) -> None:
        """Keep it no longer, and end the link, if there is one."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        if self._link is not None:
            await self._link.close()


@asynccontextmanager
async def connect(options: ConnectionOptions) -> AsyncIterator[Connection]:
    """Connect to NATS and stay connected until the context ends.

    Raises:
        ConfigurationError: a server's address is none, or the login is refused.
        Unavailable: no server can be reached now.

    """
    for server in options.servers or [""]:
        _check_address(server)
    connection = Connection(options)
    await connection.dial()
    connection.begin()
    try:
        yield connection
    finally:
        await connection.close()


async def _dial_until_told(options: ConnectionOptions, server: str) -> Link:
    """Dial again where the server hung up in the middle of the login.

    It does so after a wrong password, and its words about it are lost where our next ones cross them.
    """
    for _ in range(_LOGINS):
        try:
            return await _dial(options, server)
        except Unavailable as error:
            if not isinstance(error.__cause__, (ConnectionResetError, BrokenPipeError)):
                raise
            failure = error
    raise failure


async def _dial(options: ConnectionOptions, server: str) -> Link:
    if options.credentials_file is not None:
        _check_credentials(options.credentials_file)
    client = Client()
    link = Link(client, timeout=options.timeout)
    failures: list[Exception] = []

    async def on_error(error: Exception) -> None:
        failures.append(error)
        del failures[:-1]
        if "permissions violation" in str(error):
            log.error("NATS refuses: %s", error)
            link.violated(str(error))

    async def on_end() -> None:
        link.lose(f"the connection to NATS at {server} ended: {failures[-1] if failures else 'closed by the server'}")

    try:
        login = client.connect(
            servers=[server],
            name=options.name,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=math.ceil(options.timeout),
            ping_interval=3600,  # Link.watch pings
            pending_size=0,
            error_cb=on_error,
            disconnected_cb=on_end,
            closed_cb=on_end,
            **_login(options, client),
        )
        await innards.bounded(login, options.timeout)
        if not client.is_connected:  # nats-py takes the end of the stream for a greeting
            raise ConnectionResetError("the server hung up during the login")  # noqa: TRY301
        await link.begin()
    except BaseException as error:
        await link.close()
        if isinstance(error, Denied):
            raise _denied(str(error)) from error
        if isinstance(error, (nats.errors.Error, OSError, TimeoutError)):
            reason = failures[-1] if failures else error
            raise _explained(reason) from reason
        raise
    return link


def _login(options: ConnectionOptions, client: Client) -> dict[str, Any]:
    login: dict[str, Any] = {}
    if options.tls is not None:
        login["tls"] = options.tls

    def password() -> str:
        if options.tls is not None and not innards.encrypted(client):
            raise nats.errors.SecureConnWantedError
        return options.password() if callable(options.password) else options.password or ""

    if options.user is not None:
        login |= {"user": options.user, "password": password}
    if options.credentials_file is not None:
        login["user_credentials"] = options.credentials_file
    return login


def _explained(error: BaseException) -> ConfigurationError | Unavailable:
    if isinstance(error, nats.errors.SecureConnWantedError):
        return ConfigurationError(
            "broker.tls", "the server offers no TLS", "Take broker.tls away or configure the server."
        )
    if isinstance(error, nats.errors.AuthorizationError) or "authorization" in str(error).lower():
        return ConfigurationError(
            "broker", f"NATS refused the login: {error}", "Check the user, password or credentials."
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConfigurationError(
            "broker.tls.ca_file", str(error), "Name the authority that signed the server's certificate."
        )
    return Unavailable(str(error) or type(error).__name__)


def _check_credentials(file: Path) -> None:
    """Refuse what nats-py cannot read: it looks for the end of a file without a JWT for ever."""
    setting = "broker.credentials_file"
    if find_spec("nkeys") is None:
        raise ConfigurationError(setting, "the package nkeys is missing", "Install nats-py[nkeys].")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(setting, str(error), "Name a file that can be read.") from error
    if b"BEGIN NATS USER JWT" not in content or b"BEGIN USER NKEY SEED" not in content:
        raise ConfigurationError(
            setting, f"{file} has no user JWT and nkey seed", "Name a .creds file, as nsc makes it."
        )


def _denied(violation: str) -> ConfigurationError:
    return ConfigurationError("broker", violation, "Let the gateway's user subscribe to _INBOX.>.")


def _check_address(server: str) -> None:
    remedy = "Give nats://host:port, tls://, ws:// or wss://."
    try:
        address = urlsplit(server)
        port = address.port
    except ValueError as error:
        raise ConfigurationError("broker.servers", f"{server!r}: {error}", remedy) from error
    if address.scheme not in _SCHEMES or not address.hostname or port == 0:
        raise ConfigurationError("broker.servers", f"{server!r} is not the address of a NATS server", remedy)
