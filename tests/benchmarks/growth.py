"""What one event costs among few and among many that wait. No clock is asked.

Counted are the steps that the package takes, lines of code and calls, so that the count is the same
on a busy machine. A function written in C is part of its line (the sorting of a list, the moving of
its entries), and the steps of the event loop are left out.

The slope is that of a line through the first and the last count, both scales logarithmic: 0 is
flat, 1 is linear, 2 is quadratic. It may not be steeper than promised.
"""

import asyncio
import gc
import math
import os
import random
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from types import FrameType
from typing import Any, TypeAlias

import async_throttle
from async_throttle import LimitPool, LimitSet, SlidingWindow, Throttle, Throttles, testing

from .rows import Bench, Gate, Growth
from .waits import through

PACKAGE = os.path.dirname(async_throttle.__file__)
HOUR = 3600.0

Counts: TypeAlias = dict[str, int]
"""The steps of each event."""

Crowd: TypeAlias = Callable[[int], Coroutine[Any, Any, Counts]]
"""So many wait; then one event follows the other."""

Newcomer: TypeAlias = Callable[..., Gate]
"""Makes a call that has to wait, with the options given."""

FLAT = 0.15
"""Twice as much among a hundred times as many: an event looks at O(log n) of those who wait."""

LINEAR = 1.05
"""An event looks at each of those who wait, once."""

SORTED = 1.2
"""An event puts all of those who wait into order."""


@contextmanager
def counted(counts: Counts, event: str) -> Iterator[None]:
    """Count the steps that the package takes within the block, also in other tasks."""
    steps = 0

    def enter(frame: FrameType, what: str, about: object) -> Any:
        source = frame.f_code.co_filename
        return step if source.startswith(PACKAGE) and source != testing.__file__ else None

    def step(frame: FrameType, what: str, about: object) -> Any:
        nonlocal steps
        steps += what in ("call", "line")
        return step

    former = sys.gettrace()
    gc.disable()  # finalizers would come in at any moment
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(former)
        gc.enable()
        counts[event] = steps


async def all_ran() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


async def come(*gates: Gate) -> list[asyncio.Task[object]]:
    tasks = [asyncio.create_task(through(gate)()) for gate in gates]
    await all_ran()
    return tasks


async def usual(
    counts: Counts, newcomer: Newcomer, limiter: Any, among: asyncio.Task[object], patience: float
) -> None:
    """What happens at every limiter.

    Args:
        limiter: who is asked.
        among: a waiter in the middle.
        patience: a timeout that is longer than all that is queued takes.
    """
    gate = newcomer()
    with counted(counts, "arrival"):
        await come(gate)
    with counted(counts, "cancellation"):
        among.cancel()
        await all_ran()
    await come(newcomer(timeout=patience))  # somebody has left, so it may look at all
    gate = newcomer(timeout=patience)
    with counted(counts, "arrival, long timeout"):
        await come(gate)
    with counted(counts, "try_acquire(), refused"):
        answer = limiter.try_acquire()
    assert not getattr(answer, "successful", answer)


def asking(counts: Counts, limiter: Any) -> None:
    with counted(counts, "delay()"):
        limiter.delay()
    with counted(counts, "delay() again"):
        limiter.delay()


async def granting(counts: Counts, head: asyncio.Task[object]) -> None:
    """*head* is due after 0.01 s."""
    await asyncio.sleep(0.009)
    with counted(counts, "grant"):
        await asyncio.sleep(0.002)
        await all_ran()
    assert head.done()


async def expiring(counts: Counts, task: asyncio.Task[object]) -> None:
    """*task* has a timeout of 0.02 s."""
    await asyncio.sleep(0.019)
    with counted(counts, "timeout"):
        await asyncio.sleep(0.002)
        await all_ran()
    assert isinstance(task.exception(), TimeoutError)


# --- crowds ---------------------------------------------------------------------------------------


