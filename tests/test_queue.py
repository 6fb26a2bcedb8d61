"""Who goes next: the pure queue, told the time.

Where a story is told, instants are small whole numbers, and rules so chosen that a token comes back
every whole number of them. A `Desk` keeps the book: who was granted or expired, and when.
"""

from __future__ import annotations

import copy
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, ClassVar

import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st
from support import examples, scaled

from async_throttle import FixedWindow, LeakyBucket, Rule, SlidingWindow, TokenBucket
from async_throttle._queue import (
    DROPPED,
    EXPIRED,
    GRANTED,
    QUEUED,
    SKIP,
    UNFIT,
    Caller,
    Gate,
    Line,
    Queue,
    State,
)
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


class Desk:
    """A queue, its lines, and the book of what became of whom.

    Weights are whole tokens and slots, one for each rule of the line; None does without it, which
    takes *sets*: lines that have a pause of their own besides those of their rules. After each
    event the queue is advanced to the same instant, as its users do.
    """

    def __init__(self, *lines: Sequence[Rule], grace: int = 0, sets: bool = False) -> None:
        self.queue = Queue(0, grace)
        self.rules = [tuple(line) for line in lines]
        self.gates = {
            rule: Gate(rule) for line in lines for rule in line if not isinstance(rule, Slots)
        }
        self.own = [Gate() for _ in lines] if sets else []
        self.kept: dict[tuple[int, int], Line] = {}
        self.lines = [self.line(n) for n in range(len(lines))]
        self.callers: dict[str, Caller] = {}
        self.book: list[tuple[int, str, State]] = []

    @property
    def now(self) -> int:
        return self.queue.now

    def line(self, n: int, priority: int = 0) -> Line:
        """The line over the rules of number *n*, for callers of *priority*."""
        rules = self.rules[n]
        gated = {place: self.gates[rule] for place, rule in enumerate(rules) if rule in self.gates}
        gates = tuple(gated.values())
        if self.own:
            line = self.queue.line(rules, (self.own[n], *gates), priority, tuple(gated))
        else:
            line = self.queue.line(rules, gates, priority)
        return self.kept.setdefault((n, priority), line)

    def weights(self, line: int, weights: Iterable[int | None]) -> tuple[int, ...]:
        return tuple(
            SKIP if weight is None else weight if isinstance(rule, Slots) else weight * TOKEN
            for rule, weight in zip(self.rules[line], weights, strict=True)
        )

    def join(
        self,
        name: str,
        *weights: int | None,
        line: int = 0,
        deadline: int = NEVER,
        priority: int = 0,
    ) -> Caller:
        caller = self.callers[name] = Caller()
        self.queue.join(caller, self.line(line, priority), self.weights(line, weights), deadline)
        self.decide()
        return caller

    def ask(self, *weights: int | None, line: int = 0, priority: int = 0) -> bool:
        asked = self.weights(line, weights)
        if self.queue.try_take(self.line(line, priority), asked) is None:
            return False
        self.decide()
        return True

    def quote(self, *weights: int | None, line: int = 0, priority: int = 0) -> int:
        return self.queue.quote(self.line(line, priority), self.weights(line, weights))[0]

    def leave(self, name: str) -> None:
        self.queue.leave(self.callers[name])
        self.decide()

    def pause(self, until: int, at: Rule | Gate | None = None, *, empties: bool = False) -> None:
        self.queue.pause(self.gate(at), until, empties)
        self.decide()

    def resume(self, at: Rule | Gate | None = None) -> None:
        self.queue.resume(self.gate(at))
        self.decide()

    def gate(self, at: Rule | Gate | None) -> Gate:
        if isinstance(at, Gate):
            return at
        return next(iter(self.gates.values())) if at is None else self.gates[at]

    def decide(self) -> None:
        self.jump(self.queue.now)

    def jump(self, now: int) -> None:
        """Advance at once: whoever was due before is woken late."""
        names = {id(caller): name for name, caller in self.callers.items()}
        for caller in self.queue.advance(now):
            self.book.append((now, names[id(caller)], caller.state))

    def run(self, until: int) -> None:
        """Advance at each instant at which something is due, and to *until*."""
        while (due := self.queue.due_at) <= until:
            self.jump(due)
        self.jump(until)

    @property
    def grants(self) -> list[tuple[int, str]]:
        return [(now, name) for now, name, state in self.book if state is GRANTED]


# -------------------------------------------------------------------------------------- the order


def test_callers_go_in_order_of_arrival_whatever_they_weigh() -> None:
    desk = Desk([bucket(1, 10, 5, level=0)])
    for name, weight in [("a", 1), ("b", 5), ("c", 0), ("d", 2), ("e", 1)]:
        desk.join(name, weight)
    desk.run(1000)
    assert desk.grants == [(10, "a"), (60, "b"), (60, "c"), (80, "d"), (90, "e")]


def test_a_heavy_caller_is_not_starved_by_light_ones_that_keep_coming() -> None:
    desk = Desk([bucket(1, 10, 10)])
    assert desk.ask(9)
    desk.join("heavy", 10)
    for now in range(1, 200):
        desk.run(now)
        if desk.callers["heavy"].state is QUEUED:
            assert not desk.ask(1)
        desk.join(f"light {now}", 1)
    assert desk.grants[:2] == [(90, "heavy"), (100, "light 1")]


def test_a_newcomer_may_go_at_once_only_if_nobody_waits() -> None:
    desk = Desk([bucket(1, 10, 5)])
    assert desk.ask(4)
    desk.join("a", 2)
    assert not desk.ask(1)
    assert not desk.ask(0)
    assert not desk.queue.can_take(desk.lines[0], (0,))
    desk.run(10)
    assert desk.ask(0)
    assert desk.grants == [(10, "a")]


