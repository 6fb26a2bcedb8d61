"""Windows of the wall clock: so much per minute, hour, day, week or month of a time zone.

The rule is told instants, as all rules are. An offset makes wall time of them::

    wall time = instant + ahead

A *reader*, which the shell provides, tells that offset at each edge. Between two edges the last
reading counts, so a step of the wall clock is noticed at the next edge. Wall times are whole
nanoseconds since 1970 in UTC.

An edge lies where the whole periods since the beginning of the local day (week, month) become
another number. A day has 23 or 25 hours that way where summer time begins or ends, and so has the
hour that is repeated two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Self

from async_throttle._units import NEVER, SECOND, TOKEN
from async_throttle.rules import Frozen, Parameters, Rule, read, written
from async_throttle.rules.lowered import NOTHING_LOWERED, Lowered, last, left, lowered, moved, ready

if TYPE_CHECKING:
    from datetime import tzinfo

__all__ = ["DAY", "MONTH", "PERIODS", "WEEK", "Calendar", "ClockWindow"]

DAY: Final = 86_400 * SECOND
WEEK: Final = 7 * DAY
MONTH: Final = 28 * DAY
"""The shortest month. No period of so many days can be meant otherwise, so it stands for all."""

PERIODS: Final = {"day": DAY, "week": WEEK, "month": MONTH}
"""The periods that have a name."""

JITTER: Final = 10_000_000
"""Nanoseconds by which two readings of an offset may differ though no clock was set."""

_MONDAY: Final = -3 * DAY  # 1970-01-01 was a Thursday
_FIRST: Final = 719_163  # what `date.toordinal` says of 1970-01-01
_LEAST, _MOST = -60 * 10**9, 250 * 10**9  # seconds since 1970 for which there are dates
_YEARS: Final = 4

Reader = Callable[[int], int | None]
"""Tells at an instant by how much the wall clock is ahead; None of instants yet to come."""


class Calendar(Frozen):
    """Where the windows of a period lie in a time zone.

    Attributes:
        period: nanoseconds; `MONTH` stands for months.
        tz: the time zone; None is UTC.
    """

    __slots__ = ("period", "tz")

    def __init__(self, period: int, tz: tzinfo | None) -> None:
        if period not in (WEEK, MONTH) and DAY % period:
            raise ValueError(
                "period must divide a day, or be 'day', 'week' or 'month', with ClockWindow, "
                f"got {period / SECOND:.10g}"
            )
        self.period = period
        self.tz = tz

    def around(self, wall: int) -> tuple[int, int]:
        """The edges of the window in which *wall* lies: not after it, and after it."""
        return self._began(wall), self._ends(wall)

    def shortest(self, wall: int) -> int:
        """The length of the shortest window within four years from *wall*."""
        shortest = self.period
        before = wall
        for day in range(1, 366 * _YEARS if self.tz else 1):
            after = wall + day * DAY
            if self._offset(before) != self._offset(after):
                change = self._change(before, after)
                for instant in (change - 1, change):
                    began, ends = self.around(instant)
                    shortest = min(shortest, ends - began)
            before = after
        return shortest

    def _began(self, wall: int) -> int:
        while True:
            offset = self._offset(wall)
            began = self._start(wall + offset) - offset
            if self._offset(began - 1) == offset:
                return began
            change = self._change(began - 1, wall, last=True)
            if self._key(change - 1) != self._key(change):
                return change
            wall = change - 1

    def _ends(self, wall: int) -> int:
        key = self._key(wall)
        while True:
            offset = self._offset(wall)
            ends = self._end(self._start(wall + offset)) - offset
            if self._offset(ends - 1) != offset:
                ends = self._change(wall, ends - 1)
            if self._key(ends) != key:
                return ends
            wall = ends

    def _key(self, wall: int) -> int:
        """What all of a window, and no window beside it, have in common."""
        return self._start(wall + self._offset(wall))

    def _start(self, local: int) -> int:
        """The beginning of the window in which *local* lies, where the clock is never changed."""
        if self.period == WEEK:
            return local - (local - _MONDAY) % WEEK
        if self.period == MONTH:
            return _first_of_month(local)
        return local - local % self.period

    def _end(self, start: int) -> int:
        if self.period == MONTH:
            return _first_of_month(start + 31 * DAY)
        return start + self.period

    def _change(self, low: int, high: int, *, last: bool = False) -> int:
        """The first instant, or the last, between *low* and *high* at which the offset changes."""
        offset = self._offset(high if last else low)
        low, high = low // SECOND, high // SECOND
        while high - low > 1:
            middle = (low + high) // 2
            if (self._offset(middle * SECOND) == offset) is last:
                high = middle
            else:
                low = middle
        return high * SECOND

    def _offset(self, wall: int) -> int:
        """By how much the clocks of the zone are ahead of UTC."""
        if self.tz is None:
            return 0
        from datetime import UTC, datetime, timedelta  # a tenth of the import, and few use it

        since = timedelta(seconds=min(max(wall // SECOND, _LEAST), _MOST))
        offset = (datetime(1970, 1, 1, tzinfo=UTC) + since).astimezone(self.tz).utcoffset()
        return 0 if offset is None else offset // timedelta(microseconds=1) * 1000


def _first_of_month(local: int) -> int:
    from datetime import date

    if not _LEAST <= local // SECOND <= _MOST:
        return local - local % MONTH
    day = date.fromordinal(local // DAY + _FIRST)
    return (day.replace(day=1).toordinal() - _FIRST) * DAY


class ClockState(Frozen):
    """What changes in a window of the wall clock; replaced as a whole.

    Attributes:
        ahead: the offset of the wall clock to instants, as read at the last edge.
        edge, until: the edges of the window, in wall time.
        inside: nanotokens that went in the window.
        last: the instant of the last grant.
        window: number of the window; a receipt is the number of a window.
        lowered: what a server has counted beyond that, and is to be forgotten before the edge.
    """

    __slots__ = ("ahead", "edge", "inside", "last", "lowered", "until", "window")

    def __init__(
        self,
        ahead: int,
        edge: int,
        until: int,
        inside: int,
        last: int,
        window: int,
        lowered: Lowered = NOTHING_LOWERED,
    ) -> None:
        self.ahead = ahead
        self.edge = edge
        self.until = until
        self.inside = inside
        self.last = last
        self.window = window
        self.lowered = lowered

    def values(self) -> tuple[int, int, int, int, int, int, Lowered]:
        """All of it, in the order in which it is made."""
        return (
            *(self.ahead, self.edge, self.until, self.inside, self.last, self.window),
            self.lowered,
        )

    def held(self, now: int) -> int:
        """Nanotokens that count at *now*, of calls and of what was lowered."""
        return self.inside + left(self.lowered, now) if self.lowered else self.inside


class ClockWindow(Rule):
    """Never more than *capacity* in each minute, hour, day, week or month of the wall clock.

    For servers whose quota is reset at full minutes, or at midnight in some place::

        Throttle(1_200, period=60, algorithm=ClockWindow)
        Throttle(1_000, period="day", algorithm=ClockWindow(tz="America/Los_Angeles"))

    *period* divides a day, or is ``"day"`` (86,400 is the same), ``"week"`` (from Monday on) or
    ``"month"``. Summer time included: a day may have 23 or 25 hours. `Throttle.period` says 28 days
    for a month. Where the period counts from the first call instead, take `SlidingWindow`.

    Nobody is granted within *margin* of an edge, so that clocks which differ by as much agree on
    the window of each call: a window opens *margin* after an edge, and closes *margin* before the
    next. Calls that weigh 0 go meanwhile, and `Throttle.level` says what is left in the window.

    Wall time is that of `time.time_ns`, read anew at each edge; a *timer* of the throttle's is
    taken as Unix time, and in virtual time the clock of the loop, which starts in 1970. An edge
    that was crossed is not crossed again: where the wall clock is set back, the window lasts until
    the clock has caught up. Where the clock is set forward by more than *margin*, or the machine
    sleeps, what may have gone after the latest edge counts in the window after it. Either is
    noticed at the next edge: a machine that slept through midnight learns of it a period after the
    midnight before, by the monotonic clock. *margin* is to cover the steps together with what the
    clocks of client and server differ by.

    Guarantee: ``capacity * (ceil(w / shortest) + 1)``, with the shortest window that the zone has
    in the next four years: a day of 23 hours, February. It is meant by the wall clock.

    Args:
        tz: the name of a time zone, or a `datetime.tzinfo`; unset, UTC, by which nearly all servers
            count.
        margin: seconds; a tenth of the period at most.

    Raises:
        ValueError: a parameter is out of range, or no such zone is known; names it and the value.
            On Windows, names of zones want ``pip install tzdata``.

    >>> import asyncio
    >>> from async_throttle import ClockWindow, Throttle, testing
    >>> async def main():
    ...     loop = asyncio.get_running_loop()
    ...     throttle = Throttle(2, period=60, algorithm=ClockWindow, timer=lambda: 30 + loop.time())
    ...     for _ in range(3):
    ...         await throttle.acquire()
    ...     return loop.time()  # half a minute is left, and then there is the margin
    >>> testing.run(main())
    30.5
    """

    __module__ = "async_throttle"

    __slots__ = ("_calendar", "_margin", "_reader", "_tz")

    state: ClockState
    _calendar: Calendar
    _reader: Reader

    def __init__(self, tz: str | tzinfo | None = None, margin: float = 0.5) -> None:
        self._tz = _zone(tz)
        self._margin = _span(margin)

    def begun(
        self,
        now: int,
        capacity: int | float,
        period: int,
        burst: int | float | None,
        reader: Reader,
    ) -> ClockWindow:
        """A rule like this one, that begins at *now*, with nothing taken."""
        rule = object.__new__(type(self))
        rule._tz, rule._margin, rule._reader = self._tz, self._margin, reader
        rule.parameters = _checked(capacity, period, burst)
        rule._calendar = Calendar(period, self._tz)
        ahead = reader(now) or 0
        rule.state = ClockState(ahead, *rule._calendar.around(now + ahead), 0, now - period, 0)
        return rule

    def configure(
        self, now: int, capacity: int | float, period: int, burst: int | float | None
    ) -> None:
        parameters, calendar, state = _checked(capacity, period, burst), self._calendar, self.state
        if period != calendar.period:
            calendar, state = Calendar(period, self._tz), self._seen(now)
            edges = calendar.around(now + state.ahead)
            state = ClockState(
                state.ahead, *edges, state.inside, state.last, state.window, state.lowered
            )
        self.parameters = parameters
        self._calendar = calendar
        self.state = state

    def ready_at(self, now: int, weight: int) -> int:
        capacity, state = self.parameters.capacity, self._seen(now)
        if isinstance(capacity, float):
            return now
        excess = state.held(now) + weight - capacity
        if not weight and excess <= 0:
            return now
        margin = self._kept()
        at = ready(now, excess, state.lowered) if state.lowered or excess <= 0 else NEVER
        if at < state.until - margin - state.ahead:
            return max(at, state.edge + margin - state.ahead)
        return state.until + margin - state.ahead

    def take(self, now: int, weight: int) -> int | None:
        if isinstance(self.parameters.capacity, float):
            return None
        state = self._seen(now)
        self._put(now, state, state.inside + weight, state.window, state.lowered)
        return state.window

    def windows(self, wall: int, number: int) -> list[tuple[int, int, int]]:
        """The window of a wall time, and the next ones: when it opens, closes, and is over."""
        found, margin = [], self._kept()
        for _ in range(number):
            began, ends = self._calendar.around(wall)
            found.append((began + margin, ends - margin, ends))
            wall = ends
        return found

    def counts_from(self, now: int) -> int:
        """From when on a call that ended at *now* counts: the next edge, if the window has closed.

        A clock that is *margin* ahead may have counted the call in the next window already.
        """
        state = self._seen(now)
        closes = state.until - self._kept() - state.ahead
        return state.until - state.ahead if now >= closes else now

    def refund(self, now: int, receipt: int | None, weight: int) -> None:
        state = self._seen(now)
        if receipt == state.window:
            inside = state.inside - weight
            self.state = ClockState(
                *(state.ahead, state.edge, state.until, inside, state.last, state.window),
                state.lowered,
            )

    def lower(self, now: int, level: int, said: int, until: int | None) -> None:
        capacity, state = self.parameters.capacity, self._seen(now)
        if isinstance(capacity, float):
            return
        more = capacity - state.held(now) - level
        if more <= 0:
            return
        inside, pairs = state.inside, state.lowered
        if until is None or until >= state.until - state.ahead:
            inside += more  # the edge forgets it
        else:
            pairs = lowered(pairs, now, until, more)
        self._put(now, state, inside, state.window, pairs)

    def empty(self, now: int) -> None:
        capacity, state = self.parameters.capacity, self._seen(now)
        if isinstance(capacity, float):
            return
        # What was taken before counts as used: nothing to refund.
        self._put(now, state, max(state.held(now), capacity), state.window + 1, NOTHING_LOWERED)

    def level(self, now: int) -> float:
        capacity = self.parameters.capacity
        if isinstance(capacity, float):
            return math.inf
        return (capacity - self._seen(now).held(now)) / TOKEN

    def guarantee(self, window: int) -> int | float:
        state = self.state
        shortest = self._calendar.shortest(state.edge)
        return self.parameters.capacity * (-(-window // shortest) + 1)

    def fresh_at(self, now: int) -> int:
        state = self._seen(now)
        if not state.inside:
            return last(state.lowered, now)
        return max(now, state.until - state.ahead)

    def forgets_at(self, now: int, weight: int) -> int:
        state = self._seen(now)
        return max(now, state.until - state.ahead)

    def shift(self, by: int) -> None:
        ahead, edge, until, inside, last, window, pairs = self.state.values()
        pairs = moved(pairs, by)
        self.state = ClockState(ahead - by, edge, until, inside, last + by, window, pairs)

    def fork(self) -> Self:
        twin = object.__new__(type(self))
        twin.parameters, twin.state = self.parameters, self.state
        twin._tz, twin._margin = self._tz, self._margin
        twin._calendar, twin._reader = self._calendar, self._reader
        return twin

    def dump(self) -> bytes:
        """Parameters and state as bytes.

        Raises:
            TypeError: the time zone is known by no name.
        """
        zone = None if self._tz is None else getattr(self._tz, "key", None)
        if zone is None and self._tz is not None:
            raise TypeError(f"a ClockWindow of a zone without a name cannot be written: {self._tz}")
        parameters, state = self.parameters, self.state.values()
        return written(
            "clock window", parameters.capacity, parameters.period, self._margin, zone, *state
        )

    @classmethod
    def load(cls, data: bytes) -> Self:
        """A rule that answers as the one that was dumped, by the offset that was read last."""
        capacity, period, margin, zone, *state = read("clock window", data)
        state[-1] = moved(state[-1])
        rule = cls(zone)
        rule._margin = margin
        rule._reader = _unread
        rule.parameters = _checked(capacity, period, None)
        rule._calendar = Calendar(period, rule._tz)
        rule.state = ClockState(*state)
        return rule

    def __repr__(self) -> str:
        tz = getattr(self._tz, "key", self._tz)
        return f"ClockWindow(tz={tz!r}, margin={self._margin / SECOND:g})"

    def _kept(self) -> int:
        """Nanoseconds on either side of an edge in which nobody is granted."""
        return min(self._margin, self.parameters.period // 10)

    def _put(self, now: int, state: ClockState, inside: int, window: int, pairs: Lowered) -> None:
        """There is so much *inside* after a grant or a charge at *now*, and lowered by *pairs*."""
        # A charge may come where nobody is granted: what it tells of went before.
        last = max(state.last, min(now, state.until - self._kept() - state.ahead - 1))
        self.state = ClockState(state.ahead, state.edge, state.until, inside, last, window, pairs)

    def _seen(self, now: int) -> ClockState:
        """The state as it is at *now*: across an edge, the offset is read anew.

        The same window goes on if the wall clock has not reached its end after all. If the wall
        clock is before the window by more than a window, that is another clock: its window goes
        on with what is inside. Else there is a new window. That begins with nothing inside if
        nothing can have gone after its edge: the clock was not set since the last reading by more
        than the margin covers, or the last grant was before the edge by either reading.
        """
        state = self.state
        if now + state.ahead < state.until:
            return state
        found = self._reader(now)
        ahead = state.ahead if found is None else found
        wall = now + ahead
        if 2 * state.edge - state.until <= wall < state.until:
            return ClockState(
                *(ahead, state.edge, state.until, state.inside, state.last, state.window),
                state.lowered,
            )
        edge, until = self._calendar.around(wall)
        margin = self._kept()
        if wall >= state.until and (
            abs(ahead - state.ahead) <= max(margin, JITTER)
            or state.last + max(ahead, state.ahead) < edge - margin
        ):
            return ClockState(ahead, edge, until, 0, state.last, state.window + 1)
        return ClockState(
            *(ahead, edge, until, state.inside, state.last, state.window), state.lowered
        )


def _unread(now: int) -> None:
    """Nobody reads the wall clock for a rule that was loaded."""


def _checked(capacity: int | float, period: int, burst: int | float | None) -> Parameters:
    if burst is not None:
        raise ValueError(
            "burst does not go with ClockWindow, whose capacity is its burst, "
            f"got {burst / TOKEN:g}"
        )
    return Parameters(capacity, period, capacity)


def _zone(tz: Any) -> tzinfo | None:
    if tz is None:
        return None
    from datetime import datetime, tzinfo

    found = tz
    if isinstance(tz, str):
        from zoneinfo import ZoneInfo

        try:
            found = ZoneInfo(tz)
        except (KeyError, ValueError, OSError):  # unknown; no name at all; a directory
            found = ""
    if isinstance(found, tzinfo) and datetime(2000, 1, 1, tzinfo=found).utcoffset() is not None:
        return found
    raise ValueError(
        "tz must be the name of a time zone, such as 'America/Los_Angeles', or a tzinfo, "
        f"got {tz!r}"
    )


def _span(margin: Any) -> int:
    if not isinstance(margin, int | float) or not 0 <= margin < math.inf:
        raise ValueError(f"margin must be a finite number of seconds of at least 0, got {margin!r}")
    return round(margin * SECOND)
