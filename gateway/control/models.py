"""What goes over the API: every body, described once for programs, readers and the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gateway.control.problem_models import Answer


def _whole(value: object) -> object:
    """Take 3.0 for 3, as JSON Schema does: some languages know no other numbers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Strategy = Annotated[int, Field(strict=True, ge=0, le=2**53 - 1), BeforeValidator(_whole)]
Strategies = Annotated[
    list[Strategy] | None,
    Field(description="Whose events to publish: null for all, also those made later; an empty list for none."),
]
Sequence = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1), BeforeValidator(_whole)]
Time = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
State = Literal[
    "diverged",
    "unauthorized",
    "orphaned",
    "key_missing",
    "fenced",
    "offline",
    "catching_up",
    "live",
    "paused",
]
"""What an account may be doing, the worst first; a later release may add to them."""

SUBSCRIPTION: Final[dict[str, Any]] = {"strategies": [1, 2], "failed_strategies": []}
DESIRED: Final[dict[str, Any]] = {
    "state": "running",
    "strategies": [1, 2],
    "reconnects": 0,
    "revision": 57,
    "age_seconds": 3600.2,
}
OBSERVED: Final[dict[str, Any]] = {
    "state": "live",
    "since": "2026-11-22T13:32:25.092Z",
    "owner": "gateway-0/1",
    "settled": 181004,
    "latest": 181005,
    "lag": {"sequences": 1, "seconds": 0.1},
    "published": 20410,
    "connects": 1,
    "last_error": None,
    "subscription": SUBSCRIPTION,
    "enums": {"forms": ["numbers"], "unnamed": ["OrderState", "SignalState"]},
    "applied": 57,
    "age_seconds": 0.7,
    "is_stale": False,
}
ACCOUNT: Final[dict[str, Any]] = {
    "account": "main",
    "shard": 3,
    "is_applied": True,
    "desired": DESIRED,
    "observed": OBSERVED,
}


REPLAY: Final[dict[str, Any]] = {
    "id": "9a1c2f0d4e6b48f2a0c3d5e7f9012345",
    "account": "main",
    "state": "running",
    "since": 180000,
    "until": 181000,
    "from": None,
    "to": None,
    "kinds": ["order-update"],
    "strategies": None,
    "destination": "replay",
    "requested_at": "2026-11-22T13:32:25.092Z",
    "requested_by": "night-desk",
    "cancel_requested": False,
    "progress": {
        "fraction": 0.25,
        "position": 180250,
        "read": 250,
        "published": 113,
        "events_per_second": 820.5,
        "seconds_left": 0.9,
    },
    "detail": None,
    "owner": "gateway-0/1",
    "started": "2026-11-22T13:32:25.310Z",
    "ended": None,
    "age_seconds": 0.4,
}


