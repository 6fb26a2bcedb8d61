"""What an answer does to a limiter: pauses after refusals, levels by what is left, outcomes.

**Refused.** What was refused is paused: the limits of a set that the server says are used up, else
the throttle or the set; of a pool the set that granted the call, and no other. A bucket that is
full again within a minute is empty when the pause ends, so that the restart is gentle; an empty
window would let nobody go for a period more. The pause is as long as the server says, *max_pause*
at most; else 1, 2, 4 and up to 60 s, by refusals in a row, and up to a quarter more, by chance, so
that processes do not come back together. A hundred calls that are refused together are one refusal:
calls that were sent before it say nothing new.

**Served.** The level is lowered to what the server has left, and never raised: see `Throttle.sync`.
A reading counts for the limit of its own name. (Names are compared without regard to case, and a
dash is an underscore.) If there is none of its name, and it counts requests, it counts for the
limit ``requests``, or for the only rate of the set. A throttle by itself takes all readings of
requests, and of Binance's weight. *Retry-After* of a call that was served means nothing: some
frameworks send it with every answer.

Answers do not know of the calls that are still on their way. If others use the quota, those calls
may find nothing left. With *shared* a bucket is lowered by them as well. A window would be lowered
for good, also by calls that the server has counted and not answered yet. So there the calls in
flight are bounded instead, by what is left, less two for others: it is one at a time in the end,
and each answer that tells what is left says whether the next one may go. Calls whose bodies are
read are on their way no more, but for the one that was answered last, until the next answer. Once
nothing is left there is a pause until the reset, since calls of the window before may leave a
window here before that. Without *shared* that is so for the next thousand answers after a refusal,
since a limiter that is alone, and counts as the server does, is not refused. After a refusal one
call of a shared window goes alone, until one is served; a bucket is empty then. All that ends by
itself after a period, or a minute. Where slots are those of a store, or follow an adaptive law, a
window is lowered as a bucket is.

In virtual time, 100 calls per 10 s, 20 at once, 0.3 s each, an outsider that takes 30 % of the
quota, 300 s (`tests/http_quota.py`):

==============================  ===================  ===================
served by the client, refused   bucket, by a bucket  window, by a window
==============================  ===================  ===================
pauses after refusals alone     2,809, 395           1,625, 75
what is in flight never counts  2,757, 242           2,821, 146
the usual way                   2,619, 47            2,770, 32
``shared=True``                 2,657, 20            2,773, 18
==============================  ===================  ===================

The first way, where windows are counted, empties the window after each refusal, and a period goes
by unused. All others use the quota up: what the client leaves is the outsider's. The 18 lie in 18
windows: each is the last call of its window, which the outsider got. Without an outsider the last
two ways serve all 3,000 by a window, and none is refused.

A reading of a bucket says how long all of it takes to come back, which is the period. If that is
not the period of the throttle, by more than a factor of two, it is of another limit: Groq counts
requests by the day under the name that OpenAI has for those of a minute. It is ignored, with one
warning. A window of another length is no such thing: what the server has left until its reset is
left, whatever the pace is that a throttle was given.

**Whose words these are.** Answers come from servers, and may be absurd: no pause is longer than
*max_pause*, no number is negative or infinite, and what is malformed is ignored, and counted.

Sources: RFC 9110 for ``Retry-After``; the IETF's draft on RateLimit headers, by which that goes
before a reset, and a redirect is no reason to wait.
"""

from __future__ import annotations

import itertools
import math
import random
import warnings
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, Final, Literal
from weakref import WeakKeyDictionary, ref

from async_throttle._base import BaseLimiter, BaseThrottle, core_of
from async_throttle._shell.count import held, in_flight
from async_throttle._shell.door import unraisable
from async_throttle._units import TOKEN, number, shown
from async_throttle.http._known import Known, lock, name_of, throttles_of
from async_throttle.http.headers import SERVED, Headers, Reading, Report, read
from async_throttle.keyed import Throttles, keep, learnt
from async_throttle.limits._acquisition import LimitSetAcquisition
from async_throttle.limits._core import throttle_of
from async_throttle.limits._pool import LimitPool
from async_throttle.limits._set import LimitSet
from async_throttle.limits._single import CallLimit
from async_throttle.rules.clock import ClockWindow
from async_throttle.rules.window import FixedWindow, SlidingWindow
from async_throttle.throttle import Lease

