"""Forecasts that are kept, and waits that are bounded, against a future that is played anew.

A life is a list of steps: arrivals, time, charges, refunds, pauses, departures, slots that come and
go, changed limits. Newcomers ask again and again how long they would wait; some of them come then.
The oracle is the same question, put to the queue when it has forgotten what it foresaw.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from statistics import fmean
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from support import calls_of, examples, now, others_run, queued
from support import check as check_all
from test_backfilling import KINDS, Arrival, Limits, Rate
from test_check import interrupted_at
from test_queue import Story, bucket
from test_rules import Spaced

from async_throttle import (
    FixedWindow,
    LimitPool,
    LimitSet,
    Rule,
    SlidingWindow,
    Throttle,
    ThrottleFull,
    ThrottleTimeout,
    TokenBucket,
    WeightTooLarge,
)
from async_throttle._base import core_of
from async_throttle._engine.bounds import is_within
from async_throttle._engine.check import check, repair
from async_throttle._engine.forecast import quote
from async_throttle._engine.foresight import Actor, Foresight
from async_throttle._engine.lane import GRANTED, QUEUED, Lane, Pause
from async_throttle._engine.timetable import Timetable
from async_throttle._shell.scheduler import find
from async_throttle._units import NEVER, TOKEN
from async_throttle.rules.slots import Slots


@contextmanager
def futures_are_played() -> Iterator[None]:
    """Where a timetable would do, a copy of the queue is played nevertheless."""
    with patch.object(Timetable, "of", lambda queue, asked: None):
        yield


@pytest.fixture(params=["played", "told"])
def played_or_told(request: pytest.FixtureRequest) -> Iterator[None]:
    """Futures are played, or told from a timetable."""
    with futures_are_played() if request.param == "played" else nullcontext():
        yield


@pytest.fixture
def played() -> Iterator[None]:
    """Futures are played."""
    with futures_are_played():
        yield


class Life:
    """A story in which newcomers ask how long they would wait.

    Attributes:
        kept: how many answers came from a forecast that was there before.
        told: how many of these came from a timetable.
        bounded: how many waits were known without a forecast.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.story = limits.story()
        self.queue = self.story.queue
        self.queue.trusting = True
        self.kept = self.told = self.bounded = 0
        self.queue.keep_count(next(iter(self.story.pauses)))

    def asked(self, arrival: Arrival) -> tuple[Lane, tuple[int, ...]]:
        lane = self.limits.lane(arrival)
        weights = self.story.weights(lane, self.limits.amounts(arrival))
        return self.story.lane(lane, arrival.priority), weights

    def anew(self, lane: Lane, weights: tuple[int, ...]) -> tuple[int, int]:
        """What a queue tells that has foreseen nothing, and plays; the forecast is put back."""
        foreseen, self.queue.foresight = self.queue.foresight, None
        try:
            with futures_are_played():
                return quote(self.queue, lane, weights)
        finally:
            self.queue.forget()
            self.queue.foresight = foreseen

    def ask(self, arrival: Arrival) -> None:
        lane, weights = self.asked(arrival)
        expected, _ = self.anew(lane, weights)
        foresight = self.queue.foresight
        assert quote(self.queue, lane, weights)[0] == expected
        check(self.queue)
        if foresight is not None and self.queue.foresight is foresight:
            self.kept += 1
            self.told += isinstance(foresight, Timetable)
        for few in (1, 64):
            with patch("async_throttle._engine.bounds.FEW", few):
                assert not is_within(self.queue, lane, weights, expected - 1)
                self.bounded += is_within(self.queue, lane, weights, NEVER - 1)

    def come_to_several(self, *arrivals: Arrival) -> None:
        """A caller comes to several lanes, if the limits are those of sets."""
        if self.limits.sets:
            self.come(*arrivals)

    def be_late(self, gap: int) -> None:
        """Time passes without a look at the queue."""
        self.story.jump(self.story.now + gap)

    def come(self, *arrivals: Arrival) -> None:
        rivals = [Actor() for _ in arrivals]
        for actor, arrival in zip(rivals, arrivals, strict=True):
            if len(rivals) > 1:
                actor.rivals = rivals
            self.story.actors[f"{len(self.story.actors)}"] = actor
            deadline = NEVER if arrival.patience == NEVER else self.story.now + arrival.patience
            self.queue.join(actor, *self.asked(arrival), deadline)
        self.story.decide()

    def ask_and_come(self, arrival: Arrival) -> None:
        self.ask(arrival)
        self.come(arrival)

    def take(self, arrival: Arrival) -> None:
        """A caller goes at once, or not at all."""
        self.ask(arrival)
        if self.queue.try_take(*self.asked(arrival)) is not None:
            self.story.decide()

    def rush(self, arrival: Arrival, callers: int) -> None:
        """So many callers come, who all ask before."""
        for _ in range(callers):
            self.ask_and_come(arrival)

    def wait(self, gap: int) -> None:
        self.story.run(self.story.now + gap)

    # -- what is not foreseen -------------------------------------------------------------

    def rate(self, which: int) -> Any:
        rates = list(self.story.pauses)
        return rates[which % len(rates)]

    def charge(self, which: int, tokens: int) -> None:
        self.queue.touched(self.rate(which))
        self.rate(which).charge(self.story.now, tokens * TOKEN)
        self.story.decide()

    def configure(self, which: int, every: int) -> None:
        rate = self.rate(which)
        burst = rate.burst if rate.divisible else None
        self.queue.touched(rate)
        rate.configure(self.story.now, rate.capacity, every * rate.burst // TOKEN, burst)
        self.queue.refit(rate)
        self.story.decide()

    def refund(self, which: int) -> None:
        actors = self.story.actors.values()
        granted = [actor for actor in actors if actor.state is GRANTED and actor.receipts]
        if granted:
            rule, weight, receipt = granted[which % len(granted)].receipts.pop()
            self.queue.touched(rule)
            rule.refund(self.story.now, receipt, weight // 2)
            self.story.decide()

    def leave(self, which: int) -> None:
        waiting = [name for name, actor in self.story.actors.items() if actor.state is QUEUED]
        if waiting:
            self.story.leave(waiting[which % len(waiting)])

    def slot(self, by: int) -> None:
        for _, slots in [pair for lane in self.story.lanes for pair in lane.slots][:1]:
            self.queue.touched(slots)
            slots.free = min(slots.limit, max(0, slots.free + by))
            self.story.decide()

    def pause(self, which: int, span: int, empties: bool) -> None:
        pauses = [*self.story.pauses.values(), *self.story.own]
        self.story.pause(self.story.now + span, pauses[which % len(pauses)], empties=empties)

    def resume(self, which: int) -> None:
        pauses = [*self.story.pauses.values(), *self.story.own]
        self.story.resume(pauses[which % len(pauses)])


@dataclass(frozen=True)
class Step:
    """Something that happens in a life."""

    what: Callable[..., None]
    args: tuple[Any, ...]


def step(what: Callable[..., None], *drawn: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.builds(Step, st.just(what), st.tuples(*drawn))


SOME = st.integers(0, 5)
CHANGES = st.one_of(
    step(Life.charge, SOME, SOME),
    step(Life.configure, SOME, st.integers(1, 9)),
    step(Life.refund, SOME),
    step(Life.leave, SOME),
    step(Life.slot, st.sampled_from([-1, 1])),
    step(Life.pause, SOME, st.integers(0, 60), st.booleans()),
    step(Life.resume, SOME),
)


def steps() -> st.SearchStrategy[list[Step]]:
    """A busy life: most of the time callers come and ask, and little else happens."""
    arrival = st.builds(
        Arrival,
        st.just(0),
        st.just(0) | st.integers(0, 6),
        st.tuples(*[st.just(1) | AMOUNTS] * 9),
        st.sampled_from([0] * 15 + [1, 2]),
        st.sampled_from([NEVER] * 9 + [30]),
    )
    asking = step(Life.ask, arrival) | step(Life.rush, arrival, st.integers(1, 3))
    coming = step(Life.come, arrival) | step(Life.take, arrival)
    usual = st.one_of(asking, asking, coming, step(Life.wait, st.integers(0, 12)))
    rare = step(Life.come_to_several, arrival, arrival) | step(Life.be_late, st.integers(0, 12))
    return st.lists(st.one_of(*[usual] * 9, CHANGES | rare), min_size=8, max_size=40)


AMOUNTS = st.integers(1, 6) | st.none()
"""Callers with a weight of nothing may go as soon as a bucket is full: a look may come later."""


@st.composite
def crowded(draw: st.DrawFn) -> Limits:
    """Slow rates, and one to three lanes over some of them, with slots or without."""
    rate = st.builds(
        Rate, st.sampled_from(KINDS), st.integers(2, 12), st.integers(2, 6), st.just(6)
    )
    rates = draw(st.lists(rate, min_size=1, max_size=3))
    some = st.sets(st.integers(0, len(rates) - 1), min_size=1).map(sorted)
    with_slots = some.map(lambda lane: (*lane, len(rates)))
    lanes = st.lists(some.map(tuple) | with_slots, min_size=1, max_size=3, unique=True)
    return Limits(tuple(rates), tuple(draw(lanes)), (2,), draw(st.booleans()))


@st.composite
def chats(draw: st.DrawFn) -> Limits:
    """Lanes that share a bucket, or two, and have one of their own; some are idle."""
    kinds = st.sampled_from([TokenBucket, TokenBucket, SlidingWindow, FixedWindow])
    rate = st.builds(Rate, kinds, st.integers(2, 12), st.integers(1, 6), st.just(6))
    number = draw(st.integers(2, 6))
    rates = [draw(rate) for _ in range(2)]
    rates += [
        replace(draw(rate), every=draw(st.integers(1, 60)), used=draw(st.sampled_from([0, 6])))
        for _ in range(number)
    ]
    lanes = [(0, *[1] * draw(st.integers(0, 1)), 2 + n) for n in range(number)]
    return Limits(tuple(rates), (*lanes, (0,)), (2,), draw(st.booleans()))


@given(limits=crowded() | chats(), steps=steps())
@examples(600)
def test_what_is_foreseen_is_what_a_future_tells_that_is_played_anew(
    limits: Limits, steps: list[Step]
) -> None:
    life = Life(limits)
    for each in steps:
        each.what(life, *each.args)
    event(f"answers of kept forecasts: {min(life.kept, 5)}")
    event(f"answers of kept timetables: {min(life.told, 5)}")
    event(f"bounded waits: {min(life.bounded, 5)}")


# ------------------------------------------------------------------------------- what is kept


def trusting(story: Story) -> Story:
    """A story that says which rules it changes."""
    story.queue.trusting = True
    return story


def three_wait() -> Story:
    """Two lanes that share a rate, with callers that go at 10, 20 and 30 ns."""
    shared = bucket(1, 10, 1, level=0)
    story = trusting(Story([shared, bucket(1, 5, 1)], [shared, bucket(1, 5, 2)], sets=True))
    for n, lane in enumerate((0, 1, 0)):
        story.join(f"{n}", 1, 1, lane=lane)
    return story


Happening = Callable[[Story], object]


def changed(change: Callable[[Rule], None]) -> Happening:
    """A change of the rate that both lanes share."""

    def happening(story: Story) -> None:
        story.queue.touched(story.rules[0][0])
        change(story.rules[0][0])
        story.decide()

    return happening


def grant_and_arrival(story: Story) -> None:
    story.run(10)
    story.join("3", 1, 1)


FORESEEN: dict[str, Happening] = {
    "nothing": lambda story: None,
    "a grant": lambda story: story.run(10),
    "two grants": lambda story: story.run(20),
    "an arrival": lambda story: story.join("3", 1, 1),
    "an arrival after a grant": grant_and_arrival,
    "another question": lambda story: story.quote(1, 0),
    "a change of a rate that nobody waits for": lambda s: s.queue.touched(bucket(1, 1, 1)),
    "a slot that comes back": lambda story: story.queue.touched(Slots(1)),
}
UNFORESEEN: dict[str, Happening] = {
    "an arrival that stands before instants played": lambda story: story.join("3", 1, 1, lane=1),
    "a departure": lambda story: story.leave("1"),
    "a charge": changed(lambda rate: rate.charge(0, TOKEN)),
    "a pause": lambda story: story.pause(95, story.own[0]),
    "another rate": changed(lambda rate: rate.configure(0, TOKEN, 20, TOKEN)),
    "a grant that is late": lambda story: story.jump(13),
    "an arrival of another class": lambda story: story.join("3", 1, 1, priority=1),
    "an interruption": lambda story: repair(story.queue),
}


@pytest.mark.usefixtures("played")
@pytest.mark.parametrize("what", [*FORESEEN, *UNFORESEEN])
def test_a_forecast_is_kept_as_long_as_that_happens_which_it_foresaw(what: str) -> None:
    story = three_wait()
    assert story.quote(1, 1) == 40
    foresight = story.queue.foresight
    assert foresight is not None
    {**FORESEEN, **UNFORESEEN}[what](story)
    answer = story.quote(1, 1)
    assert (story.queue.foresight is foresight) == (what in FORESEEN)
    story.queue.forget()
    assert story.quote(1, 1) == answer


UNKEPT: dict[str, Callable[[], Story]] = {
    "a rule of a user": lambda: Story([Spaced(0, TOKEN, 10), bucket(1, 10, 1, level=0)]),
}
ANSWERS: dict[str, Callable[[], Story]] = {
    "classes": lambda: class_of(Story([bucket(1, 10, 1, level=0), bucket(1, 10, 1)])),
    "a pool": lambda: pool_of(Story([bucket(1, 10, 1, level=0), bucket(1, 10, 1)], sets=True)),
}


def class_of(story: Story) -> Story:
    story.join("urgent", 1, 1, priority=-1)
    return story


def pool_of(story: Story) -> Story:
    story.join("pool", 1, 1, actor=of_a_pool())
    return story


@pytest.mark.parametrize("what", UNKEPT)
def test_a_forecast_is_not_kept_where_it_would_not_hold(what: str) -> None:
    story = trusting(UNKEPT[what]())
    story.join("other", 1, 1)
    assert story.quote(1, 1) > 0
    assert story.queue.foresight is None


def nothing(story: Story) -> None:
    """Nothing happens."""


ANSWERED: dict[str, tuple[Happening, bool]] = {
    "nothing": (nothing, True),
    "time": (lambda story: story.run(5), True),
    "an arrival": (lambda story: story.join("late", 1, 1), False),
    "a departure": (lambda story: story.leave("third"), False),
    "another question": (lambda story: story.quote(1, 0), True),
}


@pytest.mark.parametrize("what", ANSWERED)
@pytest.mark.parametrize("where", ANSWERS)
def test_an_answer_is_kept_among_classes_and_pools_until_more_than_time_comes(
    where: str, what: str
) -> None:
    story = trusting(ANSWERS[where]())
    for name in ("other", "third"):
        story.join(name, 1, 1)
    answer = story.quote(1, 1)
    with counted_forecasts() as made:
        happening, kept = ANSWERED[what]
        happening(story)
        made.clear()
        assert story.quote(1, 1) == answer + 10 * (what == "an arrival") - 10 * (
            what == "a departure"
        )
    assert (not made) == kept


def test_an_answer_among_classes_is_kept_while_waiters_go_as_foreseen() -> None:
    story = class_of(trusting(Story([bucket(1, 10, 1, level=0), bucket(1, 10, 1)])))
    story.join("other", 1, 1)
    assert story.quote(1, 1) == 30
    with counted_forecasts() as made:
        assert story.run(10) == [(10, "urgent")]
        assert story.quote(1, 1) == 30
    assert not made


def test_an_answer_among_classes_that_ask_for_slots_holds_at_its_instant_alone() -> None:
    rate, slots = bucket(1, 10, 1, level=0), Slots(2)
    story = trusting(Story([rate, bucket(1, 10, 1)], [rate, slots], sets=True))
    story.join("urgent", 1, 1, priority=-1)
    story.join("with a slot", 1, 1, lane=1)
    with counted_forecasts() as made:
        assert [story.quote(1, 1), story.quote(1, 1)] == [30, 30]
        assert len(made) == 1
        story.run(5)
        assert story.quote(1, 1) == 30
        set_slots(story, slots, 0)
        assert story.quote(1, 1) == 20
    assert len(made) == 3


def test_callers_of_two_classes_are_not_told_the_same() -> None:
    story = trusting(Story([bucket(1, 10, 1, level=0), bucket(1, 10, 1)], sets=True))
    story.join("usual", 1, 1)
    story.join("late", 1, 1, priority=1)
    told = [story.quote(1, 1, priority=priority) for priority in (-1, 0, 1, 2) * 2]
    assert told == [10, 20, 30, 30] * 2


@contextmanager
def counted_forecasts() -> Iterator[list[Foresight]]:
    """The forecasts that are played anew within the block."""
    made: list[Foresight] = []
    make = Foresight.__init__

    def noted(foresight: Foresight, *args: Any) -> None:
        made.append(foresight)
        make(foresight, *args)

    with patch.object(Foresight, "__init__", noted):
        yield made


def of_a_pool() -> Actor:
    actor = Actor()
    actor.rivals = [actor, Actor()]
    return actor


@pytest.mark.usefixtures("played_or_told")
@pytest.mark.parametrize("unlike", [{"priority": 1}, {"actor": of_a_pool()}])
def test_an_arrival_that_may_change_what_was_foreseen_is_not_added_to_it(unlike: Any) -> None:
    story = trusting(Story([bucket(1, 10, 1, level=0)], [bucket(1, 10, 1, level=0)], sets=True))
    story.join("head", 1)
    assert story.quote(1, lane=1) == 10
    assert story.queue.foresight is not None
    story.join("unlike", 1, lane=1, **unlike)
    assert story.queue.foresight is None


@pytest.mark.usefixtures("played")
@pytest.mark.parametrize(("weight", "kept"), [(1, True), (2, False)])
def test_a_newcomer_that_has_asked_takes_its_place_if_it_comes_as_it_asked(
    weight: int, kept: bool
) -> None:
    shared = bucket(1, 10, 3, level=0)
    story = trusting(Story([shared], [shared, bucket(1, 10, 3)], sets=True))
    story.join("a", 1)
    story.join("b", 1, 1, lane=1)
    assert story.quote(1) == 30
    story.join("newcomer", weight)
    assert (story.queue.foresight is not None) == kept
    assert story.quote(1) == 30 + 10 * weight


def idle_lanes(second: Rule, shared: Rule) -> Story:
    """A lane with a waiter, and two that are idle, all of which share a rate."""
    slow = bucket(1, 1000, 9)
    lanes = [[shared, bucket(1, 5, 1)], [shared, bucket(1, 5, 3)], [shared, second], [slow, second]]
    story = trusting(Story(*lanes, sets=True))
    story.join("head", 3, 1)
    return story


def none_is_there() -> Rule:
    return bucket(1, 10, 3, level=0)


IDLE: dict[str, tuple[Callable[[], Story], tuple[int | None, ...], bool]] = {
    "like the one that has come": (
        lambda: idle_lanes(bucket(1, 5, 1), none_is_there()),
        (1, 1),
        True,
    ),
    "heavier": (lambda: idle_lanes(bucket(1, 5, 1), none_is_there()), (3, 1), True),
    "that needs nothing else": (
        lambda: idle_lanes(bucket(1, 5, 1), none_is_there()),
        (1, None),
        True,
    ),
    "that does without the shared rate": (
        lambda: idle_lanes(bucket(1, 5, 1), none_is_there()),
        (None, 1),
        False,
    ),
    "that has its own rate to wait for, not as long": (
        lambda: idle_lanes(bucket(1, 5, 1, level=0), none_is_there()),
        (1, 1),
        False,
    ),
    "that has its own rate to wait for, longer": (
        lambda: idle_lanes(bucket(1, 500, 1, level=0), none_is_there()),
        (1, 1),
        True,
    ),
    "that asks for nothing": (
        lambda: idle_lanes(bucket(1, 5, 1), none_is_there()),
        (0, 1),
        False,
    ),
    "at a window": (
        lambda: idle_lanes(bucket(1, 5, 1), used_window()),
        (1, 1),
        True,
    ),
}


def used_window() -> Rule:
    window = SlidingWindow(0, 3 * TOKEN, 30)
    window.take(0, 3 * TOKEN)
    return window


@pytest.mark.usefixtures("played")
@pytest.mark.parametrize("comes", [False, True])
@pytest.mark.parametrize("who", IDLE)
def test_a_newcomer_to_an_idle_lane_is_foreseen_behind_one_that_waits_for_the_same_rate(
    who: str, comes: bool
) -> None:
    make, amounts, kept = IDLE[who]
    story = make()
    assert story.quote(2, 1, lane=1) >= 50
    story.join("first", 2, 1, lane=1)
    foresight = story.queue.foresight
    assert foresight is not None
    if comes:
        story.join("second", *amounts, lane=2)
    else:
        story.quote(*amounts, lane=2)
    assert (story.queue.foresight is foresight) == kept
    answer = story.quote(1, 1, lane=1)
    story.queue.forget()
    assert story.quote(1, 1, lane=1) == answer


@pytest.mark.usefixtures("played")
@pytest.mark.parametrize(("weight", "kept"), [(1, False), (2, True), (3, False)])
def test_a_newcomer_to_an_idle_lane_is_told_what_another_was_told_that_asked_for_as_much(
    weight: int, kept: bool
) -> None:
    story = idle_lanes(bucket(1, 5, 1), none_is_there())
    first = story.quote(2, 1, lane=1)
    foresight = story.queue.foresight
    assert (story.quote(weight, 1, lane=2) == first) == kept
    assert (story.queue.foresight is foresight) == kept
    assert quote(story.queue, story.lanes[2], (TOKEN, TOKEN)) == (40, 0)


@pytest.mark.usefixtures("played")
def test_a_newcomer_to_a_lane_that_is_paused_is_not_foreseen_behind_another_lane() -> None:
    story = idle_lanes(bucket(1, 5, 1), none_is_there())
    story.pause(35, story.own[2])
    assert story.quote(2, 1, lane=1) == 50
    foresight = story.queue.foresight
    assert story.quote(2, 1, lane=2) == 50
    assert story.queue.foresight is not foresight


@pytest.mark.usefixtures("played_or_told")
def test_a_newcomer_is_not_foreseen_behind_one_that_waits_for_the_head_of_its_own_lane() -> None:
    story = idle_lanes(bucket(1, 100, 1), none_is_there())
    assert story.quote(1, 1, lane=2) == 40
    story.join("first", 1, 1, lane=2)
    story.join("second", 1, 1, lane=2)
    assert story.quote(1, 1, lane=2) == 240
    assert story.quote(1, 1, lane=1) == 50


@pytest.mark.usefixtures("played_or_told")
def test_a_newcomer_waits_for_what_the_waiter_before_it_leaves_of_a_limit_of_their_own() -> None:
    # It waits for the second rate until 190: not only for the first one, as others do.
    shared, own = bucket(1, 10, 8, level=0), bucket(1, 100, 2)
    story = trusting(Story([shared], [shared, own], sets=True))
    story.join("heavy", 8)
    story.join("first", 1, 2, lane=1)
    assert story.quote(1, 1, lane=1) == 190
    assert story.quote(1) == 100


@pytest.mark.usefixtures("played_or_told")
def test_a_set_is_told_its_limit_where_a_throttle_was_told_the_same() -> None:
    story = idle_lanes(none_is_there(), none_is_there())
    shared = story.rules[0][0]
    alone = story.queue.lane((shared,), (story.pauses[shared],))
    assert quote(story.queue, alone, (TOKEN,)) == (40, -1)
    of_a_set = story.queue.lane((shared,), (Pause(), story.pauses[shared]), 0, (0,))
    assert quote(story.queue, of_a_set, (TOKEN,)) == (40, 0)


@pytest.mark.usefixtures("played_or_told")
def test_who_comes_to_a_forecast_after_the_classes_have_gone_arrives_there_as_here() -> None:
    shared, slow = none_is_there(), bucket(1, 1000, 1, level=0)
    lanes = [[shared, bucket(1, 5, 3)] for _ in range(3)]
    story = trusting(Story(*lanes, [slow], sets=True))
    story.join("head", 3, 1)
    story.join("waits throughout", 1, lane=3)
    story.join("urgent", 1, 1, lane=1, priority=-1)
    story.leave("urgent")
    assert story.queue.patience.heads
    assert story.quote(2, 1, lane=1) == 50
    foresight = story.queue.foresight
    story.join("first", 2, 1, lane=1)
    story.join("second", 1, 1, lane=2)
    assert story.queue.foresight is foresight is not None


@pytest.mark.usefixtures("played_or_told")
def test_a_newcomer_that_could_go_at_once_is_told_no_limit() -> None:
    story = idle_lanes(bucket(1, 5, 1), bucket(1, 10, 5))
    story.join("later", 1, 1)
    story.join("latest", 1, 1)
    assert quote(story.queue, story.lanes[2], (TOKEN, TOKEN)) == (0, -1)


@pytest.mark.usefixtures("played_or_told")
def test_a_newcomer_that_might_have_gone_is_not_told_an_instant_of_the_past() -> None:
    fast, slow = bucket(1, 10, 1, level=0), bucket(1, 100, 1, level=0)
    story = trusting(Story([fast, slow], [fast], sets=True))
    story.join("head", 1, 1)
    assert story.quote(1, lane=1) == 10
    story.run(15)
    assert story.quote(1, lane=1) == 15


@pytest.mark.usefixtures("played_or_told")
def test_a_pause_that_empties_a_rate_when_all_who_wait_are_gone_is_foreseen() -> None:
    shared, other = bucket(1, 100, 2, level=0), bucket(1, 100, 2)
    story = trusting(Story([shared, other], [shared], sets=True))
    story.pause(150, story.own[1])
    story.own[1].rules = (shared,)
    story.pause(150, story.own[1], empties=True)
    story.join("head", 1, 1)
    assert story.quote(1, 1) == 250
    assert story.quote(1, 1) == 250
    assert not is_within(story.queue, story.lanes[0], (TOKEN, TOKEN), 249)


@pytest.mark.usefixtures("played_or_told")
def test_a_lane_that_lacks_a_slot_now_is_left_out_of_what_was_foreseen() -> None:
    shared, slots = bucket(1, 10, 1, level=0), Slots(1)
    story = trusting(Story([shared, bucket(1, 5, 1)], [shared, slots], sets=True))
    story.join("a", 1, 1)
    story.join("b", 1, 1, lane=1)
    assert story.quote(1, 1) == 30
    set_slots(story, slots, 0)
    assert story.quote(1, 1) == 20


def set_slots(story: Story, slots: Slots, free: int) -> None:
    story.queue.touched(slots)
    slots.free = free
    story.decide()


def with_slots(slots: Slots) -> Story:
    shared = bucket(1, 10, 1, level=0)
    story = trusting(Story([shared, bucket(1, 5, 1)], [shared, slots], [shared], sets=True))
    story.join("a", 1, 1)
    return story


@pytest.mark.usefixtures("played_or_told")
def test_a_lane_that_lacks_a_slot_is_left_out_if_it_has_come_after_the_question() -> None:
    slots = Slots(1)
    story = with_slots(slots)
    assert story.quote(1, 1, lane=1) == 20
    story.join("b", 1, 1, lane=1)
    story.join("c", 1, lane=2)
    set_slots(story, slots, 0)
    assert story.quote(1, lane=2) == 30


@pytest.mark.usefixtures("played_or_told")
def test_a_grant_in_a_lane_that_was_left_out_is_not_foreseen() -> None:
    slots = Slots(1)
    story = with_slots(slots)
    set_slots(story, slots, 0)
    story.join("b", 1, 1, lane=1)
    story.join("c", 1, 1)
    assert story.quote(1, 1) == 30
    set_slots(story, slots, 1)
    assert story.run(20) == [(10, "a"), (20, "b")]
    assert story.queue.foresight is None
    assert story.quote(1, 1) == 40


@pytest.mark.usefixtures("played_or_told")
def test_a_caller_that_comes_while_its_lane_lacks_a_slot_is_not_forgotten_later() -> None:
    slots = Slots(1)
    story = with_slots(slots)
    story.join("b", 1, 1, lane=1)
    assert story.quote(1, 1) == 30
    set_slots(story, slots, 0)
    story.join("c", 1, 1, lane=1)
    set_slots(story, slots, 1)
    assert story.quote(1, 1) == 40


@pytest.mark.usefixtures("played_or_told")
def test_a_newcomer_to_any_lane_is_told_from_the_same_forecast_while_nothing_changes() -> None:
    story = three_wait()
    told = [story.quote(1, 1, lane=lane) for lane in (0, 1)]
    foresight = story.queue.foresight
    assert [story.quote(1, 1, lane=lane) for lane in (0, 1)] == told == [40, 40]
    assert story.queue.foresight is foresight is not None


@pytest.mark.usefixtures("played_or_told")
def test_a_forecast_that_nobody_asks_is_not_extended_for_ever() -> None:
    story = three_wait()
    story.quote(1, 1)
    for n in range(100):
        story.join(f"more {n}", 1, 1)
    assert story.queue.foresight is None


def test_the_limit_that_is_told_is_that_of_the_wait_from_now_on() -> None:
    # The head waits for the first rate until 30, and the next one for the second from then on.
    first, second = bucket(1, 30, 1, level=0), bucket(1, 50, 2, level=1)
    story = trusting(Story([first, second], sets=True))
    story.join("head", 1, 1)
    story.join("second", 0, 1)
    asked = story.lanes[0], story.weights(0, (0, 0))
    told = []
    for at in (0, 9, 11):
        story.run(at)
        told.append(quote(story.queue, *asked))
    assert told == [(50, 0), (50, 0), (50, 1)]


@pytest.mark.usefixtures("played_or_told")
def test_an_interruption_while_a_forecast_is_extended_leaves_the_queue_right() -> None:
    n = 0
    for n in count(1):
        story = three_wait()
        story.quote(1, 1)
        with interrupted_at(n) as seen, suppress(KeyboardInterrupt):
            story.queue.join(Actor(), story.lanes[0], (TOKEN, TOKEN))
            story.queue.advance(20)
            quote(story.queue, story.lanes[0], (TOKEN, TOKEN))
        repair(story.queue)
        story.queue.advance(story.queue.now)
        check(story.queue)
        if seen[0] < n:
            break
    assert n > 50


def test_among_many_lanes_a_wait_is_bounded_by_what_is_queued_for_the_bucket_they_share() -> None:
    # Each sleeper wakes so soon that the heavy caller would take from it what has come back since
    # the last one woke; and the newcomer goes behind the heavy caller.
    shared = bucket(1, 10, 2)
    lanes = [[shared, bucket(1, 19 + 39 * n, 1, level=0)] for n in range(10)]
    story = trusting(Story(*lanes, [shared], [shared, bucket(1, 1, 1)], sets=True))
    for n in range(10):
        story.join(f"sleeper {n}", 2, 1, lane=n)
    story.join("heavy", 2, lane=10)
    asked = story.lanes[11], (TOKEN, TOKEN)
    assert quote(story.queue, *asked)[0] == 400
    with patch("async_throttle._engine.bounds.FEW", 1):
        assert [is_within(story.queue, *asked, until) for until in (507, 508)] == [False, True]


def sleepers(*common: Rule, number: int = 100, apart: int = 100) -> Story:
    """Lanes with rates in *common* and one of their own, and an idle lane; a caller in each."""
    lanes = [[*common, bucket(1, apart * (n + 1), 1, level=0)] for n in range(number)]
    idle = [*common, bucket(1, 1_000_000, 1, level=0)]
    story = trusting(Story(*lanes, idle, common, sets=True))
    for n in range(number):
        story.join(f"sleeper {n}", *[1] * len(common), 1, lane=n)
    return story


def one_in_common() -> Story:
    return sleepers(bucket(1, 10, 3, level=0))


def two_in_common() -> Story:
    return sleepers(bucket(1, 10, 3, level=0), bucket(1, 20, 2))


def a_window_in_common() -> Story:
    return sleepers(SlidingWindow(0, 3 * TOKEN, 30))


def a_narrow_window_in_common() -> Story:
    return sleepers(FixedWindow(0, TOKEN, 10))


def of_classes() -> Story:
    story = one_in_common()
    for n in range(-50, 50):
        story.join(f"class {n}", 1, lane=101, priority=n)
    return story


def of_a_pool_beside() -> Story:
    story = one_in_common()
    story.join("pool", 1, lane=101, actor=of_a_pool())
    return story


def busy_itself() -> Story:
    story = one_in_common()
    story.join("first", 1, 1, lane=100)
    return story


BOUNDED: dict[str, tuple[Callable[[], Story], int]] = {
    "a bucket in common": (one_in_common, 100),
    "two buckets in common": (two_in_common, 200),
    "a window in common": (a_window_in_common, 200),
    "a window in common for one at a time": (a_narrow_window_in_common, 5_000),
    "classes": (of_classes, 5_000),
    "a caller of a pool": (of_a_pool_beside, 150),
    "a caller in the same lane": (busy_itself, 3_000),
}
"""How long after the instant of the own limit, at most, the bound is."""


@pytest.mark.parametrize("crowd", BOUNDED)
def test_a_wait_beside_many_lanes_is_bounded_not_long_after_its_own_limit(crowd: str) -> None:
    make, later = BOUNDED[crowd]
    story = make()
    asked = story.lanes[100], (*[TOKEN] * (len(story.rules[100]) - 1), TOKEN)
    expected, _ = quote(story.queue, *asked)
    assert expected >= 1_000_000
    assert not is_within(story.queue, *asked, expected - 1)
    assert is_within(story.queue, *asked, expected + later)


def test_a_wait_is_bounded_by_those_alone_who_wake_until_it_is_over() -> None:
    shared = bucket(1, 10, 3, level=0)
    sleeping = [[shared, bucket(1, 1000 * (n + 1), 1, level=0)] for n in range(100)]
    story = trusting(Story(*sleeping, [shared, bucket(1, 500, 1, level=0)], sets=True))
    for n in range(100):
        story.join(f"sleeper {n}", 1, 1, lane=n)
    asked = story.lanes[100], (TOKEN, TOKEN)
    assert quote(story.queue, *asked) == (500, 1)
    assert not is_within(story.queue, *asked, 499)
    assert is_within(story.queue, *asked, 550)


def test_a_wait_is_bounded_at_a_lane_that_was_never_waited_in_and_beside_few() -> None:
    story = Story([bucket(1, 10, 1, level=0)], [bucket(1, 10, 1, level=0)])
    story.join("elsewhere", 1)
    asked = story.lanes[1], (TOKEN,)
    assert [is_within(story.queue, *asked, until) for until in (19, 22)] == [False, True]


def unsteady_in_common() -> Story:
    return sleepers(Spaced(0, TOKEN, 10))


def unsteady_of_one() -> Story:
    shared = bucket(1, 10, 1, level=0)
    story = trusting(Story([shared, Spaced(0, TOKEN, 10)], [shared], sets=True))
    story.join("unsteady", 1, 1)
    return story


@pytest.mark.parametrize("make", [unsteady_in_common, unsteady_of_one])
def test_a_wait_is_not_bounded_beside_rules_that_may_say_anything(
    make: Callable[[], Story],
) -> None:
    story = make()
    lane = story.lanes[-1]
    with patch("async_throttle._engine.bounds.FEW", 0):
        assert not is_within(story.queue, lane, (TOKEN,), NEVER - 1)


@pytest.mark.parametrize(("weight", "played", "at"), [(2, False, 0), (4, True, 0), (5, True, 10)])
@pytest.mark.parametrize("few", [0, 64])
def test_nothing_is_played_where_rates_have_enough_for_all_who_wait_for_a_slot(
    weight: int, played: bool, at: int, few: int
) -> None:
    shared, slots = bucket(1, 10, 6), Slots(1)
    story = trusting(Story([shared, slots], [slots, shared], sets=True))
    set_slots(story, slots, 0)
    for n in range(4):
        story.join(f"{n}", 1, 1, lane=n % 2)
    with patch("async_throttle._engine.forecast.FEW", few), counted_forecasts() as made:
        assert quote(story.queue, story.lanes[0], (weight * TOKEN, 1))[0] == at
    assert bool(made) == played


def test_a_wait_at_a_window_is_not_bounded_where_there_are_classes() -> None:
    story = Story([used_window(), bucket(1, 10, 1)])
    story.join("urgent", 1, 1, priority=-1)
    assert not is_within(story.queue, story.lanes[0], (TOKEN, TOKEN), NEVER - 1)


# ------------------------------------------------------------------- what a question costs


def two_rates(**options: Any) -> LimitSet:
    return LimitSet(a=Throttle(1000, burst=1, **options), b=Throttle(1000, burst=1))


def one_rate() -> Throttle:
    return Throttle(1000, burst=1)


def chat(everybody: Throttle, **options: Any) -> LimitSet:
    return LimitSet(everybody, Throttle(1, period=60, **options))


Caller = Coroutine[Any, Any, None]


def begin(limiter: LimitSet | Throttle, timeout: float | None = None, **options: Any) -> Caller:
    """A caller that has come as far as it does at once: it is in the queue."""

    async def call() -> None:
        async with limiter(timeout=timeout, **options):
            pass

    caller = call()
    with suppress(StopIteration):
        caller.send(None)
    return caller


def asked_and_begun(limiter: LimitSet) -> Caller:
    limiter.delay()
    return begin(limiter)


@pytest.fixture
def callers() -> Iterator[list[Caller]]:
    """Callers that leave in the end."""
    callers: list[Caller] = []
    yield callers
    for caller in reversed(callers):
        caller.close()


QUESTIONS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "delay of a bucket": (lambda: Throttle(1000, burst=1), lambda t: t.delay()),
    "delay of a window": (lambda: Throttle(5, algorithm=SlidingWindow), lambda t: t.delay()),
    "delay of a set": (two_rates, lambda s: s.delay()),
    "delay of an idle chat": (one_rate, lambda t: chat(t).delay()),
    "a long timeout": (two_rates, lambda s: begin(s, 3600).close()),
}


@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_question_that_was_asked_before_costs_the_same_however_many_wait(
    question: str, callers: list[Caller]
) -> None:
    make, ask = QUESTIONS[question]
    limiter = make()
    costs = []
    for number in (70, 700):
        callers += [begin(limiter) for _ in range(number)]
        ask(limiter)
        costs.append(calls_of(partial(ask, limiter)))
    assert costs[1] <= costs[0] + 10


ARRIVALS: dict[str, tuple[Callable[[], Any], Callable[[Any, int], Caller]]] = {
    "with a long timeout": (two_rates, lambda s, n: begin(s, 3600)),
    "with a short timeout": (two_rates, lambda s, n: begin(s, n / 1000 + 0.01)),
    "after a question": (two_rates, lambda s, n: asked_and_begun(s)),
    "at an idle chat": (one_rate, lambda t, n: asked_and_begun(chat(t))),
    "at an idle chat, with a short timeout": (
        one_rate,
        lambda t, n: begin(chat(t), n / 1000 + 0.01),
    ),
    "at an idle chat, with a long timeout": (one_rate, lambda t, n: begin(chat(t), 3600)),
    "at a chat that waits for itself": (one_rate, lambda t, n: begin(chat(t, initial=0), 3600)),
    "at a chat that waits for itself, with a close timeout": (
        one_rate,
        lambda t, n: begin(chat(t, initial=0), 60.1 + n / 400),
    ),
    "of a class of its own": (one_rate, lambda t, n: begin(t, 3600, priority=n)),
    "at two limits in common": (
        lambda: (one_rate(), one_rate()),
        lambda t, n: begin(LimitSet(*t, Throttle(1, period=60, initial=0)), 3600),
    ),
    "where max_waiting is far": (lambda: two_rates(max_waiting=10**6), lambda s, n: begin(s)),
}


@pytest.mark.parametrize("arrival", ARRIVALS)
async def test_an_arrival_costs_the_same_however_many_wait(
    arrival: str, callers: list[Caller]
) -> None:
    make, come = ARRIVALS[arrival]
    limiter = make()
    costs = [
        calls_of(lambda: callers.append(come(limiter, n)))  # noqa: B023  # called at once
        for n in range(300)
    ]
    assert fmean(costs[200:]) <= fmean(costs[70:150]) * 1.1  # a few pay for sweeping


# ------------------------------------------------------------- callers that were cancelled


@pytest.mark.parametrize(("number", "refused"), [(60, False), (200, True)])
async def test_a_refusal_looks_at_all_who_wait_if_these_are_few(number: int, refused: bool) -> None:
    limiter = two_rates()
    tasks = [asyncio.create_task(limiter(timeout=10)._wait()) for _ in range(number)]
    await asyncio.sleep(0)
    assert float(limiter.delay()) == number / 1000
    for task in tasks[2:]:
        task.cancel()
    with pytest.raises(ThrottleTimeout) if refused else nullcontext():
        await limiter(timeout=0.005)
    await others_run()
    await limiter(timeout=0.005)
    assert now() == (0.002 if refused else 0.003)


@pytest.mark.parametrize("number", [3, 300])
async def test_a_question_leaves_a_cancelled_head_out_that_was_foreseen(number: int) -> None:
    throttle = Throttle(1, algorithm=SlidingWindow)
    await throttle.acquire()
    tasks = [asyncio.create_task(throttle.acquire()) for _ in range(number)]
    await asyncio.sleep(0)
    assert throttle.delay() == number + 1
    tasks[0].cancel()
    assert throttle.delay() == number
    for task in tasks:
        task.cancel()


async def test_an_answer_is_dropped_when_a_limit_changes_for_which_nobody_waits() -> None:
    fast, slow = Throttle(1, algorithm=SlidingWindow), Throttle(1)
    both = LimitSet(fast=fast, slow=slow)
    slow.charge(0.5)
    waiting = asyncio.create_task(slow.acquire(1, priority=1))
    async with fast(1) as lease:
        await asyncio.sleep(0)
        assert [both.delay(), slow.delay()] == [1, 0.5]  # the second question takes the first over
        lease.settle(0)
        assert both.delay() == 0.5
    waiting.cancel()


async def test_a_wait_at_a_window_is_not_bounded_by_a_weight_that_no_longer_fits() -> None:
    everybody = Throttle(2, period=10, algorithm=FixedWindow, max_waiting=9)
    await everybody.acquire(2)
    one, other = (LimitSet(everybody, own=Throttle(100)) for _ in range(2))
    heavy = await queued(everybody.acquire(2))
    tasks = [await queued(each.lease()) for each in (one, other, other)]
    everybody.capacity = 1
    with pytest.raises(WeightTooLarge):
        await heavy
    assert float(other.delay()) == 40
    with pytest.raises(ThrottleTimeout):
        await other(timeout=25)
    assert now() == 0
    await asyncio.gather(*tasks)


# ---------------------------------------------------------------------- callers are counted


async def test_a_caller_of_a_pool_counts_once_at_a_limit_that_its_sets_share() -> None:
    shared = Throttle(1, burst=1, initial=0, max_waiting=2)
    pool = LimitPool([LimitSet(shared, Throttle(1)), LimitSet(shared, Throttle(1))])
    tasks = [await queued(pool()._wait()) for _ in range(2)]
    assert shared.waiting == 2
    check_all(shared)
    with pytest.raises(ThrottleFull):
        await pool()
    tasks[0].cancel()
    await pool()
    assert (now(), shared.waiting) == (2, 0)
    check_all(shared)


async def test_counts_of_throttles_that_are_gone_are_dropped() -> None:
    everybody = Throttle(1, burst=1, initial=0, max_waiting=1000)
    for _ in range(100):
        task = await queued(LimitSet(everybody, Throttle(1, max_waiting=1))()._wait())
        task.cancel()
        await others_run()
    assert len(find(core_of(everybody)).queue.counts) <= 64
