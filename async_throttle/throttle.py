"""Throttle: a rate and a number of slots behind one fair queue; Lease: what a call holds.

Who waits, waits at a desk (`async_throttle._desk`). What may go and when is decided in
`async_throttle._queue` and computed in `async_throttle.rules`.

One thing is flattened for speed: the uncontended entry and exit, `Throttle.__aenter__`,
`Throttle.__aexit__` and their twins in `Lease`. They mirror `TokenBucket.ready_at` and
`TokenBucket.take` for whole tokens and `Slots.take`; tests/test_fast_path.py holds the two
together. They may be taken only while the desk is calm and the throttle is open.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic_ns
from typing import Any, ParamSpec, Self, TypeVar, cast, overload

from async_throttle._base import NOTHING, UNIT, BaseThrottle, Inside, Measure, who
from async_throttle._decorator import within
from async_throttle._desk import Waiting, checked_priority
from async_throttle._queue import Line, Receipt, settle
from async_throttle._units import (
    NEVER,
    SECOND,
    tokens,
)
from async_throttle.adaptive import Outcome

__all__ = ["Lease", "Throttle"]

P = ParamSpec("P")
R = TypeVar("R")
L = TypeVar("L", bound="Lease")


class Throttle(BaseThrottle):
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
        adapt: lets a limit follow the server, by how the calls end: `AIMD` and `Gradient` set
            *concurrency*, `BackOff` sets *capacity*, within their bounds and from where these
            are (`Gradient` lowers it first, to measure). What is learnt from are blocks and
            leases; `acquire` with `release` tells nothing of how it went.

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

    __slots__ = ()

    # -- entering and leaving -----------------------------------------------------------

    def __aenter__(self) -> types.CoroutineType[Any, Any, None]:
        # Mirrors Slots.take and TokenBucket.take for one token. Not a coroutine function:
        # awaiting NOTHING costs half of what awaiting a coroutine does.
        desk = self._desk
        if desk.calm and self._open:
            slots = self._slots
            now = monotonic_ns()
            if slots.free > 0 and now >= desk.seen:
                bucket = self._bucket
                ticks = bucket.ticks
                state = bucket.state
                full = state.full_at
                at = now
                if ticks.scale != 1:
                    at *= ticks.scale
                    if full <= at - ticks.scale:
                        full = at
                elif full <= at:  # full: the usual case
                    if state.floor:
                        bucket.note(0)
                    state.full_at = at + ticks.token
                    desk.seen = now
                    slots.free -= 1
                    return NOTHING
                after = full + ticks.token
                if after <= at + ticks.room:
                    if state.floor and full - at < state.floor:
                        bucket.note(full - at)
                    state.full_at = after
                    desk.seen = now
                    slots.free -= 1
                    return NOTHING
        if self._inside is not None:
            return self._enter(self._inside)  # type: ignore[return-value]  # it is one
        return self._admit(self._line, UNIT)  # type: ignore[return-value]  # it is one

    def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> types.CoroutineType[Any, Any, None]:
        slots = self._slots
        if self._desk.calm and slots.free < slots.limit:
            slots.free += 1
        elif self._inside is None:
            self.release()
        else:
            self._inside.leave()._quit(exc)
        return NOTHING

    async def _enter(self, inside: Inside) -> None:
        """Enter a plain block whose call is measured: it needs a lease that knows when it began."""
        inside.enter(await self.lease())

    def __call__(
        self, weight: float = 1, *, timeout: float | None = None, priority: int = 0
    ) -> Lease:
        """A call that weighs *weight*: ``async with throttle(5) as lease:``.

        The result may be kept and entered many times, also by many tasks at once: the first
        entry is its own lease, later ones get a fresh one. It is a decorator too::

            @throttle(5)
            async def fetch(url: str) -> bytes: ...

        Args:
            weight: tokens to take; 0 takes none, but queues, and waits until a debt is paid.
            timeout: seconds to wait at most; see `acquire`.
            priority: lower goes first; see `acquire`.
        """
        lease = _new(Lease)
        lease._throttle = self
        lease._timeout = timeout
        lease._state = FRESH
        lease.weight = weight
        if priority:
            lease._priority = checked_priority(priority)
        return lease

    async def acquire(
        self, weight: float = 1.0, *, timeout: float | None = None, priority: int = 0
    ) -> bool:
        """Wait for *weight* tokens and a slot, and take them; `release()` gives the slot back.

        Args:
            weight: tokens to take.
            timeout: seconds to wait at most. If the wait is known to be longer, the call is
                refused at once; 0 or less is now or never.
            priority: a whole number, lower goes first; those of one priority go in order of
                arrival. A class that better ones have passed over 32 times in a row has its
                turn, so that the last one gets its share, too: a thirty-third.

        Returns:
            True.

        Raises:
            WeightTooLarge: *weight* exceeds the burst. Nothing was taken, as always.
            ThrottleTimeout: not within *timeout*.
            ThrottleFull: *max_waiting* callers wait already.
            ThrottleClosed: the throttle was closed.
            ValueError: *weight* is negative, infinite or not a number, or *priority* not whole.
            RuntimeError: callers of another running event loop wait already.
        """
        await self._admit(self._line_of(priority), self._weights(weight), timeout)
        return True

    async def lease(
        self, weight: float = 1.0, *, timeout: float | None = None, priority: int = 0
    ) -> Lease:
        """Like `acquire`, for a `Lease`: what was taken, to be settled and released."""
        lease = self(weight, timeout=timeout, priority=priority)
        await self._admit(self._line_of(priority), self._weights(weight), timeout, lease)
        return lease

    async def consume(self, weight: float = 1.0, *, priority: int = 0) -> None:
        """Wait for *weight* tokens and take them; no slot, nothing to release.

        For use inside a body as well: it goes in order of arrival among those who wait for
        tokens, but never waits behind a caller that lacks a slot.

        Raises:
            WeightTooLarge: as `acquire` does; and its other errors too.
        """
        await self._admit(self._tokens_line_of(priority), (tokens("weight", weight),))

    async def drain(self) -> None:
        """Wait until nobody waits or holds a slot."""
        await self._drained()

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
                self._at().leave(waiter)
                raise
            self._at().start(((self, line, weights),), waiter, lease)

    def _ask(
        self, line: Line, weights: tuple[int, ...], timeout: float | None, lease: Lease | None
    ) -> Waiting | None:
        """Take at once, or queue up: then the waiter, whose future is to be awaited."""
        if weights[-1] > self._rule.burst or self._closed:
            self._check(weights)
        desk = self._desk if self._desk.into is None else self._at()
        waiter = desk.ask(self, line, weights, timeout, lease)
        if waiter is None and not self._open:
            self._reopen(desk)
        return waiter


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
    # _measure  what an adaptive limit is to learn from the call; unset without, and once told
    # _priority unset if it is the usual one
    __slots__ = (
        "__weakref__",
        "_debts",
        "_measure",
        "_others",
        "_priority",
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
    _measure: Measure
    _others: Inside
    _priority: int
    weight: float
    waited: float

    async def __aenter__(self) -> Lease:
        # Mirrors Slots.take and TokenBucket.take for whole tokens.
        throttle = self._throttle
        weight = self.weight
        desk = throttle._desk
        if (
            desk.calm
            and throttle._open
            and self._state == FRESH
            and weight.__class__ is int
            and weight > 0
        ):
            slots = throttle._slots
            now = monotonic_ns()
            if slots.free > 0 and now >= desk.seen:
                bucket = throttle._bucket
                ticks = bucket.ticks
                state = bucket.state
                at = now if ticks.scale == 1 else now * ticks.scale
                full = state.full_at
                if full <= at - ticks.scale:
                    full = at
                after = full + weight * ticks.token
                if after <= at + ticks.room and ticks.token:
                    if full > at or state.lows:
                        bucket.note(full - at)
                    else:
                        state.dead = state.issued
                    state.full_at = after  # pyright: ignore[reportAttributeAccessIssue]
                    state.issued = self._receipt = state.issued + 1
                    state.floor = NEVER
                    desk.seen = now
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
            line = throttle._line_of(getattr(self, "_priority", 0))
            waiter = throttle._ask(line, weights, self._timeout, self)
            if waiter is not None:  # as in Throttle._admit, without a frame for each who waits
                try:
                    await waiter.future
                except BaseException:
                    throttle._at().leave(waiter)
                    raise
                throttle._at().start(((throttle, line, weights),), waiter, self)
        except BaseException:
            self._unclaim()
            raise
        return self

    def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> types.CoroutineType[Any, Any, None]:
        throttle = self._throttle
        if throttle._desk.calm and self._state == HELD:
            slots = throttle._slots
            if slots.free < slots.limit:
                slots.free += 1
                self._state = RELEASED
                return NOTHING
        self._leaving()._quit(exc)
        return NOTHING

    def ok(self) -> None:
        """The call went well, and is over as far as the server is concerned.

        For a throttle that adapts; it means nothing to others. A block says by itself how it
        ends: well, or by an exception that `Adaptive.judge` knows. This is for what exceptions
        do not tell, for leases without a block, and for a block that does more than the call.
        The first word counts. The slot is held until it is released.

        Raises:
            RuntimeError: nothing was granted yet.
        """
        self._tell(Outcome.OK)

    def ignore(self) -> None:
        """The call says nothing about the server: it failed here, or never got there. See `ok`."""
        self._tell(Outcome.IGNORED)

    def dropped(self) -> None:
        """The server refused the call, or did not answer in time. See `ok`."""
        self._tell(Outcome.DROPPED)

    def _tell(self, outcome: Outcome) -> None:
        self._check_granted()
        if hasattr(self, "_measure"):
            measure = self._measure
            del self._measure
            measure.end(outcome, self._settled)

    def _quit(self, error: BaseException | None) -> None:
        """The block that held this ends, with *error*."""
        try:
            if hasattr(self, "_measure"):  # nobody has said how the call went
                self._tell(self._measure.judge(error))
        finally:
            self._end()

    def _end(self) -> None:
        self.release()
        self._state = RELEASED

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
        if (
            throttle._desk.calm
            and throttle._open
            and self._state == HELD
            and actual.__class__ is int
        ):
            # Mirrors TokenBucket.refund for whole tokens, where nothing was taken since.
            bucket = throttle._bucket
            state = bucket.state
            less = self._settled - actual
            if (
                less >= 0 <= actual
                and less.__class__ is int
                and self._receipt == state.issued
                and state.floor == NEVER
            ):
                state.full_at -= less * bucket.ticks.token  # pyright: ignore[reportAttributeAccessIssue]
                self._settled = actual
                return
        self._settle(actual)

    def _settle(self, actual: float) -> None:
        amount = tokens("actual", actual)
        self._check_granted()
        throttle = self._throttle
        rule = throttle._rule
        desk = throttle._at()
        now = desk.elapse()
        if not hasattr(self, "_debts"):
            self._debts = []
        settle(rule, now, self._receipt, self._debts, amount - tokens("weight", self._settled))
        self._settled = actual
        desk.decide()

    @overload
    def __call__(
        self, func: Callable[P, Coroutine[Any, Any, R]]
    ) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, func: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]: ...
    def __call__(self, func: Callable[P, Any]) -> Callable[P, Any]:
        """Decorate an ``async def``: each call takes the weight and a slot while it runs."""
        return within("a throttle", func, self._twin)

    def __repr__(self) -> str:
        return (
            f"<async_throttle.Lease of {self.weight:g} [{_STATES[self._state]}] "
            f"of {self._throttle!r}>"
        )

    def _twin(self) -> Lease:
        """Another one that asks for the same."""
        priority = getattr(self, "_priority", 0)
        return self._throttle(self.weight, timeout=self._timeout, priority=priority)

    async def _reenter(self) -> Lease:
        """Every entry but the first."""
        return self._take_over() or self._enroll(
            await self._throttle.lease(
                self.weight, timeout=self._timeout, priority=getattr(self, "_priority", 0)
            )
        )

    def _unclaim(self) -> None:
        """The first entry came to nothing: the next one is the first."""
        self._state = RELEASED if hasattr(self, "_others") else FRESH

    def _take_over(self) -> Self | None:
        """This lease, if it was granted without a block, and now has one."""
        if self._state == LEASED:
            self._state = HELD
            return self
        return None

    def _enroll(self, lease: L) -> L:
        """*lease* is what this further entry holds."""
        if not hasattr(self, "_others"):
            self._others = Inside()
        self._others.enter(lease)
        # Whoever enters or leaves from here on must look who else is inside.
        self._state = {HELD: SHARED, FRESH: RELEASED}.get(self._state, self._state)
        return lease

    def _leaving(self) -> Lease:
        """The lease of the block that ends: the last one that this task entered."""
        others: Inside | None = getattr(self, "_others", None)
        if not others or (self._state in (HELD, SHARED, EARLY) and who() not in others):
            return self
        lease: Lease = others.leave()
        return lease

    def _hold(self, receipts: list[Receipt], waited: int, option: object = None) -> None:
        self._receipt = receipts[-1][-1] if receipts else None
        self._settled = self.weight
        self.waited = waited / SECOND
        if self._throttle._adapt is not None:
            self._measure = self._throttle._measure()
        if self._state == ENTERING:
            self._state = SHARED if hasattr(self, "_others") else HELD
        else:
            self._state = LEASED

    def _check_granted(self) -> None:
        if not hasattr(self, "_receipt"):
            raise RuntimeError(f"nothing was granted yet to {self!r}")


FRESH, ENTERING, LEASED, HELD, SHARED, EARLY, RELEASED = range(7)
"""States of a lease: not entered yet; waiting in a first entry; granted without a block; held by
a block; the same while others are entered with it too; released within its block; released."""

_STATES = ("fresh", "entering", "held", "held", "held", "released", "released")

_new = cast(Callable[[type[Lease]], Lease], object.__new__)
