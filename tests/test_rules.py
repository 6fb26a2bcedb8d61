"""The arithmetic of each limit, against yardsticks that are obviously right.

No clock: instants are passed in. `Bucket`, `Sliding` and `Fixed` of ``oracle.py`` remember all that
was ever taken and replay it in fractions; where a promise can be checked by trying every interval,
it is.
"""

from __future__ import annotations

import asyncio
import dis
import gc
import itertools
import math
import random
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from oracle import Bucket, Entry, Fixed, Sliding
from support import examples, scaled
from support import now as loop_time

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


def age(history: list[tuple[Fraction, Fraction]], *rules: Any, now: int = 0) -> int:
    """Take of *rules* what was taken before, the instant after that; what does not fit is debt."""
    for gap, part in history:
        now += share(gap, rules[0].period)
        for rule in rules:
            rule.take(now, share(part, rules[0].burst))
    return now


def share(part: Fraction, whole: float | Fraction) -> int:
    return math.floor(part * Fraction(whole))


def exact_level(rule: TokenBucket, now: int) -> Fraction:
    """The level in nanotokens without the rounding of a float."""
    ticks = rule.state.ticks
    missing = max(0, rule.state.full_at - now * ticks.scale)
    return Fraction(ticks.room - missing, ticks.token) * TOKEN


# ------------------------------------------------------------------------ the promised instant


@given(limit=limits(), birth=st.integers(0, DAY), history=HISTORIES, weight=SHARES, between=SHARES)
@examples(250)
@example(
    limit=Limit(TokenBucket, 10 * TOKEN, SECOND, TOKEN),
    birth=0,
    history=[(Fraction(0), Fraction(1))],
    weight=Fraction(1),
    between=Fraction(1, 2),
)
def test_refused_until_just_before_the_promised_instant_and_admitted_at_it(
    limit: Limit,
    birth: int,
    history: list[tuple[Fraction, Fraction]],
    weight: Fraction,
    between: Fraction,
) -> None:
    rule, yardstick = limit.rule(birth), limit.yardstick(birth)
    now = age(history, rule, yardstick, now=birth)
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


# ---------------------------------------------------------------- the envelope, by trying it all


