"""Clocks that agree with the loop's when a wait begins, and not later; clocks of another speed.

A monotonic clock stands still while the machine sleeps. Whoever gives a *timer* that goes on (or
that runs faster, or slower) is granted by that clock: it is looked at every 0.1 s. Without one
the loop's clock is trusted, whatever its epoch, and nothing is looked at.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from limiters import KINDS, Kind, Limiter, every_kind
from support import at, now, queued

from async_throttle import (
    GCRA,
    FixedWindow,
    LeakyBucket,
    LimitSet,
    Rule,
    SlidingWindow,
    Throttle,
    ThrottleTimeout,
    TokenBucket,
    threads,
)

LOOK = 0.1
"""Seconds between two looks at a clock."""

NOTICED = LOOK + 1e-3
"""Seconds after which a jump has been noticed; timers are set a little late to be sure."""

DAY = 86_400.0


class Clock:
    """The loop's clock, until it jumps or changes its speed."""

    def __init__(self, speed: float = 1.0) -> None:
        self.ahead = 0.0
        self.speed = speed
        self.reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return now() * self.speed + self.ahead

    def jump_at(self, instant: float, by: float) -> None:
        """Be *by* seconds ahead from that instant on."""

        def jump() -> None:
            self.ahead += by

        at(instant, jump)


@every_kind
@pytest.mark.parametrize("algorithm", [TokenBucket, GCRA, LeakyBucket, SlidingWindow, FixedWindow])
async def test_a_night_that_the_machine_slept_counts(kind: Kind, algorithm: type[Rule]) -> None:
    clock = Clock()
    limiter = kind.make(7, period=26 * 3600, algorithm=algorithm, timer=clock)
    most = 1 if algorithm is LeakyBucket else 7
    assert sum(limiter.try_acquire() for _ in range(10)) == most
    waiter = await queued(limiter.lease())
    clock.jump_at(10, 26 * 3600)
    await waiter
    assert 10 <= now() <= 10 + NOTICED
    rest = sum(limiter.try_acquire() for _ in range(50))
    assert rest <= most - 1, "what the sleep brought, and no more"


@every_kind
async def test_several_jumps_are_noticed_one_after_the_other(kind: Kind) -> None:
    clock = Clock()
    limiter = kind.make(1, period=DAY, burst=1, timer=clock)
    await limiter.lease()
    waiters = [await queued(limiter.lease()) for _ in range(3)]
    for n, waiter in enumerate(waiters, 1):
        clock.jump_at(10.0 * n, DAY)
        await waiter
        assert 10 * n <= now() <= 10 * n + NOTICED
    assert limiter.throttle.waiting == 0


@every_kind
async def test_a_jump_that_brings_only_a_part_leaves_the_rest_to_be_waited_for(kind: Kind) -> None:
    clock = Clock()
    limiter = kind.make(1, period=100, burst=1, timer=clock)
    await limiter.lease()
    waiter = await queued(limiter.lease())
    clock.jump_at(10, 60)
    await waiter
    assert 40 <= now() <= 40 + NOTICED


@every_kind
async def test_a_deadline_that_passed_in_the_sleep_is_over(kind: Kind) -> None:
    clock = Clock()
    limiter = kind.make(1000, 1, timer=clock)
    held = await limiter.lease()
    waiter = await queued(limiter.lease(timeout=3600))
    clock.jump_at(10, 3600)
    with pytest.raises(ThrottleTimeout):
        await waiter
    assert 10 <= now() <= 10 + NOTICED
    held.release()
    assert limiter.throttle.waiting == 0


@every_kind
@pytest.mark.parametrize("first", ["grant", "deadline"])
async def test_of_a_grant_and_a_deadline_in_one_sleep_the_earlier_counts(
    kind: Kind, first: str
) -> None:
    clock = Clock()
    limiter = kind.make(1, period=3600, burst=1, timer=clock)
    await limiter.lease()
    waiter = await queued(limiter.lease(timeout=3601))
    if first == "deadline":
        limiter.throttle.charge(1)  # from here on the grant is due at 7200 s
    clock.jump_at(10, 20_000)
    await asyncio.wait([waiter])
    assert isinstance(waiter.exception(), ThrottleTimeout) == (first == "deadline")
    assert 10 <= now() <= 10 + NOTICED
    assert limiter.try_acquire() == (first == "deadline")


