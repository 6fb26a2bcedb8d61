"""A quota in an actor, for programs that run on Ray already.

The actor keeps the states, and applies a step to them at each call. Whoever is to be woken has a
call in it that ends then: a long poll.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, Literal

from async_throttle.exceptions import StoreUnavailable
from async_throttle.stores import Connection, Reply, Request, Store, address_of, packed
from async_throttle.stores._state import step

__all__ = ["RayStore"]

NAMESPACE: Final = "async_throttle"
"""Where the actors are: without one that is said, each driver would have actors of its own."""

POLL: Final = 10.0
"""Seconds after which a long poll ends in vain."""

GONE: Final = 6 * POLL
"""Seconds after which nobody polls any more who has not come again."""

BEGIN: Final = 30.0
"""Seconds within which the first answer is to come: an actor may have to be started."""

LATER: Final = 1.0
"""Seconds within which later answers are to come."""

LOOKED_AT: Final = 2
"""States looked at with each step: those that have lapsed are dropped."""

CALLERS: Final = 10_000
"""Calls that may be in the actor at once, with the long polls."""


class Quota:
    """The actor. Its methods return errors as data: not all exceptions survive the way.

    Attributes:
        states: by name, a state as JSON, and the instant until which it is to be kept. A step that
            fails changes nothing, and the one looked at least recently is the first.
        bells: by address, what ends its long poll, and when that was made last.
    """

    def __init__(self) -> None:
        self.states: OrderedDict[str, tuple[int, str]] = OrderedDict()
        self.bells: dict[str, tuple[asyncio.Event, float]] = {}

    async def call(self, names: list[str], request: Request) -> tuple[Reply | None, str]:
        """Apply a step: the reply, and what was wrong."""
        try:
            return self._apply(names, request), ""
        except Exception as error:
            return None, f"{type(error).__name__}: {error}"

    def _apply(self, names: list[str], request: Request) -> Reply:
        now = time.time_ns() // 1_000
        found = [self.states.get(name, (0, "null")) for name in names]
        states = [json.loads(state) if until > now else None for until, state in found]
        reply, kept, wakes = step(now, request, states)
        until = [now + int(told[3]) for told in reply["limits"]]
        texts = [json.dumps(state, separators=(",", ":")) if state else "" for state in kept]
        for name, text, last in zip(names, texts, until, strict=True):
            if text:
                self.states[name] = last, text
            else:
                self.states.pop(name, None)
        for address in {address_of(session) for session in wakes}:
            if address in self.bells:
                self.bells[address][0].set()
        self._look_around(now)
        return reply

    def _look_around(self, now: int) -> None:
        for _ in range(min(LOOKED_AT, len(self.states))):
            name, (until, text) = self.states.popitem(last=False)
            if until > now:
                self.states[name] = until, text

    async def wait(self, address: str, seconds: float) -> bool:
        """Wait until a session of that address is to be woken; whether it is."""
        now = time.monotonic()
        if address not in self.bells:
            for other, (_, at) in list(self.bells.items()):
                if at + GONE < now:
                    del self.bells[other]
        bell = self.bells.get(address, (asyncio.Event(), now))[0]
        self.bells[address] = bell, now
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(bell.wait(), seconds)
        rung = bell.is_set()
        bell.clear()
        return rung

    async def look(self, names: list[str] | None = None) -> dict[str, str]:
        """The states of the limits of those *names*, or of all, by name."""
        now = time.time_ns() // 1_000
        names = list(self.states) if names is None else names
        found = {name: self.states[name] for name in names if name in self.states}
        return {name: text for name, (until, text) in found.items() if until > now}


class RayStore(Store):
    """A quota in an actor of a Ray cluster, for its drivers, tasks and actors.

    The actor is made by whoever comes first, and outlives all of them: ``ray.kill(ray.get_actor(
    name, namespace="async_throttle"))`` ends it. One that has died is started again, and goes on as
    a store that has lost its states. The package has to be installed where its process runs.

    Needs the extra ``ray``. What is needed of Ray is imported, and Ray is started if it does not
    run yet, with the first call.

    Args:
        name: of the actor: a name is a quota.
        ttl, horizon, grace, on_error, on_mismatch: see `Store`. The grace is longer: a call to an
            actor takes milliseconds, and more while the machine is busy.

    A pickled store is the same actor.

    >>> RayStore()
    RayStore('async_throttle')

    Raises:
        ValueError: *name* is no text, or a parameter is out of range.
    """

    def __init__(
        self,
        name: str = "async_throttle",
        *,
        ttl: float = 30.0,
        horizon: float = 0.25,
        grace: float = 0.1,
        on_error: Literal["wait", "local", "open", "raise"] = "wait",
        on_mismatch: Literal["replace", "raise"] = "replace",
    ) -> None:
        super().__init__(
            ttl=ttl, horizon=horizon, grace=grace, on_error=on_error, on_mismatch=on_mismatch
        )
        if not isinstance(name, str) or not name:
            raise ValueError(f"name must be that of an actor, got {name!r}")
        self.name = name

    def connect(self, wake: Callable[[], None]) -> Connection:
        """A connection for the running event loop, or for the threads of this process.

        Where no event loop runs, this waits until the actor has been started: what is booked by the
        first step would have expired until then.

        Raises:
            ModuleNotFoundError: Ray is not installed.
            StoreUnavailable: the actor does not answer.
        """
        connection = _RayConnection(self.name, wake)
        if asyncio._get_running_loop() is None:
            connection.begin()
        return connection

    def look(self) -> dict[str, Any]:
        """The states of all limits, by name.

        Raises:
            StoreUnavailable: the actor does not answer.
        """
        link = _Link(self.name)
        texts = link.answer(link.actor().look.remote(), BEGIN)
        return {name: json.loads(text) for name, text in texts.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return packed(self, self.name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class _Link:
    """The way of this process to an actor, which is made if it is not there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ray: Any = import_module("ray")  # an extra, and slow to import
        self._actor: Any = None

    def actor(self) -> Any:
        """The actor.

        Raises:
            StoreUnavailable: the cluster does not answer.
        """
        actor = self._actor
        if actor is None:
            made = self.ray.remote(Quota).options(
                name=self.name,
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                max_concurrency=CALLERS,
                num_cpus=0,
            )
            with self.trouble():
                actor = self._actor = made.remote()
        return actor

    def answer(self, pending: Any, seconds: float) -> Any:
        """What comes of a call, in this thread: `ray.get`, which warns in actors of coroutines."""
        with self.trouble():
            return pending.future().result(seconds)

    def trouble(self) -> _Trouble:
        """A block in which what Ray raises means that the store is away."""
        return _Trouble(self)

    def forget(self) -> None:
        """Look for the actor again: it may have died for good."""
        self._actor = None


