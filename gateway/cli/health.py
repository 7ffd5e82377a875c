"""`gateway health`: whether the gateway beside it works, for what can only run a command."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import Annotated, Final

import typer

from gateway.cli import terminal
from gateway.cli.options import command_app
from gateway.errors import ConfigurationError, GatewayError

_PATIENCE: Final = 5.0


app = command_app()


@app.command()
def health(
    url: Annotated[str, typer.Option(help="Where the gateway's monitoring listener is.")] = "http://127.0.0.1:9090",
) -> None:
    """Ask the gateway on this machine whether it works, as /healthz says: for Docker's HEALTHCHECK.

    Exit codes: 0 it does, 1 it does not or does not answer, 2 the URL is none.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError("--url", f"{url} is no URL", "Write it as http://127.0.0.1:9090.")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{url.rstrip('/')}/healthz", timeout=_PATIENCE):
            terminal.say("ok")
    except urllib.error.HTTPError as error:
        error.close()
        raise GatewayError(f"{url} answers {error.code}: the gateway does not work") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise GatewayError(f"{url} does not answer that it works: {error}") from error
