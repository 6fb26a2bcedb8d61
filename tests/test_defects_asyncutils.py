"""Defects of asyncutils 1.3, each as a test that ours does not share.

AU: its buckets. AX: its other limiters, whose users find a `Throttle` here. Each test says what
went wrong there; see `ELSEWHERE` in test_defects.py as well.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from support import now, others_run, scaled

from async_throttle import Throttle, WeightTooLarge
from async_throttle.buckets import ADJMAP, LeakyBucket, TokenBucket

pytestmark = pytest.mark.virtual_time


# --- TokenBucket ---


@pytest.mark.parametrize(
    ("rate", "capacity", "weight", "workers"), [(50, 1, 1, 1), (50, 1, 1, 10), (100, 10, 10, 1)]
)
async def test_au_1_to_1c_the_rate_is_the_rate(
    rate: float, capacity: float, weight: float, workers: int
) -> None:
    """There the time slept was credited again: ``98.3 consumes/s`` at a rate of 50, and ``193
    tokens/s`` of heavy calls at 100."""
    bucket = TokenBucket(rate, capacity)

    async def work() -> None:
        for _ in range(100 // workers):
            await bucket.consume(weight)

    await asyncio.gather(*(work() for _ in range(workers)))
    assert now() == pytest.approx((100 * weight - capacity) / rate)


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


async def test_au_4_and_5_a_fresh_leaky_bucket_is_empty_and_takes_no_more_than_it_holds() -> None:
    """There: ``first acquire() -> False``: it began full; and for more than its capacity ``still
    polling (never ends, no error)``."""
    bucket = LeakyBucket(10, 1)
    assert await bucket.acquire()
    assert await bucket.acquire(9)
    with pytest.raises(WeightTooLarge):
        await bucket.wait_for_tokens(11)
    assert now() == 0.0


@pytest.mark.parametrize("leak", [20, 200])
async def test_au_6_a_saturated_bucket_is_not_strangled(leak: float) -> None:
    """There its factor was multiplied at each call, and sank to 0.1: ``2.3 admitted/s`` of 20."""
    adjmaps: list[tuple[Any, float]] = [(ADJMAP, 0.95), ([(0, (0.3, 1.4, 0.7, 0.75))], 0.75)]
    for adjmap, share in adjmaps:
        bucket = LeakyBucket(capacity=10, leak=leak, adjmap=adjmap)
        await bucket.wait_for_tokens(10)
        admitted, seconds, began = 0, scaled(50), now()
        while now() < began + seconds:
            await bucket.wait_for_tokens()
            admitted += 1
        assert share * leak * seconds <= admitted <= leak * seconds + 1


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


async def test_au_12_a_short_block_leaves_nothing_behind() -> None:
    """There: ``RuntimeWarning: coroutine 'LeakyBucket._drain' was never awaited``. Warnings are
    errors here."""
    before = asyncio.all_tasks()
    with LeakyBucket(1, 1):
        assert asyncio.all_tasks() == before
    async with LeakyBucket(1, 1):
        assert asyncio.all_tasks() == before
    assert asyncio.all_tasks() == before


def test_au_12_nor_does_a_block_need_an_event_loop() -> None:
    with LeakyBucket(1, 1) as bucket:
        pass
    assert bucket.throttle.level == 1.0


# --- its other limiters ---


async def test_ax_2_whoever_waits_is_woken_in_time_though_nobody_else_comes() -> None:
    """There: ``after 1.50 s (0.1 s expected)``; nothing was refilled unless somebody called."""
    throttle = Throttle(10, burst=1)
    await throttle.acquire()
    await throttle.acquire()
    assert now() == 0.1
    await asyncio.sleep(1.0)
    assert throttle.level == 1.0
