"""What is compared with what: a function for each kind of work, which gives rows of the table.

A limiter is made anew for each sample, and what a sample claims is checked next to the stopwatch:
that the bucket was half full, that everybody waited, that everybody got through.
"""

import asyncio
import contextlib
import math
import random
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Protocol, TypeVar

from async_throttle import FixedWindow, SlidingWindow, Throttle, ThrottleTimeout

from .measure import (
    Call,
    Contender,
    Samples,
    cancelled,
    cpu_time,
    paired,
    traced,
    undisturbed,
    waiting,
)
from .peers import AIOLIMITER, ANYIO, ASYNCIO_THROTTLE, FORMER, SEMAPHORE, THROTTLER, Peers

T = TypeVar("T")

SLOTS = 10
FOR_EVER = 1e6
"""Seconds that no sample lives to see the end of."""


class Gate(Protocol):
    """What `async with` takes; AbstractAsyncContextManager would ask for coroutine functions."""

    def __aenter__(self) -> Awaitable[object]: ...

    def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> Awaitable[object]: ...


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of work: what it costs with `Throttle`, and what that is divided by."""

    work: str
    unit: str
    ours: Samples
    baseline: str
    theirs: Samples | str
    """What *ours* is divided by; or why it is not there."""
    target: float | None
    """The largest ratio of *ours* to *theirs* that is promised; None where none is."""
    others: Mapping[str, Samples | str]
    """The same work done by each peer; or why it is not."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Who takes part, and whether the runs are long enough to mean something."""

    peers: Peers
    quick: bool

    def pick(self, full: T, quick: T) -> T:
        return quick if self.quick else full

    async def group(self, rounds: int, contenders: Mapping[str, Contender]) -> "Group":
        return Group(await paired(contenders, rounds))


class Group:
    """Samples that were taken in turn, out of which rows are made."""

    def __init__(self, samples: Mapping[str, Samples | str]) -> None:
        self._samples = samples

    def __getitem__(self, name: str) -> Samples:
        samples = self._samples[name]
        assert not isinstance(samples, str), f"{name} is no peer, and always there"
        return samples

    def less(self, name: str) -> "Group":
        """The same with the samples of *name* taken away from all others."""
        floor = self[name]
        return Group(
            {
                other: samples
                if isinstance(samples, str)
                else [sample - bare for sample, bare in zip(samples, floor, strict=True)]
                for other, samples in self._samples.items()
                if other != name
            }
        )

    def row(self, work: str, unit: str, ours: str, baseline: str, target: float | None) -> Row:
        theirs = self._samples[baseline]
        return Row(work, unit, self[ours], baseline, theirs, target, self._samples)


def target(on_311: float, later: float) -> float:
    """CPython 3.12 made coroutines cheaper, and so what our cost is divided by."""
    return on_311 if sys.version_info < (3, 12) else later


# --- nobody waits ---------------------------------------------------------------------------------


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


async def full(sample: Callable[[Throttle], Awaitable[float]]) -> float:
    """A token comes back each nanosecond, so that every call finds the bucket full."""
    throttle = Throttle(1e9, SLOTS)
    cost = await sample(throttle)
    assert throttle.level == throttle.burst, f"not full: {throttle!r}"
    assert throttle.active == throttle.waiting == 0
    return cost


async def half_full(
    sample: Callable[[Throttle], Awaitable[float]], burst: float = 1_000_000
) -> float:
    """The level only sinks during the sample, so that its two ends vouch for the time between."""
    throttle = Throttle(1_000, SLOTS, burst=burst, initial=burst / 2)
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
            **bench.peers.contenders(
                {
                    SEMAPHORE: lambda lib: enter(lib.Semaphore(SLOTS), calls),
                    AIOLIMITER: lambda lib: enter(lib.AsyncLimiter(1e9, 1), calls),
                    ASYNCIO_THROTTLE: lambda lib: enter(lib.Throttler(10**9, 0.001), calls),
                    THROTTLER: lambda lib: enter(lib.Throttler(1_000, 1e-6), calls),
                    ANYIO: lambda lib: enter(lib.CapacityLimiter(SLOTS), calls),
                    FORMER: lambda lib: enter(lib.Throttle(1e9, SLOTS), calls),
                }
            ),
        },
    )
    asked = target(0.60, 0.75)
    return [
        group.row("async with throttle, bucket full", "ns", "full", SEMAPHORE, asked),
        group.row("async with throttle, bucket half full", "ns", "half", SEMAPHORE, asked),
        group.row("(an empty async with, for comparison)", "ns", "empty", SEMAPHORE, None),
    ]


