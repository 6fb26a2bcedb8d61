"""Keyed throttles: one for each host, user or chat, kept for as long as it matters.

What may be forgotten? A throttle that nobody could tell from a new one: nobody waits at it or
holds a slot, all its tokens are there, it is not paused, closed or changed, and nobody else
has a reference to it. (One whose limit follows the server and has moved is unlike a new one.)
Settings that were learnt from a server's answers are no change in this sense, once the throttle
has been idle for a period: the server says them again, and hosts would else be kept for ever.
That a server has refused matters for a minute after the pause: the next pause is to be longer.
That nobody refers to it is what `weakref` tells: the throttle is taken out of the table, and
if it is still alive then, it goes back. (A throttle is in no reference cycle, so it does not
wait for the garbage collector.)

When? Whenever a key comes that is not in the table, the two that were looked at least
recently are looked at. So the table holds at most about twice as many as must be kept, a new
key costs the same however many there are, and there is no background task.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from async_throttle._base import BaseLimiter, BaseThrottle, core_of, known_apart
from async_throttle._shell.core import Core, age
from async_throttle._shell.scheduler import find, forkables
from async_throttle._shell.single import Single
from async_throttle._units import nanoseconds

__all__ = ["Throttles"]

if TYPE_CHECKING:  # of type checkers, which bring it along
    import typing_extensions

    from async_throttle.throttle import Throttle

    K = typing_extensions.TypeVar("K", bound=Hashable, default=Any)
    T = typing_extensions.TypeVar("T", bound=BaseLimiter, default=Throttle)
else:
    K = TypeVar("K")
    T = TypeVar("T")

LOOKED_AT: Final = 2
"""Old keys looked at for each new one. With one, a table that has grown would stay as it is."""


class Throttles(Single, Generic[K, T]):
    """One throttle per key, or one set, or one pool, made when the key is first asked for.

    ::

        hosts = Throttles(lambda host: Throttle(2, concurrency=4))

        async with hosts[url.host]:     # two a second and four at once, for each host
            ...
        hosts["example.com"].pause(30)  # that one has banned us

    A key is forgotten once that makes no difference: nobody waits, holds or references its
    throttle, and a new one would do the same. So a key that is limited stays limited, a
    throttle that you keep is the one that all others get for its key, and memory follows the
    number of keys in use, not of those ever seen. One that was closed, one of whose settings
    was changed, and one that is made less than full (*initial*), so that a new one would be
    worse, are never forgotten; a paused one not before the pause ends, one that its server has
    refused not before a minute after the pause, and one whose settings were learnt from the
    server's answers not before it has been idle for a period.

    A set is forgotten likewise, once its throttles could be made anew as well: those that the
    factory makes. Throttles that are older than it, which sets share, are not asked::

        models = Throttles(lambda model: LimitSet(account, tokens=Throttle(90_000, period=60)))

    From any number of threads, if the throttles are `async_throttle.threads.Throttle`. Two
    threads that ask for a new key at once may both call *factory*; one result is used.

    Args:
        factory: called with a key that is new, for its limiter. It may ask for other keys.

    Raises:
        TypeError: *factory* cannot be called, or is a limiter itself.

    >>> from async_throttle import Throttle
    >>> chats = Throttles(lambda chat: Throttle(1, burst=3, name=f"chat {chat}"))
    >>> chats[5] is chats[5]
    True
    >>> chats[5].try_acquire()
    True
    >>> chats[7].name, 5 in chats, 9 in chats
    ('chat 7', True, False)

    A bot that may send 30 messages per second, and 20 per minute to each chat. Those that wait
    for their chat hold nobody else up:

    >>> import asyncio
    >>> from async_throttle import LimitSet, testing
    >>> async def main():
    ...     loop, everybody = asyncio.get_running_loop(), Throttle(30)
    ...     chats = Throttles(lambda chat: Throttle(20, period=60))
    ...     async def send(chat: str) -> None:
    ...         async with LimitSet(everybody, chats[chat]):
    ...             ...  # your request
    ...     busy = asyncio.gather(*(send("busy") for n in range(25)))
    ...     await asyncio.sleep(0)  # all of them wait now
    ...     await send("quiet")
    ...     print(f"the quiet chat was served after {loop.time():.0f} s")
    ...     await busy
    ...     print(f"the busy one after {loop.time():.0f} s")
    >>> testing.run(main())
    the quiet chat was served after 0 s
    the busy one after 15 s
    """

    __module__ = "async_throttle"

    # _throttles  by key, the one looked at least recently first
    # _ages       of sets and pools, by key: throttles made from there on are theirs
    # _lock       held while an entry changes. Reentrant: a finalizer may run at any time, and
    #             may ask for a key
    __slots__ = ("__weakref__", "_ages", "_factory", "_lock", "_throttles")

    def __init__(self, factory: Callable[[K], T]) -> None:
        if not callable(factory):
            raise TypeError(f"factory must be callable, got {factory!r}")
        if isinstance(factory, Single):
            raise TypeError(
                "factory must make a limiter for each key, as in Throttles(lambda key: "
                f"Throttle(5)), got one for all: {factory!r}"
            )
        self._factory = factory
        self._throttles: OrderedDict[K, T] = OrderedDict()
        self._ages: dict[K, int] = {}
        self._lock = threading.RLock()
        forkables.add(self)

    def __getitem__(self, key: K) -> T:
        """The throttle of *key*, made if there is none.

        Raises:
            TypeError: *key* is not hashable, or *factory* returned something else.
        """
        # Without the lock. If it is missing only while it is looked at, `_make` finds it.
        throttle = self._throttles.get(key)
        return self._make(key) if throttle is None else throttle

    def __contains__(self, key: object) -> bool:
        """Whether *key* has a throttle now; makes none."""
        with self._lock:
            return key in self._throttles

    def __iter__(self) -> Iterator[K]:
        """The keys that have a throttle now; while you iterate they may change."""
        with self._lock:
            return iter(list(self._throttles))

    def __len__(self) -> int:
        """How many keys have a throttle now."""
        with self._lock:
            return len(self._throttles)

    def __repr__(self) -> str:
        return f"<async_throttle.Throttles object at {id(self):#x} [keys:{len(self)}]>"

    def forked(self) -> None:
        """This is the child of a fork: whoever held the lock is in the parent."""
        self._lock = threading.RLock()

    def _make(self, key: K) -> T:
        since = age()
        made = self._factory(key)
        if not isinstance(made, BaseLimiter):
            raise TypeError(
                f"factory must return a Throttle, a set or a pool, got {made!r} for {key!r}"
            )
        with self._lock:
            self._look_around()
            found = self._throttles.setdefault(key, made)
            if found is made and not isinstance(core_of(made), Core):
                self._ages[key] = since
            return found

    def _look_around(self) -> None:
        for _ in range(LOOKED_AT):
            self._look_at_the_oldest()

    def _look_at_the_oldest(self) -> None:
        """Forget it if nobody would notice; else it is the youngest now."""
        throttles = self._throttles
        if not throttles:
            return
        key = next(iter(throttles))
        throttles.move_to_end(key)
        throttle = throttles[key]
        # Inside its door: another thread that has it could use it and let go of it meanwhile.
        core: Any = core_of(throttle)
        since = self._ages.get(key)
        del throttle

        def forget(now: int) -> None:
            if since is None:
                idle = core.idle(now)
            else:
                idle = core.idle(now, since) and not known_apart(throttles[key], since)
            if idle and not _heard_of_late(core, now, since or 0):
                alive = weakref.ref(throttles.pop(key))
                found = alive()
                if found is not None:
                    throttles[key] = found
                else:
                    self._ages.pop(key, None)

        find(core if since is None else core.whom()).ask(forget, lambda now: None)


_heard: weakref.WeakKeyDictionary[Core, int] = weakref.WeakKeyDictionary()
"""By throttle, the reading of its clock until which it matters what its server said."""


def keep(limiter: BaseLimiter, seconds: float) -> None:
    """Have tables of throttles or sets keep *limiter* so long, though it may be idle then.

    >>> from async_throttle import Throttle
    >>> hosts = Throttles(lambda host: Throttle(10))
    >>> keep(hosts["example.com"], 60)
    >>> [hosts[n].level for n in range(3)], "example.com" in hosts
    ([10.0, 10.0, 10.0], True)
    """
    for core in _throttles_of(core_of(limiter)):
        find(core).do(partial(_keep, core, nanoseconds("seconds", seconds)))


def _keep(core: Core, span: int, now: int) -> None:
    until = now - find(core).clock.shift + span
    _heard[core] = max(until, _heard.get(core, until))


@contextmanager
def learnt(throttle: BaseThrottle) -> Iterator[None]:
    """What is set of *throttle* within the block is what its server has just said.

    A table of throttles may forget it nevertheless, once nobody has learnt anything for a period;
    so the block is to be entered for each answer that says something, also where it is no news.

    >>> from async_throttle import Throttle
    >>> hosts = Throttles(lambda host: Throttle(10, period=0.001))
    >>> with learnt(hosts["example.com"]):
    ...     hosts["example.com"].capacity = 5
    >>> hosts["example.com"].capacity
    5.0
    """
    core = core_of(throttle)
    altered = core.altered
    try:
        yield
    finally:
        core.altered = altered
        keep(throttle, throttle.period)


def _heard_of_late(core: Any, now: int, since: int) -> bool:
    """Whether it matters what was said of a throttle of *core*, which may be a set's or a pool's.

    Throttles that are older than *since* are there for a new set, too.
    """
    for member in _throttles_of(core):
        until = None if member.number < since else _heard.get(member)
        if until is not None and now - find(member).clock.shift < until:
            return True
    return False


def _throttles_of(core: Any) -> Iterable[Core]:
    if isinstance(core, Core):
        return (core,)
    return (member for each in getattr(core, "sets", (core,)) for member in each.members)
