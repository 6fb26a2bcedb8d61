"""Races, each told before it is set up, each a regression test.

*Step* is one iteration of the event loop. A grant is made in one step and the granted task runs
in the next; what happens in between is where limiters lose slots, tokens and wake-ups.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from support import at, now, others_run, queued

from async_throttle import (
    Throttle,
    ThrottleClosed,
    ThrottleFull,
    ThrottleTimeout,
    WeightTooLarge,
)

pytestmark = pytest.mark.virtual_time

T = TypeVar("T")


async def is_as_new(throttle: Throttle) -> None:
    """Nothing is held, nobody waits, and everything comes back in time."""
    await others_run()
    assert (throttle.active, throttle.waiting, throttle.paused_for) == (0, 0, 0.0)
    await asyncio.sleep(throttle.delay(throttle.burst))
    assert throttle.level == throttle.burst
    assert throttle.try_acquire(throttle.burst)
    throttle.release()


# --- granted and cancelled in one step ---


async def test_the_slot_granted_to_a_task_cancelled_in_the_same_step_goes_to_the_next() -> None:
    """A holder releases: the slot is granted to A. Before A has run, A is cancelled. The slot
    must go on to B; a semaphore that only wakes A loses it, and B sleeps for ever."""
    throttle = Throttle(100, 1)
    await throttle.acquire()
    a, b = await queued(throttle.acquire()), await queued(throttle.acquire())
    throttle.release()
    a.cancel()
    await b
    assert a.cancelled()
    assert (throttle.active, throttle.level, now()) == (1, 98.0, 0.0)
    throttle.release()
    await is_as_new(throttle)


async def test_the_tokens_granted_to_a_task_cancelled_in_the_same_step_go_to_the_next() -> None:
    """The timer grants ten tokens to A. A is cancelled in that very step. B, who wants the same
    ten, must have them at that instant and not a second later: A's are as never taken."""
    throttle = Throttle(10, 1, initial=0)
    a, b = await queued(throttle.acquire(10)), await queued(throttle.acquire(10))
    at(1.0, a.cancel)
    await b
    assert a.cancelled()
    assert (now(), throttle.level) == (1.0, 0.0)


async def test_cancelled_just_before_with_or_just_after_the_grant() -> None:
    """Timers of the same instant fire in no certain order: the cancellation may come before
    the grant or after it. So it is tried at the instant, and a nanosecond to either side."""
    for nudge in (-1e-9, 0.0, 1e-9):
        throttle = Throttle(10, initial=0)
        began = now()
        a, b = await queued(throttle.consume(10)), await queued(throttle.consume(10))
        at(began + 1.0 + nudge, a.cancel)
        await asyncio.gather(a, b, return_exceptions=True)
        if nudge:
            assert a.cancelled() == (nudge < 0)
        assert now() - began == (1.0 if a.cancelled() else 2.0)
        await is_as_new(throttle)


async def test_a_whole_row_granted_in_one_step_and_all_but_the_last_cancelled() -> None:
    """Three slots come free at once and are granted to A, B and C; A and B are cancelled before
    they run. D and E, next in the row, must go in their place."""
    throttle = Throttle(100, 3)
    for _ in range(3):
        await throttle.acquire()
    a, b, c, d, e, f = [await queued(throttle.acquire()) for _ in range(6)]
    for _ in range(3):
        throttle.release()
    a.cancel()
    b.cancel()
    await others_run()
    assert [task.done() for task in (a, b, c, d, e, f)] == [True] * 5 + [False]
    assert [task.cancelled() for task in (a, b, c, d, e)] == [True, True, False, False, False]
    assert throttle.level == 94.0
    throttle.release()
    await f


async def test_a_granted_task_is_cancelled_while_the_next_one_lacks_something_else() -> None:
    """A is granted and cancelled in one step. What A gives back is not enough for B, who is
    heavier: B keeps waiting, for the rest only, and its timer must have been armed anew."""
    throttle = Throttle(10, 1, initial=0)
    a, b = await queued(throttle.acquire(1)), await queued(throttle.acquire(10))
    at(0.1, a.cancel)
    await b
    assert now() == 1.0


