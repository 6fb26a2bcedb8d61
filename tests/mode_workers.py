"""What processes, tasks and actors do with limiters that were handed to them: test_store_modes.py.

``python tests/mode_workers.py WHAT ARGUMENTS`` runs a program of its own, which prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import sys
import time
from typing import Any

from async_throttle import limits as concurry
from async_throttle.limits import CallLimit, RateLimit, RateLimitAlgorithm, ResourceLimit
from async_throttle.stores import modes

Span = tuple[float, float]


def tokens(capacity: float, key: str = "tokens") -> RateLimit:
    """A limit that does not come back within a test."""
    return RateLimit(key, 3600, RateLimitAlgorithm.TokenBucket, capacity)


def api_of(calls: int, mode: str = "process", **options: Any) -> concurry.LimitSet:
    """The set of concurry's documents."""
    limits = [
        CallLimit(3600, RateLimitAlgorithm.SlidingWindow, calls),
        tokens(1_000),
        ResourceLimit("connections", 3),
    ]
    return concurry.LimitSet(limits=limits, shared=True, mode=mode, **options)


def tries(api: Any, number: int = 5, requested: Any = None) -> int:
    """How many of so many tries are granted; each waits for slots that others have."""
    granted = 0
    for _ in range(number):
        acquisition = api.try_acquire(requested=requested)
        if acquisition.successful:
            with acquisition:
                granted += 1
    return granted


def consumed(throttle: Any, number: int = 5) -> int:
    """How many tokens are there, of so many."""
    return sum(throttle.try_consume() for _ in range(number))


def weights(limiter: Any, number: int) -> int:
    """How many calls a limiter grants at once of so many, of any kind."""
    return sum(bool(limiter.try_acquire()) for _ in range(number))


def held(api: Any, number: int, seconds: float) -> list[Span]:
    """The spans in which calls have held a connection."""
    spans = []
    for _ in range(number):
        with api.acquire(requested={"connections": 1}):
            begin = time.monotonic()
            time.sleep(seconds)
            spans.append((begin, time.monotonic()))
    return spans


async def _held(throttle: Any, number: int, seconds: float) -> list[Span]:
    spans = []

    async def hold() -> None:
        async with throttle:
            begin = time.time()
            await asyncio.sleep(seconds)
            spans.append((begin, time.time()))

    await asyncio.gather(*[hold() for _ in range(number)])
    return spans


def held_in_a_loop(throttle: Any, number: int, seconds: float) -> list[Span]:
    """The same, of an event loop."""
    return asyncio.run(_held(throttle, number, seconds))


def regions(pool: Any, number: int) -> list[str]:
    """Which sets of a pool grant calls."""
    granted = []
    for _ in range(number):
        acquisition = pool.try_acquire()
        if not acquisition.successful:  # or others were at the file for as long as a try waits
            acquisition = pool.try_acquire()
        if acquisition.successful:
            with acquisition:
                granted.append(acquisition.config["region"])
    return granted


def into(connection: Any, work: Any, *args: Any) -> None:
    """Tell what comes of some work."""
    connection.send(work(*args))


def hold_for_ever(api: Any, connection: Any) -> None:
    """Hold a connection until somebody kills this process."""
    acquisition = api.acquire(requested={"connections": 1})
    connection.send(os.getpid() if acquisition.successful else None)
    signal.pause()


# -- programs -----------------------------------------------------------------------------


def folder_of(api: Any) -> str:
    """Where the file of a set lies."""
    path: str = api["tokens"].throttle.store.path
    return os.path.dirname(path)


def outlived(seconds: str) -> None:
    """A program that ends before a process that it has started."""
    api = concurry.LimitSet([tokens(10)], shared=True, mode="process")
    say(api.try_acquire().successful, folder_of(api))
    ours, theirs = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("spawn")
    context.Process(target=_outlive, args=(api, float(seconds), theirs)).start()
    ours.recv()
    modes._leave(folder_of(api), modes._used[folder_of(api)]._users)
    os._exit(0)  # a program that ends as it should waits for its processes


def _outlive(api: Any, seconds: float, ready: Any) -> None:
    ready.send(None)
    time.sleep(seconds)
    folder = folder_of(api)
    say(os.path.exists(folder), os.stat(folder).st_mode, tries(api, 20))


def killed() -> None:
    """A program that is killed."""
    api = concurry.LimitSet([tokens(10)], shared=True, mode="process")
    say(folder_of(api), alone=True)
    os.kill(os.getpid(), signal.SIGKILL)


def ended() -> None:
    """A program that ends as it should."""
    api = concurry.LimitSet([tokens(10)], shared=True, mode="process")
    granted = tries(api, 3)
    say(granted, folder_of(api))
    say(os.path.exists(folder_of(api)), alone=True)


def say(*what: Any, alone: bool = False) -> None:
    """Print a line of JSON."""
    print(json.dumps(what[0] if alone else what), flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
