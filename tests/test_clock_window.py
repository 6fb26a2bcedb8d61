"""Windows of the wall clock: where their edges lie, and clocks that are set while they count.

The oracle of the edges walks through the days in small steps, and asks `datetime` of each step to
which minute, day, week or month it belongs. The oracle of the rule are servers that count calls by
a clock of their own, of which ours may differ.
"""

from __future__ import annotations

import asyncio
import copy
import math
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st
from support import check, examples, now

from async_throttle import BackOff, ClockWindow, LimitSet, RateLimit, Throttle, testing, threads
from async_throttle._units import NEVER
from async_throttle.rules.clock import DAY, MONTH, WEEK, Calendar, ClockState

S = 10**9
HOUR = 3600 * S

ZONES = [
    "UTC",
    "America/Los_Angeles",
    "Europe/Berlin",
    "Asia/Kolkata",  # half an hour beside
    "Australia/Lord_Howe",  # clocks are set by half an hour
    "America/Havana",  # at midnight, to midnight
    "Asia/Beirut",  # at midnight, to eleven in the evening
    "Africa/Casablanca",  # twice a year, about Ramadan
    "Pacific/Apia",  # a day that never was, 2011-12-30
    "America/St_Johns",  # at one minute past midnight, until 2011
]
CHANGES = [
    "2025-03-09T10:00",
    "2025-11-02T09:00",
    "2025-03-30T01:00",
    "2025-10-26T01:00",
    "2025-10-04T15:30",
    "2025-04-05T15:00",
    "2024-03-10T05:00",
    "2024-11-03T05:00",
    "2024-03-30T22:00",
    "2024-10-26T21:00",
    "2025-02-23T02:00",
    "2025-04-06T02:00",
    "2011-12-30T10:00",
    "2010-11-07T02:31",
    "2024-12-31T23:59",
    "2024-02-29T23:00",
]
PERIODS = [60 * S, 300 * S, 1800 * S, HOUR, 2 * HOUR, 6 * HOUR, 12 * HOUR, DAY, WEEK, MONTH]


def unix(text: str, tz: tzinfo = UTC) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=tz).timestamp()) * S


def zone(name: str) -> tzinfo | None:
    return None if name == "UTC" else ZoneInfo(name)