__all__ = ["Learner", "learn"]

Granted = Lease | LimitSetAcquisition
"""What a call holds."""

Judge = Callable[[int, Any], bool | None]

SLOWEST: Final = 60.0
"""Seconds of the longest pause where the server does not say how long."""

JITTER: Final = 0.25
"""By what fraction such a pause is longer at most."""

WARY: Final = 1_000
"""Answers after a refusal until it is forgotten that others may use the quota."""

LEFT: Final = 2
"""By how many calls fewer than a shared window has left may be in flight: others may be faster."""

MANY: Final = 100
"""Calls that a shared window has left from which on those in flight are not bounded: that costs."""

LONGEST_WINDOW: Final = 31 * 86_400.0
"""Seconds of the longest window that is taken over, a month: an absurd one would stop all calls."""

serials: Final = itertools.count(1)
"""The requests of the process, in the order in which they are sent."""

MILLISECOND: Final = 0.001
"""Seconds by which the reset of a bucket may be rounded."""


class Learner:
    """What becomes of the answers that the calls of limiters get.

    One may serve many limiters. What is known of a limiter, such as its refusals in a row, is known
    to all learners, and sets of the same throttles are one limiter; `Throttles` keep one that was
    refused for a minute after the pause. A learner is called at the headers of each answer, by a
    transport, or by `learn`. It may be called from several threads at once, if the limiters are for
    threads; a `Throttle` for an event loop is to be learnt for where that loop runs. A copy, also
    by pickle, has its settings.

    Args:
        shared: whether others use the quota as well. Then the level of a bucket is lowered to what
            will be left once the calls in flight have arrived, and of a window no more calls are in
            flight than it has left. That avoids nearly all refusals, and costs a little throughput
            where nobody else is there. Unset, that is so for a while after each refusal alone.
        adopt: take capacities and periods, of 31 days at most, from what the server says of its
            policies. A table of `Throttles` forgets them once nothing was said for a period.
        max_pause: seconds of the longest pause. The calls after it are a gentle probe, and the next
            refusal says again how long.
        refused: "keep": what a refused call took stays taken, since most servers count it.
            "refund": it is given back, for servers as nginx, which count none. (Not that of a
            `CallLimit`, for which a call is one, whatever becomes of it.)
        judge: says of a status and headers, those of the client's answer, whether the call was
            refused; where it returns None, the usual answer stands: see `read`. What it raises
            comes out of `answered`.

    Attributes:
        refusals: how many calls were refused.
        ignored: how many headers and readings were malformed or absurd, or of another limit.

    Raises:
        ValueError: a parameter is out of range; names it and the value.
        TypeError: a parameter is of another type.

    >>> from async_throttle.threads import Throttle
    >>> throttle, learner = Throttle(100, period=60), Learner()
    >>> with throttle(1) as lease:
    ...     learner.sent(throttle, lease)
    ...     report = learner.answered(throttle, lease, 200, {"RateLimit": '"minute";r=40;t=30'})
    >>> round(throttle.level)
    40
    """

    __module__ = "async_throttle.http"

    # _known   by limiter, what is known of it
    # _latest  what is known of the limiter that was asked last, which is weak
    __slots__ = (
        "__weakref__",
        "_adopt",
        "_judge",
        "_known",
        "_latest",
        "_max_pause",
        "_refund",
        "_shared",
        "ignored",
        "refusals",
    )

    def __init__(
        self,
        *,
        shared: bool = False,
        adopt: bool = False,
        max_pause: float = 600,
        refused: Literal["keep", "refund"] = "keep",
        judge: Judge | None = None,
    ) -> None:
        for name, flag in {"shared": shared, "adopt": adopt}.items():
            if not isinstance(flag, bool):
                raise TypeError(f"{name} must be True or False, got {flag!r}")
        if not 0 < number("max_pause", max_pause) < math.inf:
            raise ValueError(f"max_pause must be positive and finite, got {max_pause!r}")
        if refused not in ("keep", "refund"):
            raise ValueError(f"refused must be 'keep' or 'refund', got {refused!r}")
        if judge is not None and not callable(judge):
            raise TypeError(f"judge must be callable with a status and headers, got {judge!r}")
        self._shared = shared
        self._adopt = adopt
        self._max_pause = float(max_pause)
        self._refund = refused == "refund"
        self._judge = judge
        self._known: WeakKeyDictionary[BaseLimiter, Known] = WeakKeyDictionary()
        self._latest: tuple[Callable[[], BaseLimiter | None], Any] = _nobody, None
        self.refusals = 0
        self.ignored = 0

    def __repr__(self) -> str:
        return f"<async_throttle.http.Learner [refusals:{self.refusals}, ignored:{self.ignored}]>"

    def __reduce__(self) -> tuple[Callable[[], Learner], tuple[()]]:
        """A copy learns in the same way, also in another process."""
        settings = partial(
            type(self),
            shared=self._shared,
            adopt=self._adopt,
            max_pause=self._max_pause,
            refused="refund" if self._refund else "keep",
            judge=self._judge,
        )
        return settings, ()

    # -- a call, from its grant to its answer -------------------------------------------

    def sent(self, limiter: BaseLimiter, lease: Granted) -> None:
        """The request of a call that was granted goes out now.

        What it is for: refusals of calls that were sent before the last one say nothing new.

        Args:
            limiter: a throttle, a set, or a pool: whoever was asked.
            lease: what it granted.
        """
        _granted(limiter, lease)
        lease.serial = next(serials)

    def answered(
        self,
        limiter: BaseLimiter,
        lease: Granted | None,
        status: int,
        headers: Headers,
        *,
        cached: bool = False,
    ) -> Report:
        """The headers of the answer are there; the slot may be held for the body.

        Args:
            limiter, lease: as for `sent`. Without a lease no outcome is told, and calls in flight
                count as all in flight; a pool needs one.
            status, headers: as for `read`.
            cached: the answer is from a cache of the client: no pause and no level follows from it.

        Returns:
            What the answer says.

        Raises:
            TypeError: an argument is of another kind.
            ValueError: a pool, and no lease that says which of its sets it was.
        """
        serial: int | None = getattr(lease, "serial", None)
        target: Any = limiter
        if serial is None or not isinstance(limiter, BaseThrottle):
            target = _granted(limiter, lease)
        if lease is not None:
            lease.serial = None
        verdict = None if self._judge is None else self._verdict(self._judge(status, headers))
        report = read(status, headers, None, refused=verdict)
        latest, known = self._latest
        if latest() is not target:
            known = self._known_of(target)
        row, slots = known.row, known.slots
        row.answers += 1
        # As `is_narrow`, without the call.
        narrow = slots.limit < slots.burst or (known.others and known.is_narrow())
        if report is not SERVED or known.follows or row.refusals or narrow:
            self._follow(target, known, lease, serial, status, report, cached)
        return report

    def failed(
        self, limiter: BaseLimiter, lease: Granted, error: BaseException | None = None
    ) -> None:
        """No answer came: the connection failed, the call was cancelled or took too long.

        Args:
            limiter, lease: as for `sent`.
            error: what it ended with. A timeout counts for limits that adapt, as the end of a block
                by one does; anything else says nothing of the server.
        """
        _granted(limiter, lease)
        lease.serial = None
        kinds = () if error is None else type(error).__mro__
        if any("timeout" in kind.__name__.lower() for kind in kinds):
            lease.dropped()
        else:
            lease.ignore()

    # -- what follows -------------------------------------------------------------------

    def _follow(
        self,
        target: Any,
        known: Known,
        lease: Any,
        serial: int | None,
        status: int,
        report: Report,
        cached: bool,
    ) -> None:
        """Do what *report* calls for."""
        if cached:
            if lease is not None:
                lease.ignore()
            return
        if report.ignored:
            with lock:
                self.ignored += report.ignored
        ended = False
        if report.refused:
            if lease is not None:
                lease.dropped()
            self._refused(target, known, lease, serial, report)
        else:
            if known.follows and lease is not None:
                lease.dropped() if status >= 500 else lease.ok()
            if known.row.refusals and status < 500:
                ended = self._served(target, known, serial)
        if report.limits and not report.cached:
            self._lower(target, known, lease, report.limits)
        elif ended and known.is_narrow():
            self._widen(target, known, lease, {})

    def _verdict(self, verdict: Any) -> bool | None:
        """Whether the call was refused, if the user's judge says so."""
        if verdict is not None and not isinstance(verdict, bool):
            raise TypeError(f"judge must return True, False or None, got {verdict!r}")
        return verdict

    def _known_of(self, target: BaseLimiter) -> Known:
        with lock:
            known = self._known.get(target)
            if known is None:
                known = self._known[target] = Known(target)
            self._latest = ref(target), known
            return known

    def _refused(
        self,
        target: Any,
        known: Known,
        lease: Any,
        serial: int | None,
        report: Report,
    ) -> None:
        """Pause what was refused."""
        row, paused = known.row, serial is None and _is_paused(target)
        shared = self._shared or row.answers < row.wary
        with lock:
            self.refusals += 1
            news = row.is_news(serial, paused)
            if news:
                row.refusals += 1
                row.judged = next(serials)
                row.wary = row.answers + WARY
                row.delay = _backoff(report.backoff, row.refusals)
            delay = row.delay if report.retry_after is None else report.retry_after
        if self._refund and lease is not None:
            _give_back(target, lease)
        for each in _paused(target, known, report):
            each.pause(min(delay, self._max_pause), empty=_empties(each))
            if isinstance(each, BaseThrottle) and not _refills(each):  # sets share theirs
                core = core_of(each)
                # Not shared so far: bodies were not noted, so all that hold a slot may be bodies.
                others = known.row.slots_of_bodies(core, lease) if shared else core.slots.used - 1
                core.narrow(1 + others)
        if news:  # a table that forgot it would have the next refusal be the first of a row
            keep(target, min(delay, self._max_pause) + SLOWEST)

    def _served(self, target: Any, known: Known, serial: int | None) -> bool:
        """A call went well: whether it was sent after the last refusal, and so that is over."""
        paused = serial is None and _is_paused(target)
        with lock:
            ended = known.row.is_news(serial, paused)
            if ended:
                known.row.refusals = 0
        return ended

    def _lower(
        self, target: Any, known: Known, lease: Granted | None, limits: Mapping[str, Reading]
    ) -> None:
        """Lower levels to what is left, and take over policies."""
        told = _applied(target, known, limits)
        if self._adopt:
            self._take_over(told)
        if len(told) > 1:
            # The later reset first: a window forgets at its reset what that reading has lowered.
            told.sort(key=lambda pair: pair[1].reset or 0.0, reverse=True)
        shared = self._shared or known.row.answers < known.row.wary
        most: dict[Any, float] = {}
        for throttle, reading in told:
            core, says = core_of(throttle), _says(reading)
            window = shared and not _refills(throttle)
            narrows = window and core.may_narrow
            needed = max(TOKEN, held(lease, core)[1]) if narrows else 0
            if narrows and lease is not None:
                known.row.note_body(lease)
            if narrows and reading.remaining is not None:
                _leave(most, throttle, reading.remaining * TOKEN / needed)
            if says is None:
                continue
            if _is_of_another(throttle, reading):
                self._warn(known, throttle, reading)
                continue
            if narrows:
                throttle.sync(**says)
                # A later answer may have come before this one: the level has what that one said.
                _leave(most, throttle, throttle.level * TOKEN / needed)
            elif shared:
                throttle.sync(**says, shared=True, lease=lease)
                needed = in_flight(core, lease) + 1 if window else 0
            elif reading.remaining is None or reading.remaining < throttle.burst:
                throttle.sync(**says)  # no level is higher than the burst
            if window and _is_spent(reading, needed):
                throttle.pause(min(says["reset"], self._max_pause))
        if told and (most or known.is_narrow()):
            self._widen(target, known, lease, most)

    def _widen(self, target: Any, known: Known, lease: Any, most: Mapping[Any, float]) -> None:
        """Have *most* calls in flight at once, by throttle, and of the others as many as usual.

        Calls whose bodies are read come on top. After a refusal it is one, until a call is served
        that was sent later.
        """
        if not known.row.refusals:
            for each in throttles_of(target):
                core = core_of(each)
                core.narrow(most.get(each, math.inf) + known.row.slots_of_bodies(core, lease))

    def _take_over(self, told: list[tuple[Any, Reading]]) -> None:
        """Take over the policy of each throttle that has one; of several none is the whole."""
        told = [(throttle, reading) for throttle, reading in told if reading.window]
        for throttle, reading in told:
            if sum(other is throttle for other, _ in told) == 1 and not _adopted(throttle, reading):
                with lock:
                    self.ignored += 1

    def _warn(self, known: Known, throttle: Any, reading: Reading) -> None:
        """Tell once that a reading is of another limit."""
        with lock:
            self.ignored += 1
            if known.row.warned:
                return
            known.row.warned = True
        what = (
            f"the server's limit of {reading.unit}, {shown(reading.limit)}, is for "
            f"{shown(reading.window)} s, but the period of {throttle!r} is "
            f"{shown(throttle.period)} s: what the server says of it is ignored"
        )
        try:
            warnings.warn(what, RuntimeWarning, stacklevel=5)
        except Warning as error:  # where warnings are errors: the call has an answer all the same
            unraisable(error)


