"""Scenes for an interpreter without threads and a loop without a select (see test_pyodide.py).

The loop is the host's: it has no end of its own, runs callbacks in whatever order the host likes,
and refuses an instant that has come. An exception in a callback is lost, and whoever was to be
woken by it hangs.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import async_throttle.testing
import async_throttle.threads  # noqa: F401 - must be importable where no thread can be
from async_throttle import LimitSet, Throttle, ThrottleTimeout

ROUNDS = 20
PATIENCE = 5.0  # seconds for what takes some hundredths


async def time_and_slots() -> None:
    throttle = Throttle(1_000, 2, burst=1)
    began = []

    async def job(number: int) -> None:
        async with throttle:
            began.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(job(number) for number in range(20)))
    assert began == list(range(20)), began
    assert (throttle.active, throttle.waiting) == (0, 0)


async def a_set() -> None:
    rate, slots = Throttle(1_000, burst=1), Throttle(1_000, 1)
    both = LimitSet(rate, slots)

    async def job() -> None:
        async with both:
            await asyncio.sleep(0)

    await asyncio.gather(*(job() for _ in range(10)))
    assert (slots.active, slots.waiting) == (0, 0)


async def timeouts() -> None:
    throttle = Throttle(1_000, 1)
    await throttle.acquire()

    async def attempt(timeout: float) -> bool:
        try:
            await throttle.acquire(timeout=timeout)
        except ThrottleTimeout:
            return False
        return True

    attempts = asyncio.gather(*(attempt(timeout) for timeout in (0.001, 0.0025, 0.01)))
    assert await attempts == [False, False, False]
    patient = asyncio.ensure_future(attempt(5))
    await asyncio.sleep(0)
    throttle.release()
    assert await patient
    throttle.release()


SCENES: tuple[Callable[[], Awaitable[None]], ...] = (time_and_slots, a_set, timeouts)


async def main() -> str:
    """What went wrong, a line each."""
    wrong = []
    try:
        threading.Thread(target=print).start()
    except RuntimeError:
        pass
    else:
        wrong.append("a thread was started: this is no place for these scenes")
    for scene in SCENES:
        for number in range(ROUNDS):
            try:
                await asyncio.wait_for(scene(), PATIENCE)
            except TimeoutError:
                wrong.append(f"{scene.__name__}: round {number} hangs")
    return "\n".join(wrong) or "nothing went wrong"
