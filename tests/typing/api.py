"""Only type checkers read this file: what they must accept, infer and refuse."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import timedelta
from typing import Any, assert_type

from async_throttle import (
    GCRA,
    ConcurrencyLimiter,
    FixedWindow,
    LeakyBucket,
    Lease,
    RateLimitAlgorithm,
    RateLimiter,
    ResourceError,
    ResourceLimitError,
    Rule,
    SlidingWindow,
    Throttle,
    ThrottleClosed,
    ThrottleFull,
    ThrottleTimeout,
    TokenBucket,
    WeightTooLarge,
    exceptions,
)


def construction() -> None:
    Throttle(10)
    Throttle(10.5, 2, 0.5)
    Throttle(math.inf, concurrency=3)
    Throttle(
        10,
        burst=20,
        algorithm=SlidingWindow,
        initial=0.5,
        max_waiting=100,
        timer=lambda: 5.0,
        name="api",
    )
    for algorithm in (TokenBucket, GCRA, LeakyBucket, SlidingWindow, FixedWindow):
        Throttle(10, algorithm=algorithm)
    Throttle(10, algorithm=RateLimitAlgorithm.GCRA)
    Throttle(10, burst=None, initial=None, max_waiting=None, timer=None, name=None)

    Throttle()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Throttle("10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Throttle(10, 2, 1.0, 20)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Throttle(10, algorithm=int)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Throttle(10, algorithm="gcra")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Throttle(10, brust=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def entering(throttle: Throttle) -> None:
    async with throttle as nothing:
        assert_type(nothing, None)
    async with throttle(5) as lease:
        assert_type(lease, Lease)
    async with throttle() as lease, throttle(0.5, timeout=2) as other:
        assert_type(other, Lease)
    async with AsyncExitStack() as stack:
        assert_type(await stack.enter_async_context(throttle), None)
        assert_type(await stack.enter_async_context(throttle(5)), Lease)
    manager: AbstractAsyncContextManager[None] = throttle
    leased: AbstractAsyncContextManager[Lease] = throttle(5)
    async with manager, leased:
        pass
    with throttle:  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues, reportAttributeAccessIssue]
        pass


async def calls(throttle: Throttle) -> None:
    assert_type(await throttle.acquire(), bool)
    assert_type(await throttle.acquire(2.5, timeout=1), bool)
    assert_type(throttle.release(), None)
    assert_type(await throttle.lease(5, timeout=2), Lease)
    assert_type(throttle.try_acquire(2), bool)
    assert_type(await throttle.consume(3), None)
    assert_type(throttle.charge(3), None)
    assert_type(throttle.locked(), bool)
    assert_type(await throttle.pause(5), None)
    throttle.pause(timedelta(seconds=3), empty=True)
    throttle.pause(math.inf)
    assert_type(throttle.resume(), None)
    assert_type(throttle.delay(2), float)
    assert_type(throttle.guarantee(1), float)
    assert_type(await throttle.drain(), None)
    assert_type(throttle.close(drop_waiting=False), None)
    task: asyncio.Task[bool] = asyncio.create_task(throttle.acquire())
    await task
    await throttle.acquire("5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await throttle.acquire(1, 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    throttle.pause("5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def looking(throttle: Throttle) -> None:
    assert_type(throttle.level, float)
    assert_type(throttle.active, int)
    assert_type(throttle.waiting, int)
    assert_type(throttle.paused_for, float)
    assert_type(throttle.capacity, float)
    assert_type(throttle.concurrency, int)
    assert_type(throttle.period, float)
    assert_type(throttle.burst, float)
    assert_type(throttle.name, str | None)
    assert_type(throttle.algorithm, type[Rule])
    throttle.capacity = 5
    throttle.concurrency = 2
    throttle.period = 0.5
    throttle.burst = 7.5
    throttle.burst = None
    throttle.level = 5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    throttle.active = 5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def settling(lease: Lease) -> None:
    assert_type(lease.weight, float)
    assert_type(lease.waited, float)
    assert_type(lease.settle(2.5), None)
    assert_type(lease.release(), None)


async def decorating(throttle: Throttle) -> None:
    @throttle(5)
    async def fetch(url: str, *, retries: int = 3) -> bytes:
        return url.encode() * retries

    assert_type(await fetch("x", retries=2), bytes)
    call: Coroutine[Any, Any, bytes] = fetch("x")
    await asyncio.create_task(call)
    await fetch(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await fetch("x", 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    class Client:
        @throttle(2, timeout=5)
        async def get(self, number: int) -> list[str]:
            return [str(number)]

    assert_type(await Client().get(5), list[str])
    await Client().get("5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    def plain() -> int:
        return 5

    throttle(5)(plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]


async def rate_limiting(limiter: RateLimiter) -> None:
    RateLimiter(10.0)
    RateLimiter(rate=100.0, burst=20)
    RateLimiter(0.5, wait=False)
    async with limiter as same:
        assert_type(same, RateLimiter)
    assert_type(await limiter.acquire(), None)
    assert_type(await limiter.acquire(tokens=5), None)
    async with limiter.acquire(2) as same:
        assert_type(same, RateLimiter)
    await asyncio.gather(limiter.acquire(), limiter.acquire(0.5))
    await asyncio.wait_for(limiter.acquire(), 5)
    task: asyncio.Task[None] = asyncio.create_task(limiter.acquire())
    await task
    assert_type(limiter.throttle, Throttle)

    @limiter.limit
    async def one(a: int) -> str:
        return str(a)

    @limiter.limit(tokens=5)
    async def five(a: int) -> str:
        return str(a)

    assert_type(await one(1), str)
    assert_type(await five(1), str)
    await one("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await five("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    class Thrifty(RateLimiter):
        pass

    async with Thrifty(5) as thrifty, thrifty.acquire(2) as again:
        assert_type(thrifty, Thrifty)
        assert_type(again, Thrifty)


async def concurrency_limiting(limiter: ConcurrencyLimiter) -> None:
    ConcurrencyLimiter(5)
    ConcurrencyLimiter(limit=5, wait=False)
    async with limiter as same:
        assert_type(same, ConcurrencyLimiter)
    assert_type(await limiter.acquire(), None)
    assert_type(limiter.release(), None)
    async with limiter.acquire() as same:
        assert_type(same, ConcurrencyLimiter)
    async with AsyncExitStack() as stack:
        assert_type(await stack.enter_async_context(limiter), ConcurrencyLimiter)

    @limiter.limit
    async def one(a: int) -> str:
        return str(a)

    wrapped: Callable[[int], Awaitable[str]] = one
    assert_type(await one(1), str)
    await wrapped(1)
    await limiter.acquire(5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def catching(throttle: Throttle) -> None:
    try:
        throttle.try_acquire()
    except WeightTooLarge as error:
        assert_type(error.largest, float | None)
    except ThrottleTimeout as error:
        as_builtin: TimeoutError = error
        as_ours: exceptions.TimeoutError = error
        print(as_builtin, as_ours)
    except (ThrottleFull, ThrottleClosed) as error:
        assert_type(error.retry_after, float | None)
        assert_type(error.limit, str | None)
    except ResourceLimitError as error:
        as_value: ResourceError = error
        print(as_value)


def a_rule_of_ones_own() -> None:
    class Never(Rule):
        def ready_at(self, now: int, weight: int) -> int:
            return now

        def take(self, now: int, weight: int) -> None:
            return None

        def level(self, now: int) -> float:
            return 0.0

    Throttle(10, algorithm=Never)
