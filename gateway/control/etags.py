"""If-Match: a change that holds only for the revision that its author has seen."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from gateway.control.problems import Problem, ProblemType

_TAG: Final = re.compile(r'"(0|[1-9][0-9]{0,18})"')


def etag(revision: int) -> str:
    """Return the entity tag of the desired state at a revision."""
    return f'"{revision}"'


@dataclass(frozen=True, slots=True)
class Condition:
    """What If-Match asks for."""

    revisions: frozenset[int] | None
    """Any of these; None for any that exists."""

    def check(self, account: str, revision: int) -> None:
        """Raise Problem where `revision` is not the requested one."""
        if revision in self.revisions if self.revisions is not None else revision > 0:
            return
        now = "has never been set" if revision == 0 else f"has the ETag {etag(revision)} now"
        raise Problem(
            ProblemType.PRECONDITION_FAILED,
            f"The desired state of account {account} {now}. Read it again, decide again, and send its ETag "
            'in If-Match, with its quotes: "57".',
            headers={"etag": etag(revision)},
        )

    def expects_later_than(self, revision: int) -> bool:
        """Return whether it requires a later revision: this process may not have received it yet."""
        return self.revisions is not None and max(self.revisions, default=0) > revision


def tags_of(header: str) -> frozenset[str]:
    """Return the entity tags of a list, with their quotes: If-Match compares strongly, so a weak one matches none."""
    return frozenset(part.strip() for part in header.split(","))


def read_condition(header: str | None) -> Condition | None:
    """Read If-Match; None where there is none. An invalid ETag, and a weak one, match nothing."""
    if header is None:
        return None
    if header.strip() == "*":
        return Condition(None)
    tags = map(_TAG.fullmatch, tags_of(header))
    return Condition(frozenset(int(tag[1]) for tag in tags if tag is not None))
