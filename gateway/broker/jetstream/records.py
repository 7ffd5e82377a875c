"""Single records on JetStream: read from the stream's leader, written by compare-and-set on their own subject.

An erased record leaves a marker for a while: a message without a payload and with a time to live. Readers receive it as
any other message, and it needs no permission but that to write.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from gateway.broker.jetstream.batch import MOST_MESSAGES
from gateway.broker.jetstream.error_codes import NO_MESSAGE
from gateway.broker.jetstream.link import (
    JetStreamApiError,
    Link,
    NoResponders,
    PermissionDenied,
    has_no_responders,
    result_of,
)
from gateway.broker.jetstream.topics import TTL
from gateway.errors import ConfigurationError, Conflict, NotReady, OutcomeUnknown, Unavailable

_NOT_FOUND: Final = 10059
_NAME_IN_USE: Final = 10058
_MOVED: Final = frozenset({10071, 10164})
"""Wrong last sequence; another write to the subject is in flight (only with replicas)."""
_GONE: Final = 10057
"""The message could not be deleted: it is not there."""
_OPERATORS: Final = 4
"""The first digit of a status that is the caller's to fix, as in HTTP."""
_TOO_FEW_SERVERS: Final = 10005
"""No suitable servers for as many replicas: one may be down."""
_NOT_CLUSTERED: Final = 10074
_ATTEMPTS: Final = 3
"""Of a write where there is nothing: a marker may come or go before each."""


@dataclass(frozen=True, slots=True)
class Found:
    """A message of the stream."""

    subject: str
    sequence: int
    value: bytes
    time: str
    """When it was stored, by the server's clock: RFC 3339 to the nanosecond, in UTC."""
    is_marker: bool
    """Whether it marks an erased record."""


@dataclass(frozen=True, slots=True)
class StoredAt:
    """Where a stream keeps a message that it took."""

    stream: str
    sequence: int


async def made(link: Link, config: dict[str, Any], *, create: bool) -> dict[str, Any]:
    """Create the stream if there is none, and return its configuration; raises ConfigurationError, Unavailable."""
    stream = str(config["name"])
    try:
        info = await link.api(f"STREAM.INFO.{stream}")
    except JetStreamApiError as refusal:
        if refusal.code != _NOT_FOUND:
            raise
        if not create:
            remedy = "Make it, or let the gateway make it."
            raise ConfigurationError(f"stream {stream}", "there is no such stream", remedy) from refusal
        info = await _create(link, config)
    return dict(info["config"])


async def _create(link: Link, config: dict[str, Any]) -> dict[str, Any]:
    stream = str(config["name"])
    try:
        return await link.api(f"STREAM.CREATE.{stream}", config)
    except JetStreamApiError as refusal:
        if refusal.code == _NAME_IN_USE:  # another replica was quicker
            return await link.api(f"STREAM.INFO.{stream}")
        if refusal.code == _TOO_FEW_SERVERS:
            raise NotReady(
                f"stream {stream}: JetStream finds no {config['num_replicas']} servers that can hold it "
                f"({refusal.description}). It goes on by itself once as many have room; or set broker.replicas "
                "to fewer"
            ) from refusal
        if refusal.code == _NOT_CLUSTERED or refusal.status // 100 == _OPERATORS:
            raise ConfigurationError(f"stream {stream}", refusal.description, "Mend what it names.") from refusal
        raise


async def subjects(link: Link, stream: str, pattern: str) -> frozenset[str]:
    """Return the subjects under `pattern` that hold a message; the server lists up to 100,000 at once."""
    found: dict[str, int] = {}
    while True:
        page = await link.api(f"STREAM.INFO.{stream}", {"subjects_filter": pattern, "offset": len(found)})
        listed = page["state"].get("subjects") or {}
        found |= listed
        if not listed or len(found) >= page.get("total", 0):
            return frozenset(found)


async def last(link: Link, stream: str, subject: str) -> Found | None:
    """Return the last message under `subject`; raises Unavailable."""
    return await _get(link, stream, {"last_by_subj": subject})


async def following(link: Link, stream: str, pattern: str, sequence: int) -> Found | None:
    """Return the first message under `pattern` from `sequence` on, by the leader; raises Unavailable."""
    return await _get(link, stream, {"seq": sequence, "next_by_subj": pattern})


async def _get(link: Link, stream: str, body: dict[str, Any]) -> Found | None:
    try:
        message = (await link.api(f"STREAM.MSG.GET.{stream}", body))["message"]
    except JetStreamApiError as refusal:
        if refusal.code == NO_MESSAGE:
            return None
        raise
    value = base64.b64decode(message.get("data", ""))
    return Found(str(message["subject"]), int(message["seq"]), value, str(message["time"]), is_marker(message))


