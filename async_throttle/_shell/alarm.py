"""A timer of an event loop that never spins and never rings for good too early.

A callback that is a Python function may be interrupted (by KeyboardInterrupt) before its first
statement: what it was to do would be lost, and whoever waits for it would wait for ever. CPython
does not look for signals where a coroutine goes on after an await. So what the loop calls here is
`send` of a coroutine that is under way, a function written in C, and all is in a try from there on.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, cast

from async_throttle._units import NEVER, SECOND

__all__ = ["GRACE", "LOOK", "Alarm", "surely"]

_RESOLUTION: Final = time.get_clock_info("monotonic").resolution

GRACE: Final = max(5_000_000, round(_RESOLUTION * SECOND))
"""Nanoseconds of lateness that are paid back. Timers wake up to about 1 ms late (epoll and
uvloop count in milliseconds), on Windows up to 16 ms; more than this is a blocked loop."""

LOOK: Final = 0.1
"""Seconds after which a clock is looked at again that may not go as the one that is slept by."""


class Alarm:
    """A timer of an event loop.

    Invariant: at most one handle is armed, for the instant asked for last.
    """

    # An alarm keeps its callback only while it is armed: so its owner is no reference cycle.
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
        ring: Callable[[], object],
        *,
        watched: bool,
    ) -> None:
        """Call *ring* at *instant*, when it is *now*; with *watched* look every `LOOK` seconds."""
        if instant != self._instant:
            self._early = 0
        handle = self._handle
        self._handle = None
        self._instant = instant
        self.armed = None  # until it is: what is interrupted meanwhile is set again
        if handle is not None:
            handle.cancel()
        if instant >= NEVER:
            self.armed = NEVER
            return
        reads = loop.time()
        delay = (instant - now) / SECOND
        # A timer that is due at the very instant of a frozen clock near today's date never
        # fires: asyncio adds a resolution that is lost in rounding. So ask a little early and
        # look again, then ask for the exact instant; if that is early too (uvloop rounds to
        # milliseconds, Windows to 16 of them) ask for a little late. The alarm never spins. (On
        # Pyodide's loop a delay of 0 takes 2 ms: there the callbacks take turns.)
        if self._early == 0:
            delay -= 1e-6
        elif self._early == 1:
            delay -= 2 * math.ulp(reads) if reads + _RESOLUTION == reads else 0.0
        else:
            delay += max(1e-3, _RESOLUTION)
        if watched and delay > LOOK:
            delay = LOOK
            self._early -= 1
        # As a delay: some loops (Pyodide's) refuse an instant that has passed meanwhile.
        self._handle = loop.call_later(max(0.0, delay), self._bell(loop, ring), None)
        self.armed = instant

    def retry(
        self, loop: asyncio.AbstractEventLoop, ring: Callable[[], object], after: float = LOOK
    ) -> None:
        """Call *ring* *after* some seconds, whatever it was set to: the last ring has failed."""
        self.cancel()
        self.armed = None
        self._handle = loop.call_later(after, self._bell(loop, ring), None)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._instant = self.armed = NEVER

    def _bell(
        self, loop: asyncio.AbstractEventLoop, ring: Callable[[], object]
    ) -> Callable[[None], object]:
        """What the loop is to call, with None."""
        ringing = self._ringing(loop, ring)
        ringing.send(None)
        return ringing.send

    async def _ringing(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], object]) -> None:
        await _PAUSE
        self._handle = None
        self.armed = None
        self._early += 1
        try:
            ring()
        except BaseException:  # interrupted
            if self.armed is None:
                self.retry(loop, ring, 0.0)
            raise
        await _PAUSE


def surely(function: Callable[..., object], *args: Any) -> Callable[[None], object]:
    """A callback, to be called once with None, that calls *function* even if it is interrupted.

    If an exception ends *function* it is called a second time; twice must do no harm.
    """

    async def calling() -> None:
        await _PAUSE
        try:
            function(*args)
        except BaseException:
            function(*args)
            raise
        await _PAUSE

    called = calling()
    called.send(None)
    return called.send


class _Pause:
    """To await it suspends a coroutine once, and enters no Python function."""

    __await__ = staticmethod(partial(iter, (None,)))


_PAUSE: Final = cast("Awaitable[None]", _Pause())
