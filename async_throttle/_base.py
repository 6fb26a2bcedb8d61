"""What every throttle is, however its callers wait: its limits, what can be seen and changed."""

from __future__ import annotations

import asyncio
import copy
import math
import threading
import types
from collections.abc import Awaitable, Callable, Generator
from datetime import timedelta
from typing import Any, ClassVar, Final, cast

from async_throttle._desk import Desk, Party, checked_priority, known, told
from async_throttle._queue import DROPPED, Gate, Line
from async_throttle._units import (
    NEVER,
    SECOND,
    TOKEN,
    nanoseconds,
    positive,
    seconds,
    tokens,
    whole,
)
from async_throttle.adaptive import Adaptive, Outcome
from async_throttle.exceptions import ThrottleClosed, ThrottleFull, ThrottleTimeout, WeightTooLarge
from async_throttle.rules import Rule
from async_throttle.rules.algorithm import RateLimitAlgorithm, rule_class
from async_throttle.rules.bucket import GCRA, LeakyBucket, TokenBucket
from async_throttle.rules.slots import UNLIMITED, Slots
from async_throttle.rules.window import FixedWindow, SlidingWindow

__all__ = ["NOTHING", "UNIT", "BaseThrottle", "Inside", "Measure", "who"]


@types.coroutine
def _nothing() -> Generator[None, None, None]:
    return
    yield


NOTHING: Final = cast("types.CoroutineType[Any, Any, None]", _nothing())
"""Awaiting this takes no time: an exhausted generator, which may be awaited again and again.

Called a coroutine, so that type checkers take what returns it for an async context manager.
"""
assert not list(cast(Any, NOTHING)), "it yields nothing, and from here on it is exhausted"


UNIT: Final = (1, TOKEN)
"""A slot and one token."""


def who() -> int:
    """Who runs: a task, or a thread; a number, so that nobody is kept alive."""
    if asyncio._get_running_loop() is None:
        return -threading.get_ident()
    return id(asyncio.current_task())


