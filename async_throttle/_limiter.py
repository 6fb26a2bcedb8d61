"""What can be asked of every limiter: of throttles, sets, pools and facades alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from datetime import timedelta

    from async_throttle._shell.lease import BaseLease

__all__ = ["Limiter", "SyncLimiter"]

P = ParamSpec("P")
R = TypeVar("R")


class _Asked(Protocol):
    """What is asked without waiting."""

    @property
    def level(self) -> Any:
        """Tokens left now: a number; by limit, of a set; of a pool, that of each of its sets."""
        ...

    @property
    def active(self) -> Any:
        """Slots held, in the same form."""
        ...

    @property
    def capacity(self) -> Any:
        """Tokens per period, in the same form."""
        ...

    def guarantee(self, window: float) -> Any:
        """The most weight that can be admitted in any *window* seconds, in the same form."""
        ...

    def statistics(self) -> Any:
        """How it stands, and what became of calls that had to wait, in the same form."""
        ...

    @property
    def waiting(self) -> int:
        """Callers of this limiter that are queued."""
        ...

    @property
    def paused_for(self) -> float:
        """Seconds until its pause ends; 0.0 if there is none."""
        ...

    def locked(self) -> bool:
        """Whether a plain call would wait."""
        ...

    def delay(self, weight: Any = ..., /, *, priority: int = 0) -> float:
        """Seconds until *weight* could be granted, counting everyone ahead."""
        ...

    def try_acquire(self, weight: Any = ..., /, *, priority: int = 0) -> Any:
        """Take *weight* and a slot now, or nothing; what comes is true if they were taken."""
        ...

    def try_consume(self, weight: Any = ..., /, *, priority: int = 0) -> bool:
        """Take *weight* of tokens now, or nothing."""
        ...

    def charge(self, weight: Any, /) -> None:
        """Take *weight* of tokens unasked, into debt if need be."""
        ...

    def sync(self, *counts: Any, **said: Any) -> None:
        """Take note of what a server says of its own count: by limit, of a set."""
        ...

    def pause(self, seconds: float | timedelta, *, empty: bool = False) -> Awaitable[None]:
        """Grant nobody anything before *seconds* from now."""
        ...

    def resume(self) -> None:
        """End a pause now."""
        ...

    def close(self, *, drop_waiting: bool = True) -> None:
        """Refuse newcomers."""
        ...


@runtime_checkable
class Limiter(_Asked, Protocol):
    """What can be asked of every limiter in an event loop.

    `Throttle`, `LimitSet`, `LimitPool`, `RateLimiter` and `ConcurrencyLimiter` are limiters. A
    *weight* is what the limiter in question takes: a number, or a mapping by limit for sets and
    pools. ``isinstance`` looks whether the names are there, and not how they are called.

    >>> from async_throttle import Limiter, LimitSet, Throttle
    >>> def load(limiter: Limiter) -> int:
    ...     return limiter.waiting
    >>> load(Throttle(5)), load(LimitSet(Throttle(5))), isinstance(Throttle(5), Limiter)
    (0, 0, True)
    """

    def __call__(
        self, func: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        """Decorate an ``async def``: each call is a plain call."""
        ...

    def __aenter__(self) -> Awaitable[Any]:
        """A plain call begins."""
        ...

    def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> Awaitable[None]:
        """A plain call ends."""
        ...

    def lease(
        self, weight: Any = ..., /, *, timeout: float | None = None, priority: int = 0
    ) -> Awaitable[BaseLease]:
        """Wait for *weight* and a slot; `release` of what comes gives the slot back."""
        ...

    def consume(
        self, weight: Any = ..., /, *, timeout: float | None = None, priority: int = 0
    ) -> Awaitable[None]:
        """Wait for *weight* of tokens and take them; nothing to release."""
        ...

    def drain(self) -> Awaitable[None]:
        """Wait until no caller waits or holds a slot."""
        ...


@runtime_checkable
class SyncLimiter(_Asked, Protocol):
    """What can be asked of every limiter in a thread: the same, waiting with the thread.

    `async_throttle.threads.Throttle`, and the sets and pools of such throttles, are limiters of
    this kind. (A set of throttles for an event loop has the same names; its `lease` and `consume`
    are to be awaited.)
    """

    def __call__(self, func: Callable[P, R], /) -> Callable[P, R]:
        """Decorate a function: each call is a plain call."""
        ...

    def __enter__(self) -> Any:
        """A plain call begins."""
        ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """A plain call ends."""
        ...

    def lease(
        self, weight: Any = ..., /, *, timeout: float | None = None, priority: int = 0
    ) -> BaseLease:
        """Wait for *weight* and a slot; `release` of what comes gives the slot back."""
        ...

    def consume(
        self, weight: Any = ..., /, *, timeout: float | None = None, priority: int = 0
    ) -> object:
        """Wait for *weight* of tokens and take them; nothing to release."""
        ...

    def drain(self) -> object:
        """Wait until no caller waits or holds a slot."""
        ...


for _protocol in (Limiter, SyncLimiter):
    _protocol.__module__ = "async_throttle"
