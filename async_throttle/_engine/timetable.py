"""The timetable: when each waiter goes, where lanes have nothing but one bucket in common.

So it is with the chats of a bot: each has a rate of its own, and all share one. There a later
arrival moves nobody, and `profile` tells in one step when it goes. So the timetable has an instant
for each waiter, in order of arrival, and nothing is played. It is kept for the next question as
long as the queue does what it says. An arrival is put into it wherever its instant is. (Where lanes
have more in common, a copy of the queue is played, and an arrival joins it only where the copy has
not gone too far: see `foresight`.)

A waiter is awake once the waiter before it in its lane has gone, its pauses have ended, and the
rates of its own let it go. Each waiter takes of copies of these, in turn. Its claim has to say so
long before: `backfill.claims_of` tells it from the sum of what the waiters of a lane want. But a
bucket that is full when a waiter goes regains nothing for the next one, and a window gives no more
than its burst until it forgets. There the next waiter may wake up later than its claim says, and
there is no timetable. It is of no matter if the waiter before has to wait for the bucket in common:
who would delay the next one would delay that one, too.

Slots count as if they were there. Lanes whose heads wait for slots are left out.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

from async_throttle._engine.foresight import (
    SPARE,
    KnownBottleneck,
    are_as_foreseen,
    has_slots,
    is_known,
    is_stuck,
)
from async_throttle._engine.lane import SKIP, Lane, Waiter
from async_throttle._engine.profile import Profile
from async_throttle._engine.queue import Queue
from async_throttle._units import NEVER
from async_throttle.rules import Rule
from async_throttle.rules.bucket import PLAIN, TokenBucket

__all__ = ["Timetable"]


class _Wait(NamedTuple):
    """When a waiter goes, and why then.

    Attributes:
        begin: when the waiter before it in its lane goes; or now.
        place: the place of what holds it up until it is awake, or -1.
        awake: when that lets it go.
        shared: the place of the rate in common if it asks for that, or -1.
        at: when it goes.
    """

    begin: int
    place: int
    awake: int
    shared: int
    at: int


class _Row:
    """A lane with waiters.

    Attributes:
        rates: by place, copies of the rates that no other lane asks for, after all its waiters.
        since: when the last of its waiters goes.
        misses: whether a bucket of these was full when a waiter went who had just woken up.
        wanted: by place, how much of a window such waiters want; since the last one that had to
            wait for the bucket in common.
        bottleneck: the time of its heads by rule; None where it is not measured.
    """

    __slots__ = ("bottleneck", "misses", "rates", "since", "wanted")

    since: int

    def __init__(self, lane: Lane, rate: Rule, now: int) -> None:
        self.rates = {n: rule.fork() for n, rule in lane.rates if rule is not rate}
        self.misses = False
        self.wanted = {n: 0 for n, rule in self.rates.items() if type(rule) not in PLAIN}
        measured = lane.bottleneck is not None
        self.bottleneck = KnownBottleneck(len(lane.rules), now) if measured else None


class Timetable:
    """When the waiters of a queue go.

    Attributes:
        rate: the bucket that lanes have in common.
        profile: what it is to give.
        rows: the lanes with waiters.
        owners: by rate, the lane that alone asks for it.
        instants: when each waiter goes, by its order of arrival.
        slotted: whether any lane asks for slots, which are not foreseen.
        spare: how many more arrivals are put in until somebody asks.
    """

    __slots__ = ("instants", "owners", "profile", "rate", "rows", "slotted", "spare")

    def __init__(self, rate: TokenBucket, now: int, slotted: bool) -> None:
        self.rate: Rule = rate
        self.profile = Profile(rate, now)
        self.rows: dict[Lane, _Row] = {}
        self.owners: dict[Rule, Lane] = {}
        self.instants: dict[int, int] = {}
        self.slotted = slotted
        self.spare = SPARE

    @classmethod
    def of(cls, queue: Queue, asked: Lane) -> Timetable | None:
        """The timetable of *queue*, for a newcomer to the lane that is *asked*; or None."""
        now = queue.now
        if not queue.trusting or queue.feeds or queue.ranked or queue.emptying:
            return None
        if not all(map(_fits, chain([asked], queue.busy))):
            return None
        lanes = {lane: None for lane in queue.busy if not is_stuck(lane, now)}
        if asked.waiters and asked not in lanes:
            return None
        asking = Counter(rule for lane in {**lanes, asked: None} for _, rule in lane.rates)
        common = [rule for rule, number in asking.items() if number > 1]
        if len(common) != 1 or not isinstance(rate := common[0], TokenBucket):
            return None
        timetable = cls(rate, now, any(map(has_slots, queue.busy)))
        waiters = sorted(chain.from_iterable(lanes), key=attrgetter("order"))
        if all(not waiter.rivals and timetable._put(waiter, now) for waiter in waiters):
            return timetable
        return None

    # -- what comes to pass ---------------------------------------------------------------

    def joined(self, waiter: Waiter, now: int) -> bool:
        """*waiter* has arrived; whether the timetable is still good."""
        self.spare -= 1
        lane = waiter.lane
        if waiter.rivals or self.spare < 0 or not _fits(lane):
            return False
        self.slotted = self.slotted or has_slots(lane)
        if is_stuck(lane, now):
            return lane.waiters[0].order not in self.instants
        if len(lane.waiters) > 1 and lane not in self.rows:
            return False
        return self._put(waiter, now)

    def granted(self, waiter: Waiter, now: int) -> bool:
        """*waiter* was granted as of *now*; whether that was foreseen, and waiters are left."""
        if self.instants.pop(waiter.order, None) != now or not self.instants:
            return False
        lane = waiter.lane
        if not lane.waiters:
            del self.rows[lane]
            for _, rule in lane.rates:
                self.owners.pop(rule, None)
        return True

    def took(self, lane: Lane, weights: tuple[int, ...], now: int) -> bool:
        """A newcomer to *lane* is about to go at once; whether the timetable is still good."""
        wait = self._find(lane, weights, now) if _fits(lane) else None
        if wait is None or wait.at > now:
            return False
        if wait.shared >= 0:
            self.profile.take(now, now, weights[wait.shared])
        return True

    def changes(self, rule: Rule) -> bool:
        """*rule* is about to change; whether the timetable is good nevertheless."""
        return rule is not self.rate and rule not in self.owners

    def close(self) -> None:
        """Nothing is left to the collector of reference cycles."""

    # -- questions ------------------------------------------------------------------------

    def holds(self, queue: Queue, asked: Lane) -> bool:
        """Whether *queue* is as foreseen for this instant, where a newcomer to *asked* asks."""
        if not _fits(asked):
            return False
        if asked.waiters:
            head = asked.waiters[0]
            if head.cancelled() or head.order not in self.instants:
                return False
        return not self.slotted or are_as_foreseen(queue, self.instants.get)

    def ask(self, now: int, lane: Lane, weights: tuple[int, ...]) -> tuple[int, int] | None:
        """When a newcomer to *lane* goes, and the place of its bottleneck; None if not known."""
        self.spare = len(self.instants) + SPARE
        wait = self._find(lane, weights, now)
        if wait is None:
            return None
        if lane.bottleneck is None or wait.at == now:
            return wait.at, -1
        spans = [0] * (len(lane.rules) + 1)
        row = self.rows.get(lane)
        if row is not None and row.bottleneck is not None:
            pairs = zip(row.bottleneck.spans, row.bottleneck.spans_at(now), strict=True)
            spans = [after - before for after, before in pairs]
        if wait.place >= 0:
            spans[wait.place] += wait.awake - wait.begin
        if wait.shared >= 0:
            spans[wait.shared] += wait.at - wait.awake
        return wait.at, max(range(len(spans)), key=spans.__getitem__)

    def _find(self, lane: Lane, weights: tuple[int, ...], now: int) -> _Wait | None:
        """When a newcomer to *lane* goes, behind all that came before; None if not known."""
        self.profile.pass_to(now)
        row = self.rows.get(lane)
        begin = now if row is None else max(now, row.since)
        at, place = lane.held_until(begin, weights)
        shared, misses = -1, row is not None and row.misses
        for n, rule in lane.rates:
            weight = weights[n]
            if weight == SKIP:
                continue
            if rule is self.rate:
                shared = n
                continue
            if self.owners.get(rule, lane) is not lane:
                return None
            if row is not None:
                rule = row.rates[n]
                misses = misses or row.wanted.get(n, -weight) + weight > rule.burst
            ready = rule.ready_at(at, weight)
            if ready > at:
                at, place = ready, n
        if at >= NEVER or (misses and at > begin):
            return None
        goes_at = at if shared < 0 else self.profile.earliest(at, weights[shared])
        if goes_at is None:
            return None
        if shared >= 0 and self.profile.ready_at(begin, weights[shared]) > at:
            place = shared
        return _Wait(begin, place, at, shared, goes_at)

    def _put(self, waiter: Waiter, now: int) -> bool:
        """Put *waiter* in; whether it is known when it goes."""
        lane, weights = waiter.lane, waiter.weights
        wait = self._find(lane, weights, now)
        if wait is None:
            return False
        row = self.rows.get(lane)
        if row is None:
            row = self.rows[lane] = _Row(lane, self.rate, now)
            self.owners.update((rule, lane) for _, rule in lane.rates if rule is not self.rate)
        at, late = wait.at, wait.at > wait.awake
        if late:
            row.misses, row.wanted = False, dict.fromkeys(row.wanted, 0)
        for n, rate in row.rates.items():
            if weights[n] != SKIP:
                if n in row.wanted:
                    row.wanted[n] += 0 if late else weights[n]
                elif not late:
                    row.misses = row.misses or rate.ready_at(at - 1, int(rate.burst)) < at
                rate.take(at, weights[n])
        if wait.shared >= 0:
            self.profile.take(wait.awake, at, weights[wait.shared])
        if row.bottleneck is not None:
            if wait.place >= 0:
                row.bottleneck.wait_for(wait.place, wait.begin)
            if late:
                row.bottleneck.wait_for(wait.shared, wait.awake)
            row.bottleneck.account(at)
        row.since = at
        self.instants[waiter.order] = at
        return True


def _fits(lane: Lane) -> bool:
    """Whether *lane* may stand in a timetable."""
    return not lane.priority and is_known(lane)
