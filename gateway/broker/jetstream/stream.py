"""The one stream of a deployment: how it is created, and what about an existing one would break a promise.

Nothing may leave the stream but by the time to live of its own message: a lost checkpoint would publish an account's
whole history again. So the stream has no age limit (`Nats-TTL: never` under one held only until the server restarted:
measured), and a limit of size only together with `discard: new`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from gateway.broker.jetstream import records
from gateway.broker.jetstream.client_internals import server_info
from gateway.broker.jetstream.connect_errors import permissions_needed
from gateway.broker.jetstream.connection import Connection
from gateway.broker.jetstream.link import JetStreamApiError, Link
from gateway.broker.jetstream.readiness import jetstream_needed
from gateway.broker.jetstream.stream_rules import StreamRules
from gateway.broker.jetstream.topics import Topics
from gateway.errors import ActionRequired, ConfigurationError
from gateway.publication import USUAL_MESSAGE
from gateway.session.checkpoint import LARGEST

OLDEST_SERVER: Final = (2, 14, 0)
"""The oldest that passes the contract suite. 2.12 has atomic batches, but reports a batch for which it has no room (50
are open) only as incomplete, as one with something wrong in it."""

SMALLEST_MESSAGE: Final = LARGEST + 1024
"""Bytes that the server must take: a checkpoint, and the headers around it."""

_NOT_FOUND: Final = 10059
REMEDY: Final = (
    "Mend it with `nats stream edit {stream}`. What that cannot change (storage, retention workqueue, sealed) is "
    "mended by `nats stream backup`, `nats stream rm` and `nats stream restore --config`, which keeps messages and "
    "sequences. Where the deployment never began, delete the stream and let the gateway make it."
)


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """How the stream is to be."""

    topics: Topics
    replicas: int = 1
    """Servers that hold a copy: 1, 3 or 5."""
    create: bool = True
    """Make the stream where there is none; an existing one is only ever checked."""


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """The facts about the stream that a writer needs."""

    created: str
    """RFC 3339, to the nanosecond: another time means another stream, in which nothing of ours is true."""
    max_message: int | None
    """Bytes of headers and payload that the stream takes at most; None where only the server limits it."""


async def prepare(connection: Connection, settings: StreamSettings) -> None:
    """Make the stream if there is none, and refuse one that would break a promise.

    Raises:
        ConfigurationError: JetStream is off, the server too old, a permission missing, the stream missing
            (and not to be made) or dangerous; says which, and what to do.
        Unavailable: NATS did not answer, or has no room for the stream now; of these, ActionRequired and NotReady
            say why JetStream does not serve.

    """
    link = connection.link
    _check_server(link)
    stream = settings.topics.stream
    with permissions_needed(), jetstream_needed(link):
        config = await records.made(link, wanted(settings), create=settings.create)
    rules = StreamRules(
        "checkpoints", settings.topics.subjects, settings.replicas, SMALLEST_MESSAGE, also_without=("deny_purge",)
    )
    wrong = [*_missing(config), *_evicting(config), *rules.broken_by(config)]
    if wrong:
        raise ConfigurationError(f"stream {stream}", "; ".join(wrong), REMEDY.format(stream=stream))


async def facts(link: Link, topics: Topics) -> StreamFacts:
    """Ask the stream's leader what it is like; raises Unavailable.

    Raises ActionRequired where server or stream take too little for a usual event: such a limit is about all events,
    and none of them is to become a dead letter for it.
    """
    info = await link.api(f"STREAM.INFO.{topics.stream}")
    largest = int(info["config"].get("max_msg_size", -1))
    limits = {"max_payload": link.max_payload, "max_msg_size": largest if largest > 0 else USUAL_MESSAGE}
    for setting, limit in limits.items():
        if limit < USUAL_MESSAGE:
            who = "the server" if setting == "max_payload" else f"the stream {topics.stream}"
            problem = f"{who} takes messages of up to {limit} bytes, too few for usual events"
            raise ActionRequired(f"{problem}. Mend it: set {setting} to {SMALLEST_MESSAGE} or more")
    return StreamFacts(created=str(info["created"]), max_message=largest if largest > 0 else None)


async def identity(connection: Connection, topics: Topics, server: str) -> str | None:
    """Ask one server when the stream of the accounts was created, to tell clusters apart.

    Where there is none, a server without a cluster is known by its id; None for one with. Raises ConfigurationError,
    Unavailable.
    """
    async with connection.visit(server) as link:
        try:
            return str((await link.api(f"STREAM.INFO.{topics.control}"))["created"])
        except JetStreamApiError as refusal:
            if refusal.code != _NOT_FOUND:
                raise
            info = server_info(link.client)
            return None if info.get("cluster") else str(info.get("server_id"))


def _check_server(link: Link) -> None:
    if tuple(int(part) for part in link.server_version.split(".")) < OLDEST_SERVER:
        oldest = ".".join(str(part) for part in OLDEST_SERVER)
        raise ConfigurationError(
            "broker.servers", f"nats-server {link.server_version} is too old", f"Run {oldest} or later."
        )
    if link.max_payload < SMALLEST_MESSAGE:
        raise ConfigurationError(
            "broker.servers",
            f"the server takes messages of up to {link.max_payload} bytes, too few for a checkpoint",
            f"Set max_payload to {SMALLEST_MESSAGE} or more.",
        )


def wanted(settings: StreamSettings) -> dict[str, Any]:
    """Return the stream's configuration as JetStream's API takes it."""
    return {
        "name": settings.topics.stream,
        "description": "Events, dead letters, notifications, replays, checkpoints and fences of the gateway",
        "subjects": settings.topics.subjects,
        "retention": "limits",
        "storage": "file",
        "num_replicas": settings.replicas,
        "max_age": 0,
        "max_bytes": -1,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "discard": "new",
        "allow_direct": True,  # `gateway tail` and `gateway verify` read so
        "allow_atomic": True,
        "allow_msg_ttl": True,
        "allow_rollup_hdrs": True,
    }


def _missing(config: dict[str, Any]) -> Iterator[str]:
    for setting, purpose in (
        ("allow_atomic", "events and checkpoints could not be stored together"),
        ("allow_msg_ttl", "events could not expire"),
        ("allow_rollup_hdrs", "checkpoints could not be replaced"),
    ):
        if not config.get(setting):
            yield f"{setting} is off: {purpose}"


def _evicting(config: dict[str, Any]) -> Iterator[str]:
    if config.get("max_age", 0):
        yield f"max_age is {config['max_age'] / 1e9:g} s: checkpoints would expire; only messages may, by their own TTL"
    for setting in ("max_bytes", "max_msgs"):
        if config.get(setting, -1) > 0 and config.get("discard") != "new":
            yield f"{setting} is {config[setting]} with discard old: it would evict checkpoints; set discard to new"
    if config.get("max_msgs_per_subject", -1) > 0:
        yield f"max_msgs_per_subject is {config['max_msgs_per_subject']}: it would evict events, whatever discard says"
