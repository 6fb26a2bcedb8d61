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
from itertools import count
from typing import Any

import pytest
from stores import MemoryStore
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
    limits,
    threads,
)
from async_throttle.buckets import LeakyBucket, TokenBucket
from async_throttle.limits import CallLimit, Limit, RateLimit, RateLimitAlgorithm, ResourceLimit

pytestmark = pytest.mark.virtual_time

Body = Callable[[], Awaitable[object]]
Use = Callable[[Any, Body], Coroutine[Any, Any, None]]


STORE = MemoryStore()
NUMBERS = count()


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
    use: Use
    holds: bool


def block(enter: Callable[[Any], Any]) -> Use:
    """The body of a block."""

    async def use(limiter: Any, body: Body) -> None:
        async with enter(limiter):
            await body()

    return use


def between(
    take: Callable[[Any], Awaitable[Any]],
    give_back: Callable[[Any, Any], object] = lambda limiter, held: None,
) -> Use:
    """The body comes after one call, and before another."""

    async def use(limiter: Any, body: Body) -> None:
        held = await take(limiter)
        try:
            await body()
        finally:
            give_back(limiter, held)

    return use


def decorated(decorate: Callable[[Any], Any]) -> Use:
    """The body of a function."""

    async def use(limiter: Any, body: Body) -> None:
        @decorate(limiter)  # type: ignore[untyped-decorator]
        async def call() -> None:
            await body()

        await call()

    return use


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


def thread_slots() -> threads.Throttle:
    return threads.Throttle(1e6, 1)


def adapting_slots() -> Throttle:
    return Throttle(1e6, 1, adapt=AIMD(maximum=1))


def keyed(make: Callable[[], Any]) -> Callable[[], Any]:
    def one_of_several() -> Any:
        hosts: Throttles[str, Any] = Throttles(lambda host: make())
        hosts["another"].pause(math.inf)
        return hosts["host"]

    return one_of_several


def set_with_slots() -> LimitSet:
    return LimitSet(requests=Throttle(1e6), tokens=Throttle(1e6, 5), concurrency=1)


def set_with_rate() -> LimitSet:
    return LimitSet(requests=rate(), tokens=Throttle(1e6, 50), concurrency=50)


def documented_slots() -> limits.LimitSet:
    return limits.LimitSet([ResourceLimit("files", 1), CallLimit(1e-3, None, 1_000)])


def documented_rate() -> limits.LimitSet:
    bucket = RateLimit("tokens", 1, RateLimitAlgorithm.TokenBucket, 1)
    return limits.LimitSet([ResourceLimit("files", 50), bucket], shared=True, mode="asyncio")


def pool_of(make: Callable[[], LimitSet], kind: Any = LimitPool) -> Callable[[], Any]:
    """A pool that lets in what one of its sets does: the other one is paused for ever."""

    def pool() -> Any:
        busy, idle = make(), make()
        idle.pause(math.inf)
        return kind([idle, busy], "RoundRobin")

    return pool


def stored(capacity: float, concurrency: int = 0) -> Throttle:
    return Throttle(capacity, concurrency, store=STORE, name=f"limit {next(NUMBERS)}")


def stored_set_with_slots() -> LimitSet:
    return LimitSet(stored(1e6), stored(1e6, 1))


def stored_set_with_rate() -> LimitSet:
    return LimitSet(stored(1), stored(1e6, 50))


def release(limiter: Any, held: Any) -> None:
    limiter.release()


def release_it(limiter: Any, held: Any) -> None:
    held.release()


