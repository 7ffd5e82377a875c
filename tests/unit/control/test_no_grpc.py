"""The gateway speaks HTTP and JSON only: no distribution of gRPC is installed, and none is pinned."""

from __future__ import annotations

import importlib.util
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_no_grpc_distribution_is_installed() -> None:
    names = {str(distribution.metadata["Name"]).lower() for distribution in distributions()}
    assert {"fastapi", "uvicorn", "opentelemetry-exporter-otlp-proto-http"} <= names
    assert [name for name in names if "grpc" in name] == []
    assert importlib.util.find_spec("grpc") is None


def test_no_grpc_distribution_is_pinned() -> None:
    pinned = [line for line in (ROOT / "requirements.lock").read_text("utf-8").lower().splitlines() if "==" in line]
    assert pinned
    assert [line for line in pinned if "grpc" in line] == []
