"""The error tree: what catches what, what each one says, and that it survives a journey."""

from __future__ import annotations

import asyncio
import builtins
import copy
import pickle
from typing import Any

import pytest

import async_throttle
from async_throttle import (
    FixedWindow,
    ResourceError,
    ResourceLimitError,
    SlidingWindow,
    Throttle,
    ThrottleClosed,
    ThrottleFull,
    ThrottleTimeout,
    WeightTooLarge,
    exceptions,
)

pytestmark = pytest.mark.virtual_time

REFUSALS: list[type[ResourceLimitError]] = [
    WeightTooLarge,
    ThrottleTimeout,
    ThrottleFull,
    ThrottleClosed,
]


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (ResourceError, (Exception,)),
        (ResourceLimitError, (ResourceError,)),
        (WeightTooLarge, (ResourceLimitError, ValueError)),
        (ThrottleTimeout, (ResourceLimitError, exceptions.TimeoutError, builtins.TimeoutError)),
        (ThrottleFull, (ResourceLimitError,)),
        (ThrottleClosed, (ResourceLimitError,)),
        (exceptions.TimeoutError, (ResourceError, builtins.TimeoutError, asyncio.TimeoutError)),
    ],
)
def test_what_catches_what(error: type[Exception], bases: tuple[type[Exception], ...]) -> None:
    for base in bases:
        assert issubclass(error, base)


def test_a_timeout_is_no_refused_weight_and_the_other_way_round() -> None:
    assert not issubclass(ThrottleTimeout, ValueError)
    assert not issubclass(WeightTooLarge, builtins.TimeoutError)
    assert not issubclass(ThrottleFull, builtins.TimeoutError)


def test_timeout_error_is_not_at_the_top_where_it_would_hide_the_builtin() -> None:
    assert not hasattr(async_throttle, "TimeoutError")
    assert "TimeoutError" not in async_throttle.__all__
    assert "TimeoutError" in exceptions.__all__


@pytest.mark.parametrize("error", [ResourceError, ResourceLimitError, *REFUSALS])
def test_the_top_level_names_are_those_of_the_module(error: type[Exception]) -> None:
    assert getattr(async_throttle, error.__name__) is error
    assert getattr(exceptions, error.__name__) is error


@pytest.mark.parametrize("error", [ResourceLimitError, *REFUSALS])
def test_what_a_refusal_knows_survives_pickle_and_copy(error: type[ResourceLimitError]) -> None:
    original = error("no", limit="api", retry_after=1.5)
    original.__notes__ = ["a note"]
    copies: list[Any] = [pickle.loads(pickle.dumps(original)), copy.copy(original)]
    for again in copies:
        assert type(again) is error
        assert (str(again), again.limit, again.retry_after) == ("no", "api", 1.5)
        assert again.args == original.args


def test_the_largest_weight_survives_pickle() -> None:
    again = pickle.loads(pickle.dumps(WeightTooLarge("no", largest=5.0, limit="api")))
    assert (again.largest, again.limit) == (5.0, "api")


def test_a_refusal_may_know_nothing() -> None:
    error = ResourceLimitError("just so")
    assert (str(error), error.limit, error.retry_after) == ("just so", None, None)


# --- what each one says ---


async def test_weight_too_large_says_the_largest_that_could_be() -> None:
    with pytest.raises(WeightTooLarge) as caught:
        await Throttle(5, burst=7, name="api").acquire(8.5)
    error = caught.value
    assert (error.largest, error.limit, error.retry_after) == (7.0, "api", None)
    for part in ("8.5", "7", "api"):
        assert part in str(error)


@pytest.mark.parametrize("algorithm", [SlidingWindow, FixedWindow])
async def test_the_largest_weight_of_a_window_is_its_capacity(algorithm: Any) -> None:
    with pytest.raises(WeightTooLarge) as caught:
        await Throttle(5, algorithm=algorithm).acquire(6)
    assert caught.value.largest == 5.0
    assert caught.value.limit is None


async def test_a_closed_throttle_knows_no_time_to_come_back() -> None:
    throttle = Throttle(10, name="api")
    throttle.close()
    with pytest.raises(ThrottleClosed, match="api") as caught:
        await throttle.acquire()
    assert caught.value.retry_after is None


async def test_one_except_clause_catches_all_refusals() -> None:
    throttle = Throttle(1, max_waiting=0)
    await throttle.acquire()
    refused = []
    for call in (
        throttle.acquire(2),
        throttle.acquire(1, timeout=0.5),
        throttle.acquire(),
        throttle.consume(),
    ):
        try:
            await call
        except ResourceLimitError as error:
            refused.append(type(error))
    throttle.close()
    try:
        await throttle.acquire()
    except ResourceLimitError as error:
        refused.append(type(error))
    assert refused == [WeightTooLarge, ThrottleTimeout, ThrottleFull, ThrottleFull, ThrottleClosed]


async def test_the_builtin_timeout_error_catches_ours() -> None:
    throttle = Throttle(1, initial=0)
    with pytest.raises(TimeoutError) as caught:
        await throttle.acquire(timeout=0.5)
    assert isinstance(caught.value, ResourceLimitError)


async def test_every_waiter_gets_an_error_of_its_own() -> None:
    # A shared one would collect the tracebacks of all who raise it.
    throttle = Throttle(1, initial=0)
    waiters = [asyncio.create_task(throttle.acquire()) for _ in range(2)]
    await asyncio.sleep(0)
    throttle.close()
    errors = await asyncio.gather(*waiters, return_exceptions=True)
    assert errors[0] is not errors[1]
