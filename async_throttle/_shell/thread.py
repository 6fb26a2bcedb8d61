"""Waiting with a thread: wake-ups, and a leader that sleeps until the next grant.

A queue is changed inside the door of its scheduler only, under a lock that is held for microseconds
and never while a thread sleeps; so an event loop may take the lock, too.

Of the threads that wait, the leader sleeps until the next grant is due. The followers sleep until
they are woken. When the leader goes, the longest waiting follower is woken to lead. The leader is
woken if a grant is due earlier than it expects. Every event loop with callers has an alarm of its
own, so that no thread depends on a loop that may be blocked, nor a loop on a thread.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any, TypeVar, cast

from async_throttle._engine.lane import GRANTED, QUEUED, Lane, Receipt, give_back
from async_throttle._shell import fast
from async_throttle._shell.alarm import LOOK, Alarm, surely
from async_throttle._shell.loop import call_in, running_loop
from async_throttle._shell.scheduler import Scheduler, at_work, find
from async_throttle._shell.waiting import (
    Asked,
    Attempt,
    LoopWaiter,
    Option,
    Taker,
    Waiting,
    hopes,
    resolve,
)
from async_throttle._units import NEVER, SECOND, number

__all__ = ["ThreadScheduler", "drained", "wait"]

R = TypeVar("R")


class Sleeper(Waiting):
    """A caller that waits with its thread.

    Attributes:
        wake_up: a lock that is held; its release wakes the thread.
        thread: the thread's identifier.
    """

    __slots__ = ("thread", "wake_up")

    def __init__(self) -> None:
        super().__init__()
        self.wake_up = threading.Lock()
        self.wake_up.acquire()
        self.thread = get_ident()

    def twin(self) -> Sleeper:
        """The same caller in another lane, with the same wake-up."""
        twin = Sleeper()
        twin.wake_up = self.wake_up
        return twin

    def ring(self) -> None:
        """Wake the thread. Called inside the door only."""
        if self.wake_up.locked():
            self.wake_up.release()


class ThreadScheduler(Scheduler):
    """A scheduler whose callers wait in threads and in any number of event loops.

    Attributes:
        lock: held by the thread that is inside the door.
        owner: the thread that is inside; 0 while the door is free.
        sleepers: the threads that wait, in order of arrival.
        leader: the sleeper that sleeps until the next grant.
        leads_until: the instant until which the leader sleeps.
        loops: by event loop, the callers that wait in it.
    """

    __slots__ = ("leader", "leads_until", "lock", "loops", "owner", "sleepers")

    locks = True

    def __init__(self, timer: Callable[[], float] | None) -> None:
        self.lock = threading.RLock()
        self.owner = 0
        self.sleepers: dict[Sleeper, None] = {}
        self.leader: Sleeper | None = None
        self.leads_until = NEVER
        self.loops: dict[asyncio.AbstractEventLoop, LoopOfWaiters] = {}
        super().__init__(timer)

    # -- the door -----------------------------------------------------------------------

    def inside(self) -> bool:
        """Whether this thread is inside, or may not wait for the thread that is.

        A finalizer that runs inside the door of a scheduler must not wait for the door of a second
        scheduler: the thread inside there may wait for the first door in the same way.
        """
        if self.owner == get_ident():
            return True
        if get_ident() in at_work:
            if not self.lock.acquire(blocking=False):
                return True
            self.lock.release()
        return False

    def enter(self, change: Callable[[int], R], *, surely: bool = False, asks: bool = False) -> R:
        """Go through the door, when no thread is inside."""
        go = super().enter
        return self._alone(
            lambda: go(change, surely=surely, asks=asks),
            lambda into: into.enter(change, surely=surely, asks=asks),
        )

    def exclusively(self, change: Callable[[], R]) -> R:
        """Make *change*, for which the time does not matter, while no other thread is inside."""
        if self.inside():
            return change()
        return self._alone(change, lambda into: into.exclusively(change))

    def _alone(self, call: Callable[[], R], moved: Callable[[Scheduler], R]) -> R:
        """Make *call* while no other thread is inside; *moved* if this was absorbed meanwhile."""
        me = get_ident()
        try:
            with self.lock:
                if self.into is None:
                    outer = me in at_work
                    at_work[me] = True
                    self.owner = me
                    try:
                        return call()
                    finally:
                        self.owner = 0
                        if not outer:
                            del at_work[me]
        finally:
            if self.notes and not self.owner:
                self.catch_up()
        return moved(self.into)

    def quietly(self, change: Callable[[int], object]) -> bool:
        """Make a *change* of limits if the scheduler is quiet, by a shortcut."""
        return self._briefly(fast.quietly, change)

    def settle_once(self, lease: Any, key: Any, taken: Receipt, amount: int) -> bool:
        """Settle one limit of a set for the first time if the scheduler is quiet, by a shortcut."""
        return self._briefly(fast.settle_once, lease, key, taken, amount)

    def _briefly(self, shortcut: Callable[..., bool], *args: Any) -> bool:
        """Take a *shortcut* while no other thread is inside."""
        me = get_ident()
        if not self.quiet or me in at_work:
            return False
        with self.lock:
            at_work[me] = True
            self.owner = me
            try:
                done = shortcut(self, *args)
            finally:
                self.owner = 0
                del at_work[me]
        if self.notes:
            self.catch_up()
        return done

    def grab(self, lane: Lane, weights: tuple[int, ...]) -> list[Receipt] | None:
        """Grant *weights* if the scheduler is quiet and they are there, by a shortcut."""
        me = get_ident()
        if me in at_work:
            return None
        receipts: list[Receipt] = []
        try:
            with self.lock:
                at_work[me] = True
                self.owner = me
                try:
                    taken = fast.grab(self, lane, weights, receipts)
                except BaseException:
                    fast.undo(self, receipts)
                    raise
                finally:
                    self.owner = 0
                    del at_work[me]
            if self.notes:
                self.catch_up()
        except BaseException:
            give_back(self.queue.now, receipts)
            raise
        return receipts if taken else None

    def _merge(self, other: Any, asked: object) -> None:
        """Absorb *other*; the doors are free."""
        me = get_ident()
        with self.lock, other.lock:
            outer = me in at_work
            at_work[me] = True
            self.owner = other.owner = me
            try:
                super()._merge(other, asked)
            finally:
                self.owner = other.owner = 0
                if not outer:
                    del at_work[me]

    def elapse(self) -> int:
        """Advance the queue to the present: due waiters go. Returns the instant."""
        now = super().elapse()
        if self.loops or self.handed_over:
            self._bury()
        return now

    def recalm(self) -> None:
        """See anew whether the shortcuts may be taken."""
        super().recalm()
        self.calm = self.calm and fast.GIL
        self.quiet = self.quiet and fast.GIL

    def behind(self) -> bool:
        """Whether waiters are to start first: only in a loop, for threads start in no set order."""
        return bool(self.handed_over) and asyncio._get_running_loop() is not None

    # -- waking -------------------------------------------------------------------------

    def loop_waiter(self, asked: Asked) -> LoopWaiter:
        """A waiter of the running event loop."""
        waiter = LoopWaiter()
        waiter.future = running_loop(asked).create_future()
        return waiter

    def thread_waiter(self, asked: Asked) -> Sleeper:
        """A waiter of the running thread."""
        if blocks_own_loop():
            raise RuntimeError(
                f"{asked!r} would have to be waited for, and would hold up the event loop that "
                "runs in this thread: use async with, the calls that end in _async, or "
                "await asyncio.to_thread(...)"
            )
        waiter = Sleeper()
        if any(sleeper.thread == waiter.thread for sleeper in self.sleepers):
            raise RuntimeError(
                f"{asked!r} would have to be waited for in a thread that waits for it already, "
                "and was interrupted by a signal handler or a finalizer: use try_acquire() there"
            )
        return waiter

    def enlist(self, waiters: Sequence[Waiting]) -> None:
        """*waiters* wait from now on."""
        first = waiters[0]
        if isinstance(first, Sleeper):
            self.sleepers[first] = None
            return
        for waiter in waiters:
            loop = cast(LoopWaiter, waiter).future.get_loop()
            if loop not in self.loops:
                self.loops[loop] = LoopOfWaiters(self, loop)
            self.loops[loop].waiters.add(waiter)

    def tell(self, waiter: Any) -> None:
        """Wake *waiter*, unless it is still queued; a second time does nothing."""
        if waiter.state is not GRANTED and (waiter.state is QUEUED or hopes(waiter)):
            return
        if self.listeners and waiter.state is GRANTED:
            self.happened("grant", waiter.option.asked, waiter.weights)
        if isinstance(waiter, Sleeper):
            waiter.ring()
            return
        loop = waiter.future.get_loop()
        if waiter.state is GRANTED:
            self.hand_over(waiter)
        if loop in self.loops:  # not where it was refused before it came to wait
            self.loops[loop].waiters -= {waiter, *waiter.rivals}
        if loop is not asyncio._get_running_loop():
            call_in(loop, resolve, waiter.future)
        elif waiter in self.newcomers:
            waiter.future.get_loop().call_soon(surely(resolve, waiter.future), None)
        else:
            resolve(waiter.future)

    def wake(self, done: Any) -> None:
        """Wake a drainer."""
        if isinstance(done, Sleeper):
            done.ring()
        else:
            call_in(done.get_loop(), resolve, done)

    def report(self, error: Exception) -> None:
        """A rule has raised *error* at the end of a pause: tell the loop's exception handler."""
        loop = asyncio._get_running_loop()
        if loop is None:
            super().report(error)
        else:
            context = {"message": f"a rule of {self!r} failed", "exception": error}
            loop.call_exception_handler(context)

    def arm(self) -> None:
        """Have the alarms and the leader wake at the next grant or deadline."""
        due = self.queue.due_at
        if self.aloft or self.narrowed:
            due = min(due, self.gives_up_at())
        for mine in list(self.loops.values()):
            if mine.waiters:
                mine.watch(due)
            else:
                mine.watch(NEVER)
                del self.loops[mine.loop]
        if self.sleepers and due < (NEVER if self.leader is None else self.leads_until):
            leader = self.leader or next(iter(self.sleepers))
            self.leads_until = due
            leader.ring()

    # -- in threads ---------------------------------------------------------------------

    def watch(self, waiter: Sleeper) -> float | None:
        """Seconds for which the thread of *waiter* may sleep; -1 is for ever, None is no sleep."""

        def look(now: int) -> float | None:
            here = cast(ThreadScheduler, self.here())
            here.decide()
            if not hopes(waiter):
                return None
            until = waiter.deadline
            if here.leader is None or here.leader is waiter:
                here.leader = waiter
                here.leads_until = min(here.queue.due_at, here.gives_up_at())
                until = min(until, here.leads_until)
            if until >= NEVER:
                return -1
            span = max(0, until - here.clock.present()) / SECOND
            return min(span, LOOK if here.clock.watched else threading.TIMEOUT_MAX)

        return self.enter(look, asks=True)

    def _start(self, now: int, attempt: Attempt) -> None:
        self._sleeps_no_more(attempt)
        super()._start(now, attempt)

    def _withdraw(self, now: int, attempt: Attempt) -> None:
        self._sleeps_no_more(attempt)
        for waiter in attempt.waiters:
            if isinstance(waiter, LoopWaiter):
                mine = self.loops.get(waiter.future.get_loop())
                if mine is not None:
                    mine.waiters.discard(waiter)
        super()._withdraw(now, attempt)

    def withdraw(self, attempt: Attempt) -> None:
        """The caller goes before it has begun: as if it had never asked."""
        if attempt.waiters or attempt.receipts:
            self.do(lambda now: self.here()._withdraw(now, attempt), surely=True)

    def _sleeps_no_more(self, attempt: Attempt) -> None:
        for waiter in attempt.waiters[:1]:
            if isinstance(waiter, Sleeper):
                self.sleepers.pop(waiter, None)
                if self.leader is waiter:
                    self.leader = None
                    self.leads_until = NEVER

    # -- event loops --------------------------------------------------------------------

    def _bury(self) -> None:
        """Drop waiters of loops that were closed, and undo grants that were handed over there."""
        closed = [mine for mine in self.loops.values() if mine.loop.is_closed()]
        late: list[Any] = [
            waiter
            for waiter in self.handed_over
            if cast(LoopWaiter, waiter).future.get_loop().is_closed()
        ]
        for mine in closed:
            del self.loops[mine.loop]
            late += mine.waiters
        for waiter in late:
            self.handed_over.discard(waiter)
            self.queue.leave(waiter)
        if late:
            self.queue.advance(self.queue.now)

    def check_loops(self, other: Scheduler, asked: object) -> None:
        """Never refuses: callers of several loops may wait here."""

    def adopt(self, other: Any) -> None:
        """Take over the threads and the event loops of *other*."""
        for loop, theirs in other.loops.items():
            mine = self.loops.setdefault(loop, theirs)
            mine.scheduler = self
            if mine is not theirs:
                mine.waiters |= theirs.waiters
                theirs.watch(NEVER)
        other.loops.clear()
        self.sleepers.update(other.sleepers)
        for sleeper in other.sleepers:
            sleeper.ring()  # to sleep here
        other.sleepers.clear()
        other.leader = None

    def forked(self) -> None:
        """This is the child of a fork: the sleepers and the loops are in the parent."""
        at_work.clear()
        self.lock = threading.RLock()
        self.owner = 0
        self.sleepers.clear()
        self.leader = None
        self.leads_until = NEVER
        self.loops.clear()
        super().forked()


