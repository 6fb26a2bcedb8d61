"""Everything that concurry's reference of its limits shows and says, with one import line changed.

The code between the quoting comments is theirs; the names that they leave open (`do_work`,
`call_api` and such) are supplied here. Their Worker is a framework of its own: where an example
has one, a plain class stands in its place, and a thread pool runs it.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import inspect
import math
import threading
from abc import ABC
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
from freezegun import freeze_time
from support import now

from async_throttle.limits import (
    CallLimit,
    Limit,
    LimitPool,
    LimitSet,
    LimitSetAcquisition,
    LoadBalancingAlgorithm,
    RateLimit,
    RateLimitAlgorithm,
    ResourceLimit,
)

pytestmark = pytest.mark.virtual_time

standing_still = freeze_time("2026-01-01")
"""For plain functions, of whom virtual time knows nothing: no token comes back meanwhile."""


# --- RateLimit ---


@standing_still
def test_rate_limit_example() -> None:
    call_api = Mock(return_value="the result")

    # Define rate limit
    limit = RateLimit(
        key="api_tokens",
        window_seconds=60,
        algorithm=RateLimitAlgorithm.TokenBucket,
        capacity=1000
    )  # fmt: skip

    # Use within LimitSet (thread-safe)
    limits = LimitSet(limits=[limit])
    with limits.acquire(requested={"api_tokens": 100}) as acq:
        result = call_api()
        acq.update(usage={"api_tokens": 80})  # Refund 20 tokens

    assert result == "the result"
    assert limits.get_stats()["api_tokens"]["available_tokens"] == 920


def rate(
    capacity: int = 1000,
    seconds: float = 60,
    key: str = "tokens",
    algorithm: RateLimitAlgorithm = RateLimitAlgorithm.TokenBucket,
) -> RateLimit:
    return RateLimit(key=key, window_seconds=seconds, algorithm=algorithm, capacity=capacity)


async def test_rate_limit_example_in_a_coroutine() -> None:
    limits = LimitSet(limits=[rate()])
    async with limits.acquire(requested={"tokens": 1000}) as acq:
        acq.update(usage={"tokens": 980})
    async with limits.acquire(requested={"tokens": 100}) as acq:
        assert now() == 4.8  # 20 were refunded, and 80 come back at 1000 per minute
        acq.update(usage={"tokens": 80})


@pytest.mark.parametrize("algorithm", list(RateLimitAlgorithm))
async def test_every_documented_algorithm_is_there(algorithm: RateLimitAlgorithm) -> None:
    """Buckets start with a burst of the capacity; windows admit as much as that."""
    limits = LimitSet(limits=[rate(5, 10, algorithm=algorithm)])
    for _ in range(5):
        async with limits.acquire(requested={"tokens": 1}) as acq:
            acq.update(usage={"tokens": 1})
    assert now() == 0.0
    assert not limits.try_acquire(requested={"tokens": 1}).successful
    async with limits.acquire(requested={"tokens": 1}):
        assert now() == (10.0 if "Window" in algorithm.name else 2.0)


@pytest.mark.parametrize("algorithm", list(RateLimitAlgorithm))
async def test_refunds_reach_up_to_the_capacity(algorithm: RateLimitAlgorithm) -> None:
    """Theirs: only TokenBucket and GCRA. Here every algorithm gives back what was not used."""
    limits = LimitSet(limits=[rate(5, 10, algorithm=algorithm)])
    for requested, used in ((5, 2), (3, 0)):
        with limits.acquire(requested={"tokens": requested}) as acq:
            acq.update(usage={"tokens": used})
        assert limits.get_stats()["tokens"]["available_tokens"] == 3


@standing_still
def test_rate_limit_methods() -> None:
    limit = rate()
    assert (limit.can_acquire(1000), limit.can_acquire(1001)) == (True, False)
    limits = LimitSet(limits=[limit])
    with limits.acquire(requested={"tokens": 400}) as acq:
        assert (limit.can_acquire(requested=600), limit.can_acquire(requested=601)) == (True, False)
        acq.update(usage={"tokens": 400})
    limit.validate_usage(requested=100, used=100)
    limit.validate_usage(100, 0)
    with pytest.raises(ValueError, match="101"):  # "Validate that usage doesn't exceed requested"
        limit.validate_usage(100, 101)
    assert limit.get_stats() == {
        "key": "tokens",
        "window": 60,
        "window_seconds": 60,
        "algorithm": RateLimitAlgorithm.TokenBucket.value,
        "capacity": 1000,
        "available_tokens": 600,
        "current_usage": 400,
        "utilization": 0.4,
    }


# --- CallLimit ---


@standing_still
def test_call_limit_example() -> None:
    do_work = Mock(return_value=SimpleNamespace(actual_tokens=60))

    limits = LimitSet(limits=[
        CallLimit(
            window_seconds=60,
            algorithm=RateLimitAlgorithm.TokenBucket,
            capacity=100
        ),
        RateLimit(
            key="tokens",
            window_seconds=60,
            algorithm=RateLimitAlgorithm.TokenBucket,
            capacity=1000
        )
    ])  # fmt: skip

    # CallLimit doesn't need explicit requested or update
    with limits.acquire(requested={"tokens": 100}) as acq:
        result = do_work()
        acq.update(usage={"tokens": result.actual_tokens})
        # No need to update "call_count" - automatic!

    stats = limits.get_stats()
    assert stats["call_count"]["available_tokens"] == 99
    assert stats["tokens"]["available_tokens"] == 940


def test_the_usage_of_a_call_limit_is_always_1() -> None:
    limit = CallLimit(window_seconds=60, capacity=3)
    limit.validate_usage(requested=1, used=1)
    for wrong in (0, 2, -1):
        with pytest.raises(ValueError, match=str(wrong)):
            limit.validate_usage(1, wrong)
    with LimitSet(limits=[limit]).acquire() as acq:
        acq.update(usage={"call_count": 1})
    assert limit.get_stats()["current_usage"] == 1


# --- ResourceLimit ---


@standing_still
def test_resource_limit_example() -> None:
    limits = LimitSet(limits=[
        ResourceLimit(key="db_connections", capacity=5),
        ResourceLimit(key="file_handles", capacity=20),
        RateLimit(
            key="api_tokens",
            window_seconds=60,
            algorithm=RateLimitAlgorithm.TokenBucket,
            capacity=1000
        )
    ])  # fmt: skip

    # Acquire multiple resources atomically
    with limits.acquire(requested={
        "db_connections": 2,
        "file_handles": 5,
        "api_tokens": 100
    }) as acq:  # fmt: skip
        # Use resources
        stats = limits.get_stats()
        assert stats["db_connections"]["available"] == 3
        assert stats["file_handles"]["available"] == 15
        acq.update(usage={"api_tokens": 80})
        # No need to update ResourceLimits - automatic!

    stats = limits.get_stats()
    assert stats["db_connections"]["available"] == 5
    assert stats["file_handles"]["available"] == 20
    assert stats["api_tokens"]["available_tokens"] == 920


def test_with_a_worker_as_a_plain_class_in_a_thread_pool() -> None:
    """No more than five queries at once, whoever runs them, and really five."""
    five = threading.Barrier(5)
    inside: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def execute_query(sql: str) -> str:
        with lock:
            inside.append(1)
            most.append(len(inside))
        five.wait(timeout=30)
        with lock:
            inside.pop()
        return f"rows of {sql}"

    limits = LimitSet(
        limits=[ResourceLimit(key="db_connections", capacity=5)], shared=True, mode="thread"
    )

    class DatabaseWorker:
        def __init__(self, limits: LimitSet) -> None:
            self.limits = limits

        def query(self, sql: str):
            with self.limits.acquire(requested={"db_connections": 1}):
                return execute_query(sql)

    worker = DatabaseWorker(limits)
    with ThreadPoolExecutor(max_workers=10) as pool:
        rows = list(pool.map(worker.query, [f"query {n}" for n in range(20)]))

    assert rows == [f"rows of query {n}" for n in range(20)]
    assert max(most) == 5
    assert limits.get_stats()["db_connections"]["current_usage"] == 0


def test_resource_limit_methods() -> None:
    assert list(inspect.signature(ResourceLimit).parameters)[:2] == ["key", "capacity"]
    limit = ResourceLimit(key="file_handles", capacity=20)
    assert isinstance(limit, Limit)
    assert (limit.key, limit.capacity) == ("file_handles", 20)
    assert limit.can_acquire(20) is True
    assert limit.can_acquire(21) is False
    limit.validate_usage(5, 7)  # "not applicable for ResourceLimit"
    limits = LimitSet(limits=[limit])
    with limits.acquire(requested={"file_handles": 5}) as acq:
        assert limit.can_acquire(requested=15) is True
        assert limit.can_acquire(requested=16) is False
        assert limit.get_stats() == {
            "key": "file_handles",
            "capacity": 20,
            "current_usage": 5,
            "available": 15,
            "utilization": 0.25,
        }
        acq.update(usage={"file_handles": 3})  # automatic: there is nothing to be told
        assert limit.get_stats()["current_usage"] == 5
    assert limit.get_stats()["current_usage"] == 0


# --- Limit, and what each class looks like ---


@pytest.mark.parametrize(
    ("make", "parameter", "value"),
    [
        pytest.param(make, parameter, value, id=f"{make.__name__} {parameter}={value}")
        for make, parameter, values in (
            (RateLimit, "capacity", (0, -1, math.nan)),
            (RateLimit, "window_seconds", (0, -1, math.nan, math.inf)),
            (CallLimit, "capacity", (0, -1, math.nan)),
            (CallLimit, "window_seconds", (0, -60, math.nan, math.inf)),
            (ResourceLimit, "capacity", (0, -1, 2.5, math.nan, math.inf)),
        )
        for value in values
    ],
)
def test_what_is_out_of_range_is_refused_by_name_and_value(
    make: type[Limit], parameter: str, value: float
) -> None:
    right: dict[type[Limit], dict[str, Any]] = {
        RateLimit: {"key": "tokens", "window_seconds": 60, "capacity": 10},
        CallLimit: {"window_seconds": 60, "capacity": 10},
        ResourceLimit: {"key": "connections", "capacity": 10},
    }
    assert make(**right[make])
    with pytest.raises(ValueError, match=parameter) as refused:
        make(**(right[make] | {parameter: value}))
    assert str(value) in str(refused.value)


# --- LimitSet ---


def test_empty_limit_set_example() -> None:
    do_work = Mock()

    # Create empty LimitSet - never blocks, always succeeds
    limits = LimitSet(limits=[], shared=False, mode="sync")
    with limits.acquire():
        # Always succeeds immediately, no limits enforced
        do_work()

    do_work.assert_called_once()
    for _ in range(1000):
        assert limits.acquire().successful
    assert limits.get_stats() == {}


def test_private_limit_set_is_the_default() -> None:
    private = LimitSet([ResourceLimit(key="desks", capacity=1)])
    for limits in (
        private,
        LimitSet([ResourceLimit(key="desks", capacity=1)], False, "sync", None),
        LimitSet(limits=[ResourceLimit(key="desks", capacity=1)], shared=False, mode="sync"),
    ):
        with limits.acquire() as acq:
            assert acq.config == {}
            assert not limits.try_acquire().successful


def test_shared_limit_set_for_thread_workers_example() -> None:
    """Two workers, each of which would have been alone: one desk, and they take turns."""
    calls = rate(100, 60, "calls", RateLimitAlgorithm.SlidingWindow)
    limits = LimitSet(
        limits=[calls, ResourceLimit(key="desks", capacity=1)], shared=True, mode="thread"
    )

    class MyWorker:
        def __init__(self, limits: LimitSet) -> None:
            self.limits = limits

        def work(self, times: int) -> None:
            for _ in range(times):
                with self.limits.acquire(requested={"calls": 1, "desks": 1}) as acq:
                    at_the_desk.append(self)
                    assert at_the_desk == [self]
                    at_the_desk.remove(self)
                    acq.update(usage={"calls": 1})

    at_the_desk: list[MyWorker] = []
    worker1 = MyWorker(limits)
    worker2 = MyWorker(limits)
    # worker1 and worker2 share the same limits
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(worker.work, 40) for worker in (worker1, worker2)]:
            done.result()
    assert limits.get_stats()["calls"]["current_usage"] == 80
    assert not limits.try_acquire(requested={"calls": 21}).successful


async def test_shared_limit_set_for_asyncio() -> None:
    calls = rate(2, 60, "calls", RateLimitAlgorithm.SlidingWindow)
    limits = LimitSet(
        limits=[calls, ResourceLimit(key="desks", capacity=1)], shared=True, mode="asyncio"
    )
    for turn in range(4):
        async with limits.acquire(requested={"calls": 1, "desks": 1}) as acq:
            assert now() == (0.0 if turn < 2 else 60.0)
            acq.update(usage={"calls": 1})


def test_limit_set_acquisition() -> None:
    config = {"account": "A", "region": "us"}
    desk = ResourceLimit(key="desks", capacity=1)
    limits = LimitSet(limits=[desk], shared=True, mode="thread", config=config)
    acq = limits.acquire(requested=None, timeout=None)
    assert isinstance(acq, LimitSetAcquisition)
    assert acq.successful is True
    assert acq.limit_set is limits
    assert acq.config == {"account": "A", "region": "us"}
    failed = limits.try_acquire(requested={"desks": 1})
    assert isinstance(failed, LimitSetAcquisition)
    assert failed.successful is False
    acq.release()
    acq.release()
    assert limits.get_stats()["desks"]["current_usage"] == 0


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (RateLimit, ["key", "window_seconds", "algorithm", "capacity"]),
        (CallLimit, ["window_seconds", "algorithm", "capacity"]),
        (ResourceLimit, ["key", "capacity"]),
        (LimitPool, ["limit_sets", "load_balancing", "worker_index"]),
        (LimitSet.acquire, ["self", "requested", "timeout"]),
        (LimitPool.acquire, ["self", "requested", "timeout"]),
        (LimitSet.try_acquire, ["self", "requested"]),
        (LimitPool.try_acquire, ["self", "requested"]),
        (LimitSetAcquisition.update, ["self", "usage"]),
        (LimitSetAcquisition.release, ["self"]),
        *(
            (getattr(cls, name), ["self", *parameters])
            for cls in (Limit, RateLimit, CallLimit, ResourceLimit)
            for name, parameters in (
                ("can_acquire", ["requested"]),
                ("validate_usage", ["requested", "used"]),
                ("get_stats", []),
            )
        ),
    ],
)
def test_the_documented_signatures(function: Any, parameters: list[str]) -> None:
    found = inspect.signature(function).parameters
    assert list(found)[: len(parameters)] == parameters
    for name in {"requested", "timeout", "load_balancing"} & found.keys():
        assert function.__name__ in ("can_acquire", "validate_usage") or found[name].default is None


def test_the_documented_attributes() -> None:
    algorithm = RateLimitAlgorithm.GCRA
    limit = RateLimit(key="input_tokens", window_seconds=0.5, algorithm=algorithm, capacity=7)
    assert (limit.key, limit.window_seconds, limit.capacity) == ("input_tokens", 0.5, 7)
    assert limit.algorithm is algorithm
    calls = CallLimit(window_seconds=60, algorithm=algorithm, capacity=3)
    assert (calls.key, calls.window_seconds, calls.capacity) == ("call_count", 60, 3)
    assert isinstance(calls, RateLimit)
    with pytest.raises(AttributeError):
        calls.key = "calls"  # type: ignore[misc, unused-ignore]
    with pytest.raises((TypeError, ValueError), match="key"):
        CallLimit(key="calls", window_seconds=60, capacity=3)  # type: ignore[call-arg]
    for default in ({}, {"algorithm": None}):
        left_out = RateLimit(key="calls", window_seconds=10, capacity=5, **default)
        assert left_out.algorithm is RateLimitAlgorithm.SlidingWindow
    with pytest.raises(ValueError, match=r"algorithm.*'Bucket'"):
        RateLimit(key="tokens", window_seconds=60, algorithm="Bucket", capacity=10)
    documented = {"TokenBucket", "LeakyBucket", "SlidingWindow", "FixedWindow", "GCRA"}
    assert {member.name for member in RateLimitAlgorithm} == documented
    assert {"Random", "RoundRobin"} <= {member.name for member in LoadBalancingAlgorithm}
    assert issubclass(Limit, ABC)
    assert {"can_acquire", "validate_usage", "get_stats"} <= Limit.__abstractmethods__
    with pytest.raises(TypeError):
        Limit(key="nothing")  # type: ignore[abstract, call-arg, unused-ignore]
    balancing = LoadBalancingAlgorithm.Random
    pool = LimitPool(limit_sets=[region_set("us")], load_balancing=balancing, worker_index=7)
    assert (len(pool.limit_sets), pool.load_balancing, pool.worker_index) == (1, balancing, 7)


# --- LimitPool ---


@pytest.fixture
def limitset_us() -> LimitSet:
    return region_set("us")


@pytest.fixture
def limitset_eu() -> LimitSet:
    return region_set("eu")


def region_set(region: str) -> LimitSet:
    return LimitSet(
        limits=[rate(), ResourceLimit(key="connections", capacity=2)],
        shared=True,
        mode="thread",
        config={"region": region, "endpoint": f"https://{region}.example"},
    )


@standing_still
def test_limit_pool_example(limitset_us: LimitSet, limitset_eu: LimitSet) -> None:
    call_api = Mock(return_value=SimpleNamespace(tokens=70))

    pool = LimitPool(
        limit_sets=[limitset_us, limitset_eu],
        load_balancing=LoadBalancingAlgorithm.RoundRobin,
        worker_index=0
    )  # fmt: skip

    # Acquire from selected LimitSet
    for _ in range(4):
        with pool.acquire(requested={"tokens": 100}) as acq:
            region = acq.config["region"]
            result = call_api(region)
            acq.update(usage={"tokens": result.tokens})

    assert call_api.call_args_list == [call("us"), call("eu"), call("us"), call("eu")]
    for limits in (limitset_us, limitset_eu):
        assert limits.get_stats()["tokens"]["available_tokens"] == 860


def test_pool_of_workers_as_plain_classes_in_a_thread_pool() -> None:
    """Ten workers share three sets of two connections each: six at once, whoever runs them."""
    limitset1, limitset2, limitset3 = (region_set(name) for name in ("us", "eu", "asia"))
    six = threading.Barrier(6)

    def make_request(endpoint: str, prompt: str) -> Any:
        six.wait(timeout=30)
        return SimpleNamespace(tokens=len(prompt), endpoint=endpoint)

    class APIWorker:
        def __init__(self, limits: LimitPool) -> None:
            self.limits = limits

        def call_api(self, prompt: str):
            # self.limits is a LimitPool
            with self.limits.acquire(requested={"tokens": 100}) as acq:
                endpoint = acq.config["endpoint"]
                result = make_request(endpoint, prompt)
                acq.update(usage={"tokens": result.tokens})
                return result

    # Create workers with LimitPool
    worker = APIWorker(LimitPool(limit_sets=[limitset1, limitset2, limitset3]))
    with ThreadPoolExecutor(max_workers=10) as pool:
        results = list(pool.map(worker.call_api, ["a prompt"] * 30))

    endpoints = [result.endpoint for result in results]
    assert {endpoints.count(f"https://{name}.example") for name in ("us", "eu", "asia")} == {10}


def test_limit_pool_acquire_example(limitset_us: LimitSet, limitset_eu: LimitSet) -> None:
    call_api = Mock(return_value=SimpleNamespace(tokens=70))
    operation = Mock()
    pool = LimitPool(limit_sets=[limitset_us, limitset_eu])

    with pool.acquire(requested={"tokens": 100, "connections": 2}) as acq:
        # acq.config contains selected LimitSet's config
        region = acq.config.get("region", "unknown")
        result = call_api(region)
        acq.update(usage={"tokens": result.tokens})

    with pool.acquire() as acq:
        # CallLimit and ResourceLimit use defaults
        result = operation()

    assert call_api.call_args in (call("us"), call("eu"))
    operation.assert_called_once()


@pytest.mark.parametrize("tokens", [100, 1000])
def test_limit_pool_try_acquire_example(
    tokens: int, limitset_us: LimitSet, limitset_eu: LimitSet
) -> None:
    expensive_operation = Mock(return_value=SimpleNamespace(tokens=70))
    use_cached_result = Mock(return_value="cached")
    pool = LimitPool(limit_sets=[limitset_us, limitset_eu])
    for limits in (limitset_us, limitset_eu):
        limits.acquire(requested={"tokens": 500}).release()

    acq = pool.try_acquire(requested={"tokens": tokens})
    if acq.successful:
        with acq:
            result = expensive_operation()
            acq.update(usage={"tokens": result.tokens})
    else:
        result = use_cached_result()

    assert (result == "cached") is (tokens == 1000)
    for limits in (limitset_us, limitset_eu):
        assert limits.get_stats()["connections"]["current_usage"] == 0


def test_limit_pool_refusals(limitset_us: LimitSet, limitset_eu: LimitSet) -> None:
    with pytest.raises(ValueError, match="limit_sets"):
        LimitPool(limit_sets=[])
    pool = LimitPool(limit_sets=[limitset_us, limitset_eu])
    for wrong in ({"tokens": -1}, {"tokens": 1001}, {"letters": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            pool.acquire(requested=wrong)
    with (
        limitset_us.acquire(requested={"connections": 2}),
        limitset_eu.acquire(requested={"connections": 2}),
        pytest.raises(TimeoutError),
    ):
        pool.acquire(requested={"tokens": 1}, timeout=0.001)


def test_limit_pool_get_stats_example(
    limitset_us: LimitSet, limitset_eu: LimitSet, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = LimitPool(
        limit_sets=[limitset_us, limitset_eu], load_balancing=LoadBalancingAlgorithm.RoundRobin
    )
    pool.acquire(requested={"tokens": 1}).release()

    # Get and display stats
    stats = pool.get_stats()
    print(f"LimitSets: {stats['num_limit_sets']}")
    print(f"Algorithm: {stats['load_balancing']}")
    print(f"Balancer: {stats['balancer_stats']}")
    for i, ls_stats in enumerate(stats["limit_sets"]):
        print(f"LimitSet {i}: {ls_stats}")

    lines = capsys.readouterr().out.splitlines()
    heads = ["LimitSets", "Algorithm", "Balancer", "LimitSet 0", "LimitSet 1"]
    assert [line.partition(":")[0] for line in lines] == heads
    assert lines[0] == "LimitSets: 2"
    assert "RoundRobin" in lines[1]
    assert stats["worker_index"] == 0
    assert [set(each) for each in stats["limit_sets"]] == [{"tokens", "connections"}] * 2
