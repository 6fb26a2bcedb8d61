"""Every example in the documents of mtaio.resources, run.

The code between the quoting comments is theirs; only the import line and the names that they
leave open (`perform_operation`, `logger` and such) are supplied here.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, type-arg"

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from contextlib import AsyncExitStack, asynccontextmanager
from os import cpu_count
from typing import Any, Dict, Optional, get_type_hints  # noqa: UP035  # theirs

import pytest
from support import now

from async_throttle.exceptions import ResourceError, ResourceLimitError, TimeoutError
from async_throttle.resources import (
    AdaptiveRateLimiter,
    ConcurrencyLimiter,
    RateLimiter,
    ResourceGroup,
    TimeoutManager,
)

pytestmark = pytest.mark.virtual_time

logger = logging.getLogger(__name__)


_performed: list[float] = []


@pytest.fixture
def performed() -> list[float]:
    """When `perform_operation` was called."""
    _performed.clear()
    return _performed


async def perform_operation() -> None:
    _performed.append(now())
    await asyncio.sleep(0.05)


process_task = perform_operation


# --- RateLimiter ---


async def test_rate_limiter_basic_usage(performed: list[float]) -> None:
    # Create rate limiter
    limiter = RateLimiter(10.0)  # 10 operations per second

    # Use as decorator
    @limiter.limit
    async def rate_limited_operation():
        await perform_operation()

    # Use with context manager
    async def manual_rate_limit():
        async with limiter:
            await perform_operation()

    await asyncio.gather(
        *(rate_limited_operation() for _ in range(6)), *(manual_rate_limit() for _ in range(6))
    )
    assert performed == [0.0] * 10 + [0.1, 0.2]


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (RateLimiter, {"rate": ..., "burst": None}),
        (RateLimiter.acquire, {"tokens": 1}),
        (RateLimiter.limit, {"func": None, "*tokens": 1}),
        (TimeoutManager, {"default_timeout": None}),
        (TimeoutManager.run, {"coro": ..., "*timeout": None}),
        (ConcurrencyLimiter, {"limit": ...}),
        (ConcurrencyLimiter.acquire, {}),
        (ConcurrencyLimiter.limit, {"func": ...}),
        (ResourceGroup, {}),
        (ResourceGroup.add, {"resource": ...}),
        (ResourceGroup.remove, {"resource": ...}),
        (AdaptiveRateLimiter, {}),
        (AdaptiveRateLimiter.acquire, {"resource_id": ...}),
        (AdaptiveRateLimiter.adjust_rate, {"resource_id": ..., "load": ...}),
    ],
)
def test_the_class_references(function: Any, parameters: dict[str, Any]) -> None:
    """Names, defaults (... is none), and what is told by name only (*)."""
    found = [one for one in inspect.signature(function).parameters.values() if one.name != "self"]
    for one, (name, default) in zip(found, parameters.items(), strict=False):
        assert one.name == name.lstrip("*")
        assert one.default == (one.empty if default is ... else default)
        assert (one.kind is one.KEYWORD_ONLY) == name.startswith("*")
    assert all(one.default is not one.empty for one in found[len(parameters) :])
    if function.__name__ in ("add", "remove") or function is AdaptiveRateLimiter.acquire:
        assert inspect.iscoroutinefunction(function)


async def test_rate_limiter_takes_tokens(performed: list[float]) -> None:
    limiter = RateLimiter(10.0)
    await limiter.acquire()
    await limiter.acquire(4)
    await limiter.acquire(tokens=5)
    assert now() == 0.0
    await limiter.acquire(tokens=2)
    assert now() == 0.2

    @limiter.limit(tokens=5)
    async def expensive() -> None:
        await perform_operation()

    await asyncio.gather(*(expensive() for _ in range(3)))
    assert performed == [0.7, 1.2, 1.7]


async def test_rate_limiter_raises_if_the_limit_is_exceeded() -> None:
    # "ResourceLimitError: If rate limit is exceeded": at once where no wait would help, and
    # always if asked not to wait.
    with pytest.raises(ResourceLimitError):
        await RateLimiter(10.0).acquire(11)
    limiter = RateLimiter(10.0, wait=False)
    await limiter.acquire(10)
    with pytest.raises(ResourceLimitError):
        await limiter.acquire()


# --- TimeoutManager ---


@pytest.mark.parametrize(
    ("first", "second", "ended"),
    [(1.0, 1.5, 2.5), (1.0, 60, 3.0), (60, 1.0, 5.0), (4.0, 60, 5.0)],
    ids=["in time", "the second operation", "the first operation", "the block"],
)
async def test_timeout_manager_basic_usage(first: float, second: float, ended: float) -> None:
    async def long_running_operation() -> str:
        await asyncio.sleep(first)
        return "long"

    async def another_operation() -> str:
        await asyncio.sleep(second)
        return "another"

    async def operation_with_timeout():
        # Set timeout for a block of operations
        async with TimeoutManager(5.0) as tm:  # 5 seconds timeout
            result = await tm.run(long_running_operation())

            # Different timeout for specific operation
            result2 = await tm.run(
                another_operation(),
                timeout=2.0  # 2 seconds timeout
            )  # fmt: skip
        return result, result2

    if ended == 2.5:
        assert await operation_with_timeout() == ("long", "another")
    else:
        with pytest.raises(TimeoutError):
            await operation_with_timeout()
    assert now() == ended


async def test_timeout_manager_run_returns_the_result_of_the_coroutine() -> None:
    assert await TimeoutManager().run(asyncio.sleep(60, "result")) == "result"
    assert await TimeoutManager(2.0).run(asyncio.sleep(1, "result"), timeout=None) == "result"
    with pytest.raises(TimeoutError):  # "If operation times out"
        await TimeoutManager(2.0).run(asyncio.sleep(60))
    with pytest.raises(TimeoutError):  # "Optional timeout override"
        await TimeoutManager(60).run(asyncio.sleep(60), timeout=2.0)
    assert now() == 65.0


# --- ConcurrencyLimiter ---


async def test_concurrency_limiter_basic_usage(performed: list[float]) -> None:
    # Create limiter with maximum 5 concurrent operations
    limiter = ConcurrencyLimiter(5)

    @limiter.limit
    async def concurrent_operation():
        await process_task()

    # Manual usage
    async def manual_concurrency():
        async with limiter:
            await perform_operation()

    await asyncio.gather(
        *(concurrent_operation() for _ in range(6)), *(manual_concurrency() for _ in range(6))
    )
    assert performed == [0.0] * 5 + [0.05] * 5 + [0.1] * 2


async def test_concurrency_limiter_acquire_can_be_awaited() -> None:
    limiter = ConcurrencyLimiter(1)
    await limiter.acquire()
    limiter.release()
    impatient = ConcurrencyLimiter(1, wait=False)
    await impatient.acquire()
    with pytest.raises(ResourceLimitError):  # "If limit is exceeded"
        await impatient.acquire()


# --- ResourceGroup ---


async def test_resource_group_basic_usage(performed: list[float]) -> None:
    async def manage_resources():
        group = ResourceGroup()

        # Add resources to group
        rate_limiter = await group.add(RateLimiter(10.0))
        timeout = await group.add(TimeoutManager(5.0))

        # Resources are automatically managed
        async with group:  # noqa: SIM117
            async with timeout:
                await rate_limiter.acquire()
                await perform_operation()
        return rate_limiter, timeout

    rate_limiter, timeout = await manage_resources()
    assert isinstance(rate_limiter, RateLimiter)
    assert isinstance(timeout, TimeoutManager)
    assert performed == [0.0]
    assert rate_limiter.throttle.level == 8.5  # to enter it costs one token: 10 - 2 + 0.05 s
    group = ResourceGroup()
    limiter = ConcurrencyLimiter(5)
    assert await group.add(limiter) is limiter  # "Added resource"
    async with group:
        assert limiter.throttle.active == 1
        await group.remove(limiter)
        assert limiter.throttle.active == 0


# --- Adaptive rate limiting ---


async def test_adaptive_rate_limiting_cannot_run_as_printed() -> None:
    """It never makes the limiter that it is, and steps from rates that nobody has set."""

    class AdaptiveRateLimiter(RateLimiter):
        def __init__(self):
            self.rates: Dict[str, float] = {}  # noqa: UP006
            self._current_load = 0.0

        async def acquire(self, resource_id: str) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
            rate = self.rates.get(resource_id, 1.0)
            if self._current_load > 0.8:  # 80% load
                rate *= 0.5  # Reduce rate
            await super().acquire(tokens=1/rate)  # fmt: skip

        def adjust_rate(self, resource_id: str, load: float) -> None:
            self._current_load = load
            if load > 0.9:  # High load
                self.rates[resource_id] *= 0.8
            elif load < 0.5:  # Low load
                self.rates[resource_id] *= 1.2

    limiter = AdaptiveRateLimiter()
    with pytest.raises(AttributeError):
        await limiter.acquire("database")
    for load in (0.95, 0.4):
        with pytest.raises(KeyError, match="database"):
            limiter.adjust_rate("database", load)


async def test_adaptive_rate_limiting() -> None:
    """What it is meant to do, with the steps that it prints."""
    limiter = AdaptiveRateLimiter()

    async def seconds_between(resource_id: str) -> float:
        await limiter.acquire(resource_id)
        began = now()
        await limiter.acquire(resource_id)
        return now() - began

    assert await seconds_between("database") == 1.0  # rates.get(resource_id, 1.0)
    limiter.adjust_rate("database", load=0.85)  # 80% load
    assert await seconds_between("database") == 2.0  # Reduce rate
    limiter.adjust_rate("database", load=0.95)  # High load
    assert limiter.rates["database"] == 0.8
    assert await seconds_between("database") == 2 / 0.8
    limiter.adjust_rate("database", load=0.4)  # Low load
    assert limiter.rates["database"] == 0.8 * 1.2
    limiter.adjust_rate("database", load=0.7)
    assert limiter.rates["database"] == 0.8 * 1.2
    assert await seconds_between("another") == 1.0


# --- Cascading timeouts ---


async def test_cascading_timeouts_cannot_be_a_context_manager() -> None:
    """As printed it yields again where the first block has timed out. A context manager cannot
    run its body twice: contextlib says so, and the body's timeout is lost."""

    class TimeoutController:
        def __init__(self):
            self.timeouts = TimeoutManager()

        @asynccontextmanager
        async def cascading_timeout(self, timeouts: list[float]):
            """Implements cascading timeouts with fallback."""
            for timeout in timeouts:
                try:
                    async with self.timeouts.timeout(timeout):
                        yield
                    break
                except TimeoutError:
                    if timeout == timeouts[-1]:
                        raise
                    continue

    controller = TimeoutController()
    async with controller.cascading_timeout([0.5, 1.0]):
        await asyncio.sleep(0.4)
    with pytest.raises(TimeoutError, match="after 2 s"):
        async with controller.cascading_timeout([2.0]):
            await asyncio.sleep(60)
    with pytest.raises(RuntimeError, match="didn't stop after athrow"):
        async with controller.cascading_timeout([0.5, 1.0]):
            await asyncio.sleep(60)


