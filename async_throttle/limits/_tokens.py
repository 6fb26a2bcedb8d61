"""The tokens of a set without its slots, as `consume` asks for them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from async_throttle._engine.lane import SKIP, Lane, Receipt, give_back
from async_throttle._shell.core import checked_priority
from async_throttle._shell.scheduler import Scheduler, find
from async_throttle._shell.tally import count_waits
from async_throttle._shell.waiting import Option, Waiting
from async_throttle._units import TOKEN, tokens, whole
from async_throttle.exceptions import ResourceLimitError
from async_throttle.limits._refusals import called
from async_throttle.limits._single import CallLimit

if TYPE_CHECKING:
    from async_throttle.limits._core import SetCore

__all__ = ["Tokens"]


class Tokens:
    """The rates of a set in a lane of their own: a caller that lacks a slot is not in its way.

    Attributes:
        core: of the set, which refuses and is told of events.
        lane: over the rates of all members.
    """

    __slots__ = ("core", "lane")

    def __init__(self, core: SetCore) -> None:
        self.core = core
        self.lane = self.lane_of(0)

    def lane_of(self, priority: int) -> Lane:
        """Where callers of *priority* wait for tokens alone."""
        members = self.core.members
        rules = tuple([member.rule for member in members])
        pauses = (self.core.lane.pauses[0], *(member.pause for member in members))
        places = tuple(range(len(members)))
        scheduler = find(self.core)
        return scheduler.exclusively(
            lambda: scheduler.here().queue.lane(rules, pauses, checked_priority(priority), places)
        )

    def option(self, amounts: Mapping[Any, float], priority: int) -> Option:
        """To ask for *amounts*; nothing of limits that are not named."""
        lane = self.lane_of(priority) if priority else self.lane
        return Option(self, lane, self.weigh(amounts, tiny=False))

    def weigh(self, amounts: Mapping[Any, float], *, tiny: bool = True) -> tuple[int, ...]:
        """What *amounts* are to be taken of each rate; *tiny* ones, of less than 1e-9, are 0."""
        weights = [SKIP] * len(self.core.members)
        for key, amount in amounts.items():
            place = self._place(key)
            weights[place] = self._weight(key, amount, tiny=tiny) or SKIP
        return tuple(weights)

    def charge(self, now: int, weights: tuple[int, ...]) -> None:
        """Take *weights* for good: all of them, or none if a rule raises."""
        rates = self.lane.rates
        find(self.core).queue.touched(*(rule for n, rule in rates if weights[n] != SKIP))
        taken: list[Receipt] = []
        try:
            self.lane.take_into(taken, now, weights)
        except BaseException:
            give_back(now, taken)
            raise
        self.core.tell("change", weights)

    def _weight(self, key: Hashable, amount: float, *, tiny: bool) -> int:
        """What *amount* of the limit *key* is in nanotokens; calls come in whole numbers."""
        if isinstance(self.core.limits[key], CallLimit):
            return whole(called(key), amount) * TOKEN
        return tokens(called(key), amount, tiny=tiny)

    def _place(self, key: Hashable) -> int:
        """Where the rate of the limit *key* stands.

        Raises:
            ValueError: there is no such limit, or it has slots alone.
        """
        if not self.core.has_tokens(key):
            raise ValueError(f"{called(key)} has slots alone, and no tokens")
        return self.core.places[key][0] // 2

    if TYPE_CHECKING:
        scheduler: Scheduler
    else:

        @property
        def scheduler(self):
            """Where callers of the set wait."""
            return self.core.scheduler

        @scheduler.setter
        def scheduler(self, scheduler):
            self.core.scheduler = scheduler

    @property
    def max_waiting(self) -> int | None:
        """Most callers that may queue, by the strictest member; None is no bound."""
        return self.core.max_waiting

    def check(self, weights: tuple[int, ...]) -> None:
        """Refuse *weights* that can never be granted."""
        self.core.check(_wide(weights))

    def count_wait(self, waiter: Waiting) -> None:
        """The caller of *waiter* was granted: count it at each member that held it up."""
        spans, rates = waiter.spans, len(self.core.members)
        both = zip_longest(spans[:rates], spans[rates + 1 :], fillvalue=0)  # the last: in flight
        count_waits(self.core.members, map(sum, both))

    def count_refusal(self, error: ResourceLimitError) -> None:
        """A call was refused with *error*: count it at the member that this names."""
        self.core.count_refusal(error)

    def crowded(self, weights: tuple[int, ...]) -> object:
        """The member of *weights* for which as many wait as may; or None."""
        return self.core.crowded(_wide(weights))

    def refusal_weight(self, weights: tuple[int, ...]) -> ResourceLimitError:
        """*weights* are more than there can be at once."""
        return self.core.refusal_weight(_wide(weights))

    def refusal_timeout(self, timeout: float, wait: int, place: int) -> ResourceLimitError:
        """The call takes longer than *timeout*, for the rule at *place*."""
        members = len(self.core.members)
        wide = 2 * place + 1 if 0 <= place < members else 2 * place
        return self.core.refusal_timeout(timeout, wait, wide)

    def refusal_full(self, full: Any, wait: int) -> ResourceLimitError:
        """As many wait for *full* as may."""
        return self.core.refusal_full(full, wait)

    def refusal_closed(self, weights: tuple[int, ...]) -> ResourceLimitError:
        """The set or a member was closed."""
        return self.core.refusal_closed(_wide(weights))

    def __repr__(self) -> str:
        return repr(self.core)


def _wide(weights: tuple[int, ...]) -> tuple[int, ...]:
    """*weights* of the rates, as those of the lane that has the slots as well."""
    return tuple([each for weight in weights for each in (SKIP, weight)])
