"""What the laws that set a concurrency have in common."""

from __future__ import annotations

from async_throttle._units import whole
from async_throttle.adaptive._law import Adaptive, Judge, fraction

__all__ = ["Concurrency"]


class Concurrency(Adaptive):
    """A limit in slots: its bounds, and the cut."""

    # _limit    slots, with fractions
    # _cut      calls that began up to here say nothing: the limit has been cut since
    __slots__ = ("_cut", "_limit", "decrease", "maximum", "minimum")

    _limit: float

    steers = "concurrency"

    def __init__(
        self, minimum: int, maximum: int, decrease: float, judge: Judge | None = None
    ) -> None:
        super().__init__(judge=judge)
        self.minimum = whole("minimum", minimum)
        self.maximum = whole("maximum", maximum)
        if self.minimum < 1:
            raise ValueError(f"minimum must be at least 1, got {minimum!r}")
        if self.maximum < self.minimum:
            raise ValueError(f"maximum must be at least {minimum!r}, minimum, got {maximum!r}")
        self.decrease = fraction("decrease", decrease)

    @property
    def limit(self) -> int:
        """Slots."""
        return int(self._limit)

    def _set(self, limit: float) -> None:
        self._limit = min(max(limit, self.minimum), self.maximum)

    def _used(self, in_flight: int) -> float:
        """What there is to cut, after a call was dropped that was one of *in_flight*."""
        return min(self._limit, max(in_flight, self._limit / 2))

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} [limit:{self.limit}, minimum:{self.minimum}, "
            f"maximum:{self.maximum}, {self._state()}]>"
        )

    def _state(self) -> str:
        raise NotImplementedError
