"""The API as it is served, over a real socket, on a control store in memory and with owners that are scripted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.broker.control_view import View
from gateway.broker.memory.audit import MemoryAudit
from gateway.broker.memory.control import MemoryControl
from gateway.broker.ports import Record
from gateway.control.app import create_app
from gateway.control.auditing import Auditing
from gateway.control.auth.tokens import Tokens
from gateway.control.deployment_view import DeploymentView
from gateway.control.listener.server import serving
from gateway.control.listener.sockets import bind, url_of
from gateway.control.middleware import AdmissionMiddleware, RequestLimits
from gateway.errors import GatewayError
from gateway.settings.sections import ReplaysSettings
from gateway.state import Observed, Phase, ReplayState, encode_record
from gateway.telemetry.control_counts import ControlCounters

FEW = ReplaysSettings(max_open=3, keep_finished=2)
TOPICS = {"order-update": "mesolive.events.order-update.v1.*", "replay": "mesolive.events.replay.v1.*"}


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def problem(self) -> str:
        """The end of the problem's type; every problem has the same form."""
        assert self.headers["Content-Type"] == "application/problem+json", self
        assert {"type", "title", "status", "detail", "instance", "request_id"} <= self.body.keys()
        assert self.body["status"] == self.status
        assert self.body["request_id"] == self.headers["X-Request-Id"]
        return str(self.body["type"]).rpartition(":")[2]


@dataclass
class Store(MemoryControl):
    """A control store whose writes can fail, before they are stored or after, and that can fall silent."""

    trouble: GatewayError | None = None
    stores_anyway: bool = False
    writes: list[str] = field(default_factory=list)
    is_silent: bool = False
    """Whether views hear nothing more."""

    async def watch(self) -> AsyncIterator[Record | None]:
        async for record in super().watch():
            if self.is_silent:
                await asyncio.Event().wait()
            yield record

    async def write(self, key: str, value: bytes, expect: int) -> int:
        self.writes.append(key)
        if self.trouble is None:
            return await super().write(key, value, expect)
        if self.stores_anyway:
            await super().write(key, value, expect)
        raise self.trouble


@dataclass
class Api:
    """One or several gateways' control planes on one store."""

    store: Store
    http: aiohttp.ClientSession
    stack: AsyncExitStack
    urls: list[str] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    audit: MemoryAudit = field(default_factory=MemoryAudit)
    counts: ControlCounters = field(default_factory=ControlCounters)
    owning: bool = True
    """Whether an owner applies what is wanted."""

    async def replica(
        self, tokens: Tokens | None = None, limits: RequestLimits | None = None, *, fills: bool = True
    ) -> None:
        """Serve one more."""
        view = View(lambda _: None)
        if fills:
            following = asyncio.create_task(view.follow(self.store))
            self.stack.callback(following.cancel)
            await view.has_synced.wait()
        listener = bind("control", "127.0.0.1", 0)
        auditing = Auditing(self.counts, self.audit)
        app = create_app(
            DeploymentView(shards=4, topics=TOPICS, replays=FEW, view=view, store=self.store, auditing=auditing)
        )
        await self.stack.enter_async_context(serving(AdmissionMiddleware(app, tokens, limits), listener))
        self.urls.append(url_of(listener))
        self.views.append(view)

    async def observed(self, account: str, **facts: Any) -> None:  # noqa: ANN401 - members of Observed
        """Report what is so."""
        report = Observed(**{"owner": "gateway-0/1", "state": "live", "since": "2026-11-22T13:32:25.092Z", **facts})
        await self.store.publish_observed({f"account.{account}": encode_record(report)})
        await self.wait_for_views(lambda view: account in view.observed and view.observed[account].value == report)

    async def wait_for_views(self, condition: Callable[[View], bool]) -> None:
        """Wait until every view says so."""
        async with asyncio.timeout(5):
            while not all(condition(view) for view in self.views if view.has_synced.is_set()):
                await asyncio.sleep(0.001)

    async def own(self) -> None:
        """Apply what is wanted, as owners do, for ever."""
        async for record in self.store.watch():
            if self.owning and record is not None and not record.is_observed and record.key.startswith("account."):
                await self._apply(record)

    async def _apply(self, record: Record) -> None:
        report = Observed(owner="gateway-0/1", state="live", since="", applied=record.revision)
        await self.store.publish_observed({record.key: encode_record(report)})

    async def ask(self, request: str, *, at: int = 0, json: Any = None, **more: Any) -> Answer:  # noqa: ANN401 - JSON
        """Ask, as in `GET /v1/accounts`."""
        method, path = request.split()
        if json is not None:
            more["json"] = json
        async with self.http.request(method, self.urls[at] + path, **more) as answer:
            raw = await answer.read()
            body = await answer.json(content_type=None) if raw else None
            return Answer(answer.status, answer.headers, body)


Ask = Callable[..., Awaitable[Answer]]


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """Serve one control plane, with an account `main`."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(headers={"X-Requested-With": "a test"}))
        api = Api(Store(), http, stack)
        owner = asyncio.create_task(api.own())
        stack.callback(owner.cancel)
        await api.replica()
        await api.observed("main", settled=40, latest=42)
        yield api


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    """Name a file of tokens."""
    return tmp_path / "tokens"


async def reported(api: Api, id_: str, phase: Phase, **facts: Any) -> None:  # noqa: ANN401 - members of ReplayState
    """Let the owner of a replay report how far it is, and wait until that is heard."""
    report = ReplayState(owner="gateway-0/1", phase=phase, **facts)
    await api.store.publish_observed({f"replay.{id_}": encode_record(report)})
    await api.wait_for_views(lambda view: id_ in view.replay_states and view.replay_states[id_].value == report)
