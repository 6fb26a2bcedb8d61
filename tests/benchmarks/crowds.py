"""Many that wait, for limits of their own and for one in common: what a call costs among them.

The clock jumps where somebody has to wait long, and processor time is taken in a thread. Steps
instead of seconds are counted in `growth`.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from itertools import count
from typing import Any

from async_throttle import LimitPool, LimitSet, Throttle, Throttles, testing

from .measure import cancelled, cpu_time, undisturbed, waiting
from .peers import SEMAPHORE
from .rows import Bench, Gate, Row
from .waits import gathered, through, through_with_a_step


async def virtual(main: Callable[[], Coroutine[Any, Any, float]]) -> float:
    return await asyncio.to_thread(lambda: testing.run(main()))


async def passing_by(n: int, apart: float) -> float:
    """One message to an idle chat, while *n* chats wait that are due one after the other."""
    everybody, idle, calls = Throttle(30, initial=15), Throttle(20, period=60), 10
    tasks = []
    for chat in range(n):
        own = Throttle(1, period=0.1 + chat * apart, initial=0)
        tasks += await waiting(through(LimitSet(everybody, own)), 1)
    with undisturbed():
        start = cpu_time()
        for _ in range(calls):
            async with LimitSet(everybody, idle):
                pass
        cost = (cpu_time() - start) / calls
    await cancelled(tasks)
    return cost


async def passing(bench: Bench) -> list[Row]:
    few, *more = bench.pick((10, 100, 1_000, 3_000), (10, 100))
    rounds = bench.pick(5, 2)

    def contender(n: int, rate: float | None) -> Callable[[], Awaitable[float]]:
        return partial(virtual, partial(passing_by, n, 3600 / n if rate is None else 1 / rate))

    rows = []
    for how, rate, asked in (
        ("due over an hour", None, 2.0),
        ("due at 29.9 of 30 a second", 29.9, None),
    ):
        group = await bench.group(rounds, {f"{n:,} wait": contender(n, rate) for n in (few, *more)})
        rows += [
            group.row(
                f"message to an idle chat, {n:,} wait, {how}",
                "us",
                f"{n:,} wait",
                f"{few:,} wait",
                asked,
            )
            for n in more
        ]
    return rows


async def broadcasting(bench: Bench) -> list[Row]:
    """The bot of the README writes to all of its chats."""
    n, rounds = bench.pick((1_000, 7), (100, 2))

    async def bot(message: Callable[[Throttle, Throttle], Gate]) -> float:
        everybody = Throttle(1_000, burst=1)
        chats = Throttles[int, Throttle](lambda chat: Throttle(20, period=60))
        numbers = count()

        async def send() -> None:
            async with message(chats[next(numbers)], everybody):
                pass

        return await gathered(send, n)

    group = await bench.group(
        rounds,
        {
            "sets": partial(
                virtual, partial(bot, lambda chat, everybody: LimitSet(everybody, chat))
            ),
            "two nested": partial(virtual, partial(bot, Nested)),
        },
    )
    return [group.row(f"the bot of the README, {n:,} chats", "us", "sets", "two nested", 3)]


class Nested:
    """One `async with` within the other, which is not all or nothing."""

    def __init__(self, outer: Gate, inner: Gate) -> None:
        self.outer, self.inner = outer, inner

    async def __aenter__(self) -> None:
        await self.outer.__aenter__()
        await self.inner.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        await self.inner.__aexit__(*error)
        await self.outer.__aexit__(*error)


async def timing_out(bench: Bench) -> list[Row]:
    """A batch for a language model."""
    n, rounds = bench.pick((1_000, 5), (50, 2))

    async def batch(**how: Any) -> float:
        api = LimitSet(
            requests=Throttle(500, period=60),
            tokens=Throttle(200_000, period=60),
            concurrency=20,
        )
        return await gathered(through_with_a_step(api(tokens=1_000, **how)), n)

    group = await bench.group(
        rounds,
        {
            "timeout": partial(virtual, partial(batch, timeout=3600)),
            "no timeout": partial(virtual, batch),
        },
    )
    work = f"{n:,} calls of the set of an API, timeout=3600"
    return [group.row(work, "us", "timeout", "no timeout", 2)]


async def timing_out_soon(bench: Bench) -> list[Row]:
    """The bot of the README near full load: each message waits for its chat, and hardly longer."""
    n, rounds = bench.pick((1_000, 5), (50, 2))

    async def bot(patience: float) -> float:
        everybody, number = Throttle(30), random.Random(0)

        async def send() -> None:
            seconds = 1 + number.random() * n / 27
            chat = Throttle(1, period=seconds, initial=0)
            async with LimitSet(everybody, chat)(timeout=seconds + patience):
                pass

        return await gathered(send, n)

    group = await bench.group(
        rounds,
        {
            "close": partial(virtual, partial(bot, 3.0)),
            "long": partial(virtual, partial(bot, 3600.0)),
        },
    )
    work = f"a message to each of {n:,} chats near full load, close timeouts"
    return [group.row(work, "us", "close", "long", 2)]


async def queueing(bench: Bench) -> list[Row]:
    """Callers that wait for the one slot of a set, and of a pool of one set and of many."""
    n, rounds = bench.pick((400, 15), (50, 2))
    accounts, callers = bench.pick((32, 100), (8, 20))

    async def pool(accounts: int) -> float:
        sets = [LimitSet(Throttle(1e9), concurrency=1) for _ in range(accounts)]
        return await gathered(through_with_a_step(LimitPool(sets)()), callers)

    group = await bench.group(
        rounds,
        {
            "set": lambda: gathered(through_with_a_step(LimitSet(Throttle(1e9), concurrency=1)), n),
            SEMAPHORE: lambda: gathered(through_with_a_step(asyncio.Semaphore(1)), n),
            "pool": lambda: pool(accounts),
            "pool of one": lambda: pool(1),
        },
    )
    return [
        group.row(f"a set of two limits, {n} callers for one slot", "us", "set", SEMAPHORE, 3),
        group.row(
            f"a pool of {accounts} sets, {callers} callers", "us", "pool", "pool of one", None
        ),
    ]


async def ranking(bench: Bench) -> list[Row]:
    n, rounds = bench.pick((400, 15), (50, 2))

    async def ranked(priority: Callable[[int], int]) -> float:
        throttle, numbers = Throttle(math.inf, 1), count()

        async def call() -> None:
            async with throttle(priority=priority(next(numbers))):
                await asyncio.sleep(0)

        return await gathered(call, n)

    group = await bench.group(
        rounds,
        {
            "different": lambda: ranked(lambda number: number * 1999 % 4099),
            "alike": lambda: ranked(lambda number: 1),
        },
        {SEMAPHORE: lambda lib: gathered(through_with_a_step(lib.Semaphore(1)), n)},
        otherwise="no priorities",
    )
    return [group.row(f"{n} waiters, all priorities different", "us", "different", "alike", None)]
