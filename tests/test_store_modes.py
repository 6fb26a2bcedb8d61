"""Limiters that live in a store, in other processes: what is pickled is the same quota there.

Sets in concurry's modes "process" and "ray", and all that has a store: throttles, sets, pools,
facades. Real processes in real time; no test looks at how long something took.
"""

from __future__ import annotations

import gc
import json
import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import mode_workers as work
import pytest

from async_throttle import (
    ConcurrencyLimiter,
    LimitPool,
    LimitSet,
    RateLimit,
    RateLimiter,
    ResourceLimit,
    SlidingWindow,
    Throttle,
    Throttles,
    limits,
    threads,
)
from async_throttle._base import MOST
from async_throttle.stores import StoreUnavailable, modes
from async_throttle.stores.sqlite import SQLiteStore

pytestmark = pytest.mark.real_time

ROOT = Path(__file__).parents[1]
PATIENCE = 30.0
"""Seconds after which somebody hangs."""

METHODS = [
    each
    for each in ("fork", "spawn", "forkserver")
    if each in multiprocessing.get_all_start_methods()
]
each_method = pytest.mark.parametrize("method", METHODS)
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture
def store(tmp_path: Path) -> SQLiteStore:
    return SQLiteStore(tmp_path / "quota.db")


def run_in(method: str, *works: tuple[Any, ...]) -> list[Any]:
    """What comes of some works, each in a process of its own, all at once."""
    context: Any = multiprocessing.get_context(method)
    ends, processes = [], []
    for each in works:
        ours, theirs = context.Pipe()
        process = context.Process(target=work.into, args=(theirs, *each))
        process.start()
        theirs.close()
        ends.append(ours)
        processes.append(process)
    found = []
    for end, process in zip(ends, processes, strict=True):
        assert end.poll(PATIENCE), "it hangs"
        found.append(end.recv())
        process.join(PATIENCE)
        assert process.exitcode == 0
    return found


def program(*args: str) -> list[Any]:
    """What a program of its own tells, and those who write where it does, until all have ended."""
    command = [sys.executable, str(ROOT / "tests" / "mode_workers.py"), *args]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=env, stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=False
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def sessions(throttle: Any) -> int:
    """How many sessions a throttle has in its store."""
    return len(throttle.store.look()[throttle.name]["sessions"])


# -- concurry's mode "process" ------------------------------------------------------------


@each_method
def test_workers_share_the_limits_of_a_set(method: str) -> None:
    """As concurry documents it: worker1 and worker2 share the same limits across processes."""
    api = work.api_of(12)
    assert api.mode == "process"
    assert api.shared

    granted = run_in(method, *[(work.tries, api, 40)] * 3)

    assert sum(granted) == 12
    assert not api.try_acquire().successful
    assert api.get_stats()["call_count"]["available_tokens"] == 0


@each_method
def test_a_try_in_a_fresh_process_is_answered_truly(method: str) -> None:
    api = work.api_of(3)
    assert work.tries(api, 2) == 2

    assert run_in(method, (work.tries, api, 2)) == [1]
    assert run_in(method, (work.tries, api, 2)) == [0]


@pytest.mark.parametrize("method", METHODS[:2])
def test_tasks_of_a_pool_of_processes_bring_their_set_along(method: str) -> None:
    api = work.api_of(7)
    context: Any = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        granted = list(pool.map(work.tries, [api] * 20, [1] * 20, timeout=PATIENCE))
    assert sum(granted) == 7
    assert sessions(api["tokens"].throttle) <= 2, "each task would be a session"


def test_jobs_of_joblib_bring_their_set_along() -> None:
    joblib = pytest.importorskip("joblib")
    api = work.api_of(7)
    granted = joblib.Parallel(n_jobs=2)(joblib.delayed(work.tries)(api, 1) for _ in range(20))
    assert sum(granted) == 7


def test_nobody_has_a_connection_that_another_process_has() -> None:
    connections = ResourceLimit("connections", 1)
    api = limits.LimitSet([connections], shared=True, mode="process")

    spans = sorted(chain(*run_in("spawn", *[(work.held, api, 10, 0.005)] * 2)))

    assert len(spans) == 20
    assert all(one[1] <= next_one[0] for one, next_one in pairwise(spans))


def test_each_set_has_a_quota_of_its_own_and_leaves_the_limits_as_they_are() -> None:
    tokens = work.tokens(5)
    one, other = (limits.LimitSet([tokens], shared=True, mode="process") for _ in range(2))
    assert work.tries(one, 9) == work.tries(other, 9) == 5
    assert tokens.can_acquire(5)
    assert tokens.throttle.store is None
    assert one["tokens"] is not tokens
    assert one["tokens"].throttle.store is other["tokens"].throttle.store


