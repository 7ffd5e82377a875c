"""What is wrong with a payload, where, and the remedy: one sentence, whatever the payload's size."""

from __future__ import annotations

from typing import Any, Final

from pydantic import ValidationError

from gateway.errors import DecodeError
from gateway.events.dead_letter_reasons import DeadLetterReason
from gateway.events.lossless_json import path_text, shown
from gateway.events.models.fields import DUPLICATE

MAX_DETAIL: Final = 1_000
"""Characters of a dead letter's detail."""

_MAX_NAMED: Final = 3

_RIGHT: Final = {
    "missing": "is missing, and the reference requires it",
    "string_type": "a text would be right",
    "bool_type": "true or false would be right",
    "model_type": "an object would be right",
    "dict_type": "an object would be right",
    "list_type": "a list would be right",
}
"""pydantic's names of faults in the words of a dead letter."""


def payload_fault(error: ValidationError) -> DecodeError:
    """Put pydantic's findings into words: the first few, and how many more there are."""
    found = error.errors(include_url=False, include_context=False)
    doubled = [fault for fault in found if fault["type"] == DUPLICATE]
    named = (doubled or found)[:_MAX_NAMED]
    sentence = "; ".join(_description(dict(fault)) for fault in named)
    if len(found) > len(named):
        sentence += f"; and {len(found) - len(named)} more"
    return DecodeError(
        DeadLetterReason.DUPLICATE_MEMBER if doubled else DeadLetterReason.INVALID_PAYLOAD, bounded(sentence)
    )


def bounded(text: str, most: int = MAX_DETAIL) -> str:
    """Cut a text to `most` characters, and replace what UTF-8 cannot carry, so that it can always be published."""
    sound = text[: most + 1].encode("utf-8", "backslashreplace").decode()
    return sound if len(sound) <= most else f"{sound[: most - 1]}…"


def _description(fault: dict[str, Any]) -> str:
    where = path_text(fault["loc"])
    right = _RIGHT.get(fault["type"], fault["msg"])
    if fault["type"] == "missing":
        return f"{where} {right}"
    if fault["type"] == DUPLICATE:
        return f"{where}: {right}; each name once would be right"
    return f"{where} is {shown(fault['input'])}; {right}"
