"""Windows: so much per stretch of time, counted rather than refilled.

Both count what goes at the real instant of the grant, and both are half-open: what went at
t counts until just before t + period.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_right
from typing import Final, Self

from async_throttle._units import TOKEN
from async_throttle.rules import Parameters, Rule, read, written
from async_throttle.rules.lowered import NOTHING_LOWERED, Lowered, last, left, lowered, moved, ready

__all__ = ["FixedWindow", "SlidingWindow"]

EXACT: Final = 1_000
"""Entries that a sliding window keeps exact; beyond, each gathers what goes in period / EXACT."""


class _Window(Rule):
    """What both windows share: no burst of their own."""

    __slots__ = ()

    def _checked(self, capacity: int | float, period: int, burst: int | float | None) -> Parameters:
        if burst is not None:
            raise ValueError(
                f"burst does not go with {type(self).__name__}, whose capacity is its burst, "
                f"got {burst / TOKEN:g}"
            )
        return Parameters(capacity, period, capacity)

    @abstractmethod
    def _inside(self, now: int) -> int:
        """Nanotokens of the calls that still count at *now*."""

    def _held(self, now: int) -> int:
        """Nanotokens that still count at *now*, of calls and of what was lowered."""
        held = self._inside(now)
        return held + left(self.state.lowered, now) if self.state.lowered else held

    def level(self, now: int) -> float:
        capacity = self.parameters.capacity
        if isinstance(capacity, float):
            return math.inf
        return (capacity - self._held(now)) / TOKEN

    def lower(self, now: int, level: int, said: int, until: int | None) -> None:
        parameters, state = self.parameters, self.state
        if isinstance(parameters.capacity, float):
            return
        more = parameters.capacity - self._held(now) - level
        if more > 0:
            until = now + parameters.period if until is None else until
            pairs = lowered(state.lowered, now, until, more)
            self._open(now)
            state.lowered = pairs

    def _open(self, now: int) -> None:
        """Something counts from *now* on that is no call."""

    def clears_at(self, now: int, weight: int) -> int:
        # What is held up at an instant does not fit in with what went within the period before,
        # and goes within the period after. So of any two such instants, a period apart, what goes
        # in between and the piece held up are more than *capacity*; they are *weight* twice.
        parameters = self.parameters
        if isinstance(parameters.capacity, float):
            return now
        turns = max(1, -(-2 * weight // parameters.capacity))
        start = last(self.state.lowered, now) if self.state.lowered else now
        return start + turns * (parameters.period + parameters.period // EXACT)


class SlidingState:
    """What changes in a sliding window.

    The entries are two lists. Nothing of an entry goes later than its instant, and the instant
    never moves: so taking makes nothing wait but what was taken.

    Attributes:
        inside: nanotokens of all entries.
        first: number of the first entry; a receipt is the number of an entry.
        instants: when each entry counts as gone, ascending.
        weights: nanotokens of each entry.
        lowered: what a server has counted beyond that.
    """

    __slots__ = ("first", "inside", "instants", "lowered", "weights")

    def __init__(
        self,
        inside: int,
        first: int,
        instants: list[int],
        weights: list[int],
        lowered: Lowered = NOTHING_LOWERED,
    ) -> None:
        self.inside = inside
        self.first = first
        self.instants = instants
        self.weights = weights
        self.lowered = lowered


class SlidingWindow(_Window):
    """Never more than *capacity* in any window of *period*: the strict choice.

    Exact with up to 1,000 grants inside. Beyond that, grants within a thousandth of a period
    are kept as one that counts from the end of it: memory stays bounded whatever the
    capacity, nobody is admitted early, and at most a thousandth of the rate is lost.
    """

    __module__ = "async_throttle"

    # ahead     nanoseconds by which a take may be ahead of the present: what leaves then is kept
    __slots__ = ("ahead",)

    state: SlidingState
    ahead: int

    def __init__(
        self,
        now: int,
        capacity: int | float,
        period: int,
        burst: int | float | None = None,
    ) -> None:
        self.state = SlidingState(0, 0, [], [])
        self.ahead = 0
        super().__init__(now, capacity, period, burst)

    def configure(
        self, now: int, capacity: int | float, period: int, burst: int | float | None
    ) -> None:
        parameters = self._checked(capacity, period, burst)
        self._forget(now)  # by the old period: what has left does not come back
        self.parameters = parameters

    def ready_at(self, now: int, weight: int) -> int:
        # Entries that have left count as well: the instants at which they left have passed.
        state, parameters = self.state, self.parameters
        excess = state.inside + weight - parameters.capacity
        if state.lowered:
            return self._ready_at(now, weight)
        if excess <= 0:
            return now
        for n, inside in enumerate(state.weights):
            excess -= inside
            if excess <= 0:
                return max(now, state.instants[n] + parameters.period)
        raise AssertionError("a weight above the burst reached the rule")

    def _ready_at(self, now: int, weight: int) -> int:
        """The same, where a server has counted more."""
        capacity, period, state = self.parameters.capacity, self.parameters.period, self.state
        if isinstance(capacity, float):
            return now
        gone = self._gone(now)
        calls = zip(state.instants[gone:], state.weights[gone:], strict=True)
        leaving = ((instant + period, inside) for instant, inside in calls)
        return ready(now, self._held(now) + weight - capacity, leaving, state.lowered)

    def take(self, now: int, weight: int) -> int | None:
        parameters, state = self.parameters, self.state
        if isinstance(parameters.capacity, float):
            return None
        if not state.inside or state.instants[0] + parameters.period <= now - self.ahead:
            self._forget(now - self.ahead)
        instants, weights = state.instants, state.weights
        size = len(instants)
        inside = state.inside + weight
        if size and now <= instants[-1]:
            weights[-1] += weight
            state.inside = inside
            return state.first + size - 1
        if size >= EXACT:
            now += parameters.period // EXACT
        instants[size:] = [now]
        weights[size:] = [weight]
        state.inside = inside
        return state.first + size

    def refund(self, now: int, receipt: int | None, weight: int) -> None:
        self._forget(now)
        state = self.state
        if receipt is not None and receipt >= state.first:
            n = receipt - state.first
            weight = min(weight, state.weights[n])
            state.weights[n] -= weight
            state.inside -= weight

    def empty(self, now: int) -> None:
        capacity, state = self.parameters.capacity, self.state
        if isinstance(capacity, float):
            return
        size = len(state.instants)
        inside = max(self._held(now), capacity)
        instants, weights = [now], [inside]
        state.first += size  # there is nothing to refund of what went before
        state.instants = instants
        state.weights = weights
        state.inside = inside
        state.lowered = NOTHING_LOWERED

    def guarantee(self, window: int) -> int | float:
        parameters = self.parameters
        return parameters.capacity * -(-window // parameters.period)

    def fresh_at(self, now: int) -> int:
        state, parameters = self.state, self.parameters
        if isinstance(parameters.capacity, float):
            return now
        fresh_at = last(state.lowered, now)
        return max(fresh_at, state.instants[-1] + parameters.period) if state.inside else fresh_at

    def forgets_at(self, now: int, weight: int) -> int:
        period = self.parameters.period
        gathers = len(self.state.instants) - self._gone(now) >= EXACT
        return now + period + (period // EXACT if gathers else 0)

    def shift(self, by: int) -> None:
        instants = [instant + by for instant in self.state.instants]
        pairs = moved(self.state.lowered, by)
        self.state.instants = instants
        self.state.lowered = pairs

    def fork(self) -> Self:
        twin, state = object.__new__(type(self)), self.state
        twin.parameters, twin.ahead = self.parameters, self.ahead
        twin.state = SlidingState(
            state.inside,
            state.first,
            list(state.instants),
            list(state.weights),
            state.lowered,
        )
        return twin

    def dump(self) -> bytes:
        parameters, state = self.parameters, self.state
        return written(
            "sliding window",
            parameters.capacity,
            parameters.period,
            state.inside,
            state.first,
            state.instants,
            state.weights,
            state.lowered,
        )

    @classmethod
    def load(cls, data: bytes) -> Self:
        capacity, period, *state = read("sliding window", data)
        state[-1] = moved(state[-1])
        rule = object.__new__(cls)
        rule.parameters = Parameters(capacity, period, capacity)
        rule.state = SlidingState(*state)
        rule.ahead = 0
        return rule

    def _inside(self, now: int) -> int:
        state = self.state
        gone = self._gone(now)
        return state.inside - sum(state.weights[:gone]) if gone else state.inside

    def _gone(self, now: int) -> int:
        """Entries that no longer make a difference at *now*."""
        state = self.state
        if not state.inside:
            return len(state.instants)
        return bisect_right(state.instants, now - self.parameters.period)

    def _forget(self, now: int) -> None:
        """Drop the entries that no longer make a difference at *now*."""
        gone, state = self._gone(now), self.state
        if gone:
            inside = state.inside - sum(state.weights[:gone])
            if not inside:
                gone = len(state.instants)
            first = state.first + gone
            instants, weights = state.instants[gone:], state.weights[gone:]
            # All at once: a question that comes in between would count twice what has gone.
            state.inside, state.first, state.instants, state.weights = (
                inside,
                first,
                instants,
                weights,
            )


class FixedState:
    """What changes in a fixed window. The window is open while something counts in it.

    Attributes:
        inside: nanotokens of the calls in the window.
        until: when the window is over.
        window: number of the window; a receipt is the number of a window.
        lowered: what a server has counted beyond that.
    """

    __slots__ = ("inside", "lowered", "until", "window")

    def __init__(
        self, inside: int, until: int, window: int, lowered: Lowered = NOTHING_LOWERED
    ) -> None:
        self.inside = inside
        self.until = until
        self.window = window
        self.lowered = lowered


class FixedWindow(_Window):
    """Never more than *capacity* in a window that opens with its first call, for a *period*.

    As the windows of many servers do, it opens at the first instant at which something counts in
    it: a grant, a charge, a `sync` that lowers, the end of a pause that empties, the construction
    with less than all of *capacity*. It is over *period* later, and the next one opens when
    something counts again. A weight of 0 does not open it. A refund does not move the end; where
    nothing counts any more, it is as if the window had never opened. A new *period* counts from the
    instant of the opening.

    Twice *capacity* may go across the end of a window: late in the one, early in the next.
    """

    __module__ = "async_throttle"

    __slots__ = ()

    state: FixedState

    def __init__(
        self,
        now: int,
        capacity: int | float,
        period: int,
        burst: int | float | None = None,
    ) -> None:
        self.state = FixedState(0, now, 0)
        super().__init__(now, capacity, period, burst)

    def configure(
        self, now: int, capacity: int | float, period: int, burst: int | float | None
    ) -> None:
        parameters, state = self._checked(capacity, period, burst), self.state
        if now >= state.until:  # by the old period: what has left does not come back
            state.inside = 0
            state.window += 1
        until = state.until + period - self.parameters.period if self._is_open(now) else now
        self.parameters = parameters
        state.until = until

    def ready_at(self, now: int, weight: int) -> int:
        state = self.state
        if state.lowered:
            inside = self._inside(now)
            excess = inside + left(state.lowered, now) + weight - self.parameters.capacity
            return ready(now, int(max(0, excess)), [(state.until, inside)], state.lowered)
        if now >= state.until or state.inside + weight <= self.parameters.capacity:
            return now
        return state.until

    def take(self, now: int, weight: int) -> int | None:
        parameters, state = self.parameters, self.state
        if isinstance(parameters.capacity, float):
            return None
        if (state.inside or state.lowered) and self._is_open(now):
            state.inside += weight
        else:
            state.inside = weight
            state.until = now + parameters.period
            state.window += 1
        return state.window

    def _open(self, now: int) -> None:
        state, until = self.state, now + self.parameters.period
        if not self._is_open(now):
            state.inside = 0
            state.until = until
            state.window += 1

    def refund(self, now: int, receipt: int | None, weight: int) -> None:
        state = self.state
        if receipt == state.window and now < state.until:
            state.inside -= weight

    def empty(self, now: int) -> None:
        capacity, state = self.parameters.capacity, self.state
        if isinstance(capacity, float):
            return
        inside = max(self._held(now), capacity)
        until = state.until if self._is_open(now) else now + self.parameters.period
        state.until = until
        state.inside = inside
        state.window += 1  # what was taken before counts as used: nothing to refund
        state.lowered = NOTHING_LOWERED

    def guarantee(self, window: int) -> int | float:
        parameters = self.parameters
        return parameters.capacity * (-(-window // parameters.period) + 1)

    def fresh_at(self, now: int) -> int:
        state = self.state
        if isinstance(self.parameters.capacity, float):
            return now
        fresh_at = last(state.lowered, now)
        return max(fresh_at, state.until) if state.inside else fresh_at

    def forgets_at(self, now: int, weight: int) -> int:
        return now + self.parameters.period if self.opens(now) else self.state.until

    def opens(self, now: int) -> bool:
        return not self._is_open(now)

    def shift(self, by: int) -> None:
        state = self.state
        pairs = moved(state.lowered, by)
        state.until += by
        state.lowered = pairs

    def fork(self) -> Self:
        twin, state = object.__new__(type(self)), self.state
        twin.parameters = self.parameters
        twin.state = FixedState(state.inside, state.until, state.window, state.lowered)
        return twin

    def dump(self) -> bytes:
        parameters, state = self.parameters, self.state
        return written(
            "fixed window",
            parameters.capacity,
            parameters.period,
            state.inside,
            state.until,
            state.window,
            state.lowered,
        )

    @classmethod
    def load(cls, data: bytes) -> Self:
        capacity, period, *state = read("fixed window", data)
        state[-1] = moved(state[-1])
        rule = object.__new__(cls)
        rule.parameters = Parameters(capacity, period, capacity)
        rule.state = FixedState(*state)
        return rule

    def _inside(self, now: int) -> int:
        return 0 if now >= self.state.until else self.state.inside

    def _is_open(self, now: int) -> bool:
        state = self.state
        if now >= state.until:
            return False
        return bool(state.inside or (state.lowered and left(state.lowered, now)))
