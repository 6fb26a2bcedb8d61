"""One quota for several processes: lives of throttles that share a store, and what they promise.

The throttles of several "processes" are objects of one event loop in virtual time, with sessions of
their own each; the store is in memory, and answers late, or not at all, or its answers are lost.
"""

from __future__ import annotations

import asyncio
import math
import pickle
import random
import sys
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from stores import MemoryStore
from support import examples, now

from async_throttle import (
    ClockWindow,
    FixedWindow,
    LimitSet,
    ResourceLimitError,
    SlidingWindow,
    Throttle,
    ThrottleTimeout,
    TokenBucket,
    WeightTooLarge,
    testing,
    threads,
)
from async_throttle._shell import fast
from async_throttle._shell.alarm import surely
from async_throttle.exceptions import StoreUnavailable
from async_throttle.stores import Busy
from async_throttle.stores._session import LoopSession, session_of

pytestmark = pytest.mark.virtual_time

GRACE = 0.02


class Went(NamedTuple):
    """A call that went."""

    who: int
    number: int
    weight: float
    began: float
    ended: float


class Life(NamedTuple):
    """What is to happen at one throttle: who comes when, for how long, and what becomes of him."""

    at: float
    who: int
    weight: int
    lasts: float
    gives_up: float | None


CALLS = st.lists(
    st.builds(
        Life,
        at=st.sampled_from([0.0, 0.0, 0.0, 0.1, 0.25, 0.5, 1.0, 1.3]),
        who=st.integers(0, 2),
        weight=st.sampled_from([1, 1, 1, 2, 5]),
        lasts=st.sampled_from([0.0, 0.005, 0.1, 0.7]),
        gives_up=st.sampled_from([None, None, None, 0.05, 0.4]),
    ),
    min_size=1,
    max_size=40,
)


async def live(throttles: list[Throttle], calls: list[Life]) -> list[Went]:
    """Play *calls*; those that went, in the order in which they did."""
    went: list[Went] = []
    came: list[list[int]] = [[] for _ in throttles]
    order: list[list[int]] = [[] for _ in throttles]

    async def call(number: int, life: Life) -> None:
        await asyncio.sleep(life.at)
        who = life.who % len(throttles)
        came[who].append(number)
        began = now()
        try:
            async with asyncio.timeout(life.gives_up), throttles[who](life.weight):
                began = now()
                order[who].append(number)
                await asyncio.sleep(life.lasts)
        except TimeoutError:
            if number not in order[who]:
                came[who].remove(number)
                return
        went.append(Went(who, number, life.weight, began, now()))

    async with asyncio.TaskGroup() as group:
        for number, life in enumerate(sorted(calls, key=lambda life: life.at)):
            group.create_task(call(number, life))
    assert order == came, "first in first out, per process"
    for throttle in throttles:
        await throttle.drain()
    for throttle in throttles:
        await told(throttle)
        assert throttle.active == throttle.waiting == 0
    return sorted(went, key=lambda one: (one.began, one.number))


async def told(throttle: Throttle) -> None:
    """*throttle* is told how things stand, as soon as the store answers."""
    while True:
        try:
            return await throttle.refresh()
        except StoreUnavailable:
            await asyncio.sleep(0.1)


def most_at_once(went: list[Went]) -> int:
    events = sorted([(one.began, 1) for one in went] + [(one.ended, -1) for one in went])
    most = held = 0
    for _, change in events:
        held += change
        most = max(most, held)
    return most


def most_within(went: list[Went], span: float) -> float:
    """The most weight that began in any half-open window of *span*."""
    return max(
        sum(one.weight for one in went if first.began <= one.began < first.began + span)
        for first in went
    )


@example(  # what was in hand for the heavy call expired while the rest was asked for, forever
    calls=[
        Life(at=0.0, who=1, weight=1, lasts=0.7, gives_up=0.4),
        Life(at=0.0, who=0, weight=5, lasts=0.0, gives_up=None),
        Life(at=0.0, who=2, weight=1, lasts=0.0, gives_up=None),
    ],
    algorithm=TokenBucket,
    slots=1,
    latency=0.03,
    number=1,
)
@examples(40)
@given(
    calls=CALLS,
    algorithm=st.sampled_from([TokenBucket, SlidingWindow, FixedWindow]),
    slots=st.sampled_from([0, 1, 3]),
    latency=st.sampled_from([0.0, 0.002, 0.03]),
    number=st.integers(1, 3),
)
def test_they_keep_one_quota(
    calls: list[Life], algorithm: Any, slots: int, latency: float, number: int
) -> None:
    async def main() -> list[Went]:
        store = MemoryStore(latency)
        throttles = [
            Throttle(5, slots, algorithm=algorithm, store=store, name="shared")
            for _ in range(number)
        ]
        return await live(throttles, calls)

    went = testing.run(main())
    assert len(went) >= sum(life.gives_up is None for life in calls)
    if not went:
        return
    late = max(GRACE, 4 * latency) + 2 * latency
    if slots:
        assert most_at_once(went) <= slots
    for span in (0.5, 1.0, 2.0):
        allowed = Throttle(5, algorithm=algorithm).guarantee(span + late)
        assert most_within(went, span) <= allowed + 1e-9
    if algorithm is SlidingWindow:
        assert most_within(went, 1.0) <= 5


