"""The plain manifests are the chart's: neither can change without the other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from gateway.settings.load import load_settings
from tests.support.charts import ROOT, helm, objects

K8S: Final = ROOT / "k8s"
OVERLAYS: Final = {
    "jetstream": {"broker": {"servers": ["nats://nats:4222"]}},
    "kafka": {"broker": {"kind": "kafka", "servers": ["kafka:9092"]}},
}
each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@cache
def built(overlay: str) -> dict[str, dict[str, Any]]:
    """Return what kustomize makes of an overlay, by kind; skips, or fails in CI, without kubectl or kustomize."""
    command = ["kustomize", "build"] if shutil.which("kustomize") else ["kubectl", "kustomize"]
    if shutil.which(command[0]) is None:
        message = "neither kustomize nor kubectl is here to test the manifests with"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    done = subprocess.run([*command, K8S / "overlays" / overlay], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {one["kind"]: one for one in yaml.safe_load_all(done.stdout)}


def test_the_manifests_are_what_the_chart_makes_now(tmp_path: Path) -> None:
    script = ROOT / "tools" / "make_manifests.py"
    subprocess.run([sys.executable, script, tmp_path], env={**os.environ, "HELM": str(helm())}, check=True)

    def files(folder: Path) -> dict[str, str]:
        return {str(one.relative_to(folder)): one.read_text("utf-8") for one in folder.rglob("*") if one.is_file()}

    assert files(K8S) == files(tmp_path), "run: make manifests"


@each_overlay
def test_an_overlay_is_the_chart_but_for_helms_labels_and_a_settings_name(overlay: str) -> None:
    made = {
        kind: one for (kind, _), one in objects({**OVERLAYS[overlay], "fullnameOverride": "mesolive-gateway"}).items()
    }
    del made["Job"]  # `helm test`
    found = built(overlay)
    assert found.keys() == made.keys()
    name = found["ConfigMap"]["metadata"]["name"]
    assert re.fullmatch(r"mesolive-gateway-[a-z0-9]{10}", name)

    def plain(one: dict[str, Any]) -> str:
        text = yaml.safe_dump(one).replace(f"name: {name}\n", "name: mesolive-gateway\n")
        text = re.sub(
            r"^ *(helm\.sh/chart|app\.kubernetes\.io/managed-by|checksum/settings): .*\n", "", text, flags=re.MULTILINE
        )
        return re.sub(r"^ *annotations:( \{\})?\n|instance: .*\n", "", text, flags=re.MULTILINE)

    for kind in made.keys() - {"ConfigMap"}:
        assert plain(found[kind]) == plain(made[kind])
    settings = [yaml.safe_load(one["data"]["gateway.yaml"]) for one in (found["ConfigMap"], made["ConfigMap"])]
    assert settings[0] == settings[1]


@each_overlay
@pytest.mark.parametrize("version", ["1.30", "1.33", "1.36"])
def test_kubernetes_takes_an_overlay(overlay: str, version: str) -> None:
    for one in built(overlay).values():
        kubernetes_validate.validate(one, version, strict=True)


@each_overlay
def test_the_gateway_takes_an_overlay_s_settings(overlay: str) -> None:
    assert load_settings(K8S / "overlays" / overlay / "gateway.yaml", {}).broker.kind == overlay
