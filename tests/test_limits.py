"""Sets of limits: all of them or nothing, in order, and each limit keeps what it promises.

Time is virtual, so instants are compared by ``==``. Who may go before whom between sets is
checked against an oracle elsewhere; here stand the examples.
"""

from __future__ import annotations

import asyncio
import gc
import math
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import pytest
from freezegun import freeze_time
from support import at, now, others_run, queued, refusal_of, scaled

from async_throttle import (
    FixedWindow,
    LimitPool,
    LimitSet,
    LimitSetAcquisition,
    RateLimiter,
    Rule,
    SlidingWindow,
    Throttle,
    ThrottleClosed,
    ThrottleFull,
    ThrottleTimeout,
    TokenBucket,
    WeightTooLarge,
    limits,
    threads,
)
from async_throttle._base import core_of
from async_throttle._shell.scheduler import find
from async_throttle.limits import (
    CallLimit,
    Delay,
    ExecutionMode,
    RateLimit,
    RateLimitAlgorithm,
    ResourceLimit,
)

pytestmark = pytest.mark.virtual_time

RESERVED = [
    "limits",
    "shared",
    "mode",
    "config",
    "concurrency",
    "requested",
    "timeout",
    "priority",
    "store",
]

each_kind = pytest.mark.parametrize("kind", [Throttle, threads.Throttle])


async def nothing() -> None:
    pass


class Went(list[tuple[object, Any]]):
    """Who went, and when."""

    async def call(
        self,
        limits: LimitSet,
        name: object = None,
        *,
        body: Callable[[], Awaitable[object]] = nothing,
        **how: Any,
    ) -> LimitSetAcquisition:
        async with limits(**how) as lease:
            self.append((name, now()))
            await body()
        return lease

    async def alone(
        self,
        throttle: Throttle,
        name: object = None,
        weight: float = 1,
        *,
        body: Callable[[], Awaitable[object]] = nothing,
        **how: Any,
    ) -> None:
        async with throttle(weight, **how):
            self.append((name, now()))
            await body()

    @property
    def names(self) -> list[object]:
        return [name for name, _ in self]


@pytest.fixture
def went() -> Went:
    return Went()


async def holds(limits: LimitSet, **how: Any) -> LimitSetAcquisition:
    """Granted, until it is released."""
    return await limits(**how)


def state(limits: LimitSet) -> dict[object, tuple[float, int, int]]:
    """What can be seen of each limit: tokens, holders, callers who wait."""
    return {
        key: (throttle.level, throttle.active, throttle.waiting)
        for key, throttle in throttles(limits).items()
    }


def throttles(limits: LimitSet) -> dict[object, Any]:
    return {key: getattr(limits[key], "throttle", limits[key]) for key in limits}


def rate_of(
    algorithm: type[Rule], capacity: float = 10, period: float = 10, kind: Any = Throttle
) -> Any:
    """*capacity* tokens that may go at once, by any algorithm."""
    burst = capacity if issubclass(algorithm, TokenBucket) else None
    return kind(capacity, period=period, burst=burst, algorithm=algorithm)


# --------------------------------------------------------------------------------- making a set


async def test_a_call_takes_of_all_limits_at_once_and_gives_the_slot_back() -> None:
    api = LimitSet(
        requests=Throttle(500, period=60), tokens=Throttle(200_000, period=60), concurrency=20
    )
    async with api(tokens=1_200) as lease:
        assert (api["requests"].level, api["tokens"].level) == (499, 198_800)
        assert api["concurrency"].active == 1
        lease.settle(tokens=900)
        assert api["tokens"].level == 199_100
    assert api["concurrency"].active == 0
    assert (api["requests"].level, api["tokens"].level) == (499, 199_100)


def test_a_limit_is_called_by_its_keyword_or_its_name_or_its_place() -> None:
    named, first, third = Throttle(1, name="named"), Throttle(1), Throttle(1)
    more = Throttle(1, name="its own name")
    api = LimitSet(first, named, third, more=more)
    assert list(api) == api.keys() == [0, "named", 2, "more"]
    assert limits.LimitSet(first, named, third, more=more).limits == [first, named, third, more]
    assert (len(api), "named" in api, 1 in api, "its own name" in api) == (4, True, False, False)
    assert api[0] is first
    assert api["more"] is more


def test_what_is_found_under_a_key_is_the_limit_as_it_was_given() -> None:
    tokens, files = RateLimit("tokens", 60, None, 100), ResourceLimit("files", 5)
    api = LimitSet(tokens, CallLimit(60, None, 50), tuple_is_no_limit=files)
    assert api.keys() == ["tokens", "call_count", "tuple_is_no_limit"]
    assert api["tokens"] is tokens
    assert api["tuple_is_no_limit"] is files


def test_a_key_that_is_not_there_is_told_with_those_that_are() -> None:
    api = LimitSet(requests=Throttle(1), tokens=Throttle(1))
    with pytest.raises(KeyError, match=r"'token'.*there are 'requests', 'tokens'"):
        api["token"]
    with pytest.raises(KeyError, match="there are none"):
        LimitSet()["token"]


@pytest.mark.parametrize("name", RESERVED)
def test_a_reserved_name_is_refused_as_a_keyword_and_as_a_key(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is a reserved name"):
        LimitSet(**{name: Throttle(5)})  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=f"'{name}' is a reserved name"):
        LimitSet(**{name: ResourceLimit("files", 5)})  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=f"{name}.*got '{name}'"):
        RateLimit(name, 60, None, 5)
    with pytest.raises(ValueError, match=f"{name}.*got '{name}'"):
        ResourceLimit(name, 5)


def test_what_is_in_a_set_twice_is_refused_and_named() -> None:
    throttle, limit = Throttle(5), RateLimit("tokens", 60, None, 5)
    with pytest.raises(ValueError, match="'one' and 'two' are the same throttle"):
        LimitSet(one=throttle, two=throttle)
    with pytest.raises(ValueError, match="0 and 1 are the same throttle"):
        LimitSet(throttle, throttle)
    with pytest.raises(ValueError, match="'tokens' and 'beneath' are the same throttle"):
        LimitSet(limit, beneath=limit.throttle)
    with pytest.raises(ValueError, match="two limits are called 'chat'"):
        LimitSet(Throttle(5, name="chat"), Throttle(5, name="chat"))
    with pytest.raises(ValueError, match="two limits are called 'tokens'"):
        LimitSet(limit, tokens=threads.Throttle(5))


@pytest.mark.parametrize(
    "wrong", [5, None, "tokens", TokenBucket, Throttle, RateLimiter(5), object(), LimitSet()]
)
def test_what_is_neither_a_throttle_nor_a_limit_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(TypeError, match="tokens must be a Throttle or a Limit, got "):
        LimitSet(tokens=wrong)
    with pytest.raises(TypeError, match="1 must be a Throttle or a Limit, got "):
        LimitSet(Throttle(5), wrong)
    with pytest.raises(TypeError, match="0 must be a Throttle or a Limit, got "):
        limits.LimitSet([wrong])


