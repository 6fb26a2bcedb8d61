"""Exceptions and cancellations in the middle of an event leave a queue that is right.

A rule may raise whenever it is asked, and a signal handler at any moment: here both come from a
rule. What a queue keeps for speed is compared with what it should be by `check`, after `repair`
where the exception has come in the middle.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from inspect import CO_GENERATOR
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from support import scaled
from test_queue import Story, bucket, decided

import async_throttle
from async_throttle import Rule, TokenBucket
from async_throttle._engine.check import check, repair, told
from async_throttle._engine.forecast import Actor, quote
from async_throttle._engine.lane import (
    DROPPED,
    FAILED,
    GONE,
    GRANTED,
    QUEUED,
    SKIP,
    Callers,
    Pause,
)
from async_throttle._engine.overtaking import Run
from async_throttle._units import NEVER, TOKEN
from async_throttle.rules.slots import Slots

PACKAGE = str(Path(async_throttle.__file__).parent)

# ------------------------------------------------------------------------- the check itself


def busy_story() -> Story:
    story = Story([Slots(1), bucket(1, 10, 5, level=1)], [bucket(1, 10, 5, level=0)])
    story.join("granted", 1, 1)
    story.join("head", 1, 1)
    story.join("behind", 1, 2, deadline=500)
    story.join("urgent", 2, lane=1, priority=-1)
    return story


def lose_the_head(story: Story) -> None:
    lane = story.lanes[0]
    story.actors["head"].state, lane.left, lane.backlog[1] = GONE, 1, 2 * TOKEN


def run(story: Story) -> Run:
    """Where the heads stand that ask for a slot."""
    return story.queue.patience.asking[story.rules[0][0]].runs[0]


def counted(story: Story) -> Callers:
    """The callers that wait for a rate, counted as they come and go from now on."""
    rule = story.rules[0][1]
    story.queue.keep_count(rule)
    check(story.queue)
    return story.queue.counts[rule]


def uncounted(story: Story) -> None:
    counted(story)
    story.lanes[0].counted = ()


def remember_a_turn(story: Story) -> None:
    story.leave("urgent")
    story.queue.patience.in_rank[story.rules[0][1]] = 7


FAULTS: list[tuple[str, Callable[[Story], Any]]] = [
    ("lane.backlog is 7, should be [1-9]", lambda s: s.lanes[0].backlog.__setitem__(1, 7)),
    ("lane.left is 1, should be 0", lambda s: setattr(s.lanes[0], "left", 1)),
    ("lane.opens_at is 7, should be -", lambda s: setattr(s.lanes[0], "opens_at", 7)),
    (r"lane.takes is \(\), should be \(\(1", lambda s: setattr(s.lanes[0], "takes", ())),
    (r"patience.asking is {.*\)\]}, should be {", lambda s: run(s).heads.clear()),
    ("the worst of a run is 7, should be 0", lambda s: setattr(run(s), "worst", 7)),
    ("the most of a run is -7, should be 0", lambda s: setattr(run(s), "most", -7)),
    ("the aged of a run is .*, should be ..", lambda s: setattr(run(s), "aged", [(1, 2, 3, None)])),
    ("the head is .*GONE.*, should be .*QUEUED", lose_the_head),
    (r"busy is \[\d+\], should be \[\d+, \d+\]", lambda s: s.queue.busy.pop()),
    ("waiting is 7, should be 3", lambda s: setattr(s.queue, "waiting", 7)),
    ("lone is <.*Lane .*>, should be None", lambda s: setattr(s.queue, "lone", s.lanes[0])),
    ("ranked is 0, should be 1", lambda s: setattr(s.queue, "ranked", 0)),
    (r"deadlines is \[\], should be \[\(500", lambda s: s.queue.deadlines.clear()),
    (
        "emptying is False, should be True",
        lambda s: setattr(next(iter(s.pauses.values())), "empties", True),
    ),
    ("emptying is False, should be True", lambda s: setattr(s.queue, "emptying", [Pause()])),
    (r"patience is {.+: 7}, should be {}", remember_a_turn),
    ("counts is 7, should be [1-9]", lambda s: setattr(counted(s), "alone", 7)),
    (r"lane.counted is \(\), should be \(\(1", uncounted),
    (r"decided is \[.+\], should be \[\]", lambda s: s.queue.decided.append(s.actors["head"])),
    ("wake_at is 7, should be 20", lambda s: setattr(s.queue, "wake_at", 7)),
    ("due_at is 7, should be 20", lambda s: setattr(s.queue, "due_at", 7)),
]


@pytest.mark.parametrize(("difference", "spoil"), FAULTS)
def test_a_derived_field_that_is_wrong_is_named_with_the_whole_state_and_repaired(
    difference: str, spoil: Callable[[Story], Any]
) -> None:
    story = busy_story()
    check(story.queue)
    spoil(story)
    with pytest.raises(AssertionError, match=difference) as found:
        check(story.queue)
    assert told(story.queue) in str(found.value)
    repair(story.queue)
    assert story.queue.due_at == story.queue.now
    story.decide()


def test_what_a_queue_expects_of_time_is_not_checked_before_it_is_advanced() -> None:
    story = busy_story()
    story.queue.shift(5)
    check(story.queue)


def test_a_pause_that_empties_is_repaired_too_where_nobody_keeps_a_lane() -> None:
    rule = bucket(1, 10, 5)
    story = Story([rule])
    story.pause(20, empties=True)
    story.lanes.clear()
    story.kept.clear()
    repair(story.queue)
    story.run(30)
    assert rule.level(30) == 1


def test_what_is_told_of_a_queue_has_a_line_for_each_lane_and_each_waiter() -> None:
    story = busy_story()
    lines = told(story.queue).splitlines()
    assert lines[0] == "now 0, waiting 3, wakes at 20"
    assert [line.split()[0] for line in lines[1:]].count("lane") == 3
    assert sum("wants" in line for line in lines) == 3


# ----------------------------------------------------------- a caller that was cancelled


class Quitter(Actor):
    """A caller that may be cancelled, and has not left yet."""

    __slots__ = ("quits",)

    def __init__(self) -> None:
        super().__init__()
        self.quits = False

    def cancelled(self) -> bool:
        return self.quits


def test_a_head_that_was_cancelled_is_taken_out_when_the_next_event_comes() -> None:
    rule = bucket(1, 10, 5, level=0)
    story = Story([rule])
    head = Quitter()
    story.join("head", 5, actor=head)
    story.join("next", 1)
    head.quits = True
    story.run(10)
    assert (head.state, story.grants) == (GONE, [(10, "next")])
    assert (rule.level(10), story.queue.waiting) == (0, 0)


def test_a_caller_in_two_lanes_that_was_cancelled_is_taken_out_of_both() -> None:
    story = Story([bucket(1, 10, 5, level=0)], [bucket(1, 10, 5, level=0)], sets=True)
    pool = [Quitter(), Quitter()]
    for n, actor in enumerate(pool):
        actor.rivals = pool
        story.join(f"pool@{n}", 5, lane=n, actor=actor)
    for actor in pool:
        actor.quits = True
    story.run(10)
    assert [actor.state for actor in pool] == [GONE, GONE]
    assert (story.queue.waiting, story.queue.due_at) == (0, NEVER)


# ------------------------------------------------------------------------ a rule that raises


class Moody(TokenBucket):
    """A bucket that raises *error* when it is asked by *method* for a weight of *weight*."""

    __slots__ = ("error", "method", "weight")

    error: BaseException | None
    method: str
    weight: int

    def __init__(self, *args: Any) -> None:
        self.error = None
        super().__init__(*args)

    def fail(self, method: str, weight: int = 3 * TOKEN) -> None:
        self.error, self.method, self.weight = ValueError(method), method, weight

    def mood(self, method: str, weight: int) -> None:
        if self.error is not None and (method, weight) == (self.method, self.weight):
            raise self.error

    def ready_at(self, now: int, weight: int) -> int:
        self.mood("ready_at", weight)
        return super().ready_at(now, weight)

    def take(self, now: int, weight: int) -> int | None:
        self.mood("take", weight)
        return super().take(now, weight)

    def forgets_at(self, now: int, weight: int) -> int:
        self.mood("forgets_at", weight)
        return super().forgets_at(now, weight)


def moody(every: int = 10, burst: int = 5, level: int = 0) -> Moody:
    rule = Moody(0, TOKEN, every, burst * TOKEN)
    rule.take(0, (burst - level) * TOKEN)
    return rule


@pytest.mark.parametrize("method", ["ready_at", "take"])
def test_a_rule_that_raises_for_a_head_fails_that_waiter_and_the_next_is_looked_at(
    method: str,
) -> None:
    slots, plain, rule = Slots(2), bucket(1, 10, 5), moody()
    story = Story([slots, plain, rule])
    story.join("before", 1, 1, 1)
    head = story.join("head", 1, 2, 3)
    story.join("next", 1, 1, 2)
    rule.fail(method)
    story.run(100)
    assert head.state is FAILED
    assert head.error is rule.error
    assert story.grants[0] == (10, "before")
    assert story.actors["next"].state is GRANTED
    assert (slots.used, plain.level(100), rule.level(100)) == (2, 5, 5)
    plain_taken = [weight for r, weight, _ in story.actors["next"].receipts if r is plain]
    assert plain_taken == [TOKEN]


def test_what_was_taken_for_a_caller_that_fails_is_given_back_at_once() -> None:
    slots, plain, rule = Slots(2), bucket(1, 10, 5), moody(level=5)
    story = Story([slots, plain, rule])
    rule.fail("take")
    with pytest.raises(ValueError, match="take"):
        story.ask(1, 4, 3)
    story.join("fails", 1, 4, 3)
    assert story.book == [(0, "fails", FAILED)]
    assert (slots.used, plain.level(0), rule.level(0)) == (0, 5, 5)


def test_a_rule_that_raises_when_it_is_given_back_keeps_the_others_from_nothing() -> None:
    class Miser(TokenBucket):
        def refund(self, now: int, receipt: int | None, weight: int) -> None:
            raise ValueError(f"refund {weight // TOKEN}")

    slots, plain, *misers = Slots(2), bucket(1, 10, 5), *(Miser(0, TOKEN, 10) for _ in "12")
    story = Story([slots, plain, *misers])
    story.join("granted", 1, 4, 0, 1)
    with pytest.raises(ValueError, match="refund 1"):
        story.leave("granted")
    assert (slots.used, plain.level(0), story.actors["granted"].state) == (0, 5, GONE)


class Keeper(Rule):
    """A rule of a user's own that cannot give back, and may raise."""

    def ready_at(self, now: int, weight: int) -> int:
        return now

    def take(self, now: int, weight: int) -> None:
        raise ValueError("take")

    def level(self, now: int) -> float:
        return 1.0


