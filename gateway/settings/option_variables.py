"""The environment variables of the commands' options, which are no settings.

They are apart from the settings, whose models take `gateway health` longer to import than all that it does.
"""

from __future__ import annotations

from typing import Final

CONFIG_VARIABLE: Final = "GATEWAY_CONFIG"
URL_VARIABLE: Final = "GATEWAY_URL"
TOKEN_VARIABLE: Final = "GATEWAY_TOKEN"  # noqa: S105 - its name
OPTION_VARIABLES: Final = frozenset({CONFIG_VARIABLE, URL_VARIABLE, TOKEN_VARIABLE})