@pytest.mark.parametrize("wrong", [-1, 1.5, math.inf, math.nan, "2"])
def test_slots_of_the_set_are_a_whole_number(wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=f"concurrency.*{wrong}"):
        LimitSet(Throttle(5), concurrency=wrong)


async def test_throttles_for_one_loop_and_for_threads_do_not_go_together() -> None:
    one, many = Throttle(5), threads.Throttle(5)
    for members in ((one, many), (many, one), (one, RateLimit("tokens", 1, None, 5))):
        with pytest.raises(TypeError, match=r"async_throttle and of async_throttle\.threads"):
            LimitSet(*members)
    async with one, many:  # and both are as good as before
        assert (one.level, many.level) == (4, 4)


async def test_all_limits_of_a_set_tell_the_time_by_the_same_clock() -> None:
    def clock() -> float:
        return 5.0

    usual, own = Throttle(5), Throttle(5, timer=clock)
    with pytest.raises(ValueError, match="timer must be the same for all limits of a set, got "):
        LimitSet(usual, own)
    with pytest.raises(ValueError, match="timer must be the same"):
        LimitSet(own, Throttle(5, timer=lambda: 5.0))
    async with LimitSet(own, Throttle(5, timer=clock)), usual:
        assert (own.level, usual.level) == (4, 4)


def test_a_throttle_that_is_at_work_neither_goes_into_a_set_nor_grants_while_it_goes() -> None:
    calls: list[Callable[[], object]] = []
    granted: list[bool] = []

    def timer() -> float:
        if calls:
            calls.pop()()
        return 0.0

    one, other = Throttle(10, timer=timer), Throttle(10, timer=timer)
    for throttle in (one, other):
        calls.append(lambda: LimitSet(one, other))
        with pytest.raises(RuntimeError, match="at work"):
            throttle.pause(0)
    calls.append(lambda: granted.extend([one.try_acquire(), other.try_acquire()]))
    LimitSet(one, other)
    assert granted
    assert not any(granted)
    assert (one.level, other.level) == (10, 10)


@pytest.mark.parametrize("mode", ["sync", "thread", "asyncio", *[*ExecutionMode][:3]])
async def test_every_mode_serves_coroutines_and_none_changes_what_is_taken(mode: Any) -> None:
    api = limits.LimitSet(shared=True, mode=mode, requests=Throttle(5), concurrency=2)
    assert api.mode is ExecutionMode(mode)
    assert api.shared
    async with api:
        assert state(api) == {"requests": (4, 1, 0), "concurrency": (math.inf, 1, 0)}


@pytest.mark.parametrize("mode", ["Process", "", None, 5])
def test_a_mode_that_is_not_there_is_refused_with_those_that_are(mode: Any) -> None:
    with pytest.raises(
        ValueError, match="one of 'sync', 'thread', 'asyncio', 'process', 'ray', got "
    ):
        limits.LimitSet([], shared=True, mode=mode)


def test_a_set_that_is_not_shared_has_the_mode_sync() -> None:
    assert (limits.LimitSet().mode, limits.LimitSet().shared) == ("sync", False)
    with pytest.raises(ValueError, match="mode must be 'sync' where shared is False, got 'thread'"):
        limits.LimitSet([], mode="thread")


async def test_the_config_is_told_to_calls_and_cannot_be_changed() -> None:
    given = {"region": "eu"}
    api = LimitSet(Throttle(5), config=given)
    given["region"] = "us"
    call = api()
    assert call.config == {}
    async with call:
        assert call.config["region"] == "eu"
        with pytest.raises(TypeError):
            call.config["region"] = "us"  # type: ignore[index]
    assert isinstance(api.config, MappingProxyType)
    assert LimitSet().config == {}


async def test_a_set_of_nothing_grants_at_once() -> None:
    api = LimitSet()
    async with api as lease, api(timeout=0):
        assert (lease.weights, lease.waited, lease.waited_for) == ({}, 0.0, {})
    with api, api.acquire({}), api.try_acquire() as lease:
        assert lease.successful
        lease.settle()
    assert (api.keys(), limits.LimitSet().get_stats(), api.delay(), api.locked()) == (
        [],
        {},
        0.0,
        False,
    )
    with pytest.raises(ValueError, match="no limit of the set is called 'tokens'; there are none"):
        api(tokens=5)


async def test_repr_tells_the_limits_and_what_has_become_of_a_call() -> None:
    api = LimitSet(requests=Throttle(1), tokens=Throttle(10))
    assert repr(api) == "<async_throttle.LimitSet of requests, tokens>"
    assert repr(LimitSet()) == "<async_throttle.LimitSet of nothing>"
    call = api(tokens=2.5)
    assert repr(call) == f"<async_throttle.LimitSetAcquisition(tokens=2.5) [fresh] of {api!r}>"
    async with call:
        assert "[held]" in repr(call)
        assert "[refused]" in repr(api.try_acquire())
        waiting = api()
        task = await queued(waiting.__aenter__())
        assert "[waiting]" in repr(waiting)
    assert "[released]" in repr(call)
    await task


# -------------------------------------------------------------------------------- what is taken


async def test_a_limit_that_is_not_named_takes_1_and_a_slot_where_there_are_slots() -> None:
    api = LimitSet(both=Throttle(10, 5), rate=Throttle(10), slots=Throttle(math.inf, 5))
    async with api(rate=2.5) as lease:
        assert state(api) == {"both": (9, 1, 0), "rate": (7.5, 1, 0), "slots": (math.inf, 1, 0)}
        assert lease.weights == {"both": 1, "rate": 2.5, "slots": 1}
    assert [throttle.active for throttle in throttles(api).values()] == [0, 0, 0]


async def test_0_skips_a_limit_with_its_tokens_and_slots() -> None:
    api = LimitSet(both=Throttle(10, 5), rate=Throttle(10), slots=Throttle(math.inf, 5))
    async with api(both=0, slots=0) as lease:
        assert state(api) == {"both": (10, 0, 0), "rate": (9, 1, 0), "slots": (math.inf, 0, 0)}
        assert lease.weights == {"both": 0, "rate": 1, "slots": 0}
    assert [throttle.active for throttle in throttles(api).values()] == [0, 0, 0]


