"""Compares what was published with what happened: promise 1 and promise 4, stated without the session's help."""

from __future__ import annotations

from collections import Counter

from gateway.events.event import DeadLetter, Event, Notification
from gateway.session.types import Outcome
from tests.simulation.driver import Life, Published, can_distinguish_hubs
from tests.simulation.hub_model import Happening, HubModel

Change = tuple[int, frozenset[int] | None]
"""From which sequence on which strategies are wanted."""


def violations(life: Life) -> list[str]:
    """Say everything that is wrong with the published list of a run; nothing when it keeps the promises."""
    found: list[str] = []
    for incarnation in range(life.incarnation + 1):
        hub = life.hubs[-1] if incarnation == life.incarnation and life.incarnation else life.hubs[0]
        mine = [entry for entry in life.published if entry.hub == incarnation]
        found += _order(mine)
        found += _content(life, hub, mine, incarnation)
    if _gives_nothing_late(life):
        found += [
            f"{entry.item.content} is marked late, which the hub was not" for entry in life.published if entry.item.late
        ]
    if life.diverged is not None and len(life.hubs) == 1:
        found.append(f"stands still for no reason: {life.diverged}")
    if len(life.hubs) > 1 and life.incarnation == 0 and life.diverged is None and can_distinguish_hubs(life):
        found.append("took another history for its own")
    if life.diverged is None and not life._is_settled():
        found.append(f"never came to rest: {life.session.state}")
    return found


def _gives_nothing_late(life: Life) -> bool:
    """Return whether the hub shows everything in order, so that a client who waits for history sees nothing late."""
    weather = life.weather
    ragged = weather.lag if weather.ragged else 0
    faults = (
        ragged,
        weather.reordered,
        weather.duplicated,
        weather.unpushed,
        weather.push_only,
        weather.half_sequenced,
        weather.lying,
        weather.slow,
        weather.tardy,
        weather.undecodable,  # what is pushed so waits for the history
        weather.garbled,
        weather.reused,
        weather.bogus,
        weather.mood != "right",
    )
    return (
        len(life.hubs) == 1
        and not life.strangers
        and not life.hub.cut
        and not any(faults)
        and not any(desired is not None for _, desired in life.change_bounds)
    )


def _order(published: list[Published]) -> list[str]:
    found, highest = [], 0
    for entry in published:
        content = entry.item.content
        if isinstance(content, Notification) or content.sequence is None:
            continue
        if content.sequence < highest and not entry.item.late:
            found.append(f"event {content.sequence} after {highest}, not marked late")
        if not entry.item.late:  # what is marked moves no watermark
            highest = max(highest, content.sequence)
    return found


def _content(life: Life, hub: HubModel, published: list[Published], incarnation: int) -> list[str]:
    numbers = {h.number: h for h in hub.happenings}
    counts = Counter(int(_body(entry)) for entry in published if _body(entry))
    gaps, changes = _notified(published)
    found = [*_gaps(life, hub, gaps), *_changes(life, changes)]
    happened = {happening.number for one in life.hubs for happening in one.happenings}
    strange = {happening.number for one in life.strangers for happening in one.happenings}
    found += [f"published {number}, which happened in a stranger's hub" for number in counts if number in strange]
    found += [f"published {number}, which never happened" for number in counts if number not in happened | strange]
    if can_distinguish_hubs(life) or incarnation:
        found += [f"published {number} of another history" for number in counts if number not in numbers]
    found += _garbled(life, hub, published)
    uses = _uses(hub)
    initial = life.initial[incarnation] if life.initial else None
    for number, happening in numbers.items():
        wanted = _wanted(happening, initial, changes)
        if life.weather.strategies and uses[happening.sequence] > 1:
            wanted = None  # what held at a verified number may be forgotten
        is_excused = incarnation < life.incarnation or _is_excused(life, hub, happening, gaps)
        if counts[number] > 1:
            found.append(f"{_name(happening)} published {counts[number]} times")
        elif counts[number] and wanted is False:
            found.append(f"{_name(happening)} published although no subscription wanted it")
        elif not counts[number] and wanted and not is_excused:
            found.append(f"{_name(happening)} lost")
    return found


def _garbled(life: Life, hub: HubModel, published: list[Published]) -> list[str]:
    if len(life.hubs) > 1:
        return []  # the history that had it is gone
    uses = _uses(hub)
    whole = {
        h.number
        for h in hub.happenings[hub.cut :]
        if isinstance(h.in_history, Event) and h.visible_at <= life.now and uses[h.sequence] == 1
    }
    tardy = {h.number for h in hub.happenings if h.is_tardy and isinstance(h.as_push, DeadLetter)}
    letters = [
        int(_body(entry))
        for entry in published
        if isinstance(entry.item.content, DeadLetter) and entry.item.content.reason != "too-late"
    ]
    letters = [number for number in letters if number not in tardy]
    return [f"#{number} is a dead letter, though history has it whole" for number in letters if number in whole]


def _uses(hub: HubModel) -> Counter[int | None]:
    return Counter(h.sequence for h in hub.happenings)


def _body(entry: Published) -> bytes:
    match entry.item.content:
        case Event(body=body) | DeadLetter(raw=body):
            return body
    return b""


