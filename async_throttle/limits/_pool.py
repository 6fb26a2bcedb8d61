"""Several sets of limits, of which a call takes the one that admits it soonest."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from async_throttle._desk import Party, together
from async_throttle._units import whole
from async_throttle.limits._acquisition import REFUSED, LimitSetAcquisition, Option
from async_throttle.limits._set import Delay, LimitSet, attempt, begin, soonest

__all__ = ["LimitPool", "LoadBalancingAlgorithm"]


class LoadBalancingAlgorithm(Enum):
    """Which of the sets that could admit a call at once does.

    >>> LoadBalancingAlgorithm("RoundRobin") is LoadBalancingAlgorithm.RoundRobin
    True
    """

    RoundRobin = "RoundRobin"
    """One after the other."""

    Random = "Random"
    """Any."""

    Soonest = "Soonest"
    """The first of them, in the order given: the others are there for what it cannot take."""


class LimitPool:
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

    __slots__ = ("_dispatched", "_turn", "limit_sets", "load_balancing", "worker_index")

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
        self._turn = self.worker_index  # whose turn is next, in a round
        self._dispatched = dict.fromkeys(self.limit_sets, 0)
        limited = [limit_set for limit_set in self.limit_sets if len(limit_set)]
        for limit_set in limited[1:]:
            together(limited[0]._at(), limit_set._at(), self)
        for limit_set in self.limit_sets:
            if not len(limit_set):  # it waits wherever the others do
                limit_set._move((limited or self.limit_sets)[0]._at())

    def __call__(
        self, *, timeout: float | None = None, priority: int = 0, **weights: float
    ) -> LimitSetAcquisition:
        """A call: ``async with pool(tokens=900) as lease:``; see `LimitSet`."""
        return LimitSetAcquisition(self, weights, timeout, priority)

    def acquire(
        self,
        requested: Mapping[Any, float] | None = None,
        timeout: float | None = None,
        *,
        priority: int = 0,
    ) -> LimitSetAcquisition:
        """A call in other words: ``acquire(requested={"tokens": 900})``; see `LimitSet.acquire`.

        Raises:
            ResourceLimitError: no set grants it; says what the first of them says.
            ValueError: a name that is no limit of every set, or a weight that cannot be.
        """
        acquisition = LimitSetAcquisition(self, requested or {}, timeout, priority)
        begin(acquisition)
        return acquisition

    def try_acquire(
        self, requested: Mapping[Any, float] | None = None, *, priority: int = 0, **weights: float
    ) -> LimitSetAcquisition:
        """Take what is asked for of a set that can give it now; see `LimitSet.try_acquire`."""
        acquisition = LimitSetAcquisition(self, {**(requested or {}), **weights}, None, priority)
        if not attempt(acquisition):
            acquisition._state = REFUSED
        return acquisition

    def delay(self, *, priority: int = 0, **weights: float) -> Delay:
        """Seconds until the first of the sets could grant a call; see `LimitSet.delay`."""
        return soonest(self._options(self._weigh(weights), priority))

    def __getitem__(self, index: int) -> LimitSet:
        return self.limit_sets[index]

    def __len__(self) -> int:
        return len(self.limit_sets)

    def __iter__(self) -> Iterator[LimitSet]:
        return iter(self.limit_sets)

    def get_stats(self) -> dict[str, Any]:
        """What was given to whom, and what there is.

        Keys: ``num_limit_sets``, ``load_balancing``, ``worker_index``, ``balancer_stats`` (its
        ``algorithm``, ``total_dispatched``, and ``dispatched`` by place), and ``limit_sets``,
        the stats of each.
        """
        dispatched = list(self._dispatched.values())
        return {
            "num_limit_sets": len(self.limit_sets),
            "load_balancing": self.load_balancing.value,
            "worker_index": self.worker_index,
            "balancer_stats": {
                "algorithm": self.load_balancing.value,
                "total_dispatched": sum(dispatched),
                "dispatched": dispatched,
            },
            "limit_sets": [limit_set.get_stats() for limit_set in self.limit_sets],
        }

    def __repr__(self) -> str:
        return f"<async_throttle.LimitPool of {len(self.limit_sets)} sets>"

    # -- a source of acquisitions -------------------------------------------------------

    def _asked(self) -> Party:
        return self.limit_sets[0]

    def _weigh(self, amounts: Mapping[Any, float]) -> tuple[Any, ...]:
        return tuple(limit_set._weigh(amounts) for limit_set in self.limit_sets)

    def _options(self, weights: tuple[Any, ...], priority: int) -> tuple[Option, ...]:
        sets = self.limit_sets
        if self.load_balancing is LoadBalancingAlgorithm.RoundRobin:
            first = self._turn % len(sets)
        elif self.load_balancing is LoadBalancingAlgorithm.Random:
            first = random.randrange(len(sets))
        else:
            first = self.worker_index % len(sets)
        return tuple(
            (sets[n], sets[n]._line_of(priority), weights[n])
            for n in (*range(first, len(sets)), *range(first))
        )

    def _at_once(self, acquisition: LimitSetAcquisition) -> bool:
        """Never: it is for the sets to say which of them it is."""
        return False

    def _granted(self, limit_set: LimitSet) -> None:
        self._dispatched[limit_set] += 1
        self._turn = self.limit_sets.index(limit_set) + 1


def _balancing(algorithm: Any) -> LoadBalancingAlgorithm:
    if algorithm is None:
        return LoadBalancingAlgorithm.Soonest
    try:
        return LoadBalancingAlgorithm(algorithm)
    except ValueError:
        names = ", ".join(member.value for member in LoadBalancingAlgorithm)
        raise ValueError(f"load_balancing must be one of {names}, got {algorithm!r}") from None
