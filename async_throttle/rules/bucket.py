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
coarse ticks those of whole tokens, and from the first fraction of a token on, with fine
ticks, those of nanotokens. Nothing is ever rounded but an instant that is told, and that up.

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
from typing import Final, Self

from async_throttle._units import NEVER, TOKEN
from async_throttle.rules import Rule

__all__ = ["GCRA", "LeakyBucket", "TokenBucket"]

MOST_COSTS: Final = 256
"""Weights whose cost is remembered at a time."""

MOST_LOWS: Final = 2_000
"""Refunds are exact for this many differing minima; past it the memory is thinned."""


class TokenBucket(Rule):
    """A burst at once, then a steady rate.

    Admits at most ``burst + capacity / period * d`` in any half-open span of length d; in a
    closed one, which has a nanosecond more, at most that of d + 1 ns. For servers that refill
    a budget of their own, which is most of them.
    """

    # scale     ticks per nanosecond
    # token     ticks that a whole token takes to come back; 0 without a limit
    # grain     the same of a nanotoken; 0 while ticks are coarse
    # room      ticks that an empty bucket takes to fill
    # full_at   tick at which the bucket is full again
    # issued    receipts given out so far; a receipt is its number
    # dead      receipts up to this one are worth nothing any more: the bucket ran full since
    # upto, lows   pairs, both ascending: receipts above the previous upto and up to this one
    #           can have back at most this many ticks; above the last one, everything
    # floor     a take that finds at least this much missing need not be noted
    # _costs    ticks by weight, for the weights that were used lately
    __slots__ = (
        "_costs",
        "dead",
        "floor",
        "full_at",
        "grain",
        "issued",
        "lows",
        "room",
        "scale",
        "token",
        "upto",
    )

    backdates = True
    divisible = True

    def __init__(
        self,
        now: int,
        capacity: int | float,
        period: int,
        burst: int | float | None = None,
    ) -> None:
        self.token = self.grain = self.room = self.full_at = 0
        self.scale = 1
        self.issued = self.dead = self.floor = 0
        self._costs: dict[int, int] = {}
        self.upto: list[int] = []
        self.lows: list[int] = []
        super().__init__(now, capacity, period, burst)

    @staticmethod
    def usual_burst(capacity: int | float) -> int | float:
        """The burst, in nanotokens, of a bucket that was not told one."""
        return max(TOKEN, capacity)

    def configure(
        self, now: int, capacity: int | float, period: int, burst: int | float | None
    ) -> None:
        old_token, old_room = self.token, self.room
        missing = max(0, self.full_at - now * self.scale)
        self.note(missing)
        self.capacity = capacity
        self.period = period
        self.burst = self.usual_burst(capacity) if burst is None else burst
        self._costs.clear()
        if isinstance(capacity, float):  # math.inf: everything is back at once
            self.scale, self.token, self.grain, self.room = 1, 0, 0, 0
            self.full_at = now
            self.note(0)
            return
        assert isinstance(self.burst, int), "a bucket with a rate has a finite burst"
        lows, self.lows = self.lows, []
        common = math.gcd(period * TOKEN, capacity)
        self.scale = capacity // common
        self.token = period * TOKEN // common
        self.grain = 0
        self.room = self._ticks(self.burst)
        # The level stays, and so do the minima, to the nanotoken, rounded down so that no change
        # mints any.
        held = old_room - missing
        level = held * TOKEN // old_token if old_token else self.burst
        if lows and not self.grain:
            self._refine()
        missing = self._ticks(max(0, self.burst - level))
        self.full_at = now * self.scale + missing
        self.lows = [((held + low) * TOKEN // old_token - level) * self.grain for low in lows]
        self.note(missing)

    def ready_at(self, now: int, weight: int) -> int:
        if not self.token:
            return now
        ticks = self._costs.get(weight)  # before the scale is read: it may change the scale
        if ticks is None:
            ticks = self._ticks(weight)
        at = now * self.scale
        full = self.full_at
        if full <= at - self.scale:
            full = at
        excess = full + ticks - self.room
        return now if excess <= at else -(-excess // self.scale)

    def take(self, now: int, weight: int) -> int:
        if not self.token:
            self.issued += 1
            return self.issued
        ticks = self._costs.get(weight)
        if ticks is None:
            ticks = self._ticks(weight)
        at = now * self.scale
        full = self.full_at
        if full <= at:
            if full <= at - self.scale:
                full = at
            if self.lows:
                self.note(0)
            else:
                self.dead = self.issued
        elif full - at < self.floor:
            self.note(full - at)
        self.full_at = full + ticks
        self.issued += 1
        self.floor = NEVER
        return self.issued

    def charge(self, now: int, weight: int) -> None:
        self.take(now, weight)
        self.issued -= 1
        self.floor = self.lows[-1] if self.lows else 0  # take() has noted all that is issued

    def refund(self, now: int, receipt: int, weight: int) -> None:
        if receipt <= self.dead or not self.token:
            return
        worth = self._costs.get(weight)
        if worth is None:
            worth = self._ticks(weight)
        if receipt == self.issued and self.floor == NEVER:  # nothing was taken since
            self.full_at -= worth
            return
        upto, lows = self.upto, self.lows
        first = bisect_left(upto, receipt)
        if first < len(lows):
            worth = min(worth, lows[first])
            # Every later take would have found that much less missing.
            lows[first:] = [low - worth for low in lows[first:]]
            start = bisect_left(lows, lows[first], 0, first)
            del upto[start:first], lows[start:first]
            self.floor = lows[-1] if self.issued == upto[-1] else NEVER
        self.full_at -= worth

    def level(self, now: int) -> float:
        if not self.token:
            return math.inf
        return (self.room - max(0, self.full_at - now * self.scale)) / self.token

    def empty(self, now: int) -> None:
        if not self.token:
            return
        at = now * self.scale
        self.note(max(0, self.full_at - at - self.room))
        self.full_at = max(self.full_at, at + self.room)

    def guarantee(self, window: int) -> int | float:
        if isinstance(self.capacity, float):
            return math.inf
        return self.burst + self.capacity * window // self.period

    def fresh_at(self, now: int) -> int:
        full, rest = divmod(self.full_at, self.scale)
        # Full within a nanosecond, it has the rest of that to its credit until the next one.
        return max(now, full + 2 if rest else full)

    def shift(self, by: int) -> None:
        self.full_at += by * self.scale

    def fork(self) -> Self:
        twin = object.__new__(type(self))
        for name in (
            "capacity",
            "period",
            "burst",
            "scale",
            "token",
            "grain",
            "room",
            "full_at",
        ):
            setattr(twin, name, getattr(self, name))
        twin.issued = twin.dead = twin.floor = 0
        twin.upto, twin.lows, twin._costs = [], [], {}
        return twin

    def note(self, missing: int) -> None:
        """Remember that a refund of anything taken so far is worth at most *missing* ticks."""
        upto, lows = self.upto, self.lows
        if missing <= 0:
            self.dead = self.issued
            self.floor = 0
            upto.clear()
            lows.clear()
            return
        while lows and lows[-1] >= missing:
            lows.pop()
            upto.pop()
        if self.issued > (upto[-1] if upto else self.dead):
            upto.append(self.issued)
            lows.append(missing)
            if len(lows) > MOST_LOWS:
                self._thin()
        self.floor = self.lows[-1] if self.lows else 0

    def _thin(self) -> None:
        """Merge minima closer than a thousandth of their range, each time to the lower one.

        Invariant: thinning never makes a refund worth more.
        """
        upto, lows = self.upto, self.lows
        step = (lows[-1] - lows[0]) // 1_000
        kept_upto, kept_lows = upto[:1], lows[:1]
        for last, low in zip(upto[1:], lows[1:], strict=True):
            if low - kept_lows[-1] < step:
                kept_upto[-1] = last
            else:
                kept_upto.append(last)
                kept_lows.append(low)
        self.upto, self.lows = kept_upto, kept_lows

    def _ticks(self, weight: int) -> int:
        """What *weight* nanotokens cost in time, exactly."""
        if weight % TOKEN and not self.grain:
            self._refine()
        ticks = weight * self.grain if self.grain else weight // TOKEN * self.token
        if len(self._costs) >= MOST_COSTS:
            self._costs.clear()
        self._costs[weight] = ticks
        return ticks

    def _refine(self) -> None:
        """Make ticks fine enough for nanotokens, for good: instants stay where they are."""
        assert isinstance(self.capacity, int), "without a limit nothing costs any time"
        common = math.gcd(self.period, self.capacity)
        factor = self.capacity // common // self.scale
        self.scale *= factor
        self.grain = self.period // common
        self.token *= factor
        self.room *= factor
        self.full_at *= factor
        self.lows = [low * factor for low in self.lows]
        self.floor = min(self.floor * factor, NEVER)
        self._costs.clear()


class GCRA(TokenBucket):
    """The token bucket under the name that it has in networks: the generic cell rate algorithm."""

    __slots__ = ()


class LeakyBucket(TokenBucket):
    """A token bucket whose burst is 1 unless told otherwise: calls go evenly spaced.

    Heavier weights need a burst of their size. Some libraries call the full-burst meter
    'leaky bucket'; that one is `TokenBucket` here.
    """

    __slots__ = ()

    @staticmethod
    def usual_burst(capacity: int | float) -> int | float:
        return TOKEN if capacity < math.inf else capacity