def test_a_weight_of_nothing_queues_and_waits_until_a_debt_is_paid() -> None:
    rule = bucket(1, 10, 5, level=0)
    rule.take(0, 2 * TOKEN)
    desk = Desk([rule])
    assert not desk.ask(0)
    assert desk.quote(0) == 20
    desk.join("nothing", 0)
    desk.run(100)
    assert desk.grants == [(20, "nothing")]


# ------------------------------------------------ one decision: a slot and tokens, or several rates


def test_who_lacks_a_slot_burns_no_tokens_and_who_lacks_tokens_holds_no_slot() -> None:
    slots, rule = Slots(1), bucket(1, 10, 2)
    desk = Desk([slots, rule], [rule])
    assert desk.ask(1, 1)
    desk.join("lacks a slot", 1, 1)
    desk.run(50)
    assert rule.level(50) == 2
    slots.free += 1
    desk.decide()
    assert desk.grants == [(50, "lacks a slot")]
    slots.free += 1
    desk.join("lacks tokens", 1, 2)
    assert (slots.used, desk.callers["lacks tokens"].state) == (0, QUEUED)
    desk.run(60)
    assert desk.grants[1:] == [(60, "lacks tokens")]


def test_several_rates_are_decided_together_and_none_is_charged_if_one_refuses() -> None:
    calls, tokens, slots = bucket(1, 10, 3), bucket(5, 10, 20, level=4), Slots(2)
    desk = Desk([calls, slots, tokens])
    assert not desk.ask(1, 1, 5)
    desk.join("a", 1, 1, 10)
    desk.join("b", 3, 1, 0)
    desk.run(11)
    assert (calls.level(11), slots.used, tokens.level(11)) == (3, 0, 9.5)
    desk.run(12)
    assert desk.grants == [(12, "a")]
    assert (calls.level(12), slots.used, tokens.level(12)) == (2, 1, 0)
    desk.run(22)
    assert desk.grants == [(12, "a"), (22, "b")]
    desk.leave("b")
    assert (calls.level(22), slots.used, tokens.level(22)) == (3, 1, 5)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_order_of_the_rules_in_a_line_does_not_matter(order: tuple[int, ...]) -> None:
    rules = [bucket(1, 10, 4, level=1), bucket(2, 30, 9), SlidingWindow(0, 5 * TOKEN, 100)]
    desk = Desk([rules[n] for n in order])
    weights = [(2, 1, 2), (1, 9, 0), (1, 1, 4), (4, 0, 1)]
    for name, weight in zip("abcd", weights, strict=True):
        desk.join(name, *(weight[n] for n in order))
    desk.run(1000)
    assert desk.grants == [(10, "a"), (25, "b"), (110, "c"), (120, "d")]


# ----------------------------------------------------------------------------- the one exception


def slots_and_tokens(slots: int, rule: Rule) -> Desk:
    """Line 0 asks for a slot and tokens, line 1 for tokens alone: a throttle."""
    return Desk([Slots(slots), rule], [rule])


def test_tokens_alone_pass_a_head_that_lacks_a_slot() -> None:
    desk = slots_and_tokens(1, bucket(1, 10, 5))
    assert desk.ask(1, 1)
    desk.join("lacks a slot", 1, 1)
    assert desk.ask(2, line=1)
    desk.join("tokens", 5, line=1)
    desk.run(100)
    assert desk.grants == [(30, "tokens")]


def test_tokens_alone_do_not_pass_a_head_that_waits_for_time() -> None:
    desk = slots_and_tokens(1, bucket(1, 10, 5))
    assert desk.ask(4, line=1)
    desk.join("heavy", 1, 5)
    assert not desk.ask(1, line=1)
    assert not desk.ask(0, line=1)
    desk.join("light", 1, line=1)
    desk.run(100)
    assert desk.grants == [(40, "heavy"), (50, "light")]


def test_a_slot_and_tokens_do_not_pass_tokens_alone_that_came_earlier() -> None:
    desk = slots_and_tokens(5, bucket(1, 10, 5, level=0))
    desk.join("tokens", 5, line=1)
    assert not desk.ask(1, 0)
    desk.join("slot", 1, 1)
    desk.join("more tokens", 1, line=1)
    desk.run(100)
    assert desk.grants == [(50, "tokens"), (60, "slot"), (70, "more tokens")]


def test_a_head_that_gets_its_slot_back_takes_its_old_place_among_those_who_wait_for_tokens() -> (
    None
):
    desk = slots_and_tokens(1, bucket(1, 10, 5))
    slots = desk.lines[0].slots[0][1]
    assert desk.ask(1, 5)
    desk.join("first", 1, 2)
    desk.join("second", 3, line=1)
    desk.run(15)
    slots.free += 1
    desk.decide()
    desk.run(100)
    assert desk.grants == [(20, "first"), (50, "second")]


def test_who_stands_behind_a_head_that_lacks_a_slot_does_not_pass_it() -> None:
    desk = Desk([Slots(2)])
    assert desk.ask(1)
    desk.join("two", 2)
    desk.join("one", 1)
    assert not desk.ask(1)
    desk.run(100)
    assert desk.grants == []
    desk.leave("two")
    assert desk.grants == [(100, "one")]


def test_lines_without_a_rule_in_common_do_not_wait_for_each_other() -> None:
    a, b, c = bucket(1, 10, 9, level=0), bucket(1, 20, 9, level=0), bucket(1, 5, 9, level=0)
    desk = Desk([a, b], [c], [b, c])
    desk.join("both", 9, 1, line=0)
    desk.join("c", 1, line=1)
    assert desk.ask(0, line=1) is False  # behind the one of its own line
    desk.run(200)
    assert desk.grants == [(5, "c"), (90, "both")]


def test_lines_with_a_rule_in_common_wait_for_each_other_only_where_it_would_run_short() -> None:
    # "both" waits for a until 90, and will find enough in b unless more than three go before.
    a, b, c = bucket(1, 10, 9, level=0), bucket(1, 20, 9, level=0), bucket(1, 5, 9, level=0)
    desk = Desk([a, b], [c], [b, c])
    desk.join("both", 9, 1, line=0)
    desk.join("c", 1, line=1)
    for n in range(4):
        desk.join(f"b and c {n}", 1, 1, line=2)
    desk.run(200)
    assert desk.grants == [
        (5, "c"),
        (20, "b and c 0"),
        (40, "b and c 1"),
        (60, "b and c 2"),
        (90, "both"),
        (100, "b and c 3"),
    ]


