"""Calls that `acquire()` of sets and pools began, and that nobody awaits, enters or releases."""

import asyncio
import gc
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from async_throttle import LimitPool, LimitSet, Throttle, limits, threads
from async_throttle.limits import RateLimit, ResourceLimit

MAKES: dict[str, Callable[[], Any]] = {
    "set": lambda: LimitSet(slots=Throttle(math.inf, 2), rate=Throttle(99)),
    "pool": lambda: LimitPool([LimitSet(slots=Throttle(math.inf, 2))]),
    "threads": lambda: LimitSet(slots=threads.Throttle(math.inf, 2)),
    "concurry": lambda: limits.LimitSet([ResourceLimit("slots", 2)]),
}

of_each_kind = pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)


def free(api: Any) -> int:
    """How many calls are granted at once."""
    held: list[Any] = []
    while len(held) < 9 and (call := api.try_acquire()).successful:
        held.append(call)
    for call in held:
        call.release()
    return len(held)


@of_each_kind
async def test_the_slots_of_forgotten_calls_come_back_with_a_warning(
    make: Callable[[], Any],
) -> None:
    api = make()
    for _ in range(5):
        with pytest.warns(ResourceWarning, match="neither awaited nor entered.* slot of slots"):
            api.acquire()
        assert free(api) == 2


@of_each_kind
async def test_what_is_awaited_or_entered_holds_its_slots(make: Callable[[], Any]) -> None:
    api = make()
    async with api.acquire():
        await api.acquire()  # kept by nobody, as what Semaphore.acquire() takes
        gc.collect()
        assert free(api) == 0
    assert free(api) == 1


@of_each_kind
async def test_what_is_released_or_never_was_granted_is_nothing(make: Callable[[], Any]) -> None:
    api = make()
    first, second = api.acquire(), api.acquire()
    assert not api.acquire().successful
    first.release()
    second.release()
    del first, second
    assert free(api) == 2


def test_where_threads_wait_as_well() -> None:
    api = limits.LimitSet([ResourceLimit("slots", 1)])
    with pytest.warns(ResourceWarning, match="slot of slots"):
        api.acquire()
    with api.acquire():
        assert free(api) == 0
    assert free(api) == 1


async def test_of_rates_alone_there_is_nothing_to_warn_of() -> None:
    for api in (
        limits.LimitSet([RateLimit("tokens", 60, capacity=10)]),
        LimitSet(tokens=Throttle(10, period=60)),
    ):
        call = api.acquire()
        call.settle(tokens=1)
        del call
        assert free(api) == 9
    async with asyncio.timeout(1):
        await api.drain()


def test_a_call_that_was_never_made_is_nothing() -> None:
    api = LimitSet(slots=threads.Throttle(math.inf, 2))
    with pytest.raises(ValueError, match="nonsense"):
        api.acquire(nonsense=1)


async def test_it_may_be_collected_while_the_limits_are_at_work() -> None:
    forgotten: list[Any] = []

    def clock() -> float:
        forgotten.clear()
        return asyncio.get_running_loop().time()

    api = LimitSet(slots=Throttle(math.inf, 2, timer=clock))
    forgotten.append(api.acquire())
    with pytest.warns(ResourceWarning):
        assert free(api) == 2  # it comes back as soon as the first call of these is through


async def test_it_may_be_collected_in_another_thread() -> None:
    api = LimitSet(slots=Throttle(math.inf, 1))
    forgotten: list[Any] = [api.acquire()]
    waiting = asyncio.ensure_future(api())
    await asyncio.sleep(0)
    with ThreadPoolExecutor() as threads_of_others, pytest.warns(ResourceWarning):
        threads_of_others.submit(forgotten.clear).result()
    (await waiting).release()


@pytest.mark.parametrize("entered", [False, True])
@of_each_kind
async def test_a_call_for_which_one_task_waits_is_not_given_to_another(
    make: Callable[[], Any], entered: bool
) -> None:
    api = make()
    held = [api.try_acquire() for _ in range(2)]
    call = api.acquire()
    assert not call.successful

    async def first() -> None:
        if entered:
            async with call:
                pass
        else:
            (await call).release()

    waiting = asyncio.create_task(first())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match=r"another task waits for <.*waiting.*a call for each"):
        await call
    for lease in held:
        lease.release()
    await waiting
    assert free(api) == 2
