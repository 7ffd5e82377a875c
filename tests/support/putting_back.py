"""A server's folder that is copied, and put back later: what a power cut or a restored volume does to a broker."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol


class Stoppable(Protocol):
    """A server with a folder."""

    folder: Path

    def kill(self) -> None:
        """Stop it at once."""

    def start(self) -> None:
        """Start it, and block until it serves."""


def keep(server: Stoppable) -> None:
    """Copy the folder of a server that runs, while it is down for a moment; an earlier copy makes room."""
    server.kill()
    shutil.rmtree(_copy(server), ignore_errors=True)
    shutil.copytree(server.folder, _copy(server))
    server.start()


def keep_only(server: Stoppable, wanted: str) -> None:
    """Copy those folders of a server that runs of which the path has such a pattern, while nothing is written there."""
    shutil.rmtree(_copy(server), ignore_errors=True)
    for place in server.folder.glob(wanted):
        shutil.copytree(place, _copy(server) / place.relative_to(server.folder))


def put_back(server: Stoppable) -> None:
    """Let a server that runs go on from the copy that was made of its folder."""
    server.kill()
    shutil.rmtree(server.folder)
    shutil.copytree(_copy(server), server.folder)
    server.start()


def put_back_only(server: Stoppable, wanted: str) -> None:
    """Let a server that runs go on from the copy of those of its folders of which the path has such a pattern."""
    server.kill()
    for kept in _copy(server).glob(wanted):
        place = server.folder / kept.relative_to(_copy(server))
        shutil.rmtree(place)
        shutil.copytree(kept, place)
    server.start()


def _copy(server: Stoppable) -> Path:
    return server.folder.with_name(f"{server.folder.name}-copy")