@pytest.mark.parametrize(("takes", "ended"), [(0.4, 0.4), (0.9, 1.4), (1.9, 3.4), (60, 3.5)])
async def test_cascading_timeouts_with_fallback(takes: float, ended: float) -> None:
    """What they are meant to do, as a loop whose body can be run again, and as a call."""

    async def operation() -> str:
        await asyncio.sleep(takes)
        return "result"

    class TimeoutController:
        def __init__(self) -> None:
            self.timeouts = TimeoutManager()

        async def in_a_loop(self, timeouts: list[float]) -> str:
            result = "none"
            for attempt in self.timeouts.attempts(timeouts):
                async with attempt:
                    result = await operation()
            return result

        async def as_a_call(self, timeouts: list[float]) -> str:
            return await self.timeouts.cascade(operation, timeouts)

    controller = TimeoutController()
    for cascade in (controller.in_a_loop, controller.as_a_call):
        began = now()
        if takes < 2.0:
            assert await cascade([0.5, 1.0, 2.0]) == "result"
        else:
            with pytest.raises(TimeoutError):
                await cascade([0.5, 1.0, 2.0])
        assert now() - began == pytest.approx(ended)


# --- Best practices ---


async def test_resource_cleanup() -> None:
    async def cleanup_resources():
        async with AsyncExitStack() as stack:
            # Add resources to stack
            rate_limiter = await stack.enter_async_context(RateLimiter(10.0))
            timeout = await stack.enter_async_context(TimeoutManager(5.0))

            # Resources are automatically cleaned up
            assert rate_limiter.throttle.level == 9.0
            assert timeout.remaining() == 5.0
        assert timeout.remaining() == math.inf

    await cleanup_resources()


