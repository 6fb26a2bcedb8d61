"""What limiters count of calls that were not granted at once, and what they say of themselves."""

import asyncio
import dataclasses
import math
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from support import now, queued

from async_throttle import (
    LimitPool,
    LimitSet,
    Refused,
    Statistics,
    Throttle,
    ThrottleClosed,
    ThrottleFull,
    ThrottleTimeout,
    WeightTooLarge,
    threads,
)

FRESH = Statistics(
    level=2.0,
    capacity=1.0,
    active=0,
    waiting=0,
    paused=0.0,
    queued_granted=0,
    refused=Refused(),
    waited=0.0,
    longest=0.0,
)


def bucket(**settings: object) -> Throttle:
    return Throttle(1, 9, period=10, burst=2, **settings)  # type: ignore[arg-type]


async def test_of_a_fresh_throttle() -> None:
    assert bucket().statistics() == FRESH


async def test_a_snapshot_is_frozen() -> None:
    taken = bucket().statistics()
    with pytest.raises(FrozenInstanceError):
        taken.level = 3.0  # type: ignore[misc]
    assert dataclasses.asdict(taken)["refused"] == dict.fromkeys(
        ["timeout", "full", "closed", "weight"], 0
    )


async def test_calls_that_never_wait_are_not_counted() -> None:
    throttle = bucket()
    async with throttle, throttle(1):
        assert throttle.statistics() == dataclasses.replace(FRESH, level=0.0, active=2)


@pytest.mark.parametrize("form", ["block", "acquire", "weighed", "lease", "consume"])
async def test_calls_that_waited_are_counted_in_every_form(form: str) -> None:
    throttle = bucket(initial=0)

    async def block() -> None:
        async with throttle:
            pass

    async def weighed() -> None:
        async with throttle(1.0):
            pass

    async def lease() -> None:
        (await throttle.lease()).release()

    calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
        "block": block,
        "acquire": throttle.acquire,
        "weighed": weighed,
        "lease": lease,
        "consume": throttle.consume,
    }
    await asyncio.gather(*(calls[form]() for _ in range(3)))
    taken = throttle.statistics()
    assert (taken.queued_granted, taken.waited, taken.longest) == (3, 10.0 + 20 + 30, 30.0)
    assert taken.refused == Refused()


async def test_waits_for_a_slot_and_for_a_pause_count_as_well() -> None:
    throttle = Throttle(math.inf, 1)
    await throttle.acquire()
    asyncio.get_running_loop().call_later(5, throttle.release)
    await throttle.acquire()
    throttle.release()
    throttle.pause(7)
    await throttle.acquire()
    taken = throttle.statistics()
    assert (taken.queued_granted, taken.waited, taken.longest) == (2, 12.0, 7.0)


async def test_a_call_that_was_cancelled_is_neither_granted_nor_refused() -> None:
    throttle = bucket(initial=0)
    waiting = await queued(throttle.acquire())
    assert throttle.statistics() == dataclasses.replace(FRESH, level=0.0, waiting=1)
    waiting.cancel()
    await asyncio.sleep(0)
    assert throttle.statistics() == dataclasses.replace(FRESH, level=0.0)


async def test_refusals_count_by_kind() -> None:
    throttle = bucket(initial=0, max_waiting=1)
    with pytest.raises(WeightTooLarge):
        await throttle.acquire(3)
    with pytest.raises(WeightTooLarge):
        throttle.try_acquire(3)
    with pytest.raises(ThrottleTimeout):
        await throttle.acquire(timeout=5)  # known at once
    waiting = await queued(throttle.acquire())
    with pytest.raises(ThrottleFull):
        await throttle.acquire()
    assert throttle.try_acquire() is False
    assert throttle.statistics().refused == Refused(timeout=1, full=1, weight=2)
    throttle.close()
    with pytest.raises(ThrottleClosed):
        await waiting
    with pytest.raises(ThrottleClosed):
        async with throttle:
            pass
    assert throttle.statistics().refused == Refused(timeout=1, full=1, weight=2, closed=2)
    with pytest.raises(WeightTooLarge):
        throttle.delay(3)  # a question is no call
    assert throttle.statistics().refused.weight == 2


async def test_a_deadline_that_comes_while_it_waits_counts_once() -> None:
    throttle = Throttle(math.inf, 1)
    await throttle.acquire()
    with pytest.raises(ThrottleTimeout):
        await throttle.acquire(timeout=5)
    assert now() == 5
    assert throttle.statistics().refused == Refused(timeout=1)


async def test_a_waiter_that_fits_no_longer_counts() -> None:
    throttle = bucket(initial=0)
    waiting = await queued(throttle.acquire(2))
    throttle.burst = 1
    with pytest.raises(WeightTooLarge):
        await waiting
    assert throttle.statistics().refused == Refused(weight=1)


async def test_it_reads_pauses() -> None:
    throttle = bucket()
    throttle.pause(3)
    await asyncio.sleep(1)
    assert throttle.statistics().paused == 2.0
    throttle.pause(math.inf)
    assert throttle.statistics().paused == math.inf


def test_of_threads() -> None:
    throttle = threads.Throttle(math.inf, 1)
    with throttle:
        with pytest.raises(ThrottleTimeout):
            throttle.acquire(timeout=0)
        waiting = threading.Thread(target=lambda: throttle.acquire())
        waiting.start()
        while not throttle.waiting:
            pass
    waiting.join()
    taken = throttle.statistics()
    assert (taken.active, taken.queued_granted, taken.refused) == (1, 1, Refused(timeout=1))
    assert 0 < taken.waited == taken.longest


async def test_asked_while_it_is_at_work_it_tells_of_the_last_event() -> None:
    seen: list[Statistics] = []

    def clock() -> float:
        with suppress(NameError):
            seen.append(throttle.statistics())
        return asyncio.get_running_loop().time()

    throttle = bucket(timer=clock)
    async with throttle:
        pass
    assert seen[0] == FRESH


async def test_a_call_of_a_set_counts_at_the_limit_that_held_it_up() -> None:
    requests, tokens = Throttle(1, period=10, name="requests"), Throttle(5, period=5, name="tokens")
    api = LimitSet(requests, tokens, concurrency=5)
    async with api(tokens=5):
        pass
    async with api(tokens=1):
        pass  # the token is there after 1 s, the request after 10 s
    async with api(tokens=5):
        pass
    taken = requests.statistics()
    assert (taken.queued_granted, taken.waited, taken.longest) == (2, 20.0, 10.0)
    assert tokens.statistics().queued_granted == 0
    with pytest.raises(ThrottleTimeout):
        async with api(timeout=1):
            pass
    with pytest.raises(WeightTooLarge):
        async with api(tokens=6):
            pass
    assert requests.statistics().refused == Refused(timeout=1)
    assert tokens.statistics().refused == Refused(weight=1)


@pytest.mark.parametrize("pooled", [False, True])
async def test_questions_of_sets_and_pools_are_no_calls_either(pooled: bool) -> None:
    tokens = Throttle(5)
    api = LimitSet(tokens=tokens)
    limiter: Any = LimitPool([api, LimitSet(tokens=Throttle(5))]) if pooled else api
    with pytest.raises(WeightTooLarge):
        limiter.delay(tokens=6)
    assert tokens.statistics().refused == Refused()
    for take in (limiter.try_acquire, limiter.try_consume):
        with pytest.raises(WeightTooLarge):
            take(tokens=6)
    assert tokens.statistics().refused == Refused(weight=2)
    api.close()
    with pytest.raises(ThrottleClosed):
        api.delay()
    assert tokens.statistics().refused == Refused(weight=2)
