"""What a limit says: instants come in, instants go out. The protocol, on one screen.

A rule is arithmetic. It knows no clock, no event loop and no thread, and it never waits;
the queue tells it the time, and only ever forwards. Everything is an integer: instants and
spans are nanoseconds, amounts are nanotokens (a token has 10**9 of them).

=================  ==================================================================
TokenBucket        a burst at once, then a steady rate
GCRA               the same rule under its other name
LeakyBucket        a token bucket whose burst is 1 unless told otherwise: evenly spaced
SlidingWindow      never more than *capacity* in any window of *period*
FixedWindow        never more than *capacity* in a window that opens with its first call
ClockWindow        never more than *capacity* in any minute, day or month of the wall clock
CountedToEnd       one of these, of which a call is taken at its end
Slots              so many at once
=================  ==================================================================

A rule of your own subclasses `Rule`, has three methods, and is passed as *algorithm*. A question
that is put to it must change nothing, and a `take` that raises must have changed nothing.

A rule has two parts. Its *parameters* are frozen, and are replaced as a whole by `configure`.
Its *state* is a small object, changed in place by `take`, `charge`, `refund`, `lower`, `empty`,
`shift` and `configure` alone. A question (`ready_at`, `level`, `guarantee`, `fresh_at`,
`forgets_at`, `opens`, `clears_at`, `fork`, `dump`) writes nothing: tests/test_rules.py asks each of
them of a state that cannot be written.

Interruption. A signal handler may raise (KeyboardInterrupt does) in the middle of a method. CPython
runs handlers where a Python function is entered, where a loop jumps back, and after a call of a
function written in C; nowhere else. So a method that changes a rule computes first, and then
commits with plain stores to attributes, items and slices, after its last call and its last loop:
an exception finds the rule as it was, or as it will be. What comes before the commit may only
change how the state is written down, not what the rule answers: dropped entries of a window that
have left it, finer ticks of a bucket, a minimum of a bucket noted where it will be noted anyway.
tests/test_rules.py raises at each of those points.
"""

from __future__ import annotations

import copy
import math
from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self

from async_throttle._units import NEVER, UNKNOWN

__all__ = ["NEVER", "UNKNOWN", "Frozen", "Parameters", "Rule", "read", "written"]


class Frozen:
    """Of which an attribute is set once, and then stays as it is: several rules may share one.

    (The values of the rules are no dataclasses: to make those would be a quarter of the import.)
    """

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> None:
        if hasattr(self, name):
            raise AttributeError(f"{name} of {type(self).__name__} cannot be changed")
        super().__setattr__(name, value)


class Parameters(Frozen):
    """What a limit was told.

    Attributes:
        capacity: nanotokens per period; math.inf is no limit.
        period: nanoseconds.
        burst: most nanotokens that may ever go at once.
    """

    __slots__ = ("burst", "capacity", "period")

    def __init__(self, capacity: int | float, period: int, burst: int | float) -> None:
        self.capacity = capacity
        self.period = period
        self.burst = burst


_AWAITED = ("TokenBucket", "LeakyBucket")


class _Kind(ABCMeta):
    """The class of rule classes: it tells who makes a rule by hand what to write instead."""

    if not TYPE_CHECKING:

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            try:
                return super().__call__(*args, **kwargs)
            except TypeError as error:
                if len(args) + len(kwargs) >= 3:
                    raise
                name = cls.__name__
                other = f"; async_throttle.buckets.{name} is one to be awaited"
                raise TypeError(
                    f"{name} is a rule, which a throttle makes for itself: write "
                    f"Throttle(10, period=60, algorithm={name}){other if name in _AWAITED else ''}"
                ) from error


