"""Several limits that are taken together, all of them or nothing.

The public face. What is behind it: `SetCore` (`_core.py`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from sys import getrefcount
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, overload

from async_throttle._base import BaseThrottle, core_of
from async_throttle._shell.core import Core
from async_throttle._shell.count import SAYS, Count
from async_throttle._shell.lease import Blocks
from async_throttle._shell.scheduler import find
from async_throttle._units import TOKEN, whole
from async_throttle.limits._acquisition import by_limit
from async_throttle.limits._core import SetCore, throttle_of
from async_throttle.limits._face import BaseLimits, T
from async_throttle.limits._refusals import called
from async_throttle.limits._single import RESERVED, Limit
from async_throttle.throttle import Throttle

if TYPE_CHECKING:
    from async_throttle import threads
    from async_throttle.statistics import Statistics
    from async_throttle.stores import Store

__all__ = ["ALONE", "LimitSet", "core_of_set", "is_shared", "refuse_reserved"]


NO_CONFIG: Final[Mapping[str, Any]] = MappingProxyType({})

_alone = {0: object()}
ALONE: Final = getrefcount(_alone[0])
"""The references to a value, as counted in this way, that only a single container knows."""


class LimitSet(BaseLimits[T]):
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
    time, or those of `async_throttle.threads`, which serve threads, with ``with``, and event
    loops, with ``async with``. A `Limit` in the manner of concurry is of the second kind. The
    `LimitSet` of `async_throttle.limits` is this class, made and called as concurry does.

    Args:
        throttles: throttles, or `Limit`\ s. A `Limit` is called by its key, a throttle by its
            name, or by its place among all that were given if it has none.
        concurrency: slots for the set as a whole; 0 is no limit. A call may take several, by
            ``api(concurrency=2)``.
        config: whatever calls shall know about their set: a region, an account.
        store: where the slots of *concurrency* live, and each `Limit`; unset, where those of the
            throttles live that have a store, which must be the same for all of them. Throttles
            without one stay limits of this process.
        name: by which they are known there: ``name:slots``, and ``name:key`` for a `Limit`.
            Unset, the slots are known by the names of the throttles, as in
            ``requests+tokens:slots``.
        named: throttles by the names that calls use.

    Raises:
        ValueError: a reserved name; a name or a throttle that occurs twice; clocks or stores that
            differ; no *name* where one is needed.
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

    # _limits    by key, as the user gave them; what lives in the store, as it is there
    __slots__ = ("_limits", "config")

    _core: SetCore

    @overload
    def __init__(
        self: LimitSet[Throttle],
        *throttles: Throttle,
        concurrency: int = 0,
        config: Mapping[str, Any] | None = None,
        store: Store | None = None,
        name: str | None = None,
        **named: Throttle,
    ) -> None: ...
    @overload
    def __init__(
        self: LimitSet[threads.Throttle],
        *throttles: threads.Throttle,
        concurrency: int = 0,
        config: Mapping[str, Any] | None = None,
        store: Store | None = None,
        name: str | None = None,
        **named: threads.Throttle,
    ) -> None: ...
    @overload
    def __init__(
        self: LimitSet[Any],
        *throttles: BaseThrottle | Limit,
        concurrency: int = 0,
        config: Mapping[str, Any] | None = None,
        store: Store | None = None,
        name: str | None = None,
        **named: BaseThrottle | Limit,
    ) -> None: ...
    def __init__(
        self,
        *throttles: Any,
        concurrency: int = 0,
        config: Mapping[str, Any] | None = None,
        store: Store | None = None,
        name: str | None = None,
        **named: Any,
    ) -> None:
        if config or type(concurrency) is not int or name is not None or store is not None:
            given = {"config": config, "concurrency": concurrency, "store": store, "name": name}
            refuse_reserved(given)
        self.config: Mapping[str, Any] = MappingProxyType(dict(config)) if config else NO_CONFIG
        self._blocks = Blocks()
        self._limits: dict[Hashable, Any] = {}
        for place, limit in enumerate(throttles):
            key = limit.name if isinstance(limit, BaseThrottle) else getattr(limit, "key", None)
            self._add(place if key is None else key, limit)
        for key, limit in named.items():
            if key in RESERVED:
                raise ValueError(f"{key!r} is a reserved name, no limit may have it: {limit!r}")
            self._add(key, limit)
        if store is not None or name is not None:
            self._keep(store, name)
        if concurrency != 0 and whole("concurrency", concurrency):
            kind = self._kind_of_slots()
            where = self._place_of_slots(store, name)
            self._add("concurrency", kind(math.inf, concurrency, **where))
        self._core = SetCore(self._limits)
        if self._core.scheduler.feeder is not None:
            _check_names(self._limits)

    def _add(self, key: Hashable, limit: Any) -> None:
        if isinstance(limit, (list, tuple)):
            raise TypeError(
                f"limits are given one by one, got {limit!r}; async_throttle.limits.LimitSet "
                "takes a list of them"
            )
        if not isinstance(limit, (BaseThrottle, Limit)):
            raise TypeError(f"{key} must be a Throttle or a Limit, got {limit!r}")
        if key in self._limits:
            raise ValueError(f"two limits are called {key!r}")
        self._limits[key] = limit

    def _keep(self, store: Store | None, name: str | None) -> None:
        """Have each `Limit` live in *store* from now on, of which these are other ones."""
        if store is None:
            if all(throttle_of(limit).store is None for limit in self._limits.values()):
                raise ValueError(f"name must go with a store, got {name!r} without one")
            return
        for key, limit in self._limits.items():
            if isinstance(limit, Limit) and limit.throttle.store is None:
                self._limits[key] = limit.stored(store, f"{_named(name)}:{key}")

    def _place_of_slots(self, store: Store | None, name: str | None) -> dict[str, Any]:
        """Where the slots of the set as a whole live, and by which name."""
        stored = [throttle_of(limit) for limit in self._limits.values()]
        stored = [throttle for throttle in stored if throttle.store is not None]
        if store is None and not stored:
            return {"name": "concurrency"}
        if name is None and stored:
            name = "+".join(str(throttle.name) for throttle in stored)
        return {"name": f"{_named(name)}:slots", "store": store or stored[0].store}

    def _kind_of_slots(self) -> type[BaseThrottle]:
        """Of which kind the throttle is that has the slots of the set as a whole."""
        return type(throttle_of(next(iter(self._limits.values())))) if self._limits else Throttle

    def charge(self, amounts: Mapping[Any, float] | None = None, /, **named: float) -> None:
        """Take tokens of the limits that are named now, unasked and into debt if need be.

        For usage that is learnt afterwards, from a response: ``api.charge(tokens=300)``. All of it
        or nothing; limits that are not named are charged nothing.

        Raises:
            ValueError: as a call does; a limit that has slots alone.
        """
        core = self._core
        weights = core.tokens.weigh(by_limit(amounts, named))
        find(core).do(lambda now: core.tokens.charge(now, weights))

    def sync(
        self, counts: Mapping[Any, Mapping[str, Any]] | None = None, /, **named: Mapping[str, Any]
    ) -> None:
        """Take note of what the server says of its own counts, by limit.

        What is said of each is what `Throttle.sync` takes: ``api.sync(tokens={"remaining": 900,
        "reset": 12})``; of one limit also ``api["tokens"].sync(remaining=900, reset=12)``. The
        *lease* may be that of a call of this set.

        Raises:
            ValueError: a name that is no limit, or is said twice; a limit that has slots alone.
            TypeError: as `Throttle.sync` raises it; nothing was taken note of then.
        """
        said = by_limit(counts, named)
        told = [(self._counted(key), _count(key, count)) for key, count in said.items()]

        def lower(now: int) -> None:
            for core, count in told:
                count.lower(core, now)

        find(self._core).do(lower)

    def _counted(self, key: Hashable) -> Core:
        """What is behind the limit *key*, which must have a rate."""
        if not self._core.has_tokens(key):
            raise ValueError(f"{called(key)} has slots alone, and no tokens")
        return core_of(throttle_of(self._limits[key]))

    # -- looking ------------------------------------------------------------------------

    def __getitem__(self, key: Hashable) -> T:
        """The throttle, or the `Limit`, that is called *key*: to see it, change it, pause it."""
        try:
            found: T = self._limits[key]
        except KeyError:
            raise KeyError(self._core.unknown(key)) from None
        return found

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._limits)

    def __len__(self) -> int:
        return len(self._limits)

    def __contains__(self, key: object) -> bool:
        return key in self._limits

    def keys(self) -> list[Hashable]:
        """What the limits are called, in the order in which they were given."""
        return list(self._limits)

    @property
    def level(self) -> dict[Hashable, float]:
        """By limit, tokens left now, whoever uses them; see `Throttle.level`."""
        cores = self._by_key()
        return find(self._core).ask(lambda now: {key: core.level(now) for key, core in cores})

    @property
    def active(self) -> dict[Hashable, int]:
        """By limit, slots held, whoever holds them."""
        cores = self._by_key()
        return find(self._core).ask(lambda now: {key: core.active() for key, core in cores})

    @property
    def capacity(self) -> dict[Hashable, float]:
        """By limit, tokens per period; infinite without a rate. To change it: ``api[key]``."""
        return {key: core.rule.capacity / TOKEN for key, core in self._by_key()}

    def guarantee(self, window: float) -> dict[Hashable, float]:
        """By limit, the most weight that can be admitted in any half-open *window* seconds.

        By whoever uses it; see `Throttle.guarantee`.
        """
        return {key: throttle_of(limit).guarantee(window) for key, limit in self._limits.items()}

    def statistics(self) -> dict[Hashable, Statistics]:
        """By limit, how its throttle stands, whoever uses it: see `Throttle.statistics`.

        What calls waited for a pause of the set itself is told of no limit.

        >>> import asyncio
        >>> from async_throttle import testing
        >>> async def main():
        ...     api = LimitSet(requests=Throttle(1), tokens=Throttle(1_000))
        ...     for _ in range(3):
        ...         async with api(tokens=100):
        ...             pass
        ...     return {limit: told.waited for limit, told in api.statistics().items()}
        >>> testing.run(main())
        {'requests': 2.0, 'tokens': 0.0}
        """
        from async_throttle.statistics import read  # most programs never ask

        cores = self._by_key()
        return find(self._core).ask(lambda now: {key: read(core, now) for key, core in cores})

    def _known_apart(self, since: int) -> bool:
        limits = self._limits
        for key in limits:
            if core_of(throttle_of(limits[key])).number > since:
                apart = getrefcount(limits[key]) > ALONE
                if isinstance(limits[key], Limit):
                    apart = apart or getrefcount(limits[key].throttle) > ALONE
                if apart:
                    return True
        return False

    def _by_key(self) -> list[tuple[Hashable, Core]]:
        return [(key, core_of(throttle_of(limit))) for key, limit in self._limits.items()]

    @property
    def max_waiting(self) -> int | None:
        """Most callers that may queue, by the strictest of its throttles; None is no bound."""
        return self._core.max_waiting

    def _is_shared(self) -> bool:
        """Whether some of its limits live in a store."""
        return any(throttle_of(limit).store is not None for limit in self._limits.values())

    def _made(self) -> dict[str, Any]:
        """What is to be set in a set that is the same one."""
        return {"_limits": self._limits, "config": dict(self.config)}

    def _begin(self, made: dict[str, Any]) -> None:
        """Be a set that was pickled."""
        for name, value in made.items():
            setattr(self, name, value)
        self.config = MappingProxyType(self.config) if self.config else NO_CONFIG
        self._blocks = Blocks()
        self._core = SetCore(self._limits)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A set whose limits live in a store is the same in another process."""
        if not self._is_shared():
            return super().__reduce_ex__(protocol)
        return _made_again, (type(self), self._made())

    def __repr__(self) -> str:
        return repr(self._core)


