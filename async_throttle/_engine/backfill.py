"""Conservative backfilling: which waiter may go before a head that came earlier.

Batch schedulers have the same problem: a wide job waits, narrow jobs could run meanwhile. The rule
here is theirs: a later waiter may go first if no reservation of an earlier head moves.

- A head that waits for a slot has no known start time, so backfilling past it on rates cannot
  delay it. Slots are reserved for it. Only the first such head reserves its full weight: two heads
  that each hold what the other needs would deadlock.
- A head that waits for time (tokens, the end of a pause, permits from outside) reserves the slots
  that it wants, and what the rates will have to give it: see `obstacle`. So light waiters do not
  starve a heavy waiter, and waiters for a slow limit of their own hold up no other lane.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from math import inf

from async_throttle._engine.lane import SKIP, Lane, Waiter
from async_throttle._units import NEVER
from async_throttle.rules import Rule
from async_throttle.rules.bucket import TokenBucket
from async_throttle.rules.slots import UNLIMITED, Slots

__all__ = ["Claim", "Rank", "Reservations", "claims_of", "moves_edges", "obstacle", "within"]

Rank = tuple[float, float]
"""A class and an order of arrival; the lower rank goes first."""

Claim = tuple[int, int, int]
"""The earliest instant of a waiter, its weight, and its lead.

