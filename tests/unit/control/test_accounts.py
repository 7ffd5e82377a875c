"""What the API says of accounts: one of them, lists that are filtered, sorted and cut, and names that nobody has."""

from __future__ import annotations

import asyncio
import difflib
import gc
import time
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import UNSET

from gateway.control import models
from gateway.control.problems import nearest
from gateway.state import Observed, encode_record
from tests.unit.control.conftest import Api


async def names(api: Api, query: str) -> list[str]:
    answer = await api.ask(f"GET /v1/accounts{query}")
    assert answer.status == 200, answer
    return [one["account"] for one in answer.body["items"]]


async def test_an_account_shows_what_is_wanted_and_what_is_so(api: Api) -> None:
    await api.observed(
        "main",
        settled=40,
        latest=42,
        last_error="it was away",
        failed_strategies=(9,),
        connects=2,
        enum_forms=("numbers",),
        unnamed_enums=("OrderState",),
    )
    answer = await api.ask("GET /v1/accounts/main")
    assert answer.status == 200
    assert models.Account(**answer.body).account == "main"
    assert answer.body["desired"] == {
        "state": "running",
        "strategies": None,
        "reconnects": 0,
        "revision": 0,
        "age_seconds": None,
    }
    observed = answer.body["observed"]
    assert 0 <= observed.pop("age_seconds") < 5
    assert observed == {
        "state": "live",
        "since": "2026-11-22T13:32:25.092Z",
        "owner": "gateway-0/1",
        "settled": 40,
        "latest": 42,
        "lag": {"sequences": 2, "seconds": 0.0},
        "published": 0,
        "connects": 2,
        "last_error": "it was away",
        "subscription": {"strategies": None, "failed_strategies": [9]},
        "enums": {"forms": ["numbers"], "unnamed": ["OrderState"]},
        "applied": 0,
        "is_stale": False,
    }
    assert answer.body["is_applied"] is True


async def test_numbers_that_nobody_knows_are_null_and_none_is_made_up(api: Api) -> None:
    await api.observed("main", state="key_missing", settled=UNSET, latest=UNSET)
    observed = (await api.ask("GET /v1/accounts/main")).body["observed"]
    assert (observed["settled"], observed["latest"], observed["lag"]["sequences"]) == (None, None, None)
    assert (await api.ask("GET /v1/accounts?sort=worst")).status == 200
    await api.observed("main", state="key_missing", settled=40, latest=UNSET)
    observed = (await api.ask("GET /v1/accounts/main")).body["observed"]
    assert (observed["settled"], observed["latest"], observed["lag"]["sequences"]) == (40, None, None)
    answer = await api.ask("POST /v1/accounts/main/replays", json={"until": 43})
    assert "43 is beyond the last event that is known, 40" in str(answer.body)
    assert (await api.ask("POST /v1/accounts/main/replays", json={"until": 40})).status == 202


@pytest.mark.parametrize(
    ("name", "nearest"), [("mian", "main"), ("Main", "main"), ("zzzzzzzzzz", None), ("a" * 500, None), ("%20*", None)]
)
async def test_an_unknown_account_is_told_with_the_nearest_name(api: Api, name: str, nearest: str | None) -> None:
    for request in (f"GET /v1/accounts/{name}", f"DELETE /v1/accounts/{name}/subscription"):
        answer = await api.ask(request)
        assert (answer.status, answer.problem, answer.body.get("nearest")) == (404, "unknown-account", nearest)
    assert api.store.writes == []


def cheapest(do: Callable[[], object]) -> float:
    """Return the least CPU time of three runs."""

    def once() -> float:
        began = time.process_time()
        do()
        return time.process_time() - began

    return min(once() for _ in range(3))


@pytest.mark.parametrize("name", ["acount-12345", "account-1234", "zzzzzzz-99999", "accounts-00000"])
def test_nearest_of_20000_names_costs_less_than_a_quarter_of_comparing_all(name: str) -> None:
    names = [f"account-{number * 7919 % 20_000:05d}" for number in range(20_000)]
    found = nearest(name, names)
    assert found is not None if "c" in name else found is None
    all_of_a_quarter = cheapest(lambda: difflib.get_close_matches("acount-12345", names[:5000], n=1, cutoff=0.5))
    assert cheapest(lambda: nearest(name, names)) < all_of_a_quarter


def test_nearest_of_many_finds_an_error_at_either_end() -> None:
    names = [f"account-{number:05d}" for number in range(20_000)]
    for expected, typed in (
        ("account-12345", "ccount-12345"),
        ("account-12345", "acocunt-12345"),
        ("account-12345", "account-12345x"),
    ):
        assert nearest(typed, names) == expected


