"""What the hub pushed: from a SignalR record to an event or a dead letter.

Nearly all that a hub pushes are events written always alike. Of those neither the record nor its argument needs to be
looked at twice: how the record begins says which event it is, and what is left of it is one JSON object or none.
"""

from __future__ import annotations

from typing import Final

from gateway.events.catalogue import CATALOGUE
from gateway.events.dead_letter_reasons import DeadLetterReason
from gateway.events.decode import Decoder
from gateway.events.event import DeadLetter, Event
from gateway.session.types import Content
from gateway.signalr.protocol import PUSH_TAIL, push_head

_HEADS: Final = {push_head(entry.callback): entry for entry in CATALOGUE.values()}


def match(decoder: Decoder, account: str, record: bytes) -> Event | None:
    """Return the event of a record that is a push as hubs usually write them; None for anything else."""
    head = record[: record.find(b"[") + 1]
    entry = _HEADS.get(head)
    if entry is None or not record.endswith(PUSH_TAIL):
        return None
    return decoder.match(account, entry, record[len(head) : -len(PUSH_TAIL)])


def decoded(decoder: Decoder, account: str, target: str, arguments: list[bytes]) -> Content:
    """Return what was pushed, as `signalr.connection.OnPush` has it."""
    if len(arguments) == 1 and target:
        return decoder.push(account, target, arguments[0])
    if not target:
        return DeadLetter(
            account, DeadLetterReason.MALFORMED_JSON, "not a SignalR record", "record", b"".join(arguments)
        )
    raw = b"[" + b",".join(arguments) + b"]"
    detail = f"{len(arguments)} arguments instead of one"
    first = decoder.push(account, target, arguments[0]) if arguments else None
    sequence, id_ = (None, None) if first is None else (first.sequence, first.id)
    return DeadLetter(account, DeadLetterReason.INVALID_PAYLOAD, detail, target, raw, sequence, id_)
