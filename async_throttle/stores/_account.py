"""An account: what a throttle of this process has in a store, in the units of both.

The throttle counts in nanoseconds of its own clock and in nanotokens; the store in microseconds of
its clock and in millionths of a token. Weights are rounded so that no permit is minted: up where
they are taken, down where they are given back.
"""

from __future__ import annotations

import math
import os
import socket
import warnings
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from async_throttle._shell.clock import monotonic
from async_throttle._units import NEVER, SECOND, TOKEN
from async_throttle.rules import Rule
from async_throttle.rules.booked import (
    ASK,
    ITSELF,
    NOBODY,
    Booked,
    BookedSlots,
    BookedToEnd,
    Booking,
)
from async_throttle.rules.bucket import TokenBucket
from async_throttle.rules.clock import ClockWindow
from async_throttle.rules.slots import UNLIMITED
from async_throttle.rules.window import FixedWindow, SlidingWindow
from async_throttle.stores._state import (
    BUCKET,
    CLOCK,
    FIXED,
    MISMATCH,
    NO_RATE,
    SLIDING,
    STALE,
    ticks,
)

if TYPE_CHECKING:
    from async_throttle._shell.core import Core
    from async_throttle.stores import Store

__all__ = ["MICRO", "Account", "given", "kind_of", "new_generation", "wanted"]

MICRO: Final = 1_000
"""Nanoseconds in a microsecond, and nanotokens in a millionth of a token."""

ANY_NUMBER: Final = 10**9
"""More slots than there can be callers."""

_numbers = count(1)


