"""Secrets that the settings send in clear over the network: a WARNING at the start, and a line of `gateway check`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from gateway.addresses import is_loopback
from gateway.hub.client import proxy_of
from gateway.settings.model import Settings
from gateway.settings.sections import BrokerSettings, HubSettings, TlsSettings

_ENCRYPTED: Final = {"tls", "wss"}


@dataclass(frozen=True, slots=True)
class PlainTextSecret:
    """A secret that goes in clear."""

    setting: str
    secret: str
    to: str
    remedy: str

    @property
    def facts(self) -> dict[str, str]:
        """The fields of a log line about it."""
        return {"setting": self.setting, "secret": self.secret, "to": self.to, "remedy": self.remedy}

    def __str__(self) -> str:
        """Return it as `gateway check` prints it."""
        return f"{self.setting}: {self.secret} in clear to {self.to}. {self.remedy}"


def plain_text_secrets(settings: Settings) -> list[PlainTextSecret]:
    """Return what goes in clear to another machine, and is not allowed to; raises as `hub_client.check_files`."""
    found = [*_of_hub(settings.hub), *_of_broker(settings.broker)]
    tracing = settings.tracing
    if tracing.endpoint is not None and tracing.headers_file is not None and not tracing.allow_plain:
        host = _plain_host(tracing.endpoint)
        if host is not None:
            remedy = "Write https://, or set tracing.allow_plain where the network is to be trusted."
            found.append(PlainTextSecret("tracing.endpoint", "the headers of tracing.headers_file go", host, remedy))
    return found


def _of_hub(hub: HubSettings) -> Iterator[PlainTextSecret]:
    if hub.allow_plain:
        return
    proxy = proxy_of(hub)
    host = _plain_host(hub.url)
    if host is None and proxy is not None and _plain_name(hub.url) is not None and not is_loopback(_host(proxy)):
        host = _host(proxy)  # a hub that is on the proxy's machine
    if host is not None:
        secrets = "API keys and the headers" if hub.headers or hub.headers_file else "API keys"
        remedy = "Write https://, or set hub.allow_plain where the network is to be trusted."
        yield PlainTextSecret("hub.url", f"{secrets} go", host, remedy)
    proxy_host = _plain_host(proxy or "")
    if proxy is not None and proxy_host is not None and "@" in proxy:
        remedy = "Reach the proxy by https://, or set hub.allow_plain where the network is to be trusted."
        yield PlainTextSecret("hub.proxy", "the proxy's password goes", proxy_host, remedy)


def _of_broker(broker: BrokerSettings) -> Iterator[PlainTextSecret]:
    sasl = broker.sasl
    if broker.allow_plain or broker.tls != TlsSettings():
        return
    if broker.kind == "kafka":
        kinds = {"PLAIN": "the password goes", "OAUTHBEARER": "the token goes"}
        proofs = "what a password can be guessed from goes"  # SCRAM: RFC 5802, 9
        secret = None if sasl.mechanism is None else kinds.get(sasl.mechanism, proofs)
        hosts = [server.rpartition(":")[0].strip("[]") for server in broker.servers]
        remedy = "Set broker.tls.enabled or broker.tls.ca_file"
    else:
        secret = None if sasl.password_file is None else "the password goes"
        hosts = [_host(server) for server in broker.servers if server.partition("://")[0] not in _ENCRYPTED]
        remedy = "Write tls://, or set broker.tls.ca_file"
    far = [host for host in hosts if not is_loopback(host)]
    if secret is not None and far:
        remedy += ", or broker.allow_plain where the network is to be trusted."
        yield PlainTextSecret("broker.servers", secret, ", ".join(far), remedy)


def _plain_host(url: str) -> str | None:
    """Return the host of a URL that is http to another machine, or None."""
    host = _plain_name(url)
    return None if host is None or is_loopback(host) else host


def _plain_name(url: str) -> str | None:
    return _host(url) if url.lower().startswith("http://") else None


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
