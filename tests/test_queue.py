"""Who goes next: the pure queue, told the time.

Where a story is told, instants are small whole numbers, and rules so chosen that a token comes back
every whole number of them. A `Story` keeps the book: which waiter was granted or expired, and when.
"""

from __future__ import annotations

import copy
import math
import random
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, ClassVar

import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st
from support import examples, scaled

from async_throttle import FixedWindow, LeakyBucket, Rule, SlidingWindow, TokenBucket
from async_throttle._engine.check import check
from async_throttle._engine.forecast import Actor, quote
from async_throttle._engine.foresight import Foresight
from async_throttle._engine.lane import (
    DROPPED,
    EXPIRED,
    GRANTED,
    SKIP,
    UNFIT,
    Lane,
    Lanes,
    Pause,
    State,
    Waiter,
)
from async_throttle._engine.queue import Queue, wants
from async_throttle._units import NEVER, TOKEN
from async_throttle.rules.slots import Slots

MS = 10**6
SECOND = 1000 * MS


def bucket(capacity: int, period: int, burst: int, level: int | None = None) -> TokenBucket:
    """Whole tokens; full unless told otherwise."""
    rule = TokenBucket(0, capacity * TOKEN, period, burst * TOKEN)
    if level is not None:
        rule.take(0, (burst - level) * TOKEN)
    return rule


def decided(queue: Queue) -> list[Waiter]:
    """The waiters whose state has changed and that have not been told yet; now they have."""
    waiters = list(queue.decided)
    queue.decided.clear()
    return waiters


def twin(queue: Queue) -> Queue:
    """A copy of *queue* with all its waiters and rules, and of the lanes those with waiters."""
    other = copy.deepcopy(queue)
    other.lanes = Lanes()
    for lane in other.busy:
        other.lanes.add(lane)
    return other


class Story:
    """A queue, its lanes, and the book of what became of which waiter.

    Weights are whole tokens and slots, one for each rule of the lane; None does without it, which
    takes *sets*: lanes that have a pause of their own besides those of their rules, and a
    bottleneck. After each event the queue is advanced to the same instant, as its users do, and
    every derived field is checked.
    """

    def __init__(self, *lanes: Sequence[Rule], grace: int = 0, sets: bool = False) -> None:
        self.queue = Queue(0, grace)
        self.rules = [tuple(lane) for lane in lanes]
        self.pauses = {
            rule: Pause(rule) for lane in lanes for rule in lane if not isinstance(rule, Slots)
        }
        self.own = [Pause() for _ in lanes] if sets else []
        self.kept: dict[tuple[int, int], Lane] = {}
        self.lanes = [self.lane(n) for n in range(len(lanes))]
        self.actors: dict[str, Actor] = {}
        self.book: list[tuple[int, str, State]] = []

    @property
    def now(self) -> int:
        return self.queue.now

    def lane(self, n: int, priority: int = 0) -> Lane:
        """The lane over the rules of number *n*, for callers of *priority*."""
        rules = self.rules[n]
        places = [place for place, rule in enumerate(rules) if rule in self.pauses]
        pauses = tuple(self.pauses[rules[place]] for place in places)
        if self.own:
            lane = self.queue.lane(rules, (self.own[n], *pauses), priority, tuple(places))
        else:
            lane = self.queue.lane(rules, pauses, priority)
        return self.kept.setdefault((n, priority), lane)

    def weights(self, lane: int, weights: Iterable[int | None]) -> tuple[int, ...]:
        return tuple(
            SKIP if weight is None else weight if isinstance(rule, Slots) else weight * TOKEN
            for rule, weight in zip(self.rules[lane], weights, strict=True)
        )

    def join(
        self,
        name: str,
        *weights: int | None,
        lane: int = 0,
        deadline: int = NEVER,
        priority: int = 0,
        actor: Actor | None = None,
    ) -> Actor:
        actor = self.actors[name] = actor or Actor()
        self.queue.join(actor, self.lane(lane, priority), self.weights(lane, weights), deadline)
        self.decide()
        return actor

    def joins(self, **weights: int) -> None:
        """Callers of the first lane, one after the other."""
        for name, weight in weights.items():
            self.join(name, weight)

    def ask(self, *weights: int | None, lane: int = 0, priority: int = 0) -> bool:
        asked = self.weights(lane, weights)
        if self.queue.try_take(self.lane(lane, priority), asked) is None:
            return False
        self.decide()
        return True

    def quote(self, *weights: int | None, lane: int = 0, priority: int = 0) -> int:
        found = quote(self.queue, self.lane(lane, priority), self.weights(lane, weights))[0]
        check(self.queue)
        return found

    def leave(self, name: str) -> None:
        self.queue.leave(self.actors[name])
        self.decide()

    def pause(self, until: int, at: Rule | Pause | None = None, *, empties: bool = False) -> None:
        self.queue.pause(self.pause_of(at), until, empties)
        self.decide()

    def resume(self, at: Rule | Pause | None = None) -> None:
        self.queue.resume(self.pause_of(at))
        self.decide()

    def pause_of(self, at: Rule | Pause | None) -> Pause:
        if isinstance(at, Pause):
            return at
        return next(iter(self.pauses.values())) if at is None else self.pauses[at]

    def decide(self) -> None:
        self.jump(self.queue.now)

    def jump(self, now: int) -> None:
        """Advance at once: a waiter that was due before is granted late."""
        names = {id(actor): name for name, actor in self.actors.items()}
        self.queue.advance(now)
        for waiter in decided(self.queue):
            self.book.append((now, names[id(waiter)], waiter.state))
        check(self.queue)

    def run(self, until: int) -> list[tuple[int, str]]:
        """Advance at each instant at which something is due, and to *until*: all grants so far."""
        while (due := self.queue.due_at) <= until:
            self.jump(due)
        self.jump(until)
        return self.grants

    @property
    def grants(self) -> list[tuple[int, str]]:
        return [(now, name) for now, name, state in self.book if state is GRANTED]