async def test_lists_are_sorted_worst_first_then_by_lag(api: Api) -> None:
    await api.observed("behind", settled=1, latest=900)
    for state in ("paused", "offline", "diverged", "unauthorized", "catching_up"):
        await api.observed(state, state=state)
    assert await names(api, "") == ["diverged", "unauthorized", "offline", "catching_up", "behind", "main", "paused"]
    assert await names(api, "?sort=name") == sorted(await names(api, ""))


async def test_lists_are_filtered(api: Api) -> None:
    await api.observed("other", owner="gateway-1/7", state="unauthorized")
    assert await names(api, "?state=unauthorized") == ["other"]
    assert await names(api, "?state=unauthorized&state=live") == ["other", "main"]
    assert await names(api, "?owner=gateway-1/7") == ["other"]
    assert await names(api, "?prefix=ma") == ["main"]
    assert await names(api, "?prefix=x") == []


@pytest.mark.parametrize("sort", ["worst", "name"])
async def test_a_long_list_comes_in_parts_that_hold_each_account_once(api: Api, sort: str) -> None:
    for number in range(25):
        await api.observed(f"account-{number}", latest=number % 7)
    found, query = [], f"?sort={sort}&limit=4"
    while True:
        answer = await api.ask(f"GET /v1/accounts{query}")
        assert len(answer.body["items"]) <= 4
        found += [one["account"] for one in answer.body["items"]]
        if answer.body["next"] is None:
            break
        query = f"?sort={sort}&limit=4&cursor={answer.body['next']}"
    assert len(found) == 26
    assert found == await names(api, f"?sort={sort}&limit=1000")


@pytest.mark.parametrize(
    "query",
    [
        "?limit=0",
        "?limit=1001",
        "?limit=x",
        "?state=sleeping",
        "?sort=best",
        "?sate=live",
        "?cursor=!",
        "?cursor=e30",
        "?cursor=WyJuYW1lIiwwLDAsIngiXQ",  # of a list by name
        "?prefix=" + "a" * 64,
    ],
)
async def test_a_query_that_cannot_be_is_refused_and_says_where(api: Api, query: str) -> None:
    answer = await api.ask(f"GET /v1/accounts{query}")
    assert (answer.status, answer.problem) == (422, "invalid")
    assert answer.body["errors"][0]["where"].startswith("query.")


async def test_a_record_of_a_later_release_is_shown_as_unknown_never_overwritten(api: Api) -> None:
    await api.store.write("account.main", b'{"version":2,"moon":"full"}', 0)
    await api.wait_for_views(lambda view: "main" in view.desired)
    answer = await api.ask("GET /v1/accounts/main")
    assert answer.body["desired"] is None
    for request, body in (("PUT", {"strategies": None}), ("GET", None), ("DELETE", None)):
        answer = await api.ask(f"{request} /v1/accounts/main/subscription", json=body)
        assert (answer.status, answer.problem) == (409, "written-by-newer-version")
    assert api.store.records[False, "account.main"][0].value == b'{"version":2,"moon":"full"}'


async def test_before_the_broker_was_heard_of_nothing_is_known(api: Api) -> None:
    await api.replica(fills=False)
    for request in ("GET /v1/accounts", "GET /v1/accounts/main", "POST /v1/accounts/main/reconnect"):
        answer = await api.ask(request, at=1)
        assert (answer.status, answer.problem) == (503, "not-ready")
        assert int(answer.headers["Retry-After"]) > 0
    assert (await api.ask("GET /v1/topics", at=1)).status == 200


async def test_topics_and_schemas_are_looked_up(api: Api) -> None:
    topics = (await api.ask("GET /v1/topics")).body["items"]
    assert topics[0] == {
        "kind": "order-update",
        "topic": "mesolive.events.order-update.v1.*",
        "schema_url": "/v1/schemas/order-update",
    }
    schema = await api.ask("GET /v1/schemas/order-update")
    assert schema.body["$id"] == "urn:mesolive:order-update:v1"
    unknown = await api.ask("GET /v1/schemas/order-updat")
    assert (unknown.status, unknown.problem, unknown.body["nearest"]) == (404, "unknown-kind", "order-update")


async def test_the_list_of_thousands_does_not_hold_up_the_loop(api: Api) -> None:
    await api.store.publish_observed({key: value for number in range(3000) for key, value in _report(number).items()})
    await api.wait_for_views(lambda view: len(view.observed) == 3001)
    longest, ended = 0.0, False

    async def watch() -> None:
        nonlocal longest
        while not ended:
            before = time.thread_time()  # of this thread alone, whatever else the machine has to do
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)

    gc.disable()  # of whatever other tests left, which may take as long
    try:
        watching = asyncio.create_task(watch())
        assert len(await names(api, "?limit=1000")) == 1000
        ended = True
        await watching
    finally:
        gc.enable()
    assert longest < 0.25  # 0.02 to 0.04 s was measured


def _report(number: int) -> dict[str, Any]:
    return {f"account.many-{number}": encode_record(Observed(owner="g/1", state="live", since="", latest=number))}
