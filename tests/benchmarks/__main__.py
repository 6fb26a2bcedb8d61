"""`python -m tests.benchmarks`: measure, and print the tables."""

import argparse
import asyncio
import sys
import time

from . import __doc__ as about
from . import calls, crowds, growth, http, limits, making, shut, stores, tables, waits, windows
from .peers import (
    AIOLIMITER,
    ANYIO,
    ASYNCIO_THROTTLE,
    FORMER,
    LIMITS,
    PYRATE_LIMITER,
    SELF_LIMITERS,
    SEMAPHORE,
    THROTTLED,
    THROTTLER,
    Peers,
)
from .rows import Bench, Chapter, Finding, Growth

CHAPTERS = (
    Chapter(
        "Throttle",
        (
            calls.uncontended,
            calls.weighing,
            calls.settling,
            calls.to_the_end,
            waits.crowded,
            waits.rate_limited,
            waits.punctual,
            shut.cancelling,
            shut.remembering,
            shut.forgetting,
            windows.crossing,
            windows.filling,
            windows.merging,
            calls.heavy,
            crowds.ranking,
            making.making,
            making.importing,
        ),
        (SEMAPHORE, AIOLIMITER, ASYNCIO_THROTTLE, THROTTLER, ANYIO, FORMER),
    ),
    Chapter(
        "LimitSet",
        (
            limits.concurry,
            crowds.passing,
            crowds.broadcasting,
            crowds.timing_out,
            crowds.timing_out_soon,
            crowds.queueing,
            making.making_again,
        ),
        (),
    ),
    Chapter("Crowds", (growth.growth,), ()),
    Chapter("HTTP", (http.requesting, http.keeping_open), ()),
    Chapter(
        "Stores",
        (
            stores.redis_alone,
            stores.redis_crowded,
            stores.redis_rate,
            stores.redis_slots,
            stores.redis_memory,
            stores.sqlite_throttle,
            stores.sqlite_alone,
            stores.sqlite_crowded,
        ),
        (LIMITS, PYRATE_LIMITER, THROTTLED, SELF_LIMITERS),
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=about)
    parser.add_argument("--quick", action="store_true", help="every row, small and few times")
    parser.add_argument(
        "--markdown", action="store_true", help="print the tables of README.md, here"
    )
    parser.add_argument(
        "--offline", action="store_true", help="leave out async-throttle 1.0, which pip must fetch"
    )
    names = [work.__name__ for chapter in CHAPTERS for work in chapter.works]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="groups of rows")
    given = parser.parse_args()

    peers = Peers(offline=given.offline)
    bench = Bench(peers, given.quick)
    found: list[tuple[Chapter, list[Finding]]] = []
    for chapter in CHAPTERS:
        findings: list[Finding] = []
        for work in chapter.works:
            if work.__name__ not in given.only:
                continue
            start = time.perf_counter()
            findings += asyncio.run(work(bench))
            print(f"{work.__name__}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
        if findings:
            found.append((chapter, findings))
    print(tables.report(found, peers, markdown=given.markdown, quick=given.quick))
    steep = [
        f"{finding.event} among {finding.crowd}"
        for _, findings in found
        for finding in findings
        if isinstance(finding, Growth) and not (finding.kept or finding.not_yet)
    ]
    if steep:
        sys.exit(f"grows faster than promised: {', '.join(steep)}")


if __name__ == "__main__":
    main()
