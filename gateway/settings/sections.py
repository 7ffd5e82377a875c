"""The sections of the settings; below each field is its documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import NoDecode

from gateway.settings.checks import (
    check_collector_url,
    check_enums,
    check_headers,
    check_hosts,
    check_hub_url,
    check_kind,
    check_networks,
    check_proxy,
    read_list,
)

LONGEST: Final = 100 * 365 * 24 * 3600
"""Seconds that any setting may have: a century. JetStream counts nanoseconds in 64 bits, and removes at once what is to
stay until after the year 2262 (measured with 9,000,000,000 s)."""
_LONGEST_COMMIT: Final = 24 * 3600
"""Seconds. Kafka counts milliseconds in 32 bits."""
_INT32: Final = 2**31 - 1
_INT64: Final = 2**63 - 1


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _check_kind(cls, value: object, info: ValidationInfo) -> object:
        return check_kind(value, cls.model_fields[str(info.field_name)].annotation)


class HubSettings(_Section):
    """The MesoLive Event Hub."""

    url: Annotated[str, AfterValidator(check_hub_url)] = Field(default="")
    """Where the hub is, without `/hubs/event/v1`: `https://api.example.com`."""
    ca_file: Path | None = None
    """PEM file of a private CA that signed the hub's certificate; it is read again when it changes."""
    proxy: Annotated[SecretStr, AfterValidator(check_proxy)] | None = None
    """URL of an HTTP proxy that lets the hub be reached through CONNECT: `http://proxy.example.com:3128`."""
    proxy_file: Path | None = None
    """A file that holds the URL of such a proxy, for one with a password; it is read again when it changes."""
    headers: Annotated[dict[str, SecretStr], AfterValidator(check_headers)] = Field(default_factory=dict)
    """Further headers of every request to the hub."""
    headers_file: Path | None = None
    """A file with such headers, one a line, `X-Key: …`; it is read again when it changes."""
    allow_plain: bool = False
    """Do not warn of API keys, headers or a proxy's password that go over plain http to another machine."""
    redirect_hosts: Annotated[list[str], NoDecode, BeforeValidator(read_list), AfterValidator(check_hosts)] = [
        "*.service.signalr.net"
    ]
    """Hosts that negotiation may send the gateway to, besides the hub's own: Azure SignalR Service by default."""
    skip_negotiation: bool = False
    """Open the WebSocket at once, for hubs behind a balancer without sticky sessions."""
    connect_timeout: float = Field(default=15, gt=0, le=LONGEST)
    """Seconds for negotiate, upgrade and handshake each."""
    call_timeout: float = Field(default=30, gt=0, le=LONGEST)
    """Seconds for the answer to a call of a hub method; up to four times as long while parts of it come."""
    ping_interval: float = Field(default=15, gt=0, le=LONGEST)
    """Seconds between pings to the hub."""
    silence_timeout: float = Field(default=30, gt=0, le=LONGEST)
    """Seconds without a word from the hub, a part of one included, after which the connection is given up."""
    max_concurrent_connects: int = Field(default=20, ge=1)
    """Maximum concurrent connection attempts per process."""
    connects_per_second: float = Field(default=300, gt=0, le=1_000_000)
    """New connections a second, in one process: what a hub must bear that comes back, or that refuses everybody."""
    enums: Annotated[dict[str, list[str]], AfterValidator(check_enums)] = Field(default_factory=dict)
    """What the numbers of the hub's enums mean, from 0 on: `SignalState: [Off, On]`; all others stay numbers."""
    page_limit: int = Field(default=1000, ge=1, le=_INT32)
    """Events to ask for in one page; lowered by itself where the hub takes less."""
    max_record_bytes: int = Field(default=8 * 1024 * 1024, ge=64 * 1024)
    """Bytes of one SignalR record above which the connection is given up; a page is then asked for at half its size.
    The largest record bounds for how long one account can hold up the others."""
    max_dead_letters_per_minute: int = Field(default=6000, ge=1)
    """Dead letters that one account may make in a minute, one more for each 16 KiB of a large one; then it stands still
    until the minute is over, loudly, and history gives it again what it did not read."""


class AccountsSettings(_Section):
    """The accounts: API keys under names that the operator gives them."""

    directory: Path | None = None
    """A directory with one file an account: its name is the account's, its content the API key."""
    start: Literal["earliest", "latest"] | Annotated[int, Field(ge=0, le=_INT64)] = "earliest"
    """Where a new account begins: its `earliest` event, only what comes after the `latest`, or after a sequence."""


