"""Foresight: the future of a queue, played in a copy that is kept for the next question.

A forecast joins the newcomer to a copy of the queue in which no slot is missing, and lets time pass
there until the newcomer could go. It leaves without having taken anything. The copy is then ahead
of the queue. The next question goes on from there, as long as the queue does what the copy did
before.

Why the copy may go on. A later arrival changes nothing for waiters that rank before it (see
`backfill`). So a newcomer may join the copy late, if it is sure that it could not have gone before:

- Within a lane waiters go in order of arrival: no newcomer goes before a waiter of its lane.
- No newcomer goes before one to the same lane that asked for the same weights and found nothing.
- No newcomer goes before the end of a pause, or before a rate that no other lane asks for lets it.
- Let X and Y be callers that wait for one and the same rate, and for nothing else.
  X cannot go before Y, if Y came first. For X goes at the cost of nobody, so there would be enough
  for both, and Y would have gone: see `index`. (A later caller may take of the other rates that Y
  asks for, but not so much that Y would go later.) So a caller to an idle lane, such as a chat
  that has its own limit free, waits for the limit of all chats behind callers like it.

This holds as long as that waiter is queued in the copy, or goes at this very instant there, and
until that pause or rate lets the newcomer go. Where the copy has gone further, the question is
played anew. Lanes that have nothing but one bucket in common need no copy: see `timetable`.

What keeps the copy true. Arrivals join it. A grant has to come at the instant foreseen. A
departure, a pause, and a change of a rate that is played drop the copy: see `Queue.touched`. Slots
come and go: before the next question the lanes whose heads wait for a slot are compared with those
that were left out.

Where answers alone are kept. Among classes of priority a newcomer ranks before waiters, so it
changes the past of the copy. A caller of a pool leaves other lanes when it goes, which is a
departure. So there the copy takes nobody in: each question is played anew, unless it was asked
before and nothing has come since but grants by time. Slots that go to others are not foreseen:
where lanes ask for slots, such answers hold at the instant of the question alone.

What is not kept. Rules of users, whose state may be anywhere, and permits from outside. Lanes
whose heads wait for a slot: time alone does not let them go on.

A copy that is not asked for a while is dropped: to extend it costs as much as the queue itself.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, NamedTuple, cast

from async_throttle._engine.index import forgotten_at_once, is_orderly
from async_throttle._engine.lane import (
    FAILED,
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
from async_throttle._engine.patience import Patience
from async_throttle._engine.queue import Queue
from async_throttle._units import NEVER
from async_throttle.rules import Rule
from async_throttle.rules.bucket import GCRA, LeakyBucket, TokenBucket
from async_throttle.rules.slots import UNLIMITED, Slots
from async_throttle.rules.window import FixedWindow, SlidingWindow

__all__ = [
    "KNOWN",
    "SPARE",
    "Actor",
    "Foresight",
    "KnownBottleneck",
    "are_as_foreseen",
    "has_slots",
    "is_known",
    "is_stuck",
]

KNOWN: Final = (TokenBucket, GCRA, LeakyBucket, SlidingWindow, FixedWindow)
"""The rules that change by what they are told alone; a subclass may have more state."""

SPARE: Final = 32
"""So many arrivals more than there are waiters a forecast is extended by without a question."""


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
    """For each rule and pause its copy in a forecast, in which nobody is short of a slot.

    Nor does anybody wait for the end of a call: those in flight have ended *now*.
    """

    def __init__(self, now: int) -> None:
        super().__init__()
        self.now = now

    def __missing__(self, thing: Rule | Pause) -> Any:
        if isinstance(thing, Slots):
            twin: Any = Slots(UNLIMITED)
        elif isinstance(thing, Rule):
            twin = thing.fork() if thing.in_flight is None else cast(Any, thing).landed(self.now)
        else:
            twin = Pause(*(self[rule] for rule in thing.rules))
            twin.until, twin.empties = thing.until, thing.empties
        self[thing] = twin
        return twin


class KnownBottleneck(Bottleneck):
    """A bottleneck that knows its past: for how long each rule was it up to any instant.

    Attributes:
        past: when another rule became the bottleneck, the *spans* of that instant, and its place.
    """

    __slots__ = ("past",)

    def __init__(self, rules: int, now: int) -> None:
        super().__init__(rules, now)
        self.past = deque([(now, list(self.spans), self.place)])

    def account(self, now: int) -> None:
        if now > self.since and self.place != self.past[-1][2]:
            self.past.append((self.since, list(self.spans), self.place))
        super().account(now)

    def spans_at(self, instant: int) -> list[int]:
        """The *spans* as they were at *instant*. Of earlier instants nobody asks any more."""
        past = self.past
        while len(past) > 1 and past[1][0] <= instant:
            past.popleft()
        start, spans, place = past[0]
        spans = list(spans)
        spans[place] += instant - start
        return spans


_Single = tuple[Rule, int]
"""A rate for which a caller waits, and for nothing else, and the weight that it wants."""


class _Answer(NamedTuple):
    """What a newcomer was told.

    Attributes:
        at: when it goes.
        bottleneck: of its lane, which knows the past; None where it is not measured.
        spans: of the bottleneck, at that instant.
    """

    at: int
    bottleneck: KnownBottleneck | None
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
        guest: a newcomer that only asks: it goes, and takes nothing.
        singles: of waiters that wait for a single rate, by their order, the rate.
        ends: who went at *now*, so that no later caller like it can have gone before: lanes, and
            single rates. Of guests, which took nothing: these with the weights.
    """

    __slots__ = ("ends", "guest", "singles")

    def __init__(self, now: int) -> None:
        super().__init__(now, 0)
        self.trusting = True
        self.guest: Actor | None = None
        self.singles: dict[int, Rule] = {}
        self.ends: set[Hashable] = set()

    def find_lone(self) -> None:
        """Each grant is noted, so no lane is alone."""

    def grant(self, lane: Lane, now: int) -> None:
        head = lane.waiters[0]
        if head is self.guest:
            head.granted_at = now
            self._remove(head, GONE)
            return
        super().grant(lane, now)
        if head.state is GRANTED:
            self.ends |= {lane, self.singles.pop(head.order, None)}