async def test_everyone_in_the_queue_is_cancelled_in_the_step_of_the_grant() -> None:
    throttle = Throttle(10, 1)
    await throttle.acquire()
    waiters = [await queued(throttle.acquire()) for _ in range(20)]
    throttle.release()
    for waiter in waiters:
        waiter.cancel()
    await others_run()
    assert all(waiter.cancelled() for waiter in waiters)
    assert throttle.level == 9.0
    await is_as_new(throttle)


# --- timeouts and grants ---


async def test_a_grant_at_the_instant_of_the_deadline_is_a_grant() -> None:
    """The tokens come at 1 s, the throttle's own timeout ends at 1 s. Both timers fire in the
    same step; whichever is first, the grant wins, because it was promised."""
    throttle = Throttle(10, initial=0)
    waiter = await queued(throttle.acquire(10, timeout=1.0))
    behind = await queued(throttle.acquire(1, timeout=1.1))
    assert await waiter
    assert now() == 1.0
    assert await behind
    assert now() == 1.1


async def test_a_slot_released_with_the_deadline_is_either_used_or_free() -> None:
    """The holder releases at the instant of the deadline. Which comes first nobody can say; but
    a refusal must leave the slot free, and a grant must hold it."""
    for nudge in (-1e-9, 0.0, 1e-9):
        throttle = Throttle(10, 1)
        await throttle.acquire()
        at(now() + 1.0 + nudge, throttle.release)
        try:
            granted = await throttle.acquire(timeout=1.0)
        except ThrottleTimeout:
            granted = False
        if nudge:
            assert granted == (nudge < 0)
        await asyncio.sleep(1.0)
        assert throttle.active == granted
        if granted:
            throttle.release()
        await is_as_new(throttle)


async def test_a_deadline_just_before_the_grant_is_a_refusal() -> None:
    throttle = Throttle(10, 1)
    await throttle.acquire()
    at(1.0, throttle.release)
    with pytest.raises(ThrottleTimeout):
        await throttle.acquire(timeout=0.999_999_999)
    await asyncio.sleep(0.5)
    await is_as_new(throttle)


async def test_asyncio_timeout_and_grant_in_one_step_leave_nothing_behind() -> None:
    """asyncio.timeout() fires in the step in which the grant is made. Whether the body is
    reached or not, nothing may stay taken but what a body that began has used."""
    for nudge in (-1e-9, 0.0, 1e-9):
        throttle = Throttle(10, 1, initial=0)
        began = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(now() + 1.0 + nudge), throttle(10):
                began += 1
        assert throttle.active == 0
        assert throttle.level == pytest.approx(0.0 if began else 10.0, abs=1e-6)
        await is_as_new(throttle)


async def test_wait_for_and_release_in_one_step_lose_no_slot() -> None:
    """wait_for() gives up in the step in which the holder releases. Up to Python 3.11 wait_for
    itself may swallow one of the two; the slot must survive either way."""
    for nudge in (-1e-9, 0.0, 1e-9):
        throttle = Throttle(100, 1)
        await throttle.acquire()
        at(now() + 1.0, throttle.release)
        got = False
        with contextlib.suppress(TimeoutError):
            got = await asyncio.wait_for(throttle.acquire(), 1.0 + nudge)
        await asyncio.sleep(1.0)
        assert throttle.active == got
        if got:
            throttle.release()
        await is_as_new(throttle)


async def test_the_head_times_out_and_the_next_one_goes_in_the_same_step() -> None:
    """The head wants more than there is until its deadline. When that comes the head goes, and
    the one behind it, for whom there has long been enough, goes at that very instant."""
    throttle = Throttle(10, initial=5)
    await throttle.acquire(0)
    head = await queued(throttle.acquire(10, timeout=0.5))
    throttle.charge(1)  # now it will be 0.6 s
    light = await queued(throttle.acquire(1))
    with pytest.raises(ThrottleTimeout):
        await head
    assert now() == 0.5
    await light
    assert now() == 0.5


# --- release and cancel ---


