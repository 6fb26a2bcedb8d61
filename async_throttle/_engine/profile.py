"""The profile of a bucket: what it is to give to whom, and when, as far as that is foreseen.

Waiters in many lanes wait for one bucket that they have in common, and each lane for rates of its
own besides. Where nothing else is in common, a waiter may be put into the future of the others in
one step, in order of arrival: it goes at the first instant at which that delays nobody who came
before. (Batch schedulers call that conservative backfilling with a profile.) What follows says of a
waiter W what `backfill` finds for it when its time has come.

A waiter is *awake* from the instant at which its own rates let it go, until it goes. While another
one is awake, W does not go. For that one lacks tokens, and then so does W; or it would delay a
claim of a waiter before it, and then W, which wants that much more, would delay that claim as well.
The instants at which somebody is awake are kept as *stretches*.

While nobody is awake, those who are to come go as soon as they wake up, up to the next stretch. So
the claims on the bucket are the grants that are foreseen, and the claim with which that stretch
begins. If W takes of the bucket, it is full that much later. That *extra* shrinks by the time for
which the bucket would have been full before a grant: a full one regains nothing. W may go if each
grant on the way finds enough tokens still, until the bucket has forgotten W. If that has not come
to pass by the next stretch, who is awake there goes later for it. Else W tries again: after the
last grant that it would delay, or after that stretch, when the extra is not less.

That looks at the grants of a single busy period of the bucket, and no further than to the next
stretch. Who has to wait through a stretch passes it in one step.

Instants are whole nanoseconds, and a bucket that was full for less than one keeps the difference.
Where an extra of less than a nanosecond would be left, what happens next depends on more than is
kept here: the answer is None. So it is for weights that a bucket has back within a nanosecond.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from async_throttle._units import NEVER
from async_throttle.rules.bucket import TokenBucket

__all__ = ["Profile"]

_PAST = 64
"""So many grants that have come to pass are kept, at most."""


class Profile:
    """The grants of a bucket that are foreseen, and the stretches in which somebody is awake.

    Attributes:
        full_at: tick at which the bucket was to be full again before the first grant.
        room, grain, scale: of the bucket, see `TokenBucket.ticks_at`.
        instants: of the grants, in order.
        fulls: by grant, the tick at which the bucket is full again if it is the last.
        begins, ends: of the stretches, in order; the end does not belong to it.
    """

    __slots__ = ("begins", "ends", "full_at", "fulls", "grain", "instants", "room", "scale")

    def __init__(self, rate: TokenBucket, now: int) -> None:
        self.full_at, self.room, self.grain, self.scale = rate.ticks_at(now)
        self.instants: list[int] = []
        self.fulls: list[int] = []
        self.begins: list[int] = []
        self.ends: list[int] = []

    def ready_at(self, at: int, weight: int) -> int:
        """When the bucket has *weight*, *at* an instant or later, if it gives nothing meanwhile."""
        before = self._full_before(bisect_right(self.instants, at))
        lacking = max(before, (at - 1) * self.scale) + weight * self.grain - self.room
        return max(at, -(-lacking // self.scale))

    def earliest(self, since: int, weight: int) -> int | None:
        """When a waiter that is awake *since* an instant goes, behind all that came before.

        None, if that is not known.
        """
        at, scale, cost = since, self.scale, weight * self.grain
        if cost < scale:
            return None
        while True:
            stretch = bisect_right(self.ends, at)
            if stretch < len(self.ends) and self.begins[stretch] <= at:
                at = self.ends[stretch]
                continue
            ready = self.ready_at(at, weight)
            if ready > at:
                at = ready
                continue
            place = bisect_right(self.instants, at)
            before = self._full_before(place)
            full = at * scale if before <= (at - 1) * scale else before
            later = self._delays(at, place, stretch, full + cost - before)
            if later == at or later is None:
                return later
            at = later

    def _delays(self, at: int, place: int, stretch: int, extra: int) -> int | None:
        """*at*, if an *extra* from then on delays nobody; else an instant before which it does.

        *place* and *stretch* are those of the next grant and of the next stretch. None, if that is
        not known.
        """
        scale, again, before = self.scale, at, self._full_before(place)
        begin = self.begins[stretch] if stretch < len(self.begins) else NEVER
        for n in range(place, len(self.instants)):
            instant = self.instants[n]
            if instant >= begin:
                break
            idle = instant * scale - before
            if idle >= scale:
                if extra <= idle - scale or extra == idle:
                    return again
                extra -= idle
                if extra < scale:
                    return None
            before = self.fulls[n]
            if before + extra > instant * scale + self.room:
                again = instant
        idle = begin * scale - before
        if extra > idle:
            return self.ends[stretch]
        return again if extra <= idle - scale or extra == idle else None

    def take(self, since: int, at: int, weight: int) -> None:
        """A waiter that is awake *since* an instant goes *at* the one that `earliest` has told."""
        scale = self.scale
        place = bisect_right(self.instants, at)
        before = self._full_before(place)
        full = at * scale if before <= (at - 1) * scale else before
        full += weight * self.grain
        extra = full - before
        for n in range(place, len(self.instants)):
            idle = self.instants[n] * scale - before
            if idle >= scale:
                extra -= idle
                if extra <= 0:
                    break
            before = self.fulls[n]
            self.fulls[n] = before + extra
        self.instants.insert(place, at)
        self.fulls.insert(place, full)
        if since < at:
            self._wait(since, at)

    def _wait(self, since: int, until: int) -> None:
        """Somebody is awake *since* an instant *until* another one."""
        first, last = bisect_left(self.ends, since), bisect_right(self.begins, until)
        if first < last:
            since, until = min(since, self.begins[first]), max(until, self.ends[last - 1])
        self.begins[first:last] = [since]
        self.ends[first:last] = [until]

    def pass_to(self, now: int) -> None:
        """Forget what has come to pass until *now*: nobody asks for an instant before."""
        if len(self.instants) > _PAST and self.instants[_PAST] <= now:
            past = bisect_right(self.instants, now)
            self.full_at = self.fulls[past - 1]
            del self.instants[:past], self.fulls[:past]
            past = bisect_right(self.ends, now)
            del self.begins[:past], self.ends[:past]

    def _full_before(self, place: int) -> int:
        """When the bucket was to be full before the grant at *place*."""
        return self.fulls[place - 1] if place else self.full_at