# -------------------------------------------------------------------------------------- the order


def test_callers_go_in_order_of_arrival_whatever_they_weigh() -> None:
    story = Story([bucket(1, 10, 5, level=0)])
    story.joins(a=1, b=5, c=0, d=2, e=1)
    assert story.run(1000) == [(10, "a"), (60, "b"), (60, "c"), (80, "d"), (90, "e")]


def test_a_newcomer_may_go_at_once_only_if_nobody_waits() -> None:
    story = Story([bucket(1, 10, 5)])
    assert story.ask(4)
    story.joins(a=2)
    assert not story.ask(1)
    assert not story.ask(0)
    assert not story.queue.can_take(story.lanes[0], (0,))
    assert story.run(10) == [(10, "a")]
    assert story.queue.can_take(story.lanes[0], (0,))
    assert story.ask(0)


def test_a_weight_of_nothing_queues_and_waits_until_a_debt_is_paid() -> None:
    rule = bucket(1, 10, 5, level=-2)
    story = Story([rule])
    assert not story.ask(0)
    assert story.quote(0) == 20
    story.joins(nothing=0)
    assert story.run(100) == [(20, "nothing")]


def test_tokens_alone_pass_a_head_that_lacks_a_slot_but_none_that_waits_for_time() -> None:
    rule = bucket(1, 10, 5)
    story = Story([Slots(1), rule], [rule])
    assert story.ask(1, 1)
    story.join("lacks a slot", 1, 1)
    story.join("tokens", 5, lane=1)
    assert story.run(20) == [(10, "tokens")]
    story.leave("lacks a slot")
    story.lanes[0].slots[0][1].free += 1
    story.join("heavy", 1, 5)
    assert not story.ask(0, lane=1)
    story.join("light", 1, lane=1)
    assert story.run(100)[1:] == [(60, "heavy"), (70, "light")]


def test_a_grant_at_the_instant_of_the_deadline_is_a_grant() -> None:
    story = Story([bucket(1, 10, 1, level=0)])
    story.join("in time", 1, deadline=10)
    story.join("a ns too late", 1, deadline=19)
    story.join("behind", 1, deadline=20)
    story.run(100)
    assert story.book == [
        (10, "in time", GRANTED),
        (19, "a ns too late", EXPIRED),
        (20, "behind", GRANTED),
    ]


# ------------------------------------------------------------------------------------ late wake-ups


def test_late_wake_ups_decide_in_the_order_of_the_instants() -> None:
    # Woken once, at 100, for what was due at 10, 12 and 30: "b" was too late at 12 already.
    story = Story([bucket(1, 10, 3, level=0)], grace=1000)
    story.join("a", 1, deadline=60)
    story.join("b", 2, deadline=12)
    story.join("c", 2, deadline=30)
    story.jump(100)
    assert story.book == [(100, "a", GRANTED), (100, "b", EXPIRED), (100, "c", GRANTED)]


def test_a_loop_blocked_past_a_deadline_grants_only_what_its_shifted_schedule_allows() -> None:
    story = Story([bucket(1, 10, 1, level=0)], grace=0)
    story.join("a", 1, deadline=15)  # due at 10
    story.join("b", 1, deadline=25)  # due at 20, had nobody slept
    story.jump(100)
    assert story.book == [(100, "a", GRANTED), (100, "b", EXPIRED)]


@pytest.mark.parametrize(("late", "level"), [(0, 0), (3, 0.3), (5, 0.5), (6, 0.5), (500, 0.5)])
def test_lateness_is_paid_back_up_to_the_grace(late: int, level: float) -> None:
    # Granted at 10 + late, as if 5 ago at most: what came back since is there.
    rule = bucket(1, 10, 1, level=0)
    story = Story([rule], grace=5)
    story.join("a", 1)
    story.jump(10 + late)
    assert story.grants == [(10 + late, "a")]
    assert rule.level(10 + late) == level


def test_with_late_timers_the_long_run_rate_does_not_sag() -> None:
    story = Story([LeakyBucket(0, TOKEN, 10)], grace=5)
    for n in range(200):
        story.join(f"{n}", 1)
    lateness = random.Random(1)
    while story.queue.waiting:
        story.jump(story.queue.wake_at + lateness.randrange(6))
    assert 1990 <= story.grants[-1][0] <= 1995


def test_after_a_blocked_loop_the_schedule_shifts_and_does_not_burst() -> None:
    story = Story([LeakyBucket(0, TOKEN, 10)], grace=5)
    for n in range(9):
        story.join(f"{n}", 1)
    story.run(20)
    story.jump(75)  # due were 30, 40, 50, 60, 70
    assert [now for now, _ in story.run(1000)] == [0, 10, 20, 75, 80, 90, 100, 110, 120]


@pytest.mark.parametrize("window", [SlidingWindow, FixedWindow])
def test_windows_record_the_real_instant_of_a_late_grant(window: type[Rule]) -> None:
    story = Story([window(0, TOKEN, 10)], grace=5)
    story.joins(a=1, b=1, c=1)
    story.jump(14)
    assert story.run(100) == [(0, "a"), (14, "b"), (24, "c")]