def _nobody() -> None:
    """No limiter was asked yet."""


_GRANTED: Final = (Lease, LimitSetAcquisition, type(None))
_GRANTS: Final = (BaseThrottle, LimitSet)


def _granted(limiter: Any, lease: Any) -> Any:
    """The throttle or set that granted a call."""
    if not isinstance(lease, _GRANTED):
        raise TypeError(f"lease must be what was granted, or None, got {lease!r}")
    if isinstance(limiter, _GRANTS):
        return limiter
    if not isinstance(limiter, LimitPool):
        which = " of its key" if isinstance(limiter, Throttles) else ", a set or a pool"
        raise TypeError(f"limiter must be the throttle{which}, got {limiter!r}")
    if not isinstance(lease, LimitSetAcquisition):
        raise ValueError(
            f"lease must be that of a call of the pool, to tell its set, got {lease!r}"
        )
    return lease.limit_set


def _backoff(first: float, refusals: int) -> float:
    """Seconds to pause after so many refusals in a row."""
    delay: float = first * 2 ** min(refusals - 1, 16)
    if first < SLOWEST:
        delay = min(delay, SLOWEST)
    return delay * random.uniform(1, 1 + JITTER)


def _give_back(target: Any, lease: Any) -> None:
    """Give back what a refused call took."""
    if isinstance(target, BaseThrottle):
        lease.settle(0)
    else:
        taken = [key for key, weight in lease.weights.items() if weight]
        lease.settle({key: 0 for key in taken if _settles(target[key])})


