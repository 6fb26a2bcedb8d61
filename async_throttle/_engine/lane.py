"""Lanes: waiters that ask for the same rules, in order of arrival; and the pauses of lanes.

A waiter has a weight for every rule of its lane. `SKIP` is the weight of a rule that the waiter
does without: it neither waits for that rule nor takes from it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from math import inf
from typing import Any, Final, Protocol
from weakref import ref

from async_throttle._units import NEVER
from async_throttle.rules import Rule
from async_throttle.rules.bucket import PLAIN
from async_throttle.rules.slots import Slots

__all__ = [
    "DROPPED",
    "ENDED",
    "EXPIRED",
    "FAILED",
    "GONE",
    "GRANTED",
    "NOBODY",
    "NONE_YET",
    "QUEUED",
    "SKIP",
    "UNFIT",
    "UNTAKEN",
    "Bottleneck",
    "Callers",
    "Lane",
    "Lanes",
    "Pause",
    "Receipt",
    "State",
    "Waiter",
    "give_back",
]

SKIP: Final = -1
"""A weight: the waiter does without that rule."""

NOBODY: Final[deque[Any]] = deque()
"""Stays empty: what a lane or a queue has until a waiter comes. Most throttles never need more."""

NONE_YET: Final[Any] = ()
"""What a list is until it has to hold something; most throttles never need more."""

ENDED: Final = -NEVER
"""The end of a pause that never began: a single object, for many pauses and lanes."""


class State(Enum):
    """The state of a waiter."""

    QUEUED = "queued"
    GRANTED = "granted"
    EXPIRED = "expired"  # its deadline has passed
    UNFIT = "unfit"  # a limit was changed, so that the weight exceeds it
    DROPPED = "dropped"  # a limit was closed
    FAILED = "failed"  # a rule raised when it was asked for this waiter
    GONE = "gone"  # its caller has left, was granted in another lane, or has not come yet


QUEUED, GRANTED, EXPIRED, UNFIT, DROPPED, FAILED, GONE = State

UNTAKEN: Final = object()
"""Stands for the rule's own receipt until the weight is taken, and once it is given back."""

Receipt = list[Any]
"""A rule, the weight taken from it, and the rule's own receipt for the weight."""


class Waiter(Protocol):
    """A caller that is queued. The shell adds a future or a wake-up.

    Attributes:
        lane: where the waiter stands.
        weights: how much of every rule of the lane, in the order of the rules.
        order: place in the order of arrival, over all lanes.
        deadline: instant after which the waiter is not granted.
        state: see `State`.
        receipts: of the rules, slots included, once granted.
        granted_at: instant of the grant.
        error: the exception of a rule, where the state is FAILED.
        rivals: the same caller in several lanes, this waiter included; the first grant counts.
        spans: of the lane's `Bottleneck`, at the arrival; once granted, the differences.
    """

    lane: Lane
    weights: tuple[int, ...]
    order: int
    deadline: int
    state: State
    receipts: list[Receipt]
    granted_at: int
    error: BaseException
    spans: list[int]
    rivals: Sequence[Any]

    def cancelled(self) -> bool:
        """Whether the caller was cancelled, and has not left yet."""
        ...


class Pause:
    """No waiter that the pause holds is granted before *until*.

    Attributes:
        until: instant at which the pause ends or ended.
        empties: whether *rules* are emptied at that instant.
        rules: the rules to be emptied.
    """

    __slots__ = ("__weakref__", "empties", "rules", "until")

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules
        self.until = ENDED
        self.empties = False

    def left(self, now: int) -> int:
        """Nanoseconds until it ends; 0 if it has ended, NEVER without an end."""
        return NEVER if self.until >= NEVER else max(0, self.until - now)


