"""Dead letters of sound events that cannot be published under their number, with the reason."""

from __future__ import annotations

from msgspec.structs import replace

from gateway.events.dead_letter_reasons import DeadLetterReason
from gateway.events.event import DeadLetter
from gateway.session.types import Content


def too_late(content: Content, verified: int) -> DeadLetter:
    """Return the dead letter of an event whose number may have been published before the event came into view."""
    why = (
        f"event {content.sequence} ({_named(content.id)}) came into view after everything up to {verified} was "
        "verified, and it is not known any more whether its number was published"
    )
    return _letter(content, DeadLetterReason.TOO_LATE, why)


def reused(content: Content, first: str | None, *, is_correction: bool) -> DeadLetter:
    """Return the dead letter of an event whose number another event has, with EventId `first` where it is known."""
    if is_correction:
        why = f"event {content.sequence} was published as {first} with another content, and comes again with this one"
    else:
        why = f"event {content.sequence} was published as {_named(first)}, and this is {_named(content.id)}"
    return _letter(content, DeadLetterReason.SEQUENCE_REUSED, why)


def _letter(content: Content, reason: DeadLetterReason, why: str) -> DeadLetter:
    if isinstance(content, DeadLetter):
        return replace(content, detail=f"{content.detail}; and {reason}: {why}")
    return DeadLetter(content.account, reason, why, content.kind, content.body, content.sequence, content.id)


def _named(id_: str | None) -> str:
    return id_ or "one without EventId"
