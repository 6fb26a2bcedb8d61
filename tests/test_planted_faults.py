"""Faults that were planted by hand, and that all other tests let pass: tests for each of them.

The tests use only what a user can call and see, and so outlive whatever is rebuilt below.
Time is virtual: instants are compared by ``==``.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest
from freezegun import freeze_time
from limiters import Kind, every_kind
from support import now, others_run, queued

from async_throttle import (
    AIMD,
    GCRA,
    FixedWindow,
    LeakyBucket,
    LimitPool,
    LimitSet,
    SlidingWindow,
    Throttle,
    ThrottleClosed,
    ThrottleTimeout,
    TokenBucket,
    testing,
    threads,
)

pytestmark = pytest.mark.virtual_time

RULES = [TokenBucket, GCRA, LeakyBucket, SlidingWindow, FixedWindow]

kinds = pytest.mark.parametrize("kind", [Throttle, threads.Throttle], ids=["loop", "threads"])
"""The throttle for one event loop, and the one for threads, which is used in a loop here."""


async def enter(block: Any) -> None:
    async with block:
        pass


def by_a_set(ones: LimitSet, others: LimitSet) -> None:
    LimitSet(*(next(limits[key] for key in limits) for limits in (ones, others)))


def by_a_pool(ones: LimitSet, others: LimitSet) -> None:
    LimitPool([ones, others])


Join = Callable[[LimitSet, LimitSet], None]

joins = pytest.mark.parametrize("join", [by_a_set, by_a_pool])
"""What makes throttles depend on each other that did not before."""

moves = pytest.mark.parametrize("moves", [True, False], ids=["moves", "stays"])
"""Which of the two groups that are joined a throttle is in."""


def joined(test: Any) -> Any:
    """A test of a throttle that is joined with others."""
    return kinds(joins(moves(test)))


def taken(kind: Any, slots: int) -> Any:
    """A throttle whose slots are all taken."""
    throttle = kind(math.inf, slots)
    for _ in range(slots):
        assert throttle.try_acquire()
    return throttle


def apart(throttle: Any, moves: bool, **options: Any) -> tuple[LimitSet, LimitSet]:
    """Two throttles that depend on each other, and a single one: which of them is *throttle*."""
    one, other = (type(throttle)(10, **options) for _ in range(2))
    return LimitSet(one, other if moves else throttle), LimitSet(throttle if moves else other)


# -- the entry that takes a shortcut ------------------------------------------------------


@every_kind
@pytest.mark.parametrize("algorithm", RULES)
@pytest.mark.parametrize("later", [False, True], ids=["plain", "lease"])
async def test_a_call_settled_after_a_later_one_gives_back_only_what_the_bucket_could_hold(
    kind: Kind, algorithm: Any, later: bool
) -> None:
    # The bucket would have been full at 0.45 s without the first call, and 9 after the second.
    # A refund that overlooks the second, which may be a plain entry, mints a token.
    burst = {} if algorithm in (SlidingWindow, FixedWindow) else {"burst": 10}
    limiter = kind.make(10, 5, algorithm=algorithm, **burst)
    async with limiter.call(5) as lease:
        await asyncio.sleep(0.45)
        async with limiter.throttle() if later else limiter.throttle:
            if limiter.asked is limiter.throttle:
                lease.settle(0)
            else:
                lease.settle(x=0)
    assert limiter.throttle.level == 9.0


@every_kind
@pytest.mark.parametrize("plain", [True, False])
async def test_calls_at_the_promised_instants_never_wait_for_the_rest_of_a_nanosecond(
    kind: Kind, plain: bool
) -> None:
    # A token takes 333,333,333 1/3 ns. An instant is told rounded up, and what the bucket has
    # gained beyond the token by then is kept: else every third call is a nanosecond late.
    limiter = kind.make(3, 1, burst=1)
    for n in range(100):
        promised = -(-n * 10**9 // 3) / 10**9
        await asyncio.sleep(promised - now())
        async with limiter.throttle if plain else limiter.call():
            assert now() == promised


@every_kind
async def test_a_wait_behind_another_caller_counts_the_rest_of_a_nanosecond(kind: Kind) -> None:
    # Two tokens take 666,666,666 2/3 ns, also if the first is granted at 333,333,334 ns: a rule
    # that calls the bucket full at that instant promises the second a nanosecond late.
    limiter = kind.make(3, burst=1)
    assert limiter.try_acquire()
    limiter.throttle.pause(0.333333334)
    await queued(enter(limiter.call()))
    assert limiter.delay() == 0.666666667


# -- sets without limits ------------------------------------------------------------------


@pytest.mark.parametrize("resumed", [0, 1])
@pytest.mark.parametrize("kind", [None, Throttle, threads.Throttle])
@pytest.mark.parametrize("first", [True, False], ids=["empty first", "empty last"])
async def test_each_set_of_a_pool_wakes_callers_when_resumed_also_one_without_limits(
    kind: Any, first: bool, resumed: int
) -> None:
    # Callers of a pool wait in one queue. A set without limits has no throttle that leads there:
    # if it keeps a queue of its own, resuming it wakes no caller of the pool.
    sets = [LimitSet(), LimitSet() if kind is None else LimitSet(x=kind(10))]
    pool = LimitPool(sets if first else sets[::-1])
    for limit_set in sets:
        limit_set.pause(math.inf)
    caller = await queued(enter(pool()))
    assert not caller.done()
    sets[resumed].resume()
    await others_run()
    assert caller.done()


# -- throttles that are joined ------------------------------------------------------------


@joined
async def test_a_throttle_that_was_closed_before_it_was_joined_grants_nothing(
    kind: Any, join: Join, moves: bool
) -> None:
    # A set at rest grants at once, unless one of the throttles that depend on each other is
    # closed. If a join forgets that one is, the closed throttle grants.
    throttle = kind(10)
    groups = apart(throttle, moves)
    throttle.close()
    join(*groups)
    with pytest.raises(ThrottleClosed):
        await enter(groups[moves]())
    with pytest.raises(ThrottleClosed):
        groups[moves].acquire()


@joined
@pytest.mark.parametrize("drained", ["throttle", "set"])
async def test_drain_ends_also_if_the_throttle_was_joined_meanwhile(
    kind: Any, join: Join, moves: bool, drained: str
) -> None:
    # The slot comes back where the throttle is now. If a join leaves the callers of drain()
    # behind, they wait for ever.
    throttle = kind(math.inf, 1)
    groups = apart(throttle, moves)
    held = groups[moves].try_acquire()
    of_the_throttle = getattr(throttle, "drain_async", throttle.drain)
    end = await queued(groups[moves].drain() if drained == "set" else of_the_throttle())
    join(*groups)
    await others_run()
    assert not end.done()
    held.release()
    await others_run()
    assert end.done()


@joined
async def test_a_newcomer_waits_for_those_granted_just_before_a_join(
    kind: Any, join: Join, moves: bool
) -> None:
    # A caller is granted, its task has not run yet, and a second slot is free. If a join in
    # that very step forgets the caller, a newcomer starts before it.
    throttle = taken(kind, 2)
    groups = apart(throttle, moves)
    caller = await queued(enter(throttle))
    throttle.release()
    throttle.release()
    join(*groups)
    assert throttle.locked()
    assert not throttle.try_acquire()
    await caller
    assert throttle.try_acquire()


@joined
def test_a_slot_granted_just_before_a_join_comes_back_if_the_loop_closes(
    kind: Any, join: Join, moves: bool
) -> None:
    # The granted task never runs and never gives its slot back. If a join forgets the task,
    # the throttle does not do it either, and the slot is lost.
    throttle = taken(kind, 1)
    groups = apart(throttle, moves)
    tasks: list[asyncio.Task[None]] = []  # kept, or the garbage collector would end them

    async def main() -> None:
        tasks.append(await queued(enter(throttle)))
        throttle.release()
        join(*groups)
        loop.stop()

    loop = testing.VirtualTimeLoop()
    tasks.append(loop.create_task(main()))
    loop.run_forever()
    loop.close()
    assert throttle.active == 0
    assert not tasks[1].done()


@joined
def test_a_clock_that_goes_back_mints_nothing_whichever_of_the_joined_has_the_longest_period(
    kind: Any, join: Join, moves: bool
) -> None:
    # Time stands still until the clock has caught up. Only a step back of more than the longest
    # period is another clock, on which time goes on. If a join forgets the longest period, the
    # five seconds count twice and bring five tokens.
    reading = 100.0

    def clock() -> float:
        return reading

    slow = kind(10, period=10, timer=clock)
    join(*apart(slow, moves, timer=clock))
    assert slow.try_acquire(10)
    reading -= 5
    assert slow.level == 0
    reading += 5
    assert slow.level == 0


@joined
@pytest.mark.parametrize("way", ["plain", "lease", "set"])
async def test_a_limit_that_follows_its_calls_still_does_after_it_was_joined(
    kind: Any, join: Join, moves: bool, way: str
) -> None:
    # Calls are measured only if one of the throttles that depend on each other adapts. If a
    # join forgets that, the limit stays where it is for good.
    throttle = kind(math.inf, 10, adapt=AIMD(decrease=0.5))
    groups = apart(throttle, moves)
    join(*groups)
    with pytest.raises(TimeoutError):
        async with {"plain": throttle, "lease": throttle(), "set": groups[moves]()}[way]:
            raise TimeoutError
    assert throttle.concurrency < 10


# -- slots that are given back ------------------------------------------------------------


@kinds
async def test_a_caller_gets_the_first_slot_that_is_given_back_above_a_lowered_limit(
    kind: Any,
) -> None:
    # While another slot is free, callers wait for time, and a release wakes none of them. The
    # first free slot is not such a release: if it is taken for one, the caller waits for ever.
    throttle = taken(kind, 3)
    throttle.concurrency = 1
    caller = await queued(enter(throttle))
    for free in (-1, 0, 1):
        throttle.release()
        await others_run()
        assert caller.done() == (free == 1)


@kinds
async def test_a_second_slot_given_back_wakes_a_set_that_wants_two(kind: Any) -> None:
    # A slot was free before, and yet a set waits for a slot: for the second of two.
    throttle = taken(kind, 3)
    caller = await queued(enter(LimitSet(x=throttle)(x=2)))
    throttle.release()
    await others_run()
    assert not caller.done()
    throttle.release()
    await others_run()
    assert caller.done()


@kinds
async def test_a_second_slot_given_back_wakes_a_caller_who_may_not_have_the_first(
    kind: Any,
) -> None:
    # The free slot is kept for a set that came before and waits for time; the next slot is not.
    # A release that sees the caller's queue, but not the set's, leaves the caller waiting.
    throttle, rate = kind(math.inf, 3), kind(1, period=100, initial=0)
    first = await queued(enter(LimitSet(throttle, rate)()))
    assert throttle.try_acquire()
    assert throttle.try_acquire()
    assert not throttle.try_acquire()
    second = await queued(enter(throttle))
    assert not second.done()
    throttle.release()
    await others_run()
    assert (first.done(), second.done(), now()) == (False, True, 0.0)


@kinds
async def test_drain_ends_with_the_last_slot_given_back_while_others_are_free(kind: Any) -> None:
    # A release that wakes no caller because slots were free has to tell drain() all the same.
    throttle = kind(math.inf, 3)
    assert throttle.try_acquire()
    end = await queued(LimitSet(throttle).drain())
    throttle.release()
    await others_run()
    assert end.done()


# -- clocks -------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("pooled", [False, True])
def test_settling_on_a_clock_that_has_gone_back_does_not_take_time_back(
    kind: Any, pooled: bool
) -> None:
    # A settlement takes a shortcut to the clock while the queue is empty. If it believes a
    # reading from before the last one, the tokens that came in between are lost.
    with freeze_time("1970-01-02") as frozen:
        throttle = kind(10, burst=10)
        asked: Any = LimitSet(x=throttle)
        lease = (LimitPool([asked]) if pooled else asked).acquire({"x": 6})
        frozen.tick(0.2)
        assert throttle.level == 6
        frozen.tick(-0.1)
        lease.settle(x=7)
        assert throttle.level == 5
        frozen.tick(0.1)
        assert throttle.level == 5


# -- callers who are cancelled ------------------------------------------------------------


@kinds
async def test_a_cancelled_caller_of_a_pool_is_out_of_the_way_in_each_of_its_sets(
    kind: Any,
) -> None:
    # It stands behind a caller of the first set, and before a caller of the second. If only its
    # place in the first is looked at, the caller of the second sleeps on.
    sets = [LimitSet(x=kind(1, burst=10, initial=5)) for _ in range(2)]
    await queued(enter(sets[0](x=10)))
    heavy = await queued(enter(LimitPool(sets)(x=8)))
    light = await queued(enter(sets[1](x=3)))
    assert not light.done()
    heavy.cancel()
    await others_run()
    assert (light.done(), now()) == (True, 0.0)


@every_kind
@pytest.mark.parametrize("behind", [True, False], ids=["behind another", "alone"])
def test_a_cancelled_caller_takes_the_timer_of_its_timeout_along(kind: Kind, behind: bool) -> None:
    # A timer that is left behind wakes the loop for nothing, here after five seconds.
    async def main() -> None:
        limiter = kind.make(math.inf, 1)
        assert limiter.try_acquire()
        if behind:
            await queued(enter(limiter.call()))
        caller = await queued(enter(limiter.call(timeout=5)))
        caller.cancel()
        await asyncio.Event().wait()

    with pytest.raises(testing.DeadlockError, match=r"^at 0\.0 s"):
        testing.run(main())


# -- what a refusal says ------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("pooled", [False, True], ids=["set", "pool"])
@pytest.mark.parametrize("both", [False, True], ids=["own limit free", "own limit taken"])
async def test_a_refusal_names_the_limit_that_the_first_of_the_queue_lacks(
    kind: Any, pooled: bool, both: bool
) -> None:
    # A newcomer waits behind the head, and so for the slot that the head lacks. A refusal that
    # looks at the newcomer's own weights names its own limit, or none.
    limits = LimitSet(a=kind(math.inf, 1), b=kind(math.inf, 1))
    asked: Any = LimitPool([limits]) if pooled else limits
    assert limits["b"].try_acquire()
    if both:
        assert limits["a"].try_acquire()
    await queued(enter(asked(a=0)))
    await queued(enter(asked(b=0)))
    assert asked.delay(b=0).limit == "b"
    for timeout in (0, 1):
        with pytest.raises(ThrottleTimeout) as refusal:
            await enter(asked(b=0, timeout=timeout))
        assert refusal.value.limit == "b"
    assert now() == 1.0


# -- weights ------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("args", [(math.inf,), (10,), (10, 2)])
async def test_of_a_limit_with_a_rate_or_without_any_a_fraction_may_be_asked(
    kind: Any, args: tuple[Any, ...]
) -> None:
    # Slots are whole. A throttle without rate and slots has none, and still is no limit of slots.
    async with LimitSet(x=kind(*args))(x=0.5) as lease:
        assert lease.weights == {"x": 0.5}


# -- who gets out of whose way ------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("way", ["block", "try_acquire"])
async def test_a_grant_that_takes_the_slot_of_the_head_frees_those_who_want_only_tokens(
    kind: Kind, way: str
) -> None:
    # The head waits for tokens, and a caller who wants fewer tokens and no slot waits behind it.
    # A better priority takes the slot that the head wants: a head without a slot holds up no
    # tokens. Without a look at the queue after that grant, the caller sleeps on.
    limiter = kind.make(1, 1, burst=10, initial=5)
    throttle = limiter.throttle
    head = await queued(enter(limiter.call(8)))
    consume = getattr(throttle, "consume_async", throttle.consume)
    consumer = await queued(consume(3))
    assert not consumer.done()
    if way == "block":
        await limiter.lease(priority=-1)
    else:
        assert limiter.try_acquire(priority=-1)
    await others_run()
    assert (head.done(), consumer.done(), now()) == (False, True, 0.0)
