"""The two forms in which metrics are exported, and the choice of one for a scraper.

The library's own choice takes version and escaping from the scraper's header. So any client could request as many forms
as there are numbers, each of which costs the time and the memory of all metrics once more. Names here are plain ASCII,
so that no escaping changes anything.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from prometheus_client import exposition
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

PLAIN: Final = exposition.CONTENT_TYPE_PLAIN_0_0_4
OPENMETRICS: Final = openmetrics.CONTENT_TYPE_LATEST
_OPENMETRICS: Final = "application/openmetrics-text"
_VERSION: Final = "1.0.0"
_ENCODERS: Final[dict[str, Callable[[Collector], bytes]]] = {
    PLAIN: exposition.generate_latest,
    OPENMETRICS: partial(openmetrics.generate_latest, version=_VERSION),
}


def form_for(accept: str) -> str:
    """Return the media type for a scraper that sends `accept`: OpenMetrics 1.0.0 if it reads that, else plain."""
    return OPENMETRICS if any(map(_is_openmetrics, accept.split(","))) else PLAIN


def encode(metrics: Collector, form: str) -> bytes:
    """Return the text of `metrics` in a form that `form_for` gave."""
    return _ENCODERS[form](metrics)


def _is_openmetrics(accepted: str) -> bool:
    media_type, *parameters = (part.strip().lower() for part in accepted.split(";"))
    versions = [part.removeprefix("version=") for part in parameters if part.startswith("version=")]
    return media_type == _OPENMETRICS and versions in ([], [_VERSION])
