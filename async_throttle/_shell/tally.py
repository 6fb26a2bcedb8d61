"""What is counted of the calls that waited or were refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from async_throttle.exceptions import (
    ResourceLimitError,
    ThrottleClosed,
    ThrottleFull,
    ThrottleTimeout,
    WeightTooLarge,
)

__all__ = ["Tally", "count_waits", "tally_of"]


class Tally:
    """Counts of a throttle, since it was made. Calls that never waited are in none of them.

    Attributes:
        granted: calls that were granted after they had waited.
        waited: nanoseconds that those waited, together.
        longest: nanoseconds that the most patient of them waited.
        timeout, full, closed, weight: calls that were refused, by kind.
        ignored: counts of a server that were void.
    """

    __slots__ = ("closed", "full", "granted", "ignored", "longest", "timeout", "waited", "weight")

    def __init__(self) -> None:
        self.granted = self.waited = self.longest = self.ignored = 0
        self.timeout = self.full = self.closed = self.weight = 0

    def wait(self, span: int) -> None:
        """A call was granted after *span* nanoseconds in the queue."""
        self.granted += 1
        self.waited += span
        if span > self.longest:
            self.longest = span

    def refuse(self, error: ResourceLimitError) -> None:
        """A call was refused with *error*."""
        self.timeout += isinstance(error, ThrottleTimeout)
        self.full += isinstance(error, ThrottleFull)
        self.closed += isinstance(error, ThrottleClosed)
        self.weight += isinstance(error, WeightTooLarge)


def tally_of(core: Any) -> Tally:
    """The tally of a throttle, made when there is first something to count."""
    if core.tally is None:
        core.tally = Tally()
    tally: Tally = core.tally
    return tally


def count_waits(cores: Iterable[Any], spans: Iterable[int]) -> None:
    """A call was granted: count it at each of *cores* that held it up, for that one's span."""
    for core, span in zip(cores, spans, strict=False):
        if span:
            tally_of(core).wait(span)
