"""Throttles that are obviously right, and slow: the yardstick of ``test_machine.py``.

Written from the documented promises, sharing no code and no idea with the package. The rules keep
*all* that was ever taken and read the level by replaying it. Who may go is found out by asking
everybody again, in the order of their ranks, at every instant at which anything could have become
different. Time is told (nanoseconds since any origin), weights are whole 1e-9 tokens, and what
lies between two nanoseconds is a `fractions.Fraction`: nothing is ever rounded except the instant
a caller sees, the first whole nanosecond at which it may go.

`Bucket`, `Sliding` and `Fixed` say how much is left, `ToTheEnd` what of it is in flight, `Hall` who
may go, `Oracle` is the whole: what is asked, taken, given back and told. `Alone` is a throttle that
is asked alone, a set of one.
"""

from __future__ import annotations

import copy
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any, Literal, NamedTuple

TOKEN = 10**9
"""One token, in the unit of all weights and capacities."""

MS = 10**6
"""One millisecond, in the unit of all instants."""

LATE = 5 * MS
"""How late a timer may be and still be paid back to a bucket."""

Instant = int | Fraction
Time = int | float
"""An instant in nanoseconds, or `math.inf`."""
Algorithm = Literal["TokenBucket", "GCRA", "LeakyBucket", "SlidingWindow", "FixedWindow"]


# ------------------------------------------------------------------------- how much is left


@dataclass(slots=True)
class Entry:
    """Something was taken at an instant. A refund makes *weight* smaller: history is rewritten."""

    at: Instant
    weight: int


@dataclass(slots=True)
class Change:
    """From this instant on, these numbers hold."""

    at: Instant
    capacity: int
    period: int
    burst: int


@dataclass(slots=True)
class Emptied:
    """At this instant a pause ended that asked for an empty start."""

    at: Instant


@dataclass(slots=True)
class Lowered:
    """A server had counted *by* more than was taken here, and had *said* what it had left."""

    at: Instant
    by: Fraction
    said: int


class Bucket:
    """*capacity* tokens trickle in per *period*, never above *burst*; debt is a level below 0."""

    def __init__(self, born: int, capacity: int, period: int, burst: int, level: int) -> None:
        self.initial = level
        self.history: list[Entry | Change | Emptied | Lowered] = [
            Change(born, capacity, period, burst)
        ]
        self.forget()

    def forget(self) -> None:
        """Live through everything again when next looked at."""
        first = self.history[0]
        assert isinstance(first, Change)
        self.lived, self.now, self.left, self.numbers = 0, first.at, Fraction(self.initial), first

    def level(self, at: Instant) -> Fraction:
        """The tokens left at *at*, by living through everything that happened up to then."""
        for event in self.history[self.lived :]:
            self.left, self.now = self._at(event.at), event.at
            match event:
                case Entry(_, weight):
                    self.left -= weight
                case Change(_, _, _, burst):
                    self.left = min(Fraction(math.floor(self.left)), Fraction(burst))
                    self.numbers = event
                case Emptied(_):
                    self.left = min(self.left, Fraction(0))
                case Lowered(_, by, said):
                    self.left = min(self.left - by, Fraction(said))
            self.lived += 1
        return self._at(at)

    def _at(self, at: Instant) -> Fraction:
        numbers = self.numbers
        come = Fraction(numbers.capacity * (at - self.now), numbers.period)
        return min(Fraction(numbers.burst), self.left + come)

    def ready(self, at: Instant, weight: int) -> Instant:
        """The first instant from *at* on that finds *weight* there, if nothing else happens."""
        missing = weight - self.level(at)
        if missing <= 0:
            return at
        return at + missing * Fraction(self.numbers.period, self.numbers.capacity)

    def take(self, at: Instant, weight: int) -> Entry:
        entry = Entry(self._not_idle_yet(at), weight)
        self.history.append(entry)
        return entry

    def _not_idle_yet(self, at: Instant) -> Instant:
        """The instant from which a take at *at* counts: up to 1 ns ago, if it was full since.

        What fills between two nanoseconds can be taken only at the second; nothing is lost by that.
        """
        since = max(at - 1, self.history[-1].at)
        if self.level(since) >= self.numbers.burst:
            return since if since > at - 1 else at
        return min(at, self.ready(since, self.numbers.burst))

    def refund(self, entry: Entry, at: Instant, weight: int) -> None:
        """The replay does the rest: what was lost at the rim of a full bucket stays lost."""
        entry.weight -= weight
        self.forget()

    def empty(self, at: Instant) -> None:
        self.history.append(Emptied(at))

    def lower(self, at: Instant, level: int, said: int, until: int | None) -> None:
        """*level* at most is left, and *said* at most with what is given back later of before."""
        self.history.append(Lowered(at, max(Fraction(0), self.level(at) - level), said))

    def change(self, at: Instant, capacity: int, period: int, burst: int) -> None:
        self.history.append(Change(at, capacity, period, burst))

    def granted_as_if_at(self, due: int, clock: int) -> Instant:
        """The instant a grant counts from, if it was due at *due* and is made at *clock*."""
        return max(due, clock - LATE)


class Window:
    """At most *capacity* inside; what a window is, the two kinds below say."""

    def __init__(self, born: int, capacity: int, period: int, initial: int) -> None:
        self.born, self.capacity, self.period = born, capacity, period
        self.history = [Entry(born, capacity - initial)]
        self.lowered: list[Entry] = []  # by when it is forgotten

    def together(self, entry: Instant, at: Instant) -> bool:
        """Whether something taken at *entry* still counts at *at*."""
        raise NotImplementedError

    def leaves(self, entry: Instant) -> int:
        """The instant at which something taken at *entry* stops counting."""
        raise NotImplementedError

    def level(self, at: Instant) -> Fraction:
        inside = sum(entry.weight for entry in self.history if self.together(entry.at, at))
        inside += sum(entry.weight for entry in self.lowered if at < entry.at)
        return Fraction(self.capacity - inside)

    def ready(self, at: Instant, weight: int) -> Instant:
        instants = [at, *(self.leaves(entry.at) for entry in self.history)]
        instants += [entry.at for entry in self.lowered]
        return min(t for t in instants if t >= at and self.level(t) >= weight)

    def take(self, at: Instant, weight: int) -> Entry:
        entry = Entry(at, weight)
        self.history.append(entry)
        return entry

    def refund(self, entry: Entry, at: Instant, weight: int) -> None:
        entry.weight -= weight

    def empty(self, at: Instant) -> None:
        """As if all of the capacity had been used at *at*: what was inside is one entry now."""
        full = max(self.capacity, math.ceil(self.capacity - self.level(at)))
        self.history, self.lowered = [Entry(at, full)], []

    def lower(self, at: Instant, level: int, said: int, until: int | None) -> None:
        """What others have used counts until *until*, whatever becomes of the calls here."""
        more = math.ceil(self.level(at)) - level
        if more > 0:
            self.lowered.append(Entry(at + self.period if until is None else until, more))

    def change(self, at: Instant, capacity: int, period: int, burst: int) -> None:
        """What has left has left: a longer period does not bring it back."""
        self.history = [entry for entry in self.history if self.together(entry.at, at)]
        self.capacity, self.period = capacity, period

    def granted_as_if_at(self, due: int, clock: int) -> Instant:
        """Windows record the real instant."""
        return clock


