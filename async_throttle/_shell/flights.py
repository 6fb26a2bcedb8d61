"""Calls in flight, of a throttle that counts them to their ends: whose, since when, and what ends.

The rule knows how much is in flight (`rules/ends.py`). Here is what the rule has no use for: which
call holds it. Each call has a `Flight`. A lease keeps the flight by a `Grip`, which tells when the
lease is collected. `acquire` keeps nothing, so `release` does not say which call has ended: the
lightest in flight counts as ended, which is never too early.
"""

from __future__ import annotations

import asyncio
import warnings
import weakref
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from threading import get_ident
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Final, cast

from async_throttle._engine.lane import UNTAKEN, Receipt
from async_throttle._shell import fast
from async_throttle._shell.core import one_too_many
from async_throttle._shell.door import unraisable
from async_throttle._shell.lease import Blocks, settle
from async_throttle._shell.quick import QuickBlocks
from async_throttle._shell.scheduler import find, forkables
from async_throttle._shell.states import RELEASED, LeaseState
from async_throttle._shell.waiting import Option
from async_throttle._units import NEVER, SECOND, TOKEN, shown
from async_throttle.rules import Rule
from async_throttle.rules.bucket import PLAIN, BucketState, TokenBucket
from async_throttle.rules.ends import CountedToEnd, End

if TYPE_CHECKING:
    from async_throttle._shell.core import Core
    from async_throttle._shell.door import Door

__all__ = ["Aloft", "Flight", "Flights", "Grip", "watch"]

LAST: Final = 64
"""So many calls that ended well tell how long a call may be on its way."""

AT_LEAST: Final = SECOND
"""No call lingers for less, unless the period is shorter or the user says so."""

LONGEST: Final = 60 * SECOND
"""No body is given up sooner, unless the user says so."""


class Flight:
    """A call in flight.

    Attributes:
        taken: the receipt of what the call holds in flight, which shrinks as the call is settled.
        weight: nanotokens that were asked for.
        owed: nanotokens that count from the end on: as asked for, or as settled.
        began: instant of the grant.
        who: the task, referred to weakly, or the thread that the grant was made for.
        loop: the event loop of that task; None of a thread.
        end: the end of the call; None before it has come.
        debts: what was settled above that since; see `settle`.
    """

    __slots__ = ("began", "debts", "end", "loop", "owed", "taken", "weight", "who")

    def __init__(self, taken: Receipt, began: int) -> None:
        self.taken = taken
        self.weight: int = taken[1]
        self.owed = self.weight
        self.began = began
        self.loop = asyncio._get_running_loop()
        self.who = whose()
        self.end: End | None = None
        self.debts: list[tuple[Any, int]] = []

    @property
    def flies(self) -> bool:
        """Whether the call is in flight: it was not undone, and has not ended."""
        return self.taken[2] is not UNTAKEN

    @property
    def lingers(self) -> bool:
        """Whether the end lies ahead."""
        return self.end is not None and not self.end.made


class Grip:
    """What a lease keeps of its flights, by the rule."""

    __slots__ = ("_core", "_epoch", "flights")

    def __init__(self, core: Any) -> None:
        self._core = core
        self._epoch = fast.EPOCH
        self.flights: dict[Rule, tuple[Flights, Flight]] = {}

    def hold(self, flights: Flights, taken: Receipt, now: int) -> None:
        """Keep the flight of a call that was granted *now*, which holds what was *taken*."""
        self.flights[flights.rule] = flights, flights.begin(taken, now)

    def flying(self, rule: Rule) -> int:
        """Nanotokens of *rule* that the call holds in flight."""
        _, flight = self.flights[rule]
        weight: int = flight.taken[1] if flight.flies else 0
        return weight

    def settle(self, rule: Rule, now: int, amount: int) -> None:
        """The call took *amount* of *rule* really."""
        flights, flight = self.flights[rule]
        find(self._core).queue.touched(rule)
        flights.settle(flight, now, amount)

    def finish(self, now: int, error: BaseException | None = None) -> None:
        """The call has ended, with *error*; flights that have ended already stay as they are."""
        for flights, flight in self.flights.values():
            flights.finish(flight, now, error)
        # Nobody has to look when it is collected.
        self.__class__ = Grip  # pyright: ignore[reportAttributeAccessIssue]

    def end(self) -> None:
        """The call has ended: its answer is there, also where the call lingers."""
        if any(flight.flies or flight.lingers for _, flight in self.flights.values()):
            self._do(self._end)

    def _do(self, change: Callable[[int], object]) -> None:
        if self._epoch == fast.EPOCH:
            scheduler = find(self._core)
            if not scheduler.quietly(change):
                scheduler.do(change, surely=True)

    def _end(self, now: int) -> None:
        find(self._core).queue.touched(*self.flights)
        self.finish(now)
        for flights, flight in self.flights.values():
            if flight.end is not None:
                flights.rule.hasten(now, flight.end)


