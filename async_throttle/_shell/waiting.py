"""Callers that ask and callers that wait: what cores, leases and schedulers hand to each other."""

from __future__ import annotations

import types
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from async_throttle._engine.lane import GONE, GRANTED, QUEUED, Lane, Pause, Receipt, State
from async_throttle._units import NEVER, SECOND
from async_throttle.exceptions import ResourceLimitError

if TYPE_CHECKING:
    import asyncio

    from async_throttle._shell.scheduler import Scheduler

__all__ = [
    "NO_WAITERS",
    "Asked",
    "Attempt",
    "LoopWaiter",
    "Option",
    "Taker",
    "Waiting",
    "checked",
    "granted",
    "hopes",
    "known",
    "next_turn",
    "note",
    "paused",
    "possible",
    "refused",
    "resolve",
    "told",
]


NO_WAITERS: Final[set[Any]] = set()
"""Stays empty: what is handed over until a waiter is. Most throttles never need more."""


class Asked(Protocol):
    """The core of a throttle or of a set, as the scheduler sees it."""

    scheduler: Scheduler

    @property
    def max_waiting(self) -> int | None:
        """Most callers that may queue; None is no bound."""
        ...

    def check(self, weights: tuple[int, ...]) -> None:
        """Refuse *weights* that can never be granted."""
        ...

    def count_wait(self, waiter: Waiting) -> None:
        """The caller of *waiter* was granted, and runs again."""
        ...

    def count_refusal(self, error: ResourceLimitError) -> None:
        """A call was refused with *error*."""
        ...

    def crowded(self, weights: tuple[int, ...]) -> object:
        """The limit of *weights* at which `max_waiting` callers wait already; or None."""
        ...

    def refusal_weight(self, weights: tuple[int, ...]) -> ResourceLimitError: ...
    def refusal_timeout(self, timeout: float, wait: int, place: int) -> ResourceLimitError: ...
    def refusal_full(self, full: Any, wait: int) -> ResourceLimitError: ...
    def refusal_closed(self, weights: tuple[int, ...]) -> ResourceLimitError: ...


class Option(NamedTuple):
    """A way to be granted: the core to ask, the lane to wait in, and the weights."""

    asked: Asked
    lane: Lane
    weights: tuple[int, ...]


class Taker(Protocol):
    """A lease, which is filled in when the call is granted."""

    def _hold(self, receipts: list[Receipt], waited: int, option: Option, spans: Any) -> None:
        """*receipts* were taken, for *option*, after *waited* nanoseconds."""
        ...


class Waiting:
    """A caller that waits: the queue's `Waiter`, to which subclasses add a wake-up.

    Attributes:
        option: the way in which the caller asked here.
        arrived: instant of the arrival.
    """

    __slots__ = (
        "arrived",
        "deadline",
        "error",
        "granted_at",
        "lane",
        "option",
        "order",
        "receipts",
        "rivals",
        "spans",
        "state",
        "weights",
    )

    arrived: int
    deadline: int
    error: BaseException
    granted_at: int
    lane: Lane
    option: Option
    order: int
    receipts: list[Receipt]
    spans: list[int]
    state: State
    weights: tuple[int, ...]
    rivals: Sequence[Waiting]
    """The same caller in every lane where it waits; empty if it waits in a single lane."""

    def __init__(self) -> None:
        self.state = GONE
        self.rivals = ()

    def cancelled(self) -> bool:
        """Whether the caller was cancelled, and has not left yet."""
        return False

    def in_each(self, options: Sequence[Option], now: int) -> Sequence[Waiting]:
        """The caller, arrived *now*, in the lane of each of *options*; this waiter is the first."""
        waiters: list[Waiting] = [self]
        self.option = options[0]
        self.arrived = now
        if len(options) > 1:
            self.rivals = waiters
            for option in options[1:]:
                twin = self.twin()
                twin.option = option
                twin.arrived = now
                twin.rivals = waiters
                waiters.append(twin)
        return waiters

    def twin(self) -> Waiting:
        """The same caller in another lane."""
        return type(self)()


