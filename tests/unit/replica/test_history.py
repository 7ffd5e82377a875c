"""What a refusal of the hub means for the next question, and what an account does that stands still."""

from __future__ import annotations

import json
from typing import Any

import pytest
import structlog

from gateway.errors import CallFailed, CallRejected, CallTimedOut, ConnectionLost
from gateway.hub.methods import EventsPage
from gateway.publication import DEAD_LETTER
from gateway.replica.source.account import AccountState
from gateway.replica.source.context import AccountPageSize, AdaptivePageSize
from gateway.replica.source.history_client import HistoryClient
from gateway.session.types import PageRequest
from gateway.simulator import Failure, Injection
from tests.support.in_process import Build

ROOM = 2**30
PAGE = EventsPage([], None)
FAILED = CallFailed("GetEventsSince", "HubException: Limit must be between 1 and 50")
REJECTED = CallRejected("GetEventsSince", "4", "VALIDATION", "no", fields=("Limit",))


class Answers:
    """A hub that gives these answers in turn, and notes how much was asked for."""

    def __init__(self, *answers: EventsPage | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[int] = []

    async def events_since(self, _since: int, limit: int, _token: str | None) -> EventsPage:
        self.asked.append(limit)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only timers: what happens after them stays."""
    monkeypatch.setattr("gateway.replica.source.history_client.MAX_CALL_DELAY_S", 0.0)


async def ask(hub: Any, *, limit: AdaptivePageSize, token: str | None = None) -> EventsPage | None:  # noqa: ANN401
    return await HistoryClient("acme", limit, lambda _: None).page(hub, PageRequest(1, token))


@pytest.mark.parametrize("refusal", [FAILED, REJECTED])
async def test_a_refused_limit_is_halved_however_the_hub_says_it(refusal: Exception) -> None:
    hub, limit = Answers(refusal, refusal, PAGE), AdaptivePageSize(1000, ROOM)
    assert await ask(hub, limit=limit) == PAGE
    assert hub.asked == [1000, 500, 250]


async def test_a_page_of_as_many_events_as_were_asked_for_is_full() -> None:
    full = await ask(Answers(EventsPage([b"{}"], None)), limit=AdaptivePageSize(1, ROOM))
    other = await ask(Answers(EventsPage([b"{}"], None)), limit=AdaptivePageSize(2, ROOM))
    assert (full and full.is_full, other and other.is_full) == (True, False)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "refusal",
    [
        CallFailed("GetEventsSince", "An unexpected error occurred invoking 'GetEventsSince' on the server."),
        CallFailed("GetEventsSince", "500 is the most that can be returned"),
        CallFailed("GetEventsSince", "HubException: the rate limit is at most 10 requests a second"),
        CallRejected("GetEventsSince", "9", "MaxEventsLimitExceeded", "no"),
        CallTimedOut("GetEventsSince", 30),
    ],
)
async def test_a_page_that_fails_twice_is_asked_for_at_half_its_size(refusal: Exception) -> None:
    hub, limit = Answers(*[refusal] * 3, PAGE), AdaptivePageSize(1000, ROOM)
    assert await ask(hub, limit=limit) == PAGE
    assert hub.asked == [1000, 1000, 500, 250]
    assert limit.size == 1000, "other accounts ask for as much as before"


async def test_it_grows_again_and_what_failed_again_is_not_tried_for_a_while() -> None:
    limit = AdaptivePageSize(1000, ROOM)
    own = AccountPageSize("acme", limit, 1000)
    own.halve(1000, is_limit=False)
    own.halve(500, is_limit=False)
    own.on_page([b"{}"])
    assert own.size == 500
    own.halve(500, is_limit=False)
    own.on_page([b"{}"])
    assert own.size == 250
    own._holds_until = 0.0
    for _ in range(2):
        own.on_page([b"{}"])
    assert own.size == 1000


async def test_what_three_accounts_agree_on_holds_for_all_and_for_an_hour() -> None:
    limit = AdaptivePageSize(1000, ROOM)
    for account in ("one", "two"):
        AccountPageSize(account, limit, 1000).halve(1000, is_limit=True)
    assert limit.size == 1000

    AccountPageSize("three", limit, 1000).halve(500, is_limit=True)

    assert limit.size == 500
    limit.on_page([b"{}"] * 500)
    assert limit.size == 500
    limit._holds_until = 0.0
    limit.on_page([b"{}"] * 500)
    assert limit.size == 1000


async def test_three_accounts_with_bad_events_do_not_make_all_page_one_by_one() -> None:
    limit = AdaptivePageSize(1000, ROOM)
    AccountPageSize("well", limit, 1000).on_page([b"{}"] * 400)
    owns = [AccountPageSize(account, limit, 1000) for account in ("one", "two", "three")]
    while any(own.size > 1 for own in owns):
        for own in owns:
            own.halve(own.size, is_limit=False)

    assert limit.size == 400


@pytest.mark.usefixtures("at_once")
async def test_an_event_that_the_hub_cannot_give_even_alone_is_named() -> None:
    masked = CallFailed("GetEventsSince", "An unexpected error occurred invoking 'GetEventsSince' on the server.")
    history = HistoryClient("acme", AdaptivePageSize(4, ROOM), lambda _: None)
    with structlog.testing.capture_logs() as logs:
        await history.page(hub := Answers(*[masked] * 6, PAGE), PageRequest(7))  # type: ignore[arg-type]
    assert hub.asked == [4, 4, 2, 1, 1, 1, 1]
    (entry,) = logs
    assert (entry["log_level"], entry["account"], entry["since"]) == ("error", "acme", 7)
    assert "the hub cannot return the next event" in entry["event"]


@pytest.mark.usefixtures("at_once")
async def test_a_token_that_fails_and_fails_is_given_up() -> None:
    hub = Answers(*[CallFailed("GetEventsSince", "HubException: token expired")] * 3)
    assert await ask(hub, limit=AdaptivePageSize(1000, ROOM), token="t") is None
    rejected = Answers(CallRejected("GetEventsSince", "4", "VALIDATION", "token"))
    assert await ask(rejected, limit=AdaptivePageSize(1000, ROOM), token="t") is None


async def test_a_connection_that_drops_with_each_page_makes_pages_smaller() -> None:
    limit = AdaptivePageSize(1000, ROOM)
    history = HistoryClient("acme", limit, lambda _: None)
    for _ in range(2):
        with pytest.raises(ConnectionLost):
            await history.page(Answers(ConnectionLost("gone", reason="dropped")), PageRequest(1))  # type: ignore[arg-type]
    assert history._limit.size == 500


async def test_one_event_above_the_record_limit_is_told_and_does_not_slow_others() -> None:
    limit = AdaptivePageSize(4, ROOM)
    limit.on_page([b"{}"] * 4)
    history = HistoryClient("acme", limit, lambda _: None)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(ConnectionLost):
                await history.page(Answers(ConnectionLost("33 MB", reason="too-large")), PageRequest(7))  # type: ignore[arg-type]
    assert limit.size == 4
    (entry,) = logs
    assert (entry["log_level"], entry["account"], entry["since"]) == ("error", "acme", 7)
    assert "hub.max_record_bytes" in entry["event"]


async def test_an_account_that_diverged_goes_on_when_its_key_is_mended(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.replica.source.supervisor._KEY_POLL_INTERVAL_S", 0.02)
    world = await build("alpha", "beta", prefill=10)
    await world.replica()
    await world.published("alpha", range(1, 11))
    world.hub.user("alpha").emit(5)
    await world.published("alpha", range(1, 16))
    (world.keys / "alpha").write_text("key-of-beta")
    world.hub.drop("alpha")
    await world.becomes("alpha", AccountState.DIVERGED)

    (world.keys / "alpha").write_text("key-of-alpha")
    world.hub.user("alpha").emit(5)
    await world.published("alpha", range(1, 21))

    await world.becomes("alpha", AccountState.LIVE)
    assert world.keys_of("alpha") == list(range(1, 21))


async def test_a_missing_key_is_called_so(build: Build) -> None:
    world = await build("alpha", "beta", prefill=3)
    with structlog.testing.capture_logs() as logs:
        await world.replica()
        await world.published("alpha", range(1, 4))
        (world.keys / "alpha").unlink()
        world.hub.drop("alpha")
        await world.until(lambda: any("key file is unreadable" in entry["event"] for entry in logs), "it is said")
        (world.keys / "alpha").write_text("key-of-alpha")
        world.hub.user("alpha").emit(2)
        await world.published("alpha", range(1, 6))


async def test_another_event_of_a_verified_number_is_a_dead_letter_and_told(build: Build) -> None:
    world = await build("alpha", prefill=30)
    with structlog.testing.capture_logs() as logs:
        await world.replica()
        await world.published("alpha", range(1, 31))
        user = world.hub.user("alpha")
        await world.until(lambda: user.counts["GetLatestEventSeqId"] > 5, "all is verified")
        old = '{"OrderId":7,"StrategyId":1,"StrategyName":"S","State":1,"FilledQty":null,"RemainingQty":null,'
        old += '"FillPrice":null,"AvgFillPrice":null,"EventId":"$ID","EventSeqId":2,"EventTime":"2020-01-01T00:00:00Z"}'
        user.inject(Injection(old.encode(), history="no", sequence=2))
        await world.until(lambda: any("two events have one sequence" in entry["event"] for entry in logs), "it is told")
        await world.until(lambda: world.messages("alpha")[-1].topic == DEAD_LETTER, "it is a dead letter")
    (entry,) = (entry for entry in logs if "two events" in entry["event"])
    assert (entry["log_level"], entry["sequence"]) == ("warning", 2)
    letter = json.loads(world.messages("alpha")[-1].value)
    assert (letter["Reason"], letter["EventSeqId"], letter["EventId"]) == ("sequence-reused", 2, entry["id"])
    assert entry["id"] in letter["Detail"]
    assert world.keys_of("alpha") == [*range(1, 31), 2]


async def test_a_subscription_that_fails_for_some_is_told_and_tried_again(build: Build) -> None:
    world = await build("alpha", prefill=3)
    failing = min(world.hub.user("alpha").strategies)
    world.hub.patch_faults("alpha", failed_strategies=[failing])
    with structlog.testing.capture_logs() as logs:
        await world.replica()
        await world.until(lambda: world.hub.user("alpha").counts["SubscribeToStrategies"] >= 2, "it is tried again")
        world.hub.patch_faults("alpha", failed_strategies=None)
        await world.until(lambda: any(entry.get("failed") == [] for entry in logs), "it is told that all is well")
    assert [entry["failed"] for entry in logs if "failed" in entry] == [[failing], []]


async def test_an_answer_that_fails_is_tried_again(build: Build) -> None:
    world = await build("alpha", prefill=3)
    world.hub.user("alpha").failures.append(Failure("GetEventsSince", 2, hub_exception="busy"))
    await world.replica()
    await world.published("alpha", range(1, 4))
