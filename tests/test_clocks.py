"""Clocks that misbehave: backwards, frozen, late, early, coarse, somebody else's.

Virtual time wherever possible. Real time is unavoidable where freezegun freezes one clock and
leaves the event loop another, and for uvloop, which knows no other; it is a matter of milliseconds
there, and nothing is asserted about how long anything takes, only that nothing comes too early.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from contextvars import Context
from datetime import timedelta
from typing import Any, TypeVar, TypeVarTuple

import pytest
from freezegun import freeze_time
from support import at, now, others_run, queued

from async_throttle import (
    FixedWindow,
    LimitSet,
    Rule,
    SlidingWindow,
    Throttle,
    ThrottleTimeout,
    TokenBucket,
)
from async_throttle._shell.alarm import Alarm, surely
from async_throttle.testing import VirtualTimeLoop

pytestmark = pytest.mark.virtual_time

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
MS = 0.001
SECOND = 10**9

MODULE_LEVEL = Throttle(10, 3, period=1_000)
"""Made at import, as most are: before any loop runs and before any clock is frozen."""


def block(seconds: float) -> None:
    """Keep the loop busy: its clock moves, and no timer fires meanwhile."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop._now += round(seconds * SECOND)


class Clock:
    """A clock that shows what it is told to."""

    def __init__(self, reading: float = 0.0) -> None:
        self.reading = reading

    def __call__(self) -> float:
        return self.reading


class CountingLoop(asyncio.SelectorEventLoop):
    """A real loop that counts its iterations, and does not let anybody spin."""

    def __init__(self) -> None:
        super().__init__()
        self.iterations = 0

    def _run_once(self) -> None:
        self.iterations += 1
        if self.iterations > 1_000:
            raise AssertionError("the loop spins")
        super()._run_once()  # type: ignore[misc]


def run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        return runner.run(main)


def iterations() -> int:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, CountingLoop)
    return loop.iterations


# --- backwards ---


@pytest.mark.parametrize("algorithm", [TokenBucket, SlidingWindow, FixedWindow])
def test_back_and_forth_is_as_if_the_clock_had_only_ever_waited(algorithm: type[Rule]) -> None:
    steps = [
        -0.1,
        0.0,
        0.25,
        0.1,
        0.3,
        0.05,
        0.9,
        0.6,
        0.95,
        0.2,
        1.0,
        1.3,
        0.7,
        1.4,
        2.5,
        1.9,
        3.0,
    ]
    wild, tame = Clock(5.0), Clock(5.0)
    jumping = Throttle(4, period=2, algorithm=algorithm, timer=wild)
    waiting = Throttle(4, period=2, algorithm=algorithm, timer=tame)
    for step in steps:
        wild.reading = 5.0 + step
        tame.reading = max(tame.reading, wild.reading)
        assert jumping.try_acquire() == waiting.try_acquire()
        assert jumping.level == waiting.level
        assert jumping.delay(2) == waiting.delay(2)


@pytest.mark.parametrize(
    ("capacity", "period", "burst", "largest"),
    [(10, 1.0, 10, 1.0), (10, 2.0, 5, 2.0), (10, 1.0, 40, 4.0), (math.inf, 1.0, None, 1.0)],
)
def test_a_step_back_beyond_the_period_and_the_time_to_fill_is_another_clock(
    capacity: float, period: float, burst: float | None, largest: float
) -> None:
    clock = Clock(1_000.0)
    throttle = Throttle(capacity, period=period, burst=burst, timer=clock)
    throttle.pause(1_000)
    clock.reading = 1_000.0 - largest
    assert throttle.paused_for == 1_000.0
    clock.reading += 0.5  # it has not caught up
    assert throttle.paused_for == 1_000.0

    clock.reading = 1_000.0 - largest - 1e-6
    assert throttle.paused_for == 1_000.0
    clock.reading += 0.5  # it goes on from where it was
    assert throttle.paused_for == 999.5


@pytest.mark.parametrize("algorithm", [TokenBucket, SlidingWindow, FixedWindow])
def test_another_clock_is_taken_over_at_the_same_level(algorithm: type[Rule]) -> None:
    clock = Clock(1e9)
    throttle = Throttle(10, algorithm=algorithm, timer=clock)
    assert throttle.try_acquire(8)
    clock.reading = 5.0
    assert throttle.level == 2.0
    if algorithm is TokenBucket:
        assert throttle.delay(4) == 0.2
        clock.reading = 5.1
        assert "tokens:3" in repr(throttle)
        assert throttle.level == 3.0
        clock.reading = 5.05  # small steps back are small again
        assert throttle.level == 3.0
    clock.reading = 6.0
    assert throttle.level == 10.0


