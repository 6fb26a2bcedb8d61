"""Clocks that agree with the loop's when a wait begins, and not later; clocks of another speed.

A monotonic clock stands still while the machine sleeps. Whoever gives a *timer* that goes on (or
that runs faster, or slower) is granted by that clock: it is looked at every 0.1 s. Without one
the loop's clock is trusted, whatever its epoch, and nothing is looked at.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest
from limiters import KINDS, OF_THREADS, Kind, every_kind
from support import at, now, queued
from thread_explorer import Stage, staged

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
from async_throttle.testing import VirtualTimeLoop

NOTICED = 0.1 + 1e-3
"""Seconds after which a jump has been noticed; timers are set a little late to be sure."""

DAY = 86_400.0


class Clock:
    """The loop's clock, until it jumps or changes its speed."""

    def __init__(self, speed: float = 1.0, time: Callable[[], float] = now) -> None:
        self.ahead = 0.0
        self.speed = speed
        self.reads = 0
        self.time = time

    def __call__(self) -> float:
        self.reads += 1
        return self.time() * self.speed + self.ahead

    def jump(self, by: float) -> None:
        self.ahead += by

    def jump_at(self, instant: float, by: float) -> None:
        """Be *by* seconds ahead from that instant on."""
        at(instant, lambda: self.jump(by))


def noticed(instant: float) -> bool:
    """Whether it is *instant*, or just past it."""
    return instant - 1e-6 <= now() <= instant + NOTICED


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
    assert noticed(10)
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
        assert noticed(10 * n)
    assert limiter.throttle.waiting == 0


@every_kind
@pytest.mark.parametrize("waits_for", ["tokens", "pause"])
@pytest.mark.parametrize(("slept", "due"), [(60, 40), (3600, 10)])
async def test_what_passed_in_the_sleep_is_over_and_a_rest_is_waited_for(
    kind: Kind, waits_for: str, slept: float, due: float
) -> None:
    clock = Clock()
    limiter = kind.make(1, period=100, burst=1, initial=waits_for != "tokens", timer=clock)
    if waits_for == "pause":
        limiter.throttle.pause(100)
    waiter = await queued(limiter.lease())
    clock.jump_at(10, slept)
    await waiter
    assert noticed(due)


async def test_a_pause_of_a_set_that_ended_in_the_sleep_is_over() -> None:
    clock = Clock()
    api = LimitSet(a=Throttle(1000, timer=clock), b=Throttle(1000, timer=clock))
    api.pause(3600)
    waiter = await queued(api().__aenter__())
    clock.jump_at(10, 3600)
    await waiter
    assert noticed(10)


@every_kind
async def test_a_deadline_that_passed_in_the_sleep_is_over(kind: Kind) -> None:
    clock = Clock()
    limiter = kind.make(1000, 1, timer=clock)
    held = await limiter.lease()
    waiter = await queued(limiter.lease(timeout=3600))
    clock.jump_at(10, 3600)
    with pytest.raises(ThrottleTimeout):
        await waiter
    assert noticed(10)
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
    assert noticed(10)
    assert limiter.try_acquire() == (first == "deadline")


@every_kind
@pytest.mark.parametrize("speed", [0.25, 0.999, 1.001, 15])
async def test_a_clock_of_another_speed_is_the_one_that_counts(kind: Kind, speed: float) -> None:
    limiter = kind.make(1, period=15, burst=1, timer=Clock(speed))
    await limiter.lease()
    for n, waiter in enumerate([await queued(limiter.lease()) for _ in range(3)], 1):
        await waiter
        assert noticed(15 * n / speed)


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
    assert noticed(15)


@every_kind
async def test_a_deadline_goes_by_a_clock_of_another_speed(kind: Kind) -> None:
    limiter = kind.make(1000, 1, timer=Clock(10))
    await limiter.lease()
    with pytest.raises(ThrottleTimeout):
        await limiter.lease(timeout=60)
    assert noticed(6)


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
    assert noticed(10)


# -- when it is looked at, and when not ---------------------------------------------------