async def weighing(bench: Bench) -> list[Row]:
    calls, rounds = bench.pick((20_000, 41), (300, 3))
    group = await bench.group(
        rounds,
        {
            "full": lambda: full(lambda throttle: enter_weighing(throttle, 5, calls)),
            "half": lambda: half_full(lambda throttle: enter_weighing(throttle, 5, calls)),
            **bench.peers.contenders(
                {
                    SEMAPHORE: lambda lib: enter(lib.Semaphore(SLOTS), calls),
                    AIOLIMITER: lambda lib: acquire_weighing(lib.AsyncLimiter(1e9, 1), 5, calls),
                    FORMER: lambda lib: enter_weighing(lib.Throttle(1e9, SLOTS), 5, calls),
                },
                otherwise="no weights",
            ),
        },
    )
    asked = target(1.2, 1.3)
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
            **bench.peers.contenders(
                {SEMAPHORE: lambda lib: enter(lib.Semaphore(SLOTS), calls)}, otherwise="no refunds"
            ),
        },
    )
    asked = target(1.5, 1.6)
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
            **bench.peers.contenders(
                {
                    AIOLIMITER: lambda lib: acquire_weighing(
                        lib.AsyncLimiter(1e12, 1), 10_000, calls
                    ),
                    FORMER: lambda lib: enter_weighing(lib.Throttle(1e12, SLOTS), 10_000, calls),
                },
                otherwise="no weights",
            ),
        },
    )
    return [
        group.row(f"throttle(10_000), {name}", "ns", name, f"{name}, weight 1", 1.1)
        for name in ("TokenBucket", "SlidingWindow", "FixedWindow")
    ]


# --- somebody waits -------------------------------------------------------------------------------


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
            **bench.peers.contenders(
                {
                    SEMAPHORE: lambda lib: sample(lib.Semaphore(SLOTS)),
                    THROTTLER: lambda lib: sample(lib.ThrottlerSimultaneous(SLOTS)),
                    ANYIO: lambda lib: sample(lib.CapacityLimiter(SLOTS)),
                    FORMER: lambda lib: sample(lib.Throttle(1e9, SLOTS)),
                },
                otherwise="no slots",
            ),
        },
    )
    asked = target(1.0, 1.1)
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
            **bench.peers.contenders(
                {
                    AIOLIMITER: lambda lib: sample(lib.AsyncLimiter(burst, period)),
                    ASYNCIO_THROTTLE: lambda lib: sample(lib.Throttler(burst, period)),
                    THROTTLER: lambda lib: sample(lib.Throttler(burst, period)),
                    FORMER: lambda lib: sample(lib.Throttle(burst, 0, period)),
                },
                otherwise="no rate",
                patience=bench.pick(30, 5),
            ),
        },
    )
    return [
        group.row(
            f"{count:,} rate-limited waiters, processor time",
            "us",
            "throttle",
            AIOLIMITER,
            target(0.35, 0.42),
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
            **bench.peers.contenders(
                {
                    AIOLIMITER: lambda lib: sample(lib.AsyncLimiter(1, 1 / rate)),
                    ASYNCIO_THROTTLE: lambda lib: sample(lib.Throttler(1, 1 / rate)),
                    THROTTLER: lambda lib: sample(lib.Throttler(1, 1 / rate)),
                    FORMER: lambda lib: sample(lib.Throttle(1, 0, 1 / rate)),
                },
                otherwise="no rate",
                patience=bench.pick(30, 5),
            ),
        },
    )
    work = f"{count:,} waiters at {rate:,}/s, burst 1, until the last is through"
    return [group.row(work, "s", "throttle", f"ideal {ideal:.3f} s", 1.25)]


# --- a gate that lets nobody through --------------------------------------------------------------


def without_slots() -> Throttle:
    throttle = Throttle(math.inf, 1)
    assert throttle.try_acquire()
    return throttle