def _paused(target: Any, known: Known, report: Report) -> list[Any]:
    """What a refusal is about: limits of *target* that are used up by name, or all of it."""
    if isinstance(target, BaseThrottle) or report.scope == "global":
        return [target]
    names = known.names_of(target)
    used_up = [name_of(name) for name, reading in report.limits.items() if reading.remaining == 0]
    return [throttle_of(target[names[name]]) for name in used_up if name in names] or [target]


def _is_paused(target: Any) -> bool:
    """Whether there is a pause of *target*, or of one of its limits: see `_paused`."""
    limits = [] if isinstance(target, BaseThrottle) else [target[key] for key in target]
    return any(each.paused_for > 0 for each in (target, *map(throttle_of, limits)))


def _refills(paused: Any) -> bool:
    """Whether what is paused comes back bit by bit, and so is to be empty after a pause.

    An empty window would let nobody go for a whole period more.
    """
    limits = [paused] if isinstance(paused, BaseThrottle) else [paused[key] for key in paused]
    windows = (SlidingWindow, FixedWindow, ClockWindow)
    return not any(issubclass(throttle_of(limit).algorithm, windows) for limit in limits)


def _empties(paused: Any) -> bool:
    """Whether what is paused is to be empty after the pause, and comes back within a minute.

    One refusal would else cost a bucket of 10,000 a day all that is left of the day.
    """
    limits = throttles_of(paused)
    fast = (limit.period * limit.burst <= SLOWEST * limit.capacity for limit in limits)
    return _refills(paused) and all(fast)