@pytest.mark.parametrize("ahead", [0, 1])
def test_who_saw_different_instants_of_the_clock_before_it_became_another_one_may_join(
    ahead: int,
) -> None:
    clock = Clock(1_000.0)
    both = Throttle(10, timer=clock), Throttle(10, timer=clock)
    for throttle in both:
        throttle.pause(2_000)
    clock.reading = 2_000.0
    assert both[ahead].paused_for == 1_000.0
    clock.reading = 5.0
    LimitSet(*both)
    clock.reading = 6.0
    assert [both[ahead].paused_for, both[1 - ahead].paused_for] == [999.0, 1_999.0]


async def test_whoever_waits_while_the_clock_becomes_another_one_waits_no_longer() -> None:
    clock = Clock(1e9)
    throttle = Throttle(10, initial=0, timer=clock)
    waiter = await queued(throttle.acquire(5))
    clock.reading = 1e9 + 0.25
    assert throttle.level == 2.5
    clock.reading = 3.0
    await asyncio.sleep(1)
    assert (waiter.done(), throttle.level) == (False, 2.5)
    clock.reading = 3.25
    await waiter


# --- a clock of one's own ---


@pytest.mark.parametrize("rate", [1, 50, 1_000_000])
async def test_a_coarse_clock_never_grants_early_and_never_spins(
    rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    armed = 0

    def coarse() -> float:
        return math.floor(now() * 64) / 64  # ticks per second, as on Windows

    def counted(*args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        nonlocal armed
        armed += 1
        return call_at(*args, **kwargs)

    loop = asyncio.get_running_loop()
    call_at = loop.call_at
    monkeypatch.setattr(loop, "call_at", counted)
    throttle = Throttle(rate, burst=1, initial=0, timer=coarse)
    for n in range(1, 11):
        await throttle.acquire()
        assert coarse() >= n / rate - 5 * MS
    assert armed <= 10 * 20


# --- late timers ---


@pytest.mark.parametrize("late", [0.0, 1 * MS, 4 * MS, 5 * MS, 6 * MS, 50 * MS, 5.0])
async def test_lateness_up_to_five_milliseconds_is_paid_back_and_more_shifts_the_schedule(
    late: float,
) -> None:
    throttle = Throttle(10, burst=1, initial=0)
    first, second = await queued(throttle.acquire()), await queued(throttle.acquire())
    at(0.099, lambda: block(1 * MS + late))
    await first
    assert now() == pytest.approx(0.1 + late, abs=1e-12)
    await second
    assert now() == pytest.approx(0.2 + max(0.0, late - 5 * MS), abs=1e-12)


async def test_a_deadline_passed_on_a_blocked_loop_is_a_refusal_unless_it_was_due_before() -> None:
    throttle = Throttle(10, 1, initial=0)
    due_before = await queued(throttle.acquire(timeout=0.2))
    too_late = await queued(throttle.acquire(timeout=0.3))
    at(0.05, lambda: block(1.0))
    assert await due_before
    with pytest.raises(ThrottleTimeout):
        await too_late


async def test_who_is_due_on_a_blocked_loop_starts_before_a_newcomer() -> None:
    throttle = Throttle(10, initial=0)
    waiter = await queued(throttle.acquire())
    block(0.5)
    assert not throttle.try_acquire()
    await waiter
    assert throttle.try_acquire()


# --- early timers ---


class EarlyLoop(VirtualTimeLoop):
    """Rounds its timers down to a whole millisecond, so that they fire up to one too early."""

    def __init__(self) -> None:
        super().__init__()
        self.armed = 0

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        self.armed += 1
        when = max(self.time(), math.floor(when * 1_000) / 1_000)
        return super().call_at(when, callback, *args, context=context)


def test_timers_that_fire_early_neither_spin_nor_grant_early_nor_drift() -> None:
    async def main() -> int:
        throttle = Throttle(3_000, burst=1, initial=0)
        leases = await asyncio.gather(*(throttle.lease() for _ in range(300)))
        for n, lease in enumerate(leases, 1):
            assert n / 3_000 <= lease.waited <= n / 3_000 + 1 * MS + 1e-9
        loop = asyncio.get_running_loop()
        assert isinstance(loop, EarlyLoop)
        return loop.armed

    with asyncio.Runner(loop_factory=EarlyLoop) as runner:
        assert runner.run(main()) <= 4 * 300


def test_timeouts_that_fire_early_do_not_expire_early() -> None:
    async def main() -> None:
        throttle = Throttle(10, 1)
        await throttle.acquire()
        began = now()
        with pytest.raises(ThrottleTimeout):
            await throttle.acquire(timeout=0.0345)
        assert 0.0345 <= now() - began <= 0.037

    with asyncio.Runner(loop_factory=EarlyLoop) as runner:
        runner.run(main())


# --- alarms ---


async def test_an_alarm_rings_once_for_the_instant_asked_for_last() -> None:
    rings: list[float] = []
    alarm = Alarm()
    loop = asyncio.get_running_loop()
    for instant in (1, 2):
        alarm.set(loop, instant * SECOND, 0, lambda: rings.append(round(now(), 3)), watched=False)
    await asyncio.sleep(3)
    assert rings == [2.0]
    alarm.set(loop, SECOND, 0, rings.clear, watched=False)
    alarm.cancel()
    await asyncio.sleep(3)
    assert rings


async def test_what_is_interrupted_in_a_timer_is_done_again_and_told_once() -> None:
    calls: list[str] = []
    told: list[Any] = []

    def call(name: str) -> None:
        calls.append(name)
        if calls.count(name) == 1:
            raise BaseException("interrupted")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context["exception"].args))
    Alarm().set(loop, SECOND, 0, lambda: call("alarm"), watched=False)
    loop.call_soon(surely(call, "callback"), None)
    loop.call_soon(surely(calls.append, "sound"), None)
    await asyncio.sleep(2)
    assert calls == ["callback", "callback", "sound", "alarm", "alarm"]
    assert told == [("interrupted",)] * 2


