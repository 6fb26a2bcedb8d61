"""What waiting costs, and how late it ends."""

import asyncio
import math
import time
from collections.abc import Callable

from async_throttle import Throttle

from .measure import Call, cpu_time, undisturbed
from .peers import AIOLIMITER, ANYIO, ASYNCIO_THROTTLE, FORMER, SEMAPHORE, THROTTLER
from .rows import SLOTS, Bench, Gate, Row, target


def through(gate: Gate) -> Call:
    """A call that enters *gate*, does nothing there, and leaves."""

    async def call() -> None:
        async with gate:
            pass

    return call


def through_with_a_step(gate: Gate) -> Call:
    """A call that stays within *gate* for one step of the loop, so that others find it taken."""

    async def call() -> None:
        async with gate:
            await asyncio.sleep(0)

    return call


async def gathered(call: Call, count: int, clock: Callable[[], float] = cpu_time) -> float:
    """Seconds per call of *count* tasks that are started at once."""
    with undisturbed():
        start = clock()
        await asyncio.gather(*(call() for _ in range(count)))
        return (clock() - start) / count


async def crowded(bench: Bench) -> list[Row]:
    count, rounds = bench.pick((10_000, 15), (500, 3))

    async def sample(gate: Gate) -> float:
        return await gathered(through_with_a_step(gate), count)

    group = await bench.group(
        rounds,
        {
            "slots": lambda: sample(Throttle(math.inf, SLOTS)),
            "slots and rate": lambda: sample(Throttle(1e9, SLOTS)),
        },
        {
            SEMAPHORE: lambda lib: sample(lib.Semaphore(SLOTS)),
            THROTTLER: lambda lib: sample(lib.ThrottlerSimultaneous(SLOTS)),
            ANYIO: lambda lib: sample(lib.CapacityLimiter(SLOTS)),
            FORMER: lambda lib: sample(lib.Throttle(1e9, SLOTS)),
        },
        otherwise="no slots",
    )
    asked = 1.1
    work = f"{count:,} tasks through {SLOTS} slots"
    return [
        group.row(f"{work}, no rate", "us", "slots", SEMAPHORE, asked),
        group.row(f"{work}, ample rate", "us", "slots and rate", SEMAPHORE, asked),
    ]


async def rate_limited(bench: Bench) -> list[Row]:
    """Processor time, on the real loop, which sleeps when there is nothing to do.

    A burst of 1,000 favours aiolimiter: with a burst of 1 each of its grants takes a timer of its
    own, twice the processor time and a millisecond. A virtual clock would favour whoever needs
    many timers, and not all peers let theirs be replaced.
    """
    count, rounds = bench.pick((10_000, 15), (2_000, 2))
    burst, rate = 1_000, 20_000
    period = burst / rate

    async def sample(gate: Gate) -> float:
        start = time.perf_counter()
        cost = await gathered(through(gate), count)
        shortest = (count - burst) / rate
        assert time.perf_counter() - start >= shortest * 0.9, f"faster than the rate: {gate!r}"
        return cost

    group = await bench.group(
        rounds,
        {
            "throttle": lambda: sample(Throttle(rate, burst=burst)),
        },
        {
            AIOLIMITER: lambda lib: sample(lib.AsyncLimiter(burst, period)),
            ASYNCIO_THROTTLE: lambda lib: sample(lib.Throttler(burst, period)),
            THROTTLER: lambda lib: sample(lib.Throttler(burst, period)),
            FORMER: lambda lib: sample(lib.Throttle(burst, 0, period)),
        },
        otherwise="no rate",
        patience=bench.pick(30, 5),
    )
    return [
        group.row(
            f"{count:,} rate-limited waiters, processor time",
            "us",
            "throttle",
            AIOLIMITER,
            target(0.39, 0.45),
        )
    ]


async def punctual(bench: Bench) -> list[Row]:
    """A wake-up for each grant comes late each time; who is due meanwhile must go with it."""
    count, rounds = bench.pick((4_000, 3), (400, 1))
    rate = 20_000
    ideal = (count - 1) / rate

    async def sample(gate: Gate) -> float:
        elapsed = count * await gathered(through(gate), count, time.perf_counter)
        assert elapsed > ideal * 0.95, f"faster than the rate: {gate!r}"
        return elapsed

    async def perfect() -> float:
        return ideal

    group = await bench.group(
        rounds,
        {
            "throttle": lambda: sample(Throttle(rate, burst=1)),
            f"ideal {ideal:.3f} s": perfect,
        },
        {
            AIOLIMITER: lambda lib: sample(lib.AsyncLimiter(1, 1 / rate)),
            ASYNCIO_THROTTLE: lambda lib: sample(lib.Throttler(1, 1 / rate)),
            THROTTLER: lambda lib: sample(lib.Throttler(1, 1 / rate)),
            FORMER: lambda lib: sample(lib.Throttle(1, 0, 1 / rate)),
        },
        otherwise="no rate",
        patience=bench.pick(30, 5),
    )
    work = f"{count:,} waiters at {rate:,}/s, burst 1, until the last is through"
    return [group.row(work, "s", "throttle", f"ideal {ideal:.3f} s", 1.25)]
