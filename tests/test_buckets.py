"""`async_throttle.buckets`: facades that are awaited, and the factor of a leaky bucket."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import MS, TOKEN, Alone, Option
from support import now, others_run, queued, scaled

import async_throttle
from async_throttle import Throttle, ThrottleClosed, WeightTooLarge, buckets, testing
from async_throttle.buckets import ADJMAP, LeakyBucket, TokenBucket

pytestmark = pytest.mark.virtual_time


def test_the_throttle_beneath_is_there_for_all_that_it_can_do() -> None:
    bucket = TokenBucket(10, 20)
    assert (bucket.throttle.capacity, bucket.throttle.burst) == (10.0, 20.0)
    assert (bucket.throttle.period, bucket.throttle.level) == (1.0, 20.0)
    leaky = LeakyBucket(20, 10)
    assert (leaky.throttle.capacity, leaky.throttle.burst) == (10.0, 20.0)
    assert (leaky.throttle.period, leaky.throttle.level) == (1.0, 20.0)


@pytest.mark.parametrize("bucket", [TokenBucket(1, 1), LeakyBucket(1, 1)])
def test_repr_names_the_facade(bucket: TokenBucket | LeakyBucket) -> None:
    name = f"<async_throttle.buckets.{type(bucket).__name__} of <async_throttle.Throttle"
    assert repr(bucket).startswith(name)


@pytest.mark.parametrize("bucket", [buckets.TokenBucket, buckets.LeakyBucket])
def test_a_bucket_is_no_algorithm_and_the_error_names_the_one_that_is(bucket: Any) -> None:
    with pytest.raises(TypeError) as caught:
        Throttle(10, algorithm=bucket)
    assert f"got async_throttle.buckets.{bucket.__name__}" in str(caught.value)
    assert f"did you mean async_throttle.{bucket.__name__}?" in str(caught.value)
    Throttle(10, algorithm=getattr(async_throttle, bucket.__name__))


# --- TokenBucket ---


def test_a_bucket_says_what_it_was_made_with() -> None:
    token, leaky = TokenBucket(10, 3), LeakyBucket(5, 2)
    assert (token.rate, token.capacity) == (10.0, 3.0)
    assert (leaky.capacity, leaky.leak, leaky.factor) == (5.0, 2, 1.0)
    assert {type(token.rate), type(token.capacity), type(leaky.capacity)} == {float}
    for bucket, names in ((token, ("rate", "capacity")), (leaky, ("capacity", "leak", "throttle"))):
        for name in names:
            with pytest.raises(AttributeError):
                setattr(bucket, name, 5)


GOOD: Final[dict[str, Any]] = {"capacity": 5.0, "leak": 1.0, "min_factor": 0.5, "max_factor": 2.0}
RIGHT: Final[list[tuple[Any, dict[str, Any]]]] = [
    (TokenBucket, {"rate": 1.0, "capacity": 1.0}),
    (LeakyBucket, GOOD),
]


@pytest.mark.parametrize(
    "bad", [0, -1, -0.5, math.nan, -math.inf, 1e-10, "2", None, 1.1e24, 1e308, 10**400]
)
@pytest.mark.parametrize(
    ("make", "right", "name"), [(make, right, name) for make, right in RIGHT for name in right]
)
def test_a_bucket_refuses_what_it_cannot_be_made_of_by_its_name(
    make: Any, right: dict[str, Any], name: str, bad: Any
) -> None:
    message = rf"^{name} must be .*, got {re.escape(repr(bad))}$"
    with pytest.raises((TypeError, ValueError), match=message):
        make(**{**right, name: bad})
    if make is LeakyBucket:
        with pytest.raises(ValueError, match=rf"^{name} must be .*, got inf$"):
            make(**{**right, name: math.inf})


async def test_a_token_bucket_may_have_no_rate_limit_and_no_capacity() -> None:
    assert TokenBucket(math.inf, 5).rate == math.inf
    await TokenBucket(math.inf, math.inf).consume(1e12)
    assert now() == 0.0


def test_a_token_bucket_with_a_rate_has_a_finite_capacity() -> None:
    with pytest.raises(ValueError, match=r"^capacity must be finite, got inf$"):
        TokenBucket(1, math.inf)


# --- LeakyBucket: adding ---


async def test_more_than_the_capacity_is_refused_at_once() -> None:
    token, leaky = TokenBucket(1, 5), LeakyBucket(5, 1)
    for call in (token.consume, leaky.acquire, leaky.wait_for_tokens):
        with pytest.raises(WeightTooLarge) as caught:
            await call(5.1)
        name = "tokens" if call == token.consume else "amount"
        assert str(caught.value) == f"{name} must be at most the capacity of the bucket, 5, got 5.1"
        assert caught.value.largest == 5.0
    assert (token.throttle.level, leaky.throttle.level) == (5.0, 5.0)
    await token.consume(5)
    assert await leaky.acquire(5)
    assert await leaky.acquire(0)  # nothing is granted in a full one, too
    assert now() == 0.0


@pytest.mark.parametrize("bad", [-1, -0.5, math.nan, math.inf])
async def test_a_bad_amount_is_refused_by_its_name(bad: float) -> None:
    token, leaky = TokenBucket(1, 5), LeakyBucket(5, 1)
    with pytest.raises(ValueError, match=rf"^tokens must be .*, got {bad}$"):
        await token.consume(bad)
    for _ in range(2):
        for call in (leaky.acquire, leaky.wait_for_tokens):
            with pytest.raises(ValueError, match=rf"^amount must be .*, got {bad}$"):
                await call(bad)
        with leaky:  # and so where it does not leak
            pass
    assert (token.throttle.level, leaky.throttle.level) == (5.0, 5.0)


async def test_a_bucket_follows_its_timer() -> None:
    reading = 1e9
    leaky, token = LeakyBucket(2, 1, timer=lambda: reading), TokenBucket(1, 2, lambda: reading)
    assert await leaky.acquire(2)
    await token.consume(2)
    reading += 0.5
    assert not await leaky.acquire()
    assert token.throttle.level == 0.5
    reading += 0.5
    assert await leaky.acquire()


async def test_what_the_throttle_beneath_can_do_works() -> None:
    bucket = LeakyBucket(2, 1)
    bucket.throttle.pause(3)
    assert not await bucket.acquire()
    assert await bucket.wait_for_tokens() == 3.0
    waiter = await queued(bucket.wait_for_tokens(2))
    bucket.throttle.close()
    with pytest.raises(ThrottleClosed):
        await waiter


@pytest.mark.parametrize("name", ["tokens", "amount"])
async def test_who_no_longer_fits_while_waiting_is_told_so_in_the_same_words(name: str) -> None:
    bucket: Any = TokenBucket(1, 5) if name == "tokens" else LeakyBucket(5, 1)
    wait = bucket.consume if name == "tokens" else bucket.wait_for_tokens
    await wait(5)
    waiter = await queued(wait(4))
    bucket.throttle.burst = 3
    with pytest.raises(WeightTooLarge, match=rf"^{name} must be at most .* bucket, 3, got 4$"):
        await waiter


# --- LeakyBucket: what it is made with ---


@pytest.mark.parametrize("number", [Decimal, Fraction])
async def test_any_kind_of_number_will_do(number: Any) -> None:
    bucket = LeakyBucket(number(5), number(2), number(1) / 2, number(4))
    assert (bucket.capacity, bucket.leak) == (5.0, 2.0)
    bucket.factor = number(2)
    assert await bucket.acquire(number(5))
    assert await bucket.wait_for_tokens(number(1)) == 0.25
    del bucket.factor
    with bucket:
        await asyncio.sleep(1)
    assert await bucket.acquire(number(1) / 2)
    assert await bucket.wait_for_tokens(number(1)) == 0.0
    assert {type(bucket.leak), type(bucket.factor), type(bucket.capacity)} == {float}
    tokens = TokenBucket(number(4), number(2))
    await tokens.consume(number(2))
    await tokens.consume(number(1))
    assert now() == 1.5


async def test_the_largest_and_slowest_bucket_is_empty_one_day() -> None:
    bucket = LeakyBucket(1e24, 1e-9, 1, 1e24)
    assert await bucket.acquire(1e24)
    assert bucket.throttle.delay(1e24) == pytest.approx(1e33 / 0.95, rel=0.1)
    bucket.factor = 1e24
    assert bucket.throttle.capacity == 1e15


def test_the_largest_factor_is_not_below_the_smallest() -> None:
    with pytest.raises(
        ValueError, match=r"^max_factor must be at least min_factor, 0\.5, got 0\.4"
    ):
        LeakyBucket(**{**GOOD, "max_factor": 0.4})
    assert LeakyBucket(**{**GOOD, "max_factor": 0.5}).factor == 0.5


def test_the_slowest_leak_is_still_one() -> None:
    with pytest.raises(ValueError, match=r"^leak \* min_factor must be at least 1e-9, got 1\.25"):
        LeakyBucket(1, 1e-9, 0.125)


@pytest.mark.parametrize("row", [(0.8, 1, 0.2, 1), (0.2, 0, 0.8, 1), (0.2, 1, 0.8, -1)])
def test_a_row_of_the_map_that_makes_no_sense_is_refused(
    row: tuple[float, float, float, float],
) -> None:
    with pytest.raises(ValueError, match=r"^adjmap must have lbound <= ubound and factors > 0"):
        LeakyBucket(5, 1, adjmap=[(100, (0.2, 1, 0.8, 1)), (0, row)])


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (5, "5"),
        (None, "None"),
        ([5], "5"),
        ([(0, 1, 2)], "(0, 1, 2)"),
        ([(0, 5)], "(0, 5)"),
        ([(0, (0.2, 1, 0.8))], "(0, (0.2, 1, 0.8))"),
        ([(0, (0.2, 1, 0.8, "1"))], "(0, (0.2, 1, 0.8, '1'))"),
        ([(0, (math.nan, 1, 0.8, 1))], "(0, (nan, 1, 0.8, 1))"),
        ([(math.nan, (0.2, 1, 0.8, 1))], "(nan, (0.2, 1, 0.8, 1))"),
        ([(100, (0.2, 1, 0.8, 1)), (None, (0.2, 1, 0.8, 1))], "(None, (0.2, 1, 0.8, 1))"),
        ([(100, (0.2, 1, 0.8, 1)), 5], "5"),
    ],
)
def test_a_map_of_another_shape_is_refused(bad: Any, told: str) -> None:
    with pytest.raises(ValueError, match=r"^adjmap must be rows of numbers, ") as caught:
        LeakyBucket(5, 1, adjmap=bad)
    assert str(caught.value).endswith(f", got {told}")


def test_a_map_may_be_an_iterator_and_of_any_kind_of_number() -> None:
    rows = ((Decimal(size), map(Decimal, ("0.25", "2", "0.75", "0.5"))) for size in (100, 1))
    adjmap: Any = rows
    bucket = LeakyBucket(5, 3, adjmap=adjmap)
    assert (bucket.factor, bucket.throttle.capacity) == (2.0, 6.0)
    assert type(bucket.factor) is float


def test_a_map_that_does_not_descend_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^adjmap must descend in mincap, got \[0\.0, 100\.0\]$"):
        LeakyBucket(5, 1, adjmap=((0, (0.2, 1, 0.8, 1)), (100, (0.2, 1, 0.8, 1))))


# --- LeakyBucket: the factor ---


STEEP: Final = ((100, (0.25, 4.0, 0.75, 0.5)), (8, (0.25, 2.0, 0.75, 0.25)))


async def test_the_factor_of_the_map_is_clamped() -> None:
    bucket = LeakyBucket(8, 1, 0.5, 1.5, adjmap=STEEP)
    assert bucket.factor == 1.5
    await bucket.acquire(8)
    assert bucket.factor == 0.5
    assert LeakyBucket(8, 1, 3.0, adjmap=()).factor == 3.0


@pytest.mark.parametrize("capacity", [1, 9, 10, 200, 1000])
@pytest.mark.parametrize("share", [1, 0.5, 0.03])
async def test_by_default_a_saturated_bucket_passes_95_percent_of_its_leak_and_never_more(
    capacity: float, share: float
) -> None:
    leak, seconds, amount = 50, scaled(100), max(1.0, capacity * share)
    bucket = LeakyBucket(capacity, leak)
    passed = 0.0
    await bucket.wait_for_tokens(capacity)
    while now() < seconds:
        await bucket.wait_for_tokens(amount)
        passed += amount
    assert 0.95 * leak * seconds <= passed <= leak * seconds + amount
    assert bucket.factor == (0.95 if capacity >= 10 else 1.0)


@pytest.mark.parametrize(("adjmap", "waiting"), [(ADJMAP, 62), ((), 0)])
async def test_the_price_is_a_queue_under_a_load_just_below_the_leak(
    adjmap: Any, waiting: int
) -> None:
    bucket = LeakyBucket(10, 10.2, adjmap=adjmap)
    await bucket.wait_for_tokens(10)
    tasks = []
    for _ in range(2_000):
        await asyncio.sleep(0.1)
        tasks.append(await queued(bucket.wait_for_tokens()))
    assert bucket.throttle.waiting == waiting
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    ("value", "clamped"), [(0.4, 0.5), (0, 0.5), (-3, 0.5), (2.5, 2.0), (math.inf, 2.0), (1.5, 1.5)]
)
def test_a_factor_that_is_set_is_clamped(value: float, clamped: float) -> None:
    bucket = LeakyBucket(**GOOD)
    bucket.factor = value
    assert bucket.factor == clamped
    assert bucket.throttle.capacity == clamped


@pytest.mark.parametrize("bad", [math.nan, Decimal("NaN"), "2", b"2", None, 2j, [2], 10**400])
async def test_a_factor_that_is_no_number_is_refused_and_changes_nothing(bad: Any) -> None:
    bucket = LeakyBucket(8, 1, adjmap=STEEP)
    with pytest.raises((TypeError, ValueError)) as caught:
        bucket.factor = bad
    assert str(caught.value) == f"factor must be a number, got {bad!r}"
    assert (bucket.factor, bucket.throttle.capacity) == (2.0, 2.0)
    await bucket.acquire(8)
    assert bucket.factor == 0.25  # it follows, as before


async def test_a_factor_that_could_not_be_set_is_not_half_set() -> None:
    reading: Any = 0.0
    bucket = LeakyBucket(8, 1, timer=lambda: reading + 0.0, adjmap=STEEP)
    reading = None
    with pytest.raises(TypeError):
        bucket.factor = 1.5
    reading = 0.0
    assert (bucket.factor, bucket.throttle.capacity) == (2.0, 2.0)
    await bucket.acquire(8)
    assert bucket.factor == 0.25


def test_a_factor_that_is_not_settable_can_be_neither_set_nor_deleted() -> None:
    bucket = LeakyBucket(8, 1, external_factor_settable=False, adjmap=STEEP)
    with pytest.raises(AttributeError, match="external_factor_settable=False") as caught:
        bucket.factor = 1.0
    assert (caught.value.name, caught.value.obj) == ("factor", bucket)
    with pytest.raises(AttributeError, match="external_factor_settable=False"):
        del bucket.factor
    assert bucket.factor == 2.0


# --- LeakyBucket: the context ---


async def test_leaving_stops_the_leak_however_the_block_ends() -> None:
    bucket = LeakyBucket(1, 1)
    with pytest.raises(KeyError, match="of the body"):  # noqa: PT012
        async with bucket:
            await bucket.acquire()
            raise KeyError("of the body")
    await asyncio.sleep(10)
    assert not await bucket.acquire()


@pytest.mark.parametrize("entered", [0, 1])
async def test_leaving_more_often_than_entering_is_an_error_and_changes_nothing(
    entered: int,
) -> None:
    bucket = LeakyBucket(1, 1)
    for _ in range(entered):
        with bucket:
            assert await bucket.acquire()
    with pytest.raises(RuntimeError, match=r"^__exit__\(\) without __enter__\(\)"):
        bucket.__exit__(None, None, None)
    with pytest.raises(RuntimeError, match=r"^__exit__\(\) without __enter__\(\)"):
        await bucket.__aexit__(None, None, None)
    with bucket:
        await bucket.wait_for_tokens()
    await asyncio.sleep(10)
    assert not await bucket.acquire()  # left, and so stopped, as ever
    with bucket:
        assert await bucket.wait_for_tokens() == 1.0


async def test_waiting_for_what_will_never_leak_is_an_error() -> None:
    bucket = LeakyBucket(4, 1)
    with bucket:
        assert await bucket.acquire(3)
    assert await bucket.wait_for_tokens(1) == 0.0
    with pytest.raises(RuntimeError) as caught:
        await bucket.wait_for_tokens(2)
    assert str(caught.value) == (
        "amount 2 would have to wait, and the bucket does not leak until it is entered again"
    )
    with pytest.raises(WeightTooLarge):
        await bucket.wait_for_tokens(5)
    with bucket:
        assert await bucket.wait_for_tokens(2) == 2.0


async def test_a_stopped_bucket_does_not_speak_of_room_where_it_is_a_pause_that_holds() -> None:
    bucket = LeakyBucket(4, 1)
    with bucket:
        bucket.throttle.pause(10)
    with pytest.raises(RuntimeError, match=r"^amount 1 would have to wait, and the bucket does"):
        await bucket.wait_for_tokens(1)
    await asyncio.sleep(10)
    assert await bucket.wait_for_tokens(1) == 0.0


async def test_many_short_stops_do_not_add_up_to_a_drift() -> None:
    bucket = LeakyBucket(1000, 1 / 3)
    with bucket:
        assert await bucket.acquire(900)
    for _ in range(1000):
        await asyncio.sleep(0.1)
        assert await bucket.acquire(0.1)
    assert not await bucket.acquire(1e-6)


# --- LeakyBucket against an oracle ---


class LeakyOracle(Alone):
    """A token bucket that is obviously right, driven as a leaky one is told to.

    A leak that is stopped is one of next to nothing: a nanotoken in ten thousand years.
    """

    def __init__(self, capacity: int, leak: int, row: Sequence[Fraction]) -> None:
        super().__init__(capacity=leak * TOKEN, burst=capacity * TOKEN)
        self.size, self.leak, self.row = capacity, leak, row
        self.factor, self.pinned, self.inside, self.drained = Fraction(1), False, 0, False
        self.follow()

    def follow(self) -> None:
        if not self.pinned:
            fill = 1 - Fraction(self.left()) / TOKEN / self.size
            lbound, lfactor, ubound, ufactor = self.row
            self.multiply(lfactor if fill <= lbound else ufactor if fill >= ubound else Fraction(1))

    def multiply(self, factor: Fraction) -> None:
        if factor != self.factor:
            self.factor = factor
            self.replan()

    def replan(self) -> None:
        stopped = self.drained and not self.hall.people and not self.unstarted
        self.it.period = 10_000 * 365 * 86_400_000 * MS if stopped else 1_000 * MS
        rate = self.leak * self.factor * TOKEN
        assert rate.denominator == 1
        self.set_capacity(self.it, 1 if stopped else int(rate))

    def begins(self, option: Option) -> None:
        if self.drained:
            self.replan()
        self.follow()

    def pin(self, factor: Fraction) -> None:
        self.pinned = True
        self.multiply(factor)

    def unpin(self) -> None:
        self.pinned = False
        self.follow()

    def enter(self) -> None:
        self.inside += 1
        self.drained = False
        self.replan()

    def leave_block(self) -> None:
        self.inside -= 1
        self.drained = self.inside == 0
        self.replan()

    def acquire(self, weight: int) -> bool:
        added = self.grab(weight) is not None
        self.follow()
        return added


AMOUNTS: Final = st.sampled_from([0, 0.1, 0.5, 1, 2.5, 10, 25, 50, 88.75, 100])
STEPS: Final = st.lists(
    st.one_of(
        st.tuples(st.just("sleep"), st.integers(1, 500)),
        st.tuples(st.sampled_from(["acquire", "wait"]), AMOUNTS),
        st.tuples(st.just("wait"), AMOUNTS),
        st.tuples(st.just("set"), st.sampled_from([0.1, 0.5, 1, 2, 10])),
        st.tuples(st.just("del"), st.none()),
        st.tuples(st.sampled_from(["enter", "leave"]), st.none()),
    ),
    min_size=10,
    max_size=40,
)
ROWS: Final = st.sampled_from(
    [("0", "1", "0.9", "0.95"), ("0.25", "2", "0.75", "0.5"), ("0.5", "0.1", "0.5", "10")]
)


@given(leak=st.sampled_from([20, 40, 100]), row=ROWS, steps=STEPS, blocks=st.integers(0, 2))
def test_a_leaky_bucket_does_what_an_oracle_does(
    leak: int, row: tuple[str, str, str, str], steps: list[tuple[str, Any]], blocks: int
) -> None:
    lbound, lfactor, ubound, ufactor = map(float, row)
    oracle = LeakyOracle(100, leak, [Fraction(part) for part in row])

    async def main() -> None:
        bucket = LeakyBucket(100, leak, adjmap=[(0, (lbound, lfactor, ubound, ufactor))])
        granted: list[tuple[int, int]] = []
        arrived: dict[int, int] = {}
        tasks: list[asyncio.Task[None]] = []

        def instant() -> int:
            return round(now() * TOKEN)

        async def wait(ident: int, amount: float) -> None:
            waited = await bucket.wait_for_tokens(amount)
            assert round(waited * TOKEN) == instant() - arrived[ident]
            granted.append((ident, instant()))

        async def step(ident: int, what: str, value: Any) -> None:
            match what:
                case "sleep":
                    await asyncio.sleep(value / 1_000)
                    await others_run()  # whoever is granted in this step has gone on
                    oracle.advance(instant())
                case "acquire":
                    assert await bucket.acquire(value) == oracle.acquire(round(value * TOKEN))
                case "wait" if oracle.drained:
                    try:
                        assert await bucket.wait_for_tokens(value) == 0.0
                        added = True
                    except RuntimeError:
                        added = False
                    assert added == oracle.acquire(round(value * TOKEN))
                case "wait":
                    arrived[ident] = instant()
                    tasks.append(asyncio.create_task(wait(ident, value)))
                    oracle.ask(ident, round(value * TOKEN))
                case "set":
                    bucket.factor = value
                    oracle.pin(Fraction(str(value)))
                case "del":
                    del bucket.factor
                    oracle.unpin()
                case "enter":
                    await bucket.__aenter__()
                    oracle.enter()
                case "leave" if oracle.inside:
                    bucket.__exit__(None, None, None)
                    oracle.leave_block()
            await others_run()
            oracle.run()
            assert granted == [(outcome.ident, outcome.at) for outcome in oracle.outcomes]
            assert bucket.factor == float(oracle.factor)
            if not oracle.drained:
                assert bucket.throttle.level == float(oracle.left() / TOKEN)

        for ident, (what, value) in enumerate([("enter", None)] * blocks + steps):
            await step(ident, what, value)
        await step(-1, "sleep", 10**6)
        await asyncio.gather(*tasks)

    testing.run(main())
