"""What it means that NATS is there and its JetStream is not: a wrong setting, or what passes or is mended elsewhere.

What nats-server 2.15 answers to a call of JetStream's API (measured):

| what is so | the answer |
|---|---|
| JetStream is off in a server that stands alone | no responders |
| a server without JetStream in a cluster or at a leaf connection; those with it are away, or there is none | the same |
| `api_prefix` is not what the account imports the API as, or those that serve it are away | the same |
| JetStream is off for the account | error 10039 |
| two servers of three are away | nothing for 10 s, then error 10008 |
| the servers are away that keep the stream, and the cluster has a leader | nothing |
| a cluster has started and elects its leader | nothing for 4 s |
| a permission is missing | the violation's error |

A server that has started lets nobody in until it has read its streams: 1,355 of 1,355 calls were answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from gateway.broker.jetstream.client_internals import server_info
from gateway.broker.jetstream.link import API, JetStreamApiError, Link, NoResponders
from gateway.errors import ActionRequired, BrokerError, ConfigurationError, NotReady, Unavailable

_NOT_ENABLED: Final = frozenset({10039, 10076})
_NO_LEADER: Final = frozenset({10008})
_ENABLE: Final = "`jetstream { store_dir: … }`"


@contextmanager
def jetstream_needed(link: Link) -> Iterator[None]:
    """Put into words why JetStream does not serve.

    Raises:
        ConfigurationError: JetStream is off in the only server, or for the account.
        ActionRequired: no server is reachable that has JetStream; it passes where those come back.
        NotReady: the cluster has no leader, or elects one.

    """
    try:
        yield
    except NoResponders as silence:
        raise _unserved(link) from silence
    except JetStreamApiError as refusal:
        if refusal.code in _NOT_ENABLED:
            remedy = "Enable it: `jetstream: enabled` in the account, or limits above 0 in its JWT."
            raise ConfigurationError("broker", f"NATS says: {refusal.description}", remedy) from refusal
        if refusal.code in _NO_LEADER:
            raise NotReady(_leaderless(link, f"says: {refusal.description}")) from refusal
        raise
    except Unavailable as error:
        if isinstance(error.__cause__, TimeoutError) and not link.is_lost:
            raise NotReady(_leaderless(link, "does not answer")) from error
        raise


def _unserved(link: Link) -> ConfigurationError | BrokerError:
    """Return why nobody serves the API."""
    info = server_info(link.client)
    server = f"the NATS server {info.get('server_name')}"
    if link.api_prefix != API:
        return ActionRequired(
            f"nobody serves {link.api_prefix}: either broker.api_prefix is not what the account imports the API as, or "
            f"the servers with JetStream are away that {server} reaches. Mend the setting, or start them"
        )
    if info.get("jetstream"):
        return NotReady(f"JetStream of {server} does not answer: it ends, or its log says why. Start it again")
    if info.get("cluster"):  # a server with leaf connections has one, too
        return ActionRequired(
            f"{server} has no JetStream, and nobody that it reaches in its cluster or over leaf connections serves it. "
            f"Start the servers that have it; where none has, enable it: {_ENABLE}"
        )
    return ConfigurationError(
        "broker.servers", "JetStream is not enabled on this NATS server", f"Enable it: {_ENABLE}."
    )


def _leaderless(link: Link, problem: str) -> str:
    server = server_info(link.client).get("server_name")
    return (
        f"JetStream {problem}, asked by way of the NATS server {server}: the cluster or the stream elects a leader, or "
        "has none, as too many of its servers are away. It goes on by itself once they are back; "
        "`nats server report jetstream` shows them"
    )
