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

from collections.abc import Callable, Sequence
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


class Booking(NamedTuple):
    """What may be used, and when.

    Attributes:
        usable: instant from which on.
        expires: the last instant.
        amount: nanotokens.
        receipt: of the store, to give it back.
    """

    usable: int
    expires: int
    amount: int
    receipt: float


class Booked(Rule):
    """A rate whose permits are booked in a store.

    Attributes:
        rule: what the rate is, with the level that the store said last. Readings and forecasts ask
            it.
        fresh: the same with nothing taken.
        bookings: what may be used, ascending by instant.
        operations: what the store is to be told, in order.
        source: ASK, or what stands in for the store while that is away; or an error.
    """

    __slots__ = ("bookings", "fresh", "operations", "rule", "source")

    rule: Rule
    fresh: Rule
    bookings: list[Booking]
    operations: list[tuple[Any, ...]]
    source: Any

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.fresh = rule.fork()
        self.parameters = rule.parameters
        self.bookings = []
        self.operations = []
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
        self.rule.configure(now, capacity, period, burst)
        self.fresh.configure(now, capacity, period, burst)
        self.parameters = self.rule.parameters

    def ready_at(self, now: int, weight: int) -> int:
        if self.source is not ASK:
            if isinstance(self.source, Exception):
                raise self.source
            return self.rule.ready_at(now, weight) if self.source is ITSELF else now
        bookings = self.bookings
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
            usable, expires, amount, receipt = first
            if usable <= now <= expires and amount > weight > 0:
                taken = ((receipt, weight, expires),)
                rest = [Booking(usable, expires, amount - weight, receipt)]
                bookings[:1] = rest
                return taken
        parts: list[tuple[float, int, int]] = []
        kept: list[Booking] = []
        left = weight
        for booking in bookings:
            usable, expires, amount, receipt = booking
            if left > 0 and usable <= now <= expires:
                part = min(left, amount)
                parts.append((receipt, part, expires))
                left -= part
                if amount == part:
                    continue
                booking = Booking(usable, expires, amount - part, receipt)
            kept.append(booking)
        if left > 0:  # it is taken anyway: a debt
            self.operations += [("charge", left)]
        self.bookings = kept
        return tuple(parts)

    def charge(self, now: int, weight: int) -> None:
        self.rule.charge(now, weight)
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
        self.rule.lower(now, level, said, until)
        self.operations += [("lower", level, said, None if until is None else until - now)]

    def empty(self, now: int) -> None:
        """Leave nothing. The store does so itself, where a pause ends that empties."""
        self.rule.empty(now)

    def sweep(self, now: int) -> None:
        """Give back the bookings that have expired."""
        expired = [booking for booking in self.bookings if booking.expires < now]
        if expired:
            operations = [("back", b.receipt, b.amount) for b in expired if b.amount]
            kept = [booking for booking in self.bookings if booking.expires >= now]
            self.operations += operations
            self.bookings = kept

    def give_back_all(self) -> None:
        """Give back all bookings."""
        operations = [("back", b.receipt, b.amount) for b in self.bookings if b.amount]
        self.operations += operations
        self.bookings = []

    def told(self, now: int, level: int) -> None:
        """The store has said what is left."""
        rule = self.fresh.fork()
        rest = rule.level(now)
        spent = round(rest * 10**9) - level if rest < float("inf") else 0
        if spent > 0:
            rule.charge(now, spent)
        self.rule = rule

    def book(self, booking: Booking) -> None:
        """Have one more booking."""
        bookings = self.bookings
        n = len(bookings)
        while n and bookings[n - 1].usable > booking.usable:
            n -= 1
        bookings[n:n] = [booking]

    def in_hand(self, now: int) -> int:
        """Nanotokens of the bookings that have not expired."""
        return sum([booking.amount for booking in self.bookings if booking.expires >= now])

    def level(self, now: int) -> float:
        return self.rule.level(now)

    def guarantee(self, window: int) -> int | float:
        return self.rule.guarantee(window)

    def demand(self, weight: int, look_again: Callable[[], None]) -> None:
        """The session looks after each event by itself."""

    def fresh_at(self, now: int) -> int:
        """A limit in a store may be forgotten here as soon as there is nothing to be told."""
        if self.operations or self.source is not ASK:
            return NEVER
        expiries: Sequence[int] = [booking.expires + 1 for booking in self.bookings]
        return max([now, *expiries])

    def shift(self, by: int) -> None:
        self.rule.shift(by)
        self.fresh.shift(by)
        self.bookings = [
            Booking(usable + by, expires + by, amount, receipt)
            for usable, expires, amount, receipt in self.bookings
        ]

    def fork(self) -> Self:
        """The rule that the rate is, with the level that the store said: to look ahead with."""
        return self.rule.fork()  # type: ignore[return-value]


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

    def give_back_all(self) -> None:
        """Hold no bookings any more."""
        self.bookings = []


