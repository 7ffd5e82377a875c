"""A command imports what it needs: Docker runs `gateway health` every few seconds, and a person waits for `--help`."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

HEAVY: Final = {
    *("pydantic_settings", "aiohttp", "fastapi", "uvicorn", "starlette", "uvloop", "structlog", "nats", "aiokafka"),
    *("prometheus_client", "opentelemetry", "msgspec", "yaml", "gateway.simulator", "gateway.replica"),
}
"""What costs a tenth of a second or so."""


def imported(statement: str) -> set[str]:
    """Return which of the heavy modules a fresh interpreter has after a statement."""
    program = f"import sys\ntry:\n    {statement}\nexcept SystemExit: pass\nprint('\\n', *sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return HEAVY & set(done.stderr.split())


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["health", "--help"], ["health", "--url", "nowhere"]])
def test_what_is_asked_often_imports_nothing_heavy(arguments: list[str]) -> None:
    assert imported(f"import gateway.cli.main as m; sys.argv = {['gateway', *arguments]}; m.main()") == set()


@pytest.mark.parametrize(("kind", "other"), [("jetstream", "aiokafka"), ("kafka", "nats")])
def test_the_client_of_a_broker_that_is_not_used_is_not_imported(kind: str, other: str) -> None:
    opened = f"open_broker(BrokerSettings(kind='{kind}', servers=['127.0.0.1:1']))"
    found = imported(
        "import gateway.cli.run; from gateway.bootstrap.broker import open_broker; "
        f"from gateway.settings.sections import BrokerSettings; {opened}"
    )
    assert {"gateway.replica", {"aiokafka": "nats", "nats": "aiokafka"}[other]} <= found
    assert other not in found


def test_a_gateway_imports_no_server_nor_framework_of_its_children() -> None:
    assert not {"fastapi", "uvicorn", "gateway.simulator"} & imported("import gateway.cli.run")
