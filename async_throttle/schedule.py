"""Schedule: a capacity that changes by the clock, for nights and weekends.

No limiter: it sets the capacity of throttles, as a user would, and they re-plan whoever waits.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, NoReturn, Protocol

from async_throttle._units import SECOND, nanoseconds, seconds

__all__ = ["Schedule"]

MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
"""Nanoseconds."""

SHORTEST: Final = SECOND // 100
"""Least time between two looks: at a clock that stands still just before a multiple of *every*, as
a frozen one may, we would spin."""


class Adjustable(Protocol):
    """What has a capacity that can be set."""

    @property
    def capacity(self) -> float: ...
    @capacity.setter
    def capacity(self, value: float, /) -> None: ...


class Schedule:
    """A capacity for each time of the day, the week or the year.

    ::

        def hours(now: datetime) -> float:
            night = now.hour >= 22 or now.hour < 6
            return 300 if night or now.weekday() >= 5 else 100

        async with Schedule(hours, tz=ZoneInfo("Europe/Berlin")).applied_to(throttle):
            ...

    It looks at the clock on every whole minute, and sets the capacity when that has changed. So a
    change on a whole minute takes effect on that minute, also on days of a time change, and a
    correction of the clock is noticed on the next one. A capacity that was set by hand meanwhile,
    or that follows the server (`BackOff`), stands until the schedule has another one. One schedule
    may be applied to many throttles.

    Args:
        capacity: called with the time, as an aware datetime in *tz*; returns the capacity. It is
            called in the event loop and must not block.
        tz: the time zone; unset, that of the machine.
        every: seconds, or a timedelta, from 10 ms to an hour: it looks at the clock on multiples of
            that since midnight in *tz*, and on every whole hour.
        clock: returns the time as an aware datetime, in any zone, for tests; unset,
            ``datetime.now``.

    Raises:
        ValueError: *every* is less than 10 ms, or more than an hour.
        TypeError: *capacity* or *clock* cannot be called, or *tz* is no tzinfo.

    >>> from async_throttle import Throttle
    >>> throttle = Throttle(100, period=60)
    >>> Schedule(lambda now: 300 if now.year >= 2000 else 100).apply(throttle)
    >>> throttle.capacity
    300.0

    With a clock that starts at 21:59:30, for one to see it change:

    >>> import asyncio
    >>> from zoneinfo import ZoneInfo
    >>> from async_throttle import testing
    >>> berlin = ZoneInfo("Europe/Berlin")
    >>> def hours(now: datetime) -> float:
    ...     return 300 if now.hour >= 22 or now.hour < 6 else 100
    >>> async def main() -> None:
    ...     loop, throttle = asyncio.get_running_loop(), Throttle(100, period=60)
    ...     began = datetime(2026, 3, 5, 21, 59, 30, tzinfo=berlin)
    ...     schedule = Schedule(
    ...         hours, tz=berlin, clock=lambda: began + timedelta(seconds=loop.time())
    ...     )
    ...     async with schedule.applied_to(throttle):
    ...         for _ in range(3):
    ...             async with throttle:
    ...                 print(loop.time(), "s:", throttle.capacity, "per minute")
    ...             await asyncio.sleep(20)
    >>> testing.run(main())
    0.0 s: 100.0 per minute
    20.0 s: 100.0 per minute
    40.0 s: 300.0 per minute
    """

    __module__ = "async_throttle"

    __slots__ = ("_capacity", "_clock", "_every", "_tz")

    def __init__(
        self,
        capacity: Callable[[datetime], float],
        *,
        tz: tzinfo | None = None,
        every: float | timedelta = 60.0,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        if not callable(capacity):
            raise TypeError(f"capacity must be callable with a datetime, got {capacity!r}")
        if not (tz is None or isinstance(tz, tzinfo)):
            raise TypeError(f"tz must be a tzinfo, such as ZoneInfo('Europe/Berlin'), got {tz!r}")
        if not (clock is None or callable(clock)):
            raise TypeError(f"clock must be callable, got {clock!r}")
        span = nanoseconds("every", every)
        if not SHORTEST <= span <= HOUR:
            raise ValueError(f"every must be from 0.01 to 3600 s, an hour, got {every!r}")
        self._capacity = capacity
        self._tz = tz
        self._every = span
        self._clock = clock

    @asynccontextmanager
    async def applied_to(self, *throttles: Adjustable) -> AsyncIterator[None]:
        """Apply it to *throttles* from the start of a block to its end.

        Afterwards they keep the last capacity. If the function fails, or returns what is no
        capacity, the block is cancelled and ends with that error; it is not entered, if that
        happens at the start. Where one of them refuses a capacity that others took, those get
        back the one they had; whom they let go meanwhile has gone. An error of the block itself
        stays what it is.

        Args:
            throttles: anything whose *capacity* can be set: a `Throttle`, one for threads, a
                `RateLimit`, a member of a set.
        """
        capacity, _ = self._look(throttles)
        failed: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(self._keep(throttles, capacity))
                try:
                    yield
                except asyncio.CancelledError:
                    raise
                except BaseException as error:  # not for the group, which would wrap it
                    failed = error
                finally:
                    task.cancel()
        except ExceptionGroup as ours:
            if failed is not None:
                raise failed  # noqa: B904  # with ours as its context: neither hides the other
            failed = ours.exceptions[0]
        if failed is not None:
            raise failed

    async def run(self, *throttles: Adjustable) -> NoReturn:
        """Apply it to *throttles* for ever: for a task of your own.

        ::

            async with asyncio.TaskGroup() as group:
                group.create_task(schedule.run(throttle))
                ...
        """
        await self._keep(throttles)

    def apply(self, *throttles: Adjustable) -> None:
        """Apply it to *throttles* once, now: where no event loop runs, or to see what it says."""
        self._look(throttles)

    async def _keep(
        self, throttles: tuple[Adjustable, ...], capacity: float = math.nan
    ) -> NoReturn:
        """Set what the clock asks for whenever it is not what it was, *capacity* to begin with."""
        while True:  # no event tells that it has become night
            capacity, pause = self._look(throttles, capacity)
            await asyncio.sleep(pause)

    def _look(
        self, throttles: tuple[Adjustable, ...], before: float = math.nan
    ) -> tuple[float, float]:
        """Set what the clock asks for, if it is not what it was *before*.

        Returns:
            That capacity, and seconds until the clock is to be looked at again.
        """
        # datetime is looked up at each call, so that freezegun reaches it.
        reading = datetime.now(UTC) if self._clock is None else self._clock()
        if getattr(reading, "tzinfo", None) is None:
            raise ValueError(f"clock must return an aware datetime, got {reading!r}")
        now = reading.astimezone(self._tz)
        capacity = self._capacity(now)
        with ExitStack() as back:
            for throttle in throttles if capacity != before else ():
                old = throttle.capacity
                if old != capacity:
                    throttle.capacity = capacity
                    back.callback(setattr, throttle, "capacity", old)
            back.pop_all()  # none has refused
        # By the clock on the wall: in some zones an hour does not begin on the hour of UTC. On
        # every hour: that is when summer time comes and goes, and when a day begins. And by the
        # reading from above: a later one may be past a multiple that *capacity* has not seen.
        since_hour = now.minute * MINUTE + now.second * SECOND + now.microsecond * 1_000
        since_midnight = now.hour * HOUR + since_hour
        pause = min(self._every - since_midnight % self._every, HOUR - since_hour)
        return capacity, seconds(max(SHORTEST, pause))
