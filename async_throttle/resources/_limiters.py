"""RateLimiter and ConcurrencyLimiter: one limit alone, in the manner of mtaio.resources.

Facades. They wait for nothing and count nothing: all of that is a `Throttle`'s.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar, overload

from async_throttle._decorator import within
from async_throttle._shell.single import Single
from async_throttle._units import positive, whole
from async_throttle.resources._call import Call
from async_throttle.throttle import Throttle

if TYPE_CHECKING:
    from datetime import timedelta

    from async_throttle.statistics import Statistics
    from async_throttle.throttle import Lease

__all__ = ["ConcurrencyLimiter", "RateLimiter"]

P = ParamSpec("P")
R = TypeVar("R")
L = TypeVar("L", bound="_Limiter", covariant=True)


class _Acquire(Call[None], Generic[L]):
    """What ``limiter.acquire()`` returns: to be awaited, or entered with ``async with``."""

    __slots__ = ("_limiter",)

    def __init__(self, limiter: L, coroutine: Coroutine[Any, Any, None]) -> None:
        super().__init__(coroutine)
        self._limiter = limiter

    async def __aenter__(self) -> L:
        await self
        return self._limiter

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._limiter.release()


class _Limiter(Single):
    """What both have in common: the forms in which they are used."""

    __slots__ = ("_throttle",)

    _throttle: Throttle

    @property
    def throttle(self) -> Throttle:
        """The throttle beneath, for all that it can do: pause, delay, live changes."""
        return self._throttle

    @property
    def level(self) -> float:
        """Tokens left now; infinite without a rate."""
        return self._throttle.level

    @property
    def active(self) -> int:
        """Slots held."""
        return self._throttle.active

    @property
    def capacity(self) -> float:
        """Tokens per second; infinite without a rate."""
        return self._throttle.capacity

    @property
    def waiting(self) -> int:
        """Callers that are queued."""
        return self._throttle.waiting

    @property
    def paused_for(self) -> float:
        """Seconds until the pause ends; 0.0 if there is none."""
        return self._throttle.paused_for

    def guarantee(self, window: float) -> float:
        """The most weight that can be admitted in any *window* seconds."""
        return self._throttle.guarantee(window)

    def statistics(self) -> Statistics:
        """How things stand, and what became of calls that were not granted at once."""
        return self._throttle.statistics()

    def locked(self) -> bool:
        """True if `acquire()` would wait."""
        return self._throttle.locked()

    def delay(self, weight: float = 1.0, *, priority: int = 0) -> float:
        """Seconds until *weight* could be granted, counting everyone ahead; 0.0 is now."""
        return self._throttle.delay(weight, priority=priority)

    def try_consume(self, weight: float = 1.0, *, priority: int = 0) -> bool:
        """Take *weight* tokens if that is possible now; see `Throttle.try_consume`."""
        return self._throttle.try_consume(weight, priority=priority)

    def charge(self, weight: float) -> None:
        """Take *weight* tokens unasked, into debt if need be; see `Throttle.charge`."""
        self._throttle.charge(weight)

    def sync(self, **said: Any) -> None:
        """Take note of what the server says of its own count; see `Throttle.sync`."""
        self._throttle.sync(**said)

    def pause(self, seconds: float | timedelta, *, empty: bool = False) -> Awaitable[None]:
        """Grant nobody anything before *seconds* from now; see `Throttle.pause`."""
        return self._throttle.pause(seconds, empty=empty)

    def resume(self) -> None:
        """End a pause now."""
        self._throttle.resume()

    def close(self, *, drop_waiting: bool = True) -> None:
        """Refuse newcomers; see `Throttle.close`."""
        self._throttle.close(drop_waiting=drop_waiting)

    async def lease(
        self, weight: float = 1.0, *, timeout: float | None = None, priority: int = 0
    ) -> Lease:
        """A `Lease`, to be settled and released; see `Throttle.lease`."""
        return await self._throttle.lease(weight, timeout=timeout, priority=priority)

    async def consume(
        self, weight: float = 1.0, *, timeout: float | None = None, priority: int = 0
    ) -> None:
        """Wait for *weight* tokens and use them up; see `Throttle.consume`."""
        await self._throttle.consume(weight, timeout=timeout, priority=priority)

    async def drain(self) -> None:
        """Wait until nobody waits or holds a slot."""
        await self._throttle.drain()

    async def refresh(self) -> None:
        """Ask the store how the limit stands, if it lives in one; see `Throttle.refresh`."""
        await self._throttle.refresh()

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._throttle.store is None:
            return super().__reduce_ex__(protocol)
        return _of, (type(self), self._throttle)

    def acquire(self) -> _Acquire[Self]:
        raise NotImplementedError

    def release(self) -> None:
        """Give back what is held."""

    def __call__(
        self, func: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        """Decorate an ``async def``: ``@limiter``, which is ``@limiter.limit``."""
        return within(f"a {type(self).__name__}", func, self.acquire)

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def _of(kind: type[L], throttle: Throttle) -> L:
    """A limiter of *throttle*, which is the same one in another process."""
    limiter = kind.__new__(kind)
    limiter._throttle = throttle
    return limiter


class RateLimiter(_Limiter):
    """So many operations per second, in bursts of at most *burst*.

    It holds nothing: what is acquired is used up. For slots as well, use `Throttle`.

    Args:
        rate: operations per second; may be below 1.
        burst: most operations at once; unset, ``max(1, rate)``.
        wait: if False, whatever would have to wait raises `ResourceLimitError` instead.
        store, name: where the limit lives, and the key of it there; see `Throttle`.

    Raises:
        ValueError: *rate* or *burst* is not positive.

    >>> import asyncio
    >>> async def main():
    ...     limiter = RateLimiter(10.0, burst=3)
    ...     async with limiter:
    ...         await limiter.acquire(2)
    ...     return round(limiter.throttle.delay(1), 1)
    >>> asyncio.run(main())
    0.1
    """

    __module__ = "async_throttle"

    __slots__ = ()

    def __init__(
        self,
        rate: float,
        burst: float | None = None,
        *,
        wait: bool = True,
        store: Any = None,
        name: str | None = None,
    ) -> None:
        positive("rate", rate, infinite=True)
        most = None if wait else 0
        self._throttle = Throttle(rate, burst=burst, max_waiting=most, store=store, name=name)

    def acquire(self, tokens: float = 1) -> _Acquire[Self]:
        """Wait for *tokens* and use them up: ``await limiter.acquire(3)``.

        ``async with limiter.acquire(3):`` does the same before its body.

        Raises:
            WeightTooLarge: *tokens* exceeds the burst.
            ResourceLimitError: it would have to wait, and the limiter was made with wait=False.
        """
        return _Acquire(self, self._throttle.consume(tokens))

    def try_acquire(self, tokens: float = 1, *, priority: int = 0) -> bool:
        """Use up *tokens* if that is possible now: `try_consume`."""
        return self.try_consume(tokens, priority=priority)

    @overload
    def limit(
        self, func: Callable[P, Coroutine[Any, Any, R]], *, tokens: float = 1
    ) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def limit(
        self, func: None = None, *, tokens: float = 1
    ) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Callable[P, Coroutine[Any, Any, R]]]: ...
    def limit(self, func: Callable[..., Any] | None = None, *, tokens: float = 1) -> Any:
        """Decorate an ``async def``: ``@limiter.limit`` or ``@limiter.limit(tokens=5)``."""
        if func is None:
            return functools.partial(self.limit, tokens=tokens)
        return within("limit()", func, lambda: self.acquire(tokens))

    def __repr__(self) -> str:
        return f"<async_throttle.RateLimiter of {self._throttle!r}>"


class ConcurrencyLimiter(_Limiter):
    """So many operations at once.

    Args:
        limit: most that may run at once.
        wait: if False, whatever would have to wait raises `ResourceLimitError` instead.
        store, name: where the slots live, and the key of them there; see `Throttle`.

    Raises:
        ValueError: *limit* is not a whole number of at least 1.

    >>> import asyncio
    >>> async def main():
    ...     limiter = ConcurrencyLimiter(5)
    ...     async with limiter:
    ...         return limiter.throttle.active
    >>> asyncio.run(main())
    1
    """

    __module__ = "async_throttle"

    __slots__ = ()

    def __init__(
        self,
        limit: int,
        *,
        wait: bool = True,
        store: Any = None,
        name: str | None = None,
    ) -> None:
        if whole("limit", limit) == 0:
            raise ValueError(f"limit must be a whole number of at least 1, got {limit!r}")
        most = None if wait else 0
        self._throttle = Throttle(math.inf, limit, max_waiting=most, store=store, name=name)

    def acquire(self) -> _Acquire[Self]:
        """Wait for a slot: ``await limiter.acquire()``, then `release()`.

        ``async with limiter.acquire():`` gives it back at the end of its body.

        Raises:
            ResourceLimitError: it would have to wait, and the limiter was made with wait=False.
        """
        return _Acquire(self, self._acquire())

    def try_acquire(self, weight: float = 1.0, *, priority: int = 0) -> bool:
        """Take a slot if that is possible now; see `Throttle.try_acquire`."""
        return self._throttle.try_acquire(weight, priority=priority)

    async def _acquire(self) -> None:
        await self._throttle.acquire()

    def release(self) -> None:
        """Give the slot back.

        Raises:
            ValueError: nobody holds one.
        """
        self._throttle.release()

    def limit(
        self, func: Callable[P, Coroutine[Any, Any, R]]
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        """Decorate an ``async def``: ``@limiter.limit``."""
        return within("limit()", func, self.acquire)

    def __repr__(self) -> str:
        return f"<async_throttle.ConcurrencyLimiter of {self._throttle!r}>"
