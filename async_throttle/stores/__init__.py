"""Where a quota lives when it is not this process: one quota over processes and machines.

`SQLiteStore` keeps it in a file, for the processes of one host; `RedisStore` on a server, for those
of many; `RayStore` in an actor of Ray. The core of the package imports none of them.

A store of your own subclasses `Store` and has two methods: `connect`, which makes a `Connection`,
and `look`. All that a connection does is `_state.step`: it reads the states of some names, applies
one step to them, keeps what comes back, and wakes whom the step names; tests/test_stores.py has one
of thirty lines.

The map: `_state` is what a store does, without any store; `_session` asks on behalf of the
throttles of one event loop, or of the threads of a process; `rules/booked.py` is what the queue
sees. `_reading` tells how limits stand, `_operator` changes them by hand; `_quota` is the command
line for both, and `_view` what it shows.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from async_throttle.exceptions import StoreUnavailable

if TYPE_CHECKING:
    from datetime import timedelta

    from async_throttle.stores._operator import Operator
    from async_throttle.stores._reading import Reading
    from async_throttle.stores.ray import RayStore
    from async_throttle.stores.redis import RedisStore
    from async_throttle.stores.sqlite import SQLiteStore

__all__ = [
    "Busy",
    "Connection",
    "RayStore",
    "RedisStore",
    "SQLiteStore",
    "Store",
    "StoreUnavailable",
    "address_of",
    "packed",
]

_MODULES: Final = {"RayStore": "ray", "RedisStore": "redis", "SQLiteStore": "sqlite"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


Request = Mapping[str, Any]
"""What a session asks: see `_state.step`. JSON can say it."""

Reply = Mapping[str, Any]


class Busy(Exception):
    """Another process is at the store, and the caller does not want to wait."""


class Connection(ABC):
    """A way to a store, of one event loop or of the threads of one process.

    Attributes:
        address: by what this connection is woken: text without a slash. The names of sessions are
            ``host/pid/address/number``.
        quick: `call` takes microseconds, so an event loop may make it.
    """

    address: str
    quick: ClassVar[bool] = False

    @abstractmethod
    def call(self, names: Sequence[str], request: Request, patience: float) -> Reply:
        """Apply a step to the states of *names*, in this thread.

        Raises:
            Busy: others were at the store for *patience* seconds.
            StoreUnavailable: the store is away; it is not known whether the step was applied.
        """

    @abstractmethod
    async def send(self, names: Sequence[str], request: Request) -> Reply:
        """The same in an event loop, without blocking it."""

    @abstractmethod
    def close(self) -> None:
        """Let the connection go; in a forked child, without a word to the store."""


class Store(ABC):
    """A place for the states of limits, with a clock.

    Args:
        ttl: seconds after which the slots of a process that died come back.
        horizon: seconds ahead for which permits are booked. Within, the order of processes is that
            of the store; beyond, they alternate.
        grace: seconds by which a booked permit may be used late; then it is given back.
        on_error: what callers do while the store is away: "wait" for it, go by this process's share
            of the limits ("local"), go at once ("open"), or "raise" `StoreUnavailable`.
        on_mismatch: what happens if the store knows other parameters, which another program says:
            "replace" them for all processes, or "raise" ValueError.

    Raises:
        ValueError: a parameter is out of range.
    """

    def __init__(
        self,
        *,
        ttl: float = 30.0,
        horizon: float = 0.25,
        grace: float = 0.02,
        on_error: Literal["wait", "local", "open", "raise"] = "wait",
        on_mismatch: Literal["replace", "raise"] = "replace",
    ) -> None:
        for name, value, least in (("ttl", ttl, 0.1), ("horizon", horizon, 0), ("grace", grace, 0)):
            if not least <= value <= 86_400:
                raise ValueError(f"{name} must be between {least} and 86400 s, got {value!r}")
        if on_error not in ("wait", "local", "open", "raise"):
            raise ValueError(
                f"on_error must be 'wait', 'local', 'open' or 'raise', got {on_error!r}"
            )
        if on_mismatch not in ("replace", "raise"):
            raise ValueError(f"on_mismatch must be 'replace' or 'raise', got {on_mismatch!r}")
        self.ttl = ttl
        self.horizon = horizon
        self.grace = grace
        self.on_error = on_error
        self.on_mismatch = on_mismatch

    @abstractmethod
    def connect(self, wake: Callable[[], None]) -> Connection:
        """A connection for the running event loop, or for the threads of this process.

        *wake* is to be called, in any thread, when another session's step names one whose address
        is that of the connection; and when such a call may have been lost.

        Raises:
            StoreUnavailable: the store is away.
        """

    def dock(self, core: Any) -> None:
        """Have the limits of a throttle that was just made be those in the store."""
        from async_throttle.stores._session import dock  # by then there is a throttle to be fed

        dock(core, self)

    @abstractmethod
    def look(self) -> dict[str, Any]:
        """The states of all limits, by name: see `_state.blank`; `readings` is for people."""

    # -- by hand: what ``python -m async_throttle quota`` does ------------------------------

    def readings(self) -> dict[str, Reading]:
        """How all limits stand that the store knows, by name, and their sessions.

        A limit of which nothing is missing, and that no session has asked for within its *ttl*, is
        not known: nothing needs to be. Blocks, as do those below: in an event loop, by
        `asyncio.to_thread`; there, a throttle has all of these for the limit that it is.

        Raises:
            StoreUnavailable: the store is away.
        """
        with self._operator() as operator:
            return operator.readings()[1]

    def pause(self, name: str, seconds: float | timedelta) -> None:
        """Have nobody go before *seconds* from now, in any process; see `Throttle.pause`.

        Raises:
            LookupError: the store knows no such limit.
            StoreUnavailable: the store is away.
            ValueError: *seconds* is negative or not a number.
        """
        with self._operator() as operator:
            operator.pause(name, seconds)

    def resume(self, name: str) -> None:
        """End a pause now.

        Raises:
            LookupError: the store knows no such limit.
            StoreUnavailable: the store is away.
        """
        with self._operator() as operator:
            operator.resume(name)

    def set(
        self,
        name: str,
        *,
        capacity: float | None = None,
        period: float | timedelta | None = None,
        burst: float | None = None,
        concurrency: int | None = None,
    ) -> None:
        """Have other parameters in all processes, until the programs say others, or `reset`.

        What is taken stays taken. A burst that is the capacity follows it, if that is above 1.

        Args:
            name: of the limit.
            capacity, period, burst: of its rate; None is as before. A window has no burst.
            concurrency: slots; 0 is no limit.

        Raises:
            LookupError: the store knows no such limit.
            StoreUnavailable: the store is away.
            ValueError: a parameter is out of range, or the limit has none of that kind.
        """
        with self._operator() as operator:
            operator.set(
                name, capacity=capacity, period=period, burst=burst, concurrency=concurrency
            )

    def reset(self, name: str) -> None:
        """Begin anew: parameters as the programs say them, nothing taken, no pause.

        Sessions keep the slots that they hold, what is in flight, and what is booked for them
        already.

        Raises:
            LookupError: the store knows no such limit.
            StoreUnavailable: the store is away.
        """
        with self._operator() as operator:
            operator.reset(name)

    def _operator(self) -> Operator:
        from async_throttle.stores._operator import Operator  # most programs never ask

        return Operator(self)


SETTINGS: Final = ("ttl", "horizon", "grace", "on_error", "on_mismatch")
"""What each store is made with, besides its place."""

_here: weakref.WeakValueDictionary[Any, Store] = weakref.WeakValueDictionary()
"""The stores of this process that were pickled, or came by pickle."""


def packed(store: Store, place: str) -> tuple[Any, ...]:
    """What a *store* is pickled as that is made with its *place* and settings, for `__reduce__`.

    It is one object in each process, however often it comes there: throttles that came one by one
    go into one set, by one connection.
    """
    settings = tuple([(name, getattr(store, name)) for name in SETTINGS])
    _here.setdefault((type(store), place, settings), store)
    return _unpacked, (type(store), place, settings)


def _unpacked(kind: type[Any], place: str, settings: tuple[tuple[str, Any], ...]) -> Store:
    found = _here.get((kind, place, settings))
    if found is None:
        found = _here.setdefault((kind, place, settings), kind(place, **dict(settings)))
    return found


def address_of(session: str) -> str:
    """The address in the name of a session.

    >>> address_of("host/4711/50123/1")
    '50123'
    """
    return session.split("/")[2]
