"""Draws docs/images/*.svg from real runs on a terminal: `make pictures`.

`gateway demo` runs on a pseudo-terminal, and what its screen shows after some 2,000 events is the picture; then
`gateway tail` runs beside it.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

_IMAGES: Final = Path(__file__).parents[1] / "docs" / "images"
_COLUMNS: Final = 112
_ROWS: Final = 40
_DEADLINE_S: Final = 120.0
_GATEWAY: Final = Path(sys.executable).with_name("gateway")
_CODES: Final = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")


def screen(output: str) -> list[str]:
    """Return what a terminal shows after `output`, a line each, with its colours: as much as Rich's display needs."""
    lines, row = [""], 0
    for found in _CODES.finditer(output):
        text, (numbers, command) = found[0], found.groups()
        if text == "\n":
            row += 1
            lines.extend([""] * (row + 1 - len(lines)))
        elif command == "A":
            row = max(0, row - int(numbers or 1))
        elif command == "K":
            lines[row] = ""
        elif command == "m" or (command is None and text != "\r"):
            lines[row] += text
    return lines


def draw(name: str, title: str, lines: list[str]) -> None:
    """Write a picture of the lines; nothing in it is loaded from elsewhere."""
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True)
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=True)
    drawn = console.export_svg(title=title, unique_id=name)
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL).replace("Fira Code,", "")
    (_IMAGES / f"{name}.svg").write_text(re.sub(r"[ \t]+$", "", drawn, flags=re.MULTILINE), "utf-8")


def _read(terminal: int, until: str, output: str = "") -> str:
    give_up = time.monotonic() + _DEADLINE_S
    while not re.search(until, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)):
        if time.monotonic() > give_up:
            sys.exit(f"the demo never showed {until!r}; it showed {output[-2000:]!r}")
        output += os.read(terminal, 65536).decode()
    return output


def main() -> None:
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(_COLUMNS)}
    demo = subprocess.Popen([_GATEWAY, "demo"], stdin=its, stdout=its, stderr=its, env=environment)  # noqa: S603 - ours
    try:
        output = _read(ours, r"2\d\d\d events published[^\0]*gamma[^\n]*\n")
        lines = screen(output)
        draw("demo", "gateway demo", ["$ .venv/bin/gateway demo", *lines])
        servers = re.search(r"nats://[\d.:]+", output)
        if servers is None:
            sys.exit("the demo named no broker")
        tail = [str(_GATEWAY), "tail", "--servers", servers[0], "--from", "first", "--no-follow"]
        printed = subprocess.run(tail, capture_output=True, text=True, check=True).stdout.splitlines()  # noqa: S603 - ours
        shown = " ".join(["$ .venv/bin/gateway", *tail[1:]])
        draw("tail", "gateway tail", [shown, *(line[:_COLUMNS] for line in printed[:14])])
    finally:
        demo.send_signal(signal.SIGINT)
        demo.wait()


if __name__ == "__main__":
    main()
