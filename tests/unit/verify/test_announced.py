"""What was wanted, as the notifications in the log tell it."""

from __future__ import annotations

import json

import pytest

from gateway.verify.announced import announced
from gateway.verify.compare import Emitted, Logged, compare

Notified = tuple[int, bytes]


def changed(since: int, strategies: str | None, incarnation: int = 1) -> Notified:
    body = {"Type": "subscription-changed", "Account": "acme", "FromSeqId": since, "Strategies": strategies}
    return incarnation, json.dumps(body).encode()


def reset(incarnation: int, since: int, **more: str | None) -> Notified:
    body = {"Type": "checkpoint-reset", "Account": "acme", "Incarnation": incarnation, "SinceSeqId": since, **more}
    return incarnation, json.dumps(body).encode()


def test_without_an_announcement_all_is_wanted_or_what_the_operator_says() -> None:
    assert announced([]).wants(1, 5, 7)
    assert not announced([], frozenset({1})).wants(1, 5, 7)
    assert announced([], frozenset({1})).wants(1, 5, 1)


@pytest.mark.parametrize(
    ("sequence", "strategy", "wanted"),
    [(9, 7, True), (10, 7, False), (10, 1, True), (19, 3, False), (20, 3, True), (20, 1, False), (30, 7, True)],
)
def test_a_change_holds_from_its_sequence_on(sequence: int, strategy: int, wanted: bool) -> None:
    announcements = announced([changed(10, "1,2"), changed(20, "3"), changed(30, None)])
    assert announcements.wants(1, sequence, strategy) is wanted


def test_none_at_all_may_be_wanted_and_what_names_no_strategy_always_is() -> None:
    announcements = announced([changed(10, "")])
    assert not announcements.wants(1, 10, 1)
    assert announcements.wants(1, 10, None)


def test_a_newer_change_takes_the_place_of_one_that_was_to_begin_later() -> None:
    announcements = announced([changed(10, "1"), changed(8, "2")])
    assert announcements.wants(1, 12, 2)
    assert not announcements.wants(1, 12, 1)


def test_a_reset_says_where_its_incarnation_begins_and_with_what() -> None:
    announcements = announced([changed(10, "1"), reset(2, 100, Strategies="3"), reset(3, 0, Strategies=None)])
    assert announcements.begins == {2: 100, 3: 0}
    assert announcements.wants(1, 10, 1)
    assert not announcements.wants(2, 10, 1)
    assert announcements.wants(2, 10, 3)
    assert announcements.wants(3, 10, 7)


def test_a_reset_of_an_early_release_kept_the_subscription() -> None:
    announcements = announced([changed(10, "1"), reset(2, 100)])
    assert announcements.wants(2, 5, 1)
    assert not announcements.wants(2, 5, 3)


def test_what_was_not_wanted_is_counted_and_what_came_anyway_is_named() -> None:
    emitted = [Emitted(number, "OnError", f'{{"strategyId":{number % 2}}}') for number in range(1, 5)]

    def logged(*numbers: int) -> list[Logged]:
        return [Logged("error", number, b'{"StrategyId":%d}' % (number % 2), late=False) for number in numbers]

    announcements = announced([changed(3, "1")])

    def wants(sequence: int, strategy: int | None) -> bool:
        return announcements.wants(1, sequence, strategy)

    verdict = compare("acme", emitted, logged(1, 2, 3), wants=wants)
    assert str(verdict) == "acme: exact: 3 of 4 events once and in order; 1 more are not subscribed"
    verdict = compare("acme", emitted, logged(1, 2, 3, 4), wants=wants)
    assert verdict.unexpected == ["error 4 of strategy 0, which was not subscribed"]
    verdict = compare("acme", emitted, logged(1, 3), wants=wants)
    assert (verdict.lost, verdict.not_subscribed) == ([2], 1)
