"""What a granted call to a set of limits holds: a lease on several of them at once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Hashable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from async_throttle import threads
from async_throttle._base import Measure
from async_throttle._decorator import within_either
from async_throttle._desk import Party, checked_priority
from async_throttle._queue import Receipt
from async_throttle._units import SECOND
from async_throttle.adaptive import Outcome

if TYPE_CHECKING:
    from async_throttle.limits._set import LimitSet

__all__ = ["LimitSetAcquisition", "Source"]

P = ParamSpec("P")
R = TypeVar("R")

Option = tuple["LimitSet", Any, tuple[int, ...]]


class Source(Protocol):
    """Where acquisitions come from: a set, or a pool of them."""

    def _weigh(self, amounts: Mapping[Any, float]) -> tuple[Any, ...]:
        """What *amounts* are in the units of the rules."""
        ...

    def _options(self, weights: tuple[Any, ...], priority: int) -> tuple[Option, ...]:
        """Where to ask for *weights*."""
        ...

    def _asked(self) -> Party:
        """At whose desk."""
        ...

    def _at_once(self, acquisition: LimitSetAcquisition) -> bool:
        """Grant *acquisition* if nobody waits, without the frames of those who do."""
        ...

    def _granted(self, limit_set: LimitSet) -> None:
        """What was asked for is held of *limit_set*."""


class LimitSetAcquisition:
    """What a granted call holds, to be settled and released; a lease on several limits at once.

    Made by ``limit_set(tokens=900)``, for ``async with`` (and ``with``, where the limits are for
    threads) and as a decorator, and by `LimitSet.acquire` and `LimitSet.try_acquire`; pools make
    it, too.

    Attributes:
        limit_set: whose limits are held; None before the grant.
        waited: seconds from the arrival to the grant.
    """

    # _source    the set or the pool that was asked
    # _amounts   what was asked for, by key
    # _weights   the same, for each rule of the set's line; for a pool, of each of its sets,
    #            until one of them has granted it
    # _receipts  the same, of its rates, to give back
    # _settled   by key: nanotokens now, and debts, of what was settled; unset without
    # _measures  what adaptive limits are to learn from the call; unset without, and once told
    # _held_up   what held up the head of the line, and how long; unset without a wait
    __slots__ = (
        "__weakref__",
        "_amounts",
        "_held_up",
        "_measures",
        "_priority",
        "_receipts",
        "_settled",
        "_source",
        "_state",
        "_timeout",
        "_weights",
        "limit_set",
        "waited",
    )

    _held_up: list[int]
    _measures: dict[Hashable, Measure]
    _receipts: list[Receipt]
    _settled: dict[Hashable, tuple[int, list[tuple[Any, int]]]]
    _weights: tuple[Any, ...]
    limit_set: LimitSet | None
    waited: float

    def __init__(
        self,
        source: Source,
        amounts: Mapping[Any, float],
        timeout: float | None,
        priority: int,
    ) -> None:
        self._source = source
        self._amounts = amounts
        self._timeout = timeout
        self._priority = checked_priority(priority)
        self._weights = source._weigh(amounts)
        self._state = FRESH
        self.limit_set = None

    @property
    def successful(self) -> bool:
        """Whether it was granted."""
        return self._state in (GRANTED, RELEASED)

    @property
    def config(self) -> Mapping[str, Any]:
        """The *config* of the set whose limits are held; empty before the grant."""
        return {} if self.limit_set is None else self.limit_set.config

    @property
    def weights(self) -> dict[Hashable, float]:
        """What was taken at the grant, by key."""
        return {} if self.limit_set is None else self.limit_set._told(self._weights)

    @property
    def waited_for(self) -> dict[Hashable, float]:
        """Seconds for which each limit held up the head of the line meanwhile.

        They add up to `waited`. If the set itself was paused, that is told under None.
        """
        if self.limit_set is None:
            return {}
        return self.limit_set._blamed(getattr(self, "_held_up", None))

    # -- entering and leaving -----------------------------------------------------------

    async def __aenter__(self) -> LimitSetAcquisition:
        if self._begin() and (self._priority or not self._source._at_once(self)):
            try:
                source = self._source
                options = source._options(self._weights, self._priority)
                await threads.wait_in_loop(source._asked(), options, self._timeout, self)
            except BaseException:
                self._state = FRESH
                raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._quit(exc)

    def __enter__(self) -> LimitSetAcquisition:
        if self._state == GRANTED:
            return self
        if self._begin() and (self._priority or not self._source._at_once(self)):
            try:
                source = self._source
                options = source._options(self._weights, self._priority)
                threads.wait_in_thread(source._asked(), options, self._timeout, self)
            except BaseException:
                self._state = FRESH
                raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._quit(exc)

    def __await__(self) -> Generator[Any, Any, LimitSetAcquisition]:
        return self.__aenter__().__await__()

    def _begin(self) -> bool:
        """Whether it is still to be waited for."""
        if self._state == FRESH:
            self._state = ENTERING
            return True
        if self._state in (ENTERING, RELEASED):
            raise RuntimeError(f"{self!r} can be entered once: call the set again for another")
        return False

    def release(self) -> None:
        """Give the slots back; a second time does nothing."""
        if self._state == GRANTED:
            assert self.limit_set is not None, "whoever holds, holds of a set"
            self.limit_set._release(self)

    def _quit(self, error: BaseException | None) -> None:
        """The block that held this ends, with *error*."""
        limit_set = self.limit_set
        if limit_set is not None:
            try:
                if limit_set._measured:
                    measures = getattr(self, "_measures", {})
                    judged = {key: measure.judge(error) for key, measure in measures.items()}
                    limit_set._learn(self, judged)
            finally:
                if self._state == GRANTED:
                    limit_set._release(self)

    def ok(self) -> None:
        """The call went well: for those limits that adapt. See `Lease.ok`."""
        self._tell(Outcome.OK)

    def ignore(self) -> None:
        """The call says nothing about the server. See `Lease.ok`."""
        self._tell(Outcome.IGNORED)

    def dropped(self) -> None:
        """The server refused the call, or did not answer in time. See `Lease.ok`."""
        self._tell(Outcome.DROPPED)

    def _tell(self, outcome: Outcome) -> None:
        if self.limit_set is None:
            raise RuntimeError(f"nothing was granted to {self!r}")
        self.limit_set._learn(self, dict.fromkeys(getattr(self, "_measures", ()), outcome))

    def settle(self, **actual: float) -> None:
        """Say what the call really took, by limit, also after the block.

        Less than taken is given back at once, which may wake a waiter; more is debt from now
        on, which later callers wait out: see `Lease.settle`. Limits that are not named keep
        what they had; a second call replaces the first. What counts slots is not used up: it
        comes back by `release`, whatever is said here.

        Raises:
            ValueError: a name that is no limit of the set; an amount that is negative, infinite
                or not a number; for a `CallLimit`, one that is not 1. Nothing is settled then.
            RuntimeError: nothing was granted.
        """
        self.update(actual)

    def update(self, usage: Mapping[Any, float]) -> None:
        """`settle` in other words: ``update(usage={"tokens": 80})``."""
        if self.limit_set is None:
            raise RuntimeError(f"nothing was granted to {self!r}")
        self.limit_set._settle(self, usage)

    @overload
    def __call__(
        self, func: Callable[P, Coroutine[Any, Any, R]]
    ) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, func: Callable[P, R]) -> Callable[P, R]: ...
    def __call__(self, func: Callable[P, Any]) -> Callable[P, Any]:
        """Decorate an ``async def``, or a ``def`` that runs in threads: each call takes this."""
        return within_either(
            "a set of limits",
            func,
            lambda: type(self)(self._source, self._amounts, self._timeout, self._priority),
        )

    def _hold(self, receipts: list[Receipt], waited: int, option: Any = None) -> None:
        self.limit_set, _, self._weights = option
        self._source._granted(option[0])
        self._receipts = receipts
        self.waited = waited / SECOND
        self._state = GRANTED
        if option[0]._measured:
            self._measures = option[0]._measure(self._weights)

    def __repr__(self) -> str:
        asked = ", ".join(f"{key}={amount:g}" for key, amount in self._amounts.items())
        return (
            f"<async_throttle.LimitSetAcquisition({asked}) [{_STATES[self._state]}] "
            f"of {self._source!r}>"
        )


FRESH, ENTERING, GRANTED, RELEASED, REFUSED = range(5)
_STATES = ("fresh", "waiting", "held", "released", "refused")
