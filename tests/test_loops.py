"""One event loop after another, two at once, loops that die, and what is left for the collector.

Real loops, since their end is what this is about; they are only ever asked to wait for
milliseconds, and nothing is asserted about how long that took.
"""

from __future__ import annotations

import asyncio
import gc
import math
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import pytest
from support import others_run, queued

from async_throttle import (
    ConcurrencyLimiter,
    LimitSet,
    RateLimiter,
    Throttle,
    ThrottleClosed,
    testing,
    threads,
)

T = TypeVar("T")
MS = 0.001

MODULE_LEVEL = Throttle(1_000, 2)
"""Made at import, where no loop runs."""


@contextmanager
def all_is_collected() -> Generator[None, None, None]:
    """Whatever the collector, a dying task or a loop has to complain about is an error."""
    complaints: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, complaints.append
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield
            gc.collect()
        complaints += [warning.message for warning in warned]
    finally:
        sys.unraisablehook = hook
    assert not complaints


def leave_behind(*coroutines: Coroutine[Any, Any, object]) -> asyncio.AbstractEventLoop:
    """Run them in a loop until they wait, and close it over their heads: the loop is dead."""
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(coroutine) for coroutine in coroutines]
    loop.run_until_complete(asyncio.sleep(0.1 * MS))
    for task in tasks:
        vars_of_task: Any = task
        vars_of_task._log_destroy_pending = False  # a complaint about the test, not about us
    loop.close()
    return loop


async def hold(throttle: Throttle, weight: float = 1) -> None:
    await throttle.acquire(weight)
    await asyncio.Event().wait()


# --- one after another ---


def test_a_module_level_instance_in_loop_after_loop_under_contention() -> None:
    async def main() -> None:
        async def job(n: int) -> None:
            if n % 2:
                async with MODULE_LEVEL:
                    await asyncio.sleep(0)
            else:
                async with MODULE_LEVEL(10):
                    await asyncio.sleep(0)

        MODULE_LEVEL.pause(1 * MS)
        await asyncio.gather(*(job(n) for n in range(20)))

    for _ in range(3):
        asyncio.run(main())
    assert (MODULE_LEVEL.active, MODULE_LEVEL.waiting) == (0, 0)


def test_a_slot_held_across_loops_stays_held() -> None:
    throttle = Throttle(100, 1)

    async def take() -> None:
        await throttle.acquire()

    async def give() -> None:
        assert throttle.locked()
        waiter = await queued(throttle.acquire())
        throttle.release()
        await waiter
        throttle.release()

    asyncio.run(take())
    assert throttle.active == 1
    asyncio.run(give())
    assert throttle.active == 0


def test_asyncio_run_cancels_the_waiters_and_the_next_loop_finds_none() -> None:
    throttle = Throttle(100, 1)

    async def leave_tasks() -> None:
        await throttle.acquire()
        for _ in range(5):
            asyncio.create_task(throttle.acquire())  # noqa: RUF006
        asyncio.create_task(throttle.drain())  # noqa: RUF006
        await others_run()
        assert throttle.waiting == 5

    async def use() -> None:
        assert throttle.waiting == 0
        throttle.release()
        async with throttle:
            pass

    with all_is_collected():
        asyncio.run(leave_tasks())
        asyncio.run(use())


# --- dead loops ---


@pytest.mark.parametrize("waits_for", ["slot", "tokens", "pause"])
def test_the_waiters_of_a_dead_loop_are_dropped(waits_for: str) -> None:
    throttle = Throttle(100, 1, period=3600 if waits_for == "tokens" else 1)
    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "slot": (throttle.try_acquire, throttle.release),
        "tokens": (lambda: throttle.charge(100), lambda: setattr(throttle, "period", 1e-6)),
        "pause": (lambda: throttle.pause(math.inf), throttle.resume),
    }
    hold_up, let_go = ways[waits_for]
    hold_up()

    async def enter() -> None:
        async with throttle(2):
            raise AssertionError("never reached")

    with all_is_collected():
        leave_behind(enter(), throttle.lease(), throttle.acquire(), throttle.consume(50))
        let_go()

        async def use() -> None:
            async with throttle:
                assert (throttle.active, throttle.waiting) == (1, 0)

        asyncio.run(use())
        assert (throttle.active, throttle.waiting) == (0, 0)


