"""Every setting of the gateway, documented under its field.

They come from a YAML file (`--config`) and then from the environment: `GATEWAY_HUB__URL` sets `hub.url`.
A setting that does not exist is an error that names the nearest one, in the file and in the environment.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from gateway.addresses import networks
from gateway.enums import PUBLISHED
from gateway.errors import ConfigurationError
from gateway.redaction import may_hold_secret, quoted, shown_value
from gateway.settings_file import check_variable, cut, read_json, read_yaml

ENVIRONMENT_PREFIX: Final = "GATEWAY_"
_KUBERNETES: Final = re.compile(r"_(PORT|SERVICE_HOST|SERVICE_PORT)(_|$)")
"""What Kubernetes puts into the environment of every pod for a service named `gateway…`."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)


_HOST_PATTERN: Final = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*")
_HOST: Final = re.compile(r"[A-Za-z0-9_.-]+|[0-9A-Fa-f:.]+")


def _parts_of(url: str, example: str) -> SplitResult:
    """Return the parts of an http or https URL; raises ValueError, which does not quote it: it may hold a password."""
    try:
        parts = urlsplit(url)
        if parts.scheme in {"http", "https"} and _HOST.fullmatch(parts.hostname or "") and parts.port != 0:
            return parts
    except ValueError:  # brackets that do not match, or a port that is none
        pass
    raise ValueError(f"is no http or https URL; write it as {example}")


def _check_hub_url(url: str) -> str:
    return _check_url(url, "https://api.example.com", "/hubs/event/v1", "keys belong into accounts.directory")


def _check_proxy(url: SecretStr) -> SecretStr:
    check_proxy_url(url.get_secret_value())
    return url


def check_proxy_url(url: str) -> str:
    """Return the URL of a proxy as it is; raises ValueError."""
    example = "http://proxy.example.com:3128"
    parts = _parts_of(url, example)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"must not have a path, a query or a fragment; write it as {example}")
    return url


def _check_hosts(hosts: list[str]) -> list[str]:
    for host in hosts:
        if not _HOST_PATTERN.fullmatch(host):
            raise ValueError(
                f"{quoted(host)} is no host name; write hub.example.com, or *.example.com for all below it"
            )
    return [host.lower() for host in hosts]


def _check_networks(texts: list[str]) -> list[str]:
    for text in texts:
        try:
            networks([text])
        except ValueError as error:
            raise ValueError(f"{quoted(text)} {error}") from None
    return texts


def _check_collector_url(url: str) -> str:
    return _check_url(url, "http://collector:4318", "/v1/traces", "they belong into tracing.headers_file")


def _check_url(url: str, example: str, path: str, secrets: str) -> str:
    """Return the base of a URL, without the `path` that is known; raises ValueError."""
    parts = _parts_of(url, f"{example}, without {path}")
    if parts.query or parts.fragment:
        raise ValueError("must not have a query or a fragment")
    if parts.username or parts.password:
        raise ValueError(f"must not hold credentials: {secrets}")
    return url.rstrip("/").removesuffix(path)


def _check_enums(enums: dict[str, list[str]]) -> dict[str, list[str]]:
    for enum, names in enums.items():
        if enum not in PUBLISHED:
            near = difflib.get_close_matches(enum, PUBLISHED, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(PUBLISHED)}"
            raise ValueError(f"{quoted(enum)} is no enum of the hub; {hint}")
        twice = next((name for place, name in enumerate(names) if name.lower() in map(str.lower, names[:place])), None)
        if twice is not None:
            raise ValueError(f"the enum {enum} has the name {quoted(twice)} twice; each number has a name of its own")
        if not all(names):
            raise ValueError(f"the enum {enum} has an empty name; a number without a known name ends the list")
    return enums


def _read_list(value: object) -> object:
    """Read what an environment variable can say: `a,b`, or a JSON list."""
    if not isinstance(value, str):
        return value
    return read_json(value) if value.lstrip().startswith("[") else [part.strip() for part in value.split(",")]