@pytest.mark.parametrize("release_first", [True, False])
async def test_release_and_cancel_of_the_head_in_one_step(release_first: bool) -> None:
    """One callback releases the slot and cancels the head, in either order. The next one in the
    queue must be granted, once."""
    throttle = Throttle(100, 1)
    await throttle.acquire()
    head = await queued(throttle.acquire())
    following, last = await queued(throttle.acquire()), await queued(throttle.acquire())
    if release_first:
        throttle.release()
        head.cancel()
    else:
        head.cancel()
        throttle.release()
    await following
    await others_run()
    assert head.cancelled()
    assert (throttle.active, throttle.waiting, last.done()) == (1, 1, False)
    throttle.release()
    await last


async def test_a_task_cancelled_twice_gives_back_once() -> None:
    throttle = Throttle(100, 2)
    await throttle.acquire()
    await throttle.acquire()
    waiter = await queued(throttle.acquire())
    throttle.release()
    waiter.cancel()
    waiter.cancel()
    await others_run()
    assert throttle.active == 1
    throttle.release()
    await is_as_new(throttle)


async def test_a_cancellation_that_the_caller_swallows_leaves_it_without_a_grant() -> None:
    """The task catches its own cancellation and asks again: that is a new call, at the end of
    the queue."""
    throttle = Throttle(100, 1)
    order = []

    async def stubborn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await throttle.acquire()
        await throttle.acquire()
        order.append("stubborn")
        throttle.release()

    async def other() -> None:
        async with throttle:
            order.append("other")

    await throttle.acquire()
    tasks = [await queued(stubborn()), await queued(other())]
    throttle.release()
    tasks[0].cancel()
    await asyncio.gather(*tasks)
    assert order == ["other", "stubborn"]
    await is_as_new(throttle)


# --- pauses ---


async def test_a_waiter_cancelled_while_paused() -> None:
    """A waits through a pause and is cancelled in it. B behind it goes when the pause ends, and
    A's tokens and slot were never touched."""
    throttle = Throttle(10, 1)
    throttle.pause(2)
    a, b = await queued(throttle.acquire(10)), await queued(throttle.acquire(10))
    await asyncio.sleep(1)
    a.cancel()
    await b
    assert (now(), throttle.level) == (2.0, 0.0)


async def test_a_pause_made_in_the_step_of_a_grant_leaves_the_grant() -> None:
    """The slot is granted to A, then somebody pauses, then A runs. The grant stands. B waits."""
    throttle = Throttle(10, 1)
    await throttle.acquire()
    a, b = await queued(throttle.acquire()), await queued(throttle.acquire())
    throttle.release()
    throttle.pause(5)
    await a
    assert now() == 0.0
    throttle.release()
    await b
    assert now() == 5.0


async def test_a_grant_before_a_pause_that_is_cancelled_waits_for_the_end_of_the_pause() -> None:
    """A is granted, the throttle is paused, A is cancelled before it runs. What A gives back is
    B's, but only when the pause is over."""
    throttle = Throttle(10, 1)
    await throttle.acquire()
    a, b = await queued(throttle.acquire()), await queued(throttle.acquire())
    throttle.release()
    throttle.pause(5)
    a.cancel()
    await b
    assert now() == 5.0


async def test_a_pause_at_the_instant_of_a_grant() -> None:
    """The tokens come at 1 s, and at 1 s somebody pauses for 2 s. Either the waiter was granted
    or it waits for the pause; never is it forgotten."""
    for nudge, expected in ((-1e-9, 3.0 - 1e-9), (1e-9, 1.0)):
        throttle = Throttle(10, initial=0)
        began = now()
        at(began + 1.0 + nudge, lambda throttle=throttle: throttle.pause(2))  # type: ignore[misc]
        await throttle.acquire(10)
        assert now() - began == pytest.approx(expected, abs=1e-12)
        throttle.resume()
        await asyncio.sleep(2)


async def test_a_pause_and_a_resume_in_one_step_change_nothing() -> None:
    throttle = Throttle(10, initial=0)
    waiter = await queued(throttle.acquire(5))
    throttle.pause(100)
    throttle.resume()
    await waiter
    assert now() == 0.5


# --- the body ---


