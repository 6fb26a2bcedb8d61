"""One contract for everything that limits: exclusion, order, cancellation, time running out.

Each test runs over every limiter and every form in which it is used: throttles for one event loop
and for threads, facades, keyed ones, sets of limits and pools of sets. A *case* is a limiter that
is full, so that whoever comes now must wait, and a way to make room for one more.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest
from support import now, others_run

from async_throttle import (
    AIMD,
    BackOff,
    ConcurrencyLimiter,
    Gradient,
    LimitPool,
    LimitSet,
    RateLimiter,
    ResourceLimitError,
    Throttle,
    Throttles,
    threads,
)
from async_throttle.buckets import LeakyBucket, TokenBucket
from async_throttle.limits import CallLimit, Limit, RateLimit, RateLimitAlgorithm, ResourceLimit

pytestmark = pytest.mark.virtual_time

Body = Callable[[], Awaitable[object]]


async def nothing() -> None:
    pass


@dataclass(frozen=True)
class Case:
    """A way to use a limiter.

    Attributes:
        make: a fresh limiter, of one at once, or of one per second in bursts of one.
        beneath: the throttles of which it is made.
        use: runs a body under the limiter.
        holds: who got in holds it until the body ends; else until a second has passed.
    """

    make: Callable[[], Any]
    beneath: Callable[[Any], list[Any]]
    use: Callable[[Any, Body], Coroutine[Any, Any, None]]
    holds: bool


async def by_with(limiter: Any, body: Body) -> None:
    async with limiter:
        await body()


async def by_call(limiter: Any, body: Body) -> None:
    async with limiter(1):
        await body()


async def by_acquire(limiter: Any, body: Body) -> None:
    await limiter.acquire()
    try:
        await body()
    finally:
        limiter.release()


async def by_acquire_alone(limiter: Any, body: Body) -> None:
    await limiter.acquire()
    await body()


async def by_with_acquire(limiter: Any, body: Body) -> None:
    async with limiter.acquire():
        await body()


async def by_lease(limiter: Any, body: Body) -> None:
    lease = await limiter.lease(1)
    try:
        await body()
    finally:
        lease.release()


async def by_consume(limiter: Any, body: Body) -> None:
    await limiter.consume()
    await body()


async def by_wait_for_tokens(limiter: Any, body: Body) -> None:
    await limiter.wait_for_tokens()
    await body()


async def by_decorator(limiter: Any, body: Body) -> None:
    @limiter(1)  # type: ignore[untyped-decorator]
    async def call() -> None:
        await body()

    await call()


async def by_limit(limiter: Any, body: Body) -> None:
    @limiter.limit  # type: ignore[untyped-decorator]
    async def call() -> None:
        await body()

    await call()


async def by_acquire_async(limiter: Any, body: Body) -> None:
    await limiter.acquire_async()
    try:
        await body()
    finally:
        limiter.release()


async def by_lease_async(limiter: Any, body: Body) -> None:
    lease = await limiter.lease_async(1)
    try:
        await body()
    finally:
        lease.release()


async def by_consume_async(limiter: Any, body: Body) -> None:
    await limiter.consume_async()
    await body()


async def by_call_of_a_set(limiter: Any, body: Body) -> None:
    async with limiter():
        await body()


async def by_awaiting(limiter: Any, body: Body) -> None:
    lease = await limiter.acquire()
    try:
        await body()
    finally:
        lease.release()


async def by_decorator_of_a_set(limiter: Any, body: Body) -> None:
    @limiter()  # type: ignore[untyped-decorator]
    async def call() -> None:
        await body()

    await call()


def itself(limiter: Any) -> list[Any]:
    return [limiter]


def of_a_facade(
    limiter: RateLimiter | ConcurrencyLimiter | TokenBucket | LeakyBucket,
) -> list[Any]:
    return [limiter.throttle]


def of_a_set(limits: LimitSet) -> list[Any]:
    members = [limits[key] for key in limits]
    return [member.throttle if isinstance(member, Limit) else member for member in members]


def of_a_pool(pool: LimitPool) -> list[Any]:
    return [throttle for limits in pool for throttle in of_a_set(limits)]


def slots() -> Throttle:
    return Throttle(1e6, 1)


def rate() -> Throttle:
    return Throttle(1)


def adapting_slots() -> Throttle:
    return Throttle(1e6, 1, adapt=AIMD(maximum=1))


def adapting_rate() -> Throttle:
    return Throttle(1, adapt=BackOff())


def adapting_thread_slots() -> threads.Throttle:
    return threads.Throttle(1e6, 1, adapt=Gradient(maximum=1))


def set_of_adapting_slots() -> LimitSet:
    return LimitSet(calls=adapting_slots(), requests=Throttle(1e6))


def thread_slots() -> threads.Throttle:
    return threads.Throttle(1e6, 1)


def thread_rate() -> threads.Throttle:
    return threads.Throttle(1)


def keyed(make: Callable[[], Any]) -> Callable[[], Any]:
    def one_of_several() -> Any:
        hosts: Throttles[str, Any] = Throttles(lambda host: make())
        hosts["another"].pause(math.inf)
        return hosts["host"]

    return one_of_several


def set_of_slots() -> LimitSet:
    return LimitSet(slots=slots())


def set_of_rate() -> LimitSet:
    return LimitSet(rate=rate())


def set_with_slots() -> LimitSet:
    return LimitSet(requests=Throttle(1e6), tokens=Throttle(1e6, 5), concurrency=1)


def set_with_rate() -> LimitSet:
    return LimitSet(requests=rate(), tokens=Throttle(1e6, 50), concurrency=50)


def documented_slots() -> LimitSet:
    return LimitSet([ResourceLimit("files", 1), CallLimit(1e-3, None, 1_000)])


def documented_rate() -> LimitSet:
    bucket = RateLimit("tokens", 1, RateLimitAlgorithm.TokenBucket, 1)
    return LimitSet([ResourceLimit("files", 50), bucket], shared=True, mode="asyncio")


def impatient_set(kind: Any) -> LimitSet:
    return LimitSet(requests=kind(1e6), tokens=kind(1, max_waiting=0), concurrency=5)


def pool_of(make: Callable[[], LimitSet]) -> Callable[[], LimitPool]:
    """A pool that lets in what one of its sets does: the other one is paused for ever."""

    def pool() -> LimitPool:
        busy, idle = make(), make()
        idle.pause(math.inf)
        return LimitPool([idle, busy], "RoundRobin")

    return pool


FORMS: dict[str, Callable[[Any, Body], Coroutine[Any, Any, None]]] = {
    "async with": by_with,
    "async with call": by_call,
    "acquire": by_acquire,
    "acquire alone": by_acquire_alone,
    "acquire_async": by_acquire_async,
    "async with acquire": by_with_acquire,
    "lease": by_lease,
    "lease_async": by_lease_async,
    "consume": by_consume,
    "consume_async": by_consume_async,
    "wait_for_tokens": by_wait_for_tokens,
    "decorator": by_decorator,
    "limit": by_limit,
}
FORMS_OF_SETS: dict[str, Callable[[Any, Body], Coroutine[Any, Any, None]]] = {
    "async with": by_with,
    "async with call": by_call_of_a_set,
    "async with acquire": by_with_acquire,
    "await acquire": by_awaiting,
    "decorator": by_decorator_of_a_set,
}
BLOCKS = "async with", "async with call"
ALL_OF_THROTTLES = *BLOCKS, "acquire", "lease", "decorator"
ALL_OF_THREADS = *BLOCKS, "acquire_async", "lease_async", "decorator"
ALL_OF_SLOTS = "async with", "acquire", "async with acquire", "limit"
ALL_OF_RATES = "async with", "acquire alone", "async with acquire", "limit"
ALL_OF_SETS = tuple(FORMS_OF_SETS)
ALL_OF_POOLS = ALL_OF_SETS[1:]

LIMITERS: dict[str, tuple[Callable[[], Any], Callable[[Any], list[Any]], bool, tuple[str, ...]]] = {
    "Throttle slots": (slots, itself, True, ALL_OF_THROTTLES),
    "Throttle rate": (rate, itself, False, (*ALL_OF_THROTTLES, "consume")),
    "adapting Throttle slots": (adapting_slots, itself, True, (*BLOCKS, "acquire", "lease")),
    "adapting Throttle rate": (adapting_rate, itself, False, ("async with", "decorator")),
    "adapting threads.Throttle slots": (adapting_thread_slots, itself, True, BLOCKS),
    "LimitSet of adapting slots": (set_of_adapting_slots, of_a_set, True, BLOCKS),
    "ConcurrencyLimiter": (lambda: ConcurrencyLimiter(1), of_a_facade, True, ALL_OF_SLOTS),
    "RateLimiter": (lambda: RateLimiter(1), of_a_facade, False, ALL_OF_RATES),
    "buckets.TokenBucket": (lambda: TokenBucket(1, 1), of_a_facade, False, ("consume",)),
    "buckets.LeakyBucket": (lambda: LeakyBucket(1, 1), of_a_facade, False, ("wait_for_tokens",)),
    "threads.Throttle slots": (thread_slots, itself, True, ALL_OF_THREADS),
    "threads.Throttle rate": (thread_rate, itself, False, (*ALL_OF_THREADS, "consume_async")),
    "Throttles slots": (keyed(slots), itself, True, ("async with",)),
    "Throttles rate": (keyed(rate), itself, False, ("async with",)),
    "Throttles threads.Throttle": (keyed(thread_slots), itself, True, ("async with",)),
    "LimitSet of one, slots": (set_of_slots, of_a_set, True, ALL_OF_SETS),
    "LimitSet of one, rate": (set_of_rate, of_a_set, False, ALL_OF_SETS),
    "LimitSet, slots": (set_with_slots, of_a_set, True, ALL_OF_SETS),
    "LimitSet, rate": (set_with_rate, of_a_set, False, ALL_OF_SETS),
    "LimitSet of Limits, slots": (documented_slots, of_a_set, True, ALL_OF_SETS),
    "LimitSet of Limits, rate": (documented_rate, of_a_set, False, ALL_OF_SETS),
    "LimitPool slots": (pool_of(set_with_slots), of_a_pool, True, ALL_OF_POOLS),
    "LimitPool rate": (pool_of(set_with_rate), of_a_pool, False, ALL_OF_POOLS),
    "LimitPool of Limits, slots": (pool_of(documented_slots), of_a_pool, True, ALL_OF_POOLS),
    "LimitPool of Limits, rate": (pool_of(documented_rate), of_a_pool, False, ALL_OF_POOLS),
}
"""Each with how it is made, what is beneath, whether whoever got in holds it, and its forms."""

CASES = {
    f"{name}, {form}": Case(
        make, beneath, (FORMS_OF_SETS if beneath in (of_a_set, of_a_pool) else FORMS)[form], holds
    )
    for name, (make, beneath, holds, forms) in LIMITERS.items()
    for form in forms
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


class Full:
    """A limiter that somebody fills, and who is waiting behind."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.limiter = case.make()
        self.throttles = case.beneath(self.limiter)
        self.order: list[object] = []
        self.came: dict[object, float] = {}
        self._leave = asyncio.Event()
        self._holder: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []  # else they might be collected

    async def fill(self) -> None:
        self._holder = asyncio.create_task(self.case.use(self.limiter, self._leave.wait))
        await others_run()
        assert self.locked

    @property
    def locked(self) -> bool:
        """Nobody would be let in now."""
        if isinstance(self.limiter, LimitPool):
            return all(limits.locked() for limits in self.limiter)
        if isinstance(self.limiter, LimitSet):
            return self.limiter.locked()
        return bool(self.throttles[0].locked())

    @property
    def waiting(self) -> int:
        """Callers that are queued: in a set or a pool they wait for all of it."""
        counts = {throttle.waiting for throttle in self.throttles}
        assert len(counts) == 1
        return int(counts.pop())

    async def make_room(self) -> None:
        """Let one more in: the holder leaves, or a second passes."""
        if self.case.holds:
            self._leave.set()
            await others_run()
        else:
            await asyncio.sleep(1.0)

    async def enter(self, name: object, body: Body = nothing) -> asyncio.Task[None]:
        async def noted() -> None:
            self.order.append(name)
            self.came[name] = now()
            await body()

        task = asyncio.create_task(self.case.use(self.limiter, noted))
        self._tasks.append(task)
        await others_run()
        return task

    async def empty(self) -> None:
        """Everybody leaves; nothing must be left behind."""
        self._leave.set()
        if self._holder is not None:
            await self._holder
        await asyncio.sleep(2.0)
        assert (self.locked, self.waiting) == (False, 0)
        for throttle in self.throttles:
            assert (throttle.active, throttle.locked()) == (0, False)
            assert throttle.level == throttle.burst


