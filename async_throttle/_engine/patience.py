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

from collections.abc import Collection, Iterable, Iterator, Sequence
from heapq import heapify, heappop, heapreplace
from math import inf
from typing import Final

from async_throttle._engine.lane import SKIP, Lane
from async_throttle._engine.overtaking import Head, Overtaking, Run
from async_throttle._units import NEVER
from async_throttle.rules import Rule

__all__ = ["MAX_OVERTAKEN", "Patience"]

MAX_OVERTAKEN: Final = 32
"""How often in a row better classes go before a head until its lane is aged."""


class Patience:
    """Who was overtaken how often, and the grants in rank since the last turn out of rank.

    Attributes:
        in_rank: by rule on which a lane went out of rank, the grants in rank since then; a rule
            without an entry had enough of them.
        heads: by busy lane, its head as it asks for each of the rules. They are kept from the
            moment at which somebody may overtake until nobody waits.
        asking: by rule, those that ask for it.
        idle: by rule, those that do without it.
        aged: the aged lanes, by the rules for which they ask.
    """

    __slots__ = ("aged", "asking", "heads", "idle", "in_rank")

    def __init__(self) -> None:
        self.in_rank: dict[Rule, int] = {}
        self.heads: dict[Lane, list[Head]] = {}
        self.asking: dict[Rule, Overtaking] = {}
        self.idle: dict[Rule, Overtaking] = {}
        self.aged: dict[tuple[Rule, ...], dict[Lane, None]] = {}

    # -- lanes --------------------------------------------------------------------------

    def watch(self, busy: Iterable[Lane]) -> None:
        """Count from now on how often the heads of *busy* are overtaken."""
        for lane in busy:
            if lane not in self.heads:
                self.enter(lane)

    def enter(self, lane: Lane, times: Sequence[int] = ()) -> None:
        """*lane* has a head, which was overtaken so many *times* by rule, or never."""
        times = times or [0] * len(lane.rules)
        order = lane.waiters[0].order
        self.heads[lane] = heads = [Head(lane, order, each) for each in times]
        weights = lane.waiters[0].weights
        for rule, weight, head in zip(lane.rules, weights, heads, strict=True):
            self._stand(rule, head, self.asking if weight != SKIP else self.idle)
        if max(times, default=0) >= MAX_OVERTAKEN:
            self._age(lane)

    def move(self, lane: Lane) -> None:
        """The head of *lane* may have left: the next one has been overtaken as often."""
        heads, order = self.heads[lane], lane.waiters[0].order
        if heads and heads[0].order != order:
            self._move(lane, order, [head.overtaken() for head in heads])

    def renew(self, lane: Lane) -> None:
        """The head of *lane* had its turn, and the next one begins anew."""
        self._forget(lane)
        self._move(lane, lane.waiters[0].order, [0] * len(lane.rules))

    def begin_anew(self, lane: Lane) -> None:
        """*lane* has no waiters any more."""
        heads = self.heads.pop(lane, None)
        if heads is not None:
            for rule, head in zip(lane.rules, heads, strict=True):
                self._go(rule, head)
            self._forget(lane)

    def times(self, lane: Lane) -> list[int]:
        """By rule, how often in a row better classes went before the head of *lane*, if ever."""
        return [head.overtaken() for head in self.heads.get(lane, ())]

    def know(self, lane: Lane, times: Sequence[int]) -> None:
        """The head of *lane* is another than it was, and was overtaken so many *times*."""
        if self.heads:
            self.begin_anew(lane)
            self.enter(lane, times)

    def absorb(self, other: Patience) -> None:
        """Take over what *other* knows of other lanes, which ask for other rules."""
        self.in_rank.update(other.in_rank)
        self.heads.update(other.heads)
        self.asking.update(other.asking)
        self.idle.update(other.idle)
        self.aged.update(other.aged)

    def _move(self, lane: Lane, order: int, times: Iterable[int]) -> None:
        weights = lane.waiters[0].weights
        for n, (rule, head, each) in enumerate(
            zip(lane.rules, self.heads[lane], times, strict=True)
        ):
            sort = self.asking if weights[n] != SKIP else self.idle
            overtaking = head.overtaking
            if sort.get(rule) is overtaking:
                overtaking.move(head, order, each)
            else:
                self._go(rule, head)
                head.order, head.times = order, each
                self._stand(rule, head, sort)

    def _stand(self, rule: Rule, head: Head, sort: dict[Rule, Overtaking]) -> None:
        overtaking = sort.get(rule)
        if overtaking is None:
            overtaking = sort[rule] = Overtaking()
        overtaking.stand(head)

    def _go(self, rule: Rule, head: Head) -> None:
        overtaking = head.overtaking
        overtaking.go(head)
        if not overtaking.runs:
            del (self.asking if self.asking.get(rule) is overtaking else self.idle)[rule]

    def _forget(self, lane: Lane) -> None:
        """*lane* is aged no more."""
        if self.aged and lane in (alike := self.aged.get(lane.rules, {})):
            del alike[lane]
            if not alike:
                del self.aged[lane.rules]

    def _age(self, lane: Lane) -> None:
        self.aged.setdefault(lane.rules, {})[lane] = None

    # -- turns --------------------------------------------------------------------------

    def turns(self, now: int, newcomers: Lane | None = None) -> tuple[list[Lane], int]:
        """The lanes that rank before all others; no two of them ask for the same rule.

        The instant comes next at which time alone gives a turn to another lane; NEVER if none.
        """
        if not self.aged:
            return [], NEVER
        # A lane was overtaken on one of its rules: if none had grants enough, nor had that.
        early = {rule for rule, grants in self.in_rank.items() if grants < MAX_OVERTAKEN}
        families = {rules: None for rules in self.aged if not early.issuperset(rules)}
        if not families:
            return [], NEVER
        turns: list[Lane] = []
        until = NEVER
        taken: set[Rule] = set()
        for lane in self._aged(families):
            if lane.rules not in families or not taken.isdisjoint(lane.rules):
                continue
            shared = [
                rule
                for rule, times in zip(lane.rules, self.times(lane), strict=True)
                if times or self._best(rule, newcomers) < lane.priority
            ]
            if any(self.in_rank.get(rule, MAX_OVERTAKEN) < MAX_OVERTAKEN for rule in shared):
                continue
            waits_until = _waits_elsewhere(lane, shared, now)
            if waits_until > now:
                until = min(until, waits_until)
                continue
            turns.append(lane)
            taken.update(lane.rules)
            if len(turns) == len(families):  # of lanes with the same rules one has a turn
                break
        return turns, until

    def _aged(self, families: Iterable[tuple[Rule, ...]]) -> Iterator[Lane]:
        """The aged lanes with a rule of *families*, as they have turns; some come again."""
        rules = {rule: None for family in families for rule in family}
        runs = [
            run
            for rule in rules
            for heads in (self.asking.get(rule), self.idle.get(rule))
            if heads is not None
            for run in heads.runs
            if run.aged or (run.aged is None and run.turns(MAX_OVERTAKEN))
        ]
        pending = [_turn(runs, number, 0) for number in range(len(runs))]
        heapify(pending)
        while pending:
            *_, number, place = pending[0]
            turns = runs[number].turns(MAX_OVERTAKEN)
            yield turns[place][-1]
            if place + 1 < len(turns):
                heapreplace(pending, _turn(runs, number, place + 1))
            else:
                heappop(pending)

    def has_better(self, lane: Lane) -> bool:
        """Whether a better class than that of *lane* asks for one of its rules."""
        return any(self._best(rule) < lane.priority for rule in lane.rules)

    def _best(self, rule: Rule, newcomers: Lane | None = None) -> int | float:
        """The best class that asks for *rule*."""
        best: list[int | float] = [inf]
        if newcomers is not None and rule in newcomers.rules:
            best.append(newcomers.priority)
        best += [sort[rule].best for sort in (self.asking, self.idle) if rule in sort]
        return min(best)

    def granted(
        self, lane: Lane, weights: tuple[int, ...], order: int, *, out_of_rank: bool
    ) -> None:
        """Count a grant of *weights* to *lane*, whose waiter arrived at *order*."""
        weighed = zip(lane.rules, weights, strict=True)
        rules = {rule: None for rule, weight in weighed if weight != SKIP}
        if out_of_rank:
            self.in_rank.update(dict.fromkeys(rules, 0))
        elif self.in_rank:
            for rule in rules:
                if rule in self.in_rank:
                    self.in_rank[rule] += 1
        for rule in rules:
            if rule in self.asking:
                for aged in self.asking[rule].overtake(lane.priority, order, MAX_OVERTAKEN):
                    self._age(aged)


def _turn(runs: Sequence[Run], number: int, place: int) -> tuple[int, int, int, int, int]:
    """What ranks the lane at *place* of those that have turns in the run of that *number*."""
    run = runs[number]
    times, priority, order, _ = run.turns(MAX_OVERTAKEN)[place]
    return times - run.grants, priority, order, number, place


def _waits_elsewhere(lane: Lane, shared: Collection[Rule], now: int) -> int:
    """Until when the head waits for rules that no better class asks for, or for a pause.

    A rule that raises gives no turn. The head fails when it is looked at in rank.
    """
    weights = lane.waiters[0].weights
    at = max(now, lane.opens_for(weights))
    try:
        for n, rule in (*lane.slots, *lane.rates):
            if at < NEVER and weights[n] != SKIP and rule not in shared:
                at = max(at, rule.ready_at(at, weights[n]))
    except Exception:
        return NEVER
    return at
