"""The benchmarks run to their end, each scenario with a few events: what is measured is read by people, not here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support import kafka_server
from tests.support.gateway_process import ROOT, process

TIMEOUT_S: Final = 150.0
FEW: Final = ("--rounds", "1", "--events", "400", "--seconds", "0.5")


async def run(folder: Path, *command: str | Path, timeout_s: float = TIMEOUT_S) -> str:
    async with process(folder, sys.executable, *command, name="benchmark", cwd=ROOT) as running:
        assert await running.ended(timeout_s) == 0, running.stderr
        return running.stdout


async def test_make_bench_measures_each_contender_of_each_scenario(tmp_path: Path) -> None:
    kafka_server.KAFKA.require()
    output = await run(tmp_path, "-m", "benchmarks.bench", *FEW, "--output", tmp_path / "figures")
    for load in ("flood, frames of 1", "flood, frames of 50", "live, 100/s", "catch-up, instant pages"):
        for broker in ("kafka", "jetstream"):
            assert f"**{load} → {broker}**" in output
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert len(rows) == 24
    assert (tmp_path / "figures.md").read_text().strip() == output.strip()


async def test_the_cost_of_traces_is_measured(tmp_path: Path) -> None:
    output = await run(tmp_path, "-m", "benchmarks.tracing", "--rounds", "1", "--events", "1000")
    assert "| ratio 0.01 |" in output


async def test_the_signalr_clients_are_compared(tmp_path: Path) -> None:
    output = await run(tmp_path, "-m", "benchmarks.signalr_clients")
    assert {"| ours |", "| signalrcore |"} <= {line[: line.index("|", 2) + 1] for line in output.splitlines()}


async def test_what_idle_accounts_cost_is_measured(tmp_path: Path) -> None:
    few = ("--accounts", "30", "--settle", "0.5", "--seconds", "0.5")
    output = await run(tmp_path, "-m", "benchmarks.idle", *few, "--tls")
    assert output.splitlines()[-1].startswith("| 30 | yes | ")


@pytest.mark.long
@pytest.mark.timeout(700)
async def test_what_else_happens_beside_events_is_measured(tmp_path: Path) -> None:
    output = await run(tmp_path, "-m", "benchmarks.beside", "--rounds", "1", "--seconds", "0.5", timeout_s=600)
    assert output.rstrip().endswith("exact")
