"""Additive increase, multiplicative decrease: concurrency that grows until calls are dropped."""

from __future__ import annotations

from async_throttle._units import NEVER
from async_throttle.adaptive._concurrency import Concurrency
from async_throttle.adaptive._law import Judge, Outcome, span

__all__ = ["AIMD"]


class AIMD(Concurrency):
    """Concurrency that grows until calls are dropped: additive increase, multiplicative decrease.

    It doubles with each round trip until something is dropped for the first time, and grows by
    1 with each round trip from there on. What is dropped cuts it, once for all that were on
    their way. So it fills the server and its queue, and shows a refusal now and then: take
    `Gradient` for short queues, or where a refusal is dear. Also what is dropped by chance cuts
    it: if that is one call in N, the limit stays at about ``sqrt(10 * N)``.

    Args:
        minimum: slots, at least 1.
        maximum: slots.
        decrease: what a cut leaves, between 0 and 1.
        timeout: seconds; a call that took longer counts as dropped, however it ended: so does
            one that a timeout around the throttle has cancelled.
        judge: says how a call counts that ended with an error; None leaves the usual answer.

    Raises:
        ValueError: a parameter is out of range; names it and the value.

    >>> rule = AIMD()
    >>> rule.begin(4, now=0)
    >>> for n in (1, 2, 3, 4):
    ...     rule.sample(1_000, began=0, in_flight=n, weight=1, outcome=Outcome.OK)
    >>> rule.limit
    7
    >>> rule.sample(2_000, began=1_000, in_flight=7, weight=1, outcome=Outcome.DROPPED)
    >>> rule.limit
    6
    """

    __module__ = "async_throttle"

    # _doubling     nothing was dropped yet
    # _in_a_row     calls that were dropped since one was served
    __slots__ = ("_doubling", "_in_a_row", "timeout")

    start = 10

    def __init__(
        self,
        *,
        minimum: int = 1,
        maximum: int = 1000,
        decrease: float = 0.9,
        timeout: float | None = None,
        judge: Judge | None = None,
    ) -> None:
        super().__init__(minimum, maximum, decrease, judge)
        self.timeout = NEVER if timeout is None else span("timeout", timeout)
        self.begin(self.start, 0)

    def begin(self, limit: float, now: int) -> None:
        self._set(limit)
        self._cut = now - 1
        self._in_a_row = 0
        self._doubling = True

    def sample(self, now: int, began: int, in_flight: int, weight: float, outcome: Outcome) -> None:
        if now < self._cut:  # another clock
            self._cut = now - 1
        dropped = outcome is Outcome.DROPPED or now - began > self.timeout
        if began > now or (outcome is Outcome.IGNORED and not dropped):
            return
        self._in_a_row = self._in_a_row + 1 if dropped else 0
        if began <= self._cut:
            return
        if dropped:
            # A whole round of them and nothing served: not a little too much, but far too much.
            decrease = self.decrease if self._in_a_row < self.limit else self.decrease / 2
            self._set(self._used(in_flight) * decrease)
            self._cut = now
            self._doubling = False
        elif self._doubling:
            # The limit may have doubled since this one was let through.
            if 2 * in_flight >= self.limit:
                self._set(self._limit + 1)
        elif in_flight + 1 >= self.limit:  # and here, have grown by 1
            self._set(self._limit + 1 / self._limit)

    def _state(self) -> str:
        return "doubling" if self._doubling else "growing"