CHANGES: dict[str, Callable[[Throttle], object]] = {
    "release": lambda throttle: throttle.release(),
    "more slots": lambda throttle: setattr(throttle, "concurrency", 5),
    "more capacity": lambda throttle: setattr(throttle, "capacity", 1e9),
    "smaller burst": lambda throttle: setattr(throttle, "burst", 1),
    "pause": lambda throttle: throttle.pause(1),
    "resume": lambda throttle: throttle.resume(),
    "charge": lambda throttle: throttle.charge(5),
    "close": lambda throttle: throttle.close(),
    "close, not dropping": lambda throttle: throttle.close(drop_waiting=False),
    "try_acquire": lambda throttle: throttle.try_acquire(),
    "delay": lambda throttle: throttle.delay(),
    "locked": lambda throttle: throttle.locked(),
    "waiting": lambda throttle: throttle.waiting,
    "level": lambda throttle: throttle.level,
    "repr": repr,
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_that_is_done_after_a_loop_has_died_calls_into_it(change: str) -> None:
    throttle = Throttle(100, 1)
    throttle.try_acquire()
    with all_is_collected():
        leave_behind(throttle.acquire(2), throttle.acquire(timeout=100))
        CHANGES[change](throttle)
        assert throttle.waiting == 0


def test_a_release_does_not_wake_those_who_drained_in_a_dead_loop() -> None:
    throttle = Throttle(100, 1)
    throttle.try_acquire()
    with all_is_collected():
        leave_behind(throttle.drain())
        throttle.release()
    assert throttle.active == 0


def test_who_was_granted_in_a_dead_loop_but_never_ran_has_taken_nothing() -> None:
    throttle = Throttle(100, 1, period=3600)
    throttle.try_acquire()

    async def use() -> None:
        async with throttle:
            waiter = await queued(throttle.acquire())
        await waiter
        throttle.release()

    with all_is_collected():
        loop = asyncio.new_event_loop()
        task: Any = loop.create_task(throttle.acquire(5))
        loop.run_until_complete(asyncio.sleep(0))
        throttle.release()  # granted; and now its loop never runs again
        assert throttle.active == 1
        loop.close()
        assert (throttle.active, throttle.waiting, throttle.locked()) == (0, 0, False)
        assert throttle.level == pytest.approx(99.0, abs=0.1)
        asyncio.run(use())
        task._log_destroy_pending = False
        del task  # only now does it unwind
        gc.collect()
        assert (throttle.active, throttle.waiting, throttle.locked()) == (0, 0, False)
        assert throttle.level == pytest.approx(97.0, abs=0.1)


def test_the_coroutines_of_a_dead_loop_unwind_without_harm() -> None:
    throttle = Throttle(100, 1)
    throttle.try_acquire()

    async def enter() -> None:
        async with throttle(2) as lease:
            lease.settle(1)

    with all_is_collected():
        coroutines: list[Coroutine[Any, Any, Any]] = [
            enter(),
            throttle.acquire(timeout=5),
            throttle.consume(100),
            throttle.drain(),
        ]
        leave_behind(*coroutines)
        for coroutine in coroutines:
            coroutine.close()
    assert (throttle.active, throttle.waiting) == (1, 0)
    throttle.release()


def test_a_loop_that_stopped_but_was_not_closed_goes_on_later() -> None:
    throttle = Throttle(100, 1)
    throttle.try_acquire()
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(throttle.acquire())
        runner.run(others_run())
        throttle.release()
        assert loop.run_until_complete(task)
    throttle.release()


# --- two at once ---


def _two_loops(
    first: Coroutine[Any, Any, object], second: Callable[[], Coroutine[Any, Any, T]]
) -> T:
    """Run *second* while *first* waits in another loop, which is open."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(first)
        runner.run(others_run())
        try:
            with asyncio.Runner() as other:
                return other.run(second())
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(task)


@pytest.mark.parametrize("form", ["acquire", "consume", "__aenter__", "call", "lease"])
def test_queueing_in_two_live_loops_at_once_is_an_error_that_names_the_way_out(
    form: str,
) -> None:
    throttle = Throttle(100, 1, period=3600)
    throttle.try_acquire(100)

    async def enter() -> None:
        await (throttle(2).__aenter__() if form == "call" else getattr(throttle, form)())

    with pytest.raises(
        RuntimeError,
        match=r"^callers wait for .* in another event loop, which does not run, but is not closed.*"
        r"close the other loop, or use async_throttle\.threads\.Throttle",
    ):
        _two_loops(throttle.acquire(), enter)
    assert (throttle.active, throttle.waiting) == (1, 0)


@pytest.mark.parametrize("form", ["acquire", "drain"])
def test_a_loop_that_runs_in_another_thread_is_told_as_one(form: str) -> None:
    throttle = Throttle(math.inf, 1)
    throttle.try_acquire()
    waits, done = threading.Event(), threading.Event()

    async def first() -> None:
        waiter = asyncio.create_task(throttle.acquire())
        await others_run()
        waits.set()
        await asyncio.to_thread(done.wait)
        waiter.cancel()

    thread = threading.Thread(target=asyncio.run, args=(first(),))
    thread.start()
    waits.wait()
    try:
        with pytest.raises(RuntimeError, match=r"loop, which runs; .* time: use async_throttle\."):
            asyncio.run(getattr(throttle, form)())  # drain() was over at once
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("kind", [Throttle, threads.Throttle], ids=["loop", "threads"])
def test_without_an_event_loop_of_asyncio_a_wait_is_refused_with_the_way_out(kind: Any) -> None:
    throttle = kind(math.inf, 1)

    def step(call: Coroutine[Any, Any, object]) -> object:
        """As another framework does."""
        with pytest.raises(StopIteration) as end:
            call.send(None)
        return end.value.value

    step(throttle.__aenter__())
    for call in (throttle.__aenter__(), throttle(1).__aenter__()):
        with pytest.raises(RuntimeError, match=r"no event loop of asyncio runs .* trio_asyncio"):
            call.send(None)
    step(throttle.__aexit__(None, None, None))
    assert (throttle.active, throttle.waiting) == (0, 0)


def test_an_uncontended_use_in_a_second_live_loop_is_not_checked() -> None:
    throttle = Throttle(100, 2)
    throttle.try_acquire()

    async def use() -> int:
        async with throttle:
            return throttle.active

    assert _two_loops(asyncio.Event().wait(), use) == 2
    assert throttle.try_acquire()


def test_the_second_loop_may_queue_when_nobody_waits_in_the_first_any_more() -> None:
    throttle = Throttle(100, 1)
    throttle.try_acquire()

    async def wait_a_little() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(throttle.acquire(), 1 * MS)

    with asyncio.Runner() as first, asyncio.Runner() as second:
        for runner in (first, second, first, second):
            runner.run(wait_a_little())
    throttle.release()


@pytest.mark.parametrize("first", [True, False])
def test_callers_in_a_loop_that_was_closed_keep_no_set_from_being_made(first: bool) -> None:
    both = Throttle(1, initial=0, period=3600), Throttle(1, initial=0, period=3600)
    left, used = both if first else both[::-1]
    leave_behind(left.acquire())

    async def main() -> None:
        waiter = await queued(used.acquire())
        LimitSet(*both)
        assert (left.waiting, used.waiting) == (0, 1)
        waiter.cancel()

    asyncio.run(main())


def test_two_threads_with_a_loop_each_are_told() -> None:
    throttle = Throttle(100, 1, period=3600)
    throttle.try_acquire(100)
    told: list[BaseException] = []
    waits, ends = threading.Event(), threading.Event()

    async def wait_for_ever() -> None:
        task = await queued(throttle.acquire())
        waits.set()
        await asyncio.to_thread(ends.wait)
        task.cancel()
        await others_run()

    def elsewhere() -> None:
        waits.wait()
        try:
            asyncio.run(throttle.acquire())
        except RuntimeError as error:
            told.append(error)
        finally:
            ends.set()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    asyncio.run(wait_for_ever())
    thread.join()
    assert len(told) == 1
    assert "async_throttle.threads.Throttle" in str(told[0])


@pytest.mark.parametrize(("run", "timer"), [(asyncio.run, None), (testing.run, lambda: 0.0)])
def test_a_thread_is_answered_at_once_if_nobody_waits_in_the_loop(run: Any, timer: Any) -> None:
    async def main() -> bool:
        return await asyncio.to_thread(Throttle(10, timer=timer).try_acquire, 2)

    assert run(main())


def test_a_throttle_that_no_loop_has_used_may_be_asked_in_a_thread() -> None:
    with ThreadPoolExecutor() as pool:
        assert pool.submit(Throttle(10).try_acquire, 2).result()


# --- eager tasks ---


@pytest.fixture
async def eager() -> None:
    factory = getattr(asyncio, "eager_task_factory", None)
    if factory is None:
        pytest.skip("asyncio.eager_task_factory is new in Python 3.12")
    asyncio.get_running_loop().set_task_factory(factory)


@pytest.mark.usefixtures("eager")
async def test_eager_tasks_keep_order_and_slots() -> None:
    loop = asyncio.get_running_loop()
    throttle = Throttle(10, 2, burst=2)
    order: list[tuple[int, float]] = []

    async def job(n: int) -> None:
        async with throttle:
            order.append((n, loop.time()))
            if n % 3 == 0:
                await asyncio.sleep(0)
            if n < 20:
                await asyncio.create_task(job(n + 20))

    throttle.concurrency = 0
    await asyncio.gather(*(asyncio.create_task(job(n)) for n in range(10)))
    ours = [n for n, _ in order]
    assert [n for n in ours if n < 20] == list(range(10))
    assert sorted(ours) == [*range(10), *range(20, 30)]
    assert order[-1][1] == 1.8
    assert (throttle.active, throttle.waiting) == (0, 0)


@pytest.mark.usefixtures("eager")
async def test_an_eager_newcomer_does_not_overtake_a_granted_waiter() -> None:
    throttle = Throttle(100, 1)
    order = []

    async def job(name: str) -> None:
        async with throttle:
            order.append(name)

    await throttle.acquire()
    early = asyncio.create_task(job("early"))
    throttle.release()
    newcomer = asyncio.create_task(job("newcomer"))  # runs at once, before the granted one
    await asyncio.gather(early, newcomer)
    assert order == ["early", "newcomer"]
    doomed = asyncio.create_task(job("doomed"))
    assert doomed.done()  # uncontended, it never needed the loop
    assert throttle.active == 0


# --- ends of programs ---


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("form", ["block", "call"])
def test_the_slot_comes_back_when_the_program_is_interrupted_in_the_body(
    error: type[BaseException], form: str
) -> None:
    throttle = Throttle(100, 1)

    async def main() -> None:
        waiter = await queued(throttle_job())
        async with throttle if form == "block" else throttle(2):
            raise error
        await waiter

    async def throttle_job() -> None:
        async with throttle:
            await asyncio.sleep(0)

    with all_is_collected(), pytest.raises(error):
        asyncio.run(main())
    assert (throttle.active, throttle.waiting) == (0, 0)
    asyncio.run(throttle_job())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupted_while_others_wait(error: type[BaseException]) -> None:
    throttle = Throttle(100, 1)

    async def main() -> None:
        await throttle.acquire()
        waiters = [await queued(throttle.acquire()) for _ in range(3)]
        asyncio.get_running_loop().call_soon(throttle.release)
        asyncio.get_running_loop().call_soon(interrupt)
        await asyncio.gather(*waiters)

    def interrupt() -> None:
        raise error

    with all_is_collected(), pytest.raises(error):
        asyncio.run(main())
    # The first was granted in the very step of the interrupt, and cancelled before it ran.
    assert (throttle.active, throttle.waiting) == (0, 0)


# --- what is left for the collector ---


def test_a_coroutine_that_was_never_started_has_taken_nothing_and_can_be_closed() -> None:
    throttle = Throttle(10, 1)
    with all_is_collected():
        for coroutine in (
            throttle.acquire(),
            throttle.consume(),
            throttle.lease(),
            throttle.drain(),
            RateLimiter(1).acquire(),
            ConcurrencyLimiter(1).acquire(),
        ):
            coroutine.close()
        del coroutine
    assert (throttle.level, throttle.active, throttle.waiting) == (10.0, 0, 0)


def test_a_call_that_is_forgotten_is_told_by_python_as_for_any_coroutine() -> None:
    for make in (Throttle(10).acquire, RateLimiter(10).acquire, ConcurrencyLimiter(10).acquire):
        with pytest.warns(RuntimeWarning, match="never awaited"):
            make()


def test_what_need_not_be_awaited_does_not_complain() -> None:
    throttle = Throttle(10, 1)
    with all_is_collected():
        throttle.pause(0)
        throttle(5)
        throttle(5, timeout=1)

        @throttle(5)
        async def fetch() -> None: ...

        del fetch
    assert throttle.level == 10.0


def test_nothing_is_left_to_complain_about_after_failures_of_every_kind() -> None:
    async def main() -> None:
        throttle = Throttle(1_000, 1, max_waiting=8)
        await throttle.acquire()
        waiters = [asyncio.create_task(throttle.acquire()) for _ in range(3)]
        waiters += [asyncio.create_task(throttle.acquire(timeout=1 * MS)) for _ in range(3)]
        waiters.append(asyncio.create_task(throttle.acquire(1_000)))
        await others_run()
        waiters[0].cancel()
        throttle.burst = 100
        await asyncio.sleep(2 * MS)
        throttle.release()
        waiters[1].cancel()
        await others_run()
        drain = await queued(throttle.drain())
        throttle.close()
        throttle.release()
        await drain
        results = await asyncio.gather(*waiters, return_exceptions=True)
        assert [type(result).__name__ for result in results] == [
            "CancelledError",
            "CancelledError",
            "bool",
            *["ThrottleTimeout"] * 3,
            "WeightTooLarge",
        ]
        with suppress(ThrottleClosed):
            async with throttle:
                pass

    with all_is_collected():
        asyncio.run(main(), debug=True)


def test_a_task_that_is_dropped_while_it_waits_can_be_collected_with_its_throttle() -> None:
    with all_is_collected():
        throttle = Throttle(100, 1)
        throttle.try_acquire()
        gone = weakref.ref(throttle)
        leave_behind(throttle.acquire(), throttle.lease())
        del throttle
        gc.collect()
        assert gone() is None


def test_a_throttle_no_longer_used_is_collected_though_its_timer_was_armed() -> None:
    async def main() -> weakref.ref[Throttle]:
        throttle = Throttle(1, initial=0)
        waiter = await queued(throttle.acquire())
        waiter.cancel()
        await others_run()
        return weakref.ref(throttle)

    async def outer() -> None:
        gone = await main()
        gc.collect()
        assert gone() is None

    asyncio.run(outer())


def test_it_does_not_keep_a_finished_loop_alive_for_ever() -> None:
    throttle = Throttle(1_000, 1)

    async def main() -> weakref.ref[asyncio.AbstractEventLoop]:
        async with throttle:
            waiter = await queued(throttle.acquire())
        await waiter
        throttle.release()
        return weakref.ref(asyncio.get_running_loop())

    first = asyncio.run(main())
    asyncio.run(main())
    gc.collect()
    assert first() is None
