"""Calls that count to the end: which call ends when, what a caller waits for, and what is told."""

import asyncio
import gc
import math
import os
import re
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from children import in_child
from support import calls_of, check, now, others_run, queued

from async_throttle import (
    AIMD,
    GCRA,
    BackOff,
    ClockWindow,
    FixedWindow,
    LeakyBucket,
    LimitPool,
    LimitSet,
    RateLimitAlgorithm,
    SlidingWindow,
    Throttle,
    ThrottleFull,
    Throttles,
    ThrottleTimeout,
    TokenBucket,
    WeightTooLarge,
    testing,
    threads,
)
from async_throttle._units import SECOND, TOKEN
from async_throttle.rules.ends import CountedToEnd

pytestmark = pytest.mark.virtual_time

TICK = 1e-9
"""An end counts from the next tick of the clock on."""


async def body(throttle: Any, seconds: float, weight: float = 1) -> None:
    async with throttle(weight):
        await asyncio.sleep(seconds)


async def cut_short(block: Any, first: Callable[[], object]) -> None:
    async with block:
        first()
        raise TimeoutError


# ---------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"counts": "middle"}, "counts must be 'start' or 'end', got 'middle'"),
        ({"counts": None}, "counts must be 'start' or 'end', got None"),
        ({"counts": "end", "algorithm": FixedWindow}, "SlidingWindow"),
        ({"counts": "end", "algorithm": RateLimitAlgorithm.FixedWindow}, "SlidingWindow"),
        ({"counts": "end", "linger": -1}, "linger must be .* at least 0, got -1"),
        ({"counts": "end", "linger": math.inf}, "linger must be finite, got inf"),
        ({"counts": "end", "linger": math.nan}, "linger must be .*, got nan"),
        ({"counts": "end", "longest": -1}, "longest must be .* at least 0, got -1"),
        ({"counts": "end", "longest": 0}, "longest must be positive .*, got 0"),
        ({"counts": "end", "longest": math.inf}, "longest must be .*; None is no bound, got inf"),
        ({"linger": -1}, "linger must be .* at least 0, got -1"),
        ({"longest": 0}, "longest must be positive .*, got 0"),
    ],
)
@pytest.mark.parametrize("made", [Throttle, threads.Throttle])
async def test_a_wrong_parameter_is_named(made: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(10, **options)


@pytest.mark.parametrize("algorithm", [None, GCRA, LeakyBucket, SlidingWindow, ClockWindow])
async def test_a_throttle_says_what_it_counts_by(algorithm: Any) -> None:
    kind = {} if algorithm is None else {"algorithm": algorithm}
    throttle = Throttle(10, counts="end", **kind)
    plain = Throttle(10, **kind)
    assert throttle.algorithm is plain.algorithm
    assert (throttle.capacity, throttle.period, throttle.burst) == (10, 1, plain.burst)
    assert throttle.guarantee(1) == plain.guarantee(1)
    assert throttle.level == plain.level
    with pytest.raises(WeightTooLarge):
        throttle.try_acquire(11)


# ---------------------------------------------------------------------------- what may go, and when


async def test_a_bucket_refills_from_the_end_of_a_call_on() -> None:
    throttle = Throttle(10, counts="end", concurrency=20)
    leases = [await throttle.lease() for _ in range(10)]
    assert (throttle.level, throttle.active, throttle.locked()) == (0, 10, True)
    await asyncio.sleep(5)
    assert (throttle.level, throttle.try_acquire()) == (0, False)
    leases.pop().release()
    assert throttle.active == 9
    assert throttle.level == pytest.approx(0)
    await throttle.acquire()
    assert now() == pytest.approx(5.1)
    throttle.release()
    for lease in leases:
        lease.release()
    await asyncio.sleep(0.55)
    assert throttle.level == pytest.approx(5.5)
    check(throttle)


async def test_the_period_of_a_window_starts_at_the_end_of_a_call() -> None:
    throttle = Throttle(2, period=10, counts="end", algorithm=SlidingWindow)
    ends = [asyncio.ensure_future(body(throttle, seconds)) for seconds in (3, 4)]
    await others_run()
    await throttle.acquire()
    assert now() == 13 + TICK
    throttle.release()
    await asyncio.gather(*ends)


def test_an_end_forgets_no_other_one_a_tick_too_early() -> None:
    tick = 16_000_000  # of some clocks
    rule = CountedToEnd(SlidingWindow(0, 2 * TOKEN, SECOND), tick)
    for end in (0, SECOND):
        rule.in_flight.take(end, TOKEN)
        rule.land(end, TOKEN, TOKEN)
    assert rule.ready_at(SECOND, TOKEN) == SECOND + tick
    rule.in_flight.take(SECOND, TOKEN)
    rule.linger(SECOND, TOKEN, TOKEN, SECOND)
    assert rule.ready_at(2 * SECOND, TOKEN) == 2 * SECOND + tick


async def test_a_call_that_ends_where_a_clock_window_is_closed_counts_in_the_next_one() -> None:
    throttle = Throttle(2, period=10, counts="end", algorithm=ClockWindow)
    await asyncio.sleep(9)
    running = asyncio.ensure_future(body(throttle, 0.7))  # the margin is half a second
    await asyncio.sleep(0.9)
    assert running.done()
    assert throttle.statistics().lingering == 0
    await throttle.acquire()
    assert now() == 10.5
    assert (throttle.level, throttle.try_acquire()) == (0, False)
    throttle.release()
    await asyncio.sleep(5)
    await throttle.acquire()
    assert now() == 20.5


async def test_no_timer_is_set_for_what_only_an_end_can_finish() -> None:
    loop: Any = asyncio.get_running_loop()
    throttle = Throttle(2, counts="end", longest=None)
    lease = await throttle.lease(2)
    waiting = await queued(throttle.acquire())
    assert throttle.waiting == 1
    assert not [handle for handle in loop._scheduled if not handle.cancelled()]
    assert throttle.delay() == pytest.approx(1.0)  # behind one, as if the call had ended now
    await asyncio.sleep(7)
    assert not waiting.done()
    lease.ended()
    await waiting
    assert now() == pytest.approx(7.5)


async def test_the_delay_is_as_if_all_in_flight_ended_now() -> None:
    bucket = Throttle(10, counts="end")
    held = await bucket.lease(8)
    assert bucket.delay(2) == 0
    assert bucket.delay(5) == pytest.approx((5 + 8 - 10) / 10)
    window = Throttle(10, period=3, counts="end", algorithm=SlidingWindow)
    other = await window.lease(8)
    await asyncio.sleep(1)
    assert window.delay(2) == 0
    assert window.delay(3) == 3
    with pytest.raises(ThrottleTimeout, match="with 8 in flight") as error:
        await asyncio.create_task(window.acquire(3, timeout=2))
    assert error.value.retry_after == pytest.approx(3)
    held.release()
    other.release()


async def test_a_timeout_may_end_while_the_caller_waits_for_an_end() -> None:
    throttle = Throttle(2, counts="end", name="api")
    running = asyncio.ensure_future(body(throttle, 50, 2))
    await others_run()
    with pytest.raises(ThrottleTimeout, match="throttle 'api', with 2 in flight, does not"):
        await throttle.acquire(timeout=3)
    assert now() == 3
    running.cancel()


async def test_a_heavy_caller_that_waits_for_ends_is_not_starved() -> None:
    throttle = Throttle(1000, burst=4, counts="end")
    api = LimitSet(Throttle(math.inf), throttle)
    went: list[float] = []

    async def light() -> None:
        while now() < 10:
            async with api:
                await asyncio.sleep(1)

    lights = [asyncio.ensure_future(light()) for _ in range(8)]
    await asyncio.sleep(0.5)

    async def heavy() -> None:
        async with throttle(4):
            went.append(now())

    await heavy()
    assert went == [pytest.approx(2, abs=0.01)]  # behind four who came before
    await asyncio.gather(*lights)
    check(throttle)


# ---------------------------------------------------------------------------------- which end it is


async def test_a_call_ends_once() -> None:
    throttle = Throttle(2, period=10, counts="end", concurrency=2, algorithm=SlidingWindow)
    async with throttle(2) as lease:
        await asyncio.sleep(1)
        lease.ended()
        lease.ended()
        assert (throttle.active, throttle.level, throttle.statistics().in_flight) == (1, 0, 0)
        await asyncio.sleep(5)
        assert throttle.active == 1
    lease.ended()
    assert throttle.active == 0
    await throttle.acquire(2)
    assert now() == 11 + TICK
    with pytest.raises(RuntimeError, match="nothing was granted"):
        throttle(1).ended()


async def test_the_end_of_a_call_means_nothing_where_calls_count_from_the_start() -> None:
    throttle = Throttle(2)
    async with throttle(2) as lease:
        lease.ended()
    assert throttle.level == 0
    api = LimitSet(throttle)
    acquisition = await api.lease({0: 1})
    acquisition.ended()
    acquisition.release()
    with pytest.raises(RuntimeError, match="nothing was granted"):
        api().ended()


@pytest.mark.parametrize("concurrency", [0, 5])
async def test_release_ends_the_lightest_call(concurrency: int) -> None:
    throttle = Throttle(10, concurrency, counts="end")
    for weight in (5, 2, 3):
        await throttle.acquire(weight)
    left = []
    for _ in range(3):
        throttle.release()
        left.append(throttle.statistics().in_flight)
    assert left == [8, 5, 0]
    with pytest.raises(ValueError, match="without acquire"):
        throttle.release()


async def test_a_block_that_raises_ends_its_call() -> None:
    throttle = Throttle(2, counts="end")
    with pytest.raises(ZeroDivisionError):
        async with throttle:
            raise ZeroDivisionError
    assert throttle.statistics().in_flight == throttle.statistics().lingering == 0
    assert throttle.level == pytest.approx(1)


@pytest.mark.parametrize("error", [asyncio.CancelledError, TimeoutError])
@pytest.mark.parametrize("way", ["block", "lease", "set"])
async def test_a_call_that_was_cut_short_lingers(error: type[BaseException], way: str) -> None:
    throttle = Throttle(2, 5, period=10, counts="end")
    api = LimitSet(throttle)
    block: Any = {"block": throttle, "lease": throttle(1), "set": api()}[way]
    for _ in range(2):
        with pytest.raises(error):
            async with block:
                raise error
    told = throttle.statistics()
    assert (told.lingering, told.in_flight, told.active, throttle.active) == (2, 2, 0, 0)
    await throttle.drain()
    assert now() == 0
    assert throttle.delay() == pytest.approx(5)
    await throttle.acquire()
    assert now() == pytest.approx(1 + 5)  # a second, and what a token takes
    assert throttle.statistics().lingering == 0
    throttle.release()
    check(throttle)


async def test_a_call_that_has_ended_does_not_linger() -> None:
    throttle = Throttle(2, period=10, counts="end")
    lease = throttle(2)
    with pytest.raises(TimeoutError):
        await cut_short(lease, lease.ended)
    assert throttle.statistics().lingering == 0


async def test_a_call_that_lingers_may_be_said_to_have_ended() -> None:
    throttle = Throttle(2, period=10, counts="end", linger=8, algorithm=SlidingWindow)
    lease = throttle(2)
    with pytest.raises(TimeoutError):
        async with lease:
            raise TimeoutError
    await asyncio.sleep(3)
    lease.ended()
    assert throttle.statistics().lingering == 0
    await throttle.acquire()
    assert now() == 13 + TICK


async def test_a_call_lingers_as_long_as_the_slowest_of_late() -> None:
    throttle = Throttle(100, period=10, counts="end", algorithm=SlidingWindow)

    async def lingers() -> float:
        start = now()
        with pytest.raises(TimeoutError):
            async with throttle:
                raise TimeoutError
        for _ in range(100):
            await asyncio.sleep(0.25)
            if not throttle.statistics().lingering:
                break
        return now() - start

    assert await lingers() == 1.0
    await body(throttle, 4)
    assert await lingers() == 4.0
    for _ in range(63):
        await body(throttle, 0)
    assert await lingers() == 4.0
    await asyncio.sleep(20)
    await body(throttle, 0)
    assert await lingers() == 1.0
    await body(throttle, 40)
    assert await lingers() == 10.0  # a period at most


async def test_a_call_that_is_cut_short_costs_no_more_where_many_linger() -> None:
    throttle = Throttle(2_000, period=60, counts="end")
    leases = [await throttle.lease() for _ in range(1_100)]

    def cut(some: list[Any]) -> int:
        return calls_of(lambda: [lease._exit(TimeoutError()) for lease in some])

    few = cut(leases[:50])
    cut(leases[50:-50])
    assert cut(leases[-50:]) < 1.5 * few
    assert throttle.statistics().lingering == 1_100
    check(throttle)


@pytest.mark.parametrize("linger", [0, 2.5])
async def test_for_how_long_a_call_lingers_may_be_said(linger: float) -> None:
    throttle = Throttle(1, counts="end", linger=linger, algorithm=SlidingWindow)
    with pytest.raises(TimeoutError):
        async with throttle:
            raise TimeoutError
    await throttle.acquire()
    assert now() == pytest.approx(linger + 1)


async def test_no_body_is_waited_for_longer_than_longest() -> None:
    throttle = Throttle(2, counts="end", longest=5)
    running = asyncio.ensure_future(body(throttle, 1000, 2))
    await others_run()
    with pytest.warns(RuntimeWarning, match="has not ended for 5 s.*lease.ended.*longest=") as seen:
        await throttle.acquire()
    assert now() == pytest.approx(5.5)
    assert throttle.active == 2  # the slot is held by the body
    await throttle.acquire()
    await asyncio.create_task(throttle.acquire())  # they are given up as well, without a warning
    assert len(seen) == 1
    running.cancel()


@pytest.mark.parametrize("way", ["block", "lease", "acquire", "set"])
async def test_a_body_is_given_up_that_others_waited_behind_from_its_grant_on(way: str) -> None:
    throttle = Throttle(1000, burst=1, initial=0, counts="end", longest=5)
    api = LimitSet(throttle, Throttle(math.inf))
    block: dict[str, Any] = {"block": throttle, "lease": throttle(1), "set": api}

    async def stuck() -> None:
        if way == "acquire":
            await throttle.acquire()
            await asyncio.sleep(1000)
        async with block[way]:
            await asyncio.sleep(1000)

    stuck_there = asyncio.ensure_future(stuck())
    behind = asyncio.ensure_future(stuck())
    with pytest.warns(RuntimeWarning, match="for 5 s"):
        await asyncio.sleep(5.1)
    assert throttle.waiting == 0
    stuck_there.cancel()
    behind.cancel()


@pytest.mark.parametrize(("period", "longest"), [(1, 60), (100, 100)])
async def test_a_body_is_waited_for_a_period_and_a_minute_at_least(
    period: float, longest: float
) -> None:
    throttle = Throttle(2, period=period, burst=2, counts="end")
    running = asyncio.ensure_future(body(throttle, 1000, 2))
    await others_run()
    with pytest.warns(RuntimeWarning, match=f"for {longest} s"):
        await throttle.acquire()
    assert now() == pytest.approx(longest + period / 2)
    running.cancel()


async def test_a_lease_that_was_dropped_ends() -> None:
    throttle = Throttle(2, counts="end")
    api = LimitSet(a=throttle)
    lease: Any = await throttle.lease(1)
    acquisition: Any = await api.lease(a=1)
    assert throttle.level == 0
    del lease, acquisition
    gc.collect()
    assert throttle.statistics().in_flight == 0


def test_the_calls_of_a_closed_loop_end() -> None:
    throttle = Throttle(2, counts="end")
    loop = asyncio.new_event_loop()
    loop.run_until_complete(throttle.acquire(2))
    assert throttle.statistics().in_flight == 2
    loop.close()
    assert throttle.statistics().in_flight == 0
    assert testing.run(asyncio.wait_for(throttle.acquire(), 5))


@pytest.mark.parametrize("way", [lambda throttle: throttle, lambda throttle: throttle(1)])
def test_closed_loops_are_forgotten_that_no_call_is_in_flight_in(way: Callable[[Any], Any]) -> None:
    throttle = Throttle(1_000, counts="end")

    async def call() -> asyncio.AbstractEventLoop:
        async with way(throttle):
            return asyncio.get_running_loop()

    stuck = asyncio.new_event_loop()
    stuck.run_until_complete(throttle.acquire())
    stuck.close()
    loops = [weakref.ref(asyncio.run(call())) for _ in range(5)]
    gc.collect()
    assert [loop() for loop in loops[:-1]] == [None] * 4
    assert throttle.statistics().in_flight == 0  # of what is stuck as well


async def test_a_caller_that_waits_for_its_own_calls_is_told_so() -> None:
    throttle = Throttle(4, counts="end")
    async with throttle(3):
        await throttle.acquire(1)
        for call in (throttle.acquire(1), throttle.lease(2), throttle.consume(1)):
            with pytest.raises(RuntimeError, match=r"lease\.ended\(\)"):
                await call
        with pytest.raises(RuntimeError, match=r"lease\.ended\(\)"):
            async with LimitSet(Throttle(1), throttle):
                raise AssertionError
        assert not throttle.try_acquire()
        other = await queued(throttle.acquire(1))  # the calls of another task
        throttle.release()
    await other
    assert throttle.waiting == 0
    check(throttle)


async def test_a_call_goes_inside_of_another_one_that_was_said_to_have_ended() -> None:
    throttle = Throttle(2, counts="end")
    async with throttle(2) as lease:
        lease.ended()
        async with throttle(2):
            assert now() == pytest.approx(1)


# ---------------------------------------------------------------------------- tokens without an end


async def test_consume_counts_at_once_and_waits_behind_nobody_who_waits_for_an_end() -> None:
    throttle = Throttle(2, counts="end")
    running = asyncio.ensure_future(body(throttle, 5))
    waiting = await queued(throttle.acquire(2))
    await throttle.consume()
    assert now() == 0
    assert (throttle.level, throttle.statistics().in_flight) == (0, 1)
    assert not throttle.try_consume()
    await throttle.consume()
    assert now() == 0.5
    await waiting
    await running
    assert now() == pytest.approx(5.5)


async def test_a_charge_is_debt() -> None:
    throttle = Throttle(2, counts="end")
    lease = await throttle.lease(2)
    throttle.charge(2)
    assert throttle.level == -2
    lease.release()
    assert throttle.level == pytest.approx(-2)


async def test_a_pause_that_empties_leaves_nothing_beside_what_is_in_flight() -> None:
    throttle = Throttle(4, counts="end")
    lease = await throttle.lease(2)
    throttle.pause(0, empty=True)
    assert (throttle.level, throttle.statistics().in_flight) == (0, 2)
    lease.release()
    assert throttle.level == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("algorithm", [TokenBucket, SlidingWindow])
async def test_what_a_server_says_lowers_what_is_available(algorithm: Any) -> None:
    throttle = Throttle(100, period=1000, counts="end", algorithm=algorithm)
    lease = await throttle.lease(10)
    other = await throttle.lease(20)
    throttle.sync(remaining=80)
    assert throttle.level == 70  # it is less already
    throttle.sync(remaining=50)
    assert throttle.level == 50
    throttle.sync(remaining=50, shared=True, lease=lease)
    assert throttle.level == 30  # the other call may not have been counted yet
    lease.ended()
    throttle.sync(remaining=45, shared=True)
    assert throttle.level == pytest.approx(25)
    other.release()
    assert throttle.level == pytest.approx(25)
    throttle.sync(remaining=24, shared=True)
    assert throttle.level == pytest.approx(24)
    assert throttle.statistics().in_flight == 0
    lease.release()


# --------------------------------------------------------------------------------------- settlement


async def test_before_the_end_a_settlement_shrinks_what_is_in_flight() -> None:
    throttle = Throttle(10, counts="end")
    lease = await throttle.lease(8)
    lease.settle(3)
    assert (throttle.level, throttle.statistics().in_flight) == (7, 3)
    lease.settle(5)
    assert (throttle.level, throttle.statistics().in_flight) == (7, 3)
    lease.settle(12)
    assert throttle.level == 7
    lease.release()
    assert throttle.level == pytest.approx(-2)  # what is above is debt at the end
    lease.settle(1)
    assert throttle.level == pytest.approx(9)
    lease.settle(4)
    assert throttle.level == pytest.approx(6)


async def test_a_refund_after_the_end_mints_nothing() -> None:
    throttle = Throttle(10, counts="end")
    first = await throttle.lease(10)
    first.release()
    await asyncio.sleep(0.9)
    second = await throttle.lease(9)
    await asyncio.sleep(0.05)
    second.release()
    assert throttle.level == pytest.approx(0.5)
    first.settle(0)
    assert throttle.level == pytest.approx(1)  # half a token was missing when the second ended


async def test_what_lingers_can_be_settled() -> None:
    throttle = Throttle(10, counts="end", linger=1)
    lease = throttle(8)
    with pytest.raises(TimeoutError):
        async with lease:
            raise TimeoutError
    lease.settle(2)
    assert throttle.level == 8
    await asyncio.sleep(1)
    assert throttle.level == pytest.approx(8)
    lease.settle(0)
    assert throttle.level == pytest.approx(10)


# ----------------------------------------------------------------------------------- sets and pools


async def test_the_members_of_a_set_may_count_differently() -> None:
    ends, starts = Throttle(2, counts="end"), Throttle(100)
    api = LimitSet(ends=ends, starts=starts)
    lease = await api.lease(ends=2, starts=5)
    waiting = asyncio.create_task(api.lease(ends=1))
    await asyncio.sleep(2)
    assert not waiting.done()
    with pytest.raises(ThrottleTimeout, match="ends, with 2 in flight, does not") as error:
        await asyncio.create_task(api.lease(timeout=0))
    assert error.value.limit == "ends"
    lease.ended()
    granted = await waiting
    assert granted.waited_for == {
        "ends": pytest.approx(0.5),
        "starts": 0,
        "in flight": pytest.approx(2),
    }
    assert sum(granted.waited_for.values()) == pytest.approx(granted.waited)
    lease.release()
    granted.settle(ends=0)
    granted.release()
    assert api.statistics()["ends"].waited == pytest.approx(2.5)
    assert ends.statistics().in_flight == 0
    check(api)


async def test_the_slots_of_a_set_count_from_the_start_as_ever() -> None:
    api = LimitSet(x=Throttle(10, counts="end"), concurrency=2)
    async with api["concurrency"]:
        assert api.active == {"x": 0, "concurrency": 1}
    assert type(api["concurrency"]) is Throttle
    assert "in flight" not in repr(api["concurrency"])


async def test_tokens_of_a_set_that_wait_for_an_end_are_counted() -> None:
    throttle = Throttle(2, counts="end")
    api = LimitSet(x=throttle, y=Throttle(5))
    running = asyncio.ensure_future(body(throttle, 3, 2))
    await others_run()
    with pytest.raises(ThrottleTimeout, match="x, with 2 in flight, does not") as error:
        await api.consume(x=1, timeout=1)
    assert error.value.limit == "x"
    await api.consume(x=1)
    assert now() == pytest.approx(3.5)
    assert throttle.statistics().waited == pytest.approx(3.5 - 1)
    await running


async def test_a_call_of_a_set_is_settled_by_limit() -> None:
    ends, starts = Throttle(10, counts="end"), Throttle(10)
    api = LimitSet(ends=ends, starts=starts)
    async with api(ends=8, starts=8) as lease:
        lease.settle(ends=2, starts=3)
        assert (ends.level, starts.level) == (8, 7)
        lease.settle(ends=12)
    assert ends.level == pytest.approx(-2)
    lease.settle(ends=1, starts=1)
    assert ends.level == pytest.approx(9)
    assert starts.level == 9


async def test_a_pool_goes_to_the_set_with_room() -> None:
    pool = LimitPool([LimitSet(x=Throttle(2, counts="end")) for _ in range(2)])
    first = await pool.lease(x=2)
    second = await pool.lease(x=2)
    assert first.limit_set is not second.limit_set
    waiting = asyncio.create_task(pool.lease(x=1))
    await asyncio.sleep(3)
    second.ended()
    assert (await waiting).limit_set is second.limit_set
    assert now() == pytest.approx(3.5)


async def test_those_who_may_not_queue_are_told_what_is_in_flight() -> None:
    throttle = Throttle(2, counts="end", max_waiting=0)
    lease = await throttle.lease(2)
    with pytest.raises(ThrottleFull, match="with 2 in flight"):
        await asyncio.create_task(throttle.acquire())
    lease.release()


async def test_a_key_is_kept_while_its_calls_are_in_flight() -> None:
    hosts = Throttles(lambda host: Throttle(2, counts="end", linger=5))
    with pytest.raises(TimeoutError):
        async with hosts["slow"]:
            raise TimeoutError
    for n in range(9):
        _ = hosts[n]
    assert "slow" in hosts
    await asyncio.sleep(20)
    for n in range(20, 49):
        _ = hosts[n]
    assert "slow" not in hosts


# --------------------------------------------------------------------- limits that change or follow


async def test_limits_change_while_calls_are_in_flight() -> None:
    throttle = Throttle(10, counts="end", algorithm=SlidingWindow)
    lease = await throttle.lease(8)
    throttle.capacity = 4
    assert throttle.level == -4
    assert not throttle.try_acquire(0)
    throttle.capacity = math.inf
    assert throttle.try_acquire(10**12)
    throttle.release()
    throttle.capacity = 20
    assert throttle.level == 12
    lease.release()
    assert throttle.level == 12
    throttle.period = 5
    assert throttle.delay(20) == pytest.approx(5)


async def test_a_limit_that_follows_how_calls_end_may_count_to_the_end() -> None:
    throttle = Throttle(10, 4, counts="end", adapt=AIMD(maximum=8))
    for _ in range(20):
        async with throttle:
            await asyncio.sleep(0.01)
    assert throttle.statistics().in_flight == 0
    slower = Throttle(10, counts="end", adapt=BackOff(minimum=1, maximum=10))
    async with slower(5) as lease:
        lease.dropped()
    assert slower.capacity < 10
    with pytest.raises(ValueError, match="SlidingWindow"):
        Throttle(10, counts="end", algorithm=SlidingWindow, adapt=BackOff(minimum=1, maximum=10))


async def test_what_is_in_flight_is_told() -> None:
    throttle = Throttle(10, 4, counts="end")
    await throttle.acquire(2.5)
    assert re.search(r"tokens:7.5, in flight:2.5, slots:3/4", repr(throttle))
    assert "in flight" not in repr(Throttle(10))
    assert Throttle(10).statistics().in_flight == 0


# ------------------------------------------------------------------------------------------ threads


def test_threads_wait_for_ends() -> None:
    throttle = threads.Throttle(1000, burst=2, counts="end", longest=None)
    order: list[str] = []
    lease = throttle.lease(2)

    def wait() -> None:
        throttle.acquire(2)
        order.append("granted")

    waiting = threading.Thread(target=wait)
    waiting.start()
    while not throttle.waiting:
        waiting.join(0.001)
    order.append("ended")
    lease.ended()
    waiting.join()
    assert order == ["ended", "granted"]
    throttle.release()
    with throttle, pytest.raises(RuntimeError, match=r"lease\.ended\(\)"):
        throttle.acquire(2)
    assert throttle.statistics().in_flight == 0


def test_threads_give_up_a_body() -> None:
    throttle = threads.Throttle(1000, burst=1, counts="end", longest=0.05)
    taking = threading.Thread(target=throttle.acquire)
    taking.start()
    taking.join()
    with pytest.warns(RuntimeWarning, match="longest="):
        throttle.acquire()


# ------------------------------------------------------------------------------ blocks of shortcuts


def blocks_open(throttle: Any) -> int:
    """How many plain blocks a shortcut has begun, and nobody has written out."""
    blocks = throttle._core.flights.blocks
    return (blocks.solo is not None) + len(blocks.opened)


async def test_a_block_that_a_shortcut_began_is_a_block_like_any_other() -> None:
    throttle = Throttle(10, 5, counts="end")
    async with throttle:
        assert blocks_open(throttle) == 1
        other = asyncio.ensure_future(block(throttle, 1))
        await asyncio.sleep(0)
        assert blocks_open(throttle) == 2
        assert (throttle.active, throttle.level) == (2, 8)
        async with throttle:  # inside of the former: the last to begin is the first to end
            assert blocks_open(throttle) == 0
            assert throttle.statistics().in_flight == 3
    assert throttle.statistics().in_flight == 1
    await other
    assert now() == 1
    await asyncio.sleep(1)
    assert throttle.level == 10
    check(throttle)


async def test_throttles_of_one_queue_take_turns_with_shortcuts() -> None:
    first, second = (Throttle(10, 5, counts="end") for _ in range(2))
    LimitSet(first, second)
    for throttle in (first, second) * 3:
        async with throttle:
            assert blocks_open(throttle) == 1
    assert (first.level, second.level) == (7, 7)
    check(first)


async def test_while_a_shortcut_has_left_something_undone_no_other_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the event is cut short that was to account for it."""
    throttle = Throttle(10, 1, counts="end")
    scheduler = throttle._core.scheduler
    async with throttle:
        assert blocks_open(throttle) == 1
        with monkeypatch.context() as patch:
            patch.setattr(type(scheduler), "elapse", fails)
            with pytest.raises(KeyboardInterrupt):
                throttle.charge(0)
        assert not scheduler.quiet
        assert not throttle.try_acquire()


def fails(*args: Any) -> int:
    raise KeyboardInterrupt


async def block(throttle: Any, seconds: float) -> None:
    async with throttle:
        await asyncio.sleep(seconds)


async def test_blocks_take_shortcuts_again_after_some_that_could_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    throttle, long_ways, slowly = Throttle(1_000, 5, counts="end"), 0, Throttle._exit_slowly

    def exit_slowly(*args: Any) -> None:
        nonlocal long_ways
        long_ways += 1
        slowly(*args)

    async def blocks(seconds: float) -> None:
        while True:
            await block(throttle, seconds)

    monkeypatch.setattr(Throttle, "_exit_slowly", exit_slowly)
    running = [asyncio.ensure_future(blocks(seconds)) for seconds in (0.011, 0.012, 0.013)]
    await asyncio.sleep(0.1)
    async with throttle(3):
        await asyncio.sleep(0.1)
    assert long_ways == 3
    await asyncio.sleep(1)
    assert long_ways == 3
    for task in running:
        task.cancel()


async def test_blocks_of_shortcuts_may_end_in_any_order_and_in_other_tasks() -> None:
    throttle = Throttle(10, 5, counts="end")
    blocks = [asyncio.ensure_future(block(throttle, seconds)) for seconds in (3, 1, 2)]
    await asyncio.sleep(0.5)
    assert blocks_open(throttle) == 3
    await asyncio.gather(*blocks)
    assert blocks_open(throttle) == 0
    await throttle.__aenter__()
    await asyncio.ensure_future(throttle.__aexit__(None, None, None))
    assert throttle.statistics().in_flight == 0
    assert throttle.active == 0


async def test_a_slow_block_of_a_shortcut_makes_calls_linger_for_longer() -> None:
    throttle = Throttle(2, period=10, counts="end")
    await block(throttle, 3)
    with pytest.raises(TimeoutError):
        await cut_short(throttle, lambda: None)
    await asyncio.sleep(2.9)
    assert throttle.statistics().lingering == 1
    await asyncio.sleep(0.2)
    assert throttle.statistics().lingering == 0
    await block(throttle, 0)


async def test_a_block_of_a_shortcut_is_given_up_too() -> None:
    throttle = Throttle(1000, burst=1, counts="end", longest=5)
    running = asyncio.ensure_future(block(throttle, 1000))
    await others_run()
    assert blocks_open(throttle) == 1
    with pytest.warns(RuntimeWarning, match="for 5 s"):
        await throttle.acquire()
    assert now() == pytest.approx(5, abs=0.01)
    running.cancel()
    await others_run()
    assert throttle.active == 1
    throttle.release()


async def test_nobody_waits_inside_of_a_block_of_a_shortcut_for_its_end() -> None:
    throttle = Throttle(1000, burst=1, counts="end")
    async with throttle:
        assert blocks_open(throttle) == 1
        with pytest.raises(RuntimeError, match=r"lease\.ended\(\)"):
            async with throttle:
                raise AssertionError


def test_a_block_of_a_shortcut_ends_with_its_loop() -> None:
    throttle = Throttle(1000, burst=1, counts="end")
    for _ in range(2):
        loop = asyncio.new_event_loop()
        stuck = loop.create_task(block(throttle, 1000))
        loop.call_later(0.01, loop.stop)
        loop.run_forever()
        assert throttle.statistics().in_flight == 1
        loop.close()
        assert throttle.statistics().in_flight == 0
        stuck.get_coro().close()
        stuck._log_destroy_pending = False  # type: ignore[attr-defined]
    assert throttle.active == 0


def test_a_block_of_a_shortcut_ends_with_a_loop_in_which_no_call_was_known() -> None:
    throttle = Throttle(1000, burst=2, counts="end")

    async def consume_and_block() -> None:
        throttle.charge(2)
        await throttle.consume(1)
        await asyncio.sleep(0.01)
        await block(throttle, 1000)

    loop = asyncio.new_event_loop()
    stuck = loop.create_task(consume_and_block())
    loop.call_later(0.1, loop.stop)
    loop.run_forever()
    assert blocks_open(throttle) == 1
    loop.close()
    assert throttle.statistics().in_flight == 0
    stuck.get_coro().close()
    stuck._log_destroy_pending = False  # type: ignore[attr-defined]


async def test_sets_see_blocks_of_shortcuts() -> None:
    throttle = Throttle(1000, burst=2, counts="end")
    running = asyncio.ensure_future(block(throttle, 1))
    await others_run()
    api = LimitSet(x=throttle)
    async with api(x=1):
        assert throttle.statistics().in_flight == 2
        waiting = asyncio.create_task(api.lease(x=1))
        await asyncio.sleep(0.1)
        assert not waiting.done()
    (await waiting).release()
    await running
    check(api)


async def test_a_subclass_counts_to_the_end_as_well() -> None:
    class Mine(Throttle):
        pass

    throttle = Mine(10, 2, counts="end")
    assert isinstance(throttle, Mine)
    async with throttle:
        assert throttle.statistics().in_flight == 1
    assert throttle.statistics().in_flight == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
async def test_what_is_in_flight_at_a_fork_is_in_flight_in_the_parent_alone() -> None:
    throttle = Throttle(10, 5, counts="end")
    await throttle.acquire(3)
    async with throttle(2) as lease, throttle:

        def told() -> tuple[int, float]:
            statistics = throttle.statistics()
            return statistics.active, statistics.in_flight

        def leave() -> None:
            assert told() == (0, 0)
            for left in (throttle, lease):
                with pytest.raises(StopIteration):
                    left.__aexit__(None, None, None).send(None)
            lease.settle(1)
            throttle.release()
            assert told() == (0, 0)

        in_child(leave)
        assert told() == (3, 6)
