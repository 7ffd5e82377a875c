"""What the simulator's admin interface takes: the bodies of its requests."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from gateway.simulator.server import Ending

_Count = Annotated[int, msgspec.Meta(ge=1)]
_Rate = Annotated[float, msgspec.Meta(gt=0)]


class _Strict(msgspec.Struct, forbid_unknown_fields=True):
    """A request's body: an unknown field is an error."""


class UserBody(_Strict):
    """A user to make or to change; what is absent stays as it is."""

    key: str | None = None
    strategies: list[int] | None = None


class EmitBody(_Strict):
    """Events to emit: at once, or at a rate from now on."""

    count: _Count | None = None
    """How many; without it a rate has no end."""
    kinds: list[str] | None = None
    """Callbacks to choose from (`OnOrderUpdate`)."""
    rate: _Rate | None = None
    """Events a second."""


class DropBody(_Strict):
    """Connections to end: one, those of a user, or all."""

    user: str | None = None
    connection: str | None = None
    how: Ending = "abort"
    error: str | None = None
    allow_reconnect: bool = False


class SilenceBody(_Strict):
    """Connections to keep silent, or to let speak again."""

    user: str | None = None
    connection: str | None = None
    silent: bool = True


class RefuseBody(_Strict):
    """Connects to refuse: the next `count`, those of the next `seconds`, or all until further notice."""

    user: str | None = None
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] = 503
    retry_after: int | None = None
    count: _Count | None = None
    seconds: _Rate | None = None
    at: Literal["negotiate", "upgrade", "any"] = "any"


class ResetBody(_Strict):
    """A history to begin again."""

    first: _Count = 1


class InjectBody(_Strict):
    """Raw bytes to say, as `text` or in `base64`; see `Injection` for what the rest means."""

    text: str | None = None
    base64: str | None = None
    callback: str = "OnOrderUpdate"
    what: Literal["payload", "record"] = "payload"
    push: bool = True
    history: Literal["no", "payload", "envelope"] = "no"
    sequence: Annotated[int, msgspec.Meta(ge=1, le=2**53)] | Literal["next", "none"] = "next"


class SwapBody(_Strict):
    """Two users whose keys are to be swapped."""

    users: tuple[str, str]


class UnlistenBody(_Strict):
    """How long to refuse connections at TCP, and whether to cut those that stand."""

    seconds: _Rate
    cut: bool = False


class FailBody(_Strict):
    """Calls to fail: with a HubException, else with an envelope of this status."""

    method: str = "*"
    count: _Count = 1
    hub_exception: str | None = None
    status: str = "InternalError"
    status_number: int = 4
    code: str = "INTERNAL"
    detail: str = "try again"
