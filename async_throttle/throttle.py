"""Throttle: the queue behind asyncio. Futures, one timer for grants, one for timeouts.

The shell only waits. It reads the clock, tells the queue, and turns "granted" into futures
and "wake me at" into a timer. What may go and when is decided in `async_throttle._queue`
and computed in `async_throttle.rules`.

One thing is flattened for speed: the uncontended entry and exit, `Throttle.__aenter__`,
`Throttle.__aexit__` and their twins in `Lease`. They mirror `TokenBucket.ready_at` and
`TokenBucket.take` for whole tokens and `Slots.take`; tests/test_fast_path.py holds the two
together. They may be taken only while `Throttle._calm` is true.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from datetime import timedelta
from time import monotonic_ns
from typing import Any, Final, ParamSpec, TypeVar, cast, overload

from async_throttle._alarm import GRACE, Alarm
from async_throttle._queue import (
    DROPPED,
    EXPIRED,
    GONE,
    GRANTED,
    QUEUED,
    UNFIT,
    Gate,
    Line,
    Queue,
    Receipt,
    State,
)
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
from async_throttle.exceptions import ThrottleClosed, ThrottleFull, ThrottleTimeout, WeightTooLarge
from async_throttle.rules import Rule
from async_throttle.rules.algorithm import RateLimitAlgorithm, rule_class
from async_throttle.rules.bucket import GCRA, LeakyBucket, TokenBucket
from async_throttle.rules.slots import UNLIMITED, Slots

__all__ = ["Lease", "Throttle"]

P = ParamSpec("P")
R = TypeVar("R")


@types.coroutine
def _nothing() -> Generator[None, None, None]:
    return
    yield


NOTHING: Final = cast("types.CoroutineType[Any, Any, None]", _nothing())
"""Awaiting this takes no time: an exhausted generator, which may be awaited again and again.

