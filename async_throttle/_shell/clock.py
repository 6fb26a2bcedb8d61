"""The reader of the clock. (The flattened entries of `fast` read it as well.)"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from time import monotonic_ns
from types import BuiltinFunctionType

from async_throttle._units import SECOND

__all__ = ["Clock", "monotonic", "wall"]


def monotonic() -> int:
    """The reading of the monotonic clock; in virtual time, of that."""
    return monotonic_ns()


def wall() -> int:
    """Nanoseconds since 1970; in virtual time, which starts there, those of that."""
    read = time.time_ns
    if isinstance(read, BuiltinFunctionType) and not isinstance(monotonic_ns, BuiltinFunctionType):
        return monotonic_ns()
    return read()


class Clock:
    """Instants that never go back, in nanoseconds, made of the readings of a clock.

    Attributes:
        timer: the clock in seconds that the user gave; None is the monotonic clock.
        shift: instants are readings plus this.
        seen: the latest instant seen.
        span: the longest period or time to fill of the limits that go by this clock. A step back
            of more than that is not a clock that was set, but a different clock.
    """

    __slots__ = ("_function", "seen", "shift", "span", "timer")

    def __init__(self, timer: Callable[[], float] | None) -> None:
        self.timer = timer
        self._function: object = timer or monotonic_ns  # that was read last
        self.shift = 0
        self.span = 0
        self.seen = self.read()

    def read(self) -> int:
        """The reading of the clock."""
        return monotonic_ns() if self.timer is None else round(self.timer() * SECOND)

    def tick(self) -> int:
        """The present instant, never before an instant already seen; it is the latest now.

        Where the clock shows less than before, time stands still until the clock has caught up.
        But a different clock, as when freezegun is entered or left, is believed from here on.
        """
        function = self.timer or monotonic_ns
        now = (monotonic_ns() if self.timer is None else self.read()) + self.shift
        if now < self.seen:
            back = self.seen - now
            if self._function is function and back <= self.span:
                return self.seen
            self.shift += back
            now = self.seen
        self._function = function
        self.seen = now
        return now

    def resolution(self) -> int:
        """Nanoseconds between two readings of the clock, as far as that is known.

        The fraction of a second that a clock of the user's can tell depends on how large it is.
        """
        least = time.get_clock_info("monotonic").resolution
        if self.timer is not None:
            least = max(least, math.ulp(self.read() / SECOND))
        return max(1, math.ceil(least * SECOND))

    def present(self) -> int:
        """The present instant, without letting time pass."""
        return max(self.seen, self.read() + self.shift)

    def ahead(self) -> int:
        """By how much the wall clock is ahead of instants: the one place where it is read.

        A timer of the user's is taken as Unix time. So is a monotonic clock that was replaced
        where the wall clock was not: virtual time.
        """
        reading = self.read()
        wall = reading
        if self.timer is None:
            read = time.time_ns
            if not (self.local and isinstance(read, BuiltinFunctionType)):
                wall = read()
        return wall - reading - self.shift

    @property
    def local(self) -> bool:
        """Whether threads are shown different clocks: in virtual time they are."""
        return self.timer is None and not isinstance(monotonic_ns, BuiltinFunctionType)

    @property
    def watched(self) -> bool:
        """Whether the clock may jump, or change its speed, while an event loop or a thread sleeps.

        A loop sleeps by a clock of its own, which is trusted to go as the monotonic clock does. A
        timer of the user's and a monotonic clock that was replaced are looked at every 0.1 s.
        """
        replaced = not isinstance(time.monotonic_ns, BuiltinFunctionType)
        return self.timer is not None or replaced
