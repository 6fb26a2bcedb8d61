"""The scheduler: a clock, a queue, the door to both, admission, draining, merging, and forks.

A `Throttle` has a scheduler of its own until a set takes it together with more throttles. Waiters
for limits that depend on each other must stand in the same queue, so the schedulers are merged. The
absorbed scheduler says *into* which scheduler it went; `find` goes there.

A child process of a fork has the limits, but neither waiters nor holders: see `Scheduler.forked`.
"""

from __future__ import annotations

import os
import threading
import weakref
from abc import abstractmethod
from collections.abc import Callable, Hashable
from typing import Any, Protocol

from async_throttle._engine.check import check, repair
from async_throttle._engine.lane import GONE
from async_throttle._shell import fast
from async_throttle._shell.admission import Admission
from async_throttle._shell.door import NO_DRAINERS
from async_throttle._shell.waiting import NO_WAITERS
from async_throttle._units import NEVER

__all__ = ["Scheduler", "at_work", "find", "forkables", "together"]


class Scheduler(Admission):
    """A queue and its clock, with everything that is done to them. See `Door` for the fields."""

    __slots__ = ()

    def __init__(self, timer: Callable[[], float] | None) -> None:
        super().__init__(timer)
        forkables.add(self)

    # -- draining -----------------------------------------------------------------------

    def watch_out(self, watcher: Hashable, occupied: Callable[[], bool]) -> bool:
        """Whether *occupied*; *watcher* is woken when that is over."""

        def look(now: int) -> bool:
            here = self.here()
            here.drainers = {**here.drainers, watcher: occupied}
            return occupied()

        return bool(self.do(look))

    def look_away(self, watcher: Hashable) -> None:
        """*watcher* wants to know no more."""
        self.do(lambda now: self.here().drainers.pop(watcher, None), surely=True)

    # -- calls that are looked at -------------------------------------------------------

    def measure_all(self) -> None:
        """Each end of a call is to be looked at from now on."""
        self.measured = True
        self.recalm()

    def gives_up_at(self) -> int:
        """The instant at which waiters wait no longer for the end of some call, or for slots that
        are kept back."""
        if not self.queue.waiting:
            return NEVER
        until = NEVER if self.aloft is None else self.aloft.until
        return min(until, *self.narrowed.values()) if self.narrowed else until

    # -- merging ------------------------------------------------------------------------

    def merge(self, other: Scheduler, asked: object) -> None:
        """Absorb *other*, with the doors of *other* and of this scheduler shut meanwhile."""
        if type(other) is not type(self):
            raise TypeError(
                f"{asked!r} takes throttles of async_throttle and of async_throttle.threads "
                "together; make all of them of one kind"
            )
        if self.inside() or other.inside():
            raise RuntimeError(f"{asked!r} cannot be made while one of its throttles is at work")
        self._merge(other, asked)

    def _merge(self, other: Any, asked: object) -> None:
        """Absorb *other*; the doors are free."""
        self.busy = other.busy = True
        self.calm = self.quiet = other.calm = other.quiet = False
        try:
            self._absorb(other, asked)
        except BaseException:
            for scheduler in (self, other):
                if scheduler.into is None:
                    scheduler.recover()
            raise
        finally:
            self.busy = other.busy = False

    def _absorb(self, other: Scheduler, asked: object) -> None:
        """Absorb the queue and the callers of *other*.

        Raises:
            ValueError: the schedulers do not tell the time by the same clock.
            RuntimeError: callers of two running event loops wait at them.
        """
        if other.clock.timer is not self.clock.timer:
            raise ValueError(
                f"timer must be the same for all limits of a set, got {self.clock.timer!r} and "
                f"{other.clock.timer!r}"
            )
        self._check_stores(other)
        other.elapse()
        self.elapse()
        other.decide()
        self.decide()
        self.check_loops(other, asked)
        by = self.clock.shift - other.clock.shift
        if by:
            for waiter in other.queue.waiters():
                waiter.arrived += by  # type: ignore[attr-defined]
            other.queue.shift(by)
        now = self.clock.seen = max(self.clock.seen, other.clock.seen + by)
        self.queue.advance(now)
        other.queue.advance(now)
        self.adopt(other)
        self.queue.absorb(other.queue)
        self.handed_over = self.handed_over | other.handed_over
        self.drainers = {**self.drainers, **other.drainers}
        self.listeners += other.listeners
        if other.aloft is not None:
            other.aloft.shift(by)
            self.aloft = other.aloft.absorbed(self.aloft)
        self._adopt_feeder(other, by)
        self.clock.span = max(self.clock.span, other.clock.span)
        self.measured = self.measured or other.measured
        self.inherits = self.inherits or other.inherits
        self.shut = self.shut or other.shut
        self.shared = self.shared or other.shared
        if other.narrowed:
            later = {slots: until + by for slots, until in other.narrowed.items()}
            self.narrowed = {**self.narrowed, **later}
        self.alone = other.calm = other.quiet = other.usual = False
        other.into = self
        self.decide()

    def _check_stores(self, other: Scheduler) -> None:
        """Refuse to absorb *other* if its limits live in another store."""
        if self.feeder is not None and other.feeder is not None:
            mine, theirs = self.feeder.store, other.feeder.store
            if mine is not theirs:
                raise ValueError(
                    f"store must be the same for all limits of a set that have one, got {mine!r} "
                    f"and {theirs!r}"
                )

    def _adopt_feeder(self, other: Scheduler, by: int) -> None:
        """Have a store asked for the limits of *other* as well, whose clock was *by* behind."""
        if other.feeder is not None:
            other.feeder.shift(by)
            if self.feeder is None:
                self.feeder = other.feeder
            else:
                self.feeder.absorb(other.feeder)

    @abstractmethod
    def check_loops(self, other: Scheduler, asked: object) -> None:
        """Refuse to absorb *other* if callers of two loops would wait here."""

    @abstractmethod
    def adopt(self, other: Any) -> None:
        """Take over from *other* the alarms and wake-ups of its callers."""

    def check(self) -> None:
        """Compare every field that is kept by hand with its value computed anew: for tests.

        Raises:
            AssertionError: a field differs; the error names it, and tells the whole state.
        """
        if self.inside():
            return
        self.last()
        check(self.queue)
        kept = self.busy, list(self.notes), list(self.queue.decided), self.calm, self.quiet
        self.recalm()
        anew = self.calm, self.quiet
        assert kept == (False, [], [], *anew), f"the door: {kept}, calm and quiet {anew}"
        assert [*NO_WAITERS, *NO_DRAINERS] == [], "what stays empty"

    # -- fork ---------------------------------------------------------------------------

    def forked(self) -> None:
        """This is the child of a fork: it has no waiters and no holders, and its door is free.

        Grants from before the fork count in the parent. The slots are free here; their releases
        have no effect (`Slots.inherited` counts them).
        """
        if self.into is not None:
            return
        self.last()
        queue = self.queue
        for lane in queue.lanes.values():
            for waiter in lane:
                waiter.state = GONE
            if lane.holders:
                lane.holders = 0
                self.inherits = True
            for _, slots in lane.slots:
                if slots.used:
                    slots.inherited += slots.used
                    slots.free = slots.limit
                    self.inherits = True
        queue.decided.clear()
        self.busy = False
        self.notes.clear()
        self.handed_over.clear()
        self.drainers.clear()
        if self.feeder is not None:
            self.feeder.forked()
        repair(queue)
        queue.wake_at = NEVER
        self.recalm()


