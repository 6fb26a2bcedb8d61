"""What every throttle is, however its callers wait: its limits, what can be seen and changed."""

from __future__ import annotations

import math
import os
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from async_throttle._engine.forecast import amid_an_event, quote, would_wait
from async_throttle._shell import fast
from async_throttle._shell.core import UNIT, Core, burst_of, period_of, slots_of
from async_throttle._shell.count import Count
from async_throttle._shell.fast import NOTHING
from async_throttle._shell.lease import BaseLease, Blocks
from async_throttle._shell.loop import LoopScheduler
from async_throttle._shell.readings import told
from async_throttle._shell.scheduler import find
from async_throttle._shell.single import Single
from async_throttle._shell.thread import ThreadScheduler
from async_throttle._shell.waiting import Attempt
from async_throttle._units import NEVER, SECOND, TOKEN, nanoseconds, positive, seconds, tokens
from async_throttle.rules import Rule
from async_throttle.rules.algorithm import RateLimitAlgorithm, configured
from async_throttle.rules.bucket import TokenBucket
from async_throttle.rules.slots import UNLIMITED

if TYPE_CHECKING:
    from datetime import timedelta
    from types import EllipsisType

    from async_throttle.adaptive import Adaptive
    from async_throttle.rules.clock import ClockWindow
    from async_throttle.statistics import Statistics
    from async_throttle.stores import Store

__all__ = ["BaseLimiter", "BaseThrottle", "core_of", "known_apart"]


class BaseLimiter(Single):
    """What has a core that decides who goes next: a throttle, a set, or a pool."""

    # _blocks   what plain blocks hold, by task or thread; None where that need not be known
    # _core     what is behind this face
    __slots__ = ("__weakref__", "_blocks", "_core")

    _core: Any

    def _known_apart(self, since: int) -> bool:
        """Whether anybody knows a part of it that is no older than *since*, but for itself."""
        return False


class Told(BaseLimiter):
    """A throttle that is told, once it is known, how much calls and others have used."""

    __slots__ = ()

    _core: Core

    def charge(self, weight: float) -> None:
        """Take *weight* tokens now, unasked and into debt if need be.

        For usage that is learnt afterwards, from a response. Later callers wait it out.
        """
        core, amount = self._core, tokens("weight", weight)
        find(core).do(lambda now: core.charge(now, amount))

    def sync(
        self,
        *,
        remaining: float | None = None,
        used: float | None = None,
        limit: float | None = None,
        reset: float | None = None,
        shared: bool = False,
        lease: BaseLease | None = None,
        at: float | None = None,
    ) -> None:
        """Take note of what the server says of its own count, as answers do in their headers.

        Others may have used the quota: the level is lowered to what is left, and never raised.
        Call it for each answer; it waits for nothing. A call that is settled later gives back no
        more than leaves a bucket at *remaining*.

        With *shared* it is lowered to what will be left once the calls in flight are counted as
        well: those that hold a slot, with the weights of their leases. (What has none, a plain
        block, or `acquire` until its `release`, counts as 1.) That costs throughput where nobody
        else uses the quota. The first time, all objects of the process are searched for leases.

        Without *remaining* and *used*, or without a rate, nothing happens. A reading that is void
        is ignored, and counted in `Statistics.ignored`: with a number that is negative, infinite,
        no number, a bool, or above 1e15; with a *reset* that has passed; read before one that was
        heard, or in the future.

        Args:
            remaining: tokens that the server has left; it goes before *used*.
            used: tokens that it has counted, of *limit*; of *capacity* if that is not said.
            limit: nothing else follows from it.
            reset: seconds after which a window forgets what was lowered: when that of the server
                is over. Unset, a period; a `ClockWindow` forgets at its edge, a bucket never.
            shared: whether others use the quota as well.
            lease: of the call whose answer this is, which is in flight no more.
            at: when the answer was read, by `time.monotonic` or *timer*; unset, now.

        Raises:
            TypeError: something is of another type; names the parameter and the value.

        >>> from async_throttle.threads import Throttle
        >>> throttle = Throttle(100, period=86_400)
        >>> with throttle(10) as first, throttle(20):
        ...     throttle.sync(remaining=50, shared=True, lease=first)
        >>> round(throttle.level)
        30
        """
        Count(remaining, used, limit, reset, shared, lease, at).tell(self._core)


