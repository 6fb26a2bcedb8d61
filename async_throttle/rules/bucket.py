"""Token bucket: a burst at once, then a steady rate. GCRA is its other name.

The state is one instant, *full_at*: when the bucket is full again if nobody else comes. ::

    burst 3, one token per 100 ms, two taken at 0 ms:

    level   3 ┤      ╭──────        full_at = 200 ms
            2 ┤   ╭──╯              a weight of 3 is ready at
            1 ┤───╯                 full_at - (burst - 3) * cost = 200 ms
              └───┴──┴──────
              0  100 200 ms

    ready_at(weight) = full_at - (burst - weight) * cost
    take(weight):      full_at = max(full_at, now) + weight * cost

Two bucket limiters that look different, the one that fills with tokens and the one that
drains like a leaky bucket, are this same arithmetic.

Units. What one token costs in time is rarely a whole number of nanoseconds, so instants are
kept in *ticks*, of which `scale` make a nanosecond, chosen such that costs are whole: with
coarse ticks those of whole tokens, and from the first fraction of a token that is taken on, with
fine ticks, those of nanotokens. Nothing is ever rounded but an instant that is told, and that up.

Refunds. Giving *r* tokens back to a call that took too many must leave the bucket as if it
had taken the right number. It would have run full sooner, and a full bucket gains nothing:
so the refund is worth at most what was missing at every later take (and now, which needs no
care: a *full_at* in the past is a full bucket). The bucket remembers these minima.

Source: the generic cell rate algorithm (ITU-T I.371), where *full_at* is the theoretical
arrival time.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import lru_cache
from typing import Any, Final, Self

from async_throttle._units import NEVER, TOKEN
from async_throttle.rules import Frozen, Parameters, Rule, read, written

__all__ = ["GCRA", "MOST_LOWS", "PLAIN", "LeakyBucket", "TokenBucket"]

MOST_LOWS: Final = 2_000
"""Refunds are exact for this many differing minima; past it the memory is thinned."""


NO_LOWS: Final[Any] = ()
"""What *lows* and *upto* are while there are none; most buckets never need more."""


class Ticks(Frozen):
    """The unit of a bucket's instants, and what its parameters are in it.

    Attributes:
        scale: ticks per nanosecond.
        token: ticks that a whole token takes to come back; 0 without a limit.
        grain: ticks that a nanotoken takes to come back; 0 while ticks are coarse.
        room: ticks that an empty bucket takes to fill.
    """

    __slots__ = ("grain", "room", "scale", "token")

    def __init__(self, scale: int, token: int, grain: int, room: int) -> None:
        self.scale = scale
        self.token = token
        self.grain = grain
        self.room = room

    def cost(self, weight: int) -> int:
        """Ticks that *weight* takes to come back; it must be whole tokens if they are coarse."""
        return weight * self.grain if self.grain else weight // TOKEN * self.token


UNLIMITED: Final = Ticks(scale=1, token=0, grain=0, room=0)
"""Without a limit everything is back at once."""


class BucketParameters(Parameters):
    """What a bucket was told, and its units.

    Attributes:
        coarse: ticks for whole tokens; the fine ones, if the burst is no whole number of tokens.
        fine: ticks for nanotokens.
    """

    __slots__ = ("coarse", "fine")

    def __init__(
        self,
        capacity: int | float,
        period: int,
        burst: int | float,
        coarse: Ticks,
        fine: Ticks,
    ) -> None:
        super().__init__(capacity, period, burst)
        self.coarse = coarse
        self.fine = fine


@lru_cache(typed=True)
def parameters_of(capacity: int | float, period: int, burst: int | float) -> BucketParameters:
    """The parameters of a bucket, with its units. Equal buckets, one for each key, share them."""
    if isinstance(capacity, float):
        return BucketParameters(capacity, period, burst, UNLIMITED, UNLIMITED)
    assert isinstance(burst, int), "a bucket with a rate has a finite burst"
    common = math.gcd(period, capacity)
    grain = period // common
    fine = coarse = Ticks(capacity // common, grain * TOKEN, grain, burst * grain)
    if burst % TOKEN == 0:
        common = math.gcd(period * TOKEN, capacity)
        token = period * TOKEN // common
        coarse = Ticks(capacity // common, token, 0, burst // TOKEN * token)
    return BucketParameters(capacity, period, burst, coarse, fine)


class BucketState:
    """What changes in a bucket.

    Attributes:
        ticks: the unit of the instants below: the coarse or the fine ticks of the parameters.
        full_at: tick at which the bucket is full again.
        issued: receipts given out so far; a receipt is its number.
        dead: receipts up to this one are worth nothing any more: the bucket ran full since.
        floor: a take that finds at least this much missing need not be noted. The last of
            *lows*, or 0 without one, if they cover all that is issued; NEVER, if not.
        upto, lows: pairs, both ascending. Receipts above the previous *upto* and up to this one
            can have back at most this many ticks; above the last one, everything.
    """

    __slots__ = ("dead", "floor", "full_at", "issued", "lows", "ticks", "upto")

    def __init__(
        self,
        ticks: Ticks = UNLIMITED,
        full_at: int = 0,
        issued: int = 0,
        dead: int = 0,
        floor: int = 0,
        upto: list[int] = NO_LOWS,
        lows: list[int] = NO_LOWS,
    ) -> None:
        self.ticks = ticks
        self.full_at = full_at
        self.issued = issued
        self.dead = dead
        self.floor = floor
        self.upto = upto
        self.lows = lows


class TokenBucket(Rule):
    """A burst at once, then a steady rate.

    Admits at most ``burst + capacity / period * d`` in any half-open span of length d; in a
    closed one, which has a nanosecond more, at most that of d + 1 ns. For servers that refill
    a budget of their own, which is most of them.
    """

    __module__ = "async_throttle"

    __slots__ = ()

    backdates = True
    divisible = True

    parameters: BucketParameters
    state: BucketState

    def __init__(
        self,
        now: int,
        capacity: int | float,
        period: int,
        burst: int | float | None = None,
    ) -> None:
        self.state = BucketState()
        super().__init__(now, capacity, period, burst)

    @staticmethod
    def usual_burst(capacity: int | float) -> int | float:
        """The burst, in nanotokens, of a bucket that was not told one."""
        return max(TOKEN, capacity)

    def configure(
        self, now: int, capacity: int | float, period: int, burst: int | float | None
    ) -> None:
        if burst is None:
            burst = self.usual_burst(capacity)
        parameters = parameters_of(capacity, period, burst)
        state = self.state
        old = state.ticks
        missing = max(0, state.full_at - now * old.scale)
        self.note(missing)
        ticks = parameters.coarse
        lows: list[int] = NO_LOWS
        if ticks.token:
            # The level stays, and so do the minima, to the nanotoken, rounded down so that no
            # change mints any.
            held = old.room - missing
            level = held * TOKEN // old.token if old.token else int(burst)
            lacking = max(0, int(burst) - level)
            if state.lows or lacking % TOKEN:
                ticks = parameters.fine
            missing = ticks.cost(lacking)
            lows = state.lows and [
                min(missing, ticks.cost((held + low) * TOKEN // old.token - level))
                for low in state.lows
            ]
        else:
            missing = 0
        full_at = now * ticks.scale + missing
        self.parameters = parameters  # pyright: ignore[reportIncompatibleVariableOverride]
        state.ticks = ticks
        state.full_at = full_at
        state.lows = lows
        if lows:
            state.floor = lows[-1]
        else:
            state.upto = NO_LOWS
            state.dead = state.issued
            state.floor = 0

    def ready_at(self, now: int, weight: int) -> int:
        state = self.state
        ticks = state.ticks
        full = state.full_at
        if ticks.grain:
            cost = weight * ticks.grain
        elif weight % TOKEN:
            coarse, ticks = ticks, self.parameters.fine
            full *= ticks.scale // coarse.scale
            cost = weight * ticks.grain
        else:
            cost = weight // TOKEN * ticks.token
        scale = ticks.scale
        at = now * scale
        if full <= at - scale:
            full = at
        excess = full + cost - ticks.room
        return now if excess <= at else -(-excess // scale)

    def ticks_at(self, now: int) -> tuple[int, int, int, int]:
        """When the bucket is full, its room, what a nanotoken costs, and how many ticks a ns has.

        In fine ticks, as far as the answers about *now* go: a weight is ready at
        ``full - room + weight * cost``, and forgotten when that is full again.
        """
        state, fine = self.state, self.parameters.fine
        full = state.full_at
        if state.ticks is not fine:
            full *= fine.scale // state.ticks.scale
        at = now * fine.scale
        if full <= at - fine.scale:
            full = at
        return full, fine.room, fine.grain, fine.scale

    def take(self, now: int, weight: int) -> int | None:
        state = self.state
        ticks = state.ticks
        if ticks.grain:
            cost = weight * ticks.grain
        elif not ticks.token:
            return None
        elif weight % TOKEN:
            ticks = self._refine()
            cost = weight * ticks.grain
        else:
            cost = weight // TOKEN * ticks.token
        at = now * ticks.scale
        full = state.full_at
        if full <= at:
            if full <= at - ticks.scale:
                full = at
            if state.lows:
                self.note(0)
            else:
                state.dead = state.issued
        elif full - at < state.floor:
            self.note(full - at)
        state.full_at = full + cost
        state.issued += 1
        state.floor = NEVER
        return state.issued

    def charge(self, now: int, weight: int) -> None:
        state = self.state
        issued = state.issued
        self.take(now, weight)
        if state.issued == issued + 1:  # a receipt that nobody has need not be looked after
            state.issued = issued
            state.floor = state.lows[-1] if state.lows else 0  # `take` noted all before it

    def refund(self, now: int, receipt: int | None, weight: int) -> None:
        state = self.state
        if receipt is None or receipt <= state.dead:
            return
        ticks = state.ticks
        if weight % TOKEN and not ticks.grain:
            ticks = self._refine()
        worth = weight * ticks.grain if ticks.grain else weight // TOKEN * ticks.token
        if receipt == state.issued and state.floor == NEVER:  # nothing was taken since
            state.full_at -= worth
            return
        # Every take notes all that was issued before it: *upto* reaches at least up to the last
        # receipt but one, and the last one is in it, too, unless nothing was taken since.
        upto, lows = state.upto, state.lows
        first = bisect_left(upto, receipt)
        worth = min(worth, lows[first])
        # Every later take would have found that much less missing.
        rest = [low - worth for low in lows[first:]]
        start = bisect_left(lows, rest[0], 0, first)
        state.full_at -= worth
        lows[start:] = rest
        upto[start:first] = []
        state.floor = rest[-1] if state.issued == upto[-1] else NEVER

    def level(self, now: int) -> float:
        state = self.state
        ticks = state.ticks
        if not ticks.token:
            return math.inf
        return (ticks.room - max(0, state.full_at - now * ticks.scale)) / ticks.token

    def lower(self, now: int, level: int, said: int, until: int | None) -> None:
        ticks = self.state.ticks
        if not ticks.token or level >= self.parameters.burst:
            return
        lacking, lacks = int(self.parameters.burst) - level, int(self.parameters.burst) - said
        if not ticks.grain and (lacking % TOKEN or lacks % TOKEN):
            ticks = self._refine()
        self._lower(now, ticks.cost(lacking), ticks.cost(max(0, lacks)))

    def empty(self, now: int) -> None:
        ticks = self.state.ticks
        if ticks.token:
            self._lower(now, ticks.room, ticks.room)

    def _lower(self, now: int, missing: int, lacks: int) -> None:
        """Have at least *missing* ticks missing; refunds leave at least those that it *lacks*."""
        state = self.state
        at = now * state.ticks.scale
        full_at = max(state.full_at, at + missing)
        self.note(full_at - at - lacks)
        state.full_at = full_at

    def guarantee(self, window: int) -> int | float:
        parameters = self.parameters
        if isinstance(parameters.capacity, float):
            return math.inf
        return parameters.burst + parameters.capacity * window // parameters.period

    def fresh_at(self, now: int) -> int:
        full, rest = divmod(self.state.full_at, self.state.ticks.scale)
        # Full within a nanosecond, it has the rest of that to its credit until the next one.
        return max(now, full + 2 if rest else full)

    def shift(self, by: int) -> None:
        self.state.full_at += by * self.state.ticks.scale

    def fork(self) -> Self:
        twin, state = object.__new__(type(self)), self.state
        twin.parameters = self.parameters
        twin.state = BucketState(
            state.ticks,
            state.full_at,
            state.issued,
            state.dead,
            state.floor,
            state.upto and list(state.upto),
            state.lows and list(state.lows),
        )
        return twin

    def dump(self) -> bytes:
        parameters, state = self.parameters, self.state
        return written(
            "bucket",
            parameters.capacity,
            parameters.period,
            parameters.burst,
            int(state.ticks is parameters.fine),
            state.full_at,
            state.issued,
            state.dead,
            state.floor,
            state.upto,
            state.lows,
        )

    @classmethod
    def load(cls, data: bytes) -> Self:
        capacity, period, burst, fine, *state = read("bucket", data)
        rule = object.__new__(cls)
        parameters = rule.parameters = parameters_of(capacity, period, burst)
        rule.state = BucketState(parameters.fine if fine else parameters.coarse, *state)
        return rule

    def note(self, missing: int) -> None:
        """Remember that a refund of anything taken so far is worth at most *missing* ticks.

        Noting what is missing now changes no answer, whether something is taken next or not.
        """
        state = self.state
        upto, lows, issued = state.upto, state.lows, state.issued
        if missing <= 0:
            if lows:
                state.upto = NO_LOWS
                state.lows = NO_LOWS
            state.dead = issued
            state.floor = 0
            return
        if lows and lows[-1] == missing:  # as where grants follow one another when they are due
            upto[-1] = issued
            state.floor = missing
            return
        first = bisect_left(lows, missing)
        if issued > (upto[first - 1] if first else state.dead):
            if first >= MOST_LOWS:
                upto, lows = _thinned([*upto[:first], issued], [*lows[:first], missing])
            elif lows:
                upto[first:] = [issued]
                lows[first:] = [missing]
            else:
                upto, lows = [issued], [missing]
            state.upto = upto
            state.lows = lows
            state.floor = lows[-1]
        else:
            state.floor = lows[-1] if lows else 0

    def _refine(self) -> Ticks:
        """Make ticks fine enough for nanotokens, for good: instants stay where they are."""
        state, fine = self.state, self.parameters.fine
        factor = fine.scale // state.ticks.scale
        lows = state.lows and [low * factor for low in state.lows]
        state.ticks = fine
        state.full_at *= factor
        state.lows = lows
        if state.floor != NEVER:
            state.floor *= factor
        return fine


def _thinned(upto: list[int], lows: list[int]) -> tuple[list[int], list[int]]:
    """The pairs without minima closer than a thousandth of their range, merged to the lower one.

    Invariant: thinning never makes a refund worth more.
    """
    step = (lows[-1] - lows[0]) // 1_000
    kept_upto, kept_lows = upto[:1], lows[:1]
    for last, low in zip(upto[1:], lows[1:], strict=True):
        if low - kept_lows[-1] < step:
            kept_upto[-1] = last
        else:
            kept_upto.append(last)
            kept_lows.append(low)
    return kept_upto, kept_lows


class GCRA(TokenBucket):
    """The token bucket under the name that it has in networks: the generic cell rate algorithm."""

    __module__ = "async_throttle"

    __slots__ = ()


class LeakyBucket(TokenBucket):
    """A token bucket whose burst is 1 unless told otherwise: calls go evenly spaced.

    Heavier weights need a burst of their size. Some libraries call the full-burst meter
    'leaky bucket'; that one is `TokenBucket` here.
    """

    __module__ = "async_throttle"

    __slots__ = ()

    @staticmethod
    def usual_burst(capacity: int | float) -> int | float:
        return TOKEN if capacity < math.inf else capacity


PLAIN: Final = (TokenBucket, GCRA, LeakyBucket)
"""The buckets whose arithmetic is that of `TokenBucket`; a subclass of these may differ."""