@given(
    weights=st.lists(st.integers(0, 5), max_size=12),
    level=st.integers(-3, 5),
    late=st.integers(0, 400),
)
@examples(100)
def test_one_late_wake_up_within_the_grace_comes_to_the_same_as_many_punctual_ones(
    weights: list[int], level: int, late: int
) -> None:
    levels, orders = [], []
    for punctual in (True, False):
        rule = bucket(1, 10, 5, level=level)
        story = Story([rule], grace=1000)
        for n, weight in enumerate(weights):
            story.join(f"{n}", weight)
        (story.run if punctual else story.jump)(late)
        levels.append(rule.level(late))
        orders.append([name for _, name in story.grants])
    assert levels[0] == levels[1]
    assert orders[0] == orders[1]


# ----------------------------------------------------------------------------------------- leaving


def test_a_lane_is_found_again_for_as_long_as_something_refers_to_it() -> None:
    queue = Queue(0, 0)
    rules = [(bucket(1, 10, 1),) for _ in range(100)]
    lanes: list[Lane] = []
    for each in rules:
        lanes.append(queue.lane(each, ()))
        assert [queue.lane(known, ()) for known in rules[: len(lanes)]] == lanes
    assert queue.lane(rules[0], (), 1) not in lanes
    assert queue.lanes.values() == lanes
    del lanes[1:]
    for each in [(bucket(1, 10, 1),) for _ in range(500)]:
        queue.lane(each, ())
    assert queue.lanes.values() == lanes
    assert len(queue.lanes._refs or ()) <= 10


def test_leaving_after_the_grant_is_as_if_it_had_never_asked() -> None:
    slots, rule = Slots(1), bucket(1, 10, 5, level=0)
    story = Story([slots, rule])
    story.join("granted", 1, 3)
    story.join("next", 1, 2)
    story.run(35)
    assert (slots.used, rule.level(35)) == (1, 0.5)
    story.leave("granted")
    assert story.grants == [(30, "granted"), (35, "next")]
    assert (slots.used, rule.level(35)) == (1, 1.5)
    story.leave("granted")  # a second time does nothing
    assert (slots.used, rule.level(35)) == (1, 1.5)


class Watched(Actor):
    """A caller that counts how often anybody looks at what has become of it."""

    __slots__ = ("_state",)

    looks: ClassVar[int] = 0

    def _look(self) -> State:
        Watched.looks += 1
        return self._state

    def _become(self, state: State) -> None:
        self._state = state

    state: Any = property(_look, _become)


@pytest.mark.parametrize("how", ["in order", "backwards", "shuffled"])
@pytest.mark.parametrize("blocked", ["by time", "by a slot"])
def test_thousands_who_leave_behind_a_blocked_head_do_not_pile_up(how: str, blocked: str) -> None:
    queue = Queue(0, 0)
    rule, slots = bucket(1, SECOND, 10**6, level=0), Slots(1 if blocked == "by time" else 0)
    lane = queue.lane((slots, rule), (Pause(rule),))
    queue.join(Actor(), lane, (1, 10**6 * TOKEN), SECOND)
    queue.advance(0)
    waiters = []
    for n in range(scaled(100_000)):
        waiter = Watched()
        queue.join(waiter, lane, (1, TOKEN), 2 * SECOND + n)
        waiters.append(waiter)
    if how == "backwards":
        waiters.reverse()
    elif how == "shuffled":
        random.Random(1).shuffle(waiters)
    Watched.looks = 0
    left = len(waiters)
    for waiter in waiters:
        queue.leave(waiter)
        left -= 1
        assert len(lane.waiters) <= 2 * (left + 1)
        assert len(queue.deadlines) <= 2 * (left + 1) + 64
    assert len(lane) == queue.waiting == 1
    assert lane.backlog == [0, 10**6 * TOKEN]
    # Each leaving costs a bounded number of looks: a queue that searches takes millions.
    assert Watched.looks <= 12 * len(waiters)


def test_deadlines_of_those_who_were_granted_do_not_pile_up() -> None:
    # Somebody with an early deadline always waits; those with late ones go on and on.
    story = Story([bucket(1, 1, 1)])
    story.joins(first=1)
    for now in range(300):
        story.join(f"late {now}", 1, deadline=10**9)
        story.join(f"early {now}", 1, deadline=10**6)
        story.run(2 * now)
        assert len(story.queue.deadlines) <= 2 * story.queue.waiting + 64


def test_whoever_no_longer_fits_is_told_and_the_others_keep_their_places() -> None:
    rule = bucket(1, 10, 5, level=0)
    story = Story([rule])
    story.joins(a=4, b=2, c=5, d=3)
    rule.configure(0, TOKEN, 10, 3 * TOKEN)
    story.queue.refit(rule)
    story.decide()
    assert story.book == [(0, "a", UNFIT), (0, "c", UNFIT)]
    assert story.quote(1) == 60
    assert story.run(100) == [(20, "b"), (50, "d")]


def test_what_becomes_of_a_rule_concerns_only_those_who_want_it_wherever_they_wait() -> None:
    a, b = bucket(1, 10, 5, level=0), bucket(1, 10, 5, level=0)
    story = Story([a, b], [b], sets=True)
    story.join("without a", None, 5, deadline=50)
    story.join("a and b", 5, 5)
    story.join("b", 5, lane=1)
    a.configure(0, TOKEN, 10, 3 * TOKEN)
    story.queue.refit(a)
    story.decide()
    assert story.book == [(0, "a and b", UNFIT)]
    story.join("again", 1, 1)
    story.queue.drop(DROPPED, lambda waiter: wants(waiter, a))
    b.configure(0, TOKEN, 10, 4 * TOKEN)
    story.queue.refit(b)
    story.decide()
    assert sorted(story.book[1:]) == [
        (0, "again", DROPPED),
        (0, "b", UNFIT),
        (0, "without a", UNFIT),
    ]
    story.join("c", 1, lane=1)
    story.queue.drop(DROPPED)
    story.decide()
    assert story.book[-1] == (0, "c", DROPPED)
    assert (story.queue.waiting, story.queue.due_at, story.quote(1, lane=1)) == (0, NEVER, 10)


