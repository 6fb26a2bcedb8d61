"""A rule that gets its permits from outside: not known yet is not never.

The rule answers UNKNOWN until its permits arrive. The queue says what is wanted of it, keeps order,
and lets others by where that takes nothing from those who came first.
"""

from __future__ import annotations

import pytest
from test_queue import Story, bucket

from async_throttle import Rule
from async_throttle._engine.lane import EXPIRED, FAILED, GRANTED
from async_throttle._units import NEVER, TOKEN, UNKNOWN
from async_throttle.rules.slots import Slots


class Outside(Rule):
    """Whole tokens out of *permits*, which somebody else fills up."""

    __slots__ = ("permits",)

    def __init__(self, permits: int = 0) -> None:
        self.permits = permits * TOKEN
        super().__init__(0, 9 * TOKEN, 10, 9 * TOKEN)

    def ready_at(self, now: int, weight: int) -> int:
        return now if weight <= self.permits else UNKNOWN

    def take(self, now: int, weight: int) -> None:
        self.permits -= weight

    def refund(self, now: int, receipt: None, weight: int) -> None:
        self.permits += weight

    def level(self, now: int) -> float:
        return self.permits / TOKEN

    def demand(self, weight: int, look_again: object) -> None:
        raise AssertionError("who feeds it is told by the scheduler, not by the queue")


def arrive(story: Story, rule: Outside, permits: int) -> None:
    """So many permits come in, and the queue is asked to look again."""
    rule.permits += permits * TOKEN
    story.decide()


def test_waiters_for_a_rule_that_does_not_know_go_in_order_when_permits_arrive() -> None:
    rule = Outside()
    story = Story([rule])
    for name, weight in [("a", 2), ("b", 1), ("c", 3)]:
        story.join(name, weight)
    story.run(50)
    assert (story.grants, story.queue.wake_at, story.queue.due_at) == ([], NEVER, NEVER)
    arrive(story, rule, 1)
    assert story.grants == []  # "b" does not pass "a"
    arrive(story, rule, 2)
    assert story.run(70) == [(50, "a"), (50, "b")]
    arrive(story, rule, 3)
    assert story.grants[2:] == [(70, "c")]


def test_the_demand_is_what_all_waiters_want_while_the_head_waits_for_the_unknown() -> None:
    rule, other = Outside(), Outside(permits=5)
    story = Story([rule, other], [rule], [other], sets=True)
    story.join("a", 2, 1)
    story.join("b", 1, 4)
    assert story.queue.demand == {rule: 3 * TOKEN}
    story.join("c", 4, lane=1)
    story.join("d", None, 1)
    assert story.queue.demand == {rule: 7 * TOKEN}
    arrive(story, rule, 3)
    assert story.queue.demand == {rule: 4 * TOKEN, other: TOKEN}
    arrive(story, rule, 4)
    arrive(story, other, 1)
    assert story.queue.demand == {}
    assert story.queue.waiting == 0


def test_a_head_that_waits_for_time_or_a_slot_as_well_asks_for_its_permits_already() -> None:
    rule = Outside()
    story = Story([bucket(1, 10, 1, level=0), rule])
    story.join("a", 1, 2)
    assert story.queue.demand == {rule: 2 * TOKEN}
    arrive(story, rule, 2)
    assert (story.queue.demand, story.queue.wake_at) == ({}, 10)
    assert story.run(10) == [(10, "a")]


def test_a_waiter_in_another_lane_does_not_pass_on_the_rule_that_is_not_known() -> None:
    rule = Outside()
    story = Story([rule, bucket(1, 10, 5)], [rule])
    story.join("heavy", 5, 1)
    story.join("light", 2, lane=1)
    arrive(story, rule, 4)
    assert story.grants == []
    assert not story.ask(1, lane=1)
    arrive(story, rule, 1)
    assert story.grants == [(0, "heavy")]
    arrive(story, rule, 2)
    assert story.grants[1:] == [(0, "light")]


def test_a_later_waiter_goes_first_where_there_are_permits_for_both() -> None:
    rule = Outside(permits=5)
    story = Story([rule, bucket(1, 30, 1, level=0)], [rule])
    story.join("heavy", 3, 1)
    assert story.ask(2, lane=1)
    assert not story.ask(1, lane=1)
    assert story.run(100) == [(30, "heavy")]


def test_a_later_waiter_may_pass_on_the_other_rules_but_leaves_the_slot() -> None:
    rule, shared, slots = Outside(), bucket(1, 10, 5), Slots(2)
    story = Story([rule, shared, slots], [shared], [shared, slots])
    story.join("head", 1, 5, 1)
    assert story.ask(5, lane=1)
    story.join("with a slot", 1, 1, lane=2)
    assert story.run(20) == [(10, "with a slot")]
    assert not story.ask(0, 1, lane=2)  # the other slot is reserved
    arrive(story, rule, 1)
    assert story.run(100)[1:] == [(60, "head")]


def test_a_waiter_for_the_unknown_expires_at_its_deadline_and_wants_no_more() -> None:
    rule = Outside()
    story = Story([rule])
    story.join("impatient", 2, deadline=30)
    story.join("patient", 1)
    assert story.queue.due_at == 30
    story.run(40)
    assert story.book == [(30, "impatient", EXPIRED)]
    assert story.queue.demand == {rule: TOKEN}
    story.leave("patient")
    assert story.queue.demand == {}


@pytest.mark.parametrize("sets", [False, True])
def test_a_quote_counts_permits_from_outside_as_if_they_were_there(sets: bool) -> None:
    rule, rate = Outside(), bucket(1, 10, 5, level=0)
    story = Story([rule], [rule, rate], sets=sets)
    story.run(7)
    assert story.quote(3) == 7
    story.join("a", 2)
    assert story.quote(3) == 7
    assert story.quote(1, 2, lane=1) == 20
    arrive(story, rule, 1)
    assert story.quote(1) == 7
    assert story.actors["a"].state is not GRANTED


def test_a_cancelled_head_takes_its_demand_along() -> None:
    rule = Outside()
    story = Story([rule], [rule])
    story.join("a", 4)
    story.join("b", 2, lane=1)
    story.leave("a")
    assert story.queue.demand == {rule: 2 * TOKEN}


@pytest.mark.parametrize("fails_at", range(8))
def test_a_rule_that_fails_while_its_demand_is_noted_fails_at_most_its_caller(
    fails_at: int,
) -> None:
    class Failing(Outside):
        __slots__ = ("asked",)
        asked: int

        def ready_at(self, now: int, weight: int) -> int:
            self.asked += 1
            if self.asked == fails_at + 1:
                raise OSError
            return super().ready_at(now, weight)

    rule = Failing()
    rule.asked = 0
    story = Story([rule])
    waiter = story.join("a", 1)
    for _ in range(8):
        story.decide()
    arrive(story, rule, 1)
    assert waiter.state in (FAILED, GRANTED)
    assert story.queue.waiting == 0
