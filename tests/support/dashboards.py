"""The dashboards, as they are shipped: their panels, and the queries as Grafana would send them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parents[2] / "helm" / "mesolive-gateway" / "dashboards"
BOARDS: Final[Mapping[str, dict[str, Any]]] = {
    file.stem: json.loads(file.read_text("utf-8")) for file in sorted(FOLDER.glob("*.json"))
}
"""Name of the file, without its end → what it holds."""


@dataclass(frozen=True)
class Panel:
    """A panel that shows something."""

    board: str
    json: Mapping[str, Any]

    @property
    def title(self) -> str:
        """What it is called, once on its board."""
        return str(self.json["title"])

    @property
    def queries(self) -> Mapping[str, str]:
        """Query by its letter."""
        return {one["refId"]: str(one["expr"]) for one in self.json["targets"]}


PANELS: Final = {
    (board, one["title"]): Panel(board, one)
    for board, dashboard in BOARDS.items()
    for one in dashboard["panels"]
    if one["type"] != "row"
}
"""By board and title."""


def asked(query: str, **chosen: str) -> str:
    """Put what is chosen in the place of variables, as in `account="main"`; everything else is All."""
    values = {"__rate_interval": "4s", "__range": "30s", "job": ".*", "replica": ".*", "account": ".*", **chosen}
    for name in sorted(values, key=len, reverse=True):
        query = query.replace(f"${name}", values[name])
    assert "$" not in query, query
    return query
