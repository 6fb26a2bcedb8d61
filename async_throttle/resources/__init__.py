"""Limits in the manner of mtaio.resources.

================  ===========================================================================
_limiters.py      `RateLimiter` and `ConcurrencyLimiter`: one of a throttle's limits alone
_call.py          what their methods return that is a coroutine and more
================  ===========================================================================
"""

from async_throttle.resources._limiters import ConcurrencyLimiter, RateLimiter

__all__ = ["ConcurrencyLimiter", "RateLimiter"]

for _name in __all__:  # users see the name they import, not the module it happens to live in
    globals()[_name].__module__ = __name__