FORMS: dict[str, Use] = {
    "async with": block(lambda limiter: limiter),
    "async with call": block(lambda limiter: limiter(1)),
    "acquire": between(lambda limiter: limiter.acquire(), release),
    "acquire alone": between(lambda limiter: limiter.acquire()),
    "acquire_async": between(lambda limiter: limiter.acquire_async(), release),
    "async with acquire": block(lambda limiter: limiter.acquire()),
    "lease": between(lambda limiter: limiter.lease(1), release_it),
    "lease_async": between(lambda limiter: limiter.lease_async(1), release_it),
    "consume": between(lambda limiter: limiter.consume()),
    "consume_async": between(lambda limiter: limiter.consume_async()),
    "wait_for_tokens": between(lambda limiter: limiter.wait_for_tokens()),
    "decorator": decorated(lambda limiter: limiter(1)),
    "limit": decorated(lambda limiter: limiter.limit),
}
FORMS_OF_SETS: dict[str, Use] = {
    "async with": FORMS["async with"],
    "async with call": block(lambda limiter: limiter()),
    "async with acquire": FORMS["async with acquire"],
    "await acquire": between(lambda limiter: limiter.acquire(), release_it),
    "decorator": decorated(lambda limiter: limiter()),
}
BLOCKS = "async with", "async with call"
ALL_OF_THROTTLES = *BLOCKS, "acquire", "lease", "decorator"
ALL_OF_THREADS = *BLOCKS, "acquire_async", "lease_async", "decorator"
ALL_OF_SLOTS = "async with", "acquire", "async with acquire", "limit"
ALL_OF_RATES = "async with", "acquire alone", "async with acquire", "limit"
ALL_OF_SETS = tuple(FORMS_OF_SETS)

