"""The session: it asks a store on behalf of the throttles of an event loop, or of the threads.

After the events of a scheduler, at the end of the turn of its event loop, its `Feeder` looks
whether a head lacks permits that the store could book, or whether the store is to be told of
something. Then the session makes a request with the wants of all waiters, in their order, and gives
what was booked to the rules (`rules/booked.py`). A single request is under way at a time; what
comes meanwhile goes with the next.

Callers that come often need not wait for each answer: the store books for those to come as well,
where there is plenty (`Account._ahead`, `_state._stock`).

A head that was refused is asked for again when the store said, not at each arrival: a part of the
horizon before it could go, so that the store books several permits at once.

A connection that is quick is asked right away, the first time in a turn of the event loop. What
comes later in that turn goes together at its end.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Iterator
from functools import partial
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from async_throttle._engine.lane import SKIP, Lane
from async_throttle._shell import fast
from async_throttle._shell.alarm import surely
from async_throttle._shell.clock import monotonic, wall
from async_throttle._shell.loop import LoopScheduler, call_in
from async_throttle._shell.scheduler import Scheduler, find
from async_throttle._units import NEVER, SECOND
from async_throttle.exceptions import StoreUnavailable
from async_throttle.rules import Rule
from async_throttle.rules.booked import ASK, ITSELF, NOBODY, Booking
from async_throttle.rules.slots import UNLIMITED
from async_throttle.stores import Busy, Connection, Store
from async_throttle.stores._account import MICRO, Account, wanted
from async_throttle.stores._state import BEHIND, LOST_LEASE, LOST_STATE, MISMATCH
from async_throttle.stores._state import NEVER as WOKEN

if TYPE_CHECKING:
    from async_throttle._shell.core import Core

__all__ = ["Feeder", "dock"]

FALLBACK: Final = SECOND
"""A session that waits to be woken asks by itself after so long: a wake-up may have been lost."""

MOST: Final = 1_000
"""Waiters whose wants go in one request."""

BACK_OFF: Final = (20_000_000, 500_000_000)
"""The first and the longest time until a store is asked again that was away."""

PATIENCE: Final = 0.05
"""Seconds for which `try_acquire` waits for the answer of a store."""

MOST_LIMITS: Final = 250
"""Limits that go in one request, which holds up the store for all others."""

Part = tuple[Account, int, int]
"""What a want takes of a limit: nanotokens, or SKIP; and slots."""


class Want(NamedTuple):
    """What equal callers want, of a lane."""

    lane: Lane
    parts: tuple[Part, ...]
    number: int


class Batch:
    """A request that is under way.

    Attributes:
        sent: the instant at which it was made, by the clock of the session.
        grace: nanoseconds within which bookings are to be used.
        trip: nanoseconds until it is answered, probably: what expires by then is as good as gone.
        accounts: the limits, in the order of the request.
        wants: by feeder, in the order of the request.
        now: the wants are those of a caller that does not wait.
        wakes: how often the session had been woken before.
    """

    def __init__(self, sent: int, grace: int, trip: int, wakes: int = 0) -> None:
        self.sent = sent
        self.grace = grace
        self.trip = trip
        self.wakes = wakes
        self.accounts: dict[Account, int] = {}
        self.waiting: dict[Account, int] = {}
        self.now = False
        self.wants: list[tuple[Feeder, Want]] = []
        self.feeders: dict[Feeder, None] = {}
        self._names: dict[str, Account] = {}

    def answers(self, reply: Any) -> dict[Feeder, list[tuple[Want, Any]]]:
        """By feeder, its wants and what was answered."""
        found: dict[Feeder, list[tuple[Want, Any]]] = {feeder.here(): [] for feeder in self.feeders}
        # there is no answer to any want if the store has refused the request
        for (feeder, want), answer in zip(self.wants, reply["wants"], strict=False):
            found[feeder.here()].append((want, answer))
        return found

    def untold(self) -> None:
        """The store has perhaps not heard of it: tell it again what is held."""
        for account in self.accounts:
            account.held = -1

    def takes(self, account: Account) -> bool:
        """Whether *account* goes with this request: each limit only once, and not too many."""
        if len(self.accounts) >= MOST_LIMITS and account not in self.accounts:
            return False
        if self._names.setdefault(account.name, account) is not account:
            return False
        self.accounts.setdefault(account, len(self.accounts))
        return True


class Feeder:
    """Looks, on behalf of the schedulers that have become one, what a store is to be asked.

    Attributes:
        store: the store.
        accounts: by rule, rates and slots, what the throttles have in the store.
        each: the accounts.
        flights: those whose calls are taken at their ends.
        beat: nanoseconds after which the store is told that the session still lives.
        again: by lane, the instant until which its head need not be asked for: the store has said
            so; by the clock of the scheduler.
        source: where permits come from: ASK, or what stands in for a store that is away.
        stuck: those of the lanes in *again* that lack a slot, of which the session will be woken;
            and how many slots were free here since.
        curious: how the limits stand is to be asked, whatever there is to ask besides.
        guest: a caller that does not wait is about to take what was booked for it.
        served: something was booked for it.
        into: the feeder that has absorbed this one.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.accounts: dict[Rule, Account] = {}
        self.each: list[Account] = []
        self.flights: list[Account] = []
        self.beat = round(store.ttl * SECOND / 3)
        self.again: dict[Lane, int] = {}
        self.source: Any = ASK
        self.curious = self.guest = self.served = False
        self.stuck: dict[Lane, int] = {}
        self.into: Feeder | None = None
        self._latest: weakref.ref[Session] | None = None

    def here(self) -> Feeder:
        """This feeder, or the one that has absorbed it."""
        feeder = self
        while feeder.into is not None:
            feeder = feeder.into
        return feeder

    def scheduler(self) -> Scheduler:
        """Whose callers are fed."""
        return find(self.each[0].core)

    def add(self, account: Account) -> None:
        """Feed one more throttle."""
        self.accounts[account.core.rule] = account
        self.accounts[account.rate] = account
        self.accounts[account.slots] = account
        self.each.append(account)
        if account.ends is not None:
            self.flights.append(account)

    def absorb(self, other: Feeder) -> None:
        """Feed the throttles of *other* as well: the schedulers have become one."""
        self.accounts.update(other.accounts)
        self.each += other.each
        self.flights += other.flights
        self.again.update(other.again)
        self.stuck.update(other.stuck)
        other.into = self
        if self.source is not other.source:  # the store is away, as one of them knows
            source = other.source if self.source is ASK else self.source
            self.stand_in(source, self.scheduler().clock.seen)
            self.curious = True

    def wake(self) -> None:
        """What the store said last may not be so any more."""
        self.again.clear()
        self.stuck.clear()
        self.curious = True

    def shift(self, by: int) -> None:
        """The scheduler goes by a different clock now."""
        self.again = {lane: at + by for lane, at in self.again.items()}

    def forked(self) -> None:
        """This is the child of a fork: it is another session."""
        for account in self.each:
            account.begin_anew()
        self.again.clear()

    def look(self, scheduler: Scheduler) -> None:
        """An event of *scheduler* is over: have the store asked, or told, if need be."""
        for account in self.flights:  # a call may end in the turn of the loop in which it began
            self._sweep(scheduler, account, scheduler.clock.present())
        self._session(scheduler).look(self, scheduler)

    def _session(self, scheduler: Scheduler) -> Session:
        session = None if self._latest is None else self._latest()
        if session is None or not session.serves(scheduler):
            session = session_of(self.store, scheduler)
            self._latest = weakref.ref(session)
        return session

    def fetch(self, scheduler: Scheduler, lane: Lane | None, weights: tuple[int, ...]) -> None:
        """Ask the store now for what a caller wants that will not wait, if that can be done."""
        if lane is None or self._lacks(lane, weights, scheduler.clock.present()):
            session_of(self.store, scheduler).fetch(self, scheduler, lane, weights)

    def prepare(self, scheduler: Scheduler, lane: Lane, weights: tuple[int, ...], now: int) -> None:
        """A caller comes, and nobody waits: ask a quick store at once, inside the door."""
        session = self._session(scheduler)
        if session.is_ready() and self._lacks(lane, weights, now):
            session.prepare(self, scheduler, lane, weights, now)

    async def fetch_later(
        self, scheduler: Scheduler, lane: Lane | None, weights: tuple[int, ...]
    ) -> None:
        """The same in an event loop; without a *lane*, ask only how the limits stand."""
        session = session_of(self.store, scheduler)
        if isinstance(session, LoopSession):
            await session.fetch_later(self, scheduler, lane, weights)
        else:
            await asyncio.to_thread(session.fetch, self, scheduler, lane, weights)

    # -- what is wanted -------------------------------------------------------------------

    def _opens_at(self, lane: Lane, weights: tuple[int, ...], now: int) -> int:
        """When a caller may go but for what the store has; NEVER if no time tells.

        It is not asked for before: what was booked would have expired by then.
        """
        accounts = self.accounts
        at = lane.held_until(now, weights)[0]
        for n, slots in lane.slots:
            if slots.free < weights[n] > 0 and slots not in accounts:
                return NEVER
        for n, rule in lane.rates:
            if weights[n] != SKIP and rule not in accounts:
                try:
                    at = max(at, rule.ready_at(now, weights[n]))
                except Exception:
                    return NEVER
        return min(at, NEVER)

    def _lacks(self, lane: Lane, weights: tuple[int, ...], now: int) -> bool:
        """Whether a caller lacks something that the store has, and nothing else."""
        if self._opens_at(lane, weights, now) > now:
            return False
        for n, slots in lane.slots:
            if slots.free < weights[n] > 0:
                return True
        for n, rule in lane.rates:
            if weights[n] != SKIP and rule in self.accounts:
                try:
                    if rule.ready_at(now, weights[n]) > NEVER:
                        return True
                except Exception:
                    return False
        return False

    def _forget(self) -> None:
        """Forget what was said of lanes that are empty, or that get a slot which came back here."""
        for lane in [lane for lane in self.again if not lane.waiters]:
            del self.again[lane]
            self.stuck.pop(lane, None)
        for lane, before in list(self.stuck.items()):
            free = self._free(lane)
            self.stuck[lane] = min(before, free)
            if free > before:
                del self.stuck[lane]
                self.again.pop(lane, None)

    def _free(self, lane: Lane) -> int:
        """The slots that nobody uses here of the limits of a lane, those that go back as well."""
        accounts = [self.accounts[slots] for _, slots in lane.slots if slots in self.accounts]
        return sum([each.slots.free + each.held - each.hand for each in accounts])

    def due(self, scheduler: Scheduler, now: int) -> int:
        """When the store is to be asked or told next."""
        if self.again:
            self._forget()
        at = now if self.curious else NEVER
        for account in self.each:
            account.slots.elapse(now)
            if account.rate.bookings:
                self._sweep(scheduler, account, now)
                if not self.guest:
                    self._return(scheduler, account)
                at = min(at, account.rate.stocked_until)
            spares = account.spares and not self.guest and self._spare(scheduler, account, now)
            if account.has_news or spares:
                at = now
            elif self._lives(scheduler, account):
                at = min(at, max(now, account.asked_at + self.beat - monotonic() + now))
        for lane in scheduler.queue.busy:
            if lane.fed:
                head = lane.waiters[0]
                opens = self._opens_at(lane, head.weights, now)
                if opens > now:
                    at = min(at, opens)
                elif lane in self.again or self._lacks(lane, head.weights, now):
                    at = min(at, max(self.again.get(lane, now), now))
        return at

    def _lives(self, scheduler: Scheduler, account: Account) -> bool:
        """Whether the store is to hear now and then that there is somebody: it would forget them.

        Who holds something, and who waits for the end of a pause, of which all are told that there
        are.
        """
        return account.holds or (
            account.paused
            and any(lane.waiters for lane in scheduler.queue.lanes.asking(account.core.rule))
        )

    def _sweep(self, scheduler: Scheduler, account: Account, now: int) -> None:
        """Give back what has expired, and ask for it again."""
        if account.sweep(now):
            for lane in scheduler.queue.lanes.asking(account.core.rule):
                self.again.pop(lane, None)
                self.stuck.pop(lane, None)

    def _return(self, scheduler: Scheduler, account: Account) -> None:
        """Give back what was booked, if nobody waits for it any more, but for the stock."""
        if not any(lane.waiters for lane in scheduler.queue.lanes.asking(account.core.rule)):
            account.rate.give_back_all(but_stock=True)

    def _spare(self, scheduler: Scheduler, account: Account, now: int) -> bool:
        """Whether slots are in hand that no waiter is about to use."""
        slots = account.slots
        needed = sum(
            len(lane)
            for lane in scheduler.queue.lanes.asking(slots)
            if lane.waiters and self._goes(lane, lane.waiters[0].weights, now)
        )
        return needed < slots.free

    def _goes(self, lane: Lane, weights: tuple[int, ...], now: int) -> bool:
        """Whether a caller has all it needs, or will have with what is booked."""
        opens = self._opens_at(lane, weights, now)
        return opens <= now and not self._lacks(lane, weights, now)

    def collect(self, scheduler: Scheduler, batch: Batch) -> None:
        """Add to *batch* what is to be told, and what the waiters want, in their order."""
        now = scheduler.clock.present()
        batch.feeders[self] = None
        if self.again:
            self._forget()
        hand: dict[Rule, int] = {}
        curious, self.curious = self.curious, False
        for account in self.each:
            self._sweep(scheduler, account, now)
            due = account.is_due(self.beat) and self._lives(scheduler, account)
            if curious or account.has_news or due:
                self.curious = not batch.takes(account) or self.curious
            hand[account.core.rule] = account.rate.in_hand(now + batch.trip)
            hand[account.slots] = account.slots.free
        for lane in self.stuck:  # who does not say what it lacks would lose its turn in the store
            limits = [self.accounts.get(rule) for _, rule in (*lane.rates, *lane.slots)]
            if any(each and (each in batch.accounts or each.spares) for each in limits):
                self.again.pop(lane, None)
        self._collect_wants(scheduler, batch, hand)
        for account in self.each:
            spare = hand[account.slots]
            if spare and account.spares and not self.guest:
                account.slots.hand_back(spare)
            if account.has_news:
                batch.takes(account)

    def collect_for(
        self, scheduler: Scheduler, batch: Batch, lane: Lane | None, weights: tuple[int, ...]
    ) -> None:
        """Add to *batch* what a caller wants that will not wait; without a *lane*, all there is."""
        if lane is None:
            self.curious = True
            self.collect(scheduler, batch)
            return
        batch.feeders[self] = None
        batch.now = self.guest = True
        batch.grace = max(batch.grace, 2 * round(PATIENCE * SECOND))
        self.collect_one(scheduler, batch, lane, weights)

    def collect_one(
        self, scheduler: Scheduler, batch: Batch, lane: Lane, weights: tuple[int, ...]
    ) -> None:
        """Add to *batch* what one caller wants."""
        batch.feeders[self] = None
        now = scheduler.clock.present()
        for account in self.each:
            if account.rate.bookings:
                account.sweep(now)
        then = now + batch.trip
        hand = {rule: account.in_hand(rule, then) for rule, account in self.accounts.items()}
        parts = self._parts(lane, weights, hand, now)
        if parts and _all_go(batch, parts):
            batch.wants.append((self, Want(lane, parts, 1)))

    def _collect_wants(self, scheduler: Scheduler, batch: Batch, hand: dict[Rule, int]) -> None:
        number, slots_asked = 0, 0
        now = scheduler.clock.present()
        lanes = [
            lane
            for lane in scheduler.queue.busy
            if lane.fed and self._opens_at(lane, lane.waiters[0].weights, now) <= now
        ]
        key: Any = None
        asked = {lane for lane in lanes if self.again.get(lane, now) <= now}
        for lane in asked:
            self.again.pop(lane, None)
        for lane in lanes:
            fed = dict.fromkeys([rule for _, rule in lane.fed if rule in self.accounts])
            for account in dict.fromkeys([self.accounts[rule] for rule in fed]):
                batch.waiting[account] = batch.waiting.get(account, 0) + len(lane)
        most = self._most_slots(lanes)
        held_up: set[Lane] = set()  # none goes before the head, so slots in hand are not kept
        for waiter in _in_rank(lanes):
            lane, weights = waiter.lane, waiter.weights
            if waiter is lane.waiters[0] and self._lacks(lane, weights, now):
                held_up.add(lane)
            number += lane in asked  # or those who were refused would leave no room for others
            if number > MOST or slots_asked > most:
                break
            merged = self._parts(lane, weights, hand, now, held_up=lane in held_up)
            slots_asked += max([slots for _, _, slots in merged], default=0)
            if not merged or lane not in asked:
                continue
            if merged == key and batch.wants and batch.wants[-1][1].lane is lane:
                feeder, want = batch.wants[-1]
                batch.wants[-1] = feeder, want._replace(number=want.number + 1)
            elif _all_go(batch, merged):
                key = merged
                batch.wants.append((self, Want(lane, merged, 1)))
            else:
                break  # they go with the next request

    def _most_slots(self, lanes: list[Lane]) -> int:
        """As many slots may be had at once, if a single limit tells that.

        One caller more is asked for, as the answer to that tells when there are more to be had.
        """
        if len(lanes) > 1:
            return UNLIMITED
        limits = [
            self.accounts[slots].slots.limit
            for lane in lanes
            for _, slots in lane.slots
            if slots in self.accounts
        ]
        return min(limits, default=UNLIMITED) if len(limits) == 1 else UNLIMITED

    def _parts(
        self,
        lane: Lane,
        weights: tuple[int, ...],
        hand: dict[Rule, int],
        now: int,
        *,
        held_up: bool = False,
    ) -> tuple[Part, ...]:
        """What a caller lacks of what is in *hand*, from which the rest is taken.

        Slots in hand are not kept for a caller that is *held_up* by what it, or the head of its
        lane, lacks: they go back to the store.
        """
        accounts = self.accounts
        parts: list[Part] = []
        for n, rule in lane.rates:
            weight = weights[n]
            if weight != SKIP and rule in accounts:
                # All of it or nothing: what is in hand may expire before the rest can be used.
                if hand[rule] < weight or rule.ready_at(now, weight) > NEVER:
                    parts.append((accounts[rule], weight, 0))
                else:
                    hand[rule] -= weight
        for n, slots in lane.slots:
            weight = weights[n]
            if weight > 0 and slots in accounts and accounts[slots].bounded:
                have = 0 if held_up else min(hand[slots], weight)
                hand[slots] -= have
                if have < weight:
                    parts.append((accounts[slots], SKIP, weight - have))
        return _joined(parts)

    # -- what is told ---------------------------------------------------------------------

    def hear(
        self, batch: Batch, reply: Any, wants: list[tuple[Want, Any]], received: int, now: int
    ) -> None:
        """The store has answered: have what it booked, and what it told."""
        rules: list[Rule] = []
        ahead = now - received  # of the clock of the session
        expires = batch.sent + ahead + batch.grace
        if self.source is not ASK:
            self.stand_in(ASK, now)
        for account in self.each:
            place = batch.accounts.get(account)
            if place is not None:
                mark = account.hear(reply["limits"][place], reply["now"], now, expires)
                if mark in (LOST_LEASE, LOST_STATE):
                    account.lose(mark == LOST_STATE)
                elif mark == MISMATCH:
                    self._refuse(account)
                rules += [account.core.rule, account.slots]
        for want, answer in wants:
            self._book(now, want, answer, batch, expires)
        queue = self.scheduler().queue
        if queue.waiting:
            queue.touched(*rules)
            queue.due_at = queue.now

    def _book(self, now: int, want: Want, answer: Any, batch: Batch, expires: int) -> None:
        groups, when = answer[0] or (), answer[1]
        for delta, number, *receipts in groups:
            number = int(number)
            later = int(delta) * MICRO
            for (account, weight, slots), receipt in zip(want.parts, receipts, strict=True):
                if slots:
                    account.slots.grant(slots * number, now)
                    account.held += slots * number
                if weight >= 0:
                    booking = Booking(now + later, expires + later, weight * number, receipt)
                    account.book(booking)
        if batch.now:
            self.served = self.served or bool(groups)
            return
        if when != BEHIND:
            self.stuck.pop(want.lane, None)
        if when == 0:
            self.again.pop(want.lane, None)
        elif when == WOKEN:
            self.stuck[want.lane] = self._free(want.lane)
            self.again[want.lane] = now + min(FALLBACK, round(self.store.ttl * SECOND / 3))
        elif when != BEHIND:
            self.again[want.lane] = now + int(when) * MICRO
        elif want.lane not in self.again:
            self.again[want.lane] = now + FALLBACK

    def stand_in(self, source: Any, now: int) -> None:
        """Have permits come from *source* from now on: the store, what stands in, or an error."""
        self.source = source
        for account in self.each:
            account.stand_in(source, now)
        queue = self.scheduler().queue
        queue.touched(*self.accounts)
        queue.due_at = queue.now
        if isinstance(source, Exception):
            for lane in list(queue.busy):
                if lane.fed and not any(rule in self.accounts for _, rule in lane.rates):
                    queue.fail(lane, source)  # it has no rate that would raise it

    def _refuse(self, account: Account) -> None:
        """The store knows other parameters, and the throttle insists on its own."""
        error = ValueError(
            f"capacity, period, burst and concurrency of {account.name!r} must be those that the "
            "store knows with on_mismatch='raise', got "
            f"{account.core!r}"
        )
        self.stand_in(error, self.scheduler().clock.present())


