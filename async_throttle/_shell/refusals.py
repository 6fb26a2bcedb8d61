"""How a throttle refuses: its errors, with what the caller can make of them; and how it counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from async_throttle._shell.tally import Tally, tally_of
from async_throttle._shell.waiting import Waiting, known, paused, told
from async_throttle._units import TOKEN
from async_throttle.exceptions import (
    ResourceLimitError,
    ThrottleClosed,
    ThrottleFull,
    ThrottleTimeout,
    WeightTooLarge,
)
from async_throttle.rules import Rule

if TYPE_CHECKING:
    from async_throttle._engine.lane import Pause
    from async_throttle._shell.scheduler import Scheduler

__all__ = ["Refusals", "flying", "in_flight", "lingering"]


class Refusals:
    """The part of a throttle's core that refuses, and counts who waited and who was refused."""

    __slots__ = ()

    name: str | None
    max_waiting: int | None
    rule: Rule
    pause: Pause
    scheduler: Scheduler
    tally: Tally | None

    def count_wait(self, waiter: Waiting) -> None:
        """The caller of *waiter* was granted, and runs again."""
        tally_of(self).wait(waiter.granted_at - waiter.arrived)

    def count_refusal(self, error: ResourceLimitError) -> None:
        """A call was refused with *error*."""
        tally_of(self).refuse(error)

    def refusal_weight(self, weights: tuple[int, ...]) -> WeightTooLarge:
        """*weights* are more than there can be at once."""
        largest = self.rule.burst / TOKEN
        return WeightTooLarge(
            f"weight {weights[-1] / TOKEN:g} exceeds the burst of {self._label()}: "
            f"the largest that could ever be granted is {largest:g}",
            largest=largest,
            limit=self.name,
        )

    def refusal_timeout(self, timeout: float, wait: int, place: int) -> ThrottleTimeout:
        """The call takes longer than *timeout*."""
        held = self._held()
        return ThrottleTimeout(
            f"{self._label()}{f'{held}, and' if held else ''} does not grant it within a timeout "
            f"of {timeout:g} s{told(wait)}",
            limit=self.name,
            retry_after=known(wait),
        )

    def refusal_full(self, full: object, wait: int) -> ThrottleFull:
        """*max_waiting* callers wait already."""
        most = self.max_waiting
        message = (
            f"max_waiting of {self._label()} is {most}, and {most} wait already"
            if most
            else f"{self._label()} would have to be waited for, and nobody may wait"
        )
        held = self._held()
        message += f"; it{held}" if held else ""
        return ThrottleFull(message, limit=self.name, retry_after=known(wait))

    def refusal_closed(self, weights: tuple[int, ...]) -> ThrottleClosed:
        """The throttle was closed."""
        return ThrottleClosed(f"{self._label()} is closed", limit=self.name)

    def _held(self) -> str:
        return paused(self.pause, self.scheduler.queue.now)

    def _label(self) -> str:
        label = "the throttle" if self.name is None else f"throttle {self.name!r}"
        return label + flying(self)


def in_flight(core: Any, now: int) -> float:
    """Tokens of calls of *core* that have not ended, where calls count to the end."""
    rule = core.rule
    if rule.in_flight is None:
        return 0.0
    pending: int = core.scheduler.queue.pending(rule)
    return float(rule.flying(now) - pending) / TOKEN


def lingering(core: Any, now: int) -> int:
    """The number of these calls that were cut short."""
    return 0 if core.rule.in_flight is None else int(core.rule.number_lingering(now))


def flying(core: Any) -> str:
    """How much is in flight of *core*, after its name; empty if nothing is."""
    weight = in_flight(core, core.scheduler.queue.now)
    return f", with {weight:g} in flight," if weight else ""
