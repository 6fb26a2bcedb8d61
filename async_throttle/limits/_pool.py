"""Several sets of limits, of which a call takes the one that admits it soonest."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from sys import getrefcount
from typing import TYPE_CHECKING, Any, NoReturn, Self, cast

from async_throttle._base import known_apart
from async_throttle._engine.lane import Receipt
from async_throttle._shell.lease import Blocks
from async_throttle._shell.scheduler import find, together
from async_throttle._shell.waiting import Option, Taker
from async_throttle._units import whole
from async_throttle.limits._core import SetCore
from async_throttle.limits._face import BaseLimits, T
from async_throttle.limits._refusals import unknown
from async_throttle.limits._set import ALONE, LimitSet, core_of_set, is_shared
from async_throttle.limits._tokens import Tokens

if TYPE_CHECKING:
    from async_throttle.statistics import Statistics

__all__ = ["LimitPool", "LoadBalancingAlgorithm"]


class LoadBalancingAlgorithm(Enum):
    """Which of the sets that could admit a call at once does.

    >>> LoadBalancingAlgorithm("RoundRobin") is LoadBalancingAlgorithm.RoundRobin
    True
    """

    __module__ = "async_throttle"

    RoundRobin = "RoundRobin"
    """One after the other."""

    LeastActiveLoad = "LeastActiveLoad"
    """The one with the fewest slots in use, by the limit of which most are; else in turn."""

    Random = "Random"
    """Any."""

    Soonest = "Soonest"
    """The first of them, in the order given: the others are there for what it cannot take."""


class LimitPool(BaseLimits[T]):
    """Several sets of limits, for as many accounts or regions: a call takes one of them.

    ::

        pool = LimitPool([us, eu])
        async with pool(tokens=900) as lease:
            await ask(lease.config["region"])

    A call takes a set that can admit it now; *load_balancing* says which if there are several.
    If none can, it waits for all of them at once and takes the first that comes: a set that is
    paused, full or closed holds nobody up as long as there is another one. Within each set it
    waits in turn, as everybody else does there.

    Args:
        limit_sets: the sets. They may be used alone as well, and be in several pools.
        load_balancing: a `LoadBalancingAlgorithm`, or its name; unset, ``Soonest``.
        worker_index: which set the round begins with.

    Raises:
        ValueError: no set, or a parameter out of range.
        TypeError: something that is no set; sets for threads and others.

    >>> import asyncio
    >>> from collections import Counter
    >>> from async_throttle import Throttle, testing
    >>> async def main():
    ...     us = LimitSet(tokens=Throttle(60_000, period=60), config={"region": "us"})
    ...     eu = LimitSet(tokens=Throttle(30_000, period=60), config={"region": "eu"})
    ...     pool, calls = LimitPool([us, eu]), Counter()
    ...     async def ask() -> None:
    ...         async with pool(tokens=900) as lease:
    ...             region = lease.config["region"]
    ...             calls[region] += 1
    ...             if region == "eu" and calls["eu"] == 10:
    ...                 lease.limit_set.pause(60)  # 429 from there: the other one goes on
    ...     await asyncio.gather(*(ask() for _ in range(100)))
    ...     return calls
    >>> testing.run(main())
    Counter({'us': 90, 'eu': 10})
    """

    __module__ = "async_throttle"

    __slots__ = ("limit_sets", "load_balancing", "worker_index")

    _core: PoolCore

    def __init__(
        self,
        limit_sets: Iterable[LimitSet[T]],
        load_balancing: LoadBalancingAlgorithm | str | None = None,
        worker_index: int = 0,
    ) -> None:
        self.limit_sets: Sequence[LimitSet[T]] = tuple(limit_sets)
        if not self.limit_sets:
            raise ValueError("limit_sets must hold at least one set, got none")
        for limit_set in self.limit_sets:
            if not isinstance(limit_set, LimitSet):
                raise TypeError(f"limit_sets must hold sets of limits, got {limit_set!r}")
        self.load_balancing = _balancing(load_balancing)
        self.worker_index = whole("worker_index", worker_index)
        self._blocks = Blocks()
        self._core = PoolCore(self.limit_sets, self.load_balancing, self.worker_index)

    def charge(self, amounts: Any = None, /, **named: float) -> NoReturn:
        """A pool does not know which of its sets is meant: a TypeError says what to write."""
        raise TypeError(
            "a pool does not know which of its sets is to be charged: say pool[i].charge() or "
            "lease.limit_set.charge()"
        )

    def sync(self, counts: Any = None, /, **named: Any) -> NoReturn:
        """A pool does not know which of its sets is meant: a TypeError says what to write."""
        raise TypeError(
            "a pool does not know which of its sets the server has counted: say pool[i].sync() or "
            "lease.limit_set.sync()"
        )

    @property
    def level(self) -> tuple[dict[Hashable, float], ...]:
        """By set, tokens left now: see `LimitSet.level`."""
        return tuple([limit_set.level for limit_set in self.limit_sets])

    @property
    def active(self) -> tuple[dict[Hashable, int], ...]:
        """By set, slots held: see `LimitSet.active`."""
        return tuple([limit_set.active for limit_set in self.limit_sets])

    @property
    def capacity(self) -> tuple[dict[Hashable, float], ...]:
        """By set, tokens per period: see `LimitSet.capacity`."""
        return tuple([limit_set.capacity for limit_set in self.limit_sets])

    def guarantee(self, window: float) -> tuple[dict[Hashable, float], ...]:
        """By set, the most weight that can be admitted: see `LimitSet.guarantee`."""
        return tuple([limit_set.guarantee(window) for limit_set in self.limit_sets])

    def statistics(self) -> tuple[dict[Hashable, Statistics], ...]:
        """By set, how its limits stand: see `LimitSet.statistics`."""
        return tuple([limit_set.statistics() for limit_set in self.limit_sets])

    def _known_apart(self, since: int) -> bool:
        for n, core in enumerate(self._core.sets):
            if any(member.number > since for member in core.members) and (
                getrefcount(self.limit_sets[n]) > ALONE or known_apart(self.limit_sets[n], since)
            ):
                return True
        return False

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Where its sets live in a store, a pool takes the same ones in another process."""
        if not any(map(is_shared, self.limit_sets)):
            return super().__reduce_ex__(protocol)
        return type(self), (self.limit_sets, self.load_balancing, self.worker_index)

    def __getitem__(self, index: int) -> LimitSet[T]:
        return self.limit_sets[index]

    def __len__(self) -> int:
        return len(self.limit_sets)

    def __iter__(self) -> Iterator[LimitSet[T]]:
        return iter(self.limit_sets)

    def __repr__(self) -> str:
        return f"<async_throttle.LimitPool of {len(self.limit_sets)} sets>"


