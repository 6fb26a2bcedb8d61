"""Those who wait at a gate that lets nobody through: what it costs to leave, and to stay."""

import asyncio
import contextlib
import math
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from async_throttle import Throttle, ThrottleTimeout

from .measure import Call, Contender, cancelled, traced, undisturbed, waiting
from .peers import AIOLIMITER, ANYIO, ASYNCIO_THROTTLE, FORMER, SEMAPHORE, THROTTLER
from .rows import FOR_EVER, SLOTS, Bench, Gate, Group, Row
from .waits import through


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
    return [group.row(f"{work}, no slot free", "us", "slots", SEMAPHORE, 0.1), *rows]


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
