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


async def test_rate_limit_example_in_a_coroutine() -> None:
    limit = RateLimit(
        key="api_tokens",
        window_seconds=60,
        algorithm=RateLimitAlgorithm.TokenBucket,
        capacity=1000,
    )
    limits = LimitSet(limits=[limit])
    async with limits.acquire(requested={"api_tokens": 1000}) as acq:
        acq.update(usage={"api_tokens": 980})
    async with limits.acquire(requested={"api_tokens": 100}) as acq:
        assert now() == 4.8  # 20 were refunded, and 80 come back at 1000 per minute
        acq.update(usage={"api_tokens": 80})


def test_rate_limit_attributes() -> None:
    parameters = inspect.signature(RateLimit).parameters
    assert list(parameters)[:4] == ["key", "window_seconds", "algorithm", "capacity"]
    limit = RateLimit(
        key="input_tokens",
        window_seconds=0.5,
        algorithm=RateLimitAlgorithm.GCRA,
        capacity=7,
    )
    assert (limit.key, limit.window_seconds, limit.capacity) == ("input_tokens", 0.5, 7)
    assert limit.algorithm is RateLimitAlgorithm.GCRA
    assert isinstance(limit, Limit)


@pytest.mark.parametrize("algorithm", list(RateLimitAlgorithm))
async def test_every_documented_algorithm_is_there(algorithm: RateLimitAlgorithm) -> None:
    """Buckets start with a burst of the capacity; windows admit as much as that."""
    limits = LimitSet(
        limits=[RateLimit(key="calls", window_seconds=10, algorithm=algorithm, capacity=5)]
    )
    for _ in range(5):
        async with limits.acquire(requested={"calls": 1}) as acq:
            acq.update(usage={"calls": 1})
    assert now() == 0.0
    assert not limits.try_acquire(requested={"calls": 1}).successful
    async with limits.acquire(requested={"calls": 1}):
        bucket = algorithm not in (
            RateLimitAlgorithm.SlidingWindow,
            RateLimitAlgorithm.FixedWindow,
        )
        assert now() == (2.0 if bucket else 10.0)


def test_the_documented_algorithms_have_the_documented_names() -> None:
    documented = {"TokenBucket", "LeakyBucket", "SlidingWindow", "FixedWindow", "GCRA"}
    assert {member.name for member in RateLimitAlgorithm} == documented


def test_an_algorithm_that_is_left_out_has_a_default() -> None:
    for limit in (
        RateLimit(key="calls", window_seconds=10, capacity=5),
        RateLimit(key="calls", window_seconds=10, algorithm=None, capacity=5),
    ):
        assert limit.algorithm is RateLimitAlgorithm.SlidingWindow


@pytest.mark.parametrize("algorithm", list(RateLimitAlgorithm))
async def test_refunds_reach_up_to_the_capacity(algorithm: RateLimitAlgorithm) -> None:
    """Theirs: only TokenBucket and GCRA. Here every algorithm gives back what was not used."""
    limits = LimitSet(
        limits=[RateLimit(key="calls", window_seconds=10, algorithm=algorithm, capacity=5)]
    )
    with limits.acquire(requested={"calls": 5}) as acq:
        acq.update(usage={"calls": 2})
    assert limits.get_stats()["calls"]["available_tokens"] == 3
    with limits.acquire(requested={"calls": 3}) as acq:
        acq.update(usage={"calls": 0})
    assert limits.get_stats()["calls"]["available_tokens"] == 3


@standing_still
def test_rate_limit_methods() -> None:
    limit = RateLimit(
        key="tokens",
        window_seconds=60,
        algorithm=RateLimitAlgorithm.TokenBucket,
        capacity=1000,
    )
    assert limit.can_acquire(1000) is True
    assert limit.can_acquire(1001) is False
    limits = LimitSet(limits=[limit])
    with limits.acquire(requested={"tokens": 400}) as acq:
        assert limit.can_acquire(requested=600) is True
        assert limit.can_acquire(requested=601) is False
        acq.update(usage={"tokens": 400})
    limit.validate_usage(requested=100, used=100)
    limit.validate_usage(100, 0)
    with pytest.raises(ValueError, match="101"):  # "Validate that usage doesn't exceed requested"
        limit.validate_usage(100, 101)
    stats = limit.get_stats()
    assert {
        "key",
        "window_seconds",
        "algorithm",
        "capacity",
        "available_tokens",
        "current_usage",
        "utilization",
    } == set(stats)
    assert (stats["key"], stats["window_seconds"], stats["capacity"]) == ("tokens", 60, 1000)
    assert (stats["available_tokens"], stats["current_usage"]) == (600, 400)
    assert stats["utilization"] == 0.4


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


