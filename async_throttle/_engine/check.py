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

from async_throttle._engine import patience
from async_throttle._engine.foresight import Foresight
from async_throttle._engine.index import EMPTY, Index, Standing
from async_throttle._engine.lane import GONE, GRANTED, NOBODY, QUEUED, SKIP, Callers, Lane
from async_throttle._engine.overtaking import Overtaking, Run
from async_throttle._engine.patience import Patience
from async_throttle._engine.queue import NO_DEMAND, Queue
from async_throttle._engine.timetable import Timetable
from async_throttle._units import NEVER
from async_throttle.rules import Rule

__all__ = ["check", "repair", "told"]

_OF_THE_HEAD = (
    *("rank", "asked", "pooled", "key", "weights", "slots", "skips"),
    *("odd", "restless", "parked", "rivalled"),
)


def check(queue: Queue) -> None:
    """Compare every derived field with its value computed anew, and test the invariants.

    Raises:
        AssertionError: a field differs; the error names it, and tells the whole state.
    """
    for what, kept, expected in _differences(queue):
        raise AssertionError(f"{what} is {kept!r}, should be {expected!r}\n{told(queue)}")
    if isinstance(queue.foresight, Foresight) and queue.foresight.grows:
        check(queue.foresight.copy)


def repair(queue: Queue) -> None:
    """Compute every derived field anew."""
    lanes = queue.lanes.values()
    for lane in lanes:
        lane.waiters = deque(lane)
        lane.left = 0
        lane.refit()
        lane.reopen()
    queue.forget()
    queue.counts = {rule: Callers() for rule in queue.counts}
    for lane in lanes:
        lane.count(queue.counts)
        for waiter in lane:
            for n, callers in lane.counted:
                if waiter.weights[n] != SKIP:
                    callers.add(waiter, waiter.weights[n])
    for lane in lanes:  # a caller in several lanes may have been granted in another lane
        for waiter in list(lane):
            if any(rival.state not in (QUEUED, GONE) for rival in waiter.rivals):
                lane.remove(waiter, GONE)
    # A waiter whose grant was interrupted is queued still, and is told when it is granted.
    queue.decided = deque(w for w in queue.decided if w.state not in (QUEUED, GONE))
    queue.busy = [lane for lane in lanes if lane.waiters]
    queue.ranked = sum(lane.priority != 0 for lane in queue.busy)
    queue.patience = _patience_of(queue)
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
    queue.taking = ()
    queue.index.clear()
    queue.index.rebuild(queue.busy)
    queue.doubtful = True
    queue.lone = queue.find_lone()
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
    lanes = queue.lanes.values()
    busy = [lane for lane in lanes if len(lane)]
    for lane in lanes:
        yield from _differences_of(lane)
    yield from _unequal("busy", sorted(map(id, queue.busy)), sorted(map(id, busy)))
    yield from _unequal("waiting", queue.waiting, sum(map(len, busy)))
    yield from _unequal("ranked", queue.ranked, sum(lane.priority != 0 for lane in busy))
    yield from _unequal("lone", queue.lone, queue.find_lone())
    yield from _unequal("what stays empty", [*NOBODY, *NO_DEMAND, *EMPTY], [])
    yield from _unequal("taking", list(queue.taking), [])
    for rule, callers in queue.counts.items():
        counted = queue.counted(rule)
        yield from _unequal("counts", callers.alone, counted.alone)
        yield from _unequal("counts", callers.several, counted.several)
        yield from _unequal("counts", callers.weight, counted.weight)
        yield from _unequal("counts", callers.heaviest >= counted.heaviest, True)
    for lane in lanes:
        pairs = enumerate(lane.rules)
        counts = tuple((n, queue.counts[rule]) for n, rule in pairs if rule in queue.counts)
        yield from _unequal("lane.counted", lane.counted, counts)
    if isinstance(queue.foresight, Foresight):
        yield from _differences_of_foresight(queue, queue.foresight)
    elif isinstance(queue.foresight, Timetable):
        yield from _differences_of_timetable(queue, queue.foresight)
    undecided = [waiter for waiter in queue.decided if waiter.state is QUEUED]
    yield from _unequal("decided", undecided, [])
    timed = [(w.deadline, w.order) for w in queue.waiters() if w.deadline < NEVER]
    kept = [(at, order) for at, order, waiter in queue.deadlines if waiter.state is QUEUED]
    yield from _unequal("deadlines", sorted(kept), sorted(timed))
    emptying = {id(pause) for lane in lanes for pause in lane.pauses if pause.empties}
    held = {id(pause) for pause in queue.emptying}
    yield from _unequal("emptying", held >= emptying, True)
    yield from _unequal("emptying", all(pause.empties for pause in queue.emptying), True)
    yield from _differences_of_patience(queue)
    yield from _differences_of_index(queue)
    if queue.due_at > queue.now and not any(w.cancelled() for w in queue.waiters()):
        due = min(_next_of_all(queue), NEVER)
        yield from _unequal("wake_at", queue.wake_at, due)
        ends = [pause.until for pause in queue.emptying]
        yield from _unequal("due_at", queue.due_at, min([due, queue.expires_at, *ends]))


