"""Real processes that share a quota: what all of them did, put together.

Nothing here depends on how long anything takes, but for what is said: a machine that is busy makes
calls go later, and never sooner.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import servers_redis

PROGRAM = Path(__file__).parent / "store_processes.py"
PATIENCE = 60


@pytest.fixture(params=["sqlite", "valkey", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where the store is."""
    if request.param == "sqlite":
        yield str(tmp_path / "quota.db")
        return
    server = servers_redis.started(request.param)
    try:
        yield server.url
    finally:
        server.stop()


def begin(*args: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def all_of(workers: list[subprocess.Popen[str]]) -> list[list[tuple[float, float]]]:
    """What each of *workers* did."""
    told = []
    for worker in workers:
        out, _ = worker.communicate(timeout=PATIENCE)
        assert worker.returncode == 0
        told.append([(began, ended) for began, ended in json.loads(out)])
    return told


def test_together_they_keep_the_rate(place: str) -> None:
    made = json.dumps({"capacity": 100, "burst": 10})
    told = all_of([begin("work", place, 1, 60, 0, made) for _ in range(2)])
    began = sorted(start for each in told for start, _ in each)
    assert [len(each) for each in told] == [60, 60]
    for n, first in enumerate(began):
        for m in range(n, len(began)):
            # A grace of 20 ms, and the 5 ms by which a late timer is paid back.
            assert m - n + 1 <= 10 + 100 * (began[m] - first + 0.025) + 1
    assert began[-1] - began[0] >= 1.1 - 0.025


def test_together_they_hold_no_more_slots_than_there_are(place: str) -> None:
    made = json.dumps({"capacity": 1e6, "concurrency": 3})
    told = all_of([begin("work", place, 10, 8, 0.002, made) for _ in range(2)])
    assert [len(each) for each in told] == [80, 80]
    events = sorted(
        change for each in told for began, ended in each for change in ((began, 1), (ended, -1))
    )
    held = 0
    for _, change in events:
        held += change
        assert held <= 3


def test_what_a_process_held_that_was_killed_comes_back(place: str) -> None:
    made = json.dumps({"capacity": 1e6, "concurrency": 1, "ttl": 1.5})
    holder = begin("hold", place, made)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "holds\n"
    waiter = begin("work", place, 1, 1, 0, made)
    with pytest.raises(subprocess.TimeoutExpired):
        waiter.wait(2.5)  # it is heard of, so it keeps its slot
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert [len(each) for each in all_of([waiter])] == [1]
