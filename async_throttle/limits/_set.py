"""Several limits that are taken together, all of them or nothing.

The public face. What is behind it: `SetCore` (`_core.py`).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Hashable, Iterable, Iterator, Mapping
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType, TracebackType
from typing import Any, Final

from async_throttle import threads
from async_throttle._base import BaseThrottle
from async_throttle._shell.fast import NOTHING
from async_throttle._shell.lease import Blocks
from async_throttle._shell.loop import drained
from async_throttle._shell.scheduler import find
from async_throttle._shell.single import Single
from async_throttle._units import nanoseconds, seconds, whole
from async_throttle.exceptions import ResourceLimitError
from async_throttle.limits._acquisition import Delay, LimitSetAcquisition, begin, soonest, tried
from async_throttle.limits._core import SetCore, throttle_of
from async_throttle.limits._single import RESERVED, Limit
from async_throttle.throttle import Throttle

__all__ = ["ExecutionMode", "LimitSet"]


class ExecutionMode(StrEnum):
    """How those run who use a set, by name.

    >>> ExecutionMode("thread") is ExecutionMode.Threads
    True
    """

    __module__ = "async_throttle.limits"

    Sync = "sync"
    Threads = "thread"
    Asyncio = "asyncio"


SYNC: Final = ExecutionMode.Sync

NO_CONFIG: Final[Mapping[str, Any]] = MappingProxyType({})


class LimitSet(Single):
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
    others, also those that are made before the pause ends.

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

    __module__ = "async_throttle"

    # _limits    by key, as the user gave them
    # _blocks    what the blocks of the set itself hold, by task or thread
    __slots__ = ("__weakref__", "_blocks", "_core", "_limits", "_mode", "_shared", "config")

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
        if limits or shared or config or mode is not SYNC or type(concurrency) is not int:
            given = {"limits": limits, "shared": shared, "mode": mode, "config": config}
            _check_names({**given, "concurrency": concurrency})
        self._shared = bool(shared)
        self._mode = SYNC if mode is SYNC else _mode(mode)
        if self._mode is not SYNC and not shared:
            raise ValueError(f"mode must be 'sync' where shared is False, got {mode!r}")
        self.config: Mapping[str, Any] = MappingProxyType(dict(config)) if config else NO_CONFIG
        self._blocks = Blocks()
        self._limits: dict[Hashable, Any] = {}
        for place, limit in enumerate((*limits, *throttles)):
            name = limit.name if isinstance(limit, BaseThrottle) else getattr(limit, "key", None)
            self._add(place if name is None else name, limit)
        for name, limit in named.items():
            if name in RESERVED:
                raise ValueError(f"{name!r} is a reserved name, no limit may have it: {limit!r}")
            self._add(name, limit)
        if concurrency != 0 and whole("concurrency", concurrency):
            kind = type(throttle_of(next(iter(self._limits.values())))) if self._limits else None
            if kind is None:
                kind = threads.Throttle if self._mode is ExecutionMode.Threads else Throttle
            self._add("concurrency", kind(math.inf, concurrency, name="concurrency"))
        self._core = SetCore(self._limits)

    def _add(self, key: Hashable, limit: Any) -> None:
        if not isinstance(limit, (BaseThrottle, Limit)):
            raise TypeError(f"{key} must be a Throttle or a Limit, got {limit!r}")
        if key in self._limits:
            raise ValueError(f"two limits are called {key!r}")
        self._limits[key] = limit

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
        return LimitSetAcquisition(self, self._core, weights, timeout, priority)

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
        return begin(LimitSetAcquisition(self, self._core, requested or {}, timeout, priority))

    def try_acquire(
        self, requested: Mapping[Any, float] | None = None, *, priority: int = 0, **weights: float
    ) -> LimitSetAcquisition:
        """Take what is asked for if that is possible now and overtakes nobody.

        Returns:
            What was taken; or, with `successful` False, nothing: entered with ``with`` or
            ``async with`` that holds nothing.
        """
        amounts = {**(requested or {}), **weights}
        return tried(LimitSetAcquisition(self, self._core, amounts, None, priority))

    async def __aenter__(self) -> LimitSetAcquisition:
        acquisition = await LimitSetAcquisition(self, self._core, {}, None, 0)
        try:
            self._blocks.enter(acquisition)
        except BaseException:
            self._blocks.forget(acquisition)
            acquisition.release()
            raise
        return acquisition

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(exc_type, exc, traceback)

    def __enter__(self) -> LimitSetAcquisition:
        acquisition = LimitSetAcquisition(self, self._core, {}, None, 0).__enter__()
        try:
            self._blocks.enter(acquisition)
        except BaseException:
            self._blocks.forget(acquisition)
            acquisition.release()
            raise
        return acquisition

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        left: list[LimitSetAcquisition] = []
        try:
            left.append(self._blocks.leave())
            left[0]._quit(exc)
        except BaseException as late:
            held = left or [self._blocks.leave()]
            held[0]._exit_again(late, exc, held)

    # -- holding everybody --------------------------------------------------------------

    def pause(self, seconds: float | timedelta, *, empty: bool = False) -> Awaitable[None]:
        """Grant nobody anything of this set before *seconds* from now; see `Throttle.pause`.

        Its throttles go on for other sets, and for those who use them alone. With *empty* all
        of them are empty when the pause ends.
        """
        core, span = self._core, nanoseconds("seconds", seconds)
        find(core).do(lambda now: core.hold(now, span, empty))
        return NOTHING

    def resume(self) -> None:
        """End a pause of this set now."""
        find(self._core).do(self._core.resume)

    async def drain(self) -> None:
        """Wait until nobody waits for any of the limits or holds one of their slots."""
        await drained(self._core, self._core.occupied)

    @property
    def paused_for(self) -> float:
        """Seconds until the pause of this set ends; 0.0 if there is none."""
        until = self._core.lane.pauses[0].until
        return seconds(find(self._core).ask(lambda now: max(0, until - now)))

    # -- looking ------------------------------------------------------------------------

    def __getitem__(self, key: Hashable) -> Any:
        """The throttle, or the `Limit`, that is called *key*: to see it, change it, pause it."""
        try:
            return self._limits[key]
        except KeyError:
            raise KeyError(self._core.unknown(key)) from None

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
        lower bound where a slot is what is missing. Plays through what is to happen to all
        waiters, which costs as much as to serve them. The next question goes on from there, if
        nothing has happened but arrivals and the grants that were foreseen. After a refund, a
        cancellation or a pause all is played once more; so it is for a newcomer that would go
        before the one who asked last, such as one to another set with a shorter queue.

        Raises:
            ResourceLimitError: what the call would raise; ValueError as well.
        """
        return soonest(self._core.options(self._core.weigh(weights), priority))

    def locked(self) -> bool:
        """True if a call that takes 1 of everything would not be granted at once."""
        core = self._core

        def question(now: int) -> bool:
            scheduler = find(core)
            return scheduler.behind() or not scheduler.queue.can_take(core.lane, core.unit)

        try:
            core.check(core.unit)
        except ResourceLimitError:
            return True
        return find(core).ask(question, lambda now: True)

    @property
    def waiting(self) -> int:
        """Callers of this set that are queued."""
        return find(self._core).ask(lambda now: self._core.waiting())

    @property
    def max_waiting(self) -> int | None:
        """Most callers that may queue, by the strictest of its throttles; None is no bound."""
        return self._core.max_waiting

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
        return repr(self._core)


def core_of_set(limit_set: LimitSet) -> SetCore:
    """What is behind the face of *limit_set*: for pools."""
    return limit_set._core


def _check_names(given: Mapping[str, Any]) -> None:
    """Refuse limits that are *given* by the names of other arguments."""
    for name, value in given.items():
        if isinstance(value, (BaseThrottle, Limit)):
            raise ValueError(f"{name!r} is a reserved name, no limit may have it: {value!r}")


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
