"""A process that is forked has the limits, empty queues, no holders and fresh locks.

In the child the threads and the loops of the parent are gone: whoever waited or held there will
never leave. Each child runs for seconds at most; one that hangs is killed.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable

import pytest
from children import in_child
from limiters import KINDS, OF_THREADS, Kind, Limiter, every_kind, threaded
from support import scaled

from async_throttle import AIMD, LimitSet, Throttle, Throttles, testing, threads
from async_throttle._shell.fast import NOTHING

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

PATIENCE = 5.0
"""Real seconds after which a child hangs."""


def use(limiter: Limiter) -> None:
    """Use it in a thread and in a loop of this process, as far as it is for these."""

    async def calls() -> None:
        for _ in range(3):
            async with limiter.call():
                assert limiter.throttle.active == 1

    if isinstance(limiter.throttle, threads.Throttle):
        for _ in range(3):
            with limiter.call():
                assert limiter.throttle.active == 1
    asyncio.run(calls())
    assert (limiter.throttle.active, limiter.throttle.waiting) == (0, 0)


def empty(limiter: Limiter) -> None:
    """Assert that nobody waits or holds."""
    assert (limiter.throttle.active, limiter.throttle.waiting) == (0, 0)


def fresh(limiter: Limiter) -> None:
    """Assert that nobody waits or holds, and that it can be used."""
    empty(limiter)
    use(limiter)


def test_what_a_set_holds_in_the_parent_is_not_waited_for_in_the_child() -> None:
    async def drain() -> None:
        await asyncio.wait_for(api.drain(), PATIENCE)

    def child() -> None:
        lease.release()
        asyncio.run(drain())
        again = api.try_acquire()
        assert api._core.lane.holders == 1
        again.release()
        asyncio.run(drain())

    api = LimitSet(Throttle(100))
    lease = api.try_acquire({0: 0})  # not even a slot
    in_child(child)
    lease.release()
    asyncio.run(drain())


# -- those who wait -----------------------------------------------------------------------


@threaded
def test_threads_that_wait_in_the_parent_do_not_wait_in_the_child(kind: Kind) -> None:
    limiter = kind.make(100, burst=1)
    order: list[int] = []

    def call(n: int) -> None:
        with limiter.call():
            order.append(n)

    with limiter.call():
        pass
    crowd = [threading.Thread(target=call, args=(n,), daemon=True) for n in range(5)]
    for n, thread in enumerate(crowd):
        thread.start()
        while limiter.throttle.waiting + len(order) <= n:
            time.sleep(0.0001)
    in_child(lambda: fresh(limiter))
    for thread in crowd:
        thread.join(PATIENCE)
    assert order == list(range(5)), "the parent notices nothing"
    empty(limiter)


@every_kind
def test_tasks_that_wait_in_the_parent_do_not_wait_in_the_child(kind: Kind) -> None:
    limiter = kind.make(10, burst=1, max_waiting=6)
    order: list[int] = []

    async def call(priority: int) -> None:
        async with limiter.call(timeout=60, priority=priority):
            order.append(priority)

    async def as_many() -> None:
        await asyncio.gather(*(limiter.lease() for _ in range(6)))

    def child() -> None:
        limiter.throttle.capacity = 1000
        fresh(limiter)
        asyncio.run(as_many())

    async def main() -> None:
        async with limiter.call():
            pass
        tasks = [asyncio.create_task(call(priority)) for priority in (0, -1, 1, 0, 2, 0)]
        await asyncio.sleep(0)
        in_child(child)
        await asyncio.gather(*tasks)

    testing.run(main())
    assert order == [-1, 0, 0, 0, 1, 2], "the parent notices nothing"
    empty(limiter)


@every_kind
def test_a_task_that_was_granted_but_did_not_run_yet_is_no_holder_in_the_child(kind: Kind) -> None:
    limiter = kind.make(1e6, 1)

    async def call() -> None:
        async with limiter.call():
            await asyncio.sleep(0)

    async def main() -> None:
        held = await limiter.lease()
        task = asyncio.create_task(call())
        await asyncio.sleep(0)
        held.release()  # which grants it; the task is about to run
        in_child(lambda: fresh(limiter))
        await task

    asyncio.run(main())
    empty(limiter)


# -- those who hold -----------------------------------------------------------------------


def full(limiter: Limiter) -> None:
    """Assert that exactly two can hold it, and take none."""
    taken = [limiter.try_acquire() for _ in range(3)]
    assert taken == [True, True, False], taken
    assert limiter.throttle.active == 2
    limiter.throttle.release()
    limiter.throttle.release()
    empty(limiter)


@every_kind
def test_leases_of_the_parent_hold_nothing_in_the_child_and_end_there_without_effect(
    kind: Kind,
) -> None:
    limiter = kind.make(1e6, 2)

    async def main() -> None:
        held = [await limiter.lease(), await limiter.lease()]

        def child() -> None:
            empty(limiter)
            full(limiter)
            assert limiter.try_acquire()
            for lease in held:
                lease.release()
                lease.release()
            assert limiter.throttle.active == 1, "its own"
            limiter.throttle.release()
            full(limiter)
            use(limiter)

        in_child(child)
        assert limiter.throttle.active == 2
        assert not limiter.try_acquire()
        for lease in held:
            lease.release()
        full(limiter)

    asyncio.run(main())


@every_kind
@pytest.mark.parametrize("error", [None, ValueError("of the body")])
def test_a_block_around_a_fork_ends_in_the_child_without_effect(
    kind: Kind, error: Exception | None
) -> None:
    limiter = kind.make(1e6, 2)

    async def main() -> None:
        def leave() -> None:
            ends = block.__aexit__(type(error) if error else None, error, None)
            with pytest.raises(StopIteration):
                ends.send(None)

        def child() -> None:
            full(limiter)
            leave()
            full(limiter)

        def busy_child() -> None:
            assert limiter.try_acquire()
            leave()
            assert limiter.throttle.active == 1

        block = limiter.call()
        async with limiter.call():
            await block.__aenter__()
            in_child(child)
            in_child(busy_child)
            assert limiter.throttle.active == 2
            await block.__aexit__(None, None, None)
        full(limiter)

    asyncio.run(main())


def test_a_measured_block_around_a_fork_ends_in_the_child_without_effect() -> None:
    throttle = Throttle(1e6, 2, adapt=AIMD(minimum=2))

    async def main() -> None:
        def child() -> None:
            assert throttle.try_acquire()
            assert throttle.__aexit__(None, None, None) is NOTHING
            assert throttle.active == 1

        async with throttle:
            in_child(child)
        assert throttle.active == 0

    asyncio.run(main())


@threaded
def test_a_with_statement_around_a_fork_is_left_in_the_child_without_effect(kind: Kind) -> None:
    limiter = kind.make(1e6, 2)
    plain, call = limiter.asked, limiter.call()
    if hasattr(plain, "__enter__"):
        plain.__enter__()
    with call:
        held = limiter.throttle.active

        def child() -> None:
            full(limiter)
            with limiter.call():
                assert limiter.throttle.active == 1
            call.__exit__(None, None, None)
            if hasattr(plain, "__exit__"):
                plain.__exit__(None, None, None)
            full(limiter)
            use(limiter)

        in_child(child)
        assert limiter.throttle.active == held
    if hasattr(plain, "__exit__"):
        plain.__exit__(None, None, None)
    full(limiter)


@every_kind
@pytest.mark.parametrize("holders", [0, 1, 2])
def test_release_ends_as_many_acquires_of_the_parent_as_there_were_and_no_more(
    kind: Kind, holders: int
) -> None:
    limiter = kind.make(1e6, 2)
    for _ in range(holders):
        assert limiter.try_acquire()

    def child() -> None:
        for _ in range(holders):
            limiter.throttle.release()
            empty(limiter)
        with pytest.raises(ValueError, match="release"):
            limiter.throttle.release()
        full(limiter)

    in_child(child)
    for _ in range(holders):
        limiter.throttle.release()
    full(limiter)


@every_kind
def test_settling_a_lease_of_the_parent_raises_nothing(kind: Kind) -> None:
    limiter = kind.make(10, 2)

    async def main() -> None:
        lease = await limiter.lease(4)

        def child() -> None:
            limiter.settle(lease, 1)
            lease.release()
            empty(limiter)

        in_child(child)
        assert limiter.throttle.active == 1
        limiter.settle(lease, 4)
        lease.release()

    asyncio.run(main())
    empty(limiter)


# -- limits and locks ---------------------------------------------------------------------


@every_kind
def test_the_child_has_the_limits(kind: Kind) -> None:
    limiter = kind.make(100, 3, 60, burst=7, max_waiting=4, name="api")
    throttle = limiter.throttle
    throttle.concurrency = 2

    def child() -> None:
        assert (throttle.capacity, throttle.concurrency, throttle.period) == (100, 2, 60)
        assert (throttle.burst, throttle.max_waiting, throttle.name) == (7, 4, "api")
        assert sum(limiter.try_acquire() for _ in range(10)) == 2

    in_child(child)
    assert throttle.active == 0


@every_kind
def test_a_child_that_was_forked_by_a_child_has_them_as_well(kind: Kind) -> None:
    limiter = kind.make(1e6, 2)
    assert limiter.try_acquire()

    def child() -> None:
        assert limiter.try_acquire()
        in_child(lambda: full(limiter))
        assert limiter.throttle.active == 1

    in_child(child)
    assert limiter.throttle.active == 1


class SlowClock:
    """A clock that takes long to read in one thread, which holds locks meanwhile."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self.go_on = threading.Event()
        self.slow: threading.Thread | None = None

    def __call__(self) -> float:
        if threading.current_thread() is self.slow:
            self.inside.set()
            self.go_on.wait(2)
        return time.monotonic()

    def read_in_a_thread(self, call: Callable[[], object]) -> threading.Thread:
        """Do *call* in a thread, up to the moment at which it reads the clock."""
        self.slow = threading.Thread(target=call, daemon=True)
        self.slow.start()
        assert self.inside.wait(PATIENCE)
        return self.slow


