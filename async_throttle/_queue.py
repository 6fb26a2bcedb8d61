"""Who goes next. Pure: it is told the time and answers "these are granted" and "wake me at".

Callers stand in *lines*. Those in one line ask for the same rules, each with weights of its
own: a vector of (rule, weight), decided all at once or not at all. A `Throttle` has two
lines: for a slot and tokens, and for tokens alone. A `LimitSet` has one, over the rules of
all its members. Each class of priority makes another line over the same rules.

The order. Lines are ranked by their heads: the better priority first, then the earlier
arrival. Within a line nobody passes anybody. Between lines a caller goes as soon as its
rules let it, unless that would be at the cost of one that ranks before it:

- A head that lacks a slot has no instant at which it could go, so there is none that could
  be postponed. It holds nobody up on the rates. It keeps the slots that it lacks; the first
  such head keeps all that it wants, or two that lack each other's would starve.
- A head that waits for time (tokens, the end of a pause) keeps the slots it wants, and its
  line keeps what the rates will have to give it: see `_hindered`. That is what keeps
  heavy callers from starving, while those who wait for a slow limit of their own do not hold
  up the rest.
- A line that was passed over by better priorities `PATIENCE` times in a row ranks before all
  of them until its head has gone. So the last class gets its share, however small.

The time. It moves in events. Whatever an event at *now* changes, the queue is first advanced
to *now*, and grants and expires on the way everything that was due, in the order of the
instants at which it was due, and once more when the change is made. A grant that the caller's
timer made late so counts from the instant at which it was due (if its rules *backdate*) as
long as that was not more than *grace* ago: late timers do not wear the long-run rate down,
and a loop that was blocked does not burst.

Roads not taken: waking the head and letting it look again loses wake-ups when it has been
cancelled meanwhile, and lets newcomers in between; a timer per waiter costs a herd; ranks
that age with the time spent waiting make a long queue of the last class outrank a newcomer
of the first, which is what priorities are for.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from heapq import heapify, heappop, heappush, merge
from itertools import count
from typing import Any, Final, Protocol
from weakref import WeakValueDictionary

from async_throttle._units import NEVER
from async_throttle.rules import Rule
from async_throttle.rules.slots import UNLIMITED, Slots

__all__ = ["SKIP", "Gate", "Line", "Queue", "SetLine", "State", "Waiter", "settle"]

SKIP: Final = -1
"""A weight: this caller does without that rule."""

PATIENCE: Final = 32
"""How often in a row a class of priority is passed over by better ones at most; where several
are at the end of theirs, they go one after the other."""

_arrivals = count(1)  # over all queues, so that two of them can become one


class State(Enum):
    """What has become of a waiter."""

    QUEUED = "queued"
    GRANTED = "granted"
    EXPIRED = "expired"
    UNFIT = "unfit"
    DROPPED = "dropped"
    GONE = "gone"


Receipt = tuple[Rule, int, Any]

QUEUED, GRANTED, EXPIRED, UNFIT, DROPPED, GONE = State


class Gate:
    """A pause: nobody passes before *until*.

    Attributes:
        until: instant at which the pause ends or ended.
        empties: what *rules* still hold at that instant is to be taken away.
        rules: the rules that are emptied.
    """

    __slots__ = ("empties", "rules", "until")

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules
        self.until = -NEVER
        self.empties = False


class Waiter(Protocol):
    """One caller. The shell makes it of whatever it waits with; the queue fills it in.

    Attributes:
        line: where it stands.
        weights: how much of each of the line's rules, in the same order.
        order: place in the order of arrival, over all lines.
        deadline: instant after which it is not granted any more.
        state: see `State`.
        receipts: what was taken from each of the line's rates, once granted.
        granted_at: instant at which it was granted, once it is.
        rivals: the same caller in several lines, all of them for sets; the first grant takes
            the others out.
    """

    line: Line
    weights: tuple[int, ...]
    order: int
    deadline: int
    state: State
    receipts: list[Receipt]
    granted_at: int

    @property
    def rivals(self) -> Sequence[Waiter]: ...


class Caller:
    """A `Waiter` that waits with nothing: for looking ahead, and for tests."""

    __slots__ = (
        "deadline",
        "granted_at",
        "held_up",
        "line",
        "order",
        "receipts",
        "rivals",
        "state",
        "weights",
    )

    line: Line
    weights: tuple[int, ...]
    order: int
    deadline: int
    state: State
    receipts: list[Receipt]
    granted_at: int
    held_up: list[int]
    rivals: Any

    def __init__(self) -> None:
        self.rivals = ()


class Line:
    """Callers who ask for the same rules, in order of arrival.

    Invariant: `waiters[0]` is queued. Those further back may have left; they are swept out
    once they are more than half, so leaving costs O(1) on average.

    Attributes:
        rules: what everyone here asks for.
        priority: the class of those who stand here; lower goes first.
        slots, rates: the rules, with their places: those given back by their holders, and
            those regained with time, as far as they limit anything.
        left: how many of *waiters* have left.
        backdates: whether a late grant counts from the instant at which it was due.
        gates: the pauses that hold this line.
        opens_at: the latest end of them.
        backlog: what all who wait here ask of each of *rates*, together.
        passed: how often in a row better priorities went before the head.
    """

    __slots__ = (
        "__weakref__",
        "backdates",
        "backlog",
        "gates",
        "left",
        "opens_at",
        "passed",
        "priority",
        "rates",
        "rules",
        "slots",
        "waiters",
    )

    def __init__(self, rules: tuple[Rule, ...], gates: tuple[Gate, ...], priority: int = 0) -> None:
        self.rules = rules
        self.slots = [(n, rule) for n, rule in enumerate(rules) if isinstance(rule, Slots)]
        self.gates = gates
        self.priority = priority
        self.opens_at = max((gate.until for gate in gates), default=-NEVER)
        self.waiters: deque[Waiter] = deque()
        self.backlog = [0] * len(rules)
        self.left = 0
        self.passed = 0
        self.refit()

    def __len__(self) -> int:
        return len(self.waiters) - self.left

    def __iter__(self) -> Iterator[Waiter]:
        return (waiter for waiter in self.waiters if waiter.state is QUEUED)

    def ready_at(self, now: int, weights: tuple[int, ...]) -> int:
        """When *weights* could go if nobody were ahead; NEVER if a slot is missing."""
        at = self.opens_at
        if at < now:
            at = now
        for n, slots in self.slots:
            if slots.free < weights[n]:
                return NEVER
        for n, rule in self.rates:
            ready = rule.ready_at(at, weights[n])
            if ready > at:
                at = ready
        return at

    def tightest(self, now: int, weights: tuple[int, ...]) -> tuple[int, int]:
        """The same, and the place of the rule that is to wait for, where that is told; or -1."""
        return self.ready_at(now, weights), -1

    def opens_for(self, weights: tuple[int, ...]) -> int:
        """The end of the pauses that hold a caller who asks for *weights*."""
        return self.opens_at

    def take(self, now: int, weights: tuple[int, ...]) -> list[Receipt]:
        """Take *weights* from all rules."""
        for n, slots in self.slots:
            slots.free -= weights[n]
        return [(rule, weights[n], rule.take(now, weights[n])) for n, rule in self.rates]

    def give_back(self, now: int, weights: tuple[int, ...], receipts: list[Receipt]) -> None:
        """Undo `take`."""
        for n, slots in self.slots:
            slots.free += weights[n]
        for rule, weight, receipt in receipts:
            rule.refund(now, receipt, weight)

    def blame(self, n: int) -> None:
        """It is the rule in place *n* that holds up the head from now on."""

    def account(self, now: int) -> None:
        """Time has passed until *now*."""

    def arrive(self, waiter: Any, now: int) -> None:
        """*waiter* has joined at *now*."""

    def depart(self, waiter: Any) -> None:
        """*waiter* has just been granted what it wanted."""

    def refit(self) -> None:
        """See anew which rules limit anything: a rate may have become infinite, or finite."""
        self.rates = [(n, rule) for n, rule in enumerate(self.rules) if _limits(rule)]
        self.backdates = all(rule.backdates for _, rule in self.rates)
        for n in range(len(self.rules)):
            self.backlog[n] = sum(waiter.weights[n] for waiter in self if waiter.weights[n] > 0)

    def remove(self, waiter: Waiter, state: State) -> None:
        """Take *waiter* out, who becomes *state*."""
        waiter.state = state
        for n, _ in self.rates:
            if waiter.weights[n] > 0:
                self.backlog[n] -= waiter.weights[n]
        self.left += 1
        self.sweep()

    def sweep(self) -> None:
        """Keep the invariant, after *left* has changed or the head has gone."""
        waiters = self.waiters
        while self.left and waiters[0].state is not QUEUED:
            waiters.popleft()
            self.left -= 1
        if self.left * 2 > len(waiters):
            self.waiters = deque(self)
            self.left = 0


class SetLine(Line):
    """A line of callers who may do without some of its rules, and are told what held them up.

    The first of *gates* holds everybody. Each of the others belongs to the member whose rules
    start at the same place of *places*: who does without them is not held by it.

    Attributes:
        places: for each gate but the first, the place in *rules* of its member.
        held_up: nanoseconds for which each rule has held up the head, ever; the last is the
            line's own pause.
        culprit: the place of the rule that holds up the head now.
        since: the instant up to which that has been counted.
    """

    __slots__ = ("culprit", "held_up", "places", "since")

    def __init__(
        self,
        rules: tuple[Rule, ...],
        gates: tuple[Gate, ...],
        priority: int,
        places: tuple[int, ...],
    ) -> None:
        self.places = places
        self.held_up = [0] * (len(rules) + 1)
        self.culprit = len(rules)
        self.since = 0
        super().__init__(rules, gates, priority)

    def ready_at(self, now: int, weights: tuple[int, ...]) -> int:
        return self.tightest(now, weights)[0]

    def tightest(self, now: int, weights: tuple[int, ...]) -> tuple[int, int]:
        for n, slots in self.slots:
            weight = weights[n]
            if slots.free < weight != SKIP:
                return NEVER, n
        at, culprit = now, -1
        if self.opens_at > now:
            for gate, n in zip(self.gates, (len(self.rules), *self.places), strict=True):
                if gate.until > at and (gate is self.gates[0] or weights[n] != SKIP):
                    at, culprit = gate.until, n
        for n, rule in self.rates:
            weight = weights[n]
            if weight != SKIP:
                ready = rule.ready_at(at, weight)
                if ready > at:
                    at, culprit = ready, n
        return at, culprit

    def grab(self, now: int, weights: tuple[int, ...]) -> list[Receipt] | None:
        """Take *weights* if they are there at *now*, when nobody waits for any of the rules."""
        for n, slots in self.slots:
            if slots.free < weights[n]:
                return None
        for n, rule in self.rates:
            weight = weights[n]
            if weight > rule.burst or (weight != SKIP and rule.ready_at(now, weight) > now):
                return None
        return self.take(now, weights)

    def opens_for(self, weights: tuple[int, ...]) -> int:
        own, *others = self.gates
        untils = [
            gate.until for gate, n in zip(others, self.places, strict=True) if weights[n] != SKIP
        ]
        return max([own.until, *untils])

    def take(self, now: int, weights: tuple[int, ...]) -> list[Receipt]:
        for n, slots in self.slots:
            if weights[n] != SKIP:
                slots.free -= weights[n]
        return [
            (rule, weights[n], rule.take(now, weights[n]))
            for n, rule in self.rates
            if weights[n] != SKIP
        ]

    def give_back(self, now: int, weights: tuple[int, ...], receipts: list[Receipt]) -> None:
        super().give_back(now, tuple(max(0, weight) for weight in weights), receipts)

    def blame(self, n: int) -> None:
        if n >= 0:
            self.culprit = n

    def account(self, now: int) -> None:
        self.held_up[self.culprit] += now - self.since
        self.since = now

    def arrive(self, waiter: Any, now: int) -> None:
        self.account(now)
        waiter.held_up = list(self.held_up)

    def depart(self, waiter: Any) -> None:
        waiter.held_up = [
            after - before for before, after in zip(waiter.held_up, self.held_up, strict=True)
        ]


class Queue:
    """All who wait, for one group of rules that depend on each other.

    Attributes:
        now: the instant up to which everything has been decided.
        wake_at: instant of the next grant that time alone will bring; NEVER if none.
            Invariant: not after *now* only between an event and `advance`.
        due_at: instant from which on time alone changes something: a grant, a deadline, the
            end of a pause that empties. Until then `advance` only sets *now*.
        waiting: how many are queued.
        deadlines: a heap of (deadline, order, waiter); some may have left already.
        grace: how many nanoseconds of a timer's lateness are paid back.
    """

    __slots__ = (
        "_busy",
        "_gates",
        "_lines",
        "_ranked",
        "deadlines",
        "due_at",
        "grace",
        "now",
        "waiting",
        "wake_at",
    )

    def __init__(self, now: int, grace: int) -> None:
        self.now = now
        self.grace = grace
        self.wake_at = self.due_at = NEVER
        self.waiting = 0
        # All lines that anybody has a use for, to be found again by what they are over.
        self._lines: WeakValueDictionary[tuple[int, ...], Line] = WeakValueDictionary()
        self._busy: list[Line] = []  # the lines in which somebody waits
        self._ranked = 0  # how many of them are not of the usual priority
        self._gates: list[Gate] = []  # the pauses that will empty a bucket when they end
        self.deadlines: list[tuple[int, int, Waiter]] = []

    def line(
        self,
        rules: tuple[Rule, ...],
        gates: tuple[Gate, ...],
        priority: int = 0,
        places: tuple[int, ...] | None = None,
    ) -> Line:
        """The line for callers of *priority* who ask for all of *rules* and pass all *gates*.

        With *places* a `SetLine`. Equal arguments (the gates are not looked at) give the same
        line as long as anybody keeps it.
        """
        key = (priority, places is None, *map(id, rules))
        line = self._lines.get(key)
        if line is None:
            line = (
                Line(rules, gates, priority)
                if places is None
                else SetLine(rules, gates, priority, places)
            )
            self._lines[key] = line
        return line

    def absorb(self, other: Queue) -> None:
        """Take over the lines and callers of *other*, whose *now* is the same."""
        assert self.now == other.now, "two clocks: one of them must be shifted first"
        for line in list(other._lines.values()):
            self._lines[(line.priority, type(line) is Line, *map(id, line.rules))] = line
        self._busy += other._busy
        self._ranked += other._ranked
        self._gates += other._gates
        self.waiting += other.waiting
        self.deadlines = list(merge(sorted(self.deadlines), sorted(other.deadlines)))
        self.due_at = self.now

    def shift(self, by: int) -> None:
        """Move everything that is an instant in time by *by*: the clock becomes another one."""
        self.now += by
        rules: set[Rule] = set()
        gates: set[Gate] = set()
        for line in list(self._lines.values()):
            rules.update(line.rules)
            gates.update(line.gates)
        for rule in rules:
            rule.shift(by)
        for gate in gates:
            if gate.until < NEVER:
                gate.until += by
        for line in list(self._lines.values()):
            line.opens_at = max((gate.until for gate in line.gates), default=-NEVER)
            if isinstance(line, SetLine):
                line.since += by
        for line in self._busy:
            for waiter in line:
                if waiter.deadline < NEVER:
                    waiter.deadline += by
        self.deadlines = [
            (waiter.deadline, order, waiter)
            for _, order, waiter in self.deadlines
            if waiter.state is QUEUED
        ]
        heapify(self.deadlines)
        self.due_at = self.now

    @property
    def expires_at(self) -> int:
        """The earliest deadline of those who wait; NEVER if there is none."""
        deadlines = self.deadlines
        while deadlines and deadlines[0][2].state is not QUEUED:
            heappop(deadlines)
        return deadlines[0][0] if deadlines else NEVER

    def waiters(self) -> Iterator[Waiter]:
        """All who are queued."""
        return (waiter for line in self._busy for waiter in line)

    def busy(self) -> list[Line]:
        """The lines in which somebody waits."""
        return self._busy

    def count(self, rule: Rule) -> int:
        """How many wait for *rule*."""
        callers = {
            id(waiter.rivals[0] if waiter.rivals else waiter)
            for line in self._busy
            if type(line) is not Line and rule in line.rules
            for waiter in line
            if waiter.weights[line.rules.index(rule)] != SKIP
        }
        alone = (len(line) for line in self._busy if type(line) is Line and rule in line.rules)
        return len(callers) + sum(alone)

    @property
    def empties(self) -> bool:
        """Whether a pause will empty something when it ends."""
        return bool(self._gates)

    # -- time ---------------------------------------------------------------------------

    def advance(self, now: int, *, final: bool = True) -> list[Waiter]:
        """Let time pass until *now*: those granted and expired on the way, in order.

        Unless it is *final*, those whose deadline is *now* may still be granted by what is
        about to change at this instant.
        """
        changed: list[Waiter] = []
        busy = self._busy
        for one in busy:
            if type(one) is not Line:
                one.account(now)
        while True:
            due = NEVER
            line: Line | None = None
            weights: tuple[int, ...] = ()
            if len(busy) == 1 and type(busy[0]) is Line:
                # What _next() and Line.ready_at() come to in the usual case.
                line = busy[0]
                weights = line.waiters[0].weights
                due = line.opens_at
                if due < self.now:
                    due = self.now
                for n, slots in line.slots:
                    if slots.free < weights[n]:
                        due = NEVER
                        break
                else:
                    for n, rule in line.rates:
                        due = rule.ready_at(due, weights[n])
            elif busy:
                line, due = self._next()
                weights = line.waiters[0].weights
            if self._gates:
                ends_at = min(gate.until for gate in self._gates)
                if ends_at <= min(now, due, self.expires_at):
                    self.now = max(self.now, ends_at)
                    self._end_pauses(ends_at)
                    continue
            if line is None:
                break
            if self.deadlines and self.expires_at < due:
                if self.expires_at > now or (self.expires_at == now and not final):
                    break
                deadline, _, waiter = heappop(self.deadlines)
                if deadline > self.now:
                    self.now = deadline
                self._part(waiter)
                self._remove(waiter, EXPIRED)
                changed.append(waiter)
                continue
            if due > now:
                break
            if not line.backdates:
                self.now = now
            elif due > self.now:
                self.now = max(due, now - self.grace)
            waiter = line.waiters.popleft()
            if type(line) is Line:
                receipts: list[Receipt] = []
                for n, slots in line.slots:
                    slots.free -= weights[n]
                for n, rule in line.rates:
                    weight = weights[n]
                    line.backlog[n] -= weight
                    receipts.append((rule, weight, rule.take(self.now, weight)))
            else:
                receipts = line.take(self.now, weights)
                for n, _ in line.rates:
                    if weights[n] > 0:
                        line.backlog[n] -= weights[n]
                line.depart(waiter)
            waiter.state = GRANTED
            waiter.receipts = receipts
            waiter.granted_at = now
            changed.append(waiter)
            self.waiting -= 1
            line.passed = 0
            if self._ranked:
                self._pass_over(line, waiter.order)
            if line.left:
                line.sweep()
            if not line.waiters:
                self._empty(line)
            if type(line) is not Line:
                self._part(waiter)
        self.now = now
        self.wake_at = self.due_at = due
        if self.deadlines:
            self._sweep_deadlines()
            self.due_at = min(due, self.expires_at)
        for gate in self._gates:
            self.due_at = min(self.due_at, gate.until)
        return changed

    def _next(self) -> tuple[Line, int]:
        """The line whose head goes next and when; NEVER if only an event can help."""
        ranked = sorted(self._busy, key=_rank)
        ahead = _Ahead()
        others: list[tuple[_Ahead, int]] = []  # for each line, how many of whom are before it
        candidates: list[tuple[int, int]] = []  # when each could go but for those, and its rank
        limit = NEVER
        for n, line in enumerate(ranked):
            head = line.waiters[0]
            due, culprit = line.tightest(self.now, head.weights)
            # Nobody is in the way of itself.
            before = ahead
            if head.rivals:
                before = self._ahead(ranked[:n], _rank(line), head.rivals)
            others.append((before, len(before.lines)))
            lacking = before.lacks(line, head.weights)
            if lacking >= 0:
                due, culprit = NEVER, lacking
            # The first who has an instant goes then: nobody is ahead of it.
            limit = min(limit, due) if not ahead.lines else limit
            if due < NEVER and due <= limit:
                candidates.append((due, n))
            ahead.add(line, head.weights, due)
            line.blame(culprit)
        heapify(candidates)
        while candidates:
            at, n = heappop(candidates)
            line = ranked[n]
            head = line.waiters[0]
            before, count = others[n]
            hindered, again = _hindered(
                before.lines[:count], head.rivals, line, head.weights, at, _rank(line), limit
            )
            if hindered < 0:
                return line, at
            line.blame(hindered)
            if again < limit:
                heappush(candidates, (again, n))
        return ranked[0], NEVER

    def _pass_over(self, line: Line, order: int) -> None:
        """Somebody of *line*, who came at *order*, went: count those whom that passed over."""
        for other in self._busy:
            if (
                other.priority > line.priority
                and other.waiters
                and other.waiters[0].order < order
                and not set(other.rules).isdisjoint(line.rules)
            ):
                other.passed += 1

    # -- callers ------------------------------------------------------------------------

    def can_take(self, line: Line, weights: tuple[int, ...]) -> bool:
        """Whether *weights* can be granted now at nobody's cost who ranks before a newcomer."""
        now = self.now
        if line.waiters or line.ready_at(now, weights) > now:
            return False
        if not self._busy:
            return True
        ahead = self._ahead_of(line)
        if ahead.lacks(line, weights) >= 0:
            return False
        rank = (line.priority, math.inf)
        return _hindered(ahead.lines, (), line, weights, now, rank, now)[0] < 0

    def missing(self, line: Line, weights: tuple[int, ...]) -> int:
        """The place of the slots for lack of which a newcomer would have to wait; or -1."""
        if line.waiters:
            weights = line.waiters[0].weights
        return self._ahead_of(line).lacks(line, weights)

    def _ahead_of(self, line: Line) -> _Ahead:
        """Those who rank before a newcomer to *line*, but for those in it."""
        better = [
            other for other in self._busy if other is not line and _class(other) <= line.priority
        ]
        return self._ahead(sorted(better, key=_rank), (line.priority, math.inf))

    def _ahead(
        self,
        lines: Iterable[Line],
        rank: tuple[float, float],
        rivals: Sequence[Waiter] = (),
    ) -> _Ahead:
        """Those in *lines*, ranked, who rank before *rank*, as if *rivals* were not there."""
        ahead = _Ahead()
        for line in lines:
            head = next((waiter for waiter in line if waiter not in rivals), None)
            follows = head is not line.waiters[0]
            if head is not None and not (follows and (line.priority, head.order) > rank):
                stuck = ahead.lacks(line, head.weights) >= 0
                due = NEVER if stuck else line.ready_at(self.now, head.weights)
                ahead.add(line, head.weights, due)
        return ahead

    def try_take(self, line: Line, weights: tuple[int, ...]) -> list[Receipt] | None:
        """Grant *weights* now, if that overtakes nobody: the receipts, or None."""
        if not self.can_take(line, weights):
            return None
        if self._ranked:
            self._pass_over(line, next(_arrivals))
        return line.take(self.now, weights)

    def join(
        self, waiter: Waiter, line: Line, weights: tuple[int, ...], deadline: int = NEVER
    ) -> None:
        """Queue *waiter* up. Advance the queue next unless others wait in *line* already."""
        waiter.line = line
        waiter.weights = weights
        waiter.order = next(_arrivals)
        waiter.deadline = deadline
        waiter.state = QUEUED
        if not line.waiters:
            self._busy.append(line)
            self._ranked += line.priority != 0
        line.waiters.append(waiter)
        if type(line) is Line:
            for n, _ in line.rates:
                line.backlog[n] += weights[n]
        else:
            for n, _ in line.rates:
                line.backlog[n] += max(0, weights[n])
            line.arrive(waiter, self.now)
        self.waiting += 1
        if deadline < NEVER:
            heappush(self.deadlines, (deadline, waiter.order, waiter))
            self.due_at = min(self.due_at, deadline)

    def leave(self, waiter: Waiter) -> None:
        """Undo *waiter*, queued or granted, as if it had never asked."""
        self._part(waiter)
        if waiter.state is QUEUED:
            self._remove(waiter, GONE)
        elif waiter.state is GRANTED:
            waiter.state = GONE
            waiter.line.give_back(self.now, waiter.weights, waiter.receipts)

    def drop(self, state: State, rule: Rule | None = None) -> list[Waiter]:
        """Take out everybody, or everybody who wants *rule*; if UNFIT, only who fits no more."""
        out = [
            waiter
            for line in self._busy
            if rule is None or rule in line.rules
            for waiter in line
            if (state is not UNFIT or any(map(_exceeds, waiter.weights, line.rules)))
            and (rule is None or waiter.weights[line.rules.index(rule)] != SKIP)
        ]
        for waiter in out:
            self._remove(waiter, state)
        return out

    def refit(self, rule: Rule) -> list[Waiter]:
        """*rule* has changed: take out those who fit it no more."""
        for line in list(self._lines.values()):
            if rule in line.rules:
                line.refit()
        return self.drop(UNFIT, rule)

    def _remove(self, waiter: Waiter, state: State) -> None:
        line = waiter.line
        line.remove(waiter, state)
        self.waiting -= 1
        if not line.waiters:
            self._empty(line)
        if waiter.deadline < NEVER:
            self._sweep_deadlines()

    def _empty(self, line: Line) -> None:
        """Nobody waits in *line* any more."""
        self._busy.remove(line)
        self._ranked -= line.priority != 0
        line.passed = 0

    def _part(self, waiter: Waiter) -> None:
        """*waiter* is done with waiting: take out the same caller from other lines."""
        for rival in waiter.rivals:
            if rival is not waiter and rival.state is QUEUED:
                self._remove(rival, GONE)

    def _sweep_deadlines(self) -> None:
        """Keep those who left from piling up behind an early deadline."""
        deadlines = self.deadlines
        if len(deadlines) > 2 * self.waiting + 64:
            self.deadlines = [entry for entry in deadlines if entry[2].state is QUEUED]
            heapify(self.deadlines)

    # -- pauses -------------------------------------------------------------------------

    def pause(self, gate: Gate, until: int, empties: bool) -> None:
        """Hold everybody at *gate* until an instant, never shorter than before."""
        gate.until = max(gate.until, until)
        if empties and not gate.empties:
            gate.empties = True
            self._gates.append(gate)
        self._reopen(gate)
        self._end_pauses(self.now)

    def resume(self, gate: Gate) -> None:
        """End a pause now."""
        gate.until = min(gate.until, self.now)
        self._reopen(gate)
        self._end_pauses(self.now)

    def _reopen(self, gate: Gate) -> None:
        for line in list(self._lines.values()):
            if gate in line.gates:
                line.opens_at = max((gate.until for gate in line.gates), default=-NEVER)

    def _end_pauses(self, now: int) -> None:
        for gate in [gate for gate in self._gates if gate.until <= now]:
            for rule in gate.rules:
                rule.empty(gate.until)
            gate.empties = False
            self._gates.remove(gate)

    # -- foresight ----------------------------------------------------------------------

    def quote(self, line: Line, weights: tuple[int, ...]) -> tuple[int, int]:
        """When a newcomer could go, counting everyone ahead; a missing slot counts nothing.

        And the place of the rule that it would wait for longest, or -1. O(1) where the line
        has one rate, which is divisible, and all who wait for it ask for nothing else; else
        everybody's future is played through.
        """
        if type(line) is Line and not self._ranked and not line.priority and not self._gates:
            at = max(self.now, line.opens_at)
            if not line.rates:
                return at, -1
            n, rate = line.rates[0]
            # Who lacks a slot holds nobody up, but for those behind it.
            others = [
                other
                for other in self._busy
                if rate in other.rules
                and (other is line or other.ready_at(self.now, other.waiters[0].weights) < NEVER)
            ]
            if rate.divisible and all(
                type(other) is Line and len(other.rates) == 1 for other in [line, *others]
            ):
                ahead = sum(other.backlog[other.rates[0][0]] for other in others)
                return (rate.ready_at(at, ahead + weights[n]) if at < NEVER else NEVER), -1
        return self._foresee(line, weights)

    def _foresee(self, line: Line, weights: tuple[int, ...]) -> tuple[int, int]:
        """Let everything happen in a copy in which nobody is short of a slot."""
        copy = Queue(self.now, 0)
        twins: dict[Any, Any] = {}

        def twin(thing: Rule | Gate) -> Any:
            if thing not in twins:
                if isinstance(thing, Slots):
                    twins[thing] = Slots(UNLIMITED)
                elif isinstance(thing, Rule):
                    twins[thing] = thing.fork()
                else:
                    gate = twins[thing] = Gate(*map(twin, thing.rules))
                    gate.until, gate.empties = thing.until, thing.empties
            return twins[thing]

        newcomer = Caller()
        rivals: dict[int, list[Caller]] = {}
        for original in [*self._busy, *([] if line in self._busy else [line])]:
            if (
                original is not line
                and original.ready_at(self.now, original.waiters[0].weights) == NEVER
            ):
                continue  # it lacks a slot: nobody knows for how long
            fork = copy.line(
                tuple(map(twin, original.rules)),
                tuple(map(twin, original.gates)),
                original.priority,
                original.places if isinstance(original, SetLine) else None,
            )
            fork.passed = original.passed
            for waiter in original:
                caller = Caller()
                if waiter.rivals:
                    caller.rivals = rivals.setdefault(id(waiter.rivals[0]), [])
                    caller.rivals.append(caller)
                copy.join(caller, fork, waiter.weights)
                caller.order = waiter.order
            if original is line:
                copy.join(newcomer, fork, weights)
        copy._gates = [twin(gate) for gate in self._gates]
        copy.advance(copy.now)
        while newcomer.state is QUEUED and copy.due_at < NEVER:
            copy.advance(copy.due_at)
        if newcomer.state is QUEUED:
            return NEVER, line.tightest(self.now, weights)[1]
        if not isinstance(newcomer.line, SetLine) or newcomer.granted_at == self.now:
            return newcomer.granted_at, -1
        return newcomer.granted_at, max(
            range(len(newcomer.held_up)), key=newcomer.held_up.__getitem__
        )


