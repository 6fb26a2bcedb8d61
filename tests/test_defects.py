"""Defects of the libraries whose users this one invites, each as a test that ours does not share.

AT: async-throttle 1.0. MT, MX: mtaio 0.1. Each test says what went wrong there.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support import now, others_run, queued

from async_throttle import (
    AdaptiveRateLimiter,
    ConcurrencyLimiter,
    RateLimiter,
    ResourceGroup,
    ResourceLimitError,
    SlidingWindow,
    Throttle,
    TimeoutManager,
    WeightTooLarge,
    exceptions,
)

pytestmark = pytest.mark.virtual_time

T = TypeVar("T")


ELSEWHERE = {
    "AT-2, cancelling a wait leaked the slot": "contract::a_cancelled_waiter_leaves_no_trace",
    "AT-7, a notified waiter was cancelled, and another one slept for ever next to a token": (
        "contract::cancelling_whoever_was_let_in_before_it_ran_wakes_the_next_one"
    ),
    "AT-9, ['newcomer', 'early waiter']": (
        "contract::a_newcomer_does_not_overtake_whoever_was_let_in_and_has_not_run_yet"
    ),
    "AT-11, sem value 3 of 1": "throttle::one_release_too_many_is_a_value_error",
    "AT-16, MX-2, AU-11, Condition ... is bound to a different event loop": (
        "loops::a_module_level_instance_in_loop_after_loop_under_contention"
    ),
    "AT-17, refilled by a task; cancel all tasks, and nobody went ever again": (
        "races::all_tasks_of_the_loop_are_cancelled_and_the_throttle_is_used_again"
    ),
    "AT-23, AU-8, [10, 5, 7, 9, 4, 3, 6, 11, 0, 8, 1, 2]": "contract::first_come_first_served",
    "AT-8, CC-8, a heavy weight never went while four light ones came again and again": (
        "queue::callers_go_in_order_of_arrival_whatever_they_weigh"
    ),
    "CC-2, a body that was cancelled leaked a slot, and was not cancelled": (
        "contract::room_is_given_back_when_the_body_is_cancelled"
    ),
    "CC-11, a negative amount minted tokens: available 80": (
        "limits::a_weight_that_cannot_be_is_refused_before_anything_is_asked_for"
    ),
    "CC-12, a call that failed for one limit took of another: 30 lost": (
        "limits::acquire_takes_nothing_that_would_have_to_be_waited_for"
    ),
    "CC-13, a call within another waited for what it could do without": (
        "limits::who_skips_a_limit_is_not_held_up_by_it"
    ),
    "CP-5, AttributeError: ... no attribute '_warned_keys'": (
        "limits::what_cannot_be_settled_is_refused_and_then_nothing_is"
    ),
    "CP-6, a worker that died took its slot with it": (
        "threads::a_body_that_fails_gives_back_the_slot_and_keeps_the_token"
    ),
    "CP-8, CC-17, a call went through all records": (
        "defects_concurry::cp_8_no_call_does_the_work_of_ten_thousand"
    ),
    "AX-3, a timeout returned False": (
        "throttle::a_timeout_shorter_than_the_known_wait_is_refused_at_once"
    ),
    "AX-4, 50 concurrent entries took 0.00 s": "contract::nobody_goes_in_while_it_is_full",
    "AX-6, only the first of the waiters was ever served": (
        "limits::the_better_priority_goes_first_and_within_one_arrival_decides"
    ),
}
"""What went wrong there, and the test that proves it of every limiter here."""


@pytest.mark.parametrize("where", ELSEWHERE.values(), ids=ELSEWHERE)
def test_what_is_proved_elsewhere_is_proved_there(where: str) -> None:
    file, _, name = where.partition("::")
    tests = Path(__file__).with_name(f"test_{file}.py").read_text("utf-8")
    assert f"def test_{name}(" in tests


# --- async-throttle 1.0 ---


async def test_at_1_and_3_neither_an_exception_nor_too_large_a_weight_leaks_the_slot() -> None:
    """There: ``sem value 0 of 1; next acquire blocked: True``: the slot was taken first."""
    throttle = Throttle(100, 1)
    for weight, error in ((5, KeyError), (101, ValueError), (100.5, WeightTooLarge)):
        with pytest.raises(error):
            async with throttle(weight):
                raise KeyError
    assert (throttle.active, throttle.level) == (0, 95)
    async with throttle(5):
        assert now() == 0.0


async def test_at_4_there_is_no_second_burst_at_the_edge_of_a_period() -> None:
    """There: ``Throttle(10) ... admitted 20 ops within 0.1 s``."""
    throttle = Throttle(10)
    went: list[float] = []

    async def job() -> None:
        async with throttle:
            went.append(now())

    await asyncio.sleep(0.95)
    await asyncio.gather(*(job() for _ in range(30)))
    assert went == [0.95] * 10 + [pytest.approx(1.05 + n / 10) for n in range(20)]
    assert max(sum(start <= instant <= start + 0.1 for instant in went) for start in went) == 11


async def test_at_5_tokens_come_back_one_by_one() -> None:
    """There a whole second's budget came back at once: ``{0.0: 10, 1.0: 10, 2.0: 10}``."""
    throttle = Throttle(10)
    went: Counter[float] = Counter()
    for _ in range(30):
        async with throttle:
            went[now()] += 1
    assert went == {0.0: 10, **{n / 10: 1 for n in range(1, 21)}}


