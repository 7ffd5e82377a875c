"""The supported brokers: from settings to an open one, whichever it is.

Only the broker that the settings name is imported: the clients of both together cost 0.2 s of CPU at each start.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Final

from gateway.bootstrap.broker_parts import Broker, BrokerFacts
from gateway.errors import ConfigurationError
from gateway.settings.model import Settings
from gateway.settings.sections import API_PREFIX, BrokerSettings, TopicsSettings
from gateway.telemetry import tracer as traces

NAMES: Final = {"jetstream": "NATS", "kafka": "Kafka"}
DOCS: Final = {"jetstream": "operate/nats.md", "kafka": "operate/kafka.md"}


def open_broker(settings: BrokerSettings, topics: TopicsSettings | None = None) -> AbstractAsyncContextManager[Broker]:
    """Connect to the broker that the settings name; entering raises ConfigurationError, Unavailable.

    A reader needs no `topics`.
    """
    if settings.kind == "kafka":
        from gateway.bootstrap.kafka import open_kafka  # noqa: PLC0415 - see above

        return open_kafka(settings, topics or TopicsSettings())
    from gateway.bootstrap.jetstream import open_jetstream  # noqa: PLC0415 - see above

    return open_jetstream(settings, topics or TopicsSettings())


def topic_names(settings: BrokerSettings) -> dict[str, str]:
    """Return what each kind's topic is called: on NATS the subject filter for all accounts."""
    if settings.kind == "kafka":
        from gateway.bootstrap import kafka  # noqa: PLC0415 - see above

        return kafka.topic_names(settings.prefix)
    from gateway.bootstrap import jetstream  # noqa: PLC0415 - see above

    return jetstream.topic_names(settings.prefix)


def tracing_destinations(settings: BrokerSettings) -> traces.MessagingSystem:
    """Return the broker in the words of traces."""
    return traces.MessagingSystem({"jetstream": "nats"}.get(settings.kind, settings.kind), topic_names(settings))


def check_writable(settings: BrokerSettings) -> None:
    """Raise ConfigurationError where the settings lead to a log that can only be read.

    To write from another account, that one would have to import every subject of the gateway's streams, and a user of
    it with the permission to publish there is an operator: nothing would be gained by the second account.
    """
    if settings.kind == "jetstream" and settings.api_prefix != API_PREFIX:
        problem = (
            f"{settings.api_prefix} is the API of another account's streams, and the gateway writes only to its own"
        )
        remedy = "Take it away here, and log in to the account that has the streams; only `tail` and `verify` take it."
        raise ConfigurationError("broker.api_prefix", problem, remedy)


async def prepare_broker(broker: Broker, settings: Settings) -> BrokerFacts:
    """Make the broker ready to be written to, and return what exists; raises ConfigurationError, Unavailable."""
    found = await broker.prepare(settings)
    await broker.registry.ensure_layout(settings.shards)
    return found
