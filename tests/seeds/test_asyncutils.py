"""Every promise in the documents of asyncutils.buckets, run.

The documents have no examples: what is quoted is what they say. Defaults that they keep in a
context of their own are those of the parameters here, and its tick has nothing to stand for.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any

import pytest
from support import now, queued

from async_throttle.buckets import LeakyBucket, TokenBucket

pytestmark = pytest.mark.virtual_time


# --- class asyncutils.buckets.LeakyBucket(
#         capacity: float, leak: float, min_factor: float = ..., max_factor: float = ...,
#         external_factor_settable: bool = ..., timer: Timer = ...) ---


def test_leaky_bucket_signature() -> None:
    parameters = inspect.signature(LeakyBucket).parameters
    assert list(parameters)[:6] == [
        "capacity",
        "leak",
        "min_factor",
        "max_factor",
        "external_factor_settable",
        "timer",
    ]
    assert all(
        parameters[name].default is parameters[name].empty for name in ("capacity", "leak")
    )  # "(required)"
    assert {parameter.kind for parameter in list(parameters.values())[:6]} == {
        inspect.Parameter.POSITIONAL_OR_KEYWORD
    }
    LeakyBucket(10, 5, 0.5, 2.0, False, time.monotonic)


async def test_use_as_a_context_manager() -> None:
    # "A leaky bucket rate limiter with adaptive flow control. Use as a context manager."
    bucket = LeakyBucket(10, 5)
    assert isinstance(bucket, AbstractContextManager)
    assert isinstance(bucket, AbstractAsyncContextManager)
    with bucket as same:
        assert same is bucket
    async with bucket as same:
        assert same is bucket


async def test_in_the_context_tokens_leak_at_a_constant_rate() -> None:
    # "In the context, tokens leak from the bucket at a constant rate."
    # "Operations can add tokens to the bucket."
    async with LeakyBucket(capacity=5, leak=2) as bucket:
        assert await bucket.acquire(2)
        assert await bucket.wait_for_tokens(3) == 0.0
        for _ in range(20):
            await asyncio.sleep(0.5)
            assert not await bucket.acquire(1.01)
            assert await bucket.acquire(1)


async def test_the_factor_adjusts_to_the_fill_level_as_the_map_dictates() -> None:
    # "The bucket includes an adaptive factor that adjusts based on current fill level to provide
    # smoother rate limiting under varying loads, as dictated by context.LEAKY_BUCKET_ADJMAP, a
    # sequence of tuples (mincap, (lbound, lfactor, ubound, ufactor)) monotonically descending in
    # mincap."
    adjmap = ((100, (0.2, 1.5, 0.8, 0.5)), (10, (0.3, 2.0, 0.7, 0.4)), (0, (0.4, 2.5, 0.6, 0.3)))
    for capacity, low, high in ((100, 1.5, 0.5), (99, 2.0, 0.4), (9, 2.5, 0.3)):
        bucket = LeakyBucket(capacity, 1, adjmap=adjmap)
        assert bucket.factor == low
        await bucket.acquire(capacity / 2)
        assert bucket.factor == 1.0
        await bucket.acquire(capacity / 2)
        assert bucket.factor == high


async def test_capacity_is_the_most_that_the_bucket_can_hold() -> None:
    # "capacity (required): The maximum number of tokens the bucket can hold"
    bucket = LeakyBucket(2.5, 1)
    assert bucket.capacity == 2.5
    assert [await bucket.acquire(0.5) for _ in range(6)] == [True] * 5 + [False]


async def test_leak_is_the_rate_at_which_tokens_leak() -> None:
    # "leak (required): The rate at which tokens leak from the bucket"
    bucket = LeakyBucket(1, 4)
    for _ in range(41):
        await bucket.wait_for_tokens()
    assert now() == 10.0


async def test_min_factor_and_max_factor_bound_the_factor() -> None:
    # "min_factor: Minimum adaptive factor", "max_factor: Maximum adaptive factor"
    bucket = LeakyBucket(100, 1, min_factor=0.8, max_factor=1.2, adjmap=[(0, (0.2, 5, 0.8, 0.1))])
    assert bucket.factor == 1.2
    await bucket.acquire(90)
    assert bucket.factor == 0.8


@pytest.mark.parametrize("settable", [True, False])
def test_external_factor_settable_is_whether_the_factor_can_be_modified(settable: bool) -> None:
    # "external_factor_settable: Whether the factor attribute can be modified"
    bucket = LeakyBucket(10, 1, external_factor_settable=settable)
    if settable:
        bucket.factor = 2.0
        assert bucket.factor == 2.0
    else:
        with pytest.raises(AttributeError):
            bucket.factor = 2.0
        assert bucket.factor == 1.0


async def test_exit_stops_draining_the_tokens() -> None:
    # "__exit__: Stop draining the tokens in the bucket."
    bucket = LeakyBucket(5, 1)
    with bucket:
        await bucket.acquire(5)
        await asyncio.sleep(2)
    await asyncio.sleep(100)
    assert not await bucket.acquire(2.1)
    assert await bucket.acquire(2)


async def test_acquire_attempts_to_add_at_once_and_returns_success() -> None:
    # "async acquire(amount: float = ...) -> bool: Attempt to add amount tokens to the bucket
    # immediately (default context.LEAKY_BUCKET_DEFAULT_ACQUIRE_TOKENS); return success."
    assert inspect.iscoroutinefunction(LeakyBucket.acquire)
    assert inspect.signature(LeakyBucket.acquire).parameters["amount"].default == 1.0
    bucket = LeakyBucket(3, 1)
    assert await bucket.acquire(amount=2) is True
    assert await bucket.acquire(amount=2) is False
    assert await bucket.acquire() is True
    assert now() == 0.0


async def test_wait_for_tokens_waits_until_all_can_be_added_at_once_and_returns_how_long() -> None:
    # "async wait_for_tokens(amount: float = ...) -> float: Keep asynchronously sleeping [...] until
    # amount tokens can be added to the bucket at once (default
    # context.LEAKY_BUCKET_DEFAULT_WAIT_FOR_TOKENS_TOKENS), and do so, returning the total wait
    # time."
    assert inspect.iscoroutinefunction(LeakyBucket.wait_for_tokens)
    assert inspect.signature(LeakyBucket.wait_for_tokens).parameters["amount"].default == 1.0
    bucket = LeakyBucket(4, 1)
    assert await bucket.wait_for_tokens(amount=4) == 0.0
    assert await bucket.wait_for_tokens() == 1.0
    await asyncio.sleep(0.5)
    assert await bucket.wait_for_tokens(3) == 2.5
    assert (now(), bucket.throttle.level) == (4.0, 0.0)


@pytest.mark.parametrize("factor", [0.5, 1, 2])
async def test_the_wait_depends_on_amount_tokens_capacity_leak_and_factor(factor: float) -> None:
    # "The sleep interval is calculated based on the amount of tokens requested, the current number
    # of tokens, the bucket capacity, the leaking rate and the current factor."
    bucket = LeakyBucket(capacity=8, leak=2)
    bucket.factor = factor
    assert await bucket.acquire(7)
    assert await bucket.wait_for_tokens(5) == (7 + 5 - 8) / (2 * factor)


async def test_factor_is_the_current_one() -> None:
    # "property factor: float: The current adaptive factor."
    # "Manually set the adaptive factor to value, clamped to min_factor and max_factor."
    bucket = LeakyBucket(10, 1, 0.25, 4.0)
    for value, clamped in ((2, 2), (100, 4.0), (0.01, 0.25)):
        bucket.factor = value
        assert bucket.factor == clamped
    waiting = await queued(_filled_and_waiting(bucket))
    del bucket.factor
    assert bucket.factor == 0.95  # nearly full
    await waiting


async def _filled_and_waiting(bucket: LeakyBucket) -> None:
    await bucket.wait_for_tokens(10)
    await bucket.wait_for_tokens(1)


# --- class asyncutils.buckets.TokenBucket(rate: float, capacity: float, timer: Timer = ...) ---


def test_token_bucket_signature() -> None:
    parameters = inspect.signature(TokenBucket).parameters
    assert list(parameters) == ["rate", "capacity", "timer"]
    TokenBucket(10.0, 5.0, time.monotonic)
    TokenBucket(rate=10.0, capacity=5.0, timer=time.time)


async def test_the_bucket_fills_at_a_fixed_rate_and_each_operation_consumes() -> None:
    # "A token bucket rate limiter that controls the rate of operations. The bucket fills up with
    # tokens at a fixed rate, with each operation consuming a certain amount of tokens."
    # "rate: The number of tokens the bucket gains per time interval"
    # "property capacity: float: The capacity of the bucket.", the most that it can hold
    # "timer (optional): A function such as time.time() that returns the current time; default
    # time.monotonic()": test_buckets.py has both buckets follow theirs
    bucket = TokenBucket(rate=4, capacity=2)
    assert (bucket.capacity, type(bucket.capacity)) == (2.0, float)
    assert bucket.throttle.level == 2.0
    await bucket.consume(2)
    assert bucket.throttle.level == 0.0
    await asyncio.sleep(0.25)
    assert bucket.throttle.level == 1.0
    await asyncio.sleep(100)
    assert bucket.throttle.level == 2.0


async def test_if_there_are_not_enough_tokens_the_operation_waits_until_there_are() -> None:
    # "If there are not enough tokens, the operation must wait until there are."
    bucket = TokenBucket(rate=4, capacity=2)
    went = []
    for tokens in (2, 1, 2, 0.5):
        await bucket.consume(tokens)
        went.append(now())
    assert went == [0.0, 0.25, 0.75, 0.875]


async def test_consume_takes_one_token_unless_told_otherwise_and_returns_nothing() -> None:
    # "async consume(tokens: float = ...) -> None"
    assert inspect.iscoroutinefunction(TokenBucket.consume)
    bucket = TokenBucket(1, 5)
    assert await bucket.consume() is None  # type: ignore[func-returns-value]
    assert bucket.throttle.level == 4.0
    await bucket.consume(tokens=2.5)
    assert bucket.throttle.level == 1.5


def test_the_documented_names_are_all_there() -> None:
    documented: dict[Any, set[str]] = {
        LeakyBucket: {"__enter__", "__exit__", "__aenter__", "__aexit__"}
        | {"acquire", "wait_for_tokens", "capacity", "factor"},
        TokenBucket: {"consume", "capacity"},
    }
    for cls, names in documented.items():
        assert names <= set(dir(cls))
