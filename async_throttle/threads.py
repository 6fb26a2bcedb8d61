"""The throttle for threads: the same queue, for threads and any number of event loops at once.

::

    from async_throttle.threads import Throttle

    throttle = Throttle(10, 2)

    with throttle:                      # in a thread
        ...
    async with throttle(5) as lease:    # in an event loop, behind the same callers
        ...

Everything that is done to a queue is done under the lock of its desk, which is held for
microseconds and never while somebody waits; so an event loop may take it, too.

Time. Of the threads that wait, one keeps the time: it sleeps until the next grant is due, all
others until they are told. Whoever keeps the time and goes names the next one, and is woken if
something is due earlier than it thought. Each event loop with callers sets a timer of its own,
so that no thread depends on a loop that may be blocked, nor a loop on a thread.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import types
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar, cast, overload

from async_throttle._alarm import Alarm
from async_throttle._base import NOTHING, UNIT, BaseThrottle
from async_throttle._decorator import within_either
from async_throttle._desk import (
    Desk,
    Options,
    Party,
    SetWaiting,
    Taker,
    Waiting,
    checked_priority,
    granted,
    hopes,
    resolve,
)
from async_throttle._queue import GRANTED
from async_throttle._units import NEVER, SECOND, tokens
from async_throttle.exceptions import ResourceLimitError
from async_throttle.throttle import ENTERING, FRESH
from async_throttle.throttle import Lease as AsyncLease

__all__ = ["Lease", "Throttle"]

P = ParamSpec("P")
R = TypeVar("R")

LOOK: Final = 0.1
"""Seconds after which a clock is looked at again that may not be the one that sleeps go by."""


class ThreadWaiting(SetWaiting):
    """A thread that waits.

    Attributes:
        bell: a lock that is held; who wakes the thread releases it.
    """

    __slots__ = ("bell",)

    bell: threading.Lock

    def __init__(self) -> None:
        self.bell = threading.Lock()
        self.bell.acquire()

    def ring(self) -> None:
        """Wake the thread. Only whoever holds the lock of the desk does."""
        if self.bell.locked():
            self.bell.release()


class ThreadDesk(Desk):
    """One queue and all who wait for it, in threads and in event loops.

    Attributes:
        lock: held around whatever is done here.
    """

    # _threads   the threads that wait, in order of arrival
    # _keeper    the one of them that keeps the time
    # _keeps     the instant until which it sleeps
    # _hands     for each event loop in which somebody waits
    __slots__ = ("_hands", "_keeper", "_keeps", "_threads", "lock")

    def __init__(self, timer: Callable[[], float] | None) -> None:
        super().__init__(timer)
        self.lock = threading.RLock()
        self._threads: dict[ThreadWaiting, None] = {}
        self._keeper: ThreadWaiting | None = None
        self._keeps = NEVER
        self._hands: dict[asyncio.AbstractEventLoop, Hand] = {}

    def announce(self, changed: Iterable[Any]) -> None:
        here = asyncio._get_running_loop()
        for waiter in changed:
            if waiter.state is not GRANTED and hopes(waiter):
                continue
            if isinstance(waiter, ThreadWaiting):
                waiter.ring()
                continue
            loop = waiter.future.get_loop()
            if waiter.state is GRANTED:
                self.starting.add(waiter)
            if loop in self._hands:  # not where it was refused before it came to wait
                self._hands[loop].waiters -= {waiter, *waiter.rivals}
            if loop is here:
                resolve(waiter.future)
            else:
                _call(loop, resolve, waiter.future)
        self.arm()

    def arm(self) -> None:
        due = self.queue.due_at
        for hand in list(self._hands.values()):
            if hand.waiters:
                hand.watch(due)
            else:
                hand.rest()
                del self._hands[hand.loop]
        if self._threads and due < (NEVER if self._keeper is None else self._keeps):
            keeper = self._keeper or next(iter(self._threads))
            self._keeps = due
            keeper.ring()

    def elapse(self) -> int:
        if self._hands or self.starting:
            self.bury()
        return super().elapse()

    def bury(self) -> None:
        """Drop those who waited in a loop that was closed, undo those who were to start there."""
        closed = [hand for hand in self._hands.values() if hand.loop.is_closed()]
        late = [waiter for waiter in self.starting if waiter.future.get_loop().is_closed()]
        if not closed and not late:
            return
        self.queue.now = self.seen = self.present()  # not as if it had been noticed before
        for hand in closed:
            del self._hands[hand.loop]
            for waiter in hand.waiters:
                self.queue.leave(waiter)
        for waiter in late:
            self.starting.discard(waiter)
            self.queue.leave(waiter)
        self.decide()

    def behind(self) -> bool:
        # Who starts first in different threads is for these to say.
        return bool(self.starting) and asyncio._get_running_loop() is not None

    def tell(self, done: Any) -> None:
        if isinstance(done, ThreadWaiting):
            done.ring()
        else:
            _call(done.get_loop(), resolve, done)

    # -- in threads ---------------------------------------------------------------------

    def watch(self, waiter: ThreadWaiting) -> float:
        """Seconds for which the thread of *waiter* may sleep unless it is woken; -1 for ever."""
        until = waiter.deadline
        if self._keeper is None or self._keeper is waiter:
            self._keeper = waiter
            self._keeps = self.queue.due_at
            until = min(until, self._keeps)
        if until >= NEVER:
            return -1
        span = max(0, until - self.present()) / SECOND
        usual = self.timer is None and not self.shift
        return min(span, threading.TIMEOUT_MAX if usual else LOOK)

    def quit(self, waiter: ThreadWaiting) -> None:
        """The thread of *waiter* sleeps no more."""
        self._threads.pop(waiter, None)
        if self._keeper is waiter:
            self._keeper = None
        if self._keeper is None:
            self.arm()

    def _bind(self, loop: asyncio.AbstractEventLoop, party: object) -> None:
        """Nothing to take over: any number of loops may wait here."""

    def enlist(self, waiters: Iterable[Waiting]) -> None:
        for waiter in waiters:
            loop = waiter.future.get_loop()
            if loop not in self._hands:
                self._hands[loop] = Hand(self, loop)
            self._hands[loop].waiters.add(waiter)

    def leave(self, waiter: Waiting) -> None:
        hand = self._hands.get(waiter.future.get_loop())
        if hand is not None:
            hand.waiters -= {waiter, *waiter.rivals}
        super().leave(waiter)

    def _check_loops(self, other: Desk, party: object) -> None:
        """Nothing to refuse: any number of loops may wait here."""

    def _adopt(self, other: Desk) -> None:
        assert isinstance(other, ThreadDesk)
        for loop, hand in other._hands.items():
            mine = self._hands.setdefault(loop, hand)
            mine._desk = self
            if mine is not hand:
                mine.waiters |= hand.waiters
                hand.rest()
        other._hands.clear()
        self._threads.update(other._threads)
        other._threads.clear()
        if other._keeper is not None:
            other._keeper.ring()
            other._keeper = None


class Hand(Party):
    """What a desk has in one event loop: those who wait there, and a timer.

    Attributes:
        loop: whose timer it is; only its own thread sets it.
        waiters: who waits in this loop.
    """

    __slots__ = ("_alarm", "_due", "loop", "waiters")

    def __init__(self, desk: ThreadDesk, loop: asyncio.AbstractEventLoop) -> None:
        self._desk = desk
        self.loop = loop
        self.waiters: set[Waiting] = set()
        self._alarm = Alarm()
        self._due = NEVER

    def watch(self, due: int) -> None:
        """Wake at *due*."""
        if self._due != due or self._alarm.armed is None:
            self._due = due
            if asyncio._get_running_loop() is self.loop:
                self._set()
            else:
                _call(self.loop, self._set)

    def rest(self) -> None:
        """Nobody waits here any more."""
        self.watch(NEVER)

    def _set(self) -> None:
        desk = self._locked()
        try:
            if self._alarm.armed != self._due:
                now = desk.present()  # which may be later than the last event
                self._alarm.set(self.loop, self._due, now, now - desk.shift, self._wake)
        finally:
            desk.lock.release()

    def _wake(self) -> None:
        desk = self._locked()
        try:
            desk.wake()
        finally:
            desk.lock.release()


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: Any) -> None:
    """Have *function* called in *loop*, unless that was closed: then nobody waits there."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        if not loop.is_closed():
            raise


