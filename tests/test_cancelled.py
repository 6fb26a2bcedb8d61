"""A caller whose wait was cancelled counts no longer, also before its clean-up has run.

Everything here happens between `Task.cancel` and the next step of the loop: the cancelled caller
is still in the queue, its future is cancelled already. `asyncio.Semaphore` leaves such a caller
out as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from limiters import Kind, Limiter, every_kind
from support import now, others_run, queued

from async_throttle import (
    LimitSet,
    Rule,
    SlidingWindow,
    Throttle,
    ThrottleFull,
    ThrottleTimeout,
    TokenBucket,
)


async def behind_a_cancelled_head(
    kind: Kind, head: float = 4
) -> tuple[Limiter, asyncio.Task[None]]:
    """A limiter with 2 tokens left of 5, and a head that was cancelled a moment ago."""
    limiter = kind.make(1, burst=5)
    await limiter.lease(3)
    task = await queued(limiter.lease(head))
    assert limiter.locked()
    task.cancel()
    return limiter, task


@every_kind
@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda limiter: limiter.locked(), False),
        (lambda limiter: limiter.delay(2), 0),
        (lambda limiter: limiter.delay(4), 2),
        (lambda limiter: limiter.try_acquire(2), True),
    ],
    ids=["locked", "delay of what is there", "delay", "try_acquire"],
)
async def test_a_cancelled_head_is_left_out_of_the_answer_and_nothing_is_left_of_it(
    kind: Kind, ask: Callable[[Limiter], object], answer: object
) -> None:
    limiter, head = await behind_a_cancelled_head(kind)
    assert ask(limiter) == answer
    assert limiter.throttle.level == (0 if answer is True else 2)
    await others_run()  # the clean-up comes after all
    assert head.cancelled()
    assert limiter.throttle.waiting == 0
    await asyncio.sleep(5)
    assert limiter.throttle.level == 5


@every_kind
@pytest.mark.parametrize("timeout", [0, 2])
async def test_a_timeout_is_not_refused_for_a_cancelled_head(kind: Kind, timeout: float) -> None:
    limiter, _ = await behind_a_cancelled_head(kind)
    await limiter.lease(2 + timeout, timeout=timeout)
    assert now() == timeout


@every_kind
async def test_a_timeout_is_refused_for_callers_that_still_wait(kind: Kind) -> None:
    limiter = kind.make(1, burst=5)
    await limiter.lease(3)
    head, second = await queued(limiter.lease(4)), await queued(limiter.lease(4))
    head.cancel()
    with pytest.raises(ThrottleTimeout) as caught:
        await limiter.lease(1, timeout=2.5)
    assert caught.value.retry_after == 3
    await second
    assert now() == 2


@every_kind
async def test_whoever_stays_in_the_queue_goes_as_if_the_cancelled_had_never_asked(
    kind: Kind,
) -> None:
    limiter = kind.make(1, burst=5)
    await limiter.lease(5)
    tasks = [await queued(limiter.lease(1)) for _ in range(5)]
    for n in (0, 1, 3):
        tasks[n].cancel()
    assert not limiter.try_acquire(1)
    await tasks[2]
    assert now() == 1
    await tasks[4]
    assert now() == 2
    assert limiter.throttle.waiting == 0
    assert limiter.delay(1) == 1


# Tasks that are made before the cancellation take their first step before its clean-up.


@every_kind
async def test_a_head_that_waited_for_a_slot_is_left_out_too(kind: Kind) -> None:
    limiter = kind.make(10, 2, max_waiting=1)
    held = [await limiter.lease(), await limiter.lease()]
    head = await queued(limiter.lease())
    newcomer = asyncio.create_task(limiter.lease())
    head.cancel()
    await others_run()
    assert not newcomer.done()
    held[0].release()
    (await newcomer).release()
    assert head.cancelled()
    held[1].release()
    assert (limiter.throttle.active, limiter.throttle.waiting) == (0, 0)


@every_kind
@pytest.mark.parametrize("cancelled", [0, 1, 2])
@pytest.mark.parametrize("classes", [1, 3])
async def test_max_waiting_leaves_the_cancelled_out_wherever_they_stand(
    kind: Kind, cancelled: int, classes: int
) -> None:
    limiter = kind.make(1, burst=1, max_waiting=3)
    await limiter.lease()
    tasks = [await queued(limiter.lease(priority=n % classes)) for n in range(3)]
    newcomer = asyncio.create_task(limiter.lease(priority=5))
    one_too_many = asyncio.create_task(limiter.lease(priority=5))
    tasks[cancelled].cancel()
    with pytest.raises(ThrottleFull):
        await one_too_many
    await newcomer
    assert now() == 3
    assert [task.cancelled() for task in tasks] == [n == cancelled for n in range(3)]


@every_kind
@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_a_forecast_that_plays_the_queue_leaves_the_cancelled_out_wherever_they_stand(
    kind: Kind, cancelled: int
) -> None:
    limiter = kind.make(1, algorithm=SlidingWindow)
    await limiter.lease()
    tasks = [await queued(limiter.lease()) for _ in range(3)]
    tasks[cancelled].cancel()
    assert limiter.delay() == 3
    await limiter.lease(timeout=3)
    assert now() == 3


@pytest.mark.parametrize("algorithm", [TokenBucket, SlidingWindow])
async def test_a_cancelled_head_of_a_set_holds_up_nobody_at_its_throttles(
    algorithm: type[Rule],
) -> None:
    common = Throttle(5, period=5, algorithm=algorithm)
    api = LimitSet(common=common, other=Throttle(1, burst=1))
    other_set = LimitSet(common=common, third=Throttle(1, burst=1))
    await common.acquire(3)
    head = await queued(api(common=4).__aenter__())
    assert common.locked()
    assert other_set.locked()
    head.cancel()
    assert not other_set.locked()
    assert common.delay(2) == 0
    assert bool(other_set.try_acquire(common=1).successful)
    assert common.try_acquire()


@every_kind
async def test_a_caller_in_a_timeout_block_that_just_ran_out_counts_no_longer(kind: Kind) -> None:
    limiter = kind.make(1, burst=5)
    await limiter.lease(5)
    found: list[float] = []

    async def impatient() -> None:
        async with asyncio.timeout(1):
            await limiter.lease(5)

    head = await queued(impatient())
    # After the timer of the block, and before the step in which the block ends.
    asyncio.get_running_loop().call_at(1, lambda: found.append(limiter.delay(1)))
    await asyncio.sleep(2)
    assert isinstance(head.exception(), TimeoutError)
    assert found == [0]


@pytest.mark.parametrize(
    "look",
    [
        lambda throttle: throttle.locked(),
        lambda throttle: throttle.delay(),
        lambda throttle: throttle.try_acquire(3),
    ],
    ids=["locked", "delay", "try_acquire"],
)
async def test_whoever_takes_out_a_cancelled_head_lets_the_next_one_go(
    look: Callable[[Throttle], object],
) -> None:
    throttle = Throttle(1, burst=5, initial=1)
    heavy = await queued(throttle.acquire(5))
    light = await queued(throttle.acquire(1))
    heavy.cancel()
    look(throttle)
    await light
    assert now() == 0.0