def _all_go(batch: Batch, parts: tuple[Part, ...]) -> bool:
    """Whether the limits of a want all go with this request."""
    gone = [batch.takes(account) for account, *_ in parts]
    return all(gone)


def _in_rank(lanes: list[Lane]) -> Iterator[Any]:
    """The first waiters of each of *lanes*, in the order in which they go."""
    firsts = [islice(lane, MOST) for lane in lanes]
    if len(firsts) == 1:
        return firsts[0]
    return merge(*firsts, key=lambda waiter: (waiter.lane.priority, waiter.order))


def _joined(parts: list[Part]) -> tuple[Part, ...]:
    """The parts, rate and slots of a limit in one."""
    if len(parts) == 1:
        return tuple(parts)
    found: dict[Account, Part] = {}
    for account, weight, slots in parts:
        _, before, slots_before = found.get(account, (account, SKIP, 0))
        found[account] = account, max(before, weight), slots + slots_before
    return tuple(found.values())


# -- sessions -----------------------------------------------------------------------------


class Session:
    """What the throttles of one event loop, or of the threads, have in common at a store.

    Attributes:
        store, connection: the store, and the way to it; None before the first request.
        due: the feeders that have something to ask or to tell.
        timed: the feeders that will have, and when, by the monotonic clock.
        busy: the requests that are under way, or wait for their turn.
        vain: the number of requests in vain since the store is away.
        wakes: how often other sessions have woken this one.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.connection: Connection | None = None
        self.due: dict[Feeder, None] = {}
        self.timed: dict[Feeder, int] = {}
        self.busy = self.vain = self.wakes = 0
        self._seq = 0
        self._round_trip = 0
        self._ahead: int | None = None  # of the clock of the store, to the monotonic clock

    def connected(self) -> Connection:
        """The way to the store, which is made when it is needed first."""
        if self.connection is None:
            self.connection = self.store.connect(self.wake)
        return self.connection

    def wake(self) -> None:
        """Another session has changed something for this one. In any thread."""
        raise NotImplementedError

    def wake_feeders(self) -> None:
        """Whatever the store has said: it is to be asked again."""
        self.wakes += 1
        for feeder in list(sessions_of(self.store).feeders):
            if session_of(self.store, feeder.scheduler()) is self:
                feeder.wake()
                self.due[feeder.here()] = None

    def look(self, feeder: Feeder, scheduler: Scheduler) -> None:
        """An event of *scheduler* is over."""
        raise NotImplementedError

    def soon(self) -> None:
        """See soon what there is to be asked."""
        raise NotImplementedError

    def serves(self, scheduler: Scheduler) -> bool:
        """Whether this is plainly still the session for the callers of *scheduler*."""
        return False

    def plan(self, feeder: Feeder, at: int, now: int) -> None:
        """*feeder* is due *at* an instant of its scheduler, where it is *now*."""
        if at <= now:
            self.due[feeder] = None
        elif at < NEVER:
            self.timed[feeder] = monotonic() + at - now

    def doubt(self) -> None:
        """The store was away: those that are due ask how the limits stand."""
        for feeder in self.due:
            feeder.here().curious = True

    def close(self) -> None:
        """Let the connection go."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    # -- a request ------------------------------------------------------------------------

    def collect(self) -> Batch:
        """What the feeders that are due have to ask and to tell."""
        self.ripen()
        due, self.due = self.due, {}
        batch = self.batch()
        for feeder in dict.fromkeys([feeder.here() for feeder in due]):
            scheduler = feeder.scheduler()
            scheduler.exclusively(partial(feeder.collect, scheduler, batch))
        return batch

    def ripen(self) -> None:
        """The feeders whose time has come are due."""
        now = monotonic()
        for feeder, at in list(self.timed.items()):
            if at <= now:
                del self.timed[feeder]
                self.due[feeder] = None

    def batch(self) -> Batch:
        """A request that asks nothing yet."""
        grace = max(round(self.store.grace * SECOND), 2 * self._round_trip)
        return Batch(monotonic(), grace, self._round_trip, self.wakes)

    def requests(self, batch: Batch) -> Iterator[tuple[list[str], dict[str, Any]]]:
        """What the store is to be asked: first the leave of former sessions, and *batch* last."""
        address = self.connected().address
        for account in batch.accounts:
            account.connect(address)
            for former in account.former:
                yield [account.name], self._request(batch, [account.farewell(former)], [])
            account.former = []
        if not batch.accounts:
            return
        ahead = wall() - batch.sent if self._ahead is None else self._ahead
        entries = [
            account.entry(
                batch.sent,
                grace=batch.grace // MICRO,
                wall=batch.sent + ahead,
                waiting=batch.waiting.get(account, 0),
            )
            for account in batch.accounts
        ]
        wants = [
            [
                want.number,
                [
                    [batch.accounts[account], wanted(weight) if weight >= 0 else SKIP, slots]
                    for account, weight, slots in want.parts
                ],
            ]
            for _, want in batch.wants
        ]
        yield [account.name for account in batch.accounts], self._request(batch, entries, wants)

    def _request(self, batch: Batch, entries: list[dict[str, Any]], wants: Any) -> dict[str, Any]:
        self._seq = max(self._seq + 1, batch.sent // MICRO)
        ttl = round(self.store.ttl * 1e6)
        for entry in entries:
            entry["seq"] = self._seq
            entry["ttl"] = ttl
        return {
            "horizon": -1 if batch.now else round(self.store.horizon * 1e6),
            "grace": batch.grace // MICRO,
            "limits": entries,
            "wants": wants,
        }

    def deliver(self, batch: Batch, reply: Any) -> None:
        """Give what the store has answered to those who asked."""
        received = self._heard(batch, reply)
        for feeder, wants in batch.answers(reply).items():
            hear = partial(feeder.hear, batch, reply, wants, received)
            feeder.scheduler().do(hear, surely=True)
        if batch.wakes != self.wakes:  # the reply may be older than what woke the session
            self.wake_feeders()

    def _heard(self, batch: Batch, reply: Any) -> int:
        """The store has answered; when that was."""
        received = monotonic()
        self._round_trip = (7 * self._round_trip + received - batch.sent) // 8
        self._ahead = int(reply["now"]) * MICRO - received
        self.vain = 0
        return received

    def failed(self, batch: Batch, error: Exception) -> None:
        """The store did not answer: act as it was told to for that case.

        What is not a matter of being away is a mistake, which those are told who wait.
        """
        self.vain += 1
        batch.untold()
        source: Any = ASK
        if not isinstance(error, StoreUnavailable) or self.store.on_error == "raise":
            source = error
        elif self.store.on_error != "wait":
            source = ITSELF if self.store.on_error == "local" else NOBODY
        for feeder in dict.fromkeys([feeder.here() for feeder in batch.feeders]):
            self.due[feeder] = None
            feeder.scheduler().do(partial(feeder.stand_in, source), surely=True)

    @property
    def back_off(self) -> int:
        """Nanoseconds until a store that is away is asked again."""
        first, last = BACK_OFF
        return min(last, first << min(self.vain - 1, 10))

    def call(self, batch: Batch, patience: float) -> Any:
        """What the store answers to *batch*, asked in this thread; None if that asks nothing."""
        reply = None
        for names, request in self.requests(batch):
            reply = self.connected().call(names, request, patience)
        return reply

    def exchange(self, batch: Batch, patience: float) -> bool:
        """Make a request in this thread; False if others were at the store all the time."""
        try:
            reply = self.call(batch, patience)
        except Busy:
            batch.untold()
            return False
        if batch.accounts:
            self.deliver(batch, reply)
        return True

    def is_quick(self) -> bool:
        """Whether it takes microseconds to ask the store."""
        try:
            return self.connected().quick
        except StoreUnavailable:  # which is found again, and handled, when it is asked
            return False

    def is_ready(self) -> bool:
        """Whether the store may be asked at once, in this thread."""
        return not (self.busy or self.vain) and self.is_quick()

    def prepare(
        self,
        feeder: Feeder,
        scheduler: Scheduler,
        lane: Lane,
        weights: tuple[int, ...],
        now: int,
    ) -> None:
        """Ask at once for what a caller wants that just comes, inside the door.

        What is not to be had now is booked, and waited for.
        """
        batch = self.batch()
        if not self.claim(0.0):
            return
        try:
            feeder.collect_one(scheduler, batch, lane, weights)
            reply = self.call(batch, 0.0)
            if batch.accounts:
                wants = batch.answers(reply)[feeder]
                feeder.hear(batch, reply, wants, self._heard(batch, reply), now)
        except Exception:  # it is found again, and handled, when the caller waits
            batch.untold()
            feeder.curious = True
        finally:
            self.resign()

    def claim(self, patience: float) -> bool:
        """Begin a request, unless one is under way for *patience* seconds."""
        if self.busy:
            return False
        self.busy = 1
        return True

    def resign(self) -> None:
        """The request is over."""
        self.busy = 0

    def fetch(
        self, feeder: Feeder, scheduler: Scheduler, lane: Lane | None, weights: tuple[int, ...]
    ) -> None:
        """Ask the store, in this thread, for what a caller wants that will not wait.

        Only where that takes microseconds, or where no event loop runs.
        """
        batch = self.batch()
        if self.vain or not self.claim(PATIENCE):
            return
        try:
            if self.connected().quick or asyncio._get_running_loop() is None:
                take = partial(feeder.collect_for, scheduler, batch, lane, weights)
                scheduler.exclusively(take)
                self.exchange(batch, PATIENCE)
        except StoreUnavailable:
            batch.untold()
            if self.store.on_error == "raise":
                raise
        finally:
            self.resign()


class LoopSession(Session):
    """The session of the throttles of an event loop.

    Attributes:
        asked: the task that has asked a quick connection in this turn of the loop: the wants of
            other tasks go together at its end.
        restless: feeders of schedulers in which something has happened in this turn.
    """

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(store)
        self.asked: asyncio.Task[Any] | None = None
        self.restless: dict[Feeder, None] = {}
        self._loop = weakref.ref(loop)
        self._link = asyncio.Lock()
        self._epoch = fast.EPOCH
        self._turn: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._later: asyncio.TimerHandle | None = None
        self._rings_at = NEVER
        self._task: asyncio.Task[None] | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop, unless that was closed."""
        loop = self._loop()
        return None if loop is None or loop.is_closed() else loop

    def wake(self) -> None:
        loop = self.loop
        if loop is not None:
            call_in(loop, self._woken)

    def _woken(self) -> None:
        self.wake_feeders()
        self.soon()

    def look(self, feeder: Feeder, scheduler: Scheduler) -> None:
        """An event of *scheduler* is over: look at the end of this turn of the loop."""
        self.restless[feeder] = None
        if self._turn is None:
            self.soon()

    def serves(self, scheduler: Any) -> bool:
        """Whether this is plainly still the session for the callers of *scheduler*."""
        loop = self._loop()
        return (
            loop is not None
            and scheduler.loop is loop
            and not loop.is_closed()
            and self._epoch == fast.EPOCH
        )

    def is_ready(self) -> bool:
        return self.asked in (None, asyncio.current_task()) and super().is_ready()

    def prepare(
        self,
        feeder: Feeder,
        scheduler: Scheduler,
        lane: Lane,
        weights: tuple[int, ...],
        now: int,
    ) -> None:
        if self.asked is None:
            self.asked = asyncio.current_task()
            self.soon()
        super().prepare(feeder, scheduler, lane, weights, now)

    def resign(self) -> None:
        super().resign()
        if self.due:
            self.soon()

    def arm(self) -> None:
        """Have the loop call at the instant at which a feeder is due next."""
        at, loop = min(self.timed.values(), default=NEVER), self.loop
        if at != self._rings_at and loop is not None:
            if self._timer is not None:
                self._timer.cancel()
            self._rings_at = at
            self._timer = None
            if at < NEVER:
                delay = max(0, at - monotonic()) / SECOND
                self._timer = loop.call_later(delay, surely(self._ring), None)

    def _ring(self) -> None:
        self._timer, self._rings_at = None, NEVER
        self.ripen()
        if not self.vain:
            self._go()
        self.arm()

    def soon(self) -> None:
        """Look at the end of this turn of the loop what there is to be asked."""
        loop = self.loop
        if self._turn is not None or loop is None:
            return
        if asyncio._get_running_loop() is loop:
            self._turn = loop.call_soon(surely(self._end_turn), None)
        else:  # a finalizer has come in, in another thread
            call_in(loop, self.soon)

    def _end_turn(self) -> None:
        """This turn of the loop is over."""
        self._turn = self.asked = None
        restless, self.restless = self.restless, {}
        try:
            for feeder in dict.fromkeys([feeder.here() for feeder in restless]):
                scheduler = feeder.scheduler()
                now = scheduler.clock.present()
                self.plan(feeder, now if self.vain else feeder.due(scheduler, now), now)
        except BaseException:  # interrupted, and called again
            self.restless.update(restless)
            raise
        self._go()
        self.arm()

    def _go(self) -> None:
        """Ask what there is to be asked."""
        if self.busy or self.vain or not self.due:
            return
        if self.is_quick():
            self._go_now()
        else:
            self._start(None)

    def _go_now(self) -> None:
        """Ask at once: it takes microseconds."""
        batch, done = self.batch(), True
        due = dict(self.due)
        self.busy = 1
        try:
            batch = self.collect()
            done = self.exchange(batch, 0.0) if batch.accounts else True
        except Exception as error:
            self._fail(batch, error)
        except BaseException:  # interrupted, and called again
            batch.untold()
            self.due.update(due)
            raise
        finally:
            self.busy = 0
        if not done:
            self._start(batch)
        else:
            self._look_again(batch)

    def _start(self, batch: Batch | None) -> None:
        """Ask in a task."""
        loop = self.loop
        if loop is not None:
            self.busy += 1
            self._task = loop.create_task(self._send(batch))

    async def _send(self, batch: Batch | None) -> None:
        """Make requests until there is nothing to ask."""
        try:
            while batch is not None or self.due:
                async with self._link:
                    batch = self.collect() if batch is None else batch
                    try:
                        reply = await self._ask(batch)
                        if batch.accounts:
                            self.deliver(batch, reply)
                    except Exception as error:
                        self._fail(batch, error)
                        return
                done, batch = batch, None
                self._look_again(done)
        except BaseException:  # somebody has cancelled all tasks, perhaps as the loop is to end
            if batch is not None:
                batch.untold()
                self.timed.update(dict.fromkeys(batch.feeders, monotonic() + FALLBACK))
                self.arm()
            raise
        finally:
            self.busy -= 1
            if self.due and not self.vain:
                self.soon()

    async def _ask(self, batch: Batch) -> Any:
        """What the store answers to *batch*; None if that asks nothing."""
        reply = None
        for names, request in self.requests(batch):
            reply = await self.connected().send(names, request)
        return reply

    def _look_again(self, batch: Batch) -> None:
        """A request was answered: go on with what there is to ask next."""
        if batch.feeders and not self.vain:
            self.restless.update(batch.feeders)
            self.soon()

    def _fail(self, batch: Batch, error: Exception) -> None:
        self.failed(batch, error)
        loop = self.loop
        if loop is not None:
            if self._later is not None:
                self._later.cancel()
            self._later = loop.call_later(self.back_off / SECOND, surely(self._retry), None)

    def _retry(self) -> None:
        """Ask the store that was away."""
        self.doubt()
        self._start(None)  # after what is asked for a caller that does not wait, if it is

    async def fetch_later(
        self, feeder: Feeder, scheduler: Scheduler, lane: Lane | None, weights: tuple[int, ...]
    ) -> None:
        """Ask for what a caller wants that will not wait, or only how the limits stand."""
        self.busy += 1
        batch = self.batch()
        try:
            async with self._link:
                batch = self.batch()
                feeder.collect_for(scheduler, batch, lane, weights)
                reply = await self._ask(batch)
                if batch.accounts:  # or all that the caller wants is in hand
                    self.deliver(batch, reply)
        except BaseException as error:  # what the store has granted by now goes back to it
            batch.untold()
            feeder.guest = False
            self._look_again(batch)
            if (
                not isinstance(error, StoreUnavailable)
                or lane is None
                or self.store.on_error == "raise"
            ):
                raise
        finally:
            self.busy -= 1
            if self.due:
                self.soon()


class ThreadSession(Session):
    """The session of the throttles for threads: a thread asks on their behalf."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._news = threading.Condition()
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        self.wake_feeders()
        self.soon()

    def soon(self) -> None:
        with self._news:
            if self._thread is None:
                run = threading.Thread(target=self._run, name="async_throttle", daemon=True)
                self._thread = run
                run.start()
            self._news.notify()

    def look(self, feeder: Feeder, scheduler: Scheduler) -> None:
        now = scheduler.clock.present()
        at = feeder.due(scheduler, now)
        self.plan(feeder, at, now)
        if at <= now:
            if self.busy or self.vain or not self._ask_here(feeder, scheduler):
                self.soon()
        elif at < NEVER:
            self.soon()

    def claim(self, patience: float) -> bool:
        return self._turn.acquire(timeout=patience)

    def resign(self) -> None:
        self._turn.release()

    def is_ready(self) -> bool:
        return not self._turn.locked() and super().is_ready()

    def _ask_here(self, feeder: Feeder, scheduler: Scheduler) -> bool:
        """Ask a quick connection in the thread of the caller, on behalf of this feeder alone."""
        batch = self.batch()
        if not self.claim(0.0):
            return False
        try:
            if not self.connected().quick:
                return False
            feeder.collect(scheduler, batch)
            if self.exchange(batch, 0.0):
                self.due.pop(feeder, None)
                return True
        except Exception:  # the thread finds it again, and handles it
            batch.untold()
            feeder.curious = True
        finally:
            self.resign()
        return False

    def _run(self) -> None:
        while True:
            with self._news:
                wait = self._wait()
                if wait > 0:
                    self._news.wait(min(wait, 3600))
                    continue
            batch = Batch(0, 0, 0)
            self._turn.acquire()
            try:
                batch = self.collect()
                while not self.exchange(batch, 1.0):
                    pass
            except Exception as error:
                self.failed(batch, error)
            finally:
                self._turn.release()
            if self.vain:
                self.doubt()
                time.sleep(self.back_off / SECOND)
            else:
                self._plan_again(batch)

    def _plan_again(self, batch: Batch) -> None:
        """See when the feeders of a request that was answered are due next."""
        for feeder in batch.feeders:
            feeder = feeder.here()
            scheduler = feeder.scheduler()
            now = scheduler.clock.present()
            at = scheduler.exclusively(partial(feeder.due, scheduler, now))
            self.plan(feeder, at, now)

    def _wait(self) -> float:
        """Seconds until there is something to ask."""
        if self.due:
            return 0
        at = min(list(self.timed.values()), default=NEVER)
        return (min(at, 1 << 62) - monotonic()) / SECOND


class Sessions:
    """The sessions that this process has with a store."""

    def __init__(self) -> None:
        self.epoch = fast.EPOCH
        self.threads: ThreadSession | None = None
        self.loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopSession] = (
            weakref.WeakKeyDictionary()
        )
        self.feeders: weakref.WeakSet[Feeder] = weakref.WeakSet()


