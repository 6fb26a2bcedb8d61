"""What `statistics()` of throttles, sets and pools gives: a snapshot, for metrics and logs.

Levels are read when asked. The counters are kept where calls wait anyway: a call that is granted
at once costs nothing more, and is counted nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from async_throttle._shell.refusals import in_flight, lingering
from async_throttle._shell.tally import Tally
from async_throttle._units import SECOND, TOKEN, seconds

if TYPE_CHECKING:
    from async_throttle._shell.core import Core

__all__ = ["Refused", "Statistics", "read"]


@dataclass(frozen=True, slots=True)
class Refused:
    """Calls that were refused, by kind.

    Attributes:
        timeout: with `ThrottleTimeout`: its turn comes, or came, too late.
        full: with `ThrottleFull`: *max_waiting* callers wait already.
        closed: with `ThrottleClosed`: the throttle was closed.
        weight: with `WeightTooLarge`: more than there can be at once.
    """

    timeout: int = 0
    full: int = 0
    closed: int = 0
    weight: int = 0

    __module__ = "async_throttle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """How a throttle stands, and what has become of calls that were not granted at once.

    >>> import asyncio
    >>> from async_throttle import Throttle, testing
    >>> async def main():
    ...     throttle = Throttle(1, 5, period=10, burst=2)
    ...     await asyncio.gather(*(throttle.acquire() for _ in range(4)))
    ...     try:
    ...         await throttle.acquire(timeout=1)
    ...     except TimeoutError:
    ...         return throttle.statistics()
    >>> testing.run(main())  # doctest: +NORMALIZE_WHITESPACE
    Statistics(level=0.0, capacity=1.0, active=4, waiting=0, paused=0.0, queued_granted=2,
        refused=Refused(timeout=1, full=0, closed=0, weight=0), waited=30.0, longest=20.0,
        ignored=0, in_flight=0.0, lingering=0)

    Attributes:
        level: tokens left; negative in debt, infinite without a rate.
        capacity: tokens per period.
        active: slots held.
        waiting: callers that are queued, alone or for other limits as well.
        paused: seconds until the pause ends; 0.0 if there is none.
        queued_granted: calls that were granted after they had waited. A call of a set counts at
            each limit that held it up.
        refused: calls that were refused, by kind; those of a set at the limit that the error names.
            `try_acquire` that is False is no refusal.
        waited: seconds that the calls of *queued_granted* waited, together; in a set, those in
            which this limit was what they waited for.
        longest: the largest of these waits, in seconds.
        ignored: counts of the server that `Throttle.sync` was told, and that were void.
        in_flight: tokens of calls that have not ended, where calls count to the end.
        lingering: of these calls, those whose bodies were cut short, and that may still be on their
            way.
    """

    level: float
    capacity: float
    active: int
    waiting: int
    paused: float
    queued_granted: int
    refused: Refused
    waited: float
    longest: float
    ignored: int = 0
    in_flight: float = 0.0
    lingering: int = 0

    __module__ = "async_throttle"


def read(core: Core, now: int) -> Statistics:
    """The throttle of *core* at *now*, inside the door; while it is at work, the last event."""
    tally = core.tally or Tally()
    return Statistics(
        level=core.level(now),
        capacity=core.rule.capacity / TOKEN,
        active=core.active(),
        waiting=core.waiting(),
        paused=seconds(core.pause.left(now)),
        queued_granted=tally.granted,
        refused=Refused(tally.timeout, tally.full, tally.closed, tally.weight),
        waited=tally.waited / SECOND,
        longest=tally.longest / SECOND,
        ignored=tally.ignored,
        in_flight=in_flight(core, now),
        lingering=lingering(core, now),
    )
