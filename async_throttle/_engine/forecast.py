"""Forecasts: how long a newcomer would wait behind the waiters ahead of it.

`quote` tells the instant. It takes O(1) for a single divisible rate; elsewhere the future of the
queue is played in a copy, which is kept: see `foresight`.

`is_within` often spares the question. It knows an instant by which the newcomer is gone, from what
is queued alone. The proof: from the end of the last pause on, the head that ranks first waits for
nothing but the rates that it asks for itself (see `backfill`). So at each moment at least one rate
has less than what a waiter asks of it. Take for each rate the time that it needs for all that is
queued for it, without other rates: as long as it is short, that time runs down with the clock,
and a grant, to whichever waiter, does not change it (what is taken is not queued any more). So all
waiters, in any order, are gone when as much time has passed as all rates need one after the other.
That some lanes are left out of a forecast, and that callers of a pool leave other lanes, only
shortens it. Classes of priority change which head ranks first, and so does patience. That is of
no matter to a rate that regains all the time, but a window may then hold up the same waiter again.

Among many lanes that is too much: each chat of a bot has a rate of its own. Where lanes have a
single bucket in common, look at the lane of the newcomer alone. Its waiters, and the newcomer, wait
in turn for the end of a pause; for a rate of their own; for the bucket while it is not full, which
takes no longer than to regain what is missing and all that is queued; and while it is full, for a
waiter that ranks before them and wakes so soon that the bucket would not be full again by then. So
between two awakenings it lasts no longer than the bucket takes to regain the heaviest weight, and
each waiter wakes once.
"""

from __future__ import annotations

from typing import Any, Final

from async_throttle._engine.foresight import Actor, Foresight
from async_throttle._engine.index import is_plain
from async_throttle._engine.lane import SKIP, Lane
from async_throttle._engine.queue import Queue
from async_throttle._units import NEVER
from async_throttle.rules import Rule

__all__ = ["FEW", "Actor", "at_least", "is_within", "quote"]

FEW: Final = 64
"""So many waiters, or lanes, are looked at for each question: that is as long as the rest takes."""


def quote(queue: Queue, lane: Lane, weights: tuple[int, ...]) -> tuple[int, int]:
    """When a newcomer to *lane* could go, behind the waiters ahead; and the rule it waits for.

    The rule is told by its place: it would hold the newcomer up for longest; -1 is no rule. Slots
    and permits from outside count as if they were there, so that the instant is a lower bound
    where they are missing.

    Waiters that were cancelled and have not left yet do not count. But where many wait, only heads
    are looked at, unless the future is played anew.
    """
    if queue.waiting <= FEW:
        queue.sweep_all_cancelled()
    at = _of_one_rate(queue, lane, weights)
    if at is not None:
        return at, -1
    foresight = queue.foresight
    answers = {}
    if isinstance(foresight, Foresight) and foresight.holds(queue, lane):
        answer = foresight.ask(queue, lane, weights)
        if not foresight.kept:
            queue.forget()
        if answer is not None:
            return answer
        answers = foresight.answers
    if queue.sweep_all_cancelled():
        answers = {}
    queue.forget()
    foresight = Foresight(queue, lane)
    try:
        answer = foresight.ask(queue, lane, weights)
        assert answer is not None, "a new copy is not ahead yet"
        if foresight.kept and foresight.actors:
            foresight.answers.update(answers)
            queue.foresight = foresight
        return answer
    finally:
        if queue.foresight is not foresight:
            foresight.close()


def at_least(queue: Queue, lane: Lane, weights: tuple[int, ...]) -> tuple[int, int]:
    """A lower bound of `quote`, and of slots that are missing the place; no dearer where many wait.

    The bound counts those ahead in *lane* alone, and of rates that are not divisible nobody.
    """
    at, place = lane.held_until(queue.now, weights)
    for n, rate in lane.rates:
        if weights[n] != SKIP:
            ahead = lane.backlog[n] if lane.waiters and rate.divisible else 0
            ready = rate.ready_at(queue.now, ahead + weights[n])
            if at < ready <= NEVER:
                at, place = ready, n
    if place < 0:
        for n, slots in lane.slots:
            shared = len(queue.index.asking.get(slots, ())) > 1  # they may be reserved for others
            if place < 0 < weights[n] and (slots.free < weights[n] or shared):
                place = n
    return at, place


