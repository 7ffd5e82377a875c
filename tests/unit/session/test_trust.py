"""Nothing from a connection is published before the history on that connection was proven to be this account's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.errors import Diverged
from gateway.events.event import Event
from gateway.session.checkpoint import Anchor, Checkpoint
from gateway.session.types import Content, Outcome, Page, State
from tests.unit.session.scenes import Scene, clock, event, events, letter, live

KNOWN = Checkpoint(verified=10, anchor=Anchor(10, "id-10", clock(-3600)))
FOREIGN: tuple[Content, ...] = (
    event(501, id="foreign-501"),
    event(502, id="foreign-502"),
    event(None, id="foreign"),
    letter(503, id="foreign-503"),
)


def no_page(scene: Scene) -> None:
    """Nothing was read before the connection ended."""


def diverges(scene: Scene) -> None:
    with pytest.raises(Diverged):
        scene.answers(event(10, id="foreign-10"), event(11, id="foreign-11"))


def shows_what_has_no_sequence_first(scene: Scene) -> None:
    assert not scene.answers(event(None, id="foreign-aside"), token="on")


def is_behind(scene: Scene) -> None:
    scene.session.on_latest(3, clock(1))


def fails_the_subject(scene: Scene) -> None:
    scene.session.on_disconnected()
    scene.session._outbox.draft.subject = "us"
    with pytest.raises(Diverged):
        scene.session.on_connected("them")
    scene.session._outbox.draft.subject = None


ENDS = (no_page, diverges, shows_what_has_no_sequence_first, is_behind, fails_the_subject)


@pytest.mark.parametrize("ends", ENDS)
def test_what_a_connection_of_unproven_history_brought_is_never_published(
    ends: Callable[[Scene], None],
) -> None:
    scene = Scene(KNOWN)
    scene.connect(latest=503)
    scene.pushes(*FOREIGN)
    ends(scene)
    scene.session.on_disconnected()

    scene.connect(latest=12)
    scene.answers(*events([10, 11, 12]))
    scene.waits(1)

    assert scene.session.state is State.LIVE
    assert scene.published() == [11, 12]
    scene.pushes(event(13))
    assert scene.published() == [11, 12, 13]
    scene.pushes(*events([501, 502, 503]))
    scene.waits(1)
    assert scene.published() == [11, 12, 13, 501, 502, 503], "the account's own events of those numbers"
    assert scene.late() == []


def test_how_much_was_discarded_is_told() -> None:
    scene = Scene(KNOWN)
    scene.connect(latest=503)
    scene.pushes(*FOREIGN)

    assert scene.session.on_disconnected() == len(FOREIGN)
    assert scene.session.queued_bytes == 0


def test_what_a_proven_connection_brought_outlives_one_that_diverges() -> None:
    """History may never show it: it was pushed, and waits for what is missing before it."""
    scene = live(*events([1, 2]), latest=2)
    scene.pushes(event(3), event(5))
    assert scene.session.on_disconnected() == 0
    scene.connect(latest=3)
    scene.pushes(*FOREIGN)
    diverging = scene.session.history.wants()
    assert diverging is not None
    with pytest.raises(Diverged):
        scene.session.history.on_page(Page(diverging, [event(2, id="foreign-2")], None), scene.now)
    scene.session.on_disconnected()

    scene.connect(latest=5)
    scene.answers(*events([2, 3, 4]))
    scene.session.on_latest(5, clock(60))
    scene.answers(*events([2, 3, 4]))
    scene.waits(1)

    assert scene.published() == [1, 2, 3, 4, 5]


def test_a_divergence_discards_what_waits_though_the_connection_was_proven() -> None:
    """The hub's database became another one under a connection that stands."""
    scene = live(*events([1, 2]), latest=2)
    scene.pushes(event(501, id="foreign-501"))
    assert scene.published() == [1, 2]

    with pytest.raises(Diverged):
        scene.audits(event(2, id="foreign-2"), latest=501)
    scene.session.on_disconnected()
    scene.waits(1)
    scene.connect(latest=3)
    scene.answers(*events([2, 3]))
    scene.waits(1)

    assert scene.published() == [1, 2, 3]


def test_what_comes_after_a_doubt_waits_for_a_proof_of_its_own() -> None:
    scene = live(*events([1, 2, 3]), latest=3)
    scene.session.on_latest(1, clock(1))
    scene.pushes(event(4, id="foreign-4"))
    scene.session.on_disconnected()

    scene.connect(latest=4)
    scene.answers(*events([3, 4]))

    assert [item.content.id for item in scene.commits() if hasattr(item.content, "id")] == ["id-4"]