def test_a_rule_that_cannot_give_back_is_asked_last() -> None:
    keeper, plain = Keeper(0, TOKEN, 10), bucket(1, 10, 5)
    story = Story([keeper, plain])
    assert [rule for _, rule in story.lanes[0].takes] == [plain, keeper]
    story.join("fails", 1, 1)
    assert story.book == [(0, "fails", FAILED)]
    assert plain.level(0) == 5


@pytest.mark.parametrize("method", ["ready_at", "take"])
@pytest.mark.parametrize("classes", [(0, 0), (0, 1), (1, 0)])
def test_a_rule_that_raises_fails_the_head_of_one_of_several_lanes_and_no_other(
    method: str, classes: tuple[int, int]
) -> None:
    shared, own = bucket(1, 10, 5, level=0), moody()
    story = Story([shared, own], [shared])
    story.join("fails", 1, 3, priority=classes[0])
    story.join("other", 1, lane=1, priority=classes[1])
    own.fail(method)
    story.run(100)
    states = {name: actor.state for name, actor in story.actors.items()}
    assert states == {"fails": FAILED, "other": GRANTED}
    assert story.queue.waiting == 0


def test_a_rule_that_raises_while_room_is_kept_for_others_fails_the_newcomer() -> None:
    shared, own = moody(level=5), bucket(1, 30, 1, level=0)
    story = Story([shared, own], [shared])
    story.join("head", 3, 1)
    shared.fail("forgets_at", 5 * TOKEN)
    with pytest.raises(ValueError, match="forgets_at"):
        story.ask(5, lane=1)
    story.join("newcomer", 5, lane=1)
    assert story.actors["newcomer"].state is FAILED
    assert story.run(100) == [(30, "head")]


