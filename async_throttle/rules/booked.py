"""Booked: a limit whose permits come from a store that processes share.

The store books for this process what the waiters here want: amounts, and the instants from which on
they may be used. The rule says UNKNOWN where the bookings do not cover a weight, and the session
with the store asks for more then. So the queue stays the only one that decides who of this process
goes next. A booking belongs to the process and not to a waiter: where one is cancelled, the next
takes it.

A booking is used by its expiry, or given back: see `stores/_state.py`. What is to be told to the
store (given back, charged, lowered) is noted in `operations`.

Readings and forecasts go by what the store said last, projected to now by the rule that it is: see
`Booked.rule`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Self

from async_throttle._units import NEVER, UNKNOWN
from async_throttle.rules import Rule
from async_throttle.rules.ends import CountedToEnd
from async_throttle.rules.slots import UNLIMITED, Slots

__all__ = [
    "ASK",
    "HAND_OVERS",
    "ITSELF",
    "NOBODY",
    "Booked",
    "BookedFlights",
    "BookedSlots",
    "BookedToEnd",
    "Booking",
]

ASK: Final = "ask"
"""Permits come from the store."""
ITSELF: Final = "itself"
"""The store is away: the rule here lets go what is this process's share."""
NOBODY: Final = "nobody"
"""The store is away: nothing is limited."""


HAND_OVERS: Final = 8
"""So often a slot goes from caller to caller of this process, once it was granted."""

SPELL: Final = 80_000_000
"""Where callers come and go faster, a slot is handed over as often as they do in so many
nanoseconds: to ask for each few of them costs more than those who wait elsewhere gain by it."""

MOST_HAND_OVERS: Final = 100
"""No slot is handed over more often."""

ENOUGH: Final = 64
"""So many callers tell how long callers hold a slot."""


class Booking(NamedTuple):
    """What may be used, and when.

    Attributes:
        usable: instant from which on.
        expires: the last instant.
        amount: nanotokens.
        receipt: of the store, to give it back.
        stock: it is for callers that are to come, and kept until it expires.
    """

    usable: int
    expires: int
    amount: int
    receipt: float
    stock: bool = False