def test_who_came_later_takes_nothing_from_a_head_that_an_earlier_one_holds_up() -> None:
    # "both" waits for b and, behind "first", for a: light callers that keep coming to b must not
    # keep it waiting.
    a, b = bucket(1, 100, 5, level=0), bucket(1, 10, 5, level=0)
    desk = Desk([a], [a, b], [b])
    desk.join("first", 1, line=0)
    desk.join("both", 0, 5, line=1)
    for now in range(10, 200, 10):
        desk.run(now)
        desk.join(f"light {now}", 1, line=2)
    desk.run(1000)
    assert desk.grants[:3] == [(100, "first"), (100, "both"), (110, "light 10")]


# --------------------------------------------------------------------------------------- deadlines


def test_a_grant_at_the_instant_of_the_deadline_is_a_grant() -> None:
    desk = Desk([bucket(1, 10, 1, level=0)])
    desk.join("in time", 1, deadline=10)
    desk.join("a ns too late", 1, deadline=19)
    desk.join("behind", 1, deadline=20)
    desk.run(100)
    assert desk.book == [
        (10, "in time", GRANTED),
        (19, "a ns too late", EXPIRED),
        (20, "behind", GRANTED),
    ]


def test_who_expires_leaves_no_trace_and_hands_the_place_on() -> None:
    rule = bucket(1, 10, 9, level=0)
    desk = Desk([rule])
    desk.join("heavy", 9, deadline=35)
    desk.join("light", 1)
    desk.join("lighter", 1)
    desk.run(35)
    assert desk.book == [(35, "heavy", EXPIRED), (35, "light", GRANTED), (35, "lighter", GRANTED)]
    assert rule.level(35) == 1.5
    assert desk.queue.waiting == 0


def test_a_deadline_need_not_be_that_of_the_head() -> None:
    desk = Desk([bucket(1, 10, 9, level=0)])
    desk.join("head", 5)
    desk.join("impatient", 1, deadline=20)
    desk.join("patient", 1, deadline=1000)
    assert desk.queue.expires_at == 20
    desk.run(1000)
    assert desk.book == [
        (20, "impatient", EXPIRED),
        (50, "head", GRANTED),
        (60, "patient", GRANTED),
    ]
    assert desk.queue.expires_at == NEVER


def test_a_deadline_of_this_instant_is_now_or_never() -> None:
    desk = Desk([bucket(1, 10, 2)])
    desk.run(50)
    desk.join("now", 2, deadline=50)
    desk.join("never", 1, deadline=50)
    assert desk.book == [(50, "now", GRANTED), (50, "never", EXPIRED)]


def test_late_wake_ups_decide_in_the_order_of_the_instants() -> None:
    # Woken once, at 100, for what was due at 10, 12 and 30: "b" was too late at 12 already.
    desk = Desk([bucket(1, 10, 3, level=0)], grace=1000)
    desk.join("a", 1, deadline=60)
    desk.join("b", 2, deadline=12)
    desk.join("c", 2, deadline=30)
    desk.jump(100)
    assert desk.book == [(100, "a", GRANTED), (100, "b", EXPIRED), (100, "c", GRANTED)]


def test_a_loop_blocked_past_a_deadline_grants_only_what_its_shifted_schedule_allows() -> None:
    desk = Desk([bucket(1, 10, 1, level=0)], grace=0)
    desk.join("a", 1, deadline=15)  # due at 10
    desk.join("b", 1, deadline=25)  # due at 20, had nobody slept
    desk.jump(100)
    assert desk.book == [(100, "a", GRANTED), (100, "b", EXPIRED)]


# ------------------------------------------------------------------------------------ late wake-ups


@pytest.mark.parametrize(("late", "level"), [(0, 0), (3, 0.3), (5, 0.5), (6, 0.5), (500, 0.5)])
def test_lateness_is_paid_back_up_to_the_grace(late: int, level: float) -> None:
    # Granted at 10 + late, as if 5 ago at most: what came back since is there.
    rule = bucket(1, 10, 1, level=0)
    desk = Desk([rule], grace=5)
    desk.join("a", 1)
    desk.jump(10 + late)
    assert desk.grants == [(10 + late, "a")]
    assert rule.level(10 + late) == level


def test_with_late_timers_the_long_run_rate_does_not_sag() -> None:
    desk = Desk([LeakyBucket(0, TOKEN, 10)], grace=5)
    for n in range(1000):
        desk.join(f"{n}", 1)
    lateness = random.Random(1)
    while desk.queue.waiting:
        desk.jump(desk.queue.wake_at + lateness.randrange(6))
    assert 9990 <= desk.grants[-1][0] <= 9995


def test_after_a_blocked_loop_the_schedule_shifts_and_does_not_burst() -> None:
    desk = Desk([LeakyBucket(0, TOKEN, 10)], grace=5)
    for n in range(9):
        desk.join(f"{n}", 1)
    desk.run(20)
    desk.jump(75)  # due were 30, 40, 50, 60, 70
    desk.run(1000)
    assert [now for now, _ in desk.grants] == [0, 10, 20, 75, 80, 90, 100, 110, 120]


@pytest.mark.parametrize("window", [SlidingWindow, FixedWindow])
def test_windows_record_the_real_instant_of_a_late_grant(window: type[Rule]) -> None:
    desk = Desk([window(0, TOKEN, 10)], grace=5)
    for name in "abc":
        desk.join(name, 1)
    desk.jump(14)
    desk.run(100)
    due = 24 if window is SlidingWindow else 20
    assert desk.grants == [(0, "a"), (14, "b"), (due, "c")]


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
        desk = Desk([rule], grace=1000)
        for n, weight in enumerate(weights):
            desk.join(f"{n}", weight)
        (desk.run if punctual else desk.jump)(late)
        levels.append(rule.level(late))
        orders.append([name for _, name in desk.grants])
    assert levels[0] == levels[1]
    assert orders[0] == orders[1]


