"""One process of the gateway: its accounts, dealt into shards, and what they share."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp

from gateway.accounts import AccountsDirectory, shard_of
from gateway.broker.ports import EventLog, Registry
from gateway.errors import ConfigurationError
from gateway.hub import PATH
from gateway.replica.access import HubAccess, PageLimit
from gateway.replica.account import Account, Activity
from gateway.replica.budget import Budget
from gateway.replica.shard import Shard, ShardSettings
from gateway.session.facts import SessionSettings
from gateway.settings import HubSettings, Settings
from gateway.signalr.connection import Transport
from gateway.telemetry.logs import get_logger

_PAGE_PART: Final = 8
"""The part of the memory that one page may be expected to take, as a divisor: others must find room beside it."""


@dataclass(frozen=True, slots=True)
class AccountStatus:
    """What is so for one account, for people and machines."""

    account: str
    activity: Activity
    published: int
    """Messages committed since this process began."""
    latest: int
    """The hub's latest sequence as last told."""
    settled: int
    """The highest sequence that is settled or queued."""
    trouble: str | None
    """The last error, until the account is live again."""
    connects: int

    @property
    def lag(self) -> int:
        """Sequences that the hub has and the log has not: an upper bound, since they may have holes."""
        return max(0, self.latest - self.settled)


class Replica:
    """All shards of this process and their accounts."""

    def __init__(self, settings: Settings, log: EventLog, registry: Registry, http: aiohttp.ClientSession) -> None:
        """Read the accounts directory; raises ConfigurationError when it cannot be read."""
        assert settings.accounts.directory is not None  # noqa: S101 - the settings see to it
        keys = AccountsDirectory(settings.accounts.directory)
        names, faults = keys.scan()
        self._logger = get_logger()
        for fault in faults:
            self._logger.error("an entry of accounts.directory is no account", entry=fault.entry, problem=fault.problem)
        if not names:
            self._logger.warning("accounts.directory holds no account", directory=str(settings.accounts.directory))
        access = HubAccess(
            url=settings.hub.url + PATH,
            transport=transport_of(settings.hub, http),
            keys=keys,
            connecting=asyncio.Semaphore(settings.hub.max_connecting),
            page_limit=PageLimit(settings.hub.page_limit, room=settings.memory_bytes // _PAGE_PART),
            audit_interval=settings.session.audit_interval,
            budget=Budget(settings.memory_bytes),
        )
        shard_settings = ShardSettings(
            start=settings.accounts.start,
            session=SessionSettings(
                grace=settings.session.history_grace,
                reorder_window=settings.session.reorder_window,
                buffer_bytes=settings.session.buffer_bytes,
            ),
            registry=registry,
            commits=asyncio.Semaphore(settings.broker.max_commits),
            account_in_key=settings.messages.key == "account-sequence",
        )
        self._shards: dict[int, Shard] = {}
        for name in sorted(names):
            number = shard_of(name, settings.shards)
            shard = self._shards.setdefault(number, Shard(number, log, shard_settings))
            shard.accounts[name] = Account(name, access, shard.has_work)

    def stop(self) -> None:
        """Let `run` return once the commits in hand are finished."""
        for shard in self._shards.values():
            shard.stop()

    async def run(self) -> None:
        """Serve every shard until `stop`; returns by itself only when other gateways have taken all of them."""
        async with asyncio.TaskGroup() as tasks:
            for shard in self._shards.values():
                tasks.create_task(shard.run(), name=f"shard-{shard.number}")

    def statuses(self) -> list[AccountStatus]:
        """Say what is so for each account, in the order of their names."""
        accounts = [account for shard in self._shards.values() for account in shard.accounts.values()]
        return [_status(account) for account in sorted(accounts, key=lambda account: account.name)]

    def commits(self) -> int:
        """Give the number of commits since this process began."""
        return sum(shard.counts["commits"] for shard in self._shards.values())


def _status(account: Account) -> AccountStatus:
    session = account.session
    return AccountStatus(
        account=account.name,
        activity=account.activity,
        published=sum(count for label, count in account.counts.items() if label.startswith("published")),
        latest=session.latest if session else 0,
        settled=session.highest if session else 0,
        trouble=account.trouble,
        connects=account.counts["connects"],
    )


@asynccontextmanager
async def hub_http(settings: HubSettings) -> AsyncIterator[aiohttp.ClientSession]:
    """Give the HTTP client for all connections to the hub: one TLS context, no limit on connections.

    Raises ConfigurationError for a CA file that is none.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            "hub.ca_file", f"{settings.ca_file} cannot be read ({error})", "Name a PEM file with the CA's certificate."
        ) from error
    connector = aiohttp.TCPConnector(limit=0, ssl=context, ttl_dns_cache=30)
    async with aiohttp.ClientSession(
        connector=connector,
        headers=settings.headers,
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),  # a shared jar would carry one account's affinity into another's
    ) as http:
        yield http


def transport_of(settings: HubSettings, http: aiohttp.ClientSession) -> Transport:
    """Give how connections to the hub are made."""
    return Transport(
        http=http,
        connect_timeout=settings.connect_timeout,
        call_timeout=settings.call_timeout,
        ping_interval=settings.ping_interval,
        silence_timeout=settings.silence_timeout,
        max_record=settings.max_record_bytes,
        proxy=settings.proxy,
        skip_negotiation=settings.skip_negotiation,
    )
