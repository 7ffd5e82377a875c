"""A log line is one line, and nothing in it is a command: whoever said the words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Final

import pytest

from tests.support.nasty import FORGED, SURROGATE, TEXTS, judge

_SCRIPT: Final = """
import asyncio, json, logging, sys, warnings
from gateway.telemetry.logs import configure_logs, get_logger
texts = json.loads(sys.argv[2])
configure_logs(sys.argv[1], "debug", "vm/" + texts[0])
class Odd:
    def __init__(self, text): self.text = text
    def __repr__(self): return self.text
def fails(text):
    raise ValueError(text) from OSError(2, text)
log = get_logger()
for text in texts:
    log.warning(text, entry=text, raw=text.encode("utf-8", "surrogatepass"), some=[text, {text: text}], odd=Odd(text))
    log.info("ours", **{text: "x"})
    for name in ("nats", "aiokafka.conn", "uvicorn.error", "asyncio"):
        logging.getLogger(name).error("it says %s of %r", text, Odd(text))
    warnings.warn(text)
    try:
        fails(text)
    except ValueError as error:
        error.add_note(text)
        log.exception("it failed", account=text)
        logging.getLogger("nats").error("library", exc_info=True, stack_info=True)
        try:
            raise ExceptionGroup(text, [error, KeyError(text)])
        except ExceptionGroup:
            log.error("several", exc_info=True)
async def forgotten():
    async def late(): raise RuntimeError(texts[0])
    task = asyncio.ensure_future(late()); await asyncio.sleep(0); await asyncio.sleep(0); del task
asyncio.run(forgotten())
"""


def rendered(form: str) -> str:
    """Let a process log all nasty texts, on standard error; return what came."""
    texts = json.dumps([*TEXTS.values(), SURROGATE])
    command = [sys.executable, "-W", "always", "-c", _SCRIPT, form, texts]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True, env=dict(os.environ, NO_COLOR="1"))
    assert done.stdout == b""
    return done.stderr.decode("utf-8", "surrogateescape")


def test_for_people_all_of_a_line_is_printable_and_no_line_is_forged() -> None:
    output = rendered("console")
    assert judge(output, is_terminal=False) == []
    assert "\\x1b]0;n4sty\\x07" in output
    assert "ValueError: n4sty\\x1b[2J\\x1b[H" in output  # a traceback stays readable
    for line in output.splitlines():
        assert line.startswith(("20", "  | ", "====")) or not line, line
    for begun in (line for line in output.splitlines() if line.startswith("20")):
        assert f" {FORGED}" not in begun.split("]", 1)[0]


def test_for_machines_a_line_is_ascii_and_one_object() -> None:
    output = rendered("json")
    assert output.isascii()
    lines = output.splitlines()
    assert output.count("\n") == len(lines)
    assert len([json.loads(line) for line in lines]) > len(TEXTS)
    assert "".join(lines).isprintable()


@pytest.mark.parametrize("text", TEXTS.values())
def test_the_judge_finds_each_text(text: str) -> None:
    has_control = not text.isprintable()
    for is_terminal in (False, True):
        faults = judge(f"{text}\nn4sty", is_terminal=is_terminal)
        assert bool(faults) == has_control or text == TEXTS["colour"], text
