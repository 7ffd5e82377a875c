"""What accounts cost that have nothing to do: one `gateway run`, and a hub that says nothing but pings.

    python -m benchmarks.idle
    python -m benchmarks.idle --accounts 1000 --seconds 30 --tls

The hub is the simulator, with a nats-server beside it: each is a process of its own, told of apart. Cost is CPU time
of the gateway's own process and of its control plane's, user and system, in percent of one core. Memory is what many
accounts take more than a few, for each of them. Settings are as they come.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from gateway.bootstrap import event_loop as loop
from gateway.broker.jetstream.embedded import EmbeddedServer
from gateway.simulator import SimulatorConfig, simulator
from tests.support import leftovers
from tests.support.certificates import Authority
from tests.support.gateway_process import GATEWAY, ROOT, Process, process, until
from tests.support.metrics_client import Metrics, metrics_of

FEW = 10
"""Accounts of the gateway that tells what a process takes without many."""
_CONNECTED = "all are connected"
_TIMEOUT_S = 300.0
_TICK = os.sysconf("SC_CLK_TCK")
_QUIET = {"GATEWAY_METRICS__PER_ACCOUNT": "false", "GATEWAY_LOG__FORMAT": "json"}


@dataclass(frozen=True)
class Cost:
    """What was measured of one gateway."""

    live_after: float
    """Seconds from its start."""
    starting: float
    """Seconds of CPU until then."""
    hub_starting: float
    """Likewise, of the hub: where the two share cores, it decides with the gateway how long the start takes."""
    replica: float
    """Percent of a core while idle."""
    control: float
    """Likewise, of the process of the control plane."""
    broker: float
    hub: float
    memory: float
    """KiB."""


def cpu(pid: int) -> float:
    """Return the seconds of CPU that a process has used, user and system, all of its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def memory(pid: int) -> float:
    """Return the KiB that a process holds of the machine's memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text("utf-8"))
    assert found is not None
    return float(found[1])


def child_of(pid: int) -> int:
    """Return the process of the control plane."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()
    return next(
        int(one) for one in children if b"gateway.bootstrap.control_main" in Path(f"/proc/{one}/cmdline").read_bytes()
    )


def names_of(accounts: int) -> list[str]:
    return [f"account-{number}" for number in range(1, accounts + 1)]


async def serve(accounts: int, pair: Sequence[str]) -> None:
    """Be the hub, until the process is ended."""
    context = None
    if pair:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*pair)
    users = {name: f"key-of-{name}" for name in names_of(accounts)}
    async with simulator(SimulatorConfig(users=users, tls=context)) as hub:
        loop.tune_garbage_collector()
        print(f"hub: {hub.url}", flush=True)
        while len(hub.server.connections) < accounts:  # noqa: ASYNC110 - the simulator tells nobody
            await asyncio.sleep(0.1)
        print(_CONNECTED, flush=True)
        await asyncio.Event().wait()


@asynccontextmanager
async def running(folder: Path, accounts: int, *, tls: bool) -> AsyncIterator[tuple[Process, int, Process, Metrics]]:
    """Start everything, the gateway last; return the hub, the process of the broker, the gateway and its metrics."""
    keys = folder / "accounts"
    keys.mkdir(parents=True)
    for name in names_of(accounts):
        (keys / name).write_text(f"key-of-{name}\n", "utf-8")
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.idle", "--serve", "--accounts", str(accounts)]
    settings, trusted = dict(_QUIET), ""
    if tls:
        authority = Authority(folder / "authority")
        pair = authority.certificate("hub")
        command += ["--pair", pair.certificate, pair.key]
        trusted = f", ca_file: '{authority.file}'"
    async with AsyncExitStack() as stack:
        config = {"jetstream": {"store_dir": str(folder / "jetstream")}}
        server = await stack.enter_async_context(EmbeddedServer(folder / "nats", config=config))
        hub = await stack.enter_async_context(process(folder, *command, name="hub", cwd=ROOT))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        url = (await hub.wait_for_output(r"hub: (\S+)\n"))[1]
        file = folder / "gateway.yaml"
        file.write_text(
            f"hub: {{url: '{url}'{trusted}}}\n"
            f"accounts: {{directory: '{keys}'}}\n"
            f"broker: {{servers: ['{server.url}']}}\n",
            "utf-8",
        )
        gateway = await stack.enter_async_context(process(folder, GATEWAY, "run", "--config", file, env=settings))
        assert server.process is not None
        yield hub, server.process.pid, gateway, await metrics_of(gateway, http)


