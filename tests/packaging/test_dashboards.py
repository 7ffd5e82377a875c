"""The dashboards are what Grafana takes, ask for metrics that there are, and tell operators what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import pytest
from jsonschema import Draft7Validator

from gateway.telemetry.metrics import FAMILIES, PREFIX
from tests.support.dashboards import BOARDS, PANELS, Panel, asked

SCHEMA: Final = json.loads((Path(__file__).parents[1] / "fixtures" / "grafana" / "dashboard.schema.json").read_text())
QUERY: Final = {"refId", "datasource", "expr", "legendFormat", "format", "instant", "range"}
"""What a query for Prometheus has; Grafana's schema leaves that to the data source."""
SUFFIXES: Final = ("_bucket", "_sum", "_count")
everyone = pytest.mark.parametrize("panel", PANELS.values(), ids=[f"{board}: {title}" for board, title in PANELS])
each_board = pytest.mark.parametrize("board", BOARDS)


def refused(board: dict[str, Any]) -> Iterator[str]:
    """Yield what Grafana's schema has against a dashboard."""

    def against(part: object, schema: dict[str, Any]) -> Iterator[str]:
        for error in Draft7Validator({**schema, "definitions": SCHEMA["definitions"]}).iter_errors(part):
            deepest = min(error.context or [error], key=lambda one: (-len(one.absolute_path), one.message))
            yield f"{'/'.join(map(str, error.absolute_path))}: {deepest.message}"

    yield from against(board, {"$ref": "#/definitions/Dashboard"})
    kinds = SCHEMA["definitions"]["Panels"]["properties"]
    for panel in board["panels"]:
        if panel["type"] == "row":
            continue
        kind = kinds[panel["type"]]["properties"]
        yield from against(panel["options"], kind["options"])
        yield from against(panel["fieldConfig"]["defaults"].get("custom", {}), kind["custom"])
        for query in panel["targets"]:
            yield from (f"{panel['title']}: {name}" for name in query.keys() - QUERY)


@each_board
def test_grafana_takes_the_dashboard(board: str) -> None:
    assert list(refused(BOARDS[board])) == []


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ((), "refesh", "30s"),
        ((), "schemaVersion", "41"),
        (("panels", 1), "titel", "Lag"),
        (("panels", 1), "gridPos", {"x": 0, "y": "1", "w": 4, "h": 4}),
        (("panels", 1, "fieldConfig", "defaults"), "units", "s"),
        (("panels", 1, "fieldConfig", "defaults", "custom"), "lineWith", 1),
        (("panels", 1, "options"), "colourMode", "value"),
        (("panels", 1, "targets", 0), "query", "up"),
        (("templating", "list", 1), "allvalue", ".*"),
    ],
)
def test_a_slip_is_refused(path: tuple[str | int, ...], name: str, value: object) -> None:
    board = deepcopy(BOARDS["overview"])
    place: Any = board
    for step in path:
        place = place.setdefault(step, {}) if isinstance(place, dict) else place[step]
    place[name] = value
    assert list(refused(board)) != []


@everyone
def test_a_panel_asks_for_metrics_and_labels_that_there_are(panel: Panel) -> None:
    for query in panel.queries.values():
        asked(query)
        for name, labels in re.findall(r"(\w+)\{([^}]*)\}", query):
            if not name.startswith("process_"):
                short = name.removeprefix(PREFIX)
                family = FAMILIES.get(short) or FAMILIES[next(filter(None, (_whole(short, end) for end in SUFFIXES)))]
                assert set(re.findall(r"(\w+)\s*[=!]~?\"", labels)) <= {"job", "instance", *family.labels}


def _whole(name: str, suffix: str) -> str | None:
    return name.removesuffix(suffix) if name.endswith(suffix) else None


@everyone
def test_a_panel_tells_what_it_shows_and_in_which_unit(panel: Panel) -> None:
    assert len(panel.json["description"].split()) >= 10
    assert panel.json["description"].endswith((".", "?"))
    assert panel.json["fieldConfig"]["defaults"]["unit"]
    assert panel.json["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@each_board
def test_panels_have_places_and_numbers_of_their_own(board: str) -> None:
    panels = BOARDS[board]["panels"]
    assert len({one["id"] for one in panels}) == len(panels)
    assert len({one["title"] for one in panels}) == len(panels)
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        apart = [one[at] + one[by] <= other[at] or other[at] + other[by] <= one[at] for at, by in ("xw", "yh")]
        assert any(apart), (one, other)
    assert all(one["gridPos"]["x"] + one["gridPos"]["w"] <= 24 for one in panels)


def test_both_dashboards_choose_source_job_replica_account_and_are_linked() -> None:
    for board in BOARDS.values():
        assert [one["name"] for one in board["templating"]["list"]] == ["datasource", "job", "replica", "account"]
        assert board["links"][0]["tags"] == board["tags"]
        assert board["links"][0]["includeVars"]
    assert f"/d/{BOARDS['account']['uid']}?var-account=" in json.dumps(BOARDS["overview"])


def test_lag_and_reconnects_come_first() -> None:
    first = [title for board, title in PANELS if board == "overview"][:3]
    assert first == ["Accounts not live", "Worst lag", "Disconnects a minute"]
