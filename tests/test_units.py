"""What users give as numbers, as the integers that everything is computed with."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_throttle import Throttle
from async_throttle._units import (
    MOST,
    NEVER,
    SECOND,
    TOKEN,
    nanoseconds,
    positive,
    seconds,
    tokens,
    whole,
)

# ---------------------------------------------------------------------------------------- amounts


@pytest.mark.parametrize(
    ("value", "nanotokens"),
    [
        (0, 0),
        (-0.0, 0),
        (1, 10**9),
        (10**30, 10**39),
        (0.1, 100_000_000),
        (1 / 3, 333_333_333),
        (2.5, 2_500_000_000),
        (1e-9, 1),
        (4e-10, 0),
        (5e-324, 0),
        (123_456_789.000_000_1, 123_456_789_000_000_104),
        (2.0**70, 2**70 * 10**9),
        (1e308, int(1e308) * 10**9),
        (Decimal("0.1"), 100_000_000),
        (Decimal("12345678901234567890.123456789"), 12345678901234567890123456789),
        (Fraction(1, 3), 333_333_333),
        (Fraction(10**400), 10**409),
        (True, 10**9),
        (False, 0),
    ],
)
def test_tokens_are_counted_to_a_billionth(value: Any, nanotokens: int) -> None:
    amount = tokens("weight", value)
    assert type(amount) is int
    assert amount == nanotokens
    assert nanotokens == 0 or value > MOST or positive("weight", value) == nanotokens
    assert nanoseconds("period", value) == nanotokens  # seconds are counted in the same way


@given(st.integers(0, 4 * 10**15))
def test_every_billionth_survives_the_way_through_a_float(nanotokens: int) -> None:
    assert tokens("weight", nanotokens / TOKEN) == nanotokens
    assert nanoseconds("period", nanotokens / SECOND) == nanotokens
    assert seconds(nanotokens) == nanotokens / SECOND


@given(st.floats(0, 1e300))
def test_a_float_becomes_the_nearest_billionth(value: float) -> None:
    # The product is a float below 10**9, which is off by no more than a ten-millionth.
    bound = Fraction(1, 2) + Fraction(1, 10**6)
    assert abs(Fraction(value) * TOKEN - tokens("weight", value)) <= bound
    assert abs(Fraction(value) * SECOND - nanoseconds("period", value)) <= bound


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_parts_that_are_billionths_add_up(count: int, nanotokens: int) -> None:
    part, total = nanotokens * count / TOKEN, nanotokens * count * count / TOKEN
    assert tokens("weight", part) * count == tokens("weight", total)


# ------------------------------------------------------------------------------------------ times


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        (timedelta(0), 0),
        (timedelta(microseconds=1), 1_000),
        (timedelta(seconds=1.5), 1_500_000_000),
        (timedelta(days=1, microseconds=1), 86_400_000_001_000),
        (timedelta.max, 86_399_999_999_999_999_999_000),
    ],
)
def test_a_timedelta_is_exact(span: timedelta, expected: int) -> None:
    assert nanoseconds("seconds", span) == expected


@pytest.mark.parametrize("value", [math.inf, Decimal("Infinity")])
def test_for_ever_is_an_instant_after_all_others(value: Any) -> None:
    assert nanoseconds("seconds", value) == NEVER
    assert nanoseconds("seconds", timedelta.max) * 10**6 < NEVER


@pytest.mark.parametrize("now", [0, 1, 10**18, 10**30])
def test_what_is_left_until_never_is_infinity(now: int) -> None:
    assert seconds(NEVER - now) == math.inf
    assert seconds(NEVER + now) == math.inf
    assert seconds(now) < math.inf


def test_a_span_may_be_negative_on_its_way_back() -> None:
    assert seconds(-1_500_000_000) == -1.5


# -------------------------------------------------------------------------------- whole, positive


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0),
        (3, 3),
        (3.0, 3),
        (10**30, 10**30),
        (True, 1),
        (Decimal("3.0"), 3),
        (Fraction(6, 2), 3),
        (2.0**60, 2**60),
    ],
)
def test_a_whole_number_may_come_in_any_type(value: Any, expected: int) -> None:
    number = whole("concurrency", value)
    assert type(number) is int
    assert number == expected


def test_infinity_is_positive_only_where_it_is_allowed() -> None:
    assert positive("capacity", math.inf, infinite=True) == math.inf
    assert positive("capacity", 2, infinite=True) == 2 * TOKEN
    with pytest.raises(ValueError, match=r"^capacity must be .*, got inf"):
        positive("capacity", math.inf)


# ---------------------------------------------------------------------------------------- refusals


Convert = Callable[[str, Any], object]

REFUSED: list[tuple[Convert, list[Any]]] = [
    (tokens, [-1, -0.1, -math.inf, math.inf, Decimal("-1"), Fraction(-1, 3), Decimal("Infinity")]),
    (positive, [0, 0.0, False, 1e-10, -1, -math.inf, Decimal(0), Fraction(1, 10**10)]),
    (nanoseconds, [-1, -1e-300, -math.inf, Decimal("-0.1"), timedelta(microseconds=-1)]),
    (whole, [-1, 0.5, 3.5, -3.0, math.inf, Decimal("3.5"), Fraction(1, 3)]),
]
NO_NUMBERS: list[Any] = [
    math.nan,
    Decimal("NaN"),
    Decimal("sNaN"),  # which even refuses to be compared
    "x",
    "5",
    b"5",
    None,
    [5],
    (),
    {},
    5j,
    ...,
    int,
]
CONVERTS: dict[str, Convert] = {
    "tokens": tokens,
    "positive": positive,
    "positive or infinite": partial(positive, infinite=True),
    "nanoseconds": nanoseconds,
    "whole": whole,
}


@pytest.mark.parametrize("name", ["weight", "max_waiting"])
@pytest.mark.parametrize(
    ("convert", "value"),
    [(convert, value) for convert, values in REFUSED for value in values],
)
def test_what_is_out_of_range_is_refused_by_name_and_value(
    convert: Convert, value: Any, name: str
) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be ") as caught:
        convert(name, value)
    assert str(caught.value).endswith(f", got {value!r}")


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
@pytest.mark.parametrize("convert", CONVERTS.values(), ids=CONVERTS.keys())
def test_what_is_no_number_is_refused_by_name_and_value(convert: Convert, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^period must be ") as caught:
        convert("period", value)
    assert str(caught.value).endswith(f", got {value!r}")


@pytest.mark.parametrize("value", [timedelta(seconds=5), timedelta(0)])
@pytest.mark.parametrize("convert", [tokens, positive, whole])
def test_a_span_of_time_is_no_number_of_tokens(convert: Convert, value: timedelta) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^weight must be .*got datetime"):
        convert("weight", value)


@pytest.mark.parametrize("much", [1e25, 1e308, 10**400])
def test_a_rate_or_burst_beyond_all_measure_is_refused_by_name(much: float) -> None:
    with pytest.raises(ValueError, match=r"^capacity must be at most 1e\+24, got 1"):
        Throttle(much)
    with pytest.raises(ValueError, match=r"^burst must be at most 1e\+24, got 1"):
        Throttle(2, burst=much)
    assert Throttle(1e24, burst=1e24).capacity == 1e24