The earliest instant is never closer than the lead, so it becomes later as time passes. A waiter
has a lead if it and those before it want more than the burst of a bucket: a full one regains
nothing.
"""


class Reservations:
    """What is reserved for the heads that rank before a waiter.

    Attributes:
        lanes: the lanes whose heads wait for time.
        slots: how many slots are reserved.
        stuck: whether a head waits for a slot.
    """

    __slots__ = ("lanes", "slots", "stuck")

    def __init__(self) -> None:
        self.lanes: list[Lane] = []
        self.slots: dict[Slots, int] = {}
        self.stuck = False

    def add(self, lane: Lane, weights: tuple[int, ...], due: int) -> None:
        """The head of *lane* asks for *weights*; by its own rules it could go at *due*.

        At NEVER the head waits for a slot, or is paused for good and reserves nothing.
        """
        waits_for_a_slot = due == NEVER
        if not waits_for_a_slot:
            self.lanes.append(lane)
        elif self.missing(lane, weights) < 0:
            return
        for n, slots in lane.slots:
            weight = weights[n]
            if weight > 0 and slots.limit != UNLIMITED:
                reserved = self.slots.get(slots, 0)
                if not waits_for_a_slot or not self.stuck or slots.free - reserved < weight:
                    self.slots[slots] = reserved + weight
        self.stuck = self.stuck or waits_for_a_slot

    def missing(self, lane: Lane, weights: tuple[int, ...]) -> int:
        """The place of the rule whose unreserved slots are too scarce for *weights*; or -1."""
        for n, slots in lane.slots:
            if slots.free - self.slots.get(slots, 0) < weights[n] > 0:
                return lane.place_of(n, slots)
        return -1


def obstacle(
    ahead: Sequence[Lane],
    rivals: Sequence[Waiter],
    lane: Lane,
    weights: tuple[int, ...],
    at: int,
    rank: Rank,
    limit: int,
) -> tuple[int, int]:
    """The place of a rate of *lane* from which *weights* may not be taken at *at*; or -1.

    The newcomer may take the weights if no waiter of the lanes *ahead*, but for *rivals*, that
    ranks before *rank* goes later for it. A waiter ahead cannot go before the rules that it does
    not share with the newcomer let it, and until then the rate regains tokens. So the function
    looks at the earliest instants of the waiters ahead, in order: can the rate by then have given
    its weight to the newcomer and to every waiter up to there? Once the rate is as if the newcomer
    had never been, later instants do not matter. Where waiters ahead wait for the rate itself, the
    first instant says no: on that rate, arrival decides.

    The proof, for a bucket. As long as the newcomer makes a difference, the bucket has not been
    full since. So its level is the level before, plus the tokens regained, less the tokens taken;
    and by an instant no more was taken than at the earliest instants possible. A window counts in
    the same way until the newcomer is no longer inside. A fixed window that the newcomer opens is
    another matter: see `moves_edges`.

    The second number is an instant before which the newcomer may not go either, or NEVER, if it
    is not before *limit*: then one is to look again. Waiters ahead may wait for each other
    elsewhere, so that time alone brings enough for the whole queue. Those with a lead move on with
    time, until the rate can have served all up to the obstacle, or has forgotten the newcomer and
    those before them. Who takes nothing of a bucket is forgotten once that is full.
    """
    asked = [rule for rule, weight in zip(lane.rules, weights, strict=True) if weight != SKIP]
    for n, rate in lane.rates:
        weight = weights[n]
        others = [other for other in ahead if rate in other.rules]
        if not others or weight == SKIP:
            continue
        if rate.opens(at):
            sources = (claims_of(other, rate, asked, at, rank, rivals) for other in others)
            if moves_edges(rate, at, weight, merge(*sources)):
                return n, NEVER
            continue
        most = inf if rate.divisible else rate.burst
        until = rate.forgets_at(at, weight)
        # The obstacle is mostly a head: so heads are looked at first, each by itself.
        for other in others if weight else ():
            claims = claims_of(other, rate, asked, at, rank, rivals)
            instant, claim, lead = next(claims, (NEVER, 0, 0))
            if (
                instant < until
                and not lead
                and not _serves(rate, at, weight + claim, instant, most)
                and not _serves(rate, at, weight + claim, limit - 1, rate.burst)
            ):
                return n, NEVER
        again, longest = NEVER, 0
        claims = merge(*(claims_of(other, rate, asked, at, rank, rivals) for other in others))
        for instant, claim, lead in claims:
            if instant >= until:
                break
            if lead or not weight:
                again = min(again, within(rate.forgets_at, at, weight, lead))
                longest = max(longest, lead)
            weight += claim
            if not _serves(rate, at, weight, instant, most):
                while instant <= at and _serves(rate, at, weight, limit - 1, rate.burst):
                    instant, claim, _ = next(claims, (NEVER, 0, 0))
                    weight += claim if instant <= at else 0
                if weight <= most:
                    again = min(again, within(rate.ready_at, at, weight, longest))
                return n, max(again, at + 1)
            until = rate.forgets_at(at, weight)
    return -1, NEVER


def moves_edges(window: Rule, at: int, weight: int, claims: Iterator[Claim]) -> bool:
    """Whether a waiter ahead may go later if a newcomer opens the fixed *window* at *at*.

    If the newcomer does not, the first claim opens the window, later, so that all windows after it
    may have other edges: two waiters that would have gone in two windows may then meet in one. That
    is of no matter if the window of the newcomer is over before the first claim. Nor is it if there
    is room in one window for all claims and the newcomer: then nobody ever waits for it. Time alone
    changes neither: instants that move on with time lie at least a lead ahead, all the time. Who
    takes nothing opens no window, but waits as long: it passes nobody that waits for the same.
    """
    until, opened = window.forgets_at(at, weight), False
    for instant, claim, _ in claims:
        if claim and not opened and instant >= until:
            return False
        opened = opened or claim > 0
        weight += claim
        if weight > window.burst or window.ready_at(at, weight) > at:
            return True
    return False


def claims_of(
    lane: Lane,
    rate: Rule,
    asked: Sequence[Rule],
    start: int,
    rank: Rank,
    rivals: Sequence[Waiter],
) -> Iterator[Claim]:
    """The claims on *rate* of the waiters of *lane* before *rank*.

    Earliest, from *start* on, by the rules alone that the newcomer has not *asked* for.
    """
    place = lane.rules.index(rate)
    own = [(n, rule) for n, rule in lane.rates if rule not in asked]
    sums = [0] * len(lane.rules)
    head, at, lead = lane.waiters[0], start, 0
    for waiter in lane:
        if waiter in rivals:
            continue
        if waiter is not head and (lane.priority, waiter.order) > rank:
            return
        weights = waiter.weights
        if any(slots.free < weights[n] > 0 for n, slots in lane.slots):
            return  # a waiter for a slot has no known start time, nor have waiters behind it
        at = max(at, lane.opens_for(weights))
        for n, rule in own:
            if weights[n] != SKIP:
                sums[n] += weights[n]
                most = sums[n] if rule.divisible else min(sums[n], rule.burst)
                at = max(at, rule.ready_at(start, int(most)))
                if sums[n] > rule.burst and isinstance(rule, TokenBucket):
                    _, room, grain, scale = rule.ticks_at(start)
                    lead = max(lead, -((room - sums[n] * grain) // scale))
        if weights[place] != SKIP:
            yield at, weights[place], lead


def _serves(rate: Rule, at: int, weight: int, instant: int, most: float) -> bool:
    """Whether *rate*, as it is at *at*, can have given *weight*, at most *most*, by *instant*."""
    return weight <= most and rate.ready_at(at, weight) <= instant


def within(ends: Callable[[int, int], int], at: int, weight: int, lead: int) -> int:
    """The first instant that is no more than *lead* before *weight* is served, or forgotten.

    When that is, *ends* tells: later, if the rate is idle until then. At NEVER no time is enough.
    """
    end = ends(at, weight)
    return end - lead if end < NEVER and ends(end - lead, weight) <= end else NEVER
