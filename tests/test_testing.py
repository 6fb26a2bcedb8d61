"""The event loop whose clock jumps.

Threads are real here and so is the time they take; where a test waits for one it waits for an
event, never for a number of seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import doctest
import inspect
import os
import pickle
import re
import selectors
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import unittest
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from datetime import date, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
from freezegun import freeze_time
from support import now

from async_throttle import Throttle, pytest_plugin, testing
from async_throttle.testing import READ_THE_CLOCK, DeadlockError, VirtualTimeLoop

pytest_plugins = ["pytester"]

DAY = 86_400.0


def library_clock() -> Callable[[], int]:
    """The function from which the library takes the time, in all of its modules."""
    clock: Callable[[], int]
    (clock,) = {vars(module)["monotonic_ns"] for module in READ_THE_CLOCK}
    return clock


def names() -> list[set[str]]:
    """What those modules hold."""
    return [set(vars(module)) for module in READ_THE_CLOCK]


async def hang() -> None:
    await asyncio.Event().wait()


@pytest.fixture
def blocked_for(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """What the real `select` was asked for, in seconds; 0 is a poll."""
    asked: list[float | None] = []
    real = selectors.DefaultSelector.select

    def select(self: Any, timeout: float | None = None) -> Any:
        asked.append(timeout)
        return real(self, timeout)

    monkeypatch.setattr(selectors.DefaultSelector, "select", select)
    return asked


# --- the clock ---


def test_the_clock_starts_at_zero_and_moves_only_while_everybody_waits() -> None:
    async def main() -> list[float]:
        instants = [now()]
        for _ in range(1_000):
            await asyncio.sleep(0)
        instants.append(now())
        await asyncio.sleep(1.5)
        return [*instants, now()]

    assert testing.run(main()) == [0.0, 0.0, 1.5]


@pytest.mark.parametrize(
    ("times", "seconds", "then"),
    [
        *((3, 1.0, 3.0), (10, 0.1, 1.0), (10_000, 1e-6, 0.01)),
        (1, 2 / 3, 0.666_666_667),  # between two nanoseconds
        (1, 30 * DAY, 30 * DAY),  # asyncio asks the selector for one day at most, and then again
        (1, 5e-324, 1e-9),  # shorter than a nanosecond, it moves the clock all the same
        (2, 1e-10, 2e-9),
    ],
)
async def test_sleeps_add_up_exactly(times: int, seconds: float, then: float) -> None:
    for _ in range(times):
        await asyncio.sleep(seconds)
    assert now() == then


def test_an_hour_of_schedule_falls_on_exact_instants_without_any_sleep(
    blocked_for: list[float | None],
) -> None:
    async def tick(every: float) -> None:
        while now() < 3600:
            ticks.append((now(), every))
            await asyncio.sleep(every)

    async def main() -> None:
        await asyncio.gather(*(tick(every) for every in (7.0, 0.5, 60.0)))

    ticks: list[tuple[float, float]] = []
    testing.run(main())
    for every, times in ((0.5, 7200), (7.0, 515), (60.0, 60)):
        assert [at for at, each in ticks if each == every] == [every * n for n in range(times)]
    assert [at for at, _ in ticks] == sorted(at for at, _ in ticks)
    assert set(blocked_for) == {0}


@pytest.mark.parametrize(("days", "latest"), [(0, 0), (30, 0), (96, 0), (365, 20), (3_650, 300)])
@pytest.mark.parametrize("step", [1_000, 12_345_678, 10**9 + 1])
async def test_who_computes_in_nanoseconds_is_never_woken_too_early(
    days: int, latest: int, step: int
) -> None:
    # A float that counts a year of seconds has steps of 4 ns. A clock that stops short of the
    # instant from which a timer was computed makes its owner set the same timer again, for an
    # instant that is already now: a loop without end.
    loop, clock = asyncio.get_running_loop(), library_clock()
    await asyncio.sleep(days * DAY)
    for _ in range(50):
        due = clock() + step
        fired = asyncio.Event()
        loop.call_at(due / 1e9, fired.set)
        await fired.wait()
        assert 0 <= clock() - due <= latest


@pytest.mark.parametrize("days", [0, 365, 3_650])
async def test_a_timer_due_exactly_now_fires(days: int) -> None:
    await asyncio.sleep(days * DAY)
    loop, clock, fired = asyncio.get_running_loop(), library_clock(), asyncio.Event()
    before = clock()
    loop.call_at(loop.time(), fired.set)
    await fired.wait()
    assert clock() == before


# --- a hang is an error ---


def test_a_hang_is_an_error_that_names_the_tasks_and_where_they_stand() -> None:
    async def inner(gate: asyncio.Event) -> None:
        await gate.wait()

    async def worker(gate: asyncio.Event) -> None:
        await inner(gate)

    async def main() -> None:
        gate = asyncio.Event()
        await asyncio.sleep(2.5)
        for number in range(9, 11):
            tasks.append(asyncio.create_task(worker(gate), name=f"worker-{number}"))
        await tasks[0]

    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(DeadlockError) as caught:
        testing.run(main())

    text = str(caught.value)
    assert text.startswith(
        "at 2.5 s nothing can happen any more: no timer, no I/O, no thread at work. "
        "Tasks that wait: 3\n"
    )
    assert text.index("worker-9") < text.index("worker-10")
    here, line = __file__, worker.__code__.co_firstlineno
    of_a_worker = text[text.index("worker-9") : text.index("worker-10")].splitlines()
    assert [part.strip() for part in of_a_worker[:3]] == [
        "worker-9",
        f"{worker.__qualname__}, {here}:{line + 1}",
        f"{inner.__qualname__}, {here}:{inner.__code__.co_firstlineno + 1}",
    ]
    assert of_a_worker[3].strip().startswith("Event.wait, ")
    assert all(task.cancelled() for task in tasks)


def test_an_async_generator_shows_up_and_a_long_list_of_hanging_tasks_is_cut() -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1
        await asyncio.gather(*(hang() for _ in range(100)))

    async def main() -> None:
        async for _ in numbers():
            pass

    with pytest.raises(DeadlockError, match="Tasks that wait: 101\n") as caught:
        testing.run(main())
    assert re.search(r"main, .*:\d+", str(caught.value))
    assert str(caught.value).endswith("\n  and 91 more")


def test_a_bare_loop_hands_a_hang_on_as_it_is_and_goes_on() -> None:
    with contextlib.closing(VirtualTimeLoop()) as loop:
        with pytest.raises(DeadlockError, match=r"Tasks that wait: 0$"):
            loop.run_forever()
        with pytest.raises(DeadlockError):
            loop.run_until_complete(hang())
        loop.call_later(5, loop.stop)
        loop.run_forever()
        assert loop.time() == 5.0


def test_after_a_hang_every_task_is_cancelled_and_the_loop_closed() -> None:
    async def worker(number: int) -> None:
        try:
            await hang()
        finally:
            await asyncio.sleep(1)
            unwound.append((number, now()))

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        background = [asyncio.create_task(worker(number)) for number in range(3)]
        try:
            await background[0]
        finally:
            unwound.append((-1, now()))

    loops: list[asyncio.AbstractEventLoop] = []
    unwound: list[tuple[int, float]] = []
    with pytest.raises(DeadlockError):
        testing.run(main())
    assert sorted(unwound) == [(-1, 1.0), (0, 1.0), (1, 2.0), (2, 2.0)]
    assert loops[0].is_closed()


def test_a_hung_task_has_let_go_of_its_locks_when_the_error_arrives() -> None:
    # A test that hangs is followed by the teardown of its fixtures, on the same loop.
    async def holder() -> None:
        async with lock:
            await hang()

    async def teardown() -> bool:
        async with lock:
            return True

    lock = asyncio.Lock()
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        with pytest.raises(DeadlockError):
            runner.run(holder())
        assert runner.run(teardown())


def test_what_goes_wrong_during_the_unwinding_is_told_in_a_note() -> None:
    async def main() -> None:
        try:
            await hang()
        finally:
            raise ValueError("cannot clean up")

    with pytest.raises(DeadlockError) as caught:
        testing.run(main())
    assert caught.value.__notes__ == ["and when cancelled: ValueError: cannot clean up"]


# --- what comes from outside of the loop ---


async def test_a_job_in_an_executor_takes_no_time() -> None:
    beats: list[float] = []
    heart = asyncio.get_running_loop().call_at(1e-9, lambda: beats.append(now()))
    for _ in range(20):
        assert await asyncio.wait_for(asyncio.to_thread(int, "7"), 1e-9) == 7
    assert await asyncio.get_running_loop().run_in_executor(None, int, "8") == 8
    assert (now(), beats) == (0.0, [])
    heart.cancel()


def test_a_job_is_waited_for_where_there_is_no_timer(blocked_for: list[float | None]) -> None:
    async def main() -> str:
        asyncio.get_running_loop().call_soon(go.set)
        return await asyncio.to_thread(lambda: "went" if go.wait(60) else "stood")

    go = threading.Event()
    assert testing.run(main()) == "went"
    assert None in blocked_for


async def test_a_job_that_waits_for_the_clock_is_overtaken_by_it() -> None:
    def job() -> float:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(3600), loop).result(60)
        return loop.time()

    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop.patience = 0.001
    assert await asyncio.to_thread(job) == 3600.0


def test_a_hang_after_a_job_is_still_a_hang() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.patience = 0.001  # the idle thread of the executor might have something to say
        await asyncio.to_thread(int)
        await hang()

    with pytest.raises(DeadlockError):
        testing.run(main())


def test_the_end_waits_for_a_job_that_was_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # asyncio joins the executor from a thread of its own, and from 3.12 on allows it 300
    # seconds: with a clock that jumps, the one is a hang and the other a time-out.
    monkeypatch.setattr(VirtualTimeLoop, "patience", 0.001)

    def job() -> None:
        started.set()
        let_go.wait(60)
        finished.set()

    async def main() -> None:
        asyncio.get_running_loop().run_in_executor(None, job).cancel()
        started.wait(60)
        timer.start()

    started, let_go, finished = (threading.Event() for _ in range(3))
    timer = threading.Timer(0.05, let_go.set)
    testing.run(main())
    timer.join()
    assert finished.is_set()


@pytest.fixture
def silent_thread() -> Iterator[None]:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    yield
    done.set()
    thread.join()


@pytest.mark.usefixtures("silent_thread")
def test_a_thread_that_says_nothing_hides_no_hang_and_keeps_no_timer_waiting(
    monkeypatch: pytest.MonkeyPatch, blocked_for: list[float | None]
) -> None:
    monkeypatch.setattr(VirtualTimeLoop, "patience", 0.001)
    testing.run(asyncio.sleep(3600))
    assert set(blocked_for) == {0}
    with pytest.raises(DeadlockError):
        testing.run(hang())
    assert 0.001 in blocked_for


async def test_a_peer_in_the_same_process_answers_before_any_timer() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            await asyncio.sleep(10)
            writer.write(line.upper())
        writer.close()

    left, right = socket.socketpair()
    server = asyncio.create_task(serve(*await asyncio.open_connection(sock=left)))
    reader, writer = await asyncio.open_connection(sock=right)
    for n in (1, 2, 3):
        async with asyncio.timeout(10.000_001):
            writer.write(b"hello\n")
            assert (await reader.readline(), now()) == (b"HELLO\n", 10.0 * n)
    writer.close()
    await writer.wait_closed()
    await server


def test_without_a_timer_the_loop_waits_for_a_peer_outside(
    blocked_for: list[float | None],
) -> None:
    async def main() -> tuple[bytes, float]:
        loop = asyncio.get_running_loop()
        left.setblocking(False)
        loop.call_soon(thread.start)
        return await loop.sock_recv(left, 100), now()

    left, right = socket.socketpair()
    thread = threading.Thread(target=right.sendall, args=(b"hello",))
    with left, right:
        assert testing.run(main()) == (b"hello", 0.0)
        thread.join()
    assert None in blocked_for


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals that a process sends itself")
def test_a_signal_interrupts_the_wait_for_a_peer() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        left.setblocking(False)
        stop = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, stop.set_result, "stopped")
        reading = asyncio.create_task(loop.sock_recv(left, 1))
        timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        answer: str = await stop
        timer.join()
        reading.cancel()
        loop.remove_signal_handler(signal.SIGUSR1)
        return answer

    left, right = socket.socketpair()
    with left, right:
        assert testing.run(main()) == "stopped"


async def test_a_subprocess_can_be_waited_for() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "print('hello')", stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert (output.strip(), now()) == (b"hello", 0.0)


# --- the library's clock ---


def test_while_the_loop_runs_its_clock_is_the_librarys() -> None:
    async def main() -> list[int]:
        readings = [library_clock()()]
        await asyncio.sleep(1.000_000_001)
        return [*readings, library_clock()()]

    before = library_clock()
    assert testing.run(main()) == [0, 1_000_000_001]
    assert library_clock() is before


def test_the_clock_is_one_object_for_the_life_of_a_loop_and_another_for_the_next() -> None:
    # A throttle takes a different function for a different clock.
    async def read() -> Callable[[], int]:
        return library_clock()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as first:
        one = first.run(read())
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as second:
            assert second.run(read()) is not one
        assert first.run(read()) is one


async def fail(error: BaseException) -> None:
    await asyncio.sleep(1)
    raise error


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt, asyncio.CancelledError, None])
def test_however_a_run_ends_the_previous_clock_comes_back(
    error: type[BaseException] | None,
) -> None:
    before, held = library_clock(), names()
    with pytest.raises(error or DeadlockError):
        testing.run(fail(error()) if error else hang())
    assert library_clock() is before
    assert names() == held


def test_a_run_within_a_run_is_refused_and_leaves_the_outer_clock() -> None:
    async def main() -> float:
        inner = asyncio.sleep(1)
        clock = library_clock()
        with pytest.raises(RuntimeError, match="running event loop"):
            testing.run(inner)
        inner.close()
        with contextlib.closing(VirtualTimeLoop()) as other, pytest.raises(RuntimeError):
            other.run_until_complete(other.create_future())
        assert library_clock() is clock
        await asyncio.sleep(2)
        assert clock() == 2 * 10**9
        return now()

    before = library_clock()
    assert testing.run(main()) == 2.0
    assert library_clock() is before


async def test_another_thread_keeps_the_real_clock_and_may_call_into_the_loop() -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(3600)
    seen = loop.create_future()
    thread = threading.Thread(
        target=lambda: loop.call_soon_threadsafe(seen.set_result, library_clock()())
    )
    before = time.monotonic_ns()
    loop.call_soon(thread.start)
    assert before <= await seen <= time.monotonic_ns()
    assert now() == 3600
    thread.join()


async def test_a_job_has_the_clock_of_its_loop_and_its_thread_has_it_no_longer() -> None:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as pool:
        await asyncio.sleep(3600)
        assert await loop.run_in_executor(pool, library_clock()) == 3600 * 10**9
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(pool, divmod, 1, 0)
        before = time.monotonic_ns()
        assert before <= pool.submit(library_clock()).result() <= time.monotonic_ns()


async def test_a_job_that_runs_a_real_loop_has_a_real_clock_meanwhile() -> None:
    async def read() -> int:
        return library_clock()()

    def job() -> None:
        before = time.monotonic_ns()
        assert before <= asyncio.run(read()) <= time.monotonic_ns()
        assert library_clock()() == 0

    await asyncio.to_thread(job)


async def test_a_job_travels_to_another_process_without_its_loop() -> None:
    class Elsewhere(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_result(pickle.loads(pickle.dumps(fn))(*args, **kwargs))
            return future

    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(Elsewhere(), partial(int, base=2), "11") == 3


async def test_a_coroutine_function_is_no_job_in_debug_mode() -> None:
    asyncio.get_running_loop().set_debug(True)
    with pytest.raises(TypeError, match="coroutines cannot be used"):
        asyncio.get_running_loop().run_in_executor(None, hang)


def test_loops_of_several_threads_run_at_once_each_in_its_own_time() -> None:
    async def main(period: float) -> list[float]:
        throttle = Throttle(1, period=period)
        instants = []
        for _ in range(3):
            await asyncio.to_thread(both.wait, 60)
            await throttle.acquire()
            instants.append(now())
        return instants

    before, held, both = library_clock(), names(), threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(testing.run, main(period)) for period in (1.0, 60.0)]
        assert [run.result() for run in runs] == [[0.0, 1.0, 2.0], [0.0, 60.0, 120.0]]
    assert library_clock() is before
    assert names() == held


def test_a_throttle_notices_the_next_loop_though_another_thread_s_still_runs() -> None:
    # By the clock itself: 30 seconds are less than the period, and might be a clock that fell back.
    async def first() -> None:
        await shared.acquire()
        await asyncio.sleep(30)
        assert shared.level == 0.5

    async def second() -> float:
        await shared.acquire()
        return now()

    def job() -> float:
        testing.run(first())
        return testing.run(second())

    async def other() -> tuple[float, int]:
        return await asyncio.to_thread(job), library_clock()()

    shared = Throttle(1, period=60)
    assert testing.run(other()) == (30.0, 0)


# --- freezegun ---


@pytest.mark.parametrize("frozen_earlier", [False, True])
def test_dates_frozen_inside_a_run_leave_the_clock_alone(frozen_earlier: bool) -> None:
    # freezegun remembers the globals that it found in a module the last time.
    async def main() -> list[object]:
        clock = library_clock()
        with freeze_time("2024-02-29") as frozen:
            first = date.today()
            await asyncio.sleep(DAY)
            assert library_clock() is clock
            frozen.tick(timedelta(days=1))
            seen = [first, date.today(), now()]
        assert library_clock() is clock
        await asyncio.sleep(1)
        return [*seen, clock()]

    if frozen_earlier:
        with freeze_time("2024-01-01"):
            pass
    assert testing.run(main()) == [date(2024, 2, 29), date(2024, 3, 1), DAY, 86_401 * 10**9]
    # And it must find the true clock again, to freeze it.
    with freeze_time("1970-01-02"):
        assert library_clock()() == DAY * 1e9
    assert library_clock() is time.monotonic_ns


def test_a_run_under_frozen_dates_has_a_moving_clock() -> None:
    async def main() -> tuple[date, float]:
        await asyncio.sleep(DAY)
        return date.today(), now()

    with freeze_time("2024-02-29"):
        frozen = library_clock()
        assert testing.run(main()) == (date(2024, 2, 29), DAY)
        assert library_clock() is frozen
    assert library_clock() is time.monotonic_ns


# --- the rest of asyncio ---


@pytest.mark.parametrize("debug", [False, True, None])
def test_debug_mode_is_passed_on_and_nothing_is_ever_slow(
    debug: bool | None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> tuple[bool, float]:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 1e-9
        await asyncio.sleep(3600)
        return loop.get_debug(), now()

    monkeypatch.setenv("PYTHONASYNCIODEBUG", "")
    assert testing.run(main(), debug=debug) == (bool(debug), 3600.0)
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]


def test_async_generators_are_closed_at_the_end() -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(1)
            closed.append(now())

    async def main() -> None:
        kept.append(numbers())
        assert await anext(kept[0]) == 1

    kept: list[AsyncIterator[int]] = []
    closed: list[float] = []
    testing.run(main())
    assert closed == [1.0]


@pytest.mark.skipif(sys.version_info < (3, 13), reason="loop_factory came with 3.13")
def test_unittest_takes_the_loop() -> None:
    class Case(unittest.IsolatedAsyncioTestCase):
        loop_factory = VirtualTimeLoop

        async def test_hour(self) -> None:
            before = now()
            await asyncio.sleep(3600)
            assert now() - before == 3600.0

    result = unittest.TestResult()
    Case("test_hour").run(result)
    assert result.wasSuccessful(), result.errors


def test_anyio_takes_the_loop() -> None:
    anyio = pytest.importorskip("anyio")

    async def main() -> float:
        with anyio.move_on_after(60):
            await anyio.sleep_forever()
        return now()

    assert anyio.run(main, backend_options={"loop_factory": VirtualTimeLoop}) == 60.0


# --- with a throttle ---


def test_a_throttle_of_a_module_serves_one_run_after_another() -> None:
    async def main() -> list[float]:
        grants = []
        for _ in range(3):
            async with shared:
                grants.append(now())
        return grants

    shared = Throttle(1, 1, period=60)
    assert testing.run(main()) == [0.0, 60.0, 120.0]
    # The bucket was left empty, and time passes only while a loop runs.
    assert testing.run(main()) == [60.0, 120.0, 180.0]


async def test_a_throttle_counts_months() -> None:
    throttle = Throttle(1, period=30 * DAY)
    for month in range(40):
        await throttle.acquire()
        assert 0 <= now() - month * 30 * DAY <= (0 if month < 4 else 1e-6)


# --- the pytest plugin ---

PLUGIN = "async_throttle.pytest_plugin"
CONFTEST = f'pytest_plugins = ["{PLUGIN}"]'


def configured(pytester: pytest.Pytester, *more: str) -> pytest.Pytester:
    lines = [
        "[pytest]",
        "asyncio_mode = auto",
        "asyncio_default_fixture_loop_scope = function",
        "addopts = --strict-markers --strict-config -p no:cacheprovider",
        "filterwarnings = error",
        *more,
    ]
    pytester.makeini("\n".join(lines))
    return pytester


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST)
    return configured(pytester)


VIRTUAL = """
    import asyncio, pytest
    from async_throttle.testing import VirtualTimeLoop

    def is_virtual():
        return isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