class PoolOption(Option):
    """An option of a caller of a pool.

    Attributes:
        pool: the mark of the pool.
    """

    pool: object

    @classmethod
    def of(cls, mark: object, option: Option) -> Self:
        """The same as *option*, for a caller of the pool of that *mark*."""
        marked = cls(*option)
        marked.pool = mark
        return marked


class PoolCore:
    """Several cores of sets, of which a call takes the one that admits it soonest.

    Attributes:
        sets: the cores.
        dispatched: how many calls each of them has granted.
        turn: whose turn is next, in a round.
        unit: the weights of a call that names nothing.
    """

    # _mark    what options of this pool are known by: an object without a way back to the pool
    # _usual   what a call that names nothing, of the usual priority, may be granted, by set; None
    #          if that is to be asked each time: a set without limits moves
    __slots__ = ("_balancing", "_first", "_mark", "_usual", "dispatched", "sets", "turn", "unit")

    def __init__(
        self, limit_sets: Sequence[LimitSet[Any]], balancing: LoadBalancingAlgorithm, first: int
    ) -> None:
        self.sets = [core_of_set(limit_set) for limit_set in limit_sets]
        self._mark = object()
        self._balancing = balancing
        self._first = self.turn = first
        self.dispatched = [0] * len(self.sets)
        limited = [core for core in self.sets if core.members]
        for core in limited[1:]:
            together(find(limited[0]), find(core), self)
        for core in self.sets:
            if not core.members:  # it waits wherever the others do
                core.move(find((limited or self.sets)[0]))
        self.unit = tuple([core.unit for core in self.sets])
        self._usual = self._of_each(self.unit, 0) if limited == self.sets else None

    def weigh(self, amounts: Mapping[Any, float]) -> tuple[Any, ...]:
        """What *amounts* are in the units of the rules of each set; None where it lacks one."""
        if not amounts:
            return self.unit
        able = self._able(amounts)
        return tuple([core.weigh(amounts) if core in able else None for core in self.sets])

    def _able(self, amounts: Mapping[Any, float]) -> Sequence[SetCore]:
        """The sets that have all the limits that *amounts* name.

        Raises:
            ValueError: there is none.
        """
        able = [core for core in self.sets if core.limits.keys() >= amounts.keys()]
        if not able:
            missing = [key for key in amounts if all(key not in core.limits for core in self.sets)]
            if missing:
                names = {key: None for core in self.sets for key in core.limits}
                raise ValueError(unknown(missing[0], names, "any set of the pool"))
            raise ValueError(f"no set of the pool has all of {', '.join(map(repr, amounts))}")
        return able

    def options(self, weights: tuple[Any, ...], priority: int) -> Sequence[Option]:
        """To ask for *weights* of each set, the preferred one first."""
        options = self._usual
        if options is None or priority or weights is not self.unit:
            options = self._of_each(weights, priority)
        return self._in_turn(options)

    def _of_each(self, weights: tuple[Any, ...], priority: int) -> tuple[Option | None, ...]:
        return self._marked(
            None if asked is None else core.options(asked, priority)
            for core, asked in zip(self.sets, weights, strict=True)
        )

    def consuming(self, amounts: Mapping[Any, float], priority: int) -> Sequence[Option]:
        """To ask each set for *amounts* of tokens alone, the preferred one first."""
        able = self._able(amounts)
        able = [core for core in able if all(map(core.has_tokens, amounts))] or able
        return self._in_turn(
            self._marked(
                core.consuming(amounts, priority) if core in able else None for core in self.sets
            )
        )

    def _marked(self, options: Iterable[Sequence[Option] | None]) -> tuple[Option | None, ...]:
        """The only option of each set that is a candidate, as that of a caller of this pool."""
        return tuple(
            [None if each is None else PoolOption.of(self._mark, each[0]) for each in options]
        )

    def _in_turn(self, options: tuple[Option | None, ...]) -> Sequence[Option]:
        """The options that there are, the preferred one first."""
        count = len(self.sets)
        by_load = self._balancing is LoadBalancingAlgorithm.LeastActiveLoad
        if by_load or self._balancing is LoadBalancingAlgorithm.RoundRobin:
            first = self.turn % count
        elif self._balancing is LoadBalancingAlgorithm.Random:
            first = random.randrange(count)
        else:
            first = self._first % count
        complete = options is self._usual
        if first:
            options = options[first:] + options[:first]
        found = options if complete else tuple([each for each in options if each])
        in_turn = cast("tuple[Option, ...]", found)
        return sorted(in_turn, key=_load) if by_load else in_turn

    def whom(self) -> SetCore:
        """Whose scheduler to ask: they have one."""
        return self.sets[0]

    def granted(self, face: LimitPool[Any], core: SetCore) -> LimitSet[Any]:
        """*core* has granted a call: count it; the set whose limits are held."""
        return face.limit_sets[self._count(core)]

    def counter(self) -> Taker:
        """What counts grants for which there is no lease."""
        return self

    def _hold(self, receipts: list[Receipt], waited: int, option: Option, spans: Any) -> None:
        self._count(cast(Tokens, option.asked).core)

    def _count(self, core: SetCore) -> int:
        n = self.sets.index(core)
        self.dispatched[n] += 1
        self.turn = n + 1
        return n

    # -- changes, made inside the door --------------------------------------------------

    def hold(self, now: int, span: int, empty: bool) -> None:
        """Grant nobody anything of all sets for *span* nanoseconds."""
        for core in self.sets:
            core.hold(now, span, empty)

    def resume(self, now: int) -> None:
        """End the pauses of all sets now."""
        for core in self.sets:
            core.resume(now)

    def close(self, now: int, drop_waiting: bool) -> None:
        """Refuse callers of all sets, and fail the waiters as well if *drop_waiting*."""
        for core in self.sets:
            core.close(now, drop_waiting)

    # -- questions ----------------------------------------------------------------------

    def waiting(self) -> int:
        """Callers of this pool that are queued; each waits at several sets."""
        queued: Iterable[Any] = find(self.whom()).queue.waiters()
        return len(
            {
                id(waiter.rivals[0] if waiter.rivals else waiter)
                for waiter in queued
                if getattr(getattr(waiter, "option", None), "pool", None) is self._mark
            }
        )

    def idle(self, now: int, since: int) -> bool:
        """Whether all sets are as good as new ones, whose throttles from *since* on are new."""
        return all(core.idle(now, since) for core in self.sets)

    def occupied(self) -> bool:
        """Whether a caller of one of the sets waits, or holds what it was granted."""
        return any(core.occupied() for core in self.sets)

    def locked(self) -> bool:
        """Whether no set would grant a call that takes 1 of everything at once."""
        return all(core.locked() for core in self.sets)

    def paused_for(self, now: int) -> int:
        """Nanoseconds until the first of the sets is not paused."""
        return min(core.paused_for(now) for core in self.sets)

    def __repr__(self) -> str:
        return f"<async_throttle.LimitPool of {len(self.sets)} sets>"


def _load(option: Option) -> float:
    asked: Any = option.asked
    core: SetCore = asked.core if isinstance(asked, Tokens) else asked
    return core.load()


def _balancing(algorithm: Any) -> LoadBalancingAlgorithm:
    if algorithm is None:
        return LoadBalancingAlgorithm.Soonest
    try:
        return LoadBalancingAlgorithm(algorithm)
    except ValueError:
        names = ", ".join(member.value for member in LoadBalancingAlgorithm)
        raise ValueError(f"load_balancing must be one of {names}, got {algorithm!r}") from None
