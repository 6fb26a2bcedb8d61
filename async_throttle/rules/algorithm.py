"""The rules by name."""

from __future__ import annotations

from enum import Enum

from async_throttle.rules import Rule
from async_throttle.rules.bucket import GCRA, LeakyBucket, TokenBucket
from async_throttle.rules.clock import ClockWindow
from async_throttle.rules.window import FixedWindow, SlidingWindow

__all__ = ["RateLimitAlgorithm", "configured", "rule_class"]


class RateLimitAlgorithm(Enum):
    """The five rules by name, for configuration files and for those who prefer an enum.

    >>> RateLimitAlgorithm("GCRA") is RateLimitAlgorithm.GCRA
    True
    """

    __module__ = "async_throttle"

    TokenBucket = "TokenBucket"
    LeakyBucket = "LeakyBucket"
    SlidingWindow = "SlidingWindow"
    FixedWindow = "FixedWindow"
    GCRA = "GCRA"


_BY_NAME: dict[str, type[Rule]] = {
    cls.__name__: cls for cls in (TokenBucket, LeakyBucket, SlidingWindow, FixedWindow, GCRA)
}


def rule_class(algorithm: object) -> type[Rule]:
    """The rule class that *algorithm* stands for: itself, or the one of a member's name.

    Raises:
        TypeError: anything else; names the rule that was probably meant.
        ValueError: text; says which class to write.
    """
    if isinstance(algorithm, RateLimitAlgorithm):
        return _BY_NAME[algorithm.value]
    if isinstance(algorithm, str):
        meant = {name.lower(): name for name in _BY_NAME}
        found = meant.get(algorithm.replace("_", "").replace("-", "").replace(" ", "").lower())
        write = f"async_throttle.{found}" if found else f"one of {', '.join(_BY_NAME)}"
        raise ValueError(f"algorithm must be a rule class: write {write}, got {algorithm!r}")
    if isinstance(algorithm, ClockWindow):
        return type(algorithm)
    if isinstance(algorithm, Rule):
        name = type(algorithm).__name__
        raise TypeError(f"algorithm must be the class itself: write {name}, got {algorithm!r}")
    if not isinstance(algorithm, type):
        raise TypeError(f"algorithm must be a rule class, got {algorithm!r}")
    if issubclass(algorithm, Rule):
        return algorithm
    name = algorithm.__name__
    hint = f"; did you mean async_throttle.{name}?" if name in _BY_NAME else ""
    raise TypeError(f"algorithm must be a rule class, got {algorithm.__module__}.{name}{hint}")


def configured(algorithm: object) -> type[Rule] | ClockWindow:
    """The rule class that *algorithm* stands for, or a configured rule; errors as `rule_class`."""
    if isinstance(algorithm, ClockWindow):
        return algorithm
    found = rule_class(algorithm)
    return found() if issubclass(found, ClockWindow) else found