def test_call_limit_attributes() -> None:
    parameters = inspect.signature(CallLimit).parameters
    assert list(parameters)[:3] == ["window_seconds", "algorithm", "capacity"]
    limit = CallLimit(window_seconds=60, algorithm=RateLimitAlgorithm.FixedWindow, capacity=3)
    assert isinstance(limit, RateLimit)
    assert (limit.key, limit.window_seconds, limit.capacity) == ("call_count", 60, 3)
    assert limit.algorithm is RateLimitAlgorithm.FixedWindow


def test_the_key_of_a_call_limit_is_fixed() -> None:
    limit = CallLimit(window_seconds=60, capacity=3)
    with pytest.raises(AttributeError):
        limit.key = "calls"  # type: ignore[misc, unused-ignore]
    with pytest.raises((TypeError, ValueError), match="key"):
        CallLimit(key="calls", window_seconds=60, capacity=3)  # type: ignore[call-arg]
    assert limit.key == "call_count"


def test_the_usage_of_a_call_limit_is_always_1() -> None:
    limit = CallLimit(window_seconds=60, capacity=3)
    limit.validate_usage(requested=1, used=1)
    for wrong in (0, 2, -1):
        with pytest.raises(ValueError, match=str(wrong)):
            limit.validate_usage(1, wrong)
    limits = LimitSet(limits=[limit])
    with limits.acquire() as acq:
        acq.update(usage={"call_count": 1})
        with pytest.raises(ValueError, match="call_count"):
            acq.update(usage={"call_count": 2})
    assert limits.get_stats()["call_count"]["current_usage"] == 1


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


# --- Limit ---


def test_limit_is_an_abstract_base() -> None:
    assert issubclass(Limit, ABC)
    assert {"can_acquire", "validate_usage", "get_stats"} <= Limit.__abstractmethods__
    for name, parameters in {
        "can_acquire": ["self", "requested"],
        "validate_usage": ["self", "requested", "used"],
        "get_stats": ["self"],
    }.items():
        for cls in (Limit, RateLimit, CallLimit, ResourceLimit):
            assert list(inspect.signature(getattr(cls, name)).parameters) == parameters
    with pytest.raises(TypeError):
        Limit(key="nothing")  # type: ignore[abstract, call-arg, unused-ignore]


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


def test_an_algorithm_that_is_not_known_is_refused_by_name_and_value() -> None:
    with pytest.raises(ValueError, match=r"algorithm.*'Bucket'"):
        RateLimit(
            key="tokens",
            window_seconds=60,
            algorithm="Bucket",
            capacity=10,
        )


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


