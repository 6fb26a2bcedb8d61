"""Sliding windows with many calls inside."""

from collections.abc import Callable

from async_throttle import SlidingWindow, Throttle

from .calls import enter
from .measure import cpu_time, traced, undisturbed
from .peers import ASYNCIO_THROTTLE, THROTTLER
from .rows import FOR_EVER, SLOTS, Bench, Gate, Row


class HandClock:
    """Seconds that move when somebody moves them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def window(capacity: float) -> tuple[Throttle, HandClock]:
    """A sliding window of one second on a clock moved by hand.

    With the real clock the number of calls inside would be the speed of this machine.
    """
    clock = HandClock()
    return Throttle(capacity, SLOTS, algorithm=SlidingWindow, timer=clock), clock


async def enter_window(inside: int, calls: int) -> float:
    """Processor time of a call while *inside* calls are in the window, one coming for one going."""
    throttle, clock = window(1e9)
    step = 1 / inside
    for _ in range(2 * inside):
        clock.now += step
        assert throttle.try_acquire()
        throttle.release()
    with undisturbed():
        start = cpu_time()
        for _ in range(calls):
            clock.now += step
            async with throttle:
                pass
        cost = (cpu_time() - start) / calls
    # Merged calls may stay a thousandth of the period longer than they should.
    assert inside <= throttle.capacity - throttle.level <= inside * 1.002 + 1
    return cost


async def enter_log(limiter: Gate, inside: int, calls: int) -> float:
    """The same with the peers' sliding windows, whose clock cannot be moved: nobody leaves."""
    for _ in range(inside):
        async with limiter:
            pass
    return await enter(limiter, calls)


async def crossing(bench: Bench) -> list[Row]:
    (few, some, many), calls, rounds = bench.pick(
        ((100, 1_000, 10_000), 20_000, 21), ((100, 1_000, 5_000), 300, 3)
    )
    group = await bench.group(
        rounds,
        {
            f"{few:,} inside": lambda: enter_window(few, calls),
            f"{some:,} inside": lambda: enter_window(some, calls),
            f"{many:,} inside": lambda: enter_window(many, calls),
        },
        {
            ASYNCIO_THROTTLE: lambda lib: enter_log(lib.Throttler(10**9, FOR_EVER), many, calls),
            THROTTLER: lambda lib: enter_log(lib.Throttler(many, 1e-6), many, calls),
        },
        otherwise="no sliding window",
    )
    return [
        group.row(
            f"SlidingWindow, {inside:,} calls inside",
            "ns",
            f"{inside:,} inside",
            f"{few:,} inside",
            1.25,
        )
        for inside in (some, many)
    ]


async def bytes_of_window(inside: int) -> float:
    with traced() as held:
        throttle, clock = window(1e9)
        for _ in range(inside):
            clock.now += 1 / inside
            assert throttle.try_acquire()
            throttle.release()
        return held()


async def bytes_of_log(make: Callable[[], Gate], inside: int) -> float:
    with traced() as held:
        limiter = make()
        for _ in range(inside):
            async with limiter:
                pass
        return held()


async def filling(bench: Bench) -> list[Row]:
    """Bytes of a whole window, not of each call in it."""
    few, *more = bench.pick((10_000, 100_000, 1_000_000), (2_000, 5_000, 20_000))

    async def compared(inside: int) -> Row:
        group = await bench.group(
            1,
            {
                f"{few:,} inside": lambda: bytes_of_window(few),
                "throttle": lambda: bytes_of_window(inside),
                **bench.peers.contenders(
                    {
                        ASYNCIO_THROTTLE: lambda lib: bytes_of_log(
                            lambda: lib.Throttler(10**9, FOR_EVER), inside
                        ),
                        THROTTLER: lambda lib: bytes_of_log(
                            lambda: lib.Throttler(inside, 1e-6), inside
                        ),
                    },
                    otherwise="no sliding window",
                ),
            },
        )
        work = f"memory of a SlidingWindow, {inside:,} calls inside"
        return group.row(work, "B", "throttle", f"{few:,} inside", 1.25)

    return [await compared(inside) for inside in more]


async def merging(bench: Bench) -> list[Row]:
    """The throughput that is lost because a well filled window lets merged calls go together.

    Simulated: in the first second calls come evenly, which is the worst case, and from then on
    more are asked for than can go. The unit is the time that one second's worth of them takes.
    """
    seconds = bench.pick(10, 2)

    async def simulated(capacity: int) -> float:
        throttle, clock = window(capacity)
        for call in range(capacity):
            clock.now = call / capacity
            assert throttle.try_acquire()
            throttle.release()
        admitted = 0
        polls = 10 * capacity
        for poll in range(seconds * polls):
            clock.now = 1 + poll / polls
            if throttle.try_acquire():
                throttle.release()
                admitted += 1
        assert admitted <= seconds * capacity, "more than the window allows"
        return seconds * capacity / admitted

    async def perfect() -> float:
        return 1.0

    few, many = bench.pick((1_000, 10_000), (100, 2_000))
    group = await bench.group(
        1,
        {
            "ideal": perfect,
            f"{few:,}": lambda: simulated(few),
            f"{many:,}": lambda: simulated(many),
        },
    )
    return [
        group.row(
            f"a second's worth of a SlidingWindow of {capacity:,}",
            "s",
            f"{capacity:,}",
            "ideal",
            most,
        )
        for capacity, most in ((few, 1.0005), (many, 1.002))
    ]
