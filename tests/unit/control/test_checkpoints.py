"""Checkpoints that operators set or let be forgotten: only at rest, and only as they were seen."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from gateway.state import CheckpointPosition, Desired, Replay, Reset, TargetState, decode_record, encode_record
from tests.unit.control.conftest import Api

CHECKPOINT = "/v1/accounts/main/checkpoint"
TAG = {"If-Match": '"1-40"'}
BOTH: Sequence[tuple[str, dict[str, Any]]] = (
    (f"PUT {CHECKPOINT}", {"json": {"verified": 7}, "headers": TAG}),
    ("DELETE /v1/accounts/main", {}),
)


def wanted(api: Api, account: str = "main") -> Desired:
    return decode_record(Desired, api.store.records[False, f"account.{account}"][0].value)


async def paused(api: Api, **facts: Any) -> None:  # noqa: ANN401 - members of Observed
    """Let an operator pause it, and its owner say that it is at rest."""
    api.owning = False
    record = api.store.records.get((False, "account.main"))
    desired, before = (Desired(), 0) if record is None else (wanted(api), record[0].revision)
    paused = encode_record(replace(desired, state=TargetState.PAUSED))
    revision = await api.store.write("account.main", paused, before)
    await api.wait_for_views(lambda view: view.desired_of("main").revision == revision)
    report = {"checkpoint": CheckpointPosition(40, 1), "settled": 40, "latest": 42, "applied": revision, **facts}
    await api.observed("main", state="paused", **report)


async def test_a_checkpoint_is_shown_with_its_tag(api: Api) -> None:
    answer = await api.ask(f"GET {CHECKPOINT}")
    assert (answer.body["verified"], answer.body["incarnation"], answer.headers["ETag"]) == (None, 0, '"0-0"')
    await api.observed("main", checkpoint=CheckpointPosition(40, 1))
    answer = await api.ask(f"GET {CHECKPOINT}")
    assert (answer.body["verified"], answer.body["incarnation"], answer.headers["ETag"]) == (40, 1, '"1-40"')


async def test_a_paused_account_begins_anew_where_it_is_told(api: Api) -> None:
    await paused(api)
    answer = await api.ask(f"PUT {CHECKPOINT}", json={"verified": 7}, headers=TAG)
    assert (answer.status, answer.body["is_applied"], answer.headers["ETag"]) == (202, False, '"2-7"')
    assert wanted(api).reset == Reset(2, 7)
    await paused(api, checkpoint=CheckpointPosition(7, 2))
    assert (await api.ask(f"GET {CHECKPOINT}")).headers["ETag"] == '"2-7"'
    answer = await api.ask(f"PUT {CHECKPOINT}", json={"verified": 7}, headers=TAG)
    assert (answer.status, answer.problem, answer.headers["ETag"]) == (412, "precondition-failed", '"2-7"')


@pytest.mark.parametrize(
    ("body", "headers", "status", "problem"),
    [
        ({"verified": 7}, {}, 428, "precondition-required"),
        ({"verified": 7}, {"If-Match": "*"}, 412, "precondition-failed"),
        ({"verified": 7}, {"If-Match": '"1-41"'}, 412, "precondition-failed"),
        ({"verified": 7}, {"If-Match": 'W/"1-40"'}, 412, "precondition-failed"),
        ({"verified": 7}, {"If-Match": '"1-4", W/"1-40", "0"1-40""'}, 412, "precondition-failed"),
        ({"verified": 43}, TAG, 422, "invalid"),
        ({"verified": -1}, TAG, 422, "invalid"),
        ({}, TAG, 422, "invalid"),
    ],
)
async def test_what_cannot_be_is_refused(
    api: Api, body: dict[str, Any], headers: dict[str, str], status: int, problem: str
) -> None:
    await paused(api)
    answer = await api.ask(f"PUT {CHECKPOINT}", json=body, headers=headers)
    assert (answer.status, answer.problem) == (status, problem)


async def test_an_account_that_runs_or_is_not_at_rest_yet_is_left_alone(api: Api) -> None:
    await api.observed("main", checkpoint=CheckpointPosition(40, 1), settled=40, latest=42)
    for request, more in BOTH:
        answer = await api.ask(request, **more)
        assert (answer.status, answer.problem) == (409, "not-paused")
    await paused(api, applied=0)  # its connection still stands
    for request, more in BOTH:
        assert (await api.ask(request, **more)).problem == "not-paused"


async def test_a_paused_account_is_forgotten_once_and_not_again_after_it_ran(api: Api) -> None:
    await paused(api)
    answer = await api.ask("DELETE /v1/accounts/main")
    assert (answer.status, answer.body) == (202, {"account": "main", "is_applied": False})
    assert wanted(api).forget is True
    await paused(api)
    await api.ask(f"PUT {CHECKPOINT}", json={"verified": 7}, headers=TAG)
    assert wanted(api).forget is not True
    await paused(api)
    await api.ask("DELETE /v1/accounts/main")
    assert (wanted(api).forget, "reset" in str(encode_record(wanted(api)))) == (True, False)
    await api.ask("PUT /v1/accounts/main/target-state", json={"state": "running"})
    assert wanted(api).forget is not True


async def test_an_account_without_a_key_need_not_be_paused_and_leaves_nothing(api: Api) -> None:
    api.owning = False
    await api.observed("main", state="key_missing")
    answer = await api.ask("DELETE /v1/accounts/main")
    assert answer.status == 202
    await api.store.forget(["account.main"])  # as the owner of its shard does
    await api.wait_for_views(lambda view: "main" not in view.observed)
    assert (await api.ask("GET /v1/accounts/main")).problem == "unknown-account"


async def test_replays_that_have_not_ended_keep_an_account(api: Api) -> None:
    await paused(api)
    record = Replay(account="main", until=9, requested_at="", requested_by="")
    await api.store.write("replay.1", encode_record(record), 0)
    await api.wait_for_views(lambda view: "1" in view.replays)
    answer = await api.ask("DELETE /v1/accounts/main")
    assert (answer.status, answer.problem) == (409, "has-replays")
    assert "Replay 1 of account main is pending" in answer.body["detail"]


async def test_what_is_not_done_yet_is_not_left_to_a_later_pause(api: Api) -> None:
    await paused(api)
    await api.ask(f"PUT {CHECKPOINT}", json={"verified": 7}, headers=TAG)
    answer = await api.ask("PUT /v1/accounts/main/target-state", json={"state": "running"})
    assert (answer.status, answer.problem) == (409, "reset-in-progress")
    await paused(api)  # not done yet
    answer = await api.ask(f"PUT {CHECKPOINT}", json={"verified": 5}, headers=TAG)
    assert answer.problem == "precondition-failed"
    await paused(api, checkpoint=CheckpointPosition(7, 2))
    assert (await api.ask("PUT /v1/accounts/main/target-state", json={"state": "running"})).status == 202
    assert "reset" not in str(encode_record(wanted(api)))


@pytest.mark.parametrize(
    "change", [(f"PUT {CHECKPOINT}", {"json": {"verified": 7}, "headers": TAG}), ("DELETE /v1/accounts/main", {})]
)
async def test_no_replay_is_taken_for_a_history_that_is_about_to_end(api: Api, change: tuple[str, Any]) -> None:
    await paused(api)
    assert (await api.ask(change[0], **change[1])).status == 202
    answer = await api.ask("POST /v1/accounts/main/replays", json={})
    assert (answer.status, answer.problem, answer.headers["Retry-After"]) == (409, "reset-in-progress", "1")
    position = UNSET if "DELETE" in change[0] else CheckpointPosition(7, 2)
    await paused(api, checkpoint=position)  # it is done
    answer = await api.ask("POST /v1/accounts/main/replays", json={})
    assert answer.status == 202
    record = decode_record(Replay, api.store.records[False, f"replay.{answer.body['id']}"][0].value)
    assert record.incarnation == (UNSET if position is UNSET else 2)


# A view that hears nothing ----------------------------------------------------------------------------------


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a report be old after a moment."""
    monkeypatch.setattr("gateway.broker.control_view.STALE_AFTER_S", 0.3)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("is_paused", [True, False])
