"""Logs: structlog over the standard library's logging, as JSON lines for machines or in colours for people.

WARNING means that it recovered by itself; ERROR means that something was lost or needs a person. A log that
cannot be written (a closed pipe, a full disk) never stops the work.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

_SHARED: tuple[structlog.types.Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def configure_logs(form: Literal["auto", "console", "json"], level: str) -> None:
    """Set up logging for this process, on standard error; `auto` asks whether that is a terminal."""
    for_people = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if for_people else structlog.processors.JSONRenderer()
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,  # what libraries say comes in the same form
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    logging.raiseExceptions = False  # a line that cannot be written is dropped
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def get_logger(**bound: str | int) -> structlog.typing.FilteringBoundLogger:
    """Give a logger that says `bound` in each line."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger("gateway").bind(**bound)
    return logger
