"""Numbers that a correct limiter gives: facts from the test suites of the field's best.

Every table is exact and the time is passed in, so the comparison is ``==``. The source of each is
named beside it. Instants are nanoseconds and weights whole tokens, unless a table says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import pytest

from async_throttle import (
    GCRA,
    FixedWindow,
    LeakyBucket,
    Rule,
    SlidingWindow,
    Throttle,
    TokenBucket,
    WeightTooLarge,
)
from async_throttle._engine.forecast import Actor, quote
from async_throttle._engine.lane import EXPIRED, GONE, GRANTED, Lane, Pause
from async_throttle._engine.queue import Queue
from async_throttle._units import NEVER, TOKEN

MS = 10**6
SECOND = 1000 * MS
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

Answer = Literal["yes", "no", "big"]
Row = tuple[int, int, int, Answer]


def bucket(capacity: int, period: int = SECOND, *, burst: int, level: int | None = None) -> Rule:
    """A bucket at instant 0, of *level* tokens; full unless told otherwise."""
    rule = TokenBucket(0, capacity * TOKEN, period, burst * TOKEN)
    if level is not None:
        rule.take(0, (burst - level) * TOKEN)
    return rule


class OneLane:
    """A queue that is told the time, with one lane for all of *rules*."""

    def __init__(self, *rules: Rule, now: int = 0) -> None:
        self.queue = Queue(now, 0)
        self.lane: Lane = self.queue.lane(rules, tuple(Pause(rule) for rule in rules))

    def weights(self, weight: int) -> tuple[int, ...]:
        return (weight * TOKEN,) * len(self.lane.rules)

    def join(self, weight: int, deadline: int = NEVER) -> Actor:
        actor = Actor()
        self.queue.join(actor, self.lane, self.weights(weight), deadline)
        self.advance(self.queue.now)
        return actor

    def ask(self, weight: int) -> bool:
        return self.queue.try_take(self.lane, self.weights(weight)) is not None

    def quote(self, weight: int) -> int:
        return quote(self.queue, self.lane, self.weights(weight))[0]

    def leave(self, caller: Actor) -> None:
        self.queue.leave(caller)
        self.advance(self.queue.now)

    def run(self, until: int) -> None:
        """Let time pass, and be woken at every instant at which something is due."""
        while (due := self.queue.due_at) <= until:
            self.advance(due)
        self.advance(until)

    def advance(self, now: int) -> None:
        self.queue.advance(now)
        self.queue.decided.clear()


# ------------------------------------------------------------------ 10 per second, tick 100 ms
# golang.org/x/time/rate: rows are (tick, level before, weight, admitted).

GO: dict[str, tuple[int, list[Row]]] = {
    "burst 1": (1, [
        (0, 1, 1, "yes"), (0, 0, 1, "no"), (0, 0, 1, "no"),
        (1, 1, 1, "yes"), (1, 0, 1, "no"), (1, 0, 1, "no"),
        (2, 1, 2, "big"), (2, 1, 1, "yes"), (2, 0, 1, "no"),
    ]),
    "burst 3": (3, [
        (0, 3, 2, "yes"), (0, 1, 2, "no"), (0, 1, 1, "yes"), (0, 0, 1, "no"),
        (1, 1, 4, "big"), (2, 2, 1, "yes"), (3, 2, 1, "yes"),
        (4, 2, 1, "yes"), (4, 1, 1, "yes"), (4, 0, 1, "no"), (4, 0, 1, "no"),
        (9, 3, 3, "yes"), (9, 0, 0, "yes"),
    ]),
    "the clock goes back": (3, [
        (1, 3, 1, "yes"), (0, 2, 1, "yes"), (0, 1, 1, "yes"), (0, 0, 1, "no"), (0, 0, 1, "no"),
        (1, 0, 1, "no"),  # the table of Go mints a token here
        (2, 1, 1, "yes"), (2, 0, 1, "no"),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("algorithm", [TokenBucket, GCRA, LeakyBucket])
@pytest.mark.parametrize(("burst", "rows"), GO.values(), ids=GO)
def test_a_throttle_follows_the_tables_of_go(
    algorithm: type[Rule], burst: int, rows: list[Row]
) -> None:
    tick = rows[0][0]
    throttle = Throttle(10, burst=burst, algorithm=algorithm, timer=lambda: tick / 10)
    for tick, level, weight, admitted in rows:
        assert throttle.level == level
        if admitted == "big":
            with pytest.raises(WeightTooLarge, match=f"largest .* is {burst}$"):
                throttle.try_acquire(weight)
        else:
            assert throttle.try_acquire(weight) == (admitted == "yes"), (tick, level, weight)
        assert throttle.level == level - (weight if admitted == "yes" else 0)


def test_of_fifteen_at_once_exactly_a_burst_of_five_goes() -> None:
    queue = OneLane(bucket(10, burst=5))
    callers = [queue.join(1, deadline=0) for _ in range(15)]
    queue.run(SECOND)
    assert [caller.state for caller in callers] == [GRANTED] * 5 + [EXPIRED] * 10


# ------------------------------------------------ waits, and several limits at once
# Bucket4j. Limits are (capacity, period in ns, burst, level).


@pytest.mark.parametrize(
    ("limits", "weight", "wait"),
    [
        ([(10, 100, 10, 0)], 10, 100),
        ([(2, 100, 10, 0)], 10, 500),
        ([(10, 100, 10, 4)], 7, 30),
        ([(10, 100, 10, 1), (5, 10, 5, 2)], 3, 20),
        ([(5, 10, 5, 2), (10, 100, 10, 1)], 3, 20),
        ([(5, 10, 5, 5), (10, 100, 10, 3)], 3, 0),
        ([(10, 100, 10, 3), (5, 10, 5, 5)], 3, 0),
    ],
)
def test_waits_are_those_of_bucket4j(
    limits: list[tuple[int, int, int, int]], weight: int, wait: int
) -> None:
    rules = [bucket(c, period, burst=b, level=level) for c, period, b, level in limits]
    queue = OneLane(*rules)
    assert queue.quote(weight) == wait
    if wait:
        assert not queue.ask(weight)  # and none of the limits is charged:
        assert [rule.level(0) for rule in rules] == [level for *_, level in limits]
        assert queue.quote(weight) == wait
    caller = queue.join(weight)
    queue.run(HOUR)
    assert caller.granted_at == wait


def test_after_twelve_idle_hours_the_tightest_of_three_limits_decides() -> None:
    queue = OneLane(
        bucket(300, burst=300, level=0),
        bucket(14_500, MINUTE, burst=14_500, level=0),
        bucket(700_000, HOUR, burst=700_000, level=0),
    )
    assert not queue.ask(1)
    queue.run(12 * HOUR)
    assert sum(queue.ask(1) for _ in range(1_000)) == 300


# ------------------------------------------------------------- cancelling hands the place on


def test_who_stands_behind_a_cancelled_caller_moves_up() -> None:
    # The limiter of Go tells each caller its instant once and for all: there C still goes at 2 s.
    queue = OneLane(bucket(1, burst=1))
    a = queue.join(1)
    told_b, b = queue.quote(1), queue.join(1)
    told_c, c = queue.quote(1), queue.join(1)
    assert (told_b, told_c) == (1 * SECOND, 2 * SECOND)
    queue.run(500 * MS)
    queue.leave(b)
    told_d, d = queue.quote(1), queue.join(1)
    queue.run(MINUTE)
    assert [caller.state for caller in (a, b, c, d)] == [GRANTED, GONE, GRANTED, GRANTED]
    assert (a.granted_at, c.granted_at, d.granted_at) == (0, 1 * SECOND, 2 * SECOND)
    assert told_d == 2 * SECOND


@pytest.mark.parametrize("first_to_leave", [0, 1])
def test_with_every_second_of_2000_cancelled_the_last_goes_in_half_the_time(
    first_to_leave: int,
) -> None:
    queue = OneLane(bucket(100, burst=1, level=0))
    callers = [queue.join(1) for _ in range(2_000)]
    assert queue.quote(1) == 2_001 * 10 * MS
    for caller in callers[first_to_leave::2]:
        queue.leave(caller)
    queue.run(MINUTE)
    stayed = callers[1 - first_to_leave :: 2]
    assert [caller.granted_at for caller in stayed] == [n * 10 * MS for n in range(1, 1_001)]
    assert stayed[-1].granted_at == 10 * SECOND


# ------------------------------------------------------------- splitting a weight changes nothing
# Guava, failsafe


@pytest.mark.parametrize(
    ("new", "end"),
    [
        (lambda: TokenBucket(0, 10 * TOKEN, SECOND, 10 * TOKEN), 300 * MS),
        (lambda: GCRA(0, 10 * TOKEN, SECOND, 10 * TOKEN), 300 * MS),
        (lambda: LeakyBucket(0, 10 * TOKEN, SECOND, 7 * TOKEN), 600 * MS),
        (lambda: SlidingWindow(0, 10 * TOKEN, SECOND), 1000 * MS),
        (lambda: FixedWindow(0, 10 * TOKEN, SECOND), 1000 * MS),
    ],
    ids=["TokenBucket", "GCRA", "LeakyBucket", "SlidingWindow", "FixedWindow"],
)
@pytest.mark.parametrize("parts", [[7], [3, 4], [4, 3], [1] * 7, [2, 5], [5, 1, 1]])
def test_seven_in_any_parts_end_at_the_same_instant(
    new: Callable[[], Rule], end: int, parts: list[int]
) -> None:
    queue = OneLane(new())
    assert queue.ask(6)  # four are left, in the leaky bucket one
    callers = [queue.join(part) for part in parts]
    queue.run(MINUTE)
    assert callers[-1].granted_at == end


# ------------------------------------------------------- worst trailing window, for 100 per period


def worst_window(new: Callable[[], Rule], period: int) -> int:
    """The most grants in any half-open window of *period*, over clients that save up first.

    A client takes a token at once, which opens the window of a rule that has one. It waits until
    *start*, and from then on takes each token the moment it is there.
    """
    worst = 0
    for start in (0, 1, period // 3, period // 2, period - 1, period, 5 * period // 2, 3 * period):
        rule = new()
        rule.take(0, TOKEN)
        now, granted = rule.ready_at(start, TOKEN), [0]
        while now < start + 2 * period:
            rule.take(now, TOKEN)
            granted.append(now)
            now = rule.ready_at(now, TOKEN)
        worst = max(worst, busiest(granted, period))
    return worst


def busiest(instants: Sequence[int], window: int) -> int:
    """The most of *instants*, which ascend, in any half-open window."""
    return max(sum(first <= at < first + window for at in instants) for first in instants)


@pytest.mark.parametrize("period", [SECOND, MINUTE])
@pytest.mark.parametrize(
    ("algorithm", "burst", "worst", "bound"),
    [
        (FixedWindow, None, 199, 200),
        (TokenBucket, 100, 199, 200),
        (GCRA, 100, 199, 200),
        (TokenBucket, 1, 100, 101),
        (LeakyBucket, None, 100, 101),
        (SlidingWindow, None, 100, 100),
    ],
)
def test_the_worst_trailing_window_for_100_per_period(
    algorithm: type[Rule], burst: int | None, worst: int, bound: int, period: int
) -> None:
    tokens = None if burst is None else burst * TOKEN
    assert worst_window(lambda: algorithm(0, 100 * TOKEN, period, tokens), period) == worst

    rule = algorithm(0, 100 * TOKEN, period, tokens)
    assert rule.guarantee(period) == bound * TOKEN
    if isinstance(rule, TokenBucket):
        assert worst == bound - 1  # ceil(burst + capacity / period * W) - 1, for whole weights