class Booked(Rule):
    """A rate whose permits are booked in a store.

    Attributes:
        rule: what the rate is, with the level that the store said last. Readings and forecasts ask
            it.
        fresh: the same with nothing taken.
        bookings: what may be used, ascending by instant.
        operations: what the store is to be told, in order.
        calls, taken: how many calls have taken what was booked since the last request, and how
            much.
        drawn, drawn_at: what was taken of the stock, of which *rule* does not know yet, and when
            for the last time.
        source: ASK, or what stands in for the store while that is away; or an error.
    """

    __slots__ = (
        "bookings",
        "calls",
        "drawn",
        "drawn_at",
        "fresh",
        "operations",
        "rule",
        "source",
        "taken",
    )

    booked = True

    rule: Rule
    fresh: Rule
    bookings: list[Booking]
    operations: list[tuple[Any, ...]]
    calls: int
    taken: int
    drawn: int
    drawn_at: int
    source: Any

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.fresh = rule.fork()
        self.parameters = rule.parameters
        self.bookings = []
        self.operations = []
        self.calls = self.taken = self.drawn = self.drawn_at = 0
        self.source = ASK

    @property
    def kind(self) -> type[Rule]:
        """The class of the rule that the rate is."""
        return type(self.rule)

    @property
    def backdates(self) -> bool:  # type: ignore[override]
        """As the rule does that the rate is."""
        return self.rule.backdates

    def configure(
        self, now: int, capacity: int | float, period: int, burst: int | float | None
    ) -> None:
        """Have other parameters, here and in the store."""
        self.adopt(now, capacity, period, burst)
        self.operations += [("set",)]

    def adopt(
        self, now: int, capacity: int | float, period: int, burst: int | float | None
    ) -> None:
        """Have the parameters that the store has."""
        self.settled().configure(now, capacity, period, burst)
        self.fresh.configure(now, capacity, period, burst)
        self.parameters = self.rule.parameters

    def ready_at(self, now: int, weight: int) -> int:
        if self.source is not ASK:
            if isinstance(self.source, Exception):
                raise self.source.with_traceback(None)  # which would grow with each caller
            if self.source is not ITSELF:
                return now
            rule = self.rule  # who weighs more than the share of this process waits for the store
            return rule.ready_at(now, weight) if weight <= rule.burst else UNKNOWN
        bookings = self.bookings
        if bookings:  # the usual case
            usable, expires, amount, _, _ = bookings[0]
            if usable <= now <= expires and amount >= weight:
                return now
        for n, booking in enumerate(bookings):
            at = booking.usable if booking.usable > now else now
            if booking.expires >= at:
                total = booking.amount
                if total < weight and n:
                    total = sum([b.amount for b in bookings[: n + 1] if b.expires >= at])
                if total >= weight:
                    return at
        return UNKNOWN

    def take(self, now: int, weight: int) -> Any:
        if self.source is not ASK:
            return self.rule.take(now, weight) if self.source is ITSELF else None
        bookings = self.bookings
        if bookings:
            first = bookings[0]
            usable, expires, amount, receipt, stock = first
            if usable <= now <= expires and amount > weight > 0:
                taken = ((receipt, weight, expires),)
                rest = [Booking(usable, expires, amount - weight, receipt, stock)]
                bookings[:1] = rest
                self.calls += 1
                self.taken += weight
                if stock:
                    self.drawn += weight
                    self.drawn_at = now
                return taken
        parts: list[tuple[float, int, int]] = []
        kept: list[Booking] = []
        left, drawn = weight, 0
        for booking in bookings:
            usable, expires, amount, receipt, stock = booking
            if left > 0 and usable <= now <= expires:
                part = min(left, amount)
                parts.append((receipt, part, expires))
                left -= part
                drawn += part if stock else 0
                if amount == part:
                    continue
                booking = Booking(usable, expires, amount - part, receipt, stock)
            kept.append(booking)
        if left > 0:  # it is taken anyway: a debt
            self.operations += [("charge", left)]
        self.bookings = kept
        self.calls += 1
        self.taken += weight - left
        self.drawn += drawn
        self.drawn_at = now
        return tuple(parts)

    def charge(self, now: int, weight: int) -> None:
        self.settled().charge(now, weight)
        if self.source is ASK:
            self.operations += [("charge", weight)]

    def refund(self, now: int, receipt: Any, weight: int) -> None:
        """Have *weight* back in hand, or tell the store if the booking has expired."""
        if not isinstance(receipt, tuple):
            if self.source is ITSELF:
                self.rule.refund(now, receipt, weight)
            return
        again: list[Booking] = []
        operations: list[tuple[Any, ...]] = []
        for number, amount, expires in reversed(receipt):
            part = min(weight, amount)
            weight -= part
            if part > 0 and expires >= now:
                again.append(Booking(now, expires, part, number))
            elif part > 0:
                operations.append(("back", number, part))
        bookings = again + self.bookings if again else self.bookings
        self.operations += operations
        self.bookings = bookings

    def lower(self, now: int, level: int, said: int, until: int | None) -> None:
        self.settled().lower(now, level, said, until)
        self.operations += [("lower", level, said, None if until is None else until - now)]

    def empty(self, now: int) -> None:
        """Leave nothing. The store does so itself, where a pause ends that empties."""
        self.settled().empty(now)

    def sweep(self, now: int) -> None:
        """Give back the bookings that have expired."""
        expired = [booking for booking in self.bookings if booking.expires < now]
        if expired:
            operations = [("back", b.receipt, b.amount) for b in expired if b.amount]
            kept = [booking for booking in self.bookings if booking.expires >= now]
            self.operations += operations
            self.bookings = kept

    def give_back_all(self, *, but_stock: bool = False) -> None:
        """Give back all bookings, or those that are not of the stock."""
        kept = [booking for booking in self.bookings if but_stock and booking.stock]
        if len(kept) < len(self.bookings):
            back = [b for b in self.bookings if b.amount and not (but_stock and b.stock)]
            operations = [("back", b.receipt, b.amount) for b in back]
            self.operations += operations
            self.bookings = kept

    def told(self, now: int, level: int) -> None:
        """The store has said what is left, besides the stock."""
        level += sum([b.amount for b in self.bookings if b.stock and b.expires >= now])
        rule = self.fresh.fork()
        rest = rule.level(now)
        spent = round(rest * 10**9) - level if rest < float("inf") else 0
        if spent > 0:
            rule.charge(now, spent)
        self.rule = rule
        self.drawn = 0

    @property
    def stocked_until(self) -> int:
        """The first instant at which a part of the stock has expired; NEVER without."""
        return min([b.expires + 1 for b in self.bookings if b.stock], default=NEVER)

    def settled(self) -> Rule:
        """The rule, which knows by now what was taken of the stock."""
        if self.drawn:
            drawn, self.drawn = self.drawn, 0
            self.rule.charge(self.drawn_at, drawn)
        return self.rule

    def book(self, booking: Booking) -> None:
        """Have one more booking. The stock is taken last, as the rest goes back at once."""
        bookings = self.bookings
        n = len(bookings)
        while n and (bookings[n - 1].usable, bookings[n - 1].stock) > (
            booking.usable,
            booking.stock,
        ):
            n -= 1
        bookings[n:n] = [booking]

    def in_hand(self, now: int) -> int:
        """Nanotokens of the bookings that have not expired."""
        return sum([booking.amount for booking in self.bookings if booking.expires >= now])

    def level(self, now: int) -> float:
        return (self.fork() if self.drawn else self.rule).level(now)

    def guarantee(self, window: int) -> int | float:
        return self.rule.guarantee(window)

    def fresh_at(self, now: int) -> int:
        """A limit in a store may be forgotten here as soon as there is nothing to be told."""
        if self.operations or self.source is not ASK:
            return NEVER
        expiries: Sequence[int] = [booking.expires + 1 for booking in self.bookings]
        return max([now, *expiries])

    def shift(self, by: int) -> None:
        self.settled().shift(by)
        self.fresh.shift(by)
        self.bookings = [
            booking._replace(usable=booking.usable + by, expires=booking.expires + by)
            for booking in self.bookings
        ]

    def fork(self) -> Self:
        """The rule that the rate is, with the level that the store said: to look ahead with."""
        twin = self.rule.fork()
        if self.drawn:
            twin.charge(self.drawn_at, self.drawn)
        return twin  # type: ignore[return-value]