def belongs_to(period: int, tz: tzinfo | None, wall: int) -> object:
    """The minute, day, week or month of the zone to which *wall* belongs, as `datetime` says."""
    local = datetime.fromtimestamp(wall // S, tz or UTC)
    if period == MONTH:
        return local.year, local.month
    if period == WEEK:
        return local.isocalendar()[:2]
    seconds = local.hour * 3600 + local.minute * 60 + local.second
    return local.date(), seconds * S // period


# ------------------------------------------------------------------------------ where the edges lie


@given(
    name=st.sampled_from(ZONES),
    period=st.sampled_from(PERIODS),
    near=st.sampled_from(CHANGES),
    beside=st.integers(-2 * 86_400, 2 * 86_400),
)
@examples(2_000)
def test_a_window_is_all_that_belongs_together(
    name: str, period: int, near: str, beside: int
) -> None:
    tz, wall = zone(name), unix(near) + beside * S + 5
    began, ends = Calendar(period, tz).around(wall)
    assert began <= wall < ends
    it = belongs_to(period, tz, wall)
    step = min(period, 900 * S)
    inside = [*range(began, ends, step), ends - 1]
    assert {belongs_to(period, tz, instant) for instant in inside} == {it}
    assert belongs_to(period, tz, began - 1) != it
    assert belongs_to(period, tz, ends) != it


@pytest.mark.parametrize(
    ("name", "period", "within", "hours"),
    [
        ("America/Los_Angeles", DAY, "2025-03-09T20:00", 23),
        ("America/Los_Angeles", DAY, "2025-11-02T20:00", 25),
        ("America/Los_Angeles", DAY, "2025-07-01T20:00", 24),
        ("America/Los_Angeles", HOUR, "2025-11-02T08:30", 2),  # from one to two, twice
        ("America/Los_Angeles", 60 * S, "2025-11-02T08:59:30", 1 / 60),
        ("America/Los_Angeles", 6 * HOUR, "2025-03-09T09:00", 5),
        ("America/Los_Angeles", WEEK, "2025-03-09T20:00", 7 * 24 - 1),
        ("America/Los_Angeles", MONTH, "2025-03-15T00:00", 31 * 24 - 1),
        ("UTC", MONTH, "2025-02-10T00:00", 28 * 24),
        ("UTC", MONTH, "2024-02-10T00:00", 29 * 24),
        ("Australia/Lord_Howe", DAY, "2025-10-04T20:00", 23.5),
        ("Pacific/Apia", DAY, "2011-12-30T09:00", 24),
    ],
)
def test_the_length_of_a_window(name: str, period: int, within: str, hours: float) -> None:
    began, ends = Calendar(period, zone(name)).around(unix(within))
    assert (ends - began) / HOUR == hours


def test_a_week_begins_on_monday_in_the_zone() -> None:
    began, _ = Calendar(WEEK, ZoneInfo("Europe/Berlin")).around(unix("2025-06-05T12:00"))
    assert began == unix("2025-06-02T00:00", ZoneInfo("Europe/Berlin"))


@pytest.mark.parametrize("period", [60 * S, DAY, WEEK, MONTH])
@pytest.mark.parametrize("wall", [NEVER, -NEVER, 10**22, -(10**22), 0, -1])
def test_there_is_a_window_at_any_instant(period: int, wall: int) -> None:
    for name in ("UTC", "Europe/Berlin"):
        began, ends = Calendar(period, zone(name)).around(wall)
        assert began <= wall < ends


@pytest.mark.parametrize(
    ("tz", "period", "shortest"),
    [
        (None, 60, 60),
        (None, "day", 86_400),
        ("America/Los_Angeles", 60, 60),
        ("America/Los_Angeles", "day", 82_800),
        ("America/Los_Angeles", 21_600, 18_000),
        ("America/Los_Angeles", "week", 7 * 86_400 - 3600),
        ("Asia/Kolkata", "day", 86_400),
        ("Australia/Lord_Howe", "day", 86_400 - 1800),
        ("Europe/Berlin", "month", 28 * 86_400),
    ],
)
def test_the_guarantee_is_by_the_shortest_window(tz: Any, period: Any, shortest: int) -> None:
    throttle = Throttle(10, period=period, algorithm=ClockWindow(tz=tz), timer=lambda: 1.7e9)
    assert throttle.guarantee(shortest) == 20
    assert throttle.guarantee(shortest + 1) == 30
    assert throttle.guarantee(0.001) == 20
    assert throttle.guarantee(3 * shortest) == 40


# ------------------------------------------------------------------------------ the rule by itself


class Wall:
    """A monotonic clock and a wall clock beside it, which may be set."""

    def __init__(self, wall: int, mono: int = 12_345) -> None:
        self.mono, self.wall = mono, wall

    def __call__(self, instant: int) -> int | None:
        return None if instant > self.mono else self.wall - self.mono

    def goes(self, span: int) -> None:
        self.mono += span
        self.wall += span


def rule_of(
    wall: Wall, capacity: float, period: int, *, tz: str | None = None, margin: float = 0.5
) -> ClockWindow:
    return ClockWindow(tz, margin).begun(wall.mono, int(capacity * S), period, None, wall)


@given(
    name=st.sampled_from(ZONES),
    period=st.sampled_from(PERIODS),
    near=st.sampled_from(CHANGES),
    beside=st.integers(-86_400 * S, 86_400 * S),
    margin=st.sampled_from([0, 0.5, 30, 1e6]),
    steps=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 10**8, 10 * S, 900 * S, 2 * HOUR])),
        max_size=20,
    ),
)
@examples(1_000)
def test_whoever_asks_goes_at_the_first_instant_that_is_allowed(
    name: str,
    period: int,
    near: str,
    beside: int,
    margin: float,
    steps: list[tuple[int, int]],
) -> None:
    wall, calendar = Wall(unix(near) + beside), Calendar(period, zone(name))
    rule = rule_of(wall, 5, period, tz=name, margin=margin)
    kept = min(round(margin * S), period // 10)
    counted: Counter[int] = Counter()
    for weight, span in steps:
        wall.goes(span)
        at = wall.wall
        while weight:  # the oracle tries window after window
            began, ends = calendar.around(at)
            at = max(at, began + kept)
            if at < ends - kept and counted[began] + weight <= 5:
                break
            at = ends
        asked = wall.mono
        ready = rule.ready_at(asked, weight * S)
        if ready > asked:
            assert (ready - asked) + wall.wall <= at  # a tiny window may be in between
            while ready > wall.mono:
                wall.goes(ready - wall.mono)
                ready = rule.ready_at(wall.mono, weight * S)
        assert wall.wall == at
        rule.take(wall.mono, weight * S)
        began, _ = calendar.around(wall.wall)
        counted[began] += weight
        assert rule.level(wall.mono) == 5 - counted[began]


ACTS = st.one_of(
    st.tuples(st.just("ask"), st.integers(1, 5)),
    st.tuples(st.just("go"), st.integers(0, 20 * S)),
    st.tuples(st.just("go"), st.sampled_from([1, S // 5, S, 9 * S, 10 * S, 60 * S])),
    st.tuples(st.just("set"), st.integers(-3 * S // 10, 3 * S // 10)),
    st.tuples(st.just("sleep"), st.integers(2 * S, 40 * S)),
    st.tuples(st.just("charge"), st.integers(1, 2)),
)


@given(
    start=st.integers(0, 20 * S),
    skew=st.integers(-S // 5 + 1, S // 5 - 1),
    acts=st.lists(ACTS, max_size=60),
)
@examples(3_000)
def test_no_server_sees_too_much_though_clocks_are_set_and_machines_sleep(
    start: int, skew: int, acts: list[tuple[str, int]]
) -> None:
    """The wall clock is right within 0.3 s and the server's within 0.2 s; the margin is 0.5 s."""
    true = 10**18 + start
    wall, period = Wall(true), 10 * S
    rule = rule_of(wall, 5, period)
    counted: Counter[int] = Counter()

    def passes(span: int) -> None:
        nonlocal true
        wall.goes(span)
        true += span

    for act, number in acts:
        if act == "go":
            passes(number)
        elif act == "set":
            wall.wall = true + number
        elif act == "sleep":
            true += number
            wall.wall += number
        elif act == "charge":
            rule.take(wall.mono, number * S)  # never lets anybody go who would not
        else:
            asked, tries = wall.mono, 0
            while (ready := rule.ready_at(wall.mono, number * S)) > wall.mono:
                passes(ready - wall.mono)
                tries += 1
                assert tries < 10
            assert wall.mono - asked <= 3 * period  # nobody is kept out for ever
            rule.take(wall.mono, number * S)
            counted[(true + skew) // period] += number
    assert max(counted.values(), default=0) <= 5


def test_where_the_clock_is_set_back_an_edge_is_not_crossed_twice() -> None:
    wall = Wall(1_000 * 60 * S + 59 * S)
    rule = rule_of(wall, 1, 60 * S)
    rule.take(wall.mono, S)
    wall.goes(2 * S)
    assert rule.ready_at(wall.mono, S) == wall.mono
    rule.take(wall.mono, S)  # of the next minute
    wall.wall -= 2 * S  # it is the minute before, by the clock
    assert rule.ready_at(wall.mono, S) == wall.mono + 59 * S + S // 2  # as was read at the edge
    wall.goes(59 * S + S // 2)
    assert rule.ready_at(wall.mono, S) == wall.mono + 2 * S  # it was set since
    wall.goes(2 * S)
    assert rule.ready_at(wall.mono, S) == wall.mono


def test_what_went_while_the_machine_had_slept_counts_in_the_minute_in_which_it_went() -> None:
    wall = Wall(1_000 * 60 * S + 10 * S)
    rule = rule_of(wall, 2, 60 * S)
    rule.take(wall.mono, S)
    wall.wall += 3600 * S + 20 * S  # it has slept
    wall.goes(S)
    assert rule.ready_at(wall.mono, S) == wall.mono
    rule.take(wall.mono, S)  # at 31 s, though the rule takes it for 11 s
    wall.goes(49 * S)  # the edge, as was read
    assert rule.ready_at(wall.mono, S) == wall.mono  # it is 20 s past another edge by now
    wall.wall -= 20 * S + 2 * S  # but were it not, what went would count there
    assert rule.ready_at(wall.mono, S) == wall.mono + 2 * S + S // 2


def test_where_the_clock_is_set_back_by_more_than_a_window_its_edge_is_not_crossed_twice() -> None:
    wall = Wall(1_000 * 60 * S + S)
    rule = rule_of(wall, 1, 60 * S)
    rule.take(wall.mono, S)
    wall.wall -= 70 * S
    wall.goes(59 * S)  # the edge, as was read; the beginning of the window is yet to come
    assert rule.ready_at(wall.mono, S) == wall.mono + 70 * S + S // 2
    wall.goes(10 * S)
    assert rule.level(wall.mono) == 0


def test_what_went_just_before_an_edge_while_the_machine_had_slept_may_count_after_it() -> None:
    wall = Wall(1_000 * 60 * S + 10 * S)
    rule = rule_of(wall, 1, 60 * S)
    wall.wall += 3600 * S + 20 * S  # it has slept
    wall.goes(29_700_000_000)
    rule.take(wall.mono, S)  # 0.3 s before an edge, which the rule expects 20 s later
    wall.goes(20_300_000_000)
    assert rule.level(wall.mono) == 0  # the server's clock may be so much ahead
    assert rule.ready_at(wall.mono, S) == wall.mono + 40 * S + S // 2


@pytest.mark.parametrize("drift", [-1_000, 1_000])
def test_clocks_that_drift_apart_by_a_little_cost_no_window(drift: int) -> None:
    wall = Wall(1_000 * 60 * S)
    rule = rule_of(wall, 1, 60 * S, margin=0)
    wall.goes(60 * S - 1)
    rule.take(wall.mono, S)
    wall.wall += drift
    wall.goes(1_001)
    assert rule.level(wall.mono) == 1


def test_another_clock_goes_on_with_what_is_left() -> None:
    wall = Wall(unix("2026-01-01T12:00"))
    rule = rule_of(wall, 2, 60 * S)
    rule.take(wall.mono, S)
    wall.goes(60 * S)
    wall.wall = unix("2024-01-01T12:00:30")
    assert rule.level(wall.mono) == 1
    rule.take(wall.mono, S)
    assert rule.ready_at(wall.mono, S) == wall.mono + 30 * S + S // 2


@pytest.mark.parametrize("late", [-300, -1, 0, 1, 300])  # milliseconds from the edge
@pytest.mark.parametrize("step", [200, -200, -600])
def test_what_is_charged_near_an_edge_does_not_cost_the_window_after_it(
    late: int, step: int
) -> None:
    wall = Wall(1_000 * 60 * S)
    rule = rule_of(wall, 2, 60 * S)
    wall.goes(60 * S + late * S // 1000)
    rule.take(wall.mono, S)
    wall.wall += step * S // 1000
    wall.goes(S)
    assert rule.level(wall.mono) == (2 if late < 0 else 1)
    wall.goes(60 * S)
    assert rule.level(wall.mono) == 2


def test_a_refund_is_for_the_window_in_which_it_was_taken() -> None:
    wall = Wall(1_000 * 60 * S + S)
    rule = rule_of(wall, 5, 60 * S)
    receipt = rule.take(wall.mono, 4 * S)
    rule.refund(wall.mono, receipt, S)
    assert rule.level(wall.mono) == 2
    wall.goes(60 * S)
    rule.take(wall.mono, S)
    rule.refund(wall.mono, receipt, 3 * S)
    assert rule.level(wall.mono) == 4


def test_what_was_emptied_is_not_refunded_and_a_debt_ends_with_its_window() -> None:
    wall = Wall(1_000 * 60 * S + S)
    rule = rule_of(wall, 5, 60 * S)
    receipt = rule.take(wall.mono, S)
    rule.empty(wall.mono)
    rule.refund(wall.mono, receipt, S)
    assert rule.level(wall.mono) == 0
    rule.take(wall.mono, 3 * S)
    rule.empty(wall.mono)
    assert rule.level(wall.mono) == -3
    edge = wall.mono + 59 * S
    assert rule.ready_at(wall.mono, 0) == edge + S // 2
    assert rule.fresh_at(wall.mono) == rule.forgets_at(wall.mono, S) == edge
    wall.goes(60 * S)
    assert (rule.level(wall.mono), rule.fresh_at(wall.mono)) == (5, wall.mono)


def test_what_weighs_nothing_goes_while_the_window_is_shut() -> None:
    wall = Wall(1_000 * 60 * S)
    rule = rule_of(wall, 5, 60 * S)
    assert rule.ready_at(wall.mono, 0) == wall.mono
    assert rule.ready_at(wall.mono, 1) == wall.mono + S // 2


def used() -> tuple[ClockWindow, Wall]:
    wall = Wall(1_000 * 60 * S + S)
    rule = rule_of(wall, 5, 60 * S, tz="Europe/Berlin", margin=0.25)
    rule.take(wall.mono, 2 * S)
    return rule, wall


def answers(rule: ClockWindow, at: int) -> list[Any]:
    instants = [at, at + S, at + 58 * S, at + 59 * S, at + 60 * S, at + 1000 * S]
    return [
        question(instant)
        for instant in instants
        for question in (
            rule.level,
            rule.fresh_at,
            *[lambda t, w=w: rule.ready_at(t, w * S) for w in range(6)],
        )
    ]


def test_a_question_changes_nothing_and_a_copy_answers_alike() -> None:
    rule, wall = used()
    state, parameters = rule.state, rule.parameters
    told = answers(rule, wall.mono)
    twin, read = rule.fork(), ClockWindow.load(rule.dump())
    assert answers(twin, wall.mono) == answers(read, wall.mono) == told
    assert read.dump() == rule.dump()
    assert rule.guarantee(60 * S) == read.guarantee(60 * S) == 10 * S
    twin.take(wall.mono, S)
    assert rule.state is state
    assert rule.parameters is parameters
    assert state.values() == rule.state.values()
    with pytest.raises(AttributeError, match="inside of ClockState cannot be changed"):
        state.inside = 0
    unnamed = ClockWindow(timezone(timedelta(hours=2)))
    with pytest.raises(TypeError, match="a zone without a name cannot be written"):
        unnamed.begun(0, S, DAY, None, wall).dump()


@pytest.mark.parametrize("by", [S, -S, 10**15])
def test_a_rule_moves_to_another_clock(by: int) -> None:
    rule, wall = used()
    wall.goes(58 * S)
    moved = rule.fork()
    moved.shift(by)
    moved._reader = lambda instant: None if (ahead := wall(instant - by)) is None else ahead - by
    for span in (0, S, 60 * S, 200 * S):
        wall.goes(span)
        at = wall.mono
        assert moved.level(at + by) == rule.level(at)
        for weight in range(6):
            assert moved.ready_at(at + by, weight) == rule.ready_at(at, weight) + by
        rule.take(at, S)
        moved.take(at + by, S)


def test_a_forecast_does_not_read_the_clock_of_the_future() -> None:
    rule, wall = used()
    reads = list[int]()

    def reader(instant: int) -> int | None:
        reads.append(instant)
        return wall(instant)

    rule._reader = reader
    at = wall.mono + 600 * S
    assert rule.ready_at(at, S) == at
    assert reads == [at]  # it is asked, and has nothing to say
    assert rule.state.ahead == wall.wall - wall.mono


def test_a_new_period_begins_with_what_is_inside() -> None:
    rule, wall = used()
    rule.configure(wall.mono, 3 * S, HOUR, None)
    assert rule.level(wall.mono) == 1
    edge = (wall.wall // HOUR + 1) * HOUR - wall.wall + wall.mono
    assert rule.ready_at(wall.mono, 2 * S) == edge + S // 4
    before = rule.state, rule.parameters
    with pytest.raises(ValueError, match="period must divide a day"):
        rule.configure(wall.mono, 3 * S, 7 * S, None)
    with pytest.raises(ValueError, match="burst does not go with ClockWindow"):
        rule.configure(wall.mono, 3 * S, HOUR, S)
    assert (rule.state, rule.parameters) == before


# ------------------------------------------------------------------------------ a throttle with it


def in_virtual_time(scene: Callable[[], Any]) -> Any:
    async def main() -> Any:
        return await scene()

    return testing.run(main())


def test_windows_begin_at_full_minutes_for_tasks_and_sets() -> None:
    async def scene() -> list[float]:
        minute = Throttle(2, 1, period=60, algorithm=ClockWindow, name="minute")
        day = Throttle(5, period="day", algorithm=ClockWindow(), name="day")
        api, went = LimitSet(minute, day), list[float]()

        async def call() -> None:
            async with api():
                went.append(now())

        assert minute.locked()
        assert minute.delay() == 0.5
        calls = [asyncio.create_task(call()) for _ in range(7)]
        await asyncio.sleep(121)
        check(api)
        assert api.delay() == 86_460.5 - 121  # two wait already, for the next day's first minute
        assert api.delay().limit == "day"
        await asyncio.gather(*calls)
        return went

    went = in_virtual_time(scene)
    assert went == [0.5, 0.5, 60.5, 60.5, 120.5, 86_400.5, 86_400.5]


def test_a_timer_is_unix_time() -> None:
    start = unix("2025-03-09T07:59:59") / S + 0.75  # a day of 23 hours begins in Los Angeles

    async def scene() -> list[float]:
        throttle = Throttle(
            1,
            period="day",
            algorithm=ClockWindow(tz="America/Los_Angeles"),
            timer=lambda: start + now(),
        )
        assert throttle.period == 86_400
        await throttle.acquire()
        return [now(), throttle.delay()]

    assert in_virtual_time(scene) == pytest.approx([0.75, 23 * 3600], abs=1e-5)


@pytest.mark.parametrize("step", [0.3, -0.3])
def test_a_wall_clock_that_is_set_while_callers_wait(
    step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = 10**18 - 10**18 % (60 * S)

    async def scene() -> list[int]:
        loop = asyncio.get_running_loop()
        error = 0

        def true() -> int:
            return ahead + round(loop.time() * S)

        monkeypatch.setattr(time, "time_ns", lambda: true() + error)
        throttle, went = Throttle(3, period=60, algorithm=ClockWindow), list[int]()

        async def call() -> None:
            await throttle.acquire()
            went.append(true())

        calls = [asyncio.create_task(call()) for _ in range(30)]
        for n in range(1, 20):
            await asyncio.sleep(29.9)
            check(throttle)
            error = round(step * S) * (n % 2)
        await asyncio.gather(*calls)
        return went

    went = in_virtual_time(scene)
    assert set(Counter(instant // (60 * S) for instant in went).values()) == {3}
    assert went[-1] - went[0] < 9 * 60 * S + S


def test_freezegun_moves_the_windows_and_its_end_mints_nothing() -> None:
    throttle = Throttle(2, period="day", algorithm=ClockWindow(tz="Europe/Berlin"))
    with freeze_time("2025-10-25T23:00:00+02:00") as frozen:
        frozen_throttle = Throttle(2, period="day", algorithm=ClockWindow(tz="Europe/Berlin"))
        for each in (throttle, frozen_throttle):
            assert [each.try_acquire() for _ in range(3)] == [True, True, False]
        assert frozen_throttle.delay() == 3600.5
        frozen.tick(3600)
        assert not frozen_throttle.try_acquire()
        frozen.tick(0.5)
        assert [frozen_throttle.try_acquire() for _ in range(3)] == [True, True, False]
        assert frozen_throttle.delay() == 25 * 3600
        frozen.move_to("2025-10-25T22:00:00+02:00")
        assert not frozen_throttle.try_acquire()
    for each in (throttle, frozen_throttle):
        assert not each.try_acquire()
        check(each)


def test_threads_of_a_kind() -> None:
    throttle = threads.Throttle(2, period="month", algorithm=ClockWindow, timer=lambda: 1.75e9)
    assert [throttle.try_acquire() for _ in range(3)] == [True, True, False]
    assert throttle.level == 0
    assert throttle.algorithm is ClockWindow


def test_limits_may_be_changed_while_callers_wait() -> None:
    async def scene() -> list[float]:
        throttle = Throttle(1, period="month", algorithm=ClockWindow)
        went = list[float]()

        async def call() -> None:
            await throttle.acquire()
            went.append(now())

        calls = [asyncio.create_task(call()) for _ in range(4)]
        await asyncio.sleep(10)
        throttle.period = "day"
        throttle.period = throttle.period
        await asyncio.sleep(0)
        assert throttle.delay() == 4 * 86_400 - 10 + 0.5
        throttle.period = 60
        await asyncio.sleep(60)
        throttle.capacity = 2
        await asyncio.gather(*calls)
        return went

    assert in_virtual_time(scene) == [0.5, 60.5, 70, 120.5]


def test_limit_of_concurry_takes_it_too() -> None:
    limit = RateLimit("requests", "day", ClockWindow(tz="Asia/Kolkata"), 5)
    assert limit.throttle.algorithm is ClockWindow
    assert limit.get_stats()["algorithm"] == "ClockWindow"
    assert RateLimit("requests", 60, ClockWindow, 5).throttle.period == 60


def test_without_a_rate_there_is_no_window() -> None:
    throttle = Throttle(math.inf, algorithm=ClockWindow)
    assert throttle.try_acquire(10**6)
    assert throttle.level == throttle.guarantee(1) == math.inf
    throttle.pause(0, empty=True)
    assert not throttle.delay()


def test_how_it_is_shown() -> None:
    assert repr(ClockWindow(tz="Europe/Berlin")) == "ClockWindow(tz='Europe/Berlin', margin=0.5)"
    assert repr(ClockWindow(margin=2)) == "ClockWindow(tz=None, margin=2)"
    zoned = ClockWindow(ZoneInfo("Europe/Berlin"))
    assert repr(copy.copy(zoned)) == repr(zoned) == repr(ClockWindow("Europe/Berlin"))
    throttle = Throttle(9, period="day", algorithm=ClockWindow)
    assert "capacity:9/86400s, burst:9, ClockWindow, tokens:9" in repr(throttle)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ClockWindow("Mars/Olympus"), "tz must be the name .* got 'Mars/Olympus'"),
        (lambda: ClockWindow(""), "tz must be the name .* got ''"),
        (lambda: ClockWindow("../etc"), "tz must be the name .* got '../etc'"),
        (lambda: ClockWindow(3600), "tz must be the name .* got 3600"),  # type: ignore[arg-type]
        (lambda: ClockWindow(margin=-1), "margin must be .* at least 0, got -1"),
        (lambda: ClockWindow(margin=math.nan), "margin must be .* got nan"),
        (lambda: ClockWindow(margin=math.inf), "margin must be .* got inf"),
        (lambda: of(7), "period must divide a day, or be 'day', .* got 7"),
        (lambda: of(2 * 86_400), "period must divide a day, .* got 172800"),
        (lambda: of("year"), "period must be one of day, week, month, got 'year'"),
        (lambda: of(60, burst=5), "burst does not go with ClockWindow, .* got 5"),
        (lambda: of(0), "period must be positive and finite, got 0"),
        (lambda: Throttle(1, period="day"), "period must be in seconds without .* got 'day'"),
        (lambda: setattr(of(60), "period", 7), "period must divide a day"),
        (lambda: setattr(of(60), "period", "year"), "period must be one of day"),
        (lambda: of(60, initial=2), "initial must be at most the burst, 1, got 2"),
        (lambda: of(60, adapt=BackOff()), "algorithm must be a bucket"),
    ],
)
def test_what_is_refused_is_named(make: Callable[[], object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()


def of(period: Any, **others: Any) -> Throttle:
    return Throttle(1, period=period, algorithm=ClockWindow, **others)


def test_a_throttle_that_begins_with_less_has_all_in_the_next_window() -> None:
    async def scene() -> list[float]:
        throttle = Throttle(2, period=60, algorithm=ClockWindow, initial=0)
        assert throttle.level == 0
        await throttle.acquire(2)
        return [now(), throttle.level]

    assert in_virtual_time(scene) == [60.5, 0]


def test_what_was_read_for_an_instant_stays_for_it() -> None:
    throttle = Throttle(1, period=60, algorithm=ClockWindow)
    rule = throttle._core.rule
    assert isinstance(rule, ClockWindow)
    assert isinstance(rule.state, ClockState)
    at = time.monotonic_ns()
    ahead = rule._reader(at)
    assert ahead is not None
    with freeze_time("2025-01-01"):
        assert rule._reader(at) == ahead
    assert rule._reader(at + DAY) is None