class HubSettings(_Section):
    """The MesoLive Event Hub."""

    url: Annotated[str, AfterValidator(_check_hub_url)] = Field(default="")
    """Where the hub is, without `/hubs/event/v1`: `https://api.example.com`."""
    ca_file: Path | None = None
    """PEM file of a private CA that signed the hub's certificate; it is read again when it changes."""
    proxy: Annotated[SecretStr, AfterValidator(_check_proxy)] | None = None
    """URL of an HTTP proxy that lets the hub be reached through CONNECT: `http://proxy.example.com:3128`."""
    proxy_file: Path | None = None
    """A file that holds the URL of such a proxy, for one with a password; it is read again when it changes."""
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    """Further headers of every request to the hub."""
    headers_file: Path | None = None
    """A file with such headers, one a line, `X-Key: …`; it is read again when it changes."""
    allow_plain: bool = False
    """Do not warn of API keys, headers or a proxy's password that go over plain http to another machine."""
    redirect_hosts: Annotated[list[str], NoDecode, BeforeValidator(_read_list), AfterValidator(_check_hosts)] = [
        "*.service.signalr.net"
    ]
    """Hosts that negotiation may send the gateway to, besides the hub's own: Azure SignalR Service by default."""
    skip_negotiation: bool = False
    """Open the WebSocket at once, for hubs behind a balancer without sticky sessions."""
    connect_timeout: float = Field(default=15, gt=0)
    """Seconds for negotiate, upgrade and handshake each."""
    call_timeout: float = Field(default=30, gt=0)
    """Seconds for the answer to a call of a hub method; up to four times as long while parts of it come."""
    ping_interval: float = Field(default=15, gt=0)
    """Seconds between pings to the hub."""
    silence_timeout: float = Field(default=30, gt=0)
    """Seconds without a word from the hub, a part of one included, after which the connection is given up."""
    max_concurrent_connects: int = Field(default=20, ge=1)
    """Maximum concurrent connection attempts per process."""
    connects_per_second: float = Field(default=300, gt=0)
    """New connections a second, in one process: what a hub must bear that comes back, or that refuses everybody."""
    enums: Annotated[dict[str, list[str]], AfterValidator(_check_enums)] = Field(default_factory=dict)
    """What the numbers of the hub's enums mean, from 0 on: `SignalState: [Off, On]`; all others stay numbers."""
    page_limit: int = Field(default=1000, ge=1)
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
    start: Literal["earliest", "latest"] | Annotated[int, Field(ge=0)] = "earliest"
    """Where a new account begins: its `earliest` event, only what comes after the `latest`, or after a sequence."""


class SessionSettings(_Section):
    """How history and live are put together, for each account."""

    history_grace: float = Field(default=30, gt=0)
    """Seconds in which the hub may still show an event below one that it told of; then a hole is final."""
    reorder_window: float = Field(default=0.05, ge=0)
    """Seconds that a push which leaves a hole waits for what is missing."""
    audit_interval: float = Field(default=30, gt=0)
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


class BrokerSettings(_Section):
    """The broker that holds the log."""

    kind: Literal["jetstream", "kafka"] = "jetstream"
    """Which broker: NATS JetStream or Kafka."""
    servers: Annotated[list[str], NoDecode, BeforeValidator(_read_list), Field(min_length=1)] = [
        "nats://127.0.0.1:4222"
    ]
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
    commit_timeout: float = Field(default=10, gt=0)
    """Seconds for the answer to a commit."""
    max_in_flight_commits: int = Field(default=4, ge=1)
    """Maximum commits in flight per process; one that takes longer than a second no longer counts."""


class TopicsSettings(_Section):
    """The topics, or the streams, that hold the log."""

    create: bool = True
    """Create what is missing in the broker; otherwise only check it."""
    retention: float | None = Field(default=7 * 24 * 3600, gt=0)
    """Seconds that an event stays in the log; null keeps it for ever."""
    retention_bytes: int | None = Field(default=None, gt=0)
    """Kafka: bytes of each partition of events that may bound that; null lets no size do so."""
    audit_retention: float | None = Field(default=90 * 24 * 3600, gt=0)
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
    trusted_proxies: Annotated[list[str], NoDecode, BeforeValidator(_read_list), AfterValidator(_check_networks)] = []
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

    endpoint: Annotated[str, AfterValidator(_check_collector_url)] | None = None
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


class _Sourced(BaseSettings):
    """Settings whose environment wins over their file."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        case_sensitive=False,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the library names them
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file."""
        return env_settings, init_settings


class Settings(_Sourced):
    """All settings."""

    hub: HubSettings = HubSettings()
    accounts: AccountsSettings = AccountsSettings()
    session: SessionSettings = SessionSettings()
    broker: BrokerSettings = BrokerSettings()
    topics: TopicsSettings = TopicsSettings()
    messages: MessagesSettings = MessagesSettings()
    shards: int = Field(default=16, ge=1, le=1024)
    """Slices that the accounts are dealt into: fixed when a deployment first starts."""
    memory_bytes: int = Field(default=256 * 1024 * 1024, ge=16 * 1024 * 1024)
    """Bytes that may wait for the broker in this process, for all accounts together."""
    control: ControlSettings = ControlSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    metrics: MetricsSettings = MetricsSettings()
    replays: ReplaysSettings = ReplaysSettings()
    tracing: TracingSettings = TracingSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _check_required(self) -> Settings:
        if not self.hub.url:
            raise ValueError("hub.url is not set")
        if self.accounts.directory is None:
            raise ValueError("accounts.directory is not set")
        return self


_Loaded = TypeVar("_Loaded", bound=_Sourced)

_REQUIRED: Final = {
    "hub.url": "Set it to where the hub is, such as https://api.example.com.",
    "accounts.directory": "Set it to a directory that holds one file an account, with its API key.",
}


