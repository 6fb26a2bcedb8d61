"""Servers and clients in a time of their own: what an adaptive limit is proved on.

Events on a heap, instants in whole nanoseconds, chance from one seeded generator: a run is
the same each time. A client is a demand, a FIFO gate of as many slots as its rule says, and
the rule, which hears how each call ended::

    Client ── gate ──delay/2──▶ Server: queue, workers ──delay/2──▶ Client, rule.sample()
                                  │ queue full: refused
    Pacer ─── gate ──delay/2──▶ RateServer: a token bucket ──delay/2──▶ Pacer, rule.sample()

Nothing here knows how a rule works. Spans and instants are given in seconds, and so are
those that are read; they are kept in nanoseconds.
"""

from __future__ import annotations

import heapq
import random
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from async_throttle.adaptive import Adaptive, Outcome

SECOND = 10**9

Service = Callable[[random.Random], float]
"""How long a worker is busy with a call, in seconds; drawn when it starts."""


def constant(mean: float) -> Service:
    return lambda chance: mean


def uniform(mean: float) -> Service:
    """From half of *mean* to one and a half."""
    return lambda chance: mean * (0.5 + chance.random())


def exponential(mean: float) -> Service:
    return lambda chance: chance.expovariate(1 / mean)


def heavy(mean: float) -> Service:
    """One in twenty takes 20 times as long as the others do on average (variance 14 mean**2)."""
    short = mean / (0.95 + 0.05 * 20)
    return lambda chance: chance.expovariate(1 / short) * (20 if chance.random() < 0.05 else 1)


class World:
    """The time, what is yet to happen, and chance."""

    def __init__(self, seed: int = 1) -> None:
        self.now = 0
        self.chance = random.Random(seed)
        self._events: list[tuple[int, int, Callable[[Any], object], Any]] = []
        self._count = 0

    def after(self, span: int, call: Callable[[Any], object], what: Any = None) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + span, self._count, call, what))

    def at(self, instant: float, call: Callable[[], object]) -> None:
        """Call at *instant*, which is yet to come: a step change, a newcomer."""
        self.after(round(instant * SECOND) - self.now, lambda _: call())

    def run(self, until: float) -> None:
        end = round(until * SECOND)
        events, pop = self._events, heapq.heappop
        while events and events[0][0] <= end:
            self.now, _, call, what = pop(events)
            call(what)
        self.now = end


class Call:
    """One call on its way."""

    __slots__ = ("began", "client", "in_flight", "over")

    def __init__(self, client: Caller, began: int, in_flight: int) -> None:
        self.client = client
        self.began = began
        self.in_flight = in_flight
        self.over = False  # as its client sees it: a server goes on with what was given up


class Server:
    """So many workers, and a queue in order of arrival.

    Args:
        room: calls that may queue; the next one is refused. None is no bound.
        delay: seconds that the network takes, there and back together.
    """

    def __init__(
        self,
        world: World,
        workers: int,
        service: Service,
        *,
        room: int | None = None,
        delay: float = 0.0,
    ) -> None:
        self.world = world
        self.workers = workers
        self.service = service
        self.room = room
        self.half = round(delay * SECOND / 2)
        self.busy = 0
        self.queue: deque[Call] = deque()

    def send(self, call: Call) -> None:
        if self.half:
            self.world.after(self.half, self._arrive, call)
        else:
            self._arrive(call)

    def resize(self, workers: int) -> None:
        self.workers = workers
        self._start()

    def _arrive(self, call: Call) -> None:
        if self.room is not None and self.busy >= self.workers and len(self.queue) >= self.room:
            self.world.after(self.half, call.client.dropped, call)
            return
        self.queue.append(call)
        self._start()

    def _start(self) -> None:
        world = self.world
        while self.queue and self.busy < self.workers:
            self.busy += 1
            span = round(self.service(world.chance) * SECOND)
            world.after(span, self._finish, self.queue.popleft())

    def _finish(self, call: Call) -> None:
        self.busy -= 1
        if self.half:
            self.world.after(self.half, call.client.served, call)
        else:
            call.client.served(call)
        self._start()


class RateServer:
    """So many tokens per second, *burst* at once; what goes beyond is refused."""

    def __init__(self, world: World, rate: float, burst: float, *, delay: float) -> None:
        self.world = world
        self.rate = rate
        self.burst = self.level = burst
        self.half = round(delay * SECOND / 2)
        self.seen = 0

    def resize(self, rate: float) -> None:
        self._fill()
        self.rate = rate

    def send(self, call: Call) -> None:
        self.world.after(self.half, self._arrive, call)

    def _fill(self) -> None:
        span = self.world.now - self.seen
        self.level = min(self.burst, self.level + self.rate * span / SECOND)
        self.seen = self.world.now

    def _arrive(self, call: Call) -> None:
        self._fill()
        if self.level >= 1:
            self.level -= 1
            self.world.after(self.half, call.client.served, call)
        else:
            self.world.after(self.half, call.client.dropped, call)