"""

MARKED = """
    @pytest.fixture
    async def warm():
        await asyncio.sleep(5)
        yield
        await asyncio.sleep(3600)

    @pytest.mark.virtual_time
    async def test_hour(warm):
        await asyncio.sleep(3600)
        assert asyncio.get_running_loop().time() == 3605.0

    @pytest.mark.virtual_time
    class TestMarked:
        async def test_of_a_class(self):
            assert is_virtual()

        @pytest.mark.virtual_time(on=False)
        async def test_excepted(self):
            assert not is_virtual()

    async def test_real():
        assert not is_virtual()

    def test_plain():
        pass
"""
SET = """
    async def test_virtual():
        assert is_virtual()

    @pytest.mark.virtual_time(False)
    async def test_real():
        assert not is_virtual()
"""
STRICT = """
    pytestmark = [pytest.mark.asyncio, pytest.mark.virtual_time]

    async def test_virtual():
        assert is_virtual()
"""


@pytest.mark.parametrize(
    ("tests", "passed", "setting", "conftest", "options"),
    [
        (MARKED, 5, "", CONFTEST, ()),
        (SET, 2, "virtual_time = true", CONFTEST, ()),
        (SET, 2, "virtual_time = true", "", ("-p", PLUGIN)),
        (STRICT, 1, "", CONFTEST, ("--asyncio-mode=strict",)),
    ],
    ids=["a mark", "a setting", "no conftest", "the strict mode"],
)
def test_virtual_time_is_given_to_a_test_by(
    pytester: pytest.Pytester,
    tests: str,
    passed: int,
    setting: str,
    conftest: str,
    options: tuple[str, ...],
) -> None:
    configured(pytester, setting)
    pytester.makeconftest(conftest)
    pytester.makepyfile(VIRTUAL + tests)
    pytester.runpytest(*options).assert_outcomes(passed=passed)


MARK = "@pytest.mark.virtual_time\n"
EXCEPTED = "@pytest.mark.virtual_time(False)\n"


@pytest.mark.parametrize(
    ("setting", "marks", "outcome", "reason"),
    [
        ("", "@pytest.mark.anyio\n" + MARK, "errors", "anyio's plugin runs it, in real time"),
        ("virtual_time = true", "@pytest.mark.anyio\n", "errors", "anyio's plugin runs it"),
        ("", MARK, "errors", "pytest-asyncio does not run it"),
        (
            "virtual_time = true",
            "@pytest.mark.anyio\n" + EXCEPTED,
            "passed",
            "",
        ),
        ("", "@pytest.mark.anyio\n", "passed", ""),
        ("", "@pytest.mark.asyncio\n" + MARK, "passed", ""),
    ],
)
def test_a_test_that_asks_for_virtual_time_gets_it_or_is_an_error(
    project: pytest.Pytester, setting: str, marks: str, outcome: str, reason: str
) -> None:
    configured(project, setting)
    project.makepyfile(f"""
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"