class Rule(metaclass=_Kind):
    """One limit: its parameters, its state, and what follows from them.

    To bring a rule of your own, subclass this and write the three abstract methods (and
    `configure`, if you keep anything that depends on the parameters), then pass the class
    as ``Throttle(..., algorithm=YourRule)``. `shift` lets it share a clock with others,
    `fresh_at` lets it be forgotten when it is as good as new, `dump` and `load` let it be kept
    outside this process.

    The queue promises: *now* never goes back; `take` is called only for weights up to
    `burst` at an instant that `ready_at` named, or for a debt. The rule promises: once
    `ready_at` says that a weight may go, it may go until something is taken (`ClockWindow`: or
    until its window closes); a question changes nothing; a `take` that raises has changed nothing.
    """

    __module__ = "async_throttle"

    # parameters    frozen; replaced as a whole
    # state         what `take` and `refund` change; a rule of your own may keep it elsewhere
    __slots__ = ("parameters", "state")

    backdates: ClassVar[bool] = False
    """A grant that is made late counts from the instant at which it was due."""

    divisible: ClassVar[bool] = False
    """Waiting for a + b is waiting for a and then for b, so a queue can be summed up."""

    wants_ends: ClassVar[bool] = False
    """The rule is to be told when a call has ended: see `ended`."""

    counts_callers: ClassVar[bool] = False
    """The weights are slots, which callers give back."""

    booked: ClassVar[bool] = False
    """A store has the permits, which is asked after each event by itself: see `rules/booked.py`."""

    in_flight: Any = None
    """What calls hold of it until they have ended: an `InFlight`. None: they count from the grant
    on."""

    parameters: Parameters
    state: Any

    def __init__(
        self,
        now: int,
        capacity: int | float,
        period: int,
        burst: int | float | None = None,
    ) -> None:
        self.configure(now, capacity, period, burst)

    @property
    def capacity(self) -> int | float:
        """Nanotokens per period; math.inf is no limit."""
        return self.parameters.capacity

    @property
    def period(self) -> int:
        """Nanoseconds."""
        return self.parameters.period

    @property
    def burst(self) -> int | float:
        """Most nanotokens that may ever go at once."""
        return self.parameters.burst

    def configure(
        self, now: int, capacity: int | float, period: int, burst: int | float | None
    ) -> None:
        """Take new parameters at *now* and keep the level, cut to the new burst."""
        self.parameters = Parameters(capacity, period, capacity if burst is None else burst)

    @property
    def kind(self) -> type[Rule]:
        """The class whose arithmetic this is."""
        return type(self)

    @abstractmethod
    def ready_at(self, now: int, weight: int) -> int:
        """The first instant, not before *now*, at which *weight* may go if nobody else comes.

        NEVER, if no time alone will do: somebody has to give something back. UNKNOWN, if
        something outside has to be asked: `demand` is called then.
        """

    @abstractmethod
    def take(self, now: int, weight: int) -> Any:
        """Take *weight*, into debt if need be; a receipt for `refund`.

        A receipt is a plain value, good on a rule that was loaded and on a fork, too. None, if
        there is nothing that could be given back.
        """

    def charge(self, now: int, weight: int) -> None:
        """Take *weight* for good: there is no receipt, and nothing of it is given back."""
        self.take(now, weight)

    @abstractmethod
    def level(self, now: int) -> float:
        """Tokens (not nanotokens) left; negative in debt, math.inf without a limit."""

    def refund(self, now: int, receipt: Any, weight: int) -> None:
        """Give back *weight* of what *receipt* took: the state is as if it had taken less.

        A rule for which that has no meaning keeps what was taken.
        """

    def lower(self, now: int, level: int, said: int, until: int | None) -> None:
        """Have at most *level* nanotokens left at *now*: others have used a quota that is shared.

        Where there are no more already, nothing is taken. *level* is *said*, what the server says
        that it has left, less what of the calls made here it may not have counted yet. It may be
        negative. Refunds of what was taken before lift the level to no more than *said*: that is
        what the server has counted. A window forgets at *until* what it was lowered by; None is
        a period from *now*.

        A rule that says nothing of it takes the difference for good.
        """
        rest = self.level(now)
        more = round(rest * 10**9) - level if rest < math.inf else 0
        if more > 0:
            self.charge(now, more)

    def empty(self, now: int) -> None:
        """Leave nothing at *now*; a debt stays."""
        rest = self.level(now)
        if 0 < rest < math.inf:
            self.take(now, round(rest * 10**9))

    def demand(self, weight: int, look_again: Callable[[], None]) -> None:
        """The head of a queue waits for UNKNOWN of this rule: ask whatever has to be asked.

        Called after an event. *weight* is what all waiters want of the rule. When there is news,
        *look_again* is to be called, from any thread: `ready_at` is asked again then.
        """

    def ended(self, now: int, receipt: Any, weight: int) -> None:
        """A call has ended at *now*, which took *receipt*, and *weight* of it really, as settled.

        Only where `wants_ends`.
        """

    def guarantee(self, window: int) -> int | float:
        """The most nanotokens that can go within any half-open window of *window* ns."""
        return math.inf

    def fresh_at(self, now: int) -> int:
        """The first instant, not before *now*, from which on it is as if nothing was ever taken.

        If nobody else comes. NEVER, if that is not known: what is not sure to be as good as
        new is kept. A later instant may be asked about.
        """
        return NEVER

    def forgets_at(self, now: int, weight: int) -> int:
        """The first instant at which it makes no difference that *weight* was taken at *now*.

        If nothing else was: a caller that wants to know with more, asks about the sum. Until
        then the waiters that came before have to be looked after; NEVER, if it is not known.
        """
        if self.divisible:
            return self.ready_at(now, int(self.burst) + weight)  # full again
        return NEVER

    def opens(self, now: int) -> bool:
        """Whether what is taken at *now* decides when all that is taken after it is forgotten.

        A fixed window in which nothing counts opens then. So to take sooner may cost those who
        take after what was taken is forgotten: their windows have other edges.
        """
        return False

    def clears_at(self, now: int, weight: int) -> int:
        """An instant by which *weight* has gone, as fast as may be, in pieces up to the burst.

        In whatever order they come, and whatever else they wait for meanwhile: the time during
        which nothing but this rule holds them up is no longer than from *now* until then, and a
        nanosecond for each piece but the first: instants are rounded up, and a bucket that fills
        up meanwhile keeps no fraction. NEVER, if that is not known.
        """
        return self.ready_at(now, weight) if self.divisible else NEVER

    def shift(self, by: int) -> None:
        """Move in time by *by* nanoseconds, back if negative: the clock was joined to another.

        Asked about now + *by* it says from here on what it would have said about now, moved
        alike. Receipts stay good.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not say how it moves to another clock: define shift()"
        )

    def fork(self) -> Self:
        """An independent copy, to look ahead with."""
        return copy.deepcopy(self)

    def dump(self) -> bytes:
        """Parameters and state as bytes, for `load`; equal for equal rules.

        Raises:
            TypeError: the rule does not say how it is written down.
        """
        raise TypeError(f"{type(self).__name__} cannot be written down: define dump() and load()")

    @classmethod
    def load(cls, data: bytes) -> Self:
        """A rule that answers as the one that was dumped, and knows its receipts.

        Raises:
            TypeError: the rule does not say how it is written down.
            ValueError: *data* is of another kind of rule.
        """
        raise TypeError(f"{cls.__name__} cannot be read: define dump() and load()")


def written(kind: str, *values: Any) -> bytes:
    """*values*, which are numbers and lists of numbers, as bytes for `read`.

    >>> written("bucket", 3, [1, 2])
    b'["bucket",3,[1,2]]'
    """
    import json  # not by all who import the package: few write rules down

    return json.dumps([kind, *values], separators=(",", ":")).encode()


def read(kind: str, data: bytes) -> list[Any]:
    """The values in *data*, which must be of this *kind*.

    >>> read("bucket", b'["bucket",3,[1,2]]')
    [3, [1, 2]]
    """
    import json

    found, *values = list[Any](json.loads(data))
    if found != kind:
        raise ValueError(f"data must be of a {kind}, got that of a {found}")
    return values
