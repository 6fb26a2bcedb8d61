"""A program that runs on Ray: tasks and actors share limiters. Prints what came of it, as JSON.

For test_store_ray.py, by ``python tests/ray_program.py``.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import pickle
import time
from importlib import import_module
from itertools import chain, pairwise
from typing import Any

import mode_workers as work

from async_throttle import LimitSet, Throttle, limits, threads
from async_throttle.stores.ray import NAMESPACE, RayStore


class Member:
    """An actor that uses a throttle in its event loop."""

    async def run(self, throttle: Any, number: int) -> list[float]:
        """When calls are granted."""

        async def call() -> float:
            async with throttle:
                return time.time()

        return await asyncio.gather(*[call() for _ in range(number)])

    async def hold(self, throttle: Any, number: int) -> list[work.Span]:
        """When calls hold a slot."""
        spans = []

        async def call() -> None:
            async with throttle:
                begin = time.time()
                await asyncio.sleep(0.005)
                spans.append((begin, time.time()))

        await asyncio.gather(*[call() for _ in range(number)])
        return spans


def scene() -> dict[str, Any]:
    """All of it."""
    ray: Any = import_module("ray")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False)
    found: dict[str, Any] = {}
    try:
        tries, weights = ray.remote(work.tries), ray.remote(work.weights)
        api = work.api_of(12, mode="ray")
        found["first"] = api.try_acquire().successful
        found["tasks"] = sum(ray.get([tries.remote(api, 40) for _ in range(3)]))
        found["after"] = ray.get(tries.remote(api, 1)), api.try_acquire().successful
        found["stats"] = api.get_stats()["call_count"]["available_tokens"]
        other = work.api_of(5, mode="ray")
        found["own quota"] = ray.get(tries.remote(other, 9))
        pool = limits.LimitPool([work.api_of(2, mode="ray") for _ in range(2)])
        found["pool"] = ray.get(tries.remote(pool, 9))

        store = RayStore("async_throttle_test")
        throttle = threads.Throttle(5, period=3600, store=store, name="threads")
        found["threads"] = ray.get(weights.remote(throttle, 9)), throttle.try_acquire()
        members = [ray.remote(Member).remote() for _ in range(2)]
        rated: Any = Throttle(100, burst=5, store=store, name="rated")
        granted = sorted(chain(*ray.get([each.run.remote(rated, 30) for each in members])))
        found["rated"] = [at - granted[0] for at in granted]
        slots: Any = LimitSet(Throttle(math.inf, 1, store=store, name="slots"), config={"a": 1})
        spans = sorted(chain(*ray.get([each.hold.remote(slots, 20) for each in members])))
        found["overlaps"] = sum(one[1] > other[0] for one, other in pairwise(spans))
        found["spans"] = len(spans)
        found["names"] = sorted(store.look())
        found["pickled"] = pickle.loads(pickle.dumps(store)) is store

        ray.kill(ray.get_actor(store.name, namespace=NAMESPACE))  # for good: it is made anew
        found["killed"] = asyncio.run(_one(rated))
        for name in (store.name, "async_throttle"):
            ray.kill(ray.get_actor(name, namespace=NAMESPACE))
    finally:
        ray.shutdown()
    return found


async def _one(throttle: Any) -> bool:
    async with throttle:
        return True


if __name__ == "__main__":
    print(json.dumps(scene()), flush=True)
    os._exit(0)