{marks}async def test_it():
    pass

@pytest.mark.virtual_time
def test_without_a_loop():
    pass
""")
    result = project.runpytest("--asyncio-mode=strict")
    counts = result.parseoutcomes()
    assert counts == ({"errors": 1, "passed": 1} if outcome == "errors" else {"passed": 2})
    assert reason in result.stdout.str()


def test_the_example_of_the_plugin_runs(project: pytest.Pytester) -> None:
    documentation = inspect.cleandoc(pytest_plugin.__doc__ or "")
    example = documentation.split("VirtualTimeLoop`::\n")[1].split("\nFor all")[0]
    imports = "import asyncio, pytest\nfrom async_throttle import Throttle\n"
    project.makepyfile(imports + textwrap.dedent(example))
    project.runpytest().assert_outcomes(passed=1)


@pytest.mark.parametrize("early", [False, True])
def test_factories_of_the_user_stay_for_the_other_tests(
    pytester: pytest.Pytester, early: bool
) -> None:
    # Whether the plugin is registered before the conftest or after it.
    configured(pytester)
    pytester.makeconftest(
        ("" if early else CONFTEST)
        + """
import asyncio
class Own(asyncio.SelectorEventLoop):
    pass
def pytest_asyncio_loop_factories(config, item):
    return {"own": Own, "usual": asyncio.new_event_loop}
