"""Tokens for some accounts only: the others do not exist for who reads, and cannot be changed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.control.app import openapi_text
from gateway.control.auth.principals import Role
from gateway.control.auth.token_lines import line_of
from gateway.control.auth.tokens import Tokens
from gateway.state import Phase
from tests.unit.control.conftest import Answer, Api, reported

NOW = datetime(2026, 6, 1, tzinfo=UTC)
HOLDERS = {
    "all": line_of("all", Role.OPERATOR, "all"),
    "eu": line_of("eu", Role.OPERATOR, "eu", accounts="main,eu-*"),
    "looks": line_of("looks", Role.VIEWER, "looks", accounts="eu-*"),
    "late": line_of("late", Role.OPERATOR, "late", until="2026-05-31"),
    "still": line_of("still", Role.OPERATOR, "still", until="2026-06-01"),
}
READS = [
    "/v1/accounts/{account}",
    "/v1/accounts/{account}/subscription",
    "/v1/accounts/{account}/target-state",
    "/v1/accounts/{account}/checkpoint",
]
CHANGES: list[tuple[str, Any]] = [
    ("PUT /v1/accounts/{account}/subscription", {"strategies": [1]}),
    ("DELETE /v1/accounts/{account}/subscription", None),
    ("PUT /v1/accounts/{account}/target-state", {"state": "paused"}),
    ("POST /v1/accounts/{account}/reconnect", None),
    ("PUT /v1/accounts/{account}/checkpoint", {"verified": 0}),
    ("DELETE /v1/accounts/{account}", None),
    ("POST /v1/accounts/{account}/replays", {"until": 40}),
]


@pytest.fixture
async def scoped(api: Api, tokens_file: Path) -> Api:
    """Serve with tokens, beside the accounts `main`, `eu-1` and `us-1`."""
    tokens_file.write_text("".join(f"{line}\n" for line in HOLDERS.values()))
    await api.replica(Tokens(tokens_file, now=lambda: NOW))
    for account in ("eu-1", "us-1"):
        await api.observed(account, settled=40, latest=42)
    return api


async def ask(api: Api, token: str, request: str, json: object = None, **headers: str) -> Answer:
    sent = {"Authorization": f"Bearer {token}", **headers}
    return await api.ask(request, at=1, json=json, headers=sent)


def test_every_operation_on_an_account_is_tried_here() -> None:
    import json  # noqa: PLC0415 - for this test alone

    paths: dict[str, dict[str, Any]] = json.loads(openapi_text())["paths"]
    found = {f"{method.upper()} {path}" for path, methods in paths.items() if "{account}" in path for method in methods}
    assert found == {f"GET {path}" for path in READS} | {request for request, _ in CHANGES}


@pytest.mark.parametrize("path", READS)
async def test_who_reads_finds_no_account_out_of_scope(scoped: Api, path: str) -> None:
    assert (await ask(scoped, "looks", f"GET {path.format(account='eu-1')}")).status == 200
    for account in ("us-1", "main", "nobody"):
        answer = await ask(scoped, "looks", f"GET {path.format(account=account)}")
        assert (answer.status, answer.problem) == (404, "unknown-account")
    assert (await ask(scoped, "all", f"GET {path.format(account='us-1')}")).status == 200


async def test_no_answer_names_an_account_out_of_scope(scoped: Api) -> None:
    for name in ("us-2", "mainn", "us-1"):
        answer = await ask(scoped, "looks", f"GET /v1/accounts/{name}")
        assert answer.body.get("nearest") in {None, "eu-1"}
    assert (await ask(scoped, "looks", "GET /v1/accounts/eu-2")).body["nearest"] == "eu-1"


@pytest.mark.parametrize(("request_", "body"), CHANGES)
async def test_a_change_out_of_scope_is_refused_whether_the_account_is_there(
    scoped: Api, request_: str, body: object
) -> None:
    for account in ("us-1", "us-nobody"):
        answer = await ask(scoped, "eu", request_.format(account=account), body)
        assert (answer.status, answer.problem) == (403, "forbidden")
    assert scoped.store.writes == []
    assert (await ask(scoped, "eu", request_.format(account="eu-nobody"), body)).status == 404
    assert (await ask(scoped, "eu", request_.format(account="eu-1"), body)).status not in {401, 403, 404}
    assert (await ask(scoped, "looks", request_.format(account="eu-1"), body)).status == 403


@pytest.mark.parametrize("account", ["us%2D1", "%75s-1", "us-1%20", "EU-1", "eu-1%00", "eu-%2A"])
async def test_no_spelling_of_a_name_leads_out_of_scope(scoped: Api, account: str) -> None:
    answer = await ask(scoped, "eu", f"PUT /v1/accounts/{account}/target-state", {"state": "paused"})
    assert answer.status in {400, 403, 404}
    assert scoped.store.writes == []


async def test_lists_show_what_is_in_scope(scoped: Api) -> None:
    for token, wanted in (("all", {"main", "eu-1", "us-1"}), ("eu", {"main", "eu-1"}), ("looks", {"eu-1"})):
        found: set[str] = set()
        cursor = ""
        while True:
            answer = await ask(scoped, token, f"GET /v1/accounts?limit=1{cursor}")
            found |= {one["account"] for one in answer.body["items"]}
            if answer.body["next"] is None:
                break
            cursor = f"&cursor={answer.body['next']}"
        assert found == wanted
    assert (await ask(scoped, "looks", "GET /v1/accounts?prefix=us")).body["items"] == []


async def test_replays_are_in_scope_with_their_accounts(scoped: Api) -> None:
    made = {}
    for account in ("us-1", "eu-1"):
        answer = await ask(scoped, "all", f"POST /v1/accounts/{account}/replays", {"until": 40})
        assert answer.status == 202
        made[account] = answer.body["id"]
    assert [one["id"] for one in (await ask(scoped, "eu", "GET /v1/replays")).body["items"]] == [made["eu-1"]]
    assert (await ask(scoped, "eu", "GET /v1/replays?account=us-1")).body["items"] == []
    assert (await ask(scoped, "eu", f"GET /v1/replays/{made['eu-1']}")).status == 200
    answer = await ask(scoped, "eu", f"GET /v1/replays/{made['us-1']}")
    assert (answer.status, answer.problem) == (404, "unknown-replay")
    answer = await ask(scoped, "eu", f"POST /v1/replays/{made['us-1']}/cancel")
    nobodys = await ask(scoped, "eu", f"POST /v1/replays/{'0' * 32}/cancel")
    assert (answer.status, answer.problem) == (nobodys.status, nobodys.problem) == (404, "unknown-replay")
    assert (await ask(scoped, "all", f"GET /v1/replays/{made['us-1']}")).body["cancel_requested"] is False
    assert (await ask(scoped, "eu", f"POST /v1/replays/{made['eu-1']}/cancel")).status == 200


async def test_a_token_for_some_accounts_lets_go_of_their_replays_alone(scoped: Api) -> None:
    """Two that have ended are kept: a third of theirs let go of another account's, whose key was then free again."""
    theirs = (await ask(scoped, "all", "POST /v1/accounts/us-1/replays", {"until": 40})).body["id"]
    await reported(scoped, theirs, Phase.COMPLETED)
    mine = []
    for _ in range(4):
        answer = await ask(scoped, "eu", "POST /v1/accounts/eu-1/replays", {"until": 40})
        assert answer.status == 202
        mine.append(answer.body["id"])
        await reported(scoped, mine[-1], Phase.COMPLETED)
        await asyncio.sleep(0.01)
    await scoped.wait_for_views(lambda view: mine[0] not in view.replays)
    assert (await ask(scoped, "all", f"GET /v1/replays/{theirs}")).status == 200


async def test_a_token_that_has_expired_is_nobodys(scoped: Api) -> None:
    for request, body in (("GET /v1/accounts", None), ("PUT /v1/accounts/main/target-state", {"state": "running"})):
        assert (await ask(scoped, "late", request, body)).problem == "unauthenticated"
        assert (await ask(scoped, "still", request, body)).status == 200