@every_kind
async def test_a_pause_that_ended_in_the_sleep_is_over(kind: Kind) -> None:
    clock = Clock()
    limiter = kind.make(1000, timer=clock)
    limiter.throttle.pause(3600)
    waiter = await queued(limiter.lease())
    clock.jump_at(10, 3600)
    await waiter
    assert 10 <= now() <= 10 + NOTICED


async def test_a_pause_of_a_set_that_ended_in_the_sleep_is_over() -> None:
    clock = Clock()
    api = LimitSet(a=Throttle(1000, timer=clock), b=Throttle(1000, timer=clock))
    api.pause(3600)
    waiter = await queued(api().__aenter__())
    clock.jump_at(10, 3600)
    await waiter
    assert 10 <= now() <= 10 + NOTICED


@every_kind
@pytest.mark.parametrize("speed", [0.25, 0.5, 0.999, 1.001, 2, 60])
async def test_a_clock_of_another_speed_is_the_one_that_counts(kind: Kind, speed: float) -> None:
    clock = Clock(speed)
    limiter = kind.make(1, period=60, burst=1, timer=clock)
    await limiter.lease()
    waiters = [await queued(limiter.lease()) for _ in range(3)]
    for n, waiter in enumerate(waiters, 1):
        await waiter
        due = 60 * n / speed
        assert due - 1e-6 <= now() <= due + NOTICED


@every_kind
async def test_a_clock_that_slows_down_while_someone_waits_grants_nothing_early(
    kind: Kind,
) -> None:
    clock = Clock()
    limiter = kind.make(1, period=10, burst=1, timer=clock)
    await limiter.lease()
    waiter = await queued(limiter.lease())

    def slow_down() -> None:
        clock.ahead, clock.speed = 2.5, 0.5  # it shows 5 at the instant 5

    at(5, slow_down)
    await waiter
    assert 15 - 1e-6 <= now() <= 15 + NOTICED


@every_kind
async def test_a_deadline_goes_by_a_clock_of_another_speed(kind: Kind) -> None:
    limiter = kind.make(1000, 1, timer=Clock(10))
    await limiter.lease()
    with pytest.raises(ThrottleTimeout):
        await limiter.lease(timeout=60)
    assert 6 <= now() <= 6 + NOTICED


@every_kind
async def test_drain_notices_that_the_last_waiter_went_in_the_sleep(kind: Kind) -> None:
    clock = Clock()
    limiter = kind.make(1, period=DAY, burst=1, timer=clock)
    (await limiter.lease()).release()

    async def call() -> None:
        async with limiter.call():
            pass

    await queued(call())
    throttle = limiter.throttle
    clock.jump_at(10, DAY)
    await (throttle.drain_async() if isinstance(throttle, threads.Throttle) else throttle.drain())
    assert 10 <= now() <= 10 + NOTICED


# -- when it is looked at, and when not ---------------------------------------------------


@every_kind
async def test_a_clock_is_looked_at_while_anybody_waits_for_time(kind: Kind) -> None:
    clock = Clock()
    limiter = kind.make(1, period=100, burst=1, timer=clock)
    await limiter.lease()
    waiter = await queued(limiter.lease())
    before = clock.reads
    await asyncio.sleep(50)
    assert 450 <= clock.reads - before <= 1600
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    before = clock.reads
    await asyncio.sleep(50)
    assert clock.reads - before <= 2, "nobody waits any more"