# ----------------------------------------------------------------------------------------- leaving


def test_leaving_after_the_grant_is_as_if_it_had_never_asked() -> None:
    slots, rule = Slots(1), bucket(1, 10, 5, level=0)
    desk = Desk([slots, rule])
    desk.join("granted", 1, 3)
    desk.join("next", 1, 2)
    desk.run(35)
    assert (slots.used, rule.level(35)) == (1, 0.5)
    desk.leave("granted")
    assert desk.grants == [(30, "granted"), (35, "next")]
    assert (slots.used, rule.level(35)) == (1, 1.5)
    desk.leave("granted")  # a second time does nothing
    assert (slots.used, rule.level(35)) == (1, 1.5)


def test_the_head_that_leaves_wakes_all_who_could_have_gone() -> None:
    desk = Desk([bucket(1, 10, 9, level=3)])
    for name, weight in [("heavy", 9), ("a", 1), ("b", 2), ("c", 1)]:
        desk.join(name, weight)
    desk.leave("heavy")
    assert desk.grants == [(0, "a"), (0, "b")]
    assert desk.queue.wake_at == 10


def test_leaving_from_the_middle_moves_only_those_behind() -> None:
    desk = Desk([bucket(1, 10, 9, level=0)])
    for name in "abcde":
        desk.join(name, 1)
    for name in "bd":
        desk.leave(name)
    assert [len(desk.lines[0]), desk.queue.waiting] == [3, 3]
    assert desk.quote(1) == 40
    desk.run(100)
    assert desk.grants == [(10, "a"), (20, "c"), (30, "e")]


class Watched(Caller):
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
    line = queue.line((slots, rule), (Gate(rule),))
    queue.join(Caller(), line, (1, 10**6 * TOKEN), SECOND)
    queue.advance(0)
    waiters = []
    for n in range(scaled(100_000)):
        waiter = Watched()
        queue.join(waiter, line, (1, TOKEN), 2 * SECOND + n)
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
        assert len(line.waiters) <= 2 * (left + 1)
        assert len(queue.deadlines) <= 2 * (left + 1) + 64
    assert len(line) == queue.waiting == 1
    assert line.backlog == [0, 10**6 * TOKEN]
    # Each leaving costs a bounded number of looks: a queue that searches takes millions.
    assert Watched.looks <= 12 * len(waiters)


def test_deadlines_of_those_who_were_granted_do_not_pile_up() -> None:
    # Somebody with an early deadline always waits; those with late ones go on and on.
    desk = Desk([bucket(1, 1, 1)])
    desk.join("first", 1)
    for now in range(1_000):
        desk.join(f"late {now}", 1, deadline=10**9)
        desk.join(f"early {now}", 1, deadline=10**6)
        desk.run(2 * now)
        assert len(desk.queue.deadlines) <= 2 * desk.queue.waiting + 64


def test_whoever_is_dropped_leaves_no_trace() -> None:
    slots, rule = Slots(1), bucket(1, 10, 5, level=0)
    desk = Desk([slots, rule], [rule])
    desk.join("a", 1, 1, deadline=50)
    desk.join("b", 1, line=1)
    dropped = desk.queue.drop(DROPPED)
    assert dropped == [desk.callers["a"], desk.callers["b"]]
    assert {caller.state for caller in dropped} == {DROPPED}
    desk.decide()
    assert (desk.queue.waiting, desk.queue.due_at, desk.quote(1, line=1)) == (0, NEVER, 10)


def test_whoever_no_longer_fits_is_told_and_the_others_keep_their_places() -> None:
    rule = bucket(1, 10, 5, level=0)
    desk = Desk([rule])
    for name, weight in [("a", 4), ("b", 2), ("c", 5), ("d", 3)]:
        desk.join(name, weight)
    rule.configure(0, TOKEN, 10, 3 * TOKEN)
    unfit = desk.queue.refit(rule)
    desk.decide()
    assert unfit == [desk.callers["a"], desk.callers["c"]]
    assert {caller.state for caller in unfit} == {UNFIT}
    assert desk.quote(1) == 60
    desk.run(100)
    assert desk.grants == [(20, "b"), (50, "d")]


def test_a_rule_that_changes_concerns_only_those_who_want_it() -> None:
    a, b = bucket(1, 10, 5, level=0), bucket(1, 10, 5, level=0)
    desk = Desk([a, b], [b], sets=True)
    desk.join("without a", None, 5)
    desk.join("a and b", 5, 5)
    desk.join("b", 5, line=1)
    a.configure(0, TOKEN, 10, 3 * TOKEN)
    assert desk.queue.refit(a) == [desk.callers["a and b"]]
    b.configure(0, TOKEN, 10, 4 * TOKEN)
    unfit = desk.queue.refit(b)
    assert unfit == [desk.callers["without a"], desk.callers["b"]]
    desk.decide()
    assert (desk.queue.waiting, desk.queue.due_at) == (0, NEVER)


def test_who_does_without_a_rule_is_not_dropped_with_those_who_want_it() -> None:
    a, b = bucket(1, 10, 5, level=0), bucket(1, 10, 5, level=0)
    desk = Desk([a, b], sets=True)
    desk.join("a and b", 1, 1)
    desk.join("without a", None, 1)
    assert desk.queue.drop(DROPPED, a) == [desk.callers["a and b"]]
    desk.decide()
    desk.run(100)
    assert desk.grants == [(10, "without a")]


