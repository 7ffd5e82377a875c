"""The last message under a subject of the stream, as its leader has it."""

from __future__ import annotations

import base64
from typing import Any

from gateway.broker.jetstream.error_codes import NO_MESSAGE
from gateway.broker.jetstream.link import JetStreamApiError, Link
from gateway.broker.jetstream.topics import Topics


async def last_message(link: Link, topics: Topics, subject: str) -> dict[str, Any] | None:
    """Return the last message under `subject` as the stream's leader has it; raises Unavailable.

    A direct get would be answered by any replica, and may be behind.
    """
    try:
        answer = await link.api(f"STREAM.MSG.GET.{topics.stream}", {"last_by_subj": subject})
    except JetStreamApiError as refusal:
        if refusal.code == NO_MESSAGE:
            return None
        raise
    return dict(answer["message"])


async def last_messages(link: Link, topics: Topics, subjects: list[str]) -> list[dict[str, Any]]:
    """Return the last message under each of the subjects that has one; raises Unavailable."""
    answers = await link.api_many(f"STREAM.MSG.GET.{topics.stream}", [{"last_by_subj": one} for one in subjects])
    found: list[dict[str, Any]] = []
    for answer in answers:
        if not isinstance(answer, JetStreamApiError):
            found.append(answer["message"])
        elif answer.code != NO_MESSAGE:
            raise answer
    return found


def payload_of(stored: dict[str, Any]) -> bytes:
    """Return the payload of a message that came from the API."""
    return base64.b64decode(stored.get("data", ""))


async def subjects_of(link: Link, topics: Topics, pattern: str) -> list[str]:
    """List the subjects under `pattern` that hold a message; the server gives up to 100,000 at once."""
    found: dict[str, int] = {}
    while True:
        body = {"subjects_filter": pattern, "offset": len(found)}
        page = await link.api(f"STREAM.INFO.{topics.stream}", body)
        subjects = page["state"].get("subjects") or {}
        found |= subjects
        if not subjects or len(found) >= page.get("total", 0):
            return list(found)
