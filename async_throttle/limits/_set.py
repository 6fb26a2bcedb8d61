"""Several limits that are taken together, all of them or nothing.

A set is a line in the queue of its members: their desks become one (`async_throttle._desk`).
What may go before whom is decided there (`async_throttle._queue`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Mapping
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType, TracebackType
from typing import Any, cast

from async_throttle import threads
from async_throttle._base import NOTHING, BaseThrottle, Inside, Measure
from async_throttle._desk import Desk, Party, checked_priority, known, together, told
from async_throttle._queue import SKIP, Gate, SetLine, settle
from async_throttle._units import NEVER, SECOND, TOKEN, nanoseconds, seconds, tokens, whole
from async_throttle.adaptive import Outcome
from async_throttle.exceptions import (
    ResourceLimitError,
    ThrottleClosed,
    ThrottleFull,
    ThrottleTimeout,
    WeightTooLarge,
)
from async_throttle.limits._acquisition import (
    FRESH,
    GRANTED,
    REFUSED,
    RELEASED,
    LimitSetAcquisition,
    Option,
)
from async_throttle.limits._single import RESERVED, CallLimit, Limit
from async_throttle.throttle import Throttle

__all__ = ["Delay", "ExecutionMode", "LimitSet"]

_new = cast(Callable[[type[LimitSetAcquisition]], LimitSetAcquisition], object.__new__)

RATE, SLOTS, CALLS = range(3)
"""What a call counts of a limit: its tokens; its slots, if it has nothing else; itself."""


class ExecutionMode(StrEnum):
    """How those run who use a set, by name.

    >>> ExecutionMode("thread") is ExecutionMode.Threads
    True
    """

    Sync = "sync"
    Threads = "thread"
    Asyncio = "asyncio"


class Delay(float):
    """Seconds to wait, and which limit it is that is to be waited for.

    Attributes:
        limit: its key; None if there is nothing to wait for.
    """

    limit: Hashable

    def __new__(cls, seconds: float, limit: Hashable = None) -> Delay:
        delay = super().__new__(cls, seconds)
        delay.limit = limit
        return delay


class LimitSet(Party):
    r"""Several limits that are taken together: all of them or nothing.

    ::

        api = LimitSet(
            requests=Throttle(500, period=60), tokens=Throttle(200_000, period=60), concurrency=20
        )
        async with api(tokens=1_200) as lease:
            ...
            lease.settle(tokens=900)

        async with LimitSet(everybody, chats[chat_id]):    # two throttles taken together
            ...

    A call takes 1 of each limit that it does not name, and a slot of each that has slots; 0
    leaves a limit out altogether. Who waits holds nothing, and callers of one set go in order
    of arrival.

    A throttle may be in several sets, and be used alone as well: it keeps its promises for all
    of them. Between sets, and between a set and those who use one of its throttles alone, a
    later caller may go first only where that makes no earlier one go later: it takes what an
    earlier one, who waits for some other limit, will not miss. A caller who lacks a slot holds
    nobody up on the rates. Sets over the same throttles are one set: what pauses one pauses the
    other, as long as anybody keeps one of them.

    All throttles of a set are of one kind: those of `async_throttle`, for one event loop at a
    time, or those of `async_throttle.threads`. Limits in the manner of concurry are of the
    second kind: a set of them serves threads, with ``with``, and event loops, with ``async
    with``, whatever its *mode*.

    Args:
        limits: a list of `Limit`\ s and throttles, or these themselves. A `Limit` is called by
            its key, a throttle by its name, or by its place if it has none.
        shared: whether the set is meant for several workers.
        mode: how these run: an `ExecutionMode`, or "sync", "thread" or "asyncio". For a set that
            is made of nothing but *concurrency*, "thread" makes it one for threads; else it is
            the throttles that tell.
        config: whatever calls shall know about their set: a region, an account.
        concurrency: slots for the set as a whole; 0 is no limit. A call may take several, by
            ``api(concurrency=2)``.
        named: throttles by the names that calls use.

    Raises:
        ValueError: a reserved name; a name or a throttle that occurs twice; an unknown mode, or
            one other than "sync" that is not *shared*; clocks that differ.
        TypeError: something that is neither a throttle nor a limit; throttles of both kinds.

    >>> import asyncio
    >>> async def main():
    ...     tokens = Throttle(1_000, period=60)
    ...     api = LimitSet(requests=Throttle(10, period=60), tokens=tokens, concurrency=2)
    ...     async with api(tokens=400) as lease:
    ...         lease.settle(tokens=100)
    ...     return round(api["tokens"].level), round(api["requests"].level)
    >>> asyncio.run(main())
    (900, 9)
    """

    # _limits    by key, as the user gave them
    # _members   the throttles that they are, in the order of the line
    # _places    by key: the place of its two rules in the line, and what it counts
    # _unit      the weights of a call that names nothing
    # _inside    what the blocks of the set itself hold, by task or thread
    # _bounded   the members that let only so many wait
    __slots__ = (
        "__weakref__",
        "_bounded",
        "_inside",
        "_limits",
        "_line",
        "_measured",
        "_members",
        "_mode",
        "_places",
        "_shared",
        "_unit",
        "config",
    )

    _line: SetLine

    def __init__(
        self,
        *throttles: Any,
        limits: Iterable[Limit | BaseThrottle] = (),
        shared: bool = False,
        mode: ExecutionMode | str = ExecutionMode.Sync,
        config: Mapping[str, Any] | None = None,
        concurrency: int = 0,
        **named: BaseThrottle | Limit,
    ) -> None:
        if throttles and not isinstance(throttles[0], (BaseThrottle, Limit)):
            # As concurry has it: limits, shared, mode, config.
            if len(throttles) > 4:
                raise TypeError(
                    "a list of limits goes with shared, mode and config, got "
                    f"{len(throttles)} arguments"
                )
            documented: Any = (*throttles, *(limits, shared, mode, config)[len(throttles) :])
            limits, shared, mode, config = documented
            throttles = ()
        given = {"limits": limits, "shared": shared, "mode": mode, "config": config}
        for name, value in given.items():
            if isinstance(value, (BaseThrottle, Limit)):
                raise ValueError(f"{name!r} is a reserved name, no limit may have it: {value!r}")
        if isinstance(concurrency, (BaseThrottle, Limit)):
            raise ValueError(
                f"'concurrency' is a reserved name, for a number of slots: {concurrency!r}"
            )
        self._shared = bool(shared)
        self._mode = _mode(mode)
        if self._mode is not ExecutionMode.Sync and not shared:
            raise ValueError(f"mode must be 'sync' where shared is False, got {mode!r}")
        self.config: Mapping[str, Any] = MappingProxyType(dict(config or {}))
        self._inside = Inside()
        self._limits: dict[Hashable, Any] = {}
        for place, limit in enumerate((*limits, *throttles)):
            if isinstance(limit, BaseThrottle):
                self._add(place if limit.name is None else limit.name, limit)
            else:
                self._add(getattr(limit, "key", place), limit)
        for name, limit in named.items():
            if name in RESERVED:
                raise ValueError(f"{name!r} is a reserved name, no limit may have it: {limit!r}")
            self._add(name, limit)
        if whole("concurrency", concurrency):
            kind = type(_throttle(next(iter(self._limits.values())))) if self._limits else None
            if kind is None:
                kind = threads.Throttle if self._mode is ExecutionMode.Threads else Throttle
            self._add("concurrency", kind(math.inf, concurrency, name="concurrency"))
        self._join()

    def _add(self, key: Hashable, limit: Any) -> None:
        if not isinstance(limit, (BaseThrottle, Limit)):
            raise TypeError(f"{key} must be a Throttle or a Limit, got {limit!r}")
        if key in self._limits:
            raise ValueError(f"two limits are called {key!r}")
        throttle = _throttle(limit)
        for name, other in self._limits.items():
            if _throttle(other) is throttle:
                raise ValueError(f"{name!r} and {key!r} are the same throttle: {throttle!r}")
        self._limits[key] = limit

    def _join(self) -> None:
        """Bring all members to one desk, and find the line of those who want all of them."""
        # In an order that is the same in all sets over the same throttles: they share a line.
        ordered = sorted(self._limits, key=lambda key: id(_throttle(self._limits[key])))
        members = self._members = [_throttle(self._limits[key]) for key in ordered]
        self._places = {
            key: (2 * n, _kind(self._limits[key]))
            for n, (key, throttle) in enumerate(zip(ordered, members, strict=True))
        }
        self._unit: tuple[int, ...] = (1, TOKEN) * len(members)
        self._bounded = [throttle for throttle in members if throttle.max_waiting is not None]
        self._measured = [key for key in ordered if _throttle(self._limits[key]).adapt is not None]
        self._desk = members[0]._at() if members else threads.ThreadDesk(None)
        for throttle in members[1:]:
            self._desk = together(self._desk, throttle._at(), self)
        rules = tuple(rule for throttle in members for rule in (throttle._slots, throttle._rule))
        gates = (Gate(*rules[1::2]), *(throttle._gate for throttle in members))
        desk = self._locked()
        try:
            line = desk.queue.line(rules, gates, 0, tuple(range(0, len(rules), 2)))
        finally:
            desk.lock.release()
        self._line = cast(SetLine, line)

    def _move(self, desk: Desk) -> None:
        """Wait at *desk*, which one can who has no limits."""
        assert not self._members, "whoever has limits, waits where they are"
        self._desk = desk
        self._line = cast(SetLine, desk.queue.line((), self._line.gates, 0, ()))

    # -- calling ------------------------------------------------------------------------

    def __call__(
        self,
        *,
        timeout: float | None = None,
        priority: int = 0,
        **weights: float,
    ) -> LimitSetAcquisition:
        """A call: ``async with api(tokens=900) as lease:``; also a decorator.

        Args:
            weights: how much of each limit; 1 of those not named, and nothing of those with 0.
                Of a limit without a rate, which counts slots, a whole number.
            timeout: seconds to wait at most; see `Throttle.acquire`.
            priority: lower goes first; see `Throttle.acquire`. What is said there of classes
                holds for each set.

        Raises:
            ValueError: a name that is no limit of the set, or a weight that cannot be.
        """
        return LimitSetAcquisition(self, weights, timeout, priority)

    def acquire(
        self,
        requested: Mapping[Any, float] | None = None,
        timeout: float | None = None,
        *,
        priority: int = 0,
    ) -> LimitSetAcquisition:
        """A call in other words: ``acquire(requested={"tokens": 900})``.

        Where no event loop runs, this waits, with the whole thread. Where one runs, it takes at
        once what is there; else the result is to be awaited, or entered with ``async with``.

        Raises:
            ResourceLimitError: it was refused; says which limit, and when to come back.
            ValueError: as the call of a set does.
        """
        acquisition = _new(LimitSetAcquisition)
        acquisition._source = self
        acquisition._amounts = requested or {}
        acquisition._timeout = timeout
        acquisition._priority = priority
        acquisition._weights = self._weigh(requested) if requested else self._unit
        acquisition._state = FRESH
        acquisition.limit_set = None
        if priority or not self._at_once(acquisition):
            begin(acquisition)
        return acquisition

    def try_acquire(
        self, requested: Mapping[Any, float] | None = None, *, priority: int = 0, **weights: float
    ) -> LimitSetAcquisition:
        """Take what is asked for if that is possible now and overtakes nobody.

        Returns:
            What was taken; or, with `successful` False, nothing: entered with ``with`` or
            ``async with`` that holds nothing.
        """
        acquisition = LimitSetAcquisition(self, {**(requested or {}), **weights}, None, priority)
        if not attempt(acquisition):
            acquisition._state = REFUSED
        return acquisition

    async def __aenter__(self) -> LimitSetAcquisition:
        acquisition = await LimitSetAcquisition(self, {}, None, 0)
        self._inside.enter(acquisition)
        return acquisition

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._inside.leave()._quit(exc)

    def __enter__(self) -> LimitSetAcquisition:
        acquisition = LimitSetAcquisition(self, {}, None, 0).__enter__()
        self._inside.enter(acquisition)
        return acquisition

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._inside.leave()._quit(exc)

    # -- holding everybody --------------------------------------------------------------

    def pause(self, seconds: float | timedelta, *, empty: bool = False) -> Awaitable[None]:
        """Grant nobody anything of this set before *seconds* from now; see `Throttle.pause`.

        Its throttles go on for other sets, and for those who use them alone. With *empty* all
        of them are empty when the pause ends.
        """
        span = nanoseconds("seconds", seconds)
        desk = self._locked()
        try:
            now = desk.elapse()
            until = NEVER if span >= NEVER else now + span
            desk.queue.pause(self._line.gates[0], until, empty)
            desk.decide()
            desk.recalm()
        finally:
            desk.lock.release()
        return NOTHING

    def resume(self) -> None:
        """End a pause of this set now."""
        desk = self._locked()
        try:
            desk.elapse()
            desk.queue.resume(self._line.gates[0])
            desk.decide()
        finally:
            desk.lock.release()

    async def drain(self) -> None:
        """Wait until nobody waits for any of the limits or holds one of their slots."""
        await self._drained()

    def _occupied(self) -> bool:
        return any(throttle._occupied() for throttle in self._members)

    @property
    def paused_for(self) -> float:
        """Seconds until the pause of this set ends; 0.0 if there is none."""
        desk = self._locked()
        try:
            return seconds(max(0, self._line.gates[0].until - desk.elapse()))
        finally:
            desk.lock.release()

    # -- looking ------------------------------------------------------------------------

    def __getitem__(self, key: Hashable) -> Any:
        """The throttle, or the `Limit`, that is called *key*: to see it, change it, pause it."""
        try:
            return self._limits[key]
        except KeyError:
            raise KeyError(self._unknown(key)) from None

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._limits)

    def __len__(self) -> int:
        return len(self._limits)

    def __contains__(self, key: object) -> bool:
        return key in self._limits

    def keys(self) -> list[Hashable]:
        """What the limits are called, in the order in which they were given."""
        return list(self._limits)

    def delay(self, *, priority: int = 0, **weights: float) -> Delay:
        """Seconds until a call could be granted, counting everyone ahead; 0.0 is now.

        It tells which limit is the one to wait for, too: ``api.delay(tokens=900).limit``. A
        lower bound where a slot is what is missing. Plays through what is to happen to all who
        wait: the cost grows with them, and with the number of sets over which they spread.

        Raises:
            ResourceLimitError: what the call would raise; ValueError as well.
        """
        return soonest(self._options(self._weigh(weights), priority))

    def locked(self) -> bool:
        """True if a call that takes 1 of everything would not be granted at once."""
        desk = self._locked()
        try:
            self._check(self._unit)
            desk.elapse()
            return desk.behind() or not desk.queue.can_take(self._line, self._unit)
        except ResourceLimitError:
            return True
        finally:
            desk.lock.release()

    @property
    def waiting(self) -> int:
        """Callers of this set that are queued."""
        desk = self._locked()
        try:
            desk.elapse()
            rules = self._line.rules
            lines = (line for line in desk.queue.busy() if isinstance(line, SetLine))
            return sum(len(line) for line in lines if line.rules == rules)
        finally:
            desk.lock.release()

    @property
    def max_waiting(self) -> int | None:
        """Most callers that may queue, by the strictest of its throttles; None is no bound."""
        return min((cast(int, throttle.max_waiting) for throttle in self._bounded), default=None)

    @property
    def limits(self) -> list[Any]:
        """The throttles and limits, in the order in which they were given."""
        return list(self._limits.values())

    @property
    def shared(self) -> bool:
        """Whether the set is meant for several workers."""
        return self._shared

    @property
    def mode(self) -> ExecutionMode:
        """How these run."""
        return self._mode

    def get_stats(self) -> dict[Hashable, dict[str, Any]]:
        """By key, what there is of each limit, and how much of it is used."""
        return {
            key: limit.get_stats() if isinstance(limit, Limit) else _stats(key, limit)
            for key, limit in self._limits.items()
        }

    def __repr__(self) -> str:
        return f"<async_throttle.LimitSet of {', '.join(map(str, self._limits)) or 'nothing'}>"

    # -- callers ------------------------------------------------------------------------

    def _asked(self) -> Party:
        return self

    def _at_once(self, acquisition: LimitSetAcquisition) -> bool:
        """Grant *acquisition* if nobody waits, without the frames of those who do."""
        desk = self._desk
        with desk.lock:
            receipts = desk.grab(self._line, acquisition._weights)
        if receipts is None:
            return False
        acquisition.limit_set = self
        acquisition.waited = 0.0
        acquisition._receipts = receipts
        acquisition._state = GRANTED
        return True

    def _granted(self, limit_set: LimitSet) -> None:
        """Nothing to count: there is only one."""

    def _options(self, weights: tuple[int, ...], priority: int) -> tuple[Option, ...]:
        return ((self, self._line_of(priority), weights),)

    def _line_of(self, priority: int) -> Any:
        if priority == 0:
            return self._line
        desk = self._locked()
        try:
            line = self._line
            return desk.queue.line(line.rules, line.gates, checked_priority(priority), line.places)
        finally:
            desk.lock.release()

    def _weigh(self, amounts: Mapping[Any, float]) -> tuple[int, ...]:
        """What is to be taken of each of the line's rules."""
        if not amounts:
            return self._unit
        weights: list[int] = list(self._unit)
        for key, amount in amounts.items():
            try:
                place, kind = self._places[key]
            except KeyError:
                raise ValueError(self._unknown(key)) from None
            if type(amount) is int and amount > 0 and kind == RATE:
                weights[place + 1] = amount * TOKEN
                continue
            weight = whole(key, amount) if kind == SLOTS else tokens(key, amount)
            if kind == CALLS and weight not in (0, TOKEN):
                raise ValueError(f"{key} must be 1, or 0 to do without it, got {amount!r}")
            if kind == SLOTS:
                weights[place] = weight
            weights[place + 1] = weight
            if weight == 0:
                weights[place] = weights[place + 1] = SKIP
        return tuple(weights)

    def _unknown(self, key: Hashable) -> str:
        names = ", ".join(map(repr, self._limits))
        there = f"there are {names}" if names else "there are none"
        return f"no limit of the set is called {key!r}; {there}"

    def _key(self, place: int) -> Hashable:
        """Which limit the rule at *place* of the line belongs to; None is the set's own pause."""
        if not 0 <= place < 2 * len(self._members):
            return None
        return next(key for key, (at, _) in self._places.items() if at == place // 2 * 2)

    def _told(self, weights: tuple[int, ...]) -> dict[Hashable, float]:
        told = {}
        for key in self._limits:
            place, kind = self._places[key]
            weight = weights[place] if kind == SLOTS else weights[place + 1] / TOKEN
            told[key] = max(0, weight)
        return told

    def _blamed(self, held_up: list[int] | None) -> dict[Hashable, float]:
        blamed: dict[Hashable, float] = dict.fromkeys(self._limits, 0.0)
        if held_up is not None:
            spans = dict.fromkeys(self._limits, 0)
            for place, span in enumerate(held_up[:-1]):
                spans[self._key(place)] += span
            blamed = {key: span / SECOND for key, span in spans.items()}
            if held_up[-1]:
                blamed[None] = held_up[-1] / SECOND
        return blamed

    def _measure(self, weights: tuple[int, ...]) -> dict[Hashable, Measure]:
        """What limits that adapt will learn from a call that was granted *weights* just now."""
        return {
            key: _throttle(self._limits[key])._measure()
            for key in self._measured
            if weights[self._places[key][0] + 1] != SKIP
        }

    def _learn(
        self, acquisition: LimitSetAcquisition, outcomes: Mapping[Hashable, Outcome]
    ) -> None:
        """Tell the limits that adapt how the call went, and what it took, unless they know."""
        desk = self._locked()
        try:
            measures = getattr(acquisition, "_measures", {})
            settled = getattr(acquisition, "_settled", {})
            taken = self._told(acquisition._weights)
            for key, outcome in outcomes.items():
                measure = measures.pop(key, None)
                if measure is not None:
                    weight = settled[key][0] / TOKEN if key in settled else taken[key]
                    measure.end(outcome, weight)
        finally:
            desk.lock.release()

    def _release(self, acquisition: LimitSetAcquisition) -> None:
        desk = self._desk if self._desk.into is None else self._at()
        with desk.lock:
            if acquisition._state != GRANTED:  # another thread was faster
                return
            acquisition._state = RELEASED
            weights = acquisition._weights
            if desk.calm:  # which it is not once it was absorbed. Mirrors SetLine.give_back
                for n, slots in self._line.slots:
                    if weights[n] != SKIP:
                        slots.free += weights[n]
                return
        desk = self._locked()
        try:
            self._line.give_back(desk.elapse(), weights, [])  # the slots: what was used is used
            desk.decide()
        finally:
            desk.lock.release()

    def _settle(self, acquisition: LimitSetAcquisition, usage: Mapping[Any, float]) -> None:
        taken = acquisition._weights
        settled = getattr(acquisition, "_settled", None)
        amounts = []
        for key, actual in usage.items():
            try:
                place, kind = self._places[key]
            except KeyError:
                raise ValueError(self._unknown(key)) from None
            if type(actual) is int and settled is None and actual * TOKEN == taken[place + 1]:
                continue  # as asked for; of calls nobody may ask for another number than one
            amount = tokens(key, actual)
            if kind == CALLS:
                self._limits[key].validate_usage(1, actual)
            if kind != SLOTS:
                amounts.append((key, place + 1, amount))
        if not amounts:
            return
        desk = self._locked()
        try:
            if not hasattr(acquisition, "_settled"):
                acquisition._settled = {}
            settled = acquisition._settled
            now = desk.tick()
            for key, place, amount in amounts:
                before, debts = settled.get(key) or (max(0, taken[place]), [])
                rule = self._line.rules[place]
                receipt = None
                for taker, _, issued in acquisition._receipts:
                    if taker is rule:
                        receipt = issued
                settle(rule, now, receipt, debts, amount - before)
                settled[key] = amount, debts
            if not desk.calm:
                desk.decide()
        finally:
            desk.lock.release()

    def _check(self, weights: tuple[int, ...]) -> None:
        """Refuse what can never be granted."""
        for weight, rule in zip(weights, self._line.rules, strict=True):
            if weight > rule.burst:
                raise self._refusal_weight(weights)
        for throttle, weight in zip(self._members, weights[::2], strict=True):
            if throttle._closed and weight != SKIP:
                raise self._refusal_closed(weights)

    def _crowded(self, weights: tuple[int, ...]) -> BaseThrottle | None:
        for throttle in self._bounded:
            wanted = weights[self._line.rules.index(throttle._rule)] != SKIP
            if wanted and throttle._crowded(weights) is not None:
                return throttle
        return None

    # -- refusals -----------------------------------------------------------------------

    def _refusal_weight(self, weights: tuple[int, ...]) -> WeightTooLarge:
        # The one that is exceeded by most: it may have been raised again meanwhile.
        asked = list(enumerate(zip(weights, self._line.rules, strict=True)))
        place, (_, rule) = max(asked, key=lambda ask: ask[1][0] / ask[1][1].burst)
        key = self._key(place)
        unit = TOKEN if place % 2 else 1
        largest = rule.burst / unit
        return WeightTooLarge(
            f"{key} of {weights[place] / unit:g} is more than there can be at once: the largest "
            f"that could ever be granted is {largest:g}",
            largest=largest,
            limit=_name(key),
        )

    def _refusal_timeout(self, timeout: float, wait: int, place: int) -> ThrottleTimeout:
        key = self._key(place)
        return ThrottleTimeout(
            f"{'the set' if key is None else key} does not grant it within a timeout of "
            f"{timeout:g} s{told(wait)}",
            limit=_name(key),
            retry_after=known(wait),
        )

    def _refusal_full(self, full: BaseThrottle, wait: int) -> ThrottleFull:
        key = next(key for key, limit in self._limits.items() if _throttle(limit) is full)
        most = full.max_waiting
        return ThrottleFull(
            f"max_waiting of {key} is {most}, and {most} wait already",
            limit=_name(key),
            retry_after=known(wait),
        )

    def _refusal_closed(self, weights: tuple[int, ...]) -> ThrottleClosed:
        key = next(
            key
            for key, limit in self._limits.items()
            if _throttle(limit)._closed and weights[self._places[key][0]] != SKIP
        )
        return ThrottleClosed(f"{key} is closed", limit=_name(key))


# -- what sets and pools have in common ---------------------------------------------------


def attempt(acquisition: LimitSetAcquisition) -> bool:
    """Take what is asked for if that is possible now; raises if it never will be."""
    desk = acquisition._source._asked()._locked()
    try:
        source = acquisition._source
        options = threads.possible(source._options(acquisition._weights, acquisition._priority))
        desk.elapse()
        return not desk.behind() and desk.take_any(options, acquisition)
    finally:
        desk.lock.release()


def begin(acquisition: LimitSetAcquisition) -> None:
    """Wait with the thread; or, where an event loop runs, take what is there at once."""
    if asyncio._get_running_loop() is None:
        acquisition.__enter__()
    else:
        attempt(acquisition)


def soonest(options: tuple[Option, ...]) -> Delay:
    """How long a caller who asks for any of *options* waits, and for what."""
    party = options[0][0]
    desk = party._locked()
    try:
        now = desk.elapse()
        delays = []
        refusals = []
        for option in threads.possible(options):
            limit_set, line, weights = cast(Option, option)
            at, place = desk.quote(line, weights)
            free = desk.queue.can_take(line, weights)
            full = None if free else limit_set._crowded(weights)
            if full is None:
                delays.append((at, at <= now and not free, limit_set._key(place)))
            else:
                refusals.append(limit_set._refusal_full(full, at - now))
        if not delays:
            raise refusals[0]
        at, _, key = min(delays, key=lambda delay: delay[:2])
        return Delay(seconds(at - now), key)
    finally:
        desk.lock.release()


def _throttle(limit: Any) -> BaseThrottle:
    return limit.throttle if isinstance(limit, Limit) else limit


def _kind(limit: Any) -> int:
    if isinstance(limit, CallLimit):
        return CALLS
    throttle = _throttle(limit)
    return SLOTS if throttle.capacity == math.inf and throttle.concurrency else RATE


def _name(key: Hashable) -> str | None:
    return None if key is None else str(key)


def _mode(mode: ExecutionMode | str) -> ExecutionMode:
    try:
        return ExecutionMode(mode)
    except ValueError:
        modes = ", ".join(repr(member.value) for member in ExecutionMode)
        raise ValueError(f"mode must be one of {modes}, got {mode!r}") from None


def _stats(key: Hashable, throttle: BaseThrottle) -> dict[str, Any]:
    available = throttle.level
    usage = 0.0 if available == math.inf else throttle.burst - available
    return {
        "key": key,
        "window_seconds": throttle.period,
        "algorithm": throttle.algorithm.__name__,
        "capacity": throttle.capacity,
        "available_tokens": available,
        "current_usage": usage,
        "utilization": usage / throttle.burst,
        "concurrency": throttle.concurrency,
        "active": throttle.active,
        "waiting": throttle.waiting,
    }
