"""The core of a set: its members' rules in one lane, and what becomes of those who ask.

A set is a lane over the rules of its members: their schedulers become one. What may go before whom
is decided in the engine.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import zip_longest
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

from async_throttle._base import BaseThrottle, core_of
from async_throttle._engine.forecast import would_wait
from async_throttle._engine.lane import GRANTED, SKIP, Lane, Pause
from async_throttle._shell.core import checked_priority
from async_throttle._shell.following import Measure
from async_throttle._shell.scheduler import Scheduler, find, together
from async_throttle._shell.tally import count_waits
from async_throttle._shell.thread import ThreadScheduler
from async_throttle._shell.waiting import Option, Taker, Waiting
from async_throttle._units import NEVER, SECOND, TOKEN, tokens, whole
from async_throttle.exceptions import ResourceLimitError
from async_throttle.limits._refusals import IN_FLIGHT, PAUSE, SetRefusals, called
from async_throttle.limits._single import CallLimit
from async_throttle.limits._tokens import Tokens
from async_throttle.rules import Rule
from async_throttle.rules.slots import UNLIMITED

if TYPE_CHECKING:
    from async_throttle._shell.flights import Flights

__all__ = ["CALLS", "PAUSE", "SLOTS", "SetCore", "Source", "throttle_of"]

RATE, SLOTS, CALLS = range(3)
"""What a call takes of a limit: tokens; slots, if it has nothing else; whole tokens, for calls."""


NO_FLIGHTS: Final[Mapping[Any, Any]] = MappingProxyType({})

MOST_LANES: Final = 4
"""Lanes of sets that a throttle keeps."""


class Source(Protocol):
    """Where acquisitions come from: the core of a set, or of a pool of sets."""

    def weigh(self, amounts: Mapping[Any, float]) -> tuple[Any, ...]:
        """What *amounts* are in the units of the rules."""
        ...

    def options(self, weights: tuple[Any, ...], priority: int) -> Sequence[Option]:
        """Where to ask for *weights*."""
        ...

    def consuming(self, amounts: Mapping[Any, float], priority: int) -> Sequence[Option]:
        """Where to ask for *amounts* of tokens alone."""
        ...

    def whom(self) -> SetCore:
        """Whose scheduler to ask."""
        ...

    def granted(self, face: Any, core: SetCore) -> Any:
        """*core* grants a call to *face*: the set whose limits are held."""
        ...

    def counter(self) -> Taker | None:
        """What is told of grants for which there is no lease."""
        ...


Place = tuple[int, int]
"""Where a limit stands: the place of its slots in the lane, before its rate's; and its kind."""


