"""The desk at which callers wait in asyncio: one queue, one clock, futures and two timers.

The shell only waits. It reads the clock, tells the queue, and turns "granted" into futures
and "wake me at" into a timer. What may go and when is decided in `async_throttle._queue`
and computed in `async_throttle.rules`.

A `Throttle` has a desk of its own until it is taken together with others: whatever can wait
for each other must be decided in one queue, so the desks become one. The desk that was
absorbed says *into* which; whoever still knows it goes there (`Party._at`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from time import monotonic_ns
from typing import Any, Final, Protocol, Self, cast

from async_throttle._alarm import GRACE, Alarm
from async_throttle._queue import (
    DROPPED,
    EXPIRED,
    GONE,
    GRANTED,
    QUEUED,
    UNFIT,
    Line,
    Queue,
    Receipt,
    SetLine,
    State,
)
from async_throttle._units import NEVER, SECOND, nanoseconds

__all__ = [
    "Desk",
    "Options",
    "Party",
    "SetWaiting",
    "Taker",
    "Waiting",
    "checked_priority",
    "granted",
    "hopes",
    "known",
    "resolve",
    "together",
    "told",
]


class Waiting:
    """A caller who waits: the queue's `Waiter`, with the future that wakes it.

    Not a subclass of Future: asyncio has a shortcut for exactly that class.
    """

    __slots__ = (
        "arrived",
        "deadline",
        "future",
        "granted_at",
        "line",
        "order",
        "receipts",
        "state",
        "weights",
    )

    arrived: int
    deadline: int
    future: asyncio.Future[None]
    granted_at: int
    line: Line
    order: int
    receipts: list[Receipt]
    state: State
    weights: tuple[int, ...]

    @property
    def rivals(self) -> Sequence[Waiting]:
        """The same caller in all of its lines; none if there is one."""
        return ()

    def tell(self, taker: Taker) -> None:
        """Fill in *taker* with what was granted."""
        taker._hold(self.receipts, self.granted_at - self.arrived)


class NoLock:
    """The lock of a desk that belongs to one event loop: nobody comes in between."""

    def acquire(self) -> None:
        """Nothing to wait for."""

    def release(self) -> None:
        """Nothing to give back."""

    def __enter__(self) -> None:
        """Nothing to wait for."""

    def __exit__(self, *exc: object) -> None:
        """Nothing to give back."""


class Taker(Protocol):
    """What is filled in when a call is granted: a lease."""

    def _hold(self, receipts: list[Receipt], waited: int, option: Any = None) -> None: ...


class Desk:
    """One queue and all who wait for it.

    Attributes:
        queue: who goes next.
        timer: the clock in seconds that the user gave; None is the monotonic clock.
        seen: the latest instant seen; instants are clock readings plus *shift*.
        shut: one of the throttles here was closed.
        measured: one of them follows how its calls end, so that each is to be looked at.
        span: the longest period or time to fill of all throttles here, in nanoseconds.
        starting: granted, but not running yet: until they do, newcomers queue.
        drainers: who waits for a throttle to be left, and what tells whether it is occupied.
        alone: it has absorbed no other.
        calm: nobody waits or is about to start, on the usual clock, and nobody is measured:
            the flattened entry of a throttle may be taken.
        loop: whose futures and timers these are; any other may take over when none is left.
        into: the desk that has absorbed this one.
    """

    # Whoever may be called from several threads holds this around all that it does here.
    lock: Any = NoLock()

    # _clock    the function that was read last: another one is another clock
    __slots__ = (
        "__weakref__",
        "_clock",
        "_grants",
        "_timeouts",
        "alone",
        "calm",
        "drainers",
        "into",
        "loop",
        "measured",
        "queue",
        "seen",
        "shift",
        "shut",
        "span",
        "starting",
        "timer",
    )

    def __init__(self, timer: Callable[[], float] | None) -> None:
        self.timer = timer
        self._clock: object = timer or monotonic_ns
        self.shift = 0
        self.span = 0
        self.seen = self.read()
        self.queue = Queue(self.seen, GRACE)
        self.starting: set[Any] = set()
        self.drainers: dict[Any, Callable[[], bool]] = {}
        self.loop: asyncio.AbstractEventLoop | None = None
        self.into: Desk | None = None
        self.alone = True
        self.shut = False
        self.measured = False
        self._grants = Alarm()
        self._timeouts = Alarm()
        self.calm = timer is None

    # -- the clock ----------------------------------------------------------------------

    def read(self) -> int:
        """What the clock shows, in nanoseconds."""
        return monotonic_ns() if self.timer is None else round(self.timer() * SECOND)

    def present(self) -> int:
        """What time it is, without letting anything happen."""
        return max(self.seen, self.read() + self.shift)

    def _step_back(self, now: int) -> None:
        """The clock shows less than before: time stands still until it has caught up.

        Unless it is another clock, as when freezegun is entered or left: that one is believed
        from here on, at the same level.
        """
        back = self.seen - now
        clock = self.timer or monotonic_ns
        if self._clock is not clock or back > self.span:
            self._clock = clock
            self.shift += back
            self.recalm()

    def elapse(self) -> int:
        """Let the queue see what time it is: whoever is due goes. Returns the instant.

        Never an instant before one already seen.
        """
        now = (monotonic_ns() if self.timer is None else self.read()) + self.shift
        if now < self.seen:
            self._step_back(now)
            now = self.seen
        else:
            self.seen = now
            self._clock = self.timer or monotonic_ns
        if self.loop is not None and self.loop.is_closed():
            self.bury()
        queue = self.queue
        if now >= queue.due_at:
            self.announce(queue.advance(now, final=False))
            if not queue.waiting:
                self.rest()
        else:
            queue.now = now
        return now

    # -- the queue ----------------------------------------------------------------------

    def decide(self) -> None:
        """Something changed at the instant of the last `elapse`: see who may go now."""
        self.announce(self.queue.advance(self.queue.now))
        if not self.queue.waiting:
            self.rest()
        elif self.drainers:
            self.dismiss()

    def rest(self) -> None:
        """Nobody waits: open the flattened entry again."""
        self.recalm()
        if self.drainers:
            self.dismiss()

    def dismiss(self) -> None:
        """Tell those who wait for a throttle to be left, if it is."""
        for done, occupied in self.drainers.items():
            if not occupied():
                self.tell(done)

    def tell(self, done: Any) -> None:
        """Wake who waits for *done*."""
        if not done.get_loop().is_closed():
            resolve(done)

    def recalm(self) -> None:
        self.calm = (
            not self.queue.waiting
            and not self.starting
            and not self.drainers
            and not self.shift
            and not self.measured
            and self.timer is None
            and not self.queue.empties
        )

    def announce(self, changed: Iterable[Any]) -> None:
        """Wake those who are *changed*, and be woken for those who come next."""
        for waiter in changed:
            if waiter.state is GRANTED:
                self.starting.add(waiter)
            elif hopes(waiter):
                continue
            if not waiter.future.done():
                waiter.future.set_result(None)
        queue = self.queue
        if self._grants.armed != queue.wake_at or queue.deadlines or self._timeouts.armed != NEVER:
            self.arm()

    def arm(self) -> None:
        """Be woken for the next grant, and for the next deadline."""
        loop, queue = self.loop, self.queue
        if loop is not None:
            now = queue.now
            if self._grants.armed != queue.wake_at:
                self._grants.set(loop, queue.wake_at, now, now - self.shift, self.wake)
            if queue.deadlines or self._timeouts.armed != NEVER:
                expires_at = queue.expires_at
                if self._timeouts.armed != expires_at:
                    self._timeouts.set(loop, expires_at, now, now - self.shift, self.wake)

    def wake(self) -> None:
        """An alarm rang, perhaps too early."""
        self.elapse()
        self.decide()
        self.arm()

    # -- callers ------------------------------------------------------------------------

    def ask(
        self,
        party: Party,
        line: Line,
        weights: tuple[int, ...],
        timeout: float | None,
        taker: Taker | None,
    ) -> Waiting | None:
        """Take at once, or queue up: then the waiter, whose future is to be awaited."""
        loop = asyncio.get_running_loop()
        if (
            line.waiters
            and loop is self.loop
            and timeout is None
            and taker is None
            and party.max_waiting is None
            and type(line) is Line
        ):
            # Whoever comes behind others need not know the time.
            waiter = Waiting()
            waiter.future = loop.create_future()
            self.queue.join(waiter, line, weights)
            return waiter
        now = self.elapse()
        if not self.starting:
            receipts = self.queue.try_take(line, weights)
            if receipts is not None:
                self.took()
                if taker is not None:
                    taker._hold(receipts, 0)
                return None
        return self._wait(loop, ((party, line, weights),), timeout, now)

    def ask_any(
        self, options: Options, timeout: float | None, taker: Taker | None
    ) -> Waiting | None:
        """The same, for the first of several *options* that there is."""
        loop = asyncio.get_running_loop()
        now = self.elapse()
        if not self.behind() and self.take_any(options, taker):
            return None
        return self._wait(loop, options, timeout, now)

    def tick(self) -> int:
        """`elapse`, in one step where nobody waits."""
        if self.calm:
            now = monotonic_ns()
            if now >= self.seen:
                self.seen = self.queue.now = now
                return now
        return self.elapse()

    def grab(self, line: SetLine, weights: tuple[int, ...]) -> list[Receipt] | None:
        """Take *weights* at once, if nobody waits for anything and all of it is there."""
        if not self.calm or self.shut:
            return None
        now = monotonic_ns()
        if now < self.seen or line.opens_at > now:
            return None
        self.seen = self.queue.now = now
        return line.grab(now, weights)

    def take_any(self, options: Options, taker: Taker | None) -> bool:
        """Take the first of *options* that is there now, if one is."""
        for option in options:
            receipts = self.queue.try_take(option[1], option[2])
            if receipts is not None:
                self.took()
                if taker is not None:
                    taker._hold(receipts, 0, option)
                return True
        return False

    def behind(self) -> bool:
        """Whether others who were granted here are to start before a newcomer."""
        return bool(self.starting)

    def took(self) -> None:
        """Somebody has taken at once: of those who wait, some may now be in nobody's way."""
        if self.queue.waiting:
            self.decide()
        elif not self.calm:
            self.recalm()

    def _wait(
        self,
        loop: asyncio.AbstractEventLoop,
        options: Options,
        timeout: float | None,
        now: int,
    ) -> Waiting:
        """Have a task of *loop* queue up, unless that is refused."""
        deadline = self._deadline(options, timeout, now)
        if loop is not self.loop:
            self._bind(loop, options[0][0])
        future = loop.create_future()
        if len(options) == 1 and type(options[0][1]) is Line:
            waiter = Waiting()
            waiter.future = future
            waiters: tuple[Waiting, ...] = (waiter,)
        else:
            waiters = SetWaiting.one_for_each(options)
            for waiter in waiters:
                waiter.future = future
        if self.line_up(waiters, options, deadline, now):
            # Those who were granted before are only about to start: after them.
            self.starting.add(granted(waiters[0]))
            loop.call_soon(resolve, future)
        else:
            self.enlist(waiters)
            self.arm()
        return waiters[0]

    def line_up(
        self, waiters: Sequence[Waiting], options: Options, deadline: int, now: int
    ) -> bool:
        """Queue up *waiters*, who are one caller, one for each of *options*.

        Returns whether that was granted at once.
        """
        queue = self.queue
        if queue.deadlines and queue.expires_at <= now:
            self.decide()  # those for whom it is too late now are in nobody's way any more
        # Whoever is refused must not have stood in the queue: not even for that instant.
        fulls: list[Any] = [None] * len(options)
        if deadline <= now or any(party.max_waiting is not None for party, _, _ in options):
            for n, (party, line, weights) in enumerate(options):
                if not queue.can_take(line, weights):
                    fulls[n] = LATE if deadline <= now else party._crowded(weights)
            if None not in fulls:
                party, line, weights = options[0]
                at, place = self.quote(line, weights)
                if fulls[0] is LATE:
                    timeout = (deadline - now) / SECOND
                    raise party._refusal_timeout(timeout, at - now, place)
                raise party._refusal_full(fulls[0], at - now)
        self.calm = False
        for waiter, (_, line, weights), full in zip(waiters, options, fulls, strict=True):
            waiter.arrived = now
            waiter.deadline = deadline
            if full is None:
                queue.join(waiter, line, weights, deadline)
            else:
                waiter.state = GONE
        self.announce(waiter for waiter in queue.advance(now) if waiter not in waiters)
        return granted(waiters[0]).state is GRANTED

    def enlist(self, waiters: Iterable[Waiting]) -> None:
        """*waiters* wait from now on."""

    def _deadline(self, options: Options, timeout: float | None, now: int) -> int:
        """The instant at which *timeout* is over; refuses at once what is known to be in vain."""
        if timeout is None:
            return NEVER
        quotes = [self.quote(line, weights) for _, line, weights in options]
        soonest = min(range(len(quotes)), key=quotes.__getitem__)
        at, place = quotes[soonest]
        allowed = nanoseconds("timeout", timeout if not timeout < 0 else 0)
        if at - now > allowed:
            raise options[soonest][0]._refusal_timeout(timeout, at - now, place)
        return NEVER if allowed >= NEVER else now + allowed

    def quote(self, line: Line, weights: tuple[int, ...]) -> tuple[int, int]:
        """When a newcomer could go, and the place of the rule that it would wait for, or -1."""
        at, place = self.queue.quote(line, weights)
        return at, self.queue.missing(line, weights) if place < 0 else place

    def refusal(self, options: Options, waiter: Waiting) -> Exception:
        """Why *waiter*, who asked for *options*, was taken out of the queue."""
        twins = waiter.rivals or (waiter,)
        for (party, line, weights), twin in zip(options, twins, strict=True):
            if twin.state is EXPIRED:
                now = self.elapse()
                at, place = self.quote(line, weights)
                timeout = (waiter.deadline - waiter.arrived) / SECOND
                return party._refusal_timeout(timeout, at - now, place)
        for (party, _, weights), twin in zip(options, twins, strict=True):
            if twin.state is UNFIT:
                return party._refusal_weight(weights)
        for (party, _, weights), twin in zip(options, twins, strict=True):
            if twin.state is DROPPED:
                return party._refusal_closed(weights)
        raise AssertionError("nobody else waits in vain")

    def start(self, options: Options, waiter: Waiting, taker: Taker | None) -> None:
        """The task of *waiter* runs again: on it goes, or it learns why not."""
        winner = granted(waiter)
        if winner.state is not GRANTED:
            raise self.refusal(options, waiter)
        self.starting.discard(winner)
        if not self.starting and not self.queue.waiting:
            self.rest()
        elif self.drainers:
            self.dismiss()
        if taker is not None:
            winner.tell(taker)

    def leave(self, waiter: Waiting) -> None:
        """The caller went before it started: as if it had never asked."""
        if granted(waiter).state is GONE and not hopes(waiter):
            return  # its loop was closed: nothing is left of it
        if (
            waiter.state is QUEUED
            and waiter.deadline == NEVER
            and type(waiter.line) is Line
            and waiter.line.waiters[0] is not waiter
        ):
            self.queue.leave(waiter)  # nobody was held up by it
            return
        self.elapse()  # which may grant it; then that is undone
        waiter = granted(waiter)
        self.starting.discard(waiter)
        self.queue.leave(waiter)
        self.decide()

    # -- event loops --------------------------------------------------------------------

    def _bind(self, loop: asyncio.AbstractEventLoop, party: object) -> None:
        """Belong to *loop* from here on.

        Raises:
            RuntimeError: another open one has callers here.
        """
        if self.queue.waiting or self.starting:
            raise RuntimeError(_two_loops(party))
        self._grants.cancel()
        self._timeouts.cancel()
        self.loop = loop

    def bury(self) -> None:
        """The loop was closed: drop whoever waited in it, undo whoever was about to start."""
        self.queue.now = self.seen  # not as if it had been noticed before
        self.loop = None
        self._grants.cancel()
        self._timeouts.cancel()
        self.queue.drop(GONE)
        for waiter in self.starting:
            self.queue.leave(waiter)
        self.starting.clear()
        self.decide()

    # -- together -----------------------------------------------------------------------

    def absorb(self, other: Desk, party: object) -> None:
        """Make *other* and this desk one.

        Raises:
            TypeError: one is for threads, one is not.
            ValueError: they do not tell the time by the same clock.
            RuntimeError: callers of two running event loops wait at them.
        """
        if type(other) is not type(self):
            raise TypeError(
                f"{party!r} takes throttles of async_throttle and of async_throttle.threads "
                "together; make all of them of one kind"
            )
        if other.timer is not self.timer:
            raise ValueError(
                f"timer must be the same for all limits of a set, got {self.timer!r} and "
                f"{other.timer!r}"
            )
        other.elapse()
        self.elapse()
        self._check_loops(other, party)
        by = self.shift - other.shift
        if by:
            waiter: Any
            for waiter in other.queue.waiters():
                if hasattr(waiter, "arrived"):
                    waiter.arrived += by
            other.queue.shift(by)
        now = self.seen = max(self.seen, other.seen + by)
        self.announce(self.queue.advance(now))
        other.announce(other.queue.advance(now))
        self._adopt(other)
        self.queue.absorb(other.queue)
        self.starting |= other.starting
        self.drainers.update(other.drainers)
        self.span = max(self.span, other.span)
        self.shut = self.shut or other.shut
        self.measured = self.measured or other.measured
        self.alone = other.calm = False
        other.into = self
        self.recalm()
        self.decide()

    def _check_loops(self, other: Desk, party: object) -> None:
        """Refuse to be one with *other* if that has callers in another loop than this."""
        busy, busy_too = (desk.queue.waiting or desk.starting for desk in (self, other))
        if busy and busy_too and self.loop is not other.loop:
            raise RuntimeError(_two_loops(party))

    def _adopt(self, other: Desk) -> None:
        """Take over the event loop of *other*, if somebody waits in it, and its timers."""
        if other.queue.waiting or other.starting:
            assert other.loop is not None, "whoever waits, waits in a loop"
            if self.loop is not other.loop:
                self._bind(other.loop, self)
        other._grants.cancel()
        other._timeouts.cancel()


