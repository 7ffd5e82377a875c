"""What a gateway tells Prometheus, read by Prometheus' own client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.support.gateway_process import Process, until

PREFIX = "mesolive_gateway_"
Key = tuple[str, ...]
"""A name without the prefix, and the values of its labels in the order of their names."""


@dataclass(frozen=True)
class Metrics:
    """The metrics of one gateway."""

    http: aiohttp.ClientSession
    url: str

    async def scrape(self) -> dict[Key, float]:
        """Return all of them as they are now."""
        async with self.http.get(self.url) as answer:
            assert answer.status == 200
            text = await answer.text()
        return {
            (sample.name.removeprefix(PREFIX), *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def until(self, holds: Callable[[dict[Key, float]], bool], what: str) -> dict[Key, float]:
        """Scrape until it holds, and return what was scraped then."""
        last: dict[Key, float] = {}

        async def is_so() -> bool:
            last.clear()
            last.update(await self.scrape())
            return holds(last)

        def description() -> str:
            shown = {key: value for key, value in last.items() if value and "bucket" not in key[0]}
            return f"{what}: {shown}"

        await until(is_so, description)
        return dict(last)


async def metrics_of(running: Process, http: aiohttp.ClientSession) -> Metrics:
    """Wait until a gateway tells where it is scraped."""
    url = (await running.wait_for_log(r'"url": "([^"]+)", "address": "[^"]+", "event": "serving probes and metrics'))[1]
    return Metrics(http, f"{url}/metrics")