@pytest.fixture
async def full(case: Case) -> Full:
    full = Full(case)
    await full.fill()
    return full


# --- exclusion ---


async def test_one_goes_in_at_once_and_the_next_waits(case: Case) -> None:
    full = Full(case)
    await full.enter("first", asyncio.Event().wait)
    assert full.order == ["first"]
    second = await full.enter("second")
    assert full.order == ["first"]
    assert full.waiting == 1
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await others_run()
    assert second.cancelled()


async def test_nobody_goes_in_while_it_is_full(full: Full) -> None:
    waiters = [await full.enter(n) for n in range(3)]
    await asyncio.sleep(0.999)
    assert full.order == []
    assert full.waiting == 3
    await full.make_room()
    assert full.order[0] == 0
    await asyncio.gather(*waiters)
    await full.empty()


async def test_room_is_given_back_when_the_body_raises(case: Case) -> None:
    full = Full(case)

    async def fail() -> None:
        raise KeyError("of the body")

    failed = await full.enter("first", fail)
    with pytest.raises(KeyError, match="of the body"):
        await failed
    second = await full.enter("second")
    await second
    assert now() == (0.0 if case.holds else 1.0)
    await full.empty()


async def test_room_is_given_back_when_the_body_is_cancelled(case: Case) -> None:
    full = Full(case)
    first = await full.enter("first", asyncio.Event().wait)
    second = await full.enter("second")
    first.cancel()
    await second
    assert first.cancelled()
    assert now() == (0.0 if case.holds else 1.0)
    await full.empty()