class Run(NamedTuple):
    """A caller that comes again and again: when first, how often, how heavy, and how long apart."""

    at: float
    who: int
    times: int
    weight: int
    apart: float


RUNS = st.lists(
    st.builds(
        Run,
        at=st.sampled_from([0.0, 0.0, 0.001, 0.03, 0.4]),
        who=st.integers(0, 2),
        times=st.integers(1, 60),
        weight=st.sampled_from([1, 1, 1, 3]),
        apart=st.sampled_from([0.0, 0.0002, 0.003, 0.03]),
    ),
    min_size=1,
    max_size=8,
)


async def hurry(throttles: list[Throttle], runs: list[Run], slots: int) -> list[Went]:
    """Play *runs*; the calls that went."""
    went: list[Went] = []

    async def call(number: int, run: Run) -> None:
        throttle = throttles[run.who % len(throttles)]
        await asyncio.sleep(run.at)
        for _ in range(run.times):
            async with throttle(run.weight):
                began = now()
                if slots:
                    await asyncio.sleep(0.001)
            went.append(Went(run.who, number, run.weight, began, now()))
            await asyncio.sleep(run.apart)

    async with asyncio.TaskGroup() as group:
        for number, run in enumerate(runs):
            group.create_task(call(number, run))
    return went


@examples(40)
@given(
    runs=RUNS,
    algorithm=st.sampled_from([TokenBucket, SlidingWindow, FixedWindow]),
    slots=st.sampled_from([0, 0, 2]),
    latency=st.sampled_from([0.0, 0.002]),
    number=st.integers(1, 3),
)
def test_what_is_booked_for_callers_to_come_is_within_the_quota_and_comes_back(
    runs: list[Run], algorithm: Any, slots: int, latency: float, number: int
) -> None:
    """The long period leaves no doubt what was taken; the horizon lets much of it be booked."""

    async def main() -> tuple[list[Went], float]:
        store = MemoryStore(latency, horizon=3_600)
        throttles = [
            Throttle(600, slots, period=10_000, algorithm=algorithm, store=store, name="shared")
            for _ in range(number)
        ]
        went = await hurry(throttles, runs, slots)
        await asyncio.sleep(0.1)
        for throttle in throttles:
            await told(throttle)
        return sorted(went), throttles[0].level

    calls = sum(run.times for run in runs)
    taken = sum(run.times * run.weight for run in runs)
    if taken > 600:
        return
    for enabled in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fast, "ENABLED", enabled)
            went, level = testing.run(main())
        assert len(went) == calls
        assert 600 - taken <= level <= 600 - taken + 0.5
        if slots:
            assert most_at_once(went) <= slots


@pytest.mark.parametrize("latency", [0.0, 0.001])
async def test_a_caller_that_comes_often_asks_seldom(latency: float) -> None:
    store = MemoryStore(latency)
    throttle = Throttle(100_000, store=store, name="shared")
    for _ in range(1_000):
        await throttle.acquire()
        await asyncio.sleep(0.0001)
    assert store.requests < 40
    assert throttle.level >= 100_000 - 1_000
    before = store.requests
    await asyncio.sleep(10)
    assert store.requests <= before + 1, "what was left over went back, and that is all"


async def test_a_caller_that_comes_seldom_books_nothing_for_later() -> None:
    store = MemoryStore()
    throttle = Throttle(100_000, period=1e9, store=store, name="shared")
    for n in range(10):
        await throttle.acquire()
        await asyncio.sleep(0.05)
        assert store.look()["shared"]["rate"]["missing"] == pytest.approx(
            (n + 1) * store.look()["shared"]["set"][6] * 1_000_000, rel=1e-3
        )
        assert store.requests == n + 1


@example(  # they end in the turn of the loop in which they begin
    calls=[Life(at=0.0, who=0, weight=1, lasts=0.0, gives_up=None)] * 6,
    algorithm=SlidingWindow,
    latency=0.0,
)
@example(  # the heavy call has some of its weight in hand now, and the rest when that has expired
    calls=[
        *[Life(at=0.0, who=0, weight=1, lasts=0.0, gives_up=None)] * 6,
        Life(at=0.0, who=1, weight=1, lasts=0.0, gives_up=None),
        Life(at=0.0, who=0, weight=1, lasts=0.7, gives_up=None),
        Life(at=0.0, who=1, weight=2, lasts=0.005, gives_up=None),
        Life(at=0.1, who=2, weight=5, lasts=0.1, gives_up=None),
        Life(at=0.1, who=2, weight=2, lasts=0.0, gives_up=None),
        Life(at=0.25, who=2, weight=1, lasts=0.005, gives_up=None),
        Life(at=0.5, who=1, weight=1, lasts=0.0, gives_up=None),
        Life(at=1.0, who=0, weight=1, lasts=0.0, gives_up=None),
        Life(at=1.3, who=1, weight=5, lasts=0.7, gives_up=None),
    ],
    algorithm=SlidingWindow,
    latency=0.0,
)
@examples(30)
@given(
    calls=CALLS,
    algorithm=st.sampled_from([TokenBucket, SlidingWindow]),
    latency=st.sampled_from([0.0, 0.01]),
)
def test_what_is_in_flight_is_in_flight_for_all(
    calls: list[Life], algorithm: Any, latency: float
) -> None:
    """Of calls that count to their ends, what is in flight and what has ended fits in together."""

    async def main() -> list[Went]:
        store = MemoryStore(latency)
        throttles = [
            Throttle(5, algorithm=algorithm, counts="end", store=store, name="shared")
            for _ in range(3)
        ]
        return await live(throttles, [life._replace(gives_up=None) for life in calls])

    went = testing.run(main())
    assert len(went) == len(calls)
    for one in went:
        flying = sum(other.weight for other in went if other.began <= one.began < other.ended)
        assert flying <= 5
        if algorithm is SlidingWindow:
            inside = sum(
                other.weight
                for other in went
                if other.began <= one.began and round(one.began - other.ended, 9) < 1.0
            )
            assert inside <= 5


