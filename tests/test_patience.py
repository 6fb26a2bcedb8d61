"""Priorities and patience: better classes go first, and nobody waits for ever.

A lane is aged when better classes went before its head `MAX_OVERTAKEN` times in a row on a rule
that they share. The aged lane that was overtaken most often has a turn out of rank, and between
two such turns on one rule lie at least as many grants in rank. Told with the pure queue; that all
limiters have it is seen at the end.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limiters import KINDS, Kind
from support import examples, others_run
from test_queue import Story, bucket

from async_throttle import LimitSet, SlidingWindow, Throttle, threads
from async_throttle._engine.lane import Lane
from async_throttle._engine.overtaking import Head, Overtaking
from async_throttle._engine.patience import MAX_OVERTAKEN

# ---------------------------------------------------------------------------- those who are there


def classes(story: Story) -> list[int]:
    """The classes of those who went, in this order: a name begins with its class."""
    return [int(name.split("/")[0]) for _, name in story.grants]


def turns(gone: Sequence[int]) -> list[tuple[int, int]]:
    """Which grants went to others than the best class, and to whom."""
    return [(n, each) for n, each in enumerate(gone) if each]


def order_of(ranks: Sequence[int]) -> list[int]:
    """The order in which callers of these classes go; they come in the given one."""
    story = Story([bucket(1, 10, 1, level=0)])
    for n, priority in enumerate(ranks):
        story.join(f"{priority}/{n}", 1, priority=priority)
    story.run(10 * len(ranks))
    arrivals = [int(name.split("/")[1]) for _, name in story.grants]
    by_class = {each: [n for n in arrivals if ranks[n] == each] for each in ranks}
    assert all(group == sorted(group) for group in by_class.values())
    return classes(story)


@given(ranks=st.lists(st.integers(-2, 2), max_size=MAX_OVERTAKEN))
@examples(50)
def test_better_priorities_go_first_and_those_of_one_in_order_of_arrival(ranks: list[int]) -> None:
    assert order_of(ranks) == sorted(ranks)


@pytest.mark.parametrize("step", [1, -1])
def test_priorities_that_are_all_different_go_in_rank(step: int) -> None:
    # All that wait were overtaken equally often, so the better class has the turn anyway.
    assert order_of(range(1, 71)[::step]) == list(range(1, 71))


@pytest.mark.parametrize("seed", range(3))
def test_of_33_calls_that_come_in_any_order_one_goes_out_of_rank_at_most(seed: int) -> None:
    ranks = list(range(1, 71))
    random.Random(seed).shuffle(ranks)
    order = order_of(ranks)
    early = [n for n, gone in enumerate(order) if gone != min(order[n:])]
    assert all(later - earlier > MAX_OVERTAKEN for earlier, later in pairwise([-1, *early]))


def test_a_class_of_which_nobody_waits_any_more_leaves_the_others_in_rank() -> None:
    ranks = [*[3, 2, 1] * 3, *[0] * 20]
    assert order_of(ranks) == sorted(ranks)


@pytest.mark.parametrize("first", [1, 2])
def test_of_two_that_were_overtaken_as_often_the_better_class_has_the_turn(first: int) -> None:
    assert order_of([first, 3 - first, *[0] * 40])[32:34] == [1, 0]


def test_only_a_later_arrival_overtakes() -> None:
    assert order_of([*[0] * 50, 1, *[0] * 50]).index(1) == 50 + MAX_OVERTAKEN


@pytest.mark.parametrize("first", [1, 2])
def test_of_two_of_one_class_the_earlier_has_the_turn(first: int) -> None:
    common = bucket(1, 10, 1, level=0)
    story = Story([common], [common, bucket(1, 1, 9)], [common, bucket(1, 1, 9)])
    story.join("1/first", 1, 1, lane=first, priority=1)
    story.join("2/second", 1, 1, lane=3 - first, priority=1)
    story.join("3/behind the first", 1, 1, lane=first, priority=1)
    for n in range(70):
        story.join(f"0/{n}", 1)
    story.run(1000)
    assert turns(classes(story)) == [(32, 1), (65, 2), (72, 3)]


def test_grants_on_a_rule_that_is_not_shared_overtake_nobody() -> None:
    common, own = bucket(1, 10, 1, level=0), bucket(1, 10, 200)
    story = Story([common], [common, own], [own])
    story.join("1/patient", 1, priority=1)
    for n in range(40):
        story.join(f"0/{n}", 1, 1, lane=1)
        assert story.ask(3, lane=2)
    story.run(1000)
    assert turns(classes(story)) == [(32, 1)]


@pytest.mark.parametrize(("priority", "weights"), [(1, (1, 1)), (0, (None, 1))])
def test_neither_those_of_ones_own_class_overtake_nor_those_on_a_rule_that_one_does_without(
    priority: int, weights: tuple[int | None, int]
) -> None:
    common = bucket(1, 10, 1, level=0)
    story = Story([common], [common, bucket(1, 400, 1, level=0)], sets=True)
    story.join("patient", *weights, lane=1, priority=1)
    story.join("behind", 1, 1, lane=1, priority=1)
    for n in range(39):
        story.join(f"{n}", 1, priority=priority)
    story.run(390)
    story.join("urgent", 1, 1, lane=1)
    assert story.run(1200)[39:] == [(400, "urgent"), (800, "patient"), (1200, "behind")]


def test_a_turn_is_one_on_every_rule_for_which_a_better_class_waits() -> None:
    one, other = bucket(1, 10, 1, level=0), bucket(1, 340, 5, level=0)
    story = Story([one], [other], [one, other])
    story.join("patient", 1, 1, lane=2, priority=1)
    for n in range(MAX_OVERTAKEN):
        story.join(f"{n}", 1)
    story.run(10 * MAX_OVERTAKEN)
    story.join("heavy", 5, lane=1)
    assert story.run(5000)[MAX_OVERTAKEN:] == [(340, "patient"), (340 * 6, "heavy")]


@pytest.mark.parametrize(
    ("until", "level", "weight", "turn"), [(1000, 1, 1, 99), (0, 0, 1, 99), (0, -2, None, 32)]
)
def test_a_lane_has_no_turn_while_a_pause_or_a_rule_of_its_own_holds_it(
    until: int, level: int, weight: int | None, turn: int
) -> None:
    common, own = bucket(1, 10, 5, level=0), bucket(1, 1000, 1, level=level)
    story = Story([common], [common, own], sets=True)
    story.join("1/", 5, weight, lane=1, priority=1)
    story.join("2/behind", 1, None if weight else 1, lane=1, priority=1)
    story.pause(until, story.own[1])
    for n in range(110):
        story.join(f"0/{n}", 1)
    story.run(2000)
    assert turns(classes(story))[0] == (turn, 1)


def overtaken(steps: Sequence[tuple[str, int, int]], enough: int) -> None:
    """Heads come and go, and grants overtake them: for each head that is counted here as well."""
    overtaking, times = Overtaking(), dict[Head, int]()
    for number, (what, priority, place) in enumerate(steps):
        order = 1000 * place + number
        if what == "come":
            head = Head(Lane((), (), priority), order, place % enough)
            times[head] = place % enough
            overtaking.stand(head)
        elif what == "grant":
            late = [h for h in times if h.lane.priority > priority and h.order < order]
            times.update({head: times[head] + 1 for head in late})
            aged = overtaking.overtake(priority, order, enough)
            assert set(aged) == {head.lane for head in late if times[head] == enough}
        elif times:
            head = list(times)[place % len(times)]
            overtaking.go(head)
            assert head.overtaken() == times.pop(head)
        assert [head.overtaken() for head in times] == list(times.values())
        turns = [turn for run in overtaking.runs for turn in run.turns(enough)]
        assert len(turns) == sum(each >= enough for each in times.values())
        assert [head for run in overtaking.runs for head in run.heads] == sorted(
            times, key=lambda head: head.order
        )
        if times:
            assert overtaking.best == min(head.lane.priority for head in times)


def test_overtakings_of_many_heads_at_once_count_for_each_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("async_throttle._engine.overtaking._MOST", 3)
    what = st.sampled_from(["come", "come", "grant", "grant", "leave"])
    steps = st.lists(st.tuples(what, st.integers(0, 3), st.integers(0, 40)), max_size=60)
    given(steps=steps, enough=st.integers(1, 4))(examples(500)(overtaken))()


# -------------------------------------------------------------------------- those who keep coming


class Stream:
    """Lanes in which callers of several classes always wait."""

    def __init__(self, story: Story, *classes: int, lanes: Sequence[int] = (0,)) -> None:
        self.story, self.classes, self.lanes = story, classes, lanes
        self.count = 0

    def refill(self) -> None:
        for lane in self.lanes:
            for priority in self.classes:
                while len(self.story.lane(lane, priority)) < 2:
                    self.count += 1
                    self.story.join(f"{priority}/{self.count}", 1, lane=lane, priority=priority)

    def run(self, grants: int) -> list[int]:
        """The classes of the next so many."""
        before = len(self.story.grants)
        for _ in range(grants):
            self.refill()
            self.story.run(self.story.now + 10)
        return classes(self.story)[before:]


def stream(*classes: int) -> Stream:
    return Stream(Story([bucket(1, 10, 1, level=0)]), *classes)


def test_of_33_grants_the_best_class_has_32_and_the_others_take_turns_at_the_last() -> None:
    assert MAX_OVERTAKEN == 32
    assert stream(1, 0).run(66) == ([0] * 32 + [1]) * 2
    assert stream(2, 1, 0).run(132) == ([0] * 32 + [1] + [0] * 32 + [2]) * 2


@pytest.mark.parametrize("ranks", [(1, 0), (3, 2, 1, 0), (5, 4, 3, 2, 1, 0)])
def test_no_class_is_overtaken_more_often_than_33_times_the_number_of_classes(
    ranks: tuple[int, ...],
) -> None:
    gone = stream(*ranks).run(33 * len(ranks) * 2)
    for priority in ranks:
        mine = [n for n, each in enumerate(gone) if each == priority]
        assert max(b - a - 1 for a, b in pairwise([-1, *mine])) <= 33 * len(ranks)
    assert gone.count(0) >= len(gone) * 32 // 33


def test_a_head_that_left_hands_on_no_turn() -> None:
    urgent = stream(0)
    urgent.refill()
    urgent.story.join("1/early", 1, priority=1)
    assert urgent.run(20) == [0] * 20
    urgent.story.leave("1/early")
    urgent.refill()
    urgent.story.join("1/late", 1, priority=1)
    # Two of the first class have been there before: they overtake nobody.
    assert urgent.run(36) == [0] * 34 + [1, 0]


def test_a_lane_that_was_overtaken_more_often_goes_before_a_better_class() -> None:
    urgent = stream(0)
    urgent.story.join("2/", 1, priority=2)
    urgent.run(10)
    urgent.story.join("1/", 1, priority=1)
    urgent.run(70)
    # By the 44th grant both were overtaken 32 times. The second turn is 32 grants in rank later.
    assert turns(classes(urgent.story)) == [(32, 2), (65, 1)]


def test_what_overtakes_is_counted_for_each_rule_and_the_largest_number_counts() -> None:
    one, other = bucket(1, 10, 1, level=0), bucket(1, 10, 1, level=0)
    story = Story([one], [other], [one, other])
    story.join("1/", 1, 1, lane=2, priority=1)
    Stream(story, 0, lanes=(0, 1)).run(40)
    # 32 grants of each, which are 64; the sum of both would have been reached after half.
    assert turns(classes(story)) == [(64, 1)]


def test_a_turn_of_one_rule_puts_off_none_of_another() -> None:
    one, other = bucket(1, 10, 1, level=0), bucket(1, 10, 1, level=0)
    story = Story([one], [other], [one, other])
    Stream(story, 1, 0, lanes=(0, 1)).run(66)
    assert turns(classes(story)) == [(64, 1), (65, 1), (130, 1), (131, 1)]


@pytest.mark.parametrize("usual", [0, 1])
def test_a_newcomer_that_goes_at_once_overtakes_the_heads_of_worse_classes_too(
    usual: int,
) -> None:
    story = Story([bucket(1, 10, 5, level=0)])
    story.join("low", 5, priority=usual)
    for now in range(10, 10 * (MAX_OVERTAKEN + 1), 10):
        story.run(now)
        assert story.ask(1, priority=usual - 1)
    assert not story.ask(1, priority=usual - 1)
    story.run(10 * (MAX_OVERTAKEN + 1))
    assert not story.ask(1, priority=usual - 1)
    assert story.run(1000) == [(10 * (MAX_OVERTAKEN + 5), "low")]


def test_a_grant_ends_the_row_also_while_no_other_class_waits() -> None:
    story = Story([bucket(1, 10, 2, level=0)])
    story.joins(first=2, second=2)

    def overtake(times: int) -> None:
        for _ in range(times):
            story.run(story.now + 10)
            assert story.ask(1, priority=-1)

    overtake(MAX_OVERTAKEN - 1)
    assert [name for _, name in story.run(story.now + 20)] == ["first"]
    overtake(MAX_OVERTAKEN)


def test_better_callers_that_come_one_at_a_time_overtake_too() -> None:
    # Each is the last of its class in the queue when it goes.
    story = Story([bucket(1, 10, 2, level=0)])
    story.join("usual", 2)
    for n in range(MAX_OVERTAKEN + 1):
        story.join(f"urgent {n}", 1, priority=-1)
        story.run(story.now + 10)
    assert story.run(1000)[MAX_OVERTAKEN][1] == "usual"


def test_a_worse_class_that_has_its_turn_goes_at_its_instant_and_not_before() -> None:
    # It is not let go before the heavy one of the first class because it lacks what that lacks.
    story = Story([bucket(1, 10, 5, level=0)])
    story.join("low", 2, priority=1)
    for n in range(MAX_OVERTAKEN):
        story.join(f"high {n}", 1)
    story.run(10 * MAX_OVERTAKEN)
    story.join("heavy", 5)
    assert story.quote(2, priority=1) == 10 * (MAX_OVERTAKEN + 9)
    assert story.run(1000)[MAX_OVERTAKEN:] == [
        (10 * (MAX_OVERTAKEN + 2), "low"),
        (10 * (MAX_OVERTAKEN + 7), "heavy"),
    ]


# -------------------------------------------------------------------------------- of every limiter

Ask = Callable[[int], Any]
"""A call of a priority: a coroutine function of one argument."""


def by_kind(kind: Kind, **options: Any) -> Ask:
    """One limiter for all, which grants a call every millisecond."""
    limiter = kind.make(1, period=0.001, **options)
    return lambda priority: limiter.lease(priority=priority)


def a_set_for_each(kind: Any) -> Ask:
    """Callers of each priority use a set of their own: all sets have one throttle in common."""
    common = kind(1, period=0.001)
    sets = [LimitSet(common=common, own=kind(1e6)) for _ in range(3)]
    return lambda priority: sets[priority](priority=priority).__aenter__()


def tokens_beside_calls() -> Ask:
    """The best class takes a slot as well, the others only tokens: they share the rate."""
    throttle = Throttle(1, period=0.001)
    return lambda priority: (
        throttle.consume(priority=priority)
        if priority
        else throttle(priority=priority).__aenter__()
    )


def slots_only() -> Ask:
    """A slot is what all of them wait for."""
    throttle = Throttle(1e9, 1, period=0.001)

    async def ask(priority: int) -> None:
        async with throttle(priority=priority):
            await asyncio.sleep(0.001)

    return ask


SHAPES: dict[str, Callable[[], Ask]] = {
    **{kind.name: partial(by_kind, kind) for kind in KINDS},
    "window": partial(by_kind, KINDS[0], algorithm=SlidingWindow),
    "a set for each class": partial(a_set_for_each, Throttle),
    "a set of threads for each class": partial(a_set_for_each, threads.Throttle),
    "tokens beside calls": tokens_beside_calls,
    "slots": slots_only,
}


@pytest.mark.parametrize("make", SHAPES.values(), ids=SHAPES)
async def test_turns_out_of_rank_alternate_and_32_grants_in_rank_lie_between_them(
    make: Callable[[], Ask],
) -> None:
    ask, order = make(), list[int]()
    enough = asyncio.Event()

    async def caller(priority: int) -> None:
        while len(order) < 33 * 6:
            await ask(priority)
            order.append(priority)
        enough.set()

    first = asyncio.create_task(ask(0))  # which is granted at once: from here on everybody waits
    # The worst come first, so that all who go before them overtake them. And two of each: while
    # one is granted and comes back, the other waits.
    tasks = [asyncio.create_task(caller(priority)) for priority in (2, 2, 1, 1, 0, 0)]
    await enough.wait()
    for task in (first, *tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert turns(order[: 33 * 6]) == [(33 * n + 32, 1 + n % 2) for n in range(6)]


@pytest.mark.parametrize("gone", [0, 65, 66])
@pytest.mark.parametrize("urgent", [1, 10])
async def test_an_urgent_newcomer_waits_for_one_turn_out_of_rank_of_70_classes_at_most(
    gone: int, urgent: int
) -> None:
    ask, order = by_kind(KINDS[0]), list[int]()

    async def call(priority: int) -> None:
        await ask(priority)
        order.append(priority)

    await ask(0)
    tasks = [asyncio.create_task(call(priority)) for priority in range(70, 0, -1)]
    await others_run()
    await asyncio.gather(*(call(0) for _ in range(gone)))  # so often all of them were overtaken
    start = len(order)
    await asyncio.gather(*(call(0) for _ in range(urgent)))
    between = order[start:]
    assert len(between) - between.count(0) <= 1
    await asyncio.gather(*tasks)
