"""Plain blocks that count to the end, and what their shortcuts leave undone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from async_throttle._shell.lease import Blocks
from async_throttle._shell.scheduler import find
from async_throttle._units import NEVER, TOKEN
from async_throttle.rules.bucket import TokenBucket

if TYPE_CHECKING:
    from async_throttle._shell.door import Door
    from async_throttle._shell.flights import Flights

__all__ = ["QuickBlocks"]


class QuickBlocks(Blocks):
    """The plain blocks of a throttle that counts to the end, also those that shortcuts began.

    A shortcut does no more than note that a block has begun, or how full the bucket is after its
    end. The rest, slots and what is in flight and the time, is left undone until the next event
    that is no shortcut, which accounts for all of them at once. So the scheduler is not quiet
    while the shortcut is armed: whatever else looks at the throttle goes through the door.

    Attributes:
        loop: the event loop in which shortcuts may be taken.
        armed: whether they may.
        solo, since: the task of the only open block that a shortcut began, or None, and when it
            began; of others, when the latest of them began.
        opened: where there are several, by task, when they began.
        beside: the number of those.
        counted: how many of the open blocks slots and what is in flight know of.
        edge: the tick from which on a block may begin alone; NEVER while others are open.
        full: the tick at which the bucket is full, where *edge* is NEVER; else *edge* + *spare*.
        last: instant of the latest end; it counts from *resolution* nanoseconds later on.
        ended: how many blocks have ended for which nobody has accounted.
        most: so many blocks may be open.
        floor: the bucket notes what finds less missing.
        scale, token: those of the bucket, see `Ticks`.
        room: its room, less what other calls have in flight.
        spare: the room less a token.
        near, step: an end at the tick *at* lifts the edge, unless *edge* is above *at* - *near*,
            by *step* from there.
    """

    __slots__ = (
        "armed",
        "beside",
        "counted",
        "edge",
        "ended",
        "floor",
        "full",
        "last",
        "loop",
        "most",
        "near",
        "opened",
        "resolution",
        "room",
        "scale",
        "since",
        "solo",
        "spare",
        "step",
        "token",
    )

    solo: asyncio.Task[Any] | None
    loop: asyncio.AbstractEventLoop | None

    def __init__(self) -> None:
        super().__init__()
        self.armed = False
        self.loop = self.solo = None
        self.opened: dict[asyncio.Task[Any], int] = {}
        self.edge = NEVER
        self.scale = self.resolution = 1
        self.beside = self.counted = self.ended = self.most = 0
        self.since = self.last = 0
        self.full = self.floor = self.token = self.room = self.spare = self.near = self.step = 0

    def arm(self, flights: Flights, now: int) -> bool:
        """Have shortcuts taken from *now* on, if nothing is in the way of that."""
        core, state = flights.core(), flights.bucket
        if core is None or state is None:
            return False
        scheduler: Any = find(core)
        loop = asyncio._get_running_loop()
        # All at once from here on: nothing can come in between.
        ticks, floor = state.ticks, state.floor
        slots, held = core.slots, flights.held
        others = held.limit - held.free - self.beside * TOKEN
        cost = others * ticks.grain if ticks.grain else others // TOKEN * ticks.token
        free = held.free // TOKEN
        if slots.free < free:
            free = slots.free
        spare = ticks.room - cost - ticks.token
        if (
            not scheduler.quiet
            or scheduler.busy
            or scheduler.aloft.armed is not None
            or state is not flights.bucket
            or loop is not scheduler.loop
            or now < scheduler.clock.seen
            or slots.limit - slots.free < self.beside
            or not (ticks.grain or others % TOKEN == 0)
        ):
            return False
        self.loop = loop
        self.floor = floor
        self.scale = ticks.scale
        self.token = ticks.token
        self.resolution = flights.rule.resolution
        self.room = ticks.room - cost
        self.spare = spare
        self.near = spare + ticks.scale - flights.rule.resolution * ticks.scale
        self.step = ticks.scale + ticks.token
        self.full = state.full_at
        self.most = free + self.beside
        self.since = self.last = now
        if free > 0 and not self.beside and not self.held and not floor:
            self.edge = state.full_at - spare
        scheduler.quiet = scheduler.usual = False
        scheduler.aloft.armed = flights
        self.armed = True
        return True

    def note(self, flights: Flights, missing: int) -> None:
        """Have the bucket note that an end finds so much *missing*."""
        core, state = flights.core(), flights.bucket
        if core is not None and state is not None:
            scheduler = find(core)
            scheduler.busy = True
            try:
                cast(TokenBucket, flights.rule.rule).note(missing)
                self.floor = state.floor
            finally:
                scheduler.busy = False
            if scheduler.notes:
                scheduler.catch_up()

    def account(self, flights: Flights, scheduler: Door) -> None:
        """Account for what shortcuts have left undone; they are not armed from here on."""
        core, state, held = flights.core(), flights.bucket, flights.held
        rule, clock, aloft = flights.rule, scheduler.clock, scheduler.aloft
        # All at once: nothing can come in between.
        if aloft is not None and aloft.armed is flights:
            if core is not None and state is not None:
                state.full_at = self.full if self.edge == NEVER else self.edge + self.spare
                if self.solo is not None:
                    self.opened[self.solo] = self.since
                    self.solo = None
                    self.beside += 1
                core.slots.free -= self.beside - self.counted
                held.free -= (self.beside - self.counted) * TOKEN
                self.counted = self.beside
            if self.ended:
                rule.latest = self.last + self.resolution
                flights.ended += self.ended
                self.ended = 0
            if self.since > clock.seen:
                clock.seen = self.since
            if self.last > clock.seen:
                clock.seen = self.last
            self.edge = NEVER
            self.armed = False
            aloft.armed = None
