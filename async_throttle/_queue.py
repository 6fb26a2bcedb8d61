"""Who goes next. Pure: it is told the time and answers "these are granted" and "wake me at".

Callers stand in *lines*. Those in one line ask for the same rules, each with weights of its
own: a vector of (rule, weight), decided all at once or not at all. A `Throttle` has two
lines: for a slot and tokens, and for tokens alone.

The order. The head of each line is looked at in order of arrival.

- A head that lacks a slot has no instant at which it could go. It is passed over and holds
  nobody up.
- A head that waits for time (tokens, the end of a pause), or for such a head, holds its rules:
  nobody who came later may take from them. That is what keeps heavy callers from starving.
- Within a line nobody passes anybody.

The time. It moves in events. Whatever an event at *now* changes, the queue is first advanced
to *now*, and grants and expires on the way everything that was due, in the order of the
instants at which it was due, and once more when the change is made. A grant that the caller's
timer made late so counts from the instant at which it was due (if its rules *backdate*) as
long as that was not more than *grace* ago: late timers do not wear the long-run rate down,
and a loop that was blocked does not burst.

Roads not taken: waking the head and letting it look again loses wake-ups when it has been
cancelled meanwhile, and lets newcomers in between; a timer per waiter costs a herd.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from enum import Enum
from heapq import heapify, heappop, heappush, merge
from typing import Any, Protocol

from async_throttle._units import NEVER
from async_throttle.rules import Rule
from async_throttle.rules.slots import Slots

__all__ = ["Gate", "Line", "Queue", "State", "Waiter"]


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
        empties: what *rule* still holds at that instant is to be taken away.
        rule: the rule that is emptied.
    """

    __slots__ = ("empties", "rule", "until")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.until = 0
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
    """

    line: Line
    weights: tuple[int, ...]
    order: int
    deadline: int
    state: State
    receipts: list[Receipt]
    granted_at: int


class Caller:
    """A `Waiter` that waits with nothing: for looking ahead, and for tests."""

    __slots__ = ("deadline", "granted_at", "line", "order", "receipts", "state", "weights")

    line: Line
    weights: tuple[int, ...]
    order: int
    deadline: int
    state: State
    receipts: list[Receipt]
    granted_at: int


class Line:
    """Callers who ask for the same rules, in order of arrival.

    Invariant: `waiters[0]` is queued. Those further back may have left; they are swept out
    once they are more than half, so leaving costs O(1) on average.

    Attributes:
        rules: what everyone here asks for.
        slots, rates: the same, with their places in `rules`: those given back by their
            holders, and those regained with time, as far as they limit anything.
        left: how many of *waiters* have left.
        backdates: whether a late grant counts from the instant at which it was due.
        gates: the pauses that hold this line.
        opens_at: the latest end of them.
        backlog: what all who wait here ask of each of *rates*, together.
    """

    __slots__ = (
        "backdates",
        "backlog",
        "gates",
        "left",
        "opens_at",
        "rates",
        "rules",
        "slots",
        "waiters",
    )

    def __init__(self, rules: tuple[Rule, ...], gates: tuple[Gate, ...]) -> None:
        self.rules = rules
        self.slots = [(n, rule) for n, rule in enumerate(rules) if isinstance(rule, Slots)]
        self.rates = [(n, rule) for n, rule in enumerate(rules) if rule.capacity < math.inf]
        self.gates = gates
        self.opens_at = 0
        self.waiters: deque[Waiter] = deque()
        self.backlog = [0] * len(rules)
        self.left = 0
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

    def refit(self) -> None:
        """See anew which rules limit anything: a rate may have become infinite, or finite."""
        self.rates = [(n, rule) for n, rule in enumerate(self.rules) if rule.capacity < math.inf]
        self.backdates = all(rule.backdates for _, rule in self.rates)
        for n in range(len(self.rules)):
            self.backlog[n] = sum(waiter.weights[n] for waiter in self)

    def remove(self, waiter: Waiter, state: State) -> None:
        """Take *waiter* out, who becomes *state*."""
        waiter.state = state
        for n, _ in self.rates:
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
        "_next_order",
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
        self._lines: list[Line] = []
        self._busy: list[Line] = []  # the lines in which somebody waits
        self._gates: list[Gate] = []  # the pauses that will empty a bucket when they end
        self.deadlines: list[tuple[int, int, Waiter]] = []
        self._next_order = 0

    def line(self, rules: Iterable[Rule], gates: Iterable[Gate]) -> Line:
        """A new line for callers who ask for all of *rules* and pass all of *gates*."""
        line = Line(tuple(rules), tuple(gates))
        self._lines.append(line)
        return line

    @property
    def expires_at(self) -> int:
        """The earliest deadline of those who wait; NEVER if there is none."""
        deadlines = self.deadlines
        while deadlines and deadlines[0][2].state is not QUEUED:
            heappop(deadlines)
        return deadlines[0][0] if deadlines else NEVER

    # -- time ---------------------------------------------------------------------------

    def advance(self, now: int) -> list[Waiter]:
        """Let time pass until *now*: those granted and expired on the way, in order."""
        if self._gates:
            self._end_pauses(now)
        changed: list[Waiter] = []
        busy = self._busy
        due = NEVER
        while busy:
            if len(busy) == 1:
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
            else:
                line, due = self._next()
                weights = line.waiters[0].weights
            if self.deadlines and self.expires_at < due:
                if self.expires_at > now:
                    break
                deadline, _, waiter = heappop(self.deadlines)
                if deadline > self.now:
                    self.now = deadline
                self._remove(waiter, EXPIRED)
                changed.append(waiter)
                due = NEVER
                continue
            if due > now:
                break
            if not line.backdates:
                self.now = now
            elif due > self.now:
                self.now = max(due, now - self.grace)
            waiter = line.waiters.popleft()
            receipts: list[Receipt] = []
            for n, slots in line.slots:
                slots.free -= weights[n]
            for n, rule in line.rates:
                weight = weights[n]
                line.backlog[n] -= weight
                receipts.append((rule, weight, rule.take(self.now, weight)))
            waiter.state = GRANTED
            waiter.receipts = receipts
            waiter.granted_at = now
            changed.append(waiter)
            self.waiting -= 1
            if line.left:
                line.sweep()
            if not line.waiters:
                busy.remove(line)
                due = NEVER
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
        first = self._busy[0]
        soonest = NEVER
        held: list[Rule] = []
        for line in sorted(self._busy, key=lambda line: line.waiters[0].order):
            due = line.ready_at(self.now, line.waiters[0].weights)
            if due == NEVER:
                continue
            free = not any(rule in held for rule in line.rules)
            held += line.rules
            if free and due < soonest:
                first, soonest = line, due
        return first, soonest

    # -- callers ------------------------------------------------------------------------

    def can_take(self, line: Line, weights: tuple[int, ...]) -> bool:
        """Whether *weights* can be granted now and overtake nobody."""
        now = self.now
        for other in self._busy:
            if other is line:
                return False
            # A head that lacks a slot may be passed; one that waits for time may not.
            if not set(other.rules).isdisjoint(line.rules) and (
                other.ready_at(now, other.waiters[0].weights) < NEVER
            ):
                return False
        return line.ready_at(now, weights) <= now

    def try_take(self, line: Line, weights: tuple[int, ...]) -> list[Any] | None:
        """Grant *weights* now, if that overtakes nobody: the receipts, or None."""
        if not self.can_take(line, weights):
            return None
        return line.take(self.now, weights)

    def join(
        self, waiter: Waiter, line: Line, weights: tuple[int, ...], deadline: int = NEVER
    ) -> None:
        """Queue *waiter* up. Advance the queue next unless others wait in *line* already."""
        waiter.line = line
        waiter.weights = weights
        waiter.order = self._next_order = self._next_order + 1
        waiter.deadline = deadline
        waiter.state = QUEUED
        if not line.waiters:
            self._busy.append(line)
        line.waiters.append(waiter)
        for n, _ in line.rates:
            line.backlog[n] += weights[n]
        self.waiting += 1
        if deadline < NEVER:
            heappush(self.deadlines, (deadline, waiter.order, waiter))
            self.due_at = min(self.due_at, deadline)

    def leave(self, waiter: Waiter) -> None:
        """Undo *waiter*, queued or granted, as if it had never asked."""
        if waiter.state is QUEUED:
            self._remove(waiter, GONE)
        elif waiter.state is GRANTED:
            waiter.state = GONE
            waiter.line.give_back(self.now, waiter.weights, waiter.receipts)

    def drop(self, state: State) -> list[Waiter]:
        """Take everybody out of the queue; if UNFIT, only those who fit their rules no more."""
        out = [
            waiter
            for line in self._busy
            for waiter in line
            if state is not UNFIT or any(map(_exceeds, waiter.weights, line.rules))
        ]
        for waiter in out:
            self._remove(waiter, state)
        return out

    def refit(self) -> list[Waiter]:
        """The rules have changed: take out those who fit them no more."""
        for line in self._lines:
            line.refit()
        return self.drop(UNFIT)

    def _remove(self, waiter: Waiter, state: State) -> None:
        line = waiter.line
        line.remove(waiter, state)
        self.waiting -= 1
        if not line.waiters:
            self._busy.remove(line)
        if waiter.deadline < NEVER:
            self._sweep_deadlines()

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
        self._reopen()
        self._end_pauses(self.now)

    def resume(self, gate: Gate) -> None:
        """End a pause now."""
        gate.until = min(gate.until, self.now)
        self._reopen()
        self._end_pauses(self.now)

    def _reopen(self) -> None:
        for line in self._lines:
            line.opens_at = max(gate.until for gate in line.gates)

    def _end_pauses(self, now: int) -> None:
        for gate in [gate for gate in self._gates if gate.until <= now]:
            gate.rule.empty(gate.until)
            gate.empties = False
            self._gates.remove(gate)

    # -- foresight ----------------------------------------------------------------------

    def quote(self, line: Line, weights: tuple[int, ...]) -> int:
        """When a newcomer could go, counting everyone ahead; a missing slot counts nothing.

        O(1) where the line has one rate and that is divisible, else O(waiters).
        """
        at = max(self.now, line.opens_at)
        if at >= NEVER:
            return NEVER
        rates = [rule for _, rule in line.rates]
        if not rates:
            return at
        planned = {
            rule: rule.fork() if self._gates or not rule.divisible else rule for rule in rates
        }
        for gate in self._gates:
            if gate.rule in planned:
                planned[gate.rule].empty(gate.until)
        if len(rates) == 1 and rates[0].divisible:
            ahead = sum(
                weight
                for other in self._busy
                for rule, weight in zip(other.rules, other.backlog, strict=True)
                if rule is rates[0]
            )
            weight = weights[line.rules.index(rates[0])]
            return planned[rates[0]].ready_at(at, ahead + weight)
        planned = {r: rule if rule is not r else rule.fork() for r, rule in planned.items()}
        newcomer = Caller()
        newcomer.line, newcomer.weights, newcomer.order = (line, weights, self._next_order + 1)
        for waiter in merge(*self._busy, [newcomer], key=lambda waiter: waiter.order):
            claims = [
                (planned[rule], weight)
                for rule, weight in zip(waiter.line.rules, waiter.weights, strict=True)
                if rule in planned
            ]
            for rule, weight in claims:
                at = max(at, rule.ready_at(at, weight))
            for rule, weight in claims:
                rule.take(at, weight)
        return at


def _exceeds(weight: int, rule: Rule) -> bool:
    return weight > rule.burst