@examples(30)
@given(calls=CALLS, seed=st.integers(0, 1_000), slots=st.sampled_from([0, 2]))
def test_a_store_that_loses_answers_and_goes_away(calls: list[Life], seed: int, slots: int) -> None:
    """Nobody is lost, nothing is minted; what a lost answer had booked is lost."""
    chance = random.Random(seed)

    class Unreliable(MemoryStore):
        def apply(self, names: Any, request: Any) -> Any:
            what = chance.random()
            if what < 0.1:
                raise StoreUnavailable("nobody has heard it")
            reply = super().apply(names, request)
            if what > 0.9:
                raise StoreUnavailable("nobody hears the answer")
            return reply

    async def main() -> list[Went]:
        store = Unreliable(chance.choice([0.0, 0.005]))
        throttles = [Throttle(5, slots, store=store, name="shared") for _ in range(2)]
        return await live(throttles, calls)

    went = testing.run(main())
    assert len(went) >= sum(life.gives_up is None for life in calls)
    if went:
        if slots:
            assert most_at_once(went) <= slots
        assert most_within(went, 1.0) <= Throttle(5).guarantee(1.0 + 0.1)


def shared(number: int = 2, **settings: Any) -> tuple[MemoryStore, list[Throttle]]:
    store = MemoryStore(
        **{
            k: settings.pop(k)
            for k in ("latency", "on_error", "ttl", "on_mismatch")
            if k in settings
        }
    )
    settings.setdefault("capacity", 10)
    return store, [Throttle(store=store, name="shared", **settings) for _ in range(number)]


async def test_a_deploy_changes_the_limit_for_all_and_once() -> None:
    store, (old,) = shared(1)
    await old.acquire()
    new = Throttle(20, store=store, name="shared")
    await new.acquire()
    await old.refresh()
    assert old.capacity == new.capacity == 20
    assert Throttle(10, store=store, name="other").capacity == 10


async def test_a_limit_set_by_hand_holds_until_the_code_says_another() -> None:
    store, (one, other) = shared()
    await one.consume()
    one.capacity = 50
    await one.drain()
    await other.refresh()
    assert other.capacity == 50
    again = Throttle(10, store=store, name="shared")
    await again.refresh()
    assert again.capacity == 50
    deployed = Throttle(12, store=store, name="shared")
    await deployed.refresh()
    await other.refresh()
    assert deployed.capacity == other.capacity == 12


async def test_one_that_insists_on_its_own_parameters() -> None:
    store, (one,) = shared(1, on_mismatch="raise")
    await one.acquire()
    other = Throttle(20, store=store, name="shared")
    with pytest.raises(ValueError, match="on_mismatch='raise'"):
        await other.acquire()
    await one.acquire()


async def test_a_pause_holds_everybody_and_ends_for_everybody() -> None:
    _, (one, other) = shared(latency=0.001)
    await asyncio.gather(one.acquire(), other.acquire())
    one.pause(30)
    await asyncio.sleep(0.1)
    assert other.paused_for == pytest.approx(29.9, abs=0.01)
    waiting = asyncio.create_task(other.acquire())
    await asyncio.sleep(1)
    assert not waiting.done()
    other.resume()
    await waiting
    assert now() < 1.5
    await asyncio.sleep(0.1)
    assert one.paused_for == 0


async def test_a_pause_that_empties_starts_gently() -> None:
    _, (one, other) = shared()
    await one.acquire()
    one.pause(5, empty=True)
    await asyncio.sleep(0.01)
    await other.acquire()
    assert now() == pytest.approx(5.1, abs=0.03)


@pytest.mark.parametrize("kind", ["charge", "settle", "sync"])
async def test_debt_and_refunds_are_everybody_s(kind: str) -> None:
    _, (one, other) = shared()
    lease = await one.lease(5)
    if kind == "charge":
        one.charge(25)
    elif kind == "settle":
        lease.settle(30)
    else:
        one.sync(remaining=0)
    lease.release()
    await one.drain()
    await other.acquire()
    assert now() == pytest.approx({"charge": 2.1, "settle": 2.1, "sync": 0.1}[kind], abs=0.05)


async def test_a_refund_comes_back_for_all() -> None:
    _, (one, other) = shared()
    lease = await one.lease(10)
    lease.settle(2)
    lease.release()
    await one.drain()
    await asyncio.sleep(0.05)
    await other.acquire(8)
    assert now() < 0.1


