"""What is known of the server of a limiter.

That is the limiter's, whoever learns: a client that is made for each call, with a learner of its
own, would else hear of each refusal as if it were the first one. And sets of the same throttles are
one limiter, since they are often made for one call, as ``LimitSet(everybody, hosts[host])``.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

from async_throttle._base import BaseLimiter, BaseThrottle, core_of
from async_throttle._shell.core import Core
from async_throttle._shell.count import held, under_way
from async_throttle._shell.scheduler import forkables
from async_throttle.limits._core import throttle_of
from async_throttle.limits._set import LimitSet

__all__ = ["Known", "Row", "lock", "name_of", "throttles_of"]


class Row:
    """Answers of the server of one limiter, and the refusals among them that came in a row.

    Attributes:
        answers: that were heard, or nearly as many: threads that count at once may lose one.
        refusals: in a row.
        judged: what was the latest serial when a refusal was heard that was news.
        delay: seconds of the pause that follows from these.
        wary: of the answers, the last one after which others may still use the quota.
        warned: whether a reading of another limit was told.
        bodies: calls that were answered, of windows that are shared; some are read still.
    """

    __slots__ = ("answers", "bodies", "delay", "judged", "refusals", "warned", "wary")

    def __init__(self) -> None:
        self.answers = self.judged = self.refusals = self.wary = 0
        self.delay = 0.0
        self.warned = False
        self.bodies: WeakKeyDictionary[Any, None] | None = None

    def is_news(self, serial: int | None, paused: bool) -> bool:
        """Whether a call was sent after the last refusal.

        Without *serial* a pause tells: no call is granted during one, so what is refused meanwhile
        was sent before.
        """
        if not self.refusals:
            return True
        return not paused if serial is None else serial > self.judged

    def note_body(self, lease: Any) -> None:
        """The call of *lease* was answered; its body is read."""
        if self.bodies is None:
            self.bodies = WeakKeyDictionary()
        self.bodies[lease] = None

    def slots_of_bodies(self, core: Core, less: Any) -> int:
        """Slots of calls whose bodies are read, but *less*."""
        if self.bodies is None:
            return 0
        return sum(held(lease, core)[0] for lease in under_way(self.bodies, less))


_rows: WeakKeyDictionary[Core, dict[tuple[int, ...], Row]] = WeakKeyDictionary()
"""By the youngest throttle, and the numbers of all of a set, the least first: what their server has
answered."""


class Known:
    """What a learner knows of a throttle or a set.

    Attributes:
        row: what its server has answered.
        slots: of its first throttle, and
        others: of the other throttles of a set.
        follows: whether a limit of it follows how calls end: else that need not be told.
        names: of a set, its limits by their names as `name_of` has them; None before.
    """

    __slots__ = ("follows", "names", "others", "row", "slots")

    def __init__(self, target: BaseLimiter) -> None:
        throttles = throttles_of(target)
        cores = [*map(core_of, throttles)]
        self.follows = any(throttle.adapt is not None for throttle in throttles)
        self.names: dict[str, Hashable] | None = None
        self.slots, *self.others = (core.slots for core in cores)
        cores.sort(key=lambda core: core.number)  # order makes no other limiter
        rows = _rows.setdefault(cores[-1], {})
        self.row = rows.setdefault(tuple(core.number for core in cores), Row())

    def names_of(self, limits: LimitSet[Any]) -> Mapping[str, Hashable]:
        """The limits of this set, by their names as `name_of` has them."""
        if self.names is None:
            self.names = {name_of(key): key for key in limits}
        return self.names

    def is_narrow(self) -> bool:
        """Whether fewer calls than usual may be in flight at once."""
        slots = self.slots
        return slots.limit < slots.burst or any(each.limit < each.burst for each in self.others)


def throttles_of(target: Any) -> list[BaseThrottle]:
    """The throttles of *target*, a throttle or a set."""
    if isinstance(target, BaseThrottle):
        return [target]
    return [throttle_of(target[key]) for key in target]


def name_of(name: Hashable) -> str:
    """The *name* of a limit, as those of a server are compared with it."""
    return str(name).lower().replace("_", "-")


class Lock:
    """A reentrant lock, which is free in the child of a fork: whoever held it is in the parent."""

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self.forked()
        forkables.add(self)

    def forked(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


lock: Final = Lock()
"""Held while what is known of a limiter changes. Reentrant: a signal handler may learn as well."""
