"""The door: the only way to a queue and its clock.

A call may come in while a call is at work here: from a finalizer (the garbage collector runs at
every allocation), a signal handler, a rule or a clock of the user's. So every call comes through
`Door.do` or `Door.ask`, and at most a single call is inside:

- A change (`do`) that finds the door taken is noted, and made when the outer call is through. A
  change that comes from a foreign thread while callers wait in an event loop is noted as well, and
  made in the loop's thread.
- A question (`ask`) that finds the door taken is answered as of the last event: at the instant of
  that, and as if the grant under way had not taken anything yet.
- A caller that would have to wait is refused: it would wait for the very call that it interrupted.

CPython runs signal handlers, and so raises KeyboardInterrupt, when a Python function begins, when
a loop goes back to its start, and after a call of a C function. Nowhere else. So a sequence of
plain stores is never torn apart; the door is taken and left by such stores. An exception that comes
in the middle of an event leaves a queue whose derived fields may be wrong: they are computed anew,
and due waiters are decided, before the exception goes on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Protocol, TypeVar

from async_throttle._engine.check import repair
from async_throttle._engine.lane import DROPPED
from async_throttle._engine.queue import Queue
from async_throttle._shell import fast
from async_throttle._shell.alarm import GRACE
from async_throttle._shell.clock import Clock
from async_throttle._shell.waiting import NO_WAITERS, Waiting
from async_throttle._units import NEVER
from async_throttle.exceptions import ResourceLimitError
from async_throttle.rules.slots import Slots

if TYPE_CHECKING:
    from async_throttle._shell.flights import Aloft
    from async_throttle._shell.scheduler import Scheduler

__all__ = ["Door", "Event", "Feeder", "unraisable"]

R = TypeVar("R")


NO_DRAINERS: Final[dict[Any, Callable[[], bool]]] = {}
NO_SLOTS: Final[Mapping[Slots, int]] = {}
"""Stay empty: what a door has until a caller drains, and until slots are kept back."""


class Feeder(Protocol):
    """What asks a store, on behalf of the callers of a scheduler: see `stores/_session.py`."""

    store: Any
    guest: bool
    """A caller that does not wait has asked the store, and is to take what was booked for it."""
    served: bool
    """Something was booked for it."""

    def look(self, scheduler: Any) -> None:
        """An event is over: have the store asked, or told, if need be."""
        ...

    def fetch(self, scheduler: Any, lane: Any, weights: tuple[int, ...]) -> None:
        """Ask the store now for what a caller wants that will not wait, if that can be done here.

        Without a lane, ask only how the limits stand.
        """
        ...

    def prepare(self, scheduler: Any, lane: Any, weights: tuple[int, ...], now: int) -> None:
        """A caller comes, and nobody waits: ask a quick store at once, inside the door."""
        ...

    async def fetch_later(self, scheduler: Any, lane: Any, weights: tuple[int, ...]) -> None:
        """The same in an event loop."""
        ...

    def absorb(self, other: Any) -> None:
        """The schedulers of two have become one."""
        ...

    def shift(self, by: int) -> None:
        """The scheduler goes by a different clock now."""
        ...

    def forked(self) -> None:
        """This is the child of a fork."""
        ...


class Event(NamedTuple):
    """A grant, a refusal or a change, as listeners are told of it.

    Attributes:
        what: "grant", "refusal", "release", "settle", "pause", "resume", "change", "close" or
            "lost".
        at: instant, in nanoseconds.
        asked: the throttle or set.
        detail: the weights, the error, the end of the pause.
    """

    what: str
    at: int
    asked: Any
    detail: Any


class Door(ABC):
    """A queue, a clock, and the door to both.

    Attributes:
        clock, queue: the time, and which waiter goes next.
        busy: a call is inside the door.
        usual: the clock is the usual clock, no caller listens or drains, no pause empties, no slot
            was inherited, none is kept back, and the door has no lock. The shortcuts that serve
            waiters may be taken.
        quiet: the same, with a lock or without, and no waiter is queued or handed over; kept while
            the door is free. The shortcuts that take the door may be taken. With a lock, no store
            is to be asked, either.
        calm: quiet, the door is free, calls are not measured, and no store is to be asked. All
            shortcuts may be taken.
        notes: changes that found the door taken.
        handed_over: waiters that were granted and do not run yet; until they run, newcomers queue.
        newcomers: the waiters that were queued up in the event at work.
        drainers: callers of `drain`, and the questions whether their limiter is occupied.
        measured: a limit here follows how calls end, so every call is to be looked at.
        inherits: slots were held here when the process was forked off: their releases have no
            effect, which the shortcuts do not know.
        listeners: called with every `Event`.
        shut: a throttle here was closed.
        shared: a throttle here shares its quota with others, so leases are to be known.
        narrowed: slots of which fewer may be had for a while, and the instant at which that ends:
            with the next event then, for which an alarm is set while a caller waits.
        aloft: the calls in flight, of throttles that count them to their ends; None without.
        alone: no scheduler was absorbed here.
        into: the scheduler that has absorbed this one.
        feeder: asks a store for what callers want of limits that live there; None without.
        locks: the door has a lock, so nothing may be changed beside it.
    """

    locks: ClassVar[bool] = False

    __slots__ = (
        "__weakref__",
        "aloft",
        "alone",
        "busy",
        "calm",
        "clock",
        "drainers",
        "feeder",
        "handed_over",
        "inherits",
        "into",
        "listeners",
        "measured",
        "narrowed",
        "newcomers",
        "notes",
        "queue",
        "quiet",
        "shared",
        "shut",
        "usual",
    )

    def __init__(self, timer: Callable[[], float] | None) -> None:
        self.clock = Clock(timer)
        self.queue = Queue(self.clock.seen, GRACE)
        self.busy = False
        self.notes: list[Callable[[int], object]] = []
        self.handed_over: set[Waiting] = NO_WAITERS
        self.newcomers: Sequence[Waiting] = ()
        self.drainers: dict[Any, Callable[[], bool]] = NO_DRAINERS
        self.measured = False
        self.inherits = False
        self.shut = False
        self.shared = False
        self.narrowed: Mapping[Slots, int] = NO_SLOTS
        self.listeners: tuple[Callable[[Event], object], ...] = ()
        self.aloft: Aloft | None = None
        self.alone = True
        self.into: Scheduler | None = None
        self.feeder: Feeder | None = None
        self.calm = self.quiet = timer is None and fast.ENABLED
        self.usual = self.calm and not self.locks

    # -- the door -----------------------------------------------------------------------

    def do(self, change: Callable[[int], R], *, surely: bool = False) -> R | None:
        """Let time pass, make *change* at the present instant, and decide which waiters go.

        Args:
            change: called with the instant, at once or, if the door is taken, later.
            surely: the change is made even if the clock raises, at the instant seen last.

        Returns:
            The result of *change*; None if it was noted.
        """
        if self.inside() or self.is_elsewhere():
            self.note(change)
            return None
        return self.enter(change, surely=surely)

    def ask(self, question: Callable[[int], R], inside: Callable[[int], R] | None = None) -> R:
        """Let time pass, and answer *question* about the present instant.

        Args:
            question: called with the instant; it makes no change.
            inside: the question to be answered where the door is taken.
        """
        if self.inside() or self.is_elsewhere():
            return (inside or question)(self.last())
        return self.enter(question, asks=True)

    def enter(self, change: Callable[[int], R], *, surely: bool = False, asks: bool = False) -> R:
        """Go through the door, which is free."""
        error: Exception | None = None
        queue = self.queue
        plan: tuple[int, int] | None = None
        waiting = queue.waiting
        self.busy, self.calm, self.quiet = True, False, False
        try:
            try:
                now = self.elapse()
            except Exception as raised:
                if not surely:
                    raise
                repair(queue)  # a signal handler may have raised it in the middle of a grant
                now, error = self.clock.seen, raised
            plan = queue.due_at, queue.wake_at
            waiting = queue.waiting
            queue.trusting = asks  # a question changes no rule; a change may say which it changes
            result = change(now)
            if asks and queue.waiting == waiting and not self.newcomers:
                self.calm_down()
            else:
                plan = None
                self.decide()
        except ResourceLimitError:  # a refusal makes no change
            if queue.waiting == waiting:
                self.calm_down()
            else:  # but for cancelled waiters, which were found and taken out
                self.decide()
            raise
        except BaseException as reason:
            repair(queue)
            if plan is None or not isinstance(reason, Exception):
                self.decide()  # it was interrupted: waiters that are due must not be forgotten
            else:
                # A rule has failed for this caller. For waiters it is asked in an event of its own.
                due = queue.now if queue.waiting or queue.emptying else NEVER
                queue.due_at, queue.wake_at = plan if asks else (due, due)
                self.calm_down()
            raise
        finally:
            queue.trusting, self.busy, self.newcomers = True, False, ()
            if self.notes and not self.inside():  # noted after the event has looked for notes
                self.catch_up()
        try:
            if error is not None:
                raise error
        finally:
            del error  # or the error and its traceback would keep each other alive
        return result

    def exclusively(self, change: Callable[[], R]) -> R:
        """Make *change*, for which the time does not matter, while no other thread is inside."""
        return change()

    def here(self) -> Scheduler:
        """This scheduler, or the scheduler that has absorbed it meanwhile."""
        scheduler: Any = self
        while scheduler.into is not None:
            scheduler = scheduler.into
        here: Scheduler = scheduler
        return here

    def inside(self) -> bool:
        """Whether a call is inside the door for which this call must not wait."""
        return self.busy

    def note(self, change: Callable[[int], object]) -> None:
        """Have *change* made as soon as the call inside the door is through."""
        self.notes.append(change)
        if not self.inside():  # the outer call is through already
            self.catch_up()

    def catch_up(self) -> None:
        """Make the changes that were noted."""
        self.do(self._change_nothing)

    def last(self) -> int:
        """The instant of the last event. A queue without waiters is not told of shortcuts."""
        if self.aloft is not None:
            self.aloft.account(self)  # for what shortcuts have left undone
        queue = self.queue
        return queue.now if queue.waiting or queue.emptying else self.clock.seen

    def is_elsewhere(self) -> bool:
        """Whether changes are to be made in a different thread than this."""
        return False

    def drop(self, mine: Callable[[Any], bool]) -> None:
        """What the waiters that are *mine* ask for was closed: fail them, also if interrupted."""
        try:
            self.queue.drop(DROPPED, mine)
        except BaseException:  # closed is closed
            repair(self.queue)
            self.queue.drop(DROPPED, mine)
            raise

    def recover(self) -> None:
        """An exception came in the middle of an event: repair the queue, and decide."""
        repair(self.queue)
        self.decide()

    def elapse(self) -> int:
        """Advance the queue to the present: due waiters go. Returns the instant."""
        if self.aloft is not None:
            self.aloft.account(self)
        now = self.clock.tick()
        queue = self.queue
        if self.aloft is not None:
            ended = self.aloft.sweep(now)
            if ended:
                queue.touched(*ended)
                queue.due_at = queue.wake_at = now
        if self.narrowed:
            self._widen(now)
        if now >= queue.due_at:
            queue.advance(now, final=False)
            if queue.decided:
                self.tell_decided()
        else:
            queue.now = now
        return now

    def _widen(self, now: int) -> None:
        """Have all slots again of what was narrowed until *now*."""
        over = [slots for slots, until in self.narrowed.items() if until <= now]
        if over:
            for slots in over:
                self.keep_back(slots, slots.burst)
            self.narrowed = {each: at for each, at in self.narrowed.items() if at > now}
            self.queue.due_at = self.queue.wake_at = now

    def keep_back(self, slots: Slots, limit: int) -> None:
        """Have *limit* of *slots* for a while, of as many as were set; no listener is told."""
        self.queue.touched(slots)
        slots.resize(limit, slots.burst)
        self.queue.refit(slots)

    def decide(self) -> None:
        """A change was made at the instant of the last event: decide which waiters go now."""
        queue = self.queue
        if queue.waiting or queue.emptying or queue.due_at < NEVER:
            queue.advance(queue.now)
        self.calm_down()

    def calm_down(self) -> None:
        """Before the door is left: wake decided waiters, and make the changes that were noted."""
        queue = self.queue
        if queue.decided:
            self.tell_decided()
        while self.notes:
            self._make_notes()
            queue.advance(queue.now)
            self.tell_decided()
            queue.trusting = True
        while queue.errors:
            self.report(queue.errors.pop())
        self.arm()
        if self.drainers:
            self._tell_drainers()
        if queue.demand:
            self._feed()
        if self.feeder is not None:
            self.feeder.look(self.here())
        self.recalm()

    def tell_decided(self) -> None:
        """Wake the waiters about which the queue has decided."""
        decided = self.queue.decided
        while decided:
            self.tell(decided[0])
            decided.popleft()

    def recalm(self) -> None:
        """See anew whether the shortcuts may be taken."""
        queue = self.queue
        feeder = self.feeder
        usual = (
            self.clock.timer is None
            and not self.clock.shift
            and fast.ENABLED
            and not self.drainers
            and not self.inherits
            and not self.listeners
            and not queue.emptying
            and self.into is None
            and (self.aloft is None or self.aloft.armed is None)
        )
        alone = not queue.waiting and not self.handed_over
        self.usual = usual and not self.locks and not self.narrowed
        self.quiet = usual and alone and (feeder is None or not (self.locks or self.aloft))
        self.calm = self.quiet and not self.measured and feeder is None

    def _make_notes(self) -> None:
        while self.notes:
            self.queue.trusting = False
            try:
                self.notes[0](self.queue.now)
            except Exception as error:
                repair(self.queue)
                unraisable(error)
            del self.notes[0]
            if not self.queue.trusting:
                self.queue.doubt()

    def _feed(self) -> None:
        """Tell rules that get their permits from outside which weight is wanted."""
        for rule, weight in list(self.queue.demand.items()):
            rule.demand(weight, self.look_again)

    def look_again(self) -> None:
        """A rule has got news from outside: decide which waiters go now."""
        self.do(self._change_nothing)

    def _change_nothing(self, now: int) -> None:
        """Only time passes; a rule with news from outside is asked again by each event anyway."""
        self.queue.touched()

    def happened(self, what: str, asked: Any, detail: Any = None) -> None:
        """Tell the listeners. Every event that takes no shortcut is told here."""
        event = Event(what, self.queue.now, asked, detail)
        for listener in self.listeners:
            try:
                listener(event)
            except Exception as error:
                unraisable(error)

    def listen(self, listener: Callable[[Event], object]) -> None:
        """Have *listener* called with every `Event`; the shortcuts are off from now on."""
        self.last()  # what shortcuts have left undone is accounted for
        self.listeners = (*self.listeners, listener)
        self.recalm()

    def report(self, error: Exception) -> None:
        """A rule has raised *error* at the end of a pause, when no caller had asked it."""
        unraisable(error)

    # -- how callers are woken ----------------------------------------------------------

    def hand_over(self, waiter: Waiting) -> None:
        """*waiter* was granted, and is to run soon."""
        if self.handed_over is NO_WAITERS:
            self.handed_over = set()
        self.handed_over.add(waiter)

    @abstractmethod
    def tell(self, waiter: Any) -> None:
        """Wake *waiter*, unless it is still queued; a second time does nothing."""

    @abstractmethod
    def arm(self) -> None:
        """Be woken for the next grant, and for the next deadline."""

    @abstractmethod
    def wake(self, done: Any) -> None:
        """Wake a drainer."""

    def enlist(self, waiters: Sequence[Waiting]) -> None:  # noqa: B027
        """*waiters* wait from now on."""

    def is_here(self) -> bool:
        """Whether the loop of the callers runs in this thread, so that it needs no lock."""
        return False

    def behind(self) -> bool:
        """Whether waiters were granted here that are to start before a newcomer."""
        return bool(self.handed_over)

    def _tell_drainers(self) -> None:
        for done, occupied in list(self.drainers.items()):
            if not occupied():
                self.wake(done)


def unraisable(error: BaseException) -> None:
    """Report an exception that no caller is there to take, by `sys.unraisablehook`."""
    _Unraisable(error)  # collected at once


class _Unraisable:
    """Raises while it is collected: Python reports such an exception as unraisable."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __del__(self) -> None:
        raise self.error