class SessionSettings(_Section):
    """How history and live are put together, for each account."""

    history_grace: float = Field(default=30, gt=0, le=LONGEST)
    """Seconds in which the hub may still show an event below one that it told of; then a hole is final."""
    reorder_window: float = Field(default=0.05, ge=0, le=LONGEST)
    """Seconds that a push which leaves a hole waits for what is missing."""
    audit_interval: float = Field(default=30, gt=0, le=LONGEST)
    """Seconds between looks at the history for what was never pushed."""
    buffer_bytes: int = Field(default=8 * 1024 * 1024, ge=64 * 1024)
    """Bytes that may wait for the broker, for each account; beyond it history is paged again later."""
    skip_poison_after: int | None = Field(default=None, ge=1)
    """Failures of a single event, which the hub has and cannot give, after which it is passed and announced as a gap;
    without a number the account waits for it."""


class TlsSettings(_Section):
    """TLS towards the broker: a connection without it is refused as soon as one of these is set.

    The files, as those of passwords and credentials, are read again for each new connection.
    """

    enabled: bool = False
    """Use TLS also where no file is named, with the system's CAs; NATS says so by `tls://`."""
    ca_file: Path | None = None
    """PEM file of the CA that signed the broker's certificate; without it the system's CAs vouch."""
    cert_file: Path | None = None
    """PEM file of the client's certificate, for mutual TLS."""
    key_file: Path | None = None
    """PEM file of the client's key, for mutual TLS, without a passphrase; not needed where `cert_file` holds it."""
    handshake_first: bool = False
    """Begin with TLS before the server's first word, for a nats-server with `handshake_first: true`."""


class SaslSettings(_Section):
    """User and password towards the broker."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    """Kafka's SASL mechanism; NATS has none."""
    username: str | None = None
    """The user's name."""
    password_file: Path | None = None
    """A file that holds the password."""
    token_file: Path | None = None
    """A file that holds the token of OAUTHBEARER, read at each connect."""


API_PREFIX: Final = "$JS.API"
"""What the subjects of JetStream's API begin with in the account that has the streams."""


class BrokerSettings(_Section):
    """The broker that holds the log."""

    kind: Literal["jetstream", "kafka"] = "jetstream"
    """Which broker: NATS JetStream or Kafka."""
    servers: Annotated[list[str], NoDecode, BeforeValidator(read_list), Field(min_length=1)] = ["nats://127.0.0.1:4222"]
    """Addresses to connect to first, with Kafka `host:port`; a list, or in the environment separated by commas."""
    discover: bool = True
    """NATS: connect also to the addresses that a server tells of itself and its cluster, after those of `servers`;
    set it to false where a NAT or a load balancer keeps the gateway from them."""
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")] = "mesolive"
    """What the names of all subjects, streams, buckets, topics and transactional ids begin with."""
    replicas: int = Field(default=1, ge=1, le=5)
    """Copies that the broker keeps, where the gateway creates the stream or the topics."""
    tls: TlsSettings = TlsSettings()
    sasl: SaslSettings = SaslSettings()
    credentials_file: Path | None = None
    """A NATS credentials file (JWT and nkey), or a file that holds a user's nkey seed alone."""
    allow_plain: bool = False
    """Do not warn of a password or a token that goes to another machine without TLS."""
    inbox_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")] = "_INBOX"
    """What the NATS subjects begin with on which the broker answers: the user must be allowed to subscribe below it."""
    api_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_$-]+(\.[A-Za-z0-9_$-]+)*$")] = API_PREFIX
    """What the NATS subjects of JetStream's API begin with: for `gateway tail` and `gateway verify` in an account of
    their own, which imports those of the gateway's account under another prefix; `gateway run` takes no other."""
    commit_timeout: float = Field(default=10, gt=0, le=_LONGEST_COMMIT)
    """Seconds for the answer to a commit."""
    max_in_flight_commits: int = Field(default=4, ge=1)
    """Maximum commits in flight per process; one that takes longer than a second no longer counts."""