class BaseThrottle(Told):
    """What a `Throttle` and an `async_throttle.threads.Throttle` have in common.

    A rate and a number of slots, with all that can be asked of them without waiting.
    """

    __module__ = "async_throttle"

    __slots__ = ()

    _scheduler: ClassVar[type[LoopScheduler] | type[ThreadScheduler]]

    def __init__(
        self,
        capacity: float,
        concurrency: int = 0,
        period: float | Literal["day", "week", "month"] = 1.0,
        *,
        burst: float | None = None,
        algorithm: type[Rule] | ClockWindow | RateLimitAlgorithm = TokenBucket,
        initial: float | None = None,
        max_waiting: int | None = None,
        timer: Callable[[], float] | None = None,
        name: str | None = None,
        adapt: Adaptive | None = None,
        counts: Literal["start", "end"] = "start",
        linger: float | None = None,
        longest: float | EllipsisType | None = ...,
        store: Store | None = None,
    ) -> None:
        if store is not None:
            check_shared(timer, adapt, name)
        if timer is not None and not callable(timer):
            raise TypeError(f"timer must be callable, got {timer!r}")
        rule = configured(algorithm)
        ends = ends_of(counts, linger, longest, rule)
        core = self._core = Core(
            type(self).__qualname__,
            type(self)._scheduler(timer),
            rule,
            capacity,
            concurrency,
            period,
            burst,
            initial,
            max_waiting,
            name,
            to_the_end=ends is not None,
            store=store,
        )
        if core.account is not None:
            core.account.origin = type(self), os.urandom(8).hex()
            core.account.made = {
                "capacity": capacity,
                "concurrency": concurrency,
                "period": period,
                "burst": burst,
                "algorithm": algorithm,
                "initial": initial,
                "max_waiting": max_waiting,
                "name": name,
                "counts": counts,
                "linger": linger,
                "longest": longest,
                "store": store,
            }
        self._blocks: Blocks | None = None
        if ends is not None:
            from async_throttle._shell.flights import watch  # most calls count from the start

            self._blocks = watch(core, *ends)
            self.__class__ = type(self).__dict__.get("_to_the_end", type(self))
        if adapt is not None:
            from async_throttle._shell.following import Following  # most limits are fixed

            core.following = Following(core, adapt, concurrency)
            self._blocks = Blocks() if ends is None else self._blocks
            core.reopen()

    def release(self) -> None:
        """Give one slot back; the tokens stay spent.

        Raises:
            ValueError: nobody holds one.
        """
        core = self._core
        done: list[bool] = []
        try:
            if not fast.give_one(core):
                core.release(done)
        except BaseException as late:
            core.release_again(done, late)
            raise

    def try_acquire(self, weight: float = 1.0, *, priority: int = 0) -> bool:
        """Take *weight* tokens and a slot if that is possible now and overtakes nobody.

        Raises:
            WeightTooLarge: as `acquire` does; ThrottleClosed and ValueError too.
        """
        core = self._core
        if weight == 1 and not priority and fast.take_one(core):
            return True
        option = core.option(weight, priority)
        return find(core).seize(Attempt((option,), None, core.flights))

    def try_consume(self, weight: float = 1.0, *, priority: int = 0) -> bool:
        """Take *weight* tokens if that is possible now: no slot, nothing to release.

        It overtakes no waiter but those that lack a slot.

        Raises:
            WeightTooLarge: as `acquire` does; ThrottleClosed and ValueError too.
        """
        core = self._core
        option = core.tokens_option(weight, priority)
        return find(core).seize(Attempt((option,), None, None))

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
        core, span = self._core, nanoseconds("seconds", seconds)
        find(core).do(lambda now: core.hold(now, span, empty))
        return NOTHING

    def resume(self) -> None:
        """End a pause now."""
        find(self._core).do(self._core.resume)

    def close(self, *, drop_waiting: bool = True) -> None:
        """Refuse newcomers with `ThrottleClosed`; holders finish.

        Args:
            drop_waiting: fail those who are queued as well; else they still go.
        """
        core = self._core
        find(core).do(lambda now: core.close(now, drop_waiting))

    # -- looking ------------------------------------------------------------------------

    def locked(self) -> bool:
        """True if `acquire()` would not be granted at once."""
        core = self._core

        def question(now: int) -> bool:
            scheduler = find(core)
            return (
                core.closed
                or scheduler.behind()
                or core.rule.burst < TOKEN
                or would_wait(scheduler.queue, core.lane, UNIT)
            )

        return find(core).ask(question, lambda now: True)

    def delay(self, weight: float = 1.0, *, priority: int = 0) -> float:
        """Seconds until *weight* could be granted, counting everyone ahead; 0.0 is now.

        A lower bound where a slot is what is missing. Changes nothing. O(1) for buckets. For
        windows, and where priorities or sets of limits are in play, what is to happen to all
        waiters is played through, and kept for the next question. Asked while the throttle is at
        work, from a signal handler or a finalizer, it counts the callers of this throttle alone,
        and not those of sets.

        Raises:
            WeightTooLarge: as `acquire` would; ThrottleFull, ThrottleClosed and ValueError too.
        """
        core = self._core
        option = core.option(weight, priority)
        core.check(option.weights)

        def question(now: int) -> int:
            queue = find(core).queue
            wait = quote(queue, option.lane, option.weights)[0] - now
            full = core.crowded(option.weights)
            if full is not None and not queue.can_take(option.lane, option.weights):
                raise core.refusal_full(full, wait)
            return wait

        def inside(now: int) -> int:
            """Where somebody is at work: as of the last event."""
            return amid_an_event(find(core).queue, now, option.lane, option.weights)[0] - now

        return seconds(find(core).ask(question, inside))

    def guarantee(self, window: float) -> float:
        """The most weight that can be admitted in any half-open window of *window* seconds.

        Buckets: ``burst + capacity / period * window``. Sliding window: ``capacity *
        ceil(window / period)``. Fixed window: one capacity more. Without a rate: infinity.
        Debt knowingly taken comes on top; so do, in real time, 5 ms of lateness paid back.

        >>> from async_throttle import LeakyBucket, SlidingWindow, Throttle
        >>> Throttle(20).guarantee(1.0)  # 20 at once, then 20 more: in whole calls 39
        40.0
        >>> Throttle(20, burst=5).guarantee(1.0)
        25.0
        >>> Throttle(20, algorithm=SlidingWindow).guarantee(1.0)
        20.0
        >>> Throttle(20, algorithm=LeakyBucket).guarantee(1.0)
        21.0
        >>> Throttle(500, period=60, burst=50).guarantee(60)
        550.0
        """
        span = nanoseconds("window", window)
        if span == 0:
            raise ValueError(f"window must be positive, got {window!r}")
        return math.inf if span >= NEVER else self._core.rule.guarantee(span) / TOKEN

    @property
    def level(self) -> float:
        """Tokens left now; negative in debt, infinite without a rate."""
        return find(self._core).ask(self._core.rule.level, self._core.level)

    @property
    def active(self) -> int:
        """Slots held."""
        return find(self._core).ask(lambda now: self._core.active())

    @property
    def waiting(self) -> int:
        """Callers that are queued, alone or for other limits as well."""
        return find(self._core).ask(lambda now: self._core.waiting())

    @property
    def paused_for(self) -> float:
        """Seconds until the pause ends; 0.0 if there is none."""
        return seconds(find(self._core).ask(self._core.pause.left))

    def statistics(self) -> Statistics:
        """A snapshot: how things stand, and what became of calls that were not granted at once.

        Calls that never waited cost nothing more, and are not counted.
        """
        from async_throttle.statistics import read  # most programs never ask

        return find(self._core).ask(lambda now: read(self._core, now))

    @property
    def store(self) -> Store | None:
        """Where the limits live, if that is not this process."""
        account = self._core.account
        return None if account is None else account.store

    def __reduce_ex__(self, protocol: Any) -> Any:
        account = self._core.account
        if account is None:
            return super().__reduce_ex__(protocol)
        _here.setdefault(account.origin, self)
        return made_again, (account.origin, account.made)

    @property
    def name(self) -> str | None:
        """What errors and repr call it."""
        return self._core.name

    @property
    def algorithm(self) -> type[Rule]:
        """The rule class."""
        return self._core.rule.kind

    @property
    def max_waiting(self) -> int | None:
        """Most callers that may queue; None is no bound."""
        return self._core.max_waiting

    @property
    def adapt(self) -> Adaptive | None:
        """What sets a limit by how calls end, with all that it knows; None: they are fixed."""
        following = self._core.following
        return None if following is None else following.law

    def __repr__(self) -> str:
        return told(self._core, id(self))

    # -- changing the limits ------------------------------------------------------------

    @property
    def capacity(self) -> float:
        """Tokens per period. Setting it re-plans everybody at once; the level stays.

        >>> import asyncio
        >>> from async_throttle import Throttle, testing
        >>> async def main():
        ...     throttle = Throttle(1, period=60)
        ...     await throttle.acquire()
        ...     waiting = asyncio.create_task(throttle.acquire())
        ...     await asyncio.sleep(1)
        ...     throttle.capacity = 60  # as the server's headers say
        ...     await waiting
        ...     return round(asyncio.get_running_loop().time(), 2)
        >>> testing.run(main())
        1.98
        """
        return self._core.rule.capacity / TOKEN

    @capacity.setter
    def capacity(self, value: float) -> None:
        core = self._core
        capacity = positive("capacity", value, infinite=True)
        if core.following is not None:
            core.following.check("capacity", capacity)
        self._configure(lambda: (capacity, core.rule.period, core.burst))

    @property
    def period(self) -> float:
        """Seconds in which *capacity* tokens come back. Setting it re-plans everybody."""
        return self._core.rule.period / SECOND

    @period.setter
    def period(self, value: float | Literal["day", "week", "month"]) -> None:
        core, period = self._core, period_of(value, self._core.rule)
        self._configure(lambda: (core.rule.capacity, period, core.burst))

    @property
    def burst(self) -> float:
        """Most tokens that may go at once. Setting it cuts the level; None unsets it.

        Whoever waits for more than the new burst fails with `WeightTooLarge`.
        """
        return self._core.rule.burst / TOKEN

    @burst.setter
    def burst(self, value: float | None) -> None:
        core = self._core
        self._configure(lambda: (core.rule.capacity, core.rule.period, value), anew=False)

    def _configure(
        self, wanted: Callable[[], tuple[int | float, int, float | None]], *, anew: bool = True
    ) -> None:
        """Have the *wanted* rate; what follows how calls end begins *anew* from there."""
        core = self._core
        capacity, period, burst = wanted()
        twin = core.rule.fork()  # raises here, before anything is changed
        twin.configure(find(core).queue.now, capacity, period, burst_of(burst, capacity))

        def change(now: int) -> None:
            core.configure(now, *wanted())
            if anew and core.following is not None:
                core.following.begin_anew(core, now, "capacity")

        find(core).do(change)

    @property
    def concurrency(self) -> int:
        """Slots; 0 is no limit. When it shrinks, holders finish and nobody new enters.

        Fewer may be had for a while, after a refusal by a server, or where its window is nearly
        used up: see `async_throttle.http.Learner`. ``repr()`` tells how many.
        """
        core = self._core
        limit = core.slots.burst if core.following is None else core.slots.limit
        return 0 if limit == UNLIMITED else limit

    @concurrency.setter
    def concurrency(self, value: int) -> None:
        core, limit = self._core, slots_of(value)
        following = core.following
        if following is None or not following.steers("concurrency"):
            find(core).do(lambda now: core.resize(limit))
        else:
            following.check("concurrency", 0 if limit == UNLIMITED else limit)
            find(core).do(lambda now: following.begin_anew(core, now, "concurrency", limit))