def test_a_rate_that_is_lifted_lets_everybody_go_and_one_set_again_counts_those_who_wait() -> None:
    rule, slots = bucket(1, 10, 5, level=0), Slots(2)
    desk = Desk([slots, rule])
    for name in "abcd":
        desk.join(name, 1, 1)
    rule.configure(0, math.inf, 10, None)
    assert desk.queue.refit(rule) == []
    desk.decide()
    assert desk.grants == [(0, "a"), (0, "b")]
    rule.configure(0, TOKEN, 10, 5 * TOKEN)
    desk.queue.refit(rule)
    rule.take(0, 5 * TOKEN)
    assert desk.quote(1, 1) == 30
    slots.free += 2
    desk.decide()
    desk.run(100)
    assert desk.grants[2:] == [(10, "c"), (20, "d")]


# ------------------------------------------------------------------------------------------ pauses


def test_a_pause_holds_the_queued_and_newcomers_and_merges_by_the_later_end() -> None:
    desk = Desk([bucket(1, 10, 5, level=0)])
    desk.join("queued", 1)
    desk.pause(70)
    desk.pause(30)
    assert not desk.ask(0)
    assert desk.quote(1) == 70
    desk.join("newcomer", 4)
    desk.run(100)
    assert desk.grants == [(70, "queued"), (70, "newcomer")]


def test_a_pause_holds_every_line_that_passes_the_gate() -> None:
    rule = bucket(1, 10, 5)
    desk = slots_and_tokens(1, rule)
    desk.pause(50)
    assert not desk.ask(1, 0)
    assert not desk.ask(0, line=1)
    desk.run(50)
    assert desk.ask(1, 0)
    assert desk.ask(0, line=1)


def test_a_line_waits_for_the_last_of_its_gates() -> None:
    a, b = bucket(1, 10, 5), bucket(1, 10, 5)
    desk = Desk([a, b], [a])
    desk.pause(50, a)
    desk.pause(80, b)
    desk.join("a", 1, line=1)
    desk.join("both", 1, 1)
    desk.run(100)
    assert desk.grants == [(50, "a"), (80, "both")]


def test_resuming_lets_go_at_once_whoever_can() -> None:
    desk = Desk([bucket(1, 10, 5)])
    desk.pause(NEVER)
    for name in "abc":
        desk.join(name, 2)
    desk.run(10**9)
    assert (desk.grants, desk.queue.due_at, desk.quote(1)) == ([], NEVER, NEVER)
    desk.resume()
    assert desk.grants == [(10**9, "a"), (10**9, "b")]
    desk.run(2 * 10**9)
    assert desk.grants[2:] == [(10**9 + 10, "c")]


def test_a_resumed_pause_does_not_come_back() -> None:
    desk = Desk([bucket(1, 10, 5)])
    desk.pause(100)
    desk.run(10)
    desk.resume()
    assert desk.ask(1)
    desk.resume()
    desk.pause(20)
    desk.join("a", 1)
    desk.run(100)
    assert desk.grants == [(20, "a")]


def test_an_emptying_pause_leaves_nothing_at_its_end() -> None:
    rule = bucket(1, 10, 5)
    desk = Desk([rule])
    desk.pause(20)
    desk.pause(40, empties=True)
    desk.pause(30)
    desk.join("a", 1)
    assert desk.queue.due_at == 40
    assert desk.quote(1) == 60
    desk.run(100)
    assert desk.grants == [(50, "a")]


def test_an_emptying_pause_ends_on_its_own_with_nobody_waiting_and_at_its_own_instant() -> None:
    rule = bucket(1, 10, 5)
    desk = Desk([rule])
    desk.pause(20, empties=True)
    assert (desk.queue.due_at, desk.queue.wake_at) == (20, NEVER)
    desk.jump(35)  # late, but what has come back since is there
    assert rule.level(35) == 1.5
    assert desk.queue.due_at == NEVER


def test_an_emptying_pause_that_is_resumed_empties_at_once() -> None:
    rule = bucket(1, 10, 5)
    desk = Desk([rule])
    desk.pause(100, empties=True)
    desk.run(30)
    assert rule.level(30) == 5
    desk.resume()
    assert rule.level(30) == 0
    desk.run(100)
    assert rule.level(100) == 5


def test_a_pause_of_no_length_empties_now() -> None:
    rule = bucket(1, 10, 5)
    desk = Desk([rule])
    desk.run(7)
    desk.pause(7, empties=True)
    assert (rule.level(7), desk.queue.due_at) == (0, NEVER)
    assert desk.quote(1) == 17


def test_a_deadline_inside_a_pause_expires_there() -> None:
    desk = Desk([bucket(1, 10, 5)])
    desk.pause(50)
    desk.join("a", 1, deadline=49)
    desk.join("b", 1, deadline=50)
    desk.run(100)
    assert desk.book == [(49, "a", EXPIRED), (50, "b", GRANTED)]


# ------------------------------------------------------------- looking ahead leaves the rules alone


def test_a_window_asked_about_the_end_of_a_pause_still_counts_what_is_inside_before() -> None:
    rule = SlidingWindow(0, 10 * TOKEN, 1000)
    desk = Desk([rule])
    assert desk.ask(10)
    desk.pause(10_000)
    desk.join("a", 10)
    desk.run(100)
    desk.resume()
    desk.run(5000)
    assert desk.grants == [(1000, "a")]


def test_a_window_asked_about_the_instant_of_another_rule_still_counts_what_is_inside_before() -> (
    None
):
    window = SlidingWindow(0, 10 * TOKEN, 1000)
    desk = Desk([bucket(1, 1000, 100, level=5), window])
    assert desk.ask(0, 10)
    desk.join("heavy", 15, 1)
    desk.join("light", 0, 10)
    desk.leave("heavy")
    desk.run(5000)
    assert desk.grants == [(1000, "light")]


