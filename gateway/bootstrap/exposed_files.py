"""Files with secrets that other users of this machine may read or write: a warning, and the gateway works anyway."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final, NoReturn

from gateway.accounts import AccountsDirectory, KeyFileError
from gateway.settings.model import Settings
from gateway.small_files import exposure_of
from gateway.telemetry.logs import get_logger

_LOOK: Final = 30.0
"""Seconds between two looks."""
_REMEDY: Final = "Let its owner alone read and write it (`chmod 600`), at most its group read it."


async def warn_of_exposed(settings: Settings, keys: AccountsDirectory) -> NoReturn:
    """Look again and again for files that others may use, and log each once."""
    logged: set[KeyFileError] = set()
    while True:
        found = set(await asyncio.to_thread(lambda: list(exposed_files(settings, keys))))
        for fault in sorted(found - logged, key=lambda fault: fault.entry):
            fields = {"setting": fault.entry, "problem": fault.problem, "remedy": fault.remedy}
            get_logger().warning("secret file is accessible to other users", **fields)
        logged = found
        await asyncio.sleep(_LOOK)


def exposed_files(settings: Settings, keys: AccountsDirectory) -> Iterator[KeyFileError]:
    """Yield each file that others may use: its setting as the entry."""
    for fault in keys.exposed():
        yield KeyFileError(f"accounts.directory/{fault.entry}", fault.problem, fault.remedy)
    broker = settings.broker
    for setting, path in (
        ("control.tokens_file", settings.control.tokens_file),
        ("broker.sasl.password_file", broker.sasl.password_file),
        ("broker.sasl.token_file", broker.sasl.token_file),
        ("broker.credentials_file", broker.credentials_file),
        ("broker.tls.key_file", broker.tls.key_file),
        ("control.tls.key_file", settings.control.tls.key_file),
        ("monitoring.tls.key_file", settings.monitoring.tls.key_file),
        ("hub.headers_file", settings.hub.headers_file),
        ("hub.proxy_file", settings.hub.proxy_file),
        ("tracing.headers_file", settings.tracing.headers_file),
    ):
        problem = None if path is None else exposure_of(path)
        if problem is not None:
            yield KeyFileError(setting, f"{path} {problem}", _REMEDY)