def test_a_quote_raises_what_a_rule_raises_for_the_newcomer() -> None:
    class Broken(TokenBucket):
        def ready_at(self, now: int, weight: int) -> int:
            raise ValueError("ready_at")

    with pytest.raises(ValueError, match="ready_at"):
        Story([Broken(0, TOKEN, 10)], sets=True).quote(1)


def test_a_newcomer_does_not_see_what_a_rule_raises_for_a_waiter() -> None:
    shared, own = bucket(1, 10, 5), moody()
    story = Story([shared, own], [shared])
    head = story.join("head", 1, 3)
    story.join("next", 1, 1)
    own.fail("ready_at")
    assert story.ask(4, lane=1)
    assert head.state is FAILED
    assert story.quote(1, lane=1) == 0


def test_a_rule_that_raises_when_a_turn_out_of_rank_is_looked_for_fails_that_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("async_throttle._engine.patience.MAX_OVERTAKEN", 2)
    shared, own = bucket(1, 10, 5, level=0), moody(level=5)
    story = Story([shared, own], [shared])
    low = story.join("low", 1, 3, priority=1)
    for n in range(4):
        story.join(f"high {n}", 1, lane=1)
    story.run(20)
    own.fail("ready_at")
    story.run(100)
    assert low.state is FAILED
    assert [name for _, name in story.grants] == ["high 0", "high 1", "high 2", "high 3"]