class LoopWaiter(Waiting):
    """A caller that waits in an event loop.

    Attributes:
        future: the caller awaits it. (It is no subclass of Future: asyncio has a shortcut for
            exactly that class.)
    """

    __slots__ = ("future",)

    future: asyncio.Future[None]

    def cancelled(self) -> bool:
        """Whether the caller was cancelled, and has not left yet."""
        return self.future.cancelled()

    def twin(self) -> LoopWaiter:
        """The same caller in another lane, with the same future."""
        twin = LoopWaiter()
        twin.future = self.future
        return twin


@types.coroutine
def next_turn() -> Generator[None, None, None]:
    """Let the tasks run first that are to run already, in a step of the event loop."""
    yield


def resolve(future: asyncio.Future[None]) -> None:
    """Wake the caller that awaits *future*, unless it has gone."""
    if not future.done():
        future.set_result(None)


class Attempt:
    """A caller that asks for the first of *options* to be granted.

    Attributes:
        options: the ways in which the caller asks.
        timeout: seconds to wait at most; None is no bound.
        taker: the lease to fill in; None without a lease.
        waiters: the caller in its lanes, if it has to wait.
        receipts: of the grant, if the caller has not to wait.
    """

    __slots__ = ("options", "receipts", "taker", "timeout", "waiters")

    def __init__(
        self, options: Sequence[Option], timeout: float | None, taker: Taker | None
    ) -> None:
        self.options = options
        self.timeout = timeout
        self.taker = taker
        self.waiters: Sequence[Waiting] = ()
        self.receipts: list[Receipt] | None = None

    def part(self) -> None:
        """The waiters know each other no more: the wait is over, and they would be a cycle."""
        for waiter in self.waiters:
            waiter.rivals = ()


def possible(options: Sequence[Option], *, asks: bool = False) -> Sequence[Option]:
    """The *options* that may ever be granted.

    Args:
        asks: the caller only asks, as `delay` does: its refusal is not counted.

    Raises:
        ResourceLimitError: no option may; the error is that of the first.
    """
    if len(options) == 1 and not asks:
        checked(options[0])
        return options
    found = []
    refusals = []
    for option in options:
        try:
            option.asked.check(option.weights)
            found.append(option)
        except ResourceLimitError as refusal:
            refusals.append(refusal)
    try:
        if not found:
            raise refusals[0] if asks else refused(options[0].asked, refusals[0])
    finally:
        refusals.clear()  # or they and their tracebacks would keep each other
    return found


def checked(option: Option) -> None:
    """Refuse a call of *option* that can never be granted."""
    try:
        option.asked.check(option.weights)
    except ResourceLimitError as error:
        option.asked.count_refusal(error)
        raise


def refused(asked: Asked, error: ResourceLimitError) -> ResourceLimitError:
    """*error*, counted: *asked* refuses a call with it."""
    asked.count_refusal(error)
    return error


def granted(waiter: Waiting) -> Waiting:
    """The rival of *waiter* that was granted, or *waiter* itself."""
    return next((rival for rival in waiter.rivals if rival.state is GRANTED), waiter)


def hopes(waiter: Waiting) -> bool:
    """Whether the caller of *waiter* is still queued in a lane."""
    return waiter.state is QUEUED or any(rival.state is QUEUED for rival in waiter.rivals)


def note(error: BaseException, what: str, late: BaseException) -> None:
    """*late* came as *error* made its caller leave *what*: say so with *error*, which goes on."""
    error.add_note(f"and when {what} was left: {type(late).__name__}: {late}")


def known(wait: int) -> float | None:
    """Seconds that a caller has to wait, unless it is for a slot, or for ever: None."""
    return wait / SECOND if 0 < wait < NEVER // 2 else None


def paused(pause: Pause, now: int) -> str:
    """How long *pause* lasts, after the name of what it holds; empty if it is over."""
    left = pause.left(now)
    if not left:
        return ""
    span = known(left)
    return " is paused until resume()" if span is None else f" is paused for another {span:g} s"


def told(wait: int) -> str:
    """The known wait, at the end of a sentence; empty if the wait is not known."""
    span = known(wait)
    return "" if span is None else f": it takes {span:g} s or more"
