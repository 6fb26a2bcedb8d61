"""Adaptive limits: samples in, a new limit out. No clock, no chance, no waiting.

Each call that is over is a sample: when it began, when it ended, how many were in flight when
it was let through, and how it ended. Three rules make a limit of them:

=========  ===========  ===============================================================
AIMD       concurrency  grows until calls are dropped: for servers that refuse, or time out
Gradient   concurrency  keeps a short queue at the server, as the latency shows it: for all
BackOff    rate         backs off from refusals, and remembers at which rate they came
=========  ===========  ===============================================================

They agree on this. A limit grows only while it is used, which is to say nearly reached (by half,
while it doubles). It is cut once for all calls that were on their way together: a hundred
refusals at once are one event. What cut it is how many were in flight, not how many could have
been, so the cut is taken from there, as RFC 5681 does; but from no less than half the limit,
since a single call that fails among few says little about many. It never leaves *minimum* to
*maximum*.

`Gradient` in full, since its design is the least usual one. With L calls in flight, mean latency R
and the latency B that a call has where nobody queues, Little's law says that L * B / R calls
are being worked on and the rest, ::

    queue = L * (1 - B / R)

stand in a queue, whatever the latencies are distributed like, as long as both are means. The
limit is set to what is being worked on, and the square root of L more: that much queue keeps
the server busy, drowns the noise of a mean over some L calls, and is concave, so that those who
share a server end up with equal shares.

All hangs on B. What is measured under load drifts up with the load. So the limit is lowered now
and then, to a half or less, and the calls that begin thereafter are measured. But one client that
drains *its* queue still stands in those of the others: it takes that for service time, and grows;
so do they, in turn, for ever. Therefore all of them drain at once, at the instants of a grid: whole
seconds, a power of four apart, of the clock that all processes of a machine share.

Sources, and roads not taken. Netflix's concurrency-limits: its AIMD adds 1 for each sample, and
so doubles with each round trip; its Gradient2 takes a long average for B, which creeps up under
load; its Vegas takes a minimum for B, so that one lucky call makes a queue of all others.
failsafe-go adds correlations of throughput and latency: they tell who is alone that more does
not help, but for one of several more always helps, at the cost of the others. Envoy drains as
here, but each client at an instant of its own. TCP BBR drains all at once (ProbeRTT): its clients
find the instant by a minimum that each of them sees, which the mean of ten calls would not show.
TCP FAST has the law of `Gradient`, CUBIC the curve of `BackOff`; botocore has it, too, and
loses the ceiling when it is refused several times in a row.

Units: instants are nanoseconds; the limits are slots, or tokens per second.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from typing import Any, ClassVar, Final

from async_throttle._units import NEVER, SECOND, nanoseconds, whole
from async_throttle.exceptions import ResourceLimitError

__all__ = ["AIMD", "Adaptive", "BackOff", "Gradient", "Outcome"]

REFUSED: Final = frozenset({429, 503, 529})
"""HTTP statuses with which a server says that it is too much."""

REFUSED_BY_NAME: Final = frozenset({"RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"})
"""The same of gRPC."""

FEWEST: Final = 10
"""Calls that a mean is taken of, at least; beyond, it is two for each slot.

