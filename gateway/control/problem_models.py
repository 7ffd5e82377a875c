"""The body of a problem, as in RFC 9457."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """What all answers have in common."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, validate_by_name=True)


class Fault(Answer):
    """One thing that is wrong in a request."""

    where: str
    """Such as body.strategies.0 or query.limit."""
    problem: str


class Problem(Answer):
    """A problem as RFC 9457 has it."""

    type: str
    """A URN that stays the same: urn:mesolive:gateway:problem:unknown-account."""
    title: str
    """What the type means."""
    status: int
    """The HTTP status."""
    detail: str
    """What was wrong and what would be right."""
    instance: str
    """The path that was asked for."""
    request_id: str
    """As in the header X-Request-Id and in the gateway's log."""
    nearest: str | None = None
    """The name that may have been meant."""
    errors: list[Fault] | None = None
    """All that is wrong, where it is several things."""