# --- order ---


async def test_first_come_first_served(full: Full) -> None:
    waiters = [await full.enter(n) for n in range(20)]
    await full.make_room()
    await asyncio.gather(*waiters)
    assert full.order == list(range(20))
    await full.empty()


async def test_a_newcomer_does_not_overtake_whoever_was_let_in_and_has_not_run_yet(
    full: Full,
) -> None:
    early = await full.enter("early")
    late: list[asyncio.Task[None]] = []

    async def note_late() -> None:
        full.order.append("late")

    def arrive() -> None:
        late.append(asyncio.create_task(full.case.use(full.limiter, note_late)))

    if full.case.holds:
        # The holder leaves in the next step of the loop, where the newcomer comes right behind
        # it; whoever gets the room of the holder runs one step later.
        full._leave.set()
        arrive()
    else:
        asyncio.get_running_loop().call_at(1.0, arrive)
    await early
    await asyncio.gather(*late)
    assert full.order == ["early", "late"]
    await full.empty()


async def test_the_order_survives_departures(full: Full) -> None:
    waiters = [await full.enter(n) for n in range(9)]
    for n in (0, 3, 4, 8):
        waiters[n].cancel()
    await full.make_room()
    await asyncio.gather(*waiters, return_exceptions=True)
    assert full.order == [1, 2, 5, 6, 7]
    await full.empty()