class LoopOfWaiters:
    """The waiters of a scheduler for threads in an event loop, and their alarm.

    Attributes:
        scheduler: the scheduler of the waiters; it may have been absorbed meanwhile.
        loop: the loop of the alarm; only the loop's own thread sets the alarm.
        waiters: the callers that wait in this loop.
    """

    __slots__ = ("_alarm", "_due", "loop", "scheduler", "waiters")

    def __init__(self, scheduler: ThreadScheduler, loop: asyncio.AbstractEventLoop) -> None:
        self.scheduler: Scheduler = scheduler
        self.loop = loop
        self.waiters: set[Waiting] = set()
        self._alarm = Alarm()
        self._due = NEVER

    def watch(self, due: int) -> None:
        """Wake at *due*; NEVER: not at all."""
        if self._due != due or (self._alarm.armed is None and due < NEVER):
            before, self._due = self._due, due
            try:
                if asyncio._get_running_loop() is self.loop:
                    self._set(self.scheduler.queue.now)
                else:
                    call_in(self.loop, self._set_later)
            except BaseException:
                self._due = before  # so that it is set again
                raise

    def _set_later(self) -> None:
        find(self).ask(self._set, lambda now: None)

    def _set(self, now: int) -> None:
        clock = find(self).clock
        if self._alarm.armed != self._due:
            self._alarm.set(self.loop, self._due, now, self._ring, watched=clock.watched)

    def _ring(self) -> None:
        try:
            find(self).catch_up()
        except Exception as error:  # of a clock of the user's, which is asked again soon
            context = {"message": f"the clock of {find(self)!r} failed", "exception": error}
            self.loop.call_exception_handler(context)
            self._alarm.retry(self.loop, self._ring)


