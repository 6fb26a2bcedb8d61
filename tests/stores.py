"""A store in memory: what a store of one's own comes to, and the store of tests in virtual time."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

from async_throttle._shell.clock import wall
from async_throttle.exceptions import StoreUnavailable
from async_throttle.stores import Connection, Reply, Request, Store, address_of
from async_throttle.stores._state import step

__all__ = ["MemoryStore"]


class MemoryStore(Store):
    """The states as text, under a lock. It may be *away*, and count the requests.

    Args:
        latency: seconds that a request takes, and its reply; without, it is quick.
    """

    def __init__(self, latency: float = 0.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.states: dict[str, str] = {}
        self.wakes: dict[str, Callable[[], None]] = {}
        self.lock = threading.Lock()
        self.latency = latency
        self.away = False
        self.requests = 0

    def connect(self, wake: Callable[[], None]) -> Connection:
        connection = (Slow if self.latency else Quick)(self, str(len(self.wakes)))
        self.wakes[connection.address] = wake
        return connection

    def look(self) -> dict[str, Any]:
        states = {name: json.loads(state) for name, state in self.states.items()}
        return {name: state for name, state in states.items() if state is not None}

    def apply(self, names: Sequence[str], request: Request) -> Reply:
        self.requests += 1
        if self.away:
            raise StoreUnavailable("the store in memory is away")
        with self.lock:
            states = [json.loads(self.states.get(name, "null")) for name in names]
            asked = json.loads(json.dumps(request))
            reply, kept, woken = step(wall() // 1_000 + 10**12, asked, states)
            self.states.update(zip(names, map(json.dumps, kept), strict=True))
        for address in {address_of(session) for session in woken}:
            self.wakes[address]()
        return json.loads(json.dumps(reply))  # type: ignore[no-any-return]


class Quick(Connection):
    quick = True

    def __init__(self, store: MemoryStore, address: str) -> None:
        self.store, self.address = store, address

    def call(self, names: Sequence[str], request: Request, patience: float) -> Reply:
        return self.store.apply(names, request)

    async def send(self, names: Sequence[str], request: Request) -> Reply:
        await asyncio.sleep(self.store.latency)
        reply = self.store.apply(names, request)
        await asyncio.sleep(self.store.latency)
        return reply

    def close(self) -> None:
        self.store.wakes.pop(self.address, None)


class Slow(Quick):
    quick = False
