"""Defects of asyncutils 1.3, each as a test that ours does not share.

AU: its buckets. AX: its other limiters, whose users find a `Throttle` here. Each test says what
went wrong there.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from support import now, others_run, scaled

from async_throttle import Throttle, ThrottleTimeout, WeightTooLarge, testing
from async_throttle.buckets import LeakyBucket, TokenBucket

pytestmark = pytest.mark.virtual_time


# --- TokenBucket ---


async def test_au_1_the_rate_is_the_rate() -> None:
    """There the time slept was credited again: ``98.3 consumes/s`` at a rate of 50."""
    bucket = TokenBucket(rate=50, capacity=1)
    for _ in range(501):
        await bucket.consume()
    assert now() == 10.0


async def test_au_1b_the_rate_is_the_rate_for_ten_workers() -> None:
    """There: ``97.5/s``."""
    bucket = TokenBucket(rate=50, capacity=1)

    async def work() -> None:
        for _ in range(50):
            await bucket.consume()

    await asyncio.gather(*(work() for _ in range(10)))
    assert now() == 499 / 50


async def test_au_1c_the_rate_is_the_rate_for_heavy_calls() -> None:
    """There: ``193 tokens/s`` at a rate of 100."""
    bucket = TokenBucket(rate=100, capacity=10)
    for _ in range(101):
        await bucket.consume(10)
    assert now() == 10.0


async def test_au_1d_what_was_waited_for_is_not_there_again() -> None:
    """There 48 went where 25 were to be expected."""
    bucket = TokenBucket(rate=10, capacity=5)
    went = 0
    while now() < 2.0:
        await bucket.consume()
        went += now() < 2.0
    assert went == 5 + 19


@pytest.mark.parametrize("bad", [-1, -0.5, -math.inf, math.nan])
async def test_au_2_a_bad_amount_mints_nothing(bad: float) -> None:
    """There a negative amount added tokens."""
    token, leaky = TokenBucket(1, 5), LeakyBucket(5, 1)
    await token.consume(5)
    await leaky.acquire(5)
    for call in (token.consume, leaky.acquire, leaky.wait_for_tokens):
        with pytest.raises(ValueError, match=str(bad)):
            await call(bad)
    assert (token.throttle.level, leaky.throttle.level) == (0.0, 0.0)


@pytest.mark.parametrize("bad", [0, -1])
def test_au_2b_a_rate_that_is_not_positive_is_refused(bad: float) -> None:
    """There 0 was a ZeroDivisionError as soon as somebody had to wait, and -1 no limit: ``1000
    consumes on capacity 2 in 0.004 s``."""
    with pytest.raises(ValueError, match=f"rate must be .* got {bad}"):
        TokenBucket(bad, 2)
    with pytest.raises(ValueError, match=f"leak must be .* got {bad}"):
        LeakyBucket(2, bad)


# --- LeakyBucket ---


async def test_au_4_a_fresh_leaky_bucket_is_empty() -> None:
    """There: ``first acquire() -> False``: it began full."""
    bucket = LeakyBucket(10, 1)
    assert await bucket.acquire()
    assert await bucket.acquire(9)


async def test_au_5_more_than_the_capacity_is_an_error_at_once() -> None:
    """There: ``still polling (never ends, no error)``."""
    bucket = LeakyBucket(5, 10)
    with pytest.raises(WeightTooLarge):
        await bucket.wait_for_tokens(6)
    assert now() == 0.0


@pytest.mark.parametrize("leak", [20, 200])
async def test_au_6_a_saturated_bucket_is_not_strangled(leak: float) -> None:
    """There its factor was multiplied at each call, and sank to 0.1: ``2.3 admitted/s`` of 20."""
    bucket = LeakyBucket(capacity=10, leak=leak)
    await bucket.wait_for_tokens(10)
    admitted, seconds = 0, scaled(100)
    while now() < seconds:
        await bucket.wait_for_tokens()
        admitted += 1
    assert 0.95 * leak * seconds <= admitted <= leak * seconds + 1


async def test_au_6b_the_map_of_the_user_does_not_strangle_it_either() -> None:
    bucket = LeakyBucket(capacity=10, leak=20, adjmap=[(0, (0.3, 1.4, 0.7, 0.75))])
    await bucket.wait_for_tokens(10)
    for _ in range(150):
        await bucket.wait_for_tokens()
    assert now() == 10.0


async def test_au_8_whoever_waits_goes_in_order_of_arrival() -> None:
    """There: ``[10, 5, 7, 9, 4, 3, 6, 11, 0, 8, 1, 2]``."""
    bucket = LeakyBucket(1, 10)
    await bucket.wait_for_tokens()
    order: list[int] = []

    async def add(n: int) -> None:
        await bucket.wait_for_tokens()
        order.append(n)

    await asyncio.gather(*(add(n) for n in range(12)))
    assert order == list(range(12))


async def test_au_9_a_heavy_call_does_not_starve() -> None:
    """There: ``None s in 4 s``, never, behind light ones that kept coming."""
    bucket = LeakyBucket(10, 10)
    await bucket.wait_for_tokens(10)

    async def light() -> None:
        while True:
            await bucket.wait_for_tokens()

    lights = [asyncio.create_task(light()) for _ in range(5)]
    await others_run()
    assert await bucket.wait_for_tokens(10) == pytest.approx((5 + 10) / 9.5, abs=1e-6)
    for task in lights:
        task.cancel()
    await asyncio.gather(*lights, return_exceptions=True)


@pytest.mark.parametrize(
    "waits", [lambda: LeakyBucket(2, 2).wait_for_tokens, lambda: TokenBucket(2, 2).consume]
)
async def test_au_10_a_wait_is_one_wait(waits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """There: 40 sleeps of 0.1 s for one wait of 3.91 s."""
    wait = waits()
    await wait(2)
    loop = asyncio.get_running_loop()
    timers, call_at = 0, loop.call_at

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal timers
        timers += 1
        return call_at(*args, **kwargs)

    monkeypatch.setattr(loop, "call_at", counted)
    await wait(2)
    assert now() == 1.0
    assert timers == 2  # one a microsecond early, and one for the instant itself


@pytest.mark.parametrize("make", [lambda: LeakyBucket(1, 2), lambda: TokenBucket(2, 1)])
def test_au_11_a_second_event_loop_is_fine(make: Any) -> None:
    """There: ``RuntimeError: asyncutils: could not bind asyncio event loop``, and once there had
    been contention ``Lock ... bound to a different event loop``."""
    bucket = make()
    wait = bucket.wait_for_tokens if isinstance(bucket, LeakyBucket) else bucket.consume

    async def main() -> float:
        await asyncio.gather(*(wait() for _ in range(3)))
        return now()

    assert testing.run(main()) == 1.0
    assert testing.run(main()) == 1.5  # where the first one left off


async def test_au_12_a_short_block_leaves_nothing_behind() -> None:
    """There: ``RuntimeWarning: coroutine 'LeakyBucket._drain' was never awaited``. Warnings are
    errors here."""
    before = asyncio.all_tasks()
    with LeakyBucket(1, 1):
        assert asyncio.all_tasks() == before
    async with LeakyBucket(1, 1):
        assert asyncio.all_tasks() == before
    assert asyncio.all_tasks() == before


def test_au_12b_a_block_needs_no_event_loop() -> None:
    with LeakyBucket(1, 1) as bucket:
        pass
    assert bucket.throttle.level == 1.0


# --- its other limiters ---


async def test_ax_1_acquire_has_a_default() -> None:
    """There AdvancedRateLimit.acquire(): ``TypeError ... NoneType and int``."""
    assert await Throttle(1).acquire()


async def test_ax_2_whoever_waits_is_woken_in_time_though_nobody_else_comes() -> None:
    """There: ``after 1.50 s (0.1 s expected)``; nothing was refilled unless somebody called."""
    throttle = Throttle(10, burst=1)
    await throttle.acquire()
    await throttle.acquire()
    assert now() == 0.1
    await asyncio.sleep(1.0)
    assert throttle.level == 1.0


async def test_ax_3_a_timeout_is_an_error_that_takes_nothing() -> None:
    """There it returned False, and no TimeoutError was ever raised."""
    throttle = Throttle(1)
    await throttle.acquire()
    with pytest.raises(ThrottleTimeout):
        await throttle.acquire(timeout=0.5)
    assert now() == 0.0
    await throttle.acquire(timeout=1.0)
    assert now() == 1.0


async def test_ax_4_concurrent_entries_are_throttled_too() -> None:
    """There: ``50 concurrent entries took 0.00 s (5 s expected)``: only the next was delayed."""
    throttle = Throttle(10, burst=1)

    async def enter() -> None:
        async with throttle:
            pass

    await asyncio.gather(*(enter() for _ in range(51)))
    assert now() == 5.0


async def test_ax_6_priorities_do_not_hang_under_contention() -> None:
    """There only the first of the waiters was ever served."""
    throttle = Throttle(math.inf, 1)
    order: list[int] = []

    async def enter(n: int) -> None:
        async with throttle(priority=-n):
            order.append(n)
            await asyncio.sleep(1)

    await asyncio.gather(*(enter(n) for n in range(6)))
    assert order == [0, 5, 4, 3, 2, 1]
    assert now() == 6.0
