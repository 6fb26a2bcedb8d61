"""A throttle that is obviously right, and slow: the yardstick of ``test_machine.py``.

It is written from the documented promises and shares no code and no idea with the package. The
rules keep *all* that was ever taken and read the level by replaying it from the start; the queue is
a plain list that is walked again after every event. Time is told (nanoseconds since any origin),
weights are whole 1e-9 tokens, and what lies between two nanoseconds is a `fractions.Fraction`:
nothing is ever rounded except the instant a caller sees, the first whole nanosecond at which it may
go.

Three classes say how much is left (`Bucket`, `Sliding`, `Fixed`), `Oracle` says who goes when.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Literal

TOKEN = 10**9
"""One token, in the unit of all weights and capacities."""

MS = 10**6
"""One millisecond, in the unit of all instants."""

LATE = 5 * MS
"""How late a timer may be and still be paid back to a bucket."""

Instant = int | Fraction
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


class Bucket:
    """*capacity* tokens trickle in per *period*, never above *burst*; debt is a level below 0."""

    def __init__(self, born: int, capacity: int, period: int, burst: int, level: int) -> None:
        self.initial = level
        self.history: list[Entry | Change | Emptied] = [Change(born, capacity, period, burst)]

    def level(self, at: Instant) -> Fraction:
        """The tokens left at *at*, by living through everything that happened up to then."""
        level, now = Fraction(self.initial), self.history[0].at
        capacity, period, burst = 0, 1, self.initial
        for event in self.history:
            level = min(Fraction(burst), level + Fraction(capacity, period) * (event.at - now))
            now = event.at
            match event:
                case Entry(_, weight):
                    level -= weight
                case Change(_, capacity, period, burst):
                    level = min(Fraction(math.floor(level)), Fraction(burst))
                case Emptied(_):
                    level = min(level, Fraction(0))
        return min(Fraction(burst), level + Fraction(capacity, period) * (at - now))

    def _numbers(self) -> Change:
        """Those in force now."""
        return [event for event in self.history if isinstance(event, Change)][-1]

    def ready(self, at: Instant, weight: int) -> Instant:
        """The first instant from *at* on that finds *weight* there, if nothing else happens."""
        missing = weight - self.level(at)
        if missing <= 0:
            return at
        numbers = self._numbers()
        return at + missing * Fraction(numbers.period, numbers.capacity)

    def take(self, at: Instant, weight: int) -> Entry:
        entry = Entry(self._not_idle_yet(at), weight)
        self.history.append(entry)
        return entry

    def _not_idle_yet(self, at: Instant) -> Instant:
        """The instant from which a take at *at* counts: up to 1 ns ago, if it was full since.

        What fills between two nanoseconds can be taken only at the second; nothing is lost by that.
        """
        since = max(at - 1, self.history[-1].at)
        burst = self._numbers().burst
        if self.level(since) >= burst:
            return since if since > at - 1 else at
        return min(at, self.ready(since, burst))

    def refund(self, entry: Entry, at: Instant, weight: int) -> None:
        """The replay does the rest: what was lost at the rim of a full bucket stays lost."""
        entry.weight -= weight

    def empty(self, at: Instant) -> None:
        self.history.append(Emptied(at))

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

    def together(self, entry: Instant, at: Instant) -> bool:
        """Whether something taken at *entry* still counts at *at*."""
        raise NotImplementedError

    def leaves(self, entry: Instant) -> int:
        """The instant at which something taken at *entry* stops counting."""
        raise NotImplementedError

    def level(self, at: Instant) -> Fraction:
        inside = sum(entry.weight for entry in self.history if self.together(entry.at, at))
        return Fraction(self.capacity - inside)

    def ready(self, at: Instant, weight: int) -> Instant:
        instants = [at, *(self.leaves(entry.at) for entry in self.history)]
        return min(t for t in instants if t >= at and self.level(t) >= weight)

    def take(self, at: Instant, weight: int) -> Entry:
        entry = Entry(at, weight)
        self.history.append(entry)
        return entry

    def refund(self, entry: Entry, at: Instant, weight: int) -> None:
        entry.weight -= weight

    def empty(self, at: Instant) -> None:
        """As if all of the capacity had been used at *at*: what was inside is one entry now."""
        inside = [entry for entry in self.history if self.together(entry.at, at)]
        full = max(self.capacity, sum(entry.weight for entry in inside))
        self.history = [Entry(at, full)]

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


class Fixed(Window):
    """Every [k * period, (k + 1) * period) since birth holds at most *capacity*."""

    def index(self, at: Instant) -> int:
        return math.floor((at - self.born) / Fraction(self.period))

    def together(self, entry: Instant, at: Instant) -> bool:
        return self.index(entry) == self.index(at)

    def leaves(self, entry: Instant) -> int:
        return self.born + (self.index(entry) + 1) * self.period

    def change(self, at: Instant, capacity: int, period: int, burst: int) -> None:
        """The level stays: what was inside counts in that new window in which the change falls."""
        super().change(at, capacity, period, burst)
        for entry in self.history:
            entry.at = at


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

    def change(self, at: Instant, capacity: int, period: int, burst: int) -> None: ...

    def granted_as_if_at(self, due: int, clock: int) -> Instant:
        return due


Rule = Bucket | Sliding | Fixed | Unlimited


# --------------------------------------------------------------------------- who goes when


@dataclass(slots=True, eq=False)
class Call:
    """One caller, from its question to the end of its lease.

    *parts* is what it took: the grant, then one part for each later overrun. The last part is
    refunded first, so that `settle(7)` after `settle(9)` takes back what the `settle(9)` added.
    """

    ident: int
    weight: int
    needs_slot: bool = True
    deadline: int | None = None
    arrived: int = 0
    granted: int | None = None
    parts: list[Entry] = field(default_factory=list)
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a caller was told, and when. *how* holds every answer the promises allow."""

    ident: int
    at: int
    how: frozenset[str]
    retry_after: int | float | None = None


