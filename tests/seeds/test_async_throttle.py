"""Everything that the documents of async-throttle 1.0 show and say, with the import line unchanged.

Its package was `async_throttle` as well, so there is no line to change.
"""

from __future__ import annotations

import asyncio
import inspect
import math

import pytest
from support import now

from async_throttle import Throttle

pytestmark = pytest.mark.virtual_time


async def test_the_documented_example() -> None:
    began = []
    most = 0

    async def perform_one_task() -> None:
        # From the documents, word for word, but for the bodies.
        async with throttle:
            # Do some (async) thing
            await some_thing()

    async def perform_an_expensive_task() -> None:
        # For tasks that should consume more of the budget, you can call the throttle:
        async with throttle(5):
            # Do some more expensive thing, equivalent to 5 requests
            await some_thing()

    async def some_thing() -> None:
        nonlocal most
        began.append(now())
        most = max(most, throttle.active)
        await asyncio.sleep(0.05)

    throttle = Throttle(10, 2)  # Two concurrent coros limited to 10qps (total).

    await asyncio.gather(
        perform_one_task(),
        perform_an_expensive_task(),
        perform_one_task(),
        perform_an_expensive_task(),
        perform_one_task(),
    )
    # 1 + 5 + 1 of the ten; the second expensive one waits for two more, the last for one more.
    assert began == [0.0, 0.0, 0.05, 0.2, 0.3]
    assert most == 2
    assert throttle.active == 0


def test_the_documented_signature() -> None:
    # Throttle(capacity: float, concurrency: int = 0, period: float = 1.0)
    parameters = list(inspect.signature(Throttle).parameters.values())
    assert [(p.name, p.default) for p in parameters[:3]] == [
        ("capacity", inspect.Parameter.empty),
        ("concurrency", 0),
        ("period", 1.0),
    ]
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[3:])


async def test_capacity_sets_the_rate_limit_as_capacity_per_period_seconds() -> None:
    throttle = Throttle(capacity=4, period=2.0)
    for _ in range(4):
        async with throttle:
            assert now() == 0.0
    for n in range(1, 9):
        async with throttle:
            assert now() == n * 0.5


async def test_concurrency_is_the_number_of_jobs_executing_at_a_given_time() -> None:
    throttle = Throttle(1_000, concurrency=3)
    running, most = 0, 0

    async def job() -> None:
        nonlocal running, most
        async with throttle:
            running += 1
            most = max(most, running)
            await asyncio.sleep(1)
            running -= 1

    await asyncio.gather(*(job() for _ in range(9)))
    assert (most, now()) == (3, 3.0)


async def test_without_concurrency_there_is_only_the_rate() -> None:
    throttle = Throttle(50)
    inside = []

    async def job() -> None:
        async with throttle:
            inside.append(throttle.active)
            await asyncio.sleep(1)

    await asyncio.gather(*(job() for _ in range(50)))
    assert max(inside) == 50


async def test_pause_locks_the_throttle_for_the_given_number_of_seconds() -> None:
    # Throttle#pause(td: int)
    # "if an API bans your client [...] you can tell your code to sleep for a period of time and
    # try again later."
    throttle = Throttle(10, 2)
    async with throttle:
        throttle.pause(30)
    assert throttle.locked()
    async with throttle:
        assert now() == 30.0


async def test_pause_can_be_awaited_as_in_version_1() -> None:
    throttle = Throttle(10, 2)
    await throttle.pause(30)
    async with throttle(5):
        assert now() == 30.0


async def test_it_is_a_drop_in_replacement_for_a_semaphore() -> None:
    # "The throttle can be a drop-in replacement for another primitive like asyncio.Semaphore."
    async def most_at_once(limit: asyncio.Semaphore | Throttle) -> int:
        inside, most = 0, 0

        async def by_block() -> None:
            nonlocal inside, most
            async with limit as bound:
                assert bound is None
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(1)
                inside -= 1

        async def by_hand() -> None:
            nonlocal inside, most
            assert await limit.acquire() is True
            try:
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(1)
                inside -= 1
            finally:
                limit.release()

        assert not limit.locked()
        await asyncio.gather(by_block(), by_hand(), by_block(), by_hand(), by_block())
        return most

    assert await most_at_once(asyncio.Semaphore(2)) == 2
    assert await most_at_once(Throttle(math.inf, 2)) == 2


async def test_it_is_a_semaphore_mixed_with_a_token_bucket() -> None:
    throttle = Throttle(10, 2)
    async with throttle:
        assert (throttle.level, throttle.active) == (9.0, 1)
        async with throttle(5):
            assert (throttle.level, throttle.active) == (4.0, 2)
    assert (throttle.level, throttle.active) == (4.0, 0)


async def test_the_other_methods_of_version_1() -> None:
    throttle = Throttle(10, 2)
    await throttle.acquire(3)
    await throttle.consume(2)
    assert (throttle.level, throttle.active) == (5.0, 1)
    throttle.release()
    assert throttle.active == 0
