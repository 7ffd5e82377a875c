"""Names of members, however a naming policy of .NET spells them.

`LatestEventSeqId` is `latestEventSeqId`, `latest_event_seq_id` or `LATEST-EVENT-SEQ-ID`, by `JsonNamingPolicy`.
"""

from __future__ import annotations

from typing import Final

_SEPARATORS: Final = str.maketrans("", "", "_-")


def folded(name: str) -> str:
    """Return what all spellings of a name have in common: its letters and digits, in lower case.

    Only ASCII has two cases here: a name with any other letter is returned as it is.
    """
    return name.lower().translate(_SEPARATORS) if name.isascii() else name
