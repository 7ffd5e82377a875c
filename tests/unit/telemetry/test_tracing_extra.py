"""Without the extra `tracing` everything works but traces, and whoever asks for them is told what to install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ABSENT: Final = (
    *("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto", "opentelemetry.semconv"),
    *("requests", "google", "urllib3", "charset_normalizer", "certifi"),
)
"""What the extra brings, as it is imported; FastAPI brings OpenTelemetry's API by itself."""

PROGRAM: Final = f"""
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if any(name == absent or name.startswith(absent + ".") for absent in {ABSENT!r}):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""
"""As on a machine where the packages are not installed; other modules are found as ever."""


def without_the_extra(folder: Path, statement: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM + statement],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_module_but_the_exporter_is_imported_without_the_extra(tmp_path: Path) -> None:
    done = without_the_extra(
        tmp_path,
        """
import importlib, pkgutil, gateway
for module in pkgutil.walk_packages(gateway.__path__, "gateway."):
    if module.name not in {"gateway.telemetry.otlp", "gateway.__main__"}:
        importlib.import_module(module.name)
try:
    import gateway.telemetry.otlp
except ModuleNotFoundError:
    print("the exporter is absent")
""",
    )
    assert (done.returncode, done.stdout) == (0, "the exporter is absent\n"), done.stderr


@pytest.mark.parametrize("command", ["run", "check"])
def test_an_endpoint_without_the_extra_is_said_with_the_install_command(tmp_path: Path, command: str) -> None:
    (tmp_path / "keys").mkdir()
    done = without_the_extra(
        tmp_path,
        f"sys.argv = ['gateway', {command!r}]; import gateway.cli.main as m; m.main()",
        GATEWAY_HUB__URL="http://127.0.0.1:1",
        GATEWAY_ACCOUNTS__DIRECTORY=str(tmp_path / "keys"),
        GATEWAY_BROKER__SERVERS="nats://127.0.0.1:1",
        GATEWAY_TRACING__ENDPOINT="http://127.0.0.1:4318",
    )
    output = done.stdout + done.stderr
    assert "Traceback" not in output
    assert (done.returncode, "tracing.endpoint: is set, and the package " in output) == (2, True), output
    assert "pip install 'mesolive-gateway[tracing]'" in output
