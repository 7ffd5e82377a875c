"""`gateway demo`, as a newcomer runs it: it shows the gateway at work, and its verdict can be trusted."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import nats
import pytest

from tests.support.gateway_process import GATEWAY, Process, process, until


@pytest.fixture
def attic(tmp_path: Path) -> Path:
    """Where a command puts its temporary folders: what is left there was forgotten."""
    attic = tmp_path / "attic"
    attic.mkdir()
    return attic


def left_behind(attic: Path) -> list[str]:
    """Return the folders in the attic, and the processes that were started with something in it."""
    commands = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(entry.read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it has ended meanwhile
    return [*map(str, attic.iterdir()), *(command for command in commands if str(attic) in command)]


async def broker_of(demo: Process) -> str:
    return (await demo.wait_for_output(r"broker: +(nats://\S+)"))[1]


async def test_a_demo_with_an_end_shows_where_everything_is_and_its_verdict(tmp_path: Path, attic: Path) -> None:
    env = {"TMPDIR": str(attic)}
    async with process(tmp_path, GATEWAY, "demo", "--events", "2000", env=env) as demo:
        assert await demo.ended() == 0, demo.stderr

    assert re.search(r"hub: +http://127\.0\.0\.1:\d+/hubs/event/v1", demo.stdout)
    assert re.search(r"broker: +nats://127\.0\.0\.1:\d+", demo.stdout)
    assert re.search(r"gateway tail --servers nats://127\.0\.0\.1:\d+ --kind order-update", demo.stdout)
    assert re.findall(r"^(\w+): exact: (\d+) of \d+ events once and in order", demo.stdout, re.MULTILINE) == [
        ("alpha", "667"),
        ("beta", "667"),
        ("gamma", "666"),
    ]
    assert demo.stdout.endswith("verdict: exact: 2000 events in the log, 2000 asked for\n")
    assert demo.stderr == ""
    assert left_behind(attic) == []


async def test_a_demo_whose_log_lacks_an_event_names_it_and_fails(tmp_path: Path, attic: Path) -> None:
    command = (GATEWAY, "demo", "--events", "900", "--rate", "450")
    async with process(tmp_path, *command, env={"TMPDIR": str(attic)}) as demo:
        client = await nats.connect(await broker_of(demo), allow_reconnect=False)
        stream = client.jetstream()

        async def has_events() -> bool:
            info = await stream.stream_info("mesolive-gateway", subjects_filter="mesolive.events.*.v1.beta")
            return sum((info.state.subjects or {}).values()) > 50

        await until(has_events, "the demo publishes")
        victim = await stream.get_last_msg("mesolive-gateway", "mesolive.events.*.v1.beta")
        assert victim.seq is not None
        assert victim.headers is not None
        await stream.delete_msg("mesolive-gateway", victim.seq)
        await client.close()
        assert await demo.ended() == 1

    lost = int(victim.headers["ce-sequence"])
    assert f"beta: NOT exact: 1 lost ({lost})\n" in demo.stdout
    assert "verdict: NOT exact: 899 events in the log, 900 asked for\n" in demo.stdout
    assert demo.stderr == ""
    assert left_behind(attic) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_demo_without_an_end_leaves_nothing_behind_when_interrupted(
    tmp_path: Path, attic: Path, number: signal.Signals
) -> None:
    async with process(tmp_path, GATEWAY, "demo", env={"TMPDIR": str(attic)}) as demo:
        await demo.wait_for_output(r"alpha live [1-9]")
        assert len(left_behind(attic)) > 1
        demo.signal(number)
        assert await demo.ended(10) == 0

    assert demo.stderr == ""
    assert left_behind(attic) == []