async def test_who_skips_a_limit_is_not_held_up_by_it(went: Went) -> None:
    for hold_up in (
        lambda t: t.pause(5),
        lambda t: t.charge(50),
        lambda t: t.close(),
        lambda t: setattr(t, "burst", 0.5),
    ):
        spare, tight = Throttle(10), Throttle(10, 1)
        api = LimitSet(spare=spare, tight=tight)
        held = await holds(api)
        hold_up(tight)
        async with api(tight=0, timeout=0) as lease:
            assert lease.waited == 0.0
        assert api.delay(tight=0) == 0.0
        assert api.try_acquire(tight=0).successful
        held.release()


async def test_a_call_may_take_several_slots_and_gives_all_of_them_back() -> None:
    api = LimitSet(connections=Throttle(math.inf, 5), concurrency=3)
    async with api(connections=4, concurrency=2) as lease:
        assert lease.weights == {"connections": 4, "concurrency": 2}
        assert (api["connections"].active, api["concurrency"].active) == (4, 2)
        assert not api.locked()
        assert not api.try_acquire(connections=2).successful
        assert not api.try_acquire(concurrency=2).successful
        with api.try_acquire() as one:
            assert one.successful
            assert api.locked()
    assert (api["connections"].active, api["concurrency"].active) == (0, 0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"token": 5}, "no limit of the set is called 'token'; there are 'tokens', 'files'"),
        ({"tokens": -1}, "tokens.*-1"),
        ({"tokens": math.nan}, "tokens.*nan"),
        ({"tokens": math.inf}, "tokens.*inf"),
        ({"files": 1.5}, "files.*1.5"),
        ({"files": -1}, "files.*-1"),
        ({"concurrency": 0.5}, "concurrency.*0.5"),
    ],
)
async def test_a_weight_that_cannot_be_is_refused_before_anything_is_asked_for(
    weights: dict[str, Any], message: str
) -> None:
    api = LimitSet(tokens=Throttle(10), files=Throttle(math.inf, 5), concurrency=2)
    before = state(api)
    for call in (
        lambda: api(**weights),
        lambda: api.acquire(weights),
        lambda: api.try_acquire(weights),
        lambda: api.try_acquire(**weights),
        lambda: api.delay(**weights),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert state(api) == before


@pytest.mark.parametrize("count", [-1, 0.5, 1.5])
async def test_calls_are_counted_in_whole_numbers(count: float) -> None:
    api = LimitSet(CallLimit(60, None, 10))
    for call in (
        lambda: api(call_count=count),
        lambda: api.acquire({"call_count": count}),
        lambda: api.try_acquire({"call_count": count}),
        lambda: api.delay(call_count=count),
        lambda: api.try_consume(call_count=count),
        lambda: api.charge(call_count=count),
    ):
        with pytest.raises(ValueError, match=f"call_count must be a whole .*got {count}"):
            call()
    async with api(call_count=3), api(call_count=0), api():
        assert api["call_count"].throttle.level == 6


@pytest.mark.parametrize(
    ("asked", "made", "left"), [(5, 3, 97), (5, 0, 100), (5, 8, 92), (0, 2, 98)]
)
async def test_a_batch_settles_for_the_calls_that_were_made(
    asked: int, made: int, left: int
) -> None:
    api = LimitSet(CallLimit(1e6, RateLimitAlgorithm.TokenBucket, 100))
    async with api(call_count=asked) as lease:
        for wrong in (-1, 1.5):
            with pytest.raises(ValueError, match=f"call_count.*{wrong}"):
                lease.settle(call_count=wrong)
        lease.settle(call_count=asked)
        lease.settle(call_count=made)
    assert api["call_count"].throttle.level == left


async def test_limits_that_are_called_by_place_are_asked_for_in_a_mapping() -> None:
    api = LimitSet(Throttle(10), Throttle(10))
    async with api.acquire({1: 4}) as lease:
        assert lease.weights == {0: 1, 1: 4}
    assert api.try_acquire({0: 3}).weights == {0: 3, 1: 1}
    with pytest.raises(ValueError, match="no limit of the set is called 2; there are 0, 1"):
        api.acquire({2: 1})


# -------------------------------------------------------------------------- the same in their words


async def test_acquire_in_a_loop_takes_at_once_what_is_there() -> None:
    api = LimitSet(tokens=Throttle(10), concurrency=2)
    lease = api.acquire({"tokens": 4})
    assert lease.successful
    assert (api["tokens"].level, api["concurrency"].active) == (6, 1)
    async with lease as same:
        assert same is lease
        assert api["concurrency"].active == 1  # the same one, not another
    assert api["concurrency"].active == 0
    with api.acquire({"tokens": 4}) as lease:
        assert lease.waited == 0.0
    assert state(api) == {"tokens": (2, 0, 0), "concurrency": (math.inf, 0, 0)}


@pytest.mark.parametrize(
    "lack",
    [
        lambda api: api.pause(5),
        lambda api: api["tokens"].pause(5),
        lambda api: api["tokens"].charge(10),
        lambda api: api["window"].charge(10),
        lambda api: api["tokens"].charge(100),
        lambda api: api.try_acquire({"tokens": 0, "window": 0, "concurrency": 2}),
    ],
    ids=["set paused", "member paused", "no token", "window full", "debt", "no slot"],
)
@each_kind
async def test_acquire_takes_nothing_that_would_have_to_be_waited_for(
    kind: Any, lack: Callable[[LimitSet], object]
) -> None:
    api = LimitSet(
        tokens=kind(10, period=1e6),
        window=kind(10, period=1e6, algorithm=SlidingWindow),
        concurrency=2,
    )
    assert api.acquire({"tokens": 0, "window": 0, "concurrency": 0}).successful
    lack(api)
    before = state(api)
    for priority in (0, -1, 1):
        assert not api.acquire(priority=priority).successful
        assert not api.try_acquire(priority=priority).successful
        assert api.locked()
    assert state(api) == before


@each_kind
async def test_acquire_refuses_at_once_what_can_never_be(kind: Any) -> None:
    api = LimitSet(
        tokens=kind(10, burst=8),
        window=kind(10, algorithm=SlidingWindow),
        other=kind(5),
        concurrency=2,
    )
    for key, largest in (("tokens", 8), ("window", 10), ("concurrency", 2)):
        for call in (api.acquire, api.try_acquire, lambda weights: api.delay(**weights)):
            with pytest.raises(WeightTooLarge, match=rf"{key}.*largest.*{largest}") as refused:
                call({key: largest + 1})
            assert (refused.value.limit, refused.value.largest) == (key, largest)
            assert refused.value.retry_after is None
    api["other"].close()
    for ask in (api.acquire, api.try_acquire, api.delay):
        with pytest.raises(ThrottleClosed, match="other is closed") as closed:
            ask()
        assert closed.value.limit == "other"
    assert (api.locked(), api.delay(other=0)) == (True, 0.0)
    for take in (api.acquire, api.try_acquire):
        assert take({"other": 0, "concurrency": 0}).successful
    assert [throttle.level for throttle in throttles(api).values()] == [6, 8, 5, math.inf]


@each_kind
async def test_acquire_in_a_loop_is_awaited_or_entered_where_it_would_have_to_wait(
    kind: Any,
) -> None:
    api = LimitSet(tokens=kind(1, burst=10, initial=0))
    call = api.acquire({"tokens": 2})
    assert not call.successful
    assert api["tokens"].waiting == 0
    with pytest.raises(RuntimeError, match=r"hold up the event loop.*use async with"), call:
        pytest.fail("entered")
    async with call as lease:  # nothing has come of the attempt
        assert (now(), lease.waited, lease.successful) == (2.0, 2.0, True)
    awaited = await api.acquire({"tokens": 3})
    assert (now(), awaited.weights) == (5.0, {"tokens": 3})
    awaited.release()
    task = asyncio.create_task(holds(api, tokens=1))  # a coroutine, so a task is made of it
    await task
    assert now() == 6.0


async def test_a_timeout_of_acquire_in_a_loop_counts_from_the_entry() -> None:
    api = LimitSet(tokens=Throttle(1, initial=0))
    call = api.acquire(timeout=0.5)
    await asyncio.sleep(0.25)
    with pytest.raises(ThrottleTimeout) as refused:
        async with call:
            pytest.fail("entered")
    assert (now(), refused.value.retry_after) == (0.25, 0.75)
    await asyncio.sleep(0.25)
    async with call:  # it was not granted, so it may be entered again
        assert now() == 1.0


async def test_a_failed_try_holds_nothing() -> None:
    api = LimitSet(requests=Throttle(10), connections=Throttle(math.inf, 1))
    held = await holds(api)
    before = state(api)
    refused = api.try_acquire()
    with refused as same:
        assert same is refused
    async with refused as same:
        assert same is refused
    refused.release()
    refused.release()
    assert not refused.successful
    assert (refused.weights, refused.config, refused.waited_for) == ({}, {}, {})
    with pytest.raises(RuntimeError, match="nothing was granted"):
        refused.limit_set  # noqa: B018
    with pytest.raises(RuntimeError, match="nothing was granted"):
        refused.settle({"requests": 5})
    assert state(api) == before
    held.release()
    with api.try_acquire() as granted:
        assert granted.successful
        assert api["connections"].active == 1


async def test_a_call_and_a_set_are_entered_as_often_as_you_like(went: Went) -> None:
    api = LimitSet(tokens=Throttle(10), concurrency=5)
    call = api(tokens=2)
    for n in range(2):
        async with call as first, call as second:
            assert first is not second
            assert api["concurrency"].active == 2
        assert state(api) == {"tokens": (10 - 4 * (n + 1), 0, 0), "concurrency": (math.inf, 0, 0)}
    async with api, api:
        assert api["concurrency"].active == 2
    await asyncio.gather(*(went.call(api, n) for n in range(5)))
    assert api["concurrency"].active == 0


# ----------------------------------------------------------------------------------------- pauses


async def test_pauses_of_a_set_merge_by_the_later_end_and_resume_ends_them(went: Went) -> None:
    api = LimitSet(tokens=Throttle(10))
    await api.pause(timedelta(seconds=5))  # may be awaited, and does not wait
    assert now() == 0.0
    api.pause(2)
    assert api.paused_for == 5.0
    at(3.0, lambda: api.pause(4))
    await went.call(api)
    assert went == [(None, 7.0)]
    api.pause(math.inf)
    assert api.paused_for == math.inf
    at(10.0, api.resume)
    await went.call(api)
    assert went[1:] == [(None, 10.0)]
    for wrong in (-1, math.nan):
        with pytest.raises(ValueError, match=f"seconds.*{wrong}"):
            api.pause(wrong)
    assert api.paused_for == 0.0


# ------------------------------------------------------------------------------------ live changes


async def test_documented_limits_are_changed_through_their_key_as_well(went: Went) -> None:
    bucket = RateLimit("tokens", 10, RateLimitAlgorithm.TokenBucket, 10)
    api = LimitSet(bucket, ResourceLimit("files", 1))
    await holds(api, tokens=10, files=0)
    task = await queued(went.call(api, tokens=10))
    at(5.0, lambda: setattr(api["tokens"], "capacity", 50))
    await task
    assert went == [(None, 6.0)]
    held = await holds(api)
    task = await queued(went.call(api))
    api["files"].capacity = 2
    await task
    held.release()
    assert api["files"].get_stats()["capacity"] == 2


@pytest.mark.parametrize("algorithm", [*RateLimitAlgorithm])
async def test_the_capacity_of_a_documented_limit_is_also_the_most_at_once(
    algorithm: RateLimitAlgorithm,
) -> None:
    api = LimitSet(RateLimit("tokens", 1e6, algorithm, 10))
    for capacity in (50, 5, 20):
        api["tokens"].capacity = capacity
        with pytest.raises(WeightTooLarge) as refused:
            api.try_acquire(tokens=capacity + 1)
        assert refused.value.largest == capacity
        await asyncio.sleep(2e6)
        with api.try_acquire(tokens=capacity) as lease:
            assert lease.successful


# -------------------------------------------------------------------------------------- foresight


def filling(rate: float, **how: Any) -> Throttle:
    """Of bursts of 40, and empty unless told otherwise."""
    return Throttle(rate, burst=40, **{"initial": 0, **how})


@dataclass(frozen=True)
class Foreseen:
    """A set, what comes over it, how it is asked, and the delay that is told."""

    limits: dict[str, Callable[[], Throttle]]
    weights: dict[str, Any]
    delay: float
    names: str | None
    comes: Callable[[LimitSet], object] = lambda api: None


FORESEEN = {
    "now": Foreseen({"tokens": lambda: Throttle(10)}, {"tokens": 10}, 0, None),
    "quiet": Foreseen({"tokens": lambda: filling(4, initial=3)}, {"tokens": 20}, 4.25, "tokens"),
    "slowest": Foreseen(
        {"a": lambda: filling(2), "b": lambda: filling(1), "c": lambda: filling(8)},
        {"a": 8, "b": 8, "c": 8},
        8,
        "b",
    ),
    "windows": Foreseen(
        {"sliding": lambda: rate_of(SlidingWindow), "fixed": lambda: rate_of(FixedWindow)},
        {"sliding": 4},
        10,
        "sliding",
        lambda api: api.charge(sliding=7, fixed=9),
    ),
    "paused": Foreseen({"tokens": lambda: Throttle(10)}, {}, 3, "pause", lambda api: api.pause(3)),
    "member paused": Foreseen(
        {"tokens": lambda: filling(1), "requests": lambda: Throttle(10)},
        {"tokens": 5},
        7,
        "requests",
        lambda api: api["requests"].pause(7),
    ),
    "emptied": Foreseen(
        {"tokens": lambda: filling(1, initial=40)},
        {"tokens": 3},
        5,
        "tokens",
        lambda api: api.pause(2, empty=True),
    ),
    "in debt": Foreseen(
        {"tokens": lambda: filling(2)}, {}, 2.5, "tokens", lambda api: api["tokens"].charge(4)
    ),
    "urgent": Foreseen({"tokens": lambda: filling(2)}, {"tokens": 3, "priority": 5}, 1.5, "tokens"),
}


@pytest.mark.parametrize("case", FORESEEN.values(), ids=FORESEEN)
async def test_the_delay_is_the_instant_of_the_grant_and_names_what_is_waited_for(
    case: Foreseen, went: Went
) -> None:
    api = LimitSet(**{key: make() for key, make in case.limits.items()})  # type: ignore[call-overload]
    case.comes(api)
    before = state(api)
    delay = api.delay(**case.weights)
    assert isinstance(delay, Delay)
    assert (delay, delay.limit) == (case.delay, case.names)
    assert state(api) == before
    lease = await went.call(api, **case.weights)
    assert went == [(None, delay)]
    assert lease.waited == delay


async def test_where_a_slot_is_missing_the_delay_is_a_lower_bound_and_names_its_limit() -> None:
    conns, files = Throttle(math.inf, 1), Throttle(math.inf, 3)
    api = LimitSet(tokens=Throttle(1, burst=10, initial=0), conns=conns, files=files)
    held = await holds(api, tokens=0, files=2)
    for weights, told in (
        ({"tokens": 0, "conns": 0, "files": 1}, (0.0, None)),
        ({"tokens": 0, "conns": 0, "files": 2}, (0.0, "files")),
        ({"tokens": 0, "conns": 1, "files": 1}, (0.0, "conns")),
        ({"tokens": 5, "conns": 0, "files": 2}, (5.0, "tokens")),
    ):
        delay = api.delay(**weights)
        assert (delay, delay.limit) == told
    held.release()


async def test_stats_tell_of_each_limit_by_its_key() -> None:
    api = limits.LimitSet(
        tokens=Throttle(100, period=60, burst=50), slots=Throttle(math.inf, 4), concurrency=2
    )
    async with api(tokens=30, slots=3):
        stats = api.get_stats()
        assert list(stats) == ["tokens", "slots", "concurrency"]
        assert stats["tokens"] == {
            "key": "tokens",
            "window_seconds": 60,
            "algorithm": "TokenBucket",
            "capacity": 100,
            "available_tokens": 20,
            "current_usage": 30,
            "utilization": 0.6,
            "concurrency": 0,
            "active": 1,
            "waiting": 0,
        }
        assert (stats["slots"]["active"], stats["slots"]["concurrency"]) == (3, 4)
        assert stats["concurrency"]["active"] == 1


async def test_stats_of_documented_limits_are_those_that_each_tells_of_itself() -> None:
    rate = RateLimit("tokens", 60, RateLimitAlgorithm.GCRA, 100)
    api = limits.LimitSet([rate, CallLimit(60, None, 10), ResourceLimit("files", 5)])
    async with api(tokens=25, files=2):
        stats = api.get_stats()
        assert stats == {key: api[key].get_stats() for key in api}
        assert [stats[key]["current_usage"] for key in api] == [25, 1, 2]
        assert [stats[key]["utilization"] for key in api] == [0.25, 0.1, 0.4]


# ------------------------------------------------------------------------- in concurry's words


def test_a_list_of_limits_and_what_goes_with_it_are_for_the_set_in_the_words_of_concurry() -> None:
    limit = RateLimit("tokens", 60, None, 5)
    with pytest.raises(
        TypeError, match=r"one by one.*async_throttle\.limits\.LimitSet takes a list"
    ):
        LimitSet([limit])  # type: ignore[call-overload]
    documented: tuple[dict[str, Any], ...] = ({"limits": []}, {"shared": True}, {"mode": "thread"})
    for more in documented:
        with pytest.raises(ValueError, match=f"'{next(iter(more))}' is a reserved name"):
            LimitSet(limit, **more)
    for concurrys in ("limits", "shared", "mode", "get_stats"):
        assert not hasattr(LimitSet, concurrys)
    assert not hasattr(LimitSetAcquisition, "update")


async def test_a_set_goes_wherever_one_in_the_words_of_concurry_does_and_the_other_way_round() -> (
    None
):
    tokens, files = RateLimit("tokens", 60, None, 5), ResourceLimit("files", 5)
    documented = limits.LimitSet([tokens], shared=True, mode="asyncio")
    native = LimitSet(files=files, tokens=threads.Throttle(5))
    assert isinstance(documented, LimitSet)
    assert issubclass(limits.LimitPool, LimitPool)
    assert issubclass(limits.LimitSetAcquisition, LimitSetAcquisition)
    for pool in (LimitPool([documented, native]), limits.LimitPool([native, documented])):
        first, second = pool.try_acquire(tokens=2), pool.try_acquire({"tokens": 2})
        assert first.limit_set is pool[0]
        assert second.limit_set is pool[0]
        first.release()
        second.release()
    async with documented(tokens=0) as lease, documented.acquire(tokens=0) as other:
        assert isinstance(lease, limits.LimitSetAcquisition)
        assert isinstance(other, limits.LimitSetAcquisition)
        lease.update(usage={"tokens": 1})
        lease.settle(tokens=0)
    async with documented as lease:
        assert isinstance(lease, limits.LimitSetAcquisition)


# -------------------------------------------------------------------- weights are said by limit


SAID: dict[str, Callable[..., Any]] = {
    "call": lambda api, *args, **named: api(*args, **named),
    "acquire": lambda api, *args, **named: api.acquire(*args, **named),
    "try_acquire": lambda api, *args, **named: api.try_acquire(*args, **named),
    "delay": lambda api, *args, **named: api.delay(*args, **named),
    "settle": lambda api, *args, **named: api.try_acquire().settle(*args, **named),
}

said = pytest.mark.parametrize("say", SAID.values(), ids=SAID)

ways_to_ask = pytest.mark.parametrize("made", [LimitSet, limits.LimitSet])


@said
@ways_to_ask
def test_weights_go_by_name_or_by_place_and_by_each_of_them_once(say: Any, made: Any) -> None:
    api = made(Throttle(9), Throttle(9), tokens=Throttle(9))
    say(api, {0: 5, "tokens": 2})
    say(api, {1: 5}, tokens=2)
    with pytest.raises(ValueError, match="'tokens' is said twice: 1, 2"):
        say(api, {"tokens": 1}, tokens=2)
    with pytest.raises(ValueError, match="no limit of the set is called 2; there are 0, 1, 'tok"):
        say(api, {2: 5})
    with pytest.raises(ValueError, match="'timeout'; there are"):
        say(api, {"timeout": 5})
    with pytest.raises(TypeError, match=r"said by limit.*got 5"):
        say(api, 5)


async def test_refusals_call_a_limit_as_the_caller_does() -> None:
    api = LimitSet(Throttle(5), Throttle(5, 1, max_waiting=0), own=Throttle(5, name="another"))
    refusals: list[tuple[Any, str]] = [
        ({0: 6}, "limit 0 of 6 is more than there can be at once"),
        ({"own": 6}, "own of 6 is more than there can be at once"),
    ]
    for amounts, message in refusals:
        with pytest.raises(WeightTooLarge, match=message) as too_large:
            await api.lease(amounts)
        assert too_large.value.limit == next(iter(amounts))
        assert api[too_large.value.limit].level == 5
    held = await api.lease()
    with pytest.raises(ThrottleFull, match="max_waiting of limit 1 is 0") as full:
        await api.lease()
    assert full.value.limit == 1
    with pytest.raises(ThrottleTimeout, match="limit 0 does not grant it within") as late:
        await api.lease({0: 5, 1: 0}, timeout=0.1)
    assert (late.value.limit, api.delay({0: 5, 1: 0}).limit) == (0, 0)
    api[1].close()
    with pytest.raises(ThrottleClosed, match="limit 1 is closed") as closed:
        await api.lease()
    assert closed.value.limit == 1
    with pytest.raises(ValueError, match="limit 0 must be a finite number of at least 0, got -1"):
        held.settle({0: -1})
    held.release()


async def test_what_is_said_by_place_is_what_is_taken_and_settled() -> None:
    one, other = Throttle(10), Throttle(10)
    api = LimitSet(one, other)
    async with api({0: 5}) as lease:
        assert lease.weights == {0: 5, 1: 1}
        assert (one.level, other.level) == (5, 9)
        lease.settle({0: 2, 1: 3})
        assert (one.level, other.level) == (8, 7)
    said = {0: 4}
    call = api(said)
    said[0] = 9  # too late
    async with call as lease:
        assert lease.weights == {0: 4, 1: 1}


# --------------------------------------------------------------- every refusal names its limit


async def test_a_timeout_that_is_known_to_be_too_short_is_refused_at_once() -> None:
    api = LimitSet(requests=Throttle(10), tokens=Throttle(1, burst=10, initial=0))
    with pytest.raises(ThrottleTimeout, match=r"tokens.*timeout of 2\.5 s") as refused:
        await holds(api, tokens=4, timeout=2.5)
    assert (refused.value.limit, refused.value.retry_after, now()) == ("tokens", 4.0, 0.0)
    api["requests"].pause(9)
    with pytest.raises(ThrottleTimeout) as refused:
        await holds(api, tokens=4, timeout=2.5)
    assert (refused.value.limit, refused.value.retry_after) == ("requests", 9.0)
    assert isinstance(refused.value, TimeoutError)


async def test_a_timeout_at_its_deadline_names_the_limit_that_is_still_missing() -> None:
    api = LimitSet(
        tokens=Throttle(1, burst=10), conns=Throttle(math.inf, 1), files=Throttle(math.inf, 2)
    )
    held = await holds(api)
    for weights, limit in (
        ({"conns": 0, "files": 2}, "files"),
        ({"conns": 1, "files": 0}, "conns"),
        ({"conns": 1, "files": 1}, "conns"),
    ):
        came = now()
        with pytest.raises(ThrottleTimeout) as refused:
            await holds(api, timeout=1.5, **weights)
        assert now() == came + 1.5
        assert (refused.value.limit, refused.value.retry_after) == (limit, None)
    held.release()
    api["tokens"].charge(api["tokens"].level)
    at(now() + 1.0, lambda: api["tokens"].charge(20))
    with pytest.raises(ThrottleTimeout) as refused:
        await holds(api, tokens=10, timeout=15)
    assert (refused.value.limit, refused.value.retry_after) == ("tokens", 15.0)


async def test_a_full_queue_of_a_member_refuses_and_names_it(went: Went) -> None:
    api = LimitSet(
        requests=Throttle(10), tokens=Throttle(1, burst=5, initial=0, max_waiting=2, name="own")
    )
    assert api.max_waiting == 2
    tasks = [await queued(went.call(api, n, tokens=2)) for n in range(2)]
    before = state(api)
    with pytest.raises(ThrottleFull, match="max_waiting of tokens is 2, and 2 wait") as refused:
        await holds(api)
    assert (refused.value.limit, refused.value.retry_after) == ("tokens", 5.0)
    assert state(api) == before
    await asyncio.gather(*tasks)
    assert went == [(0, 2.0), (1, 4.0)]


async def test_unnamed_limits_are_named_by_their_place() -> None:
    api = LimitSet(Throttle(10), Throttle(1, initial=0))
    with pytest.raises(ThrottleTimeout) as refused:
        await holds(api, timeout=0.5)
    assert refused.value.limit == 1
    assert api.delay().limit == 1


# ------------------------------------------------------------------- what a call has waited for


async def test_each_moment_counts_for_the_limit_that_held_up_the_head_then(went: Went) -> None:
    api = LimitSet(requests=Throttle(10), tokens=Throttle(1, burst=10, initial=10), concurrency=1)
    held = await holds(api, tokens=10)
    at(3.0, held.release)  # 3 tokens have come back by then
    lease = await went.call(api, tokens=8)
    assert lease.waited == 8.0
    assert lease.waited_for == {"requests": 0.0, "tokens": 5.0, "concurrency": 3.0}


async def test_a_pause_of_a_member_counts_for_it_and_one_of_the_set_for_none(went: Went) -> None:
    api = LimitSet(requests=Throttle(10), tokens=Throttle(10))
    api["requests"].pause(2)
    at(1.0, lambda: api.pause(4))
    at(4.0, lambda: api["tokens"].pause(3))
    lease = await went.call(api)
    assert lease.waited == 7.0
    assert lease.waited_for == {"requests": 1.0, "tokens": 3.0, "pause": 3.0}


async def test_who_is_held_up_by_the_head_of_another_set_waits_for_the_limit_they_share(
    went: Went,
) -> None:
    shared = Throttle(1, burst=10, initial=5)
    heavy = LimitSet(common=shared, own=Throttle(10))
    light = LimitSet(common=shared, other=Throttle(10))
    first = await queued(went.call(heavy, "heavy", common=10))
    lease = await went.call(light, "light", common=2)  # there are 5
    assert lease.waited_for == {"common": 7.0, "other": 0.0}
    assert (await first).waited_for == {"common": 5.0, "own": 0.0}
    assert went == [("heavy", 5.0), ("light", 7.0)]


# ------------------------------------------------------------------------------------ settlement


@pytest.mark.parametrize(
    ("usage", "message"),
    [
        ({"tokens": 2, "token": 5}, "no limit of the set is called 'token'"),
        ({"tokens": 2, "requests": -1}, "requests.*-1"),
        ({"tokens": 2, "requests": math.nan}, "requests.*nan"),
        ({"tokens": 2, "requests": math.inf}, "requests.*inf"),
        ({"tokens": 2, "call_count": 2}, "call_count.*1.*2"),
        ({"tokens": 2, "call_count": 0}, "call_count.*1.*0"),
        ({"tokens": 2, "concurrency": -1}, "concurrency.*-1"),
    ],
)
async def test_what_cannot_be_settled_is_refused_and_then_nothing_is(
    usage: dict[str, float], message: str
) -> None:
    api = LimitSet(
        CallLimit(1e6, None, 10),
        tokens=threads.Throttle(10, period=1e6),
        requests=threads.Throttle(10, period=1e6),
        concurrency=2,
    )
    async with api(tokens=5) as lease:
        before = state(api)
        with pytest.raises(ValueError, match=message):
            lease.settle(**usage)
        with pytest.raises(ValueError, match=message):
            lease.settle(usage)
        assert state(api) == before
        lease.settle({"tokens": 2, "call_count": 1})
        assert api["tokens"].level == 8


async def test_slots_are_not_used_up_whatever_is_said(went: Went) -> None:
    api = LimitSet(connections=Throttle(math.inf, 5), concurrency=3)
    async with api(connections=2) as lease:
        lease.settle(connections=5, concurrency=0)
        assert (api["connections"].active, api["concurrency"].active) == (2, 1)
    assert (api["connections"].active, api["concurrency"].active) == (0, 0)


async def test_before_the_grant_there_is_nothing_to_settle_or_release() -> None:
    api = LimitSet(tokens=Throttle(10), concurrency=1)
    with pytest.raises(RuntimeError, match="nothing was granted"):
        api().settle(tokens=5)
    api().release()
    assert state(api) == {"tokens": (10, 0, 0), "concurrency": (math.inf, 0, 0)}


async def test_what_was_skipped_and_used_all_the_same_is_debt() -> None:
    # The estimate was nothing; the reply tells.
    api = LimitSet(requests=Throttle(10), tokens=Throttle(100, period=1e6))
    async with api(tokens=0) as lease:
        lease.settle(tokens=30)
        assert api["tokens"].level == 70
        lease.settle(tokens=20)
    assert api["tokens"].level == 80


# ------------------------------------------------------------------------------------- priorities


async def by_decorator(limits: Any, priority: int) -> None:
    await limits(priority=priority)(nothing)()


def set_of(throttle: Any) -> LimitSet:
    return LimitSet(tokens=throttle, requests=type(throttle)(1000))


PARTS = {
    Throttle: ("acquire", "lease", "consume"),
    threads.Throttle: ("acquire_async", "lease_async", "consume_async"),
}
WAYS = [(kind, False, way) for kind, ways in PARTS.items() for way in (None, by_decorator, *ways)]
WAYS += [(kind, True, way) for kind in PARTS for way in (None, by_decorator, "acquire")]
"""Ways to be granted a token: of which throttle, in a set or alone, by which call."""


@pytest.mark.parametrize(("kind", "in_a_set", "way"), WAYS)
async def test_the_better_priority_goes_first_and_within_one_arrival_decides(
    kind: Any, in_a_set: bool, way: Any, went: Went
) -> None:
    throttle = kind(1, burst=1, initial=0)
    limits: Any = set_of(throttle) if in_a_set else throttle

    async def call(name: str, priority: int) -> None:
        if way is None:
            await limits(priority=priority).__aenter__()
        elif way is by_decorator:
            await by_decorator(limits, priority)
        else:
            await getattr(limits, way)(priority=priority)
        went.append((name, now()))

    priorities = (0, 5, -1, 0, -1, 5, -100)
    calls = [await queued(call(*one)) for one in zip("abcdefg", priorities, strict=True)]
    assert limits.waiting == 7
    await asyncio.gather(*calls)
    assert went == [(name, n + 1.0) for n, name in enumerate("gceadbf")]


@each_kind
async def test_a_try_does_not_pass_a_better_priority_and_may_pass_a_worse_one(kind: Any) -> None:
    tokens = kind(1, burst=4, initial=2)
    api = set_of(tokens)
    task = await queued(holds(api, tokens=4))
    assert not api.try_acquire().successful
    assert not api.try_acquire(priority=1).successful
    assert not tokens.try_acquire()
    assert not tokens.try_acquire(priority=1)
    assert (api.delay(priority=1), api.delay(priority=-1)) == (3.0, 0.0)
    assert (tokens.delay(priority=1), tokens.delay(priority=-1)) == (3.0, 0.0)
    assert api.try_acquire(priority=-1).successful
    assert tokens.try_acquire(priority=-1)
    await task
    assert now() == 4.0


@pytest.mark.parametrize("wrong", [1.5, "1", math.inf])
@each_kind
async def test_a_priority_is_a_whole_number(kind: Any, wrong: Any) -> None:
    tokens = kind(10)
    api = LimitSet(tokens=tokens)
    for call in (
        lambda: api(priority=wrong),
        lambda: api.acquire(priority=wrong),
        lambda: api.try_acquire(priority=wrong),
        lambda: api.delay(priority=wrong),
        lambda: tokens(priority=wrong),
        lambda: tokens.try_acquire(priority=wrong),
        lambda: tokens.delay(priority=wrong),
    ):
        with pytest.raises(refusal_of(wrong), match="priority must be a whole number, got "):
            call()
    assert tokens.level == 10


# ------------------------------------------------------------------------ loops, clocks, memory


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


async def test_throttles_whose_clock_was_set_are_joined_with_those_made_since() -> None:
    """Each goes on at its own level, with its waiters in order, however late they are joined."""
    clock = Clock()
    clock.seconds = 1e6
    old = Throttle(10, burst=10, timer=clock)
    await old.acquire(8)
    clock.seconds = 0.0  # another clock, as far as it can tell
    assert old.level == 2
    new = Throttle(10, burst=10, timer=clock)
    await new.acquire(5)
    for api in (LimitSet(old, new), LimitSet(new, old)):
        assert (old.level, new.level) == (2, 5)
        clock.seconds += 0.1
        assert api.try_acquire().successful
        clock.seconds += 0.1
        assert [old.level, new.level] == pytest.approx([3, 6])
        await old.acquire(1)
        await new.acquire(1)
    assert (old.level, new.level) == (2, 5)


@pytest.mark.parametrize("which", ["old", "new"])
@pytest.mark.parametrize("how", ["old, new", "new, old"])
async def test_those_who_wait_are_joined_with_the_clock_they_wait_by(which: str, how: str) -> None:
    clock = Clock()
    clock.seconds = 1e6
    old = Throttle(10, burst=10, timer=clock)
    assert old.level == 10
    clock.seconds = 0.0
    assert old.level == 10
    new = Throttle(10, burst=10, timer=clock)
    busy = old if which == "old" else new
    await busy.acquire(10)
    went: list[object] = []

    async def call(name: object, asked: Any) -> float:
        async with asked as lease:
            went.append(name)
            return float(lease.waited)

    tasks = [await queued(call(n, busy(2))) for n in range(3)]
    tasks.append(await queued(call("hurried", busy(2, timeout=5))))
    api = LimitSet(old, new) if how == "old, new" else LimitSet(new, old)
    assert busy.waiting == 4
    tasks.append(await queued(call("last", api())))
    for _ in range(10):
        clock.seconds += 0.1
        await asyncio.sleep(0.1)
    waited = await asyncio.gather(*tasks)
    assert went == [0, 1, 2, "hurried", "last"]
    assert waited == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.9])


