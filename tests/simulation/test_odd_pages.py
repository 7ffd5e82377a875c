"""Lives with hubs that page oddly: the promises hold, however the events after a sequence are spread over pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

import pytest

from gateway.events.event import DeadLetter, Event
from tests.simulation.driver import Life
from tests.simulation.hub_model import HubModel
from tests.simulation.verdict import violations

Answer = tuple[list[Event | DeadLetter], str | None]
Paging = Callable[[HubModel, int, str | None, float], Answer]
SEEDS = range(60_000, 61_500)
_fresh = count()


def _visible(hub: HubModel, place: int, now: float) -> list[int]:
    happenings = hub.happenings
    return [at for at in range(max(place, hub.cut), len(happenings)) if happenings[at].visible_at <= now]


def _shown(hub: HubModel, places: Sequence[int]) -> list[Event | DeadLetter]:
    return [hub.happenings[at].in_history for at in places]


def ignores_tokens(hub: HubModel, since: int, _: str | None, now: float) -> Answer:
    """Show the first page again, and give a new token each time."""
    return _shown(hub, _visible(hub, hub._place_after(since), now)[: hub.weather.page]), f"{next(_fresh)}"


def overlaps(hub: HubModel, since: int, token: str | None, now: float) -> Answer:
    """Begin each page in the middle of the one before."""
    visible = _visible(hub, int(token) if token else hub._place_after(since), now)
    page = visible[: hub.weather.page]
    return _shown(hub, page), str(page[len(page) // 2] + 1) if len(visible) > len(page) else None


def adds_the_newest(hub: HubModel, since: int, token: str | None, now: float) -> Answer:
    """Show the newest event of all on each page as well."""
    visible = _visible(hub, int(token) if token else hub._place_after(since), now)
    page = visible[: hub.weather.page]
    newest = [at for at in visible if hub.happenings[at].in_history.sequence][-1:]
    return _shown(hub, page + newest), str(page[-1] + 1) if len(visible) > len(page) else None


_SORTED = (ignores_tokens, overlaps)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("paging", [ignores_tokens, overlaps, adds_the_newest])
def test_the_promises_hold_however_the_hub_pages(monkeypatch: pytest.MonkeyPatch, paging: Paging) -> None:
    def page(hub: HubModel, since: int, token: str | None, now: float, *, honest: bool) -> Answer:
        del honest
        return paging(hub, since, token, now)

    monkeypatch.setattr(HubModel, "page", page)
    judged = 0
    for seed in SEEDS:
        life = Life(seed)
        # A page must hold more than what stands beside the anchor; and there must be room for a whole walk.
        if life.weather.page < 10 or life.fate.buffer_bytes < 10_000 or life.fate.interval_bytes < 1000:
            continue
        life.live()
        judged += 1
        # What a hub shows behind what is newer is late by its own doing.
        found = [one for one in violations(life) if paging in _SORTED or "marked late, which" not in one]
        assert not found, f"seed {seed}: {found}"
    assert judged > 20