def _patience_of(queue: Queue) -> Patience:
    """What the patience of *queue* is, by the counts that it has kept."""
    kept, fresh = queue.patience, Patience()
    if queue.ranked:
        fresh.in_rank.update(kept.in_rank)
    if kept.heads or queue.ranked:
        for lane in queue.busy:
            fresh.enter(lane, kept.times(lane))
    return fresh


def _differences_of_patience(queue: Queue) -> Iterator[tuple[str, Any, Any]]:
    kept, fresh = queue.patience, _patience_of(queue)
    yield from _unequal("patience", kept.in_rank, fresh.in_rank)
    yield from _unequal("patience.heads", set(kept.heads), set(fresh.heads))
    yield from _unequal("patience.aged", kept.aged, fresh.aged)
    for name in ("asking", "idle"):
        pair = getattr(kept, name), getattr(fresh, name)
        yield from _unequal(f"patience.{name}", *(_standing(each) for each in pair))
        for overtaking in pair[0].values():
            for run in overtaking.runs:
                yield from _differences_of_run(overtaking, run)


def _standing(heads: dict[Rule, Overtaking]) -> dict[Rule, list[tuple[Lane, int, int]]]:
    """By rule, the lanes with the arrivals of their heads, and how often these were overtaken."""
    return {
        rule: [
            (head.lane, head.order, head.overtaken())
            for run in overtaking.runs
            for head in run.heads
        ]
        for rule, overtaking in heads.items()
    }


def _differences_of_run(overtaking: Overtaking, run: Run) -> Iterator[tuple[str, Any, Any]]:
    stand = [head.overtaking is overtaking and head.run is run for head in run.heads]
    yield from _unequal("the heads of a run", stand, [True] * len(stand))
    fresh = Run(run.heads, run.grants, run.most)
    enough = patience.MAX_OVERTAKEN
    for name in ("best", "worst"):
        yield from _unequal(f"the {name} of a run", getattr(run, name), getattr(fresh, name))
    few = [head.times for head in run.heads if head.times + run.grants < enough]
    yield from _unequal("the most of a run", run.most, max([run.most, *few]))
    if run.aged is not None:
        yield from _unequal("the aged of a run", *(each.turns(enough) for each in (run, fresh)))


def _next_of_all(queue: Queue) -> int:
    """When the next head goes, by a look at all lanes; a head may fail on the way."""
    index = queue.index
    before = index.turns_until
    try:
        due = _as_turns_come(queue)
    finally:
        index.turns_until = before
    return queue.next_grant()[1] if due is None else due


def _as_turns_come(queue: Queue) -> int | None:
    """The same, while several lanes are busy, as `Queue.next_grant` finds it."""
    ranked_at = queue.now
    while len(queue.busy) > 1:
        found = queue.next_of_all(ranked_at)
        if found is not None:
            if not queue.awaits_turn(found[1]):
                return found[1]
            ranked_at = queue.index.turns_until
    return None