def test_throttles_made_while_time_was_frozen_are_joined_with_others() -> None:
    with freeze_time("2030-01-01"):
        frozen = Throttle(10, period=1e6)
        assert frozen.try_acquire(4)
    real = Throttle(10, period=1e6)
    api = LimitSet(frozen, real)
    assert api.try_acquire({0: 2, 1: 3}).successful
    assert [frozen.level, real.level] == pytest.approx([4, 7])
    with freeze_time("2031-01-01"):
        # Forwards it is time that has passed; backwards, at the end, it is another clock.
        assert (frozen.level, real.level) == (10, 10)
        new = Throttle(10, period=1e6)
        assert LimitSet(real, new).try_acquire().successful
    assert [frozen.level, real.level, new.level] == pytest.approx([10, 9, 9])


def test_two_clocks_read_one_after_the_other_are_joined_with_callers_behind_them() -> None:
    # In real time the two readings differ by a little.
    async def main() -> list[object]:
        went = Went()
        a, b = Throttle(math.inf, 1), Throttle(math.inf, 1)
        async with a, b:
            tasks = [
                await queued(went.alone(throttle, name)) for name in range(3) for throttle in (a, b)
            ]
            LimitSet(a, b)
            assert (a.waiting, b.waiting) == (3, 3)
        await asyncio.gather(*tasks)
        return went.names

    assert asyncio.run(main()) == [0, 0, 1, 1, 2, 2]