class TightGrip(Grip):
    """The same while a call flies: it ends when the lease is collected."""

    __slots__ = ()

    def __del__(self) -> None:
        try:
            if any(flight.flies for _, flight in self.flights.values()):
                self._do(self._end)
        except AttributeError:  # its making was interrupted
            return


class Block:
    """A plain block that a shortcut began, and that ends the long way.

    Attributes:
        core: of the throttle.
        flight: its call.
        epoch: of the process in which the block began.
        done: filled once the slot was given back.
    """

    __slots__ = ("core", "done", "epoch", "flight")

    def __init__(self, core: Core, flight: Flight, epoch: int | None) -> None:
        self.core = core
        self.flight = flight
        self.epoch = fast.EPOCH if epoch is None else epoch
        self.done: list[bool] = []

    def _exit(self, error: BaseException | None) -> None:
        """The block ends, with *error*."""
        self._release(RELEASED, error)

    def _release(self, after: LeaseState, error: BaseException | None) -> None:
        """End the call, with *error*, and give the slot back, once."""
        core = self.core

        def leave(now: int) -> None:
            find(core).queue.touched(core.slots, core.rule)
            if not self.done and core.flights is not None:
                core.flights.finish(self.flight, now, error)
                held = core.slots.used > 0
                core.slots.free += held
                self.done.append(True)
                core.tell("release", 1)
                if not held:
                    raise one_too_many(core)

        if not self.done and self.epoch == fast.EPOCH:
            scheduler = find(core)
            if not scheduler.quietly(leave):
                scheduler.do(leave, surely=True)


class Aloft:
    """What is in flight at a scheduler: which calls are to be looked at when.

    Each event looks at this, and at the calls themselves only when something may have come of it.

    Attributes:
        flights: those of each throttle.
        loops: the event loops in which calls may be in flight.
        until: before this instant no call is waited for too long.
        armed: the calls of which shortcuts leave something undone; None without.
    """

    __slots__ = ("armed", "flights", "loops", "until")

    def __init__(self) -> None:
        self.flights: weakref.WeakSet[Flights] = weakref.WeakSet()
        self.loops: dict[asyncio.AbstractEventLoop, None] = {}
        self.until = NEVER
        self.armed: Flights | None = None

    def note(self, flights: Flights, flight: Flight) -> None:
        """The call of *flight*, one of *flights*, is in flight."""
        if flight.loop is not None:
            self.know(flight.loop)
        self.until = min(self.until, flights.gives_up(flight))

    def know(self, loop: asyncio.AbstractEventLoop) -> None:
        """Calls may be in flight in *loop* from now on; closed loops without any are forgotten."""
        if loop not in self.loops:
            loops = {loop: None}
            needed = {of for each in self.flights for of in each.loops()}
            loops.update({of: None for of in self.loops if of in needed or not of.is_closed()})
            self.loops = loops

    def account(self, scheduler: Door) -> None:
        """Account for what shortcuts have left undone."""
        if self.armed is not None:
            self.armed.blocks.account(self.armed, scheduler)
            if not scheduler.busy:
                scheduler.recalm()

    def sweep(self, now: int) -> list[Rule]:
        """End calls that are waited for too long, and those of closed loops: the rules of these."""
        closed = [loop for loop in self.loops if loop.is_closed()]
        if not closed and now < self.until:
            return []
        here = sorted(self.flights, key=_number)
        changed: list[Rule] = [each.rule for each in here if each.sweep(now, closed)]
        for loop in closed:
            del self.loops[loop]
        self.until = min([each.gives_up_at() for each in here], default=NEVER)
        return changed

    def waits_for_itself(self, options: Sequence[Option]) -> bool:
        """Whether a call fits in none of *options* beside the calls of this task in flight."""
        return all(map(_waits_for_itself, options))

    def shift(self, by: int) -> None:
        """Move in time by *by* nanoseconds: the clock was joined to another."""
        for flights in self.flights:
            flights.shift(by)
        self.until = min(self.until + by, NEVER)

    def absorbed(self, other: Aloft | None) -> Aloft:
        """This, with what *other* knows, whose scheduler was absorbed."""
        if other is not None:
            for flights in other.flights:
                self.flights.add(flights)
            self.loops.update(other.loops)
            self.until = min(self.until, other.until)
        return self