# ----------------------------------------------- an exception at any place of an event


class Accounted(TokenBucket):
    """A bucket that keeps account of what was taken."""

    taken = 0

    def take(self, now: int, weight: int) -> int | None:
        receipt = super().take(now, weight)
        self.taken += weight
        return receipt

    def refund(self, now: int, receipt: Any, weight: int) -> None:
        super().refund(now, receipt, weight)
        self.taken -= weight

    def empty(self, now: int) -> None:
        taken = self.taken
        super().empty(now)
        self.taken = taken


def crowd(*, sets: bool) -> Story:
    """Waiters of several classes in several lanes, with deadlines and an emptying pause."""
    rules = []
    for every, level in [(10, 2), (7, 0), (30, 0)]:
        rule = Accounted(0, TOKEN, every, 5 * TOKEN)
        rule.charge(0, (5 - level) * TOKEN)
        rule.taken = 0
        rules.append(rule)
    a, b, c = rules
    slots = Slots(3)
    story = Story([slots, a], [a, b], [slots, b, c], [c], sets=sets)
    story.pause(12, b, empties=True)
    for n in range(3):
        story.join(f"a {n}", 1, 1, lane=0, priority=1)
        story.join(f"ab {n}", 1, 2, lane=1, deadline=15 + 40 * n)
        story.join(f"bc {n}", 1, n, 1, lane=2, priority=n % 2)
        story.join(f"c {n}", 1, lane=3)
    if sets:
        pool = [Actor(), Actor()]
        for n, actor in enumerate(pool):
            actor.rivals = pool
            story.join(f"pool {n}", 2, *([None] * (1 - n)), lane=3 * n, actor=actor)
    return story