class BookedFlights(Booked):
    """A rate of which calls are taken at their ends: what was booked is held in flight till then.

    Attributes:
        base: nanotokens of the bookings that calls hold.
    """

    __slots__ = ("base",)

    base: int

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self.base = 0

    def take(self, now: int, weight: int) -> Any:
        """A call has ended that counts *weight*. What is given back of it later, is lost."""
        if self.source is not ASK:
            self.rule.take(now, weight)
        self.operations += [("end", weight)]

    def use(self, used: int, now: int) -> None:
        """Calls hold so much by now: what is more than before was booked."""
        kept, more = self.bookings, used - self.base
        if more > 0:
            kept = []
            for booking in self.bookings:
                part = min(more, booking.amount) if booking.usable <= now else 0
                more -= part
                if booking.amount > part:
                    kept.append(booking._replace(amount=booking.amount - part))
        self.base = used
        self.bookings = kept

    def sweep(self, now: int) -> None:
        """Hold no more what has expired."""
        self.bookings = [booking for booking in self.bookings if booking.expires >= now]

    def give_back_all(self, *, but_stock: bool = False) -> None:
        """Hold no bookings any more."""
        self.bookings = []


class BookedToEnd(CountedToEnd):
    """The same as `CountedToEnd`, of a rate whose permits are booked in a store."""

    __slots__ = ()

    booked = True

    rule: BookedFlights  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def kind(self) -> type[Rule]:
        """The class of the rule that the rate is."""
        return self.rule.kind

    @property
    def used(self) -> int:
        """Nanotokens that calls hold, those that linger too."""
        return self.in_flight.used + self.lingering

    def ready_at(self, now: int, weight: int) -> int:
        rule = self.rule
        if rule.source is not ASK:
            return super().ready_at(now, weight)
        return rule.ready_at(now, weight + max(0, self.used - rule.base))

    def lower(self, now: int, level: int, said: int, until: int | None) -> None:
        """The store knows what is in flight everywhere, and adds it."""
        self.elapse(now)
        self.rule.lower(now, level, said, until)

    def fresh_at(self, now: int) -> int:
        return NEVER if self.used else self.rule.fresh_at(now)

    def fork(self) -> CountedToEnd:  # type: ignore[override]
        """The rule that the rate is, with the level that the store said: to look ahead with."""
        twin = super().fork()
        twin.__class__ = CountedToEnd  # type: ignore[assignment]
        return twin


