r"""The one way out to a terminal: all output of a command passes here, and is made printable.

Texts of the hub, the broker, the API, of files and of arguments are foreign. On a terminal and into a pipe each line is
one line, without a character that a terminal obeys or does not show, and Rich parses no markup in it. JSON stays valid:
there such characters are written as `\uNNNN`. A test finds output that bypasses this module.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterable, Sequence
from io import StringIO
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TextIO

from gateway.errors import GatewayError
from gateway.printable import printable, printable_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.progress import Progress
    from rich.table import Table

__all__ = [
    "OutputClosed",
    "bar",
    "finish",
    "guard",
    "live",
    "open_streams",
    "print_error",
    "print_json",
    "print_json_text",
    "print_line",
    "print_usage_error",
    "printable",
    "show",
    "table",
]

_MARGIN: Final = "  | "
"""What each line of a traceback begins with: a line break in an error's text makes no line that looks like another."""

_MOST_WHOLE: Final = 36
"""Letters up to which the names of a table's rows are never broken: the id of a replay has 32."""
_HEAD: Final = "Traceback (most recent call last):"


def print_line(line: str, *, flush: bool = False) -> None:
    """Write a line to standard output."""
    _write(sys.stdout, printable(line), flush=flush)


def print_json(value: object, *, flush: bool = False) -> None:
    """Write a value to standard output, as JSON on one line."""
    print_json_text(json.dumps(value, ensure_ascii=False), flush=flush)


def print_json_text(text: str, *, flush: bool = False) -> None:
    """Write a JSON text, which must be valid, to standard output, on one line."""
    _write(sys.stdout, printable_json(text), flush=flush)


def print_error(line: str) -> None:
    """Write a line to standard error."""
    _write(sys.stderr, printable(line))


def print_usage_error(error: Any) -> None:  # noqa: ANN401 - Click's, or Typer's own copy of it
    """Write a usage error as Click words it; what it quotes is printable."""
    if type(error).__name__ != "NoArgsIsHelpError":  # its message is the whole help
        error.message = printable(error.message)
    buffer = StringIO()
    error.show(buffer)
    for line in buffer.getvalue().splitlines():
        print_error(line)


def _write(stream: TextIO, line: str, *, flush: bool = False) -> None:
    encoding = stream.encoding or "utf-8"
    if encoding.lower() not in {"utf-8", "utf8"}:  # what the terminal has no code for is no reason to fail
        line = line.encode(encoding, "backslashreplace").decode(encoding)
    try:
        stream.write(line + "\n")
        if flush:
            stream.flush()
    except OSError as error:
        if stream is not sys.stderr:
            raise _unwritable(error) from error
        _discard(sys.stderr)  # there is no place left to say it


class OutputClosed(GatewayError):
    """The reader of standard output, such as `head`, is gone."""


def _unwritable(error: OSError) -> GatewayError:
    """Return why standard output takes nothing more, and let it take everything: what waits in it is lost."""
    _discard(sys.stdout)
    if isinstance(error, BrokenPipeError):
        return OutputClosed("the reader of standard output is gone")
    return GatewayError(f"standard output cannot be written to ({error.strerror}): it lacks lines")


def finish() -> None:
    """Write what waits for standard output; raises GatewayError where that fails, as Python would at its end."""
    try:
        sys.stdout.flush()
    except OSError as error:
        raise _unwritable(error) from error


def _discard(stream: TextIO) -> None:
    """Write nothing more to a stream."""
    device = os.open(os.devnull, os.O_WRONLY)
    os.dup2(device, stream.fileno())
    os.close(device)


def open_streams() -> None:
    """Open those of the standard streams that were closed when the process began.

    Else the next file or socket that is opened takes the number of one, and libuv ends the process at its closing.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            device = os.open(os.devnull, os.O_RDWR)
            if device != number:
                os.dup2(device, number)
                os.close(device)
            os.set_inheritable(number, True)  # noqa: FBT003 - its only way
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
            setattr(sys, name, stream)


def _console(*, stderr: bool = False) -> Console:
    """Return a console that parses no markup, no emoji and no numbers in what it is given."""
    from rich.console import Console  # noqa: PLC0415 - a tenth of a second, for what shows tables alone

    return Console(stderr=stderr, soft_wrap=True, markup=False, emoji=False, highlight=False)


def table(title: str, columns: Iterable[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = ()) -> Table:
    """Return a table; the columns named by `right` are aligned there.

    On a terminal that is too narrow a cell has several lines; a name in the first column is not broken.
    """
    from rich.table import Table  # noqa: PLC0415 - likewise
    from rich.text import Text  # noqa: PLC0415 - likewise

    to_the_right, cells = set(right), [[printable(str(cell)) for cell in row] for row in rows]
    made = Table(title=Text(printable(title)))
    for number, column in enumerate(columns):
        width = max((len(row[0]) for row in cells if number == 0), default=0)
        made.add_column(
            Text(printable(column)),
            justify="right" if column in to_the_right else "left",
            overflow="fold",
            min_width=min(width, _MOST_WHOLE),
        )
    for row in cells:
        made.add_row(*map(Text, row))
    return made


def show(shown: Table) -> None:
    """Write a table to standard output: fitted to a terminal, and else a line for each row, with its cells whole."""
    at = _console()
    if at.is_terminal:
        at.print(shown)
        return
    columns = [[str(column.header), *map(str, column.cells)] for column in shown.columns]
    widths = [max(map(len, cells)) for cells in columns]
    for row in zip(*columns, strict=True):
        aligned = [
            cell.rjust(width) if column.justify == "right" else cell.ljust(width)
            for cell, width, column in zip(row, widths, shown.columns, strict=True)
        ]
        print_line("  ".join(aligned).rstrip())


def live() -> Live | None:
    """Return a place on the terminal that tables replace one another in; None where there is no terminal."""
    from rich.live import Live  # noqa: PLC0415 - likewise

    at = _console()
    return Live(console=at, refresh_per_second=4) if at.is_terminal else None


def bar(*, is_quiet: bool) -> Progress:
    """Return a progress bar on standard error, if that is a terminal; its tasks have a field `status`."""
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415 - likewise

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[status]}", markup=False),
    )
    at = _console(stderr=True)
    return Progress(*columns, console=at, disable=is_quiet or not at.is_terminal, transient=True)


def guard() -> None:
    """Make printable what Python writes by itself: tracebacks, and lines of libraries where no log is set up."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _on_exception
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _on_thread
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _on_unraisable
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Printable())


def _on_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    for part in traceback.format_exception(kind, error, trace):
        for line in part.splitlines():
            print_error(line if line == _HEAD else _MARGIN + line)


def _on_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_type is not SystemExit:
        print_error(f"a thread ended: {ended.thread.name if ended.thread else 'unknown'}")
        _on_exception(ended.exc_type, ended.exc_value or ended.exc_type(), ended.exc_traceback)


def _on_unraisable(ignored: sys.UnraisableHookArgs) -> None:
    print_error(f"{ignored.err_msg or 'an error was ignored'}: {ignored.object!r}")
    if ignored.exc_value is not None:
        _on_exception(ignored.exc_type, ignored.exc_value, ignored.exc_traceback)


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        first, *rest = super().format(record).splitlines() or [""]
        return "\n".join([printable(first), *(_MARGIN + printable(line) for line in rest)])