async def tokens(of: Callable[[Throttle], Newcomer], n: int) -> Counts:
    throttle = Throttle(1, initial=0.99)
    newcomer = of(throttle)
    counts: Counts = {}
    tasks = await come(*(newcomer() for _ in range(n)))
    await granting(counts, tasks[0])
    await usual(counts, newcomer, throttle, tasks[n // 2], 20 * n)
    asking(counts, throttle)
    return counts


async def behind_one_slot(of: Callable[[Throttle], Newcomer], n: int) -> Counts:
    throttle = Throttle(math.inf, 1)
    newcomer = of(throttle)
    counts: Counts = {}
    assert throttle.try_acquire()
    tasks = await come(*(newcomer() for _ in range(n)))
    await usual(counts, newcomer, throttle, tasks[n // 2], HOUR)
    asking(counts, throttle)
    await expiring(counts, *await come(newcomer(timeout=0.02)))
    with counted(counts, "release"):
        throttle.release()
        await asyncio.sleep(0)
    return counts


def alike(throttle: Throttle) -> Newcomer:
    return lambda **how: throttle(1, **how)


def of_all_priorities(throttle: Throttle) -> Newcomer:
    """No two of them alike, and in no order."""
    numbers = count()
    return lambda **how: throttle(1, priority=next(numbers) * 1999 % 4099, **how)


def of_a_pool(throttle: Throttle) -> Newcomer:
    return LimitPool([LimitSet(Throttle(1e9), throttle) for _ in range(8)])


def of_one_set(throttle: Throttle) -> Newcomer:
    return LimitSet(Throttle(1e9), Throttle(1e9), throttle)


def of_a_set_each(throttle: Throttle) -> Newcomer:
    return lambda **how: LimitSet(throttle, Throttle(20, period=60))(**how)


async def pool(accounts: int, n: int) -> Counts:
    members = [LimitSet(Throttle(1e9), concurrency=1) for _ in range(accounts)]
    pool = LimitPool(members)
    counts: Counts = {}
    held = [member.try_acquire() for member in members]
    tasks = await come(*(pool() for _ in range(n)))
    await usual(counts, pool, pool, tasks[n // 2], HOUR)
    asking(counts, pool)
    await expiring(counts, *await come(pool(timeout=0.02)))
    with counted(counts, "release"):
        held[0].release()
        await asyncio.sleep(0)
    return counts


async def chats(apart: float, n: int, regions: int = 0, **window: Any) -> Counts:
    """The bot of the README: a throttle for each chat, and one for all of them (and for regions).

    Args:
        apart: the seconds from one chat's token to the next chat's.
        window: how the throttle for all differs.
    """
    everybody = Throttle(30, initial=15, **window)
    shared = [Throttle(30) for _ in range(regions)]
    chats = Throttles[float, Throttle](lambda seconds: Throttle(1, period=seconds, initial=0))
    numbers = count()
    counts: Counts = {}

    def message(seconds: float, **how: Any) -> Gate:
        """To the chat that has its token after so many *seconds*."""
        others = [shared[next(numbers) % regions]] if shared else []
        return LimitSet(everybody, *others, chats[seconds])(**how)

    def newcomer(**how: Any) -> Gate:
        return message(HOUR + next(numbers), **how)

    tasks = await come(*(message(0.1 + k * apart) for k in range(n)))
    last = LimitSet(everybody, chats[HOUR])
    leaving = (task for task in reversed(tasks) if not task.done())

    async def forgotten() -> None:
        """What was foreseen is dropped, which takes as long as what made it."""
        next(leaving).cancel()
        await all_ran()

    await usual(counts, newcomer, last, tasks[n // 2], 2 * HOUR * n)
    behind, idle = message(0.1), LimitSet(everybody, Throttle(20, period=60))()
    await forgotten()
    with counted(counts, "arrival behind another"):
        await come(behind)
    with counted(counts, "try_acquire(), granted"):
        assert everybody.try_acquire()
    with counted(counts, "arrival, granted"):
        (passed,) = await come(idle)
    assert passed.done()
    await granting(counts, *await come(message(0.01)))
    asking(counts, last)
    middle = 0.1 + (n // 2 + 0.5) * apart
    amid = message(middle, timeout=middle + 0.3)
    with counted(counts, "arrival amid others, close timeout"):
        await come(amid)
    close: Gate = LimitSet(everybody, *shared[:1], Throttle(20, period=60))(timeout=0.3)
    await forgotten()
    with counted(counts, "arrival, close timeout"):
        await come(close)
    close = newcomer(timeout=HOUR + 2 * next(numbers))
    with counted(counts, "the same, also for its chat"):
        await come(close)
    late = await come(message(0.005, timeout=0.02))
    chats[0.005].pause(1)
    await expiring(counts, *late)
    chats[0.1].pause(1)  # what has changed since the last look is looked at
    with counted(counts, "pause() of a chat"):
        chats[0.1].pause(2)
    with counted(counts, "capacity of a chat"):
        chats[0.1].capacity = 2
    with counted(counts, "pause() of all"):
        everybody.pause(1)
    return counts


async def near_full_load(n: int) -> Counts:
    """The same bot, where all take nine tenths of what there is. Chats get their tokens at random.

    Each caller has a timeout that is not much longer than it has to wait.
    """
    everybody = Throttle(30)
    number = random.Random(0)
    counts: Counts = {}

    def message() -> Gate:
        seconds = 1 + number.random() * n / (0.9 * 30)
        return LimitSet(everybody, Throttle(1, period=seconds, initial=0))(timeout=seconds + 3)

    await come(*(message() for _ in range(n)))
    gates = [message() for _ in range(10)]
    with counted(counts, "ten arrivals, close timeouts"):
        await come(*gates)
    await asyncio.sleep(1 + 0.2 * n / 27)  # a fifth of them have gone
    gates = [message() for _ in range(10)]
    with counted(counts, "the same, later"):
        await come(*gates)
    return counts


CROWDS: Mapping[str, Crowd] = {
    "a throttle without tokens": partial(tokens, alike),
    "a throttle without slots": partial(behind_one_slot, alike),
    "priorities, all different": partial(behind_one_slot, of_all_priorities),
    "priorities, no tokens": partial(tokens, of_all_priorities),
    "a set without slots": partial(behind_one_slot, of_one_set),
    "sets that share a slot": partial(behind_one_slot, of_a_set_each),
    "a pool of 8 sets": partial(pool, 8),
    "a pool of 8 sets, no tokens": partial(tokens, of_a_pool),
    "a pool of n sets": lambda n: pool(n, 10),
    "chats, due over an hour": lambda n: chats(HOUR / n, n),
    "chats, due 29.9 a second": lambda n: chats(1 / 29.9, n),
    "chats in 5 regions": lambda n: chats(HOUR / n, n, 5),
    "chats, a window for all": lambda n: chats(HOUR / n, n, algorithm=SlidingWindow),
    "chats, near full load": near_full_load,
}

SLOW = ("a pool of n sets",)
"""Crowds a tenth of the size of the others."""

PROMISED: Mapping[str, float] = {
    "arrival": FLAT,
    "arrival, long timeout": FLAT,
    "arrival amid others, close timeout": FLAT,
    "arrival, close timeout": FLAT,
    "the same, also for its chat": FLAT,
    "ten arrivals, close timeouts": FLAT,
    "the same, later": FLAT,
    "arrival behind another": FLAT,
    "arrival, granted": FLAT,
    "try_acquire(), granted": FLAT,
    "try_acquire(), refused": FLAT,
    "cancellation": FLAT,
    "timeout": FLAT,
    "grant": FLAT,
    "release": FLAT,
    "delay()": SORTED,  # somebody has left since the last question
    "delay() again": FLAT,
    "pause() of a chat": FLAT,
    "capacity of a chat": FLAT,
    "pause() of all": LINEAR,
}
"""The steepest slope of each event."""

EXCEPT: Mapping[str, Mapping[str, float]] = {
    "a throttle without tokens": {"delay()": FLAT},
    "chats, due 29.9 a second": dict.fromkeys(  # each is a claim that the newcomer could postpone
        (
            *("arrival, granted", "try_acquire(), granted", "arrival, close timeout"),
            "arrival amid others, close timeout",
            *("pause() of a chat", "capacity of a chat"),
        ),
        LINEAR,
    ),
    "chats, a window for all": {"arrival amid others, close timeout": SORTED},  # played anew
    "a pool of n sets": dict.fromkeys(PROMISED, LINEAR) | {"delay()": SORTED},
}
"""The same where it differs."""


NOT_YET: Mapping[str, Sequence[str]] = {
    "arrival amid others, close timeout": ["chats in 5 regions"],
}
"""In which crowds an event is steeper than promised, and may be so until that is mended."""


async def growth(bench: Bench) -> list[Growth]:
    sizes = bench.pick((30, 300, 3_000), (30, 1_000))
    rows = []
    for name, crowd in CROWDS.items():
        found = {}
        for size in sizes:
            n = size // 10 if name in SLOW else size
            found[n] = await asyncio.to_thread(lambda: testing.run(crowd(n)))  # noqa: B023
        promised = {**PROMISED, **EXCEPT.get(name, {})}
        rows += [
            Growth(
                name,
                event,
                {n: counts[event] for n, counts in found.items()},
                promised[event],
                not_yet=name in NOT_YET.get(event, ()),
            )
            for event in next(iter(found.values()))
        ]
    return rows
