"""Races, each told before it is set up, each a regression test.

*Step* is one iteration of the event loop. A grant is made in one step and the granted task runs
in the next; what happens in between is where limiters lose slots, tokens and wake-ups. What the
scenes of ``explorer.py`` play in every order is not told again here.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from support import at, now, others_run, queued

from async_throttle import (
    Throttle,
    ThrottleFull,
)

pytestmark = pytest.mark.virtual_time


async def is_as_new(throttle: Throttle) -> None:
    """Nothing is held, nobody waits, and everything comes back in time."""
    await others_run()
    assert (throttle.active, throttle.waiting, throttle.paused_for) == (0, 0, 0.0)
    await asyncio.sleep(throttle.delay(throttle.burst))
    assert throttle.level == throttle.burst
    assert throttle.try_acquire(throttle.burst)
    throttle.release()


# --- release and cancel ---


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


# --- live changes ---


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
