"""What an adaptive limit is, and how it judges the end of a call."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from typing import Any, ClassVar, Final

from async_throttle._units import NEVER, nanoseconds
from async_throttle.exceptions import ResourceLimitError

__all__ = ["Adaptive", "Judge", "Outcome", "fraction", "rate", "span"]

REFUSED: Final = frozenset({429, 503, 529})
"""HTTP statuses with which a server says that it is too much."""

REFUSED_BY_NAME: Final = frozenset({"RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"})
"""Names of gRPC statuses with which a server says that it is too much, or too late."""


class Outcome(Enum):
    """How a call ended, as far as the limit is concerned."""

    __module__ = "async_throttle"

    OK = "ok"
    """It was served: its latency counts."""

    IGNORED = "ignored"
    """It says nothing of the server: cancelled, say, or wrong from the start."""

    DROPPED = "dropped"
    """The server had too much: it refused, or did not answer in time."""


Judge = Callable[[BaseException], Outcome | None]


class Adaptive(ABC):
    """A limit that follows what becomes of the calls. Give one to a throttle as *adapt*.

    To bring one of your own, subclass this, say what it steers, and write `limit`, `begin` and
    `sample`. The throttle takes a copy (`copy.copy`), begins it, tells it of each call that is
    over, and does as `limit` says. So one instance may be given to many throttles, as long as
    `begin` makes all that is changed later on.

    Args:
        judge: says how a call counts that ended with an error; where it returns None, the
            usual answer of the method `judge` stands.
    """

    __module__ = "async_throttle"

    __slots__ = ("_judge",)

    steers: ClassVar[str]
    """What it sets: "concurrency", in slots, or "capacity", in tokens per second."""

    start: ClassVar[float]
    """Where it begins if the throttle does not say."""

    minimum: Any = 1
    """What it never goes below. So many slots one call may have, that is sure to get them."""

    def __init__(self, *, judge: Judge | None = None) -> None:
        if judge is not None and not callable(judge):
            raise TypeError(f"judge must be callable with an error, got {judge!r}")
        self._judge = judge

    @property
    @abstractmethod
    def limit(self) -> float:
        """What it says now: slots, a whole number of at least 1, or tokens per second."""

    @abstractmethod
    def begin(self, limit: float, now: int) -> None:
        """Start, or start anew, at *limit*, or as near as it may be."""

    @abstractmethod
    def sample(self, now: int, began: int, in_flight: int, weight: float, outcome: Outcome) -> None:
        """A call is over.

        Args:
            now: the instant, in nanoseconds.
            began: the instant at which it was let through. A sample that ends before it began
                (another clock) is passed over.
            in_flight: slots in use when it was let through, its own included; or when it ended,
                if more of those that there were have been taken meanwhile.
            weight: tokens that it took, as settled.
            outcome: how it ended.
        """

    def judge(self, error: BaseException | None) -> Outcome:
        """How a block counts that ended with *error*.

        No error is OK. Dropped are timeouts, whoever's they are: the builtin, and every class
        with "timeout" in its name or its bases'; the statuses 429, 503 and 529, as *status*,
        *status_code* or *code* of the error or of its *response*; RESOURCE_EXHAUSTED,
        UNAVAILABLE and DEADLINE_EXCEEDED, as gRPC has it; and a group with one of these in it.
        Everything else is ignored: cancellation, the refusal of a throttle, which says nothing
        of the server, and errors that a smaller limit would not have helped.

        >>> from async_throttle.adaptive import AIMD
        >>> rule = AIMD(judge=lambda error: Outcome.DROPPED if "busy" in str(error) else None)
        >>> rule.judge(OSError("busy")), rule.judge(OSError("no such host"))
        (<Outcome.DROPPED: 'dropped'>, <Outcome.IGNORED: 'ignored'>)
        """
        if error is None:
            return Outcome.OK
        judge: Judge | None = getattr(self, "_judge", None)  # a subclass may not call __init__
        verdict = None if judge is None else judge(error)
        if verdict is None:
            return Outcome.DROPPED if _overload(error) else Outcome.IGNORED
        if not isinstance(verdict, Outcome):
            raise TypeError(f"judge must return an Outcome or None, got {verdict!r}")
        return verdict


def _overload(error: BaseException) -> bool:
    """Whether *error* says that the server had too much."""
    if isinstance(error, BaseExceptionGroup):
        return any(_overload(leaf) for leaf in error.exceptions)
    if not isinstance(error, Exception) or isinstance(error, ResourceLimitError):
        return False
    if any("timeout" in cls.__name__.lower() for cls in type(error).__mro__):
        return True
    return _refusal(error) or _refusal(_attribute(error, "response"))


def _refusal(answer: object) -> bool:
    """Whether *answer*, an error or a response, has a status that refuses."""
    for name in ("status", "status_code", "code"):
        status = _attribute(answer, name)
        if name == "code" and callable(status):  # of gRPC
            try:
                status = status()
            except Exception:
                status = None
        if isinstance(status, int):
            return status in REFUSED  # and no more is asked: with aiohttp, `code` is deprecated
        for said in (status, _attribute(status, "name")):
            if isinstance(said, str) and said in REFUSED_BY_NAME:
                return True
    return False


def _attribute(thing: object, name: str) -> Any:
    """An attribute; None also where to ask for it is an error, which is not ours to raise."""
    try:
        return getattr(thing, name, None)
    except Exception:
        return None


def fraction(name: str, value: float) -> float:
    """A number between 0 and 1, both excluded.

    >>> fraction("decrease", 0.9)
    0.9
    """
    return _between(name, "between 0 and 1", value, 1)


def rate(name: str, value: float) -> float:
    """A finite number of tokens per second above 0.

    >>> rate("minimum", 3)
    3.0
    """
    return _between(name, "a finite number above 0", value, math.inf)


def span(name: str, value: float, least: int = 1) -> int:
    """A finite number of seconds above 0, in nanoseconds, of which it is at least *least*.

    >>> span("timeout", 0.5)
    500000000
    """
    found = nanoseconds(name, value)
    if not least <= found < NEVER:
        raise ValueError(f"{name} must be a finite number of seconds above 0, got {value!r}")
    return found


def _between(name: str, what: str, value: float, most: float) -> float:
    try:
        fits = not isinstance(value, str) and 0 < value < most
    except TypeError:
        raise TypeError(f"{name} must be {what}, got {value!r}") from None
    if not fits:
        raise ValueError(f"{name} must be {what}, got {value!r}")
    return float(value)
