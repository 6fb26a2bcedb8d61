"""The yardstick is measured first: against the known numbers of the field."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import MS, TOKEN, Algorithm, Alone, Bucket, Call, Fixed, Rule, Sliding

SECOND = 1000 * MS
Row = tuple[int, Fraction | float, float, Literal["yes", "no", "big"]]


def tokens(n: float) -> int:
    return round(n * TOKEN)


def queue(oracle: Alone, *weights: float, timeout: int | None = None) -> list[Call]:
    """As many tasks as weights, that have all asked and wait."""
    first = len(oracle.outcomes)
    calls = [oracle.ask(first + n, tokens(w), timeout) for n, w in enumerate(weights)]
    oracle.run()
    return calls


def granted_at(oracle: Alone) -> list[int]:
    return [outcome.at for outcome in oracle.outcomes if outcome.how == {"granted"}]


# golang.org/x/time/rate: 10 per second, one tick is 100 ms.
GO: dict[str, tuple[int, int, list[Row]]] = {
    "burst 1": (
        1,
        0,
        [
            (0, 1, 1, "yes"), (0, 0, 1, "no"), (0, 0, 1, "no"), (1, 1, 1, "yes"), (1, 0, 1, "no"),
            (1, 0, 1, "no"), (2, 1, 2, "big"), (2, 1, 1, "yes"), (2, 0, 1, "no"),
        ],
    ),
    "burst 3": (
        3,
        0,
        [
            (0, 3, 2, "yes"), (0, 1, 2, "no"), (0, 1, 1, "yes"), (0, 0, 1, "no"), (1, 1, 4, "big"),
            (2, 2, 1, "yes"), (3, 2, 1, "yes"), (4, 2, 1, "yes"), (4, 1, 1, "yes"), (4, 0, 1, "no"),
            (4, 0, 1, "no"), (9, 3, 3, "yes"), (9, 0, 0, "yes"),
        ],
    ),
    "burst 3, the clock goes back": (
        3,
        1,
        [
            (1, 3, 1, "yes"), (0, 2, 1, "yes"), (0, 1, 1, "yes"), (0, 0, 1, "no"), (0, 0, 1, "no"),
            (1, 0, 1, "no"), (2, 1, 1, "yes"), (2, 0, 1, "no"),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("table", GO.values(), ids=GO.keys())
def test_the_bucket_follows_the_tables_of_go(table: tuple[int, int, list[Row]]) -> None:
    burst, first_tick, rows = table
    oracle = Alone(capacity=10 * TOKEN, burst=burst * TOKEN, born=first_tick * 100 * MS)
    for tick, level, weight, admitted in rows:
        oracle.advance(tick * 100 * MS)
        assert oracle.left() == level * TOKEN
        answer = oracle.try_acquire(oracle.call(0, tokens(weight)))
        expected = {"yes": True, "no": False, "big": {"heavy"}}[admitted]
        assert answer == expected, (tick, level, weight)


def test_of_fifteen_at_once_a_burst_of_five_goes() -> None:
    oracle = Alone(capacity=10 * TOKEN, burst=5 * TOKEN)
    assert sum((oracle.grab(TOKEN) is not None) for n in range(15)) == 5


def test_a_poll_every_two_milliseconds_finds_the_whole_rate() -> None:
    oracle = Alone(capacity=100 * TOKEN, burst=10 * TOKEN)
    admitted = 0
    for poll in range(501):
        oracle.advance(poll * 2 * MS)
        admitted += oracle.grab(TOKEN) is not None
    assert admitted == 10 + 100


def test_a_poll_at_exactly_the_rate_is_never_refused() -> None:
    oracle = Alone(capacity=10 * TOKEN, burst=TOKEN)
    for poll in range(200):
        oracle.advance(poll * 100 * MS)
        assert oracle.grab(TOKEN) is not None


def test_a_long_idle_time_gives_no_extra() -> None:
    oracle = Alone(capacity=5 * TOKEN, initial=0)
    oracle.advance(2 * SECOND)
    assert [(oracle.grab(TOKEN) is not None) for n in range(6)] == [True] * 5 + [False]


@given(capacity=st.integers(1, 10_000), weight=st.integers(1, 10_000))
def test_a_bucket_admits_exactly_at_the_promised_instant(capacity: int, weight: int) -> None:
    burst = max(capacity, weight) * TOKEN
    oracle = Alone(capacity=capacity * TOKEN, burst=burst, initial=0)
    due = oracle.wait(weight * TOKEN)
    assert due == math.ceil(Fraction(weight, capacity) * SECOND)
    oracle.advance(int(due) - 1)
    assert oracle.grab(weight * TOKEN) is None
    oracle.advance(int(due))
    assert oracle.grab(weight * TOKEN) is not None


@pytest.mark.parametrize(
    ("capacity", "period", "burst", "level", "weight", "wait"),
    [(10, 100, 10, 0, 10, 100), (2, 100, 10, 0, 10, 500), (10, 100, 10, 4, 7, 30)],
)
def test_waits_are_those_of_bucket4j(
    capacity: int, period: int, burst: int, level: int, weight: int, wait: int
) -> None:
    bucket = Bucket(0, capacity * TOKEN, period, burst * TOKEN, level * TOKEN)
    assert bucket.ready(0, weight * TOKEN) == wait


def test_a_light_call_waits_less_than_a_heavy_one() -> None:
    oracle = Alone(capacity=4 * TOKEN, period=4 * SECOND, initial=0)
    oracle.advance(200 * MS)
    assert oracle.wait(1 * TOKEN) == 800 * MS
    assert oracle.wait(3 * TOKEN) == 2800 * MS


def test_a_cancelled_place_is_handed_on() -> None:
    oracle = Alone(capacity=TOKEN)
    assert oracle.grab(TOKEN) is not None
    b, _c = queue(oracle, 1, 1)
    oracle.advance(500 * MS)
    oracle.cancel(b)
    oracle.run()
    oracle.advance(900 * MS)
    queue(oracle, 1)
    oracle.advance(10 * SECOND)
    assert granted_at(oracle) == [1 * SECOND, 2 * SECOND]


def test_with_every_second_waiter_cancelled_the_rest_takes_half_the_time() -> None:
    oracle = Alone(capacity=100 * TOKEN, burst=TOKEN, initial=0)
    for call in queue(oracle, *[1] * 100)[::2]:
        oracle.cancel(call)
    oracle.run()
    oracle.advance(10 * SECOND)
    assert granted_at(oracle) == [n * 10 * MS for n in range(1, 51)]


def test_a_cancelled_heavy_head_frees_all_behind_it_at_once() -> None:
    oracle = Alone(capacity=200 * TOKEN, burst=10_000 * TOKEN, initial=0)
    head, *_ = queue(oracle, 10_000, *[10] * 10)
    oracle.advance(SECOND)
    assert oracle.left() == 200 * TOKEN
    oracle.cancel(head)
    oracle.run()
    assert granted_at(oracle) == [SECOND] * 10


@pytest.mark.parametrize("algorithm", ["TokenBucket", "SlidingWindow", "FixedWindow"])
@pytest.mark.parametrize("parts", [[7], [3, 4], [1] * 7, [2, 5]])
def test_splitting_a_weight_changes_nothing(algorithm: Algorithm, parts: list[int]) -> None:
    oracle = Alone(algorithm, capacity=10 * TOKEN, initial=4 * TOKEN)
    queue(oracle, *parts)
    oracle.advance(5 * SECOND)
    assert granted_at(oracle)[-1] == (300 * MS if algorithm == "TokenBucket" else SECOND)


def worst_trailing_window(rule: Rule, capacity: int) -> int:
    """The most that a client which saves up, then asks as fast as it may, gets into one period.

    It takes all there is just before the first whole period ends, and then each token as it comes.
    """
    now: int | Fraction = SECOND - 1
    taken: list[int | Fraction] = []
    while now < 2 * SECOND + SECOND // 2:
        rule.take(now, TOKEN)
        taken.append(now)
        now = rule.ready(now, TOKEN)
    return max(sum(1 for b in taken if 0 <= b - a < SECOND) for a in taken)


@pytest.mark.parametrize(
    ("rule", "worst"),
    [
        (Fixed(0, 20 * TOKEN, SECOND, 20 * TOKEN), 40),
        (Bucket(0, 20 * TOKEN, SECOND, 20 * TOKEN, 20 * TOKEN), 39),
        (Sliding(0, 20 * TOKEN, SECOND, 20 * TOKEN), 20),
        (Bucket(0, 20 * TOKEN, SECOND, TOKEN, TOKEN), 20),
    ],
    ids=["fixed", "bucket, full burst", "sliding", "bucket, burst 1"],
)
def test_the_worst_trailing_window_is_known(rule: Rule, worst: int) -> None:
    assert worst_trailing_window(rule, 20) == worst


# --------------------------------------------------------------------- sentences of the promises


def test_ten_times_a_tenth_is_one() -> None:
    oracle = Alone(capacity=TOKEN)
    for _ in range(10):
        assert oracle.grab(tokens(0.1)) is not None
    assert oracle.left() == 0


def test_a_refund_is_worth_no_more_than_what_was_missing_since() -> None:
    oracle = Alone(capacity=10 * TOKEN, burst=100 * TOKEN)
    first = oracle.grab(100 * TOKEN)
    assert first is not None
    oracle.advance(10 * SECOND)
    assert oracle.grab(100 * TOKEN) is not None
    oracle.used(first, 0)
    assert oracle.left() == 0


def test_a_window_refunds_only_while_the_entry_is_inside() -> None:
    oracle = Alone("SlidingWindow", capacity=10 * TOKEN)
    first, second = oracle.grab(4 * TOKEN), oracle.grab(4 * TOKEN)
    assert first is not None
    assert second is not None
    oracle.advance(SECOND - 1)
    oracle.used(first, 1 * TOKEN)
    assert oracle.left() == 5 * TOKEN
    oracle.advance(SECOND)
    oracle.used(second, 1 * TOKEN)
    assert oracle.left() == 10 * TOKEN


def test_an_overrun_is_debt_from_the_settlement_on_and_can_be_taken_back() -> None:
    oracle = Alone(capacity=10 * TOKEN)
    call = oracle.grab(8 * TOKEN)
    assert call is not None
    oracle.used(call, 20 * TOKEN)
    assert oracle.left() == -10 * TOKEN
    assert oracle.wait(0) == SECOND
    oracle.used(call, 18 * TOKEN)
    assert oracle.left() == -8 * TOKEN


@pytest.mark.parametrize("algorithm", ["TokenBucket", "SlidingWindow", "FixedWindow"])
def test_a_pause_that_empties_restarts_gently(algorithm: Algorithm) -> None:
    oracle = Alone(algorithm, capacity=10 * TOKEN)
    oracle.pause(oracle.it, 2 * SECOND, empty=True)
    queue(oracle, 1, 1)
    oracle.advance(10 * SECOND)
    bucket = algorithm == "TokenBucket"
    assert granted_at(oracle) == ([2100 * MS, 2200 * MS] if bucket else [3 * SECOND, 3 * SECOND])


def test_pauses_merge_by_max_and_end_by_resume() -> None:
    oracle = Alone(capacity=10 * TOKEN)
    oracle.pause(oracle.it, 3 * SECOND)
    oracle.pause(oracle.it, 1 * SECOND)
    assert oracle.paused_for(oracle.it) == 3 * SECOND
    queue(oracle, 1)
    oracle.advance(2 * SECOND)
    oracle.resume(oracle.it)
    oracle.run()
    assert granted_at(oracle) == [2 * SECOND]


def test_consume_passes_a_caller_that_lacks_a_slot_and_no_other() -> None:
    oracle = Alone(capacity=10 * TOKEN, concurrency=1)
    holder = oracle.grab(8 * TOKEN)
    assert holder is not None
    oracle.ask(1, 2 * TOKEN)
    oracle.ask(2, 4 * TOKEN, slot=False)
    oracle.ask(3, 1 * TOKEN, slot=False)
    oracle.run()
    oracle.advance(200 * MS)
    assert [(o.ident, o.at) for o in oracle.outcomes] == [(2, 200 * MS)]
    oracle.release(holder)
    oracle.run()
    oracle.advance(SECOND)
    assert [(o.ident, o.at) for o in oracle.outcomes[1:]] == [(1, 400 * MS), (3, 500 * MS)]


def test_a_newcomer_starts_after_the_granted_task() -> None:
    oracle = Alone(capacity=None, concurrency=2)
    holders = oracle.grab(TOKEN), oracle.grab(TOKEN)
    queue(oracle, 1)
    oracle.ask(7, TOKEN, timeout=0)
    for holder in holders:
        assert holder is not None
        oracle.release(holder)
    assert oracle.grab(TOKEN) is None
    oracle.run()
    assert [(o.ident, *o.how) for o in oracle.outcomes] == [(0, "granted"), (7, "granted")]


def test_granted_and_cancelled_in_one_step_hands_everything_on() -> None:
    oracle = Alone(capacity=10 * TOKEN, concurrency=1)
    holder = oracle.grab(TOKEN)
    assert holder is not None
    first, _second = queue(oracle, 9, 9)
    oracle.release(holder)
    oracle.cancel(first)
    oracle.run()
    assert [(o.ident, *o.how) for o in oracle.outcomes] == [(0, "cancelled"), (1, "granted")]
    assert oracle.left() == 0


def test_a_grant_at_the_deadline_is_a_grant() -> None:
    oracle = Alone(capacity=10 * TOKEN, initial=0)
    queue(oracle, 1, timeout=100 * MS)
    queue(oracle, 1, timeout=200 * MS - 1)
    oracle.advance(SECOND)
    assert [(o.at, *o.how) for o in oracle.outcomes] == [(0, "timeout"), (100 * MS, "granted")]


def test_a_late_wake_is_paid_back_up_to_five_milliseconds() -> None:
    oracle = Alone(capacity=1000 * TOKEN, burst=TOKEN, initial=0)
    queue(oracle, *[1] * 12)
    oracle.advance(10 * MS, blocked=True)
    oracle.run()
    assert granted_at(oracle) == [10 * MS] * 6
    oracle.advance(20 * MS)
    assert granted_at(oracle)[6:] == [n * MS for n in range(11, 17)]