class Forkable(Protocol):
    """A scheduler or a table, which has to start afresh in the child process of a fork."""

    def forked(self) -> None:
        """This is the child."""
        ...


forkables: weakref.WeakSet[Forkable] = weakref.WeakSet()
"""The schedulers and tables of this process; a fork calls them in turn."""

_merging = threading.RLock()
at_work: dict[int, bool] = {}
"""The threads that are inside the door of a scheduler with a lock: they must not wait for a second
lock, whose holder may wait for the first."""


def _forked() -> None:
    global _merging
    _merging = threading.RLock()
    fast.EPOCH += 1
    for forkable in list(forkables):
        forkable.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def find(limiter: Any) -> Scheduler:
    """The scheduler of *limiter*, which may have been absorbed meanwhile."""
    scheduler: Scheduler = limiter.scheduler
    while scheduler.into is not None:
        limiter.scheduler = scheduler = scheduler.into
    return scheduler


def together(one: Scheduler, other: Scheduler, asked: object) -> Scheduler:
    """Make *one* and *other* a single scheduler, on behalf of *asked*.

    Raises:
        TypeError, ValueError, RuntimeError: as `Scheduler.absorb`.
    """
    if not _merging.acquire(blocking=threading.get_ident() not in at_work):
        raise RuntimeError(f"{asked!r} cannot be made here, inside of a throttle that is at work")
    try:  # a merger holds two locks, and no call but a merger does
        return _together(one, other, asked)
    finally:
        _merging.release()


def _together(one: Scheduler, other: Scheduler, asked: object) -> Scheduler:
    while one.into is not None:
        one = one.into
    while other.into is not None:
        other = other.into
    if one is not other:
        if one.alone and not other.alone:
            one, other = other, one
        one.merge(other, asked)
        one.notes += other.notes  # of other threads, made while both doors were shut
        other.notes.clear()
        if one.notes:
            one.catch_up()
    return one
