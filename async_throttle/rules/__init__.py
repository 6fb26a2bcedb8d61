"""What a limit says: instants come in, instants go out. The protocol, on one screen.

A rule is arithmetic. It knows no clock, no event loop and no thread, and it never waits;
the queue tells it the time, and only ever forwards. Everything is an integer: instants and
spans are nanoseconds, amounts are nanotokens (a token has 10**9 of them).

=================  ==================================================================
TokenBucket        a burst at once, then a steady rate
GCRA               the same rule under its other name
LeakyBucket        a token bucket whose burst is 1 unless told otherwise: evenly spaced
SlidingWindow      never more than *capacity* in any window of *period*
FixedWindow        never more than *capacity* between two ticks of a clock
Slots              so many at once
=================  ==================================================================

adaptive.py is of another kind: limits that are set by how calls end.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

from async_throttle._units import NEVER

__all__ = ["Rule"]


class Rule(ABC):
    """One limit: its parameters, its state, and what follows from them.

    To bring a rule of your own, subclass this and write the three abstract methods (and
    `configure`, if you keep anything that depends on the parameters), then pass the class
    as ``Throttle(..., algorithm=YourRule)``. `shift` lets it share a clock with others,
    `fresh_at` lets it be forgotten when it is as good as new.

    The queue promises: *now* never goes back; `take` is called only for weights up to
    `burst` at an instant that `ready_at` named, or for a debt. The rule promises: once
    `ready_at` says that a weight may go, it may go until something is taken.
    """

    __slots__ = ("burst", "capacity", "period")

    backdates: ClassVar[bool] = False
    """A grant that is made late counts from the instant at which it was due."""

    divisible: ClassVar[bool] = False
    """Waiting for a + b is waiting for a and then for b, so a queue can be summed up."""

    capacity: int | float
    """Nanotokens per period; math.inf is no limit."""

    period: int
    """Nanoseconds."""

    burst: int | float
    """Most nanotokens that may ever go at once."""

    def __init__(
        self,
        now: int,
        capacity: int | float,
        period: int,
        burst: int | float | None = None,
    ) -> None:
        self.configure(now, capacity, period, burst)

    def configure(
        self, now: int, capacity: int | float, period: int, burst: int | float | None
    ) -> None:
        """Take new parameters at *now* and keep the level, cut to the new burst."""
        self.capacity = capacity
        self.period = period
        self.burst = capacity if burst is None else burst

    @abstractmethod
    def ready_at(self, now: int, weight: int) -> int:
        """The first instant, not before *now*, at which *weight* may go if nobody else comes."""

    @abstractmethod
    def take(self, now: int, weight: int) -> Any:
        """Take *weight*, into debt if need be; a receipt for `refund`."""

    def charge(self, now: int, weight: int) -> None:
        """Take *weight* for good: there is no receipt, and nothing of it is given back."""
        self.take(now, weight)

    @abstractmethod
    def level(self, now: int) -> float:
        """Tokens (not nanotokens) left; negative in debt, math.inf without a limit."""

    def refund(self, now: int, receipt: Any, weight: int) -> None:  # noqa: B027
        """Give back *weight* of what *receipt* took: the state is as if it had taken less.

        A rule for which that has no meaning keeps what was taken.
        """

    def empty(self, now: int) -> None:
        """Leave nothing at *now*; a debt stays."""
        rest = self.level(now)
        if 0 < rest < math.inf:
            self.take(now, round(rest * 10**9))

    def guarantee(self, window: int) -> int | float:
        """The most nanotokens that can go within any half-open window of *window* ns."""
        return math.inf

    def fresh_at(self, now: int) -> int:
        """The first instant, not before *now*, from which on it is as if nothing was ever taken.

        If nobody else comes. NEVER, if that is not known: what is not sure to be as good as
        new is kept. Like `ready_at` it may be asked about later instants and changes nothing.
        """
        return NEVER

    def forgets_at(self, now: int, weight: int) -> int:
        """The first instant at which it makes no difference that *weight* was taken at *now*.

        If nothing else was: who wants to know with more, asks about the sum. Until then those
        who came before a caller have to be looked after; NEVER, if it is not known.
        """
        if self.divisible:
            return self.ready_at(now, int(self.burst) + weight)  # full again
        return NEVER

    def shift(self, by: int) -> None:
        """Move in time by *by* nanoseconds, back if negative: the clock was joined to another.

        Asked about now + *by* it says from here on what it would have said about now, moved
        alike. Receipts stay good.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not say how it moves to another clock: define shift()"
        )

    def fork(self) -> Self:
        """An independent copy, to look ahead with; receipts need not work on it."""
        return copy.deepcopy(self)
