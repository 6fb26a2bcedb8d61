"""Waiting in an event loop: a future for every waiter, and two alarms for the whole loop.

`wait` serves schedulers for a loop and schedulers for threads: callers in loops wait at both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, cast

from async_throttle._engine.lane import GONE, GRANTED, QUEUED
from async_throttle._shell import fast
from async_throttle._shell.alarm import Alarm, surely
from async_throttle._shell.scheduler import Scheduler, find
from async_throttle._shell.waiting import (
    NO_WAITERS,
    Asked,
    Attempt,
    LoopWaiter,
    Option,
    Taker,
    Waiting,
    hopes,
    next_turn,
    resolve,
)
from async_throttle._units import NEVER, number

if TYPE_CHECKING:
    from async_throttle._shell.core import Core

__all__ = ["LoopScheduler", "call_in", "drained", "running_loop", "wait"]


SILENT: Final = Alarm()
"""Is never set: what a scheduler has until there is something to be woken for."""


class LoopScheduler(Scheduler):
    """A scheduler whose callers wait in one event loop at a time.

    Attributes:
        loop: the loop in which callers wait; without waiters a new loop may take its place.
        thread: the thread in which *loop* was bound.
    """

    __slots__ = ("_grants", "_timeouts", "loop", "thread")

    def __init__(self, timer: Callable[[], float] | None) -> None:
        self.loop: asyncio.AbstractEventLoop | None = asyncio._get_running_loop()
        self.thread = get_ident()
        self._grants = self._timeouts = SILENT
        super().__init__(timer)

    # -- the door -----------------------------------------------------------------------

    def is_elsewhere(self) -> bool:
        """Whether callers wait in an event loop of a foreign thread, or by that loop's clock."""
        return (
            self.loop is not None
            and self.thread != get_ident()
            and self.loop.is_running()
            and bool(self.queue.waiting or self.handed_over or self.drainers or self.clock.local)
        )

    def is_here(self) -> bool:
        """Whether the loop of the callers runs in this thread."""
        return self.thread == get_ident() and self.loop is not None and self.loop.is_running()

    def quietly(self, change: Callable[[int], object]) -> bool:
        """Make a *change* of limits if the scheduler is quiet, by a shortcut."""
        if self.is_elsewhere():
            return False
        return fast.quietly(self, change) or fast.promptly(self, change)

    def note(self, change: Callable[[int], object]) -> None:
        """Have *change* made in the loop's thread, as soon as the call inside is through."""
        if self.loop is not None and self.thread != get_ident() and self.loop.is_running():
            self.notes.append(change)
            call_in(self.loop, self.catch_up)
        else:
            super().note(change)

    def admit(self, attempt: Attempt, *, blocking: bool) -> Waiting | None:
        """Grant *attempt* at once, or queue it up, to wait with the thread or in an event loop."""
        if not blocking and (self.handed_over or self.queue.waiting):
            behind = fast.join_behind if self.queue.waiting else fast.grant_behind
            waiter = behind(self, attempt)
            if waiter is not None:
                return waiter
        return super().admit(attempt, blocking=blocking)

    def withdraw(self, attempt: Attempt) -> None:
        """The caller goes before it has begun: as if it had never asked."""
        waiters = attempt.waiters
        if len(waiters) != 1 or not fast.leave_behind(self, waiters[0]):
            super().withdraw(attempt)

    def elapse(self) -> int:
        """Advance the queue to the present: due waiters go. Returns the instant."""
        waits = self.queue.waiting or self.handed_over
        if waits and self.loop is not None and self.loop.is_closed():
            self._bury(self.clock.tick())
        return super().elapse()

    # -- waking -------------------------------------------------------------------------

    def waiter_here(self) -> LoopWaiter | None:
        """A waiter of the running event loop, if this scheduler belongs to it."""
        loop = asyncio._get_running_loop()
        if loop is not self.loop or loop is None:
            return None
        waiter = LoopWaiter()
        waiter.future = loop.create_future()
        return waiter

    def loop_waiter(self, asked: Asked) -> LoopWaiter:
        """A waiter of the running event loop, which this scheduler belongs to from here on."""
        loop = running_loop(asked)
        if loop is not self.loop:
            self.bind(loop, asked)
        waiter = LoopWaiter()
        waiter.future = loop.create_future()
        return waiter

    def thread_waiter(self, asked: Asked) -> Waiting:
        """Always raises: callers wait here in an event loop only."""
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(
                f"{asked!r} would have to be waited for, and would hold up the event loop that "
                "runs in this thread: use async with"
            )
        raise RuntimeError(
            f"{asked!r} would have to be waited for, and is not for threads: use async with, or "
            "throttles of async_throttle.threads"
        )

    def tell(self, waiter: Any) -> None:
        """Wake *waiter*, unless it is still queued; a second time does nothing."""
        if waiter.state is GRANTED:
            self.hand_over(waiter)
        elif waiter.state is QUEUED or hopes(waiter):
            return
        if self.listeners and waiter.state is GRANTED:
            self.happened("grant", waiter.option.asked, waiter.weights)
        future = waiter.future
        if self.thread != get_ident():
            call_in(future.get_loop(), resolve, future)
        elif not future.done():
            future.set_result(None)

    def tell_decided(self) -> None:
        """Wake the waiters about which the queue has decided."""
        decided: Any = self.queue.decided
        usual = self.thread == get_ident() and not self.listeners
        if self.handed_over is NO_WAITERS:
            self.handed_over = set()
        while decided:
            waiter = decided[0]
            if usual and waiter.state is GRANTED:
                self.handed_over.add(waiter)
                if not waiter.future.done():
                    waiter.future.set_result(None)
            else:
                self.tell(waiter)
            decided.popleft()

    def wake(self, done: Any) -> None:
        """Wake a drainer."""
        if done.get_loop() is asyncio._get_running_loop():
            resolve(done)
        else:
            call_in(done.get_loop(), resolve, done)

    def report(self, error: Exception) -> None:
        """A rule has raised *error* at the end of a pause: tell the loop's exception handler."""
        if self.loop is None:
            super().report(error)
        else:
            context = {"message": f"a rule of {self!r} failed", "exception": error}
            self.loop.call_exception_handler(context)

    def arm(self) -> None:
        """Be woken for the next grant, and for the next deadline."""
        queue, loop = self.queue, self.loop
        if loop is None:
            return
        grants, timeouts = self._grants, self._timeouts
        wake_at = queue.wake_at
        if self.aloft or self.narrowed:
            wake_at = min(wake_at, self.gives_up_at())
        if grants.armed != wake_at:
            if grants is SILENT:
                grants = self._grants = Alarm()
            grants.set(loop, wake_at, queue.now, self._ring, watched=self.clock.watched)
        if queue.deadlines or timeouts.armed != NEVER:
            expires_at = queue.expires_at
            if timeouts.armed != expires_at:
                if timeouts is SILENT:
                    timeouts = self._timeouts = Alarm()
                timeouts.set(loop, expires_at, queue.now, self._ring, watched=self.clock.watched)

    def _ring(self) -> None:
        """An alarm rang, perhaps too early."""
        if self.into is not None or self.loop is None:
            return
        try:
            self.catch_up()
        except Exception as error:  # of a clock of the user's, which is asked again soon
            context = {"message": f"the clock of {self!r} failed", "exception": error}
            self.loop.call_exception_handler(context)
            self._grants.retry(self.loop, self._ring)

    # -- event loops --------------------------------------------------------------------

    def bind(self, loop: asyncio.AbstractEventLoop, asked: object) -> None:
        """Belong to *loop* from here on.

        Raises:
            RuntimeError: callers of a different open loop wait here.
        """
        if self.queue.waiting or self.handed_over:
            raise RuntimeError(_two_loops(asked, self.loop))
        self._grants.cancel()
        self._timeouts.cancel()
        self.loop = loop
        self.thread = get_ident()
        if self.aloft is not None:
            self.aloft.know(loop)

    def _bury(self, now: int) -> None:
        """The loop was closed: drop its waiters, and undo grants that were handed over."""
        self.loop = None
        self._grants.cancel()
        self._timeouts.cancel()
        queue = self.queue
        queue.now = now  # not as if it had been noticed before
        queue.drop(GONE)
        queue.decided.clear()
        for waiter in self.handed_over:
            queue.leave(waiter)
        self.handed_over.clear()
        queue.advance(now)

    def check_loops(self, other: Scheduler, asked: object) -> None:
        """Refuse to absorb *other* if callers of two loops would wait here."""
        busy, busy_too = (bool(s.queue.waiting or s.handed_over) for s in (self, other))
        if busy and busy_too and self.loop is not cast(LoopScheduler, other).loop:
            raise RuntimeError(_two_loops(asked, self.loop))

    def adopt(self, other: Any) -> None:
        """Take over the event loop of *other*, if callers wait in it, and silence its alarms."""
        if (other.queue.waiting or other.handed_over) and self.loop is not other.loop:
            self.bind(other.loop, self)
            self.thread = other.thread
        other.silence()

    def silence(self) -> None:
        """Ring no more."""
        self._grants.cancel()
        self._timeouts.cancel()

    def forked(self) -> None:
        """This is the child of a fork: the loop went on in the parent."""
        self.loop = None
        self._grants = self._timeouts = SILENT
        super().forked()