def is_marker(stored: Mapping[str, Any]) -> bool:
    """Return whether a message, as the API returns it, marks an erased record."""
    return not stored.get("data") and f"{TTL}:".encode() in base64.b64decode(stored.get("hdrs", ""))


async def stored(link: Link, subject: str, value: bytes, headers: dict[str, str] | None) -> StoredAt:
    """Publish one message, and return where the server stored it.

    Raises JetStreamApiError where the server refused it, PermissionDenied or NoResponders where it never reached a
    stream, and OutcomeUnknown where the answer leaves open whether it is stored.
    """
    try:
        answer = await link.ask(subject, value, headers)
    except (PermissionDenied, NoResponders):
        raise
    except Unavailable as error:
        raise OutcomeUnknown(str(error)) from error
    try:
        answered = json.loads(answer.data)
        refused = answered.get("error")
        if refused is None:
            return StoredAt(str(answered["stream"]), int(answered["seq"]))
        refusal = JetStreamApiError(subject, refused)
    except (ValueError, AttributeError, KeyError, TypeError) as unclear:
        raise OutcomeUnknown(f"{subject}: unclear answer {answer.data[:100]!r}") from unclear
    raise refusal


async def write(link: Link, subject: str, value: bytes, expect: int | None) -> int:
    """Write the last message under `subject` if its sequence is `expect` (0: none; None: whatever it is).

    Gives the sequence of the new one. Raises Conflict, OutcomeUnknown, Unavailable.
    """
    headers = None if expect is None else {"Nats-Expected-Last-Subject-Sequence": str(expect)}
    try:
        return (await stored(link, subject, value, headers)).sequence
    except JetStreamApiError as refusal:
        if refusal.code in _MOVED:
            raise Conflict(str(refusal)) from refusal
        raise


async def write_first(link: Link, stream: str, subject: str, value: bytes) -> int:
    """Write the last message under `subject` where there is none, or only a marker.

    Returns its sequence. Raises Conflict, OutcomeUnknown, Unavailable.
    """
    expect, attempt = 0, 1
    while True:
        try:
            return await write(link, subject, value, expect)
        except Conflict:
            current = await last(link, stream, subject)
            if attempt == _ATTEMPTS or not (current is None or current.is_marker):
                raise
            expect, attempt = 0 if current is None else current.sequence, attempt + 1


async def write_all(link: Link, values: Mapping[str, bytes]) -> None:
    """Write the last messages under many subjects, whatever they are; in atomic batches, each synced once.

    Raises Unavailable, and then some of them may be written.
    """
    left = list(values.items())
    while left:
        await _write_batch(link, left[:MOST_MESSAGES], {})
        left = left[MOST_MESSAGES:]


async def forget(link: Link, subjects: Sequence[str], ttl: int) -> None:
    """Leave markers under `subjects`, whatever is there; they stay for `ttl` seconds.

    Raises OutcomeUnknown, and then there may be markers under some or all of them; Unavailable.
    """
    for begin in range(0, len(subjects), MOST_MESSAGES):
        markers = [(subject, b"") for subject in subjects[begin : begin + MOST_MESSAGES]]
        try:
            await _write_batch(link, markers, {TTL: str(ttl)})
        except Unavailable as error:
            if begin == 0 and isinstance(error, (PermissionDenied, NoResponders, JetStreamApiError)):
                raise
            raise OutcomeUnknown(str(error)) from error


async def _write_batch(link: Link, values: Sequence[tuple[str, bytes]], own: Mapping[str, str]) -> None:
    first, last = 1, len(values)
    headers = {**own, "Nats-Batch-Id": uuid4().hex}
    with link.open_inbox(*(subject for subject, _ in values)) as inbox:
        try:
            async with link.time_limit():
                for place, (subject, value) in enumerate(values, first):
                    headers["Nats-Batch-Sequence"] = str(place)
                    if place == last:
                        headers["Nats-Batch-Commit"] = "1"
                    await link.publish(subject, value, inbox.subject if place in {first, last} else "", headers)
                while not (answer := await inbox.next()).data:  # the first one was taken
                    if has_no_responders(answer):
                        raise NoResponders(f"nobody serves {values[0][0]}")
        except TimeoutError as error:
            raise Unavailable(f"{values[0][0]}: NATS did not answer in time") from error
    result_of(f"a batch from {values[0][0]} on", answer)


async def erase(link: Link, stream: str, sequence: int) -> None:
    """Delete one message of the stream, if it is still there. Raises Unavailable."""
    try:
        await link.api(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True})
    except JetStreamApiError as refusal:
        if refusal.status // 100 != _OPERATORS and refusal.code != _GONE:
            raise