class Sliding(Window):
    """Every half-open [t, t + period) holds at most *capacity*."""

    def together(self, entry: Instant, at: Instant) -> bool:
        return at - entry < self.period

    def leaves(self, entry: Instant) -> int:
        return math.ceil(entry) + self.period

    def take(self, at: Instant, weight: int) -> Entry:
        """Nothing counts before what was taken before: an end counts from the next nanosecond."""
        inside = [entry for entry in self.history if self.together(entry.at, at - 1)]
        self.history = inside if any(entry.weight for entry in inside) else []
        return super().take(max([at, *(entry.at for entry in self.history)]), weight)


class Fixed(Window):
    """A window opens when something counts, is over a period later, and holds at most *capacity*.

    The history is what was taken in the last window. If nothing of it counts, it is not open.
    """

    def __init__(self, born: int, capacity: int, period: int, initial: int) -> None:
        super().__init__(born, capacity, period, initial)
        self.over: Instant = born + period

    def is_open(self, at: Instant) -> bool:
        counts = any(entry.weight for entry in self.history)
        return at < self.over and (counts or any(at < entry.at for entry in self.lowered))

    def together(self, entry: Instant, at: Instant) -> bool:
        return at < self.over

    def leaves(self, entry: Instant) -> int:
        return math.ceil(self.over)

    def take(self, at: Instant, weight: int) -> Entry:
        self.open(at)
        return super().take(at, weight)

    def open(self, at: Instant) -> None:
        if not self.is_open(at):
            self.history, self.over = [], at + self.period

    def empty(self, at: Instant) -> None:
        self.open(at)
        super().empty(at)

    def lower(self, at: Instant, level: int, said: int, until: int | None) -> None:
        if self.level(at) > level:
            self.open(at)
        super().lower(at, level, said, until)

    def change(self, at: Instant, capacity: int, period: int, burst: int) -> None:
        """What is inside counts until a new period after the window opened."""
        self.over += period - self.period if self.is_open(at) else at - self.over
        super().change(at, capacity, period, burst)


class Unlimited:
    """No rate at all (*capacity* is infinite)."""

    def level(self, at: Instant) -> float:
        return math.inf

    def ready(self, at: Instant, weight: int) -> Instant:
        return at

    def take(self, at: Instant, weight: int) -> Entry:
        return Entry(at, weight)

    def refund(self, entry: Entry, at: Instant, weight: int) -> None:
        entry.weight -= weight

    def empty(self, at: Instant) -> None: ...

    def lower(self, at: Instant, level: int, said: int, until: int | None) -> None: ...

    def change(self, at: Instant, capacity: int, period: int, burst: int) -> None: ...

    def granted_as_if_at(self, due: int, clock: int) -> Instant:
        return due


@dataclass(eq=False)
class Flight:
    """A call in flight.

    Attributes:
        began: when it was granted.
        asked: the weight that it asked for.
        weight: what it holds in flight.
        owed: what counts from its end on.
        until: when a call that may still be on its way ends; None, if it is not cut short.
        parts: what was taken for it, once it has ended.
    """

    began: int
    asked: int
    weight: int
    owed: int
    until: int | None = None
    parts: list[Entry] = field(default_factory=list)


class ToTheEnd:
    """Of the *inner* rule a call is taken at its end; until then it is in flight.

    *flying* are the calls in flight, in the order of their grants, *cut* those that linger. An end
    counts from the next nanosecond on. How long a call lingers: *linger*, or as long as the slowest
    of the last 64 that ended well, a second at least, a period at most.
    """

    def __init__(
        self, inner: Bucket | Sliding, burst: int, period: int, linger: int | None
    ) -> None:
        self.inner, self.burst, self.period, self.linger = inner, burst, period, linger
        self.flying: list[Flight] = []
        self.cut: list[Flight] = []
        self.latest: Instant = 0
        self.well: list[int] = []

    @property
    def used(self) -> int:
        return sum(flight.weight for flight in self.flying)

    def in_flight(self, at: Instant) -> int:
        """Also what lingers at *at*."""
        return self.used + sum(flight.owed for flight in self.cut if lands_at(flight) > at)

    def landed(self, at: Instant, *, all_of_them: bool = False) -> Bucket | Sliding:
        """The inner rule as it is at *at*; or as if all that is in flight ended then."""
        inner = fork(self.inner, at)
        assert isinstance(inner, Bucket | Sliding)
        for flight in self.cut:
            if lands_at(flight) <= at:
                inner.take(lands_at(flight) + 1, flight.owed)
        if all_of_them and self.in_flight(at):
            inner.take(at, self.in_flight(at))
        return inner

    def after_ends(self, at: Instant) -> Instant:
        """The next nanosecond, if an end is at *at*: it counts only then."""
        late = [lands_at(flight) + 1 for flight in self.cut if lands_at(flight) <= at]
        return max([at, self.latest, *late])

    def elapse(self, at: Instant) -> None:
        """Those whose time is up linger no longer."""
        for flight in [flight for flight in self.cut if lands_at(flight) <= at]:
            self.cut.remove(flight)
            self._land(lands_at(flight), flight)

    def _land(self, at: Instant, flight: Flight) -> None:
        self.latest = at + 1
        flight.parts.append(self.inner.take(at + 1, flight.owed))

    def level(self, at: Instant) -> Fraction:
        return self.landed(at).level(at) - self.in_flight(at)

    def shown(self, at: Instant) -> Fraction:
        """The level, as it is said."""
        return self.landed(at).level(self.after_ends(at)) - self.in_flight(at)

    def ready(self, at: Instant, weight: int) -> Instant | float:
        """Never, if somebody has to end for it."""
        ends = sorted(lands_at(flight) for flight in self.cut if lands_at(flight) > at)
        for start, end in zip([at, *ends], [*ends, math.inf], strict=True):
            wanted = weight + self.in_flight(start)
            if wanted <= self.burst:
                ready = self.landed(start).ready(start, wanted)
                if math.ceil(ready) <= end:
                    return ready
        return math.inf

    def take(self, at: Instant, weight: int) -> Entry:
        """What has no end counts at once."""
        self.elapse(at)
        return self.inner.take(at, weight)

    def refund(self, entry: Entry, at: Instant, weight: int) -> None:
        self.inner.refund(entry, at, weight)

    def begin(self, at: int, weight: int) -> Flight:
        self.elapse(at)
        self.flying.append(Flight(at, weight, weight, weight))
        return self.flying[-1]

    def end(self, flight: Flight, at: int, *, cut: bool = False, well: bool = True) -> None:
        """The call of *flight* ends; it lingers, if it was *cut* short."""
        self.elapse(at)
        self.flying.remove(flight)
        if well and not cut:
            self.well.append(at - flight.began)
        if cut and (span := self.lingers_for()):
            flight.until = at + span
            self.cut.append(flight)
        else:
            self._land(at, flight)

    def lingers_for(self) -> int:
        if self.linger is not None:
            return self.linger
        return min(max([1000 * MS, *self.well[-64:]]), self.period)

    def hasten(self, flight: Flight, at: int) -> None:
        """It has ended after all, if it lingers."""
        self.elapse(at)
        if flight in self.cut:
            self.cut.remove(flight)
            self._land(at, flight)

    def settle(self, flight: Flight, at: int, actual: int) -> None:
        """Before the end what is in flight only shrinks; what is above is owed at the end."""
        self.elapse(at)
        if flight.parts:
            settle(self, flight.parts, at, actual)
        elif flight in self.flying:
            flight.weight = min(flight.weight, actual)
        flight.owed = actual

    def empty(self, at: Instant) -> None:
        self.elapse(at)
        if isinstance(self.inner, Window):
            self.inner.empty(at)
        else:
            self.lower(at, 0, 0, None)

    def lower(self, at: Instant, level: int, said: int, until: int | None) -> None:
        """What is in flight comes on top of what is left."""
        self.elapse(at)
        flying = self.in_flight(at)
        self.inner.lower(at, level + flying, said + flying, until)

    def change(self, at: Instant, capacity: int, period: int, burst: int) -> None:
        self.elapse(at)
        self.burst, self.period = burst, period
        self.inner.change(at, capacity, period, burst)

    def granted_as_if_at(self, due: int, clock: int) -> Instant:
        """Nothing is paid back."""
        return clock