def _notified(published: list[Published]) -> tuple[list[tuple[int, int]], list[Change]]:
    """Return the gaps and the changes of the subscription that consumers were told of."""
    gaps, changes = [], []
    for entry in published:
        match entry.item.content:
            case Notification(type="gap", detail=detail):
                gaps.append((int(detail["FirstSeqId"] or 0), int(detail["LastSeqId"] or 0)))
            case Notification(type="subscription-changed", detail=detail):
                strategies = detail["Strategies"]
                chosen = None if strategies is None else frozenset(map(int, filter(None, str(strategies).split(","))))
                changes.append((int(detail["FromSeqId"] or 0), chosen))
    return gaps, changes


def _gaps(life: Life, hub: HubModel, gaps: list[tuple[int, int]]) -> list[str]:
    if len(life.hubs) > 1 and not can_distinguish_hubs(life):
        return []  # a hub that starts again behind the anchor looks like one that lost its beginning
    gone = max((h.sequence or 0 for h in hub.happenings[: hub.cut]), default=0)
    shown = [h for h in hub.happenings[hub.cut :] if h.visible_at <= life.now and not h.is_tardy]
    kept = [h.in_history.sequence for h in shown]
    following = next((sequence for sequence in kept if sequence is not None), hub.true_latest() + 1)
    bound = max(gone, following - 1) if hub.cut else 0
    return [f"a gap to {last} announced, but only {bound} is gone" for _, last in gaps if last > bound]


def _changes(life: Life, changes: list[Change]) -> list[str]:
    found = []
    if life.incarnation == 0 and len(life.hubs) == 1:
        for since, strategies in changes:
            if since == 0 and strategies == life.initial[0]:
                continue  # what it began with
            bounds = [
                latest
                for latest, desired in life.change_bounds
                if (None if desired is None else frozenset(desired)) == strategies
            ]
            if not bounds or since <= min(bounds) or since > life.hub.true_latest() + 1:
                found.append(f"a subscription from {since}, changed at {bounds}")
    return found


def _wanted(happening: Happening, initial: frozenset[int] | None, changes: list[Change]) -> bool | None:
    """Return whether it was to be published; None where it depends on when it was seen."""
    if happening.strategy is None or not isinstance(happening.in_history, Event):
        return True
    everything = [initial, *(strategies for _, strategies in changes)]
    if isinstance(happening.as_push, DeadLetter):
        return None  # whose it is, only the history tells
    is_odd = happening.is_bogus
    if happening.in_history.sequence is None or happening.as_push.sequence is None or is_odd:
        answers = {held is None or happening.strategy in held for held in everything}
        return answers.pop() if len(answers) == 1 else None
    held = initial
    for since, strategies in changes:
        if since <= (happening.sequence or 0):
            held = strategies
    return held is None or happening.strategy in held


def _is_excused(life: Life, hub: HubModel, happening: Happening, gaps: list[tuple[int, int]]) -> bool:
    """Return whether its absence is said in words, or was never promised."""
    if life.diverged is not None:
        return True  # the account says so
    if len(life.hubs) > 1 and not life.incarnation:
        return True  # a hub that could not be known to be another one, or a complaint elsewhere
    if _is_before_the_start(life, happening):
        return True
    sequence = happening.sequence
    if life.now < happening.visible_at:
        # Only a push showed it. What the session did not take, let go or died with is gone.
        outcomes = life.outcomes.get(happening.number, set())
        was_refused = (
            not outcomes
            or bool(outcomes & {Outcome.BEFORE_START, Outcome.OVERFLOW})
            or life.session.counts.dropped_pushes > 0
        )
        return was_refused or life.accepted.get(happening.number) is not life.session
    if happening.is_tardy or (sequence is not None and _uses(hub)[sequence] > 1):
        # What comes that late, or under a verified number, is promised only where it is pushed, and said to be taken.
        outcomes = life.outcomes.get(happening.number, set())
        was_taken = outcomes and not outcomes & {Outcome.OVERFLOW}
        if outcomes == {Outcome.DUPLICATE}:
            was_taken = _is_calm(life)  # else what it was a repeat of may be forgotten
        return not was_taken or life.accepted.get(happening.number) is not life.session
    if hub.happenings.index(happening) < hub.cut:
        # Where nothing had been verified, the earliest event is the earliest that the hub has.
        is_announced = sequence is None or any(first <= sequence <= last for first, last in gaps)
        return is_announced or not life.was_verified_at_cut
    return False


def _is_calm(life: Life) -> bool:
    """Return whether one session lived through it all, over one connection."""
    fate = life.fate
    breaks = (fate.crashes, fate.restart_every, fate.refused_commits, fate.lost_answers, fate.drops, fate.outage)
    return not any(breaks) and not life.strangers and len(life.hubs) == 1


def _is_before_the_start(life: Life, happening: Happening) -> bool:
    if life.incarnation or life.began_at is None:
        return False
    if happening.sequence is not None:
        return happening.sequence <= life.began_at
    return happening.at <= life.began_time + life.weather.latest_lag + 0.5


def _name(happening: Happening) -> str:
    in_history, as_push = happening.in_history.sequence, happening.as_push.sequence
    return f"#{happening.number} (sequence {happening.sequence}, history {in_history}, push {as_push})"