def blocks_own_loop() -> bool:
    """Whether a caller that waits with this thread would hold up the loop that runs it.

    It would in a coroutine or a callback. It would not in a greenlet beside that of the loop: the
    stack of such a greenlet does not come from the loop. Plain code of a notebook's cell, which a
    loop runs as well, may wait: it holds up the loop anyway, as long as it takes.
    """
    if asyncio._get_running_loop() is None:
        return False
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        coroutine = code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR)
        if code.co_name.startswith(("<module>", "<cell line")) and not coroutine:
            return False
        module = str(frame.f_globals.get("__name__"))
        if coroutine or module.startswith(("asyncio.", "uvloop")):
            return True
        frame = cast(Any, frame.f_back)
    return False


def wait(
    asked: Asked,
    options: Sequence[Option],
    timeout: float | None = None,
    taker: Taker | None = None,
) -> None:
    """Wait for the first of *options* with the whole thread; fill in *taker*."""
    if timeout is not None and number("timeout", timeout) <= 0 and find(asked).feeder is not None:
        find(asked).fetch(options)
    attempt = Attempt(options, timeout, taker)
    try:
        waiter = find(asked).admit(attempt, blocking=True)
        if waiter is not None:
            _sleep(asked, cast(Sleeper, waiter))
            find(asked).start(attempt)
    except BaseException as reason:
        find(asked).give_up(attempt, reason)
        raise


def _sleep(asked: Asked, sleeper: Sleeper) -> None:
    """Sleep until *sleeper* is queued no more."""
    while (span := cast(ThreadScheduler, find(asked)).watch(sleeper)) is not None:
        sleeper.wake_up.acquire(timeout=span)


def drained(asked: Asked, occupied: Callable[[], bool]) -> None:
    """Wait until *asked* is not *occupied*, with the whole thread."""
    if find(asked).ask(lambda now: occupied()) and blocks_own_loop():
        raise RuntimeError(
            f"drain() of {asked!r} would hold up the event loop that runs here: use drain_async()"
        )
    sleeper = Sleeper()
    try:
        _sleep_while(occupied, asked, sleeper)
    finally:
        find(asked).look_away(sleeper)


def _sleep_while(occupied: Callable[[], bool], asked: Asked, sleeper: Sleeper) -> None:
    while find(asked).watch_out(sleeper, occupied):
        sleeper.wake_up.acquire()
