"""Logs: structlog over the standard library's logging, as JSON lines for machines or in colours for people.

What is foreign in a line - a word of the hub or the broker, a file's name, an error's text - is made printable for
people; JSON is written in ASCII alone.

WARNING means that it recovered by itself; ERROR means that something was lost or needs a person. A log that
cannot be written (a closed pipe, a full disk) never stops the work.
"""

from __future__ import annotations

import atexit
import logging
import sys
from contextlib import nullcontext
from typing import Final, Literal

import structlog

from gateway.printable import printable
from gateway.telemetry.log_limiter import AUDIT, LogRateLimiter
from gateway.telemetry.span import add_trace

_SHARED: tuple[structlog.types.Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    add_trace,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)

_OF_MANY_LINES: Final = {"exception", "stack"}
_MARGIN: Final = "  | "


def configure_logs(form: Literal["auto", "console", "json"], level: str, replica: str = "") -> None:
    """Set up logging for this process, on standard error; `auto` asks whether that is a terminal.

    Each line names the `replica`, where one is given.
    """

    def add_replica(_: object, __: str, event_dict: structlog.types.EventDict) -> structlog.types.EventDict:
        if replica:
            event_dict.setdefault("replica", replica)
        return event_dict

    for_people = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, sort_keys=True
        )
        if for_people
        else structlog.processors.JSONRenderer()  # its json.dumps escapes all but ASCII
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=(*_SHARED, add_replica),  # the libraries' lines come in the same form
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                add_traceback,
                *((make_printable,) if for_people else ()),
                renderer,
            ],
        )
    )

    def write(record: logging.LogRecord) -> None:
        with handler.lock or nullcontext():
            handler.emit(record)

    repeats = LogRateLimiter(write)
    handler.addFilter(repeats)
    repeats.start()
    atexit.register(repeats.close)
    logging.captureWarnings(capture=True)  # Python would write them by itself
    logging.raiseExceptions = False  # a line that cannot be written is dropped
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.getLogger(AUDIT).setLevel(logging.INFO)  # audit lines are written whatever the level
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            add_replica,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def add_traceback(
    logger: structlog.types.WrappedLogger, name: str, event_dict: structlog.types.EventDict
) -> structlog.types.EventDict:
    """Write out the error of a line: with its traceback, or alone where the interpreter ends.

    Destructors still log then, but since Python 3.13 the standard library imports what a traceback needs only when it
    is written, and nothing can be imported any more.
    """
    exc_info = event_dict.get("exc_info")
    try:
        return structlog.processors.format_exc_info(logger, name, event_dict)
    except ImportError:
        error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
        event_dict["exception"] = f"{type(error).__name__}: {error}"
        return event_dict


def make_printable(_: object, __: str, event_dict: structlog.types.EventDict) -> structlog.types.EventDict:
    """Make all of a line printable, as the last processor before one that writes for people.

    Tracebacks stay on lines of their own, each behind a margin: a line break in an error's text begins no log line.
    """
    return {printable(str(key)): _printable_value(key, value) for key, value in event_dict.items()}


def _printable_value(key: str, value: object) -> object:
    if not isinstance(value, str):
        text = repr(value)
        return value if text.isascii() and text.isprintable() else printable(text)
    if key in _OF_MANY_LINES:
        return "\n".join(_MARGIN + printable(line) for line in value.splitlines())
    return printable(value)


def bind(**bound: str | int) -> None:
    """Add `bound` to all lines that this task writes from now on, and the tasks that it begins."""
    structlog.contextvars.bind_contextvars(**bound)


def get_logger(**bound: str | int) -> structlog.typing.FilteringBoundLogger:
    """Return a logger that adds `bound` to each line."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger("gateway").bind(**bound)
    return logger


def get_audit_logger() -> structlog.typing.FilteringBoundLogger:
    """Return the audit logger, whose lines no level holds back."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(AUDIT)
    return logger
