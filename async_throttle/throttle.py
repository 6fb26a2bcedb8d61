"""Throttle: a rate and a number of slots behind one fair queue; Lease: what a call holds.

The public face. What is behind it: `Core` (`_shell/core.py`), which asks a scheduler. The
uncontended entries are in `_shell/fast.py`.

How it behaves, which goes for sets, pools and threads as well:

**Fair.** Grants follow arrival, and those granted start in that order; a newcomer never passes one
who waits. The price is that a heavy call holds up the light ones behind it while the bucket fills
for it. Under more light traffic than the bucket of 10 per second can bear, a call that weighs 8:

>>> import asyncio
>>> from async_throttle import testing
>>> async def main() -> None:
...     loop, throttle = asyncio.get_running_loop(), Throttle(10, burst=8, initial=0)
...     async def light() -> None:
...         while loop.time() < 4:
...             await throttle.acquire()
...     tasks = [asyncio.create_task(light()) for _ in range(4)]
...     await asyncio.sleep(0)
...     await throttle.acquire(8)
...     print(f"went after {loop.time():.1f} s")  # where newcomers may pass: never
...     await asyncio.gather(*tasks)
>>> testing.run(main())
went after 1.2 s

**Cancellation.** A call that is cancelled while it waits, or after it was granted but before it
ran, leaves no trace: its tokens are back and the next one is woken. It counts no longer from that
moment on, also where its clean-up has not run yet. Inside the body, the slot comes back and the
tokens stay spent.

**Refunds** never mint tokens: the bucket holds afterwards what it would have held with the true
weight. A call that failed is not refunded by itself, as servers count failures.

**Signals and finalizers.** A throttle may be called while it is at work: by a signal handler, by a
``__del__`` that the garbage collector runs in whichever thread allocates, by a rule or a clock of
the user's. `release()`, `settle()`, `charge()`, `pause()`, `resume()`, `close()` and the setters
are noted then, and done when the outer call is through. A handler of SIGTERM may be ``lambda *_:
throttle.close()``. Questions are answered as of the last event, `try_acquire()` is False, and a
call that would have to wait for the very thread that it interrupted is a RuntimeError. A
KeyboardInterrupt leaves no waiter, no lock and no token behind, wherever it falls; no slot either,
except between the end of a body and the first statement of the exit, where the semaphores of
threading lose it as well.

**Failures.** What a rule, a clock or a judge of the user's raises goes to the call for which it was
asked, and to no other: that call leaves the queue, what was taken is given back, and the next one
goes. It never hides the exception of a body. A clock that fails in a timer is told to the loop's
exception handler, and read again 0.1 s later.

**Forks and copies.** A forked child has the limits, with nobody waiting and all slots free, and
what was begun before the fork ends there without effect. From then on there are two quotas,
parent's and child's. ``copy`` and ``deepcopy`` give the same object, for a copy would be a second
quota; ``pickle`` is a TypeError for that reason. With a *store* there is one quota: a child shares
it, and a throttle that is pickled is the same limit in another process.

**Exact.** Instants are whole nanoseconds and weights whole billionths of a token, so ten times 0.1
is 1, and at 10 per second a call each 0.1 s is admitted 1000 times out of 1000. A timer that wakes
late is paid back up to 5 ms, so that the long-run rate does not sag; after a blocked event loop the
schedule shifts, it does not burst. A sliding window is exact with up to 1,000 calls inside; beyond
that it merges those within a thousandth of the period, never admitting early, at the price of at
most a thousandth of the rate, and its memory stays bounded.

**Clocks.** The monotonic clock; the event loop is trusted to go as it does, and nothing is polled.
Under freezegun, and when a clock steps back, time stands still rather than minting tokens. *timer*
takes a clock of the user's, which is looked at every 0.1 s while callers wait for time or have a
timeout: it may jump, go at another speed, or count while the machine sleeps, as ``lambda:
time.clock_gettime(time.CLOCK_BOOTTIME)`` does on Linux.

**One event loop at a time.** A throttle may be made at import and used in one `asyncio.run` after
another; the level goes on. Two loops whose callers would have to queue together get a RuntimeError.
It is not thread-safe, like all of asyncio's primitives; where loops and threads share one, take
`async_throttle.threads.Throttle`. (A slot that is released, or a setting that is changed, in
another thread reaches callers that wait in the loop all the same.) uvloop, Pyodide, Jupyter,
nest_asyncio, qasync, rloop, trio-asyncio and gevent beside a loop are tested where they can be had.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, Self, TypeVar, cast, overload

from async_throttle._base import BaseThrottle, core_of
from async_throttle._decorator import is_to_be_decorated, within
from async_throttle._engine.lane import Receipt
from async_throttle._shell import fast
from async_throttle._shell.core import Core, checked_priority, one_too_many
from async_throttle._shell.count import know
from async_throttle._shell.fast import NOTHING, UNIT, FastFlight, FastLease, FastThrottle
from async_throttle._shell.lease import BaseLease, Blocks, release, settle
from async_throttle._shell.loop import LoopScheduler, drained, wait, wait_for_unit
from async_throttle._shell.scheduler import find
from async_throttle._shell.states import FRESH
from async_throttle._shell.waiting import Option, note
from async_throttle._units import shown, tokens

if TYPE_CHECKING:
    from async_throttle._shell.flights import Flights, Grip
    from async_throttle._shell.following import Measure
    from async_throttle._shell.quick import QuickBlocks
    from async_throttle.adaptive import Outcome

__all__ = ["Lease", "Throttle"]

P = ParamSpec("P")
R = TypeVar("R")


class Throttle(FastThrottle, BaseThrottle):
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
    - Its quota is reset by the clock, at full minutes or at midnight somewhere: `ClockWindow`.

    `guarantee()` gives the number for each. `FixedWindow` opens with its first call, is over
    *period* later, and may let through twice the capacity across an edge; take it only to
    imitate.

    Guarantees. Callers go in order of arrival; a heavy one is not starved by light ones.
    Tokens, slot and pause are granted together: who waits holds nothing. A call that is
    cancelled before it starts leaves no trace. A refusal changes nothing.

    Not thread-safe, like all of asyncio's primitives. It may be used in one event loop after
    another, and made where no loop runs.

    Args:
        capacity: tokens per *period*; math.inf is no rate limit.
        concurrency: callers that may hold a slot at once; 0 is no limit. A slot comes back when
            its block ends. If the block is cancelled while it waits for ``asyncio.to_thread``, the
            thread goes on without one: take the slot in the thread, of a `threads.Throttle`.
        period: seconds, rounded to whole nanoseconds. With `ClockWindow` also ``"day"``,
            ``"week"`` or ``"month"``.
        burst: most tokens that may go at once. Unset, it is ``max(1, capacity)`` and follows
            *capacity* (1 for `LeakyBucket`). The windows have none.
        algorithm: a rule class (`TokenBucket`, `GCRA`, `LeakyBucket`, `SlidingWindow`,
            `FixedWindow`, `ClockWindow`, or one of your own), a configured
            ``ClockWindow(tz=...)``, or a member of `RateLimitAlgorithm`.
        initial: tokens at the start; unset, as many as there can be.
        max_waiting: most callers that may queue; the next one is refused at once.
        timer: a clock in seconds; unset, the monotonic clock. One that does not show what the
            event loop's clock does is looked at every 0.1 s while somebody waits.
        name: what errors and repr call it; with *store*, the key of the limit there.
        adapt: lets a limit follow the server, by how the calls end: `AIMD` and `Gradient` set
            *concurrency*, `BackOff` sets *capacity*, within their bounds and from where these
            are (`Gradient` lowers it first, to measure). What is learnt from are blocks and
            leases; `acquire` with `release` tells nothing of how it went.
        counts: ``"start"``: a call counts from its grant on. ``"end"``: it is taken from its grant
            to its end, and the refill, or the period, starts at its end; see below.
        linger: seconds for which a call is still in flight that was cut short; see below.
        longest: seconds after which a body is waited for no longer, and counts as ended, with one
            warning; None is as long as it takes. Unset, a period, and a minute at least.
        store: where the limit lives, if processes share it: a `stores.SQLiteStore`, `RedisStore`,
            `RayStore`, or one of your own. All that give it the same *name* there share it. Each
            process has its own queue. `level`, `delay()` and `locked()` go by what the store said
            last. Not with *timer*, *adapt*, or a rule of your own. See `stores`.

    Counting to the end. A server counts a call when the call arrives, and calls do not travel
    equally long; so a throttle that counts from the grant on is refused by its exact twin. With
    ``counts="end"`` it never is, whatever the network does: the server has counted the call no
    later than its answer came, and counts the next no earlier than that is sent. It needs no slack;
    why it is right is told in `rules/ends.py`.

    - The *end* is that of the block, `Lease.release()`, or `Lease.ended()` where the answer is
      there before the block ends. `release()` after `acquire()` does not say which call has ended:
      the lightest in flight counts as ended, which is never too early. `acquire()` has to be
      released without *concurrency* too. A lease that is dropped has ended, and so have the calls
      of an event loop that was closed.
    - `level` is what is left less what is in flight. What only an end can bring has no instant: no
      timer is set for that, and `delay()` is as if all calls in flight ended now.
    - A body that ends by CancelledError or TimeoutError was cut short: its call may still be on its
      way. It stays in flight for as long as the slowest of the last 64 calls that ended well, a
      second at least and a period at most, or for *linger*. Its slot is free at once.
    - A task waits for ever for a call that it is in itself: where its own calls in flight leave no
      room for the next one, that is a RuntimeError. Say ``lease.ended()`` first. A call is that of
      the task that was granted it: ask in the task that makes the call, not on behalf of others.
    - The price: a call costs its duration. In flight and per period there is at most *capacity*
      (bucket: *burst*), so calls of 30 s go at 10 per 31 s under ``Throttle(10, counts="end")``. At
      least *capacity* goes per period and longest call, or *burst* per time to fill it and longest
      call; less the largest weight where weights differ.
    - Clocks drift: for quotas of an hour and longer take ``period * (1 + 1e-4)``, or `ClockWindow`.

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

    __module__ = "async_throttle"

    __slots__ = ()

    _scheduler = LoopScheduler
    _to_the_end: ClassVar[type[Throttle]]

    # -- entering and leaving -----------------------------------------------------------

    def _enter_slowly(self) -> types.CoroutineType[Any, Any, None]:
        entry: Any
        if self._core.flights is not None:
            entry = FastFlight.__aenter__(self)
        elif self._blocks is not None:
            if fast.enter_block(self._core, self._blocks):
                return NOTHING
            entry = self._enter_measured(self._blocks)
        else:
            core = self._core
            scheduler = core.scheduler
            if core.plain and core.state is None:
                core.reopen()
            if scheduler.quiet and scheduler.grab(core.lane, UNIT) is not None:
                return NOTHING
            entry = wait_for_unit(core)
        coroutine: types.CoroutineType[Any, Any, None] = entry
        return coroutine

    async def _enter_measured(self, blocks: Blocks) -> None:
        """Enter a plain block whose call is measured: it needs a lease that knows when it began."""
        lease = await self.lease()
        try:
            blocks.enter(lease)
        except BaseException:
            blocks.undo(lease)
            raise

    def _enter_to_the_end(self) -> types.CoroutineType[Any, Any, None]:
        """Enter a plain block of a throttle that counts to the end, where no shortcut leads."""
        core = self._core
        scheduler: Any = find(core)
        flights, blocks = cast("Flights", core.flights), cast("QuickBlocks", self._blocks)
        again = scheduler.aloft.armed not in (None, flights)
        scheduler.last()
        if flights.bucket is None:
            again = True
            flights.rule.elapse(scheduler.clock.seen)
            core.reopen()
        loop = asyncio._get_running_loop()
        if loop is not scheduler.loop and not scheduler.queue.waiting and not scheduler.handed_over:
            scheduler.bind(loop, core)
        if again or blocks.loop is not scheduler.loop:
            blocks.loop = scheduler.loop
            if fast.enter_after_all(flights):
                return NOTHING
        entry: Any = self._enter_measured(blocks)
        coroutine: types.CoroutineType[Any, Any, None] = entry
        return coroutine

    def _exit_slowly(self, error: BaseException | None, left: list[Any]) -> None:
        """A block that is measured ends."""
        core, blocks = self._core, self._blocks
        if core.flights is not None:
            core.flights.write_out_own()
        if blocks is None or not fast.leave_block(core, blocks, error, left):
            leave_block(core, blocks, error, left)

    def _exit_again(
        self, late: BaseException, error: BaseException | None, left: list[Any]
    ) -> None:
        if self._core.flights is not None and not left:
            self._core.flights.write_out_own()
        leave_block_again(self._core, self._blocks, late, error, left)

    @overload
    def __call__(
        self, func: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, weight: float = 1, *, timeout: float | None = None, priority: int = 0
    ) -> Lease: ...
    def __call__(self, weight: Any = 1, *, timeout: float | None = None, priority: int = 0) -> Any:
        """A call that weighs *weight*: ``async with throttle(5) as lease:``.

        The result may be kept and entered many times, also by many tasks at once: the first
        entry is its own lease, later ones get a fresh one. It is a decorator too, as is the
        throttle itself, with a weight of 1::

            @throttle
            async def ping() -> None: ...

            @throttle(5)
            async def fetch(url: str) -> bytes: ...

        Args:
            weight: tokens to take; 0 takes none, but queues, and waits until a debt is paid.
            timeout: seconds to wait at most; see `acquire`.
            priority: lower goes first; see `acquire`.
        """
        if weight.__class__ is not int and is_to_be_decorated(weight):
            return Lease._of(self, 1, timeout, priority)(weight)
        lease = _new(Lease)
        core = self._core
        lease._throttle = self
        lease._core = core
        lease._timeout = timeout
        lease._state = FRESH
        lease._epoch = fast.EPOCH
        lease.weight = weight
        if priority:
            lease._priority = checked_priority(priority)
        if core.calls is not None and weight != 1:
            know(core, (lease,))
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
                arrival. The class that better ones have overtaken most often, and 32 times in
                a row at least, has a turn; then at least 32 calls go by rank again. So the
                worst class is never starved, and all of them share a thirty-third. Of three
                classes that always wait the best gets 32 of 33 grants. Sets, pools and threads
                take the same keyword.

        Returns:
            True.

        Raises:
            WeightTooLarge: *weight* exceeds the burst. Nothing was taken, as always.
            ThrottleTimeout: not within *timeout*.
            ThrottleFull: *max_waiting* callers wait already.
            ThrottleClosed: the throttle was closed.
            ValueError: *weight* is negative, infinite or not a number, or *priority* not whole.
            RuntimeError: callers of another running event loop wait already.

        >>> import asyncio
        >>> from async_throttle import testing
        >>> async def main():
        ...     throttle = Throttle(1, period=10)
        ...     async def search(who: str, priority: int = 0) -> None:
        ...         await throttle.acquire(priority=priority)
        ...         print(who)
        ...     batch = [search("nightly job", priority=1) for _ in range(3)]
        ...     await asyncio.gather(*batch, search("a user"))
        >>> testing.run(main())
        nightly job
        a user
        nightly job
        nightly job
        """
        core = self._core
        if weight != 1 or priority:
            await wait(core, (core.option(weight, priority),), timeout, core.flights)
        elif not fast.take_one(core):
            await wait_for_unit(core, timeout)
        return True

    async def lease(
        self, weight: float = 1.0, *, timeout: float | None = None, priority: int = 0
    ) -> Lease:
        """Like `acquire`, for a `Lease`: what was taken, to be settled and released."""
        lease = self(weight, timeout=timeout, priority=priority)
        return await lease._lease_async()

    async def consume(
        self, weight: float = 1.0, *, timeout: float | None = None, priority: int = 0
    ) -> None:
        """Wait for *weight* tokens and take them; no slot, nothing to release.

        For use inside a body as well: it goes in order of arrival among those who wait for
        tokens, but never waits behind a caller that lacks a slot, or waits for the end of a call.
        These tokens have no end: where calls count to the end they count at once, and with that
        the promise ends that no call is refused.

        Raises:
            WeightTooLarge: as `acquire` does; and its other errors too.
        """
        core = self._core
        await wait(core, (core.tokens_option(weight, priority),), timeout)

    async def refresh(self) -> None:
        """Ask the store how the limits stand, if they live in one: see *store*.

        Raises:
            StoreUnavailable: the store is away.
        """
        await find(self._core).ask_store_later()

    async def drain(self) -> None:
        """Wait until nobody waits or holds a slot."""
        await drained(self._core, self._core.occupied)


