"""Between lanes: a later caller may go first, but nobody's instant is postponed by that.

Told with the pure queue. The properties are about random limits and random lives, in which all
amounts are whole tokens that come back every whole number of nanoseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import examples
from test_queue import Story, bucket, decided

from async_throttle import FixedWindow, LeakyBucket, Rule, SlidingWindow, TokenBucket
from async_throttle._engine import forecast
from async_throttle._engine.forecast import Actor
from async_throttle._engine.lane import (
    EXPIRED,
    GONE,
    GRANTED,
    QUEUED,
    SKIP,
    Pause,
)
from async_throttle._engine.queue import Queue
from async_throttle._units import NEVER, SECOND, TOKEN
from async_throttle.rules.slots import Slots

LONG = 10**7
"""By then all who ever can go have gone."""

# ------------------------------------------------------------------------------ told as stories


@pytest.mark.parametrize(("wanted", "later"), [(3, 0), (4, 70)])
def test_a_later_caller_goes_first_unless_the_earlier_one_would_run_short_by_a_single_token(
    wanted: int, later: int
) -> None:
    # "set" waits for its own limit until 30; by then the shared one will have three again.
    shared, own = bucket(1, 10, 5), bucket(1, 30, 1, level=0)
    story = Story([shared, own], [shared])
    story.join("set", wanted, 1)
    assert story.quote(5, lane=1) == later
    story.join("later", 5, lane=1)
    assert sorted(story.run(100)) == sorted([(30, "set"), (later, "later")])


@pytest.mark.parametrize("until", [11, 90])
def test_who_is_held_up_is_looked_at_again_as_soon_as_there_is_enough_for_all(until: int) -> None:
    # "b" is held up by "a" elsewhere, and the newcomer by "b" until there is enough for both.
    other, slow = bucket(1, 100, 1), bucket(1, until, 1, level=0)
    shared = bucket(1, 10, 5, level=1)
    story = Story([other, slow], [other, shared], [shared])
    story.join("a", 1, 1, lane=0)
    story.join("b", 1, 1, lane=1)
    story.join("newcomer", 1, lane=2)
    assert story.queue.wake_at == 10
    assert story.run(1000) == [(10, "newcomer"), (until, "a"), (until + 100, "b")]


@pytest.mark.parametrize("trusting", [False, True])
def test_who_takes_nothing_goes_once_the_bucket_is_full_whoever_waits(trusting: bool) -> None:
    # At once it might not: "light" ranks before it, and would make "head" late.
    shared, own = bucket(1, 10, 2, level=1), bucket(1, 15, 1, level=0)
    story = Story([shared, own], [shared])
    story.queue.trusting = trusting
    story.join("head", 2, 1)
    story.join("light", 1, lane=1)
    story.join("nothing", 0, lane=1, priority=1)
    assert story.run(100) == [(10, "nothing"), (15, "head"), (25, "light")]


@pytest.mark.parametrize(("first", "second", "heavy"), [(1, 1, 0), (None, 2, 0), (None, 1, 2)])
def test_who_is_held_up_goes_once_those_behind_a_head_would_come_late_enough(
    first: int | None, second: int, heavy: int
) -> None:
    # A full bucket regains nothing: so "behind" comes no sooner than 12 from any instant on. At 8
    # the shared one has enough for it by then, or has forgotten the newcomer before "heavy" comes.
    shared, own = bucket(1, 10, 2, level=1), bucket(1, 12, 1)
    slow, slower = bucket(1, 10, 1, level=0), bucket(1, 25, 1, level=0)
    story = Story([slow, own, shared], [slower, shared], [shared], sets=True)
    story.join("head", 1, 1, first)
    story.join("behind", None, 1, second)
    if heavy:
        story.join("heavy", 1, heavy, lane=1)
    story.join("newcomer", 1, lane=2)
    assert story.queue.wake_at == 8
    assert story.run(22) == [(8, "newcomer"), (10, "head"), (22, "behind")]


def test_who_would_make_another_late_by_a_part_of_a_nanosecond_waits_for_the_next_one() -> None:
    # Full since 12.5, "own" has half a nanosecond to its credit at 13, which it loses then. So
    # "behind" could go at 25, or from 14 on at 27; the shared one has enough at 26.
    shared, own, slow = bucket(1, 13, 3, level=1), bucket(2, 25, 1, level=0), bucket(1, 20, 1, 0)
    story = Story([slow, own, shared], [shared], sets=True)
    story.join("head", 1, 1, None)
    story.join("behind", None, 1, 2)
    story.run(13)
    story.join("newcomer", 1, lane=1)
    assert story.run(100) == [(14, "newcomer"), (20, "head"), (33, "behind")]


def test_a_slot_that_is_kept_for_one_is_not_let_go_by_another_that_does_without() -> None:
    slots, one, other = Slots(1), bucket(1, 100, 1, level=0), bucket(1, 200, 1, level=0)
    story = Story([slots, one], [slots, other], [slots], sets=True)
    story.join("with", 1, 1, lane=0)
    story.join("without", None, 1, lane=1)
    assert not story.ask(1, lane=2)
    assert story.run(1000) == [(100, "with"), (200, "without")]


@pytest.mark.parametrize("lacks", [False, True])
def test_tokens_are_kept_for_those_behind_a_head_unless_they_lack_a_slot(lacks: bool) -> None:
    slots, shared, own = Slots(1), bucket(1, 10, 5), bucket(1, 30, 1, level=0)
    story = Story([slots, shared, own], [shared], [slots], sets=True)
    if lacks:
        assert story.ask(1, lane=2)
    story.join("head", None, 1, 1)
    story.join("behind", 1, 4, None)
    assert story.ask(4, lane=1) is lacks


def test_a_fixed_window_forgets_a_newcomer_at_its_edge() -> None:
    shared, own = FixedWindow(0, 4 * TOKEN, 10), bucket(1, 12, 1, level=0)
    story = Story([shared, own], [shared])
    story.run(1)
    story.join("a", 4, 1)
    story.run(2)
    assert story.ask(1, lane=1)
    story.run(3)
    assert story.ask(3, lane=1)
    assert story.run(100) == [(12, "a")]


def sleepers_before_a_fixed_window() -> Story:
    """They are awake at 50, 120 and 160 ns, and want 1, 9 and 9 of 10 in 100 ns."""
    shared = FixedWindow(0, 10 * TOKEN, 100)
    story = Story(*([shared, bucket(1, at, 1, level=0)] for at in (50, 120, 160)), [shared])
    for lane, (name, weight) in enumerate({"a": 1, "b": 9, "c": 9}.items()):
        story.join(name, weight, 1, lane=lane)
    return story


def test_a_newcomer_does_not_open_a_fixed_window_that_would_open_later_for_those_ahead() -> None:
    # b and c go in two windows, as that of a is over at 150. One that opened at 1 would be over
    # when b comes, which then would open one for itself, and for c, which does not fit.
    story = sleepers_before_a_fixed_window()
    story.run(1)
    story.join("newcomer", 1, lane=3)
    story.join("one behind it that takes nothing", 0, lane=3)
    assert story.run(1_000) == [
        *((50, "a"), (120, "b")),
        *((150, "newcomer"), (150, "one behind it that takes nothing"), (160, "c")),
    ]


def test_a_newcomer_opens_a_fixed_window_that_is_over_before_anybody_ahead_wants_it() -> None:
    shared, own = FixedWindow(0, 10 * TOKEN, 10), bucket(1, 50, 1, level=0)
    story = Story([shared, own], [shared])
    story.join("a", 10, 1)
    story.run(40)
    assert story.ask(10, lane=1)
    story.run(50)
    assert story.grants == [(50, "a")]


# ------------------------------------------------------------------------------------ random limits


@dataclass(frozen=True)
class Rate:
    """A rate of *burst* tokens, of which one comes back every *every* ns and *used* are missing."""

    kind: type[Rule]
    every: int
    burst: int
    used: int

    def rule(self) -> Rule:
        rule: Rule
        if issubclass(self.kind, TokenBucket):
            rule = self.kind(0, TOKEN, self.every, self.burst * TOKEN)
        else:
            rule = self.kind(0, self.burst * TOKEN, self.every * self.burst)
        rule.take(0, min(self.used, self.burst) * TOKEN)
        return rule


@dataclass(frozen=True)
class Limits:
    """Rates, some slots, and for each lane which of them it asks for.

    Attributes:
        slots: how many there are, of each kind of slots; they are counted after the rates.
        sets: whether callers may do without some.
    """

    rates: tuple[Rate, ...]
    lanes: tuple[tuple[int, ...], ...]
    slots: tuple[int, ...] = ()
    sets: bool = False

    def rules(self) -> list[Rule]:
        return [*(rate.rule() for rate in self.rates), *(Slots(limit) for limit in self.slots)]

    def story(self, rules: Sequence[Rule] = ()) -> Story:
        rules = rules or self.rules()
        return Story(*([rules[n] for n in lane] for lane in self.lanes), sets=self.sets)

    def lane(self, arrival: Arrival) -> int:
        return arrival.lane % len(self.lanes)

    def amounts(self, arrival: Arrival) -> list[int | None]:
        """What *arrival* asks for: never more than there could be."""
        asked: list[int | None] = []
        for n, amount in zip(self.lanes[self.lane(arrival)], arrival.amounts, strict=False):
            if amount is None and self.sets:
                asked.append(None)
            elif n < len(self.rates):
                asked.append(min(amount or 0, self.rates[n].burst))
            else:
                asked.append(min(max(amount or 0, 1), self.slots[n - len(self.rates)]))
        return asked


@dataclass(frozen=True)
class Arrival:
    """Somebody who comes *gap* after the one before, to stay for *patience*."""

    gap: int
    lane: int
    amounts: tuple[int | None, ...]
    priority: int = 0
    patience: int = NEVER


@dataclass(frozen=True)
class Break:
    """A pause of which rate, or of which set, from the start to *until*."""

    which: int
    until: int
    empties: bool

    def begin(self, story: Story) -> None:
        pauses = [*story.pauses.values(), *story.own]
        story.pause(self.until, pauses[self.which % len(pauses)], empties=self.empties)


KINDS: list[type[Rule]] = [TokenBucket, LeakyBucket, SlidingWindow, FixedWindow]
RATES = st.builds(
    Rate, st.sampled_from(KINDS), st.integers(1, 10), st.integers(1, 6), st.integers(0, 6)
)
AMOUNTS = st.integers(0, 6)
PAUSES = st.lists(
    st.builds(Break, st.integers(0, 6), st.integers(0, 80), st.booleans()), max_size=2
)


@st.composite
def limits(draw: st.DrawFn, *, slots: Sequence[int] = (), sets: bool | None = None) -> Limits:
    """Two to four rates, and two to four lanes over some of them, each with at least one."""
    rates = draw(st.lists(RATES, min_size=2, max_size=4))
    some = st.sets(st.integers(0, len(rates) + len(slots) - 1), min_size=1)
    lanes = draw(
        st.lists(some.map(sorted).map(tuple), min_size=2, max_size=4, unique=True).filter(
            lambda lanes: any(n < len(rates) for lane in lanes for n in lane)
        )
    )
    return Limits(
        tuple(rates), tuple(lanes), tuple(slots), draw(st.booleans()) if sets is None else sets
    )


def arrivals(*, classes: int = 1, leave: bool = False, most: int = 10) -> st.SearchStrategy[Any]:
    return st.lists(
        st.builds(
            Arrival,
            st.just(0) | st.integers(0, 25),
            st.integers(0, 3),
            st.tuples(*[AMOUNTS | AMOUNTS | st.none()] * 6),
            st.integers(0, classes - 1),
            st.just(NEVER) | st.integers(0, 60) if leave else st.just(NEVER),
        ),
        min_size=1,
        max_size=most,
    )


def join(story: Story, limits: Limits, name: str, arrival: Arrival) -> Actor:
    return story.join(
        name,
        *limits.amounts(arrival),
        lane=limits.lane(arrival),
        priority=arrival.priority,
        deadline=deadline(story, arrival),
    )


def deadline(story: Story, arrival: Arrival) -> int:
    return NEVER if arrival.patience == NEVER else story.now + arrival.patience


def quote(story: Story, limits: Limits, arrival: Arrival) -> tuple[int, int]:
    lane = limits.lane(arrival)
    weights = story.weights(lane, limits.amounts(arrival))
    return forecast.quote(story.queue, story.lane(lane, arrival.priority), weights)


def play(
    limits: Limits,
    coming: Sequence[Arrival],
    pauses: Iterable[Break] = (),
    absent: Container[int] = (),
) -> Story:
    """Everybody comes but those who are *absent*, and then time passes."""
    story = limits.story()
    for pause in pauses:
        pause.begin(story)
    for n, arrival in enumerate(coming):
        story.run(story.now + arrival.gap)
        if n not in absent:
            join(story, limits, f"{n}", arrival)
    story.run(LONG)
    return story


def granted(story: Story) -> dict[str, int]:
    """Who was granted, and when."""
    return {name: at for at, name in story.grants}


# ------------------------------------------------------------------------------ nobody is postponed


@given(
    limits=limits(),
    coming=arrivals(classes=2),
    last=arrivals(most=1),
    pauses=PAUSES,
)
@examples(400)
def test_whoever_ranks_last_changes_nothing_for_anybody_else(
    limits: Limits, coming: list[Arrival], last: list[Arrival], pauses: list[Break]
) -> None:
    # Also for those behind a head, and those of its own lane. That nobody gives up is part of it:
    # to those behind one who will it was promised what comes true if everybody stays.
    coming = [*coming, replace(last[0], priority=1)]
    newcomer = len(coming) - 1
    with_it = play(limits, coming, pauses)
    without = play(limits, coming, pauses, absent=[newcomer])
    others = [entry for entry in with_it.book if entry[1] != f"{newcomer}"]
    assert sorted(others) == sorted(without.book)
    assert len(others) < len(with_it.book)


@given(limits=limits(), coming=arrivals(), pauses=PAUSES)
@examples(400)
def test_what_was_quoted_holds_whoever_comes_later(
    limits: Limits, coming: list[Arrival], pauses: list[Break]
) -> None:
    story = limits.story()
    for pause in pauses:
        pause.begin(story)
    quoted = {}
    for n, arrival in enumerate(coming):
        story.run(story.now + arrival.gap)
        quoted[f"{n}"] = quote(story, limits, arrival)[0]
        join(story, limits, f"{n}", arrival)
    story.run(LONG)
    assert granted(story) == quoted


# -------------------------------------------------------------------------------- what was promised


@given(
    limits=limits(slots=(1000,)),
    coming=arrivals(classes=3),
    pauses=PAUSES,
)
@examples(300)
def test_the_quote_is_the_instant_of_the_grant_and_names_what_held_it_up_longest(
    limits: Limits, coming: list[Arrival], pauses: list[Break]
) -> None:
    *others, last = coming
    story = limits.story()
    for pause in pauses:
        pause.begin(story)
    for n, arrival in enumerate(others):
        story.run(story.now + arrival.gap)
        join(story, limits, f"{n}", arrival)
    story.run(story.now + last.gap)
    due, place = quote(story, limits, last)
    caller = join(story, limits, "last", last)
    asked_at = story.now
    story.run(LONG)
    assert (caller.state, caller.granted_at) == (GRANTED, due)
    if limits.sets and due > asked_at:
        assert caller.spans[place] == max(caller.spans) > 0
    else:
        assert place == -1


# ------------------------------------------------------------------------ a slow chat and idle ones


def test_where_everybody_is_the_bottleneck_all_of_its_rate_is_used() -> None:
    # Thirty a second for everybody, twenty a minute for each chat; one of them is slow.
    everybody = TokenBucket(0, 30 * TOKEN, SECOND)
    chats = [TokenBucket(0, 20 * TOKEN, 60 * SECOND) for _ in range(31)]
    story = Story(*([everybody, chat] for chat in chats))
    for n in range(40):
        story.join(f"slow {n}", 1, 1)
    for n in range(300):
        story.join(f"other {n}", 1, 1, lane=1 + n % 30)
    # Twenty of the slow chat, all three hundred, and one more of the slow every three seconds.
    story.run(20 * SECOND)
    others = [at for at, name in story.grants if name.startswith("other")]
    busy = [at for at, _ in story.grants if at <= others[-1]]
    assert busy == [max(0, -(-(n - 29) * SECOND // 30)) for n in range(len(busy))]
    assert (len(others), len(story.grants)) == (300, 326)


# -------------------------------------------------------------------------------- what held it up


def shortage(rule: Rule, now: int, weight: int) -> bool:
    return rule.fork().level(now) * TOKEN < weight


@given(
    limits=limits(slots=(2,), sets=True),
    coming=arrivals(classes=2),
    pauses=PAUSES,
    restless=st.booleans(),
)
@examples(200)
def test_what_held_each_caller_up_adds_up_to_its_wait_however_often_one_looks(
    limits: Limits, coming: list[Arrival], pauses: list[Break], restless: bool
) -> None:
    story = limits.story()
    came_at = {}
    for pause in pauses:
        pause.begin(story)
    for n, arrival in enumerate(coming):
        came_at[f"{n}"] = story.now + arrival.gap
        for now in range(story.now, came_at[f"{n}"]) if restless else ():
            story.jump(now)
        story.run(came_at[f"{n}"])
        join(story, limits, f"{n}", arrival)
    for now in range(story.now, story.now + 200) if restless else ():
        story.jump(now)
    story.run(LONG)
    for name, at in granted(story).items():
        assert sum(story.actors[name].spans) == at - came_at[name]
        assert min(story.actors[name].spans) >= 0


@dataclass(frozen=True)
class Event:
    """What happens *gap* later to a set: a caller, a pause, its end, or a slot that is freed."""

    gap: int
    kind: str
    amounts: tuple[int | None, ...]
    which: int
    until: int


EVENTS = st.lists(
    st.builds(
        Event,
        st.integers(0, 20),
        st.sampled_from(["join", "join", "join", "pause", "resume", "free"]),
        st.tuples(*[AMOUNTS | st.none()] * 5),
        st.integers(0, 3),
        st.just(NEVER) | st.integers(0, 60),
    ),
    max_size=15,
)


def bottleneck(story: Story) -> int:
    """The place of what the head waits for now, the longest of all: the last is its own pause."""
    lane = story.lanes[0]
    weights = dict(zip(lane.rules, lane.waiters[0].weights, strict=True))
    wanted = {rule: weight for rule, weight in weights.items() if weight != SKIP}
    for n, rule in enumerate(lane.rules):
        if isinstance(rule, Slots) and rule in wanted and rule.free < wanted[rule]:
            return n
    rates = [rule for rule in lane.rules if rule in wanted and rule in story.pauses]
    ends = [(lane.pauses[0].until, len(lane.rules))]
    ends += [(story.pauses[rule].until, lane.rules.index(rule)) for rule in rates]
    for rule in rates:
        at = story.now
        while shortage(rule, at, wanted[rule]):
            at += 1
        ends.append((at, lane.rules.index(rule)))
    assert max(ends)[0] > story.now
    return max(ends, key=lambda end: end[0])[1]


@given(limits=limits(slots=(2,), sets=True), events=EVENTS)
@examples(200)
def test_each_moment_counts_for_the_limit_that_the_head_waits_for_then(
    limits: Limits, events: list[Event]
) -> None:
    limits = replace(limits, lanes=(tuple(range(len(limits.rates) + 1)),))
    story = limits.story()
    pauses = [*story.own, *story.pauses.values()]
    (slots,) = (rule for _, rule in story.lanes[0].slots)
    counted: dict[str, Counter[int]] = {}

    def look_on(until: int) -> None:
        while story.now < until:
            if story.lanes[0].waiters:
                place = bottleneck(story)
                for name, caller in story.actors.items():
                    counted.setdefault(name, Counter())[place] += caller.state is QUEUED
            story.run(story.now + 1)

    for n, event in enumerate(events):
        look_on(story.now + event.gap)
        pause = pauses[event.which % len(pauses)]
        if event.kind == "join":
            join(story, limits, f"{n}", Arrival(0, 0, event.amounts))
        elif event.kind == "pause":
            story.pause(min(NEVER, story.now + event.until), pause)
        elif event.kind == "resume":
            story.resume(pause)
        elif slots.used:
            slots.free += 1
            story.decide()
    look_on(story.now + 150)
    places = range(len(limits.rates) + 2)
    for name in granted(story):
        counts = counted.get(name, Counter())
        assert story.actors[name].spans == [counts[place] for place in places]


# ----------------------------------------------------------------------------------- two become one


def merged(one: Story, other: Story, lanes: Sequence[Sequence[Rule]]) -> Story:
    """A story for all *lanes*, with the queue into which those of the two have become one."""
    one.queue.absorb(other.queue)
    both = Story(*lanes)
    both.queue = one.queue
    both.pauses = one.pauses | other.pauses
    both.kept.clear()
    both.lanes = [both.lane(n) for n in range(len(lanes))]
    both.actors = one.actors | other.actors
    both.book = sorted([*one.book, *other.book], key=lambda entry: entry[0])
    both.decide()
    return both


LANES = ((0,), (0, 1), (2,), (2, 3), (0, 2), (1, 2, 3), (0, 3))
"""The first two over two rates, the next two over two others, and the rest over some of each."""


@given(
    rates=st.lists(RATES, min_size=4, max_size=4),
    before=arrivals(classes=2, leave=True),
    after=arrivals(classes=2, leave=True),
    pauses=PAUSES,
    away=st.integers(-1000, 1000),
)
@examples(200)
def test_two_queues_that_become_one_decide_from_there_on_as_if_they_had_always_been_one(
    rates: list[Rate],
    before: list[Arrival],
    after: list[Arrival],
    pauses: list[Break],
    away: int,
) -> None:
    # One of the two has lived by another clock so far.
    limits = Limits(tuple(rates), LANES)
    always = limits.story()
    rules = limits.rules()
    one = Story([rules[0]], [rules[0], rules[1]])
    other = Story([rules[2]], [rules[2], rules[3]])
    other.queue.shift(away)
    other.decide()
    for pause in pauses:
        n = pause.which % 4
        always.pause(pause.until, list(always.pauses)[n], empties=pause.empties)
        if n < 2:
            one.pause(pause.until, rules[n], empties=pause.empties)
        else:
            other.pause(pause.until + away, rules[n], empties=pause.empties)
    for n, arrival in enumerate(before):
        for story in (always, one, other):
            story.run(story.now + arrival.gap)
        lane = arrival.lane % 4
        join(always, limits, f"{n}", replace(arrival, lane=lane))
        apart = one if lane < 2 else other
        apart.join(
            f"{n}",
            *limits.amounts(replace(arrival, lane=lane)),
            lane=lane % 2,
            priority=arrival.priority,
            deadline=deadline(apart, arrival),
        )
    other.queue.shift(-away)
    other.book = [(at - away, name, state) for at, name, state in other.book]
    both = merged(one, other, [[rules[n] for n in lane] for lane in LANES])
    assert both.queue.waiting == always.queue.waiting
    for n, arrival in enumerate(after, len(before)):
        for story in (always, both):
            story.run(story.now + arrival.gap)
            join(story, limits, f"{n}", replace(arrival, lane=arrival.lane + n))
    for story in (always, both):
        story.run(LONG)
    assert sorted(both.book) == sorted(always.book)


@given(
    limits=limits(slots=(2,)),
    acts=st.lists(
        arrivals(classes=2, leave=True, most=1).map(lambda some: some[0])
        | st.builds(Break, st.integers(0, 6), st.integers(0, 80), st.booleans())
        | st.integers(-(10**6), 10**6),
        max_size=14,
    ),
)
@examples(200)
def test_a_queue_that_is_moved_to_another_clock_goes_on_as_before_at_the_moved_instants(
    limits: Limits, acts: list[Arrival | Break | int]
) -> None:
    stayed, moved = limits.story(), limits.story()
    away = SECOND
    moved.queue.shift(away)
    moved.decide()
    for n, act in enumerate(acts):
        if isinstance(act, int):
            moved.queue.shift(act)
            moved.decide()
            moved.book = [(at + act, name, state) for at, name, state in moved.book]
            away += act
        elif isinstance(act, Break):
            for story in (stayed, moved):
                replace(act, until=story.now + act.until).begin(story)
        else:
            for story in (stayed, moved):
                story.run(story.now + act.gap)
                join(story, limits, f"{n}", act)
        assert moved.now == stayed.now + away
        for told in ("wake_at", "due_at", "expires_at"):
            here, there = (getattr(story.queue, told) for story in (stayed, moved))
            assert there == (here + away if here < NEVER else NEVER)
    stayed.run(LONG)
    moved.run(LONG + away)
    assert moved.book == [(at + away, name, state) for at, name, state in stayed.book]
    for name in granted(stayed) if limits.sets else ():
        assert moved.actors[name].spans == stayed.actors[name].spans


# ------------------------------------------------------------------- in two lanes at the same time


def join_all(
    story: Story, name: str, wants: dict[int, list[int | None]], deadline: int = NEVER
) -> dict[int, Actor]:
    """One caller in several lanes of sets, who goes in the first that lets it; by lane."""
    callers = {lane: Actor() for lane in wants}
    for lane, caller in callers.items():
        caller.rivals = list(callers.values())
        story.actors[f"{name}@{lane}"] = caller
        story.queue.join(caller, story.lanes[lane], story.weights(lane, wants[lane]), deadline)
    story.decide()
    return callers


@pytest.mark.parametrize("how", ["leaves", "expires"])
def test_who_waits_in_two_lanes_and_leaves_one_leaves_both(how: str) -> None:
    slow, fast = bucket(1, 50, 5, level=0), bucket(1, 20, 5, level=0)
    story = Story([slow], [fast], sets=True)
    callers = join_all(story, "pool", {0: [5], 1: [5]}, deadline=30)
    story.join("behind", 1, lane=0)
    if how == "leaves":
        story.leave("pool@0")
    story.run(30)
    states = {GONE} if how == "leaves" else {GONE, EXPIRED}
    assert {caller.state for caller in callers.values()} == states
    assert (story.queue.waiting, story.queue.expires_at, story.queue.due_at) == (1, NEVER, 50)
    assert story.run(100) == [(50, "behind")]


def test_a_quote_does_not_count_who_will_be_granted_in_another_lane() -> None:
    story = Story([bucket(1, 10, 1, level=0)], [bucket(1, 5, 1, level=0)], sets=True)
    join_all(story, "pool", {0: [1], 1: [1]})
    assert story.quote(1) == 10


def test_who_came_later_to_one_of_two_lanes_keeps_no_slot_from_who_waits_in_both() -> None:
    slots, slow = Slots(1), bucket(1, 100, 1, level=0)
    story = Story([slots, slow], [slots], sets=True)
    assert story.ask(1, lane=1)
    join_all(story, "pool", {0: [1, 1], 1: [1]})
    story.join("later", 1, 1)
    slots.free += 1
    story.decide()
    assert story.grants == [(0, "pool@1")]


def test_who_was_granted_in_one_of_two_lanes_and_leaves_gives_back_what_it_took_there() -> None:
    a, b = bucket(1, 50, 5), bucket(1, 20, 5)
    story = Story([a], [b], sets=True)
    callers = join_all(story, "pool", {0: [3], 1: [4]})
    assert (callers[0].state, callers[1].state) == (GRANTED, GONE)
    assert (a.level(0), b.level(0)) == (2, 5)
    story.leave("pool@0")
    assert (a.level(0), b.level(0)) == (5, 5)


@given(limits=limits(slots=(2,), sets=True), coming=arrivals(), until=st.integers(0, 100))
@examples(200)
def test_each_caller_in_several_lanes_is_granted_in_one_and_leaves_no_trace_in_the_others(
    limits: Limits, coming: list[Arrival], until: int
) -> None:
    rules = limits.rules()
    story = limits.story(rules)
    pool = []
    for n, arrival in enumerate(coming):
        story.run(story.now + arrival.gap)
        lanes = {arrival.lane % len(limits.lanes), n % len(limits.lanes)}
        asked = {lane: limits.amounts(replace(arrival, lane=lane)) for lane in lanes}
        pool.append(join_all(story, f"{n}", asked))
    story.run(story.now + until)
    waiting = 0
    for callers in pool:
        states = Counter(caller.state for caller in callers.values())
        assert states == {QUEUED: len(callers)} or states[QUEUED] == 0 < states[GRANTED] == 1
        waiting += states[QUEUED]
    assert story.queue.waiting == waiting
    # The rules are as if those who went had asked for nothing but what they got.
    alone = limits.rules()
    for at, name in story.grants:
        caller = story.actors[name]
        for rule, weight in zip(caller.lane.rules, caller.weights, strict=True):
            if weight != SKIP:
                alone[rules.index(rule)].take(at, weight)
    assert [rule.level(story.now) for rule in alone] == [rule.level(story.now) for rule in rules]
    for lane in story.lanes:
        wanted = Counter[int]()
        for waiter in lane:
            for n, _ in lane.rates:
                wanted[n] += max(0, waiter.weights[n])
        backlog = lane.backlog or [0] * len(lane.rules)
        assert [backlog[n] for n, _ in lane.rates] == [wanted[n] for n, _ in lane.rates]


# ----------------------------------------------------------------------------------- what it costs


class Counted(TokenBucket):
    """A bucket that counts how often it is asked."""

    __slots__ = ()

    asked: ClassVar[int] = 0

    def ready_at(self, now: int, weight: int) -> int:
        Counted.asked += 1
        return super().ready_at(now, weight)


def counted(every: int, burst: int, level: int) -> Counted:
    rule = Counted(0, TOKEN, every, burst * TOKEN)
    rule.take(0, (burst - level) * TOKEN)
    return rule


def many_lanes(how: str, lanes: int) -> Queue:
    """A queue in which somebody waits in each of so many lanes over one shared rate."""
    queue = Queue(0, 0)
    scarce = how in ("for what they share", "light ones behind a heavy one")
    shared = counted(1_000_000, 100, level=0 if scarce else 100)
    for n in range(lanes):
        wait = {"later ones shorter": lanes - n, "later ones longer": n + 1}.get(how, 1)
        own = counted(10_000_000 * wait, 1, level=1 if scarce else 0)
        lane = queue.lane((shared, own), (Pause(shared), Pause(own)))
        heavy = how == "light ones behind a heavy one" and not n
        queue.join(Actor(), lane, ((100 if heavy else 1) * TOKEN, TOKEN))
    return queue


@pytest.mark.parametrize(
    "how",
    [
        "for what they share",
        "for limits of their own",
        "light ones behind a heavy one",
        "later ones longer",
        "later ones shorter",
    ],
)
def test_a_decision_costs_what_there_are_lanes_in_which_somebody_waits(how: str) -> None:
    costs = []
    for lanes in (500, 1000):
        queue = many_lanes(how, lanes)
        Counted.asked = 0
        queue.advance(0)
        assert not queue.decided
        assert queue.wake_at < NEVER
        costs.append(Counted.asked)
    assert costs[1] <= 2.1 * costs[0] <= 2.1 * 8 * 500


@pytest.mark.parametrize("sets", [False, True])
def test_a_decision_costs_the_same_however_many_wait_in_one_lane(sets: bool) -> None:
    costs = []
    for callers in (100, 1000):
        shared, own, other = counted(10, 5, level=0), counted(10, 5, level=5), counted(10, 5, 5)
        story = Story([shared, own], [shared, other], sets=sets)
        for _ in range(callers):
            story.queue.join(Actor(), story.lanes[0], (TOKEN, TOKEN))
        story.queue.join(Actor(), story.lanes[1], (TOKEN, TOKEN))
        Counted.asked = 0
        for now in range(10, 510, 10):
            story.queue.advance(now)
            assert len(decided(story.queue)) == 1
        costs.append(Counted.asked)
    assert costs[0] == costs[1] <= 50 * 20
