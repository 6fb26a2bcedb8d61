"""What can be asked of a throttle can be asked of every limiter, and means the same.

`ASKED` is the table of what can be asked: every entry has a test here that runs over limiters of
all kinds. A member that is added to the protocols, and has no test, fails the first one.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from support import now, others_run, queued

from async_throttle import (
    BaseThrottle,
    ConcurrencyLimiter,
    Limiter,
    LimitPool,
    LimitSet,
    RateLimiter,
    Refused,
    ResourceLimitError,
    SyncLimiter,
    Throttle,
    ThrottleClosed,
    ThrottleFull,
    ThrottleTimeout,
    WeightTooLarge,
    limits,
    threads,
)

pytestmark = pytest.mark.virtual_time


@dataclass(frozen=True)
class Kind:
    """A kind of limiter.

    Attributes:
        make: a limiter of 10 tokens per second, in bursts of 20, and 2 at once; or of the half of
            that which it knows.
        sets: 0 of a number, 1 of a set, 2 of a pool.
        rate, slots: which of the limits it has.
        sync: whether it is for threads as well.
    """

    name: str
    make: Callable[..., Any]
    sets: int = 0
    rate: bool = True
    slots: bool = True
    sync: bool = False

    def __str__(self) -> str:
        return self.name

    def says(self, weight: float) -> Any:
        """*weight* as this limiter is told of it."""
        return {"x": weight} if self.sets else weight

    def reads(self, reading: Any) -> Any:
        """What *reading* tells of the limit in question."""
        for key in (("x",), (0, "x"))[self.sets - 1] if self.sets else ():
            reading = reading[key]
        return reading

    def throttle(self, limiter: Any) -> Any:
        """The throttle in question."""
        if self.sets == 0:
            return limiter if isinstance(limiter, BaseThrottle) else limiter.throttle
        return (limiter if self.sets == 1 else limiter[0])["x"]


def a_set(kind: Any, made: Any = LimitSet) -> Callable[..., Any]:
    return lambda **options: made(other=kind(1e6, 100), x=kind(10, 2, burst=20, **options))


def a_pool(kind: Any, made: Any = LimitPool, of: Any = LimitSet) -> Callable[..., Any]:
    return lambda **options: made([a_set(kind, of)(**options)])


KINDS = (
    Kind("Throttle", lambda **options: Throttle(10, 2, burst=20, **options)),
    Kind("threads.Throttle", lambda **o: threads.Throttle(10, 2, burst=20, **o), sync=True),
    Kind("LimitSet", a_set(Throttle), 1),
    Kind("LimitSet of threads", a_set(threads.Throttle), 1, sync=True),
    Kind("limits.LimitSet", a_set(threads.Throttle, limits.LimitSet), 1, sync=True),
    Kind("LimitPool", a_pool(Throttle), 2),
    Kind("LimitPool of threads", a_pool(threads.Throttle), 2, sync=True),
    Kind(
        "limits.LimitPool",
        a_pool(threads.Throttle, limits.LimitPool, limits.LimitSet),
        *(2, True, True, True),
    ),
    Kind("RateLimiter", lambda: RateLimiter(10, 20), slots=False),
    Kind("ConcurrencyLimiter", lambda: ConcurrencyLimiter(2), rate=False),
)
WITH_RATE = [kind for kind in KINDS if kind.rate]
WITH_SLOTS = [kind for kind in KINDS if kind.slots]
OF_THREADS = [kind for kind in KINDS if kind.sync]
OF_SETS = [kind for kind in KINDS if kind.sets]

ASKED: dict[str, list[str]] = {}
"""What can be asked, and the tests of it."""


def asks(*names: str, of: Any = KINDS) -> Callable[[Any], Any]:
    """The test shows what these members do."""

    def note(test: Any) -> Any:
        for name in names:
            ASKED.setdefault(name, []).append(test.__name__)
        return pytest.mark.parametrize("kind", of, ids=str)(test)

    return note


def later(limiter: Any, name: str, *args: Any, **options: Any) -> Any:
    """What is to be awaited in a loop: throttles for threads have a name of its own for that."""
    of_threads = isinstance(limiter, threads.Throttle)
    return getattr(limiter, f"{name}_async" if of_threads else name)(*args, **options)


# ----------------------------------------------------------------------------- nothing is forgotten


def members(protocol: type) -> set[str]:
    names = {name for cls in protocol.__mro__[:-1] for name in vars(cls)}
    return {name for name in names if not name.startswith("_") or name in SPECIAL}


SPECIAL = {"__call__", "__aenter__", "__aexit__", "__enter__", "__exit__"}


def test_every_member_that_the_protocols_promise_has_a_test() -> None:
    assert members(Limiter) | members(SyncLimiter) == ASKED.keys()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_limiter_has_every_member(kind: Kind) -> None:
    limiter = kind.make()
    assert isinstance(limiter, Limiter)
    assert kind.sync <= isinstance(limiter, SyncLimiter)
    for name in members(Limiter) | (members(SyncLimiter) if kind.sync else set()):
        assert inspect.getdoc(getattr(type(limiter), name)) or name in SPECIAL, name


def test_throttles_of_both_kinds_have_a_public_base() -> None:
    assert issubclass(Throttle, BaseThrottle)
    assert issubclass(threads.Throttle, BaseThrottle)
    assert not issubclass(Throttle, threads.Throttle)
    assert isinstance(Throttle(5), Limiter)
    assert not isinstance(Throttle(5), SyncLimiter)
    assert not isinstance("a limiter", Limiter)


# ----------------------------------------------------------------------------------------- readings


@asks("level", "active", "capacity", "guarantee")
async def test_what_is_read_is_that_of_the_throttles(kind: Kind) -> None:
    limiter = kind.make()
    throttle = kind.throttle(limiter)
    assert kind.reads(limiter.capacity) == (10 if kind.rate else math.inf)
    assert kind.reads(limiter.guarantee(1)) == (30 if kind.rate else math.inf)
    lease = await later(limiter, "lease", kind.says(5))
    assert kind.reads(limiter.level) == throttle.level == (15 if kind.rate else math.inf)
    assert kind.reads(limiter.active) == throttle.active == 1
    lease.release()
    assert kind.reads(limiter.active) == 0
    with pytest.raises(ValueError, match="window"):
        limiter.guarantee(0)


@asks("level", "active", "capacity", "guarantee", of=OF_SETS)
async def test_what_is_read_of_sets_has_every_limit_and_whoever_uses_it(kind: Kind) -> None:
    limiter = kind.make()
    async with kind.throttle(limiter):
        readings = [limiter.level, limiter.active, limiter.capacity, limiter.guarantee(1)]
        for reading in readings:
            one = reading if kind.sets == 1 else reading[0]
            assert list(one) == ["other", "x"]
            assert kind.sets == 1 or len(reading) == 1
        assert kind.reads(limiter.level) == 19
        assert kind.reads(limiter.active) == 1


@asks("waiting", "locked", "delay")
async def test_those_who_wait_are_counted_and_how_long_it_takes_is_told(kind: Kind) -> None:
    limiter = kind.make()
    assert (limiter.waiting, limiter.locked(), limiter.delay()) == (0, False, 0.0)
    if kind.rate:
        assert limiter.try_consume(kind.says(20))
        assert limiter.delay(kind.says(5)) == 0.5
        assert limiter.locked()
    else:
        held = [limiter.try_acquire() for _ in range(2)]
        assert held == [True, True]
        assert limiter.locked()
    callers = [await queued(later(limiter, "lease")) for _ in range(3)]
    assert limiter.waiting == 3
    assert limiter.delay(priority=1) >= limiter.delay(priority=-1)
    for caller in callers:
        caller.cancel()
    await others_run()
    assert limiter.waiting == 0


# ----------------------------------------------------------------------------------- taking at once


@asks("try_acquire", of=WITH_SLOTS)
async def test_what_try_acquire_gives_is_true_if_it_was_taken(kind: Kind) -> None:
    limiter = kind.make()
    one, other = limiter.try_acquire(), limiter.try_acquire()
    assert one
    assert other
    refused = limiter.try_acquire()
    assert not refused
    assert bool(refused) is False
    assert kind.reads(limiter.active) == 2
    if kind.sets:
        one.release()
        assert one  # it was granted
    else:
        limiter.release()
    assert kind.reads(limiter.active) == 1
    assert limiter.try_acquire()


@asks("try_acquire", "try_consume", of=WITH_RATE)
async def test_what_is_taken_at_once_is_the_weight_or_nothing(kind: Kind) -> None:
    for take in ("try_acquire", "try_consume"):
        limiter = kind.make()
        assert getattr(limiter, take)(kind.says(15))
        assert not getattr(limiter, take)(kind.says(6))
        assert kind.reads(limiter.level) == 5
        with pytest.raises(WeightTooLarge):
            getattr(limiter, take)(kind.says(21))
        with pytest.raises(ValueError, match="got -1"):
            getattr(limiter, take)(kind.says(-1))
        assert kind.reads(limiter.level) == 5


@asks("try_consume", of=[kind for kind in WITH_RATE if kind.slots])
async def test_tokens_are_taken_at_once_where_all_slots_are_held_and_no_waiter_is_overtaken(
    kind: Kind,
) -> None:
    limiter = kind.make()
    held = [await later(limiter, "lease") for _ in range(2)]
    lacks_a_slot = await queued(later(limiter, "lease"))
    assert limiter.try_consume(kind.says(4)) is True
    assert (kind.reads(limiter.level), kind.reads(limiter.active)) == (14, 2)
    waits_for_tokens = await queued(later(limiter, "consume", kind.says(16)))
    assert limiter.waiting == 2
    assert limiter.try_consume(kind.says(1)) is False
    limiter.pause(5)
    await waits_for_tokens
    assert now() == 5
    assert limiter.try_consume(kind.says(20)) is False
    held.pop().release()
    held.append(await lacks_a_slot)
    for lease in held:
        lease.release()


# ------------------------------------------------------------------------------------------ waiting


@asks("lease")
async def test_a_lease_is_waited_for_and_released(kind: Kind) -> None:
    limiter = kind.make()
    lease = await later(limiter, "lease", kind.says(20), timeout=0)
    assert lease.waited == 0.0
    assert kind.reads(limiter.active) == 1
    if kind.rate:
        second = await later(limiter, "lease", kind.says(5), timeout=3)
        assert (second.waited, now()) == (0.5, 0.5)
        second.settle({"x": 1}) if kind.sets else second.settle(1)
        assert kind.reads(limiter.level) == 4
        with pytest.raises(ThrottleTimeout):
            await later(limiter, "lease", kind.says(20), timeout=0.5)
        second.release()
    lease.release()
    lease.release()
    assert kind.reads(limiter.active) == 0
    await later(limiter, "drain")


@asks("consume", of=WITH_RATE)
async def test_tokens_alone_are_waited_for_within_a_body_as_well(kind: Kind) -> None:
    limiter = kind.make()
    lease = await later(limiter, "lease", kind.says(20))
    await later(limiter, "consume", kind.says(5))
    assert now() == 0.5
    assert kind.reads(limiter.active) == 1
    await later(limiter, "consume", kind.says(5), timeout=0.5, priority=-1)
    assert now() == 1.0
    with pytest.raises(ThrottleTimeout) as refused:
        await later(limiter, "consume", kind.says(5), timeout=0.25)
    assert refused.value.retry_after == 0.5
    with pytest.raises(ThrottleTimeout):
        await later(limiter, "consume", kind.says(5), timeout=0)
    assert now() == 1.0
    if kind.slots:  # never behind a caller that lacks a slot: in a body that would be a deadlock
        other = await later(limiter, "lease")
        waiter = await queued(later(limiter, "lease"))
        await later(limiter, "consume", kind.says(1))
        other.release()
        (await waiter).release()
    lease.release()


@asks("statistics", of=WITH_RATE)
async def test_statistics_tell_what_waited_and_what_was_refused(kind: Kind) -> None:
    limiter = kind.make()
    fresh = kind.reads(limiter.statistics())
    assert (fresh.level, fresh.capacity, fresh.active, fresh.waiting) == (20, 10, 0, 0)
    lease = await later(limiter, "lease", kind.says(20))
    await later(limiter, "consume", kind.says(5))
    with pytest.raises(ThrottleTimeout):
        await later(limiter, "consume", kind.says(5), timeout=0.25)
    with pytest.raises(WeightTooLarge):
        limiter.try_consume(kind.says(21))
    told = kind.reads(limiter.statistics())
    assert (told.queued_granted, told.waited, told.longest) == (1, 0.5, 0.5)
    assert told.refused == Refused(timeout=1, weight=1)
    assert (told.level, told.active) == (0, 1)
    lease.release()


@asks("charge", of=WITH_RATE)
async def test_what_is_charged_is_waited_out(kind: Kind) -> None:
    limiter = kind.make()
    if kind.sets == 2:
        with pytest.raises(TypeError, match=r"say pool\[i\]\.charge\(\) or lease\.limit_set"):
            limiter.charge(kind.says(30))
        limiter[0].charge(kind.says(30))
    else:
        limiter.charge(kind.says(30))
    assert kind.reads(limiter.level) == -10
    assert kind.reads(limiter.active) == 0
    await later(limiter, "consume", kind.says(10))
    assert now() == 2.0


@asks("sync", of=WITH_RATE)
async def test_what_a_server_has_counted_lowers_the_level_and_never_raises_it(kind: Kind) -> None:
    limiter = kind.make()
    said: Any = {"x": {"remaining": 15}} if kind.sets else {}
    if kind.sets == 2:
        with pytest.raises(TypeError, match=r"say pool\[i\]\.sync\(\) or lease\.limit_set"):
            limiter.sync(said)
        limiter[0].sync(said)
    elif kind.sets:
        limiter.sync(said)
    else:
        limiter.sync(remaining=15)
    kind.throttle(limiter).sync(remaining=18)
    assert kind.reads(limiter.level) == 15
    await later(limiter, "consume", kind.says(20))
    assert now() == 0.5
    kind.throttle(limiter).sync(remaining=-1)
    assert kind.reads(limiter.statistics()).ignored == 1


@asks("drain")
async def test_all_are_waited_for_who_wait_or_hold(kind: Kind) -> None:
    limiter = kind.make()
    await later(limiter, "drain")
    lease = await later(limiter, "lease")
    drained = await queued(later(limiter, "drain"))
    await asyncio.sleep(1)
    assert not drained.done()
    lease.release()
    await drained
    limiter.pause(1)
    caller = await queued(later(limiter, "lease"))
    drained = await queued(later(limiter, "drain"))
    lease = await caller
    assert not drained.done()
    lease.release()
    await drained


@asks("drain", of=OF_SETS)
async def test_those_who_use_a_member_alone_are_not_waited_for(kind: Kind) -> None:
    limiter = kind.make()
    throttle = kind.throttle(limiter)
    async with throttle:
        await later(limiter, "drain")
        elsewhere = LimitSet(throttle)
        async with elsewhere:
            await later(limiter, "drain")
            waiter = await queued(later(elsewhere, "lease"))
            await later(limiter, "drain")
    (await waiter).release()


# -------------------------------------------------------------------------------- holding everybody


@asks("pause", "resume", "paused_for")
async def test_a_pause_holds_everybody_until_it_ends(kind: Kind) -> None:
    limiter = kind.make()
    assert limiter.paused_for == 0.0
    await limiter.pause(timedelta(seconds=2))
    limiter.pause(1)  # never shorter
    assert limiter.paused_for == 2.0
    assert limiter.locked()
    assert limiter.delay() == 2.0
    assert not limiter.try_acquire()
    assert not limiter.try_consume(kind.says(1))
    (await later(limiter, "lease")).release()
    assert now() == 2.0
    limiter.pause(math.inf)
    assert limiter.paused_for == math.inf
    caller = await queued(later(limiter, "lease"))
    tokens = await queued(later(limiter, "consume", kind.says(1)))
    await asyncio.sleep(10)
    assert not caller.done()
    assert not tokens.done()
    limiter.resume()
    await tokens
    (await caller).release()
    assert (now(), limiter.paused_for) == (12.0, 0.0)
    with pytest.raises(ValueError, match="seconds"):
        limiter.pause(-1)


@asks("pause", of=WITH_RATE)
async def test_a_pause_may_empty_what_there_is(kind: Kind) -> None:
    limiter = kind.make()
    limiter.pause(0, empty=True)
    assert kind.reads(limiter.level) == 0


@asks("close")
@pytest.mark.parametrize("drop_waiting", [True, False])
async def test_who_comes_after_the_close_is_refused(kind: Kind, drop_waiting: bool) -> None:
    limiter = kind.make()
    limiter.pause(1)
    callers = [await queued(later(limiter, "lease")) for _ in range(2)]
    tokens = await queued(later(limiter, "consume", kind.says(1)))
    limiter.close(drop_waiting=drop_waiting)
    outcomes = await asyncio.gather(*callers, tokens, return_exceptions=True)
    if drop_waiting:
        assert [type(outcome) for outcome in outcomes] == [ThrottleClosed] * 3
        assert now() == 0
    else:
        assert now() == 1
        for lease in outcomes[:2]:
            lease.release()  # type: ignore[union-attr]
    assert (limiter.waiting, limiter.locked()) == (0, True)
    for newcomer in ("try_acquire", "try_consume", "delay"):
        with pytest.raises(ThrottleClosed):
            getattr(limiter, newcomer)(kind.says(1))
    for newcomer in ("lease", "consume"):
        with pytest.raises(ThrottleClosed):
            await later(limiter, newcomer, kind.says(1))
    with pytest.raises(ThrottleClosed):
        async with limiter:
            pass
    await later(limiter, "drain")


@asks("close", "pause", of=OF_SETS)
async def test_what_is_told_to_a_set_leaves_its_members_to_others(kind: Kind) -> None:
    limiter = kind.make()
    throttle = kind.throttle(limiter)
    limiter.pause(5)
    async with throttle:
        waits = await queued(later(limiter, "lease"))
        alone = await queued(later(throttle, "consume", 20))
        limiter.close()
        with pytest.raises(ThrottleClosed, match="the set is closed"):
            await waits
        assert not alone.done()
        async with LimitSet(throttle):
            pass
        assert alone.done() or await alone is None
    await later(throttle, "lease", 20)


# --------------------------------------------------------------------------------------- as a block


@asks("__aenter__", "__aexit__", "__call__")
async def test_a_plain_block_and_a_decorated_function_are_plain_calls(kind: Kind) -> None:
    limiter = kind.make()
    seen: list[Any] = []

    def look() -> None:
        seen.append((kind.reads(limiter.level), kind.reads(limiter.active)))

    @limiter  # type: ignore[untyped-decorator]
    async def call(number: int, *, by: int = 1) -> int:
        """Multiply."""
        look()
        return number * by

    async with limiter:
        look()
    assert await call(5, by=2) == 10
    assert call.__name__ == "call"
    assert call.__doc__ == "Multiply."
    slots = 1 if kind.slots else 0
    if kind.rate:
        assert seen == [(19, slots), (18, slots)]
    else:
        assert seen == [(math.inf, 1)] * 2
    assert kind.reads(limiter.active) == 0
    for wrong in (len, look, print, object):
        if not kind.sync:
            with pytest.raises(TypeError, match="decorates an async def, got"):
                limiter(wrong)


@asks("__enter__", "__exit__", "__call__", "lease", "consume", "drain", of=OF_THREADS)
def test_in_a_thread_the_same_is_waited_for_with_the_thread(kind: Kind) -> None:
    limiter = kind.make(max_waiting=0)

    @limiter  # type: ignore[untyped-decorator]
    def call(number: int) -> Any:
        return number, kind.reads(limiter.active)

    assert call(5) == (5, 1)
    with limiter:
        assert kind.reads(limiter.active) == 1
    lease = limiter.lease(kind.says(2))
    assert kind.reads(limiter.active) == 1
    lease.settle({"x": 1}) if kind.sets else lease.settle(1)
    limiter.consume(kind.says(5))
    assert math.floor(kind.reads(limiter.level)) < 15
    with pytest.raises(ThrottleTimeout):
        limiter.consume(kind.says(20), timeout=0)
    with pytest.raises(ThrottleFull):
        limiter.consume(kind.says(20))
    with limiter, pytest.raises(ThrottleFull):
        limiter.lease()
    lease.release()
    assert kind.reads(limiter.active) == 0
    limiter.drain()
    with pytest.raises(ResourceLimitError):
        limiter.lease(kind.says(21))


@pytest.mark.parametrize("kind", KINDS[:8], ids=str)
async def test_a_kept_call_is_entered_many_times_also_by_many_tasks_at_once(kind: Kind) -> None:
    limiter = kind.make()
    call = limiter(kind.says(2))
    inside: list[Any] = []

    async def enter() -> None:
        async with call as lease:
            inside.append(lease)
            await asyncio.sleep(1)

    await asyncio.gather(*(enter() for _ in range(4)))
    assert len({id(lease) for lease in inside}) == 4
    assert now() == 2.0  # two at once
    async with call:
        assert kind.reads(limiter.active) == 1
        async with call:
            assert kind.reads(limiter.active) == 2
    assert kind.reads(limiter.active) == 0

    @call  # type: ignore[untyped-decorator]
    async def called() -> Any:
        await asyncio.sleep(1)
        return kind.reads(limiter.active)

    assert [*await asyncio.gather(called(), called())] == [2, 1]


async def test_a_plain_block_of_a_throttle_gives_none_as_a_semaphore_does() -> None:
    for throttle in (Throttle(5, 1), threads.Throttle(5, 1)):
        async with throttle as given, asyncio.Semaphore() as by_a_semaphore:
            assert given is by_a_semaphore is None


# ----------------------------------------------------------------------------------- sets and pools


async def test_weights_of_sets_are_said_by_limit_and_what_is_not_named_is_left_alone() -> None:
    tokens, requests = Throttle(10), Throttle(10)
    api = LimitSet(requests, tokens=tokens, concurrency=2)
    await api.consume()
    assert api.try_consume()
    api.charge()
    assert (requests.level, tokens.level) == (10, 10)
    await api.consume({0: 2}, tokens=3)
    assert api.try_consume({0: 2, "tokens": 3})
    api.charge({0: 2}, tokens=3)
    assert (requests.level, tokens.level) == (4, 1)
    api.charge(tokens=1e-12)  # counts as nothing
    with pytest.raises(ValueError, match="at least 1e-9, or 0"):
        await api.consume(tokens=1e-12)
    for take in (api.consume, api.try_consume, api.charge):
        with pytest.raises(ValueError, match="concurrency has slots alone, and no tokens"):
            take(concurrency=1)
        with pytest.raises(ValueError, match=r"no limit of .* is called 'x'"):
            take(x=1)
        with pytest.raises(ValueError, match="'tokens' is said twice"):
            take({"tokens": 1}, tokens=1)
    assert (requests.level, tokens.level) == (4, 1)
    assert api.active == {0: 0, "tokens": 0, "concurrency": 0}


async def test_a_close_fails_only_those_who_asked_this_set() -> None:
    shared = Throttle(1, 1)
    api, same = LimitSet(shared, Throttle(1e6)), LimitSet(shared)
    async with shared:
        mine = [await queued(api.lease()) for _ in range(3)]  # those behind take a shortcut
        others = [await queued(same.lease()) for _ in range(2)]
        alone = [await queued(shared.acquire()) for _ in range(3)]  # and do not say whom they ask
        tokens = await queued(api.consume({0: 1}))
        elsewhere = await queued(shared.consume())
        assert (api.waiting, same.waiting, shared.waiting) == (4, 2, 10)
        api.close()
        for task in (*mine, tokens):
            with pytest.raises(ThrottleClosed, match="the set is closed"):
                await task
    await elsewhere
    for other in others:
        (await other).release()
    for waiter in alone:
        assert await waiter
        shared.release()
    assert shared.active == shared.waiting == 0
    async with LimitSet(shared, Throttle(5)):  # a closed set closes no other one
        pass


async def test_a_set_over_the_same_throttles_is_drained_with_it() -> None:
    one, other = Throttle(5), Throttle(5)
    first, second = LimitSet(one, other), LimitSet(other, one)
    lease = await first.lease(priority=3)
    drained = await queued(second.drain())
    await others_run()
    assert not drained.done()
    lease.release()
    await drained


async def test_who_was_granted_and_never_ran_is_not_waited_for() -> None:
    api = LimitSet(Throttle(1e6, 1))
    held = await api.lease()
    waiter = await queued(api.lease())
    held.release()
    waiter.cancel()  # granted in this step of the loop, and has not run
    await others_run()
    await api.drain()
    assert api.active == {0: 0}


async def test_a_pool_counts_the_callers_that_asked_it() -> None:
    us, eu = LimitSet(Throttle(5, 1)), LimitSet(Throttle(5, 1))
    pool, other, alone = LimitPool([us, eu]), LimitPool([eu, us]), LimitPool([us])
    held = [await pool.lease(), await pool.lease()]
    tasks: list[asyncio.Task[Any]] = [await queued(pool.lease()) for _ in range(3)]
    tasks += [await queued(other.lease()), await queued(us.lease()), await queued(alone.lease())]
    tasks += [await queued(pool.consume({0: 5}))]
    assert (pool.waiting, other.waiting, alone.waiting) == (4, 1, 1)
    assert (us.waiting, eu.waiting) == (7, 5)
    for task in tasks:
        task.cancel()
    await others_run()
    assert (pool.waiting, other.waiting, alone.waiting) == (0, 0, 0)
    for lease in held:
        lease.release()
    await pool.drain()


async def test_tokens_of_a_pool_come_from_whichever_set_has_them_in_turn() -> None:
    sets = [LimitSet(tokens=Throttle(10)), LimitSet(tokens=Throttle(10))]
    pool = LimitPool(sets, "RoundRobin")
    for _ in range(2):
        await pool.consume(tokens=1)
        assert pool.try_consume(tokens=2)
    assert [limit_set.level for limit_set in sets] == [{"tokens": 8}, {"tokens": 6}]
    await pool.consume(tokens=8)
    await pool.consume(tokens=8)
    assert now() == pytest.approx(0.2)
    with pytest.raises(WeightTooLarge):
        await pool.consume(tokens=11)


async def test_a_pool_takes_tokens_where_a_limit_of_that_name_has_some() -> None:
    pool = LimitPool([LimitSet(x=Throttle(math.inf, 5)), LimitSet(x=Throttle(10))])
    await pool.consume(x=4)
    assert pool[1].level == {"x": 6}
    with pytest.raises(ValueError, match="x has slots alone"):
        await LimitPool([LimitSet(x=Throttle(math.inf, 5))]).consume(x=4)


async def test_a_set_of_nothing_has_readings_as_well() -> None:
    api = LimitSet()
    assert (api.level, api.active, api.capacity, api.guarantee(1)) == ({}, {}, {}, {})
    await api.consume()
    lease = await api.lease()
    moved = LimitPool([api, LimitSet(Throttle(5))])
    drained = await queued(moved.drain())
    assert not drained.done()
    lease.release()
    await drained
    api.close()
    assert not moved.locked()
    with pytest.raises(ThrottleClosed):
        await api.lease()


async def test_a_forgotten_await_is_told() -> None:
    api = LimitSet(tokens=Throttle(5))
    for forget in (api.lease, api.consume, api.drain):
        with pytest.warns(RuntimeWarning, match="never awaited"):
            forget()
    assert api.level == {"tokens": 5}


@pytest.mark.parametrize("in_a_pool", [False, True])
async def test_consume_is_refused_by_a_closed_member_that_it_asks_for(in_a_pool: bool) -> None:
    closed = Throttle(1)
    api = LimitSet(closed=closed, other=Throttle(1), concurrency=1)
    limiter: Any = LimitPool([api]) if in_a_pool else api
    assert limiter.try_consume(closed=1, other=1)
    waits = await queued(limiter.consume(closed=1))
    leaves_it_out = await queued(limiter.consume(other=1))
    closed.close()
    with pytest.raises(ThrottleClosed, match="closed is closed") as refusal:
        await waits
    assert refusal.value.limit == "closed"
    await leaves_it_out
    with pytest.raises(ThrottleClosed, match="closed is closed"):
        await limiter.consume(closed=1)
    with pytest.raises(ThrottleClosed, match="closed is closed"):
        limiter.try_consume(closed=1)
    assert limiter.try_consume(other=1) is False
    assert closed.statistics().refused.closed == 3
