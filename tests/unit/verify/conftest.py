from __future__ import annotations

from tests.unit.replica.conftest import build

__all__ = ["build"]
