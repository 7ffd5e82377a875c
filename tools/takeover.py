"""How long accounts are silent when one of three replicas is killed or asked to end, on either broker.

`make takeover BROKER=kafka BUSY=3` measures it beside three busy processes. Nothing is held up or watched on the way to
Kafka: a proxy of the tests would take more of the time than the gateways.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from tests.support import kafka_server, leftovers
from tests.support.fault_injection import silences
from tests.support.gateway_process import House, settled_of
from tests.support.kafka_cluster import Place
from tools.chaos import REPLICAS, Storm, jetstream, kafka

log = logging.getLogger(__name__)

How = Literal["SIGKILL", "SIGTERM"]
ACCOUNTS: Final = 24
RATE: Final = 20.0
"""Events a second of each account."""
_PEACE: Final = 3.0
_FELT: Final = 12.0
"""Seconds before a blow, and after it until all must be level again."""


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep so many processes busy for as long as the context lasts."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for one in spinning:
            one.kill()
            one.wait()


async def measure(scene: House | Place, rounds: int, beside: int) -> bool:
    """Strike one replica after the other; log the silence of each account, and return whether the log is exact."""
    if isinstance(scene, Place):
        direct = f"127.0.0.1:{scene.servers[0].inner_port}"
        scene.config.write_text(scene.config.read_text().replace(scene.address, direct))
    storm = Storm(scene)
    await storm.begin(RATE)
    spans: list[tuple[How, float, float]] = []
    with busy(beside):
        for _ in range(rounds):
            for how in ("SIGKILL", "SIGTERM"):
                await asyncio.sleep(_PEACE)
                victim, began = storm.alive.pop(0), time.time()
                victim.signal(signal.Signals[how])
                await asyncio.sleep(_FELT)
                await scene.reached(await scene.latest(), settled_of)
                spans.append((how, began, time.time()))
                await storm.scale(REPLICAS)
    found = await scene.log()
    for how, began, ended in spans:
        longest = sorted(silences(found, scene.accounts, began, ended).values(), reverse=True)
        log.info("%s: the longest silences were %s s", how, ", ".join(f"{seconds:.2f}" for seconds in longest[:12]))
    verdict = await storm.end()
    log.info("verdict: %s", verdict)
    return not verdict.faults


async def _main(arguments: argparse.Namespace, folder: Path) -> bool:
    async with (kafka if arguments.broker == "kafka" else jetstream)(folder, 1, ACCOUNTS) as scene:
        return await measure(scene, arguments.rounds, arguments.busy)


def main() -> None:
    """Measure, and end with 1 where the log was not exact."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", choices=("jetstream", "kafka"), default="kafka")
    parser.add_argument("--busy", type=int, default=0, help="processes that take all the time they get")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.broker == "kafka":
        kafka_server.require_java()
    leftovers.guard()
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stdout)
    folder = Path(tempfile.mkdtemp(prefix="takeover-"))
    try:
        sys.exit(0 if asyncio.run(_main(arguments, folder)) else 1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