def _differences_of_index(queue: Queue) -> Iterator[tuple[str, Any, Any]]:
    """The index, beside another that is made of the same lanes."""
    if queue.doubtful or not queue.trusting or len(queue.busy) < 2:
        return  # it is made anew before it is looked at
    kept, fresh = queue.index, Index()
    fresh.present = kept.present
    fresh.rebuild(queue.busy)
    fresh.turns = kept.turns
    for index in (kept, fresh):
        index.renew(queue.now)
    yield from _unequal("index", set(kept.standings), set(fresh.standings))
    asking = [{rule: set(lanes) for rule, lanes in index.asking.items()} for index in (kept, fresh)]
    yield from _unequal("index.asking", *asking)
    yield from _unequal("index.shared", set(kept.shared), set(fresh.shared))
    yield from _unequal("index.entangled", kept.entangled, fresh.entangled)
    for lane, expected in fresh.standings.items():
        standing = kept.standings[lane]
        for name in _OF_THE_HEAD:
            pair = getattr(standing, name), getattr(expected, name)
            yield from _unequal(f"index: {name} of a lane", *pair)
        pair = max(standing.private, queue.now), max(expected.private, queue.now)
        yield from _unequal("index: the instant of a lane", *pair)
        if len(expected.cluster.lanes) > 1:  # a lane that is alone needs no group
            pair = _stand(standing, queue.now), _stand(expected, queue.now)
            yield from _unequal("index: a group", *pair)
        apart = [other for other in expected.cluster.lanes if other not in standing.cluster.lanes]
        yield from _unequal("index: a cluster", apart, [])


def _stand(standing: Standing, now: int) -> tuple[bool, bool, bool]:
    """Whether a lane is found where its group should have it."""
    group, rank = standing.group, standing.rank
    if group is None:
        return False, False, False
    group.wake(now)
    return (
        (rank, standing) in group.ranks,
        (rank, standing) in group.awake,
        (standing.private, rank, standing) in group.asleep,
    )


def _differences_of_foresight(queue: Queue, foresight: Foresight) -> Iterator[tuple[str, Any, Any]]:
    actors = foresight.actors
    played = [waiter for lane in queue.busy for waiter in lane if lane.waiters[0].order in actors]
    yield from _unequal("foresight", sorted(actors), sorted(waiter.order for waiter in played))
    if foresight.grows and not foresight.slotted and queue.due_at > queue.now:
        late = [a for a in actors.values() if a.state is GRANTED and a.granted_at <= queue.now]
        yield from _unequal("foresight: who has gone", late, [])


def _differences_of_timetable(queue: Queue, table: Timetable) -> Iterator[tuple[str, Any, Any]]:
    instants, rows = table.instants, table.rows
    there = [lane for lane in queue.busy if lane.waiters[0].order in instants]
    orders = sorted(waiter.order for lane in there for waiter in lane)
    yield from _unequal("timetable", sorted(instants), orders)
    yield from _unequal("timetable: rows", sorted(map(id, rows)), sorted(map(id, there)))
    owners = {rule: lane for lane in there for _, rule in lane.rates if rule is not table.rate}
    yield from _unequal("timetable: owners", table.owners, owners)
    if not table.slotted and queue.due_at > queue.now:
        late = [at for at in instants.values() if at <= queue.now]
        yield from _unequal("timetable: who has gone", late, [])


def _differences_of(lane: Lane) -> Iterator[tuple[str, Any, Any]]:
    fresh = Lane(lane.rules, lane.pauses, lane.priority, lane.places)
    for waiter in lane:
        fresh.append(waiter)
    for name in ("slots", "rates", "takes", "fed", "backdates", "plain", "opens_at"):
        yield from _unequal(f"lane.{name}", getattr(lane, name), getattr(fresh, name))
    yield from _unequal("lane.bursts", lane.bursts or fresh.most(), fresh.most())
    fits = [weight <= burst for weight, burst in zip(lane.fits, fresh.most(), strict=False)]
    yield from _unequal("lane.fits", all(fits), True)
    nothing = [0] * len(lane.rules)
    for n, _ in lane.rates:
        pair = (lane.backlog or nothing)[n], (fresh.backlog or nothing)[n]
        yield from _unequal("lane.backlog", *pair)
    gone = sum(waiter.state is not QUEUED for waiter in lane.waiters)
    yield from _unequal("lane.left", lane.left, gone)
    if lane.waiters:
        yield from _unequal("the head", lane.waiters[0].state, QUEUED)


def _unequal(what: str, kept: Any, expected: Any) -> Iterator[tuple[str, Any, Any]]:
    if kept != expected:
        yield what, kept, expected
