"""AdaptiveRateLimiter: a rate for each resource, which follows the load that is reported."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from support import at, now, refusal_of

from async_throttle import AdaptiveRateLimiter


async def test_each_resource_has_a_rate_of_its_own() -> None:
    limiter = AdaptiveRateLimiter(2.0)
    started: dict[str, list[float]] = {"a": [], "b": []}

    async def use(resource_id: str) -> None:
        await limiter.acquire(resource_id)
        started[resource_id].append(now())

    limiter.adjust_rate("b", 0.95)
    limiter.adjust_rate("b", 0.7)
    await asyncio.gather(*(use(resource_id) for resource_id in "ab" * 4))
    assert started["a"] == [0, 0, 0.5, 1.0]
    assert started["b"] == [0, 0.25, 0.875, 1.5]


def test_a_reported_load_changes_the_rate_of_that_resource() -> None:
    limiter = AdaptiveRateLimiter(10.0)
    assert dict(limiter.rates) == {}
    for resource_id, load in (("a", 0.91), ("b", 0.49), ("c", 0.5), ("d", 0.9), ("a", 1.5)):
        limiter.adjust_rate(resource_id, load)
    assert dict(limiter.rates) == {"a": 6.4, "b": 12.0, "c": 10.0, "d": 10.0}


async def test_under_a_high_load_all_go_at_half_their_rates() -> None:
    limiter = AdaptiveRateLimiter(1.0)
    limiter.adjust_rate("other", 0.85)
    started = []
    for _ in range(3):
        await limiter.acquire("a")
        started.append(now())
    limiter.adjust_rate("other", 0.6)
    for _ in range(3):
        await limiter.acquire("a")
        started.append(now())
    assert started == [0, 2, 4, 6, 7, 8]
    limiter.adjust_rate("other", 0.85)
    for _ in range(3):  # through the throttle itself it counts once
        async with limiter.throttle("a"):
            pass
    assert now() == 11.0


async def test_those_who_wait_are_planned_anew_when_a_rate_changes() -> None:
    limiter = AdaptiveRateLimiter(1.0)
    await limiter.acquire("a")
    at(0.4, lambda: limiter.adjust_rate("a", 0.1))
    await limiter.acquire("a")
    assert now() == 0.9


def test_rates_stay_within_their_bounds_however_often_a_load_is_reported() -> None:
    limiter = AdaptiveRateLimiter(10.0, maximum=15.0)
    for _ in range(1_000):
        limiter.adjust_rate("up", 0.0)
        limiter.adjust_rate("down", 1.0)
    assert dict(limiter.rates) == {"up": 15.0, "down": 0.1}


async def test_a_block_that_is_refused_lowers_the_rate_too() -> None:
    limiter = AdaptiveRateLimiter(10.0)
    with pytest.raises(TimeoutError):
        async with limiter.throttle("a"):
            raise TimeoutError
    assert limiter.rates["a"] == 7.0


def test_a_rate_can_be_set_and_the_copy_of_all_cannot() -> None:
    limiter = AdaptiveRateLimiter(10.0)
    limiter.throttle("a").capacity = 20
    assert limiter.rates["a"] == 20.0
    with pytest.raises(TypeError):
        limiter.rates["a"] = 5.0  # type: ignore[index]


def report(load: Any) -> None:
    AdaptiveRateLimiter().adjust_rate("a", load)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rate": 0}, "rate must be .*got 0"),
        ({"rate": math.inf}, "rate must be .*got inf"),
        ({"rate": 1, "minimum": 2}, "rate must be between 2 and 100, got 1"),
        ({"rate": 1, "maximum": 0.5}, "rate must be between .* and 0.5, got 1"),
        ({"minimum": -1}, "minimum must be .*got -1"),
        ({"minimum": 3, "maximum": 2}, "maximum must be .* 3.*got 2"),
        *(({name: "x"}, f"{name} must be .*got 'x'") for name in ("minimum", "maximum", "load")),
        *(({name: []}, rf"{name} must be .*got \[\]") for name in ("rate", "minimum", "maximum")),
        ({"load": math.nan}, "load must be .*got nan"),
        ({"load": -0.1}, "load must be .*got -0.1"),
        ({"load": None}, "load must be .*got None"),
    ],
)
def test_an_adaptive_limiter_refuses_what_is_no_rate_or_load(given: Any, message: str) -> None:
    bad = next((value for value in given.values() if refusal_of(value) is TypeError), 0)
    with pytest.raises(refusal_of(bad), match=f"^{message}$"):
        (report if "load" in given else AdaptiveRateLimiter)(**given)


async def test_a_report_that_is_refused_changes_nothing() -> None:
    limiter: Any = AdaptiveRateLimiter(1.0)
    limiter.adjust_rate("a", 0.6)
    for resource_id, load in (("a", math.inf), ("b", "0.95"), ([], 0.95)):
        with pytest.raises((ValueError, TypeError)):
            limiter.adjust_rate(resource_id, load)
    assert dict(limiter.rates) == {"a": 1.0}
    await limiter.acquire("a")
    await limiter.acquire("a")
    assert now() == 1.0  # not twice as long


def test_its_repr_tells_the_rates() -> None:
    limiter = AdaptiveRateLimiter(10.0)
    limiter.adjust_rate("db", 0.85)
    assert repr(limiter) == "<async_throttle.AdaptiveRateLimiter [halved, db:10/s]>"
