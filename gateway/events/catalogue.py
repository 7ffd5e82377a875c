"""The 17 kinds of event: one table from which topics, models, schemas and discriminators follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from gateway.events.event import DeadLetter, Event
from gateway.events.models import payloads
from gateway.events.models.payloads import EventPayload
from gateway.names import folded


@dataclass(frozen=True, slots=True)
class EventKind:
    """One row of the catalogue."""

    kind: str
    """The callback in kebab case without On: `order-update`. It names topic, schema and CloudEvents type."""
    callback: str
    """The hub's name of the callback: `OnOrderUpdate`."""
    model: type[EventPayload]
    """The payload: `OrderUpdateEvent`."""


_ENTRIES: Final = (
    EventKind("entry-signal", "OnEntrySignal", payloads.EntrySignalEvent),
    EventKind("exit-signal", "OnExitSignal", payloads.ExitSignalEvent),
    EventKind("adjustment-signal", "OnAdjustmentSignal", payloads.AdjustmentSignalEvent),
    EventKind("order-update", "OnOrderUpdate", payloads.OrderUpdateEvent),
    EventKind("position-update", "OnPositionUpdate", payloads.PositionUpdateEvent),
    EventKind("leg-update", "OnLegUpdate", payloads.LegUpdateEvent),
    EventKind("agent-status-change", "OnAgentStatusChange", payloads.AgentStatusEvent),
    EventKind("error", "OnError", payloads.ErrorEvent),
    EventKind(
        "position-entry-preparation-completed",
        "OnPositionEntryPreparationCompleted",
        payloads.PositionEntryPreparationCompletedEvent,
    ),
    EventKind(
        "position-entry-preparation-failed",
        "OnPositionEntryPreparationFailed",
        payloads.PositionEntryPreparationFailedEvent,
    ),
    EventKind(
        "position-exit-preparation-completed",
        "OnPositionExitPreparationCompleted",
        payloads.PositionExitPreparationCompletedEvent,
    ),
    EventKind(
        "position-exit-preparation-failed",
        "OnPositionExitPreparationFailed",
        payloads.PositionExitPreparationFailedEvent,
    ),
    EventKind(
        "position-adjustment-preparation-completed",
        "OnPositionAdjustmentPreparationCompleted",
        payloads.PositionAdjustmentPreparationCompletedEvent,
    ),
    EventKind(
        "position-adjustment-preparation-failed",
        "OnPositionAdjustmentPreparationFailed",
        payloads.PositionAdjustmentPreparationFailedEvent,
    ),
    EventKind(
        "auto-update-vars-adjustment-started",
        "OnAutoUpdateVarsAdjustmentStarted",
        payloads.AutoUpdateVarsAdjustmentStartedEvent,
    ),
    EventKind(
        "auto-update-vars-adjustment-completed",
        "OnAutoUpdateVarsAdjustmentCompleted",
        payloads.AutoUpdateVarsAdjustmentCompletedEvent,
    ),
    EventKind(
        "auto-update-vars-adjustment-failed",
        "OnAutoUpdateVarsAdjustmentFailed",
        payloads.AutoUpdateVarsAdjustmentFailedEvent,
    ),
)

CATALOGUE: Final[Mapping[str, EventKind]] = MappingProxyType({entry.kind: entry for entry in _ENTRIES})
"""Kind → entry, in the order of the reference."""

KINDS: Final[tuple[str, ...]] = tuple(CATALOGUE)
"""All kinds, in the order of the reference."""
UNKNOWN: Final = "unknown"
"""In place of an unknown kind."""


def find(name: str) -> EventKind | None:
    """Return the entry of a callback's or a discriminator's name; None for one that is unknown.

    Letter case, `_` and `-`, a leading `On` and a trailing `Event` do not matter; the callback's and the model's name
    both hold, since history calls `OnAgentStatusChange` an `AgentStatus` (recorded).
    """
    return _BY_NAME.get(name) or _BY_NAME.get(folded(name))


def kind_of(content: Event | DeadLetter) -> str:
    """Return the kind of an event, or the intended one of something undecodable; UNKNOWN where nothing shows it."""
    if isinstance(content, Event):
        return content.kind
    entry = find(content.place)
    return UNKNOWN if entry is None else entry.kind


def names_of(entry: EventKind) -> set[str]:
    """Return the usual spellings of an event's name."""
    stems = {entry.callback.removeprefix("On"), entry.model.__name__.removesuffix("Event")}
    usual = {f"{prefix}{stem}{suffix}" for stem in stems for prefix in ("", "On") for suffix in ("", "Event")}
    return usual | {name.lower() for name in usual}


_BY_NAME: Final = {name: entry for entry in _ENTRIES for name in names_of(entry)}
