"""What one call costs to which nobody is in the way."""

from collections.abc import Awaitable, Callable
from typing import Any

from async_throttle import FixedWindow, SlidingWindow, Throttle

from .measure import Contender, cpu_time, undisturbed
from .peers import AIOLIMITER, ANYIO, ASYNCIO_THROTTLE, FORMER, SEMAPHORE, THROTTLER
from .rows import SLOTS, Bench, Gate, Row, target

START = "counts='start'"


async def enter(gate: Gate, calls: int) -> float:
    """Processor time of one `async with gate`; the samples that follow are its variants."""
    with undisturbed():
        start = cpu_time()
        for _ in range(calls):
            async with gate:
                pass
        return (cpu_time() - start) / calls


async def enter_weighing(gate: Callable[[float], Gate], weight: float, calls: int) -> float:
    with undisturbed():
        start = cpu_time()
        for _ in range(calls):
            async with gate(weight):
                pass
        return (cpu_time() - start) / calls


async def enter_and_settle(throttle: Throttle, weight: float, actual: float, calls: int) -> float:
    with undisturbed():
        start = cpu_time()
        for _ in range(calls):
            async with throttle(weight) as lease:
                lease.settle(actual)
        return (cpu_time() - start) / calls


async def acquire_weighing(limiter: Any, weight: float, calls: int) -> float:
    """For aiolimiter, whose `async with` takes no weight."""
    with undisturbed():
        start = cpu_time()
        for _ in range(calls):
            await limiter.acquire(weight)
        return (cpu_time() - start) / calls


