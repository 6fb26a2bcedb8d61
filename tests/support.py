"""Words for tests in virtual time, and how much is tried.

``HYPOTHESIS_PROFILE`` in the environment says how much:

- ``quick``, the default: a fifth of what ``full`` tries.
- ``brief``: a twentieth, where the same code runs once more on another interpreter.
- ``full``: the numbers that the tests name, see :func:`examples`.
- ``mutants``: as ``quick``, but what fails is not made smaller, which would take long.
- ``deep``: ten times as much, and other examples each time; what fails is found again by the seed
  that is printed, or from ``.hypothesis/``.

Without ``deep`` all examples are the same each time: a change that fails is at fault itself.
"""

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Coroutine
from datetime import timedelta
from decimal import Decimal
from numbers import Real
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings

from async_throttle._shell.scheduler import find

T = TypeVar("T")

SEARCH = [Phase.explicit, Phase.reuse, Phase.generate]

PROFILES = {"brief": 5, "quick": 20, "mutants": 20, "full": 100, "deep": 1_000}
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "quick")
QUICK = PROFILE in ("brief", "quick")

for profile, tries in PROFILES.items():
    settings.register_profile(
        profile,
        max_examples=tries,
        derandomize=profile != "deep",
        print_blob=True,
        phases=SEARCH if profile == "mutants" else [*SEARCH, Phase.shrink],
        # The time that an example takes says how busy the machine is.
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile(PROFILE)


def scaled(full: int, *, least: int = 5) -> int:
    """How often to try in this profile what ``full`` tries so often; never fewer times than *least*
    unless ``full`` itself does."""
    return max(min(full, least), full * settings().max_examples // 100)


def examples(full: int) -> settings:
    """Decorates a test that draws so many examples in ``full``, and in proportion elsewhere."""
    return settings(max_examples=scaled(full))


def refusal_of(value: object) -> type[TypeError | ValueError]:
    """How an argument is refused: by what it is, or by what it says."""
    return ValueError if isinstance(value, Real | timedelta | Decimal) else TypeError


def now() -> float:
    """The instant, in seconds since the loop's start."""
    return asyncio.get_running_loop().time()


async def others_run() -> None:
    """Let everything run that needs no time."""
    for _ in range(10):
        await asyncio.sleep(0)


async def queued(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task that has got as far as it can without time."""
    task = asyncio.create_task(coroutine)
    await others_run()
    return task


def at(instant: float, call: Callable[[], object]) -> None:
    """Call in the step in which that instant comes."""
    asyncio.get_running_loop().call_at(instant, call)


def calls_of(work: Callable[[], object]) -> int:
    """How many functions *work* calls: what costs no time on one machine costs none on another."""
    calls = 0

    def seen(frame: object, what: str, argument: object) -> None:
        nonlocal calls
        calls += what in ("call", "c_call")

    before = sys.getprofile()
    gc.disable()  # what it happens to collect, and who is told of that, is none of the work
    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(before)
        gc.enable()
    return calls


def check(limiter: Any) -> None:
    """What *limiter* keeps by hand is what follows from the rest of it: called after each step."""
    core = limiter._core
    find(core.whom() if hasattr(core, "whom") else core).check()
