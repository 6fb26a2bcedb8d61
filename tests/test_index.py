"""Lanes that share limits, in numbers: the index finds what a look at all lanes finds, for less.

The queue has three tiers of limits: everybody, some regions, many chats. It trusts its owner, who
says which rules an event changes; so what it keeps is made anew only as far as it must be. After
each event `check` makes all of it anew, and asks for the next grant by a look at all lanes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import calls_of, examples, queued
from test_queue import Story, bucket

from async_throttle import FixedWindow, LimitSet, Rule, SlidingWindow, Throttle, TokenBucket
from async_throttle._engine.check import check
from async_throttle._engine.forecast import Actor
from async_throttle._engine.index import Index
from async_throttle._engine.lane import GRANTED, QUEUED, Lane
from async_throttle._engine.patience import MAX_OVERTAKEN
from async_throttle._engine.queue import Queue
from async_throttle._units import NEVER, TOKEN
from async_throttle.rules.slots import UNLIMITED, Slots


@dataclass(frozen=True)
class Event:
    """Something that happens *gap* after the event before."""

    gap: int
    kind: str
    lane: int
    which: int
    amounts: tuple[int | None, ...]
    priority: int


KINDS = ["join", "join", "join", "pool", "ask", "ask", "leave", "free", "charge", "pause", "refund"]
AMOUNTS = st.tuples(*[st.integers(0, 3) | st.integers(1, 2) | st.none()] * 6)


def events(classes: int) -> st.SearchStrategy[list[Event]]:
    return st.lists(
        st.builds(
            Event,
            st.just(0) | st.integers(0, 40),
            st.sampled_from(KINDS),
            st.integers(0, 11),
            st.integers(0, 11),
            AMOUNTS,
            st.integers(1 - classes, 0),
        ),
        max_size=40,
    )


SLOTS = st.sampled_from([UNLIMITED, UNLIMITED, 1, 3])
EVERY = st.integers(1, 12)


RATES: st.SearchStrategy[Any] = st.sampled_from(
    [TokenBucket, TokenBucket, SlidingWindow, FixedWindow]
)


def rate(kind: type[Rule], every: int, level: int) -> Rule:
    """Three tokens, of which so many are left, and one comes back every so many nanoseconds."""
    if kind is TokenBucket:
        return bucket(1, every, 3, level=level)
    window = kind(0, 3 * TOKEN, 3 * every)
    window.take(0, (3 - level) * TOKEN)
    return window


@st.composite
def tiers(draw: st.DrawFn) -> Story:
    """Lanes over everybody and a chat, most of them over a region as well; and everybody alone."""

    def throttle(every: int, slots: int) -> list[Rule]:
        return [Slots(slots), rate(draw(RATES), every, draw(st.integers(0, 3)))]

    everybody = throttle(draw(EVERY), draw(SLOTS))
    regions = [throttle(draw(EVERY), UNLIMITED) for _ in range(draw(st.integers(1, 3)))]
    lanes = [everybody, everybody[1:]]
    for n in range(draw(st.integers(2, 8))):
        region = regions[n % len(regions)] if draw(st.integers(0, 4)) else []
        lanes.append([*everybody, *region, *throttle(20 * draw(EVERY), draw(SLOTS))])
    story = Story(*lanes, sets=True, grace=draw(st.sampled_from([0, 5])))
    story.queue.trusting = True
    return story


def amounts(story: Story, event: Event, lane: int) -> list[int | None]:
    """No caller asks for more than there can be."""
    return [
        None if asked is None else min(asked, rule.burst if isinstance(rule, Slots) else 3)
        for asked, rule in zip(event.amounts, story.rules[lane], strict=False)
    ]


def play(story: Story, name: str, event: Event) -> None:
    """Let *event* happen; a newcomer goes at once where a look at all lanes lets it."""
    lane = event.lane % len(story.rules)
    queue, asked = story.queue, amounts(story, event, lane)
    rules = [rule for rule in story.rules[lane] if not isinstance(rule, Slots)]
    rule = rules[event.which % len(rules)]
    if event.kind == "join":
        story.join(name, *asked, lane=lane, priority=event.priority)
    elif event.kind == "pool":
        join_pool(story, name, event)
    elif event.kind == "ask":
        there, weights = story.lane(lane, event.priority), story.weights(lane, asked)
        expected = False
        if not there.waiters and there.ready_at(queue.now, weights) <= queue.now:
            expected = queue.can_take_of_all(there, weights)
        assert story.ask(*asked, lane=lane, priority=event.priority) == expected
    elif event.kind == "charge":
        queue.touched(rule)
        rule.charge(queue.now, TOKEN)
    elif event.kind == "pause":
        story.pause(queue.now + 10 * event.which, rule, empties=event.which % 3 == 0)
    else:
        change_one_who_came(story, event)
    story.decide()


def join_pool(story: Story, name: str, event: Event) -> None:
    """A caller comes to several lanes at once."""
    numbers = {(event.lane + n) % len(story.rules): None for n in (0, event.which, 1)}
    queue_up(story, name, event, list(numbers))


def queue_up(story: Story, name: str, event: Event, numbers: list[int]) -> None:
    """A caller comes to the lanes of these *numbers*."""
    pool = [Actor() for _ in numbers]
    for actor, lane in zip(pool, numbers, strict=True):
        actor.rivals = pool
        story.actors[f"{name}@{lane}"] = actor
        weights = story.weights(lane, amounts(story, event, lane))
        story.queue.join(actor, story.lane(lane, event.priority), weights)


def change_one_who_came(story: Story, event: Event) -> None:
    """A caller leaves, or gives back its slots or what it took of its first rate."""
    state = QUEUED if event.kind == "leave" else GRANTED
    came = [name for name, actor in story.actors.items() if actor.state is state]
    if not came:
        return
    name = came[event.which % len(came)]
    if event.kind == "leave":
        story.leave(name)
        return
    receipts = story.actors[name].receipts
    slots = event.kind == "free"
    wanted = [receipt for receipt in receipts if isinstance(receipt[0], Slots) == slots]
    for receipt in wanted if slots else wanted[:1]:
        rule, weight, number = receipt
        story.queue.touched(rule)
        rule.refund(story.now, number, weight)
        receipts.remove(receipt)


@pytest.mark.parametrize("classes", [1, 3])
def test_the_index_finds_what_a_look_at_all_lanes_finds(classes: int) -> None:
    @given(story=tiers(), happens=events(classes))
    @examples(250)
    def lives(story: Story, happens: list[Event]) -> None:
        for n, event in enumerate(happens):
            story.run(story.now + event.gap)
            play(story, f"{n}", event)
        story.run(10**6)

    lives()


Account = tuple[int | None, int, int, int]
"""At which place everybody's limit stands, if anywhere; the own bucket's period, level; slots."""


def pool(everybody: tuple[int, int], accounts: list[Account]) -> Story:
    """Lanes over the accounts of a pool."""
    common = bucket(1, everybody[0], 3, level=everybody[1])
    lanes: list[list[Rule]] = []
    for place, every, level, slots in accounts:
        lane: list[Rule] = [Slots(slots), bucket(1, every, 3, level=level)]
        lanes.append(lane if place is None else [*lane[:place], common, *lane[place:]])
    story = Story(*lanes, sets=True)
    story.queue.trusting = True
    return story


def play_pool(story: Story, name: str, event: Event) -> None:
    """Let *event* happen; whoever comes to several lanes comes to all of them, or all but one."""
    if event.kind == "pool":
        numbers = [n for n in range(len(story.rules)) if n + 6 != event.which]
        queue_up(story, name, event, numbers)
        story.decide()
    else:
        play(story, name, event)


@given(
    everybody=st.tuples(st.integers(5, 40), st.integers(0, 2)),
    accounts=st.lists(
        st.tuples(st.sampled_from([0, 1, 2, 2, None]), EVERY, st.integers(0, 3), st.integers(1, 3)),
        min_size=2,
        max_size=5,
    ),
    happens=st.lists(
        st.builds(
            Event,
            st.just(0) | st.integers(0, 40),
            st.sampled_from(["pool"] * 6 + KINDS),
            st.integers(0, 11),
            st.integers(0, 11),
            AMOUNTS,
            st.just(0),
        ),
        max_size=40,
    ),
)
@examples(500)
def test_callers_of_a_pool_go_where_and_when_a_look_at_all_lanes_lets_them(
    everybody: tuple[int, int], accounts: list[Account], happens: list[Event]
) -> None:
    books = []
    for by_index in (True, False):
        story = pool(everybody, accounts)
        with pytest.MonkeyPatch.context() as patch:
            if not by_index:
                patch.setattr(Queue, "_next_in_clusters", Queue.next_of_all)
            for n, event in enumerate(happens):
                story.run(story.now + event.gap)
                play_pool(story, f"{n}", event)
            story.run(10**6)
        books.append(story.book)
    assert books[0] == books[1]


def test_a_newcomer_does_not_wait_for_those_who_wait_for_a_limit_that_it_does_not_ask_for() -> None:
    everybody, region = bucket(1, 1000, 1), bucket(1, 10_000, 1, level=0)
    one, two, nine = (bucket(1, 1, 1, level=0) for _ in range(3))
    story = Story([everybody, region, one], [everybody, region, two], [everybody, nine], sets=True)
    story.queue.trusting = True
    story.join("chat 1", 1, 1, 1, lane=0)
    story.join("chat 2", 1, 1, 1, lane=1)
    story.join("chat 9", 1, 1, lane=2)
    story.run(30_000)
    assert story.grants == [(1, "chat 9"), (10_000, "chat 1"), (20_000, "chat 2")]


def test_a_head_does_without_a_limit_that_a_caller_behind_it_will_ask_for() -> None:
    shared, own = bucket(1, 10, 2), bucket(1, 10, 1, level=0)
    story = Story([own, shared], [shared], sets=True)
    story.queue.trusting = True
    story.join("head", 1, None)
    story.join("behind", 0, 2)
    assert not story.ask(2, lane=1)
    story.run(100)
    assert story.grants == [(10, "head"), (10, "behind")]


def test_a_rule_that_changes_and_is_not_told_of_is_found_by_the_check() -> None:
    shared, own = bucket(1, 10, 5), bucket(1, 30, 1, level=0)
    story = Story([shared, own], [shared, bucket(1, 50, 1, level=0)])
    story.queue.trusting = True
    story.join("a", 1, 1)
    story.join("b", 1, 1, lane=1)
    own.refund(0, 1, TOKEN)
    with pytest.raises(AssertionError, match="the instant of a lane"):
        check(story.queue)
    story.queue.touched(own)
    story.decide()
    assert story.grants == [(0, "a")]


def test_a_turn_that_is_due_to_grants_of_a_limit_that_blocks_nobody_comes_at_once() -> None:
    free, shared = Slots(UNLIMITED), bucket(1, 10, 1, level=0)
    story = Story([free, shared], [free])
    story.queue.trusting = True
    story.join("patient", 1, 1, priority=1)
    story.join("usual", 1, 1)
    for _ in range(MAX_OVERTAKEN):
        assert story.ask(1, lane=1)
    story.run(100)
    assert story.grants == [(10, "patient"), (20, "usual")]


# ----------------------------------------------------------------------------------- what it costs


def steps(work: Callable[[], object]) -> int:
    """How many lines *work* runs, the rounds of a loop counted."""
    count = 0

    def trace(frame: FrameType, what: str, argument: object) -> Any:
        nonlocal count
        count += what == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def many(lanes: int, kind: type[Rule]) -> tuple[Queue, Rule, list[Lane], list[Actor]]:
    """A queue in which a caller waits in each of so many chats, each for an instant of its own."""
    queue = Queue(0, 0)
    queue.trusting = True
    everybody = kind(0, 30 * TOKEN, 3000)
    kept, actors = [], [Actor() for _ in range(lanes)]
    for n, actor in enumerate(actors):
        kept.append(
            queue.lane((everybody, bucket(1, (n * 7919 % lanes + 9) * 10**6, 1, level=0)), ())
        )
        queue.join(actor, kept[-1], (TOKEN, TOKEN))
    queue.advance(0)
    return queue, everybody, kept, actors


def event_costs(lanes: int, kind: type[Rule]) -> dict[str, int]:
    queue, everybody, kept, actors = many(lanes, kind)
    plain = queue.lane((everybody,), ())
    newcomer = queue.lane((everybody, bucket(1, 10, 5)), ())

    def go(event: Callable[[], object]) -> Callable[[], None]:
        def event_and_decision() -> None:
            event()
            queue.advance(queue.now)

        return event_and_decision

    return {
        "a newcomer": calls_of(go(lambda: queue.try_take(plain, (TOKEN,)))),
        "a newcomer to a new chat": calls_of(go(lambda: queue.try_take(newcomer, (TOKEN, TOKEN)))),
        "a second message": calls_of(go(lambda: queue.join(Actor(), kept[0], (TOKEN, TOKEN)))),
        "a caller that leaves": calls_of(go(lambda: queue.leave(actors[lanes // 2]))),
        "a grant": calls_of(lambda: queue.advance(queue.due_at)),
    }


@pytest.mark.parametrize("kind", [TokenBucket, SlidingWindow, FixedWindow])
def test_an_event_costs_as_much_among_many_lanes_as_among_few(kind: type[Rule]) -> None:
    few, lots = event_costs(30, kind), event_costs(900, kind)
    assert {event: lots[event] for event in few if lots[event] > 2 * few[event]} == {}
    assert max(few.values()) < 700


def test_a_pool_of_many_sets_costs_as_much_for_many_callers_as_for_few() -> None:
    costs = []
    for callers in (5, 50):
        queue = Queue(0, 0)
        queue.trusting = True
        lanes = [queue.lane((bucket(1, 100 + n, 1, level=0),), ()) for n in range(16)]
        for _ in range(callers):
            pool = [Actor() for _ in lanes]
            for lane, actor in zip(lanes, pool, strict=True):
                actor.rivals = pool
                queue.join(actor, lane, (TOKEN,))
        queue.advance(0)
        assert queue.due_at < NEVER
        costs.append(calls_of(partial(queue.advance, queue.due_at)))
        assert len(queue.decided) == 1
    assert costs[1] <= 1.2 * costs[0]


async def test_a_pause_does_not_make_the_index_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    everybody, chat = Throttle(1, initial=0), Throttle(1, initial=0)
    sets = LimitSet(everybody, chat), LimitSet(everybody, Throttle(1, initial=0))
    tasks = [await queued(limits.acquire().__aenter__()) for limits in sets]
    with monkeypatch.context() as patch:
        patch.delattr(Index, "rebuild")
        chat.pause(60)
        sets[0].pause(60)
        chat.resume()
        sets[0].resume()
    for task in tasks:
        await task


def test_a_grant_costs_a_pool_in_proportion_to_its_sets_which_have_a_limit_in_common() -> None:
    costs = []
    for sets in (8, 64):
        queue = Queue(0, 0)
        queue.trusting = True
        common = bucket(1, 1, 100)
        lanes = [queue.lane((common, bucket(1, 100 + n, 1, level=0)), ()) for n in range(sets)]
        for _ in range(3):
            pool = [Actor() for _ in lanes]
            for lane, actor in zip(lanes, pool, strict=True):
                actor.rivals = pool
                queue.join(actor, lane, (TOKEN, TOKEN))
        queue.advance(0)
        costs.append(calls_of(partial(queue.advance, queue.due_at)))
        assert len(queue.decided) == 1
    assert costs[1] <= 10 * costs[0]


def class_costs(classes: int, step: int) -> dict[str, int]:
    """What events cost where a caller of each class waits; the best or the worst came first."""
    queue, slot = Queue(0, 0), Slots(1)
    queue.trusting = True
    rules = slot, bucket(1, 10, 1000)
    slot.free = 0
    for priority in range(1, classes + 1)[::step]:
        queue.join(Actor(), queue.lane(rules, (), priority), (1, TOKEN))
    queue.advance(0)
    urgent = queue.lane(rules, ())

    def come() -> None:
        queue.join(Actor(), urgent, (1, TOKEN))
        queue.advance(queue.now)

    def go() -> None:
        queue.touched(slot)
        slot.free = 1
        queue.advance(queue.now)

    costs = [(steps(come), steps(go)) for _ in range(4 * MAX_OVERTAKEN)]
    assert len(queue.decided) == len(costs)
    # A turn out of rank costs more, and comes after as many grants as there may be classes.
    return {"arrivals": sum(each for each, _ in costs), "grants": sum(each for _, each in costs)}


@pytest.mark.parametrize("step", [1, -1])
def test_an_event_costs_as_much_among_many_classes_as_among_few(step: int) -> None:
    few, lots = class_costs(20, step), class_costs(500, step)
    assert {event: lots[event] for event in few if lots[event] > 2 * few[event]} == {}