LIMITERS: dict[str, tuple[Callable[[], Any], Callable[[Any], list[Any]], bool, tuple[str, ...]]] = {
    "Throttle slots": (slots, itself, True, ALL_OF_THROTTLES),
    "Throttle rate": (rate, itself, False, (*ALL_OF_THROTTLES, "consume")),
    "adapting Throttle slots": (adapting_slots, itself, True, (*BLOCKS, "acquire", "lease")),
    "adapting Throttle rate": (
        lambda: Throttle(1, adapt=BackOff()),
        itself,
        False,
        ("async with", "decorator"),
    ),
    "adapting threads.Throttle slots": (
        *(lambda: threads.Throttle(1e6, 1, adapt=Gradient(maximum=1)), itself, True, BLOCKS),
    ),
    "LimitSet of adapting slots": (
        *(lambda: LimitSet(adapting_slots(), Throttle(1e6)), of_a_set, True, BLOCKS),
    ),
    "stored Throttle slots": (lambda: stored(1e6, 1), itself, True, ALL_OF_THROTTLES),
    "stored Throttle rate": (*(lambda: stored(1), itself, False, (*ALL_OF_THROTTLES, "consume")),),
    "stored Throttles slots": (*(keyed(lambda: stored(1e6, 1)), itself, True, ("async with",)),),
    "LimitSet of stored slots": (stored_set_with_slots, of_a_set, True, ALL_OF_SETS),
    "LimitSet of stored rates": (stored_set_with_rate, of_a_set, False, ALL_OF_SETS),
    "LimitPool of stored slots": (pool_of(stored_set_with_slots), of_a_pool, True, ALL_OF_SETS),
    "LimitPool of stored rates": (pool_of(stored_set_with_rate), of_a_pool, False, ALL_OF_SETS),
    "ConcurrencyLimiter": (lambda: ConcurrencyLimiter(1), of_a_facade, True, ALL_OF_SLOTS),
    "RateLimiter": (lambda: RateLimiter(1), of_a_facade, False, ALL_OF_RATES),
    "buckets.TokenBucket": (lambda: TokenBucket(1, 1), of_a_facade, False, ("consume",)),
    "buckets.LeakyBucket": (lambda: LeakyBucket(1, 1), of_a_facade, False, ("wait_for_tokens",)),
    "threads.Throttle slots": (thread_slots, itself, True, ALL_OF_THREADS),
    "threads.Throttle rate": (
        *(lambda: threads.Throttle(1), itself, False, (*ALL_OF_THREADS, "consume_async")),
    ),
    "Throttles slots": (keyed(slots), itself, True, ("async with",)),
    "Throttles rate": (keyed(rate), itself, False, ("async with",)),
    "Throttles threads.Throttle": (keyed(thread_slots), itself, True, ("async with",)),
    "LimitSet of one, slots": (lambda: LimitSet(slots=slots()), of_a_set, True, ALL_OF_SETS),
    "LimitSet of one, rate": (lambda: LimitSet(rate=rate()), of_a_set, False, ALL_OF_SETS),
    "LimitSet, slots": (set_with_slots, of_a_set, True, ALL_OF_SETS),
    "LimitSet, rate": (set_with_rate, of_a_set, False, ALL_OF_SETS),
    "LimitSet of Limits, slots": (documented_slots, of_a_set, True, ALL_OF_SETS),
    "LimitSet of Limits, rate": (documented_rate, of_a_set, False, ALL_OF_SETS),
    "LimitPool slots": (pool_of(set_with_slots), of_a_pool, True, ALL_OF_SETS),
    "LimitPool rate": (pool_of(set_with_rate), of_a_pool, False, ALL_OF_SETS),
    "LimitPool of Limits, slots": (
        pool_of(documented_slots, limits.LimitPool),
        of_a_pool,
        True,
        ALL_OF_SETS,
    ),
    "LimitPool of Limits, rate": (
        pool_of(documented_rate, limits.LimitPool),
        of_a_pool,
        False,
        ALL_OF_SETS,
    ),
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


@pytest.mark.parametrize("by", ["timeout", "wait_for"])
async def test_a_timeout_of_asyncio_while_waiting(full: Full, by: str) -> None:
    use = full.case.use(full.limiter, nothing)
    with pytest.raises(TimeoutError):  # noqa: PT012
        if by == "wait_for":
            await asyncio.wait_for(use, 0.25)
        async with asyncio.timeout(0.25):
            await use
    assert (now(), full.waiting) == (0.25, 0)
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


# --- refusing instead of waiting ---


def impatient(kind: Any, slots: int = 0) -> Callable[[], Any]:
    return lambda: kind(1e6 if slots else 1, slots, max_waiting=0)


def impatient_set(kind: Any) -> Callable[[], LimitSet]:
    return lambda: LimitSet(requests=kind(1e6), tokens=kind(1, max_waiting=0), concurrency=5)


REFUSING: list[tuple[Callable[[], Any], Callable[[Any], list[Any]], list[Use]]] = [
    (lambda: RateLimiter(1, wait=False), of_a_facade, [FORMS[form] for form in ALL_OF_RATES]),
    (lambda: ConcurrencyLimiter(1, wait=False), of_a_facade, [FORMS[f] for f in ALL_OF_SLOTS]),
    (impatient(Throttle), itself, [FORMS["async with"]]),
    (impatient(Throttle, 1), itself, [FORMS["async with call"], FORMS["decorator"]]),
    (impatient(threads.Throttle), itself, [FORMS["async with"]]),
    (impatient(threads.Throttle, 1), itself, [FORMS["async with call"], FORMS["lease_async"]]),
    (keyed(impatient(Throttle, 1)), itself, [FORMS["async with"]]),
    (impatient_set(Throttle), of_a_set, list(FORMS_OF_SETS.values())),
    (impatient_set(threads.Throttle), of_a_set, [FORMS_OF_SETS["await acquire"]]),
    (pool_of(impatient_set(Throttle)), of_a_pool, [FORMS_OF_SETS["async with call"]]),
    (pool_of(impatient_set(threads.Throttle)), of_a_pool, [FORMS["async with acquire"]]),
]


@pytest.mark.parametrize(
    ("make", "beneath", "use"),
    [(make, beneath, use) for make, beneath, uses in REFUSING for use in uses],
)
async def test_who_does_not_want_to_wait_is_refused_and_changes_nothing(
    make: Callable[[], Any], beneath: Callable[[Any], list[Any]], use: Use
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
