"""Forecasts: how long a newcomer would wait behind the waiters ahead of it.

`quote` tells the instant. It takes O(1) for a single divisible rate; elsewhere the future of the
queue is told from a `timetable` or played in a copy (see `foresight`), and what is foreseen is
kept. `bounds` often spares the question.
"""

from __future__ import annotations

from typing import Any, cast

from async_throttle._engine.bounds import FEW
from async_throttle._engine.foresight import KNOWN, Actor, Foresight
from async_throttle._engine.lane import QUEUED, SKIP, Lane
from async_throttle._engine.queue import Queue
from async_throttle._engine.timetable import Timetable
from async_throttle._units import NEVER
from async_throttle.rules import Rule

__all__ = ["Actor", "amid_an_event", "at_least", "quote", "would_wait"]


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
    if at is None:
        at = _of_rates_with_enough(queue, lane, weights)
    if at is not None:
        return at, -1
    answer = _of_what_is_kept(queue, lane, weights)
    if answer is not None:
        return answer
    former = None if queue.sweep_all_cancelled() else queue.foresight
    queue.forget()
    timetable = Timetable.of(queue, lane)
    if timetable is not None:
        answer = timetable.ask(queue.now, lane, weights)
        if answer is not None:
            if timetable.instants:
                queue.foresee(timetable)
            return answer
    foresight = Foresight(queue, lane)
    try:
        answer = foresight.ask(queue, lane, weights)
        assert answer is not None, "a new copy is not ahead yet"
        if foresight.kept and foresight.actors:
            if isinstance(former, Foresight):
                foresight.take_over(former)
            queue.foresee(foresight)
        return answer
    finally:
        if queue.foresight is not foresight:
            foresight.close()


def would_wait(queue: Queue, lane: Lane, weights: tuple[int, ...]) -> bool:
    """Whether a newcomer to *lane* would not be granted at once, as far as that is known here."""
    if queue.can_take(lane, weights):
        return False
    if not lane.fed:
        return True
    if any(slots.level(queue.now) < weights[n] for n, slots in lane.slots):
        return True
    return quote(queue, lane, weights)[0] > queue.now


def _of_what_is_kept(queue: Queue, lane: Lane, weights: tuple[int, ...]) -> tuple[int, int] | None:
    """What `quote` tells, by what was foreseen before; None, if that does not do."""
    foresight = queue.foresight
    if not isinstance(foresight, Foresight | Timetable):
        return None
    if not foresight.holds(queue, lane):
        queue.forget()
        return None
    if isinstance(foresight, Timetable):
        return foresight.ask(queue.now, lane, weights)
    if not foresight.grows:
        return foresight.known(queue.now, lane, weights)
    answer = foresight.ask(queue, lane, weights)
    if not foresight.kept:
        queue.forget()
    return answer


def at_least(queue: Queue, lane: Lane, weights: tuple[int, ...]) -> tuple[int, int]:
    """A lower bound of `quote`, and of slots that are missing the place; no dearer where many wait.

    It counts those ahead in *lane* alone, and of rates that are not divisible nobody. Callers
    of a pool may go elsewhere: where they are ahead it is no bound, but a guess.
    """
    at, place = lane.held_until(queue.now, weights)
    for n, rate in lane.rates:
        if weights[n] != SKIP:
            ahead = lane.backlog[n] if lane.waiters and rate.divisible else 0
            ready = _regains(rate, queue.now).ready_at(queue.now, ahead + weights[n])
            if at < ready <= NEVER:
                at, place = ready, n
    if place < 0:
        for n, slots in lane.slots:
            shared = len(queue.index.asking.get(slots, ())) > 1  # they may be reserved for others
            if place < 0 < weights[n] and (slots.free < weights[n] or shared):
                place = lane.place_of(n, slots)
    return at, place


def amid_an_event(queue: Queue, now: int, lane: Lane, weights: tuple[int, ...]) -> tuple[int, int]:
    """A lower bound of `quote` as of the last event, at *now*, while the queue is at work.

    The bound counts those who ask for the same rules, in the same class or a better one. It reads
    the states of waiters alone: sums that follow from these may be out of date. What the grant
    under way has taken is still there.
    """
    at, place = lane.held_until(now, weights)
    alike = [
        waiter
        for other in {lane: None, **dict.fromkeys(list(queue.busy))}
        if other.rules == lane.rules and other.priority <= lane.priority
        for waiter in list(other.waiters)
        if waiter.state is QUEUED
    ]
    for n, rate in lane.rates:
        if weights[n] != SKIP:
            ahead = sum(waiter.weights[n] for waiter in alike if waiter.weights[n] != SKIP)
            wanted = max(0, ahead + weights[n] - queue.pending(rate))
            regains = _regains(rate, at)
            if not regains.divisible:
                wanted = int(min(wanted, rate.burst))
            ready = regains.ready_at(at, wanted)
            if at < ready <= NEVER:
                at, place = ready, n
    for n, slots in lane.slots:
        if place < 0 and slots.free + queue.pending(slots) < weights[n] > 0:
            place = lane.place_of(n, slots)
    return at, place


def _of_one_rate(queue: Queue, lane: Lane, weights: tuple[int, ...]) -> int | None:
    """When a newcomer could go that asks for one divisible rate, as waiters for it do; or None."""
    if lane.bottleneck is not None or queue.ranked or lane.priority or queue.emptying:
        return None
    at = max(queue.now, lane.opens_at)
    if not lane.rates or at >= NEVER:
        return at
    n, rate = lane.rates[0]
    regains = _regains(rate, queue.now)
    if not regains.divisible or len(lane.rates) > 1:
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
    ready = regains.ready_at(at, wanted)
    return at if ready > NEVER else ready


def _of_rates_with_enough(queue: Queue, lane: Lane, weights: tuple[int, ...]) -> int | None:
    """When a newcomer goes whose rates have enough for all who wait for them; else None.

    So it is, as a rule, where only slots are missing.
    """
    now = queue.now
    at = max(now, lane.opens_at)
    if at > now and (lane.bottleneck is not None or queue.emptying):
        return None
    for n, rate in lane.rates:
        if type(rate) not in KNOWN:
            return None
        wanted = _wanted(queue, rate) + max(0, weights[n])
        if wanted > rate.burst or rate.ready_at(now, wanted) > now:
            return None
    return at


def _regains(rate: Rule, now: int) -> Rule:
    """*rate*, or what it would be if all calls in flight ended *now*: ends are not foreseen."""
    return rate if rate.in_flight is None else cast(Rule, cast(Any, rate).landed(now))


def _wanted(queue: Queue, rate: Rule) -> int:
    """How much all who wait want of *rate*; a caller in several lanes counts as often."""
    lanes = queue.asking(rate)
    if rate in queue.counts or len(lanes) > FEW:
        return queue.keep_count(rate).weight
    return sum(lane.backlog[lane.rules.index(rate)] for lane in lanes if rate in lane.rules)