_sessions: weakref.WeakKeyDictionary[Store, Sessions] = weakref.WeakKeyDictionary()


def sessions_of(store: Store) -> Sessions:
    """The sessions of this process with *store*; a forked child has none of its parent's."""
    found = _sessions.get(store)
    if found is None or found.epoch != fast.EPOCH:
        former, found = found, Sessions()
        _sessions[store] = found
        if former is not None:
            found.feeders = former.feeders
            _forget(former)
    return found


def _forget(sessions: Sessions) -> None:
    """Close the inherited connections, without a word to the store."""
    for session in [sessions.threads, *sessions.loops.values()]:
        if session is not None:
            session.close()


def session_of(store: Store, scheduler: Scheduler) -> Session:
    """The session for the callers of *scheduler*: of its event loop, or of the threads."""
    sessions = sessions_of(store)
    if isinstance(scheduler, LoopScheduler):
        loop = scheduler.loop
        if loop is None or loop.is_closed():
            loop = asyncio._get_running_loop()
        if loop is not None:
            session = sessions.loops.get(loop)
            if session is None:
                session = sessions.loops[loop] = LoopSession(store, loop)
            return session
    if sessions.threads is None:
        sessions.threads = ThreadSession(store)
    return sessions.threads


def dock(core: Core, store: Store) -> None:
    """Have the limits of *core*, which was just made, be those of *store* by the core's name."""
    core.account = account = Account(core, store)
    core.scheduler.feeder = feeder = Feeder(store)
    feeder.add(account)
    sessions_of(store).feeders.add(feeder)