async def test_at_6_fractional_weights_do_not_hang() -> None:
    """There as many waiters were woken as there were whole tokens: ``done=4 still hung=4``."""
    throttle = Throttle(4, initial=0)
    waiters = [await queued(throttle.acquire(0.5)) for _ in range(8)]
    await asyncio.gather(*waiters)
    assert now() == 1.0
    for weight in (0.1, 0.3, 1 / 3, 1e-9, 0.7):
        await asyncio.gather(*(throttle.acquire(weight) for _ in range(9)))


async def test_at_10_a_pause_stops_those_already_queued_and_those_who_consume() -> None:
    """There: ``admitted 0.30 s ... (pause ends at 2.05)``, and consume() ignored a pause."""
    throttle = Throttle(10, initial=0)
    came = []

    async def call(awaitable: Coroutine[Any, Any, object]) -> None:
        await awaitable
        came.append(now())

    tasks = [
        await queued(call(throttle.acquire(3))),
        await queued(call(throttle.consume(1))),
        await queued(call(throttle.acquire())),
    ]
    await asyncio.sleep(0.05)
    throttle.pause(2)
    await asyncio.gather(*tasks)
    assert came == [2.05, 2.05, 2.05]


@pytest.mark.parametrize(("weight", "waiters"), [(1, 100), (1, 1_000), (100, 100)])
async def test_at_15_a_wake_up_concerns_only_those_who_go(
    weight: int, waiters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There everybody who waited was woken to look: 52.5 checks per admission."""
    throttle = Throttle(100, initial=0)
    tasks = [asyncio.create_task(throttle.acquire(weight)) for _ in range(waiters)]
    await others_run()
    calls = 0
    loop = asyncio.get_running_loop()
    for name in ("call_soon", "call_at"):
        original = getattr(loop, name)

        def counted(*args: Any, original: Any = original, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(loop, name, counted)
    await asyncio.wait(tasks)
    # For each: its future, its task's end, a timer that rings early and the exact one.
    assert calls <= 5 * waiters


async def test_at_19_after_an_emptying_pause_they_leave_one_by_one() -> None:
    """There all ten left in the same instant: ``0.501 .. 0.501 n = 10``. By default they still
    may, since the bucket fills during the pause; a gentle restart is to be had."""
    throttle = Throttle(10)
    came = []

    async def job() -> None:
        async with throttle:
            came.append(now())

    tasks = []
    throttle.pause(0.5, empty=True)
    for _ in range(10):
        tasks.append(await queued(job()))
    await asyncio.gather(*tasks)
    assert came == [0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5]


# --- mtaio 0.1 ---


async def test_mt_1_to_3_limiters_are_context_managers_and_can_be_awaited() -> None:
    """There: ``TypeError: 'RateLimiter' object does not support the asynchronous context
    manager protocol``, and ``object _AsyncGeneratorContextManager can't be used in 'await'
    expression``, though that is how the documents use them."""
    limiter, slots = RateLimiter(10.0), ConcurrencyLimiter(1)
    async with limiter as same, slots as other:
        assert (same, other) == (limiter, slots)
        assert slots.throttle.locked()
    assert limiter.throttle.level == 9.0
    await slots.acquire()
    assert slots.throttle.active == 1
    slots.release()
    assert not slots.throttle.locked()


async def test_mt_5_the_documented_parameters_exist() -> None:
    """There: ``RateLimiter.__init__() got an unexpected keyword argument``."""
    assert RateLimiter(rate=100.0, burst=20).throttle.burst == 20.0
    assert ConcurrencyLimiter(limit=4).throttle.concurrency == 4
    await RateLimiter(rate=10.0).acquire(tokens=3)


async def test_mt_8_and_29_a_rate_limiter_waits_and_serves_all_of_fifty_at_once() -> None:
    """There twelve calls were ten successes and two errors; to raise must be asked for here."""
    limiter = RateLimiter(10.0)
    await asyncio.gather(*(limiter.acquire() for _ in range(50)))
    assert now() == 4.0
    impatient = RateLimiter(10.0, wait=False)
    for _ in range(10):
        await impatient.acquire()
    with pytest.raises(ResourceLimitError):
        await impatient.acquire()


async def test_mt_9_a_rate_below_one_can_be_acquired() -> None:
    """There: ``RateLimiter(0.5): burst = 0 -> ResourceLimitError``, for ever."""
    limiter = RateLimiter(0.5)
    for _ in range(3):
        await limiter.acquire()
    assert now() == 4.0


@pytest.mark.parametrize("bad", [-1, -0.5, math.nan, -math.inf, 0])
async def test_mt_9b_to_9d_what_is_not_positive_is_refused_and_mints_nothing(bad: float) -> None:
    """There a burst of 0 was the rate, and negative tokens left ``tokens = 105 of burst 5``."""
    with pytest.raises(ValueError, match=str(bad)):
        RateLimiter(bad)
    with pytest.raises(ValueError, match="burst"):
        RateLimiter(10.0, bad)
    limiter = RateLimiter(5.0)
    if bad:
        with pytest.raises(ValueError, match=r"weight|tokens"):
            await limiter.acquire(bad)
    assert limiter.throttle.level == 5.0


async def test_mt_17_forgetting_what_has_left_the_window_is_not_quadratic() -> None:
    """There 200,000 stamps cost 2.8 s in one acquire, with list.pop(0), the loop blocked. Here
    the stamps kept are bounded, so that one call can not have much to do. Calls are counted."""
    reading = 0.0
    throttle = Throttle(20_000, algorithm=SlidingWindow, timer=lambda: reading)
    for n in range(20_000):
        reading = n * 50e-6
        assert throttle.try_acquire()
    reading += 10.0
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        granted = throttle.try_acquire()
    finally:
        sys.setprofile(None)
    assert granted
    assert calls < 3_000


async def test_mt_22c_refused_calls_earn_nothing() -> None:
    """There each refused call credited the time since the last grant once more: ``69 admitted
    in 1.0 s (10 expected)``."""
    limiter = RateLimiter(10.0, burst=1, wait=False)
    admitted = 0
    for _ in range(1_000):
        with contextlib.suppress(ResourceLimitError):
            await limiter.acquire()
            admitted += 1
        await asyncio.sleep(0.001)
    assert admitted == 10


async def test_mt_23_the_first_second_is_what_guarantee_says() -> None:
    """There RateLimiter(10) let 19 go in its first second and did not say so. A full bucket
    does that; here it is told, and a burst of one is how to have ten."""
    for burst, told in ((None, 20.0), (1, 11.0)):
        limiter = RateLimiter(10.0, burst=burst)
        went: list[float] = []
        began = now()
        for _ in range(40):
            await limiter.acquire()
            went.append(round(now() - began, 9))
        assert limiter.throttle.guarantee(1.0) == told
        assert sum(instant < 1.0 for instant in went) == told - 1  # the bound itself is at 1.0


async def test_mt_4_resources_can_be_grouped() -> None:
    """There: ImportError, though that is how the documents use it."""
    group = ResourceGroup()
    slots = await group.add(ConcurrencyLimiter(2))
    async with group:
        assert slots.throttle.active == 1
    assert slots.throttle.active == 0


async def test_mt_11_a_timeout_is_no_cancellation() -> None:
    """There: ``('raised', 'CancelledError: ') after 0.502 s``, in a caller nobody cancelled."""
    manager = TimeoutManager(0.5)
    for _ in range(2):
        with pytest.raises(exceptions.TimeoutError):
            async with manager:
                await asyncio.sleep(60)
        with pytest.raises(exceptions.TimeoutError):
            await manager.run(asyncio.sleep(60))
    task = asyncio.current_task()
    assert task is not None
    assert (now(), task.cancelling()) == (2.0, 0)


@pytest.mark.parametrize("seconds", [0.11, 0.15, 0.201, 0.25, 0.31])
async def test_mt_6_and_12_to_14_a_timeout_comes_to_the_instant_in_every_form(
    seconds: float,
) -> None:
    """There a task looked every 100 ms, up to 100 ms late, and only where a block was open:
    ``('ok', None) 1.00 s``; a block limited only what went through run(), and had no parts."""
    with pytest.raises(TimeoutError):
        await TimeoutManager(seconds).run(asyncio.sleep(60))
    assert now() == seconds
    with pytest.raises(TimeoutError):
        await TimeoutManager().run(asyncio.sleep(60), timeout=seconds)
    for block in (TimeoutManager(seconds), TimeoutManager().timeout(seconds)):
        with pytest.raises(TimeoutError):
            async with block:
                await asyncio.sleep(60)
    assert now() == pytest.approx(4 * seconds, abs=1e-9)
    await asyncio.sleep(60)  # MT-20b: nothing is cancelled afterwards


async def test_mt_18_of_several_calls_none_vanishes_and_none_goes_on() -> None:
    """There a group of calls returned ``['a']``: those without a timeout were not awaited and
    those that timed out were left out. Or it raised CancelledError, late, and calls went on."""
    manager = TimeoutManager()
    going_on = []

    async def call(name: str, seconds: float) -> str:
        await asyncio.sleep(seconds)
        going_on.append(name)
        return name

    calls = [
        manager.run(call("a", 0.1), timeout=0.15),
        manager.run(call("without", 0.3)),
        manager.run(call("late", 1.0), timeout=0.15),
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[:2] == ["a", "without"]
    assert type(results[2]) is exceptions.TimeoutError
    assert now() == 0.3
    await asyncio.sleep(60)
    assert going_on == ["a", "without"]


async def test_mt_19_a_timeout_leaves_the_time_that_it_says() -> None:
    """There: ``Operation timed out after 5.0 seconds after 0.0000 s``."""
    async with TimeoutManager().timeout(5.0):
        await asyncio.sleep(4.9)
    with pytest.raises(TimeoutError, match="after 5 s"):
        async with TimeoutManager().timeout(5.0):
            await asyncio.sleep(60)
    assert now() == 9.9


async def test_mt_27_one_timeout_manager_serves_many_requests() -> None:
    """There the first to leave cancelled the others, ``['CancelledError: ', 'fast done']``, and
    tasks that watched the time were left behind."""
    manager = TimeoutManager(5.0)

    async def request(name: str, seconds: float) -> str:
        async with manager:
            await asyncio.sleep(seconds)
        return f"{name} done"

    tasks = [asyncio.create_task(request("slow", 2.0)), asyncio.create_task(request("fast", 0.1))]
    await asyncio.sleep(0.05)
    assert asyncio.all_tasks() == {asyncio.current_task(), *tasks}
    assert await asyncio.gather(*tasks) == ["slow done", "fast done"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_mt_28_an_adaptive_limiter_can_be_used() -> None:
    """There: AttributeError '_lock' in acquire(), KeyError 'x' in adjust_rate()."""
    limiter = AdaptiveRateLimiter()
    await limiter.acquire("x")
    limiter.adjust_rate("x", 0.95)
    assert limiter.rates["x"] == 0.8
    limiter.adjust_rate("never acquired", 0.4)
    assert limiter.rates["never acquired"] == 1.2
    await limiter.acquire("x")
    assert now() == 1.25
