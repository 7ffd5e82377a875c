"""Cursors of lists: where the next part begins, in a form of the API's own."""

from __future__ import annotations

import base64
from typing import Final, TypeVar

import msgspec

from gateway.control.problems import FieldError, Problem, ProblemType

_LONGEST: Final = 512

_Place = TypeVar("_Place")


def write_cursor(place: object) -> str:
    """Return the cursor of the part that begins behind `place`."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def read_cursor(text: str, type_: type[_Place], of: str) -> _Place:
    """Read a cursor of `write_cursor`; raises Problem, which names `of` what it is no cursor."""
    try:
        padded = text.encode("ascii")[:_LONGEST] + b"=" * (-len(text) % 4)
        return msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True), type=type_)
    except (ValueError, msgspec.MsgspecError):
        raise no_cursor(of) from None


def no_cursor(of: str) -> Problem:
    """Return the problem of an invalid cursor of such a list."""
    problem = f"is no cursor of a list {of}: give `next` of such a list as it came"
    return Problem(ProblemType.INVALID, f"query.cursor {problem}.", errors=(FieldError("query.cursor", problem),))
