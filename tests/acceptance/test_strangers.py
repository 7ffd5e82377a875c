"""Strangers on the network, who hold no token, at both listeners of a gateway through which events flow: the events
stay in time, every probe is answered, and so is an operator."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import quantiles
from typing import Final
from urllib.parse import urlsplit

import pytest

from tests.support import strangers
from tests.support.control_client import Control, control_of, new_token
from tests.support.gateway_process import House, house, process, settled_of

log = logging.getLogger(__name__)

RATE: Final = 50
"""Events a second, of all accounts."""
SECONDS: Final = 2.4
"""For which each attack goes on: longer than FLOOR, or events that one holds up would not be late."""
HANGS: Final = 10.0
"""Seconds within which a probe and an operator are answered: on a quiet machine it takes some hundredths of one."""
FLOOR: Final = 2.0
"""Seconds that an event may come later than beside innocent load: on the loop of the events, a body in chunks held
them up for as long as it came."""
NOT_THERE: Final = {"monitoring": {"bodies that do not come, POST"}, "control": {"stalled metrics", "scrapes"}}
"""Attacks that are of the other listener."""


@dataclass
class Phase:
    """Some seconds under one attack."""

    attack: str
    began: float
    ended: float = 0.0
    answers: list[float] = field(default_factory=list)
    """Seconds until each probe and each request of the operator was answered."""


async def asked(control: Control, phase: Phase, token: str) -> None:
    """Ask for probes and as an operator, again and again, each over a connection of its own."""
    headers = {"Connection": "close", "Authorization": f"Bearer {token}"}
    number = 0
    while True:
        change = control.url + "/v1/accounts/account-1/target-state"
        for method, url, body in (
            ("GET", control.monitoring + "/healthz", None),
            ("GET", control.monitoring + "/readyz", None),
            ("GET", control.url + "/v1/accounts", None),
            *((("PUT", change, {"state": "running"}),) if number % 4 == 0 else ()),
        ):
            began = time.monotonic()
            async with asyncio.timeout(HANGS), control.http.request(method, url, json=body, headers=headers) as answer:
                content = await answer.read()
            assert answer.status in {200, 202}, (phase.attack, url, answer.status, content)
            phase.answers.append(time.monotonic() - began)
        number += 1
        await asyncio.sleep(0.2)


async def suffer(here: House, control: Control, attack: str, at: str, token: str) -> Phase:
    """Let one attack go on while events flow, once nothing waits that came during another."""
    await here.reached(await here.latest(), settled_of)
    phase = Phase(attack, time.time())
    where = urlsplit(at)
    command = (sys.executable, str(strangers.__file__), attack, where.hostname or "", str(where.port), str(SECONDS))
    async with process(here.folder, *command, name="stranger") as stranger, asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(asked(control, phase, token))
        assert await stranger.ended() == 0, stranger.stderr
        asking.cancel()
    phase.ended = time.time()
    return phase


def p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98]


@pytest.mark.alone
@pytest.mark.timeout(400)
@pytest.mark.parametrize("listener", ["monitoring", "control"])
async def test_events_probes_and_operators_do_not_notice_strangers(tmp_path: Path, listener: str) -> None:
    attacks = [name for name in strangers.ATTACKS if name not in {"innocent", *NOT_THERE[listener]}]
    async with house(tmp_path, accounts=2) as here:
        token, line = await new_token(tmp_path, "otto", "operator")
        (tmp_path / "tokens").write_text(line)
        env = {"GATEWAY_CONTROL__TOKENS_FILE": str(tmp_path / "tokens"), "GATEWAY_CONTROL__HOST": "127.0.0.1"}
        control = await control_of(await here.gateway(env), here.http, token)
        await control.ready()
        await control.live(here.accounts)
        at = control.monitoring if listener == "monitoring" else control.url
        await here.emit(100_000, RATE / len(here.accounts))
        plan = ["innocent", *attacks[: len(attacks) // 2], "innocent", *attacks[len(attacks) // 2 :], "innocent"]
        phases = [await suffer(here, control, attack, at, token) for attack in plan]
        await here.ask("POST /pause")
        await here.reached(await here.latest(), settled_of)
        delays = {
            when: one.stored_at - when
            for one in await here.log()
            if "EventTime" in (event := json.loads(one.value))
            for when in [datetime.fromisoformat(event["EventTime"]).timestamp()]
        }
        verdict = await here.verdict()
        errors = here.errors()
    found = [[delay for at, delay in delays.items() if phase.began < at < phase.ended] for phase in phases]
    quiet = [delay for phase, part in zip(phases, found, strict=True) if phase.attack == "innocent" for delay in part]
    bound = 2 * p99(quiet) + FLOOR
    for phase, part in zip(phases, found, strict=True):
        log.info(
            "%-30s %3d events, p99 %4.0f ms, slowest answer %4.0f ms",
            *(phase.attack, len(part), 1000 * p99(part), 1000 * max(phase.answers)),
        )
    late = {phase.attack: p99(part) for phase, part in zip(phases, found, strict=True) if p99(part) > bound}
    assert late == {}, f"more than {bound:.2f} s"
    assert all(len(part) > SECONDS * RATE / 2 for part in found)
    assert all(len(phase.answers) >= 3 for phase in phases)
    assert verdict.faults == {}
    assert errors == []
