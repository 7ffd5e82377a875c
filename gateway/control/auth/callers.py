"""The caller of one request, as records, logs and the audit topic name them."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.clock import now_text
from gateway.control.auth.principals import Principal
from gateway.state import Written


@dataclass(frozen=True, slots=True)
class RequestCaller:
    """The caller, the request and the address."""

    who: Principal
    request_id: str
    """The gateway's own."""
    client_request_id: str | None = None
    """The caller's."""
    address: str | None = None

    def written(self) -> Written:
        """Return the author of a record that the caller writes now."""
        return Written(self.who.name, now_text(), self.request_id)