class Inside:
    """What is held by the blocks of something that many enter, by whoever entered."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[int, list[Any]] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def __contains__(self, who: int) -> bool:
        return who in self._held

    def enter(self, held: Any) -> None:
        """A block of whoever runs begins, and holds *held*."""
        self._held.setdefault(who(), []).append(held)

    def leave(self) -> Any:
        """The last block that whoever runs began ends: what it held."""
        inside = who()
        if inside not in self._held:
            inside = next(iter(self._held))  # begun in one task, ended in another
        held = self._held[inside]
        last = held.pop()
        if not held:
            del self._held[inside]
        return last


class BaseThrottle(Party):
    """A rate and a number of slots, without the calls that wait."""

    # _inside   the leases of plain blocks whose calls are measured; None if they are not
    # _open     the flattened entry may be taken while the desk is calm: no pause, not closed,
    #           the rule is a plain bucket
    # _adapt    what sets a limit by how calls end, begun; None if the limits are fixed
    # _altered  it is not what it will be when it rests: a setting was changed after it was
    #           made, or it was made less than full
    __slots__ = (
        "__weakref__",
        "_adapt",
        "_altered",
        "_bucket",
        "_burst",
        "_closed",
        "_gate",
        "_inside",
        "_line",
        "_max_waiting",
        "_name",
        "_open",
        "_plain",
        "_rule",
        "_slots",
        "_tokens_line",
    )

    _new_desk: ClassVar[type[Desk]] = Desk

    def __init__(
        self,
        capacity: float,
        concurrency: int = 0,
        period: float = 1.0,
        *,
        burst: float | None = None,
        algorithm: type[Rule] | RateLimitAlgorithm = TokenBucket,
        initial: float | None = None,
        max_waiting: int | None = None,
        timer: Callable[[], float] | None = None,
        name: str | None = None,
        adapt: Adaptive | None = None,
    ) -> None:
        if timer is not None and not callable(timer):
            raise TypeError(f"timer must be callable, got {timer!r}")
        self._name = name
        self._max_waiting = None if max_waiting is None else whole("max_waiting", max_waiting)
        desk = self._desk = self._new_desk(timer)
        rule = rule_class(algorithm)
        tokens_per_period = positive("capacity", capacity, infinite=True)
        self._burst = burst
        self._rule = rule(
            desk.seen, tokens_per_period, _period(period), _burst(burst, tokens_per_period)
        )
        if initial is not None:
            self._rule.charge(desk.seen, _spent(initial, self._rule.burst))
        desk.span = self._span()
        self._slots = Slots(_limit(concurrency))
        self._adapt = None if adapt is None else _begun(adapt, concurrency, self._rule, desk.seen)
        self._gate = Gate(self._rule)
        self._line = desk.queue.line((self._slots, self._rule), (self._gate,))
        self._tokens_line = desk.queue.line((self._rule,), (self._gate,))
        self._closed = False
        # The flattened entry reaches into a bucket, and only into ours: a subclass may differ.
        self._plain = rule in (TokenBucket, GCRA, LeakyBucket)
        self._bucket = cast(TokenBucket, self._rule)
        self._inside = None if self._adapt is None else Inside()
        if self._adapt is not None:
            self._follow(desk)
            desk.measured = True
            desk.recalm()
        self._altered = self._rule.fresh_at(desk.seen) > desk.seen  # less than full: unlike later
        self._reopen(desk)

    def release(self) -> None:
        """Give one slot back.

        Raises:
            ValueError: nobody holds one.
        """
        slots = self._slots
        if slots.free >= slots.limit:
            raise ValueError(f"release() without acquire(): nobody holds a slot of {self!r}")
        desk = self._at()
        queue = desk.queue
        if slots.free > 0 and queue.busy() == [self._line]:
            slots.free += 1  # who waits here waits for time
            return
        now = desk.elapse()
        slots.free += 1
        if queue.waiting:
            desk.announce(queue.advance(now))
        if not queue.waiting:
            desk.rest()
        elif desk.drainers:
            desk.dismiss()

    def try_acquire(self, weight: float = 1.0, *, priority: int = 0) -> bool:
        """Take *weight* tokens and a slot if that is possible now and overtakes nobody.

        Raises:
            WeightTooLarge: as `acquire` does; ThrottleClosed and ValueError too.
        """
        weights = self._weights(weight)
        self._check(weights)
        desk = self._at()
        desk.elapse()
        if desk.behind():
            return False
        taken = desk.queue.try_take(self._line_of(priority), weights) is not None
        if taken:
            desk.took()
        return taken

    def charge(self, weight: float) -> None:
        """Take *weight* tokens now, unasked and into debt if need be.

        For usage that is learnt afterwards, from a response. Later callers wait it out.
        """
        amount = tokens("weight", weight)
        desk = self._at()
        self._rule.charge(desk.elapse(), amount)
        desk.decide()

    # -- holding everybody --------------------------------------------------------------

    def pause(self, seconds: float | timedelta, *, empty: bool = False) -> Awaitable[None]:
        """Grant nobody anything before *seconds* from now, neither newcomers nor the queued.

        Pauses merge: the later end counts. Running bodies and grants already made stand.
        ``await throttle.pause(30)`` works as well and does not block.

        Args:
            seconds: a number or a timedelta; math.inf is until `resume()`.
            empty: let the bucket be empty when the pause ends, so that the restart is gentle
                (windows: as if all of the capacity had been used then). ``pause(0,
                empty=True)`` empties it now.

        Raises:
            ValueError: *seconds* is negative or not a number.
        """
        span = nanoseconds("seconds", seconds)
        desk = self._at()
        now = desk.elapse()
        desk.queue.pause(self._gate, NEVER if span >= NEVER else now + span, empty)
        self._reopen(desk)
        desk.decide()
        return NOTHING

    def resume(self) -> None:
        """End a pause now."""
        desk = self._at()
        desk.elapse()
        desk.queue.resume(self._gate)
        desk.decide()

    def close(self, *, drop_waiting: bool = True) -> None:
        """Refuse newcomers with `ThrottleClosed`; holders finish.

        Args:
            drop_waiting: fail those who are queued as well; else they still go.
        """
        desk = self._at()
        desk.elapse()
        self._closed = desk.shut = True
        self._reopen(desk)
        if drop_waiting:
            desk.announce(desk.queue.drop(DROPPED, self._rule))
        desk.decide()

    # -- looking ------------------------------------------------------------------------

    def locked(self) -> bool:
        """True if `acquire()` would not be granted at once."""
        desk = self._at()
        desk.elapse()
        return (
            self._closed
            or desk.behind()
            or self._rule.burst < TOKEN
            or not desk.queue.can_take(self._line, UNIT)
        )

    def delay(self, weight: float = 1.0, *, priority: int = 0) -> float:
        """Seconds until *weight* could be granted, counting everyone ahead; 0.0 is now.

        A lower bound where a slot is what is missing. Changes nothing. O(1) for buckets,
        O(waiters) for windows, and where priorities or sets of limits are in play.

        Raises:
            WeightTooLarge: as `acquire` would; ThrottleFull, ThrottleClosed and ValueError too.
        """
        weights = self._weights(weight)
        self._check(weights)
        desk = self._at()
        now = desk.elapse()
        line = self._line_of(priority)
        wait = desk.queue.quote(line, weights)[0] - now
        full = self._max_waiting is not None and self._queued() >= self._max_waiting
        if full and not desk.queue.can_take(line, weights):
            raise self._refusal_full(self, wait)
        return seconds(wait)

    def guarantee(self, window: float) -> float:
        """The most weight that can be admitted in any half-open window of *window* seconds.

        Buckets: ``burst + capacity / period * window``. Sliding window: ``capacity *
        ceil(window / period)``. Fixed window: one capacity more. Without a rate: infinity.
        Debt knowingly taken comes on top; so do, in real time, 5 ms of lateness paid back.

        >>> from async_throttle import SlidingWindow, Throttle
        >>> Throttle(20).guarantee(1.0)
        40.0
        >>> Throttle(20, algorithm=SlidingWindow).guarantee(1.0)
        20.0
        """
        span = nanoseconds("window", window)
        if span == 0:
            raise ValueError(f"window must be positive, got {window!r}")
        return math.inf if span >= NEVER else self._rule.guarantee(span) / TOKEN

    @property
    def level(self) -> float:
        """Tokens left now; negative in debt, infinite without a rate."""
        return self._rule.level(self._at().elapse())

    @property
    def active(self) -> int:
        """Slots held."""
        self._at().elapse()
        return self._slots.used

    @property
    def waiting(self) -> int:
        """Callers that are queued, alone or for other limits as well."""
        self._at().elapse()
        return self._queued()

    @property
    def paused_for(self) -> float:
        """Seconds until the pause ends; 0.0 if there is none."""
        now = self._at().elapse()
        until = self._gate.until
        return math.inf if until >= NEVER else max(0, until - now) / SECOND

    @property
    def name(self) -> str | None:
        """What errors and repr call it."""
        return self._name

    @property
    def algorithm(self) -> type[Rule]:
        """The rule class."""
        return type(self._rule)

    @property
    def max_waiting(self) -> int | None:
        """Most callers that may queue; None is no bound."""
        return self._max_waiting

    @property
    def adapt(self) -> Adaptive | None:
        """What sets a limit by how calls end, with all that it knows; None: they are fixed."""
        return self._adapt

    def __repr__(self) -> str:
        # Tells the present, and changes nothing: not even what time lets happen.
        now = self._at().present()
        waiting = self._queued()
        slots = self._slots
        if self._closed:
            state = "closed"
        elif self._gate.until > now:
            state = "paused"
        elif waiting or slots.free <= 0:
            state = "locked"
        else:
            state = "unlocked"
        name = "" if self._name is None else f" {self._name!r}"
        free = "" if slots.limit == UNLIMITED else f", slots:{slots.free}"
        return (
            f"<async_throttle.{type(self).__qualname__}{name} object at {id(self):#x} [{state}, "
            f"tokens:{self._rule.fork().level(now):g}{free}, waiters:{waiting}]>"
        )

    # -- changing the limits ------------------------------------------------------------

    @property
    def capacity(self) -> float:
        """Tokens per period. Setting it re-plans everybody at once; the level stays."""
        return self._rule.capacity / TOKEN

    @capacity.setter
    def capacity(self, value: float) -> None:
        capacity = positive("capacity", value, infinite=True)
        if self._steered("capacity"):
            _check_finite(capacity)
        self._configure(capacity, self._rule.period, self._burst)
        self._begin_anew("capacity", _per_second(self._rule))

    @property
    def period(self) -> float:
        """Seconds in which *capacity* tokens come back. Setting it re-plans everybody."""
        return self._rule.period / SECOND

    @period.setter
    def period(self, value: float) -> None:
        self._configure(self._rule.capacity, _period(value), self._burst)
        self._begin_anew("capacity", _per_second(self._rule))

    @property
    def burst(self) -> float:
        """Most tokens that may go at once. Setting it cuts the level; None unsets it.

        Whoever waits for more than the new burst fails with `WeightTooLarge`.
        """
        return self._rule.burst / TOKEN

    @burst.setter
    def burst(self, value: float | None) -> None:
        self._configure(self._rule.capacity, self._rule.period, value)
        self._burst = value

    @property
    def concurrency(self) -> int:
        """Slots; 0 is no limit. When it shrinks, holders finish and nobody new enters."""
        limit = self._slots.limit
        return 0 if limit == UNLIMITED else limit

    @concurrency.setter
    def concurrency(self, value: int) -> None:
        limit = _limit(value)
        if not self._steered("concurrency"):
            self._at().elapse()
            self._resize(limit)
        elif limit == UNLIMITED:
            raise ValueError(f"concurrency must be at least 1 where it adapts, got {value!r}")
        else:
            self._begin_anew("concurrency", limit)

    def _resize(self, limit: int, burst: int | None = None) -> None:
        desk = self._at()
        self._slots.resize(limit, burst)
        self._altered = True
        desk.announce(desk.queue.refit(self._slots))
        desk.decide()

    def _configure(self, capacity: int | float, period: int, burst: float | None) -> None:
        checked = _burst(burst, capacity)
        desk = self._at()
        self._rule.configure(desk.elapse(), capacity, period, checked)
        self._altered = True
        desk.span = self._span() if desk.alone else max(desk.span, self._span())
        self._reopen(desk)
        desk.announce(desk.queue.refit(self._rule))
        desk.decide()

    def _span(self) -> int:
        """The period or the time to fill, whichever is longer, in nanoseconds."""
        rule = self._rule
        fill = rule.period * rule.burst / rule.capacity if rule.capacity < math.inf else 0
        return max(rule.period, math.ceil(fill))

    # -- following the server -----------------------------------------------------------

    def _measure(self) -> Measure:
        """A call has just been granted: what will be learnt from it."""
        return Measure(self, _clock(self._at()), self._slots)

    def _learn(self, measure: Measure, outcome: Outcome, weight: float) -> None:
        """That call is over."""
        assert self._adapt is not None, "nobody else is measured"
        desk = self._at()
        desk.elapse()
        # Granted as one of many in one instant, it was not alone for being the first of them.
        in_flight = max(measure.in_flight, min(measure.limit, self._slots.used))
        self._adapt.sample(_clock(desk), measure.began, in_flight, weight, outcome)
        self._follow(desk)

    def _steered(self, what: str) -> bool:
        """Whether *what*, the concurrency or the capacity, follows how calls end."""
        return self._adapt is not None and self._adapt.steers == what

    def _begin_anew(self, what: str, start: float) -> None:
        """The user has set *what*: if that is what follows, it does so from *start* on."""
        if self._adapt is not None and self._adapt.steers == what:
            desk = self._at()
            desk.elapse()
            self._adapt.begin(start, _clock(desk))
            self._follow(desk)

    def _follow(self, desk: Desk) -> None:
        """Set the limit to what *adapt* says."""
        assert self._adapt is not None, "only what follows is set"
        limit = self._adapt.limit
        if self._adapt.steers == "concurrency":
            # What is sure to be granted, however low the limit falls, is the least that it can be.
            limits = max(1, int(limit)), max(1, int(self._adapt.minimum))
            if limits != (self._slots.limit, self._slots.burst):
                self._resize(*limits)
        else:
            capacity = max(1, round(limit * self._rule.period / SECOND * TOKEN))
            if capacity != self._rule.capacity:
                # The burst stays: a call that could go is not impossible because of a low rate.
                self._configure(capacity, self._rule.period, self._rule.burst / TOKEN)

    # -- callers ------------------------------------------------------------------------

    def _reopen(self, desk: Desk) -> None:
        self._open = (
            self._plain
            and not self._closed
            and self._gate.until <= desk.seen
            and self._rule.burst >= TOKEN
        )

    def _line_of(self, priority: int) -> Line:
        """Where callers of *priority* wait for a slot and tokens."""
        if priority == 0:
            return self._line
        rules, gates = (self._slots, self._rule), (self._gate,)
        return self._at().queue.line(rules, gates, checked_priority(priority))

    def _tokens_line_of(self, priority: int) -> Line:
        """Where they wait for tokens alone."""
        if priority == 0:
            return self._tokens_line
        rules, gates = (self._rule,), (self._gate,)
        return self._at().queue.line(rules, gates, checked_priority(priority))

    def _weights(self, weight: float) -> tuple[int, int]:
        """A slot and *weight* tokens, in the order of the line's rules."""
        return UNIT if weight == 1 else (1, tokens("weight", weight))

    def _check(self, weights: tuple[int, ...]) -> None:
        """Refuse what can never be granted."""
        if weights[-1] > self._rule.burst:
            raise self._refusal_weight(weights)
        if self._closed:
            raise self._refusal_closed(weights)

    def _could(self, amount: int) -> bool:
        """Whether *amount* of tokens could be had at once."""
        desk = self._at()
        desk.elapse()
        return amount <= self._rule.burst and desk.queue.can_take(self._tokens_line, (amount,))

    def _queued(self) -> int:
        return self._at().queue.count(self._rule)

    def _occupied(self) -> bool:
        rule = self._rule
        return bool(
            self._slots.used
            or self._queued()
            or any(rule in waiter.line.rules for waiter in self._at().starting)
        )

    def _idle(self) -> bool:
        """Whether it is as good as new: nobody would notice if another one took its place."""
        desk = self._at()
        now = desk.elapse()
        return (
            not self._closed
            and not self._altered
            and self._gate.until <= now
            and not self._occupied()
            and self._rule.fresh_at(now) <= now
        )

    def _crowded(self, weights: tuple[int, ...]) -> BaseThrottle | None:
        crowded = self._max_waiting is not None and self._queued() >= self._max_waiting
        return self if crowded else None

    # -- refusals -----------------------------------------------------------------------

    def _refusal_weight(self, weights: tuple[int, ...]) -> WeightTooLarge:
        return WeightTooLarge(
            f"weight {weights[-1] / TOKEN:g} exceeds the burst of {self._label()}: "
            f"the largest that could ever be granted is {self.burst:g}",
            largest=self.burst,
            limit=self._name,
        )

    def _refusal_timeout(self, timeout: float, wait: int, place: int) -> ThrottleTimeout:
        return ThrottleTimeout(
            f"{self._label()} does not grant it within a timeout of {timeout:g} s{told(wait)}",
            limit=self._name,
            retry_after=known(wait),
        )

    def _refusal_full(self, full: object, wait: int) -> ThrottleFull:
        most = self._max_waiting
        message = (
            f"max_waiting of {self._label()} is {most}, and {most} wait already"
            if most
            else f"{self._label()} would have to be waited for, and nobody may wait"
        )
        return ThrottleFull(
            message,
            limit=self._name,
            retry_after=known(wait),
        )

    def _refusal_closed(self, weights: tuple[int, ...]) -> ThrottleClosed:
        return ThrottleClosed(f"{self._label()} is closed", limit=self._name)

    def _label(self) -> str:
        return "the throttle" if self._name is None else f"throttle {self._name!r}"