async def test_slots_of_a_process_that_died_come_back() -> None:
    store, (dead, one) = shared(concurrency=1, ttl=3)
    await dead.acquire()
    waiting = asyncio.create_task(one.acquire())
    await asyncio.sleep(1)
    _die(dead)
    await waiting
    assert 2 < now() <= 5
    assert store.requests < 40


def _die(throttle: Throttle) -> None:
    """The process of *throttle* is no more: nobody says anything for it."""
    from async_throttle._shell.scheduler import find

    scheduler = find(throttle._core)
    assert scheduler.feeder is not None
    feeder: Any = scheduler.feeder
    feeder.look = lambda scheduler: None
    feeder.due = lambda scheduler, now: 1 << 160
    feeder.collect = lambda scheduler, batch: None


async def test_who_holds_a_slot_for_long_keeps_it() -> None:
    _, (holder, other) = shared(concurrency=1, ttl=3)
    async with holder:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(20):
                await other.acquire()
    await other.acquire()


async def test_the_lease_of_a_process_that_was_frozen_is_lost_and_it_says_so() -> None:
    store, (frozen, other) = shared(concurrency=1, ttl=3)
    await frozen.acquire()
    store.away = True  # to the one that is frozen
    await asyncio.sleep(10)
    store.away = False
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        waiting = asyncio.create_task(other.acquire())
        await asyncio.sleep(2)
        assert not waiting.done()
        frozen.release()
        await waiting
    assert any("took back" in str(warning.message) for warning in caught)


async def test_a_store_that_is_away_is_waited_for() -> None:
    store, (one, _) = shared()
    await one.acquire()
    store.away = True
    waiting = asyncio.create_task(one.acquire())
    with pytest.raises(ThrottleTimeout):
        await one.acquire(timeout=1)
    await asyncio.sleep(10)
    assert not waiting.done()
    assert store.requests < 60
    store.away = False
    await waiting
    assert now() < 12


async def test_a_store_that_is_away_raises_if_it_is_told_to() -> None:
    store, (one, _) = shared(on_error="raise")
    await one.acquire()
    store.away = True
    with pytest.raises(StoreUnavailable, match="is away"):
        await one.acquire()
    with pytest.raises(StoreUnavailable, match="is away"):
        await one.acquire()
    store.away = False
    await asyncio.sleep(1)
    await one.acquire()


async def test_without_the_store_everybody_goes_if_it_is_told_to() -> None:
    store, (one, _) = shared(on_error="open", concurrency=1)
    await one.acquire()
    store.away = True
    for _ in range(100):
        async with one:
            pass
    store.away = False
    await asyncio.sleep(1)
    await one.drain() if not one.active else one.release()


async def test_without_the_store_a_process_has_its_share() -> None:
    store, (one, other) = shared(on_error="local")
    await asyncio.gather(one.acquire(), other.acquire())
    await one.refresh()
    store.away = True
    await asyncio.sleep(1)
    began = now()
    for _ in range(25):
        await one.acquire()
    assert now() - began == pytest.approx((25 - 5) / 5, abs=0.5)


async def test_a_state_that_was_lost_begins_with_nothing() -> None:
    store, (one, other) = shared(concurrency=2, ttl=3)
    await one.acquire()
    store.states.clear()
    began = now()
    await other.acquire(1)
    await one.refresh()
    assert one.level <= 10
    await asyncio.gather(*[other.acquire(1) for _ in range(0)])
    assert now() - began < 3


def test_two_loops_one_after_the_other() -> None:
    _, (one,) = shared(1, concurrency=1)

    async def use() -> None:
        async with one:
            await asyncio.sleep(0.1)

    for _ in range(3):
        testing.run(use())
    assert one.active == 0


def test_threads_and_loops_share_it() -> None:
    store = MemoryStore()
    in_threads = threads.Throttle(5, 1, store=store, name="shared")
    assert in_threads.try_acquire(5)
    assert not threads.Throttle(5, 1, store=store, name="shared").try_acquire()
    in_threads.release()
    in_threads.drain()


async def test_try_acquire_asks_a_quick_store() -> None:
    _, (one, other) = shared(concurrency=1)
    assert one.try_acquire(9)
    assert not other.try_acquire()
    one.release()
    await one.drain()
    assert other.try_acquire()
    assert not one.try_acquire()


async def test_now_or_never_asks_any_store() -> None:
    _, (one, other) = shared(latency=0.01)
    assert await one.acquire(10, timeout=0)
    with pytest.raises(ThrottleTimeout):
        await other.acquire(timeout=0)


async def test_a_heavy_call_is_not_starved_by_light_ones_of_others() -> None:
    _, (light, heavy) = shared(latency=0.001)

    async def keep_busy() -> None:
        while True:
            await light.acquire()

    tasks = [asyncio.create_task(keep_busy()) for _ in range(20)]
    await asyncio.sleep(2)
    began = now()
    await heavy.acquire(10)
    assert now() - began < 2.5
    for task in tasks:
        task.cancel()


