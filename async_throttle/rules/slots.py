"""Concurrency: so many at once, given back rather than regained with time."""

from __future__ import annotations

import math
import sys
from typing import Final, Self

from async_throttle._units import NEVER
from async_throttle.rules import Rule, read, written

__all__ = ["UNLIMITED", "Slots"]

UNLIMITED: Final = sys.maxsize
"""A *limit* that nobody reaches; finite, so that the holders are counted under it too."""


class Slots(Rule):
    """How many may hold a slot at once.

    The whole state is `free`, which is negative after the limit was cut below the number of
    holders: they finish, and nobody enters before it is positive again. A weight is a number
    of slots, and so is `burst`: what exceeds it is never granted. It is the limit, unless that
    changes by itself. A caller without a slot has no instant: `ready_at` is NEVER until one is
    freed.
    """

    __slots__ = ("burst", "free", "inherited", "limit")

    counts_callers = True

    capacity: float = math.inf  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    """Slots know no rate."""

    burst: int
    free: int
    limit: int
    inherited: int
    """Slots that were held when this process was forked off: so many releases come to nothing."""

    def __init__(self, limit: int) -> None:
        self.inherited = 0
        self.limit = self.burst = self.free = limit

    def resize(self, limit: int, burst: int | None = None) -> None:
        """Have *limit* slots from now on, of which one caller may have *burst*; unset, all."""
        self.free += limit - self.limit
        self.limit = limit
        burst = limit if burst is None else burst
        self.burst = burst  # pyright: ignore[reportIncompatibleMethodOverride]

    @property
    def used(self) -> int:
        """Slots held."""
        return self.limit - self.free

    @property
    def left(self) -> int:
        """Slots that nobody holds."""
        return self.free

    def ready_at(self, now: int, weight: int) -> int:
        return now if weight <= self.free else NEVER

    def take(self, now: int, weight: int) -> None:
        self.free -= weight

    def refund(self, now: int, receipt: None, weight: int) -> None:
        """Give *weight* slots back."""
        self.free += weight

    def level(self, now: int) -> float:
        """Slots left."""
        return math.inf if self.limit == UNLIMITED else self.left

    def fresh_at(self, now: int) -> int:
        return now if self.free == self.limit else NEVER

    def shift(self, by: int) -> None:
        """Slots know no time."""

    def fork(self) -> Self:
        twin = object.__new__(type(self))
        twin.limit, twin.burst, twin.free = self.limit, self.burst, self.free
        twin.inherited = self.inherited
        return twin

    def dump(self) -> bytes:
        return written("number of slots", self.limit, self.burst, self.free)

    @classmethod
    def load(cls, data: bytes) -> Self:
        rule = object.__new__(cls)
        rule.limit, rule.burst, rule.free = read("number of slots", data)
        rule.inherited = 0
        return rule
