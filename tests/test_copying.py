"""A copy of a limiter is the limiter itself; a pickled one is refused."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from async_throttle import (
    AIMD,
    CallLimit,
    ConcurrencyLimiter,
    FixedWindow,
    LimitPool,
    LimitSet,
    RateLimit,
    RateLimiter,
    ResourceLimit,
    SlidingWindow,
    Throttle,
    Throttles,
    threads,
)
from async_throttle.limits import RateLimitAlgorithm

MAKERS: dict[str, Callable[[], Any]] = {
    "throttle": lambda: Throttle(10, 2),
    "sliding window": lambda: Throttle(10, 2, algorithm=SlidingWindow),
    "fixed window": lambda: Throttle(10, 2, algorithm=FixedWindow),
    "adaptive throttle": lambda: Throttle(10, 2, adapt=AIMD(maximum=2)),
    "throttle for threads": lambda: threads.Throttle(10, 2),
    "set": lambda: LimitSet(a=Throttle(10), b=Throttle(10), concurrency=2),
    "set for threads": lambda: LimitSet(a=threads.Throttle(10), concurrency=2),
    "set of nothing": lambda: LimitSet(),
    "pool": lambda: LimitPool([LimitSet(a=Throttle(10)), LimitSet(a=Throttle(10))]),
    "pool for threads": lambda: LimitPool([LimitSet(a=threads.Throttle(10))]),
    "keyed throttles": lambda: Throttles(lambda key: Throttle(10)),
    "RateLimiter": lambda: RateLimiter(10),
    "ConcurrencyLimiter": lambda: ConcurrencyLimiter(2),
    "RateLimit": lambda: RateLimit("a", 1, RateLimitAlgorithm.TokenBucket, 10),
    "CallLimit": lambda: CallLimit(1, RateLimitAlgorithm.TokenBucket, 10),
    "ResourceLimit": lambda: ResourceLimit("a", 10),
    "call": lambda: Throttle(10)(5),
    "call for threads": lambda: threads.Throttle(10)(5),
    "call of a set": lambda: LimitSet(a=Throttle(10))(a=5),
    "lease": lambda: threads.Throttle(10, 2).lease(5),
    "acquisition": lambda: LimitSet(a=threads.Throttle(10)).try_acquire(a=5),
}

limiters = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@limiters
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_is_the_same_object(make: Callable[[], Any], duplicate: Any) -> None:
    limiter = make()
    assert duplicate(limiter) is limiter


@limiters
def test_a_configuration_that_is_copied_deeply_shares_its_limiter(make: Callable[[], Any]) -> None:
    limiter = make()
    twin = copy.deepcopy({"limiter": limiter, "hosts": ["a"], "again": [limiter]})
    assert twin["limiter"] is limiter is twin["again"][0]


@limiters
@pytest.mark.parametrize("protocol", [0, pickle.HIGHEST_PROTOCOL])
def test_pickling_is_a_type_error_in_one_sentence(make: Callable[[], Any], protocol: int) -> None:
    with pytest.raises(TypeError) as caught:
        pickle.dumps(make(), protocol)
    message = str(caught.value)
    assert "process" in message, "says why: in another process it would be a second quota"
    assert "\n" not in message
    assert ". " not in message


@pytest.mark.parametrize(
    "make", [lambda: Throttle(10, 2), lambda: LimitSet(a=Throttle(10), concurrency=2)]
)
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
async def test_what_a_copy_takes_is_taken(make: Callable[[], Any], duplicate: Any) -> None:
    limiter = make()
    first = await limiter().__aenter__()
    second = await duplicate(limiter)().__aenter__()
    third = asyncio.create_task(limiter().__aenter__())
    await asyncio.sleep(1)
    assert not third.done()
    first.release()
    second.release()
    (await third).release()
    assert not limiter.locked()
