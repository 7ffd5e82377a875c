"""Real nats-servers for tests: killed, frozen and started again at will, one alone or a cluster."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from gateway.broker.jetstream.embedded import EmbeddedServer
from tests.support.freezing import Freezable
from tests.support.sockets import free_port

_RELOADED = "Reloaded server configuration"


class NatsServer(EmbeddedServer, Freezable):
    """A nats-server that faults can be done to; use it as a context, sync or async."""

    text = ""
    """More of its configuration, in the server's own form."""

    def __init__(self, folder: Path, *, config: dict[str, Any] | None = None) -> None:
        """Take a port that stays free while it is down: `config` is that of `EmbeddedServer`."""
        super().__init__(folder, port=free_port(), config=config)

    def _configuration(self) -> str:
        return f"{super()._configuration().strip()[1:-1]}\n{self.text}"

    def reload(self) -> None:
        """Write `config` and `text` anew, and block until the running server goes by them (SIGHUP)."""
        assert self.process is not None
        (self.folder / "nats-server.conf").write_text(self._configuration())
        before = self._log.read_text().count(_RELOADED)
        self.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while self._log.read_text().count(_RELOADED) == before:
            assert time.monotonic() < deadline, f"the server did not take its configuration: {self._last_log_line()}"
            time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL: no farewell, nothing flushed."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None


@contextmanager
def cluster(folder: Path, size: int = 3) -> Iterator[list[NatsServer]]:
    """Yield the servers of a cluster that has elected its leader."""
    routes = [free_port() for _ in range(size)]
    monitors = [free_port() for _ in range(size)]
    with ExitStack() as stack:
        servers = [
            NatsServer(
                folder / f"n{place}",
                config={
                    "server_name": f"n{place}",
                    "http": f"127.0.0.1:{monitors[place]}",
                    "cluster": {
                        "name": "test",
                        "listen": f"127.0.0.1:{routes[place]}",
                        "routes": [f"nats://127.0.0.1:{port}" for port in routes],
                    },
                },
            )
            for place in range(size)
        ]
        for server in servers:
            server.begin()
            stack.callback(server.stop)
        for server in servers:
            server.wait()
        deadline = time.monotonic() + 30
        while not all(_has_leader(port, size) for port in monitors):
            assert time.monotonic() < deadline, "the cluster elected no leader"
            time.sleep(0.05)
        yield servers


def _has_leader(monitor: int, size: int) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{monitor}/jsz") as answer:
        meta = json.load(answer).get("meta_cluster") or {}
    return bool(meta.get("leader")) and meta.get("cluster_size") == size


@contextmanager
def leaf_and_hub(folder: Path) -> Iterator[tuple[NatsServer, NatsServer]]:
    """Yield a server without JetStream, and the one with it that it reaches over a leaf connection, not started yet."""
    port = free_port()
    here: dict[str, Any] = {"jetstream": {"store_dir": str(folder / "hub/jetstream"), "domain": "far"}}
    hub = NatsServer(folder / "hub", config={**here, "leafnodes": {"listen": f"127.0.0.1:{port}"}})
    remote = {"remotes": [{"url": f"nats://127.0.0.1:{port}"}], "reconnect": 1}
    leaf = NatsServer(folder / "leaf", config={"jetstream": None, "server_name": "edge", "leafnodes": remote})
    try:
        leaf.start()
        yield leaf, hub
    finally:
        hub.stop()
        leaf.stop()
