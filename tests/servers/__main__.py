"""Measure servers, each directly and through a network that takes its time.

With ``--http``: what a client gets that learns from answers, where an outsider has the same key.

Prints the figures as they come, a table in Markdown at the end, and what could not be had.
"""

from __future__ import annotations

import argparse
import asyncio
import json
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
from .sharing import Share, Use, Uses, record, share_all
from .visits import Outcome, Tell, Visit, make

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


def table_of_uses(outcome: Uses) -> str:
    head = ["server", "limit", "served", "refused", "in a period", "outsider", "used"]
    head += ["first after a refusal", "as it should be"]
    lines = [head, ["---"] * len(head)]
    for each, use in outcome.uses.items():
        served, first = use.retries
        lines.append(
            [
                f"{each.server.name} {outcome.versions[each.server]}",
                each.shared.limit,
                *(f"{use.served}", f"{use.refused}", f"{use.most_refused}"),
                *(f"{use.outsider_served} of {len(use.outsider)}", f"{use.share:.1%}"),
                f"{served} of {first} served",
                verdict(each, use),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdict(each: Share, use: Use) -> str:
    if use.good:
        return "yes"
    busy = "; but the machine was too busy to say" if use.disturbed else ""
    return f"no: {each.shared.misses}" if each.shared.misses else f"NO{busy}"


def share_limits(servers: Sequence[Server], seconds: float, together: int, file: str) -> int:
    """Have clients and outsiders share limits, or record what the servers say into *file*.

    Returns:
        The status of the program.
    """
    shares = [Share(server, shared, "jitter") for server in servers for shared in server.shared]
    tell = teller()
    with tempfile.TemporaryDirectory() as folder:
        if file:
            answers = asyncio.run(record(shares, Path(folder), tell), debug=False)
            lines = ",\n".join(json.dumps(answer) for answer in answers)
            Path(file).write_text(f"[\n{lines}\n]\n", encoding="utf-8")
            return 0
        made = share_all(shares, Path(folder), seconds=seconds, together=together, tell=tell)
        outcome = asyncio.run(made, debug=False)
    print(table_of_uses(outcome))
    late = max((use.late / use.seconds for use in outcome.uses.values()), default=0.0)
    print(f"\nTimers were late for {late:.1%} of the time at most.")
    if any(not outcome.uses[each].disturbed for each in outcome.bad()):
        return 1
    if outcome.missing:
        print(f"\nSKIPPED: {len(outcome.missing)} servers, which could not be had.")
    return CANNOT_RUN if outcome.missing else 0


def teller() -> Tell:
    started = perf_counter()

    def tell(text: str) -> None:
        print(f"{perf_counter() - started:4.0f} s  {text}", file=sys.stderr, flush=True)

    return tell


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
    parser.add_argument("--http", action="store_true", help="share limits with an outsider instead")
    parser.add_argument("--seconds", type=float, default=16, help="for how long to share; 16")
    parser.add_argument("--record", metavar="FILE", default="", help="keep what servers say")
    options = parser.parse_args()
    wanted = (options.only or "").lower()
    servers = [server for server in ALL if wanted in server.name.lower()]
    if not servers:
        parser.error(f"no server is called {options.only!r}: {', '.join(s.name for s in ALL)}")

    if options.http or options.record:
        if not any(server.shared for server in servers):
            shared = ", ".join(server.name for server in ALL if server.shared)
            parser.error(f"{options.only!r} has no limit to share; these have one: {shared}")
        return share_limits(servers, options.seconds, options.together, options.record)
    if options.versions:
        missing = versions(servers)
    else:
        tell = teller()
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
