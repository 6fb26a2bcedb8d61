"""TokenBucket and LeakyBucket that can be awaited, in the manner of asyncutils.buckets.

Facades. They wait for nothing and no timer or task is theirs: a `Throttle` does all of that.

Not to be confused with the rules of the same names, which are what `Throttle` takes as its
*algorithm* and are imported from ``async_throttle``.

What differs from the original: the rate is the rate (the original runs at twice it), a fresh leaky
bucket is empty, more than the capacity is an error, and callers go in order of arrival. The
adjustment map of a leaky bucket is its parameter *adjmap*, and a factor replaces the one before:
the original multiplies them, so that a busy bucket sinks to a tenth of its leak.

>>> import asyncio
>>> from async_throttle import testing
>>> async def main() -> None:
...     async with LeakyBucket(capacity=5, leak=2) as bucket:
...         print([await bucket.acquire() for _ in range(6)])
...         print(await bucket.wait_for_tokens(3), "s until there was room for 3")
>>> testing.run(main())
[True, True, True, True, True, False]
1.5 s until there was room for 3
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from async_throttle import _units
from async_throttle._units import number, positive
from async_throttle.exceptions import WeightTooLarge
from async_throttle.throttle import Throttle

__all__ = ["LeakyBucket", "TokenBucket"]

Row: TypeAlias = tuple[float, float, float, float]
"""Of a map: lbound, lfactor, ubound, ufactor."""

# Never above 1: the leak is what the other side bears. Nearly full, a twentieth less: headroom for
# what the other side counts differently, and all that it costs a saturated bucket. Below a capacity
# of 10 a single call fills more than a tenth, so that a full bucket says nothing about the load.
ADJMAP: Final = ((10, (0.0, 1.0, 0.9, 0.95)),)
"""How the factor of a `LeakyBucket` follows its fill level, unless told otherwise."""


class TokenBucket:
    """So many tokens per second, at most *capacity* of them at once.

    `RateLimiter` is the same with more forms of use. For slots as well, use `Throttle`.

    Args:
        rate: tokens per second; may be below 1.
        capacity: most tokens that can be in the bucket, which is full at the start.
        timer: a clock in seconds; unset, the monotonic clock. See `Throttle`.

    Raises:
        ValueError: *rate* or *capacity* is not positive, or above 1e24.

    >>> import asyncio
    >>> from async_throttle import testing
    >>> async def main():
    ...     bucket = TokenBucket(rate=10, capacity=3)
    ...     for _ in range(5):
    ...         await bucket.consume()
    ...     return asyncio.get_running_loop().time()
    >>> testing.run(main())
    0.2
    """

    __slots__ = ("_throttle",)

    def __init__(
        self, rate: float, capacity: float, timer: Callable[[], float] | None = None
    ) -> None:
        rate = _size("rate", rate, infinite=True)
        capacity = _size("capacity", capacity, infinite=rate == math.inf)
        self._throttle = Throttle(rate, burst=capacity, timer=timer)

    async def consume(self, tokens: float = 1.0) -> None:
        """Wait for *tokens*, in order of arrival, and use them up.

        Raises:
            WeightTooLarge: *tokens* exceeds the capacity.
            ValueError: *tokens* is negative, infinite or not a number.
        """
        _units.tokens("tokens", tokens)
        try:
            await self._throttle.consume(tokens)
        except WeightTooLarge as error:
            raise _too_much("tokens", tokens, error) from None

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self._throttle.capacity

    @property
    def capacity(self) -> float:
        """Most tokens that can be in the bucket."""
        return self._throttle.burst

    @property
    def throttle(self) -> Throttle:
        """The throttle beneath, for all that it can do: pause, delay, live changes."""
        return self._throttle

    def __repr__(self) -> str:
        return f"<async_throttle.buckets.TokenBucket of {self._throttle!r}>"


class LeakyBucket:
    """A bucket that calls fill and that leaks: whoever would make it overflow must wait.

    It is empty at the start, and leaks ``leak * factor`` tokens per second. At each call the factor
    becomes what *adjmap* says about the fill level then; until the next one it stays. A factor
    replaces the one before: the original multiplies them, so that a busy bucket sinks to a tenth
    of its leak.

    By default the factor is 0.95 while a bucket with a capacity of 10 or more is filled to nine
    tenths or more, and else 1. Its price: once the bucket is that full, a load of 95 to 100 % of
    the leak builds a queue, where a constant leak would bear it: that is ``adjmap=()``.

    As a context manager, ``with`` or ``async with``, it leaks inside of the block. A bucket that
    nobody ever entered leaks too; once the last block is left it stops, and what is in it stays,
    until it is entered again. Who was queued then still goes.

    Args:
        capacity: most tokens that can be in the bucket.
        leak: tokens that leak per second while the factor is 1.
        min_factor: smallest factor.
        max_factor: largest factor.
        external_factor_settable: whether `factor` may be set and deleted.
        timer: a clock in seconds; unset, the monotonic clock. See `Throttle`.
        adjmap: rows of (mincap, (lbound, lfactor, ubound, ufactor)), descending in mincap. The
            first one with a mincap of at most *capacity* counts: a bucket that is filled to
            *lbound* of its capacity or less has *lfactor*, one filled to *ubound* or more
            *ufactor*. Between them, and without such a row, the factor is 1.

    Raises:
        ValueError: a parameter is out of range; names it and the value.

    >>> from async_throttle import testing
    >>> async def main():
    ...     bucket = LeakyBucket(capacity=5, leak=2)
    ...     added = [await bucket.acquire() for _ in range(6)]
    ...     return added, await bucket.wait_for_tokens(3)
    >>> testing.run(main())
    ([True, True, True, True, True, False], 1.5)
    """

    # _row       what adjmap says about a bucket of this capacity
    # _factor    the one that the throttle's capacity was made with
    # _pinned    the factor was set, and does not follow the fill level
    # _contexts  how many blocks are open
    # _room      tokens that could still be added when the leak was stopped; None while it leaks
    __slots__ = (
        "_contexts",
        "_factor",
        "_leak",
        "_max_factor",
        "_min_factor",
        "_pinned",
        "_room",
        "_row",
        "_settable",
        "_throttle",
    )

    def __init__(
        self,
        capacity: float,
        leak: float,
        min_factor: float = 0.1,
        max_factor: float = 10.0,
        external_factor_settable: bool = True,
        timer: Callable[[], float] | None = None,
        *,
        adjmap: Iterable[tuple[float, Row]] = ADJMAP,
    ) -> None:
        capacity = _size("capacity", capacity)
        self._leak = _size("leak", leak)
        self._min_factor = _size("min_factor", min_factor)
        self._max_factor = _size("max_factor", max_factor)
        positive("leak * min_factor", self._leak * self._min_factor)
        if self._max_factor < self._min_factor:
            raise ValueError(
                f"max_factor must be at least min_factor, {min_factor!r}, got {max_factor!r}"
            )
        self._settable = external_factor_settable
        self._row = _row(adjmap, capacity)
        self._factor = self._mapped(0.0)
        self._pinned = False
        self._contexts = 0
        self._room: float | None = None
        self._throttle = Throttle(self._leak * self._factor, burst=capacity, timer=timer)

    async def acquire(self, amount: float = 1.0) -> bool:
        """Add *amount* if there is room and nobody waits for it; never waits.

        Returns:
            Whether it was added.

        Raises:
            WeightTooLarge: *amount* exceeds the capacity.
            ValueError: *amount* is negative, infinite or not a number.
        """
        _units.tokens("amount", amount)
        self._stand_still()
        try:
            added = self._throttle.try_acquire(amount)
        except WeightTooLarge as error:
            raise _too_much("amount", amount, error) from None
        if added:
            self._throttle.release()
            if self._room is not None:
                self._room -= float(amount)
        self._follow()
        return added

    async def wait_for_tokens(self, amount: float = 1.0) -> float:
        """Wait for room for *amount*, in order of arrival, and add it.

        Returns:
            Seconds waited; 0.0 if there was room at once.

        Raises:
            WeightTooLarge: *amount* exceeds the capacity.
            ValueError: *amount* is negative, infinite or not a number.
            RuntimeError: it would have to wait, and the leak is stopped: waiting makes no room.
        """
        if self._room is not None:
            if await self.acquire(amount):
                return 0.0
            raise RuntimeError(
                f"amount {amount!r} would have to wait, "
                f"and the bucket does not leak until it is entered again"
            )
        _units.tokens("amount", amount)
        try:
            lease = await self._throttle.lease(amount)
        except WeightTooLarge as error:
            raise _too_much("amount", amount, error) from None
        lease.release()
        if self._room is not None:  # stopped while this one was queued
            self._room = self._throttle.level
        self._follow()
        return lease.waited

    @property
    def capacity(self) -> float:
        """Most tokens that can be in the bucket."""
        return self._throttle.burst

    @property
    def leak(self) -> float:
        """Tokens that leak per second while the factor is 1."""
        return self._leak

    @property
    def throttle(self) -> Throttle:
        """The throttle beneath, whose level is the room in the bucket.

        While the leak is stopped it goes on beneath, and is taken back before the next call.
        """
        return self._throttle

    @property
    def factor(self) -> float:
        """By what the leak is multiplied now.

        Setting it pins it, within *min_factor* and *max_factor*; deleting it lets it follow the
        fill level again. Both re-plan at once those who wait, and raise AttributeError if the
        bucket was made with ``external_factor_settable=False``.
        """
        return self._factor

    @factor.setter
    def factor(self, value: float) -> None:
        self._check_settable()
        self._multiply(self._clamped(number("factor", value)))
        self._pinned = True

    @factor.deleter
    def factor(self) -> None:
        self._check_settable()
        self._pinned = False
        self._stand_still()
        self._follow()

    def __enter__(self) -> Self:
        self._stand_still()
        self._room = None
        self._contexts += 1
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._contexts:
            raise RuntimeError("__exit__() without __enter__(): no block of the bucket is open")
        self._contexts -= 1
        if not self._contexts:
            self._room = self._throttle.level

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(exc_type, exc, traceback)

    def __repr__(self) -> str:
        return f"<async_throttle.buckets.LeakyBucket of {self._throttle!r}>"

    def _stand_still(self) -> None:
        """Take back what has leaked while the leak was stopped; not from those still queued."""
        throttle = self._throttle
        if self._room is not None and not throttle.waiting:
            throttle.charge(max(0.0, throttle.level - self._room))

    def _follow(self) -> None:
        """Let the factor be what the fill level asks for, unless it was set."""
        if not self._pinned:
            capacity = self.capacity
            self._multiply(self._mapped((capacity - self._throttle.level) / capacity))

    def _mapped(self, fill: float) -> float:
        """The factor of a bucket filled to *fill*, 1 being all of the capacity."""
        lbound, lfactor, ubound, ufactor = self._row
        return self._clamped(lfactor if fill <= lbound else ufactor if fill >= ubound else 1.0)

    def _clamped(self, factor: float) -> float:
        return max(self._min_factor, min(self._max_factor, factor))

    def _multiply(self, factor: float) -> None:
        if factor != self._factor:
            self._throttle.capacity = self._leak * factor
            self._factor = factor

    def _check_settable(self) -> None:
        if not self._settable:
            raise AttributeError(
                "factor cannot be changed: the bucket has external_factor_settable=False",
                name="factor",
                obj=self,
            )


def _size(name: str, value: float, *, infinite: bool = False) -> float:
    """A positive number that a bucket can be made of, as a float."""
    positive(name, value, infinite=infinite)
    return float(value)


def _too_much(name: str, value: float, error: WeightTooLarge) -> WeightTooLarge:
    """*error* of the throttle, in the words of its bucket."""
    return WeightTooLarge(
        f"{name} must be at most the capacity of the bucket, {error.largest:g}, got {value!r}",
        largest=error.largest,
        limit=error.limit,
    )


def _row(adjmap: Iterable[tuple[float, Row]], capacity: float) -> Row:
    """What *adjmap* says about a bucket of *capacity*; reads it once: it may be an iterator."""
    rows: list[tuple[float, Row]] = []
    part: Any = adjmap
    try:
        for part in adjmap:
            mincap, row = part
            lbound, lfactor, ubound, ufactor = (number("adjmap", value) for value in row)
            rows.append((number("adjmap", mincap), (lbound, lfactor, ubound, ufactor)))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"adjmap must be rows of numbers, (mincap, (lbound, lfactor, ubound, ufactor)), "
            f"got {part!r}"
        ) from error
    sizes = [mincap for mincap, _ in rows]
    if sizes != sorted(sizes, reverse=True):
        raise ValueError(f"adjmap must descend in mincap, got {sizes!r}")
    for _, row in rows:
        lbound, lfactor, ubound, ufactor = row
        if not (lbound <= ubound and lfactor > 0 and ufactor > 0):
            raise ValueError(f"adjmap must have lbound <= ubound and factors > 0, got {row!r}")
    return next((row for mincap, row in rows if mincap <= capacity), (0.0, 1.0, 1.0, 1.0))
