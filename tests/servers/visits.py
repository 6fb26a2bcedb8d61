"""Visits of clients to servers, side by side."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
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
class Started:
    """The servers that answer, and those that do not."""

    running: dict[Server, Running] = field(default_factory=dict[Server, Running])
    versions: dict[Server, str] = field(default_factory=dict[Server, str])
    missing: dict[Server, str] = field(default_factory=dict[Server, str])
    """Servers that could not be had, and why."""


@dataclass
class Outcome:
    """What came of visits."""

    figures: dict[Visit, Figures] = field(default_factory=dict[Visit, Figures])
    versions: dict[Server, str] = field(default_factory=dict[Server, str])
    missing: dict[Server, str] = field(default_factory=dict[Server, str])


Tell = Callable[[str], None]


@contextlib.asynccontextmanager
async def started(servers: Iterable[Server], folder: Path, tell: Tell) -> AsyncIterator[Started]:
    """All *servers* that can be had, side by side, with their files in *folder*, a new one."""
    found = Started()

    with contextlib.ExitStack() as stack:

        async def start(server: Server, folder: Path) -> None:
            try:
                found.versions[server] = (await asyncio.to_thread(server.program)).version
            except Missing as missing:
                found.missing[server] = str(missing)
                tell(f"{server.name}: SKIPPED: {missing}")
                return
            running = await asyncio.to_thread(stack.enter_context, serve(server, folder))
            found.running[server] = running
            tell(f"{server.name} {found.versions[server]} answers")

        async with asyncio.TaskGroup() as group:
            for number, server in enumerate(dict.fromkeys(servers)):
                group.create_task(start(server, folder / str(number)))
        yield found


async def make(
    visits: Sequence[Visit],
    folder: Path,
    *,
    periods: int = 8,
    together: int = 100,
    tell: Tell = lambda _: None,
) -> Outcome:
    """Make all *visits*, so many of them *together*, when all servers answer.

    Args:
        folder: a new folder, for the files of the servers.
        periods: how many periods of its limit a client asks for.
        tell: is told what happens, as it happens.
    """
    outcome = Outcome()
    free = asyncio.Semaphore(together)

    async with started((visit.server for visit in visits), folder, tell) as found:
        outcome.versions, outcome.missing = found.versions, found.missing

        async def go(visit: Visit) -> None:
            async with free:
                outcome.figures[visit] = await saturate(
                    found.running[visit.server], visit.twin, visit.counts, visit.way, periods
                )
            tell(f"{visit}: {outcome.figures[visit]}")

        async with asyncio.TaskGroup() as group:
            for visit in visits:
                if visit.server in found.running:
                    group.create_task(go(visit))
    return outcome