def test_a_pool_has_sets_that_came_one_by_one() -> None:
    us, eu = (
        limits.LimitSet([work.tokens(3)], True, "process", {"region": region})
        for region in ("us", "eu")
    )
    first = pickle.loads(pickle.dumps(us))
    assert first["tokens"].throttle is us["tokens"].throttle

    pool = limits.LimitPool([us, eu], "RoundRobin")
    granted = sorted(chain(*run_in("spawn", *[(work.regions, pool, 4)] * 2)))

    assert granted == ["eu"] * 3 + ["us"] * 3
    twin = pickle.loads(pickle.dumps(pool))
    assert (twin.load_balancing, twin.worker_index) == (pool.load_balancing, pool.worker_index)
    assert not twin.try_acquire().successful


def test_a_set_of_nothing_lets_everybody_go() -> None:
    """As concurry documents it."""
    for mode in ("process", "ray"):
        api = limits.LimitSet([], shared=True, mode=mode)
        assert run_in("spawn", (work.tries, api, 3)) == [3]


def test_a_set_of_slots_alone_is_one_for_threads() -> None:
    api = limits.LimitSet(shared=True, mode="process", concurrency=2)
    with api.acquire():
        assert run_in("spawn", (work.weights, api, 3)) == [1]


@pytest.mark.parametrize("mode", ["process", "ray"])
def test_what_would_be_a_second_quota_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=f"mode='{mode}' takes limits, and throttles that have a"):
        limits.LimitSet([threads.Throttle(5)], shared=True, mode=mode)
    with pytest.raises(ValueError, match="mode must be 'sync' where shared is False"):
        limits.LimitSet([work.tokens(5)], mode=mode)


def test_a_set_that_has_a_name_is_the_one_of_that_name(store: SQLiteStore) -> None:
    one, other = (work.api_of(5, store=store, name="api") for _ in range(2))
    assert work.tries(one, 3) == 3
    assert work.tries(other, 3) == 2
    assert sorted(store.look()) == ["api:call_count", "api:connections", "api:tokens"]


@posix
def test_the_slots_of_a_process_that_was_killed_come_back(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "quota.db", ttl=1)
    one = ResourceLimit("connections", 1)
    api = limits.LimitSet([one], shared=True, mode="process", store=store, name="api")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work.hold_for_ever, args=(api, theirs))
    process.start()
    assert ours.poll(PATIENCE)
    os.kill(ours.recv(), signal.SIGKILL)
    process.join()
    assert not api.try_acquire().successful
    with api.acquire(timeout=PATIENCE):
        pass


# -- its file -----------------------------------------------------------------------------


def test_the_file_goes_with_the_program() -> None:
    (granted, folder), there = program("ended")
    assert (granted, there) == (3, True)
    assert not os.path.exists(folder)


@posix
def test_the_file_stays_as_long_as_a_process_uses_it() -> None:
    """The one that made it has ended meanwhile, and nobody else may look into it."""
    (acquired, folder), (there, mode, granted) = program("outlived", "1")
    assert (acquired, there, mode & 0o77, granted) == (True, True, 0, 9)
    assert not os.path.exists(folder)


@posix
def test_the_next_program_removes_what_a_killed_one_has_left() -> None:
    (folder,) = program("killed")
    assert os.path.exists(folder), "nobody could remove it"
    program("ended")
    assert os.path.exists(folder), "it is young: perhaps somebody has just made it"
    os.utime(folder, (0, 0))
    program("ended")
    assert not os.path.exists(folder)


def test_a_set_that_comes_too_late_says_so(tmp_path: Path) -> None:
    store = modes.OwnFile(str(tmp_path))
    packed = pickle.dumps(store)
    assert pickle.loads(packed) is store
    late = packed.replace(str(tmp_path).encode(), str(tmp_path)[:-1].encode() + b"?")
    with pytest.raises(StoreUnavailable, match="is not there: the process has ended that made it"):
        pickle.loads(late)


# -- what is pickled ----------------------------------------------------------------------