# -- waiting ------------------------------------------------------------------------------


async def wait_in_loop(
    party: Party, options: Options, timeout: float | None, taker: Taker | None
) -> None:
    """Wait for one of *options* without holding up the event loop; fill in *taker*.

    All of them are asked for at the desk of *party*.
    """
    desk = party._locked()
    try:
        options = possible(options)
        waiter = desk.ask_any(options, timeout, taker)
    finally:
        desk.lock.release()
    if waiter is None:
        return
    try:
        await waiter.future
    except BaseException:
        desk = party._locked()
        try:
            desk.leave(waiter)
        finally:
            desk.lock.release()
        raise
    desk = party._locked()
    try:
        desk.start(options, waiter, taker)
    finally:
        desk.lock.release()


def wait_in_thread(
    party: Party, options: Options, timeout: float | None, taker: Taker | None
) -> None:
    """The same with the whole thread."""
    desk = party._locked()
    try:
        options = possible(options)
        now = desk.elapse()
        if desk.take_any(options, taker):
            return
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(
                f"{party!r} would have to be waited for, and would hold up the event loop that "
                "runs in this thread: use async with"
            )
        if not isinstance(desk, ThreadDesk):
            raise RuntimeError(
                f"{party!r} would have to be waited for, and is not for threads: use async with, "
                "or throttles of async_throttle.threads"
            )
        deadline = desk._deadline(options, timeout, now)
        waiters = ThreadWaiting.one_for_each(options)
        waiter = waiters[0]
        for twin in waiters:
            twin.bell = waiter.bell
        if not desk.line_up(waiters, options, deadline, now):
            desk.arm()
            desk._threads[waiter] = None
            try:
                while hopes(waiter):
                    span = desk.watch(waiter)
                    desk.lock.release()
                    try:
                        waiter.bell.acquire(timeout=span)
                    finally:
                        desk = cast(ThreadDesk, party._locked())
                    if hopes(waiter):
                        desk.elapse()
                        desk.decide()
            except BaseException:
                desk.elapse()
                desk.queue.leave(granted(waiter))
                desk.decide()
                raise
            finally:
                desk.quit(waiter)
        desk.start(options, waiter, taker)
    finally:
        desk.lock.release()