async def measured(folder: Path, accounts: int, settle: float, seconds: float, *, tls: bool) -> Cost:
    """Let so many accounts come to life, wait until that is over, and measure for a while."""
    async with running(folder, accounts, tls=tls) as (hub, broker, gateway, metrics):
        began = started_at(gateway.popen.pid)

        async def are_live() -> bool:
            await asyncio.sleep(0.1)
            return (await metrics.scrape()).get(("accounts", "live"), 0) == accounts

        # A scrape looks at each account: not before.
        await until(lambda: _CONNECTED in hub.stdout, _CONNECTED, _TIMEOUT_S)
        await until(are_live, "all are live", _TIMEOUT_S)
        live_after = time.clock_gettime(time.CLOCK_BOOTTIME) - began
        starting, hub_starting = cpu(gateway.popen.pid), cpu(hub.popen.pid)
        await asyncio.sleep(settle)
        pids = gateway.popen.pid, child_of(gateway.popen.pid), broker, hub.popen.pid
        then, before = time.monotonic(), [cpu(pid) for pid in pids]
        await asyncio.sleep(seconds)
        took = time.monotonic() - then
        used = [100 * (cpu(pid) - earlier) / took for pid, earlier in zip(pids, before, strict=True)]
        assert await are_live()
        return Cost(live_after, starting, hub_starting, *used, memory(gateway.popen.pid))


def started_at(pid: int) -> float:
    """Return when a process began, in seconds since the machine did."""
    return float(Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[19]) / _TICK


async def main(accounts: int, settle: float, seconds: float, rounds: int, *, tls: bool) -> None:
    """Measure, and print a table."""
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        few = await measured(Path(folder) / "few", FEW, 5, 0.1, tls=tls)
        columns = (
            "accounts",
            "TLS",
            "live after, s",
            "CPU until then, s",
            "the hub's, s",
            "% of a core",
            "control plane, %",
        )
        further = ("nats-server, %", "hub, %", "KiB an account", "RSS, MiB")
        print(f"| {' | '.join(columns + further)} |\n|{'---:|' * len(columns + further)}")
        for number in range(rounds):
            cost = await measured(Path(folder) / f"many-{number}", accounts, settle, seconds, tls=tls)
            each = (cost.memory - few.memory) / (accounts - FEW)
            shares = f"{cost.replica:.1f} | {cost.control:.1f} | {cost.broker:.1f} | {cost.hub:.1f}"
            print(
                f"| {accounts:,} | {'yes' if tls else 'no'} | {cost.live_after:.1f} | {cost.starting:.1f} "
                f"| {cost.hub_starting:.1f} | {shares} | {each:.1f} | {cost.memory / 1024:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=int, default=5_000, help=f"more than {FEW} (5000)")
    parser.add_argument("--settle", type=float, default=45, help="seconds from the last one live to the measurement")
    parser.add_argument("--seconds", type=float, default=60, help="seconds of the measurement (60)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tls", action="store_true", help="between gateway and hub")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--pair", nargs=2, default=(), help=argparse.SUPPRESS)
    asked_for = parser.parse_args()
    if asked_for.serve:
        loop.run(serve(asked_for.accounts, asked_for.pair))
    else:
        leftovers.guard()
        numbers = asked_for.accounts, asked_for.settle, asked_for.seconds, asked_for.rounds
        asyncio.run(main(*numbers, tls=asked_for.tls))