def test_two_short_lags_far_apart_are_not_one_long_one() -> None:
    scene = Scene(KNOWN, grace=3.0)
    scene.connect(latest=9)
    scene.session.on_disconnected()

    scene.connect(latest=9, at=3600)
    scene.session.on_latest(11, clock(3601))
    scene.answers(*events([10, 11]))

    assert scene.published() == [11]


def test_what_a_wrong_hub_claimed_to_be_its_latest_explains_nothing() -> None:
    scene = Scene(KNOWN, grace=3.0)
    scene.connect(latest=5003)
    scene.session.on_disconnected()

    scene.connect(latest=11, at=60)
    scene.answers(*events([10, 11]))
    scene.session.on_latest(11, clock(70))
    scene.session.history.audit()
    scene.answers(*events([10, 11]))

    assert scene.session.accounted_through <= 11


def test_what_a_connection_brings_after_it_diverged_is_not_published() -> None:
    scene = live(*events([1, 2]), latest=2)
    with pytest.raises(Diverged):
        scene.audits(event(2, id="foreign-2"), latest=3)

    scene.pushes(event(3, id="foreign-3"))
    scene.session.on_disconnected()
    scene.connect(latest=3)
    scene.answers(*events([2, 3]))

    assert [getattr(item.content, "id", None) for item in scene.items + scene.commits()][-1] == "id-3"
    assert scene.published() == [1, 2, 3]


def test_what_a_wrong_hub_said_to_be_its_latest_makes_no_number_plausible() -> None:
    scene = live(*events([10, 11, 12]), checkpoint=KNOWN, latest=12)
    scene.session.on_disconnected()
    scene.connect(latest=10**9)
    scene.session.on_disconnected()

    scene.connect(latest=12)
    scene.answers(event(12))

    assert scene.pushes(event(10**6)) == [Outcome.HELD]
    assert scene.session.latest == 12


def pushed_alone() -> Scene:
    """Return a scene that is live, of which history has shown nothing yet: so there is no anchor."""
    scene = live(checkpoint=Checkpoint(verified=0))
    scene.pushes(*events([1, 2, 3], at=-1))
    assert scene.published() == [1, 2, 3]
    assert scene.checkpoint.anchor is None
    return scene


@pytest.mark.parametrize("crashes", [False, True])
def test_without_an_anchor_what_was_pushed_tells_whose_history_it_is(crashes: bool) -> None:
    scene = pushed_alone()
    scene.session.on_disconnected()
    scene = scene.crashes() if crashes else scene
    before = scene.published()
    scene.connect(latest=4, at=40)
    with pytest.raises(Diverged, match="event 1 is foreign-1 in the hub's history now"):
        scene.answers(*[event(number, id=f"foreign-{number}") for number in range(1, 5)])
    scene.session.on_disconnected()
    assert scene.published() == before

    scene.connect(latest=4, at=80)
    scene.answers(*events([1, 2, 3, 4]))
    assert scene.published() == [*before, 4]


def test_without_an_anchor_a_number_that_is_used_twice_is_no_other_history() -> None:
    scene = pushed_alone()
    scene.session.on_disconnected()
    scene.connect(latest=4, at=40)
    scene.answers(event(1, id="again"), event(1), *events([2, 3, 4]))
    assert [item.content.sequence for item in scene.items if isinstance(item.content, Event)] == [1, 2, 3]
    assert scene.published()[3:] == [1, 4]


def test_without_an_anchor_a_history_that_begins_later_is_taken() -> None:
    scene = pushed_alone()
    scene.session.on_disconnected()
    scene.connect(latest=6, at=40)
    scene.answers(*events([5, 6]))
    assert scene.published() == [1, 2, 3, 5, 6]


def test_where_the_anchor_is_found_a_number_used_twice_is_no_other_history() -> None:
    scene = Scene(Checkpoint(verified=0))
    scene.connect(latest=2)
    scene.answers(*events([1, 2], at=-1))
    scene.commits()
    scene.session.on_disconnected()
    scene.connect(latest=2, at=1)
    scene.answers(*events([1, 2], at=-1))
    scene.answers(event(1, id="again", at=-1), token="on")
    assert scene.published() == [1, 2, 1]