# --- cancellation ---


async def test_a_cancelled_waiter_leaves_no_trace(full: Full) -> None:
    waiter = await full.enter("cancelled")
    waiter.cancel()
    await others_run()
    assert waiter.cancelled()
    assert full.waiting == 0
    await full.make_room()
    assert full.order == []
    assert not full.locked
    await full.empty()


async def test_cancelling_the_head_lets_the_next_one_have_its_place(full: Full) -> None:
    head, following = await full.enter("head"), await full.enter("next")
    await asyncio.sleep(0.5)
    head.cancel()
    await full.make_room()
    await following
    assert full.order == ["next"]
    assert full.came["next"] == (0.5 if full.case.holds else 1.0)
    await full.empty()


async def test_cancelling_whoever_was_let_in_before_it_ran_wakes_the_next_one(full: Full) -> None:
    head, following = await full.enter("head"), await full.enter("next")

    def cancel_with_the_grant() -> None:
        # The grant has been made in this very step of the loop, and the head has not run.
        head.cancel()

    if full.case.holds:
        full._leave.set()
        await asyncio.sleep(0)
        cancel_with_the_grant()
    else:
        asyncio.get_running_loop().call_at(1.0, cancel_with_the_grant)
    await following
    assert head.cancelled()
    assert full.order == ["next"]
    assert now() == (0.0 if full.case.holds else 1.0)
    await full.empty()


async def test_asyncio_timeout_while_waiting(full: Full) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.25):
            await full.case.use(full.limiter, nothing)
    assert now() == 0.25
    assert full.waiting == 0
    await full.make_room()
    await full.empty()


async def test_wait_for_while_waiting(full: Full) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(full.case.use(full.limiter, nothing), 0.25)
    assert now() == 0.25
    assert full.waiting == 0
    await full.make_room()
    await full.empty()


async def test_a_timeout_at_the_instant_of_the_grant_loses_nothing(full: Full) -> None:
    # Both come in the same step of the loop. Whichever wins, the room is either used or free.
    waiter = asyncio.create_task(asyncio.wait_for(full.case.use(full.limiter, nothing), 1.0))
    if full.case.holds:
        asyncio.get_running_loop().call_at(1.0, full._leave.set)
    await asyncio.gather(waiter, return_exceptions=True)
    following = await full.enter("next")
    await following
    assert full.order == ["next"]
    assert now() <= 2.0
    await full.empty()


