"""Judges a world of replicas: each event exactly once and in order, and each healthy account never far behind."""

from __future__ import annotations

from base64 import b64decode
from collections import Counter
from typing import Final

import msgspec

from gateway.publication import DEAD_LETTER, NOTIFICATIONS, REPLAY
from gateway.replica.source.account import AccountState
from gateway.state import Phase
from tests.simulation.replica_hub import id_of
from tests.simulation.replica_world import CALM, FLOW, World, member_of

BOUND: Final = 20.0
"""Seconds within which an event of a healthy account is in the log: a lost push waits for an audit and a grace."""


def violations(world: World) -> list[str]:
    """Return everything that is wrong; nothing where promises 1, 3, 6 and 7 were kept."""
    judges = (_exactness, _dead_letters, _progress, _replays, _rest, _views, _deleted, _unexpected)
    return [*world.ended, *(violation for judge in judges for violation in judge(world))]


def _exactness(world: World) -> list[str]:
    found = []
    keys: dict[str, Counter[int]] = {name: Counter() for name in world.names}
    high = dict.fromkeys(world.names, 0)
    for entry in world.broker.entries:
        message = entry.stored.message
        name = message.account
        if message.topic in {NOTIFICATIONS, DEAD_LETTER, REPLAY}:
            continue
        sequence = int(message.key)
        if msgspec.json.decode(message.value)["EventId"] != id_of(name, sequence):
            found.append(f"{name}: {sequence} is not its own event")
        if sequence < high[name] and "late" not in message.attributes:
            found.append(f"{name}: {sequence} after {high[name]}, not marked late")
        high[name] = max(high[name], sequence)
        keys[name][sequence] += 1
    for name in world.names:
        twice = sorted(key for key, count in keys[name].items() if count > 1)
        missing = sorted({one.sequence for one in world.hub.users[name].happenings} - keys[name].keys())
        if twice:
            found.append(f"{name}: published twice: {twice[:10]}")
        if missing:
            found.append(f"{name}: never published: {missing[:10]} ({len(missing)})")
    return found


def _dead_letters(world: World) -> list[str]:
    """Find dead letters of sound events, and those of what nobody knows that are not there once."""
    found = []
    letters: dict[str, Counter[bytes]] = {name: Counter() for name in world.names}
    for entry in world.broker.entries:
        message = entry.stored.message
        if message.topic == DEAD_LETTER:
            raw = b64decode(msgspec.json.decode(message.value)["Raw"])
            if raw not in world.hub.users[message.account].cried:
                found.append(f"{message.account}: a dead letter: {message.value[:200]!r}")
            letters[message.account][raw] += 1
    for name, user in world.hub.users.items():
        twice = [raw for raw, count in letters[name].items() if count > 1]
        lost = len(user.cried) - len(letters[name])
        if twice:
            found.append(f"{name}: a dead letter twice: {twice[:10]}")
        if lost and not world.excuses[name]:  # no history has them: what was pushed to nobody is lost
            found.append(f"{name}: no dead letter of {lost} pushes that nobody knows")
    return found


def _progress(world: World) -> list[str]:
    """Find each account whose events came later than they may have, whatever its neighbours did."""
    stored: dict[tuple[str, int], float] = {}
    for entry in world.broker.entries:
        message = entry.stored.message
        if message.topic not in {NOTIFICATIONS, DEAD_LETTER, REPLAY}:
            stored.setdefault((message.account, int(message.key)), entry.at)
    found = []
    for name, user in world.hub.users.items():
        worst = ""
        for one in user.happenings:
            due = _due(world, name, one.at)
            at = stored.get((name, one.sequence), FLOW + CALM)
            if at > due:
                worst = worst or f"{name}: {one.sequence} came at {at:.1f} s, {at - one.at:.1f} s after it happened"
        found += [worst] if worst else []
    return found


def _replays(world: World) -> list[str]:
    """Find each replay that did not publish its range once and in order, or whose end somebody does not know."""
    found = []
    for id_, asked in world.replays.items():
        messages = [entry.stored.message for entry in world.broker.entries]
        keys = [int(one.key) for one in messages if one.attributes.get("replayid") == id_]
        phases = world.phases[id_]
        if keys != list(range(1, len(keys) + 1)):
            found.append(f"replay {id_[-2:]} of {asked.account}: not in order, or not once: {keys[:30]}")
        if phases != {Phase.COMPLETED} and not (phases == {Phase.CANCELLED} and asked.cancel_requested):
            found.append(f"replay {id_[-2:]} of {asked.account}: ended as {phases}")
        elif phases == {Phase.COMPLETED} and len(keys) != asked.until:
            found.append(f"replay {id_[-2:]} of {asked.account}: complete with {len(keys)} of {asked.until}")
    return found


def _due(world: World, name: str, at: float) -> float:
    """Return when an event that happened at a moment must be stored: after BOUND seconds without an excuse."""
    for excuse in sorted(world.excuses[name], key=lambda one: one.since):
        if excuse.until > at and excuse.since < at + BOUND:
            at = excuse.until
    return at + BOUND


def _rest(world: World) -> list[str]:
    """Find what is not as it should be when all trouble is long over."""
    found = []
    live = dict.fromkeys(world.names, 0)
    for name, rest in world.at_rest.items():
        if rest.held or rest.reserved or rest.stuck or rest.waiting:
            found.append(f"{name} holds bytes at rest: {rest}")
        for account, state in rest.states.items():
            live[account] += state == AccountState.LIVE.value
    found += [f"{name} has {count} connections at rest" for name, count in world.connections.items() if count != 1]
    found += [f"{name} is live in {count} replicas at rest" for name, count in live.items() if count != 1]
    return found


def _views(world: World) -> list[str]:
    """Find each account of which somebody does not know that it is live, and where; who was frozen long told last."""
    owners = {account: member_of(name) for name, rest in world.at_rest.items() for account in rest.states}
    for name, rest in world.at_rest.items():
        owners |= {
            account: member_of(name) for account, state in rest.states.items() if state == AccountState.LIVE.value
        }
    found = []
    for who, accounts in world.shown.items():
        for account, observed in accounts.items():
            if observed is None or (observed.state, observed.owner) != (AccountState.LIVE.value, owners.get(account)):
                known = None if observed is None else f"{observed.state} at {observed.owner}"
                found.append(f"{account} is live at {owners.get(account)}, and {who} knows: {known}")
    return found


def _deleted(world: World) -> list[str]:
    """Find each account that is not forgotten although operators deleted it."""
    known = {name for checkpoints in world.broker.stored_checkpoints.values() for name in checkpoints}
    known |= world.registry.registered
    return [f"{name} is deleted, and not forgotten" for name in world.deleted if name in known]


def _unexpected(world: World) -> list[str]:
    """Find errors that nobody expected, and nobody planted."""
    lines = [line for line in world.lines if line["event"].startswith("unexpected error")]
    return [f"unexpected: {line['error']}" for line in lines if "PlantedError" not in line["error"]]