class Caller:
    """What both kinds of clients share: the rule, the demand, and the books.

    Args:
        limit: where the rule begins.
        demand: calls per second, at random; None has always one more to make.
        start: the instant of the first call.
        ahead: seconds by which its clock is ahead of the others'.
    """

    def __init__(
        self,
        server: Server | RateServer,
        rule: Adaptive,
        limit: float,
        *,
        demand: float | None = None,
        start: float = 0.0,
        ahead: float = 0.0,
    ) -> None:
        self.server = server
        self.ahead = round(ahead * SECOND)
        self.world = world = server.world
        self.rule = rule
        self.demand = demand
        self.waiting = 0
        self.in_flight = 0
        self.ended = array("q")  # instants at which calls were served, and how long they took
        self.took = array("q")
        self.drops = array("q")  # instants at which calls were refused or given up
        self.changes = array("q", [0])  # instants at which the limit changed, and to what
        self.limits = array("d", [0.0])
        world.at(start, lambda: self._begin(limit))

    def _begin(self, limit: float) -> None:
        self.rule.begin(limit, self.world.now + self.ahead)
        self._note()
        if self.demand is not None:
            self._arrive(None)
        self._admit()

    def _arrive(self, _: None) -> None:
        if self.demand:
            self.waiting += 1
            span = self.world.chance.expovariate(self.demand)
            self.world.after(round(span * SECOND), self._arrive)
            self._admit()

    def _admit(self) -> None:
        raise NotImplementedError

    def _send(self) -> Call:
        if self.demand is not None:
            self.waiting -= 1
        self.in_flight += 1
        call = Call(self, self.world.now, self.in_flight)
        self.server.send(call)
        return call

    def served(self, call: Call) -> None:
        if not call.over:
            self.ended.append(self.world.now)
            self.took.append(self.world.now - call.began)
            self._over(call, Outcome.OK)

    def dropped(self, call: Call) -> None:
        if not call.over:
            self.drops.append(self.world.now)
            self._over(call, Outcome.DROPPED)

    def _over(self, call: Call, outcome: Outcome) -> None:
        call.over = True
        self.in_flight -= 1
        now, began = self.world.now + self.ahead, call.began + self.ahead
        self.rule.sample(now, began, call.in_flight, 1.0, outcome)
        if self.rule.limit != self.limits[-1]:
            self._note()
        self._admit()

    def _note(self) -> None:
        self.changes.append(self.world.now)
        self.limits.append(self.rule.limit)

    # What became of it, between two instants.

    def rate(self, since: float, until: float) -> float:
        """Calls served per second."""
        return self._count(self.ended, since, until) / (until - since)

    def drop_rate(self, since: float, until: float) -> float:
        """Calls dropped per second."""
        return self._count(self.drops, since, until) / (until - since)

    def latency(self, since: float, until: float) -> float:
        """Mean seconds that the calls took which were served; the wait at the gate is not in it."""
        first, last = self._span(self.ended, since, until)
        return sum(self.took[first:last]) / (last - first) / SECOND

    def limit_at(self, instant: float) -> float:
        return self.limits[bisect_left(self.changes, round(instant * SECOND) + 1) - 1]

    def mean_limit(self, since: float, until: float) -> float:
        """Over time, not over changes."""
        begin, end = round(since * SECOND), round(until * SECOND)
        first, last = bisect_left(self.changes, begin + 1), bisect_left(self.changes, end)
        instants = [begin, *self.changes[first:last], end]
        limits = self.limits[first - 1 : last]
        area = sum(
            limit * (b - a) for limit, (a, b) in zip(limits, pairwise(instants), strict=True)
        )
        return area / (end - begin)

    def most(self, since: float, until: float) -> float:
        """The highest limit."""
        first = bisect_left(self.changes, round(since * SECOND) + 1)
        last = bisect_left(self.changes, round(until * SECOND))
        return max(self.limits[first - 1 : last])

    @staticmethod
    def _span(instants: array[int], since: float, until: float) -> tuple[int, int]:
        return bisect_left(instants, since * SECOND), bisect_left(instants, until * SECOND)

    def _count(self, instants: array[int], since: float, until: float) -> int:
        first, last = self._span(instants, since, until)
        return last - first


class Client(Caller):
    """Has as many calls in flight as its rule says, and gives one up after *timeout* seconds."""

    def __init__(
        self,
        server: Server,
        rule: Adaptive,
        limit: float,
        *,
        timeout: float | None = None,
        demand: float | None = None,
        start: float = 0.0,
        ahead: float = 0.0,
    ) -> None:
        self.timeout = None if timeout is None else round(timeout * SECOND)
        super().__init__(server, rule, limit, demand=demand, start=start, ahead=ahead)

    def _admit(self) -> None:
        while self.in_flight < self.rule.limit and (self.demand is None or self.waiting):
            call = self._send()
            if self.timeout is not None:
                self.world.after(self.timeout, self.dropped, call)


class Pacer(Caller):
    """Sends as many calls per second as its rule says, evenly spaced."""

    due = 0
    armed = False

    def _admit(self) -> None:
        if not self.armed and (self.demand is None or self.waiting):
            self.armed = True
            self.world.after(max(0, self.due - self.world.now), self._go)

    def _go(self, _: None) -> None:
        self.armed = False
        self.due = self.world.now + round(SECOND / self.rule.limit)
        self._send()
        self._admit()


def jain(shares: list[float]) -> float:
    """Jain's index of fairness: 1 if all are equal, 1 / n if one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))