def _two_loops(party: object) -> str:
    return (
        f"{party!r} has callers waiting in another running event loop; to share one throttle "
        "between loops and threads use async_throttle.threads.Throttle"
    )


LATE: Final = object()
"""Why someone does not even queue up: it would be too late at once."""

_joining = threading.Lock()


def together(one: Desk, other: Desk, party: object) -> Desk:
    """Make *one* and *other* a single desk, on behalf of *party*.

    Raises:
        TypeError, ValueError, RuntimeError: as `Desk.absorb`.
    """
    with _joining:  # whoever joins two holds two locks; nobody else does
        while one.into is not None:
            one = one.into
        while other.into is not None:
            other = other.into
        if one is not other:
            if one.alone and not other.alone:
                one, other = other, one
            one.lock.acquire()
            other.lock.acquire()
            try:
                one.absorb(other, party)
            finally:
                other.lock.release()
                one.lock.release()
        return one


class SetWaiting(Waiting):
    """A caller who waits for several limits, perhaps in several lines at once.

    Attributes:
        held_up: nanoseconds for which each rule of the line held up its head meanwhile.
        option: which of the options that it asked for this line is.
    """

    __slots__ = ("_rivals", "held_up", "option")

    _rivals: tuple[Waiting, ...]
    held_up: list[int]
    option: Option

    @property
    def rivals(self) -> Sequence[Waiting]:
        return self._rivals

    @classmethod
    def one_for_each(cls, options: Options) -> tuple[Self, ...]:
        """A waiter for each of *options*, who are all the same caller."""
        waiters = tuple(cls() for _ in options)
        for waiter, option in zip(waiters, options, strict=True):
            waiter.option = option
            waiter._rivals = waiters if len(waiters) > 1 else ()
        return waiters

    def tell(self, taker: Taker) -> None:
        if type(self.line) is not Line:
            cast(Any, taker)._held_up = self.held_up
        taker._hold(self.receipts, self.granted_at - self.arrived, self.option)