class Bottleneck:
    """The rule that holds up the head of a lane, and for how long every rule has done so.

    Attributes:
        spans: nanoseconds for which a rule was the bottleneck, by its place. Then comes the
            lane's own pause; then, where rules count calls to their ends, what is in flight, by
            the place of the rule.
        place: the place of the rule that holds up the head now.
        since: the instant up to which *spans* is complete.
    """

    __slots__ = ("place", "since", "spans")

    def __init__(self, rules: int, now: int, *, to_the_end: bool = False) -> None:
        self.spans = [0] * (2 * rules + 1 if to_the_end else rules + 1)
        self.place = rules
        self.since = now

    def account(self, now: int) -> None:
        """Let the time until *now* count for the bottleneck of that time."""
        self.spans[self.place] += now - self.since
        self.since = now

    def told(self, now: int) -> list[int]:
        """The *spans* as of *now*."""
        spans = self.spans[:]
        spans[self.place] += now - self.since
        return spans

    def wait_for(self, place: int, now: int) -> None:
        """From *now* on the rule at *place* is the bottleneck."""
        if place != self.place:
            self.account(now)
            self.place = place


class Callers:
    """The callers that wait for a rule. A caller that stands in several lanes counts once.

    Attributes:
        alone: how many stand in a single lane.
        several: of the others, in how many lanes each of them waits for the rule.
        weight: how much all of them want, in all lanes.
        heaviest: no caller wants more.
    """

    __slots__ = ("alone", "heaviest", "several", "weight")

    def __init__(self) -> None:
        self.alone = self.weight = self.heaviest = 0
        self.several: dict[int, int] = {}

    def __len__(self) -> int:
        return self.alone + len(self.several)

    def add(self, waiter: Waiter, weight: int) -> None:
        """*waiter* wants *weight* of the rule."""
        self.weight += weight
        self.heaviest = max(self.heaviest, weight)
        if waiter.rivals:
            key = id(waiter.rivals[0])
            self.several[key] = self.several.get(key, 0) + 1
        else:
            self.alone += 1

    def remove(self, waiter: Waiter, weight: int) -> None:
        """*waiter*, which wanted *weight* of the rule, does not wait for it any more."""
        self.weight -= weight
        if not self.weight:
            self.heaviest = 0
        if not waiter.rivals:
            self.alone -= 1
            return
        key = id(waiter.rivals[0])
        left = self.several[key] - 1
        if left:
            self.several[key] = left
        else:
            del self.several[key]