def _made_again(kind: type[LimitSet[Any]], made: dict[str, Any]) -> LimitSet[Any]:
    """A set that was pickled."""
    found = kind.__new__(kind)
    found._begin(made)
    return found


def _named(name: str | None) -> str:
    if not isinstance(name, str) or not name:
        raise ValueError(f"name must be given with a store, as the key of the limits, got {name!r}")
    return name


def _check_names(limits: Mapping[Hashable, Any]) -> None:
    """Refuse two of *limits* that are one in the store."""
    names: dict[str | None, Hashable] = {}
    for key, limit in limits.items():
        throttle = throttle_of(limit)
        if throttle.store is not None:
            if throttle.name in names:
                raise ValueError(
                    f"{names[throttle.name]!r} and {key!r} are the same limit of the store: "
                    f"{throttle.name!r}"
                )
            names[throttle.name] = key


def _count(key: Hashable, said: Any) -> Count:
    """What is *said* of the limit *key*."""
    if not isinstance(said, Mapping):
        raise TypeError(
            f"{called(key)} must say what the server says by name, as in {{'remaining': 5}}, "
            f"got {said!r}"
        )
    for name in said:
        if name not in SAYS:
            raise TypeError(f"{called(key)} takes {', '.join(SAYS)}, got {name!r}: {said[name]!r}")
    return Count(**said)


def core_of_set(limit_set: LimitSet[Any]) -> SetCore:
    """What is behind the face of *limit_set*: for pools."""
    return limit_set._core


def is_shared(limit_set: LimitSet[Any]) -> bool:
    """Whether *limit_set* is the same one in another process: for pools."""
    return limit_set._is_shared()


def refuse_reserved(given: Mapping[str, Any]) -> None:
    """Refuse limits that are *given* by the names of other arguments."""
    for name, value in given.items():
        if isinstance(value, (BaseThrottle, Limit)):
            raise ValueError(f"{name!r} is a reserved name, no limit may have it: {value!r}")
