"""Limits and resources in the manner of mtaio.resources.

================  ===========================================================================
_limiters.py      `RateLimiter` and `ConcurrencyLimiter`: one of a throttle's limits alone
_adaptive.py      `AdaptiveRateLimiter`: rates that follow a load which is reported
_timeouts.py      `TimeoutManager`: how long a block, a call or a series of tries may take
_group.py         `ResourceGroup`: resources that are entered and left together
_call.py          what their methods return that is a coroutine and more
================  ===========================================================================
"""

from async_throttle.resources._adaptive import AdaptiveRateLimiter
from async_throttle.resources._group import ResourceGroup
from async_throttle.resources._limiters import ConcurrencyLimiter, RateLimiter
from async_throttle.resources._timeouts import Attempt, TimeoutManager

__all__ = [
    "AdaptiveRateLimiter",
    "Attempt",
    "ConcurrencyLimiter",
    "RateLimiter",
    "ResourceGroup",
    "TimeoutManager",
]