def test_a_rate_that_is_lifted_lets_everybody_go_and_one_set_again_counts_those_who_wait() -> None:
    rule, slots = bucket(1, 10, 5, level=0), Slots(2)
    story = Story([slots, rule])
    for name in "abcd":
        story.join(name, 1, 1)
    rule.configure(0, math.inf, 10, None)
    story.queue.refit(rule)
    story.decide()
    assert story.grants == [(0, "a"), (0, "b")]
    rule.configure(0, TOKEN, 10, 5 * TOKEN)
    story.queue.refit(rule)
    rule.take(0, 5 * TOKEN)
    assert story.quote(1, 1) == 30
    slots.free += 2
    story.decide()
    assert story.run(100)[2:] == [(10, "c"), (20, "d")]


# ------------------------------------------------------------------------------------------ pauses


def test_pauses_merge_by_the_later_end_and_leave_nothing_if_one_of_them_empties() -> None:
    story = Story([bucket(1, 10, 5)])
    story.pause(20)
    story.pause(40, empties=True)
    story.pause(30)
    assert not story.ask(0)
    story.joins(a=1)
    assert (story.queue.due_at, story.quote(1)) == (40, 60)
    assert story.run(100) == [(50, "a")]


def test_an_emptying_pause_ends_on_its_own_with_nobody_waiting_and_at_its_own_instant() -> None:
    rule = bucket(1, 10, 5)
    story = Story([rule])
    story.pause(20, empties=True)
    assert (story.queue.due_at, story.queue.wake_at) == (20, NEVER)
    story.jump(35)  # late, but what has come back since is there
    assert rule.level(35) == 1.5
    assert story.queue.due_at == NEVER


class Strict(SlidingWindow):
    """A rule that believes what it is promised: the time never goes back."""

    seen = 0

    def ready_at(self, now: int, weight: int) -> int:
        assert now >= self.seen
        self.seen = now
        return super().ready_at(now, weight)

    def take(self, now: int, weight: int) -> Any:
        assert self.ready_at(now, weight) == now, "not an instant that ready_at named"
        return super().take(now, weight)


@pytest.mark.parametrize("grace", [0, 5])
def test_a_rule_of_ones_own_is_told_the_time_only_ever_forwards(grace: int) -> None:
    story = Story([Strict(0, TOKEN, 10)], grace=grace)
    story.joins(a=1, b=1, c=1, d=1, e=1)
    for now in (10, 23, 38, 200, 300):
        story.jump(now)
    assert [now for now, _ in story.grants] == [0, 10, 23, 38, 200]


# ------------------------------------------------------------------------------------ the quote