def lands_at(flight: Flight) -> int:
    assert flight.until is not None
    return flight.until


Rule = Bucket | Sliding | Fixed | Unlimited | ToTheEnd


def settle(rule: Rule, parts: list[Entry], at: Instant, actual: int) -> None:
    """What was taken in *parts* was *actual* really; what is above is one part more."""
    difference = actual - sum(part.weight for part in parts)
    if difference > 0:
        parts.append(rule.take(at, difference))
    for part in reversed(parts):
        refund = max(0, min(part.weight, -difference))
        rule.refund(part, at, refund)
        difference += refund


def fork(rule: Rule, at: Instant) -> Rule:
    """The same from *at* on, to look ahead with."""
    twin = copy.copy(rule)
    if isinstance(rule, ToTheEnd) and isinstance(twin, ToTheEnd):
        twin.inner = rule.landed(at)
        twin.flying = list(rule.flying)
        twin.cut = [flight for flight in rule.cut if lands_at(flight) > at]
    elif isinstance(rule, Bucket) and isinstance(twin, Bucket):
        rule.level(at)
        twin.history = list(rule.history)
    elif isinstance(rule, Window) and isinstance(twin, Window):
        twin.history = [entry for entry in rule.history if rule.together(entry.at, at)]
    return twin


def ready(rule: Rule, at: int, weight: int) -> Time:
    """The first nanosecond from *at* on that finds *weight* there, if nothing else happens.

    In a bucket that may be more than it holds: then it is taken as it comes.
    """
    instant = (fork(rule, at) if isinstance(rule, Window) else rule).ready(at, weight)
    return math.inf if instant == math.inf else math.ceil(instant)


# ------------------------------------------------------------------------------ what is asked