def possible(options: Options) -> Options:
    """Those of *options* that may ever be granted.

    Raises:
        ResourceLimitError: there is none; why not the first.
    """
    if len(options) == 1:
        options[0][0]._check(options[0][2])
        return options
    possible = []
    refusals = []
    for option in options:
        try:
            option[0]._check(option[2])
            possible.append(option)
        except ResourceLimitError as refusal:
            refusals.append(refusal)
    if not possible:
        raise refusals[0]
    return possible


# -- the throttle -------------------------------------------------------------------------


class Throttle(BaseThrottle):
    """So much per period and so many at once, for threads and event loops together.

    The same as `async_throttle.Throttle`, with the same guarantees, in one fair queue for all
    threads and all event loops that use it at once. In a thread, ``with throttle:`` and the
    plain calls wait with the whole thread; in an event loop, ``async with throttle:`` and the
    calls that end in ``_async``. Where a loop runs, a plain call that would have to wait is a
    RuntimeError instead: it would hold up the loop.

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

    _new_desk = ThreadDesk

    def __enter__(self) -> None:
        if self._inside is not None:
            self._inside.enter(self.lease())
            return
        wait_in_thread(self, ((self, self._line, UNIT),), None, None)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._inside is not None:
            self._inside.leave()._quit(exc)
        else:
            self.release()

    async def __aenter__(self) -> None:
        if self._inside is not None:
            self._inside.enter(await self.lease_async())
            return
        await wait_in_loop(self, ((self, self._line, UNIT),), None, None)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(exc_type, exc, traceback)

    def __call__(
        self, weight: float = 1, *, timeout: float | None = None, priority: int = 0
    ) -> Lease:
        """A call that weighs *weight*: ``with throttle(5) as lease:``, or ``async with``.

        The result may be kept and entered many times, also by many threads and tasks at once.
        It decorates a ``def`` as well as an ``async def``.

        Args:
            weight, timeout, priority: see `acquire`.
        """
        lease = Lease.__new__(Lease)
        lease._throttle = cast(Any, self)
        lease._timeout = timeout
        lease._state = FRESH
        lease.weight = weight
        if priority:
            lease._priority = checked_priority(priority)
        return lease

    def acquire(
        self, weight: float = 1.0, *, timeout: float | None = None, priority: int = 0
    ) -> bool:
        """Wait for *weight* tokens and a slot, and take them; `release()` gives the slot back.

        Args, Returns, Raises: as `async_throttle.Throttle.acquire`; a RuntimeError where this
        would hold up an event loop.
        """
        wait_in_thread(self, self._options(weight, priority), timeout, None)
        return True

    async def acquire_async(
        self, weight: float = 1.0, *, timeout: float | None = None, priority: int = 0
    ) -> bool:
        """The same in an event loop."""
        await wait_in_loop(self, self._options(weight, priority), timeout, None)
        return True

    def lease(
        self, weight: float = 1.0, *, timeout: float | None = None, priority: int = 0
    ) -> Lease:
        """Like `acquire`, for a `Lease`: what was taken, to be settled and released."""
        lease = self(weight, timeout=timeout, priority=priority)
        wait_in_thread(self, self._options(weight, priority), timeout, lease)
        return lease

    async def lease_async(
        self, weight: float = 1.0, *, timeout: float | None = None, priority: int = 0
    ) -> Lease:
        """The same in an event loop."""
        lease = self(weight, timeout=timeout, priority=priority)
        await wait_in_loop(self, self._options(weight, priority), timeout, lease)
        return lease

    def consume(self, weight: float = 1.0, *, priority: int = 0) -> None:
        """Wait for *weight* tokens and take them; no slot, nothing to release."""
        line = self._tokens_line_of(priority)
        wait_in_thread(self, ((self, line, (tokens("weight", weight),)),), None, None)

    async def consume_async(self, weight: float = 1.0, *, priority: int = 0) -> None:
        """The same in an event loop."""
        line = self._tokens_line_of(priority)
        await wait_in_loop(self, ((self, line, (tokens("weight", weight),)),), None, None)

    def drain(self) -> None:
        """Wait until nobody waits or holds a slot."""
        if asyncio._get_running_loop() is not None and self._occupied():
            raise RuntimeError(f"drain() of {self!r} would hold up the event loop that runs here")
        watcher = ThreadWaiting()
        try:
            while self._watch_out(watcher):
                watcher.bell.acquire()
        finally:
            self._look_away(watcher)

    async def drain_async(self) -> None:
        """The same in an event loop."""
        await self._drained()

    def _options(self, weight: float, priority: int) -> Options:
        return ((self, self._line_of(priority), self._weights(weight)),)


def _guarded(method: Callable[P, R]) -> Callable[P, R]:
    """*method*, with the lock of the desk held around it."""

    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        desk = cast(Party, args[0])._locked()
        try:
            return method(*args, **kwargs)
        finally:
            desk.lock.release()

    return guarded


def _guard(cls: type, names: Iterable[str]) -> None:
    """Hold the lock around these methods and properties of *cls*."""
    for name in names:
        member = getattr(cls, name)
        if isinstance(member, property):
            setter = member.fset and _guarded(member.fset)
            getter = _guarded(cast(Callable[..., Any], member.fget))
            guarded: object = property(getter, setter, doc=member.__doc__)
        else:
            guarded = _guarded(member)
        setattr(cls, name, guarded)


_guard(
    Throttle,
    (
        "release",
        "try_acquire",
        "charge",
        "pause",
        "resume",
        "close",
        "locked",
        "delay",
        "level",
        "active",
        "waiting",
        "paused_for",
        "capacity",
        "period",
        "burst",
        "concurrency",
        "_line_of",
        "_tokens_line_of",
        "_could",
        "_idle",
        "_occupied",
    ),
)


class Lease(AsyncLease):
    """What a granted call holds: its tokens, to be settled, and a slot, to be released.

    As `async_throttle.Lease`, and for ``with`` and threads as well.
    """

    __slots__ = ()

    def __enter__(self) -> Lease:
        throttle = cast(Throttle, self._throttle)
        if self._claim():
            try:
                options = throttle._options(self.weight, getattr(self, "_priority", 0))
                wait_in_thread(throttle, options, self._timeout, self)
            except BaseException:
                self._unclaim()
                raise
            return self
        return self._take_over() or self._enroll(
            throttle.lease(
                self.weight, timeout=self._timeout, priority=getattr(self, "_priority", 0)
            )
        )

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leaving()._quit(exc)

    async def __aenter__(self) -> Lease:
        throttle = cast(Throttle, self._throttle)
        if self._claim():
            try:
                options = throttle._options(self.weight, getattr(self, "_priority", 0))
                await wait_in_loop(throttle, options, self._timeout, self)
            except BaseException:
                self._unclaim()
                raise
            return self
        return self._take_over() or self._enroll(
            await throttle.lease_async(
                self.weight, timeout=self._timeout, priority=getattr(self, "_priority", 0)
            )
        )

    @overload
    def __call__(
        self, func: Callable[P, Coroutine[Any, Any, R]]
    ) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, func: Callable[P, R]) -> Callable[P, R]: ...
    def __call__(self, func: Callable[P, Any]) -> Callable[P, Any]:
        """Decorate a ``def`` or an ``async def``: each call takes the weight and a slot."""
        return within_either("a throttle", func, self._twin)

    def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> types.CoroutineType[Any, Any, None]:
        self._leaving()._quit(exc)
        return NOTHING

    # Many may enter at once: one of them gets this very lease, the others one of their own.

    def _claim(self) -> bool:
        """Whether this is the first entry."""
        if self._state == FRESH:
            self._state = ENTERING
            return True
        return False

    def _locked(self) -> Desk:
        return self._throttle._locked()


_guard(
    Lease,
    (
        "settle",
        "release",
        "_tell",
        "_end",
        "_claim",
        "_unclaim",
        "_take_over",
        "_enroll",
        "_leaving",
    ),
)
