"""The release workflow: pinned actions, few permissions, and steps that can be run here are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

import gateway
from tests.support.charts import ROOT

TEXT: Final = (ROOT / ".github" / "workflows" / "release.yaml").read_text("utf-8")
JOBS: Final[dict[str, dict[str, Any]]] = yaml.safe_load(TEXT)["jobs"]
STEPS: Final[list[dict[str, Any]]] = [step for job in JOBS.values() for step in job["steps"]]
MAKEFILE: Final = (ROOT / "Makefile").read_text("utf-8")


def test_every_action_is_pinned_by_its_commit_and_says_its_version() -> None:
    used = re.findall(r"uses: (.+)$", TEXT, re.MULTILINE)
    assert len(used) == sum("uses" in step for step in STEPS) > 5
    for one in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one), one
    versions: dict[str, set[str]] = {}
    for one in used:
        versions.setdefault(one.partition("@")[0], set()).add(one)
    assert [several for several in versions.values() if len(several) > 1] == []


def test_ci_tests_every_python_that_the_package_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = re.findall(r"Python :: (3\.\d+)$", "\n".join(project["classifiers"]), re.MULTILINE)
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text("utf-8"))["jobs"]["test"]
    (setup,) = [step for step in job["steps"] if step.get("uses", "").startswith("actions/setup-python@")]
    assert setup["with"]["python-version"] == "${{ matrix.python }}"
    assert job["strategy"]["matrix"]["python"] == named
    assert project["requires-python"] == f">={named[0]}"
    assert f"Python {named[0]} or later ({named[0]} to {named[-1]} are tested)" in (ROOT / "README.md").read_text(
        "utf-8"
    )


def test_each_job_has_the_permissions_that_it_needs_alone() -> None:
    assert yaml.safe_load(TEXT)["permissions"] == {}
    writing = {name: {what for what, how in job["permissions"].items() if how == "write"} for name, job in JOBS.items()}
    assert writing == {
        "packages": {"id-token", "attestations"},
        "image": {"packages", "id-token", "attestations"},
        "publish": {"contents"},
    }
    for step in STEPS:
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"] == {"persist-credentials": False}


def test_the_image_for_another_processor_is_built_by_an_emulator() -> None:
    steps = JOBS["image"]["steps"]
    uses = [step.get("uses", "").partition("@")[0] for step in steps]
    build = uses.index("docker/build-push-action")
    assert "linux/arm64" in steps[build]["with"]["platforms"]  # and the runner is amd64
    assert "docker/setup-qemu-action" in uses[:build]


def test_no_expression_is_put_into_a_script() -> None:
    assert [step["run"] for step in STEPS if "${{" in step.get("run", "")] == []


def test_whatever_is_published_is_audited_signed_and_attested() -> None:
    runs = [step.get("run", "") for step in JOBS["packages"]["steps"]]
    assert runs.index("make audit") < runs.index("make packages") < runs.index("make sbom")
    for name, signs in (("packages", "cosign sign-blob"), ("image", "cosign sign ")):
        steps = JOBS[name]["steps"]
        assert any(step.get("uses", "").startswith("actions/attest-build-provenance@") for step in steps)
        assert any(signs in step.get("run", "") for step in steps)
    assert set(JOBS["publish"]["needs"]) == {"packages", "image"}
    assert {build["extra"] for build in JOBS["image"]["strategy"]["matrix"]["include"]} == {"", "tracing"}


def test_the_targets_that_it_makes_are_there() -> None:
    for target in re.findall(r"run: make ([a-z-]+)", TEXT):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_the_tag_is_compared_with_the_version_of_the_package() -> None:
    script = next(step["run"] for step in STEPS if "GITHUB_REF_NAME" in step.get("run", ""))
    for tag, code in ((f"v{gateway.__version__}", 0), ("v99.0.0", 1)):
        env = {"GITHUB_REF_NAME": tag, "PATH": "/usr/bin:/bin"}
        done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=env, check=False)
        assert done.returncode == code


def test_the_packages_hold_the_gateway_and_its_license(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "gateway", tmp_path / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", "dist"], cwd=tmp_path, check=True)
    wheel = f"mesolive_gateway-{gateway.__version__}-py3-none-any.whl"
    assert {file.name for file in (tmp_path / "dist").iterdir()} == {
        wheel,
        f"mesolive_gateway-{gateway.__version__}.tar.gz",
    }
    listed = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", tmp_path / "dist" / wheel], capture_output=True, text=True, check=True
    ).stdout
    assert "gateway/cli/main.py" in listed
    assert "licenses/LICENSE" in listed


@pytest.mark.parametrize("name", ["sbom.cdx.json", "sbom-tracing.cdx.json"])
def test_a_bill_of_materials_has_what_its_lock_pins(name: str) -> None:
    """Only where `make sbom` was run: its tool is in an environment of its own."""
    file = ROOT / "dist" / name
    if not file.is_file():
        pytest.skip("run: make sbom")
    bill = json.loads(file.read_text("utf-8"))
    lock = (ROOT / f"requirements-image{'-tracing' if 'tracing' in name else ''}.lock").read_text("utf-8")
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["version"] == gateway.__version__
    pinned = set(re.findall(r"^([\w.-]+==[\w.]+)", lock, re.MULTILINE))
    assert {f"{one['name']}=={one['version']}" for one in bill["components"]} == pinned