def balanced(story: Story, *, left: str | None = None) -> None:
    """No waiter is lost, none was granted twice, and each rule gave what the grants took."""
    queue = story.queue
    queued = list(queue.waiters())
    names = {id(actor): name for name, actor in story.actors.items()}
    for waiter in decided(queue):
        if waiter.state is not QUEUED:
            story.book.append((queue.now, names[id(waiter)], waiter.state))
    book = [name for _, name, _ in story.book]
    assert len(set(book)) == len(book)
    taken: dict[Rule, int] = {}
    for name, actor in story.actors.items():
        assert (actor.state is QUEUED) == (actor in queued)
        if name != left:
            assert (actor.state in (QUEUED, GONE)) != (name in book), f"{name} is {actor.state}"
        if actor.state is GONE and name != left:
            assert any(rival.state not in (QUEUED, GONE) for rival in actor.rivals)
        if actor.state is GRANTED:
            for rule, weight in zip(actor.lane.rules, actor.weights, strict=True):
                taken[rule] = taken.get(rule, 0) + max(0, weight)
            assert len(actor.receipts) == sum(weight != SKIP for weight in actor.weights)
    for rule in {rule for lane in story.rules for rule in lane}:
        found = rule.used if isinstance(rule, Slots) else rule.taken  # type: ignore[attr-defined]
        assert found == taken.get(rule, 0)


@contextmanager
def interrupted_at(place: int) -> Iterator[list[int]]:
    """KeyboardInterrupt where the *place*-th function of the package begins; counts them."""
    seen = [0]

    def trace(frame: FrameType, what: str, argument: object) -> None:
        if PACKAGE in frame.f_code.co_filename and not frame.f_code.co_flags & CO_GENERATOR:
            seen[0] += 1
            if seen[0] == place:
                raise KeyboardInterrupt

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(before)


EVENTS: dict[str, Callable[[Story], None]] = {
    "advance": lambda story: story.queue.advance(40),
    "ab 0 leaves": lambda story: story.queue.leave(story.actors["ab 0"]),
    "a 2 leaves": lambda story: story.queue.leave(story.actors["a 2"]),
    "a 0 leaves": lambda story: story.queue.leave(story.actors["a 0"]),
    "drop": lambda story: story.queue.drop(DROPPED),
    "refit": lambda story: story.queue.refit(story.rules[1][0]),
    "resume": lambda story: story.queue.resume(story.pauses[story.rules[1][1]]),
    "pause": lambda story: story.queue.pause(story.pauses[story.rules[3][0]], 30, True),
    "quote": lambda story: forget(quote(story.queue, story.lanes[1], story.actors["ab 0"].weights)),
}


def forget(answer: object) -> None:
    """Only the question counts."""


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("sets", [False, True])
def test_an_interruption_where_any_function_begins_leaves_the_queue_right(
    event: str, sets: bool
) -> None:
    leaves = event[:-7] if event.endswith("leaves") else None
    # Three of the events call hundreds of functions: `full` looks at all of these.
    many = event in ("advance", "drop", "quote")
    for n in count(1, max(1, 100 // scaled(100)) if many else 1):
        story = crowd(sets=sets)
        with interrupted_at(n) as seen, suppress(KeyboardInterrupt):
            EVENTS[event](story)
        repair(story.queue)
        if leaves is not None and story.actors[leaves].state is not GONE:
            story.queue.leave(story.actors[leaves])  # its caller tries again
        story.queue.advance(story.queue.now)
        check(story.queue)
        balanced(story, left=leaves)
        story.run(NEVER - 1)
        balanced(story, left=leaves)
        if seen[0] < n:
            break
