"""Sets and pools in the words of concurry: a facade, nothing else."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, overload

from async_throttle import threads
from async_throttle._base import BaseThrottle
from async_throttle._units import TOKEN
from async_throttle.exceptions import WeightTooLarge
from async_throttle.limits._acquisition import Begun, begin, by_limit, call_of, tried
from async_throttle.limits._acquisition import LimitSetAcquisition as Granted
from async_throttle.limits._core import SLOTS, SetCore
from async_throttle.limits._face import BaseLimits
from async_throttle.limits._pool import LimitPool as Pool
from async_throttle.limits._set import LimitSet as Set
from async_throttle.limits._set import refuse_reserved
from async_throttle.limits._single import Limit

if TYPE_CHECKING:
    from async_throttle.stores import Store

__all__ = ["Acquisition", "ExecutionMode", "LimitPool", "LimitSet", "LimitSetAcquisition"]

P = ParamSpec("P")
R = TypeVar("R")


class ExecutionMode(StrEnum):
    """How those run who use a set, by name.

    >>> ExecutionMode("thread") is ExecutionMode.Threads
    True
    """

    __module__ = "async_throttle.limits"

    Sync = "sync"
    Threads = "thread"
    Asyncio = "asyncio"
    Processes = "process"
    Ray = "ray"


class Acquisition(NamedTuple):
    """What a call asked one of its limits for, and what became of that."""

    limit: Any
    """The `Limit`, or the throttle."""

    requested: float
    """What was asked for."""

    used: float
    """What was settled; what was asked for, as long as nothing was."""

    successful: bool
    """Whether it was granted."""


Acquisition.__module__ = "async_throttle.limits"  # the body of a named tuple cannot say so


class LimitSetAcquisition(Granted):
    """What a granted call holds, in the words of concurry; see the class of `async_throttle`."""

    __module__ = "async_throttle.limits"

    __slots__ = ()

    @property
    def acquisitions(self) -> dict[Hashable, Acquisition]:
        """By key, what was asked of each limit; without those that were left out.

        Empty as long as no set of a pool has granted it.
        """
        core = self._source if self._set is None else self._core
        if not isinstance(core, SetCore):
            return {}
        settled, granted = self._settled or {}, self.successful
        return {
            key: Acquisition(
                core.limits[key],
                asked,
                settled[key][0] / TOKEN if key in settled else asked,
                granted,
            )
            for key, asked in core.weights_told(self._weights).items()
            if asked
        }

    def update(self, usage: Mapping[Any, float]) -> None:
        """`settle` in other words: ``update(usage={"tokens": 80})``.

        A name that is no limit of the set is passed over, and the log says so, once for each name
        and set. Usage above the request is logged, and charged.
        """
        try:
            self._settle_usage(usage)
        except ValueError:
            if usage.keys() <= self._core.places.keys():
                raise
            usage = self._known(usage)
            self._settle_usage(usage)
        asked = self._amounts
        for key, used in usage.items():
            if used > asked.get(key, 1) and self._core.places[key][1] != SLOTS:
                _warn(
                    f"{key}: what was used, {used}, exceeds requested amount {asked.get(key, 1)}, "
                    "and is charged as debt"
                )

    def _known(self, usage: Mapping[Any, float]) -> dict[Any, float]:
        """What of *usage* is of limits; logs the names that are not."""
        core = self._core
        known = {key: used for key, used in usage.items() if key in core.places}
        face: LimitSet | LimitPool = self._face
        told = face._unknown = getattr(face, "_unknown", set())
        for key in usage:
            if key not in known and key not in told:
                told.add(key)
                _warn(
                    f"Cannot update limit {str(key)!r}, which is not acquired here and passed by. "
                    f"Available keys: {', '.join(map(str, core.limits))}"
                )
        return known


class BegunAcquisition(Begun, LimitSetAcquisition):
    """What `acquire()` makes."""

    __module__ = "async_throttle.limits"

    __slots__ = ()


class _Asked(BaseLimits[Any]):
    """How concurry asks sets and pools."""

    # Of sets and pools:
    # _unknown  the names that were passed over and logged; unset without
    __slots__ = ()

    _unknown: set[Any]

    _acquisition = LimitSetAcquisition

    if TYPE_CHECKING:

        @overload
        def __call__(
            self, func: Callable[P, Coroutine[Any, Any, R]], /
        ) -> Callable[P, Coroutine[Any, Any, R]]: ...
        @overload
        def __call__(self, func: Callable[P, R], /) -> Callable[P, R]: ...
        @overload
        def __call__(
            self,
            amounts: Mapping[Any, float] | None = None,
            /,
            *,
            timeout: float | None = None,
            priority: int = 0,
            **named: float,
        ) -> LimitSetAcquisition: ...
        def __call__(self, amounts: Any = None, /, **options: Any) -> Any: ...
        async def __aenter__(self) -> LimitSetAcquisition: ...
        def __enter__(self) -> LimitSetAcquisition: ...

    def acquire(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        requested: Mapping[Any, float] | None = None,
        timeout: float | None = None,
        *,
        priority: int = 0,
        **named: float,
    ) -> LimitSetAcquisition:
        """A call in other words: ``acquire(requested={"tokens": 900})``.

        Where no event loop runs, this waits, with the whole thread. Where one runs, it takes at
        once what is there; else the result is to be awaited, or entered with ``async with``. If
        both are forgotten, slots come back when it is collected, with a `ResourceWarning`.

        Raises:
            ResourceLimitError: it was refused; says which limit, and when to come back.
            ValueError: as a call does.
        """
        weights = by_limit(requested, named)
        try:
            return begin(call_of(BegunAcquisition, self, self._core, weights, timeout, priority))
        except WeightTooLarge as error:
            _add_words(error)
            raise

    async def async_acquire(
        self,
        requested: Mapping[Any, float] | None = None,
        timeout: float | None = None,
        *,
        priority: int = 0,
        **named: float,
    ) -> LimitSetAcquisition:
        """`acquire`, as a coroutine: ``async with await limits.async_acquire({"tokens": 900})``.

        Raises:
            ResourceLimitError, ValueError: as `acquire` does.
        """
        weights = by_limit(requested, named)
        try:
            return await call_of(LimitSetAcquisition, self, self._core, weights, timeout, priority)
        except WeightTooLarge as error:
            _add_words(error)
            raise

    def try_acquire(  # type: ignore[override]
        self,
        requested: Mapping[Any, float] | None = None,
        *,
        priority: int = 0,
        **named: float,
    ) -> LimitSetAcquisition:
        """Take what is asked for if that is possible now and overtakes nobody.

        Returns:
            What was taken; or, with `successful` False, nothing: entered with ``with`` or
            ``async with`` that holds nothing.
        """
        weights = by_limit(requested, named)
        try:
            return tried(call_of(LimitSetAcquisition, self, self._core, weights, None, priority))
        except WeightTooLarge as error:
            _add_words(error)
            raise


class LimitSet(_Asked, Set[Any]):  # pyright: ignore[reportIncompatibleMethodOverride]
    r"""The `async_throttle.LimitSet`, made and called as concurry does.

    A set of `Limit`\ s serves threads, with ``with``, and event loops, with ``async with``,
    whatever its *mode*.

    Args:
        limits: a list of `Limit`\ s and throttles, or these themselves. A `Limit` is called by
            its key, a throttle by its name, or by its place if it has none.
        shared: whether the set is meant for several workers.
        mode: how these run: an `ExecutionMode`, or "sync", "thread" or "asyncio". For a set that
            is made of nothing but *concurrency*, "thread" makes it one for threads; else it is
            the throttles that tell. A set of mode "process" or "ray" is pickled, and the same one
            wherever it comes: it lives in a store. That is *store*; unset, for "process" a file
            that goes when the program ends that made the set, and for "ray" an actor. The
            limits are then other ones than those that were given: ``limits["tokens"]``. What is
            paused, or said to be closed, as a set is so in this process alone; what is paused by
            its limits, ``limits["tokens"].throttle.pause(30)``, is paused everywhere.
        store, name: as for `async_throttle.LimitSet`. Without a name each set of mode "process" or
            "ray" has a quota of its own; with one, and a store, it is the one of that name.
        config, concurrency, named: as for `async_throttle.LimitSet`.

    Raises:
        ValueError: as `async_throttle.LimitSet` does; an unknown mode, or one other than "sync"
            that is not *shared*; a throttle without a store, for mode "process" or "ray".
        TypeError: something that is neither a throttle nor a limit; throttles of both kinds.
    """

    __module__ = "async_throttle.limits"

    __slots__ = ("_mode", "_shared", "_unknown")

    def __init__(
        self,
        *throttles: Any,
        limits: Iterable[Limit | BaseThrottle] = (),
        shared: bool = False,
        mode: ExecutionMode | str = ExecutionMode.Sync,
        config: Mapping[str, Any] | None = None,
        concurrency: int = 0,
        store: Store | None = None,
        name: str | None = None,
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
        refuse_reserved({"limits": limits, "shared": shared, "mode": mode})
        self._shared = bool(shared)
        self._mode = _mode(mode)
        if self._mode is not ExecutionMode.Sync and not shared:
            raise ValueError(f"mode must be 'sync' where shared is False, got {mode!r}")
        given = [*limits, *throttles]
        if self._mode in (ExecutionMode.Processes, ExecutionMode.Ray):
            store, name = _store_of(self._mode, [*given, *named.values()], store, name)
        super().__init__(
            *given, concurrency=concurrency, config=config, store=store, name=name, **named
        )

    def _kind_of_slots(self) -> type[BaseThrottle]:
        alone = not self._limits and self._mode not in (ExecutionMode.Sync, ExecutionMode.Asyncio)
        return threads.Throttle if alone else super()._kind_of_slots()

    def _is_shared(self) -> bool:
        everywhere = self._mode in (ExecutionMode.Processes, ExecutionMode.Ray)
        return super()._is_shared() or (everywhere and not self._limits)

    def _made(self) -> dict[str, Any]:
        return {**super()._made(), "_shared": self._shared, "_mode": self._mode}

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
        return _stats_of_set(self)


class LimitPool(_Asked, Pool[Any]):  # pyright: ignore[reportIncompatibleMethodOverride]
    """The `async_throttle.LimitPool`, called as concurry does."""

    __module__ = "async_throttle.limits"

    __slots__ = ("_unknown",)

    def get_stats(self) -> dict[str, Any]:
        """What was given to whom, and what there is.

        Keys: ``num_limit_sets``, ``load_balancing``, ``worker_index``, ``balancer_stats`` (its
        ``algorithm``, ``offset``, ``total_dispatched``, and ``dispatched`` by place), and
        ``limit_sets``, the stats of each.
        """
        dispatched = list(self._core.dispatched)
        return {
            "num_limit_sets": len(self.limit_sets),
            "load_balancing": self.load_balancing.value,
            "worker_index": self.worker_index,
            "balancer_stats": {
                "algorithm": self.load_balancing.value,
                "offset": self.worker_index,
                "total_dispatched": sum(dispatched),
                "dispatched": dispatched,
            },
            "limit_sets": [_stats_of_set(limit_set) for limit_set in self.limit_sets],
        }


def _stats_of_set(limits: Set[Any]) -> dict[Hashable, dict[str, Any]]:
    found = {key: limits[key] for key in limits}
    return {
        key: limit.get_stats() if isinstance(limit, Limit) else _stats(key, limit)
        for key, limit in found.items()
    }


def _add_words(error: WeightTooLarge) -> None:
    """Have *error* say what is looked for in that of concurry, too."""
    error.args = (f"exceeds capacity, and can never be fulfilled: {error}",)


def _warn(message: str) -> None:
    import logging  # a tenth of the import, and few are warned

    logging.getLogger("async_throttle.limits").warning(message)


def _mode(mode: ExecutionMode | str) -> ExecutionMode:
    try:
        return ExecutionMode(mode)
    except ValueError:
        modes = ", ".join(repr(member.value) for member in ExecutionMode)
        raise ValueError(f"mode must be one of {modes}, got {mode!r}") from None


def _store_of(
    mode: ExecutionMode, limits: Iterable[Any], store: Store | None, name: str | None
) -> tuple[Store, str]:
    """Where a set of *limits* lives that is used in several processes, and its name there."""
    throttles = [each for each in limits if isinstance(each, BaseThrottle)]
    stores = [each.store for each in throttles if each.store is not None]
    if len(stores) < len(throttles):
        raise ValueError(
            f"mode={mode.value!r} takes limits, and throttles that have a store, got throttles "
            "without one, which would be a second quota in another process"
        )
    if store is None:
        from async_throttle.stores.modes import own_actor, own_file  # few sets need them

        store = stores[0] if stores else own_file() if mode == "process" else own_actor()
    return store, os.urandom(6).hex() if name is None else name


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
