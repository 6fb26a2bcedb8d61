"""Quotas that several processes share: what a step of their store costs, and who gets how many.

The processes are those of `tests/sqlite_workers.py`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .peers import NOT_MEASURED
from .rows import Bench, Row

ROOT = Path(__file__).parents[2]

BARE = "the bare transaction"


def started(what: str, path: str, seconds: float, count: int) -> list[list[list[Any]]]:
    """What *count* processes say that work on a file at the same time."""
    command = [sys.executable, "-m", "tests.sqlite_workers", what, path, str(seconds)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b'["ready"]\n'
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    said = [process.communicate(timeout=seconds + 60)[0] for process in processes]
    assert not any(process.returncode for process in processes)
    return [[json.loads(line) for line in each.splitlines()] for each in said]


async def sqlite_alone(bench: Bench) -> list[Row]:
    """A step on one limit, nobody else at the file."""
    with tempfile.TemporaryDirectory() as folder:
        ((*samples,),) = started("compare", f"{folder}/quota.db", bench.pick(5.0, 0.2), 1)
    bare, ours, step = map(list, zip(*samples, strict=True))
    return [
        Row("SQLiteStore: a step on one limit", "us", ours, BARE, bare, 1.5, {}),
        Row("the step and its text alone", "us", step, BARE, bare, None, {}),
    ]


async def sqlite_crowded(bench: Bench) -> list[Row]:
    """Four processes that do nothing but ask for steps of one file."""
    slowest, fastest, waits = [], [], []
    seconds, rounds = bench.pick((3.0, 5), (0.2, 1))
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            said = started("saturate", f"{folder}/quota.db", seconds, 4)
        calls = [each[0][0] for each in said]
        slowest.append(seconds / min(calls))
        fastest.append(seconds / max(calls))
        waits.append(max(each[0][1] for each in said))
    return [
        Row("4 processes saturate a file: the slowest", "us", slowest, "fastest", fastest, 1.5, {}),
        Row("the longest wait of any of them", "ms", waits, "nobody", NOT_MEASURED, None, {}, 0.1),
    ]