class Flights:
    """The calls in flight of a throttle.

    Attributes:
        rule: the rule of the throttle.
        flying: the calls in flight, in the order of their grants.
        mine: the same by task or thread.
        acquired: by weight, those of them that have no lease; and some that have ended.
        number: that of the core.
        span: nanoseconds for which a call lingers that may still be on its way, as the user gave
            them; None is found from the calls that ended well.
        patience: nanoseconds for which a body is waited for; None as long as it takes; Ellipsis is
            a period, or `LONGEST`.
        ended: how many calls have ended well.
        slow: of these, those of the last that took longer than `AT_LEAST`: their numbers and how
            long.
        warned: whether a body was given up.
        core: of the throttle, referred to weakly.
        blocks: the plain blocks of the throttle.
        held: what is in flight of the rule.
        bucket: the state of the other rule, where a shortcut may reach into it; None while the
            throttle is paused or closed or a call lingers, and where that rule is no plain bucket.
    """

    __slots__ = (
        "__weakref__",
        "acquired",
        "blocks",
        "bucket",
        "core",
        "ended",
        "flying",
        "held",
        "mine",
        "number",
        "patience",
        "rule",
        "slow",
        "span",
        "warned",
    )

    def __init__(
        self, core: Core, blocks: QuickBlocks, span: int | None, patience: int | EllipsisType | None
    ) -> None:
        self.core = weakref.ref(core)
        self.blocks = blocks
        self.rule = rule = cast(CountedToEnd, core.rule)
        self.held = rule.in_flight
        self.bucket: BucketState | None = None
        self.flying: dict[Flight, None] = {}
        self.mine: dict[Any, dict[Flight, None]] = {}
        self.acquired: dict[int, dict[Flight, None]] = {}
        self.number = core.number
        self.span = span
        self.patience = patience
        self.ended = 0
        self.slow: list[tuple[int, int]] = []
        self.warned = False
        forkables.add(self)

    def grip(self, core: Any) -> Grip:
        """What a lease of *core* keeps of its flights."""
        return TightGrip(core)

    # -- calls begin and end, inside the door -------------------------------------------

    def begin(self, taken: Receipt, now: int) -> Flight:
        """A call was granted *now*, and holds what was *taken*."""
        flight = Flight(taken, now)
        self._note(flight)
        self.mine.setdefault(flight.who, {})[flight] = None
        self.flying[flight] = None
        return flight

    def _note(self, flight: Flight) -> None:
        core = self.core()
        aloft = None if core is None else find(core).aloft
        if aloft is not None:
            aloft.note(self, flight)

    def _hold(self, receipts: list[Receipt], waited: int, option: Any, spans: Any) -> None:
        """A call without a lease is granted; the taker of such calls."""
        flight = self.begin(receipts[-1], find(option.asked).queue.now)
        self.acquired.setdefault(flight.weight, {})[flight] = None

    def finish(self, flight: Flight, now: int, error: BaseException | None = None) -> None:
        """The call of *flight* has ended, with *error*, unless it has before.

        A body that was cut short was sent, and may still be on its way. Between the first store to
        the rule and the last one here nothing can come in.
        """
        if not flight.flies:
            self._forget(flight)
            return
        taken, slow, flying, others = flight.taken, self.slow, self.flying, self.mine
        held: int = taken[1]
        lingers = isinstance(error, (CancelledError, TimeoutError))
        ended = self.ended + (error is None)
        took = now - flight.began
        if error is None and took > AT_LEAST:
            slow = [*(entry for entry in slow if entry[0] > ended - LAST), (ended, took)]
        if lingers and (span := self.lingers_for()):
            self.bucket = None
            end = self.rule.linger(now, held, flight.owed, span)
        else:
            end = self.rule.land(now, held, flight.owed)
        taken[2] = UNTAKEN
        flight.end = end
        self.ended = ended
        self.slow = slow
        if flight in flying:
            del flying[flight]
        if flight.who in others:
            theirs = others[flight.who]
            if flight in theirs:
                del theirs[flight]
            if not theirs:
                del others[flight.who]

    def _forget(self, flight: Flight) -> None:
        """The call of *flight* was undone."""
        self.flying.pop(flight, None)
        self.mine.get(flight.who, {}).pop(flight, None)

    def finish_lightest(self, now: int) -> None:
        """A call without a lease has ended; nobody says which."""
        flight = self._lightest()
        if flight is not None:
            self.finish(flight, now)

    def settle(self, flight: Flight, now: int, amount: int) -> None:
        """The call of *flight* took *amount* really.

        Before the end that only shrinks what is in flight; what is above becomes debt at the end.
        """
        end, taken = flight.end, flight.taken
        self.rule.elapse(now)
        if end is None:
            less = max(0, taken[1] - amount) if flight.flies else 0
            flight.owed = amount
            taken[1] -= less
            self.rule.in_flight.free += less
        elif not end.made:
            flight.owed = end.weight = amount
        else:
            before = flight.owed
            if amount < before:  # first: what is interrupted gives back too little
                flight.owed = amount
            settle(self.rule, now, end.receipt, flight.debts, amount - before)
            flight.owed = amount

    def reopen(self, *, may: bool) -> None:
        """See anew whether shortcuts may reach into the bucket, if the throttle has them *may*."""
        rule = self.rule
        may = may and type(rule.rule) in PLAIN and not rule.state
        self.bucket = cast(TokenBucket, rule.rule).state if may else None

    def write_out(self, epoch: int | None = None) -> None:
        """Plain blocks that shortcuts began get flights, and are blocks as others, of *epoch*."""
        core, blocks = self.core(), self.blocks
        if core is None:
            return
        find(core).last()
        opened = dict(blocks.opened)
        if not opened:
            return
        held, flying, mine = dict(self.blocks.held), list(self.flying), dict(self.mine)
        for task, began in opened.items():
            flight = Flight([self.held, TOKEN, None], began)
            flight.who, flight.loop = weakref.ref(task), task.get_loop()
            flying.append(flight)
            mine[flight.who] = {**mine.get(flight.who, {}), flight: None}
            held[id(task)] = [*held.get(id(task), ()), Block(core, flight, epoch)]
            self._note(flight)
        found = dict.fromkeys(sorted(flying, key=_began))
        none: dict[asyncio.Task[Any], int] = {}
        # All at once: nothing can come in between.
        blocks.held, self.flying, self.mine = held, found, mine
        blocks.opened, blocks.beside, blocks.counted = none, 0, 0

    def write_out_own(self) -> None:
        """Do so if a shortcut has begun the block that ends now.

        Else each of the blocks written out would write out those that were begun meanwhile.
        """
        inside = fast.who()
        opened = [self.blocks.solo, *self.blocks.opened]
        if inside not in self.blocks or any(id(task) == inside for task in opened):
            self.write_out()

    # -- questions ----------------------------------------------------------------------

    def lingers_for(self) -> int:
        """Nanoseconds for which a call lingers."""
        if self.span is not None:
            return self.span
        since = self.ended - LAST
        slowest = max([took for number, took in self.slow if number > since], default=0)
        return min(max(slowest, AT_LEAST), self.rule.period)

    def _lightest(self) -> Flight | None:
        """The lightest call in flight that has no lease; the oldest, if there are several."""
        for weight in sorted(self.acquired):
            alike = self.acquired[weight]
            while alike:
                flight = next(iter(alike))
                if flight.flies:
                    return flight
                del alike[flight]
            del self.acquired[weight]
        return None

    def own(self) -> int:
        """Nanotokens that calls hold which were made in the running task or thread."""
        self.write_out()
        mine = self.mine.get(whose(), {})
        return sum(flight.taken[1] for flight in list(mine) if flight.flies)

    def loops(self) -> set[asyncio.AbstractEventLoop | None]:
        """The event loops in which calls are in flight."""
        blocks = self.blocks
        opened = [task for task in (blocks.solo, *blocks.opened) if task is not None]
        flying = [flight.loop for flight in list(self.flying) if flight.flies]
        return {*flying, *(task.get_loop() for task in opened)}

    def gives_up_at(self) -> int:
        """The instant at which the oldest call in flight counts as ended; NEVER without one."""
        return next((self.gives_up(flight) for flight in self.flying if flight.flies), NEVER)

    def gives_up(self, flight: Flight) -> int:
        """The instant at which the call of *flight* counts as ended; NEVER without one."""
        patience = self.patience
        if patience is None:
            return NEVER
        if isinstance(patience, EllipsisType):
            patience = max(self.rule.period, LONGEST)
        return flight.began + patience

    # -- calls that end by themselves -----------------------------------------------------

    def sweep(self, now: int, closed: Sequence[asyncio.AbstractEventLoop]) -> bool:
        """End calls that are waited for too long, and those of *closed* loops; whether any did."""
        self.write_out()
        swept = False
        for flight in list(self.flying):
            if flight.loop in closed or not flight.flies:
                self.finish(flight, now)
                swept = True
        while self.gives_up_at() <= now:
            flight = next(flight for flight in self.flying if flight.flies)
            span = now - flight.began
            self.finish(flight, now, GeneratorExit())
            swept = True
            if not self.warned:
                self.warned = True
                self._warn(span)
        return swept

    def _warn(self, span: int) -> None:
        try:
            warnings.warn(
                f"a call in flight has not ended for {shown(span / SECOND)} s, and counts as ended "
                "from here on: release its lease, say lease.ended() when the answer is there, or "
                "give the throttle another longest=",
                RuntimeWarning,
                stacklevel=2,
            )
        except Warning as error:  # where warnings are errors
            unraisable(error)

    def shift(self, by: int) -> None:
        """Move in time by *by* nanoseconds: the clock was joined to another."""
        self.write_out()
        for flight in self.flying:
            flight.began += by

    def forked(self) -> None:
        """This is the child of a fork: the calls are in flight in the parent."""
        self.write_out(fast.EPOCH - 1)
        self.flying.clear()
        self.mine.clear()
        self.acquired.clear()


