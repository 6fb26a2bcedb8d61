"""AdaptiveRateLimiter: a rate for each resource, that follows a load which somebody reports.

A facade, like the others: the rates are those of throttles that adapt.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from async_throttle._units import positive, tokens
from async_throttle.adaptive import BackOff
from async_throttle.throttle import Throttle

__all__ = ["AdaptiveRateLimiter"]

LOW: Final = 0.5
HIGH: Final = 0.8
TOO_HIGH: Final = 0.9
"""Loads: below, between and above which it matters; see `AdaptiveRateLimiter`."""

MORE: Final = 1.2
LESS: Final = 0.8
"""What a rate is multiplied by."""

SPAN: Final = 100
"""How many times a rate may become what it was, or a fraction of it, unless told otherwise."""


class AdaptiveRateLimiter:
    """A rate for each resource, that follows the load which you report.

    ::

        limiter = AdaptiveRateLimiter(50.0)             # 50 per second of each, to begin with

        await limiter.acquire("database")
        limiter.adjust_rate("database", load=0.95)      # from now on 40

    A load above 0.9 takes a fifth off the resource's rate, one below 0.5 adds a fifth. While the
    load that was reported last, of whichever resource, is above 0.8, each `acquire` counts twice:
    of all resources, so that they go at half their rates. What goes through ``throttle()`` counts
    once.

    For a limit that finds out by itself what a server bears, see *adapt* of `Throttle`. Those
    beneath have it: a block of ``limiter.throttle("database")`` that is refused, or times out,
    lowers the rate as well.

    Resources are never forgotten. For keys that come and go there is `Throttles`.

    Args:
        rate: operations per second, of a resource of which nothing is known yet.
        minimum, maximum: operations per second, between which the rates stay; unset, a hundredth
            and the hundredfold of *rate*.

    Raises:
        ValueError: a rate is not a positive number, or *rate* is not between the others.

    >>> limiter = AdaptiveRateLimiter(10.0)
    >>> limiter.adjust_rate("database", load=0.95)
    >>> dict(limiter.rates)
    {'database': 8.0}
    """

    __module__ = "async_throttle"

    __slots__ = ("_adapt", "_heavy", "_rate", "_throttles")

    def __init__(
        self, rate: float = 1.0, *, minimum: float | None = None, maximum: float | None = None
    ) -> None:
        positive("rate", rate)
        least = rate / SPAN if minimum is None else minimum
        most = rate * SPAN if maximum is None else maximum
        positive("minimum", least)
        positive("maximum", most)
        self._adapt = BackOff(minimum=least, maximum=most)
        if not least <= rate <= most:
            raise ValueError(f"rate must be between {least!r} and {most!r}, got {rate!r}")
        self._rate = rate
        self._throttles: dict[str, Throttle] = {}
        self._heavy = False

    @property
    def rates(self) -> Mapping[str, float]:
        """Operations per second of each resource, as things stand; a copy that cannot be changed.

        To set one: ``limiter.throttle("database").capacity = 20``.
        """
        rates = {
            resource_id: throttle.capacity for resource_id, throttle in self._throttles.items()
        }
        return MappingProxyType(rates)

    def throttle(self, resource_id: str) -> Throttle:
        """The throttle of a resource, for all that it can do: blocks, pause, delay."""
        throttle = self._throttles.get(resource_id)
        if throttle is None:
            throttle = Throttle(self._rate, name=str(resource_id), adapt=self._adapt)
            self._throttles[resource_id] = throttle
        return throttle

    async def acquire(self, resource_id: str) -> None:
        """Wait until the resource may be used once more."""
        throttle = self.throttle(resource_id)
        await throttle.consume()
        if self._heavy:
            throttle.charge(1)  # once more: that is half the rate

    def adjust_rate(self, resource_id: str, load: float) -> None:
        """Report the load of a resource; who waits for it is planned anew at once.

        Args:
            load: 0.0 is idle, 1.0 all that it bears.

        Raises:
            ValueError: *load* is negative, infinite or not a number.
        """
        tokens("load", load)  # which refuses what is no finite number of at least 0
        throttle = self.throttle(resource_id)
        self._heavy = load > HIGH
        if load > TOO_HIGH:
            throttle.capacity *= LESS
        elif load < LOW:
            throttle.capacity *= MORE

    def __repr__(self) -> str:
        rates = "".join(f", {key}:{rate:g}/s" for key, rate in self.rates.items())
        heavy = "halved" if self._heavy else "in full"
        return f"<async_throttle.AdaptiveRateLimiter [{heavy}{rates}]>"
