"""A timer of an event loop that never spins and never rings for good too early."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final

from async_throttle._units import NEVER, SECOND

__all__ = ["GRACE", "Alarm"]

_RESOLUTION: Final = time.get_clock_info("monotonic").resolution

GRACE: Final = max(5_000_000, round(_RESOLUTION * SECOND))
"""Nanoseconds of lateness that are paid back. Timers wake up to about 1 ms late (epoll and
uvloop count in milliseconds), on Windows up to 16 ms; more than this is a blocked loop."""


class Alarm:
    """One timer of one event loop.

    Invariant: at most one handle is armed, for the instant asked for last.
    """

    # It keeps what it rings only while it is armed: whoever owns it is no reference cycle.
    __slots__ = ("_early", "_handle", "_instant", "armed")

    def __init__(self) -> None:
        self._handle: asyncio.TimerHandle | None = None
        self._instant = NEVER
        self._early = 0  # how often it rang too early for this instant
        self.armed: int | None = NEVER  # the instant; NEVER is no timer; None once it rang

    def set(
        self,
        loop: asyncio.AbstractEventLoop,
        instant: int,
        now: int,
        reading: int,
        ring: Callable[[], object],
    ) -> None:
        """Call *ring* at *instant*, when it is *now* and the clock shows *reading*."""
        if instant != self._instant:
            self._early = 0
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._instant = self.armed = instant
        if instant >= NEVER:
            return
        reads = loop.time()
        delay = (instant - now) / SECOND
        # A timer that is due at the very instant of a frozen clock near today's date never
        # fires: asyncio adds a resolution that is lost in rounding. So ask a little early and
        # look again, then ask for the exact instant; if that is early too (uvloop rounds to
        # milliseconds, Windows to 16 of them) ask for a little late. It never spins, but on
        # Pyodide's loop, which takes 2 ms for nothing at all: there it looks in turn with others.
        if self._early == 0:
            delay -= 1e-6
        elif self._early == 1:
            delay -= 2 * math.ulp(reads) if reads + _RESOLUTION == reads else 0.0
        else:
            delay += max(1e-3, _RESOLUTION)
        # A clock that is not the loop's (frozen, or a timer of the user's) may jump while the
        # loop sleeps: look now and then.
        if delay > 0.1 and abs(reading / SECOND - reads) > 1:
            delay = 0.1
            self._early -= 1
        # As a delay: some loops (Pyodide's) refuse an instant that has passed meanwhile.
        self._handle = loop.call_later(max(0.0, delay), self._rang, ring)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._instant = self.armed = NEVER

    def _rang(self, ring: Callable[[], object]) -> None:
        self._handle = None
        self.armed = None
        self._early += 1
        ring()