class Lane:
    """Waiters that ask for the same rules, in order of arrival. The first is the head.

    Invariant: the head is queued. Waiters further back may have left; they are swept out
    once they are more than half, so that leaving costs O(1) on average.

    Attributes:
        rules: the limits that the waiters of the lane ask for.
        priority: the class of the waiters; lower goes first.
        pauses: the pauses that may hold waiters of the lane.
        places: by pause, the place of the rule to which the pause belongs: a waiter that does
            without the rule is not held. ``len(rules)`` is the lane's own pause, which holds the
            whole lane.
        bottleneck: the time of the head by rule; None where it is not measured.
        waiters: in order of arrival; waiters that have left may be among them.
        left: the number of *waiters* that have left.
        backlog: by rate, the sum of the waiters' weights; nothing until a waiter comes.
        counted: the rules whose callers are counted, by place, and their callers.
        slots, rates: the rules with their places: slots come back from holders, rates regain
            with time. A rate without a limit is left out. What calls hold of a rate until they
            have ended comes back as slots do, and is one of the slots, at the place of the rate;
            but for waiters that ask for tokens alone, which have no end.
        takes: the rates in the order in which a grant takes of them, after the slots: a rule that
            cannot give back comes last. A rate of which a call is taken at its end is left out.
        fed: the rates that get their permits from outside.
        told: those of them that are to be told what is wanted.
        single: whether the lane asks for a single rate, or none, and for slots of one kind at most.
        backdates: whether a late grant counts from the instant at which it was due.
        bursts: by rule, the largest weight that may ever go; empty until a set asks.
        fits: weights that were found to be no more than these, if any were looked at.
        plain: whether all rates are plain buckets, which a shortcut may reach into.
        opens_at: the latest end of *pauses*.
        holders: of the lane of a set, the calls that were granted and have not ended; kept by
            the shell.
    """

    __slots__ = (
        "__weakref__",
        "backdates",
        "backlog",
        "bottleneck",
        "bursts",
        "counted",
        "fed",
        "fits",
        "holders",
        "left",
        "opens_at",
        "pauses",
        "places",
        "plain",
        "priority",
        "rates",
        "rules",
        "single",
        "slots",
        "takes",
        "told",
        "waiters",
    )

    def __init__(
        self,
        rules: tuple[Rule, ...],
        pauses: tuple[Pause, ...],
        priority: int = 0,
        places: tuple[int, ...] | None = None,
        bottleneck: Bottleneck | None = None,
    ) -> None:
        self.rules = rules
        self.pauses = pauses
        self.places = (len(rules),) * len(pauses) if places is None else places
        self.priority = priority
        self.bottleneck = bottleneck
        self.waiters: deque[Waiter] = NOBODY
        self.left = self.holders = 0
        self.counted: Sequence[tuple[int, Callers]] = ()
        self.slots = tuple([(n, rule) for n, rule in enumerate(rules) if isinstance(rule, Slots)])
        self.single = len(self.slots) <= 1 and len(rules) - len(self.slots) <= 1
        if self.slots:
            held = [(n, rule.in_flight) for n, rule in enumerate(rules) if rule.in_flight]
            if held:
                self.slots += tuple(held)
                self.single = False
        self.refit()
        self.reopen()

    def __len__(self) -> int:
        return len(self.waiters) - self.left

    def __iter__(self) -> Iterator[Waiter]:
        return (waiter for waiter in self.waiters if waiter.state is QUEUED)

    # -- when, and what -----------------------------------------------------------------

    def binding(self, now: int, weights: tuple[int, ...]) -> tuple[int, int]:
        """When *weights* could go if the lane were empty, and the place of the binding rule.

        The instant is NEVER if a slot is missing, and NEVER or UNKNOWN where a rule says so. The
        place is -1 if the weights could go now.
        """
        for n, slots in self.slots:
            if slots.free < weights[n] > 0:
                return NEVER, self.place_of(n, slots)
        at, place = (now, -1) if self.opens_at <= now else self.held_until(now, weights)
        for n, rule in self.rates:
            weight = weights[n]
            if weight != SKIP:
                ready = rule.ready_at(at, weight)
                if ready > at:
                    at, place = ready, n
                    if at >= NEVER:
                        if at == NEVER and rule.in_flight:
                            place = self.place_of(n, rule.in_flight)
                        break
        return at, place

    def place_of(self, n: int, slots: Slots) -> int:
        """The place of the rule at *n*; beyond the lane's own pause, if *slots* are in flight."""
        return n if slots is self.rules[n] else len(self.rules) + 1 + n

    def held_until(self, now: int, weights: tuple[int, ...]) -> tuple[int, int]:
        """The end of the pauses that hold a waiter with *weights*, and the place of the last."""
        at, place = now, -1
        if self.opens_at > at:
            for pause, n in zip(self.pauses, self.places, strict=True):
                if pause.until > at and (n == len(weights) or weights[n] != SKIP):
                    at, place = pause.until, n
        return at, place

    def ready_at(self, now: int, weights: tuple[int, ...]) -> int:
        """When *weights* could go if the lane were empty."""
        return self.binding(now, weights)[0]

    def opens_for(self, weights: tuple[int, ...]) -> int:
        """The end of the pauses that hold a waiter with *weights*."""
        if self.opens_at == ENDED:
            return ENDED
        return max(
            [
                pause.until
                for pause, n in zip(self.pauses, self.places, strict=True)
                if n == len(weights) or weights[n] != SKIP
            ],
            default=ENDED,
        )

    def take_into(self, receipts: list[Receipt], now: int, weights: tuple[int, ...]) -> None:
        """Take *weights* one after the other; *receipts* has what was taken, at any moment.

        Nothing is called or made between the taking and the note of it.

        The loops have a function of their own: from CPython 3.12 on, an interrupt that comes as a
        loop goes back to its start passes by the handlers of a try around the loop.
        """
        for n, slots in self.slots:
            weight = weights[n]
            if weight != SKIP:
                taken: Receipt = [slots, weight, UNTAKEN]
                receipts.append(taken)
                slots.free -= weight
                taken[2] = None
        for n, rule in self.takes:
            weight = weights[n]
            if weight != SKIP:
                taken = [rule, weight, UNTAKEN]
                receipts.append(taken)
                taken[2] = rule.take(now, weight)

    # -- waiters ------------------------------------------------------------------------

    def append(self, waiter: Waiter) -> None:
        """Add a waiter at the end."""
        weights = waiter.weights
        if self.waiters is NOBODY:
            self.waiters = deque()
            self.backlog = [0] * len(self.rules)
        self.waiters.append(waiter)
        for n, _ in self.rates:
            if weights[n] > 0:
                self.backlog[n] += weights[n]

    def remove(self, waiter: Waiter, state: State) -> None:
        """Take *waiter* out, which becomes *state*."""
        waiter.state = state
        self.discount(waiter)
        if not self.left and self.waiters[0] is waiter:
            self.waiters.popleft()
            return
        self.left += 1
        if self.left * 2 > len(self.waiters) or self.waiters[0].state is not QUEUED:
            self.sweep()

    def discount(self, waiter: Waiter) -> None:
        """*waiter* is not queued any more: what is summed up leaves it out."""
        weights = waiter.weights
        for n, _ in self.rates:
            if weights[n] > 0:
                self.backlog[n] -= weights[n]
        for n, callers in self.counted:
            if weights[n] != SKIP:
                callers.remove(waiter, weights[n])

    def sweep(self) -> None:
        """Keep the invariant, after waiters have left."""
        waiters = self.waiters
        while self.left and waiters[0].state is not QUEUED:
            self.left -= 1  # first: whoever counts meanwhile counts none twice
            waiters.popleft()
        if self.left * 2 > len(waiters):
            self.waiters = deque(self)
            self.left = 0

    # -- what follows from the rules and the pauses -------------------------------------

    def refit(self) -> None:
        """See anew which rates have a limit: a rate may have become infinite, or finite."""
        rates = [(n, rule) for n, rule in enumerate(self.rules) if rule.capacity < inf]
        self.rates = tuple(rates)
        self.takes = tuple(sorted(rates, key=_keeps)) if any(map(_keeps, rates)) else self.rates
        if any(slots is not self.rules[n] for n, slots in self.slots):
            self.takes = tuple([take for take in self.takes if not take[1].in_flight])
        fed = [(n, rule) for n, rule in enumerate(self.rules) if _feeds(rule)]
        self.fed = tuple(fed)
        self.told = tuple([(n, rule) for n, rule in fed if not rule.booked])
        self.backdates = all(rule.backdates for _, rule in rates)
        self.bursts: tuple[int | float, ...] = ()
        self.fits: tuple[int, ...] = ()
        self.plain = all(type(rule) in PLAIN for _, rule in rates)
        self.backlog = NONE_YET if self.waiters is NOBODY else [0] * len(self.rules)
        for waiter in self:
            for n, _ in self.rates:
                self.backlog[n] += max(0, waiter.weights[n])

    def most(self) -> tuple[int | float, ...]:
        """By rule, the largest weight that may ever go."""
        if not self.bursts:
            self.bursts = tuple([rule.burst for rule in self.rules])
        return self.bursts

    def see(self, counts: Mapping[Rule, Callers]) -> None:
        """See anew all that follows from the rules, the pauses and what is counted."""
        self.refit()
        self.reopen()
        self.count(counts)

    def count(self, counts: Mapping[Rule, Callers]) -> None:
        """See anew for which rules the callers are counted."""
        self.counted = ()
        if counts:
            pairs = enumerate(self.rules)
            self.counted = tuple((n, counts[rule]) for n, rule in pairs if rule in counts)

    def reopen(self) -> None:
        """See anew when the last of the pauses ends."""
        self.opens_at = max([pause.until for pause in self.pauses], default=ENDED)


