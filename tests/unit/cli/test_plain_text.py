"""A secret that goes in clear to another machine is told of, and one that does not is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.bootstrap.plain_text_secrets import plain_text_secrets
from gateway.settings.model import Settings

KAFKA: dict[str, Any] = {"kind": "kafka", "servers": ["kafka-1:9092", "127.0.0.1:9092"]}


def kafka(mechanism: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - settings
    return {"broker": {**KAFKA, "sasl": {"mechanism": mechanism, "username": "u", "password_file": "/p"}, **more}}


def nats(server: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - settings
    return {"broker": {"servers": [server], "sasl": {"username": "u", "password_file": "/p"}, **more}}


def tracing(endpoint: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - settings
    return {"tracing": {"endpoint": endpoint, "headers_file": "/h", **more}}


def hub(url: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - settings
    return {"hub": {"url": url, **more}}


def warnings_of(settings: dict[str, Any]) -> list[str]:
    whole = {"hub": {"url": "https://hub"}, "accounts": {"directory": "/keys"}, **settings}
    return [str(one) for one in plain_text_secrets(Settings.model_validate(whole))]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (hub("http://hub.example.com"), "hub.url: API keys go in clear to hub.example.com"),
        (hub("HTTP://10.0.0.1:80", headers={"x": "y"}), "hub.url: API keys and the headers go in clear to 10.0.0.1"),
        (hub("http://localhost", proxy="http://proxy"), "hub.url: API keys go in clear to proxy"),
        (hub("https://h", proxy="http://u:s3cret@proxy:1"), "hub.proxy: the proxy's password goes in clear to proxy"),
        (nats("nats://nats:4222"), "broker.servers: the password goes in clear to nats"),
        (nats("ws://nats:80"), "broker.servers: the password goes in clear to nats"),
        (kafka("PLAIN"), "broker.servers: the password goes in clear to kafka-1"),
        (kafka("OAUTHBEARER"), "broker.servers: the token goes in clear to kafka-1"),
        (kafka("SCRAM-SHA-512"), "broker.servers: what a password can be guessed from goes in clear to kafka-1"),
        (tracing("http://collector:4318"), "tracing.endpoint: the headers of tracing.headers_file go in clear"),
    ],
)
def test_a_secret_in_clear_is_told_of_with_its_remedy_and_can_be_allowed(
    settings: dict[str, Any], message: str
) -> None:
    (line,) = warnings_of(settings)
    assert line.startswith(message)
    assert "s3cret" not in line
    (section,) = settings
    assert f"{section}.allow_plain" in line
    assert warnings_of({section: {**settings[section], "allow_plain": True}}) == []


@pytest.mark.parametrize(
    "settings",
    [
        hub("https://hub.example.com"),
        hub("http://127.0.0.1:5000"),
        hub("http://[::1]:5000"),
        hub("http://localhost", proxy="http://127.0.0.1:3128"),
        hub("https://h", proxy="http://proxy:3128"),
        hub("https://h", proxy="https://u:p@proxy:3128"),
        nats("tls://nats:4222"),
        nats("wss://nats"),
        nats("nats://127.0.0.1:4222"),
        nats("nats://nats:4222", tls={"ca_file": "/ca"}),
        {"broker": {"servers": ["nats://nats:4222"]}},
        {"broker": {"servers": ["nats://nats:4222"], "credentials_file": "/seed"}},  # it signs, and sends no secret
        {"broker": KAFKA},
        kafka("PLAIN", servers=["127.0.0.1:9092", "[::1]:9092", "localhost:9092"]),
        kafka("PLAIN", tls={"enabled": True}),
        tracing("https://collector:4318"),
        tracing("http://127.0.0.1:4318"),
        {"tracing": {"endpoint": "http://collector:4318"}},
    ],
)
def test_what_is_encrypted_or_stays_here_or_is_no_secret_is_not_told_of(settings: dict[str, Any]) -> None:
    assert warnings_of(settings) == []


def test_the_password_of_a_proxy_in_a_file_counts(tmp_path: Path) -> None:
    file = tmp_path / "proxy"
    file.write_text("http://u:s3cret@proxy:3128")
    (line,) = warnings_of(hub("https://h", proxy_file=file))
    assert line.startswith("hub.proxy: the proxy's password goes in clear to proxy.")
    assert "s3cret" not in line
