"""Forecasts: how long a newcomer would wait behind the waiters ahead of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from async_throttle._engine.lane import (
    EXPIRED,
    GONE,
    QUEUED,
    SKIP,
    Lane,
    Pause,
    Receipt,
    State,
    Waiter,
)
from async_throttle._engine.queue import Queue
from async_throttle._units import NEVER
from async_throttle.rules import Rule
from async_throttle.rules.slots import UNLIMITED, Slots

__all__ = ["Actor", "quote"]


class Actor:
    """A `Waiter` that plays a caller in a forecast, or in a test: it has no task to wake."""

    __slots__ = (
        "deadline",
        "error",
        "granted_at",
        "lane",
        "order",
        "receipts",
        "rivals",
        "spans",
        "state",
        "weights",
    )

    lane: Lane
    weights: tuple[int, ...]
    order: int
    deadline: int
    state: State
    receipts: list[Receipt]
    granted_at: int
    error: BaseException
    spans: list[int]
    rivals: Sequence[Waiter]

    def __init__(self) -> None:
        self.rivals = ()
        self.state = GONE

    def cancelled(self) -> bool:
        """Never: an actor has no task to cancel."""
        return False


def quote(queue: Queue, lane: Lane, weights: tuple[int, ...]) -> tuple[int, int]:
    """When a newcomer to *lane* could go, behind the waiters ahead; and the rule it waits for.

    The rule is told by its place: it would hold the newcomer up for longest; -1 is no rule. Slots
    and permits from outside count as if they were there, so that the instant is a lower bound
    where they are missing. The forecast takes O(1) where the lane has a single divisible rate, and
    the waiters for that rate ask for no other rate; elsewhere the future of the queue is played.
    """
    queue.sweep_all_cancelled()
    if lane.bottleneck is None and not (queue.ranked or lane.priority or queue.emptying):
        at = max(queue.now, lane.opens_at)
        if not lane.rates or at >= NEVER:
            return at, -1
        n, rate = lane.rates[0]
        # A lane whose head waits for a slot holds up no other lane.
        others = [
            other
            for other in queue.busy
            if rate in other.rules
            and (other is lane or other.ready_at(queue.now, other.waiters[0].weights) != NEVER)
        ]
        if rate.divisible and all(
            other.bottleneck is None and len(other.rates) == 1 for other in [lane, *others]
        ):
            ahead = sum(other.backlog[other.rates[0][0]] for other in others)
            ready = rate.ready_at(at, ahead + weights[n])
            return (at if ready > NEVER else ready), -1
    return _play(queue, lane, weights)


class _Twins(dict[Any, Any]):
    """For each rule and pause its copy in a forecast, in which nobody is short of a slot."""

    def __missing__(self, thing: Rule | Pause) -> Any:
        if isinstance(thing, Slots):
            twin: Any = Slots(UNLIMITED)
        elif isinstance(thing, Rule):
            twin = thing.fork()
        else:
            twin = Pause(*(self[rule] for rule in thing.rules))
            twin.until, twin.empties = thing.until, thing.empties
        self[thing] = twin
        return twin


def _play(queue: Queue, lane: Lane, weights: tuple[int, ...]) -> tuple[int, int]:
    """Play the future in a copy of *queue* in which no slot is missing."""
    copy = Queue(queue.now, 0)
    copy.trusting = True
    copy.patience.in_rank.update(queue.patience.in_rank)
    twins = _Twins()
    newcomer = Actor()
    rivals: dict[int, list[Waiter]] = {}
    lanes: dict[Lane, Lane] = {}
    for original in [*queue.busy, *([] if lane in queue.busy else [lane])]:
        if (
            original is not lane
            and original.ready_at(queue.now, original.waiters[0].weights) == NEVER
        ):
            continue  # its head waits for a slot, which has no known end
        played = copy.lane(
            tuple(twins[rule] for rule in original.rules),
            tuple(twins[pause] for pause in original.pauses),
            original.priority,
            None if original.bottleneck is None else original.places[1:],
        )
        lanes[original] = played
        for waiter in original:
            actor = Actor()
            if waiter.rivals:
                actor.rivals = rivals.setdefault(id(waiter.rivals[0]), [])
                actor.rivals.append(actor)
            copy.join(actor, played, waiter.weights)
            actor.order = waiter.order
        if original is lane:
            copy.join(newcomer, played, weights)
    for original, played in lanes.items():
        copy.patience.know(played, queue.patience.times(original))
    copy.emptying = [twins[pause] for pause in queue.emptying]
    copy.advance(copy.now)
    while newcomer.state is QUEUED and copy.due_at < NEVER:
        copy.decided.clear()
        copy.advance(copy.due_at)
    for played in lanes.values():  # so that nothing is left to the collector of reference cycles
        played.waiters.clear()
    for actors in rivals.values():
        actors.clear()
    if newcomer.state is QUEUED:
        at, place = lane.binding(queue.now, weights)
        unknown = at > NEVER or copy.demand
        return (_known(lane, queue.now, weights) if unknown else NEVER), place
    if newcomer.state is not EXPIRED and hasattr(newcomer, "error"):
        try:
            raise newcomer.error
        finally:
            del newcomer
    if newcomer.lane.bottleneck is None or newcomer.granted_at == queue.now:
        return newcomer.granted_at, -1
    return newcomer.granted_at, max(range(len(newcomer.spans)), key=newcomer.spans.__getitem__)


def _known(lane: Lane, now: int, weights: tuple[int, ...]) -> int:
    """When *weights* could go by the rules alone that know when."""
    at = max(now, lane.opens_for(weights))
    for n, rule in lane.rates:
        ready = rule.ready_at(at, weights[n]) if weights[n] != SKIP else at
        if ready <= NEVER:
            at = ready
    return at