class Measure:
    """What an adaptive limit is to learn from a call, from the grant until the call is over.

    Attributes:
        began: instant of the grant, on the clock that `Adaptive.sample` is told.
        in_flight, limit: slots in use then, its own included, and slots that there were.
    """

    __slots__ = ("_throttle", "began", "in_flight", "limit")

    def __init__(self, throttle: BaseThrottle, began: int, slots: Slots) -> None:
        self._throttle = throttle
        self.began = began
        self.in_flight = slots.used
        self.limit = slots.limit

    def end(self, outcome: Outcome, weight: float) -> None:
        """The call is over, with *outcome*; it has taken *weight* tokens, as settled by now."""
        self._throttle._learn(self, outcome, weight)

    def judge(self, error: BaseException | None) -> Outcome:
        """How a block counts that ended with *error*: user code, so not under any lock."""
        assert self._throttle._adapt is not None, "nobody else is measured"
        return self._throttle._adapt.judge(error)


def _clock(desk: Desk) -> int:
    """What the clock shows: unlike the instants of a desk, the same after it was joined."""
    return desk.seen - desk.shift


def _begun(adapt: Adaptive, concurrency: int, rule: Rule, now: int) -> Adaptive:
    """A copy of *adapt*, at work from the limits that the throttle starts with."""
    if not isinstance(adapt, Adaptive):
        raise TypeError(f"adapt must be an Adaptive, such as AIMD(), got {adapt!r}")
    if adapt.steers not in ("concurrency", "capacity"):
        raise ValueError(
            f"adapt must steer 'concurrency' or 'capacity', got {adapt.steers!r} of {adapt!r}"
        )
    begun = copy.copy(adapt)
    if begun.steers == "concurrency":
        begun.begin(concurrency or begun.start, now)
    else:
        _check_finite(rule.capacity)
        if isinstance(rule, (SlidingWindow, FixedWindow)):
            raise ValueError(
                f"algorithm must be a bucket where the capacity adapts, got {type(rule).__name__}: "
                "what a window lets go at once is its capacity"
            )
        begun.begin(_per_second(rule), now)
    return begun


def _check_finite(capacity: float) -> None:
    if capacity == math.inf:
        raise ValueError(f"capacity must be finite where it adapts, got {capacity!r}")


def _per_second(rule: Rule) -> float:
    """A rate in tokens per second."""
    return rule.capacity / rule.period * SECOND / TOKEN


def _period(value: float) -> int:
    span = nanoseconds("period", value)
    if not 0 < span < NEVER:
        raise ValueError(f"period must be positive and finite, got {value!r}")
    return span


def _burst(value: float | None, capacity: int | float) -> int | float | None:
    return None if value is None else positive("burst", value, infinite=capacity == math.inf)


def _limit(value: int) -> int:
    return whole("concurrency", value) or UNLIMITED


def _spent(initial: float, burst: int | float) -> int:
    """The nanotokens that are gone already when a throttle starts with *initial* tokens."""
    if initial == math.inf == burst:
        return 0
    rest = tokens("initial", initial)
    if rest > burst:
        raise ValueError(f"initial must be at most the burst, {burst / TOKEN:g}, got {initial!r}")
    return 0 if burst == math.inf else int(burst - rest)
