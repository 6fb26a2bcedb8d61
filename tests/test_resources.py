"""`RateLimiter` and `ConcurrencyLimiter`: facades, in all the forms in which they are used."""

from __future__ import annotations

import asyncio
import collections.abc
import inspect
import math
from pathlib import Path
from typing import Any

import pytest
from support import others_run, queued, refusal_of

import async_throttle
from async_throttle import (
    ConcurrencyLimiter,
    RateLimiter,
    ResourceLimitError,
    Throttle,
    WeightTooLarge,
    testing,
)

pytestmark = pytest.mark.virtual_time

PACKAGE = Path(async_throttle.__file__).parent

Limiter = RateLimiter | ConcurrencyLimiter


@pytest.fixture(params=[lambda: RateLimiter(1), lambda: ConcurrencyLimiter(1)], ids=["rate", "one"])
def limiter(request: pytest.FixtureRequest) -> Limiter:
    made: Limiter = request.param()
    return made


def test_the_throttle_beneath_is_there_for_all_that_it_can_do() -> None:
    rate = RateLimiter(10.0, burst=20)
    assert isinstance(rate.throttle, Throttle)
    assert (rate.throttle.capacity, rate.throttle.burst, rate.throttle.period) == (10.0, 20.0, 1.0)
    assert rate.throttle.concurrency == 0
    one = ConcurrencyLimiter(5)
    assert (one.throttle.capacity, one.throttle.concurrency) == (math.inf, 5)


def test_repr_names_the_facade() -> None:
    assert repr(RateLimiter(10.0)).startswith("<async_throttle.RateLimiter")
    assert repr(ConcurrencyLimiter(3)).startswith("<async_throttle.ConcurrencyLimiter")
    assert "slots:3" in repr(ConcurrencyLimiter(3))


# --- what acquire() returns ---


async def test_acquire_is_a_coroutine_and_a_context_manager(limiter: Limiter) -> None:
    call = limiter.acquire()
    assert isinstance(call, collections.abc.Coroutine)
    assert asyncio.iscoroutine(call)
    assert inspect.isawaitable(call)
    assert hasattr(call, "__aenter__")
    assert hasattr(call, "__aexit__")
    call.close()
    assert limiter.throttle.level == limiter.throttle.burst


async def test_a_task_that_acquires_shows_what_it_does_and_where_it_stands(
    limiter: Limiter,
) -> None:
    await limiter.acquire()
    task = asyncio.create_task(limiter.acquire())
    await others_run()
    name = "Throttle.consume" if isinstance(limiter, RateLimiter) else "ConcurrencyLimiter._acquire"
    assert f"coro=<{name}() running at {PACKAGE}" in repr(task)
    assert [frame.f_code.co_qualname for frame in task.get_stack()] == [name]
    call: Any = task.get_coro()
    assert (call.__qualname__, call.__name__) == (name, name.split(".")[1])
    assert inspect.getcoroutinestate(call) == inspect.CORO_SUSPENDED
    with pytest.raises(AttributeError, match="'_Acquire' object has no attribute 'gi_frame'"):
        call.gi_frame  # noqa: B018
    task.cancel()
    await others_run()
    assert inspect.getcoroutinestate(call) == inspect.CORO_CLOSED


def test_whoever_waits_for_ever_is_shown_to_the_last_line() -> None:
    one = ConcurrencyLimiter(1)

    async def caller() -> None:
        async with one.acquire():
            await one.acquire()

    with pytest.raises(
        testing.DeadlockError, match=r"caller, [\s\S]*Throttle\.acquire, .*throttle\.py:"
    ):
        testing.run(caller())


async def test_acquire_can_be_awaited_only_once(limiter: Limiter) -> None:
    call = limiter.acquire()
    await call
    with pytest.raises(RuntimeError, match="await"):
        await call


async def test_acquire_cannot_be_awaited_by_two_at_once(limiter: Limiter) -> None:
    """The second one would take the first one's place at the future, and both would fail."""
    await limiter.acquire()
    call = limiter.acquire()

    async def caller() -> None:
        await call

    first = await queued(caller())
    with pytest.raises(RuntimeError, match="awaited already"):
        await call
    if isinstance(limiter, ConcurrencyLimiter):
        limiter.release()
    await first


async def test_an_acquire_in_debug_mode_is_a_coroutine_like_any_other(limiter: Limiter) -> None:
    asyncio.get_running_loop().set_debug(True)
    await limiter.acquire()
    task = asyncio.create_task(limiter.acquire())
    await others_run()
    assert task.get_stack() is not None
    assert repr(task)
    task.cancel()
    await others_run()
    assert task.cancelled()


async def test_limit_given_the_function_and_tokens() -> None:
    limiter = RateLimiter(10.0)

    async def operation() -> int:
        return 5

    assert await limiter.limit(operation, tokens=7)() == 5
    assert limiter.throttle.level == 3.0


# --- numbers ---


async def test_more_than_the_burst_is_refused_at_once() -> None:
    limiter = RateLimiter(10.0, burst=5)
    with pytest.raises(WeightTooLarge) as caught:
        await limiter.acquire(6)
    assert caught.value.largest == 5.0
    with pytest.raises(WeightTooLarge):
        async with limiter.acquire(6):
            pass
    assert limiter.throttle.level == 5.0


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf, 1.5, "10"])
def test_a_bad_parameter_is_refused_by_the_name_that_the_caller_knows(bad: Any) -> None:
    for name, make, good in (
        ("rate", RateLimiter, (math.inf, 1.5)),
        ("burst", lambda burst: RateLimiter(10.0, burst=burst), (1.5,)),
        ("limit", ConcurrencyLimiter, ()),
    ):
        if bad not in good:
            with pytest.raises(refusal_of(bad), match=f"^{name} .*{bad!r}"):
                make(bad)


# --- not waiting ---


async def test_a_rate_limiter_that_does_not_wait_says_when_to_come_back() -> None:
    limiter = RateLimiter(10.0, wait=False)
    await limiter.acquire(8)
    with pytest.raises(ResourceLimitError) as caught:
        await limiter.acquire(5)
    assert caught.value.retry_after == 0.3
    with pytest.raises(ResourceLimitError):
        async with limiter.acquire(3):
            pass
    assert limiter.throttle.level == 2.0
    await asyncio.sleep(0.3)
    await limiter.acquire(5)


async def test_a_concurrency_limiter_that_does_not_wait() -> None:
    limiter = ConcurrencyLimiter(1, wait=False)
    async with limiter:
        with pytest.raises(ResourceLimitError):
            await limiter.acquire()
        with pytest.raises(ResourceLimitError):
            async with limiter:
                pass
        assert limiter.throttle.active == 1
    async with limiter:
        pass


async def test_a_decorated_call_that_does_not_wait_is_not_made() -> None:
    limiter = RateLimiter(1.0, wait=False)
    calls = 0

    @limiter.limit
    async def operation() -> None:
        nonlocal calls
        calls += 1

    await operation()
    with pytest.raises(ResourceLimitError):
        await operation()
    assert calls == 1
