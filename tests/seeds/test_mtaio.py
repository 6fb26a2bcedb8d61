"""Every example about rate and concurrency in the documents of mtaio.resources, run.

The code between the quoting comments is theirs; only the import line and the names that they
leave open (`perform_operation`, `logger` and such) are supplied here, and lines about timeouts are
left out of examples that combine the two.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, type-arg"

from __future__ import annotations

import asyncio
import inspect
import logging
from contextlib import AsyncExitStack
from os import cpu_count
from typing import Any, Optional, get_type_hints

import pytest
from support import now

from async_throttle.exceptions import ResourceError, ResourceLimitError, TimeoutError
from async_throttle.resources import ConcurrencyLimiter, RateLimiter

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


def test_rate_limiter_class_reference() -> None:
    parameters = inspect.signature(RateLimiter).parameters
    assert list(parameters)[:2] == ["rate", "burst"]
    assert parameters["burst"].default is None
    assert list(inspect.signature(RateLimiter.acquire).parameters) == ["self", "tokens"]
    assert inspect.signature(RateLimiter.acquire).parameters["tokens"].default == 1
    limit = inspect.signature(RateLimiter.limit).parameters
    assert limit["func"].default is None
    assert (limit["tokens"].default, limit["tokens"].kind) == (1, limit["tokens"].KEYWORD_ONLY)


async def test_rate_limiter_acquire_takes_tokens() -> None:
    limiter = RateLimiter(10.0)
    await limiter.acquire()
    await limiter.acquire(4)
    await limiter.acquire(tokens=5)
    assert now() == 0.0
    await limiter.acquire(tokens=2)
    assert now() == 0.2


async def test_rate_limiter_raises_if_the_limit_is_exceeded() -> None:
    # "ResourceLimitError: If rate limit is exceeded": at once where no wait would help, and
    # always if asked not to wait.
    with pytest.raises(ResourceLimitError):
        await RateLimiter(10.0).acquire(11)
    limiter = RateLimiter(10.0, wait=False)
    await limiter.acquire(10)
    with pytest.raises(ResourceLimitError):
        await limiter.acquire()


async def test_rate_limiter_limit_with_tokens(performed: list[float]) -> None:
    limiter = RateLimiter(10.0)

    @limiter.limit(tokens=5)
    async def expensive() -> None:
        await perform_operation()

    await asyncio.gather(*(expensive() for _ in range(3)))
    assert performed == [0.0, 0.0, 0.5]


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


def test_concurrency_limiter_class_reference() -> None:
    assert next(iter(inspect.signature(ConcurrencyLimiter).parameters)) == "limit"
    assert list(inspect.signature(ConcurrencyLimiter.acquire).parameters) == ["self"]
    assert list(inspect.signature(ConcurrencyLimiter.limit).parameters) == ["self", "func"]


async def test_concurrency_limiter_acquire_can_be_awaited() -> None:
    limiter = ConcurrencyLimiter(1)
    await limiter.acquire()
    limiter.release()
    impatient = ConcurrencyLimiter(1, wait=False)
    await impatient.acquire()
    with pytest.raises(ResourceLimitError):  # "If limit is exceeded"
        await impatient.acquire()


# --- Best practices ---


async def test_resource_cleanup() -> None:
    async def cleanup_resources() -> None:
        async with AsyncExitStack() as stack:
            # Add resources to stack
            rate_limiter = await stack.enter_async_context(RateLimiter(10.0))
            # Resources are automatically cleaned up
            concurrency_limiter = await stack.enter_async_context(ConcurrencyLimiter(1))
            assert rate_limiter.throttle.level == 9.0
            assert concurrency_limiter.throttle.active == 1
        assert concurrency_limiter.throttle.active == 0

    await cleanup_resources()


def test_performance_optimization() -> None:
    # Balance between protection and performance
    rate_limiter = RateLimiter(
        rate=100.0,    # 100 operations per second
        burst=20       # Allow bursts of 20 operations
    )  # fmt: skip
    assert (rate_limiter.throttle.capacity, rate_limiter.throttle.burst) == (100.0, 20.0)

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


async def test_handle_errors_when_the_limit_is_really_exceeded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    try:
        async with RateLimiter(10.0) as limiter:
            await limiter.acquire(100)
    except ResourceLimitError as e:
        logger.error(f"Resource limit exceeded: {e}")
    assert "100" in caplog.text


# --- Integration examples ---


async def test_web_application() -> None:
    class RateLimitedAPI:
        def __init__(self):
            self.rate_limiter = RateLimiter(100.0)  # 100 requests/second

        async def handle_request(self, request):
            await self.rate_limiter.acquire()
            return await process_request(request)

    async def process_request(request: int) -> tuple[int, float]:
        return request, now()

    api = RateLimitedAPI()
    answers = await asyncio.gather(*(api.handle_request(n) for n in range(102)))
    assert answers == [(n, 0.0) for n in range(100)] + [(100, 0.01), (101, 0.02)]


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
