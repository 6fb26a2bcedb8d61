"""Servers that limit calls, as real ones count; the throttle that is a twin of each; and worlds.

Each server is told when a call arrives, in nanoseconds, and says whether the call is served. It
reads a clock of its own: so many nanoseconds ahead, in whole *ticks*.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from async_throttle import ClockWindow, LeakyBucket, SlidingWindow

SECOND = 10**9
TICKS = (1, 10**6, 10**9)


@dataclass
class Server:
    """Serves up to *most* weight per *period* seconds.

    Attributes:
        burst: most weight at once, for those that count so.
        tick, ahead: nanoseconds, of the clock.
        refused: how many calls were refused.
        served: the weight that was served.
    """

    most: int
    period: int
    burst: int = 0
    tick: int = 1
    ahead: int = 0
    refused: int = 0
    served: int = 0

    @property
    def span(self) -> int:
        """The period, in nanoseconds."""
        return self.period * SECOND

    def arrives(self, now: int, weight: int) -> bool:
        """A call arrives: whether it is served. Refused calls do not count."""
        at = (now + self.ahead) // self.tick * self.tick
        found = self.counts(at, weight)
        self.refused += not found
        self.served += weight if found else 0
        return found

    def counts(self, at: int, weight: int) -> bool:
        raise NotImplementedError

    def twin(self) -> dict[str, Any]:
        """What a throttle is made with that never sees a refusal when it counts to the end."""
        raise NotImplementedError


@dataclass
class FromTheFirstCall(Server):
    """A window that opens with the first call after the last one was over: express, koa, ..."""

    opened: int = -(10**18)
    inside: int = 0

    def counts(self, at: int, weight: int) -> bool:
        if at >= self.opened + self.span:
            self.opened, self.inside = at, 0
        if self.inside + weight > self.most:
            return False
        self.inside += weight
        return True

    def twin(self) -> dict[str, Any]:
        return {"capacity": self.most, "period": self.period, "algorithm": SlidingWindow}


@dataclass
class OnTheClock(FromTheFirstCall):
    """A window from edge to edge of the server's clock: django-ratelimit, litestar."""

    def counts(self, at: int, weight: int) -> bool:
        window = at // self.span * self.span
        if window != self.opened:
            self.opened, self.inside = window, 0
        if self.inside + weight > self.most:
            return False
        self.inside += weight
        return True


@dataclass
class OnTheSameClock(OnTheClock):
    """The same, where the client knows that clock to half a second: `ClockWindow`."""

    def twin(self) -> dict[str, Any]:
        # The margin covers what the clocks differ by, and the tick.
        return {"capacity": self.most, "period": self.period, "algorithm": ClockWindow}


@dataclass
class SlidingLog(Server):
    """All calls within the last period: limits' moving window, DRF, fastapi-limiter."""

    log: list[tuple[int, int]] = field(default_factory=list)

    def counts(self, at: int, weight: int) -> bool:
        self.log = [entry for entry in self.log if entry[0] > at - self.span]
        if sum(entry[1] for entry in self.log) + weight > self.most:
            return False
        self.log.append((at, weight))
        return True

    def twin(self) -> dict[str, Any]:
        return {"capacity": self.most, "period": self.period, "algorithm": SlidingWindow}


@dataclass
class Bucket(Server):
    """A budget that is refilled: nginx with a burst, Envoy, quart-rate-limiter."""

    level: Fraction = Fraction(-1)
    seen: int = 0

    def counts(self, at: int, weight: int) -> bool:
        if self.level < 0:
            self.level, self.seen = Fraction(self.burst), at
        regained = Fraction(self.most * max(0, at - self.seen), self.span)
        self.level = min(Fraction(self.burst), self.level + regained)
        self.seen = max(self.seen, at)
        if self.level < weight:
            return False
        self.level -= weight
        return True

    def twin(self) -> dict[str, Any]:
        # A clock in ticks may owe what comes back in one of them.
        slack = Fraction(self.most * self.tick, self.span) if self.tick > 1 else Fraction(0)
        burst = float(self.burst - slack)
        return {"capacity": self.most, "period": self.period, "burst": burst}


@dataclass
class WithoutBurst(Server):
    """One call at a time, evenly spaced: nginx without a burst, vsthrottle."""

    last: int = -(10**18)

    @property
    def gap(self) -> int:
        return -(-self.span // self.most)

    def counts(self, at: int, weight: int) -> bool:
        if at - self.last < self.gap:
            return False
        self.last = at
        return True

    def twin(self) -> dict[str, Any]:
        whole = -(-self.gap // self.tick) * self.tick
        return {"capacity": 1, "period": whole / SECOND, "algorithm": LeakyBucket}


@dataclass
class TwoWindows(Server):
    """This window and a share of the last one: limits' sliding counter, HAProxy.

    Attributes:
        floors: whether the share is rounded down.
    """

    floors: bool = False
    window: int = -(10**9)
    inside: int = 0
    before: int = 0

    def counts(self, at: int, weight: int) -> bool:
        window, since = divmod(at, self.span)
        if window != self.window:
            self.before = self.inside if window == self.window + 1 else 0
            self.window, self.inside = window, 0
        share = Fraction(self.before * (self.span - since), self.span)
        if self.floors:
            share = Fraction(math.floor(share))
        if share + self.inside + weight > self.most:
            return False
        self.inside += weight
        return True

    def twin(self) -> dict[str, Any]:
        # A clock in ticks takes the share to be larger by what one of them is worth.
        worth = Fraction(self.most * self.tick, self.span) if self.tick > 1 else Fraction(0)
        room = self.most + (1 if self.floors else 0) - self.burst - math.ceil(worth)
        return {"capacity": room, "period": self.period, "burst": self.burst}


KINDS: dict[str, Callable[..., Server]] = {
    "fixed window from the first call": FromTheFirstCall,
    "fixed window on the clock": OnTheClock,
    "clock window": OnTheSameClock,
    "sliding log": SlidingLog,
    "bucket": Bucket,
    "without burst": WithoutBurst,
    "two windows": TwoWindows,
    "two windows, floored": lambda **options: TwoWindows(floors=True, **options),
}
