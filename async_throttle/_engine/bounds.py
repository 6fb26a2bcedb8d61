"""Bounds: an instant by which a newcomer is gone for sure, without playing the future.

`is_within` spares most callers with a timeout the question how long they would wait. Its answer
follows from what is queued.

Few lanes. From the end of the last pause on, the head that ranks first waits for nothing but the
rates that it asks for itself (see `backfill`). So at each moment at least one rate has less than
what a waiter asks of it. Take for each rate the time that it needs for all that is queued for it,
without other rates: as long as it is short, that time runs down with the clock, and a grant, to
whichever waiter, does not change it (what is taken is not queued any more). So all waiters, in any
order, are gone when as much time has passed as all rates need one after the other. That some lanes
are left out of a forecast, and that callers of a pool leave other lanes, only shortens it. Classes
of priority change which head ranks first, and so does patience. That is of no matter to a rate that
regains all the time, but a window may then hold up the same waiter again.

Many lanes. Each chat of a bot has a rate of its own, and the time that all of these need is too
much. So look at the rates that lanes have in *common*. A waiter is *awake* once its pauses have
ended, its own rates have enough for it, and it is the head; it wakes once. While waiters are awake,
let the first of them in rank be H. If H lacks a common rate, that rate is *short*. Else waiters of
lanes ahead of H hold it up, and these lanes are asleep: one of them wakes so soon that a rate which
H asks for has not forgotten H by then.

- A bucket is not full while it is short. It regains what was missing and all that is taken, and
  that takes no longer than to regain all that is queued.
- A bucket that is full forgets H before it has regained the heaviest weight. So that long before
  each awakening, at most, all buckets are full and H is held up.
- While a window is short for H, more was granted within the period before than its *room*: its
  capacity less the heaviest weight. Of moments a period apart each has grants of its own. So there
  is one for each *room* that is queued, or for each waiter, and the first, which may come of
  grants before.
- A window forgets H within a period. While it holds H up, more than its room was granted within the
  period before, or wakes within the next. Of moments two periods apart each has waiters of its own,
  but for those that wake at one of them and are granted at the next.
- While a fixed window holds H up in which nothing counts, a claim of a waiter that wakes within a
  period would open it: there is one for each waiter.
- Nobody is held up by a rate of which no more than its room is queued.

The sum of these times bounds every stretch of time in which always somebody is awake, or a bucket
of those is not full. A newcomer that is awake at once is gone when such a stretch that begins
now is over. One that is awake from an instant on may also be caught in a later stretch, which
begins with an awakening, when all buckets are full. Only those are part of a stretch that wake
after its begin, and not long after the instant by which the newcomer is to be gone. Heads are
sorted by the instants at which they wake. How often the waiters behind them wake, and which, is not
known: all of them are counted.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Final

from async_throttle._engine.index import Group, is_orderly
from async_throttle._engine.lane import ENDED, SKIP, Callers, Lane
from async_throttle._engine.queue import Queue
from async_throttle.rules import Rule
from async_throttle.rules.slots import Slots
from async_throttle.rules.window import FixedWindow

__all__ = ["FEW", "is_within"]

FEW: Final = 64
"""So many waiters, or lanes, are looked at for each question: that is as long as the rest takes."""

_MOST: Final = 32
"""So many rates in common, or groups, are looked at."""


def is_within(queue: Queue, lane: Lane, weights: tuple[int, ...], until: int) -> bool:
    """Whether it is sure, without playing the future, that a newcomer is gone by *until*."""
    if queue.feeds:
        return False
    try:
        few = len(queue.busy) <= FEW and _is_within_beside_few(queue, lane, weights, until)
        return few or _is_within_beside_many(queue, lane, weights, until)
    except Exception:  # of a rule that is asked for its own waiters: this is not their turn
        return False


def _is_within_beside_few(queue: Queue, lane: Lane, weights: tuple[int, ...], until: int) -> bool:
    """By what is queued for all rates of all lanes. It looks no further once it is too late."""
    now = queue.now
    at = max(now, lane.opens_at)
    for pause in queue.emptying:
        at = max(at, pause.until)
    wanted = {rate: max(0, weights[n]) for n, rate in lane.rates}
    for other in queue.busy:
        at = max(at, other.opens_at)
        for n, rate in other.rates:
            wanted[rate] = wanted.get(rate, 0) + other.backlog[n]
    divisible = bool(queue.ranked or lane.priority)
    emptied = {rule for pause in queue.emptying for rule in pause.rules}
    for rate, weight in wanted.items():
        if at > until or (divisible and not rate.divisible):
            return False
        if rate in emptied:
            rate = rate.fork()
            rate.empty(now)
        at += rate.clears_at(now, weight) - now + queue.waiting  # a nanosecond for each piece
    return at <= until


def _is_within_beside_many(queue: Queue, lane: Lane, weights: tuple[int, ...], until: int) -> bool:
    """By what is queued for the rates that lanes have in common."""
    index, now = queue.index, queue.now
    if queue.doubtful or queue.emptying or len(queue.busy) < 2:
        return False
    alone = not lane.waiters
    at = max(now, lane.opens_for(weights) if alone else lane.opens_at)
    asked: dict[Rule, int] = {}
    for n, rate in lane.rates:
        asking = index.asking.get(rate, {})
        weight = max(0, weights[n])
        if len(asking) > (lane in asking):
            asked[rate] = weight
        elif not alone:
            at += rate.clears_at(now, lane.backlog[n] + weight) - now
        elif weights[n] != SKIP:
            at = rate.ready_at(at, weight)
    if not asked or at > until:
        return at <= until
    crowd = _crowd(queue, asked)
    if crowd is None:
        return False
    if not alone:
        return at + crowd.lasts(until) <= until
    return now + crowd.lasts(until) < until and (at == now or crowd.is_over(at, until))


def _crowd(queue: Queue, asked: dict[Rule, int]) -> _Crowd | None:
    """The waiters that may hold up a newcomer who has *asked* these rates, if that is bounded."""
    index = queue.index
    if len(index.shared) > _MOST:
        return None
    clusters = {index.standings[next(iter(index.asking[rate]))].cluster: None for rate in asked}
    rates = dict(asked)
    for rule in index.shared:
        cluster = index.standings[next(iter(index.asking[rule]))].cluster
        if cluster in clusters and not isinstance(rule, Slots):
            rates.setdefault(rule, 0)
    if any(cluster.restless for cluster in clusters) or not all(map(is_orderly, rates)):
        return None
    groups = [group for cluster in clusters for group in cluster.groups.values()]
    if index.dirty or len(groups) > _MOST:
        groups = []
    return _Crowd(queue, rates, groups)


def _callers(queue: Queue, rate: Rule) -> Callers:
    """The callers that wait for *rate*; where they are many, they are counted from now on."""
    lanes = queue.index.asking[rate]
    if rate in queue.counts or len(lanes) > FEW or sum(map(len, lanes)) > FEW:
        return queue.keep_count(rate)
    callers = Callers()
    for lane in lanes:
        place = lane.rules.index(rate)
        for waiter in lane:
            if waiter.weights[place] != SKIP:
                callers.add(waiter, waiter.weights[place])
    return callers


class _Common:
    """A rate that lanes have in common.

    Attributes:
        rate: the rate.
        weight: how much all who wait want of it, and the newcomer.
        heaviest: nobody wants more.
        groups: the heads that ask for it, as far as they are known.
        room: what can go in addition to that, and a nanotoken.
        full: when a bucket is full, if nobody takes of it.
        turn: of a window, its period, and by how much later an entry may leave it.
    """

    __slots__ = ("full", "groups", "heaviest", "rate", "room", "turn", "weight")

    def __init__(self, queue: Queue, rate: Any, weight: int, groups: list[Group]) -> None:
        callers = _callers(queue, rate)
        self.rate = rate
        self.weight = callers.weight + weight
        self.heaviest = min(max(callers.heaviest, weight), int(rate.burst))
        self.room = int(rate.burst) - self.heaviest + 1
        self.groups = [group for group in groups if rate in group.key]
        self.full = rate.clears_at(queue.now, int(rate.burst)) if rate.divisible else queue.now
        self.turn = 0 if rate.divisible else rate.clears_at(queue.now, 0) - queue.now

    def lasts(self, now: int, number: int) -> int:
        """How long it can be short, and a window hold others up, while so many take of it."""
        rate, weight = self.rate, min(self.weight, number * self.heaviest)
        if self.turn:
            held = min(number, 2 * (2 * weight // self.room)) if weight >= self.room else 0
            held += number if held and isinstance(rate, FixedWindow) else 0
            return (1 + min(number, weight // self.room) + held) * self.turn
        regained: int = rate.clears_at(now, int(rate.burst) + weight)
        return regained - self.full + 1

    def holds(self, now: int, number: int) -> int:
        """How long before an awakening a bucket can hold others up, while so many take of it."""
        if self.turn or min(self.weight, number * self.heaviest) < self.room:
            return 0
        return self.lasts(now, 1)


class _Crowd:
    """The waiters that may hold up a newcomer, and the newcomer.

    Attributes:
        now: the instant of the question.
        rates: those in common.
        groups: the heads of which it is known when they wake.
        behind: how many waiters are not in *groups*, and the newcomer.
        longest: no longer before an awakening anybody is held up for it.
    """

    __slots__ = ("behind", "groups", "longest", "now", "rates")

    def __init__(self, queue: Queue, asked: dict[Rule, int], groups: list[Group]) -> None:
        self.now = queue.now
        self.groups = groups
        self.rates = [_Common(queue, rate, weight, groups) for rate, weight in asked.items()]
        self.behind = queue.waiting + 1 - sum(len(group.ranks) for group in groups)
        self.longest = max(rate.turn or rate.lasts(self.now, 1) for rate in self.rates)

    def lasts(self, until: int) -> int:
        """For how long from now on somebody may be awake, or a bucket not full, up to *until*."""
        return sum(rate.full - self.now for rate in self.rates) + self._lasts(ENDED, until)

    def is_over(self, at: int, until: int) -> bool:
        """Whether such a stretch of time that begins later, up to *at*, is over by *until*.

        Looked at are begins that are at least so long ago, each time twice as long.
        """
        least, begin = until - at, at
        while begin > self.now:
            begin = max(self.now, until - 2 * least)
            if self._lasts(begin, until) >= least:
                return False
            least *= 2
        return True

    def _lasts(self, begin: int, until: int) -> int:
        """How long it can last if those are part of it who wake from *begin* on."""
        end = until + self.longest
        woken = {group: _woken(group, begin, end) for group in self.groups}
        numbers = [self.behind + sum(woken[group] for group in r.groups) for r in self.rates]
        pairs = list(zip(self.rates, numbers, strict=True))
        held = max(rate.holds(self.now, number) for rate, number in pairs)
        lasts = sum(rate.lasts(self.now, number) for rate, number in pairs)
        return lasts + (self.behind + sum(woken.values())) * (held + 2 * len(pairs))


def _woken(group: Group, begin: int, end: int) -> int:
    """How many heads of *group* wake from *begin* to *end*; all who are awake, before the first."""
    asleep: list[Any] = group.asleep
    later = len(asleep) - bisect_left(asleep, (end + 1,))
    if begin == ENDED:
        return len(group.ranks) - later
    return len(asleep) - bisect_left(asleep, (begin,)) - later
