"""A pause belongs to the throttles that a set takes together, not to the set that was told.

Sets are made for one call, told of a ban by that call, and dropped; the next call makes an equal
set. So the pause is kept until it ends, or until the first of its throttles is gone.
"""

from __future__ import annotations

import asyncio
import gc
import math
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from support import now, queued

from async_throttle import (
    FixedWindow,
    LimitPool,
    LimitSet,
    SlidingWindow,
    Throttle,
    Throttles,
    ThrottleTimeout,
    TokenBucket,
    limits,
    threads,
)

both_kinds = pytest.mark.parametrize("kind", [Throttle, threads.Throttle], ids=["loop", "threads"])

WAYS: dict[str, Callable[[Any, Any], LimitSet]] = {
    "the same": LimitSet,
    "the other way round": lambda one, other: LimitSet(other, one),
    "by names": lambda one, other: LimitSet(one=one, other=other),
    "by names, the other way round": lambda one, other: LimitSet(b=other, a=one),
    "as a list": lambda one, other: limits.LimitSet([other, one]),
}


@both_kinds
@pytest.mark.parametrize("again", WAYS.values(), ids=WAYS)
async def test_a_pause_outlives_the_set_that_was_told(kind: Any, again: Any) -> None:
    one, other = kind(1000), kind(1000)
    async with LimitSet(one, other) as lease:
        lease.limit_set.pause(30)
    del lease
    gc.collect()
    assert again(one, other).paused_for == 30
    async with again(one, other):
        assert now() == 30
    assert again(one, other).paused_for == 0


async def test_a_pause_outlives_the_set_that_was_told_however_many_others_are_made() -> None:
    older = [Throttle(1000) for _ in range(10)]
    chat = Throttle(1000)
    LimitSet(older[0], chat).pause(30)
    for each in older[1:]:
        assert LimitSet(each, chat).paused_for == 0
    assert LimitSet(older[0], chat).paused_for == 30


@both_kinds
async def test_pauses_told_to_equal_sets_merge(kind: Any) -> None:
    one, other = kind(1000), kind(1000)
    LimitSet(one, other).pause(30)
    LimitSet(other, one).pause(timedelta(seconds=10))
    gc.collect()
    assert LimitSet(one, other).paused_for == 30
    LimitSet(one, other).pause(40)
    assert LimitSet(other, one).paused_for == 40


@both_kinds
@pytest.mark.parametrize("again", WAYS.values(), ids=WAYS)
async def test_an_equal_set_ends_the_pause_for_all(kind: Any, again: Any) -> None:
    one, other = kind(1000), kind(1000)
    LimitSet(one, other).pause(math.inf)
    waiter = await queued(LimitSet(one, other)().__aenter__())
    gc.collect()
    again(one, other).resume()
    await waiter
    assert now() == 0
    assert LimitSet(one, other).paused_for == 0


@both_kinds
async def test_a_pause_holds_callers_of_all_priorities_and_of_sets_made_before(kind: Any) -> None:
    one, other = kind(1000), kind(1000)
    before = LimitSet(one, other)
    LimitSet(other, one).pause(30)
    gc.collect()
    after = LimitSet(one, other)
    waiters = [
        asyncio.create_task(limit_set(priority=priority).__aenter__())
        for limit_set in (before, after)
        for priority in (-1, 0, 1)
    ]
    await asyncio.sleep(29.9)
    assert not any(waiter.done() for waiter in waiters)
    await asyncio.gather(*waiters)
    assert now() == 30


@both_kinds
async def test_other_combinations_and_the_throttles_themselves_go_on(kind: Any) -> None:
    one, other, third = kind(1000), kind(1000), kind(1000)
    LimitSet(one, other).pause(30)
    gc.collect()
    for free in (
        LimitSet(one),
        LimitSet(other),
        LimitSet(one, third),
        LimitSet(one, other, third),
        LimitSet(one, other, concurrency=2),
        one,
        other,
    ):
        assert free.paused_for == 0
        await free().__aenter__()
    assert now() == 0
    assert LimitSet(other, one).paused_for == 30


@both_kinds
async def test_slots_of_the_set_itself_make_a_combination_of_its_own_each_time(kind: Any) -> None:
    one, other = kind(1000), kind(1000)
    paused = LimitSet(one, other, concurrency=2)
    paused.pause(30)
    assert LimitSet(one, other, concurrency=2).paused_for == 0
    assert LimitSet(one, other).paused_for == 0
    assert paused.paused_for == 30
    assert LimitSet(one, other, paused["concurrency"]).paused_for == 30