def without_tokens() -> Throttle:
    throttle = Throttle(100, SLOTS, FOR_EVER)
    assert throttle.try_acquire(100)
    return throttle


async def entered(gate: Any) -> Any:
    """*gate*, whose only place is now taken."""
    await gate.__aenter__()
    return gate


SHUT: Mapping[str, Callable[[Any], Coroutine[Any, Any, Any]]] = {
    SEMAPHORE: lambda lib: entered(lib.Semaphore(1)),
    AIOLIMITER: lambda lib: entered(lib.AsyncLimiter(1, FOR_EVER)),
    ASYNCIO_THROTTLE: lambda lib: entered(lib.Throttler(1, FOR_EVER)),
    # It takes the start of the machine for its first call, so that for ever would be too long.
    THROTTLER: lambda lib: entered(lib.Throttler(1, 60.0)),
    ANYIO: lambda lib: entered(lib.CapacityLimiter(1)),
    FORMER: lambda lib: entered(lib.Throttle(1e9, 1)),
}


def shut_gates(
    bench: Bench, sample: Callable[[Coroutine[Any, Any, Gate]], Awaitable[float]]
) -> dict[str, Contender]:
    """Everybody else, each with a limiter that has nothing to give."""

    def peer(shut: Callable[[Any], Coroutine[Any, Any, Gate]]) -> Callable[[Any], Awaitable[float]]:
        return lambda lib: sample(shut(lib))

    return bench.peers.contenders({name: peer(shut) for name, shut in SHUT.items()})


def on_a_future() -> Call:
    """A call that waits for a future which nobody knows of."""

    async def call() -> None:
        await asyncio.get_running_loop().create_future()

    return call


async def cancelled_in_random_order(call: Call, count: int) -> float:
    with undisturbed():
        tasks = await waiting(call, count)
        random.Random(count).shuffle(tasks)
        return await cancelled(tasks)


async def cancelled_at(throttle: Throttle, count: int) -> float:
    cost = await cancelled_in_random_order(through(throttle), count)
    assert throttle.waiting == 0
    return cost


async def cancelling_at(count: int, bench: Bench, rounds: int) -> Group:
    async def others(gate: Coroutine[Any, Any, Gate]) -> float:
        return await cancelled_in_random_order(through(await gate), count)

    contenders: dict[str, Contender] = {
        "future": lambda: cancelled_in_random_order(on_a_future(), count),
        "slots": lambda: cancelled_at(without_slots(), count),
        "tokens": lambda: cancelled_at(without_tokens(), count),
        **shut_gates(bench, others),
    }
    if count > 40_000:
        contenders |= dict.fromkeys((SEMAPHORE, FORMER), "quadratic")
    return await bench.group(rounds, contenders)


async def cancelling(bench: Bench) -> list[Row]:
    """Without slots the head of the queue waits for nothing; without tokens it has a timer."""
    rows = []
    for count, rounds in bench.pick(
        ((1_000, 21), (10_000, 7), (100_000, 3)), ((100, 3), (200, 3), (2_000, 1))
    ):
        group = await cancelling_at(count, bench, rounds)
        work = f"cancel {count:,} waiters in random order"
        rows += [
            group.row(f"{work}, no slot free", "us", "slots", "future", 1.7),
            group.row(f"{work}, no tokens left", "us", "tokens", "future", 1.7),
        ]
    count, rounds = bench.pick((40_000, 3), (1_000, 1))
    group = await cancelling_at(count, bench, rounds)
    work = f"cancel {count:,} waiters in random order"
    return [group.row(f"{work}, no slot free", "us", "slots", SEMAPHORE, 0.2), *rows]


def on_old_futures(count: int) -> Call:
    """A call that waits for a future which was there before; good for *count* calls."""
    loop = asyncio.get_running_loop()
    futures = iter([loop.create_future() for _ in range(count)])

    async def call() -> None:
        await next(futures)

    return call


def through_weighing(throttle: Throttle, weight: float) -> Call:
    async def call() -> None:
        async with throttle(weight):
            pass

    return call


def through_in_time(throttle: Throttle) -> Call:
    """A call that gives up when it has waited for a millisecond."""

    async def call() -> None:
        with contextlib.suppress(ThrottleTimeout):
            await throttle.acquire(timeout=0.001)
            raise AssertionError("a shut gate let it through")

    return call


