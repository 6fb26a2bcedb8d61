"""What a granted call to a set of limits holds: a lease on several of them at once."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Coroutine, Generator, Hashable, Mapping, Sequence
from functools import partial
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, cast, overload

from async_throttle._decorator import within, within_either
from async_throttle._engine.forecast import amid_an_event
from async_throttle._engine.lane import Receipt
from async_throttle._shell import fast
from async_throttle._shell.core import checked_priority, one_too_many
from async_throttle._shell.count import know_parts
from async_throttle._shell.fast import NOTHING, FastSet
from async_throttle._shell.following import Measure
from async_throttle._shell.lease import BaseLease, settle
from async_throttle._shell.scheduler import find
from async_throttle._shell.states import (
    ASKING,
    EARLY,
    ENTERING,
    FRESH,
    HELD,
    LEASED,
    REFUSED,
    RELEASED,
    SHARED,
    LeaseState,
)
from async_throttle._shell.thread import ThreadScheduler
from async_throttle._shell.waiting import Attempt, Option, possible
from async_throttle._units import SECOND, TOKEN, seconds, shown, tokens
from async_throttle.adaptive import Outcome
from async_throttle.limits._core import CALLS, SLOTS, SetCore, Source
from async_throttle.limits._refusals import called
from async_throttle.rules import Rule
from async_throttle.rules.slots import UNLIMITED, Slots

if TYPE_CHECKING:
    from async_throttle._shell.core import Core
    from async_throttle._shell.flights import Grip
    from async_throttle.limits._set import LimitSet

__all__ = [
    "Begun",
    "Delay",
    "LimitSetAcquisition",
    "begin",
    "by_limit",
    "call_of",
    "soonest",
    "tried",
]

P = ParamSpec("P")
R = TypeVar("R")
V = TypeVar("V")
A = TypeVar("A", bound="LimitSetAcquisition")

Change = tuple[Hashable, Receipt, int]
"""A settlement of one limit: its key, what was taken of its rate, and what is settled."""


class Delay(float):
    """Seconds to wait, and which limit it is that is to be waited for.

    Attributes:
        limit: its key, or "pause" for that of the set; None if there is nothing to wait for.
    """

    __module__ = "async_throttle.limits"

    limit: Hashable

    def __new__(cls, seconds: float, limit: Hashable = None) -> Delay:
        delay = super().__new__(cls, seconds)
        delay.limit = limit
        return delay


class LimitSetAcquisition(FastSet, BaseLease):
    """What a granted call holds, to be settled and released; a lease on several limits at once.

    Made by ``limit_set(tokens=900)``, for ``async with`` (and ``with``, where the limits are for
    threads) and as a decorator, and by `LimitSet.acquire` and `LimitSet.try_acquire`; pools make
    it, too.

    Attributes:
        waited: seconds from the arrival to the grant.
    """

    __module__ = "async_throttle"

    # _face      the set or the pool that was asked
    # _source    its core
    # _core      that of the set whose limits are held; unset before the grant
    # _amounts   what was asked for, by key
    # _weights   the same, for each rule of the set's lane; for a pool, of each of its sets,
    #            until one of them has granted it
    # _receipts  what was taken: of the slots, which come first, what is still held
    # _settled   by key: nanotokens now, and debts, of what was settled; None without
    # _set       whose limits are held; None before the grant
    # _grip      of the flights, where limits count calls to the end; unset without
    # _measures  what adaptive limits are to learn from the call; unset without, and once told
    # _spans     for how long each rule was the bottleneck; unset without a wait
    __slots__ = (
        "_amounts",
        "_core",
        "_face",
        "_grip",
        "_measures",
        "_priority",
        "_receipts",
        "_set",
        "_settled",
        "_source",
        "_spans",
        "_weights",
    )

    _amounts: Mapping[Any, float]
    _core: SetCore
    _face: Any
    _grip: Grip
    _measures: dict[Hashable, Measure]
    _priority: int
    _receipts: list[Receipt]
    _settled: dict[Hashable, tuple[int, list[tuple[Any, int]]]] | None
    _source: Source
    _spans: list[int] | None
    _weights: tuple[Any, ...]
    _set: LimitSet[Any] | None

    def __bool__(self) -> bool:
        """Whether it was granted: `successful`."""
        return self.successful

    @property
    def successful(self) -> bool:
        """Whether it was granted."""
        return self._state in (LEASED, HELD, SHARED, EARLY, RELEASED) and self._set is not None

    @property
    def limit_set(self) -> LimitSet[Any]:
        """Whose limits are held, or were.

        Raises:
            RuntimeError: nothing was granted.
        """
        if self._set is None:
            raise RuntimeError(f"nothing was granted to {self!r}")
        return self._set

    @property
    def config(self) -> Mapping[str, Any]:
        """The *config* of the set whose limits are held; empty before the grant."""
        return {} if self._set is None else self._set.config

    @property
    def weights(self) -> dict[Hashable, float]:
        """What was taken at the grant, by key."""
        return {} if self._set is None else self._core.weights_told(self._weights)

    @property
    def waited_for(self) -> dict[Hashable, float]:
        """Seconds for which each limit held up the head of the lane meanwhile.

        They add up to `waited`. If the set itself was paused, that is told under ``"pause"``.
        """
        if self._set is None:
            return {}
        return self._core.waits_told(getattr(self, "_spans", None))

    # -- entering and leaving -----------------------------------------------------------

    def _grab(self, state: LeaseState) -> bool:
        """Take at once what a set has, if nobody waits for any of its limits."""
        source: Any = self._source
        if type(source) is not SetCore or self._priority:
            return False
        scheduler = source.scheduler
        if scheduler.into is not None:
            scheduler = find(source)
        if not scheduler.quiet or source.measured or source.flights or self._state is not FRESH:
            return False
        if fast.GIL:
            self._state = ENTERING  # no call since it was FRESH: no thread is in between
        elif not self._claim():
            return False
        try:
            receipts = scheduler.grab(source.lane, self._weights)
        except BaseException:
            self._unclaim()
            raise
        if receipts is None:
            self._unclaim()
            return False
        if scheduler.shared:
            know_parts(source.members, self, receipts)
        self._core = source
        self._receipts = receipts
        self._set = self._face
        self.waited = 0.0
        source.lane.holders += 1
        self._state = state
        return True

    async def __aenter__(self) -> Self:
        if self._grab(HELD):
            return self
        return await self._enter_async()

    def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> CoroutineType[Any, Any, None]:
        left: list[Any] = []
        try:
            if not fast.leave_set(self) and not self._leave_promptly():
                self._exit_slowly(exc, left)
        except BaseException as late:
            self._exit_again(late, exc, left)
        return NOTHING

    def __enter__(self) -> Self:
        if self._state is LEASED:
            self._state = HELD
            return self
        if self._grab(HELD):
            return self
        return self._enter()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        left: list[Any] = []
        try:
            if not fast.leave_set(self):
                self._exit_slowly(exc, left)
        except BaseException as late:
            self._exit_again(late, exc, left)

    def release(self) -> None:
        """Give the slots back; a second time, or where nothing was granted, does nothing."""
        if self._set is not None:
            super().release()

    def __await__(self) -> Generator[Any, Any, Self]:
        return self._wait().__await__()

    async def _wait(self) -> Self:
        if self._state in (ASKING, ENTERING):
            raise RuntimeError(f"another task waits for {self!r}: make a call for each")
        if self._state is FRESH and not self._grab(LEASED):
            await self._lease_async()
        return self

    def ok(self) -> None:
        """The call went well: for those limits that adapt. See `Lease.ok`."""
        self._tell(Outcome.OK)

    def ignore(self) -> None:
        """The call says nothing about the server. See `Lease.ok`."""
        self._tell(Outcome.IGNORED)

    def dropped(self) -> None:
        """The server refused the call, or did not answer in time. See `Lease.ok`."""
        self._tell(Outcome.DROPPED)

    def ended(self) -> None:
        """The call has ended, for those limits that count calls to the end. See `Lease.ended`."""
        if self._set is None:
            raise RuntimeError(f"nothing was granted to {self!r}")
        if hasattr(self, "_grip"):
            self._grip.end()

    def _tell(self, outcome: Outcome) -> None:
        if self._set is None:
            raise RuntimeError(f"nothing was granted to {self!r}")
        self._learn(dict.fromkeys(getattr(self, "_measures", ()), outcome))

    def _judge(self, error: BaseException | None) -> None:
        measures = getattr(self, "_measures", None)
        if measures:
            self._learn({key: measure.judge(error) for key, measure in measures.items()})

    def _learn(self, outcomes: Mapping[Hashable, Outcome]) -> None:
        """Tell the limits that follow how the call went, and what it took, unless they know."""
        settled = self._settled or {}
        taken = self._core.weights_told(self._weights)
        for key, outcome in outcomes.items():
            measure = self._measures.pop(key, None)
            if measure is not None:
                weight = settled[key][0] / TOKEN if key in settled else taken[key]
                measure.end(outcome, weight)

    def settle(self, amounts: Mapping[Any, float] | None = None, /, **actual: float) -> None:
        """Say what the call really took, by limit, also after the block.

        Less than taken is given back at once, which may wake a waiter; more is debt from now
        on, which later callers wait out: see `Lease.settle`. Limits that are not named keep
        what they had; a second call replaces the first. What counts slots is not used up: it
        comes back by `release`, whatever is said here. A limit without a name goes by its place:
        ``lease.settle({0: 80})``.

        Raises:
            ValueError: a name that is no limit of the set, or is said twice; an amount that is
                negative, infinite or not a number; for a `CallLimit`, a fraction, or not 1 where 1
                was asked for. Nothing is settled then.
            RuntimeError: nothing was granted.
        """
        self._settle_usage(actual if amounts is None else by_limit(amounts, actual))

    def _settle_slowly(self, usage: Mapping[Any, float]) -> None:
        if self._set is None:
            raise RuntimeError(f"nothing was granted to {self!r}")
        changes = self._changes(usage)
        if not changes or self._epoch != fast.EPOCH:
            return
        if len(changes) == 1:
            change = partial(self._settle_one, *changes[0])
        else:
            change = partial(self._settle, changes)
        scheduler = self._core.scheduler
        if scheduler.into is not None:
            scheduler = find(self._core)
        if scheduler.quiet and scheduler.quietly(change):  # no waiter, and no listener
            return
        change = partial(self._settle_and_tell, change, changes)
        if not scheduler.quietly(change):
            scheduler.do(change)

    def _changes(self, usage: Mapping[Any, float]) -> list[Change]:
        """Of *usage*, what is not as asked for."""
        core, taken = self._core, self._weights
        fresh = self._settled is None
        changes: list[Change] = []
        for key, actual in usage.items():
            try:
                place, kind = core.places[key]
            except KeyError:
                raise ValueError(core.unknown(key)) from None
            if kind == CALLS:
                core.limits[key].validate_usage(max(0, taken[place + 1]) // TOKEN, actual)
            if type(actual) is int and actual >= 0:
                amount = actual * TOKEN
                if fresh and amount == taken[place + 1]:
                    continue  # as asked for
            else:
                amount = tokens(called(key), actual)
            if kind != SLOTS:
                changes.append((key, self._receipt_of(core.lane.rules[place + 1]), amount))
        return changes

    def _receipt_of(self, rule: Rule) -> Receipt:
        """What was taken of *rule*."""
        for receipt in self._receipts:
            if receipt[0] is rule:
                return receipt
        if rule.in_flight and hasattr(self, "_grip") and rule in self._grip.flights:
            return [rule, self._grip.flights[rule][1].weight, self._grip]
        return [rule, 0, None]

    def _settle_and_tell(
        self, settle: Callable[[int], None], changes: Sequence[Change], now: int
    ) -> None:
        find(self._core).queue.touched(*(receipt[0] for _, receipt, _ in changes))
        settle(now)
        self._core.tell("settle", [(key, amount) for key, _, amount in changes])

    def _settle(self, changes: Sequence[Change], now: int) -> None:
        """Settle several limits: all of them, or none if a rule raises."""
        past = dict(self._settled or {})
        made: list[Change] = []
        try:
            for key, receipt, amount in changes:
                self._settle_one(key, receipt, amount, now)
                made.append((key, receipt, past[key][0] if key in past else receipt[1]))
        except Exception:
            for key, receipt, before in reversed(made):
                self._settle_one(key, receipt, before, now)
            self._settled = past or None
            raise

    def _settle_one(self, key: Hashable, receipt: Receipt, amount: int, now: int) -> None:
        """Settle one limit; nothing has changed if its rule raises."""
        settled = self._settled
        if settled is None:
            settled = self._settled = {}
        rule, weight, issued = receipt
        before, debts = settled.get(key) or (weight, [])
        try:
            if amount < before:  # first: what is interrupted gives back too little
                settled[key] = amount, debts
            if rule.in_flight and issued is not None:
                issued.settle(rule, now, amount)
            else:
                settle(rule, now, issued, debts, amount - before)
        except Exception:
            settled[key] = before, debts
            raise
        settled[key] = amount, debts

    @overload
    def __call__(
        self, func: Callable[P, Coroutine[Any, Any, R]]
    ) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, func: Callable[P, R]) -> Callable[P, R]: ...
    def __call__(self, func: Callable[P, Any]) -> Callable[P, Any]:
        """Decorate an ``async def``, or a ``def`` that runs in threads: each call takes this."""
        threads = isinstance(find(self._whom()), ThreadScheduler)
        decorate = within_either if threads else within
        return decorate("a set of limits", func, self._twin)

    def __repr__(self) -> str:
        asked = ", ".join(f"{key}={shown(amount)}" for key, amount in self._amounts.items())
        return (
            f"<async_throttle.LimitSetAcquisition({asked}) [{self._state.told}] of {self._face!r}>"
        )

    # -- what is asked for, and held ----------------------------------------------------

    def _whom(self) -> SetCore:
        return self._source.whom()

    def _options(self) -> Sequence[Option]:
        return self._source.options(self._weights, self._priority)

    def _twin(self) -> Self:
        amounts, timeout, priority = self._amounts, self._timeout, self._priority
        return call_of(type(self), self._face, self._source, amounts, timeout, priority)

    def _hold(
        self, receipts: list[Receipt], waited: int, option: Option, spans: list[int] | None
    ) -> None:
        core = self._core = cast(SetCore, option.asked)
        self._weights = option.weights
        self._receipts = receipts
        self._spans = spans
        self._set = self._source.granted(self._face, core)
        if core.measured:
            self._measures = core.measure(self._weights)
        if core.scheduler.shared:
            know_parts(core.members, self, receipts)
        if core.flights:
            self._take_off(receipts)
        self.waited = waited / SECOND
        state = self._granted_state()
        core.lane.holders += 1  # with the state, or not at all: no call comes in between
        self._state = state

    def _unclaim(self) -> None:
        if self._state in (LEASED, HELD, SHARED):  # the grant was undone
            self._core.lane.holders -= 1
        super()._unclaim()

    def _quit(self, error: BaseException | None) -> None:
        if not fast.leave_set(self):
            super()._quit(error)

    def _leave_promptly(self) -> bool:
        """End the block of this lease where waiters wait, in one step, if no end is looked at."""
        if self._state is not HELD:
            return False
        scheduler: Any = self._core.scheduler
        if scheduler.measured:
            return False
        if scheduler.feeder is not None and fast.quietly(scheduler, self._leave):
            return True
        return fast.promptly(scheduler, self._leave)

    def _leave(self, now: int) -> None:
        held = self._give_back(now, None)
        self._state = RELEASED
        if not held:
            raise self._one_too_many()

    def _take_off(self, receipts: Sequence[Receipt]) -> None:
        """The call is in flight from now on at the limits that count calls to their ends."""
        now = find(self._core).queue.now
        for taken in receipts:
            flights = self._core.flights.get(taken[0])
            if flights is not None:
                if not hasattr(self, "_grip"):
                    self._grip = flights.grip(self._core)
                self._grip.hold(flights, taken, now)

    def _give_back(self, now: int, error: BaseException | None) -> bool:
        receipts = self._receipts
        held = True
        changed = [rule for rule, _, _ in receipts if rule.wants_ends or rule.counts_callers]
        if self._core.flights and hasattr(self, "_grip"):
            find(self._core).queue.touched(*changed, *self._grip.flights)
            self._grip.finish(now, error)
        else:
            find(self._core).queue.touched(*changed)
        while receipts and receipts[0][0].counts_callers:
            slots: Any = receipts[0][0]
            weight = receipts[0][1]
            if weight > slots.used:
                weight = slots.used
                held = False
            slots.free += weight
            del receipts[0]
        self._core.lane.holders -= 1  # last: with the state, which the caller sets next
        return held

    def _one_too_many(self) -> ValueError:
        return one_too_many(self._face)

    def _in_flight(self, core: Core) -> tuple[int, int]:
        slots = weight = 0
        if self._holds():
            for rule, taken, _ in self._receipts:
                if rule is core.slots:
                    slots = taken
                elif rule is core.rule:
                    weight = self._took(rule, taken)
                elif rule is core.rule.in_flight:
                    weight = self._grip.flying(core.rule)
        return slots, weight

    def _released(self) -> None:
        self._core.tell("release", self)
        for rule, weight, receipt in self._receipts:
            if rule.wants_ends:
                rule.ended(find(self._core).queue.now, receipt, self._took(rule, weight))

    def _took(self, rule: Rule, weight: int) -> int:
        """What the call really took of *rule*, as settled: *weight*, if it was not."""
        core = self._core
        for key, (amount, _) in (self._settled or {}).items():
            if core.lane.rules[core.places[key][0] + 1] is rule:
                return amount
        return weight

    def _refused(self) -> None:
        """It was to be had at once or not at all, and was not."""
        self._state = REFUSED


class Begun(LimitSetAcquisition):
    """What `acquire()` makes: a call that began before it was awaited, and may never be.

    ``api.acquire()`` without *await* in front looks like a call that waits, and would keep a slot
    that nobody can give back. It comes back when this is collected.
    """

    __module__ = "async_throttle"

    __slots__ = ("_awaited",)

    def __await__(self) -> Generator[Any, Any, Self]:
        self._awaited = True
        return super().__await__()

    def __del__(self) -> None:
        try:
            if self._state is not LEASED or hasattr(self, "_awaited"):
                return
        except AttributeError:  # its making was interrupted
            return
        rules = self._core.lane.rules
        bounded = [rules.index(rule) for rule, _, _ in self._receipts if _is_bounded(rule)]
        self.release()
        if bounded and self._epoch == fast.EPOCH:
            warnings.warn(
                f"{self!r} was made by acquire(), and was neither awaited nor entered: until it "
                f"was collected it held a slot of {self._core.key(bounded[0])}",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )


def _is_bounded(rule: Rule) -> bool:
    return isinstance(rule, Slots) and rule.limit != UNLIMITED


# -- what sets and pools have in common ---------------------------------------------------


def call_of(
    kind: type[A],
    face: Any,
    source: Source,
    amounts: Mapping[Any, float],
    timeout: float | None = None,
    priority: int = 0,
) -> A:
    """A call of *kind* to the set or pool *face*, whose core is *source*."""
    call = kind()
    call._state = FRESH
    call._face = face
    call._source = source
    call._amounts = amounts
    call._timeout = timeout
    call._priority = priority if type(priority) is int else checked_priority(priority)
    call._weights = source.weigh(amounts)
    call._settled = None
    call._epoch = fast.EPOCH
    call._set = None
    return call


def by_limit(amounts: Mapping[Any, V] | None, named: Mapping[str, V]) -> Mapping[Any, V]:
    """What a call says of each limit: *amounts*, and those that are *named*.

    Raises:
        TypeError: *amounts* is no mapping.
        ValueError: a limit is said twice.
    """
    if amounts is None:
        return named
    if type(amounts) is dict and not named:  # the usual case
        return {**amounts}
    if not isinstance(amounts, Mapping):
        raise TypeError(
            f"weights are said by limit, as in tokens=5 or {{'tokens': 5}}, got {amounts!r}"
        )
    twice = [key for key in named if key in amounts]
    if twice:
        raise ValueError(f"{twice[0]!r} is said twice: {amounts[twice[0]]!r}, {named[twice[0]]!r}")
    return {**amounts, **named}


def tried(acquisition: A) -> A:
    """Take what is asked for if that is possible now; raises if it never will be."""
    if not acquisition._grab(LEASED) and not _seize(acquisition):
        acquisition._refused()
    return acquisition


def begin(acquisition: A) -> A:
    """Wait with the thread; or, where an event loop runs, take what is there at once."""
    if not acquisition._grab(LEASED):
        if asyncio._get_running_loop() is None:
            acquisition._lease()
        else:
            _seize(acquisition)
    return acquisition


def _seize(acquisition: LimitSetAcquisition) -> bool:
    attempt = Attempt(acquisition._options(), None, acquisition)
    try:
        return find(acquisition._whom()).seize(attempt)
    except BaseException:
        acquisition._unclaim()
        raise


def soonest(options: Sequence[Option]) -> Delay:
    """How long a caller who asks for any of *options* waits, and for what."""
    core = cast(SetCore, options[0].asked)
    options = possible(options, asks=True)

    def question(now: int) -> Delay:
        scheduler = find(core)
        delays = []
        refusals = []
        for asked, lane, weights in options:
            free = scheduler.queue.can_take(lane, weights)  # first: it looks at the heads
            at, place = scheduler.quote(lane, weights)
            full = None if free else asked.crowded(weights)
            if full is None:
                key = cast(SetCore, asked).key(place)
                delays.append((at, at <= now and not free, key))
            else:
                refusals.append(asked.refusal_full(full, at - now))
        try:
            if not delays:
                raise refusals[0]
        finally:
            refusals.clear()  # or they and their tracebacks would keep each other
        at, _, key = min(delays, key=lambda delay: delay[:2])
        return Delay(seconds(at - now), key)

    def inside(now: int) -> Delay:
        """Where somebody is at work: as of the last event."""
        queue = find(core).queue
        bounds = [amid_an_event(queue, now, lane, weights) for _, lane, weights in options]
        n = min(range(len(bounds)), key=bounds.__getitem__)
        at, place = bounds[n]
        return Delay(seconds(at - now), cast(SetCore, options[n].asked).key(place))

    return find(core).ask(question, inside)