class ThrottleToTheEnd(FastFlight, Throttle):
    """What a throttle becomes that counts calls to their ends: it has an entry of its own.

    So the entry of the others does not look for that.
    """

    __module__ = "async_throttle"
    __qualname__ = "Throttle"

    __slots__ = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Whoever asks for one of this class asks for a throttle, of whatever kind."""
        return Throttle(*args, **kwargs)


ThrottleToTheEnd.__name__ = "Throttle"
Throttle._to_the_end = ThrottleToTheEnd


def leave_block(
    core: Core, blocks: Blocks | None, error: BaseException | None, done: list[bool]
) -> None:
    """A plain block of a throttle ends, with *error*; *done* is filled once nothing can be lost.

    Without a block a slot of `acquire` comes back: ``stack.push_async_exit(throttle)``.
    """
    if not blocks:
        core.release(done)
    else:
        left: list[Any] = []
        try:
            left.append(blocks.leave())
            done.append(True)
            left[0]._exit(error)
        except BaseException:
            lease = left[0] if left else blocks.leave()
            done.append(True)
            release(lease, error)
            raise


def leave_block_again(
    core: Core,
    blocks: Blocks | None,
    late: BaseException,
    error: BaseException | None,
    done: list[bool],
) -> None:
    """`leave_block` was cut short by *late*: finish it. A clock that failed hides no *error*."""
    if not done:
        if not blocks:
            core.release(done)
        else:
            release(blocks.leave(), error)
    try:
        if error is None or not isinstance(late, Exception):
            raise late
        note(error, "the block", late)
    finally:
        del late, error  # or they and their tracebacks would keep each other


class Lease(FastLease, BaseLease):
    """What a granted call holds: its tokens, to be settled, and a slot, to be released.

    Made by ``throttle(weight)``, for ``async with`` and as a decorator, and by
    ``await throttle.lease(weight)``.

    Attributes:
        weight: tokens that were asked for.
        waited: seconds from the arrival to the grant.
    """

    __module__ = "async_throttle"

    # _throttle whose lease it is: kept, so that a table of throttles keeps it too
    # _receipt  of the rule, for the tokens taken; unset before the grant
    # _grip     of the flight, where calls count to the end; unset without, and before the grant
    # _settled  tokens taken, as settled so far; unset before the grant
    # _debts    (receipt, nanotokens) taken by settling above the weight, the latest last;
    #           unset without
    # _measure  what an adaptive limit is to learn from the call; unset without, and once told
    # _priority unset if it is the usual one
    __slots__ = (
        "_core",
        "_debts",
        "_grip",
        "_measure",
        "_priority",
        "_receipt",
        "_settled",
        "_throttle",
        "weight",
    )

    _throttle: BaseThrottle
    _core: Core
    _receipt: Any
    _settled: Any
    _debts: list[tuple[Any, int]]
    _grip: Grip
    _measure: Measure
    _priority: int
    weight: float

    @classmethod
    def _of(
        cls, throttle: BaseThrottle, weight: float, timeout: float | None, priority: int
    ) -> Self:
        """A call of *throttle* that has not begun."""
        lease = object.__new__(cls)
        lease._throttle = throttle
        core = lease._core = core_of(throttle)
        lease._timeout = timeout
        lease._state = FRESH
        lease._epoch = fast.EPOCH
        lease.weight = weight
        if priority:
            lease._priority = checked_priority(priority)
        if core.calls is not None and weight != 1:
            know(core, (lease,))
        return lease

    @property
    def throttle(self) -> BaseThrottle:
        """Which throttle it is that was asked."""
        return self._throttle

    def ok(self) -> None:
        """The call went well, and is over as far as the server is concerned.

        For a throttle that adapts; it means nothing to others. A block says by itself how it
        ends: well, or by an exception that `Adaptive.judge` knows. This is for what exceptions
        do not tell, for leases without a block, and for a block that does more than the call.
        The first word counts. The slot is held until it is released.

        Raises:
            RuntimeError: nothing was granted yet.
        """
        self._tell("ok")

    def ignore(self) -> None:
        """The call says nothing about the server: it failed here, or never got there. See `ok`."""
        self._tell("ignored")

    def dropped(self) -> None:
        """The server refused the call, or did not answer in time. See `ok`."""
        self._tell("dropped")

    def ended(self) -> None:
        """The call has ended: its answer is there, though the block goes on.

        For a throttle that counts calls to the end; it means nothing to others. The slot is held
        until it is released. A second time does nothing. It may be called anywhere: in callbacks,
        in other threads, in finalizers.

        Raises:
            RuntimeError: nothing was granted yet.
        """
        self._check_granted()
        if hasattr(self, "_grip"):
            self._grip.end()

    def _tell(self, outcome: Outcome | str) -> None:
        self._check_granted()
        measure = getattr(self, "_measure", None)
        if measure is None:
            return
        try:
            del self._measure
        except AttributeError:  # another thread tells how the call went
            return
        measure.end(outcome, self._settled)

    def _judge(self, error: BaseException | None) -> None:
        measure = getattr(self, "_measure", None)
        if measure is not None:  # nobody has said how the call went
            self._tell(measure.judge(error))

    def _settle_slowly(self, actual: float) -> None:
        amount = tokens("actual", actual)
        self._check_granted()

        def change(now: int) -> None:
            if self._epoch != fast.EPOCH:
                return
            if not hasattr(self, "_debts"):
                self._debts = []
            before = self._settled
            if self._core.flights is not None:
                self._grip.settle(self._core.rule, now, amount)
                self._settled = actual
                self._core.tell("settle", actual)
                return
            more = amount - tokens("weight", before)
            if more < 0:
                self._settled = actual  # before: what is interrupted gives back too little
            try:
                find(self._core).queue.touched(self._core.rule)
                settle(self._core.rule, now, self._receipt, self._debts, more)
            except Exception:
                self._settled = before
                raise
            self._settled = actual
            self._core.tell("settle", actual)

        find(self._core).do(change)

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
            f"<async_throttle.Lease of {shown(self.weight)} [{self._state.told}] "
            f"of {self._throttle!r}>"
        )

    if TYPE_CHECKING:

        async def __aenter__(self) -> Self: ...

    # -- what is asked for, and held ----------------------------------------------------

    def _whom(self) -> Core:
        return self._core

    def _options(self) -> Sequence[Option]:
        return (self._core.option(self.weight, getattr(self, "_priority", 0)),)

    def _twin(self) -> Self:
        priority = getattr(self, "_priority", 0)
        return self._of(self._throttle, self.weight, self._timeout, priority)

    def _hold(
        self, receipts: list[Receipt], waited: int, option: Option, spans: list[int] | None
    ) -> None:
        rule, _, receipt = receipts[-1]
        self._receipt = receipt if rule is self._core.rule else None
        self._settled = self.weight
        core = self._core
        if core.following is not None:
            self._measure = core.following.measure(core)
        if core.flights is not None:
            self._grip = core.flights.grip(core)
            self._grip.hold(core.flights, receipts[-1], find(core).queue.now)
        super()._hold(receipts, waited, option, spans)

    def _give_back(self, now: int, error: BaseException | None) -> bool:
        core = self._core
        ends = core.rule.wants_ends or core.flights is not None
        find(core).queue.touched(*((core.slots, core.rule) if ends else (core.slots,)))
        if core.flights is not None:
            self._grip.finish(now, error)
        if core.slots.used <= 0:
            return False
        core.slots.free += 1
        return True

    def _one_too_many(self) -> ValueError:
        return one_too_many(self._core)

    def _in_flight(self, core: Core) -> tuple[int, int]:
        if core is not self._core or not self._holds():
            return 0, 0
        if core.flights is not None:
            return 1, self._grip.flying(core.rule)
        return 1, tokens("weight", self._settled)

    def _released(self) -> None:
        core, rule = self._core, self._core.rule
        core.tell("release", self)
        if rule.wants_ends:
            rule.ended(find(core).queue.now, self._receipt, tokens("weight", self._settled))


_new = cast(Callable[[type[Lease]], Lease], object.__new__)
