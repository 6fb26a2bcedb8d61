"""Defects of concurry 0.13, each as a test that ours does not share.

CC: its limits. CS, CP, CR: its workers, its sets across processes, its sets on ray. Each test says
what went wrong there, and most run in its words and in ours: blocking, under asyncio, and with
sets of throttles.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest
from freezegun import freeze_time
from support import now, others_run

from async_throttle import ResourceLimitError, Throttle, ThrottleTimeout
from async_throttle.limits import (
    LimitPool,
    LimitSet,
    LoadBalancingAlgorithm,
    RateLimit,
    RateLimitAlgorithm,
    ResourceLimit,
)

pytestmark = pytest.mark.virtual_time

BUCKETS = [
    RateLimitAlgorithm.TokenBucket,
    RateLimitAlgorithm.GCRA,
    RateLimitAlgorithm.LeakyBucket,
]
MODES = ["sync", "thread", "asyncio"]

standing_still = freeze_time("2026-01-01")
"""For plain functions, of whom virtual time knows nothing: no token comes back meanwhile."""


def tokens(
    capacity: int = 100,
    seconds: float = 1000,
    algorithm: RateLimitAlgorithm = RateLimitAlgorithm.TokenBucket,
    key: str = "tokens",
) -> RateLimit:
    return RateLimit(key=key, window_seconds=seconds, algorithm=algorithm, capacity=capacity)


def documented(*limits: Any, mode: str = "thread", **config: str) -> LimitSet:
    return LimitSet(limits=list(limits), shared=mode != "sync", mode=mode, config=config)


def used(limits: LimitSet, key: str = "connections") -> float:
    usage: float = limits.get_stats()[key]["current_usage"]
    return usage


def available(limits: LimitSet, key: str = "tokens") -> float:
    left: float = limits.get_stats()[key]["available_tokens"]
    return left


# --- the end of a block ---


@pytest.mark.parametrize("mode", MODES)
@standing_still
def test_cc_1_and_18_the_error_of_the_body_is_not_hidden_and_nothing_leaks(mode: str) -> None:
    """There: ``RuntimeError: Not all limits ... Missing: ['tok'] | __context__:
    ConnectionError``, ``1 of 2 in use after the block``, and no retry on ConnectionError.
    CC-1c: each forgotten update() leaked a slot: ``third acquire: TimeoutError``."""
    limits = documented(tokens(), ResourceLimit(key="connections", capacity=2), mode=mode)
    hung_up = ConnectionError("the service hung up")
    for _ in range(5):
        with (
            pytest.raises(ConnectionError) as seen,
            limits.acquire(requested={"tokens": 10, "connections": 1}),
        ):
            raise hung_up
        assert seen.value is hung_up
        assert seen.value.__context__ is None
        with limits.acquire(requested={"tokens": 10, "connections": 1}, timeout=0):
            pass
    assert used(limits) == 0
    assert available(limits) == 0  # a server counts failures, too, and the estimates stay


async def test_cc_1_and_2_nor_in_coroutines_in_its_words_and_in_ours() -> None:
    """CC-2: a timeout in the body was ``TimeoutError replaced by RuntimeError``."""
    limits = documented(tokens(), ResourceLimit(key="connections", capacity=1))
    api = LimitSet(tokens=Throttle(100, period=1e6), concurrency=1)
    entries: list[Callable[[], Any]] = [
        lambda: limits.acquire(requested={"tokens": 10}),
        lambda: api(tokens=10),
    ]
    for enter in entries:
        for _ in range(3):
            with pytest.raises(ConnectionError) as seen:
                async with enter():
                    raise ConnectionError
            assert seen.value.__context__ is None
            with pytest.raises(TimeoutError) as late:
                async with asyncio.timeout(1), enter():
                    await asyncio.sleep(math.inf)
            assert not isinstance(late.value, ResourceLimitError)  # asyncio's own, not ours
    assert now() == 6.0
    assert used(limits) == 0
    assert not api.locked()


# --- what was never granted ---


@pytest.mark.parametrize("mode", MODES)
def test_cc_3_a_refused_try_releases_nothing(mode: str) -> None:
    """There it gave back what it had never taken: ``usage 0 with 1 holder of capacity 1``, and
    then one too many was let in."""
    limits = documented(ResourceLimit(key="connections", capacity=1), mode=mode)
    with limits.try_acquire(requested={"connections": 1}) as holder:
        assert holder.successful
        for _ in range(3):
            with limits.try_acquire(requested={"connections": 1}) as refused:
                assert not refused.successful
            refused.release()
            assert used(limits) == 1
    assert used(limits) == 0


@pytest.mark.parametrize("algorithm", RateLimitAlgorithm)
async def test_cc_3c_a_refused_try_has_nothing_to_refund(algorithm: RateLimitAlgorithm) -> None:
    """There: ``available 10.0 (should be ~0)`` after a failed try_acquire and update(0)."""
    limits = documented(tokens(10, algorithm=algorithm))
    limits.acquire(requested={"tokens": 10}).release()
    with (
        limits.try_acquire(requested={"tokens": 10}) as refused,
        contextlib.suppress(RuntimeError),  # it may say so; it must not do it
    ):
        assert not refused.successful
        refused.update(usage={"tokens": 0})
    assert available(limits) == 0
    assert not limits.try_acquire(requested={"tokens": 1}).successful


# --- how much may go ---


async def test_cc_4_a_leaky_bucket_drains_however_often_it_is_asked() -> None:
    """There it never drained when asked more often than a token comes back: ``0 admitted in 2 s
    (20 expected)``, and acquire() blocked for ever."""
    limits = documented(tokens(10, 1, RateLimitAlgorithm.LeakyBucket))
    admitted = 0
    for _ in range(2_001):
        admitted += limits.try_acquire(requested={"tokens": 1}).successful
        await asyncio.sleep(0.001)
    assert admitted == 10 + 20


async def test_cc_4_and_waiting_for_it_ends() -> None:
    """There: ``acquire(1, timeout=3) ... TimeoutError | queue 10 of 10``."""
    limits = documented(tokens(10, 1, RateLimitAlgorithm.LeakyBucket))
    for n in range(30):
        async with limits.acquire(requested={"tokens": 1}, timeout=3):
            assert now() == pytest.approx(max(0, n - 9) / 10)


@pytest.mark.parametrize("algorithm", RateLimitAlgorithm)
async def test_cc_5_what_was_used_above_the_estimate_is_charged(
    algorithm: RateLimitAlgorithm,
) -> None:
    """There: ``available afterwards 90.0 (excess 50 is never charged)``."""
    limits = documented(tokens(100, 10, algorithm))
    async with limits.acquire(requested={"tokens": 10}) as acq:
        acq.update(usage={"tokens": 60})
        assert available(limits) == 40
    acq.update(usage={"tokens": 1_000_000})  # never a ValueError for what has been used
    acq.update(usage={"tokens": 150})  # also afterwards; the new figure replaces the old one
    assert available(limits) == -50
    async with limits.acquire(requested={"tokens": 1}):
        assert now() == (pytest.approx(5.1) if algorithm in BUCKETS else 10.0)


@pytest.mark.parametrize("algorithm", RateLimitAlgorithm)
async def test_cc_7_the_most_that_goes_in_a_second_is_what_is_told(
    algorithm: RateLimitAlgorithm,
) -> None:
    """There: 200 within 0.1 s through a fixed window, and 199 in the first second through the
    default of that time. What is the default here never lets more than the capacity through; for
    the others the number is told."""
    limit = tokens(100, 1, algorithm)
    assert RateLimit(key="tokens", window_seconds=1, capacity=100).algorithm is (
        RateLimitAlgorithm.SlidingWindow
    )
    limits = documented(limit)
    went: list[float] = []
    for _ in range(300):
        async with limits.acquire(requested={"tokens": 1}):
            went.append(now())
        if len(went) == 1:  # it opens the fixed window
            await asyncio.sleep(0.9)
    most = max(sum(start <= instant < start + 1 for instant in went) for start in went)
    assert most <= limit.throttle.guarantee(1.0)
    assert most == (100 if algorithm is RateLimitAlgorithm.SlidingWindow else 199)


async def test_cc_15l_an_infinite_capacity_is_no_limit() -> None:
    """There: OverflowError."""
    for algorithm in RateLimitAlgorithm:
        limit = RateLimit(key="tokens", window_seconds=1, algorithm=algorithm, capacity=math.inf)
        limits = documented(limit)
        for _ in range(3):
            with limits.acquire(requested={"tokens": 1_000_000}, timeout=0) as acq:
                acq.update(usage={"tokens": 2_000_000})
        assert limits.get_stats()["tokens"]["available_tokens"] == math.inf


@pytest.mark.parametrize("algorithm", BUCKETS)
def test_cc_16_a_clock_that_was_set_back_stops_nobody(algorithm: RateLimitAlgorithm) -> None:
    """There, an hour after a step of an hour back: ``TokenBucket 0``, ``GCRA 0``; each ought to
    have been 10."""
    with freeze_time("2026-01-01 12:00:00") as clock:
        limits = documented(tokens(10, 1, algorithm))
        limits.acquire(requested={"tokens": 10}, timeout=0).release()
        clock.move_to("2026-01-01 11:00:00")
        for admitted in (False, *[True] * 10):
            assert limits.try_acquire(requested={"tokens": 1}).successful == admitted
            clock.tick(0.1)


async def test_cc_16_the_time_of_day_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """There everything was measured by it."""

    def read() -> float:
        raise AssertionError("the time of day was read")

    monkeypatch.setattr(time, "time", read)
    monkeypatch.setattr(time, "time_ns", read)
    for algorithm in RateLimitAlgorithm:
        start = now()
        limits = documented(tokens(10, 1, algorithm))
        for _ in range(2):
            async with limits.acquire(requested={"tokens": 10}, timeout=2) as acq:
                acq.update(usage={"tokens": 10})
        assert now() == start + 1.0


# --- how it waits ---


async def test_cc_9_those_who_wait_under_asyncio_do_not_poll(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There each looked every 10 ms: 1,000 of them took 68 % of a core. Here the loop sleeps
    until the next one is due: its wake-ups are counted."""
    limits = documented(tokens(1, 60))
    limits.acquire(requested={"tokens": 1}).release()

    async def wait() -> None:
        async with limits.acquire(requested={"tokens": 1}):
            pass

    waiters = [asyncio.create_task(wait()) for _ in range(1_000)]
    await others_run()
    loop: Any = asyncio.get_running_loop()
    select, naps = loop._selector.select, 0

    def counted(timeout: float | None = None) -> Any:
        nonlocal naps
        naps += timeout is None or timeout > 0
        return select(timeout)

    monkeypatch.setattr(loop._selector, "select", counted)
    await asyncio.sleep(60 * 10 + 1)
    assert sum(waiter.done() for waiter in waiters) == 10
    assert naps <= 2 * 10 + 1  # for each grant a timer that rings early and the exact one
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)