@pytest.mark.parametrize("capacity", [3, 999_999])
def test_evenly_spaced_callers_go_when_they_were_told_at_any_rate(capacity: int) -> None:
    # A token comes back every 333,333,333 and a third ns: in the long run nothing may be lost.
    story = Story([LeakyBucket(0, capacity * TOKEN, SECOND)], grace=5 * MS)
    expected = [(-(-n * SECOND // capacity), f"{n}") for n in range(scaled(1000))]
    for due, name in expected:
        assert story.quote(1) == due
        story.join(name, 1)
    assert story.run(1000 * SECOND) == expected


@pytest.mark.parametrize(
    ("weights", "lane", "classes"), [((1,), 0, (1, 0)), ((1,), 0, (0, -1)), ((1, 1), 1, (0, 0))]
)
def test_a_quote_does_not_count_those_who_go_later(
    weights: tuple[int, ...], lane: int, classes: tuple[int, int]
) -> None:
    common = bucket(1, 10, 1, level=0)
    story = Story([common], [common, bucket(1, 100, 1, level=0)])
    story.join("later", *weights, lane=lane, priority=classes[0])
    assert story.quote(1, priority=classes[1]) == 10


def test_a_quote_does_not_count_a_missing_slot() -> None:
    rule = bucket(1, 10, 5)
    story = Story([Slots(1), rule], [rule])
    assert story.ask(1, 4)
    assert story.quote(1, 1) == 0
    story.join("a", 1, 1)
    assert story.quote(1, 1) == 10  # "a" is ahead, and takes the last token
    assert story.quote(2, lane=1) == 10  # who needs no slot passes it


# ------------------------------------------------- a naive queue, that looks at every nanosecond


@dataclass(eq=False)
class Naive:
    """A limit, looked at each nanosecond: how much is left now?"""

    capacity: int
    period: int
    kind: str
    burst: int
    level: int = 0  # buckets: tokens times period
    taken: list[tuple[int, int]] = field(default_factory=list)
    over: int = 0  # fixed windows: when the last one is

    def left(self, now: int) -> int:
        if self.kind == "slots":
            return self.level
        if self.kind == "bucket":
            return self.level // self.period
        return self.capacity - sum(weight for at, weight in self.taken if self.inside(at, now))

    def inside(self, at: int, now: int) -> bool:
        if self.kind == "sliding":
            return now - at < self.period
        return now < self.over

    def is_open(self, now: int) -> bool:
        """Whether something counts in a fixed window."""
        return now < self.over and any(weight for _, weight in self.taken)

    def open(self, now: int) -> None:
        if self.kind == "fixed" and not self.is_open(now):
            self.taken, self.over = [], now + self.period

    def take(self, now: int, weight: int) -> None:
        if self.kind == "slots":
            self.level -= weight
        elif self.kind == "bucket":
            self.level -= weight * self.period
        else:
            self.open(now)
            self.taken.append((now, weight))

    def tick(self) -> None:
        if self.kind == "bucket":
            self.level = min(self.burst * self.period, self.level + self.capacity)

    def empty(self, now: int) -> None:
        if self.kind == "bucket":
            self.level = min(self.level, 0)
        else:
            self.open(now)
            inside = self.capacity - self.left(now)
            self.taken = [(now, max(self.capacity, inside))]

    def fork(self) -> Naive:
        return replace(self, taken=list(self.taken))

    def forgot(self, at: int, now: int) -> bool:
        """Whether it can make no difference any more what was taken at *at*."""
        if self.kind == "bucket":
            return self.level == self.burst * self.period
        return not self.inside(at, now)


@dataclass
class Person:
    """Somebody who asks for *weights* of the limits of *lane*; None does without that one."""

    name: str
    number: int
    lane: int
    weights: tuple[int | None, ...]
    deadline: int = NEVER
    priority: int = 0


class NaiveQueue:
    """All waiters in one list, gone through again each nanosecond and after each event."""

    def __init__(self, lanes: list[list[Naive]], most: int) -> None:
        self.lanes = lanes
        self.most = most  # times in a row that a head is overtaken before it is aged
        self.limits = {limit for lane in lanes for limit in lane}
        self.people: list[Person] = []
        self.overtaken: dict[tuple[int, int], Counter[Naive]] = {}  # by lane and priority
        self.in_rank: dict[Naive, int] = {}  # grants since the last turn out of rank
        self.until: dict[Naive | int, int] = {}  # pauses, of limits and of lanes
        self.empties: set[Naive] = set()
        self.now = 0
        self.book: list[tuple[int, str, State]] = []

    # Who ranks before whom.

    def place(self, person: Person) -> tuple[int, int]:
        """Its lane and class: those of one place go one after the other."""
        return person.lane, person.priority

    def rank(self, person: Person) -> tuple[float, int]:
        return person.priority, person.number

    def first(self) -> list[Person]:
        """The head of each place."""
        first: dict[tuple[int, int], Person] = {}
        for person in self.people:
            first.setdefault(self.place(person), person)
        return list(first.values())

    def heads(self) -> list[tuple[tuple[float, int], Person]]:
        """The first of each place, in the order of their ranks."""
        turns = self.turns()
        ranked = [
            ((-math.inf, head.number) if head in turns else self.rank(head), head)
            for head in self.first()
        ]
        return sorted(ranked, key=lambda ranked: ranked[0])

    def age(self, head: Person) -> int:
        return max(self.overtaken.get(self.place(head), Counter()).values(), default=0)

    def turns(self) -> list[Person]:
        """The heads that go out of rank: on each limit at most one."""
        turns: list[Person] = []
        aged = [head for head in self.first() if self.age(head) >= self.most]
        for head in sorted(aged, key=lambda head: (-self.age(head), *self.rank(head))):
            better = [other for other in self.first() if other.priority < head.priority]
            asked = {limit for other in better for limit in self.lanes[other.lane]}
            times = self.overtaken.get(self.place(head), Counter())
            shared = {limit for limit in self.lanes[head.lane] if times[limit] or limit in asked}
            waits_elsewhere = self.opens_at(head) > self.now or any(
                limit not in shared and limit.left(self.now) < weight
                for limit, weight in self.wants(head)
            )
            taken = {limit for other in turns for limit in self.lanes[other.lane]}
            if (
                shared
                and not waits_elsewhere
                and all(self.in_rank.get(limit, self.most) >= self.most for limit in shared)
                and taken.isdisjoint(self.lanes[head.lane])
            ):
                turns.append(head)
        return turns

    # What somebody wants, and when it might have it.

    def wants(self, person: Person) -> list[tuple[Naive, int]]:
        asked = zip(self.lanes[person.lane], person.weights, strict=True)
        return [(limit, weight) for limit, weight in asked if weight is not None]

    def opens_at(self, person: Person) -> int:
        pauses: list[Naive | int] = [person.lane, *(limit for limit, _ in self.wants(person))]
        return max(self.until.get(pause, 0) for pause in pauses)

    def may_go(self) -> Person | None:
        """The first who lacks nothing, and takes nothing that an earlier one will need."""
        kept = dict.fromkeys(self.limits, 0)
        stuck = False
        ahead: list[list[Person]] = []
        for rank, head in self.heads():
            slots = [(limit, w) for limit, w in self.wants(head) if limit.kind == "slots"]
            lacks = [limit for limit, weight in slots if limit.left(0) - kept[limit] < weight]
            if not lacks and self.opens_at(head) == NEVER:
                continue
            if not lacks and self.ready(head) and not self.hinders(head, rank, ahead):
                return head
            for limit, weight in slots:
                if not lacks or not stuck or limit in lacks:
                    kept[limit] += weight
            if lacks:
                stuck = True
            else:
                ahead.append(list(takewhile(self.has_slots, self.behind(head))))
        return None

    def behind(self, head: Person) -> list[Person]:
        """Those in the place of *head*, and itself."""
        return [person for person in self.people if self.place(person) == self.place(head)]

    def has_slots(self, person: Person) -> bool:
        return all(
            limit.left(self.now) >= weight
            for limit, weight in self.wants(person)
            if limit.kind == "slots"
        )

    def ready(self, person: Person) -> bool:
        return self.opens_at(person) <= self.now and all(
            limit.left(self.now) >= weight for limit, weight in self.wants(person)
        )

    def hinders(self, newcomer: Person, rank: tuple[float, int], ahead: list[list[Person]]) -> bool:
        """Whether anything that *newcomer* takes now will be missing when those ahead need it."""
        before = [[p for p in lane if p is lane[0] or self.rank(p) < rank] for lane in ahead]
        return any(
            self.runs_short(limit, weight, newcomer, before)
            for limit, weight in self.wants(newcomer)
            if limit.kind != "slots"
        )

    def runs_short(
        self, limit: Naive, weight: int, newcomer: Person, ahead: list[list[Person]]
    ) -> bool:
        """Play it through: everybody takes of *limit* as soon as they could.

        That is, as soon as their pauses are over and they could have what they want of the limits
        that the newcomer has nothing to do with.
        """
        mine = [limit for limit, _ in self.wants(newcomer)]
        to_come = [
            deque((person, self.apart(lane[: n + 1], mine)) for n, person in enumerate(lane))
            for lane in ahead
            if limit in self.lanes[lane[0].lane]
        ]
        limit, name = limit.fork(), limit
        if limit.kind == "fixed" and not limit.is_open(self.now):
            return self.moves_edges(limit, weight, name, to_come)
        limit.take(self.now, weight)
        at = self.now
        while not limit.forgot(self.now, at):
            for lane in to_come:
                while lane and self.opens_at(lane[0][0]) <= at:
                    person, others = lane[0]
                    if any(other.left(at) < 0 for other in others):
                        break
                    limit.take(at, dict(self.wants(person)).get(name, 0))
                    lane.popleft()
            if limit.left(at) < 0:
                return True
            at += 1
            for each in [limit, *(o for lane in to_come for _, others in lane for o in others)]:
                each.tick()
        return False

    def moves_edges(
        self,
        limit: Naive,
        weight: int,
        name: Naive,
        to_come: list[deque[tuple[Person, list[Naive]]]],
    ) -> bool:
        """Whether a claim within a period would open a window, and all claims are too much for one.

        Then the newcomer would move the edges of windows to come.
        """
        claims = [(person, others) for lane in to_come for person, others in lane]
        weights = [dict(self.wants(person)).get(name, 0) for person, _ in claims]
        if weight + sum(weights) <= limit.capacity:
            return False
        for at in range(self.now, self.now + limit.period):
            for (person, others), claim in zip(claims, weights, strict=True):
                if claim and self.opens_at(person) <= at and all(o.left(at) >= 0 for o in others):
                    return True
            for _, others in claims:
                for other in others:
                    other.tick()
        return False

    def apart(self, lane: list[Person], mine: list[Naive]) -> list[Naive]:
        """The limits besides *mine* from which everybody in *lane* has taken what they want.

        Of a window no more than all of it.
        """
        sums: dict[Naive, int] = {}
        for person in lane:
            for limit, weight in self.wants(person):
                if limit not in mine and limit.kind != "slots":
                    sums[limit] = sums.get(limit, 0) + weight
        forks = []
        for limit, weight in sums.items():
            fork = limit.fork()
            fork.take(self.now, weight if limit.kind == "bucket" else min(weight, limit.capacity))
            forks.append(fork)
        return forks

    # What happens.

    def settle(self) -> None:
        while True:
            for limit in [limit for limit in self.empties if self.until[limit] <= self.now]:
                limit.empty(self.now)
                self.empties.discard(limit)
            if person := self.may_go():
                self.grant(person)
                self.leave(person)
                self.book.append((self.now, person.name, GRANTED))
                continue
            late = [person for person in self.people if person.deadline <= self.now]
            if not late:
                return
            person = min(late, key=lambda person: person.deadline)
            self.leave(person)
            self.book.append((self.now, person.name, EXPIRED))

    def grant(self, person: Person) -> None:
        out_of_rank = person in self.turns() and any(
            other.priority < person.priority
            and not set(self.lanes[other.lane]).isdisjoint(self.lanes[person.lane])
            and self.ready(other)
            for other in self.first()
        )
        taken = {limit for limit, _ in self.wants(person)}
        for limit, weight in self.wants(person):
            limit.take(self.now, weight)
        for limit in taken:
            if out_of_rank:
                self.in_rank[limit] = 0
            elif limit in self.in_rank:
                self.in_rank[limit] += 1
        self.overtaken[self.place(person)] = Counter()
        for other in self.first():
            if other.priority > person.priority and other.number < person.number:
                both = taken & {limit for limit, _ in self.wants(other)}
                self.overtaken.setdefault(self.place(other), Counter()).update(both)

    def leave(self, person: Person) -> None:
        self.people.remove(person)
        if not any(self.place(other) == self.place(person) for other in self.people):
            self.overtaken[self.place(person)] = Counter()
        if not any(other.priority for other in self.people):
            self.in_rank.clear()

    def run(self, until: int) -> None:
        while self.now < until:
            self.now += 1
            for limit in self.limits:
                limit.tick()
            self.settle()


@dataclass(frozen=True)
class Layout:
    """Rules, and which of them each lane asks for; whether these are sets; how many classes."""

    kinds: tuple[str, ...]
    lanes: tuple[tuple[int, ...], ...]
    sets: bool = False
    classes: int = 1


LAYOUTS = [
    # a throttle
    Layout(("slots", "bucket"), ((0, 1), (1,))),
    Layout(("slots", "fixed"), ((0, 1), (1,))),
    Layout(("slots", "sliding"), ((0, 1), (1,))),
    # several rates
    Layout(("bucket", "sliding"), ((0, 1),)),
    Layout(("bucket", "bucket"), ((0, 1), (0,), (1,))),
    Layout(("bucket", "sliding"), ((0, 1), (0,), (1,))),
    Layout(("fixed", "bucket"), ((0, 1), (0,), (1,))),
    Layout(("bucket", "bucket", "slots"), ((2, 0), (0, 1), (2, 1))),
    Layout(("bucket", "bucket", "bucket"), ((0, 1), (1, 2), (2, 0), (0,))),
    Layout(("bucket", "fixed", "sliding"), ((0, 1, 2), (0, 1), (2, 0), (1,))),
    Layout(("bucket", "bucket"), ((0, 1), (1,)), sets=True),
    Layout(("bucket", "sliding", "slots"), ((0, 1, 2), (2, 1), (0,)), sets=True),
    Layout(("slots", "bucket", "slots"), ((0, 1, 2), (0, 1), (2, 1)), sets=True),
    # several classes
    Layout(("bucket",), ((0,),), classes=3),
    Layout(("slots", "bucket"), ((0, 1), (1,)), classes=2),
    Layout(("bucket", "bucket"), ((0,), (1,), (0, 1)), classes=2),
    Layout(("bucket", "sliding", "slots"), ((0, 1, 2), (0, 1), (0,)), sets=True, classes=3),
]


@dataclass(frozen=True)
class Act:
    """What happens after *gap*; the other numbers mean what the kind needs."""

    gap: int
    kind: str
    lane: int
    amounts: tuple[int | None, ...]
    patience: int = 50
    priority: int = 0


AMOUNTS = st.integers(0, 4)
ACTS = st.builds(
    Act,
    st.just(0) | st.integers(0, 12),
    st.sampled_from([*["join"] * 4, "leave", "ask", "free", "pause", "empty", "resume"]),
    st.integers(0, 3),
    st.tuples(*[AMOUNTS | AMOUNTS | st.none()] * 3),
    st.just(50) | st.integers(0, 60),
    st.integers(0, 2),
)
OVERTAKEN = 2
"""In these lives a head that was overtaken so often is aged, so that it comes to that."""


def new(kind: str, n: int) -> tuple[Rule, Naive]:
    """The same limit twice; each regains a token in a whole number of nanoseconds."""
    every = (7, 5, 4)[n]
    if kind == "slots":
        return Slots(2), Naive(0, 0, kind, 0, level=2)
    if kind == "bucket":
        return bucket(1, every, 4, level=1), Naive(1, every, kind, 4, level=every)
    window = SlidingWindow if kind == "sliding" else FixedWindow
    return window(0, 4 * TOKEN, 3 * every), Naive(4, 3 * every, kind, 4)


def amounts(layout: Layout, lane: int, act: Act) -> list[int | None]:
    """What *act* asks of each rule of *lane*: one or two slots; all of them, unless it is a set."""
    asked: list[int | None] = []
    for rule, amount in zip(layout.lanes[lane], act.amounts, strict=False):
        if amount is None and layout.sets:
            asked.append(None)
        elif layout.kinds[rule] == "slots":
            asked.append(1 + (amount or 0) % 2 if layout.sets else 1)
        else:
            asked.append(amount or 0)
    return asked


def nothing_happens_before_it_is_due(queue: Queue, ahead: int) -> None:
    """Invariant of due_at and wake_at: until then time alone changes nothing, and then it does."""
    assert queue.now < queue.due_at <= queue.wake_at
    assert all(queue.due_at <= pause.until for pause in queue.emptying)
    waiting = queue.waiting
    for now in {queue.now, min(queue.now + ahead, queue.due_at - 1), queue.due_at - 1}:
        if now < NEVER - 1:
            other = twin(queue)
            other.advance(now)
            assert decided(other) == []
            assert (other.now, other.waiting) == (now, waiting)
            assert (other.due_at, other.wake_at) == (queue.due_at, queue.wake_at)
            check(other)
    if queue.due_at < NEVER:
        other = twin(queue)
        pauses = len(other.emptying)
        other.advance(queue.due_at)
        changed = decided(other)
        assert changed or len(other.emptying) < pauses
        check(other)
        if queue.wake_at == queue.due_at < queue.expires_at and not pauses:
            assert changed[0].state is GRANTED


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: " ".join(layout.kinds))
@given(acts=st.lists(ACTS, max_size=25))
@examples(75)
@example(
    acts=[
        Act(0, "join", 0, (1, 4, 0), 60),
        Act(0, "pause", 0, (), 50),
        Act(0, "join", 0, (1, 4, 0), 60),
        Act(1, "resume", 0, (), 0),
    ],
)
@example(
    acts=[
        Act(0, "join", 1, (4, 0, 0), 60),
        Act(0, "join", 0, (1, 4, 0), 60),
        Act(5, "join", 2, (1, 0, 0), 60),
    ],
)
@example(  # the end of a pause gives a turn to one who lacks a slot then
    acts=[
        *[Act(0, "join", 0, (0, 0, 0), 50, 0)] * 6,
        Act(0, "join", 0, (0, 0, 0), 50, 1),
        *[Act(0, "join", 1, (0, 0, 0), 50, 0)] * 2,
        Act(0, "pause", 0, (0, 0, None), 50, 0),
        Act(0, "resume", 1, (), 0),
    ],
)
@example(  # the class that was passed has its turn at the end of a pause
    acts=[
        Act(0, "join", 0, (2, 0, None), 50, 1),
        Act(0, "join", 0, (0, 0, None), 50, 0),
        Act(0, "join", 0, (0, 0, 0), 50, 0),
        Act(0, "join", 0, (0, 0, 0), 50, 0),
        Act(0, "pause", 0, (0, 0, 0), 50, 0),
    ],
)
def test_a_queue_does_what_a_naive_one_does_and_nothing_before_it_is_due(
    layout: Layout, acts: list[Act]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("async_throttle._engine.patience.MAX_OVERTAKEN", OVERTAKEN)
        live(layout, acts)


@given(
    kind=st.sampled_from(["bucket", "fixed", "sliding"]),
    slots=st.sampled_from([0, 2, 9]),
    weights=st.lists(st.integers(0, 4), min_size=3, max_size=12),
    leaving=st.sets(st.integers(0, 11), max_size=2),
    jumps=st.lists(st.sampled_from([1, 3, 10, 40, 100]), min_size=1, max_size=8),
)
@examples(100)
def test_a_lone_lane_is_granted_as_any_other_also_by_late_timers(
    kind: str, slots: int, weights: list[int], leaving: set[int], jumps: list[int]
) -> None:
    def life() -> list[object]:
        rule = new(kind, 0)[0]
        story = Story([Slots(slots), rule] if slots else [rule], grace=7)
        for n, weight in enumerate(weights):
            story.join(f"{n}", *([1] if slots else []), weight)
        for n in leaving:
            if n < len(weights):
                story.leave(f"{n}")
        for jump in jumps:
            story.jump(story.now + jump)
        grants = [
            (name, actor.granted_at, [receipt[1:] for receipt in actor.receipts])
            for name, actor in story.actors.items()
            if actor.state is GRANTED
        ]
        return [story.book, grants, rule.dump(), story.queue.due_at, story.queue.waiting]

    short = life()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Queue, "find_lone", lambda queue: None)
        assert life() == short


@pytest.mark.parametrize("what", ["a count", "a rank", "a forecast", "a second lane", "nobody"])
def test_a_lane_is_lone_only_while_nothing_watches_its_grants(what: str) -> None:
    story = Story([Slots(1), bucket(1, 10, 5)], [bucket(1, 10, 5, level=0)])
    queue, lane = story.queue, story.lanes[0]
    for name in ("holder", "head", "behind"):
        story.join(name, 1, 1)
    assert queue.lone is lane
    match what:
        case "a count":
            queue.keep_count(lane.rules[1])
        case "a rank":
            story.join("urgent", 1, 1, priority=-1)
        case "a forecast":
            queue.foresee(Foresight(queue, lane))
        case "a second lane":
            story.join("other", 1, lane=1)
        case _:
            story.leave("head")
            assert queue.lone is lane
            story.leave("behind")
    assert queue.lone is None
    if what == "a forecast":
        queue.forget()
        assert queue.lone is lane
    check(queue)


def live(layout: Layout, acts: list[Act]) -> None:
    """Both queues live the same life; whatever becomes of anyone, it is the same, and when."""
    pairs = [new(kind, n) for n, kind in enumerate(layout.kinds)]
    story = Story(*([pairs[n][0] for n in lane] for lane in layout.lanes), sets=layout.sets)
    naive = NaiveQueue([[pairs[n][1] for n in lane] for lane in layout.lanes], OVERTAKEN)
    pauses: list[tuple[Rule | Pause, Naive | int]] = [
        *((rule, limit) for rule, limit in pairs if not isinstance(rule, Slots)),
        *((pause, n) for n, pause in enumerate(story.own)),
    ]
    for n, act in enumerate(acts):
        nothing_happens_before_it_is_due(story.queue, act.patience)
        story.run(story.now + act.gap)
        naive.run(naive.now + act.gap)
        assert story.book == naive.book
        lane = act.lane % len(layout.lanes)
        priority = act.priority % layout.classes
        priority -= layout.classes > 1  # the usual class is neither the best nor the worst
        weights = amounts(layout, lane, act)
        match act.kind:
            case "join":
                deadline = NEVER if act.patience > 40 else story.now + act.patience
                person = Person(f"{n}", n, lane, tuple(weights), deadline, priority)
                naive.people.append(person)
                story.join(f"{n}", *weights, lane=lane, deadline=deadline, priority=priority)
            case "ask":
                granted = story.ask(*weights, lane=lane, priority=priority)
                newcomer = Person(f"{n}", n, lane, tuple(weights), priority=priority)
                naive.people.append(newcomer)
                assert granted == (naive.may_go() is newcomer)
                if granted:
                    naive.grant(newcomer)
                naive.leave(newcomer)
            case "leave" if naive.people:
                person = naive.people[act.patience % len(naive.people)]
                naive.leave(person)
                story.leave(person.name)
            case "free":
                for rule, limit in pairs:
                    if isinstance(rule, Slots) and rule.used:
                        rule.free += 1
                        limit.level += 1
                story.decide()
            case "pause" | "empty" | "resume":
                pause, key = pauses[act.lane % len(pauses)]
                if act.kind == "resume":
                    naive.until[key] = min(naive.until.get(key, 0), naive.now)
                    story.resume(pause)
                else:
                    until = NEVER if act.patience > 50 else story.now + act.patience
                    naive.until[key] = max(naive.until.get(key, 0), until)
                    if act.kind == "empty" and isinstance(key, Naive):
                        naive.empties.add(key)
                    story.pause(until, pause, empties=act.kind == "empty")
            case _:
                pass
        naive.settle()
        assert story.book == naive.book
        event(act.kind)
    story.run(story.now + 100)
    naive.run(naive.now + 100)
    assert story.book == naive.book
    assert story.queue.waiting == len(naive.people)