async def test_a_replica_that_has_long_not_heard_from_the_broker_decides_nothing(api: Api, *, is_paused: bool) -> None:
    await (
        paused(api) if is_paused else api.observed("main", checkpoint=CheckpointPosition(40, 1), settled=40, latest=42)
    )
    api.store.is_silent = True
    await api.store.publish_observed({"account.main": b"unheard"})
    await asyncio.sleep(0.4)
    before = list(api.store.writes)
    for request, more in BOTH:
        answer = await api.ask(request, **more)
        assert (answer.status, answer.problem) == (503, "broker-unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        assert "has not heard from the broker for" in answer.body["detail"]
    assert api.store.writes == before


@pytest.mark.usefixtures("soon")
async def test_an_account_served_when_the_broker_was_last_heard_must_be_paused(api: Api) -> None:
    await api.observed("main", checkpoint=CheckpointPosition(40, 1), settled=40, latest=42)
    await asyncio.sleep(0.2)
    await api.observed("other")
    await asyncio.sleep(0.2)  # the report is old by now, and was not when the broker was heard last
    for request, more in BOTH:
        answer = await api.ask(request, **more)
        assert (answer.status, answer.problem) == (409, "not-paused")


@pytest.mark.usefixtures("soon")
async def test_an_account_nobody_reports_any_more_is_forgotten_though_not_paused(api: Api) -> None:
    api.owning = False
    await api.observed("main", checkpoint=CheckpointPosition(40, 1), settled=40, latest=42)
    await asyncio.sleep(0.4)
    await api.observed("other")
    assert (await api.ask("DELETE /v1/accounts/main")).status == 202
    assert wanted(api).forget is True