def _leave(most: dict[Any, float], throttle: Any, calls: float) -> None:
    """The server has so many *calls* left: have fewer in flight at once, for others are there."""
    if calls <= MANY:
        most[throttle] = min(max(1, calls - LEFT), most.get(throttle, math.inf))


def _has_rate(limit: Any) -> bool:
    return throttle_of(limit).capacity < math.inf


def _settles(limit: Any) -> bool:
    """Whether a call may have used nothing of *limit*: in the manner of concurry it counts as 1."""
    return _has_rate(limit) and not isinstance(limit, CallLimit)


NO_LIMIT: Final = object()
"""In place of the name of a limit, which may be anything else."""

ONE_NUMBER: Final = ("requests", "weight")
"""Units that a throttle by itself may count."""


def _applied(target: Any, known: Known, limits: Mapping[str, Reading]) -> list[tuple[Any, Reading]]:
    """For which throttle of *target* each reading counts."""
    if isinstance(target, BaseThrottle):  # asked first: it is no abstract class, and so is quick
        return [(target, reading) for reading in limits.values() if reading.unit in ONE_NUMBER]
    found: list[tuple[Any, Reading]] = []
    names = known.names_of(target)
    for name, reading in limits.items():
        key = names.get(name_of(name), names.get(name_of(reading.unit), NO_LIMIT))
        if key is NO_LIMIT and reading.unit in ONE_NUMBER:
            key = _main(target, names)
        if key is not NO_LIMIT and _has_rate(target[key]):
            found.append((throttle_of(target[key]), reading))
    return found


