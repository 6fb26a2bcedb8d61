"""The queue: arrivals, grants, departures and time, for rules that depend on each other.

Waiters stand in lanes. A `Throttle` has two lanes: for a slot and tokens, and for tokens alone. A
`LimitSet` has one lane, over the rules of its members. Every class of priority has a lane of its
own over the same rules.

Invariants:

1. The head of a lane with waiters is queued, and the lane stands in `busy`; empty lanes do not.
2. Within a lane waiters go in order of arrival. Lanes are ranked by class, then by the arrival of
   the head (`patience` has the exception). A waiter goes as soon as its rules let it, unless a
   waiter that ranks before it would go later for that: see `backfill`.
3. The weights of a waiter are taken together or not at all. A queued waiter holds nothing.
4. After `advance` no waiter could go at *now*; the next grant by time alone comes at `wake_at`.
5. Time moves in events. An event at *now* first advances the queue to *now*: waiters that were due
   are granted or expire, in the order of the instants. Then the event makes its change, and the
   queue advances once more. A late grant counts from the instant at which it was due (if its rules
   *backdate*), as long as that was at most *grace* ago: late timers do not wear down the long-run
   rate, and a loop that was blocked does not burst.
6. A grant is a single assignment, ``waiter.state = GRANTED``. The weights taken before it are given
   back if a rule raises. The fields counted after it follow from the states, so that `check.repair`
   can put them right. So an exception may come at every moment.
7. While several lanes are busy, they stand in the index, which answers what `next_of_all` finds by
   looking at all of them. It is out of date only by the lanes and clusters that are noted there as
   dirty and stale. An owner of the queue that changes rules without saying so is not `trusting`:
   then the index is made anew.
8. A rule that raises fails the waiter for which it was asked; the next waiters go on.

Roads not taken: waking the head and letting it look again loses wake-ups when it has been
cancelled meanwhile, and lets newcomers in between; a timer for every waiter wakes a herd.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush, merge
from itertools import count
from operator import attrgetter
from typing import Any, Final, Protocol

from async_throttle._engine import decide
from async_throttle._engine.backfill import Rank, Reservations, obstacle
from async_throttle._engine.index import Index
from async_throttle._engine.lane import (
    ENDED,
    EXPIRED,
    FAILED,
    GONE,
    GRANTED,
    NOBODY,
    NONE_YET,
    QUEUED,
    SKIP,
    UNFIT,
    UNTAKEN,
    Bottleneck,
    Callers,
    Lane,
    Lanes,
    Pause,
    Receipt,
    State,
    Waiter,
    give_back,
)
from async_throttle._engine.patience import Patience
from async_throttle._units import NEVER
from async_throttle.rules import Rule
from async_throttle.rules.slots import Slots

__all__ = ["Queue", "arrivals"]

NO_DEMAND: Final[dict[Rule, int]] = {}
"""Stays empty: what the demand is until a rule gets its permits from outside."""

_UNCOUNTED: Final[Mapping[Rule, Callers]] = {}
arrivals = count(1)  # over all queues, so that two of them can become one


class Foresight(Protocol):
    """A forecast that is kept, as the queue sees it: see `foresight`."""

    def joined(self, waiter: Waiter, now: int) -> bool:
        """*waiter* has arrived at *now*; whether the forecast is still good."""
        ...

    def granted(self, waiter: Waiter, now: int) -> bool:
        """*waiter* was granted as of *now*; whether the forecast is still good."""
        ...

    def took(self, lane: Lane, weights: tuple[int, ...], now: int) -> bool:
        """A newcomer to *lane* is about to go at once; whether the forecast is still good."""
        ...

    def changes(self, rule: Rule) -> bool:
        """*rule* is about to change; whether the forecast is still good."""
        ...

    def close(self) -> None:
        """The forecast is dropped."""
        ...


class Queue:
    """The waiters for a group of rules that depend on each other.

    Attributes:
        now: the instant of the last event.
        grace: how many nanoseconds of a timer's lateness are paid back.
        wake_at: instant of the next grant that time alone will bring; NEVER without such a grant.
        due_at: instant of the next change that time alone will bring: a grant, a deadline, the end
            of a pause that empties. Until then `advance` only sets *now*.
        decided: the waiters whose state has changed, and whose callers have not been told yet.
        demand: by rule, the weight that waiters want while the rule answers UNKNOWN.
        errors: the exceptions of rules at the end of a pause, which belong to no waiter.
        feeds: whether a rule gets its permits from outside, and is to be told what is wanted.
        waiting: the number of queued waiters.
        busy: the lanes with waiters.
        ranked: the number of busy lanes that are not of the usual priority.
        lanes: the lanes that are in use, by class, kind and rules.
        emptying: the pauses that will empty a rule when they end.
        deadlines: a heap of (deadline, order, waiter); waiters that have left may be among them.
        patience: the count of turns out of rank.
        index: the busy lanes by what blocks them, while there are several.
        taking: what the grant under way has taken so far: see `pending`.
        trusting: whether the owner of the queue tells which rules it changes: see `touched`.
        doubtful: whether rules may have changed unknown to the index.
        counts: for the rules whose callers are counted, who waits for them.
        foresight: the last forecast, as long as the queue does what it foresaw; or None.
        lone: the only busy lane, if it is the lane of a throttle and nothing watches its grants:
            no rank, no count, no forecast, no permits from outside; else None.
    """

    __slots__ = (
        "busy",
        "counts",
        "deadlines",
        "decided",
        "demand",
        "doubtful",
        "due_at",
        "emptying",
        "errors",
        "feeds",
        "foresight",
        "grace",
        "index",
        "lanes",
        "lone",
        "now",
        "patience",
        "ranked",
        "taking",
        "trusting",
        "waiting",
        "wake_at",
    )

    def __init__(self, now: int, grace: int) -> None:
        self.now = now
        self.grace = grace
        self.wake_at = self.due_at = NEVER
        self.decided: deque[Waiter] = NOBODY
        self.demand: dict[Rule, int] = NO_DEMAND
        self.errors: list[Exception] = NONE_YET
        self.feeds = False
        self.waiting = 0
        self.busy: list[Lane] = NONE_YET
        self.ranked = 0
        self.lanes = Lanes()
        self.emptying: list[Pause] = NONE_YET
        self.deadlines: list[tuple[int, int, Waiter]] = NONE_YET
        self.patience = Patience()
        self.index = Index()
        self.taking: Sequence[Receipt] = ()
        self.trusting = False
        self.doubtful = True
        self.counts: Mapping[Rule, Callers] = _UNCOUNTED
        self.foresight: Foresight | None = None
        self.lone: Lane | None = None

    # -- lanes --------------------------------------------------------------------------

    def lane(
        self,
        rules: tuple[Rule, ...],
        pauses: tuple[Pause, ...],
        priority: int = 0,
        places: tuple[int, ...] | None = None,
    ) -> Lane:
        """The lane for waiters of *priority* that ask for *rules* and are held by *pauses*.

        With *places* the lane has a bottleneck: the first of *pauses* is the lane's own, which
        holds the whole lane, and the next pauses belong to the rules at *places*. Equal arguments
        (the pauses are not looked at) give the same lane as long as it is referred to.
        """
        key = (priority, places is None, *map(id, rules))
        lane = self.lanes.get(key)
        if lane is None:
            if places is None:
                lane = Lane(rules, pauses, priority)
            else:
                to_the_end = any(rule.in_flight for rule in rules)
                bottleneck = Bottleneck(len(rules), self.now, to_the_end=to_the_end)
                lane = Lane(rules, pauses, priority, (len(rules), *places), bottleneck)
            self.lanes.add(lane)
            lane.see(self.counts)  # what has changed until it was known here was not told to it
            self.feeds = self.feeds or bool(lane.told)
        return lane

    def absorb(self, other: Queue) -> None:
        """Take over the lanes and waiters of *other*, whose *now* is the same."""
        assert self.now == other.now, "two clocks: one of them must be shifted first"
        if other.busy or other.emptying:
            self.forget()
        other.forget()
        self.counts = {**self.counts, **other.counts}
        for lane in other.lanes.values():
            self.lanes.add(lane)
        if len(self.busy) > 1:
            for lane in other.busy:
                self.index.enter(lane)
        elif other.busy:
            self.doubtful = True
        self.busy = [*self.busy, *other.busy]
        self.ranked += other.ranked
        self.emptying = [*self.emptying, *other.emptying]
        self.decided = self.decided + other.decided
        self.waiting += other.waiting
        if other.deadlines:
            self.deadlines = list(merge(sorted(self.deadlines), sorted(other.deadlines)))
        self.feeds = self.feeds or other.feeds
        self.patience.absorb(other.patience)
        if self.patience.heads:
            self.patience.watch(self.busy)
        self.lone = self.find_lone()
        self.due_at = self.now

    def shift(self, by: int) -> None:
        """Move every instant by *by* nanoseconds: the queue goes by a different clock now."""
        lanes = self.lanes.values()
        self.forget()
        self.now += by
        for rule in {rule: None for lane in lanes for rule in lane.rules}:
            rule.shift(by)
        for pause in {pause: None for lane in lanes for pause in lane.pauses}:
            if pause.until < NEVER:
                pause.until += by
        for lane in lanes:
            lane.reopen()
            if lane.bottleneck is not None:
                lane.bottleneck.since += by
        for waiter in self.waiters():
            if waiter.deadline < NEVER:
                waiter.deadline += by
        self.deadlines = [
            (waiter.deadline, order, waiter)
            for _, order, waiter in self.deadlines
            if waiter.state is QUEUED
        ]
        heapify(self.deadlines)
        self.due_at = self.now
        self.doubtful = True

    @property
    def expires_at(self) -> int:
        """The earliest deadline of a waiter; NEVER without a deadline."""
        deadlines = self.deadlines
        while deadlines and deadlines[0][2].state is not QUEUED:
            heappop(deadlines)
        return deadlines[0][0] if deadlines else NEVER

    def waiters(self) -> Iterator[Waiter]:
        """The queued waiters."""
        return (waiter for lane in self.busy for waiter in lane)

    def asking(self, rule: Rule) -> Collection[Lane]:
        """Lanes with waiters; those that ask for *rule*, which may block, are among them."""
        several = len(self.busy) > 1 and not self.doubtful
        return self.index.asking.get(rule, ()) if several else self.busy

    def count(self, rule: Rule) -> int:
        """The number of callers that wait for *rule*."""
        callers = self.counts.get(rule)
        if callers is not None:
            return len(callers)
        asking = [lane for lane in self.lanes.asking(rule) if lane.waiters]
        alone = sum(len(lane) for lane in asking if lane.bottleneck is None)
        sets = [lane for lane in asking if lane.bottleneck is not None]
        return alone + len(_counted(rule, sets))

    def keep_count(self, rule: Rule) -> Callers:
        """Count the callers that wait for *rule* as they come and go, from now on."""
        counts = self.counts
        if rule not in counts:
            if len(counts) & (len(counts) - 1) == 0:  # as often as is cheap: rules come and go
                counts = {rule: callers for rule, callers in counts.items() if len(callers)}
            self.counts = {**counts, rule: self.counted(rule)}
            for lane in list(self.lanes.values()):
                lane.count(self.counts)
            self.lone = self.find_lone()
        return self.counts[rule]

    def counted(self, rule: Rule) -> Callers:
        """The callers that wait for *rule*, counted anew."""
        return _counted(rule, [lane for lane in self.lanes.asking(rule) if lane.waiters])

    def forget(self) -> None:
        """What was foreseen may come differently: drop the forecast."""
        foresight = self.foresight
        if foresight is not None:
            self.foresight = None
            self.lone = self.find_lone()
            foresight.close()

    def foresee(self, foresight: Foresight) -> None:
        """Keep *foresight*, which is told of what happens from now on."""
        self.foresight = foresight
        self.lone = None

    def find_lone(self) -> Lane | None:
        """What *lone* is, by what there is: kept by those methods that change what decides it."""
        if len(self.busy) != 1 or self.foresight is not None or self.patience.heads:
            return None
        lane = self.busy[0]
        if lane.bottleneck is not None or lane.counted or lane.told or not lane.single:
            return None
        return lane

    def pending(self, rule: Rule) -> int:
        """What the grant under way has taken of *rule*: as of the last event it is still there."""
        return sum(
            weight
            for taken, weight, receipt in self.taking
            if receipt is not UNTAKEN and (taken is rule or taken is rule.in_flight)
        )

    # -- time ---------------------------------------------------------------------------

    def advance(self, now: int, *, final: bool = True) -> None:
        """Let time pass until *now*: grants and expiries on the way, in order, are *decided*.

        Unless the call is *final*, a waiter whose deadline is *now* does not expire yet: the change
        that is about to be made at this instant may grant it.
        """
        self.index.present = now
        if not self.trusting:
            self.doubt()
        while True:
            lane, due = self.lone, -1
            if lane is not None and not (self.emptying or self.deadlines):
                due = self._grant_lone(lane, now)
            if due < 0:
                lane, due = self.next_grant()
            if self.emptying and self._ends_pauses(min(now, due)):
                continue
            if lane is None:
                break
            if self.deadlines and self.expires_at < due:
                expires_at = self.expires_at
                if expires_at > now or (expires_at == now and not final):
                    break
                self._expire(expires_at)
            elif due > now:
                break
            else:
                if not lane.backdates:
                    self.now = now
                elif due > self.now:
                    self.now = max(due, now - self.grace)
                self.grant(lane, now)
        self.now = now
        self.wake_at = self.due_at = min(due, NEVER)
        if self.deadlines:
            self._sweep_deadlines()
            self.due_at = min(due, self.expires_at)
        for pause in self.emptying:
            self.due_at = min(self.due_at, pause.until)
        if self.feeds:
            self._note_demand()

    def _grant_lone(self, lane: Lane, now: int) -> int:
        """Grant the heads of the *lone* lane that are due until *now*, as long as more wait.

        What `next_grant` and `grant` do, without the questions that a lone lane spares. The rate is
        taken from first: after that, nothing can come in before the waiter is granted.

        Returns:
            When the head is due that comes next; -1 if that is for `next_grant` to find.
        """
        waiters, decided = lane.waiters, self.decided
        place, slots = lane.slots[0] if lane.slots else (0, None)
        n, rate = lane.rates[0] if lane.rates else (0, None)
        while len(waiters) > 1 and not lane.left:
            head = waiters[0]
            wanted, weight = head.weights[place], head.weights[n]
            if head.cancelled() or head.rivals or wanted == SKIP or weight == SKIP:
                return -1
            if slots is not None and slots.free < wanted > 0:
                return NEVER
            due = max(self.now, lane.opens_at)
            taken: Receipt = [rate, weight, UNTAKEN]
            receipts = [taken] if slots is None else [[slots, wanted, None], taken]
            try:
                if rate is not None:
                    due = rate.ready_at(due, weight)
                if due > now:
                    return due
                if not lane.backdates or due > self.now:
                    self.now = max(due, now - self.grace) if lane.backdates else now
                decided.append(head)
                if rate is None:
                    receipts.pop()
                else:
                    taken[2] = rate.take(self.now, weight)
            except Exception as error:
                if decided and decided[-1] is head:
                    decided.pop()
                self._fail(head, error)
                return -1
            if slots is not None:
                slots.free -= wanted
            if rate is not None:
                lane.backlog[n] -= weight
            head.receipts, head.granted_at, head.state = receipts, now, GRANTED
            self.waiting -= 1
            waiters.popleft()
        return -1

    def next_grant(self) -> tuple[Lane | None, int]:
        """The lane whose head goes next by time alone, and when; NEVER if no head does."""
        busy = self.busy
        if len(busy) > 1:
            self.index.rouse()
        ranked_at = self.now
        while True:
            if not busy:
                return None, NEVER
            if len(busy) == 1:  # a single lane, so rank decides nothing
                lane = busy[0]
                head = lane.waiters[0]
                if head.cancelled():
                    self._sweep_out(head)
                    continue
                try:
                    due, place = lane.binding(self.now, head.weights)
                except Exception as error:
                    self._fail(head, error)
                    continue
                if place >= 0 and lane.bottleneck is not None:
                    lane.bottleneck.wait_for(place, self.index.present)
                return lane, due
            found = self._next_in_clusters(ranked_at)
            if found is not None:
                if not self.awaits_turn(found[1]):
                    return found
                ranked_at = self.index.turns_until

    def awaits_turn(self, due: int) -> bool:
        """Whether another lane has a turn out of rank by the instant that was found *due*."""
        return self.ranked > 0 and self.index.turns_until < NEVER and self.index.turns_until <= due

    def _next_in_clusters(self, ranked_at: int) -> tuple[Lane, int] | None:
        """The lane whose head goes next, and when; None if that is to be asked again.

        Lanes have the turns out of rank that they have at the instant *ranked_at*.
        """
        index = self.index
        if not self._renew(ranked_at):
            return self.next_of_all(ranked_at)
        lane, due, cluster = decide.first(index, self.now)
        if cluster is None:
            return (self.busy[0] if lane is None else lane), due
        if not cluster.odd and (not cluster.rivalled or cluster.united()):
            decide.foremost(index, cluster, self.now)
            if index.quitters:
                self._sweep_quitters()
                index.stale[cluster] = None
                cluster.stale = True
            else:
                decide.note(index, cluster)
            return None
        lanes = list(cluster.lanes)
        self._sweep_cancelled(lanes)
        if not all(lane.waiters for lane in lanes) or index.dirty:
            return None
        found = self._next_in_rank(lanes, ranked_at)
        if found is not None:
            cluster.found, cluster.at = found
            cluster.rank = _rank(found[0], index.turns)
            cluster.stale = False
            decide.note(index, cluster)
        return None

    def _renew(self, ranked_at: int) -> bool:
        """Have the index up to date, with the turns that lanes have at the instant *ranked_at*.

        Returns:
            Whether the lanes may be decided by it.
        """
        if self.doubtful:
            self.index.rebuild(self.busy)
            self.doubtful = False
        index = self.index
        if (self.ranked or index.turns) and index.turns_at != ranked_at:
            turns, index.turns_until = self._turns(ranked_at)
            if turns != index.turns:
                for lane in [*index.turns, *turns]:
                    index.changed(lane)
                index.turns = turns
            index.turns_at = ranked_at
        index.renew(self.now)
        return not index.entangled

    def _sweep_quitters(self) -> None:
        """Take out the heads that were looked at, and whose callers were cancelled."""
        quitters, self.index.quitters = self.index.quitters, []
        self._sweep_cancelled(quitters)

    def next_of_all(self, ranked_at: int) -> tuple[Lane, int] | None:
        """What `_next_in_clusters` finds, without the index: by looking at all lanes."""
        self._sweep_cancelled(self.busy)
        return self._next_in_rank(self.busy, ranked_at) if self.busy else None

    def _next_in_rank(self, lanes: Iterable[Lane], ranked_at: int) -> tuple[Lane, int] | None:
        """Which head of *lanes* goes next, by rank, and when; None if a rule has failed a head.

        No other lane asks for their rules.
        """
        present = self.index.present
        turns, self.index.turns_until = self._turns(ranked_at)
        ranked = sorted(lanes, key=lambda lane: _rank(lane, turns))
        ahead = Reservations()
        before: list[tuple[Reservations, int]] = []  # by lane: the reservations of earlier ranks
        besides: dict[int, _Besides] = {}  # the same without those of one caller
        candidates: list[tuple[int, int]] = []  # the instant by the lane's own rules, and its place
        limit = NEVER
        head = ranked[0].waiters[0]
        try:
            for n, lane in enumerate(ranked):
                head = lane.waiters[0]
                due, place = lane.binding(self.now, head.weights)
                others = ahead
                if head.rivals:  # a caller is no obstacle to itself
                    failed = len(self.decided)
                    others = self._reserve_besides(ranked[:n], _rank(lane, turns), head, besides)
                    if len(self.decided) > failed:
                        return None
                before.append((others, len(others.lanes)))
                missing = others.missing(lane, head.weights)
                if missing >= 0:
                    due, place = NEVER, missing
                if not ahead.lanes:  # no earlier head has an instant: this head goes at its own
                    limit = min(limit, due)
                if due < NEVER and due <= limit:
                    candidates.append((due, n))
                ahead.add(lane, head.weights, due)
                if place >= 0 and lane.bottleneck is not None:
                    lane.bottleneck.wait_for(place, present)
            heapify(candidates)
            while candidates:
                at, n = heappop(candidates)
                lane = ranked[n]
                head = lane.waiters[0]
                others, number = before[n]
                place, again = obstacle(
                    others.lanes[:number],
                    head.rivals,
                    lane,
                    head.weights,
                    at,
                    _rank(lane, turns),
                    limit,
                )
                if place < 0:
                    return lane, at
                if lane.bottleneck is not None:
                    lane.bottleneck.wait_for(place, present)
                if again < limit:
                    heappush(candidates, (again, n))
        except Exception as error:
            self._fail(head, error)
            return None
        return ranked[0], NEVER

    def grant(self, lane: Lane, now: int) -> None:
        """Grant the head of *lane* its weights as of *self.now*; the grant is made at *now*."""
        waiter = lane.waiters[0]
        out_of_rank = self.ranked and self._is_out_of_rank(lane)
        self.decided.append(waiter)
        receipts: list[Receipt] = []
        self.taking = receipts
        try:
            lane.take_into(receipts, self.now, waiter.weights)
        except BaseException as error:
            give_back(self.now, receipts)
            if not isinstance(error, Exception):
                raise
            self.decided.pop()
            self._fail(waiter, error)
            return
        waiter.receipts = receipts
        waiter.granted_at = now
        waiter.state = GRANTED
        self.taking = ()
        # From here on only fields change that follow from the states.
        lane.waiters.popleft()
        self.waiting -= 1
        lane.discount(waiter)
        if lane is not self.lone or lane.left or not lane.waiters or waiter.rivals:
            self._granted(waiter, now, bool(out_of_rank))

    def _granted(self, waiter: Waiter, now: int, out_of_rank: bool) -> None:
        """*waiter*, the head of its lane, was granted at *now*: tell what watches the lane."""
        lane, weights = waiter.lane, waiter.weights
        if lane.bottleneck is not None:
            lane.bottleneck.account(now)
            spans = zip(waiter.spans, lane.bottleneck.spans, strict=True)
            waiter.spans = [after - before for before, after in spans]
        ranked = self.ranked
        if lane.left:
            lane.sweep()
        if not lane.waiters:
            self._touch_rules(lane, weights)
            self._sweep_busy(lane)
        else:
            if self.patience.heads:
                self.patience.renew(lane)
            if len(self.busy) > 1:
                self.index.changed(lane)
        if ranked:
            self.patience.granted(lane, weights, waiter.order, out_of_rank=out_of_rank)
            self.index.turns_at = ENDED
            if not self.ranked:
                self.patience.in_rank.clear()
        if waiter.rivals:
            self._part(waiter)
        foresight = self.foresight
        if foresight is not None and not foresight.granted(waiter, self.now):
            self.forget()

    def _expire(self, at: int) -> None:
        """Take out the waiter whose deadline is *at*, the earliest."""
        waiter = self.deadlines[0][2]
        self.now = max(self.now, at)
        self.decided.append(waiter)
        self._part(waiter)
        self._remove(waiter, EXPIRED)

    def _fail(self, waiter: Waiter, error: Exception) -> None:
        """A rule has raised *error* when it was asked for *waiter*."""
        waiter.error = error
        self.decided.append(waiter)
        self._part(waiter)
        self._remove(waiter, FAILED)

    def fail(self, lane: Lane, error: Exception) -> None:
        """What *lane* asks for cannot be had, for this reason: its waiters are told."""
        for waiter in list(lane):
            self._fail(waiter, error)

    def _turns(self, at: int, newcomers: Lane | None = None) -> tuple[list[Lane], int]:
        """The lanes that rank *at* an instant before the rest, and *newcomers*; and until when."""
        if not self.ranked and (newcomers is None or not newcomers.priority):
            return [], NEVER
        return self.patience.turns(at, newcomers)

    def _is_out_of_rank(self, lane: Lane) -> bool:
        """Whether a better class that asks for a rule of *lane* has a head that could go now."""
        turns = self.index.turns if self.index.turns_at == self.now else self._turns(self.now)[0]
        return (lane in turns and self.patience.has_better(lane)) and any(
            other.priority < lane.priority
            and not set(other.rules).isdisjoint(lane.rules)
            and self._could_go(other)
            for other in self.busy
        )

    def _could_go(self, lane: Lane) -> bool:
        """Whether the head of *lane* could go now; False if a rule raises, which fails it later."""
        try:
            return lane.ready_at(self.now, lane.waiters[0].weights) <= self.now
        except Exception:
            return False

    def _note_demand(self) -> None:
        """Write down the weights wanted of rules that get their permits from outside."""
        demand: dict[Rule, int] = {}
        for lane in self.busy:
            for n, rule in lane.told:
                weight = lane.waiters[0].weights[n]
                if weight != SKIP and _lacks(rule, self.now, weight):
                    demand[rule] = demand.get(rule, 0) + lane.backlog[n]
        self.demand = demand

    # -- callers ------------------------------------------------------------------------

    def can_take(self, lane: Lane, weights: tuple[int, ...]) -> bool:
        """Whether a newcomer can be granted *weights* now at the cost of no waiter before it."""
        while lane.waiters and lane.waiters[0].cancelled():
            self._sweep_out(lane.waiters[0])
        now = self.now
        if lane.waiters or lane.ready_at(now, weights) > now:
            return False
        if not self.trusting:
            self.doubt()
        while len(self.busy) > 1 and self._renew(self.now):
            if not decide.is_simple(self.index, lane):
                break
            if self._turns(self.now, lane)[0] != self.index.turns:
                break
            if decide.may_take(self.index, lane, weights, now):
                return True
            if not self.index.quitters:
                return False
            self._sweep_quitters()
        return self.can_take_of_all(lane, weights)

    def can_take_of_all(self, lane: Lane, weights: tuple[int, ...]) -> bool:
        """What `can_take` finds, without the index: by looking at all lanes."""
        now = self.now
        self._sweep_cancelled(self.busy)
        if not self.busy:
            return True
        ahead = self._ahead_of(lane)
        if ahead.missing(lane, weights) >= 0:
            return False
        rank = (lane.priority, math.inf)
        return obstacle(ahead.lanes, (), lane, weights, now, rank, now)[0] < 0

    def missing(self, lane: Lane, weights: tuple[int, ...]) -> int:
        """The place of the slots that a newcomer would have to wait for; or -1."""
        if lane.waiters:
            weights = lane.waiters[0].weights
        for n, slots in lane.slots:
            if slots.free < weights[n] > 0:
                return lane.place_of(n, slots)
            others = (_has(other, slots) for other in self.asking(slots) if other is not lane)
            if weights[n] > 0 and any(others):  # they may be reserved
                return self._ahead_of(lane).missing(lane, weights)
        return -1

    def _ahead_of(self, lane: Lane) -> Reservations:
        """The reservations of the lanes that rank before a newcomer to *lane*."""
        turns, _ = self._turns(self.now, lane)
        better = [
            other
            for other in self.busy
            if other is not lane and (other in turns or other.priority <= lane.priority)
        ]
        better.sort(key=lambda other: _rank(other, turns))
        ahead = _Besides()
        self._reserve(ahead, better, (lane.priority, math.inf))
        return ahead

    def _reserve_besides(
        self, lanes: Sequence[Lane], rank: Rank, head: Waiter, besides: dict[int, _Besides]
    ) -> Reservations:
        """The reservations of heads of *lanes* before *rank*, as if the caller of *head* were away.

        Those found for an earlier rank are in *besides*, and taken up where they end.
        """
        rivals = head.rivals
        ahead = besides.get(id(rivals[0]))
        if ahead is None or ahead.following <= rank:
            ahead = besides[id(rivals[0])] = _Besides()
        self._reserve(ahead, lanes[ahead.seen :], rank, rivals)
        return ahead

    def _reserve(
        self, ahead: _Besides, lanes: Iterable[Lane], rank: Rank, rivals: Sequence[Waiter] = ()
    ) -> None:
        """Add to *ahead* the heads of *lanes* before *rank*, as if *rivals* were not there.

        A head for which a rule raises fails, and the next head of its lane is looked at.
        """
        for lane in lanes:
            ahead.seen += 1
            while (head := _first(lane, rivals)) is not None:
                if head is not lane.waiters[0]:
                    following = lane.priority, head.order
                    if following > rank:
                        ahead.following = min(ahead.following, following)
                        break
                try:
                    stuck = ahead.missing(lane, head.weights) >= 0
                    due = NEVER if stuck else lane.ready_at(self.now, head.weights)
                except Exception as error:
                    self._fail(head, error)
                    continue
                ahead.add(lane, head.weights, due)
                break

    def try_take(self, lane: Lane, weights: tuple[int, ...]) -> list[Receipt] | None:
        """Grant *weights* now, if that overtakes no waiter: the receipts, or None."""
        if not self.can_take(lane, weights):
            return None
        foresight = self.foresight
        if foresight is not None and not foresight.took(lane, weights, self.now):
            self.forget()
        self._touch_rules(lane, weights)  # first: what is interrupted below has taken nothing
        receipts: list[Receipt] = []
        self.taking = receipts
        try:
            lane.take_into(receipts, self.now, weights)
        except BaseException:
            give_back(self.now, receipts)
            self.forget()
            raise
        self.taking = ()
        if self.ranked or lane.priority:
            try:
                if not self.patience.heads:
                    self.patience.watch(self.busy)
                    self.lone = self.find_lone()
                self.patience.granted(lane, weights, next(arrivals), out_of_rank=False)
            except BaseException:
                give_back(self.now, receipts)
                raise
            self.index.turns_at = ENDED
        return receipts

    def join(
        self, waiter: Waiter, lane: Lane, weights: tuple[int, ...], deadline: int = NEVER
    ) -> None:
        """Queue *waiter* up. Advance the queue next, unless *lane* has a head already."""
        waiter.lane = lane
        waiter.weights = weights
        waiter.order = next(arrivals)
        waiter.deadline = deadline
        if lane.bottleneck is not None:
            waiter.spans = lane.bottleneck.told(self.now)
        if self.decided is NOBODY:
            self.decided = deque()
        lane.append(waiter)
        waiter.state = QUEUED  # last: a waiter that is queued stands in its lane
        if lane is not self.lone:
            self._joined(waiter, lane)
        self.waiting += 1
        if deadline < NEVER:
            if self.deadlines is NONE_YET:
                self.deadlines = []
            heappush(self.deadlines, (deadline, waiter.order, waiter))
            self.due_at = min(self.due_at, deadline)
        foresight = self.foresight
        if foresight is not None and not foresight.joined(waiter, self.now):
            self.forget()

    def _joined(self, waiter: Waiter, lane: Lane) -> None:
        """*waiter* stands in *lane*: tell what watches the lane."""
        if len(lane.waiters) == 1:
            if self.busy is NONE_YET:
                self.busy = []
            self.busy.append(lane)
            self.ranked += lane.priority != 0
            if self.patience.heads:
                self.patience.enter(lane)
            elif lane.priority:
                self.patience.watch(self.busy)
            if len(self.busy) > 1:
                self._enter(lane)
            self.lone = self.find_lone()
        elif self.ranked and len(self.busy) > 1:
            self.index.changed(lane)  # the waiter may rank before heads of other lanes
        for n, callers in lane.counted:
            if waiter.weights[n] != SKIP:
                callers.add(waiter, waiter.weights[n])

    def _enter(self, lane: Lane) -> None:
        """Let *lane* into the index."""
        if len(self.busy) == 2:
            self.index.clear()
            self.index.enter(self.busy[0])
            self.doubtful = False
        self.index.enter(lane)

    def doubt(self) -> None:
        """Rules may have changed: what is known of them is to be found anew."""
        self.doubtful = True
        self.forget()

    def touched(self, *rules: Rule) -> None:
        """The event changes *rules*, and no others but by the methods of the queue."""
        self.trusting = True
        foresight = self.foresight
        if foresight is not None and not all(map(foresight.changes, rules)):
            self.forget()
        if len(self.busy) > 1:
            for rule in rules:
                self.index.touch(rule)

    def _touch_rules(self, lane: Lane, weights: tuple[int, ...]) -> None:
        """*weights* were taken of the rules of *lane*, or given back."""
        if len(self.busy) > 1:
            for rule, weight in zip(lane.rules, weights, strict=True):
                if weight != SKIP:
                    self.index.touch(rule)

    def leave(self, waiter: Waiter) -> None:
        """Undo *waiter*, queued or granted, as if it had never asked.

        A call that was interrupted may be made again.
        """
        if waiter.rivals and waiter.state in (QUEUED, GRANTED):  # else it is gone from all lanes
            self._part(waiter)
        if waiter.state is QUEUED:
            self._remove(waiter, GONE)
        elif waiter.state is GRANTED:
            self.forget()
            self._touch_rules(waiter.lane, waiter.weights)
            try:
                give_back(self.now, waiter.receipts)
            finally:
                if not waiter.receipts:
                    waiter.state = GONE

    def drop(self, state: State, wanted: Callable[[Waiter], bool] = lambda _: True) -> None:
        """Take out the waiters that are *wanted*; their state is *state* then."""
        self._drop(state, self.busy, wanted)

    def _drop(self, state: State, lanes: Iterable[Lane], wanted: Callable[[Waiter], bool]) -> None:
        dropped = [waiter for lane in lanes for waiter in lane if wanted(waiter)]
        for waiter in sorted(dropped, key=attrgetter("order")):
            self.decided.append(waiter)
            self._remove(waiter, state)

    def refit(self, rule: Rule) -> None:
        """*rule* has changed: see anew what it limits, and take out waiters that exceed it."""
        self.forget()
        asking = self.lanes.asking(rule)
        for lane in asking:
            lane.refit()
            if len(self.busy) > 1 and lane.waiters:
                self.index.leave(lane)
                self.index.enter(lane)
        self._drop(UNFIT, asking, lambda waiter: wants(waiter, rule) and exceeds(waiter))

    def _sweep_cancelled(self, lanes: Iterable[Lane]) -> None:
        """Take out the heads of *lanes* whose callers were cancelled and have not left yet."""
        for lane in tuple(lanes):
            while lane.waiters and lane.waiters[0].cancelled():
                self._sweep_out(lane.waiters[0])

    def sweep_all_cancelled(self) -> bool:
        """Take out the waiters, heads or not, whose callers were cancelled; whether any was."""
        cancelled = [waiter for waiter in self.waiters() if waiter.cancelled()]
        for waiter in cancelled:
            self._sweep_out(waiter)
        return bool(cancelled)

    def _sweep_out(self, waiter: Waiter) -> None:
        """Take out *waiter*; waiters behind it may go now, so the queue is to be advanced."""
        self.leave(waiter)
        self.due_at = self.wake_at = self.now

    def _remove(self, waiter: Waiter, state: State) -> None:
        self.forget()
        self._take_out(waiter, state)
        if waiter.deadline < NEVER:
            self._sweep_deadlines()

    def _take_out(self, waiter: Waiter, state: State) -> None:
        lane = waiter.lane
        lane.remove(waiter, state)
        self.waiting -= 1
        if not lane.waiters:
            self._sweep_busy(lane)
        elif lane is not self.lone:
            if self.patience.heads:
                self.patience.move(lane)
            if len(self.busy) > 1:
                decide.succeed(self.index, lane, self.now)

    def _sweep_busy(self, lane: Lane) -> None:
        """Keep the first invariant: the last waiter of *lane* has gone."""
        self.patience.begin_anew(lane)
        self.busy.remove(lane)
        self.ranked -= lane.priority != 0
        if not self.ranked:
            self.patience.in_rank.clear()
        if len(self.busy) == 1:
            self.index.clear()
        elif self.busy:
            self.index.leave(lane)
        self.lone = self.find_lone()

    def _part(self, waiter: Waiter) -> None:
        """*waiter* is done with waiting: take its caller out of the lanes of its rivals."""
        if waiter.rivals:
            self.forget()
            for rival in waiter.rivals:
                if rival is not waiter and rival.state is QUEUED:
                    self._take_out(rival, GONE)
            if waiter.deadline < NEVER:
                self._sweep_deadlines()

    def _sweep_deadlines(self) -> None:
        """Keep waiters that left from piling up behind an early deadline."""
        deadlines = self.deadlines
        if len(deadlines) > 2 * self.waiting + 64:
            self.deadlines = [entry for entry in deadlines if entry[2].state is QUEUED]
            heapify(self.deadlines)

    # -- pauses -------------------------------------------------------------------------

    def pause(self, pause: Pause, until: int, empties: bool) -> None:
        """Hold waiters by *pause* until an instant, never shorter than before."""
        before = pause.until, pause.empties
        self.forget()
        pause.until = max(pause.until, until)
        if empties and not pause.empties:
            self.emptying = [*self.emptying, pause]
            pause.empties = True
        self._reopen(pause)
        try:
            self._end_pauses(self.now)
        except Exception:
            pause.until, pause.empties = before
            self.emptying = [other for other in self.emptying if other.empties]
            self._reopen(pause)
            raise

    def resume(self, pause: Pause) -> None:
        """End *pause* now."""
        self.forget()
        pause.until = min(pause.until, self.now)
        self._reopen(pause)
        self._end_pauses(self.now)

    def _reopen(self, pause: Pause) -> None:
        for lane in self.lanes.asking(pause.rules[0]) if pause.rules else self.lanes.values():
            if pause in lane.pauses:
                lane.reopen()
                if len(self.busy) > 1 and lane.waiters:
                    self.index.changed(lane)

    def _ends_pauses(self, due: int) -> bool:
        """End pauses that empty until *due*, unless a deadline comes first; whether any ended."""
        if not self.emptying:
            return False
        ends_at = min(pause.until for pause in self.emptying)
        if ends_at > due or (self.deadlines and ends_at > self.expires_at):
            return False
        self.now = max(self.now, ends_at)
        try:
            self._end_pauses(ends_at)
        except Exception as error:  # no waiter has asked the rule
            self.errors = [*self.errors, error]
            for pause in [pause for pause in self.emptying if pause.until <= ends_at]:
                pause.empties = False
                self.emptying.remove(pause)
        return True

    def _end_pauses(self, at: int) -> None:
        """Empty the rules of the pauses that end until *at*."""
        for pause in [pause for pause in self.emptying if pause.until <= at]:
            for rule in pause.rules:
                rule.empty(pause.until)
                self.index.touch(rule)
            pause.empties = False
            self.emptying.remove(pause)


class _Besides(Reservations):
    """The reservations of lanes as if one caller were away.

    Attributes:
        seen: how many lanes were looked at.
        following: the best rank of waiters behind that caller that were not looked at.
    """

    __slots__ = ("following", "seen")

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.following: Rank = (math.inf, math.inf)


def _first(lane: Lane, rivals: Sequence[Waiter]) -> Waiter | None:
    """The first waiter of *lane* that is none of *rivals*, all of which are of one caller."""
    for waiter in lane:
        if not (rivals and waiter.rivals and waiter.rivals[0] is rivals[0]):
            return waiter
    return None


def wants(waiter: Waiter, rule: Rule) -> bool:
    """Whether *waiter* asks for *rule*."""
    rules = waiter.lane.rules
    return rule in rules and waiter.weights[rules.index(rule)] != SKIP


def _has(lane: Lane, slots: Slots) -> bool:
    """Whether callers in *lane* ask for *slots*."""
    return any(slots is asked for _, asked in lane.slots)


def exceeds(waiter: Waiter) -> bool:
    """Whether *waiter* asks for more of a rule than its burst."""
    weights: Any = zip(waiter.weights, waiter.lane.rules, strict=True)
    return any(weight > rule.burst for weight, rule in weights)


def _lacks(rule: Rule, now: int, weight: int) -> bool:
    """Whether *rule* answers UNKNOWN; False if it raises, which fails a head at the next event."""
    try:
        return rule.ready_at(now, weight) > NEVER
    except Exception:
        return False


def _rank(lane: Lane, turns: Sequence[Lane]) -> tuple[float, int]:
    """The rank of *lane*: a turn out of rank, or the class; then the head's arrival."""
    return (-math.inf if lane in turns else lane.priority), lane.waiters[0].order


def _counted(rule: Rule, lanes: Sequence[Lane]) -> Callers:
    """The callers in *lanes* that wait for *rule*. It may be asked in any thread, by a repr."""
    callers = Callers()
    for lane in lanes:
        place = lane.rules.index(rule)
        for waiter in list(lane.waiters):
            if waiter.state is QUEUED and waiter.weights[place] != SKIP:
                callers.add(waiter, waiter.weights[place])
    return callers
