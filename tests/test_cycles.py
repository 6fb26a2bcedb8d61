"""Nothing of the library is left to the collector of reference cycles, however a call ended.

That collector runs at any allocation, in whichever thread, and where it is switched off, never.
That throttles are in no cycle is tested in `test_keyed`.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from support import queued

from async_throttle import (
    LimitPool,
    LimitSet,
    SlidingWindow,
    Throttle,
    TokenBucket,
    testing,
    threads,
)
from async_throttle.exceptions import ResourceLimitError


def pool_of_two(max_waiting: int | None = None) -> LimitPool:
    return LimitPool([LimitSet(Throttle(1, 1, initial=0, max_waiting=max_waiting)) for _ in "ab"])


async def enter(pool: LimitPool) -> None:
    async with pool(timeout=5):
        pass


async def a_forecast_is_played() -> None:
    throttle = Throttle(1, algorithm=SlidingWindow)
    api = LimitSet(throttle)
    callers = [await queued(throttle.acquire()) for _ in range(5)]
    api.pause(2, empty=True)
    assert api.delay() > 0
    await asyncio.gather(*callers)


async def a_forecast_of_callers_of_a_pool_is_played() -> None:
    pool = pool_of_two()
    call = await queued(enter(pool))
    assert pool[0].delay() > 0
    await call


async def a_pool_grants() -> None:
    await enter(pool_of_two())


async def a_caller_of_a_pool_is_cancelled() -> None:
    call = await queued(enter(pool_of_two()))
    call.cancel()
    await asyncio.wait([call])


async def a_caller_of_a_pool_is_refused_in_the_queue() -> None:
    pool = pool_of_two()
    call = await queued(enter(pool))
    for limit_set in pool:
        limit_set[0].close()
    await asyncio.wait([call])  # to await it would be a cycle of this test's own


async def a_pool_is_asked_for_too_much() -> None:
    with suppress(ResourceLimitError):
        pool_of_two().try_acquire({0: 5})


async def a_full_pool_is_asked_for_its_delay() -> None:
    pool = pool_of_two(max_waiting=1)
    callers = [await queued(limit_set[0].acquire()) for limit_set in pool]
    with suppress(ResourceLimitError):
        pool.delay()
    await asyncio.gather(*callers)


class Failing(TokenBucket):
    """Fails for a weight of 3 as soon as somebody waits for it."""

    __slots__ = ()

    def take(self, now: int, weight: int) -> int | None:
        if now and weight == 3_000_000_000:
            raise LookupError
        return super().take(now, weight)


async def a_rule_fails_for_a_waiter() -> None:
    throttle = Throttle(5, algorithm=Failing, initial=0)
    with suppress(LookupError):
        await throttle.acquire(3)


SCENES = [
    *(a_forecast_is_played, a_forecast_of_callers_of_a_pool_is_played, a_pool_grants),
    *(a_caller_of_a_pool_is_cancelled, a_caller_of_a_pool_is_refused_in_the_queue),
    *(a_pool_is_asked_for_too_much, a_full_pool_is_asked_for_its_delay, a_rule_fails_for_a_waiter),
]


@pytest.mark.parametrize("scene", SCENES)
def test_nothing_of_the_library_is_left_in_a_reference_cycle_after(
    scene: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    assert left_in_cycles(lambda: testing.run(scene())) == set()


def test_a_thread_that_has_waited_for_a_pool_leaves_no_reference_cycle() -> None:
    def wait() -> None:
        with LimitPool([LimitSet(threads.Throttle(100, initial=0)) for _ in "ab"])():
            pass

    assert left_in_cycles(wait) == set()


def left_in_cycles(play: Callable[[], object]) -> set[type]:
    """The library's classes of which something is left to the collector."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        play()
        gc.collect()
        kinds = {type(thing) for thing in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    return {
        kind
        for kind in kinds
        if kind.__module__.startswith("async_throttle.") and kind.__module__ != testing.__name__
    }
