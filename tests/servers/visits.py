"""Visits of clients to servers, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from .programs import Missing
from .saturate import Counts, Figures, Way, saturate
from .server import Server, Twin, serve


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
    visits: Iterable[Visit],
    folder: Path,
    *,
    periods: int = 8,
    together: int = 100,
    tell: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Make all *visits*: those to one server at once, and to *together* servers side by side.

    Args:
        folder: a new folder, for the files of the servers.
        periods: how many periods of its limit a client asks for.
        tell: is told what happens, as it happens.
    """
    outcome = Outcome()
    free = asyncio.Semaphore(together)
    by_server: dict[Server, list[Visit]] = {}
    for visit in visits:
        by_server.setdefault(visit.server, []).append(visit)

    async def go_to(server: Server, visits: Sequence[Visit], folder: Path) -> None:
        async with free:
            try:
                outcome.versions[server] = (await asyncio.to_thread(server.program)).version
            except Missing as missing:
                outcome.missing[server] = str(missing)
                tell(f"{server.name}: SKIPPED: {missing}")
                return
            with ExitStack() as stack:
                running = await asyncio.to_thread(stack.enter_context, serve(server, folder))
                tell(f"{server.name} {outcome.versions[server]} answers")

                async def go(visit: Visit) -> None:
                    figures = await saturate(running, visit.twin, visit.counts, visit.way, periods)
                    outcome.figures[visit] = figures
                    tell(f"{visit}: {figures}")

                await asyncio.gather(*map(go, visits))

    async with asyncio.TaskGroup() as group:
        for number, (server, its_visits) in enumerate(by_server.items()):
            group.create_task(go_to(server, its_visits, folder / str(number)))
    return outcome
