"""Plain calls of `async_throttle.threads` where event loops are about.

What counts is whether this very thread would hold up its own running loop. There a plain call
that would have to wait is refused, and says what to do instead: in a coroutine of a notebook's
cell, too, whose loop runs in the thread of the cell. All other threads may wait.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from async_throttle import LimitPool, LimitSet, threads

MAKERS: dict[str, Callable[[float], Any]] = {
    "throttle": lambda rate: threads.Throttle(rate, burst=1),
    "set": lambda rate: LimitSet(threads.Throttle(rate, burst=1), threads.Throttle(1000)),
    "pool": lambda rate: LimitPool([LimitSet(threads.Throttle(rate, burst=1))]),
}
SLOW, QUICK = 0.001, 200.0
"""Tokens per second: nobody waits for the one, and the other is soon there."""

every_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)

PATIENCE = 10.0
"""Real seconds after which something hangs."""


def twice(limiter: Any) -> None:
    """Enter at once, and then after a wait."""
    for _ in range(2):
        with limiter():
            pass


def in_a_thread(call: Callable[[], object]) -> None:
    """Do *call* in a new thread; what it raises is raised here."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    for error in errors:
        raise error


@contextmanager
def loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """It runs meanwhile."""
    loop = asyncio.new_event_loop()
    ran = threading.Event()
    loop.call_soon(ran.set)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    assert ran.wait(PATIENCE)
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()


@every_maker
def test_a_callback_of_a_loop_would_hold_it_up_as_well(make: Any) -> None:
    limiter = make(SLOW)
    said: list[str] = []

    def callback() -> None:
        try:
            twice(limiter)
        except RuntimeError as error:
            said.append(str(error))

    async def main() -> None:
        asyncio.get_running_loop().call_soon(callback)
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert len(said) == 1


@every_maker
def test_a_thread_that_a_cell_has_started_may_wait(make: Any) -> None:
    limiter = make(QUICK)

    async def cell() -> None:
        await asyncio.to_thread(twice, limiter)  # its end is told to the loop, which goes on
        in_a_thread(lambda: twice(limiter))  # which holds up the loop, but not for ever

    asyncio.run(cell())


@every_maker
def test_a_loop_that_does_not_run_here_is_held_up_by_nobody(make: Any) -> None:
    limiter = make(QUICK)
    with loop_in_a_thread() as loop:
        twice(limiter)
        asyncio.set_event_loop(loop)  # it is the loop of this thread, but runs in another
        try:
            twice(limiter)
        finally:
            asyncio.set_event_loop(None)
    stopped = asyncio.new_event_loop()
    stopped.run_until_complete(limiter().__aenter__())
    twice(limiter)
    stopped.close()


@every_maker
def test_a_running_loop_of_another_green_thread_is_not_held_up(make: Any) -> None:
    # Beside gevent all green threads are in one thread of the system, for which asyncio keeps
    # the running loop. Whose it is only the loop itself knows.
    limiter = make(QUICK)

    def green() -> None:
        asyncio._set_running_loop(loop)
        try:
            twice(limiter)
        finally:
            asyncio._set_running_loop(None)

    with loop_in_a_thread() as loop:
        in_a_thread(green)


def run_apart(program: str) -> None:
    """Run *program* in an interpreter of its own, for what it patches cannot be undone."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done"


def test_green_threads_wait_beside_an_event_loop() -> None:
    pytest.importorskip("gevent")
    run_apart(
        """
        from gevent import monkey; monkey.patch_all()
        import asyncio, threading
        from async_throttle import threads

        throttle = threads.Throttle(200, burst=1)
        order = []

        async def main():
            for _ in range(3):
                async with throttle:
                    order.append("task")
                await asyncio.sleep(0)

        def green():
            for _ in range(3):
                with throttle:
                    order.append("green")

        crowd = [threading.Thread(target=asyncio.run, args=(main(),))]
        crowd += [threading.Thread(target=green) for _ in range(2)]
        for each in crowd: each.start()
        for each in crowd: each.join()
        assert sorted(order) == ["green"] * 6 + ["task"] * 3, order
        print("done")
        """
    )


def test_a_nested_loop_would_be_held_up_and_its_threads_may_wait() -> None:
    pytest.importorskip("nest_asyncio")
    run_apart(
        """
        import asyncio, nest_asyncio; nest_asyncio.apply()
        from async_throttle import threads

        throttle = threads.Throttle(20, burst=1)

        def refused():
            throttle.pause(60)
            try:
                throttle.acquire()
            except RuntimeError as error:
                assert "async with" in str(error), error
            else:
                raise AssertionError("it held up the loop")
            finally:
                throttle.resume()

        async def inner():
            refused()
            await throttle.acquire_async()

        async def outer():
            throttle.acquire()
            asyncio.run(inner())
            refused()
            await asyncio.to_thread(throttle.acquire)

        asyncio.run(outer())
        throttle.acquire()
        print("done")
        """
    )
