"""The control plane of real gateways on a real nats-server: any replica answers for every account, and a change that
was answered is kept, whoever dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.control_client import Control, child, control_of, new_token
from tests.support.gateway_process import GATEWAY, House, house, process, until


@asynccontextmanager
async def two_replicas(folder: Path, accounts: int = 10) -> AsyncIterator[tuple[House, Control, Control]]:
    """Run two gateways that share the accounts."""
    async with house(folder, accounts=accounts) as here:
        one, two = [await control_of(await here.gateway(), here.http) for _ in range(2)]
        for control in (one, two):
            await control.ready()

        async def share() -> bool:
            owned = [owned_by(each, await each.accounts()) for each in (one, two)]
            return all(owned) and sum(map(len, owned)) == accounts

        await until(share, "both serve some of the accounts")
        for control in (one, two):
            await control.live(here.accounts)
        yield here, one, two


def owned_by(control: Control, found: dict[str, Any]) -> list[str]:
    """Return the accounts that this gateway serves."""
    pid = f"/{control.running.popen.pid}"
    return sorted(name for name, one in found.items() if one["observed"]["owner"].endswith(pid))


async def asked_of_hub(here: House, account: str) -> Any:  # noqa: ANN401 - JSON
    """Return what the hub pushes to the account, and the connections that it ever had."""
    (user,) = [user for user in (await here.ask("GET /status"))["users"] if user["name"] == account]
    return user


async def test_any_replica_answers_for_every_account_and_changes_outlive_all(tmp_path: Path) -> None:
    async with two_replicas(tmp_path) as (here, one, two):
        found = await one.accounts()
        assert sorted(found) == sorted(await two.accounts()) == sorted(here.accounts)
        foreign = owned_by(two, found)[0]  # not of the one that is asked
        for wanted in ([1, 2], [], None, [3]):
            answer = await one.ask(f"PUT /v1/accounts/{foreign}/subscription", json={"strategies": wanted})
            assert (answer.status, answer.body["is_applied"]) == (200, True), answer
            assert answer.body["effective"] == {"strategies": wanted, "failed_strategies": []}
        answer = await one.ask(f"PUT /v1/accounts/{foreign}/subscription", json={"strategies": [3, 99]})
        assert answer.body["effective"]["failed_strategies"] == [99]
        paused = owned_by(one, found)[0]
        assert (await two.ask(f"PUT /v1/accounts/{paused}/target-state", json={"state": "paused"})).status == 200
        assert (await two.accounts("&state=paused")).keys() == {paused}
        assert (await asked_of_hub(here, paused))["connections"] == []
        for control in (one, two):
            control.running.kill()

        here.server.kill()
        await asyncio.to_thread(here.server.start)
        three = await control_of(await here.gateway(), here.http)
        await three.ready()

        async def is_so() -> bool:
            found = await three.accounts()
            return bool(found[foreign]["is_applied"] and found[paused]["is_applied"])

        await until(is_so, "what was wanted holds again")
        found = await three.accounts()
        assert found[foreign]["observed"]["subscription"]["strategies"] == [3, 99]
        assert found[paused]["observed"]["state"] == "paused"
        assert (await three.ask(f"PUT /v1/accounts/{paused}/target-state", json={"state": "running"})).status in {
            200,
            202,
        }
        await three.live(here.accounts)


async def test_an_idempotency_key_holds_across_replicas_and_a_kill_in_between(tmp_path: Path) -> None:
    async with two_replicas(tmp_path) as (here, one, two):
        account = owned_by(two, await one.accounts())[0]
        before = (await asked_of_hub(here, account))["counts"]["connects"]
        request = f"POST /v1/accounts/{account}/reconnect"
        two.running.freeze()  # the owner does not apply it, so the answer waits after the write
        waiting = asyncio.create_task(one.ask(request, Idempotency_Key="the-key"))

        async def is_written() -> bool:
            return bool((await one.accounts())[account]["desired"]["reconnects"] == 1)

        await until(is_written, "the desired state is written")
        assert not waiting.done()
        apart = child(one.running.popen.pid, "gateway.bootstrap.control_main")
        one.running.kill()
        os.kill(apart, signal.SIGKILL)  # as all of a container is
        with pytest.raises(aiohttp.ClientError):
            await waiting
        two.running.thaw()

        async def again() -> bool:
            answer = await two.ask(request, Idempotency_Key="the-key")
            assert answer.status in {200, 202, 503}, answer
            return answer.status == 200 and answer.body["reconnects"] == 1

        await until(again, "the other replica answers the same")
        answers = await asyncio.gather(*(two.ask(request, Idempotency_Key="the-key") for _ in range(5)))
        assert {answer.body["reconnects"] for answer in answers} == {1}
        assert (await two.accounts())[account]["desired"]["reconnects"] == 1
        await two.live([account])
        after = (await asked_of_hub(here, account))["counts"]["connects"]
        assert after in {before + 1, before + 2}  # once as asked, and once more where its shard was taken meanwhile
        other = await two.ask(request, Idempotency_Key="another")
        assert other.body["reconnects"] == 2


async def test_while_the_broker_is_away_reads_go_on_and_writes_say_when_to_retry(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=2) as here:
        control = await control_of(await here.gateway(), here.http)
        await control.ready()
        await control.live(here.accounts)
        here.server.kill()
        answer = await control.ask("PUT /v1/accounts/account-1/subscription", json={"strategies": [1]})
        assert (answer.status, answer.problem) in {(503, "broker-unavailable"), (503, "outcome-unknown")}, answer
        assert int(answer.headers["Retry-After"]) > 0
        first = (await control.accounts())["account-1"]["observed"]["age_seconds"]
        await asyncio.sleep(1)
        assert (await control.accounts())["account-1"]["observed"]["age_seconds"] >= first + 1
        assert await control.probe("/readyz") == await control.probe("/healthz") == 200
        await asyncio.to_thread(here.server.start)

        async def is_written() -> bool:
            answer = await control.ask("PUT /v1/accounts/account-1/subscription", json={"strategies": [1]})
            return answer.status == 200

        await until(is_written, "the subscription is written")
        assert (await control.accounts())["account-1"]["observed"]["subscription"]["strategies"] == [1]


async def test_it_is_ready_from_its_joining_until_it_is_asked_to_end(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=2) as here:
        here.server.kill()
        control = await control_of(await here.gateway(), here.http)
        assert await control.probe("/healthz") == 200
        assert await control.probe("/readyz") == 503
        answer = await control.ask("GET /v1/accounts")
        assert (answer.status, answer.problem) == (503, "not-ready")
        await asyncio.to_thread(here.server.start)
        await control.ready()
        await control.live(here.accounts)
        control.running.freeze()
        for path in ("/metrics", "/healthz", "/readyz"):  # a stuck loop: each is answered meanwhile

            async def fails(path: str = path) -> bool:
                return await control.probe(path) == 503

            await until(fails, f"{path} says that the loop is stuck", 20)
        control.running.thaw()
        for path in ("/healthz", "/readyz", "/metrics"):

            async def recovers(path: str = path) -> bool:
                return await control.probe(path) == 200

            await until(recovers, f"{path} says that the loop goes on", 20)
        control.running.signal(signal.SIGTERM)
        seen = [await control.probe("/readyz") for _ in range(20)]
        assert 200 not in seen[3:]
        assert await control.running.ended(10) == 0
        assert here.errors() == []


async def test_roles_and_where_it_listens_with_and_without_tokens(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=1) as here:
        (viewer, first), (operator, second) = (
            await new_token(tmp_path, "vera", "viewer"),
            await new_token(tmp_path, "otto", "operator"),
        )
        tokens = tmp_path / "tokens"
        tokens.write_text(f"{first}\n")
        without = await here.gateway()
        assert (await without.wait_for_log(r"the control plane listens on loopback only"))[0]
        await without.wait_for_log('"address": "127.0.0.1", "event": "control plane')
        without.signal(signal.SIGTERM)
        assert await without.ended(10) == 0

        here.config.write_text(here.config.read_text() + f"control: {{tokens_file: '{tokens}'}}\n")
        control = await control_of(await here.gateway(), here.http)
        assert '"address": "0.0.0.0", "event": "control plane' in control.running.stderr
        await control.ready()
        assert (await control.ask("GET /v1/accounts")).status == 401
        assert (await control.ask("GET /v1/accounts", token=viewer)).status == 200
        request = "PUT /v1/accounts/account-1/subscription"
        assert (await control.ask(request, json={"strategies": [1]}, token=viewer)).problem == "forbidden"
        assert (await control.ask(request, json={"strategies": [1]}, token=operator)).status == 401
        tokens.write_text(f"{first}\n{second}\n")

        async def is_let_in() -> bool:
            return (await control.ask(request, json={"strategies": [1]}, token=operator)).status in {200, 202}

        await until(is_let_in, "the new token is known")

        def is_logged() -> bool:
            lines = [json.loads(line) for line in control.running.stderr.splitlines()]
            audit = [(line["who"], line["status"]) for line in lines if line["event"] == "change requested"]
            return ("vera", 403) in audit and audit[-1][0] == "otto"

        await until(is_logged, "the log says who asked for what")
        for secret in (viewer, operator):
            assert secret not in control.running.stderr
            assert secret not in tokens.read_text()

        (tmp_path / "mine").write_text(f"{viewer}\n")
        for options, code, message in (
            (["--token-file", "mine"], 0, "account-1"),
            (["--token-file", "mine", "--json"], 0, '"account": "account-1"'),
            ([], 2, "There is no token"),
            (["--token-file", "mine", "--sort", "best"], 2, "sort"),
        ):
            command = (GATEWAY, "accounts", "--url", control.url, *options)
            async with process(tmp_path, *command, name="accounts") as listing:
                assert await listing.ended() == code
                assert message in listing.stdout + listing.stderr


async def test_a_taken_port_and_a_tokens_file_that_is_none_end_it_at_once(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=1) as here:
        with socket.socket() as other:
            other.bind(("", 0))
            other.listen()
            port = str(other.getsockname()[1])
            for setting, value in (
                ("control.port", port),
                ("monitoring.port", port),
                ("control.tokens_file", str(tmp_path / "nowhere")),
            ):
                env = {f"GATEWAY_{setting.upper().replace('.', '__')}": value}
                command = (GATEWAY, "run", "--config", here.config)
                async with process(tmp_path, *command, name="gateway", env=env) as running:
                    assert await running.ended(20) == 2
                    assert f"gateway: {setting}: " in running.stderr
                    assert "Traceback" not in running.stderr


async def test_the_control_plane_may_die_and_no_event_waits_for_it(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=2) as here:
        gateway = await here.gateway()
        control = await control_of(gateway, here.http)
        await control.ready()
        await here.emit(400, 100)
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
            apart = child(gateway.popen.pid, "gateway.bootstrap.control_main")
            os.kill(apart, number)
            if number == signal.SIGKILL:
                await gateway.wait_for_log('"code": -9, .*"event": "control plane ended, restarting it"')

                async def answers() -> bool:
                    return (await control.ask("GET /v1/accounts")).status == 200

                await until(answers, "it answers again")
            elif number == signal.SIGSTOP:
                await here.settled(400)
                assert await control.probe("/healthz") == 200
                os.kill(apart, signal.SIGCONT)
            else:
                assert (await control.ask("GET /v1/accounts")).status == 200  # its parent alone ends it
        assert (await here.verdict()).faults == {}
        gateway.kill()

        async def nobody_listens() -> bool:
            try:
                await control.ask("GET /openapi.json")
            except aiohttp.ClientError:
                return True
            return False

        await until(nobody_listens, "nothing is left that listens")


def events_go_first(gateway: int, process: int) -> bool:
    """Return whether every thread of a process has less of a busy processor than the gateway itself."""
    own = os.getpriority(os.PRIO_PROCESS, gateway)
    threads = (int(thread.name) for thread in Path(f"/proc/{process}/task").iterdir())
    return all(os.getpriority(os.PRIO_PROCESS, thread) == min(own + 10, 19) for thread in threads)


async def test_what_answers_probes_may_die_or_hang_and_no_event_waits_for_it(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=2) as here:
        gateway = await here.gateway()
        control = await control_of(gateway, here.http)
        await control.ready()
        first = child(gateway.popen.pid, "gateway.bootstrap.monitor_main")
        assert events_go_first(gateway.popen.pid, first)
        os.kill(first, signal.SIGKILL)
        await gateway.wait_for_log('"code": -9, .*"event": "monitoring process ended, restarting it"')
        for path in ("/healthz", "/readyz", "/metrics"):
            assert await control.probe(path) == 200  # it waits until the next one is there
        process = child(gateway.popen.pid, "gateway.bootstrap.monitor_main")
        assert events_go_first(gateway.popen.pid, process)
        assert events_go_first(gateway.popen.pid, child(gateway.popen.pid, "gateway.bootstrap.control_main"))
        os.kill(process, signal.SIGSTOP)
        await here.emit(200, 100)
        await here.settled(200)
        assert await control.ask("GET /v1/accounts")
        os.kill(process, signal.SIGCONT)
        assert await control.probe("/metrics") == 200
        assert await control.probe("/healthz") == await control.probe("/readyz") == 200
        assert (await here.verdict()).faults == {}
        gateway.kill()

        async def is_gone() -> bool:
            return await control.probe("/healthz") == 0

        await until(is_gone, "nothing is left that listens")