LaneKey = tuple[int, ...]
"""The class of a lane, whether it is that of a throttle, and its rules: each is one object."""


class Lanes:
    """The lanes that are in use in a queue, by their keys.

    A lane that is the only one so far is kept. Most throttles have no other, and need no
    dictionary. From the second lane on each is known for as long as something else refers to it.
    """

    # _only    the only lane so far
    # _refs    from the second lane on, all of them; lanes that are gone may be among them
    # _asking  the same by rule: the lanes that ask for it
    # _room    the number of lanes that may come until those that are gone are swept out
    __slots__ = ("_asking", "_only", "_refs", "_room")

    _asking: dict[int, list[ref[Lane]]]

    def __init__(self) -> None:
        self._only: Lane | None = None
        self._refs: dict[LaneKey, ref[Lane]] | None = None
        self._room = 0

    def get(self, key: LaneKey) -> Lane | None:
        """The lane of that *key*, if there is one."""
        if self._refs is not None:
            found = self._refs.get(key)
            return None if found is None else found()
        return self._only if self._only is not None and _key(self._only) == key else None

    def add(self, lane: Lane) -> None:
        """*lane* is in use from now on."""
        if self._refs is None and self._only is None:
            self._only = lane
            return
        if self._refs is None or self._room <= 0:
            self._sweep()
        self._room -= 1
        _note(lane, self._refs, self._asking)

    def _sweep(self) -> None:
        refs: dict[LaneKey, ref[Lane]] = {}
        asking: dict[int, list[ref[Lane]]] = {}
        for lane in self.values():
            _note(lane, refs, asking)
        self._asking, self._room = asking, len(refs) + 8
        self._refs, self._only = refs, None

    def values(self) -> list[Lane]:
        """The lanes."""
        if self._refs is None:
            return [] if self._only is None else [self._only]
        return [lane for found in list(self._refs.values()) if (lane := found()) is not None]

    def asking(self, rule: Rule) -> list[Lane]:
        """The lanes that ask for *rule*."""
        if self._refs is None:
            return [lane for lane in self.values() if rule in lane.rules]
        known = (found() for found in list(self._asking.get(id(rule), ())))
        return [lane for lane in known if lane is not None and rule in lane.rules]


