"""Each change that is made is recorded in the audit topic, in order, however long that takes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.control.auditing import Auditing, of_desired
from gateway.control.auth.callers import RequestCaller
from gateway.control.auth.principals import LOCAL
from gateway.control.problems import Problem
from gateway.errors import OutcomeUnknown, Unavailable
from gateway.state import Desired
from tests.unit.control.conftest import Api

SUBSCRIPTION = "/v1/accounts/main/subscription"
TARGET = "/v1/accounts/main/target-state"
RECONNECT = "/v1/accounts/main/reconnect"


def recorded(api: Api) -> list[dict[str, Any]]:
    return [json.loads(record) for record in api.audit.records]


async def test_each_change_is_recorded_with_what_was_before_and_what_is_after(api: Api) -> None:
    revisions, ids = [], []
    for request, body in (
        (f"PUT {SUBSCRIPTION}", {"strategies": [1, 2]}),
        (f"PUT {SUBSCRIPTION}", {"strategies": [2]}),
        (f"DELETE {SUBSCRIPTION}", None),
        (f"POST {RECONNECT}", None),
        (f"PUT {TARGET}", {"state": "paused"}),
    ):
        answer = await api.ask(request, json=body, headers={"X-Request-Id": "mine"})
        assert answer.status == 200
        revisions.append(answer.body.get("revision"))
        ids.append(answer.headers["X-Request-Id"])
    found = recorded(api)
    assert [(one["action"], one["before"], one["after"]) for one in found] == [
        ("subscription", {"strategies": None}, {"strategies": [1, 2]}),
        ("subscription", {"strategies": [1, 2]}, {"strategies": [2]}),
        ("subscription", {"strategies": [2]}, {"strategies": None}),
        ("reconnect", {"reconnects": 0}, {"reconnects": 1}),
        ("target-state", {"state": "running"}, {"state": "paused"}),
    ]
    assert [one["request_id"] for one in found] == ids
    assert [one["revision"] for one in found if one["action"] != "reconnect"] == [one for one in revisions if one]
    assert {(one["by"], one["role"], one["account"], one["outcome"], one["version"]) for one in found} == {
        ("local", "operator", "main", "made", 1)
    }
    assert {(one["client_request_id"], one["address"]) for one in found} == {("mine", "127.0.0.1")}
    assert len({one["id"] for one in found}) == 5


async def test_a_checkpoint_a_replay_and_a_forgotten_account_are_recorded(api: Api) -> None:
    asked = await api.ask("POST /v1/accounts/main/replays", json={"until": 40})
    await api.ask(f"POST /v1/replays/{asked.body['id']}/cancel")
    await api.ask(f"PUT {TARGET}", json={"state": "paused"})
    api.owning = False
    revision = api.store.records[False, "account.main"][0].revision
    await api.observed("main", state="paused", applied=revision, settled=40, latest=42)
    answer = await api.ask("PUT /v1/accounts/main/checkpoint", json={"verified": 7}, headers={"If-Match": '"0-0"'})
    assert answer.status == 202, answer
    revision = api.store.records[False, "account.main"][0].revision
    await api.observed("main", state="paused", applied=revision, settled=40, latest=42)
    assert (await api.ask("DELETE /v1/accounts/main")).status == 202
    found = [(one["action"], one["replay"], one["after"]) for one in recorded(api)]
    assert [action for action, _, _ in found] == ["replay", "replay-cancel", "target-state", "checkpoint", "forget"]
    assert found[0][1] == found[1][1] == asked.body["id"]
    assert (found[0][2]["until"], found[1][2]) == (40, {"cancel_requested": True})
    assert found[3][2] == {"reset": {"incarnation": 1, "verified": 7}}
    assert found[4][2] == {"forget": True, "reset": None}


async def test_what_is_not_changed_is_not_recorded(api: Api) -> None:
    await api.ask(f"PUT {SUBSCRIPTION}", json={"strategies": [-1]})
    await api.ask(f"PUT {TARGET}", json={"state": "paused"}, headers={"If-Match": '"99"'})
    await api.ask("DELETE /v1/accounts/nobody/subscription")
    api.store.trouble = Unavailable("gone")
    await api.ask(f"PUT {TARGET}", json={"state": "paused"})
    assert api.audit.records == []


async def test_a_request_that_is_repeated_is_recorded_once(api: Api) -> None:
    for _ in range(3):
        await api.ask(f"POST {RECONNECT}", headers={"Idempotency-Key": "k"})
    assert [one["action"] for one in recorded(api)] == ["reconnect"]


@pytest.mark.parametrize(("stores", "outcome"), [(True, "made"), (False, "unknown")])
async def test_a_change_whose_answer_was_lost_is_recorded_as_what_the_view_tells(
    api: Api, monkeypatch: pytest.MonkeyPatch, stores: bool, outcome: str
) -> None:
    monkeypatch.setattr("gateway.control.desired_state.READ_TIMEOUT_S", 0.5)
    api.store.trouble, api.store.stores_anyway = OutcomeUnknown("no answer"), stores
    await api.ask(f"PUT {TARGET}", json={"state": "paused"})
    assert [(one["action"], one["outcome"]) for one in recorded(api)] == [("target-state", outcome)]


@pytest.mark.parametrize(
    ("request_", "body", "action"),
    [
        (f"PUT {TARGET}", {"state": "paused"}, "target-state"),
        ("POST /v1/accounts/main/replays", {"until": 40}, "replay"),
    ],
)
async def test_a_change_that_ended_unexpectedly_is_recorded_as_unknown(
    api: Api, request_: str, body: object, action: str
) -> None:
    api.store.trouble, api.store.stores_anyway = ValueError("a bug"), True  # type: ignore[assignment]
    assert (await api.ask(request_, json=body)).problem == "internal"
    async with asyncio.timeout(20):
        while api.counts.audit_waiting:
            await asyncio.sleep(0.01)
    assert [(one["action"], one["outcome"]) for one in recorded(api)] == [(action, "unknown")]


async def test_a_record_that_the_broker_refuses_is_an_error_and_written_later(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.control.auditing._WRITE_TIMEOUT_S", 0.1)
    api.audit.failure = Unavailable("no such stream")
    with capture_logs() as logs:
        for state in ("paused", "running"):
            assert (await api.ask(f"PUT {TARGET}", json={"state": state})).status == 200
    errors = [log for log in logs if log["event"] == "audit record not stored yet, retrying"]
    assert errors
    assert (errors[0]["log_level"], errors[0]["error"], errors[0]["account"]) == ("error", "no such stream", "main")
    assert (api.counts.audit_waiting, api.audit.records) == (2, [])
    assert api.counts.audit_failures >= len(errors)
    api.audit.failure = None
    async with asyncio.timeout(20):
        while api.counts.audit_waiting:
            await asyncio.sleep(0.01)
    assert [one["after"] for one in recorded(api)] == [{"state": "paused"}, {"state": "running"}]


async def test_an_unexpected_fault_is_tried_again_too(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.control.auditing._WRITE_TIMEOUT_S", 0.1)
    api.audit.failure = ValueError("a bug")  # type: ignore[assignment]
    await api.ask(f"PUT {TARGET}", json={"state": "paused"})
    api.audit.failure = None
    async with asyncio.timeout(20):
        while api.counts.audit_waiting:
            await asyncio.sleep(0.01)
    assert len(recorded(api)) == 1


async def test_nothing_is_changed_while_too_many_records_wait(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.control.auditing._WRITE_TIMEOUT_S", 0.01)
    monkeypatch.setattr("gateway.control.auditing._MAX_WAITING", 2)
    api.audit.failure = Unavailable("full")
    for state in ("paused", "running"):
        assert (await api.ask(f"PUT {TARGET}", json={"state": state})).status == 200
    for request, body in ((f"PUT {TARGET}", {"state": "paused"}), ("POST /v1/accounts/main/replays", {"until": 40})):
        answer = await api.ask(request, json=body)
        assert (answer.status, answer.problem) == (503, "broker-unavailable")
        assert "audit" in answer.body["detail"]
    assert len(api.store.writes) == 2
    assert (await api.ask("GET /v1/accounts")).status == 200


async def test_what_cannot_be_written_before_the_end_is_in_the_log(api: Api) -> None:
    api.audit.failure = Unavailable("gone")
    auditing = Auditing(api.counts, api.audit)
    intent = of_desired(RequestCaller(LOCAL, "the-request"), "reconnect", "main", Desired(), Desired(reconnects=1))
    auditing.put(intent.record("made", 5))
    with capture_logs() as logs:
        await auditing.end(0.05)
    (lost,) = [log for log in logs if log["event"] == "audit record lost"]
    assert (lost["log_level"], lost["record"]["request_id"]) == ("error", "the-request")
    for _ in range(1000):
        auditing.put(intent.record("made"))
    with pytest.raises(Problem):
        auditing.check_room()
    await auditing.end(0)