class EmptyBlock:
    """The least that `async with` costs with methods that are coroutine functions."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *error: object) -> None: ...


async def full(sample: Callable[[Throttle], Awaitable[float]], **options: Any) -> float:
    """A token comes back each nanosecond, so that every call finds the bucket full."""
    throttle = Throttle(1e9, SLOTS, **options)
    cost = await sample(throttle)
    assert throttle.level == throttle.burst, f"not full: {throttle!r}"
    assert throttle.active == throttle.waiting == 0
    return cost


async def half_full(
    sample: Callable[[Throttle], Awaitable[float]], burst: float = 1_000_000, **options: Any
) -> float:
    """The level only sinks during the sample, so that its two ends vouch for the time between."""
    throttle = Throttle(1_000, SLOTS, burst=burst, initial=burst / 2, **options)
    assert throttle.level < burst * 0.51
    cost = await sample(throttle)
    assert burst * 0.25 < throttle.level < burst * 0.51, f"not half full: {throttle!r}"
    assert throttle.active == throttle.waiting == 0
    return cost


async def uncontended(bench: Bench) -> list[Row]:
    calls, rounds = bench.pick((20_000, 41), (300, 3))
    group = await bench.group(
        rounds,
        {
            "empty": lambda: enter(EmptyBlock(), calls),
            "full": lambda: full(lambda throttle: enter(throttle, calls)),
            "half": lambda: half_full(lambda throttle: enter(throttle, calls)),
        },
        {
            SEMAPHORE: lambda lib: enter(lib.Semaphore(SLOTS), calls),
            AIOLIMITER: lambda lib: enter(lib.AsyncLimiter(1e9, 1), calls),
            ASYNCIO_THROTTLE: lambda lib: enter(lib.Throttler(10**9, 0.001), calls),
            THROTTLER: lambda lib: enter(lib.Throttler(1_000, 1e-6), calls),
            ANYIO: lambda lib: enter(lib.CapacityLimiter(SLOTS), calls),
            FORMER: lambda lib: enter(lib.Throttle(1e9, SLOTS), calls),
        },
    )
    asked = target(0.60, 0.75)
    return [
        group.row("async with throttle, bucket full", "ns", "full", SEMAPHORE, asked),
        group.row("async with throttle, bucket half full", "ns", "half", SEMAPHORE, asked),
        group.row("(an empty async with, for comparison)", "ns", "empty", SEMAPHORE, None),
    ]


async def to_the_end(bench: Bench) -> list[Row]:
    calls, rounds = bench.pick((20_000, 41), (300, 3))
    group = await bench.group(
        rounds,
        {
            START: lambda: full(lambda throttle: enter(throttle, calls)),
            "full": lambda: full(lambda throttle: enter(throttle, calls), counts="end"),
            f"{START}, half full": lambda: half_full(lambda throttle: enter(throttle, calls)),
            "half": lambda: half_full(lambda throttle: enter(throttle, calls), counts="end"),
        },
    )
    half = f"{START}, half full"
    return [
        group.row("async with throttle, counts='end', bucket full", "ns", "full", START, 1.3),
        group.row("async with throttle, counts='end', half full", "ns", "half", half, 1.3),
    ]


async def weighing(bench: Bench) -> list[Row]:
    calls, rounds = bench.pick((20_000, 41), (300, 3))
    group = await bench.group(
        rounds,
        {
            "full": lambda: full(lambda throttle: enter_weighing(throttle, 5, calls)),
            "half": lambda: half_full(lambda throttle: enter_weighing(throttle, 5, calls)),
        },
        {
            SEMAPHORE: lambda lib: enter(lib.Semaphore(SLOTS), calls),
            AIOLIMITER: lambda lib: acquire_weighing(lib.AsyncLimiter(1e9, 1), 5, calls),
            FORMER: lambda lib: enter_weighing(lib.Throttle(1e9, SLOTS), 5, calls),
        },
        otherwise="no weights",
    )
    asked = target(1.3, 1.45)
    return [
        group.row("async with throttle(5), bucket full", "ns", "full", SEMAPHORE, asked),
        group.row("async with throttle(5), bucket half full", "ns", "half", SEMAPHORE, asked),
    ]


async def settling(bench: Bench) -> list[Row]:
    calls, rounds = bench.pick((20_000, 41), (300, 3))
    group = await bench.group(
        rounds,
        {
            "full": lambda: full(lambda throttle: enter_and_settle(throttle, 5, 4, calls)),
            "half": lambda: half_full(lambda throttle: enter_and_settle(throttle, 5, 4, calls)),
        },
        {SEMAPHORE: lambda lib: enter(lib.Semaphore(SLOTS), calls)},
        otherwise="no refunds",
    )
    asked = target(1.6, 1.7)
    return [
        group.row("... as lease, lease.settle(4), bucket full", "ns", "full", SEMAPHORE, asked),
        group.row("... as lease, lease.settle(4), half full", "ns", "half", SEMAPHORE, asked),
    ]


async def heavy(bench: Bench) -> list[Row]:
    """A weight is a number to add, whatever its size, and never a number of things to store."""
    calls, rounds = bench.pick((20_000, 21), (300, 3))

    def window(algorithm: type[SlidingWindow] | type[FixedWindow], weight: float) -> Contender:
        return lambda: enter_weighing(Throttle(1e12, SLOTS, algorithm=algorithm), weight, calls)

    def bucket(weight: float) -> Contender:
        return lambda: half_full(lambda throttle: enter_weighing(throttle, weight, calls), 1e9)

    group = await bench.group(
        rounds,
        {
            "TokenBucket, weight 1": bucket(1),
            "TokenBucket": bucket(10_000),
            "SlidingWindow, weight 1": window(SlidingWindow, 1),
            "SlidingWindow": window(SlidingWindow, 10_000),
            "FixedWindow, weight 1": window(FixedWindow, 1),
            "FixedWindow": window(FixedWindow, 10_000),
        },
        {
            AIOLIMITER: lambda lib: acquire_weighing(lib.AsyncLimiter(1e12, 1), 10_000, calls),
            FORMER: lambda lib: enter_weighing(lib.Throttle(1e12, SLOTS), 10_000, calls),
        },
        otherwise="no weights",
    )
    return [
        group.row(f"throttle(10_000), {name}", "ns", name, f"{name}, weight 1", 1.1)
        for name in ("TokenBucket", "SlidingWindow", "FixedWindow")
    ]
