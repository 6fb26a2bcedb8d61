"""The yardstick is measured first: against the known numbers of the field.

Its rules are those of ``test_rules.py``, which compares them with the real ones; here it is seen
that the whole does with them what was promised.
"""

from __future__ import annotations

from typing import Any

import pytest
from oracle import MS, TOKEN, Algorithm, Alone, Call
from test_vectors import GO, Row

SECOND = 1000 * MS


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


@pytest.mark.parametrize(("burst", "first_tick", "rows"), GO.values(), ids=GO)
def test_the_bucket_follows_the_tables_of_go(burst: int, first_tick: int, rows: list[Row]) -> None:
    oracle = Alone(capacity=10 * TOKEN, burst=burst * TOKEN, born=first_tick * 100 * MS)
    answers: dict[str, Any] = {"yes": True, "no": False, "big": {"heavy"}}
    for tick, level, weight, admitted in rows:
        oracle.advance(tick * 100 * MS)
        assert oracle.left() == level * TOKEN
        answer = oracle.try_acquire(oracle.call(0, tokens(weight)))
        assert answer == answers[admitted], (tick, level, weight)


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
