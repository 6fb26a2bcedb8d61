"""What a row of the tables is, and how one is made out of samples."""

import math
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, TypeAlias, TypeVar

from .measure import Contender, Samples, paired
from .peers import Peers

T = TypeVar("T")

SLOTS = 10
FOR_EVER = 1e6
"""Seconds that no sample lives to see the end of."""


class Gate(Protocol):
    """What `async with` takes; AbstractAsyncContextManager would ask for coroutine functions."""

    def __aenter__(self) -> Awaitable[object]: ...

    def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> Awaitable[object]: ...


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of work: what it costs with us, and what that is divided by."""

    work: str
    unit: str
    ours: Samples | str
    """Or why it is not there."""
    baseline: str
    theirs: Samples | str
    """What *ours* is divided by; or why it is not there."""
    target: float | None
    """The largest ratio of *ours* to *theirs* that is promised; None where none is."""
    others: Mapping[str, Samples | str]
    """The same work done by each peer; or why it is not."""
    most: float | None = None
    """The largest of *ours* that is promised, where that is promised and no ratio."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody does whom no stopwatch measures: ours, theirs, and what it should be."""

    question: str
    ours: str
    peer: str
    theirs: str
    wanted: str


@dataclass(frozen=True, slots=True)
class Growth:
    """How one event grows with the size of the crowd in which it happens."""

    crowd: str
    event: str
    counts: Mapping[int, int]
    """By size of the crowd, the smallest first: steps."""
    most: float
    """The steepest slope that is promised."""
    not_yet: bool = False
    """Whether it is known to be steeper."""

    @property
    def slope(self) -> float:
        (few, cost_of_few), *_, (many, cost_of_many) = self.counts.items()
        return math.log(cost_of_many / cost_of_few) / math.log(many / few)

    @property
    def kept(self) -> bool:
        return self.slope <= self.most


Finding: TypeAlias = Row | Answer | Growth


@dataclass(frozen=True, slots=True)
class Bench:
    """Who takes part, and whether the runs are long enough to mean something."""

    peers: Peers
    quick: bool

    def pick(self, full: T, quick: T) -> T:
        return quick if self.quick else full

    async def group(
        self,
        rounds: int,
        ours: Mapping[str, Contender],
        peers: Mapping[str, Callable[[Any], Awaitable[float]]] | None = None,
        **how: Any,
    ) -> "Group":
        """Samples of ours, and of the *peers*: see `Peers.contenders`, which is told *how*."""
        theirs = {} if peers is None else self.peers.contenders(peers, **how)
        return Group(await paired({**ours, **theirs}, rounds))

    async def groups(
        self,
        rounds: int,
        contenders: Mapping[str, Callable[[], Awaitable[tuple[float, ...]]] | str],
        numbers: int,
    ) -> "list[Group]":
        """Of samples that are *numbers* each, taken at once: a group for each of these."""
        found = await paired(contenders, rounds)
        return [
            Group(
                {
                    name: samples if isinstance(samples, str) else [each[n] for each in samples]
                    for name, samples in found.items()
                }
            )
            for n in range(numbers)
        ]


class Group:
    """Samples that were taken in turn, out of which rows are made."""

    def __init__(self, samples: Mapping[str, Samples | str]) -> None:
        self._samples = samples

    def __getitem__(self, name: str) -> Samples:
        samples = self._samples[name]
        assert not isinstance(samples, str), f"{name} is no peer, and always there"
        return samples

    def found(self, name: str) -> Samples | None:
        """The samples of *name*, if there are any."""
        samples = self._samples[name]
        return None if isinstance(samples, str) else samples

    def less(self, name: str) -> "Group":
        """The same with the samples of *name* taken away from all others."""
        floor = self[name]
        return Group(
            {
                other: samples
                if isinstance(samples, str)
                else [sample - bare for sample, bare in zip(samples, floor, strict=True)]
                for other, samples in self._samples.items()
                if other != name
            }
        )

    def row(
        self,
        work: str,
        unit: str,
        ours: str,
        baseline: str,
        target: float | None,
        most: float | None = None,
    ) -> Row:
        theirs = self._samples[baseline]
        return Row(work, unit, self[ours], baseline, theirs, target, self._samples, most)


def target(on_311: float, later: float) -> float:
    """CPython 3.12 made coroutines cheaper, and so what our cost is divided by."""
    return on_311 if sys.version_info < (3, 12) else later


Work: TypeAlias = Callable[[Bench], Coroutine[Any, Any, Sequence[Finding]]]
"""A kind of work, which gives its rows."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """Tables of their own."""

    subject: str
    """What of ours is measured."""
    works: Sequence[Work]
    peers: Sequence[str]
    """Who else is compared, besides what each row is divided by."""
