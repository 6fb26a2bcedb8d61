"""Limiters of every kind behind one face, for what is promised of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from async_throttle import LimitPool, LimitSet, Throttle, threads

ROOMY = 1e6
"""Capacity of the limits that a set has beside the one in question: they are never missing."""


@dataclass(frozen=True)
class Limiter:
    """What is asked, and the one throttle of it that is in question.

    Attributes:
        asked: a throttle, a set or a pool.
        throttle: the throttle itself, or the limit *x* of the set.
        others: the other limits of the set, as created.
    """

    asked: Any
    throttle: Any
    others: tuple[Any, ...] = ()

    def call(self, weight: float = 1, **options: Any) -> Any:
        """A call that weighs *weight*: to be entered with ``async with``."""
        if self.asked is self.throttle:
            return self.asked(weight, **options)
        return self.asked(x=weight, **options)

    async def lease(self, weight: float = 1, **options: Any) -> Any:
        """What a granted call holds."""
        return await self.call(weight, **options).__aenter__()

    def try_acquire(self, weight: float = 1, **options: Any) -> bool:
        """Whether *weight* was taken at once."""
        if self.asked is self.throttle:
            return bool(self.asked.try_acquire(weight, **options))
        return bool(self.asked.try_acquire(x=weight, **options).successful)

    def delay(self, weight: float = 1, **options: Any) -> float:
        """Seconds until *weight* could go."""
        if self.asked is self.throttle:
            return float(self.asked.delay(weight, **options))
        return float(self.asked.delay(x=weight, **options))

    def settle(self, lease: Any, actual: float) -> None:
        """Settle what a call holds for *actual*."""
        lease.settle(actual) if self.asked is self.throttle else lease.settle(x=actual)

    def locked(self) -> bool:
        """Whether a plain call would wait."""
        if isinstance(self.asked, LimitPool):
            return all(bool(limit_set.locked()) for limit_set in self.asked)
        return bool(self.asked.locked())


@dataclass(frozen=True)
class Kind:
    """A way to put a throttle to use."""

    name: str
    of_throttle: Callable[..., Any] = field(repr=False)
    place: int | None = None
    pooled: bool = False

    def __str__(self) -> str:
        return self.name

    def make(self, *args: Any, **options: Any) -> Limiter:
        """A limiter whose throttle in question is made of these arguments."""
        if self.place is None:
            throttle = self.of_throttle(*args, **options)
            return Limiter(throttle, throttle)
        timer = options.get("timer")
        members: dict[str, Any] = {}
        for n in range(3):
            if n == self.place:
                members["x"] = self.of_throttle(*args, **options)
            else:
                members[f"other{n}"] = self.of_throttle(ROOMY, timer=timer)
        asked: Any = LimitSet(**members)
        throttle = members.pop("x")
        if self.pooled:
            asked = LimitPool([asked])
        return Limiter(asked, throttle, tuple(members.values()))


KINDS = (
    Kind("throttle", Throttle),
    Kind("threads", threads.Throttle),
    Kind("set, first", Throttle, 0),
    Kind("set, middle", Throttle, 1),
    Kind("set, last", Throttle, 2),
    Kind("set of threads", threads.Throttle, 1),
    Kind("pool", Throttle, 1, pooled=True),
    Kind("pool of threads", threads.Throttle, 1, pooled=True),
)

OF_THREADS = [kind for kind in KINDS if kind.of_throttle is threads.Throttle]

every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
threaded = pytest.mark.parametrize("kind", OF_THREADS, ids=str)