def check_shared(timer: object, adapt: object, name: str | None) -> None:
    """Refuse what does not go with a store."""
    if name is None or not name:
        raise ValueError(f"name must be given with a store, as the key of the limit, got {name!r}")
    if timer is not None:
        raise ValueError(f"timer must be left out with a store, which has a clock, got {timer!r}")
    if adapt is not None:
        raise ValueError(f"adapt must be left out with a store, got {adapt!r}")


Origin = tuple[type[Any], str]
"""By what a throttle is known that is pickled: its class, as it was called, and a random text."""

_here: weakref.WeakValueDictionary[Origin, BaseThrottle] = weakref.WeakValueDictionary()
"""The throttles of this process that were pickled, or came by pickle, by their origins."""

_latest: OrderedDict[Origin, BaseThrottle] = OrderedDict()
"""Those that came by pickle last: each task of a pool of processes brings its throttle along, and
one that was forgotten in between would be another session of the store each time."""

MOST: Final = 256
"""Throttles that are kept as such."""


def made_again(origin: Origin, made: dict[str, Any]) -> Any:
    """A throttle that was pickled: the same quota, as it lives in a store.

    In each process it is one object, however often it comes there.
    """
    found = _here.get(origin)
    if found is None:
        made_here = origin[0](**made)
        made_here._core.account.origin = origin
        found = _here.setdefault(origin, made_here)
        _latest[origin] = found
        if len(_latest) > MOST:
            _latest.popitem(last=False)
    return found


