"""Virtual time: tests of schedules that take hours, in milliseconds, and exact.

An event loop whose clock jumps to the next timer instead of sleeping. It starts at 0.0, counts
whole nanoseconds, and moves only while everybody waits, so instants may be compared by ``==``:

>>> import asyncio
>>> from async_throttle import Throttle, testing
>>> async def main() -> list[float]:
...     loop = asyncio.get_running_loop()
...     throttle = Throttle(1, period=60)  # one call a minute
...     began = []
...     for _ in range(60):
...         async with throttle:
...             began.append(loop.time())
...     return began
>>> testing.run(main()) == [60.0 * minute for minute in range(60)]
True

A test that waits for what can never come is told so at once, and where it stands:

>>> async def stuck() -> None:
...     await asyncio.Event().wait()
>>> testing.run(stuck())
Traceback (most recent call last):
    ...
async_throttle.testing.DeadlockError: at 0.0 s nothing can happen any more: ...

While the loop runs its clock is the library's too: every `Throttle` without a *timer* of its own
follows it. The rest of the world keeps real time: `time.monotonic`, dates (freeze those with
freezegun if need be), other threads.

Under pytest-asyncio, `async_throttle.pytest_plugin` gives this loop to the tests that ask for it.
Elsewhere pass `VirtualTimeLoop` as the loop factory: to `asyncio.Runner`, as ``loop_factory`` of a
`unittest.IsolatedAsyncioTestCase`, as an option of anyio's asyncio backend.

**What is outside of the loop** has no virtual time, so the rules are these:

- A job in an executor takes no time: the clock stands still until it is done. A job that takes
  longer than `VirtualTimeLoop.patience` is left to itself: it may be waiting for the clock.
- Sockets and pipes are polled before each jump. What a peer in this process has written is
  there by then; a peer in another process has lost against any timer. Keep timers out of tests
  that talk to one.
- Without any timer the loop really blocks, for a job or for a file that it watches. Threads that
  it did not start are given `VirtualTimeLoop.patience` before it is called a deadlock.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from fractions import Fraction
from types import FrameType, ModuleType
from typing import Any, Final, TypeVar, TypeVarTuple

from async_throttle import _desk, throttle

__all__ = ["DeadlockError", "VirtualTimeLoop", "run"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SECOND: Final = 1_000_000_000
"""Nanoseconds."""

MOST_SHOWN: Final = 10
"""Tasks that a `DeadlockError` lists one by one."""

READ_THE_CLOCK: Final[tuple[ModuleType, ...]] = (throttle, _desk)
"""The modules that read the clock as their global `monotonic_ns`."""

_one_at_a_time = threading.RLock()


class DeadlockError(RuntimeError):
    """All tasks wait and nothing can wake them: no timer, no I/O, no thread at work.

    The message names the tasks and the lines they stand at. Under `run`, `asyncio.Runner` and
    pytest-asyncio they are cancelled afterwards, as after any other error.
    """


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run *main* in virtual time and return its result: `asyncio.run` with a clock that jumps.

    Args:
        main: the coroutine; it finds a fresh loop at 0.0 seconds.
        debug: asyncio's debug mode on or off; None leaves it to the environment.

    Raises:
        DeadlockError: *main* waits for something that can never happen.
        RuntimeError: called while an event loop runs in this thread, or while another
            virtual one runs in any.

    >>> run(asyncio.sleep(3600, "an hour later"))
    'an hour later'
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("testing.run() cannot be called from a running event loop")
    # Both refusals come before there is a Runner, which could not clean up after them.
    with _alone(), asyncio.Runner(debug=debug, loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of sleeping.

    `time` starts at 0.0 and moves only when no callback is ready. A timer fires at its own
    instant, rounded to whole nanoseconds, and never late: ``loop.time() == 1.0`` after ten times
    ``sleep(0.1)``. From 97 days on a float cannot tell one nanosecond from the next, and
    instants are exact to a few of its steps: 4 ns each after a year, 60 ns after ten.

    Only one such loop runs at a time in a process, since the library has only one clock.

    >>> async def nap() -> float:
    ...     await asyncio.sleep(0.1)
    ...     await asyncio.sleep(0.2)
    ...     return asyncio.get_running_loop().time()
    >>> with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
    ...     runner.run(nap())
    0.3
    """

    patience: float = 1.0
    """Real seconds granted to threads before a timer, or a `DeadlockError`, overtakes them."""

    # _now       nanoseconds since the loop was made
    # _clock     reads _now. One object for life: a Throttle takes another one for another clock
    # _jobs      futures of the executor jobs not yet done
    # _selector  asyncio's name for what _JumpingSelector replaces

    def __init__(self) -> None:
        self._now = 0
        self._clock: Final = lambda: self._now
        self._jobs: set[asyncio.Future[Any]] = set()
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now / SECOND

    def run_forever(self) -> None:
        """Run until `stop`, as the clock of the whole library."""
        with _alone(), _library_reads(self._clock):
            super().run_forever()

    def run_until_complete(self, future: Generator[Any, None, T] | Awaitable[T]) -> T:
        """Run until *future* is done and return its result.

        Raises:
            DeadlockError: it never will be. If it is a task it has been cancelled and has
                unwound by then, so that what comes next finds its locks free.
        """
        try:
            return super().run_until_complete(future)
        except DeadlockError as error:
            if asyncio.isfuture(future) and future.cancel():
                try:
                    super().run_until_complete(future)
                except asyncio.CancelledError:
                    pass
                except Exception as late:
                    error.add_note(f"and when cancelled: {type(late).__name__}: {late}")
            raise

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run *func* in a thread or process; until it is done the clock stands still."""
        future = super().run_in_executor(executor, func, *args)
        self._jobs.add(future)
        future.add_done_callback(self._jobs.discard)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait until the executor's threads have ended.

        *timeout* is ignored: threads live in real time, of which this loop knows nothing.
        """
        # asyncio does it in a thread of its own, which therefore counts as a job.
        job = self.create_future()
        self._jobs.add(job)
        try:
            await super().shutdown_default_executor()
        finally:
            self._jobs.discard(job)

    def _blocks(self, timeout: float | None, watched: int) -> float | None:
        """The real seconds that `select` may take, None for ever.

        Args:
            timeout: what asyncio asked for: seconds to the next timer, None if there is none.
            watched: number of files, other than the loop's own.
        """
        if timeout == 0:
            return 0
        if self._jobs:
            return None if timeout is None else self.patience
        if timeout is None and watched:
            return None
        if timeout is None and threading.active_count() > 1:
            return self.patience
        return 0

    def _jump(self, timeout: float | None) -> None:
        """Move the clock to the timer that is due in *timeout* seconds."""
        if timeout is None:
            raise DeadlockError(_deadlock(self))
        when = self.time() + timeout
        grain = math.ulp(when)
        # A clock of more than 97 days is a float coarser than a nanosecond. Then go past every
        # instant that may have been rounded to *when*: whoever computed it in nanoseconds and
        # woke to find it not quite reached would set the same timer again, for ever.
        slack = Fraction(1, 2 * SECOND) if grain * SECOND < 1 else 3 * Fraction(grain)
        self._now = max(self._now + 1, math.floor((Fraction(when) + slack) * SECOND))
        # asyncio adds this to the clock before it compares. If it vanished in rounding, a timer
        # due exactly now would never fire; were it a nanosecond, one due in that would fire now.
        self._clock_resolution = max(grain, 0.5 / SECOND)


