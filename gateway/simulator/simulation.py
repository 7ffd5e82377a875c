"""Starts the simulated hub: its configuration, and a context in which it runs."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from gateway.simulator import admin
from gateway.simulator.faults import HEALTHY, Faults
from gateway.simulator.hub import SimulatedHub
from gateway.simulator.listener import Listener
from gateway.simulator.server import Ending, Server, Timing
from gateway.simulator.user import Emission, User, emit_in_steps
from gateway.simulator.wire import Form

_MOST_INJECTED: Final = 64 * 1024 * 1024
_PREFILL_SPREAD: Final = 0.01
"""Seconds between the events of a history that is there at the start."""


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """What the simulated hub is like when it starts; the admin API changes it later."""

    users: Mapping[str, str] = field(default_factory=lambda: {"demo": "demo-key"})
    """Each user's name and its API key."""
    form: Form = Form.CAMEL_INT
    """Wire form of names and enums."""
    strategies: tuple[int, ...] = (1, 2, 3, 4, 5)
    """The strategies that each user has."""
    rate: float = 0.0
    """Events a second for each user; up to 5,000."""
    total: int | None = None
    """Events that each user emits at that rate before it falls silent; None: no end."""
    prefill: int = 0
    """Events that each user's history has at the start, 10 ms apart; they do not count for `total`."""
    seed: int | None = None
    """Makes the same events each time, but for EventTime; None: a hub with a history of its own each time."""
    host: str = "127.0.0.1"
    port: int = 0
    """0: any free port."""
    tls: ssl.SSLContext | None = None
    """Serve TLS with this context."""
    timing: Timing = field(default_factory=Timing)
    queue_bytes: int = 16 * 1024 * 1024
    """Bytes that may wait for a slow client before it is cut off."""
    faults: Faults = HEALTHY
    """Faults from the start, for all users."""
    paused: bool = False
    """Whether emission waits for the admin API's resume."""


@dataclass(frozen=True, slots=True)
class Simulator:
    """A simulated hub that runs; `hub` and `server` may be used directly on its event loop."""

    url: str
    """What a gateway is given as `hub.url`: scheme, host and port."""
    hub: SimulatedHub
    server: Server
    door: Listener
    """The listening socket; `await door.shut(seconds)` refuses connections at TCP."""

    def user(self, name: str) -> User:
        """Return a user; raises KeyError."""
        return self.hub.users[name]

    def patch_faults(self, user: str | None = None, **changes: object) -> Faults:
        """Set faults of a user or of the whole hub; None removes one; raises ValueError for an invalid one."""
        faults = (self.hub.scope if user is None else self.user(user).scope).patch(changes)
        self.server.wake()
        return faults

    def drop(self, user: str | None = None, how: Ending = "abort") -> int:
        """End the connections of a user, or all; give how many."""
        connections = self.server.of(None if user is None else self.user(user))
        self.server.drop(connections, how)
        return len(connections)


@asynccontextmanager
async def simulator(config: SimulatorConfig) -> AsyncIterator[Simulator]:
    """Run a simulated hub; on leaving, it drops its connections as a process does that is asked to end."""
    seed = secrets.randbits(32) if config.seed is None else config.seed
    hub = SimulatedHub(config.users, strategies=config.strategies, form=config.form, seed=seed, faults=config.faults)
    server = Server(hub, config.timing, config.queue_bytes)
    for user in hub.users.values():
        await emit_in_steps(user, config.prefill, spread=_PREFILL_SPREAD)
        user.paused = config.paused
        if config.rate:
            user.begin(Emission(config.rate, config.total))
    app = web.Application(client_max_size=_MOST_INJECTED)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    door = Listener(runner, config.host, config.port, config.tls)
    server.add_routes(app.router)
    app.add_subapp("/simulator", admin.application(hub, server, door))
    await runner.setup()
    failure: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            clockwork = group.create_task(server.run())
            porter = group.create_task(door.run())
            try:
                await door.open()
                yield Simulator(_url(door, config), hub, server, door)
            finally:
                server.cut()
                porter.cancel()
                await runner.cleanup()
                door.end()
                clockwork.cancel()
    except BaseExceptionGroup as errors:  # what the caller's block raised should reach the caller as it was
        if len(errors.exceptions) > 1:
            raise
        failure = errors.exceptions[0]
    if failure is not None:
        raise failure


def _url(door: Listener, config: SimulatorConfig) -> str:
    host, port = door.address
    scheme = "http" if config.tls is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