def _note(lane: Lane, refs: Any, asking: dict[int, list[ref[Lane]]]) -> None:
    """Add *lane* to all lanes at last, so that what is interrupted has added nothing."""
    found = ref(lane)
    for rule in lane.rules:
        asking.setdefault(id(rule), []).append(found)
    refs[_key(lane)] = found


def give_back(now: int, receipts: list[Receipt]) -> None:
    """Undo a `Lane.take_into`, from the last rule to the first; *receipts* is empty then.

    The exception of a rule comes at the end, when the remaining rules have got their weights back.
    A call that was interrupted may be made again, and gives back the rest.
    """
    error: Exception | None = None
    while receipts:
        rule, weight, receipt = receipts[-1]
        try:
            if receipt is not UNTAKEN:
                rule.refund(now, receipt, weight)
        except Exception as raised:
            error = error or raised
        receipts[-1][2] = UNTAKEN
        receipts.pop()
    if error is not None:
        raise error


def _key(lane: Lane) -> LaneKey:
    return (lane.priority, lane.bottleneck is None, *map(id, lane.rules))


def _feeds(rule: Rule) -> bool:
    """Whether a rule gets its permits from outside."""
    return rule.booked or type(rule).demand is not Rule.demand


def _keeps(place: tuple[int, Rule]) -> bool:
    """Whether a rule keeps a weight for good: it is asked last, so that no failure follows."""
    return type(place[1]).refund is Rule.refund
