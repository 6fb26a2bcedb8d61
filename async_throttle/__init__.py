"""One primitive for both limits of an API: so much per period, and so many at once.

=====================  ==============================================================
throttle.py            `Throttle`, a semaphore and a token bucket behind one fair queue;
                       `Lease`, what a granted call holds
limits/                `LimitSet`, several throttles that are taken together; `LimitPool`;
                       names in the manner of concurry
keyed.py               `Throttles`, one for each key
threads.py             `threads.Throttle`, for threads and event loops together
resources/             `RateLimiter`, `ConcurrencyLimiter`, one of the limits alone;
                       `AdaptiveRateLimiter`, by a load that is reported;
                       `TimeoutManager`, how long something may take;
                       `ResourceGroup`, what is entered and left together
buckets.py             a token bucket and a leaky bucket that are awaited
schedule.py            `Schedule`: capacity that changes by the clock
rules/                 the arithmetic of each algorithm; `Rule`, to bring your own
adaptive/              limits that follow how calls end; `Adaptive`, to bring your own
exceptions.py          every error, drawn as a tree
testing.py             an event loop whose clock jumps; pytest_plugin.py gives it to pytest
_base.py               what all throttles have in common
_desk.py               where callers wait: a queue, a clock, futures and timers
_queue.py              who goes next
_alarm.py, _units.py   a timer that does not spin; numbers as integers
_decorator.py          functions that run within a block
__main__.py, _demo/    ``python -m async_throttle``: what all this is for
=====================  ==============================================================

How it is built: rules compute (rules/), one pure queue decides who goes next (_queue.py),
a thin shell waits (_desk.py, threads.py). The first two know no clock and no event loop.
"""

from async_throttle.adaptive import AIMD, Adaptive, BackOff, Gradient, Outcome
from async_throttle.exceptions import (
    ResourceError,
    ResourceLimitError,
    ThrottleClosed,
    ThrottleFull,
    ThrottleTimeout,
    WeightTooLarge,
)
from async_throttle.keyed import Throttles
from async_throttle.limits import (
    CallLimit,
    LimitPool,
    LimitSet,
    LimitSetAcquisition,
    LoadBalancingAlgorithm,
    RateLimit,
    ResourceLimit,
)
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
from async_throttle.rules.window import FixedWindow, SlidingWindow
from async_throttle.schedule import Schedule
from async_throttle.throttle import Lease, Throttle

__all__ = [
    "AIMD",
    "GCRA",
    "Adaptive",
    "AdaptiveRateLimiter",
    "BackOff",
    "CallLimit",
    "ConcurrencyLimiter",
    "FixedWindow",
    "Gradient",
    "LeakyBucket",
    "Lease",
    "LimitPool",
    "LimitSet",
    "LimitSetAcquisition",
    "LoadBalancingAlgorithm",
    "Outcome",
    "RateLimit",
    "RateLimitAlgorithm",
    "RateLimiter",
    "ResourceError",
    "ResourceGroup",
    "ResourceLimit",
    "ResourceLimitError",
    "Rule",
    "Schedule",
    "SlidingWindow",
    "Throttle",
    "ThrottleClosed",
    "ThrottleFull",
    "ThrottleTimeout",
    "Throttles",
    "TimeoutManager",
    "TokenBucket",
    "WeightTooLarge",
]

for _name in __all__:  # users see the name they import, not the module it happens to live in
    globals()[_name].__module__ = __name__
