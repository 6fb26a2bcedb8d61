"""Several limits that are taken together, all of them or nothing.

The public face. What is behind it: `SetCore` (`_core.py`).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Hashable, Iterator, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final

from async_throttle._base import BaseThrottle
from async_throttle._shell.fast import NOTHING
from async_throttle._shell.lease import Blocks
from async_throttle._shell.loop import drained
from async_throttle._shell.scheduler import find
from async_throttle._units import nanoseconds, seconds, whole
from async_throttle.exceptions import ResourceLimitError
from async_throttle.limits._core import SetCore, throttle_of
from async_throttle.limits._face import BaseLimits
from async_throttle.limits._single import RESERVED, Limit
from async_throttle.throttle import Throttle

__all__ = ["LimitSet", "core_of_set", "refuse_reserved"]


NO_CONFIG: Final[Mapping[str, Any]] = MappingProxyType({})


class LimitSet(BaseLimits):
    r"""Several limits that are taken together: all of them or nothing.

    ::

        api = LimitSet(
            requests=Throttle(500, period=60), tokens=Throttle(200_000, period=60), concurrency=20
        )
        async with api(tokens=1_200) as lease:
            ...
            lease.settle(tokens=900)

        async with LimitSet(everybody, chats[chat_id]):    # two throttles taken together
            ...

    A call takes 1 of each limit that it does not name, and a slot of each that has slots; 0
    leaves a limit out altogether. Who waits holds nothing, and callers of one set go in order
    of arrival.

    A throttle may be in several sets, and be used alone as well: it keeps its promises for all
    of them. Between sets, and between a set and those who use one of its throttles alone, a
    later caller may go first only where that makes no earlier one go later: it takes what an
    earlier one, who waits for some other limit, will not miss. A caller who lacks a slot holds
    nobody up on the rates. Sets over the same throttles are one set: what pauses one pauses the
    others, also those that are made before the pause ends.

    All throttles of a set are of one kind: those of `async_throttle`, for one event loop at a
    time, or those of `async_throttle.threads`, which serve threads, with ``with``, and event
    loops, with ``async with``. A `Limit` in the manner of concurry is of the second kind. The
    `LimitSet` of `async_throttle.limits` is this class, made and called as concurry does.

    Args:
        throttles: throttles, or `Limit`\ s. A `Limit` is called by its key, a throttle by its
            name, or by its place among all that were given if it has none.
        concurrency: slots for the set as a whole; 0 is no limit. A call may take several, by
            ``api(concurrency=2)``.
        config: whatever calls shall know about their set: a region, an account.
        named: throttles by the names that calls use.

    Raises:
        ValueError: a reserved name; a name or a throttle that occurs twice; clocks that differ.
        TypeError: something that is neither a throttle nor a limit; throttles of both kinds.

    >>> import asyncio
    >>> async def main():
    ...     tokens = Throttle(1_000, period=60)
    ...     api = LimitSet(requests=Throttle(10, period=60), tokens=tokens, concurrency=2)
    ...     async with api(tokens=400) as lease:
    ...         lease.settle(tokens=100)
    ...     return round(api["tokens"].level), round(api["requests"].level)
    >>> asyncio.run(main())
    (900, 9)
    """

    __module__ = "async_throttle"

    # _limits    by key, as the user gave them
    __slots__ = ("_limits", "config")

    _core: SetCore

    def __init__(
        self,
        *throttles: BaseThrottle | Limit,
        concurrency: int = 0,
        config: Mapping[str, Any] | None = None,
        **named: BaseThrottle | Limit,
    ) -> None:
        if config or type(concurrency) is not int:
            refuse_reserved({"config": config, "concurrency": concurrency})
        self.config: Mapping[str, Any] = MappingProxyType(dict(config)) if config else NO_CONFIG
        self._blocks = Blocks()
        self._limits: dict[Hashable, Any] = {}
        for place, limit in enumerate(throttles):
            name = limit.name if isinstance(limit, BaseThrottle) else getattr(limit, "key", None)
            self._add(place if name is None else name, limit)
        for name, limit in named.items():
            if name in RESERVED:
                raise ValueError(f"{name!r} is a reserved name, no limit may have it: {limit!r}")
            self._add(name, limit)
        if concurrency != 0 and whole("concurrency", concurrency):
            kind = self._kind_of_slots()
            self._add("concurrency", kind(math.inf, concurrency, name="concurrency"))
        self._core = SetCore(self._limits)

    def _add(self, key: Hashable, limit: Any) -> None:
        if isinstance(limit, (list, tuple)):
            raise TypeError(
                f"limits are given one by one, got {limit!r}; async_throttle.limits.LimitSet "
                "takes a list of them"
            )
        if not isinstance(limit, (BaseThrottle, Limit)):
            raise TypeError(f"{key} must be a Throttle or a Limit, got {limit!r}")
        if key in self._limits:
            raise ValueError(f"two limits are called {key!r}")
        self._limits[key] = limit

    def _kind_of_slots(self) -> type[BaseThrottle]:
        """Of which kind the throttle is that has the slots of the set as a whole."""
        return type(throttle_of(next(iter(self._limits.values())))) if self._limits else Throttle

    # -- holding everybody --------------------------------------------------------------

    def pause(self, seconds: float | timedelta, *, empty: bool = False) -> Awaitable[None]:
        """Grant nobody anything of this set before *seconds* from now; see `Throttle.pause`.

        Its throttles go on for other sets, and for those who use them alone. With *empty* all
        of them are empty when the pause ends.
        """
        core, span = self._core, nanoseconds("seconds", seconds)
        find(core).do(lambda now: core.hold(now, span, empty))
        return NOTHING

    def resume(self) -> None:
        """End a pause of this set now."""
        find(self._core).do(self._core.resume)

    async def drain(self) -> None:
        """Wait until nobody waits for any of the limits or holds one of their slots."""
        await drained(self._core, self._core.occupied)

    @property
    def paused_for(self) -> float:
        """Seconds until the pause of this set ends; 0.0 if there is none."""
        until = self._core.lane.pauses[0].until
        return seconds(find(self._core).ask(lambda now: max(0, until - now)))

    # -- looking ------------------------------------------------------------------------

    def __getitem__(self, key: Hashable) -> Any:
        """The throttle, or the `Limit`, that is called *key*: to see it, change it, pause it."""
        try:
            return self._limits[key]
        except KeyError:
            raise KeyError(self._core.unknown(key)) from None

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._limits)

    def __len__(self) -> int:
        return len(self._limits)

    def __contains__(self, key: object) -> bool:
        return key in self._limits

    def keys(self) -> list[Hashable]:
        """What the limits are called, in the order in which they were given."""
        return list(self._limits)

    def locked(self) -> bool:
        """True if a call that takes 1 of everything would not be granted at once."""
        core = self._core

        def question(now: int) -> bool:
            scheduler = find(core)
            return scheduler.behind() or not scheduler.queue.can_take(core.lane, core.unit)

        try:
            core.check(core.unit)
        except ResourceLimitError:
            return True
        return find(core).ask(question, lambda now: True)

    @property
    def waiting(self) -> int:
        """Callers of this set that are queued."""
        return find(self._core).ask(lambda now: self._core.waiting())

    @property
    def max_waiting(self) -> int | None:
        """Most callers that may queue, by the strictest of its throttles; None is no bound."""
        return self._core.max_waiting

    def __repr__(self) -> str:
        return repr(self._core)


def core_of_set(limit_set: LimitSet) -> SetCore:
    """What is behind the face of *limit_set*: for pools."""
    return limit_set._core


def refuse_reserved(given: Mapping[str, Any]) -> None:
    """Refuse limits that are *given* by the names of other arguments."""
    for name, value in given.items():
        if isinstance(value, (BaseThrottle, Limit)):
            raise ValueError(f"{name!r} is a reserved name, no limit may have it: {value!r}")