async def test_a_set_made_for_each_call_joins_those_who_wait_already(went: Went) -> None:
    everybody = Throttle(10, burst=1, initial=0)
    chats = [Throttle(1) for _ in range(3)]
    tasks: list[asyncio.Task[Any]] = []
    for n in range(9):
        tasks.append(await queued(went.call(LimitSet(everybody, chats[n % 3]), n)))
        tasks.append(await queued(went.alone(everybody, "alone")))
    assert everybody.waiting == 18
    await asyncio.gather(*tasks)
    assert [name for name in went.names if name != "alone"] == list(range(9))
    whens = [when for _, when in went]
    assert all(late - early >= 0.1 - 1e-9 for early, late in pairwise(whens))
    for chat in range(3):
        own = [when for name, when in went if name in range(chat, 9, 3)]
        assert all(late - early >= 1 - 1e-9 for early, late in pairwise(own))


async def test_a_set_that_is_made_again_finds_the_lane_of_the_one_before() -> None:
    older = [Throttle(10) for _ in range(10)]
    chat = Throttle(10)
    lanes = [weakref.ref(LimitSet(each, chat)._core.lane) for each in older]
    assert [lane() is not None for lane in lanes] == [False] * 6 + [True] * 4  # the latest few
    assert LimitSet(chat, older[9])._core.lane is lanes[9]()
    del chat
    assert [lane() for lane in lanes] == [None] * 10


