"""The published contract: JSON Schema 2020-12 of every message value, built from the models.

The schemas describe the canonical form, which the topics carry: all modelled members present, decimals and
times as texts. Members that a later release of the hub adds are allowed, as consumers must allow them.
"""

from __future__ import annotations

import json
from typing import Any, Final

from gateway.events.catalogue import CATALOGUE, EventKind
from gateway.events.dead_letter_reasons import DeadLetterReason
from gateway.events.models.fields import INT64_MAX

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


SCHEMA_NAMES: Final = (*CATALOGUE, "dead-letter", "notifications")
"""What a value can be: one of the kinds of event, or one of the gateway's own two."""


def schema_files() -> dict[str, str]:
    """Return path → text of every schema file, in a fixed order and form: `events/order-update.v1.schema.json`."""
    return {f"{'events/' * (name in CATALOGUE)}{name}.v1.schema.json": schema_text(name) for name in SCHEMA_NAMES}


def schema_text(name: str) -> str:
    """Return the JSON Schema of one of SCHEMA_NAMES, as its file has it."""
    own = {"dead-letter": _DEAD_LETTER, "notifications": _NOTIFICATION}
    schema = _schema(name, own[name]) if name in own else _event_schema(CATALOGUE[name])
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _schema(name: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"$schema": DIALECT, "$id": f"urn:mesolive:{name}:v1", **body}


def _event_schema(entry: EventKind) -> dict[str, Any]:
    body = entry.model.model_json_schema(mode="serialization")
    for model in (body, *body.get("$defs", {}).values()):
        for member in model["properties"].values():
            member.pop("title", None)  # pydantic's title is the name once more
            member.pop("default", None)  # nothing is left out, so nothing is taken for granted
    order = ("title", "description", "type", "properties", "required", "additionalProperties", "$defs")
    return _schema(entry.kind, {name: body[name] for name in order if name in body})


_DEAD_LETTER: Final[dict[str, Any]] = {
    "title": "DeadLetter",
    "description": "Something that the hub sent and the gateway could not publish as an event, kept whole.",
    "type": "object",
    "properties": {
        "Reason": {
            "description": "Why, from a closed list.",
            "type": "string",
            "enum": [str(reason) for reason in DeadLetterReason],
        },
        "Detail": {
            "description": "What was wrong, where in the payload, and what would be right; for people.",
            "type": "string",
        },
        "Place": {"description": "Where it was found: the callback's name, or GetEventsSince.", "type": "string"},
        "EventId": {
            "description": "EventId, where it could be read in spite of the fault.",
            "type": ["string", "null"],
        },
        "EventSeqId": {
            "description": "EventSeqId, where it could be read in spite of the fault.",
            "type": ["integer", "null"],
            "minimum": 1,
            "maximum": INT64_MAX,
        },
        "Size": {"description": "Bytes of what the hub sent.", "type": "integer", "minimum": 0},
        "Digest": {
            "description": "BLAKE2b of 16 bytes, in hexadecimal, of all that the hub sent.",
            "type": "string",
            "pattern": "^[0-9a-f]{32}$",
        },
        "Truncated": {"description": "Whether Raw holds only the first bytes.", "type": "boolean"},
        "Raw": {
            "description": "The bytes as the hub sent them.",
            "type": "string",
            "contentEncoding": "base64",
        },
    },
    "required": ["Reason", "Detail", "Place", "EventId", "EventSeqId", "Size", "Digest", "Truncated", "Raw"],
    "additionalProperties": True,
}

_NOTIFICATION: Final[dict[str, Any]] = {
    "title": "Notification",
    "description": "Something about an account that its consumers must know, such as a gap in its history.",
    "type": "object",
    "properties": {
        "Type": {
            "description": "What happened; later releases may add types.",
            "type": "string",
            "examples": ["gap", "diverged", "subscription-changed", "checkpoint-reset"],
        },
        "Account": {
            "description": "The operator's name for the account.",
            "type": "string",
            "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$",
        },
        "FirstSeqId": {
            "description": "Of a gap: the first EventSeqId that the hub no longer has, or could not give.",
            "type": "integer",
            "minimum": 1,
            "maximum": INT64_MAX,
        },
        "LastSeqId": {
            "description": "Of a gap: the last EventSeqId that the hub no longer has, or could not give.",
            "type": "integer",
            "minimum": 1,
            "maximum": INT64_MAX,
        },
    },
    "required": ["Type", "Account"],
    "additionalProperties": {
        "description": "Facts; which ones depends on Type.",
        "type": ["string", "integer", "null"],
    },
}
