"""TimeoutManager: how long a block, a call or a series of tries may take.

asyncio.timeout does the waiting, and decides whose cancellation is whose. What comes on top: one
instance for many tasks, errors that say what took too long, `remaining`, and tries.

A manager has no state but its default. Each block that is entered is a `_Scope` of its own, and
those that are open around a piece of code are in a context variable, the innermost last. Tasks
and threads inherit what is open where they are started, so a scope in there may be over by now.
"""

from __future__ import annotations

import asyncio
import builtins
import inspect
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar

from async_throttle._decorator import within
from async_throttle._units import number
from async_throttle.exceptions import TimeoutError
from async_throttle.resources._call import Call

__all__ = ["Attempt", "TimeoutManager"]

SECONDS: Final = "a number of seconds"
"""What a timeout must be; 0 or less is over at once."""

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class TimeoutManager:
    """How long things may take: a block, a call in it, a part of it, a series of tries.

    ::

        timeouts = TimeoutManager(5.0)

        async with timeouts:                                # the block: 5 s
            await timeouts.run(fetch(url), timeout=2.0)     # this call: 2 s
            async with timeouts.timeout(1.0):               # this part: 1 s
                ...

        @timeouts                                           # each call: 5 s
        async def handle(request: Request) -> Response: ...

    One instance may be shared by any number of tasks, nested, and entered again: each entry has a
    deadline of its own, and of those that are open the earliest wins. They are `asyncio.timeout`
    blocks, and mix with it, with ``asyncio.wait_for`` and with task groups.

    ``async with timeouts`` leaves the block that its task entered last. Where two of them overlap
    instead of nesting, they would swap their deadlines: in an asynchronous generator that yields
    within one, or in two AsyncExitStacks. There enter `timeout`, which leaves its own.

    What is not over in time is cancelled, and a `TimeoutError` is raised that says what took too
    long (`async_throttle.exceptions.TimeoutError`, a subclass of the builtin). One that the body
    raises passes unchanged, and a cancellation from outside stays a CancelledError. A timeout of
    0 or less is over at once: the body runs until it first has to wait.

    Args:
        default_timeout: seconds; None is no limit.

    Raises:
        ValueError: *default_timeout* is not a number.

    >>> from async_throttle import testing
    >>> async def main():
    ...     async with TimeoutManager(5.0) as timeouts:
    ...         await timeouts.run(asyncio.sleep(1.0), timeout=2.0)
    ...         print("left:", timeouts.remaining())
    ...         await asyncio.sleep(60)
    >>> testing.run(main())
    Traceback (most recent call last):
        ...
    async_throttle.exceptions.TimeoutError: the block timed out after 5 s

    A second try with more time, and a third one:

    >>> async def fetch(takes: float) -> str:
    ...     await asyncio.sleep(takes)
    ...     return "page"
    >>> async def tries():
    ...     takes = iter([9, 9, 1])
    ...     return await TimeoutManager().cascade(lambda: fetch(next(takes)), [0.5, 1, 2])
    >>> testing.run(tries())
    'page'
    """

    __module__ = "async_throttle"

    __slots__ = ("__weakref__", "_default")

    def __init__(self, default_timeout: float | None = None) -> None:
        self._default = (
            None if default_timeout is None else number("default_timeout", default_timeout, SECONDS)
        )

    @property
    def default_timeout(self) -> float | None:
        """Seconds for what is given no timeout of its own; None is no limit."""
        return self._default

    async def __aenter__(self) -> Self:
        await _Entry(self, self._default).__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._entry().__aexit__(exc_type, exc, traceback)

    def timeout(self, timeout: float | None = None) -> AbstractAsyncContextManager[Self]:
        """A block with a timeout of its own: ``async with manager.timeout(2.0):``.

        It binds the manager, and can be entered once.

        Args:
            timeout: seconds; unset, the default.

        Raises:
            ValueError: *timeout* is not a number.
            TimeoutError: from the block, when its time is over.
        """
        return _Scope(self, self._seconds(timeout))

    def run(self, coro: Awaitable[T], *, timeout: float | None = None) -> Coroutine[Any, Any, T]:
        """Await *coro* for so long at most: ``result = await manager.run(fetch(url))``.

        A coroutine is closed if the call is never awaited, or cancelled before it begins.

        Args:
            coro: a coroutine, or whatever else can be awaited. It is cancelled when its time is
                over; ``asyncio.shield`` is for what must go on.
            timeout: seconds; unset, the default.

        Raises:
            TypeError: *coro* cannot be awaited.
            ValueError: *timeout* is not a number.
            TimeoutError: from the await, when its time is over.
        """
        if not inspect.isawaitable(coro):
            raise TypeError(f"coro must be awaitable, got {coro!r}")
        try:
            seconds = self._seconds(timeout)
        except BaseException:
            _close(coro)
            raise
        unawaited = [coro]
        return _Run(self._run(coro, seconds, unawaited), unawaited)

    async def _run(self, coro: Awaitable[T], seconds: float | None, unawaited: list[Any]) -> T:
        async with _Scope(self, seconds, coro):
            unawaited.clear()
            return await coro

    def __call__(
        self, func: Callable[P, Coroutine[Any, Any, R]]
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        """Decorate an ``async def``: each call may take the default."""
        return within("a TimeoutManager", func, lambda: _Scope(self, self._default, func))

    def attempts(self, timeouts: Iterable[float]) -> Iterator[Attempt]:
        """Try with one timeout after the other, until one suffices.

        ::

            for attempt in manager.attempts([0.5, 1.0, 2.0]):
                async with attempt:
                    result = await fetch(mirrors[attempt.number - 1])

        The next attempt comes when the time of one is over; the last one raises. A block that
        comes to its end ends the loop (``continue`` too), and so do ``break`` and ``return``.
        What else a block raises passes: also a TimeoutError that is not its own, such as that of a
        block around the loop.

        Args:
            timeouts: seconds, for each attempt.

        Raises:
            TypeError: *timeouts* is no series.
            ValueError: *timeouts* is empty, or holds what is not a number.
            TimeoutError: from the last block, when its time is over.
            RuntimeError: from the loop, if an attempt was not entered.
        """
        return _attempts(self, _series(timeouts))

    def cascade(
        self, make_coro: Callable[[], Awaitable[T]], timeouts: Iterable[float]
    ) -> Coroutine[Any, Any, T]:
        """`attempts` as a call: ``await manager.cascade(lambda: fetch(url), [0.5, 1.0, 2.0])``.

        Args:
            make_coro: called for each attempt, without arguments, for what is to be awaited.
            timeouts: seconds, for each attempt.

        Raises:
            TypeError: *make_coro* cannot be called, such as a coroutine: one cannot be awaited
                twice. Or *timeouts* is no series.
            ValueError: *timeouts* is empty, or holds what is not a number.
            TimeoutError: from the await, when the time of the last attempt is over.

        >>> from async_throttle import testing
        >>> async def main():
        ...     takes = iter([60, 60, 1])
        ...     make_coro = lambda: asyncio.sleep(next(takes), "at last")
        ...     return await TimeoutManager().cascade(make_coro, [0.5, 1.0, 2.0])
        >>> testing.run(main())
        'at last'
        """
        if not callable(make_coro):
            _close(make_coro)
            raise TypeError(
                f"make_coro must be a function that returns a coroutine, got {make_coro!r}"
            )
        return self._cascade(make_coro, _series(timeouts))

    async def _cascade(self, make_coro: Callable[[], Awaitable[T]], timeouts: list[float]) -> T:
        for attempt in _attempts(self, timeouts):
            async with attempt:
                attempt._subject = awaitable = make_coro()
                return await awaitable
        raise AssertionError("the last attempt returns or raises")

    @staticmethod
    def remaining() -> float:
        """Seconds until the earliest deadline that any manager has set around here.

        math.inf if there is none, 0.0 once it is over. Tasks and ``asyncio.to_thread`` inherit the
        deadlines that hold where they are started, for as long as those blocks last.
        """
        return max(0.0, min((scope._left() for scope in _open()), default=math.inf))

    def __repr__(self) -> str:
        default = "no default" if self._default is None else f"default:{self._default:g} s"
        return f"<async_throttle.TimeoutManager [{default}]>"

    def _seconds(self, timeout: float | None) -> float | None:
        return self._default if timeout is None else number("timeout", timeout, SECONDS)

    def _entry(self) -> _Entry:
        """The block that is left: the last one that this task entered."""
        entries = [
            scope
            for scope in reversed(_open())
            if isinstance(scope, _Entry) and scope._manager is self
        ]
        task = asyncio.current_task()
        for entry in entries:
            if entry._task is task:
                return entry
        if not entries:
            raise RuntimeError(f"{self!r} was not entered where it is left")
        return entries[0]  # entered in one task, left in another


class _Scope:
    """A block with a deadline: a timeout of asyncio's, and what is known of it."""

    # _manager  whose it is
    # _seconds  that the block may take; None is no limit
    # _subject  what the error names: an awaitable or a function; None is the block itself,
    #           and after the block
    # _entered  whether it was, which can be done once
    # _timer    asyncio's; None before and after the block
    # _task     that is in the block, and its loop's clock counts; None before and after
    __slots__ = ("_entered", "_manager", "_seconds", "_subject", "_task", "_timer")

    def __init__(
        self, manager: TimeoutManager, seconds: float | None, subject: object = None
    ) -> None:
        self._manager = manager
        self._seconds = seconds
        self._subject = subject
        self._entered = False
        self._timer: asyncio.Timeout | None = None
        self._task: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> Any:
        if self._entered:
            raise RuntimeError("a timeout can be entered once: ask its manager for another")
        when = None
        if self._seconds is not None and self._seconds != math.inf:  # for which is no timer
            when = asyncio.get_running_loop().time() + self._seconds
        timer = asyncio.timeout_at(when)
        await timer.__aenter__()
        self._entered = True
        self._timer = timer
        self._task = asyncio.current_task()
        _inherited.set((*_open(), self))
        return self._manager

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        # What others have inherited must keep alive neither what was done in here nor the loop.
        timer, self._timer, self._task = self._timer, None, None
        assert timer is not None
        _inherited.set(_open())
        try:
            await timer.__aexit__(exc_type, exc, traceback)
            return None
        except builtins.TimeoutError as error:  # its own: that of the body it would not raise
            cause = error.__cause__
            what = self._what()
        finally:
            self._subject = None
        raise TimeoutError(f"{what} timed out after {max(self._seconds or 0, 0):g} s") from cause

    def _left(self) -> float:
        """Seconds until the deadline; math.inf if there is none, or none any more."""
        timer, task = self._timer, self._task  # read once: for a thread, the block may end now
        if timer is None or task is None:
            return math.inf
        when = timer.when()
        return math.inf if when is None else when - task.get_loop().time()

    def _what(self) -> str:
        """What timed out."""
        subject = self._subject
        if subject is None:
            return "the block"
        if isinstance(subject, asyncio.Task):
            subject = subject.get_coro()
        name = getattr(subject, "__qualname__", None)
        return repr(subject) if name is None else f"{name}()"


class _Entry(_Scope):
    """A block that was entered with ``async with manager``, which has to find it again."""

    __slots__ = ()


_inherited: ContextVar[tuple[_Scope, ...]] = ContextVar("async_throttle.timeouts", default=())


def _open() -> tuple[_Scope, ...]:
    """The blocks that are open around here, the innermost last.

    Those that are over are dropped: tasks that start one another would hand on ever more.
    """
    return tuple([scope for scope in _inherited.get() if scope._timer is not None])


class Attempt(_Scope):
    """One of several, to be entered with ``async with``: see `TimeoutManager.attempts`.

    Attributes:
        number: 1, 2 and so on.
        timeout: seconds that it may take.
    """

    __module__ = "async_throttle.resources"

    # _of       how many there are
    # _expired  whether its time was over before the block was
    __slots__ = ("_expired", "_of", "number", "timeout")

    def __init__(self, manager: TimeoutManager, number: int, timeouts: list[float]) -> None:
        self.number = number
        self.timeout = timeouts[number - 1]
        self._of = len(timeouts)
        self._expired = False
        super().__init__(manager, self.timeout)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        try:
            await super().__aexit__(exc_type, exc, traceback)
        except TimeoutError:
            self._expired = True
            if self.number == self._of:
                raise
        return self._expired

    def __repr__(self) -> str:
        return f"<async_throttle.resources.Attempt {self.number} of {self._of}, {self.timeout:g} s>"

    def _what(self) -> str:
        if self._subject is None:
            return f"attempt {self.number} of {self._of}"
        return super()._what()


def _attempts(manager: TimeoutManager, timeouts: list[float]) -> Iterator[Attempt]:
    for nth in range(1, len(timeouts) + 1):
        attempt = Attempt(manager, nth, timeouts)
        yield attempt
        if not attempt._entered:
            raise RuntimeError(
                f"attempt {nth} was not entered: write 'async with attempt:' in the loop"
            )
        if not attempt._expired:
            return


class _Run(Call[T]):
    """What `TimeoutManager.run` returns. It owns a coroutine until that is awaited."""

    # _unawaited  a list of just that; emptied when it begins
    __slots__ = ("_unawaited",)

    def __init__(self, coroutine: Coroutine[Any, Any, T], unawaited: list[Awaitable[T]]) -> None:
        super().__init__(coroutine)
        self._unawaited = unawaited

    def throw(self, *args: Any) -> Any:
        self._give_up()  # thrown into before it began, it never will
        return super().throw(*args)

    def close(self) -> None:
        self._give_up()
        super().close()

    def _give_up(self) -> None:
        while self._unawaited:
            _close(self._unawaited.pop())

    __del__ = _give_up


def _close(something: object) -> None:
    """Close *something*, if it is a coroutine: others that can be awaited mean more by `close`."""
    if isinstance(something, Coroutine):
        something.close()


def _series(timeouts: Iterable[float]) -> list[float]:
    """One or more numbers of seconds."""
    what = "hold at least one number of seconds"
    try:
        values = iter(timeouts)
    except TypeError:
        raise TypeError(f"timeouts must {what}, got {timeouts!r}") from None
    numbers = [number(f"timeouts[{index}]", value, SECONDS) for index, value in enumerate(values)]
    if not numbers:
        raise ValueError(f"timeouts must {what}, got {timeouts!r}")
    return numbers
