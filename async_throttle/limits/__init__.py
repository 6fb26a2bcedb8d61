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

What is written for concurry 0.13.2 runs with its import line changed:

>>> limits = LimitSet(
...     limits=[
...         CallLimit(window_seconds=60, algorithm=RateLimitAlgorithm.SlidingWindow, capacity=100),
...         RateLimit("tokens", 60, RateLimitAlgorithm.TokenBucket, capacity=1_000),
...         ResourceLimit(key="connections", capacity=5),
...     ],
...     shared=True,
...     mode="thread",
... )
>>> with limits.acquire(requested={"tokens": 100}) as acq:  # one call, and one connection
...     acq.update(usage={"tokens": 80})
>>> acq = limits.try_acquire(requested={"tokens": 2, "connections": 5})
>>> with acq:
...     acq.successful, limits.get_stats()["connections"]["available"]
(True, 0)

Otherwise than there:

* Callers go in order of arrival, and nobody polls. Under asyncio `LimitSet.acquire` does not block
  the event loop: what it returns is entered with ``async with``, or awaited; so is that of
  `LimitSet.async_acquire`.
* A request for a name that is no limit is a ValueError: with a name that was misspelt the limit
  would not hold. `LimitSetAcquisition.update`, which comes too late for that, logs it.
* A request takes 1 of each limit that it does not name, of a `RateLimit`, too; 0 leaves one out.
* `LimitSetAcquisition.update` may be left out, and may come after the block. Usage above the
  request is charged, as debt, and logged. All algorithms give back what was not used.
* A pool goes to a set that has room, if there is one. It knows `LoadBalancingAlgorithm.Soonest`,
  which is the default, and does not refuse ``LeastActiveLoad``.
* A failed `LimitSet.try_acquire` gives nothing back at the end of its block.
* The algorithm of a `RateLimit` that has none is a sliding window: it never lets more than the
  capacity through. Amounts may be fractions for each of them, of 1e-9 and more.
* What is no number is a TypeError, text too. `RateLimit.validate_usage` raises, as its documents
  say. ``window_seconds`` is as good a name as ``window``.
* Sets of mode ``"process"`` live in a file and those of mode ``"ray"`` in an actor, and wherever
  they come by pickle they are the same: to processes that are forked or spawned, to pools of them,
  to joblib, to tasks and actors. There is no process to keep alive, and none whose death takes the
  quota along: the slots of one that was killed come back after 30 s.
* concurry's workers and what is private to it are not here.
"""

from async_throttle.limits._acquisition import Delay
from async_throttle.limits._concurry import (
    Acquisition,
    ExecutionMode,
    LimitPool,
    LimitSet,
    LimitSetAcquisition,
)
from async_throttle.limits._pool import LoadBalancingAlgorithm
from async_throttle.limits._single import CallLimit, Limit, RateLimit, ResourceLimit
from async_throttle.limits._window import RateWindow
from async_throttle.rules.algorithm import RateLimitAlgorithm

__all__ = [
    "Acquisition",
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