class BookedToEnd(CountedToEnd):
    """The same as `CountedToEnd`, of a rate whose permits are booked in a store."""

    __slots__ = ()

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

    def demand(self, weight: int, look_again: Callable[[], None]) -> None:
        """The session looks after each event by itself."""

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
        others: the slots that other processes have in hand, as the store said last.
        turns: how often slots in hand may still be taken, before they have to be asked for anew:
            callers of other processes want them too. A slot that comes back then goes to the store.
    """

    __slots__ = ("_free", "hand", "others", "turns")

    _free: int
    hand: int
    others: int
    turns: int

    def __init__(self, limit: int) -> None:
        self.inherited = 0
        self.limit = self.burst = limit
        self.turns = self.others = 0
        self.hand = self._free = limit if limit == UNLIMITED else 0

    @property
    def free(self) -> int:
        """Slots in hand that nobody uses."""
        return self._free

    @free.setter
    def free(self, value: int) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        more = value - self._free
        if self.limit == UNLIMITED:
            self._free = value
        elif more < 0:
            self.turns, self._free = self.turns + more, value
        elif self.turns > 0:
            self._free = value
        else:
            self.hand -= more

    @property
    def used(self) -> int:
        """Slots that callers of this process hold."""
        return self.hand - self._free

    @property
    def left(self) -> int:
        """Slots that nobody holds anywhere, as far as is known."""
        return self.limit - self.used - self.others

    def grant(self, slots: int) -> None:
        """The store has granted *slots*."""
        turns = slots * (1 + HAND_OVERS)
        self.turns, self._free, self.hand = (
            self.turns + turns,
            self._free + slots,
            self.hand + slots,
        )

    def hand_back(self, slots: int) -> None:
        """*slots* that nobody uses go back to the store."""
        self._free, self.hand = self._free - slots, self.hand - slots
        self.turns = min(self.turns, self.hand * (1 + HAND_OVERS))

    def resize(self, limit: int, burst: int | None = None) -> None:
        """Have *limit* slots from now on, in the store; those in hand stay, as far as they fit."""
        used = self.hand - self._free
        if limit == UNLIMITED:
            hand = limit
        elif self.limit == UNLIMITED:
            hand = used
        else:
            hand = min(self.hand, max(used, limit))
        burst = limit if burst is None else burst
        self.limit = limit
        self.burst = burst  # pyright: ignore[reportIncompatibleMethodOverride]
        self._free, self.hand = hand - used, hand

    def stand_in(self, hand: int) -> None:
        """The store is away: have so many slots in hand; or it is back: those that are used."""
        used = self.used
        if self.limit != UNLIMITED:
            hand = max(used, hand)
            self._free, self.hand, self.turns = hand - used, hand, 1 << 62 if hand > used else 0

    def demand(self, weight: int, look_again: Callable[[], None]) -> None:
        """The session looks after each event by itself."""

    def begin_anew(self) -> None:
        """This is another process than before: it holds nothing."""
        self.turns = 0
        self.hand = self._free = self.limit if self.limit == UNLIMITED else 0

    def fork(self) -> Slots:  # type: ignore[override]
        """As if all slots were here that are not used anywhere: to look ahead with."""
        twin = Slots(self.limit)
        twin.burst = self.burst
        twin.free = self.left
        return twin