"""
    )
    pytester.makepyfile(
        VIRTUAL
        + """
    async def test_own():
        assert not is_virtual()

    @pytest.mark.virtual_time
    async def test_virtual():
        assert is_virtual()

    @pytest.mark.virtual_time
    @pytest.mark.asyncio(loop_factories=["own", "virtual_time"])
    async def test_both():
        assert is_virtual() or type(asyncio.get_running_loop()).__name__ == "Own"
    """
    )
    plugin = ["-p", PLUGIN] if early else []
    result = pytester.runpytest("-v", *plugin)
    result.assert_outcomes(passed=5)
    names = "own[[]own]", "own[[]usual]", "virtual", "both[[]own]", "both[[]virtual_time]"
    result.stdout.fnmatch_lines_random([f"*::test_{name} PASSED*" for name in names])


def test_a_hang_fails_the_test_and_its_fixtures_end_well(project: pytest.Pytester) -> None:
    project.makepyfile(
        VIRTUAL
        + """
    pytestmark = pytest.mark.virtual_time
    lock = asyncio.Lock()

    @pytest.fixture
    async def free():
        yield
        async with lock:
            print("the lock is free")

    async def test_hang(free):
        async with lock:
            await asyncio.Event().wait()

    async def test_after():
        await asyncio.sleep(1)
    """
    )
    result = project.runpytest()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*DeadlockError: at 0.0 s nothing can happen*", "*test_hang, *"])
    result.stdout.fnmatch_lines(["the lock is free"])


def test_a_pytest_asyncio_without_the_hook_is_refused() -> None:
    # Up to 1.3 it knows no loop factories, and marked tests would run in real time.
    manager = pytest.PytestPluginManager()
    manager.register(object(), "asyncio")
    manager.register(pytest_plugin)
    config = cast(pytest.Config, SimpleNamespace(pluginmanager=manager, hook=manager.hook))
    with pytest.raises(pytest.UsageError, match=r"needs pytest-asyncio 1\.4 or newer"):
        pytest_plugin.pytest_configure(config)


def test_without_pytest_asyncio_the_plain_tests_still_run(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\naddopts = --strict-markers\nfilterwarnings = error")
    project.makepyfile("def test_plain(): pass")
    project.runpytest("-p", "no:asyncio").assert_outcomes(passed=1)


def test_the_loop_does_not_import_pytest() -> None:
    code = "import sys, async_throttle.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_examples_of_the_docstrings_run() -> None:
    outcome = doctest.testmod(testing, optionflags=doctest.ELLIPSIS)
    assert outcome.failed == 0
    assert outcome.attempted >= 8