async def test_the_body_raises_is_cancelled_or_times_out_and_the_next_one_goes_at_once() -> None:
    """Whoever holds the slot ends in three ways; each time the next one in the queue must get
    the slot in the same instant, and the tokens stay spent."""
    throttle = Throttle(100, 1)
    began = []

    async def fails() -> None:
        async with throttle:
            began.append(now())
            await asyncio.sleep(1)
            raise KeyError

    async def times_out() -> None:
        async with throttle(2):
            began.append(now())
            async with asyncio.timeout(1):
                await asyncio.Event().wait()

    async def is_cancelled() -> None:
        async with throttle:
            began.append(now())
            await asyncio.Event().wait()

    tasks = [await queued(fails()), await queued(times_out()), await queued(is_cancelled())]
    last = await queued(throttle.acquire())
    at(3.0, tasks[2].cancel)
    await last
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [
        KeyError,
        TimeoutError,
        asyncio.CancelledError,
    ]
    assert (began, now()) == ([0.0, 1.0, 2.0], 3.0)
    throttle.release()
    await is_as_new(throttle)


async def test_a_body_cancelled_before_its_first_await_gives_the_slot_back() -> None:
    """A task is cancelled while it is granted but not yet running *and* the cancellation is
    delivered inside of the block, because the entry needed no wait."""
    throttle = Throttle(100, 1)

    async def job() -> None:
        async with throttle:
            await asyncio.sleep(0)
            raise AssertionError("never reached")

    task = asyncio.create_task(job())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await is_as_new(throttle)


# --- newcomers ---


@pytest.mark.parametrize("form", ["async with", "async with call", "acquire", "consume", "try"])
async def test_a_newcomer_between_a_grant_and_the_first_step_of_the_granted_task(
    form: str,
) -> None:
    """Two tokens are left. One slot comes free and is granted to A, who has not run yet. Then a
    newcomer comes, for whom there would be a token and a slot. It must start after A."""
    throttle = Throttle(10, 2)
    order = []

    async def early() -> None:
        async with throttle:
            order.append("early")

    async def newcomer() -> None:
        if form == "async with":
            async with throttle:
                order.append("newcomer")
        elif form == "async with call":
            async with throttle(1):
                order.append("newcomer")
        elif form == "try":
            assert not throttle.try_acquire()
            order.append("newcomer")
        else:
            await getattr(throttle, form)()
            order.append("newcomer")

    await throttle.acquire()
    await throttle.acquire()
    waiting = await queued(early())
    throttle.release()
    throttle.release()
    assert (throttle.active, throttle.level, throttle.locked()) == (1, 7.0, True)
    if form == "try":
        assert not throttle.try_acquire()
        await waiting
        assert throttle.try_acquire()
    else:
        await newcomer()
        assert order == ["early", "newcomer"]
    await waiting


async def test_a_newcomer_at_the_instant_of_the_grant_starts_after_the_granted_one() -> None:
    """The tokens of A come at 1 s; at 1 s, before the timer of the throttle has been looked at,
    a newcomer arrives. It finds a token and must not take it."""
    throttle = Throttle(1, initial=0)
    order: list[tuple[str, float]] = []

    async def call(name: str) -> None:
        await throttle.acquire()
        order.append((name, now()))

    early = await queued(call("early"))
    await asyncio.sleep(1.0 - 1e-9)
    thief: list[bool] = []
    at(1.0, lambda: thief.append(throttle.try_acquire()))
    await asyncio.sleep(1e-9)
    await call("newcomer")
    await early
    assert thief == [False]
    assert order == [("early", 1.0), ("newcomer", 2.0)]


async def test_several_granted_in_one_wake_start_in_order() -> None:
    """A heavy head leaves; ten light ones behind it become possible in one step. They start in
    the order in which they came, and a newcomer of that step after all of them."""
    throttle = Throttle(10, initial=10)
    throttle.charge(0.5)
    order: list[int] = []

    async def call(n: int) -> None:
        async with throttle(0.5):
            order.append(n)

    head = await queued(throttle.acquire(10))
    tasks = [await queued(call(n)) for n in range(10)]
    head.cancel()
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(call(10)))
    await asyncio.gather(*tasks)
    assert order == list(range(11))
    assert now() == 0.0


# --- live changes ---


