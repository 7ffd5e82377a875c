"""The process's connection to NATS: opened once, and reopened for as long as its context lasts.

The gateway reconnects by itself, since nats-py's own reconnect fails in three ways. Its pending list is written to
whatever connection comes next, so a stale half of a commit could be sent late. Closing waits for a frozen server's
socket to drain. After a server error such as an expired login it gives up for good. So each connection is a new client.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final, NoReturn
from urllib.parse import ParseResult, urlsplit

import nats.errors
from nats.aio.client import Client

from gateway.broker.credentials import BrokerLogin
from gateway.broker.jetstream import client_internals
from gateway.broker.jetstream.connect_errors import explain
from gateway.broker.jetstream.link import API, Link, PermissionDenied
from gateway.broker.peers import HEAD_START, PeerRace, resolve
from gateway.errors import ConfigurationError, Unavailable

log = logging.getLogger(__name__)

_SCHEMES: Final = frozenset({"nats", "tls", "ws", "wss"})
_ENCRYPTED: Final = frozenset({"tls", "wss"})
_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 2.0
"""Seconds before the servers are tried again: full jitter below a ceiling that doubles between the two."""
_SOON: Final = 2.0
"""Seconds for the first try at a server after a link was lost."""
_MOST_DOUBLINGS: Final = 16
"""Of the seconds for a try: a server that is silent for hours fails more often than a number can be doubled."""
_FAILURES: Final = 8
"""Errors of a login that are kept."""


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """Where NATS is and how to be let in."""

    servers: Sequence[str]
    """URLs: `nats://host:4222`, `tls://…`, `ws://…`, `wss://…`."""
    name: str = "gateway"
    """Shown in the server's list of connections."""
    access: BrokerLogin = field(default_factory=BrokerLogin)
    """How to be let in; its files are read at each connect."""
    inbox_prefix: str = "_INBOX"
    """What the subjects begin with on which answers come: the user must be allowed to subscribe below it."""
    api_prefix: str = API
    """What the subjects of JetStream's API begin with; in another account than the streams', how it imports them."""
    timeout: float = 5.0
    """Seconds that any one call to the broker may take, connecting included."""
    ping_interval: float = 2.0
    """Seconds between two pings, and until a missing answer means that the connection is dead."""
    discover: bool = True
    """Whether to connect also to the servers that a server announces: behind a NAT those cannot be reached."""


