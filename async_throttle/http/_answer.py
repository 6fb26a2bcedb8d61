"""What is known of one answer while its headers are read, and a reading: what comes of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from async_throttle.http._scan import DAY, MOST, instant, number

__all__ = ["NO_LIMITS", "Answer", "Reading"]

STALE: Final = 2.0
"""Seconds by which ``Date`` may be behind the clock of the server that says it.

It is in whole seconds, and some servers look at their clock once a second: uvicorn does.
"""


class Reading(NamedTuple):
    """What an answer says of one limit. What it does not say is None.

    Attributes:
        limit: how much there is for a window, or at once.
        remaining: how much of it is left.
        used: how much was used, where that is said.
        reset: seconds until it is all there again; 0 if that is so by now.
        window: seconds of its window.
        unit: what is counted: "requests", "tokens", and so on.
        refills: whether it comes back bit by bit, and is full at *reset*. Else it comes back at
            once then. *window* is inferred where *reset* is exact enough: the time for all of it.
    """

    limit: float | None = None
    remaining: float | None = None
    used: float | None = None
    reset: float | None = None
    window: float | None = None
    unit: str = "requests"
    refills: bool = False


NO_LIMITS: Final[Mapping[str, Reading]] = MappingProxyType({})


Reading.__module__ = "async_throttle.http"


class Answer:
    """What is found of one answer.

    Attributes:
        limits: the readings, by name.
        ignored: how many headers were malformed.
        now: seconds since 1970; None if that was not asked for yet.
        date: what the header of that name says; None without, and once *now* follows it.
        scope: what a refusal is about, if that is said.
        empty: of each limit with nothing left, the seconds until its reset, and whether these are
            whole ones.
    """

    __slots__ = ("date", "empty", "ignored", "limits", "now", "scope")

    def __init__(self, now: float | None, date: str | None) -> None:
        self.limits: dict[str, Reading] = {}
        self.ignored = 0
        self.date = date
        self.scope: str | None = None
        self.empty: list[tuple[float, bool]] = []
        self.now = now

    def add(self, name: str, reading: Reading, coarse: bool = True) -> None:
        """Have a *reading* of the limit *name*, whose reset is *coarse*: in whole seconds.

        Of two of one name the one counts that leaves less; of equal ones that with the later reset.
        If both are of one limit, and only the other one tells its window, it is that window.
        """
        left = reading.remaining
        if left is None and reading.limit is None and reading.used is None:
            return
        if left == 0 and reading.reset is not None:
            self.empty.append((reading.reset, coarse))
        before = self.limits.get(name)
        if before is None:
            self.limits[name] = reading
            return
        one, other = sorted((before, reading), key=_tightness)
        if one.window is None and one.limit == other.limit:
            one = Reading(*one[:4], other.window, *one[5:])
        self.limits[name] = one

    def count(self, text: str | None) -> float | None:
        """A number; None if it is not said, or malformed."""
        if text is None:
            return None
        if text.isdigit() and text.isascii() and len(text) < 16:  # the usual case
            return int(text)
        found = number(text)
        if found is None:
            self.ignored += 1
        return found

    def reset(self, text: str | None) -> tuple[float | None, bool]:
        """Seconds until what *text* says, and whether they are whole: a span, or an instant.

        A large number is an instant, in seconds or milliseconds since 1970: no window is as long.
        """
        if text is None:
            return None, True
        found = None if ":" in text else number(text)  # each form of a date has the time of day
        if found is None:
            at = instant(text)
            if at is None:
                self.ignored += 1
                return None, True
            return self.until(at), "." not in text
        if found > 1e12:
            return self.until(found / 1000), False
        return (self.until(found) if found > 1e9 else found), "." not in text

    def until(self, at: float) -> float:
        """Seconds until *at*, in seconds since 1970, by the clock of the server if that is told.

        Where both clocks may be the same, as far as ``Date`` tells, ours is the finer one.
        """
        now = self.now
        if now is None:
            now = time.time()
        if self.date is not None:
            date, self.date = instant(self.date), None  # once is enough
            if date is not None and abs(date - now) <= DAY and not 0 <= now - date < STALE:
                now = date
        self.now = now
        return min(max(0.0, at - now), MOST)

    def retry_after(self, parts: Mapping[str, str]) -> tuple[float, bool] | None:
        """What the server says itself: seconds, and whether they are whole; None if nothing."""
        if "ms" in parts:
            exact = self.count(parts["ms"])
            if exact is not None:
                return exact / 1000, False
        text = parts.get("seconds")
        if text is None:
            return None
        at = instant(text)
        if at is not None:
            return self.until(at), True
        told: list[tuple[float, bool]] = []
        for each in text.split(","):
            found = self.count(each.strip())
            if found is not None:
                told.append((found, "." not in each))
        return max(told, default=None)

    def wait(self, said: tuple[float, bool] | None) -> float | None:
        """How long to wait after a refusal; None if that is not known.

        Whole seconds may have been rounded down. A reset that is told exactly, and within the
        second that they leave open, is what was meant.
        """
        if said is None:
            said = max(self.empty, default=None)
            if said is None:
                return None
        seconds, coarse = said
        if not coarse:
            return seconds
        finer = [reset for reset, whole in self.empty if not whole]
        return min((reset for reset in finer if 0 <= reset - seconds < 1), default=seconds + 1)


def _tightness(reading: Reading) -> tuple[float, float]:
    """The less of two readings is the tighter one: it leaves less, or for longer."""
    left, reset = reading.remaining, reading.reset
    return (MOST + 1 if left is None else left), (1 if reset is None else -reset)
