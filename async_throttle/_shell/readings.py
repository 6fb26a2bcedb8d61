"""What can be read of a throttle, for people."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING

from async_throttle._shell.refusals import in_flight
from async_throttle._shell.scheduler import find
from async_throttle._units import SECOND, TOKEN, shown
from async_throttle.rules.slots import UNLIMITED

if TYPE_CHECKING:
    from async_throttle._shell.core import Core

__all__ = ["told"]


def told(core: Core, address: int) -> str:
    """The repr of the throttle at *address*. Time does not pass meanwhile: due waiters stay.

    It never raises, whatever a clock or a rule of a user does.
    """
    scheduler = find(core)
    rule, slots = core.rule, core.slots
    now = scheduler.last()
    with suppress(Exception):
        now = now if scheduler.inside() else scheduler.clock.present()
    level = "?"
    with suppress(Exception):
        level = shown(core.level(now))
    waiting = scheduler.queue.count(rule)
    free = slots.left + scheduler.queue.pending(slots)
    if core.closed:
        state = "closed"
    elif core.pause.until > now:
        state = "paused"
    elif waiting or free <= 0:
        state = "locked"
    else:
        state = "unlocked"
    name = "" if core.name is None else f" {core.name!r}"
    rate = f"capacity:{shown(rule.capacity / TOKEN)}"
    if rule.capacity < math.inf:
        rate += f"/{shown(rule.period / SECOND)}s, burst:{shown(rule.burst / TOKEN)}"
        rate += f", {rule.kind.__name__}"
    flying = ""
    if core.flights is not None:
        flying = f", in flight:{shown(in_flight(core, now))}"
    left = "" if slots.limit == UNLIMITED else f", slots:{free}/{slots.limit}"
    return (
        f"<async_throttle.{core.face}{name} object at {address:#x} [{state}, {rate}, "
        f"tokens:{level}{flying}{left}, waiters:{waiting}]>"
    )