@both_kinds
@pytest.mark.parametrize("algorithm", [TokenBucket, SlidingWindow, FixedWindow])
async def test_a_pause_that_empties_does_so_at_its_end_though_nobody_keeps_the_set(
    kind: Any, algorithm: Any
) -> None:
    one, other = kind(1000, algorithm=algorithm), kind(10, 0, 10, algorithm=algorithm)
    LimitSet(one, other).pause(30, empty=True)
    gc.collect()
    assert other.level == 10
    await asyncio.sleep(30)
    assert (one.level, other.level) == (0, 0)
    async with LimitSet(one, other):
        assert now() == (31 if algorithm is TokenBucket else 40)


@both_kinds
async def test_a_set_that_a_pool_chose_is_paused_for_those_who_come_after(kind: Any) -> None:
    one, other = kind(1000), kind(1000)
    async with LimitPool([LimitSet(one, other)])() as lease:
        lease.limit_set.pause(30)
    del lease
    gc.collect()
    async with LimitPool([LimitSet(other, one)])():
        assert now() == 30


@both_kinds
@pytest.mark.parametrize("gone", [0, 1])
async def test_a_pause_is_over_when_the_first_of_its_throttles_is_collected(
    kind: Any, gone: int
) -> None:
    throttles = [kind(1000), kind(1000)]
    LimitSet(*throttles).pause(math.inf)
    dead = weakref.ref(throttles.pop(gone))
    gc.collect()
    assert dead() is None, "a pause keeps no throttle alive"
    stays = weakref.ref(throttles[0])
    for _ in range(20):  # some of them where the dead one was
        assert LimitSet(throttles[0], kind(1000)).paused_for == 0
    del throttles
    gc.collect()
    assert stays() is None


@both_kinds
async def test_a_throttle_that_dies_in_a_pause_that_empties_leaves_the_other_as_it_is(
    kind: Any,
) -> None:
    one, other = kind(1000), kind(1000)
    LimitSet(one, other).pause(30, empty=True)
    del one
    gc.collect()
    await asyncio.sleep(31)
    assert other.level == 1000
    async with other:
        assert now() == 31


@both_kinds
async def test_pauses_that_are_over_are_not_kept(kind: Any) -> None:
    everybody = kind(1e6)
    chats: list[weakref.ref[Any]] = []
    for _ in range(50):
        chat = kind(1000)
        LimitSet(everybody, chat).pause(1)
        chats.append(weakref.ref(chat))
        del chat
    gc.collect()
    assert not any(chat() for chat in chats)
    async with everybody:
        assert now() == 0


@both_kinds
async def test_a_key_whose_combination_is_paused_is_not_forgotten(kind: Any) -> None:
    everybody = kind(1e6)
    chats: Throttles[object, Any] = Throttles(lambda chat: kind(1000))
    LimitSet(everybody, chats["banned"]).pause(30)
    for n in range(20):  # which looks at the old keys
        chats[n]
    gc.collect()
    async with LimitSet(everybody, chats["banned"]):
        assert now() == 30
    await asyncio.sleep(1)
    for n in range(20, 60):
        chats[n]
    assert "banned" not in chats


@both_kinds
async def test_a_refusal_says_which_pause_it_is_and_until_when(kind: Any) -> None:
    a, b = kind(10), kind(10)
    api = LimitSet(a=a, b=b)
    b.pause(20)
    with pytest.raises(
        ThrottleTimeout, match=r"^b is paused for another 20 s, and does "
    ) as refusal:
        await api(timeout=1).__aenter__()
    assert (refusal.value.limit, refusal.value.retry_after) == ("b", 20)
    async with api(b=0):
        pass
    api.pause(30)
    with pytest.raises(ThrottleTimeout, match=r"^the set is paused for another 30 s, ") as refusal:
        await api(timeout=1).__aenter__()
    assert (refusal.value.limit, refusal.value.retry_after) == ("pause", 30)
    assert (float(api.delay()), api.delay().limit) == (30.0, "pause")


@both_kinds
async def test_a_pause_and_a_limit_of_that_name_are_told_together(kind: Any) -> None:
    api = LimitSet(pause=kind(1, initial=0))
    api.pause(3)
    api["pause"].charge(4)
    async with api() as lease:
        assert lease.waited == 5
        assert lease.waited_for == {"pause": 5.0}