async def memory_of(call: Call, count: int, batches: int = 0, leaving: Call | None = None) -> float:
    """Bytes held for each of *count* calls that wait, after *batches* times as many have left.

    That is gross, with the task. Net of `on_old_futures` it is what waiting at this gate adds:
    coroutines, a future, a place in the queue.
    """

    async def come_and_go() -> None:
        if leaving is None:
            await cancelled(await waiting(call, count))
        else:
            await asyncio.gather(*(leaving() for _ in range(count)))
        await asyncio.sleep(0)  # the handle of the step that is running holds their results

    await come_and_go()  # so that the tables of asyncio have the size that they will keep
    with traced() as held:
        tasks = await waiting(call, count)
        for _ in range(batches):
            await come_and_go()
        gross = held() / count
    await cancelled(tasks)
    return gross


async def remembering(bench: Bench) -> list[Row]:
    count, rounds = bench.pick((1_000, 9), (100, 2))

    async def others(gate: Coroutine[Any, Any, Gate]) -> float:
        return await memory_of(through(await gate), count)

    gross = await bench.group(
        rounds,
        {
            "bare": lambda: memory_of(on_old_futures(2 * count), count),
            "throttle": lambda: memory_of(through(without_slots()), count),
            "throttle(5)": lambda: memory_of(through_weighing(without_tokens(), 5), count),
            **shut_gates(bench, others),
        },
    )
    net = gross.less("bare")
    return [
        net.row("memory of a waiter, net (without its task)", "B", "throttle", SEMAPHORE, 1.0),
        net.row("memory of a waiter in throttle(5), net", "B", "throttle(5)", SEMAPHORE, 1.5),
        gross.row("memory of a waiter, gross (with its task)", "B", "throttle", SEMAPHORE, None),
        gross.row("memory of a waiter in throttle(5), gross", "B", "throttle(5)", SEMAPHORE, None),
    ]


async def forgetting(bench: Bench) -> list[Row]:
    """Those who gave up must not be kept until the head of the queue has gone."""
    count, (few, many) = bench.pick((1_000, (10, 100)), (100, (2, 10)))

    async def cancelled_for_slots(batches: int) -> float:
        return await memory_of(through(without_slots()), count, batches)

    async def cancelled_for_tokens(batches: int) -> float:
        return await memory_of(through(without_tokens()), count, batches)

    async def timed_out(batches: int) -> float:
        throttle = without_slots()
        return await memory_of(through(throttle), count, batches, through_in_time(throttle))

    async def others(gate: Coroutine[Any, Any, Gate]) -> float:
        return await memory_of(through(await gate), count, many)

    ways = {
        "cancelled (slots)": cancelled_for_slots,
        "cancelled (tokens)": cancelled_for_tokens,
        "timed out": timed_out,
    }
    gross = await bench.group(
        1,
        {
            "bare": lambda: memory_of(on_old_futures(2 * count), count),
            **{
                f"{count * batches:,} {way}": partial(sample, batches)
                for way, sample in ways.items()
                for batches in (few, many)
            },
            **shut_gates(bench, others),
        },
    )
    net = gross.less("bare")
    return [
        net.row(
            f"memory of a waiter, {count * many:,} behind it {way}",
            "B",
            f"{count * many:,} {way}",
            f"{count * few:,} {way}",
            1.1,
        )
        for way in ways
    ]


# --- many calls inside a sliding window -----------------------------------------------------------


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
            **bench.peers.contenders(
                {
                    ASYNCIO_THROTTLE: lambda lib: enter_log(
                        lib.Throttler(10**9, FOR_EVER), many, calls
                    ),
                    THROTTLER: lambda lib: enter_log(lib.Throttler(many, 1e-6), many, calls),
                },
                otherwise="no sliding window",
            ),
        },
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


ALL: tuple[Callable[[Bench], Coroutine[Any, Any, list[Row]]], ...] = (
    uncontended,
    weighing,
    settling,
    crowded,
    rate_limited,
    punctual,
    cancelling,
    remembering,
    forgetting,
    crossing,
    filling,
    merging,
    heavy,
)
