"""Limits that follow how calls end: a throttle measures its calls, and a law sets its limit."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Self

from async_throttle._shell.core import Core
from async_throttle._shell.scheduler import find
from async_throttle._units import SECOND, TOKEN
from async_throttle.adaptive import Adaptive, Outcome
from async_throttle.rules import Rule
from async_throttle.rules.clock import ClockWindow
from async_throttle.rules.window import FixedWindow, SlidingWindow

if TYPE_CHECKING:
    from async_throttle._shell.fast import Block

__all__ = ["Following", "Measure"]


class Following:
    """An adaptive law at work on the limits of a core. The core is handed in to every method.

    Attributes:
        law: the law, with its memory.
    """

    __slots__ = ("law",)

    def __init__(self, core: Core, law: Adaptive, concurrency: int) -> None:
        if not isinstance(law, Adaptive):
            raise TypeError(f"adapt must be an Adaptive, such as AIMD(), got {law!r}")
        if law.steers not in ("concurrency", "capacity"):
            raise ValueError(
                f"adapt must steer 'concurrency' or 'capacity', got {law.steers!r} of {law!r}"
            )
        self.law = copy.copy(law)
        clock = core.scheduler.clock
        if law.steers == "concurrency":
            self.law.begin(concurrency or self.law.start, clock.seen)
        else:
            _check_finite(core.rule.capacity)
            if issubclass(core.rule.kind, (SlidingWindow, FixedWindow, ClockWindow)):
                raise ValueError(
                    "algorithm must be a bucket where the capacity adapts, got "
                    f"{core.rule.kind.__name__}: what a window lets go at once is its capacity"
                )
            self.law.begin(_per_second(core.rule), clock.seen)
        altered = core.altered
        self._follow(core, clock.seen)
        core.altered = altered
        core.scheduler.measure_all()

    def steers(self, what: str) -> bool:
        """Whether *what*, the concurrency or the capacity, follows how calls end."""
        return self.law.steers == what

    def check(self, what: str, value: float) -> None:
        """Refuse a *value* that the limit *what* cannot have where it follows."""
        if self.law.steers != what:
            return
        if what == "capacity":
            _check_finite(value)
        elif value == 0:
            raise ValueError(f"concurrency must be at least 1 where it adapts, got {value!r}")

    def begin_anew(self, core: Core, now: int, what: str, slots: int = 0) -> None:
        """The user has set the limit *what*: a law that steers that limit goes on from there."""
        if self.law.steers == what:
            start = slots if what == "concurrency" else _per_second(core.rule)
            self.law.begin(start, _reading(core, now))
            self._follow(core, now)

    def measure(self, core: Core) -> Measure:
        """What is to be known later of a call that was granted just now."""
        return Measure.of(core)

    def end(self, measure: Measure | Block, outcome: Outcome, weight: float) -> None:
        """The call of *measure* is over, with *outcome*; it has taken *weight* tokens."""
        scheduler = find(measure.core)

        def learn(now: int) -> None:
            scheduler.here().queue.touched()
            self.learn(measure, outcome, weight, now)

        if not scheduler.quietly(learn):
            scheduler.do(learn)

    def learn(self, measure: Measure | Block, outcome: Outcome, weight: float, now: int) -> None:
        """The same, inside the door: the law sees the call, and the limit follows."""
        core = measure.core
        in_flight = measure.in_flight
        used = core.slots.limit - core.slots.free
        if used > in_flight:
            # Of calls granted at the same instant, the first saw no other call in flight yet.
            in_flight = max(in_flight, min(measure.limit, used))
        self.law.sample(_reading(core, now), measure.began, in_flight, weight, outcome)
        self._follow(core, now)

    def _follow(self, core: Core, now: int) -> None:
        """Set the limit as the law says."""
        law = self.law
        limit = law.limit
        if law.steers == "concurrency":
            # A call is possible as long as it fits the least limit that the law can set.
            least, slots = law.minimum, core.slots
            if limit != slots.limit or least != slots.burst:
                limits = max(1, int(limit)), max(1, int(least))
                if limits != (slots.limit, slots.burst):
                    core.resize(*limits)
        else:
            capacity = max(1, round(limit * core.rule.period / SECOND * TOKEN))
            if capacity != core.rule.capacity:
                # The burst stays: a call that could go is not impossible because of a low rate.
                given = core.burst
                core.configure(now, capacity, core.rule.period, core.rule.burst / TOKEN)
                core.burst = given


class Measure:
    """The measurements of a call, from its grant to its end.

    Attributes:
        core: the core whose limit follows.
        began: instant of the grant, as the clock showed it.
        in_flight, limit: slots in use at the grant, that of the call included, and slots in all.
    """

    __slots__ = ("began", "core", "in_flight", "limit")

    core: Core
    began: int
    in_flight: int
    limit: int

    @classmethod
    def of(cls, core: Core) -> Self:
        """The measurements of a call of *core* that was granted just now."""
        measure = cls()
        measure.core = core
        measure.began = _reading(core, find(core).queue.now)
        measure.in_flight = core.slots.used
        measure.limit = core.slots.limit
        return measure

    def end(self, outcome: Outcome | str, weight: float) -> None:
        """The call is over, with *outcome*; it has taken *weight* tokens, as settled by now."""
        _following(self.core).end(self, Outcome(outcome), weight)

    def judge(self, error: BaseException | None) -> Outcome:
        """How a block counts that ended with *error*: user code, so not inside the door."""
        return _following(self.core).law.judge(error)


def _following(core: Core) -> Following:
    assert core.following is not None, "nobody else is measured"
    return core.following


def _reading(core: Core, now: int) -> int:
    """The reading of the clock: unlike instants, it stays good when schedulers are merged."""
    scheduler = core.scheduler
    if scheduler.into is not None:
        scheduler = find(core)
    return now - scheduler.clock.shift


def _check_finite(capacity: float) -> None:
    if capacity == math.inf:
        raise ValueError(f"capacity must be finite where it adapts, got {capacity!r}")


def _per_second(rule: Rule) -> float:
    """A rate in tokens per second."""
    return rule.capacity / rule.period * SECOND / TOKEN
