"""What decorators take and refuse, whatever it is that decorates."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from async_throttle import (
    ConcurrencyLimiter,
    LimitSet,
    RateLimiter,
    Throttle,
    ThrottleTimeout,
    TimeoutManager,
    threads,
)

pytestmark = pytest.mark.virtual_time

FOR_LOOPS = {
    "throttle": lambda: Throttle(math.inf, 1)(1),
    "RateLimiter": lambda: RateLimiter(1),
    "ConcurrencyLimiter": lambda: ConcurrencyLimiter(1),
    "limit() of a rate": lambda: RateLimiter(1).limit,
    "limit()": lambda: RateLimiter(1).limit(),
    "limit(tokens=)": lambda: RateLimiter(1).limit(tokens=1),
    "limit() of slots": lambda: ConcurrencyLimiter(1).limit,
    "TimeoutManager": lambda: TimeoutManager(1.0),
}
BARE = {"throttle without brackets": lambda: Throttle(math.inf, 1)}
FOR_THREADS = {
    "threads.Throttle": lambda: threads.Throttle(math.inf, 1)(1),
    "threads.Throttle without brackets": lambda: threads.Throttle(math.inf, 1),
    "LimitSet": lambda: LimitSet(threads.Throttle(math.inf, 1))(),
}
EVERY = {**FOR_LOOPS, **BARE, **FOR_THREADS}


def work(a: int, *, b: int = 2) -> int:
    """Adds."""
    return a + b


async def wait(a: int, *, b: int = 2) -> int:
    """Adds, in time."""
    await asyncio.sleep(0.5)
    return a + b


def generate() -> Iterator[int]:
    yield 1


async def stream() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
async def test_a_coroutine_function_stays_what_it_was(make: Any) -> None:
    decorated = make()(wait)
    assert await decorated(1, b=3) == 4
    assert inspect.iscoroutinefunction(decorated)
    assert (decorated.__name__, decorated.__doc__) == ("wait", "Adds, in time.")
    assert inspect.signature(decorated) == inspect.signature(wait)


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
async def test_methods_and_partials_are_decorated_and_errors_pass(make: Any) -> None:
    class Divider:
        @make()  # type: ignore[untyped-decorator]
        async def divide(self, a: int, *, b: int) -> tuple[Divider, float]:
            return self, a / b

    divider = Divider()
    assert await divider.divide(1, b=2) == (divider, 0.5)
    with pytest.raises(ZeroDivisionError):
        await divider.divide(1, b=0)
    assert await make()(functools.partial(wait, 1))(b=4) == 5


async def test_a_throttle_without_brackets_takes_one_and_heeds_options() -> None:
    throttle = Throttle(10, 1)

    @throttle
    async def look() -> tuple[int, float]:
        return throttle.active, throttle.level

    assert await look() == (1, 9.0)

    async def never() -> None: ...

    throttle.pause(5)
    with pytest.raises(ThrottleTimeout):
        await throttle(never, timeout=1)()  # type: ignore[call-overload]


def test_a_number_that_can_be_called_is_a_weight() -> None:
    class Three(float):
        def __call__(self) -> None: ...

    assert Throttle(10)(Three(3)).weight == 3


@pytest.mark.parametrize("make", FOR_THREADS.values(), ids=FOR_THREADS)
def test_what_threads_enter_decorates_a_function_as_well(make: Any) -> None:
    decorated = make()(work)
    assert decorated(1, b=3) == 4
    assert inspect.signature(decorated) == inspect.signature(work)


@pytest.mark.parametrize("make", [*FOR_LOOPS.values(), *BARE.values()], ids=[*FOR_LOOPS, *BARE])
@pytest.mark.parametrize("func", [work, generate, stream, len, int, "fetch"])
def test_what_only_loops_enter_decorates_nothing_else(make: Any, func: Any) -> None:
    if func == "fetch" and make in BARE.values():
        return  # a weight, which is refused when it is asked for
    with pytest.raises(TypeError, match=f"decorates an async def, got .*{re.escape(repr(func))}"):
        make()(func)


@pytest.mark.parametrize("make", FOR_THREADS.values(), ids=FOR_THREADS)
@pytest.mark.parametrize("func", [generate, stream])
def test_a_generator_would_run_when_its_block_is_over_and_is_refused(make: Any, func: Any) -> None:
    with pytest.raises(TypeError, match=rf"got a generator: .*{func.__name__}"):
        make()(func)


class Later:
    async def __call__(self) -> None: ...


@pytest.mark.parametrize("make", FOR_THREADS.values(), ids=FOR_THREADS)
@pytest.mark.parametrize("func", [Later(), functools.partial(Later())], ids=["object", "partial"])
def test_an_object_to_be_awaited_would_run_when_its_block_is_over_too(make: Any, func: Any) -> None:
    with pytest.raises(TypeError, match=r"got an object to be awaited: .*Later object"):
        make()(func)


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_what_decorates_goes_under_classmethod(make: Any) -> None:
    class Client:
        @classmethod
        @make()  # type: ignore[untyped-decorator]
        async def name(cls) -> str:
            return cls.__name__

    assert inspect.iscoroutinefunction(Client.name)
    with pytest.raises(TypeError, match=r"decorates .* got <classmethod"):
        make()(classmethod(wait))  # type: ignore[arg-type]
