"""Event loops that are not asyncio's own, and what patches asyncio's.

Each program has a process of its own, because some of them change asyncio for good. Those whose
packages are not there are skipped: ``pip install 'async-throttle[test,loops]'``. (Pyodide's loop
is in test_pyodide.py, and uvloop's in the tests of clocks and races.)
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

SCENE = """
import asyncio
from async_throttle import Throttle, ThrottleTimeout, testing

async def scene():
    "Callers who wait for time and for slots, and some who wait in vain: the order of the grants."
    throttle, slot, order = Throttle(1_000, 2, burst=1), Throttle(1_000, 1), []

    async def job(number):
        async with throttle:
            order.append(number)
            await asyncio.sleep(0)

    for _ in range(3):
        await asyncio.gather(*map(job, range(10)))
        await slot.acquire()
        patient = asyncio.ensure_future(slot.acquire())
        for timeout in (0.001, 0.0025):
            try:
                await slot.acquire(timeout=timeout)
            except ThrottleTimeout:
                order.append("late")
        slot.release()
        await patient
        slot.release()
    return order == [*range(10), "late", "late"] * 3

async def instants():
    "When a throttle of one per second grants."
    throttle, loop, seen = Throttle(1, burst=1), asyncio.get_running_loop(), []
    for _ in range(3):
        await throttle.acquire()
        seen.append(loop.time())
    return seen
"""

PROGRAMS = {
    "rloop: as asyncio": """
        import rloop
        with asyncio.Runner(loop_factory=rloop.new_event_loop) as runner:
            assert runner.run(scene())
        """,
    "qasync: beside Qt": """
        from PySide6.QtCore import QCoreApplication
        import qasync
        with qasync.QEventLoop(QCoreApplication([])) as loop:
            assert loop.run_until_complete(scene())
        """,
    "trio_asyncio: within trio": """
        import trio_asyncio
        async def main():
            assert await trio_asyncio.aio_as_trio(scene)()
        trio_asyncio.run(main)
        """,
    "gevent: a loop in a thread of the hub": """
        import gevent
        greenlet = gevent.spawn(gevent.sleep, 0.001)
        pool = gevent.get_hub().threadpool
        assert pool.apply(asyncio.run, (scene(),))
        greenlet.join()
        """,
    "gevent: a loop in a greenlet": """
        from gevent import monkey
        monkey.patch_all()
        import gevent
        greenlet = gevent.spawn(asyncio.run, scene())
        greenlet.join()
        assert greenlet.value
        """,
    "nest_asyncio: a cell of a notebook": """
        import nest_asyncio
        async def kernel():  # a cell is plain code, in the thread of the kernel's loop
            nest_asyncio.apply()
            assert asyncio.get_running_loop().run_until_complete(scene())
            assert asyncio.run(scene())
        asyncio.run(kernel())
        """,
    "nest_asyncio: applied before virtual time": """
        import nest_asyncio
        async def main():
            loop = asyncio.get_running_loop()
            return [await instants(), loop.run_until_complete(instants()), await instants()]
        asyncio.set_event_loop(asyncio.new_event_loop())
        nest_asyncio.apply()
        seen = [[0.0, 1.0, 2.0], [2.0, 3.0, 4.0], [4.0, 5.0, 6.0]]
        assert testing.run(main()) == seen
        assert testing.run(main()) == seen
        """,
    "nest_asyncio: applied in virtual time": """
        import nest_asyncio
        async def main():
            nest_asyncio.apply()
            loop = asyncio.get_running_loop()
            return [await instants(), loop.run_until_complete(instants()), await instants()]
        seen = [[0.0, 1.0, 2.0], [2.0, 3.0, 4.0], [4.0, 5.0, 6.0]]
        assert testing.run(main()) == seen
        assert testing.run(main()) == seen
        """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_throttle_works_on_a_loop_of_another_kind(name: str) -> None:
    pytest.importorskip(name.split(":")[0])
    if name.startswith("qasync"):
        pytest.importorskip("PySide6.QtCore")
    program = SCENE + textwrap.dedent(PROGRAMS[name])
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
