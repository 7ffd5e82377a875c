"""What is counted of an account and of all together, and what is told of what is not published."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from structlog.testing import capture_logs

from gateway.broker.ports import Commit
from gateway.errors import OutcomeUnknown
from gateway.events.event import DeadLetter, Event
from gateway.publication import DEAD_LETTER, NOTIFICATIONS
from gateway.replica.source.counts import STRAY, AccountCounters
from gateway.session.types import Outcome
from gateway.simulator.history import Injection
from gateway.telemetry.counters import Counters
from tests.support.in_process import Build

EVENT = Event("main", "order-update", 5, None, "2026-11-22T13:32:00Z", None, b"{}")
LETTER = DeadLetter("main", "invalid-payload", "", "OnPositionUpdate", b"{", 4)


def test_what_is_pushed_and_not_committed_is_counted_by_kind() -> None:
    counts = AccountCounters("main", Counters())
    for content, outcome in ((EVENT, Outcome.DUPLICATE), (LETTER, Outcome.DUPLICATE), (EVENT, Outcome.BEFORE_START)):
        counts.on_push(content, outcome)
    for outcome in (Outcome.QUEUED, Outcome.LATE, Outcome.HELD, Outcome.FILTERED, Outcome.OVERFLOW):
        counts.on_push(EVENT, outcome)  # counted when it is committed, if ever
    assert counts.outcomes == {"duplicate": 2, "before_start": 1}
    assert counts.counters.events == {
        ("order-update", "duplicate"): 1,
        ("position-update", "duplicate"): 1,
        ("order-update", "before_start"): 1,
    }
    assert counts.published == 0


def test_published_is_what_is_in_the_log() -> None:
    counts = AccountCounters("main", Counters())
    counts.outcomes.update(published=5, late=1, dead_letter=1, gap=1, filtered=7, duplicate=9, before_start=2)
    assert counts.published == 8


def test_connections_are_counted_of_the_account_and_of_all() -> None:
    counters = Counters()
    for account in ("alpha", "beta"):
        counts = AccountCounters(account, counters)
        counts.on_connecting()
        counts.on_disconnected("timeout")
        counts.on_connecting()
        counts.on_connected()
        counts.on_disconnected("silent")
        assert (counts.connects, counts.disconnects, counts.connect_failures) == (1, {"silent": 1}, {"timeout": 1})
    assert (counters.connects, counters.disconnects, counters.connect_failures) == (2, {"silent": 2}, {"timeout": 2})


def test_a_failed_attempt_after_a_cancelled_connection_is_no_disconnect() -> None:
    counts = AccountCounters("main", Counters())
    counts.on_connecting()
    counts.on_connected()  # and its task is cancelled, as where the shard moves: nobody says that it ended
    counts.on_connecting()
    counts.on_disconnected("unreachable")
    assert (counts.disconnects, counts.connect_failures) == ({}, {"unreachable": 1})


def test_what_is_not_published_is_told_the_1st_the_10th_and_the_100th_time() -> None:
    counts = AccountCounters("main", Counters())
    with capture_logs() as logs:
        counts.on_unpublished(STRAY, 0)
        for _ in range(120):
            counts.on_unpublished(STRAY, 1)
        counts.on_unpublished(STRAY, 900)
    assert [line["count"] for line in logs] == [1, 10, 100, 1020]
    assert all(line["account"] == "main" and line["log_level"] == "warning" for line in logs)


class LosesAnswers:
    """A log that stores dead letters and notifications, and whose answer is lost then."""

    def __init__(self, log: Any) -> None:  # noqa: ANN401 - an EventLog
        self._log = log

    @asynccontextmanager
    async def open(self, shard: int) -> AsyncIterator[Any]:
        """Open the shard; see `EventLog`."""
        async with self._log.open(shard) as writer:
            commit = writer.commit

            async def lossy(what: Commit) -> None:
                await commit(what)
                if any(message.topic in {DEAD_LETTER, NOTIFICATIONS} for message in what.messages):
                    raise OutcomeUnknown("the answer was lost")

            writer.commit = lossy
            yield writer


async def test_what_a_person_should_see_is_counted_though_the_answer_was_lost(
    build: Build,
) -> None:
    world = await build("alpha", prefill=10)
    replica = await world.replica(LosesAnswers(world.broker.log("lossy")))
    await world.published("alpha", range(1, 11))
    world.hub.user("alpha").inject(Injection(raw=b'{"foo": 1}', push=True, history="payload"))
    await world.until(lambda: world.messages("alpha")[-1].topic == DEAD_LETTER, "it is a dead letter")
    counters = replica._source.counters
    await world.until(lambda: counters.events["order-update", "dead_letter"] >= 1, "it is counted")
    world.hub.patch_faults("alpha", drop=1.0)
    world.hub.user("alpha").emit(3)
    world.hub.patch_faults("alpha", forget_below=1000)
    await world.until(lambda: world.messages("alpha")[-1].topic == NOTIFICATIONS, "the gap is announced")
    await world.until(lambda: counters.gaps >= 1 and counters.failures >= 2, "it is counted")