@threaded
@pytest.mark.parametrize(
    "what", ["try_acquire", "release", "level", "pause", "close", "capacity", "wait"]
)
def test_a_lock_that_another_thread_held_is_free_in_the_child(kind: Kind, what: str) -> None:
    clock = SlowClock()
    limiter = kind.make(1000, 5, timer=clock)
    throttle = limiter.throttle
    assert limiter.try_acquire()

    calls: dict[str, Callable[[], object]] = {
        "capacity": lambda: setattr(throttle, "capacity", 500),
        "level": lambda: throttle.level,
        "pause": lambda: throttle.pause(0),
        "try_acquire": limiter.try_acquire,
        "wait": lambda: limiter.call().__enter__(),
        "release": throttle.release,
        "close": throttle.close,
    }
    thread = clock.read_in_a_thread(calls[what])
    in_child(lambda: (throttle.level, throttle.active) if what == "close" else use(limiter))
    clock.go_on.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_set_that_was_being_made_in_another_thread_keeps_nobody_from_making_one() -> None:
    clock = SlowClock()
    made = [threads.Throttle(1000, timer=clock) for _ in range(4)]
    thread = clock.read_in_a_thread(lambda: LimitSet(made[0], made[1]))

    def child() -> None:
        for throttles in (made[2:], made[:2], made):
            with LimitSet(*throttles):
                pass

    in_child(child)
    clock.go_on.set()
    thread.join(PATIENCE)
    with LimitSet(*made):
        pass