class Limit:
    """One throttle: its numbers. What is left of it, `Hall` keeps."""

    def __init__(
        self,
        name: str = "it",
        algorithm: Algorithm = "TokenBucket",
        capacity: int | None = 10 * TOKEN,
        *,
        concurrency: int = 0,
        period: int = 1000 * MS,
        burst: int | None = None,
        initial: int | None = None,
        max_waiting: int | None = None,
        born: int = 0,
        to_the_end: bool = False,
        linger: int | None = None,
    ) -> None:
        self.name, self.algorithm, self.capacity, self.period = name, algorithm, capacity, period
        self.asked_burst, self.initial, self.born = burst, initial, born
        self.concurrency, self.max_waiting = concurrency, max_waiting
        self.to_the_end, self.linger = to_the_end, linger
        self.closed = False
        self.held = 0

    def __repr__(self) -> str:
        return self.name

    @property
    def is_window(self) -> bool:
        return self.algorithm in ("SlidingWindow", "FixedWindow")

    @property
    def burst(self) -> int | None:
        """The heaviest weight that can ever be granted; None without a rate."""
        if self.is_window:
            return self.capacity
        if self.asked_burst is not None:
            return self.asked_burst
        if self.capacity is None:
            return None
        return TOKEN if self.algorithm == "LeakyBucket" else max(TOKEN, self.capacity)

    @property
    def counts_slots(self) -> bool:
        """Whether a call of a set says how many slots of it it takes."""
        return self.capacity is None and self.concurrency > 0

    def new_rule(self) -> Rule:
        if self.capacity is None or self.burst is None:
            return Unlimited()
        level = self.burst if self.initial is None else self.initial
        if self.algorithm == "FixedWindow":
            return Fixed(self.born, self.capacity, self.period, level)
        rule: Bucket | Sliding
        if self.algorithm == "SlidingWindow":
            rule = Sliding(self.born, self.capacity, self.period, level)
        else:
            rule = Bucket(self.born, self.capacity, self.period, self.burst, level)
        return ToTheEnd(rule, self.burst, self.period, self.linger) if self.to_the_end else rule

    def guarantee(self, window: int) -> Fraction | float:
        """The most that can be admitted in any half-open stretch of that length."""
        if self.capacity is None or self.burst is None:
            return math.inf
        if self.is_window:
            periods = math.ceil(Fraction(window, self.period))
            return Fraction(self.capacity * (periods + (self.algorithm == "FixedWindow")))
        return Fraction(self.burst + self.capacity * window // self.period)


Kind = Literal["slot", "tokens", "set"]


class Line(NamedTuple):
    """The limits that are asked for together; those who ask for the same stand in one line."""

    kind: Kind
    limits: frozenset[Limit]


@dataclass(eq=False)
class Option:
    """What a call asks for. A limit that is not in *tokens* is done without."""

    line: Line
    tokens: dict[Limit, int]
    slots: dict[Limit, int]


@dataclass(eq=False)
class Call:
    """One caller, from its question to the end of its lease.

    *parts* is what it took of each limit: the grant, then one part for each later overrun. What it
    has in flight are its *flights*; which of them has ended, nobody says if it is not *leased*.
    """

    ident: int
    asks: Callable[[], tuple[Option, ...]]
    priority: int = 0
    starts: Callable[[Option], object] = lambda option: None
    deadline: int | None = None
    arrived: int = 0
    granted: int | None = None
    option: Option | None = None
    parts: dict[Limit, list[Entry]] = field(default_factory=dict)
    flights: dict[Limit, Flight] = field(default_factory=dict)
    leased: bool = True
    cancelled: bool = False
    reasons: set[str] = field(default_factory=set)
    options: tuple[Option, ...] = ()


@dataclass(eq=False)
class Person:
    """A caller in one of the lines in which it stands."""

    call: Call
    option: Option
    number: float

    @property
    def place(self) -> tuple[Line, int]:
        """Nobody passes anybody there."""
        return self.option.line, self.call.priority


def deadline_of(person: Person) -> Time:
    return math.inf if person.call.deadline is None else person.call.deadline


# ---------------------------------------------------------------------------- who may go

Rank = tuple[float, float]
Gate = Limit | Line
"""What can be paused: a throttle, or what asks for several together."""
Kept = dict[Limit | ToTheEnd, dict[Call, int]]
"""Slots that are free and kept, for whom; and what may be in flight at once."""


class Hall:
    """Everybody who waits, and what there is for them.

    Nobody goes out of rank here: no class is overtaken often enough in the lives that are judged.

    Attributes:
        rules: what is left of each rate.
        free: what is left of the slots; infinity without a limit.
        people: in order of arrival.
        pauses: when the pause of something ends.
        empties: the pauses that will leave nothing when they end.
        together: the limits that have one queue.
    """

    def __init__(self) -> None:
        self.rules: dict[Limit, Rule] = {}
        self.free: dict[Limit, float] = {}
        self.people: list[Person] = []
        self.pauses: dict[Gate, Time] = {}
        self.empties: set[Gate] = set()
        self.together: list[set[Limit]] = []

    def without_slots(self, at: int, place: tuple[Line, int]) -> Hall:
        """The same if nobody lacked a slot; who does, outside of *place*, has no instant at all.

        What is in flight has ended, for the same reason.
        """
        twin = Hall()
        for limit, rule in self.rules.items():
            if isinstance(rule, ToTheEnd):
                twin.rules[limit] = rule.landed(at, all_of_them=True)
            else:
                twin.rules[limit] = fork(rule, at)
        twin.free = dict.fromkeys(self.free, math.inf)
        for _, line in self.lines():
            if line[0].place == place or not self.has_no_instant(line[0]):
                twin.people += line
        twin.together = self.together
        twin.pauses = dict(self.pauses)
        twin.empties = set(self.empties)
        return twin

    # Who ranks before whom.

    def lines(self) -> list[tuple[Rank, list[Person]]]:
        """Those in one place, in the order of the ranks of the first of them."""
        places: dict[tuple[Line, int], list[Person]] = {}
        for person in self.people:
            places.setdefault(person.place, []).append(person)
        ranked = []
        for place, line in places.items():
            ranked.append(((place[1], line[0].number), line))
        return sorted(ranked, key=lambda ranked: ranked[0])

    def count(self, limit: Limit) -> int:
        """How many callers wait for *limit*."""
        return len({person.call for person in self.people if limit in person.option.tokens})

    # What somebody wants, and when it might have it.

    def opens_at(self, option: Option) -> Time:
        gates: list[Gate] = [option.line, *option.tokens]
        return max(self.pauses.get(gate, 0) for gate in gates)

    def wants(self, option: Option) -> dict[Limit | ToTheEnd, int]:
        """The slots that it takes, and what it has in flight from then on."""
        rules = {limit: self.rules[limit] for limit in option.tokens}
        return dict(option.slots) | {
            rule: option.tokens[limit]
            for limit, rule in rules.items()
            if isinstance(rule, ToTheEnd) and option.line.kind != "tokens" and option.tokens[limit]
        }

    def lacks(self, person: Person, kept: Kept | None = None) -> list[Limit | ToTheEnd]:
        """The limits of which it does not get the slots, with those that are *kept* for others."""
        return [
            each
            for each, slots in self.wants(person.option).items()
            if (each.burst - each.used if isinstance(each, ToTheEnd) else self.free[each])
            - kept_for_others(kept or {}, each, person.call)
            < slots
        ]

    def waits_for_an_end(self, option: Option) -> bool:
        """Also where nothing of it will be in flight: time alone does not bring it."""
        rules = [(self.rules[limit], weight) for limit, weight in option.tokens.items()]
        return any(isinstance(r, ToTheEnd) and r.used + weight > r.burst for r, weight in rules)

    def has_no_instant(self, person: Person) -> bool:
        return bool(self.lacks(person)) or self.waits_for_an_end(person.option)

    def is_there(self, option: Option, at: int) -> bool:
        """Whether all the tokens are there, and no pause."""
        return self.opens_at(option) <= at and all(
            self.rules[limit].level(at) >= weight for limit, weight in option.tokens.items()
        )

    def may_go(self, at: int) -> Person | None:
        """The first who lacks nothing, and takes nothing that an earlier one will need."""
        lines = self.lines()
        for n, (rank, (person, *_)) in enumerate(lines):
            before = [line for _, line in lines[:n] if line[0].call is not person.call]
            kept, ahead = self.kept_for(before)
            if (
                not self.lacks(person, kept)
                and self.is_there(person.option, at)
                and not self.hinders(person, rank, ahead, at)
            ):
                return person
        return None

    def kept_for(self, lines: Iterable[list[Person]]) -> tuple[Kept, list[list[Person]]]:
        """The slots that are kept for the heads of *lines*, and those lines that have an instant.

        A caller is not in its own way, and in several lines it wants its slots once. The first of a
        queue that lacks a slot keeps all that it wants, or two that lack each other's would starve.
        """
        kept: Kept = {}
        stuck: list[set[Limit]] = []
        ahead = []
        for line in lines:
            head = line[0]
            queue = next(q for q in self.together if q & head.option.line.limits)
            lacking = self.lacks(head, kept)
            if not lacking and (
                self.opens_at(head.option) == math.inf or self.waits_for_an_end(head.option)
            ):
                continue  # paused for good: it keeps nothing from anybody
            for limit, slots in self.wants(head.option).items():
                if not lacking or queue not in stuck or limit in lacking:
                    mine = kept.setdefault(limit, {})
                    mine[head.call] = max(slots, mine.get(head.call, 0))
            if lacking:
                stuck.append(queue)
            else:
                ahead.append(line)
        return kept, ahead

    def hinders(self, newcomer: Person, rank: Rank, ahead: list[list[Person]], at: int) -> bool:
        """Whether anything that *newcomer* takes now will be missing when those ahead need it."""
        for limit, weight in newcomer.option.tokens.items():
            if isinstance(self.rules[limit], Unlimited):
                continue
            rest = fork(self.rules[limit], at)
            claims = self.claims(limit, newcomer, rank, ahead, at)
            if isinstance(rest, Fixed) and not rest.is_open(at):
                if moves_edges(rest, at, weight, claims):
                    return True
                continue
            rest.take(at, weight)
            for instant, claim in claims:
                if forgotten(rest, at, instant):
                    break
                rest.take(instant, claim)
                if rest.level(instant) < 0:
                    return True
        return False

    def claims(
        self, limit: Limit, newcomer: Person, rank: Rank, ahead: list[list[Person]], at: int
    ) -> list[tuple[int, int]]:
        """What each of those ahead will want of *limit*, and when at the earliest, in that order.

        That is when its pauses are over and it could have, together with those before it in its
        line, what it wants of the limits that *newcomer* has nothing to do with.
        """
        claims: list[tuple[int, int]] = []
        for line in ahead:
            sums: Counter[Limit] = Counter()
            instant: Time = at
            for person in line:
                if person is not line[0] and (person.call.priority, person.number) > rank:
                    break
                if self.has_no_instant(person):
                    break  # no instant, nor have those behind it
                if person.call is newcomer.call:
                    continue
                instant = max(instant, self.opens_at(person.option))
                for other, weight in person.option.tokens.items():
                    if other not in newcomer.option.tokens:
                        sums[other] += weight
                        instant = max(instant, self.serves_at(other, at, sums[other]))
                if limit in person.option.tokens and instant < math.inf:
                    claims.append((int(instant), person.option.tokens[limit]))
        return sorted(claims)

    def serves_at(self, limit: Limit, at: int, weight: int) -> Time:
        """When *limit* can have given *weight*; of a window no more than all of it."""
        rule = self.rules[limit]
        inner = rule.inner if isinstance(rule, ToTheEnd) else rule
        return ready(rule, at, min(weight, inner.capacity) if isinstance(inner, Window) else weight)

    # What happens.

    def next_grant(self, now: int) -> int | None:
        """The next instant at which somebody may go if nothing happens before."""
        horizon = min((self.pauses[gate] for gate in self.empties), default=math.inf)
        for instant in sorted(self.turning_points(now)):
            if now < instant < horizon and self.may_go(instant) is not None:
                return instant
        return None

    def turning_points(self, now: int) -> set[int]:
        """All instants at which the answer could become another one."""
        instants: set[Time] = set(self.pauses.values())
        for rule in self.rules.values():
            if isinstance(rule, ToTheEnd):
                instants |= {lands_at(flight) for flight in rule.cut}
        lines = self.lines()
        for n, (rank, line) in enumerate(lines):
            for limit, weight in line[0].option.tokens.items():
                ahead = [line for _, line in lines[:n]]
                instants.add(self.serves_at(limit, now, weight))
                for instant, claim in self.claims(limit, line[0], rank, ahead, now):
                    weight += claim
                    instants.add(instant)
                    instants.add(self.serves_at(limit, now, weight))
        return {int(instant) for instant in instants if instant < math.inf}

    def end_pauses(self, now: int) -> None:
        for gate in [gate for gate in self.empties if self.pauses[gate] <= now]:
            for limit in gate.limits if isinstance(gate, Line) else (gate,):
                self.rules[limit].empty(int(self.pauses[gate]))
            self.empties.remove(gate)

    def take(self, person: Person, at: int) -> dict[Limit, list[Entry]]:
        """*person* goes: what it takes."""
        call, option = person.call, person.option
        self.go(call)
        for limit, slots in option.slots.items():
            self.free[limit] -= slots
        parts: dict[Limit, list[Entry]] = {}
        for limit, weight in option.tokens.items():
            rule = self.rules[limit]
            if isinstance(rule, ToTheEnd) and option.line.kind != "tokens":
                call.flights[limit] = flight = rule.begin(at, weight)
                parts[limit] = flight.parts
            else:
                parts[limit] = [rule.take(at, weight)]
        return parts

    def go(self, call: Call, *options: Option) -> None:
        """*call* waits no longer; or no longer for these *options*."""
        self.people = [
            person
            for person in self.people
            if person.call is not call or (options and person.option not in options)
        ]


def kept_for_others(kept: Kept, limit: Limit | ToTheEnd, call: Call) -> int:
    return sum(slots for keeper, slots in kept.get(limit, {}).items() if keeper is not call)


def moves_edges(rule: Fixed, at: int, weight: int, claims: list[tuple[int, int]]) -> bool:
    """Whether a window that opens now would take the place of one that opens with a claim.

    If so, later windows have other edges. Nobody minds if all that is to come fits into one.
    """
    first = min((instant for instant, claim in claims if claim), default=math.inf)
    total = weight + sum(claim for _, claim in claims)
    return first < at + rule.period and total > rule.level(at)


def forgotten(rule: Rule, taken: int, at: int) -> bool:
    """Whether it makes no difference any more at *at* what was taken at *taken*."""
    if isinstance(rule, Bucket):
        return rule.level(at) >= rule.numbers.burst
    return isinstance(rule, Window) and not rule.together(taken, at)


# ------------------------------------------------------------------------------- the whole


@dataclass(frozen=True)
class Outcome:
    """What a caller was told, and when; *how*, *retry_after* and *limits* say what is allowed."""

    ident: int
    at: int
    how: frozenset[str]
    retry_after: frozenset[Time | None] = frozenset({None})
    limits: frozenset[Limit | None] = frozenset()


class Oracle:
    """All throttles together. The caller moves the time with `advance`, then asks.

    What a task does in its own step of the event loop is in `ready`, in the order in which the loop
    will run it; `run` runs all of it, at the present instant. `outcomes` is what the callers saw.
    """

    def __init__(self, born: int = 0) -> None:
        self.clock = self.now = born  # *now* is behind while what a blocked loop missed is made up
        self.hall = Hall()
        self.limits: list[Limit] = []
        self.together = self.hall.together
        self.unstarted: list[Call] = []
        self.ready: deque[Callable[[], None]] = deque()
        self.outcomes: list[Outcome] = []
        self.arrivals = 0
        self.acquired: list[Flight] = []  # without a lease

    def add(self, limit: Limit) -> Limit:
        self.limits.append(limit)
        self.together.append({limit})
        self.hall.rules[limit] = limit.new_rule()
        self.hall.free[limit] = limit.concurrency or math.inf
        return limit

    def join(self, limits: Iterable[Limit]) -> None:
        """*limits* are asked for together: from now on they have one queue."""
        joined = set(limits)
        for group in [group for group in self.together if group & joined]:
            self.together.remove(group)
            joined |= group
        self.together.append(joined)

    def part(self, limit: Limit) -> None:
        """*limit* was forgotten, and a fresh one is in its place, with a queue of its own."""
        for group in self.together:
            group.discard(limit)
        self.together.append({limit})

    # -- what is seen

    def level(self, limit: Limit) -> Fraction | float:
        rule = self.hall.rules[limit]
        return rule.shown(self.clock) if isinstance(rule, ToTheEnd) else rule.level(self.clock)

    def in_flight(self, limit: Limit) -> int:
        rule = self.hall.rules[limit]
        return rule.in_flight(self.clock) if isinstance(rule, ToTheEnd) else 0

    def lasts(self, limit: Limit) -> int:
        """Nanoseconds until the last end counts, and what a server said is forgotten."""
        rule = self.hall.rules[limit]
        instants = [self.clock]
        if isinstance(rule, ToTheEnd):
            instants += [self.clock + 1, *(lands_at(flight) + 1 for flight in rule.cut)]
            rule = rule.inner
        if isinstance(rule, Window):
            instants += [int(entry.at) for entry in rule.lowered]
        return max(instants) - self.clock

    def paused_for(self, gate: Gate) -> Time:
        return max(0, self.hall.pauses.get(gate, 0) - self.clock)

    def waits_in(self, line: Line) -> int:
        return sum(person.option.line == line for person in self.hall.people)

    def never(self, option: Option) -> dict[str, set[Limit | None]]:
        """Why it cannot be granted however long one waits, and because of which limits."""
        why: dict[str, set[Limit | None]] = {
            "heavy": {limit for limit in option.tokens if not self.fits(limit, option)},
            "closed": {limit for limit in option.tokens if limit.closed},
        }
        return {how: limits for how, limits in why.items() if limits}

    def fits(self, limit: Limit, option: Option) -> bool:
        slots = option.slots.get(limit, 0)
        enough = limit.burst is None or option.tokens[limit] <= limit.burst
        return enough and (not limit.concurrency or slots <= limit.concurrency)

    def crowded(self, option: Option) -> set[Limit | None]:
        return {
            limit
            for limit in option.tokens
            if limit.max_waiting is not None and self.hall.count(limit) >= limit.max_waiting
        }

    def delay(self, option: Option, priority: int = 0) -> Time:
        """Nanoseconds until it could go, counting everyone ahead, if no slot were missing."""
        person = Person(Call(-1, tuple, priority), option, math.inf)
        hall = self.hall.without_slots(self.clock, person.place)
        hall.people.append(person)
        at: int | None = self.clock
        while at is not None:
            hall.end_pauses(at)
            while (somebody := hall.may_go(at)) is not None:
                if somebody is person:
                    return at - self.clock
                hall.take(somebody, at)
            grant = hall.next_grant(at)
            ends = [int(hall.pauses[gate]) for gate in hall.empties if hall.pauses[gate] < math.inf]
            at = min(ends if grant is None else [grant, *ends], default=None)
        return math.inf

    def to_blame(self, option: Option) -> set[Limit | None]:
        """Which limits it may be said to wait for, the longest.

        Where others wait too, it may be any that those in its line ask for.

        A slot is said to be missing where there is no other time to wait. A set that is paused
        as a whole is told as None.
        """
        hall = self.hall
        if hall.empties or any(
            not person.option.line.limits.isdisjoint(option.line.limits) for person in hall.people
        ):
            return {*option.line.limits, *([None] if self.paused_for(option.line) else [])}
        ends: dict[Limit | None, Time] = {None: hall.pauses.get(option.line, 0)}
        for limit, weight in option.tokens.items():
            opens = hall.pauses.get(limit, 0)
            ends[limit] = max(opens, hall.serves_at(limit, self.clock, weight))
        last = max(ends.values())
        lacks = hall.lacks(Person(Call(-1, tuple), option, math.inf))
        lacking: set[Limit | None] = {
            limit for limit in option.tokens if limit in lacks or hall.rules[limit] in lacks
        }
        longest = {limit for limit, end in ends.items() if end == last}
        if lacking and last == math.inf:
            return lacking | longest
        return lacking if lacking and last <= self.clock else longest

    def may_go_now(self, option: Option, priority: int = 0) -> Person | None:
        """Whether a newcomer need not wait: it stands last, and everyone is asked."""
        person = Person(Call(-1, tuple, priority), option, math.inf)
        self.hall.people.append(person)
        try:
            return person if self.hall.may_go(self.clock) is person else None
        finally:
            self.hall.people.remove(person)

    def somebody_is_about_to_start(self, options: Iterable[Option]) -> bool:
        """In the queue of these: until they do newcomers stand behind them."""
        asked = {limit for option in options for limit in option.line.limits}
        groups = [group for group in self.together if group & asked]
        return any(
            call.option.line.limits & group
            for call in self.unstarted
            if call.option is not None
            for group in groups
        )

    def next_instant(self) -> int | None:
        """When something happens by itself."""
        hall = self.hall
        instants = [deadline_of(person) for person in hall.people]
        instants += [hall.pauses[gate] for gate in hall.empties]
        if (grant := hall.next_grant(self.now)) is not None:
            instants.append(grant)
        first = min(instants, default=math.inf)
        return None if first == math.inf else int(first)

    # -- the time

    def advance(self, to: int, *, blocked: bool = False) -> None:
        """Lives through all up to *to*: pauses end, then waiters go, then the rest expires.

        With *blocked* the event loop was busy all the time: all this happens at *to*, and nobody
        starts before `run`. A bucket is paid back what its timer is late; there may be one limit.
        """
        assert blocked or not self.ready, "the loop runs what is ready before the time moves"
        while (due := self.next_instant()) is not None and due <= to:
            self.clock = to if blocked else max(due, self.clock)
            while due is not None and due <= self.clock:
                late = [rule.granted_as_if_at(due, self.clock) for rule in self.hall.rules.values()]
                self.now = max(self.now, *map(int, late)) if blocked else self.clock
                self._happen(due)
                due = self.next_instant()
            self.now = max(self.now, self.clock)
            if not blocked:
                self.run()
        self.clock = self.now = max(self.clock, to)

    def _happen(self, due: int) -> None:
        while True:
            self.hall.end_pauses(due)
            self._grant_all_that_may_go()
            late = [p for p in self.hall.people if deadline_of(p) <= due]
            if not late:
                return
            self._fail(min(late, key=lambda p: (deadline_of(p), p.number)).call, "timeout")

    def _grant_all_that_may_go(self) -> None:
        while (person := self.hall.may_go(self.now)) is not None:
            self._take(person)
            self.unstarted.append(person.call)
            if not person.call.cancelled:
                self.ready.append(partial(self._start, person.call))

    def _take(self, person: Person) -> None:
        call = person.call
        call.parts = self.hall.take(person, self.now)
        call.granted, call.option = self.clock, person.option
        for limit, slots in person.option.slots.items():
            limit.held += slots

    # -- what happens in the steps of the loop

    def run(self) -> None:
        """The loop runs: granted callers start, newcomers ask, cancelled ones unwind."""
        while self.ready:
            self.ready.popleft()()
            self._grant_all_that_may_go()

    def _start(self, call: Call) -> None:
        if call.cancelled:
            self._unwind(call)
            return
        self.unstarted.remove(call)
        assert call.option is not None
        self._begin(call, call.option)
        self._tell(call, "granted")

    def _begin(self, call: Call, option: Option) -> None:
        if not call.leased:
            self.acquired += call.flights.values()
        call.starts(option)

    def _unwind(self, call: Call) -> None:
        """As if it had never asked: a place is given up, what was granted is given back."""
        if call in self.unstarted:
            self.unstarted.remove(call)
            assert call.option is not None
            for limit in call.option.tokens:
                rule = self.hall.rules[limit]
                if limit in call.flights and isinstance(rule, ToTheEnd):
                    rule.flying.remove(call.flights.pop(limit))
                else:
                    self._settle(call, limit, 0)
            self._give_back(call)
        else:
            self.hall.go(call)
        self._tell(call, "cancelled")

    def _fail(self, call: Call, how: str, *options: Option) -> None:
        """Throws a waiter out, unless it waits for something else too; its task learns it."""
        self.hall.go(call, *options)
        call.reasons.add(how)
        if not call.cancelled and all(person.call is not call for person in self.hall.people):
            self.ready.append(partial(self._learn, call))

    def _learn(self, call: Call) -> None:
        if call.cancelled:
            self._tell(call, "cancelled")
        elif "timeout" in call.reasons:
            self._refuse(call, {"timeout"}, call.options)
        else:
            self._refuse(call, call.reasons, call.options)

    def _tell(self, call: Call, how: str) -> None:
        self.outcomes.append(Outcome(call.ident, self.clock, frozenset({how})))

    def _refuse(self, call: Call, how: Iterable[str], options: Iterable[Option]) -> None:
        """Any of the answers *how*, because of any of *options*."""
        how, options = frozenset(how), list(options)
        waits: set[Time | None] = {None} if how - {"timeout", "full"} else set()
        limits: set[Limit | None] = set()
        for option in options:
            never = self.never(option)
            for each in how & never.keys():
                limits |= never[each]
            if how & {"timeout", "full"}:
                wait = self.delay(option, call.priority)
                waits.add(wait if 0 < wait < math.inf else None)
            if "full" in how:
                limits |= self.crowded(option)
            if "timeout" in how:
                limits |= self.to_blame(option)
        lighter = "heavy" in how and not any("heavy" in self.never(option) for option in options)
        if not limits or lighter:  # it was too heavy, and no longer is: it asked for any of these
            limits |= {limit for option in options for limit in option.tokens}
        self.outcomes.append(
            Outcome(call.ident, self.clock, how, frozenset(waits), frozenset(limits))
        )

    def _ask(self, call: Call, timeout: Time | None) -> None:
        call.arrived = self.clock
        if call.cancelled:
            self._tell(call, "cancelled")
            return
        asked = call.asks()
        options = call.options = tuple(option for option in asked if not self.never(option))
        if not options:
            self._refuse(call, self.never(asked[0]), asked[:1])
            return
        for option in options:
            if self.may_go_now(option, call.priority):
                person = Person(call, option, math.inf)
                about_to = self.somebody_is_about_to_start(options)
                self._take(person)
                if about_to:
                    self.unstarted.append(call)
                    self.ready.append(partial(self._start, call))
                else:
                    self._begin(call, option)
                    self._tell(call, "granted")
                return
        crowded = [option for option in options if self.crowded(option)]
        refusals: set[str] = set()
        if timeout is not None and (
            timeout <= 0 or min(self.delay(option, call.priority) for option in options) > timeout
        ):
            refusals.add("timeout")
        if len(crowded) == len(options):
            refusals.add("full")
        if refusals:
            self._refuse(call, refusals, options)
            return
        if timeout is not None and timeout < math.inf:
            call.deadline = self.clock + int(timeout)
        for option in options:
            if option not in crowded:
                self.arrivals += 1
                self.hall.people.append(Person(call, option, self.arrivals))

    # -- what is asked

    def arrive(self, call: Call, timeout: Time | None = None) -> None:
        """Starts a task that will ask in its first step. *timeout* is ns, or `math.inf`."""
        self.ready.append(partial(self._ask, call, timeout))

    def try_acquire(self, call: Call) -> bool | set[str]:
        """Whether it is granted, or every answer that the promises allow."""
        asked = call.asks()
        options = [option for option in asked if not self.never(option)]
        if not options:
            return set(self.never(asked[0]))
        if not self.somebody_is_about_to_start(options):
            for option in options:
                if self.may_go_now(option, call.priority):
                    call.arrived = self.clock
                    self._take(Person(call, option, math.inf))
                    self._begin(call, option)
                    self._grant_all_that_may_go()
                    return True
        return False

    def cancel(self, call: Call) -> None:
        """Cancels the caller's task, which has not started. It lets go in its next step.

        Until then it stands where it stood, and can be granted what it then gives back.
        """
        call.cancelled = True
        if any(person.call is call for person in self.hall.people):
            self.ready.append(partial(self._unwind, call))

    def leave(self, call: Call, *, cut: bool = False, well: bool = True) -> None:
        """Tells the caller's task, which runs its body, to leave its block: perhaps *cut* short."""

        def leave() -> None:
            self._end(call, cut=cut, well=well)
            self._give_back(call)

        self.ready.append(leave)

    def release(self, call: Call) -> None:
        self._end(call)
        self._give_back(call)
        self._grant_all_that_may_go()

    def ended(self, call: Call) -> None:
        """The answer is there: it is in flight no longer, nor does it linger."""
        self._end(call)
        for limit, flight in call.flights.items():
            rule = self.hall.rules[limit]
            assert isinstance(rule, ToTheEnd)
            rule.hasten(flight, self.clock)
        self._grant_all_that_may_go()

    def _end(self, call: Call, *, cut: bool = False, well: bool = True) -> None:
        """What it has in flight ends; without a lease, the lightest such call, and the oldest."""
        for limit, flight in call.flights.items():
            rule = self.hall.rules[limit]
            assert isinstance(rule, ToTheEnd)
            if not call.leased:
                alike = [each for each in self.acquired if each in rule.flying]
                flight = min(alike, key=lambda each: each.asked)
            if flight in rule.flying:
                rule.end(flight, self.clock, cut=cut, well=well)

    def _give_back(self, call: Call) -> None:
        assert call.option is not None
        for limit, slots in call.option.slots.items():
            limit.held -= slots
            self.hall.free[limit] += slots

    def settle(self, call: Call, actual: dict[Limit, int]) -> None:
        for limit, weight in actual.items():
            self._settle(call, limit, weight)
        self._grant_all_that_may_go()

    def _settle(self, call: Call, limit: Limit, actual: int) -> None:
        rule = self.hall.rules[limit]
        if limit in call.flights and isinstance(rule, ToTheEnd):
            rule.settle(call.flights[limit], self.clock, actual)
        else:
            settle(rule, call.parts.setdefault(limit, []), self.clock, actual)

    def charge(self, limit: Limit, weight: int) -> None:
        self.hall.rules[limit].take(self.clock, weight)
        self._grant_all_that_may_go()

    def sync(self, limit: Limit, said: int, until: int | None) -> None:
        self.hall.rules[limit].lower(self.clock, said, said, until)
        self._grant_all_that_may_go()

    def pause(self, gate: Gate, duration: Time, *, empty: bool = False) -> None:
        pauses = self.hall.pauses
        pauses[gate] = max(pauses.get(gate, 0), self.clock + duration)
        if empty:
            self.hall.empties.add(gate)
        self.hall.end_pauses(self.clock)
        self._grant_all_that_may_go()

    def resume(self, gate: Gate) -> None:
        pauses = self.hall.pauses
        pauses[gate] = min(pauses.get(gate, 0), self.clock)
        self.hall.end_pauses(self.clock)
        self._grant_all_that_may_go()

    def close(self, limit: Limit, *, drop_waiting: bool = True) -> None:
        limit.closed = True
        if drop_waiting:
            self._throw_out("closed", lambda option: limit in option.tokens)
        self._grant_all_that_may_go()

    def set_concurrency(self, limit: Limit, slots: int) -> None:
        limit.concurrency = slots
        self.hall.free[limit] = slots - limit.held if slots else math.inf
        self._changed(limit)

    def set_capacity(self, limit: Limit, capacity: int) -> None:
        limit.capacity = capacity
        self._changed_rate(limit)

    def set_period(self, limit: Limit, period: int) -> None:
        limit.period = period
        self._changed_rate(limit)

    def set_burst(self, limit: Limit, burst: int) -> None:
        limit.asked_burst = burst
        self._changed_rate(limit)

    def _changed_rate(self, limit: Limit) -> None:
        assert limit.capacity is not None
        assert limit.burst is not None
        self.hall.rules[limit].change(self.clock, limit.capacity, limit.period, limit.burst)
        self._changed(limit)

    def _changed(self, limit: Limit) -> None:
        self._throw_out(
            "heavy", lambda option: limit in option.tokens and not self.fits(limit, option)
        )
        self._grant_all_that_may_go()

    def _throw_out(self, how: str, out: Callable[[Option], bool]) -> None:
        for person in list(self.hall.people):
            if out(person.option):
                self._fail(person.call, how, person.option)


# ------------------------------------------------------------------------------ what is asked


def of_throttle(limit: Limit, weight: int, *, slot: bool = True) -> Option:
    """What `acquire` asks for; without a *slot*, what `consume` does."""
    line = Line("slot" if slot else "tokens", frozenset({limit}))
    return Option(line, {limit: weight}, {limit: 1} if slot else {})


@dataclass(eq=False)
class Together:
    """A set of limits by their keys; which of them count slots is decided when it is made."""

    keys: dict[str, Limit]

    def __post_init__(self) -> None:
        self.counting = {limit for limit in self.keys.values() if limit.counts_slots}
        self.line = Line("set", frozenset(self.keys.values()))

    def option(self, weights: dict[str, int]) -> Option:
        """One of everything that is not named; 0 does without."""
        tokens, slots = {}, {}
        for key, limit in self.keys.items():
            weight = weights.get(key, TOKEN)
            if weight:
                tokens[limit] = weight
                slots[limit] = weight // TOKEN if limit in self.counting else 1
        return Option(self.line, tokens, slots)


class Alone(Oracle):
    """One throttle, and nobody who asks for more than that."""

    def __init__(self, *args: Any, born: int = 0, **kwargs: Any) -> None:
        super().__init__(born=born)
        self.it = self.add(Limit("it", *args, born=born, **kwargs))

    def left(self) -> Fraction | float:
        return self.level(self.it)

    def call(self, ident: int, weight: int) -> Call:
        return Call(ident, lambda: (of_throttle(self.it, weight),), starts=self.begins)

    def begins(self, option: Option) -> None:
        """What is to happen when a call begins."""

    def ask(self, ident: int, weight: int) -> None:
        """Starts a task that will ask in its first step."""
        self.arrive(self.call(ident, weight))

    def grab(self, weight: int) -> Call | None:
        """Without waiting; None if that cannot be."""
        call = self.call(-1, weight)
        return call if self.try_acquire(call) is True else None
