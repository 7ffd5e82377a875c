"""Commands as processes: what they find wrong, what they say of it in one line, and how they end."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import aiohttp
import pytest

from tests.support.gateway_process import GATEWAY, Process, house, process
from tests.support.nats_server import NatsServer
from tests.support.sockets import free_port

pytestmark = pytest.mark.usefixtures("started_afresh")

SECRET = "s3cret-key-of-alpha"


@dataclass
class Place:
    """A hub, a broker, and an accounts directory; whatever is wrong with them, a command must say."""

    folder: Path
    accounts: Path
    env: dict[str, str]
    stack: AsyncExitStack
    runs: int = 0

    async def start(self, *arguments: str, **env: str) -> Process:
        """Start a command with these settings in its environment over the usual ones."""
        self.runs += 1
        command = (str(GATEWAY), *arguments)
        name = f"{arguments[0]}-{self.runs}"
        return await self.stack.enter_async_context(process(self.folder, *command, name=name, env={**self.env, **env}))

    async def run(self, *arguments: str, **env: str) -> tuple[int, list[str]]:
        """Run a command to its end; give its exit code and all lines that it wrote."""
        command = await self.start(*arguments, **env)
        code = await command.ended(30)
        text = command.stdout + command.stderr
        assert SECRET not in text
        assert "Traceback" not in text
        return code, text.splitlines()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    accounts = tmp_path / "accounts"
    accounts.mkdir()
    (accounts / "alpha").write_text(SECRET + "\n")
    (accounts / "alpha").chmod(0o600)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(NatsServer(tmp_path / "nats"))
        simulate = (GATEWAY, "simulate", "--user", f"alpha={SECRET}", "--rate", "0", "--prefill", "3")
        hub = await stack.enter_async_context(process(tmp_path, *simulate, name="hub"))
        env = {
            "GATEWAY_HUB__URL": (await hub.wait_for_output(r"hub: (\S+)\n"))[1],
            "GATEWAY_ACCOUNTS__DIRECTORY": str(accounts),
            "GATEWAY_BROKER__SERVERS": server.url,
        }
        yield Place(tmp_path, accounts, env, stack)


# check ---------------------------------------------------------------------------------------------------


async def test_check_says_that_all_is_well_and_what_it_found(place: Place) -> None:
    code, lines = await place.run("check")

    assert code == 0
    looked_at = [line.partition(":")[0] for line in lines]
    assert looked_at == ["ok    settings", "ok    broker", "ok    account alpha", "ok    hub.enums"]
    assert "its latest event is 3" in lines[2]
    assert "the hub writes enums as numbers" in lines[3]


async def test_check_finds_everything_that_is_wrong_in_one_go(place: Place) -> None:
    (place.accounts / "empty").touch()
    (place.accounts / "a*").write_text(SECRET)
    (place.accounts / "spaced").write_text(f"{SECRET} {SECRET}")
    (place.accounts / "stranger").write_text("nobody-knows-it")
    (place.accounts / ".hidden").touch()
    code, lines = await place.run("check")

    assert code == 1
    failed = [line.removeprefix("FAIL  ") for line in lines if line.startswith("FAIL")]
    assert [line.partition(": ")[0] for line in failed] == [
        "accounts.directory/a*",
        "accounts.directory/empty",
        "accounts.directory/spaced",
        "account stranger",
    ]
    assert "is not an account's name" in failed[0]
    assert "is empty. Write the account's API key into the file" in failed[1]
    assert "holds a space" in failed[2]
    assert "accounts.directory/stranger: its key is refused (negotiate: the hub answered 401" in failed[3]
    assert "Write the account's present API key into the file." in failed[3]
    assert [line for line in lines if line.startswith("ok    account alpha")]


async def test_check_says_that_there_is_no_account_at_all(place: Place) -> None:
    (place.accounts / "alpha").unlink()
    code, lines = await place.run("check")

    assert code == 1
    (failed,) = [line for line in lines if line.startswith("FAIL")]
    assert f"accounts.directory: {place.accounts} holds no account. Write an API key into a file there" in failed


async def test_check_names_a_broker_and_a_hub_that_are_down(place: Place) -> None:
    nothing = free_port()
    code, lines = await place.run(
        "check", GATEWAY_BROKER__SERVERS=f"nats://127.0.0.1:{nothing}", GATEWAY_HUB__URL=f"http://127.0.0.1:{nothing}"
    )

    assert code == 1
    broker, hub = [line for line in lines if line.startswith("FAIL")]
    assert f"broker.servers: cannot connect to NATS: nats://127.0.0.1:{nothing}" in broker
    assert f"hub.url: http://127.0.0.1:{nothing}: negotiate: cannot connect to 127.0.0.1:{nothing}" in hub
    assert broker.endswith("mend the setting.")
    assert "Mend the setting" in hub


async def test_a_wrong_setting_ends_a_command_with_one_line_and_exit_code_2(place: Place) -> None:
    code, lines = await place.run("run", GATEWAY_ACCOUNTS__DIRECTORY="/nowhere")

    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("gateway: accounts.directory: /nowhere cannot be read (No such file or directory). Name")


# run -----------------------------------------------------------------------------------------------------


async def test_run_waits_for_a_broker_that_is_away_and_ends_at_once_when_asked(place: Place) -> None:
    gateway = await place.start("run", GATEWAY_BROKER__SERVERS=f"nats://127.0.0.1:{free_port()}")
    await gateway.wait_for_log("broker unavailable, retrying")
    gateway.signal(signal.SIGTERM)

    assert await gateway.ended(2) == 0
    assert SECRET not in gateway.stderr


async def test_of_two_gateways_one_serves_the_only_account_and_nobody_fights(place: Place) -> None:
    first = await place.start("run")
    await first.wait_for_log("account state changed")
    second = await place.start("run")
    await second.wait_for_log("shard assignment received")
    emit = f"{place.env['GATEWAY_HUB__URL']}/simulator/users/alpha/emit"
    async with aiohttp.ClientSession() as http, http.post(emit, json={"count": 1}) as answer:
        assert answer.status == 200
    second.signal(signal.SIGTERM)
    first.signal(signal.SIGTERM)

    assert (await second.ended(10), await first.ended(10)) == (0, 0)
    output = first.stderr + second.stderr
    assert "Traceback" not in output
    assert "shard log failed, reopening" not in output
    assert "error" not in output


# simulate ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_simulate_prints_its_url_and_ends_when_asked(place: Place, number: signal.Signals) -> None:
    hub = await place.start("simulate", "--user", f"me={SECRET}", "--rate", "0", "--prefill", "5")
    url = (await hub.wait_for_output(r"hub: (http://127\.0\.0\.1:\d+)\n"))[1]
    async with aiohttp.ClientSession() as http, http.get(f"{url}/simulator/users/me") as answer:
        assert (await answer.json())["emitted"] == 5
    await hub.wait_for_output("users: me\n")
    hub.signal(number)

    assert await hub.ended(10) == 0
    assert SECRET not in hub.stdout + hub.stderr
    assert hub.stderr == ""


# tail ----------------------------------------------------------------------------------------------------


async def test_tail_shows_the_log_by_kind_and_account_from_any_position(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=2, prefill=40) as here, AsyncExitStack() as stack:
        await here.gateway()
        await here.settled(40)
        runs = 0

        async def tail(*arguments: str) -> list[str]:
            nonlocal runs
            runs += 1
            command = (str(GATEWAY), "tail", "--servers", here.server.url, "--no-follow", *arguments)
            running = await stack.enter_async_context(process(tmp_path, *command, name=f"tail-{runs}"))
            assert await running.ended() == 0, running.stderr
            return running.stdout.splitlines()

        log = await here.log()
        everything, orders, both, later, last, since_ever, in_future, new = await asyncio.gather(
            tail("--from", "first"),
            tail("--from", "first", "--kind", "order-update", "--account", "account-2"),
            tail("--from", "first", "--kind", "order-update", "--kind", "error", "--output", "json"),
            tail("--from", str(log[-10].position)),
            tail("--from", "last"),
            tail("--from", "2020-01-01T00:00:00Z", "--account", "account-1"),
            tail("--from", "2999-01-01T00:00:00Z"),
            tail(),
        )

    assert len(everything) == 80
    assert {tuple(line.split(" ")[1:3]) for line in orders} == {("account-2", "order-update")}
    assert len(orders) == len([one for one in log if one.subject == "mesolive.events.order-update.v1.account-2"])
    shown = [json.loads(line) for line in both]
    assert {one["topic"] for one in shown} == {"order-update", "error"}
    assert all(one["key"] == str(one["value"]["EventSeqId"]) for one in shown)
    assert all(datetime.fromisoformat(one["attributes"]["time"]) for one in shown)
    assert [line.split(" ")[0] for line in later] == [str(one.position) for one in log[-10:]]
    assert [line.split(" ")[0] for line in last] == [str(log[-1].position)]
    assert len(since_ever) == 40
    assert in_future == []
    assert new == []


async def test_tail_that_finds_nothing_says_so(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=1, prefill=5) as here:
        await here.gateway()
        await here.settled(5)
        for account, expected in (("acount-1", ""), ("account-1", "account-1")):
            command = (GATEWAY, "tail", "--servers", here.server.url, "--no-follow", "--from", "first")
            async with process(tmp_path, *command, "--account", account, name=f"tail-{account}") as tail:
                assert await tail.ended() == 0
            assert tail.stderr == ("" if expected else f"no message of {account} from first on\n")
            assert expected in tail.stdout


async def test_tail_that_follows_shows_what_comes_and_ends_when_interrupted(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=1, prefill=5) as here:
        await here.gateway()
        await here.settled(5)
        command = (GATEWAY, "tail", "--servers", here.server.url, "--from", "first")
        async with process(tmp_path, *command, name="tail") as tail:
            await tail.wait_for_output(r"account-1 \S+ 5 ")
            await here.emit(count=3, rate=1000)
            await tail.wait_for_output(r"account-1 \S+ 8 ")
            tail.signal(signal.SIGINT)
            assert await tail.ended(10) == 130

    assert tail.stderr == ""
    assert len(tail.stdout.splitlines()) == 8


async def test_tail_ends_quietly_when_its_reader_has_seen_enough(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=1, prefill=2000) as here:
        await here.gateway()
        await here.settled(2000)
        line = f"'{GATEWAY}' tail --servers {here.server.url} --from first | head -n 1"
        async with process(tmp_path, "/bin/sh", "-c", line, name="tail") as tail:
            assert await tail.ended() == 0

    assert len(tail.stdout.splitlines()) == 1
    assert tail.stderr == ""


async def test_tail_without_a_log_says_so(place: Place) -> None:
    code, lines = await place.run("tail", "--no-follow")

    assert code == 1
    assert len(lines) == 1
    assert "mesolive-gateway" in lines[0]
    assert "stream not found" in lines[0]