Called a coroutine, so that type checkers take what returns it for an async context manager.
"""
assert not list(cast(Any, NOTHING)), "it yields nothing, and from here on it is exhausted"


_UNIT: Final = (1, TOKEN)
"""A slot and one token."""


class _Waiting:
    """A caller who waits: the queue's `Waiter`, with the future that wakes it.

    Not a subclass of Future: asyncio has a shortcut for exactly that class.
    """

    __slots__ = (
        "arrived",
        "deadline",
        "future",
        "granted_at",
        "line",
        "order",
        "receipts",
        "state",
        "weights",
    )

    arrived: int
    deadline: int
    future: asyncio.Future[None]
    granted_at: int
    line: Line
    order: int
    receipts: list[Receipt]
    state: State
    weights: tuple[int, ...]


class Throttle:
    """So much per period and so many at once, behind one fair queue.

    ::

        throttle = Throttle(10, 2)      # 10 per second, 2 at once

        async with throttle:            # one token and one slot
            ...
        async with throttle(5):         # a call that weighs five
            ...
        throttle.pause(30)              # the API has banned us: hold everybody

    Which algorithm, for which server:

    - It refills a budget of its own, or you do not know: `TokenBucket`, with a *burst* that it
      tolerates. Up to ``burst + capacity`` may go in the first period.
    - It counts calls in windows and must never see more than *capacity* in one:
      `SlidingWindow`.
    - It wants them evenly spaced: `LeakyBucket`.

    `guarantee()` gives the number for each. `FixedWindow` may let through twice the capacity
    across an edge; take it only to imitate.

    Guarantees. Callers go in order of arrival; a heavy one is not starved by light ones.
    Tokens, slot and pause are granted together: who waits holds nothing. A call that is
    cancelled before it starts leaves no trace. A refusal changes nothing.

    Not thread-safe, like all of asyncio's primitives. It may be used in one event loop after
    another, and made where no loop runs.

    Args:
        capacity: tokens per *period*; math.inf is no rate limit.
        concurrency: callers that may hold a slot at once; 0 is no limit.
        period: seconds, rounded to whole nanoseconds.
        burst: most tokens that may go at once. Unset, it is ``max(1, capacity)`` and follows
            *capacity* (1 for `LeakyBucket`). The windows have none.
        algorithm: a rule class (`TokenBucket`, `GCRA`, `LeakyBucket`, `SlidingWindow`,
            `FixedWindow`, or one of your own), or a member of `RateLimitAlgorithm`.
        initial: tokens at the start; unset, as many as there can be.
        max_waiting: most callers that may queue; the next one is refused at once.
        timer: a clock in seconds; unset, the monotonic clock. One that does not show what the
            event loop's clock does is looked at every 0.1 s while somebody waits.
        name: what errors and repr call it.

    Raises:
        ValueError: a parameter is out of range; names it and the value.

    >>> import asyncio
    >>> async def main():
    ...     throttle = Throttle(10, 2)
    ...     async with throttle(4) as lease:
    ...         return lease.weight, throttle.active
    >>> asyncio.run(main())
    (4, 1)
    """

    # _calm     the flattened entry may be taken: nobody waits or is about to start, no pause,
    #           not closed, the rule is a plain bucket on the default clock
    # _seen     the latest instant seen; instants are clock readings plus _shift
    # _clock    the function that was read last: another one is another clock
    # _starting granted, but not running yet: until they do, newcomers queue
    # _loop     whose futures and timers these are; any other may take over when none is left
    __slots__ = (
        "__weakref__",
        "_bucket",
        "_burst",
        "_calm",
        "_clock",
        "_closed",
        "_drainers",
        "_gate",
        "_grants",
        "_line",
        "_loop",
        "_max_waiting",
        "_name",
        "_plain",
        "_queue",
        "_rule",
        "_seen",
        "_shift",
        "_slots",
        "_starting",
        "_timeouts",
        "_timer",
        "_tokens_line",
    )

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
    ) -> None:
        if timer is not None and not callable(timer):
            raise TypeError(f"timer must be callable, got {timer!r}")
        self._timer = timer
        self._name = name
        self._max_waiting = None if max_waiting is None else whole("max_waiting", max_waiting)
        self._clock: object = timer or monotonic_ns
        self._shift = 0
        self._seen = self._read()
        rule = rule_class(algorithm)
        tokens_per_period = positive("capacity", capacity, infinite=True)
        self._burst = burst
        self._rule = rule(
            self._seen, tokens_per_period, _period(period), _burst(burst, tokens_per_period)
        )
        if initial is not None:
            self._rule.charge(self._seen, _spent(initial, self._rule.burst))
        self._slots = Slots(_limit(concurrency))
        self._gate = Gate(self._rule)
        self._queue = Queue(self._seen, GRACE)
        self._line = self._queue.line((self._slots, self._rule), (self._gate,))
        self._tokens_line = self._queue.line((self._rule,), (self._gate,))
        self._starting: set[_Waiting] = set()
        self._drainers: set[asyncio.Future[None]] = set()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._grants = Alarm(self._wake)
        self._timeouts = Alarm(self._wake)
        # The flattened entry reaches into a bucket, and only into ours: a subclass may differ.
        self._plain = timer is None and rule in (TokenBucket, GCRA, LeakyBucket)
        self._bucket = cast(TokenBucket, self._rule)
        self._calm = False
        self._recalm()

    # -- entering and leaving -----------------------------------------------------------

    def __aenter__(self) -> types.CoroutineType[Any, Any, None]:
        # Mirrors Slots.take and TokenBucket.take for one token. Not a coroutine function:
        # awaiting NOTHING costs half of what awaiting a coroutine does.
        if self._calm:
            slots = self._slots
            now = monotonic_ns()
            if slots.free > 0 and now >= self._seen:
                bucket = self._bucket
                full = bucket.full_at
                at = now
                if bucket.scale != 1:
                    at *= bucket.scale
                    if full <= at - bucket.scale:
                        full = at
                elif full <= at:  # full: the usual case
                    if bucket.floor:
                        bucket.note(0)
                    bucket.full_at = at + bucket.token
                    self._seen = now
                    slots.free -= 1
                    return NOTHING
                after = full + bucket.token
                if after <= at + bucket.room:
                    if bucket.floor and full - at < bucket.floor:
                        bucket.note(full - at)
                    bucket.full_at = after
                    self._seen = now
                    slots.free -= 1
                    return NOTHING
        return self._admit(self._line, _UNIT)  # type: ignore[return-value]  # it is one

    def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> types.CoroutineType[Any, Any, None]:
        slots = self._slots
        if self._calm and slots.free < slots.limit:
            slots.free += 1
        else:
            self.release()
        return NOTHING

    def __call__(self, weight: float = 1.0, *, timeout: float | None = None) -> Lease:
        """A call that weighs *weight*: ``async with throttle(5) as lease:``.

        The result may be kept and entered many times, also by many tasks at once: the first
        entry is its own lease, later ones get a fresh one. It is a decorator too::

            @throttle(5)
            async def fetch(url: str) -> bytes: ...

        Args:
            weight: tokens to take; 0 takes none, but queues, and waits until a debt is paid.
            timeout: seconds to wait at most; see `acquire`.
        """
        lease = _new(Lease)
        lease._throttle = self
        lease._timeout = timeout
        lease._state = FRESH
        lease.weight = weight
        return lease

    async def acquire(self, weight: float = 1.0, *, timeout: float | None = None) -> bool:
        """Wait for *weight* tokens and a slot, and take them; `release()` gives the slot back.

        Args:
            weight: tokens to take.
            timeout: seconds to wait at most. If the wait is known to be longer, the call is
                refused at once; 0 or less is now or never.

        Returns:
            True.

        Raises:
            WeightTooLarge: *weight* exceeds the burst. Nothing was taken, as always.
            ThrottleTimeout: not within *timeout*.
            ThrottleFull: *max_waiting* callers wait already.
            ThrottleClosed: the throttle was closed.
            ValueError: *weight* is negative, infinite or not a number.
            RuntimeError: callers of another running event loop wait already.
        """
        await self._admit(self._line, self._weights(weight), timeout)
        return True

    def release(self) -> None:
        """Give one slot back.

        Raises:
            ValueError: nobody holds one.
        """
        slots = self._slots
        if slots.free >= slots.limit:
            raise ValueError(f"release() without acquire(): nobody holds a slot of {self!r}")
        now = self._elapse()
        slots.free += 1
        queue = self._queue
        if queue.waiting:
            self._announce(queue.advance(now))
        if not queue.waiting:
            self._rest()

    async def lease(self, weight: float = 1.0, *, timeout: float | None = None) -> Lease:
        """Like `acquire`, for a `Lease`: what was taken, to be settled and released."""
        lease = self(weight, timeout=timeout)
        await self._admit(self._line, self._weights(weight), timeout, lease)
        return lease

    def try_acquire(self, weight: float = 1.0) -> bool:
        """Take *weight* tokens and a slot if that is possible now and overtakes nobody.

        Raises:
            WeightTooLarge: as `acquire` does; ThrottleClosed and ValueError too.
        """
        weights = self._weights(weight)
        self._check(weights)
        self._elapse()
        return not self._starting and self._queue.try_take(self._line, weights) is not None

    async def consume(self, weight: float = 1.0) -> None:
        """Wait for *weight* tokens and take them; no slot, nothing to release.

        For use inside a body as well: it goes in order of arrival among those who wait for
        tokens, but never waits behind a caller that lacks a slot.

        Raises:
            WeightTooLarge: as `acquire` does; and its other errors too.
        """
        await self._admit(self._tokens_line, (tokens("weight", weight),))

    def charge(self, weight: float) -> None:
        """Take *weight* tokens now, unasked and into debt if need be.

        For usage that is learnt afterwards, from a response. Later callers wait it out.
        """
        amount = tokens("weight", weight)
        self._rule.charge(self._elapse(), amount)
        self._decide()

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
        now = self._elapse()
        self._queue.pause(self._gate, min(now + span, NEVER), empty)
        self._decide()
        return NOTHING

    def resume(self) -> None:
        """End a pause now."""
        self._elapse()
        self._queue.resume(self._gate)
        self._decide()

    async def drain(self) -> None:
        """Wait until nobody waits or holds a slot."""
        while self._occupied():
            done = asyncio.get_running_loop().create_future()
            self._drainers.add(done)
            self._recalm()
            try:
                await done
            finally:
                self._drainers.discard(done)
                self._recalm()

    def close(self, *, drop_waiting: bool = True) -> None:
        """Refuse newcomers with `ThrottleClosed`; holders finish.

        Args:
            drop_waiting: fail those who are queued as well; else they still go.
        """
        self._elapse()
        self._closed = True
        if drop_waiting:
            self._announce(self._queue.drop(DROPPED))
        self._decide()

    # -- looking ------------------------------------------------------------------------

    def locked(self) -> bool:
        """True if `acquire()` would not be granted at once."""
        self._elapse()
        return (
            self._closed
            or bool(self._starting)
            or self._rule.burst < TOKEN
            or not self._queue.can_take(self._line, _UNIT)
        )

    def delay(self, weight: float = 1.0) -> float:
        """Seconds until *weight* could be granted, counting everyone ahead; 0.0 is now.

        A lower bound where a slot is what is missing. Changes nothing. O(1) for buckets,
        O(waiters) for windows.

        Raises:
            WeightTooLarge: as `acquire` would; ThrottleFull, ThrottleClosed and ValueError too.
        """
        weights = self._weights(weight)
        self._check(weights)
        now = self._elapse()
        wait = self._queue.quote(self._line, weights) - now
        queue = self._queue
        full = self._max_waiting is not None and queue.waiting >= self._max_waiting
        if full and not queue.can_take(self._line, weights):
            raise self._error_full(wait)
        return seconds(wait)

    def guarantee(self, window: float) -> float:
        """The most weight that can be admitted in any half-open window of *window* seconds.

        Buckets: ``burst + capacity / period * window``. Sliding window: ``capacity *
        ceil(window / period)``. Fixed window: one capacity more. Without a rate: infinity.
        Debt knowingly taken comes on top; so do, in real time, 5 ms of lateness paid back.

        >>> Throttle(20).guarantee(1.0)
        40.0
        >>> from async_throttle import SlidingWindow
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
        return self._rule.level(self._elapse())

    @property
    def active(self) -> int:
        """Slots held."""
        self._elapse()
        return self._slots.used

    @property
    def waiting(self) -> int:
        """Callers that are queued."""
        self._elapse()
        return self._queue.waiting

    @property
    def paused_for(self) -> float:
        """Seconds until the pause ends; 0.0 if there is none."""
        now = self._elapse()
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

    def __repr__(self) -> str:
        # Tells the present, and changes nothing: not even what time lets happen.
        now = max(self._seen, self._read() + self._shift)
        slots = self._slots
        if self._closed:
            state = "closed"
        elif self._gate.until > now:
            state = "paused"
        elif self._queue.waiting or slots.free <= 0:
            state = "locked"
        else:
            state = "unlocked"
        name = "" if self._name is None else f" {self._name!r}"
        free = "" if slots.limit == UNLIMITED else f", slots:{slots.free}"
        return (
            f"<async_throttle.{type(self).__qualname__}{name} object at {id(self):#x} [{state}, "
            f"tokens:{self._rule.fork().level(now):g}{free}, waiters:{self._queue.waiting}]>"
        )

    # -- changing the limits ------------------------------------------------------------

    @property
    def capacity(self) -> float:
        """Tokens per period. Setting it re-plans everybody at once; the level stays."""
        return self._rule.capacity / TOKEN

    @capacity.setter
    def capacity(self, value: float) -> None:
        self._configure(positive("capacity", value, infinite=True), self._rule.period, self._burst)

    @property
    def period(self) -> float:
        """Seconds in which *capacity* tokens come back. Setting it re-plans everybody."""
        return self._rule.period / SECOND

    @period.setter
    def period(self, value: float) -> None:
        self._configure(self._rule.capacity, _period(value), self._burst)

    @property
    def burst(self) -> float:
        """Most tokens that may go at once. Setting it cuts the level; None unsets it.

        Whoever waits for more than the new burst fails with `WeightTooLarge`.
        """
        return self._rule.burst / TOKEN

    @burst.setter
    def burst(self, value: float | None) -> None:
        self._configure(self._rule.capacity, self._rule.period, value)

    @property
    def concurrency(self) -> int:
        """Slots; 0 is no limit. When it shrinks, holders finish and nobody new enters."""
        limit = self._slots.limit
        return 0 if limit == UNLIMITED else limit

    @concurrency.setter
    def concurrency(self, value: int) -> None:
        limit = _limit(value)
        self._elapse()
        self._slots.resize(limit)
        self._decide()

    def _configure(self, capacity: int | float, period: int, burst: float | None) -> None:
        checked = _burst(burst, capacity)
        self._rule.configure(self._elapse(), capacity, period, checked)
        self._burst = burst
        self._announce(self._queue.refit())
        self._decide()

    # -- the clock ----------------------------------------------------------------------

    def _read(self) -> int:
        return monotonic_ns() if self._timer is None else round(self._timer() * SECOND)

    def _step_back(self, now: int) -> None:
        """The clock shows less than before: time stands still until it has caught up.

        Unless it is another clock, as when freezegun is entered or left: that one is believed
        from here on, at the same level.
        """
        rule = self._rule
        back = self._seen - now
        fill = rule.period * rule.burst / rule.capacity if rule.capacity < math.inf else 0
        clock = self._timer or monotonic_ns
        if self._clock is not clock or back > max(rule.period, fill):
            self._clock = clock
            self._shift += back
            self._recalm()

    # -- the queue ----------------------------------------------------------------------

    def _elapse(self) -> int:
        """Let the queue see what time it is: whoever is due goes. Returns the instant.

        Never an instant before one already seen.
        """
        now = (monotonic_ns() if self._timer is None else self._read()) + self._shift
        if now < self._seen:
            self._step_back(now)
            now = self._seen
        else:
            self._seen = now
            self._clock = self._timer or monotonic_ns
        if self._loop is not None and self._loop.is_closed():
            self._bury()
        queue = self._queue
        if now >= queue.due_at:
            self._announce(queue.advance(now))
            if not queue.waiting:
                self._rest()
        else:
            queue.now = now
        return now

    def _decide(self) -> None:
        """Something changed at the instant of the last `_elapse`: see who may go now."""
        self._announce(self._queue.advance(self._queue.now))
        if not self._queue.waiting:
            self._rest()

    def _rest(self) -> None:
        """Nobody waits: open the flattened entry again, and tell those who wait for that."""
        self._recalm()
        if self._drainers and not self._occupied():
            for done in self._drainers:
                if not done.get_loop().is_closed():
                    _resolve(done)

    def _announce(self, changed: Iterable[Any]) -> None:
        """Wake those who are *changed*, and be woken for those who come next."""
        for waiter in changed:
            if waiter.state is GRANTED:
                self._starting.add(waiter)
            if not waiter.future.done():
                waiter.future.set_result(None)
        queue = self._queue
        if self._grants.armed != queue.wake_at or queue.deadlines or self._timeouts.armed != NEVER:
            self._arm()

    def _arm(self) -> None:
        """Be woken for the next grant, and for the next deadline."""
        loop, queue = self._loop, self._queue
        if loop is not None:
            now = queue.now
            if self._grants.armed != queue.wake_at:
                self._grants.set(loop, queue.wake_at, now, now - self._shift)
            if queue.deadlines or self._timeouts.armed != NEVER:
                expires_at = queue.expires_at
                if self._timeouts.armed != expires_at:
                    self._timeouts.set(loop, expires_at, now, now - self._shift)

    def _wake(self) -> None:
        """An alarm rang, perhaps too early."""
        self._elapse()
        self._arm()

    def _recalm(self) -> None:
        self._calm = (
            self._plain
            and not self._queue.waiting
            and not self._starting
            and not self._closed
            and not self._drainers
            and not self._shift
            and self._gate.until <= self._seen
            and self._rule.burst >= TOKEN
        )

    def _weights(self, weight: float) -> tuple[int, int]:
        """A slot and *weight* tokens, in the order of the line's rules."""
        return _UNIT if weight == 1 else (1, tokens("weight", weight))

    def _check(self, weights: tuple[int, ...]) -> None:
        """Refuse what can never be granted."""
        if weights[-1] > self._rule.burst:
            raise self._error_weight(weights[-1])
        if self._closed:
            raise self._error_closed()

    def _occupied(self) -> bool:
        return bool(self._slots.used or self._queue.waiting or self._starting)

    async def _admit(
        self,
        line: Line,
        weights: tuple[int, ...],
        timeout: float | None = None,
        lease: Lease | None = None,
    ) -> None:
        """Wait in *line* for *weights*; fill in *lease*. Lease.__aenter__ does the same."""
        waiter = self._ask(line, weights, timeout, lease)
        if waiter is not None:
            try:
                await waiter.future
            except BaseException:
                self._leave(waiter)
                raise
            self._start(waiter, lease)

    def _ask(
        self, line: Line, weights: tuple[int, ...], timeout: float | None, lease: Lease | None
    ) -> _Waiting | None:
        """Take at once, or queue up: then the waiter, whose future is to be awaited."""
        if weights[-1] > self._rule.burst or self._closed:
            self._check(weights)
        queue = self._queue
        loop = asyncio.get_running_loop()
        if (
            line.waiters
            and loop is self._loop
            and timeout is None
            and lease is None
            and self._max_waiting is None
        ):
            # Whoever comes behind others need not know the time.
            waiter = _Waiting()
            waiter.future = loop.create_future()
            queue.join(waiter, line, weights)
            return waiter
        now = self._elapse()
        if not self._starting:
            receipts = queue.try_take(line, weights)
            if receipts is not None:
                self._recalm()
                if lease is not None:
                    lease._hold(receipts, 0)
                return None
        return self._join(loop, line, weights, timeout, now)

    def _start(self, waiter: _Waiting, lease: Lease | None) -> None:
        """The task of *waiter* runs again: on it goes, or it learns why not."""
        if waiter.state is not GRANTED:
            raise self._refusal(waiter)
        self._starting.discard(waiter)
        if not self._starting and not self._queue.waiting:
            self._rest()
        if lease is not None:
            lease._hold(waiter.receipts, waiter.granted_at - waiter.arrived)

    def _join(
        self,
        loop: asyncio.AbstractEventLoop,
        line: Line,
        weights: tuple[int, ...],
        timeout: float | None,
        now: int,
    ) -> _Waiting:
        """Queue up, unless that is refused."""
        if loop is not self._loop:
            self._bind(loop)
        queue = self._queue
        deadline = NEVER
        if timeout is not None:
            wait = queue.quote(line, weights) - now
            allowed = nanoseconds("timeout", timeout if not timeout < 0 else 0)
            if wait > allowed:
                raise self._error_timeout(timeout, wait)
            deadline = min(now + allowed, NEVER)
        self._calm = False
        waiter = _Waiting()
        waiter.future = loop.create_future()
        waiter.arrived = now
        queue.join(waiter, line, weights, deadline)
        changed = queue.advance(now)
        if waiter.state is QUEUED:
            if self._max_waiting is not None and queue.waiting > self._max_waiting:
                queue.leave(waiter)
                self._decide()
                raise self._error_full(queue.quote(line, weights) - now)
        elif waiter.state is EXPIRED:
            self._decide()
            raise self._refusal(waiter)
        else:
            # Those who were granted before are only about to start: after them.
            assert changed == [waiter], "a newcomer makes way for nobody else"
            self._starting.add(waiter)
            loop.call_soon(_resolve, waiter.future)
        self._arm()
        return waiter

    def _refusal(self, waiter: _Waiting) -> Exception:
        """Why *waiter* was taken out of the queue."""
        if waiter.state is EXPIRED:
            now = self._elapse()
            wait = self._queue.quote(waiter.line, waiter.weights) - now
            return self._error_timeout((waiter.deadline - waiter.arrived) / SECOND, wait)
        if waiter.state is UNFIT:
            return self._error_weight(waiter.weights[-1])
        return self._error_closed()

    def _leave(self, waiter: _Waiting) -> None:
        """The caller went before it started: as if it had never asked."""
        if (
            waiter.state is QUEUED
            and waiter.deadline == NEVER
            and waiter.line.waiters[0] is not waiter
        ):
            self._queue.leave(waiter)  # nobody was held up by it
            return
        self._elapse()  # which may grant it; then that is undone
        self._starting.discard(waiter)
        self._queue.leave(waiter)
        self._decide()

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to *loop* from here on.

        Raises:
            RuntimeError: another open one has callers here.
        """
        if self._queue.waiting or self._starting:
            raise RuntimeError(
                f"{self!r} has callers waiting in another running event loop; to share one "
                "throttle between loops and threads use async_throttle.threads.Throttle"
            )
        self._grants.cancel()
        self._timeouts.cancel()
        self._loop = loop

    def _bury(self) -> None:
        """The loop was closed: drop whoever waited in it, undo whoever was about to start."""
        self._loop = None
        self._grants.cancel()
        self._timeouts.cancel()
        self._queue.drop(GONE)
        for waiter in self._starting:
            self._queue.leave(waiter)
        self._starting.clear()
        self._decide()

    # -- refusals -----------------------------------------------------------------------

    def _error_weight(self, amount: int) -> WeightTooLarge:
        return WeightTooLarge(
            f"weight {amount / TOKEN:g} exceeds the burst of {self._label()}: "
            f"the largest that could ever be granted is {self.burst:g}",
            largest=self.burst,
            limit=self._name,
        )

    def _error_timeout(self, timeout: float, wait: int) -> ThrottleTimeout:
        return ThrottleTimeout(
            f"{self._label()} does not grant it within a timeout of {timeout:g} s: "
            f"it takes {seconds(wait):g} s or more",
            limit=self._name,
            retry_after=seconds(wait),
        )

    def _error_full(self, wait: int) -> ThrottleFull:
        return ThrottleFull(
            f"max_waiting of {self._label()} is {self._max_waiting}, "
            f"and {self._queue.waiting} wait already",
            limit=self._name,
            retry_after=seconds(wait),
        )

    def _error_closed(self) -> ThrottleClosed:
        return ThrottleClosed(f"{self._label()} is closed", limit=self._name)

    def _label(self) -> str:
        return "the throttle" if self._name is None else f"throttle {self._name!r}"


class Lease:
    """What a granted call holds: its tokens, to be settled, and a slot, to be released.

    Made by ``throttle(weight)``, for ``async with`` and as a decorator, and by
    ``await throttle.lease(weight)``.

    Attributes:
        weight: tokens that were asked for.
        waited: seconds from the arrival to the grant.
    """

    # _state    see below
    # _receipt  of the rule, for the tokens taken; unset before the grant
    # _settled  tokens taken, as settled so far; unset before the grant
    # _debts    (receipt, nanotokens) taken by settling above the weight, the latest last;
    #           unset without
    # _others   the leases of further entries, by task; unset without
    __slots__ = (
        "__weakref__",
        "_debts",
        "_others",
        "_receipt",
        "_settled",
        "_state",
        "_throttle",
        "_timeout",
        "waited",
        "weight",
    )

    _throttle: Throttle
    _timeout: float | None
    _state: int
    _receipt: Any
    _settled: float
    _debts: list[tuple[Any, int]]
    _others: dict[object, list[Lease]]
    weight: float
    waited: float

    async def __aenter__(self) -> Lease:
        # Mirrors Slots.take and TokenBucket.take for whole tokens.
        throttle = self._throttle
        weight = self.weight
        if throttle._calm and self._state == FRESH and weight.__class__ is int and weight > 0:
            slots = throttle._slots
            now = monotonic_ns()
            if slots.free > 0 and now >= throttle._seen:
                bucket = throttle._bucket
                at = now if bucket.scale == 1 else now * bucket.scale
                full = bucket.full_at
                if full <= at - bucket.scale:
                    full = at
                after = full + weight * bucket.token
                if after <= at + bucket.room and bucket.token:
                    if full > at or bucket.lows:
                        bucket.note(full - at)
                    else:
                        bucket.dead = bucket.issued
                    bucket.full_at = after  # pyright: ignore[reportAttributeAccessIssue]
                    bucket.issued = self._receipt = bucket.issued + 1
                    bucket.floor = NEVER
                    throttle._seen = now
                    slots.free -= 1
                    self._settled = weight
                    self.waited = 0.0
                    self._state = HELD
                    return self
        if self._state != FRESH:
            return await self._reenter()
        self._state = ENTERING
        try:
            weights = throttle._weights(weight)
            waiter = throttle._ask(throttle._line, weights, self._timeout, self)
            if waiter is not None:  # as in Throttle._admit, without a frame for each who waits
                try:
                    await waiter.future
                except BaseException:
                    throttle._leave(waiter)
                    raise
                throttle._start(waiter, self)
        except BaseException:
            self._state = RELEASED if hasattr(self, "_others") else FRESH
            raise
        self._state = SHARED if hasattr(self, "_others") else HELD
        return self

    def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> types.CoroutineType[Any, Any, None]:
        throttle = self._throttle
        if throttle._calm and self._state == HELD:
            slots = throttle._slots
            if slots.free < slots.limit:
                slots.free += 1
                self._state = RELEASED
                return NOTHING
        lease = self._leaving()
        lease.release()
        lease._state = RELEASED
        return NOTHING

    def release(self) -> None:
        """Give the slot back; a second time does nothing.

        Raises:
            RuntimeError: nothing was granted yet.
        """
        self._check_granted()
        if self._state in (LEASED, HELD, SHARED):
            self._state = RELEASED if self._state == LEASED else EARLY
            self._throttle.release()

    def settle(self, actual: float) -> None:
        """Say what the call really took, also after the block; again settles the difference.

        Less than taken is given back at once, which may wake a waiter. The bucket then holds
        what it would have held with the true weight, never more: had less been taken, it might
        have been full since, and a full bucket gains nothing. A window gives back only what is
        still inside. More than taken is debt from now on, which later callers wait out.

        A call that failed is not given back by itself: servers count failures.

        Args:
            actual: tokens.

        Raises:
            ValueError: *actual* is negative, infinite or not a number.
            RuntimeError: nothing was granted yet.
        """
        throttle = self._throttle
        if throttle._calm and self._state == HELD and actual.__class__ is int:
            # Mirrors TokenBucket.refund for whole tokens, where nothing was taken since.
            bucket = throttle._bucket
            less = self._settled - actual
            if (
                less >= 0 <= actual
                and less.__class__ is int
                and self._receipt == bucket.issued
                and bucket.floor == NEVER
            ):
                bucket.full_at -= less * bucket.token  # pyright: ignore[reportAttributeAccessIssue]
                self._settled = actual
                return
        self._settle(actual)

    def _settle(self, actual: float) -> None:
        amount = tokens("actual", actual)
        self._check_granted()
        throttle = self._throttle
        rule = throttle._rule
        now = throttle._elapse()
        more = amount - tokens("weight", self._settled)
        if more > 0:
            if not hasattr(self, "_debts"):
                self._debts = []
            self._debts.append((rule.take(now, more), more))
        elif more < 0:
            # First what was taken last: it was never needed.
            debts = getattr(self, "_debts", [])
            while more < 0 and debts:
                receipt, debt = debts.pop()
                refund = min(debt, -more)
                rule.refund(now, receipt, refund)
                more += refund
                if debt > refund:
                    debts.append((receipt, debt - refund))
            if more < 0 and self._receipt is not None:
                rule.refund(now, self._receipt, -more)
        self._settled = actual
        throttle._decide()

    @overload
    def __call__(
        self, func: Callable[P, Coroutine[Any, Any, R]]
    ) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, func: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]: ...
    def __call__(self, func: Callable[P, Any]) -> Callable[P, Any]:
        """Decorate an ``async def``: each call takes the weight and a slot while it runs."""
        if not inspect.iscoroutinefunction(func):
            raise TypeError(f"a throttle decorates an async def, got {func!r}")
        throttle, weight, timeout = self._throttle, self.weight, self._timeout

        @functools.wraps(func)
        async def throttled(*args: P.args, **kwargs: P.kwargs) -> Any:
            async with throttle(weight, timeout=timeout):
                return await func(*args, **kwargs)

        return throttled

    def __repr__(self) -> str:
        return (
            f"<async_throttle.Lease of {self.weight:g} [{_STATES[self._state]}] "
            f"of {self._throttle!r}>"
        )

    async def _reenter(self) -> Lease:
        """Every entry but the first."""
        if self._state == LEASED:
            self._state = HELD
            return self
        lease = await self._throttle.lease(self.weight, timeout=self._timeout)
        if not hasattr(self, "_others"):
            self._others = {}
        self._others.setdefault(asyncio.current_task(), []).append(lease)
        # Whoever enters or leaves from here on must look who else is inside.
        self._state = {HELD: SHARED, FRESH: RELEASED}.get(self._state, self._state)
        return lease

    def _leaving(self) -> Lease:
        """The lease of the block that ends: the last one that this task entered."""
        others: dict[object, list[Lease]] = getattr(self, "_others", {})
        task: object = asyncio.current_task()
        if task not in others:
            if self._state in (HELD, SHARED, EARLY) or not others:
                return self
            task = next(iter(others))  # entered in one task, left in another
        leases = others[task]
        lease = leases.pop()
        if not leases:
            del others[task]
        return lease

    def _hold(self, receipts: list[Receipt], waited: int) -> None:
        self._receipt = receipts[-1][-1] if receipts else None
        self._settled = self.weight
        self.waited = waited / SECOND
        self._state = LEASED

    def _check_granted(self) -> None:
        if not hasattr(self, "_receipt"):
            raise RuntimeError(f"nothing was granted yet to {self!r}")


FRESH, ENTERING, LEASED, HELD, SHARED, EARLY, RELEASED = range(7)
"""States of a lease: not entered yet; waiting in a first entry; granted without a block; held by
a block; the same while others are entered with it too; released within its block; released."""

_STATES = ("fresh", "entering", "held", "held", "held", "released", "released")

_new = cast(Callable[[type[Lease]], Lease], object.__new__)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


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
