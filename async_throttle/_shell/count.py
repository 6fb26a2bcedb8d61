"""What a server says of its own count, and what follows from that for a throttle.

A server that others use as well has counted calls that were made elsewhere. Its answers say what it
has left. The level here is lowered to that, and never raised: see `Rule.lower`.

An answer does not know of the calls that were granted meanwhile and have not arrived yet. Those are
in flight: their weight is the weight of the calls that hold a slot. A slot says that a call is in
flight, and not what it weighs; its lease does. So that calls of throttles that never ask for it pay
nothing, no lease is noted before the first count is shared. Then the leases that there are already
are looked up once, and those made from then on that weigh more or less than one for each slot are
noted, weakly, at their throttle. (A call whose weight is settled later has had its answer then: it
is not in flight any more, and counts as one until its slot comes back.)
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import compress
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from async_throttle._engine.lane import GRANTED, Receipt
from async_throttle._shell.lease import BaseLease
from async_throttle._shell.scheduler import find
from async_throttle._shell.states import RELEASED
from async_throttle._shell.tally import tally_of
from async_throttle._units import SECOND, TOKEN, number

if TYPE_CHECKING:
    from async_throttle._shell.core import Core

__all__ = ["SAYS", "Count", "held", "in_flight", "know", "know_parts", "under_way"]

SAYS: Final = ("remaining", "used", "limit", "reset", "shared", "lease", "at")
"""What a reading may say."""

MOST: Final = 1e15
"""No server means more than this: a reading above it stands for something else."""

AHEAD: Final = SECOND // 1000
"""Nanoseconds by which an answer may seem to have been read in the future: floats are rounded."""


class Count:
    """What a server says of its count: one reading, checked.

    Attributes:
        remaining: nanotokens that the server has left; None if it does not say.
        used: nanotokens that it has counted; None if it does not say.
        limit: nanotokens that it allows; None if it does not say.
        reset: nanoseconds until its window is over; None if it does not say.
        shared: whether others use the quota as well.
        lease: the call whose answer this is; None if that is not known.
        at: the clock when the answer was read, in nanoseconds; None is now.
        absurd: whether a number cannot be meant.
    """

    __slots__ = ("absurd", "at", "lease", "limit", "remaining", "reset", "shared", "used")

    def __init__(
        self,
        remaining: float | None = None,
        used: float | None = None,
        limit: float | None = None,
        reset: float | None = None,
        shared: bool = False,
        lease: BaseLease | None = None,
        at: float | None = None,
    ) -> None:
        self.absurd = False
        self.remaining = self._read("remaining", remaining)
        self.used = self._read("used", used)
        self.limit = self._read("limit", limit)
        self.reset = self._read("reset", reset)
        self.at = self._read("at", at, least=-MOST)
        if not isinstance(shared, bool):
            raise TypeError(f"shared must be True or False, got {shared!r}")
        if lease is not None and not isinstance(lease, BaseLease):
            raise TypeError(f"lease must be the lease of a call, or None, got {lease!r}")
        self.shared = shared
        self.lease = lease

    def _read(self, name: str, value: Any, least: float = 0.0) -> int | None:
        """A number in billionths; one that cannot be meant makes the reading absurd."""
        if value is None:
            return None
        if type(value) is int and 0 <= value <= MOST:  # the usual case
            return value * TOKEN
        try:
            found = value if type(value) is float else number(name, value)
        except ValueError:
            found = MOST + 1
        if isinstance(value, bool) or not least <= found <= MOST:
            self.absurd = True
            return None
        units = int(value)  # of what was given: as a float it might have lost its fraction
        amount: int = units * TOKEN + round((value - units) * TOKEN)
        return amount

    def tell(self, core: Core) -> None:
        """Lower the level of the throttle, by a shortcut if calls in flight need no accounting."""
        lower, scheduler = partial(self.lower, core), find(core)
        if core.flights is not None or not scheduler.quietly(lower):
            scheduler.do(lower)

    def lower(self, core: Core, now: int) -> None:
        """Lower the level of the throttle to what the server has left, inside the door."""
        rule = core.rule
        says = self.absurd or self.remaining is not None or self.used is not None
        if isinstance(rule.capacity, float) or not says:
            return
        scheduler = find(core)
        ahead = scheduler.clock.shift
        at = self._read_at(core, now - ahead)
        if at is None:
            tally_of(core).ignored += 1
            return
        said = self.remaining
        if said is None:
            most = rule.capacity if self.limit is None else self.limit
            said = max(0, most - (self.used or 0))
        until = None if self.reset is None else at + self.reset + ahead
        level = said - in_flight(core, self.lease) if self.shared else said
        scheduler.queue.touched(rule)
        rule.lower(now, level, said, until)
        core.heard = at
        core.tell("change", level)

    def _read_at(self, core: Core, present: int) -> int | None:
        """The reading of the clock when the answer was read; None if the answer is void.

        It is if it is absurd, if its window is over, and if a later answer was heard already: one
        that was not read in the future, by a clock that was put back since.
        """
        at = present if self.at is None else min(self.at, present)
        if self.absurd or (self.at is not None and self.at > present + AHEAD):
            return None
        if core.heard is not None and at < core.heard <= present:
            return None
        over = self.reset is not None and at + self.reset <= present
        return None if over else at


def in_flight(core: Core, less: BaseLease | None = None) -> int:
    """Nanotokens of the calls of *core* that were granted and have not ended, without *less*.

    What holds a slot and has no lease, a plain block or an `acquire`, counts as one token. So does
    a lease of which nothing is known, because no reference to it is left.
    """
    if core.flights is not None:
        return core.flights.rule.flying(find(core).queue.now) - held(less, core)[1]
    calls = core.calls
    if calls is None:
        calls = core.calls = WeakKeyDictionary()
        find(core).shared = True
        try:
            _look_up(core, calls)
        except BaseException:
            core.calls = None
            raise
    total = core.slots.used * TOKEN
    for lease in under_way(calls, less):
        slots, weight = held(lease, core)
        total += weight - slots * TOKEN
    return total - held(less, core)[0] * TOKEN + _handed_over(core)


def know(core: Core, leases: Iterable[BaseLease]) -> None:
    """These *leases* may be of calls of *core*: from now on it may be asked what they weigh."""
    calls = core.calls
    if calls is not None:
        for lease in leases:
            calls[lease] = None


def know_parts(members: Iterable[Core], lease: BaseLease, receipts: Iterable[Receipt]) -> None:
    """*lease* is of a call of a set of *members*, of whom each may be asked what it weighs."""
    taken = {rule: weight for rule, weight, _ in receipts}
    for core in members:
        if taken.get(core.rule, 0) != taken.get(core.slots, 0) * TOKEN:
            know(core, (lease,))


def held(lease: BaseLease | None, core: Core) -> tuple[int, int]:
    """Slots and nanotokens of *core* that *lease* holds."""
    return (0, 0) if lease is None else lease._in_flight(core)


def under_way(
    calls: WeakKeyDictionary[BaseLease, None], less: BaseLease | None
) -> Iterator[BaseLease]:
    """The leases of *calls*, but *less*, whose calls have not ended for good.

    The others are taken out: who keeps a response keeps its lease.
    """
    for known in calls.keyrefs():  # in one step: other threads may add to them meanwhile
        lease = known()
        if lease is None:
            continue
        if getattr(lease, "_state", None) is RELEASED:  # it may be in the making
            calls.pop(lease, None)
        elif lease is not less:
            yield lease


def _look_up(core: Core, calls: WeakKeyDictionary[BaseLease, None]) -> None:
    """Know the leases of the calls in flight, of which *calls* are those that are known.

    The youngest objects are searched first. There may be millions of others, which are looked at
    only while it is not known who holds each slot; no step of that is written in Python.
    """
    kinds: list[Any] = [BaseLease]
    for kind in kinds:
        kinds += kind.__subclasses__()
    theirs = {*map(id, kinds)}
    for generation in range(3):
        if sum(held(known(), core)[0] for known in calls.keyrefs()) >= core.slots.used:
            return
        there = gc.get_objects(generation)
        know(core, compress(there, map(theirs.__contains__, map(id, map(type, there)))))


def _handed_over(core: Core) -> int:
    """By how much calls that were granted, and do not run yet, weigh more than a token each."""
    scheduler: Any = find(core)
    total = 0
    for waiter in [*scheduler.handed_over, *getattr(scheduler, "sleepers", ())]:
        if waiter.state is GRANTED:
            taken = {rule: weight for rule, weight, _ in waiter.receipts}
            if core.slots in taken:
                total += taken.get(core.rule, 0) - taken[core.slots] * TOKEN
    return total
