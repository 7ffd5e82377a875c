"""The names on NATS, and the conversion of a message to a subject, headers and a payload and back.

The form is CloudEvents 1.0 in binary mode: each attribute is a header `ce-<name>`, the content type is
`ce-datacontenttype`, and values are percent-encoded as in the CloudEvents NATS binding. NATS has no record key, so the
key travels in a header of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import quote_from_bytes, unquote, unquote_to_bytes

from gateway.publication import TRACEPARENT, Message, Shared

KEY: Final = "Gateway-Key"
TTL: Final = "Nats-TTL"
"""The header with the number of seconds for which a message is kept."""
_ATTRIBUTE: Final = "ce-"
_VERSION: Final = "v1"

_TOKEN: Final = re.compile(r"[^\s.*>\x00-\x20\x7f]+")
"""One token of a subject. A checkpoint of an account `*` would roll up every other one: measured."""

_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]+")
"""Letters that subjects, stream names and bucket names all take."""

_NAME: Final = re.compile(r"[a-z0-9]+")
"""A CloudEvents attribute's name."""

_UNSAFE: Final = re.compile(r'[^!-~]|["%]')
"""Outside U+0021 to U+007E, and the double quote and the percent sign, as the binding lists them."""

_SAFE: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


@dataclass(frozen=True, slots=True)
class Topics:
    """The names that one deployment uses on NATS; all of them begin with its prefix."""

    prefix: str
    """The first token of each subject and the first part of the stream's name."""

    def __post_init__(self) -> None:
        """Refuse a prefix that could not be a token and a part of a stream's name."""
        if not _PREFIX.fullmatch(self.prefix):
            raise ValueError(f"prefix {self.prefix!r} must be of letters, digits, _ and - only")

    @property
    def stream(self) -> str:
        """The one stream of everything."""
        return f"{self.prefix}-gateway"

    @property
    def subjects(self) -> list[str]:
        """What the stream stores."""
        return [f"{self.prefix}.events.>", f"{self.prefix}.gateway.fence.*", f"{self.prefix}.gateway.checkpoint.*.*"]

    @property
    def control(self) -> str:
        """The stream of what must never be forgotten."""
        return f"{self.prefix}-gateway-control"

    @property
    def deployment(self) -> str:
        """The subject of the number of shards."""
        return f"{self.prefix}.gateway.control.deployment"

    @property
    def audit_stream(self) -> str:
        """The stream of the audit trail."""
        return f"{self.prefix}-gateway-audit"

    @property
    def audit(self) -> str:
        """The subject of the audit trail."""
        return f"{self.prefix}.gateway.audit"

    def begun(self, account: str | None) -> str:
        """Return the subject of the record that `account` was begun, or the filter for all accounts where None."""
        return f"{self.prefix}.gateway.control.account.{'*' if account is None else _token(account)}"

    @property
    def ownership(self) -> str:
        """The stream of members and leases."""
        return f"{self.prefix}-gateway-ownership"

    def owning(self, name: str) -> str:
        """Return the subject of a record of the ownership, such as `lease.3`, or the filter for several."""
        return f"{self.prefix}.gateway.ownership.{name}"

    @property
    def stated(self) -> str:
        """The subject filter for everything in the control store."""
        return f"{self.prefix}.gateway.control.state.>"

    @property
    def stating(self) -> str:
        """What is subscribed to, to notice at once that something is written to the control store."""
        return f"{self.prefix}.gateway.control.state.*.>"

    def desired(self, key: str) -> str:
        """Return the subject of the desired state of `key`."""
        return f"{self.prefix}.gateway.control.state.desired.{key}"

    def observed(self, key: str) -> str:
        """Return the subject of the observed state of `key`."""
        return f"{self.prefix}.gateway.control.state.observed.{key}"

    def message(self, topic: str, account: str) -> str:
        """Return the subject of a message."""
        return _subject(self.prefix, topic, account)

    def messages(self, topic: str | None, account: str | None) -> str:
        """Return the subject filter for a topic, an account, or any where None."""
        if topic is None and account is None:
            return f"{self.prefix}.events.>"
        of_topic = "*" if topic is None else _token(topic)
        return f"{self.prefix}.events.{of_topic}.{_VERSION}.{'*' if account is None else _token(account)}"

    def fence(self, shard: int) -> str:
        """Return the subject whose last message names the owner of `shard`."""
        return f"{self.prefix}.gateway.fence.{shard}"

    def checkpoint(self, shard: int, account: str) -> str:
        """Return the subject of the checkpoint of `account`."""
        return f"{self.prefix}.gateway.checkpoint.{shard}.{_token(account)}"

    def checkpoints(self, shard: int) -> str:
        """Return the subject filter for all checkpoints of `shard`."""
        return f"{self.prefix}.gateway.checkpoint.{shard}.*"


def headers_of(message: Message) -> str:
    """Return the message's own header lines, each with its line end.

    Raises ValueError for an attribute that CloudEvents does not allow.
    """
    key = message.key.decode() if message.key.isdigit() else quote_from_bytes(message.key, safe=_SAFE)
    own = [_written(name, value) if name in _OWN else _line(name, value) for name, value in message.own.items()]
    if TRACEPARENT in message.own:
        own.append(f"{TRACEPARENT}: {_encode(message.own[TRACEPARENT])}\r\n")
    return f"{KEY}: {key}\r\n{_shared_lines(message.shared)}{''.join(own)}"


@lru_cache(maxsize=1024)
def _shared_lines(shared: Shared) -> str:
    return "".join([_line(name, value) for name, value in shared.attributes.items()])


def message_of(subject: str, headers: Mapping[str, str], value: bytes) -> Message | None:
    """Return the message that was stored, None for anything that is not the gateway's (a delete marker)."""
    tokens = subject.split(".")
    key = headers.get(KEY)
    if len(tokens) != 5 or key is None:  # noqa: PLR2004 - prefix, events, topic, version, account
        return None
    attributes = {
        name[len(_ATTRIBUTE) :]: unquote(text) if "%" in text else text
        for name, text in headers.items()
        if name.startswith(_ATTRIBUTE)
    }
    return Message(tokens[2], tokens[4], unquote_to_bytes(key), value, attributes)


@lru_cache(maxsize=4096)
def _subject(prefix: str, topic: str, account: str) -> str:
    return f"{prefix}.events.{_token(topic)}.{_VERSION}.{_token(account)}"


def _line(name: str, value: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"attribute {name!r} must be of lower-case letters and digits")
    return _written(name, value)


def _written(name: str, value: str) -> str:
    return f"{_ATTRIBUTE}{name}: {value if _UNSAFE.search(value) is None else _encode(value)}\r\n"


_OWN: Final = frozenset({"id", "sequence", "time", TRACEPARENT})
"""Attributes that differ from message to message; their names need no look."""


def _encode(value: str) -> str:
    return quote_from_bytes(value.encode(), safe=_SAFE)


def _token(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} cannot be a part of a subject: it is empty or has a space, a dot, * or >")
    return name