def is_within(queue: Queue, lane: Lane, weights: tuple[int, ...], until: int) -> bool:
    """Whether it is sure, without playing the future, that `quote` tells no later than *until*."""
    if queue.feeds:
        return False
    try:
        if len(queue.busy) > FEW:
            return _is_within_beside_many(queue, lane, weights, until)
        return _is_within_beside_few(queue, lane, weights, until)
    except Exception:  # of a rule that is asked for its own waiters: this is not their turn
        return False


def _is_within_beside_few(queue: Queue, lane: Lane, weights: tuple[int, ...], until: int) -> bool:
    """By what is queued for all rates of all lanes."""
    at = queue.now
    for pause in queue.emptying:
        at = max(at, pause.until)
    wanted = {rate: max(0, weights[n]) for n, rate in lane.rates}
    for other in queue.busy if lane.waiters else (*queue.busy, lane):
        at = max(at, other.opens_at)
        for n, rate in other.rates:
            wanted[rate] = wanted.get(rate, 0) + other.backlog[n]
    ranked = bool(queue.ranked or lane.priority)
    return _clears(queue, wanted, at, until, divisible=ranked)


def _is_within_beside_many(queue: Queue, lane: Lane, weights: tuple[int, ...], until: int) -> bool:
    """By what is queued for the rates of *lane*, of which lanes share a single one."""
    index, now = queue.index, queue.now
    if queue.doubtful or index.dirty or queue.ranked or lane.priority or queue.emptying:
        return False
    at = max(now, lane.opens_at)
    shared = []
    for n, rate in lane.rates:
        asking = index.asking.get(rate, {})
        if len(asking) > (lane in asking):
            shared.append(n)
        else:
            at += (
                rate.clears_at(now, (lane.backlog[n] if lane.waiters else 0) + max(0, weights[n]))
                - now
            )
    if shared:
        n, *others = shared
        bucket: Any = lane.rules[n]
        cluster = index.standings[next(iter(index.asking[bucket]))].cluster
        keys = {group.key for group in cluster.groups.values()} | {(r,) for r in cluster.skipping}
        if others or cluster.odd or cluster.rivalled or cluster.reserved or not is_plain(bucket):
            return False
        callers = queue.keep_count(bucket)
        if callers.several or not keys <= {(), (bucket,)}:
            return False
        weight = max(0, weights[n])
        heaviest = max(callers.heaviest, weight)
        wanted = int(bucket.burst) + callers.weight + weight + (callers.alone + 1) * heaviest
        at += bucket.clears_at(now, wanted) - now + 2 * callers.alone
    return at <= until


def _clears(queue: Queue, wanted: dict[Rule, int], at: int, until: int, *, divisible: bool) -> bool:
    """Whether the rates have given all that is *wanted* one after the other from *at* to *until*.

    It takes no longer than until it is sure that they have not.
    """
    now = queue.now
    emptied = {rule for pause in queue.emptying for rule in pause.rules}
    for rate, weight in wanted.items():
        if at > until or (divisible and not rate.divisible):
            return False
        if rate in emptied:
            rate = rate.fork()
            rate.empty(now)
        at += rate.clears_at(now, weight) - now
    return at <= until


def _of_one_rate(queue: Queue, lane: Lane, weights: tuple[int, ...]) -> int | None:
    """When a newcomer could go that asks for one divisible rate, as waiters for it do; or None."""
    if lane.bottleneck is not None or queue.ranked or lane.priority or queue.emptying:
        return None
    at = max(queue.now, lane.opens_at)
    if not lane.rates or at >= NEVER:
        return at
    n, rate = lane.rates[0]
    if not rate.divisible or len(lane.rates) > 1:
        return None
    wanted = weights[n]
    for other in queue.asking(rate):
        if rate in other.rules:
            head = other.waiters[0]
            if head.cancelled():
                queue.sweep_all_cancelled()
                return _of_one_rate(queue, lane, weights)
            # A lane whose head waits for a slot holds up no other lane.
            if other is lane or other.ready_at(queue.now, head.weights) != NEVER:
                if other.bottleneck is not None or len(other.rates) != 1:
                    return None
                wanted += other.backlog[other.rates[0][0]]
    ready = rate.ready_at(at, wanted)
    return at if ready > NEVER else ready