def settle(rule: Rule, now: int, receipt: Any, debts: list[tuple[Any, int]], more: int) -> None:
    """What *receipt* of *rule* stands for has become *more* (or less), in nanotokens.

    What is taken now is kept in *debts*, the latest last, to be given back first.
    """
    if more > 0:
        debts.append((rule.take(now, more), more))
    while more < 0 and debts:
        late, debt = debts.pop()
        refund = min(debt, -more)
        rule.refund(now, late, refund)
        more += refund
        if debt > refund:
            debts.append((late, debt - refund))
    if more < 0 and receipt is not None:
        rule.refund(now, receipt, -more)


class _Ahead:
    """Those who rank before a caller, and what they keep from it.

    Attributes:
        lines: those of them who have an instant at which they will go.
        kept: the slots that are kept for them.
        stuck: whether one of them lacks a slot.
    """

    __slots__ = ("kept", "lines", "stuck")

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.kept: dict[Slots, int] = {}
        self.stuck = False

    def add(self, line: Line, weights: tuple[int, ...], due: int) -> None:
        """The head of *line* asks for *weights* and could go at *due*, but for those ahead.

        NEVER if it lacks a slot, or is paused for good: such a one has no instant and, unless it
        is for the slots, is in nobody's way.
        """
        if due < NEVER:
            self.lines.append(line)
        elif self.lacks(line, weights) < 0:
            return
        kept = self.kept
        for n, slots in line.slots:
            weight = weights[n]
            if weight > 0 and slots.limit != UNLIMITED:
                taken = kept.get(slots, 0)
                if due < NEVER or not self.stuck or slots.free - taken < weight:
                    kept[slots] = taken + weight
        self.stuck = self.stuck or due >= NEVER

    def lacks(self, line: Line, weights: tuple[int, ...]) -> int:
        """The place of a rule of whose slots too few are left for *weights*; or -1."""
        kept = self.kept
        for n, slots in line.slots:
            if slots.free - kept.get(slots, 0) < weights[n] > 0:
                return n
        return -1


