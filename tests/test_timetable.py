"""Instants that are told from a timetable, against a future that is played.

A bucket that lanes have in common, and rates of their own: what the timetable tells, a copy of the
queue tells as well, which is played for each question; and so it comes to pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from support import examples
from test_backfilling import Arrival, Limits, Rate
from test_forecast import CHANGES, Life, Step, futures_are_played, of_a_pool, step, trusting
from test_queue import Story, bucket
from test_rules import Spaced

from async_throttle import FixedWindow, LeakyBucket, Rule, SlidingWindow, TokenBucket
from async_throttle._engine.check import check
from async_throttle._engine.forecast import quote
from async_throttle._engine.profile import Profile
from async_throttle._engine.timetable import Timetable
from async_throttle._units import TOKEN
from async_throttle.rules.bucket import GCRA
from async_throttle.rules.slots import Slots

# ----------------------------------------------------------------------------- what a bucket gives

Waits = list[tuple[int, int]]
"""Since when each waiter is awake, in order of arrival, and how many tokens it wants."""

Case = tuple[int, Waits, list[int | None]]
"""How many tokens are there, who waits, and when they go."""

WHOLE: dict[str, Case] = {
    "an empty bucket": (0, [(0, 1), (0, 2), (25, 1)], [10, 30, 40]),
    "a full bucket": (3, [(0, 2), (0, 1), (5, 1)], [0, 0, 10]),
    "before another, who finds enough": (3, [(20, 1), (5, 2)], [20, 5]),
    "before another, who would not": (2, [(18, 3), (5, 1)], [18, 28]),
    "before another, who finds the bucket full again": (2, [(20, 3), (5, 1)], [20, 5]),
    "not while another is awake": (0, [(5, 3), (6, 1), (20, 1)], [30, 40, 50]),
    "not before one who is awake for a while": (2, [(18, 2), (19, 2), (5, 1)], [18, 28, 38]),
    "between two who are awake": (0, [(5, 1), (90, 3), (91, 1), (11, 1)], [10, 90, 100, 20]),
    "behind the last whom it would delay": (
        3,
        [(10, 2), (20, 2), (60, 1), (5, 1)],
        [10, 20, 60, 30],
    ),
    "each leaves less for the next": (
        3,
        [(10, 1), (15, 1), (5, 1), (7, 1), (6, 1)],
        [10, 15, 5, 7, 25],
    ),
    "the bucket is never full between them": (
        3,
        [(10, 1), (18, 1), (26, 1), (34, 1), (42, 1), (5, 1), (6, 1)],
        [10, 18, 26, 34, 42, 5, 45],
    ),
    "the bucket was full for a nanosecond": (
        2,
        [(11, 1), (20, 2), (5, 1), (21, 1)],
        [11, 20, 5, 30],
    ),
    "it was full for a nanosecond, and is asked soon": (2, [(11, 3), (12, 1)], [11, 21]),
    "it is full again as another wakes up who has to wait": (
        2,
        [(20, 3), (20, 1), (5, 1)],
        [20, 30, 5],
    ),
    "it is full before another wakes up who has to wait": (
        2,
        [(25, 3), (25, 1), (5, 1)],
        [25, 35, 5],
    ),
    "two who go while the bucket is not full, and one for whom it will be": (
        3,
        [(10, 1), (90, 3), (5, 2), (7, 2), (80, 1)],
        [10, 90, 5, 25, 80],
    ),
}
"""What becomes of the waiters at a bucket of three tokens, of which one comes back every 10 ns."""

THIRDS: dict[str, Case] = {
    "a fraction is kept": (0, [(2, 1), (2, 1), (2, 1), (2, 1)], [4, 7, 10, 14]),
    "no fraction is kept of a nanosecond for which it was full": (3, [(1, 3), (0, 2)], [1, 8]),
    "it was not full for a whole nanosecond": (2, [(4, 1), (7, 3)], [4, 7]),
    "a fraction would be left": (3, [(29, 1), (23, 2)], [29, None]),
    "a fraction would be left as another wakes up": (
        1,
        [(19, 3), (17, 2), (1, 3)],
        [19, 26, None],
    ),
    "weights that are back within the nanosecond": (0, [(5, 0)], [None]),
}
"""The same, where three tokens come back every 10 ns. The instant may be unknown."""

PROFILES = {
    **{what: (1, *case) for what, case in WHOLE.items()},
    **{what: (3, *case) for what, case in THIRDS.items()},
}
"""The same; the first number is how many come back every 10 ns."""


@pytest.mark.parametrize("what", PROFILES)
def test_who_is_awake_goes_when_that_delays_nobody_who_came_before(what: str) -> None:
    at_once, level, waiters, expected = PROFILES[what]
    told, instants = Profile(bucket(at_once, 10, 3, level=level), 0), []
    for since, weight in waiters:
        at = told.earliest(since, weight * TOKEN)
        instants.append(at)
        if at is not None:
            told.take(since, at, weight * TOKEN)
    assert instants == expected


@pytest.mark.parametrize("what", PROFILES)
def test_so_it_comes_to_pass(what: str) -> None:
    at_once, level, waiters, expected = PROFILES[what]
    waiters = [each for each, at in zip(waiters, expected, strict=True) if at is not None]
    shared = bucket(at_once, 10, 3, level=level)
    own = [bucket(1, max(1, since), 1, level=int(since == 0)) for since, _ in waiters]
    story = Story(*([shared, rate] for rate in own), sets=True)
    for lane, (_, weight) in enumerate(waiters):
        story.join(f"{lane}", weight, 1, lane=lane)
    granted = {name: at for at, name in story.run(1000)}
    assert [granted[f"{n}"] for n in range(len(waiters))] == [
        at for at in expected if at is not None
    ]


# ------------------------------------------------------------------------------ what is told


@dataclass(frozen=True)
class Fine(Rate):
    """A rate of which *at_once* tokens come back every *every* ns: one takes no whole number."""

    at_once: int = 1

    def rule(self) -> Rule:
        if self.at_once == 1:
            return super().rule()
        rule: Rule = self.kind(0, self.at_once * TOKEN, self.every, self.burst * TOKEN)
        rule.take(0, min(self.used, self.burst) * TOKEN)
        return rule


@st.composite
def bots(draw: st.DrawFn, at_once: int = 1) -> Limits:
    """Lanes that share a bucket, each with a rate or two of its own, and a lane without."""

    def rates(*kinds: type[Rule], burst: int, every: st.SearchStrategy[int]) -> Any:
        used = st.sampled_from([0, burst, burst, burst])
        kind, number = st.sampled_from(kinds), st.integers(1, at_once)
        return st.builds(Fine, kind, every, st.just(burst), used, number)

    buckets = TokenBucket, LeakyBucket, GCRA
    shared = rates(*buckets, burst=draw(st.integers(1, 4)), every=st.integers(3, 20))
    windows = draw(st.sampled_from([(), (), (SlidingWindow, FixedWindow)]))
    found: list[Rate] = [draw(shared)]
    lanes: list[tuple[int, ...]] = [(0,)]
    for _ in range(draw(st.integers(2, 6))):
        own = []
        for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
            burst = draw(st.sampled_from([1, 1, 2, 4]))
            kinds = windows if windows and at_once == 1 else buckets
            own.append(len(found))
            found.append(draw(rates(*kinds, burst=burst, every=st.integers(1, 100))))
        lanes.append((0, *own))
    if draw(st.booleans()):
        lanes[1] = (*lanes[1], len(found))  # and slots
    return Limits(tuple(found), tuple(lanes), (2,), draw(st.booleans()))


ARRIVALS = st.builds(
    Arrival,
    st.just(0),
    st.integers(0, 6),
    st.tuples(*[st.sampled_from([1, 1, 1, 2, 3])] * 4),
)
COMING = step(Life.ask_and_come, ARRIVALS) | step(Life.rush, ARRIVALS, st.integers(2, 4))
PASSING = step(Life.wait, st.integers(0, 30))


@given(
    limits=bots() | bots(3),
    steps=st.lists(
        st.one_of(*[COMING] * 8, *[PASSING] * 4, step(Life.take, ARRIVALS), CHANGES),
        min_size=8,
        max_size=40,
    ),
)
@examples(600)
def test_what_is_told_is_what_a_future_tells_that_is_played(
    limits: Limits, steps: list[Step]
) -> None:
    life = Life(limits)
    for lane in range(len(limits.lanes)):
        life.come(Arrival(0, lane, (1,) * 4))
    for each in steps:
        each.what(life, *each.args)
    event(f"answers of kept timetables: {min(life.told, 10)}")


@given(
    limits=bots(),
    arrivals=st.lists(st.tuples(ARRIVALS, st.just(0) | st.integers(0, 30)), min_size=8),
)
@examples(200)
def test_who_is_told_an_instant_goes_at_that_instant(
    limits: Limits, arrivals: list[tuple[Arrival, int]]
) -> None:
    life = Life(replace(limits, slots=(100,)))
    promised = []
    for arrival, gap in arrivals:
        lane, weights = life.asked(arrival)
        promised.append(quote(life.queue, lane, weights)[0])
        life.come(arrival)
        life.wait(gap)
    life.wait(10_000)
    assert [actor.granted_at for actor in life.story.actors.values()] == promised


# ------------------------------------------------------------------------------- what is kept

FIRST, SECOND, IDLE, ALONE, SLOTTED = range(5)
"""Lanes that share a bucket. The first three have a rate of their own; the last lacks a slot."""


def two_wait() -> Story:
    """A caller goes at 100, and another one, who wants three tokens, at 200 ns."""
    shared = bucket(1, 10, 3, level=0)
    first, second = bucket(1, 100, 1, level=0), bucket(1, 200, 1, level=0)
    slots, idle = Slots(1), bucket(1, 50, 1)
    slots.free = 0
    own: list[list[Rule]] = [[first], [second], [idle], [], [slots]]
    story = trusting(Story(*([shared, *rules] for rules in own), sets=True))
    story.join("first", 1, 1, lane=FIRST)
    story.join("second", 3, 1, lane=SECOND)
    return story


Happening = Callable[[Story], object]


def charged(lane: int, place: int) -> Happening:
    """A charge on a rate."""

    def happening(story: Story) -> None:
        rule: Any = story.rules[lane][place]
        story.queue.touched(rule)
        rule.charge(story.now, TOKEN)
        story.decide()

    return happening


def after(until: int, what: Happening) -> Happening:
    """It happens when time has passed."""

    def happening(story: Story) -> None:
        story.run(until)
        what(story)

    return happening


def joins(*weights: int, **how: Any) -> Happening:
    return lambda story: story.join("new", *weights, **how)


def asks(*weights: int, **how: Any) -> Happening:
    return lambda story: story.ask(*weights, **how)


KEPT: dict[str, Happening] = {
    "nothing": lambda story: None,
    "time": lambda story: story.run(50),
    "an arrival": joins(1, lane=ALONE),
    "an arrival in an idle lane": joins(1, 1, lane=IDLE),
    "an arrival that goes before others": joins(3, lane=ALONE),
    "an arrival behind another": joins(1, 1, lane=FIRST),
    "a grant": after(100, lambda story: None),
    "an arrival in a lane that is idle again": after(100, joins(1, 1, lane=FIRST)),
    "a newcomer that goes at once": after(30, asks(1, lane=ALONE)),
    "a newcomer that goes at once, to an idle lane": after(30, asks(1, 1, lane=IDLE)),
    "a newcomer that may not go": after(30, asks(1, 1, lane=FIRST)),
    "a charge on a rate for which nobody waits": charged(IDLE, 1),
    "an arrival that lacks a slot": joins(1, 1, lane=SLOTTED),
    "an arrival behind one that lacks a slot": lambda story: (
        story.join("lacks a slot", 1, 1, lane=SLOTTED),
        story.join("behind", 1, 1, lane=SLOTTED),
    ),
    "a slot that comes back": lambda story: story.queue.touched(Slots(1)),
}
DROPPED: dict[str, Happening] = {
    "a charge on the bucket": charged(FIRST, 0),
    "a charge on a rate of a lane": charged(SECOND, 1),
    "a departure": lambda story: story.leave("second"),
    "a pause": lambda story: story.pause(150, story.own[FIRST]),
    "a grant that is late": lambda story: story.jump(103),
    "an arrival of another class": joins(1, lane=ALONE, priority=1),
    "a newcomer of a better class that goes at once": after(30, asks(3, lane=ALONE, priority=-1)),
    "a caller of a pool": joins(1, lane=ALONE, actor=of_a_pool()),
    "the last grant": after(200, lambda story: None),
}


def told_as_played(story: Story) -> None:
    """Newcomers are told what a future tells that is played."""
    for n, rules in enumerate(story.rules):
        asked = story.lanes[n], story.weights(n, [1] * len(rules))
        told = quote(story.queue, *asked)[0]
        with futures_are_played():
            story.queue.forget()
            assert quote(story.queue, *asked)[0] == told


@pytest.mark.parametrize("what", [*KEPT, *DROPPED])
def test_a_timetable_is_kept_as_long_as_that_happens_which_it_tells(what: str) -> None:
    story = two_wait()
    assert story.quote(1, 1, lane=FIRST) == 210
    timetable = story.queue.foresight
    assert isinstance(timetable, Timetable)
    {**KEPT, **DROPPED}[what](story)
    story.quote(1, lane=ALONE)
    assert (story.queue.foresight is timetable) == (what in KEPT)
    told_as_played(story)


def rates(*others: Rule, level: int = 0) -> list[list[Rule]]:
    """The rates of two lanes that share a bucket, and *others*."""
    shared = bucket(1, 10, 3, level=0)
    return [
        [shared, bucket(1, 100, 1, level=level), *others],
        [shared, bucket(1, 200, 1, level=0), *others],
    ]


def waiting(lanes: Sequence[Sequence[Rule]], *weights: int | None) -> Story:
    """Two wait in the first lane, one in the second, who want *weights*, or a token of each."""
    story = trusting(Story(*lanes, sets=True))
    asked = weights or [1] * len(lanes[0])
    for n, lane in enumerate((0, 0, 1)):
        story.join(f"{n}", *asked, lane=lane)
    return story


def of_a_window() -> Story:
    window = SlidingWindow(0, TOKEN, 10)
    window.take(0, TOKEN)
    return waiting([[window, bucket(1, 100, 1, level=0)], [window, bucket(1, 200, 1, level=0)]])


def that_starts(start: Callable[[Story], object]) -> Story:
    story = trusting(Story(*rates(), sets=True))
    start(story)
    story.join("first", 1, 1)
    story.join("second", 1, 1)
    story.join("third", 1, 1, lane=1)
    return story


def own_window(number: int, kind: type[SlidingWindow | FixedWindow] = SlidingWindow) -> Story:
    """So many wait for a window that gives two tokens at once."""
    shared, window = bucket(1, 10, 3, level=0), kind(0, 2 * TOKEN, 100)
    window.take(0, 2 * TOKEN)
    story = trusting(Story([shared, window], [shared, bucket(1, 200, 1, level=0)], sets=True))
    for n in range(number):
        story.join(f"{n}", 1, 1)
    story.join("other", 1, 1, lane=1)
    return story


def fine_weights() -> Story:
    """A token comes back within the nanosecond."""
    shared = TokenBucket(0, 2 * TOKEN, 1, 100 * TOKEN)
    shared.take(0, 200 * TOKEN)
    own = bucket(1, 100, 1, level=0), bucket(1, 200, 1, level=0)
    return waiting([[shared, rate] for rate in own])


NONE: dict[str, Callable[[], Story]] = {
    "a window in common": of_a_window,
    "two buckets in common": lambda: waiting(rates(bucket(1, 20, 3, level=0))),
    "a rule of a user": lambda: waiting([[*lane, Spaced(0, TOKEN, 10)] for lane in rates()]),
    "a class": lambda: that_starts(lambda story: story.join("urgent", 1, 1, priority=-1)),
    "a caller of a pool": lambda: that_starts(
        lambda story: story.join("pool", 1, 1, actor=of_a_pool())
    ),
    "a pause that empties": lambda: that_starts(lambda story: story.pause(50, empties=True)),
    "a weight of nothing": lambda: waiting(rates(), 0, 1),
    "a weight that is there within a nanosecond": fine_weights,
    "a waiter behind one who finds its own bucket full": lambda: that_starts(
        lambda story: story.pause(150, story.own[0])
    ),
    "waiters at a window that does not give that much at once": lambda: own_window(3),
    "nothing in common": lambda: waiting([rates()[0], rates()[1]]),
}


@pytest.mark.parametrize("what", NONE)
def test_there_is_no_timetable_where_instants_may_differ_from_what_is_claimed(what: str) -> None:
    story = NONE[what]()
    assert Timetable.of(story.queue, story.lanes[0]) is None
    told_as_played(story)


SOME: dict[str, Callable[[], Story]] = {
    "a waiter behind another": lambda: waiting(rates()),
    "callers who do without the bucket": lambda: waiting(rates(), None, 1),
    "callers who do without their own": lambda: waiting(rates(), 1, None),
    "waiters at a window": lambda: own_window(2),
    "waiters at a fixed window": lambda: own_window(2, FixedWindow),
    "a lane that is paused": lambda: that_starts(lambda story: story.pause(90, story.own[0])),
    "one behind who finds enough": lambda: waiting(
        [[rule, bucket(1, 100 * (n + 1), 2)] for n, (rule, _) in enumerate(rates())]
    ),
}


@pytest.mark.parametrize("what", SOME)
def test_there_is_a_timetable(what: str) -> None:
    story = SOME[what]()
    assert Timetable.of(story.queue, story.lanes[0]) is not None
    told_as_played(story)


def test_an_owner_that_does_not_tell_what_it_changes_gets_no_timetable() -> None:
    story = two_wait()
    story.queue.trusting = False
    assert Timetable.of(story.queue, story.lanes[ALONE]) is None


TOLD: list[tuple[int, tuple[int, ...], tuple[int, int]]] = [
    (FIRST, (1, 1), (210, 1)),
    (SECOND, (1, 1), (400, 1)),
    (IDLE, (1, 1), (10, 0)),
    (IDLE, (3, 1), (30, 0)),
    (ALONE, (1,), (10, 0)),
]


@pytest.mark.parametrize(("lane", "weights", "told"), TOLD)
def test_a_newcomer_is_told_the_limit_for_which_it_waits_longest(
    lane: int, weights: tuple[int, ...], told: tuple[int, int]
) -> None:
    story = two_wait()
    asked = story.lanes[lane], story.weights(lane, weights)
    assert quote(story.queue, *asked) == told
    assert isinstance(story.queue.foresight, Timetable)


def test_a_newcomer_waits_with_those_before_it_and_then_for_its_own_limit() -> None:
    story = two_wait()
    story.join("heavy", 3, lane=ALONE)
    story.join("third", 1, 1, lane=IDLE)
    # The third waits for the bucket until 40, and then the newcomer for the rate of its lane.
    assert quote(story.queue, story.lanes[IDLE], (TOKEN, TOKEN)) == (90, 1)
    assert quote(story.queue, story.lanes[ALONE], (3 * TOKEN,)) == (70, 0)


def test_the_wait_behind_others_counts_for_the_limit_that_they_wait_for() -> None:
    story = two_wait()
    for n in range(2):
        story.join(f"heavy {n}", 3, lane=ALONE)
    story.join("third", 1, 1, lane=IDLE)
    # The third waits for the bucket until 70, and then the newcomer for the rate of its lane.
    assert quote(story.queue, story.lanes[IDLE], (TOKEN, TOKEN)) == (120, 0)


def test_a_newcomer_behind_one_that_lacks_a_slot_is_told_from_a_copy() -> None:
    story = two_wait()
    assert story.quote(1, lane=ALONE) == 10
    story.join("lacks a slot", 1, 1, lane=SLOTTED)
    assert Timetable.of(story.queue, story.lanes[SLOTTED]) is None
    assert story.quote(1, lane=ALONE) == 10
    assert story.quote(1, 1, lane=SLOTTED) == 20


def test_what_has_come_to_pass_is_forgotten() -> None:
    story = two_wait()
    story.quote(1, 1, lane=IDLE)
    timetable = story.queue.foresight
    assert isinstance(timetable, Timetable)
    for n in range(200):
        story.join(f"{n}", 1, 1, lane=SECOND)
        for _ in range(2):
            story.ask(1, lane=ALONE)
        story.run(story.now + 50)
        story.quote(1, 1, lane=IDLE)
    assert story.queue.foresight is timetable
    profile = timetable.profile
    assert len(profile.instants) <= len(timetable.instants) + 65
    assert len(profile.begins) <= len(timetable.instants)


SPOILT: dict[str, Callable[[Timetable], object]] = {
    "timetable is": lambda timetable: timetable.instants.update({-1: 100}),
    "timetable: rows is": lambda timetable: timetable.rows.popitem(),
    "timetable: owners is": lambda timetable: timetable.owners.popitem(),
    "timetable: who has gone is": lambda timetable: timetable.instants.update(
        dict.fromkeys(timetable.instants, 0)
    ),
}


@pytest.mark.parametrize("difference", SPOILT)
def test_a_timetable_that_is_wrong_is_found_out(difference: str) -> None:
    story = two_wait()
    story.quote(1, 1)
    timetable = story.queue.foresight
    assert isinstance(timetable, Timetable)
    SPOILT[difference](timetable)
    with pytest.raises(AssertionError, match=difference):
        check(story.queue)