def _main(target: LimitSet[Any], names: Mapping[str, Hashable]) -> Hashable:
    """The limit of requests: the one that is called like that, or the only rate of a set."""
    if "requests" in names:
        return names["requests"]
    rates = [key for key in target if _has_rate(target[key])]
    return rates[0] if len(rates) == 1 else NO_LIMIT


def _says(reading: Reading) -> dict[str, Any] | None:
    """What `sync` is told; None if the window of the reading is over, or it does not say."""
    if reading.reset == 0:
        return None
    says: dict[str, Any] = {}
    if reading.remaining is not None:
        says["remaining"] = reading.remaining
    elif reading.used is not None:
        says["used"] = reading.used
        if reading.limit is not None:
            says["limit"] = reading.limit
    else:
        return None
    if reading.reset is not None:
        says["reset"] = reading.reset
    return says


def _is_spent(reading: Reading, needed: int) -> bool:
    """Whether a window of the server has less than *needed* nanotokens left until its reset.

    What the level is lowered by does not tell: calls of the window before leave a window here
    while the server gives nothing back.
    """
    if not reading.reset or reading.remaining is None or reading.refills:
        return False
    return reading.remaining * TOKEN < needed


def _is_of_another(throttle: Any, reading: Reading) -> bool:
    """Whether a reading is of a limit with another period.

    That is known of buckets, by their resets, and matters where nothing but what was used is said:
    the rest is taken from the capacity.
    """
    window = reading.window
    if window is None or not (reading.refills or reading.remaining is None):
        return False
    slack = 0.0
    if reading.limit and reading.remaining is not None:
        slack = MILLISECOND * reading.limit / max(1e-9, reading.limit - reading.remaining)
    period: float = throttle.period
    return window + slack < period / 2 or window - slack > period * 2


def _adopted(throttle: Any, reading: Reading) -> bool:
    """Take over the limit and the window of a reading; False if they cannot be.

    The window of a bucket is inferred, and rounded: it is not taken over, and has to be the period.
    """
    if not reading.limit or (reading.refills and _is_of_another(throttle, reading)):
        return True
    period: float = throttle.period
    window = period if reading.refills else reading.window
    if window is None or window > LONGEST_WINDOW:
        return False
    with learnt(throttle):
        try:
            if period != window:
                throttle.period = window
            if throttle.capacity != reading.limit:
                throttle.capacity = reading.limit
        except ValueError:  # a period that the rule cannot have, or a capacity
            if throttle.period != period:
                throttle.period = period
            return False
    return True


_usual = Learner()


def learn(
    throttle: BaseLimiter,
    status: int,
    headers: Headers,
    lease: Granted | None = None,
    learner: Learner | None = None,
) -> Report:
    """Do what an answer calls for, with any client: pause after a refusal, lower the level.

    Args:
        throttle: what granted the call: a throttle, a set or a pool; of `Throttles` that of the
            key.
        status, headers: of the answer: see `read`.
        lease: of the call, if there is one; a pool needs it.
        learner: says how to learn; unset, the usual way, with one learner for all.

    Returns:
        What the answer says.

    Raises:
        TypeError, ValueError: as `Learner.answered`.

    >>> from async_throttle.threads import Throttle
    >>> throttle = Throttle(10)
    >>> with throttle(1) as lease:
    ...     learn(throttle, 503, {"Retry-After": "20"}, lease=lease).refused
    True
    >>> round(throttle.paused_for)
    21
    """
    if learner is not None and not isinstance(learner, Learner):
        raise TypeError(f"learner must be a Learner, got {learner!r}")
    return (learner or _usual).answered(throttle, lease, status, headers)


learn.__module__ = "async_throttle.http"