@every_kind
@pytest.mark.parametrize(
    ("slots", "timeout", "looked_at"), [(0, None, True), (1, 100, True), (1, None, False)]
)
async def test_a_clock_is_looked_at_while_anybody_waits_for_time_or_has_a_timeout(
    kind: Kind, slots: int, timeout: float | None, looked_at: bool
) -> None:
    clock = Clock()
    limiter = kind.make(1000 if slots else 1, slots, 100, burst=1000 if slots else 1, timer=clock)
    held = await limiter.lease()
    waiter = await queued(limiter.lease(timeout=timeout))
    before = clock.reads
    await asyncio.sleep(20)
    looks = clock.reads - before
    assert 180 <= looks <= 640 if looked_at else looks <= 2
    if slots:
        held.release()
        await waiter
        assert now() == 20
    else:
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
    before = clock.reads
    await asyncio.sleep(20)
    assert clock.reads - before <= 2, "nobody waits any more"


class CountingLoop(VirtualTimeLoop):
    """A loop whose clock has an epoch that is not the library's; it counts its timers."""

    def __init__(self, epoch: float) -> None:
        super().__init__()
        self.epoch = epoch
        self.timers = 0

    def time(self) -> float:
        return super().time() + self.epoch

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        # call_later() comes here, too.
        self.timers += 1
        return super().call_at(when, callback, *args, context=context)

    def _jump(self, timeout: float | None) -> None:
        epoch, self.epoch = self.epoch, 0
        super()._jump(timeout)
        self.epoch = epoch
        self._clock_resolution = math.ulp(self.time())  # else what is due exactly now never fires


@pytest.mark.parametrize("epoch", [0, 1e6, -1e4, 1.7e9])
@pytest.mark.parametrize("timeout", [None, 0.7])
def test_without_a_timer_a_loop_of_another_epoch_is_not_polled(
    epoch: float, timeout: float | None
) -> None:
    async def main(loop: CountingLoop) -> int:
        limiters = [kind.make(1 / 0.7, 1, burst=1) for kind in KINDS]
        for limiter in limiters:
            lease = await limiter.lease()
            if timeout is None:
                lease.release()
        before = loop.timers
        waits = (limiter.lease(timeout=timeout) for limiter in limiters)
        for result in await asyncio.gather(*waits, return_exceptions=True):
            assert isinstance(result, ThrottleTimeout) == (timeout is not None)
        assert loop.time() - epoch == pytest.approx(0.7, abs=1e-3)
        return loop.timers - before

    loop = CountingLoop(epoch)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        # One that is a little early, and a second or a third one to be sure.
        assert runner.run(main(loop)) <= 3 * len(KINDS)


@pytest.mark.parametrize("make", [Throttle, threads.Throttle])
def test_with_a_timer_a_loop_of_another_epoch_notices_a_jump(make: Callable[..., Any]) -> None:
    async def main() -> None:
        clock = Clock()
        throttle = make(1, period=DAY, burst=1, initial=0, timer=clock)
        waiter = await queued(throttle().__aenter__())
        clock.jump_at(now() + 10, DAY)
        await waiter
        assert noticed(1e6 + 10)

    with asyncio.Runner(loop_factory=lambda: CountingLoop(1e6)) as runner:
        runner.run(main())


# -- threads ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OF_THREADS[:2], ids=str)
@pytest.mark.parametrize("waits_for", ["time", "timeout", "pause"])
@staged
def test_threads_notice_a_jump(stage: Stage, kind: Kind, waits_for: str) -> None:
    def wait() -> None:
        try:
            with limiter.call(timeout=DAY / 2 if waits_for == "timeout" else None):
                ended.append((None, stage.now / 1e9))
        except ThrottleTimeout as error:
            ended.append((type(error), stage.now / 1e9))

    clock = Clock(time=lambda: stage.now / 1e9)
    limiter = kind.make(1, 1, DAY, burst=2, timer=clock)
    held = limiter.call().__enter__()
    if waits_for == "time":
        limiter.throttle.charge(1)
        held.release()
    elif waits_for == "pause":
        limiter.throttle.pause(DAY)
        held.release()
    ended: list[tuple[type | None, float]] = []
    stage.thread("waiter", wait)
    stage.sleep(10)
    assert limiter.throttle.waiting == 1
    clock.jump(DAY)
    stage.sleep(1)
    [(how, instant)] = ended
    assert how is (ThrottleTimeout if waits_for == "timeout" else None)
    assert 10 <= instant <= 10 + NOTICED