class Foresight:
    """What is to happen to the waiters of a queue, as far as it was asked about.

    Attributes:
        kept: whether it may be kept for the next question.
        grows: whether callers may join the copy late; else answers alone are kept.
        begun: the instant at which the copy was made.
        copy: the queue that is ahead.
        twins: the copies of rules and pauses.
        lanes: for the lanes that are played, their copies.
        asking: how many of these lanes ask for a rule.
        actors: for the waiters of those lanes, by their order of arrival.
        answers: what newcomers were told, by lane and weights, or by their single rate and weight.
        depends: the rules on which answers depend that were taken over from another copy.
        slotted: whether any lane asks for slots, which are not foreseen.
        spare: how many more arrivals the copy is extended by until it is asked.
    """

    spare: int

    __slots__ = (
        "actors",
        "answers",
        "asking",
        "begun",
        "copy",
        "depends",
        "grows",
        "kept",
        "lanes",
        "slotted",
        "spare",
        "twins",
    )

    def __init__(self, queue: Queue, asked: Lane) -> None:
        """Copy *queue* as it is, to play it for a newcomer to the lane that is *asked*."""
        self.kept = queue.trusting and not queue.feeds and is_known(asked)
        self.begun = queue.now
        self.copy = _Future(queue.now)
        self.twins = _Twins(queue.now)
        self.lanes: dict[Lane, Lane] = {}
        self.asking: Counter[Rule] = Counter()
        self.actors: dict[int, Actor] = {}
        self.answers: dict[tuple[Hashable, ...], _Answer] = {}
        self.depends: set[Hashable] = set()
        self.slotted = False
        rivals: dict[int, list[Waiter]] = {}
        for lane in queue.busy:
            self.slotted = self.slotted or has_slots(lane)
            if lane is asked or not is_stuck(lane, queue.now):
                self._copy(lane, queue.now, rivals)
        if asked not in self.lanes:
            self._copy(asked, queue.now, rivals)
        elif self.kept:
            self.kept = not is_stuck(asked, queue.now)
        self.grows = not (rivals or queue.ranked or asked.priority)
        if not self.grows:
            self._copy_patience(queue.patience)
        self.copy.emptying = [self.twins[pause] for pause in queue.emptying]

    def _copy_patience(self, known: Patience) -> None:
        """Know how often the heads were overtaken, and the turns out of rank."""
        patience = self.copy.patience
        patience.in_rank.update(known.in_rank)
        if known.heads:
            if not patience.heads:
                patience.watch(self.copy.busy)
            for lane, played in self.lanes.items():
                if lane.waiters:
                    patience.know(played, known.times(lane))

    def _copy(self, lane: Lane, now: int, rivals: dict[int, list[Waiter]], first: int = -1) -> Lane:
        """Copy *lane* and its waiters; *rivals* are the callers of pools met so far.

        Where the copy is ahead, nobody is there but a caller that waits for the rule at *first*.
        """
        twins = self.twins
        sets = lane.bottleneck is not None
        played = self.copy.lane(
            tuple(twins[rule] for rule in lane.rules),
            tuple(twins[pause] for pause in lane.pauses),
            lane.priority,
            lane.places[1:] if sets else None,
        )
        if sets:
            played.bottleneck = KnownBottleneck(len(lane.rules), now)
            if first >= 0:
                played.bottleneck.wait_for(first, now)
        self.lanes[lane] = played
        self.asking.update(rule for _, rule in lane.rates)
        self.kept = self.kept and is_known(lane)
        for waiter in lane:
            actor = Actor()
            if waiter.rivals:
                actor.rivals = rivals.setdefault(id(waiter.rivals[0]), [])
                actor.rivals.append(actor)
            self._join(actor, played, waiter)
        return played

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

    def take_over(self, other: Foresight) -> None:
        """Know the answers of *other* too, which still hold."""
        if len(self.answers) + len(other.answers) <= self.spare:
            self.answers.update(other.answers)
            self.depends.update(other.depends, other.twins)

    # -- what comes to pass ---------------------------------------------------------------

    def joined(self, waiter: Waiter, now: int) -> bool:
        """*waiter* has arrived; whether the copy is still good."""
        self.spare -= 1
        lane, weights = waiter.lane, waiter.weights
        if not self.grows or lane.priority or waiter.rivals or self.spare < 0:
            return False
        if not is_known(lane):
            return False
        self.answers.clear()
        self.slotted = self.slotted or has_slots(lane)
        if is_stuck(lane, now):
            return lane.waiters[0].order not in self.actors
        played = self.lanes.get(lane)
        self._pass(now)
        single = self._single(lane, weights, now, len(lane.waiters) - 1)
        if not self._admits(lane, weights, single, now):
            return False
        if single is not None:
            self.copy.singles[waiter.order] = single[0]
        if played is None:
            first = self._first_bottleneck(lane, weights, single, now)
            played = self._copy(lane, now, {}, first)  # with this waiter in it
        else:
            self._join(Actor(), played, waiter)
        if len(played.waiters) == 1:
            self._advance(self.copy.now)
        return True

    def granted(self, waiter: Waiter, now: int) -> bool:
        """*waiter* was granted as of *now*; whether that was foreseen, and waiters are left."""
        actor = self.actors.pop(waiter.order, None)
        if actor is None or not self.actors:
            return False
        if not self.grows:
            return not self.slotted
        self._pass(now)
        return actor.state is GRANTED and actor.granted_at == now

    def took(self, lane: Lane, weights: tuple[int, ...], now: int) -> bool:
        """A newcomer to *lane* is about to go at once; the copy may be ahead of it."""
        return False

    def changes(self, rule: Rule) -> bool:
        """*rule* is about to change; whether the copy is good nevertheless."""
        if isinstance(rule, Slots):
            return self.grows or not self.slotted
        return rule not in self.twins and rule not in self.depends

    def holds(self, queue: Queue, asked: Lane) -> bool:
        """Whether *queue* is as foreseen for this instant, where a newcomer to *asked* asks."""
        now = queue.now
        if not is_known(asked):
            return False
        if asked.waiters:
            head = asked.waiters[0]
            if head.cancelled() or head.order not in self.actors:
                return False
        if not self.grows:
            return now == self.begun or not self.slotted
        if asked.priority:
            return False
        self._pass(now)
        return not self.slotted or are_as_foreseen(queue, self._goes_at)

    def _goes_at(self, order: int) -> int | None:
        """When the waiter of that *order* goes, as far as the copy has come; None if left out."""
        actor = self.actors.get(order)
        if actor is None:
            return None
        return NEVER if actor.state is QUEUED else actor.granted_at

    def _pass(self, now: int) -> None:
        """Let time pass in the copy until *now*, if it is not there yet."""
        while self.copy.due_at <= now:
            self._advance(self.copy.due_at)
        if self.copy.now < now:
            self._advance(now)

    def _advance(self, at: int) -> None:
        copy = self.copy
        if at > copy.now:
            copy.ends.clear()
        copy.advance(at)
        copy.decided.clear()

    def _single(self, lane: Lane, weights: tuple[int, ...], now: int, ahead: int) -> _Single | None:
        """The rate for which a newcomer to *lane* waits, if it waits for nothing else.

        With waiters *ahead* in the lane it waits for them, and for what they leave of other rates.
        """
        if not self.grows or ahead or lane.opens_for(weights) > now:
            return None
        shared = []
        for n, rule in lane.rates:
            if weights[n] != SKIP:
                if self.asking[rule] > (lane in self.lanes):
                    shared.append((rule, weights[n]))
                elif rule.ready_at(now, weights[n]) > now:
                    return None
        if len(shared) != 1 or not is_orderly(shared[0][0]) or forgotten_at_once(*shared[0]) >= 0:
            return None
        return shared[0]

    def _admits(
        self, lane: Lane, weights: tuple[int, ...], single: _Single | None, now: int
    ) -> bool:
        """Whether it makes no difference that a newcomer at *now* joins the copy only here."""
        ends = self.copy.ends
        played = self.lanes.get(lane)
        if self.copy.now <= now:
            return True
        if played is not None and (played.waiters or played in ends or (played, weights) in ends):
            return True
        if single is not None:
            return single in ends or single[0] in ends
        return self._waits_alone(lane, weights)[0] > self.copy.now

    def _waits_alone(self, lane: Lane, weights: tuple[int, ...]) -> tuple[int, int]:
        """Until when a pause or a rate of its own holds up a newcomer to *lane*, behind all in it.

        The place of that rate comes next, or of the rule to which the pause belongs.
        """
        at, place = lane.held_until(self.copy.now, weights)
        for n, rule in lane.rates:
            if weights[n] != SKIP and self.asking[rule] <= (lane in self.lanes):
                ready = self.twins.get(rule, rule).ready_at(at, weights[n])
                if ready > at:
                    at, place = ready, n
        return at, place

    def _first_bottleneck(
        self, lane: Lane, weights: tuple[int, ...], single: _Single | None, now: int
    ) -> int:
        """The place of the rule for which a newcomer waits that joins a copy which is ahead."""
        if self.copy.now <= now:
            return -1
        if single is not None:
            return lane.rules.index(single[0])
        return self._waits_alone(lane, weights)[1]

    # -- questions ------------------------------------------------------------------------

    def known(self, now: int, lane: Lane, weights: tuple[int, ...]) -> tuple[int, int] | None:
        """What another caller was told who asked for the same, if that still holds."""
        single = self._single(lane, weights, now, len(lane.waiters))
        answer = self.answers.get(single or (lane, weights))
        if answer is None or answer.at <= now:
            return None
        return _told(answer, now, lane, single)

    def ask(self, queue: Queue, lane: Lane, weights: tuple[int, ...]) -> tuple[int, int] | None:
        """When a newcomer to *lane* goes, and the place of its bottleneck; see `quote`.

        The copy is as it was foreseen: see `holds`. The answer is None where it has gone too far.
        """
        now = queue.now
        self.spare = len(self.actors) + SPARE
        known = self.known(now, lane, weights)
        if known is not None:
            return known
        single = self._single(lane, weights, now, len(lane.waiters))
        if len(self.lanes) > 2 * self.spare:  # most of them are idle
            return None
        if self.kept and not self._admits(lane, weights, single, now):
            return None
        played = self.lanes.get(lane)
        if played is None:
            played = self._copy(lane, now, {}, self._first_bottleneck(lane, weights, single, now))
        answer = self._behind_all(played, weights) if self.kept and self.grows else None
        if answer is None:
            guest = self._visit(played, weights)
            if guest.state is QUEUED:
                self.kept = False
                at, place = lane.binding(now, weights)
                unknown = at > NEVER or self.copy.demand
                return (_known(lane, now, weights) if unknown else NEVER), place
            answer = self._answer(played, guest.granted_at)
            self.copy.ends |= {(played, weights), single}
        if len(self.answers) > self.spare:
            self.answers.clear()
        self.answers[single or (lane, weights)] = answer
        return _told(answer, now, lane, single)

    def _behind_all(self, played: Lane, weights: tuple[int, ...]) -> _Answer | None:
        """When a newcomer goes behind its lane, if nobody else waits then; or None."""
        copy = self.copy
        self._advance(copy.now)
        while played.waiters and copy.due_at < NEVER:
            self._advance(copy.due_at)
        if copy.busy or copy.emptying:
            return None
        at, place = played.binding(copy.now, weights)
        answer = self._answer(played, at)
        if answer.spans:
            answer.spans[place] += at - copy.now
        return answer

    def _visit(self, played: Lane, weights: tuple[int, ...]) -> Actor:
        """Let time pass in the copy until a newcomer with *weights* could go; that newcomer."""
        copy, guest = self.copy, Actor()
        copy.guest = guest
        copy.join(guest, played, weights)
        self._advance(copy.now)
        while guest.state is QUEUED and copy.due_at < NEVER:
            self._advance(copy.due_at)
        if guest.state is FAILED:
            try:
                raise guest.error
            finally:
                del guest
        return guest

    def _answer(self, played: Lane, at: int) -> _Answer:
        """A newcomer to the lane goes at *at*; its spans are told until where the copy is."""
        bottleneck = played.bottleneck
        if bottleneck is None:
            return _Answer(at, None, [])
        assert isinstance(bottleneck, KnownBottleneck), "every lane that is played has got one"
        bottleneck.account(self.copy.now)
        return _Answer(at, bottleneck, list(bottleneck.spans))


def _told(answer: _Answer, now: int, lane: Lane, single: _Single | None) -> tuple[int, int]:
    """What a newcomer to *lane* is told at *now*; see `quote`.

    The *answer* to those who wait for a *single* rate was given in any lane, also in one that is
    not measured.
    """
    at, place = answer.told(now)
    if single is not None and at > now and lane.bottleneck is not None:
        place = lane.rules.index(single[0])
    return at, place


def is_known(lane: Lane) -> bool:
    """Whether what is foreseen of *lane* can be kept."""
    return all(type(rule) in KNOWN for _, rule in lane.rates)


def has_slots(lane: Lane) -> bool:
    return any(slots.limit < UNLIMITED for _, slots in lane.slots)


def are_as_foreseen(queue: Queue, goes_at: Callable[[int], int | None]) -> bool:
    """Whether the heads that were left out of what was foreseen wait for slots, and no others.

    *goes_at* tells when the waiter of that order goes; None, if it was left out.
    """
    now = queue.now
    for lane in queue.busy:
        at = goes_at(lane.waiters[0].order)
        if is_stuck(lane, now) != (at is None) or (at is not None and at <= now):
            return False
    return True


def is_stuck(lane: Lane, now: int) -> bool:
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