async def test_sets_take_all_or_nothing() -> None:
    store = MemoryStore(0.001)
    sets = [
        LimitSet(
            requests=Throttle(100, store=store, name="requests"),
            tokens=Throttle(100, store=store, name="tokens"),
        )
        for _ in range(2)
    ]
    began = []

    async def ask(number: int) -> None:
        async with sets[number % 2](tokens=30):
            began.append(now())

    await asyncio.gather(*[ask(number) for number in range(12)])
    assert max(began) == pytest.approx((12 * 30 - 100) / 100, abs=0.1)
    assert sets[0]["requests"].level > 80


async def test_windows_of_the_clock_are_those_of_the_store() -> None:
    store = MemoryStore()
    throttles = [
        Throttle(2, period=60, algorithm=ClockWindow(), store=store, name="minute")
        for _ in range(2)
    ]
    for number in range(5):
        await throttles[number % 2].acquire()
    wall = 10**6 + now()  # the store's clock begins there
    assert wall % 60 == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": None}, "name must be given with a store"),
        ({"timer": lambda: 0.0}, "timer must be left out with a store"),
        ({"capacity": 1e-9}, "capacity must be at least 1e-6 with a store"),
    ],
)
def test_what_does_not_go_with_a_store(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Throttle(**{"capacity": 5, "name": "shared", "store": MemoryStore(), **settings})


def test_a_weight_beyond_the_burst_is_refused_without_the_store() -> None:
    store = MemoryStore()
    with pytest.raises(WeightTooLarge):
        Throttle(5, store=store, name="shared").try_acquire(6)
    assert store.requests == 0


def test_a_throttle_without_a_store_is_not_pickled() -> None:
    with pytest.raises(TypeError, match="second quota"):
        pickle.dumps(Throttle(5))


async def test_a_closed_throttle_refuses_here_and_nowhere_else() -> None:
    _, (one, other) = shared()
    one.close()
    with pytest.raises(ResourceLimitError):
        await one.acquire()
    await other.acquire()


class Front(MemoryStore):
    """The store as another process has it: with a session of its own, and the states of *first*."""

    def __init__(self, first: MemoryStore) -> None:
        super().__init__(first.latency, ttl=first.ttl)
        self.states, self.wakes, self.lock = first.states, first.wakes, first.lock


@pytest.mark.parametrize("latency", [0.0, 0.0003, 0.002])
async def test_processes_that_pass_slots_to_each_other_do_not_stall(latency: float) -> None:
    """Who tells the store of a slot, and lacks one, keeps its turn there."""
    first = MemoryStore(latency)
    throttles = [Throttle(math.inf, 4, store=store, name="s") for store in (first, Front(first))]
    starts: list[list[float]] = [[], []]

    async def work(who: int) -> None:
        for _ in range(20):
            async with throttles[who]:
                starts[who].append(now())
                await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as group:
        for number in range(40):
            group.create_task(work(number % 2))
    for mine in starts:
        assert max(b - a for a, b in pairwise(mine)) < 0.1
    assert now() < 1.3


async def test_who_refreshes_keeps_its_turn() -> None:
    first = MemoryStore(0.001)
    holder = Throttle(math.inf, 1, store=first, name="s")
    waiter = Throttle(math.inf, 1, store=Front(first), name="s")
    async with holder:
        waiting = asyncio.create_task(waiter.acquire())
        await asyncio.sleep(0.1)
        await waiter.refresh()
    await waiting
    assert now() < 0.2


async def test_a_wake_up_that_comes_before_the_answer_is_not_lost() -> None:
    """The answer was given before the slot came back, and arrives after the wake-up."""
    first = MemoryStore(0.001)
    holder = Throttle(math.inf, 1, store=first, name="s")
    slow = Front(first)
    slow.latency = 0.05
    waiter = Throttle(math.inf, 1, store=slow, name="s")
    await holder.acquire()
    waiting = asyncio.create_task(waiter.acquire())
    await asyncio.sleep(0.06)
    holder.release()
    await waiting
    assert now() < 0.3


@pytest.mark.parametrize("latency", [0.0, 0.01])
async def test_a_store_that_is_away_raises_where_there_are_slots_too(latency: float) -> None:
    store, (one, _) = shared(latency=latency, on_error="raise", concurrency=1)
    async with one:
        pass
    await asyncio.sleep(1)
    store.away = True
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="is away"):
            await one.acquire()
        await asyncio.sleep(1)
    store.away = False
    await asyncio.sleep(1)
    async with one:
        assert one.active == 1


@pytest.mark.parametrize("latency", [0.0, 0.01])
async def test_without_the_store_everybody_goes_for_as_long_as_it_is_away(latency: float) -> None:
    store, (one, _) = shared(latency=latency, on_error="open", concurrency=1)
    store.away = True
    for _ in range(10):
        async with asyncio.timeout(1):
            await asyncio.gather(*[one.acquire() for _ in range(20)])
        for _ in range(20):
            one.release()
        await asyncio.sleep(1)
    store.away = False
    await asyncio.sleep(1)
    async with one:
        assert [mine[4] for mine in store.look()["shared"]["sessions"].values()] == [1]


def test_a_slot_that_comes_back_while_the_store_is_busy_is_told_later() -> None:
    """In threads: the one that released it does not wait for the others at the store."""

    class Contended(MemoryStore):
        busy = 0

        def apply(self, names: Any, request: Any) -> Any:
            if self.busy:
                self.busy -= 1
                raise Busy
            return super().apply(names, request)

    store = Contended()
    one = threads.Throttle(5, 1, store=store, name="shared")
    assert one.try_acquire()
    store.busy = 1
    one.release()
    one.drain()
    assert [mine[4] for mine in store.look()["shared"]["sessions"].values()] == [0]


