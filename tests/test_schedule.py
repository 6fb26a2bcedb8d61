"""`Schedule`: capacity that changes by the clock, applied to a block or for ever."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from freezegun import freeze_time
from support import now, others_run, queued

from async_throttle import BackOff, CallLimit, LimitSet, RateLimit, Schedule, Throttle, threads

pytestmark = pytest.mark.virtual_time

BERLIN = ZoneInfo("Europe/Berlin")
EVENING = datetime(2026, 3, 5, 21, 58, 20, tzinfo=BERLIN)  # a Thursday


def starting(instant: datetime) -> Callable[[], datetime]:
    """A clock that shows *instant* when the loop starts, in UTC."""
    began = instant.astimezone(UTC)
    return lambda: began + timedelta(seconds=now())


def standing_at(instant: datetime) -> Callable[[], datetime]:
    return lambda: instant


def hours(time: datetime) -> float:
    night = time.hour >= 22 or time.hour < 6
    return 300 if night or time.weekday() >= 5 else 100


def schedule(
    capacity: Callable[[datetime], Any] = hours, start: datetime = EVENING, **options: Any
) -> Schedule:
    return Schedule(capacity, tz=BERLIN, clock=starting(start), **options)


async def changes(throttle: Any, until: float) -> list[tuple[float, float]]:
    """What the capacity became, and when, looking each second."""
    found = [(now(), throttle.capacity)]
    while now() < until:
        await asyncio.sleep(1)
        await others_run()
        if throttle.capacity != found[-1][1]:
            found.append((now(), throttle.capacity))
    return found


# --- what it does ---


async def test_a_week() -> None:
    throttle = Throttle(1, period=60)
    monday = datetime(2026, 3, 2, tzinfo=BERLIN)
    async with schedule(start=monday).applied_to(throttle):
        found = [(now(), throttle.capacity)]
        for _ in range(7 * 24 * 60):
            await asyncio.sleep(60)
            await others_run()
            if throttle.capacity != found[-1][1]:
                found.append((now(), throttle.capacity))
    hour, day = 3600.0, 24 * 3600.0
    assert found == [(0.0, 300.0)] + [
        (weekday * day + start * hour, capacity)
        for weekday in range(5)
        for start, capacity in ((6, 100.0), (22, 300.0))
    ]


@pytest.mark.parametrize(
    ("every", "looks"),
    [
        (10, [0, 10, 20, 30]),
        (60, [0, 40, 100, 160]),
        (timedelta(seconds=15), [0, 10, 25, 40]),
        (0.5, [0, 0.5, 1.0, 1.5]),
        (3600, [0, 100, 3700, 7300]),
        (7, [*range(0, 100, 7), 100, 105]),
        (2700, [0, 100, 1900, 3700, 4600, 7300, 10_000, 10_900]),
        (3000, [0, 100, 1900, 3700, 4900, 7300, 10_300, 10_900]),
    ],
)
async def test_it_looks_at_the_clock_so_often(every: Any, looks: list[float]) -> None:
    asked: list[float] = []

    def capacity(time: datetime) -> float:
        asked.append(now())
        assert time == EVENING + timedelta(seconds=now())
        assert time.tzinfo is BERLIN
        return 1

    task = await queued(schedule(capacity, every=every).run(Throttle(1)))
    await asyncio.sleep(looks[-1] + 0.01)
    task.cancel()
    await others_run()
    assert task.cancelled()
    assert asked == looks


async def test_an_hour_begins_when_it_begins_there() -> None:
    asked: list[datetime] = []

    def capacity(time: datetime) -> float:
        asked.append(time)
        return 1

    india = timezone(timedelta(hours=5, minutes=30))
    plan = Schedule(capacity, tz=india, every=3600, clock=starting(EVENING))
    async with plan.applied_to(Throttle(1)):
        await asyncio.sleep(3600)
    assert [(time.hour, time.minute, time.second) for time in asked[-2:]] == [
        (2, 28, 20),
        (3, 0, 0),
    ]


async def test_waiters_are_replanned_at_the_change() -> None:
    throttle = Throttle(100, period=60, burst=100, initial=0)
    async with schedule().applied_to(throttle):
        await throttle.acquire(100)
        assert now() == 60.0
        await throttle.acquire(100)  # 66.7 of it by 22:00, the rest three times as fast
        assert now() == pytest.approx(100 + 20 / 3, abs=1e-8)


async def test_it_is_set_only_where_it_differs() -> None:
    class Noting:
        def __init__(self, capacity: float) -> None:
            self.set: list[float] = []
            self._capacity = capacity

        @property
        def capacity(self) -> float:
            return self._capacity

        @capacity.setter
        def capacity(self, value: float) -> None:
            self._capacity = value
            self.set.append(value)

    right, wrong = Noting(100), Noting(1)
    async with schedule().applied_to(right, wrong):
        await asyncio.sleep(1000)
    assert (right.set, wrong.set) == ([300], [100, 300])


async def test_one_schedule_may_be_applied_many_times_and_leaves_nothing_behind() -> None:
    plan, throttles = schedule(), [Throttle(1) for _ in range(4)]
    tasks = asyncio.all_tasks()
    async with plan.applied_to(*throttles[:2]), plan.applied_to(throttles[2]):
        async with plan.applied_to(throttles[3]):
            await asyncio.sleep(50)
        throttles[0].capacity = 5  # holds until the next change
        assert await changes(throttles[0], 120) == [(50.0, 5.0), (100.0, 300.0)]
    assert asyncio.all_tasks() == tasks
    await asyncio.sleep(86_400)
    assert [throttle.capacity for throttle in throttles] == [300.0, 300.0, 300.0, 100.0]


def test_it_is_applied_once_where_no_loop_runs() -> None:
    throttle = Throttle(1)
    for time, capacity in ((EVENING, 100.0), (EVENING + timedelta(minutes=2), 300.0)):
        Schedule(hours, clock=standing_at(time), tz=BERLIN).apply(throttle)
        assert throttle.capacity == capacity


async def test_whatever_has_a_capacity_can_have_a_schedule() -> None:
    plain, threaded = Throttle(1), threads.Throttle(1)
    limits = LimitSet(CallLimit(60, None, 50), RateLimit("tokens", 60, "TokenBucket", 1_000))
    member = limits["tokens"]
    assert isinstance(member, RateLimit)
    async with schedule().applied_to(plain, threaded, member):
        await asyncio.sleep(101)
    assert (plain.capacity, threaded.capacity, member.capacity) == (300.0, 300.0, 300.0)
    assert member.throttle.burst == 300.0


@pytest.mark.parametrize("every", [7, 1001, 2400, 2520, 3599])
async def test_multiples_are_counted_from_midnight_each_day(every: int) -> None:
    asked: list[datetime] = []

    def capacity(time: datetime) -> float:
        asked.append(time)
        return 1

    async with schedule(capacity, every=every).applied_to(Throttle(1)):
        await asyncio.sleep(2 * 86_400)
    midnight = datetime(2026, 3, 6, tzinfo=BERLIN)
    seconds = [(time - midnight).total_seconds() for time in asked if time >= midnight]
    looks = sorted({*range(0, 86_400, every), *range(0, 86_400, 3600)})
    assert seconds[: len(looks) + 1] == [*looks, 86_400]


# --- the clock ---


@pytest.mark.parametrize("every", [60, 100, 1800, 2700, 3600])
@pytest.mark.parametrize(
    ("start", "change"),
    [
        # In the night to 2026-03-29, 02:00 was 03:00: 6 o'clock came an hour earlier.
        (datetime(2026, 3, 28, 23, 0, tzinfo=BERLIN), 6 * 3600.0),
        # In the night to 2026-10-25, 03:00 was 02:00 once more.
        (datetime(2026, 10, 24, 23, 0, tzinfo=BERLIN), 8 * 3600.0),
        (datetime(2026, 10, 23, 23, 0, tzinfo=BERLIN), 7 * 3600.0),
    ],
)
async def test_summer_time_comes_and_goes(start: datetime, change: float, every: float) -> None:
    throttle = Throttle(1)
    plan = schedule(lambda t: 300 if t.hour >= 22 or t.hour < 6 else 100, start, every=every)
    async with plan.applied_to(throttle):
        await asyncio.sleep(change - 1)
        assert throttle.capacity == 300.0
        await asyncio.sleep(1)
        await others_run()
        assert throttle.capacity == 100.0


@pytest.mark.parametrize("every", [60, 1800, 2700, 3600])
@pytest.mark.parametrize(
    ("zone", "start", "changes"),
    [
        # 02:00 was 03:00: that hour never came.
        ("Europe/Berlin", datetime(2026, 3, 29, 1, 30), [(0, 1), (1800, 3), (5400, 4)]),
        # 03:00 was 02:00: that hour came twice.
        ("Europe/Berlin", datetime(2026, 10, 25, 1, 30), [(0, 1), (1800, 2), (9000, 3)]),
        # 02:00 was 02:30, and in autumn 01:30.
        ("Australia/Lord_Howe", datetime(2026, 10, 4, 1, 30), [(0, 1), (1800, 2), (3600, 3)]),
        ("Australia/Lord_Howe", datetime(2026, 4, 5, 1, 15), [(0, 1), (4500, 2), (8100, 3)]),
        # Midnight was one o'clock, and in autumn 23:00.
        ("America/Havana", datetime(2026, 3, 7, 23, 30), [(0, 23), (1800, 1), (5400, 2)]),
        ("America/Havana", datetime(2026, 11, 1, 0, 30), [(0, 0), (5400, 1), (9000, 2)]),
    ],
)
async def test_an_hour_begins_when_it_begins_also_in_the_night_of_a_time_change(
    zone: str, start: datetime, changes: list[tuple[float, int]], every: float
) -> None:
    found: list[tuple[float, int]] = []

    def capacity(time: datetime) -> float:
        if not found or time.hour != found[-1][1]:
            found.append((now(), time.hour))
        return 1

    tz = ZoneInfo(zone)
    plan = Schedule(capacity, tz=tz, every=every, clock=starting(start.replace(tzinfo=tz)))
    async with plan.applied_to(Throttle(1)):
        await asyncio.sleep(changes[-1][0] + 60)
    assert found == changes


async def test_a_step_of_the_clock_is_noticed_at_the_next_look() -> None:
    step = timedelta()
    clock = starting(EVENING)
    throttle = Throttle(1)
    async with Schedule(hours, tz=BERLIN, clock=lambda: clock() + step).applied_to(throttle):
        await asyncio.sleep(10)
        step = timedelta(hours=1)
        await asyncio.sleep(30)
        await others_run()
        assert throttle.capacity == 300.0
        step = -timedelta(hours=1)
        await asyncio.sleep(60)
        await others_run()
        assert throttle.capacity == 100.0


@pytest.mark.parametrize("micros", [0, 1, 500_000, 999_999])
async def test_a_clock_that_stands_still_does_not_make_it_spin(micros: int) -> None:
    asked = 0

    def capacity(time: datetime) -> float:
        nonlocal asked
        asked += 1
        return 1

    frozen = datetime(2026, 3, 5, 21, 59, 59, micros, tzinfo=BERLIN)
    async with Schedule(capacity, clock=lambda: frozen).applied_to(Throttle(1)):
        await asyncio.sleep(60)
    assert asked <= 2 + 60 / 0.01


async def test_it_reads_the_clock_once_for_each_look() -> None:
    # Else a look just before the hour, whose wait is measured just after, would miss it.
    throttle = Throttle(1)
    readings = iter(
        [
            EVENING + timedelta(seconds=99.9),
            *(EVENING + timedelta(seconds=n) for n in range(100, 999)),
        ]
    )
    async with Schedule(hours, tz=BERLIN, clock=lambda: next(readings)).applied_to(throttle):
        assert throttle.capacity == 100.0
        await others_run()
        assert throttle.capacity == 300.0


async def test_the_usual_clock_is_that_of_the_machine_and_freezegun_reaches_it() -> None:
    throttle = Throttle(1)
    seen: list[datetime] = []

    def capacity(time: datetime) -> float:
        seen.append(time)
        return hours(time)

    for tz in (UTC, BERLIN, None):  # frozen, that of the machine is UTC
        with freeze_time("2026-03-05 21:30:00"):
            Schedule(capacity, tz=tz).apply(throttle)
    assert [(time.hour, time.minute) for time in seen] == [(21, 30), (22, 30), (21, 30)]
    assert all(time.tzinfo is not None for time in seen)
    before = datetime.now(UTC)
    Schedule(capacity).apply(throttle)
    assert before <= seen[-1] <= datetime.now(UTC)


@pytest.mark.parametrize("tz", [UTC, BERLIN, None])
async def test_the_zone_of_the_clock_does_not_matter(tz: tzinfo | None) -> None:
    throttle = Throttle(1)
    for minutes, capacity in ((0, 100.0), (2, 300.0)):
        time = (EVENING + timedelta(minutes=minutes)).astimezone(tz)
        Schedule(hours, tz=BERLIN, clock=standing_at(time)).apply(throttle)
        assert throttle.capacity == capacity


# --- what goes wrong ---


def failing_from(instant: float, answer: Any = None) -> Callable[[datetime], Any]:
    """Gives 100 at first, and from *instant* on *answer*, which is raised if it is an error."""

    def capacity(time: datetime) -> Any:
        if now() < instant:
            return 100
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return capacity


BAD = [
    (0, ValueError, "capacity must be positive, got 0"),
    (-1, ValueError, "capacity .* got -1"),
    (math.nan, ValueError, "capacity .* got nan"),
    (None, TypeError, "capacity .* got None"),
    (KeyError("of the function"), KeyError, "of the function"),
]


@pytest.mark.parametrize(("answer", "error", "message"), BAD)
async def test_what_is_wrong_at_the_start_is_told_before_the_block(
    answer: Any, error: type[Exception], message: str
) -> None:
    throttle = Throttle(7)
    with pytest.raises(error, match=message):
        async with schedule(failing_from(0, answer)).applied_to(throttle):
            raise AssertionError("never reached")
    assert throttle.capacity == 7.0


@pytest.mark.parametrize(("answer", "error", "message"), BAD)
async def test_what_goes_wrong_later_ends_the_block_with_that_error(
    answer: Any, error: type[Exception], message: str
) -> None:
    throttle = Throttle(7)
    with pytest.raises(error, match=message):
        async with schedule(failing_from(1, answer)).applied_to(throttle):
            await asyncio.Event().wait()
    assert (now(), throttle.capacity) == (40.0, 100.0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(1)


@pytest.mark.parametrize(("instant", "kept"), [(0, 7.0), (1, 100.0)])
async def test_what_one_of_them_refuses_none_of_them_keeps(instant: float, kept: float) -> None:
    first, member, last = Throttle(7), RateLimit("tokens", 1, "TokenBucket", 7), Throttle(7)
    adaptive = Throttle(7, adapt=BackOff())
    together = (first, member, adaptive, last)
    with pytest.raises(ValueError, match=r"^capacity must be finite where it adapts, got inf$"):
        async with schedule(failing_from(instant, math.inf)).applied_to(*together):
            await asyncio.Event().wait()
    assert [throttle.capacity for throttle in together] == [kept] * 4
    with pytest.raises(ValueError, match=r"^capacity must be finite where it adapts, got inf$"):
        Schedule(lambda _: math.inf).apply(*together)
    assert [throttle.capacity for throttle in together] == [kept] * 4
    assert (first.burst, member.throttle.burst) == (kept, kept)


async def test_what_goes_wrong_while_the_block_ends_is_not_lost() -> None:
    with pytest.raises(KeyError, match="of the function"):  # noqa: PT012
        async with schedule(failing_from(1, KeyError("of the function"))).applied_to(Throttle(7)):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(5)  # cleans up, and goes on
    assert now() == 45.0


async def test_an_error_of_the_block_stays_what_it_is() -> None:
    cause = ValueError("why")
    with pytest.raises(KeyError, match="of the block") as caught:
        async with schedule().applied_to(Throttle(7)):
            raise KeyError("of the block") from cause
    assert caught.value.__cause__ is cause
    with pytest.raises(ExceptionGroup, match="of the block") as group:
        async with schedule().applied_to(Throttle(7)):
            raise ExceptionGroup("of the block", [KeyError()])
    assert len(group.value.exceptions) == 1


async def test_if_both_fail_neither_hides_the_other() -> None:
    plan = schedule(failing_from(1, ValueError("of the function")))
    with pytest.raises(KeyError, match="of the block") as caught:  # noqa: PT012
        async with plan.applied_to(Throttle(7)):
            try:
                await asyncio.Event().wait()
            finally:
                raise KeyError("of the block")
    context = caught.value.__context__
    assert isinstance(context, ExceptionGroup)
    assert [str(error) for error in context.exceptions] == ["of the function"]


async def test_a_cancellation_from_outside_stays_one() -> None:
    throttle = Throttle(7)

    async def main() -> None:
        async with schedule().applied_to(throttle):
            await asyncio.Event().wait()

    tasks = asyncio.all_tasks()
    task = await queued(main())
    task.cancel()
    await others_run()
    assert task.cancelled()
    assert asyncio.all_tasks() == tasks
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await main()
    assert now() == 5.0


async def test_a_generator_may_be_closed_within_the_block() -> None:
    throttle = Throttle(7)

    async def generator() -> AsyncIterator[float]:
        async with schedule().applied_to(throttle):
            yield throttle.capacity

    numbers: Any = generator()
    async for number in numbers:
        assert number == 100.0
        break
    tasks = asyncio.all_tasks()
    await numbers.aclose()
    assert len(asyncio.all_tasks()) == len(tasks) - 1


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        *(
            ({"every": bad}, ValueError, "every must be .*")
            for bad in (0, -1, math.nan, math.inf, 3600.001, 86_400, 1e-10, 0.0099)
        ),
        ({"every": timedelta(0)}, ValueError, "every must be .*"),
        ({"every": timedelta(days=2)}, ValueError, "every must be .*"),
        ({"capacity": 300}, TypeError, "capacity must be callable .*"),
        *(
            ({"tz": bad}, TypeError, r"tz must be a tzinfo, such as ZoneInfo\('Europe/Berlin'\)")
            for bad in ("Europe/Berlin", 2, timedelta(hours=1))
        ),
        ({"clock": 5}, TypeError, "clock must be callable"),
        ({"clock": EVENING}, TypeError, "clock must be callable"),
    ],
)
def test_what_makes_no_schedule_is_refused_by_name(
    given: dict[str, Any], error: type[Exception], message: str
) -> None:
    [bad] = given.values()
    with pytest.raises(error, match=rf"^{message}, got {re.escape(repr(bad))}$"):
        Schedule(**{"capacity": hours, **given})


@pytest.mark.parametrize("reading", [datetime(2026, 3, 5, 22, 0), 1.5, None])
async def test_the_clock_must_say_in_which_zone_it_is(reading: Any) -> None:
    throttle = Throttle(7)
    plan = Schedule(hours, tz=BERLIN, clock=lambda: reading)
    with pytest.raises(ValueError, match=r"^clock must return an aware datetime, got ") as caught:
        async with plan.applied_to(throttle):
            raise AssertionError("never reached")
    assert str(caught.value).endswith(f", got {reading!r}")
    assert throttle.capacity == 7.0