async def test_capacity_raised_and_lowered_while_tasks_wait() -> None:
    """Ten wait at one per second. At 2.5 s the rate becomes ten, at 2.8 s one again. Each grant
    comes exactly when the area under the rate has grown by one."""
    throttle = Throttle(1, initial=0, burst=1)
    came = []

    async def call() -> None:
        await throttle.acquire()
        came.append(now())

    def faster() -> None:
        throttle.capacity = 10

    def slower() -> None:
        throttle.capacity = 1

    at(2.5, faster)
    at(2.78, slower)
    await asyncio.gather(*(call() for _ in range(7)))
    # 2.5 s: half a token. 0.05 s later one; 2.65, 2.75; 2.78: 0.3 of a token, 0.7 s to go
    assert came == [1.0, 2.0, 2.55, 2.65, 2.75, 3.48, 4.48]


async def test_concurrency_lowered_between_a_grant_and_the_first_step() -> None:
    """Two slots are granted to A and B, then there is only one. Both grants stand, and C must
    wait until both have left."""
    throttle = Throttle(100, 2)
    await throttle.acquire()
    await throttle.acquire()
    a, b, c = [await queued(throttle.acquire()) for _ in range(3)]
    throttle.release()
    throttle.release()
    throttle.concurrency = 1
    await asyncio.gather(a, b)
    assert throttle.active == 2
    throttle.release()
    await others_run()
    assert not c.done()
    throttle.release()
    await c
    assert throttle.active == 1


async def test_concurrency_lowered_and_a_granted_one_cancelled() -> None:
    """Two are granted, the limit becomes one, one of the two is cancelled before it runs: its
    slot is the one that was taken away, and must not go to C."""
    throttle = Throttle(100, 2)
    await throttle.acquire()
    await throttle.acquire()
    a, b, c = [await queued(throttle.acquire()) for _ in range(3)]
    throttle.release()
    throttle.release()
    throttle.concurrency = 1
    a.cancel()
    await b
    await others_run()
    assert (throttle.active, c.done()) == (1, False)
    throttle.release()
    await c


async def test_the_burst_shrinks_below_a_granted_weight() -> None:
    """Ten tokens are granted to A; then the burst becomes five, then A is cancelled. A's ten
    come back as no more than a full bucket."""
    throttle = Throttle(10, initial=0)
    a = await queued(throttle.acquire(10))
    at(1.0, a.cancel)
    at(1.0, lambda: setattr(throttle, "burst", 5))
    await asyncio.gather(a, return_exceptions=True)
    if not a.cancelled():
        throttle.release()
    await asyncio.sleep(0.5)
    assert (throttle.level, throttle.active) == (5.0, 0)


async def test_a_waiter_that_no_longer_fits_and_is_cancelled_in_the_same_step() -> None:
    throttle = Throttle(10, 1, initial=0)
    heavy = await queued(throttle.acquire(8))
    light = await queued(throttle.acquire(1))
    throttle.burst = 5
    heavy.cancel()
    await light
    assert heavy.cancelled()
    assert now() == 0.1
    throttle.release()
    await is_as_new(throttle)


async def test_closed_in_the_step_of_a_grant_the_grant_stands() -> None:
    """The slot is granted to A, then the throttle is closed. A runs; B gets ThrottleClosed."""
    throttle = Throttle(100, 1)
    await throttle.acquire()
    a, b = await queued(throttle.acquire()), await queued(throttle.acquire())
    throttle.release()
    throttle.close()
    assert await a
    with pytest.raises(ThrottleClosed):
        await b
    throttle.release()
    assert (throttle.active, throttle.waiting) == (0, 0)


async def test_closed_and_cancelled_in_one_step() -> None:
    throttle = Throttle(100, 1)
    await throttle.acquire()
    waiter = await queued(throttle.acquire())
    throttle.close()
    waiter.cancel()
    await others_run()
    assert waiter.cancelled()
    assert throttle.waiting == 0


async def test_a_full_queue_has_a_place_again_in_the_step_in_which_one_leaves() -> None:
    throttle = Throttle(100, 1, max_waiting=1)
    await throttle.acquire()
    first = await queued(throttle.acquire())
    with pytest.raises(ThrottleFull):
        await throttle.acquire()
    throttle.release()  # the first is granted: the queue is empty, and a newcomer may queue
    second = await queued(throttle.acquire())
    assert (first.done(), second.done()) == (True, False)
    throttle.release()
    await second


# --- refunds ---


