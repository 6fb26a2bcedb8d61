"""Visits of clients to servers, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from .programs import Missing
from .saturate import Counts, Figures, Way, saturate
from .server import Running, Server, Twin, serve


@dataclass(frozen=True)
class Visit:
    """A client that asks a server for all that one of its limits allows."""

    server: Server
    twin: Twin
    counts: Counts
    way: Way

    def __str__(self) -> str:
        return f"{self.server.name}: {self.twin.limit}, {self.counts}, {self.way}"


@dataclass
class Outcome:
    """What came of visits."""

    figures: dict[Visit, Figures] = field(default_factory=dict[Visit, Figures])
    versions: dict[Server, str] = field(default_factory=dict[Server, str])
    missing: dict[Server, str] = field(default_factory=dict[Server, str])
    """Servers that could not be had, and why."""


async def make(
    visits: Sequence[Visit],
    folder: Path,
    *,
    periods: int = 8,
    together: int = 100,
    tell: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Make all *visits*, so many of them *together*, when all servers answer.

    Args:
        folder: a new folder, for the files of the servers.
        periods: how many periods of its limit a client asks for.
        tell: is told what happens, as it happens.
    """
    outcome = Outcome()
    running: dict[Server, Running] = {}
    free = asyncio.Semaphore(together)

    with ExitStack() as stack:

        async def start(server: Server, folder: Path) -> None:
            try:
                outcome.versions[server] = (await asyncio.to_thread(server.program)).version
            except Missing as missing:
                outcome.missing[server] = str(missing)
                tell(f"{server.name}: SKIPPED: {missing}")
                return
            running[server] = await asyncio.to_thread(stack.enter_context, serve(server, folder))
            tell(f"{server.name} {outcome.versions[server]} answers")

        async def go(visit: Visit) -> None:
            async with free:
                outcome.figures[visit] = await saturate(
                    running[visit.server], visit.twin, visit.counts, visit.way, periods
                )
            tell(f"{visit}: {outcome.figures[visit]}")

        servers = dict.fromkeys(visit.server for visit in visits)
        async with asyncio.TaskGroup() as group:
            for number, server in enumerate(servers):
                group.create_task(start(server, folder / str(number)))
        async with asyncio.TaskGroup() as group:
            for visit in visits:
                if visit.server in running:
                    group.create_task(go(visit))
    return outcome