def _hindered(
    ahead: Sequence[Line],
    rivals: Sequence[Waiter],
    line: Line,
    weights: tuple[int, ...],
    at: int,
    rank: tuple[float, float],
    limit: int,
) -> tuple[int, int]:
    """The place of a rate of *line* from which *weights* must not be taken at *at* yet; or -1.

    They may be if nobody in the lines *ahead*, but for *rivals*, who ranks before *rank*, goes
    later for it. None of those goes before the rules that it does not share with the newcomer
    let it, and until then the rate regains. So: at each of these instants, in order, can the
    rate still give the newcomer and everybody up to there what they want? Once it is as if the
    newcomer had never been, it no longer matters. Where the rate itself is what they wait for,
    the answer is no at the first of them: on that rate, arrival decides.

    The proof, for a bucket: as long as the newcomer makes a difference the bucket has not
    been full since, so what is in it is what was, plus what has come, less what was taken;
    and by any instant no more was taken than at the earliest instants possible. A window
    counts in the same way until the newcomer is no longer inside.

    And when to look again, if before *limit*: those in the way may wait for one another
    elsewhere, so that time alone brings enough for all of them.
    """
    shared = [rule for rule, weight in zip(line.rules, weights, strict=True) if weight != SKIP]
    for n, rate in line.rates:
        weight = weights[n]
        others = [other for other in ahead if rate in other.rules]
        if not others or weight == SKIP:
            continue
        most = math.inf if rate.divisible else rate.burst
        until = rate.forgets_at(at, weight)
        # What is in the way mostly is a head: look at them first, one by one.
        for other in others:
            claimed = _claims(other, rate, shared, at, rank, rivals)
            instant, claim = next(claimed, (NEVER, 0))
            weighs = weight + claim
            if (
                instant < until
                and not _serves(rate, at, weighs, instant, most)
                and not _serves(rate, at, weighs, limit - 1, rate.burst)
            ):
                return n, NEVER
        claims = merge(*(_claims(other, rate, shared, at, rank, rivals) for other in others))
        for instant, claim in claims:
            if instant >= until:
                break
            weight += claim
            if not _serves(rate, at, weight, instant, most):
                while _serves(rate, at, weight, limit - 1, rate.burst):
                    again = rate.ready_at(at, weight)
                    following, claim = next(claims, (NEVER, 0))
                    if following > at:
                        return n, again
                    weight += claim
                return n, NEVER
            until = rate.forgets_at(at, weight)
    return -1, NEVER