class BookedSlots(Slots):
    """Slots that a store has granted to this process.

    `free` are those in hand that nobody uses; a caller that lacks one waits for the store.

    Attributes:
        hand: the slots in hand, used or not.
        taken, held: how often a slot was taken lately, and nanoseconds for which it was held.
        seen, was: the instant up to which that is known, and the slots held then.
        others: the slots that other processes have in hand, as the store said last.
        turns: how often slots in hand may still be taken, before they have to be asked for anew:
            callers of other processes want them too. A slot that comes back then goes to the store.
        unused: as `free`, without what is to be done where that is set.
    """

    __slots__ = ("hand", "held", "others", "seen", "taken", "turns", "unused", "was")

    booked = True

    hand: int
    held: int
    others: int
    seen: int
    taken: int
    turns: int
    unused: int
    was: int

    def __init__(self, limit: int) -> None:
        self.inherited = 0
        self.limit = self.burst = limit
        self.turns = self.others = self.taken = self.held = self.seen = self.was = 0
        self.hand = self.unused = limit if limit == UNLIMITED else 0

    @property
    def free(self) -> int:
        """Slots in hand that nobody uses."""
        return self.unused

    @free.setter
    def free(self, value: int) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        more = value - self.unused
        if self.limit == UNLIMITED:
            self.unused = value
        elif more < 0:
            self.turns, self.taken, self.unused = self.turns + more, self.taken - more, value
        elif self.turns > 0:
            self.unused = value
        else:
            self.hand -= more

    @property
    def used(self) -> int:
        """Slots that callers of this process hold."""
        return self.hand - self.unused

    @property
    def left(self) -> int:
        """Slots that nobody holds anywhere, as far as is known."""
        return self.limit - self.used - self.others

    def grant(self, slots: int, now: int) -> None:
        """The store has granted *slots*."""
        turns = self.turns + slots * (1 + self.hand_overs)
        self.turns, self.unused, self.hand = turns, self.unused + slots, self.hand + slots

    @property
    def hand_overs(self) -> int:
        """How often a slot may be handed over: by how long callers hold one."""
        pace = self.taken * SPELL // self.held if self.held else 0
        return max(HAND_OVERS, min(pace, MOST_HAND_OVERS))

    def elapse(self, now: int) -> None:
        """See for how long callers hold slots."""
        self.held += (now - self.seen) * self.was
        self.seen, self.was = now, self.hand - self.unused
        if self.taken > ENOUGH:
            self.taken, self.held = self.taken // 2, self.held // 2

    def hand_back(self, slots: int) -> None:
        """*slots* that nobody uses go back to the store."""
        self.unused, self.hand = self.unused - slots, self.hand - slots
        self.turns = min(self.turns, self.hand * (1 + self.hand_overs))

    def resize(self, limit: int, burst: int | None = None) -> None:
        """Have *limit* slots from now on, in the store; those in hand stay, as far as they fit."""
        used = self.hand - self.unused
        if limit == UNLIMITED:
            hand = limit
        elif self.limit == UNLIMITED:
            hand = used
        else:
            hand = min(self.hand, max(used, limit))
        burst = limit if burst is None else burst
        self.limit = limit
        self.burst = burst  # pyright: ignore[reportIncompatibleMethodOverride]
        self.unused, self.hand = hand - used, hand

    def stand_in(self, hand: int) -> None:
        """The store is away: have so many slots in hand; or it is back: those that are used."""
        used = self.used
        if self.limit != UNLIMITED:
            hand = max(used, hand)
            self.unused, self.hand, self.turns = hand - used, hand, 1 << 62 if hand > used else 0

    def begin_anew(self) -> None:
        """This is another process than before: it holds nothing."""
        self.turns = self.was = 0
        self.hand = self.unused = self.limit if self.limit == UNLIMITED else 0

    def fork(self) -> Slots:  # type: ignore[override]
        """As if all slots were here that are not used anywhere: to look ahead with."""
        twin = Slots(self.limit)
        twin.burst = self.burst
        twin.free = self.left
        return twin
