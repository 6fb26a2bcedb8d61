"""Only type checkers read this file: what they must accept, infer and refuse."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
)
from datetime import timedelta
from typing import Any, assert_type

from async_throttle import (
    AIMD,
    GCRA,
    Adaptive,
    AdaptiveRateLimiter,
    BackOff,
    CallLimit,
    ClockWindow,
    ConcurrencyLimiter,
    FixedWindow,
    Gradient,
    LeakyBucket,
    Lease,
    LimitPool,
    LimitSet,
    LimitSetAcquisition,
    LoadBalancingAlgorithm,
    Outcome,
    RateLimit,
    RateLimitAlgorithm,
    RateLimiter,
    ResourceError,
    ResourceGroup,
    ResourceLimit,
    ResourceLimitError,
    Rule,
    Schedule,
    SlidingWindow,
    Throttle,
    ThrottleClosed,
    ThrottleFull,
    Throttles,
    ThrottleTimeout,
    TimeoutManager,
    TokenBucket,
    WeightTooLarge,
    buckets,
    exceptions,
    limits,
    threads,
)
from async_throttle.http import Learner, Reading, Report, learn, read
from async_throttle.limits import Delay, ExecutionMode, Limit, RateWindow
from async_throttle.resources import Attempt


def construction() -> None:
    Throttle(10)
    Throttle(10.5, 2, 0.5)
    Throttle(math.inf, concurrency=3)
    Throttle(
        10,
        burst=20,
        algorithm=SlidingWindow,
        initial=0.5,
        max_waiting=100,
        timer=lambda: 5.0,
        name="api",
    )
    for algorithm in (TokenBucket, GCRA, LeakyBucket, SlidingWindow, FixedWindow):
        Throttle(10, algorithm=algorithm)
    Throttle(10, algorithm=RateLimitAlgorithm.GCRA)
    Throttle(1_200, period=60, algorithm=ClockWindow)
    days = Throttle(1_000, period="day", algorithm=ClockWindow(tz="America/Los_Angeles", margin=1))
    days.period = "week"
    Throttle(10, period="fortnight")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Throttle(10, burst=None, initial=None, max_waiting=None, timer=None, name=None)

    Throttle()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Throttle("10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Throttle(10, 2, 1.0, 20)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Throttle(10, algorithm=int)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Throttle(10, algorithm="gcra")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Throttle(10, brust=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def entering(throttle: Throttle) -> None:
    async with throttle as nothing:
        assert_type(nothing, None)
    async with throttle(5) as lease:
        assert_type(lease, Lease)
    async with throttle() as lease, throttle(0.5, timeout=2) as other:
        assert_type(other, Lease)
    async with AsyncExitStack() as stack:
        assert_type(await stack.enter_async_context(throttle), None)
        assert_type(await stack.enter_async_context(throttle(5)), Lease)
    manager: AbstractAsyncContextManager[None] = throttle
    leased: AbstractAsyncContextManager[Lease] = throttle(5)
    async with manager, leased:
        pass
    with throttle:  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues, reportAttributeAccessIssue]
        pass


async def calls(throttle: Throttle) -> None:
    assert_type(await throttle.acquire(), bool)
    assert_type(await throttle.acquire(2.5, timeout=1), bool)
    assert_type(throttle.release(), None)
    assert_type(await throttle.lease(5, timeout=2), Lease)
    assert_type(throttle.try_acquire(2), bool)
    assert_type(await throttle.consume(3), None)
    assert_type(throttle.charge(3), None)
    assert_type(throttle.locked(), bool)
    assert_type(await throttle.pause(5), None)
    throttle.pause(timedelta(seconds=3), empty=True)
    throttle.pause(math.inf)
    assert_type(throttle.resume(), None)
    assert_type(throttle.delay(2), float)
    assert_type(throttle.guarantee(1), float)
    assert_type(await throttle.drain(), None)
    assert_type(throttle.close(drop_waiting=False), None)
    task: asyncio.Task[bool] = asyncio.create_task(throttle.acquire())
    await task
    assert_type(await throttle.acquire(2, priority=-1), bool)
    assert_type(await throttle.lease(2, priority=1), Lease)
    assert_type(await throttle.consume(2, priority=1), None)
    assert_type(throttle.try_acquire(2, priority=1), bool)
    assert_type(throttle.delay(2, priority=1), float)
    async with throttle(2, timeout=5, priority=1) as lease:
        assert_type(lease, Lease)
    throttle(2, priority=0.5)  # type: ignore[call-overload]  # pyright: ignore
    throttle(2, 5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]

    @throttle
    async def decorated(url: str) -> int:
        return len(url)

    assert_type(await decorated("/"), int)
    await throttle.acquire("5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await throttle.acquire(1, 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    throttle.pause("5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def looking(throttle: Throttle) -> None:
    assert_type(throttle.level, float)
    assert_type(throttle.active, int)
    assert_type(throttle.waiting, int)
    assert_type(throttle.paused_for, float)
    assert_type(throttle.capacity, float)
    assert_type(throttle.concurrency, int)
    assert_type(throttle.period, float)
    assert_type(throttle.burst, float)
    assert_type(throttle.name, str | None)
    assert_type(throttle.algorithm, type[Rule])
    throttle.capacity = 5
    throttle.concurrency = 2
    throttle.period = 0.5
    throttle.burst = 7.5
    throttle.burst = None
    throttle.level = 5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    throttle.active = 5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def settling(lease: Lease) -> None:
    assert_type(lease.weight, float)
    assert_type(lease.waited, float)
    assert_type(lease.settle(2.5), None)
    assert_type(lease.release(), None)


async def decorating(throttle: Throttle) -> None:
    @throttle(5)
    async def fetch(url: str, *, retries: int = 3) -> bytes:
        return url.encode() * retries

    assert_type(await fetch("x", retries=2), bytes)
    call: Coroutine[Any, Any, bytes] = fetch("x")
    await asyncio.create_task(call)
    await fetch(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await fetch("x", 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    class Client:
        @throttle(2, timeout=5)
        async def get(self, number: int) -> list[str]:
            return [str(number)]

    assert_type(await Client().get(5), list[str])
    await Client().get("5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    def plain() -> int:
        return 5

    throttle(5)(plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]


async def rate_limiting(limiter: RateLimiter) -> None:
    RateLimiter(10.0)
    RateLimiter(rate=100.0, burst=20)
    RateLimiter(0.5, wait=False)
    async with limiter as same:
        assert_type(same, RateLimiter)
    assert_type(await limiter.acquire(), None)
    assert_type(await limiter.acquire(tokens=5), None)
    async with limiter.acquire(2) as same:
        assert_type(same, RateLimiter)
    await asyncio.gather(limiter.acquire(), limiter.acquire(0.5))
    await asyncio.wait_for(limiter.acquire(), 5)
    task: asyncio.Task[None] = asyncio.create_task(limiter.acquire())
    await task
    assert_type(limiter.throttle, Throttle)

    @limiter.limit
    async def one(a: int) -> str:
        return str(a)

    @limiter.limit(tokens=5)
    async def five(a: int) -> str:
        return str(a)

    assert_type(await one(1), str)
    assert_type(await five(1), str)
    await one("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await five("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    class Thrifty(RateLimiter):
        pass

    async with Thrifty(5) as thrifty, thrifty.acquire(2) as again:
        assert_type(thrifty, Thrifty)
        assert_type(again, Thrifty)


async def concurrency_limiting(limiter: ConcurrencyLimiter) -> None:
    ConcurrencyLimiter(5)
    ConcurrencyLimiter(limit=5, wait=False)
    async with limiter as same:
        assert_type(same, ConcurrencyLimiter)
    assert_type(await limiter.acquire(), None)
    assert_type(limiter.release(), None)
    async with limiter.acquire() as same:
        assert_type(same, ConcurrencyLimiter)
    async with AsyncExitStack() as stack:
        assert_type(await stack.enter_async_context(limiter), ConcurrencyLimiter)

    @limiter.limit
    async def one(a: int) -> str:
        return str(a)

    wrapped: Callable[[int], Awaitable[str]] = one
    assert_type(await one(1), str)
    await wrapped(1)
    await limiter.acquire(5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def timing_out(manager: TimeoutManager) -> str:
    TimeoutManager()
    TimeoutManager(default_timeout=30)
    async with manager as same:
        assert_type(same, TimeoutManager)
    async with manager.timeout(2.0) as same:
        assert_type(same, TimeoutManager)
    async with AsyncExitStack() as stack:
        assert_type(await stack.enter_async_context(manager), TimeoutManager)
    assert_type(await manager.run(asyncio.sleep(1, 5)), int)
    assert_type(await manager.run(asyncio.Future[str](), timeout=2), str)
    task: asyncio.Task[int] = asyncio.create_task(manager.run(asyncio.sleep(1, 5)))
    await task
    assert_type(manager.remaining(), float)
    assert_type(manager.default_timeout, float | None)

    @manager
    async def fetch(a: int) -> str:
        return str(a)

    assert_type(await fetch(1), str)
    assert_type(await manager.cascade(lambda: fetch(1), [0.5, 1]), str)
    for attempt in manager.attempts((0.5, 1)):
        assert_type(attempt, Attempt)
        async with attempt as same_attempt:
            assert_type(same_attempt, Attempt)
            assert_type(attempt.number, int)
            assert_type(attempt.timeout, float)
            await fetch(1)
    await fetch("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await manager.run(fetch)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await manager.run(fetch(1), 2.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await manager.cascade(fetch(1), [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    manager(len)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async with manager:  # which swallows nothing, so that this always returns or raises
        return await fetch(1)


async def grouping(group: ResourceGroup, limiter: RateLimiter) -> None:
    assert_type(await group.add(limiter), RateLimiter)
    assert_type(await group.remove(limiter), None)
    async with group as same:
        assert_type(same, ResourceGroup)


def catching(throttle: Throttle) -> None:
    try:
        throttle.try_acquire()
    except WeightTooLarge as error:
        assert_type(error.largest, float | None)
    except ThrottleTimeout as error:
        as_builtin: TimeoutError = error
        as_ours: exceptions.TimeoutError = error
        print(as_builtin, as_ours)
    except (ThrottleFull, ThrottleClosed) as error:
        assert_type(error.retry_after, float | None)
        assert_type(error.limit, Hashable)
    except ResourceLimitError as error:
        as_value: ResourceError = error
        print(as_value)


def a_rule_of_ones_own() -> None:
    class Never(Rule):
        def ready_at(self, now: int, weight: int) -> int:
            return now

        def take(self, now: int, weight: int) -> None:
            return None

        def level(self, now: int) -> float:
            return 0.0

    Throttle(10, algorithm=Never)


def sets_of_limits(everybody: Throttle, chat: Throttle, many: threads.Throttle) -> None:
    LimitSet()
    LimitSet(everybody, chat)
    LimitSet(requests=Throttle(500, period=60), tokens=everybody, concurrency=20)
    LimitSet(everybody, tokens=chat, config={"region": "eu"}, concurrency=2)
    LimitSet(RateLimit("tokens", 60, RateLimitAlgorithm.GCRA, 100), CallLimit(60, None, 5))
    LimitSet(many, files=ResourceLimit("files", 5))

    LimitSet(tokens=5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    LimitSet(tokens=chat, concurrency="2")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    LimitSet([chat])  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    LimitSet(tokens=chat, mode="sync")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    LimitSet(tokens=chat, config="eu")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


async def in_the_words_of_concurry(chat: Throttle, many: threads.Throttle) -> None:
    limits.LimitSet([RateLimit("tokens", 60, RateLimitAlgorithm.GCRA, 100), CallLimit(60, None, 5)])
    limits.LimitSet([many, ResourceLimit("files", 5)], True, "thread", {"region": "eu"})
    api = limits.LimitSet(limits=[many], shared=True, mode=ExecutionMode.Asyncio, config=None)
    limits.LimitSet(chat, many, requests=chat)
    with api.acquire(requested={"tokens": 100, 0: 2}, timeout=None) as lease:
        assert_type(lease, limits.LimitSetAcquisition)
        assert_type(lease.update(usage={"tokens": 80, 0: 1}), None)
        assert_type(lease.update({"tokens": 80}), None)
    with api as lease, api.try_acquire(requested={"tokens": 5}) as other, api(tokens=5):
        assert_type(lease, limits.LimitSetAcquisition)
        assert_type(other, limits.LimitSetAcquisition)
    with api.acquire({"tokens": 100}, 5, priority=1) as lease:
        assert_type(lease.limit_set, LimitSet[Any])
    assert_type(api.limits, list[Any])
    assert_type(api.shared, bool)
    assert_type(api.mode, ExecutionMode)
    assert_type(api.get_stats(), dict[Hashable, dict[str, Any]])
    pool = limits.LimitPool([api, LimitSet(chat)], "RoundRobin", 1)
    LimitPool([api, LimitSet(chat)])
    with pool.acquire(requested={"tokens": 5}, timeout=5) as lease:
        assert_type(lease, limits.LimitSetAcquisition)
    async with await pool.async_acquire({"tokens": 5}, 2, priority=1) as lease:
        assert_type(lease.acquisitions, dict[Hashable, limits.Acquisition])
    assert_type(await api.async_acquire(tokens=5), limits.LimitSetAcquisition)
    assert_type(pool.get_stats(), dict[str, Any])

    limits.LimitSet(tokens=chat, mode=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    limits.LimitSet(limits=chat)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def calling_a_set(api: LimitSet) -> None:
    async with api as lease:
        assert_type(lease, LimitSetAcquisition)
    async with api(tokens=1_200, timeout=2, priority=1) as lease, api() as other:
        assert_type(lease, LimitSetAcquisition)
        assert_type(other, LimitSetAcquisition)
    with api as lease, api(tokens=0.5) as other:
        assert_type(lease, LimitSetAcquisition)
        assert_type(other, LimitSetAcquisition)
    async with api.acquire({"tokens": 100, 0: 2}, timeout=None) as lease:
        assert_type(lease, LimitSetAcquisition)
    with api.acquire(tokens=100, timeout=5, priority=1) as lease:
        assert_type(lease, LimitSetAcquisition)
    with api.try_acquire(tokens=5) as lease:
        assert_type(lease.successful, bool)
    assert_type(await api.acquire(), LimitSetAcquisition)
    assert_type(await api(tokens=5), LimitSetAcquisition)
    assert_type(api.try_acquire({"tokens": 5}, priority=1), LimitSetAcquisition)
    async with AsyncExitStack() as stack:
        assert_type(await stack.enter_async_context(api), LimitSetAcquisition)
        assert_type(await stack.enter_async_context(api(tokens=5)), LimitSetAcquisition)
    with ExitStack() as plain:
        assert_type(plain.enter_context(api(tokens=5)), LimitSetAcquisition)
    manager: AbstractAsyncContextManager[LimitSetAcquisition] = api(tokens=5)
    blocking: AbstractContextManager[LimitSetAcquisition] = api
    async with manager:
        pass
    with blocking:
        pass
    task: asyncio.Task[LimitSetAcquisition] = asyncio.create_task(api(tokens=5).__aenter__())
    await task

    api({0: 5}, timeout=2, tokens=1)
    api.delay({0: 5}, tokens=1)
    api.try_acquire({0: 5}, tokens=1)
    api(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    api(tokens="5")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    api(timeout="5")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    api.acquire({}, 5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    api.acquire({"tokens": "5"})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]


async def a_set_itself(api: LimitSet) -> None:
    assert_type(await api.pause(30), None)
    api.pause(timedelta(seconds=3), empty=True)
    assert_type(api.resume(), None)
    assert_type(api.paused_for, float)
    api["tokens"].capacity = 400_000
    api[0].pause(5)
    assert_type(api.keys(), list[Hashable])
    assert_type(list(api), list[Hashable])
    assert_type("tokens" in api, bool)
    assert_type(len(api), int)
    assert_type(api.config, Mapping[str, Any])
    delay = api.delay(tokens=5_000)
    assert_type(delay, Delay)
    assert_type(delay.limit, Hashable)
    in_seconds: float = delay
    await asyncio.sleep(in_seconds)
    assert_type(api.locked(), bool)
    assert_type(api.waiting, int)
    assert_type(api.max_waiting, int | None)
    assert_type(await api.drain(), None)

    api.waiting = 5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    api.pause("5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def what_a_set_granted(lease: LimitSetAcquisition) -> None:
    assert_type(lease.successful, bool)
    assert_type(lease.config, Mapping[str, Any])
    assert_type(lease.limit_set, LimitSet[Any])
    assert_type(lease.weights, dict[Hashable, float])
    assert_type(lease.waited, float)
    assert_type(lease.waited_for, dict[Hashable, float])
    assert_type(lease.settle(tokens=900, requests=1.5), None)
    assert_type(lease.settle({0: 900}, requests=1.5), None)
    assert_type(lease.release(), None)
    lease.settle(900)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lease.settle(tokens="900")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def decorating_with_sets(api: LimitSet, pool: LimitPool) -> None:
    @api(tokens=5)
    async def fetch(url: str, *, retries: int = 3) -> bytes:
        return url.encode() * retries

    @pool(tokens=5, timeout=2)
    def read(name: str) -> int:
        return len(name)

    assert_type(await fetch("x", retries=2), bytes)
    call: Coroutine[Any, Any, bytes] = fetch("x")
    await asyncio.create_task(call)
    assert_type(read("x"), int)
    await fetch(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    read(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def documented_limits(tokens: RateLimit, calls: CallLimit, files: ResourceLimit) -> None:
    RateLimit(
        key="tokens",
        window_seconds=60,
        algorithm=RateLimitAlgorithm.SlidingWindow,
        capacity=1_000,
    )
    RateLimit("tokens", 0.5, SlidingWindow, 10.5)
    RateLimit("tokens", window="minute", capacity=10)
    CallLimit(per=RateWindow.Hourly, capacity=10)
    CallLimit(window_seconds=60, algorithm=RateLimitAlgorithm.TokenBucket, capacity=100)
    ResourceLimit(key="files", capacity=20)
    for limit in (tokens, calls, files):
        as_limit: Limit = limit
        assert_type(as_limit.key, str)
        assert_type(as_limit.throttle, threads.Throttle)
        assert_type(as_limit.can_acquire(5), bool)
        assert_type(as_limit.validate_usage(5, 4), None)
        assert_type(as_limit.get_stats(), dict[str, Any])
        capacity: float = as_limit.capacity
        print(capacity)
    assert_type(tokens.window, float)
    assert_type(tokens.window_seconds, float)
    assert_type(tokens.params_signature(), str)
    assert_type(files.capacity, int)
    tokens.capacity = 500
    files.capacity = 5

    Limit()  # type: ignore[abstract]  # pyright: ignore[reportAbstractUsage]
    RateLimit(5, 60, None, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ResourceLimit("files", 1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ResourceLimit("files")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def pooling(us: LimitSet, eu: LimitSet) -> None:
    LimitPool(limit_sets=[us, eu])
    LimitPool((us, eu), "RoundRobin", 1)
    pool = LimitPool([us, eu], load_balancing=LoadBalancingAlgorithm.Random, worker_index=2)
    by_name: str = LoadBalancingAlgorithm.RoundRobin.value
    LimitPool([us], by_name)
    async with pool(tokens=900, timeout=2, priority=1) as lease:
        assert_type(lease, LimitSetAcquisition)
        assert_type(lease.config["region"], Any)
    async with pool.acquire({"tokens": 5}, timeout=5) as lease, pool:
        assert_type(lease, LimitSetAcquisition)
    with pool.try_acquire({"tokens": 5}) as lease, pool(tokens=5) as other:
        assert_type(other, LimitSetAcquisition)
    assert_type(pool.try_acquire(tokens=5).successful, bool)
    assert_type(await pool.acquire(), LimitSetAcquisition)
    assert_type(pool.delay(tokens=5), Delay)
    assert_type(pool[0], LimitSet)
    assert_type(list(pool), list[LimitSet])
    assert_type(len(pool), int)
    assert_type(pool.load_balancing, LoadBalancingAlgorithm)
    assert_type(pool.worker_index, int)

    LimitPool(us, eu)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    LimitPool([Throttle(5)])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    LimitPool([us], 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pool(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


async def keyed(everybody: Throttle) -> None:
    def make(host: str) -> Throttle:
        return Throttle(2, concurrency=4, name=host)

    hosts = Throttles(make)
    assert_type(hosts, Throttles[str, Throttle])
    assert_type(hosts["example.com"], Throttle)
    async with hosts["example.com"], hosts["example.org"](5) as lease:
        assert_type(lease, Lease)
    async with LimitSet(everybody, hosts["example.com"]):
        pass
    assert_type("example.com" in hosts, bool)
    assert_type(list(hosts), list[str])
    assert_type(len(hosts), int)

    chats: Throttles[int, threads.Throttle] = Throttles(lambda chat: threads.Throttle(1))
    with chats[5]:
        pass
    pairs: Throttles[tuple[str, int], Throttle] = Throttles(lambda pair: Throttle(pair[1]))
    assert_type(pairs["eu", 5], Throttle)

    hosts[5]  # type: ignore[index]  # pyright: ignore[reportArgumentType]
    chats["5"]  # type: ignore[index]  # pyright: ignore[reportArgumentType]
    inferred = Throttles(lambda host: Throttle(2))
    assert_type(inferred["host"], Throttle)
    sets = Throttles(lambda model: LimitSet(tokens=Throttle(2)))
    assert_type(sets["model"]["tokens"], Throttle)
    assert_type(
        Throttles(lambda model: LimitPool([LimitSet(threads.Throttle(2))]))[5][0][0],
        threads.Throttle,
    )
    Throttles(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Throttles(lambda host: 5)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


def in_threads(throttle: threads.Throttle) -> None:
    threads.Throttle(10, 2, 0.5, burst=20, algorithm=GCRA, max_waiting=5, name="api")
    with throttle as nothing:
        assert_type(nothing, None)
    with throttle(5, timeout=2, priority=1) as lease, throttle() as other:
        assert_type(lease, threads.Lease)
        assert_type(other, threads.Lease)
        lease.settle(2.5)
    assert_type(throttle.acquire(5, timeout=2, priority=1), bool)
    assert_type(throttle.release(), None)
    assert_type(throttle.lease(5, timeout=2), threads.Lease)
    assert_type(throttle.consume(5, priority=1), None)
    assert_type(throttle.try_acquire(5), bool)
    assert_type(throttle.charge(5), None)
    assert_type(throttle.delay(5), float)
    assert_type(throttle.locked(), bool)
    assert_type(throttle.drain(), None)
    assert_type(throttle.close(drop_waiting=False), None)
    throttle.pause(timedelta(seconds=3), empty=True)
    throttle.resume()
    assert_type(throttle.level, float)
    assert_type(throttle.active, int)
    assert_type(throttle.waiting, int)
    assert_type(throttle.capacity, float)
    throttle.capacity = 5
    throttle.concurrency = 2
    throttle.period = 0.5
    throttle.burst = None
    manager: AbstractContextManager[None] = throttle
    leased: AbstractContextManager[threads.Lease] = throttle(5)
    with manager, leased:
        pass

    @throttle(5)
    def read(name: str, *, size: int = 3) -> bytes:
        return name.encode() * size

    assert_type(read("x", size=2), bytes)
    read(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    throttle.acquire("5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    throttle.acquire(5, 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    throttle.level = 5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def sets_in_threads(throttle: threads.Throttle) -> None:
    api = LimitSet(tokens=throttle)
    pool = LimitPool([api])
    with api.lease(tokens=5) as lease:
        assert_type(lease, LimitSetAcquisition)
    api.consume(tokens=5)  # has waited: nothing is to be awaited
    api.drain()
    pool.consume(tokens=5)
    pool.drain()


async def sets_for_threads_in_a_loop(api: LimitSet[threads.Throttle]) -> None:
    assert_type(await api.consume(tokens=5, timeout=2), None)
    assert_type(await api.drain(), None)


async def in_several_event_loops(throttle: threads.Throttle) -> None:
    async with throttle as nothing:
        assert_type(nothing, None)
    async with throttle(5) as lease:
        assert_type(lease, threads.Lease)
    assert_type(await throttle.acquire_async(5, timeout=2, priority=1), bool)
    assert_type(await throttle.lease_async(5, timeout=2, priority=1), threads.Lease)
    assert_type(await throttle.consume_async(5, priority=1), None)
    assert_type(await throttle.drain_async(), None)
    manager: AbstractAsyncContextManager[None] = throttle
    leased: AbstractAsyncContextManager[threads.Lease] = throttle(5)
    async with manager, leased:
        pass

    @throttle(5)
    async def fetch(url: str) -> bytes:
        return url.encode()

    assert_type(await fetch("x"), bytes)
    await fetch(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await throttle.acquire()  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]


async def limits_that_adapt(api: LimitSet) -> None:
    throttle = Throttle(math.inf, 5, adapt=AIMD(minimum=2, maximum=50, timeout=2.5))
    Throttle(100, adapt=BackOff(recovery=60))
    threads.Throttle(math.inf, adapt=Gradient(judge=lambda error: Outcome.OK))
    assert_type(throttle.adapt, Adaptive | None)
    async with throttle(2) as lease, api(tokens=5) as acquisition:
        assert_type(lease.ok(), None)
        assert_type(lease.ignore(), None)
        assert_type(lease.ended(), None)
        assert_type(lease.dropped(), None)
        assert_type(acquisition.ok(), None)
        assert_type(acquisition.ignore(), None)
        assert_type(acquisition.ended(), None)
        assert_type(acquisition.dropped(), None)
    Throttle(5, adapt=AIMD)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    throttle.adapt = AIMD()  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]

    limiter = AdaptiveRateLimiter(10, maximum=100)
    assert_type(await limiter.acquire("database"), None)
    assert_type(limiter.adjust_rate("database", 0.5), None)
    assert_type(limiter.rates, Mapping[str, float])
    assert_type(limiter.throttle("database"), Throttle)


async def what_can_be_awaited_besides() -> None:
    bucket = buckets.TokenBucket(10, 5)
    assert_type(await bucket.consume(2), None)
    assert_type(bucket.capacity, float)
    with buckets.LeakyBucket(5, 2, 0.5, 2.0, True, adjmap=()) as leaky:
        assert_type(leaky, buckets.LeakyBucket)
        assert_type(await leaky.acquire(2), bool)
        assert_type(await leaky.wait_for_tokens(), float)
        leaky.factor = 2
        del leaky.factor
    async with leaky as the_same:
        assert_type(the_same, buckets.LeakyBucket)


async def by_the_clock(throttle: Throttle, slots: threads.Throttle) -> None:
    schedule = Schedule(lambda now: 300 if now.hour < 6 else 100, every=timedelta(minutes=5))
    async with schedule.applied_to(throttle, slots, RateLimit("x", 60, capacity=5)):
        pass
    schedule.apply(throttle)


def refusals_of_a_set(api: LimitSet) -> None:
    try:
        api.try_acquire(tokens=5)
    except ResourceLimitError as error:
        assert_type(error.limit, Hashable)
        assert_type(error.retry_after, float | None)


async def learning(
    throttle: Throttle,
    for_threads: threads.Throttle,
    api: LimitSet,
    pool: LimitPool,
    headers: Mapping[str, str],
    raw: list[tuple[bytes, bytes]],
) -> None:
    report = read(200, headers)
    assert_type(report, Report)
    assert_type(report.limits, Mapping[str, Reading])
    assert_type(report.retry_after, float | None)
    read(200, raw, 1795975094.5, refused=True)
    learner = Learner(shared=True, adopt=True, max_pause=60, refused="refund")
    Learner(judge=lambda status, headers: status == 200)
    async with throttle(1) as lease, api(tokens=5) as held, pool() as granted:
        learner.sent(throttle, lease)
        learner.failed(api, held, TimeoutError())
        assert_type(learner.answered(pool, granted, 200, raw, cached=True), Report)
        learn(throttle, 200, headers, lease=lease, learner=learner)
    learn(for_threads, 200, headers)
    Learner(refused="no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Learner(True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    read("200", headers)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
