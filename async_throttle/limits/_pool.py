"""Several sets of limits, of which a call takes the one that admits it soonest."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, cast

from async_throttle._shell.lease import Blocks
from async_throttle._shell.scheduler import find, together
from async_throttle._shell.waiting import Option
from async_throttle._units import whole
from async_throttle.limits._core import SetCore
from async_throttle.limits._face import BaseLimits
from async_throttle.limits._set import LimitSet, core_of_set

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


class LimitPool(BaseLimits):
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
    """

    __module__ = "async_throttle"

    __slots__ = ("limit_sets", "load_balancing", "worker_index")

    _core: PoolCore

    def __init__(
        self,
        limit_sets: Iterable[LimitSet],
        load_balancing: LoadBalancingAlgorithm | str | None = None,
        worker_index: int = 0,
    ) -> None:
        self.limit_sets: Sequence[LimitSet] = tuple(limit_sets)
        if not self.limit_sets:
            raise ValueError("limit_sets must hold at least one set, got none")
        for limit_set in self.limit_sets:
            if not isinstance(limit_set, LimitSet):
                raise TypeError(f"limit_sets must hold sets of limits, got {limit_set!r}")
        self.load_balancing = _balancing(load_balancing)
        self.worker_index = whole("worker_index", worker_index)
        self._blocks = Blocks()
        self._core = PoolCore(self.limit_sets, self.load_balancing, self.worker_index)

    def __getitem__(self, index: int) -> LimitSet:
        return self.limit_sets[index]

    def __len__(self) -> int:
        return len(self.limit_sets)

    def __iter__(self) -> Iterator[LimitSet]:
        return iter(self.limit_sets)

    def __repr__(self) -> str:
        return f"<async_throttle.LimitPool of {len(self.limit_sets)} sets>"


class PoolCore:
    """Several cores of sets, of which a call takes the one that admits it soonest.

    Attributes:
        sets: the cores.
        dispatched: how many calls each of them has granted.
        turn: whose turn is next, in a round.
        unit: the weights of a call that names nothing.
    """

    # _usual    what such a call of the usual priority may be granted, by set; None if that is
    #           to be asked each time: a set without limits moves
    __slots__ = ("_balancing", "_first", "_usual", "dispatched", "sets", "turn", "unit")

    def __init__(
        self, limit_sets: Sequence[LimitSet], balancing: LoadBalancingAlgorithm, first: int
    ) -> None:
        self.sets = [core_of_set(limit_set) for limit_set in limit_sets]
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
        """What *amounts* are in the units of the rules of each set."""
        if not amounts:
            return self.unit
        return tuple(core.weigh(amounts) for core in self.sets)

    def options(self, weights: tuple[Any, ...], priority: int) -> Sequence[Option]:
        """To ask for *weights* of each set, the preferred one first."""
        sets = self.sets
        by_load = self._balancing is LoadBalancingAlgorithm.LeastActiveLoad
        if by_load or self._balancing is LoadBalancingAlgorithm.RoundRobin:
            first = self.turn % len(sets)
        elif self._balancing is LoadBalancingAlgorithm.Random:
            first = random.randrange(len(sets))
        else:
            first = self._first % len(sets)
        options = self._usual
        if options is None or priority or weights is not self.unit:
            options = self._of_each(weights, priority)
        if first:
            options = options[first:] + options[:first]
        if by_load:
            return sorted(options, key=_load)
        return options

    def _of_each(self, weights: tuple[Any, ...], priority: int) -> tuple[Option, ...]:
        return tuple(
            option
            for core, asked in zip(self.sets, weights, strict=True)
            for option in core.options(asked, priority)
        )

    def whom(self) -> SetCore:
        """Whose scheduler to ask: they have one."""
        return self.sets[0]

    def granted(self, face: LimitPool, core: SetCore) -> LimitSet:
        """*core* has granted a call: count it; the set whose limits are held."""
        n = self.sets.index(core)
        self.dispatched[n] += 1
        self.turn = n + 1
        return face.limit_sets[n]

    def __repr__(self) -> str:
        return f"<async_throttle.LimitPool of {len(self.sets)} sets>"


def _load(option: Option) -> float:
    return cast(SetCore, option.asked).load()


def _balancing(algorithm: Any) -> LoadBalancingAlgorithm:
    if algorithm is None:
        return LoadBalancingAlgorithm.Soonest
    try:
        return LoadBalancingAlgorithm(algorithm)
    except ValueError:
        names = ", ".join(member.value for member in LoadBalancingAlgorithm)
        raise ValueError(f"load_balancing must be one of {names}, got {algorithm!r}") from None
