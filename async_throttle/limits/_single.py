"""One limit each, in the manner of concurry: a throttle, and what it is called in its set."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, Self

from async_throttle._base import core_of
from async_throttle._shell.single import Single
from async_throttle._units import number, positive, tokens, whole
from async_throttle.limits._window import Window, one_window
from async_throttle.rules import Rule
from async_throttle.rules.algorithm import RateLimitAlgorithm, rule_class
from async_throttle.rules.bucket import TokenBucket
from async_throttle.rules.clock import ClockWindow
from async_throttle.threads import Throttle

if TYPE_CHECKING:
    from async_throttle.stores import Store

__all__ = ["RESERVED", "CallLimit", "Limit", "RateLimit", "ResourceLimit"]

RESERVED: Final = (
    "limits",
    "shared",
    "mode",
    "config",
    "concurrency",
    "name",
    "requested",
    "timeout",
    "priority",
    "store",
)
"""Names that no limit may have: they mean something where sets are made or called."""


class Limit(Single, ABC):
    """One limit, to be put into a `LimitSet`.

    Attributes:
        throttle: what it is made of; a throttle for threads, which event loops may use too.
    """

    __module__ = "async_throttle.limits"

    _key: str
    throttle: Throttle

    @property
    def key(self) -> str:
        """What it is called in its set; fixed."""
        return self._key

    @property
    @abstractmethod
    def capacity(self) -> float:
        """The most that there can be at once."""

    @abstractmethod
    def can_acquire(self, requested: float) -> bool:
        """Whether *requested* could be had at once. Takes nothing."""

    @abstractmethod
    def validate_usage(self, requested: float, used: float) -> None:
        """Raise ValueError if a call that asked for *requested* cannot have used *used*."""

    def _made(self, **options: Any) -> Throttle:
        """A throttle of the same parameters that has those *options*."""
        raise TypeError(f"a {type(self).__name__} does not say how it is made for a store")

    def stored(self, store: Store, name: str) -> Self:
        """The same limit as it lives in *store* under that *name*; this one stays as it is."""
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        twin.throttle = self._made(store=store, name=name)
        return twin

    def _ask(self) -> Throttle:
        """The throttle, that knows how the limit stands: if it lives in a store, that was asked."""
        if self.throttle.store is not None:
            self.throttle.refresh()
        return self.throttle

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.throttle.store is None:
            return super().__reduce_ex__(protocol)
        return object.__reduce_ex__(self, 2)

    @abstractmethod
    def get_stats(self) -> dict[str, Any]:
        """What there is, and how much of it is used."""

    def __repr__(self) -> str:
        return f"<async_throttle.{type(self).__name__} {self.key!r} of {self.throttle!r}>"


class RateLimit(Limit):
    """So much per window of time.

    Args:
        key: what it is called in its set.
        window_seconds: seconds in which *capacity* comes back, or a name: see `RateWindow`.
        algorithm: a `RateLimitAlgorithm`, its name, a rule class, or a configured `ClockWindow`;
            unset, a sliding window.
        capacity: most per window. For the buckets, the leaky one too, it is also the burst, even
            if it is below 1: `Throttle` says what that lets through in the first window.
        window, per: *window_seconds* under other names.

    Raises:
        ValueError: a parameter is out of range; names it and the value.
        TypeError: no capacity, or no window.

    >>> limit = RateLimit("tokens", 60, RateLimitAlgorithm.TokenBucket, 1_000)
    >>> limit.can_acquire(1_000), limit.get_stats()["available_tokens"]
    (True, 1000.0)
    >>> RateLimit("requests", capacity=50, per="hour").window
    3600.0
    """

    __module__ = "async_throttle"

    def __init__(
        self,
        key: str,
        window_seconds: Window | None = None,
        algorithm: RateLimitAlgorithm | type[Rule] | ClockWindow | str | None = None,
        capacity: float | None = None,
        *,
        window: Window | None = None,
        per: Window | None = None,
    ) -> None:
        self._key = _key(key)
        if capacity is None:
            raise TypeError("capacity must be given: the most per window")
        positive("capacity", capacity, infinite=True)
        self._period = one_window(window=window, per=per, window_seconds=window_seconds)
        self.algorithm = _algorithm(algorithm)
        self._bursts = issubclass(rule_class(self.algorithm), TokenBucket)
        self.throttle = Throttle(capacity, name=key, **self._options(capacity))

    def _options(self, capacity: float) -> dict[str, Any]:
        burst = capacity if self._bursts else None
        return {"period": self._period, "burst": burst, "algorithm": self.algorithm}

    def _made(self, **options: Any) -> Throttle:
        return Throttle(self.capacity, **self._options(self.capacity), **options)

    @property
    def window(self) -> float:
        """Seconds in which the capacity comes back."""
        return self.throttle.period

    @property
    def window_seconds(self) -> float:
        """`window` under another name."""
        return self.throttle.period

    @property
    def capacity(self) -> float:
        """Most per window. Setting it re-plans everybody at once."""
        return self.throttle.capacity

    @capacity.setter
    def capacity(self, value: float) -> None:
        throttle = self.throttle
        positive("capacity", value, infinite=True)
        grows = value > throttle.capacity
        if self._bursts and not grows:  # the burst is never above the capacity
            throttle.burst = value
        throttle.capacity = value
        if self._bursts and grows:
            throttle.burst = value

    def can_acquire(self, requested: float) -> bool:
        """Whether *requested* could be had at once. Takes nothing."""
        amount, throttle = tokens("requested", requested), self._ask()
        if throttle.store is None:
            return core_of(throttle).could(amount)
        return throttle.delay(requested) == 0 if requested <= throttle.burst else False

    def validate_usage(self, requested: float, used: float) -> None:
        """Raise ValueError if *used* exceeds *requested*.

        `LimitSetAcquisition.update` does not insist: what was used above becomes debt.
        """
        if tokens("used", used) > tokens("requested", requested):
            raise ValueError(f"used must be at most {requested!r}, as requested, got {used!r}")

    def get_stats(self) -> dict[str, Any]:
        """What there is, and how much of it is used.

        Keys: ``key``, ``window`` and ``window_seconds``, ``algorithm``, ``capacity``,
        ``available_tokens`` (negative in debt), ``current_usage`` and ``utilization``, the share
        in use.
        """
        available, capacity = self._ask().level, self.capacity
        usage = 0.0 if available == math.inf else capacity - available
        return {
            "key": self.key,
            "window": self.window,
            "window_seconds": self.window,
            "algorithm": self._algorithm_name(),
            "capacity": capacity,
            "available_tokens": available,
            "current_usage": usage,
            "utilization": usage / capacity,
        }

    def params_signature(self) -> str:
        """Capacity, window and algorithm in short: the same for limits that limit the same.

        >>> RateLimit("tokens", 60, "GCRA", 300).params_signature()
        'c300w60gcr'
        """
        capacity, window = _shortest(self.capacity), _shortest(self.window)
        return f"c{capacity}w{window}{self._algorithm_name()[:3].lower()}"

    def _algorithm_name(self) -> str:
        return rule_class(self.algorithm).__name__


class CallLimit(RateLimit):
    """So many calls per window of time. Its key is ``"call_count"``.

    A call counts as one where it is not named, and nothing else can be its usage. A batch says how
    many it is, by ``api(call_count=10)``, and may settle for fewer.

    Args:
        window_seconds, algorithm, capacity, window, per: see `RateLimit`.
    """

    __module__ = "async_throttle"

    def __init__(
        self,
        window_seconds: Window | None = None,
        algorithm: RateLimitAlgorithm | type[Rule] | ClockWindow | str | None = None,
        capacity: float | None = None,
        *,
        window: Window | None = None,
        per: Window | None = None,
    ) -> None:
        super().__init__("call_count", window_seconds, algorithm, capacity, window=window, per=per)

    def validate_usage(self, requested: float, used: float) -> None:
        """Raise ValueError if *used* is no whole number, or not 1 where 1 was *requested*.

        Of a batch any number may have been called; those above *requested* become debt.
        """
        usage = f"usage of {self.key!r}"
        if number(usage, used) < 0:
            raise ValueError(f"{usage} cannot be negative, got {used!r}")
        if whole(usage, used) != 1 and requested == 1:
            raise ValueError(f"{usage} must be 1 in an implicit acquisition, got {used!r}")


class ResourceLimit(Limit):
    """So many at once: connections, files, devices. They come back when the block ends.

    Args:
        key: what it is called in its set.
        capacity: how many there are.

    Raises:
        ValueError: *capacity* is not a whole number of at least 1.

    >>> ResourceLimit("connections", 5).get_stats()["available"]
    5
    """

    __module__ = "async_throttle"

    def __init__(self, key: str, capacity: int) -> None:
        self._key = _key(key)
        self.throttle = Throttle(math.inf, _count(capacity), name=key)

    def _made(self, **options: Any) -> Throttle:
        return Throttle(math.inf, self.capacity, **options)

    @property
    def capacity(self) -> int:
        """How many there are. Setting it re-plans everybody; holders finish."""
        return self.throttle.concurrency

    @capacity.setter
    def capacity(self, value: int) -> None:
        self.throttle.concurrency = _count(value)

    def can_acquire(self, requested: float) -> bool:
        """Whether *requested* could be had at once. Takes nothing."""
        return whole("requested", requested) <= self.capacity - self._in_use()

    def _in_use(self) -> int:
        """The slots that are held, here and by other processes."""
        throttle = self._ask()
        account = core_of(throttle).account
        return throttle.active + (0 if account is None else account.others)

    def validate_usage(self, requested: float, used: float) -> None:
        """Everything goes: what is held is given back, whatever was made of it."""

    def get_stats(self) -> dict[str, Any]:
        """What there is, and how much of it is used.

        Keys: ``key``, ``capacity``, ``current_usage``, ``available`` and ``utilization``, the
        share in use.
        """
        usage, capacity = self._in_use(), self.capacity
        return {
            "key": self.key,
            "capacity": capacity,
            "current_usage": usage,
            "available": capacity - usage,
            "utilization": usage / capacity,
        }


def _key(key: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"key must be a string, got {key!r}")
    if key in RESERVED or not key:
        raise ValueError(f"key must not be empty nor one of {', '.join(RESERVED)}, got {key!r}")
    return key


def _algorithm(algorithm: Any) -> RateLimitAlgorithm | type[Rule] | ClockWindow:
    if algorithm is None:
        return RateLimitAlgorithm.SlidingWindow
    if isinstance(algorithm, str):
        names = [member.value for member in RateLimitAlgorithm]
        if algorithm not in names:
            raise ValueError(f"algorithm must be one of {', '.join(names)}, got {algorithm!r}")
        return RateLimitAlgorithm(algorithm)
    if not isinstance(algorithm, RateLimitAlgorithm | ClockWindow):
        return rule_class(algorithm)
    return algorithm


def _shortest(value: float) -> str:
    """*value* as text, without a fraction where there is none."""
    return str(int(value)) if value == value // 1 else repr(value)


def _count(capacity: int) -> int:
    count = whole("capacity", capacity)
    if count == 0:
        raise ValueError(f"capacity must be a whole number of at least 1, got {capacity!r}")
    return count
