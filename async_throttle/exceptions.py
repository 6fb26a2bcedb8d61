"""Every error of the library.

::

    ResourceError                     something could not be had
    ├── ResourceLimitError            a limit refused: says which, and when to come back
    │   ├── WeightTooLarge            more than could ever be granted; also a ValueError
    │   ├── ThrottleTimeout           not within the time allowed; also a TimeoutError
    │   ├── ThrottleFull              too many wait already
    │   └── ThrottleClosed            the throttle takes nobody any more
    ├── StoreUnavailable              the store of a shared quota cannot be reached
    └── TimeoutError                  the builtin's subclass, so either name catches it

A refusal changes nothing: whoever is refused has taken no token and holds no slot.

What to tell those who retry, so that a refusal which ends is tried again, and a throttle that is
closed or a weight that is too large is not. The defaults of some do the opposite::

    stamina          on=(ThrottleTimeout, ThrottleFull)
    tenacity         retry=retry_if_exception_type((ThrottleTimeout, ThrottleFull))
    langgraph        retry_on=(ThrottleTimeout, ThrottleFull)
    google.api_core  predicate=if_exception_type(ThrottleTimeout, ThrottleFull)

The retry stands outside, the throttle inside: each try waits for its turn.
"""

from __future__ import annotations

import builtins
from collections.abc import Hashable
from typing import Any

__all__ = [
    "ResourceError",
    "ResourceLimitError",
    "StoreUnavailable",
    "ThrottleClosed",
    "ThrottleFull",
    "ThrottleTimeout",
    "TimeoutError",
    "WeightTooLarge",
]


class ResourceError(Exception):
    """Base of everything that this library raises about a resource."""

    __module__ = "async_throttle"


class StoreUnavailable(ResourceError):
    """The store of a shared quota cannot be reached, or has lost it; the message says why."""

    __module__ = "async_throttle"


class ResourceLimitError(ResourceError):
    """A limit refused the call, and nothing was taken.

    Attributes:
        limit: the limit that refused, as the caller knows it: the name of a throttle, None if it
            has none; the key in a set, so that ``api[error.limit]`` is the throttle, or "pause".
        retry_after: seconds after which the same call could be granted, as known at the
            refusal; None where no wait would help or none is known.
    """

    __module__ = "async_throttle"

    def __init__(
        self, message: str = "", *, limit: Hashable = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.limit = limit
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors travel between processes; the keyword arguments must survive the journey.
        state = {"limit": self.limit, "retry_after": self.retry_after}
        return type(self), self.args, state


class TimeoutError(ResourceError, builtins.TimeoutError):
    """Something did not happen in time."""


class WeightTooLarge(ResourceLimitError, ValueError):
    """The call weighs more than the limit could grant however long it waited.

    Attributes:
        largest: the largest weight that could be granted.
    """

    __module__ = "async_throttle"

    def __init__(
        self,
        message: str = "",
        *,
        largest: float | None = None,
        limit: Hashable = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, limit=limit, retry_after=retry_after)
        self.largest = largest

    def __reduce__(self) -> tuple[Any, ...]:
        cls, args, state = super().__reduce__()
        return cls, args, {**state, "largest": self.largest}


class ThrottleTimeout(ResourceLimitError, TimeoutError):
    """The call would have to wait, or did wait, longer than its *timeout*."""

    __module__ = "async_throttle"


class ThrottleFull(ResourceLimitError):
    """As many callers wait as *max_waiting* allows."""

    __module__ = "async_throttle"


class ThrottleClosed(ResourceLimitError):
    """The throttle was closed."""

    __module__ = "async_throttle"
