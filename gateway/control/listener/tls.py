"""TLS on the gateway's own listeners, with certificates that are read again when they change."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Protocol

from gateway.certificates import PemFiles
from gateway.errors import ConfigurationError
from gateway.reloaded import LiveContext, Reloaded

if TYPE_CHECKING:
    from pathlib import Path


class ListenerFiles(Protocol):
    """The files of a listener, as the settings `<section>.tls` name them."""

    @property
    def cert_file(self) -> Path | None:
        """Its certificate; None for plain HTTP."""

    @property
    def key_file(self) -> Path | None:
        """Its key; not needed where the certificate's file holds it."""

    @property
    def client_ca_file(self) -> Path | None:
        """Who signs the certificates of clients; None asks for none."""


_LOOK_INTERVAL_S: Final = 10.0
"""Seconds between looks at the files while no client connects: a wrong one is logged before it is needed."""


def listener_context(section: str, settings: ListenerFiles) -> LiveContext | None:
    """Return the TLS context of the listener of `section`, or None where its settings name no certificate.

    Raises ConfigurationError for a file that cannot be used.
    """
    files = PemFiles(
        f"{section}.tls.",
        settings.cert_file,
        settings.key_file,
        settings.client_ca_file,
        names=("cert_file", "key_file", "client_ca_file"),
    )
    if not files.files:
        return None
    if files.cert_file is None:
        given = ", ".join(files.files)
        remedy = "Name a PEM file with the listener's certificate, or take the others away."
        raise ConfigurationError(f"{section}.tls.cert_file", f"is not set, and {given} is", remedy)
    source = Reloaded(f"{section}.tls", files.files, lambda content: _server_context(files, content))
    return LiveContext(ssl.PROTOCOL_TLS_SERVER, source)


@asynccontextmanager
async def listener_tls(section: str, settings: ListenerFiles) -> AsyncIterator[LiveContext | None]:
    """Return such a context, and look at its files for as long as the context lasts, also without clients."""
    context = listener_context(section, settings)
    if context is None:
        yield None
        return
    looking = asyncio.create_task(_keep_reloading(context), name=f"{section}.tls")
    try:
        yield context
    finally:
        looking.cancel()


def scheme_of(tls: ssl.SSLContext | None) -> str:
    """Return the scheme of a URL to a listener with this context."""
    return "http" if tls is None else "https"


async def _keep_reloading(context: LiveContext) -> None:
    while True:
        await asyncio.sleep(_LOOK_INTERVAL_S)
        context.look()


def _server_context(files: PemFiles, content: Mapping[str, bytes]) -> ssl.SSLContext:
    if files.ca_file is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    else:
        context = files.context(ssl.Purpose.CLIENT_AUTH)
        context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    files.load_pair(context, content)
    return context
