"""What a gateway says of secrets in clear when it starts, and where secrets of the environment go."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.gateway_process import GATEWAY, process, until

pytestmark = pytest.mark.usefixtures("started_afresh")

SECRET = "s3cret-of-the-hub"
PROGRAMS = (b"gateway.bootstrap.control_main", b"gateway.bootstrap.monitor_main")


async def test_check_and_run_tell_of_a_plain_secret_and_control_gets_none(tmp_path: Path) -> None:
    (tmp_path / "accounts").mkdir()
    (tmp_path / "accounts" / "main").write_text("key")
    env = {
        "GATEWAY_HUB__URL": "http://192.0.2.1",
        "GATEWAY_HUB__PROXY": f"http://user:{SECRET}@127.0.0.1:9",
        "GATEWAY_HUB__HEADERS__X_KEY": SECRET,
        "GATEWAY_ACCOUNTS__DIRECTORY": str(tmp_path / "accounts"),
        "GATEWAY_BROKER__SERVERS": "nats://127.0.0.1:9",
        "GATEWAY_BROKER__PREFIX": "kept",
        "GATEWAY_LOG__FORMAT": "json",
    }
    async with process(tmp_path, GATEWAY, "check", name="check", env=env) as check:
        assert await check.ended() == 1
    assert "warn  hub.url: API keys and the headers go in clear to 192.0.2.1. Write https://" in check.stdout
    assert SECRET not in check.stdout + check.stderr

    async with process(tmp_path, GATEWAY, "run", name="run", env=env) as run:
        await run.wait_for_log("control plane is listening")
        (warning,) = [line for line in run.lines() if line["event"] == "secret is sent in plain text"]
        assert (warning["level"], warning["setting"], warning["to"]) == ("warning", "hub.url", "192.0.2.1")
        children = Path(f"/proc/{run.popen.pid}/task/{run.popen.pid}/children")
        await until(lambda: len(children.read_text().split()) == len(PROGRAMS), "both listeners have a process")
        started = [Path("/proc") / child for child in children.read_text().split()]

        def are_programs() -> bool:
            lines = b"".join((child / "cmdline").read_bytes() for child in started)
            return all(program in lines for program in PROGRAMS)

        await until(are_programs, "they are those programs")
        for child in started:
            for name in ("environ", "cmdline"):
                assert SECRET.encode() not in (child / name).read_bytes()
        assert SECRET.encode() in Path(f"/proc/{run.popen.pid}/environ").read_bytes()  # else it would prove nothing
        run.popen.terminate()
        assert await run.ended() == 0
    assert SECRET not in run.stdout + run.stderr
