"""How a set refuses: its errors, which name the limit as the caller knows it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

from async_throttle._engine.lane import SKIP, Lane
from async_throttle._shell.refusals import flying
from async_throttle._shell.scheduler import find
from async_throttle._shell.waiting import known, paused, told
from async_throttle._units import TOKEN
from async_throttle.exceptions import (
    ResourceLimitError,
    ThrottleClosed,
    ThrottleFull,
    ThrottleTimeout,
    WeightTooLarge,
)

if TYPE_CHECKING:
    from async_throttle._shell.core import Core

__all__ = ["IN_FLIGHT", "PAUSE", "SetRefusals", "called", "unknown"]

PAUSE = "pause"
"""How the pause of a set is called among what its callers wait for."""

IN_FLIGHT = "in flight"
"""How calls that have not ended are called among what others wait for."""


class SetRefusals:
    """The part of a set's core that refuses."""

    __slots__ = ()

    limits: Mapping[Hashable, Any]
    members: list[Core]
    bounded: list[Core]
    lane: Lane
    closed: bool

    if TYPE_CHECKING:

        @property
        def places(self) -> Mapping[Hashable, Any]: ...
        def key(self, place: int) -> Hashable: ...

    def crowded(self, weights: tuple[int, ...]) -> Core | None:
        """The member for which as many wait as may, of those that *weights* ask for; or None."""
        for member in self.bounded:
            wanted = weights[self.lane.rules.index(member.rule)] != SKIP
            if wanted and member.crowded(weights) is not None:
                return member
        return None

    def count_refusal(self, error: ResourceLimitError) -> None:
        """A call was refused with *error*: count it at the member that this names."""
        for key in self.limits:
            if key == error.limit:
                self.members[self.places[key][0] // 2].count_refusal(error)

    def unknown(self, key: Hashable) -> str:
        """What is said of a name that is none."""
        return unknown(key, self.limits, "the set")

    def refusal_weight(self, weights: tuple[int, ...]) -> WeightTooLarge:
        """*weights* are more than there can be at once."""
        # The one that is exceeded by most: it may have been raised again meanwhile.
        asked = list(enumerate(zip(weights, self.lane.rules, strict=True)))
        place, (_, rule) = max(asked, key=lambda ask: ask[1][0] / ask[1][1].burst)
        key = self.key(place)
        unit = TOKEN if place % 2 else 1
        largest = rule.burst / unit
        return WeightTooLarge(
            f"{called(key)} of {weights[place] / unit:g} is more than there can be at once: the "
            f"largest that could ever be granted is {largest:g}",
            largest=largest,
            limit=key,
        )

    def _held(self, place: int) -> str:
        """How long what holds a caller up at *place* is paused; empty if it is not."""
        if place < 0:
            return ""
        if place > 2 * len(self.members):
            place -= 2 * len(self.members) + 1
        pauses = (*(member.pause for member in self.members), self.lane.pauses[0])
        return paused(pauses[place // 2], find(self).queue.now)

    def refusal_timeout(self, timeout: float, wait: int, place: int) -> ThrottleTimeout:
        """The call takes longer than *timeout*, for the rule at *place*."""
        key = self.key(place)
        label = "the set" if key is None or key is PAUSE else called(key)
        held = self._held(place)
        if 0 <= place != 2 * len(self.members):
            label += flying(self.members[self.places[key][0] // 2])
        return ThrottleTimeout(
            f"{label}{f'{held}, and' if held else ''} does not grant it within a timeout of "
            f"{timeout:g} s{told(wait)}",
            limit=key,
            retry_after=known(wait),
        )

    def refusal_full(self, full: Core, wait: int) -> ThrottleFull:
        """As many wait for *full* as may."""
        key = self.key(2 * self.members.index(full))
        most = full.max_waiting
        return ThrottleFull(
            f"max_waiting of {called(key)}{flying(full)} is {most}, and {most} wait already",
            limit=key,
            retry_after=known(wait),
        )

    def refusal_closed(self, weights: tuple[int, ...]) -> ThrottleClosed:
        """The set or a member was closed."""
        if self.closed:
            return ThrottleClosed("the set is closed")
        key = next(
            key
            for key in self.limits
            if self.members[self.places[key][0] // 2].closed
            and weights[self.places[key][0] + 1] != SKIP
        )
        return ThrottleClosed(f"{called(key)} is closed", limit=key)


def called(key: Hashable) -> str:
    """What people are told of the limit *key*: its name, or its place."""
    return key if isinstance(key, str) else f"limit {key}"


def unknown(key: Hashable, limits: Mapping[Hashable, Any], whose: str) -> str:
    """What is said of a name that is none of *limits*, which are *whose*."""
    names = ", ".join(map(repr, limits))
    there = f"there are {names}" if names else "there are none"
    return f"no limit of {whose} is called {key!r}; {there}"
