"""The index: the lanes with waiters by what blocks them, so that an event looks only at few.

Rules that never block (a rate without a limit, slots without one) do not count here.

- Lanes that ask for a rule in common, directly or by way of other lanes, are a *cluster*. What
  becomes of one cluster changes nothing in the others, so each keeps the next grant that time will
  bring until something in it changes.
- A rule that a single lane asks for is *private*. By its private rules and its pauses a lane has
  an instant of its own; it is computed anew only when its head or one of these rules changes.
- The lanes of a cluster whose heads ask for the same shared rates are a *group*. A lane is *awake*
  once its own instant has come. Until then it sleeps, sorted by that instant.

Who goes next in a group. Let two lanes be awake, X and Y, of which Y ranks before X, at an instant
at which X could go past all that rank before it. Y was one of those; it waits for shared rates
alone, and these had enough for both (unless they forget X at once: then X is of another group).
Whoever ranks before Y ranks before X as well, and finds more after a grant to Y than after one to
X, past Y. So Y could go at that instant. That leaves few lanes to look at: the first of those
awake, and each lane that ranks before the others at the instant at which it wakes up.

Who may be passed. A claim on a shared rate, seen by a newcomer, falls due at the later of the
instant of its lane and of the instants of those shared rates that the newcomer does not ask for:
see `backfill.obstacle` for the proof. Sorted by these, the claims are looked at until the rate
would have forgotten the newcomer. The claims of a lane that the newcomer shares a private rule with
(then nobody else does) are computed for it alone.

All this needs rates of which instants do not change by themselves, and shared ones that are plain
buckets or windows. A cluster with others is decided as a whole: see `Cluster.odd`.

The caller of a pool stands in several lanes, and is no obstacle to itself. Where the heads of all
lanes of a cluster are one caller, no waiter ranks before any of them: the first that could go by
its own rules goes. A cluster with such a caller and others is decided as a whole.

A lane that is the only one of its cluster shares nothing, and needs no group: its own instant tells
all.

Shared slots. The heads that ask for them have slots reserved in the order of their ranks. The first
for which too few are left, and all behind it, are *parked*: they have no instant.

The index follows from the lanes, the rules and the pauses. An owner of the queue that says which
rules it touches (`Queue.touched`) has it kept; else it is made anew for each event.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Container, Iterator, Sequence
from heapq import heappop, heappush
from itertools import chain, count, takewhile
from math import inf
from typing import Any, Final

from async_throttle._engine.backfill import Claim, Rank, claims_of
from async_throttle._engine.lane import ENDED, NONE_YET, SKIP, Lane
from async_throttle._units import NEVER
from async_throttle.rules import Rule
from async_throttle.rules.bucket import TokenBucket
from async_throttle.rules.slots import UNLIMITED, Slots
from async_throttle.rules.window import FixedWindow, SlidingWindow

__all__ = ["Cluster", "Group", "Index", "Standing", "forgotten_at_once", "is_orderly", "is_plain"]

Kind = tuple[tuple[Rule, ...], tuple[int, ...]]
"""Shared rates, and of each of them the weight, if that is forgotten at once, or else -1."""

_STEADY = {TokenBucket.ready_at, SlidingWindow.ready_at, FixedWindow.ready_at}

ALONE: Final[Kind] = (), ()
"""The kind of a lane that has no rates in common with other lanes."""

EMPTY: Final[dict[Any, Any]] = {}
"""Stays empty: what an index has until there are several lanes. Most throttles never have them."""

_numbers = count()


def is_steady(rule: Rule) -> bool:
    """Whether an instant that *rule* has named stays as it is until the rule is changed."""
    return type(rule).ready_at in _STEADY


def is_plain(rule: Rule) -> bool:
    """Whether *rule* is a bucket, or slots, with nothing added."""
    kind = type(rule)
    if kind.forgets_at is not Rule.forgets_at:
        return False
    return kind.ready_at is TokenBucket.ready_at or kind.ready_at is Slots.ready_at


def is_orderly(rule: Rule) -> bool:
    """Whether lanes that ask for *rule* may be decided group by group: a bucket, slots or a window.

    Of these it is known what they will have given by any instant.
    """
    return is_plain(rule) or type(rule) in (SlidingWindow, FixedWindow)


def forgotten_at_once(rule: Any, weight: int) -> int:
    """*weight*, if a full bucket has it back within the nanosecond, as it has nothing; or else -1.

    Callers with such weights may go though an earlier one of a different weight may not.
    """
    fine = rule.parameters.fine if is_plain(rule) else None
    return weight if fine is not None and weight * fine.grain < fine.scale else -1


class Standing:
    """Where a lane stands in the index.

    Attributes:
        lane: the lane.
        cluster, group: where it stands; without a group it is *odd*, parked, or has no instant.
        rank: the class, or -inf for a turn out of rank; and the arrival of the head.
        private: the instant of the lane by its pauses and the rules that it alone asks for;
            NEVER, if a slot is missing there.
        key, weights: the shared rates that the head asks for, and how much of each.
        kind: what the lanes of a group have in common.
        skips: the shared rates that the head does without.
        slots: the shared slots that the head asks for, and how many.
        place: the place of the rule that the instant comes from, or -1.
        odd: whether the lane keeps its cluster from being decided group by group.
        restless: whether a rule of the lane has instants that change by themselves.
        entangled: whether the head asks for slots of several limits, of which one is shared.
        several: whether the head asks for slots of several limits.
        asked, pooled: the weights of the head, and whether its caller waits elsewhere as well.
        rivalled: whether it does, and other lanes ask for a rate of the lane.
    """

    __slots__ = (
        "asked",
        "cluster",
        "entangled",
        "group",
        "key",
        "kind",
        "lane",
        "odd",
        "parked",
        "place",
        "pooled",
        "private",
        "rank",
        "restless",
        "rivalled",
        "several",
        "skips",
        "slots",
        "weights",
    )

    cluster: Cluster
    group: Group | None

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.group = None
        self.slots: tuple[Slots, int] | None = None
        self.skips: Sequence[Rule] = ()
        self.parked = self.odd = self.restless = self.entangled = self.several = False
        self.rivalled = False

    def survey(self, asking: dict[Rule, dict[Lane, None]], turns: Sequence[Lane], now: int) -> None:
        """See anew what the head waits for, as of *now*."""
        lane = self.lane
        head = lane.waiters[0]
        weights = self.asked = head.weights
        self.pooled = bool(head.rivals)
        self.rank: Rank = (-inf if lane in turns else lane.priority), head.order
        self.odd = self.restless = self.rivalled = False
        if len(self.cluster.lanes) == 1:
            self._survey_alone(now, weights)
            return
        private: list[tuple[int, Rule]] = []
        key: list[Rule] = []
        wanted: list[int] = []
        skips: list[Rule] = []
        shared = False
        for n, rule in lane.rates:
            steady = is_steady(rule)
            if not steady:
                self.odd = self.restless = True
            if len(asking[rule]) == 1:
                private.append((n, rule))
            else:
                shared = True
                self.odd = self.odd or not is_orderly(rule)
                if weights[n] != SKIP:
                    key.append(rule)
                    wanted.append(weights[n])
                else:
                    skips.append(rule)
        limited = [(n, slots) for n, slots in lane.slots if slots.limit != UNLIMITED]
        asked = [(slots, weights[n]) for n, slots in limited if weights[n] > 0]
        common = [ask for ask in asked if len(asking[ask[0]]) > 1]
        self.several = len(asked) > 1
        self.entangled = self.several and bool(common)
        self.slots = common[0] if common else None
        self.odd = self.odd or self.entangled
        if head.rivals and any(len(asking[slots]) > 1 for _, slots in limited):
            self.odd = True
        self.rivalled = bool(head.rivals) and shared and not self.odd
        self.skips = tuple(skips)
        self.key = tuple(key)
        self.weights = tuple(wanted)
        self.kind = self.key, tuple(map(forgotten_at_once, key, wanted))
        if self.odd:
            self.private, self.place = NEVER, -1
            return
        self._own_instant(now, weights, private, asked)
        if self.slots is not None and self.private >= NEVER:
            self.odd = True  # paused for good, it has slots reserved only if it lacks them

    def _survey_alone(self, now: int, weights: tuple[int, ...]) -> None:
        """See anew what the head waits for where no other lane asks for a rule of the lane."""
        lane = self.lane
        self.skips = self.key = self.weights = ()
        self.kind = ALONE
        self.slots = None
        self.entangled = False
        asked = [n for n, slots in lane.slots if slots.limit != UNLIMITED and weights[n] > 0]
        self.several = len(asked) > 1
        self.odd = self.restless = not all(is_steady(rule) for _, rule in lane.rates)
        at, self.place = (NEVER, -1) if self.odd else lane.binding(now, weights)
        self.private = min(at, NEVER)

    def _own_instant(
        self,
        now: int,
        weights: tuple[int, ...],
        private: list[tuple[int, Rule]],
        asked: list[tuple[Slots, int]],
    ) -> None:
        lane = self.lane
        at, place = lane.held_until(now, weights)
        for slots, weight in asked:
            if slots.free < weight and self.slots != (slots, weight):
                at, place = NEVER, lane.rules.index(slots)
        for n, rule in private:
            if at < NEVER and weights[n] != SKIP:
                ready = rule.ready_at(at, weights[n])
                if ready > at:
                    at, place = ready, n
        self.private = min(at, NEVER)
        self.place = place

    def due(self, now: int) -> tuple[int, int]:
        """When the head could go if nobody ranked before it; and the place of the binding rule."""
        lane, at, place = self.lane, self.private, self.place
        if at <= now:
            at, place = now, -1
        for rule, weight in zip(self.key, self.weights, strict=True):
            ready = rule.ready_at(now, weight)
            if ready > at:
                at, place = ready, lane.rules.index(rule)
        return at, place

    def look(self, now: int, present: int) -> None:
        """Note what the head waits for: the time since the last look counts for another rule."""
        lane = self.lane
        if lane.bottleneck is not None:
            try:
                place = self.due(now)[1]
            except Exception:  # of a rule that fails, which the head is told when it is decided
                return
            if self.parked and self.slots is not None:
                place = lane.rules.index(self.slots[0])
            if place >= 0:
                lane.bottleneck.wait_for(place, present)


class Group:
    """The lanes of a cluster whose heads ask for the same shared rates, and have an instant.

    Attributes:
        kind: the shared rates, and those of the weights that are forgotten at once.
        key: the shared rates.
        least: for each of *key* a weight that no head goes below.
        ranks: all, by rank.
        awake: those whose own instant has come, by rank.
        asleep: the others, by that instant.
    """

    __slots__ = ("asleep", "awake", "key", "kind", "least", "ranks")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.key = key = kind[0]
        self.least: list[float] = [inf] * len(key)
        self.ranks: list[tuple[Rank, Standing]] = []
        self.awake: list[tuple[Rank, Standing]] = []
        self.asleep: list[tuple[int, Rank, Standing]] = []

    def add(self, standing: Standing, now: int) -> None:
        """Let *standing* in."""
        insort(self.ranks, (standing.rank, standing))
        if standing.private <= now:
            insort(self.awake, (standing.rank, standing))
        else:
            insort(self.asleep, (standing.private, standing.rank, standing))
        self.least = [min(*pair) for pair in zip(self.least, standing.weights, strict=True)]
        standing.group = self

    def remove(self, standing: Standing) -> None:
        """Take *standing* out."""
        standing.group = None
        _drop(self.ranks, (standing.rank, standing))
        if not _drop(self.awake, (standing.rank, standing)):
            _drop(self.asleep, (standing.private, standing.rank, standing))

    def move(self, standing: Standing, rank: Rank) -> None:
        """The next head of the lane has that *rank*, and asks for the same as the head before."""
        before, standing.rank = standing.rank, rank
        _drop(self.ranks, (before, standing))
        insort(self.ranks, (rank, standing))
        if _drop(self.awake, (before, standing)):
            insort(self.awake, (rank, standing))
        else:
            _drop(self.asleep, (standing.private, before, standing))
            insort(self.asleep, (standing.private, rank, standing))

    def clear(self) -> None:
        """Forget all lanes."""
        for _, standing in self.ranks:
            standing.group = None

    def wake(self, now: int) -> None:
        """Let those be awake whose own instant has come."""
        asleep = self.asleep
        if asleep and asleep[0][0] <= now:
            woken = list(takewhile(lambda entry: entry[0] <= now, asleep))
            for _, rank, standing in woken:
                insort(self.awake, (rank, standing))
            del asleep[: len(woken)]

    def claims(
        self,
        rate: Rule,
        at: int,
        asked: Sequence[Rule],
        rank: Rank,
        apart: Container[Lane],
        seen: list[Lane],
    ) -> Iterator[Claim]:
        """The claims on *rate* of waiters that rank before *rank*, by instant, from *at* on.

        As seen by a caller that has *asked* for these rules; the lanes *apart* are left out. A
        weight of 0 is no claim: until its instant all were told. The lanes looked at are added to
        *seen*.
        """
        place = self.key.index(rate)
        others = [(n, rule) for n, rule in enumerate(self.key) if rule not in asked]
        floor = at
        if others and self.ranks:
            floor = max(rule.ready_at(at, int(self.least[n])) for n, rule in others)
            yield floor, 0, 0
        pending: list[tuple[int, Rank, int, int, Iterator[Claim] | None]] = []
        before = takewhile(lambda entry: entry[0] <= rank, self.awake)
        sleepers = (entry[1:] for entry in self.asleep)
        for ranked, standing in chain(before, sleepers):
            lane = standing.lane
            instant = max(floor, standing.private)
            while pending and pending[0][0] <= instant:
                yield from _due(pending)
            if ranked > rank or lane in apart:
                yield instant, 0, 0
                continue
            if not others and not pending and len(lane.waiters) == 1:
                seen.append(lane)
                yield instant, standing.weights[place], 0
                continue
            for n, rule in others:
                instant = max(instant, rule.ready_at(at, standing.weights[n]))
            seen.append(lane)
            rest = None
            if len(lane.waiters) > 1:
                rest = claims_of(lane, rate, asked, at, rank, ())
                next(rest, None)
            heappush(pending, (instant, ranked, standing.weights[place], 0, rest))
        while pending:
            yield from _due(pending)


def _due(pending: list[tuple[int, Rank, int, int, Iterator[Claim] | None]]) -> Iterator[Claim]:
    """The first of the *pending* claims; the next one of its lane is pending then."""
    instant, ranked, weight, lead, rest = heappop(pending)
    yield instant, weight, lead
    if rest is not None:
        following = next(rest, None)
        if following is not None:
            heappush(pending, (following[0], ranked, *following[1:], rest))


def _drop(entries: list[tuple], entry: tuple) -> bool:  # type: ignore[type-arg]
    """Take *entry* out of sorted *entries*; whether it was there."""
    n = bisect_left(entries, entry)
    if n < len(entries) and entries[n] == entry:
        del entries[n]
        return True
    return False


class Reserved:
    """The slots of one limit, and the lanes whose heads have some reserved, by rank.

    Attributes:
        slots: the limit.
        ranks: the lanes, with how many each wants.
        front: how many of the lanes are not parked.
        taken: the slots that these want.
    """

    __slots__ = ("front", "ranks", "slots", "taken")

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.ranks: list[tuple[Rank, Standing, int]] = []
        self.front = 0
        self.taken = 0

    def add(self, standing: Standing, weight: int) -> None:
        """Let *standing* in; behind a lane that is parked it is parked as well."""
        entry = (standing.rank, standing, weight)
        place = bisect_left(self.ranks, entry)
        self.ranks.insert(place, entry)
        standing.parked = place >= self.front
        if not standing.parked:
            self.front += 1
            self.taken += weight

    def remove(self, standing: Standing, weight: int) -> None:
        """Take *standing* out."""
        _drop(self.ranks, (standing.rank, standing, weight))
        if not standing.parked:
            self.front -= 1
            self.taken -= weight
        standing.parked = False

    def moved(self) -> Standing | None:
        """The lane that is parked now, or no longer, as fewer slots are free, or more."""
        free = self.slots.free
        if self.taken > free and self.front:
            self.front -= 1
            _, standing, weight = self.ranks[self.front]
            self.taken -= weight
            standing.parked = True
            return standing
        if self.front < len(self.ranks):
            _, standing, weight = self.ranks[self.front]
            if self.taken + weight <= free:
                self.front += 1
                self.taken += weight
                standing.parked = False
                return standing
        return None


class Cluster:
    """Lanes that ask for rules in common, directly or by way of others.

    It may hold lanes together that no longer are: it is split once half of its lanes have left.

    Attributes:
        lanes: the lanes.
        groups: those that have an instant, by the shared rates that their heads ask for.
        reserved: the lanes that want shared slots, by limit.
        skipping: by shared rate, the lanes that ask for it, but for their heads.
        unplaced: the lanes that wait for no rule but for other lanes: what for is not known yet.
        odd: how many lanes keep the cluster from being decided group by group.
        restless: how many lanes have a rule of which the instants change by themselves.
        rivalled: how many lanes have heads whose callers wait in other lanes as well.
        left: how many lanes have left.
        number: of this cluster, in the order in which they came to be.
        found: the lane whose head goes next, and when; see `stale`.
        at, rank: the same as far as it ranks among other clusters.
        stale: whether that is to be found anew.
    """

    __slots__ = (
        "at",
        "found",
        "groups",
        "lanes",
        "left",
        "number",
        "odd",
        "rank",
        "reserved",
        "restless",
        "rivalled",
        "skipping",
        "stale",
        "unplaced",
    )

    def __init__(self) -> None:
        self.lanes: dict[Lane, Standing] = {}
        self.groups: dict[Kind, Group] = {}
        self.reserved: dict[Slots, Reserved] = {}
        self.skipping: dict[Rule, dict[Lane, Standing]] = {}
        self.unplaced: dict[Lane, Standing] = {}
        self.odd = self.restless = self.rivalled = self.left = 0
        self.number = next(_numbers)
        self.found: Lane | None = None
        self.at = NEVER
        self.rank: Rank = (inf, inf)
        self.stale = False

    def clear(self) -> None:
        """Forget all lanes."""
        self.found, self.at = None, NEVER
        for group in self.groups.values():
            group.clear()
        for thing in (self.lanes, self.groups, self.reserved, self.skipping, self.unplaced):
            thing.clear()

    def place(self, standing: Standing, now: int) -> None:
        """Let a lane that was surveyed stand where it belongs."""
        self.odd += standing.odd
        self.restless += standing.restless
        self.rivalled += standing.rivalled
        if standing.odd or standing.private >= NEVER or len(self.lanes) == 1:
            return
        for rule in standing.skips:
            self.skipping.setdefault(rule, {})[standing.lane] = standing
        if standing.slots is not None:
            slots, weight = standing.slots
            if slots not in self.reserved:
                self.reserved[slots] = Reserved(slots)
            self.reserved[slots].add(standing, weight)
        if not standing.parked:
            self.gather(standing, now)
            measured = standing.lane.bottleneck is not None and not standing.rivalled
            if measured and standing.due(now)[1] < 0:
                self.unplaced[standing.lane] = standing

    def displace(self, standing: Standing) -> None:
        """Undo `place`."""
        self.odd -= standing.odd
        self.restless -= standing.restless
        self.rivalled -= standing.rivalled
        if standing.odd or standing.private >= NEVER:
            return
        self.scatter(standing)
        self.unplaced.pop(standing.lane, None)
        for rule in standing.skips:
            del self.skipping[rule][standing.lane]
        if standing.slots is not None:
            slots, weight = standing.slots
            self.reserved[slots].remove(standing, weight)
            if not self.reserved[slots].ranks:
                del self.reserved[slots]

    def gather(self, standing: Standing, now: int) -> None:
        """Let a lane into its group."""
        group = self.groups.get(standing.kind)
        if group is None:
            group = self.groups[standing.kind] = Group(standing.kind)
        group.add(standing, now)

    def scatter(self, standing: Standing) -> None:
        """Take a lane out of its group, if it is in one."""
        group = standing.group
        if group is not None:
            group.remove(standing)
            if not group.ranks:
                del self.groups[group.kind]

    def united(self) -> bool:
        """Whether the heads of all lanes are one caller, in one class."""
        (first, *_) = self.lanes
        rivals, priority = first.waiters[0].rivals, first.priority
        for lane in self.lanes:
            others = lane.waiters[0].rivals
            if not others or others[0] is not rivals[0] or lane.priority != priority:
                return False
        return True

    def balance(self, now: int, present: int) -> None:
        """Park lanes for which no slots are left, and let others back that have enough."""
        for reserved in self.reserved.values():
            while (standing := reserved.moved()) is not None:
                if standing.parked:
                    self.scatter(standing)
                else:
                    self.gather(standing, now)
                standing.look(now, present)


class Index:
    """The lanes with waiters, in clusters. It is used while there are several of them.

    Attributes:
        asking: by rule, the lanes that ask for it.
        shared: the rules for which several lanes ask.
        standings: by lane, where it stands; and the rules for which it asks.
        dirty: the lanes that are to be surveyed anew.
        stale: the clusters of which the next grant is to be found anew.
        restless: the clusters that always are.
        entangled: the number of lanes whose heads ask for shared slots and for others besides.
        soonest: a heap of the clusters by what they found; outdated entries may be among them.
        most: the number of entries at which the outdated ones are taken out.
        quitters: the lanes that were looked at, whose head's caller was cancelled.
        turns: the lanes that stand in the index as if they had a turn out of rank.
        turns_at: an instant at which they had one, if nothing has changed since.
        turns_until: when time alone gives one to another lane.
        present: the instant of the event; a late grant may count from an earlier one.
    """

    __slots__ = (
        "asking",
        "dirty",
        "entangled",
        "most",
        "present",
        "quitters",
        "restless",
        "rules",
        "shared",
        "soonest",
        "stale",
        "standings",
        "turns",
        "turns_at",
        "turns_until",
    )

    def __init__(self) -> None:
        self.present = 0
        self.standings: dict[Lane, Standing] = EMPTY
        self.asking: dict[Rule, dict[Lane, None]] = EMPTY
        self.shared: dict[Rule, None] = EMPTY
        self.rules: dict[Lane, list[Rule]] = EMPTY
        self.dirty: dict[Lane, None] = EMPTY
        self.stale: dict[Cluster, None] = EMPTY
        self.restless: dict[Cluster, None] = EMPTY
        self.entangled = 0
        self.soonest: list[tuple[int, Rank, int, Cluster]] = NONE_YET
        self.most = 64
        self.quitters: list[Lane] = NONE_YET
        self.turns: list[Lane] = NONE_YET
        self.turns_at = ENDED
        self.turns_until = NEVER

    def clear(self) -> None:
        """Know nothing of any lane. This comes before the first lane, too."""
        for standing in self.standings.values():
            standing.cluster.clear()  # or cluster and lane would keep each other
        self.standings, self.asking, self.rules, self.dirty = {}, {}, {}, {}
        self.stale, self.restless, self.shared = {}, {}, {}
        self.entangled = 0
        self.soonest, self.quitters, self.turns = [], [], []
        self.turns_at = ENDED
        self.turns_until = NEVER

    def rebuild(self, busy: Sequence[Lane]) -> None:
        """Know the lanes that are *busy*, if there are several."""
        self.clear()
        if len(busy) > 1:
            for lane in busy:
                self.enter(lane)

    # -- lanes come and go --------------------------------------------------------------

    def enter(self, lane: Lane) -> None:
        """*lane* has waiters now."""
        self.turns_at = ENDED
        rules = [rule for _, rule in lane.rates]
        rules += [slots for _, slots in lane.slots if slots.limit != UNLIMITED]
        cluster: Cluster | None = None
        for rule in rules:
            others = self.asking.setdefault(rule, {})
            if others:
                other = next(iter(others))
                if len(others) == 1:
                    self.dirty[other] = None  # the rule is no longer private
                    self.shared[rule] = None
                found = self.standings[other].cluster
                cluster = found if cluster is None else self._merge(cluster, found)
            others[lane] = None
        if cluster is None:
            cluster = Cluster()
        standing = Standing(lane)
        standing.cluster = cluster
        standing.private, standing.odd = NEVER, False
        self.standings[lane] = standing
        self.rules[lane] = rules
        cluster.lanes[lane] = standing
        self.dirty[lane] = None

    def leave(self, lane: Lane) -> None:
        """*lane* has no waiters any more, or is to enter anew."""
        if lane not in self.standings:
            return  # the index is to be made anew
        standing = self.standings.pop(lane)
        cluster = standing.cluster
        self._displace(standing)
        self.dirty.pop(lane, None)
        for rule in self.rules.pop(lane):
            others = self.asking[rule]
            del others[lane]
            if not others:
                del self.asking[rule]
            elif len(others) == 1:
                self.dirty[next(iter(others))] = None  # the rule is private now
                del self.shared[rule]
        del cluster.lanes[lane]
        cluster.left += 1
        if not cluster.lanes:
            self._forget(cluster)
            return
        if len(cluster.lanes) == 1:
            self.dirty.update(dict.fromkeys(cluster.lanes))
        self.outdate(cluster)
        if cluster.left > len(cluster.lanes) + 8:
            self._split(cluster)

    def changed(self, lane: Lane) -> None:
        """The head of *lane*, its pauses or its private rules have changed."""
        if lane in self.standings:
            self.dirty[lane] = None
            self.outdate(self.standings[lane].cluster)

    def touch(self, rule: Rule) -> None:
        """*rule* has changed."""
        asking = self.asking.get(rule)
        if asking:
            lane = next(iter(asking))
            if len(asking) == 1:
                self.dirty[lane] = None
            self.outdate(self.standings[lane].cluster)

    def rouse(self) -> None:
        """Time has passed: clusters with rules that change by themselves are stale."""
        for cluster in self.restless:
            self.outdate(cluster)

    def renew(self, now: int) -> None:
        """Survey the dirty lanes, and see which have no slots left, as of *now*."""
        dirty = self.dirty
        while dirty:
            lane = next(iter(dirty))
            standing = self.standings[lane]
            self._displace(standing)
            standing.survey(self.asking, self.turns, now)
            self.entangled += standing.entangled
            cluster = standing.cluster
            cluster.place(standing, now)
            if cluster.restless:
                self.restless[cluster] = None
            standing.look(now, self.present)
            self._mark(cluster)
            del dirty[lane]
        for cluster in self.stale:
            if cluster.reserved:
                cluster.balance(now, self.present)

    def _displace(self, standing: Standing) -> None:
        self.entangled -= standing.entangled
        cluster = standing.cluster
        cluster.displace(standing)
        standing.private, standing.odd, standing.restless = NEVER, False, False
        standing.entangled = standing.rivalled = False
        if not cluster.restless:
            self.restless.pop(cluster, None)

    def outdate(self, cluster: Cluster) -> None:
        """Find anew which head of *cluster* goes next."""
        self.turns_at = ENDED
        self._mark(cluster)

    def _mark(self, cluster: Cluster) -> None:
        cluster.stale = True
        self.stale[cluster] = None

    def _forget(self, cluster: Cluster) -> None:
        cluster.clear()
        self.stale.pop(cluster, None)
        self.restless.pop(cluster, None)

    def _merge(self, one: Cluster, other: Cluster) -> Cluster:
        """The lanes of both in one cluster."""
        if one is other:
            return one
        if len(one.lanes) < len(other.lanes):
            one, other = other, one
        for lane, standing in other.lanes.items():
            self._displace(standing)
            standing.cluster = one
            one.lanes[lane] = standing
            self.dirty[lane] = None
        one.left += other.left
        self._forget(other)
        self.outdate(one)
        return one

    def _split(self, cluster: Cluster) -> None:
        """Let the lanes of *cluster* be together only as far as their rules are."""
        lanes = list(cluster.lanes)
        for lane in lanes:
            standing = self.standings[lane]
            self._displace(standing)
            standing.cluster = Cluster()
        self._forget(cluster)
        for lane in lanes:
            alone = self.standings[lane].cluster
            alone.lanes[lane] = self.standings[lane]
            self.outdate(alone)
            self.dirty[lane] = None
        for lane in lanes:
            for rule in self.rules[lane]:
                first = next(iter(self.asking[rule]))
                self._merge(self.standings[lane].cluster, self.standings[first].cluster)
