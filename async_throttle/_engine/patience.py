"""Patience: which lanes have a turn out of rank, so that no class of priority waits for ever.

A lane is *aged* when better classes went before its head `MAX_OVERTAKEN` times in a row on a rule
that both ask for (counted for each rule; the largest count is the lane's). A turn out of rank goes
to the aged lane that was overtaken most often; among equals, to the better class, then to the
earlier arrival. Between two such turns on one rule lie at least `MAX_OVERTAKEN` grants in rank. So
with P classes no head is overtaken more than ``(MAX_OVERTAKEN + 1) * P`` times in a row, and
an urgent newcomer waits for a single turn out of rank at most.

A grant to an aged lane is in rank all the same where no better class had a waiter that could go. A
lane that waits for a rule that no better class asks for has no turn until that rule lets it.

Road not taken: ranks that improve with the time spent waiting make a long queue of the last class
outrank a newcomer of the first, which is what priorities are for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from heapq import heapify, heappop
from typing import Final

from async_throttle._engine.lane import SKIP, Lane
from async_throttle.rules import Rule

__all__ = ["MAX_OVERTAKEN", "Patience"]

MAX_OVERTAKEN: Final = 32
"""How often in a row better classes go before a head until its lane is aged."""


class Patience:
    """The count of grants in rank, for each rule on which a lane went out of rank.

    Attributes:
        in_rank: grants in rank since the last turn out of rank; a rule without an entry had
            enough of them.
        aged: the aged lanes, by the rules for which they ask.
    """

    __slots__ = ("aged", "in_rank")

    def __init__(self) -> None:
        self.in_rank: dict[Rule, int] = {}
        self.aged: dict[tuple[Rule, ...], dict[Lane, None]] = {}

    def look_at(self, lane: Lane) -> None:
        """See whether *lane* is aged."""
        if max(lane.overtaken, default=0) >= MAX_OVERTAKEN:
            self.aged.setdefault(lane.rules, {})[lane] = None

    def begin_anew(self, lane: Lane) -> None:
        """*lane* had its turn, or has no waiters any more."""
        lane.overtaken = [0] * len(lane.rules)
        if self.aged and lane in (alike := self.aged.get(lane.rules, {})):
            del alike[lane]
            if not alike:
                del self.aged[lane.rules]

    def absorb(self, other: Patience) -> None:
        """Take over what *other* knows of other lanes."""
        self.in_rank.update(other.in_rank)
        for rules, lanes in other.aged.items():
            self.aged.setdefault(rules, {}).update(lanes)

    def turns(self, busy: Collection[Lane], now: int) -> list[Lane]:
        """The lanes that rank before all others; no two of them ask for the same rule."""
        if not self.aged:
            return []
        # A lane was overtaken on one of its rules: if none had grants enough, nor had that.
        early = {rule for rule, grants in self.in_rank.items() if grants < MAX_OVERTAKEN}
        families = [lanes for rules, lanes in self.aged.items() if not early.issuperset(rules)]
        aged = [
            (-max(lane.overtaken), lane.priority, lane.waiters[0].order, lane)
            for lanes in families
            for lane in lanes
        ]
        heapify(aged)
        best: dict[Rule, int] = {}
        turns: list[Lane] = []
        taken: set[Rule] = set()
        while aged and len(turns) < len(families):  # of lanes with the same rules one has a turn
            lane = heappop(aged)[3]
            if not taken.isdisjoint(lane.rules):
                continue
            shared = [
                rule
                for rule, times in zip(lane.rules, lane.overtaken, strict=True)
                if times or _best(rule, busy, best) < lane.priority
            ]
            if all(
                self.in_rank.get(rule, MAX_OVERTAKEN) >= MAX_OVERTAKEN for rule in shared
            ) and not _waits_elsewhere(lane, shared, now):
                turns.append(lane)
                taken.update(lane.rules)
        return turns

    def granted(
        self,
        lane: Lane,
        weights: tuple[int, ...],
        order: int,
        busy: Iterable[Lane],
        *,
        out_of_rank: bool,
    ) -> None:
        """Count a grant of *weights* to *lane*, whose waiter arrived at *order*."""
        rules = {rule for rule, weight in zip(lane.rules, weights, strict=True) if weight != SKIP}
        if out_of_rank:
            self.in_rank.update(dict.fromkeys(rules, 0))
        else:
            for rule in rules & self.in_rank.keys():
                self.in_rank[rule] += 1
        for other in busy:
            if other.priority > lane.priority and other.waiters[0].order < order:
                head = other.waiters[0]
                for n, rule in enumerate(other.rules):
                    if rule in rules and head.weights[n] != SKIP:
                        other.overtaken[n] += 1
                        if other.overtaken[n] == MAX_OVERTAKEN:
                            self.look_at(other)


def _best(rule: Rule, busy: Iterable[Lane], best: dict[Rule, int]) -> int:
    """The best class that asks for *rule*; kept in *best*."""
    if rule not in best:
        best[rule] = min(lane.priority for lane in busy if rule in lane.rules)
    return best[rule]


def _waits_elsewhere(lane: Lane, shared: Collection[Rule], now: int) -> bool:
    """Whether the head waits for a rule that no better class asks for, or for a pause.

    A rule that raises gives no turn. The head fails when it is looked at in rank.
    """
    weights = lane.waiters[0].weights
    if lane.opens_for(weights) > now:
        return True
    try:
        return any(
            weights[n] != SKIP and rule not in shared and rule.ready_at(now, weights[n]) > now
            for n, rule in (*lane.slots, *lane.rates)
        )
    except Exception:
        return True
