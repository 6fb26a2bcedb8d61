"""`python -m tests.benchmarks`: measure, and print the tables."""

import argparse
import asyncio
import sys
import time

from . import rows, tables
from .peers import Peers


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=rows.__doc__)
    parser.add_argument("--quick", action="store_true", help="every row, small and few times")
    parser.add_argument("--markdown", action="store_true", help="print the tables for the README")
    parser.add_argument(
        "--offline", action="store_true", help="leave out async-throttle 1.0, which pip must fetch"
    )
    names = [work.__name__ for work in rows.ALL]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="groups of rows")
    given = parser.parse_args()

    peers = Peers(offline=given.offline)
    bench = rows.Bench(peers, given.quick)
    found: list[rows.Row] = []
    for work in rows.ALL:
        if work.__name__ not in given.only:
            continue
        start = time.perf_counter()
        found += asyncio.run(work(bench))
        print(f"{work.__name__}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
    print(tables.report(found, peers, markdown=given.markdown, quick=given.quick))


if __name__ == "__main__":
    main()