# --- loops that refuse what is past ---


class StrictLoop(VirtualTimeLoop):
    """Its clock goes on while code runs, and it refuses to be asked for an instant before that."""

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        self._now += 2_000
        return self.call_later(when - self.time(), callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        if delay < 0:
            raise ValueError("cannot schedule in the past")
        return super().call_at(self.time() + delay, callback, *args, context=context)


def test_no_loop_is_asked_for_an_instant_that_has_come() -> None:
    async def main() -> None:
        throttle = Throttle(1_000, 1, burst=1, initial=0)

        async def job() -> None:
            async with throttle:
                await asyncio.sleep(0)

        await asyncio.gather(*(job() for _ in range(20)))
        await throttle.acquire()
        with pytest.raises(ThrottleTimeout):
            await throttle.acquire(timeout=0.01)

    with asyncio.Runner(loop_factory=StrictLoop) as runner:
        runner.run(main())


# --- freezegun ---

DATES = ["2024-05-06 07:08:09", "1970-01-02"]
"""Near today a float of seconds counts in quarters of a microsecond; near 1970 in less than a
nanosecond. asyncio adds its clock's resolution, a nanosecond, to find out what is due: today it is
lost in rounding."""


@pytest.mark.parametrize("date", DATES)
def test_a_frozen_clock_is_the_throttle_s_clock(date: str) -> None:
    with freeze_time(date) as frozen:
        throttle = Throttle(10)
        assert throttle.try_acquire(10)
        assert not throttle.try_acquire()
        frozen.tick(0.25)
        assert throttle.level == 2.5
        frozen.tick(timedelta(hours=1))
        assert throttle.level == 10.0


def test_time_stands_still_until_a_frozen_clock_that_was_set_back_has_caught_up() -> None:
    with freeze_time(DATES[0]) as frozen:
        throttle = Throttle(10, initial=0)
        for step in (-0.25, 0.125, 0.125):
            frozen.tick(step)
            assert throttle.level == 0.0
        frozen.tick(0.5)
        assert throttle.level == 5.0


@pytest.mark.parametrize("date", DATES)
@pytest.mark.parametrize("real_asyncio", [False, True])
def test_a_waiter_under_a_frozen_clock_goes_once_the_clock_has_ticked(
    date: str, real_asyncio: bool
) -> None:
    async def main(frozen: Any) -> None:
        throttle = Throttle(1_000, burst=1, initial=0)
        for n in range(5):
            # The timer of this one is due exactly at the instant at which the clock stops.
            waiter = await queued(throttle.acquire())
            assert not waiter.done()
            frozen.tick(MS)
            await waiter
            assert throttle.level == 0.0
            # Nothing to be granted, and nothing to do for the loop either.
            assert iterations() < 100 * (n + 1)
        throttle.pause(30)
        paused = await queued(throttle.acquire(0))
        frozen.tick(timedelta(seconds=29, microseconds=999_999))
        await others_run()
        assert not paused.done()
        frozen.tick(timedelta(microseconds=1))
        await paused
        hurried = await queued(slots.acquire(timeout=5))
        frozen.tick(timedelta(seconds=5))
        with pytest.raises(ThrottleTimeout):
            await hurried

    slots = Throttle(math.inf, 1)
    slots.try_acquire()
    with freeze_time(date, real_asyncio=real_asyncio) as frozen:
        run(main(frozen))


@pytest.mark.parametrize("date", DATES)
def test_under_a_frozen_loop_not_a_tick_too_early(date: str) -> None:
    async def main(frozen: Any) -> None:
        throttle = Throttle(1, initial=0)
        waiter = await queued(throttle.acquire())
        for _ in range(3):
            frozen.tick(timedelta(microseconds=333_333))
            await others_run()
            assert not waiter.done()
        frozen.tick(timedelta(microseconds=1))
        await waiter
        assert iterations() < 100

    with freeze_time(date) as frozen:
        run(main(frozen))


@pytest.mark.parametrize("date", DATES)
@pytest.mark.parametrize("wait", [1e-6, 3600.0])
def test_while_the_clock_is_frozen_and_the_loop_is_not_it_looks_now_and_then(
    date: str, wait: float
) -> None:
    async def main(frozen: Any) -> None:
        throttle = Throttle(1, period=wait, initial=0)
        waiter = await queued(throttle.acquire())
        before = iterations()
        await asyncio.sleep(20 * MS)  # real time: the loop's clock is not frozen
        assert iterations() - before <= 45
        assert not waiter.done()
        frozen.tick(timedelta(seconds=wait))
        await waiter

    with freeze_time(date, real_asyncio=True) as frozen:
        run(main(frozen))


def test_a_clock_that_ticks_by_itself_under_freezegun() -> None:
    async def main() -> None:
        throttle = Throttle(100, burst=1, initial=0)
        for _ in range(5):
            await throttle.acquire()
        assert now() - began >= 0.05

    with freeze_time("2024-05-06", auto_tick_seconds=0.001):
        began = time.monotonic()
        run(main())


def test_leaving_a_frozen_clock_keeps_the_level() -> None:
    # Real time passes here: a token needs a hundred seconds to come back, a test does not.
    throttle = Throttle(10, period=1_000)
    with freeze_time("2024-05-06") as frozen:
        assert throttle.try_acquire(10)
        frozen.tick(100)
        assert throttle.level == 1.0
    assert throttle.level == pytest.approx(1.0, abs=0.1)
    assert throttle.try_acquire()
    assert not throttle.try_acquire(0.5)


def test_leaving_a_frozen_clock_keeps_the_level_however_long_it_takes_to_fill() -> None:
    # 1.7e9 seconds back are less than it takes to fill, but it is another function that is read.
    throttle = Throttle(10, period=1e12)
    with freeze_time("2024-05-06"):
        assert throttle.try_acquire(10)
        assert throttle.level == 0.0
    first = throttle.level
    assert first == pytest.approx(0.0, abs=1e-3)
    time.sleep(MS)  # real time, for it must not stand still for 54 years
    assert throttle.level > first


def test_entering_an_old_date_keeps_the_level() -> None:
    throttle = Throttle(10, period=1_000)
    assert throttle.try_acquire(10)
    with freeze_time("1970-01-01") as frozen:
        # However short the machine has been up, that is before.
        assert throttle.level == pytest.approx(0.0, abs=0.1)
        before = throttle.level
        frozen.tick(200)
        assert throttle.level == before + 2.0


def test_a_module_level_instance_is_used_in_frozen_time_and_again_after_it() -> None:
    def use() -> None:
        async def main() -> None:
            async def job() -> None:
                async with MODULE_LEVEL:
                    await asyncio.sleep(0)

            async with MODULE_LEVEL(2), MODULE_LEVEL:
                pass
            await asyncio.gather(*(job() for _ in range(5)))
            assert (MODULE_LEVEL.active, MODULE_LEVEL.waiting) == (0, 0)

        run(main())

    use()
    for date in (*DATES, *DATES):
        with freeze_time(date) as frozen:
            frozen.tick(timedelta(seconds=1_000))
            assert MODULE_LEVEL.level == 10.0
            use()
            assert MODULE_LEVEL.level == 2.0
            frozen.tick(timedelta(seconds=1_000))
            assert MODULE_LEVEL.level == 10.0
        use()
    assert MODULE_LEVEL.level == pytest.approx(2.0, abs=0.5)


def test_freezing_within_a_running_loop() -> None:
    async def main() -> None:
        throttle = Throttle(10, 1, period=1_000)
        assert throttle.try_acquire(10)
        throttle.release()
        with freeze_time("2024-05-06", real_asyncio=True) as frozen:
            assert throttle.level == 10.0  # 54 years have passed
            await throttle.acquire(10)
            waiter = await queued(throttle.acquire())
            throttle.release()
            frozen.tick(99)
            await asyncio.sleep(0)
            assert not waiter.done()
            frozen.tick(1)
            await waiter
            throttle.release()
        assert throttle.level == pytest.approx(0.0, abs=0.1)

    run(main())


def test_a_slot_is_handed_over_at_the_instant_of_a_clock_that_became_another_one() -> None:
    async def main(frozen: Any) -> None:
        throttle = Throttle(10, 1)
        frozen.tick(-5)
        await throttle.acquire()
        waiter = await queued(throttle.acquire())
        frozen.tick(6)
        throttle.release()
        await waiter
        assert throttle.level == 9.0

    with freeze_time(DATES[0], real_asyncio=True) as frozen:
        run(main(frozen))


# --- other loops ---


def _envelope(went: list[int], rate: float, burst: float) -> None:
    """Never too early; about too late nothing is said.

    5 ms of lateness are paid back, and between a grant and the start of its body, which is what
    is seen, another millisecond may pass.
    """
    for n, start in enumerate(went):
        for m, end in enumerate(went[n:], 1):
            assert m <= burst + rate * ((end - start) / SECOND + 6 * MS)


@pytest.mark.real_time
@pytest.mark.parametrize("debug", [False, True])
def test_uvloop(debug: bool) -> None:
    # In real time, since uvloop has a clock of its own.
    uvloop = pytest.importorskip("uvloop")

    async def main() -> list[int]:
        throttle = Throttle(1_000, 4, burst=2)
        went: list[int] = []

        async def job(n: int) -> None:
            async with throttle(1 + n % 2):
                went.extend([time.monotonic_ns()] * (1 + n % 2))
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(job(n)) for n in range(30)]
        await asyncio.sleep(0)
        assert throttle.waiting > 20
        for n in (7, 29, 12):
            tasks[n].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(result, asyncio.CancelledError) for result in results) == 3
        assert (throttle.active, throttle.waiting) == (0, 0)

        slots = Throttle(math.inf, 1)
        async with slots:
            with pytest.raises(ThrottleTimeout):
                await slots.acquire(timeout=2 * MS)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(slots.acquire(), 2 * MS)
        throttle.pause(2 * MS)
        paused = time.monotonic_ns()
        await throttle.acquire(0)
        assert time.monotonic_ns() - paused >= 2_000_000
        return went

    with asyncio.Runner(loop_factory=uvloop.new_event_loop, debug=debug) as runner:
        went = runner.run(main())
    _envelope(went, rate=1_000, burst=2)


@pytest.mark.real_time
def test_the_real_loop() -> None:
    # In real time: the one that users have, with timers as late as they happen to be.
    async def main() -> list[int]:
        throttle = Throttle(2_000, burst=2)
        went: list[int] = []

        async def job() -> None:
            async with throttle:
                went.append(time.monotonic_ns())

        await asyncio.gather(*(job() for _ in range(40)))
        return went

    _envelope(run(main()), rate=2_000, burst=2)