def wanted(weight: int) -> int:
    """Nanotokens that are taken, in millionths of a token."""
    return -(-weight // MICRO)


def given(weight: int) -> int:
    """Nanotokens that are given back, in millionths of a token."""
    return weight // MICRO


def new_generation() -> int:
    """What a state begins with that is made anew, so that sessions notice."""
    return int.from_bytes(os.urandom(6), "big") + 1


def kind_of(rule: Rule) -> int:
    """What a rule is in a store.

    Raises:
        ValueError: it cannot be kept in a store.
    """
    if isinstance(rule.capacity, float):
        return NO_RATE
    for kind, number in (
        (ClockWindow, CLOCK),
        (TokenBucket, BUCKET),
        (SlidingWindow, SLIDING),
        (FixedWindow, FIXED),
    ):
        if isinstance(rule, kind):
            return number
    raise ValueError(
        "algorithm must be TokenBucket, GCRA, LeakyBucket, SlidingWindow, FixedWindow or "
        f"ClockWindow with a store, got {type(rule).__name__}"
    )


class Account:
    """What a throttle has in a store.

    Attributes:
        core: the throttle.
        name: of the limit, in the store.
        store: the store.
        rate, slots: the limits of the throttle.
        origin, made: by what a throttle is known that is pickled, and what it was made with.
        session: the name under which the store knows this throttle; "" before it was connected.
        former: names under which it was known before, which hold nothing any more.
        generation, until, version: of the state in the store, as told; see `_state._enter`.
        code: the parameters that this program says.
        initial: what is taken already in a state that begins, in the units of the store.
        operations, first: what the store has not confirmed yet, and the number before them.
        asked_at, answered_at: the instants of the last request, and of the last that was answered,
            by the clock of the session; 0 before.
        live: sessions that share the limit.
        held, flown: slots in hand, and what is in flight, as the store knows it; held is -1 if it
            may not know.
        ends: the rate, if calls are taken at their ends.
        opened: whether the store knows what *code* says.
        paused: whether all are paused, as the store said last.
        confirm: how many operations the store is to confirm until the paused state is believed.
    """

    __slots__ = (
        "answered_at",
        "asked_at",
        "code",
        "confirm",
        "core",
        "ends",
        "first",
        "flown",
        "former",
        "generation",
        "held",
        "initial",
        "live",
        "made",
        "name",
        "opened",
        "operations",
        "origin",
        "paused",
        "rate",
        "session",
        "slots",
        "store",
        "until",
        "version",
    )

    origin: tuple[type[Any], str]
    made: dict[str, Any]

    def __init__(self, core: Core, store: Store) -> None:
        rule: Any = core.rule
        slots: Any = core.slots
        self.ends: BookedToEnd | None = rule if isinstance(rule, BookedToEnd) else None
        rate: Any = rule if self.ends is None else self.ends.rule
        self.core = core
        self.store = store
        self.name = core.name or ""
        self.rate: Booked = rate
        self.slots: BookedSlots = slots
        self.session = ""
        self.former: list[str] = []
        self.generation = self.until = 0.0
        self.version = 0.0
        self.code = self.parameters()
        level = rate.rule.level(core.scheduler.clock.seen) if self.code[0] != NO_RATE else 0
        self.initial = (
            max(0, self.code[3] - math.floor(level * MICRO * MICRO)) if self.code[0] else 0
        )
        self.operations: list[list[Any]] = []
        self.first = self.confirm = self.held = self.flown = 0
        self.asked_at = self.answered_at = 0
        self.live = 1
        self.opened = self.paused = False

    # -- what is said ---------------------------------------------------------------------

    def parameters(self) -> list[int]:
        """The parameters of the limit, as they are here."""
        rule = self.rate.rule
        slots = 0 if self.slots.limit == UNLIMITED else self.slots.limit
        kind = kind_of(rule)
        if kind == NO_RATE:
            return [NO_RATE, 0, 0, 0, slots, 1, 1, 0]
        capacity, period = given(int(rule.capacity)), wanted(rule.period)
        burst = given(int(rule.burst))
        if not capacity or not burst:
            raise ValueError(
                f"capacity must be at least 1e-6 with a store, got {rule.capacity / TOKEN!r}"
            )
        ends = int(self.ends is not None)
        return [kind, capacity, period, burst, slots, *ticks(capacity, period), ends]

    def entry(self, now: int, *, grace: int, wall: int, waiting: int) -> dict[str, Any]:
        """What a request says of the limit, at *now* by the clock of the session; see `_enter`."""
        self.note_operations()
        since = (now - self.answered_at) // MICRO if self.answered_at else 0
        self.held = self.hand
        self.flown = self.flying
        entry = {
            "id": self.session,
            "since": since,
            "gen": self.generation,
            "until": self.until,
            "fresh": new_generation(),
            "open": 0 if self.opened else 2 if self.store.on_mismatch == "raise" else 1,
            "code": self.code,
            "version": self.version,
            "initial": self.initial,
            "held": self.held,
            "flying": self.flown,
            "waiting": waiting,
            "first": self.first,
            "ops": self.operations,
            "edges": self._edges(wall, grace),
            "ahead": self._ahead(now, grace * MICRO),
        }
        self.asked_at = now
        return entry

    def _ahead(self, now: int, grace: int) -> int:
        """The weight that callers to come will take: as much as they took in half of the grace.

        That doubles from request to request at most. It is nothing where they come seldom, and no
        more than the horizon brings back: so much is lost with a process that dies.
        """
        rate = self.rate
        calls, taken = rate.calls, rate.taken
        rate.calls = rate.taken = 0
        rule = rate.rule
        if not calls or self.ends is not None or rule.capacity == math.inf:
            return 0
        each, span = taken // calls, now - self.asked_at
        if not each:
            return 0
        soon = calls * grace // (2 * span) if span > 0 else 2 * calls
        most = int(rule.capacity * round(self.store.horizon * SECOND) // rule.period) // each
        return given(min(2 * calls, soon, most) * each)

    def _edges(self, wall: int, grace: int) -> list[list[int]]:
        """The windows around the time of the store, in which a booking has the grace to be used."""
        rule = self.rate.rule
        if not isinstance(rule, ClockWindow):
            return []
        return [
            [opens // MICRO + 1, closes // MICRO - grace, ends // MICRO]
            for opens, closes, ends in rule.windows(wall, 3)
        ]

    def note_operations(self) -> None:
        """Have what the rate has to tell in the units of the store."""
        operations, self.rate.operations = self.rate.operations, []
        for what, *args in operations:
            if what == "back":
                said = [what, args[0], given(args[1])]
            elif what in ("charge", "end"):
                said = [what, wanted(args[0])]
            elif what == "lower":
                level, promised, span = args
                said = [what, given(level), given(promised), -1 if span is None else span // MICRO]
            elif what == "set":
                said = [what, self.parameters()]
            else:
                said = [what, *args]
            self.operations.append(said)

    def say(self, *operation: Any) -> None:
        """Have the store told of an operation."""
        self.note_operations()
        self.operations.append(list(operation))
        self.confirm = self.first + len(self.operations)

    def pause(self, span: int, empties: bool) -> None:
        """Everybody is paused, and what was booked goes back."""
        self.rate.give_back_all()
        self.say("pause", -1 if span >= NEVER else span // MICRO, int(empties))

    @property
    def others(self) -> int:
        """Slots that other sessions have."""
        return self.slots.others

    @property
    def quiet(self) -> bool:
        """Whether the store knows all that it has to be told."""
        return not (self.has_news or self.spares)

    @property
    def bounded(self) -> bool:
        """Whether there is a number of slots."""
        return self.slots.limit != UNLIMITED

    @property
    def has_news(self) -> bool:
        """Whether the store does not know how things stand here."""
        if self.operations or self.rate.operations or self.former:
            return True
        if self.hand != self.held:
            return True
        return self.ends is not None and self.flying < self.flown

    @property
    def spares(self) -> bool:
        """Whether slots are in hand that nobody uses."""
        return self.rate.source == ASK and self.bounded and self.slots.free > 0

    @property
    def hand(self) -> int:
        """The slots that the store is told of: while it is away, those that are used."""
        slots = self.slots
        if not self.bounded:
            return 0
        return slots.hand if self.rate.source == ASK else slots.used

    @property
    def flying(self) -> int:
        """What is held in flight, used or not, in the units of the store."""
        ends = self.ends
        if ends is None:
            return 0
        more = max(0, ends.used - ends.rule.base)
        hand = sum([booking.amount for booking in ends.rule.bookings])
        return wanted(ends.used + max(0, hand - more))

    def book(self, booking: Booking) -> None:
        """The store has booked something."""
        self.rate.book(booking)
        if self.ends is not None:
            self.flown += wanted(booking.amount)

    def sweep(self, now: int) -> bool:
        """See what is held, and whether any booking has expired."""
        before = len(self.rate.bookings)
        if self.ends is not None:
            self.ends.elapse(now)
            self.ends.rule.use(self.ends.used, now)
        after = len(self.rate.bookings)
        self.rate.sweep(now)
        return len(self.rate.bookings) < min(before, after)

    @property
    def holds(self) -> bool:
        """Whether the store keeps something for this session that others lack."""
        return self.hand > 0 or (self.ends is not None and self.flying > 0)

    def is_due(self, beat: int) -> bool:
        """Whether it is time to tell the store that this session still lives."""
        return monotonic() >= self.asked_at + beat

    def in_hand(self, rule: Rule, now: int) -> int:
        """What may be used of *rule*, which is the rate or the slots."""
        return self.slots.free if rule is self.slots else self.rate.in_hand(now)

    # -- sessions -------------------------------------------------------------------------

    def connect(self, address: str) -> None:
        """Be known to the store by a name with this address from now on."""
        if self.session.split("/")[2:3] != [address]:
            if self.session:
                self.former.append(self.session)
            host = socket.gethostname().replace("/", "_")
            self.session = f"{host}/{os.getpid()}/{address}/{next(_numbers)}"
            self.asked_at = self.answered_at = 0

    def farewell(self, former: str) -> dict[str, Any]:
        """What a request says of a session that is no more."""
        return {
            **self.entry(0, grace=0, wall=0, waiting=0),
            "id": former,
            "since": 0,
            "held": 0,
            "flying": 0,
            "first": 0,
            "ops": [],
            "edges": [],
            "ahead": 0,
        }

    def begin_anew(self) -> None:
        """This is the child of a fork: another session, which holds nothing."""
        self.session = ""
        self.former = []
        self.operations = []
        self.first = self.confirm = self.asked_at = self.answered_at = self.held = self.flown = 0
        self.rate.operations = []
        self.rate.bookings = []
        if self.ends is not None:
            self.ends.rule.base = 0
        self.slots.begin_anew()

    def lose(self, state: bool) -> None:
        """The store has lost the state, or has given away what this session held."""
        self.rate.bookings = []
        if state:
            return
        what = (
            f"the store took back what {self.core!r} held: this process was not heard of for the "
            "store's ttl; others may hold the same slots"
        )
        self.core.tell("lost", what)
        warnings.warn(what, RuntimeWarning, stacklevel=2)

    def stand_in(self, source: Any, now: int) -> None:
        """Have permits come from *source*: the store, what stands in for it, or an error."""
        if self.rate.source == source:
            return
        self.rate.source = source
        slots = self.slots
        if source == ITSELF:
            rule = self.rate.fresh.fork()
            live = self.live
            if self.code[0] != NO_RATE:
                windows = self.code[0] in (SLIDING, FIXED, CLOCK)
                share = max(1, int(rule.burst) // live)
                capacity = max(1, int(rule.capacity) // live)
                rule.configure(now, capacity, rule.period, None if windows else share)
                self.rate.rule = rule
            if self.bounded:
                slots.stand_in(max(1, slots.limit // live))
        elif source == NOBODY or (source != ASK and self.code[0] != NO_RATE):
            slots.stand_in(slots.used + ANY_NUMBER)  # the rate has an error for everybody, if any
        else:
            slots.stand_in(0)
        self.rate.bookings = []

    # -- what is told ---------------------------------------------------------------------

    def hear(self, told: list[Any], at: float, now: int, expires: int) -> int:
        """The store has told of the limit *at* its time, at *now* by the clock of the throttle.

        Args:
            expires: the instant by which stock is to be used.

        Returns:
            A mark: see `_state`.
        """
        mark, gen, done, lasts, level, paused, held, active, _, live, _, version, code, set_ = told[
            :14
        ]
        if mark in (STALE, MISMATCH):
            return int(mark)
        self.answered_at = self.asked_at
        confirmed = int(done) - self.first
        if confirmed > 0:
            del self.operations[:confirmed]
            self.first = int(done)
        self.generation = gen
        self.until = at + lasts
        self.opened = True
        self.paused = paused != 0
        self.live = max(1, int(live))
        self.slots.others = int(active) - int(held)
        if version:
            self.version = version
            self.code = [int(value) for value in code]
            self._adopt(now, [int(value) for value in set_])
        receipt, stock = told[14:]
        if stock:
            self.rate.book(Booking(now, expires, int(stock) * MICRO, receipt, stock=True))
        if self.code[0] != NO_RATE:
            self.rate.told(now, (int(level) + self.flown) * MICRO)
        if not self.operations and self.confirm <= self.first:
            self.core.follow(now, NEVER if paused < 0 else now + int(paused) * MICRO)
        return int(mark)

    def _adopt(self, now: int, parameters: list[int]) -> None:
        """Have the parameters that the store has."""
        if parameters == self.parameters() or any(op[0] == "set" for op in self.operations):
            return
        kind, capacity, period, burst, slots, *_ = parameters
        core = self.core
        if kind == kind_of(self.rate.rule) != NO_RATE:
            windows = kind in (SLIDING, FIXED, CLOCK)
            self.rate.adopt(
                now, capacity * MICRO, period * MICRO, None if windows else burst * MICRO
            )
        limit = slots or UNLIMITED
        if limit != self.slots.limit:
            self.slots.resize(limit)
        core.refitted()
