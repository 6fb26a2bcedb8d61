"""The throttle for threads: the same queue, for threads and any number of event loops at once.

::

    from async_throttle.threads import Throttle

    throttle = Throttle(10, 2)

    with throttle:                      # in a thread
        ...
    async with throttle(5) as lease:    # in an event loop, behind the same callers
        ...

>>> import asyncio
>>> from concurrent.futures import ThreadPoolExecutor
>>> throttle = Throttle(1_000, 2)
>>> def square(n: int) -> int:
...     with throttle:
...         return n * n
>>> async def cube(n: int) -> int:
...     async with throttle(3):  # the same one: an event loop never blocks on it
...         return n**3
>>> with ThreadPoolExecutor(8) as executor:
...     sum(executor.map(square, range(100)))
328350
>>> asyncio.run(cube(5))
125

All that a throttle does it does here from any thread; in an event loop the calls that wait end in
``_async``. A plain call that would have to wait in a coroutine or a callback, and so would hold up
the loop that runs it, is a RuntimeError that says what to do instead. In plain code of a notebook's
cell, in threads that a cell has started and in greenlets of gevent it may wait. A set of such
throttles is for threads, too: ``with api(tokens=5):``.

How threads wait is told in `_shell/thread.py`.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from async_throttle._base import BaseThrottle
from async_throttle._decorator import is_to_be_decorated, within_either
from async_throttle._shell import fast, loop, thread
from async_throttle._shell.fast import NOTHING
from async_throttle._shell.scheduler import find
from async_throttle._shell.thread import ThreadScheduler
from async_throttle.throttle import Lease as AsyncLease
from async_throttle.throttle import leave_block, leave_block_again

__all__ = ["Lease", "Throttle"]

P = ParamSpec("P")
R = TypeVar("R")


class Throttle(BaseThrottle):
    """So much per period and so many at once, for threads and event loops together.

    The same as `async_throttle.Throttle`, with the same guarantees, in one fair queue for all
    threads and all event loops that use it at once. In a thread, ``with throttle:`` and the
    plain calls wait with the whole thread; in an event loop, ``async with throttle:`` and the
    calls that end in ``_async``. In a coroutine or a callback a plain call that would have to
    wait is a RuntimeError instead: it would hold up the loop that runs it.

    Callers that are granted in different threads start in whatever order these are scheduled;
    it is the grants that go in order.

    Args: as `async_throttle.Throttle`.

    >>> throttle = Throttle(10, 2)
    >>> with throttle(4) as lease:
    ...     lease.settle(1)
    ...     throttle.active, round(throttle.level)
    (1, 9)
    """

    __slots__ = ()

    _scheduler = ThreadScheduler

    def __enter__(self) -> None:
        if fast.take_one(self._core):
            return
        if self._blocks is None:
            thread.wait(self._core, (self._core.option(1, 0),))
        else:
            lease = self.lease()
            try:
                self._blocks.enter(lease)
            except BaseException:
                self._blocks.undo(lease)
                raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        done: list[bool] = []
        try:
            if not fast.give_one(self._core):
                leave_block(self._core, self._blocks, exc, done)
        except BaseException as late:
            leave_block_again(self._core, self._blocks, late, exc, done)

    async def __aenter__(self) -> None:
        if fast.take_one(self._core):
            return
        if self._blocks is None:
            await loop.wait(self._core, (self._core.option(1, 0),))
        else:
            lease = await self.lease_async()
            try:
                self._blocks.enter(lease)
            except BaseException:
                self._blocks.undo(lease)
                raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        done: list[bool] = []
        try:
            if not fast.give_one(self._core):
                leave_block(self._core, self._blocks, exc, done)
        except BaseException as late:
            leave_block_again(self._core, self._blocks, late, exc, done)

    @overload
    def __call__(
        self, func: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, weight: float = 1, *, timeout: float | None = None, priority: int = 0
    ) -> Lease: ...
    @overload
    def __call__(self, func: Callable[P, R], /) -> Callable[P, R]: ...
    def __call__(self, weight: Any = 1, *, timeout: float | None = None, priority: int = 0) -> Any:
        """A call that weighs *weight*: ``with throttle(5) as lease:``, or ``async with``.

        The result may be kept and entered many times, also by many threads and tasks at once.
        It decorates a ``def`` as well as an ``async def``; so does the throttle itself, with a
        weight of 1: ``@throttle``.

        Args:
            weight, timeout, priority: see `acquire`.
        """
        if weight.__class__ is not int and is_to_be_decorated(weight):
            return Lease._of(self, 1, timeout, priority)(weight)
        return Lease._of(self, weight, timeout, priority)

    def acquire(
        self, weight: float = 1.0, *, timeout: float | None = None, priority: int = 0
    ) -> bool:
        """Wait for *weight* tokens and a slot, and take them; `release()` gives the slot back.

        Args, Returns, Raises: as `async_throttle.Throttle.acquire`; a RuntimeError where this
        would hold up an event loop.
        """
        core = self._core
        if weight != 1 or priority or not fast.take_one(core):
            thread.wait(core, (core.option(weight, priority),), timeout, core.flights)
        return True

    async def acquire_async(
        self, weight: float = 1.0, *, timeout: float | None = None, priority: int = 0
    ) -> bool:
        """`acquire` in an event loop."""
        core = self._core
        await loop.wait(core, (core.option(weight, priority),), timeout, core.flights)
        return True

    def lease(
        self, weight: float = 1.0, *, timeout: float | None = None, priority: int = 0
    ) -> Lease:
        """Like `acquire`, for a `Lease`: what was taken, to be settled and released."""
        return self(weight, timeout=timeout, priority=priority)._lease()

    async def lease_async(
        self, weight: float = 1.0, *, timeout: float | None = None, priority: int = 0
    ) -> Lease:
        """`lease` in an event loop."""
        return await self(weight, timeout=timeout, priority=priority)._lease_async()

    def consume(
        self, weight: float = 1.0, *, timeout: float | None = None, priority: int = 0
    ) -> None:
        """Wait for *weight* tokens and take them; no slot, nothing to release."""
        thread.wait(self._core, (self._core.tokens_option(weight, priority),), timeout)

    async def consume_async(
        self, weight: float = 1.0, *, timeout: float | None = None, priority: int = 0
    ) -> None:
        """`consume` in an event loop."""
        await loop.wait(self._core, (self._core.tokens_option(weight, priority),), timeout)

    def refresh(self) -> None:
        """Ask the store how the limits stand, if they live in one: see *store*.

        Raises:
            StoreUnavailable: the store is away, and was told to raise then.
        """
        find(self._core).ask_store()

    def drain(self) -> None:
        """Wait until nobody waits or holds a slot."""
        thread.drained(self._core, self._core.occupied)

    async def drain_async(self) -> None:
        """`drain` in an event loop."""
        await loop.drained(self._core, self._core.occupied)


class Lease(AsyncLease):
    """What a granted call holds: its tokens, to be settled, and a slot, to be released.

    As `async_throttle.Lease`, and for ``with`` and threads as well.
    """

    __slots__ = ()

    def __enter__(self) -> Self:
        return self if fast.enter_lease(self) else self._enter()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        left: list[Any] = []
        try:
            if not fast.leave_lease(self):
                self._exit_slowly(exc, left)
        except BaseException as late:
            self._exit_again(late, exc, left)

    async def __aenter__(self) -> Self:
        return self if fast.enter_lease(self) else await self._enter_async()

    def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> types.CoroutineType[Any, Any, None]:
        left: list[Any] = []
        try:
            if not fast.leave_lease(self):
                self._exit_slowly(exc, left)
        except BaseException as late:
            self._exit_again(late, exc, left)
        return NOTHING

    def settle(self, actual: float) -> None:
        """Say what the call really took, also after the block: see `async_throttle.Lease`."""
        self._settle_slowly(actual)

    @overload
    def __call__(
        self, func: Callable[P, Coroutine[Any, Any, R]]
    ) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, func: Callable[P, R]) -> Callable[P, R]: ...
    def __call__(self, func: Callable[P, Any]) -> Callable[P, Any]:
        """Decorate a ``def`` or an ``async def``: each call takes the weight and a slot."""
        return within_either("a throttle", func, self._twin)