def ends_of(
    counts: object, linger: float | None, longest: Any, rule: type[Rule] | ClockWindow
) -> tuple[int | None, Any] | None:
    """*linger* and *longest* in nanoseconds; None if calls count from the start.

    Raises:
        ValueError: a parameter is out of range, or calls of *rule* cannot count to the end.
    """
    if counts == "start" and linger is None and longest is ...:
        return None
    if counts not in ("start", "end"):
        raise ValueError(f"counts must be 'start' or 'end', got {counts!r}")
    spans: dict[str, Any] = {"linger": linger, "longest": longest}
    for name, value in spans.items():
        if value is not None and value is not ...:
            span = spans[name] = nanoseconds(name, value)
            if span >= NEVER or (not span and name == "longest"):
                least = "positive and finite; None is no bound" if name == "longest" else "finite"
                raise ValueError(f"{name} must be {least}, got {value!r}")
    if counts == "start":
        return None
    from async_throttle.rules.ends import check_counted_to_end

    check_counted_to_end(rule if isinstance(rule, type) else type(rule))
    return spans["linger"], spans["longest"]


def known_apart(limiter: BaseLimiter, since: int) -> bool:
    """Whether anybody knows a part of *limiter* that is no older than *since*, but for itself."""
    return limiter._known_apart(since)


def core_of(throttle: Any) -> Core:
    """What is behind the face of *throttle*: for sets, and for tables of throttles."""
    core: Core = throttle._core
    return core
