"""Words for tests in virtual time."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def now() -> float:
    """The instant, in seconds since the loop's start."""
    return asyncio.get_running_loop().time()


async def others_run() -> None:
    """Let everything run that needs no time."""
    for _ in range(10):
        await asyncio.sleep(0)


async def queued(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task that has got as far as it can without time."""
    task = asyncio.create_task(coroutine)
    await others_run()
    return task


def at(instant: float, call: Callable[[], object]) -> None:
    """Call in the step in which that instant comes."""
    asyncio.get_running_loop().call_at(instant, call)
