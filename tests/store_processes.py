"""Processes that share a quota, for test_store_processes: each tells on a pipe when calls went."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from async_throttle import Throttle
from async_throttle.stores import RedisStore, SQLiteStore, Store


def store_at(place: str, ttl: float) -> Store:
    return RedisStore(place, ttl=ttl) if "://" in place else SQLiteStore(place, ttl=ttl)


async def call(throttle: Throttle, lasts: float, went: list[Any]) -> None:
    async with throttle:
        began = time.monotonic()
        await asyncio.sleep(lasts)
        went.append((began, time.monotonic()))


async def work(place: str, calls: int, tasks: int, lasts: float, made: dict[str, Any]) -> None:
    """Make so many calls each in so many tasks."""
    ttl = made.pop("ttl", 30.0)
    throttle = Throttle(store=store_at(place, ttl), name="shared", **made)
    went: list[Any] = []

    async def several() -> None:
        for _ in range(calls):
            await call(throttle, lasts, went)

    await asyncio.gather(*[several() for _ in range(tasks)])
    await throttle.drain()
    print(json.dumps(went), flush=True)


async def hold(place: str, made: dict[str, Any]) -> None:
    """Hold a slot until somebody kills this process."""
    throttle = Throttle(store=store_at(place, made.pop("ttl", 30.0)), name="shared", **made)
    async with throttle:
        print("holds", flush=True)
        await asyncio.sleep(3600)


if __name__ == "__main__":
    what, place, *rest = sys.argv[1:]
    if what == "work":
        calls, tasks, lasts, made = rest
        asyncio.run(work(place, int(calls), int(tasks), float(lasts), json.loads(made)))
    else:
        asyncio.run(hold(place, json.loads(rest[0])))