async def test_a_refund_and_a_cancellation_of_the_head_in_one_step() -> None:
    """A lease gives eight tokens back, which grants the head; the head is cancelled before it
    runs. The tokens are the next one's, at that instant."""
    throttle = Throttle(10)
    lease = await throttle.lease(10)
    head, following = await queued(throttle.acquire(8)), await queued(throttle.acquire(8))
    lease.settle(2)
    head.cancel()
    await following
    assert (now(), throttle.level) == (0.0, 0.0)


async def test_debt_settled_in_the_step_of_a_grant_leaves_the_grant() -> None:
    throttle = Throttle(10, 1)
    lease = await throttle.lease(5)
    waiter = await queued(throttle.acquire(5))
    lease.release()
    lease.settle(15)
    await waiter
    assert (now(), throttle.level) == (0.0, -10.0)


# --- everything is cancelled ---


async def test_all_tasks_of_the_loop_are_cancelled_and_the_throttle_is_used_again() -> None:
    """Shutdown code cancels all tasks. Waiters, holders, somebody granted, somebody draining:
    all go in one step. Afterwards the throttle must work as if new."""
    throttle = Throttle(10, 2)

    async def job(weight: float) -> None:
        async with throttle(weight):
            await asyncio.sleep(10)

    async def consume() -> None:
        await throttle.consume(3)

    tasks = [await queued(job(weight)) for weight in (1, 2, 3, 1, 8)]
    tasks += [await queued(consume()) for _ in range(3)]
    tasks.append(await queued(throttle.drain()))
    throttle.pause(1)
    await asyncio.sleep(2)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (throttle.active, throttle.waiting) == (0, 0)
    async with throttle, asyncio.timeout(2):
        await throttle.consume(9)
    await is_as_new(throttle)


async def test_cancelling_everybody_in_the_step_of_a_grant() -> None:
    throttle = Throttle(10, initial=0)
    waiters = [await queued(throttle.acquire(2)) for _ in range(10)]
    at(0.2, lambda: [waiter.cancel() for waiter in waiters])
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert throttle.waiting == 0
    granted = sum(result is True for result in results)
    assert throttle.level == 2.0 - 2.0 * granted
    for _ in range(granted):
        throttle.release()
    await is_as_new(throttle)


# --- weights ---


async def test_two_halves_are_one() -> None:
    """Version 1 woke as many waiters as there were whole tokens: of eight that wanted half a
    token each, four slept for ever."""
    throttle = Throttle(4, initial=0)
    waiters = [await queued(throttle.acquire(0.5)) for _ in range(8)]
    await asyncio.gather(*waiters)
    assert now() == 1.0


async def test_a_weight_above_the_burst_in_a_context_manager_leaks_no_slot() -> None:
    """Version 1 took the slot first and then raised about the tokens, for ever one slot short."""
    throttle = Throttle(5, 1)
    for _ in range(3):
        with pytest.raises(WeightTooLarge):
            async with throttle(6):
                raise AssertionError("never reached")
    assert throttle.active == 0
    await is_as_new(throttle)


async def test_a_waiter_without_a_slot_does_not_hold_tokens_from_those_who_need_none() -> None:
    """A waits for the slot that B holds. B consumes inside of its body. If A's claim to tokens
    held B up the two would wait for each other."""
    throttle = Throttle(10, 1)
    async with throttle(10):
        a = await queued(throttle.acquire(10))
        for n in range(1, 4):
            await throttle.consume(10)
            assert now() == float(n)
    await a
    assert now() == 4.0


async def test_a_slot_comes_free_while_a_consumer_waits_for_tokens() -> None:
    """A lacks a slot and is passed by the consumer C, who waits for tokens. Then the slot comes
    free: A came first, so A goes first."""
    throttle = Throttle(10, 1, initial=1)
    order: list[tuple[str, float]] = []

    async def call(name: str, awaitable: Coroutine[Any, Any, object]) -> None:
        await awaitable
        order.append((name, now()))

    await throttle.acquire()
    tasks = [
        await queued(call("A", throttle.acquire(5))),
        await queued(call("C", throttle.consume(5))),
    ]
    at(0.25, throttle.release)
    await asyncio.gather(*tasks)
    assert order == [("A", 0.5), ("C", 1.0)]
