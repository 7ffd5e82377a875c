"""One session over one connection: which answers of the hub's history it takes in, and which come too late for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

from gateway.broker.control_view import VersionedDesired
from gateway.replica.source.account import Account, AccountState
from gateway.signalr.connection import HubConnection
from gateway.state import Desired
from tests.support.in_process import Build, World

LONG_AGO, NOW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"


@dataclass
class Hub:
    """A hub that answers from the history that it has when it is asked; an answer may come later."""

    history: list[int]
    page: int
    """Events that it gives at once."""
    asked: list[str] = field(default_factory=list)
    """The methods that were called, GetEventsSince with its continuation token."""
    late: dict[str, asyncio.Event] = field(default_factory=dict)
    """What the answer waits for, by what is asked."""
    hook: Callable[[str], None] = lambda _: None
    """Called with what is asked, before it is answered."""
    last_received_at: float = 0.0

    async def connect(self, *_: object) -> HubConnection:
        """Connect, as `gateway.signalr.connect.connect` does."""
        return cast("HubConnection", self)

    async def run(self, *_: object) -> NoReturn:
        """Push nothing."""
        await asyncio.Event().wait()
        raise AssertionError

    async def close(self) -> None:
        """Have nothing to close."""

    async def call(self, method: str, argument: dict[str, Any]) -> bytes:
        """Answer from what there is now."""
        token = argument.get("ContinuationToken")
        what = method if method != "GetEventsSince" else f"page {token}"
        answer = json.dumps({"Status": "Success", "Data": self._answer(method, argument, token)}).encode()
        self.asked.append(what)
        self.hook(what)
        if what in self.late:
            await self.late[what].wait()
        return answer

    def _answer(self, method: str, argument: dict[str, Any], token: str | None) -> dict[str, Any]:
        if method == "GetLatestEventSeqId":
            return {"LatestEventSeqId": max(self.history), "SnapshotTime": NOW}
        if method != "GetEventsSince":
            return {"SuccessfulStrategies": [1], "FailedStrategies": []}
        after = argument["SinceEventSeqId"] if token is None else int(token)
        found = [sequence for sequence in self.history if sequence > after]
        shown, more = found[: self.page], len(found) > self.page
        return {
            "Events": [{"EventType": "OrderUpdate", "Payload": _payload(sequence)} for sequence in shown],
            "ContinuationToken": str(shown[-1]) if more else None,
        }


def _payload(sequence: int) -> dict[str, Any]:
    nothing = dict.fromkeys(("FilledQty", "RemainingQty", "FillPrice", "AvgFillPrice"))
    order = {"OrderId": sequence, "StrategyId": 1, "StrategyName": "S", "State": 1}
    id_ = f"00000000-0000-4000-8000-{sequence:012x}"
    return {**order, **nothing, "EventId": id_, "EventSeqId": sequence, "EventTime": LONG_AGO}


async def served(build: Build, hub: Hub) -> tuple[World, Account]:
    """Serve an account of this hub."""
    world = await build("alpha")
    replica = await world.replica(connect=hub.connect)
    account: Account = replica._shards.accounts["alpha"]
    return world, account


async def test_a_page_asked_for_ahead_does_not_outlive_the_latest_told_after_it(
    build: Build,
) -> None:
    """By the latest the session judges what is final, so the hub must have read the page after it told that."""
    hub = Hub([1, 2, 3, 4, 6], page=2, late={"page 2": asyncio.Event()})
    world, account = await served(build, hub)
    await world.until(lambda: "page 2" in hub.asked, "the second page is under way")

    def come_into_view(what: str) -> None:
        if what == "GetLatestEventSeqId":
            hub.history[4:] = [5, 6]

    hub.hook = come_into_view
    account.set_desired(
        VersionedDesired(Desired(strategies=(1,)))
    )  # the subscription changes: the hub must tell its latest again
    before = len(hub.asked)
    hub.late["page 2"].set()
    await world.published("alpha", range(1, 7))

    assert hub.asked[before : before + 4] == ["page 4", "GetLatestEventSeqId", "GetLatestEventSeqId", "page 4"]
    assert world.keys_of("alpha") == [1, 2, 3, 4, 5, 6]


async def test_a_page_whose_session_was_replaced_is_neither_taken_in_nor_counted(build: Build) -> None:
    hub = Hub([1, 2, 3], page=10)
    world, account = await served(build, hub)
    await world.published("alpha", [1, 2, 3])
    await world.becomes("alpha", AccountState.LIVE)
    budget, under_way = account.source.budget, len(hub.asked)
    hub.late["page None"] = asyncio.Event()
    hub.history.append(4)  # and it is not pushed
    await world.until(lambda: "page None" in hub.asked[under_way:], "an audit is under way")

    account.detach()
    hub.late["page None"].set()
    await world.until(lambda: budget.reserved == 0, "the answer has come")

    assert (budget.held, account.source.counters.unpushed) == (0, 0)
    assert world.keys_of("alpha") == [1, 2, 3]


async def test_a_page_whose_session_is_replaced_in_decoding_is_not_taken_in(build: Build) -> None:
    hub = Hub(list(range(1, 401)), page=300, late={"page 300": asyncio.Event()})
    world, account = await served(build, hub)
    budget = account.source.budget

    def lose(what: str) -> None:
        if what == "page 300":  # it is asked for ahead, while the page before it is decoded
            account.detach()

    hub.hook = lose
    await world.until(lambda: "page 300" in hub.asked and budget.reserved == 0, "it is decoded")

    assert budget.held == 0
    assert world.keys_of("alpha") == []


class Lagging(Hub):
    """A hub that has one event more than its history shows, and gives a token that leads to the same page again."""

    def _answer(self, method: str, argument: dict[str, Any], token: str | None) -> dict[str, Any]:
        if method == "GetLatestEventSeqId":
            return {"LatestEventSeqId": max(self.history) + 1, "SnapshotTime": NOW}
        answer = super()._answer(method, argument, None)
        return {**answer, "ContinuationToken": token or "t"} if method == "GetEventsSince" else answer


async def test_no_room_is_kept_for_a_page_while_the_history_lags(build: Build) -> None:
    hub = Lagging([1, 2, 3], page=10)
    kept: list[int] = []
    world, account = await served(build, hub)

    def note(what: str) -> None:
        if what == "GetLatestEventSeqId" and "page t" in hub.asked:
            kept.append(account.source.budget.reserved)

    hub.hook = note
    await world.until(lambda: len(kept) > 1, "the hub is asked again for what it has")

    assert hub.asked.count("page t") > len(kept), "it was asked for ahead"
    assert set(kept) == {0}
