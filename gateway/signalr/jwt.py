"""The claims of a bearer token about its owner, where they are readable."""

from __future__ import annotations

import base64
from typing import Final

import msgspec

_PARTS: Final = 3


class _Claims(msgspec.Struct):
    sub: str | None = None


def subject_of(bearer: str) -> str | None:
    """Return the subject (`sub`) of a bearer that is a JWT; None for one without, and for anything else.

    Nothing is verified, for that is the hub's business: the answer only distinguishes one user's key from another's.
    """
    parts = bearer.split(".")
    if len(parts) != _PARTS:
        return None
    try:
        header, claims = (base64.b64decode(_padded(part), altchars=b"-_", validate=True) for part in parts[:2])
        msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        return msgspec.json.decode(claims, type=_Claims).sub or None
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return None


def _padded(part: str) -> str:
    return part + "=" * (-len(part) % 4)