def events_of_a_wait(seconds: float) -> int:
    """Calls that a thread makes, in Python and in C, in an `acquire` that waits for *seconds*."""
    limits = documented(tokens(1, seconds, RateLimitAlgorithm.SlidingWindow))
    limits.acquire(requested={"tokens": 1}).release()
    events = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal events
        events += event in ("call", "c_call")

    def wait() -> None:
        sys.setprofile(count)
        try:
            acq = limits.acquire(requested={"tokens": 1})
        finally:
            sys.setprofile(None)
        acq.release()

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()
    return events


def test_cc_9_threads_that_wait_do_not_poll() -> None:
    """There: ``100 threads waiting: 20 % of a core``. Real threads and a real wait, since that is
    what is tested; but what is counted are calls: a longer wait has no more of them."""
    short, long = events_of_a_wait(0.05), events_of_a_wait(0.5)
    assert long <= short + 20, "the longer the wait, the more there was to do"


async def test_cc_10_nothing_blocks_the_event_loop() -> None:
    """There the documented acquire() ``blocks the event loop 1.02 s``, and deadlocks where the
    holder is on the same loop."""
    limits = documented(tokens(), ResourceLimit(key="connections", capacity=1), mode="asyncio")
    order: list[str] = []

    async def holder() -> None:
        async with limits.acquire(requested={"tokens": 1}):
            order.append("holder came")
            await asyncio.sleep(1)
            order.append("holder goes")

    async def follower() -> None:
        async with limits.acquire(requested={"tokens": 1}):
            order.append("follower came")
            assert now() == 1.0

    async def ticker() -> None:
        await asyncio.sleep(0.5)
        order.append("the loop runs")

    await asyncio.gather(holder(), follower(), ticker())
    assert order == ["holder came", "the loop runs", "holder goes", "follower came"]