class Strict(Rule):
    """A rule of somebody's own that believes what the protocol promises it.

    Calls start at least ``period / capacity`` apart, and the time never goes back.
    """

    __slots__ = ("free_at", "seen")

    def __init__(self, now: int, capacity: float, period: int, burst: float | None = None) -> None:
        self.free_at = self.seen = now
        super().__init__(now, capacity, period, burst)

    def see(self, now: int) -> None:
        assert now >= self.seen, f"it was {self.seen}, and now it is {now}"
        self.seen = now

    def ready_at(self, now: int, weight: int) -> int:
        self.see(now)
        return max(now, self.free_at)

    def take(self, now: int, weight: int) -> None:
        self.see(now)
        assert now >= self.free_at, "not an instant that ready_at named"
        self.free_at = now + math.ceil(self.period * TOKEN / self.capacity)

    def level(self, now: int) -> float:
        self.see(now)
        return 1.0 if now >= self.free_at else 0.0


@pytest.mark.parametrize("grace", [0, 5])
def test_a_rule_of_ones_own_is_told_the_time_only_ever_forwards(grace: int) -> None:
    desk = Desk([Strict(0, TOKEN, 10)], grace=grace)
    for n in range(5):
        desk.join(f"{n}", 1)
    for now in (10, 23, 38, 200, 300):
        desk.jump(now)
    assert [now for now, _ in desk.grants] == [0, 10, 23, 38, 200]


# ------------------------------------------------------------------------------------ the quote


Quoted = Callable[[], Desk]
QUOTED: dict[str, Quoted] = {
    "a bucket": lambda: Desk([bucket(3, 7, 40)]),
    "a bucket and slots for all": lambda: Desk([Slots(1000), bucket(10, SECOND, 40)]),
    "a sliding window": lambda: Desk([SlidingWindow(0, 20 * TOKEN, 1000)]),
    "a fixed window": lambda: Desk([FixedWindow(0, 20 * TOKEN, 1000)]),
    "two buckets": lambda: Desk([bucket(3, 7, 20), bucket(50, 600, 20)]),
    "a window and a bucket": lambda: Desk([SlidingWindow(0, 20 * TOKEN, 1000), bucket(1, 9, 40)]),
}


@given(
    kind=st.sampled_from(sorted(QUOTED)),
    arrivals=st.lists(
        st.tuples(st.integers(0, 30) | st.integers(0, 1000), st.integers(0, 20)), max_size=12
    ),
    pause=st.none() | st.tuples(st.integers(0, 300), st.booleans()),
)
@examples(250)
def test_the_quoted_instant_is_the_one_of_the_grant(
    kind: str, arrivals: list[tuple[int, int]], pause: tuple[int, bool] | None
) -> None:
    desk = QUOTED[kind]()
    quoted = {}
    if pause is not None:
        desk.pause(pause[0], empties=pause[1])
    for n, (gap, weight) in enumerate(arrivals):
        desk.run(desk.now + gap)
        weights = [1 if isinstance(rule, Slots) else weight for rule in desk.lines[0].rules]
        before = copy.deepcopy(desk.queue)
        quoted[f"{n}"] = desk.quote(*weights)
        assert desk.queue.advance(desk.now) == []
        assert (desk.queue.due_at, desk.queue.waiting) == (before.due_at, before.waiting)
        desk.join(f"{n}", *weights)
    desk.run(10**12)
    assert {name: now for now, name in desk.grants} == quoted