@every_kind
async def test_no_clock_is_looked_at_while_only_slots_are_waited_for(kind: Kind) -> None:
    clock = Clock()
    limiter = kind.make(1000, 1, timer=clock)
    held = await limiter.lease()
    waiter = await queued(limiter.lease())
    before = clock.reads
    await asyncio.sleep(50)
    assert clock.reads - before <= 2
    held.release()
    await waiter
    assert now() == 50


@every_kind
async def test_a_clock_is_looked_at_for_a_timeout_while_a_slot_is_waited_for(kind: Kind) -> None:
    clock = Clock()
    limiter = kind.make(1000, 1, timer=clock)
    held = await limiter.lease()
    waiter = await queued(limiter.lease(timeout=100))
    before = clock.reads
    await asyncio.sleep(50)
    assert 450 <= clock.reads - before <= 1600
    held.release()
    await waiter


class CountingLoop(asyncio.SelectorEventLoop):
    """A loop in real time whose clock has an epoch of its own; it counts its timers."""

    def __init__(self, epoch: float) -> None:
        self.epoch = epoch
        self.timers = 0
        super().__init__()

    def time(self) -> float:
        return super().time() + self.epoch

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        # call_later() comes here, too.
        self.timers += 1
        return super().call_at(when, callback, *args, context=context)


@pytest.mark.parametrize("epoch", [0, 1e6, -1e4, 1.7e9])
@pytest.mark.parametrize("waits_for", ["time", "timeout"])
def test_without_a_timer_a_loop_of_another_epoch_is_not_polled(
    epoch: float, waits_for: str
) -> None:
    async def wait(limiter: Limiter) -> None:
        if waits_for == "time":
            await limiter.lease()
            return
        with pytest.raises(ThrottleTimeout):
            await limiter.lease(timeout=0.7)

    async def main(loop: CountingLoop) -> int:
        limiters = [kind.make(1 / 0.7, 1, burst=1) for kind in KINDS]
        held = [await limiter.lease() for limiter in limiters]
        if waits_for == "time":
            for lease in held:
                lease.release()
        before = loop.timers
        await asyncio.gather(*map(wait, limiters))
        return loop.timers - before

    loop = CountingLoop(epoch)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        # One that is a little early, and a second or a third one to be sure.
        assert runner.run(main(loop)) <= 3 * len(KINDS)


@pytest.mark.parametrize("make", [Throttle, threads.Throttle])
def test_with_a_timer_a_loop_of_another_epoch_notices_a_jump(make: Callable[..., Any]) -> None:
    ahead = 0.0

    async def main() -> None:
        nonlocal ahead
        throttle = make(1, period=DAY, burst=1, timer=lambda: time.monotonic() + ahead)
        await throttle().__aenter__()
        waiter = asyncio.create_task(throttle().__aenter__())
        await asyncio.sleep(0.05)
        ahead = DAY
        await asyncio.wait_for(waiter, 20)

    with asyncio.Runner(loop_factory=lambda: CountingLoop(1e6)) as runner:
        runner.run(main())


# -- threads ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["throttle", "set"])
@pytest.mark.parametrize("waits_for", ["time", "timeout", "pause"])
def test_threads_notice_a_jump(kind: str, waits_for: str) -> None:
    ahead = 0.0

    def clock() -> float:
        return time.monotonic() + ahead

    throttle = threads.Throttle(1, 1, DAY, burst=2, timer=clock)
    limiter: Any = throttle
    if kind == "set":
        limiter = LimitSet(x=throttle, other=threads.Throttle(1000, timer=clock))
    refused: list[ThrottleTimeout] = []
    held = limiter().__enter__()
    if waits_for == "time":
        throttle.charge(1)
        held.release()
    elif waits_for == "pause":
        throttle.pause(DAY)
        held.release()

    def wait() -> None:
        try:
            with limiter(timeout=DAY / 2 if waits_for == "timeout" else None):
                pass
        except ThrottleTimeout as error:
            refused.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    while not throttle.waiting:
        time.sleep(0.001)
    ahead = DAY
    thread.join(20)
    assert not thread.is_alive()
    assert len(refused) == (waits_for == "timeout")
