"""A client that never has enough, what it got, and how much of what it could have had.

The bound (counted to the end): of *burst* calls that go at once, each waits for the server to
forget one that went before, which it does *burst* x *period* / *capacity* after that call's end. So
*burst* calls go per that time and the longest of the calls; on the average over many, per that time
and the mean of the calls. Where the server forgets nothing, the slots are what comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from statistics import fmean
from time import perf_counter
from typing import Literal

from async_throttle import LimitSet
from async_throttle.exceptions import ThrottleClosed

from .http import Client
from .jitter import jitter
from .server import Running, Twin

Counts = Literal["start", "end"]
Way = Literal["direct", "jitter"]

SERVED, REFUSED = {200}, {403, 429, 503}


@dataclass(frozen=True)
class Figures:
    """What a client got."""

    served: int
    refused: int
    seconds: float  # from the start to the end of the last call
    round_trip: float  # seconds that a call took on the average
    at_once: float  # calls that go at once, and
    forgotten: float  # seconds after which as many may go again
    late: float  # seconds for which timers that had rung were not heard, all in all

    @property
    def disturbed(self) -> bool:
        """Whether the machine was too busy for the share to say what the throttle does."""
        return self.late > 0.01 * self.seconds

    @property
    def share(self) -> float:
        """The part of the bound that was used; more than 1 if calls are spread out well."""
        turns = self.served / self.at_once
        shortest = (turns - 1) * (self.forgotten + self.round_trip) + self.round_trip
        return shortest / self.seconds

    def __str__(self) -> str:
        return (
            f"{self.served} served, {self.refused} refused, {self.share:.1%} of the bound, "
            f"round trip {self.round_trip * 1000:.0f} ms, {self.seconds:.2f} s, "
            f"timers {self.late * 1000:.0f} ms late"
        )


async def saturate(running: Running, twin: Twin, counts: Counts, way: Way, periods: int) -> Figures:
    """Ask for all that *twin* allows, from the first instant on, for so many of its periods.

    The client is content when it got what the limit allows in that time, and gives up when it had
    to wait for a quarter longer, as one does who makes one call after the other.
    """
    throttle = twin.throttle(counts=counts)
    limiter = LimitSet(throttle, twin.also(counts=counts)) if twin.also else throttle
    lasts = periods * twin.period
    at_once: float = throttle.concurrency
    forgotten, most = 0.0, 25 * throttle.concurrency * lasts
    if not twin.slots:
        at_once = throttle.burst
        forgotten = throttle.burst * throttle.period / throttle.capacity
        most = throttle.burst + lasts * throttle.capacity / throttle.period
    statuses: list[int] = []
    trips: list[float] = []
    last_end = 0.0

    async with contextlib.AsyncExitStack() as stack:
        port = running.port
        if way == "jitter":
            port = await stack.enter_async_context(jitter(port))
        client = await stack.enter_async_context(Client(port))
        listener = await stack.enter_async_context(listening())

        async def call() -> None:
            nonlocal last_end
            with contextlib.suppress(ThrottleClosed):
                async with limiter:
                    granted = perf_counter()
                    status, _ = await client.get(twin.path)
                    statuses.append(status)
                    last_end = perf_counter()
                    trips.append(last_end - granted)

        start = perf_counter()
        asyncio.get_running_loop().call_later(1.25 * lasts, limiter.close)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(math.floor(most)):
                    group.create_task(call())
        except* Exception as failed:
            reasons = "; ".join(map(str, failed.exceptions))
            raise RuntimeError(f"{twin.limit}: {reasons}\n{running.last_words()}") from failed
    if unknown := set(statuses) - SERVED - REFUSED:
        raise RuntimeError(f"{twin.limit}: statuses {unknown}\n{running.last_words()}")
    served = sum(status in SERVED for status in statuses)
    return Figures(
        served=served,
        refused=len(statuses) - served,
        seconds=last_end - start,
        round_trip=fmean(trips),
        at_once=at_once,
        forgotten=forgotten,
        late=listener.late,
    )


class Listener:
    """Hears how late timers are, which tells how busy the machine is."""

    TICK = 0.005
    USUAL = 0.002  # timers wake up to 1 ms late in any case

    def __init__(self) -> None:
        self.late = 0.0

    async def listen(self) -> None:
        while True:
            rings = perf_counter() + self.TICK
            await asyncio.sleep(self.TICK)
            delay = perf_counter() - rings
            self.late += delay if delay > self.USUAL else 0.0


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    """A listener at work."""
    listener = Listener()
    task = asyncio.create_task(listener.listen())
    await asyncio.sleep(0)  # from here on it hears whatever stops this thread
    try:
        yield listener
    finally:
        task.cancel()
