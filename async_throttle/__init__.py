"""One primitive for both limits of an API: so much per period, and so many at once.

=====================  ==============================================================
throttle.py            `Throttle`, a semaphore and a token bucket behind one fair queue;
                       `Lease`, what a granted call holds
limits/                `LimitSet`, several throttles that are taken together; `LimitPool`;
                       both once more in the words of concurry
keyed.py               `Throttles`, one for each key
threads.py             `threads.Throttle`, for threads and event loops together
resources/             `RateLimiter`, `ConcurrencyLimiter`, one of the limits alone;
                       `AdaptiveRateLimiter`, by a load that is reported;
                       `TimeoutManager`, how long something may take;
                       `ResourceGroup`, what is entered and left together
buckets.py             a token bucket and a leaky bucket that are awaited
schedule.py            `Schedule`: capacity that changes by the clock
statistics.py          what limiters say of themselves, for metrics
exceptions.py          every error, drawn as a tree
testing.py             an event loop whose clock jumps
pytest_plugin.py       gives that loop to pytest
rules/                 the arithmetic of each limit, bucket.py, window.py, clock.py and
                       slots.py, with their names in algorithm.py; lowered.py, what a window
                       forgets by itself; ends.py counts one of them to the end of each call;
                       `Rule`, to bring your own
adaptive/              limits that follow how calls end: aimd.py, gradient.py, backoff.py;
                       `Adaptive`, to bring your own
_engine/               who goes next: lane.py, queue.py, patience.py, overtaking.py,
                       backfill.py, forecast.py; index.py has the lanes by what blocks them,
                       decide.py asks it; check.py compares what the queue keeps by hand
_shell/                what waits: clock.py, wall.py and alarm.py, door.py, admission.py and
                       scheduler.py, waiting.py and refusals.py, loop.py and thread.py;
                       core.py is what a throttle is, readings.py what is read of it,
                       tally.py what it counts, following.py what adapts it,
                       count.py what the server counts, flights.py what is in flight;
                       lease.py and states.py are what a call is;
                       single.py refuses copies; fast.py has every shortcut
stores/                one quota for many processes: sqlite.py, redis.py with redis.lua, ray.py;
                       _state.py is what a store does, _session.py and _account.py ask it on
                       behalf of throttles; rules/booked.py is what the queue sees of it
http/                  httpx.py, httpx2.py, aiohttp.py: limits for the clients of these names;
                       what the answers of servers say of their limits, headers.py, and
                       what follows from that, learner.py
_base.py               what the throttles of both kinds have in common
_limiter.py            what can be asked of every limiter: the protocols `Limiter`, `SyncLimiter`
_units.py              numbers as integers
_decorator.py          functions that run within a block
__main__.py, _demo/    ``python -m async_throttle``: what all this is for
py.typed               the hints are for type checkers, too
=====================  ==============================================================

Words, one for each thing:

============  =======================================================================
limiter       what callers ask: a throttle, a set, a pool
waiter        a caller that is queued
lane          the waiters that ask for the same rules; the first of them is the *head*
bottleneck    the limit that holds up the head
pause         nobody is granted before an instant
reservation   what is kept for heads that wait; a later waiter may go first (*backfill*)
              only with what no reservation needs
overtaken     how often in a row better classes went before a head; a lane that was
              overtaken too often has a turn
handed over   granted, but not running yet: newcomers queue until the caller runs
lease         what a granted call holds: a slot, to be released, and tokens, to be
              *settled* once it is known how many the call really *used*
scheduler     a clock, a queue, admission to it, and merging with other schedulers
============  =======================================================================

How it is built: in floors, and each imports only from those below::

    threads.py  limits/  keyed.py  resources/  buckets.py  schedule.py      what users call
        throttle.py  _base.py
            │
            ▼
    stores/     share: what is asked of a store, and told to it (only if there is one)
            │
            ▼
    _shell/     waits: turns "granted" and "wake me at" into futures, wake-ups and timers
            │
            ▼
    _engine/    decides: one queue for each group of limits that depend on each other
            │
            ▼
    rules/  adaptive/    compute: instants and samples in, instants and limits out

The two lower floors know no clock, no event loop and no thread: the shell tells them the time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from async_throttle._base import BaseThrottle
    from async_throttle._limiter import Limiter, SyncLimiter
    from async_throttle.adaptive import AIMD, Adaptive, BackOff, Gradient, Outcome
    from async_throttle.exceptions import (
        ResourceError,
        ResourceLimitError,
        StoreUnavailable,
        ThrottleClosed,
        ThrottleFull,
        ThrottleTimeout,
        WeightTooLarge,
    )
    from async_throttle.keyed import Throttles
    from async_throttle.limits import CallLimit, RateLimit, ResourceLimit
    from async_throttle.limits._acquisition import LimitSetAcquisition
    from async_throttle.limits._pool import LimitPool, LoadBalancingAlgorithm
    from async_throttle.limits._set import LimitSet
    from async_throttle.resources import (
        AdaptiveRateLimiter,
        ConcurrencyLimiter,
        RateLimiter,
        ResourceGroup,
        TimeoutManager,
    )
    from async_throttle.rules import Rule
    from async_throttle.rules.algorithm import RateLimitAlgorithm
    from async_throttle.rules.bucket import GCRA, LeakyBucket, TokenBucket
    from async_throttle.rules.clock import ClockWindow
    from async_throttle.rules.window import FixedWindow, SlidingWindow
    from async_throttle.schedule import Schedule
    from async_throttle.statistics import Refused, Statistics
    from async_throttle.throttle import Lease, Throttle

__all__ = [
    "AIMD",
    "GCRA",
    "Adaptive",
    "AdaptiveRateLimiter",
    "BackOff",
    "BaseThrottle",
    "CallLimit",
    "ClockWindow",
    "ConcurrencyLimiter",
    "FixedWindow",
    "Gradient",
    "LeakyBucket",
    "Lease",
    "LimitPool",
    "LimitSet",
    "LimitSetAcquisition",
    "Limiter",
    "LoadBalancingAlgorithm",
    "Outcome",
    "RateLimit",
    "RateLimitAlgorithm",
    "RateLimiter",
    "Refused",
    "ResourceError",
    "ResourceGroup",
    "ResourceLimit",
    "ResourceLimitError",
    "Rule",
    "Schedule",
    "SlidingWindow",
    "Statistics",
    "StoreUnavailable",
    "SyncLimiter",
    "Throttle",
    "ThrottleClosed",
    "ThrottleFull",
    "ThrottleTimeout",
    "Throttles",
    "TimeoutManager",
    "TokenBucket",
    "WeightTooLarge",
]

_HOMES = {
    name: home
    for home, names in {
        "_base": "BaseThrottle",
        "_limiter": "Limiter SyncLimiter",
        "adaptive": "AIMD Adaptive BackOff Gradient Outcome",
        "exceptions": "ResourceError ResourceLimitError WeightTooLarge "
        "ThrottleClosed ThrottleFull ThrottleTimeout StoreUnavailable",
        "keyed": "Throttles",
        "limits": "CallLimit RateLimit ResourceLimit",
        "limits._acquisition": "LimitSetAcquisition",
        "limits._pool": "LimitPool LoadBalancingAlgorithm",
        "limits._set": "LimitSet",
        "resources": "AdaptiveRateLimiter ConcurrencyLimiter RateLimiter ResourceGroup "
        "TimeoutManager",
        "rules": "Rule",
        "rules.algorithm": "RateLimitAlgorithm",
        "rules.bucket": "GCRA LeakyBucket TokenBucket",
        "rules.clock": "ClockWindow",
        "rules.window": "FixedWindow SlidingWindow",
        "schedule": "Schedule",
        "statistics": "Refused Statistics",
        "throttle": "Lease Throttle",
    }.items()
    for name in names.split()
}
"""The module of each name, which is imported when that name is first asked for: a program that uses
a `Throttle` does not wait for the rest."""

_MODULES = {*(home.split(".")[0] for home in _HOMES.values()), "buckets", "testing", "threads"}

if not TYPE_CHECKING:  # else type checkers would take any name for one that is there

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return import_module(f"{__name__}.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, *_MODULES})