def granted(waiter: Waiting) -> Waiting:
    """The one of all that *waiter* is that was granted, or itself."""
    return next((twin for twin in waiter.rivals if twin.state is GRANTED), waiter)


class Party:
    """Whom callers ask: one throttle, or a set of them.

    Attributes:
        max_waiting: most callers that may queue; None is no bound.
    """

    __slots__ = ("_desk",)

    _desk: Desk

    @property
    def max_waiting(self) -> int | None:
        """Most callers that may queue; None is no bound."""
        raise NotImplementedError

    def _at(self) -> Desk:
        """The desk, which may have been absorbed meanwhile."""
        desk = self._desk
        while desk.into is not None:
            self._desk = desk = desk.into
        return desk

    def _locked(self) -> Desk:
        """The desk, with its lock held."""
        while True:
            desk = self._at()
            desk.lock.acquire()
            if desk.into is None:
                return desk
            desk.lock.release()  # absorbed while this waited for the lock

    def _occupied(self) -> bool:
        """Whether anybody waits or holds a slot here."""
        raise NotImplementedError

    def _watch_out(self, watcher: object) -> bool:
        """Whether anybody waits or holds; *watcher* is told when that is over."""
        desk = self._locked()
        try:
            desk.elapse()
            desk.drainers[watcher] = self._occupied
            desk.recalm()
            return self._occupied()
        finally:
            desk.lock.release()

    def _look_away(self, watcher: object) -> None:
        desk = self._locked()
        desk.drainers.pop(watcher, None)
        desk.recalm()
        desk.lock.release()

    async def _drained(self) -> None:
        """Wait until nobody waits or holds a slot, without holding up the event loop."""
        occupied = True
        while occupied:
            done = asyncio.get_running_loop().create_future()
            try:
                occupied = self._watch_out(done)
                if occupied:
                    await done
            finally:
                self._look_away(done)

    def _check(self, weights: tuple[int, ...]) -> None:
        """Refuse what can never be granted."""
        raise NotImplementedError

    def _crowded(self, weights: tuple[int, ...]) -> object:
        """For which throttle as many wait as may, of those that *weights* ask for; or None."""
        raise NotImplementedError

    def _refusal_weight(self, weights: tuple[int, ...]) -> Exception:
        raise NotImplementedError

    def _refusal_timeout(self, timeout: float, wait: int, place: int) -> Exception:
        raise NotImplementedError

    def _refusal_full(self, full: Any, wait: int) -> Exception:
        raise NotImplementedError

    def _refusal_closed(self, weights: tuple[int, ...]) -> Exception:
        raise NotImplementedError


def hopes(waiter: Waiting) -> bool:
    """Whether *waiter* is still queued in any of its lines."""
    return waiter.state is QUEUED or any(twin.state is QUEUED for twin in waiter.rivals)


Option = tuple[Party, Line, tuple[int, ...]]
"""Something to ask for: whom, where to wait, and how much of each of the line's rules."""

Options = Sequence[Option]
"""What a caller asks for: any one of these, the first that there is."""


def checked_priority(priority: int) -> int:
    """A whole number of either sign."""
    if not isinstance(priority, int):
        raise ValueError(f"priority must be a whole number, got {priority!r}")
    return priority


def known(wait: int) -> float | None:
    """Seconds that a caller has to wait, unless it is for a slot, or for ever: None."""
    return wait / SECOND if 0 < wait < NEVER // 2 else None


def told(wait: int) -> str:
    """The same, at the end of a sentence."""
    span = known(wait)
    return "" if span is None else f": it takes {span:g} s or more"


def resolve(future: asyncio.Future[None]) -> None:
    """Wake who waits for *future*, unless that has gone."""
    if not future.done():
        future.set_result(None)
