"""One event that is pushed in one form and shown by the history in another is no contradiction; a correction is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.events.decode import Decoder
from gateway.events.event import DeadLetter, Event
from gateway.session.content_forms import MOST, meaning, means_the_same
from gateway.session.settled_events import SettledEvents, Sight
from tests.unit.session.scenes import Scene, live

DECODER = Decoder()
UPDATE: dict[str, Any] = {
    "EventTime": "2026-11-22T11:00:00.0533061Z",
    "OrderId": 1,
    "StrategyId": 3,
    "StrategyName": "Iron Condor",
    "State": 1,
    "FilledQty": "10",
    "FillPrice": "1.1",
    "Rejection": {"code": "MARGIN", "limit": 1.5, "isFinal": True, "hint": None, "legs": [{"qty": 1}, {"qty": 2}]},
}
OTHER_FORMS: dict[str, dict[str, Any]] = {
    "the scale of a column": {"FillPrice": "1.1000", "FilledQty": "10.00"},
    "members in the order of jsonb": {
        "Rejection": {"code": "MARGIN", "hint": None, "legs": [{"qty": 1}, {"qty": 2}], "limit": 1.5, "isFinal": True}
    },
}
CORRECTIONS: dict[str, dict[str, Any]] = {
    "another price": {"FillPrice": "1.2"},
    "ten times as many": {"FilledQty": "100"},
    "another sign": {"FilledQty": "-10"},
    "another state": {"State": 2},
    "another text": {"StrategyName": "Iron condor"},
    "another time": {"EventTime": "2026-11-22T11:00:01.0533061Z"},
    "another seventh digit of a time": {"EventTime": "2026-11-22T11:00:00.0533062Z"},
    "a coarser time": {"EventTime": "2026-11-22T11:00:00.053306Z"},
    "null": {"FillPrice": None},
    "another flag": {"Rejection": UPDATE["Rejection"] | {"isFinal": False}},
    "another order of a list": {"Rejection": UPDATE["Rejection"] | {"legs": [{"qty": 2}, {"qty": 1}]}},
    "a flag that becomes a number": {"Rejection": UPDATE["Rejection"] | {"isFinal": 1}},
    "a number that becomes a text": {"Rejection": UPDATE["Rejection"] | {"limit": "1.5"}},
    "another letter case of a member": {
        "Rejection": {"Code": "MARGIN", **{name: one for name, one in UPDATE["Rejection"].items() if name != "code"}}
    },
    "no null": {"Rejection": {name: one for name, one in UPDATE["Rejection"].items() if one is not None}},
}


def update(sequence: int, *, named: bool = True, **changes: Any) -> Event:  # noqa: ANN401 - JSON
    """Return an order update, without an EventId unless it is `named`."""
    id_ = {"EventId": f"00000000-0000-0000-0000-{sequence:012}"} if named else {}
    payload = json.dumps({**id_, "EventSeqId": sequence, **UPDATE, **changes})
    event = DECODER.push("acme", "OnOrderUpdate", payload.encode())
    assert isinstance(event, Event)
    return event


def pushed(count: int, *, named: bool = True) -> Scene:
    """Return a scene that is live after event 1, with `count` events pushed and committed behind it."""
    scene = live(update(1, named=named), latest=1)
    scene.pushes(*(update(sequence, named=named) for sequence in range(2, count + 2)))
    scene.commits()
    return scene


def dead_letters(scene: Scene) -> list[int | None]:
    scene.commits()
    return [item.content.sequence for item in scene.items if isinstance(item.content, DeadLetter)]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("count", [1, 40])
@pytest.mark.parametrize("form", OTHER_FORMS)
def test_another_form_of_what_was_pushed_is_no_dead_letter(form: str, count: int, named: bool) -> None:
    """Only some of 40 events are kept whole; by them the others are judged, those before them in the page too."""
    scene = pushed(count, named=named)
    history = [update(sequence, named=named, **OTHER_FORMS[form]) for sequence in range(2, count + 2)]
    for at in (5.0, 10.0, 40.0, 80.0):
        scene.audits(update(1, named=named), *history, latest=count + 1, at=at)
        assert dead_letters(scene) == []
    assert scene.published() == list(range(1, count + 2))


@pytest.mark.parametrize("count", [1, 40])
@pytest.mark.parametrize("correction", CORRECTIONS)
def test_a_correction_is_a_dead_letter(correction: str, count: int) -> None:
    scene = pushed(count)
    rest = [update(sequence) for sequence in range(3, count + 2)]
    scene.audits(update(1), update(2, **CORRECTIONS[correction]), *rest, latest=count + 1, at=5.0)
    assert dead_letters(scene) == [2]


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_a_correction_is_a_dead_letter_where_forms_differ(correction: str) -> None:
    """What is pushed once that is known is compared by what it says, whether it is kept whole or not."""
    scene, form = pushed(1), OTHER_FORMS["the scale of a column"]
    scene.audits(update(1), update(2, **form), latest=2, at=5.0)
    scene.pushes(*(update(sequence) for sequence in range(3, 43)))
    scene.commits()
    history = [update(sequence, **form) for sequence in range(2, 43)]
    history[1] = update(3, **CORRECTIONS[correction])
    history[-1] = update(42, **CORRECTIONS[correction])
    scene.audits(update(1), *history, latest=42, at=10.0)
    assert dead_letters(scene) == [3, 42]


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_a_push_that_waits_is_met_by_history_in_another_form(form: str) -> None:
    scene = Scene()
    scene.session.on_connected()
    scene.session.on_subscribed()
    scene.pushes(update(2), update(3))
    scene.session.on_latest(3, "2026-11-22T12:00:00Z")
    scene.answers(update(1), *(update(sequence, **OTHER_FORMS[form]) for sequence in (2, 3)))
    assert dead_letters(scene) == []
    assert scene.published() == [1, 2, 3]


def test_what_is_too_large_is_compared_by_its_bytes_alone() -> None:
    small, large = b'{"A":"1.0"}', b'{"A":"1.0","B":"%s"}' % (b"x" * MOST)
    assert means_the_same(small, b'{"A":"1.00"}')
    assert not means_the_same(large, large.replace(b"1.0", b"1.00"))
    assert meaning(large) is None
    assert meaning(b"no JSON") is None


def test_a_correction_of_a_large_event_is_a_dead_letter_where_forms_differ() -> None:
    """Its meaning is not kept, so its bytes alone decide: it was taken for the same event, in silence."""
    scene, form, large = pushed(1), OTHER_FORMS["the scale of a column"], {"StrategyName": "x" * MOST}
    scene.audits(update(1), update(2, **form), latest=2, at=5.0)
    scene.pushes(update(3, **large), *(update(sequence) for sequence in range(4, 43)))
    scene.commits()
    rest = [update(sequence, **form) for sequence in range(4, 43)]
    scene.audits(update(1), update(2, **form), update(3, **large, FillPrice="1.2"), *rest, latest=42, at=10.0)
    assert dead_letters(scene) == [3]


def test_what_verified_events_say_is_kept_as_long_as_they_are() -> None:
    events = SettledEvents()
    events.forms_differ = True
    for sequence in range(1, 41):
        event = update(sequence)
        events.traces[sequence] = event.id, hash(event.body)
        events.add_meaning(sequence, event)
    events.trim(is_level=True)
    assert events.compare(40, update(40, **OTHER_FORMS["the scale of a column"])) is Sight.SAME
    assert events.compare(40, update(40, FillPrice="1.2")) is Sight.CORRECTED