@given(
    limit=limits(),
    wishes=st.lists(
        st.tuples(st.one_of(st.just(Fraction(0)), SHARES), SHARES, st.booleans()), max_size=25
    ),
    settled=st.lists(SHARES, max_size=25),
)
@examples(250)
def test_no_half_open_window_sees_more_than_the_guarantee_in_weights_as_settled(
    limit: Limit, wishes: list[tuple[Fraction, Fraction, bool]], settled: list[Fraction]
) -> None:
    # Callers come after a gap, go when they may or give up, and settle for less some time later.
    rule = limit.rule()
    now, granted, held = 0, list[tuple[int, int]](), list[tuple[int, Any]]()
    settling = iter(settled)
    for gap, part, patient in wishes:
        now += share(gap, limit.period)
        weight = share(part, rule.burst)
        due = rule.ready_at(now, weight)
        if patient:
            now = due
        if due <= now:
            granted.append((now, weight))
            held.append((len(granted) - 1, rule.take(now, weight)))
        if held and (actual := next(settling, None)) is not None:
            index, receipt = held.pop(len(held) // 2)
            instant, weight = granted[index]
            rule.refund(now, receipt, weight - share(actual, weight))
            granted[index] = instant, share(actual, weight)
    for first, last in itertools.combinations_with_replacement(range(len(granted)), 2):
        admitted = sum(weight for _, weight in granted[first : last + 1])
        length = granted[last][0] - granted[first][0] + 1  # up to, not including, the next ns
        assert admitted <= rule.guarantee(length)


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
    # All of it just before an edge, and again at that edge and every period later. A fixed window
    # is opened a period before that edge by a nanotoken.
    length = periods * limit.period + 2 + share(more, limit.period - 2)
    rule = limit.rule()
    start = 3 * limit.period - 1
    step = limit.period
    opener = int(limit.algorithm is FixedWindow)
    rule.take(start + 1 - step, opener)
    later = range(start + (1 if opener else step), start + length, step)
    for now, weight in [(start, limit.capacity - opener), *((at, limit.capacity) for at in later)]:
        assert rule.ready_at(now, weight) == now
        rule.take(now, weight)
    assert rule.guarantee(length) == limit.capacity * (1 + len(later))


def whole_burst(rule: Rule) -> int:
    assert isinstance(rule.burst, int)
    return rule.burst


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


RATES = {  # tokens, per nanoseconds
    "1 a day": (1, DAY),
    "7 a day": (7, DAY),
    "3 a second": (3, SECOND),
    "997 a second": (997, SECOND),
    "999,983 a second": (999_983, SECOND),
    "1,000,000 a second": (1_000_000, SECOND),
}


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


# ------------------------------------------------ a whole life, against replaying it from the start


class Replayed:
    """A yardstick with the face of a rule."""

    def __init__(self, limit: Limit) -> None:
        self.it = limit.yardstick()
        self.divisible = isinstance(self.it, Bucket)

    @property
    def burst(self) -> int:
        return self.it.numbers.burst if isinstance(self.it, Bucket) else self.it.capacity

    @property
    def period(self) -> int:
        return self.it.numbers.period if isinstance(self.it, Bucket) else self.it.period

    def level(self, now: int) -> Fraction:
        return Fraction(self.it.level(now))

    def ready_at(self, now: int, weight: int) -> int:
        return math.ceil(self.it.ready(now, weight))

    def take(self, now: int, weight: int) -> Entry:
        return self.it.take(now, weight)

    def charge(self, now: int, weight: int) -> None:
        self.it.take(now, weight)

    def refund(self, now: int, entry: Entry, weight: int) -> None:
        self.it.refund(entry, now, weight)

    def configure(self, now: int, capacity: int, period: int, burst: int | None) -> None:
        self.it.change(now, capacity, period, burst or capacity)

    def empty(self, now: int) -> None:
        self.it.empty(now)

    def lower(self, now: int, level: int, said: int, until: int | None) -> None:
        self.it.lower(now, level, said, until)


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
class Charge:
    """A share of the burst, into debt if need be, and without a receipt."""

    part: Fraction


@dataclass(frozen=True, slots=True)
class Refund:
    """Of what was taken, counted round: a share of what is left of it."""

    which: int
    part: Fraction


@dataclass(frozen=True, slots=True)
class Configure:
    """New parameters; without a period, the old one."""

    capacity: int
    period: int | None
    burst: int


@dataclass(frozen=True, slots=True)
class Empty:
    pass


@dataclass(frozen=True, slots=True)
class Lower:
    """A share of the burst is what a server has left, and another what is on its way.

    Its window is over after a share of two periods; without one it does not say when.
    """

    said: Fraction
    flies: Fraction
    reset: Fraction | None


Step = Wait | Take | Charge | Refund | Configure | Empty | Lower
Taken = list[tuple[Any, int]]
"""Receipts, and what is left of each weight."""

PARTS = st.one_of(st.sampled_from([Fraction(0), Fraction(1, 2), Fraction(1)]), SHARES)
WAITS = st.builds(Wait, PARTS, st.booleans(), st.integers(-1, 1))
TAKES = st.builds(Take, PARTS, st.booleans(), st.booleans())
REFUNDS = st.builds(Refund, st.integers(0, 7), PARTS)
EMPTIES = st.just(Empty())
CONFIGURES = st.builds(Configure, AMOUNTS, st.none() | PERIODS, AMOUNTS)
LOWERS = st.builds(Lower, PARTS, PARTS, st.none() | PARTS)
UNCHANGED = st.one_of(WAITS, TAKES, TAKES, st.builds(Charge, PARTS), REFUNDS, EMPTIES, LOWERS)
STEPS = UNCHANGED | CONFIGURES


def after(step: Step, rule: Any, now: int) -> int:
    """The instant after *step*: only waiting takes time."""
    match step:
        case Wait(part, until_due=True, beside=beside):
            return max(now, int(rule.ready_at(now, share(part, rule.burst))) + beside)
        case Wait(part):
            return now + share(part, int(rule.period))
        case _:
            return now


def weigh(step: Take, rule: Any) -> int:
    weight = share(step.part, rule.burst)
    return weight - weight % TOKEN if step.whole else weight


def changing(step: Step | int, rule: Any, now: int, taken: Taken) -> Callable[[], Any]:
    """The call that changes *rule* as *step* says: by an integer to another clock."""
    match step:
        case int():
            return partial(rule.shift, step)
        case Take():
            return partial(rule.take, now, weigh(step, rule))
        case Charge(part):
            return partial(rule.charge, now, share(part, rule.burst))
        case Refund(which, part) if taken:
            receipt, weight = taken[which % len(taken)]
            return partial(rule.refund, now, receipt, share(part, weight))
        case Configure(capacity, period, burst):
            most = burst if rule.divisible else None
            return partial(rule.configure, now, capacity, period or rule.period, most)
        case Empty():
            return partial(rule.empty, now)
        case Lower(said, flies, reset):
            left = share(said, rule.burst)
            until = None if reset is None else now + share(reset, 2 * rule.period)
            return partial(rule.lower, now, left - share(flies, rule.burst), left, until)
        case _:
            return bool


def do(step: Step, rule: Any, now: int, taken: Taken) -> bool:
    """One step of a life, at an instant that is told; whether it was possible."""
    if isinstance(step, Take) and not step.debt and rule.ready_at(now, weigh(step, rule)) > now:
        return False
    receipt = changing(step, rule, now, taken)()
    if isinstance(step, Take):
        taken.append((receipt, weigh(step, rule)))
    elif isinstance(step, Refund) and taken:
        receipt, rest = taken[step.which % len(taken)]
        taken[step.which % len(taken)] = receipt, rest - share(step.part, rest)
    return True


@given(limit=limits(), steps=st.lists(STEPS, max_size=20))
@examples(1_000)
@example(
    limit=Limit(SlidingWindow, 10 * TOKEN, SECOND, None),
    steps=[
        Take(Fraction(1), False),
        Wait(Fraction(1), False, 0),
        Configure(10 * TOKEN, 10 * SECOND, 10 * TOKEN),
        Refund(0, Fraction(1)),
    ],
)
@example(  # the refund was worth nothing, for 59/60 of a nanotoken had been rounded down to 0
    limit=Limit(TokenBucket, TOKEN, 60 * SECOND, TOKEN),
    steps=[
        Take(Fraction(1, TOKEN), False),
        Wait(Fraction(1, 60 * SECOND), False, 0),
        Configure(TOKEN // 10, SECOND // 10, 5 * TOKEN),
        Refund(0, Fraction(1)),
    ],
)
@example(  # a third of a nanosecond was taken for credit that the bucket had since it was full
    limit=Limit(TokenBucket, 3 * TOKEN, SECOND, 2 * TOKEN),
    steps=[
        Take(Fraction(1, 2), False),
        Configure(3 * TOKEN, SECOND, TOKEN),
        Refund(0, Fraction(1, TOKEN)),
        Take(Fraction(1), False),
    ],
)
def test_a_rule_holds_what_it_would_have_held_with_the_true_weights(
    limit: Limit, steps: list[Step]
) -> None:
    rule, taken = limit.rule(), Taken()
    yardstick, entries = Replayed(limit), Taken()
    now = 0
    for step in steps:
        now = after(step, rule, now)
        if do(step, rule, now, taken):
            follows = replace(step, debt=True) if isinstance(step, Take) else step
            do(follows, yardstick, now, entries)
        if isinstance(rule, TokenBucket):
            assert exact_level(rule, now) == yardstick.level(now)
        assert rule.level(now) == float(yardstick.level(now) / TOKEN)
        for part in (Fraction(0), Fraction(1, 3), Fraction(1)):
            weight = share(part, rule.burst)
            assert rule.ready_at(now, weight) == yardstick.ready_at(now, weight)


# ------------------------------------------------------------------------------ refunds, by hand


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


@pytest.mark.parametrize(("now", "missing"), [(6 * SECOND, 30), (8 * SECOND, 10)])
def test_what_a_refund_is_worth_is_noted_after_an_earlier_refund_too(
    now: int, missing: int
) -> None:
    rule = TokenBucket(0, 10 * TOKEN, SECOND, 100 * TOKEN)
    first, _, last = (rule.take(0, weight * TOKEN) for weight in (10, 20, 60))
    rule.charge(0, 5 * TOKEN)  # finds 90 missing
    rule.refund(0, first, 5 * TOKEN)
    rule.take(now, 10 * TOKEN)  # finds that much missing
    rule.refund(now, last, 60 * TOKEN)
    assert rule.level(now) == 100 - (missing + 10) + missing


@pytest.mark.parametrize("algorithm", ALL)
def test_a_part_of_a_token_can_be_given_back_but_nothing_from_before_it_was_emptied(
    algorithm: type[Rule],
) -> None:
    rule = algorithm(0, 10 * TOKEN, SECOND, None if algorithm in WINDOWS else 10 * TOKEN)
    receipt = rule.take(0, 3 * TOKEN)
    rule.refund(0, receipt, TOKEN // 2)
    assert rule.level(0) == 7.5
    rule.empty(0)
    rule.refund(0, receipt, TOKEN)
    assert rule.level(0) == 0
    assert rule.ready_at(0, 1) > 0


def test_what_went_at_one_instant_of_a_sliding_window_comes_back_at_one() -> None:
    rule = SlidingWindow(0, 2 * EXACT * TOKEN, SECOND)
    for _ in range(2 * EXACT):
        rule.take(0, TOKEN)
    assert rule.ready_at(0, 2 * EXACT * TOKEN) == SECOND


def test_a_sliding_window_is_ready_when_enough_has_left_to_the_nanotoken() -> None:
    rule = SlidingWindow(0, 3 * TOKEN, SECOND)
    for now in (0, 5, 5):
        receipt = rule.take(now, TOKEN)
    assert [rule.ready_at(6, weight) for weight in (0, 1, TOKEN, TOKEN + 1)] == [
        *(6, SECOND, SECOND, SECOND + 5)
    ]
    rule.refund(6, receipt, TOKEN)
    assert [rule.ready_at(6, weight) for weight in (TOKEN, 2 * TOKEN)] == [6, SECOND]


def test_a_bucket_that_is_cut_to_a_smaller_burst_has_no_credit() -> None:
    rule = TokenBucket(0, 10 * TOKEN, SECOND, 10 * TOKEN)
    rule.configure(0, 10 * TOKEN, SECOND, 5 * TOKEN)
    assert rule.ready_at(0, 6 * TOKEN) == rule.ready_at(0, 5 * TOKEN) + SECOND // 10
    rule.take(0, 5 * TOKEN)
    assert rule.ready_at(0, 1) == 1


def test_a_bucket_that_was_full_a_nanosecond_ago_has_no_credit() -> None:
    rule = TokenBucket(0, 10 * TOKEN, SECOND, 10 * TOKEN)
    assert rule.ready_at(9 * SECOND, 11 * TOKEN) == 9 * SECOND + SECOND // 10
    rule.take(1, 10 * TOKEN)
    assert rule.ready_at(1, 1) == 2


def test_what_was_missing_stays_noted_in_finer_ticks_and_under_new_parameters() -> None:
    rule = TokenBucket(0, 10 * TOKEN, SECOND, 10 * TOKEN)
    receipt = rule.take(0, 5 * TOKEN)
    rule.charge(0, TOKEN)  # finds 5 missing
    rule.take(300 * MS, TOKEN // 2)  # finds 3 missing
    rule.refund(300 * MS, receipt, 5 * TOKEN)
    assert rule.level(300 * MS) == 9.5
    rule = TokenBucket(0, 10 * TOKEN, SECOND, 10 * TOKEN)
    receipt = rule.take(0, TOKEN)
    rule.take(50 * MS, TOKEN)  # finds half a token missing
    rule.configure(100 * MS, 20 * TOKEN, SECOND, 10 * TOKEN)
    rule.refund(100 * MS, receipt, TOKEN)
    assert rule.level(100 * MS) == 9.5


OPENED: dict[str, Callable[[FixedWindow], object]] = {
    "a grant": lambda rule: rule.take(700 * MS, TOKEN),
    "a charge": lambda rule: rule.charge(700 * MS, 5 * TOKEN),
    "the end of a pause that empties": lambda rule: rule.empty(700 * MS),
}


@pytest.mark.parametrize("opening", OPENED.values(), ids=OPENED.keys())
def test_a_fixed_window_opens_when_something_counts_and_is_over_a_period_later(
    opening: Callable[[FixedWindow], object],
) -> None:
    rule = FixedWindow(0, 3 * TOKEN, SECOND)
    rule.take(600 * MS, 0)  # counts nothing
    assert (rule.level(600 * MS), rule.fresh_at(600 * MS)) == (3, 600 * MS)
    assert rule.forgets_at(600 * MS, TOKEN) == 1600 * MS
    opening(rule)
    rule.charge(900 * MS, 3 * TOKEN)
    rule.empty(950 * MS)
    rule.take(1000 * MS, 0)
    over = 1700 * MS
    assert [rule.ready_at(now, TOKEN) for now in (1000 * MS, over - 1, over)] == [over] * 3
    assert rule.fresh_at(1000 * MS) == rule.forgets_at(1000 * MS, TOKEN) == over
    assert (rule.level(over), rule.fresh_at(over)) == (3, over)
    rule.take(2500 * MS, 3 * TOKEN)
    assert rule.ready_at(2500 * MS, TOKEN) == 3500 * MS


@pytest.mark.parametrize(("initial", "over"), [(None, 1500 * MS), (10, 1500 * MS), (0, SECOND)])
async def test_a_fixed_window_opens_at_the_construction_only_with_less_than_its_capacity(
    initial: float | None, over: int
) -> None:
    throttle = Throttle(10, algorithm=FixedWindow, initial=initial)
    await asyncio.sleep(0.5)
    throttle.try_acquire(10)
    assert core_of(throttle).rule.ready_at(500 * MS, TOKEN) == over


def test_a_refund_moves_no_edge_and_a_fixed_window_in_which_nothing_counts_is_not_open() -> None:
    rule = FixedWindow(0, 3 * TOKEN, SECOND)
    first, second = rule.take(0, TOKEN), rule.take(500 * MS, 2 * TOKEN)
    rule.refund(600 * MS, first, TOKEN)
    assert (rule.level(600 * MS), rule.ready_at(600 * MS, 2 * TOKEN)) == (1, SECOND)
    rule.refund(700 * MS, second, 2 * TOKEN)
    assert rule.fresh_at(700 * MS) == 700 * MS
    rule.take(800 * MS, 3 * TOKEN)
    rule.refund(900 * MS, second, 0)
    assert rule.ready_at(900 * MS, TOKEN) == 1800 * MS
    later = rule.take(1800 * MS, TOKEN)
    rule.refund(2800 * MS, later, TOKEN)  # too late
    rule.take(2800 * MS, 3 * TOKEN)
    rule.refund(2800 * MS, later, TOKEN)
    assert rule.level(2800 * MS) == 0


@pytest.mark.parametrize(
    ("period", "over"), [(5 * SECOND, 5100 * MS), (800 * MS, 900 * MS), (SECOND // 10, 500 * MS)]
)
def test_a_new_period_of_a_fixed_window_counts_from_its_opening(period: int, over: int) -> None:
    rule = FixedWindow(0, 3 * TOKEN, SECOND)
    receipt = rule.take(100 * MS, 3 * TOKEN)
    rule.configure(500 * MS, 4 * TOKEN, period, None)
    assert rule.ready_at(500 * MS, 2 * TOKEN) == over
    rule.take(over, TOKEN)
    rule.refund(over, receipt, TOKEN)
    assert (rule.level(over), rule.ready_at(over, 4 * TOKEN)) == (3, over + period)


def test_a_longer_period_does_not_bring_back_a_fixed_window_that_is_over() -> None:
    rule = FixedWindow(0, 3 * TOKEN, SECOND)
    receipt = rule.take(0, 3 * TOKEN)
    rule.configure(SECOND, 3 * TOKEN, 5 * SECOND, None)
    rule.refund(SECOND, receipt, TOKEN)
    assert (rule.level(SECOND), rule.fresh_at(SECOND)) == (3, SECOND)
    rule.take(2 * SECOND, TOKEN)
    assert rule.fresh_at(2 * SECOND) == 7 * SECOND


def test_a_charge_leaves_no_receipt_to_look_after() -> None:
    rule = TokenBucket(0, 10 * TOKEN, SECOND, 100 * TOKEN)
    for _ in range(10):
        rule.charge(0, TOKEN)
    assert not rule.state.lows
    receipt = rule.take(0, TOKEN)
    for _ in range(10):
        rule.charge(0, TOKEN)
    assert len(rule.state.lows) == 1
    rule.refund(0, receipt, TOKEN)
    assert rule.level(0) == 80


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
    assert rule.forgets_at(SECOND, TOKEN) == 2 * SECOND  # one has left
    assert rule.forgets_at(EXACT, TOKEN) == EXACT + SECOND + SECOND // EXACT
    rule.take(EXACT, TOKEN)
    assert rule.fresh_at(EXACT) == EXACT + SECOND + SECOND // EXACT


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
    receipts = list[Any]()
    for n, weight in enumerate(weights):
        receipts.append(rule.take(n * MS, weight * TOKEN))
        assert len(rule.state.lows) <= MOST_LOWS
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


@pytest.mark.parametrize("algorithm", ALL)
def test_without_a_rate_all_goes_at_once_and_nothing_of_it_counts_afterwards(
    algorithm: type[Rule],
) -> None:
    new = algorithm(7, math.inf, SECOND)
    for rule in (new, algorithm.load(new.dump())):
        assert rule.take(8, 10**30) is None
        assert rule.level(8) == rule.burst == rule.capacity == rule.guarantee(1) == math.inf
        assert rule.ready_at(8, 10**30) == rule.fresh_at(8) == 8
        rule.empty(8)
        rule.configure(9, 3 * TOKEN, SECOND, None)
        assert rule.level(9) == rule.burst / TOKEN


@pytest.mark.parametrize("algorithm", ALL)
def test_a_rate_may_be_lifted_and_set_again(algorithm: type[Rule]) -> None:
    rule = algorithm(0, 10 * TOKEN, SECOND)
    before = rule.take(0, whole_burst(rule))
    rule.configure(0, math.inf, SECOND, None)
    assert rule.fresh_at(0) == 0
    without = rule.take(0, 50 * TOKEN)
    rule.configure(1, 10 * TOKEN, SECOND, None)
    # A window still counts what went before; what went without a limit is not held against anyone.
    window = algorithm in WINDOWS
    assert rule.level(1) == (0 if window else rule.burst / TOKEN)
    rule.charge(1, whole_burst(rule))
    level = rule.level(1)
    rule.refund(1, without, 50 * TOKEN)
    assert rule.level(1) == level
    rule.refund(1, before, TOKEN)
    assert rule.level(1) == level + window


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


def says(rule: Rule, now: int) -> list[float]:
    """What a rule says at *now*."""
    weights = [0, 1, whole_burst(rule) // 3, whole_burst(rule)]
    return [rule.level(now), *(rule.ready_at(now, weight) for weight in weights)]


@given(
    limit=limits(),
    before=st.lists(UNCHANGED, max_size=8),
    idle=st.integers(0, 2),
    later=st.lists(STEPS, max_size=8),
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
    now, taken = 0, Taken()
    for step in before:
        now = after(step, rule, now)
        do(step, rule, now, taken)
    told = says(rule, now)
    fresh_at = rule.fresh_at(now)
    assert fresh_at >= now
    assert says(rule, now) == told
    assert rule.fresh_at(fresh_at + 5) == fresh_at + 5
    now = fresh_at + idle
    mine, theirs = Taken(), Taken()
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
    ("algorithm", "fresh_at"), [(SlidingWindow, 1105 * MS), (FixedWindow, 1005 * MS)]
)
def test_a_window_is_fresh_when_all_has_left_it_or_was_given_back(
    algorithm: type[Rule], fresh_at: int
) -> None:
    rule = algorithm(0, 10 * TOKEN, SECOND)
    assert rule.fresh_at(5 * MS) == 5 * MS
    receipts = [rule.take(5 * MS, 8 * TOKEN), rule.take(105 * MS, 7 * TOKEN)]
    assert rule.fresh_at(105 * MS) == rule.fresh_at(fresh_at - 1) == fresh_at
    assert rule.fresh_at(fresh_at) == fresh_at
    for receipt, weight in zip(receipts, (8, 7), strict=True):
        rule.refund(106 * MS, receipt, weight * TOKEN)
    assert rule.fresh_at(106 * MS) == 106 * MS


# ------------------------------------------------------------------------ a question writes nothing

FRACTIONS = [0, 1, TOKEN // 3, TOKEN, 3 * TOKEN // 2]
LIVES = st.lists(STEPS, max_size=12)


class Frozen:
    """A state that cannot be written."""

    def __init__(self, state: Any) -> None:
        for name in state.__slots__:
            value = getattr(state, name)
            vars(self)[name] = tuple(value) if isinstance(value, list) else value

    def __setattr__(self, name: str, value: object) -> None:
        raise AssertionError(f"a question set {name}")


def lived(limit: Limit, steps: list[Step]) -> tuple[Rule, int, Taken]:
    """A rule after *steps*, the instant, and what was taken of it."""
    rule, now, taken = limit.rule(), 0, Taken()
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
        found += [rule.level(at), rule.fresh_at(at), rule.opens(at)]
        found += [rule.ready_at(at, weight) for weight in fitting]
        found += [rule.forgets_at(at, weight) for weight in fitting]
        found += [rule.clears_at(at, 3 * weight) for weight in weights]
    return found


@given(limit=limits(), steps=LIVES)
@examples(200)
def test_a_question_writes_nothing(limit: Limit, steps: list[Step]) -> None:
    rule, now, _ = lived(limit, steps)
    told, written_down = answers(rule.fork(), now), rule.dump()
    rule.state = Frozen(rule.state)
    assert answers(rule, now) == told
    assert answers(rule.fork(), now) == told
    assert rule.dump() == written_down


@pytest.mark.parametrize("algorithm", ALL)
async def test_nothing_that_a_throttle_tells_writes_its_rule(algorithm: type[Rule]) -> None:
    throttle = Throttle(10, algorithm=algorithm)
    await throttle.acquire(0.5)
    await asyncio.sleep(0.25)
    rule = core_of(throttle).rule
    rule.state = Frozen(rule.state)
    assert repr(throttle)
    assert throttle.delay(0.3) <= throttle.delay(throttle.burst) <= 1
    assert throttle.level <= throttle.burst
    assert throttle.guarantee(1) > 0


# --------------------------------------------------------------- what a forecast wants to know


@given(limit=limits(), steps=LIVES, pieces=st.lists(st.tuples(SHARES, SHARES), max_size=9))
@examples(500)
def test_a_rule_holds_up_what_is_cleared_no_longer_than_it_said(
    limit: Limit, steps: list[Step], pieces: list[tuple[Fraction, Fraction]]
) -> None:
    # Between two pieces, time passes for other reasons.
    rule, start, _ = lived(limit, steps)
    weights = [share(part, rule.burst) for _, part in pieces]
    span = rule.clears_at(start, sum(weights)) - start
    now = start
    for (gap, _), weight in zip(pieces, weights, strict=True):
        now += share(gap, rule.period)
        due = rule.ready_at(now, weight)
        span -= due - now
        now = due
        rule.take(now, weight)
    assert span >= min(0, 1 - len(pieces))


def test_what_a_full_bucket_forgets_of_a_nanosecond_counts_for_each_piece() -> None:
    # Half a token is missing, and a token takes half a nanosecond. The first piece waits one, in
    # which the bucket fills up; so does the third.
    rule = TokenBucket(0, 2 * TOKEN, 1, TOKEN)
    rule.take(0, TOKEN // 2)
    pieces = [TOKEN // 2 + 1, 1, TOKEN]
    assert rule.clears_at(0, sum(pieces)) == 1
    rule.take(1, pieces[0])
    rule.take(2, pieces[1])
    assert rule.ready_at(2, pieces[2]) == 3


def test_it_is_not_known_when_a_rule_clears_that_says_nothing_of_it() -> None:
    assert Spaced(0, TOKEN, SECOND).clears_at(0, TOKEN) == NEVER


# ------------------------------------------------------------------------ written and read


COPIES = [Rule.fork, lambda rule: type(rule).load(rule.dump())]


@pytest.mark.parametrize("copied", COPIES, ids=["a fork", "a loaded rule"])
@given(limit=limits(), before=LIVES, later=LIVES)
@examples(200)
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
        gc.disable()  # a finalizer that happened to run here would be interrupted in the place
        sys.settrace(self)
        try:
            change()
        except Interrupted:
            return True
        finally:
            sys.settrace(usual)
            gc.enable()
        return False


def found(rule: Rule, now: int, taken: Taken) -> list[float]:
    """All that a rule answers, and what each receipt is worth."""
    worth = list[float]()
    for receipt, weight in taken:
        twin = rule.fork()
        twin.refund(now, receipt, weight)
        worth.append(twin.level(now))
    return answers(rule, now) + worth


def torn(rule: Rule, step: Step | int, now: int, taken: Taken, places: Any) -> list[int]:
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
    steps=LIVES,
    step=STEPS | st.integers(1, DAY),
)
@examples(400)
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


MOVED: list[Step | int] = [
    *(Take(Fraction(1, 3), False), 7, Wait(Fraction(1, 3), False, 0), Take(Fraction(2, 3), False)),
    *(-2 * SECOND, Refund(0, Fraction(1)), Refund(1, Fraction(1, 2))),
    *(Wait(Fraction(1), False, 0), Take(Fraction(1, 3), False)),
]


@given(
    limit=limits(),
    steps=st.lists(
        st.one_of(
            STEPS,
            STEPS,
            st.integers(-2 * DAY, 2 * DAY),  # to another clock
        ),
        max_size=20,
    ),
)
@examples(400)
@example(limit=Limit(SlidingWindow, 9 * TOKEN, SECOND, None), steps=MOVED)
@example(limit=Limit(FixedWindow, 9 * TOKEN, SECOND, None), steps=MOVED)
@example(limit=Limit(TokenBucket, 9 * TOKEN, SECOND, 9 * TOKEN), steps=MOVED)
def test_a_rule_that_was_moved_to_another_clock_lives_on_as_before_at_the_moved_instants(
    limit: Limit, steps: list[Step | int]
) -> None:
    stayed, moved = limit.rule(), limit.rule()
    mine, theirs = Taken(), Taken()
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
    now = age(history, rule)
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
    limit=limits([cls for cls in ALL if cls.divisible]),
    history=HISTORIES,
    parts=st.lists(SHARES, min_size=1, max_size=8),
)
@examples(200)
def test_a_queue_before_a_divisible_rule_ends_when_its_sum_may_go_even_beyond_the_burst(
    limit: Limit, history: list[tuple[Fraction, Fraction]], parts: list[Fraction]
) -> None:
    rule = limit.rule()
    now = age(history, rule)
    weights = [share(part, rule.burst) for part in parts]
    end = rule.ready_at(now, sum(weights))
    for weight in weights:
        now = rule.ready_at(now, weight)
        rule.take(now, weight)
    assert now == end


# ------------------------------------------------------------------------------------------- slots


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["take", "give back", "resize"]), st.integers(1, 5)), max_size=20
    )
)
@examples(100)
def test_slots_count_who_holds_one_whatever_their_limit_becomes(
    steps: list[tuple[str, int]],
) -> None:
    slots, limit, used = Slots(3), 3, 0
    for now, (what, n) in enumerate(steps):
        if what == "take" and slots.ready_at(now, n) == now:
            slots.take(now, n)
            used += n
        elif what == "give back" and used >= n:
            slots.refund(now, None, n)
            used -= n
        elif what == "resize":
            slots.resize(n)
            limit = n
        for copy in (slots.fork(), Slots.load(slots.dump()), slots):
            assert (copy.limit, copy.burst, copy.capacity) == (limit, limit, math.inf)
            assert (copy.used, copy.free, copy.level(now)) == (used, limit - used, limit - used)
            assert copy.ready_at(now, n) == (now if n <= limit - used else NEVER)
            assert copy.fresh_at(now) == (NEVER if used else now)
            assert copy.guarantee(now) == math.inf
            if copy is not slots:  # which goes its own way, and knows no clock
                copy.take(now, 7)
                copy.shift(-5)
                assert copy.used == used + 7


def test_slots_without_a_limit_are_counted_and_one_caller_may_have_fewer_than_there_are() -> None:
    slots = Slots(5)
    slots.take(0, 4)
    slots.resize(UNLIMITED)
    assert (slots.used, slots.burst, slots.level(0)) == (4, UNLIMITED, math.inf)
    slots.resize(5, 2)
    for copy in (slots, slots.fork(), Slots.load(slots.dump())):
        assert (copy.limit, copy.burst, copy.free) == (5, 2, 1)


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
    instants = []

    async def enter(weight: float) -> None:
        async with throttle(weight):
            instants.append(loop_time())

    await asyncio.gather(*map(enter, weights))
    return instants


async def test_a_rule_of_ones_own_decides_when_callers_go() -> None:
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


async def test_a_rule_of_ones_own_can_be_paused_and_emptied_charged_and_changed() -> None:
    throttle = Throttle(4, algorithm=Spaced)
    throttle.pause(2, empty=True)
    assert throttle.delay() == 2.25
    assert await entered(throttle, [1]) == [2.25]
    throttle.charge(3)
    assert throttle.delay() == 0.5
    throttle.capacity = 1
    await throttle.acquire()
    await throttle.acquire()
    assert loop_time() == 2.25 + 0.5 + 1
    throttle.capacity = math.inf
    throttle.capacity = 4
    lease = await throttle.lease(1)
    lease.settle(0)  # it keeps what it took: this rule knows no refund
    assert throttle.delay() > 0
    throttle.pause(0, empty=True)
    assert throttle.level == 0


def test_what_a_rule_of_ones_own_does_not_say_is_not_taken_for_granted() -> None:
    rule, asked = Spaced(0, 4 * TOKEN, SECOND), list[None]()
    assert rule.fresh_at(0) == NEVER < UNKNOWN
    fork = rule.fork()
    fork.take(0, TOKEN)
    assert (rule.ready_at(0, TOKEN), fork.ready_at(0, TOKEN)) == (0, SECOND // 4)
    fork.demand(TOKEN, lambda: asked.append(None))
    fork.ended(5, None, TOKEN)
    with pytest.raises(NotImplementedError, match=r"Spaced .*define shift\(\)"):
        fork.shift(5)
    with pytest.raises(TypeError, match=r"Spaced .*define dump\(\) and load\(\)"):
        fork.dump()
    with pytest.raises(TypeError, match=r"Spaced .*define dump\(\) and load\(\)"):
        Spaced.load(b"")
    assert (asked, fork.wants_ends, fork.ready_at(5, TOKEN)) == ([], False, SECOND // 4)


@pytest.mark.parametrize(("taken", "left"), [(3, 0), (10, 0), (10.5, -0.5)])
def test_emptying_a_rule_of_ones_own_takes_what_is_left_and_leaves_a_debt(
    taken: float, left: float
) -> None:
    rule = SlidingWindow(0, 10 * TOKEN, SECOND)
    rule.take(0, round(taken * TOKEN))
    Rule.empty(rule, 1)  # as it is inherited
    assert rule.level(1) == left
    assert rule.fresh_at(1) == (SECOND if taken >= 10 else SECOND + 1)
    rule.configure(1, math.inf, SECOND, None)
    Rule.empty(rule, 1)
    assert rule.level(1) == math.inf


class Later(TokenBucket):
    """A bucket of ours that somebody has made stricter: it opens after a second."""

    __slots__ = ()

    def ready_at(self, now: int, weight: int) -> int:
        return max(SECOND, super().ready_at(now, weight))


async def test_a_bucket_that_somebody_has_made_stricter_is_asked() -> None:
    async with Throttle(10, algorithm=Later):
        assert loop_time() == 1.0
