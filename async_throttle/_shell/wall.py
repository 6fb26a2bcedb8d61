"""Wall time, for the rules whose windows lie on the wall clock."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from async_throttle._shell.scheduler import find

if TYPE_CHECKING:
    from async_throttle._shell.core import Core

__all__ = ["Wall"]


class Wall:
    """Tells the rule of a core by how much the wall clock is ahead of an instant.

    The core is referred to weakly, for its rule refers to this. What was read for an instant is
    kept until another instant is asked about: a rule that says that a call may go, and is told at
    the same instant that the call goes, must not find another wall time then.
    """

    __slots__ = ("_ahead", "_core", "_now")

    def __init__(self, core: Core) -> None:
        self._core = weakref.ref(core)
        self._now: int | None = None
        self._ahead = 0

    def __call__(self, now: int) -> int | None:
        """Nanoseconds; None of an instant that is yet to come, as a forecast asks about."""
        if now == self._now:
            return self._ahead
        core = self._core()
        if core is None:
            return None
        clock = find(core).clock
        if now > clock.present():
            return None
        self._ahead = clock.ahead()
        self._now = now
        return self._ahead