class SetCore(SetRefusals):
    """Several throttles in one lane.

    Attributes:
        limits: by key, as the user gave them.
        members: the cores of their throttles, in the order in which these were made.
        scheduler: where callers wait; see `find`.
        lane: over the rules of all members, slots and rate in turn.
        unit: the weights of a call that names nothing.
        rates: by key, the rule of each rate, and the place of its receipt among those of a call
            that takes of all limits, as long as no rate becomes infinite; known with the places.
        bounded: the members that let only so many wait.
        measured: the keys of limits that follow how calls end.
        flights: the calls in flight of members that count to the end, by what these hold.
        closed: callers of this set are refused.
    """

    __slots__ = (
        "__weakref__",
        "_places",
        "_tokens",
        "bounded",
        "closed",
        "flights",
        "lane",
        "limits",
        "measured",
        "members",
        "rates",
        "scheduler",
        "unit",
    )

    scheduler: Scheduler

    def __init__(self, limits: Mapping[Hashable, Any]) -> None:
        self.limits = limits
        cores = [core_of(throttle_of(limit)) for limit in limits.values()]
        # In an order that is the same in all sets over the same throttles: they share a lane.
        self.members = members = sorted(cores, key=_number)
        if len({*members}) < len(members):
            raise _same(limits)
        self.unit: tuple[int, ...] = (1, TOKEN) * len(members)
        self.bounded = [core for core in members if core.max_waiting is not None]
        self.rates: dict[Hashable, tuple[Rule, int]] = {}
        self._places: dict[Hashable, Place] | None = None
        self._tokens: Tokens | None = None
        self.closed = False
        lane = None
        if members:
            self.scheduler = find(members[0])
            lane = members[-1].lanes_of_sets.get(self.numbers)
        self.lane = self._first_lane() if lane is None else lane
        self.measured: list[Hashable] = []
        self.flights: Mapping[Any, Flights] = NO_FLIGHTS
        if self.scheduler.measured:
            self.measured = [key for key, core in zip(limits, cores, strict=True) if core.following]
            self.flights = {core.rule.in_flight: core.flights for core in members if core.flights}

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the members, by which sets over the same throttles know each other."""
        return tuple([member.number for member in self.members])

    @property
    def places(self) -> dict[Hashable, Place]:
        """By key, where each limit stands."""
        if self._places is None:  # few of the sets that are made for a single call need them
            at = {core: 2 * n for n, core in enumerate(self.members)}
            self._places = {
                key: (at[core_of(throttle_of(limit))], _kind(limit))
                for key, limit in self.limits.items()
            }
            taken = [n for n, _ in (*self.lane.slots, *self.lane.takes)]
            self.rates = {
                key: (self.lane.rules[place + 1], taken.index(place + 1))
                for key, (place, kind) in self._places.items()
                if kind == RATE and place + 1 in taken
            }
        return self._places

    def _first_lane(self) -> Lane:
        """The lane of the first set over these throttles, kept for the sets made after it.

        A set is often made for one call. The youngest of the throttles keeps the lane, and no
        other does: a throttle that many sets have in common would keep their lanes for longer than
        there are their throttles.
        """
        if not self.members:
            self.scheduler = ThreadScheduler(None)
        for member in self.members[1:]:
            self.scheduler = together(self.scheduler, find(member), self)
        lane = self._lane(Pause(*[member.rule for member in self.members]), 0)
        if self.members:
            youngest = self.members[-1]
            kept = [*youngest.lanes_of_sets.items()][1 - MOST_LANES :]
            youngest.lanes_of_sets = {**dict(kept), self.numbers: lane}
        return lane

    def _lane(self, own: Pause, priority: int) -> Lane:
        rules = tuple(rule for member in self.members for rule in (member.slots, member.rule))
        pauses = (own, *(member.pause for member in self.members))
        places = tuple(range(0, len(rules), 2))
        scheduler = find(self)
        return scheduler.exclusively(
            lambda: scheduler.here().queue.lane(rules, pauses, priority, places)
        )

    def move(self, scheduler: Scheduler) -> None:
        """Wait at *scheduler*, which one can who has no limits."""
        assert not self.members, "whoever has limits, waits where they are"
        self.scheduler = scheduler
        scheduler.shut = scheduler.shut or self.closed
        holders = self.lane.holders
        self.lane = self._lane(self.lane.pauses[0], 0)
        self.lane.holders += holders
        self._tokens = None

    # -- a source of acquisitions -------------------------------------------------------

    def weigh(self, amounts: Mapping[Any, float]) -> tuple[int, ...]:
        """What is to be taken of each of the lane's rules."""
        if not amounts:
            return self.unit
        places = self._places or self.places
        weights: list[int] = [*self.unit]
        for key, amount in amounts.items():
            try:
                place, kind = places[key]
            except KeyError:
                raise ValueError(self.unknown(key)) from None
            if type(amount) is int and amount > 0 and kind == RATE:
                weights[place + 1] = amount * TOKEN
                continue
            if kind == RATE:
                weight = tokens(called(key), amount, tiny=False)
            elif kind == CALLS:
                weight = whole(called(key), amount) * TOKEN
            else:
                weight = weights[place] = whole(called(key), amount)
            weights[place + 1] = weight
            if weight == 0:
                weights[place] = weights[place + 1] = SKIP
        return tuple(weights)

    def options(self, weights: tuple[int, ...], priority: int) -> Sequence[Option]:
        """To ask for *weights*."""
        lane = self.lane
        if priority:
            lane = self._lane(lane.pauses[0], checked_priority(priority))
        return (Option(self, lane, weights),)

    def consuming(self, amounts: Mapping[Any, float], priority: int) -> Sequence[Option]:
        """To ask for *amounts* of tokens alone."""
        return (self.tokens.option(amounts, priority),)

    def has_tokens(self, key: Hashable) -> bool:
        """Whether the limit *key* has a rate; raises ValueError if there is none of that name."""
        if key not in self.places:
            raise ValueError(self.unknown(key))
        return self.places[key][1] != SLOTS

    @property
    def tokens(self) -> Tokens:
        """The rates without the slots."""
        if self._tokens is None:
            self._tokens = Tokens(self)
        return self._tokens

    def whom(self) -> SetCore:
        """Whose scheduler to ask."""
        return self

    def granted(self, face: Any, core: SetCore) -> Any:
        """There is only one set that can grant."""
        return face

    def counter(self) -> None:
        """A set does not count its grants."""

    # -- changes, made inside the door --------------------------------------------------

    def hold(self, now: int, span: int, empty: bool) -> None:
        """Grant nobody anything of this set for *span* nanoseconds.

        A set is often made for one call. Its members keep the pause until it ends, so that the
        next set over the same throttles finds it.
        """
        until = NEVER if span >= NEVER else now + span
        find(self).queue.touched()
        find(self).queue.pause(self.lane.pauses[0], until, empty)
        numbers = self.numbers
        for member in self.members:
            member.note_pause(now, numbers, self.lane)
        self.tell("pause", until)

    def resume(self, now: int) -> None:
        """End a pause of this set now."""
        find(self).queue.touched()
        find(self).queue.resume(self.lane.pauses[0])
        self.tell("resume")

    def count_wait(self, waiter: Waiting) -> None:
        """The caller of *waiter* was granted: count it at each member that held it up.

        What it waited for a pause of this set is no member's.
        """
        spans, rules = waiter.spans, 2 * len(self.members)
        parts = [spans[:rules:2], spans[1:rules:2], spans[rules + 2 :: 2]]  # the last: in flight
        count_waits(self.members, map(sum, zip_longest(*parts, fillvalue=0)))

    def close(self, now: int, drop_waiting: bool) -> None:
        """Refuse callers of this set, and fail its waiters as well if *drop_waiting*."""
        scheduler = find(self)
        self.closed = scheduler.shut = True
        if drop_waiting:
            asked = (self, self._tokens)
            scheduler.drop(lambda waiter: asked_of(waiter) in asked)
        self.tell("close")

    def tell(self, what: str, detail: object = None) -> None:
        """Tell the listeners what has happened."""
        scheduler = find(self)
        if scheduler.listeners:
            scheduler.happened(what, self, detail)

    # -- questions ----------------------------------------------------------------------

    def waiting(self) -> int:
        """Callers of this set that are queued."""
        return sum(len(lane) for lane in find(self).queue.busy if self._has(lane))

    def load(self) -> int:
        """Slots in use, of the member of which most are; without a look at the clock."""
        return max((member.slots.used for member in self.members), default=0)

    def occupied(self) -> bool:
        """Whether a caller of this set waits, is handed over, or holds what it was granted."""
        return bool(
            self.lane.holders
            or self.waiting()
            or any(member.account and not member.account.quiet for member in self.members)
            or any(
                waiter.state is GRANTED and self._has(waiter.lane)
                for waiter in find(self).handed_over
            )
        )

    def _has(self, lane: Lane) -> bool:
        """Whether callers of this set, or of one over the same throttles, wait in *lane*."""
        if lane.bottleneck is None:
            return False
        rules = self.lane.rules
        return lane.rules == rules or lane.rules == rules[1::2]

    def locked(self) -> bool:
        """Whether a call that takes 1 of everything would not be granted at once."""
        try:
            self.check(self.unit)
        except ResourceLimitError:
            return True
        scheduler = find(self)
        return scheduler.behind() or would_wait(scheduler.queue, self.lane, self.unit)

    def idle(self, now: int, since: int) -> bool:
        """Whether it is as good as a new set, whose throttles no older than *since* are new."""
        return (
            not self.closed
            and not self.paused_for(now)
            and not self.occupied()
            and all(member.number < since or member.idle(now) for member in self.members)
        )

    def paused_for(self, now: int) -> int:
        """Nanoseconds until the pause of this set ends."""
        return self.lane.pauses[0].left(now)

    def key(self, place: int) -> Hashable:
        """Which limit the rule at *place* of the lane belongs to, or PAUSE; None is no limit."""
        if place < 0:
            return None
        if place == (rules := 2 * len(self.members)):
            return PAUSE
        place -= rules + 1 if place > rules else 0  # beyond are those of what is in flight
        return next(key for key, (at, _) in self.places.items() if at == place // 2 * 2)

    def weights_told(self, weights: tuple[int, ...]) -> dict[Hashable, float]:
        """*weights* as the user says them."""
        found = {}
        for key in self.limits:
            place, kind = self.places[key]
            weight = weights[place] if kind == SLOTS else weights[place + 1] / TOKEN
            found[key] = max(0, weight)
        return found

    def waits_told(self, spans: list[int] | None) -> dict[Hashable, float]:
        """For how long each limit was the bottleneck, in seconds."""
        found: dict[Hashable, float] = dict.fromkeys(self.limits, 0.0)
        if spans is not None:
            rules = 2 * len(self.members)
            by_key: dict[Hashable, int] = dict.fromkeys(self.limits, 0)
            for place, span in enumerate(spans):
                key = IN_FLIGHT if place > rules else self.key(place)
                if span:  # a limit may be called like that, too
                    by_key[key] = by_key.get(key, 0) + span
            found = {key: span / SECOND for key, span in by_key.items()}
        return found

    def measure(self, weights: tuple[int, ...]) -> dict[Hashable, Measure]:
        """What limits that follow will learn from a call that was granted *weights* just now."""
        return {
            key: Measure.of(core_of(throttle_of(self.limits[key])))
            for key in self.measured
            if weights[self.places[key][0] + 1] != SKIP
        }

    def __repr__(self) -> str:
        return f"<async_throttle.LimitSet of {', '.join(map(str, self.limits)) or 'nothing'}>"

    # -- refusals -----------------------------------------------------------------------

    @property
    def max_waiting(self) -> int | None:
        """Most callers that may queue, by the strictest member; None is no bound."""
        if not self.bounded:
            return None
        return min(member.max_waiting for member in self.bounded if member.max_waiting is not None)

    def check(self, weights: tuple[int, ...]) -> None:
        """Refuse what can never be granted."""
        lane = self.lane
        if weights is not lane.fits:
            for weight, burst in zip(weights, lane.bursts or lane.most(), strict=True):
                if weight > burst:
                    raise self.refusal_weight(weights)
            lane.fits = weights
        scheduler = self.scheduler
        if scheduler.into is not None:
            scheduler = find(self)
        if scheduler.shut:
            if self.closed:
                raise self.refusal_closed(weights)
            for member, weight in zip(self.members, weights[1::2], strict=True):
                if member.closed and weight != SKIP:
                    raise self.refusal_closed(weights)


def asked_of(waiter: Any) -> Any:
    """What the caller of *waiter* asks; None if a shortcut has let it in without saying so."""
    option = getattr(waiter, "option", None)
    return None if option is None else option.asked


def throttle_of(limit: Any) -> BaseThrottle:
    """The throttle that a `Limit` is made of, or the throttle itself."""
    throttle: BaseThrottle = limit if isinstance(limit, BaseThrottle) else limit.throttle
    return throttle


_number = attrgetter("number")


def _kind(limit: Any) -> int:
    if not isinstance(limit, BaseThrottle) and isinstance(limit, CallLimit):
        return CALLS
    core = core_of(throttle_of(limit))
    return SLOTS if core.rule.capacity == math.inf and core.slots.limit != UNLIMITED else RATE


def _same(limits: Mapping[Hashable, Any]) -> ValueError:
    """Of *limits*, two are one."""
    names: dict[BaseThrottle, Hashable] = {}
    for key, limit in limits.items():
        throttle = throttle_of(limit)
        if throttle in names:
            return ValueError(
                f"{names[throttle]!r} and {key!r} are the same throttle: {throttle!r}"
            )
        names[throttle] = key
    raise AssertionError("limits have one core only if they have one throttle")
