"""The chart on a real control plane: what the API server takes, and a release from its install to its end.

`KUBECONFIG` names the cluster; without it all of this is skipped. Each test has a namespace of its own, which it takes
away. On simulated nodes (kwok) pods become ready by themselves; elsewhere `MESOLIVE_TEST_IMAGE` names an image that the
cluster can pull, and `MESOLIVE_TEST_VALUES` a file of values with a hub and a broker that it reaches.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.support.charts import CHART, NEEDED, ROOT, merged, run, template
from tests.support.matrix import MATRIX

pytestmark = [
    pytest.mark.skipif(not os.environ.get("KUBECONFIG"), reason="KUBECONFIG names no cluster to try the chart on"),
    pytest.mark.timeout(600),
]
NAME: Final = "gateway-mesolive-gateway"
OPERATED: Final = "monitoring.coreos.com"
"""The Prometheus operator's kinds, which a cluster may not have."""


def kubectl(*arguments: str, text: str = "") -> tuple[int, str]:
    """Run kubectl; give its exit code and its words."""
    done = subprocess.run(["kubectl", *arguments], input=text, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"gateway-test-{secrets.token_hex(4)}"
    code, output = kubectl("create", "namespace", name)
    assert code == 0, output
    for mode in ("enforce", "warn"):  # as strict as Kubernetes knows: no root, no privilege, nothing of the host
        kubectl("label", "namespace", name, f"pod-security.kubernetes.io/{mode}=restricted")
    try:
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false")


def release(namespace: str, command: str, *arguments: str, values: dict[str, Any] | None = None) -> tuple[int, str]:
    """Do something with the release; return the exit code and Helm's words."""
    given = None if values is None else merged(NEEDED, values)
    code, out, errors = run(command, "gateway", *arguments, "--namespace", namespace, values=given, seconds=300)
    return code, out + errors


def found(namespace: str, kind: str, name: str) -> dict[str, Any]:
    code, output = kubectl("--namespace", namespace, "get", kind, name, "--output", "json")
    assert code == 0, output
    return dict(json.loads(output))


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_the_api_server_takes_every_object(namespace: str, values: dict[str, Any]) -> None:
    made = [one for one in yaml.safe_load_all(template(values)) if one]
    if not kubectl("api-resources", f"--api-group={OPERATED}", "--no-headers")[1].strip():
        made = [one for one in made if not one["apiVersion"].startswith(OPERATED)]
    text = yaml.safe_dump_all(made)
    code, output = kubectl("-n", namespace, "apply", "--dry-run=server", "--validate=strict", "-f", "-", text=text)
    assert code == 0, output
    assert "arning" not in output  # of the pods' security among others


@pytest.mark.parametrize("change", [{"enableServiceLink": False}, {"terminationGracePeriodSeconds": "soon"}])
def test_the_api_server_would_refuse_a_slip(namespace: str, change: dict[str, Any]) -> None:
    made = [one for one in yaml.safe_load_all(template({})) if one and one["kind"] == "Deployment"]
    made[0]["spec"]["template"]["spec"].update(change)
    text = yaml.safe_dump_all(made)
    assert kubectl("-n", namespace, "apply", "--dry-run=server", "--validate=strict", "-f", "-", text=text)[0] != 0


def test_a_port_that_there_is_not_is_refused(namespace: str) -> None:
    made = [one for one in yaml.safe_load_all(template({})) if one and one["kind"] == "Service"]
    made[0]["spec"]["ports"][0]["port"] = 99_999
    text = yaml.safe_dump_all(made)
    assert kubectl("-n", namespace, "apply", "--dry-run=server", "--validate=strict", "-f", "-", text=text)[0] != 0


@pytest.mark.parametrize("overlay", ["jetstream", "kafka"])
def test_the_api_server_takes_an_overlay(namespace: str, overlay: str) -> None:
    folder = str(ROOT / "k8s" / "overlays" / overlay)
    code, output = kubectl("-n", namespace, "apply", "--dry-run=server", "--validate=strict", "-k", folder)
    assert code == 0, output


def surroundings() -> dict[str, Any]:
    """Return the values that the cluster asks for; skips where its pods could never become ready."""
    nodes = kubectl("get", "nodes", "--output", "jsonpath={.items[*].metadata.annotations}")[1]
    if "kwok.x-k8s.io/node" not in nodes and "MESOLIVE_TEST_IMAGE" not in os.environ:
        pytest.skip("the nodes are real ones, and MESOLIVE_TEST_IMAGE names no image for them")
    repository, _, tag = os.environ.get("MESOLIVE_TEST_IMAGE", "mesolive-gateway:0.1.0").rpartition(":")
    given = os.environ.get("MESOLIVE_TEST_VALUES")
    values = yaml.safe_load(Path(given).read_text("utf-8")) if given else {}
    return merged({"image": {"repository": repository, "tag": tag}}, values)


def rolled(namespace: str) -> int:
    """Wait until no old pod is left; return the number of pods that are ready."""
    code, output = kubectl("-n", namespace, "rollout", "status", f"deployment/{NAME}", "--timeout=100s")
    assert code == 0, output
    return int(found(namespace, "deployment", NAME)["status"]["updatedReplicas"])


def test_a_release_from_its_install_to_its_end(namespace: str, tmp_path: Path) -> None:
    small = merged(surroundings(), {"resources": {"requests": {"cpu": "50m", "memory": "128Mi"}}})
    code, output = release(namespace, "install", str(CHART), values=small)
    assert code == 0, output
    assert f"create secret generic {NAME}-accounts" in output  # what is not there yet
    (tmp_path / "main").write_text("a-key")
    create = ("create", "secret", "generic", f"{NAME}-accounts", f"--from-file={tmp_path / 'main'}")
    assert kubectl("-n", namespace, *create)[0] == 0

    upgraded = merged(small, {"hub": {"call_timeout": 20}, "replicaCount": 3})
    code, output = release(namespace, "upgrade", str(CHART), "--wait", "--timeout", "4m", values=upgraded)
    assert code == 0, output
    assert "create secret" not in output
    assert rolled(namespace) == 3
    assert "call_timeout: 20" in found(namespace, "configmap", NAME)["data"]["gateway.yaml"]
    revisions = kubectl("-n", namespace, "get", "replicasets", "--output", "name")[1].split()
    assert len(revisions) == 2  # the settings rolled the pods

    code, output = release(namespace, "upgrade", str(CHART), values=merged(upgraded, {"shards": 32}))
    assert code != 0
    assert "shards is 32 in the values and 16 in the installation that runs" in output
    code, output = release(namespace, "upgrade", str(CHART), values=merged(upgraded, {"shards": 16}))
    assert code == 0, output

    code, output = release(namespace, "rollback", "1", "--wait", "--timeout", "4m")
    assert code == 0, output
    assert rolled(namespace) == 2
    assert "call_timeout" not in found(namespace, "configmap", NAME)["data"]["gateway.yaml"]

    assert found(namespace, "poddisruptionbudget", NAME)["status"]["disruptionsAllowed"] == 1
    code, output = release(namespace, "test", "--timeout", "2m")
    assert code == 0, output
    assert "Succeeded" in output

    code, output = release(namespace, "uninstall", "--wait")
    assert code == 0, output
    left = kubectl("-n", namespace, "get", "deployment,service,networkpolicy,pdb,configmap", "-o", "name")[1].split()
    assert [one for one in left if "gateway" in one] == []


def test_other_partitions_are_refused_on_kafka_alone(namespace: str) -> None:
    kafka = MATRIX["kafka"]
    assert release(namespace, "install", str(CHART), values=kafka)[0] == 0
    code, output = release(namespace, "upgrade", str(CHART), values=merged(kafka, {"topics": {"partitions": 9}}))
    assert code != 0
    assert "topics.partitions is 9 in the values and 8 in the installation that runs" in output