def test_keys_that_another_thread_looks_at_keep_nobody_from_asking_for_one() -> None:
    clock = SlowClock()
    hosts: Throttles[str, threads.Throttle] = Throttles(
        lambda host: threads.Throttle(1000, timer=clock if host.startswith("old") else None)
    )
    kept = [hosts["old"], hosts["older"]]
    thread = clock.read_in_a_thread(lambda: hosts["new"])

    def child() -> None:
        for host in ("old", "new", "other"):
            with hosts[host]:
                pass
        assert hosts["old"] is kept[0]

    in_child(child)
    clock.go_on.set()
    thread.join(PATIENCE)
    with hosts["new"]:
        pass


@pytest.mark.parametrize("attempt", range(scaled(10, least=2)))
def test_a_storm_of_threads_at_the_moment_of_the_fork_leaves_the_child_in_order(
    attempt: int,
) -> None:
    limiters = [kind.make(1e5, 2) for kind in OF_THREADS]
    over = threading.Event()

    def work(limiter: Limiter) -> None:
        while not over.is_set():
            with limiter.call():
                pass

    crowd = [
        threading.Thread(target=work, args=(limiter,), daemon=True)
        for limiter in limiters
        for _ in range(3)
    ]
    for thread in crowd:
        thread.start()
    time.sleep(0.003 * attempt)

    def child() -> None:
        for limiter in limiters:
            empty(limiter)
            full(limiter)
            use(limiter)

    try:
        in_child(child)
    finally:
        over.set()
    for thread in crowd:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    for limiter in limiters:
        full(limiter)


def test_throttles_that_are_gone_cost_no_fork_anything() -> None:
    for _ in range(100):
        threads.Throttle(10)
        Throttles(lambda key: threads.Throttle(1))
    limiter = KINDS[1].make(1e6, 2)
    in_child(lambda: full(limiter))
