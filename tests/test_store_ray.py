"""`RayStore`: what the actor does, and what its callers do when it dies.

In one process, with a module that stands in for Ray (`fake_ray.py`); and once on Ray itself, where
that is installed: tasks and actors that share limiters. Real time.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import math
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import fake_ray
import pytest

from async_throttle import SlidingWindow, Throttle, limits, threads
from async_throttle.stores import StoreUnavailable
from async_throttle.stores import ray as store_ray
from async_throttle.stores.ray import NAMESPACE, Quota, RayStore

pytestmark = pytest.mark.real_time

ROOT = Path(__file__).parents[1]
HOUR = 3600
PATIENCE = 10.0


@pytest.fixture(autouse=True)
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setitem(sys.modules, "ray", fake_ray)
    monkeypatch.setattr(store_ray, "POLL", 0.2)
    monkeypatch.setattr(store_ray, "LATER", 0.3)
    yield fake_ray
    gc.collect()
    fake_ray.kill_all()


def actor_of(store: RayStore) -> fake_ray.Actor:
    return fake_ray.actors[NAMESPACE, store.name]


def test_two_throttles_of_one_name_are_one_limit() -> None:
    store = RayStore()
    one, other = (threads.Throttle(5, period=HOUR, store=store, name="a") for _ in range(2))
    assert [one.try_acquire() for _ in range(3)] == [True] * 3
    assert [other.try_acquire() for _ in range(3)] == [True, True, False]
    elsewhere = threads.Throttle(5, period=HOUR, store=RayStore("other"), name="a")
    assert elsewhere.try_acquire()
    assert sorted(fake_ray.actors) == [(NAMESPACE, "async_throttle"), (NAMESPACE, "other")]


def test_a_slot_that_comes_back_wakes_who_waits_for_it() -> None:
    one, other = (Throttle(math.inf, 1, store=RayStore(), name="a") for _ in range(2))

    async def main() -> list[tuple[float, float]]:
        spans = []

        async def hold(throttle: Throttle) -> None:
            async with throttle:
                begin = time.monotonic()
                await asyncio.sleep(0.005)
                spans.append((begin, time.monotonic()))

        await asyncio.wait_for(
            asyncio.gather(*[hold(each) for each in (one, other) for _ in range(10)]), PATIENCE
        )
        return sorted(spans)

    spans = asyncio.run(main())
    assert all(first[1] <= second[0] for first, second in pairwise(spans))
    assert "wait" in fake_ray.calls


def test_states_are_dropped_that_have_lapsed() -> None:
    store = RayStore(ttl=0.1)
    for n in range(20):
        throttle = threads.Throttle(1_000, store=store, name=f"a{n}", algorithm=SlidingWindow)
        assert throttle.try_consume()
    assert "a19" in store.look()
    time.sleep(1.3)
    assert store.look() == {}
    for n in range(20, 40):
        assert threads.Throttle(1_000, store=store, name=f"a{n}").try_consume()
    assert actor_of(store).object.states.keys().isdisjoint(f"a{n}" for n in range(20))


def test_an_error_comes_back_as_data_and_changes_nothing() -> None:
    quota = Quota()
    reply, wrong = asyncio.run(quota.call(["a"], {"limits": [{}]}))
    assert (reply, wrong, dict(quota.states)) == (None, "KeyError: 'gen'", {})
    connection = RayStore().connect(lambda: None)
    with pytest.raises(RuntimeError, match="'async_throttle' could not apply a step: KeyError"):
        connection.call(["a"], {"limits": [{}]}, 1)
    connection.close()


def test_an_address_that_nobody_polls_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    quota = Quota()

    async def main() -> None:
        assert not await quota.wait("a", 0)
        assert list(quota.bells) == ["a"]
        quota.bells["a"][0].set()
        assert await quota.wait("a", 1), "it was rung in between"
        monkeypatch.setattr(store_ray, "GONE", -1.0)
        assert not await quota.wait("b", 0)
        assert list(quota.bells) == ["b"]

    asyncio.run(main())


def test_an_actor_that_has_lost_its_states_begins_with_nothing_left() -> None:
    store = RayStore(ttl=0.5)
    throttle = threads.Throttle(5, period=HOUR, store=store, name="a")
    assert throttle.try_acquire()
    actor_of(store).restart()
    throttle.refresh()
    assert not throttle.try_acquire()
    assert throttle.level < 0.1


def test_an_actor_that_has_died_for_good_is_made_anew() -> None:
    store = RayStore(ttl=0.5)
    throttle = Throttle(100, 1, store=store, name="a")

    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            async with throttle:
                pass
            actor_of(store).kill()
            async with throttle:
                pass

    asyncio.run(main())
    assert not actor_of(store).dead


def test_an_actor_that_does_not_answer_is_away() -> None:
    store = RayStore(on_error="raise")
    connection = store.connect(lambda: None)
    actor = actor_of(store)
    actor.kill()
    with pytest.raises(
        StoreUnavailable,
        match=r"the actor 'async_throttle' does not answer: ActorDiedError: The actor is dead\.$",
    ):
        connection.call(["a"], {"limits": []}, 1)
    connection.close()
    gate = threading.Event()
    connection = store.connect(lambda: None)
    actor_of(store).loop.call_soon_threadsafe(gate.wait, PATIENCE)
    with pytest.raises(StoreUnavailable, match="does not answer: TimeoutError"):
        connection.call(["a"], {"limits": []}, 0)
    gate.set()
    connection.close()


def test_the_thread_of_a_connection_ends_with_it() -> None:
    def polls() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if "to the actor" in each.name]

    before = polls()
    connection = RayStore().connect(lambda: None)
    other = RayStore().connect(lambda: None)
    ours = [each for each in polls() if each not in before]
    assert len(ours) == 2
    connection.close()
    del other
    gc.collect()
    for thread in ours:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_set_of_mode_ray_lives_in_an_actor() -> None:
    """As concurry has it."""
    given = [limits.RateLimit("tokens", HOUR, "TokenBucket", 5), limits.ResourceLimit("db", 2)]
    one, other = (limits.LimitSet(given, shared=True, mode="ray") for _ in range(2))
    with one.try_acquire({"tokens": 3}) as acquisition:
        assert acquisition.successful
        twin = pickle.loads(pickle.dumps(one))
        assert twin["tokens"].throttle is one["tokens"].throttle
        assert not twin.try_acquire({"tokens": 3}).successful
        with other.try_acquire({"tokens": 3}) as its_own:
            assert its_own.successful
    assert [*fake_ray.actors] == [(NAMESPACE, "async_throttle")]


def test_a_pickled_store_is_the_same_actor() -> None:
    store = RayStore("mine", ttl=5, horizon=1, grace=0.2, on_error="open", on_mismatch="raise")
    assert repr(store) == "RayStore('mine')"
    packed = pickle.dumps(store)
    assert pickle.loads(packed) is store
    del store
    gc.collect()
    twin = pickle.loads(packed)
    assert (twin.name, twin.ttl, twin.horizon, twin.grace) == ("mine", 5, 1, 0.2)
    assert (twin.on_error, twin.on_mismatch) == ("open", "raise")
    assert pickle.loads(packed) is twin


@pytest.mark.parametrize("name", ["", None, 5])
def test_a_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="name must be that of an actor, got "):
        RayStore(name)


def test_without_ray_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match="ray"):
        RayStore().connect(lambda: None)


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="NO SERVER Ray: pip install async-throttle[ray]"
)
def test_tasks_and_actors_share_limiters() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "ray_program.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    rated = found.pop("rated")
    for n, first in enumerate(rated):  # a bucket of 5 that has 100 a second, and the grace
        for number, at in enumerate(rated[n:], 1):
            assert number <= 5 + 100 * (at - first + RayStore().grace) + 1
    assert found == {
        "first": True,
        "tasks": 11,
        "after": [0, False],
        "stats": 0,
        "own quota": 5,
        "pool": 4,
        "threads": [5, False],
        "overlaps": 0,
        "spans": 40,
        "names": ["rated", "slots", "threads"],
        "pickled": True,
        "killed": True,
    }
