"""Many limits, one decision: sets of throttles that are taken together, and pools of sets.

================  ===========================================================================
_window.py        `RateWindow`: the windows of rates, in seconds or by name
_single.py        `RateLimit`, `CallLimit`, `ResourceLimit`: throttles in the manner of concurry
_core.py          the core of a set: the rules of its members in one lane
_tokens.py        the rates of a set alone, for `consume`
_refusals.py      how a set refuses
_acquisition.py   `LimitSetAcquisition`: what a granted call to a set holds
_face.py          how sets and pools are called
_set.py           `LimitSet`: several limits that are taken together, all of them or nothing
_pool.py          `LimitPool`: several sets, of which a call takes the one that admits it soonest
_concurry.py      sets and pools in the words of concurry, which are those of this module; the
                  sets and pools of `async_throttle` are native, and go wherever these go
================  ===========================================================================
"""

from async_throttle.limits._acquisition import Delay
from async_throttle.limits._concurry import ExecutionMode, LimitPool, LimitSet, LimitSetAcquisition
from async_throttle.limits._pool import LoadBalancingAlgorithm
from async_throttle.limits._single import CallLimit, Limit, RateLimit, ResourceLimit
from async_throttle.limits._window import RateWindow
from async_throttle.rules.algorithm import RateLimitAlgorithm

__all__ = [
    "CallLimit",
    "Delay",
    "ExecutionMode",
    "Limit",
    "LimitPool",
    "LimitSet",
    "LimitSetAcquisition",
    "LoadBalancingAlgorithm",
    "RateLimit",
    "RateLimitAlgorithm",
    "RateWindow",
    "ResourceLimit",
]