LIMITERS: dict[str, Callable[[Any], Any]] = {
    "throttle": lambda store: Throttle(5, period=3600, store=store, name="a"),
    "window": lambda store: Throttle(
        5, period=3600, algorithm=SlidingWindow, store=store, name="a"
    ),
    "to the end": lambda store: Throttle(5, period=3600, counts="end", store=store, name="a"),
    "slots": lambda store: Throttle(math.inf, 5, store=store, name="a"),
    "threads": lambda store: threads.Throttle(5, period=3600, store=store, name="a"),
    "threads, to the end": lambda store: threads.Throttle(
        5, period=3600, counts="end", store=store, name="a"
    ),
    "set": lambda store: LimitSet(
        Throttle(5, period=3600, store=store, name="a"),
        Throttle(9, period=3600, store=store, name="b"),
    ),
    "set with slots": lambda store: LimitSet(
        threads.Throttle(9, period=3600, store=store, name="a"), concurrency=5
    ),
    "pool": lambda store: LimitPool(
        [
            LimitSet(threads.Throttle(2, period=3600, store=store, name="a")),
            LimitSet(threads.Throttle(3, period=3600, store=store, name="b")),
        ]
    ),
    "RateLimiter": lambda store: RateLimiter(0.001, burst=5, store=store, name="a"),
    "ConcurrencyLimiter": lambda store: ConcurrencyLimiter(5, store=store, name="a"),
    "RateLimit": lambda store: LimitSet(work.tokens(5), store=store, name="a"),
}


@pytest.mark.parametrize("make", LIMITERS.values(), ids=LIMITERS)
def test_what_is_pickled_is_the_same_quota_in_the_child(
    make: Callable[[Any], Any], store: SQLiteStore
) -> None:
    limiter = make(store)
    assert bool(limiter.try_acquire())
    assert run_in("spawn", (work.weights, limiter, 9)) == [4]


@pytest.mark.parametrize("make", LIMITERS.values(), ids=LIMITERS)
@pytest.mark.parametrize("protocol", [0, pickle.HIGHEST_PROTOCOL])
def test_what_is_pickled_comes_back_as_it_is(
    make: Callable[[Any], Any], protocol: int, store: SQLiteStore
) -> None:
    limiter = make(store)
    twin = pickle.loads(pickle.dumps(limiter, protocol))
    assert type(twin) is type(limiter)
    assert work.weights(limiter, 3) == 3
    assert work.weights(twin, 9) == 2
    if isinstance(limiter, (Throttle, threads.Throttle)):
        assert twin is limiter


def test_the_throttles_of_a_pickled_set_are_those_that_are_here(store: SQLiteStore) -> None:
    everybody = threads.Throttle(9, store=store, name="everybody")
    one = LimitSet(everybody, mine=threads.Throttle(9, store=store, name="mine"), config={"a": 1})
    twin = pickle.loads(pickle.dumps(one))
    assert twin is not one
    assert twin["everybody"] is everybody
    assert twin.keys() == one.keys()
    assert twin.config == {"a": 1}
    twin.pause(60)
    assert one.locked(), "sets over the same throttles are one set"


def test_limits_are_pickled_with_all_they_say(store: SQLiteStore) -> None:
    given = [RateLimit("a", 60, "GCRA", 9), limits.CallLimit(60, None, 9), ResourceLimit("c", 4)]
    api: Any = LimitSet(*given, store=store, name="api")
    for one, twin in ((api[key], pickle.loads(pickle.dumps(api[key]))) for key in api):
        assert twin.key == one.key
        assert twin.throttle is one.throttle
        assert twin.get_stats() == one.get_stats()
    first: Any = api["a"]
    assert pickle.loads(pickle.dumps(first)).params_signature() == "c9w60gcr"


def test_a_value_that_was_set_survives_the_way(store: SQLiteStore) -> None:
    throttle = threads.Throttle(5, period=3600, store=store, name="a")
    throttle.capacity = 3600 * 100
    assert throttle.try_acquire()
    assert run_in("spawn", (work.weights, throttle, 1)) == [1]
    throttle.refresh()
    assert throttle.capacity == 3600 * 100, "to say what the code says is no change"


@pytest.mark.parametrize(
    "make",
    [
        lambda store: LimitSet(Throttle(5, store=store, name="a"), local=Throttle(5)),
        lambda store: LimitPool([LimitSet(Throttle(5, store=store, name="a")), LimitSet()]),
    ],
)
def test_a_limit_of_this_process_alone_is_not_pickled(make: Any, store: SQLiteStore) -> None:
    with pytest.raises(TypeError, match="in another process it would be a second quota"):
        pickle.dumps(make(store))


def test_throttles_that_came_by_pickle_are_kept_but_not_all_of_them(store: SQLiteStore) -> None:
    from async_throttle import _base

    throttles = [Throttle(5, store=store, name=f"a{n}") for n in range(MOST + 2)]
    packed = [pickle.dumps(throttle) for throttle in throttles]
    del throttles
    gc.collect()
    for each in packed:
        pickle.loads(each)
    gc.collect()
    assert len(_base._latest) == MOST
    assert {throttle.name for throttle in _base._latest.values()} == {
        f"a{n}" for n in range(2, MOST + 2)
    }
    _base._latest.clear()