async def test_cc_10_where_it_would_have_to_block_the_loop_it_refuses() -> None:
    limits = documented(ResourceLimit(key="connections", capacity=1), mode="asyncio")
    with limits.acquire() as acq:  # no need to wait
        assert acq.successful
        with pytest.raises(RuntimeError, match="async with"), limits.acquire():
            raise AssertionError("never reached")
    assert used(limits) == 0
    assert limits.waiting == 0


def steps_in(work: Callable[[], object]) -> int:
    """Steps of the interpreter in this thread; of loops, as many as they have rounds."""
    steps = 0

    def count(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return count

    before = sys.gettrace()
    # CPython 3.12 tells of byte code only where a frame had asked for that before settrace().
    sys._getframe().f_trace_opcodes = True
    sys.settrace(count)
    try:
        work()
    finally:
        sys.settrace(before)
    assert steps > 0, "the interpreter does not tell its steps"
    return steps


@standing_still
def test_cc_17_the_cost_does_not_grow_with_the_weight() -> None:
    """There a ResourceLimit took its units one by one: 76 ms for 200,000, and 122 ms to give
    them back, all under the lock. Steps are counted."""
    limits = documented(ResourceLimit(key="connections", capacity=200_000))

    def work(weight: int) -> None:
        with limits.acquire(requested={"connections": weight}):
            pass

    work(1)  # what is made for the first call
    assert steps_in(lambda: work(200_000)) <= steps_in(lambda: work(1)) + 10


# --- one call within another ---


def test_cs_1_a_call_within_another_that_would_wait_for_it_is_told() -> None:
    """There it deadlocked, as the ResourceLimit that nobody had named was taken as well. Here,
    too, 1 is taken of what is not named, as documented; with a timeout it is refused at once,
    and the refusal says which limit it was."""
    limits = documented(tokens(), ResourceLimit("connections", 1))
    with limits.acquire(requested={"tokens": 10}):
        with pytest.raises(ThrottleTimeout) as refused:
            limits.acquire(requested={"tokens": 5}, timeout=0)
        assert refused.value.limit == "connections"
        with limits.acquire(requested={"tokens": 5, "connections": 0}):
            pass


# --- pools ---


@pytest.mark.parametrize("load_balancing", [*LoadBalancingAlgorithm, None])
async def test_cc_14_a_pool_goes_on_where_one_set_is_full(
    load_balancing: LoadBalancingAlgorithm | None,
) -> None:
    """There: ``successful = False``, and ``TimeoutError ... 0.2s``, with another set idle."""
    sets = [
        documented(ResourceLimit("connections", 1), region=region)
        for region in ("us", "eu", "asia")
    ]
    pool = LimitPool(limit_sets=sets, load_balancing=load_balancing)
    async with sets[0].acquire(), sets[2].acquire():
        for _ in range(6):
            with pool.try_acquire() as tried:
                assert tried.successful
                assert tried.config["region"] == "eu"
            with pool.acquire(timeout=0) as acq:
                assert acq.config["region"] == "eu"
            async with pool.acquire(timeout=0.2) as acq:
                assert acq.config["region"] == "eu"
    assert now() == 0.0
    assert [used(limits) for limits in sets] == [0, 0, 0]


# --- beyond this process: what of it applies ---


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("algorithm", RateLimitAlgorithm)
async def test_cp_2_there_are_refunds_in_every_mode(
    mode: str, algorithm: RateLimitAlgorithm
) -> None:
    """There: ``acquire(90): TimeoutError`` after 60 were requested and 10 used of 100."""
    limits = documented(tokens(100, algorithm=algorithm), mode=mode)
    with limits.acquire(requested={"tokens": 60}) as acq:
        acq.update(usage={"tokens": 10})
    with limits.acquire(requested={"tokens": 90}, timeout=0):
        assert available(limits) == 0


@pytest.mark.parametrize("mode", MODES)
async def test_cp_3_the_algorithm_is_heeded_in_every_mode(mode: str) -> None:
    """There it was a sliding log whatever was asked for: TimeoutError."""
    bucket = documented(tokens(10, 10), mode=mode)
    window = documented(tokens(10, 10, RateLimitAlgorithm.SlidingWindow), mode=mode)
    for limits in (bucket, window):
        limits.acquire(requested={"tokens": 10}).release()
    await asyncio.sleep(5)
    assert bucket.try_acquire(requested={"tokens": 5}).successful
    assert not window.try_acquire(requested={"tokens": 1}).successful


@standing_still
def test_cp_4_the_statistics_are_those_of_all_who_share_the_set() -> None:
    """There: ``available_tokens 100.0`` after 100 of 100 were spent, by another worker."""
    limits = documented(tokens(100), ResourceLimit("connections", 100))

    def spend() -> None:
        with limits.acquire(requested={"tokens": 10}) as acq:
            acq.update(usage={"tokens": 10})

    with ThreadPoolExecutor(max_workers=4) as pool:
        for spent in [pool.submit(spend) for _ in range(10)]:
            spent.result()
    assert (available(limits), used(limits, "tokens")) == (0, 100)
    assert limits.get_stats()["tokens"]["utilization"] == 1.0


async def test_cp_8_no_call_does_the_work_of_ten_thousand() -> None:
    """There async_acquire did its messages to another process on the event loop, record by
    record: ``longest stall 2564.9 ms (10,000 records)``. Steps are counted."""
    limits = documented(tokens(20_000, 1, RateLimitAlgorithm.SlidingWindow), mode="asyncio")

    def work() -> None:
        assert limits.try_acquire(requested={"tokens": 1}).successful

    work()
    few = steps_in(work)
    for _ in range(10_000):
        await asyncio.sleep(0.00005)
        work()
    assert steps_in(work) <= few * 1.5