def test_code_can_call_acquire_without_checking_if_limits_exist() -> None:
    """A worker gets an empty set where nobody gives it limits."""

    class MyWorker:
        def __init__(self, limits: LimitSet | None = None) -> None:
            self.limits = LimitSet(limits=[]) if limits is None else limits

        def work(self) -> bool:
            with self.limits.acquire() as acq:
                return acq.successful

    assert MyWorker().work()
    assert MyWorker(LimitSet(limits=[ResourceLimit(key="desks", capacity=1)])).work()


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
    limits = LimitSet(
        limits=[
            RateLimit(
                key="calls",
                window_seconds=60,
                algorithm=RateLimitAlgorithm.SlidingWindow,
                capacity=100,
            ),
            ResourceLimit(key="desks", capacity=1),
        ],
        shared=True,
        mode="thread",
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
    limits = LimitSet(
        limits=[
            RateLimit(
                key="calls",
                window_seconds=60,
                algorithm=RateLimitAlgorithm.SlidingWindow,
                capacity=2,
            ),
            ResourceLimit(key="desks", capacity=1),
        ],
        shared=True,
        mode="asyncio",
    )
    for turn in range(4):
        async with limits.acquire(requested={"calls": 1, "desks": 1}) as acq:
            assert now() == (0.0 if turn < 2 else 60.0)
            acq.update(usage={"calls": 1})


@pytest.mark.parametrize("mode", ["process", "ray"])
def test_the_modes_that_are_not_there_are_refused_with_those_that_are(mode: str) -> None:
    """Shared LimitSet for process workers: theirs only, so far."""
    with pytest.raises(ValueError, match=rf"mode.*{mode}") as refused:
        LimitSet(limits=[ResourceLimit(key="desks", capacity=1)], shared=True, mode=mode)
    for name in ("sync", "thread", "asyncio"):
        assert name in str(refused.value)


@pytest.mark.parametrize("mode", ["thread", "asyncio"])
def test_a_private_set_has_the_mode_sync(mode: str) -> None:
    # "ValueError: If shared=False and mode != "sync""
    with pytest.raises(ValueError, match="shared"):
        LimitSet(limits=[ResourceLimit(key="desks", capacity=1)], shared=False, mode=mode)


def test_two_limits_of_one_key_are_refused_by_name() -> None:
    # "Unique identifier for this limit within a LimitSet"
    with pytest.raises(ValueError, match="desks"):
        LimitSet(limits=[ResourceLimit(key="desks", capacity=n) for n in (1, 2)])


def test_config_can_be_read_from_the_acquisition() -> None:
    config = {"account": "A", "region": "us"}
    limits = LimitSet([ResourceLimit(key="desks", capacity=1)], True, "thread", config)
    config["region"] = "changed afterwards"
    with limits.acquire() as acq:
        assert acq.config == {"account": "A", "region": "us"}
        assert acq.config["region"] == "us"


def test_limit_set_acquisition() -> None:
    limits = LimitSet(limits=[ResourceLimit(key="desks", capacity=1)])
    acq = limits.acquire(requested=None, timeout=None)
    assert isinstance(acq, LimitSetAcquisition)
    assert acq.successful is True
    assert acq.limit_set is limits
    failed = limits.try_acquire(requested={"desks": 1})
    assert isinstance(failed, LimitSetAcquisition)
    assert failed.successful is False
    acq.release()
    acq.release()
    assert limits.get_stats()["desks"]["current_usage"] == 0
    assert list(inspect.signature(LimitSetAcquisition.update).parameters) == ["self", "usage"]
    assert list(inspect.signature(LimitSetAcquisition.release).parameters) == ["self"]


@pytest.mark.parametrize("cls", [LimitSet, LimitPool])
def test_the_documented_signatures_of_acquire(cls: type) -> None:
    acquire = inspect.signature(cls.acquire).parameters  # type: ignore[attr-defined]
    assert list(acquire)[:3] == ["self", "requested", "timeout"]
    assert acquire["requested"].default is None
    assert acquire["timeout"].default is None
    try_acquire = inspect.signature(cls.try_acquire).parameters  # type: ignore[attr-defined]
    assert list(try_acquire)[:2] == ["self", "requested"]
    assert try_acquire["requested"].default is None


# --- LimitPool ---


@pytest.fixture
def limitset_us() -> LimitSet:
    return region_set("us")


@pytest.fixture
def limitset_eu() -> LimitSet:
    return region_set("eu")


def region_set(region: str) -> LimitSet:
    return LimitSet(
        limits=[
            RateLimit(
                key="tokens",
                window_seconds=60,
                algorithm=RateLimitAlgorithm.TokenBucket,
                capacity=1000,
            ),
            ResourceLimit(key="connections", capacity=2),
        ],
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


def test_worker_index_is_where_round_robin_starts(
    limitset_us: LimitSet, limitset_eu: LimitSet
) -> None:
    pool = LimitPool(
        limit_sets=[limitset_us, limitset_eu],
        load_balancing=LoadBalancingAlgorithm.RoundRobin,
        worker_index=3,
    )
    regions = []
    for _ in range(3):
        with pool.acquire(requested={"tokens": 1}) as acq:
            regions.append(acq.config["region"])
    assert regions == ["eu", "us", "eu"]


def test_random_takes_each_of_them(limitset_us: LimitSet, limitset_eu: LimitSet) -> None:
    pool = LimitPool(
        limit_sets=[limitset_us, limitset_eu], load_balancing=LoadBalancingAlgorithm.Random
    )
    regions = set()
    for _ in range(100):
        with pool.acquire(requested={"tokens": 1}) as acq:
            regions.add(acq.config["region"])
    assert regions == {"us", "eu"}


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


def test_limit_pool_attributes(limitset_us: LimitSet, limitset_eu: LimitSet) -> None:
    parameters = inspect.signature(LimitPool).parameters
    assert list(parameters)[:3] == ["limit_sets", "load_balancing", "worker_index"]
    assert parameters["load_balancing"].default is None
    pool = LimitPool(
        limit_sets=[limitset_us, limitset_eu],
        load_balancing=LoadBalancingAlgorithm.Random,
        worker_index=7,
    )
    assert list(pool.limit_sets) == [limitset_us, limitset_eu]
    assert pool.load_balancing is LoadBalancingAlgorithm.Random
    assert pool.worker_index == 7
    assert {"Random", "RoundRobin"} <= {member.name for member in LoadBalancingAlgorithm}


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
    assert lines[0] == "LimitSets: 2"
    assert "RoundRobin" in lines[1]
    assert [line.partition(":")[0] for line in lines] == [
        "LimitSets",
        "Algorithm",
        "Balancer",
        "LimitSet 0",
        "LimitSet 1",
    ]
    assert stats["worker_index"] == 0
    assert [set(each) for each in stats["limit_sets"]] == [{"tokens", "connections"}] * 2
