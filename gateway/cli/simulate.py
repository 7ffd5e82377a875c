"""`gateway simulate`: a hub to try things on."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from gateway.bootstrap import event_loop as loop
from gateway.bootstrap import terminal
from gateway.cli.options import command_app
from gateway.errors import ConfigurationError
from gateway.simulator import Form, SimulatorConfig, simulator
from gateway.telemetry.logs import configure_logs

app = command_app()


@app.command()
def simulate(
    user: Annotated[
        list[str] | None, typer.Option(help="A user and its API key, as NAME=KEY; may be given several times.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; whoever reaches it may also make it misbehave.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 takes a free one.")] = 0,
    rate: Annotated[float, typer.Option(min=0, help="Events a second for each user; 0 emits none.")] = 10.0,
    events: Annotated[int | None, typer.Option(min=1, help="Events for each user before it falls silent.")] = None,
    prefill: Annotated[int, typer.Option(min=0, help="Events that each user's history has at the start.")] = 0,
    form: Annotated[Form, typer.Option(help="How names and enums are written.")] = Form.CAMEL_INT,
    seed: Annotated[int | None, typer.Option(help="Makes the same events each time.")] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Emit nothing before the admin API says so.")] = False,
) -> None:
    """Run the simulated hub on this machine, until interrupted.

    It prints its URL. Its admin API under /simulator shows its state and makes it misbehave.
    """
    users = dict(_split(entry) for entry in user) if user else {"demo": "demo-key"}
    config = SimulatorConfig(
        users=users, host=host, port=port, rate=rate, total=events, prefill=prefill, form=form, seed=seed, paused=paused
    )
    configure_logs("console", "warning")
    try:
        loop.run(_simulate(config))
    except UnicodeError as error:
        raise ConfigurationError("--host", f"{host!r} is no address", "Name one of this machine.") from error
    except OSError as error:
        problem = f"{port} cannot be listened on ({error.strerror})"
        raise ConfigurationError("--port", problem, "Name a free one, or 0.") from error


def _split(entry: str) -> tuple[str, str]:
    name, separator, key = entry.partition("=")
    if not (name and separator and key):
        raise typer.BadParameter(f"{entry!r} is not NAME=KEY", param_hint="--user")
    return name, key


async def _simulate(config: SimulatorConfig) -> None:
    stop = asyncio.Event()
    loop.on_signal(stop.set)
    async with simulator(config) as hub:
        terminal.print_line(f"hub: {hub.url}", flush=True)
        terminal.print_line(f"users: {', '.join(config.users)}", flush=True)
        await stop.wait()
