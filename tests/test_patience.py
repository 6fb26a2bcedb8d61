"""Priorities and patience: better classes go first, and nobody waits for ever.

A lane is aged when better classes went before its head `MAX_OVERTAKEN` times in a row on a rule
that they share. The aged lane that was overtaken most often has a turn out of rank, and between
two such turns on one rule lie at least as many grants in rank.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from support import now, others_run

from async_throttle import LimitPool, LimitSet, SlidingWindow, Throttle, threads

MAX_OVERTAKEN = 32

Ask = Callable[[int], Any]
"""A call of a priority: a coroutine function of one argument."""


def rate(algorithm: Any = None, kind: Any = Throttle, **options: Any) -> Any:
    """A throttle that grants one call every millisecond."""
    return kind(1, period=0.001, **({"algorithm": algorithm} if algorithm else {}), **options)


def by_throttle(throttle: Any) -> Ask:
    return lambda priority: throttle(priority=priority).__aenter__()


def one_set(kind: Any = Throttle) -> Ask:
    return by_throttle(LimitSet(common=rate(kind=kind), other=kind(1e6)))


def a_set_for_each(kind: Any = Throttle) -> Ask:
    """Callers of each priority use a set of their own: all sets have one throttle in common."""
    common = rate(kind=kind)
    sets: dict[int, LimitSet] = {}

    def ask(priority: int) -> Any:
        if priority not in sets:
            sets[priority] = LimitSet(common=common, own=kind(1e6))
        return sets[priority](priority=priority).__aenter__()

    return ask


def a_pool() -> Ask:
    return by_throttle(LimitPool([LimitSet(common=rate(), other=Throttle(1e6))]))


def tokens_beside_calls() -> Ask:
    """The best class takes a slot as well, the others only tokens: they share the rate."""
    throttle = rate()
    return lambda priority: (
        throttle.consume(priority=priority)
        if priority
        else throttle(priority=priority).__aenter__()
    )


def slots_only() -> Ask:
    """A slot is what all of them wait for."""
    throttle = Throttle(1e9, 1, period=0.001)

    async def ask(priority: int) -> None:
        async with throttle(priority=priority):
            await asyncio.sleep(0.001)

    return ask


SHAPES: dict[str, Callable[[], Ask]] = {
    "throttle": lambda: by_throttle(rate()),
    "window": lambda: by_throttle(rate(SlidingWindow)),
    "threads": lambda: by_throttle(rate(kind=threads.Throttle)),
    "set": one_set,
    "set of threads": lambda: one_set(threads.Throttle),
    "a set for each class": a_set_for_each,
    "a set of threads for each class": lambda: a_set_for_each(threads.Throttle),
    "pool": a_pool,
    "tokens beside calls": tokens_beside_calls,
    "slots": slots_only,
}

every_shape = pytest.mark.parametrize("make", SHAPES.values(), ids=SHAPES)


async def always_waiting(ask: Ask, priorities: Sequence[int], grants: int) -> list[int]:
    """Who went, where there is always a caller waiting in each class."""
    order: list[int] = []
    enough = asyncio.Event()

    async def caller(priority: int) -> None:
        while True:
            await ask(priority)
            order.append(priority)
            if len(order) == grants:
                enough.set()

    first = asyncio.create_task(ask(0))  # which is granted at once: from here on everybody waits
    # The worst come first, so that all who go before them overtake them. And two of each: while
    # one is granted and comes back, the other waits.
    worst_first = sorted(priorities, reverse=True)
    tasks = [asyncio.create_task(caller(priority)) for priority in worst_first for _ in range(2)]
    await enough.wait()
    await first
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return order[:grants]


def overtaken(order: Sequence[int], priority: int) -> int:
    """How many grants of better classes lay between two of *priority*, at most."""
    longest = run = 0
    for gone in order:
        run = 0 if gone == priority else run + (gone < priority)
        longest = max(longest, run)
    return longest


async def test_of_33000_grants_the_best_of_three_classes_has_32000_and_each_other_500() -> None:
    order = await always_waiting(by_throttle(rate()), (0, 1, 2), 33_000)
    assert Counter(order) == {0: 32_000, 1: 500, 2: 500}


@every_shape
async def test_turns_out_of_rank_alternate_and_32_grants_in_rank_lie_between_them(
    make: Callable[[], Ask],
) -> None:
    order = await always_waiting(make(), (0, 1, 2), 33 * 20)
    turns = [(n, gone) for n, gone in enumerate(order) if gone]
    assert turns == [(33 * n + 32, 1 + n % 2) for n in range(20)]


@every_shape
@pytest.mark.parametrize("classes", [2, 4, 9])
async def test_no_class_is_overtaken_more_often_than_33_times_the_number_of_classes(
    make: Callable[[], Ask], classes: int
) -> None:
    order = await always_waiting(make(), range(classes), 33 * classes * 3)
    for priority in range(classes):
        assert overtaken(order, priority) <= 33 * classes
    assert order.count(0) >= len(order) * 32 // 33


async def order_of(ask: Ask, priorities: Sequence[int]) -> list[int]:
    """In what order one waiter of each of *priorities* goes; they come in this order."""
    order: list[int] = []

    async def call(priority: int) -> None:
        await ask(priority)
        order.append(priority)

    await ask(0)
    tasks = []
    for priority in priorities:
        tasks.append(asyncio.create_task(call(priority)))
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    return order


@pytest.mark.parametrize(
    "make",
    [SHAPES[name] for name in ("throttle", "threads", "set", "pool", "a set for each class")],
)
@pytest.mark.parametrize("step", [1, -1])
async def test_priorities_that_are_all_different_go_in_rank(
    make: Callable[[], Ask], step: int
) -> None:
    priorities = list(range(1, 101))
    # All that wait were overtaken equally often, so the better class has the turn anyway.
    assert await order_of(make(), priorities[::step]) == priorities


@pytest.mark.parametrize("seed", range(5))
async def test_of_33_calls_that_come_in_any_order_one_goes_out_of_rank_at_most(seed: int) -> None:
    priorities = list(range(1, 101))
    random.Random(seed).shuffle(priorities)
    order = await order_of(by_throttle(rate()), priorities)
    turns = [n for n, gone in enumerate(order) if gone != min(order[n:])]
    assert all(later - earlier > MAX_OVERTAKEN for earlier, later in pairwise([-1, *turns]))


@pytest.mark.parametrize("make", [SHAPES["throttle"], SHAPES["set"]])
@pytest.mark.parametrize("gone", [0, 20, 40, 65, 66, 100])
@pytest.mark.parametrize("urgent", [1, 10])
async def test_an_urgent_newcomer_waits_for_one_turn_out_of_rank_of_150_classes_at_most(
    make: Callable[[], Ask], gone: int, urgent: int
) -> None:
    ask = make()
    order: list[int] = []

    async def call(priority: int) -> None:
        await ask(priority)
        order.append(priority)

    await ask(0)
    tasks = [asyncio.create_task(call(priority)) for priority in range(150, 0, -1)]
    await others_run()
    best = [asyncio.create_task(call(0)) for _ in range(gone)]
    await asyncio.gather(*best)  # so often all of the classes were overtaken
    start = len(order)
    newcomers = [asyncio.create_task(call(0)) for _ in range(urgent)]
    await asyncio.gather(*newcomers)
    between = order[start:]
    assert len(between) - between.count(0) <= 1
    await asyncio.gather(*tasks)


async def test_a_class_of_which_nobody_waits_any_more_leaves_the_others_in_rank() -> None:
    ask = by_throttle(rate())
    order: list[int] = []

    async def call(priority: int) -> None:
        await ask(priority)
        order.append(priority)

    await ask(0)
    tasks = [asyncio.create_task(call(priority)) for priority in (3, 2, 1) for _ in range(3)]
    tasks += [asyncio.create_task(call(0)) for _ in range(20)]
    await asyncio.gather(*tasks)
    assert order == sorted(order)


@pytest.mark.parametrize("first", [1, 2])
async def test_of_two_that_were_overtaken_as_often_the_better_class_has_the_turn(
    first: int,
) -> None:
    ask = by_throttle(rate())
    order = await order_of(ask, [first, 3 - first] + [0] * 40)
    assert order[32:34] == [1, 0]


@pytest.mark.parametrize("first", ["one", "other"])
async def test_of_two_of_one_class_the_earlier_has_the_turn(first: str) -> None:
    common = rate()
    sets = {
        "one": LimitSet(common=common, own=Throttle(1e6)),
        "other": LimitSet(common=common, own=Throttle(1e6)),
    }
    order: list[str] = []

    async def call(name: str, limiter: Any, priority: int) -> None:
        await limiter(priority=priority).__aenter__()
        order.append(name)

    await common.acquire()
    second = "other" if first == "one" else "one"
    tasks = [asyncio.create_task(call(name, sets[name], 1)) for name in (first, second)]
    tasks += [asyncio.create_task(call("urgent", common, 0)) for _ in range(70)]
    await asyncio.gather(*tasks)
    assert [(n, name) for n, name in enumerate(order) if name != "urgent"] == [
        (32, first),
        (65, second),
    ]


async def test_a_lane_that_was_overtaken_more_often_goes_before_a_better_class() -> None:
    ask = by_throttle(rate())
    order: list[int] = []

    async def call(priority: int) -> None:
        await ask(priority)
        order.append(priority)

    async def urgent() -> None:
        while len(order) < 80:
            await call(0)

    await ask(0)
    tasks = [asyncio.create_task(call(2))]
    tasks += [asyncio.create_task(urgent()) for _ in range(2)]
    await asyncio.sleep(0.0105)
    tasks.append(asyncio.create_task(call(1)))
    await asyncio.gather(*tasks)
    # By the 55th grant both were overtaken 32 times. The second turn is 32 grants in rank later.
    assert [(n, gone) for n, gone in enumerate(order) if gone] == [(32, 2), (65, 1)]


async def test_what_overtakes_is_counted_for_each_rule_and_the_largest_number_counts() -> None:
    one, other = Throttle(1), Throttle(1)
    both = LimitSet(one=one, other=other)
    await one.acquire()
    await other.acquire()

    async def call() -> float:
        await both(priority=1).__aenter__()
        return now()

    async def urgent(throttle: Throttle) -> None:
        while True:
            await throttle.acquire()

    patient = asyncio.create_task(call())
    await others_run()
    tasks = [asyncio.create_task(urgent(each)) for each in (one, other) for _ in range(2)]
    # 32 grants of each, which are 64; the sum of both would have been reached after 16 s.
    assert await patient == 33
    for task in tasks:
        task.cancel()


async def test_what_overtakes_on_a_rule_that_is_not_shared_does_not_count() -> None:
    common, own = rate(), Throttle(1e6)
    mixed = LimitSet(common=common, own=own)
    order: list[str] = []

    async def call(name: str, limiter: Any, priority: int) -> None:
        await limiter(priority=priority).__aenter__()
        order.append(name)

    await common.acquire()
    tasks = [asyncio.create_task(call("patient", common, 1))]
    tasks += [asyncio.create_task(call("mixed", mixed, 0)) for _ in range(40)]
    await others_run()
    for _ in range(100):  # which the patient one does not wait for
        await own.acquire()
    await asyncio.gather(*tasks)
    assert order.index("patient") == 32


async def test_a_turn_of_one_rule_puts_off_none_of_another() -> None:
    one, other = rate(), rate()
    orders: list[list[int]] = []
    orders += await asyncio.gather(
        always_waiting(by_throttle(one), (0, 1), 99),
        always_waiting(by_throttle(other), (0, 1), 99),
    )
    LimitSet(one=one, other=other)  # one queue for both from here on
    orders += await asyncio.gather(
        always_waiting(by_throttle(one), (0, 1), 99),
        always_waiting(by_throttle(other), (0, 1), 99),
    )
    for order in orders:
        assert [n for n, gone in enumerate(order) if gone] == [32, 65, 98]
