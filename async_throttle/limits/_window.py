"""The windows of rates, in seconds or by name."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from typing import Final

from async_throttle._units import NEVER, nanoseconds

__all__ = ["RateWindow", "Window", "one_window"]


class RateWindow(Enum):
    """Windows by name. Upper and lower case are the same.

    ================  =======================================
    ``Secondly``      second, seconds, sec, secs
    ``Minutely``      minute, minutes, min, mins
    ``Hourly``        hour, hours, hr, hrs
    ``Daily``         day, days
    ``Weekly``        week, weeks, wk, wks
    ================  =======================================

    Each may begin with ``per_``. Months differ in length: say the seconds.

    >>> RateWindow("per_minute") is RateWindow("Minutely") is RateWindow.Minutely
    True
    >>> RateWindow.Hourly.to_seconds()
    3600.0
    """

    __module__ = "async_throttle.limits"

    Secondly = 1
    Minutely = 60
    Hourly = 3_600
    Daily = 86_400
    Weekly = 604_800

    def to_seconds(self) -> float:
        """How long it is."""
        return float(self.value)

    @classmethod
    def _missing_(cls, value: object) -> RateWindow | None:
        if not isinstance(value, str):
            return None
        name = value.lower()
        for member in cls:
            if name == member.name.lower():
                return member
        return _NAMES.get(name.removeprefix("per_").removesuffix("s"))


_NAMES: Final = {
    "second": RateWindow.Secondly,
    "sec": RateWindow.Secondly,
    "minute": RateWindow.Minutely,
    "min": RateWindow.Minutely,
    "hour": RateWindow.Hourly,
    "hr": RateWindow.Hourly,
    "day": RateWindow.Daily,
    "week": RateWindow.Weekly,
    "wk": RateWindow.Weekly,
}

Window = float | timedelta | str | RateWindow
"""A window: seconds, or a name."""


def one_window(**given: Window | None) -> float:
    """The window, in seconds, that is *given* under one of several names of the parameter.

    >>> one_window(window="hour", per=None)
    3600.0

    Raises:
        TypeError: none is given, or something that is no window.
        ValueError: several are, or one that is out of range; names it and the value.
    """
    told = {name: window for name, window in given.items() if window is not None}
    if not told:
        raise TypeError("window must be given: seconds, or a name such as 'minute'")
    if len(told) > 1:
        both = " and ".join(f"{name}={window!r}" for name, window in told.items())
        raise ValueError(f"{', '.join(given)} are names of one parameter, got {both}")
    ((name, window),) = told.items()
    if isinstance(window, (RateWindow, str)):
        try:
            return RateWindow(window).to_seconds()
        except ValueError:
            names = ", ".join(repr(known) for known in _NAMES)
            raise ValueError(
                f"{name} must be a number of seconds, or one of {names}, got {window!r}"
            ) from None
    if isinstance(window, bool) or nanoseconds(name, window) in (0, NEVER):
        raise ValueError(f"{name} must be positive and finite, got {window!r}")
    return window.total_seconds() if isinstance(window, timedelta) else window