@pytest.mark.parametrize(
    ("takes", "tokens", "told"),
    [
        (1.0, 10, None),
        (60, 10, "Operation timed out"),
        (1.0, 11, "Resource limit exceeded: weight 11 exceeds the burst"),
    ],
)
async def test_error_handling(
    takes: float, tokens: int, told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def operation() -> None:
        await RateLimiter(10.0).acquire(tokens)
        await asyncio.sleep(takes)

    async def handle_resource_errors():
        try:
            async with TimeoutManager(5.0) as tm:
                await tm.run(operation())
        except TimeoutError:
            logger.error("Operation timed out")
        except ResourceLimitError as e:
            logger.error(f"Resource limit exceeded: {e}")

    await handle_resource_errors()
    if told is None:
        assert caplog.text == ""
    else:
        assert told in caplog.text


def test_performance_optimization() -> None:
    # Balance between protection and performance
    rate_limiter = RateLimiter(
        rate=100.0,    # 100 operations per second
        burst=20       # Allow bursts of 20 operations
    )  # fmt: skip
    assert (rate_limiter.throttle.capacity, rate_limiter.throttle.burst) == (100.0, 20.0)

    # Set appropriate timeouts
    timeout_manager = TimeoutManager(
        default_timeout=30.0  # Default 30 seconds
    )
    assert timeout_manager.default_timeout == 30.0

    # Limit concurrent operations based on system capacity
    concurrency_limiter = ConcurrencyLimiter(
        limit=(cpu_count() or 1) * 2  # 2 operations per CPU core
    )
    assert concurrency_limiter.throttle.concurrency == (cpu_count() or 1) * 2


# --- Error handling examples ---


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (None, None),
        (ResourceLimitError("too fast"), "Rate limit exceeded"),
        (TimeoutError("too slow"), "Operation timed out"),
        (ResourceError("broken"), "Resource error: broken"),
    ],
)
async def test_handle_errors(
    error: Exception | None, told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle_errors() -> None:
        try:
            async with RateLimiter(10.0) as limiter:
                await limiter.acquire()
                if error is not None:
                    raise error

        except ResourceLimitError:
            # Handle rate limit exceeded
            logger.warning("Rate limit exceeded")
            await asyncio.sleep(1)

        except TimeoutError:
            # Handle timeout
            logger.error("Operation timed out")

        except ResourceError as e:
            # Handle general resource errors
            logger.error(f"Resource error: {e}")

    await handle_errors()
    assert [record.message for record in caplog.records] == ([] if told is None else [told])


# --- Integration examples ---


async def test_web_application() -> None:
    class RateLimitedAPI:
        def __init__(self):
            self.rate_limiter = RateLimiter(100.0)  # 100 requests/second
            self.timeout = TimeoutManager(5.0)  # 5 second timeout

        async def handle_request(self, request):
            async with self.timeout:
                await self.rate_limiter.acquire()
                return await process_request(request)

    async def process_request(request: int) -> tuple[int, float]:
        began = now()
        await asyncio.sleep(60 if request == 50 else 0)
        return request, began

    api = RateLimitedAPI()
    requests = (api.handle_request(n) for n in range(102))
    answers = await asyncio.gather(*requests, return_exceptions=True)
    assert isinstance(answers.pop(50), TimeoutError)
    went = [(n, 0.0) for n in range(100) if n != 50]
    assert answers == [*went, (100, 0.01), (101, 0.02)]
    assert now() == 5.0


async def test_task_processing() -> None:
    class TaskProcessor:
        def __init__(self):
            self.limiter = ConcurrencyLimiter(10)  # 10 concurrent tasks

        async def process_tasks(self, tasks: list):
            async with self.limiter:
                results = []
                for task in tasks:
                    result = await self.process_task(task)
                    results.append(result)
                return results

        async def process_task(self, task: int) -> int:
            await asyncio.sleep(1)
            assert self.limiter.throttle.active <= 10
            return task * 2

    processor = TaskProcessor()
    results = await asyncio.gather(*(processor.process_tasks([n, n]) for n in range(15)))
    assert results == [[2 * n, 2 * n] for n in range(15)]
    assert now() == 4.0


def test_the_documented_types_are_accepted() -> None:
    # There: rate: float, burst: Optional[int] = None
    hints: dict[str, Any] = get_type_hints(RateLimiter.__init__)
    assert hints["rate"] is float
    assert hints["burst"] == Optional[float]  # noqa: UP045  # theirs is within it
    # There: default_timeout: Optional[float] = None, timeout: Optional[float] = None
    assert get_type_hints(TimeoutManager.__init__)["default_timeout"] == Optional[float]  # noqa: UP045
    assert get_type_hints(TimeoutManager.run)["timeout"] == Optional[float]  # noqa: UP045