async def test_a_set_that_is_made_again_knows_what_was_changed_meanwhile() -> None:
    everybody, chat = Throttle(10), Throttle(5, 1, initial=0, period=100)
    assert LimitSet(everybody, chat=chat).delay(chat=2) == 40.0
    chat.capacity = math.inf
    lease = LimitSet(everybody, chat=chat).try_acquire(chat=1)  # a slot: it has no rate any more
    assert lease.successful
    assert LimitSet(everybody, chat=chat).locked()
    chat.concurrency, chat.capacity = 0, 10
    assert LimitSet(everybody, chat=chat).delay(chat=10) == 0.0
    chat.pause(7)
    assert LimitSet(everybody, chat=chat).delay(chat=10) == 7.0


async def test_many_sets_made_for_one_call_each_leave_nothing_behind() -> None:
    everybody = Throttle(1000, burst=10)
    throngs = scaled(60)
    remains: list[weakref.ref[Any]] = []

    async def one() -> None:
        chat = Throttle(1)
        limits = LimitSet(everybody, chat)
        remains.extend((weakref.ref(chat), weakref.ref(limits), weakref.ref(limits._core.lane)))
        async with limits:
            await asyncio.sleep(0.01)

    gc.collect()
    gc.disable()  # nothing of this may need the collector
    try:
        for _ in range(throngs):
            await asyncio.gather(*(one() for _ in range(50)))
        assert len(remains) == 3 * 50 * throngs
        assert [ref for ref in remains if ref() is not None] == []
    finally:
        gc.enable()
    queue = find(core_of(everybody)).queue
    assert list(queue.lanes.values()) == [core_of(everybody).lane]
    assert (queue.waiting, queue.busy, len(queue.deadlines)) == (0, [], 0)
    await asyncio.sleep(1)
    assert everybody.level == 10


async def test_sets_that_time_out_or_are_cancelled_leave_nothing_behind_either() -> None:
    everybody = Throttle(1, initial=0, burst=5, period=1e3)
    remains: list[weakref.ref[Any]] = []

    async def one(n: int) -> None:
        limits = LimitSet(everybody, Throttle(1))
        remains.append(weakref.ref(limits))
        async with asyncio.timeout(1), limits(timeout=1e6 if n % 2 else None):
            pytest.fail("granted")

    refused = await asyncio.gather(*map(one, range(60)), return_exceptions=True)
    assert {type(error) for error in refused} == {TimeoutError}
    del refused
    await others_run()  # what asyncio keeps of a task that was cancelled
    gc.collect()  # a traceback is a cycle
    assert len(remains) == 60
    assert [ref for ref in remains if ref() is not None] == []
    queue = find(core_of(everybody)).queue
    assert list(queue.lanes.values()) == [core_of(everybody).lane]
    assert queue.waiting == 0
