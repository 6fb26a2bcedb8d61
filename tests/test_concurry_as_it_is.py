"""What concurry 0.13.2 has beyond its documents, in its words.

Its own tests run as well, from its source archive: `concurry_suite.py`. Here stands what those do
not ask, and what is to be otherwise.
"""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from typing import Any

import pytest
from support import at, now, queued

from async_throttle import WeightTooLarge
from async_throttle.limits import (
    CallLimit,
    LimitSet,
    LimitSetAcquisition,
    RateLimit,
    RateLimitAlgorithm,
    RateWindow,
)

pytestmark = pytest.mark.virtual_time

BUCKETS = [
    RateLimitAlgorithm.TokenBucket,
    RateLimitAlgorithm.GCRA,
    RateLimitAlgorithm.LeakyBucket,
]

each_algorithm = pytest.mark.parametrize("algorithm", [*RateLimitAlgorithm])
each_bucket = pytest.mark.parametrize("algorithm", BUCKETS)


def calls(**how: Any) -> CallLimit:
    how.pop("key")
    return CallLimit(**how)


each_rate = pytest.mark.parametrize("rate", [RateLimit, calls])


async def granted(acquisition: LimitSetAcquisition) -> LimitSetAcquisition:
    return await acquisition


# ----------------------------------------------------------------------------------------- windows


@each_rate
@pytest.mark.parametrize(
    ("window", "seconds"),
    [
        (0.25, 0.25),
        (timedelta(minutes=5), 300),
        (RateWindow.Daily, 86_400),
        ("Weekly", 604_800),
        ("PER_MINS", 60),
    ],
)
@pytest.mark.parametrize("name", ["window", "per", "window_seconds"])
def test_a_window_is_said_in_seconds_or_by_name(
    rate: Any, name: str, window: Any, seconds: float
) -> None:
    limit = rate(key="tokens", capacity=10, **{name: window})
    assert limit.window == limit.window_seconds == limit.throttle.period == seconds
    stats = limit.get_stats()
    assert stats["window"] == stats["window_seconds"] == seconds


@each_rate
def test_there_is_one_window(rate: Any) -> None:
    with pytest.raises(ValueError, match=r"one parameter, got per='hour' and window_seconds=60"):
        rate(key="tokens", capacity=10, per="hour", window_seconds=60)
    with pytest.raises(TypeError, match="window must be given"):
        rate(key="tokens", capacity=10)


@pytest.mark.parametrize("name", ["window", "per", "window_seconds"])
@pytest.mark.parametrize(
    ("window", "error"),
    [
        ("fortnight", ValueError),
        ("per_", ValueError),
        ("60", ValueError),
        (0, ValueError),
        (-1, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        (timedelta(0), ValueError),
        (True, ValueError),
        ([60], TypeError),
    ],
)
def test_what_is_no_window_is_refused_by_name_and_value(
    name: str, window: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"{name} must be") as refused:
        RateLimit("tokens", capacity=10, **{name: window})
    assert repr(window) in str(refused.value)


# ------------------------------------------------------------------------------ capacities below 1


@each_rate
@each_bucket
async def test_a_capacity_below_1_is_the_most_at_once(
    rate: Any, algorithm: RateLimitAlgorithm
) -> None:
    """Nothing that weighs 1 can ever go, and what is less goes at the rate that was asked for."""
    limit = rate(key="tokens", window=10, algorithm=algorithm, capacity=0.5)
    stats = limit.get_stats()
    assert [stats[key] for key in ("available_tokens", "current_usage", "utilization")] == [
        0.5,
        0,
        0,
    ]
    assert (limit.can_acquire(0.5), limit.can_acquire(0.6)) == (True, False)
    with pytest.raises(WeightTooLarge) as refused:
        LimitSet(limits=[limit]).try_acquire(requested={limit.key: 1})
    assert refused.value.largest == 0.5
    for _ in range(3):
        await limit.throttle.consume_async(0.5)
    assert now() == 20.0


@each_rate
@each_algorithm
async def test_a_capacity_that_is_set_below_1_is_the_most_at_once_from_then_on(
    rate: Any, algorithm: RateLimitAlgorithm
) -> None:
    limit = rate(key="tokens", window=10, algorithm=algorithm, capacity=10)
    api = LimitSet(limits=[limit])
    api.acquire(requested={limit.key: 1}).release()
    for capacity in (0.5, 0.25, 2, 0.125):
        await asyncio.sleep(1_000)
        limit.capacity = capacity
        await asyncio.sleep(1_000)
        stats = limit.get_stats()
        assert stats["available_tokens"] == stats["capacity"] == capacity == limit.throttle.burst
        assert stats["current_usage"] == stats["utilization"] == 0
        assert (limit.can_acquire(capacity), limit.can_acquire(capacity * 2)) == (True, False)


@each_algorithm
async def test_a_waiter_that_no_longer_fits_fails_as_the_capacity_falls_below_1(
    algorithm: RateLimitAlgorithm,
) -> None:
    limit = RateLimit("tokens", 10, algorithm, 1)
    api = LimitSet(limits=[limit])
    async with api.acquire():
        task = await queued(granted(api()))
        at(2.0, lambda: setattr(limit, "capacity", 0.5))
        with pytest.raises(WeightTooLarge):
            await task
    assert now() == 2.0


@each_algorithm
@pytest.mark.parametrize(
    ("capacity", "error"),
    [(0, ValueError), (-0.5, ValueError), (math.nan, ValueError), ("0.5", TypeError)],
)
def test_a_capacity_that_is_none_changes_nothing(
    algorithm: RateLimitAlgorithm, capacity: Any, error: type[Exception]
) -> None:
    limit = RateLimit("tokens", 10, algorithm, 5)
    with pytest.raises(error, match=f"capacity.*{capacity}"):
        limit.capacity = capacity
    assert (limit.capacity, limit.throttle.burst) == (5, 5)


# -------------------------------------------------------------------------------------- signatures


def test_limits_that_limit_the_same_have_one_signature() -> None:
    by_class = RateLimit("any", "minute", RateLimitAlgorithm.GCRA.value, 0.5)
    for limit in (by_class, RateLimit("other", 60.0, RateLimitAlgorithm.GCRA, 0.5)):
        assert limit.params_signature() == "c0.5w60gcr"
    assert RateLimit("any", 0.5, None, math.inf).params_signature() == "cinfw0.5sli"