async def test_asyncio_timeout_in_the_body(case: Case) -> None:
    full = Full(case)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.25):
            await case.use(full.limiter, asyncio.Event().wait)
    following = await full.enter("next")
    await following
    assert now() == (0.25 if case.holds else 1.0)
    await full.empty()


async def test_a_task_group_that_fails_cancels_those_who_wait_and_those_inside(
    case: Case,
) -> None:
    full = Full(case)

    async def fail() -> None:
        await asyncio.sleep(0.5)
        raise KeyError("of a sibling")

    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(case.use(full.limiter, asyncio.Event().wait))
            group.create_task(fail())
    assert caught.group_contains(KeyError, match="of a sibling")
    assert now() == 0.5
    assert full.waiting == 0
    following = await full.enter("next")
    await following
    assert now() == (0.5 if case.holds else 1.0)
    await full.empty()


async def test_many_cancelled_in_any_order_while_others_go_on(full: Full) -> None:
    waiters = [await full.enter(n) for n in range(60)]
    stay = [n for n in range(60) if n % 7 == 3]
    for n in sorted(set(range(60)) - set(stay), key=lambda n: (n * 37) % 61):
        waiters[n].cancel()
    assert full.order == []
    await full.make_room()
    await asyncio.gather(*waiters, return_exceptions=True)
    assert full.order == stay
    assert now() == (0.0 if full.case.holds else float(len(stay)))
    await full.empty()


# --- refusing instead of waiting ---


@pytest.mark.parametrize(
    ("make", "beneath", "use"),
    [
        (lambda: RateLimiter(1, wait=False), of_a_facade, by_with),
        (lambda: RateLimiter(1, wait=False), of_a_facade, by_acquire_alone),
        (lambda: RateLimiter(1, wait=False), of_a_facade, by_with_acquire),
        (lambda: RateLimiter(1, wait=False), of_a_facade, by_limit),
        (lambda: ConcurrencyLimiter(1, wait=False), of_a_facade, by_with),
        (lambda: ConcurrencyLimiter(1, wait=False), of_a_facade, by_acquire),
        (lambda: ConcurrencyLimiter(1, wait=False), of_a_facade, by_with_acquire),
        (lambda: ConcurrencyLimiter(1, wait=False), of_a_facade, by_limit),
        (lambda: Throttle(1, max_waiting=0), itself, by_with),
        (lambda: Throttle(1e6, 1, max_waiting=0), itself, by_call),
        (lambda: Throttle(1e6, 1, max_waiting=0), itself, by_decorator),
        (lambda: threads.Throttle(1, max_waiting=0), itself, by_with),
        (lambda: threads.Throttle(1e6, 1, max_waiting=0), itself, by_call),
        (lambda: threads.Throttle(1e6, 1, max_waiting=0), itself, by_lease_async),
        (keyed(lambda: Throttle(1e6, 1, max_waiting=0)), itself, by_with),
        (lambda: impatient_set(Throttle), of_a_set, by_with),
        (lambda: impatient_set(Throttle), of_a_set, by_call_of_a_set),
        (lambda: impatient_set(Throttle), of_a_set, by_decorator_of_a_set),
        (lambda: impatient_set(threads.Throttle), of_a_set, by_awaiting),
        (pool_of(lambda: impatient_set(Throttle)), of_a_pool, by_call_of_a_set),
        (pool_of(lambda: impatient_set(threads.Throttle)), of_a_pool, by_with_acquire),
    ],
)
async def test_who_does_not_want_to_wait_is_refused_and_changes_nothing(
    make: Callable[[], Any],
    beneath: Callable[[Any], list[Any]],
    use: Callable[[Any, Body], Coroutine[Any, Any, None]],
) -> None:
    limiter = make()
    leave = asyncio.Event()
    holder = asyncio.create_task(use(limiter, leave.wait))
    await others_run()

    def state() -> list[tuple[float, int, int]]:
        return [
            (throttle.level, throttle.active, throttle.waiting) for throttle in beneath(limiter)
        ]

    before = state()
    for _ in range(3):
        with pytest.raises(ResourceLimitError):
            await use(limiter, nothing)
    assert state() == before
    leave.set()
    await holder
    await asyncio.sleep(1.0)
    await use(limiter, nothing)
