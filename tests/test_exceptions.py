"""The error tree: what catches what, what each one says, and that it survives a journey."""

from __future__ import annotations

import asyncio
import builtins
import copy
import pickle
from collections.abc import Awaitable
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
    ("error", "bases", "others"),
    [
        (ResourceError, (Exception,), ()),
        (ResourceLimitError, (ResourceError,), (ValueError, builtins.TimeoutError)),
        (WeightTooLarge, (ResourceLimitError, ValueError), (builtins.TimeoutError,)),
        (ThrottleTimeout, (ResourceLimitError, exceptions.TimeoutError), (ValueError,)),
        (ThrottleFull, (ResourceLimitError,), (builtins.TimeoutError,)),
        (ThrottleClosed, (ResourceLimitError,), ()),
        (exceptions.TimeoutError, (ResourceError, builtins.TimeoutError, asyncio.TimeoutError), ()),
    ],
)
def test_what_catches_what(error: Any, bases: tuple[type, ...], others: tuple[type, ...]) -> None:
    assert all(issubclass(error, base) for base in bases)
    assert not issubclass(error, others)
    assert getattr(exceptions, error.__name__) is error
    assert error.__name__ in exceptions.__all__
    # One would hide the builtin, and is not at the top.
    at_the_top = error if error is not exceptions.TimeoutError else None
    assert getattr(async_throttle, error.__name__, None) is at_the_top
    assert (error.__name__ in async_throttle.__all__) == (at_the_top is not None)


@pytest.mark.parametrize("error", [ResourceLimitError, *REFUSALS])
def test_what_a_refusal_knows_survives_pickle_and_copy(error: type[ResourceLimitError]) -> None:
    original = error("no", limit="api", retry_after=1.5)
    original.__notes__ = ["a note"]
    copies: list[Any] = [pickle.loads(pickle.dumps(original)), copy.copy(original)]
    for again in copies:
        assert type(again) is error
        assert (str(again), again.limit, again.retry_after) == ("no", "api", 1.5)
        assert again.args == original.args
    ignorant = error("just so")
    assert (str(ignorant), ignorant.limit, ignorant.retry_after) == ("just so", None, None)
    large = pickle.loads(pickle.dumps(WeightTooLarge("no", largest=5.0, limit="api")))
    assert (large.largest, large.limit) == (5.0, "api")


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


async def test_one_except_clause_catches_all_refusals() -> None:
    throttle = Throttle(1, max_waiting=0, name="api")
    await throttle.acquire()
    refused: list[ResourceLimitError] = []

    async def call(awaitable: Awaitable[object]) -> None:
        try:
            await awaitable
        except ResourceLimitError as error:
            refused.append(error)

    await call(throttle.acquire(2))
    await call(throttle.acquire(1, timeout=0.5))
    await call(throttle.acquire())
    await call(throttle.consume())
    throttle.close()
    await call(throttle.acquire())
    kinds = [WeightTooLarge, ThrottleTimeout, ThrottleFull, ThrottleFull, ThrottleClosed]
    assert [type(error) for error in refused] == kinds
    assert {error.limit for error in refused} == {"api"}
    assert refused[-1].retry_after is None


async def test_every_waiter_gets_an_error_of_its_own() -> None:
    # A shared one would collect the tracebacks of all who raise it.
    throttle = Throttle(1, initial=0)
    waiters = [asyncio.create_task(throttle.acquire()) for _ in range(2)]
    await asyncio.sleep(0)
    throttle.close()
    errors = await asyncio.gather(*waiters, return_exceptions=True)
    assert errors[0] is not errors[1]
