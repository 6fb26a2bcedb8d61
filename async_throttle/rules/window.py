"""Windows: so much per stretch of time, counted rather than refilled.

Both count what goes at the real instant of the grant, and both are half-open: what went at
t counts until just before t + period.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, Final, Self

from async_throttle._units import TOKEN
from async_throttle.rules import Rule

__all__ = ["FixedWindow", "SlidingWindow"]

EXACT: Final = 1_000
"""Entries that a sliding window keeps exact; beyond, each gathers what goes in period / EXACT."""


class _Window(Rule):
    """What both windows share: no burst of their own, *inside* nanotokens counted."""

    __slots__ = ("inside",)

    def __init__(
        self,
        now: int,
        capacity: int | float,
        period: int,
        burst: int | float | None = None,
    ) -> None:
        self.inside = 0
        super().__init__(now, capacity, period, burst)

    def configure(
        self, now: int, capacity: int | float, period: int, burst: int | float | None
    ) -> None:
        if burst is not None:
            raise ValueError(
                f"burst does not go with {type(self).__name__}, whose capacity is its burst, "
                f"got {burst / TOKEN:g}"
            )
        self._forget(now)
        super().configure(now, capacity, period, None)
        self._forget(now)

    def level(self, now: int) -> float:
        self._forget(now)
        if isinstance(self.capacity, float):
            return math.inf
        return (self.capacity - self.inside) / TOKEN

    def _forget(self, now: int) -> None:
        """Drop what is no longer inside at *now*."""
        raise NotImplementedError


class _Entry:
    """What counts as gone at one instant, which is not before any at which some of it went.

    Invariant: the instant never moves, so that taking makes nothing wait but what was taken.
    """

    __slots__ = ("counts_at", "weight")

    def __init__(self, counts_at: int, weight: int) -> None:
        self.counts_at = counts_at
        self.weight = weight


class SlidingWindow(_Window):
    """Never more than *capacity* in any window of *period*: the strict choice.

    Exact with up to 1,000 grants inside. Beyond that, grants within a thousandth of a period
    are kept as one that counts from the end of it: memory stays bounded whatever the
    capacity, nobody is admitted early, and at most a thousandth of the rate is lost.
    """

    __slots__ = ("_entries",)

    def __init__(
        self,
        now: int,
        capacity: int | float,
        period: int,
        burst: int | float | None = None,
    ) -> None:
        self._entries: deque[_Entry] = deque()
        super().__init__(now, capacity, period, burst)

    def ready_at(self, now: int, weight: int) -> int:
        # Forgets nothing: *now* may be the end of a pause, or an instant of another rule.
        excess = self.inside + weight - self.capacity
        if excess <= 0:
            return now
        for entry in self._entries:
            excess -= entry.weight
            if excess <= 0:
                return max(now, entry.counts_at + self.period)
        raise AssertionError("a weight above the burst reached the rule")

    def take(self, now: int, weight: int) -> _Entry | None:
        if isinstance(self.capacity, float):
            return None
        self._forget(now)
        self.inside += weight
        entries = self._entries
        if entries and now <= entries[-1].counts_at:
            entry = entries[-1]
            entry.weight += weight
            return entry
        entry = _Entry(now + self._grain(), weight)
        entries.append(entry)
        return entry

    def _grain(self) -> int:
        """Nanoseconds by which what goes now may count as gone later."""
        return self.period // EXACT if len(self._entries) >= EXACT else 0

    def refund(self, now: int, receipt: _Entry | None, weight: int) -> None:
        self._forget(now)
        if receipt is not None:
            weight = min(weight, receipt.weight)
            receipt.weight -= weight
            self.inside -= weight

    def empty(self, now: int) -> None:
        self._forget(now)
        if isinstance(self.capacity, int):
            weight = max(self.inside, self.capacity)
            for entry in self._entries:
                entry.weight = 0  # no longer inside: nothing to refund
            self._entries.clear()
            self.inside = 0
            self.take(now, weight)

    def guarantee(self, window: int) -> int | float:
        return self.capacity * -(-window // self.period)

    def fresh_at(self, now: int) -> int:
        if not self.inside or isinstance(self.capacity, float):
            return now
        return max(now, self._entries[-1].counts_at + self.period)

    def forgets_at(self, now: int, weight: int) -> int:
        return now + self.period + self._grain()

    def shift(self, by: int) -> None:
        for entry in self._entries:
            entry.counts_at += by

    def fork(self) -> Self:
        twin = object.__new__(type(self))
        twin.capacity, twin.period, twin.burst = self.capacity, self.period, self.burst
        twin.inside = self.inside
        twin._entries = deque(_Entry(entry.counts_at, entry.weight) for entry in self._entries)
        return twin

    def _forget(self, now: int) -> None:
        entries = self._entries
        while entries and entries[0].counts_at + self.period <= now:
            entry = entries.popleft()
            self.inside -= entry.weight
            entry.weight = 0  # no longer inside: nothing to refund


class FixedWindow(_Window):
    """Never more than *capacity* in each [k * period, (k + 1) * period) since the birth.

    Twice that may go across an edge. For servers that count by the clock; the edges here are
    those of this limiter's birth, not the server's.
    """

    __slots__ = ("_birth", "_ticket", "_until")

    def __init__(
        self,
        now: int,
        capacity: int | float,
        period: int,
        burst: int | float | None = None,
    ) -> None:
        self._birth = now
        self._until = now + period
        self._ticket: Any = object()  # identifies the window in which something was taken
        super().__init__(now, capacity, period, burst)

    def configure(
        self, now: int, capacity: int | float, period: int, burst: int | float | None
    ) -> None:
        super().configure(now, capacity, period, burst)
        self._until = now - (now - self._birth) % period + period

    def ready_at(self, now: int, weight: int) -> int:
        if now >= self._until or self.inside + weight <= self.capacity:
            return now
        return self._until

    def take(self, now: int, weight: int) -> object:
        self._forget(now)
        if isinstance(self.capacity, float):
            return None
        self.inside += weight
        return self._ticket

    def refund(self, now: int, receipt: object, weight: int) -> None:
        self._forget(now)
        if receipt is self._ticket:
            self.inside -= weight

    def empty(self, now: int) -> None:
        self._forget(now)
        if isinstance(self.capacity, int):
            self.inside = max(self.inside, self.capacity)
            self._ticket = object()  # what was taken before counts as used: nothing to refund

    def guarantee(self, window: int) -> int | float:
        return self.capacity * (-(-window // self.period) + 1)

    def fresh_at(self, now: int) -> int:
        if not self.inside or isinstance(self.capacity, float):
            return now
        return max(now, self._until)

    def forgets_at(self, now: int, weight: int) -> int:
        return now - (now - self._birth) % self.period + self.period

    def shift(self, by: int) -> None:
        self._birth += by
        self._until += by

    def fork(self) -> Self:
        twin = object.__new__(type(self))
        for name in (
            "capacity",
            "period",
            "burst",
            "inside",
            "_birth",
            "_until",
            "_ticket",
        ):
            setattr(twin, name, getattr(self, name))
        return twin

    def _forget(self, now: int) -> None:
        if now >= self._until:
            self.inside = 0
            self._ticket = object()
            self._until = now - (now - self._birth) % self.period + self.period
