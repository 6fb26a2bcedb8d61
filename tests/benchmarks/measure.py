"""Samples: what one call costs, taken so that two of them may be divided by each other.

Contenders run in turn, again and again, and each round starts with another one::

    round 1    A  B  C        ratio of A to B in round 1 = A1 / B1
    round 2    B  C  A        ... in round 2             = A2 / B2
    round 3    C  A  B        reported: the median of the rounds' ratios, and their quartiles

What disturbs one contender (another process, the processor's clock) mostly disturbs its neighbours
of the same round as well, and the quotient loses it.
"""

import asyncio
import gc
import statistics
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

Samples: TypeAlias = Sequence[float]
"""One number per round: seconds or bytes, for one call."""

Contender: TypeAlias = Callable[[], Awaitable[float]] | str
"""Takes one sample when called; or says why there is none."""

Call: TypeAlias = Callable[[], Coroutine[Any, Any, object]]
"""Makes the coroutine of one call through a limiter."""

# Processor time leaves out what other processes take. Where it only ticks (Windows: 15.6 ms)
# a run of some milliseconds would read 0, so there it is the wall clock.
cpu_time: Callable[[], float] = (
    time.process_time
    if time.get_clock_info("process_time").resolution < 1e-5
    else time.perf_counter
)


class NoAnswer(Exception):
    """A contender did not come to an end, and the table is to say so."""


async def paired(
    contenders: Mapping[str, Callable[[], Awaitable[T]] | str], rounds: int
) -> dict[str, Sequence[T] | str]:
    """Take *rounds* samples of each contender, in turn; or say why there are none."""
    found: dict[str, list[T] | str] = {
        name: run if isinstance(run, str) else [] for name, run in contenders.items()
    }
    names = [name for name, samples in found.items() if not isinstance(samples, str)]
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            run, samples = contenders[name], found[name]
            if isinstance(run, str) or isinstance(samples, str):
                continue
            try:
                samples.append(await run())
            except NoAnswer as error:
                found[name] = str(error)
    return {**found}


@contextmanager
def undisturbed() -> Iterator[None]:
    """No collection of garbage within the block, and none left over from before."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def waiting(call: Call, count: int) -> list[asyncio.Task[object]]:
    """Start *count* tasks of *call* and let each come to the point where it waits."""
    tasks = [asyncio.create_task(call()) for _ in range(count)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks), "they were to wait, and did not"
    return tasks


async def cancelled(tasks: Sequence[asyncio.Task[object]]) -> float:
    """Cancel *tasks*, in the order given, and see each of them end: processor time of one."""
    start = cpu_time()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    cost = (cpu_time() - start) / len(tasks)
    assert all(task.cancelled() for task in tasks), "a cancelled call went on"
    return cost


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Gives a function that says how many bytes allocated within the block are still held."""

    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    gc.collect()
    tracemalloc.start()
    try:
        yield held
    finally:
        tracemalloc.stop()


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of the rounds' ratios, between their quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, ours: Samples, theirs: Samples) -> "Ratio":
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        if len(ratios) == 1:
            return cls(ratios[0], ratios[0], ratios[0])
        return cls(*statistics.quantiles(ratios, n=4, method="inclusive"))