def watch(core: Core, span: int | None, patience: int | EllipsisType | None) -> Blocks:
    """Know which calls of *core* are in flight, from its construction on; its plain blocks."""
    blocks = QuickBlocks()
    core.flights = Flights(core, blocks, span, patience)
    scheduler: Any = core.scheduler
    aloft = scheduler.aloft = Aloft()
    aloft.flights.add(core.flights)
    blocks.loop = getattr(scheduler, "loop", None)
    aloft.loops.update({loop: None for loop in (blocks.loop,) if loop})
    cast(CountedToEnd, core.rule).flights = weakref.ref(core.flights)
    core.reopen()
    return blocks


def _waits_for_itself(option: Option) -> bool:
    """Whether a call of *option* does not fit in beside the calls of this task in flight."""
    for n, rule in option.lane.rates:
        if isinstance(rule, CountedToEnd) and option.weights[n] > rule.in_flight.free:
            flights = rule.flights()
            if flights is not None and flights.own() + option.weights[n] > rule.burst:
                return True
    return False


def _number(flights: Flights) -> int:
    return flights.number


def _began(flight: Flight) -> int:
    return flight.began


def whose() -> Any:
    """The task, referred to weakly, or the thread that runs."""
    loop = asyncio._get_running_loop()
    task = None if loop is None else asyncio.current_task(loop)
    return get_ident() if task is None else weakref.ref(task)
