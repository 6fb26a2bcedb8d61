"""Concurrency that keeps a short queue at the server, as the latencies show it.

The law and the reasons for it are in the theory of this package (__init__.py).
"""

from __future__ import annotations

import math
from typing import Final

from async_throttle._units import SECOND
from async_throttle.adaptive._concurrency import Concurrency
from async_throttle.adaptive._law import Judge, Outcome

__all__ = ["Gradient"]

FEWEST: Final = 10
"""Calls that a mean is taken of, at least; beyond, it is two for each slot.

So the error of a mean is a fraction of 1 / sqrt(L) whatever the limit L is, and what it makes
of the queue is off by less than the sqrt(L) that the queue is meant to be.
"""

OUTLIER: Final = 4
"""Times B that one call may count for: one that is stuck must not empty the queue for all."""

APART: Final = 10
"""Times as long as a drain takes the grid is wide, at least; 40 times at most."""


class Gradient(Concurrency):
    """Concurrency that keeps a short queue at the server, as the latencies show it.

    Finds how much the server can work on at once, and has about the square root of that in
    its queue, without a refusal and without being told a latency. Once a second at most, and for
    no more than a tenth of the time, it lowers the limit to learn what a call takes where nobody
    queues. A dropped call cuts it, once for all calls that were on their way.

    Those who share a server, and a clock, have equal shares. Where the clocks differ, because the
    clients are on several machines, each takes some of the others' queue for service: the queue
    is a little longer with two of them, and several times as long with five. Set *maximum*.

    Give it calls of one kind: if those of one minute take ten times as long as those of the next,
    that looks like a queue.

    Args:
        minimum: slots, at least 1. If that many make a queue, it is not seen.
        maximum: slots.
        decrease: what a cut leaves, between 0 and 1.
        judge: says how a call counts that ended with an error; None leaves the usual answer.

    Raises:
        ValueError: a parameter is out of range; names it and the value.

    >>> Gradient(minimum=2, maximum=100)
    <Gradient [limit:2, minimum:2, maximum:100, measuring]>
    """

    __module__ = "async_throttle"

    # _base         ns that a call takes where nobody queues; 0 if not known yet
    # _outlier      ns that a call counts for at most
    # _resume       limit that was in force before it was lowered to measure; 0 if it is not
    # _settled      limit up to which it was, or grew, since; it is at most halved until the next
    # _step         slots by which it grew last; doubles while there is no queue
    # _careful      measurements until that is allowed again: something was dropped
    # _due          when to measure next
    # _since        when the limit was set: calls that began earlier say nothing of it
    # _spans        ns that each call took since then
    # _reached      whether as many were in flight as may be
    __slots__ = (
        "_base",
        "_careful",
        "_due",
        "_outlier",
        "_reached",
        "_resume",
        "_settled",
        "_since",
        "_spans",
        "_step",
    )

    start = 4

    def __init__(
        self,
        *,
        minimum: int = 1,
        maximum: int = 1000,
        decrease: float = 0.9,
        judge: Judge | None = None,
    ) -> None:
        super().__init__(minimum, maximum, decrease, judge)
        self.begin(self.start, 0)

    def begin(self, limit: float, now: int) -> None:
        self._set(limit)
        self._cut = now - 1
        self._base = self._outlier = self._step = 0.0
        self._careful = 0
        self._settled = self._limit
        self._measure(now, 2)

    def sample(self, now: int, began: int, in_flight: int, weight: float, outcome: Outcome) -> None:
        if now < self._since:  # another clock
            self._cut = now - 1
            self._due = now
            self._hold(now)
        if outcome is Outcome.DROPPED and self._cut < began <= now:
            self._drop(now, in_flight)
        if not self._resume and now >= self._due:
            self._measure(now, self._limit - max(self._limit / 2, 2 * math.sqrt(self._limit)))
        elif outcome is Outcome.OK and self._since <= began <= now:
            self._spans.append(now - began)
            if in_flight > self._limit - 1:
                self._reached = True
            if len(self._spans) >= 2 * self._limit and len(self._spans) >= FEWEST:
                if self._resume:
                    self._measured(now)
                else:
                    self._steer(now)

    def _hold(self, now: int) -> None:
        """Look at the limit as it stands now."""
        self._since = now
        self._spans: list[int] = []
        self._reached = False

    def _measure(self, now: int, level: float) -> None:
        """Drain the queue, to see what a call takes without one."""
        self._resume = self._limit
        self._set(min(self._limit, level))
        self._hold(now)

    def _measured(self, now: int) -> None:
        if self._base:
            self._outlier = OUTLIER * self._base
        else:
            self._outlier = 2 * OUTLIER * sorted(self._spans)[len(self._spans) // 2]
        mean, error = self._mean()
        # One standard error more: a base too high costs some queue until the next time, one
        # too low makes a queue of everything, and the limit would not grow.
        self._base = mean + error
        self._careful = max(0, self._careful - 1)
        self._settled = self._resume
        self._set(self._resume)
        self._resume = 0.0
        grid = SECOND
        while grid < APART * (now - self._since):
            grid *= 4
        self._due = (now // grid + 1) * grid
        self._hold(now)

    def _steer(self, now: int) -> None:
        queue = max(0.0, self._limit * (1 - self._base / self._mean()[0]))
        room = math.sqrt(self._limit)
        if queue < room / 2:
            self._step = min(2 * max(self._step, room), self._limit)
        else:
            self._step = room
        limit = self._limit - queue + self._step
        if self._careful:  # what is refused beyond some length is a queue, too, but never seen
            limit = min(limit, self._limit + 1)
        if limit < self._limit or self._reached:
            # Slower service looks like a queue that will not go away until it is measured.
            self._set(max(limit, self._settled / 2))
            self._settled = max(self._settled, self._limit)
        self._hold(now)

    def _drop(self, now: int, in_flight: int) -> None:
        self._cut = now
        self._careful = 2
        if self._resume:  # what was measured so far still holds
            self._resume = max(self._limit, self._resume * self.decrease)
        else:
            self._set(self._used(in_flight) * self.decrease)
            self._settled = self._limit
            self._step = 0.0
            self._hold(now)

    def _mean(self) -> tuple[float, float]:
        """The mean of what the calls took, and its standard error."""
        spans = [min(span, self._outlier) for span in self._spans]
        mean = max(1.0, math.fsum(spans) / len(spans))
        variance = math.fsum((span - mean) ** 2 for span in spans) / (len(spans) - 1)
        return mean, math.sqrt(variance / len(spans))

    def _state(self) -> str:
        return "measuring" if self._resume else f"base:{self._base / SECOND:g} s"