class _BrokerAlone(_Sourced):
    """What a command needs that only looks at the log."""

    model_config = SettingsConfigDict(extra="ignore")

    broker: BrokerSettings = BrokerSettings()


def load_settings(config: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from the file, if there is one, and the environment.

    Raises ConfigurationError, whose text names the setting, what is wrong and what would be right, never a secret.
    """
    return _load(Settings, config, environment)


def load_broker_settings(config: Path | None, environment: Mapping[str, str] = os.environ) -> BrokerSettings:
    """Read the section `broker` alone: the others may be absent or wrong. Raises as `load_settings`."""
    return _load(_BrokerAlone, config, environment).broker


def _load(model: type[_Loaded], config: Path | None, environment: Mapping[str, str]) -> _Loaded:
    content = _read_file(config) if config else {}
    _check_environment(environment)
    try:
        return model(**content)
    except ValidationError as error:
        raise _explain(error) from error
    except SettingsError as error:
        section = re.search(r'field "(\w+)"', str(error))
        variable = ENVIRONMENT_PREFIX + (section[1].upper() if section else "…")
        remedy = f"A section takes a JSON object; a single setting is written as {variable}__<NAME>."
        raise ConfigurationError(variable, "its value is no JSON", remedy) from error


def _read_file(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ConfigurationError("--config", f"{path} holds no settings by name", "Write it as `hub: {url: …}`.")
    return _without_empty_sections(content, Settings)


def _without_empty_sections(content: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Leave out sections whose settings are all commented out: YAML reads them as null."""
    kept = {}
    for name, value in content.items():
        field = model.model_fields.get(name)
        section = field.annotation if field else None
        if isinstance(section, type) and issubclass(section, BaseModel):
            if value is None:
                continue
            if isinstance(value, dict):
                kept[name] = _without_empty_sections(value, section)
                continue
        kept[name] = value
    return kept


def fields(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every setting: its dotted name, and its field with type, default and description."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _check_environment(environment: Mapping[str, str]) -> None:
    """Refuse names that nothing reads: pydantic-settings passes over them in silence."""
    known = {name for setting, _ in fields() for name in _and_its_sections(setting)}
    for variable in environment:
        upper = variable.upper()
        if not upper.startswith(ENVIRONMENT_PREFIX) or ("__" not in upper and _KUBERNETES.search(upper)):
            continue
        setting = upper.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
        if setting not in known and not setting.startswith("hub.headers."):
            raise ConfigurationError(
                cut(variable), "no setting has this name in the environment", _nearest(setting, variable)
            )
        check_variable(variable, environment[variable])


def _and_its_sections(setting: str) -> Iterator[str]:
    parts = setting.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def _nearest(setting: str, variable: str | None = None) -> str:
    candidates = [name for name, _ in fields()]
    sections = [
        part for name in candidates for part in _and_its_sections(name) if part.count(".") == setting.count(".")
    ]
    folded = {name.replace(".", "_"): name for name in (*candidates, *sections)}
    close = difflib.get_close_matches(setting.replace(".", "_"), folded, n=1, cutoff=0.5)
    if not close:
        return f"There are: {', '.join(candidates)}."
    nearest = folded[close[0]]
    if variable is not None:
        nearest = ENVIRONMENT_PREFIX + nearest.upper().replace(".", "__")
    return f"Did you mean {nearest}?"


def _is_secretive(setting: str, field: FieldInfo) -> bool:
    """Return whether a setting holds a secret, or the name of something that a secret may be mistaken for."""
    return setting == "broker.sasl.username" or any(kind in str(field.annotation) for kind in ("SecretStr", "Path"))


def _explain(error: ValidationError) -> ConfigurationError:
    problems = error.errors(include_url=False, include_context=False)
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    setting = cut(".".join(str(part) for part in first["loc"]))
    field = next((field for field in fields() if setting == field[0] or setting.startswith(f"{field[0]}.")), None)
    if field is not None and field[1].annotation != dict[str, SecretStr]:
        setting = field[0]  # behind it pydantic names the member of a union, or a place in a list
    if first["type"] == "extra_forbidden":
        return ConfigurationError(setting, "there is no such setting", _nearest(setting))
    problem = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not setting:
        name = problem.split(" ")[0]
        return ConfigurationError(name, "is not set", _REQUIRED.get(name, ""))
    if field is None:
        return ConfigurationError(setting, "is a section, not a value", f"Write it as `{setting}: {{<name>: …}}`.")
    value = first["input"]
    problem = problem[:1].lower() + problem[1:]
    if not isinstance(value, dict) and not _is_secretive(*field) and not may_hold_secret(value):
        reads_on = problem.startswith(("is ", "must ", "should "))
        problem = f"{shown_value(value)} {problem}" if reads_on else f"{shown_value(value)}: {problem}"
    return ConfigurationError(setting, problem, f"It says: {field[1].description}")
