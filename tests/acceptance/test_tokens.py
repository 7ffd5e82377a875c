"""Tokens of a gateway that runs: they end with their line, expire, and are for the accounts that they name."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.control_client import Control, control_of, new_token
from tests.support.gateway_process import house, until


def _same(file: Path, content: str) -> Path:
    """Write another file that has the size and the times of `file`."""
    other, found = file.with_name("other"), file.stat()
    assert len(content) <= found.st_size
    other.write_text(content.ljust(found.st_size, "\n"))
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    return other


def remove(file: Path, _: str) -> None:
    file.unlink()


def typo(file: Path, kept: str) -> None:
    file.write_text(f"{kept}\nanother vewer sha256:0\n")


def cp_p(file: Path, kept: str) -> None:
    shutil.copy2(_same(file, kept), file)


def rsync_t(file: Path, kept: str) -> None:
    _same(file, kept).rename(file)


def pipe(file: Path, _: str) -> None:
    file.unlink()
    os.mkfifo(file)


@asynccontextmanager
async def guarded(folder: Path, *lines: str) -> AsyncIterator[tuple[Control, Path]]:
    """Run a gateway with two accounts and these tokens."""
    tokens = folder / "tokens"
    tokens.write_text("".join(f"{line}\n" for line in lines))
    async with house(folder, accounts=2) as here:
        here.config.write_text(here.config.read_text() + f"control: {{tokens_file: '{tokens}'}}\n")
        control = await control_of(await here.gateway(), here.http)
        await control.ready()
        yield control, tokens


@pytest.mark.parametrize("trick", [remove, typo, cp_p, rsync_t, pipe])
async def test_a_leaked_token_ends_whatever_happens_to_its_file(
    tmp_path: Path, trick: Callable[[Path, str], None]
) -> None:
    kept, kept_line = await new_token(tmp_path, "kept", "viewer")
    leaked, leaked_line = await new_token(tmp_path, "leaked", "operator")
    async with guarded(tmp_path, kept_line, leaked_line) as (control, tokens):
        assert (await control.ask("GET /v1/accounts", token=leaked)).status == 200
        trick(tokens, kept_line)

        async def is_shut_out() -> bool:
            return (await control.ask("GET /v1/accounts", token=leaked)).status == 401

        async with asyncio.timeout(30):  # 1 s where the file can be read, 10 s where it cannot
            await until(is_shut_out, "the leaked token is nobody's")
        may_still = trick in {typo, cp_p, rsync_t}
        assert (await control.ask("GET /v1/accounts", token=kept)).status == (200 if may_still else 401)
        assert await control.probe("/healthz") == 200


async def test_nobody_is_refused_while_a_line_without_its_end_is_looked_at_again(tmp_path: Path) -> None:
    token, line = await new_token(tmp_path, "one", "viewer")
    tokens = tmp_path / "tokens"
    tokens.write_text(line)  # as a Secret of one line is mostly written
    async with house(tmp_path, accounts=1) as here:
        here.config.write_text(here.config.read_text() + f"control: {{tokens_file: '{tokens}'}}\n")
        control = await control_of(await here.gateway(), here.http)
        answer = await control.ask("GET /v1/accounts", token=token)
        assert answer.status == 200 or (answer.status, answer.problem) == (503, "not-ready"), answer


async def test_tokens_are_for_their_accounts_and_for_their_time(tmp_path: Path) -> None:
    one, first = await new_token(tmp_path, "one", "operator", "--accounts", "*-1")
    late, second = await new_token(tmp_path, "late", "operator", "--until", "2020-01-01")
    async with guarded(tmp_path, first, second) as (control, _):
        assert (await control.ask("GET /v1/accounts", token=late)).status == 401
        await until(lambda: _lists(control, one, ["account-1"]), "its account is listed alone")
        body = {"strategies": [1]}
        answer = await control.ask("PUT /v1/accounts/account-1/subscription", json=body, token=one)
        assert answer.status in {200, 202}
        answer = await control.ask("PUT /v1/accounts/account-2/subscription", json=body, token=one)
        assert (answer.status, answer.problem) == (403, "forbidden")
        answer = await control.ask("GET /v1/accounts/account-2", token=one)
        assert (answer.status, answer.problem) == (404, "unknown-account")


@pytest.mark.parametrize("request_", ["GET /v1/accounts", "POST /v1/accounts/account-1/reconnect"])
async def test_a_flood_of_unknown_tokens_is_counted_and_fills_no_log(tmp_path: Path, request_: str) -> None:
    flood = 500
    _, line = await new_token(tmp_path, "one", "operator")
    async with guarded(tmp_path, line) as (control, tokens):
        before = control.running.stderr
        for _ in range(flood):
            assert (await control.ask(request_, token="gateway_wrong", X_Request_Id="a" * 128)).status == 401

        async def is_counted() -> bool:
            async with control.http.get(f"{control.monitoring}/metrics") as answer:
                text = await answer.text()
            counted = f'mesolive_gateway_api_refused_total{{reason="unauthenticated"}} {float(flood)}'
            return counted in text and f'_requests_total{{role="anonymous",status="401"}} {float(flood)}' in text

        await until(is_counted, "all are counted")
        logged = control.running.stderr.removeprefix(before).splitlines()
        minutes = 2  # in which they may have been, on a machine that is busy
        assert len([one for one in logged if "rejected" in one or "requested" in one]) <= 2 * minutes
        assert len(logged) < 50
        tokens.write_text(f"{line}\nwrong\n")

        async def is_line_counted() -> bool:
            async with control.http.get(f"{control.monitoring}/metrics") as answer:
                return "mesolive_gateway_tokens_file_problems 1.0" in await answer.text()

        await until(is_line_counted, "the wrong line is counted without a request")


async def _lists(control: Control, token: str, accounts: list[str]) -> bool:
    answer = await control.ask("GET /v1/accounts", token=token)
    return [found["account"] for found in answer.body["items"]] == accounts
