"""The numbers that users give, as the integers that the rules compute with.

Seconds become whole nanoseconds and tokens become whole nanotokens, so that ten times 0.1
is 1 and an instant compared with itself is never off by a rounding. Every function names
the parameter and the value in its error.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = [
    "MOST",
    "NEVER",
    "SECOND",
    "TOKEN",
    "UNKNOWN",
    "nanoseconds",
    "number",
    "positive",
    "seconds",
    "shown",
    "tokens",
    "whole",
]

SECOND: Final = 10**9
"""Nanoseconds in a second."""

TOKEN: Final = 10**9
"""Nanotokens in a token."""

MOST: Final = 10**24
"""Most tokens of a rate or a burst: of more, the time that they take is no float any more."""

NEVER: Final = 1 << 160
"""An instant after all others; an integer, so that comparing with it stays cheap."""

UNKNOWN: Final = NEVER + 1
"""An instant that something outside has to be asked for: not known yet, other than NEVER."""


def _least(name: str, value: Any, what: str) -> bool:
    """Whether *value*, which must be a number, is at least 0."""
    try:
        if not isinstance(value, str | bytes):
            return bool(value >= 0)
    except ArithmeticError:  # a Decimal that is not a number
        return False
    except TypeError:
        pass
    raise TypeError(f"{name} must be {what}, got {value!r}") from None


def tokens(name: str, value: float, *, tiny: bool = True) -> int:
    """A finite number of tokens, at least 0, in nanotokens.

    What is *tiny* counts as nothing, or is refused: below half a nanotoken, but not 0.

    >>> 10 * tokens("weight", 0.1) == tokens("weight", 1)
    True
    """
    if type(value) is int and value >= 0:
        return value * TOKEN
    what = "a finite number of at least 0"
    if not _least(name, value, what) or value == math.inf:
        raise ValueError(f"{name} must be {what}, got {value!r}")
    # Split off the fraction first: a large float times 10**9 would round the nanotokens away.
    units = int(value)
    amount = units * TOKEN + round((value - units) * TOKEN)
    if not amount and value and not tiny:
        raise ValueError(f"{name} must be at least 1e-9, or 0, got {value!r}")
    return amount


def positive(name: str, value: float, *, infinite: bool = False) -> int | float:
    """A number of tokens above 0, in nanotokens; math.inf, if that is allowed, stays itself.

    >>> positive("capacity", 2)
    2000000000
    """
    most = "" if infinite else " finite"
    if not _least(name, value, f"a positive{most} number") or value == 0:
        raise ValueError(f"{name} must be positive, got {value!r}")
    if value == math.inf:
        if infinite:
            return math.inf
        raise ValueError(f"{name} must be finite, got {value!r}")
    amount = tokens(name, value)
    if amount == 0:
        raise ValueError(f"{name} must be at least 1e-9, got {value!r}")
    if amount > MOST * TOKEN:
        raise ValueError(f"{name} must be at most {MOST:g}, got {value!r}")
    return amount


def nanoseconds(name: str, value: float | timedelta) -> int:
    """A span of time, at least 0, in nanoseconds; infinity is NEVER.

    >>> nanoseconds("period", 0.1)
    100000000
    """
    what = "a number of seconds of at least 0"
    if not isinstance(value, int | float):
        from datetime import timedelta  # a tenth of the import, and few use it

        if isinstance(value, timedelta):
            span = value // timedelta(microseconds=1) * 1000
            if span < 0:
                raise ValueError(f"{name} must be {what}, got {value!r}")
            return span
    if not _least(name, value, what):
        raise ValueError(f"{name} must be {what}, got {value!r}")
    if value == math.inf:
        return NEVER
    units = int(value)
    return units * SECOND + round((value - units) * SECOND)


def seconds(span: int) -> float:
    """A span of nanoseconds in seconds; NEVER is infinity.

    >>> seconds(1_500_000_000)
    1.5
    """
    return math.inf if span >= NEVER // 2 else span / SECOND


def number(name: str, value: Any, what: str = "a number") -> float:
    """A number of either sign, which may be infinite, as a float.

    >>> number("factor", 2)
    2.0
    """
    try:
        if isinstance(value, str | bytes):
            raise TypeError  # though float() would read it
        found = float(value)
    except TypeError:
        raise TypeError(f"{name} must be {what}, got {value!r}") from None
    except OverflowError:
        found = math.nan
    if math.isnan(found):
        raise ValueError(f"{name} must be {what}, got {value!r}")
    return found


def shown(value: Any) -> str:
    """A number for people; what is none, as it is. Whatever it is, this does not raise.

    >>> shown(200_000), shown(0.1 + 0.2), shown("two")
    ('200000', '0.3', "'two'")
    """
    try:
        return repr(value) if isinstance(value, str | bytes) else f"{float(value):.10g}"
    except (TypeError, ValueError, OverflowError):
        return repr(value)


def whole(name: str, value: float) -> int:
    """A whole number of at least 0; 3.0 will do, 3.5 will not.

    >>> whole("concurrency", 3.0)
    3
    """
    what = "a whole number of at least 0"
    if not _least(name, value, what) or value == math.inf or value != int(value):
        raise ValueError(f"{name} must be {what}, got {value!r}")
    return int(value)