@pytest.mark.parametrize("capacity", [3, 999_999])
def test_evenly_spaced_callers_go_when_they_were_told_at_any_rate(capacity: int) -> None:
    # A token comes back every 333,333,333 and a third ns: in the long run nothing may be lost.
    desk = Desk([LeakyBucket(0, capacity * TOKEN, SECOND)], grace=5 * MS)
    quoted = []
    for n in range(1001):
        quoted.append((desk.quote(1), f"{n}"))
        desk.join(f"{n}", 1)
    assert quoted == [(-(-n * SECOND // capacity), f"{n}") for n in range(1001)]
    desk.run(1000 * SECOND)
    assert desk.grants == quoted


def test_a_quote_does_not_count_a_missing_slot() -> None:
    desk = slots_and_tokens(1, bucket(1, 10, 5))
    assert desk.ask(1, 4)
    assert desk.quote(1, 1) == 0
    desk.join("a", 1, 1)
    assert desk.quote(1, 1) == 10  # "a" is ahead, and takes the last token
    assert desk.quote(2, line=1) == 10  # who needs no slot passes it


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

    def left(self, now: int) -> int:
        if self.kind == "slots":
            return self.level
        if self.kind == "bucket":
            return self.level // self.period
        return self.capacity - sum(weight for at, weight in self.taken if self.inside(at, now))

    def inside(self, at: int, now: int) -> bool:
        if self.kind == "sliding":
            return now - at < self.period
        return now // self.period == at // self.period

    def take(self, now: int, weight: int) -> None:
        if self.kind == "slots":
            self.level -= weight
        elif self.kind == "bucket":
            self.level -= weight * self.period
        else:
            self.taken.append((now, weight))

    def tick(self) -> None:
        if self.kind == "bucket":
            self.level = min(self.burst * self.period, self.level + self.capacity)

    def empty(self, now: int) -> None:
        if self.kind == "bucket":
            self.level = min(self.level, 0)
        else:
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
    """Somebody who asks for *weights* of the limits of *line*; None does without that one."""

    name: str
    number: int
    line: int
    weights: tuple[int | None, ...]
    deadline: int = NEVER
    priority: int = 0


class NaiveQueue:
    """Everybody in one list, that is gone through again each nanosecond and after each event."""

    def __init__(self, lines: list[list[Naive]], patience: int) -> None:
        self.lines = lines
        self.patience = patience
        self.limits = {limit for line in lines for limit in line}
        self.people: list[Person] = []
        self.passed: dict[tuple[int, int], int] = {}  # by line and priority
        self.until: dict[Naive | int, int] = {}  # pauses, of limits and of lines
        self.empties: set[Naive] = set()
        self.now = 0
        self.book: list[tuple[int, str, State]] = []

    # Who ranks before whom.

    def place(self, person: Person) -> tuple[int, int]:
        """Its line and class: those of one place go one after the other."""
        return person.line, person.priority

    def rank(self, person: Person) -> tuple[float, int]:
        return person.priority, person.number

    def heads(self) -> list[tuple[tuple[float, int], Person]]:
        """The first of each place, in the order of their ranks."""
        first: dict[tuple[int, int], Person] = {}
        for person in self.people:
            first.setdefault(self.place(person), person)
        ranked = []
        for place, head in first.items():
            turn = self.passed.get(place, 0) >= self.patience
            ranked.append(((-math.inf, head.number) if turn else self.rank(head), head))
        return sorted(ranked, key=lambda ranked: ranked[0])

    # What somebody wants, and when it might have it.

    def wants(self, person: Person) -> list[tuple[Naive, int]]:
        asked = zip(self.lines[person.line], person.weights, strict=True)
        return [(limit, weight) for limit, weight in asked if weight is not None]

    def opens_at(self, person: Person) -> int:
        gates: list[Naive | int] = [person.line, *(limit for limit, _ in self.wants(person))]
        return max(self.until.get(gate, 0) for gate in gates)

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
        before = [[p for p in line if p is line[0] or self.rank(p) < rank] for line in ahead]
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
            deque((person, self.apart(line[: n + 1], mine)) for n, person in enumerate(line))
            for line in ahead
            if limit in self.lines[line[0].line]
        ]
        limit, name = limit.fork(), limit
        limit.take(self.now, weight)
        at = self.now
        while not limit.forgot(self.now, at):
            for line in to_come:
                while line and self.opens_at(line[0][0]) <= at:
                    person, others = line[0]
                    if any(other.left(at) < 0 for other in others):
                        break
                    limit.take(at, dict(self.wants(person)).get(name, 0))
                    line.popleft()
            if limit.left(at) < 0:
                return True
            at += 1
            for each in [limit, *(o for line in to_come for _, others in line for o in others)]:
                each.tick()
        return False

    def apart(self, line: list[Person], mine: list[Naive]) -> list[Naive]:
        """The limits besides *mine* from which everybody in *line* has taken what they want.

        Of a window no more than all of it.
        """
        sums: dict[Naive, int] = {}
        for person in line:
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
        for limit, weight in self.wants(person):
            limit.take(self.now, weight)
        self.passed[self.place(person)] = 0
        for _, other in self.heads():
            if (
                other.priority > person.priority
                and other.number < person.number
                and not set(self.lines[other.line]).isdisjoint(self.lines[person.line])
            ):
                self.passed[self.place(other)] = self.passed.get(self.place(other), 0) + 1

    def leave(self, person: Person) -> None:
        self.people.remove(person)
        if not any(self.place(other) == self.place(person) for other in self.people):
            self.passed[self.place(person)] = 0

    def run(self, until: int) -> None:
        while self.now < until:
            self.now += 1
            for limit in self.limits:
                limit.tick()
            self.settle()


@dataclass(frozen=True)
class Layout:
    """Rules, and which of them each line asks for; whether these are sets; how many classes."""

    kinds: tuple[str, ...]
    lines: tuple[tuple[int, ...], ...]
    sets: bool = False
    classes: int = 1


THROTTLES = [
    Layout(("slots", "bucket"), ((0, 1), (1,))),
    Layout(("slots", "fixed"), ((0, 1), (1,))),
]
SLIDING = [
    Layout(("slots", "sliding"), ((0, 1), (1,))),
    Layout(("bucket", "sliding"), ((0, 1),)),
]
TOGETHER = [
    Layout(("bucket", "bucket"), ((0, 1), (0,), (1,))),
    Layout(("bucket", "sliding"), ((0, 1), (0,), (1,))),
    Layout(("fixed", "bucket"), ((0, 1), (0,), (1,))),
    Layout(("bucket", "bucket", "slots"), ((2, 0), (0, 1), (2, 1))),
    Layout(("bucket", "bucket", "bucket"), ((0, 1), (1, 2), (2, 0), (0,))),
    Layout(("bucket", "fixed", "sliding"), ((0, 1, 2), (0, 1), (2, 0), (1,))),
]
SETS = [
    Layout(("bucket", "bucket"), ((0, 1), (1,)), sets=True),
    Layout(("bucket", "sliding", "slots"), ((0, 1, 2), (2, 1), (0,)), sets=True),
    Layout(("slots", "bucket", "slots"), ((0, 1, 2), (0, 1), (2, 1)), sets=True),
]
RANKED = [
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
    line: int
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
PATIENT = 2
"""In these lives a class is passed over no more often, so that it comes to that."""


def new(kind: str, n: int) -> tuple[Rule, Naive]:
    """The same limit twice; each regains a token in a whole number of nanoseconds."""
    every = (7, 5, 4)[n]
    if kind == "slots":
        return Slots(2), Naive(0, 0, kind, 0, level=2)
    if kind == "bucket":
        return bucket(1, every, 4, level=1), Naive(1, every, kind, 4, level=every)
    window = SlidingWindow if kind == "sliding" else FixedWindow
    return window(0, 4 * TOKEN, 3 * every), Naive(4, 3 * every, kind, 4)


def amounts(layout: Layout, line: int, act: Act) -> list[int | None]:
    """What *act* asks of each rule of *line*: one or two slots; all of them, unless it is a set."""
    asked: list[int | None] = []
    for rule, amount in zip(layout.lines[line], act.amounts, strict=False):
        if amount is None and layout.sets:
            asked.append(None)
        elif layout.kinds[rule] == "slots":
            asked.append(1 + (amount or 0) % 2 if layout.sets else 1)
        else:
            asked.append(amount or 0)
    return asked


def live(layout: Layout, acts: list[Act], *, cautious: bool) -> None:
    """Both queues live the same life; whatever becomes of anyone, it is the same, and when.

    If *cautious*, the real one is also advanced where nothing is due, and must not move.
    """
    pairs = [new(kind, n) for n, kind in enumerate(layout.kinds)]
    desk = Desk(*([pairs[n][0] for n in line] for line in layout.lines), sets=layout.sets)
    naive = NaiveQueue([[pairs[n][1] for n in line] for line in layout.lines], PATIENT)
    gates: list[tuple[Rule | Gate, Naive | int]] = [
        *((rule, limit) for rule, limit in pairs if not isinstance(rule, Slots)),
        *((gate, n) for n, gate in enumerate(desk.own)),
    ]
    for n, act in enumerate(acts):
        if cautious:
            nothing_happens_before_it_is_due(desk.queue, act.patience)
        desk.run(desk.now + act.gap)
        naive.run(naive.now + act.gap)
        assert desk.book == naive.book
        line = act.line % len(layout.lines)
        priority = act.priority % layout.classes
        weights = amounts(layout, line, act)
        match act.kind:
            case "join":
                deadline = NEVER if act.patience > 40 else desk.now + act.patience
                person = Person(f"{n}", n, line, tuple(weights), deadline, priority)
                naive.people.append(person)
                desk.join(f"{n}", *weights, line=line, deadline=deadline, priority=priority)
            case "ask":
                granted = desk.ask(*weights, line=line, priority=priority)
                newcomer = Person(f"{n}", n, line, tuple(weights), priority=priority)
                naive.people.append(newcomer)
                assert granted == (naive.may_go() is newcomer)
                if granted:
                    naive.grant(newcomer)
                naive.leave(newcomer)
            case "leave" if naive.people:
                person = naive.people[act.patience % len(naive.people)]
                naive.leave(person)
                desk.leave(person.name)
            case "free":
                for rule, limit in pairs:
                    if isinstance(rule, Slots) and rule.used:
                        rule.free += 1
                        limit.level += 1
                desk.decide()
            case "pause" | "empty" | "resume":
                gate, key = gates[act.line % len(gates)]
                if act.kind == "resume":
                    naive.until[key] = min(naive.until.get(key, 0), naive.now)
                    desk.resume(gate)
                else:
                    until = NEVER if act.patience > 50 else desk.now + act.patience
                    naive.until[key] = max(naive.until.get(key, 0), until)
                    if act.kind == "empty" and isinstance(key, Naive):
                        naive.empties.add(key)
                    desk.pause(until, gate, empties=act.kind == "empty")
            case _:
                pass
        naive.settle()
        assert desk.book == naive.book
        event(act.kind)
    desk.run(desk.now + 100)
    naive.run(naive.now + 100)
    assert desk.book == naive.book
    assert desk.queue.waiting == len(naive.people)


def nothing_happens_before_it_is_due(queue: Queue, ahead: int) -> None:
    """Invariant of due_at and wake_at: until then time alone changes nothing, and then it does."""
    assert queue.now < queue.due_at <= queue.wake_at
    assert all(queue.due_at <= gate.until for gate in queue._gates)
    waiting = queue.waiting
    for now in {queue.now, min(queue.now + ahead, queue.due_at - 1), queue.due_at - 1}:
        if now < NEVER - 1:
            twin = copy.deepcopy(queue)
            assert twin.advance(now) == []
            assert (twin.now, twin.waiting) == (now, waiting)
            assert (twin.due_at, twin.wake_at) == (queue.due_at, queue.wake_at)
    if queue.due_at < NEVER:
        twin = copy.deepcopy(queue)
        pauses = len(twin._gates)
        changed = twin.advance(queue.due_at)
        assert changed or len(twin._gates) < pauses
        if queue.wake_at == queue.due_at < queue.expires_at and not pauses:
            assert changed[0].state is GRANTED


@given(layout=st.sampled_from(THROTTLES), acts=st.lists(ACTS, max_size=25))
@examples(250)
def test_a_queue_for_slots_and_a_rate_does_what_a_naive_one_does(
    layout: Layout, acts: list[Act]
) -> None:
    live(layout, acts, cautious=False)


@given(layout=st.sampled_from(SLIDING), acts=st.lists(ACTS, max_size=25))
@examples(100)
@example(
    layout=SLIDING[0],
    acts=[
        Act(0, "join", 0, (1, 4), 60),
        Act(0, "pause", 0, (), 50),
        Act(0, "join", 0, (1, 4), 60),
        Act(1, "resume", 0, (), 0),
    ],
)
def test_a_queue_for_a_sliding_window_does_what_a_naive_one_does(
    layout: Layout, acts: list[Act]
) -> None:
    live(layout, acts, cautious=True)


@given(layout=st.sampled_from(TOGETHER), acts=st.lists(ACTS, max_size=25))
@examples(300)
@example(
    layout=TOGETHER[0],
    acts=[
        Act(0, "join", 1, (4, 0), 60),
        Act(0, "join", 0, (1, 4), 60),
        Act(5, "join", 2, (1, 0), 60),
    ],
)
def test_a_queue_for_several_rates_does_what_a_naive_one_does(
    layout: Layout, acts: list[Act]
) -> None:
    live(layout, acts, cautious=True)


@given(layout=st.sampled_from(SETS), acts=st.lists(ACTS, max_size=25))
@examples(200)
def test_a_queue_for_sets_does_what_a_naive_one_does(layout: Layout, acts: list[Act]) -> None:
    live(layout, acts, cautious=True)


@given(layout=st.sampled_from(RANKED), acts=st.lists(ACTS, max_size=25))
@examples(200)
def test_a_queue_with_priorities_does_what_a_naive_one_does(
    layout: Layout, acts: list[Act]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("async_throttle._queue.PATIENCE", PATIENT)
        live(layout, acts, cautious=True)


@given(layout=st.sampled_from(THROTTLES), acts=st.lists(ACTS, max_size=15))
@examples(100)
def test_time_alone_changes_nothing_before_it_is_due_and_something_when_it_is(
    layout: Layout, acts: list[Act]
) -> None:
    live(layout, acts, cautious=True)
