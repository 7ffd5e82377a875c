"""The control plane of gateways that run: what the acceptance tests ask of it, as any client would."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.support.gateway_process import GATEWAY, Process, until

LIMIT: Final = aiohttp.ClientTimeout(total=30)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def problem(self) -> str:
        """The end of the problem's type, or nothing."""
        if self.headers.get("Content-Type") != "application/problem+json":
            return ""
        return str(self.body["type"]).rpartition(":")[2]


@dataclass
class Control:
    """The API of one gateway."""

    running: Process
    http: aiohttp.ClientSession
    url: str
    monitoring: str
    token: str | None = None

    async def ask(self, request: str, *, json: Any = None, token: str | None = None, **headers: str) -> Answer:  # noqa: ANN401 - JSON
        """Ask, as in `GET /v1/accounts`; `If_Match` becomes the header If-Match."""
        method, path = request.split()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent.setdefault("X-Requested-With", "a test")  # which no web form sends: else a POST is refused
        token = token or self.token
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        async with self.http.request(method, self.url + path, json=json, headers=sent, timeout=LIMIT) as answer:
            return Answer(answer.status, answer.headers, await answer.json(content_type=None))

    async def probe(self, path: str) -> int:
        """Ask the monitoring listener; 0 where nobody listens."""
        try:
            async with self.http.get(self.monitoring + path, timeout=LIMIT) as answer:
                await answer.read()
                return answer.status
        except aiohttp.ClientError:
            return 0

    async def ready(self) -> None:
        """Wait until it is ready, and knows accounts."""

        async def is_so() -> bool:
            return await self.probe("/readyz") == 200

        await until(is_so, f"{self.running.name} is ready")

    async def accounts(self, query: str = "") -> dict[str, Any]:
        """Return all accounts by name."""
        answer = await self.ask(f"GET /v1/accounts?limit=1000{query}")
        assert answer.status == 200, answer
        return {one["account"]: one for one in answer.body["items"]}

    async def live(self, names: Sequence[str]) -> None:
        """Wait until these are live, as far as this gateway has heard."""

        async def are() -> bool:
            found = await self.accounts()
            return all(name in found and (found[name]["observed"] or {}).get("state") == "live" for name in names)

        await until(are, f"{names} are live, as {self.running.name} hears")


async def control_of(running: Process, http: aiohttp.ClientSession, token: str | None = None) -> Control:
    """Find the listeners of a gateway by what it logs."""
    listens = await running.wait_for_log(r'"url": "([^"]+)", "address": "[^"]+", "event": "control plane is listening"')
    url = listens[1]
    monitoring = (
        await running.wait_for_log(r'"url": "([^"]+)", "address": "[^"]+", "event": "serving probes and metrics')
    )[1]
    return Control(running, http, url, monitoring, token)


async def new_token(folder: Path, name: str, role: str, *more: str) -> tuple[str, str]:
    """Let `gateway token` make a token; return it and its line."""
    command = [str(GATEWAY), "token", "--name", name, "--role", role, *more]
    made = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=folder)
    out, _ = await made.communicate()
    found = re.search(r"token, .*: +(\S+)\nline, .*: +(.+)\n", out.decode())
    assert found is not None, out
    return found[1], found[2]


def child(pid: int, module: str) -> int:
    """Return the process that a gateway has begun to run this module."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return next(int(one) for one in children if module.encode() in Path(f"/proc/{one}/cmdline").read_bytes())


async def put(control: Control, account: str, state: str) -> None:
    """Set the target state of an account, and see that it holds."""
    answer = await control.ask(f"PUT /v1/accounts/{account}/target-state", json={"state": state})
    assert (answer.status, answer.body["is_applied"]) == (200, True), answer
