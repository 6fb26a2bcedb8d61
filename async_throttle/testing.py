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
follows it, in the code that this loop runs and in the jobs that it gave to an executor. The rest
of the world keeps real time: `time.monotonic`, dates (freeze those with freezegun if need be),
other threads, and other event loops wherever they run. Several virtual loops may run at once, in
a thread each, and each has its own time.

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
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Executor
from fractions import Fraction
from functools import partial
from types import FrameType, ModuleType
from typing import Any, Final, Self, TypeVar, TypeVarTuple, cast

from async_throttle._shell import clock, fast

__all__ = ["DeadlockError", "VirtualTimeLoop", "run"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SECOND: Final = 1_000_000_000
"""Nanoseconds."""

MOST_SHOWN: Final = 10
"""Tasks that a `DeadlockError` lists one by one."""

READ_THE_CLOCK: Final[tuple[ModuleType, ...]] = (clock, fast)
"""The modules that read the clock as their global `monotonic_ns`."""


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
        RuntimeError: called while an event loop runs in this thread.

    >>> run(asyncio.sleep(3600, "an hour later"))
    'an hour later'
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("testing.run() cannot be called from a running event loop")
    # Before there is a Runner, which could not clean up after the refusal.
    with asyncio.Runner(debug=debug, loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of sleeping.

    `time` starts at 0.0 and moves only when no callback is ready. A timer fires at its own
    instant, rounded to whole nanoseconds, and never late: ``loop.time() == 1.0`` after ten times
    ``sleep(0.1)``. From 97 days on a float cannot tell one nanosecond from the next, and
    instants are exact to a few of its steps: 4 ns each after a year, 60 ns after ten.

    While it runs, the library's throttles follow it, in this thread and in its executor's jobs.

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

    # _now        nanoseconds since the loop was made
    # _clock      what the library reads while this loop runs. One object for life: a Throttle
    #             takes another one for another clock
    # _ident      the thread that runs the loop; None while it does not run
    # _jobs       futures of the executor jobs not yet done
    # _selector   asyncio's name for what _JumpingSelector replaces
    # _thread_id  asyncio's name for _ident

    def __init__(self) -> None:
        self._now = 0
        self._clock: Final = partial(_reading)  # an object of its own
        self._ident: int | None = None
        self._jobs: set[asyncio.Future[Any]] = set()
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now / SECOND

    @property
    def _thread_id(self) -> int | None:
        """What asyncio sets when the loop begins to run, and again when it ends.

        So does nest_asyncio, which replaces both methods that run a loop, and which may run a
        loop that is running: then the value is set to what it was.
        """
        return self._ident

    @_thread_id.setter
    def _thread_id(self, ident: int | None) -> None:
        before, self._ident = self._ident, ident
        if before is None and ident is not None:
            _library.follow(self._clock)
        elif before is not None and ident is None:
            _library.leave(self._clock)

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
        job = cast("Callable[[*Ts], T]", _Job(self, func))
        future = super().run_in_executor(executor, job, *args)
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


class _Job(partial[T]):
    """A function that finds its loop's clock in the thread of an executor.

    In another process it is the function alone.
    """

    _loop: VirtualTimeLoop

    def __new__(cls, loop: VirtualTimeLoop, func: Callable[..., T]) -> Self:
        job = super().__new__(cls, func)
        job._loop = loop
        return job

    def __call__(self, /, *args: Any, **kwargs: Any) -> T:
        before, _here.works_for = _here.works_for, self._loop
        try:
            return super().__call__(*args, **kwargs)
        finally:
            _here.works_for = before

    def __reduce__(self) -> tuple[Any, ...]:
        return partial, (self.func,), (self.func, self.args, self.keywords, None)


class _Thread(threading.local):
    """What is known of the thread that looks."""

    works_for: VirtualTimeLoop | None = None  # whose job it does


class _Library:
    """The clock that the library reads, which all threads share.

    Invariant: while virtual loops run it is the clock of one of them, else the previous one.
    The clocks of all loops read the same, for they ask who looks; but they are different objects.
    """

    def __init__(self) -> None:
        self.previous: Callable[[], int] = time.monotonic_ns
        self._all_previous: list[Callable[[], int]] = []  # of each module
        self._running: list[Callable[[], int]] = []  # of each loop; the last one is installed
        self._lock = threading.Lock()

    def follow(self, clock: Callable[[], int]) -> None:
        """The loop of *clock* begins to run."""
        with self._lock:
            if not self._running:
                self._all_previous = [module.__dict__["monotonic_ns"] for module in READ_THE_CLOCK]
                self.previous = self._all_previous[0]
            self._running.append(clock)
            for module in READ_THE_CLOCK:
                # freezegun remembers what a module holds until the set of its names changes, and
                # would put a frozen clock over this one, or leave the true one unfrozen later.
                module.__dict__.update(monotonic_ns=clock, _virtual_time=True)

    def leave(self, clock: Callable[[], int]) -> None:
        """The loop of *clock* has ended or pauses."""
        with self._lock:
            self._running.remove(clock)
            if self._running:
                for module in READ_THE_CLOCK:
                    module.__dict__.update(monotonic_ns=self._running[-1])
                return
            for module, previous in zip(READ_THE_CLOCK, self._all_previous, strict=True):
                module.__dict__.update(monotonic_ns=previous)
                module.__dict__.pop("_virtual_time", None)


_here = _Thread()
_library = _Library()


def _reading() -> int:
    """What the clock of the calling code shows: its virtual loop's, or the previous one."""
    loop = asyncio._get_running_loop() or _here.works_for
    return loop._now if isinstance(loop, VirtualTimeLoop) else _library.previous()


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