So the error of a mean is a fraction of 1 / sqrt(L) whatever the limit L is, and what it makes
of the queue is off by less than the sqrt(L) that the queue is meant to be.
"""

OUTLIER: Final = 4
"""Times B that one call may count for: one that is stuck must not empty the queue for all."""

APART: Final = 10
"""Times as long as a drain takes the grid is wide, at least; 40 times at most."""

USED: Final = 0.8
"""The part of a rate that must have been used for it to count as used."""

STRIDE: Final = 10
"""Steps in which `BackOff` recovers."""


class Outcome(Enum):
    """How a call ended, as far as the limit is concerned."""

    OK = "ok"
    """It was served: its latency counts."""

    IGNORED = "ignored"
    """It says nothing of the server: cancelled, say, or wrong from the start."""

    DROPPED = "dropped"
    """The server had too much: it refused, or did not answer in time."""


Judge = Callable[[BaseException], Outcome | None]


class Adaptive(ABC):
    """A limit that follows what becomes of the calls. Give one to a throttle as *adapt*.

    To bring one of your own, subclass this, say what it steers, and write `limit`, `begin` and
    `sample`. The throttle takes a copy (`copy.copy`), begins it, tells it of each call that is
    over, and does as `limit` says. So one instance may be given to many throttles, as long as
    `begin` makes all that is changed later on.

    Args:
        judge: says how a call counts that ended with an error; where it returns None, the
            usual answer stands (see `judge`).
    """

    __slots__ = ("_judge",)

    steers: ClassVar[str]
    """What it sets: "concurrency", in slots, or "capacity", in tokens per second."""

    start: ClassVar[float]
    """Where it begins if the throttle does not say."""

    minimum: Any = 1
    """What it never goes below. So many slots one call may have, that is sure to get them."""

    def __init__(self, *, judge: Judge | None = None) -> None:
        if judge is not None and not callable(judge):
            raise TypeError(f"judge must be callable with an error, got {judge!r}")
        self._judge = judge

    @property
    @abstractmethod
    def limit(self) -> float:
        """What it says now: slots, a whole number of at least 1, or tokens per second."""

    @abstractmethod
    def begin(self, limit: float, now: int) -> None:
        """Start, or start anew, at *limit*, or as near as it may be."""

    @abstractmethod
    def sample(self, now: int, began: int, in_flight: int, weight: float, outcome: Outcome) -> None:
        """A call is over.

        Args:
            now: the instant, in nanoseconds.
            began: the instant at which it was let through. A sample that ends before it began
                (another clock) is passed over.
            in_flight: slots in use when it was let through, its own included; or when it ended,
                if more of those that there were have been taken meanwhile.
            weight: tokens that it took, as settled.
            outcome: how it ended.
        """

    def judge(self, error: BaseException | None) -> Outcome:
        """How a block counts that ended with *error*.

        No error is OK. Dropped are timeouts, whoever's they are: the builtin, and every class
        with "timeout" in its name or its bases'; the statuses 429, 503 and 529, as *status*,
        *status_code* or *code* of the error or of its *response*; RESOURCE_EXHAUSTED,
        UNAVAILABLE and DEADLINE_EXCEEDED, as gRPC has it; and a group with one of these in it.
        Everything else is ignored: cancellation, the refusal of a throttle, which says nothing
        of the server, and errors that a smaller limit would not have helped.

        >>> rule = AIMD(judge=lambda error: Outcome.DROPPED if "busy" in str(error) else None)
        >>> rule.judge(OSError("busy")), rule.judge(OSError("no such host"))
        (<Outcome.DROPPED: 'dropped'>, <Outcome.IGNORED: 'ignored'>)
        """
        if error is None:
            return Outcome.OK
        judge: Judge | None = getattr(self, "_judge", None)  # a subclass may not call __init__
        verdict = None if judge is None else judge(error)
        if verdict is None:
            return Outcome.DROPPED if _overload(error) else Outcome.IGNORED
        if not isinstance(verdict, Outcome):
            raise TypeError(f"judge must return an Outcome or None, got {verdict!r}")
        return verdict


def _overload(error: BaseException) -> bool:
    """Whether *error* says that the server had too much."""
    if isinstance(error, BaseExceptionGroup):
        return any(_overload(leaf) for leaf in error.exceptions)
    if not isinstance(error, Exception) or isinstance(error, ResourceLimitError):
        return False
    if any("timeout" in cls.__name__.lower() for cls in type(error).__mro__):
        return True
    return _refusal(error) or _refusal(_attribute(error, "response"))


def _refusal(answer: object) -> bool:
    """Whether *answer*, an error or a response, has a status that refuses."""
    for name in ("status", "status_code", "code"):
        status = _attribute(answer, name)
        if name == "code" and callable(status):  # of gRPC
            try:
                status = status()
            except Exception:
                status = None
        if isinstance(status, int):
            return status in REFUSED  # and no more is asked: with aiohttp, `code` is deprecated
        for said in (status, _attribute(status, "name")):
            if isinstance(said, str) and said in REFUSED_BY_NAME:
                return True
    return False


def _attribute(thing: object, name: str) -> Any:
    """An attribute; None also where to ask for it is an error, which is not ours to raise."""
    try:
        return getattr(thing, name, None)
    except Exception:
        return None


class _Concurrency(Adaptive):
    """What both rules for concurrency share: bounds, and the cut."""

    # _limit    slots, with fractions
    # _cut      calls that began up to here say nothing: the limit has been cut since
    __slots__ = ("_cut", "_limit", "decrease", "maximum", "minimum")

    _limit: float

    steers = "concurrency"

    def __init__(
        self, minimum: int, maximum: int, decrease: float, judge: Judge | None = None
    ) -> None:
        super().__init__(judge=judge)
        self.minimum = whole("minimum", minimum)
        self.maximum = whole("maximum", maximum)
        if self.minimum < 1:
            raise ValueError(f"minimum must be at least 1, got {minimum!r}")
        if self.maximum < self.minimum:
            raise ValueError(f"maximum must be at least {minimum!r}, minimum, got {maximum!r}")
        self.decrease = _fraction("decrease", decrease)

    @property
    def limit(self) -> int:
        """Slots."""
        return int(self._limit)

    def _set(self, limit: float) -> None:
        self._limit = min(max(limit, self.minimum), self.maximum)

    def _used(self, in_flight: int) -> float:
        """What there is to cut, after a call was dropped that was one of *in_flight*."""
        return min(self._limit, max(in_flight, self._limit / 2))

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} [limit:{self.limit}, minimum:{self.minimum}, "
            f"maximum:{self.maximum}, {self._state()}]>"
        )

    def _state(self) -> str:
        raise NotImplementedError


class AIMD(_Concurrency):
    """Concurrency that grows until calls are dropped: additive increase, multiplicative decrease.

    It doubles with each round trip until something is dropped for the first time, and grows by
    1 with each round trip from there on. What is dropped cuts it, once for all that were on
    their way. So it fills the server and its queue, and shows a refusal now and then: take
    `Gradient` for short queues, or where a refusal is dear. Also what is dropped by chance cuts
    it: if that is one call in N, the limit stays at about ``sqrt(10 * N)``.

    Args:
        minimum: slots, at least 1.
        maximum: slots.
        decrease: what a cut leaves, between 0 and 1.
        timeout: seconds; a call that took longer counts as dropped, however it ended: so does
            one that a timeout around the throttle has cancelled.
        judge: see `Adaptive`.

    Raises:
        ValueError: a parameter is out of range; names it and the value.

    >>> rule = AIMD()
    >>> rule.begin(4, now=0)
    >>> for n in (1, 2, 3, 4):
    ...     rule.sample(1_000, began=0, in_flight=n, weight=1, outcome=Outcome.OK)
    >>> rule.limit
    7
    >>> rule.sample(2_000, began=1_000, in_flight=7, weight=1, outcome=Outcome.DROPPED)
    >>> rule.limit
    6
    """

    # _doubling     nothing was dropped yet
    # _in_a_row     calls that were dropped since one was served
    __slots__ = ("_doubling", "_in_a_row", "timeout")

    start = 10

    def __init__(
        self,
        *,
        minimum: int = 1,
        maximum: int = 1000,
        decrease: float = 0.9,
        timeout: float | None = None,
        judge: Judge | None = None,
    ) -> None:
        super().__init__(minimum, maximum, decrease, judge)
        self.timeout = NEVER if timeout is None else _span("timeout", timeout)
        self.begin(self.start, 0)

    def begin(self, limit: float, now: int) -> None:
        self._set(limit)
        self._cut = now - 1
        self._in_a_row = 0
        self._doubling = True

    def sample(self, now: int, began: int, in_flight: int, weight: float, outcome: Outcome) -> None:
        if now < self._cut:  # another clock
            self._cut = now - 1
        dropped = outcome is Outcome.DROPPED or now - began > self.timeout
        if began > now or (outcome is Outcome.IGNORED and not dropped):
            return
        self._in_a_row = self._in_a_row + 1 if dropped else 0
        if began <= self._cut:
            return
        if dropped:
            # A whole round of them and nothing served: not a little too much, but far too much.
            decrease = self.decrease if self._in_a_row < self.limit else self.decrease / 2
            self._set(self._used(in_flight) * decrease)
            self._cut = now
            self._doubling = False
        elif self._doubling:
            # The limit may have doubled since this one was let through.
            if 2 * in_flight >= self.limit:
                self._set(self._limit + 1)
        elif in_flight + 1 >= self.limit:  # and here, have grown by 1
            self._set(self._limit + 1 / self._limit)

    def _state(self) -> str:
        return "doubling" if self._doubling else "growing"


class Gradient(_Concurrency):
    """Concurrency that keeps a short queue at the server, as the latencies show it.

    Finds how much the server can work on at once, and has about the square root of that in
    its queue, without a refusal and without being told a latency. Once a second at most, and for
    no more than a tenth of the time, it lowers the limit to learn what a call takes where nobody
    queues. Calls that are dropped cut it as they cut `AIMD`.

    Those who share a server, and a clock, have equal shares. Where the clocks differ, because the
    clients are on several machines, each takes some of the others' queue for service: the queue
    is a little longer with two of them, and several times as long with five. Set *maximum*.

    Give it calls of one kind: if those of one minute take ten times as long as those of the next,
    that looks like a queue.

    Args:
        minimum: slots, at least 1. If that many make a queue, it is not seen.
        maximum: slots.
        decrease: what a cut leaves, between 0 and 1.
        judge: see `Adaptive`.

    Raises:
        ValueError: a parameter is out of range; names it and the value.

    >>> Gradient(minimum=2, maximum=100)
    <Gradient [limit:2, minimum:2, maximum:100, measuring]>
    """

    # _base         ns that a call takes where nobody queues; 0 if not known yet
    # _outlier      ns that a call counts for at most
    # _resume       limit that was in force before it was lowered to measure; 0 if it is not
    # _settled      limit up to which it was, or grew, since; it is at most halved until the next
    # _step         slots by which it grew last; doubles while there is no queue
    # _careful      measurements until that is allowed again: something was dropped
    # _due          when to measure next
    # _since        when the limit was set: calls that began earlier say nothing of it
    # _spans        ns that each call took since then
    # _reached      whether as many were in flight as may be
    __slots__ = (
        "_base",
        "_careful",
        "_due",
        "_outlier",
        "_reached",
        "_resume",
        "_settled",
        "_since",
        "_spans",
        "_step",
    )

    start = 4

    def __init__(
        self,
        *,
        minimum: int = 1,
        maximum: int = 1000,
        decrease: float = 0.9,
        judge: Judge | None = None,
    ) -> None:
        super().__init__(minimum, maximum, decrease, judge)
        self.begin(self.start, 0)

    def begin(self, limit: float, now: int) -> None:
        self._set(limit)
        self._cut = now - 1
        self._base = self._outlier = self._step = 0.0
        self._careful = 0
        self._settled = self._limit
        self._measure(now, 2)

    def sample(self, now: int, began: int, in_flight: int, weight: float, outcome: Outcome) -> None:
        if now < self._since:  # another clock
            self._cut = now - 1
            self._due = now
            self._hold(now)
        if outcome is Outcome.DROPPED and self._cut < began <= now:
            self._drop(now, in_flight)
        if not self._resume and now >= self._due:
            self._measure(now, self._limit - max(self._limit / 2, 2 * math.sqrt(self._limit)))
        elif outcome is Outcome.OK and self._since <= began <= now:
            self._spans.append(now - began)
            if in_flight >= self.limit:
                self._reached = True
            if len(self._spans) >= max(FEWEST, 2 * self._limit):
                if self._resume:
                    self._measured(now)
                else:
                    self._steer(now)

    def _hold(self, now: int) -> None:
        """Look at the limit as it stands now."""
        self._since = now
        self._spans: list[int] = []
        self._reached = False

    def _measure(self, now: int, level: float) -> None:
        """Drain the queue, to see what a call takes without one."""
        self._resume = self._limit
        self._set(min(self._limit, level))
        self._hold(now)

    def _measured(self, now: int) -> None:
        if self._base:
            self._outlier = OUTLIER * self._base
        else:
            self._outlier = 2 * OUTLIER * sorted(self._spans)[len(self._spans) // 2]
        mean, error = self._mean()
        # One standard error more: a base too high costs some queue until the next time, one
        # too low makes a queue of everything, and the limit would not grow.
        self._base = mean + error
        self._careful = max(0, self._careful - 1)
        self._settled = self._resume
        self._set(self._resume)
        self._resume = 0.0
        grid = SECOND
        while grid < APART * (now - self._since):
            grid *= 4
        self._due = (now // grid + 1) * grid
        self._hold(now)

    def _steer(self, now: int) -> None:
        queue = max(0.0, self._limit * (1 - self._base / self._mean()[0]))
        room = math.sqrt(self._limit)
        if queue < room / 2:
            self._step = min(2 * max(self._step, room), self._limit)
        else:
            self._step = room
        limit = self._limit - queue + self._step
        if self._careful:  # what is refused beyond some length is a queue, too, but never seen
            limit = min(limit, self._limit + 1)
        if limit < self._limit or self._reached:
            # Slower service looks like a queue that will not go away until it is measured.
            self._set(max(limit, self._settled / 2))
            self._settled = max(self._settled, self._limit)
        self._hold(now)

    def _drop(self, now: int, in_flight: int) -> None:
        self._cut = now
        self._careful = 2
        if self._resume:  # what was measured so far still holds
            self._resume = max(self._limit, self._resume * self.decrease)
        else:
            self._set(self._used(in_flight) * self.decrease)
            self._settled = self._limit
            self._step = 0.0
            self._hold(now)

    def _mean(self) -> tuple[float, float]:
        """The mean of what the calls took, and its standard error."""
        spans = [min(span, self._outlier) for span in self._spans]
        mean = max(1.0, math.fsum(spans) / len(spans))
        variance = math.fsum((span - mean) ** 2 for span in spans) / (len(spans) - 1)
        return mean, math.sqrt(variance / len(spans))

    def _state(self) -> str:
        return "measuring" if self._resume else f"base:{self._base / SECOND:g} s"


class BackOff(Adaptive):
    """A rate that backs off from refusals, and comes back to where they came from.

    A refusal cuts the rate, once for all calls that were on their way. Then it comes back fast,
    slows down where it was refused, and goes on faster and faster if it is not refused again::

        rate  ceiling ┤──╮            ╭───────────╯
                      │  │      ╭─────╯
                      │  ╰──────╯
                      └──┴────────────┴────────────
                         0        recovery

        ceiling + (1 - decrease) * ceiling * (t / recovery - 1) ** 3

    The time t only passes while at least 80 % of the rate are used. Refusals in a row, before
    it has recovered at all, leave the ceiling where it was: after an outage the rate is back in
    *recovery* seconds.

    Args:
        minimum: tokens per second; unset, a hundredth of where it began.
        maximum: tokens per second; unset, where it began: the throttle's own rate.
        decrease: what a cut leaves, between 0 and 1.
        recovery: seconds of use until it is back, after at least ten calls.
        judge: see `Adaptive`.

    Raises:
        ValueError: a parameter is out of range; names it and the value.

    >>> rule = BackOff()
    >>> rule.begin(100.0, now=0)
    >>> rule.sample(2_000, began=1_000, in_flight=1, weight=1, outcome=Outcome.DROPPED)
    >>> rule.limit
    70.0
    """

    # _limit    tokens per second
    # _least, _most     its bounds
    # _ceiling  where it was refused
    # _low      what the cut left
    # _time     ns of use since the cut
    # _cut      calls that began up to here say nothing: the limit has been cut since
    # _since    when the stretch began over which use is measured
    # _sent     tokens that went through since then
    __slots__ = (
        "_ceiling",
        "_cut",
        "_least",
        "_limit",
        "_low",
        "_most",
        "_sent",
        "_since",
        "_time",
        "decrease",
        "maximum",
        "minimum",
        "recovery",
    )

    steers = "capacity"
    start = 1.0

    def __init__(
        self,
        *,
        minimum: float | None = None,
        maximum: float | None = None,
        decrease: float = 0.7,
        recovery: float = 30.0,
        judge: Judge | None = None,
    ) -> None:
        super().__init__(judge=judge)
        self.minimum = None if minimum is None else _rate("minimum", minimum)
        self.maximum = None if maximum is None else _rate("maximum", maximum)
        if minimum is not None and maximum is not None and maximum < minimum:
            raise ValueError(f"maximum must be at least {minimum!r}, minimum, got {maximum!r}")
        self.decrease = _fraction("decrease", decrease)
        self.recovery = _span("recovery", recovery)
        self.begin(self.start, 0)

    @property
    def limit(self) -> float:
        """Tokens per second."""
        return self._limit

    def begin(self, limit: float, now: int) -> None:
        limit = _rate("limit", limit)
        self._most = max(limit, self.minimum or 0) if self.maximum is None else self.maximum
        self._least = min(limit, self._most) / 100 if self.minimum is None else self.minimum
        self._set(limit)
        self._cut = now - 1
        # As if it had recovered: nothing is known of where it will be refused.
        self._ceiling = self._low = self._limit
        self._time = self.recovery
        self._look(now)

    def sample(self, now: int, began: int, in_flight: int, weight: float, outcome: Outcome) -> None:
        if now < self._since:  # another clock
            self._cut = now - 1
            self._look(now)
        if outcome is Outcome.IGNORED or not self._cut < began <= now:
            return
        if outcome is Outcome.DROPPED:
            if self._time:
                self._ceiling = self._limit
            self._set(self._limit * self.decrease)
            self._low = self._limit
            self._time = 0
            self._cut = now
            self._look(now)
            return
        self._sent += weight
        stride = self.recovery // STRIDE
        span = now - self._since
        if span >= stride:
            if self._sent >= USED * self._limit * span / SECOND:
                self._time += min(span, stride)
                self._set(self._curve(self._time / self.recovery - 1))
            self._look(now)

    def _look(self, now: int) -> None:
        """Measure the use from here on."""
        self._since = now
        self._sent = 0.0

    def _curve(self, x: float) -> float:
        """The rate at *x*: -1 just after a cut, 0 at the ceiling."""
        bend = self._ceiling - self._low if x < 0 else self._ceiling * (1 - self.decrease)
        return self._ceiling + bend * x**3

    def _set(self, limit: float) -> None:
        self._limit = min(max(limit, self._least), self._most)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} [limit:{self._limit:g}, minimum:{self._least:g}, "
            f"maximum:{self._most:g}, ceiling:{self._ceiling:g}]>"
        )


def _between(name: str, what: str, value: float, most: float) -> float:
    try:
        fits = not isinstance(value, str) and 0 < value < most
    except TypeError:
        raise TypeError(f"{name} must be {what}, got {value!r}") from None
    if not fits:
        raise ValueError(f"{name} must be {what}, got {value!r}")
    return float(value)


def _fraction(name: str, value: float) -> float:
    return _between(name, "between 0 and 1", value, 1)


def _rate(name: str, value: float) -> float:
    return _between(name, "a finite number above 0", value, math.inf)


def _span(name: str, value: float) -> int:
    span = nanoseconds(name, value)
    if not STRIDE <= span < NEVER:
        raise ValueError(f"{name} must be a finite number of seconds above 0, got {value!r}")
    return span
