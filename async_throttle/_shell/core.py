"""The core of a throttle: its limits, its lanes, the changes, the questions and the refusals.

A `Throttle` is a public face over a core. Sets, pools and leases deal with cores; no
module but its own reaches for private names of a face.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import count
from operator import index
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from async_throttle._engine.lane import GRANTED, Lane, Pause
from async_throttle._engine.queue import wants
from async_throttle._shell import fast
from async_throttle._shell.fast import UNIT
from async_throttle._shell.readings import told
from async_throttle._shell.refusals import Refusals
from async_throttle._shell.scheduler import Scheduler, find
from async_throttle._shell.waiting import Attempt, Option, Waiting
from async_throttle._shell.wall import Wall
from async_throttle._units import NEVER, SECOND, TOKEN, nanoseconds, positive, tokens, whole
from async_throttle.rules import Rule
from async_throttle.rules.bucket import PLAIN, TokenBucket
from async_throttle.rules.clock import PERIODS, ClockWindow
from async_throttle.rules.slots import UNLIMITED, Slots

if TYPE_CHECKING:
    from weakref import WeakKeyDictionary

    from async_throttle._shell.flights import Flights
    from async_throttle._shell.following import Following
    from async_throttle._shell.lease import BaseLease
    from async_throttle._shell.tally import Tally

__all__ = [
    "UNIT",
    "Core",
    "age",
    "burst_of",
    "checked_priority",
    "one_too_many",
    "period_of",
    "slots_of",
]

LATE: Final = 100_000_000
"""Nanoseconds by which a pause may seem longer, by the time that the answer of a store takes."""

ONE_TOKEN: Final = (TOKEN,)

NO_LANES: Final[dict[tuple[int, ...], Lane]] = {}
"""Stays empty: what a throttle has until it is the youngest of a set."""

MINUTE: Final = 60 * SECOND

_numbers = count(1)


class Account(Protocol):
    """What a throttle has in a store: see `stores/_account.py`."""

    store: Any
    origin: Any
    made: dict[str, Any]

    @property
    def others(self) -> int:
        """Slots that other processes have, as the store said last."""
        ...

    @property
    def quiet(self) -> bool:
        """Whether the store knows all that it has to be told."""
        ...

    def parameters(self) -> list[int]:
        """The parameters of the limit, as a store has them."""
        ...

    def say(self, *operation: Any) -> None:
        """Have the store told of an operation."""
        ...

    def pause(self, span: int, empties: bool) -> None:
        """Everybody is paused."""
        ...


class Docks(Protocol):
    """A store, as far as the core knows it."""

    def dock(self, core: Any) -> None:
        """Have the limits of *core* be those in the store."""
        ...


def age() -> int:
    """A number between those of the cores made so far and those made later."""
    return next(_numbers)


class Core(Refusals):
    """A rate and a number of slots, behind a queue.

    Attributes:
        face: the name of the throttle's class, for errors and repr.
        number: cores are numbered as they are made; sets are ordered by that.
        name: the name of the throttle, for errors and repr.
        scheduler: where callers wait; see `find`.
        rule, slots: the limits.
        state: of the rule, where a flattened entry may reach into it while the scheduler is calm;
            None while the throttle is paused or closed, and where the rule is no plain bucket.
        lane: for a slot and tokens.
        pause: the pause that holds the lanes of this throttle.
        pauses_of_sets: the pauses of sets to which this throttle belongs, by the numbers of the
            sets' cores; pauses that have ended are swept out as new pauses come.
        lanes_of_sets: the lanes of the latest sets of which this is the youngest throttle, by the
            numbers of the sets' cores.
        closed: newcomers are refused.
        altered: a rested throttle differs from a new throttle: a setting was changed, or the
            throttle was made less than full.
        burst: as the user gave it; None follows the capacity.
        following: the law that sets a limit by how calls end; None if the limits are fixed.
        flights: the calls in flight; None if calls count from their grants on.
        max_waiting: most callers that may queue; None is no bound.
        account: what the throttle has in a store; None if its limits are those of this process.
        heard: the reading of the clock when the newest count of a server was read; None before.
        calls: the leases that there are, weakly; None until a count was first shared.
        tally: what is counted of calls that waited or were refused; None until there is one.
    """

    __slots__ = (
        "__weakref__",
        "_tokens_lane",
        "account",
        "altered",
        "burst",
        "calls",
        "closed",
        "face",
        "flights",
        "following",
        "heard",
        "lane",
        "lanes_of_sets",
        "max_waiting",
        "name",
        "number",
        "pause",
        "pauses_of_sets",
        "plain",
        "rule",
        "scheduler",
        "slots",
        "state",
        "tally",
    )

    def __init__(
        self,
        face: str,
        scheduler: Scheduler,
        rule: type[Rule] | ClockWindow,
        capacity: float,
        concurrency: int,
        period: float | str,
        burst: float | None,
        initial: float | None,
        max_waiting: int | None,
        name: str | None,
        *,
        to_the_end: bool = False,
        store: Docks | None = None,
    ) -> None:
        self.face = face
        self.number = next(_numbers)
        self.name = name
        self.scheduler = scheduler
        self.max_waiting = None if max_waiting is None else whole("max_waiting", max_waiting)
        self.burst = burst
        now = scheduler.clock.seen
        per_period = positive("capacity", capacity, infinite=True)
        most = burst_of(burst, per_period)
        if isinstance(rule, ClockWindow):
            begun: Rule = rule.begun(now, per_period, period_of(period, rule), most, Wall(self))
        else:
            begun = rule(now, per_period, period_of(period), most)
        if initial is not None:
            begun.charge(now, _spent(initial, begun.burst))
        if store is not None:
            self.rule = _booked(begun, scheduler if to_the_end else None)
        else:
            self.rule = _to_the_end(begun, scheduler) if to_the_end else begun
        scheduler.clock.span = self.span()
        limit = slots_of(concurrency)
        self.slots = Slots(limit) if store is None else _booked_slots(limit)
        self.pause = Pause(self.rule)
        self.pauses_of_sets: dict[tuple[int, ...], Lane] | None = None
        self.lanes_of_sets: dict[tuple[int, ...], Lane] = NO_LANES
        self.lane = scheduler.queue.lane((self.slots, self.rule), (self.pause,))
        self._tokens_lane: Lane | None = None
        self.following: Following | None = None
        self.flights: Flights | None = None
        self.closed = False
        self.tally: Tally | None = None
        self.heard: int | None = None
        self.calls: WeakKeyDictionary[BaseLease, None] | None = None
        # The flattened entry reaches into the bucket.
        self.plain = rule in PLAIN and not to_the_end and store is None
        self.account: Account | None = None
        self.altered = self.rule.fresh_at(now) > now  # less than full: unlike later
        if self.rule.wants_ends or to_the_end:
            scheduler.measure_all()
        self.reopen()
        if store is not None:
            store.dock(self)
            scheduler.recalm()

    # -- lanes and options --------------------------------------------------------------

    def lane_of(self, priority: int) -> Lane:
        """Where callers of *priority* wait for a slot and tokens."""
        if priority == 0:
            return self.lane
        return self._lane((self.slots, self.rule), checked_priority(priority))

    def tokens_lane_of(self, priority: int) -> Lane:
        """Where callers of *priority* wait for tokens alone."""
        if priority == 0 and self._tokens_lane is not None:
            return self._tokens_lane
        lane = self._lane((self.rule,), checked_priority(priority))
        if priority == 0:
            self._tokens_lane = lane
        return lane

    def _lane(self, rules: tuple[Rule, ...], priority: int) -> Lane:
        scheduler = find(self)
        return scheduler.exclusively(
            lambda: scheduler.here().queue.lane(rules, (self.pause,), priority)
        )

    def option(self, weight: float, priority: int) -> Option:
        """To ask for a slot and *weight* tokens."""
        if self.flights is not None:
            self.flights.write_out()
        weights = UNIT if weight == 1 else (1, tokens("weight", weight, tiny=False))
        return Option(self, self.lane_of(priority), weights)

    def tokens_option(self, weight: float, priority: int) -> Option:
        """To ask for *weight* tokens alone."""
        weights = ONE_TOKEN if weight == 1 else (tokens("weight", weight, tiny=False),)
        return Option(self, self.tokens_lane_of(priority), weights)

    def reopen(self) -> None:
        """See anew whether the flattened entry may be taken: a pause may have ended."""
        clock = find(self).clock
        may = (
            not self.closed
            and self.rule.burst >= TOKEN
            and clock.timer is None
            and (self.pause.until == -NEVER or self.pause.until <= clock.present())
        )
        self.state = cast(TokenBucket, self.rule).state if self.plain and may else None
        if self.flights is not None:
            self.flights.reopen(may=may and self.following is None)

    def start(self, waiter: Waiting) -> None:
        """The caller of *waiter*, which waits for the unit, runs again."""
        find(self).start(self._attempt(waiter))

    def withdraw(self, waiter: Waiting) -> None:
        """The caller of *waiter*, which waits for the unit, goes before it has begun."""
        find(self).withdraw(self._attempt(waiter))

    def _attempt(self, waiter: Waiting) -> Attempt:
        waiter.option = self.option(1, 0)
        attempt = Attempt((waiter.option,), None, None)
        attempt.waiters = (waiter,)
        return attempt

    # -- changes, made inside the door --------------------------------------------------

    def release(self, done: list[bool]) -> None:
        """Give a slot back, unless that is *done*; then it is.

        Raises:
            ValueError: no slot is held.
        """
        give_quickly = fast.release_slot if self.slots.free > 0 else fast.hand_over
        if self.flights is not None or not give_quickly(self, done):
            self.release_slowly(done)

    def release_slowly(self, done: list[bool]) -> None:
        """`release` where none of the usual shortcuts leads."""
        if self.account is not None and fast.release_booked(self, done):
            return

        def give(now: int) -> None:
            slots = self.slots
            find(self).queue.touched(slots)
            if done:
                return
            if slots.used <= 0:
                done.append(True)
                if not slots.inherited:
                    raise one_too_many(self)
                slots.inherited -= 1
                return
            if self.flights is not None:
                find(self).queue.touched(self.rule)
                self.flights.finish_lightest(now)
            slots.free += 1
            done.append(True)
            self.tell("release", 1)

        if self.account is None or not find(self).quietly(give):
            find(self).do(give, surely=True)

    def release_again(self, done: list[bool], late: BaseException) -> None:
        """`release` was cut short by *late*: finish it, if that was an interrupt."""
        if not done and not isinstance(late, Exception):
            self.release(done)

    def charge(self, now: int, amount: int) -> None:
        """Take *amount* for good."""
        find(self).queue.touched(self.rule)
        self.rule.charge(now, amount)
        self.tell("change", amount)

    def hold(self, now: int, span: int, empty: bool) -> None:
        """Pause for *span* nanoseconds."""
        until = NEVER if span >= NEVER else now + span
        find(self).queue.touched()
        find(self).queue.pause(self.pause, until, empty)
        if self.account is not None:
            self.account.pause(span, empty)
        self.reopen()
        self.tell("pause", until)

    def resume(self, now: int) -> None:
        """End a pause now."""
        find(self).queue.touched()
        find(self).queue.resume(self.pause)
        if self.slots in find(self).narrowed:
            self._narrow(self.slots.limit, now)  # until a period from now
        if self.account is not None:
            self.account.say("resume")
        self.reopen()
        self.tell("resume")

    def close(self, now: int, drop_waiting: bool) -> None:
        """Refuse newcomers, and fail the waiters as well if *drop_waiting*."""
        scheduler = find(self)
        self.closed = scheduler.shut = True
        self.reopen()
        if drop_waiting:
            scheduler.drop(lambda waiter: wants(waiter, self.rule))
        self.tell("close")

    def resize(self, limit: int, burst: int | None = None) -> None:
        """Have *limit* slots, of which a single caller may have *burst*."""
        find(self).queue.touched(self.slots)
        self.slots.resize(limit, burst)
        if self.account is not None:
            self.account.say("set", self.account.parameters())
        self.altered = True
        find(self).queue.refit(self.slots)
        self.tell("change", limit)

    @property
    def may_narrow(self) -> bool:
        """Whether fewer slots than were set may be had for a while.

        Those of a store are everybody's, and those that adapt have a law of their own.
        """
        return self.account is None and self.following is None

    def narrow(self, most: float) -> None:
        """Have *most* slots for a while, at least one and no more than were set.

        What was set stays known as the burst; what is set anew ends it. It ends by itself after the
        pause and a period more, a minute at most: whoever has said so may not be there any more.
        """
        slots = self.slots
        if self.may_narrow and not max(1, most) >= slots.limit == slots.burst:
            find(self).do(partial(self._narrow, most))

    def _narrow(self, most: float, now: int) -> None:
        slots, scheduler = self.slots, find(self)
        limit = int(min(max(1, most), slots.burst))  # not before: that may have been set meanwhile
        narrowed = {each: until for each, until in scheduler.narrowed.items() if each is not slots}
        if limit < slots.burst:
            narrowed[slots] = now + self.pause.left(now) + min(self.rule.period, MINUTE)
        scheduler.narrowed = narrowed  # first: it ends, if this is interrupted
        if limit != slots.limit:
            scheduler.keep_back(slots, limit)

    def configure(self, now: int, capacity: int | float, period: int, burst: float | None) -> None:
        """Have a new rate from *now* on; the level stays, cut to the new burst."""
        find(self).queue.touched(self.rule)
        self.rule.configure(now, capacity, period, burst_of(burst, capacity))
        self.burst = burst
        self.altered = True
        scheduler = find(self)
        clock = scheduler.clock
        clock.span = self.span() if scheduler.alone else max(clock.span, self.span())
        self.reopen()
        scheduler.queue.refit(self.rule)
        self.tell("change", capacity)

    def follow(self, now: int, until: int) -> None:
        """The store says until when everybody is paused: pause here too, or go on."""
        queue, mine = find(self).queue, self.pause.until
        if abs(min(until, NEVER) - mine) > LATE and max(until, mine) > now:
            queue.touched()
            if until < mine:
                queue.resume(self.pause)
            if until > now:
                queue.pause(self.pause, until, empties=False)
            self.reopen()

    def refitted(self) -> None:
        """The store has other parameters, which the rules have taken over."""
        queue = find(self).queue
        queue.touched(self.rule, self.slots)
        self.reopen()
        queue.refit(self.rule)
        queue.refit(self.slots)

    def tell(self, what: str, detail: object = None) -> None:
        """Tell the listeners of an event."""
        scheduler = find(self)
        if scheduler.listeners:
            scheduler.happened(what, self, detail)

    # -- questions ----------------------------------------------------------------------

    def span(self) -> int:
        """The period or the time to fill, whichever is longer, in nanoseconds."""
        rule = self.rule
        fill = rule.period * rule.burst / rule.capacity if rule.capacity < math.inf else 0
        return max(rule.period, math.ceil(fill))

    def level(self, now: int) -> float:
        """Tokens left; those that a grant under way is taking as well."""
        return self.rule.level(now) + find(self).queue.pending(self.rule) / TOKEN

    def waiting(self) -> int:
        """Callers that are queued for the rate, with or without further limits."""
        return find(self).queue.count(self.rule)

    def active(self) -> int:
        """Slots held, without that which a grant under way is taking."""
        return self.slots.used - find(self).queue.pending(self.slots)

    def occupied(self) -> bool:
        """Whether a caller waits, is handed over, or holds a slot."""
        return bool(
            self.slots.used
            or self.waiting()
            or (self.account is not None and not self.account.quiet)
            or any(
                waiter.state is GRANTED and wants(waiter, self.rule)
                for waiter in find(self).handed_over
            )
        )

    def idle(self, now: int) -> bool:
        """Whether it is as good as new: callers could not tell it from a new throttle."""
        return (
            not self.closed
            and not self.altered
            and self.pause.until <= now
            and not self.occupied()
            and self.rule.fresh_at(now) <= now
            and not self.paused_sets(now)
        )

    def note_pause(self, now: int, numbers: tuple[int, ...], lane: Lane) -> None:
        """A set to which this throttle belongs was paused."""
        pauses = self.pauses_of_sets
        if pauses is None or len(pauses) & (len(pauses) - 1) == 0:  # as often as is cheap
            pauses = self.paused_sets(now)
        pauses[numbers] = lane
        self.pauses_of_sets = pauses

    def paused_sets(self, now: int) -> dict[tuple[int, ...], Lane]:
        """The paused sets to which this throttle belongs."""
        kept = {
            numbers: lane
            for numbers, lane in (self.pauses_of_sets or {}).items()
            if lane.pauses[0].until > now or lane.pauses[0].empties
        }
        self.pauses_of_sets = kept or None
        return kept

    def could(self, amount: int) -> bool:
        """Whether *amount* of tokens could be had at once."""

        def question(now: int) -> bool:
            return find(self).queue.can_take(self.tokens_lane_of(0), (amount,))

        return amount <= self.rule.burst and find(self).ask(question, lambda now: False)

    def __repr__(self) -> str:
        return told(self, id(self))

    # -- refusals -----------------------------------------------------------------------

    def check(self, weights: tuple[int, ...]) -> None:
        """Refuse *weights* that can never be granted."""
        if weights[-1] > self.rule.burst:
            raise self.refusal_weight(weights)
        if self.closed:
            raise self.refusal_closed(weights)
        if self.plain and self.state is None:
            self.reopen()

    def crowded(self, weights: tuple[int, ...]) -> Core | None:
        """This throttle, if *max_waiting* callers wait."""
        if self.max_waiting is None:
            return None
        queue = find(self).queue
        queue.keep_count(self.rule)
        if self.waiting() >= self.max_waiting:
            queue.sweep_all_cancelled()
        return self if self.waiting() >= self.max_waiting else None


def one_too_many(limit: object) -> ValueError:
    """A slot of *limit* comes back that no call holds: some other release gave it back before."""
    return ValueError(f"release() without acquire(): nobody holds a slot of {limit!r}")


def checked_priority(priority: int) -> int:
    """A whole number of either sign."""
    try:
        return index(priority)
    except TypeError:
        wrong = ValueError if isinstance(priority, float) else TypeError
        raise wrong(f"priority must be a whole number, got {priority!r}") from None


def period_of(value: float | str, rule: Rule | None = None) -> int:
    """A period of *rule* in nanoseconds. Only windows of the wall clock have some with a name."""
    on_the_clock = rule is not None and issubclass(rule.kind, ClockWindow)
    if isinstance(value, str) and (on_the_clock or value in PERIODS):
        if not on_the_clock:
            raise ValueError(f"period must be in seconds without ClockWindow, got {value!r}")
        if value not in PERIODS:
            raise ValueError(f"period must be one of {', '.join(PERIODS)}, got {value!r}")
        return PERIODS[value]
    span = nanoseconds("period", cast("float", value))
    if not 0 < span < NEVER:
        least = "at least 1e-9 s" if value and span == 0 else "positive and finite"
        raise ValueError(f"period must be {least}, got {value!r}")
    return span


def burst_of(value: float | None, capacity: int | float) -> int | float | None:
    """A burst in nanotokens; None follows the capacity."""
    return None if value is None else positive("burst", value, infinite=capacity == math.inf)


def slots_of(value: int) -> int:
    """A number of slots; 0 is no limit."""
    return whole("concurrency", value) or UNLIMITED


def _to_the_end(rule: Rule, scheduler: Scheduler) -> Rule:
    """*rule*, of which calls are taken at their ends."""
    from async_throttle.rules.ends import CountedToEnd  # few ask for that

    return CountedToEnd(rule, scheduler.clock.resolution())


def _booked(rule: Rule, scheduler: Scheduler | None) -> Rule:
    """*rule*, whose permits a store has; with a *scheduler*, calls are taken at their ends."""
    from async_throttle.rules import booked  # few limits are shared

    if scheduler is None:
        return booked.Booked(rule)
    return booked.BookedToEnd(booked.BookedFlights(rule), scheduler.clock.resolution())


def _booked_slots(limit: int) -> Slots:
    """So many slots, in a store."""
    from async_throttle.rules.booked import BookedSlots

    return BookedSlots(limit)


def _spent(initial: float, burst: int | float) -> int:
    """The nanotokens that are gone already when a throttle starts with *initial* tokens."""
    if initial == math.inf == burst:
        return 0
    rest = tokens("initial", initial)
    if rest > burst:
        raise ValueError(f"initial must be at most the burst, {burst / TOKEN:g}, got {initial!r}")
    return 0 if burst == math.inf else int(burst - rest)
