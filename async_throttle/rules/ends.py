"""Counting to the end: a call is taken from its grant to its end, and counts from its end on.

A server counts a call when the call arrives. Calls do not travel equally long, so whoever counts
from the grant on is out of step with the server by a journey: the first calls open connections and
arrive late, the next ones do not, and a whole batch falls into the wrong window.

The rule here is another rule, of which a call is taken at its end, and the weight *in flight*::

    bucket    a weight may go if    level - in flight >= weight
    window    a weight may go if    ended within the period + in flight + weight <= capacity

Why no server refuses a call that this lets go, however long calls travel:

- Bucket. What is in flight always fits into the level. The server took a call at some instant
  before its end, no later than the bucket here, and earlier consumption never leaves the server's
  bucket lower: a bucket that was emptied sooner has refilled since. So its level is, at each
  instant, at least the level here less what is in flight.
- Window. Of any calls that arrive within a period, take the one that started last. Each of the
  others was in flight at that start, or had ended within the period before: it arrived no earlier
  than a period before the last one did, and ended after it arrived. So the last one saw them all.

An end is never told too early: it counts from the next tick of the clock on, and is not backdated.
What only an end can finish has no instant: `CountedToEnd.ready_at` says NEVER. What is in flight is
kept as slots are, see `InFlight`: a head that waits for an end is a head that waits for a slot.

A call of which nobody knows whether it has arrived *lingers*: it is in flight for some time more,
and its end has an instant. Ends that lie ahead are played by each question, and made by the next
change.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Final, Self

from async_throttle._units import NEVER, TOKEN
from async_throttle.rules import Rule
from async_throttle.rules.bucket import TokenBucket
from async_throttle.rules.clock import ClockWindow
from async_throttle.rules.slots import Slots
from async_throttle.rules.window import FixedWindow, SlidingWindow

__all__ = ["CountedToEnd", "End", "InFlight", "check_counted_to_end"]

BOUNDLESS: Final = 1 << 200
"""How much may be in flight where there is no rate: a limit that nobody reaches."""


def check_counted_to_end(kind: type[Rule]) -> None:
    """Refuse rules of which a call cannot be taken at its end."""
    if issubclass(kind, FixedWindow):
        raise ValueError(
            "counts must be 'start' with FixedWindow, got 'end': take SlidingWindow, which covers "
            "servers whose windows begin anywhere"
        )
    if not issubclass(kind, (TokenBucket, SlidingWindow, ClockWindow)):
        raise ValueError(
            "counts must be 'start' but for TokenBucket, GCRA, LeakyBucket, SlidingWindow and "
            f"ClockWindow, got 'end' with {kind.__name__}"
        )


class InFlight(Slots):
    """What calls hold of a rate until they have ended, in nanotokens.

    All that calls hold at once fits into the burst. A weight for which there is too little left
    waits until some call gives back, so lanes and backfilling treat it as a number of slots.
    """

    __slots__ = ()

    counts_callers = False

    def __init__(self, burst: int | float) -> None:
        super().__init__(burst if isinstance(burst, int) else BOUNDLESS)

    def level(self, now: int) -> float:
        """Tokens of the burst that no call holds."""
        return self.free / TOKEN


class End:
    """The end of a call.

    Attributes:
        at: the instant from which on the call counts.
        weight: how much it counts, in nanotokens.
        lingers: whether the call may still be on its way until then.
        receipt: of the rule that counts it, once it does.
        made: whether it does.
    """

    __slots__ = ("at", "lingers", "made", "receipt", "weight")

    def __init__(self, at: int, weight: int, *, lingers: bool) -> None:
        self.at = at
        self.weight = weight
        self.lingers = lingers
        self.receipt: Any = None
        self.made = False


class CountedToEnd(Rule):
    """Another rule, of which a call is taken at its end.

    Attributes:
        rule: the other rule, which knows of the calls that have ended.
        in_flight: what calls hold that have not ended.
        state: the ends that lie ahead, the next one last.
        latest: the instant from which on the latest end counts, a tick after that end.
        flights: tells who knows which calls are in flight; None if nobody does, or no longer.
        resolution: nanoseconds between two readings of the clock; a call may have ended as late as
            just before the next one.
    """

    __slots__ = ("flights", "in_flight", "latest", "resolution", "rule")

    rule: Rule
    in_flight: InFlight
    state: list[End]
    resolution: int

    def __init__(self, rule: Rule, resolution: int) -> None:
        self.rule = rule
        if isinstance(rule, SlidingWindow):
            rule.ahead = resolution  # what counts until the tick that an end counts from, is kept
        self.parameters = rule.parameters
        self.in_flight = InFlight(rule.burst)
        self.resolution = resolution
        self.latest = -NEVER
        self.flights: Callable[[], Any] = _nobody
        self.state = []

    @property
    def kind(self) -> type[Rule]:
        """The class of the other rule."""
        return type(self.rule)

    @property
    def lingering(self) -> int:
        """Nanotokens of the ends that lie ahead."""
        return sum([end.weight for end in self.state])

    def configure(
        self, now: int, capacity: int | float, period: int, burst: int | float | None
    ) -> None:
        self.elapse(now)
        rule, held = self.rule, self.in_flight
        rule.configure(now, capacity, period, burst)
        parameters = rule.parameters
        most: Any = parameters.burst
        limit = most if most.__class__ is int else BOUNDLESS
        self.parameters = parameters
        held.free += limit - held.limit
        held.limit = held.burst = limit

    def ready_at(self, now: int, weight: int) -> int:
        wanted = self.in_flight.used + weight
        if self.state:
            return self._ready_behind(now, wanted)
        return self.rule.ready_at(now, wanted) if wanted <= self.burst else NEVER

    def _ready_behind(self, now: int, wanted: int) -> int:
        """When all that is *wanted* fits into the level, where ends lie ahead."""
        rule, at, lingering, burst = self.rule.fork(), now, self.lingering, self.burst
        for end in reversed(self.state):
            if end.at > at:
                if wanted + lingering <= burst:
                    ready = rule.ready_at(at, wanted + lingering)
                    if ready <= end.at:
                        return ready
                at = end.at
            self._count(rule, end.at, end.weight)
            lingering -= end.weight
        return rule.ready_at(at, wanted) if wanted <= burst else NEVER

    def take(self, now: int, weight: int) -> Any:
        """Take *weight* at once: of what has no end it counts from here on."""
        self.elapse(now)
        return self.rule.take(now, weight)

    def charge(self, now: int, weight: int) -> None:
        self.elapse(now)
        self.rule.charge(now, weight)

    def refund(self, now: int, receipt: Any, weight: int) -> None:
        self.elapse(now)
        self.rule.refund(now, receipt, weight)

    def land(self, now: int, held: int, weight: int) -> End:
        """A call has ended that held so much in flight: it counts *weight* from now on.

        Where a `ClockWindow` has closed already, the server may count the call in the next window:
        it is in flight until that begins.
        """
        self.elapse(now)
        rule, flying = self.rule, self.in_flight
        if isinstance(rule, ClockWindow):
            at = rule.counts_from(now)
            if at > now:
                return self._put(End(at, weight, lingers=False), held)
        end = End(now, weight, lingers=False)
        receipt = self._count(rule, now, weight)
        self.latest = now + self.resolution
        flying.free += held
        end.receipt = receipt
        end.made = True
        return end

    def _count(self, rule: Rule, ended: int, weight: int) -> Any:
        """Take *weight* of *rule* for a call that has *ended*: from the next tick on it counts."""
        return rule.take(ended + self.resolution, weight)

    def linger(self, now: int, held: int, weight: int, span: int) -> End:
        """A call may still be on its way that held so much: it ends *span* nanoseconds later."""
        self.elapse(now)
        return self._put(End(now + span, weight, lingers=True), held)

    def _put(self, end: End, held: int) -> End:
        state, ends = self.state, [end]
        n = bisect_left(state, -end.at, key=_before)  # behind others of the same instant
        state[n:n] = ends
        self.in_flight.free += held
        return end

    def hasten(self, now: int, end: End) -> None:
        """The call of *end* has ended after all, if that still lies ahead."""
        self.elapse(now)
        if not end.made:
            state = [other for other in self.state if other is not end]
            receipt = self._count(self.rule, now, end.weight)
            self.latest = now + self.resolution
            end.receipt = receipt
            end.made = True
            self.state = state

    def elapse(self, now: int) -> None:
        """Make the ends that lay ahead and are due by *now*."""
        state = self.state
        while state and state[-1].at <= now:
            end = state[-1]
            receipt = self._count(self.rule, end.at, end.weight)
            self.latest = end.at + self.resolution
            end.receipt = receipt
            end.made = True
            del state[-1]

    def _as_of(self, now: int) -> tuple[Rule, int]:
        """The other rule as it is at *now*, and what lingers then."""
        if not self.state:
            return self.rule, 0
        rule, lingering = self.rule.fork(), self.lingering
        for end in reversed(self.state):
            if end.at <= now:
                self._count(rule, end.at, end.weight)
                lingering -= end.weight
        return rule, lingering

    def level(self, now: int) -> float:
        """Tokens that are available: those left, less what is in flight."""
        rule, lingering = self._as_of(now)
        return rule.level(max(now, self.latest)) - (self.in_flight.used + lingering) / TOKEN

    def flying(self, now: int) -> int:
        """Nanotokens in flight, with those that linger."""
        return self.in_flight.used + self._as_of(now)[1]

    def number_lingering(self, now: int) -> int:
        """The number of calls that linger."""
        return len([end for end in self.state if end.lingers and end.at > now])

    def lower(self, now: int, level: int, said: int, until: int | None) -> None:
        """Have at most *level* available; what is in flight comes on top of that."""
        self.elapse(now)
        flying = self.in_flight.used + self.lingering
        self.rule.lower(now, level + flying, said + flying, until)

    def empty(self, now: int) -> None:
        self.elapse(now)
        if self.rule.divisible:
            self.lower(now, 0, 0, None)
        else:
            self.rule.empty(now)

    def guarantee(self, window: int) -> int | float:
        return self.rule.guarantee(window)

    def fresh_at(self, now: int) -> int:
        if self.in_flight.used:
            return NEVER
        rule, at = self.landed(now), now
        if self.state:
            at = max(now, self.state[0].at)
        return max(at, rule.fresh_at(at))

    def shift(self, by: int) -> None:
        ends = self.state
        self.rule.shift(by)
        self.latest += by
        for end in ends:
            end.at += by

    def fork(self) -> Self:
        twin = object.__new__(type(self))
        twin.rule, twin.parameters = self.rule.fork(), self.parameters
        twin.in_flight = self.in_flight.fork()
        twin.resolution, twin.latest = self.resolution, self.latest
        twin.flights = _nobody
        twin.state = [End(end.at, end.weight, lingers=end.lingers) for end in self.state]
        return twin

    def landed(self, now: int) -> Rule:
        """A copy of the other rule, as if all that is in flight had ended at *now*."""
        rule, ahead = self.rule.fork(), self.in_flight.used
        for end in reversed(self.state):
            if end.at <= now:
                self._count(rule, end.at, end.weight)
            else:
                ahead += end.weight
        if ahead:
            rule.take(now, ahead)
        return rule


def _nobody() -> None:
    return None


def _before(end: End) -> int:
    return -end.at
