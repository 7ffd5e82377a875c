"""A MesoLive-shaped hub for demos and tests.

    async with simulator(SimulatorConfig(users={"demo": "key"}, rate=100)) as hub:
        print(hub.url)

It speaks what was recorded from a real ASP.NET Core SignalR server, and breaks on demand (`Faults`, and the
admin API under `/simulator`). It shares only the SignalR codec with the gateway, so it is an independent truth.
"""

from gateway.simulator.events import CALLBACKS
from gateway.simulator.faults import Failure, Faults, Refusal
from gateway.simulator.history import UNKNOWN, Injection
from gateway.simulator.server import PATH, Timing
from gateway.simulator.simulation import Simulator, SimulatorConfig, simulator
from gateway.simulator.user import Emission
from gateway.simulator.wire import Form

__all__ = [
    "CALLBACKS",
    "PATH",
    "UNKNOWN",
    "Emission",
    "Failure",
    "Faults",
    "Form",
    "Injection",
    "Refusal",
    "Simulator",
    "SimulatorConfig",
    "Timing",
    "simulator",
]
