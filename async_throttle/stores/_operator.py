"""An operator: looks at the limits of a store, and changes them by hand. It holds nothing there.

Units: seconds, and tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Self

from async_throttle._units import NEVER as ENDLESS
from async_throttle._units import nanoseconds, positive, whole
from async_throttle.exceptions import StoreUnavailable
from async_throttle.stores._account import MICRO, given, new_generation, wanted
from async_throttle.stores._reading import Reading, entry, reading, request
from async_throttle.stores._state import (
    BUCKET,
    BURST,
    CAPACITY,
    CLOCK,
    KIND,
    NEVER,
    NO_RATE,
    PERIOD,
    SLOTS,
    State,
    ticks,
)

if TYPE_CHECKING:
    from async_throttle.stores import Connection, Store

__all__ = ["Operator", "changed"]

PATIENCE: Final = 2.0
"""Seconds for which others may be at the store."""

SHOWN: Final = 20
"""Names of limits that an error tells."""


class Operator:
    """A look at a store, and a hand: a block, at whose end its connection is closed.

    It blocks the thread. In an event loop, `asyncio.to_thread` is the way.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def readings(self) -> tuple[float, dict[str, Reading]]:
        """The time of the store, in seconds since 1970, 0.0 without a limit; the limits by name."""
        states = self._store.look()
        if not states:
            return 0.0, {}
        first = next(iter(states))
        now = self._call(first, states[first], [])  # a store alone knows its time
        read = {name: reading(name, states[name], now) for name in sorted(states)}
        return now / 1e6, read

    def pause(self, name: str, seconds: float | timedelta) -> None:
        """See `Store.pause`."""
        span = nanoseconds("seconds", seconds)
        self._do(name, ["pause", NEVER if span >= ENDLESS else wanted(span), 0])

    def resume(self, name: str) -> None:
        """See `Store.resume`."""
        self._do(name, ["resume"])

    def reset(self, name: str) -> None:
        """See `Store.reset`."""
        self._do(name, ["reset"])

    def set(self, name: str, **parameters: Any) -> None:
        """See `Store.set`."""
        state = self._state(name)
        self._call(name, state, [["set", changed(name, state["set"], **parameters)]])

    def _do(self, name: str, operation: list[Any]) -> None:
        self._call(name, self._state(name), [operation])

    def _state(self, name: str) -> State:
        states = self._store.look()
        if name not in states:
            there = f"there are {_listed(states)}" if states else "there are none"
            raise LookupError(f"no limit {name!r} is known to {self._store!r}: {there}")
        return states[name]  # type: ignore[no-any-return]

    def _call(self, name: str, state: State, operations: list[list[Any]]) -> float:
        from async_throttle.stores import Busy  # which imports this module

        grace = round(self._store.grace * 1e6)
        asked = entry(state, operations, new_generation())
        if self._connection is None:
            self._connection = self._store.connect(_nothing)
        try:
            reply = self._connection.call([name], request([asked], grace), PATIENCE)
        except Busy:
            raise StoreUnavailable(
                f"others have been at {self._store!r} for {PATIENCE:g} s"
            ) from None
        return reply["now"]  # type: ignore[no-any-return]


def changed(
    name: str,
    set_: Sequence[float],
    *,
    capacity: float | None = None,
    period: float | timedelta | None = None,
    burst: float | None = None,
    concurrency: int | None = None,
) -> list[float]:
    """The parameters of a limit in a store, some of which are to be others; see `Store.set`.

    >>> changed("chat", [BUCKET, 2_000_000, 1_000_000, 2_000_000, 0, 2, 1, 0], capacity=3)
    [1, 3000000, 1000000, 3000000, 0, 3, 1, 0]
    """
    new = list(set_)
    kind = set_[KIND]
    for what, value in (("capacity", capacity), ("period", period), ("burst", burst)):
        if value is not None and kind == NO_RATE:
            raise ValueError(f"{what} must not be set: {name!r} has no rate")
    if burst is not None and kind != BUCKET:
        raise ValueError(f"burst must not be set: {name!r} is a window")
    if period is not None and kind == CLOCK:
        raise ValueError(f"period must not be set: {name!r} is a window on the clock")
    if capacity is not None:
        new[CAPACITY] = _amount("capacity", capacity)
        if kind != BUCKET or set_[BURST] == set_[CAPACITY] > 1_000_000:
            new[BURST] = new[CAPACITY]
    if burst is not None:
        new[BURST] = _amount("burst", burst)
    if period is not None:
        new[PERIOD] = nanoseconds("period", period) // MICRO
        if not 0 < new[PERIOD] < ENDLESS // MICRO:
            raise ValueError(f"period must be at least 1e-6 s, and finite, got {period!r}")
    if concurrency is not None:
        new[SLOTS] = whole("concurrency", concurrency)
    if kind != NO_RATE:
        new[5:7] = ticks(int(new[CAPACITY]), int(new[PERIOD]))
    return new


def _amount(what: str, value: float) -> int:
    """Millionths of a token."""
    amount = given(int(positive(what, value)))
    if not amount:
        raise ValueError(f"{what} must be at least 1e-6 with a store, got {value!r}")
    return amount


def _listed(names: Iterable[str]) -> str:
    told = [repr(name) for name in sorted(names)]
    more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    return ", ".join(told[:SHOWN]) + more


def _nothing() -> None:
    """What an operator does when it is woken."""
