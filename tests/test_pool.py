"""Pools: a call takes one of several sets, the one that admits it first.

Time is virtual. Most run with sets for one event loop and with sets for threads, entered with
``async with``.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from support import at, calls_of, now, others_run, queued

from async_throttle import (
    LimitPool,
    LimitSet,
    LimitSetAcquisition,
    LoadBalancingAlgorithm,
    Throttle,
    ThrottleClosed,
    ThrottleFull,
    ThrottleTimeout,
    WeightTooLarge,
    limits,
    threads,
)
from async_throttle._engine.queue import Queue
from async_throttle.limits import Delay, RateLimitAlgorithm

pytestmark = pytest.mark.virtual_time

Algorithm = LoadBalancingAlgorithm
ALGORITHMS = list(LoadBalancingAlgorithm)


class Went(list[tuple[object, Any, object]]):
    """Who went, when, and where: the region of the set."""

    async def call(
        self,
        source: LimitSet | LimitPool,
        name: object = None,
        *,
        hold: float = 0.0,
        **how: Any,
    ) -> LimitSetAcquisition:
        async with source(**how) as lease:
            self.append((name, now(), lease.config.get("region")))
            await asyncio.sleep(hold)
        return lease

    @property
    def names(self) -> list[object]:
        return [name for name, _, _ in self]

    @property
    def regions(self) -> list[object]:
        return [region for _, _, region in self]


@pytest.fixture
def went() -> Went:
    return Went()


@pytest.fixture(params=[Throttle, threads.Throttle], ids=["Throttle", "threads.Throttle"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=ALGORITHMS, ids=[algorithm.value for algorithm in ALGORITHMS])
def algorithm(request: pytest.FixtureRequest) -> Algorithm:
    algorithm: Algorithm = request.param
    return algorithm


def region(name: str, concurrency: int = 0, **limits: Any) -> LimitSet:
    return LimitSet(config={"region": name}, concurrency=concurrency, **limits)


def regions(kind: Any, *names: str, capacity: float = 100) -> list[LimitSet]:
    """Sets that are hardly ever used up."""
    return [region(name, tokens=kind(capacity, period=1e6)) for name in names]


def state(*sets: LimitSet) -> list[tuple[float, int, int]]:
    return [
        (throttle.level, throttle.active, throttle.waiting)
        for limits in sets
        for throttle in (getattr(limits[key], "throttle", limits[key]) for key in limits)
    ]


async def waits(pool: LimitPool, went: Went, name: object = None, **how: Any) -> Any:
    task = await queued(went.call(pool, name, **how))
    assert not task.done()
    return task


# --------------------------------------------------------------------------------- making a pool


def test_a_pool_is_its_sets_in_order() -> None:
    us, eu = regions(Throttle, "us", "eu")
    pool = LimitPool(limit_sets=[us, eu])
    assert (pool[0], pool[1], pool[-1], len(pool), list(pool)) == (us, eu, eu, 2, [us, eu])
    assert list(pool.limit_sets) == [us, eu]
    assert (pool.load_balancing, pool.worker_index) == (Algorithm.Soonest, 0)
    assert repr(pool) == "<async_throttle.LimitPool of 2 sets>"
    with pytest.raises(IndexError):
        pool[2]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, Algorithm.Soonest),
        (Algorithm.RoundRobin, Algorithm.RoundRobin),
        ("RoundRobin", Algorithm.RoundRobin),
        ("Random", Algorithm.Random),
        ("Soonest", Algorithm.Soonest),
        ("LeastActiveLoad", Algorithm.LeastActiveLoad),
    ],
)
def test_the_algorithm_is_given_as_a_member_or_by_name(given: Any, meant: Algorithm) -> None:
    assert LimitPool([LimitSet()], given).load_balancing is meant


NO_INDICES: list[Any] = [-1, 1.5, math.nan, "1"]
NO_ALGORITHMS: list[Any] = ["round-robin", "", 1, RateLimitAlgorithm.GCRA]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LimitPool([]), ValueError, "at least one set, got none"),
        (lambda: of_sets(Throttle(5)), TypeError, "limit_sets must hold sets of limits, got "),
        (lambda: of_sets(None), TypeError, "limit_sets must hold sets of limits, got "),
        (lambda: of_sets(LimitPool([LimitSet()])), TypeError, "must hold sets of limits, got "),
        (
            lambda: of_sets(LimitSet(Throttle(5)), LimitSet(threads.Throttle(5))),
            TypeError,
            r"async_throttle and of async_throttle\.threads",
        ),
        (
            lambda: of_sets(LimitSet(Throttle(5)), LimitSet(Throttle(5, timer=lambda: 5.0))),
            ValueError,
            "timer must be the same",
        ),
        *(
            (lambda n=n: LimitPool([LimitSet()], None, n), (ValueError, TypeError), "worker_index")
            for n in NO_INDICES
        ),
        *(
            (lambda a=a: LimitPool([LimitSet()], a), ValueError, "must be one of .*RoundRobin")
            for a in NO_ALGORITHMS
        ),
    ],
)
def test_what_makes_no_pool_is_refused(make: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def of_sets(*sets: Any) -> LimitPool:
    return LimitPool([LimitSet(), *sets])


# ---------------------------------------------------------------------- which of those that could


@pytest.mark.parametrize("worker_index", [0, 1, 2, 3, 7])
async def test_round_robin_takes_one_after_the_other_from_the_index_on(
    kind: Any, worker_index: int, went: Went
) -> None:
    names = ["us", "eu", "asia"]
    pool = LimitPool(regions(kind, *names), Algorithm.RoundRobin, worker_index)
    for _ in range(7):
        await went.call(pool)
    assert went.regions == [names[(worker_index + n) % 3] for n in range(7)]


async def test_round_robin_is_even_among_those_that_are_left(kind: Any, went: Went) -> None:
    sets = regions(kind, "us", "eu", "asia")
    pool = LimitPool(sets, Algorithm.RoundRobin)
    sets[1].pause(math.inf)
    for _ in range(6):
        await went.call(pool)
    sets[1].resume()
    for _ in range(3):
        await went.call(pool)
    assert went.regions == ["us", "asia"] * 3 + ["us", "eu", "asia"]


async def test_looking_and_refusals_do_not_move_the_turn(kind: Any, went: Went) -> None:
    pool = LimitPool(regions(kind, "us", "eu", capacity=3), Algorithm.RoundRobin)
    for _ in range(3):
        assert pool.delay() == 0.0
        repr(pool)
        pool(tokens=2)  # made, and never entered
        for _ in range(3):
            with pytest.raises(WeightTooLarge):
                pool.try_acquire(tokens=4)
        await went.call(pool)
    assert went.regions == ["us", "eu", "us"]
    for _ in range(3):
        assert not pool.try_acquire(tokens=3).successful
    await went.call(pool)
    assert went.regions == ["us", "eu", "us", "eu"]


async def test_the_least_active_set_goes_first_whoever_is_active_there(
    kind: Any, went: Went
) -> None:
    us, eu, asia = regions(kind, "us", "eu", "asia")
    pool = LimitPool([us, eu, asia], Algorithm.LeastActiveLoad, worker_index=1)
    alone = await us()
    held = [await pool() for _ in range(3)]
    regions_held = [lease.config["region"] for lease in held]
    assert regions_held == ["eu", "asia", "us"]  # us and the others are even before the third
    held[1].release()
    alone.release()
    await went.call(pool)
    assert went.regions == ["asia"]
    for lease in held:
        lease.release()
    for _ in range(4):
        await went.call(pool)
    assert went.regions == ["asia", "us", "eu", "asia", "us"]  # in turn, where all are idle


async def test_random_takes_each_of_them(kind: Any, went: Went) -> None:
    pool = LimitPool(regions(kind, "us", "eu", "asia"), Algorithm.Random)
    for _ in range(100):
        await went.call(pool)
    counts = Counter(went.regions)
    assert set(counts) == {"us", "eu", "asia"}
    assert min(counts.values()) >= 10  # below that once in a million runs
    # Neither the order given nor one after the other.
    assert went.regions[:12] != ["us"] * 12
    assert any(one == other for one, other in zip(went.regions, went.regions[1:], strict=False))


async def test_soonest_takes_the_first_that_could_and_keeps_the_others_for_what_it_cannot(
    kind: Any, went: Went
) -> None:
    pool = LimitPool(regions(kind, "us", "eu", capacity=5))
    for tokens in (3, 3, 1, 1, 1):
        await went.call(pool, tokens=tokens)
    assert went.regions == ["us", "eu", "us", "us", "eu"]


@pytest.mark.parametrize(
    "out_of_it",
    [
        lambda limits: limits.pause(math.inf),
        lambda limits: limits["tokens"].pause(3600),
        lambda limits: limits.try_acquire(tokens=0, concurrency=2),
        lambda limits: limits["tokens"].charge(100),
        lambda limits: limits["tokens"].charge(1000),
        lambda limits: limits["tokens"].close(),
        lambda limits: setattr(limits["tokens"], "burst", 1),
    ],
    ids=["paused", "member paused", "full", "used up", "in debt", "closed", "too small"],
)
@pytest.mark.parametrize("which", [0, 1, 2])
async def test_a_set_that_admits_nobody_does_not_hold_up_who_could_go_elsewhere(
    kind: Any,
    algorithm: Algorithm,
    out_of_it: Callable[[LimitSet], object],
    which: int,
    went: Went,
) -> None:
    sets = [
        region(name, concurrency=2, tokens=kind(100, period=1e6, burst=100))
        for name in ("us", "eu", "asia")
    ]
    pool = LimitPool(sets, algorithm)
    out_of_it(sets[which])
    before = state(sets[which])
    for _ in range(10):
        lease = await went.call(pool, tokens=2)
        assert lease.waited == 0.0
        with pool.acquire({"tokens": 2}) as acquisition:
            assert acquisition.limit_set is not sets[which]
    assert now() == 0.0
    assert sets[which].config["region"] not in went.regions
    assert [waiting for _, _, waiting in state(*sets)] == [0] * 6
    assert state(sets[which]) == before


# ---------------------------------------------------------------------- the first that comes along


async def test_who_must_wait_waits_for_all_sets_at_once_and_goes_with_the_first(
    kind: Any, algorithm: Algorithm, went: Went
) -> None:
    for late, early in (("us", "eu"), ("eu", "us")):
        came = now()
        sets = {
            late: region(late, tokens=kind(1, burst=10, initial=0)),
            early: region(early, tokens=kind(2, burst=10, initial=0)),
        }
        pool = LimitPool([sets["us"], sets["eu"]], algorithm)
        task = await waits(pool, went, tokens=6)
        assert [limits.waiting for limits in pool] == [1, 1]
        lease = await task
        assert went.pop() == (None, came + 3.0, early)
        assert lease.limit_set is sets[early]
        assert lease.waited == 3.0
        assert lease.waited_for == {"tokens": 3.0}
        # And nothing is left of it in the other one.
        assert [limits.waiting for limits in pool] == [0, 0]
        assert (sets[late]["tokens"].level, sets[early]["tokens"].level) == (3, 0)


@pytest.mark.parametrize(
    ("lack", "comes", "seconds"),
    [
        (lambda us: us.pause(math.inf), lambda us, _: us.resume(), 2.0),
        (lambda us: us["tokens"].pause(3600), lambda us, _: us["tokens"].resume(), 2.0),
        (
            lambda us: us["tokens"].charge(10),  # then ten a second, until that has brought eight
            lambda us, _: setattr(us["tokens"], "capacity", 10_000_000),
            2.8,
        ),
        (
            lambda us: us["concurrency"].try_acquire(),
            lambda us, _: setattr(us["concurrency"], "concurrency", 2),
            2.0,
        ),
        (
            lambda us: us["concurrency"].try_acquire(),
            lambda us, _: us["concurrency"].release(),
            2.0,
        ),
        (
            lambda us: us.try_acquire(tokens=10, concurrency=0),
            lambda us, lease: lease.settle(tokens=0),
            2.0,
        ),
    ],
    ids=["resumed", "member resumed", "rate grows", "more slots", "slot comes back", "refund"],
)
async def test_what_nobody_foresaw_is_taken_if_it_comes_first(
    kind: Any, algorithm: Algorithm, lack: Any, comes: Any, seconds: float, went: Went
) -> None:
    us = region("us", concurrency=1, tokens=kind(10, burst=10, period=1e6))
    eu = region("eu", tokens=kind(1, burst=10, initial=0), concurrency=1)
    pool = LimitPool([us, eu], algorithm)
    held = lack(us)
    task = await waits(pool, went, tokens=8)  # known: at 8.0, of eu
    at(2.0, lambda: comes(us, held))
    lease = await task
    assert went == [(None, pytest.approx(seconds), "us")]
    assert lease.waited == now()
    assert (us.waiting, eu.waiting) == (0, 0)


# --------------------------------------------------------------------------------------- refusals


async def test_what_is_too_heavy_for_some_sets_goes_to_those_that_it_fits(
    kind: Any, algorithm: Algorithm, went: Went
) -> None:
    small = region("small", tokens=kind(1, burst=4))
    large = region("large", tokens=kind(1, burst=9, initial=0))
    pool = LimitPool([small, large], algorithm)
    task = await waits(pool, went, tokens=8)
    assert (small.waiting, large.waiting) == (0, 1)
    assert pool.delay(tokens=1) == 0.0
    await task
    assert went == [(None, 8.0, "large")]


@pytest.mark.parametrize(
    "turn_out",
    [lambda tokens: tokens.close(), lambda tokens: setattr(tokens, "burst", 1)],
    ids=["closed", "too small"],
)
@pytest.mark.parametrize("which", [0, 1])
async def test_who_is_turned_out_of_one_set_waits_on_in_the_other(
    kind: Any, turn_out: Callable[[Any], object], which: int, went: Went
) -> None:
    sets = [region(name, tokens=kind(1, burst=9, initial=0)) for name in ("us", "eu")]
    task = await waits(LimitPool(sets), went, tokens=6)
    turn_out(sets[which]["tokens"])
    await task
    assert went == [(None, 6.0, sets[1 - which].config["region"])]


async def test_a_refusal_by_all_is_that_of_the_first_in_turn(kind: Any) -> None:
    sets = [region("", tokens=kind(1, burst=burst)) for burst in (4, 3)]
    with pytest.raises(WeightTooLarge) as refused:
        LimitPool(sets, Algorithm.RoundRobin).try_acquire(tokens=5)
    assert refused.value.largest == 4


async def test_what_is_too_heavy_for_all_or_closed_everywhere_is_refused_at_once(
    kind: Any, algorithm: Algorithm
) -> None:
    pool = LimitPool([region(name, tokens=kind(1, burst=4)) for name in ("us", "eu")], algorithm)
    with pytest.raises(WeightTooLarge):
        await pool(tokens=5)
    calls: list[Callable[[int], object]] = [
        lambda tokens: pool.acquire({"tokens": tokens}),
        lambda tokens: pool.try_acquire(tokens=tokens),
        lambda tokens: pool.delay(tokens=tokens),
    ]
    for call in calls:
        with pytest.raises(WeightTooLarge) as refused:
            call(5)
        assert (refused.value.limit, refused.value.largest) == ("tokens", 4)
    assert state(*pool) == [(4, 0, 0), (4, 0, 0)]
    for limit_set in pool:
        limit_set["tokens"].close()
    for call in calls:
        with pytest.raises(ThrottleClosed, match="tokens is closed"):
            call(1)


async def test_a_timeout_is_refused_at_once_if_no_set_can_keep_it(
    kind: Any, algorithm: Algorithm, went: Went
) -> None:
    us = region("us", requests=kind(9), tokens=kind(1, burst=9, initial=0))
    eu = region("eu", requests=kind(1, burst=9, initial=0), tokens=kind(9))
    pool = LimitPool([us, eu], algorithm)
    with pytest.raises(ThrottleTimeout) as refused:
        await went.call(pool, tokens=8, requests=6, timeout=5.5)
    assert (refused.value.limit, refused.value.retry_after, now()) == ("requests", 6.0, 0.0)
    await went.call(pool, tokens=8, requests=6, timeout=6)
    assert went == [(None, 6.0, "eu")]
    with pytest.raises(ThrottleTimeout):
        await went.call(pool, tokens=9, requests=9, timeout=0)


async def test_a_full_queue_of_one_set_leaves_the_others_to_wait_in(
    kind: Any, algorithm: Algorithm, went: Went
) -> None:
    us = region("us", tokens=kind(1, burst=9, initial=0, max_waiting=1))
    eu = region("eu", tokens=kind(1, burst=9, initial=0, max_waiting=2))
    pool = LimitPool([us, eu], algorithm)
    tasks = [await waits(pool, went, 0, tokens=2), await waits(pool, went, 1, tokens=4)]
    assert (us.waiting, eu.waiting) == (1, 2)
    before = state(us, eu)
    with pytest.raises(ThrottleFull) as refused:
        await went.call(pool, 2)
    assert refused.value.limit == "tokens"
    assert refused.value.retry_after is not None
    assert state(us, eu) == before
    await asyncio.gather(*tasks)
    # The second waited for eu alone, and there behind the first as long as that was there.
    first, second = went
    assert first[:2] == (0, 2.0)
    assert second == (1, 4.0 if first[2] == "us" else 6.0, "eu")


async def test_the_sets_that_have_all_the_limits_named_are_candidates(
    kind: Any, went: Went
) -> None:
    us, eu = region("us", tokens=kind(9)), region("eu", tokens=kind(9), extra=kind(9))
    pool = LimitPool([us, eu], Algorithm.RoundRobin)
    for _ in range(3):
        await went.call(pool, extra=1)
    for _ in range(2):
        await went.call(pool, tokens=1)
    assert went.regions == ["eu"] * 3 + ["us", "eu"]
    assert pool.try_acquire(extra=2).limit_set is eu
    us.pause(5)
    eu.pause(3)
    assert (pool.delay(tokens=1), pool.delay(extra=1)) == (3.0, 3.0)
    eu.pause(9)
    assert (pool.delay(tokens=1), pool.delay(extra=1)) == (5.0, 9.0)
    assert pool.paused_for == 5.0
    await pool.lease(extra=1)
    assert now() == 9.0


async def test_a_name_must_be_one_of_some_set(kind: Any) -> None:
    us, eu = region("us", tokens=kind(9), own=kind(9)), region("eu", tokens=kind(9), extra=kind(9))
    pool = LimitPool([us, eu])
    for call in (
        lambda: pool(x=1),
        lambda: pool.acquire({"x": 1}),
        lambda: pool.delay(x=1),
        lambda: pool.lease(x=1),
        lambda: pool.consume(x=1),
    ):
        with pytest.raises(ValueError, match=r"of any set of the pool is called 'x'; .*'own'"):
            call()
    with pytest.raises(ValueError, match="no set of the pool has all of 'own', 'extra'"):
        pool(own=1, extra=1)
    assert [level for level, _, _ in state(*pool)] == [9, 9, 9, 9]


# -------------------------------------------------------------------------------- what a call is


async def test_a_call_knows_the_set_that_it_was_granted_by(kind: Any) -> None:
    us = region("us", tokens=kind(5, period=1e6), requests=kind(9))
    eu = region("eu", tokens=kind(90, period=1e6), requests=kind(9))
    pool = LimitPool([us, eu])
    call = pool(tokens=50)
    assert (call.successful, call.config, call.weights) == (False, {}, {})
    async with call as lease:
        assert lease is call
        assert lease.config["region"] == "eu"
        assert lease.limit_set is eu
        assert lease.weights == {"tokens": 50, "requests": 1}
        assert lease.waited_for == {"tokens": 0.0, "requests": 0.0}
        assert eu["tokens"].level == 40
        lease.settle(tokens=20)
        assert (us["tokens"].level, eu["tokens"].level) == (5, 70)
    assert lease.successful
    lease.settle({"tokens": 10})
    assert round(eu["tokens"].level) == 80
    with pytest.raises(ValueError, match="no limit of the set is called 'token'"):
        lease.settle(token=5)


async def test_the_words_of_a_pool_are_those_of_a_set(kind: Any) -> None:
    us, eu = (region(name, concurrency=1, tokens=kind(9)) for name in ("us", "eu"))
    pool = LimitPool([us, eu])
    first = pool.acquire({"tokens": 2})
    second = pool.try_acquire({"tokens": 2})
    assert (first.config["region"], second.config["region"]) == ("us", "eu")
    refused, deferred = pool.try_acquire(), pool.acquire(timeout=5)
    assert (refused.successful, deferred.successful) == (False, False)
    with refused:
        assert (us["concurrency"].active, eu["concurrency"].active) == (1, 1)
    with pytest.raises(RuntimeError, match=r"hold up the event loop.*use async with"), deferred:
        pytest.fail("entered")
    assert [limits.waiting for limits in pool] == [0, 0]
    at(1.0, second.release)
    async with deferred:
        assert (now(), deferred.waited, deferred.config["region"]) == (1.0, 1.0, "eu")
    second.release()
    first.release()
    first.release()
    third = await pool.acquire()
    third.release()
    assert [limits["concurrency"].active for limits in pool] == [0, 0]


def test_outside_of_a_loop_a_pool_for_threads_waits_and_others_do_not() -> None:
    for make in (Throttle, threads.Throttle):
        sets = [region(name, concurrency=1, tokens=make(9, period=1e6)) for name in ("us", "eu")]
        pool = LimitPool(sets)
        with pool.acquire({"tokens": 2}) as first, pool(tokens=2) as second:
            assert [lease.config["region"] for lease in (first, second)] == ["us", "eu"]
            assert not pool.try_acquire().successful
            if make is Throttle:
                with pytest.raises(RuntimeError, match="not for threads"):
                    pool.acquire()
            else:
                with pytest.raises(ThrottleTimeout):
                    pool.acquire(timeout=0)
        assert [limits["concurrency"].active for limits in sets] == [0, 0]


# -------------------------------------------------------------------------------------- foresight


async def test_the_delay_is_the_least_of_the_sets_and_names_the_limit_of_that_one(
    kind: Any, algorithm: Algorithm, went: Went
) -> None:
    us = region("us", tokens=kind(1, burst=9, initial=0), requests=kind(9))
    eu = region("eu", tokens=kind(9), requests=kind(2, burst=9, initial=0))
    pool = LimitPool([us, eu], algorithm)
    before = state(us, eu)
    delay = pool.delay(tokens=6, requests=8)
    assert isinstance(delay, Delay)
    assert (delay, delay.limit) == (4.0, "requests")
    assert (us.delay(tokens=6, requests=8), eu.delay(tokens=6, requests=8)) == (6.0, 4.0)
    assert state(us, eu) == before
    await went.call(pool, tokens=6, requests=8)
    assert went == [(None, delay, "eu")]


# ------------------------------------------------------------------------------------------ stats


async def test_stats_tell_what_was_given_by_whom(kind: Any, went: Went) -> None:
    us, eu = regions(kind, "us", "eu")
    pool = limits.LimitPool([us, eu], Algorithm.RoundRobin, worker_index=1)
    for _ in range(5):
        await went.call(pool)
    await went.call(us)  # not through the pool
    assert not pool.try_acquire(tokens=99).successful
    us.pause(10)
    eu.pause(10)
    (await waits(pool, went)).cancel()
    await others_run()
    assert pool.get_stats() == {
        "num_limit_sets": 2,
        "load_balancing": "RoundRobin",
        "worker_index": 1,
        "balancer_stats": {
            "algorithm": "RoundRobin",
            "offset": 1,
            "total_dispatched": 5,
            "dispatched": [2, 3],
        },
        "limit_sets": [
            limits.LimitSet(tokens=limit_set["tokens"]).get_stats() for limit_set in (us, eu)
        ],
    }


# ----------------------------------------------------------------------------- what pools share


async def test_pools_may_share_sets_and_these_may_be_used_alone(kind: Any, went: Went) -> None:
    us = region("us", tokens=kind(1, initial=0))
    eu = region("eu", tokens=kind(1, initial=0))
    asia = region("asia", tokens=kind(1, initial=0))
    west, east = LimitPool([us, eu]), LimitPool([asia, eu])
    tasks = [
        await queued(went.call(eu, "alone")),
        await queued(went.call(west, "west")),
        await queued(went.call(east, "east")),
        await queued(went.call(east, "east, too")),
    ]
    assert [limits.waiting for limits in (us, eu, asia)] == [1, 4, 2]
    await asyncio.gather(*tasks)
    assert went == [
        ("alone", 1.0, "eu"),
        ("west", 1.0, "us"),
        ("east", 1.0, "asia"),
        ("east, too", 2.0, "asia"),
    ]
    assert [limits["tokens"].level for limits in (us, eu, asia)] == [1, 1, 0]


@pytest.mark.parametrize("what", ["slots", "rate"])
async def test_sets_of_a_pool_may_share_a_limit_and_a_caller_does_not_hold_up_itself(
    kind: Any, algorithm: Algorithm, what: str, went: Went
) -> None:
    common = kind(math.inf, 1) if what == "slots" else kind(1, period=60, burst=1)
    us = region("us", own=kind(1, period=30), common=common)
    eu = region("eu", own=kind(1, period=5), common=common)
    us["own"].charge(1)
    eu["own"].charge(1)
    pool = LimitPool([us, eu], algorithm)
    assert pool.delay() == 5.0
    await went.call(pool)
    assert went == [(None, 5.0, "eu")]


async def test_who_waits_in_several_sets_counts_once_for_a_limit_that_they_share(
    kind: Any, went: Went
) -> None:
    common = kind(1, max_waiting=1, initial=0, burst=1)
    pool = LimitPool([region(name, common=common, own=kind(9)) for name in ("us", "eu")])
    task = await waits(pool, went, 1)
    assert common.waiting == 1
    with pytest.raises(ThrottleFull):
        await went.call(pool, 2)
    await task
    assert went.names == [1]


async def test_the_same_set_twice_is_still_one_set(kind: Any, went: Went) -> None:
    us = region("us", tokens=kind(1, burst=1, initial=0))
    pool = LimitPool([us, us])
    tasks = [await waits(pool, went, n) for n in range(3)]
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert went == [(0, 1.0, "us"), (2, 2.0, "us")]
    assert state(us) == [(0, 0, 0)]


async def test_a_set_of_nothing_in_a_pool_grants_at_once(kind: Any, went: Went) -> None:
    pool = LimitPool([region("us", tokens=kind(1)), region("nowhere")])
    for _ in range(3):
        await went.call(pool, **({} if went else {"timeout": 0}))
    assert went == [(None, 0.0, "us"), (None, 0.0, "nowhere"), (None, 0.0, "nowhere")]


def ask(pool: LimitPool, held: list[LimitSetAcquisition]) -> None:
    assert not pool.try_acquire().successful


def come(pool: LimitPool, held: list[LimitSetAcquisition]) -> None:
    coming = Went().call(pool)
    coming.send(None)  # as its task does, but in this call
    coming.close()


def free(pool: LimitPool, held: list[LimitSetAcquisition]) -> None:
    held[0].release()


def refund(pool: LimitPool, held: list[LimitSetAcquisition]) -> None:
    held[0].settle(tokens=0)


async def calls_of_an_event(
    event: Callable[[LimitPool, list[LimitSetAcquisition]], None], accounts: int, *common: Throttle
) -> int:
    """How many functions *event* calls where ten callers wait for a pool of so many *accounts*."""
    tokens, slots = (1, 0) if event is refund else (10, 1)
    pool = LimitPool(
        [
            LimitSet(Throttle(tokens, period=1000, name="tokens"), *common, concurrency=slots)
            for _ in range(accounts)
        ]
    )
    held = [one.try_acquire() for one in pool]
    tasks = [asyncio.ensure_future(Went().call(pool, hold=1)) for _ in range(10)]
    await others_run()
    calls = calls_of(lambda: event(pool, held))
    for task in tasks:
        task.cancel()
    await others_run()
    return calls


@pytest.mark.parametrize("common", [False, True])
@pytest.mark.parametrize(("event", "most"), [(ask, 5), (come, 27), (free, 9), (refund, 28)])
async def test_what_each_set_of_a_pool_costs_a_caller(
    event: Callable[..., None], most: int, *, common: bool
) -> None:
    """However many callers wait: each set is looked at once, as far as the event concerns it."""
    shared = [Throttle(1000)] if common else []
    few, many = [await calls_of_an_event(event, accounts, *shared) for accounts in (4, 44)]
    assert many - few <= 40 * most


async def test_a_caller_who_queues_up_has_the_queue_decided_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decisions = []

    def advance(queue: Queue, now: int, **how: bool) -> None:
        decisions.append(now)
        usual(queue, now, **how)

    usual = Queue.advance
    everybody = Throttle(10, burst=1, initial=0)
    tasks = [asyncio.ensure_future(Went().call(LimitSet(everybody, Throttle(1, period=60))))]
    await others_run()
    newcomer = LimitSet(everybody, Throttle(1, period=60))
    monkeypatch.setattr(Queue, "advance", advance)
    tasks.append(await queued(Went().call(newcomer)))
    assert len(decisions) == 1
    await asyncio.gather(*tasks)
