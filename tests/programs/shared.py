"""Workers on one host, or on many, that share the quota of an API."""

from __future__ import annotations

from async_throttle import LimitSet, Throttle
from async_throttle.stores import RedisStore, SQLiteStore


def on_one_host(path: str) -> LimitSet:
    """A quota for the processes of this host, in a file."""
    store = SQLiteStore(path)
    throttle = Throttle(20, 4, store=store, name="chat")
    return LimitSet(chat=throttle)


def on_many(url: str) -> list[LimitSet]:
    """A quota for the processes of many machines, on a server."""
    store = RedisStore(url)
    api = LimitSet(
        requests=Throttle(500, period=60, store=store, name="requests"),
        tokens=Throttle(200_000, period=60, store=store, name="tokens"),
    )
    return [api]
