"""A rate that backs off from refusals, and comes back to where they came from."""

from __future__ import annotations

from typing import Final

from async_throttle._units import SECOND
from async_throttle.adaptive._law import Adaptive, Judge, Outcome, fraction, rate, span

__all__ = ["BackOff"]

USED: Final = 0.8
"""The part of a rate that must have been used for it to count as used."""

STRIDE: Final = 10
"""Steps in which `BackOff` recovers."""


class BackOff(Adaptive):
    """A rate that backs off from refusals, and comes back to where they came from.

    A refusal cuts the rate, once for all calls that were on their way. Then it comes back fast,
    slows down where it was refused, and goes on faster and faster if it is not refused again::

        rate  ceiling ┤──╮            ╭───────────╯
                      │  │      ╭─────╯
                      │  ╰──────╯
                      └──┴────────────┴────────────
                         0        recovery

        ceiling + (1 - decrease) * ceiling * (t / recovery - 1) ** 3

    The time t only passes while at least 80 % of the rate are used. Refusals in a row, before
    it has recovered at all, leave the ceiling where it was: after an outage the rate is back in
    *recovery* seconds.

    Args:
        minimum: tokens per second; unset, a hundredth of where it began.
        maximum: tokens per second; unset, where it began: the throttle's own rate.
        decrease: what a cut leaves, between 0 and 1.
        recovery: seconds of use until it is back, after at least ten calls.
        judge: says how a call counts that ended with an error; None leaves the usual answer.

    Raises:
        ValueError: a parameter is out of range; names it and the value.

    >>> rule = BackOff()
    >>> rule.begin(100.0, now=0)
    >>> rule.sample(2_000, began=1_000, in_flight=1, weight=1, outcome=Outcome.DROPPED)
    >>> rule.limit
    70.0
    """

    __module__ = "async_throttle"

    # _limit    tokens per second
    # _least, _most     its bounds
    # _ceiling  where it was refused
    # _low      what the cut left
    # _time     ns of use since the cut
    # _cut      calls that began up to here say nothing: the limit has been cut since
    # _since    when the stretch began over which use is measured
    # _sent     tokens that went through since then
    __slots__ = (
        "_ceiling",
        "_cut",
        "_least",
        "_limit",
        "_low",
        "_most",
        "_sent",
        "_since",
        "_time",
        "decrease",
        "maximum",
        "minimum",
        "recovery",
    )

    steers = "capacity"
    start = 1.0

    def __init__(
        self,
        *,
        minimum: float | None = None,
        maximum: float | None = None,
        decrease: float = 0.7,
        recovery: float = 30.0,
        judge: Judge | None = None,
    ) -> None:
        super().__init__(judge=judge)
        self.minimum = None if minimum is None else rate("minimum", minimum)
        self.maximum = None if maximum is None else rate("maximum", maximum)
        if minimum is not None and maximum is not None and maximum < minimum:
            raise ValueError(f"maximum must be at least {minimum!r}, minimum, got {maximum!r}")
        self.decrease = fraction("decrease", decrease)
        self.recovery = span("recovery", recovery, STRIDE)
        self.begin(self.start, 0)

    @property
    def limit(self) -> float:
        """Tokens per second."""
        return self._limit

    def begin(self, limit: float, now: int) -> None:
        limit = rate("limit", limit)
        self._most = max(limit, self.minimum or 0) if self.maximum is None else self.maximum
        self._least = min(limit, self._most) / 100 if self.minimum is None else self.minimum
        self._set(limit)
        self._cut = now - 1
        # As if it had recovered: nothing is known of where it will be refused.
        self._ceiling = self._low = self._limit
        self._time = self.recovery
        self._look(now)

    def sample(self, now: int, began: int, in_flight: int, weight: float, outcome: Outcome) -> None:
        if now < self._since:  # another clock
            self._cut = now - 1
            self._look(now)
        if outcome is Outcome.IGNORED or not self._cut < began <= now:
            return
        if outcome is Outcome.DROPPED:
            if self._time:
                self._ceiling = self._limit
            self._set(self._limit * self.decrease)
            self._low = self._limit
            self._time = 0
            self._cut = now
            self._look(now)
            return
        self._sent += weight
        stride = self.recovery // STRIDE
        span = now - self._since
        if span >= stride:
            if self._sent >= USED * self._limit * span / SECOND:
                self._time += min(span, stride)
                self._set(self._curve(self._time / self.recovery - 1))
            self._look(now)

    def _look(self, now: int) -> None:
        """Measure the use from here on."""
        self._since = now
        self._sent = 0.0

    def _curve(self, x: float) -> float:
        """The rate at *x*: -1 just after a cut, 0 at the ceiling."""
        bend = self._ceiling - self._low if x < 0 else self._ceiling * (1 - self.decrease)
        return self._ceiling + bend * x**3

    def _set(self, limit: float) -> None:
        self._limit = min(max(limit, self._least), self._most)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} [limit:{self._limit:g}, minimum:{self._least:g}, "
            f"maximum:{self._most:g}, ceiling:{self._ceiling:g}]>"
        )