async def test_what_is_held_is_told_again_after_a_request_in_vain() -> None:
    store, (one, other) = shared(concurrency=1, latency=0.001)
    await one.acquire()
    await asyncio.sleep(0.1)
    store.away = True
    one.release()
    await asyncio.sleep(0.01)
    draining = asyncio.create_task(one.drain())
    await asyncio.sleep(3)
    assert not draining.done()
    store.away = False
    await draining
    began = now()
    await other.acquire()
    assert now() < began + 0.1


@pytest.mark.parametrize("latency", [0.0, 0.002])
async def test_a_long_pause_that_somebody_else_ends(latency: float) -> None:
    """Who waits meanwhile is not forgotten, however long that lasts, and is told at once."""
    first = MemoryStore(latency)
    second = Front(first)
    one = Throttle(10, store=first, name="s")
    other = Throttle(10, store=second, name="s")
    one.pause(math.inf)
    waiting = [asyncio.create_task(each.acquire()) for each in (one, one, other)]
    await asyncio.sleep(1_000)
    assert first.requests + second.requests < 250
    other.resume()
    await asyncio.wait(waiting, timeout=0.1)
    assert all(task.done() for task in waiting)


async def test_throttles_that_become_a_set_while_the_store_answers() -> None:
    """What was booked for one of them is not lost."""
    store = MemoryStore(0.01)
    one = Throttle(10, 1, store=store, name="one")
    other = Throttle(10, 1, store=store, name="other")
    waiting = [asyncio.create_task(each.acquire()) for each in (one, other)]
    await asyncio.sleep(0.015)
    both = LimitSet(one=one, other=other)
    async with asyncio.timeout(0.1):
        await asyncio.gather(*waiting)
    assert now() == pytest.approx(0.02)
    one.release()
    other.release()
    async with asyncio.timeout(0.1), both():
        pass
    await asyncio.gather(one.drain(), other.drain())
    assert all(
        mine[4] == 0 for state in store.look().values() for mine in state["sessions"].values()
    )


@pytest.mark.parametrize("first", [0, 1])
async def test_throttles_that_become_a_set_while_the_store_is_away(first: int) -> None:
    """All of them go by the store again when it is back."""
    store = MemoryStore(0.001, on_error="open")
    throttles = [Throttle(10, store=store, name=name) for name in ("one", "other")]
    store.away = True
    await throttles[first].acquire()
    both = LimitSet(one=throttles[0], other=throttles[1])
    store.away = False
    async with asyncio.timeout(1), both():
        pass
    await asyncio.sleep(1)
    began = now()
    for _ in range(25):
        await throttles[first].acquire()
    assert now() - began == pytest.approx(1.5, abs=0.1)


@pytest.mark.parametrize("latency", [0.0, 0.001])
async def test_a_request_does_not_hold_up_the_store_for_long(latency: float) -> None:
    """However many keys there are: they go in several requests."""
    sizes: list[int] = []

    class Watched(MemoryStore):
        def apply(self, names: Any, request: Any) -> Any:
            sizes.append(len(names))
            return super().apply(names, request)

    store = Watched(latency)
    throttles = [Throttle(5, store=store, name=f"key {n}") for n in range(600)]
    await asyncio.gather(*[throttle.acquire() for throttle in throttles])
    assert now() == pytest.approx(6 * latency, abs=2 * latency)
    assert len(sizes) <= 5
    assert max(sizes) <= 250


