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
    Acquisition,
    CallLimit,
    LimitPool,
    LimitSet,
    LimitSetAcquisition,
    RateLimit,
    RateLimitAlgorithm,
    RateWindow,
    ResourceLimit,
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


@pytest.mark.parametrize(
    ("names", "seconds"),
    [
        ("Secondly second seconds sec secs per_second", 1),
        ("Minutely minute minutes min mins Per_Minute", 60),
        ("Hourly hour hours hr hrs per_hrs", 3_600),
        ("Daily day days per_day", 86_400),
        ("Weekly week weeks wk wks per_week", 604_800),
    ],
)
def test_each_window_has_its_names(names: str, seconds: int) -> None:
    assert {RateWindow(name).to_seconds() for name in names.split()} == {seconds}


@pytest.mark.parametrize("name", ["per", "s", "per_per_day", 61, None])
def test_what_is_no_name_of_a_window_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="is not a valid RateWindow"):
        RateWindow(name)


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


# ------------------------------------------------------------------------------------ acquisitions


def one_of_each(capacity: int = 100) -> LimitSet:
    bucket = RateLimitAlgorithm.TokenBucket
    return LimitSet(
        limits=[
            CallLimit(window=1e6, algorithm=bucket, capacity=10),
            RateLimit("tokens", window=1e6, algorithm=bucket, capacity=capacity),
            ResourceLimit("files", 5),
        ]
    )


async def test_acquisitions_say_of_each_limit_what_was_asked_for_and_used() -> None:
    api = one_of_each()
    async with api.acquire({"tokens": 40, "files": 2}) as lease:
        assert lease.acquisitions == {
            "call_count": Acquisition(api["call_count"], 1, 1, True),
            "tokens": Acquisition(api["tokens"], 40, 40, True),
            "files": Acquisition(api["files"], 2, 2, True),
        }
        lease.update({"tokens": 15})
        assert lease.acquisitions["tokens"].used == 15
    lease.update({"tokens": 60})
    assert lease.acquisitions["tokens"] == Acquisition(api["tokens"], 40, 60, True)


async def test_what_was_left_out_is_not_among_the_acquisitions() -> None:
    async with one_of_each().acquire({"tokens": 0, "files": 1}) as lease:
        assert [*lease.acquisitions] == ["call_count", "files"]


async def test_acquisitions_of_what_was_not_granted() -> None:
    api = one_of_each(capacity=5)
    refused = api.try_acquire({"tokens": 5, "files": 5})
    assert all(each.successful for each in refused.acquisitions.values())
    refused = api.try_acquire({"tokens": 3})
    assert refused.acquisitions["tokens"] == Acquisition(api["tokens"], 3, 3, False)
    assert api().acquisitions["tokens"] == Acquisition(api["tokens"], 1, 1, False)
    pool = LimitPool([api, api_too := one_of_each()])
    assert pool().acquisitions == {}
    async with pool.acquire({"tokens": 3}) as lease:
        assert lease.acquisitions["tokens"].limit is api_too["tokens"]


# ----------------------------------------------------------------------------------- async_acquire


def of_either_kind(kind: str) -> tuple[LimitSet | LimitPool, LimitSet]:
    limits = LimitSet(limits=[ResourceLimit("files", 1)], config={"region": "us"})
    return (limits if kind == "set" else LimitPool([limits])), limits


@pytest.mark.parametrize("kind", ["set", "pool"])
async def test_async_acquire_waits_in_turn_and_is_entered_as_a_block(kind: str) -> None:
    limiter, limits = of_either_kind(kind)
    went: list[tuple[int, float]] = []

    async def call(number: int) -> None:
        async with await limiter.async_acquire(requested={"files": 1}) as lease:
            assert (lease.successful, lease.config["region"]) == (True, "us")
            went.append((number, now()))
            await asyncio.sleep(1)

    await asyncio.gather(*(call(number) for number in range(3)))
    assert went == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert limits.get_stats()["files"]["available"] == 1


@pytest.mark.parametrize("kind", ["set", "pool"])
async def test_async_acquire_ends_with_its_timeout_or_its_task(kind: str) -> None:
    limiter, limits = of_either_kind(kind)
    held = await limiter.async_acquire()
    with pytest.raises(TimeoutError, match="within a timeout of 2 s"):
        await limiter.async_acquire(timeout=2)
    assert now() == 2.0
    task = await queued(limiter.async_acquire(files=1))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    held.release()
    assert limits.get_stats()["files"]["available"] == 1


@pytest.mark.parametrize("kind", ["set", "pool"])
async def test_what_can_never_be_says_so_in_both_ways(kind: str) -> None:
    limiter, _ = of_either_kind(kind)
    message = "exceeds capacity, and can never be fulfilled: files .*largest .* is 1$"
    for call in (limiter.acquire, limiter.try_acquire):
        with pytest.raises(WeightTooLarge, match=message) as refused:
            call({"files": 2})
        assert (refused.value.limit, refused.value.largest) == ("files", 1)
    with pytest.raises(WeightTooLarge, match=message):
        await limiter.async_acquire({"files": 2})


# ------------------------------------------------------------------------------------------ update


async def test_update_passes_over_unknown_names_and_logs_each_of_them_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The call has been made: an error would hide its answer. It gives nothing back, either."""
    api = one_of_each()
    for limiter, left in ((api, 70), (LimitPool([api]), 40)):
        async with limiter.acquire({"tokens": 40}) as lease:
            for usage in ({"letters": 1}, {"letters": 2, "tokens": 30}, {"words": 3, "letters": 4}):
                lease.update(usage)
            assert api["tokens"].throttle.level == left
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split("'")[1] for message in messages] == ["letters", "words"] * 2
    assert all("call_count, tokens, files" in message for message in messages)
    with pytest.raises(ValueError, match="letters"):
        lease.settle(letters=1)
    with pytest.raises(ValueError, match=r"tokens.*-1"):
        lease.update({"letters": 1, "tokens": -1})


@pytest.mark.parametrize(
    "usage", [{"tokens": -1}, {"call_count": 1, "tokens": -1, "files": 1}], ids=["one", "all"]
)
async def test_what_no_limit_can_settle_is_refused_once(usage: dict[str, float]) -> None:
    async with one_of_each().acquire() as lease:
        with pytest.raises(ValueError, match=r"tokens.*-1") as refused:
            lease.update(usage)
    assert refused.value.__context__ is None


async def test_usage_above_the_request_is_charged_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    api = one_of_each()
    async with api.acquire({"tokens": 40}) as lease:
        lease.update({"tokens": 40})
        lease.update({"tokens": 35, "call_count": 1})
        lease.update({"files": 5})  # what counts slots is not used up
        assert not caplog.records
        lease.update({"tokens": 45.5})
    assert api["tokens"].throttle.level == 54.5
    (record,) = caplog.records
    assert record.name == "async_throttle.limits"
    assert record.getMessage() == (
        "tokens: what was used, 45.5, exceeds requested amount 40, and is charged as debt"
    )