@pytest.fixture(autouse=True)
def nothing_is_kept() -> Iterator[None]:
    from async_throttle import _base

    yield
    _base._latest.clear()


def test_threads_that_try_at_once_ask_one_after_the_other(store: SQLiteStore) -> None:
    throttle = threads.Throttle(40, period=3600, store=store, name="a")
    with ThreadPoolExecutor(8) as pool:
        granted = sum(pool.map(work.consumed, [throttle] * 8, [20] * 8, timeout=PATIENCE))
    assert granted + work.consumed(throttle, 40) == 40


def test_loops_of_two_processes_share_slots(store: SQLiteStore) -> None:
    throttle = Throttle(math.inf, 1, store=store, name="a")
    works = [(work.held_in_a_loop, throttle, 10, 0.005)] * 2
    spans = sorted(chain(*run_in("spawn", *works)))
    assert len(spans) == 20
    assert all(one[1] <= next_one[0] for one, next_one in pairwise(spans))


# -- sets ---------------------------------------------------------------------------------


def test_the_slots_of_a_set_live_where_its_throttles_do(store: SQLiteStore) -> None:
    def made(**options: Any) -> LimitSet[threads.Throttle]:
        return LimitSet(
            requests=threads.Throttle(500, period=60, store=store, name="requests"),
            tokens=threads.Throttle(20_000, period=60, store=store, name="tokens"),
            local=threads.Throttle(500, period=60),
            **options,
        )

    for one, other in ((made(concurrency=3), made(concurrency=3)),):
        assert work.weights(one, 2) == 2
        assert work.weights(other, 2) == 1
        assert one["concurrency"].name == "requests+tokens:slots"
        assert one["concurrency"].store is store
        assert one["local"].store is None
    assert made(concurrency=3, name="api")["concurrency"].name == "api:slots"
    assert "requests+tokens:slots" in store.look()


def test_a_set_takes_its_store_by_name(store: SQLiteStore) -> None:
    api = LimitSet(threads.Throttle(9), concurrency=2, store=store, name="api")
    assert api["concurrency"].name == "api:slots"
    assert api[0].store is None
    with pytest.raises(ValueError, match="name must be given with a store"):
        LimitSet(Throttle(9), concurrency=2, store=store)
    with pytest.raises(ValueError, match="name must be given with a store"):
        LimitSet(work.tokens(5), store=store)
    with pytest.raises(ValueError, match="name must go with a store, got 'api' without one"):
        LimitSet(Throttle(9), concurrency=2, name="api")


def test_all_limits_of_a_set_that_have_a_store_have_the_same_one(
    store: SQLiteStore, tmp_path: Path
) -> None:
    other = SQLiteStore(tmp_path / "other.db")
    one = Throttle(5, store=store, name="a")
    with pytest.raises(ValueError, match="store must be the same for all limits of a set"):
        LimitSet(one, Throttle(5, store=other, name="b"))
    with pytest.raises(ValueError, match="store must be the same for all limits of a set"):
        LimitSet(one, concurrency=2, store=other, name="api")


def test_two_limits_of_a_set_are_not_one_in_the_store(store: SQLiteStore) -> None:
    a, b = (Throttle(5, store=store, name="a") for _ in range(2))
    with pytest.raises(ValueError, match="'x' and 'y' are the same limit of the store: 'a'"):
        LimitSet(z=Throttle(5), x=a, y=b)


def test_a_key_is_forgotten_here_and_lives_in_the_store(store: SQLiteStore) -> None:
    chats = Throttles(lambda key: threads.Throttle(2, period=3600, store=store, name=f"chat:{key}"))
    for key in range(30):
        assert chats[key].try_consume()
    gc.collect()
    for key in range(100, 130):
        assert chats[key].try_consume()
    assert len(chats) < 40
    assert work.consumed(chats[0], 5) == 1


def test_what_is_asked_of_a_limit_is_asked_of_the_store(store: SQLiteStore) -> None:
    """A process that has not called yet tells what others have left."""
    api = LimitSet(work.tokens(5), ResourceLimit("connections", 2), store=store, name="api")
    twin = LimitSet(work.tokens(5), ResourceLimit("connections", 2), store=store, name="api")
    held = api.try_acquire(tokens=4)
    assert held.successful
    tokens: Any = twin["tokens"]
    connections: Any = twin["connections"]
    assert tokens.can_acquire(1)
    assert not tokens.can_acquire(2)
    assert tokens.get_stats()["current_usage"] == pytest.approx(4, abs=0.1)
    assert connections.get_stats()["available"] == 1
    assert not connections.can_acquire(2)
    held.release()
