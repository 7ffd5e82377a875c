"""Writes k8s/ from the chart, with `helm` (or what HELM names): `make manifests`. A test compares.

What is the same for both brokers is the base; settings and network policy are the overlays'. Kustomize names the
ConfigMap by its content, which rolls the pods as the chart's checksum does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import yaml

CHART: Final = Path(__file__).parents[1] / "helm" / "mesolive-gateway"
NAME: Final = "mesolive-gateway"
MADE: Final = "# Made from the chart: `make manifests`."
BROKERS: Final = {
    "jetstream": {"kind": "jetstream", "servers": ["nats://nats:4222"]},
    "kafka": {"kind": "kafka", "servers": ["kafka:9092"]},
}


def rendered(broker: str) -> dict[str, dict[str, Any]]:
    """Return the chart's objects for a broker, by kind, without Helm's own labels."""
    values = {"hub": {"url": "https://api.example.com"}, "broker": BROKERS[broker]}
    command = [os.environ.get("HELM", "helm"), "template", NAME, str(CHART)]
    done = subprocess.run(  # noqa: S603 - Helm, as the caller names it
        [*command, "--kube-version", "1.33.0", "--no-hooks", "--values", "-"],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    objects = {one["kind"]: one for one in yaml.safe_load_all(done.stdout) if one}
    for one in objects.values():
        for label in ("helm.sh/chart", "app.kubernetes.io/managed-by"):
            del one["metadata"]["labels"][label]
    del objects["Deployment"]["spec"]["template"]["metadata"]["annotations"]  # the checksum of the settings
    return objects


def files() -> dict[str, str]:
    """Return all files of k8s/."""
    made: dict[str, str] = {}
    objects = {broker: rendered(broker) for broker in BROKERS}
    base = {kind: one for kind, one in objects["jetstream"].items() if one == objects["kafka"][kind]}
    for kind, one in base.items():
        made[f"base/{kind.lower()}.yaml"] = _text(one)
    made["base/kustomization.yaml"] = _text(_kustomization(sorted(f"{kind.lower()}.yaml" for kind in base)))
    for broker, its_objects in objects.items():
        folder, resources = f"overlays/{broker}", ["../../base"]
        for kind in sorted(its_objects.keys() - base.keys() - {"ConfigMap"}):
            made[f"{folder}/{kind.lower()}.yaml"] = _text(its_objects[kind])
            resources.append(f"{kind.lower()}.yaml")
        generated = [{"name": NAME, "files": ["gateway.yaml"]}]
        made[f"{folder}/gateway.yaml"] = f"{MADE}\n{its_objects['ConfigMap']['data']['gateway.yaml']}"
        made[f"{folder}/kustomization.yaml"] = _text({**_kustomization(resources), "configMapGenerator": generated})
    return made


def _kustomization(resources: list[str]) -> dict[str, Any]:
    return {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources}


def _text(value: dict[str, Any]) -> str:
    return f"{MADE}\n{yaml.safe_dump(value, sort_keys=False, width=120)}"


def main() -> None:
    for name, text in files().items():
        file = Path(sys.argv[1], name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