async def wait(
    asked: Asked,
    options: Sequence[Option],
    timeout: float | None = None,
    taker: Taker | None = None,
) -> None:
    """Wait for the first of *options* without holding up the event loop; fill in *taker*."""
    if timeout is not None and number("timeout", timeout) <= 0 and find(asked).feeder is not None:
        await _fetch(asked, options)
    attempt = Attempt(options, timeout, taker)
    try:
        scheduler = asked.scheduler
        if scheduler.into is not None:
            scheduler = find(asked)
        waiter = scheduler.admit(attempt, blocking=False)
        if waiter is not None:
            future: asyncio.Future[None] = waiter.future  # type: ignore[attr-defined]
            if future.done() and not scheduler.locks:
                await next_turn()  # waiters that were granted before are to start first
            else:
                await future
            scheduler = asked.scheduler
            if scheduler.into is not None:
                scheduler = find(asked)
            if not fast.start(scheduler, attempt):
                scheduler.start(attempt)
    except BaseException as reason:
        find(asked).give_up(attempt, reason)
        raise


async def _fetch(asked: Asked, options: Sequence[Option]) -> None:
    """Ask the store for what a caller wants that will not wait."""
    for _, lane, weights in options:
        scheduler = find(asked)
        if scheduler.feeder is not None:
            await scheduler.feeder.fetch_later(scheduler, lane, weights)


