"""Whether all configured servers are of one cluster.

A gateway connects to whichever server answers first. Two servers that know nothing of each other would each get a part
of the events, and the history a second time: two NATS servers without a cluster had 34 and 40 messages of 40 after six
starts, and `check` was content (measured).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from gateway.errors import ConfigurationError, GatewayError

AT_START: Final = 1.0
"""Seconds that a start waits for servers that are silent."""
_AGAIN: Final = 1.0
"""Seconds after which servers that differ are asked again: one of a cluster may not know yet what was just made."""


class OneCluster:
    """Compares the servers until all of them have answered the same."""

    def __init__(self, servers: Sequence[str], identity: Callable[[str], Coroutine[Any, Any, str | None]]) -> None:
        """`identity` asks a server which cluster it is of; None where the cluster has none yet.

        It raises GatewayError where the server does not answer: then it proves nothing.
        """
        self._servers = list(dict.fromkeys(servers))
        self._identity = identity
        self.is_new = False
        """Whether a server answered that its cluster has no identity yet."""
        self._is_proven = len(self._servers) < 2  # noqa: PLR2004 - nothing to compare

    async def check(self, limit: float) -> None:
        """Ask each server, for `limit` seconds at most; raises ConfigurationError where two are not of one cluster."""
        if self._is_proven:
            return
        found = await self._answers(limit)
        if len(set(found.values())) > 1:
            await asyncio.sleep(_AGAIN)
            found = await self._answers(limit)
        one, *others = found or [""]
        for other in others:
            if found[other] != found[one]:
                raise ConfigurationError(
                    "broker.servers",
                    f"{one} and {other} are not of one cluster: events would be divided between them, or be in both",
                    "Name the servers of one cluster, or join them to one.",
                )
        self.is_new = None in found.values()
        self._is_proven = len(found) == len(self._servers) and not self.is_new

    async def _answers(self, limit: float) -> dict[str, str | None]:
        """Return the answers of those servers that give one in time."""
        asked = {asyncio.create_task(self._identity(server)): server for server in self._servers}
        try:
            await asyncio.wait(asked, timeout=limit)
        finally:
            late = [task for task in asked if task.cancel()]
            if late:
                await asyncio.wait(late)
        answers: dict[str, str | None] = {}
        for task, server in asked.items():
            if task.cancelled() or isinstance(task.exception(), GatewayError):
                continue
            answers[server] = task.result()
        return answers
