"""What a consumer's type checker learns of this package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args, get_overloads, get_type_hints

from gateway.events.catalogue import CATALOGUE
from gateway.events.encode import read_event

CONSUMER = """
from decimal import Decimal
from gateway.events.encode import read_event

event = read_event("order-update", b"{}")
reveal_type(event)
number: int = event.OrderId
kind: str = "order-update"
reveal_type(read_event(kind, b"{}"))
read_event("order-update", b"{}").NoSuchMember
"""


def test_each_kind_is_read_as_its_own_class() -> None:
    models = {}
    for overload in get_overloads(read_event):
        hints = get_type_hints(overload)
        for kind in get_args(hints["kind"]) or [str]:
            models[kind] = hints["return"]
    assert models.pop(str).__name__ == "EventPayload"
    assert models == {kind: entry.model for kind, entry in CATALOGUE.items()}
    assert get_type_hints(get_overloads(read_event)[0])["kind"] == Literal["entry-signal"]


def test_a_consumer_that_is_checked_strictly_finds_the_types(tmp_path: Path) -> None:
    (tmp_path / "consumer.py").write_text(CONSUMER)
    env = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "MYPYPATH"}}
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, "consumer.py"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    revealed = [line.partition(": ")[2] for line in done.stdout.splitlines()[:-1]]
    assert revealed == [
        'note: Revealed type is "gateway.events.models.payloads.OrderUpdateEvent"',
        'note: Revealed type is "gateway.events.models.payloads.EventPayload"',
        'error: "OrderUpdateEvent" has no attribute "NoSuchMember"  [attr-defined]',
    ]
