"""The arithmetic of each limit, against yardsticks that are obviously right.

No clock: instants are passed in. `Bucket`, `Sliding` and `Fixed` of ``oracle.py`` remember all that
was ever taken and replay it in fractions; where a promise can be checked by trying every interval,
it is.
"""

from __future__ import annotations

import asyncio
import dis
import itertools
import math
import random
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from oracle import Bucket, Entry, Fixed, Sliding
from support import examples, scaled

from async_throttle import (
    GCRA,
    FixedWindow,
    LeakyBucket,
    RateLimitAlgorithm,
    Rule,
    SlidingWindow,
    Throttle,
    TokenBucket,
    WeightTooLarge,
    testing,
)
from async_throttle._base import core_of
from async_throttle._units import NEVER, TOKEN, UNKNOWN
from async_throttle.rules.algorithm import rule_class
from async_throttle.rules.bucket import MOST_LOWS
from async_throttle.rules.slots import UNLIMITED, Slots
from async_throttle.rules.window import EXACT

MS = 10**6
SECOND = 1000 * MS
DAY = 86_400 * SECOND

BUCKETS: list[type[TokenBucket]] = [TokenBucket, GCRA, LeakyBucket]
WINDOWS: list[type[SlidingWindow] | type[FixedWindow]] = [SlidingWindow, FixedWindow]
ALL: list[type[Rule]] = [*BUCKETS, *WINDOWS]

Yardstick = Bucket | Sliding | Fixed


@dataclass(frozen=True, slots=True)
class Limit:
    """A rule to build: nanotokens, and nanoseconds."""

    algorithm: type[Rule]
    capacity: int
    period: int
    burst: int | None

    def rule(self, now: int = 0) -> Rule:
        return self.algorithm(now, self.capacity, self.period, self.burst)

    def yardstick(self, now: int = 0) -> Yardstick:
        if self.algorithm is SlidingWindow:
            return Sliding(now, self.capacity, self.period, self.capacity)
        if self.algorithm is FixedWindow:
            return Fixed(now, self.capacity, self.period, self.capacity)
        assert self.burst is not None
        return Bucket(now, self.capacity, self.period, self.burst, self.burst)


