"""The derived fields of a queue, computed anew from its state.

The state of a queue is its lanes, the waiters in them with their states, the pauses and the rules.
The other fields are kept for speed, and follow from the state. `check` compares them with the
state; `repair` puts them right after an exception has come in the middle of an event, such as a
KeyboardInterrupt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heapify
from typing import Any

from async_throttle._engine.foresight import Foresight
from async_throttle._engine.lane import GONE, NOBODY, QUEUED, SKIP, Callers, Lane
from async_throttle._engine.queue import Queue
from async_throttle._units import NEVER

__all__ = ["check", "repair", "told"]


def check(queue: Queue) -> None:
    """Compare every derived field with its value computed anew, and test the invariants.

    Raises:
        AssertionError: a field differs; the error names it, and tells the whole state.
    """
    for what, kept, expected in _differences(queue):
        raise AssertionError(f"{what} is {kept!r}, should be {expected!r}\n{told(queue)}")
    if isinstance(queue.foresight, Foresight):
        check(queue.foresight.copy)


def repair(queue: Queue) -> None:
    """Compute every derived field anew."""
    lanes = list(queue.lanes.values())
    for lane in lanes:
        lane.waiters = deque(lane)
        lane.left = 0
        lane.refit()
        lane.reopen()
        if not lane.waiters:
            lane.overtaken = [0] * len(lane.rules)
    queue.forget()
    queue.counts = {rule: Callers() for rule in queue.counts}
    for lane in lanes:
        lane.count(queue.counts)
        for waiter in lane:
            for n, callers in lane.counted:
                if waiter.weights[n] != SKIP:
                    callers.add(waiter)
    for lane in lanes:  # a caller in several lanes may have been granted in another lane
        for waiter in list(lane):
            if any(rival.state not in (QUEUED, GONE) for rival in waiter.rivals):
                lane.remove(waiter, GONE)
    # A waiter whose grant was interrupted is queued still, and is told when it is granted.
    queue.decided = deque(w for w in queue.decided if w.state not in (QUEUED, GONE))
    queue.busy = [lane for lane in lanes if lane.waiters]
    queue.ranked = sum(lane.priority != 0 for lane in queue.busy)
    queue.waiting = sum(len(lane) for lane in queue.busy)
    queue.deadlines = [
        (waiter.deadline, waiter.order, waiter)
        for waiter in queue.waiters()
        if waiter.deadline < NEVER
    ]
    heapify(queue.deadlines)
    pauses = {pause: None for lane in lanes for pause in lane.pauses}
    for pause in queue.emptying:
        pauses.setdefault(pause)
    queue.emptying = [pause for pause in pauses if pause.empties]
    queue.due_at = queue.now


def told(queue: Queue) -> str:
    """The state of *queue*, a line for each lane and each waiter."""
    lines = [f"now {queue.now}, waiting {queue.waiting}, wakes at {queue.wake_at}"]
    for lane in queue.lanes.values():
        lines.append(f"  lane of class {lane.priority}, opens at {lane.opens_at}: {lane.rules}")
        lines += [
            f"    #{waiter.order} wants {waiter.weights} until {waiter.deadline}" for waiter in lane
        ]
    return "\n".join(lines)


def _differences(queue: Queue) -> Iterator[tuple[str, Any, Any]]:
    lanes = list(queue.lanes.values())
    busy = [lane for lane in lanes if len(lane)]
    for lane in lanes:
        yield from _differences_of(lane)
    yield from _unequal("busy", sorted(map(id, queue.busy)), sorted(map(id, busy)))
    yield from _unequal("waiting", queue.waiting, sum(map(len, busy)))
    yield from _unequal("ranked", queue.ranked, sum(lane.priority != 0 for lane in busy))
    yield from _unequal("NOBODY", NOBODY, deque())
    for rule, callers in queue.counts.items():
        counted = queue.counted(rule)
        yield from _unequal("counts", callers.alone, counted.alone)
        yield from _unequal("counts", callers.several, counted.several)
    for lane in lanes:
        pairs = enumerate(lane.rules)
        counts = tuple((n, queue.counts[rule]) for n, rule in pairs if rule in queue.counts)
        yield from _unequal("lane.counted", lane.counted, counts)
    if isinstance(queue.foresight, Foresight):
        played = [lane for lane in busy if lane in queue.foresight.lanes]
        orders = sorted(waiter.order for lane in played for waiter in lane)
        yield from _unequal("foresight", sorted(queue.foresight.actors), orders)
    undecided = [waiter for waiter in queue.decided if waiter.state is QUEUED]
    yield from _unequal("decided", undecided, [])
    timed = [(w.deadline, w.order) for w in queue.waiters() if w.deadline < NEVER]
    kept = [(at, order) for at, order, waiter in queue.deadlines if waiter.state is QUEUED]
    yield from _unequal("deadlines", sorted(kept), sorted(timed))
    emptying = {id(pause) for lane in lanes for pause in lane.pauses if pause.empties}
    held = {id(pause) for pause in queue.emptying}
    yield from _unequal("emptying", held >= emptying, True)
    yield from _unequal("emptying", all(pause.empties for pause in queue.emptying), True)
    if not queue.ranked:
        yield from _unequal("patience", queue.patience.in_rank, {})
    if queue.due_at > queue.now and not any(w.cancelled() for w in queue.waiters()):
        due = min(queue.next_grant()[1], NEVER)
        yield from _unequal("wake_at", queue.wake_at, due)
        ends = [pause.until for pause in queue.emptying]
        yield from _unequal("due_at", queue.due_at, min([due, queue.expires_at, *ends]))


def _differences_of(lane: Lane) -> Iterator[tuple[str, Any, Any]]:
    fresh = Lane(lane.rules, lane.pauses, lane.priority, lane.places)
    for waiter in lane:
        fresh.append(waiter)
    for name in ("slots", "rates", "takes", "fed", "backdates", "opens_at"):
        yield from _unequal(f"lane.{name}", getattr(lane, name), getattr(fresh, name))
    for n, _ in lane.rates:
        yield from _unequal("lane.backlog", lane.backlog[n], fresh.backlog[n])
    gone = sum(waiter.state is not QUEUED for waiter in lane.waiters)
    yield from _unequal("lane.left", lane.left, gone)
    if lane.waiters:
        yield from _unequal("the head", lane.waiters[0].state, QUEUED)


def _unequal(what: str, kept: Any, expected: Any) -> Iterator[tuple[str, Any, Any]]:
    if kept != expected:
        yield what, kept, expected