class Oracle:
    """The whole throttle. The caller moves the time with `advance`, then asks.

    What a task does in its own step of the event loop is in `ready`, in the order in which the loop
    will run it; `run` runs all of it, at the present instant. `outcomes` is what the callers saw.
    """

    def __init__(
        self,
        algorithm: Algorithm = "TokenBucket",
        capacity: int | None = 10 * TOKEN,
        *,
        concurrency: int = 0,
        period: int = 1000 * MS,
        burst: int | None = None,
        initial: int | None = None,
        max_waiting: int | None = None,
        born: int = 0,
    ) -> None:
        self.algorithm, self.capacity, self.period = algorithm, capacity, period
        self.asked_burst = burst
        self.concurrency, self.max_waiting = concurrency, max_waiting
        self.clock = born
        self.now: Instant = born
        self.rule = self._new_rule(initial)

        self.waiters: list[Call] = []
        self.unstarted: list[Call] = []
        self.ready: deque[Callable[[], None]] = deque()
        self.active = 0
        self.closed = False
        self.paused_until: int | float | None = None
        self.pause_empties = False
        self.outcomes: list[Outcome] = []

    def _new_rule(self, initial: int | None) -> Rule:
        if self.capacity is None:
            return Unlimited()
        born, burst = self.clock, self.burst
        assert burst is not None
        level = burst if initial is None else initial
        if self.algorithm == "SlidingWindow":
            return Sliding(born, self.capacity, self.period, level)
        if self.algorithm == "FixedWindow":
            return Fixed(born, self.capacity, self.period, level)
        return Bucket(born, self.capacity, self.period, burst, level)

    @property
    def is_window(self) -> bool:
        return self.algorithm in ("SlidingWindow", "FixedWindow")

    @property
    def burst(self) -> int | None:
        """The heaviest weight that can ever be granted; None without a limit."""
        if self.is_window:
            return self.capacity
        if self.asked_burst is not None:
            return self.asked_burst
        if self.capacity is None:
            return None
        return TOKEN if self.algorithm == "LeakyBucket" else max(TOKEN, self.capacity)

    # ------------------------------------------------------------------------ what is seen

    def level(self) -> Fraction | float:
        return self.rule.level(self.now)

    def paused_for(self) -> int | float:
        return 0 if self.paused_until is None else self.paused_until - self.clock

    def fits(self, weight: int) -> bool:
        return self.burst is None or weight <= self.burst

    def is_full(self) -> bool:
        return self.max_waiting is not None and len(self.waiters) >= self.max_waiting

    def delay(self, weight: int, *, needs_slot: bool = True) -> int | float:
        """Nanoseconds until *weight* could go: everyone ahead goes first, on a copy of the rule.

        A missing slot counts nothing. Who needs none is not behind those who lack one.
        """
        rule, at = copy.deepcopy(self.rule), self.now
        if self.paused_until is not None:
            if isinstance(self.paused_until, float):
                return math.inf
            at = self.paused_until
            if self.pause_empties:
                rule.empty(at)
        for call in self.waiters:
            if needs_slot or self._slot_is_free() or not call.needs_slot:
                at = rule.ready(at, call.weight)
                rule.take(at, call.weight)
        return math.ceil(rule.ready(at, weight)) - self.clock

    def may_go_now(self, weight: int) -> bool:
        """Whether a newcomer need not wait, not even for those granted to have started."""
        return not self.unstarted and self._is_next(Call(-1, weight))

    def guarantee(self, window: int) -> Fraction | float:
        """The most that can be admitted in any half-open stretch of that length."""
        if self.capacity is None or self.burst is None:
            return math.inf
        if self.is_window:
            periods = math.ceil(Fraction(window, self.period))
            return Fraction(self.capacity * (periods + (self.algorithm == "FixedWindow")))
        return Fraction(self.burst + self.capacity * window // self.period)

    def next_grant(self) -> Instant | None:
        """When somebody will be granted if nothing but time happens: then a timer must be armed."""
        head = self._first_with_a_slot(self.waiters)
        if head is None or isinstance(self.paused_until, float):
            return None
        if self.paused_until is None:
            return self.rule.ready(self.now, head.weight)
        rule = copy.deepcopy(self.rule)
        if self.pause_empties:
            rule.empty(self.paused_until)
        return rule.ready(self.paused_until, head.weight)

    # -------------------------------------------------------------------------- the decision

    def _slot_is_free(self) -> bool:
        return self.concurrency == 0 or self.active < self.concurrency

    def _first_with_a_slot(self, waiters: list[Call]) -> Call | None:
        """The one caller whose tokens are waited for: the first that lacks nothing else."""
        for call in waiters:
            if self._slot_is_free() or not call.needs_slot:
                return call
        return None

    def _next_to_go(self, waiters: list[Call]) -> Call | None:
        """Whom to grant now; whoever stands behind it waits, even if it could go."""
        call = self._first_with_a_slot(waiters)
        if call is None or self.paused_until is not None:
            return None
        return call if self.rule.level(self.now) >= call.weight else None

    def _is_next(self, newcomer: Call) -> bool:
        """Whether a newcomer can be granted: it stands last, and everyone is asked."""
        return self._next_to_go([*self.waiters, newcomer]) is newcomer

    def _grant_all_that_may_go(self) -> None:
        while (call := self._next_to_go(self.waiters)) is not None:
            self.waiters.remove(call)
            self._grant(call)

    def _grant(self, call: Call) -> None:
        """Everything is taken at once; the caller starts after those granted before it."""
        self._take(call)
        self.unstarted.append(call)
        if not call.cancelled:
            self.ready.append(partial(self._start, call))

    def _take(self, call: Call) -> None:
        call.parts.append(self.rule.take(self.now, call.weight))
        call.granted = self.clock
        self.active += call.needs_slot

    # ------------------------------------------------------------------------------ the time

    def advance(self, to: int, *, blocked: bool = False) -> None:
        """Lives through everything up to *to*: pauses end, then waiters go, then the rest expires.

        With *blocked* the event loop was busy all the time: all this happens at *to*, and nobody
        starts before `run`.
        """
        assert blocked or not self.ready, "the loop runs what is ready before the time moves"
        while (due := self.next_instant()) is not None and due <= to:
            self.clock = to if blocked else math.ceil(due)
            while due is not None and due <= self.clock:
                self._happen(due)
                due = self.next_instant()
            self.now = max(self.now, self.clock)
            if not blocked:
                self.run()
        self.clock, self.now = max(self.clock, to), max(self.now, to)

    def _happen(self, due: Instant) -> None:
        """One instant at which something happens by itself."""
        self.now = max(self.now, self.rule.granted_as_if_at(math.ceil(due), self.clock))
        if isinstance(self.paused_until, int) and self.paused_until <= due:
            self._end_pause(self.paused_until)
        self._grant_all_that_may_go()
        late = [c for c in self.waiters if c.deadline is not None and c.deadline <= due]
        if late:
            self._fail(min(late, key=lambda call: (call.deadline, call.ident)), "timeout")
            self._grant_all_that_may_go()

    def next_instant(self) -> Instant | None:
        """When something happens by itself."""
        instants: list[Instant] = [c.deadline for c in self.waiters if c.deadline is not None]
        if isinstance(self.paused_until, int):
            instants.append(self.paused_until)
        elif (grant := self.next_grant()) is not None:
            instants.append(grant)
        return min(instants, default=None)

    def _end_pause(self, at: Instant) -> None:
        if self.pause_empties:
            self.rule.empty(at)
        self.paused_until, self.pause_empties = None, False

    # -------------------------------------------------- what happens in the steps of the loop

    def run(self) -> None:
        """The loop runs: granted callers start, newcomers ask, cancelled ones unwind."""
        while self.ready:
            self.ready.popleft()()
            self._grant_all_that_may_go()

    def _start(self, call: Call) -> None:
        if call.cancelled:
            self._unwind(call)
        else:
            self.unstarted.remove(call)
            self._tell(call, "granted")

    def _unwind(self, call: Call) -> None:
        """As if it had never asked: a place is given up, what was granted is given back."""
        if call in self.waiters:
            self.waiters.remove(call)
        elif call in self.unstarted:
            self.unstarted.remove(call)
            self._settle(call, 0)
            self.active -= call.needs_slot
        self._tell(call, "cancelled")

    def _fail(self, call: Call, how: str) -> None:
        """Throws a waiter out; its task learns it in its next step."""
        self.waiters.remove(call)
        if not call.cancelled:
            self.ready.append(partial(self._learn, call, how))

    def _learn(self, call: Call, how: str) -> None:
        retry_after = self._known_wait(call) if how == "timeout" else None
        self._tell(call, "cancelled" if call.cancelled else how, retry_after=retry_after)

    def _wait(self, call: Call) -> int | float:
        return self.delay(call.weight, needs_slot=call.needs_slot)

    def _known_wait(self, call: Call) -> int | float | None:
        """When to come back; None if that is for others to say: who holds a slot, or resumes."""
        wait = self._wait(call)
        return wait if 0 < wait < math.inf else None

    def _tell(self, call: Call, *how: str, retry_after: int | float | None = None) -> None:
        self.outcomes.append(Outcome(call.ident, self.clock, frozenset(how), retry_after))

    def _ask(self, call: Call, timeout: int | float | None) -> None:
        call.arrived = self.clock
        if call.cancelled:
            self._tell(call, "cancelled")
            return
        if refusals := self._never(call.weight):
            self._tell(call, *refusals)
            return
        if self._is_next(call):
            if self.unstarted:
                self._grant(call)
            else:
                self._take(call)
                self._tell(call, "granted")
            return
        if timeout is not None and (timeout <= 0 or self._wait(call) > timeout):
            refusals.add("timeout")
        if self.is_full():
            refusals.add("full")
        if refusals:
            self._tell(call, *refusals, retry_after=self._known_wait(call))
            return
        if isinstance(timeout, int):
            call.deadline = self.clock + timeout
        self.waiters.append(call)

    def _never(self, weight: int) -> set[str]:
        """Why a newcomer cannot be granted however long it waits."""
        refusals = {"closed"} if self.closed else set()
        return refusals if self.fits(weight) else refusals | {"heavy"}

    def _leave(self, call: Call) -> None:
        self.active -= call.needs_slot
        self._grant_all_that_may_go()

    # -------------------------------------------------------------------------- what is asked

    def arrive(
        self,
        ident: int,
        weight: int,
        *,
        needs_slot: bool = True,
        timeout: int | float | None = None,
    ) -> Call:
        """Starts a task that will ask in its first step. *timeout* is ns, or `math.inf`."""
        call = Call(ident, weight, needs_slot)
        self.ready.append(partial(self._ask, call, timeout))
        return call

    def try_acquire(self, ident: int, weight: int) -> Call | frozenset[str]:
        """The grant, or every answer that the promises allow; "no" is a refusal for now."""
        if refusals := self._never(weight):
            return frozenset(refusals)
        if not self.may_go_now(weight):
            return frozenset({"no"})
        call = Call(ident, weight)
        self._take(call)
        return call

    def cancel(self, call: Call) -> None:
        """Cancels the caller's task, which has not started. It lets go in its next step.

        Until then it stands where it stood, and can be granted what it then gives back.
        """
        call.cancelled = True
        if call in self.waiters:
            self.ready.append(partial(self._unwind, call))

    def leave(self, call: Call) -> None:
        """Tells the caller's task, which runs its body, to leave its block."""
        self.ready.append(partial(self._leave, call))

    def release(self) -> None:
        assert self.active > 0
        self.active -= 1
        self._grant_all_that_may_go()

    def settle(self, call: Call, actual: int) -> None:
        self._settle(call, actual)
        self._grant_all_that_may_go()

    def _settle(self, call: Call, actual: int) -> None:
        difference = actual - sum(part.weight for part in call.parts)
        if difference > 0:
            call.parts.append(self.rule.take(self.now, difference))
        for part in reversed(call.parts):
            refund = max(0, min(part.weight, -difference))
            self.rule.refund(part, self.now, refund)
            difference += refund

    def charge(self, weight: int) -> None:
        self.rule.take(self.now, weight)

    def pause(self, duration: int | float, *, empty: bool = False) -> None:
        until = self.clock + duration
        if self.paused_until is not None:
            until = max(until, self.paused_until)
        self.paused_until = until
        self.pause_empties |= empty
        if until <= self.clock:
            self._end_pause(self.now)

    def resume(self) -> None:
        if self.paused_until is not None:
            self._end_pause(self.now)
            self._grant_all_that_may_go()

    def close(self, *, drop_waiting: bool = True) -> None:
        self.closed = True
        if drop_waiting:
            for call in list(self.waiters):
                self._fail(call, "closed")

    def set_concurrency(self, slots: int) -> None:
        self.concurrency = slots
        self._grant_all_that_may_go()

    def set_capacity(self, capacity: int) -> None:
        self.capacity = capacity
        self._changed()

    def set_period(self, period: int) -> None:
        self.period = period
        self._changed()

    def set_burst(self, burst: int) -> None:
        self.asked_burst = burst
        self._changed()

    def _changed(self) -> None:
        assert self.capacity is not None
        assert self.burst is not None
        self.rule.change(self.now, self.capacity, self.period, self.burst)
        for call in [c for c in self.waiters if not self.fits(c.weight)]:
            self._fail(call, "heavy")
        self._grant_all_that_may_go()
