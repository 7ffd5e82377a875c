"""How far the hub's clock is off, at least, by what it says between a question and its answer."""

from __future__ import annotations

from copy import copy

import pytest

from gateway.telemetry.hub_offset import HubOffset

NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("hub", "seconds"),
    [(NOW, 0.0), (NOW + 0.1, 0.0), (NOW + 0.2, 0.0), (NOW - 3600, -3600.0), (NOW + 3600.2, 3600.0)],
)
def test_what_an_answer_proves_is_taken_and_no_more(hub: float, seconds: float) -> None:
    offset = HubOffset()
    assert offset.seconds == 0.0

    offset.on_time(NOW, NOW + 0.2, hub)

    assert offset.seconds == pytest.approx(seconds)


def test_the_median_of_the_last_answers_counts() -> None:
    offset = HubOffset()
    for number in range(40):
        offset.on_time(NOW, NOW, NOW + (10 if number % 4 else -500))
    before = copy(offset)
    for _ in range(63):
        offset.on_time(NOW, NOW, NOW + 2)

    assert (before.seconds, offset.seconds) == (10.0, 2.0)