class Connection:
    """The present link, if there is one."""

    def __init__(self, options: ConnectionOptions) -> None:
        self.options = options
        self._link: Link | None = None
        self._discovered: dict[str, str | None] = {}
        self._slow: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def link(self) -> Link:
        """The live link; raises Unavailable while there is none."""
        if self._link is None or self._link.is_lost:
            raise Unavailable(f"not connected to NATS at {', '.join(self.options.servers)}")
        return self._link

    async def connected(self) -> Link:
        """Wait for a live link and return it."""
        while self._link is None or self._link.is_lost:
            self._changed.clear()
            await self._changed.wait()
        return self._link

    async def dial(self) -> None:
        """Try each known server once, the configured ones first, and the next one beside one that is silent.

        Raises:
            ConfigurationError: a server refused the login or its certificate is refused, or a file cannot be used.
            Unavailable: no server could be reached.

        """
        race = _race()
        try:
            if await self._tried_all(race, self.options.timeout):
                return
            while race.is_under_way:
                if self._took(race, await race.won()):
                    return
        finally:
            await race.end()
        for failure in race.failures.values():
            if isinstance(failure, ConfigurationError):
                raise failure
        raise Unavailable(_failure_message(race.failures))

    @asynccontextmanager
    async def visit(self, server: str) -> AsyncIterator[Link]:
        """Yield a link of its own to one of the configured servers; raises ConfigurationError, Unavailable."""
        link = await _dial(self.options, server, None, self.options.timeout)
        try:
            yield link
        finally:
            await link.close()

    async def _dial_again(self) -> None:
        """Try the known servers until one accepts: a silent server does not delay new tries at the others."""
        clock = asyncio.get_running_loop().time
        race, ceiling = _race(), _FIRST_DELAY
        try:
            while True:
                until = clock() + random.uniform(0, ceiling)  # noqa: S311 - jitter
                while (left := until - clock()) > 0:
                    if not race.is_under_way:
                        await asyncio.sleep(left)
                    elif self._took(race, await race.won(left)):
                        return
                self._note(race)
                ceiling = min(2 * ceiling, _LONGEST_DELAY)
                if await self._tried_all(race, _SOON):
                    return
        finally:
            await race.end()

    def _note(self, race: PeerRace[Link]) -> None:
        """Log what failed, and put it behind the others."""
        if race.failures:
            log.warning("%s; retrying", _failure_message(race.failures))
        for server, failure in race.failures.items():
            if isinstance(failure.__cause__, TimeoutError):
                self._slow[server] = self._slow.get(server, 0) + 1
        self._put_last(race.failures)
        race.failures.clear()

    def _put_last(self, servers: Iterable[str]) -> None:
        for server in servers:
            if server in self._discovered:
                self._discovered[server] = self._discovered.pop(server)

    async def _tried_all(self, race: PeerRace[Link], limit: float) -> bool:
        """Start a try at each server where none is under way; return whether one of all tries has succeeded.

        A try may take `limit` seconds, twice as many after each that was too short, and never more than any call.
        """
        configured = random.sample(list(self.options.servers), len(self.options.servers))
        certified = self._discovered | dict.fromkeys(configured)
        for server in dict.fromkeys([*configured, *self._discovered]):
            if server in race.silent:
                continue
            doublings = min(self._slow.get(server, 0), _MOST_DOUBLINGS)
            seconds = min(limit * 2**doublings, self.options.timeout)
            race.begin(server, _dial(self.options, server, certified[server], seconds))
            if self._took(race, await race.won(HEAD_START)):
                return True
        return False

    def _took(self, race: PeerRace[Link], won: tuple[str, Link] | None) -> bool:
        """Take the link that was won, if one was."""
        if won is None:
            return False
        server, self._link = won
        self._slow.clear()
        self._put_last([*race.failures, *race.silent])
        if self.options.discover:
            certified = None if server in self.options.servers else self._discovered.get(server)
            self._discover(self._link, certified or urlsplit(server).hostname)
        self._changed.set()
        return True

    def _discover(self, link: Link, name: str | None) -> None:
        """Add the servers that a link lists: new ones in random order, those that failed stay last."""
        listed = {uri.geturl(): _certified(uri, name) for uri in link.client.discovered_servers}
        new = [server for server in listed if server not in self._discovered]
        random.shuffle(new)
        known = [server for server in self._discovered if server in listed]
        self._discovered = {server: listed[server] for server in [*new, *known]}

    async def keep(self) -> NoReturn:
        """Connect again whenever the link is lost; an unexpected error is logged, and it goes on."""
        while True:
            try:
                await self._reconnect()
            except Exception:
                log.exception("unexpected error while connecting to NATS (a bug in the gateway), trying again")
                await asyncio.sleep(_LONGEST_DELAY)

    async def _reconnect(self) -> None:
        """Watch the link until it is lost, and connect again."""
        if self._link is not None:
            await self._link.watch(self.options.ping_interval)
            await self._link.close()
            self._link = None
        await self._dial_again()
        log.warning("reconnected to NATS")

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
        ConfigurationError: a server's address is none, a file cannot be used, or the login is refused.
        Unavailable: no server can be reached now.

    """
    client_internals.silence_library_logs()
    options.access.check()
    for server in options.servers or [""]:
        _check_address(options.access, server)
    connection = Connection(options)
    await connection.dial()
    connection.begin()
    try:
        yield connection
    finally:
        await connection.close()


def _race() -> PeerRace[Link]:
    return PeerRace(Link.close, (ConfigurationError, Unavailable))


def _failure_message(failures: Mapping[str, Exception]) -> str:
    return "cannot connect to NATS: " + "; ".join(f"{at}: {why}" for at, why in failures.items())


def _certified(discovered: ParseResult, name: str | None) -> str | None:
    """Return the name that must stand in a server's certificate; None for that in its address.

    Servers list each other by IP address, which their certificates need not have. Then the name holds by which the
    listing server was reached, as in the other NATS clients.
    """
    try:
        ip_address(discovered.hostname or "")
    except ValueError:
        return None
    return name


async def _dial(options: ConnectionOptions, server: str, certified: str | None, limit: float) -> Link:
    try:
        await resolve(urlsplit(server).hostname or "")
    except OSError as error:
        raise Unavailable(str(error)) from error
    client = client_internals.PatchedClient()
    link = Link(client, timeout=limit, api_prefix=options.api_prefix)
    secured = _secured(options, server, client)
    failures: list[Exception] = []

    async def on_error(error: Exception) -> None:
        failures.append(error)
        del failures[_FAILURES:]
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
            connect_timeout=math.ceil(limit),
            ping_interval=3600,  # Link.watch pings
            pending_size=0,
            inbox_prefix=options.inbox_prefix,
            tls_hostname=certified,
            error_cb=on_error,
            disconnected_cb=on_end,
            closed_cb=on_end,
            **secured,
        )
        await client_internals.bounded_call(login, limit)
        if not client.is_connected:  # nats-py takes the end of the stream for a greeting
            raise ConnectionResetError("the server hung up during the login")  # noqa: TRY301
        _guard(options, server, client)
        await link.begin()
    except BaseException as error:
        await link.close()
        if isinstance(error, PermissionDenied):
            raise _denied(options, str(error)) from error
        if isinstance(error, (nats.errors.Error, OSError, TimeoutError)):
            reason = _root_cause([*failures, error])
            raise explain(options.access, reason) from reason
        raise
    failures.clear()
    link.timeout = options.timeout
    return link


def _root_cause(failures: Sequence[BaseException]) -> BaseException:
    """Return the failure that explains most: a refusal comes before or after the reset that ends the connection."""
    return next((one for one in failures if not isinstance(one, ConnectionError)), failures[0])


def _secured(options: ConnectionOptions, server: str, client: Client) -> dict[str, Any]:
    """Return what the client needs for TLS and the login; raises ConfigurationError."""
    secured = options.access.login(lambda: _guard(options, server, client))
    if _wants_tls(options, server):
        secured |= {"tls": options.access.tls(), "tls_handshake_first": options.access.handshake_first}
    return secured


def _guard(options: ConnectionOptions, server: str, client: Client) -> None:
    """Raise where TLS is wanted and the connection has none: nats-py goes on in plain text."""
    if _wants_tls(options, server) and not client_internals.encrypted(client):
        raise nats.errors.SecureConnWantedError


def _wants_tls(options: ConnectionOptions, server: str) -> bool:
    return options.access.wants_tls or urlsplit(server).scheme in _ENCRYPTED


def _denied(options: ConnectionOptions, violation: str) -> ConfigurationError:
    remedy = (
        f"Let the gateway's user subscribe to {options.inbox_prefix}.>, or set broker.inbox_prefix to where it may."
    )
    return ConfigurationError("broker.inbox_prefix", violation, remedy)


def _check_address(access: BrokerLogin, server: str) -> None:
    remedy = "Give nats://host:port, tls://, ws:// or wss://."
    if "@" in server:  # not shown: it may hold a password
        remedy = "Set broker.sasl.username and broker.sasl.password_file, or broker.credentials_file."
        raise ConfigurationError("broker.servers", "an address must not hold a user or a password", remedy)
    try:
        address = urlsplit(server)
        port = address.port
    except ValueError as error:
        raise ConfigurationError("broker.servers", f"{server!r}: {error}", remedy) from error
    if address.scheme not in _SCHEMES or not address.hostname or port == 0:
        raise ConfigurationError("broker.servers", f"{server!r} is not the address of a NATS server", remedy)
    if address.scheme == "ws" and access.wants_tls:
        raise ConfigurationError("broker.servers", f"{server!r} is without TLS, and broker.tls is set", "Write wss://.")
