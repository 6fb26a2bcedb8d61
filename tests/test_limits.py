"""Sets of limits: all of them or nothing, in order, and each limit keeps what it promises.

Time is virtual, so instants are compared by ``==``. Who may go before whom between sets is
checked against an oracle elsewhere; here stand the examples.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import math
import random
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import pytest
from freezegun import freeze_time
from support import at, now, others_run, queued, scaled

from async_throttle import (
    GCRA,
    FixedWindow,
    LeakyBucket,
    LimitSet,
    LimitSetAcquisition,
    RateLimiter,
    ResourceLimitError,
    Rule,
    SlidingWindow,
    Throttle,
    ThrottleClosed,
    ThrottleFull,
    ThrottleTimeout,
    TokenBucket,
    WeightTooLarge,
    testing,
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
]

Grant = tuple[float, float]
"""An instant, and how much went then."""


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


async def test_two_throttles_that_are_there_already_are_taken_together() -> None:
    everybody, chat = Throttle(30), Throttle(1)
    async with LimitSet(everybody, chat) as lease:
        assert (everybody.level, chat.level) == (29, 0)
        assert lease.weights == {0: 1, 1: 1}


def test_a_limit_is_called_by_its_keyword_or_its_name_or_its_place() -> None:
    named, first, third = Throttle(1, name="named"), Throttle(1), Throttle(1)
    more = Throttle(1, name="its own name")
    api = LimitSet(first, named, third, more=more)
    assert list(api) == api.keys() == [0, "named", 2, "more"]
    assert api.limits == [first, named, third, more]
    assert (len(api), "named" in api, 1 in api, "its own name" in api) == (4, True, False, False)
    assert api[0] is first
    assert api["more"] is more


def test_what_is_found_under_a_key_is_the_limit_as_it_was_given() -> None:
    tokens, files = RateLimit("tokens", 60, None, 100), ResourceLimit("files", 5)
    api = LimitSet([tokens, CallLimit(60, None, 50)], tuple_is_no_limit=files)
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
        LimitSet(**{name: Throttle(5)})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"'{name}' is a reserved name"):
        LimitSet(**{name: ResourceLimit("files", 5)})  # type: ignore[arg-type]
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
        LimitSet([limit], tokens=threads.Throttle(5))


@pytest.mark.parametrize(
    "wrong", [5, None, "tokens", TokenBucket, Throttle, RateLimiter(5), object(), LimitSet()]
)
def test_what_is_neither_a_throttle_nor_a_limit_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(TypeError, match="tokens must be a Throttle or a Limit, got "):
        LimitSet(tokens=wrong)
    with pytest.raises(TypeError, match="1 must be a Throttle or a Limit, got "):
        LimitSet(Throttle(5), wrong)
    with pytest.raises(TypeError, match="0 must be a Throttle or a Limit, got "):
        LimitSet([wrong])


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


@pytest.mark.parametrize("mode", ["sync", "thread", "asyncio", *ExecutionMode])
async def test_every_mode_serves_coroutines_and_none_changes_what_is_taken(mode: Any) -> None:
    api = LimitSet(shared=True, mode=mode, requests=Throttle(5), concurrency=2)
    assert api.mode is ExecutionMode(mode)
    assert api.shared
    async with api:
        assert state(api) == {"requests": (4, 1, 0), "concurrency": (math.inf, 1, 0)}


@pytest.mark.parametrize("mode", ["process", "ray", "Process", "", None, 5])
def test_a_mode_that_is_not_there_is_refused_with_those_that_are(mode: Any) -> None:
    with pytest.raises(ValueError, match="one of 'sync', 'thread', 'asyncio', got "):
        LimitSet([], shared=True, mode=mode)


def test_a_set_that_is_not_shared_has_the_mode_sync() -> None:
    assert (LimitSet().mode, LimitSet().shared) == ("sync", False)
    with pytest.raises(ValueError, match="mode must be 'sync' where shared is False, got 'thread'"):
        LimitSet([], mode="thread")


def test_the_documented_arguments_may_be_given_by_place() -> None:
    api = LimitSet([RateLimit("tokens", 60, None, 5)], True, "thread", {"region": "eu"})
    assert (api.keys(), api.shared, api.mode) == (["tokens"], True, "thread")
    assert api.config == {"region": "eu"}
    with pytest.raises(TypeError):
        LimitSet([], True, "thread", {}, 5)


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
    with api, api.acquire(requested={}), api.try_acquire() as lease:
        assert lease.successful
        lease.settle()
    assert (api.keys(), api.get_stats(), api.delay(), api.locked()) == ([], {}, 0.0, False)
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
        lambda: api.acquire(requested=weights),
        lambda: api.try_acquire(requested=weights),
        lambda: api.try_acquire(**weights),
        lambda: api.delay(**weights),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert state(api) == before


@pytest.mark.parametrize("count", [2, 0.5, 1.5])
async def test_a_call_is_one_call(count: float) -> None:
    api = LimitSet([CallLimit(60, None, 10)])
    for call in (
        lambda: api(call_count=count),
        lambda: api.acquire(requested={"call_count": count}),
        lambda: api.try_acquire(requested={"call_count": count}),
        lambda: api.delay(call_count=count),
    ):
        with pytest.raises(ValueError, match=f"call_count must be 1, .*got {count}"):
            call()
    async with api(call_count=1), api(call_count=0):
        assert api["call_count"].throttle.level == 9


async def test_limits_that_are_called_by_place_are_asked_for_in_a_mapping() -> None:
    api = LimitSet(Throttle(10), Throttle(10))
    async with api.acquire(requested={1: 4}) as lease:
        assert lease.weights == {0: 1, 1: 4}
    assert api.try_acquire(requested={0: 3}).weights == {0: 3, 1: 1}
    with pytest.raises(ValueError, match="no limit of the set is called 2; there are 0, 1"):
        api.acquire(requested={2: 1})


# ------------------------------------------------------------------------------ all or nothing


class Body(Exception):
    """Of the body."""


async def fail() -> None:
    raise Body


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("kind", [Throttle, threads.Throttle])
async def test_no_interleaving_leaves_one_limit_charged_and_another_not(
    seed: int, kind: Any
) -> None:
    """Callers of every kind come, wait, give up, are cancelled, fail. In the end each limit is
    charged with the weights of exactly those who were granted."""
    rng = random.Random(seed)
    capacity, period = 100_000, 1e6
    window = kind(capacity, period=period, algorithm=SlidingWindow)
    fixed = kind(capacity, period=period, algorithm=FixedWindow)
    hurry = kind(20, burst=5)
    api = LimitSet(window=window, fixed=fixed, hurry=hurry, concurrency=3)
    other = LimitSet(window=window, hurry=hurry)
    spent = {"window": 0.0, "fixed": 0.0}

    async def one(n: int) -> None:
        limits = rng.choice([api, api, other])
        amounts = {"window": rng.randint(0, 9), "hurry": rng.choice([0, 1, 1, 2, 5])}
        if limits is api:
            amounts |= {"fixed": rng.randint(0, 9), "concurrency": rng.choice([0, 1, 1, 2])}
        how: dict[str, Any] = {"priority": rng.choice([0, 0, 0, -1, 1])}
        if rng.random() < 0.3:
            how["timeout"] = rng.uniform(0, 2)
        await asyncio.sleep(rng.uniform(0, 10))
        form = rng.randrange(4)
        if form == 0:
            call = limits.try_acquire(amounts, priority=how["priority"])
            if not call.successful:
                return
        elif form == 1:
            call = limits.acquire(amounts, **how)
        else:
            call = limits(**amounts, **how)
        async with call as lease:
            for key in spent:
                spent[key] += lease.weights.get(key, 0)
            await asyncio.sleep(rng.choice([0, 0, 0.1, 0.5]))
            if rng.random() < 0.2:
                raise Body
            if rng.random() < 0.3 and amounts["window"]:
                actual = rng.randint(0, 12)
                spent["window"] += actual - amounts["window"]
                lease.settle(window=actual)

    tasks = [asyncio.create_task(one(n)) for n in range(80)]
    for task in rng.sample(tasks, 25):
        asyncio.get_running_loop().call_at(rng.uniform(0, 12), task.cancel)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    unexpected = [
        result
        for result in results
        if not isinstance(result, Body | ThrottleTimeout | asyncio.CancelledError | None)
    ]
    assert unexpected == []
    assert (window.level, fixed.level) == (capacity - spent["window"], capacity - spent["fixed"])
    for throttle in throttles(api).values():
        assert (throttle.active, throttle.waiting) == (0, 0)
    await asyncio.sleep(5)
    assert hurry.level == hurry.burst


# ---------------------------------------------------------------- limits that several sets share


def bucket_holds(grants: Iterable[Grant], burst: float, rate: float) -> bool:
    """No closed interval holds more than *burst*, and *rate* times its length."""
    log = sorted(grants)
    for first in range(len(log)):
        total = 0.0
        for instant, weight in log[first:]:
            total += weight
            if total > burst + rate * (instant - log[first][0]) + 1e-6:
                return False
    return True


async def test_an_idle_chat_is_not_held_up_by_messages_queued_for_a_slow_one(went: Went) -> None:
    everybody, slow, idle = Throttle(30, burst=1), Throttle(1), Throttle(1)
    for_slow, for_idle = LimitSet(everybody, slow), LimitSet(everybody, idle)
    messages = [await queued(went.call(for_slow, n)) for n in range(25)]
    await asyncio.sleep(0.5)
    await went.call(for_idle, "idle")
    assert went == [(0, 0.0), ("idle", 0.5)]
    await asyncio.gather(*messages)
    assert [when for name, when in went if name != "idle"] == [float(n) for n in range(25)]


# -------------------------------------------------------------------------- the same in their words


async def test_acquire_in_a_loop_takes_at_once_what_is_there() -> None:
    api = LimitSet(tokens=Throttle(10), concurrency=2)
    lease = api.acquire(requested={"tokens": 4})
    assert lease.successful
    assert (api["tokens"].level, api["concurrency"].active) == (6, 1)
    async with lease as same:
        assert same is lease
        assert api["concurrency"].active == 1  # the same one, not another
    assert api["concurrency"].active == 0
    with api.acquire(requested={"tokens": 4}) as lease:
        assert lease.waited == 0.0
    assert state(api) == {"tokens": (2, 0, 0), "concurrency": (math.inf, 0, 0)}


def set_paused(api: LimitSet) -> None:
    api.pause(5)


def member_paused(api: LimitSet) -> None:
    api["tokens"].pause(5)


def no_token(api: LimitSet) -> None:
    api["tokens"].charge(10)


def not_inside_the_window(api: LimitSet) -> None:
    api["window"].charge(10)


def in_debt(api: LimitSet) -> None:
    api["tokens"].charge(100)


def no_slot(api: LimitSet) -> None:
    assert api["concurrency"].try_acquire()
    assert api["concurrency"].try_acquire()


@pytest.mark.parametrize(
    "lacks", [set_paused, member_paused, no_token, not_inside_the_window, in_debt, no_slot]
)
@pytest.mark.parametrize("kind", [Throttle, threads.Throttle])
async def test_acquire_takes_nothing_that_would_have_to_be_waited_for(
    kind: Any, lacks: Callable[[LimitSet], None]
) -> None:
    api = LimitSet(
        tokens=kind(10, period=1e6),
        window=kind(10, period=1e6, algorithm=SlidingWindow),
        concurrency=2,
    )
    assert api.acquire(requested={"tokens": 0, "window": 0, "concurrency": 0}).successful
    lacks(api)
    before = state(api)
    for priority in (0, -1, 1):
        assert not api.acquire(priority=priority).successful
        assert not api.try_acquire(priority=priority).successful
        assert api.locked()
    assert state(api) == before


@pytest.mark.parametrize("kind", [Throttle, threads.Throttle])
async def test_acquire_refuses_at_once_what_can_never_be(kind: Any) -> None:
    api = LimitSet(
        tokens=kind(10), window=kind(10, algorithm=SlidingWindow), other=kind(5), concurrency=2
    )
    for key, weight in (("tokens", 11), ("window", 11), ("concurrency", 3)):
        for call in (api.acquire, api.try_acquire):
            with pytest.raises(WeightTooLarge) as refused:
                call({key: weight})
            assert refused.value.limit == key
    api["other"].close()
    for call in (api.acquire, api.try_acquire):
        with pytest.raises(ThrottleClosed) as closed:
            call()
        assert closed.value.limit == "other"
        assert call({"other": 0, "concurrency": 0}).successful
    assert [throttle.level for throttle in throttles(api).values()] == [8, 8, 5, math.inf]


@pytest.mark.parametrize("kind", [Throttle, threads.Throttle])
async def test_acquire_in_a_loop_is_awaited_or_entered_where_it_would_have_to_wait(
    kind: Any,
) -> None:
    api = LimitSet(tokens=kind(1, burst=10, initial=0))
    call = api.acquire(requested={"tokens": 2})
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


@pytest.mark.parametrize("enter", ["async with", "with"])
async def test_a_failed_try_holds_nothing(enter: str) -> None:
    api = LimitSet(requests=Throttle(10), connections=Throttle(math.inf, 1))
    held = await holds(api)
    before = state(api)
    refused = api.try_acquire()
    assert not refused.successful
    if enter == "with":
        with refused as same:
            assert same is refused
    else:
        async with refused as same:
            assert same is refused
    refused.release()
    refused.release()
    assert not refused.successful
    assert (refused.weights, refused.config, refused.waited_for) == ({}, {}, {})
    assert refused.limit_set is None
    with pytest.raises(RuntimeError, match="nothing was granted"):
        refused.update(usage={"requests": 5})
    assert state(api) == before
    held.release()
    with api.try_acquire() as granted:
        assert granted.successful
        assert api["connections"].active == 1


@pytest.mark.parametrize("kind", [Throttle, threads.Throttle])
def test_outside_of_a_loop_what_is_there_is_taken(kind: Any) -> None:
    api = LimitSet(tokens=kind(10, period=1e6), concurrency=1)
    with api.acquire(requested={"tokens": 4}) as lease:
        assert lease.successful
        assert api["concurrency"].active == 1
        assert not api.try_acquire().successful
    with api, pytest.raises(ResourceLimitError):
        api.acquire(requested={"tokens": 11})
    with api(tokens=2) as lease:
        lease.settle(tokens=1)
    assert api["tokens"].level == pytest.approx(4)
    assert api["concurrency"].active == 0


def test_outside_of_a_loop_throttles_that_are_not_for_threads_are_not_waited_for() -> None:
    api = LimitSet(tokens=Throttle(10, period=1e6, initial=0))
    with pytest.raises(RuntimeError, match=r"not for threads.*async_throttle\.threads"):
        api.acquire()
    assert api.waiting == 0


def test_outside_of_a_loop_a_thread_waits_until_all_of_it_is_there() -> None:
    # Real threads: nothing else can block. Whose turn it is is told by locks, not by time.
    api = LimitSet([ResourceLimit("files", 1), RateLimit("tokens", 1e6, None, 10)], True, "thread")
    first = api.acquire(requested={"tokens": 2})
    entered: list[float] = []

    def work() -> None:
        with api.acquire(requested={"tokens": 3}) as lease:
            entered.append(lease.weights["tokens"])

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    started = time.monotonic()
    while not api.waiting:
        assert time.monotonic() < started + 10
        time.sleep(0)
    assert entered == []
    assert api["tokens"].throttle.level == pytest.approx(8)
    first.release()
    thread.join(10)
    assert entered == [3]
    assert api["files"].throttle.active == 0


async def test_release_may_be_called_early_and_again() -> None:
    api = LimitSet(tokens=Throttle(10), concurrency=3)
    async with api as other, api(concurrency=2) as lease:
        assert other.successful
        assert api["concurrency"].active == 3
        lease.release()
        assert api["concurrency"].active == 1
        lease.release()
        assert lease.successful
    lease.release()
    assert api["concurrency"].active == 0
    kept = api.acquire()
    kept.release()
    kept.release()
    assert api["concurrency"].active == 0


async def test_release_of_what_was_not_granted_yet_does_nothing() -> None:
    api = LimitSet(tokens=Throttle(10), concurrency=1)
    api().release()
    assert state(api) == {"tokens": (10, 0, 0), "concurrency": (math.inf, 0, 0)}


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


# -------------------------------------------------------------------------------------- decorators


async def test_a_decorator_keeps_its_timeout_and_priority_and_lets_errors_through() -> None:
    api = LimitSet(tokens=Throttle(1))

    @api(timeout=0.5)
    async def hurried() -> None:
        raise Body

    with pytest.raises(Body):
        await hurried()
    with pytest.raises(ThrottleTimeout):
        await hurried()

    class Client:
        @api(tokens=1)
        async def get(self, number: int) -> int:
            return number + 1

    assert await Client().get(2) == 3
    assert now() == 1.0


async def test_a_plain_function_is_decorated_for_threads() -> None:
    api = LimitSet([RateLimit("tokens", 60, None, 5), ResourceLimit("files", 2)])

    @api(tokens=3)
    def read(name: str) -> tuple[str, int]:
        return name, api["files"].throttle.active

    assert not inspect.iscoroutinefunction(read)
    assert read("a") == ("a", 1)
    assert api["files"].throttle.active == 0
    with pytest.raises(RuntimeError, match="hold up the event loop"):
        read("b")
    await asyncio.sleep(60)
    assert await asyncio.to_thread(read, "c") == ("c", 1)


# ----------------------------------------------------------------------------------------- pauses


async def test_a_pause_of_the_set_holds_those_queued_and_newcomers_and_not_its_throttles(
    went: Went,
) -> None:
    tokens = Throttle(10, initial=0)
    api, other = LimitSet(tokens=tokens, requests=Throttle(10)), LimitSet(tokens, Throttle(10))
    early = await queued(went.call(api, "queued"))
    assert api.pause(2) is not None
    late = await queued(went.call(api, "newcomer", tokens=0, requests=0))
    assert (api.paused_for, api.locked(), tokens.paused_for) == (2.0, True, 0.0)
    await went.call(other, "of another set")
    await went.alone(tokens, "alone")
    await asyncio.gather(early, late)
    assert went == [
        ("of another set", 0.1),
        ("alone", 0.2),
        ("queued", 2.0),
        ("newcomer", 2.0),
    ]
    assert (api.paused_for, api.locked()) == (0.0, False)


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


async def test_a_pause_that_empties_counts_for_those_who_use_a_member_alone(went: Went) -> None:
    # The set is the only one that knows of the pause, and nobody asks it when that ends.
    tokens = Throttle(1, burst=100)
    api = LimitSet(tokens=tokens)
    api.pause(10, empty=True)
    await asyncio.sleep(20)
    for _ in range(12):
        async with tokens:
            went.append((None, now()))
    assert [when for _, when in went] == [20.0] * 10 + [21.0, 22.0]


async def test_sets_over_the_same_throttles_have_one_pause_that_outlives_them() -> None:
    one, two = Throttle(10), Throttle(10)
    kept = LimitSet(one, two)
    LimitSet(two, one).pause(5)
    assert kept.paused_for == LimitSet(one, two).paused_for == 5.0
    del kept
    gc.collect()
    await asyncio.sleep(2)
    assert LimitSet(one, two).paused_for == 3.0
    assert (one.paused_for, LimitSet(one).paused_for) == (0.0, 0.0)


# ------------------------------------------------------------------------------------ live changes


async def test_documented_limits_are_changed_through_their_key_as_well(went: Went) -> None:
    api = LimitSet(
        [RateLimit("tokens", 10, RateLimitAlgorithm.TokenBucket, 10), ResourceLimit("files", 1)]
    )
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
    assert api.get_stats()["files"]["capacity"] == 2


@pytest.mark.parametrize("algorithm", [*RateLimitAlgorithm])
async def test_the_capacity_of_a_documented_limit_is_also_the_most_at_once(
    algorithm: RateLimitAlgorithm,
) -> None:
    api = LimitSet([RateLimit("tokens", 1e6, algorithm, 10)])
    for capacity in (50, 5, 20):
        api["tokens"].capacity = capacity
        with pytest.raises(WeightTooLarge) as refused:
            api.try_acquire(tokens=capacity + 1)
        assert refused.value.largest == capacity
        await asyncio.sleep(2e6)
        with api.try_acquire(tokens=capacity) as lease:
            assert lease.successful


async def test_when_a_member_is_closed_those_who_take_from_it_are_refused(went: Went) -> None:
    api = LimitSet(tokens=Throttle(1, initial=0), requests=Throttle(1, initial=0))
    takes = await queued(went.call(api, "takes of it"))
    skips = await queued(went.call(api, "skips it", tokens=0))
    api["tokens"].close()
    for refused in (takes, asyncio.create_task(went.call(api))):
        with pytest.raises(ThrottleClosed, match="tokens is closed") as error:
            await refused
        assert error.value.limit == "tokens"
    assert api.locked()
    await skips
    await went.call(api, "skips it, too", tokens=0)
    assert went == [("skips it", 1.0), ("skips it, too", 2.0)]


# -------------------------------------------------------------------------------------- foresight


def of_a_quiet_set() -> tuple[LimitSet, dict[str, Any]]:
    return LimitSet(tokens=Throttle(4, burst=40, initial=3), requests=Throttle(10)), {"tokens": 20}


def of_the_slowest_of_several() -> tuple[LimitSet, dict[str, Any]]:
    members: dict[str, Any] = {f"n{n}": Throttle(n, burst=20, initial=0) for n in (1, 2, 4, 8)}
    return LimitSet(**members), dict.fromkeys(members, 8)


def of_windows() -> tuple[LimitSet, dict[str, Any]]:
    sliding, fixed = rate_of(SlidingWindow), rate_of(FixedWindow)
    sliding.charge(7)
    fixed.charge(9)
    return LimitSet(sliding=sliding, fixed=fixed), {"sliding": 4}


def of_a_set_with_a_paused_member() -> tuple[LimitSet, dict[str, Any]]:
    api = LimitSet(tokens=Throttle(1, burst=10, initial=0), requests=Throttle(10))
    api["requests"].pause(7)
    return api, {"tokens": 5}


def of_a_set_that_empties_when_its_pause_ends() -> tuple[LimitSet, dict[str, Any]]:
    api = LimitSet(tokens=Throttle(1, burst=10), requests=Throttle(10))
    api.pause(2, empty=True)
    return api, {"tokens": 3}


def of_a_debt() -> tuple[LimitSet, dict[str, Any]]:
    api = LimitSet(tokens=Throttle(2, burst=5), requests=Throttle(10))
    api["tokens"].charge(9)
    return api, {"tokens": 1}


def of_another_class() -> tuple[LimitSet, dict[str, Any]]:
    return LimitSet(tokens=Throttle(2, burst=5, initial=0)), {"tokens": 3, "priority": 5}


MADE = {
    of_a_quiet_set: (4.25, "tokens"),
    of_the_slowest_of_several: (8.0, "n1"),
    of_windows: (10.0, "sliding"),
    of_a_set_with_a_paused_member: (7.0, "requests"),
    of_a_set_that_empties_when_its_pause_ends: (5.0, "tokens"),
    of_a_debt: (2.5, "tokens"),
    of_another_class: (1.5, "tokens"),
}


@pytest.mark.parametrize("make", MADE)
async def test_the_delay_is_the_instant_of_the_grant_and_names_what_is_waited_for(
    make: Callable[[], tuple[LimitSet, dict[str, Any]]], went: Went
) -> None:
    api, how = make()
    before = state(api)
    delay = api.delay(**how)
    assert isinstance(delay, Delay)
    assert (delay, delay.limit) == MADE[make]
    assert state(api) == before
    lease = await went.call(api, **how)
    assert went == [(None, delay)]
    assert lease.waited == delay


async def test_what_could_go_now_has_no_delay_and_nothing_to_wait_for() -> None:
    api = LimitSet(tokens=Throttle(10), concurrency=1)
    delay = api.delay(tokens=10)
    assert (delay, delay.limit) == (0.0, None)
    assert not api.locked()


async def test_the_delay_of_a_paused_set_names_no_limit(went: Went) -> None:
    api = LimitSet(tokens=Throttle(10))
    api.pause(3)
    delay = api.delay()
    assert (delay, delay.limit) == (3.0, None)


async def test_where_a_slot_is_missing_the_delay_is_a_lower_bound_and_names_its_limit() -> None:
    api = LimitSet(tokens=Throttle(1, burst=10, initial=0), files=Throttle(math.inf, 3))
    held = await holds(api, tokens=0, files=2)
    assert (api.delay(tokens=0), api.delay(tokens=0).limit) == (0.0, None)
    delay = api.delay(tokens=0, files=2)
    assert (delay, delay.limit) == (0.0, "files")
    delay = api.delay(tokens=5, files=2)
    assert delay == 5.0
    held.release()


async def test_the_slots_that_are_missing_are_those_that_the_call_wants() -> None:
    api = LimitSet(conns=Throttle(math.inf, 1), files=Throttle(math.inf, 1))
    held = await holds(api)
    assert api.delay(conns=0).limit == "files"
    assert api.delay(files=0).limit == "conns"
    held.release()


async def test_the_delay_raises_what_the_call_would() -> None:
    api = LimitSet(tokens=Throttle(10, max_waiting=0), files=Throttle(math.inf, 5), concurrency=2)
    for weights, limit in (({"tokens": 11}, "tokens"), ({"files": 6}, "files")):
        with pytest.raises(WeightTooLarge) as refused:
            api.delay(**weights)
        assert refused.value.limit == limit
    api["files"].close()
    with pytest.raises(ThrottleClosed) as closed:
        api.delay()
    assert closed.value.limit == "files"
    assert api.delay(files=0) == 0.0


async def test_stats_tell_of_each_limit_by_its_key() -> None:
    api = LimitSet(
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


async def test_stats_of_documented_limits_have_their_documented_keys() -> None:
    api = LimitSet(
        [
            RateLimit("tokens", 60, RateLimitAlgorithm.GCRA, 100),
            CallLimit(60, None, 10),
            ResourceLimit("files", 5),
        ]
    )
    async with api(tokens=25, files=2):
        assert api.get_stats() == {
            "tokens": {
                "key": "tokens",
                "window_seconds": 60,
                "algorithm": RateLimitAlgorithm.GCRA.value,
                "capacity": 100,
                "available_tokens": 75,
                "current_usage": 25,
                "utilization": 0.25,
            },
            "call_count": {
                "key": "call_count",
                "window_seconds": 60,
                "algorithm": RateLimitAlgorithm.SlidingWindow.value,
                "capacity": 10,
                "available_tokens": 9,
                "current_usage": 1,
                "utilization": 0.1,
            },
            "files": {
                "key": "files",
                "capacity": 5,
                "current_usage": 2,
                "available": 3,
                "utilization": 0.4,
            },
        }


# --------------------------------------------------------------- every refusal names its limit


async def test_too_heavy_names_the_limit_and_the_most_that_could_be() -> None:
    api = LimitSet(requests=Throttle(10, burst=3), tokens=Throttle(100), concurrency=2)
    for weights, limit, largest in (
        ({"requests": 3.5}, "requests", 3),
        ({"tokens": 101}, "tokens", 100),
        ({"concurrency": 3}, "concurrency", 2),
    ):
        with pytest.raises(WeightTooLarge, match=rf"{limit}.*largest.*{largest}") as refused:
            await holds(api, **weights)
        assert (refused.value.limit, refused.value.largest) == (limit, largest)
        assert refused.value.retry_after is None
        assert isinstance(refused.value, ValueError)


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


async def test_a_timeout_where_the_slot_is_kept_for_somebody_else_names_its_limit(
    went: Went,
) -> None:
    slots = Throttle(math.inf, 2)
    wide, narrow = LimitSet(slots=slots, a=Throttle(10)), LimitSet(slots=slots, b=Throttle(10))
    held = await holds(narrow)
    head = await queued(went.call(wide, slots=2))
    with pytest.raises(ThrottleTimeout) as refused:
        await holds(narrow, timeout=1)
    assert (now(), refused.value.limit) == (1.0, "slots")
    held.release()
    await head


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
    assert refused.value.limit == "1"
    assert api.delay().limit == 1


# ------------------------------------------------------------------- what a call has waited for


async def test_what_went_at_once_has_waited_for_nothing() -> None:
    api = LimitSet(tokens=Throttle(10), concurrency=1)
    async with api as lease:
        assert (lease.waited, lease.waited_for) == (0.0, {"tokens": 0.0, "concurrency": 0.0})


async def test_each_moment_counts_for_the_limit_that_held_up_the_head_then(went: Went) -> None:
    api = LimitSet(requests=Throttle(10), tokens=Throttle(1, burst=10, initial=10), concurrency=1)
    held = await holds(api, tokens=10)
    at(3.0, held.release)  # 3 tokens have come back by then
    lease = await went.call(api, tokens=8)
    assert lease.waited == 8.0
    assert lease.waited_for == {"requests": 0.0, "tokens": 5.0, "concurrency": 3.0}


async def test_who_waits_behind_others_waits_for_what_holds_them_up(went: Went) -> None:
    api = LimitSet(requests=Throttle(2, burst=1), tokens=Throttle(1, burst=10, initial=0))
    head = await queued(went.call(api, "head", tokens=4))
    await asyncio.sleep(1)
    behind = await queued(went.call(api, "behind", tokens=0))
    assert (await head).waited_for == {"requests": 0.0, "tokens": 4.0}
    lease = await behind
    assert lease.waited == 3.5
    assert lease.waited_for == {"requests": 0.5, "tokens": 3.0}


async def test_a_pause_of_a_member_counts_for_it_and_one_of_the_set_for_none(went: Went) -> None:
    api = LimitSet(requests=Throttle(10), tokens=Throttle(10))
    api["requests"].pause(2)
    at(1.0, lambda: api.pause(4))
    at(4.0, lambda: api["tokens"].pause(3))
    lease = await went.call(api)
    assert lease.waited == 7.0
    assert lease.waited_for == {"requests": 1.0, "tokens": 3.0, None: 3.0}


async def test_a_pause_that_empties_counts_until_it_ends_and_then_the_rate_does(
    went: Went,
) -> None:
    api = LimitSet(requests=Throttle(100), tokens=Throttle(2, burst=10))
    api.pause(2, empty=True)
    lease = await went.call(api, tokens=8)
    assert lease.waited == 6.0
    assert lease.waited_for == {"requests": 0.0, "tokens": 4.0, None: 2.0}


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


async def test_who_is_held_up_by_a_slot_that_another_head_keeps_waits_for_it(went: Went) -> None:
    slots = Throttle(math.inf, 2)
    wide, narrow = LimitSet(slots=slots, a=Throttle(10)), LimitSet(slots=slots, b=Throttle(10))
    held = await holds(narrow)
    at(2.0, held.release)
    head = await queued(went.call(wide, "wide", slots=2))
    lease = await went.call(narrow, "narrow")
    assert lease.waited_for == {"slots": 2.0, "b": 0.0}
    assert (await head).waited_for == {"slots": 2.0, "a": 0.0}
    assert went == [("wide", 2.0), ("narrow", 2.0)]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", [Throttle, threads.Throttle])
async def test_what_a_call_has_waited_for_adds_up_to_its_wait(
    kind: Any, seed: int, went: Went
) -> None:
    rng = random.Random(seed)
    shared, slots = kind(4, burst=8), kind(math.inf, 3)
    sets = [
        LimitSet(common=shared, slots=slots, own=rate_of(algorithm, 8, 2, kind), concurrency=2)
        for algorithm in (TokenBucket, SlidingWindow)
    ]

    async def one() -> LimitSetAcquisition:
        await asyncio.sleep(rng.randrange(16) / 4)
        weights = {
            "common": rng.randint(0, 8),
            "own": rng.randint(0, 8),
            "slots": rng.randint(0, 3),
        }

        async def body() -> None:
            await asyncio.sleep(rng.randrange(8) / 4)

        return await went.call(
            rng.choice(sets), body=body, priority=rng.choice([0, 0, 1]), **weights
        )

    for instant in range(1, 12):
        at(instant, lambda: rng.choice(sets).pause(rng.randrange(4) / 4, empty=rng.random() < 0.3))
        at(instant + 0.5, lambda: shared.pause(rng.randrange(4) / 4))
    leases = await asyncio.gather(*(one() for _ in range(30)))
    assert sum(lease.waited > 0 for lease in leases) > 10
    for lease in leases:
        waited_for = lease.waited_for
        assert sum(waited_for.values()) == pytest.approx(lease.waited, abs=1e-12)
        assert all(span >= 0 for span in waited_for.values())
        assert set(waited_for) - {None} == {"common", "slots", "own", "concurrency"}


# ------------------------------------------------------------------------------------ settlement


@pytest.mark.parametrize(
    ("algorithm", "again_at"),
    [
        (TokenBucket, 6.0),
        (GCRA, 6.0),
        (LeakyBucket, 6.0),
        (SlidingWindow, 10.0),
        (FixedWindow, 10.0),
    ],
)
async def test_more_than_taken_is_debt_that_later_callers_wait_out(
    algorithm: type[Rule], again_at: float, went: Went
) -> None:
    api = LimitSet(requests=Throttle(100), tokens=rate_of(algorithm))
    async with api(tokens=10) as lease:
        lease.settle(tokens=15)
        assert api["tokens"].level == -5
    lease = await went.call(api, tokens=1)
    assert went == [(None, again_at)]
    assert lease.waited_for["tokens"] == again_at


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
        [CallLimit(1e6, None, 10)],
        tokens=threads.Throttle(10, period=1e6),
        requests=threads.Throttle(10, period=1e6),
        concurrency=2,
    )
    async with api(tokens=5) as lease:
        before = state(api)
        with pytest.raises(ValueError, match=message):
            lease.settle(**usage)
        with pytest.raises(ValueError, match=message):
            lease.update(usage=usage)
        assert state(api) == before
        lease.update(usage={"tokens": 2, "call_count": 1})
        assert api["tokens"].level == 8


async def test_slots_are_not_used_up_whatever_is_said(went: Went) -> None:
    api = LimitSet(connections=Throttle(math.inf, 5), concurrency=3)
    async with api(connections=2) as lease:
        lease.settle(connections=5, concurrency=0)
        assert (api["connections"].active, api["concurrency"].active) == (2, 1)
    assert (api["connections"].active, api["concurrency"].active) == (0, 0)


async def test_a_settlement_in_a_body_that_raises_does_not_hide_its_error() -> None:
    api = LimitSet([CallLimit(60, None, 10), RateLimit("tokens", 60, None, 10)])

    async def fail_and_settle() -> None:
        async with api(tokens=5) as lease:
            try:
                raise Body
            finally:
                lease.settle(tokens=500)  # far above what there is

    with pytest.raises(Body) as raised:
        await fail_and_settle()
    assert raised.value.__context__ is None
    assert api["tokens"].throttle.level == -490
    with pytest.raises(Body) as raised, api.acquire({"tokens": 0}):
        raise Body
    assert raised.value.__context__ is None


async def test_a_settlement_before_the_grant_is_refused() -> None:
    api = LimitSet(tokens=Throttle(10))
    with pytest.raises(RuntimeError, match="nothing was granted"):
        api().settle(tokens=5)
    assert api["tokens"].level == 10


async def test_what_was_skipped_and_used_all_the_same_is_debt() -> None:
    # The estimate was nothing; the reply tells.
    api = LimitSet(requests=Throttle(10), tokens=Throttle(100, period=1e6))
    async with api(tokens=0) as lease:
        lease.settle(tokens=30)
        assert api["tokens"].level == 70
        lease.settle(tokens=20)
    assert api["tokens"].level == 80


# ------------------------------------------------------------------------------------- priorities


Use = Callable[[Any, Callable[[], None], int], Coroutine[Any, Any, None]]
"""Ways to be granted one token at a priority."""


async def by_with(limits: Any, went: Callable[[], None], priority: int) -> None:
    async with limits(priority=priority):
        went()


async def by_acquire(limits: Any, went: Callable[[], None], priority: int) -> None:
    await limits.acquire(priority=priority)
    went()


async def by_acquire_async(limits: Any, went: Callable[[], None], priority: int) -> None:
    await limits.acquire_async(priority=priority)
    went()


async def by_lease(limits: Any, went: Callable[[], None], priority: int) -> None:
    await limits.lease(priority=priority)
    went()


async def by_lease_async(limits: Any, went: Callable[[], None], priority: int) -> None:
    await limits.lease_async(priority=priority)
    went()


async def by_consume(limits: Any, went: Callable[[], None], priority: int) -> None:
    await limits.consume(priority=priority)
    went()


async def by_consume_async(limits: Any, went: Callable[[], None], priority: int) -> None:
    await limits.consume_async(priority=priority)
    went()


async def by_decorator(limits: Any, went: Callable[[], None], priority: int) -> None:
    @limits(priority=priority)  # type: ignore[untyped-decorator]
    async def call() -> None:
        went()

    await call()


def set_of(throttle: Any) -> LimitSet:
    return LimitSet(tokens=throttle, requests=type(throttle)(1000))


def alone(throttle: Any) -> Any:
    return throttle


WAYS: dict[str, tuple[Callable[[Any], Any], Any, Use]] = {
    "Throttle, async with": (alone, Throttle, by_with),
    "Throttle, acquire": (alone, Throttle, by_acquire),
    "Throttle, lease": (alone, Throttle, by_lease),
    "Throttle, consume": (alone, Throttle, by_consume),
    "Throttle, decorator": (alone, Throttle, by_decorator),
    "threads, async with": (alone, threads.Throttle, by_with),
    "threads, acquire": (alone, threads.Throttle, by_acquire_async),
    "threads, lease": (alone, threads.Throttle, by_lease_async),
    "threads, consume": (alone, threads.Throttle, by_consume_async),
    "threads, decorator": (alone, threads.Throttle, by_decorator),
    "set, async with": (set_of, Throttle, by_with),
    "set, acquire": (set_of, Throttle, by_acquire),
    "set, decorator": (set_of, Throttle, by_decorator),
    "set for threads, async with": (set_of, threads.Throttle, by_with),
    "set for threads, acquire": (set_of, threads.Throttle, by_acquire),
}


class Line:
    """Callers with priorities before limits that let one go each second, from 1.0 on."""

    def __init__(self, way: str) -> None:
        make, kind, self.use = WAYS[way]
        self.throttle = kind(1, burst=1, initial=0)
        self.limits = make(self.throttle)
        self.went = Went()
        self._tasks: list[asyncio.Task[None]] = []

    async def come(self, name: object, priority: int) -> None:
        def note() -> None:
            self.went.append((name, now()))

        self._tasks.append(await queued(self.use(self.limits, note, priority)))

    async def all_gone(self) -> list[object]:
        await asyncio.gather(*self._tasks)
        assert [when for _, when in self.went] == [n + 1.0 for n in range(len(self.went))]
        return self.went.names


@pytest.fixture(params=WAYS)
async def line(request: pytest.FixtureRequest) -> Line:
    return Line(request.param)


async def test_the_better_priority_goes_first_and_within_one_arrival_decides(line: Line) -> None:
    for name, priority in zip("abcdefg", (0, 5, -1, 0, -1, 5, -100), strict=True):
        await line.come(name, priority)
    assert line.limits.waiting == 7
    assert await line.all_gone() == list("gceadbf")


async def test_a_class_that_was_passed_over_32_times_in_a_row_has_its_turn(line: Line) -> None:
    for n in range(3):
        await line.come(("last", n), 9)
    for n in range(100):
        await line.come(n, 0)
    names = await line.all_gone()
    assert [names.index(("last", n)) for n in range(3)] == [32, 65, 98]
    assert [name for name in names if not isinstance(name, tuple)] == list(range(100))


async def test_priorities_hold_between_sets_and_those_who_use_a_throttle_alone(
    went: Went,
) -> None:
    shared = Throttle(1, initial=0)
    one, other = LimitSet(shared, Throttle(100)), LimitSet(shared, Throttle(100))
    tasks: list[asyncio.Task[Any]] = [
        await queued(went.call(one, "last", priority=1)),
        await queued(went.alone(shared, "second")),
        await queued(went.call(other, "first", priority=-1)),
    ]
    await asyncio.gather(*tasks)
    assert went == [("first", 1.0), ("second", 2.0), ("last", 3.0)]


@pytest.mark.parametrize("kind", [Throttle, threads.Throttle])
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
@pytest.mark.parametrize("kind", [Throttle, threads.Throttle])
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
        with pytest.raises(ValueError, match="priority must be a whole number, got "):
            call()
    assert tokens.level == 10


# ------------------------------------------------------------------------ loops, clocks, memory


def test_a_set_goes_on_in_another_event_loop() -> None:
    api = LimitSet(tokens=Throttle(10, period=1e6), concurrency=2)

    async def use() -> None:
        async with api(tokens=2):
            waiting = asyncio.create_task(api(concurrency=2).__aenter__())
            await others_run()
            assert api.waiting == 1
            waiting.cancel()
            await others_run()

    asyncio.run(use())
    asyncio.run(use())
    with api:
        assert api["tokens"].level == pytest.approx(5, abs=0.01)
    assert api["concurrency"].active == 0


def test_waiters_of_a_loop_that_was_closed_are_dropped() -> None:
    api = LimitSet(tokens=Throttle(10, period=1e6, initial=0), requests=Throttle(10))
    loop = asyncio.new_event_loop()
    coroutine = holds(api, tokens=10)
    task = loop.create_task(coroutine)
    loop.run_until_complete(others_run())
    assert api.waiting == 1
    loop.close()
    assert api.waiting == 0

    async def use() -> None:
        async with api(tokens=0):
            pass

    asyncio.run(use())
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine.close()


def test_virtual_loops_one_after_the_other_each_begin_at_0() -> None:
    api = LimitSet(tokens=Throttle(1, burst=5), requests=Throttle(10))

    async def use() -> list[float]:
        went = Went()
        for _ in range(7):
            await went.call(api)
        return [when for _, when in went]

    assert testing.run(use()) == [0.0] * 5 + [1.0, 2.0]
    # It was left at 2.0, empty; what comes back from there on is counted by the new clock.
    assert testing.run(use()) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


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
    assert api.try_acquire(requested={0: 2, 1: 3}).successful
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
    log = [(when, 1.0) for _, when in went]
    assert bucket_holds(log, 1, 10)
    for chat in range(3):
        own = [(when, 1.0) for name, when in went if name != "alone" and name in range(chat, 9, 3)]
        assert bucket_holds(own, 1, 1)


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

    async def throng(count: int) -> None:
        await asyncio.gather(*(one() for _ in range(count)))

    gc.collect()
    gc.disable()  # nothing of this may need the collector
    try:
        for _ in range(throngs):
            await throng(50)
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
        async with limits(timeout=1e6 if n % 2 else None):
            pytest.fail("granted")

    async def throng() -> None:
        tasks = [asyncio.create_task(one(n)) for n in range(60)]
        await others_run()
        assert everybody.waiting == 60
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    await throng()
    await others_run()  # what asyncio keeps of a task that was cancelled
    gc.collect()  # a traceback is a cycle
    assert [ref for ref in remains if ref() is not None] == []
    queue = find(core_of(everybody)).queue
    assert list(queue.lanes.values()) == [core_of(everybody).lane]
    assert queue.waiting == 0


async def test_a_scheduler_is_left_to_whoever_joins_next_when_its_set_has_gone(went: Went) -> None:
    shared = Throttle(10)
    for n in range(3):
        limits = LimitSet(shared, Throttle(10))
        await went.call(limits, n)
        del limits
        await went.alone(shared, "alone")
    assert went.names == [0, "alone", 1, "alone", 2, "alone"]
    assert shared.level == 4


async def test_drain_waits_until_nobody_waits_or_holds(went: Went) -> None:
    api = LimitSet(tokens=Throttle(1, initial=0), concurrency=1)
    body = asyncio.Event()
    task = await queued(went.call(api, body=body.wait))
    at(3.0, body.set)
    await api.drain()
    assert now() == 3.0
    assert task.done()
