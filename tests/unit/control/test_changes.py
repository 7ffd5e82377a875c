"""What operators ask for: written with compare-and-set, answered once, and never on a guess."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace
from structlog.testing import capture_logs

from gateway.errors import OutcomeUnknown, Unavailable
from gateway.state import MAX_IDEMPOTENCY_RECORDS, Desired, TargetState, decode_record
from tests.unit.control.conftest import Answer, Api

SUBSCRIPTION = "/v1/accounts/main/subscription"
TARGET = "/v1/accounts/main/target-state"
RECONNECT = "POST /v1/accounts/main/reconnect"


def wanted(api: Api, account: str = "main") -> Desired:
    """Return what is wanted, without who wrote it."""
    return replace(stored(api, account), written=UNSET)


def stored(api: Api, account: str = "main") -> Desired:
    return decode_record(Desired, api.store.records[False, f"account.{account}"][0].value)


async def test_a_subscription_is_put_and_taken_back(api: Api) -> None:
    answer = await api.ask(f"PUT {SUBSCRIPTION}", json={"strategies": [3.0, 1, 3]})
    assert (answer.status, answer.body["strategies"], answer.body["is_applied"]) == (200, [1, 3], True)
    assert answer.headers["ETag"] == f'"{answer.body["revision"]}"'
    assert wanted(api).strategies == (1, 3)
    assert (await api.ask(f"GET {SUBSCRIPTION}")).body["strategies"] == [1, 3]
    assert (await api.ask(f"PUT {SUBSCRIPTION}", json={"strategies": []})).body["strategies"] == []
    assert wanted(api).strategies == ()
    assert (await api.ask(f"DELETE {SUBSCRIPTION}")).body["strategies"] is None
    assert wanted(api).strategies is None


async def test_one_change_leaves_what_else_is_wanted(api: Api) -> None:
    await api.ask(f"PUT {SUBSCRIPTION}", json={"strategies": [1]})
    await api.ask(RECONNECT)
    await api.ask(f"PUT {TARGET}", json={"state": "paused"})
    assert wanted(api) == Desired(strategies=(1,), state=TargetState.PAUSED, reconnects=1)


async def test_what_the_owner_has_not_applied_yet_is_accepted(api: Api) -> None:
    api.owning = False
    requests = (
        (f"PUT {TARGET}", {"state": "running"}),
        (f"PUT {SUBSCRIPTION}", {"strategies": [1]}),
        (f"DELETE {SUBSCRIPTION}", None),
        (RECONNECT, None),
    )
    for answer in await asyncio.gather(*(api.ask(request, json=body) for request, body in requests)):
        assert (answer.status, answer.body["is_applied"]) == (202, False)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "body.strategies"),
        ({"strategies": "all"}, "body.strategies"),
        ({"strategies": [1.5]}, "body.strategies.0"),
        ({"strategies": ["1"]}, "body.strategies.0"),
        ({"strategies": [True]}, "body.strategies.0"),
        ({"strategies": [1, None]}, "body.strategies.1"),
        ({"strategies": [-1]}, "body.strategies.0"),
        ({"strategies": [2**63]}, "body.strategies.0"),
        ({"strategies": [1e300]}, "body.strategies.0"),
        ({"strategies": [float("inf")]}, "body.strategies.0"),
        ({"strategies": [float("nan")]}, "body.strategies.0"),
        ({"strategies": None, "strategy": 1}, "body.strategy"),
        ({"strategies": list(range(10**8, 10**8 + 2000))}, "body.strategies"),
        ([], "body"),
        ("x", "body"),
    ],
)
async def test_a_subscription_that_cannot_be_is_refused_and_says_where(api: Api, body: Any, where: str) -> None:  # noqa: ANN401
    answer = await api.ask(f"PUT {SUBSCRIPTION}", data=json.dumps(body), headers={"Content-Type": "application/json"})
    assert (answer.status, answer.problem) == (422, "invalid")
    assert answer.body["errors"][0]["where"] == where
    assert api.store.writes == []


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b'{"strategies": 1e', b"[" * 60_000, b"[" + b"9" * 5000 + b"]"])
async def test_what_is_no_json_is_refused(api: Api, raw: bytes) -> None:
    answer = await api.ask(f"PUT {SUBSCRIPTION}", data=raw, headers={"Content-Type": "application/json"})
    assert (answer.status, answer.problem) in {(400, "malformed"), (422, "invalid")}


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x"])
async def test_a_body_that_is_not_said_to_be_json_is_refused(api: Api, media_type: str) -> None:
    answer = await api.ask(f"PUT {TARGET}", data=b'{"state":"paused"}', headers={"Content-Type": media_type})
    assert (answer.status, answer.problem) == (415, "unsupported-media-type")


_JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("request_", "more", "where"),
    [
        ("DELETE /v1/accounts/main", {"headers": {"If-Match": '"99"'}}, "header.If-Match"),
        (RECONNECT, {"headers": {"if-match": '"99"'}}, "header.If-Match"),
        ("POST /v1/accounts/main/replays", {"json": {}, "headers": {"If-Match": "*"}}, "header.If-Match"),
        (
            f"PUT {SUBSCRIPTION}",
            {"json": {"strategies": [1]}, "headers": {"If-None-Match": "*"}},
            "header.If-None-Match",
        ),
        (
            f"DELETE {SUBSCRIPTION}",
            {"headers": {"If-Unmodified-Since": "Sun, 22 Nov 2026 13:00:00 GMT"}},
            "header.If-Unmodified-Since",
        ),
        ("DELETE /v1/accounts/main?dry_run=true", {}, "query.dry_run"),
        (f"PUT {SUBSCRIPTION}?dryRun=All", {"json": {"strategies": [1]}}, "query.dryRun"),
        (f"DELETE {SUBSCRIPTION}", {"json": {"strategies": [1]}}, "body"),
        ("DELETE /v1/accounts/main", {"json": {"dry_run": True}}, "body"),
        (RECONNECT, {"data": b"force=no"}, "body"),
        (f"PUT {TARGET}", {"data": b'{"state":"paused","state":"running"}', "headers": _JSON}, "body.state"),
        (f"PUT {SUBSCRIPTION}", {"data": b'{"strategies":[1],"strategies":null}', "headers": _JSON}, "body.strategies"),
    ],
)
async def test_no_change_is_made_of_a_request_that_would_be_half_looked_at(
    api: Api, request_: str, more: dict[str, Any], where: str
) -> None:
    await api.ask(f"PUT {TARGET}", json={"state": "paused" if "DELETE /v1/accounts/main" in request_ else "running"})
    before = dict(api.store.records)
    answer = await api.ask(request_, **more)
    assert (answer.status, answer.problem) == (422, "invalid")
    assert [error["where"] for error in answer.body["errors"]] == [where]
    assert {key: found[0] for key, found in api.store.records.items()} == {
        key: found[0] for key, found in before.items()
    }


@pytest.mark.parametrize("body", [b"", b"{}", b"{}\n", b"null"])
async def test_a_body_that_asks_for_nothing_may_come_with_what_takes_none(api: Api, body: bytes) -> None:
    assert (await api.ask(RECONNECT, data=body, headers=_JSON)).status == 200


async def test_if_match_lets_only_what_was_seen_be_changed(api: Api) -> None:
    body = {"strategies": [1]}
    missing = await api.ask(f"PUT {SUBSCRIPTION}", json=body, headers={"If-Match": "*"})
    assert (missing.status, missing.problem) == (412, "precondition-failed")
    first = await api.ask(f"PUT {SUBSCRIPTION}", json=body, headers={"If-Match": '"0"'})
    assert first.status == 200
    assert (await api.ask(f"PUT {SUBSCRIPTION}", json=body, headers={"If-Match": '"0"'})).status == 412
    tag = (await api.ask(f"GET {TARGET}")).headers["ETag"]
    assert tag == first.headers["ETag"]
    for given, status in (
        (f'"a", {tag}', 200),
        (tag, 412),
        ("*", 200),
        ('W/"1"', 412),
        ('"x"', 412),
        ('"-1"', 412),
        ("57", 412),
    ):
        answer = await api.ask(f"PUT {TARGET}", json={"state": "running"}, headers={"If-Match": given})
        assert answer.status == status, given


async def test_of_conflicting_puts_through_two_replicas_each_is_made_or_refused(api: Api) -> None:
    await api.replica()
    answers = await asyncio.gather(
        *(api.ask(f"PUT {SUBSCRIPTION}", at=number % 2, json={"strategies": [number]}) for number in range(8))
    )
    assert [answer.status for answer in answers] == [200] * 8
    assert len({answer.body["revision"] for answer in answers}) == 8
    last = max(answers, key=lambda answer: answer.body["revision"])
    assert wanted(api).strategies == tuple(last.body["strategies"])
    tag = last.headers["ETag"]
    conditional = await asyncio.gather(
        *(
            api.ask(f"PUT {SUBSCRIPTION}", at=number % 2, json={"strategies": [number]}, headers={"If-Match": tag})
            for number in range(8)
        )
    )
    assert sorted(answer.status for answer in conditional) == [200] + [412] * 7


async def test_a_key_lets_a_request_be_carried_out_once_through_every_replica(api: Api) -> None:
    await api.replica()
    headers = {"Idempotency-Key": "a-key"}
    answers = await asyncio.gather(*(api.ask(RECONNECT, at=number % 2, headers=headers) for number in range(6)))
    assert {(answer.status, answer.body["reconnects"]) for answer in answers} == {(200, 1)}
    assert wanted(api).reconnects == 1
    assert (await api.ask(RECONNECT, headers={"Idempotency-Key": "another"})).body["reconnects"] == 2
    assert (await api.ask(RECONNECT, at=1, headers=headers)).body["reconnects"] == 1
    assert wanted(api).reconnects == 2


async def test_only_the_last_keys_are_remembered(api: Api) -> None:
    for number in range(MAX_IDEMPOTENCY_RECORDS + 5):
        await api.ask(RECONNECT, headers={"Idempotency-Key": f"key-{number}"})
    answered = wanted(api).idempotency
    assert isinstance(answered, tuple)
    assert [one.result for one in answered] == list(range(6, MAX_IDEMPOTENCY_RECORDS + 6))


@pytest.mark.parametrize("key", ["", "k" * 256, "a key", "ké"])
async def test_a_key_that_cannot_be_is_refused(api: Api, key: str) -> None:
    answer = await api.ask(RECONNECT, headers={"Idempotency-Key": key})
    assert (answer.status, answer.problem) == (422, "invalid")


async def test_a_paused_account_has_no_connection_to_make_anew(api: Api) -> None:
    await api.ask(f"PUT {TARGET}", json={"state": "paused"})
    answer = await api.ask(RECONNECT)
    assert (answer.status, answer.problem) == (409, "paused")


def _check_away(answer: Answer, problem: str) -> None:
    assert (answer.status, answer.problem) == (503, problem)
    assert int(answer.headers["Retry-After"]) > 0


async def test_with_the_broker_away_writes_are_refused_and_reads_say_their_age(api: Api) -> None:
    api.store.trouble = Unavailable("no route")
    _check_away(await api.ask(f"PUT {SUBSCRIPTION}", json={"strategies": [1]}), "broker-unavailable")
    _check_away(await api.ask(RECONNECT, headers={"Idempotency-Key": "k"}), "broker-unavailable")
    assert (await api.ask("GET /v1/accounts/main")).body["observed"]["age_seconds"] > 0
    api.store.trouble = None
    assert (await api.ask(RECONNECT, headers={"Idempotency-Key": "k"})).body["reconnects"] == 1


async def test_an_outcome_that_stays_unknown_is_said_to_be(api: Api) -> None:
    api.store.trouble = OutcomeUnknown("no answer")
    _check_away(await api.ask(RECONNECT, headers={"Idempotency-Key": "k"}), "outcome-unknown")


async def test_an_outcome_that_the_view_tells_is_believed(api: Api) -> None:
    api.store.trouble, api.store.stores_anyway = OutcomeUnknown("no answer"), True
    answer = await api.ask(RECONNECT, headers={"Idempotency-Key": "k"})
    assert (answer.status, answer.body["reconnects"]) == (200, 1)
    assert wanted(api).reconnects == 1


async def test_a_change_is_a_line_in_the_log_and_a_look_is_none(api: Api) -> None:
    with capture_logs() as logs:
        await api.ask("GET /v1/accounts")
        await api.ask(f"PUT {TARGET}", json={"state": "paused"}, headers={"X-Request-Id": "from-me"})
        await api.ask("DELETE /v1/accounts/nobody/subscription")
    lines = [line for line in logs if line["event"] == "change requested"]
    assert [(line["who"], line["what"], line["status"]) for line in lines] == [
        ("local", f"PUT {TARGET}", 200),
        ("local", "DELETE /v1/accounts/nobody/subscription", 404),
    ]
    assert (lines[0]["client_request_id"], lines[0]["state"], lines[0]["role"]) == ("from-me", "paused", "operator")


async def test_each_change_says_who_made_it_when_and_in_which_request(api: Api) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    for request, body in (
        (f"PUT {SUBSCRIPTION}", {"strategies": [1]}),
        (f"DELETE {SUBSCRIPTION}", None),
        (RECONNECT, None),
        (f"PUT {TARGET}", {"state": "paused"}),
    ):
        answer = await api.ask(request, json=body, headers={"X-Request-Id": "mine"})
        written = stored(api).written
        assert written is not UNSET
        assert (written.by, written.request_id) == ("local", answer.headers["X-Request-Id"])
        assert before < datetime.fromisoformat(written.at) < datetime.now(UTC) + timedelta(seconds=1)
