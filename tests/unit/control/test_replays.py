"""Replays as they are asked for: what is refused and in which words, what is written once, and what is shown."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from gateway.errors import OutcomeUnknown, Unavailable
from gateway.state import Destination, Phase, Replay, decode_record
from tests.unit.control.conftest import Answer, Api, reported

ASK = "POST /v1/accounts/main/replays"


async def asked(api: Api, **wanted: Any) -> str:  # noqa: ANN401 - JSON
    answer = await api.ask(ASK, json=wanted)
    assert answer.status == 202, answer
    return str(answer.body["id"])


def written(api: Api, id_: str) -> Replay:
    return decode_record(Replay, api.store.records[False, f"replay.{id_}"][0].value)


async def test_what_is_asked_for_is_written_and_shown(api: Api) -> None:
    answer = await api.ask(
        ASK,
        json={
            "since": 10,
            "until": 20,
            "from": "2026-11-22T14:00:00.1234567+01:00",
            "to": "2026-11-22T13:30:00Z",
            "kinds": ["order-update", "dead-letter", "order-update"],
            "strategies": [3, 1.0, 3],
            "destination": "replay",
        },
    )
    assert (answer.status, answer.headers["Location"]) == (202, f"/v1/replays/{answer.body['id']}")
    shown = (await api.ask(f"GET {answer.headers['Location']}")).body
    assert {name: shown[name] for name in ("since", "until", "from", "to", "kinds", "strategies", "destination")} == {
        "since": 10,
        "until": 20,
        "from": "2026-11-22T13:00:00.1234567Z",
        "to": "2026-11-22T13:30:00Z",
        "kinds": ["order-update", "dead-letter"],
        "strategies": [1, 3],
        "destination": "replay",
    }
    assert (shown["state"], shown["requested_by"], shown["owner"], shown["age_seconds"]) == (
        "pending",
        "local",
        None,
        None,
    )


@pytest.mark.parametrize(
    ("wanted", "destination"),
    [({}, Destination.REPLAY), ({"destination": "topics"}, Destination.TOPICS)],
    ids=["by default", "as asked for"],
)
async def test_events_go_among_the_live_ones_only_where_that_is_asked_for(
    api: Api, wanted: dict[str, Any], destination: Destination
) -> None:
    id_ = await asked(api, **wanted)
    assert written(api, id_).destination is destination
    assert (await api.ask(f"GET /v1/replays/{id_}")).body["destination"] == destination.value


@pytest.mark.parametrize(
    ("options", "destination"),
    [([], Destination.REPLAY), (["--destination", "topics"], Destination.TOPICS)],
    ids=["by default", "as asked for"],
)
async def test_the_command_asks_for_the_same_destination(
    api: Api, options: list[str], destination: Destination
) -> None:
    command = [sys.executable, "-c", "from gateway.cli.main import main; main()", "replay", "start", "main"]
    more = ["--detach", "--json", "--url", api.urls[0], *options]
    program = await asyncio.create_subprocess_exec(*command, *more, stdout=asyncio.subprocess.PIPE)
    output, _ = await program.communicate()
    assert (program.returncode, written(api, json.loads(output)["id"]).destination) == (0, destination)


async def test_without_an_end_it_ends_with_what_is_published_now(api: Api) -> None:
    assert written(api, await asked(api)).until == 40


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"since": 20, "until": 20}, "body.since: the range is empty: it begins after 20 and ends with until 20."),
        ({"since": 40}, "the range is empty: it begins after 40 and ends with 40, the last event that is published."),
        ({"until": 43}, "43 is beyond the hub's latest event, 42"),
        ({"until": 2**63}, "less than or equal to"),
        ({"since": -1}, "greater than or equal to"),
        ({"since": "10"}, "valid integer"),
        ({"from": "2026-11-22T13:00:00"}, "2026-11-22T13:00:00 has no offset: write it as 2026-11-22T13:00:00Z if"),
        ({"to": "yesterday"}, "'yesterday' is no time"),
        ({"from": "2026-11-22T13:00:00Z", "to": "2026-11-22T14:00:00+01:00"}, "the range is empty: it begins at"),
        ({"kinds": ["order-updates"]}, "there is no kind 'order-updates': did you mean order-update?"),
        ({"kinds": []}, "at least 1 item"),
        ({"strategies": []}, "at least 1 item"),
        ({"destination": "elsewhere"}, "'topics' or 'replay'"),
        ({"form": "2026-11-22T13:00:00Z"}, "body.form: is not known here"),
    ],
)
async def test_what_cannot_be_is_refused_in_words(api: Api, wanted: dict[str, Any], message: str) -> None:
    answer = await api.ask(ASK, json=wanted)
    assert (answer.status, answer.problem) == (422, "invalid")
    assert message in answer.body["detail"], answer.body["detail"]
    assert answer.body["errors"][0]["where"] == f"body.{'.'.join(list(wanted)[:1])}"
    assert [key for _, key in api.store.records if key.startswith("replay.")] == []


async def test_the_nearest_kind_is_named_for_programs_too(api: Api) -> None:
    assert (await api.ask(ASK, json={"kinds": ["OrderUpdate"]})).body["nearest"] == "order-update"


async def test_an_account_of_which_nothing_is_published_has_nothing_to_replay(api: Api) -> None:
    await api.observed("empty", settled=0, latest=0)
    answer = await api.ask("POST /v1/accounts/empty/replays", json={})
    assert answer.problem == "invalid"
    assert "nothing of the account is published yet" in answer.body["detail"]
    assert (await api.ask("POST /v1/accounts/mian/replays", json={})).body["nearest"] == "main"


async def test_the_same_key_asks_once_at_whichever_replica_and_however_often(api: Api) -> None:
    await api.replica()

    def ask(number: int, until: int = 20) -> Any:  # noqa: ANN401 - awaitable
        return api.ask(ASK, at=number % 2, json={"since": 1, "until": until}, headers={"Idempotency-Key": "k"})

    answers: list[Answer] = await asyncio.gather(*(ask(number) for number in range(8)))
    assert {answer.status for answer in answers} == {202}
    assert len({answer.body["id"] for answer in answers}) == 1
    answer = await ask(1, until=21)
    assert (answer.status, answer.problem) == (422, "idempotency-key-reused")
    assert len([key for _, key in api.store.records if key.startswith("replay.")]) == 1


@pytest.mark.parametrize("stores_anyway", [True, False])
async def test_an_answer_that_is_lost_is_looked_up(api: Api, *, stores_anyway: bool) -> None:
    api.store.trouble, api.store.stores_anyway = OutcomeUnknown("lost"), stores_anyway
    answer = await api.ask(ASK, json={}, headers={"Idempotency-Key": "k"})
    assert answer.status == (202 if stores_anyway else 503)
    if not stores_anyway:
        assert (answer.problem, answer.headers["Retry-After"]) == ("outcome-unknown", "2")
        api.store.trouble = None
        assert (await api.ask(ASK, json={}, headers={"Idempotency-Key": "k"})).status == 202
    assert len(api.store.records) == 2  # the replay, and the account's report


async def test_a_broker_that_is_away_is_told(api: Api) -> None:
    id_ = await asked(api)
    api.store.trouble = Unavailable("away")
    for request in (ASK, f"POST /v1/replays/{id_}/cancel"):
        answer = await api.ask(request, json={})
        assert (answer.problem, answer.status) == ("broker-unavailable", 503)
        assert int(answer.headers["Retry-After"]) > 0
    assert (await api.ask(f"GET /v1/replays/{id_}")).status == 200


async def test_progress_is_shown_as_it_was_reported(api: Api) -> None:
    id_ = await asked(api, since=20, until=40)
    await reported(api, id_, Phase.RUNNING, origin=20, position=25, read=5, published=3, rate=2.5, seconds_left=6.0)
    shown = (await api.ask(f"GET /v1/replays/{id_}")).body
    assert (shown["state"], shown["owner"]) == ("running", "gateway-0/1")
    assert shown["progress"] == {
        "fraction": 0.25,
        "position": 25,
        "read": 5,
        "published": 3,
        "events_per_second": 2.5,
        "seconds_left": 6.0,
    }
    await reported(api, id_, Phase.FAILED, origin=20, position=25, detail="gone", ended="then")
    shown = (await api.ask(f"GET /v1/replays/{id_}")).body
    assert (shown["state"], shown["detail"], shown["ended"]) == ("failed", "gone", "then")


async def test_cancelling_is_written_once_and_waits_for_the_owner(api: Api) -> None:
    id_ = await asked(api)
    cancel = f"POST /v1/replays/{id_}/cancel"
    await reported(api, id_, Phase.RUNNING)
    answer = await api.ask(cancel)
    assert (answer.status, answer.body["state"], answer.body["cancel_requested"]) == (202, "running", True)
    assert written(api, id_).cancel_requested
    writes = len(api.store.writes)
    await reported(api, id_, Phase.CANCELLED)
    answer = await api.ask(cancel)
    assert (answer.status, answer.body["state"]) == (200, "cancelled")
    assert len(api.store.writes) == writes
    done = await asked(api)
    await reported(api, done, Phase.COMPLETED)
    answer = await api.ask(f"POST /v1/replays/{done}/cancel")
    assert (answer.status, answer.problem) == (409, "replay-finished")
    assert (await api.ask(f"POST /v1/replays/{'0' * 32}/cancel")).problem == "unknown-replay"


async def test_one_that_nobody_has_begun_is_cancelled_at_once(api: Api) -> None:
    id_ = await asked(api)
    answer = await api.ask(f"POST /v1/replays/{id_}/cancel")
    assert (answer.status, answer.body["state"]) == (200, "cancelled")


async def test_no_more_wait_than_may_and_old_ones_are_forgotten(api: Api) -> None:
    ids = [await asked(api) for _ in range(3)]
    answer = await api.ask(ASK, json={})
    assert (answer.status, answer.problem, answer.headers["Retry-After"]) == (429, "too-many-replays", "30")
    for id_ in ids:
        await reported(api, id_, Phase.COMPLETED)
        await asyncio.sleep(0.01)
    fourth = await asked(api)
    await api.wait_for_views(lambda view: ids[0] not in view.replays)
    found = (await api.ask("GET /v1/replays")).body["items"]
    assert found[0]["id"] == fourth
    assert {one["id"] for one in found[1:]} == {ids[2], ids[1]}  # of one millisecond, perhaps


async def test_a_list_comes_in_parts_and_filtered(api: Api) -> None:
    await api.observed("other", settled=5, latest=5)
    ids = []
    for account in ("main", "other", "main"):
        ids.append((await api.ask(f"POST /v1/accounts/{account}/replays", json={})).body["id"])
        await asyncio.sleep(0.01)
    await reported(api, ids[0], Phase.FAILED)
    assert [one["id"] for one in (await api.ask("GET /v1/replays?account=main")).body["items"]] == [ids[2], ids[0]]
    assert [one["id"] for one in (await api.ask("GET /v1/replays?state=failed")).body["items"]] == [ids[0]]
    part = (await api.ask("GET /v1/replays?limit=2")).body
    rest = (await api.ask(f"GET /v1/replays?limit=2&cursor={part['next']}")).body
    assert [one["id"] for one in part["items"] + rest["items"]] == ids[::-1]
    assert rest["next"] is None
    assert (await api.ask("GET /v1/replays?cursor=x")).problem == "invalid"
    assert (await api.ask("GET /v1/replays?state=lost")).problem == "invalid"
