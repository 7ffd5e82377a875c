"""Each alert fires when it should, stays quiet when it should, and leads to a section that says what to do."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.replica.account_metrics import CONNECT_FAILURE_REASONS, DISCONNECT_REASONS
from gateway.replica.orphaned import KEY_MISSING, ORPHANED
from gateway.replica.source.account import AccountState
from gateway.settings.model import Settings
from gateway.telemetry.metrics import FAMILIES, PREFIX
from tests.support.dashboards import PANELS
from tests.support.prometheus_server import FETCHING, tool

pytestmark = FETCHING

ROOT: Final = Path(__file__).parents[2]
RULES: Final = ROOT / "helm" / "mesolive-gateway" / "rules" / "mesolive-gateway.yaml"
TESTS: Final = sorted(Path(__file__).parent.glob("*rules*test*.yaml"))
RUNBOOK: Final = (ROOT / "docs" / "operate" / "runbook.md").read_text("utf-8")
GROUPS: Final[list[dict[str, Any]]] = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
ALERTS: Final[dict[str, dict[str, Any]]] = {
    rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule
}
RECORDS: Final[list[str]] = [rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule]
each_alert = pytest.mark.parametrize("alert", ALERTS)


def promtool(*arguments: str | Path) -> tuple[int, str]:
    """Return its exit code and its words."""
    done = subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def expected() -> Iterator[tuple[str, bool]]:
    """Yield each alert that is tested, and whether it is expected to fire."""
    for file in TESTS:
        for test in yaml.safe_load(file.read_text("utf-8"))["tests"]:
            for one in test["alert_rule_test"]:
                yield one["alertname"], bool(one.get("exp_alerts"))


def test_prometheus_takes_the_rules() -> None:
    code, output = promtool("check", "rules", RULES)
    assert code == 0, output
    assert "duplicate" not in output


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_alerts_fire_when_they_should_and_only_then(file: Path) -> None:
    code, output = promtool("test", "rules", file)
    assert code == 0, output


@pytest.mark.parametrize("always", [True, False])
def test_the_tests_notice_an_alert_that_never_fires_or_always_does(tmp_path: Path, *, always: bool) -> None:
    rules = yaml.safe_load(RULES.read_text("utf-8"))
    for rule in rules["groups"][0]["rules"]:
        if "alert" in rule:
            rule["expr"] = "vector(1)" if always else "vector(1) > 1"
    (tmp_path / "rules.yaml").write_text(json.dumps(rules))
    tests = yaml.safe_load(TESTS[0].read_text("utf-8")) | {"rule_files": ["rules.yaml"]}
    (tmp_path / "test.yaml").write_text(json.dumps(tests))
    code, output = promtool("test", "rules", tmp_path / "test.yaml")
    assert code != 0
    assert {alert for alert in ALERTS if f"alertname: {alert}," in output} == set(ALERTS)


@each_alert
def test_an_alert_is_tested_to_fire_and_not_to(alert: str) -> None:
    assert {(alert, True), (alert, False)} <= set(expected())


@each_alert
def test_an_alert_says_how_bad_what_and_where_to_read_on(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/operate/runbook.md#{alert.lower()}"


@each_alert
def test_the_runbook_says_of_an_alert_what_to_look_at_and_what_to_do(alert: str) -> None:
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
    assert sections.keys() == ALERTS.keys()
    assert re.findall(r"^\*\*(.+?)\*\*", sections[alert], re.MULTILINE) == ["Means.", "Look at.", "Do.", "Goes away"]


def test_records_are_named_by_level_metric_and_operation_and_are_used() -> None:
    assert all(re.fullmatch(r"(account|job|kind):mesolive_gateway_\w+:\w+", record) for record in RECORDS)
    used = " ".join(rule["expr"] for rule in ALERTS.values())
    assert [record for record in RECORDS if record not in used] == []


def test_rules_and_runbook_name_metrics_labels_settings_panels_that_exist() -> None:
    rules = RULES.read_text("utf-8")
    known = {PREFIX + name for name in FAMILIES} | {f"{PREFIX}{name}_bucket" for name in FAMILIES}
    named = set(re.findall(rf"(?<![:\w]){PREFIX}\w+\b(?!:)", "".join(rule["expr"] for rule in _rules())))
    assert named <= known | {"mesolive_gateway"}
    assert set(re.findall(rf"`({PREFIX}\w+)`", RUNBOOK)) <= known
    states = {state.value for state in AccountState} | {KEY_MISSING, ORPHANED}
    for several in re.findall(r'state!?=~?"([^"]+)"', rules):
        assert set(several.split("|")) <= states | {"failed"}
    reasons = {"disconnects": DISCONNECT_REASONS, "connect_failures": CONNECT_FAILURE_REASONS}
    filters = re.findall(r'(disconnects|connect_failures)_total\{reason!?[=~]+"([^"]+)"', rules)
    assert {metric for metric, _ in filters} == reasons.keys()
    for metric, several in filters:
        assert set(several.split("|")) <= set(reasons[metric])
    settings = Settings.model_fields.keys()
    dotted = {name for name in re.findall(r"`([a-z]+\.[a-z_]+)`", RUNBOOK) if name.split(".")[0] in settings}
    for name in dotted:
        section, field = name.split(".")
        assert field in Settings.model_fields[section].annotation.model_fields, name  # type: ignore[union-attr]
    titles = {title for _, title in PANELS} | {"MesoLive gateway: overview", "MesoLive gateway: account"}
    panels = set(re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", re.sub(r"\s+", " ", RUNBOOK)))
    assert panels <= titles


def test_the_runbook_cites_what_the_gateway_logs() -> None:
    code = "".join(file.read_text("utf-8") for file in (ROOT / "gateway").rglob("*.py"))
    cited = {re.sub(r"\s+", " ", text) for text in re.findall(r'"([a-z][^"]+)"', RUNBOOK)}
    assert len(cited) > 5
    assert [text for text in sorted(cited) if text not in code] == []


def test_the_runbook_names_commands_and_paths_of_the_api_that_there_are() -> None:
    commands = {re.sub(r"\s+", " ", text) for text in re.findall(r"`gateway ([^`]+)`", RUNBOOK)}
    assert commands
    helps: dict[str, str] = {}
    for text in commands:
        name = text.split(" --")[0]
        if name not in helps:
            helps[name] = CliRunner().invoke(app, [*name.split(), "--help"]).output
        assert [option for option in re.findall(r"--[a-z-]+", text) if option not in helps[name]] == []
    paths = json.loads((ROOT / "schemas" / "openapi.json").read_text("utf-8"))["paths"]
    asked = re.findall(r"`(GET|PUT|POST|DELETE) (/v1/[^`]+)`", RUNBOOK)
    assert asked
    assert [(method, path) for method, path in asked if method.lower() not in paths[path]] == []


def _rules() -> Iterator[dict[str, Any]]:
    for group in GROUPS:
        yield from group["rules"]