AMOUNTS = st.one_of(
    st.integers(1, 10_000).map(lambda whole: whole * TOKEN),
    st.integers(1, 10_000 * TOKEN),
    st.sampled_from([1, TOKEN // 10, TOKEN // 3, 5 * TOKEN // 2, 999_983 * TOKEN]),
)
PERIODS = st.sampled_from([1, 7, 100 * MS, SECOND // 3, SECOND, 60 * SECOND, DAY])
SHARES = st.integers(0, 997).map(lambda part: Fraction(part, 997))
"""A weight as a share of the burst, a gap as a share of the period."""


@st.composite
def limits(draw: st.DrawFn, algorithms: Sequence[type[Rule]] = tuple(ALL)) -> Limit:
    algorithm = draw(st.sampled_from(algorithms))
    burst = draw(AMOUNTS) if issubclass(algorithm, TokenBucket) else None
    return Limit(algorithm, draw(AMOUNTS), draw(PERIODS), burst)


HISTORIES = st.lists(st.tuples(SHARES, SHARES), max_size=6)
"""Gaps and weights of what was taken before."""


def share(part: Fraction, whole: float | Fraction) -> int:
    return math.floor(part * Fraction(whole))


def exact_level(rule: TokenBucket, now: int) -> Fraction:
    """The level in nanotokens without the rounding of a float."""
    ticks = rule.state.ticks
    missing = max(0, rule.state.full_at - now * ticks.scale)
    return Fraction(ticks.room - missing, ticks.token) * TOKEN


# ------------------------------------------------------------------------ the promised instant


@given(limit=limits(), history=HISTORIES, weight=SHARES, between=SHARES)
@examples(250)
@example(
    limit=Limit(TokenBucket, 10 * TOKEN, SECOND, TOKEN),
    history=[(Fraction(0), Fraction(1))],
    weight=Fraction(1),
    between=Fraction(1, 2),
)
def test_refused_until_just_before_the_promised_instant_and_admitted_at_it(
    limit: Limit, history: list[tuple[Fraction, Fraction]], weight: Fraction, between: Fraction
) -> None:
    rule, yardstick = limit.rule(), limit.yardstick()
    now = 0
    for gap, part in history:  # what does not fit is debt
        now += share(gap, limit.period)
        rule.take(now, share(part, rule.burst))
        yardstick.take(now, share(part, rule.burst))

    wanted = share(weight, rule.burst)
    due = rule.ready_at(now, wanted)
    assert due == math.ceil(yardstick.ready(now, wanted))
    assert due >= now
    for instant in (now + share(between, due - now - 1), due - 1):
        if now <= instant < due:
            assert rule.ready_at(instant, wanted) == due  # "no", and the promise stands
    assert rule.ready_at(due, wanted) == due
    rule.take(due, wanted)
    assert rule.level(due) >= 0 or wanted == 0


@given(
    algorithm=st.sampled_from(ALL),
    capacity=st.integers(1, 10_000),
    weight=st.integers(1, 10_000),
)
@examples(150)
def test_a_drained_limit_admits_a_weight_exactly_when_it_has_come_back(
    algorithm: type[Rule], capacity: int, weight: int
) -> None:
    window = algorithm in WINDOWS
    assume(weight <= capacity or not window)
    burst = None if window else max(capacity, weight) * TOKEN
    rule = algorithm(0, capacity * TOKEN, SECOND, burst)
    rule.take(0, whole_burst(rule))
    due = SECOND if window else -(-weight * SECOND // capacity)
    assert rule.ready_at(0, weight * TOKEN) == due
    assert rule.ready_at(due - 1, weight * TOKEN) == due
    assert rule.ready_at(due, weight * TOKEN) == due


# ---------------------------------------------------------------- the envelope, by trying it all


def live(
    limit: Limit, wishes: list[tuple[Fraction, Fraction, bool]]
) -> tuple[Rule, list[tuple[int, int, Any]]]:
    """Callers who come after a gap; each goes when it may, or gives up. (instant, weight)."""
    rule = limit.rule()
    now, granted = 0, []
    for gap, part, patient in wishes:
        now += share(gap, limit.period)
        weight = share(part, rule.burst)
        due = rule.ready_at(now, weight)
        if patient:
            now = due
        if due <= now:
            granted.append((now, weight, rule.take(now, weight)))
    return rule, granted


WISHES = st.lists(
    st.tuples(st.one_of(st.just(Fraction(0)), SHARES), SHARES, st.booleans()), max_size=25
)


@given(limit=limits(BUCKETS), wishes=WISHES)
@examples(150)
def test_a_bucket_admits_less_than_its_burst_and_the_rate_of_any_interval_and_a_nanosecond(
    limit: Limit, wishes: list[tuple[Fraction, Fraction, bool]]
) -> None:
    rule, granted = live(limit, wishes)
    for first, last in itertools.combinations_with_replacement(range(len(granted)), 2):
        admitted = sum(weight for _, weight, _ in granted[first : last + 1])
        length = granted[last][0] - granted[first][0] + 1  # up to, not including, the next ns
        assert (admitted - rule.burst) * limit.period < limit.capacity * length


@given(limit=limits([SlidingWindow]), wishes=WISHES)
@examples(100)
def test_a_sliding_window_admits_its_capacity_in_any_half_open_period(
    limit: Limit, wishes: list[tuple[Fraction, Fraction, bool]]
) -> None:
    _, granted = live(limit, wishes)
    assert busiest(granted, limit.period) <= limit.capacity


@given(limit=limits([FixedWindow]), wishes=WISHES, birth=st.integers(0, DAY))
@examples(100)
def test_a_fixed_window_admits_its_capacity_between_two_edges(
    limit: Limit, wishes: list[tuple[Fraction, Fraction, bool]], birth: int
) -> None:
    _, granted = live(limit, wishes)
    inside: dict[int, int] = {}
    for now, weight, _ in granted:
        inside[now // limit.period] = inside.get(now // limit.period, 0) + weight
    assert max(inside.values(), default=0) <= limit.capacity
    # The edges are those of the birth: moved with it, the same life is the same.
    rule = limit.rule(birth)
    for now, weight, _ in granted:
        assert rule.ready_at(birth + now, weight) == birth + now
        rule.take(birth + now, weight)


@given(limit=limits(), wishes=WISHES, window=SHARES.map(lambda part: 3 * part))
@examples(200)
def test_no_half_open_window_ever_sees_more_than_the_guarantee(
    limit: Limit, wishes: list[tuple[Fraction, Fraction, bool]], window: Fraction
) -> None:
    rule, granted = live(limit, wishes)
    length = share(window, limit.period) + 1
    assert busiest(granted, length) <= rule.guarantee(length)


@given(limit=limits(), wishes=WISHES, settled=st.lists(SHARES, max_size=25))
@examples(150)
def test_no_half_open_period_sees_more_than_the_guarantee_in_weights_as_settled(
    limit: Limit, wishes: list[tuple[Fraction, Fraction, bool]], settled: list[Fraction]
) -> None:
    rule = limit.rule()
    now, true = 0, list[tuple[int, int, None]]()
    held: list[tuple[int, Any]] = []
    settling = iter(settled)
    for gap, part, patient in wishes:
        now += share(gap, limit.period)
        weight = share(part, rule.burst)
        due = rule.ready_at(now, weight)
        if patient:
            now = due
        if due <= now:
            true.append((now, weight, None))
            held.append((len(true) - 1, rule.take(now, weight)))
        if held and (actual := next(settling, None)) is not None:
            index, receipt = held.pop(len(held) // 2)
            instant, weight, _ = true[index]
            rule.refund(now, receipt, weight - share(actual, weight))
            true[index] = instant, share(actual, weight), None
    assert busiest(true, limit.period) <= rule.guarantee(limit.period)


def busiest(granted: Sequence[tuple[int, int, Any]], window: int) -> int:
    """The most weight in any half-open window, by trying them all."""
    return max(
        (
            sum(weight for at, weight, _ in granted if first <= at < first + window)
            for first, _, _ in granted
        ),
        default=0,
    )


@given(limit=limits(BUCKETS), window=SHARES)
@examples(100)
def test_the_guarantee_of_a_bucket_is_reached_to_the_last_nanosecond(
    limit: Limit, window: Fraction
) -> None:
    rule = limit.rule()
    burst = whole_burst(rule)
    length = share(window, Fraction(burst * limit.period, limit.capacity)) + 1
    regained = limit.capacity * (length - 1) // limit.period
    for now, weight in [(7, burst), (7 + length - 1, regained)]:
        assert rule.ready_at(now, weight) == now
        rule.take(now, weight)
    one_nanosecond = -(-limit.capacity // limit.period)
    assert 0 <= rule.guarantee(length) - burst - regained <= one_nanosecond


@given(
    limit=limits(WINDOWS).filter(lambda limit: limit.period > 1),
    periods=st.integers(0, 3),
    more=SHARES,
)
@examples(100)
def test_the_guarantee_of_a_window_is_reached(limit: Limit, periods: int, more: Fraction) -> None:
    # All of it just before an edge, and again at that edge and every period later.
    length = periods * limit.period + 2 + share(more, limit.period - 2)
    rule = limit.rule()
    start = 3 * limit.period - 1
    step = limit.period
    later = range(start + (1 if limit.algorithm is FixedWindow else step), start + length, step)
    for now in (start, *later):
        assert rule.ready_at(now, limit.capacity) == now
        rule.take(now, limit.capacity)
    assert rule.guarantee(length) == limit.capacity * (1 + len(later))


def whole_burst(rule: Rule) -> int:
    assert isinstance(rule.burst, int)
    return rule.burst


@pytest.mark.parametrize("algorithm", ALL)
def test_without_a_rate_there_is_no_guarantee_and_no_wait(algorithm: type[Rule]) -> None:
    rule = algorithm(0, math.inf, SECOND)
    rule.take(0, 10**30)
    assert rule.guarantee(1) == math.inf
    assert rule.level(0) == rule.burst == math.inf
    assert rule.ready_at(0, 10**30) == 0


# ------------------------------------------------------------- splitting a weight changes nothing


@given(
    limit=limits(),
    history=HISTORIES,
    parts=st.lists(st.integers(1, 50), min_size=1, max_size=8),
)
@examples(150)
def test_a_split_weight_ends_when_the_whole_one_does(
    limit: Limit, history: list[tuple[Fraction, Fraction]], parts: list[int]
) -> None:
    assume(sum(parts) * TOKEN < limit.rule().burst)
    whole, split = limit.rule(), limit.rule()
    now = 0
    for gap, part in history:
        now += share(gap, limit.period)
        for rule in (whole, split):
            rule.take(now, share(part, rule.burst))
    end = now
    for weight in parts:
        end = split.ready_at(end, weight * TOKEN)
        split.take(end, weight * TOKEN)
    assert end == whole.ready_at(now, sum(parts) * TOKEN)
    whole.take(end, sum(parts) * TOKEN)
    if issubclass(limit.algorithm, TokenBucket):
        assert split.level(end) == whole.level(end)


# --------------------------------------------------------------------------------------- exact


@pytest.mark.parametrize("algorithm", ALL)
def test_ten_tenths_are_one_and_an_eleventh_waits(algorithm: type[Rule]) -> None:
    rule = algorithm(0, TOKEN, SECOND)
    for left in range(10, 0, -1):
        assert rule.level(0) == left / 10
        assert rule.ready_at(0, TOKEN // 10) == 0
        rule.take(0, TOKEN // 10)
    assert rule.level(0) == 0
    assert rule.ready_at(0, TOKEN // 10) == (SECOND if algorithm in WINDOWS else 100 * MS)


@pytest.mark.parametrize("algorithm", BUCKETS)
def test_a_tenth_may_come_after_whole_tokens_without_moving_an_instant(
    algorithm: type[TokenBucket],
) -> None:
    # Ticks become finer at the first fraction; whatever was taken before keeps its instants.
    rule, other = (algorithm(0, 70 * TOKEN, SECOND, 20 * TOKEN) for _ in range(2))
    receipts: list[tuple[Any, Any]] = []
    for now in (3, 5, 11):
        receipts = [*receipts, (rule.take(now, 6 * TOKEN), other.take(now, 6 * TOKEN))]
    before = [rule.ready_at(11, weight * TOKEN) for weight in range(21)]
    assert rule.ready_at(11, TOKEN // 10) == 11
    assert [rule.ready_at(11, weight * TOKEN) for weight in range(21)] == before
    assert exact_level(rule, 11) == exact_level(other, 11)
    rule.take(11, 1)
    assert exact_level(rule, 11) == exact_level(other, 11) - 1
    # So does what a refund is worth: the second call found a little less than six missing.
    for mine, theirs in receipts:
        rule.refund(11, mine, 6 * TOKEN)
        other.refund(11, theirs, 6 * TOKEN)
        assert exact_level(rule, 11) == exact_level(other, 11) - 1


@pytest.mark.parametrize("algorithm", BUCKETS)
def test_ten_per_second_polled_each_tenth_of_a_second_admits_every_time(
    algorithm: type[Rule],
) -> None:
    # Limiters that count float seconds admit 668 of these 1000.
    rule = algorithm(0, 10 * TOKEN, SECOND, TOKEN)
    admitted = 0
    for now in range(0, 1000 * 100 * MS, 100 * MS):
        if rule.ready_at(now, TOKEN) == now:
            rule.take(now, TOKEN)
            admitted += 1
    assert admitted == 1000


RATES = {  # tokens, per nanoseconds
    "1 a day": (1, DAY),
    "7 a day": (7, DAY),
    "3 a second": (3, SECOND),
    "997 a second": (997, SECOND),
    "999,983 a second": (999_983, SECOND),
    "1,000,000 a second": (1_000_000, SECOND),
}


@pytest.mark.parametrize(("capacity", "period"), RATES.values(), ids=RATES.keys())
@pytest.mark.parametrize("grants", [1, 1_000, 1_000_000, 10**9])
def test_the_instant_of_the_nth_grant_is_the_ideal_one_rounded_up(
    capacity: int, period: int, grants: int
) -> None:
    rule = TokenBucket(0, capacity * TOKEN, period, 2 * TOKEN)
    rule.take(0, 2 * TOKEN)
    rule.take(0, (grants - 1) * TOKEN)
    assert rule.ready_at(0, TOKEN) == -(-grants * period // capacity)


@pytest.mark.parametrize(("capacity", "period"), RATES.values(), ids=RATES.keys())
@pytest.mark.parametrize("weight", [TOKEN, TOKEN // 3])
def test_the_drift_of_many_single_grants_is_below_a_nanosecond(
    capacity: int, period: int, weight: int
) -> None:
    long = (capacity, weight) == (999_983, TOKEN)
    grants = scaled(1_000_000 if long else 20_000)  # really taken, most at the most awkward rate
    rule = TokenBucket(0, capacity * TOKEN, period, 2 * TOKEN)
    rule.take(0, 2 * TOKEN)
    now = 0
    ready_at, take = rule.ready_at, rule.take
    for _ in range(grants):
        now = ready_at(now, weight)
        take(now, weight)
    assert now == -(-grants * weight * period // (capacity * TOKEN))


@pytest.mark.parametrize("algorithm", WINDOWS)
@pytest.mark.parametrize(("capacity", "period"), RATES.values(), ids=RATES.keys())
def test_a_window_admits_its_capacity_each_period_for_ever(
    algorithm: type[Rule], capacity: int, period: int
) -> None:
    rule = algorithm(0, capacity * TOKEN, period)
    half = capacity * TOKEN // 2
    now = 0
    for count in range(2_000):
        now = rule.ready_at(now, half)
        assert now == count // 2 * period
        rule.take(now, half)


# ------------------------------------------------ a whole life, against replaying it from the start


@dataclass(frozen=True, slots=True)
class Wait:
    """Time passes: a share of the period, or until a share of the burst may go, or beside it."""

    part: Fraction
    until_due: bool
    beside: int


@dataclass(frozen=True, slots=True)
class Take:
    """A share of the burst, or of its whole tokens; into debt, or only if it may go."""

    part: Fraction
    debt: bool
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Refund:
    """Of what was taken, counted round: a share of what is left of it."""

    which: int
    part: Fraction


@dataclass(frozen=True, slots=True)
class Configure:
    capacity: int
    period: int
    burst: int


@dataclass(frozen=True, slots=True)
class Empty:
    pass


Step = Wait | Take | Refund | Configure | Empty

PARTS = st.one_of(st.sampled_from([Fraction(0), Fraction(1, 2), Fraction(1)]), SHARES)
WAITS = st.builds(Wait, PARTS, st.booleans(), st.integers(-1, 1))
TAKES = st.builds(Take, PARTS, st.booleans(), st.booleans())
REFUNDS = st.builds(Refund, st.integers(0, 7), PARTS)
EMPTIES = st.just(Empty())
CONFIGURES = st.builds(Configure, AMOUNTS, PERIODS, AMOUNTS)


class Life:
    """A rule and its yardstick, living the same life."""

    def __init__(self, limit: Limit) -> None:
        self.now = 0
        self.rule, self.yardstick = limit.rule(), limit.yardstick()
        self.capacity, self.period = limit.capacity, limit.period
        self.taken: list[tuple[Any, Entry, list[int]]] = []
        self.changes = 0

    def step(self, step: Step) -> None:
        rule, yardstick = self.rule, self.yardstick
        match step:
            case Wait(part, until_due, beside):
                if until_due:
                    due = rule.ready_at(self.now, share(part, rule.burst))
                    self.now = max(self.now, due + beside)
                else:
                    self.now += share(part, self.period)
            case Take(part, debt, whole):
                weight = share(part, rule.burst)
                weight -= weight % TOKEN if whole else 0
                if debt or rule.ready_at(self.now, weight) <= self.now:
                    receipt = rule.take(self.now, weight)
                    self.taken.append((receipt, yardstick.take(self.now, weight), [weight]))
            case Refund(which, part) if self.taken:
                receipt, entry, rest = self.taken[which % len(self.taken)]
                weight = share(part, rest[0])
                rest[0] -= weight
                rule.refund(self.now, receipt, weight)
                yardstick.refund(entry, self.now, weight)
            case Configure(capacity, period, burst):
                window = not isinstance(rule, TokenBucket)
                rule.configure(self.now, capacity, period, None if window else burst)
                yardstick.change(self.now, capacity, period, burst)
                self.capacity, self.period = capacity, period
                self.changes += 1
            case Empty():
                rule.empty(self.now)
                yardstick.empty(self.now)
            case _:
                pass

    def compare(self) -> None:
        """The same level, and the same instant for every share of the burst."""
        now, yardstick = self.now, self.yardstick
        assert self.rule.level(now) == float(Fraction(yardstick.level(now)) / TOKEN)
        for part in (Fraction(0), Fraction(1, 3), Fraction(1)):
            weight = share(part, self.rule.burst)
            assert self.rule.ready_at(now, weight) == math.ceil(yardstick.ready(now, weight))


@given(
    limit=limits(BUCKETS),
    steps=st.lists(st.one_of(WAITS, TAKES, TAKES, REFUNDS, REFUNDS, EMPTIES), max_size=20),
)
@examples(400)
def test_a_bucket_holds_what_it_would_have_held_with_the_true_weights(
    limit: Limit, steps: list[Step]
) -> None:
    life = Life(limit)
    for step in steps:
        life.step(step)
        life.compare()


@given(
    limit=limits(BUCKETS),
    steps=st.lists(
        st.one_of(WAITS, TAKES, TAKES, REFUNDS, REFUNDS, EMPTIES, CONFIGURES), max_size=20
    ),
)
@examples(400)
def test_with_changes_too_it_holds_that_to_a_nanotoken_for_each(
    limit: Limit, steps: list[Step]
) -> None:
    # Both round down to nanotokens at a change, the bucket also what refunds are still worth.
    life = Life(limit)
    for step in steps:
        life.step(step)
        assert isinstance(life.rule, TokenBucket)
        lost = Fraction(life.yardstick.level(life.now)) - exact_level(life.rule, life.now)
        assert -life.changes <= lost <= 2 * life.changes


def test_what_was_taken_before_a_change_can_be_refunded_to_the_nanotoken() -> None:
    # At a million a second a coarse tick is a thousandth of a token.
    rule = TokenBucket(0, TOKEN, SECOND, TOKEN)
    receipt = rule.take(0, TOKEN // 2 + 6)
    rule.take(0, TOKEN // 2 - 6)
    rule.configure(0, 10**6 * TOKEN, SECOND, TOKEN)
    rule.refund(0, receipt, TOKEN // 2 + 6)
    assert exact_level(rule, 0) == TOKEN // 2 + 6


@given(
    limit=limits(BUCKETS),
    taken=SHARES,
    now=st.integers(0, DAY),
    changes=st.lists(st.tuples(AMOUNTS, PERIODS, AMOUNTS), min_size=1, max_size=6),
)
@examples(100)
def test_a_change_never_mints_and_loses_less_than_a_nanotoken(
    limit: Limit, taken: Fraction, now: int, changes: list[tuple[int, int, int]]
) -> None:
    rule = limit.algorithm(now, limit.capacity, limit.period, limit.burst)
    assert isinstance(rule, TokenBucket)
    rule.take(now, share(2 * taken, rule.burst))  # perhaps into debt
    now += limit.period // 3
    for capacity, period, burst in changes:
        before = min(exact_level(rule, now), Fraction(burst))
        rule.configure(now, capacity, period, burst)
        assert 0 <= before - exact_level(rule, now) < 1


@given(
    limit=limits(WINDOWS),
    steps=st.lists(
        st.one_of(
            WAITS,
            TAKES,
            TAKES,
            REFUNDS,
            REFUNDS,
            EMPTIES,
            st.builds(Configure, AMOUNTS, st.just(0), st.just(0)),
        ),
        max_size=20,
    ),
)
@examples(400)
def test_a_window_holds_what_is_inside_with_the_true_weights(
    limit: Limit, steps: list[Step]
) -> None:
    life = Life(limit)
    for step in steps:
        if isinstance(step, Configure):
            step = Configure(step.capacity, life.period, step.capacity)
        life.step(step)
        life.compare()


@given(
    limit=limits([SlidingWindow]),
    steps=st.lists(st.one_of(WAITS, TAKES, TAKES, REFUNDS, EMPTIES, CONFIGURES), max_size=20),
)
@examples(200)
@example(
    limit=Limit(SlidingWindow, 10 * TOKEN, SECOND, None),
    steps=[
        Take(Fraction(1), False),
        Wait(Fraction(1), False, 0),
        Configure(10 * TOKEN, 10 * SECOND, 10 * TOKEN),
        Refund(0, Fraction(1)),
    ],
)
def test_a_sliding_window_whose_period_changes_holds_what_is_inside(
    limit: Limit, steps: list[Step]
) -> None:
    life = Life(limit)
    for step in steps:
        life.step(step)
        life.compare()


@given(
    limit=limits([FixedWindow]),
    steps=st.lists(st.one_of(WAITS, TAKES, TAKES, REFUNDS, EMPTIES, CONFIGURES), max_size=20),
)
@examples(200)
def test_a_fixed_window_whose_period_changes_never_holds_more_than_its_new_window_leaves(
    limit: Limit, steps: list[Step]
) -> None:
    # The level stays until the next edge, also where the new edges would have forgotten some of it.
    life = Life(limit)
    for step in steps:
        life.step(step)
        level = Fraction(life.yardstick.level(life.now)) / TOKEN
        assert life.rule.level(life.now) <= float(level)


# ------------------------------------------------------------------------------ refunds, by hand


@pytest.mark.parametrize("algorithm", BUCKETS)
def test_a_refund_after_the_bucket_ran_full_is_worth_nothing(algorithm: type[Rule]) -> None:
    # Limiters that cap a refund only at the burst mint a hundred tokens here.
    rule = algorithm(0, 10 * TOKEN, SECOND, 100 * TOKEN)
    first = rule.take(0, 100 * TOKEN)
    rule.take(10 * SECOND, 100 * TOKEN)
    rule.refund(10 * SECOND, first, 100 * TOKEN)
    assert rule.level(10 * SECOND) == 0


@pytest.mark.parametrize(
    ("refunded_at", "worth"),
    [(0, 100), (6 * SECOND, 40), (9 * SECOND, 10), (10 * SECOND, 0), (11 * SECOND, 0)],
)
def test_a_refund_is_worth_what_is_missing_when_it_comes(refunded_at: int, worth: int) -> None:
    rule = TokenBucket(0, 10 * TOKEN, SECOND, 100 * TOKEN)
    receipt = rule.take(0, 100 * TOKEN)
    before = rule.level(refunded_at)
    rule.refund(refunded_at, receipt, 100 * TOKEN)
    assert rule.level(refunded_at) == before + worth == 100


def test_a_refund_is_worth_the_fewest_tokens_missing_at_any_grant_since() -> None:
    rule = TokenBucket(0, 10 * TOKEN, SECOND, 100 * TOKEN)
    receipt = rule.take(0, 50 * TOKEN)
    rule.take(2 * SECOND, 20 * TOKEN)  # finds 30 missing
    rule.take(4 * SECOND, 90 * TOKEN)  # finds 30 missing
    later = rule.take(11 * SECOND, 5 * TOKEN)  # finds 50 missing
    rule.refund(11 * SECOND, receipt, 50 * TOKEN)
    assert rule.level(11 * SECOND) == 100 - 55 + 30
    rule.refund(11 * SECOND, later, 5 * TOKEN)
    assert rule.level(11 * SECOND) == 100 - 55 + 30 + 5


def test_what_was_missing_at_a_grant_counts_also_if_a_charge_came_before_it() -> None:
    rule = TokenBucket(0, 10 * TOKEN, SECOND, 100 * TOKEN)
    receipt = rule.take(0, 50 * TOKEN)
    rule.charge(0, 10 * TOKEN)  # finds 50 missing
    rule.take(4 * SECOND, 80 * TOKEN)  # finds 20 missing
    rule.refund(4 * SECOND, receipt, 50 * TOKEN)
    assert rule.level(4 * SECOND) == 20


def test_what_was_missing_is_noted_also_where_a_charge_makes_ticks_finer() -> None:
    rule = TokenBucket(0, 70 * TOKEN, SECOND, 20 * TOKEN)
    receipt = rule.take(0, 14 * TOKEN)
    rule.charge(0, TOKEN)  # finds 14 missing
    rule.charge(SECOND // 10, TOKEN // 2)  # finds 8 missing
    rule.refund(SECOND // 10, receipt, 14 * TOKEN)
    assert rule.level(SECOND // 10) == 20 - 0.5


def test_a_charge_leaves_no_receipt_to_look_after() -> None:
    rule = TokenBucket(0, 10 * TOKEN, SECOND, 100 * TOKEN)
    for _ in range(10):
        rule.charge(0, TOKEN)
    assert rule.state.lows == []
    receipt = rule.take(0, TOKEN)
    for _ in range(10):
        rule.charge(0, TOKEN)
    assert len(rule.state.lows) == 1
    rule.refund(0, receipt, TOKEN)
    assert rule.level(0) == 80


def test_refunds_in_any_order_and_in_any_parts_come_to_the_same() -> None:
    levels = set()
    for order in itertools.permutations(range(3)):
        for parts in (1, 2, 3):
            rule = TokenBucket(0, 10 * TOKEN, SECOND, 100 * TOKEN)
            receipts = [rule.take(n * SECOND, 24 * TOKEN) for n in range(3)]
            for n in order:
                for _ in range(parts):
                    rule.refund(3 * SECOND, receipts[n], 24 * TOKEN // parts)
            levels.add(rule.level(3 * SECOND))
    assert levels == {100}


@pytest.mark.parametrize("algorithm", WINDOWS)
def test_a_window_refunds_only_while_the_entry_is_inside(algorithm: type[Rule]) -> None:
    rule = algorithm(0, 10 * TOKEN, SECOND)
    first, second = rule.take(0, 4 * TOKEN), rule.take(1, 5 * TOKEN)
    rule.refund(SECOND - 1, first, 3 * TOKEN)
    assert rule.level(SECOND - 1) == 4
    rule.refund(SECOND, first, 1 * TOKEN)
    assert rule.level(SECOND) == (5 if algorithm is SlidingWindow else 10)
    rule.refund(SECOND + 1, second, 5 * TOKEN)
    assert rule.level(SECOND + 1) == 10


@pytest.mark.parametrize("algorithm", ALL)
def test_what_was_taken_before_the_bucket_was_emptied_cannot_be_refunded(
    algorithm: type[Rule],
) -> None:
    rule = algorithm(0, 10 * TOKEN, SECOND, None if algorithm in WINDOWS else 10 * TOKEN)
    receipt = rule.take(0, 4 * TOKEN)
    rule.empty(1)
    rule.refund(1, receipt, 4 * TOKEN)
    assert rule.level(1) == 0


@pytest.mark.parametrize("algorithm", ALL)
def test_an_emptied_limit_restarts_from_nothing_and_a_debt_stays(algorithm: type[Rule]) -> None:
    window = algorithm in WINDOWS
    rule = algorithm(0, 10 * TOKEN, SECOND, None if window else 10 * TOKEN)
    rule.empty(SECOND // 2)
    assert rule.level(SECOND // 2) == 0
    due = {"SlidingWindow": 1500 * MS, "FixedWindow": 1000 * MS}.get(algorithm.__name__, 600 * MS)
    assert rule.ready_at(SECOND // 2, TOKEN) == due
    rule.take(SECOND // 2, 5 * TOKEN)
    rule.empty(SECOND // 2)
    assert rule.level(SECOND // 2) == -5


# ------------------------------------------------------------------------------ memory is bounded


def test_a_sliding_window_keeps_no_more_than_two_thousand_entries() -> None:
    rule = SlidingWindow(0, 10**6 * TOKEN, SECOND)
    shuffled = random.Random(1)
    now = 0
    for _ in range(30_000):
        now += shuffled.randrange(200_000)  # some ten thousand within a period
        now = rule.ready_at(now, TOKEN)
        rule.take(now, TOKEN)
        assert len(rule.state.instants) <= 2 * EXACT + 1
    assert len(rule.state.instants) > EXACT


def test_a_sliding_window_is_exact_with_a_thousand_grants_inside() -> None:
    rule, yardstick = SlidingWindow(0, EXACT * TOKEN, SECOND), list[int]()
    shuffled = random.Random(2)
    now = 0
    for count in range(4 * EXACT):
        now += shuffled.randrange(900_000)
        due = rule.ready_at(now, TOKEN)
        assert due == (max(now, yardstick[count - EXACT] + SECOND) if count >= EXACT else now)
        now = due
        rule.take(now, TOKEN)
        yardstick.append(now)


@pytest.fixture
def gathering() -> tuple[SlidingWindow, list[Any]]:
    """A window in which a thousand calls went, one each nanosecond; and their receipts."""
    rule = SlidingWindow(0, 2 * EXACT * TOKEN, SECOND)
    return rule, [rule.take(now, TOKEN) for now in range(EXACT)]


def test_what_a_window_gathers_is_forgotten_later_while_a_thousand_are_inside(
    gathering: tuple[SlidingWindow, list[Any]],
) -> None:
    rule, _ = gathering
    assert rule.forgets_at(EXACT, TOKEN) == EXACT + SECOND + SECOND // EXACT
    assert rule.forgets_at(SECOND, TOKEN) == 2 * SECOND  # one has left


def test_a_window_that_gave_everything_back_gathers_nothing(
    gathering: tuple[SlidingWindow, list[Any]],
) -> None:
    rule, receipts = gathering
    for receipt in receipts:
        rule.refund(EXACT, receipt, TOKEN)
    assert rule.fresh_at(EXACT) == EXACT
    assert rule.forgets_at(EXACT, TOKEN) == EXACT + SECOND
    rule.take(EXACT, 2 * EXACT * TOKEN)
    assert rule.ready_at(EXACT, TOKEN) == EXACT + SECOND


@pytest.mark.parametrize("capacity", [1_001, 5_000, 20_000])
@pytest.mark.parametrize("spread", [0.0, 0.9, 1.0])
def test_beyond_a_thousand_grants_nobody_is_early_and_a_thousandth_is_lost(
    capacity: int, spread: float
) -> None:
    # A client that is always there; in the first period it spreads its calls over *spread* of it.
    rule, period = SlidingWindow(0, capacity * TOKEN, SECOND), SECOND
    granted = list[int]()
    now = 0
    while now < 6 * period:
        rule.take(now, TOKEN)
        granted.append(now)
        first = len(granted) * spread * period / capacity if len(granted) < capacity else 0
        now = rule.ready_at(max(now, round(first)), TOKEN)
    for earlier, later in zip(granted, granted[capacity:], strict=False):
        assert later - earlier >= period  # never early
    # From the first grant of a full window to the same one of the last.
    cycles = (len(granted) - 1) // capacity
    took = granted[cycles * capacity] - granted[0]
    assert cycles * period <= took <= cycles * period * (1 + 1 / EXACT)


def test_the_minima_that_a_bucket_remembers_are_thinned_and_never_mint() -> None:
    # Each of 6,000 calls finds one token more missing than the one before.
    shuffled = random.Random(3)
    for order in ("as taken", "backwards", "shuffled"):
        rule = TokenBucket(0, TOKEN, SECOND, 10_000 * TOKEN)
        receipts = []
        for _ in range(6_000):
            receipts.append(rule.take(0, TOKEN))
            assert len(rule.state.lows) <= MOST_LOWS
        if order == "shuffled":
            shuffled.shuffle(receipts)
        elif order == "backwards":
            receipts.reverse()
        for refunds, receipt in enumerate(receipts, 1):
            rule.refund(0, receipt, TOKEN)
            assert rule.level(0) <= 4_000 + refunds
        # Thinning costs what it promises: no more than a thousandth of the burst.
        assert rule.level(0) >= 10_000 - 10_000 / 1_000


@given(
    seed=st.integers(0, 10**6),
    burst=st.integers(2_500, 4_000),
    calls=st.integers(MOST_LOWS + 1, 2_400),
)
@examples(6)
def test_a_thinned_bucket_never_holds_more_than_the_replayed_one(
    seed: int, burst: int, calls: int
) -> None:
    # The replay, in whole milliseconds and tokens: a call comes each ms, a token each 2 ms.
    chance = random.Random(seed)
    rule = TokenBucket(0, 500 * TOKEN, SECOND, burst * TOKEN)
    weights = [chance.choice((1, 1, 2)) for _ in range(calls)]
    receipts = [rule.take(n * MS, weight * TOKEN) for n, weight in enumerate(weights)]
    for n in chance.sample(range(calls), calls):
        refund = chance.randrange(weights[n] + 1)
        rule.refund(calls * MS, receipts[n], refund * TOKEN)
        weights[n] -= refund
    missing = Fraction(0)
    for weight in weights:
        missing = max(Fraction(0), missing + weight - Fraction(1, 2))
    assert rule.level(calls * MS) <= burst - missing
    assert rule.level(calls * MS) >= burst - missing - Fraction(burst, 500)


def test_the_memory_of_a_bucket_is_bounded_in_deep_debt_too() -> None:
    rule = TokenBucket(0, TOKEN, SECOND, TOKEN)
    for _ in range(MOST_LOWS + 100):
        rule.take(0, TOKEN)
        assert len(rule.state.lows) <= MOST_LOWS


@pytest.mark.parametrize("algorithm", ALL)
def test_a_life_without_refunds_leaves_nothing_behind(algorithm: type[Rule]) -> None:
    rule = algorithm(0, 10 * TOKEN, SECOND, None if algorithm in WINDOWS else 10 * TOKEN)
    for now in range(0, 300 * SECOND, 300 * MS):
        rule.take(now, 3 * TOKEN)
    remembered = getattr(rule.state, "instants", getattr(rule.state, "lows", []))
    assert len(remembered) <= 4


# ------------------------------------------------------------------------------------ live changes


@pytest.mark.parametrize("algorithm", BUCKETS)
@pytest.mark.parametrize("level", [20, 7, 0, -5])
@pytest.mark.parametrize(
    ("capacity", "period", "burst"),
    [(10, SECOND, 20), (1, SECOND, 20), (30, 60 * SECOND, 20), (10, SECOND, 100), (10, SECOND, 3)],
)
def test_a_change_keeps_the_level_of_a_bucket_cut_to_the_new_burst(
    algorithm: type[Rule], level: int, capacity: int, period: int, burst: int
) -> None:
    rule = algorithm(0, 10 * TOKEN, SECOND, 20 * TOKEN)
    rule.take(0, (20 - level) * TOKEN)
    rule.configure(0, capacity * TOKEN, period, burst * TOKEN)
    assert rule.level(0) == min(level, burst)
    missing = burst - min(level, burst)
    assert rule.ready_at(0, burst * TOKEN) == -(-missing * period // capacity)


@pytest.mark.parametrize("algorithm", BUCKETS)
def test_each_stretch_counts_at_its_own_rate(algorithm: type[Rule]) -> None:
    rule = algorithm(0, 10 * TOKEN, SECOND, 100 * TOKEN)
    rule.take(0, 100 * TOKEN)
    rule.configure(1 * SECOND, 1 * TOKEN, SECOND, 100 * TOKEN)
    assert rule.level(1 * SECOND) == 10
    assert rule.level(3 * SECOND) == 12
    rule.configure(3 * SECOND, 20 * TOKEN, SECOND, 100 * TOKEN)
    assert rule.level(4 * SECOND) == 32


@pytest.mark.parametrize("algorithm", WINDOWS)
@pytest.mark.parametrize(("capacity", "level"), [(20, 14), (10, 4), (6, 0), (2, -4)])
def test_a_change_leaves_a_window_its_new_capacity_minus_what_is_inside(
    algorithm: type[Rule], capacity: int, level: int
) -> None:
    rule = algorithm(0, 10 * TOKEN, SECOND)
    rule.take(5 * MS, 6 * TOKEN)
    rule.configure(7 * MS, capacity * TOKEN, SECOND, None)
    assert rule.level(7 * MS) == level
    assert rule.burst == capacity * TOKEN
    edge = SECOND + 5 * MS if algorithm is SlidingWindow else SECOND
    assert rule.ready_at(7 * MS, capacity * TOKEN) == edge
    assert rule.level(edge) == capacity


@pytest.mark.parametrize("algorithm", ALL)
def test_a_rate_may_be_lifted_and_set_again(algorithm: type[Rule]) -> None:
    rule = algorithm(0, 10 * TOKEN, SECOND)
    before = rule.take(0, rule.burst if isinstance(rule.burst, int) else 0)
    rule.configure(0, math.inf, SECOND, None)
    assert rule.level(0) == math.inf
    without = rule.take(0, 50 * TOKEN)
    assert rule.ready_at(0, 10**30) == 0
    rule.configure(1, 10 * TOKEN, SECOND, None)
    full = rule.burst / TOKEN
    # A window still counts what went before; what went without a limit is not held against anyone.
    assert rule.level(1) == (0 if algorithm in WINDOWS else full)
    rule.refund(1, without, 50 * TOKEN)
    assert rule.level(1) == (0 if algorithm in WINDOWS else full)
    rule.refund(1, before, TOKEN)
    assert rule.level(1) == (1 if algorithm in WINDOWS else full)


@pytest.mark.parametrize("algorithm", BUCKETS)
def test_what_was_taken_before_a_rate_was_lifted_is_worth_nothing(
    algorithm: type[TokenBucket],
) -> None:
    rule = algorithm(0, 10 * TOKEN, SECOND, 10 * TOKEN)
    receipts = [rule.take(0, 4 * TOKEN) for _ in range(2)]
    rule.configure(0, math.inf, SECOND, None)
    assert (rule.state.upto, rule.state.lows) == ([], [])
    rule.refund(0, receipts[0], 4 * TOKEN)
    rule.configure(0, 10 * TOKEN, SECOND, 10 * TOKEN)
    rule.take(0, 10 * TOKEN)
    rule.refund(0, receipts[1], 4 * TOKEN)
    assert rule.level(0) == 0


def test_what_a_smaller_burst_cut_off_is_not_refunded_to_the_nanotoken() -> None:
    # A third of a nanosecond would be taken for credit that the bucket had since it was full.
    rule = TokenBucket(0, 3 * TOKEN, SECOND, 2 * TOKEN)
    receipt = rule.take(0, TOKEN)
    rule.configure(0, 3 * TOKEN, SECOND, TOKEN)
    rule.refund(0, receipt, 1)
    rule.take(0, TOKEN)
    assert exact_level(rule, 0) == 0


@pytest.mark.parametrize("algorithm", ALL)
def test_lifting_a_rate_makes_a_debt_go_away_or_wait(algorithm: type[Rule]) -> None:
    rule = algorithm(0, math.inf, SECOND)
    rule.take(0, 50 * TOKEN)
    rule.configure(0, 10 * TOKEN, SECOND, None)
    assert rule.level(0) == rule.burst / TOKEN


@pytest.mark.parametrize(
    ("algorithm", "capacity", "burst"),
    [
        (TokenBucket, 10 * TOKEN, 10 * TOKEN),
        (TokenBucket, TOKEN // 10, TOKEN),
        (GCRA, 10 * TOKEN, 10 * TOKEN),
        (LeakyBucket, 10 * TOKEN, TOKEN),
        (LeakyBucket, TOKEN // 10, TOKEN),
        (SlidingWindow, 10 * TOKEN, 10 * TOKEN),
        (FixedWindow, TOKEN // 10, TOKEN // 10),
        (TokenBucket, math.inf, math.inf),
        (LeakyBucket, math.inf, math.inf),
        (SlidingWindow, math.inf, math.inf),
    ],
)
def test_an_unset_burst_follows_the_capacity(
    algorithm: type[Rule], capacity: float, burst: float
) -> None:
    assert algorithm(0, capacity, SECOND).burst == burst
    rule = algorithm(0, 3 * TOKEN, SECOND)
    rule.configure(0, capacity, SECOND, None)
    assert rule.burst == burst


@pytest.mark.parametrize("algorithm", WINDOWS)
def test_a_window_refuses_a_burst_and_says_what_it_was_given(algorithm: type[Rule]) -> None:
    with pytest.raises(ValueError, match=rf"burst .*{algorithm.__name__}.* got 5"):
        algorithm(0, 10 * TOKEN, SECOND, 5 * TOKEN)
    rule = algorithm(0, 10 * TOKEN, SECOND)
    with pytest.raises(ValueError, match="burst"):
        rule.configure(0, 20 * TOKEN, SECOND, 5 * TOKEN)
    assert rule.burst == 10 * TOKEN


# ----------------------------------------------------------------------------------- as good as new


LATER = st.lists(st.one_of(WAITS, TAKES, TAKES, REFUNDS, EMPTIES), max_size=8)


def says(rule: Rule, now: int) -> list[float]:
    """What a rule says at *now*."""
    weights = [0, 1, whole_burst(rule) // 3, whole_burst(rule)]
    return [rule.level(now), *(rule.ready_at(now, weight) for weight in weights)]


def do(step: Step, rule: Rule, now: int, taken: list[tuple[Any, int]]) -> None:
    """One step of a life, as `Life.step` does it, at an instant that is told."""
    match step:
        case Take(part, debt, whole):
            weight = share(part, rule.burst)
            weight -= weight % TOKEN if whole else 0
            if debt or rule.ready_at(now, weight) <= now:
                taken.append((rule.take(now, weight), weight))
        case Refund(which, part) if taken:
            receipt, rest = taken[which % len(taken)]
            taken[which % len(taken)] = receipt, rest - share(part, rest)
            rule.refund(now, receipt, share(part, rest))
        case Configure(capacity, period, burst):
            window = not isinstance(rule, TokenBucket)
            rule.configure(now, capacity, period, None if window else burst)
        case Empty():
            rule.empty(now)
        case _:
            pass


def after(step: Step, rule: Rule, now: int) -> int:
    """The instant after *step*: only waiting takes time."""
    match step:
        case Wait(part, until_due=True, beside=beside):
            return max(now, rule.ready_at(now, share(part, rule.burst)) + beside)
        case Wait(part):
            return now + share(part, rule.period)
        case _:
            return now


@given(
    limit=limits(),
    before=st.lists(st.one_of(WAITS, TAKES, TAKES, REFUNDS, EMPTIES), max_size=8),
    idle=st.integers(0, 2),
    later=LATER,
)
@examples(300)
@example(  # a bucket is full a third of a nanosecond before it can be seen to be
    limit=Limit(TokenBucket, 3 * TOKEN, SECOND, 2 * TOKEN),
    before=[Take(Fraction(1, 2), False)],
    idle=0,
    later=[Take(Fraction(1), False)],
)
def test_from_its_fresh_instant_on_a_rule_lives_like_one_from_which_nothing_was_ever_taken(
    limit: Limit, before: list[Step], idle: int, later: list[Step]
) -> None:
    rule, untouched = limit.rule(), limit.rule()
    now, taken = 0, list[tuple[Any, int]]()
    for step in before:
        now = after(step, rule, now)
        do(step, rule, now, taken)
    told = says(rule, now)
    fresh_at = rule.fresh_at(now)
    assert fresh_at >= now
    assert says(rule, now) == told
    assert rule.fresh_at(fresh_at + 5) == fresh_at + 5
    now = fresh_at + idle
    mine, theirs = list[tuple[Any, int]](), list[tuple[Any, int]]()
    for step in later:
        now = after(step, untouched, now)
        do(step, rule, now, mine)
        do(step, untouched, now, theirs)
        assert says(rule, now) == says(untouched, now)
        assert rule.fresh_at(now) == untouched.fresh_at(now)


@given(limit=limits(BUCKETS), taken=SHARES.map(lambda part: 2 * part))
@examples(100)
def test_a_bucket_is_fresh_when_it_is_full_and_its_credit_of_a_part_of_a_nanosecond_is_gone(
    limit: Limit, taken: Fraction
) -> None:
    rule = limit.rule()
    assert isinstance(rule, TokenBucket)
    rule.take(7, share(taken, rule.burst))
    full_at = 7 + Fraction(share(taken, rule.burst) * limit.period, limit.capacity)
    assert rule.fresh_at(7) == math.ceil(full_at) + (full_at % 1 > 0)
    assert exact_level(rule, math.ceil(full_at)) == rule.burst
    assert exact_level(rule, math.ceil(full_at) - 1) < rule.burst or not taken


@pytest.mark.parametrize(
    ("algorithm", "fresh_at"),
    [
        (TokenBucket, 905 * MS),
        (GCRA, 905 * MS),
        (SlidingWindow, 1105 * MS),
        (FixedWindow, 1000 * MS),
    ],
)
def test_a_rule_that_was_used_is_fresh_at(algorithm: type[Rule], fresh_at: int) -> None:
    rule = algorithm(0, 10 * TOKEN, SECOND)
    assert rule.fresh_at(5 * MS) == 5 * MS
    rule.take(5 * MS, 8 * TOKEN)
    last = rule.take(105 * MS, TOKEN)
    assert rule.fresh_at(105 * MS) == rule.fresh_at(fresh_at - 1) == fresh_at
    assert rule.fresh_at(fresh_at) == fresh_at
    assert rule.fresh_at(3 * SECOND) == 3 * SECOND
    rule.charge(105 * MS, 5 * TOKEN)  # a debt
    later = 0 if algorithm in WINDOWS else 500 * MS
    assert rule.fresh_at(105 * MS) == fresh_at + later
    rule.refund(105 * MS, last, TOKEN)
    assert rule.fresh_at(105 * MS) == fresh_at + (0 if algorithm in WINDOWS else 400 * MS)


@pytest.mark.parametrize("algorithm", WINDOWS)
def test_a_window_that_gave_everything_back_is_fresh_at_once(algorithm: type[Rule]) -> None:
    rule = algorithm(0, 10 * TOKEN, SECOND)
    receipt = rule.take(5 * MS, 4 * TOKEN)
    rule.refund(6 * MS, receipt, 4 * TOKEN)
    assert rule.fresh_at(6 * MS) == 6 * MS


@pytest.mark.parametrize("algorithm", ALL)
def test_without_a_rate_a_rule_is_always_fresh(algorithm: type[Rule]) -> None:
    rule = algorithm(0, 10 * TOKEN, SECOND)
    rule.take(0, TOKEN)
    rule.configure(0, math.inf, SECOND, None)
    rule.take(3, 10**30)
    assert rule.fresh_at(3) == 3


def test_slots_are_fresh_when_nobody_holds_one() -> None:
    slots = Slots(2)
    assert slots.fresh_at(7) == 7
    slots.take(7, 1)
    assert slots.fresh_at(7) == slots.fresh_at(10**30) == NEVER
    slots.resize(1)
    assert slots.fresh_at(7) == NEVER
    slots.refund(8, None, 1)
    assert slots.fresh_at(8) == 8


# ------------------------------------------------------------------------ a question writes nothing

FRACTIONS = [0, 1, TOKEN // 3, TOKEN, 3 * TOKEN // 2]
STEPS = st.lists(st.one_of(WAITS, TAKES, TAKES, REFUNDS, EMPTIES, CONFIGURES), max_size=12)


class Frozen:
    """A state that cannot be written."""

    def __init__(self, state: Any) -> None:
        for name in state.__slots__:
            value = getattr(state, name)
            vars(self)[name] = tuple(value) if isinstance(value, list) else value

    def __setattr__(self, name: str, value: object) -> None:
        raise AssertionError(f"a question set {name}")


def lived(limit: Limit, steps: list[Step]) -> tuple[Rule, int, list[tuple[Any, int]]]:
    """A rule after *steps*, the instant, and what was taken of it."""
    rule, now, taken = limit.rule(), 0, list[tuple[Any, int]]()
    for step in steps:
        now = after(step, rule, now)
        do(step, rule, now, taken)
    return rule, now, taken


def answers(rule: Rule, now: int) -> list[float]:
    """All that can be asked, now and later, with fractions of a token too."""
    weights = [*FRACTIONS, whole_burst(rule) // 3, whole_burst(rule)]
    found: list[float] = [rule.guarantee(rule.period // 3)]
    for at in (now, now + 1, now + rule.period // 3, now + rule.period):
        fitting = [weight for weight in weights if weight <= rule.burst]
        found += [rule.level(at), rule.fresh_at(at)]
        found += [rule.ready_at(at, weight) for weight in fitting]
        found += [rule.forgets_at(at, weight) for weight in fitting]
    return found


@given(limit=limits(), steps=STEPS)
@settings(max_examples=200, deadline=None)
def test_a_question_writes_nothing(limit: Limit, steps: list[Step]) -> None:
    rule, now, _ = lived(limit, steps)
    told, written_down = answers(rule.fork(), now), rule.dump()
    rule.state = Frozen(rule.state)
    assert answers(rule, now) == told
    assert answers(rule.fork(), now) == told
    assert rule.dump() == written_down


def test_slots_are_asked_without_a_change() -> None:
    slots = Slots(3)
    slots.take(0, 1)
    slots.resize(5, 2)
    before = slots.dump()
    assert [slots.ready_at(7, weight) for weight in (0, 4, 5)] == [7, 7, NEVER]
    assert (slots.level(7), slots.fresh_at(7), slots.guarantee(7)) == (4, NEVER, math.inf)
    assert slots.fork().dump() == slots.dump() == before


@pytest.mark.parametrize("algorithm", ALL)
def test_nothing_that_a_throttle_tells_writes_its_rule(algorithm: type[Rule]) -> None:
    async def main() -> None:
        throttle = Throttle(10, algorithm=algorithm)
        await throttle.acquire(0.5)
        await asyncio.sleep(0.25)
        rule = core_of(throttle).rule
        rule.state = Frozen(rule.state)
        assert repr(throttle)
        assert throttle.delay(0.3) <= throttle.delay(throttle.burst) <= 1
        assert throttle.level <= throttle.burst
        assert throttle.guarantee(1) > 0

    testing.run(main())


# ------------------------------------------------------------------------ written and read


COPIES = [Rule.fork, lambda rule: type(rule).load(rule.dump())]


@pytest.mark.parametrize("copied", COPIES, ids=["a fork", "a loaded rule"])
@given(limit=limits(), before=STEPS, later=STEPS)
@settings(max_examples=200, deadline=None)
def test_a_copy_lives_on_as_the_original_would_and_knows_its_receipts(
    copied: Any, limit: Limit, before: list[Step], later: list[Step]
) -> None:
    rule, now, mine = lived(limit, before)
    assert {type(receipt) for receipt, _ in mine} <= {int}
    theirs = list(mine)
    told = rule.dump()
    copy = copied(rule)
    assert copy.dump() == told
    for step in later:
        now = after(step, rule, now)
        do(step, copy, now, theirs)
        assert rule.dump() == told  # each goes its own way
        do(step, rule, now, mine)
        told = rule.dump()
        assert copy.dump() == told
        assert answers(copy, now) == answers(rule, now)
    assert mine == theirs


@pytest.mark.parametrize("algorithm", ALL)
def test_a_rule_without_a_limit_is_written_down_too(algorithm: type[Rule]) -> None:
    rule = algorithm.load(algorithm(7, math.inf, SECOND).dump())
    assert rule.take(8, 10**30) is None
    assert (rule.capacity, rule.level(8), rule.fresh_at(8)) == (math.inf, math.inf, 8)
    rule.configure(9, 3 * TOKEN, SECOND, None)
    assert rule.level(9) == rule.burst / TOKEN


def test_slots_are_written_down_with_those_that_are_held() -> None:
    slots = Slots(3)
    slots.take(0, 2)
    slots.resize(5, 4)
    for copy in (Slots.load(slots.dump()), slots.fork()):
        assert (copy.limit, copy.burst, copy.free, copy.used) == (5, 4, 3, 2)


def test_what_another_kind_of_rule_wrote_is_refused() -> None:
    with pytest.raises(ValueError, match="must be of a bucket, got that of a fixed window"):
        TokenBucket.load(FixedWindow(0, TOKEN, SECOND).dump())


# -------------------------------------------------------------------- interrupted in the middle


class Interrupted(BaseException):
    """What a signal handler raises."""


class Interrupter:
    """Raises at the place of that number of those at which CPython runs signal handlers.

    Where a Python function is entered, after a loop has jumped back, and after a call of a function
    written in C.
    """

    def __init__(self, place: int) -> None:
        self.left = place
        self.before: dict[types.FrameType, str] = {}

    def __call__(self, frame: types.FrameType, event: str, _: object) -> Interrupter | None:
        if frame.f_globals["__name__"].partition(".")[0] not in ("async_throttle", __name__):
            return None  # a callback of the garbage collector, say
        if event == "call":
            frame.f_trace_opcodes = True
            if frame.f_back is not None:
                self.before[frame.f_back] = ""  # it was no function written in C
            self.place()
        elif event == "opcode":
            before = self.before.get(frame, "")
            self.before[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if before.startswith(("CALL", "JUMP_BACKWARD")):
                self.place()
        return self

    def place(self) -> None:
        if self.left == 0:
            raise Interrupted
        self.left -= 1

    def interrupts(self, change: Callable[[], object]) -> bool:
        """Whether there was such a place in *change*."""
        usual = sys.gettrace()
        sys.settrace(self)
        try:
            change()
        except Interrupted:
            return True
        finally:
            sys.settrace(usual)
        return False


def changing(
    step: Step | int | None, rule: Rule, now: int, taken: list[tuple[Any, int]]
) -> Callable[[], object]:
    """The call that changes *rule* as *step* says: by an integer to another clock."""
    match step:
        case int():
            return partial(rule.shift, step)
        case Take(part, debt, whole):
            weight = share(part, rule.burst)
            weight -= weight % TOKEN if whole else 0
            return partial(rule.charge if debt else rule.take, now, weight)
        case Refund(which, part) if taken:
            receipt, weight = taken[which % len(taken)]
            return partial(rule.refund, now, receipt, share(part, weight))
        case Configure(capacity, period, burst):
            bucket = isinstance(rule, TokenBucket)
            return partial(rule.configure, now, capacity, period, burst if bucket else None)
        case _:
            return partial(rule.empty, now)


def found(rule: Rule, now: int, taken: list[tuple[Any, int]]) -> list[float]:
    """All that a rule answers, and what each receipt is worth."""
    worth = list[float]()
    for receipt, weight in taken:
        twin = rule.fork()
        twin.refund(now, receipt, weight)
        worth.append(twin.level(now))
    return answers(rule, now) + worth


def torn(
    rule: Rule, step: Step | int | None, now: int, taken: list[tuple[Any, int]], places: Any
) -> list[int]:
    """The places at which an interruption of *step* leaves *rule* other than it was."""
    told, bad = found(rule, now, taken), []
    for place in places:
        twin = rule.fork()
        if not Interrupter(place).interrupts(changing(step, twin, now, taken)):
            break
        if found(twin, now, taken) != told:
            bad.append(place)
    return bad


@given(
    limit=limits(),
    steps=STEPS,
    step=st.one_of(WAITS, TAKES, REFUNDS, EMPTIES, CONFIGURES, st.integers(1, DAY)),
)
@settings(max_examples=150, deadline=None)
def test_a_change_that_is_interrupted_has_changed_nothing(
    limit: Limit, steps: list[Step], step: Step | int
) -> None:
    rule, now, taken = lived(limit, steps)
    now = after(step, rule, now) if not isinstance(step, int) else now
    assert torn(rule, step, now, taken, itertools.count()) == []


def test_so_it_is_where_many_minima_are_thinned() -> None:
    rule = TokenBucket(0, TOKEN, SECOND, 10_000 * TOKEN)
    taken = [(rule.take(0, TOKEN), TOKEN) for _ in range(MOST_LOWS + 1)]
    places = [*range(0, 4 * MOST_LOWS, 700), *range(MOST_LOWS - 10, MOST_LOWS + 10)]
    assert len(rule.state.lows) == MOST_LOWS
    assert torn(rule, Take(Fraction(1, 10_000), False), 0, taken[::500], sorted(places)) == []


class Torn(TokenBucket):
    """Takes, calls, and takes again."""

    __slots__ = ()

    def take(self, now: int, weight: int) -> int | None:
        self.state.full_at += 1
        len(())
        return super().take(now, weight)


def test_a_rule_that_is_torn_by_an_interruption_is_found_out() -> None:
    rule = Torn(0, 10 * TOKEN, SECOND, 10 * TOKEN)
    rule.take(5, 3 * TOKEN)
    assert torn(rule, Take(Fraction(1, 2), False), 5, [], itertools.count())


@pytest.mark.parametrize("algorithm", ALL)
def test_a_take_that_raises_has_taken_nothing(algorithm: type[Rule]) -> None:
    no_weight: Any = None
    rule = algorithm(0, 10 * TOKEN, SECOND)
    rule.take(5, TOKEN)
    before = rule.dump()
    with pytest.raises(TypeError):
        rule.take(5, no_weight)
    with pytest.raises(TypeError):
        rule.take(6, no_weight)
    assert rule.dump() == before


# ----------------------------------------------------------------------------------- another clock


@given(
    limit=limits(),
    steps=st.lists(
        st.one_of(
            WAITS,
            TAKES,
            TAKES,
            REFUNDS,
            EMPTIES,
            CONFIGURES,
            st.integers(-2 * DAY, 2 * DAY),  # to another clock
        ),
        max_size=20,
    ),
)
@examples(400)
def test_a_rule_that_was_moved_to_another_clock_lives_on_as_before_at_the_moved_instants(
    limit: Limit, steps: list[Step | int]
) -> None:
    stayed, moved = limit.rule(), limit.rule()
    mine, theirs = list[tuple[Any, int]](), list[tuple[Any, int]]()
    now = away = 0
    for step in steps:
        if isinstance(step, int):
            moved.shift(step)
            away += step
        else:
            now = after(step, stayed, now)
            do(step, stayed, now, mine)
            do(step, moved, now + away, theirs)  # with receipts from before it was moved, too
        level, *instants = says(stayed, now)
        assert says(moved, now + away) == [level, *(instant + away for instant in instants)]
        assert moved.fresh_at(now + away) == stayed.fresh_at(now) + away


def test_slots_know_no_clock() -> None:
    slots = Slots(2)
    slots.take(5, 1)
    slots.shift(-(10**9))
    assert (slots.free, slots.used) == (1, 1)


# ------------------------------------------------------------------------------------ looking ahead


SPLITS = st.lists(
    st.tuples(st.one_of(SHARES, SHARES.map(lambda part: part / 1_000)), SHARES),
    min_size=1,
    max_size=5,
)
"""How far each part goes into what is left of the time, and how heavy it is of what is left."""


def split(
    rule: Rule, since: int, until: int, whole: int, parts: list[tuple[Fraction, Fraction]]
) -> None:
    """Take *whole* in parts between two instants, each when it may go; the last at *until*."""
    rule = rule.fork()
    now = since
    for into, part in parts:
        weight = share(part, whole)
        now = rule.ready_at(now + share(into, until - now), weight)
        assert now <= until
        rule.take(now, weight)
        whole -= weight
    assert rule.ready_at(until, whole) == until


@given(
    limit=limits(),
    history=HISTORIES,
    whole=SHARES,
    longer=SHARES,
    parts=SPLITS,
)
@examples(300)
def test_what_can_go_at_once_at_an_instant_can_go_in_parts_until_then(
    limit: Limit,
    history: list[tuple[Fraction, Fraction]],
    whole: Fraction,
    longer: Fraction,
    parts: list[tuple[Fraction, Fraction]],
) -> None:
    rule = limit.rule()
    now = 0
    for gap, part in history:
        now += share(gap, limit.period)
        rule.take(now, share(part, rule.burst))
    weight = share(whole, rule.burst)
    until = rule.ready_at(now, weight) + share(longer, limit.period)
    assert rule.ready_at(until, weight) == until
    split(rule, now, until, weight, parts)


@given(
    calls=st.integers(1_000, 2_000),
    capacity=st.integers(2_000, 3_000),
    spread=st.integers(500, 10_000),
    whole=SHARES,
    parts=SPLITS,
)
@examples(30)
@example(
    calls=1_500,
    capacity=2_000,
    spread=10_000,
    whole=Fraction(1),
    parts=[(Fraction(1, 10**6), Fraction(1, 997))],
)
def test_so_it_can_in_a_window_that_gathers_what_is_inside(
    calls: int, capacity: int, spread: int, whole: Fraction, parts: list[tuple[Fraction, Fraction]]
) -> None:
    # What is taken now must not make anything count later that was taken before.
    rule = SlidingWindow(0, capacity * TOKEN, SECOND)
    now = 0
    for n in range(calls):
        now = n * (SECOND // spread)
        rule.take(now, TOKEN)
    weight = share(whole, rule.burst)
    split(rule, now, rule.ready_at(now, weight), weight, parts)


@given(
    spare=st.integers(0, 3),
    held=st.integers(0, 20),
    weights=st.lists(st.integers(0, 20), min_size=1),
)
def test_so_it_can_with_slots(spare: int, held: int, weights: list[int]) -> None:
    slots = Slots(max(1, held + sum(weights) + spare))
    slots.take(0, held)
    assert slots.ready_at(9, sum(weights)) == 9
    for now, weight in enumerate(weights):
        assert slots.ready_at(now, weight) == now
        slots.take(now, weight)


@given(
    limit=limits([cls for cls in ALL if cls.divisible]),
    history=HISTORIES,
    parts=st.lists(SHARES, min_size=1, max_size=8),
)
@examples(200)
def test_a_queue_before_a_divisible_rule_ends_when_its_sum_may_go_even_beyond_the_burst(
    limit: Limit, history: list[tuple[Fraction, Fraction]], parts: list[Fraction]
) -> None:
    rule = limit.rule()
    now = 0
    for gap, part in history:
        now += share(gap, limit.period)
        rule.take(now, share(part, rule.burst))
    weights = [share(part, rule.burst) for part in parts]
    end = rule.ready_at(now, sum(weights))
    for weight in weights:
        now = rule.ready_at(now, weight)
        rule.take(now, weight)
    assert now == end


# ------------------------------------------------------------------------------------------- slots


def test_slots_have_no_instant_until_one_is_freed() -> None:
    slots = Slots(2)
    assert slots.ready_at(5, 2) == 5
    slots.take(5, 2)
    assert (slots.used, slots.free, slots.level(5)) == (2, 0, 0)
    assert slots.ready_at(10**30, 1) == NEVER
    slots.refund(6, None, 1)
    assert slots.ready_at(6, 1) == 6
    assert slots.ready_at(6, 2) == NEVER


def test_shrunk_slots_admit_nobody_before_enough_have_left() -> None:
    slots = Slots(5)
    slots.take(0, 4)
    slots.resize(2)
    assert (slots.used, slots.free) == (4, -2)
    for left in (3, 2):
        slots.refund(0, None, 1)
        assert slots.used == left
        assert slots.ready_at(0, 1) == NEVER
    slots.refund(0, None, 1)
    assert slots.ready_at(0, 1) == 0
    slots.resize(UNLIMITED)
    assert slots.used == 1
    assert slots.level(0) == math.inf


def test_the_burst_of_slots_is_their_limit_in_slots() -> None:
    slots = Slots(3)
    assert (slots.burst, slots.capacity) == (3, math.inf)
    slots.take(0, 2)
    slots.resize(5)
    assert slots.burst == slots.fork().burst == 5
    slots.resize(1)
    assert slots.burst == 1
    slots.resize(UNLIMITED)
    assert slots.burst == UNLIMITED


def test_a_fork_of_slots_goes_its_own_way() -> None:
    slots = Slots(3)
    slots.take(0, 1)
    fork = slots.fork()
    fork.take(0, 2)
    assert (slots.free, fork.free, fork.limit) == (2, 0, 3)


# ------------------------------------------------------------------------------ rules by their name


@pytest.mark.parametrize("member", RateLimitAlgorithm)
def test_each_member_of_the_enum_stands_for_the_rule_of_its_name(
    member: RateLimitAlgorithm,
) -> None:
    rule = rule_class(member)
    assert rule.__name__ == member.name == member.value
    assert rule in ALL
    assert Throttle(10, algorithm=member).algorithm is rule
    assert rule_class(rule) is rule


@pytest.mark.parametrize("algorithm", ["TokenBucket", None, 3, TokenBucket(0, TOKEN, SECOND)])
def test_what_is_no_rule_is_refused_by_name_and_value(algorithm: Any) -> None:
    with pytest.raises(ValueError, match=r"algorithm must be .*, got ") as caught:
        rule_class(algorithm)
    assert repr(algorithm) in str(caught.value)


def test_a_class_that_is_no_rule_names_the_one_that_was_meant() -> None:
    class_of_another_module = type("LeakyBucket", (), {"__module__": "somewhere.buckets"})
    with pytest.raises(TypeError, match=r"somewhere\.buckets\.LeakyBucket.*async_throttle\.Leaky"):
        rule_class(class_of_another_module)
    with pytest.raises(TypeError, match=r"algorithm must be a rule class, got builtins\.dict$"):
        rule_class(dict)


# ------------------------------------------------------------------------------ a rule of one's own


class Spaced(Rule):
    """Calls start at least ``period / capacity`` apart, whatever they weigh: three methods."""

    __slots__ = ("free_at",)

    free_at: int

    def __init__(self, now: int, capacity: float, period: int, burst: float | None = None) -> None:
        self.free_at = now
        super().__init__(now, capacity, period, burst)

    def ready_at(self, now: int, weight: int) -> int:
        return max(now, self.free_at)

    def take(self, now: int, weight: int) -> None:
        if self.capacity < math.inf:
            self.free_at = max(now, self.free_at) + math.ceil(self.period * TOKEN / self.capacity)

    def level(self, now: int) -> float:
        return 1.0 if now >= self.free_at else 0.0


async def entered(throttle: Throttle, weights: Sequence[float]) -> list[float]:
    """The instants at which so many tasks enter that all come now."""
    loop = asyncio.get_running_loop()
    instants = []

    async def enter(weight: float) -> None:
        async with throttle(weight):
            instants.append(loop.time())

    await asyncio.gather(*map(enter, weights))
    return instants


def test_a_rule_of_ones_own_decides_when_callers_go() -> None:
    async def main() -> None:
        throttle = Throttle(4, algorithm=Spaced)
        assert throttle.algorithm is Spaced
        assert throttle.burst == 4
        assert await entered(throttle, [1, 3, 0, 4]) == [0.0, 0.25, 0.5, 0.75]
        assert throttle.level == 0
        assert throttle.delay() == 0.25
        assert not throttle.try_acquire()
        with pytest.raises(WeightTooLarge, match="5 exceeds the burst"):
            throttle.try_acquire(5)
        assert throttle.guarantee(1) == math.inf
        assert throttle.active == 0

    testing.run(main())


def test_the_delay_of_a_rule_of_ones_own_counts_those_ahead_and_changes_nothing() -> None:
    async def main() -> None:
        throttle = Throttle(4, algorithm=Spaced)
        tasks = [asyncio.create_task(throttle.acquire()) for _ in range(5)]
        await asyncio.sleep(0)
        assert [throttle.delay(), throttle.delay(4)] == [1.25, 1.25]
        await asyncio.gather(*tasks)
        assert asyncio.get_running_loop().time() == 1.0
        assert throttle.delay() == 0.25

    testing.run(main())


def test_a_rule_of_ones_own_can_be_paused_and_emptied_charged_and_changed() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        throttle = Throttle(4, algorithm=Spaced)
        throttle.pause(2, empty=True)
        assert throttle.delay() == 2.25
        assert await entered(throttle, [1]) == [2.25]
        throttle.charge(3)
        assert throttle.delay() == 0.5
        throttle.capacity = 1
        await throttle.acquire()
        await throttle.acquire()
        assert loop.time() == 2.25 + 0.5 + 1
        throttle.capacity = math.inf
        throttle.capacity = 4
        lease = await throttle.lease(1)
        lease.settle(0)  # it keeps what it took: this rule knows no refund
        assert throttle.delay() > 0
        throttle.pause(0, empty=True)
        assert throttle.level == 0

    testing.run(main())


def test_a_rule_of_ones_own_is_never_taken_for_fresh_unless_it_says_so() -> None:
    rule = Spaced(0, 4 * TOKEN, SECOND)
    assert rule.fresh_at(0) == NEVER
    assert rule.fresh_at(10**30) == NEVER


def test_a_rule_of_ones_own_refuses_another_clock_unless_it_says_how() -> None:
    rule = Spaced(0, 4 * TOKEN, SECOND)
    rule.take(0, TOKEN)
    with pytest.raises(NotImplementedError, match=r"Spaced .*define shift\(\)"):
        rule.shift(5)
    assert rule.ready_at(0, TOKEN) == SECOND // 4


def test_a_rule_of_ones_own_is_written_down_only_if_it_says_how() -> None:
    rule = Spaced(0, 4 * TOKEN, SECOND)
    with pytest.raises(TypeError, match=r"Spaced .*define dump\(\) and load\(\)"):
        rule.dump()
    with pytest.raises(TypeError, match=r"Spaced .*define dump\(\) and load\(\)"):
        Spaced.load(b"")


def test_a_rule_of_ones_own_may_be_forked_as_it_is() -> None:
    rule = Spaced(0, 4 * TOKEN, SECOND)
    fork = rule.fork()
    fork.take(0, TOKEN)
    assert (rule.ready_at(0, TOKEN), fork.ready_at(0, TOKEN)) == (0, SECOND // 4)


def test_a_rule_asks_nobody_and_is_told_no_end_unless_it_says_so() -> None:
    rule, asked = Spaced(0, 4 * TOKEN, SECOND), list[None]()
    rule.demand(TOKEN, lambda: asked.append(None))
    rule.take(0, TOKEN)
    rule.ended(5, None, TOKEN)
    assert (asked, rule.wants_ends, rule.ready_at(5, TOKEN)) == ([], False, SECOND // 4)
    assert NEVER < UNKNOWN


class Later(TokenBucket):
    """A bucket of ours that somebody has made stricter: it opens after a second."""

    __slots__ = ()

    def ready_at(self, now: int, weight: int) -> int:
        return max(SECOND, super().ready_at(now, weight))


def test_a_bucket_that_somebody_has_made_stricter_is_asked() -> None:
    async def main() -> float:
        async with Throttle(10, algorithm=Later):
            return asyncio.get_running_loop().time()

    assert testing.run(main()) == 1.0