class _Request(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid")


class Lag(Answer):
    """How far the log is behind the hub."""

    sequences: int | None
    """EventSeqIds that the hub has and the log has not: an upper bound, since they may have holes. Null where
    `settled` or `latest` is."""
    seconds: float
    """For how long that has been so."""


class EffectiveSubscription(Answer):
    """The subscription that is in effect."""

    strategies: list[int] | None
    """Whose events are published; null for all."""
    failed_strategies: list[int]
    """Those that the hub did not give when it was asked last; it is asked again."""


class Enums(Answer):
    """How the hub writes enums, as the owner saw it since it began."""

    forms: list[str]
    """`names`, `numbers`, both, or nothing where no enum came yet."""
    unnamed: list[str]
    """Enums that are published as numbers, since the setting hub.enums does not name them."""


class Desired(Answer):
    """Desired state of an account."""

    state: Literal["running", "paused"]
    """Whether it is to be connected."""
    strategies: list[int] | None
    """Whose events to publish; null for all."""
    reconnects: int
    """How often a new connection was asked for."""
    revision: int
    """Rises with each change; 0 where none was ever set. In quotes it is the ETag."""
    age_seconds: float | None
    """Seconds since the last change; null where there was none."""


class Observed(Answer):
    """Observed state of an account, as reported last by its owner."""

    state: str
    """What it is doing: diverged, unauthorized, orphaned, key_missing, fenced, offline, catching_up, live or paused."""
    since: str | None
    """Since when, by the owner's clock; null where it does not say."""
    owner: str
    """The replica that reported it."""
    settled: int | None
    """The highest EventSeqId that is published or about to be; null where that is not known: no replica that has a key
    serves the account, and its checkpoint cannot be read."""
    latest: int | None
    """The hub's latest EventSeqId as last told; null where no replica that has a key serves the account."""
    lag: Lag
    published: int
    """Messages committed since the owner began."""
    connects: int
    """Connections to the hub since the owner began."""
    last_error: str | None
    """The last error, until the account is live again."""
    subscription: EffectiveSubscription
    enums: Enums
    applied: int
    """The revision of the desired state that is applied; 0 where none is applied yet."""
    age_seconds: float
    """Seconds since the report."""
    is_stale: bool
    """Whether the report is so old that no replica may serve the account, or the broker is unavailable."""


class Account(Answer):
    """An account: its desired and its observed state."""

    account: str
    shard: int
    is_applied: bool
    """Whether the whole desired state is applied."""
    desired: Desired | None
    """Null where a newer release wrote it."""
    observed: Observed | None
    """Null where no replica has reported anything, or a newer release wrote it."""


class Accounts(Answer):
    """A part of the accounts."""

    items: list[Account]
    next: str | None
    """The cursor of the next part; null where this is the last."""


class Subscription(Answer):
    """The subscription of an account."""

    account: str
    strategies: list[int] | None
    """The desired subscription: null for all, an empty list for none."""
    revision: int
    """Revision of the desired state; in quotes it is the ETag."""
    is_applied: bool
    """Whether it is applied, or will be as soon as the account runs, where it is paused."""
    effective: EffectiveSubscription | None
    """The subscription in effect, as the account's owner reported it last."""


class SubscriptionWanted(_Request):
    """A subscription to be."""

    model_config = ConfigDict(json_schema_extra={"example": {"strategies": [1, 2]}})

    strategies: Annotated[Strategies, Field(examples=[[1, 2], None, []])]


class TargetState(Answer):
    """Whether an account is to run."""

    account: str
    state: Literal["running", "paused"]
    """The desired state."""
    revision: int
    """Revision of the desired state; in quotes it is the ETag."""
    is_applied: bool
    """Whether it is applied."""


class TargetStateWanted(_Request):
    """What an account is to do."""

    model_config = ConfigDict(json_schema_extra={"example": {"state": "paused"}})

    state: Annotated[Literal["running", "paused"], Field(examples=["paused"])]
    """`paused` lets its connection to the hub go; nothing is lost, since the hub's history gives it again."""


class Checkpoint(Answer):
    """How far an account is published."""

    account: str
    verified: int | None
    """Everything up to this EventSeqId is settled and final; null where there is no checkpoint, or none that can be
    read."""
    incarnation: int
    """How often the hub's history was declared to be another one, and one; 0 where there is no checkpoint."""
    is_applied: bool
    """Whether it is applied, or will be as soon as the account's owner has received it."""


class CheckpointWanted(_Request):
    """Where an account is to begin anew."""

    model_config = ConfigDict(json_schema_extra={"example": {"verified": 181000}})

    verified: Annotated[Sequence, Field(examples=[181000, 0])]
    """The EventSeqId after which everything is published, again or for the first time; 0: from the oldest on."""


class Forgotten(Answer):
    """An account whose checkpoint is forgotten."""

    account: str
    is_applied: bool
    """Whether it is applied, or will be as soon as a replica can."""


class Reconnect(Answer):
    """A new connection that was asked for."""

    account: str
    reconnects: int
    """How often one was asked for, this time included."""
    is_applied: bool
    """Whether the whole desired state is applied."""


class ReplayWanted(_Request):
    """A range of an account's history to publish again: by sequences, by times, or by both."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"since": 180000, "until": 181000, "kinds": ["order-update"]}},
        validate_by_name=False,
    )

    since: Annotated[Sequence | None, Field(examples=[180000])] = None
    """The EventSeqId after which it begins; null for the oldest event that the hub has. All that comes after it must
    still be there, else the replay fails."""
    until: Annotated[Sequence | None, Field(examples=[181000])] = None
    """The last EventSeqId; null for the last that is published now."""
    from_: Annotated[Time | None, Field(alias="from", examples=["2026-11-22T13:00:00Z"])] = None
    """Only events with an EventTime from then on. Where nothing else is given, all of the history is looked through:
    `since` and `until` spare that."""
    to: Annotated[Time | None, Field(examples=["2026-11-22T14:00:00+01:00"])] = None
    """Only events with an EventTime before then."""
    kinds: Annotated[list[str], Field(min_length=1, max_length=32, examples=[["order-update"]])] | None = None
    """Only these kinds, such as order-update, or dead-letter; null for all."""
    strategies: Annotated[list[Strategy], Field(min_length=1, max_length=1000, examples=[[1, 2]])] | None = None
    """Only events of these strategies, and those that name none; null for all, whatever the account's subscription."""
    destination: Literal["topics", "replay"] = "replay"
    """`replay`: a topic of its own, where only replays go. `topics`: where such events always go, among the live ones;
    their consumers must heed `replayid`, or they count an event twice and take older states for newer ones."""


class ReplayProgress(Answer):
    """How far a replay is."""

    fraction: float
    """Of the range's sequences, from 0 to 1."""
    position: int | None
    """The last EventSeqId that was looked at; null before it has begun."""
    read: int
    """Events that were looked at."""
    published: int
    """Messages that were published."""
    events_per_second: float
    """What it looks at in a second."""
    seconds_left: float | None
    """Until its end at this rate; null where that is not known."""


class Replay(Answer):
    """A replay: what was asked for, and how far it is."""

    id: str
    """What its messages bear as the attribute `replayid`."""
    account: str
    state: Literal["pending", "running", "completed", "failed", "cancelled"]
    """The last three are final."""
    since: int | None
    until: int
    """The last EventSeqId of the range."""
    from_: Annotated[str | None, Field(alias="from")]
    to: str | None
    kinds: list[str] | None
    strategies: list[int] | None
    destination: str
    requested_at: str
    requested_by: str
    """The name of the token."""
    cancel_requested: bool
    """Whether an operator asked for its end."""
    progress: ReplayProgress
    detail: str | None
    """What it waits for, or why it failed: what the hub no longer has."""
    owner: str | None
    """The replica that carries it out, or did last; null where none has begun."""
    started: str | None
    ended: str | None
    age_seconds: float | None
    """Seconds since the owner's last report; null where there is none."""


class Replays(Answer):
    """A part of the replays, the newest first."""

    items: list[Replay]
    next: str | None
    """The cursor of the next part; null where this is the last."""


class Topic(Answer):
    """A topic of the log."""

    kind: str
    topic: str
    """On Kafka its name, on NATS the subject filter for all accounts."""
    schema_url: str | None
    """Where the JSON Schema of its values is; null where each message's kind says it."""


class Topics(Answer):
    """All topics of the log."""

    items: list[Topic]
    next: str | None
    """Always null: they come all at once."""