def _claims(
    line: Line,
    rate: Rule,
    shared: list[Rule],
    start: int,
    rank: tuple[float, float],
    rivals: Sequence[Waiter],
) -> Iterator[tuple[int, int]]:
    """What each in *line* who ranks before *rank* will want of *rate*, and when at the earliest.

    At the earliest from *start* on: if the rules that are not *shared* were all it waits for.
    """
    place = line.rules.index(rate)
    own = [(n, rule) for n, rule in line.rates if rule not in shared]
    sums = [0] * len(line.rules)
    head, at = line.waiters[0], start
    for waiter in line:
        if waiter in rivals:
            continue
        if waiter is not head and (line.priority, waiter.order) > rank:
            return
        weights = waiter.weights
        if any(slots.free < weights[n] for n, slots in line.slots):
            return  # it lacks a slot, and so has no instant
        at = max(at, line.opens_for(weights))
        for n, rule in own:
            if weights[n] != SKIP:
                sums[n] += weights[n]
                most = sums[n] if rule.divisible else min(sums[n], rule.burst)
                at = max(at, rule.ready_at(start, int(most)))
        if weights[place] != SKIP:
            yield at, weights[place]


def _serves(rate: Rule, at: int, weight: int, instant: int, most: float) -> bool:
    """Whether *rate*, as it is at *at*, can have given *weight*, at most *most*, by *instant*."""
    return weight <= most and rate.ready_at(at, weight) <= instant


def _class(line: Line) -> float:
    return -math.inf if line.passed >= PATIENCE else line.priority


def _rank(line: Line) -> tuple[float, int]:
    return _class(line), line.waiters[0].order


def _limits(rule: Rule) -> bool:
    return rule.capacity < math.inf


def _exceeds(weight: int, rule: Rule) -> bool:
    return weight > rule.burst
