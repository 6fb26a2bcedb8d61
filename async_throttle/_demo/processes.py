"""A run in several processes: each has a throttle, or all have one quota in a store.

The processes are started, and wait until all of them are ready. Each writes a line for each request
that was answered, in JSON, as it is answered.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import asdict, dataclass
from typing import Any

from async_throttle._demo.api import Limits
from async_throttle._demo.run import Answer, Request, Run
from async_throttle.stores import Store


class Failed(Exception):
    """What went wrong, in one sentence."""


READY = b"ready\n"


@dataclass(frozen=True, slots=True)
class Shared:
    """A store that the processes of a run have in common.

    Attributes:
        where: the path of a file, or the URL of a server.
        name: of the limit, a new one for each run.
    """

    where: str
    name: str

    def store(self) -> Store:
        """The store."""
        if "://" in self.where:
            from async_throttle.stores.redis import RedisStore

            return RedisStore(self.where, prefix="async_throttle demo:", on_error="raise")
        from async_throttle.stores.sqlite import SQLiteStore

        return SQLiteStore(self.where, on_error="raise")


async def in_processes(run: Run, limits: Limits, processes: int, shared: Shared | None) -> None:
    """Make the calls of *run* in so many processes, in turn; what was answered is in `requests`.

    Raises:
        Failed: a process did.
    """
    command = [sys.executable, "-m", __name__]
    pipe = asyncio.subprocess.PIPE
    started = [
        await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        for _ in range(processes)
    ]
    try:
        for n, process in enumerate(started):
            told = {
                "url": run.url,
                "weights": run.weights[n::processes],
                "limits": asdict(limits),
                "shared": None if shared is None else asdict(shared),
            }
            assert process.stdin is not None
            process.stdin.write(json.dumps(told).encode() + b"\n")
        for process in started:
            assert process.stdout is not None
            if await process.stdout.readline() != READY:
                raise Failed("a process of the run did not start")
        run.begin()
        async with asyncio.TaskGroup() as tasks:
            for process in started:
                tasks.create_task(_follow(run, process))
        if any([await process.wait() for process in started]):
            raise Failed("a process of the run did not come to its end")
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _follow(run: Run, process: asyncio.subprocess.Process) -> None:
    """Let a process go, and note what it was answered."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{run.begun!r}\n".encode())  # all processes have this clock
    process.stdin.close()
    async for line in process.stdout:
        told = json.loads(line)
        run.note(Request(**{**told, "answer": Answer(**told["answer"])}))


# -- one of the processes ---------------------------------------------------------------------


class Reporting(Run):
    """A run that tells of each request."""

    def note(self, request: Request) -> None:
        """A request was answered: write a line."""
        print(json.dumps(asdict(request)), flush=True)


async def work(told: dict[str, Any]) -> None:
    """Make the calls that *told* says, once there is a line that says when the run began."""
    limits = Limits(**told["limits"])
    more: dict[str, Any] = {}
    if told["shared"] is not None:
        shared = Shared(**told["shared"])
        more = {"store": shared.store(), "name": shared.name}
    throttle = limits.twin.throttle(limits.said, limits.concurrency, **more)
    run = Reporting("", told["url"], told["weights"])
    print(READY.decode(), end="", flush=True)
    run.begun = float(sys.stdin.readline())
    await run.throttled(throttle)
    await throttle.drain()


def main() -> None:
    """What such a process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that has started it ends it
    asyncio.run(work(json.loads(sys.stdin.readline())))


if __name__ == "__main__":
    main()