class _JumpingSelector(selectors.DefaultSelector):
    """Polls real files. Where asyncio would have it sleep, the loop's clock jumps instead."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """The files that are ready, without sleeping unless something outside is awaited."""
        own = 1  # the pipe by which other threads wake the loop
        ready = super().select(self._loop._blocks(timeout, watched=len(self.get_map()) - own))
        if not ready and timeout != 0:
            self._loop._jump(timeout)
        return ready


@contextmanager
def _alone() -> Iterator[None]:
    """Keep the virtual loops of other threads from running meanwhile."""
    # Two of them taking turns at the library's clock would each restore the other's.
    if not _one_at_a_time.acquire(blocking=False):
        raise RuntimeError("another VirtualTimeLoop is running in another thread of this process")
    try:
        yield
    finally:
        _one_at_a_time.release()


@contextmanager
def _library_reads(clock: Callable[[], int]) -> Iterator[None]:
    """Make *clock* the one that the library reads; the previous one returns in any case."""
    previous = [module.__dict__["monotonic_ns"] for module in READ_THE_CLOCK]
    try:
        for module in READ_THE_CLOCK:
            # freezegun remembers what a module holds until the set of its names changes, and
            # would put a frozen clock over this one, or leave the true one unfrozen later.
            module.__dict__.update(monotonic_ns=clock, _virtual_time=True)
        yield
    finally:
        for module, clock_before in zip(READ_THE_CLOCK, previous, strict=True):
            module.__dict__.update(monotonic_ns=clock_before)
            module.__dict__.pop("_virtual_time", None)


def _deadlock(loop: asyncio.AbstractEventLoop) -> str:
    """What a `DeadlockError` says: the tasks that wait, and where, innermost line last."""
    # Shorter names first: Task-9 comes before Task-10.
    tasks = sorted(
        asyncio.all_tasks(loop), key=lambda task: (len(task.get_name()), task.get_name())
    )
    lines = [
        f"at {loop.time()} s nothing can happen any more: no timer, no I/O, no thread at work. "
        f"Tasks that wait: {len(tasks)}"
    ]
    for task in tasks[:MOST_SHOWN]:
        lines.append(f"  {task.get_name()}")
        for frame in _frames(task.get_coro()):
            code = frame.f_code
            lines.append(f"    {code.co_qualname}, {code.co_filename}:{frame.f_lineno}")
    if len(tasks) > MOST_SHOWN:
        lines.append(f"  and {len(tasks) - MOST_SHOWN} more")
    return "\n".join(lines)


def _frames(awaited: object) -> Iterator[FrameType]:
    """The frames of a suspended coroutine, outermost first."""
    # `Task.get_stack` knows only the first of them.
    kinds = ("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await")
    while awaited is not None:
        for frame, inner in kinds:
            if hasattr(awaited, frame):
                yield getattr(awaited, frame)
                awaited = getattr(awaited, inner)
                break
        else:
            return
