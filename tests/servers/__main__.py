"""Measure servers, each directly and through a network that takes its time.

Prints the figures as they come, a table in Markdown at the end, and what could not be had.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import get_args

from . import ALL
from .programs import Missing
from .saturate import Counts, Way
from .server import Server
from .visits import Outcome, Visit, make

WAYS: list[tuple[Counts, Way]] = [(c, w) for w in get_args(Way) for c in get_args(Counts)]

CANNOT_RUN = 2
"""The status where something could not be had."""


def table(servers: Sequence[Server], outcome: Outcome) -> str:
    head = ["server", "limit", *(f"{counts}, {way}" for counts, way in WAYS)]
    lines = [head, ["---"] * len(head)]
    for server in servers:
        if server in outcome.missing:
            continue
        for twin in server.twins:
            figures = [outcome.figures[Visit(server, twin, *way)] for way in WAYS]
            cells = [f"{each.served} / {each.refused}, {each.share:.1%}" for each in figures]
            lines.append([f"{server.name} {outcome.versions[server]}", twin.limit, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def versions(servers: Sequence[Server]) -> int:
    """Fetch what is not there yet, print what there is, and say how many are missing."""
    missing = 0
    for server in servers:
        try:
            print(f"{server.name} {server.program().version}")
        except Missing as why:
            missing += 1
            print(f"{server.name}: MISSING: {why}")
    return missing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__)
    parser.add_argument("--only", metavar="NAME", help="servers whose name has this in it")
    parser.add_argument("--periods", type=int, default=8, help="for how long to ask; 8")
    parser.add_argument("--together", type=int, default=12, help="how many clients at once; 12")
    parser.add_argument("--versions", action="store_true", help="fetch them, and measure nothing")
    options = parser.parse_args()
    wanted = (options.only or "").lower()
    servers = [server for server in ALL if wanted in server.name.lower()]
    if not servers:
        parser.error(f"no server is called {options.only!r}: {', '.join(s.name for s in ALL)}")

    if options.versions:
        missing = versions(servers)
    else:
        started = perf_counter()

        def tell(text: str) -> None:
            print(f"{perf_counter() - started:4.0f} s  {text}", file=sys.stderr, flush=True)

        with tempfile.TemporaryDirectory() as folder:
            visits = [Visit(s, twin, *way) for s in servers for twin in s.twins for way in WAYS]
            made = make(
                visits,
                Path(folder),
                periods=options.periods,
                together=options.together,
                tell=tell,
            )
            # Not in debug mode, which takes milliseconds per request.
            outcome = asyncio.run(made, debug=False)
        print("Served / refused, share of the bound of calls that count to their end.\n")
        print(table(servers, outcome))
        late = max((each.late / each.seconds for each in outcome.figures.values()), default=0.0)
        print(f"\nTimers were late for {late:.1%} of the time of a client at most.")
        missing = len(outcome.missing)
    if missing:
        print(f"\nSKIPPED: {missing} of {len(servers)} servers, which could not be had.")
    return CANNOT_RUN if missing else 0


if __name__ == "__main__":
    sys.exit(main())
