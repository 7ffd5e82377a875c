"""The span of each catch-up: a session's reading of the history until it is live."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gateway.session.session import Session
from gateway.session.types import Content, State
from gateway.telemetry.span import NO_SPAN, Span

if TYPE_CHECKING:
    from gateway.replica.source.account import Account


class CatchUpSpan:
    """One session over one connection: what it reads until it is live, and whenever it falls behind again."""

    def __init__(self, account: Account, session: Session) -> None:
        self._account = account
        self._session = session
        self._span: Span = NO_SPAN
        self._pages = self._events = 0

    @contextmanager
    def until_done(self) -> Iterator[None]:
        """Watch the session, which is interrupted where it is not live at the end."""
        self.update()
        try:
            yield
        finally:
            self._end("interrupted")
            NO_SPAN.activate()

    def update(self) -> None:
        """The session may have changed its state."""
        if self._session.state is State.LIVE:
            self._end("live")
        elif not self._span:
            account = self._account
            self._pages = self._events = 0
            self._span = account.source.tracer.catch_up(account.name, account.link.connect_span, self._session.verified)
        self._span.activate()

    def on_page(self, contents: Sequence[Content]) -> None:
        """A page was taken in."""
        self._pages += 1
        self._events += len(contents)

    def _end(self, outcome: str) -> None:
        self._span.set({"mesolive.outcome": outcome, "mesolive.pages": self._pages, "mesolive.events": self._events})
        self._span.end()
        self._span = NO_SPAN
