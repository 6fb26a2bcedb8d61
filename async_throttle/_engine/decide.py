"""Who goes next, and who may go at once, by the index: see `index` for what makes it right.

The functions look only at lanes on which the answer depends. Of these, the lanes whose head was
cancelled are added to `Index.quitters`: once their heads are taken out, the question is to be asked
again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from heapq import heappop, heappush, merge
from math import inf
from typing import Any

from async_throttle._engine.backfill import Claim, Rank, claims_of, moves_edges, within
from async_throttle._engine.index import Cluster, Group, Index, Standing, is_orderly
from async_throttle._engine.lane import ENDED, SKIP, Lane
from async_throttle._units import NEVER
from async_throttle.rules import Rule
from async_throttle.rules.slots import UNLIMITED, Slots

__all__ = ["first", "foremost", "is_simple", "may_take", "note", "succeed"]


def foremost(index: Index, cluster: Cluster, now: int) -> None:
    """Find which head of *cluster* goes next by time alone, group by group."""
    cluster.stale = False
    cluster.found, cluster.at, cluster.rank = None, NEVER, (inf, inf)
    if len(cluster.lanes) == 1:
        (standing,) = cluster.lanes.values()
        if standing.private < NEVER:
            _consider(index, cluster, standing, now, leads=True)
        return
    groups = list(cluster.groups.values())
    if not groups:
        return
    for group in groups:
        group.wake(now)
    if cluster.rivalled:
        for group in groups:
            _foremost_of_rivals(index, cluster, group, now)
        return
    leader = min(group.ranks[0] for group in groups)[1]
    _consider(index, cluster, leader, now, leads=True)
    for group in groups:
        top: Rank = (inf, inf)
        if group.awake:
            top = group.awake[0][0]
            if group.awake[0][1] is not leader:
                _consider(index, cluster, group.awake[0][1], now)
            if group.ranks[0][0] == top:
                continue
        for private, rank, standing in group.asleep:
            if private > cluster.at:
                break
            if rank < top:
                top = rank
                if standing is not leader:
                    _consider(index, cluster, standing, now)
    _find_bottlenecks(index, cluster, now)


def _foremost_of_rivals(index: Index, cluster: Cluster, group: Group, now: int) -> None:
    """Note in *cluster* which head of *group* could go first: they are one caller, who is no
    obstacle to itself."""
    awake: set[tuple[int, ...]] = set()
    for _, standing in group.awake:
        if standing.weights not in awake:  # the same weights may go at the same instant
            awake.add(standing.weights)
            _consider(index, cluster, standing, now, leads=True)
    for private, _, standing in group.asleep:
        if private > cluster.at:
            break
        _consider(index, cluster, standing, now, leads=True)


def _find_bottlenecks(index: Index, cluster: Cluster, now: int) -> None:
    """See for which rate the lanes wait that wait for other lanes alone."""
    while cluster.unplaced:
        lane, standing = cluster.unplaced.popitem()
        place, _ = obstacle(index, lane, lane.waiters[0].weights, now, standing.rank)
        if place >= 0 and lane.bottleneck is not None:
            lane.bottleneck.wait_for(place, index.present)


def _consider(
    index: Index, cluster: Cluster, standing: Standing, now: int, *, leads: bool = False
) -> None:
    """Note *standing* in *cluster* if it could go before what was found so far."""
    lane, rank = standing.lane, standing.rank
    head = lane.waiters[0]
    if head.cancelled():
        index.quitters.append(lane)
        return
    at, place = standing.due(now)
    while (at, rank) < (cluster.at, cluster.rank):
        again = at
        if not leads and len(cluster.lanes) > 1:
            held_up, again = obstacle(index, lane, head.weights, at, rank)
            if held_up >= 0:
                place = held_up
        if again == at:
            cluster.found, cluster.at, cluster.rank = lane, at, rank
            break
        at = again
    if place >= 0 and lane.bottleneck is not None:
        lane.bottleneck.wait_for(place, index.present)


def obstacle(
    index: Index, lane: Lane, weights: tuple[int, ...], at: int, rank: Rank
) -> tuple[int, int]:
    """The place of a rate of *lane* from which *weights* may not be taken at *at*; or -1.

    The second number is an instant before which they may not either; *at* itself, if they may.
    """
    asked = [rule for rule, weight in zip(lane.rules, weights, strict=True) if weight != SKIP]
    apart = {lane: None}
    for rule in asked:
        lanes = index.asking.get(rule, ())
        if len(lanes) == 1:
            apart.update(dict.fromkeys(lanes))
    for n, rate in lane.rates:
        weight = weights[n]
        lanes = index.asking.get(rate, ())
        if weight == SKIP or not lanes:
            continue
        seen: list[Lane] = []
        sources = _sources(index, rate, at, asked, rank, lane, apart, seen)
        if sources:
            again = _walk(rate, at, weight, merge(*sources) if len(sources) > 1 else sources[0])
            if again > at:
                index.quitters += [other for other in seen if other.waiters[0].cancelled()]
                return n, again
    return -1, at


def _sources(
    index: Index,
    rate: Rule,
    at: int,
    asked: Sequence[Rule],
    rank: Rank,
    lane: Lane,
    apart: Collection[Lane],
    seen: list[Lane],
) -> list[Iterator[Claim]]:
    """The claims on *rate* that rank before *rank*, of lanes *apart* and of the groups."""
    sources = []
    for other in apart:
        if other is not lane and rate in other.rules:
            standing = index.standings[other]
            if standing.private < NEVER and not standing.parked and standing.rank <= rank:
                seen.append(other)
                sources.append(claims_of(other, rate, asked, at, rank, ()))
    cluster = index.standings[next(iter(index.asking[rate]))].cluster
    for other, standing in cluster.skipping.get(rate, {}).items():
        behind = len(other.waiters) > 1 and standing.rank <= rank and not standing.parked
        if behind and other not in apart:
            seen.append(other)
            sources.append(claims_of(other, rate, asked, at, rank, ()))
    for group in cluster.groups.values():
        if rate in group.key:
            sources.append(group.claims(rate, at, asked, rank, apart, seen))
    return sources


def _walk(rate: Any, at: int, weight: int, claims: Iterator[Claim]) -> int:
    """*at*, if *weight* may be taken then without that one of *claims* goes later for it.

    Else a later instant, before which it may not; NEVER, if time alone will not do: see the
    `obstacle` of `backfill`.
    """
    if not rate.divisible:
        return _walk_window(rate, at, weight, claims)
    full, room, grain, scale = rate.ticks_at(at)
    total = full + weight * grain
    again, longest = NEVER, 0
    for instant, claim, lead in claims:
        due = instant * scale
        if due >= total:
            return at  # the rate has forgotten the weight by then
        if lead or not weight:
            again = min(again, _within(full, total, scale, lead))
            longest = max(longest, lead)
        total += claim * grain
        if claim and total - room > due:
            break
    else:
        return at
    for instant, claim, _ in claims:
        if instant > at:
            break
        total += claim * grain
    return max(at + 1, min(again, _within(full, total - room, scale, longest)))


def _walk_window(window: Rule, at: int, weight: int, claims: Iterator[Claim]) -> int:
    """What `_walk` finds, of a window, which gives its burst at most until it has forgotten."""
    if window.opens(at):
        return NEVER if moves_edges(window, at, weight, claims) else at
    total, forgets_at = weight, window.forgets_at(at, weight)
    again, longest = NEVER, 0
    for instant, claim, lead in claims:
        if instant >= forgets_at:
            return at
        if lead or not weight:
            again = min(again, within(window.forgets_at, at, total, lead))
            longest = max(longest, lead)
        total += claim
        if claim and (total > window.burst or window.ready_at(at, total) > instant):
            break
    else:
        return at
    for instant, claim, _ in claims:
        if instant > at:
            break
        total += claim
    if total <= window.burst:
        again = min(again, within(window.ready_at, at, total, longest))
    return max(at + 1, again)


def _within(full: int, end: int, scale: int, lead: int) -> int:
    """The first instant that is no more than *lead* before the tick *end*; or NEVER.

    From when the rate is *full*, the end moves on with time.
    """
    at: int = -(-end // scale) - lead
    return at if (at - 1) * scale < full else NEVER


def first(index: Index, now: int) -> tuple[Lane | None, int, Cluster | None]:
    """The lane that goes next and when; or a cluster that is to be looked at first."""
    if index.stale:
        return None, NEVER, next(iter(index.stale))
    soonest = index.soonest
    while soonest:
        at, _, _, cluster = soonest[0]
        if not _holds(*soonest[0]):
            heappop(soonest)
        elif at < now:
            heappop(soonest)
            index.stale[cluster] = None
            cluster.stale = True
            return None, NEVER, cluster
        else:
            return cluster.found, at, None
    return None, NEVER, None


def note(index: Index, cluster: Cluster) -> None:
    """*cluster* knows which of its heads goes next."""
    index.stale.pop(cluster, None)
    if cluster.at < NEVER:
        heappush(index.soonest, (cluster.at, cluster.rank, cluster.number, cluster))
        if len(index.soonest) > index.most:
            index.soonest = sorted({entry for entry in index.soonest if _holds(*entry)})
            index.most = 2 * len(index.soonest) + 64


def _holds(at: int, rank: Rank, number: int, cluster: Cluster) -> bool:
    """Whether *cluster* is still as it was when this was found."""
    return not cluster.stale and (at, rank) == (cluster.at, cluster.rank)


def succeed(index: Index, lane: Lane, now: int) -> None:
    """A waiter of *lane* has left. If it was the head, the next one often asks for the same."""
    standing = index.standings.get(lane)
    if standing is None:
        return  # the index is to be made anew
    head, cluster = lane.waiters[0], standing.cluster
    if (
        lane in index.dirty
        or standing.asked != head.weights
        or standing.pooled != bool(head.rivals)
    ):
        index.changed(lane)
        return
    found = cluster.found is lane
    alone = len(cluster.lanes) == 1 and not cluster.stale and not (found and head.cancelled())
    if not alone and not cluster.stale:
        index.outdate(cluster)
    index.turns_at = ENDED
    if head.order == standing.rank[1]:
        return
    rank = standing.rank[0], head.order
    if standing.group is None and standing.slots is None:
        standing.rank = rank
    elif standing.rivalled and standing.group is not None:
        standing.group.move(standing, rank)
    else:
        cluster.displace(standing)
        standing.rank = rank
        cluster.place(standing, now)
        if standing.slots is not None:  # the lane may be parked now, or no longer
            standing.look(now, index.present)
    if alone and found:
        cluster.rank = rank
        note(index, cluster)


def is_simple(index: Index, lane: Lane) -> bool:
    """Whether a newcomer to *lane* is decided group by group."""
    for rule in lane.rules:
        lanes = index.asking.get(rule)
        if lanes:
            standing = index.standings[next(iter(lanes))]
            if standing.cluster.odd or standing.cluster.rivalled:
                return False
            if len(lanes) == 1 and (standing.several or not is_orderly(rule)):
                return False
    return True


def may_take(index: Index, lane: Lane, weights: tuple[int, ...], now: int) -> bool:
    """Whether a newcomer goes at once at the cost of no waiter. Its rules have *weights* now."""
    rank = lane.priority, inf
    for n, slots in lane.slots:
        if weights[n] > 0 and slots.limit != UNLIMITED and slots in index.asking:
            free = slots.free - weights[n]
            if not _leaves(index, slots, free, rank):
                return False
    return obstacle(index, lane, weights, now, rank)[0] < 0


def _leaves(index: Index, slots: Slots, free: int, rank: Rank) -> bool:
    """Whether the lanes before *rank* leave so many slots that *free* are enough for them."""
    lanes = index.asking[slots]
    standing = index.standings[next(iter(lanes))]
    wanting: Sequence[tuple[Rank, Standing, int]] = ()
    if len(lanes) == 1:
        weight = standing.lane.waiters[0].weights[standing.lane.rules.index(slots)]
        if standing.private < NEVER or weight > slots.free:  # else it is paused for good
            wanting = [(standing.rank, standing, max(0, weight))]
    elif slots in standing.cluster.reserved:
        reserved = standing.cluster.reserved[slots]
        wanting = reserved.ranks
        if reserved.taken <= free and reserved.front == len(wanting):
            return True
    seen = []
    for ranked, standing, weight in wanting:
        if ranked > rank:
            break
        seen.append(standing.lane)
        free -= weight
        if free < 0:
            index.quitters += [other for other in seen if other.waiters[0].cancelled()]
            return False
    return True
