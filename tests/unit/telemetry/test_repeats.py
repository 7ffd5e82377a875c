"""Lines of one cause are written a few times and then summed up; nothing else is held back."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from gateway.telemetry.log_limiter import AUDIT, LogRateLimiter


class Scene:
    """A filter, what passed it and what it summed up."""

    def __init__(self) -> None:
        self.now = 0.0
        self.summed: list[logging.LogRecord] = []
        self.repeats = LogRateLimiter(self.summed.append, lambda: self.now, rest=10.0)

    def log(self, event: str, level: int = logging.WARNING, name: str = "gateway", **fields: Any) -> bool:  # noqa: ANN401
        """Write a line; give whether it passed."""
        message: object = {"event": event, **fields}
        return self.repeats.filter(logging.LogRecord(name, level, "", 0, message, (), None))

    def sums(self) -> list[dict[str, Any]]:
        """Return what it summed up."""
        found = [dict(record.msg) for record in self.summed if isinstance(record.msg, dict)]
        self.summed.clear()
        return found


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_the_first_of_a_cause_pass_and_the_rest_is_summed_up(scene: Scene) -> None:
    passed = [
        scene.log("hub unavailable, reconnecting", reason="silent", account=f"a-{n % 50}", shard=n % 4)
        for n in range(500)
    ]
    assert passed == [True] * 20 + [False] * 480
    assert scene.sums() == []
    scene.repeats.flush()
    assert scene.sums() == [
        {
            "event": "hub unavailable, reconnecting",
            "reason": "silent",
            "repeated": 480,
            "in_seconds": 10.0,
            "accounts": 50,
            "shards": 4,
        }
    ]


def test_each_cause_has_its_own_first_lines_and_numbers_make_no_cause(scene: Scene) -> None:
    for number in range(25):
        scene.log("the log is opened again", error=f"no answer within {number} s")
        assert scene.log("the log is opened again", error="refused") == (number < 20)
    assert scene.log("the log is opened again", error="no answer within 99 s") is False


def test_after_a_while_they_pass_again_behind_the_sum(scene: Scene) -> None:
    for _ in range(30):
        scene.log("hub unavailable, reconnecting", account="main")
    scene.now = 10.0
    assert scene.log("hub unavailable, reconnecting", account="main")
    assert scene.sums() == [
        {"event": "hub unavailable, reconnecting", "account": "main", "repeated": 10, "in_seconds": 10.0}
    ]
    scene.repeats.flush()
    assert scene.sums() == []


def test_who_changed_what_is_never_held_back(scene: Scene) -> None:
    assert all(scene.log("paused", level=logging.INFO, name=AUDIT) for _ in range(1_000))


def test_what_is_only_said_may_be_said_more_often(scene: Scene) -> None:
    passed = [scene.log("account state changed", level=logging.INFO, state="live") for _ in range(150)]
    assert sum(passed) == 100
    assert scene.log("account state changed", level=logging.INFO, state="offline")


def test_lines_of_libraries_are_summed_up_in_their_own_words(scene: Scene) -> None:
    def log(number: int) -> bool:
        record = logging.LogRecord("aiokafka", logging.ERROR, "", 0, "node %s is away", (number,), None)
        return scene.repeats.filter(record)

    assert sum(log(number) for number in range(100)) == 20
    scene.repeats.flush()
    assert [record.getMessage() for record in scene.summed] == ["node 99 is away (repeated: 80)"]


def test_causes_without_end_take_no_memory_without_end_and_are_written(scene: Scene) -> None:
    assert all(scene.log(f"cause {'x' * number}") for number in range(3_000))
    assert len(scene.repeats._causes) == 1_000
    scene.now = 10.0
    scene.repeats.flush()
    assert scene.repeats._causes == {}


def test_of_an_error_the_first_line_of_each_account_is_written(scene: Scene) -> None:
    passed = [scene.log("the key is refused", logging.ERROR, account=f"a-{n % 300}") for n in range(600)]
    assert sum(passed) == 200
    scene.repeats.flush()
    assert scene.sums()[0]["accounts"] == 300


def test_a_line_that_cannot_be_written_harms_no_caller_and_no_other_line(scene: Scene) -> None:
    for _ in range(30):
        scene.repeats.filter(logging.LogRecord("lib", logging.ERROR, "", 0, "%s %s", ("one",), None))
        scene.log("sane")
        assert scene.log("odd", account=["a", "list"]) in {True, False}
    scene.repeats.flush()
    assert [one["event"] for one in scene.sums()] == ["sane", "odd"]
    scene.repeats.flush()
    assert scene.sums() == []


def test_a_destructor_that_logs_meanwhile_does_not_stop_everything(scene: Scene) -> None:
    nested: list[bool] = []

    class Loud:
        def __str__(self) -> str:
            nested.append(scene.log("from within"))  # as a destructor may, whenever memory is looked through
            return "loud"

    assert scene.log("outside", error=Loud())
    assert nested == [True]


def test_after_its_end_everything_passes_and_no_thread_is_needed(scene: Scene) -> None:
    for _ in range(30):
        scene.log("hub unavailable, reconnecting")
    scene.repeats.close()
    assert [one["repeated"] for one in scene.sums()] == [10]
    assert all(scene.log("hub unavailable, reconnecting") for _ in range(100))


def test_the_sum_comes_though_nothing_is_written_any_more() -> None:
    summed: list[logging.LogRecord] = []
    came = threading.Event()

    def write(record: logging.LogRecord) -> None:
        summed.append(record)
        came.set()

    repeats = LogRateLimiter(write, rest=0.05)
    for _ in range(100):
        repeats.filter(logging.LogRecord("gateway", logging.ERROR, "", 0, {"event": "it failed"}, (), None))
    repeats.start()
    assert came.wait(10)
    repeats.close()
    assert isinstance(summed[0].msg, dict)
    assert summed[0].msg["repeated"] > 0


def test_a_process_ends_although_lines_are_held_back_at_its_end(tmp_path: Path) -> None:
    script = tmp_path / "ends.py"
    script.write_text(
        "import asyncio\n"
        "from gateway.telemetry.logs import configure_logs\n"
        "configure_logs('json', 'info')\n"
        "async def fails(): raise OSError('x')\n"
        "async def main():\n"
        "    global kept\n"
        "    kept = [asyncio.ensure_future(fails()) for _ in range(200)]\n"
        "    await asyncio.sleep(0.1)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, timeout=30, check=False)
    assert done.returncode == 0
    assert b"never retrieved" in done.stderr
