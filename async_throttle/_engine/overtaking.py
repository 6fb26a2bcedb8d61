"""How often the heads of lanes were overtaken on a rule, counted for many of them at once.

The heads stand in order of arrival, in runs of a few dozen. A grant overtakes the earlier arrivals
of worse classes. Mostly those are whole runs, since whoever goes is of the best class that waits;
of such a run the grant is counted once. The heads of other runs are looked at one by one.
"""

from __future__ import annotations

from bisect import bisect_left
from math import inf
from operator import attrgetter
from typing import Final

from async_throttle._engine.lane import Lane

__all__ = ["Head", "Overtaking", "Run", "Turn"]

Turn = tuple[int, int, int, Lane]
"""An aged lane: how often it was overtaken, negative; its class, the arrival of its head."""

_MOST: Final = 32
"""Heads in a run."""

_order = attrgetter("order")


class Head:
    """The head of a lane, as it asks for one rule.

    Attributes:
        lane: the lane.
        order: the arrival of its head.
        times: how often in a row better classes went before the heads of the lane, less what *run*
            counts.
        overtaking, run: where it stands.
    """

    __slots__ = ("lane", "order", "overtaking", "run", "times")

    overtaking: Overtaking

    def __init__(self, lane: Lane, order: int, times: int) -> None:
        self.lane = lane
        self.order = order
        self.times = times
        self.run: Run | None = None

    def overtaken(self) -> int:
        """How often in a row better classes went before the heads of the lane."""
        return self.times if self.run is None else self.times + self.run.grants


class Run:
    """Heads that follow each other in order of arrival.

    Attributes:
        heads: the heads.
        grants: how many grants have overtaken all of them.
        best, worst: the best and the worst class.
        most: no head that was not overtaken often enough yet has more *times*.
        aged: the others, sorted as they have turns, without *grants*; None, if not known.
    """

    __slots__ = ("aged", "best", "grants", "heads", "most", "worst")

    def __init__(self, heads: list[Head], grants: int, most: float) -> None:
        self.heads = heads
        self.grants = grants
        self.most = most
        self.aged: list[Turn] | None = None
        self.rank()

    def rank(self) -> None:
        """See anew which classes there are."""
        classes = [head.lane.priority for head in self.heads]
        self.best, self.worst = min(classes), max(classes)

    def turns(self, enough: int) -> list[Turn]:
        """The lanes that were overtaken *enough* times, as they have turns; see `aged`."""
        if self.aged is None:
            self.aged = sorted(
                (-head.times, head.lane.priority, head.order, head.lane)
                for head in self.heads
                if head.times + self.grants >= enough
            )
        return self.aged

    def ripen(self, enough: int) -> list[Lane]:
        """The lanes that were just overtaken for the *enough*-th time, with all others."""
        grants = self.grants
        self.aged = None
        young = [head.times for head in self.heads if head.times + grants < enough]
        self.most = max(young, default=-inf)
        return [head.lane for head in self.heads if head.times + grants == enough]

    def overtake(self, priority: int, order: int, enough: int) -> list[Lane]:
        """See `Overtaking.overtake`."""
        aged: list[Lane] = []
        grants = self.grants
        self.aged = None
        for head in self.heads:
            if head.order > order:
                break
            if head.lane.priority > priority:
                head.times += 1
                if head.times + grants == enough:
                    aged.append(head.lane)
                elif head.times > self.most and head.times + grants < enough:
                    self.most = head.times
        return aged


class Overtaking:
    """Heads in order of arrival.

    Attributes:
        runs: the heads in runs, none of which is empty.
    """

    __slots__ = ("runs",)

    def __init__(self) -> None:
        self.runs: list[Run] = []

    def stand(self, head: Head) -> None:
        """Let *head* in."""
        runs, order, priority = self.runs, head.order, head.lane.priority
        head.overtaking = self
        if not runs:
            head.run = Run([head], 0, head.times)
            runs.append(head.run)
            return
        n = len(runs) - 1
        run = runs[n]
        if order > run.heads[-1].order:  # a newcomer
            run.heads.append(head)
        else:
            n = bisect_left(runs, order, key=_last)
            run = runs[n]
            run.heads.insert(bisect_left(run.heads, order, key=_order), head)
        times = head.times - run.grants
        head.times = times
        head.run = run
        if priority < run.best:
            run.best = priority
        if priority > run.worst:
            run.worst = priority
        if times > run.most:
            run.most = times
        run.aged = None
        if len(run.heads) > _MOST:
            half = len(run.heads) // 2
            parts = [
                Run(part, run.grants, run.most) for part in (run.heads[:half], run.heads[half:])
            ]
            for part in parts:
                for moved in part.heads:
                    moved.run = part
            runs[n : n + 1] = parts

    def go(self, head: Head) -> None:
        """Take *head* out."""
        run = head.run
        assert run is not None
        head.times += run.grants
        head.run = None
        del run.heads[bisect_left(run.heads, head.order, key=_order)]
        run.aged = None
        if not run.heads:
            self.runs.remove(run)
        elif head.lane.priority in (run.best, run.worst):
            run.rank()

    def move(self, head: Head, order: int, times: int) -> None:
        """The next head of the lane came at *order*; it counts as overtaken so many *times*."""
        run = head.run
        assert run is not None
        heads = run.heads
        if len(self.runs) > 1 and not heads[0].order <= order <= heads[-1].order:
            self.go(head)
            head.order, head.times = order, times
            self.stand(head)
            return
        heads.remove(head)
        times -= run.grants
        head.order, head.times = order, times
        heads.insert(bisect_left(heads, order, key=_order), head)
        run.most = max(run.most, times)
        run.aged = None

    def overtake(self, priority: int, order: int, enough: int) -> list[Lane]:
        """A caller of *priority* that arrived at *order* goes before the heads.

        Returns:
            The lanes that were overtaken for the *enough*-th time.
        """
        aged: list[Lane] = []
        for run in self.runs:
            heads = run.heads
            if heads[0].order > order:
                break
            if run.best > priority and heads[-1].order < order:
                run.grants += 1
                if run.most + run.grants >= enough:
                    aged += run.ripen(enough)
            elif run.worst > priority:
                aged += run.overtake(priority, order, enough)
        return aged

    @property
    def best(self) -> int:
        """The best class."""
        return min(run.best for run in self.runs)


def _last(run: Run) -> int:
    return run.heads[-1].order