async def wait_for_unit(core: Core, timeout: float | None = None) -> None:
    """Wait for a slot and one token of a throttle."""
    waiter = fast.queue_behind(core) if timeout is None else None
    if waiter is None:
        await wait(core, (core.option(1, 0),), timeout, core.flights)
        return
    try:
        await waiter.future
        if not fast.start_unit(core, waiter):
            core.start(waiter)
    except BaseException:
        if core.scheduler.into is not None or not fast.leave_behind(core.scheduler, waiter):
            core.withdraw(waiter)
        raise


async def drained(asked: Asked, occupied: Callable[[], bool]) -> None:
    """Wait until *asked* is not *occupied*, without holding up the event loop."""
    waits = True
    while waits:
        done = running_loop(asked).create_future()
        scheduler = find(asked)
        if scheduler.is_elsewhere():  # the answer would come from there, and too late
            raise RuntimeError(_two_loops(asked, getattr(scheduler, "loop", None)))
        try:
            waits = scheduler.watch_out(done, occupied)
            if waits:
                await done
        finally:
            find(asked).look_away(done)


def call_in(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: Any) -> None:
    """Have *function* called in *loop*, unless *loop* was closed: then it has no callers."""
    try:
        loop.call_soon_threadsafe(surely(function, *args), None)
    except RuntimeError:
        if not loop.is_closed():
            raise


def running_loop(asked: object) -> asyncio.AbstractEventLoop:
    """The event loop that runs in this thread; without one, a caller of *asked* cannot wait."""
    loop = asyncio._get_running_loop()
    if loop is None:
        raise RuntimeError(
            f"{asked!r} would have to be waited for, and no event loop of asyncio runs in this "
            "thread: under trio, use trio_asyncio, or an async_throttle.threads.Throttle in "
            "trio.to_thread.run_sync()"
        )
    return loop


def _two_loops(asked: object, other: asyncio.AbstractEventLoop | None) -> str:
    runs = other is not None and other.is_running()
    return (
        f"callers wait for {asked!r} in another event loop, which "
        f"{'runs' if runs else 'does not run, but is not closed'}; a Throttle serves one loop at a "
        f"time: {'' if runs else 'close the other loop, or '}use async_throttle.threads.Throttle, "
        "which serves loops and threads together"
    )
