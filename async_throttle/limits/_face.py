"""What sets and pools have in common: calls that take weights by limit."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, TypeVar, overload

from async_throttle._base import BaseLimiter
from async_throttle._decorator import is_to_be_decorated
from async_throttle._shell import loop, thread
from async_throttle._shell.fast import NOTHING
from async_throttle._shell.lease import Blocks
from async_throttle._shell.scheduler import find
from async_throttle._shell.thread import ThreadScheduler
from async_throttle._shell.waiting import Attempt
from async_throttle._units import nanoseconds, seconds
from async_throttle.limits._acquisition import (
    Begun,
    Delay,
    LimitSetAcquisition,
    begin,
    by_limit,
    call_of,
    soonest,
    tried,
)

__all__ = ["BaseLimits", "T"]

P = ParamSpec("P")
R = TypeVar("R")

if TYPE_CHECKING:  # of type checkers, which bring it along
    import typing_extensions

    from async_throttle import threads
    from async_throttle._base import BaseThrottle
    from async_throttle.throttle import Throttle

    T = typing_extensions.TypeVar("T", bound=BaseThrottle, default=Throttle)
else:
    T = TypeVar("T")


class BaseLimits(BaseLimiter, ABC, Generic[T]):
    """Limits that are taken together: a set, or a pool of sets.

    What waits (`lease`, `consume`, `drain`) is to be awaited where an event loop runs. Where none
    runs, limits for threads wait with the thread, as those of `async_throttle.threads` do.
    """

    __slots__ = ()

    _acquisition: ClassVar[type[LimitSetAcquisition]] = LimitSetAcquisition
    _begun: ClassVar[type[LimitSetAcquisition]] = Begun
    _blocks: Blocks
    _core: Any  # a Source

    # -- calling ------------------------------------------------------------------------

    @overload
    def __call__(
        self, func: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, func: Callable[P, R], /) -> Callable[P, R]: ...
    @overload
    def __call__(
        self,
        amounts: Mapping[Any, float] | None = None,
        /,
        *,
        timeout: float | None = None,
        priority: int = 0,
        **named: float,
    ) -> LimitSetAcquisition: ...
    def __call__(
        self,
        amounts: Any = None,
        /,
        *,
        timeout: float | None = None,
        priority: int = 0,
        **named: float,
    ) -> Any:
        """A call: ``async with api(tokens=900) as lease:``.

        The result may be kept and entered many times, also by many tasks at once: the first entry
        is its own lease, later ones get a fresh one. It is a decorator too, as is the set or pool
        itself, with 1 of everything::

            @api
            async def ping() -> None: ...

            @api(tokens=900)
            async def ask(prompt: str) -> str: ...

        Args:
            amounts, named: how much of each limit; 1 of those not said, and nothing of those with
                0. Of a limit without a rate, which counts slots, a whole number. A limit without a
                name goes by its place: ``api({0: 5})``.
            timeout: seconds to wait at most; see `Throttle.acquire`.
            priority: lower goes first; see `Throttle.acquire`. What is said there of classes
                holds for each set.

        Raises:
            ValueError: a name that is no limit, or is said twice; a weight that cannot be.
        """
        if amounts is not None and not named and is_to_be_decorated(amounts):
            return call_of(self._acquisition, self, self._core, {}, timeout, priority)(amounts)
        weights = named if amounts is None else by_limit(amounts, named)
        return call_of(self._acquisition, self, self._core, weights, timeout, priority)

    def acquire(
        self,
        amounts: Mapping[Any, float] | None = None,
        /,
        *,
        timeout: float | None = None,
        priority: int = 0,
        **named: float,
    ) -> LimitSetAcquisition:
        """A call that begins at once.

        Where no event loop runs, this waits, with the whole thread. Where one runs, it takes at
        once what is there; else the result is to be awaited, or entered with ``async with``. If
        both are forgotten, slots come back when it is collected, with a `ResourceWarning`.

        Raises:
            ResourceLimitError: it was refused; says which limit, and when to come back.
            ValueError: as a call does.
        """
        weights = by_limit(amounts, named)
        return begin(call_of(self._begun, self, self._core, weights, timeout, priority))

    def try_acquire(
        self, amounts: Mapping[Any, float] | None = None, /, *, priority: int = 0, **named: float
    ) -> LimitSetAcquisition:
        """Take what is asked for if that is possible now and overtakes nobody.

        Returns:
            What was taken; or, with `successful` False, nothing: entered with ``with`` or
            ``async with`` that holds nothing.
        """
        weights = by_limit(amounts, named)
        return tried(call_of(self._acquisition, self, self._core, weights, None, priority))

    def try_consume(
        self, amounts: Mapping[Any, float] | None = None, /, *, priority: int = 0, **named: float
    ) -> bool:
        """Take tokens of the limits that are named if that is possible now: see `consume`.

        Returns:
            Whether they were taken; if not, nothing was.
        """
        core = self._core
        options = core.consuming(by_limit(amounts, named), priority)
        return find(core.whom()).seize(Attempt(options, None, core.counter()))

    @overload
    def lease(
        self: BaseLimits[Throttle],
        amounts: Mapping[Any, float] | None = None,
        /,
        *,
        timeout: float | None = None,
        priority: int = 0,
        **named: float,
    ) -> Coroutine[Any, Any, LimitSetAcquisition]: ...
    @overload
    def lease(
        self: BaseLimits[threads.Throttle],
        amounts: Mapping[Any, float] | None = None,
        /,
        *,
        timeout: float | None = None,
        priority: int = 0,
        **named: float,
    ) -> LimitSetAcquisition: ...
    def lease(
        self: Any,
        amounts: Mapping[Any, float] | None = None,
        /,
        *,
        timeout: float | None = None,
        priority: int = 0,
        **named: float,
    ) -> Any:
        """A call without a block: ``lease = await api.lease(tokens=900)``, ``lease.release()``.

        Args, Raises: as a call.
        """
        weights = by_limit(amounts, named)
        call: LimitSetAcquisition = call_of(
            self._acquisition, self, self._core, weights, timeout, priority
        )
        return call._lease() if self._with_the_thread() else call._wait()

    @overload
    def consume(
        self: BaseLimits[Throttle],
        amounts: Mapping[Any, float] | None = None,
        /,
        *,
        timeout: float | None = None,
        priority: int = 0,
        **named: float,
    ) -> Coroutine[Any, Any, None]: ...
    @overload
    def consume(
        self: BaseLimits[threads.Throttle],
        amounts: Mapping[Any, float] | None = None,
        /,
        *,
        timeout: float | None = None,
        priority: int = 0,
        **named: float,
    ) -> Awaitable[None]: ...
    def consume(
        self: Any,
        amounts: Mapping[Any, float] | None = None,
        /,
        *,
        timeout: float | None = None,
        priority: int = 0,
        **named: float,
    ) -> Any:
        """Wait for tokens and take them: ``await api.consume(tokens=5)``; see `Throttle.consume`.

        Only of the limits that are named, no slot, and nothing to release: for use inside a body
        as well. It never waits behind a caller that lacks a slot.

        Raises:
            ResourceLimitError: as a call does.
            ValueError: as a call does; a limit that has slots alone.
        """
        core = self._core
        options = core.consuming(by_limit(amounts, named), priority)
        if self._with_the_thread():
            thread.wait(core.whom(), options, timeout, core.counter())
            return NOTHING
        return loop.wait(core.whom(), options, timeout, core.counter())

    @overload
    def drain(self: BaseLimits[Throttle]) -> Coroutine[Any, Any, None]: ...
    @overload
    def drain(self: BaseLimits[threads.Throttle]) -> Awaitable[None]: ...
    def drain(self: Any) -> Any:
        """Wait until no caller of this waits, or holds what it was granted.

        Those who use its throttles alone, or by other sets, are not waited for.
        """
        core = self._core
        if self._with_the_thread():
            thread.drained(core.whom(), core.occupied)
            return NOTHING
        return loop.drained(core.whom(), core.occupied)

    def _with_the_thread(self) -> bool:
        """Whether what waits does so with the whole thread."""
        if asyncio._get_running_loop() is not None:
            return False
        return isinstance(find(self._core.whom()), ThreadScheduler)

    async def __aenter__(self) -> LimitSetAcquisition:
        acquisition = await call_of(self._acquisition, self, self._core, {})
        try:
            self._blocks.enter(acquisition)
        except BaseException:
            self._blocks.forget(acquisition)
            acquisition.release()
            raise
        return acquisition

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(exc_type, exc, traceback)

    def __enter__(self) -> LimitSetAcquisition:
        acquisition = call_of(self._acquisition, self, self._core, {}).__enter__()
        try:
            self._blocks.enter(acquisition)
        except BaseException:
            self._blocks.forget(acquisition)
            acquisition.release()
            raise
        return acquisition

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        left: list[LimitSetAcquisition] = []
        try:
            left.append(self._blocks.leave())
            left[0]._quit(exc)
        except BaseException as late:
            held = left or [self._blocks.leave()]
            held[0]._exit_again(late, exc, held)

    # -- holding everybody --------------------------------------------------------------

    def pause(self, seconds: float | timedelta, *, empty: bool = False) -> Awaitable[None]:
        """Grant nobody anything of this before *seconds* from now; see `Throttle.pause`.

        Its throttles go on for other sets, and for those who use them alone. With *empty* all
        of them are empty when the pause ends.
        """
        core, span = self._core, nanoseconds("seconds", seconds)
        find(core.whom()).do(lambda now: core.hold(now, span, empty))
        return NOTHING

    def resume(self) -> None:
        """End a pause of this now."""
        find(self._core.whom()).do(self._core.resume)

    def close(self, *, drop_waiting: bool = True) -> None:
        """Refuse newcomers to this with `ThrottleClosed`; holders finish.

        Its throttles stay open for other sets, and for those who use them alone.

        Args:
            drop_waiting: fail those who are queued as well; else they still go.
        """
        core = self._core
        find(core.whom()).do(lambda now: core.close(now, drop_waiting))

    # -- looking ------------------------------------------------------------------------

    def delay(
        self, amounts: Mapping[Any, float] | None = None, /, *, priority: int = 0, **named: float
    ) -> Delay:
        """Seconds until a call could be granted, counting everyone ahead; 0.0 is now.

        It tells which limit is the one to wait for, too: ``api.delay(tokens=900).limit``. A
        lower bound where a slot is what is missing. Plays through what is to happen to all
        waiters, which costs as much as to serve them. The next question goes on from there, if
        nothing has happened but arrivals and the grants that were foreseen. After a refund, a
        cancellation or a pause all is played once more. Where the sets that wait have one limit in
        common, a bucket, the instants of all waiters are kept instead, and a newcomer is put in
        between; else all is played once more for a newcomer that would go before the one who asked
        last, such as one to another set with a shorter queue.

        Raises:
            ResourceLimitError: what the call would raise; ValueError as well.
        """
        return soonest(self._core.options(self._core.weigh(by_limit(amounts, named)), priority))

    def locked(self) -> bool:
        """True if a call that takes 1 of everything would not be granted at once."""
        core = self._core
        return bool(find(core.whom()).ask(lambda now: core.locked(), lambda now: True))

    @property
    def waiting(self) -> int:
        """Callers of this that are queued."""
        core = self._core
        return int(find(core.whom()).ask(lambda now: core.waiting()))

    @property
    def paused_for(self) -> float:
        """Seconds until the pause of this ends; 0.0 if there is none."""
        core = self._core
        return seconds(find(core.whom()).ask(core.paused_for))

    @property
    @abstractmethod
    def level(self) -> Any:
        """Tokens left now."""

    @property
    @abstractmethod
    def active(self) -> Any:
        """Slots held."""

    @property
    @abstractmethod
    def capacity(self) -> Any:
        """Tokens per period."""

    @abstractmethod
    def guarantee(self, window: float) -> Any:
        """The most weight that can be admitted in any half-open window of *window* seconds."""

    @abstractmethod
    def statistics(self) -> Any:
        """How things stand, and what became of calls that were not granted at once."""
