"""Foresight: the future of a queue, played in a copy that is kept for the next question.

A forecast joins the newcomer to a copy of the queue in which no slot is missing, and lets time pass
there until the newcomer is granted. The copy is then ahead of the queue. The next question goes on
from there, as long as the queue does what the copy did before.

Why the copy may go on. A later arrival changes nothing for waiters that rank before it (see
`backfill`), and within a lane waiters go in order of arrival. So a newcomer cannot go before the
last waiter of its lane goes, and until then nobody goes sooner or later for it. It makes no
difference whether it joined the copy at its arrival or at the instant at which that waiter goes. So
a newcomer may join the copy as long as its lane has waiters there, or has lost the last one at this
very instant. Where the copy has gone further, the question is played anew.

What keeps the copy true. Arrivals join it. A grant has to come at the instant foreseen, and has to
leave the rates as the copy left them. Before each question the rates, the pauses, the heads and the
lanes whose heads wait for a slot are compared with what is foreseen. A departure, and whatever does
not fit, drops the copy. It would be wrong to trust in being told of changes: a charge, a refund or
a new limit changes a rule, and a rule knows no queue.

What is not kept. Classes of priority: a newcomer ranks before waiters, so it changes the past of
the copy. Pools: a grant elsewhere is a departure. Rules of users, whose state may be anywhere, and
permits from outside.

A copy that is not asked for a while is dropped: to extend it costs as much as the queue itself.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from async_throttle._engine.lane import (
    EXPIRED,
    GONE,
    GRANTED,
    QUEUED,
    SKIP,
    Bottleneck,
    Lane,
    Pause,
    Receipt,
    State,
    Waiter,
)
from async_throttle._engine.queue import Queue
from async_throttle._units import NEVER
from async_throttle.rules import Rule
from async_throttle.rules.bucket import GCRA, LeakyBucket, TokenBucket
from async_throttle.rules.slots import UNLIMITED, Slots
from async_throttle.rules.window import FixedWindow, SlidingWindow

__all__ = ["Actor", "Foresight"]

_MARKED: Final = (TokenBucket, GCRA, LeakyBucket, SlidingWindow, FixedWindow)
"""The rules whose `mark` is to be trusted; a subclass may have more state."""

_FEW: Final = 64
"""So many waiters of other lanes are copied once more for a newcomer, to leave no trace of it."""

_UNASKED: Final = 32
"""So many events more than there are waiters a copy is extended without a question."""


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


class _Bottleneck(Bottleneck):
    """A bottleneck that knows its past: for how long each rule was it up to any instant.

    Attributes:
        instants: when another rule became the bottleneck.
        past: the *spans* of that instant, and the place of the rule.
    """

    __slots__ = ("instants", "past")

    def __init__(self, rules: int, now: int) -> None:
        super().__init__(rules, now)
        self.instants = [now]
        self.past: list[tuple[list[int], int]] = [(list(self.spans), self.place)]

    def account(self, now: int) -> None:
        if now > self.since and self.place != self.past[-1][1]:
            self.instants.append(self.since)
            self.past.append((list(self.spans), self.place))
        super().account(now)

    def spans_at(self, instant: int) -> list[int]:
        """The *spans* as they were at *instant*."""
        n = max(0, bisect_right(self.instants, instant) - 1)
        if n > len(self.instants) // 2 > 32:  # of earlier instants nobody asks
            del self.instants[:n], self.past[:n]
            n = 0
        spans, place = list(self.past[n][0]), self.past[n][1]
        spans[place] += instant - self.instants[n]
        return spans


class _Answer(NamedTuple):
    """What a newcomer to a lane was told.

    Attributes:
        at: when it goes.
        bottleneck: of its lane, which knows the past; None where it is not measured.
        spans: of the bottleneck, at that instant.
    """

    at: int
    bottleneck: _Bottleneck | None
    spans: list[int]

    def told(self, now: int) -> tuple[int, int]:
        """The instant, and the place of the longest bottleneck from *now* on."""
        if self.bottleneck is None or self.at == now:
            return self.at, -1
        before = self.bottleneck.spans_at(now)
        spans = [then - span for then, span in zip(self.spans, before, strict=True)]
        return self.at, max(range(len(spans)), key=spans.__getitem__)


class _Future(Queue):
    """A queue that is ahead of time.

    Attributes:
        ends: by lane, when its latest waiter was granted.
        marks: of a waiter that was granted, by its order: the marks of the rates after the grant.
    """

    __slots__ = ("ends", "marks")

    def __init__(self, now: int) -> None:
        super().__init__(now, 0)
        self.trusting = True
        self.ends: dict[Lane, int] = {}
        self.marks: dict[int, list[Any]] = {}

    def grant(self, lane: Lane, now: int) -> None:
        head = lane.waiters[0]
        super().grant(lane, now)
        if head.state is GRANTED:
            self.ends[lane] = now
            self.marks[head.order] = [rule.mark() for rule, _, _ in head.receipts]


class Foresight:
    """What is to happen to the waiters of a queue, as far as it was asked about.

    Attributes:
        kept: whether it may be kept for the next question.
        copy: the queue that is ahead.
        lanes: for the lanes that are played, their copies.
        actors: for the waiters of those lanes, by their order of arrival.
        marks: of the rules of those lanes, as they are foreseen at present.
        guest: a newcomer that has only asked, and was granted in the copy.
        answers: what newcomers to a lane were told, by lane and weights.
        unasked: how many more events the copy is extended by until it is asked.
    """

    __slots__ = (
        "actors",
        "answers",
        "copy",
        "guest",
        "kept",
        "lanes",
        "marks",
        "twins",
        "unasked",
    )

    def __init__(self, queue: Queue, asked: Lane) -> None:
        """Copy *queue* as it is, to play it for a newcomer to the lane that is *asked*."""
        self.kept = not (queue.ranked or asked.priority or queue.feeds)
        self.copy = _Future(queue.now)
        self.copy.patience.in_rank.update(queue.patience.in_rank)
        self.twins = _Twins()
        self.lanes: dict[Lane, Lane] = {}
        self.actors: dict[int, Actor] = {}
        self.marks: dict[Rule, Any] = {}
        self.guest: Actor | None = None
        self.answers: dict[tuple[Lane, tuple[int, ...]], _Answer] = {}
        rivals: dict[int, list[Waiter]] = {}
        for lane in queue.busy:
            if lane is asked or not _stuck(lane, queue.now):
                self._copy(lane, rivals)
        if asked not in self.lanes:
            self._copy(asked, rivals)
        self.kept = self.kept and not rivals
        self.copy.emptying = [self.twins[pause] for pause in queue.emptying]
        self.unasked = len(self.actors) + _UNASKED

    def _copy(self, lane: Lane, rivals: dict[int, list[Waiter]]) -> None:
        """Copy *lane* and its waiters; *rivals* are the callers of pools met so far."""
        twins = self.twins
        sets = lane.bottleneck is not None
        played = self.copy.lane(
            tuple(twins[rule] for rule in lane.rules),
            tuple(twins[pause] for pause in lane.pauses),
            lane.priority,
            lane.places[1:] if sets else None,
        )
        if sets:
            played.bottleneck = _Bottleneck(len(lane.rules), self.copy.now)
        self.lanes[lane] = played
        for rule in lane.rules:
            if not isinstance(rule, Slots) and rule not in self.marks:
                self.marks[rule] = rule.mark()
                self.kept = self.kept and type(rule) in _MARKED
        played.overtaken = list(lane.overtaken)
        self.copy.patience.look_at(played)
        for waiter in lane:
            actor = Actor()
            if waiter.rivals:
                actor.rivals = rivals.setdefault(id(waiter.rivals[0]), [])
                actor.rivals.append(actor)
            self._join(actor, played, waiter)

    def _join(self, actor: Actor, played: Lane, waiter: Waiter) -> None:
        """Have *actor* play *waiter*, at the end of its lane."""
        self.copy.join(actor, played, waiter.weights)
        actor.order = waiter.order
        self.actors[waiter.order] = actor

    def close(self) -> None:
        """Leave nothing to the collector of reference cycles."""
        self.copy.index.clear()
        for played in self.lanes.values():
            played.waiters.clear()
        for actor in self.actors.values():
            if actor.rivals:
                actor.rivals = ()

    # -- what comes to pass ---------------------------------------------------------------

    def joined(self, waiter: Waiter, now: int) -> bool:
        """*waiter* has arrived; whether the copy is still good."""
        self.unasked -= 1
        lane = waiter.lane
        if waiter.rivals or lane.priority or self.unasked < 0:
            return False
        self.answers.clear()
        guest, played = self.guest, self.lanes.get(lane)
        if guest is not None:  # the newcomer that has asked comes, and nobody else
            self.guest = None
            self.actors[waiter.order] = guest
            if guest.order in self.copy.marks:
                self.copy.marks[waiter.order] = self.copy.marks.pop(guest.order)
            guest.order = waiter.order
            return guest.lane is played and guest.weights == waiter.weights
        if played is None and _stuck(lane, now):
            return True
        self._pass(now)
        if not self._admits(played, now):
            return False
        if played is None:
            self._copy(lane, {})  # with this waiter in it, and nobody else
            played = self.lanes[lane]
        else:
            self._join(Actor(), played, waiter)
        if len(played.waiters) == 1:
            self.copy.advance(self.copy.now)
        return self.kept

    def granted(self, waiter: Waiter, now: int) -> bool:
        """*waiter* was granted as of *now*; whether that was foreseen, and waiters are left."""
        self.unasked -= 1
        actor = self.actors.pop(waiter.order, None)
        if actor is None or not self.actors or self.unasked < 0:
            return False
        self._pass(now)
        if actor.state is not GRANTED or actor.granted_at != now:
            return False
        marks = self.copy.marks.pop(waiter.order)
        for (rule, _, _), mark in zip(waiter.receipts, marks, strict=True):
            if rule in self.marks:
                self.marks[rule] = mark
        return True

    def holds(self, queue: Queue, asked: Lane) -> bool:
        """Whether *queue* is as foreseen for this instant, where a newcomer to *asked* asks."""
        now = queue.now
        self._pass(now)
        for lane in queue.busy:
            head = lane.waiters[0]
            if head.cancelled():
                return False
            actor = self.actors.get(head.order)
            if (actor is None) != (lane is not asked and _stuck(lane, now)):
                return False
            if actor is not None and actor.state is GRANTED and actor.granted_at <= now:
                return False
        return all(rule.mark() == mark for rule, mark in self.marks.items())

    def _pass(self, now: int) -> None:
        """Let time pass in the copy until *now*, if it is not there yet."""
        copy = self.copy
        while copy.due_at <= now:
            self._step()
        if copy.now < now:
            copy.advance(now)

    def _step(self) -> None:
        """Let time pass in the copy until anything happens there."""
        self.copy.decided.clear()
        self.copy.advance(self.copy.due_at)

    def _admits(self, played: Lane | None, now: int) -> bool:
        """Whether it makes no difference that an arrival at *now* joins the copy only here."""
        if self.copy.now <= now:
            return True
        return played is not None and (
            bool(played.waiters) or self.copy.ends.get(played) == self.copy.now
        )

    # -- questions ------------------------------------------------------------------------

    def ask(self, queue: Queue, lane: Lane, weights: tuple[int, ...]) -> tuple[int, int] | None:
        """When a newcomer to *lane* goes, and the place of its bottleneck; see `quote`.

        The copy is as it was foreseen: see `holds`. The answer is None where it has gone too far.
        """
        now = queue.now
        self.unasked = len(self.actors) + _UNASKED
        answer = self.answers.get((lane, weights))
        if answer is not None and answer.at > now:
            return answer.told(now)
        played = self.lanes.get(lane)
        if self.kept and (self.guest is not None or not self._admits(played, now)):
            return None
        if played is None:
            self._copy(lane, {})
            played = self.lanes[lane]
        found = self._play(lane, played, now, weights)
        if isinstance(found, _Answer):
            if len(self.answers) > self.unasked:
                self.answers.clear()
            self.answers[lane, weights] = found
            found = found.told(now)
        return found

    def _play(
        self, lane: Lane, played: Lane, now: int, weights: tuple[int, ...]
    ) -> _Answer | tuple[int, int]:
        copy = self.copy
        if self.kept:
            copy.advance(copy.now)
            while played.waiters and copy.due_at < NEVER:
                self._step()
            if not copy.busy and not copy.emptying:
                return self._behind_all(played, weights)
            if copy.waiting <= _FEW:
                aside = Foresight(copy, played)
                guest = aside._visit(aside.lanes[played], weights)
                aside.close()
                if guest.state is GRANTED:
                    return self._answer(played, guest.granted_at, guest.spans)
        guest = self.guest = self._visit(played, weights)
        if guest.state is QUEUED:
            self.kept = False
            at, place = lane.binding(now, weights)
            unknown = at > NEVER or copy.demand
            return (_known(lane, now, weights) if unknown else NEVER), place
        if guest.state is not EXPIRED and hasattr(guest, "error"):
            try:
                raise guest.error
            finally:
                self.guest = None
                del guest
        return self._answer(played, guest.granted_at, [])

    def _visit(self, played: Lane, weights: tuple[int, ...]) -> Actor:
        """Let time pass in the copy until a newcomer with *weights* is granted; that newcomer."""
        copy, guest = self.copy, Actor()
        guest.spans = []
        copy.join(guest, played, weights)
        copy.advance(copy.now)
        while guest.state is QUEUED and copy.due_at < NEVER:
            self._step()
        return guest

    def _behind_all(self, played: Lane, weights: tuple[int, ...]) -> _Answer:
        """When a newcomer goes behind all that wait: they are gone in the copy."""
        at, place = played.binding(self.copy.now, weights)
        spans = [0] * (len(weights) + 1)
        spans[place] = at - self.copy.now
        return self._answer(played, at, spans)

    def _answer(self, played: Lane, at: int, later: Sequence[int]) -> _Answer:
        """A newcomer goes at *at*; *later* are the spans from where the copy is until then."""
        bottleneck = played.bottleneck
        if bottleneck is None:
            return _Answer(at, None, [])
        assert isinstance(bottleneck, _Bottleneck), "every lane that is played has got one"
        bottleneck.account(self.copy.now)
        spans = list(bottleneck.spans)
        for place, span in enumerate(later):
            spans[place] += span
        return _Answer(at, bottleneck, spans)


def _stuck(lane: Lane, now: int) -> bool:
    """Whether the head of *lane* waits for what has no known end, such as a slot."""
    return lane.ready_at(now, lane.waiters[0].weights) == NEVER


def _known(lane: Lane, now: int, weights: tuple[int, ...]) -> int:
    """When *weights* could go by the rules alone that know when."""
    at = max(now, lane.opens_for(weights))
    for n, rule in lane.rates:
        ready = rule.ready_at(at, weights[n]) if weights[n] != SKIP else at
        if ready <= NEVER:
            at = ready
    return at