@pytest.mark.parametrize("latency", [0.0, 0.001])
async def test_callers_of_different_weights_do_not_stall_for_a_slot(latency: float) -> None:
    """The answers to those behind do not undo that the first of them lacks a slot."""
    _, (one, other) = shared(latency=latency, capacity=1_000, concurrency=2)
    starts = []

    async def work(throttle: Throttle, weight: int) -> None:
        async with throttle(weight):
            starts.append(now())
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as group:
        for number in range(80):
            group.create_task(work((one, other)[number % 2], 1 + number // 2 % 3))
    assert max(b - a for a, b in pairwise(starts)) < 0.1


@pytest.mark.parametrize("latency", [0.002, 0.005])
async def test_slots_that_wait_for_the_rate_do_not_stall(latency: float) -> None:
    """Who gives slots back that nobody can use yet says what it lacks in the same request."""
    _, (one,) = shared(1, latency=latency, capacity=100, burst=1, concurrency=5)

    async def work() -> None:
        async with one:
            await asyncio.sleep(0.01)

    await asyncio.gather(*[work() for _ in range(300)])
    assert now() == pytest.approx(3, abs=0.1)


async def test_no_more_callers_are_asked_for_than_there_are_slots_and_one() -> None:
    """Each request would go through all who wait."""
    asked: list[int] = []

    class Watched(MemoryStore):
        def apply(self, names: Any, request: Any) -> Any:
            asked.extend(number for number, _ in request["wants"])
            waiting.append(request["limits"][0]["waiting"])
            return super().apply(names, request)

    waiting: list[int] = []
    throttle = Throttle(1_000, 5, store=Watched(0.001), name="s")

    async def work() -> None:
        async with throttle:
            pass

    await asyncio.gather(*[work() for _ in range(200)])
    assert max(asked) == 6
    assert max(waiting) == 200


async def test_a_store_that_is_away_raises_where_there_are_slots_alone() -> None:
    store, (one,) = shared(1, on_error="raise", capacity=math.inf, concurrency=1)
    async with one:
        pass
    await one.drain()
    store.away = True
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="is away"):
            await one.acquire()
    store.away = False
    await asyncio.sleep(1)
    async with one:
        pass


def test_a_slot_may_come_back_in_a_foreign_thread() -> None:
    """As from a finalizer. In its debug mode, a loop refuses what is not safe there."""

    async def main() -> None:
        throttle = Throttle(math.inf, 1, store=MemoryStore(), name="s")
        await throttle.acquire()
        waiting = asyncio.create_task(throttle.acquire())  # so that it belongs to this loop
        await asyncio.sleep(0)
        throttle.release()
        await waiting
        await asyncio.to_thread(throttle.release)
        async with asyncio.timeout(30):
            await throttle.drain()

    asyncio.run(main(), debug=True)


async def test_a_set_is_drained_when_the_store_knows() -> None:
    store = MemoryStore(0.05)
    api = LimitSet(Throttle(10, 1, store=store, name="one"), Throttle(10, store=store, name="two"))
    async with api():
        pass
    await api.drain()
    assert [
        sum(each[4] for each in state["sessions"].values()) for state in store.look().values()
    ] == [0, 0]


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The instants at which a session looks what there is to be asked; it stops after many."""
    looked: list[float] = []
    looks = LoopSession._end_turn

    def look(session: LoopSession) -> None:
        looked.append(now())
        if len(looked) < 300:  # or time would never go on
            looks(session)

    monkeypatch.setattr(LoopSession, "_end_turn", look)
    return looked


async def test_many_who_were_refused_leave_room_for_others_to_ask(turns: list[float]) -> None:
    store = MemoryStore()
    throttle = Throttle(1, store=store, name="shared")
    other = Throttle(10, store=store, name="other")
    LimitSet(one=throttle, other=other)  # they wait in one queue
    many = [asyncio.create_task(throttle.acquire()) for _ in range(1_100)]
    await asyncio.sleep(0)
    last = asyncio.create_task(throttle.lease(priority=1))
    async with asyncio.timeout(1), other:
        pass
    await asyncio.sleep(10)
    assert sum(task.done() for task in many) in (10, 11)
    assert len(turns) < 200
    for task in [*many, last]:
        task.cancel()


async def test_slots_are_not_kept_for_those_behind_who_cannot_go(turns: list[float]) -> None:
    """The one behind could go with what is in hand, if the head were not before it."""
    store = MemoryStore()
    throttle = Throttle(5, 1, store=store, name="shared", initial=1)
    lease = await throttle.lease()
    waiters = [asyncio.create_task(throttle.lease(weight)) for weight in (5, 1)]
    await asyncio.sleep(0.005)
    lease.settle(0)  # that is in hand again, for what is left of its grace
    lease.release()
    await asyncio.sleep(0.001)
    for n, task in enumerate(waiters):
        async with asyncio.timeout(2):
            lease = await task
        lease.release()
        assert now() >= (0.8, 1.0)[n]
    assert len(turns) < 50


@pytest.mark.parametrize("latency", [0.0, 0.001])
async def test_a_caller_that_does_not_wait_finds_what_is_in_hand(latency: float) -> None:
    store = MemoryStore(latency)
    throttle = Throttle(100_000, store=store, name="shared")
    for _ in range(100):
        await throttle.acquire()
        await asyncio.sleep(0.0001)
    before = store.requests
    assert await throttle.acquire(timeout=0)
    assert store.requests == before


async def test_callers_that_do_not_wait_ask_one_after_the_other(turns: list[float]) -> None:
    store = MemoryStore(0.01)
    throttle = Throttle(1_000, store=store, name="shared")
    await throttle.acquire()
    await asyncio.sleep(1)
    began = now()
    assert all(await asyncio.gather(*[throttle.acquire(timeout=0) for _ in range(4)]))
    assert now() - began <= 0.081


async def test_who_asks_how_the_limits_stand_has_his_turn_beside_those_who_use_them() -> None:
    throttle = Throttle(1_000_000, store=MemoryStore(0.01), name="shared")

    async def use() -> None:
        while True:
            throttle.charge(1)
            await asyncio.sleep(0.003)

    using = asyncio.create_task(use())
    await asyncio.sleep(1)
    async with asyncio.timeout(0.1):
        await throttle.refresh()
    using.cancel()


@pytest.mark.parametrize("after", [0.0, 0.005, 0.015])
async def test_who_does_not_wait_and_is_cancelled_keeps_no_slot(after: float) -> None:
    store = MemoryStore(0.01)
    throttle, other = (Throttle(1_000, 1, store=store, name="shared") for _ in range(2))
    async with throttle:
        pass
    await asyncio.sleep(1)
    task = asyncio.create_task(throttle.acquire(timeout=0))
    await asyncio.sleep(after)
    task.cancel()
    await asyncio.sleep(0.1)
    async with asyncio.timeout(0.1), other:
        pass


async def test_the_store_is_asked_again_whoever_was_asking_it_then() -> None:
    """When it is time to ask again, the request of a caller that does not wait is on its way."""
    store = MemoryStore(0.03)
    throttle = Throttle(10, store=store, name="shared")
    await throttle.acquire()
    await asyncio.sleep(1)
    store.away = True
    waiter = asyncio.create_task(throttle.acquire())
    await asyncio.sleep(0.04)
    guest = asyncio.create_task(throttle.acquire(timeout=0))
    await asyncio.sleep(0.05)
    store.away = False
    async with asyncio.timeout(2):
        await waiter
    await asyncio.gather(guest, return_exceptions=True)  # it was refused, behind the other


async def test_what_somebody_has_cancelled_is_asked_again() -> None:
    """All tasks but those of the callers, as a program does that clears up."""
    throttle = Throttle(10, 1, store=MemoryStore(0.01), name="shared")
    waiter = asyncio.create_task(throttle.acquire())
    await asyncio.sleep(0.015)
    for task in asyncio.all_tasks() - {waiter, asyncio.current_task()}:
        task.cancel()
    async with asyncio.timeout(2):
        await waiter


@pytest.mark.parametrize("algorithm", [TokenBucket, FixedWindow])
async def test_who_waits_for_a_limit_of_this_process_alone_asks_when_that_is_there(
    algorithm: Any,
) -> None:
    """What was booked before expires, and nobody else tells that it has."""
    store = MemoryStore()
    throttle = Throttle(100, 3, algorithm=algorithm, store=store, name="shared")
    api = LimitSet(one=throttle, here=Throttle(1, burst=1))
    for _ in range(2):  # the second is asked for what the store has as soon as it has news
        async with api():
            pass
        waiter = asyncio.create_task(api.lease())
        await asyncio.sleep(0.5)
        throttle.charge(1)
        await asyncio.sleep(0)
        (session,) = store.look()["shared"]["sessions"].values()
        assert session[4] == 0, "it holds no slot while it waits"
        async with asyncio.timeout(1):
            (await waiter).release()
    assert store.requests < 30


async def test_all_that_wait_are_told_that_the_store_is_away_and_then_it_is_asked_again() -> None:
    store = MemoryStore(on_error="raise")
    throttle, other = (Throttle(1, 2, store=store, name=name) for name in ("shared", "other"))
    api = LimitSet(one=throttle, other=other)
    async with api():
        pass
    await asyncio.sleep(0.1)
    calls: list[Any] = [api.lease, throttle.acquire, api.lease, other.acquire]
    waiters = [asyncio.create_task(call()) for call in calls]
    await asyncio.sleep(0.1)
    store.away = True
    throttle.charge(1)
    for told in await asyncio.gather(*waiters, return_exceptions=True):
        assert isinstance(told, StoreUnavailable)
    for _ in range(100):
        with pytest.raises(StoreUnavailable) as caught:
            await throttle.acquire()
        assert len(caught.traceback) < 50
    store.away = False
    await asyncio.sleep(5)
    async with asyncio.timeout(1), api():
        pass


def interrupt(at: int, work: Callable[[], object]) -> bool:
    """Do *work*, and interrupt it as its function number *at* begins; whether that came."""
    calls = 0

    def seen(frame: object, what: str, argument: object) -> None:
        nonlocal calls
        calls += what == "call"
        if what == "call" and calls == at:
            raise KeyboardInterrupt

    sys.setprofile(seen)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in finalizers
async def test_a_look_that_is_interrupted_before_it_is_answered_forgets_nobody() -> None:
    came = 0
    for at in range(4, 200):  # from the look itself on, until the answer is given to the rules
        store = MemoryStore()
        throttle = Throttle(10, 3, store=store, name="shared")
        tasks = [asyncio.create_task(throttle.lease()) for _ in range(3)]
        await asyncio.sleep(0)
        session = session_of(store, throttle._core.scheduler)
        assert isinstance(session, LoopSession)
        assert session._turn is not None, "one has asked for itself, and the others are to be asked"
        session._turn.cancel()
        came += interrupt(at, partial(surely(session._end_turn), None))  # which tries twice
        async with asyncio.timeout(0.1):
            for lease in await asyncio.gather(*tasks):
                lease.release()
        await asyncio.sleep(0.1)
        (told,) = store.look()["shared"]["sessions"].values()
        assert told[4] == 0, at
    assert came > 50


@pytest.mark.parametrize("algorithm", [TokenBucket, SlidingWindow])
async def test_who_weighs_more_than_the_share_of_this_process_waits_for_the_store(
    algorithm: Any,
) -> None:
    store = MemoryStore(on_error="local")
    throttle, other = (Throttle(5, algorithm=algorithm, store=store, name="a") for _ in range(2))
    for each in (throttle, other, throttle):
        await each.acquire()
    await asyncio.sleep(2)
    store.away = True
    throttle.charge(1)
    await asyncio.sleep(0.1)
    waiter = asyncio.create_task(throttle.acquire(4))
    await asyncio.sleep(3)
    assert not waiter.done()
    assert await other.acquire(2, timeout=3)
    store.away = False
    async with asyncio.timeout(2):
        await waiter