class _Trouble:
    """See `_Link.trouble`."""

    def __init__(self, link: _Link) -> None:
        self.link = link

    def __enter__(self) -> None:
        pass

    def __exit__(self, exc_type: Any, exc: BaseException | None, traceback: Any) -> None:
        link = self.link
        if isinstance(exc, (link.ray.exceptions.RayError, OSError, TimeoutError)):
            link.forget()
            said = str(exc).strip().splitlines()
            why = f"{type(exc).__name__}: {said[0]}" if said else type(exc).__name__
            raise StoreUnavailable(f"the actor {link.name!r} does not answer: {why}") from exc


class _RayConnection(Connection):
    """Calls to the actor, and a thread with a long poll."""

    def __init__(self, name: str, wake: Callable[[], None]) -> None:
        self.address = os.urandom(6).hex()
        self.wake = wake
        self._link = _Link(name)
        self._answered = False
        self._closed = threading.Event()
        weakref.finalize(self, self._closed.set)
        threading.Thread(
            target=_poll,
            args=(weakref.ref(self), self._link, self._closed, self.address),
            name=f"wake-ups of {self!r}",
            daemon=True,
        ).start()

    def begin(self) -> None:
        """Wait for the actor, which may have to be started."""
        link = self._link
        link.answer(link.actor().look.remote([]), BEGIN)
        self._answered = True

    def call(self, names: Sequence[str], request: Request, patience: float) -> Reply:
        """Apply a step; see `Connection.call`."""
        link = self._link
        pending = link.actor().call.remote(list(names), request)
        patience = max(patience, LATER) if self._answered else BEGIN
        return self._read(link.answer(pending, patience))

    async def send(self, names: Sequence[str], request: Request) -> Reply:
        """Apply a step without blocking the event loop; see `Connection.send`."""
        link = self._link
        with link.trouble():
            async with asyncio.timeout(LATER if self._answered else BEGIN):
                answer = await link.actor().call.remote(list(names), request)
        return self._read(answer)

    def _read(self, answer: tuple[Reply | None, str]) -> Reply:
        self._answered = True
        reply, wrong = answer
        if reply is None:
            raise RuntimeError(f"the actor {self._link.name!r} could not apply a step: {wrong}")
        return reply

    def close(self) -> None:
        """Be woken no more."""
        self._closed.set()

    def __repr__(self) -> str:
        return f"<connection {self.address} to the actor {self._link.name!r}>"


def _poll(
    listener: weakref.ref[_RayConnection], link: _Link, closed: threading.Event, address: str
) -> None:
    """Wake a connection, as long as there is one, whenever the actor says so."""
    while not closed.is_set():
        try:
            rung = link.answer(link.actor().wait.remote(address, POLL), POLL + BEGIN)
        except Exception:  # whatever ends a program, or an actor: the next step finds it as well
            rung = True
            closed.wait(LATER)
        connection = listener()
        if connection is None:
            return
        if rung and not closed.is_set():
            connection.wake()
        del connection