class TopicsSettings(_Section):
    """The topics, or the streams, that hold the log."""

    create: bool = True
    """Create what is missing in the broker; otherwise only check it."""
    retention: float | None = Field(default=7 * 24 * 3600, gt=0, le=LONGEST)
    """Seconds that an event stays in the log; null keeps it for ever."""
    retention_bytes: int | None = Field(default=None, gt=0, le=_INT64)
    """Kafka: bytes of each partition of events that may bound that; null lets no size do so."""
    audit_retention: float | None = Field(default=90 * 24 * 3600, gt=0, le=LONGEST)
    """Seconds that a record of who changed what stays in the audit topic; null keeps it for ever."""
    partitions: int = Field(default=8, ge=1, le=10_000)
    """Kafka: partitions of each topic of events; fixed when a deployment first starts."""


class MessagesSettings(_Section):
    """What messages look like."""

    key: Literal["sequence", "account-sequence"] = "sequence"
    """An event's key: EventSeqId (`42`), or account and EventSeqId (`main:42`), which a compacted topic needs."""


class ListenerTlsSettings(_Section):
    """TLS 1.2 or later on a listener, as soon as `cert_file` is set. The files are read again when they change."""

    cert_file: Path | None = None
    """PEM file of the listener's certificate, with its chain; set, the listener speaks TLS alone."""
    key_file: Path | None = None
    """PEM file of its key, without a passphrase; not needed where `cert_file` holds it."""
    client_ca_file: Path | None = None
    """PEM file of the CA of the clients; set, nobody without a certificate of it is let in."""


class ControlSettings(_Section):
    """The HTTP API for operators."""

    host: str = Field(default="0.0.0.0", min_length=1)  # noqa: S104 - only with tokens; else it is loopback
    """Address to bind. Ignored (127.0.0.1 is used) unless `control.tokens_file` is set."""
    port: int = Field(default=8080, ge=0, le=65_535)
    """Port to listen on; 0 takes a free one, which the log names."""
    tokens_file: Path | None = None
    """Who may call the API: lines that `gateway token` makes, read again when the file changes."""
    tls: ListenerTlsSettings = ListenerTlsSettings()
    trusted_proxies: Annotated[list[str], NoDecode, BeforeValidator(read_list), AfterValidator(check_networks)] = []
    """Addresses or networks of proxies before the API, whose X-Forwarded-For is believed; anybody else's is not."""


class MonitoringSettings(_Section):
    """Probes and metrics, which need no token."""

    host: str = Field(default="0.0.0.0", min_length=1)  # noqa: S104 - probes and scrapes come from elsewhere
    """Address to listen on."""
    port: int = Field(default=9090, ge=0, le=65_535)
    """Port to listen on; 0 takes a free one, which the log names."""
    tls: ListenerTlsSettings = ListenerTlsSettings()


class MetricsSettings(_Section):
    """What is told to Prometheus."""

    per_account: bool = True
    """Export metrics per account (about ten series each). If false, only totals and the worst account."""


class ReplaysSettings(_Section):
    """Replays: ranges of the history that are published again."""

    events_per_second: float = Field(default=1000.0, gt=0, le=100_000)
    """Events that the replays of a process publish together, so that new ones find room beside them."""
    max_running: int = Field(default=4, ge=1, le=100)
    """Maximum replays that a process runs at a time; others wait."""
    max_open: int = Field(default=100, ge=1, le=1000)
    """Maximum open (pending or running) replays in the deployment; a further request gets 429."""
    keep_finished: int = Field(default=500, ge=1, le=10_000)
    """Finished replays that can still be read; older ones are deleted."""


class TracingSettings(_Section):
    """Traces: spans of OpenTelemetry, sent by OTLP over HTTP."""

    endpoint: Annotated[str, AfterValidator(check_collector_url)] | None = None
    """Base URL of the collector (`/v1/traces` is added), with the extra `tracing` installed; null traces nothing."""
    sample_ratio: float = Field(default=0.01, ge=0, le=1)
    """The part of messages, commits and requests that is sampled; connects, catch-ups and replays always are."""
    headers_file: Path | None = None
    """A file with a header a line for the collector, `Authorization: Bearer …`; it is read again for each request."""
    ca_file: Path | None = None
    """PEM file of a private CA that signed the collector's certificate."""
    allow_plain: bool = False
    """Do not warn of headers that go over plain http to another machine."""


class LogSettings(_Section):
    """What the gateway says of itself."""

    format: Literal["auto", "console", "json"] = "auto"
    """For people or for machines; `auto` asks whether standard error is a terminal."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum log level."""
